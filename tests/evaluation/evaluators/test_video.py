"""Rows of videos and of pairs of views, and answers to them, become numbers."""

import json
import pickle

import numpy as np
import pytest

from psalm_hf.evaluation.evaluators.two_view import CorrespondenceEvaluator
from psalm_hf.evaluation.evaluators.video import ExpressionVideoEvaluator, VideoEvaluator
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Region, Sample, Segment
from tests.metrics.drawing import ids, mask

FIRST = ids("1122", "1122")


def frame_of_video(name, target, tags=("object:1", "object:2")):
    """A row that asks for the objects 1 and 2 of `FIRST` in a frame, or for those in the tags."""
    numbers = [int(tag.removeprefix("object:")) for tag in tags if tag.startswith("object:")]
    shown = [number for number in (1, 2) if (target == number).any()]
    return Sample(
        image=f"{name}.jpg",
        image_id=f"cat/{name}",
        image_size=target.shape,
        segments=tuple(Segment(rle_from_bitmap(target == number), annotation_id=number) for number in shown),
        regions=tuple(Region("mask", mask_rle=rle_from_bitmap(number == FIRST)) for number in numbers),
        region_image="00000.jpg",
        region_image_size=FIRST.shape,
        tags=tags,
    )


def answer(*masks, scores=None):
    return {"masks": [rle_from_bitmap(mask) for mask in masks], "scores": scores or [1.0] * len(masks)}


def test_truth_as_answer_gives_100():
    measure = VideoEvaluator()
    for name, target in (("00001", ids("1.22", "1.22")), ("00002", ids("22..", "22..")), ("00003", ids("....", "...."))):
        measure.add(frame_of_video(name, target), answer(target == 1, target == 2))
    numbers = measure.numbers()
    assert {name: numbers[f"region {name}"] for name in ("J&F", "J-Mean", "F-Mean", "J-Decay")} == {
        "J&F": 100, "J-Mean": 100, "F-Mean": 100, "J-Decay": 0,
    }  # fmt: skip
    assert measure.counts() == {
        "sequences": 1, "objects": 2, "frames": 3, "last frames, not scored": 0, "identity switches": 0, "masks on another object": 0,
    }  # fmt: skip


def test_objects_that_are_taken_for_each_other_are_counted():
    measure = VideoEvaluator()
    target = ids("1122", "1122")
    for name, first, second in (("00001", 1, 2), ("00002", 2, 1), ("00003", 2, 1), ("00004", 1, 2)):
        measure.add(frame_of_video(name, target), answer(target == first, target == second))
    assert measure.counts()["identity switches"] == 4 and measure.counts()["masks on another object"] == 4


def test_an_object_that_is_found_where_it_is_not_is_wrong():
    measure = VideoEvaluator()
    target = ids("22..", "22..")
    measure.add(frame_of_video("00001", target), answer(mask("..#.", "...."), target == 2))
    assert measure.metric.per_object()["cat", 1]["J-Mean"] == 0
    assert measure.metric.per_object()["cat", 2]["J-Mean"] == 100


def test_last_frames_are_counted_but_not_scored():
    measure = VideoEvaluator()
    target = ids("1122", "1122")
    measure.add(frame_of_video("00001", target), answer(target == 1, target == 2))
    measure.add(frame_of_video("00002", target, ("object:1", "object:2", "last_frame")), answer(target == 2, target == 1))
    assert measure.numbers()["region J&F"] == 100
    assert measure.counts()["last frames, not scored"] == 1 and measure.counts()["frames"] == 1


def test_objects_with_higher_numbers_cover_others_as_in_the_files():
    measure = VideoEvaluator()
    target = ids("1122", "1122")
    measure.add(frame_of_video("00001", target), answer(np.ones((2, 4), bool), target == 2))
    assert measure.numbers()["region J-Mean"] == 100


def test_objects_that_an_oracle_does_not_ask_for_are_absent():
    measure = VideoEvaluator()
    both, one = ids("1122", "1122"), ids("..22", "..22")
    measure.add(frame_of_video("00001", both), answer(both == 2, both == 2))
    measure.add(frame_of_video("00002", one, ("object:2",)), answer(one == 2))
    assert measure.metric.per_object()["cat", 1]["J-Mean"] == 50
    assert measure.metric.per_object()["cat", 2]["J-Mean"] == 100


