"""Files of DAVIS: written, read, and scored as its tool scores them."""

import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf.data import load
from psalm_hf.data.benchmarks.davis import paint_objects, region_objects, sequence_and_frame
from psalm_hf.evaluation.evaluators.video import VideoEvaluator
from psalm_hf.evaluation.formats.davis import DavisFrames
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.structures import Region, Sample
from tests.conftest import EVAL_CASES
from tests.data.benchmarks.test_davis import FIRST, MAPS, draw_sequence
from tests.metrics.recordings import case, cases


@pytest.fixture(autouse=True, scope="module")
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def answer(*masks, scores=None):
    return {"masks": [rle_from_bitmap(mask) for mask in masks], "scores": scores or [1.0] * len(masks)}


def scored(measure, dataset, answers):
    assert sorted(answers) == list(range(len(dataset)))
    for row, sample in enumerate(dataset):
        measure.add(sample, answers[row])
    return measure


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    """Frames 00001 to 00003 of a cat in pictures of 3 x 6 pixels, and 00001 to 00002 of a dog."""
    root = tmp_path_factory.mktemp("davis")
    draw_sequence(root / "D", "cat", MAPS, val="cat\ndog\n")
    draw_sequence(root / "D", "dog", MAPS[:3])
    return load("davis2017", "val", root / "D", cache_dir=root)


def answers_to(dataset, seed=0):
    """Masks of objects that do not overlap, of the objects of each row."""
    rng = np.random.default_rng(seed)
    painted = [rng.integers(0, 3, (3, 6)) for _ in range(len(dataset))]
    return [answer(values == 1, values == 2) for values in painted]


@pytest.fixture
def submission(davis, tmp_path):
    """Folder of a submission."""
    folder = tmp_path / "submission"
    folder.mkdir()
    DavisFrames().write(folder, zip(davis, answers_to(davis), strict=True))
    return folder


def test_frames_are_read_as_they_were_written(davis, submission):
    assert sorted(str(path.relative_to(submission)) for path in submission.rglob("*.png")) == [
        *(f"cat/0000{number}.png" for number in range(4)), *(f"dog/0000{number}.png" for number in range(3)),
    ]  # fmt: skip
    assert DavisFrames().read(submission, davis) == dict(enumerate(answers_to(davis)))


def test_a_frame_holds_numbers_of_objects_and_the_usual_colours(submission):
    picture = Image.open(submission / "cat/00000.png")
    assert np.array_equal(np.asarray(picture), np.where(FIRST == 255, 0, FIRST))  # the given objects
    colours = np.reshape(picture.getpalette(), (-1, 3)).tolist()
    assert picture.mode == "P" and colours[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert (colours[4], colours[8], colours[9], colours[64]) == ([0, 0, 128], [64, 0, 0], [192, 0, 0], [32, 0, 0])


def test_later_objects_overwrite_earlier_ones(davis, tmp_path):
    everywhere = np.ones((3, 6), dtype=bool)
    left = everywhere & (np.arange(6) < 2)
    DavisFrames().write(tmp_path, [(davis[0], answer(everywhere, left))])
    assert np.asarray(Image.open(tmp_path / "cat/00001.png")).tolist() == [[2, 2, 1, 1, 1, 1]] * 3


def test_answers_and_their_files_have_the_same_numbers(davis, tmp_path):
    rng = np.random.default_rng(1)
    answers = [answer(rng.random((3, 6)) < 0.5, rng.random((3, 6)) < 0.5) for _ in range(len(davis))]
    DavisFrames().write(tmp_path, zip(davis, answers, strict=True))
    of_files = scored(VideoEvaluator(), davis, DavisFrames().read(tmp_path, davis))
    assert of_files.numbers() == scored(VideoEvaluator(), davis, dict(enumerate(answers))).numbers()
    assert {"sequences": 2, "objects": 4, "frames": 3, "last frames, not scored": 2}.items() <= of_files.counts().items()


def test_last_frames_may_be_missing_and_other_frames_not(davis, submission):
    (submission / "cat/00003.png").unlink()
    read = DavisFrames().read(submission, davis)
    assert not any(bitmap_from_rle(mask).any() for mask in read[2]["masks"])
    (submission / "dog/00001.png").unlink()
    with pytest.raises(ValueError, match="dog/00001.png: is missing; give an image for every frame between the first and the last"):
        DavisFrames().read(submission, davis)


@pytest.mark.parametrize("name", ["cat/00004.png", "bear/00001.png"])
def test_frames_that_nobody_asked_for_are_refused(davis, submission, name):
    (submission / name).parent.mkdir(exist_ok=True)
    shutil.copy(submission / "cat/00001.png", submission / name)
    with pytest.raises(ValueError, match=f"{name}: the dataset has no row for this frame"):
        DavisFrames().read(submission, davis)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("P", (5, 3)), r"cat/00002.png: size \(3, 5\), but the frame is \(3, 6\)"),
        (Image.new("L", (6, 3), 3), r"cat/00002.png: values \[3\] are none of the sequence's objects \[1, 2\]"),
        (Image.new("RGB", (6, 3), (128, 0, 0)), r"cat/00002.png: values \[128\] .* the number of the object, not its colour"),
    ],
)
def test_pictures_that_are_no_maps_of_the_objects_are_refused(davis, submission, picture, message):
    picture.save(submission / "cat/00002.png")
    with pytest.raises(ValueError, match=message):
        DavisFrames().read(submission, davis)


