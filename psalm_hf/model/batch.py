"""Numbers of a batch by which Python decides. They are read from the device in one piece, because the host waits for it at every read.

B rows, T tokens of a row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_psalm import PsalmConfig
from .prompts import CONVERSATION


class BatchRows(NamedTuple):
    """A batch in numbers. Lists have one per row; what is not given counts as 0, and rows of no kind are conversations.

    Attributes:
        kinds: what the row asks for, see `condition_type` of the model.
        images: which image it looks at, -1 = none.
        num_conditions: the largest number of a condition in `condition_index`.
        num_image_tokens, num_mask_queries, num_regions: placeholders in the prompt.
        last_region: the largest number of a region in the prompt, counted from 1; 0 without regions.
        last_region_image: the largest of `region_image_index`; -1 without.
        prefix: how many leading tokens the rows on one image have in common, see `shared_prefix`.
        image_prefix: how many leading tokens end with the image in all rows alike, see `common_image_prefix`.
        is_prefix_read: 1 if all rows begin with what was read before, see `ReadPrefix`.
        condition_type, condition_counts: (B,) int64, the tensors behind `kinds` and `num_conditions`; None where not given.
    """

    kinds: list[int]
    images: list[int]
    num_conditions: list[int]
    num_image_tokens: list[int]
    num_mask_queries: list[int]
    num_regions: list[int]
    last_region: list[int]
    last_region_image: int = -1
    prefix: int = 0
    image_prefix: int = 0
    is_prefix_read: int = 0
    condition_type: Tensor | None = None
    condition_counts: Tensor | None = None

    def beside(self, num_rows: int, condition_type: Tensor | None, condition_index: Tensor | None, may_share_prefix: bool) -> "BatchRows":
        """The same numbers with the tensors of a batch, whose rows share what they have in common only where they may.

        Raises:
            ValueError: the batch has another number of rows.
        """
        if len(self.kinds) != num_rows:
            raise ValueError(f"rows is of a batch of {len(self.kinds)} rows but there are {num_rows}; make it with batch_rows(**inputs)")
        tensors = {"condition_type": condition_type, "condition_counts": _count_conditions(condition_index)}
        changed = tensors if may_share_prefix else tensors | {"prefix": 0}
        return BatchRows(**self._asdict() | changed)  # with `_replace` the compiler of torch 2.11 makes a tuple without fields

    def asking(self) -> list[int]:
        """Numbers of the rows that ask for a segmentation."""
        return [row for row, kind in enumerate(self.kinds) if kind != CONVERSATION]


@torch.compiler.disable  # outside of a graph, whose constants these numbers are
def read_rows(
    num_rows: int,
    input_ids: Tensor | None,
    config: PsalmConfig,
    *,
    attention_mask: Tensor | None,
    condition_type: Tensor | None,
    condition_index: Tensor | None,
    image_index: Tensor | None,
    region_image_index: Tensor | None,
    may_share_prefix: bool,
    **leading: Tensor | None,
) -> BatchRows:
    """Reads a batch.

    Args:
        input_ids: of prompts; None where nothing is to be counted: a prompt goes on, or is there as embeddings only.
        image_index: (B,) of prompts.
        may_share_prefix: True if rows on one image may read their common beginning once.
        leading: `image_prefix` and `is_prefix_read` of `BatchRows`, each 0-dim; None counts as 0.
    """
    condition_counts, prefix = _count_conditions(condition_index), None
    if may_share_prefix:
        prefix = shared_prefix(input_ids, attention_mask, image_index, config.region_token_id)
    columns = {"kinds": condition_type, "images": image_index, "num_conditions": condition_counts}
    if input_ids is not None:
        is_region = input_ids == config.region_token_id
        columns |= {
            "num_image_tokens": (input_ids == config.image_token_id).sum(1),
            "num_mask_queries": (input_ids == config.mask_query_token_id).sum(1),
            "num_regions": is_region.sum(1),
            "last_region": None if condition_index is None else condition_index.masked_fill(~is_region, 0).amax(dim=1),
        }
    numbers = {"last_region_image": None if region_image_index is None else region_image_index.max(), "prefix": prefix, **leading}
    given = {name: values for name, values in (columns | numbers).items() if values is not None}
    found = {"kinds": [CONVERSATION] * num_rows} | {name: [0] * num_rows for name in BatchRows._fields[1:7]}
    if given:
        values = torch.cat([values.reshape(-1).long() for values in given.values()]).tolist()
        for name in given:
            length = num_rows if name in columns else 1
            found[name] = values[:length] if name in columns else values[0]
            values = values[length:]
    return BatchRows(**found)


def _count_conditions(condition_index: Tensor | None) -> Tensor | None:
    """Largest number of a condition in each row: (B, T) -> (B,)."""
    return None if condition_index is None else condition_index.amax(dim=1)


def positions(is_one: Tensor, number: int) -> Tensor:
    """Positions of the ones, in their order: (n,) bool -> (number,) int64. Their number is known: no wait as in `nonzero`."""
    return torch.searchsorted(is_one.cumsum(0), torch.arange(1, number + 1, device=is_one.device))


def compacted(values: Tensor, limit: int, number: int) -> tuple[Tensor, Tensor]:
    """Different values and the place of each among them: `values.unique(return_inverse=True)` where their number is known.

    Args:
        values: (n,) int64, from 0 to `limit` - 1.
        number: how many different ones.

    Returns:
        The different values, (number,) ascending, and the place of each of the n among them.
    """
    occurs = (torch.arange(limit, device=values.device)[:, None] == values).any(1)
    return positions(occurs, number), (occurs.cumsum(0) - 1)[values]


def first_rows(image_index: Tensor) -> Tensor:
    """First row of each row's image; itself for a row without an image (-1): (B,) -> (B,)."""
    rows = torch.arange(len(image_index), device=image_index.device)
    same_image = (image_index[:, None] == image_index[None, :]) & (image_index >= 0)[:, None] | (rows[:, None] == rows)
    return same_image.int().argmax(dim=1)


