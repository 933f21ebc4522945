"""Ego-Exo4D on a drawn take, and on the sample in its schema, compared with the annotation files pixel by pixel."""

import json
import shutil

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.benchmarks.ego_exo4d import resized
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from tests.conftest import SAMPLES

FULL = {"aria01_214-1": (8, 8), "cam01": (8, 12)}  # masks; frames have half the size
EGO, EXO = FULL


def square(camera, row, column, side=2):
    bitmap = np.zeros(FULL[camera], dtype=bool)
    bitmap[row : row + side, column : column + side] = True
    return bitmap


CUP = {EGO: {"0": square(EGO, 0, 0, 4), "30": square(EGO, 2, 2)}, EXO: {"0": square(EXO, 4, 6, 4)}}
PAN = {EGO: {"0": square(EGO, 6, 6), "30": square(EGO, 0, 6)}, EXO: {"30": square(EXO, 0, 0)}}
# The cup was looked for at 30 and not found; the pan was not looked for at 0.
ANNOTATED = {"cup_0": {EGO: [0, 30], EXO: [0, 30]}, "pan_0": {EGO: [0, 30], EXO: [30]}}


def packed(views):
    return {camera: {frame: rle_from_bitmap(bitmap) for frame, bitmap in frames.items()} for camera, frames in views.items()}


