"""docs/own_data.md: its commands, from a folder of pictures to a checkpoint, at tiny size."""

import json
import re
import shlex
from pathlib import Path

import datasets
import pytest

from psalm_hf import PsalmForSegmentation
from psalm_hf.cli.main import main
from psalm_hf.data.mixture import choose_mixture
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny
from tests.data.own.layouts import write_layout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TINY = {
    "evaluate": ["--device", "cpu"],
    "train": ["--max_steps", "2", "--dataloader_num_workers", "0", "--save_steps", "2", "--use_cpu", "true"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `mydata`, and `CHECKPOINT`, a random model."""
    datasets.disable_progress_bars()
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "mydata/images").mkdir(parents=True)
    lines = []
    for number in (1, 2, 10):  # images/10 is held out
        sample = ShapesStream(task="panoptic")[number]
        sample.image.save(tmp_path / f"mydata/images/{number}.png")
        masks = [{"category": sample.categories[segment.category_id], "mask": segment.mask_rle} for segment in sample.segments]
        lines.append({"image": f"images/{number}.png", "masks": masks})
        lines.append({"image": f"images/{number}.png", "text": f"the {masks[0]['category']}", "masks": [masks[0]["mask"]]})
    for name, number in (("own_coco", 11), ("own_pairs", 11), ("own_labelme", 10)):
        write_layout(name, tmp_path / "mydata" / name.removeprefix("own_"), number)
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


def test_the_commands_lead_from_pictures_to_a_checkpoint_and_its_held_out_figures(folder, capsys):
    verbs = "verify train evaluate segment segment train train train evaluate evaluate".split()
    assert [command[1] for command in COMMANDS] == verbs
    for command in COMMANDS:
        assert run(command) == 0, command
    assert (folder / "pictures/own_jsonl_train.png").is_file() and (folder / "answer.png").is_file()
    for name in ("own_data", "own_coco", "own_pairs", "own_labelme"):
        PsalmForSegmentation.from_pretrained(folder / "outputs" / name)
    for results in ("own_data/results", "own_labelme/results", "own_data/regions"):
        found = json.loads((folder / "outputs" / results / "results.json").read_text(encoding="utf-8"))
        assert found["parts"][""]["counts"]["pictures"] == 1 and found["percent"]
    assert {name.split(",")[-1].strip() for name in found["percent"]} >= {"point", "box", "scribble", "mask"}


def test_the_table_that_the_page_shows_is_the_one_that_is_printed(folder):
    chosen = str(choose_mixture({"dataset": "own_jsonl", "data_dir": "mydata", "holdout": 0.1}))
    (shown,) = re.findall(r"sources\): (dataset.*?)```", PAGE, re.DOTALL)
    assert re.sub(r"\d+ rows", "N rows", shown.strip()) == re.sub(r"\d+ rows", "N rows", chosen)
