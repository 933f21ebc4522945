"""PsalmProcessor: an image and a condition -> the tensors of `PsalmForSegmentation.forward`, and its outputs -> segmentations.

A row is one prompt on one image. B rows, I images, T tokens, G image tokens, K categories, R regions, N target masks, S the side
of the padded input; (H, W) the size of an image as given.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

# Always `from .module import names`: the files pushed with a checkpoint are found by this form only.
from .addresses import is_address
from .convert_psalm_checkpoint import (
    locate_checkpoint,
    locate_original_folder,
    naming,
    read_json_object,
    reading,
    tokenizer_from_original_folder,
)
from .image_processing_psalm import PsalmImageProcessor, Size, load_image
from .prompts import (
    CATEGORY_TASKS,
    CHAT_TEMPLATE,
    HUMAN_TURNS,
    IGNORED_LABEL,
    IMAGE_TOKEN,
    MASK_QUERY_TOKEN,
    PLACEHOLDERS,
    ROW_KINDS,
    STYLES,
    encode_row,
    plain_messages,
    prepare_tokenizer,
    tokenize_texts,
)
from .regions import PROMPT_RADII, REGION_SAMPLINGS, place_region, region_clicks, region_mask, region_weights
from .rows import EncodedImage, ImagePool, PromptRow, RowInfo, RowWriter, prompts_per_image, read_region_entry, with_sam_regions
from .segmentations import PostProcessing, check_fraction, check_score
from .targets import read_targets


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


class PsalmProcessor(PostProcessing, ProcessorMixin):
    """Prepares images and prompts, and post-processes predictions.

    Args:
        image_processor: resizes, pads and normalises images.
        tokenizer: with an end-of-text token; `[PAD]`, `[SEG]` and the placeholders are added to it if missing.
        prompt_style: "paper" (default for new training) or "released" (what published weights expect).
        num_queries: mask-query tokens per row, that of the model; 0 for a model with `decouple_masks=False`.
        image_grid: (rows, columns) of the image tokens of one image; G = rows * columns.
        region_sampling: "exact" (expectation of the released random draw) or "released" (256 random pixels per region).
        prompt_radii: of point prompts and of scribbles to each side of the line, in pixels of the image they are drawn on. The released
            ones are meant for photographs of 640 pixels; a model for small images needs smaller ones.
        max_length: positions of the language model. Nothing is ever truncated; a longer row is an error.
        chat_template: of `apply_chat_template` for text; default `CHAT_TEMPLATE`, which writes what this processor does.
        referring_threshold, no_target_threshold: what `post_process_referring_segmentation` takes unless told otherwise. None (the
            released behaviour) = the best query is what an expression means, and there always is one. They depend on the weights:
            `psalm calibrate` finds those of a checkpoint.
        instances_threshold, nms_threshold: what `post_process_referring_instances` takes unless told otherwise, see there; the command
            finds these too.

    Raises:
        ValueError: an option out of its range.
    """

    model_input_names = [
        "input_ids", "attention_mask", "pixel_values", "image_index", "condition_index", "condition_type", "region_weights",
        "region_image_index", "region_pixel_values", "mask_labels", "class_labels", "labels", "original_sizes",
    ]  # fmt: skip

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
        instances_threshold: float | None = None,
        nms_threshold: float = 0.5,
    ):
        super().__init__(image_processor, tokenizer, chat_template=CHAT_TEMPLATE if chat_template is None else chat_template)
        _check_choice("prompt_style", prompt_style, tuple(HUMAN_TURNS))
        _check_choice("region_sampling", region_sampling, REGION_SAMPLINGS)
        if not _is_pair(prompt_radii, 0):
            raise ValueError(f"prompt_radii: expected (of points, of scribbles), each at least 0 pixels, got {prompt_radii!r:.80}")
        if not _is_pair(image_grid, 1) or float in map(type, image_grid):
            raise ValueError(f"image_grid: expected (rows, columns), each at least 1, got {image_grid!r:.80}")
        if type(num_queries) is not int or type(max_length) is not int or num_queries < 0 or max_length < 1:
            raise ValueError(f"expected num_queries >= 0 and max_length >= 1, got {num_queries!r:.80} and {max_length!r:.80}")
        check_score(referring_threshold, "referring_threshold")
        check_score(no_target_threshold, "no_target_threshold")
        check_score(instances_threshold, "instances_threshold")
        check_fraction("nms_threshold", nms_threshold)
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
        self.instances_threshold = instances_threshold
        self.nms_threshold = nms_threshold
        prepare_tokenizer(tokenizer)
        self.image_token_id, self.region_token_id, self.mask_query_token_id = tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> PsalmProcessor:
        """Loads a processor as usual; also "psalm-tiny", and an ORIGINAL PSALM folder or Hub id (`processor_from_original_folder`).

        Raises:
            FileNotFoundError: a folder in which no processor was saved; see also `convert_psalm_checkpoint.locate_checkpoint`.
        """
        pretrained_model_name_or_path = locate_checkpoint(pretrained_model_name_or_path)
        try:
            with naming(pretrained_model_name_or_path):
                folder = locate_original_folder(pretrained_model_name_or_path, kwargs, ["*.json", "*.txt"])
        except OSError:  # a processor saved alone has no config.json
            folder = None
        if folder is None:
            place = Path(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
            if place.is_dir() and not any((place / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
                raise FileNotFoundError(
                    f"{place}: has no processor_config.json, so no processor was saved there; save that of the model beside it "
                    f"(processor.save_pretrained), or copy processor_config.json, chat_template.jinja and the tokenizer files of the "
                    f"checkpoint that it was trained from"
                )
            with naming(place):
                return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        own = signature(cls).parameters.keys() - {"image_processor", "tokenizer", "chat_template"}
        return processor_from_original_folder(folder, **{name: value for name, value in kwargs.items() if name in own})

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
            images: one image, or a list in which None is "no image" (conversations only); PIL, (H, W, 3) uint8 array or (3, H, W) tensor,
                see `to_rgb`; never rotated. An object that is given twice is preprocessed once. An `EncodedImage` makes the same rows
                without pixels, for a model that is given `image_features`; then all images are such, region images too.
            categories, expressions, regions, conversations: a list over the images (None = none of that kind), or the bare entry if there
                is one image. Entries are, in this order: names (one row); expressions (one row each; a list of sentences is ONE
                expression); region dictionaries (one row, see `region_mask`); messages `{"role": "user" | "assistant", "content": str}`
                (one row; a message of the role "system" may go in front).
            region_images: the image that an entry's regions are drawn on, if not its own, or a list of one image (or None) per region.
            input_points, input_labels, input_boxes: regions as SAM writes them, [image][object][point][x, y], [image][object][point] (1 =
                belongs, 0 = does not) and [image][object][4].
            targets: one entry per ROW, None for conversations. `masks` at the size of the row's image: (N, H, W) array or tensor, or a list
                of bitmaps, RLEs or polygon lists. `class_labels` (N,) for category rows: indices into the categories as given. For
                regions N = R, in their order.
            task: "panoptic", "semantic" or "instance": the instruction of category rows.
            prompt_style: "paper", "released", or "plain" (an image and one assistant message, the caption); default the processor's.
            add_background: append "background" to the categories unless they end in it. False: the last one given stands for "no object".
            shuffle_categories: write the categories in random order (training); outputs keep the order given.
            seed: of the shuffle and of `region_sampling="released"`; default Python's and torch's global generators.
            padding: True = to the longest row, "max_length", or False = rows must have equal length.
            padding_side: default left if a row awaits an answer of the language model, else right.
            max_length: a longer row is an error; default the processor's.
            return_assistant_tokens_mask: also `assistant_masks` (B, T) int64, 1 where the assistant speaks. The model does not take it.

        Returns:
            `input_ids`, `attention_mask`, `condition_index` (B, T), `condition_type`, `image_index` (B,) and `original_sizes` (B, 2) int64,
            (0, 0) without image; as needed `pixel_values` (I, 3, S, S) float32; `region_weights` (B, R, G) float32; `region_image_index`
            (B, R) int64 (-1 = the row's own image) with `region_pixel_values` (J, 3, S, S); `labels` (B, T) int64; `mask_labels`
            B x (N, S, S) bool and `class_labels` B x (N,) int64. Rows follow the images, and within an image: categories, expressions,
            regions, conversation. The attribute `row_info` says what each row is.

        Raises:
            ValueError: naming the image, row, category or region that is wrong.
        """
        _check_choice("return_tensors", return_tensors, ("pt",))
        _check_whole_number("seed", seed, -(2**63), 2**64 - 1)
        shuffler = random.Random(random.getrandbits(64) if seed is None else seed) if shuffle_categories else None
        writer = self._row_writer(task, prompt_style, add_background, shuffler)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        pool = ImagePool(self.image_processor.do_convert_rgb is not False)
        rows = []
        given = {"categories": categories, "expressions": expressions, "conversations": conversations}
        given["regions"] = with_sam_regions(regions, input_points, input_labels, input_boxes)
        for index, (image, prompts, drawn_on) in enumerate(prompts_per_image(images, given, region_images)):
            rows += self._rows_of_image(writer, pool, index, image, prompts, drawn_on, generator)

        data = self._tokens(rows, padding, padding_side, max_length, return_assistant_tokens_mask)
        data["original_sizes"] = torch.tensor([row.size for row in rows])
        data |= self._pixels(rows, pool)
        if targets is not None:
            data |= read_targets([targets] if isinstance(targets, Mapping) else targets, rows, self.image_processor.image_size)
        return PsalmInputs(data, row_info=[row.info for row in rows])

    def encode_prompt(
        self,
        *,
        categories: Sequence[str] | None = None,
        expressions: Sequence | str | None = None,
        num_regions: int | None = None,
        conversation: Sequence[Mapping[str, str]] | None = None,
        task: str = "panoptic",
        prompt_style: str | None = None,
        add_background: bool = True,
        padding_side: str | None = None,
        max_length: int | None = None,
    ) -> PsalmInputs:
        """Encodes prompts on one image without the image, for a model that is given `image_features`.

        Args:
            num_regions: regions of the row of regions; see `region_weights` for what belongs to them.
            categories, expressions, conversation, task, prompt_style, add_background, padding_side, max_length: see the call.

        Returns:
            The tensors of the call that depend on the text alone: `input_ids`, `attention_mask`, `condition_index` (B, T) int64;
            `condition_type` and `image_index` (zeros) (B,) int64; `labels` of conversations that end with the assistant's message. They
            are equal to those of the call. `row_info` as there.

        Raises:
            ValueError: no prompt, or a prompt that is wrong.
        """
        if num_regions is not None and num_regions < 1:
            raise ValueError(f"num_regions: expected at least 1, got {num_regions}")
        expressions = [expressions] if isinstance(expressions, str) else expressions
        prompts = {"categories": categories, "expressions": expressions, "num_regions": num_regions, "conversations": conversation}
        rows = self._row_writer(task, prompt_style, add_background, None).write(0, True, **prompts)
        for row in rows:
            row.image = 0
        data = self._tokens(rows, True, padding_side, max_length, False)
        return PsalmInputs(data, row_info=[row.info for row in rows])

    def region_weights(
        self,
        regions: Sequence[Mapping[str, Any]],
        image_size: Size,
        *,
        generator: torch.Generator | None = None,
        names: Sequence[str] | None = None,
    ) -> Tensor:
        """Visual prompts as distributions over the image tokens of the image that they are drawn on.

        Args:
            regions: R dictionaries, at least one, see `region_mask`.
            image_size: (height, width) of that image as given; coordinates and masks are in its pixels.
            generator: of `region_sampling="released"`; default torch's global one.
            names: R names of the regions in error messages; default their numbers.

        Returns:
            (R, G) float32, each row >= 0 with the sum 1.

        Raises:
            ValueError: naming the region that is empty, outside of the image or of no known kind.
        """
        names = [f"region {number}" for number in range(len(regions))] if names is None else names
        weights = []
        for region, name in zip(regions, names, strict=True):
            mask = place_region(region_mask(region, image_size, name, self.prompt_radii), self.image_processor.image_size)
            weights.append(region_weights(mask, self.image_grid, self.region_sampling, generator))
        return torch.stack(weights)

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
        allow_paths: bool = False,
        allow_private_addresses: bool = False,
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
            allow_paths: also opens images that the messages name by a path. A stranger could name any file of this machine, so without it
                an image is an opened one or an http(s) URL.
            allow_private_addresses: see `load_image`, which opens the URLs; without it, URLs of this machine and its network are refused.
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
        read = [
            _read_messages(messages, f"conversation {number}", allow_paths, allow_private_addresses)
            for number, messages in enumerate(conversations)
        ]
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

    def _row_writer(self, task: str, prompt_style: str | None, add_background: bool, shuffler: random.Random | None) -> RowWriter:
        style = self.prompt_style if prompt_style is None else prompt_style
        _check_choice("task", task, CATEGORY_TASKS)
        _check_choice("prompt_style", style, STYLES)
        tokenizer = self.tokenizer
        return RowWriter(style, task, add_background, tokenizer.eos_token, tuple(tokenizer.all_special_tokens), shuffler)

    def _rows_of_image(
        self,
        writer: RowWriter,
        pool: ImagePool,
        index: int,
        image: Any,
        prompts: Mapping[str, Any],
        region_images: Any,
        generator: torch.Generator | None,
    ) -> list[PromptRow]:
        """Rows of one image; the images that they need join the pool."""
        prompts = dict(prompts)
        regions = prompts.pop("regions")
        if region_images is not None and regions is None:
            raise ValueError(f"image {index}: region_images without regions")
        drawn = None if regions is None else read_region_entry(index, regions, region_images)
        rows = writer.write(index, image is not None, num_regions=None if drawn is None else len(drawn), **prompts)
        if image is None:
            return rows
        own = pool.add(image, f"image {index}")
        for row in rows:
            row.image, row.size = own, pool.images[own].size[::-1]  # (height, width)
            if row.info.kind == "region":
                clicks = []
                for number, (region, region_image) in enumerate(drawn):
                    name = f"image {index}, region {number}"
                    place = -1 if region_image is None else pool.add(region_image, f"{name}, its region image")
                    size = pool.images[own if place < 0 else place].size[::-1]
                    row.region_weights += self.region_weights([region], size, generator=generator, names=[name])
                    row.region_images.append(place)
                    clicks.append(region_clicks(region, size, name))
                    if clicks[-1] and place >= 0 and place != own:
                        raise ValueError(f"{name}: has points of label 0, but is drawn on another image, where nothing can be cut off")
                kinds = tuple(" + ".join(kind for kind in region if kind != "labels") for region in regions)
                row.info = RowInfo(index, "region", kinds, tuple(clicks) if any(clicks) else ())
        return rows

    def _tokens(
        self, rows: Sequence[PromptRow], padding: bool | str, padding_side: str | None, max_length: int | None, mark_assistant: bool
    ) -> dict[str, Tensor]:
        """Tensors of the text of rows, and which kind and image a row has."""
        _check_choice("padding", padding, (True, False, "longest", "max_length"))
        _check_choice("padding_side", padding_side, (None, "left", "right"))
        _check_whole_number("max_length", max_length, 1)
        max_length = self.max_length if max_length is None else max_length
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

        def padded(values: Iterable[list[int]], fill: int) -> Tensor:
            filled = torch.full((len(rows), width), fill)
            for target, row in zip(filled, values, strict=True):
                target[width - len(row) if padding_side == "left" else 0 :][: len(row)] = torch.tensor(row)
            return filled

        tensors = {
            "input_ids": padded((code.input_ids for code in encoded), self.tokenizer.pad_token_id),
            "attention_mask": padded(([1] * length for length in lengths), 0),
            "condition_index": padded((code.condition_index for code in encoded), 0),
        }
        if any(row.teaches_answer for row in rows):  # the released losses of segmentation rows have no language part
            learned = (code.labels if row.teaches_answer else [] for row, code in zip(rows, encoded, strict=True))
            tensors["labels"] = padded(learned, IGNORED_LABEL)
        if mark_assistant:
            tensors["assistant_masks"] = padded(([int(label != IGNORED_LABEL) for label in code.labels] for code in encoded), 0)
        tensors["condition_type"] = torch.tensor([ROW_KINDS.index(row.info.kind) for row in rows])
        tensors["image_index"] = torch.tensor(_compact([row.image for row in rows])[0])
        return tensors

    def _pixels(self, rows: Sequence[PromptRow], pool: ImagePool) -> dict[str, Tensor]:
        """Pixels of the rows' images, and of the regions with the images they are drawn on; every image is preprocessed once."""
        if not pool.images:
            return {}
        are_encoded = {isinstance(image, EncodedImage) for image in pool.images}
        if len(are_encoded) > 1:
            raise ValueError("images: some are given with pixels and some by their size alone (EncodedImage); give all in one way")
        pixels = None if True in are_encoded else self.image_processor(pool.images, return_tensors="pt")["pixel_values"]

        def of(name: str, positions: list[int]) -> dict[str, Tensor]:
            if pixels is None:
                return {}
            return {name: pixels if positions == list(range(len(pixels))) else pixels[positions]}  # no copy of what is all of it

        tensors = of("pixel_values", _compact([row.image for row in rows])[1])
        most = max(len(row.region_weights) for row in rows)
        if most:
            tensors["region_weights"] = torch.zeros(len(rows), most, self.image_grid[0] * self.image_grid[1])
            for number, row in enumerate(rows):
                for region, weight in enumerate(row.region_weights):
                    tensors["region_weights"][number, region] = weight
        region_images = [row.region_images + [-1] * (most - len(row.region_images)) for row in rows]  # (B, R)
        index, distinct = _compact([place for of_row in region_images for place in of_row])
        if distinct:
            tensors["region_image_index"] = torch.tensor(index).view(len(rows), most)
            tensors |= of("region_pixel_values", distinct)
        return tensors


