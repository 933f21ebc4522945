"""Dense labels agree with the scene, and the heads learn from them."""

import numpy as np
import torch

from psalm_hf.data.shapes.scene import COLORS, PATTERNS, make_scene
from psalm_hf.tiny import build_tiny
from psalm_hf.training.vision import CLASSES, NO_LABEL, DensePretraining, DenseScenes, at_cells, dense_labels


def test_every_pixel_has_the_class_of_what_shows_there():
    scene = make_scene("train", 3)
    labels = dense_labels(scene)
    for thing in scene.things:
        assert (labels["class"][thing.mask] == CLASSES.index(thing.shape)).all()
        assert (labels["color"][thing.mask] == list(COLORS).index(thing.color)).all()
        assert (labels["pattern"][thing.mask] == PATTERNS.index(thing.pattern)).all()
    for name, mask in scene.stuff.items():
        assert (labels["class"][mask] == CLASSES.index(name)).all()
        assert (labels["color"][mask] == NO_LABEL).all() and (labels["offset"][:, mask] == 0).all()
    assert (labels["class"] != NO_LABEL).all()


def test_offsets_lead_to_the_position_of_the_thing():
    scene = make_scene("train", 3)
    offset = dense_labels(scene)["offset"]
    side = scene.image.shape[0]
    thing = scene.things[0]
    rows, columns = np.nonzero(thing.mask)
    np.testing.assert_allclose((columns + 0.5) / side + offset[0, rows, columns], thing.position[0] / side, atol=1e-6)
    np.testing.assert_allclose((rows + 0.5) / side + offset[1, rows, columns], thing.position[1] / side, atol=1e-6)


def test_a_cell_takes_the_label_at_its_centre():
    labels = torch.arange(64).view(8, 8)
    assert at_cells(labels, (2, 2)).tolist() == [[18, 22], [50, 54]]


def test_a_few_steps_on_one_batch_lower_the_loss():
    model, processor = build_tiny()
    scenes = DenseScenes(processor.image_processor, "train", 4, seed=0, image_size=128)
    batch = torch.utils.data.default_collate([scenes[index] for index in range(4)])
    torch.manual_seed(0)
    dense = DensePretraining(model).train()
    optimizer = torch.optim.AdamW(dense.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        outputs = dense(**batch)
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
        losses.append(outputs["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= outputs["accuracy"] <= 1
    assert model.model.vision_tower.swin.embeddings.patch_embeddings.projection.weight.grad.abs().max() > 0
