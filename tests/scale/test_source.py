"""The list of images of a run: which, in which order, under which names and ids; and what opening each gives."""

import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from psalm_hf.scale.source import list_images, open_source_image


def encoded(color, size=(6, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """a/1.png, a/2.PNG, b/1.png, b/notes.md, b/.hidden.png"""
    for name, color in {"a/1.png": "red", "a/2.PNG": "green", "b/1.png": "blue", "b/.hidden.png": "red"}.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(encoded(color))
    (tmp_path / "images/b/notes.md").write_text("no image")
    return tmp_path / "images"


def names(images):
    return [image.name for image in images]


def colors(images):
    return [open_source_image(image).getpixel((0, 0)) for image in images]


RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def test_a_folder_is_sorted_by_name_with_all_folders_inside(folder):
    images = list_images([folder])
    assert names(images) == ["a/1.png", "a/2.PNG", "b/1.png"] and [image.image_id for image in images] == [1, 2, 3]
    assert colors(images) == [RED, GREEN, BLUE]


def test_files_of_one_name_in_two_folders_are_two_and_the_order_of_the_sources_means_nothing(folder):
    images = list_images([folder / "b", folder / "a"])
    assert names(images) == ["a/1.png", "a/2.PNG", "b/1.png"] and images == list_images([folder / "a", folder / "b"])


def test_an_image_that_is_named_twice_is_there_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder.parent / "link").symlink_to(folder / "a")
    assert names(list_images(["a", "a/1.png", str(folder / "a/1.png"), "../images/a/*.png", "../link/2.PNG"])) == ["1.png", "2.PNG"]


def test_a_name_is_looked_for_in_the_working_folder_of_the_call(folder, monkeypatch):
    for place, color in (("a", RED), ("b", BLUE)):
        monkeypatch.chdir(folder / place)
        assert colors(list_images(["1.png"])) == [color]


def test_a_list_names_images_as_seen_from_it_and_one_that_is_missing_fails_alone(folder):
    (folder / "list.txt").write_text("\ufeffa/1.png\n\nb/1.png\na/none.png\n", encoding="utf-8")  # with the mark that Windows puts first
    first, missing, last = list_images([folder / "list.txt"])
    assert [first.name, missing.name, last.name] == ["a/1.png", "a/none.png", "b/1.png"] and colors([first, last]) == [RED, BLUE]
    with pytest.raises(ValueError, match="^no such file$"):
        open_source_image(missing)


def test_a_line_of_a_list_that_is_a_folder_or_a_pattern_is_told_as_one(folder):
    (folder / "list.txt").write_text("a\nb/*.png\n")
    of_folder, pattern = list_images([folder / "list.txt"])
    with pytest.raises(ValueError, match="^is a folder, and a list names files; give the folder beside the list$"):
        open_source_image(of_folder)
    with pytest.raises(ValueError, match="^no such file; a list names files and no patterns, give the pattern beside the list$"):
        open_source_image(pattern)


def write_tar(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def test_members_of_shards_are_images_under_the_name_of_their_shard(tmp_path):
    write_tar(tmp_path / "s-0.tar", [("2.png", encoded("green")), ("2.txt", b"caption"), ("1.png", encoded("red"))])
    write_tar(tmp_path / "s-1.tar", [("1.png", encoded("blue")), ("1.png", encoded("red")), ("../../up//x.png", b"nothing")])
    images = list_images([tmp_path / "s-*.tar"])
    assert names(images) == ["s-0.tar/1.png", "s-0.tar/2.png", "s-1.tar/../../up/x.png", "s-1.tar/1.png", "s-1.tar/1.png+"]
    assert colors([*images[:2], *images[3:]]) == [RED, GREEN, BLUE, RED]
    with pytest.raises(ValueError, match="^not an image that can be read"):
        open_source_image(images[2])


def test_a_shard_that_breaks_off_gives_what_is_whole_and_says_so(tmp_path):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(noise, format="PNG")
    write_tar(tmp_path / "s.tar", [("1.png", encoded("red")), ("2.png", noise.getvalue())])
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:6000])
    (tmp_path / "t.tar").write_bytes(b"no archive")
    shard, whole, half, other = list_images([tmp_path])
    assert names([shard, whole, half, other]) == ["s.tar", "s.tar/1.png", "s.tar/2.png", "t.tar"] and colors([whole]) == [RED]
    for image, message in ((shard, "cannot be read any further"), (half, "the shard ends before"), (other, "cannot be read any further")):
        with pytest.raises(ValueError, match=message):
            open_source_image(image)


