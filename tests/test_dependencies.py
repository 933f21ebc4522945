"""What setup.cfg declares, what is installed, and the two lists of versions that are tested together."""

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def declared():
    """Name -> requirement, extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in lists for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {requirement.name: requirement for requirement in map(Requirement, lines)}
    del found["psalm_hf"]  # an extra that contains others
    return found


DECLARED = declared()


def listed(name):
    """Package -> version in constraints/<name>.txt."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", DECLARED)
def test_a_dependency_has_a_lower_and_an_upper_bound(name):
    assert sorted(bound.operator for bound in DECLARED[name].specifier) == ["<", ">="]


@pytest.mark.parametrize("name", DECLARED)
def test_the_installed_version_is_one_that_setup_cfg_allows(name):
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} belongs to an extra that is not installed")
    assert DECLARED[name].specifier.contains(installed), f"{name} {installed} is outside {DECLARED[name].specifier}"


@pytest.mark.parametrize("name", ["lowest", "newest"])
def test_the_tested_versions_lie_within_the_bounds(name):
    versions = listed(name)
    assert DECLARED.keys() <= versions.keys()
    assert all(requirement.specifier.contains(versions[package]) for package, requirement in DECLARED.items())
    dependencies = ("filelock", "jinja2", "pyarrow", "tokenizers", "torchvision")  # of what is declared: the lists are complete
    assert all(package in versions for package in dependencies)


def test_the_lowest_versions_are_the_lower_bounds():
    lowest = listed("lowest")
    for name, requirement in DECLARED.items():
        [bound] = [part.version for part in requirement.specifier if part.operator == ">="]
        assert lowest[name].startswith(bound)
