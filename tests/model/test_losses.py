"""Loss terms on cases a person can check, and the mask count over processes."""

import math
import subprocess
import sys

import pytest
import torch

from psalm_hf import PsalmConfig
from psalm_hf.model.losses import (
    CATEGORY,
    REGION,
    SENTENCE,
    Prediction,
    class_loss,
    count_masks,
    mask_bce_loss,
    mask_dice_loss,
    match_predictions,
    merge_targets,
    referring_loss,
    region_loss,
    segmentation_losses,
    uncertain_points,
)

SMALLEST = torch.finfo(torch.float32).min


def match(queries: list[int], targets: list[int]):
    return torch.tensor(queries, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64)


def test_unmatched_queries_are_background_with_its_weight():
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]))  # one row, two queries, one category and background
    loss = class_loss(logits, [match([0], [0])], [torch.tensor([0])], no_object_weight=0.1)
    expected = (-math.log(0.5) * 1 - math.log(0.8) * 0.1) / 1.1
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_padding_columns_do_not_change_the_class_loss():
    logits = torch.randn(1, 3, 3)
    padded = torch.cat([logits[..., :2], torch.full((1, 3, 2), SMALLEST), logits[..., 2:]], dim=-1)
    arguments = ([match([2, 0], [0, 1])], [torch.tensor([1, 0])], 0.1)
    torch.testing.assert_close(class_loss(padded, *arguments), class_loss(logits, *arguments))


def test_referring_positives_weigh_as_much_as_all_negatives():
    logits = torch.zeros(1, 4, 1)
    loss = referring_loss(logits, [match([2], [0])], num_masks=1)
    assert loss.item() == pytest.approx((3 * math.log(2) + 3 * math.log(2)) / 4, abs=1e-6)


def test_region_positive_sits_at_its_region_and_query():
    logits = [torch.full((2, 3), -50.0)]
    logits[0][0, 1] = logits[0][1, 2] = 50.0
    assert region_loss(logits, [match([1, 2], [0, 1])], num_masks=2).item() == pytest.approx(0, abs=1e-6)
    assert region_loss(logits, [match([2, 1], [0, 1])], num_masks=2).item() > 10


def test_mask_losses_are_divided_by_the_number_of_masks_not_of_matches():
    logits, targets = torch.randn(2, 16), torch.rand(2, 16).round()
    for loss in (mask_bce_loss, mask_dice_loss):
        torch.testing.assert_close(loss(logits, targets, num_masks=8), loss(logits, targets, num_masks=2) / 4)


def test_uncertain_points_lie_where_the_logit_is_near_zero():
    logits = torch.full((1, 32, 32), 10.0)
    logits[:, :, :16] = -10.0  # uncertain along the middle column only
    torch.manual_seed(0)
    points = uncertain_points(logits, num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75)
    assert points.shape == (1, 64, 2)
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance[:48].mean() < distance[48:].mean()


