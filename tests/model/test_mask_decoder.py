"""The masked-attention decoder: where a query may look, and which rows look at which image."""

import pytest
import torch

from psalm_hf.model.mask_decoder import PsalmMLP, RowLayout, attention_allowed, pixel_centres

ALONE = RowLayout(torch.tensor([0]), 1)


def test_a_query_looks_where_its_mask_is():
    mask_logits = torch.tensor([[[[5.0, -5.0], [-5.0, 5.0]], [[5.0, 5.0], [-5.0, -5.0]]]])  # (1, 2, 2, 2)
    assert attention_allowed(mask_logits, (2, 2), ALONE).tolist() == [[[[True, False, False, True], [True, True, False, False]]]]


def test_a_query_without_a_mask_looks_everywhere():
    mask_logits = torch.full((1, 3, 4, 4), -5.0)
    mask_logits[0, 1] = 5.0
    mask_logits[0, 2, 0, 0] = 6.0  # one pixel of 16: nothing is left of it at half the size
    allowed = attention_allowed(mask_logits, (2, 2), ALONE)
    assert allowed.shape == (1, 1, 3, 4)
    assert allowed.all()  # a softmax over no keys would be nan


def test_a_slot_that_no_row_fills_looks_everywhere():
    layout = RowLayout(torch.tensor([0, 0, 1]), 2)
    allowed = attention_allowed(torch.full((3, 1, 2, 2), 5.0), (2, 2), layout)
    assert allowed.shape == (2, 1, 2, 4) and allowed.all()


def test_rows_of_one_image_lie_side_by_side_and_come_back():
    layout = RowLayout(torch.tensor([1, 0, 1]), 2)
    by_row = torch.arange(6.0).view(3, 2, 1)  # 3 rows of 2 queries
    by_image = layout.to_images(by_row)
    assert by_image.squeeze(-1).tolist() == [[2, 3, 0, 0], [0, 1, 4, 5]]  # image 0 has one row: its second slot is empty
    assert torch.equal(layout.to_rows(by_image), by_row)


def test_one_row_per_image_needs_no_move_unless_they_are_in_another_order():
    assert RowLayout(torch.tensor([0, 1]), 2).is_identity
    for rows, images in (([1, 0], 2), ([0, 2], 3), ([0, 0], 1)):
        assert not RowLayout(torch.tensor(rows), images).is_identity


def test_centres_of_pixels_are_x_before_y_from_the_finest_level_to_the_last():
    centres = pixel_centres([(1, 2), (1, 1)], torch.device("cpu"))
    assert centres.shape == (1, 3, 1, 2)
    assert centres[0, :, 0].tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("layers", [1, 3])
def test_the_last_layer_has_no_relu(layers):
    perceptron = PsalmMLP(4, layers)
    assert len(perceptron) == 2 * layers - 1 and isinstance(perceptron[-1], torch.nn.Linear)
