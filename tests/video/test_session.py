"""A session as a user sees it: against the model called by hand, what it encodes, what it keeps, and what it refuses."""

import json
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage

from psalm_hf import PsalmForSegmentation, PsalmProcessor, PsalmVideoSession
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.model.image_processing_psalm import PsalmImageProcessor
from psalm_hf.tiny import build_tiny
from psalm_hf.video import FirstLastConfident, LastFrame, Released

SIZE = (96, 120)  # (H, W) of the frames, not that of the network
# Everything is remembered, whatever a model of random weights answers.
CAREFREE = FirstLastConfident(score_threshold=0, confident_score=0, confident_stability=0, keep=2, least_share=0)
BOX, POINT = {"box": (10, 20, 60, 70)}, {"point": (100, 30)}


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(seed=0)


@pytest.fixture(scope="module")
def frames():
    return list(np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), dtype=np.uint8))


def square(top, left, side=30):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def by_hand(tiny, frame, **prompts):
    """Masks and scores of the best query for each region, in one call of the model."""
    model, processor = tiny
    inputs = processor(images=frame, return_tensors="pt", **prompts)
    with torch.no_grad():
        (answer,) = processor.post_process_region_segmentation(model(**inputs), target_sizes=inputs["original_sizes"])
    return answer


def check_equal(result, answer):
    torch.testing.assert_close(torch.tensor(list(result.scores.values())), answer["scores"])
    differing = (torch.stack(list(result.masks.values())) != answer["masks"]).sum()
    assert differing <= 3  # pixels on the threshold


def memory_of(session):
    """Every tensor that the session keeps of its objects, by name."""
    return {
        (name, kind, index): tensor
        for name, memory in session._memories.items()
        for kind, tensors in (("first", [memory.first]), ("recent", memory.recent), ("mask", [memory.mask]))
        for index, tensor in enumerate(tensors)
    }