def test_merged_targets_are_unions_by_category():
    masks = torch.tensor([[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]).bool()
    merged, labels = merge_targets(masks, torch.tensor([4, 1, 4]))
    assert labels.tolist() == [1, 4]
    assert merged.int().tolist() == [[[0, 1, 0]], [[1, 0, 1]]]


def small_config(**overrides) -> PsalmConfig:
    return PsalmConfig(train_num_points=64, **overrides)


@pytest.mark.parametrize(
    ("kind", "condition_logits", "labels"),
    [
        (CATEGORY, torch.randn(2, 6, 4), [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]),
        (SENTENCE, torch.randn(2, 6, 1), None),
        (REGION, torch.randn(2, 2, 6), None),
    ],
)
def test_row_without_targets_beside_one_with(kind, condition_logits, labels):
    masks = [torch.rand(2, 16, 16).round().bool(), torch.zeros(0, 16, 16, dtype=torch.bool)]
    prediction = Prediction(torch.randn(2, 6, 8, 8, requires_grad=True), condition_logits)
    losses = segmentation_losses([prediction], kind, masks, labels, small_config())
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert prediction.mask_logits.grad[0].abs().max() > 0
    assert prediction.mask_logits.grad[1].abs().max() == 0


def test_total_without_auxiliary_loss_is_the_last_depth_alone():
    masks, labels = [torch.rand(2, 16, 16).round().bool()], [torch.tensor([0, 1])]
    depths = [Prediction(torch.randn(1, 5, 8, 8), torch.randn(1, 5, 3)) for _ in range(3)]
    names = segmentation_losses(depths, CATEGORY, masks, labels, small_config(auxiliary_loss=False)).keys()
    assert set(names) == {"loss_class", "loss_mask", "loss_dice"}
    names = segmentation_losses(depths, CATEGORY, masks, labels, small_config()).keys()
    assert len(names) == 9 and {"loss_mask_0", "loss_mask_1"} <= set(names)


def test_non_decoupled_queries_learn_their_own_category():
    """Query k is category k: no matching, masks of present categories only, `background` for the absent one."""
    masks = [torch.zeros(2, 8, 8, dtype=torch.bool)]
    masks[0][0, :4], masks[0][1, 4:] = True, True  # together category 1 covers everything
    logits = torch.tensor([[[-50.0, -50.0, 50.0], [-50.0, 50.0, -50.0]]])
    config = small_config(decouple_masks=False, auxiliary_loss=False)
    mask_logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    losses = segmentation_losses([Prediction(mask_logits, logits)], CATEGORY, masks, [torch.tensor([1, 1])], config)
    assert losses["loss_class"].item() == pytest.approx(0, abs=1e-6)
    losses["loss_mask"].backward()
    assert mask_logits.grad[0, 0].abs().max() == 0  # category 0 is absent: what its mask says costs nothing
    assert (mask_logits.grad[0, 1] < 0).any() and (mask_logits.grad[0, 1] <= 0).all()  # category 1 must grow everywhere


def test_non_decoupled_row_does_not_depend_on_a_longer_neighbour():
    """A row of one category beside one of three: queries that only pad it do not count."""
    config = small_config(decouple_masks=False, auxiliary_loss=False)
    masks = [torch.rand(1, 8, 8).round().bool(), torch.rand(1, 8, 8).round().bool()]
    labels = [torch.tensor([0]), torch.tensor([2])]
    logits = torch.randn(2, 3, 4)
    logits[0, :, 1:3] = SMALLEST
    both = Prediction(torch.randn(2, 3, 8, 8), logits)
    together = segmentation_losses([both], CATEGORY, masks, labels, config)["loss_class"]
    short = Prediction(both.mask_logits[:1, :1], logits[:1, :1, [0, 3]])
    long = Prediction(both.mask_logits[1:], logits[1:])
    alone = [
        segmentation_losses([prediction], CATEGORY, masks[row : row + 1], labels[row : row + 1], config)["loss_class"]
        for row, prediction in enumerate((short, long))
    ]
    weights = [1.0, 1.2]  # one present category; one present and two absent, which weigh 0.1 each
    expected = sum(weight * value for weight, value in zip(weights, alone, strict=True)) / sum(weights)
    torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("decouple_masks", [True, False])
def test_rows_that_are_not_matched_do_not_hide_nan(decouple_masks):
    mask_logits = torch.zeros(2, 2, 8, 8)
    mask_logits[1] = float("nan")
    masks, labels = [torch.zeros(0, 8, 8)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    with pytest.raises(ValueError, match="row 1: its mask logits are not finite"):
        config = small_config(decouple_masks=decouple_masks)
        segmentation_losses([Prediction(mask_logits, torch.zeros(2, 2, 3))], CATEGORY, masks, labels, config)


@pytest.mark.parametrize("kind", [SENTENCE, REGION])
def test_among_equal_masks_the_query_with_the_higher_score_is_the_positive_one(kind):
    logits = torch.tensor([[[-1.0], [2.0], [-1.0]]], requires_grad=True)  # of three queries
    masks = [torch.ones(1, 8, 8)]
    prediction = Prediction(torch.full((1, 3, 8, 8), 5.0), logits if kind == SENTENCE else logits.transpose(1, 2))
    losses = segmentation_losses([prediction], kind, masks, None, small_config(score_cost=2.0))
    sum(losses.values()).backward()
    assert (logits.grad.flatten() < 0).tolist() == [False, True, False]  # only that one is pushed up


def matched(kind, condition_logits, targets, class_labels=None, **config):
    """Query -> target where all queries of the one row have the same mask."""
    prediction = Prediction(torch.full((1, condition_logits.shape[1 if kind != REGION else 2], 8, 8), 5.0), condition_logits)
    ((queries, found),) = match_predictions(prediction, kind, [torch.ones(targets, 8, 8)], class_labels, small_config(**config))
    return dict(zip(queries.tolist(), found.tolist(), strict=True))


def test_the_class_probability_decides_between_equal_masks():
    probs = torch.tensor([[[0.1, 0.9], [0.8, 0.2]]])  # of one category and of background
    assert matched(CATEGORY, probs.log(), 1, [torch.tensor([0])]) == {1: 0}


def test_the_score_decides_between_equal_masks_where_it_has_a_weight():
    sentence = torch.tensor([[0.1], [0.9], [0.8]])[None].logit()  # how much each query means the sentence
    assert matched(SENTENCE, sentence, 2, score_cost=2.0).keys() == {1, 2}
    assert matched(SENTENCE, sentence, 2).keys() == matched(SENTENCE, torch.zeros(1, 3, 1), 2).keys()
    regions = torch.tensor([[0.1, 0.9, 0.8], [0.2, 0.1, 0.9], [1.0, 0.0, 0.0]])[None].logit()  # a row per region; the last one is padding
    assert matched(REGION, regions, 2, score_cost=2.0) == {1: 0, 2: 1}


def test_mask_count_is_at_least_one():
    assert count_masks([torch.zeros(0, 2, 2)], torch.device("cpu")) == 1.0
    assert count_masks([torch.zeros(3, 2, 2), torch.zeros(2, 2, 2)], torch.device("cpu")) == 5.0


COUNT = """
import sys, torch, torch.distributed as dist
from psalm_hf.model.losses import count_masks
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
print(count_masks([torch.zeros((1, 4)[rank], 2, 2)], torch.device("cpu")))
dist.destroy_process_group()
"""


def test_mask_count_is_the_mean_over_processes(tmp_path):
    commands = [[sys.executable, "-c", COUNT, str(rank), str(tmp_path / "store")] for rank in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["2.5", "2.5"]