def test_rows_without_objects_and_masks_of_another_size_are_refused():
    target = ids("1122", "1122")
    with pytest.raises(
        ValueError, match="image cat/00001: 0 regions|image cat/00001: 2 regions, but tags of 1 objects; give rows of DAVIS"
    ):
        sample = frame_of_video("00001", target)
        VideoEvaluator().add(Sample(**{**vars(sample), "tags": ("object:1",)}), answer(target == 1, target == 2))
    with pytest.raises(ValueError, match="image cat/00001: 1 masks for 2 objects"):
        VideoEvaluator().add(frame_of_video("00001", target), answer(target == 1))
    with pytest.raises(ValueError, match=r"image cat/00001: the mask of object 1 is of size \(1, 4\), but the image is \(2, 4\)"):
        VideoEvaluator().add(frame_of_video("00001", target), answer(mask("####"), target == 2))


# Views. Annotations have 960 x 1920 pixels, frames 480 x 960.

FULL, FRAME = (960, 1920), (480, 960)


def box(size, top, left, height, width):
    """In fractions of the picture's height."""
    painted = np.zeros(size, dtype=bool)
    scale = size[0]
    painted[int(top * scale) : int((top + height) * scale), int(left * scale) : int((left + width) * scale)] = True
    return painted


CUP = (0.1, 0.2, 0.3, 0.3)


@pytest.fixture
def take(tmp_path):
    """Folder of a take in which cam01 shows a cup but no pan."""
    masks = {"cup_0": {"cam01": {"30": rle_from_bitmap(box(FULL, *CUP))}}, "pan_0": {"cam01": {"60": rle_from_bitmap(box(FULL, *CUP))}}}
    (tmp_path / "t1/cam01").mkdir(parents=True)
    (tmp_path / "t1/annotation.json").write_text(json.dumps({"masks": masks, "subsample_idx": [30, 60]}))
    return tmp_path / "t1"


def view(take, image=None):
    prompt = Region("mask", mask_rle=rle_from_bitmap(np.ones((4, 4))))
    return Sample(
        image=image or str(take / "cam01/30.jpg"),
        image_id="t1/cam01/30",
        image_size=FRAME,
        regions=(prompt, prompt),
        record_id="t1/aria_cam01/30",
        region_image="a.jpg",
        region_image_size=(4, 4),
        tags=("object:cup_0", "object:pan_0"),
    )


def test_what_the_other_view_shows_is_compared_and_what_it_does_not_show_is_doubted(take):
    measure = CorrespondenceEvaluator()
    measure.add(view(take), answer(box(FRAME, *CUP), np.zeros(FRAME), scores=[0.9, 0.2]))
    numbers = measure.numbers()
    assert [numbers[f"region {name}"] for name in ("IoU", "contour accuracy", "location error", "visibility accuracy")] == [
        100,
        100,
        0,
        100,
    ]
    assert measure.counts() == {"visible objects": 1, "invisible objects": 1}
    measure.add(view(take), answer(np.zeros(FRAME), np.zeros(FRAME), scores=[0.9, 0.8]))
    assert measure.numbers()["region IoU"] == 50 and measure.numbers()["region visibility accuracy"] == pytest.approx(75)


def test_the_truth_is_resized_from_full_resolution_in_one_step(tmp_path):
    # Row 2 of 480 is row 5 of 1408, which a frame of half the size has lost: there it would be row 2 of 704, which is row 4.
    line = np.zeros((1408, 1408), dtype=bool)
    line[5] = True
    (tmp_path / "aria").mkdir()
    (tmp_path / "annotation.json").write_text(json.dumps({"masks": {"cup_0": {"aria": {"30": rle_from_bitmap(line)}}}}))
    sample = Sample(
        image=str(tmp_path / "aria/30.jpg"),
        image_id="t1/aria/30",
        image_size=(704, 704),
        regions=(Region("mask", mask_rle=rle_from_bitmap(np.ones((4, 4)))),),
        record_id="t1/cam01_aria/30",
        region_image="a.jpg",
        region_image_size=(4, 4),
        tags=("object:cup_0",),
    )
    measure = CorrespondenceEvaluator()
    found = np.zeros((480, 480), dtype=bool)
    found[2] = True
    measure.add(sample, answer(found))
    assert measure.numbers()["region IoU"] == 100


def test_the_truth_of_full_resolution_is_at_hand_or_named(take, tmp_path):
    with pytest.raises(ValueError, match="image t1/cam01/30: expected the path of a frame"):
        CorrespondenceEvaluator().add(view(take, image=b"jpeg"), answer(np.zeros(FRAME), np.zeros(FRAME)))
    with pytest.raises(ValueError, match="elsewhere/annotation.json: cannot be read .* see the docs page Ego-Exo4D"):
        sample = view(take, image=str(tmp_path / "elsewhere/cam01/30.jpg"))
        CorrespondenceEvaluator().add(sample, answer(np.zeros(FRAME), np.zeros(FRAME)))


