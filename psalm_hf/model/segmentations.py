"""Outputs of the model -> the segmentations of a whole batch, row by row: the half of the processor that comes after the model.

B rows, Q mask queries, K categories, R regions, N instances or chosen queries; (H, W) the size of an image as given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .checked_masks import MAX_PIXELS
from .corrections import click_agreement, corrected_mask
from .image_processing_psalm import Placement, PsalmImageProcessor
from .postprocessing import (
    best_scores,
    distinct_masks,
    instance_map,
    masks_of,
    merge_panoptic,
    semantic_map,
    threshold_logit,
    top_instances,
)
from .prompts import ROW_KINDS
from .regions import Click, read_clicks
from .rows import RowInfo

THRESHOLDS = {"panoptic": 0.8, "instance": 0.5}  # the released one, and that of other models in transformers
UNION_THRESHOLD = 0.6  # of the queries that belong to an expression, in the released evaluation of gRefCOCO


class FoundSegment(NamedTuple):
    """One segment of a row.

    Attributes:
        index: which of the row's conditions it is; of rows of expressions, which expression of the image.
        label: that condition; all sentences of an expression, joined by "; ".
        score: None in a semantic map.
        mask: (H, W) bool at the size of the image, on the device of the outputs.
    """

    index: int
    label: str
    score: float | None
    mask: Tensor


class PostProcessing:
    """Post-processing of `PsalmProcessor`, which sets these attributes."""

    image_processor: PsalmImageProcessor
    num_queries: int
    referring_threshold: float | None
    no_target_threshold: float | None
    instances_threshold: float | None
    nms_threshold: float

    @torch.no_grad()
    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, *, resize_logits: bool = False
    ) -> list[Tensor | None]:
        """One category per pixel; the background takes none.

        Args:
            outputs: `PsalmSegmentationOutput`.
            target_sizes: (B, 2) tensor or list of (height, width), one per row (`original_sizes` fits). None = the resolution of
                the predictions, padding included.
            resize_logits: False = scores of categories are resized to the target, as in the released semantic task; True = mask logits,
                as in the released panoptic task. A few pixels at borders differ.

        Returns:
            Per row (H, W) int64, indices into the categories; None for a row without categories.

        Raises:
            ValueError: number of target sizes; a flag that is neither True nor False.
        """
        _check_flag("resize_logits", resize_logits)

        def run(row: int, frame: Placement | None) -> Tensor:
            return semantic_map(*self._category_logits(outputs, row), frame, resize_logits=resize_logits)

        return self._each_row(outputs, "category", target_sizes, run)

    @torch.no_grad()
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        target_sizes: Any = None,
        top_k: int = 100,
        label_ids: Collection[int] | None = None,
        return_binary_maps: bool = False,
        return_coco_annotation: bool = False,
    ) -> list[dict[str, Any] | None]:
        """Instances that may overlap, best first.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            threshold: instances need a score (class probability times mean mask probability) above it. Average precision wants all of
                them: 0.
            mask_threshold: of the probability of a pixel.
            top_k: (query, category) pairs considered.
            label_ids: categories to keep; the things, if the categories are a panoptic vocabulary. Default all.
            return_binary_maps: `segmentation` is (N, H, W) bool, in the order of `segments_info`.
            return_coco_annotation: `segmentation` is a list of N COCO RLEs with str counts.

        Returns:
            Per row `{"segmentation", "segments_info": [{"id", "label_id", "was_fused", "score"}]}`, None for a row without
            categories. By default `segmentation` is (H, W) int32: the id of the best instance at each pixel, ids from 0, -1 = none
            (the convention of Mask2Former in transformers).

        Raises:
            ValueError: both return options at once; number of target sizes; threshold out of range.
        """
        _check_flag("return_binary_maps", return_binary_maps)
        _check_flag("return_coco_annotation", return_coco_annotation)
        if return_binary_maps and return_coco_annotation:
            raise ValueError("return_binary_maps and return_coco_annotation exclude each other; set one of them")

        check_fraction("threshold", threshold)
        if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
            raise ValueError(f"top_k: expected a whole number of at least 1, got {top_k!r:.80}")
        kept = None if label_ids is None else _read_labels("label_ids", label_ids, outputs)

        def run(row: int, frame: Placement | None) -> dict[str, Any]:
            mask_logits, class_logits = self._category_logits(outputs, row)
            found = top_instances(
                mask_logits,
                class_logits,
                frame,
                top_k=top_k,
                threshold=threshold,
                mask_threshold=mask_threshold,
                label_ids=kept,
            )
            segments = [
                {"id": index, "label_id": label, "was_fused": False, "score": score}
                for index, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
            ]
            if return_binary_maps or return_coco_annotation:
                masks = masks_of(found.queries, mask_logits, frame, mask_threshold)
                return {"segmentation": masks if return_binary_maps else _coco_rles(masks), "segments_info": segments}
            segmentation = instance_map(mask_logits, found.queries, frame, mask_threshold)
            return {"segmentation": segmentation, "segments_info": segments}

        return self._each_row(outputs, "category", target_sizes, run)

    @torch.no_grad()
    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.8,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: Any = None,
    ) -> list[dict[str, Any] | None]:
        """One segment per pixel, see `merge_panoptic`.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            threshold: of a query's class probability.
            mask_threshold: of the probability of a pixel.
            overlap_mask_area_threshold: share of its own mask that a query must win.
            label_ids_to_fuse: categories (stuff) whose segments are one segment; default none.

        Returns:
            Per row `{"segmentation": (H, W) int32, 0 = no segment, "segments_info": [{"id" from 1, "label_id", "was_fused",
            "score"}]}`, None for a row without categories.

        Raises:
            ValueError: number of target sizes; threshold out of range.
        """

        check_fraction("threshold", threshold)
        check_fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
        fused = () if label_ids_to_fuse is None else _read_labels("label_ids_to_fuse", label_ids_to_fuse, outputs)

        def run(row: int, frame: Placement | None) -> dict[str, Any]:
            mask_logits, class_logits = self._category_logits(outputs, row)
            segmentation, segments = merge_panoptic(
                mask_logits,
                class_logits,
                frame,
                threshold=threshold,
                mask_threshold=mask_threshold,
                overlap_mask_area_threshold=overlap_mask_area_threshold,
                label_ids_to_fuse=fused,
            )
            return {"segmentation": segmentation, "segments_info": segments}

        return self._each_row(outputs, "category", target_sizes, run)

    @torch.no_grad()
    def post_process_referring_segmentation(
        self,
        outputs: Any,
        threshold: float | Literal["processor"] | None = "processor",
        mask_threshold: float = 0.5,
        target_sizes: Any = None,
        no_target_threshold: float | Literal["processor"] | None = "processor",
    ) -> list[dict[str, Any] | None]:
        """The thing or things that an expression means, or nothing.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            threshold: None = the single best query. A number = the union of all queries that score above it, or the best one if
                none does (the released evaluation of gRefCOCO takes 0.6). "processor" = `referring_threshold` of the processor.
            mask_threshold: of the probability of a pixel.
            no_target_threshold: the expression means nothing unless a query scores above it; None = it always means something.
                "processor" = `no_target_threshold` of the processor.

        Returns:
            Per row `{"segmentation": (H, W) bool, "score": float of the best query, "no_target": bool, "masks": (N, H, W) bool of the
            chosen queries, best first, "scores": (N,)}`, None for a row without expression. With `no_target` nothing is set in
            `segmentation`; `masks` and `scores` are still those of the best guess.

        Raises:
            ValueError: number of target sizes; threshold out of range.
        """
        # Compared as text only: an array would be compared entry by entry.
        threshold = self.referring_threshold if isinstance(threshold, str) and threshold == "processor" else threshold
        takes_own = isinstance(no_target_threshold, str) and no_target_threshold == "processor"
        no_target_threshold = self.no_target_threshold if takes_own else no_target_threshold
        check_score(threshold, "threshold")
        check_score(no_target_threshold, "no_target_threshold")

        def run(row: int, frame: Placement | None) -> dict[str, Any]:
            mask_logits = outputs.masks_queries_logits[row]
            probabilities = outputs.referring_queries_logits[row].float().sigmoid().T  # (1, Q)
            scores = best_scores(probabilities, mask_logits, frame, mask_threshold, threshold)[0]
            order = scores.argsort(descending=True, stable=True)
            is_above = torch.zeros_like(scores) if threshold is None else (scores > threshold).to(scores.dtype)
            above, score = torch.stack([is_above.sum(), scores.max()]).tolist()  # one read: the host waits for each
            chosen = order[: max(int(above), 1)]
            masks = masks_of(chosen, mask_logits, frame, mask_threshold)
            no_target = no_target_threshold is not None and score <= no_target_threshold
            segmentation = torch.zeros_like(masks[0]) if no_target else masks.any(0)
            return {"segmentation": segmentation, "score": score, "no_target": no_target, "masks": masks, "scores": scores[chosen]}

        return self._each_row(outputs, "sentence", target_sizes, run)

    @torch.no_grad()
    def post_process_referring_instances(
        self,
        outputs: Any,
        threshold: float | Literal["processor"] = "processor",
        mask_threshold: float = 0.5,
        target_sizes: Any = None,
        no_target_threshold: float | Literal["processor"] | None = "processor",
        nms_threshold: float | Literal["processor"] = "processor",
    ) -> list[dict[str, Any] | None]:
        """Every instance that an expression means, each with its own mask, box and score; none if it means nothing.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            threshold: instances need a score above it, which is that of `post_process_referring_segmentation`. "processor": see
                `instance_thresholds`.
            mask_threshold: of the probability of a pixel.
            no_target_threshold: the expression means nothing unless a query scores above it; the best one then needs no other score. None =
                `threshold` decides this too. "processor": see `instance_thresholds`.
            nms_threshold: IoU in [0, 1] above which the worse of two masks is left out as a repetition, see `distinct_masks`; 1 = never.
                "processor" = `nms_threshold` of the processor.

        Returns:
            Per row `{"masks": (N, H, W) bool, "scores": (N,) float32 in (0, 1], best first, "boxes": (N, 4) float32 x0, y0, x1, y1 along
            pixel edges}`, None for a row without expression. No mask is empty; N may be 0.

        Raises:
            ValueError: number of target sizes; threshold out of range.
        """
        threshold, no_target_threshold = self.instance_thresholds(threshold, no_target_threshold)
        nms_threshold = self.nms_threshold if nms_threshold == "processor" else nms_threshold
        check_fraction("threshold", threshold)
        check_fraction("no_target_threshold", no_target_threshold)
        check_fraction("nms_threshold", nms_threshold)

        def run(row: int, frame: Placement | None) -> dict[str, Any]:
            mask_logits = outputs.masks_queries_logits[row]
            probabilities = outputs.referring_queries_logits[row].float().sigmoid().T  # (1, Q)
            scores = best_scores(probabilities, mask_logits, frame, mask_threshold, threshold)[0]
            order = scores.argsort(descending=True, stable=True)
            found = distinct_masks(
                order[: set_size(scores[order].tolist(), threshold, no_target_threshold)],
                mask_logits,
                frame,
                mask_threshold,
                nms_threshold,
            )
            return {"masks": found.masks, "scores": scores[order[found.positions]], "boxes": found.boxes}

        return self._each_row(outputs, "sentence", target_sizes, run)

    def instance_thresholds(
        self, threshold: float | Literal["processor"] = "processor", no_target_threshold: float | Literal["processor"] | None = "processor"
    ) -> tuple[float, float]:
        """`threshold` and `no_target_threshold` of `post_process_referring_instances`, decided.

        "processor" for both: its `instances_threshold`, or where that is None its `referring_threshold`, or `UNION_THRESHOLD`; and its
        `no_target_threshold`, so that an expression has an instance where it has a mask in `post_process_referring_segmentation`. A number
        for `threshold` alone decides everything.
        """
        if no_target_threshold == "processor":
            no_target_threshold = self.no_target_threshold if threshold == "processor" else None
        if threshold == "processor":
            given = (self.instances_threshold, self.referring_threshold, UNION_THRESHOLD)
            threshold = next(value for value in given if value is not None)
        return threshold, threshold if no_target_threshold is None else no_target_threshold

    @torch.no_grad()
    def post_process_region_segmentation(
        self, outputs: Any, mask_threshold: float = 0.5, target_sizes: Any = None, clicks: Sequence[Any] | None = None
    ) -> list[dict[str, Any] | None]:
        """The best query for each region; two regions may get the same.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            mask_threshold: of the probability of a pixel.
            clicks: points that belong to a region, or do not: per row None or R lists of (x, y, label) in pixels of the image,
                label 1 = belongs, 0 = does not. `[row.clicks for row in inputs.row_info]` are those of the prompts. A region
                without clicks has an empty list. Queries that contradict clicks score less (`click_agreement`), and the mask is moved
                past them (`corrected_mask`): it never has a pixel with a click of label 0.

        Returns:
            Per row `{"masks": (R, H, W) bool, "scores": (R,), "queries": (R,) int64}`, None for a row without regions.

        Raises:
            ValueError: number of target sizes or of clicks; clicks without target sizes, or outside of the image; threshold out of range.
        """
        num_rows = len(outputs.condition_type)
        if clicks is not None and len(clicks) != num_rows:
            raise ValueError(f"clicks: {len(clicks)} entries for {num_rows} rows; give one per row, None where there are none")

        def run(row: int, frame: Placement | None) -> dict[str, Any]:
            mask_logits = outputs.masks_queries_logits[row]
            probabilities = outputs.region_queries_logits[row, : int(outputs.num_conditions[row])].float().sigmoid()  # (R, Q)
            corrected = _clicks_of_row(clicks[row] if clicks else None, len(probabilities), frame, f"clicks[{row}]")
            limit = threshold_logit(mask_threshold)
            for region, points in corrected.items():
                probabilities[region] *= click_agreement(mask_logits, points, frame, limit)
            scores, queries = best_scores(probabilities, mask_logits, frame, mask_threshold).max(1)
            masks = masks_of(queries, mask_logits, frame, mask_threshold)
            for region, points in corrected.items():
                (logits,) = frame.restore(mask_logits[queries[region]][None].float())
                masks[region] = corrected_mask(logits, points, limit)
            return {"masks": masks, "scores": scores, "queries": queries}

        return self._each_row(outputs, "region", target_sizes, run)

    def find_segments(
        self,
        outputs: Any,
        rows: Sequence[RowInfo],
        target_sizes: Any = None,
        *,
        task: str = "panoptic",
        stuff: Collection[str] = (),
        threshold: float | None = None,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        referring_threshold: float | str | None = "processor",
        no_target_threshold: float | str | None = "processor",
        instances: bool = False,
        nms_threshold: float | str = "processor",
    ) -> list[list[FoundSegment]]:
        """Segments of every row of a batch, whatever it asks for; an expression that means nothing has none.

        Args:
            outputs: `PsalmSegmentationOutput`. rows: `row_info` of the inputs.
            target_sizes: (height, width) of each row's image, see `post_process_semantic_segmentation`.
            task: of the rows of categories. stuff: those of their categories whose segments are fused (panoptic).
            threshold, mask_threshold, overlap_mask_area_threshold, referring_threshold, no_target_threshold: see the methods
                above; `threshold` default that of `THRESHOLDS`.
            instances: a segment for every instance that an expression means, instead of one of all together; then `referring_threshold`
                is the `threshold` of `post_process_referring_instances`.
            nms_threshold: see there.
        """

        def results(kind: str, **options: Any) -> Iterator[tuple[list[FoundSegment], RowInfo, Any]]:
            per_row = getattr(self, f"post_process_{kind}_segmentation")(outputs, target_sizes=target_sizes, **options)
            return ((found[row], rows[row], result) for row, result in enumerate(per_row) if result is not None)

        found: list[list[FoundSegment]] = [[] for _ in rows]
        kinds = {row.kind for row in rows}
        if "category" in kinds:
            options: dict[str, Any] = {}
            if task != "semantic":
                options = {"threshold": THRESHOLDS[task] if threshold is None else threshold, "mask_threshold": mask_threshold}
            if task == "instance":
                options["return_binary_maps"] = True
            elif task == "panoptic":
                names = next(row.conditions for row in rows if row.kind == "category")
                options["label_ids_to_fuse"] = {names.index(name) for name in stuff}
                options["overlap_mask_area_threshold"] = overlap_mask_area_threshold
            for segments, row, result in results(task, **options):
                segments += (FoundSegment(index, row.conditions[index], score, mask) for index, score, mask in _of_categories(result, task))
        if "sentence" in kinds:
            options = {"threshold": referring_threshold, "no_target_threshold": no_target_threshold, "mask_threshold": mask_threshold}
            if instances:
                per_row = self.post_process_referring_instances(outputs, target_sizes=target_sizes, nms_threshold=nms_threshold, **options)
            else:
                per_row = self.post_process_referring_segmentation(outputs, target_sizes=target_sizes, **options)
            numbers: Counter[int] = Counter()
            for segments, row, result in zip(found, rows, per_row, strict=True):
                if result is not None:
                    label = "; ".join(row.conditions)
                    segments += (FoundSegment(numbers[row.image], label, score, mask) for score, mask in _of_expression(result))
                    numbers[row.image] += 1
        if "region" in kinds:
            clicks = [row.clicks for row in rows]
            for segments, row, result in results("region", mask_threshold=mask_threshold, clicks=clicks):
                scored = zip(row.conditions, result["scores"].tolist(), result["masks"], strict=True)
                segments += (FoundSegment(index, *one) for index, one in enumerate(scored))
        return found

    def _each_row(self, outputs: Any, kind: str, target_sizes: Any, run: Callable[[int, Placement | None], Any]) -> list[Any]:
        row_kinds = outputs.condition_type.tolist()
        if target_sizes is not None:
            target_sizes = _read_target_sizes(target_sizes, len(row_kinds))
        results = []
        for row, row_kind in enumerate(row_kinds):
            if ROW_KINDS[row_kind] != kind:
                results.append(None)
                continue
            frame = None
            if target_sizes is not None:
                frame = Placement.of_image(_read_target_size(target_sizes[row], row), self.image_processor.image_size)
            results.append(run(row, frame))
        return results

    def _category_logits(self, outputs: Any, row: int) -> tuple[Tensor, Tensor]:
        """(Q, h, w) and (Q, K + 1) of a row, without the columns that pad it to the longest row of the batch."""
        num_categories = int(outputs.num_conditions[row]) - 1
        mask_logits, class_logits = outputs.masks_queries_logits[row], outputs.class_queries_logits[row]
        class_logits = torch.cat([class_logits[:, :num_categories], class_logits[:, -1:]], dim=1)
        if self.num_queries == 0:  # the queries are the categories, and padded with them
            return mask_logits[:num_categories], class_logits[:num_categories]
        return mask_logits, class_logits


def set_size(scores: Sequence[float], threshold: float, no_target_threshold: float) -> int:
    """Number of the instances of an expression, by the scores of N masks, best first: see `post_process_referring_instances`."""
    if not len(scores) or scores[0] <= no_target_threshold:
        return 0
    return max(1, sum(score > threshold for score in scores))


def check_score(value: Any, name: str) -> None:
    """Raises ValueError unless it is None or a score."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a score from 0 to 1, or None, got {value!r:.80}")


