"""The whole chain learns: from random weights to right masks on sixteen pictures of two coloured squares, all three conditions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from psalm_hf.tiny import build_tiny

pytestmark = pytest.mark.slow

COLORS = {"red square": (220, 40, 40), "green square": (40, 200, 60), "blue square": (50, 70, 220)}
NAMES = list(COLORS)
SIDE, NUM_SCENES = 96, 16


def scene(seed: int) -> tuple[Image.Image, np.ndarray, list[int]]:
    """A picture, the visible masks (2, SIDE, SIDE) of its squares, and their categories; the second may cover part of the first."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), (200, 200, 190))
    masks, labels = np.zeros((2, SIDE, SIDE), dtype=bool), []
    for number, label in enumerate(rng.permutation(3)[:2].tolist()):
        (x, y), side = rng.integers(0, 60, 2).tolist(), int(rng.integers(20, 36))
        ImageDraw.Draw(image).rectangle([x, y, x + side - 1, y + side - 1], fill=COLORS[NAMES[label]])
        masks[:, y : y + side, x : x + side] = False
        masks[number, y : y + side, x : x + side] = True
        labels.append(label)
    return image, masks, labels


def batch(processor, kind: str, seeds: list[int]):
    scenes = [scene(seed) for seed in seeds]
    images = [image for image, _, _ in scenes]
    if kind == "category":
        targets = [{"masks": masks, "class_labels": labels} for _, masks, labels in scenes]
        return processor(images=images, categories=[NAMES] * len(scenes), targets=targets)
    if kind == "sentence":
        expressions = [[f"the {NAMES[labels[1]]}"] for _, _, labels in scenes]
        return processor(images=images, expressions=expressions, targets=[{"masks": masks[1:]} for _, masks, _ in scenes])
    visible = [[mask for mask in masks if mask.any()] for _, masks, _ in scenes]
    regions = [[{"mask": mask} for mask in masks] for masks in visible]
    return processor(images=images, regions=regions, targets=[{"masks": masks} for masks in visible])


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / max((found | truth).sum(), 1)


def test_random_weights_become_right_masks():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    options = {"projector_type": "linear", "projector_level": 1, "projector_stride": 1, "projector_positions": True}
    model, processor = build_tiny(**options, train_num_points=512)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    for step in range(600):
        kind = ("category", "sentence", "region")[step % 3]
        loss = model(**batch(processor, kind, rng.integers(0, NUM_SCENES, 4).tolist())).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    model.eval()
    category, sentence, region = [], [], []
    for seed in range(NUM_SCENES):
        image, masks, labels = scene(seed)
        inputs = processor(images=image, categories=NAMES, expressions=[f"the {NAMES[labels[1]]}"], regions=[{"mask": masks[1]}])
        with torch.no_grad():
            outputs = model(**inputs)
        sizes = inputs["original_sizes"]
        panoptic = processor.post_process_panoptic_segmentation(outputs, threshold=0.5, target_sizes=sizes)[0]
        for mask, label in zip(masks, labels, strict=True):
            ids = [segment["id"] for segment in panoptic["segments_info"] if segment["label_id"] == label]
            category.append(iou(np.isin(panoptic["segmentation"].numpy(), ids), mask))
        referred = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)[1]
        sentence.append(iou(referred["segmentation"].numpy(), masks[1]))
        pointed = processor.post_process_region_segmentation(outputs, target_sizes=sizes)[2]
        region.append(iou(pointed["masks"][0].numpy(), masks[1]))
    means = {"category": np.mean(category), "sentence": np.mean(sentence), "region": np.mean(region)}
    assert min(means.values()) > 0.8, means