def write_rows(path, **columns):
    parquet.write_table(pa.table(columns), path, row_group_size=2)


def test_rows_of_a_dataset_are_images_with_its_ids_and_a_row_without_one_fails_alone(folder):
    cells = [{"bytes": encoded("red"), "path": None}, None, {"bytes": b"nothing", "path": "x"}, {"bytes": None, "path": "b/1.png"}]
    write_rows(folder / "d.parquet", image=cells, image_id=[40, 30, 20, 10], text=list("abcd"))
    images = list_images([folder / "d.parquet"])
    assert names(images) == [f"d.parquet/{row}" for row in range(4)] and [image.image_id for image in images] == [40, 30, 20, 10]
    assert colors([images[0], images[3]]) == [RED, BLUE]
    for image, message in zip(images[1:3], ("column 'image' holds NoneType, no image", "not an image that can be read"), strict=True):
        with pytest.raises(ValueError, match=f"^{message}"):
            open_source_image(image)


def test_rows_of_several_files_are_read_group_by_group(tmp_path):
    reds = [(10 * row, 0, 0) for row in range(12)]
    write_rows(tmp_path / "1.parquet", picture=[encoded(color) for color in reds[:11]])
    write_rows(tmp_path / "2.parquet", picture=[encoded(reds[11])])
    images = list_images([tmp_path])
    assert names(images)[0] == "1.parquet/00" and colors(images) == reds and colors(images[::-1]) == reds[::-1]


def test_a_parquet_file_that_is_broken_fails_alone(tmp_path):
    write_rows(tmp_path / "1.parquet", image=[encoded("red")] * 4)
    content = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(content[:-20])
    (tmp_path / "3.parquet").write_bytes(content[:8] + bytes(60) + content[68:])
    images = list_images([tmp_path])
    assert len(images) == 4 + 1 + 4 and colors(images[:4]) == [RED] * 4
    with pytest.raises(ValueError, match="cannot be read any further"):
        open_source_image(images[4])
    with pytest.raises(ValueError):
        open_source_image(images[5])
    assert colors(images[7:]) == [RED] * 2  # its second group is whole


def test_ids_of_a_dataset_stay_beside_a_file_that_is_broken_and_0_is_one(tmp_path):
    write_rows(tmp_path / "1.parquet", image=[encoded("red")] * 2, image_id=[0, 30])
    (tmp_path / "2.parquet").write_bytes(b"nothing")
    assert [image.image_id for image in list_images([tmp_path])] == [0, 30, None]


def test_whatever_a_decoder_raises_is_the_reason_of_one_image(folder, monkeypatch):
    def fail(*arguments):
        raise IndexError("list index out of range")

    monkeypatch.setattr("psalm_hf.scale.source.load_image", fail)
    with pytest.raises(ValueError, match="^IndexError: list index out of range$"):
        open_source_image(list_images([folder])[0])


def test_which_column_holds_images_must_be_clear(tmp_path):
    write_rows(tmp_path / "1.parquet", left=[encoded("red")], right=[encoded("blue")])
    with pytest.raises(ValueError, match="which of its columns holds the images[?] it has left, right; say it with --image-column"):
        list_images([tmp_path])
    assert colors(list_images([tmp_path], image_column="right")) == [BLUE]
    with pytest.raises(ValueError, match="has no column 'middle', only left, right"):
        list_images([tmp_path], image_column="middle")


