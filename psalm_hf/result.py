"""Predictions about one image, to look at and to work with: `PsalmResult`, and the prompt that led to them.

N instances (of a semantic map: categories), (H, W) the size of the image as given.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from .structures import CONVERSATION, REGION, SENTENCE

# Imports inside of functions: pycocotools, datasets and drawing are loaded where they are used, not with the package.

_TASKS = {SENTENCE: "referring", REGION: "interactive", CONVERSATION: "conversation"}  # categories have a task of their own
_FIRST = 8  # instances that are named when a result is printed


@dataclass(frozen=True)
class Prompt:
    """One kind of prompt on an image, with complete thresholds.

    Attributes:
        kind: "category", "sentence", "region" or "conversation".
        names: categories, expressions, or how the regions are called; the label ids of a result count them. The last question of a
            conversation.
        task: of categories: "panoptic", "semantic" or "instance".
        stuff: those of the categories whose segments are fused.
        regions: as the processor takes them; a mask may be the path of an image.
        instances: every instance of an expression by itself.
        threshold: least score of an instance; None = the best one, whatever its score.
        mask_threshold: least probability of a pixel of a mask.
        no_target_threshold: of expressions, which mean nothing unless a mask scores above it; None = they always mean something.
        zoom: "auto" = what is small was asked again in enlarged crops.
        tiles: in which a large image was asked too: pixels along a tile, or (rows, columns).
    """

    kind: str
    names: tuple[str, ...]
    task: str | None = None
    stuff: tuple[str, ...] = ()
    regions: tuple[Mapping[str, Any], ...] = ()
    instances: bool = False
    threshold: float | None = None
    mask_threshold: float = 0.5
    no_target_threshold: float | None = None
    zoom: Literal["auto"] | None = None
    tiles: int | tuple[int, int] | None = None


class FoundInstance(NamedTuple):
    """One instance of a result; the fields are those of `PsalmResult`, in the singular."""

    mask: np.ndarray
    box: np.ndarray
    score: float
    label: str
    label_id: int
    phrase: str
    area: int


@dataclass(frozen=True, eq=False)
class PsalmResult:
    """Everything that one prompt found in one image, in numpy. Masks, boxes, scores, labels, ids, phrases and areas have one entry per
    instance, in the same order.

        len(result); result.masks; result.boxes; result.labels     # columns
        for one in result: one.label, one.score, one.mask           # instances
        result[result.scores > 0.9]                                 # a result again, of some of them

    Attributes:
        image: RGB, upright.
        prompt: what was asked.
        masks: (N, H, W) bool.
        scores: (N,) float in [0, 1]; NaN in a semantic map, which has none.
        label_ids: (N,) int64, index into the names of the prompt.
        text: the answer to a question, else None.
        note: what a user must know about this result, else None.
        source: path or URL of the image, if it was given as one.
        checkpoint: name of the checkpoint, if it is known.
        absent: expressions that mean nothing in the image -> score of the mask that comes closest.
    """

    image: Image.Image
    prompt: Prompt
    masks: np.ndarray
    scores: np.ndarray
    label_ids: np.ndarray
    text: str | None = None
    note: str | None = None
    source: str | None = None
    checkpoint: str | None = None
    absent: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def labels(self) -> list[str]:
        """N names: the category, the expression, or the kind of the region."""
        if self.prompt.kind == REGION:
            return [region_kind(self.prompt.regions[index]) for index in self.label_ids]
        return self.phrases

    @cached_property
    def phrases(self) -> list[str]:
        """N texts, the part of the prompt that each instance came from."""
        return [self.prompt.names[index] for index in self.label_ids]

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, 4) float x0, y0, x1, y1 along the edges of pixels; zeros around an empty mask."""
        from .masks import box_from_bitmap

        return np.array([box_from_bitmap(mask) for mask in self.masks], dtype=np.float64).reshape(-1, 4)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) int64, pixels of each mask."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[FoundInstance]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, chosen: Any) -> Any:
        """A `FoundInstance` for a number; a result for a slice, a list of numbers or an (N,) bool array."""
        if isinstance(chosen, (int, np.integer)):
            columns = (self.masks, self.boxes, self.scores, self.labels, self.label_ids, self.phrases, self.areas)
            mask, box, score, label, label_id, phrase, area = (column[chosen] for column in columns)
            return FoundInstance(mask, box, float(score), label, int(label_id), phrase, int(area))
        chosen = chosen if isinstance(chosen, slice) else np.asarray(chosen, dtype=None if len(chosen) else np.int64)
        return replace(self, masks=self.masks[chosen], scores=self.scores[chosen], label_ids=self.label_ids[chosen])

    def __str__(self) -> str:
        """One line."""
        note = f" [{self.note}]" if self.note else ""
        if self.text is not None:
            return f"{self.text}{note}"
        named = [
            label if math.isnan(score) else f"{label} {score:.2f}"
            for label, score in zip(self.labels[:_FIRST], self.scores[:_FIRST], strict=True)
        ]
        if len(self) > _FIRST:
            named.append(f"and {len(self) - _FIRST} more")
        number = f"{len(self)} {'instance' if len(self) == 1 else 'instances'}" if len(self) else "nothing"
        size = f"{self.image.width} x {self.image.height} image"
        return f"{number} in a {size}{': ' * bool(named)}{', '.join(named)}{note}"

    def __repr__(self) -> str:
        return f"PsalmResult({self})"

    # To look at

    def plot(self, *, color_by: Literal["class", "instance"] = "class", note: str | None = None) -> Image.Image:
        """The image with masks, labels, prompts and a legend, see `draw_segmentation`.

        Args:
            color_by: "class" = shades of one colour for a label, the same in every image that is asked for the same names; "instance" =
                a colour for every instance.
            note: a sentence above the legend; default the note of the result.

        Returns:
            RGB image.

        Raises:
            ValueError: unknown `color_by`.
        """
        from .visualization import draw_segmentation, label_colors

        has_colors = color_by == "class" and not self.prompt.regions
        return draw_segmentation(
            self.image,
            self.masks,
            self.phrases,
            None if np.isnan(self.scores).any() else self.scores.tolist(),
            colors=label_colors(self.prompt.names) if has_colors else None,
            color_by=color_by,
            prompts=[loaded_region(self.prompt.regions[index]) for index in self.label_ids] if self.prompt.regions else (),
            note=self.note if note is None else note,
        )

    def show(self, **options: Any) -> None:
        """Shows `plot(**options)` on the screen; in a notebook, below the cell."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            get_ipython = None
        if get_ipython is not None and get_ipython() is not None:
            display(self.plot(**options))
        else:
            self.plot(**options).show()

    def save(self, path: str | Path, overlay: Image.Image | None = None) -> tuple[Path, Path]:
        """Writes an overlay (PNG) and the record (JSON, see `as_record`), as `psalm segment` does; each whole or not at all.

        Args:
            path: see `result_paths`.
            overlay: the image to write; default `plot()`.

        Returns:
            The two paths.

        Raises:
            ValueError: one of them is the image itself, or a mask of the prompt.
        """
        from .writing import write_file, write_json

        masks = [region["mask"] for region in self.prompt.regions if isinstance(region.get("mask"), (str, Path))]
        paths = result_paths(path, ([] if self.source is None else [self.source]) + masks)
        overlay = self.plot() if overlay is None else overlay
        write_file(paths[0], lambda file: overlay.save(file, format="PNG"))
        write_json(paths[1], self.about() | self.as_record(), indent=1)
        return paths

    def about(self) -> dict[str, Any]:
        """The beginning of the record: image, its (height, width), and the checkpoint."""
        return {"image": self.source, "image_size": [self.image.height, self.image.width], "checkpoint": self.checkpoint}

    def as_record(self) -> dict[str, Any]:
        """The result without the image, as JSON can hold it: masks are COCO run-length codes, boxes x0, y0, x1, y1 along pixel edges."""
        from .masks import rle_from_bitmap

        prompt = self.prompt
        task = prompt.task or _TASKS[prompt.kind]
        note = {} if self.note is None else {"note": self.note}
        if prompt.kind == CONVERSATION:
            return {"task": task, "prompt": {"question": prompt.names[0]}, "answer": self.text, **note}
        asked: dict[str, Any] = {"expressions" if prompt.kind == SENTENCE else "categories": list(prompt.names)}
        thresholds: dict[str, Any] = {"threshold": prompt.threshold}
        thresholds["mask_threshold"] = None if task == "semantic" else prompt.mask_threshold
        absent = {}
        if prompt.kind == SENTENCE:
            thresholds["no_target_threshold"] = prompt.no_target_threshold
            absent["no_target"] = list(self.absent)
            absent |= {"instances": True} if prompt.instances else {}
        if prompt.kind == REGION:
            asked = {"regions": [_plain_region(region) for region in prompt.regions]}
        segments = [
            {
                "label": one.phrase,
                "label_id": one.label_id,
                "score": None if math.isnan(one.score) else one.score,
                "box": [int(edge) for edge in one.box],
                "area": one.area,
                "mask": rle_from_bitmap(one.mask),
            }
            for one in self
        ]
        return {
            "task": task,
            "prompt": asked,
            "stuff": list(prompt.stuff),
            "thresholds": _plain_numbers(thresholds),
            **{name: value for name, value in (("zoom", prompt.zoom), ("tiles", prompt.tiles)) if value is not None},
            **absent,
            "segments": segments,
            **note,
        }

    # To work with elsewhere

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The entries of a COCO results file about this image, as `pycocotools.COCO.loadRes` takes a list of them.

        Args:
            image_id: of the dataset.
            category_ids: the dataset's id of each name of the prompt; default 1, 2, ...

        Returns:
            Per instance `{"image_id", "category_id", "segmentation": compressed RLE, "bbox": [x, y, width, height], "area", "score"}`. A
            semantic map, which has no scores, gets 1.

        Raises:
            ValueError: another number of ids than of names.
        """
        from .masks import rle_from_bitmap

        ids = range(1, len(self.prompt.names) + 1) if category_ids is None else category_ids
        if len(ids) != len(self.prompt.names):
            raise ValueError(f"category_ids: expected one for each of the {len(self.prompt.names)} names of the prompt, got {len(ids)}")
        entries = []
        for one in self:
            x0, y0, x1, y1 = map(float, one.box)
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": int(ids[one.label_id]),
                    "segmentation": rle_from_bitmap(one.mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": one.area,
                    "score": 1.0 if math.isnan(one.score) else one.score,
                }
            )
        return entries

    def to_labelme(self, image_path: str | None = None) -> dict[str, Any]:
        """The content of a JSON file of Labelme, one shape of the type "mask" per instance: every pixel, with holes and parts. An instance
        without a pixel, which Labelme cannot hold, has no shape.

        Args:
            image_path: of the image, as seen from the file; None = the image itself is put into the file, as PNG.
        """
        shapes = []
        for one in self:
            if one.area:
                x0, y0, x1, y1 = map(int, one.box)
                shapes.append(
                    {
                        "label": one.phrase,
                        "points": [[x0, y0], [x1 - 1, y1 - 1]],  # both pixels belong to the mask
                        "group_id": None,
                        "description": "" if math.isnan(one.score) else f"{one.score:.4f}",
                        "shape_type": "mask",
                        "flags": {},
                        "mask": base64_png(Image.fromarray(one.mask[y0:y1, x0:x1].astype(np.uint8) * 255)),
                    }
                )
        return {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": "image.png" if image_path is None else image_path,
            "imageData": base64_png(self.image) if image_path is None else None,
            "imageHeight": self.image.height,
            "imageWidth": self.image.width,
        }

    def to_yolo(self) -> str:
        """The text file of YOLO about this image: per instance a line with its label id and the x, y of its outline, as shares of the width
        and the height. The outline runs along the edges of pixels; holes and parts are joined by lines to and fro, which enclose
        nothing, so that the mask that is read back is the same. An instance without a pixel has no line."""
        height, width = self.masks.shape[1:]
        lines = []
        for one in self:
            corners = _single_outline(one.mask)
            if corners:
                shares = (f"{value / (height if index % 2 else width):.10g}" for index, value in enumerate(corners))
                lines.append(f"{one.label_id} {' '.join(shares)}\n")
        return "".join(lines)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per instance: label, label_id, phrase, score, x0, y0, x1, y1, area; without masks."""
        import pandas

        x0, y0, x1, y1 = self.boxes.T
        columns = {"label": self.labels, "label_id": self.label_ids, "phrase": self.phrases, "score": self.scores}
        return pandas.DataFrame(columns | {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "area": self.areas})

    def to_supervision(self) -> Any:
        """A `supervision.Detections`: xyxy, mask, confidence (None in a semantic map), class_id, and the labels as `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision; pip install 'psalm_hf[supervision]'") from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=None if np.isnan(self.scores).any() else self.scores,
            class_id=self.label_ids,
            data={"class_name": np.array(self.labels, dtype=str)},
        )


def base64_png(image: Image.Image) -> str:
    """An image as the base64 text of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _single_outline(mask: np.ndarray) -> list[int]:
    """One polygon [x0, y0, x1, y1, ...] of a mask (H, W): its polygons, each followed by the way back to the start of the first."""
    from .masks import polygons_from_bitmap

    polygons = polygons_from_bitmap(mask)
    if len(polygons) < 2:
        return [value for polygon in polygons for value in polygon]
    start = polygons[0][:2]
    return [value for polygon in polygons for value in (*start, *polygon, *polygon[:2])] + start


def region_name(region: Mapping[str, Any]) -> str:
    """A region in a few words, such as "point 88,23"."""
    kind = region_kind(region)
    value = region.get(kind)
    if isinstance(value, (str, Path)):
        return f"{kind} {Path(value).name}"
    is_coordinates = isinstance(value, Sequence) or (isinstance(value, np.ndarray) and kind != "mask" and value.dtype.kind == "f")
    if not is_coordinates:
        return kind
    numbers = np.asarray(value, dtype=float).reshape(-1)
    if kind == "scribble":
        return f"scribble from {numbers[0]:g},{numbers[1]:g}"
    return f"{kind} {','.join(f'{number:g}' for number in numbers)}"


def region_kind(region: Mapping[str, Any]) -> str:
    """The kinds of prompt that a region is made of: "point", or several with a plus between them."""
    return "+".join(name for name in region if name != "labels")


def result_paths(output: str | Path, inputs: Iterable[str | Path] = ()) -> tuple[Path, Path]:
    """Paths of the overlay (PNG) and of the record (JSON) of a result.

    Args:
        output: prefix of both, or the name of either; or a folder that exists or ends with a slash, in which they are `segmented.png` and
            `segmented.json`.
        inputs: files that they may not overwrite.

    Raises:
        ValueError: one of them is an input.
    """
    is_folder = str(output).endswith(("/", "\\")) or Path(output).is_dir()
    prefix = Path(output, "segmented") if is_folder else str(output).removesuffix(".png").removesuffix(".json")
    paths = Path(f"{prefix}.png"), Path(f"{prefix}.json")
    for name in inputs:
        if Path(name).resolve() in [path.resolve() for path in paths]:
            raise ValueError(f"{prefix}: would overwrite the image {name}; choose another prefix")
    return paths


def read_mask_file(path: str | Path) -> np.ndarray:
    """(H, W) bool: the pixels of an image that are not black, and not transparent either.

    Raises:
        OSError: no such file, or no image.
    """
    from .bounded_files import open_image_file

    with open_image_file(path) as file:
        # Numbers that are no shares of 255 are looked at themselves: to Pillow's "L" those of a probability, below 1, are all black.
        is_set = np.asarray(file if file.mode == "F" else file.convert("L")) > 0
        if file.has_transparency_data:  # what is transparent is not drawn, whatever colour hides there
            is_set &= np.asarray(file.convert("RGBA"))[..., 3] > 0
        return is_set


def loaded_region(region: Mapping[str, Any]) -> Mapping[str, Any]:
    """The region as the processor takes it: a mask that is the path of an image is read."""
    mask = region.get("mask") if isinstance(region, Mapping) else None
    return {**region, "mask": read_mask_file(mask)} if isinstance(mask, (str, Path)) else region


def _plain_region(region: Mapping[str, Any]) -> dict[str, Any]:
    """The region as JSON can hold it: a mask is its path, or a COCO run-length code."""
    from .masks import rle_from_bitmap

    plain = {}
    for kind, value in region.items():
        if isinstance(value, (str, Path)):
            value = str(value)
        elif not isinstance(value, (Sequence, Mapping)):
            array = np.asarray(value)
            # As the processor reads them: all other arrays are coordinates, of whatever numbers.
            is_bitmap = isinstance(value, Image.Image) or (array.ndim == 2 and array.dtype in (np.bool_, np.uint8))
            value = rle_from_bitmap(array) if kind == "mask" or is_bitmap else array.tolist()
        plain[kind] = _plain_numbers(value)
    return plain


def _plain_numbers(value: Any) -> Any:
    """The value with numbers of Python in the place of numpy's, which JSON does not hold."""
    if isinstance(value, Mapping):
        return {name: _plain_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
