"""`psalm VERB`: which module a verb is, and what all verbs have in common. That --help needs no torch: tests/test_imports.py."""

from types import SimpleNamespace

import pytest
import torch

from psalm_hf import devices
from psalm_hf.cli.command import CommandParser, suggest_bfloat16, verb
from psalm_hf.cli.main import VERBS, main
from psalm_hf.spelling import did_you_mean


def refused(arguments, capsys):
    """The one line that comes with status 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith("error: ") and not printed.out
    return line.removeprefix("error: ")


def test_the_verbs_are_listed_with_a_line_each(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(any(line.split() == [verb, *VERBS[verb].split()] for line in lines) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_says_how_it_is_called(verb, capsys):
    arguments = ["--help"]
    try:
        assert main([verb, *arguments]) == 0
    except SystemExit as stopped:  # argparse's way to answer
        assert stopped.code == 0
    assert f"psalm {verb} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "psalm has no verb 'segmnt', expected one of segment, "),
        (["segmnt"], "did you mean segment?"),
        (["estimate_memory"], "did you mean estimate-memory?"),
        (["segment", "--taks", "semantic"], "psalm segment has no option --taks; did you mean --task?"),
        (["segment", "--zzz"], "psalm segment has no option --zzz; see --help"),
        (["segment", "--task", "semantc"], "did you mean semantic?"),
        (["segment", "--categories", "cup", "wall", "--stuff", "wal"], "--categories cup, wall; did you mean wall?"),
        (["segment", "--checkpoint", "psalm-tniy"], "psalm-tniy: there is no such folder; did you mean psalm-tiny?"),
        (["segment", "--device", "cuda:99"], "--device cuda:99: torch finds no such device on this machine, only cpu"),
        (["video", "clip", "--box", "1", "2", "3", "4", "5", "--polcy", "released"], "did you mean --policy?"),
        (["chat", "--dtype", "float23"], "did you mean float32?"),
        (["convert", "original"], "the following arguments are required: output"),
        (["verify", "coco_panoptc", "coco"], "did you mean coco_panoptic?"),
        (["verify", "shapes", "--split", "tst"], "expected some of train, validation, test, unseen; did you mean test?"),
        (["verify", "shapes", "--option", "num_image=3"], "did you mean num_images?"),
        (["train", "--cofig", "tiny_shapes"], "the following arguments are required: --config; did you mean --config?"),
        (["train", "--config", "tiny_shaps"], "no config of that name ships with psalm_hf; did you mean tiny_shapes?"),
        (["train", "--config", "tiny_shapes", "--max-step", "5"], "no such fields: max_step; "),
        (["train", "--config", "tiny_shapes", "--max-step", "5"], "did you mean max_steps?"),
        (["train", "--config", "tiny_shapes", "--model", "{num_querys: 3}"], "did you mean num_queries?"),
        (["train", "--config", "tiny_shapes", "--checkpoint", "psalm-tniy", "--use_cpu", "true"], "did you mean psalm-tiny?"),
        (["train", "--config", "tiny_shapes", "--sources", "{panoptic: {dataset: coco_panoptc}}"], "did you mean coco_panoptic?"),
        (["train", "--config", "tiny_vision", "--steps", "many"], "tiny_vision: steps is the text 'many', expected int"),
        (["estimate-memory", "--config", "stage2_papr"], "did you mean stage2_paper?"),
        (["estimate-memory", "--config", "stage2_paper", "--checkpoint", "psalm-tniy"], "did you mean psalm-tiny?"),
        (["estimate-memory", "--config", "stage2_paper", "--processes", "0"], "--processes 0: give at least 1"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_what_was_probably_meant_before_a_model_is_loaded(arguments, message, capsys, tmp_path, monkeypatch):
    from psalm_hf import PsalmForSegmentation

    monkeypatch.setattr(PsalmForSegmentation, "__init__", lambda *_, **__: pytest.fail("a model was built"))
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_verb_says_so_in_a_line(capsys):
    @verb
    def command(arguments):
        raise KeyboardInterrupt

    assert command([]) == 130 and capsys.readouterr().err == "interrupted\n"


def test_names_that_are_far_from_all_known_ones_get_no_advice():
    assert did_you_mean("wibble", ["segment", "video"]) == ""


def test_options_may_be_shortened_where_no_field_of_a_config_could_be_meant():
    for has_fields, rest in ((False, []), (True, ["--out", "x"])):
        parser = CommandParser("verb", None, has_fields=has_fields)
        parser.add_argument("--output", default="y")
        options, others = parser.parse_known_args(["--out", "x"])
        assert (options.output, others) == ("y" if has_fields else "x", rest)


@pytest.mark.parametrize(
    ("dtype", "device", "parameters", "multiplies", "is_printed"),
    [
        (torch.float32, "cpu", 10**9, True, True),
        (torch.bfloat16, "cpu", 10**9, True, False),
        (torch.float32, "meta", 10**9, True, False),
        (torch.float32, "cpu", 10**6, True, False),
        (torch.float32, "cpu", 10**9, False, False),
    ],
)
def test_bfloat16_is_suggested_for_a_large_model_in_float32_on_a_cpu_that_multiplies_in_it(
    dtype, device, parameters, multiplies, is_printed, monkeypatch, capsys
):
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: multiplies)
    suggest_bfloat16(SimpleNamespace(dtype=dtype, device=torch.device(device), num_parameters=lambda: parameters))
    printed = capsys.readouterr()
    assert printed.err.count("--dtype bfloat16") == is_printed and len(printed.err.splitlines()) == is_printed and not printed.out
