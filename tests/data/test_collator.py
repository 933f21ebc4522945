"""The collator: one row per sample, every picture once, and errors that name the image."""

import io
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.model.image_processing_psalm import PsalmImageProcessor
from psalm_hf.structures import Region, Sample, Segment
from psalm_hf.tiny import build_tiny

MODEL, PROCESSOR = build_tiny()
SIZE = (32, 48)
NAMES = {5: "cup", 9: "plate", 2: "wall"}


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def mask(left, right):
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[8:24, left:right] = True
    return rle_from_bitmap(bitmap)


CUP = (Segment(mask(0, 20)),)


def sentence(text="the cup", image_id="a", image=None, segments=CUP):
    return Sample(picture() if image is None else image, image_id, SIZE, segments=segments, expressions=(text,))


def png(seed=0):
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(path):
    return PROCESSOR.image_processor([Image.open(path)], return_tensors="pt")["pixel_values"][0]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


@pytest.mark.parametrize("task", ["panoptic", "referring", "interactive", "conversation"])
def test_a_batch_of_any_task_trains_the_model(task):
    stream = ShapesStream(task, prompts_per_image=2)
    batch = PsalmCollator(PROCESSOR)([stream[index] for index in range(4)])
    assert len(batch["input_ids"]) == 4
    loss = MODEL(**batch).loss
    assert torch.isfinite(loss) and loss.requires_grad


def test_training_batches_name_the_background_last_and_shuffle_the_rest():
    stream, collate = ShapesStream("panoptic"), PsalmCollator(PROCESSOR, shuffle_categories=True, seed=0)
    assert PROCESSOR.prompt_style == "paper"
    rows = [row for number in range(4) for row in collate([stream[2 * number], stream[2 * number + 1]])["condition_index"]]
    orders = [[condition for condition in row.unique_consecutive().tolist() if condition] for row in rows]
    assert len(orders) == 8 and all(order[-1] == max(order) for order in orders)
    assert any(order != sorted(order) for order in orders)


@pytest.mark.parametrize("task", ["panoptic", "referring", "interactive", "conversation"])
def test_every_row_is_that_of_its_sample_alone(task):
    stream = ShapesStream(task, prompts_per_image=2)
    samples = [stream[index] for index in (3, 0, 1, 2)]  # 2 and 3 share a picture, and so do 0 and 1
    collate = PsalmCollator(PROCESSOR)
    batch = collate(samples)
    for number, sample in enumerate(samples):
        alone = collate([sample])
        length = int(alone["attention_mask"].sum())
        for name in ("input_ids", "condition_index", "labels"):
            assert name not in alone or torch.equal(batch[name][number][:length], alone[name][0])
        assert torch.equal(batch["pixel_values"][batch["image_index"][number]], alone["pixel_values"][0])
        assert torch.equal(batch["mask_labels"][number], alone["mask_labels"][0])
        assert torch.equal(batch["class_labels"][number], alone["class_labels"][0])
        if task == "interactive":
            regions = alone["region_weights"].shape[1]
            assert torch.equal(batch["region_weights"][number, :regions], alone["region_weights"][0])
            assert not batch["region_weights"][number, regions:].any()


