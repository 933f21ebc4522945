"""Names that differ between the releases of transformers this package supports; every difference is decided here.

The cache of a language model's keys and values is called `cache` since 5.24, `past_key_values` before: as a keyword of `forward`, as a
field of outputs, and among the keywords of `generate`. Keeping activations out of memory is called `activation_checkpointing` since 5.23,
`gradient_checkpointing` before. Parts that are trained whole beside an adapter are read by `from_pretrained` since 5.18. The Trainer
of newer releases leaves a model alone that `from_pretrained` has divided among processes.
"""

from typing import Any

import transformers
from packaging.version import Version
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE_NAMES = ("cache", "past_key_values")
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
CHECKPOINTING = "activation_checkpointing" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient_checkpointing"
TRAINS_DIVIDED = hasattr(PreTrainedModel, "is_distributed_loading_by_transformers")
READS_ADAPTERS = Version(transformers.__version__) >= Version("5.18")


def given_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache that a caller passed under one of its two names, or None.

    Raises:
        ValueError: it was passed under both.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one thing; pass cache only")
    return past_key_values if cache is None else cache


def set_checkpointing(model: nn.Module, enabled: bool) -> None:
    """Layers of `model` keep their activations for the backward pass, or (`enabled`) make them again."""
    if enabled:
        getattr(model, f"{CHECKPOINTING}_enable")(**{f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{CHECKPOINTING}_disable")()
