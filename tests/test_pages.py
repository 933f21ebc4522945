"""README.md and the pages of docs/ are true: their Python runs and gives what they show, their commands and links exist."""

import argparse
import ast
import contextlib
import dataclasses
import doctest
import importlib.util
import io
import math
import pkgutil
import re
import sys
import tokenize
from functools import cache

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf.cli import main as psalm
from tests.conftest import SAMPLES
from tests.pages import PAGES, ROOT, anchors, blocks, command_in, mentioned_commands, prose, read, shell_lines

OWN_TEST = {"docs/own_data.md": "tests/data/own/test_config.py"}  # files are taken from the page's own text there
RUNNING = [page for page in PAGES if page not in OWN_TEST and any(block.not_run is None for block in blocks(page, "python"))]
SHOWN = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of a page: a link to examples/, and the small drawn files that blocks name."""
    from psalm_hf.data.shapes.moving import make_clip

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("kitchen.jpg", "street.jpg"):
        Image.open(ROOT / "examples/pictures/shapes.png").convert("RGB").save(tmp_path / name, quality=95)
    clip = make_clip("test", 0)
    (tmp_path / "clip").mkdir()
    for number in range(4):
        Image.fromarray(np.asarray(clip.frame(number).image)).save(tmp_path / f"clip/{number:05d}.png")
    first = np.zeros((128, 128), dtype=np.uint8)
    for number, mask in enumerate(clip.frame(0).masks, 1):
        first[np.asarray(mask)] = number
    Image.fromarray(first).save(tmp_path / "first.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield tmp_path
    datasets.enable_progress_bars()


@pytest.mark.parametrize("page", RUNNING)
def test_the_python_blocks_of_a_page_run_in_turn_and_give_what_they_show(page, folder):
    names, following = {}, {block.line: after for block, after in zip(blocks(page), [*blocks(page)[1:], None], strict=True)}
    for block in blocks(page, "python"):
        if block.not_run is None:
            printed = run(block, names)
            shown = following[block.line]
            if printed:
                assert shown is not None and shown.language == "text", f"{page}:{block.line} prints, and no block shows what:\n{printed}"
                assert doctest.OutputChecker().check_output(shown.text, printed, SHOWN), f"{page}:{block.line} prints\n{printed}"


def run(block, names):
    """Runs a block, statement by statement, and returns what its calls of `print` give without a comment behind them.

    The comment behind an expression, if it begins with a literal, shows its value; the comment behind a `print` shows what is printed.
    What libraries print by themselves, such as the log of a training, is not compared.
    """
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(block.text).readline)
        if token.type == tokenize.COMMENT
    }
    printed = io.StringIO()
    for statement in ast.parse(block.text).body:
        where, comment = f"{block.page}:{block.line + statement.lineno - 1}", comments.get(statement.end_lineno, "")
        if not isinstance(statement, ast.Expr):
            with contextlib.redirect_stdout(printed if "print(" in ast.get_source_segment(block.text, statement) else io.StringIO()):
                exec(compile(ast.Module([statement], []), where, "exec"), names)
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            value = eval(compile(ast.Expression(statement.value), where, "eval"), names)
        is_print = re.match(r"print\(", ast.get_source_segment(block.text, statement))
        if is_print and comment:
            assert comment.startswith(output.getvalue().strip()), f"{where} prints {output.getvalue()!r}, and shows {comment!r}"
        elif shown := literal_in(comment):
            assert agrees(value, shown[0]), f"{where} gives {value!r}, and shows {shown[0]!r}"
        elif is_print:
            printed.write(output.getvalue())
    return printed.getvalue()


def literal_in(comment):
    """(value,) of the longest beginning of a comment that is a Python literal, () where there is none."""
    for end in [len(comment), *sorted((match.start() for match in re.finditer("[,;:]", comment)), reverse=True)]:
        with contextlib.suppress(ValueError, SyntaxError):
            return (ast.literal_eval(comment[:end]),)
    return ()


def agrees(value, shown):
    """True if a value is the shown one; floats by the digits that are shown, arrays as lists, "..." stands for anything."""
    if shown is ...:
        return True
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(shown, float):
        return math.isclose(value, shown, rel_tol=0, abs_tol=1.01 * 10.0 ** -len(repr(shown).partition(".")[2]))
    if isinstance(shown, dict):
        return list(value) == list(shown) and all(agrees(value[key], shown[key]) for key in shown)
    if isinstance(shown, (list, tuple)):
        return isinstance(value, type(shown)) and len(value) == len(shown) and all(map(agrees, value, shown))
    return type(value) is type(shown) and value == shown


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 + 1  # 3", "gives 2, and shows 3"),
        ("(0.123, 'a')  # (0.15, 'a')", "shows"),
        ("[1, 2]  # [1], the rest is left out", "shows"),
        ("print(1)  # 2", "shows '2'"),
    ],
)
def test_what_a_comment_shows_is_compared(code, message):
    block = dataclasses.replace(blocks("README.md")[0], text=code + "\n")
    with pytest.raises(AssertionError, match=message):
        run(block, {})
    assert run(dataclasses.replace(block, text="print(2)\n0.126  # 0.13, rounded\n3  # three\n"), {}) == "2\n"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_blocks_that_do_not_run_are_python_and_load_with_options_that_exist(page, folder):
    for block in blocks(page, "python"):
        tree = ast.parse(block.text)  # a SyntaxError names what is wrong
        if block.not_run is None:
            continue
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "load":
                code = compile(ast.Expression(call), f"{page}:{block.line + call.lineno - 1}", "eval")
                # Options and splits are looked at before files: what is missed here is the folder alone.
                with pytest.raises((ValueError, OSError), match="does not exist|no such|there (is|are) no|expected") as caught:
                    eval(code, {"load": __import__("psalm_hf.data", fromlist=["load"]).load})
                assert not re.search(r"\b(option|split) ", str(caught.value)), f"{page}:{block.line + call.lineno - 1}: {caught.value}"


# Folder that a page names -> its sample. There is none of ReasonSeg, and that of POPE has other files than the page.
SAMPLE_OF = {
    "ADEChallengeData2016": "ADEChallengeData2016", "DAVIS": "DAVIS", "LLaVA-Pretrain": "llava_pretrain", "VOCdevkit": "VOCdevkit",
    "cc3m-shards": "llava_pretrain_cc3m", "cityscapes": "cityscapes", "coco": "coco", "data": ".", "ego_exo4d": "egoexo4d", "llava": ".",
    "mmbench": "mmbench", "pascal_ctx_d2": "pascal_ctx_d2", "pascal_voc_d2": "pascal_voc_d2", "refer_seg": "refer_seg",
    "scienceqa": "scienceqa", "vqav2": "vqav2",
}  # fmt: skip
SAMPLED = [page for page in PAGES if page.startswith("docs/datasets/") and blocks(page, "python")]


@pytest.mark.samples
@pytest.mark.parametrize("page", [page for page in SAMPLED if page not in ("docs/datasets/pope.md", "docs/datasets/reasonseg.md")])
def test_blocks_of_a_dataset_run_on_its_sample(page, folder):
    for name, sample in SAMPLE_OF.items():
        (folder / name).symlink_to(SAMPLES / sample)
    for block in blocks(page, "python"):
        names = {}
        for statement in ast.parse(block.text.replace("num_proc=8", "num_proc=1")).body:
            where = f"{page}:{block.line + statement.lineno - 1}"
            try:
                exec(compile(ast.Module([statement], []), where, "exec"), names)
            except FileNotFoundError:  # a line that loads another split or file, which no later line reads
                assert isinstance(statement, ast.Expr), where


class Parsed(BaseException):
    """A command line was understood; the command itself is not run."""


@pytest.fixture
def parse(monkeypatch):
    """Function that parses a command line with the command's own parser, and runs nothing.

    With `whole=False` only the names of the options are looked at.
    """
    original, state = argparse.ArgumentParser.parse_known_args, {}

    def parse_known_args(self, args=None, namespace=None):
        known = options_of(self)
        if not state["whole"]:
            raise Parsed(self.prog, known, [word.partition("=")[0] for word in args if re.match(r"--[a-z]", word)])
        others = original(self, args, namespace)[1]
        raise Parsed(self.prog, known, [word.partition("=")[0] for word in others if word.startswith("--")])

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)

    def parse(program, arguments, whole):
        state["whole"] = whole
        if not whole:
            from psalm_hf.cli.command import CommandParser

            monkeypatch.setattr(CommandParser, "parse_known_args", parse_known_args)
        with contextlib.redirect_stderr(io.StringIO()) as errors, pytest.raises(Parsed) as parsed:
            try:
                status = script(program).main(arguments) if program.endswith(".py") else psalm.main([program, *arguments])
            except SystemExit as exit:
                status = exit.code
            pytest.fail(f"exit status {status}: {errors.getvalue()}")
        prog, known, options = parsed.value.args
        return prog, set(options) - known

    return parse


def options_of(parser):
    """Names of the options of a parser, those of its subcommands included."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return set(parser._option_string_actions).union(*(options_of(sub) for choices in below for sub in choices.values()))


