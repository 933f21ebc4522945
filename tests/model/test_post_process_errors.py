"""Arguments of the `post_process_*` methods that mean nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psalm_hf.tiny import build_tiny

SIZE = [(20, 32)]


@pytest.fixture(scope="module")
def processor():
    return build_tiny()[1]


@pytest.fixture(scope="module")
def outputs():
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        masks_queries_logits=torch.randn(1, 4, 8, 8, generator=generator),
        class_queries_logits=torch.randn(1, 4, 4, generator=generator),
        condition_type=torch.tensor([0]),
        num_conditions=torch.tensor([4]),
    )


@pytest.mark.parametrize("value", [80, -1, float("nan"), float("inf"), "0.5", None, True, [0.5]], ids=repr)
@pytest.mark.parametrize(
    "method, name",
    [
        ("panoptic", "threshold"),
        ("panoptic", "mask_threshold"),
        ("panoptic", "overlap_mask_area_threshold"),
        ("instance", "threshold"),
        ("instance", "mask_threshold"),
    ],
)
def test_thresholds_are_numbers_from_0_to_1(processor, outputs, method, name, value):
    options = {"threshold": 0.0, name: value}  # so that some query gets as far as its mask
    with pytest.raises(ValueError, match=f"^{name}: expected a (number from|probability between) 0 (to|and) 1, got"):
        getattr(processor, f"post_process_{method}_segmentation")(outputs, target_sizes=SIZE, **options)


@pytest.mark.parametrize("labels", [[3], [-1], [0.5], ["cup"], "0", 1, [True]], ids=repr)
@pytest.mark.parametrize("method, name", [("panoptic", "label_ids_to_fuse"), ("instance", "label_ids")])
def test_labels_are_indices_of_the_categories(processor, outputs, method, name, labels):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        getattr(processor, f"post_process_{method}_segmentation")(outputs, target_sizes=SIZE, **{name: labels})


@pytest.mark.parametrize("labels", [[], [0, 2], {1}, np.array([1]), torch.tensor([0, 1])], ids=repr)
@pytest.mark.parametrize("method, name", [("panoptic", "label_ids_to_fuse"), ("instance", "label_ids")])
def test_labels_come_in_any_collection(processor, outputs, method, name, labels):
    assert getattr(processor, f"post_process_{method}_segmentation")(outputs, target_sizes=SIZE, **{name: labels})


@pytest.mark.parametrize(
    "sizes",
    [5, "20", [], [(20, 32), (20, 32)], [(20.7, 32.2)], [(float("inf"), 3)], [(0, 3)], [(-20, 32)], [("20", "32")], [None], [(20,)], [20],
     [(2**20, 2**20)], [(True, 3)]],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("method", ["panoptic", "instance", "semantic"])
def test_target_sizes_are_whole_pixels_for_each_row(processor, outputs, method, sizes):
    with pytest.raises(ValueError, match=r"^target_sizes"):
        getattr(processor, f"post_process_{method}_segmentation")(outputs, target_sizes=sizes)


@pytest.mark.parametrize(
    "sizes", [torch.tensor(SIZE), np.array(SIZE), SIZE, ((20, 32),), [torch.tensor([20, 32])], [np.array([20, 32])]], ids=repr
)
def test_target_sizes_come_as_lists_arrays_and_tensors(processor, outputs, sizes):
    assert processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].shape == (20, 32)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "3", True, None], ids=repr)
def test_the_number_of_instances_is_a_whole_number(processor, outputs, top_k):
    with pytest.raises(ValueError, match="^top_k: expected a whole number"):
        processor.post_process_instance_segmentation(outputs, top_k=top_k)