def test_a_file_that_is_no_picture_is_named(davis, submission):
    (submission / "cat/00002.png").write_text("no picture")
    with pytest.raises(ValueError, match="cat/00002.png cannot be read"):
        DavisFrames().read(submission, davis)


def everywhere(size=(3, 6)):
    return rle_from_bitmap(np.ones(size, dtype=bool))


@pytest.mark.parametrize(
    ("rles", "numbers", "message"),
    [
        ([everywhere()], [1, 2], "it: 1 masks for 2 objects; answer every region"),
        ([everywhere()], [0], "it: object 0; the files hold numbers from 1 to 254"),
        ([everywhere()], [255], "it: object 255; the files hold numbers from 1 to 254"),
        ([everywhere((6, 3))], [1], r"it: the mask of object 1 is of size \(6, 3\), but the image is \(3, 6\)"),
    ],
)
def test_masks_that_cannot_be_painted_are_refused(rles, numbers, message):
    with pytest.raises(ValueError, match=message):
        paint_objects(rles, numbers, (3, 6), "it")


def test_a_number_says_which_object_is_on_top_not_the_order_of_the_masks():
    left = rle_from_bitmap(np.arange(6)[None].repeat(3, 0) < 2)
    assert paint_objects([left, everywhere()], [7, 2], (3, 6), "it").tolist() == [[7, 7, 2, 2, 2, 2]] * 3


def test_a_row_names_its_sequence_its_frame_and_its_objects():
    assert sequence_and_frame("bike/packing/00012") == ("bike/packing", "00012")
    regions = (Region("mask", mask_rle=everywhere()),) * 2
    sample = Sample(Image.new("L", (6, 3)), "cat/00001", (3, 6), regions=regions, tags=("object:4", "object:2", "last_frame"))
    assert region_objects(sample) == [4, 2]
    with pytest.raises(ValueError, match="image cat/00001: 1 regions, but tags of 2 objects; give rows of DAVIS"):
        region_objects(Sample(Image.new("L", (6, 3)), "cat/00001", (3, 6), regions=regions[:1], tags=sample.tags))


@pytest.fixture(scope="module")
def recorded_davis(tmp_path_factory):
    """The recorded truth in the layout of the dataset, with black frames."""
    root = tmp_path_factory.mktemp("recorded")
    truth = EVAL_CASES / "davis/gt"
    shutil.copytree(truth, root / "D")
    for path in (truth / "Annotations/480p").glob("*/*.png"):
        frame = root / "D/JPEGImages/480p" / path.parent.name / f"{path.stem}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", Image.open(path).size).save(frame)
    return load("davis2017", "val", root / "D", cache_dir=root)


@pytest.mark.evaluators
@pytest.mark.parametrize("name", cases("davis"))
def test_recorded_davis_results_have_the_recorded_numbers(name, recorded_davis):
    answers = DavisFrames().read(EVAL_CASES / "davis/results" / name, recorded_davis)
    numbers = scored(VideoEvaluator(), recorded_davis, answers).numbers()
    for key, value in case("davis", name)["global"].items():
        assert numbers["region J&F" if key == "J&F-Mean" else f"region {key}"] / 100 == pytest.approx(value, abs=1e-6)
