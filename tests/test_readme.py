"""The README is true: its Python runs, its tree is the tree; and what the pages in docs/ list is what the code has."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmSegmentationOutput
from psalm_hf.model.prompts import HUMAN_TURNS, SYSTEM_MESSAGE
from psalm_hf.training.configs import find_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Contents of the fenced blocks of a language, in order; all fences are read in turn, so that none is taken for its opposite."""
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M) if name == language]


def tree_paths():
    """Paths of the annotated tree, from its indentation."""
    (tree,) = blocks("")
    folders, paths = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        paths.append("".join(folders))
    return paths


def test_the_python_blocks_run_one_after_the_other(tmp_path):
    code = "\n".join(blocks("python"))
    assert "post_process_panoptic_segmentation" in code
    script = tmp_path / "readme.py"
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_entry_of_the_tree_exists():
    missing = [path for path in tree_paths() if not (ROOT / path).exists()]
    assert not missing


def test_the_tree_names_every_module_of_the_package_and_every_script():
    files = [*ROOT.glob("psalm_hf/**/*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("data_scripts/*.py")]
    names = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert names <= set(tree_paths())


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_links_between_the_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert not [link for link in links if not (page.parent / link.split("#")[0]).exists()]


def test_the_first_two_shell_blocks_install_and_then_run_the_job_and_the_tests():
    job, tests = blocks("bash")
    assert job.startswith("pip install") and job.endswith("&& psalm segment\n")
    assert tests.startswith("pip install") and "[test]" in tests and "pytest" in tests


@pytest.mark.parametrize("command", [line for block in blocks("console") for line in block.splitlines()])
def test_a_command_names_a_verb_or_script_and_options_that_exist(command):
    name, *others = command.split()
    if name == "psalm":
        verb, *others = others
    else:
        script = next(word for word in others if word.endswith(".py"))
        others = others[others.index(script) + 1 :]
        called = re.search(r"from psalm_hf\.cli\.(\w+) import main", (ROOT / script).read_text(encoding="utf-8"))
        verb = called and called[1].replace("_", "-")
    program = ["-m", "psalm_hf.cli.main", verb] if verb else [str(ROOT / script)]
    usage = subprocess.run([sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {word for word in others if word.startswith("--")} <= set(re.findall(r"--[a-z0-9-]+", usage))
    if "--config" in others:
        find_config(others[others.index("--config") + 1])


def test_the_prompts_page_quotes_every_human_turn():
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    for turns in HUMAN_TURNS.values():
        for turn in turns.values():
            assert f"`{turn}`".replace("\n", "\\n") in page
    assert SYSTEM_MESSAGE in " ".join(page.replace("\n> ", " ").split())


def test_the_model_page_names_every_keyword_output_and_option():
    page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    keywords = set(inspect.signature(PsalmForSegmentation.forward).parameters) - {"self", "row_info", "kwargs"}
    options = {name for name in PsalmConfig.__annotations__ if not name.endswith("_token_id")}
    options -= {"initializer_range", "tie_word_embeddings"}  # of every transformers configuration
    assert keywords <= named
    assert {field.name for field in dataclasses.fields(PsalmSegmentationOutput)} <= named
    assert options <= named