def annotation():
    # The lamp has no first-person view, so nothing is asked for it.
    lamp = {EXO: {"0": square(EXO, 0, 0)}}
    masks = {"cup_0": packed(CUP), "pan_0": packed(PAN), "lamp_0": packed(lamp)}
    return {"masks": masks, "subsample_idx": [0, 30], "annotated_frames": {**ANNOTATED, "lamp_0": {EXO: [0]}}}


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "ego"
    for camera, (height, width) in FULL.items():
        (root / "processed/t1" / camera).mkdir(parents=True)
        for frame in (0, 30):
            Image.new("RGB", (width // 2, height // 2)).save(root / f"processed/t1/{camera}/{frame}.jpg")
    write(root / "processed/t1/annotation.json", annotation())
    write(root / "processed/split.json", {"train": ["t1"], "val": ["t1"], "test": []})
    return root


def found(dataset):
    """Record -> (tags, the segment of each region)."""
    return {row["record_id"]: (row["tags"], [region.segment for region in dataset.sample(row).regions]) for row in dataset.rows}


def test_what_one_view_shows_is_asked_for_in_the_other(root, tmp_path):
    dataset = load("ego_exo4d", "val", root, cache_dir=tmp_path, check_images=True)
    assert found(dataset) == {
        f"t1/{EGO}_{EXO}/0": (["object:cup_0"], [0]),  # nobody knows whether the pan is there
        f"t1/{EGO}_{EXO}/30": (["object:cup_0", "object:pan_0"], [None, 0]),  # the cup is not
    }
    first, second = dataset
    assert first.image.endswith("t1/cam01/0.jpg") and first.region_image.endswith("t1/aria01_214-1/0.jpg")
    assert (first.image_id, first.image_size, first.region_image_size) == ("t1/cam01/0", (4, 6), (4, 4))
    assert np.array_equal(bitmap_from_rle(first.regions[0].mask_rle), CUP[EGO]["0"][::2, ::2])
    assert np.array_equal(bitmap_from_rle(first.segments[0].mask_rle), CUP[EXO]["0"][::2, ::2])
    assert [segment.annotation_id for segment in second.segments] == [1]
    assert np.array_equal(bitmap_from_rle(second.segments[0].mask_rle), PAN[EXO]["30"][::2, ::2])


def test_the_other_direction_swaps_the_views(root, tmp_path):
    dataset = load("ego_exo4d", "val", root, cache_dir=tmp_path, direction="exo2ego")
    assert found(dataset) == {f"t1/{EXO}_{EGO}/0": (["object:cup_0"], [0]), f"t1/{EXO}_{EGO}/30": (["object:pan_0"], [0])}
    assert dataset[1].image.endswith("t1/aria01_214-1/30.jpg") and dataset[1].region_image.endswith("t1/cam01/30.jpg")
    assert np.array_equal(bitmap_from_rle(dataset[1].regions[0].mask_rle), PAN[EXO]["30"][::2, ::2])


def test_training_and_the_oracle_ask_only_for_what_is_shown(root, tmp_path):
    expected = {f"t1/{EGO}_{EXO}/0": (["object:cup_0"], [0]), f"t1/{EGO}_{EXO}/30": (["object:pan_0"], [0])}
    assert found(load("ego_exo4d", "train", root, cache_dir=tmp_path)) == expected
    assert found(load("ego_exo4d", "val", root, cache_dir=tmp_path, oracle=True)) == expected


def test_where_frames_were_looked_at_may_stand_in_the_relations(root, tmp_path):
    expected = found(load("ego_exo4d", "val", root, cache_dir=tmp_path))
    content = annotation()
    views = {
        name: {camera: {"annotated_frames": frames} for camera, frames in listed.items()}
        for name, listed in content.pop("annotated_frames").items()
    }
    write(root / "processed/t1/annotation.json", content)
    assert found(load("ego_exo4d", "val", root, cache_dir=tmp_path)) == {
        f"t1/{EGO}_{EXO}/0": (["object:cup_0"], [0]),
        f"t1/{EGO}_{EXO}/30": (["object:pan_0"], [0]),  # of the cup nobody knows
    }
    write(root / "annotations/relations_val.json", {"annotations": {"t1": {"object_masks": views}}})
    assert found(load("ego_exo4d", "val", root, cache_dir=tmp_path)) == expected


def test_a_file_of_pairs_says_what_is_asked_for(root, tmp_path):
    entry = [f"old/place//t1//{camera}//cup_0//{what}//30" for camera in (EGO, EXO) for what in ("rgb", "mask")]
    write(root / "processed/val_egoexo_pairs.json", [entry])
    assert found(load("ego_exo4d", "val", root, cache_dir=tmp_path)) == {f"t1/{EGO}_{EXO}/30": (["object:cup_0"], [None])}
    write(root / "processed/val_egoexo_pairs.json", [entry[:3]])
    with pytest.raises(ValueError, match="ego_exo4d val: .*val_egoexo_pairs.json: .* is no pair"):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)


def test_masks_that_are_empty_or_unknown_are_no_prompts_and_no_answers(root, tmp_path):
    content = annotation()
    content["masks"]["cup_0"][EGO]["0"] = rle_from_bitmap(np.zeros((8, 8)))
    content["masks"]["cup_0"][EXO]["30"] = rle_from_bitmap(np.zeros((8, 12)))
    content["masks"]["pan_0"][EXO]["30"] = None  # could not be decoded
    write(root / "processed/t1/annotation.json", content)
    assert found(load("ego_exo4d", "val", root, cache_dir=tmp_path)) == {f"t1/{EGO}_{EXO}/30": (["object:cup_0"], [None])}


def test_a_missing_file_is_named(root, tmp_path):
    (root / "processed/t1/cam01/30.jpg").unlink()
    with pytest.raises(
        ValueError, match="ego_exo4d val: processed/t1/annotation.json, aria01_214-1 to cam01, frame 30: image .* does not exist"
    ):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)
    assert len(load("ego_exo4d", "val", root, cache_dir=tmp_path, on_error="skip")) == 1
    write(root / "processed/split.json", {"val": ["t2", "t1"]})
    with pytest.raises(
        ValueError, match="ego_exo4d val: processed/t2/annotation.json: there is no such file, but split.json lists the take"
    ):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="ego_exo4d: unknown direction 'up', expected one of ego2exo, exo2ego"):
        load("ego_exo4d", "val", root, cache_dir=tmp_path, direction="up")
    with pytest.raises(FileNotFoundError, match="ego_exo4d val: there is no processed/split.json in"):
        load("ego_exo4d", "val", root / "processed", cache_dir=tmp_path)


def test_views_without_a_folder_of_frames_are_left_out(root, tmp_path, capsys):
    content = annotation()
    content["masks"]["cup_0"]["cam02"] = content["masks"]["cup_0"][EXO]
    content["annotated_frames"]["cup_0"]["cam02"] = [0, 30]
    write(root / "processed/t1/annotation.json", content)
    for direction, number in (("ego2exo", 2), ("exo2ego", 2)):
        assert len(load("ego_exo4d", "val", root, cache_dir=tmp_path, direction=direction)) == number
        error = capsys.readouterr().err
        assert error.count("ego_exo4d val: 1 views have no folder of frames and are left out, the first: processed/t1/cam02") == 1
    shutil.copytree(root / "processed/t1" / EXO, root / "processed/t1/cam02")
    assert len(load("ego_exo4d", "val", root, cache_dir=tmp_path)) == 4  # made again


