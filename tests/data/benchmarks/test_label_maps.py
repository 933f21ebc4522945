"""What the datasets of label maps share: pairs of files, empty images, unknown values; on all real samples passes, ranks, processes."""

import pickle

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import DATASETS, load
from psalm_hf.data.benchmarks.label_maps import LabelMapBuilder, present_values
from tests.conftest import SAMPLES

FOLDERS = {
    "ADE20K": "ADEChallengeData2016",
    "Cityscapes": "cityscapes",
    "Pascal VOC 2012": "VOCdevkit",
    "Pascal Context": "pascal_ctx_d2",
}
NAMES = [name for name, builder in DATASETS.items() if builder.docs_page in FOLDERS]
SIZE = (3, 4)


@pytest.fixture
def root(tmp_path):
    """Images a (labels 0 and 58) and b (unlabelled) in the layout of Pascal Context, in both splits."""
    root = tmp_path / "data"
    for folder in ("training", "validation"):
        for kind in ("images", "annotations_ctx59"):
            (root / kind / folder).mkdir(parents=True)
        for name, labels in (("a", [0, 58]), ("b", [255, 255])):
            Image.new("RGB", SIZE[::-1]).save(root / f"images/{folder}/{name}.jpg")
            Image.fromarray(np.repeat(np.uint8([labels]), 6).reshape(SIZE)).save(root / f"annotations_ctx59/{folder}/{name}.png")
    return root


def ids(dataset):
    return [sample.image_id for sample in dataset]


def test_the_values_of_a_map_come_once_and_sorted():
    assert present_values(np.array([[7, 7, 3], [3, 7, 255]], dtype=np.int32)) == [3, 7, 255]
    assert present_values(np.full((2, 2), 65535, dtype=np.uint16)) == [65535]


@pytest.mark.parametrize(
    "split, options, expected",
    [("train", {}, ["a"]), ("val", {}, ["a", "b"]), ("train", {"keep_empty": True}, ["a", "b"]), ("val", {"keep_empty": False}, ["a"])],
)
def test_images_without_segments_are_left_out_of_training(split, options, expected, root, tmp_path):
    assert ids(load("pc59", split, root, cache_dir=tmp_path, **options)) == expected


@pytest.mark.parametrize(
    "missing, message",
    [
        ("annotations_ctx59/validation/a.png", "segment map annotations_ctx59/validation/a.png does not exist"),
        ("images/validation/a.jpg", "image images/validation/a.jpg does not exist"),
    ],
)
def test_a_file_without_its_partner_is_named_or_left_out(missing, message, root, tmp_path):
    (root / missing).unlink()
    with pytest.raises(ValueError, match=f"pc59 val: annotations_ctx59/validation/a.png, image a: {message}.*docs page Pascal Context"):
        load("pc59", "val", root, cache_dir=tmp_path)
    assert ids(load("pc59", "val", root, cache_dir=tmp_path, on_error="skip")) == ["b"]


def test_a_value_that_is_no_label_is_named(root, tmp_path):
    Image.fromarray(np.full(SIZE, 59, dtype=np.uint8)).save(root / "annotations_ctx59/validation/b.png")
    with pytest.raises(
        ValueError, match="pc59 val: annotations_ctx59/validation/b.png, image b: the map has the value 59, which is no label"
    ):
        load("pc59", "val", root, cache_dir=tmp_path)


def test_a_map_of_another_size_is_named(root, tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(root / "annotations_ctx59/validation/b.png")
    with pytest.raises(ValueError, match="image b: segment map annotations_ctx59/validation/b.png is 4 x 4, but .* 3 x 4"):
        load("pc59", "val", root, cache_dir=tmp_path)


def test_a_truncated_map_is_named(root, tmp_path):
    path = root / "annotations_ctx59/validation/a.png"
    path.write_bytes(path.read_bytes()[:-25])
    with pytest.raises(ValueError, match="image a: segment map .*a.png cannot be read"):
        load("pc59", "val", root, cache_dir=tmp_path)


def test_a_missing_folder_is_named(root, tmp_path):
    (root / "annotations_ctx59/validation").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match="pc59 val: there is no annotations_ctx59/validation in"):
        load("pc59", "val", root, cache_dir=tmp_path)


def test_new_files_make_new_rows(root, tmp_path):
    assert ids(load("pc59", "val", root, cache_dir=tmp_path)) == ["a", "b"]
    for kind, end in (("images", "jpg"), ("annotations_ctx59", "png")):
        (root / f"{kind}/validation/b.{end}").rename(root / f"{kind}/validation/c.{end}")
    assert ids(load("pc59", "val", root, cache_dir=tmp_path)) == ["a", "c"]


# The real files.

samples = pytest.mark.samples


def real(name, split, tmp_path, **options):
    return load(name, split, SAMPLES / FOLDERS[DATASETS[name].docs_page], cache_dir=tmp_path, **options)


@samples
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_share_the_real_maps_and_passes_are_equal(name, tmp_path):
    dataset = real(name, "val", tmp_path, streaming=True)
    rows = list(dataset.rows)
    assert rows and list(dataset.rows) == rows == list(real(name, "val", tmp_path).rows)
    parts = [[row["image_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(row["image_id"] for row in rows)
    assert len(rows) < 2 or all(parts)
    builder_ids = [[segment.category_id for segment in sample.segments] for sample in dataset]
    assert builder_ids == [[segment.category_id for segment in sample.segments] for sample in dataset]


@samples
@pytest.mark.parametrize("name", ["ade20k_instance", "pc459"])
def test_two_processes_make_the_same_real_rows(name, tmp_path):
    one, two = (real(name, "val", tmp_path / str(number), num_proc=number) for number in (1, 2))
    assert list(one.rows) == list(two.rows)


@samples
@pytest.mark.parametrize("name", NAMES)
def test_a_builder_can_be_pickled_and_counts_images(name, tmp_path):
    builder_class = DATASETS[name]
    folder = str(SAMPLES / FOLDERS[builder_class.docs_page])
    builder = builder_class(config_name=name, cache_dir=str(tmp_path), data_dir=folder, split="val")
    (shard,) = builder.shards().values()
    again = pickle.loads(pickle.dumps(builder))
    rows = [row for _, row in again._generate_examples(shard)]
    assert [row["image_id"] for row in rows] == [sample.image_id for sample in real(name, "val", tmp_path)]
    assert builder.counts() == {"images": len(rows)} and set(builder.published) == set(builder.splits)
    assert builder.task == ("panoptic" if name.endswith("panoptic") else "instance" if name.endswith("instance") else "semantic")
    if issubclass(builder_class, LabelMapBuilder):
        assert set(builder.config.__dict__) >= set(builder.options())