def test_samples_of_one_picture_share_it_wherever_they_stand():
    a, b = picture(0), picture(1)
    samples = [sentence("one", "a", a), sentence("two", "b", b), sentence("three", "a", a), sentence("four", "b", b)]
    batch = PsalmCollator(PROCESSOR)(samples)
    assert batch["image_index"].tolist() == [0, 1, 0, 1]
    expected = PROCESSOR.image_processor([a, b], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


@pytest.mark.parametrize(
    ("images", "needs_id"),
    [((picture(), picture()), True), ((png(), png()), True), (("{folder}/a.png", "{folder}/a.png"), False)],
    ids=["equal pixels", "bytes", "path"],
)
def test_images_are_the_same_if_their_path_is_or_id_and_content(images, needs_id, tmp_path):
    picture().save(tmp_path / "a.png")
    images = [image.format(folder=tmp_path) if isinstance(image, str) else image for image in images]
    same = PsalmCollator(PROCESSOR)([sentence("one", "a", images[0]), sentence("two", "a", images[1])])
    assert same["image_index"].tolist() == [0, 0] and len(same["pixel_values"]) == 1
    others = PsalmCollator(PROCESSOR)([sentence("one", "a", images[0]), sentence("two", "b", images[1])])
    assert others["image_index"].tolist() == ([0, 1] if needs_id else [0, 0])


def test_two_crops_of_one_file_are_two_images(tmp_path):
    picture().resize((96, 64)).save(tmp_path / "a.png")
    whole = Image.open(tmp_path / "a.png")
    crops = [whole.crop((0, 0, 48, 32)), whole.crop((48, 32, 96, 64)), whole.crop((0, 0, 48, 32))]
    for crop in crops:
        crop.filename = whole.filename
    batch = PsalmCollator(PROCESSOR)([sentence(str(number), "a", crop) for number, crop in enumerate(crops)])
    assert batch["image_index"].tolist() == [0, 1, 0] and not torch.equal(*batch["pixel_values"])


@pytest.mark.parametrize("with_targets", [True, False], ids=["training", "evaluation"])
def test_the_image_processor_sees_every_image_of_a_batch_once(with_targets, tmp_path):
    paths = []
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    region = (Region("mask", mask_rle=CUP[0].mask_rle, segment=0),)

    def drawn(image, region_image=None):
        size = None if region_image is None else SIZE
        return Sample(image, image, SIZE, CUP, regions=region, region_image=region_image, region_image_size=size)

    batches = [
        [sentence(f"expression {number}", paths[number % 2], paths[number % 2]) for number in range(8)],
        [drawn(paths[0]), drawn(paths[0], paths[1]), drawn(paths[1], paths[2]), drawn(paths[2], paths[2]), drawn(paths[0], paths[1])],
        [Sample(paths[0], "a", SIZE, (Segment(mask(0, 20), 1),), categories={1: name}) for name in ("cup", "plate", "wall")],
    ]
    for samples in batches:
        used = {path for sample in samples for path in (sample.image, sample.region_image)} - {None}
        with patch.object(PsalmImageProcessor, "_preprocess", autospec=True, side_effect=PsalmImageProcessor._preprocess) as preprocess:
            batch = PsalmCollator(PROCESSOR, with_targets=with_targets)(samples)
        assert [len(call.args[1]) for call in preprocess.call_args_list] == [len(used)]
        for row, sample in enumerate(samples):  # and every row has the pixels that it has alone
            assert torch.equal(batch["pixel_values"][batch["image_index"][row]], pixels_of(sample.image))
            if sample.region_image is not None:
                drawn_on = batch["region_pixel_values"][batch["region_image_index"][row, 0]]
                assert torch.equal(drawn_on, pixels_of(sample.region_image))


def test_different_pictures_with_the_same_id_are_kept_apart():
    batch = PsalmCollator(PROCESSOR)([sentence("one", "1", picture(0)), sentence("two", "1", picture(1))])
    assert batch["image_index"].tolist() == [0, 1]
    assert not torch.equal(*batch["pixel_values"])


def test_crowds_are_no_targets_of_categories():
    segments = (Segment(mask(0, 10), 2), Segment(mask(10, 20), 5, is_crowd=True), Segment(mask(20, 30), 9))
    batch = PsalmCollator(PROCESSOR)([Sample(picture(), "a", SIZE, segments=segments, categories=NAMES)])
    assert batch["class_labels"][0].tolist() == [2, 1]  # positions of 2 and 9 among the categories
    kept = PsalmCollator(PROCESSOR)([Sample(picture(), "a", SIZE, segments=(segments[0], segments[2]), categories=NAMES)])
    assert_same(batch, kept)


def test_a_picture_with_nothing_on_it_is_a_row_without_targets():
    batch = PsalmCollator(PROCESSOR)([Sample(picture(), "a", SIZE, categories=NAMES)])
    assert batch["mask_labels"][0].shape == (0, 128, 128) and batch["class_labels"][0].shape == (0,)
    assert PsalmCollator(PROCESSOR)([sentence(segments=())])["mask_labels"][0].shape == (0, 128, 128)


def test_regions_have_the_masks_of_the_segments_they_point_at_in_their_order():
    segments = (Segment(mask(0, 10)), Segment(mask(10, 20), is_crowd=True), Segment(mask(20, 40)))
    point, other = ((25.0, 15.0),), ((5.0, 15.0),)
    regions = (Region("point", point, segment=2), Region("point", ((15.0, 15.0),), segment=1), Region("point", other, segment=0))
    batch = PsalmCollator(PROCESSOR)([Sample(picture(), "a", SIZE, segments=segments, regions=regions)])
    assert batch["region_weights"].shape[1] == 2  # none for the crowd
    columns = batch["region_weights"][0].reshape(2, *PROCESSOR.image_grid).sum(1) @ torch.arange(PROCESSOR.image_grid[1]).float()
    assert columns[0] > columns[1]  # the prompts: the first is right of the other
    areas = [int(target.sum()) for target in batch["mask_labels"][0]]
    assert areas[0] == pytest.approx(2 * areas[1], rel=0.1)  # and so are their targets


def test_several_sentences_of_a_sample_are_one_row():
    sample = Sample(picture(), "a", SIZE, segments=(Segment(mask(0, 9)),), expressions=("the cup", "it"))
    batch = PsalmCollator(PROCESSOR)([sample, sentence()])
    expected = PROCESSOR(images=[picture(), picture()], expressions=[[["the cup", "it"]], [["the cup"]]])
    assert torch.equal(batch["input_ids"], expected["input_ids"])


def test_conversations_go_with_and_without_a_picture():
    messages = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})
    with_picture, without = Sample(picture(), "a", SIZE, conversation=messages), Sample(None, "b", None, conversation=messages)
    batch = PsalmCollator(PROCESSOR)([without, with_picture, without, with_picture])
    assert batch["image_index"].tolist() == [-1, 0, -1, 0] and len(batch["pixel_values"]) == 1
    assert (batch["labels"] != -100).any(dim=1).all()
    assert "pixel_values" not in PsalmCollator(PROCESSOR)([without])


