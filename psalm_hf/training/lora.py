"""LoRA through peft: low-rank adapters on the language model, while the parts that PSALM adds are trained fully and saved with them.

peft is imported when a function here needs it, so that a merged folder, and everything else, works without.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..checkpoints.writing import check_absent, write_checkpoint
from ..devices import kept_torch_state
from ..model.convert_psalm_checkpoint import check_weights, read_json_object, reading
from ..model.modeling_psalm import PsalmForSegmentation
from ..model.processing_psalm import PsalmProcessor
from ..model.prompts import SEG_TOKEN

if TYPE_CHECKING:
    from peft import PeftModel

LANGUAGE_MODEL, VISION_TOWER = "model.language_model", "model.vision_tower"


@dataclass(frozen=True)
class LoraOptions:
    """Options of adapters, `lora` of a training config.

    Args:
        rank: of the two factors of every adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        dropout: on the input of an adapter, in training.
        targets: linear layers of the language model by the end of their names ("q_proj", "mlp.fc1"); empty = all of them.

    Raises:
        ValueError: a value out of range.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self):
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"lora: rank is {self.rank!r}, expected a whole number of at least 1")
        if not _is_number(self.alpha) or not self.alpha > 0:
            raise ValueError(f"lora: alpha is {self.alpha!r}, expected a number above 0")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"lora: dropout is {self.dropout!r}, expected a number from 0 to below 1")
        if not isinstance(self.targets, list) or not all(isinstance(name, str) for name in self.targets):
            raise ValueError(f"lora: targets is {self.targets!r}, expected a list of names of layers, such as [q_proj, v_proj]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def read_lora(given: Mapping[str, Any]) -> LoraOptions | None:
    """`lora` of a config; None for an empty one, which means no adapters.

    Raises:
        ValueError: a key that does not exist, a value out of range, or peft is not installed.
    """
    if not given:
        return None
    known = [entry.name for entry in fields(LoraOptions)]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"lora: no such options: {', '.join(unknown)}; known are {', '.join(known)}")
    options = LoraOptions(**given)
    if find_spec("peft") is None:
        raise ValueError("lora: adapters need peft, which is not installed; pip install peft, or leave lora out")
    return options


def target_pattern(model: PsalmForSegmentation, targets: Sequence[str] = ()) -> str:
    """Regular expression for the full names of the layers that get an adapter: linear ones inside of the language model only.

    Raises:
        ValueError: a target that is the end of no linear layer's name.
    """
    names = [
        name.removeprefix(f"{LANGUAGE_MODEL}.")
        for name, module in model.named_modules()
        if name.startswith(f"{LANGUAGE_MODEL}.") and isinstance(module, nn.Linear | Conv1D)
    ]
    kinds = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise ValueError(f"lora: the language model has no linear layer {target!r}; it has {', '.join(kinds)}")
    return rf"{re.escape(LANGUAGE_MODEL)}\.(.*\.)?({'|'.join(map(re.escape, targets or kinds))})"


def new_modules(model: PsalmForSegmentation) -> list[str]:
    """Names in the state dict of the modules that PSALM adds to a vision tower and a language model (projector, decoders, ...)."""
    inner = [f"model.{name}" for name, _ in model.model.named_children()]
    outer = [name for name, _ in model.named_children() if name not in ("model", "lm_head")]
    return [name for name in [*inner, *outer] if name not in (LANGUAGE_MODEL, VISION_TOWER)]


def add_adapters(
    model: PsalmForSegmentation, processor: PsalmProcessor, options: LoraOptions, *, learning_rates: Collection[str] = (), seed: int = 0
) -> "PeftModel":
    """Puts adapters on the language model and freezes its own weights; what PSALM adds, and the embedding of `[SEG]`, learn fully.

    The embedding of `[PAD]` stays: padding is attended by nothing, so it has no gradient. The vision tower is frozen.

    Args:
        model: changed in place.
        learning_rates: submodules with a rate of their own; the vision tower, or parts of it, learn if they are named here.
        seed: of the first values of the adapters, the same on every process.

    Returns:
        The model inside of peft's; `save_pretrained` writes the adapter folder.

    Raises:
        ValueError: a target that the language model does not have; a head with a bias that is tied to the embeddings.
    """
    from peft import LoraConfig, get_peft_model

    if model.config.tie_word_embeddings and model.lm_head.bias is not None:
        # peft computes a tied head from the embedding matrix alone
        raise ValueError("lora: the language head is tied to the embeddings and has a bias, which peft drops; set lm_head_bias: false")
    embeddings = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    tower = [name for name in learning_rates if f"{name}.".startswith(f"{VISION_TOWER}.")]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=target_pattern(model, options.targets),
        modules_to_save=[*new_modules(model), *(name for name in tower if not any(name.startswith(f"{other}.") for other in tower))],
        trainable_token_indices={embeddings: [processor.tokenizer.convert_tokens_to_ids(SEG_TOKEN)]},
    )
    with kept_torch_state():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def without_adapters(model: nn.Module) -> nn.Module:
    """Returns the PSALM model inside of peft's; any other model is itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def plain_name(name: str) -> str:
    """Name of a module or parameter without the parts that peft adds: "base_model.model.lm_head" -> "lm_head", and so on inside of modules
    that are trained fully ("model.projector.modules_to_save.default.linear" -> "model.projector.linear")."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".original_module", "")


def load_adapter(adapter: str | Path, base: str | Path | None = None, **options: Any) -> "PeftModel":
    """Loads the model of an adapter folder, for inference.

    Args:
        adapter: folder or Hub id with adapter_config.json.
        base: folder or Hub id of the model that it was trained on; default the one that the adapter names.
        options: of `PsalmForSegmentation.from_pretrained`: dtype, quantization_config, ...

    Raises:
        ValueError: no adapter there, or one that was not made from a PSALM model.
    """
    from peft import PeftConfig, PeftModel

    try:
        if Path(adapter).is_dir():
            check_weights(adapter)
            read_json_object(Path(adapter, "adapter_config.json"))
        config = PeftConfig.from_pretrained(str(adapter))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{adapter}: no adapter (adapter_config.json) there that can be read ({reason}); give the folder that a run with lora wrote"
        ) from error
    if config.peft_type != "LORA":
        expected = "expected LORA; give the folder that a run with lora wrote"
        raise ValueError(f"{adapter}: is an adapter of the kind {config.peft_type!r:.40}, {expected}")
    base = base or config.base_model_name_or_path
    if not base or not isinstance(base, str | Path):
        raise ValueError(f"{adapter}: the adapter does not say which model it was trained on; name it (base)")
    model = PsalmForSegmentation.from_pretrained(base, **options)
    with reading(f"{adapter}: its adapter does not fit {base}", "give the model that it was trained on"):
        return PeftModel.from_pretrained(model, str(adapter), config=config).eval()


def merge_adapter(adapter: str | Path, output: str | Path, base: str | Path | None = None, **options: Any) -> None:
    """Writes the model of an adapter folder, and its processor, as an ordinary folder that needs no peft.

    A model that was trained over 8 or 4 bits is merged into its full weights: its outputs differ by the error of the quantisation.

    Args:
        adapter, base, options: as of `load_adapter`.
        output: a new folder, see `write_checkpoint`.

    Raises:
        ValueError: `output` exists; no adapter.
    """
    check_absent(Path(output))
    model = load_adapter(adapter, base, **options).merge_and_unload(safe_merge=True)
    write_checkpoint(Path(output), model, PsalmProcessor.from_pretrained(adapter))
