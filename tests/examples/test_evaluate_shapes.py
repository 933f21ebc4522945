"""The shapes report from the command line to its files, with a tiny model of random weights."""

import importlib.util
import json
from pathlib import Path

import pytest

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.evaluation.calibration import ReferringThresholds
from psalm_hf.evaluation.shapes import evaluate_shapes
from psalm_hf.tiny import build_tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "evaluate_shapes.py"
spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def checkpoint(tmp_path):
    def save(**overrides):
        model, processor = build_tiny(**overrides)
        model.save_pretrained(tmp_path / "checkpoint")
        processor.save_pretrained(tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    return save


def test_numbers_thresholds_and_versions_are_printed_and_stored(checkpoint, tmp_path, capsys):
    folder, output, markdown = checkpoint(), tmp_path / "new" / "results.json", tmp_path / "table.md"
    sizes = {"--images": 2, "--batch_size": 2, "--calibration_images": 4}
    options = {"--checkpoint": folder, **sizes, "--output": output, "--markdown": markdown}
    assert script.main([str(word) for option in options.items() for word in option]) == 0
    record = json.loads(output.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert record["checkpoint"] == str(folder) and record["images"] == 2
    assert set(record["versions"]) == {"torch", "transformers", "psalm_hf"}
    assert list(record["splits"]) == ["test", "unseen"]

    thresholds = ReferringThresholds(record["thresholds"]["no_target"], record["thresholds"]["further_targets"])
    model, processor = PsalmForSegmentation.from_pretrained(folder).eval(), PsalmProcessor.from_pretrained(folder)
    expected = evaluate_shapes(model, processor, split="unseen", num_images=2, batch_size=2, thresholds=thresholds)
    assert record["splits"]["unseen"]["percent"] == pytest.approx(expected, abs=1e-6)
    assert record["splits"]["unseen"]["counts"]["pictures"] == 2

    printed = capsys.readouterr().out
    line = f"no target below {thresholds.no_target:.2f}, further targets above {thresholds.further_targets:.2f} (calibrated on 4 pictures"
    assert line in printed and line in markdown.read_text()
    cell = f"{record['splits']['test']['percent']['region mIoU, box']:.1f}"
    assert cell in printed and f"| mIoU | {cell} |" in markdown.read_text()


def test_without_calibration_pictures_the_constants_are_used(checkpoint, capsys):
    folder = checkpoint()
    assert script.main(["--checkpoint", str(folder), "--splits", "test", "--images", "1", "--calibration_images", "0"]) == 0
    printed = capsys.readouterr().out
    assert "no target below 0.30, further targets above 0.50 (constants, not calibrated)" in printed
    assert "unseen" not in printed


def test_a_model_without_mask_tokens_gets_the_panoptic_part(checkpoint, capsys, tmp_path):
    folder = checkpoint(decouple_masks=False)
    options = ["--checkpoint", folder, "--splits", "test", "--images", 1, "--output", tmp_path / "results.json"]
    assert script.main([*map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert "PQ-stuff" in printed and "Referring" not in printed and "segments by categories only" in printed
    assert json.loads((tmp_path / "results.json").read_text())["thresholds"] is None


@pytest.mark.parametrize("option", [("--images", "0"), ("--batch_size", "0"), ("--calibration_images", "-1"), ("--splits", "train")])
def test_options_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--checkpoint", "anywhere", *option])
    assert option[0] in capsys.readouterr().err
