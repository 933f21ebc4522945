"""Eight threads share one model, one processor and one pipeline, as those of a server do; each gets what a single thread gets."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.pipeline import PromptableSegmentationPipeline
from psalm_hf.tiny import build_tiny

pytestmark = pytest.mark.threads

THREADS = 8


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(seed=3)
    return model.eval(), processor


def prompt(number):
    """Every thread has an image and a prompt of its own, of several kinds and lengths."""
    image = Image.fromarray(np.random.default_rng(number).integers(0, 255, (40 + number, 60 - number, 3), dtype=np.uint8))
    return image, [
        {"categories": ["cup", "table", "wall"][: 1 + number % 3]},
        {"expressions": ["the cup"] + ["all dotted things"] * (number % 2)},
        {"regions": [{"point": (5 + number, 7)}, {"box": (2, 3, 20 + number, 30)}]},
        {"conversations": [{"role": "user", "content": f"How many cups are there, more than {number}?"}]},
    ][number % 4]


def at_once(work):
    """Results of `work(number)` from threads that begin together, twice each."""
    barrier = Barrier(THREADS)

    def run(number):
        barrier.wait(timeout=60)
        return [work(number) for _ in range(2)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor | np.ndarray):
        return np.array_equal(one, other)
    return one == other


def check(work):
    expected = [work(number) for number in range(THREADS)]
    for number, results in enumerate(at_once(work)):
        assert all(same(result, expected[number]) for result in results), f"thread {number}"
    assert not same(expected[0], expected[4])  # of one kind; else the comparison would see nothing


def test_the_processor(tiny):
    _, processor = tiny

    def work(number):
        image, given = prompt(number)
        inputs = processor(images=image, return_tensors="pt", **given)
        return {**inputs}

    check(work)


def test_the_model_and_post_processing(tiny):
    model, processor = tiny

    def work(number):
        image, given = prompt(number)
        inputs = processor(images=image, return_tensors="pt", **given)
        with torch.no_grad():
            outputs = model(**inputs)
        found = processor.find_segments(outputs, inputs.row_info, inputs["original_sizes"].tolist(), threshold=0.0)
        segments = [(one.label, one.score, one.mask) for row in found for one in row or ()]
        return {"masks": outputs.masks_queries_logits, "segments": segments, "input_ids": inputs["input_ids"]}

    check(work)


def test_generation(tiny):
    model, processor = tiny

    def work(number):
        image, _ = prompt(number)
        inputs = processor(images=image, conversations=[{"role": "user", "content": f"What is {number}?"}], return_tensors="pt")
        return model.generate(**inputs, max_new_tokens=4, do_sample=False)

    check(work)


def test_the_pipeline(tiny):
    segmenter = PromptableSegmentationPipeline(model=tiny[0], processor=tiny[1], device="cpu")

    def work(number):
        image, _ = prompt(number)
        found = segmenter(image, expressions=["the cup"], points=[(5 + number, 7)], threshold=None)
        return [(one["label"], one["score"], np.asarray(one["mask"])) for one in found]

    check(work)
