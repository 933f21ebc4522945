"""Beginnings of prompts that the language model reads once for several rows, or for several calls.

B rows, I images, P tokens of the beginning, D language width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class SharedLayer(DynamicLayer):
    """Keys and values of one layer for a beginning that several rows share. They never change; what rows add to them is not kept.

    Args:
        keys, values: (I, heads, P, width of a head).
        rows: (B,) int64, which of the I beginnings each row goes on from.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor):
        super().__init__()
        self.keys, self.values, self.rows = keys, values, rows.to(keys.device)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[self.rows], self.values[self.rows]
        return torch.cat((keys, key_states), dim=-2), torch.cat((values, value_states), dim=-2)


@dataclass
class ReadPrefix:
    """The beginning of the prompts on I images, up to the last image token, as the language model has read it.

    It takes 2 x layers x (width of keys) x P numbers per image: in the released model, with P = 312 for the prompts of masks, 123 MB in
    float32 and 61 MB in bfloat16.

    Attributes:
        token_ids: (P,), the same for all images.
        image_tokens: (I, G, D), those that were read.
        states: (I, P, D), after the language model's final norm.
        layers: keys and values of each layer, each (I, heads, P, width of a head).
        computed_in: dtype of the language model's products.
    """

    token_ids: Tensor
    image_tokens: Tensor
    states: Tensor
    layers: list[tuple[Tensor, Tensor]]
    computed_in: torch.dtype

    def may_begin(self, input_ids: Tensor, image_tokens: Tensor, computed_in: torch.dtype) -> bool:
        """True if only the tokens are left to compare, see `begins`."""
        return image_tokens is self.image_tokens and computed_in == self.computed_in and input_ids.shape[1] > len(self.token_ids)

    def begins(self, input_ids: Tensor, attention_mask: Tensor | None, image_index: Tensor) -> Tensor:
        """True, 0-dim bool, if all rows (B, T) look at an image and begin with these tokens."""
        length = len(self.token_ids)
        begins = (input_ids[:, :length] == self.token_ids).all() & (image_index >= 0).all()
        return begins if attention_mask is None else begins & (attention_mask[:, :length] == 1).all()

    def grown(self, images: Tensor) -> DynamicCache:
        """A cache that begins with copies of what was read of these images, (N,) int64, and may grow."""
        return DynamicCache([tuple(kept[images.to(kept.device)] for kept in layer) for layer in self.layers])


def layers_of(cache: Cache) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values of each layer, None if some layer keeps anything else than the keys and values of all tokens."""
    if any(type(layer) is not DynamicLayer or not layer.is_initialized for layer in cache.layers):
        return None
    return [(layer.keys, layer.values) for layer in cache.layers]


def shortened(cache: Cache, length: int) -> Cache | None:
    """The cache, changed in place to its first `length` tokens; None where it cannot go back to them, see `layers_of`."""
    if layers_of(cache) is None:
        return None
    cache.crop(length - cache.get_seq_length())
    return cache


def shared_cache(cache: Cache, rows: Tensor) -> Cache:
    """The cache for B rows, (B,) int64: which of the beginnings in `cache` each goes on from. Only the language model's next pass may use
    it, and what that adds is lost where it can be."""
    layers = layers_of(cache)
    if layers is None:
        cache.batch_select_indices(rows)
        return cache
    return cache_behind(layers, rows)


def cache_behind(layers: list[tuple[Tensor, Tensor]], rows: Tensor) -> Cache:
    """See `SharedLayer`."""
    return Cache(layers=[SharedLayer(keys, values, rows) for keys, values in layers])
