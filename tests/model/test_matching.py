"""Matching on cases a person can check."""

import pytest
import torch

from psalm_hf.model import matching
from psalm_hf.model.matching import assign, assign_rows, mask_costs, pairwise_dice_cost, pairwise_mask_cost, sample_points

INSIDE, OUTSIDE = 50.0, -50.0  # logits whose sigmoid is 1 and 0 in float32


def match_row(masks, targets, points):
    (cost,) = mask_costs(sample_points(masks, points)[None], [sample_points(targets, points)])
    return assign(cost, row=0)


def test_sampling_a_pixel_centre_gives_the_pixel():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    centres = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]])
    assert sample_points(maps, centres).tolist() == [[1, 2, 3, 4]]


def test_sampling_between_pixels_is_their_mean_and_the_border_fades_to_zero():
    maps = torch.tensor([[[1.0, 3.0]]])
    points = torch.tensor([[[0.5, 0.5], [0.0, 0.5]]])
    assert sample_points(maps, points).tolist() == [[2.0, 0.5]]


def test_points_may_be_shared_by_all_maps():
    maps = torch.rand(3, 4, 4)
    points = torch.rand(1, 5, 2)
    torch.testing.assert_close(sample_points(maps, points), sample_points(maps, points.expand(3, -1, -1)))


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_bool_masks_are_read_as_floats_a_few_at_a_time(number, is_shared, monkeypatch):
    masks = torch.rand(number, 9, 13) > 0.5
    points = torch.rand(1 if is_shared else number, 33, 2) * 1.2 - 0.1
    expected = sample_points(masks.float(), points)
    sizes, grid_sample = [], torch.nn.functional.grid_sample
    monkeypatch.setattr(matching, "_PIXELS_AT_ONCE", 2 * 9 * 13)
    monkeypatch.setattr(
        matching.F, "grid_sample", lambda maps, *others, **options: sizes.append(maps.numel()) or grid_sample(maps, *others, **options)
    )
    assert torch.equal(sample_points(masks, points), expected)
    assert max(sizes) <= 2 * 9 * 13


@pytest.mark.parametrize("number", [1, 2, 5])
def test_rows_of_bool_masks_are_read_as_floats_a_few_at_a_time(number, monkeypatch):
    masks, points = torch.rand(3, number, 9, 13) > 0.5, torch.rand(3, 33, 2)
    expected = sample_points(masks.float(), points)
    sizes, grid_sample = [], torch.nn.functional.grid_sample
    monkeypatch.setattr(matching, "_PIXELS_AT_ONCE", 2 * 9 * 13)
    monkeypatch.setattr(
        matching.F, "grid_sample", lambda maps, *others, **options: sizes.append(maps.numel()) or grid_sample(maps, *others, **options)
    )
    assert torch.equal(sample_points(masks, points), expected)
    assert max(sizes) <= 2 * 9 * 13


def test_rows_of_maps_are_sampled_at_points_of_their_own():
    maps, points = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 2)
    each = [sample_points(of_row, at[None]) for of_row, at in zip(maps, points, strict=True)]
    assert torch.equal(sample_points(maps, points), torch.stack(each))


def test_mask_cost_is_the_mean_cross_entropy():
    logits = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0]])
    pairs = [torch.nn.functional.binary_cross_entropy_with_logits(row, targets[0]) for row in logits]
    torch.testing.assert_close(pairwise_mask_cost(logits, targets), torch.stack(pairs)[:, None])


def test_dice_cost_of_perfect_and_disjoint_masks():
    logits = torch.tensor([[INSIDE, INSIDE, OUTSIDE, OUTSIDE]])
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    expected = [1 - (2 * 2 + 1) / (4 + 1), 1 - 1 / (4 + 1)]
    torch.testing.assert_close(pairwise_dice_cost(logits, targets), torch.tensor([expected]))


def test_permuting_the_targets_permutes_the_cost_columns():
    logits, targets, order = torch.randn(5, 9), torch.rand(3, 9), torch.tensor([2, 0, 1])
    for cost in (pairwise_mask_cost, pairwise_dice_cost):
        torch.testing.assert_close(cost(logits, targets[order]), cost(logits, targets)[:, order])


def test_no_targets_give_an_empty_match():
    assert pairwise_mask_cost(torch.randn(4, 6), torch.zeros(0, 6)).shape == (4, 0)
    queries, targets = match_row(torch.randn(4, 8, 8), torch.zeros(0, 8, 8), torch.rand(1, 6, 2))
    assert len(queries) == len(targets) == 0


def test_assignment_is_the_cheapest_as_a_whole():
    cost = torch.tensor([[1.0, 2.0], [1.1, 9.0], [5.0, 5.0]])  # query 0 is best for both, but 0 -> 1 and 1 -> 0 is cheapest
    queries, targets = assign(cost, row=0)
    assert dict(zip(queries.tolist(), targets.tolist(), strict=True)) == {0: 1, 1: 0}


def test_rows_are_assigned_together_as_each_alone():
    costs = [torch.rand(5, number) for number in (2, 0, 7)]
    for cost, (queries, targets), row in zip(costs, assign_rows(costs), range(3), strict=True):
        expected = assign(cost, row)
        assert queries.tolist() == expected[0].tolist() and targets.tolist() == expected[1].tolist()
    costs[2][0, 0] = float("nan")
    with pytest.raises(ValueError, match="row 2: 1 of 35 matching costs are not finite"):
        assign_rows(costs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_cost_names_the_row(bad):
    with pytest.raises(ValueError, match="row 7: 1 of 2 matching costs are not finite"):
        assign(torch.tensor([[1.0, bad]]), row=7)


def test_rows_cost_together_what_each_costs_alone():
    logits, targets = torch.randn(3, 5, 9), [torch.rand(number, 9) for number in (2, 0, 7)]
    for cost, of_row, masks in zip(mask_costs(logits, targets, 2.0, 3.0), logits, targets, strict=True):
        torch.testing.assert_close(cost, 2 * pairwise_mask_cost(of_row, masks) + 3 * pairwise_dice_cost(of_row, masks))


def test_more_targets_than_queries_match_every_query():
    queries, targets = match_row(torch.randn(2, 4, 4), torch.rand(5, 4, 4), torch.rand(1, 8, 2))
    assert sorted(queries.tolist()) == [0, 1] and len(set(targets.tolist())) == 2