def check_same_memory(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor is other[name] is None or torch.equal(tensor, other[name]), name


def test_on_the_frame_of_the_prompts_it_is_one_call_of_the_model(tiny, frames):
    session = PsalmVideoSession(*tiny, "last_frame")
    session.add_objects(frames[0], {"left": square(20, 5), 7: BOX, 3: POINT})
    result = session.track(frames[0])
    assert list(result.masks) == list(result.scores) == ["left", 7, 3] and result.masks[7].shape == SIZE
    check_equal(result, by_hand(tiny, frames[0], regions=[{"mask": square(20, 5)}, BOX, POINT]))


def test_last_frame_asks_with_the_masks_that_it_found_in_the_frame_before(tiny, frames):
    session = PsalmVideoSession(*tiny, "last_frame")
    session.add_objects(frames[0], {1: square(20, 5), 2: BOX})
    first = session.track(frames[1])
    check_equal(first, by_hand(tiny, frames[1], regions=[{"mask": square(20, 5)}, BOX], region_images=frames[0]))
    found = [{"mask": mask} for mask in first.masks.values()]
    check_equal(session.track(frames[2]), by_hand(tiny, frames[2], regions=found, region_images=frames[1]))


def test_all_forms_of_a_mask_are_one(tiny, frames):
    mask = square(40, 50)
    session = PsalmVideoSession(*tiny)
    forms = [mask, torch.from_numpy(mask), Image.fromarray(mask), rle_from_bitmap(mask), {"mask": mask}, {"mask": rle_from_bitmap(mask)}]
    session.add_objects(frames[0], dict(enumerate(forms)))
    kept = memory_of(session)
    for index in range(len(forms)):
        assert torch.equal(kept[index, "first", 0], kept[0, "first", 0]) and torch.equal(kept[index, "mask", 0], kept[0, "mask", 0])


@pytest.mark.parametrize("policy", ["last_frame", "released", "first_last_confident"])
def test_every_new_frame_is_encoded_once(tiny, frames, policy):
    session, encoded = PsalmVideoSession(*tiny, policy), []
    hook = tiny[0].model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    try:
        session.add_objects(frames[0], {1: BOX})
        session.add_objects(frames[0], {2: POINT})
        for number, frame in enumerate(frames, 1):
            session.track(frame)
            session.correct(frame, {1: BOX})
            assert len(encoded) == number
    finally:
        hook.remove()


def test_a_frame_that_is_prompted_and_tracked_is_preprocessed_once(tiny, frames):
    session = PsalmVideoSession(*tiny)
    with patch.object(PsalmImageProcessor, "_preprocess", autospec=True, side_effect=PsalmImageProcessor._preprocess) as preprocess:
        session.add_objects(frames[0], {1: BOX})
        for frame in frames[:3]:
            session.track(frame)
    assert [len(call.args[1]) for call in preprocess.call_args_list] == [1, 1, 1]


def test_a_buffer_that_the_camera_writes_again_is_a_new_frame(tiny, frames):
    session, fresh = (PsalmVideoSession(*tiny, "last_frame") for _ in range(2))
    buffer = frames[0].copy()
    session.add_objects(buffer, {1: BOX})
    fresh.add_objects(frames[0], {1: BOX})
    buffer[:] = frames[1]
    assert session.track(buffer).scores == fresh.track(frames[1]).scores


@pytest.mark.parametrize("policy", [LastFrame(), Released(), CAREFREE])
def test_memory_does_not_grow_with_the_video(tiny, policy):
    session = PsalmVideoSession(*tiny, policy)
    frames = np.random.default_rng(1).integers(0, 256, (30, *SIZE, 3), dtype=np.uint8)
    session.add_objects(frames[0], {1: BOX, 2: POINT})
    width = tiny[0].config.text_config.hidden_size
    limit = (1 + policy.num_recent) * width * 4 + 32 * 32  # bytes of an object: features in float32, and a mask at stride 4
    for frame in frames:
        session.track(frame)
        # What a tensor holds on to, not what it shows of it: a view would keep the features of the other objects too.
        kept = [tensor.untyped_storage().nbytes() for tensor in memory_of(session).values() if tensor is not None]
        assert sum(kept) <= 2 * limit


def test_objects_join_leave_and_are_corrected_in_the_middle(tiny, frames):
    session = PsalmVideoSession(*tiny, CAREFREE)
    session.add_objects(frames[0], {1: BOX, 2: POINT})
    session.track(frames[1])
    session.add_objects(frames[2], {5: square(0, 0)})
    assert list(session.track(frames[2]).masks) == [1, 2, 5]
    session.remove(1)
    before = memory_of(session)
    session.correct(frames[2], {2: square(50, 60)})
    after = memory_of(session)
    assert session.object_ids == (2, 5) and not [name for name in after if name[:2] == (2, "recent")]
    assert not torch.equal(after[2, "first", 0], before[2, "first", 0]) and torch.equal(after[5, "first", 0], before[5, "first", 0])
    assert list(session.track(frames[3]).masks) == [2, 5]


def test_a_correction_with_a_point_of_label_0_is_remembered_as_the_mask_that_is_left(tiny, frames):
    model, processor = tiny
    region = {"points": [(30, 20), (60, 40)], "labels": [1, 0]}
    inputs = processor(frames[0], regions=[region])
    found = processor.find_segments(model(**inputs), inputs.row_info, inputs["original_sizes"])[0][0].mask
    assert found.any() and not found[40, 60]
    session, masked = (PsalmVideoSession(*tiny, CAREFREE) for _ in range(2))
    for one, prompt in ((session, region), (masked, {"mask": found.numpy()})):
        one.add_objects(frames[0], {1: BOX, 2: POINT})
        one.correct(frames[0], {2: prompt})
    kept, expected = memory_of(session), memory_of(masked)
    assert torch.equal(kept[2, "first", 0], expected[2, "first", 0]) and torch.equal(kept[2, "mask", 0], expected[2, "mask", 0])
    assert torch.equal(kept[1, "first", 0], expected[1, "first", 0])


def test_with_the_oracle_what_is_not_visible_is_not_asked_for(tiny, frames):
    session, alone = (PsalmVideoSession(*tiny, "last_frame") for _ in range(2))
    session.add_objects(frames[0], {1: square(20, 5), 2: POINT})
    alone.add_objects(frames[0], {2: POINT})
    before = memory_of(session)
    result = session.track(frames[1], visible=[2])
    assert result.scores[1] == 0 and not result.masks[1].any()
    assert torch.equal(memory_of(session)[1, "first", 0], before[1, "first", 0]) and (1, "recent", 0) not in memory_of(session)
    assert before[1, "mask", 0] is not None and memory_of(session)[1, "mask", 0] is None  # it was not seen in this frame
    assert result.scores[2] == pytest.approx(alone.track(frames[1]).scores[2], abs=1e-5)
    nobody = session.track(frames[2], visible=())
    assert nobody.scores == {1: 0, 2: 0} and not torch.stack(list(nobody.masks.values())).any()


@pytest.mark.parametrize("policy", [LastFrame(), Released(), CAREFREE])
def test_a_loaded_session_goes_on_bit_for_bit(tiny, frames, tmp_path, policy):
    session = PsalmVideoSession(*tiny, policy)
    session.add_objects(frames[0], {1: BOX, "b": square(40, 50)})
    for frame in frames[:3]:
        session.track(frame)
    session.save(tmp_path / "state")
    loaded = PsalmVideoSession(*tiny, policy)
    loaded.load(tmp_path / "state")
    assert loaded.object_ids == (1, "b") and loaded.num_tracked == 3 and loaded.frame_size == SIZE
    check_same_memory(memory_of(loaded), memory_of(session))
    assert [memory.renewed for memory in loaded._memories.values()] == [memory.renewed for memory in session._memories.values()]
    for frame in frames[3:]:
        one, other = session.track(frame), loaded.track(frame)
        assert one.scores == other.scores and all(torch.equal(one.masks[name], other.masks[name]) for name in one.masks)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_file_that_is_no_session_or_another_policys_is_refused(tiny, frames, tmp_path):
    session = PsalmVideoSession(*tiny, LastFrame())
    session.add_objects(frames[0], {1: BOX})
    session.save(tmp_path / "state")
    with pytest.raises(ValueError, match="saved with policy 'last_frame', but the session has 'released'"):
        PsalmVideoSession(*tiny, "released").load(tmp_path / "state")
    with pytest.raises(ValueError, match="saved with score_threshold 0.0, but the session has 0.3"):
        PsalmVideoSession(*tiny, LastFrame(0.3)).load(tmp_path / "state")
    (tmp_path / "broken").write_bytes((tmp_path / "state").read_bytes()[:50])
    for name in ("broken", "absent"):
        with pytest.raises(ValueError, match=f"{name}: not a saved session"):
            session.load(tmp_path / name)
    wider = build_tiny(seed=0, text_config={**tiny[0].config.text_config.to_dict(), "hidden_size": 96})
    with pytest.raises(ValueError, match=r"features of shape \(\d+,\), but the model's are \(96,\)"):
        PsalmVideoSession(*wider, LastFrame()).load(tmp_path / "state")


def test_a_state_that_cannot_be_read_changes_nothing(tiny, frames, tmp_path):
    session = PsalmVideoSession(*tiny, CAREFREE)
    session.add_objects(frames[0], {1: BOX, "b": POINT})
    for frame in frames[:3]:
        session.track(frame)
    session.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        state = json.loads(file.metadata()["session"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    kept = memory_of(session)
    damages = [
        (state, {name: tensor for name, tensor in tensors.items() if name != "1.recent.1"}),  # after the first object was read
        (state, tensors | {"1.recent.0": torch.zeros(3)}),
        ({name: value for name, value in state.items() if name != "num_tracked"}, tensors),
        (state | {"num_tracked": "3"}, tensors),
        (state | {"frame_size": [96]}, tensors),
        (state | {"objects": 5}, tensors),
    ]
    for damaged, of_objects in damages:
        save_file(of_objects, tmp_path / "damaged", metadata={"session": json.dumps(damaged)})
        with pytest.raises(ValueError, match="damaged: (not a saved session|features of shape)"):
            session.load(tmp_path / "damaged")
        assert session.object_ids == (1, "b") and session.num_tracked == 3 and session.frame_size == SIZE
        check_same_memory(memory_of(session), kept)


@pytest.mark.parametrize(
    "changed",
    [
        {"objects": None},
        {"objects": [{"id": 1}]},
        {"objects": [{"id": [1], "renewed": -1, "recent": 0, "mask": False}]},
        {"objects": [{"id": True, "renewed": -1, "recent": 0, "mask": False}]},
        {"objects": [{"id": 1, "renewed": -1, "recent": 10**9, "mask": False}]},
        {"objects": [{"id": 1, "renewed": "x", "recent": 0, "mask": False}]},
        {"objects": [{"id": 1, "renewed": -1, "recent": 0, "mask": False}] * 2},
        {"frame_size": "x"},
        {"frame_size": [0, 5]},
        {"num_tracked": -1},
        {"num_tracked": 1.5},
    ],
    ids=str,
)
def test_a_damaged_session_is_named_and_changes_nothing(tiny, frames, tmp_path, changed):
    session = PsalmVideoSession(*tiny, LastFrame())
    session.add_objects(frames[0], {1: BOX})
    session.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        tensors, state = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["session"])  # noqa: SIM118
    save_file(tensors, tmp_path / "state", metadata={"session": json.dumps(state | changed)})
    with pytest.raises(ValueError, match="state: not a saved session"):
        session.load(tmp_path / "state")
    assert session.object_ids == (1,) and session.frame_size is not None


def test_reset_makes_it_a_new_session(tiny, frames):
    session, fresh = (PsalmVideoSession(*tiny, "last_frame") for _ in range(2))
    session.add_objects(frames[1][:50, :50], {1: POINT | {"point": (5, 5)}})
    session.track(frames[2][:50, :50])
    session.reset()
    assert session.object_ids == () and session.num_tracked == 0
    for each in (session, fresh):
        each.add_objects(frames[0], {1: BOX})
    assert session.track(frames[1]).scores == fresh.track(frames[1]).scores


class TestRefusals:
    @pytest.fixture
    def session(self, tiny, frames):
        session = PsalmVideoSession(*tiny)
        session.add_objects(frames[0], {1: BOX, 2: POINT})
        return session

    def test_tracking_before_any_object(self, tiny, frames):
        with pytest.raises(ValueError, match="no object to track; call add_objects"):
            PsalmVideoSession(*tiny).track(frames[0])

    def test_a_frame_of_another_size(self, session, frames):
        small = frames[0][:50]
        for call in (lambda: session.track(small), lambda: session.add_objects(small, {3: {"point": (5, 5)}})):
            with pytest.raises(ValueError, match="is 50 high and 120 wide, but the frames before were 96 high and 120 wide"):
                call()
        session.track(frames[1])

    def test_an_object_twice(self, session, frames):
        with pytest.raises(ValueError, match=r"object 2: is in the session already; use correct\(\)"):
            session.add_objects(frames[0], {3: BOX, 2: BOX})
        with pytest.raises(ValueError, match="object 2"):
            session.add_objects(frames[0], {np.int64(2): BOX})
        assert session.object_ids == (1, 2)

    def test_an_unknown_object(self, session, frames):
        calls = [lambda: session.remove(9), lambda: session.correct(frames[0], {9: BOX}), lambda: session.track(frames[0], visible=[9])]
        for call in calls:
            with pytest.raises(ValueError, match=r"object 9: is not in the session, which has \[1, 2\]"):
                call()

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (np.zeros(SIZE, dtype=bool), "object 3: the mask is empty"),
            (np.ones((5, 5), dtype=bool), r"object 3: has shape \(5, 5\), but its image has"),
            ({"point": (500, 5)}, "object 3: the point .* lies outside"),
            ({"circle": (5, 5, 5)}, "object 3: expected a dictionary with exactly one of the keys point"),
            ((1, 2, 3, 4), "object 3: expected an .* bitmap"),
        ],
    )
    def test_a_wrong_prompt_names_the_object_and_changes_nothing(self, session, frames, prompt, message):
        kept = memory_of(session)
        with pytest.raises(ValueError, match=message):
            session.add_objects(frames[0], {4: BOX, 3: prompt})
        with pytest.raises(ValueError, match=message.replace("object 3", "object 2")):
            session.correct(frames[0], {1: POINT, 2: prompt})
        check_same_memory(memory_of(session), kept)

    def test_ids_and_prompts_of_another_type(self, session, frames):
        with pytest.raises(ValueError, match="an id is an int or a str, got float"):
            session.add_objects(frames[0], {0.5: BOX})
        with pytest.raises(ValueError, match="expected a dictionary of ids and regions, got list"):
            session.add_objects(frames[0], [BOX])
        with pytest.raises(ValueError, match="objects: is empty"):
            session.add_objects(frames[0], {})

    def test_no_picture(self, session):
        with pytest.raises(ValueError, match="frame: expected an image, got the path"):
            session.track("frame.png")

    def test_a_model_in_training_mode(self, tiny):
        tiny[0].train()
        try:
            with pytest.raises(ValueError, match="training mode"):
                PsalmVideoSession(*tiny)
        finally:
            tiny[0].eval()


