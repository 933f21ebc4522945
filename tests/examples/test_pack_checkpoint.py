"""A packed checkpoint is the trained one rounded to float16, complete, without code, and never half of one."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.tiny import build_tiny
from tests.examples.scripts import EXAMPLES, load_script
from tests.test_checkpoints import PACKED

pack_checkpoint = load_script(EXAMPLES / "pack_checkpoint.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as training leaves it, with files that are not for shipping."""
    folder = tmp_path_factory.mktemp("trained")
    model, processor = build_tiny(seed=0)
    for name, value in THRESHOLDS.items():
        setattr(processor, name, value)
    for part in (model, processor):
        part.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"")
    return folder


THRESHOLDS = {"no_target_threshold": 0.25, "referring_threshold": 0.75}


def results_file(tmp_path, split="test", **changes):
    """As psalm evaluate writes it."""
    record = {
        "benchmark": "shapes",
        "split": split,
        "protocol": {"no_target": "processor", **THRESHOLDS},
        "percent": dict.fromkeys(pack_checkpoint.REPORTED, 62.5),
        "baselines": {"region mIoU, point": 31.25},
        "parts": {"panoptic": {"counts": {"pictures": 7}}},
    }
    path = tmp_path / f"{split}.json"
    path.write_text(json.dumps(record | changes))
    return path


def pack(tmp_path, checkpoint, *arguments, results=None):
    """Exit status of the script, and the folder it writes."""
    output = tmp_path / "packed"
    results = results or [results_file(tmp_path), results_file(tmp_path, "unseen")]
    words = ["--checkpoint", checkpoint, "--results", *results, "--output", output, *arguments]
    return pack_checkpoint.main(list(map(str, words))), output


@pytest.fixture(scope="module")
def packed(tmp_path_factory, trained):
    status, folder = pack(tmp_path_factory.mktemp("pack"), trained)
    assert status == 0
    return folder


def test_weights_load_in_float32_and_are_the_original_ones_rounded(trained, packed):
    model = PsalmForSegmentation.from_pretrained(packed)
    original = PsalmForSegmentation.from_pretrained(trained)
    assert model.dtype == torch.float32
    rounded = {name: value.half().float() if value.is_floating_point() else value for name, value in original.state_dict().items()}
    torch.testing.assert_close(model.state_dict(), rounded, rtol=0, atol=0)
    assert not all(torch.equal(value, rounded[name]) for name, value in original.state_dict().items())


def test_the_processor_carries_its_thresholds(packed):
    processor = PsalmProcessor.from_pretrained(packed)
    assert (processor.no_target_threshold, processor.referring_threshold) == (0.25, 0.75)


def test_tied_weights_are_stored_once(tmp_path):
    for part in build_tiny(seed=0, tie_word_embeddings=True):
        part.save_pretrained(tmp_path / "trained")
    _, folder = pack(tmp_path, tmp_path / "trained")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = PsalmForSegmentation.from_pretrained(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_outputs_are_those_of_the_original_to_a_hundredth(trained, packed):
    def logits(folder):
        processor = PsalmProcessor.from_pretrained(folder)
        inputs = processor(images=torch.arange(3 * 40 * 60).reshape(3, 40, 60).to(torch.uint8), expressions=["the cup"])
        with torch.inference_mode():
            return PsalmForSegmentation.from_pretrained(folder).eval()(**inputs)

    expected, found = logits(trained), logits(packed)
    for name in ("masks_queries_logits", "referring_queries_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-2)


def test_the_folder_is_complete_and_holds_no_code(packed):
    assert {path.name for path in packed.iterdir()} == PACKED
    assert not [path.name for path in packed.glob("*.json") if "auto_map" in path.read_text()]
    assert isinstance(AutoModel.from_pretrained(packed), PsalmForSegmentation)
    assert isinstance(AutoProcessor.from_pretrained(packed), PsalmProcessor)


def test_no_file_names_the_folder_it_was_made_from(trained, packed):
    assert not [path.name for path in packed.iterdir() if str(trained.parent).encode() in path.read_bytes()]


def test_the_card_has_the_numbers_and_a_header(packed):
    card = (packed / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "| region mIoU, point | 62.5 (31.2) | 62.5 (31.2) |" in card and "| semantic mIoU | 62.5 | 62.5 |" in card
    assert "first 7 pictures" in card and "0.25" in card and "0.75" in card
    assert "$" not in card


def test_a_folder_with_something_in_it_is_replaced_only_when_asked(tmp_path, trained, capsys):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "precious").write_text("kept")
    status, output = pack(tmp_path, trained)
    assert status == 2 and "--overwrite" in capsys.readouterr().err
    assert (output / "precious").read_text() == "kept"
    status, output = pack(tmp_path, trained, "--overwrite")
    assert status == 0 and {path.name for path in output.iterdir()} == PACKED
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "test.json", "unseen.json"}


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, trained, monkeypatch):
    _, output = pack(tmp_path, trained)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}

    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(pack_checkpoint, "drop_code", fail)
    assert pack(tmp_path, trained, "--overwrite")[0] == 2
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "test.json", "unseen.json"}


def test_numbers_too_large_for_float16_are_refused_by_name(tmp_path, capsys):
    model, processor = build_tiny(seed=0)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    for part in (model, processor):
        part.save_pretrained(tmp_path / "large")
    status, output = pack(tmp_path, tmp_path / "large")
    assert status == 2 and not output.exists()
    assert "lm_head.weight: not finite in float16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "refcoco"}, "test.json: not of the benchmark shapes with calibrated thresholds; run psalm calibrate"),
        ({"protocol": {"no_target": "threshold"}}, "test.json: not of the benchmark shapes with calibrated thresholds"),
        ({"percent": {"semantic mIoU": 1.0}}, "test.json: no .*region mIoU, box"),
    ],
)
def test_results_without_the_numbers_of_the_card_are_refused(tmp_path, trained, capsys, changes, message):
    status, output = pack(tmp_path, trained, results=[results_file(tmp_path, **changes)])
    assert status == 2 and not output.exists()
    assert re.search(message, capsys.readouterr().err)
