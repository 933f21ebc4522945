"""Clicks that correct a region, on masks small enough to check on paper."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psalm_hf.model.corrections import DISAGREEMENT, click_agreement, corrected_mask
from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.model.rows import RowInfo
from psalm_hf.tiny import build_tiny

SIDE = 128  # of the padded input of the tiny model; predictions are 32 x 32, so 4 pixels are a cell, and a click reaches 4 pixels
SQUARE = Placement.of_image((SIDE, SIDE), SIDE)
LEFT, ALL, RIGHT = (torch.full((32, 32), -8.0) for _ in range(3))
LEFT[:, :16], ALL[:], RIGHT[:, 16:] = 8, 8, 8
MASKS = torch.stack([LEFT, ALL, RIGHT])  # 3 queries


@pytest.fixture(scope="module")
def processor():
    return build_tiny()[1]


def outputs(region_logits, masks=MASKS):
    """One row of regions: region_logits (R, Q)."""
    return SimpleNamespace(
        masks_queries_logits=masks[None],
        region_queries_logits=torch.tensor(region_logits)[None],
        condition_type=torch.tensor([2]),
        num_conditions=torch.tensor([len(region_logits)]),
    )


@pytest.mark.parametrize(
    "clicks, contradictions",
    [
        ([(30, 60, 1)], [0, 0, 1]),
        ([(30, 60, 1), (100, 60, 0)], [0, 1, 2]),
        ([(100, 60, 0), (110, 20, 0)], [0, 2, 2]),
        ([(66, 60, 0)], [0, 1, 0]),  # two pixels beyond the border: left of it the mask of the right query is not set
        ([(66, 60, 1)], [0, 0, 0]),
        ([(127.9, 127.9, 0)], [0, 1, 1]),  # what is outside of the image is not asked
    ],
)
def test_a_mask_contradicts_clicks_on_its_wrong_side_but_near_its_border(clicks, contradictions):
    factors = click_agreement(MASKS, clicks, SQUARE, limit=0)
    torch.testing.assert_close(factors, DISAGREEMENT ** torch.tensor(contradictions, dtype=torch.float32))


def test_clicks_are_in_pixels_of_the_image_as_given():
    """An image of 64 x 256 lies in the upper quarter of the square, at half its size."""
    wide = Placement.of_image((64, 256), SIDE)
    assert wide.content_size == (32, 128)
    upper = torch.full((1, 32, 32), -8.0)
    upper[0, :4, :16] = 8  # the upper left part of the image: 32 rows and 128 columns of it
    wrong = click_agreement(upper, [(64, 16, 0)], wide, 0), click_agreement(upper, [(192, 16, 1)], wide, 0)
    right = click_agreement(upper, [(64, 48, 0)], wide, 0), click_agreement(upper, [(64, 16, 1)], wide, 0)
    assert [round(float(factor), 3) for factor in (*wrong, *right)] == [0.1, 0.1, 1, 1]
    everything = torch.full((1, 32, 32), -8.0)
    everything[0, :8] = 8
    for corner in ((0, 0), (255, 0), (0, 63), (255, 63)):  # the padding below is not asked
        assert float(click_agreement(everything, [(*corner, 0)], wide, 0)) == pytest.approx(0.1)


def test_clicks_on_their_side_leave_the_mask_as_it_is():
    logits = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    rows, columns = (logits > 0.5).nonzero()[::50].T
    clicks = [(column + 0.5, row + 0.5, 1) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
    assert torch.equal(corrected_mask(logits, clicks, limit=0.0), logits > 0)


def test_the_border_moves_past_a_click_and_is_held_by_others():
    logits = (64 - torch.arange(128.0)).expand(128, 128) / 8 + 0.05  # set left of column 65, ever less sure towards it
    moved = corrected_mask(logits, [(60.5, 30.5, 0)], limit=0.0)
    assert not moved[30, 60:].any() and moved[30, :56].all()  # past the click, and no farther than the click reaches
    assert torch.equal(moved[60:], logits[60:] > 0)  # four reaches away nothing happens
    held = corrected_mask(logits, [(60.5, 30.5, 0), (58.5, 34.5, 1)], limit=0.0)
    assert not held[30, 60] and held[34, 58] and not held[30, 60:].any()
    surplus = torch.ones(128, 128)
    surplus[30, 20] = 6
    around = corrected_mask(surplus, [(20.5, 30.5, 1), (80.5, 30.5, 0)], limit=0.0)
    assert around[20:40, 10:30].all() and not around[30, 80]  # what is surer than needed is not lowered
    added = corrected_mask(logits, [(70.5, 30.5, 1)], limit=0.0)
    assert added[30, :71].all() and not added[30, 76:].any()


@pytest.mark.parametrize("seed", range(20))
def test_no_mask_has_a_click_of_label_0(processor, seed):
    """Also where the clicks lie side by side, or the logits are huge."""
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.normal(scale=10.0 ** rng.integers(0, 4), size=(3, 32, 32)).astype(np.float32))
    pixels = rng.permutation([(x, y) for x in range(50, 56) for y in range(20, 25)])[:12]
    clicks = [(float(x), float(y), int(label)) for (x, y), label in zip(pixels, rng.integers(0, 2, 12), strict=True)]
    size = (100, 75)
    (found,) = processor.post_process_region_segmentation(outputs([[0.0, 1.0, -1.0]], masks), target_sizes=[size], clicks=[[clicks]])
    assert not any(found["masks"][0, int(y), int(x)] for x, y, label in clicks if label == 0)


def test_a_click_of_label_0_takes_a_query_that_agrees(processor):
    given = outputs([[1.0, 3.0, -9.0]] * 2)  # the best is the query of everything
    sizes = [(SIDE, SIDE)]
    (before,) = processor.post_process_region_segmentation(given, target_sizes=sizes)
    assert before["queries"].tolist() == [1, 1]
    clicks = [[[(30.0, 60.0, 1), (100.0, 60.0, 0)], []]]
    (after,) = processor.post_process_region_segmentation(given, target_sizes=sizes, clicks=clicks)
    assert after["queries"].tolist() == [0, 1] and after["masks"][0].sum() == SIDE * SIDE // 2
    assert after["scores"][0] < before["scores"][0]
    assert torch.equal(after["masks"][1], before["masks"][1]) and after["scores"][1] == before["scores"][1]


@pytest.mark.parametrize("clicks", [None, [None], [()], [[[], ()]]])
def test_without_clicks_nothing_changes(processor, clicks):
    masks = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    given = outputs([[0.1, 0.2, 0.3], [0.5, 0.2, 0.1]], masks)
    (expected,) = processor.post_process_region_segmentation(given, target_sizes=[(50, 70)])
    (found,) = processor.post_process_region_segmentation(given, target_sizes=[(50, 70)], clicks=clicks)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_threshold_of_masks_holds_for_corrected_ones(processor):
    given = outputs([[1.0, 3.0, -9.0]], MASKS / 8)  # probabilities of 0.73
    arguments = {"target_sizes": [(SIDE, SIDE)], "clicks": [[[(30.0, 60.0, 1), (100.0, 60.0, 0)]]]}
    (high,) = processor.post_process_region_segmentation(given, mask_threshold=0.72, **arguments)
    (low,) = processor.post_process_region_segmentation(given, mask_threshold=0.3, **arguments)
    assert 0 < high["masks"].sum() < low["masks"].sum()
    assert not high["masks"][0, 60, 100] and not low["masks"][0, 60, 100]


def test_segments_follow_the_clicks_of_the_rows(processor):
    clicks = ((30.0, 60.0, 1), (100.0, 60.0, 0))
    ((segment,),) = processor.find_segments(
        outputs([[1.0, 3.0, -9.0]]), [RowInfo(0, "region", ("points",), (clicks,))], target_sizes=[(SIDE, SIDE)]
    )
    assert segment.label == "points" and segment.mask.sum() == SIDE * SIDE // 2
    ((segment,),) = processor.find_segments(outputs([[1.0, 3.0, -9.0]]), [RowInfo(0, "region", ("points",))], target_sizes=[(SIDE, SIDE)])
    assert segment.mask.all()


@pytest.mark.parametrize(
    "clicks, sizes, message",
    [
        ([], [(9, 9)], "clicks: 0 entries for 1 rows"),
        ([[[], []]], [(9, 9)], r"clicks\[0\]: 2 entries for 1 regions"),
        ([[[(1, 2, 1)]]], None, r"clicks\[0\]: .* give target_sizes"),
        ([[[(1, 9, 1)]]], [(9, 9)], r"clicks\[0\], region 0: .* outside"),
        ([[[(1, 2)]]], [(9, 9)], r"clicks\[0\], region 0: expected a list of \(x, y, label\)"),
        ([[(1, 2, 1)]], [(9, 9)], r"clicks\[0\], region 0: expected a list"),
        ([[[(1, 2, 7)]]], [(9, 9)], r"clicks\[0\], region 0: labels are 1 .*got \[7\]"),
        ([[[(1, float("nan"), 1)]]], [(9, 9)], r"clicks\[0\], region 0: .* finite"),
    ],
)
def test_broken_clicks_are_named(processor, clicks, sizes, message):
    with pytest.raises(ValueError, match=message):
        processor.post_process_region_segmentation(outputs([[1.0, 3.0, -9.0]]), target_sizes=sizes, clicks=clicks)