def test_an_absent_object_has_no_place_and_the_memory_it_had(tiny, frames):
    session = PsalmVideoSession(*tiny, LastFrame(score_threshold=1.0))
    session.add_objects(frames[0], {1: square(20, 5)})
    assert not session.track(frames[1]).masks[1].any()
    assert list(memory_of(session)) == [(1, "first", 0), (1, "mask", 0)] and memory_of(session)[1, "mask", 0] is None


def test_where_an_object_was_is_compared_inside_of_the_picture_only(tiny, frames):
    session = PsalmVideoSession(*tiny)
    session.add_objects(frames[0], {1: square(40, 50), 2: POINT})
    where = memory_of(session)[1, "mask", 0]
    same, nowhere = where.float() - 0.5, torch.full(where.shape, -0.5)
    for mask_logits in (same, nowhere):
        mask_logits[26:] = 0.5  # padding: 96 of 120 pixels are 102 of 128, and 25.5 of 32 cells
    torch.testing.assert_close(session._overlaps(torch.stack([same, nowhere]), [1, 2]), torch.tensor([[1.0, 0], [0, 0]]))


def test_psalm_tiny_finds_an_object_again_that_was_hidden(tiny_checkpoint):
    scene = make_scene("test", 41)
    mask, *others = (thing.mask for thing in scene.things)
    covered = ndimage.binary_dilation(mask, iterations=2) & ~np.any(others, axis=0)
    nearest = ndimage.distance_transform_edt(covered | np.any(others, axis=0), return_distances=False, return_indices=True)
    hidden = scene.image.copy()
    hidden[covered] = scene.image[tuple(nearest)][covered]  # the ground around it
    processor, model = PsalmProcessor.from_pretrained(tiny_checkpoint), PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval()
    session = PsalmVideoSession(model, processor)
    session.add_objects(scene.image, {0: mask} | dict(enumerate(others, 1)))
    shown = [session.track(image).masks[0].numpy() for image in (scene.image, hidden, np.roll(hidden, 1, axis=1), scene.image)]
    assert [bool(found.any()) for found in shown] == [True, False, False, True]
    assert (shown[3] & mask).sum() > 0.8 * (shown[3] | mask).sum()


