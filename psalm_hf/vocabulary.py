"""Vocabularies that do not fit into one prompt: the categories are divided among several prompts on the same image, whose outputs are
joined into one. See docs/label_lists.md.

K categories of the vocabulary, N prompts, Q mask queries of one prompt, (h, w) the resolution of the masks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .model.modeling_psalm import PsalmSegmentationOutput
from .model.processing_psalm import PsalmInputs
from .model.prompts import BACKGROUND_NAME, CATEGORY
from .model.rows import EncodedImage, RowInfo
from .model.segmentations import FoundSegment
from .structures import CATEGORY as CATEGORY_KIND
from .structures import Sample

# What post-processing reads of a row.
ROW_TENSORS = (
    "masks_queries_logits",
    "class_queries_logits",
    "referring_queries_logits",
    "region_queries_logits",
    "num_conditions",
    "condition_type",
    "image_index",
)
KEPT_VOCABULARIES = 8
WHOLE_VOCABULARY = 16384  # tokens: more than any vocabulary of a benchmark has


def split_names(processor: Any, names: Sequence[str], *, task: str = "panoptic", prompt_style: str | None = None) -> list[list[str]]:
    """Divides the names of a vocabulary among as few prompts as its processor's `max_length` allows.

    Names keep their order. Among the divisions into that many parts it is one whose longest prompt is as short as possible.

    Args:
        processor: a `PsalmProcessor`.
        names: of the categories, without "background", which every prompt gets as its last.
        task, prompt_style: of the prompts, as in a call of the processor.

    Returns:
        The names of each prompt; one list of all names where they fit.

    Raises:
        ValueError: a name that is too long for a prompt of its own; whatever the processor refuses, such as a name that occurs twice.
    """
    frame, lengths = _token_counts(processor, names, task, prompt_style)
    room = processor.max_length - frame
    longest = max(lengths)
    if longest > room:
        raise ValueError(
            f"category {names[lengths.index(longest)]!r} takes {longest} of the {processor.max_length} tokens of a prompt (max_length), "
            f"and what stands around it takes {frame}; shorten the name"
        )
    fewest = len(_fill(lengths, room))
    # The smallest room that still gives this many parts; between `longest` and `room` more room never gives more parts.
    low, high = longest, room
    while low < high:
        middle = (low + high) // 2
        if len(_fill(lengths, middle)) > fewest:
            low = middle + 1
        else:
            high = middle
    return [[names[position] for position in part] for part in _fill(lengths, high)]


def _token_counts(processor: Any, names: Sequence[str], task: str, prompt_style: str | None) -> tuple[int, list[int]]:
    """Tokens of a prompt with these names: those that do not depend on the names, and those of each name with its separator.

    The processor itself is asked, so that nothing here knows how a prompt is written.
    """

    def encode(some: Sequence[str]) -> torch.Tensor:
        inputs = processor.encode_prompt(categories=list(some), task=task, prompt_style=prompt_style, max_length=sys.maxsize)
        return inputs["condition_index"][0].bincount()  # of no category, of each in its order, of "background"

    counts, of_one = encode(names).tolist(), encode(names[:1]).tolist()
    if len(counts) != len(names) + 2:
        raise ValueError(f"{names[-1]!r} is a category of no vocabulary, because every prompt ends in it; leave it out")
    separator = (counts[0] - of_one[0]) // max(len(names) - 1, 1)  # one more per name, all of the same length
    return of_one[0] + of_one[-1] - separator, [count + separator for count in counts[1:-1]]


def _fill(lengths: Sequence[int], room: int) -> list[range]:
    """Consecutive positions, each part filled up to `room` before the next begins; no length is above it."""
    parts, first, used = [], 0, 0
    for position, length in enumerate(lengths):
        if used + length > room:
            parts.append(range(first, position))
            first, used = position, 0
        used += length
    return [*parts, range(first, len(lengths))]


class Vocabularies:
    """Rows about images for lists of categories of any length: what does not fit into one prompt is several rows.

    A list that comes again is neither divided nor, where it is the only prompt, tokenised again; the lists used last are kept.

    Args:
        processor: a `PsalmProcessor`.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        # Replaced, never changed: threads read them without a lock, and worker processes get copies.
        self._parts: dict[Any, list[list[str]]] = {}
        self._rows: dict[Any, PsalmInputs] = {}

    def parts(self, names: Sequence[str], task: str) -> list[list[str]]:
        """Names, which may end in "background", in one list if they fit into one prompt, else as `split_names` divides them.

        Raises:
            ValueError: whatever the processor refuses; see also `split_names`.
        """
        key = self._key(names, task)
        if key not in self._parts:
            length = self.processor.encode_prompt(categories=names, task=task, max_length=sys.maxsize)["input_ids"].shape[1]
            parts = [list(names)]
            if length > self.processor.max_length:
                ends_in_background = names[-1].strip().lower() == BACKGROUND_NAME
                parts = split_names(self.processor, names[:-1] if ends_in_background else names, task=task)
            self._parts = _with_newest(self._parts, key, parts)
            return parts
        return self._parts[key]

    def rows(self, image: Any, *, task: str, categories: Sequence[str] | None = None, **prompts: Any) -> PsalmInputs:
        """A call of the processor about one image. The rows of further parts of the categories follow all others.

        Args:
            prompts: expressions, regions and region_images of the image.

        Raises:
            ValueError: whatever the processor refuses; see also `split_names`.
        """
        parts = [] if categories is None else self.parts(categories, task)
        if len(parts) < 2:
            return self.processor(images=image, categories=categories, task=task, return_tensors="pt", **prompts)
        prompts = {name: [value] if isinstance(value, str) else value for name, value in prompts.items()}
        per_image = {name: [value, *[None] * (len(parts) - 1)] for name, value in prompts.items()}
        return self.processor(images=[image] * len(parts), categories=parts, task=task, return_tensors="pt", **per_image)

    def encoded_rows(self, image_sizes: Sequence[tuple[int, int]], names: Sequence[str], task: str) -> PsalmInputs:
        """The rows of the same categories alone about images whose features are there, those of an image together.

        Args:
            image_sizes: (width, height) of each image.
        """
        key = self._key(names, task)
        if key not in self._rows:
            rows = self.rows(EncodedImage(image_sizes[0]), categories=names, task=task)
            self._rows = _with_newest(self._rows, key, rows)
        else:
            rows = self._rows[key]
        number = len(rows.row_info)
        data = {name: tensor.repeat(len(image_sizes), *[1] * (tensor.dim() - 1)) for name, tensor in rows.data.items()}
        data["image_index"] = torch.arange(len(image_sizes)).repeat_interleave(number)
        data["original_sizes"] = torch.tensor([size[::-1] for size in image_sizes for _ in range(number)])
        return PsalmInputs(data, tuple(replace(info, image=image) for image in range(len(image_sizes)) for info in rows.row_info))

    def _key(self, names: Sequence[str], task: str) -> tuple[Any, ...]:
        return tuple(map(str, names)), task, self.processor.max_length, self.processor.prompt_style


