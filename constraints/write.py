"""Writes the two lists of versions that are tested together: `lowest.txt` and `newest.txt` beside this file.

    python constraints/write.py [lowest] [newest]

`lowest.txt` has every dependency of setup.cfg, extras included, at its lower bound; `newest.txt` has what pip resolves within the bounds
today. What these depend on in turn is the newest that fits. (gradio 6 holds pillow below 13; without the extra `app` pip takes 13.)
Nothing is installed. Run it after a change of the bounds in setup.cfg, then `.ci/lowest` and `.ci/run`.
"""

import argparse
import configparser
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def declared() -> list[Requirement]:
    """Every requirement of setup.cfg, extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = [Requirement(line) for text in lists for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [requirement for requirement in found if requirement.name != "psalm_hf"]


def lower_bound(requirement: Requirement) -> str:
    [bound] = [part.version for part in requirement.specifier if part.operator == ">="]
    return bound


def resolve(pins: list[str]) -> dict[str, str]:
    """Name -> version of all that an installation with all extras would bring."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(pins))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report]
        subprocess.run([*command, "--constraint", constraints, f"{ROOT}[test,browser,scale]"], check=True)
        found = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="*", help="lowest, newest; default both")
    for name in parser.parse_args().lists or ["lowest", "newest"]:
        pins = [f"{item.name}=={lower_bound(item)}" for item in declared()] if name == "lowest" else []
        versions = resolve(pins)
        versions.pop("psalm_hf", None)
        versions.pop("psalm-hf", None)
        target = Path(__file__).parent / f"{name}.txt"
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        lines = [f"{package}=={version}" for package, version in sorted(versions.items())]
        target.write_text("\n".join([f"# Python {python}; written by constraints/write.py", *lines, ""]), encoding="utf-8")
        print(f"{target}: {len(lines)} packages")


if __name__ == "__main__":
    main()