def test_the_plain_style_is_for_captions():
    batch = PsalmCollator(PROCESSOR, prompt_style="plain")([ShapesStream("caption")[0]])
    text = PROCESSOR.tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert text == ShapesStream("caption")[0].conversation[0]["content"] + "\n"


def test_without_targets_there_are_none():
    assert not {"mask_labels", "class_labels"} & PsalmCollator(PROCESSOR, with_targets=False)([sentence()]).keys()


def test_regions_that_mean_nothing_known_can_be_asked_about_but_not_trained_on():
    sample = Sample(picture(), "x7", SIZE, regions=(Region("point", ((3.0, 4.0),)),))
    assert "region_weights" in PsalmCollator(PROCESSOR, with_targets=False)([sample])
    with pytest.raises(ValueError, match="image x7: region 0 points at no segment"):
        PsalmCollator(PROCESSOR)([sample])


def test_regions_are_read_from_the_picture_they_are_drawn_on():
    region = Region("mask", mask_rle={"size": [16, 16], "counts": [0, 256]}, segment=0)
    elsewhere = Sample(picture(0), "a", SIZE, CUP, regions=(region,), region_image=picture(1).resize((16, 16)), region_image_size=(16, 16))
    own = Sample(picture(0), "a", SIZE, CUP, regions=(Region("mask", mask_rle=CUP[0].mask_rle, segment=0),))
    batch = PsalmCollator(PROCESSOR)([elsewhere, own])
    assert batch["region_image_index"][:, 0].tolist() == [0, -1] and len(batch["region_pixel_values"]) == 1
    with pytest.raises(ValueError, match="region image of image a: the image is 16 x 16, but the sample says"):
        PsalmCollator(PROCESSOR)([replace(elsewhere, region_image_size=(32, 16), regions=(Region("point", points=((1, 1),), segment=0),))])


