"""Own data in COCO's format: on drawn files with paths of their own, and on the real sample read as if it were somebody's own."""

import json

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import load
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
MAP = np.array([[300, 300, 0, 7, 7, 7], [300, 300, 0, 7, 7, 7], [5, 5, 5, 5, 0, 0], [5, 5, 5, 5, 0, 0]])
CATEGORIES = [{"id": 0, "name": "weed"}, {"id": 40, "name": "soil", "isthing": 0}]
POLYGON = [0, 0, 3, 0, 3, 2, 0, 2]


def instance(id, image_id, category_id, segmentation, **fields):
    return {"id": id, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, **fields}


INSTANCES = [instance(11, "x", 40, [POLYGON]), instance(12, "x", 0, {"size": list(SIZE), "counts": [3, 5, 16]}, iscrowd=1)]
SEGMENTS = [{"id": 300, "category_id": 0}, {"id": 7, "category_id": 0}, {"id": 5, "category_id": 40}]
IMAGES = [{"id": "x", "file_name": "deep/x.png", "height": 4, "width": 6}, {"id": 9, "file_name": "9.png", "height": 4, "width": 6}]


@pytest.fixture
def root(tmp_path):
    """Images x and 9 (without annotations) of the split "may", in folders that COCO does not have."""
    root = tmp_path / "field"
    for folder in ("photos/may/deep", "maps_may"):
        (root / folder).mkdir(parents=True)
    for image in IMAGES:
        Image.new("RGB", SIZE[::-1]).save(root / "photos/may" / image["file_name"])
    colours = np.stack([MAP & 255, MAP >> 8, MAP * 0], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(root / "maps_may/x.png")
    write(root / "may.json", INSTANCES)
    write(root / "panoptic may.json", [{"image_id": "x", "file_name": "x.png", "segments_info": SEGMENTS}])
    return root


def write(path, annotations, images=IMAGES):
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}), encoding="utf-8")


INSTANCE_OPTIONS = {"annotations": "{split}.json", "images": "photos/{split}"}
PANOPTIC_OPTIONS = {"annotations": "panoptic {split}.json", "images": "photos/{split}", "masks": "maps_{split}"}


def found(sample):
    return [(segment.category_id, segment.is_crowd, segment.annotation_id) for segment in sample.segments]


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def test_instances_of_any_categories_in_any_folders(root, tmp_path):
    dataset = load("own_coco", "may", root, cache_dir=tmp_path, **INSTANCE_OPTIONS)
    assert [sample.image_id for sample in dataset] == ["x", "9"] and dataset.task == "instance"
    assert found(dataset[0]) == [(40, False, 11), (0, True, 12)] and dataset[1].segments == ()
    corner, runs = np.zeros(SIZE, dtype=bool), np.zeros(24, dtype=bool)
    corner[:2, :3], runs[3:8] = True, True
    assert np.array_equal(bitmaps(dataset[0]), [corner, runs.reshape(SIZE, order="F")])
    assert [(entry.id, entry.name, entry.is_thing) for entry in dataset.categories] == [(0, "weed", True), (40, "soil", False)]


def test_with_masks_the_segments_are_panoptic(root, tmp_path):
    dataset = load("own_coco", "may", root, cache_dir=tmp_path, **PANOPTIC_OPTIONS)
    assert found(dataset[0]) == [(0, False, 300), (0, False, 7), (40, False, 5)] and dataset.task == "panoptic"
    assert np.array_equal(bitmaps(dataset[0]), [MAP == 300, MAP == 7, MAP == 5])


def test_empty_images_are_left_out_of_training_unless_asked_for(root, tmp_path):
    for source, target in (("may.json", "train.json"), ("panoptic may.json", "panoptic train.json")):
        (root / source).rename(root / target)
    (root / "photos/may").rename(root / "photos/train")
    (root / "maps_may").rename(root / "maps_train")
    for options in (INSTANCE_OPTIONS, PANOPTIC_OPTIONS):
        assert [sample.image_id for sample in load("own_coco", "train", root, cache_dir=tmp_path, **options)] == ["x"]
        assert len(load("own_coco", "train", root, cache_dir=tmp_path, keep_empty=True, **options)) == 2