@pytest.mark.parametrize("policy", ["last_frame", "released", "first_last_confident"])
def test_psalm_tiny_follows_shapes_of_a_sliding_picture(tiny_checkpoint, policy):
    scene = make_scene("test", 41)
    things = {number: thing.mask for number, thing in enumerate(scene.things, 1) if not thing.mask[:, -30:].any()}
    processor, model = PsalmProcessor.from_pretrained(tiny_checkpoint), PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval()
    session = PsalmVideoSession(model, processor, policy)
    session.add_objects(scene.image, things)
    overlaps = []
    for step in range(1, 6):
        result = session.track(np.roll(scene.image, 4 * step, axis=1))
        for number, mask in things.items():
            truth, found = np.roll(mask, 4 * step, axis=1), result.masks[number].numpy()
            overlaps.append((truth & found).sum() / (truth | found).sum())
    assert len(things) >= 3 and np.mean(overlaps) > 0.8


def test_of_several_features_of_an_object_the_best_fitting_one_speaks(tiny, frames):
    model, processor = tiny
    session = PsalmVideoSession(*tiny, CAREFREE)
    session.add_objects(frames[0], {1: square(20, 5), 2: BOX})
    session.track(frames[1])
    kept = memory_of(session)
    features = [kept[name, kind, 0] for name in (1, 2) for kind in ("first", "recent")]
    scores = session.track(frames[2]).scores
    inputs = processor(images=frames[2], regions=[BOX] * 4, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, region_features=torch.stack(features)[None])
    outputs.region_queries_logits = outputs.region_queries_logits.unflatten(1, (2, 2)).amax(2)
    outputs.num_conditions = torch.tensor([2])
    answer = processor.post_process_region_segmentation(outputs, target_sizes=inputs["original_sizes"])[0]
    assert scores[1] == pytest.approx(answer["scores"][0].item(), abs=1e-5)  # the first object has its choice of the queries


def test_nothing_is_remembered_beside_the_region_where_keep_is_0(tiny, frames):
    policy = FirstLastConfident(score_threshold=0, confident_score=0, confident_stability=0, least_share=0, keep=0)
    session = PsalmVideoSession(*tiny, policy)
    session.add_objects(frames[0], {1: {"mask": square(30, 30)}})
    for frame in frames[1:4]:
        session.track(frame)
    assert not session._memories[1].recent
