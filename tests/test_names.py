"""Names and words: one name means one thing in the whole package, names use the words of the glossary, docstrings begin with a thing."""

import ast
import graphlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

from psalm_hf import structures
from psalm_hf.model import prompts, regions

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "psalm_hf"
FILES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]

# Modules of these folders are programs with the same steps, and `psalm prepare` finds the constants of a program by their names.
PROGRAMS = ("cli/", "data/prepare/")
STEPS = {"main", "parse_arguments", "add_arguments", "prepare", "verify", "evaluate", "SPLITS", "KINDS", "RULES", "DATASETS", "FORMATS"}
# The model folder imports nothing of the package, so it repeats these (the single kinds as codes); a test below ties them.
REPEATED_BY_THE_MODEL = {"TASKS", "CONDITIONS", "REGION_KINDS", *map(str.upper, structures.CONDITIONS)}
IDIOMS = {"logger"}
# Names that two things still share.
KNOWN_TWINS = set()

# First words of docstrings that name neither a thing nor an action.
BAD_FIRST_WORDS = set(
    "what of by where whether how that those as in with for from to on at into which who whose when why if and or but because "
    "it its they them this these there".split()
)
# Word in names -> the word of the glossary.
SYNONYMS = {
    **dict.fromkeys(("picture", "pictures", "photo", "photos"), "image"),
    **dict.fromkeys(("truth", "truths"), "target"),
    **dict.fromkeys(("measure", "measures"), "evaluator or metric"),
    **dict.fromkeys(("util", "utils", "helper", "helpers"), "what it holds"),
}
# Files whose docstrings, or whose names, do not yet keep to this.
UNCLEAN_DOCSTRINGS = set()
UNCLEAN_NAMES = set()


def tree(file):
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def assigned(node):
    """Names that an assignment gives."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def defined(body):
    """Public names of a module or class: classes, functions and constants."""
    for node in body:
        names = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else assigned(node)
        yield from (name for name in names if not name.startswith("_"))


def documented(module, file):
    """(name, docstring) of a module and of its public classes, functions and methods."""
    yield file, ast.get_docstring(module)
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                methods = (child for child in node.body if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"))
                yield from ((f"{node.name}.{method.name}", ast.get_docstring(method)) for method in methods)


def test_no_two_public_things_of_the_package_share_a_name():
    files = defaultdict(set)
    for file in FILES:
        for name in defined(tree(file).body):
            if not (name in STEPS and file.startswith(PROGRAMS)):
                files[name].add(file)
    twins = {name: sorted(found) for name, found in files.items() if len(found) > 1}
    for name in REPEATED_BY_THE_MODEL & twins.keys():
        assert len([file for file in twins[name] if not file.startswith("model/")]) == 1
    unknown = {name: found for name, found in twins.items() if name not in KNOWN_TWINS | REPEATED_BY_THE_MODEL | IDIOMS}
    assert not unknown, f"rename all but one, or import it: {unknown}"


def test_the_model_names_kinds_and_tasks_as_everybody_does():
    assert prompts.ROW_KINDS == structures.CONDITIONS
    assert structures.PROMPT_TOKENS[:-1] == (prompts.PAD_TOKEN, prompts.SEG_TOKEN, *prompts.PLACEHOLDERS)
    assert (structures.CATEGORY, structures.SENTENCE, structures.REGION, structures.CONVERSATION) == structures.CONDITIONS
    assert prompts.CATEGORY_TASKS == structures.TASKS
    assert set(regions.REGION_KINDS) == {*structures.REGION_KINDS, "points"}  # the processor takes several points too


@pytest.mark.parametrize("file", FILES)
def test_docstrings_begin_with_a_thing_or_an_action(file):
    bad = []
    for name, docstring in documented(tree(file), file):
        first = re.match(r"[A-Za-z]+", (docstring or "").strip())
        if first and first[0].lower() in BAD_FIRST_WORDS:
            bad.append(f"{name}: {docstring.strip()[:60]!r}")
    assert file in UNCLEAN_DOCSTRINGS or not bad, bad


@pytest.mark.parametrize("file", FILES)
def test_public_names_use_the_words_of_the_glossary(file):
    module = tree(file)
    names = {*defined(module.body), *Path(file).with_suffix("").parts}
    for node in module.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            names |= set(defined(node.body))
    bad = {}
    for name in names:
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
        if found := words & SYNONYMS.keys():
            bad[name] = ", ".join(f"say {SYNONYMS[word]}, not {word}" for word in found)
    assert file in UNCLEAN_NAMES or not bad, bad


def test_files_and_functions_are_short():
    long = [file for file in FILES if len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) >= 700]
    assert long == ["model/modeling_psalm.py"]  # one model, one file: the custom of transformers
    functions = ((file, node) for file in FILES for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef))
    assert not [f"{file}: {node.name}" for file, node in functions if node.end_lineno - node.lineno >= 79]


def test_no_two_modules_import_each_other():
    """Directly or through others, at the top of the file; imports inside of functions are how a circle is avoided."""
    modules = {"psalm_hf." + file.removesuffix(".py").replace("/", "."): file for file in FILES if not file.endswith("__init__.py")}
    imports = defaultdict(set)
    for module, file in modules.items():
        for node in tree(file).body:
            if isinstance(node, ast.ImportFrom):
                parents = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*parents, *filter(None, [node.module])])
                imports[module] |= {name for name in (base, *(f"{base}.{alias.name}" for alias in node.names)) if name in modules}
    order = graphlib.TopologicalSorter(imports)
    order.prepare()  # raises CycleError, which names the circle