def test_an_image_id_that_is_listed_twice_is_refused(root, tmp_path):
    write(root / "may.json", INSTANCES, images=[*IMAGES, IMAGES[0]])
    with pytest.raises(ValueError, match="own_coco may: may.json lists image id 'x' more than once"):
        load("own_coco", "may", root, cache_dir=tmp_path, **INSTANCE_OPTIONS)


def test_a_category_named_background_is_refused(root, tmp_path):
    content = json.loads((root / "may.json").read_text(encoding="utf-8"))
    content["categories"][0]["name"] = "background"
    (root / "may.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="a category is named 'background', .* or give it another name"):
        load("own_coco", "may", root, cache_dir=tmp_path, **INSTANCE_OPTIONS)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"category_id": 3}, "segment 0 has the unknown category id 3"),
        ({"category_id": "40"}, "segment 0 has the unknown category id '40'"),
        ({"segmentation": []}, r"annotation 11: expected a mask as RLE or list of polygons, got \[\]"),
    ],
)
def test_a_broken_annotation_is_named(fields, message, root, tmp_path):
    write(root / "may.json", [INSTANCES[0] | fields])
    with pytest.raises(ValueError, match=f"own_coco may: may.json, image x: .*{message}.*docs page Own data"):
        load("own_coco", "may", root, cache_dir=tmp_path, **INSTANCE_OPTIONS)
    skipped = load("own_coco", "may", root, cache_dir=tmp_path, on_error="skip", **INSTANCE_OPTIONS)
    assert [sample.image_id for sample in skipped] == ["9"]


samples = pytest.mark.samples
COCO_ROOT = SAMPLES / "coco"
REAL = {
    "instances": {"annotations": "annotations/instances_{split}2017.json", "images": "{split}2017"},
    "panoptic": {"annotations": "annotations/panoptic_{split}2017.json", "images": "{split}2017", "masks": "panoptic_{split}2017"},
}


@samples
def test_real_instances_are_those_of_pycocotools(tmp_path):
    tool = COCO(str(COCO_ROOT / "annotations/instances_val2017.json"))
    dataset = load("own_coco", "val", COCO_ROOT, cache_dir=tmp_path, **REAL["instances"])
    assert {sample.image_id for sample in dataset} == set(map(str, tool.imgs))
    for sample in dataset:
        annotations = tool.imgToAnns[int(sample.image_id)]
        assert found(sample) == [(entry["category_id"], bool(entry["iscrowd"]), entry["id"]) for entry in annotations]
        for annotation, bitmap in zip(annotations, bitmaps(sample), strict=True):
            assert np.array_equal(bitmap, tool.annToMask(annotation))


@samples
def test_real_panoptic_segments_are_those_of_the_png_files(tmp_path):
    content = json.loads((COCO_ROOT / "annotations/panoptic_val2017.json").read_text(encoding="utf-8"))
    dataset = load("own_coco", "val", COCO_ROOT, cache_dir=tmp_path, **REAL["panoptic"])
    by_image = {str(annotation["image_id"]): annotation for annotation in content["annotations"]}
    for sample in dataset:
        annotation = by_image[sample.image_id]
        pixels = np.asarray(Image.open(COCO_ROOT / "panoptic_val2017" / annotation["file_name"])).astype(int)
        ids = pixels @ (1, 256, 256**2)
        assert [segment.annotation_id for segment in sample.segments] == [info["id"] for info in annotation["segments_info"]]
        assert all(
            np.array_equal(bitmap, ids == info["id"]) for bitmap, info in zip(bitmaps(sample), annotation["segments_info"], strict=True)
        )


@samples
@pytest.mark.parametrize("content", REAL)
def test_passes_streams_ranks_and_processes_agree(content, tmp_path):
    cached = load("own_coco", "train", COCO_ROOT, cache_dir=tmp_path, num_proc=2, **REAL[content])
    stream = load("own_coco", "train", COCO_ROOT, cache_dir=tmp_path, streaming=True, **REAL[content])
    assert list(stream) == list(stream) == list(cached)
    parts = [[row["image_id"] for row in split_dataset_by_node(stream.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.image_id for sample in cached)
