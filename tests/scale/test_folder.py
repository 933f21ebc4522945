"""A folder run: the files it writes, what goes on after a kill, what fails alone, and what is refused."""

import json
import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf import PsalmPredictor
from psalm_hf.scale import folder as folder_module
from psalm_hf.scale.folder import READ_AHEAD, FolderRun, coco_categories, predict_folder
from psalm_hf.scale.source import list_images
from psalm_hf.tiny import build_tiny

PROMPT = {"categories": ["cup", "table"], "stuff": ["table"], "threshold": 0.0, "task": "instance"}


@pytest.fixture(scope="module")
def predictor():
    return PsalmPredictor(*build_tiny(seed=0, image_size=64), reuse_prefix=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seven images of noise and a file that is none, "3.png"."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"nothing")
    return list_images([folder])


def run_of(output, images, prompt=PROMPT, **options):
    return FolderRun(output, images, prompt, batch_size=3, **options)


def predict(output, images, predictor, prompt=PROMPT, **options):
    run = run_of(output, images, prompt, **options)
    predict_folder(run, predictor)
    return run.join()


def files(output):
    return {name: (output / f"{name}.json").read_bytes() for name in ("results", "images", "failures")}


@pytest.fixture(scope="module")
def undisturbed(images, predictor, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert predict(output, images, predictor) == 1
    return output


def test_results_are_those_of_each_image_and_pycocotools_reads_them(undisturbed, images, predictor):
    coco = COCO(undisturbed / "images.json")
    found = coco.loadRes(str(undisturbed / "results.json"))
    assert coco.getImgIds() == [1, 2, 3, 5, 6, 7, 8] and [category["name"] for category in coco.dataset["categories"]] == ["cup", "table"]
    assert coco.imgs[6] == {"id": 6, "file_name": "5.png", "width": 30, "height": 25}
    for image in (images[0], images[5]):
        expected = predictor.predict(image.path, **PROMPT)
        annotations = found.imgToAnns[image.image_id]
        assert len(annotations) == len(expected) > 0
        np.testing.assert_allclose([one["score"] for one in annotations], expected.scores, atol=1e-4)
        assert (np.stack([found.annToMask(one) for one in annotations]) != expected.masks).mean() < 1e-3


def test_a_broken_image_is_named_with_the_reason(undisturbed):
    (failure,) = json.loads((undisturbed / "failures.json").read_text())
    assert (failure["id"], failure["file_name"]) == (4, "3.png") and failure["failure"].startswith("not an image that can be read")


@pytest.mark.parametrize("torn", [b"", b'{"row":2,"answer":[{"id":7,"fi'], ids=["between two batches", "in a line"])
def test_a_run_that_was_killed_goes_on_with_the_batches_that_are_missing(undisturbed, images, predictor, tmp_path, monkeypatch, torn):
    output, asked, stop_at = tmp_path / "out", [], 2

    def counted(predictor, prompt, opened, overlays):
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        asked.append([image.name for image, _ in opened])
        return predict_images(predictor, prompt, opened, overlays)

    predict_images = folder_module.predict_images
    monkeypatch.setattr(folder_module, "predict_images", counted)
    with pytest.raises(KeyboardInterrupt):
        predict(output, images, predictor)
    with open(output / "answers" / "000.jsonl", "ab") as file:
        file.write(torn)
    stop_at = None
    assert predict(output, images, predictor) == 1
    assert asked == [["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"], ["6.png", "7.png"]]
    assert files(output) == files(undisturbed)
    predict(output, images, None)  # all is done, and no model is needed
    assert len(asked) == 3


def test_a_batch_that_kills_every_process_is_given_up_and_the_others_are_done(images, predictor, tmp_path, monkeypatch, one_thread):
    # One thread, because those of this process are not in its copies, which would wait for them.
    def deadly(predictor, prompt, opened, overlays):
        if opened[0][0].name == "3.png":
            os._exit(9)
        return predict_images(predictor, prompt, opened, overlays)

    predict_images = folder_module.predict_images
    monkeypatch.setattr(folder_module, "predict_images", deadly)
    output, statuses = tmp_path / "out", []
    for _ in range(3):
        child = multiprocessing.get_context("fork").Process(target=predict, args=(output, images, predictor))
        child.start()
        child.join()
        statuses.append(child.exitcode)
    assert statuses == [9, 9, 9] and [path.name for path in output.glob("answers/*.attempt")] == ["1.attempt"]
    assert predict(output, images, predictor) == 3 and not [*output.glob("answers/*.attempt")]
    failures = json.loads((output / "failures.json").read_text())
    assert [failure["failure"][:20] for failure in failures] == ["not an image that ca", *["given up: 3 processe"] * 2]
    (output / "answers/0.attempt").touch()  # left by one that died just after it had written
    run_of(output, images)
    assert not (output / "answers/0.attempt").exists()


def test_another_task_is_refused_and_nothing_is_lost(undisturbed, images, predictor):
    before = files(undisturbed)
    for changed, message in (
        ({"prompt": PROMPT | {"threshold": 0.1}}, "was begun with prompt .*give the same images and options"),
        ({"images": images[:7]}, "was begun with images 8, now it is 7"),
        ({"images": [*images[1:], images[0]]}, "was begun with list"),
        ({"overlays": True}, "was begun with overlays False, now it is True"),
        ({"images": [replace(image, path=f"/other/{image.name}") for image in images]}, "was begun with folder .* now it is '/other'"),
        ({"images": [replace(image, column="right") for image in images]}, "was begun with list"),
    ):
        with pytest.raises(ValueError, match=message):
            run_of(**{"output": undisturbed, "images": images} | changed)
    assert files(undisturbed) == before


def test_batches_that_another_task_has_died_of_count_no_more(images, tmp_path):
    died = tmp_path / "out/answers/0.attempt"
    run_of(tmp_path / "out", images)
    died.write_bytes(b"+++")  # before a first batch was written
    run_of(tmp_path / "out", images)
    assert died.read_bytes() == b"+++"
    run_of(tmp_path / "out", images, PROMPT | {"threshold": 0.1})
    assert not died.exists()


def test_a_folder_with_other_files_is_refused(images, tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="holds other files"):
        run_of(tmp_path, images)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"categories": ["cup", "cup"]}, "'cup' is also category 0"),
        ({"regions": [{"point": (5, 5)}], "mask_threshold": 2.0}, "mask_threshold"),
        ({"regions": {"point": (5, 5)}, "threshold": 0.5}, "threshold: regions have none"),
        ({"regions": [{"point": (5, 5)}] * 3000}, "at most .* fit"),
    ],
)
def test_a_wrong_prompt_is_refused_before_any_image_fails(images, predictor, tmp_path, prompt, message):
    with pytest.raises(ValueError, match=message):
        predict(tmp_path / "out", images, predictor, prompt)
    assert not (tmp_path / "out" / "answers" / "000.jsonl").exists()


