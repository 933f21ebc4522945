"""Dense pretraining of the vision parts: recognise what every pixel belongs to, before any prompt exists.

The paper starts from a vision tower and mask generator that already segment (Mask2Former on COCO). A model that starts from nothing
gets there by this: throw-away 1x1 heads on the mask features, the finest encoder level and the image tokens predict, per cell, class,
colour, pattern and the way to the object's centre. Without it, joint training leaves shapes unrecognised, see docs/experiments.md.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.shapes.scene import COLORS, PATTERNS, SHAPES, STUFF, Scene, make_scene
from ..model.modeling_psalm import PsalmForSegmentation

CLASSES = (*SHAPES, *STUFF)
NO_LABEL = 255
ATTRIBUTES: Mapping[str, int] = {"class": len(CLASSES), "color": len(COLORS), "pattern": len(PATTERNS)}


def dense_labels(scene: Scene) -> dict[str, np.ndarray]:
    """Labels of every pixel of a scene.

    Returns:
        `class` (H, W) uint8, index into `CLASSES`; `color`, `pattern` (H, W) uint8, 255 on stuff; `offset` (2, H, W) float32, from
        the pixel to the mean position (x, y) of its thing's visible part, in image sides, 0 on stuff.
    """
    height, width = scene.image.shape[:2]
    labels = {name: np.full((height, width), NO_LABEL, dtype=np.uint8) for name in ATTRIBUTES}
    offset = np.zeros((2, height, width), dtype=np.float32)
    for name, mask in scene.stuff.items():
        labels["class"][mask] = CLASSES.index(name)
    for thing in scene.things:
        rows, columns = np.nonzero(thing.mask)
        labels["class"][rows, columns] = SHAPES.index(thing.shape)
        labels["color"][rows, columns] = list(COLORS).index(thing.color)
        labels["pattern"][rows, columns] = PATTERNS.index(thing.pattern)
        x, y = thing.position
        offset[0, rows, columns] = (x - columns - 0.5) / width
        offset[1, rows, columns] = (y - rows - 0.5) / height
    return labels | {"offset": offset}


class DenseScenes(Dataset):
    """Scenes of a split with their dense labels; item i is `pixel_values` (3, S, S) and the tensors of `dense_labels`."""

    def __init__(self, image_processor, split: str, number: int, seed: int, image_size: int):
        self.image_processor = image_processor
        self.split, self.number, self.seed, self.image_size = split, number, seed, image_size

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        scene = make_scene(self.split, index, seed=self.seed, image_size=self.image_size)
        labels = {name: torch.from_numpy(values) for name, values in dense_labels(scene).items()}
        return {"pixel_values": self.image_processor(scene.image, return_tensors="pt")["pixel_values"][0]} | labels


class DensePretraining(nn.Module):
    """Vision parts of a PSALM model under throw-away heads.

    Args:
        psalm: its vision tower, projector and pixel decoder are trained in place.
        thing_weight: of things against stuff in the class loss; things are small and hard.
    """

    def __init__(self, psalm: PsalmForSegmentation, thing_weight: float = 3.0):
        super().__init__()
        config = psalm.config
        self.psalm = psalm.model
        self.grid = config.image_grid
        outputs = sum(ATTRIBUTES.values()) + 2
        widths = {"mask_features": config.hidden_dim, "level": config.hidden_dim, "tokens": config.text_config.hidden_size}
        self.heads = nn.ModuleDict({name: nn.Conv2d(width, outputs, kernel_size=1) for name, width in widths.items()})
        weight = torch.ones(len(CLASSES))
        weight[: len(SHAPES)] = thing_weight
        self.register_buffer("class_weight", weight)

    def forward(self, pixel_values: Tensor, **labels: Tensor) -> dict[str, Tensor]:
        """`loss`, and `accuracy`: the share of thing pixels whose shape is right at the finest map."""
        features = self.psalm.get_image_features(pixel_values)
        maps = {
            "mask_features": features.mask_features,
            "level": features.multi_scale[-1],
            "tokens": features.image_tokens.transpose(1, 2).unflatten(2, self.grid),
        }
        losses, predictions = [], {}
        for name, head in self.heads.items():
            predictions[name] = head(maps[name])  # (I, outputs, h, w)
            losses.append(self._loss(predictions[name], labels))
        return {"loss": sum(losses), "accuracy": self._accuracy(predictions["mask_features"], labels["class"])}

    def _loss(self, predicted: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        *logits, offset = predicted.split([*ATTRIBUTES.values(), 2], dim=1)
        size = predicted.shape[-2:]
        loss = 0.0
        for (name, _), values in zip(ATTRIBUTES.items(), logits, strict=True):
            target = at_cells(labels[name], size).long()
            weight = self.class_weight if name == "class" else None
            loss = loss + F.cross_entropy(values, target, weight, ignore_index=NO_LABEL)
        is_thing = at_cells(labels["color"], size) != NO_LABEL
        error = (offset - at_cells(labels["offset"], size)).abs().sum(1)
        return loss + 5 * (error * is_thing).sum() / is_thing.sum().clamp(min=1)

    @torch.no_grad()
    def _accuracy(self, predicted: Tensor, target: Tensor) -> Tensor:
        found = predicted[:, : len(CLASSES)].argmax(1)
        target = at_cells(target, found.shape[-2:])
        is_thing = target < len(SHAPES)
        return (found[is_thing] == target[is_thing]).float().mean()


def at_cells(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) -> (..., h, w): the label at the centre of each cell."""
    rows, columns = labels.shape[-2] // size[0], labels.shape[-1] // size[1]
    return labels[..., rows // 2 :: rows, columns // 2 :: columns]
