"""Rows of videos are answered sequence by sequence: as by a session, whatever was interrupted or divided."""

from dataclasses import dataclass

import datasets
import numpy as np
import pytest

from psalm_hf import PsalmForSegmentation, PsalmProcessor, PsalmVideoSession
from psalm_hf.data import load
from psalm_hf.data.features import SampleDataset
from psalm_hf.data.shapes.moving import make_clip
from psalm_hf.evaluation.benchmarks import BenchmarkPart, OpenPart
from psalm_hf.evaluation.evaluators.video import VideoEvaluator
from psalm_hf.evaluation.records import Records
from psalm_hf.evaluation.runner import Processes, predict
from psalm_hf.evaluation.video import ExpressionVideoPredictor, FirstMaskPredictor, VideoPredictor, rows_by_sequence
from psalm_hf.masks import bitmap_from_rle, rle_from_bitmap
from psalm_hf.tiny import build_tiny
from psalm_hf.video import FirstLastConfident

CLIPS, FRAMES, ROWS = 3, 4, 9
# Whatever a model of random weights answers is remembered and shown.
CAREFREE = FirstLastConfident(score_threshold=0, confident_score=0, confident_stability=0, keep=2, least_share=0)


@dataclass(frozen=True)
class Alone(Processes):
    """One of several, which the test runs one after the other."""

    def wait(self):
        """The others have been here, or will be."""


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(seed=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load("moving_shapes", "test", num_clips=CLIPS, num_frames=FRAMES, image_size=64, cache_dir=tmp_path_factory.mktemp("cache"))


def part_of(dataset):
    return OpenPart(BenchmarkPart("moving_shapes"), None, "test", {}, dataset, {}, (VideoEvaluator(),))


def answered(tiny, dataset, folder, processes=None, policy=CAREFREE, oracle=False):
    """Row -> answer."""
    processes = processes or Processes()
    records = Records(folder, processes.rank)
    predictor = VideoPredictor(*tiny, part_of(dataset), {"memory": policy, "oracle": oracle})
    predict(predictor, records, processes, batch_size=1)
    return {row: found["region"] for row, found in records.predictions().items()}


@pytest.fixture(scope="module")
def answers(tiny, clips, tmp_path_factory):
    return answered(tiny, clips, tmp_path_factory.mktemp("answers"))


def test_answers_are_those_of_a_session_that_is_given_the_first_frame(tiny, clips, answers):
    assert sorted(answers) == list(range(ROWS))
    for index in range(CLIPS):
        clip, session = make_clip("test", index, image_size=64), PsalmVideoSession(*tiny, CAREFREE)
        first = clip.frame(0)
        session.add_objects(first.image, first.masks)
        for number in range(1, FRAMES):
            found, answer = session.track(clip.frame(number).image), answers[index * (FRAMES - 1) + number - 1]
            assert answer["masks"] == [rle_from_bitmap(mask.numpy()) for mask in found.masks.values()]
            assert answer["scores"] == list(found.scores.values())


def test_a_sequence_that_was_interrupted_is_followed_anew_and_only_what_is_missing_is_written(tiny, clips, answers, tmp_path):
    Records(tmp_path).append((row, {"region": answers[row]}) for row in (0, 1, 2, 3))  # one sequence, and a frame of the next
    assert answered(tiny, clips, tmp_path) == answers
    assert len((tmp_path / "000.jsonl").read_text().splitlines()) == ROWS


def test_what_is_answered_is_not_followed_again(clips, answers, tmp_path):
    Records(tmp_path).append((row, {"region": answer}) for row, answer in answers.items())
    model, processor = build_tiny(seed=1)
    model.get_image_features = None
    assert answered((model, processor), clips, tmp_path) == answers


def test_several_processes_give_the_same_answers_whole_sequences_each(tiny, clips, answers, tmp_path):
    shares = [answered(tiny, clips, tmp_path / str(rank), Alone(rank, 2)) for rank in range(2)]
    assert [sorted(share) for share in shares] == [[0, 1, 2, 6, 7, 8], [3, 4, 5]]
    assert shares[0] | shares[1] == answers


def test_every_row_gives_an_answer_that_can_be_judged(clips, answers):
    measure = VideoEvaluator()
    for row, answer in answers.items():
        measure.add(clips[row], answer)
    assert measure.counts()["frames"] == CLIPS * (FRAMES - 2) and 0 <= measure.numbers()["region J&F"] <= 100


def test_an_oracle_silences_objects_that_the_frame_does_not_show(tiny, tmp_path):
    # Object 1 of this clip is outside of the picture in some frames.
    index = next(index for index in range(50) if 1 not in make_clip("test", index, image_size=64).frame(9).masks)
    dataset = load("moving_shapes", "test", num_clips=index + 1, num_frames=12, image_size=64, cache_dir=tmp_path)
    kept = [row for row, image_id in enumerate(dataset.rows["image_id"]) if image_id.startswith(f"test-0-{index}/")]
    dataset = SampleDataset(dataset.rows.select(kept), ())
    told = answered(tiny, dataset, tmp_path / "told", oracle=True)
    for row, sample in enumerate(dataset):
        for region, mask, score in zip(sample.regions, told[row]["masks"], told[row]["scores"], strict=True):
            if region.segment is None:
                assert score == 0 and not bitmap_from_rle(mask).any()
    honest = answered(tiny, dataset, tmp_path / "honest")
    assert min(score for answer in honest.values() for score in answer["scores"]) > 0


def test_objects_that_only_later_rows_ask_for_are_given_on_the_first_frame(tiny, clips, tmp_path):
    def without_the_first_object(row, index):
        kept = ["object:1" not in row["tags"] or index > 0] + [True] * len(row["regions"])
        regions = [region for region, keep in zip(row["regions"], kept, strict=False) if keep]
        return row | {"regions": regions, "tags": [tag for tag in row["tags"] if index or not tag.endswith(":1")]}

    rows = clips.rows.select(range(FRAMES - 1)).map(without_the_first_object, with_indices=True)
    whole = answered(tiny, clips, tmp_path / "whole")
    part = answered(tiny, SampleDataset(rows, ()), tmp_path / "part")
    assert len(part[0]["masks"]) == len(whole[0]["masks"]) - 1
    assert part[0]["masks"] == whole[0]["masks"][1:]
    assert part[2] == whole[2]


def test_rows_go_by_sequence_in_the_order_of_the_dataset(clips):
    assert rows_by_sequence(clips) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def changed(clips, row, **values):
    rows = [dict(entry) for entry in clips.rows]
    rows[row] |= values
    return SampleDataset(datasets.Dataset.from_list(rows, features=clips.rows.features), ())


def test_a_sequence_that_ends_in_a_broken_frame_is_named_and_the_answers_before_it_stay(tiny, clips, answers, tmp_path):
    broken = changed(clips, 5, image={"bytes": b"no picture", "path": None})
    with pytest.raises(ValueError, match="image test-0-1/00003: 10 bytes that are no image"):
        answered(tiny, broken, tmp_path)
    assert {row: found["region"] for row, found in Records(tmp_path).predictions().items()} == {row: answers[row] for row in (0, 1, 2)}
    assert answered(tiny, clips, tmp_path) == answers  # when the file is mended


def test_frames_of_another_size_are_named(tiny, clips, tmp_path):
    other = load("moving_shapes", "test", num_clips=1, num_frames=3, image_size=80, cache_dir=tmp_path).rows[0]
    mixed = changed(clips, 1, image=other["image"], image_size=[80, 80], segments=[], regions=[
        {**region, "segment": None} for region in clips.rows[1]["regions"]
    ])  # fmt: skip
    with pytest.raises(ValueError, match="image test-0-0/00002: frame: is 80 high and 80 wide, but the frames before were 64"):
        answered(tiny, mixed, tmp_path / "answers")


def test_rows_that_are_no_frames_of_a_video_are_refused(tiny, clips, tmp_path):
    single = load("shapes", "test", task="interactive", num_images=2, image_size=64, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="image shapes/test/0/0: .* regions, but tags of 0 objects; give rows of DAVIS"):
        answered(tiny, single, tmp_path / "answers")
    alone = changed(clips, 0, region_image=None, region_image_size=None)
    with pytest.raises(ValueError, match="image test-0-0/00001: its regions are drawn on itself, not on the first frame of a video"):
        answered(tiny, alone, tmp_path / "more")


def test_psalm_tiny_follows_things(tiny_checkpoint, tmp_path):
    trained = PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), PsalmProcessor.from_pretrained(tiny_checkpoint)
    dataset = load("moving_shapes", "test", num_clips=1, num_frames=6, cache_dir=tmp_path)
    measure = VideoEvaluator()
    for row, answer in answered(trained, dataset, tmp_path / "answers", policy="first_last_confident").items():
        measure.add(dataset[row], answer)
    assert measure.numbers()["region J&F"] > 70
    assert np.isfinite(list(measure.numbers().values())).all()