def test_an_image_that_one_tile_would_hold_is_asked_as_a_whole(undisturbed, images, predictor, tmp_path):
    assert predict(tmp_path / "whole", images, predictor, PROMPT | {"tiles": 70}) == 1  # larger than the blank image of the check, too
    assert files(tmp_path / "whole")["results"] == files(undisturbed)["results"]
    assert predict(tmp_path / "tiles", images[:2], predictor, PROMPT | {"tiles": 24}) == 0
    assert json.loads(files(tmp_path / "tiles")["images"])["info"]["prompt"]["tiles"] == 24
    assert "tiles" not in json.loads(files(undisturbed)["images"])["info"]["prompt"]


def test_tiles_and_thresholds_may_be_numbers_of_numpy(images, predictor, tmp_path):
    prompt = PROMPT | {"tiles": np.int64(24), "threshold": np.float32(0)}
    assert predict(tmp_path / "out", images[:1], predictor, prompt) == 0
    assert json.loads(files(tmp_path / "out")["images"])["info"]["prompt"]["tiles"] == 24


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (0, "expected whole numbers of at least 1"),
        (8, "of at least 16 pixels"),
        ((1, 1), "are the whole image"),
        ((100, 100), "more than 4096"),
        ((10**9, 1), "of at least 16 pixels"),
    ],
)
def test_tiles_that_no_image_could_have_are_refused_before_any_image_fails(images, predictor, tmp_path, tiles, message):
    with pytest.raises(ValueError, match=message):
        predict(tmp_path / "out", images, predictor, PROMPT | {"tiles": tiles})
    assert not (tmp_path / "out" / "answers" / "000.jsonl").exists()


