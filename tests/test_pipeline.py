"""pipeline("promptable-segmentation"): what it finds, in which form, from which kinds of input."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from psalm_hf import PsalmModel, PsalmPredictor, load_image, tiny_checkpoint
from psalm_hf.data.shapes.scene import SHAPES, STUFF, make_scene
from psalm_hf.pipeline import join_rows
from psalm_hf.tiny import build_tiny
from tests.test_imports import ROOT

PICTURE = str(ROOT / "examples" / "pictures" / "shapes.png")  # scene 41 of the split "test"
PICTURE_IMAGE = load_image(PICTURE)
CATEGORIES = ["triangle", "cross", "grass"]
POINT = (88, 23)
ITEMS = [
    {"image": PICTURE, "expressions": "the purple triangle"},
    {"image": PICTURE, "categories": CATEGORIES},
    {"image": PICTURE, "points": [POINT], "expressions": ["all dotted things", "the yellow moon"]},
    {"image": PICTURE, "boxes": [(91, 61, 121, 91), (20, 20, 60, 60)]},
]


@pytest.fixture(scope="module")
def segmenter():
    return pipeline("promptable-segmentation", model=str(tiny_checkpoint()), device="cpu")


@pytest.fixture(scope="module")
def scene():
    return make_scene("test", 41, image_size=128)


def bitmap(found):
    return np.asarray(found["mask"]) > 0


def iou(found, target):
    return (bitmap(found) & target).sum() / (bitmap(found) | target).sum()


def comparable(answer):
    return [(found["label"], found["mask"].tobytes()) for found in answer]


def test_the_bundled_picture_is_the_scene(scene):
    assert (np.asarray(load_image(PICTURE)) == scene.image).all()


def test_an_expression_gets_one_entry_with_what_it_means_and_an_absent_thing_none(segmenter, scene):
    answer = segmenter(PICTURE, expressions=["the purple triangle", "the yellow moon", "all dotted things"])
    assert [found["label"] for found in answer] == ["the purple triangle", "all dotted things"]
    (triangle,) = [thing.mask for thing in scene.things if (thing.color, thing.shape) == ("purple", "triangle")]
    dotted = [thing.mask for thing in scene.things if thing.pattern == "dotted"]
    assert len(dotted) > 1 and not [thing for thing in scene.things if thing.shape == "moon"]
    assert iou(answer[0], triangle) > 0.9 and iou(answer[1], np.any(dotted, axis=0)) > 0.9


def test_without_a_model_psalm_tiny_answers(segmenter):
    default = pipeline("promptable-segmentation", device="cpu")
    assert comparable(default(PICTURE, expressions="all dotted things")) == comparable(segmenter(PICTURE, expressions="all dotted things"))


def test_no_target_threshold_none_always_gives_an_answer(segmenter):
    (moon,) = segmenter(PICTURE, expressions="the yellow moon", no_target_threshold=None)
    assert moon["label"] == "the yellow moon" and moon["score"] < 0.87


def test_every_instance_of_an_expression_is_an_entry(segmenter):
    options = {"expressions": "all dotted things", "referring_threshold": 0.91, "no_target_threshold": 0.87}
    (whole,) = segmenter(PICTURE, **options)
    every = segmenter(PICTURE, instances=True, nms_threshold=1.0, **options)
    assert len(every) > 1 and {one["label"] for one in every} == {"all dotted things"}
    assert np.array_equal(np.any([bitmap(one) for one in every], axis=0), bitmap(whole))
    scores = [one["score"] for one in every]
    assert scores == sorted(scores, reverse=True) and scores[0] == whole["score"]
    asked = segmenter(PICTURE, expressions=["the yellow moon", "all dotted things"], instances=True)
    assert {one["label"] for one in asked} == {"all dotted things"}  # the other means nothing


def test_referring_threshold_none_is_the_best_query_alone(segmenter):
    (united,), (best,) = (segmenter(PICTURE, expressions="all dotted things", **options) for options in ({}, {"referring_threshold": None}))
    assert 0 < bitmap(best).sum() < bitmap(united).sum()


def test_categories_are_segments_of_their_names(segmenter, scene):
    answer = segmenter(PICTURE, categories=[*SHAPES, *STUFF], stuff=list(STUFF), threshold=0.5)
    labels = [found["label"] for found in answer]
    assert sorted(labels) == sorted([*(thing.shape for thing in scene.things), *scene.stuff])
    masks = {found["label"]: found for found in answer}
    assert iou(masks["grass"], scene.stuff["grass"]) > 0.9
    assert iou(masks["square"], next(thing.mask for thing in scene.things if thing.shape == "square")) > 0.9


def test_a_higher_threshold_keeps_fewer_segments(segmenter):
    sure, all_of_them = (segmenter(PICTURE, categories=CATEGORIES, task="instance", threshold=value) for value in (0.96, 0.0))
    assert 0 < len(sure) < len(all_of_them)
    assert all(found["score"] > 0.96 for found in sure)


def test_a_semantic_map_has_a_category_for_every_pixel_and_no_scores(segmenter):
    answer = segmenter(PICTURE, categories=CATEGORIES, task="semantic")
    assert np.sum([bitmap(found) for found in answer], axis=0).tolist() == np.ones((128, 128), dtype=int).tolist()
    assert {found["score"] for found in answer} == {None}


def test_regions_are_answered_in_the_order_regions_points_boxes_scribbles_masks(segmenter, scene):
    answer = segmenter(
        PICTURE,
        masks=[scene.things[0].mask],
        scribbles=[[(28, 95), (34, 100), (44, 103)]],
        boxes=[(91, 61, 121, 91)],
        points=[POINT],
        regions=[{"point": (34, 100)}],
    )
    assert [found["label"] for found in answer] == ["point", "point", "box", "scribble", "mask"]
    (pointed,) = [thing.mask for thing in scene.things if thing.mask[POINT[1], POINT[0]]]
    assert iou(answer[1], pointed) > 0.9
    assert iou(answer[4], scene.things[0].mask) > 0.8


def test_entries_have_the_form_of_image_segmentation_pipelines(segmenter):
    wide = Image.new("RGB", (60, 40))
    for found in segmenter(wide, regions=[{"box": (5, 5, 20, 20)}], expressions="this", no_target_threshold=None):
        assert set(found) == {"label", "score", "mask"}
        assert isinstance(found["score"], float)
        assert found["mask"].mode == "L" and found["mask"].size == (60, 40)
        assert set(np.unique(found["mask"])) <= {0, 255}


def test_a_picture_is_encoded_once_for_all_of_its_prompts(segmenter, monkeypatch):
    seen = []
    encode = PsalmModel.get_image_features
    monkeypatch.setattr(
        PsalmModel, "get_image_features", lambda model, pixels, **all: seen.append(len(pixels)) or encode(model, pixels, **all)
    )
    segmenter(PICTURE, categories=CATEGORIES, expressions=["one", "two", "three"], points=[POINT])
    assert seen == [1]
    segmenter(ITEMS, batch_size=3)
    assert seen == [1, 3, 1]


def test_batches_of_different_prompts_give_what_single_pictures_give(segmenter):
    other = Image.fromarray(make_scene("test", 3, image_size=128).image)
    drawn_elsewhere = [
        {"image": other, "regions": [{"point": POINT}, {"point": (5, 5)}], "region_images": [PICTURE_IMAGE, None]},
        {"image": PICTURE, "regions": [{"point": (100, 60)}], "region_images": other},
    ]
    items = [*ITEMS, *drawn_elsewhere]
    singles = [comparable(segmenter(item)) for item in items]
    assert [len(answer) for answer in singles[2:]] == [2, 2, 2, 1]
    for batch_size in (2, 6):
        assert [comparable(answer) for answer in segmenter(items, batch_size=batch_size)] == singles


def test_joined_rows_are_what_the_processor_makes_of_all_pictures_at_once(segmenter):
    pictures = [Image.fromarray(make_scene("test", number, image_size=128).image) for number in range(4)]
    prompts = [
        {"categories": ["a", "b"], "expressions": ["a much longer expression than the others", "one"]},
        {"regions": [{"point": POINT}, {"point": (5, 5)}], "region_images": [pictures[2], None]},
        {"regions": [{"point": (9, 9)}]},
        {"expressions": ["two"], "regions": [{"point": (7, 7)}, {"box": (3, 3, 9, 9)}, {"point": POINT}], "region_images": pictures[0]},
    ]
    processor = segmenter.processor
    joined = join_rows(
        [processor(images=image, **prompt) for image, prompt in zip(pictures, prompts, strict=True)], processor.tokenizer.pad_token_id
    )
    at_once = {name: [prompt.get(name) for prompt in prompts] for name in ("categories", "expressions", "regions", "region_images")}
    expected = processor(images=pictures, **at_once)
    assert joined["region_image_index"].max() == 1
    torch.testing.assert_close(joined, dict(expected), rtol=0, atol=0)


class Rows:
    """Has a length and positions, as a `datasets.Dataset`."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(ITEMS)

    def __getitem__(self, index):
        self.read.append(index)
        return ITEMS[index]


