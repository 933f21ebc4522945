"""What answers on a dataset are judged by: network outputs -> answers of plain values -> the numbers of `psalm_hf.metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from ...data.features import Category
from ...masks import area as mask_area
from ...masks import bitmap_from_rle, rle_from_bitmap
from ...metrics import COCO_SIZES, MaskAP, MeanIoU, PanopticQuality, ReferringIoU, RegionIoU, label_map, size_bin
from ...structures import Sample, Segment

Numbers = dict[str, float]
AreaRanges = Mapping[str, tuple[float, float]]
IoU = TypeVar("IoU", ReferringIoU, RegionIoU)

TOP_K = 100  # pairs of query and category that may become instances
NOVELTY = ("seen", "held_out")  # whether training has shown what is meant
NO_TARGET_RULES = ("never", "threshold", "area", "processor")


class Measure(Protocol):
    """Judges one kind of answer. An answer is a plain value that JSON can hold; its masks are COCO RLE with str counts.

    Measures can be pickled and added: workers fill one each.

    Attributes:
        name: of its answers, which measures of one name share; its kind, and behind an underscore what tells these answers from others of
            that kind. Kinds: "panoptic" `{"segments": [{"category_id", "score", "mask"}]}`, "semantic" `{"segments": [{"category_id",
            "mask"}]}`, "instance" `{"instances": [{"category_id", "score", "mask"}]}` (with "area", if what was read has
            boxes), "referring" `{"mask", "score", "no_target"}`,
            "region" `{"masks": [...], "scores": [...]}`, "text" `{"text"}`.
    """

    name: str

    def add(self, sample: Sample, answer: Any) -> None:
        """Judges the answer to one sample."""

    def __iadd__(self, other: Measure) -> Measure: ...

    def numbers(self) -> Numbers:
        """In percent, by name; nan where nothing defines a number."""

    def per_category(self) -> dict[int, Numbers]:
        """The same by category id; empty for measures without categories."""

    def counts(self) -> dict[str, int]:
        """How much was judged."""

    def protocol(self) -> dict[str, Any]:
        """The choices on which the numbers depend, under the measure's name."""


class ModelMeasure(Measure, Protocol):
    """A measure that knows how network outputs become its answers."""

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """Post-processes the outputs of a batch, whose rows are the samples."""


@dataclass(frozen=True)
class PanopticThresholds:
    """`threshold`: class probability that a query needs; `overlap`: share of its own mask that it must win."""

    threshold: float = 0.8
    overlap: float = 0.8


RELEASED = PanopticThresholds()


