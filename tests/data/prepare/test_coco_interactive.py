"""The script's file: the same bits however it is made, the keys of the published one, and what the builder reads from it."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from psalm_hf.cli import prepare
from psalm_hf.data.prepare import coco_interactive
from psalm_hf.masks import area, bitmap_from_rle


def main(arguments):
    return prepare.main(["coco_interactive", *arguments])


SIZE = (48, 64)
IMAGES = [{"id": id, "file_name": f"{id:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for id in (5, 3, 9, 7, 2, 8)]
OUTPUT = "coco_interactive_val_psalm.json"


def annotations():
    rng = np.random.default_rng(0)
    result = []
    for id in range(100, 112):
        x, y = rng.integers(0, 30, 2).tolist()
        width, height = rng.integers(8, 30, 2).tolist()
        corners = [x, y, x + width, y, x + width, y + height, x, y + height / 2]
        result.append({"id": id, "image_id": IMAGES[id % 5]["id"], "category_id": 1, "iscrowd": 0, "segmentation": [corners]})
    result[3] |= {"iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": [100, 900, 2072]}}
    return result


def write(folder, images, annotations):
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations/instances_val2017.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_interactive, "IMAGES_PER_PART", 2)
    return write(tmp_path / "coco", IMAGES, annotations())


def made(folder, *options, name=OUTPUT):
    assert main([str(folder), "--split", "val", *options]) == 0
    return (folder / name).read_bytes()


def test_the_file_has_the_keys_of_the_published_one(coco):
    items = json.loads(made(coco))
    assert [item["image"] for item in items] == [image["file_name"] for image in IMAGES[:5]]  # the last has no annotation
    assert [item["new_img_id"] for item in items] == [0, 1, 2, 3, 4] and [item["image_info"] for item in items] == IMAGES[:5]
    source = {entry["id"]: entry for entry in annotations()}
    found = [entry for item in items for entry in item["anns"]]
    assert sorted(entry["id"] for entry in found) == sorted(source) and any(entry["iscrowd"] for entry in found)
    for entry in found:
        prompts = {key: entry.pop(key) for key in list(entry) if key.endswith("_visual_prompt_mask")}
        assert entry == source[entry["id"]] and len(prompts) == 4
        assert all(rle["size"] == list(SIZE) and isinstance(rle["counts"], str) for rle in prompts.values())
        assert area(prompts["point_visual_prompt_mask"]) == 1 and bitmap_from_rle(prompts["box_visual_prompt_mask"]).sum() > 20


def test_processes_parts_and_subsets_give_the_same_bits(coco, tmp_path, monkeypatch):
    whole = made(coco)
    assert made(coco, "--overwrite", "--num-proc", "2") == whole
    monkeypatch.setattr(coco_interactive, "IMAGES_PER_PART", 5)
    assert made(coco, "--overwrite") == whole
    some = json.loads(made(write(tmp_path / "some", IMAGES[3:0:-1], [e for e in annotations()[::-1] if e["image_id"] in (3, 9, 7)])))
    of_image = {item["image"]: sorted(item["anns"], key=lambda entry: entry["id"]) for item in json.loads(whole)}
    assert len(some) == 3
    for item in some:
        assert sorted(item["anns"], key=lambda entry: entry["id"]) == of_image[item["image"]]


def test_seed_and_rules_change_the_prompts(coco):
    first = made(coco)
    assert made(coco, "--overwrite", "--seed", "1") != first
    entry = json.loads(made(coco, "--rules", "paper", name="coco_interactive_val_paper.json"))[0]["anns"][0]
    assert len(entry["point_visual_prompt_points"]) == 1 and len(entry["scribble_visual_prompt_points"]) == 33
    assert entry["mask_visual_prompt_mask"]["size"] == list(SIZE)


def killed_after_one_part(folder):
    replace, calls = os.replace, []

    def dies(*arguments):
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(arguments)
        replace(*arguments)

    os.replace = dies
    main([str(folder), "--split", "val"])


def test_a_run_that_was_killed_is_taken_up_and_ends_the_same(coco, capsys):
    whole = made(coco)
    (coco / OUTPUT).unlink()
    process = multiprocessing.get_context("fork").Process(target=killed_after_one_part, args=(coco,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (coco / OUTPUT).exists()
    (folder,) = coco.glob(f".{OUTPUT}-*")
    assert [file.suffix for file in sorted(folder.iterdir())].count(".json") == 1  # and one that is not finished
    capsys.readouterr()
    assert made(coco, "--seed", "1") != whole  # takes nothing from the other seed's parts
    assert "are there already" not in capsys.readouterr().err
    assert made(coco, "--overwrite") == whole
    assert "1 of 3 parts are there already" in capsys.readouterr().err
    assert sorted(path.name for path in coco.iterdir()) == ["annotations", OUTPUT]


def test_what_exists_is_kept(coco, capsys):
    made(coco)
    (coco / OUTPUT).write_text("mine")
    left_over = coco / f".{OUTPUT}-0123456789abcdef"
    left_over.mkdir()
    (left_over / "0000000.json").write_text("{}")
    assert made(coco) == b"mine"
    assert "kept" in capsys.readouterr().err and not left_over.exists()


def test_nothing_unfinished_lies_beside_the_output(coco, monkeypatch):
    replace, seen = os.replace, []

    def watched(source, target):
        seen.append([path.name for path in coco.iterdir() if path.is_file()])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(coco_interactive.shutil, "rmtree", lambda folder, ignore_errors: seen.append(ignore_errors))
    made(coco)
    assert len(seen) == 5 and not any(seen[:4]) and seen[4]  # three parts, the whole, and the removal that may fail


def test_errors_name_the_file_and_the_annotation(coco, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "instances_train2017.json does not exist; see docs/datasets/coco.md" in capsys.readouterr().err
    broken = annotations()
    broken[4]["segmentation"] = [[1, 2, 3, 4]]
    assert main([str(write(tmp_path / "broken", IMAGES, broken)), "--split", "val"]) == 2
    error = capsys.readouterr().err
    assert "instances_val2017.json: image 2, annotation 104" in error and "polygon 0" in error
    file = coco / "annotations/instances_val2017.json"
    for content, message in (("[]", "no instance annotations"), ('{"images": [], "annotations": []}', "no annotations")):
        file.write_text(content)
        assert main([str(coco), "--split", "val"]) == 2
        assert message in capsys.readouterr().err
