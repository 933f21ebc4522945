"""The policies on tables that can be checked by eye: Q queries x R objects, and pictures of one row."""

import pytest
import torch

from psalm_hf.video import FirstLastConfident, LastFrame, Released
from psalm_hf.video.memory import ObjectMemory, Picked, iou, read_policy

OURS = FirstLastConfident(score_threshold=0.5, confident_score=0.7, confident_stability=0.8, continuity=1.0, least_share=0.5)


def table(*rows):
    return torch.tensor(rows)


def none_before(scores):
    return torch.zeros_like(scores)


def picked(*rows, scores):
    """Objects whose masks are rows of signs: "+" is logit 4, "-" is logit -4, "." is logit 0.5 (set, but not stable)."""
    values = {"+": 4.0, "-": -4.0, ".": 0.5}
    return Picked(torch.tensor([[[values[sign] for sign in row]] for row in rows]), torch.tensor(scores))


def rows(masks):
    return ["".join("#" if pixel else "-" for pixel in mask[0].tolist()) for mask in masks]


def memory(first, *recent, renewed=-1):
    return ObjectMemory(torch.tensor([float(first)]), [torch.tensor([float(value)]) for value in recent], renewed)


def prompted(policy, memories, asked):
    return [features[:, 0].tolist() for features in policy.prompts(memories, asked)]


def test_last_frame_lets_two_objects_take_one_query():
    scores = table([0.9, 0.8], [0.1, 0.2])
    assert LastFrame().assign(scores, none_before(scores)).tolist() == [0, 0]


def test_released_objects_choose_in_their_order_what_is_left():
    scores = table([0.7, 0.9], [0.1, 0.3], [0.6, 0.2])
    assert Released().assign(scores, none_before(scores)).tolist() == [0, 1]


def test_a_released_object_finds_a_free_query_among_its_ten_best_only():
    scores = torch.linspace(0.9, 0.1, 12)[:, None].expand(12, 11)  # all eleven want 0, then 1, ...
    assert Released().assign(scores, none_before(scores)).tolist() == [*range(10), 0]


def test_ours_makes_the_sum_of_scores_largest():
    scores = table([0.9, 0.8], [0.85, 0.1])  # in order of objects it would be 0.9 + 0.1
    assert OURS.assign(scores, none_before(scores)).tolist() == [1, 0]


def test_an_absent_object_does_not_take_the_query_of_a_present_one():
    # 0.45 + 0.9 would be more than 0.95 + 0.3, but neither 0.45 nor 0.3 is enough to be seen.
    scores = table([0.95, 0.9], [0.45, 0.3], [0.0, 0.0])
    assert OURS.assign(scores, none_before(scores)).tolist() == [0, 1]


def test_an_object_without_a_query_gets_none():
    scores = table([0.6, 0.9])
    assert OURS.assign(scores, none_before(scores)).tolist() == [-1, 0]


def test_of_two_lookalikes_ours_takes_the_one_where_the_object_was():
    scores, overlaps = table([0.9], [0.8]), table([0.0], [0.7])
    assert OURS.assign(scores, overlaps).tolist() == [1]
    assert OURS.assign(scores, none_before(scores)).tolist() == [0]


def test_masks_of_last_frame_may_overlap():
    assert rows(LastFrame().report(picked("++--", "-++-", scores=[0.9, 0.1]))) == ["##--", "-##-"]


def test_released_later_objects_cover_earlier_ones():
    assert rows(Released().report(picked("+++-", "-++-", "--++", scores=[0.9, 0.8, 0.1]))) == ["#---", "-#--", "--##"]


def test_ours_gives_a_pixel_to_the_surest_object():
    assert rows(OURS.report(picked("+++-", "--++", scores=[0.9, 0.8]))) == ["###-", "---#"]


def test_of_two_equally_sure_objects_the_first_gets_the_pixel():
    assert rows(OURS.report(picked("++-", "-++", scores=[0.9, 0.9]))) == ["##-", "--#"]


def test_an_object_that_surer_ones_cover_is_absent():
    assert rows(OURS.report(picked("+++-", "-+++", "----", scores=[0.9, 0.8, 0.9]))) == ["###-", "----", "----"]


@pytest.mark.parametrize("policy", [LastFrame(0.5), Released(0.5), OURS])
def test_an_object_below_the_threshold_is_absent_and_keeps_its_memory(policy):
    found = picked("+---", "---+", scores=[0.4, 0.9])
    reported = policy.report(found)
    assert rows(reported) == ["----", "---#"]
    assert policy.remember(found, reported)[0] is None


@pytest.mark.parametrize("policy", [LastFrame(), OURS])
def test_an_empty_mask_is_not_remembered(policy):
    found = picked("----", "-++-", scores=[0.9, 0.9])
    remembered = policy.remember(found, policy.report(found))
    assert remembered[0] is None and rows(remembered[1:]) == ["-##-"]


@pytest.mark.parametrize(
    ("first", "second", "is_renewed"),
    [
        ("++++----", "--++++--", True),  # IoU 2/6
        ("++++----", "-++++---", False),  # IoU 3/5
        ("++++----", "--------", False),  # one of them is empty
    ],
)
def test_released_renews_all_or_nothing(first, second, is_renewed):
    found = picked(first, second, scores=[0.9, 0.9])
    remembered = Released().remember(found, Released().report(found))
    assert [mask is not None for mask in remembered] == [is_renewed] * 2
    if is_renewed:
        assert rows(remembered) == ["####----", "--####--"]  # as picked, not as covered


def test_ours_remembers_what_is_sure_and_stable_only():
    found = picked("++----", "--+.--", "----++", scores=[0.9, 0.9, 0.6])
    remembered = OURS.remember(found, OURS.report(found))
    assert [mask is not None for mask in remembered] == [True, False, False]


def test_last_frame_asks_with_the_newest_feature():
    assert prompted(LastFrame(), {1: memory(10), 2: memory(20, 21)}, [1, 2]) == [[10], [21]]


def test_ours_asks_with_the_first_and_the_recent_ones():
    assert prompted(OURS, {1: memory(10, 11, 12), 2: memory(20)}, [1, 2]) == [[10, 11, 12], [20]]


def test_released_goes_back_to_the_first_frame_when_the_number_of_objects_changes():
    memories = {1: memory(10, 11, renewed=4), 2: memory(20, 21, renewed=4), 3: memory(30, 31, renewed=2)}
    assert prompted(Released(), memories, [1, 2]) == [[11], [21]]
    assert prompted(Released(), memories, [1, 2, 3]) == [[10], [20], [30]]
    assert prompted(Released(), memories, [3]) == [[30]]
    assert prompted(Released(), memories, [1, 3]) == [[11], [21]]  # by position: its memory knows no names
    assert prompted(Released(), {1: memory(10), 2: memory(20)}, [1, 2]) == [[10], [20]]


def test_iou_on_paper():
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    others = torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(iou(masks, others), torch.tensor([[1 / 3, 0], [0, 0]]))


def test_an_unknown_policy_lists_the_known_ones():
    with pytest.raises(ValueError, match="last_frame, released, first_last_confident.*'best'"):
        read_policy("best")


@pytest.mark.parametrize("options", [{"keep": -1}, {"score_threshold": float("nan")}, {"continuity": -0.5}, {"least_share": 2}])
def test_numbers_out_of_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FirstLastConfident(**options)