def test_expressions_and_masks_of_the_same_objects_are_followed_side_by_side(tiny, tmp_path):
    dataset = load("moving_shapes", "test", num_clips=1, num_frames=4, image_size=64, expressions=True, cache_dir=tmp_path)
    choices = {"memory": CAREFREE, "look_every": 2, "no_target_threshold": 0.0}
    samples = list(dataset)
    said = {int(tag.split(":")[1]): tag.split(":")[3] for tag in samples[0].tags if tag.startswith("expression:")}
    clip = make_clip("test", 0, image_size=64)
    found = {}
    for kind in (ExpressionVideoPredictor, FirstMaskPredictor):
        found[kind] = [each["region"] for each in kind(*tiny, part_of(dataset), choices).predict(samples, None)]
    assert found[ExpressionVideoPredictor][0] == found[FirstMaskPredictor][0] and len(found[FirstMaskPredictor]) == 4
    by_words = PsalmVideoSession(*tiny, CAREFREE, look_every=2, threshold=0.0)
    meant = by_words.add_objects(clip.frame(0).image, {number: {"expression": text} for number, text in said.items()})
    assert found[FirstMaskPredictor][0]["scores"] == list(meant.scores.values())
    by_masks = PsalmVideoSession(*tiny, CAREFREE)
    by_masks.add_objects(clip.frame(0).image, {number: clip.frame(0).masks[number] for number in said})
    for session, kind in ((by_words, ExpressionVideoPredictor), (by_masks, FirstMaskPredictor)):
        for number in range(1, 4):
            result = session.track(clip.frame(number).image)
            assert found[kind][number]["masks"] == [rle_from_bitmap(mask.numpy()) for mask in result.masks.values()]


def test_rows_without_expressions_are_refused_where_they_are_asked_for(tiny, clips):
    choices = {"memory": CAREFREE, "look_every": 2, "no_target_threshold": None}
    with pytest.raises(ValueError, match="image test-0-0/00001: object 1 has no expression"):
        list(ExpressionVideoPredictor(*tiny, part_of(clips), choices).predict([clips[0]], None))
