"""docs/own_data.md: its commands, from a folder of pictures to a checkpoint, at tiny size."""

import json
import re
import shlex
from pathlib import Path

import datasets
import pytest

from psalm_hf import PsalmForSegmentation
from psalm_hf.cli.main import main
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TINY = {"train": ["--max_steps", "2", "--dataloader_num_workers", "0", "--save_steps", "2", "--use_cpu", "true"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `mydata`, and `CHECKPOINT`, a random model."""
    datasets.disable_progress_bars()
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "mydata/images").mkdir(parents=True)
    (tmp_path / "mydata/labelme").mkdir()
    lines = []
    for number, sample in enumerate([ShapesStream(task="panoptic")[index] for index in range(3)]):
        sample.image.save(tmp_path / f"mydata/images/{number}.png")
        sample.image.save(tmp_path / f"mydata/labelme/{number}.png")
        masks = [{"category": sample.categories[segment.category_id], "mask": segment.mask_rle} for segment in sample.segments]
        lines.append({"image": f"images/{number}.png", "masks": masks})
        lines.append({"image": f"images/{number}.png", "text": f"the {masks[0]['category']}", "masks": [masks[0]["mask"]]})
        shapes = [{"label": "star", "points": [[10, 10], [60, 10], [30, 60]], "shape_type": "polygon", "group_id": None, "flags": {}}]
        content = {"shapes": shapes, "flags": {}, "imagePath": f"{number}.png", "imageData": None, "imageHeight": 128, "imageWidth": 128}
        (tmp_path / f"mydata/labelme/{number}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "mydata/train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for part in build_tiny():
        part.save_pretrained(tmp_path / "CHECKPOINT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command):
    """A command of the page, in this process."""
    name, verb, *arguments = command
    assert name == "psalm"
    return main([verb, *arguments, *TINY.get(verb, [])])


def test_the_commands_lead_from_pictures_to_a_checkpoint(folder):
    assert [command[1] for command in COMMANDS] == ["verify", "train", "segment", "segment", "train"]
    for command in COMMANDS:
        assert run(command) == 0, command
    assert (folder / "pictures/own_jsonl_train.png").is_file() and (folder / "answer.png").is_file()
    for name in ("own_data", "own_labelme"):
        PsalmForSegmentation.from_pretrained(folder / "outputs" / name)
