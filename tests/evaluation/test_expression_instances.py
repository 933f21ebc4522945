"""Every instance of an expression: psalm-tiny on the first images of the shapes world gives the recorded figures.

Recorded anew by `python -m tests.evaluation.test_expression_instances`, which is justified by other weights or thresholds alone.
"""

import json
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers

from psalm_hf import PsalmForSegmentation, PsalmProcessor, tiny_checkpoint
from psalm_hf.evaluation import evaluate

FIGURES = Path(__file__).with_name("expression_instances_figures.json")
IMAGES = 10
# Every mask of the prediction of psalm-tiny, and its instances.
CHOICES = {"masks": {"instances_threshold": 0.91, "no_target_threshold": 0.87, "nms_threshold": 1.0}, "instances": {}}


def figures(name):
    model = PsalmForSegmentation.from_pretrained(tiny_checkpoint()).eval()
    processor = PsalmProcessor.from_pretrained(tiny_checkpoint())
    results = evaluate(model, processor, "shapes_expression_instances", limit=IMAGES, choices=CHOICES[name])
    return {"percent": results.percent, "counts": results.parts[""]["counts"]}


@pytest.mark.parametrize("name", CHOICES)
def test_the_figures_are_those_recorded(name, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    expected = json.loads(FIGURES.read_text(encoding="utf-8"))["figures"][name]
    found = figures(name)
    assert found["counts"] == expected["counts"]
    assert found["percent"] == pytest.approx(expected["percent"], abs=1e-6)


def record():
    made_with = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    content = {"images": IMAGES, "split": "test", "made_with": made_with, "figures": {name: figures(name) for name in CHOICES}}
    FIGURES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
