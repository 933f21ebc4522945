"""COCO on a drawn folder of its layout, and on the real sample, compared with pycocotools and with the PNG files pixel by pixel."""

import json
from collections import defaultdict

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 90, "name": "toothbrush", "isthing": 1},
    {"id": 199, "name": "wall-other-merged", "isthing": 0},
]
MAP = np.array([[300, 300, 0, 7, 7, 7], [300, 300, 0, 7, 7, 8], [5, 5, 5, 5, 8, 8], [5, 5, 5, 5, 8, 8]])
POLYGON = [0, 0, 3, 0, 3, 2, 0, 2]


def colours(segment_map):
    return np.stack([segment_map & 255, segment_map >> 8 & 255, segment_map >> 16], axis=-1).astype(np.uint8)


def info(id, category_id, iscrowd=0):
    return {"id": id, "category_id": category_id, "iscrowd": iscrowd}


def instance(id, image_id, category_id, segmentation, iscrowd=0):
    return {"id": id, "image_id": image_id, "category_id": category_id, "iscrowd": iscrowd, "segmentation": segmentation}


SEGMENTS = [info(300, 90), info(7, 1), info(8, 1, iscrowd=1), info(5, 199)]
INSTANCES = [
    instance(11, 30, 90, [POLYGON, [3, 2, 6, 2, 6, 4]]),
    instance(12, 30, 1, {"size": list(SIZE), "counts": [3, 5, 16]}, iscrowd=1),
    instance(13, 20, 1, {"size": list(SIZE), "counts": [1, 1, 22]}, iscrowd=1),
]


