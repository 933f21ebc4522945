"""COCO-Interactive on a drawn folder and on the real sample: which objects are kept, and that prompts are those of their annotation."""

import json

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import load
from psalm_hf.data.benchmarks.coco_interactive import annotation_with_prompts, kinds_at_random
from psalm_hf.data.visual_prompts import draw_prompt
from psalm_hf.masks import bitmap_from_rle, uncompress_rle
from psalm_hf.structures import REGION_KINDS
from tests.conftest import SAMPLES

SIZE = (40, 60)
NAME = "coco_interactive"


def rectangle(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def pixels(x0, y0, x1, y1):
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[y0:y1, x0:x1] = True
    return bitmap


def annotation(id, image_id, segmentation, iscrowd=0):
    return {"id": id, "image_id": image_id, "category_id": 90, "iscrowd": iscrowd, "segmentation": segmentation}


OBJECTS = {11: (5, 5, 25, 30), 13: (30, 10, 56, 36), 14: (50, 0, 52, 2)}  # the last has too few pixels for the released rules
ANNOTATIONS = [
    annotation(11, 30, rectangle(*OBJECTS[11])),
    annotation(12, 30, {"size": list(SIZE), "counts": [3, 500, 1897]}, iscrowd=1),
    annotation(13, 30, rectangle(*OBJECTS[13])),
    annotation(14, 30, rectangle(*OBJECTS[14])),
    annotation(15, 20, rectangle(*OBJECTS[14])),
    annotation(16, 15, {"size": list(SIZE), "counts": [3, 500, 1897]}, iscrowd=1),
]


@pytest.fixture
def root(tmp_path):
    """Images 30 (two objects, a crowd, a tiny object), 20 (only a tiny object), 15 (only a crowd), 10 (nothing), in both splits."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    images = [{"id": id, "file_name": f"{id:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for id in (30, 20, 15, 10)]
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        for image in images:
            Image.new("RGB", SIZE[::-1]).save(root / split / image["file_name"])
        write(root / f"annotations/instances_{split}.json", {"images": images, "annotations": ANNOTATIONS, "categories": []})
    return root


def write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")


def write_prompts(root, name, rules, seed=0):
    """Content of the published file, made without the script."""
    content = json.loads((root / "annotations/instances_val2017.json").read_text())
    items = []
    for image in content["images"]:
        anns = [
            annotation_with_prompts(entry, (image["height"], image["width"]), rules=rules, seed=seed)
            for entry in content["annotations"]
            if entry["image_id"] == image["id"]
        ]
        if anns:
            items.append({"image": image["file_name"], "image_info": image, "new_img_id": len(items), "anns": anns})
    write(root / name, items)
    return items


@pytest.mark.parametrize("rules", ["paper", "released"])
@pytest.mark.parametrize("kind", REGION_KINDS)
def test_every_object_has_the_prompt_of_its_annotation(kind, rules, root, tmp_path):
    dataset = load(NAME, "val", root, cache_dir=tmp_path, kind=kind, rules=rules, seed=3)
    expected = {
        id: draw_prompt(pixels(*OBJECTS[id]), kind, seed=3, annotation_id=id, rules=rules, segment=position)
        for position, id in enumerate(OBJECTS)
    }
    ids = [id for id, region in expected.items() if region is not None]
    sample = dataset[0]
    assert sample.condition == "region" and sample.regions == tuple(expected[id] for id in ids)
    assert [segment.annotation_id for segment in sample.segments] == ids and {11, 13} <= set(ids)
    assert [segment.category_id for segment in sample.segments] == [90] * len(ids)
    for segment in sample.segments:
        assert np.array_equal(bitmap_from_rle(segment.mask_rle), pixels(*OBJECTS[segment.annotation_id]))


def test_an_image_without_any_prompt_is_left_out(root, tmp_path):
    released, paper = (
        load(NAME, "val", root, cache_dir=tmp_path, kind="point", rules=rules, check_images=True) for rules in ("released", "paper")
    )
    assert [sample.image_id for sample in released] == ["30"]  # the tiny object of image 20 has none
    assert [sample.image_id for sample in paper] == ["30", "20"]


def test_kinds_are_drawn_per_object_in_training(root, tmp_path):
    (sample, *_) = load(NAME, "train", root, cache_dir=tmp_path, rules="released", seed=1)
    kinds = [region.kind for region in sample.regions]
    first = [kinds_at_random(1, id)[0] for id in (11, 13)]
    assert kinds[:2] == first
    assert sample.regions[0] == draw_prompt(pixels(*OBJECTS[11]), first[0], seed=1, annotation_id=11, rules="released", segment=0)
    # Of the tiny object, only a mask can be drawn by the released rules: whatever comes first, that is its kind.
    assert kinds[2:] == ["mask"] and sample.segments[2].annotation_id == 14
    counts = np.unique([kinds_at_random(0, id)[0] for id in range(2000)], return_counts=True)[1]
    assert len(counts) == 4 and (abs(counts - 500) < 100).all()
    assert [kinds_at_random(0, id) for id in range(9)] != [kinds_at_random(1, id) for id in range(9)]


@pytest.mark.parametrize("rules", ["paper", "released"])
def test_prompts_of_a_file_are_those_that_are_drawn(rules, root, tmp_path):
    write_prompts(root, "prompts.json", rules, seed=5)
    for kind in REGION_KINDS:
        stored = load(NAME, "val", root, cache_dir=tmp_path, kind=kind, source="psalm_json", file="prompts.json")
        drawn = load(NAME, "val", root, cache_dir=tmp_path, kind=kind, rules=rules, seed=5)
        assert list(stored) == list(drawn) and len(stored)


def test_the_file_has_the_name_of_the_published_one(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="coco_interactive val: there is no coco_interactive_val_psalm.json in"):
        load(NAME, "val", root, cache_dir=tmp_path, kind="box", source="psalm_json")
    write_prompts(root, "coco_interactive_val_psalm.json", "released")
    assert len(load(NAME, "val", root, cache_dir=tmp_path, kind="box", source="psalm_json")) == 1


def test_a_file_of_something_else_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="coco_interactive val: .*instances_val2017.json is no list of images with prompts"):
        load(NAME, "val", root, cache_dir=tmp_path, kind="box", source="psalm_json", file="annotations/instances_val2017.json")


def test_a_broken_prompt_is_named_or_left_out(root, tmp_path):
    items = write_prompts(root, "x.json", "released")
    options = {"cache_dir": tmp_path, "kind": "mask", "source": "psalm_json", "file": "x.json"}
    items[0]["anns"][0]["mask_visual_prompt_mask"]["size"] = [9, 9]
    write(root / "x.json", items)
    with pytest.raises(
        ValueError,
        match="coco_interactive val: x.json, image 30: annotation 11: .*of size .9, 9., but the image is 40 x 60.*on_error='skip'",
    ):
        load(NAME, "val", root, **options)
    assert [sample.image_id for sample in load(NAME, "val", root, on_error="skip", **options)] == ["20"]
    del items[0]["anns"][0]["mask_visual_prompt_mask"]
    write(root / "x.json", items)
    with pytest.raises(ValueError, match="image 30: the field 'mask_visual_prompt_mask' is missing"):
        load(NAME, "val", root, **options)


def test_prompts_that_are_not_compressed_are_stored_as_the_others(root, tmp_path):
    options = {"cache_dir": tmp_path, "kind": "mask", "source": "psalm_json", "file": "x.json"}
    items = write_prompts(root, "x.json", "released")
    expected = list(load(NAME, "val", root, **options))
    for entry in (entry for item in items for entry in item["anns"]):
        entry["mask_visual_prompt_mask"] = uncompress_rle(entry["mask_visual_prompt_mask"])
    write(root / "x.json", items)
    assert list(load(NAME, "val", root, **options)) == expected


def test_a_broken_annotation_is_named(root, tmp_path):
    file = root / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    write(file, {**content, "annotations": [annotation(17, 30, [[0, 0, 5, 3]])]})
    with pytest.raises(ValueError, match="annotations/instances_val2017.json, image 30: annotation 17: polygon 0"):
        load(NAME, "val", root, cache_dir=tmp_path, kind="box")
    write(file, {**content, "images": content["images"][1:]})
    with pytest.raises(
        ValueError, match="instances_val2017.json, image 30: 4 annotations are of this image, but the file does not describe"
    ):
        load(NAME, "val", root, cache_dir=tmp_path, kind="box")


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "coco_interactive val: give the kind of the prompts, one of point, box, scribble, mask"),
        ({"kind": "circle"}, "coco_interactive: unknown kind 'circle', expected one of point"),
        ({"kind": "box", "rules": "ours"}, "unknown rules 'ours', expected one of paper, released"),
        ({"kind": "box", "source": "web"}, "unknown source 'web', expected one of generated, psalm_json"),
        ({"kind": "box", "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"kind": "box", "file": "x.json"}, "a file of prompts was given, x.json; give source='psalm_json'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, root, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(NAME, "val", root, cache_dir=tmp_path, **options)


# The real files.

COCO_ROOT = SAMPLES / "coco"


@pytest.mark.samples
@pytest.mark.parametrize("rules", ["paper", "released"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_objects_have_the_masks_of_pycocotools_and_prompts_that_touch_them(split, rules, tmp_path):
    tool = COCO(str(COCO_ROOT / f"annotations/instances_{split}2017.json"))
    for kind in ("point", "mask"):
        dataset = load(NAME, split, COCO_ROOT, cache_dir=tmp_path, kind=kind, rules=rules, check_images=True)
        expected = []
        for image_id in tool.imgs:
            masks = {entry["id"]: tool.annToMask(entry) for entry in tool.imgToAnns[image_id] if not entry["iscrowd"]}
            ids = [id for id, bitmap in masks.items() if draw_prompt(bitmap, kind, seed=0, annotation_id=id, rules=rules)]
            expected += [(str(image_id), id, masks[id]) for id in ids]
        found = [(sample.image_id, segment, region) for sample in dataset for segment, region in pairs(sample)]
        assert [(image_id, segment.annotation_id) for image_id, segment, _ in found] == [entry[:2] for entry in expected]
        for (_, segment, region), (_, _, bitmap) in zip(found, expected, strict=True):
            assert np.array_equal(bitmap_from_rle(segment.mask_rle), bitmap)
            if region.points is None:
                drawn = bitmap_from_rle(region.mask_rle)
                assert (bitmap[drawn] == 1).all() if kind == "point" else (drawn & (bitmap == 1)).any()
            else:
                ((x, y),) = region.points
                assert bitmap[int(y), int(x)]


def pairs(sample):
    assert [region.segment for region in sample.regions] == list(range(len(sample.segments)))
    return zip(sample.segments, sample.regions, strict=True)


@pytest.mark.samples
def test_a_second_pass_a_second_process_and_a_stream_give_the_same(tmp_path):
    stream = load(NAME, "train", COCO_ROOT, cache_dir=tmp_path, streaming=True)
    first = list(stream)
    assert list(stream) == first
    assert list(load(NAME, "train", COCO_ROOT, cache_dir=tmp_path, num_proc=2)) == first


@pytest.mark.samples
def test_two_ranks_share_the_real_images(tmp_path):
    rows = load(NAME, "val", COCO_ROOT, cache_dir=tmp_path, streaming=True, kind="box").rows
    parts = [[row["image_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=2)] for rank in range(2)]
    assert rows.num_shards >= 2 and all(parts)
    assert sorted(parts[0] + parts[1]) == sorted(row["image_id"] for row in rows)
