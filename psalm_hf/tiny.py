"""A tiny PSALM with random weights and a byte-level tokenizer: seconds to build, every task runs, nothing is recognised."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .devices import kept_torch_state
from .model.configuration_psalm import PsalmConfig
from .model.image_processing_psalm import PsalmImageProcessor
from .model.modeling_psalm import PsalmForSegmentation
from .model.processing_psalm import PsalmProcessor

TINY_SIZES: dict[str, Any] = {
    "image_size": 128,
    "vision_config": {
        "model_type": "swin",
        "image_size": 128,
        "embed_dim": 16,
        "depths": [1, 1, 2, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 4,
        "drop_path_rate": 0.0,
    },
    "projector_width": 32,
    "projector_level": 2,
    "num_queries": 12,
    "hidden_dim": 32,
    "num_heads": 4,
    "encoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_layers": 3,
    "decoder_ffn_dim": 64,
    "train_num_points": 256,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte of UTF-8, `<|endoftext|>`, `[PAD]` and `[SEG]`: any text is tokenised, nothing is learned."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="[PAD]",
        additional_special_tokens=["[SEG]"],
        model_max_length=2048,
    )


def build_tiny(seed: int = 0, **overrides: Any) -> tuple[PsalmForSegmentation, PsalmProcessor]:
    """A randomly initialised model in eval mode and its processor; the same seed gives the same weights.

    Args:
        overrides: `PsalmConfig` fields that replace those of the tiny model.
    """
    tokenizer = byte_tokenizer()
    text_config = {
        "model_type": "phi",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = PsalmConfig(**({"text_config": text_config} | TINY_SIZES | overrides))
    with kept_torch_state():
        torch.manual_seed(seed)
        model = PsalmForSegmentation(config).eval()
    processor = PsalmProcessor(
        image_processor=PsalmImageProcessor(size={"longest_edge": config.image_size}),
        tokenizer=tokenizer,
        num_queries=config.num_queries if config.decouple_masks else 0,
        image_grid=config.image_grid,
        max_length=config.text_config.max_position_embeddings,
    )
    return model, processor