def test_annotations_of_coco_give_their_ids(folder):
    images = [{"id": 7, "file_name": "b/1.png"}, {"id": 3, "file_name": "a/2.PNG"}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": []}))
    found = list_images([folder / "instances.json"])
    assert [(image.name, image.image_id) for image in found] == [("a/2.PNG", 3), ("b/1.png", 7)]
    assert [image.image_id for image in list_images([folder / "instances.json", folder / "a/1.png"])] == [1, 2, 3]  # not all have one
    (folder / "again.json").write_text(json.dumps({"images": [{"id": 7, "file_name": "a/1.png"}]}))
    with pytest.raises(ValueError, match="instances.json and .*again.json: 2 images have the id 7, .*; give datasets whose ids"):
        list_images([folder / "instances.json", folder / "again.json"])
    (folder / "again.json").write_text(json.dumps({"images": [{"id": 8, "file_name": "b/1.png"}]}))
    with pytest.raises(ValueError, match="again.json: .*1.png has the ids 7 and 8"):
        list_images([folder / "instances.json", folder / "again.json"])
    (folder / "again.json").write_text(json.dumps({"images": [{"id": 7, "file_name": f"{name}/1.png"} for name in "ab"]}))
    with pytest.raises(ValueError, match="again.json: 2 images have the id 7, such as .*a/1.png and .*b/1.png; give each image"):
        list_images([folder / "again.json"])
    (folder / "again.json").write_text(json.dumps({"images": [{"id": True, "file_name": "b/1.png"}]}))  # Python takes it for 1
    with pytest.raises(ValueError, match="the image id True is neither a whole number nor a text"):
        list_images([folder / "again.json"])


def test_a_dataset_names_images_of_its_folder_alone(folder):
    (folder.parent / "annotations").mkdir()
    annotations = folder.parent / "annotations/instances.json"
    annotations.write_text(json.dumps({"images": [{"id": 7, "file_name": "b/1.png"}]}))
    assert colors(list_images([annotations], image_folder=folder)) == [BLUE]
    for name in ("../secret.png", "/etc/x.png", "b/../../x.png"):
        annotations.write_text(json.dumps({"images": [{"id": 7, "file_name": name}]}))
        with pytest.raises(ValueError, match=f"instances.json: the path '{name}' leads out of the folder"):
            list_images([annotations], image_folder=folder)
    write_rows(folder / "b/d.parquet", image=["../a/1.png", "1.png"])
    leading_out, image = list_images([folder / "b/d.parquet"])
    assert colors([image]) == [BLUE]
    with pytest.raises(ValueError, match="^the path '../a/1.png' leads out of the folder"):
        open_source_image(leading_out)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none", "none: no such file or folder"),
        ("none/*.png", r"none/\*.png: no file matches this pattern"),
        ("empty", "empty: has no images; expected files that end in .avif"),
        ("empty.txt", "empty.txt: has no images; expected a path per line"),
        ("empty.json", "empty.json: has no images; expected entries {id, file_name} in its list `images`"),
        ("empty.parquet", "empty.parquet: has no images; expected rows"),
        ("empty.tar", "empty.tar: has no images; expected members that end in .avif"),
        ("images/a/1.png.json", "expected JSON with a list `images`"),
        ("binary.txt", "expected a text file with a path per line"),
    ],
)
def test_a_source_without_images_is_named(folder, monkeypatch, source, message):
    monkeypatch.chdir(folder.parent)
    os.mkdir("empty")
    (folder.parent / "empty.txt").write_text("\n")
    (folder.parent / "empty.json").write_text('{"images": []}')
    write_rows(folder.parent / "empty.parquet", image=pa.array([], pa.binary()))
    write_tar(folder.parent / "empty.tar", [])
    (folder.parent / "binary.txt").write_bytes(encoded("red"))
    (folder / "a/1.png.json").write_text("[]")
    with pytest.raises(ValueError, match=message):
        list_images([source])
