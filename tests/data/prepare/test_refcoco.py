"""refcoco.py on a drawn folder, and on the real sample."""

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from psalm_hf.cli import prepare
from psalm_hf.data.benchmarks.refcoco import RefCoco
from tests.conftest import SAMPLES


def main(arguments):
    return prepare.main(["refcoco", *arguments])


ROOT = Path(__file__).parents[2]
IMAGES = [{"id": 30, "file_name": "COCO_train2014_000000000030.jpg", "height": 4, "width": 6}]
ANNOTATIONS = [{"id": id, "image_id": 30, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 3, 0, 3, 2]]} for id in (11, 12)]


def ref(id, split, ann_id, *sentences):
    return {
        "ref_id": id,
        "split": split,
        "image_id": 30,
        "ann_id": ann_id,
        "file_name": "COCO_train2014_000000000030_1.jpg",
        "sentences": [{"sent_id": 10 * id + number, "sent": sent} for number, sent in enumerate(sentences)],
    }


REFS = [ref(1, "val", 12, "a cup", "caf\xe9"), ref(2, "train", 11, "left"), ref(3, "val", 11, "right")]
GREFS = [ref(1, "val", [12, 11], "both"), ref(2, "val", [-1], "a dog")]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "refer_seg"
    for name in ("refcoco", "grefcoco"):
        (root / name).mkdir(parents=True)
        instances = {"images": IMAGES, "annotations": ANNOTATIONS}
        (root / name / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(REFS, 2))
    (root / "refcoco/refs(google).p").write_bytes(pickle.dumps(REFS[:1], 0))
    (root / "grefcoco/grefs(unc).json").write_text(json.dumps(GREFS), encoding="utf-8")
    return root


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_pickles_become_json_with_the_same_content(root, capsys):
    assert main([str(root)]) == 0
    assert read(root / "refcoco/refs(unc).json") == REFS and read(root / "refcoco/refs(google).json") == REFS[:1]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["refcoco", "unc", "val", "2", "3", "3811", "/", "10834"] in lines
    assert ["refcoco", "google", "val", "1", "2", "-"] in lines
    assert ["grefcoco", "unc", "val", "2", "2", "-"] in lines
    assert lines[-1][:3] == ["2", "files", "written,"]
    assert not [path for path in root.rglob(".*")]


def test_counts_that_are_published_are_called_equal(root, capsys, monkeypatch):
    monkeypatch.setattr(RefCoco, "published", {"val": {"refs": 2, "sentences": 3}})
    assert main([str(root), "--datasets", "refcoco"]) == 0
    assert ["refcoco", "unc", "val", "2", "3", "equal"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_released_format_has_an_item_per_ref(root, tmp_path):
    assert main([str(root), "--format", "psalm_json", "--output", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.json")) == [
        "grefcoco_val.json",
        "refcoco_train.json",
        "refcoco_val.json",
    ]
    assert read(tmp_path / "out/refcoco/refcoco_val.json") == [
        {"image": IMAGES[0]["file_name"], "image_info": IMAGES[0], "instruction": ref["sentences"], "anns": [ann], "new_img_id": number}
        for number, (ref, ann) in enumerate([(REFS[0], ANNOTATIONS[1]), (REFS[2], ANNOTATIONS[0])])
    ]
    assert [item["anns"] for item in read(tmp_path / "out/grefcoco/grefcoco_val.json")] == [ANNOTATIONS[::-1], []]
    assert not (root / "refcoco/refs(unc).json").exists()


@pytest.mark.parametrize("layout", ["refs", "psalm_json"])
def test_of_grefcoco_the_json_is_read_and_not_an_old_pickle_beside_it(layout, root, tmp_path, capsys):
    (root / "grefcoco/grefs(unc).p").write_bytes(pickle.dumps([ref(9, "old", [77], "of other ids")], 2))
    assert main([str(root), "--datasets", "grefcoco", "--format", layout, "--overwrite"]) == 0
    assert ["grefcoco", "unc", "val", "2", "2", "-"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert read(root / "grefcoco/grefs(unc).json") == GREFS
    (root / "grefcoco/grefs(unc).json").unlink()
    assert main([str(root), "--datasets", "grefcoco"]) == 2  # what there is, is read
    assert "ref 9: instances.json has no annotation 77" in capsys.readouterr().err


def test_what_exists_is_kept_unless_it_shall_be_overwritten(root, capsys):
    (root / "refcoco/refs(unc).json").write_text("mine", encoding="utf-8")
    assert main([str(root)]) == 0
    assert "1 files written, 1 kept" in capsys.readouterr().out
    assert (root / "refcoco/refs(unc).json").read_text(encoding="utf-8") == "mine"
    assert main([str(root), "--overwrite"]) == 0
    assert read(root / "refcoco/refs(unc).json") == REFS


def broken(root, **fields):
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([REFS[0], REFS[1] | fields], 2))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ann_id": 77}, "refs(unc).p: 1 of 2 refs are broken, the first: ref 2: instances.json has no annotation 77"),
        ({"image_id": 77}, "ref 2: instances.json lists no image 77"),
        ({"sentences": [{"sent_id": 1}]}, "ref 2: the field 'sent' is missing"),
        ({"sentences": None}, "ref 2: 'NoneType' object is not iterable"),
        ({"x": Counter()}, "refs(unc).p: the pickle asks for collections.Counter"),
    ],
)
def test_a_broken_ref_is_named_and_nothing_of_its_file_is_written(fields, message, root, capsys):
    broken(root, **fields)
    assert main([str(root), "--format", "psalm_json"]) == 2
    assert message in capsys.readouterr().err
    assert not (root / "refcoco/refcoco_train.json").exists()


def test_what_is_missing_is_named(root, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert f"error: {tmp_path}/nowhere: none of the folders refcoco, refcoco+" in capsys.readouterr().err
    assert main([str(root), "--datasets", "refcocog"]) == 2
    assert f"error: {root}/refcocog: no file refs(...).p" in capsys.readouterr().err
    (root / "refcoco/instances.json").write_text("{}", encoding="utf-8")
    assert main([str(root), "--datasets", "refcoco"]) == 2
    assert f"error: {root}/refcoco/instances.json: expected images and annotations" in capsys.readouterr().err


@pytest.mark.samples
def test_real_pickles_become_json_with_the_same_content(tmp_path, capsys):
    source = SAMPLES / "refer_seg"
    assert main([str(source), "--output", str(tmp_path)]) == 0
    pickles = sorted(source.rglob("refs(*).p"))
    assert pickles and len(list(tmp_path.rglob("*.json"))) == len(pickles)
    for path in pickles:
        assert read(tmp_path / path.parent.name / f"{path.stem}.json") == pickle.loads(path.read_bytes(), encoding="latin1")
    assert len(capsys.readouterr().out.splitlines()) > len(pickles)