class TorchRows(Rows, Dataset):
    pass


@pytest.mark.parametrize(
    "stream", [lambda: (item for item in ITEMS), lambda: iter(ITEMS), Rows, TorchRows, lambda: tuple(ITEMS)],
    ids=["generator", "iterator", "positions", "torch", "tuple"],
)  # fmt: skip
def test_streams_give_what_a_list_gives(segmenter, stream):
    assert [comparable(answer) for answer in segmenter(stream())] == [comparable(answer) for answer in segmenter(ITEMS)]


def test_a_dataset_is_read_as_answers_are_asked_for(segmenter):
    rows = Rows()
    answers = iter(segmenter(rows))
    assert rows.read == []
    next(answers)
    assert rows.read == [0]


def test_a_column_of_a_dataset_goes_with_prompts_for_all(segmenter):
    answers = list(segmenter(KeyDataset(TorchRows(), "image"), points=[POINT]))
    assert [comparable(answer) for answer in answers] == [comparable(segmenter(PICTURE, points=[POINT]))] * 4


def test_workers_prepare_pictures(segmenter):
    expected = [comparable(answer) for answer in segmenter(ITEMS)]
    assert [comparable(answer) for answer in segmenter(ITEMS, num_workers=1, batch_size=2)] == expected


def test_prompts_of_an_item_replace_those_of_the_call_and_these_the_defaults(segmenter):
    model, processor = segmenter.model, segmenter.processor
    default = pipeline(
        "promptable-segmentation", model=model, processor=processor, device="cpu", expressions="one", no_target_threshold=None
    )
    assert [found["label"] for found in default(PICTURE)] == ["one"]
    assert [found["label"] for found in default(PICTURE, expressions="two")] == ["two"]
    first, second = default([{"image": PICTURE, "expressions": ["three"]}, PICTURE], expressions="two")
    assert [first[0]["label"], second[0]["label"]] == ["three", "two"]


