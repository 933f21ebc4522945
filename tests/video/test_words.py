"""Objects that are given by words: what is found, when it is looked for again, which ids there are, and what a file keeps of them."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from psalm_hf import PsalmForSegmentation, PsalmProcessor, PsalmVideoSession
from psalm_hf.data.shapes.moving import make_clip
from psalm_hf.data.shapes.scene import SHAPES
from psalm_hf.tiny import build_tiny
from psalm_hf.video.words import Found, share_out, words_inputs

CROSS, MOON = {"expression": "the blue cross"}, {"expression": "the green moon"}
THINGS = {"categories": list(SHAPES)}


@pytest.fixture(scope="module")
def trained(tiny_checkpoint):
    return PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), PsalmProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def clip():
    """A striped blue cross (1), a purple ring (2), and a dotted blue star (3), whole and apart in the first frame."""
    return [make_clip("test", 0).frame(number) for number in range(6)]


@pytest.fixture(scope="module")
def without_blue():
    """Five crosses, purple (1, 2, 4) and yellow (3, 5)."""
    return [make_clip("test", 3).frame(number) for number in range(6)]


def iou(one, other):
    one, other = np.asarray(one), np.asarray(other)
    return (one & other).sum() / (one | other).sum()


def equal(one, other):
    return one.scores == other.scores and all(torch.equal(one.masks[name], other.masks[name]) for name in one.masks)


def test_the_mask_that_an_expression_means_is_remembered_as_if_it_had_been_given(trained, clip):
    model, processor = trained
    inputs = processor(clip[0].image, expressions=["the blue cross"])
    with torch.no_grad():
        (found,) = processor.post_process_referring_segmentation(model(**inputs), None, target_sizes=inputs["original_sizes"])
    said, given = PsalmVideoSession(*trained), PsalmVideoSession(*trained)
    meant = said.add_objects(clip[0].image, {1: CROSS})
    assert torch.equal(meant.masks[1], found["segmentation"]) and iou(meant.masks[1], clip[0].masks[1]) > 0.9
    given.add_objects(clip[0].image, {1: {"mask": meant.masks[1]}})
    assert all(equal(said.track(frame.image), given.track(frame.image)) for frame in clip[:2])
    assert said.num_found == given.num_found == {1: 2} and said.labels == {1: "the blue cross"} and given.labels == {1: None}


def test_what_is_not_there_is_looked_for_in_every_nth_call_until_it_is_found(trained, clip, without_blue):
    session = PsalmVideoSession(*trained, look_every=3)
    meant = session.add_objects(without_blue[0].image, {"blue": CROSS, "moon": MOON})
    assert session.object_ids == ("blue", "moon") and not any(mask.any() for mask in meant.masks.values())
    assert 0 <= meant.scores["blue"] <= trained[1].no_target_threshold
    shown = [session.track(frame.image) for frame in (without_blue[1], clip[0], clip[1], clip[2], clip[3])]
    assert [bool(result.masks["blue"].any()) for result in shown] == [False, False, True, True, True]
    assert [result.scores["blue"] > 0 for result in shown] == [False, False, True, True, True]  # it was not looked for before
    assert iou(shown[-1].masks["blue"], clip[3].masks[1]) > 0.8
    assert session.num_found == {"blue": 3, "moon": 0}


def test_every_instance_is_an_object_and_none_is_doubled_when_it_is_looked_for_again(trained, without_blue):
    session = PsalmVideoSession(*trained, look_every=1)
    meant = session.add_objects(without_blue[0].image, {"thing": THINGS, 7: {"expression": "all yellow crosses"}}, instances=True)
    # The crosses that the expression means are followed already.
    assert session.object_ids == tuple(f"thing {number}" for number in range(1, 6)) == tuple(meant.masks)
    assert session.searches == ("thing", 7) and set(session.labels.values()) == {"cross"}
    for name, mask in meant.masks.items():
        assert max(iou(mask, target) for target in without_blue[0].masks.values()) > 0.9, name
    for frame in without_blue[:2]:
        session.track(frame.image)
    assert len(session.object_ids) == 5


def test_new_instances_join_at_the_next_look_and_numbers_that_are_taken_are_left_out(trained, clip, without_blue):
    session = PsalmVideoSession(*trained, look_every=2)
    session.add_objects(without_blue[0].image, {2: {"point": (5, 5)}})
    session.add_objects(without_blue[0].image, {1: {"expression": "all blue things"}, 4: MOON}, instances=True)
    assert session.object_ids == (2,) and session.searches == (1, 4)
    session.track(clip[0].image)
    assert session.object_ids == (2,)
    result = session.track(clip[1].image)
    assert session.object_ids == (2, 1, 3) and {1, 3} <= {name for name, mask in result.masks.items() if mask.any()}
    assert session.labels == {2: None, 1: "all blue things", 3: "all blue things"} and session.num_found[3] == 1


def test_what_was_given_by_a_box_does_not_join_as_an_instance(trained, clip):
    session = PsalmVideoSession(*trained, look_every=1)
    rows, columns = np.nonzero(clip[0].masks[2])
    session.add_objects(clip[0].image, {"ring": {"box": (columns.min(), rows.min(), columns.max(), rows.max())}})
    session.add_objects(clip[0].image, {"thing": THINGS}, instances=True)
    assert session.object_ids == ("ring", "thing 1", "thing 2")
    session.track(clip[0].image)
    assert session.object_ids == ("ring", "thing 1", "thing 2")


def test_without_instances_the_best_thing_of_all_categories_is_the_object(trained, clip):
    session = PsalmVideoSession(*trained)
    meant = session.add_objects(clip[0].image, {1: {"categories": ["ring", "moon"]}, 2: {"categories": ["moon", "triangle"]}})
    assert iou(meant.masks[1], clip[0].masks[2]) > 0.9 and not meant.masks[2].any()
    assert session.labels == {1: "ring", 2: "moon, triangle"} and 0 <= meant.scores[2] < 0.5 < meant.scores[1]


def test_two_objects_are_never_the_same_thing(trained, clip):
    """One of two expressions for the cross has it; the other waits, and takes nothing from an object that is followed."""
    session = PsalmVideoSession(*trained, look_every=1)
    meant = session.add_objects(clip[0].image, {1: {"expression": "the blue cross"}, 2: {"expression": "the cross"}})
    (found,), (missed,) = ([name for name, mask in meant.masks.items() if mask.any() == is_found] for is_found in (True, False))
    assert meant.scores[found] >= meant.scores[missed] > 0.87
    # Who also means other things takes one of those, however sure it is of the cross.
    both = PsalmVideoSession(*trained).add_objects(clip[0].image, {1: {"categories": ["cross", "star"]}, 2: CROSS})
    assert iou(both.masks[1], clip[0].masks[3]) > 0.9 and iou(both.masks[2], clip[0].masks[1]) > 0.9
    assert not session.add_objects(clip[0].image, {3: CROSS}).masks[3].any()
    assert not session.track(clip[1].image).masks[missed].any()
    session.remove(found)
    result = session.track(clip[2].image)
    assert iou(result.masks[missed] | result.masks[3], clip[2].masks[1]) > 0.9 and result.masks[missed].any() != result.masks[3].any()


def test_things_are_shared_out_so_that_the_sum_of_the_scores_is_largest():
    mask = torch.ones((1, 1), dtype=torch.bool)
    a, b, c, d = (Found(mask, score, "") for score in (0.95, 0.9, 0.94, 0.99))
    assert share_out({"one": [(3, a), (4, b)], "two": [(3, c)], "three": [(0, d)], "four": []}, num_taken=1) == [("one", b), ("two", c)]
    assert share_out({}, 0) == []


def test_the_threshold_decides_what_is_found(trained, clip):
    for threshold, is_found in ((0.0, True), (1.0, False), (None, False)):
        session = PsalmVideoSession(*trained, threshold=threshold)
        meant = session.add_objects(clip[0].image, {1: MOON, 2: {"categories": ["moon", "triangle"]}})
        assert [bool(mask.any()) for mask in meant.masks.values()] == [is_found] * 2
    assert not PsalmVideoSession(*trained, threshold=1).add_objects(clip[0].image, {1: CROSS}).masks[1].any()


def test_no_more_objects_join_than_are_allowed(trained, without_blue):
    session = PsalmVideoSession(*trained, look_every=1, max_objects=3)
    session.add_objects(without_blue[0].image, {1: THINGS}, instances=True)
    session.track(without_blue[0].image)
    assert session.object_ids == (1, 2, 3)


def test_a_search_ends_and_an_instance_that_was_removed_before_is_found_again(trained, clip):
    session = PsalmVideoSession(*trained, look_every=1)
    session.add_objects(clip[0].image, {"thing": THINGS}, instances=True)
    session.remove("thing 2")
    session.track(clip[0].image)
    assert session.object_ids == ("thing 1", "thing 3", "thing 4")
    session.remove("thing")
    session.remove("thing 3")
    session.track(clip[0].image)
    assert session.object_ids == ("thing 1", "thing 4") and session.searches == ()
    with pytest.raises(ValueError, match="object 'thing': is not in the session"):
        session.remove("thing")


def test_a_correction_finds_and_loses_an_object(trained, clip):
    session = PsalmVideoSession(*trained, look_every=1)
    session.add_objects(clip[0].image, {1: MOON, 2: CROSS})
    assert session.correct(clip[0].image, {1: {"mask": clip[0].masks[2]}}).masks == {}
    assert session.labels == {1: None, 2: "the blue cross"}
    assert iou(session.track(clip[0].image).masks[1], clip[0].masks[2]) > 0.9
    assert session.correct(clip[0].image, {1: {"expression": "the dotted thing"}, 2: MOON}).scores[1] > 0.9
    result = session.track(clip[1].image)
    assert iou(result.masks[1], clip[1].masks[3]) > 0.9 and not result.masks[2].any()
    assert session.labels == {1: "the dotted thing", 2: "the green moon"} and session.num_found == {1: 2, 2: 1}


@pytest.mark.parametrize("policy", ["first_last_confident", pytest.param("released", marks=pytest.mark.slow)])
def test_a_loaded_session_goes_on_looking_bit_for_bit(trained, clip, without_blue, tmp_path, policy):
    frames = [without_blue[0], without_blue[0], clip[0], clip[1]]  # one frame twice: it is not encoded again
    options = {"policy": policy, "look_every": 2}
    session = PsalmVideoSession(*trained, **options)
    session.add_objects(frames[0].image, {1: CROSS, "box": {"box": (5, 5, 60, 60)}})
    session.add_objects(frames[0].image, {2: THINGS}, instances=True)
    shown, loaded = [], []
    for number, frame in enumerate(frames):
        session.save(tmp_path / f"{number}")
        shown.append(session.track(frame.image))
    for number in (1, 3):
        other = PsalmVideoSession(*trained, **options)
        other.load(tmp_path / f"{number}")
        loaded.append(other.track(frames[number].image))
    assert all(map(equal, shown[1::2], loaded)) and [list(each.masks) for each in shown[1::2]] == [list(each.masks) for each in loaded]
    assert other.labels == session.labels and other.num_found == session.num_found and other.searches == (2,)
    assert policy == "released" or (session.num_found[1] == 1 and len(shown[-1].masks) > len(shown[0].masks))


def changed_state(path, change):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        state = json.loads(file.metadata()["session"])
    save_file(tensors, path, metadata={"session": json.dumps(change(state))})


def test_a_file_of_before_there_were_words_is_loaded(trained, clip, tmp_path):
    session, loaded = PsalmVideoSession(*trained), PsalmVideoSession(*trained, look_every=2, threshold=0.5)
    session.add_objects(clip[0].image, {1: clip[0].masks[1]})
    session.track(clip[1].image)
    session.save(tmp_path / "state")
    old = {"id", "renewed", "recent", "mask"}

    def without_words(state):
        objects = [{name: entry[name] for name in old} for entry in state["objects"]]
        new = {"searches", "look_every", "threshold", "max_objects"}
        return {name: value for name, value in state.items() if name not in new} | {"objects": objects}

    changed_state(tmp_path / "state", without_words)
    loaded.load(tmp_path / "state")
    assert loaded.object_ids == (1,) and loaded.labels == {1: None} and equal(loaded.track(clip[2].image), session.track(clip[2].image))


def test_a_state_that_is_damaged_or_of_another_way_of_looking_is_refused(trained, clip, tmp_path):
    session = PsalmVideoSession(*trained)
    session.add_objects(clip[0].image, {1: MOON})
    session.add_objects(clip[0].image, {2: THINGS}, instances=True)
    for options, message in (
        ({"look_every": 3}, "saved with look_every 5, but the session has 3"),
        ({"threshold": 0.5}, "saved with threshold None"),
    ):
        session.save(tmp_path / "state")
        with pytest.raises(ValueError, match=message):
            PsalmVideoSession(*trained, **options).load(tmp_path / "state")
    damages = [
        lambda state: state | {"objects": [state["objects"][0] | {"words": None}, *state["objects"][1:]]},
        lambda state: state | {"objects": [state["objects"][0] | {"words": {"kind": "question", "texts": ["a"]}}, *state["objects"][1:]]},
        lambda state: state | {"searches": [{"id": 2}]},
        lambda state: state | {"searches": [state["searches"][0] | {"number": "1"}]},
        lambda state: state | {"objects": [entry | {"num_found": -1} for entry in state["objects"]]},
    ]
    for damage in damages:
        session.save(tmp_path / "state")
        changed_state(tmp_path / "state", damage)
        with pytest.raises(ValueError, match="state: not a saved session"):
            session.load(tmp_path / "state")
        assert len(session.object_ids) == 4 and session.searches == (2,)


@pytest.mark.parametrize(
    ("objects", "instances", "message"),
    [
        ({3: {"expression": " "}}, False, "object 3: image 0, expression 0"),
        ({3: {"expression": 5}}, False, "object 3: an expression is a text"),
        ({3: {"expression": "a", "categories": ["b"]}}, False, "object 3: expected one key"),
        ({3: {"expression": "a", "box": (1, 1, 9, 9)}}, False, "object 3: expected one key"),
        ({3: {"categories": "car"}}, False, "object 3: categories are a list of names"),
        ({3: {"categories": []}}, False, "object 3: "),
        ({3: {"categories": ["a", "a"]}}, True, "object 3: "),
        ({3: {"expression": "a " * 5000}}, False, "object 3: "),
        ({4: {"box": (1, 1, 9, 9)}, 3: {"point": (500, 5)}, 5: {"expression": "a"}}, False, "object 3: the point"),
        ({4: {"expression": "a"}, 3: {"box": (1, 1, 9, 9)}}, True, "object 3: is a region; instances belong to words"),
        ({2: {"expression": "a"}}, False, "object 2: is in the session already"),
        ({1: {"expression": "a"}}, True, "object 1: is in the session already"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_words_that_are_refused_change_nothing(objects, instances, message):
    frame = np.zeros((64, 64, 3), dtype=np.uint8)
    session = PsalmVideoSession(*build_tiny(seed=0), threshold=1.0)
    session.add_objects(frame, {1: {"expression": "a"}})
    session.add_objects(frame, {2: {"expression": "b"}}, instances=True)
    with pytest.raises(ValueError, match=message):
        session.add_objects(frame, objects, instances=instances)
    assert session.object_ids == (1,) and session.searches == (2,) and not session.track(frame).masks[1].any()


@pytest.mark.parametrize("options", [{"look_every": 0}, {"look_every": 1.5}, {"max_objects": True}, {"threshold": 2}, {"threshold": "no"}])
def test_options_out_of_their_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PsalmVideoSession(*build_tiny(seed=0), **options)


def test_a_frame_in_which_the_search_fails_leaves_the_session_as_it_was(trained, clip, monkeypatch):
    session, other = (PsalmVideoSession(*trained, look_every=2) for _ in range(2))
    for each in (session, other):
        each.add_objects(clip[0].image, {1: CROSS, 2: MOON})
        each.track(clip[0].image)
    with monkeypatch.context() as patch:
        patch.setattr("psalm_hf.video.session.read_meanings", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            session.track(clip[1].image)
    assert session.num_tracked == 1 and session.num_found == {1: 1, 2: 0}
    assert equal(session.track(clip[1].image), other.track(clip[1].image))


def test_rows_of_words_do_not_depend_on_each_other(trained, clip):
    one, both = PsalmVideoSession(*trained), PsalmVideoSession(*trained)
    alone = one.add_objects(clip[0].image, {1: CROSS})
    together = both.add_objects(clip[0].image, {2: THINGS, 1: CROSS, 3: MOON})
    assert together.scores[1] == pytest.approx(alone.scores[1], abs=1e-5) and iou(together.masks[1], alone.masks[1]) > 0.99
    assert len(words_inputs(trained[1], [each.words for each in both._objects.values()], (128, 128)).row_info) == 3