@pytest.fixture
def root(tmp_path):
    """Images 30 (objects, a crowd, stuff), 20 (a crowd alone) and 10 (nothing), in both splits."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        for folder in (split, f"panoptic_{split}", f"panoptic_semseg_{split}"):
            (root / folder).mkdir()
        for image_id in (30, 20, 10):
            Image.new("RGB", SIZE[::-1], (image_id, 0, 0)).save(root / split / f"{image_id:012d}.jpg")
            Image.fromarray(colours(MAP)).save(root / f"panoptic_{split}/{image_id:012d}.png")
        labels = np.select([MAP == 300, MAP == 7, MAP == 8, MAP == 5], [1, 0, 0, 2], default=255)
        Image.fromarray(labels.astype(np.uint8)).save(root / f"panoptic_semseg_{split}/{30:012d}.png")
        images = [{"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": 4, "width": 6} for image_id in (30, 20, 10)]
        annotations = [
            {"image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": segments}
            for image_id, segments in ((20, [info(8, 1, iscrowd=1)]), (30, SEGMENTS), (10, []))
        ]
        write(root, f"panoptic_{split}", {"images": images, "annotations": annotations, "categories": CATEGORIES})
        things = [{key: entry[key] for key in ("id", "name")} for entry in CATEGORIES[:2]]
        write(root, f"instances_{split}", {"images": images, "annotations": INSTANCES, "categories": things})
    return root


def write(root, name, content):
    (root / f"annotations/{name}.json").write_text(json.dumps(content), encoding="utf-8")


def read(root, name):
    return json.loads((root / f"annotations/{name}.json").read_text(encoding="utf-8"))


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def found(sample):
    return [(segment.category_id, segment.is_crowd) for segment in sample.segments]


def test_panoptic_segments_have_the_pixels_of_their_ids(root, tmp_path):
    dataset = load("coco_panoptic", "val", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in dataset] == ["30", "20", "10"]  # in the order of `images`, not of `annotations`
    sample = dataset[0]
    assert found(sample) == [(90, False), (1, False), (1, True), (199, False)]
    assert np.array_equal(bitmaps(sample), [MAP == 300, MAP == 7, MAP == 8, MAP == 5])
    assert dict(sample.categories) == {1: "person", 90: "toothbrush", 199: "wall-other-merged"}
    assert [category.is_thing for category in dataset.categories] == [True, True, False]


def test_instances_are_the_masks_of_pycocotools(root, tmp_path):
    dataset = load("coco_instance", "val", root, cache_dir=tmp_path)
    tool = COCO(str(root / "annotations/instances_val2017.json"))
    assert found(dataset[0]) == [(90, False), (1, True)] and found(dataset[1]) == [(1, True)] and found(dataset[2]) == []
    assert np.array_equal(bitmaps(dataset[0]), [tool.annToMask(annotation) for annotation in INSTANCES[:2]])
    assert [category.is_thing for category in dataset.categories] == [True, True]


@pytest.mark.parametrize("masks", ["panoptic", "semseg"])
def test_semantic_masks_unite_what_is_of_one_category_crowds_included(masks, root, tmp_path):
    sample = load("coco_semantic", "val", root, cache_dir=tmp_path, keep_empty=masks == "panoptic", masks=masks)[0]
    assert found(sample) == [(1, False), (90, False), (199, False)]
    assert np.array_equal(bitmaps(sample), [np.isin(MAP, [7, 8]), MAP == 300, MAP == 5])


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance", "coco_semantic"])
@pytest.mark.parametrize(
    "split, options, ids",
    [
        ("val", {}, ["30", "20", "10"]),
        ("train", {}, ["30"]),
        ("train", {"keep_empty": True}, ["30", "20", "10"]),
        ("val", {"keep_empty": False}, ["30"]),
    ],
)
def test_images_with_nothing_to_learn_are_left_out_of_training(name, split, options, ids, root, tmp_path):
    assert [sample.image_id for sample in load(name, split, root, cache_dir=tmp_path, **options)] == ids


# dataset, annotation file, what is done to its content, message
BROKEN = {
    "category": (
        "coco_panoptic",
        "panoptic_val2017",
        lambda content: content["annotations"][1]["segments_info"].append(info(9, 12)),
        "segment 4 has the unknown category id 12",
    ),
    "semantic category": (
        "coco_semantic",
        "panoptic_val2017",
        lambda content: content["annotations"][1]["segments_info"].append(info(9, 12)),
        "segment 9 has the unknown category id 12",
    ),
    "no PNG": (
        "coco_panoptic",
        "panoptic_val2017",
        lambda content: content["annotations"][1].update(file_name="x.png"),
        "segment map panoptic_val2017/x.png does not exist",
    ),
    "two annotations": (
        "coco_panoptic",
        "panoptic_val2017",
        lambda content: content["annotations"].append(content["annotations"][1]),
        "expected one annotation, got 2",
    ),
    "size": (
        "coco_instance",
        "instances_val2017",
        lambda content: content["images"][0].update(width=7),
        "is 4 x 6, but its annotation says 4 x 7",
    ),
    "polygon": (
        "coco_instance",
        "instances_val2017",
        lambda content: content["annotations"][0].update(segmentation=[[0, 0, 5, 3]]),
        "annotation 11: polygon 0",
    ),
    "RLE": (
        "coco_instance",
        "instances_val2017",
        lambda content: content["annotations"][1]["segmentation"].update(size=[9, 9]),
        "annotation 12: the mask is of size",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_named_or_left_out(case, root, tmp_path):
    name, file, change, message = BROKEN[case]
    content = read(root, file)
    change(content)
    write(root, file, content)
    with pytest.raises(ValueError, match=f"{name} val: annotations/{file}.json, image 30: .*{message}.*docs page COCO 2017"):
        load(name, "val", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in load(name, "val", root, cache_dir=tmp_path, on_error="skip")] == ["20", "10"]


def test_annotations_of_an_image_that_is_not_listed_are_named(root, tmp_path):
    content = read(root, "instances_val2017")
    content["images"].pop(0)
    write(root, "instances_val2017", content)
    with pytest.raises(ValueError, match="instances_val2017.json, image 30: 2 annotations are of this image, but `images` does not"):
        load("coco_instance", "val", root, cache_dir=tmp_path)


def test_an_id_that_the_png_does_not_have_is_found_where_masks_are_decoded(root, tmp_path):
    content = read(root, "panoptic_val2017")
    content["annotations"][1]["segments_info"].append(info(9, 1))
    write(root, "panoptic_val2017", content)
    dataset = load("coco_panoptic", "val", root, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="image 30: no pixel of the segment map has the value 9"):
        dataset[0]
    with pytest.raises(ValueError, match="coco_panoptic val: .*image 30: no pixel of the segment map has the value 9"):
        load("coco_panoptic", "val", root, cache_dir=tmp_path, check_images=True)


def test_unknown_masks_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="coco_semantic: unknown masks 'stuff', expected one of panoptic, semseg"):
        load("coco_semantic", "val", root, cache_dir=tmp_path, masks="stuff")


# The real files. Counts are read from them, so that another folder of the same layout does as well.

samples = pytest.mark.samples
COCO_ROOT = SAMPLES / "coco"
NAMES = ("coco_panoptic", "coco_instance", "coco_semantic")


def annotations_by_image(content, split):
    file = read(COCO_ROOT, f"{content}_{split}2017")
    grouped = defaultdict(list)
    for annotation in file["annotations"]:
        grouped[str(annotation["image_id"])].append(annotation)
    return file, grouped


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_panoptic_masks_are_those_of_the_png_files(split, tmp_path):
    file, grouped = annotations_by_image("panoptic", split)
    dataset = load("coco_panoptic", split, COCO_ROOT, cache_dir=tmp_path, keep_empty=True, check_images=True)
    assert [sample.image_id for sample in dataset] == [str(image["id"]) for image in file["images"]]
    assert [(entry.id, entry.name) for entry in dataset.categories] == [(entry["id"], entry["name"]) for entry in file["categories"]]
    for sample in dataset:
        (annotation,) = grouped[sample.image_id]
        pixels = np.asarray(Image.open(COCO_ROOT / f"panoptic_{split}2017" / annotation["file_name"])).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 256**2 * pixels[..., 2]
        assert found(sample) == [(info["category_id"], bool(info["iscrowd"])) for info in annotation["segments_info"]]
        for info, bitmap in zip(annotation["segments_info"], bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, ids == info["id"]) and bitmap.sum() == info["area"]


@samples
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_instance_masks_are_those_of_pycocotools(split, tmp_path):
    file, grouped = annotations_by_image("instances", split)
    tool = COCO(str(COCO_ROOT / f"annotations/instances_{split}2017.json"))
    dataset = load("coco_instance", split, COCO_ROOT, cache_dir=tmp_path, keep_empty=True, check_images=True)
    assert [sample.image_id for sample in dataset] == [str(image["id"]) for image in file["images"]]
    assert len(dataset.categories) == 80
    for sample in dataset:
        annotations = grouped[sample.image_id]
        assert found(sample) == [(annotation["category_id"], bool(annotation["iscrowd"])) for annotation in annotations]
        for annotation, bitmap in zip(annotations, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, tool.annToMask(annotation))


@samples
@pytest.mark.parametrize("masks", ["panoptic", "semseg"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_semantic_masks_are_those_of_the_semseg_files(split, masks, tmp_path):
    dataset = load("coco_semantic", split, COCO_ROOT, cache_dir=tmp_path, keep_empty=True, masks=masks)
    position = {category.id: number for number, category in enumerate(dataset.categories)}
    for sample in dataset:
        labels = np.full(sample.image_size, 255)
        for segment, bitmap in zip(sample.segments, bitmaps(sample), strict=True):
            labels[bitmap] = position[segment.category_id]
        expected = np.asarray(Image.open(COCO_ROOT / f"panoptic_semseg_{split}2017/{int(sample.image_id):012d}.png"))
        assert np.array_equal(labels, expected)


@samples
@pytest.mark.parametrize("name", NAMES)
def test_a_second_pass_over_real_annotations_gives_the_same(name, tmp_path):
    dataset = load(name, "train", COCO_ROOT, cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load(name, "train", COCO_ROOT, cache_dir=tmp_path))


@samples
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_two_ranks_share_the_real_annotations(name, split, tmp_path):
    rows = load(name, split, COCO_ROOT, cache_dir=tmp_path, streaming=True).rows
    parts = [[row["image_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=2)] for rank in range(2)]
    assert rows.num_shards >= 2 and all(parts)
    assert sorted(parts[0] + parts[1]) == sorted(row["image_id"] for row in rows)


@samples
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_the_same_real_rows(name, tmp_path):
    one = load(name, "train", COCO_ROOT, cache_dir=tmp_path / "one")
    two = load(name, "train", COCO_ROOT, cache_dir=tmp_path / "two", num_proc=2)
    assert list(one.rows) == list(two.rows)
