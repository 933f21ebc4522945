"""Every task on held-out pictures of the shapes world: numbers of the model, and trivial answers beside them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from ..data.collator import PsalmCollator
from ..data.shapes import CATEGORIES, ShapesStream
from ..masks import bitmap_from_rle
from ..metrics import MaskAP, MeanIoU, PanopticQuality, ReferringIoU, RegionIoU, label_map, size_bin
from ..model.regions import region_mask
from ..structures import REGION_KINDS, Sample

SIZES = {"below 2 %": (0.0, 0.02), "larger": (0.02, 1.01)}
NO_TARGET_SCORE = 0.3  # an expression whose best query scores below means nothing that is there
EXPRESSIONS_PER_IMAGE, QUESTIONS_PER_IMAGE = 4, 4


def evaluate_shapes(model, processor, *, split: str, num_images: int, batch_size: int) -> dict[str, float]:
    """All numbers in percent by name; `baseline` marks answers that need no model.

    Args:
        model, processor: a `PsalmForSegmentation` in eval mode and its processor.
        split: "validation", "test" or "unseen".
        num_images: pictures of every task.
        batch_size: pictures of a forward pass.
    """
    results: dict[str, float] = {}
    for part in (_panoptic, _referring, _interactive, _conversation):
        results |= part(model, processor, split, num_images, batch_size)
    return results


def _stream(processor, split: str, task: str, **options) -> ShapesStream:
    return ShapesStream(task=task, split=split, image_size=processor.image_processor.image_size, **options)


def _batches(stream: ShapesStream, num_images: int, batch_size: int) -> Iterator[list[tuple[Sample, tuple[str, ...]]]]:
    """Samples with their tags, of `batch_size` pictures at a time."""
    for first in tqdm(range(0, num_images, batch_size), desc=stream.task):
        scenes = range(first, min(first + batch_size, num_images))
        yield [tagged for scene in scenes for tagged in stream.tagged_samples(scene)]


def _forward(model, processor, samples: Sequence[Sample]):
    batch = PsalmCollator(processor, with_targets=False)(samples)
    with torch.inference_mode():
        return model(**batch), [sample.image_size for sample in samples]


def _panoptic(model, processor, split: str, num_images: int, batch_size: int) -> dict[str, float]:
    ids = [category.id for category in CATEGORIES]
    things = [index for index, category in enumerate(CATEGORIES) if category.is_thing]
    stuff = {index for index, category in enumerate(CATEGORIES) if not category.is_thing}
    thing_ids = {ids[index] for index in things}
    quality = {name: PanopticQuality({id: id in thing_ids for id in ids}) for name in ("released thresholds", "thresholds 0.5")}
    semantic, precision = MeanIoU(len(ids)), MaskAP()
    for tagged in _batches(_stream(processor, split, "panoptic"), num_images, batch_size):
        samples = [sample for sample, _ in tagged]
        outputs, sizes = _forward(model, processor, samples)
        answers = {
            "released thresholds": processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse=stuff, target_sizes=sizes),
            "thresholds 0.5": processor.post_process_panoptic_segmentation(
                outputs, threshold=0.5, overlap_mask_area_threshold=0.5, label_ids_to_fuse=stuff, target_sizes=sizes
            ),
        }
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        instances = processor.post_process_instance_segmentation(outputs, label_ids=things, return_binary_maps=True, target_sizes=sizes)
        for row, sample in enumerate(samples):
            segments = dict(enumerate(sample.segments, 1))
            truth = label_map([segment.mask_rle for segment in segments.values()], list(segments), sample.image_size, fill=0)
            for name, metric in quality.items():
                answer = answers[name][row]
                found = {segment["id"]: ids[segment["label_id"]] for segment in answer["segments_info"]}
                metric.update(answer["segmentation"].numpy(), found, truth, {id: segment.category_id for id, segment in segments.items()})
            target = label_map([segment.mask_rle for segment in sample.segments], sample.class_labels, sample.image_size, fill=255)
            semantic.update(maps[row].numpy(), target)
            info = instances[row]["segments_info"]
            precision.update(
                sample.image_id,
                list(instances[row]["segmentation"].numpy()),
                [ids[segment["label_id"]] for segment in info],
                [segment["score"] for segment in info],
                [segment for segment in sample.segments if segment.category_id in thing_ids],
            )
    results = {f"panoptic {key}, {name}": value for name, metric in quality.items() for key, value in _named(metric, "PQ").items()}
    return results | {"semantic mIoU": semantic.compute()["mIoU"], "instance AP": precision.compute()["AP"]}


def _named(metric: PanopticQuality, prefix: str) -> dict[str, float]:
    return {key: value for key, value in metric.compute().items() if key.startswith(prefix)}


def _referring(model, processor, split: str, num_images: int, batch_size: int) -> dict[str, float]:
    by_tag: dict[str, ReferringIoU] = defaultdict(ReferringIoU)
    baseline = ReferringIoU()
    stream = _stream(processor, split, "referring", prompts_per_image=EXPRESSIONS_PER_IMAGE)
    for tagged in _batches(stream, num_images, batch_size):
        samples = [sample for sample, _ in tagged]
        outputs, sizes = _forward(model, processor, samples)
        best = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)
        several = processor.post_process_referring_segmentation(outputs, threshold=0.5, target_sizes=sizes)
        for row, (sample, tags) in enumerate(tagged):
            target = _union(sample)
            is_absent = best[row]["score"] < NO_TARGET_SCORE
            answer = several[row]["segmentation"].numpy()
            for name in ("all", *(tag for tag in tags if not tag.startswith("no_"))):
                by_tag[name].update(answer, target, predicted_no_target=is_absent)
            if sample.segments:
                for name in ("one query, with target", *(f"one query, {tag}" for tag in tags)):
                    by_tag[name].update(best[row]["segmentation"].numpy(), target, predicted_no_target=False)
                baseline.update(_largest(stream, sample), target, predicted_no_target=False)
    results = {}
    for name, metric in sorted(by_tag.items()):
        numbers = metric.compute()
        kept = ("cIoU", "gIoU", "N-acc", "T-acc") if name == "all" else ("cIoU",)
        results |= {f"referring {key}, {name}": numbers[key] for key in kept}
    return results | {"referring cIoU, baseline largest thing": baseline.compute()["cIoU"]}


def _union(sample: Sample) -> np.ndarray:
    union = np.zeros(sample.image_size, dtype=bool)
    for segment in sample.segments:
        union |= bitmap_from_rle(segment.mask_rle)
    return union


def _largest(stream: ShapesStream, sample: Sample) -> np.ndarray:
    scene = stream.scene(int(sample.image_id.rsplit("/", 1)[1]))
    return max(scene.things, key=lambda thing: thing.area).mask


def _interactive(model, processor, split: str, num_images: int, batch_size: int) -> dict[str, float]:
    results = {}
    for kind in REGION_KINDS:
        total, baseline, by_size = RegionIoU(), RegionIoU(), {name: RegionIoU() for name in SIZES}
        for tagged in _batches(_stream(processor, split, "interactive", region_kind=kind), num_images, batch_size):
            samples = [sample for sample, _ in tagged if sample.regions]
            outputs, sizes = _forward(model, processor, samples)
            answers = processor.post_process_region_segmentation(outputs, target_sizes=sizes)
            for sample, answer in zip(samples, answers, strict=True):
                for region, mask in zip(sample.regions, answer["masks"].numpy(), strict=True):
                    target = bitmap_from_rle(sample.segments[region.segment].mask_rle)
                    total.update(mask, target)
                    by_size[size_bin(target.mean(), SIZES)].update(mask, target)
                    baseline.update(region_mask(region.as_prompt(), sample.image_size, kind), target)
        results |= {f"region mIoU, {kind}": total.compute()["mIoU"], f"region cIoU, {kind}": total.compute()["cIoU"]}
        results |= {f"region mIoU, {kind}, {name}": metric.compute()["mIoU"] for name, metric in by_size.items()}
        results[f"region mIoU, {kind}, baseline prompt itself"] = baseline.compute()["mIoU"]
    return results


def _conversation(model, processor, split: str, num_images: int, batch_size: int) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    stream = _stream(processor, split, "conversation", prompts_per_image=QUESTIONS_PER_IMAGE)
    for tagged in _batches(stream, num_images, batch_size):
        asked = [Sample(sample.image, sample.image_id, sample.image_size, conversation=sample.conversation[:1]) for sample, _ in tagged]
        batch = PsalmCollator(processor, with_targets=False)(asked)
        with torch.inference_mode():
            answers = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
        texts = processor.batch_decode(answers, skip_special_tokens=True)
        for text, (sample, tags) in zip(texts, tagged, strict=True):
            is_right = text.strip() == sample.conversation[1]["content"]
            right["all"].append(is_right)
            right[tags[0]].append(is_right)
    return {f"answers right, {name}": 100 * float(np.mean(values)) for name, values in sorted(right.items())}