def test_the_shuffle_depends_on_seed_and_images_alone():
    def order(image_id, seed):
        batch = PsalmCollator(PROCESSOR, shuffle_categories=True, seed=seed)([Sample(picture(), image_id, SIZE, categories=NAMES)])
        return tuple(batch["condition_index"][0][batch["condition_index"][0] > 0].unique_consecutive().tolist())

    torch.manual_seed(0)
    orders = [order(image_id, seed) for image_id in "abcdef" for seed in (0, 1)]
    torch.manual_seed(1)
    assert orders == [order(image_id, seed) for image_id in "abcdef" for seed in (0, 1)]
    assert len(set(orders)) > 4
    plain = PsalmCollator(PROCESSOR)([Sample(picture(), "a", SIZE, categories=NAMES)])
    assert plain["condition_index"][0].unique_consecutive().tolist()[1:8:2] == [1, 2, 3, 4]


def test_the_task_chooses_the_instruction():
    samples = [Sample(picture(), "a", SIZE, categories=NAMES, task=task) for task in ("panoptic", "semantic", "instance")]
    for sample in samples:
        task = sample.task
        batch = PsalmCollator(PROCESSOR, prompt_style="released")([sample])
        expected = PROCESSOR(images=picture(), categories=list(NAMES.values()), task=task, prompt_style="released")
        assert torch.equal(batch["input_ids"], expected["input_ids"])
    with pytest.raises(ValueError, match="image a: its task is semantic, but that of image a in the same batch is panoptic"):
        PsalmCollator(PROCESSOR)(samples)


def test_a_picture_is_read_as_stored_without_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn, for whoever looks at it
    picture().save(tmp_path / "turned.png", exif=exif)
    turned = PsalmCollator(PROCESSOR)([sentence(image=str(tmp_path / "turned.png"))])
    assert_same(turned, PsalmCollator(PROCESSOR)([sentence()]))


CROWD = (Segment(mask(0, 9), is_crowd=True),)


@pytest.mark.parametrize(
    "samples, message",
    [
        ([], "no samples"),
        (
            [sentence(image_id="a1"), Sample(picture(), "b2", SIZE, categories=NAMES)],
            "image b2: its condition is category, but that of image a1 in the same batch is sentence",
        ),
        ([sentence(image_id="a1", image="/nowhere/a.jpg")], "image a1: cannot be read from '/nowhere/a.jpg'"),
        ([sentence(image_id="a1", image=b"no picture")], "image a1: cannot be read from 10 bytes"),
        ([sentence(image_id="a1", image=png()[:300])], "image a1: cannot be read from 300 bytes"),
        ([sentence(image_id="a1", image=picture().rotate(90, expand=True))], r"image a1: the image is 48 x 32, but .* \(32, 48\)"),
        ([sentence(image_id="a1", segments=CROWD)], "image a1: 'the cup' means crowds only"),
        (
            [Sample(picture(), "a1", SIZE, segments=CROWD, regions=(Region("point", ((1.0, 2.0),), segment=0),))],
            "image a1: all regions point at crowds",
        ),
        ([sentence(), sentence("the [SEG]", image_id="b2")], r"image 1, expression 0: .*images of this batch: 0 = a, 1 = b2"),
    ],
)
def test_errors_name_the_image(samples, message):
    with pytest.raises(ValueError, match=message):
        PsalmCollator(PROCESSOR)(samples)


def test_a_picture_that_pillow_takes_for_a_bomb_is_named(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(ValueError, match=r"image a1: cannot be read from .* bytes \(DecompressionBombError: "):
        PsalmCollator(PROCESSOR)([sentence(image_id="a1", image=png())])