# Conversations


def _read_messages(messages: Any, name: str, allow_paths: bool, allow_private_addresses: bool) -> tuple[Any, Any]:
    """Messages of one text each, and their image or None."""
    if not isinstance(messages, Sequence):
        raise ValueError(f"{name}: expected a list of messages, got {messages!r:.80}")
    plain, images = plain_messages(messages, name)
    if len(images) > 1:
        raise ValueError(f"{name}: has {len(images)} images, but a conversation is about one; ask about each in its own")
    if not images:
        return plain, None
    image = images[0]
    if image is None:
        raise ValueError(f"{name}: its image part is empty; give the image as 'image', 'url' or 'path'")
    if not isinstance(image, (str, os.PathLike)):
        return plain, image
    if not allow_paths and not is_address(str(image)):
        raise ValueError(
            f"{name}: its image is the path {str(image)!r:.200}, and messages may open files with allow_paths=True only; give that if you "
            f"wrote them, or open the image with load_image"
        )
    return plain, load_image(image, allow_private_addresses=allow_private_addresses)


def _check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    is_plain = value is None or isinstance(value, str | bool)
    if not is_plain or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r:.80}")


def _is_pair(values: Any, lowest: int) -> bool:
    """True for two finite numbers of at least `lowest`."""
    is_list = isinstance(values, list | tuple) and len(values) == 2
    return is_list and all(type(value) in (int, float) and lowest <= value < 2**31 for value in values)


def _check_whole_number(name: str, value: Any, lowest: int, highest: int | None = None) -> None:
    """Raises ValueError unless it is None or a whole number in the range."""
    if value is None:
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < lowest or (highest is not None and value > highest):
        expected = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name}: expected a whole number {expected}, or None, got {value!r:.80}")


def _compact(places: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers from 0 in the order of appearance instead of the given ones, -1 stays; and the given one of each number."""
    distinct = list(dict.fromkeys(place for place in places if place >= 0))
    return [distinct.index(place) if place >= 0 else -1 for place in places], distinct


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
    fields = read_json_object(Path(folder) / "config.json")
    with reading(f"{folder}: its processor cannot be made"):
        image_size = fields.get("image_size", 1024)
        settings = {
            "prompt_style": "released",
            "num_queries": fields.get("num_queries", 100),
            "image_grid": fields.get("image_grid", (image_size // 64, image_size // 64)),
            "max_length": fields.get("max_position_embeddings", 2048),
        }
        image_processor = PsalmImageProcessor(size={"longest_edge": image_size})
        return PsalmProcessor(image_processor, tokenizer_from_original_folder(folder), **(settings | options))
