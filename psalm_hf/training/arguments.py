"""Fields of the YAML file of a training run, and reading it."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import strtobool

from ..data.mixture import check_shares
from ..model.compatibility import CHECKPOINTING
from ..model.configuration_psalm import PsalmConfig
from ..spelling import did_you_mean
from .configs import find_config, line_in_words, read_mapping
from .lora import read_lora
from .quantization import check_bits


@dataclass
class PsalmTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this model: columns are kept, targets are named, the Trainer's guess is not used.

    Args:
        learning_rates: submodule, by its name in the state dict -> its own learning rate; of nested ones the inner counts, and all others
            have `learning_rate`. The vision tower learns only if it is named (`model.vision_tower`), as in the paper; its batch norms
            stay frozen in any case.
        checkpointed_parts: submodules whose layers make their activations again in the backward pass (`gradient_checkpointing`), by their
            names in the state dict; empty = all that can. `[model.language_model]` is faster, and the others take more memory.
        remove_unused_columns, label_names, ddp_find_unused_parameters: as this model needs them.
        frozen_vision_dropout: stochastic depth of the frozen vision tower stays on, as in the released code.
        projector_batch_norm: of the projector's batch norms in training: "batch", statistics of each process's batch, as released;
            "synchronised", of all processes' batches (GPUs only); "frozen", the stored statistics.
        fully_shard: weights, gradients and optimizer states are divided among all processes (FSDP2 by transformers, on CPU too).

    Raises:
        ValueError: an engine that is not installed, or that the machine cannot run; several GPUs without a launcher;
            `checkpointed_parts` without `gradient_checkpointing`.
    """

    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["mask_labels", "class_labels"])
    # Every part is touched in every step, see `PsalmForSegmentation._touch_idle_parts`.
    ddp_find_unused_parameters: bool | None = False
    learning_rates: dict = field(default_factory=dict)
    checkpointed_parts: list[str] = field(default_factory=list)
    frozen_vision_dropout: bool = False
    projector_batch_norm: str = "batch"
    fully_shard: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # The Trainer pickles the arguments into every checkpoint and pushes them: the token and the folders of this machine stay here.
        names = {name: Path(value).name for name, value in self.__dict__.items() if isinstance(value, str) and os.path.isabs(value)}
        return self.__dict__ | names | {"hub_token": None}

    @property
    def loading_options(self) -> dict[str, Any]:
        """Keywords of `from_pretrained` that this engine needs."""
        if not self.fully_shard:
            return {}
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(fsdp_size=self.world_size)}

    def __post_init__(self):
        if self.deepspeed is not None and find_spec("deepspeed") is None:
            raise ValueError("deepspeed: a config is given, but DeepSpeed is not installed; pip install deepspeed, or leave the field out")
        # The older name stays valid in our files while releases without the newer one are supported.
        for suffix in ("", "_kwargs"):
            older, newer = f"gradient_checkpointing{suffix}", f"{CHECKPOINTING}{suffix}"
            if getattr(self, newer) is None:
                setattr(self, newer, getattr(self, older))
        super().__post_init__()
        self.learning_rates = {name: _read_rate(name, rate) for name, rate in self.learning_rates.items()}
        if self.checkpointed_parts and not getattr(self, CHECKPOINTING):
            raise ValueError(
                f"checkpointed_parts: {', '.join(self.checkpointed_parts)} would keep activations as all others do; set "
                "gradient_checkpointing: true too, or leave the field out"
            )
        if self.projector_batch_norm not in ("batch", "synchronised", "frozen"):
            raise ValueError(f"projector_batch_norm is {self.projector_batch_norm!r}, expected batch, synchronised or frozen")
        if self.projector_batch_norm == "synchronised" and self.device.type == "cpu":
            raise ValueError("projector_batch_norm: synchronised statistics need GPUs; on CPU choose batch or frozen")
        if self.fully_shard:
            launched = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "FSDP of Accelerate": "ACCELERATE_USE_FSDP"}
            others = [engine for engine, name in launched.items() if strtobool(os.environ.get(name, "false"))]
            if self.deepspeed is not None or self.fsdp or others:
                raise ValueError(f"fully_shard and {', '.join(others) or 'another engine'} are two engines; give one of them")
            if self.projector_batch_norm == "synchronised":
                raise ValueError("projector_batch_norm: a model that is divided cannot synchronise its statistics; choose batch or frozen")
        if self.fully_shard and self.world_size == 1:
            raise ValueError("fully_shard divides the model among processes, but there is one; start with torchrun --nproc_per_node N")
        if self.deepspeed is not None and self.device.type == "cpu":
            import deepspeed

            deepspeed.init_distributed()  # on CPU nobody else tells it about the processes before ZeRO-3 builds the model
        if self.n_gpu > 1:
            raise ValueError(
                f"this process sees {self.n_gpu} GPUs; start one process for each (accelerate launch, or torchrun --nproc_per_node "
                f"{self.n_gpu}), or show it one (CUDA_VISIBLE_DEVICES=0)"
            )