def test_an_image_that_the_prompt_does_not_fit_fails_alone(images, predictor, tmp_path):
    prompt = {"regions": [{"point": (5, 23)}]}  # below the first images
    assert predict(tmp_path / "out", images, predictor, prompt) == 4
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert [failure["id"] for failure in failures] == [1, 2, 3, 4] and "point" in failures[0]["failure"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {entry["image_id"] for entry in results} == {5, 6, 7, 8}


OUT_OF_MEMORY = [MemoryError("no more"), torch.OutOfMemoryError("no more"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_an_image_that_takes_too_much_memory_fails_alone(images, tmp_path, monkeypatch, error):
    predictor = PsalmPredictor(*build_tiny(seed=0, image_size=64), reuse_prefix=False)
    original = predictor.predict_batch

    def predict_batch(requests):
        if any(image.height == 22 for image, _ in requests):  # "2.png"
            raise error
        return original(requests)

    monkeypatch.setattr(predictor, "predict_batch", predict_batch)
    assert predict(tmp_path / "out", images[:3], predictor) == 1
    (failure,) = json.loads((tmp_path / "out/failures.json").read_text())
    assert (failure["file_name"], failure["failure"]) == ("2.png", f"out of memory: {error}")


def test_an_image_whose_masks_memory_will_not_hold_fails_alone(predictor, tmp_path, monkeypatch):
    for name, width in (("small", 30), ("wide", 60)):
        Image.new("RGB", (width, 20), "red").save(tmp_path / f"{name}.png")
    monkeypatch.setattr("psalm_hf.tiling.MAX_JOINED_BYTES", 0)
    assert predict(tmp_path / "out", list_images([tmp_path]), predictor, PROMPT | {"tiles": 30}) == 1
    (failure,) = json.loads((tmp_path / "out/failures.json").read_text())
    assert failure["file_name"] == "wide.png" and failure["failure"].startswith("tiles: masks of ")


def test_a_run_goes_on_with_the_same_weights_alone(images, tmp_path):
    checkpoint = tmp_path / "model"
    for number in (0, 1):
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(bytes([number]))
        if number == 0:
            run_of(tmp_path / "out", images, checkpoint=str(checkpoint)).append(0, [])
    with pytest.raises(ValueError, match="was begun with checkpoint"):
        run_of(tmp_path / "out", images, checkpoint=str(checkpoint))


def test_expressions_that_mean_nothing_are_kept_with_their_score(images, predictor, tmp_path):
    prompt = {"expressions": ["a cup", "a table"], "no_target_threshold": 1.0}
    predict(tmp_path / "out", images, predictor, prompt)
    head = json.loads((tmp_path / "out/images.json").read_text())
    assert head["images"][0]["absent"].keys() == {"a cup", "a table"} and json.loads((tmp_path / "out/results.json").read_text()) == []
    assert head["categories"] == [{"id": 1, "name": "a cup"}, {"id": 2, "name": "a table"}] == coco_categories(prompt)


def test_overlays_are_drawn_under_names_that_stay_in_their_folder(images, predictor, tmp_path):
    hostile = folder_module.SourceImage("s.tar/../../a b.png", images[1].path, "../../x")
    predict(tmp_path / "out", [images[0], hostile], predictor, {"regions": [{"point": (5, 5)}]}, overlays=True)
    drawn = sorted(path.name for path in (tmp_path / "out/overlays").iterdir())
    assert drawn == ["00000001_0.png.jpg", "9cdf6a50_.._.._x_a_b.png.jpg"]
    with Image.open(tmp_path / "out/overlays" / drawn[0]) as overlay:
        assert overlay.width >= 30


def test_images_are_read_ahead_and_no_more_than_that(images):
    taken = []

    def batches():
        for number in range(9):
            taken.append(number)
            yield number, images[:1]

    opened = folder_module._opened_batches(batches(), readers=2)
    number, ((image, content),) = next(opened)
    assert (number, image, content.size) == (0, images[0], (30, 20)) and len(taken) == READ_AHEAD + 1
    assert [number for number, _ in opened] == list(range(1, 9))


def test_a_decompression_bomb_fails_alone(images, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 30 - 1)  # beyond it Pillow only warns, up to twice as much
    ((_, opened),) = folder_module._opened_batches([(0, [images[0], images[7]])], readers=2)
    assert [isinstance(content, str) and "decompression bomb" in content for _, content in opened] == [False, True]
