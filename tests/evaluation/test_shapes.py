"""The evaluation of the shapes world: truth as prediction gives 100, and a real model runs through every part."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psalm_hf.evaluation import shapes
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.metrics import label_map
from psalm_hf.tiny import build_tiny


class Oracle:
    """A processor that answers with the truth; the outputs it gets are the samples themselves."""

    image_processor = SimpleNamespace(image_size=128)

    def post_process_panoptic_segmentation(self, samples, **_):
        answers = []
        for sample in samples:
            rles = [segment.mask_rle for segment in sample.segments]
            ids = range(1, len(rles) + 1)
            found = torch.from_numpy(label_map(rles, list(ids), sample.image_size, fill=0).astype(np.int64))
            info = [{"id": id, "label_id": label} for id, label in zip(ids, sample.class_labels, strict=True)]
            answers.append({"segmentation": found, "segments_info": info})
        return answers

    def post_process_semantic_segmentation(self, samples, **_):
        return [
            torch.from_numpy(
                label_map([segment.mask_rle for segment in sample.segments], sample.class_labels, sample.image_size, fill=0).astype(
                    np.int64
                )
            )
            for sample in samples
        ]

    def post_process_instance_segmentation(self, samples, label_ids, **_):
        answers = []
        for sample in samples:
            kept = [(segment, label) for segment, label in zip(sample.segments, sample.class_labels, strict=True) if label in label_ids]
            masks = torch.from_numpy(np.stack([bitmap_from_rle(segment.mask_rle) for segment, _ in kept]))
            answers.append({"segmentation": masks, "segments_info": [{"label_id": label, "score": 1.0} for _, label in kept]})
        return answers

    def post_process_referring_segmentation(self, samples, **_):
        return [{"segmentation": torch.from_numpy(shapes._union(sample)), "score": 1.0 if sample.segments else 0.0} for sample in samples]

    def post_process_region_segmentation(self, samples, **_):
        return [
            {"masks": torch.from_numpy(np.stack([bitmap_from_rle(sample.segments[region.segment].mask_rle) for region in sample.regions]))}
            for sample in samples
        ]


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.setattr(shapes, "_forward", lambda model, processor, samples: (samples, [sample.image_size for sample in samples]))
    return Oracle()


@pytest.mark.parametrize("part", [shapes._panoptic, shapes._referring, shapes._interactive])
def test_truth_as_prediction_gives_100(truth, part):
    results = part(None, truth, "test", 6, 4)
    answers = {name: value for name, value in results.items() if "baseline" not in name}
    assert answers and all(value == pytest.approx(100) for value in answers.values()), answers
    assert all(0 < value < 100 for name, value in results.items() if "baseline" in name)


def test_a_real_model_runs_through_every_part():
    model, processor = build_tiny()
    results = shapes.evaluate_shapes(model, processor, split="unseen", num_images=2, batch_size=2)
    parts = ("panoptic PQ,", "semantic mIoU", "instance AP", "referring cIoU, all", "region mIoU, point", "answers right, all")
    assert all(any(name.startswith(part) for name in results) for part in parts)
    assert all(0 <= value <= 100 or np.isnan(value) for value in results.values())