@cache
def script(path):
    specification = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@cache
def training_fields():
    """Names of all fields of training configs, which a command line may set."""
    from psalm_hf.training import stages

    classes = [value for value in vars(stages).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    return {field.name for cls in classes for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("page", [page for page in PAGES if shell_lines(page) or mentioned_commands(page)])
def test_commands_are_understood_by_their_parsers(page, parse):
    for lines, whole in ((shell_lines(page), True), (mentioned_commands(page), False)):
        for line in lines:
            program, arguments = command_in(line)
            if arguments in (["--help"], []):
                assert program.endswith(".py") and (ROOT / program).is_file() or program in psalm.VERBS
                continue
            prog, others = parse(program, [word for word in arguments if word != "..."], whole)
            fields = {word[2:].replace("-", "_") for word in others}
            is_config = prog in ("psalm train", "psalm estimate-memory")
            assert fields <= (training_fields() if is_config else set()), f"{page}: {line}: unknown {sorted(others)}"


def test_configs_that_pages_name_ship():
    from psalm_hf.training.configs import find_config

    for page in PAGES:
        for line in [*shell_lines(page), *mentioned_commands(page)]:
            _, arguments = command_in(line)
            if "--config" in arguments and (name := arguments[arguments.index("--config") + 1]) != "...":
                assert find_config(name), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}: there is no such file"
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT))), f"{page}: {link}: there is no such heading"