def _check_flag(name: str, value: Any) -> None:
    """Raises ValueError unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {value!r:.80}")


def check_fraction(name: str, value: Any) -> None:
    """Raises ValueError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r:.80}")


def _read_labels(name: str, labels: Any, outputs: Any) -> set[int]:
    """Indices of categories, checked against the longest row of the batch; none if no row has categories."""
    if outputs.class_queries_logits is None:
        return set()
    number = outputs.class_queries_logits.shape[-1] - 1
    labels = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
    if isinstance(labels, str) or not isinstance(labels, Collection):
        raise ValueError(f"{name}: expected a list of indices of categories, got {labels!r:.80}")
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < number:
            raise ValueError(f"{name}: expected indices of the {number} categories, 0 to {number - 1}, got {label!r:.80}")
    return {int(label) for label in labels}


def _read_target_sizes(target_sizes: Any, num_rows: int) -> list[Any]:
    if isinstance(target_sizes, Tensor | np.ndarray):
        target_sizes = target_sizes.tolist()
    if isinstance(target_sizes, str) or not isinstance(target_sizes, Sequence) or len(target_sizes) != num_rows:
        got = f"{len(target_sizes)} sizes" if isinstance(target_sizes, Sequence) else f"{target_sizes!r:.80}"
        raise ValueError(
            f"target_sizes: {got} for {num_rows} rows; give one (height, width) per row of the batch, for example the processor's "
            "original_sizes"
        )
    return list(target_sizes)


