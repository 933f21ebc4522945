"""What a checkpoint was trained on, and the note where an image looks like something else."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from psalm_hf import PsalmConfig, PsalmPredictor, load_image, tiny_checkpoint
from psalm_hf.cli import segment
from psalm_hf.data.shapes import scene
from psalm_hf.domain import _STUFF, _THINGS, DRAWN_SHAPES, domain_note, extended_domain, foreign_share
from tests.conftest import SAMPLES

PHOTOS = sorted(SAMPLES.glob("photos/*.[jp]*g"))


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=75)
    return load_image(file)


@pytest.fixture(scope="module")
def scenes():
    return [Image.fromarray(scene.make_scene("test", number, image_size=128).image) for number in range(40)]


@pytest.fixture(scope="module")
def noise():
    """No drawn shapes: colours all over the cube."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def test_the_colours_are_those_of_the_shapes_world():
    assert _THINGS == tuple(scene.COLORS.values()) and _STUFF == tuple(scene._STUFF_COLORS.values())


@pytest.mark.parametrize(
    "change",
    [lambda image: image, as_jpeg, lambda image: as_jpeg(image.resize((640, 640)))],
    ids=["png", "jpeg", "large"],
)
def test_drawn_shapes_get_no_note(scenes, change):
    assert [number for number, image in enumerate(scenes) if domain_note(DRAWN_SHAPES, change(image))] == []


@pytest.mark.samples
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_photographs_get_a_note(path):
    assert "looks like something else" in domain_note(DRAWN_SHAPES, load_image(path))


def test_a_share_of_colours_is_counted():
    half = Image.new("RGB", (10, 10), scene.COLORS["red"])
    half.paste((0, 255, 255), (0, 0, 10, 4))
    assert foreign_share(half) == pytest.approx(0.4)


@pytest.mark.parametrize("domain", [None, "drawn shapes, own_coco", "not stated, drawn shapes"])
def test_only_a_checkpoint_that_knows_drawn_shapes_alone_says_so(noise, domain):
    assert domain_note(domain, noise) is None and domain_note(DRAWN_SHAPES, noise)


def test_training_adds_to_the_domain():
    assert extended_domain(DRAWN_SHAPES, [DRAWN_SHAPES]) == DRAWN_SHAPES
    assert extended_domain(DRAWN_SHAPES, ["own_coco", "own_coco"]) == "drawn shapes, own_coco"
    assert extended_domain("drawn shapes, own_coco", ["own_coco"]) == "drawn shapes, own_coco"
    assert extended_domain(None, [DRAWN_SHAPES]) == "not stated, drawn shapes"


def test_psalm_tiny_says_what_it_knows_everywhere(noise, tmp_path, capsys, monkeypatch):
    assert PsalmConfig.from_pretrained(tiny_checkpoint()).domain == DRAWN_SHAPES
    result = PsalmPredictor.from_pretrained(device="cpu").predict(noise, expressions="this")
    assert result.note and result.note in str(result) and result.as_record()["note"] == result.note
    noise.save(tmp_path / "noise.png")
    assert segment.main([str(tmp_path / "noise.png"), "--point", "3,3", "--output", str(tmp_path / "found")]) == 0
    assert result.note in capsys.readouterr().err
    assert json.loads((tmp_path / "found.json").read_text())["note"] == result.note
    said = []
    monkeypatch.setattr("psalm_hf.pipeline.logger.warning_once", said.append)  # once for a process: other tests may have had it
    pipeline("promptable-segmentation", model=str(tiny_checkpoint()), device="cpu")(noise, expressions="this")
    assert said == [result.note]
