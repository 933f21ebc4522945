"""Calibration from the command line: four fields of a folder's processor change, or nothing does; the evaluate command goes by them."""

import json
import shutil
from pathlib import Path

import pytest

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.cli import calibrate as script
from psalm_hf.cli import evaluate
from psalm_hf.evaluation.calibration import choose_thresholds, open_calibration, score_expressions
from psalm_hf.evaluation.instance_calibration import choose_instance_thresholds
from psalm_hf.tiny import build_tiny
from tests.examples.scripts import EXAMPLES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for part in build_tiny():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, trained):
    return Path(shutil.copytree(trained, tmp_path / "checkpoint"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(checkpoint, *arguments):
    return script.main(["--checkpoint", str(checkpoint), "--images", "4", *map(str, arguments)])


def test_the_four_thresholds_are_written_and_nothing_else_changes(checkpoint, capsys):
    before = contents(checkpoint)
    assert run(checkpoint) == 0
    processor = PsalmProcessor.from_pretrained(checkpoint)
    model = PsalmForSegmentation.from_pretrained(checkpoint).eval()
    predictions, instances = score_expressions(model, open_calibration("shapes", processor, limit=4), batch_size=16)
    expected = choose_thresholds(predictions)
    of_instances = choose_instance_thresholds(instances, expected.no_target)
    assert (processor.instances_threshold, processor.nms_threshold) == (of_instances.instances, of_instances.nms)
    assert (processor.referring_threshold, processor.no_target_threshold) == (expected.further_targets, expected.no_target)

    after = contents(checkpoint)
    assert {name for name in after if after[name] != before.get(name)} == {"processor_config.json"}
    fields = json.loads(before["processor_config.json"])
    found = {"referring_threshold": expected.further_targets, "no_target_threshold": expected.no_target}
    found |= {"instances_threshold": of_instances.instances, "nms_threshold": of_instances.nms}
    assert json.loads(after["processor_config.json"]) == fields | found
    printed = capsys.readouterr().out
    assert "shapes: 16 expressions" in printed
    assert f"wrote referring_threshold {expected.further_targets:.2f} and no_target_threshold {expected.no_target:.2f}" in printed


def lines(folder, *rows):
    """Own data about the bundled picture: (text, polygons of its masks) of each row."""
    folder.mkdir()
    shutil.copy(EXAMPLES / "pictures" / "shapes.png", folder)
    records = [{"image": "shapes.png", "text": text, "masks": masks} for text, masks in rows]
    (folder / "held_out.jsonl").write_text("\n".join(map(json.dumps, records)))
    return ["--dataset", "own_jsonl", "--data-dir", str(folder), "--split", "held_out"]


SQUARE = [[4, 4, 40, 4, 40, 40, 4, 40]]


def test_own_data_is_calibrated_on(checkpoint, tmp_path, capsys):
    assert run(checkpoint, *lines(tmp_path / "data", ("the square", [SQUARE]), ("the moon", []))) == 0
    assert "own_jsonl: 2 expressions, 1 of them without target" in capsys.readouterr().out


def test_without_an_expression_that_means_nothing_the_folder_stays_as_it_is(checkpoint, tmp_path, capsys):
    before = contents(checkpoint)
    assert run(checkpoint, *lines(tmp_path / "data", ("the square", [SQUARE]), ("it", [SQUARE]))) == 2
    assert "2 expressions with a target and 0 without; both are needed" in capsys.readouterr().err
    assert contents(checkpoint) == before


def test_a_folder_without_processor_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PsalmForSegmentation, "from_pretrained", pytest.fail)
    assert run(tmp_path) == 2
    assert "no processor_config.json in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "grefcoco"], "--split: say which one of grefcoco"),
        (["--images", "0"], "--images must be at least 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--options", "[]"], "--options is a YAML mapping"),
    ],
)
def test_options_that_cannot_work_are_refused(arguments, message, capsys):
    assert script.main(["--checkpoint", "anywhere", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_evaluation_takes_the_thresholds_of_the_processor_and_records_them(checkpoint, tmp_path):
    script.write_thresholds(checkpoint, referring_threshold=0.3, no_target_threshold=0.4)
    arguments = ("--benchmark", "shapes", "--parts", "referring", "--limit", "2", "--device", "cpu")
    output = ("--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "out"))
    assert evaluate.main([*arguments, *output, "--no-target", "processor"]) == 0
    protocol = json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]
    assert (protocol["no_target"], protocol["referring_threshold"], protocol["no_target_threshold"]) == ("processor", 0.3, 0.4)


def test_evaluation_refuses_a_processor_without_thresholds(checkpoint, tmp_path, capsys):
    arguments = ("--benchmark", "shapes", "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "out"), "--device", "cpu")
    assert evaluate.main([*arguments, "--no-target", "processor"]) == 2
    assert "run psalm calibrate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
