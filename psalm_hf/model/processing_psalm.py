"""PsalmProcessor: an image and a condition -> the tensors of `PsalmForSegmentation.forward`, and its outputs -> segmentations.

A row is one prompt on one image. B rows, I images, T tokens, G image tokens, K categories, R regions, N target masks, S the side
of the padded input; (H, W) the size of an image as given.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AddedToken, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

# Always `from .module import names`: the files pushed with a checkpoint are found by this form only.
from .convert_psalm_checkpoint import locate_checkpoint, locate_original_folder
from .image_processing_psalm import Frame, PsalmImageProcessor, Size, load_image, place_mask, place_polygons, read_bitmap
from .postprocessing import binary_masks, merge_panoptic, referring_scores, region_scores, semantic_map, top_instances
from .prompts import (
    CHAT_TEMPLATE,
    HUMAN_TURNS,
    IGNORED_LABEL,
    IMAGE_TOKEN,
    MASK_QUERY_TOKEN,
    PAD_TOKEN,
    PLACEHOLDERS,
    SEG_TOKEN,
    STYLES,
    TASKS,
    encode_row,
    plain_messages,
    prepare_tokenizer,
    tokenize_texts,
)
from .regions import PROMPT_RADII, REGION_SAMPLINGS
from .rows import KINDS, Row, RowBuilder, RowInfo, RowOptions, prompts_per_image, regions_from_sam


class PsalmInputs(BatchFeature):
    """The tensors for the model, and `row_info`: one `RowInfo` per row. It is found as an attribute and by its name, but is no item,
    so that `model(**inputs)` passes tensors only."""

    def __init__(self, data: dict[str, Any] | None = None, row_info: Sequence[RowInfo] = ()):
        super().__init__(data)
        self.row_info = tuple(row_info)

    def __getitem__(self, item: Any) -> Any:
        return self.row_info if item == "row_info" else super().__getitem__(item)

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "row_info": self.row_info}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self.row_info = state["row_info"]


class PsalmProcessor(ProcessorMixin):
    """Prepares images and prompts, and post-processes predictions.

    Args:
        image_processor: resizes, pads and normalises images.
        tokenizer: with an end-of-text token; `[PAD]`, `[SEG]` and the placeholders are added to it if missing.
        prompt_style: "paper" (default for new training) or "released" (what published weights expect).
        num_queries: mask-query tokens per row, that of the model; 0 for a model with `decouple_masks=False`.
        image_grid: (rows, columns) of the image tokens of one image; G = rows * columns.
        region_sampling: "exact" (expectation of the released random draw) or "released" (256 random pixels per region).
        prompt_radii: of point prompts and of scribbles to each side of the line, in pixels of the image they are drawn on. The released
            ones are meant for photographs of 640 pixels; a model for small pictures needs smaller ones.
        max_length: positions of the language model. Nothing is ever truncated; a longer row is an error.
        chat_template: of `apply_chat_template` for text; default `CHAT_TEMPLATE`, which writes what this processor does.
        referring_threshold, no_target_threshold: what `post_process_referring_segmentation` takes unless told otherwise. None (the
            released behaviour) = the best query answers an expression, and there always is an answer. They depend on the weights:
            `psalm calibrate` finds those of a checkpoint.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        image_processor: PsalmImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        prompt_style: str = "paper",
        num_queries: int = 100,
        image_grid: tuple[int, int] = (16, 16),
        region_sampling: str = "exact",
        prompt_radii: tuple[int, int] = PROMPT_RADII,
        max_length: int = 2048,
        chat_template: str | None = None,
        referring_threshold: float | None = None,
        no_target_threshold: float | None = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=CHAT_TEMPLATE if chat_template is None else chat_template)
        if prompt_style not in HUMAN_TURNS:
            raise ValueError(f"prompt_style: expected one of {', '.join(HUMAN_TURNS)}, got {prompt_style!r}")
        if region_sampling not in REGION_SAMPLINGS:
            raise ValueError(f"region_sampling: expected one of {', '.join(REGION_SAMPLINGS)}, got {region_sampling!r}")
        if len(prompt_radii) != 2 or min(prompt_radii) < 0:
            raise ValueError(f"prompt_radii: expected (of points, of scribbles), each at least 0 pixels, got {prompt_radii!r}")
        if len(image_grid) != 2 or min(image_grid) < 1:
            raise ValueError(f"image_grid: expected (rows, columns), each at least 1, got {image_grid!r}")
        if num_queries < 0 or max_length < 1:
            raise ValueError(f"expected num_queries >= 0 and max_length >= 1, got {num_queries} and {max_length}")
        _check_score(referring_threshold, "referring_threshold")
        _check_score(no_target_threshold, "no_target_threshold")
        if tokenizer.eos_token is None:
            raise ValueError("tokenizer: has no eos_token, with which every prompt ends; set it to the end-of-text token")
        self.prompt_style = prompt_style
        self.num_queries = num_queries
        self.image_grid = tuple(image_grid)
        self.region_sampling = region_sampling
        self.prompt_radii = tuple(prompt_radii)
        self.max_length = max_length
        self.referring_threshold = referring_threshold
        self.no_target_threshold = no_target_threshold
        prepare_tokenizer(tokenizer)
        self.image_token_id, self.region_token_id, self.mask_query_token_id = tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> PsalmProcessor:
        """Loads a processor as usual; also "psalm-tiny", and an ORIGINAL PSALM folder or Hub id (`processor_from_original_folder`)."""
        pretrained_model_name_or_path = locate_checkpoint(pretrained_model_name_or_path)
        try:
            folder = locate_original_folder(pretrained_model_name_or_path, kwargs, ["*.json", "*.txt"])
        except OSError:  # a processor saved alone has no config.json
            folder = None
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        names = (
            "prompt_style", "num_queries", "image_grid", "region_sampling", "prompt_radii", "max_length", "referring_threshold",
            "no_target_threshold",
        )  # fmt: skip
        return processor_from_original_folder(folder, **{name: kwargs[name] for name in names if name in kwargs})

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids", "attention_mask", "pixel_values", "image_index", "condition_index", "condition_type", "region_weights",
            "region_image_index", "region_pixel_values", "mask_labels", "class_labels", "labels", "original_sizes",
        ]  # fmt: skip

    # Images and prompts -> tensors

    def __call__(
        self,
        images: Any = None,
        categories: Sequence | None = None,
        expressions: Sequence | str | None = None,
        regions: Sequence | Mapping | None = None,
        region_images: Any = None,
        conversations: Sequence | None = None,
        *,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        targets: Sequence[Mapping | None] | Mapping | None = None,
        task: str = "panoptic",
        prompt_style: str | None = None,
        add_background: bool = True,
        shuffle_categories: bool = False,
        seed: int | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        return_tensors: str = "pt",
        return_assistant_tokens_mask: bool = False,
    ) -> PsalmInputs:
        """Builds a batch of rows.

        Args:
            images: one image, or a list in which None stands for "no image" (conversations only). PIL, (H, W, 3) uint8 array or
                (3, H, W) tensor, see `to_rgb`; never rotated.
            categories, expressions, regions, conversations: a list over the images (None where an image has none of that kind),
                or the bare entry if there is one image. An entry is, in this order: a list of names (one row); a list of
                expressions (one row each; an expression that is a list of sentences is ONE row, and with a single bare image the
                outer list is always the entry); a list of region dictionaries (one row, see `region_mask`); a list of messages
                `{"role": "user" | "assistant", "content": str}` (one row; a message of the role "system" may go in front).
            region_images: the image that an entry's regions are drawn on, if not its own, or a list of one image (or None) per
                region. Coordinates and masks are then in pixels of that image.
            input_points: as SAM, [image][object][point][x, y]; every object becomes a region.
            input_labels: [image][object][point], all 1: there are no background points.
            input_boxes: [image][object][4]; every box becomes a region. Not together with `input_points`.
            targets: one entry per ROW, None for conversations. `masks` at the size of the row's image: (N, H, W) array or tensor,
                or a list of bitmaps, RLEs or polygon lists. `class_labels` (N,) for category rows: indices into the categories as
                given. For regions N = R, in their order.
            task: "panoptic", "semantic" or "instance": the instruction of category rows.
            prompt_style: "paper", "released", or "plain" (an image and one assistant message, the caption); default that of the
                processor.
            add_background: append "background" to the categories unless they end in it. False: the last category given is what
                stands for "no object" and gets no segment.
            shuffle_categories: write the categories in random order (training); outputs keep the order given.
            seed: of the shuffle and of `region_sampling="released"`; default Python's and torch's global generators.
            padding: True = to the longest row, "max_length", or False = rows must have equal length.
            padding_side: default left if a row awaits an answer of the language model, else right.
            max_length: a longer row is an error; default that of the processor.
            return_tensors: "pt".
            return_assistant_tokens_mask: also `assistant_masks` (B, T) int64, 1 where the assistant speaks, in earlier turns too. The
                model takes no such argument.

        Returns:
            `input_ids`, `attention_mask`, `condition_index` (B, T) int64; `condition_type`, `image_index` (B,) int64;
            `original_sizes` (B, 2) int64, (0, 0) without image; as needed `pixel_values` (I, 3, S, S) float32; `region_weights`
            (B, R, G) float32, `region_image_index` (B, R) int64 (-1 = the row's own image) with `region_pixel_values`
            (J, 3, S, S); `labels` (B, T) int64; `mask_labels` B x (N, S, S) bool and `class_labels` B x (N,) int64 (zeros unless
            the row has categories). Rows follow the images, and within an image: categories, expressions, regions, conversation.
            The attribute `row_info` says what each row is.

        Raises:
            ValueError: naming the image, row, category or region that is wrong.
        """
        style = self.prompt_style if prompt_style is None else prompt_style
        for name, value, allowed in (
            ("task", task, TASKS),
            ("prompt_style", style, STYLES),
            ("padding", padding, (True, False, "longest", "max_length")),
            ("padding_side", padding_side, (None, "left", "right")),
            ("return_tensors", return_tensors, ("pt",)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")

        sam_regions = regions_from_sam(input_points, input_labels, input_boxes)
        if sam_regions is not None:
            if regions is not None:
                raise ValueError("regions and SAM-style prompts together; give all of them as regions")
            regions = sam_regions
        shuffler = None
        if shuffle_categories:
            shuffler = random.Random(random.getrandbits(64) if seed is None else seed)
        builder = RowBuilder(
            RowOptions(
                style=style,
                task=task,
                add_background=add_background,
                convert_rgb=self.image_processor.do_convert_rgb is not False,
                image_size=self.image_processor.image_size,
                image_grid=self.image_grid,
                region_sampling=self.region_sampling,
                prompt_radii=self.prompt_radii,
                end_of_text=self.tokenizer.eos_token,
                special_tokens=tuple(self.tokenizer.all_special_tokens),
                shuffler=shuffler,
                generator=None if seed is None else torch.Generator().manual_seed(seed),
            )
        )
        per_image = prompts_per_image(
            images,
            categories=categories,
            expressions=expressions,
            regions=regions,
            conversations=conversations,
            region_images=region_images,
        )
        for index, (image, prompts, drawn_on) in enumerate(per_image):
            builder.add_image(index, image, prompts, drawn_on)
        rows = builder.rows

        max_length = self.max_length if max_length is None else max_length
        data = self._tokens(rows, padding, padding_side, max_length, return_assistant_tokens_mask)
        data["condition_type"] = torch.tensor([KINDS.index(row.info.kind) for row in rows])
        data["image_index"] = torch.tensor([row.pixel_index for row in rows])
        data["original_sizes"] = torch.tensor([row.size for row in rows])
        if builder.pictures:
            data["pixel_values"] = self.image_processor(builder.pictures, return_tensors="pt")["pixel_values"]
        data |= self._regions(rows, builder.region_pictures)
        if targets is not None:
            data |= self._targets(rows, [targets] if isinstance(targets, Mapping) else targets)
        return PsalmInputs(data, row_info=[row.info for row in rows])

    def apply_chat_template(
        self,
        conversation: Sequence,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or a list of them, as text or as inputs of the model.

        Args:
            conversation: messages `{"role", "content"}`; a content is a text or a list of `{"type": "text", "text": ...}` and
                `{"type": "image", "image" | "url" | "path": ...}`. At most one image; it goes in front of the texts of its message.
            chat_template, **kwargs: see `ProcessorMixin.apply_chat_template`; not with `tokenize`.
            tokenize: the same as a call of this processor with the images and `conversations`, instead of text.
            return_dict: all inputs, instead of `input_ids`.
            return_tensors: "pt".
            add_generation_prompt: refuse conversations that do not end with the user's message. Nothing is added: what awaits an answer
                ends with it anyway.
            continue_final_message: end with the assistant's last message as it is, to be continued; for text only.
            return_assistant_tokens_mask: also `assistant_masks`, 1 where the assistant speaks; with `tokenize` and `return_dict`.
            processor_kwargs: further arguments of the call.

        Raises:
            ValueError: naming the conversation and message that is wrong.
        """
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise ValueError("return_assistant_tokens_mask marks tokens: it needs tokenize=True and return_dict=True")
        if not tokenize:
            return super().apply_chat_template(
                conversation,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **kwargs,
            )
        if continue_final_message:
            raise ValueError("continue_final_message writes text only: a row of tokens ends with the user's message, or the answer's end")
        if chat_template is not None or kwargs:
            given = ", ".join([*(["chat_template"] if chat_template is not None else []), *kwargs])
            raise ValueError(f"tokenize=True takes the conversation as this processor writes it, without {given}")
        is_single = len(conversation) > 0 and isinstance(conversation[0], Mapping)
        conversations = [conversation] if is_single else list(conversation)
        read = [_read_messages(messages, f"conversation {number}") for number, messages in enumerate(conversations)]
        inputs = self(
            images=[image for _, image in read],
            conversations=[messages for messages, _ in read],
            return_tensors=return_tensors,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            **(processor_kwargs or {}),
        )
        if add_generation_prompt and "labels" in inputs:
            row = int((inputs["labels"] != IGNORED_LABEL).any(dim=1).int().argmax())
            raise ValueError(f"conversation {row}: its last message is the assistant's; nothing is left to answer, end it with the user's")
        return inputs if return_dict else inputs["input_ids"]

    def _tokens(
        self, rows: Sequence[Row], padding: bool | str, padding_side: str | None, max_length: int, mark_assistant: bool
    ) -> dict[str, Tensor]:
        token_ids = tokenize_texts(self.tokenizer, (piece.text for row in rows for piece in row.pieces))
        placeholder_ids = dict(zip(PLACEHOLDERS, (self.image_token_id, self.region_token_id, self.mask_query_token_id), strict=True))
        counts = {IMAGE_TOKEN: self.image_grid[0] * self.image_grid[1], MASK_QUERY_TOKEN: self.num_queries}
        encoded = [encode_row(row.pieces, token_ids, placeholder_ids, counts) for row in rows]
        lengths = [len(row.input_ids) for row in encoded]
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if length > max_length:
                kinds = Counter(piece.text for piece in row.pieces if piece.text in PLACEHOLDERS)
                fixed = sum(counts.get(text, 1) * times for text, times in kinds.items())
                raise ValueError(
                    f"row {number} ({row.info}) has {length} tokens, of which {fixed} stand for the image, regions and mask queries, "
                    f"but at most {max_length} fit (max_length); nothing is cut off, so shorten the text or split it into several rows"
                )
        if not padding and len(set(lengths)) > 1:
            raise ValueError(f"rows have {lengths} tokens; with padding=False they need equal lengths")
        width = max_length if padding == "max_length" else max(lengths)
        if padding_side is None:
            padding_side = "left" if any(row.awaits_answer for row in rows) else "right"

        input_ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        condition_index = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        assistant_masks = torch.zeros_like(input_ids)
        for number, (row, code) in enumerate(zip(rows, encoded, strict=True)):
            start = width - lengths[number] if padding_side == "left" else 0
            span = slice(start, start + lengths[number])
            input_ids[number, span] = torch.tensor(code.input_ids)
            attention_mask[number, span] = 1
            condition_index[number, span] = torch.tensor(code.condition_index)
            assistant_masks[number, span] = (torch.tensor(code.labels) != IGNORED_LABEL).long()
            if row.teaches_answer:  # the released losses of segmentation rows have no language part
                labels[number, span] = torch.tensor(code.labels)
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "condition_index": condition_index}
        if any(row.teaches_answer for row in rows):
            tensors["labels"] = labels
        if mark_assistant:
            tensors["assistant_masks"] = assistant_masks
        return tensors

    def _regions(self, rows: Sequence[Row], region_pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        most = max(len(row.region_weights) for row in rows)
        if not most:
            return {}
        weights = torch.zeros(len(rows), most, self.image_grid[0] * self.image_grid[1])
        image_index = torch.full((len(rows), most), -1)
        for number, row in enumerate(rows):
            for region, (weight, picture) in enumerate(zip(row.region_weights, row.region_pixel_index, strict=True)):
                weights[number, region] = weight
                image_index[number, region] = picture
        tensors = {"region_weights": weights}
        if region_pictures:
            tensors["region_image_index"] = image_index
            tensors["region_pixel_values"] = self.image_processor(list(region_pictures), return_tensors="pt")["pixel_values"]
        return tensors

    def _targets(self, rows: Sequence[Row], targets: Sequence[Mapping | None]) -> dict[str, list[Tensor]]:
        if len(targets) != len(rows):
            raise ValueError(f"targets: {len(targets)} entries for {len(rows)} rows; give one per row, None for a conversation")
        side = self.image_processor.image_size
        mask_labels, class_labels = [], []
        for number, (row, target) in enumerate(zip(rows, targets, strict=True)):
            name = f"targets[{number}] ({row.info})"
            if (target is None) != (row.info.kind == "conversation"):
                expected = "None" if target is not None else "a dictionary with 'masks'"
                raise ValueError(f"{name}: expected {expected}, got {'None' if target is None else type(target).__name__}")
            if target is None:
                masks, labels = torch.zeros((0, side, side), dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
            else:
                masks, labels = _read_target(target, row, side, name)
            mask_labels.append(masks)
            class_labels.append(labels)
        return {"mask_labels": mask_labels, "class_labels": class_labels}

    # Outputs -> segmentations

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
            ValueError: number of target sizes.
        """

        def run(row: int, frame: Frame | None) -> Tensor:
            return semantic_map(*self._category_logits(outputs, row), frame, resize_logits=resize_logits)

        return self._each_row(outputs, "category", target_sizes, run)

    @torch.no_grad()
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.0,
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
            threshold: instances need a score (class probability times mean mask probability) above it.
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
        if return_binary_maps and return_coco_annotation:
            raise ValueError("return_binary_maps and return_coco_annotation exclude each other; set one of them")

        def run(row: int, frame: Frame | None) -> dict[str, Any]:
            found = top_instances(
                *self._category_logits(outputs, row),
                frame,
                top_k=top_k,
                threshold=threshold,
                mask_threshold=mask_threshold,
                label_ids=label_ids,
            )
            segments = [
                {"id": index, "label_id": label, "was_fused": False, "score": score}
                for index, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
            ]
            if return_binary_maps:
                return {"segmentation": found.masks, "segments_info": segments}
            if return_coco_annotation:
                return {"segmentation": _coco_rles(found.masks), "segments_info": segments}
            segmentation = found.masks.new_full(found.masks.shape[1:], -1, dtype=torch.int32)
            for index in reversed(range(len(found.masks))):  # the best is painted last
                segmentation[found.masks[index]] = index
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

        def run(row: int, frame: Frame | None) -> dict[str, Any]:
            segmentation, segments = merge_panoptic(
                *self._category_logits(outputs, row),
                frame,
                threshold=threshold,
                mask_threshold=mask_threshold,
                overlap_mask_area_threshold=overlap_mask_area_threshold,
                label_ids_to_fuse=() if label_ids_to_fuse is None else {int(label) for label in label_ids_to_fuse},
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
        """What an expression means: one thing, several, or nothing in the picture.

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
        threshold = self.referring_threshold if threshold == "processor" else threshold
        no_target_threshold = self.no_target_threshold if no_target_threshold == "processor" else no_target_threshold
        _check_score(threshold, "threshold")
        _check_score(no_target_threshold, "no_target_threshold")

        def run(row: int, frame: Frame | None) -> dict[str, Any]:
            masks_logits = outputs.masks_queries_logits[row]
            scores = referring_scores(masks_logits, outputs.referring_queries_logits[row], frame, mask_threshold)
            order = scores.argsort(descending=True, stable=True)
            is_above = torch.zeros_like(scores) if threshold is None else (scores > threshold).to(scores.dtype)
            above, score = torch.stack([is_above.sum(), scores.max()]).tolist()  # one read: the host waits for each
            chosen = order[: max(int(above), 1)]
            masks = binary_masks(masks_logits[chosen], frame, mask_threshold)
            no_target = no_target_threshold is not None and score <= no_target_threshold
            segmentation = torch.zeros_like(masks[0]) if no_target else masks.any(0)
            return {"segmentation": segmentation, "score": score, "no_target": no_target, "masks": masks, "scores": scores[chosen]}

        return self._each_row(outputs, "sentence", target_sizes, run)

    @torch.no_grad()
    def post_process_region_segmentation(
        self, outputs: Any, mask_threshold: float = 0.5, target_sizes: Any = None
    ) -> list[dict[str, Any] | None]:
        """The best query for each region; two regions may get the same.

        Args:
            outputs, target_sizes: see `post_process_semantic_segmentation`.
            mask_threshold: of the probability of a pixel.

        Returns:
            Per row `{"masks": (R, H, W) bool, "scores": (R,), "queries": (R,) int64}`, None for a row without regions.

        Raises:
            ValueError: number of target sizes; threshold out of range.
        """

        def run(row: int, frame: Frame | None) -> dict[str, Any]:
            masks_logits = outputs.masks_queries_logits[row]
            region_logits = outputs.region_queries_logits[row, : int(outputs.num_conditions[row])]  # (R, Q)
            scores, queries = region_scores(masks_logits, region_logits, frame, mask_threshold).max(0)
            masks = binary_masks(masks_logits[queries], frame, mask_threshold)
            return {"masks": masks, "scores": scores, "queries": queries}

        return self._each_row(outputs, "region", target_sizes, run)

    def _each_row(self, outputs: Any, kind: str, target_sizes: Any, run: Callable[[int, Frame | None], Any]) -> list[Any]:
        row_kinds = outputs.condition_type.tolist()
        if target_sizes is not None:
            target_sizes = target_sizes.tolist() if isinstance(target_sizes, Tensor) else list(target_sizes)
            if len(target_sizes) != len(row_kinds):
                raise ValueError(
                    f"target_sizes: {len(target_sizes)} sizes for {len(row_kinds)} rows; give one (height, width) per row of the "
                    "batch, for example the processor's original_sizes"
                )
        results = []
        for row, row_kind in enumerate(row_kinds):
            if KINDS[row_kind] != kind:
                results.append(None)
                continue
            frame = None
            if target_sizes is not None:
                try:
                    height, width = (int(side) for side in target_sizes[row])
                except (TypeError, ValueError) as error:
                    raise ValueError(f"target_sizes[{row}]: expected (height, width), got {target_sizes[row]!r:.80}") from error
                if height < 1 or width < 1:
                    raise ValueError(f"target_sizes[{row}]: expected (height, width), each at least 1, got {(height, width)}")
                frame = Frame.of_image((height, width), self.image_processor.image_size)
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


# Conversations


def _read_messages(messages: Any, name: str) -> tuple[Any, Any]:
    """Messages of one text each, and the picture of their image part; None if there is none."""
    if not isinstance(messages, Sequence):
        raise ValueError(f"{name}: expected a list of messages, got {messages!r:.80}")
    plain, pictures = plain_messages(messages, name)
    if len(pictures) > 1:
        raise ValueError(f"{name}: has {len(pictures)} images, but a conversation is about one; ask about each in its own")
    if not pictures:
        return plain, None
    if pictures[0] is None:
        raise ValueError(f"{name}: its image part has no picture; give it as 'image', 'url' or 'path'")
    return plain, load_image(pictures[0]) if isinstance(pictures[0], (str, Path)) else pictures[0]


def _check_score(value: Any, name: str) -> None:
    """Raises ValueError unless it is None or a score."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a score from 0 to 1, or None, got {value!r:.80}")


# Targets


def _read_target(target: Mapping, row: Row, image_size: int, name: str) -> tuple[Tensor, Tensor]:
    """(N, S, S) bool and (N,) int64."""
    if not isinstance(target, Mapping) or "masks" not in target:
        raise ValueError(f"{name}: expected a dictionary with 'masks', got {target!r:.80}")
    given = target["masks"]
    if not isinstance(given, (list, tuple, np.ndarray, Tensor)):
        raise ValueError(f"{name}: 'masks' is an (N, H, W) array or a list of N masks, got {type(given).__name__}")
    masks = torch.zeros((len(given), image_size, image_size), dtype=torch.bool)
    for index, mask in enumerate(given):
        masks[index] = torch.from_numpy(_place_target(mask, row.size, image_size, f"{name}, mask {index}"))
    if row.info.kind == "region" and len(masks) != len(row.region_weights):
        raise ValueError(f"{name}: {len(masks)} masks for {len(row.region_weights)} regions; give one per region, in their order")
    if row.info.kind != "category":
        return masks, torch.zeros(len(masks), dtype=torch.int64)
    try:
        labels = torch.as_tensor(target.get("class_labels", ()), dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: class_labels are indices into the categories, got {target['class_labels']!r:.80}") from error
    if labels.shape != (len(masks),):
        raise ValueError(f"{name}: {len(masks)} masks, but class_labels of shape {tuple(labels.shape)}; give one label per mask")
    num_categories = len(row.info.conditions) - 1
    wrong = ((labels < 0) | (labels >= num_categories)).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(
            f"{name}: class_labels[{wrong[0]}] is {int(labels[wrong[0]])}, expected 0 to {num_categories - 1}: an index into the "
            "categories, background excluded"
        )
    return masks, labels


def _place_target(mask: Any, size: Size, image_size: int, name: str) -> np.ndarray:
    if not isinstance(mask, (list, tuple)):
        return place_mask(read_bitmap(mask, size, name), image_size)
    for polygon in mask:
        flat = np.asarray(polygon, dtype=np.float64)
        if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all():
            raise ValueError(f"{name}: a polygon is a flat list of finite x, y of at least 3 corners, got {polygon!r:.80}")
    return place_polygons(mask, size, image_size) if mask else np.zeros((image_size, image_size), dtype=bool)


def _coco_rles(masks: Tensor) -> list[dict[str, Any]]:
    from pycocotools import mask as coco

    rles = []
    for mask in masks:
        rle = coco.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
        rles.append({"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")})
    return rles


# Original PSALM folders


def processor_from_original_folder(folder: str | Path, **options: Any) -> PsalmProcessor:
    """Processor of a folder written by the released code, which has no processor files.

    Image size 1024, 100 mask queries and one image token per 64 x 64 pixels, unless the config.json has `image_size`,
    `num_queries` or `image_grid`; the length is the config's `max_position_embeddings`; style "released".

    Args:
        folder: with config.json and the tokenizer's files.
        options: of `PsalmProcessor`, instead of those.

    Raises:
        ValueError: no tokenizer files, or a tokenizer without `[PAD]` and `[SEG]`.
    """
    fields = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    image_size = fields.get("image_size", 1024)
    settings = {
        "prompt_style": "released",
        "num_queries": fields.get("num_queries", 100),
        "image_grid": fields.get("image_grid", (image_size // 64, image_size // 64)),
        "max_length": fields.get("max_position_embeddings", 2048),
    }
    image_processor = PsalmImageProcessor(size={"longest_edge": image_size})
    return PsalmProcessor(image_processor, tokenizer_from_original_folder(folder), **(settings | options))


def tokenizer_from_original_folder(folder: str | Path) -> PreTrainedTokenizerFast:
    """Tokenizer of a released folder: GPT-2 BPE from vocab.json, merges.txt and added_tokens.json, or from tokenizer.json.

    Raises:
        ValueError: no tokenizer files, or a tokenizer without `[PAD]` and `[SEG]`.
    """
    folder = Path(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        merges = [tuple(line.split(" ")) for line in _merge_lines(folder / "merges.txt")]
        tokenizer = GPT2Tokenizer(vocab=json.loads((folder / "vocab.json").read_text(encoding="utf-8")), merges=merges)
        if (folder / "added_tokens.json").is_file():
            added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
            # Ids are given in the order of adding. Runs of blanks are matched in the raw text, not after normalisation.
            tokenizer.add_tokens([AddedToken(text, normalized=False) for text in sorted(added, key=added.get)])
    elif (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = "<|endoftext|>"
    else:
        raise ValueError(f"{folder}: no tokenizer; expected vocab.json and merges.txt (with added_tokens.json), or tokenizer.json")
    missing = [token for token in (PAD_TOKEN, SEG_TOKEN) if token not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(f"{folder}: the tokenizer lacks {' and '.join(missing)}; is added_tokens.json missing?")
    tokenizer.pad_token = PAD_TOKEN
    return tokenizer


def _merge_lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").split("\n"):  # not splitlines(): merges contain other line separators
        if line and not line.startswith("#version"):
            yield line