def test_a_saved_pipeline_loads_from_its_folder(tmp_path):
    model, processor = build_tiny()
    processor.no_target_threshold = 0.25
    made = pipeline("promptable-segmentation", model=model, processor=processor, device="cpu")
    made.save_pretrained(tmp_path)
    loaded = pipeline("promptable-segmentation", model=str(tmp_path), device="cpu")  # asks for no trust_remote_code
    assert loaded.processor.no_target_threshold == 0.25
    prompts = {"categories": ["a", "b"], "task": "semantic", "points": [POINT]}
    assert comparable(loaded(PICTURE, **prompts)) == comparable(made(PICTURE, **prompts))


def test_a_vocabulary_that_does_not_fit_is_divided(scene):
    model, processor = build_tiny()
    made = pipeline("promptable-segmentation", model=model, processor=processor, device="cpu")
    names = [f"thing number {number}" for number in range(60)]
    expected = made(PICTURE, categories=names, threshold=0.0)
    assert len(processor(images=PICTURE_IMAGE, categories=names)["input_ids"]) == 1
    processor.max_length = 700
    items = [{"image": PICTURE, "categories": names, "expressions": "one", "points": [POINT]}, {"image": PICTURE, "expressions": "two"}]
    first, second = made(items, batch_size=2, threshold=0.0)
    assert [found["label"] for found in first[-2:]] == ["one", "point"] and [found["label"] for found in second] == ["two"]
    assert len(first) > 2 and {found["label"] for found in [*first[:-2], *expected]} <= set(names)
    assert comparable(first) == comparable(made(items[0], threshold=0.0))
    alone = PsalmPredictor(model, processor, reuse_prefix=False).predict(PICTURE, categories=names, threshold=0.0)
    assert comparable(made(PICTURE, categories=names, threshold=0.0)) == [
        (label, Image.fromarray(mask.astype(np.uint8) * 255).tobytes()) for label, mask in zip(alone.labels, alone.masks, strict=True)
    ]