def test_a_split_without_takes_is_as_good_as_absent(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="ego_exo4d test: .*split.json lists no takes for test; see the docs page Ego-Exo4D"):
        load("ego_exo4d", "test", root, cache_dir=tmp_path)


def test_masks_of_which_nobody_says_where_they_were_looked_for_are_named(root, tmp_path):
    content = annotation()
    del content["annotated_frames"]["pan_0"][EXO]
    write(root / "processed/t1/annotation.json", content)
    with pytest.raises(ValueError, match="processed/t1/annotation.json, take t1, object pan_0: there is no 'cam01'"):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)
    del content["annotated_frames"]
    write(root / "processed/t1/annotation.json", content)
    write(root / "annotations/relations_val.json", {"annotations": {"t1": {"object_masks": {"cup_0": {EGO: {}}}}}})
    with pytest.raises(ValueError, match="annotations/relations_val.json, take t1, object cup_0: there is no "):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)
    write(root / "annotations/relations_val.json", {"annotations": {}})
    with pytest.raises(ValueError, match="annotations/relations_val.json has no take t1, but split.json lists it"):
        load("ego_exo4d", "val", root, cache_dir=tmp_path)


def test_masks_are_resized_to_the_nearest_pixel_above():
    bitmap = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 1]] * 2)
    assert bitmap_from_rle(resized(rle_from_bitmap(bitmap), (1, 4))).tolist() == [[True, True, False, False]]  # columns 0, 2, 4, 6
    assert resized(rle_from_bitmap(bitmap[:, 5:]), (1, 2)) is None  # the only pixel of it is lost


# The sample in the true schema.

EGO_ROOT = SAMPLES / "egoexo4d"


@pytest.mark.samples
@pytest.mark.parametrize("direction, setting", [("ego2exo", "egoexo"), ("exo2ego", "exoego")])
def test_real_rows_are_the_pairs_of_the_public_script(direction, setting, tmp_path):
    truth = json.loads((EGO_ROOT / "correspondence-gt.json").read_text())["annotations"]
    expected = {}
    for ego_picture, _, exo_picture, _ in json.loads((EGO_ROOT / f"processed/val_{setting}_pairs.json").read_text()):
        take, ego, name, _, frame = ego_picture.split("//")[1:]
        exo = exo_picture.split("//")[2]
        query, target = (ego, exo) if direction == "ego2exo" else (exo, ego)
        if int(frame) in truth[take]["annotated_frames"][name][target]:
            expected.setdefault(f"{take}/{query}_{target}/{frame}", []).append(name)
    dataset = load("ego_exo4d", "val", EGO_ROOT, cache_dir=tmp_path, direction=direction)
    assert {row["record_id"]: [tag.removeprefix("object:") for tag in row["tags"]] for row in dataset.rows} == expected
    for sample in dataset:
        take, views, frame = sample.record_id.split("/")
        query, target = views.rsplit("_", 1) if direction == "ego2exo" else views.split("_", 1)
        masks = truth[take]["masks"]
        for name, region in zip(expected[sample.record_id], sample.regions, strict=True):
            assert np.array_equal(bitmap_from_rle(region.mask_rle), nearest(masks[name][query][frame], sample.region_image_size))
            if frame in masks[name][target]:
                answer = bitmap_from_rle(sample.segments[region.segment].mask_rle)
                assert np.array_equal(answer, nearest(masks[name][target][frame], sample.image_size))
            else:
                assert region.segment is None


def nearest(rle, size):
    bitmap = bitmap_from_rle(rle)
    ys, xs = ([int(index * old / new) for index in range(new)] for old, new in zip(bitmap.shape, size, strict=True))
    return bitmap[np.ix_(ys, xs)]


@pytest.mark.samples
def test_passes_processes_and_ranks_give_the_same_real_rows(tmp_path):
    stream = load("ego_exo4d", "val", EGO_ROOT, cache_dir=tmp_path, streaming=True)
    rows = list(stream.rows)
    assert list(stream.rows) == rows == list(load("ego_exo4d", "val", EGO_ROOT, cache_dir=tmp_path, num_proc=2).rows)
    parts = [list(split_dataset_by_node(stream.rows, rank=rank, world_size=2)) for rank in range(2)]
    assert all(parts) and sorted(row["record_id"] for part in parts for row in part) == sorted(row["record_id"] for row in rows)
