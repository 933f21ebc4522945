"""Small enough for paper: images of a few pixels, logits whose probabilities are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from psalm_hf.model import postprocessing
from psalm_hf.model.image_processing_psalm import Placement, PsalmImageProcessor
from psalm_hf.model.postprocessing import (
    best_scores,
    binary_masks,
    instance_map,
    mask_scores,
    masks_of,
    merge_panoptic,
    region_scores,
    semantic_map,
    semantic_scores,
    top_instances,
)
from psalm_hf.model.processing_psalm import PsalmProcessor
from psalm_hf.tiny import byte_tokenizer


def logits(probs: list) -> Tensor:
    return torch.logit(torch.tensor(probs))


def class_logits(probs: list) -> Tensor:
    """Log probabilities: their softmax is `probs`."""
    return torch.tensor(probs).log()


def test_mask_score_is_the_mean_probability_of_the_mask():
    scores = mask_scores(logits([[[0.9, 0.7, 0.2]], [[0.1, 0.2, 0.3]]]), None)
    assert scores.tolist() == pytest.approx([0.8, 0.0])
    assert mask_scores(logits([[[0.9, 0.7, 0.2]]]), None, mask_threshold=0.8).tolist() == pytest.approx([0.9])


def test_inputs_are_not_changed():
    masks = logits([[[0.9, 0.7, 0.2]]])
    before = masks.clone()
    mask_scores(masks, None)
    semantic_map(masks, class_logits([[0.5, 0.5]]), None)
    merge_panoptic(masks, class_logits([[0.9, 0.1]]), None)
    assert torch.equal(masks, before)


def test_semantic_scores_weigh_masks_by_class_and_drop_the_background():
    masks = logits([[[0.8, 0.2]], [[0.1, 0.6]]])
    classes = class_logits([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    expected = torch.tensor([[[0.4, 0.1]], [[0.2 + 0.05, 0.05 + 0.3]]])
    torch.testing.assert_close(semantic_scores(masks, classes, None), expected)
    assert semantic_map(masks, classes, None).tolist() == [[0, 1]]


def test_semantic_map_of_many_categories_is_the_argmax():
    generator = torch.Generator().manual_seed(0)
    masks, classes = torch.randn(5, 4, 6, generator=generator), torch.randn(5, 31, generator=generator)
    frame = Placement((16, 24), (12, 24), (10, 20))
    scores = semantic_scores(masks, classes, frame)
    assert scores.shape == (30, 10, 20)
    assert torch.equal(semantic_map(masks, classes, frame), scores.argmax(0))


def test_semantic_probabilities_are_resized_after_the_sum():
    """One query over two pixels, doubled in width: resizing probabilities and resizing logits differ."""
    masks = logits([[[0.9, 0.5]]])
    classes = class_logits([[0.5, 0.5]])
    frame = Placement((1, 2), (1, 2), (1, 4))
    released = semantic_scores(masks, classes, frame)
    torch.testing.assert_close(released, 0.5 * torch.tensor([[[0.9, 0.8, 0.6, 0.5]]]))
    first = semantic_scores(masks, classes, frame, resize_logits=True)
    middle = 1 / (1 + math.exp(-0.75 * math.log(9)))
    assert float(first[0, 0, 1]) == pytest.approx(0.5 * middle)


def test_instances_are_pairs_of_query_and_category():
    masks = logits([[[0.9, 0.9, 0.1]], [[0.1, 0.1, 0.1]], [[0.1, 0.1, 0.6]]])
    classes = class_logits([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [0.1, 0.7, 0.2]])
    found = top_instances(masks, classes, None)
    assert list(zip(found.queries.tolist(), found.labels.tolist(), strict=True)) == [(0, 0), (2, 1), (0, 1), (2, 0)]
    assert found.scores.tolist() == pytest.approx([0.45, 0.42, 0.27, 0.06])  # query 1 has an empty mask
    assert binary_masks(masks[found.queries], None).tolist()[:2] == [[[True, True, False]], [[False, False, True]]]
    assert instance_map(masks, found.queries, None).tolist() == [[0, 0, 1]]  # later pairs of the same queries are below


def test_instances_of_chosen_categories_are_chosen_after_the_best_pairs():
    masks = logits([[[0.9]], [[0.9]]])
    classes = class_logits([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    found = top_instances(masks, classes, None, top_k=2, label_ids=[1])
    assert found.queries.tolist() == []  # the two best pairs are of category 0
    found = top_instances(masks, classes, None, top_k=3, label_ids=[1], threshold=0.1)
    assert found.queries.tolist() == [1] and found.labels.tolist() == [1]


def test_no_instance_above_the_threshold_leaves_an_image_without_any():
    masks, frame = logits([[[0.6]]]), Placement((4, 4), (2, 4), (5, 7))
    found = top_instances(masks, class_logits([[0.5, 0.5]]), frame, threshold=0.9)
    assert found.scores.shape == found.labels.shape == (0,)
    assert torch.equal(instance_map(masks, found.queries, frame), torch.full((5, 7), -1, dtype=torch.int32))
    assert binary_masks(masks[found.queries], frame).shape == (0, 5, 7)


def test_panoptic_pixel_goes_to_the_best_query_and_needs_its_mask():
    masks = logits([[[0.9, 0.9, 0.1, 0.1]], [[0.1, 0.2, 0.8, 0.3]]])
    classes = class_logits([[0.95, 0.01, 0.04], [0.02, 0.9, 0.08]])
    segmentation, segments = merge_panoptic(masks, classes, None, overlap_mask_area_threshold=0.5)
    assert segmentation.dtype == torch.int32
    assert segmentation.tolist() == [[1, 1, 2, 0]]  # the last pixel is won by query 1, but not in its mask
    assert [(segment["id"], segment["label_id"], segment["was_fused"]) for segment in segments] == [(1, 0, False), (2, 1, False)]
    assert [segment["score"] for segment in segments] == pytest.approx([0.95, 0.9])


def test_panoptic_drops_background_unsure_and_covered_queries():
    masks = logits([[[0.9, 0.9, 0.9, 0.9]], [[0.8, 0.8, 0.8, 0.2]], [[0.9, 0.9, 0.9, 0.9]], [[0.9, 0.9, 0.9, 0.9]]])
    classes = class_logits([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.7, 0.2, 0.1]])
    segmentation, segments = merge_panoptic(masks, classes, None)
    assert segmentation.tolist() == [[1, 1, 1, 1]]
    assert [segment["label_id"] for segment in segments] == [0]  # category 1 won none of its pixels
    nothing, segments = merge_panoptic(masks, classes, None, threshold=0.95)
    assert nothing.tolist() == [[0, 0, 0, 0]] and nothing.dtype == torch.int32 and segments == []


def test_panoptic_overlap_counts_won_pixels_against_the_own_mask():
    """Query 1 wins 3 of its 4 mask pixels: 0.75."""
    masks = logits([[[0.99, 0.1, 0.1, 0.1]], [[0.8, 0.8, 0.8, 0.8]]])
    classes = class_logits([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]])
    assert merge_panoptic(masks, classes, None, overlap_mask_area_threshold=0.8)[0].tolist() == [[1, 0, 0, 0]]
    assert merge_panoptic(masks, classes, None, overlap_mask_area_threshold=0.75)[0].tolist() == [[1, 2, 2, 2]]


def test_panoptic_won_pixels_count_also_outside_the_own_mask():
    """Query 1 wins 3 pixels, one of them in its mask of 2: 1.5 of its mask, and a segment of one pixel."""
    masks = logits([[[0.99, 0.1, 0.1, 0.1]], [[0.8, 0.8, 0.3, 0.3]]])
    classes = class_logits([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]])
    assert merge_panoptic(masks, classes, None)[0].tolist() == [[1, 2, 0, 0]]


def test_panoptic_fuses_stuff_but_not_things():
    masks = logits([[[0.9, 0.1, 0.1]], [[0.1, 0.9, 0.1]], [[0.1, 0.1, 0.9]]])
    classes = class_logits([[0.9, 0.1], [0.97, 0.03], [0.95, 0.05]])
    fused, segments = merge_panoptic(masks, classes, None, label_ids_to_fuse={0})
    assert fused.tolist() == [[1, 1, 1]]
    assert segments == [{"id": 1, "label_id": 0, "was_fused": True, "score": pytest.approx(0.97)}]
    apart, segments = merge_panoptic(masks, classes, None)
    assert apart.tolist() == [[1, 2, 3]] and len(segments) == 3


def test_referring_and_region_scores():
    masks = logits([[[0.9, 0.1]], [[0.6, 0.6]]])
    assert best_scores(torch.tensor([[0.5, 0.8]]), masks, None).tolist() == [pytest.approx([0.45, 0.48])]
    scores = region_scores(masks, logits([[0.5, 0.8], [0.9, 0.1], [0.2, 0.2]]), None)
    torch.testing.assert_close(scores, torch.tensor([[0.45, 0.81, 0.18], [0.48, 0.06, 0.12]]))


def test_masks_are_resized_as_logits_in_chunks():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(19, 6, 6, generator=generator)
    frame = Placement((24, 24), (18, 24), (31, 43))
    assert torch.equal(binary_masks(masks, frame), frame.restore(masks) > 0)


LARGE = Placement((24, 24), (18, 24), (31, 43))  # larger than what the tests below let be resized in one piece


@pytest.fixture
def random_row():
    generator = torch.Generator().manual_seed(1)
    masks = torch.randn(19, 6, 6, generator=generator) * 3
    masks[::4] = -masks[::4].abs()  # empty
    return masks, torch.randn(19, 5, generator=generator) * 3, torch.randn(3, 19, generator=generator).sigmoid()


@pytest.mark.parametrize("mask_threshold", [0.5, 0.8])
def test_pieces_change_nothing(random_row, mask_threshold, monkeypatch):
    masks, classes, probabilities = random_row

    easy = {"threshold": 0.3, "overlap_mask_area_threshold": 0.1}

    def results():
        found = top_instances(masks, classes, LARGE, mask_threshold=mask_threshold)
        scores = best_scores(probabilities, masks, LARGE, mask_threshold)
        above = best_scores(probabilities, masks, LARGE, mask_threshold, threshold=0.4)
        return {
            "masks": binary_masks(masks, LARGE, mask_threshold),
            "scores": mask_scores(masks, LARGE, mask_threshold),
            "best": scores.max(1),
            "above": torch.where(above > 0.4, above, 0),
            "instances": (found.scores, found.labels, found.queries),
            "instance map": instance_map(masks, found.queries, LARGE, mask_threshold),
            "chosen": masks_of(torch.tensor([7, 2, 7, 5]), masks, LARGE, mask_threshold),
            "panoptic": merge_panoptic(masks, classes, LARGE, mask_threshold=mask_threshold, **easy)[0],
            "semantic": semantic_map(masks, classes, LARGE),
            "semantic of logits": semantic_map(masks, classes, LARGE, resize_logits=True),
        }

    expected = results()
    for pixels in (1, 3 * 31 * 43):  # one at a time, three at a time
        monkeypatch.setattr(postprocessing, "_PIXELS", pixels)
        for name, value in results().items():
            torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")
    assert expected["panoptic"].unique().numel() >= 3 and expected["semantic"].unique().numel() >= 2
    assert (expected["scores"] > 0).tolist() == [index % 4 > 0 for index in range(19)]


def test_only_queries_that_can_win_are_resized(random_row, monkeypatch):
    masks, _, _ = random_row
    resized = []
    restore = Placement.restore
    monkeypatch.setattr(Placement, "restore", lambda self, maps: resized.append(len(maps)) or restore(self, maps))
    monkeypatch.setattr(postprocessing, "_PIXELS", 1)
    probabilities = torch.full((1, 19), 0.1)
    probabilities[0, 5], probabilities[0, 9] = 0.9, 0.2
    scores = best_scores(probabilities, masks, LARGE)
    assert resized == [1] and scores.argmax() == 5 and scores.count_nonzero() == 1
    resized.clear()
    assert best_scores(probabilities, masks, LARGE, threshold=0.15).nonzero()[:, 1].tolist() == [5, 9] and resized == [1, 1]
    resized.clear()
    binary_masks(masks, LARGE)
    assert resized == [1] * 14  # five have no logit above 0


@pytest.mark.parametrize("mask_threshold", [0.0, 1.0, -1.0])
def test_mask_threshold_is_a_probability(mask_threshold):
    with pytest.raises(ValueError, match="mask_threshold"):
        binary_masks(torch.zeros(1, 2, 2), None, mask_threshold)


# The processor's methods: rows of several kinds, categories of several numbers


def make_processor(num_queries: int = 2) -> PsalmProcessor:
    return PsalmProcessor(PsalmImageProcessor(size={"longest_edge": 16}), byte_tokenizer(), num_queries=num_queries, image_grid=(2, 2))


def mixed_outputs() -> SimpleNamespace:
    """Five rows on 4 x 4 maps: categories K = 1, sentence, regions R = 2, conversation, categories K = 2."""
    masks = torch.full((5, 2, 4, 4), -4.0)
    masks[:, 0, :, :2] = 4.0  # query 0: left half, query 1: right half
    masks[:, 1, :, 2:] = 4.0
    classes = torch.full((5, 2, 3), -9.0)
    classes[0] = torch.tensor([[6.0, 50.0, 0.0], [0.0, 50.0, 6.0]])  # the middle column is padding
    classes[4] = torch.tensor([[0.0, 6.0, 0.0], [6.0, 0.0, 0.0]])
    return SimpleNamespace(
        masks_queries_logits=masks,
        class_queries_logits=classes,
        referring_queries_logits=torch.tensor([0.5, 2.0]).view(1, 2, 1).expand(5, 2, 1),
        region_queries_logits=torch.tensor([[-1.0, 3.0], [3.0, -1.0], [9.0, 9.0]]).expand(5, 3, 2),
        num_conditions=torch.tensor([2, 1, 2, 0, 3]),
        condition_type=torch.tensor([0, 1, 2, 3, 0]),
    )


SIZES = [(8, 8), (8, 8), (8, 8), (0, 0), (8, 16)]
LEFT = torch.arange(8).expand(8, 8) < 4


def test_each_method_answers_its_own_rows():
    processor, outputs = make_processor(), mixed_outputs()
    semantic = processor.post_process_semantic_segmentation(outputs, target_sizes=SIZES)
    assert [result is None for result in semantic] == [False, True, True, True, False]
    assert semantic[0].dtype == torch.int64 and not semantic[0].any()  # one category: it takes every pixel
    assert semantic[4].shape == (8, 16) and (semantic[4][:, :8] == 1).all() and (semantic[4][:, 8:] == 0).all()

    panoptic = processor.post_process_panoptic_segmentation(outputs, target_sizes=torch.tensor(SIZES))
    assert torch.equal(panoptic[0]["segmentation"], LEFT.int())  # query 1 says background, whatever the padding column says
    assert [segment["label_id"] for segment in panoptic[4]["segments_info"]] == [1, 0]

    referring = processor.post_process_referring_segmentation(outputs, target_sizes=SIZES)
    assert [result is None for result in referring] == [True, False, True, True, True]
    assert torch.equal(referring[1]["segmentation"], ~LEFT)
    assert referring[1]["masks"].shape == (1, 8, 8)

    regions = processor.post_process_region_segmentation(outputs, target_sizes=SIZES)
    assert [result is None for result in regions] == [True, True, False, True, True]
    assert regions[2]["queries"].tolist() == [1, 0]  # the third region is padding
    assert torch.equal(regions[2]["masks"], torch.stack([~LEFT, LEFT]))


def test_referring_threshold_unites_queries_and_falls_back_to_the_best():
    processor, outputs = make_processor(), mixed_outputs()
    united = processor.post_process_referring_segmentation(outputs, threshold=0.55, target_sizes=SIZES)[1]
    assert united["segmentation"].all() and united["masks"].shape == (2, 8, 8)
    assert united["score"] == pytest.approx(float(united["scores"][0])) and united["scores"][0] > united["scores"][1]
    alone = processor.post_process_referring_segmentation(outputs, threshold=0.99, target_sizes=SIZES)[1]
    assert torch.equal(alone["segmentation"], ~LEFT) and len(alone["scores"]) == 1


def test_instance_forms_of_one_result():
    processor, outputs = make_processor(), mixed_outputs()
    options = {"threshold": 0.5, "target_sizes": SIZES}
    painted = processor.post_process_instance_segmentation(outputs, **options)[4]
    stacked = processor.post_process_instance_segmentation(outputs, return_binary_maps=True, **options)[4]
    coded = processor.post_process_instance_segmentation(outputs, return_coco_annotation=True, **options)[4]
    assert painted["segments_info"] == stacked["segments_info"] == coded["segments_info"]
    assert {segment["label_id"] for segment in painted["segments_info"]} == {0, 1}
    for segment, mask, rle in zip(painted["segments_info"], stacked["segmentation"], coded["segmentation"], strict=True):
        assert torch.equal(painted["segmentation"] == segment["id"], mask)
        np.testing.assert_array_equal(coco.decode(rle), mask.numpy())
    with pytest.raises(ValueError, match="exclude each other"):
        processor.post_process_instance_segmentation(outputs, return_binary_maps=True, return_coco_annotation=True)


def test_by_default_instances_need_a_score_above_one_half():
    processor, outputs = make_processor(), mixed_outputs()
    every, default, half = (
        processor.post_process_instance_segmentation(outputs, target_sizes=SIZES, **options)[4]["segments_info"]
        for options in ({"threshold": 0.0}, {}, {"threshold": 0.5})
    )
    assert default == half == [segment for segment in every if segment["score"] > 0.5] and 0 < len(default) < len(every)


def test_best_instance_is_on_top_and_no_instance_is_minus_one():
    processor, outputs = make_processor(), mixed_outputs()
    outputs.masks_queries_logits[4] = torch.tensor([-4.0, 2.0, 2.0, -4.0])  # both queries in the middle
    outputs.masks_queries_logits[4, 1] += 2
    result = processor.post_process_instance_segmentation(outputs, threshold=0.5, target_sizes=[(8, 8)] * 5)[4]
    middle = result["segmentation"][:, 3:5]
    assert (middle == 0).all() and result["segments_info"][0]["label_id"] == 0
    assert (result["segmentation"][:, 0] == -1).all()


def test_without_target_sizes_results_have_the_size_of_the_predictions():
    processor, outputs = make_processor(), mixed_outputs()
    assert processor.post_process_semantic_segmentation(outputs)[0].shape == (4, 4)
    assert processor.post_process_region_segmentation(outputs)[2]["masks"].shape == (2, 4, 4)


@pytest.mark.parametrize("kind", ["semantic", "instance", "panoptic", "referring", "region"])
def test_target_sizes_are_one_per_row(kind):
    method = getattr(make_processor(), f"post_process_{kind}_segmentation")
    with pytest.raises(ValueError, match="3 sizes for 5 rows"):
        method(mixed_outputs(), target_sizes=[(8, 8)] * 3)
    with pytest.raises(ValueError, match=r"target_sizes\[\d\].*\(0, 8\)"):
        method(mixed_outputs(), target_sizes=[(0, 8)] * 5)


def test_outputs_without_any_row_of_a_kind():
    outputs = SimpleNamespace(condition_type=torch.tensor([3, 3]), num_conditions=torch.tensor([0, 0]), class_queries_logits=None)
    assert make_processor().post_process_semantic_segmentation(outputs, target_sizes=[(0, 0)] * 2) == [None, None]


def test_categories_as_queries_are_cut_to_the_rows_own():
    """decouple_masks=False: K_max = 2 queries, of which a row with one category has one."""
    processor, outputs = make_processor(num_queries=0), mixed_outputs()
    outputs.class_queries_logits[0, 1] = torch.tensor([90.0, 0.0, 0.0])  # a padding query that would win everywhere
    panoptic = processor.post_process_panoptic_segmentation(outputs, target_sizes=SIZES)
    assert torch.equal(panoptic[0]["segmentation"], LEFT.int())
    instances = processor.post_process_instance_segmentation(outputs, target_sizes=SIZES, return_binary_maps=True)
    assert instances[0]["segmentation"].shape == (1, 8, 8)