def test_answers_that_do_not_fit_the_view_are_named(take):
    with pytest.raises(ValueError, match="image t1/cam01/30, prediction: 1 masks and 1 scores for 2 regions"):
        CorrespondenceEvaluator().add(view(take), answer(np.zeros(FRAME)))
    with pytest.raises(ValueError, match=r"image t1/cam01/30, object cup_0: prediction: size \(480, 480\)"):
        CorrespondenceEvaluator().add(view(take), answer(np.zeros((480, 480)), np.zeros(FRAME)))


# Both.


def both_measures(take):
    first, second = ids("1122", "1122"), ids("2211", "2211")
    videos = [
        (frame_of_video("00001", first), answer(first == 1, second == 2)),
        (frame_of_video("00002", second), answer(first == 1, first == 2)),
    ]
    views = [
        (view(take), answer(box(FRAME, *CUP), np.zeros(FRAME), scores=[0.9, 0.2])),
        (view(take), answer(np.zeros(FRAME), np.zeros(FRAME), scores=[0.1, 0.9])),
    ]
    return [(VideoEvaluator, videos), (CorrespondenceEvaluator, views)]


def told(measure):
    return str((measure.numbers(), measure.per_category(), measure.counts(), measure.protocol()))


def test_workers_know_together_what_one_knows(take):
    for make, rows in both_measures(take):
        whole, parts = make(), []
        for row in rows:
            whole.add(*row)
            part = make()
            part.add(*row)
            parts.append(pickle.loads(pickle.dumps(part)))
        total = make()
        total += parts[1]
        total += parts[0]
        total += make()
        assert told(total) == told(whole)
        assert whole.name == "region" and set(whole.protocol()) == {"region"}
        assert json.loads(json.dumps(whole.protocol())) == whole.protocol()


def test_before_the_first_answer_there_are_no_numbers():
    for make in (VideoEvaluator, CorrespondenceEvaluator):
        with pytest.raises(ValueError, match="nothing to compute"):
            make().numbers()


def test_objects_of_expressions_are_grouped_by_what_was_meant_in_the_first_frame():
    """Object 1: right at first, found in one of the two frames that show it. Object 2: its expression means object 1, and is followed."""
    evaluator = ExpressionVideoEvaluator()
    said = ("object:1", "object:2", "expression:1:attribute:the red thing", "expression:2:ordinal:the second thing from the left")
    nothing, one, two = ids("....", "...."), ids("11..", "11.."), ids("..22", "..22")
    evaluator.add(frame_of_video("00000", FIRST, (*said, "first_frame")), answer(one == 1, one == 1))
    evaluator.add(frame_of_video("00001", FIRST, said), answer(one == 1, nothing == 1))
    evaluator.add(frame_of_video("00002", FIRST, said), answer(nothing == 1, one == 1))
    evaluator.add(frame_of_video("00003", FIRST, (*said, "last_frame")), answer(nothing == 1, two == 2))
    numbers = {name.removeprefix("region "): value for name, value in evaluator.numbers().items()}
    assert numbers["J&F, right at first"] == numbers["J&F, attribute"] == 50
    assert numbers["J-Mean"] == 25 and numbers["J&F, ordinal"] == numbers["J&F, wrong at first"] == 25  # its contour touches the other one
    assert np.isnan(numbers["J&F, nothing at first"]) and numbers["IoU, first frame"] == 50
    assert numbers["found"] == 50  # 2 of the 4 pairs of object and frame
    counts = evaluator.counts()
    assert (counts["objects, right at first"], counts["objects, wrong at first"], counts["objects, nothing at first"]) == (1, 1, 0)
    assert counts["objects never found"] == 0 and counts["objects found in every frame that shows them"] == 0
    assert evaluator.frames_found() == {("cat", 1): (2, 1), ("cat", 2): (2, 1)}


def test_evaluators_of_expressions_add_up():
    said = ("object:1", "expression:1:attribute:the red thing")
    whole, parts = ExpressionVideoEvaluator(), [ExpressionVideoEvaluator(), ExpressionVideoEvaluator()]
    for number in range(4):
        tags = (*said, *["first_frame"] * (number == 0), *["last_frame"] * (number == 3))
        for evaluator in (whole, parts[number // 2]):
            evaluator.add(frame_of_video(f"{number:05}", FIRST, tags), answer(FIRST == 1))
    parts[0] += pickle.loads(pickle.dumps(parts[1]))
    assert parts[0].counts() == whole.counts() and parts[0].frames_found() == whole.frames_found() == {("cat", 1): (2, 2)}
    assert parts[0].numbers()["region J&F, right at first"] == 100