def _read_target_size(size: Any, row: int) -> tuple[int, int]:
    sides = size.tolist() if isinstance(size, Tensor | np.ndarray) else size
    if isinstance(sides, list | tuple) and len(sides) == 2:
        sides = [side.item() if isinstance(side, Tensor | np.generic) and side.ndim == 0 else side for side in sides]
        if all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side for side in sides) and math.prod(sides) <= MAX_PIXELS:
            return sides[0], sides[1]
    raise ValueError(
        f"target_sizes[{row}]: expected (height, width) in whole pixels, each at least 1, together at most {MAX_PIXELS}, got {size!r:.80}"
    )


def _clicks_of_row(clicks: Any, num_regions: int, frame: Placement | None, name: str) -> dict[int, tuple[Click, ...]]:
    """Clicks of those regions that have some, checked."""
    if clicks is None or not len(clicks):
        return {}
    if len(clicks) != num_regions:
        raise ValueError(f"{name}: {len(clicks)} entries for {num_regions} regions; give one per region, empty where there are none")
    if frame is None:
        raise ValueError(f"{name}: are in pixels of the image, whose size is not known; give target_sizes")
    found = {}
    for region, of_region in enumerate(clicks):
        place = f"{name}, region {region}"
        if not all(isinstance(click, Sequence) and len(click) == 3 for click in of_region):
            raise ValueError(f"{place}: expected a list of (x, y, label), got {of_region!r:.80}")
        if of_region:
            points, labels = [click[:2] for click in of_region], [click[2] for click in of_region]
            found[region] = read_clicks(points, labels, frame.target_size, place)
    return found


def _of_categories(result: Any, task: str) -> list[tuple[int, float | None, Tensor]]:
    """(category index, score, mask) of every segment."""
    if task == "semantic":
        return [(index, None, result == index) for index in result.unique().tolist()]
    segmentation, infos = result["segmentation"], result["segments_info"]
    masks = segmentation if task == "instance" else [segmentation == info["id"] for info in infos]
    return [(info["label_id"], info["score"], mask) for info, mask in zip(infos, masks, strict=True)]


def _of_expression(result: Any) -> list[tuple[float, Tensor]]:
    """(score, mask) of every instance; of all together, where instances were not asked for."""
    if "boxes" in result:
        return list(zip(result["scores"].tolist(), result["masks"], strict=True))
    return [] if result["no_target"] else [(result["score"], result["segmentation"])]


def _coco_rles(masks: Tensor) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    rles = []
    for mask in masks:
        rle = coco.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
        rles.append({"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")})
    return rles
