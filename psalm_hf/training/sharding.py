"""Checkpoints of a model that is divided among processes (`fully_shard`): whole tensors in the usual files, written by process 0."""

from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..model.convert_psalm_checkpoint import read_weights

WHOLE_TENSORS = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_sharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, file: Path, is_writer: bool) -> None:
    """Gathers the optimizer's states and writes them; all processes must call it."""
    state = get_optimizer_state_dict(model, optimizer, options=WHOLE_TENSORS)
    if is_writer:
        torch.save(state, file)


def load_sharded_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Loads what `save_sharded_optimizer` wrote; every process takes its part."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state, options=WHOLE_TENSORS)


def load_sharded_weights(model: nn.Module, checkpoint: Path) -> None:
    """Loads the weights of a checkpoint folder; every process takes its part."""
    weights = read_weights(checkpoint)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for target, source in tied.items():  # written once
        weights.setdefault(target, weights[source])
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