# Fields that name a config of somebody else: a path, a file beside the config, or one that ships.
FILES = {"deepspeed", "model_file"}

# Lowest and highest values of numbers that only fail when a run uses them.
RANGES = {
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
    "learning_rate": (0, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "eval_images": (0, math.inf),
    "steps": (0, math.inf),
    "batch_size": (1, math.inf),
    "warmup_steps": (0, math.inf),
    "num_workers": (0, math.inf),
}


def _read_rate(name: str, rate: Any) -> float:
    try:
        number = float(rate)  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < math.inf or isinstance(rate, bool):
        raise ValueError(f"learning_rates: {name} has {rate!r}, expected a number of at least 0")
    return number


@dataclass
class AlignmentArguments:
    """Stage 1: where the model comes from and which of its parts learn from captions.

    Args:
        checkpoint: folder or Hub id of the model and processor to start from.
        trainable: submodules that learn, by their names in the state dict; everything else is frozen. The paper trains the projector.
        source: the dataset of captions and its options, see `psalm_hf.data.mixture.open_source`; left out: captions of the shapes world.
    """

    checkpoint: str
    trainable: list[str] = field(default_factory=lambda: ["model.projector"])
    source: dict = field(default_factory=dict)


@dataclass
class MixtureArguments:
    """Stage 2: where the model comes from, what it learns and on how much it is evaluated meanwhile.

    Args:
        checkpoint: folder or Hub id of the model and processor to start from.
        weights: source -> share of the steps. With `data` only those that are to be otherwise than chosen.
        batch_sizes: source -> samples per batch. With `data` only those that are to be otherwise than chosen.
        sources: source -> its dataset and options, see `psalm_hf.data.mixture.open_source`; left out: a task of the shapes world.
        data: one dataset and its options, instead of `sources`; the mixture is chosen from what its files hold, see
            `psalm_hf.data.mixture.choose_mixture`.
        model: fields of `PsalmConfig` that differ from the checkpoint's; weights that they add or change start anew.
        eval_images: images of each evaluated dataset in every evaluation during training, 0 = no evaluation. When it happens is said by
            `eval_strategy` and `eval_steps`, how many images a forward pass takes by `per_device_eval_batch_size`.
        eval_sources: name -> dataset that is evaluated, with its options, as in `sources` (default split: val); left out: the split val of
            `data`, or the validation images of the shapes world.
        lora: adapters on the language model, see `lora.LoraOptions`; empty = all of it learns.
        merge_adapter: at the end, `<output_dir>/merged` gets the model with its adapters merged, which needs no peft.
        language_model_bits: 8 or 4 loads the language model quantised (bitsandbytes), under adapters.

    Raises:
        ValueError: neither `data` nor `weights`, or `data` and `sources`; options of adapters that do not exist, do not fit together, or
            need a library that is not installed.
    """

    checkpoint: str
    weights: dict | None = None
    batch_sizes: dict | None = None
    sources: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    eval_images: int = 0
    eval_sources: dict = field(default_factory=dict)
    lora: dict = field(default_factory=dict)
    merge_adapter: bool = False
    language_model_bits: int | None = None

    def __post_init__(self):
        if self.data and self.sources:
            raise ValueError("data and sources both say what to train on; give data, from which the sources are chosen, or sources alone")
        if not self.data and None in (self.weights, self.batch_sizes):
            raise ValueError(
                "missing fields: give data, such as {dataset: own_coco, data_dir: mydata}, from which a mixture is chosen; or weights, "
                "batch_sizes and sources"
            )
        self.weights, self.batch_sizes = self.weights or {}, self.batch_sizes or {}
        if unknown := sorted(self.model.keys() - PsalmConfig.__dataclass_fields__.keys()):
            advice = did_you_mean(unknown[0], PsalmConfig.__dataclass_fields__)
            raise ValueError(f"model: PsalmConfig has no field {', '.join(unknown)}; see the docs page The model{advice}")
        for field_name in ("sources", "eval_sources"):
            for name, options in getattr(self, field_name).items():
                if not isinstance(options, dict) or not all(isinstance(option, str) for option in options):
                    raise ValueError(
                        f"{field_name}: {name} has {options!r:.80}, expected options such as {{dataset: own_coco, data_dir: mydata}}"
                    )
        check_shares(self.weights, self.batch_sizes)
        read_lora(self.lora)
        check_bits(self.language_model_bits)
        if self.lora and self.model:
            raise ValueError(
                "lora: an adapter is loaded on top of `checkpoint`, and `model` changes that model; save the changed model as a folder "
                "first, and start from it"
            )
        if self.merge_adapter and not self.lora:
            raise ValueError("merge_adapter: there is no adapter without lora; give lora: {rank: 16}, or leave merge_adapter out")
        if self.language_model_bits and not self.lora:
            raise ValueError("language_model_bits: quantised weights do not learn; give lora: {rank: 16} too, or leave the field out")


def read_config(config: str | Path, overrides: Sequence[str] | Mapping[str, Any], classes: Sequence[type]) -> tuple[Any, ...]:
    """Reads the objects that a YAML file and a command line describe.

    Args:
        config: YAML file with fields of all classes, in any order, or the name of one that ships, see `configs.find_config`.
        overrides: `{"field": value}`, or `["--field", "value", ...]` whose values are read as YAML; stronger than the file.
        classes: dataclasses.

    Returns:
        One object per class, made by `HfArgumentParser` of transformers.

    Raises:
        ValueError: overrides that are no pairs, a field that no class has, a missing field, text where something else is expected.
        FileNotFoundError: no such file, or none that it names.
    """
    path, given = read_mapping(config, overrides)

    def refused(name: str, problem: str) -> ValueError:
        return ValueError(f"{config}: {problem}{line_in_words(path, name, overrides)}")

    hints = {name: hint for cls in classes for name, hint in get_type_hints(cls).items()}
    known = {field.name: field for cls in classes for field in fields(cls)}
    if unknown := sorted(given.keys() - known.keys()):
        those = f"those of {' and '.join(cls.__name__ for cls in classes)} are known{did_you_mean(unknown[0], known)}"
        raise refused(unknown[0], f"no such fields: {', '.join(unknown)}; {those}")
    required = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    if missing := sorted(required - given.keys()):
        raise ValueError(f"{config}: missing fields: {', '.join(missing)}")
    values = {name: _as_meant(value, hints[name]) for name, value in given.items()}
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            found = f"the text {value!r:.80}" if isinstance(value, str) else f"{value!r:.80}"
            raise refused(name, f"{name} is {found}, expected {_expected(hints[name])}")
        lowest, highest = RANGES.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not lowest <= value <= highest:
            raise refused(
                name, f"{name} is {value!r:.80}, expected {f'at least {lowest}' if highest == math.inf else f'{lowest} to {highest}'}"
            )
    for name in FILES & values.keys():
        if isinstance(values[name], str):  # DeepSpeed's may also be written into the config
            values[name] = str(find_config(values[name], beside=path.parent))
    try:
        return HfArgumentParser(classes).parse_dict(values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # what transformers does not check fails in many ways
        problem = str(error) if isinstance(error, ValueError) else f"a value cannot be meant ({error!r})"
        word = problem.split(maxsplit=1)[0].rstrip(":")
        name = next((name for name, value in values.items() if word in (name, value)), None)
        raise refused(name or "", problem if name in (None, word) else f"{name}: {problem}") from error


def _as_meant(value: Any, hint: Any) -> Any:
    """Undoes two readings of YAML, `1e-3` as text and `no` as False."""
    allowed = _allowed(hint)
    if value is False and str in allowed and bool not in allowed:
        return "no"
    if isinstance(value, str) and float in allowed and str not in allowed:
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _allowed(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_of(value: Any, hint: Any) -> bool:
    """True if a plain value is of the type of a field. Numbers are finite, and True is none; names in mappings are text."""
    kinds = _allowed(hint)
    if len(kinds) > 1:
        return any(_is_of(value, kind) for kind in kinds)
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain, inner = get_origin(hint) or hint, get_args(hint)
    if not isinstance(value, plain):
        return False
    if plain is list and inner:
        return all(_is_of(entry, inner[0]) for entry in value)
    if plain is dict:
        return all(isinstance(name, str) for name in value) and (not inner or all(_is_of(entry, inner[1]) for entry in value.values()))
    return True


def _expected(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return f"{name}; put quotes around it" if str in _allowed(hint) else name
