"""The Ray Data pipeline gives what one process gives, refuses what it refuses, and an actor that dies is replaced."""

import os
import pickle
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import PsalmPredictor
from psalm_hf.scale import ray_engine
from psalm_hf.scale.folder import FolderRun, predict_folder
from psalm_hf.scale.ray_engine import BatchActor, predict_with_ray, read_answers, read_batch
from psalm_hf.scale.source import list_images
from psalm_hf.tiny import build_tiny

PROMPT = {"categories": ["cup", "table"], "task": "instance", "threshold": 0.0}


class MortalPredictor(PsalmPredictor):
    """Kills its process once, when it has a first batch."""

    grave: Path

    def predict_batch(self, requests):
        if len(requests) > 1:  # not the blank image of the check
            try:
                os.close(os.open(self.grave, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return super().predict_batch(requests)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict_batch(requests)


@dataclass(frozen=True)
class LoadMortal:
    grave: Path

    def __call__(self):
        predictor = MortalPredictor(*build_tiny(seed=0, image_size=64), reuse_prefix=False)
        predictor.grave = self.grave
        return predictor


@pytest.mark.parametrize(
    "wrong", [{"categories": ["cup", "cup"]}, {"stuff": ["sea"], "task": "panoptic"}, {"categories": ["cup " * 3000]}, {"threshold": 2.0}]
)
def test_an_actor_refuses_a_wrong_prompt_in_the_words_of_one_process(tmp_path, wrong):
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    images, prompt = list_images([tmp_path / "image.png"]), {**PROMPT, **wrong}
    predictor = PsalmPredictor(*build_tiny(seed=0, image_size=64))
    with pytest.raises(ValueError) as refused:
        predict_folder(FolderRun(tmp_path / "one", images, prompt), predictor)
    row = read_batch({"number": 0, "images": pickle.dumps(images)})
    actor = BatchActor(lambda: predictor, prompt, None, tmp_path)
    answered = actor({name: np.array([value], dtype=object) for name, value in row.items()})
    with pytest.raises(ValueError) as told:
        read_answers({name: value for name, (value,) in answered.items()})
    assert str(told.value) == str(refused.value)
    assert not list(tmp_path.glob("*.attempt"))


@pytest.mark.parametrize(("accelerators", "actors", "most"), [(0, None, 4), (1, None, 4), (8, None, 8), (8, 2, 2)])
def test_ray_counts_more_cpus_than_the_actors_can_take(monkeypatch, accelerators, actors, most):
    started = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerators > 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: accelerators)
    ray_engine._start(SimpleNamespace(init=lambda **options: started.update(options)), actors, 1)
    assert started["num_cpus"] == most + 2


@pytest.mark.engines
def test_two_actors_of_which_one_dies_give_what_one_process_gives(tmp_path, one_thread, monkeypatch):
    pytest.importorskip("ray")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(14):
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(tmp_path / f"images/{number:02}.png")
    (tmp_path / "images/03.png").write_bytes(b"nothing")
    images = list_images([tmp_path / "images"])
    expected = FolderRun(tmp_path / "one", images, PROMPT, batch_size=4)
    predict_folder(expected, PsalmPredictor(*build_tiny(seed=0, image_size=64), reuse_prefix=False))
    run = FolderRun(tmp_path / "two", images, PROMPT, batch_size=4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    predict_with_ray(run, LoadMortal(tmp_path / "grave"), actors=2, readers=1)
    assert (tmp_path / "grave").exists()
    assert expected.join() == run.join() == 1
    for name in ("results.json", "images.json", "failures.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