def test_an_empty_list_has_no_answers(segmenter):
    assert segmenter([], expressions="one") == []


def test_a_stream_whose_third_picture_is_missing_gives_the_answers_before_it(segmenter):
    answers = iter(segmenter(iter([PICTURE, PICTURE, "missing.png", PICTURE]), points=[POINT]))
    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(ValueError, match=r"missing\.png: no such file"):
        next(answers)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (PICTURE, {}, "shapes.png: no prompt; give one of categories, expressions"),
        (PICTURE, {"region_images": PICTURE_IMAGE}, "no prompt"),
        (PICTURE, {"expression": "one"}, "unknown arguments: expression; prompts are categories, expressions"),
        ({"image": PICTURE, "caption": "one"}, {}, "unknown keys of the dictionary: caption"),
        ({"picture": PICTURE}, {"expressions": "one"}, "needs the key 'image', got picture"),
        ("nowhere.png", {"expressions": "one"}, "nowhere.png: no such file"),
        (PICTURE, {"expressions": ["one", "  "]}, "shapes.png: image 0, expression 1: is blank"),
        (PICTURE, {"points": POINT}, "shapes.png: image 0, region 0"),
        (PICTURE, {"points": 3}, "points: expected a list with one element per region, got 3"),
        (PICTURE, {"points": []}, "regions are a list of at least one"),
        (PICTURE, {"boxes": [(500, 500, 600, 600)]}, "image 0, region 0"),
        (PICTURE, {"categories": ["a", "b"], "stuff": ["c"]}, "stuff: 'c' not among the categories a, b"),
        (PICTURE, {"expressions": "one", "stuff": ["c"]}, "stuff: 'c' not among the categories (none)"),
        (PICTURE, {"categories": ["a", "b"], "task": "depth"}, "depth"),
        (PICTURE, {"categories": ["a", "b"], "task": "semantic", "threshold": 0.5}, "threshold: a semantic map has none"),
        (PICTURE, {"expressions": "one", "referring_threshold": 1.5}, "expected a score from 0 to 1"),
        (PICTURE, {"expressions": "one", "mask_threshold": 2.0}, "mask_threshold"),
        (None, {"expressions": "one"}, "expected an image, a dictionary with one, or a list or stream of these, got NoneType"),
        (torch.zeros(7), {"expressions": "one"}, "image 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(segmenter, inputs, options, message):
    with pytest.raises(ValueError) as caught:
        segmenter(inputs, **options)
    assert message in str(caught.value)


def test_a_pipeline_with_a_dtype_can_be_saved(tmp_path):
    made = pipeline("promptable-segmentation", model=str(tiny_checkpoint()), dtype=torch.float32)
    made.save_pretrained(tmp_path)
    assert {"model.safetensors", "processor_config.json"} <= {path.name for path in tmp_path.iterdir()}
