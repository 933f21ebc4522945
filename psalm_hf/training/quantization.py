"""Language model in 8 or 4 bits, by bitsandbytes, under adapters; everything else keeps its precision."""

from typing import Any

import torch
from transformers import BitsAndBytesConfig, TrainingArguments
from transformers.utils import is_bitsandbytes_available

# Regular expression for every module outside of the language model.
OTHER_MODULES = r"(?!model\.language_model\.).*"


def check_bits(bits: int | None) -> None:
    """Refuses what cannot be loaded, before anything is.

    Raises:
        ValueError: neither None, 8 nor 4; bitsandbytes is not installed, or too old for transformers.
    """
    if bits is None:
        return
    if bits not in (8, 4) or isinstance(bits, bool):
        raise ValueError(f"language_model_bits is {bits!r}, expected 8 or 4, or nothing for full precision")
    if not is_bitsandbytes_available():
        raise ValueError(
            f"language_model_bits: {bits} needs bitsandbytes, which is not installed or too old; pip install -U bitsandbytes, or leave "
            "language_model_bits out"
        )


def quantization_options(bits: int | None, training: TrainingArguments) -> dict[str, Any]:
    """Keywords of `from_pretrained` for a language model in so many bits; none for None.

    It is quantised on the device of the run, where it stays. Layers in 4 bits multiply in the run's precision.

    Args:
        bits: 8 (LLM.int8, arXiv:2208.07339) or 4 (normal floats with quantised scales, QLoRA, arXiv:2305.14314).

    Raises:
        ValueError: as of `check_bits`.
    """
    check_bits(bits)
    if bits is None:
        return {}
    config = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        llm_int8_skip_modules=[OTHER_MODULES],
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": training.device}}