def test_every_page_is_linked_from_the_list_of_pages():
    for folder, index in (("docs", "docs/README.md"), ("docs/datasets", "docs/datasets/README.md")):
        for path in (ROOT / folder).glob("*.md"):
            assert path.name == "README.md" or f"]({path.name}" in read(index), f"{index} does not name {path.name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/glossary.md"])
def test_pages_use_the_words_of_the_glossary(page):
    text = re.sub(r'`[^`]*`|\]\([^)]*\)|"[^"\n]*"', "", prose(page))
    assert not re.findall(r".*\b[Pp]ictures?\b.*|.*(?<!ground )\btruths?\b.*", text), "see docs/glossary.md: image, target or ground truth"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_names_that_a_page_mentions_exist(page):
    text = read(page)
    paths = re.findall(r"(?<![\w/.-])(?:psalm_hf|examples|data_scripts|tests|docs|constraints)/[\w/.-]*\w", text)
    assert not sorted(path for path in set(paths) if not ((ROOT / path).exists() or path == "docs/datasets/NAME.md"))
    for name in set(re.findall(r"`(psalm_hf(?:\.\w+)+)`", text)):
        if name != "psalm_hf.configs":  # of an installation; in a clone it is examples/configs
            assert pkgutil.resolve_name(name) is not None