def _with_newest(kept: dict[Any, Any], key: Any, value: Any) -> dict[Any, Any]:
    """A copy with one more entry, and without the oldest if there are too many."""
    return dict([*kept.items(), (key, value)][-KEPT_VOCABULARIES:])


def segments_of_parts(processor: Any, outputs: Any, rows: Sequence[RowInfo], target_sizes: Any, **options: Any) -> list[list[FoundSegment]]:
    """Segments of rows about one image, as `processor.find_segments` gives them, where the rows of categories are parts of one vocabulary.

    Args:
        outputs: of these rows.
        rows, target_sizes, options: see `find_segments`.

    Returns:
        Per row its segments. Those of the whole vocabulary are in the list of its first part; their indices count all names.
    """
    parts = [index for index, row in enumerate(rows) if row.kind == CATEGORY_KIND]
    if len(parts) < 2:
        return processor.find_segments(outputs, rows, target_sizes, **options)
    joined = join_outputs(rows_of(outputs, parts), len(parts), decoupled=processor.num_queries > 0)
    names = tuple(name for index in parts for name in rows[index].conditions[:-1])
    whole = RowInfo(rows[parts[0]].image, CATEGORY_KIND, (*names, rows[parts[0]].conditions[-1]))
    sizes = target_sizes.tolist() if isinstance(target_sizes, torch.Tensor) else target_sizes
    (segments,) = processor.find_segments(joined, [whole], [sizes[parts[0]]], **options)
    others = [index for index in range(len(rows)) if index not in parts]
    found: list[list[FoundSegment]] = [[] for _ in rows]
    found[parts[0]] = segments
    if others:
        of_others = processor.find_segments(
            rows_of(outputs, others), [rows[index] for index in others], [sizes[index] for index in others], **options
        )
        for index, segments in zip(others, of_others, strict=True):
            found[index] = segments
    return found


