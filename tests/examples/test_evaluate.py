"""The evaluate command from files in COCO's layout to numbers, a results file and pictures, with a tiny model of random weights."""

import importlib.util
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.data import load
from psalm_hf.evaluation.datasets import evaluate_dataset
from psalm_hf.evaluation.measures import PanopticThresholds
from psalm_hf.tiny import build_tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "evaluate.py"
spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 7, "name": "grass", "isthing": 0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`coco`, seven pictures with a cat on grass, and `checkpoint`, a random model."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name in ("val2017", "panoptic_val2017", "annotations"):
        (folder / "coco" / name).mkdir(parents=True)
    images, panoptic, instances = [], [], []
    for number in range(1, 8):
        pixels = np.full((48, 64, 3), (0, 160, 0), dtype=np.uint8)
        pixels[8:40, 8 : 8 + 4 * number] = (200, 120, 40)
        Image.fromarray(pixels).save(folder / f"coco/val2017/{number:012}.jpg")
        ids = np.zeros((48, 64, 3), dtype=np.uint8)
        ids[..., 0] = np.where(pixels[..., 0] == 200, 1, 2)
        Image.fromarray(ids).save(folder / f"coco/panoptic_val2017/{number:012}.png")
        images.append({"id": number, "file_name": f"{number:012}.jpg", "height": 48, "width": 64})
        segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 7, "iscrowd": 0}]
        panoptic.append({"image_id": number, "file_name": f"{number:012}.png", "segments_info": segments})
        right = 8 + 4 * number
        polygon = [8, 8, right, 8, right, 40, 8, 40]
        instances.append({"id": number, "image_id": number, "category_id": 1, "segmentation": [polygon], "iscrowd": 0})
    for name, annotations in (("panoptic", panoptic), ("instances", instances)):
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / f"coco/annotations/{name}_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    for part in build_tiny():
        part.save_pretrained(folder / "checkpoint")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


def arguments(folder, *more, dataset="coco_panoptic"):
    files = ["--checkpoint", folder / "checkpoint", "--data-dir", folder / "coco"]
    return [str(word) for word in ["--dataset", dataset, "--split", "val", *files, *more]]


def test_numbers_choices_and_versions_are_printed_and_stored(folder, tmp_path, capsys):
    output = tmp_path / "new" / "results.json"
    assert script.main(arguments(folder, "--threshold", 0.3, "--overlap", 0.1, "--num-images", 3, "--output", output)) == 0
    record = json.loads(output.read_text(encoding="utf-8"), parse_constant=pytest.fail)  # NaN is no JSON
    assert (record["dataset"], record["split"], record["num_images"]) == ("coco_panoptic", "val", 3)
    assert record["protocol"]["panoptic"] == {"threshold": 0.3, "overlap": 0.1}
    assert record["counts"]["pictures"] == 3 and record["counts"]["segments"] == 6
    assert set(record["versions"]) == {"torch", "transformers", "psalm_hf"}
    assert record["per_category"].keys() == {"cat", "grass"}

    model, processor = (
        PsalmForSegmentation.from_pretrained(folder / "checkpoint").eval(),
        PsalmProcessor.from_pretrained(folder / "checkpoint"),
    )
    dataset = load("coco_panoptic", "val", folder / "coco")
    three = type(dataset)(dataset.rows.select(range(3)), dataset.categories, dataset.task)
    expected = evaluate_dataset(model, processor, three, batch_size=2, panoptic=PanopticThresholds(0.3, 0.1))
    assert record["percent"] == pytest.approx(expected.percent, abs=1e-6)
    printed = capsys.readouterr().out
    assert "3 pictures, 3 rows, 6 segments" in printed
    assert f"semantic mIoU               {expected.percent['semantic mIoU']:6.1f}" in printed


def test_every_answer_is_on_a_sheet(folder, tmp_path):
    script.main(arguments(folder, "--pictures", tmp_path / "sheets", "--batch-size", 2))
    sheets = [Image.open(path).size for path in sorted((tmp_path / "sheets").iterdir())]
    assert len(sheets) == 2  # six answers, and one
    assert sheets[0][0] > 2 * sheets[1][0] and sheets[0][1] > 1.5 * sheets[1][1]


def test_regions_take_the_options_of_their_dataset(folder, capsys):
    script.main(arguments(folder, "--options", "{kind: box}", "--num-images", 2, dataset="coco_interactive"))
    printed = capsys.readouterr().out
    assert "2 regions, box" in printed and "region mIoU, box" in printed and ", point" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-images", "0"], "--num-images must be at least 1, got 0"),
        (["--batch-size", "-2"], "--batch-size must be at least 1, got -2"),
        (["--threshold", "80"], "--threshold must be between 0 and 1, got 80"),
        (["--options", "point"], "--options is a YAML mapping"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--checkpoint", "c", "--dataset", "coco_panoptic", "--split", "val", *options])
    assert message in capsys.readouterr().err