class PanopticMeasure:
    """PQ of the panoptic map. Crowds and unlabelled pixels count as in `PanopticQuality`.

    Args:
        sizes: name -> (lowest area, first area beyond) in pixels, for PQ over segments of one size.
        variant: what its answers and numbers are called by, beside another measure of the same rows.
    """

    def __init__(
        self, categories: Sequence[Category], thresholds: PanopticThresholds = RELEASED, sizes: AreaRanges | None = None, variant: str = ""
    ):
        self.name, self.variant = variant_name("panoptic", variant), variant
        self.categories, self.thresholds = tuple(categories), thresholds
        is_thing = {category.id: category.is_thing for category in categories}
        self.quality = PanopticQuality(is_thing)
        self.by_size = {size: PanopticQuality(is_thing, area_range) for size, area_range in (sizes or {}).items()}
        self.segments = 0

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """See `ModelMeasure`."""
        stuff = [position for position, category in enumerate(self.categories) if not category.is_thing]
        found = processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self.thresholds.threshold,
            overlap_mask_area_threshold=self.thresholds.overlap,
            label_ids_to_fuse=stuff,
            target_sizes=[sample.image_size for sample in samples],
        )
        return [{"segments": self._segments(answer)} for answer in found]

    def _segments(self, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
        ids = answer["segmentation"].cpu().numpy()
        return [
            {
                "category_id": self.categories[segment["label_id"]].id,
                "score": segment["score"],
                "mask": rle_from_bitmap(ids == segment["id"]),
            }
            for segment in answer["segments_info"]
        ]

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        found, found_categories = panoptic_map(sample, answer)
        segments = dict(enumerate(sample.segments, 1))
        truth = label_map([segment.mask_rle for segment in sample.segments], list(segments), sample.image_size, fill=0)
        crowds = [id for id, segment in segments.items() if segment.is_crowd]
        categories = {id: segment.category_id for id, segment in segments.items()}
        for quality in (self.quality, *self.by_size.values()):
            quality.update(found, found_categories, truth, categories, crowds)
        self.segments += len(segments) - len(crowds)

    def __iadd__(self, other: PanopticMeasure) -> PanopticMeasure:
        self.quality += other.quality
        for size, quality in other.by_size.items():
            self.by_size[size] += quality
        self.segments += other.segments
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        numbers = self.quality.compute() | {f"PQ, {size}": quality.compute()["PQ"] for size, quality in self.by_size.items()}
        return {titled(f"panoptic {name}", self.variant): value for name, value in numbers.items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`; of a variant none."""
        return {} if self.variant else self.quality.per_category()

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"segments": self.segments}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {titled("panoptic", self.variant): asdict(self.thresholds)}


def variant_name(kind: str, variant: str) -> str:
    """Name of a measure's answers, see `Measure`: "panoptic", "panoptic_thresholds_0.5"."""
    return "_".join((kind, *variant.split()))


def titled(*parts: str) -> str:
    """Parts of a name, those that are empty left out: "referring cIoU, best query"."""
    return ", ".join(filter(None, parts))


class ThingsFound:
    """Share of the true things that a panoptic answer finds: with a segment of their category and an IoU above one half, as PQ matches.

    Args:
        name: of the panoptic answers that are judged.
        things: ids of the categories of things.
        sizes: name -> (lowest area, first area beyond) in pixels.
        groups: sample -> of each of its things, which come first among its segments, a group that it also counts in.
    """

    def __init__(self, name: str, things: Collection[int], sizes: AreaRanges, groups: Callable[[Sample], Sequence[str]]):
        self.name, self.things, self.sizes, self.groups = name, frozenset(things), dict(sizes), groups
        self.found: Counter[str] = Counter()
        self.all: Counter[str] = Counter()

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        found, categories = panoptic_map(sample, answer)
        areas = np.bincount(found.ravel())
        true = [segment for segment in sample.segments if segment.category_id in self.things]
        for segment, group in zip(true, self.groups(sample), strict=True):
            mask = bitmap_from_rle(segment.mask_rle)
            area = int(np.count_nonzero(mask))
            best = int(np.bincount(found[mask]).argmax())  # an IoU above one half takes more than half of the thing
            common = int(np.count_nonzero(found[mask] == best))
            is_found = categories.get(best) == segment.category_id and common / (area + int(areas[best]) - common) > 0.5
            for name in ("all", size_bin(area, self.sizes), group):
                self.all[name] += 1
                self.found[name] += is_found

    def __iadd__(self, other: ThingsFound) -> ThingsFound:
        self.found.update(other.found)
        self.all.update(other.all)
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"things found, {name}": 100 * self.found[name] / number for name, number in sorted(self.all.items())}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {f"things, {name}": number for name, number in sorted(self.all.items())}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {"things found": {"answers": self.name, "IoU": "above 0.5"}}


def panoptic_map(sample: Sample, answer: Mapping[str, Any]) -> tuple[np.ndarray, dict[int, int]]:
    """The (H, W) map of a panoptic answer, 0 = no segment, and the category id of each of its segments, numbered from 1.

    Raises:
        ValueError: the masks are not of the sample's size, or overlap; the message names the image.
    """
    segments = dict(enumerate(answer["segments"], 1))
    found = painted(sample, [segment["mask"] for segment in segments.values()], list(segments), fill=0)
    return found, {id: segment["category_id"] for id, segment in segments.items()}


def painted(sample: Sample, rles: Sequence[dict], labels: Sequence[int], *, fill: int) -> np.ndarray:
    """`label_map` of an answer, whose errors name the image."""
    try:
        return label_map(rles, labels, sample.image_size, fill=fill)
    except ValueError as error:
        raise ValueError(f"image {sample.image_id}, prediction: {error}") from error


class SemanticMeasure:
    """mIoU of the semantic map; pixels without a true category are not counted, those of crowds are.

    Args:
        resize_logits: how the map is made, see `PsalmProcessor.post_process_semantic_segmentation`.
    """

    name = "semantic"

    def __init__(self, categories: Sequence[Category], resize_logits: bool = False):
        self.categories, self.resize_logits = tuple(categories), resize_logits
        self.confusion = MeanIoU(len(categories), ignore_label=len(categories))

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """See `ModelMeasure`."""
        sizes = [sample.image_size for sample in samples]
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes, resize_logits=self.resize_logits)
        return [{"segments": self._segments(found.cpu().numpy())} for found in maps]

    def _segments(self, found: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"category_id": self.categories[position].id, "mask": rle_from_bitmap(found == position)}
            for position in np.unique(found).tolist()
        ]

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`. The answer must have a category wherever the truth has one.

        Raises:
            ValueError: it has not, or does not fit the sample.
        """
        position = {category.id: index for index, category in enumerate(self.categories)}
        segments = answer["segments"]
        nothing = self.confusion.ignore_label
        labels = [position[segment["category_id"]] for segment in segments]
        found = painted(sample, [segment["mask"] for segment in segments], labels, fill=nothing)
        true = [segment.mask_rle for segment in sample.segments]
        truth = label_map(true, [position[segment.category_id] for segment in sample.segments], sample.image_size, fill=nothing)
        if missing := int(np.count_nonzero((found == nothing) & (truth != nothing))):
            raise ValueError(f"image {sample.image_id}, prediction: {missing} labelled pixels have no category; every pixel needs one")
        self.confusion.update(found, truth)

    def __iadd__(self, other: SemanticMeasure) -> SemanticMeasure:
        self.confusion += other.confusion
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"semantic {name}": value for name, value in self.confusion.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {self.categories[position].id: numbers for position, numbers in self.confusion.per_category().items()}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {"labelled pixels": int(self.confusion.confusion.sum())}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: {"unlabelled pixels": "not counted", "resized": "mask logits" if self.resize_logits else "scores of categories"}}


class InstanceAnswers:
    """What measures of instances share: how network outputs become at most `top_k` things per picture, and sums of `precision`.

    Args:
        categories: those that were prompted, in their order.
    """

    name = "instance"
    top_k = TOP_K
    precision: Any  # a subclass makes its metric

    def __init__(self, categories: Sequence[Category]):
        self.categories = tuple(categories)

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """See `ModelMeasure`."""
        found = processor.post_process_instance_segmentation(
            outputs,
            top_k=self.top_k,
            label_ids=[position for position, category in enumerate(self.categories) if category.is_thing],
            return_coco_annotation=True,
            target_sizes=[sample.image_size for sample in samples],
        )
        return [{"instances": self._instances(answer)} for answer in found]

    def _instances(self, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {"category_id": self.categories[segment["label_id"]].id, "score": segment["score"], "mask": mask}
            for segment, mask in zip(answer["segments_info"], answer["segmentation"], strict=True)
        ]

    def __iadd__(self, other: Self) -> Self:
        self.precision += other.precision
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"instance {name}": value for name, value in self.precision.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return self.precision.per_category()


class InstanceMeasure(InstanceAnswers):
    """AP of things.

    Args:
        area_ranges: see `MaskAP`.
    """

    def __init__(self, categories: Sequence[Category], area_ranges: AreaRanges = COCO_SIZES):
        super().__init__(categories)
        self.things = {category.id for category in categories if category.is_thing}
        self.precision = MaskAP(area_ranges)

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`. Crowds are targets too; pycocotools knows what to do with them."""
        found = answer["instances"]
        self.precision.update(
            sample.image_id,
            [instance["mask"] for instance in found],
            [instance["category_id"] for instance in found],
            [instance["score"] for instance in found],
            [segment for segment in sample.segments if segment.category_id in self.things],
            areas=areas_of(found),
        )

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        annotations = [annotation for _, true in self.precision.images.values() for annotation in true]
        return {"things": sum(not annotation["iscrowd"] for annotation in annotations)}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: {"top_k": self.top_k, "vocabulary": "all categories of the dataset, things are kept"}}


def areas_of(instances: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The areas that come with the instances of an answer: those of results files with boxes do; None if there are none."""
    return [instance["area"] for instance in instances] if instances and "area" in instances[0] else None


class GroupedIoU(Generic[IoU]):
    """IoUs over everything and by group, where every mask is compared once.

    Args:
        new: makes an empty IoU.
    """

    def __init__(self, new: Callable[[], IoU]):
        self.new = new
        self.by_groups: dict[tuple[str, ...], IoU] = {}  # of whatever has exactly these groups

    def of(self, groups: Sequence[str]) -> IoU:
        """What something that belongs to these groups is counted in."""
        return self.by_groups.setdefault(tuple(groups), self.new())

    def __iadd__(self, other: GroupedIoU[IoU]) -> GroupedIoU[IoU]:
        for groups, iou in other.by_groups.items():
            mine = self.of(groups)
            mine += iou
        return self

    def whole(self) -> IoU:
        """Over everything."""
        return self._sum(self.by_groups)

    def by_group(self) -> dict[str, IoU]:
        """By group, sorted by name."""
        names = sorted({name for groups in self.by_groups for name in groups})
        return {name: self._sum(groups for groups in self.by_groups if name in groups) for name in names}

    def _sum(self, some: Iterable[tuple[str, ...]]) -> IoU:
        total = self.new()
        for groups in some:
            total += self.by_groups[groups]
        return total


@dataclass(frozen=True)
class ReferringRule:
    """How queries become the answer to an expression.

    Attributes:
        threshold: None = the best query; a number = the union of all queries that score above it, or the best one if none does.
        no_target: when the answer is "nothing is there": "never"; "threshold": even the best query scores at most `threshold`; "area": the
            mask has fewer than `min_area` pixels (the rule of the GRES paper for models that answer with masks alone); "processor": even
            the best query scores at most `no_target_threshold`, which, as `threshold`, was taken from the processor.
        min_area: in pixels.
        no_target_threshold: for "processor" only.

    Raises:
        ValueError: an unknown rule, or one without its threshold.
    """

    threshold: float | None = None
    no_target: str = "never"
    min_area: int = 50
    no_target_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.no_target not in NO_TARGET_RULES:
            raise ValueError(f"unknown no-target rule {self.no_target!r}, expected one of {', '.join(NO_TARGET_RULES)}")
        if self.no_target == "threshold" and self.threshold is None:
            raise ValueError("the no-target rule 'threshold' needs a referring threshold, such as 0.6")
        if (self.no_target == "processor") != (self.no_target_threshold is not None):
            raise ValueError("the no-target rule 'processor', and no other, needs a no-target threshold")

    @property
    def least_score(self) -> float | None:
        """What the best query must score above to be an answer; None = nothing."""
        return {"threshold": self.threshold, "processor": self.no_target_threshold}.get(self.no_target)

    def is_too_small(self, area: int) -> bool:
        """Whether an answer of this many pixels is "nothing is there"."""
        return self.no_target == "area" and area < self.min_area

    @property
    def best_query(self) -> ReferringRule:
        """The same with the best query as the whole answer."""
        no_target = "processor" if self.no_target == "threshold" else self.no_target
        return replace(self, threshold=None, no_target=no_target, no_target_threshold=self.least_score)


DEFAULT_RULE = ReferringRule()


def tags_of(sample: Sample) -> tuple[str, ...]:
    """The groups that an expression counts in, unless others are asked for."""
    return sample.tags


class ReferringMeasure:
    """cIoU, gIoU, P@X, and where expressions may mean nothing N-acc and T-acc; also by tag of the sample and by size of what is meant.

    Args:
        rule: default as PSALM is measured on RefCOCO: the best query, never "nothing".
        sizes: name -> (lowest, first beyond) area in pixels.
        crowds: what crowds among the segments are: "meant" like any object (RefCOCO, and whatever the released code measures), "left out"
            of what is meant (gRefCOCO), or "ignored": their pixels count nowhere (ReasonSeg marks so what is neither right nor wrong).
        groups: sample -> groups that it counts in besides its size.
        variant: see `PanopticMeasure`.
        target_given: judge as on RefCOCO, where it is known that something is meant: expressions with a target alone, whose answer never
            is that nothing is there. The names of the numbers say so.
    """

    def __init__(
        self,
        rule: ReferringRule = DEFAULT_RULE,
        sizes: AreaRanges | None = None,
        *,
        crowds: str = "meant",
        groups: Callable[[Sample], Sequence[str]] = tags_of,
        variant: str = "",
        target_given: bool = False,
    ):
        self.name = variant_name("referring", variant)
        self.variant = titled(variant, "target given" * target_given)
        self.rule, self.sizes, self.crowds, self.groups, self.target_given = rule, dict(sizes or {}), crowds, groups, target_given
        self.iou: GroupedIoU[ReferringIoU] = GroupedIoU(ReferringIoU)

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """See `ModelMeasure`."""
        sizes = [sample.image_size for sample in samples]
        found = processor.post_process_referring_segmentation(
            outputs, threshold=self.rule.threshold, no_target_threshold=self.rule.least_score, target_sizes=sizes
        )
        return [self._answer(answer) for answer in found]

    def _answer(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        # Also where nothing is said to be there: the pixels of that guess count in cIoU.
        mask = answer["masks"].any(0).cpu().numpy()
        no_target = answer["no_target"] or self.rule.is_too_small(int(np.count_nonzero(mask)))
        return {"mask": rle_from_bitmap(mask), "score": answer["score"], "no_target": no_target}

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        target, ignored = meant(sample, self.crowds)
        predicted = bitmap_from_rle(answer["mask"])
        if predicted.shape != target.shape:
            raise ValueError(
                f"image {sample.image_id}, record {sample.record_id}, prediction: a mask of size {predicted.shape}, "
                f"but the image is {target.shape}"
            )
        area = int(np.count_nonzero(target))
        if self.target_given and not area:
            return
        size = [size_bin(area, self.sizes)] if self.sizes and area else []
        no_target = answer["no_target"] and not self.target_given
        self.iou.of((*self.groups(sample), *size)).update(predicted & ~ignored, target, predicted_no_target=no_target)

    def __iadd__(self, other: ReferringMeasure) -> ReferringMeasure:
        self.iou += other.iou
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        if self.target_given and not self.iou.by_groups:
            return {}
        results = {name: value for name, value in self.iou.whole().compute().items() if not (self.target_given and name.endswith("acc"))}
        for group, iou in self.iou.by_group().items():
            numbers = iou.compute()
            results |= {f"{name}, {group}": numbers[name] for name in ("cIoU", "gIoU")}
        return {titled(f"referring {name}", self.variant): value for name, value in results.items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`; of a variant none."""
        if self.variant:
            return {}
        return _expressions("", self.iou.whole()) | {
            name: number for group, iou in self.iou.by_group().items() for name, number in _expressions(f", {group}", iou).items()
        }

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {titled("referring", self.variant): {**asdict(self.rule), "crowds": self.crowds}}


def _expressions(group: str, iou: ReferringIoU) -> dict[str, int]:
    counts = {"expressions with a target": len(iou.ious), "expressions without target": iou.rejected + iou.invented}
    return {f"{name}{group}": number for name, number in counts.items() if number or not group}


class RegionAnswers:
    """How network outputs become a mask per region: the best query of each."""

    name = "region"

    def answers(self, samples: Sequence[Sample], outputs: Any, processor: Any) -> list[Any]:
        """See `ModelMeasure`."""
        found = processor.post_process_region_segmentation(outputs, target_sizes=[sample.image_size for sample in samples])
        return [
            {"masks": [rle_from_bitmap(mask) for mask in answer["masks"].cpu().numpy()], "scores": answer["scores"].tolist()}
            for answer in found
        ]


class RegionMeasure(RegionAnswers):
    """mIoU and cIoU by kind of prompt, by size of what is meant, and by novelty where tags say "seen:0" or "held_out:0" of segment 0; kinds
    are never averaged.

    Args:
        sizes: name -> (lowest, first beyond) area in pixels.
    """

    def __init__(self, sizes: AreaRanges | None = None):
        self.sizes = dict(sizes or {})
        self.iou: GroupedIoU[RegionIoU] = GroupedIoU(RegionIoU)

    def add(self, sample: Sample, answer: Any) -> None:
        """See `Measure`."""
        if len(answer["masks"]) != len(sample.regions):
            raise ValueError(f"image {sample.image_id}, prediction: {len(answer['masks'])} masks for {len(sample.regions)} regions")
        for index, (region, mask) in enumerate(zip(sample.regions, answer["masks"], strict=True)):
            if region.segment is None:
                raise ValueError(f"image {sample.image_id}: region {index} points at no segment; give a split whose truth is known")
            target = sample.segments[region.segment].mask_rle
            groups = [size_bin(mask_area(target), self.sizes)] if self.sizes else []
            groups += [name for name in NOVELTY if f"{name}:{region.segment}" in sample.tags]
            try:
                self.iou.of((region.kind, *(f"{region.kind}, {group}" for group in groups))).update(mask, target)
            except ValueError as error:
                raise ValueError(f"image {sample.image_id}, region {index}: {error}") from error

    def __iadd__(self, other: RegionMeasure) -> RegionMeasure:
        self.iou += other.iou
        return self

    def numbers(self) -> Numbers:
        """See `Measure`."""
        return {f"region {name}, {group}": value for group, iou in self.iou.by_group().items() for name, value in iou.compute().items()}

    def per_category(self) -> dict[int, Numbers]:
        """See `Measure`."""
        return {}

    def counts(self) -> dict[str, int]:
        """See `Measure`."""
        return {f"regions, {group}": len(iou.ious) for group, iou in self.iou.by_group().items()}

    def protocol(self) -> dict[str, Any]:
        """See `Measure`."""
        return {self.name: {"answer": "best query of each region"}}


def union(sample: Sample, segments: Sequence[Segment]) -> np.ndarray:
    """(H, W) bool: some segments of a sample together."""
    return np.any([np.zeros(sample.image_size, dtype=bool), *(bitmap_from_rle(segment.mask_rle) for segment in segments)], axis=0)


def meant(sample: Sample, crowds: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool each: what an expression means, and what counts nowhere. `crowds`: see `ReferringMeasure`."""
    ignored = union(sample, [segment for segment in sample.segments if crowds == "ignored" and segment.is_crowd])
    target = union(sample, [segment for segment in sample.segments if crowds == "meant" or not segment.is_crowd])
    return target & ~ignored, ignored


def measures_of(condition: str, task: str, categories: Sequence[Category], panoptic: PanopticThresholds = RELEASED) -> list[ModelMeasure]:
    """What rows of this condition are measured by.

    Args:
        condition: of the rows, see `Sample.condition`.
        task: of rows with categories. "panoptic" is also measured as semantic and instance segmentation, from the same outputs.
        categories: of the dataset, in the order in which they are prompted; for rows with categories only.
        panoptic: thresholds of the panoptic map.

    Raises:
        ValueError: rows that ask for no segmentation; rows with categories of their own, where the dataset has none.
    """
    if condition == "sentence":
        return [ReferringMeasure()]
    if condition == "region":
        return [RegionMeasure()]
    if condition != "category":
        raise ValueError(f"rows of condition {condition!r} ask for no segmentation; evaluation knows category, sentence and region")
    if not categories:
        raise ValueError("every row names its own categories, so that there are none to average over; give a dataset with one list for all")
    by_task: dict[str, list[ModelMeasure]] = {
        "panoptic": [PanopticMeasure(categories, panoptic), SemanticMeasure(categories), InstanceMeasure(categories)],
        "semantic": [SemanticMeasure(categories)],
        "instance": [InstanceMeasure(categories)],
    }
    return by_task[task]
