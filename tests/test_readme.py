"""README.md is short and begins with the two commands of a new user; what pages in docs/ list is what the code has."""

import dataclasses
import inspect
import re

from psalm_hf import PsalmConfig, PsalmForSegmentation, PsalmSegmentationOutput
from psalm_hf.model.prompts import HUMAN_TURNS, SYSTEM_MESSAGE
from tests.pages import ROOT, blocks, read


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


def test_the_first_two_shell_blocks_install_and_then_run_the_job_and_the_tests():
    job, tests = (block.text for block in blocks("README.md", "bash"))
    assert job.startswith("pip install") and job.endswith("&& psalm segment\n")
    assert tests.startswith("pip install") and "[test]" in tests and "pytest" in tests


def test_the_prompts_page_quotes_every_human_turn():
    page = read("docs/prompts.md")
    for turns in HUMAN_TURNS.values():
        for turn in turns.values():
            assert f"`{turn}`".replace("\n", "\\n") in page
    assert SYSTEM_MESSAGE in " ".join(page.replace("\n> ", " ").split())


def test_the_model_page_names_every_keyword_output_and_option():
    page = read("docs/model.md")
    named = set(re.findall(r"`(\w+)`", page))
    keywords = set(inspect.signature(PsalmForSegmentation.forward).parameters) - {"self", "row_info", "kwargs"}
    options = {name for name in PsalmConfig.__annotations__ if not name.endswith("_token_id")}
    options -= {"initializer_range", "tie_word_embeddings"}  # of every transformers configuration
    assert keywords <= named
    assert {field.name for field in dataclasses.fields(PsalmSegmentationOutput)} <= named
    assert options <= named


def tree_paths():
    """Paths of the tree in docs/architecture.md, from its indentation."""
    tree = blocks("docs/architecture.md")[0].text
    folders, paths = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0]]
        paths.append("".join(folders))
    return paths


def test_every_path_on_the_architecture_page_exists():
    page = read("docs/architecture.md")
    named = {*tree_paths(), *re.findall(r"\b((?:psalm_hf|examples|tests|docs|data_scripts)/[\w./-]*)", page)} - {"docs/datasets/NAME.md"}
    assert "psalm_hf/model/modeling_psalm.py" in named and "psalm_hf/evaluation/evaluators" in named
    assert not sorted(path for path in named if not (ROOT / path.rstrip(".")).exists())


def test_the_tree_has_every_folder_of_the_package():
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("psalm_hf/**/__init__.py")}
    assert folders <= set(tree_paths())


def test_a_word_of_the_glossary_is_explained_once():
    words = re.findall(r"^\| ([^|]+?) \|", read("docs/glossary.md"), flags=re.M)
    words = [word for word in words if word not in ("word", "---")]
    assert len(words) == len(set(words)) > 50