def rows_of(outputs: Any, indices: Sequence[int]) -> PsalmSegmentationOutput:
    """The outputs of some rows of a batch, as far as post-processing reads them."""
    if list(indices) == list(range(indices[0], indices[-1] + 1)):
        chosen: Any = slice(indices[0], indices[-1] + 1)  # a view
    else:
        chosen = torch.tensor(indices, device=outputs.condition_type.device)
    tensors = {name: outputs[name][chosen] for name in ROW_TENSORS if outputs.get(name) is not None}
    return PsalmSegmentationOutput(**tensors)


def split_samples(samples: Sequence[Sample], chunks: Sequence[Sequence[str]]) -> list[Sample]:
    """Every sample once per part of its vocabulary, and only what is asked about it: N rows of the first sample, then of the next.

    Args:
        chunks: as `split_names` gives them for the names of these samples' categories.

    Raises:
        ValueError: a sample with other categories.
    """
    rows = []
    for sample in samples:
        if list(sample.categories.values()) != [name for chunk in chunks for name in chunk]:
            raise ValueError(f"image {sample.image_id}: its categories are not those that were divided; divide one vocabulary at a time")
        entries = iter(sample.categories.items())
        for chunk in chunks:
            rows.append(replace(sample, categories=dict(next(entries) for _ in chunk), segments=()))
    return rows


def join_outputs(outputs: PsalmSegmentationOutput, num_chunks: int, *, decoupled: bool = True) -> PsalmSegmentationOutput:
    """The outputs of N prompts on the parts of a vocabulary as those of one prompt on all of it.

    The queries of all parts stand side by side. A query has class logits for the categories of its own part, at their places in the
    vocabulary, and for "background", its own part's; for the categories of other parts it has minus infinity.

    Args:
        outputs: of rows as `split_samples` makes them, `num_chunks` consecutive ones per image.
        num_chunks: N.
        decoupled: the model's `decouple_masks`. Without, a row's queries are its categories; those beyond are padding and left out.

    Returns:
        One row per image: `masks_queries_logits` (B, N * Q, h, w), `class_queries_logits` (B, N * Q, K + 1), `num_conditions` K + 1,
        `condition_type` and `image_index`. All rows have the same K. With N = 1 the values are those that were given.

    Raises:
        ValueError: rows that are no whole number of images, or are of another kind than categories; images of different vocabularies.
    """
    num_rows = len(outputs.condition_type)
    if num_chunks < 1 or num_rows % num_chunks or outputs.class_queries_logits is None or bool((outputs.condition_type != CATEGORY).any()):
        raise ValueError(
            f"expected category rows, {num_chunks} per image, got {num_rows} rows of the kinds {outputs.condition_type.tolist()}"
        )
    sizes = (outputs.num_conditions - 1).view(-1, num_chunks)  # (B, N) categories of each part
    if bool((sizes != sizes[0]).any()):
        raise ValueError(f"images of a batch are divided into parts of different sizes: {sizes.tolist()}; ask all about one vocabulary")
    sizes = sizes[0].tolist()
    masks, classes = outputs.masks_queries_logits, outputs.class_queries_logits
    masks = masks.unflatten(0, (-1, num_chunks))  # (B, N, Q, h, w)
    classes = classes.unflatten(0, (-1, num_chunks))  # (B, N, Q, K_max + 1)
    num_queries = [masks.shape[2] if decoupled else size for size in sizes]
    joined = classes.new_full((len(classes), sum(num_queries), sum(sizes) + 1), float("-inf"))
    query = category = 0
    for chunk, (queries, size) in enumerate(zip(num_queries, sizes, strict=True)):
        rows = slice(query, query + queries)
        joined[:, rows, category : category + size] = classes[:, chunk, :queries, :size]
        joined[:, rows, -1] = classes[:, chunk, :queries, -1]
        query, category = query + queries, category + size
    return PsalmSegmentationOutput(
        masks_queries_logits=torch.cat([masks[:, chunk, :queries] for chunk, queries in enumerate(num_queries)], dim=1),
        class_queries_logits=joined,
        num_conditions=outputs.num_conditions.new_full((len(classes),), sum(sizes) + 1),
        condition_type=outputs.condition_type[::num_chunks],
        image_index=outputs.image_index[::num_chunks],
    )


def lengthen_context(model: Any, processor: Any, length: int = WHOLE_VOCABULARY) -> None:
    """Lets prompts be longer than the language model was trained on, as the released code does without a check.

    Only where positions are rotations, which go on without end. What the model makes of them is another question.

    Raises:
        ValueError: the language model has a table of positions.
    """
    tables = [name for name, _ in model.model.language_model.named_parameters() if "position" in name or name.startswith("wpe")]
    if tables:
        raise ValueError(f"the language model has a table of positions ({tables[0]}), which ends; divide the vocabulary")
    processor.max_length = model.config.text_config.max_position_embeddings = length
