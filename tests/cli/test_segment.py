"""The main job from the command line to its two files, with random weights except where psalm-tiny is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import PsalmModel, checkpoints, tiny_checkpoint
from psalm_hf.cli import segment as command
from psalm_hf.cli.command import load_model
from psalm_hf.data.shapes.scene import example_image, make_scene
from psalm_hf.masks import area, bitmap_from_rle, box_from_bitmap
from psalm_hf.model.rows import RowInfo
from psalm_hf.result import PsalmResult
from psalm_hf.tiny import build_tiny
from psalm_hf.visualization import DISPLAY_SIDE
from psalm_hf.writing import write_file
from tests.conftest import SAMPLES
from tests.examples.scripts import EXAMPLES

PSALM_TINY = tiny_checkpoint()


pytestmark = pytest.mark.usefixtures("default_checkpoint")


def run(tmp_path, *arguments):
    """Overlay and record of a successful call."""
    prefix = tmp_path / "out" / "result"
    assert command.main([*map(str, arguments), "--output", str(prefix)]) == 0
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["result.json", "result.png"]  # and no temporary file
    overlay = Image.open(f"{prefix}.png")
    overlay.load()
    return overlay, json.loads(Path(f"{prefix}.json").read_text())


def check_segments(record):
    height, width = record["image_size"]
    for segment in record["segments"]:
        mask = bitmap_from_rle(segment["mask"])
        assert mask.shape == (height, width)
        assert tuple(segment["box"]) == box_from_bitmap(mask)
        assert segment["area"] == area(segment["mask"]) == mask.sum()
        assert segment["score"] is None or 0 <= segment["score"] <= 1


def overview_masks(record):
    """Task -> masks of the segments that were found."""
    return {answer["task"]: [bitmap_from_rle(segment["mask"]) for segment in answer["segments"]] for answer in record["answers"]}


def test_without_arguments_the_bundled_picture_answers_every_kind_of_prompt(tmp_path, capsys):
    overlay, record = run(tmp_path)
    assert record["checkpoint"] == "psalm-tiny" and record["image_size"] == [128, 128]
    categories, expressions, regions = record["answers"]
    assert [answer["task"] for answer in record["answers"]] == ["panoptic", "referring", "interactive"]
    assert {"star", "grass"} <= set(categories["prompt"]["categories"]) and "grass" in categories["stuff"]
    assert [segment["label"] for segment in expressions["segments"]] == expressions["prompt"]["expressions"]
    assert [kind for region in regions["prompt"]["regions"] for kind in region] == ["point", "box", "scribble"]
    for answer in record["answers"]:
        check_segments(record | answer)
    assert overlay.width > 3 * DISPLAY_SIDE[0] and overlay.height > 2 * DISPLAY_SIDE[0]  # two rows of three panels
    messages = capsys.readouterr()
    assert "wrote" in messages.err and messages.out == ""


def test_all_prompts_of_the_overview_share_one_encoding_of_the_picture(tmp_path, monkeypatch):
    encoded = []
    original = PsalmModel.get_image_features

    def spy(model, pixel_values, **options):
        encoded.append(len(pixel_values))
        return original(model, pixel_values, **options)

    monkeypatch.setattr(PsalmModel, "get_image_features", spy)
    run(tmp_path)
    assert encoded == [1]


def test_psalm_tiny_finds_the_things_of_the_bundled_picture(tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.setattr(checkpoints, "tiny_checkpoint", lambda: tiny_checkpoint)
    _, record = run(tmp_path)
    dotted_cross, large_triangle, square, circle, cross, small_triangle = (thing.mask for thing in make_scene("test", 41).things)
    masks = overview_masks(record)
    for found, meant in zip(masks["interactive"], (circle, dotted_cross, large_triangle), strict=True):
        assert (found & meant).sum() / (found | meant).sum() > 0.7
    for found, meant in zip(masks["referring"], (small_triangle, dotted_cross | square, cross), strict=True):
        assert (found & meant).sum() / (found | meant).sum() > 0.7
    for meant in (dotted_cross, large_triangle, square, circle, cross, small_triangle):
        assert max((found & meant).sum() / (found | meant).sum() for found in masks["panoptic"]) > 0.7


def test_a_picture_of_the_users_carries_a_note_on_what_psalm_tiny_knows(tmp_path, monkeypatch):
    """The record has it, and the overlay."""
    notes, plot = [], PsalmResult.plot
    monkeypatch.setattr(PsalmResult, "plot", lambda result, note=None: notes.append(note) or plot(result, note=note))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(photo)
    _, record = run(tmp_path, photo, "--point", "3,3", "--checkpoint", PSALM_TINY)
    assert "drawn shapes" in record["note"] and notes == [record["note"]]
    for part in build_tiny():
        part.save_pretrained(tmp_path / "own")
    for own in ([photo], []):  # another checkpoint; a drawn image
        _, record = run(tmp_path, *own, "--point", "3,3", *(["--checkpoint", tmp_path / "own"] if own else []))
        assert "note" not in record
    assert notes[1:] == [None, None]


def test_without_a_prompt_psalm_tiny_looks_for_shapes_and_other_checkpoints_for_what_photographs_show(tmp_path, picture, random_checkpoint):
    _, record = run(tmp_path / "a", picture, "--threshold", "0")
    assert "moon" in record["prompt"]["categories"] and "brick" in record["stuff"]
    _, record = run(tmp_path / "b", picture, "--threshold", "0", "--checkpoint", random_checkpoint)
    assert record["checkpoint"] == str(random_checkpoint)
    assert "person" in record["prompt"]["categories"] and "wall" in record["stuff"]


def test_an_option_that_asks_something_makes_one_answer_about_the_bundled_picture(tmp_path):
    _, record = run(tmp_path, "--task", "semantic")
    assert record["task"] == "semantic" and record["segments"]
    _, record = run(tmp_path, "--threshold", "0")
    assert record["task"] == "panoptic" and record["thresholds"]["threshold"] == 0
    _, record = run(tmp_path, "--mask-threshold", "0.75")
    assert record["task"] == "panoptic" and record["thresholds"]["mask_threshold"] == 0.75


def test_a_folder_as_output_gets_files_with_names(tmp_path, picture, monkeypatch):
    assert command.main([str(picture), "--point", "30,20", "--output", f"{tmp_path}/new/"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["segmented.json", "segmented.png"]
    monkeypatch.chdir(tmp_path / "new")
    assert command.main([str(picture), "--point", "30,20", "--output", ".."]) == 0
    assert (tmp_path / "segmented.json").is_file() and (tmp_path / "segmented.png").is_file()


@pytest.mark.parametrize("name", ["found", "found.png", "found.json"])
def test_the_name_of_either_file_may_be_given_as_output(tmp_path, picture, name):
    assert command.main([str(picture), "--point", "30,20", "--output", str(tmp_path / "new" / name)]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["found.json", "found.png"]


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_categories(tmp_path, picture, task):
    _, record = run(tmp_path, picture, "--categories", "red box", "wall", "--stuff", "wall", "--task", task,
                    *(() if task == "semantic" else ("--threshold", "0")))  # fmt: skip
    check_segments(record)
    assert record["prompt"] == {"categories": ["red box", "wall"]} and record["stuff"] == ["wall"]
    assert record["segments"] or task != "semantic"
    assert all(["red box", "wall"][segment["label_id"]] == segment["label"] for segment in record["segments"])
    if task != "instance":  # no pixel belongs to two segments
        covered = sum(bitmap_from_rle(segment["mask"]).astype(int) for segment in record["segments"])
        assert np.max(covered) <= 1


def test_a_background_of_the_users_own_changes_nothing(tmp_path, picture):
    _, plain = run(tmp_path / "a", picture, "--categories", "red box", "wall", "--task", "semantic")
    _, own = run(tmp_path / "b", picture, "--categories", "red box", "wall", "background", "--task", "semantic")
    assert own["segments"] == plain["segments"]


def test_a_panoptic_segment_keeps_its_category_score_and_pixels():
    def post_process(outputs, target_sizes, **options):
        assert options.pop("overlap_mask_area_threshold") == 0.8
        assert options == {"threshold": 0.7, "label_ids_to_fuse": {2}, "mask_threshold": 0.5}
        infos = [{"id": 1, "label_id": 2, "score": 0.9}, {"id": 2, "label_id": 0, "score": 0.8}]
        return [None, {"segmentation": torch.tensor([[0, 1, 2]]), "segments_info": infos}]  # None for a row of another kind

    processor = build_tiny()[1]
    processor.post_process_panoptic_segmentation = post_process
    processor.post_process_region_segmentation = lambda *_, **__: [None, None]
    rows = [RowInfo(0, "region"), RowInfo(0, "category", ("cup", "plate", "wall", "background"))]
    nothing, found = processor.find_segments(None, rows, [(1, 3)] * 2, stuff=("wall",), threshold=0.7)
    assert nothing == []
    assert [(one.index, one.label, one.score, one.mask.tolist()) for one in found] == [
        (2, "wall", 0.9, [[False, True, False]]),
        (0, "cup", 0.8, [[False, False, True]]),
    ]


def test_every_expression_gets_its_best_mask_where_the_checkpoint_carries_no_thresholds(tmp_path, picture):
    _, record = run(tmp_path, picture, "--expression", "the red box", "--expression", "everything else")
    check_segments(record)
    assert [segment["label"] for segment in record["segments"]] == ["the red box", "everything else"]
    assert record["task"] == "referring" and record["no_target"] == []
    assert record["thresholds"] == {"threshold": None, "mask_threshold": 0.5, "no_target_threshold": None}


def test_an_expression_that_means_nothing_gets_no_mask_and_is_named(tmp_path, capsys):
    expressions = ("--expression", "the purple triangle", "--expression", "the yellow moon", "--checkpoint", PSALM_TINY)
    _, record = run(tmp_path, *expressions)
    assert [segment["label"] for segment in record["segments"]] == ["the purple triangle"]
    assert record["no_target"] == ["the yellow moon"]
    assert record["thresholds"] == {"threshold": 0.91, "mask_threshold": 0.5, "no_target_threshold": 0.87}
    assert "'the yellow moon' means nothing here: no mask scores above 0.87; lower --no-target-threshold" in capsys.readouterr().err
    _, record = run(tmp_path / "all", *expressions, "--no-target-threshold", "0")
    assert [segment["label"] for segment in record["segments"]] == ["the purple triangle", "the yellow moon"]


def test_every_instance_of_an_expression_is_a_segment_of_its_own(tmp_path):
    expressions = ("--expression", "all dotted things", "--expression", "the yellow moon", "--checkpoint", PSALM_TINY)
    _, record = run(tmp_path, *expressions, "--instances")
    check_segments(record)
    assert len(record["segments"]) > 1 and {segment["label"] for segment in record["segments"]} == {"all dotted things"}
    assert record["instances"] is True and record["no_target"] == ["the yellow moon"]
    assert record["thresholds"]["no_target_threshold"] == 0.87
    _, record = run(tmp_path / "all", *expressions, "--instances", "--threshold", "0")
    assert {segment["label"] for segment in record["segments"]} == {"all dotted things", "the yellow moon"}
    assert record["thresholds"] == {"threshold": 0.0, "mask_threshold": 0.5, "no_target_threshold": 0.0}
    _, record = run(tmp_path / "one", *expressions)
    assert "instances" not in record and len(record["segments"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--categories", "cup", "wall", "--tiles", "1x2"), {"tiles": [1, 2]}),
        (("--expression", "a cup", "--tiles", "40"), {"tiles": 40}),
        (("--expression", "a cup", "--zoom", "auto"), {"zoom": "auto"}),
        (("--point", "30,20", "--zoom", "auto"), {"zoom": "auto"}),
        (("--point", "30,20"), {}),
        (("--categories", "cup", "wall"), {}),
    ],
)
def test_tiles_and_zoom_answer_at_the_size_of_the_picture_and_are_in_the_record(tmp_path, picture, options, said):
    _, record = run(tmp_path, picture, *options)
    check_segments(record)
    assert {name: record[name] for name in ("zoom", "tiles") if name in record} == said


def test_masks_that_memory_will_not_hold_are_refused_in_one_line(tmp_path, picture, monkeypatch, capsys):
    monkeypatch.setattr("psalm_hf.tiling.MAX_JOINED_BYTES", 0)
    words = [str(picture), "--categories", "cup", "--task", "instance", "--threshold", "0", "--tiles", "1x2"]
    assert command.main([*words, "--output", str(tmp_path / "result")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: tiles: masks of ") and "in 64 x 48 pixels" in line and not (tmp_path / "result.json").exists()


def test_regions_of_every_kind_come_back_in_the_order_of_the_command_line(tmp_path, picture):
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[12:20, 25:40] = 255
    Image.fromarray(mask).save(tmp_path / "prompt.png")
    _, record = run(
        tmp_path, picture, "--box", "20,10,50,30", "--point", "30,20", "--mask", tmp_path / "prompt.png",
        "--scribble", "5,5", "60,5", "60,40", "--point", "3,3",
    )  # fmt: skip
    check_segments(record)
    labels = [segment["label"] for segment in record["segments"]]
    assert labels == ["box 20,10,50,30", "point 30,20", "mask prompt.png", "scribble from 5,5", "point 3,3"]
    kinds = [kind for region in record["prompt"]["regions"] for kind in region]
    assert kinds == ["box", "point", "mask", "scribble", "point"]
    assert record["prompt"]["regions"][3]["scribble"] == [[5, 5], [60, 5], [60, 40]]


def test_negative_points_belong_to_the_region_before_them(tmp_path, picture):
    words = [
        "--box",
        "20,10,50,30",
        "--point",
        "30,20",
        "--negative-point",
        "32,20",
        "--negative-point",
        "5,40",
        "--scribble",
        "5,5",
        "40,9",
    ]
    _, record = run(tmp_path, picture, *words, "--negative-point", "20,7")
    assert record["prompt"]["regions"] == [
        {"box": [20, 10, 50, 30]},
        {"points": [[30, 20], [32, 20], [5, 40]], "labels": [1, 0, 0]},
        {"scribble": [[5, 5], [40, 9]], "points": [[20, 7]], "labels": [0]},
    ]
    _, point, scribble = (bitmap_from_rle(segment["mask"]) for segment in record["segments"])
    assert not point[20, 32] and not point[40, 5] and not scribble[7, 20]


def test_a_checkpoint_of_the_users_is_loaded_in_the_wanted_precision(tmp_path):
    saved, processor = build_tiny(seed=1)
    for part in (saved, processor):
        part.save_pretrained(tmp_path)
    model, _ = load_model(command.parse_arguments(["--checkpoint", str(tmp_path), "--dtype", "bfloat16"]))
    assert not model.training
    assert torch.equal(model.lm_head.weight, saved.lm_head.weight.bfloat16())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F", "rotated"])
def test_any_picture_opens(tmp_path, mode):
    grey = Image.linear_gradient("L").resize((64, 40))
    name, options = "picture.tiff", {}
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "rotated":
        image, name = grey, "picture.jpg"
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6  # to be turned by a quarter
    else:
        image = grey.convert(mode)
    image.save(tmp_path / name, **options)
    _, record = run(tmp_path, tmp_path / name, "--point", "3,3")
    assert record["image_size"] == ([64, 40] if mode == "rotated" else [40, 64])
    check_segments(record)


@pytest.mark.samples
@pytest.mark.parametrize("photo", ["kitchen.jpg", "cat_portrait.png"])
def test_a_real_photo(tmp_path, photo):
    path = SAMPLES / "photos" / photo
    overlay, record = run(tmp_path, path)
    with Image.open(path) as image:
        assert record["image_size"] == [image.height, image.width]
    assert overlay.mode == "RGB"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.png"], "absent.png"),
        (["{text}"], "not an image"),
        (["{folder}"], "is a folder; give one image of it"),
        (["{picture}", "--point", "3,3", "--output", "{text}/"], "text.png: is a file, and what is written needs a folder"),
        (["{picture}", "--categories", "cup", "--stuff", "wall"], "--stuff: wall not among"),
        (["{picture}", "--categories", "cup", "cup"], "'cup' is also category 0"),
        (["{picture}", "--point", "99,5"], "outside"),
        (["{picture}", "--point", "nan,5"], "finite"),
        (["{picture}", "--box", "30,5,10,9"], "x1 < x0"),
        (["{picture}", "--box", "-30,-5,-10,9"], "lies outside"),
        (["{picture}", "--scribble", "1,2", "-.5,3"], "the point (x, y) = (-0.5, 3.0) lies outside"),
        (["{picture}", "--expression", "  "], "blank"),
        (["{picture}", "--mask", "absent.png"], "absent.png"),
        (["{picture}", "--mask", "{text}"], "cannot identify"),
        (["{picture}", "--checkpoint", "{folder}/absent"], "absent"),
        (["{picture}", "--categories", "cup", "--tiles", "64"], "holds the whole 64 x 48 image"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, picture, capsys, arguments, message):
    (tmp_path / "text.png").write_text("no picture")
    names = {"picture": picture, "text": tmp_path / "text.png", "folder": tmp_path}
    status = command.main(["--output", str(tmp_path / "result")] + [part.format(**names) for part in arguments])
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert complaint.startswith("error: ") and message in complaint
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--point", "3"], "expected 2 numbers"),
        (["--point", "a,b"], "2 numbers with commas"),
        (["--categories", "cup", "--point", "1,2"], "one kind of prompt"),
        (["--categories", "cup", "--instances"], "--instances goes with --expression"),
        (["--stuff", "cup"], "--stuff goes with --categories"),
        (
            ["--categories", "red cup, wall"],
            "--categories has one name, 'red cup, wall'; names stand apart, without commas: 'red cup' wall",
        ),
        (["--categories", "red cup,", "wall"], "has the name 'red cup,'; names stand apart, without commas: 'red cup' wall"),
        (["--point", "1,2", "--task", "semantic"], "--task goes with --categories"),
        (["--negative-point", "1,2", "--point", "3,4"], "corrects the region before it; give --point, --box, --scribble or --mask first"),
        (["--point", "1,2", "--threshold", "0.5"], "--threshold"),
        (["--task", "semantic", "--mask-threshold", "0.7"], "--mask-threshold: a semantic map has none"),
        (["--point", "1,2", "--no-target-threshold", "0.5"], "--no-target-threshold goes with --expression"),
        (["--categories", "cup", "--zoom", "auto"], "--zoom goes with regions, or with --expression without --instances"),
        (["--expression", "a cup", "--instances", "--zoom", "auto"], "--zoom goes with regions"),
        (["--point", "1,2", "--tiles", "64"], "--tiles goes with --categories and --expression"),
        (["--expression", "a cup", "--tiles", "64", "--zoom", "auto"], "give one of the two"),
        (["--categories", "cup", "--tiles", "2x2x2"], "pixels along a tile, such as 512, or rows and columns, such as 3x4"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(capsys, arguments, message):
    assert command.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_the_picture_is_never_overwritten(picture, capsys):
    before = picture.read_bytes()
    assert command.main([str(picture), "--output", str(picture.with_suffix(""))]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_the_mask_of_a_region_is_never_overwritten(tmp_path, picture, capsys):
    drawn = tmp_path / "drawn.png"
    Image.fromarray(np.full((48, 64), 255, dtype=np.uint8)).save(drawn)
    before = drawn.read_bytes()
    assert command.main([str(picture), "--mask", str(drawn), "--output", str(tmp_path / "drawn")]) == 2
    assert f"would overwrite the image {drawn}; choose another prefix" in capsys.readouterr().err
    assert drawn.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_bundled_picture_is_the_one_that_is_drawn_without_an_image():
    with Image.open(EXAMPLES / "pictures" / "shapes.png") as bundled:
        assert (np.asarray(bundled) == np.asarray(example_image())).all()