def shared_prefix(input_ids: Tensor, attention_mask: Tensor | None, image_index: Tensor, region_token_id: int) -> Tensor:
    """Number of leading tokens that all rows on one image have in common, in every image of the batch.

    Args:
        input_ids, attention_mask: (B, T); image_index: (B,), -1 = no image, then a row shares with nobody.
        region_token_id: equal ids of regions stand for different features, so a region ends the prefix.

    Returns:
        The number of tokens, 0-dim: 0 if no two rows look at the same image and T - 1 at most, so that every row has something left to
        read.
    """
    first_row = first_rows(image_index)
    common = (input_ids == input_ids[first_row]) & (input_ids != region_token_id)  # (B, T)
    if attention_mask is not None:  # padding on the left leaves rows without a common beginning
        common &= (attention_mask == 1) & (attention_mask[first_row] == 1)
    length = common.all(dim=0).int().cumprod(dim=0).sum().clamp(max=input_ids.shape[1] - 1)
    return length * (first_row != torch.arange(len(first_row), device=first_row.device)).any()


def common_image_prefix(
    input_ids: Tensor, attention_mask: Tensor | None, image_index: Tensor, config: PsalmConfig, num_images: int
) -> Tensor:
    """Number of leading tokens up to the last image token, 0-dim; 0 unless they are equal in all rows, something follows, and all images
    are looked at.

    Args:
        input_ids, attention_mask: (B, T); image_index: (B,), -1 = no image.
    """
    numbers = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    end = (numbers * (input_ids[0] == config.image_token_id)).amax()
    common = (input_ids == input_ids[0]) & (input_ids != config.region_token_id)  # (B, T); regions stand for different features
    if attention_mask is not None:
        common &= attention_mask == 1
    images = torch.arange(num_images, device=image_index.device)
    is_whole = (common | (numbers > end)).all() & (image_index >= 0).all() & (images[:, None] == image_index).any(1).all()
    return end * (is_whole & (end < len(numbers)))
