"""The released rules against what the released generator drew. Masks, seeds and counts come from the recordings."""

import json
import random
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from psalm_hf.data.visual_prompts import draw_as_released, draw_prompt
from psalm_hf.masks import area
from tests.conftest import GOLDEN

pytestmark = pytest.mark.golden

FOLDER = GOLDEN / "preprocessing"
SAMPLE = re.compile(r"generator\.seed(\d+)\.(\w+)")
STATISTICS = re.compile(r"generator_statistics_(\d+)_seeds")
ORDER = ("point", "mask", "box", "scribble")  # in which the generator takes its random numbers, one stream for all four
OWN_DRAWS = 400


class PythonRandom:
    """The generator's own stream, `random` of the standard library, in the words of numpy's."""

    def __init__(self, seed: int):
        stream = random.Random(seed)
        self.uniform = stream.uniform
        self.integers = lambda number: stream.choice(range(number))


def recorded() -> dict[str, np.ndarray]:
    file = FOLDER / "visual_prompts.safetensors"
    return load_file(file) if file.is_file() else {}


def recorded_statistics() -> tuple[int, dict[str, dict[str, float]]]:
    """Number of seeds, and per kind the mean, deviation, least and largest area."""
    file = FOLDER / "visual_prompts.json"
    for name, entry in (json.loads(file.read_text()) if file.is_file() else {}).items():
        if match := STATISTICS.fullmatch(name):
            return int(match[1]), entry
    return 0, {}


TENSORS = recorded()
SAMPLES = [(int(match[1]), match[2]) for match in map(SAMPLE.fullmatch, TENSORS) if match]
NUMBER, KINDS = recorded_statistics()


def drawn_from_its_own_stream(seed: int) -> dict[str, np.ndarray]:
    rng, bitmap = PythonRandom(seed), TENSORS["generator.mask"] != 0
    return {kind: draw_as_released(bitmap, kind, rng) for kind in ORDER}


@pytest.mark.parametrize(("seed", "kind"), SAMPLES)
def test_the_same_random_numbers_give_the_same_pixels(seed, kind):
    expected = TENSORS[f"generator.seed{seed}.{kind}"] != 0
    assert (drawn_from_its_own_stream(seed)[kind] == expected).all()


def test_the_same_random_numbers_give_the_same_statistics():
    if not KINDS:
        pytest.skip(f"{FOLDER} holds no statistics of the generator")
    drawn = [drawn_from_its_own_stream(seed) for seed in range(NUMBER)]
    for kind, expected in KINDS.items():
        areas = np.array([bitmaps[kind].sum() for bitmaps in drawn])
        found = {"mean_area": areas.mean(), "std_area": areas.std(), "min": areas.min(), "max": areas.max()}
        assert found == pytest.approx(expected, rel=1e-12), kind


@pytest.mark.parametrize("kind", KINDS)
def test_our_random_numbers_give_areas_of_the_same_distribution(kind):
    expected = KINDS[kind]
    regions = [draw_prompt(TENSORS["generator.mask"], kind, seed=0, annotation_id=index, rules="released") for index in range(OWN_DRAWS)]
    areas = np.array([area(region.mask_rle) if region else 0 for region in regions])
    if expected["std_area"] == 0:
        assert (areas == expected["mean_area"]).all()
        return
    error = expected["std_area"] * (1 / NUMBER + 1 / OWN_DRAWS) ** 0.5
    assert abs(areas.mean() - expected["mean_area"]) < 4 * error
    assert areas.std() == pytest.approx(expected["std_area"], rel=0.25)
