"""The starting point of training: a language model, a Mask2Former or a backbone, and a projector become one PSALM model.

Source of what the released code does with Phi-1.5 and Mask2Former: docs/checkpoints.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoBackbone,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TimmBackbone,
    TimmBackboneConfig,
)
from transformers.utils import logging

from .compatibility import CACHE
from .configuration_psalm import PsalmConfig, check_parts
from .convert_psalm_checkpoint import (
    convert_mask2former,
    convert_original_name,
    convert_original_weights,
    detectron2_as_original,
    mask2former_sizes,
    read_detectron2_pickle,
    read_json_object,
    read_weights,
    read_weights_file,
    reading,
    split_fused,
)
from .image_processing_psalm import PsalmImageProcessor
from .modeling_psalm import PsalmForSegmentation
from .processing_psalm import PsalmProcessor
from .prompts import PAD_TOKEN, PLACEHOLDERS, prepare_tokenizer

logger = logging.get_logger(__name__)

MAX_LENGTH = 2048  # of prompts, for language models without a limit of their own
VISION = "model.vision_tower."
PIXEL_DECODER = "model.pixel_decoder."
MASK_DECODER = "mask_decoder."
PROJECTOR = "model.projector."
LANGUAGE = "model.language_model."
STRIDES = (4, 8, 16, 32)
# Swin's norm behind the last stage: no feature map passes through it, and backbones saved by transformers 4 do not have it.
UNUSED_NORM = "swin.layernorm."
NOTHING = r"^$"  # pattern of no weight's name


@dataclass(frozen=True)
class StartPart:
    """Part of the model that one source gives.

    Attributes:
        name: of the argument and its value, for messages.
        fields: of `PsalmConfig` that follow from it.
        weights: by our names.
        prefixes: it gives every weight whose name starts with one of these, but for those in `absent`.
        absent: pattern of weights that such a source does not have; they start anew.
    """

    name: str
    fields: dict[str, Any]
    weights: dict[str, Tensor]
    prefixes: tuple[str, ...]
    absent: str = NOTHING


def build_starting_point(
    language_model: str | Path,
    *,
    mask2former: str | Path | None = None,
    backbone: str | Path | None = None,
    projector: str | Path | None = None,
    prompt_style: str = "paper",
    dtype: str | torch.dtype = "float32",
    **config_fields: Any,
) -> tuple[PsalmForSegmentation, PsalmProcessor]:
    """A model to train and its processor, from parts that are folders or Hub ids; the rest starts at random, from torch's generator.

    Args:
        language_model: a decoder-only model that `AutoModelForCausalLM` reads, with its tokenizer; Phi also in the fused layout of
            transformers 4.36, and without its head bias, as released. `[PAD]` (if there is no pad token other than the end token),
            `[SEG]` and the placeholders are added. Embeddings and head keep the rows of known tokens, at their ids, tied or not;
            `[PAD]` starts at the mean of the others, `[SEG]` at random.
        mask2former: detectron2's `model_final_*.pkl` (Swin), or a `Mask2FormerForUniversalSegmentation` folder or Hub id: gives vision
            tower, pixel decoder and mask decoder and their sizes.
        backbone: instead of it a vision tower alone: anything `AutoBackbone` knows that has feature maps of strides 4, 8, 16 and 32, or
            "timm/NAME". Pixel and mask decoder then start at random.
        projector: `mm_projector.bin` of the released stage 1, or a PSALM folder or Hub id, of which nothing else is taken.
        prompt_style: of the processor.
        dtype: of the weights; pixel decoder and mask decoder stay in float32.
        config_fields: further fields of `PsalmConfig`; sizes that a part fixes cannot be changed.

    Returns:
        Model in eval mode, processor.

    Raises:
        ValueError: a part that is not there, is no model of its kind, or does not fit the others; it is named.
    """
    _check_arguments(mask2former, backbone, config_fields)
    image_size = config_fields.get("image_size", PsalmConfig.image_size)
    text_config = read_language_config(language_model)
    tokenizer, known_ids = _read_tokenizer(language_model, text_config)
    placeholder_ids = tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    language = {"text_config": text_config, "tie_word_embeddings": text_config.tie_word_embeddings}
    language |= dict(zip(("image_token_id", "region_token_id", "mask_query_token_id"), placeholder_ids, strict=True))
    parts = [StartPart(f"language_model {language_model}", language, {}, ())]
    if mask2former is not None:
        parts.append(read_mask2former(mask2former, image_size, config_fields))
    if backbone is not None:
        parts.append(read_backbone(backbone))
    if projector is not None:
        parts.append(read_projector(projector))

    settings = _merge_fields(parts, config_fields)
    _choose_head_bias(settings, text_config, language_model)
    config = PsalmConfig.from_dict(settings)
    processor = PsalmProcessor(
        image_processor=PsalmImageProcessor(size={"longest_edge": image_size}),
        tokenizer=tokenizer,
        prompt_style=prompt_style,
        num_queries=config.num_queries if config.decouple_masks else 0,
        image_grid=config.image_grid,
        max_length=getattr(text_config, "max_position_embeddings", None) or MAX_LENGTH,
    )
    if mask2former is None and backbone is None:
        parts.append(_random_vision_tower(config))
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in PsalmForSegmentation(config).state_dict().items()}
    for part in parts[1:]:
        _check_weights(part, shapes)
    parts[0] = _read_language_weights(language_model, config, dtype, known_ids)
    _check_weights(parts[0], shapes)

    weights = {name: tensor for part in parts for name, tensor in part.weights.items()}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a report would list everything that starts at random as missing
    try:
        # Lenient, because it also initialises what no part gives; what the parts must give was checked above.
        model = PsalmForSegmentation.from_pretrained(None, config=config, state_dict=weights, ignore_mismatched_sizes=True, dtype=dtype)
    finally:
        logging.set_verbosity(verbosity)
    for module in (model.model.pixel_decoder, model.mask_decoder):
        module.float()  # loading keeps them so where weights are given, not where they start at random
    return model, processor


def _check_arguments(mask2former: Any, backbone: Any, config_fields: Mapping[str, Any]) -> None:
    if mask2former is not None and backbone is not None:
        raise ValueError("mask2former and backbone were both given; give one: a Mask2Former brings its own backbone")
    own = {field.name for field in fields(PsalmConfig)} - {field.name for field in fields(PreTrainedConfig)}
    unknown = sorted(set(config_fields) - own)
    if unknown:
        raise ValueError(f"PsalmConfig has no field {', '.join(unknown)}; it has {', '.join(sorted(own))}")
    # These are read before the whole configuration is there to check them.
    early = ("image_size", "num_queries", "decouple_masks")
    PsalmConfig.from_dict({name: value for name, value in config_fields.items() if name in early})


def _merge_fields(parts: list[StartPart], config_fields: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(config_fields)
    for part in parts:
        for name, value in part.fields.items():
            if name in config_fields and config_fields[name] != value:
                raise ValueError(
                    f"{part.name}: fixes {name}{'' if name.endswith('_config') else f' to {value}'}, so it cannot be set; leave it out, or "
                    "give another part"
                )
            settings[name] = value
    return settings


def _check_weights(part: StartPart, shapes: Mapping[str, tuple[int, ...]]) -> None:
    expected = {name for name in shapes if name.startswith(part.prefixes) and not re.search(part.absent, name)}
    problems = [f"missing: {name}" for name in sorted(expected - part.weights.keys())]
    problems += [f"unexpected: {name}" for name in sorted(part.weights.keys() - shapes.keys())]
    problems += [
        f"{name} is {tuple(tensor.shape)}, this model needs {shapes[name]}"
        for name, tensor in part.weights.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    if problems:
        raise ValueError(f"{part.name}: its weights do not fit the model ({_first(problems)}); give a complete part of matching sizes")


def _first(problems: list[str]) -> str:
    return "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")


def _folder(source: str | Path) -> Path:
    """The folder itself, or the downloaded Hub repository. Raises OSError or ValueError if there is neither."""
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.bin"]))


def _without_origin(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy without what describes the checkpoint it came from; its dtype would become that of every new weight."""
    origin = ("architectures", "dtype", "_name_or_path", "id2label", "label2id")
    given = {name: value for name, value in config.to_dict().items() if name not in origin}
    return AutoConfig.for_model(given.pop("model_type"), **given)


# Language model


def read_language_config(source: str | Path) -> PreTrainedConfig:
    """Configuration of a decoder-only language model.

    Raises:
        ValueError: there is none, or it is of another kind.
    """
    name = f"language_model {source}"
    with reading(f"{name}: no language model there", "give a folder or Hub id like microsoft/phi-1_5"):
        config = AutoConfig.from_pretrained(source)
    kind = f"{name}: is a {config.model_type} model"
    if config.is_encoder_decoder:
        raise ValueError(f"{kind}, an encoder-decoder; give a decoder-only language model like Phi, Llama or Qwen")
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(f"{kind}, an encoder; give a decoder-only language model like Phi, Llama or Qwen")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.get_text_config() is not config:
        raise ValueError(f"{kind}, which is not a language model alone; give a decoder-only language model like Phi, Llama or Qwen")
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{name}: its weights are quantised; give the full ones")
    accepted = signature(MODEL_MAPPING[type(config)].forward).parameters
    lacking = [argument for argument in ("inputs_embeds", "position_ids", CACHE) if argument not in accepted]
    if lacking:
        raise ValueError(f"{kind}, whose forward takes no {', '.join(lacking)}; give one that does, like Phi, Llama or Qwen")
    with torch.device("meta"):
        width = AutoModelForCausalLM.from_config(config).get_input_embeddings().weight.shape[1]
    if width != config.hidden_size:
        raise ValueError(f"{name}: its embeddings are {width} wide and its states {config.hidden_size}; give one where both are equal")
    return _without_origin(config)


def _read_tokenizer(source: str | Path, text_config: PreTrainedConfig) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer with our tokens, and the ids it had before. Sets vocabulary size and special ids of the configuration."""
    name = f"language_model {source}"
    with reading(f"{name}: no tokenizer there", "save the tokenizer in the same place"):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.eos_token is None:
        raise ValueError(f"{name}: its tokenizer has no eos_token, with which every prompt ends; set it to the end-of-text token")
    known_ids = sorted(set(tokenizer.get_vocab().values()))
    if tokenizer.pad_token == tokenizer.eos_token:  # a label could not tell the end of an answer from padding
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    prepare_tokenizer(tokenizer)
    # The placeholders have no rows.
    text_config.vocab_size = 1 + max(index for token, index in tokenizer.get_vocab().items() if token not in PLACEHOLDERS)
    for special in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text_config, special, getattr(tokenizer, special))
    return tokenizer, known_ids


def _choose_head_bias(settings: dict[str, Any], text_config: PreTrainedConfig, language_model: str | Path) -> None:
    with torch.device("meta"):
        head = AutoModelForCausalLM.from_config(text_config).get_output_embeddings()
    has_bias = getattr(head, "bias", None) is not None
    if settings.setdefault("lm_head_bias", text_config.model_type != "phi" and has_bias) and not has_bias:
        raise ValueError(f"language_model {language_model}: its head has no bias, so lm_head_bias cannot be True; leave it out")


def _read_language_weights(source: str | Path, config: PsalmConfig, dtype: str | torch.dtype, known_ids: list[int]) -> StartPart:
    name = f"language_model {source}"
    causal = _load_causal_model(source, name, dtype)
    _check_causality(causal, name)
    text_config, std = config.text_config, config.initializer_range
    mean_id = None if text_config.pad_token_id in known_ids else text_config.pad_token_id
    resize = {"num_rows": text_config.vocab_size, "known_ids": known_ids, "mean_id": mean_id}
    embeddings, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    weights = {LANGUAGE + key: tensor for key, tensor in causal.base_model.state_dict().items()}
    own = next(key for key, module in causal.base_model.named_modules() if module is embeddings)
    weights[f"{LANGUAGE}{own}.weight"] = fit_vocabulary(embeddings.weight, **resize, std=std)
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = fit_vocabulary(head.weight, **resize, std=std)
    if config.lm_head_bias and head.bias is not None:
        weights["lm_head.bias"] = fit_vocabulary(head.bias[:, None], **resize, std=0.0)[:, 0]
    return StartPart(name, {}, weights, (LANGUAGE, "lm_head."), absent=r"^lm_head\.weight$" if config.tie_word_embeddings else NOTHING)


def _load_causal_model(source: str | Path, name: str, dtype: str | torch.dtype) -> PreTrainedModel:
    with reading(f"{name}: its weights cannot be loaded", "give a complete checkpoint"):
        config = AutoConfig.from_pretrained(source)
        weights = None
        if config.model_type == "phi":  # only here the layout of transformers 4.36 is not understood by today's
            stored = read_weights(_folder(source))
            if any(".query_key_value." in key for key in stored):
                split = (split_fused(key, tensor, config.num_attention_heads) for key, tensor in stored.items())
                weights = {key: tensor for part in split for key, tensor in part.items() if not key.endswith("rotary_emb.inv_freq")}
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        where = source if weights is None else None
        model, info = model_class.from_pretrained(where, config=config, state_dict=weights, dtype=dtype, output_loading_info=True)
    problems = [f"{kind} {key}" for kind in ("missing", "unexpected") for key in sorted(info[f"{kind}_keys"])]
    if problems:
        raise ValueError(f"{name}: its weights do not fit its config.json ({_first(problems)}); give a complete checkpoint")
    return model.eval()


@torch.no_grad()
def _check_causality(causal: PreTrainedModel, name: str) -> None:
    """Two prompts that differ in their second token: the first state must not, and the head should be one linear layer."""
    tokens = torch.tensor([[0, 1], [0, 2]])
    states = causal.base_model(input_ids=tokens).last_hidden_state
    if not torch.allclose(states[0, 0], states[1, 0], rtol=1e-2, atol=1e-3):
        raise ValueError(f"{name}: its states depend on later tokens; give a decoder-only language model like Phi, Llama or Qwen")
    if not torch.allclose(causal(input_ids=tokens).logits, causal.get_output_embeddings()(states), rtol=1e-2, atol=1e-3):
        logger.warning(f"{name}: scales or caps its logits, PSALM does not: the language loss starts higher than the model's own")


def fit_vocabulary(matrix: Tensor, *, num_rows: int, known_ids: list[int], mean_id: int | None, std: float) -> Tensor:
    """The rows of known tokens at their ids, in a matrix of another height.

    Args:
        matrix: (V, D), rows of the tokens 0..V-1; a matrix may be higher than its tokenizer.
        num_rows: height of the result.
        known_ids: token ids whose rows are kept, as far as the matrix has them.
        mean_id: gets the mean of the kept rows, taken in float32; None: no row does.
        std: every other row is drawn from a normal distribution of this width.

    Returns:
        (num_rows, D) of the matrix's dtype.
    """
    fitted = torch.empty(num_rows, matrix.shape[1]).normal_(std=std).to(matrix.dtype)
    kept = torch.tensor([index for index in known_ids if index < min(len(matrix), num_rows)])
    rows = matrix.detach()[kept]
    fitted[kept] = rows
    if mean_id is not None:
        fitted[mean_id] = rows.float().mean(dim=0).to(matrix.dtype)
    return fitted


# Vision tower, pixel decoder, mask decoder


def read_mask2former(source: str | Path, image_size: int, config_fields: Mapping[str, Any]) -> StartPart:
    """Vision tower, pixel decoder and mask decoder of a Mask2Former.

    Its lateral and output convolutions have no bias: ours start at 0. Of more query positions than asked for, the first are kept. Its
    class head and query contents have no place here; the condition heads start anew.

    Raises:
        ValueError: no Mask2Former there; sizes that PSALM cannot take; too few query positions.
    """
    name = f"mask2former {source}"
    if Path(source).is_file():
        original = detectron2_as_original(read_detectron2_pickle(source))
        with reading(f"{name}: has not all weights", "give a complete Mask2Former with a Swin backbone"):
            sizes = mask2former_sizes({key: tuple(tensor.shape) for key, tensor in original.items()}, image_size)
        weights = convert_original_weights(original, num_text_heads=1)
    else:
        sizes, weights = _read_transformers_mask2former(source, name)
    for bias in ("lateral.0.bias", "output.0.bias"):
        weights.setdefault(PIXEL_DECODER + bias, torch.zeros(sizes["hidden_dim"]))
    positions = f"{MASK_DECODER}query_positions.weight"
    if not config_fields.get("decouple_masks", PsalmConfig.decouple_masks):
        weights.pop(positions, None)
    elif positions in weights:
        num_queries = config_fields.get("num_queries", PsalmConfig.num_queries)
        if len(weights[positions]) < num_queries:
            raise ValueError(f"{name}: has {len(weights[positions])} query positions; set num_queries to at most that, not {num_queries}")
        weights[positions] = weights[positions][:num_queries]
    absent = r"^mask_decoder\.(category|sentence|region)_head\."
    return StartPart(name, sizes, weights, (VISION, PIXEL_DECODER, MASK_DECODER), absent)


def _read_transformers_mask2former(source: str | Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with reading(f"{name}: no Mask2Former there", "give detectron2's .pkl, a folder or a Hub id"):
        config = AutoConfig.from_pretrained(source)
        if config.model_type != "mask2former":
            raise ValueError(f"it is a {config.model_type} model")
        model, info = Mask2FormerForUniversalSegmentation.from_pretrained(source, output_loading_info=True)
    if missing := sorted(key for key in info["missing_keys"] if UNUSED_NORM not in key):
        raise ValueError(f"{name}: {len(missing)} weights are missing, {missing[0]} first; give all of them")
    if not config.hidden_dim == config.feature_size == config.mask_feature_size or config.pre_norm:
        widths = (config.hidden_dim, config.feature_size, config.mask_feature_size)
        raise ValueError(f"{name}: hidden_dim, feature_size, mask_feature_size {widths} must be equal, and pre_norm off")
    sizes = {
        "vision_config": _without_origin(config.backbone_config),
        "hidden_dim": config.hidden_dim,
        "num_heads": config.num_attention_heads,
        "encoder_layers": config.encoder_layers,
        "encoder_ffn_dim": config.encoder_feedforward_dim,
        "decoder_layers": config.decoder_layers - 1,  # transformers also counts the prediction in front of the first layer
        "decoder_ffn_dim": config.dim_feedforward,
    }
    return sizes, convert_mask2former(model.state_dict())


def read_backbone(source: str | Path) -> StartPart:
    """A vision tower with feature maps of strides 4, 8, 16 and 32.

    Raises:
        ValueError: no backbone there, or one with other feature maps.
    """
    name = f"backbone {source}"
    if str(source).startswith("timm/"):
        import timm

        model_name = str(source).removeprefix("timm/")
        check_parts(TimmBackboneConfig(backbone=model_name))
        with reading(f"{name}: timm cannot give its feature maps", "give another model"):
            with torch.device("meta"):
                reductions = timm.create_model(model_name, features_only=True).feature_info.reduction()
            indices = [level for level, reduction in enumerate(reductions) if reduction in STRIDES]
            model = TimmBackbone.from_pretrained(model_name, out_indices=indices)
    else:
        model = _load_backbone(source, name)
    return _vision_part(model, name, {"vision_config": _without_origin(model.config)})


def _random_vision_tower(config: PsalmConfig) -> StartPart:
    # Drawn here, not by the model's own initialisation, which does not know how timm's towers start.
    name = "vision_config"
    with reading(f"{name}: not a backbone", "give the configuration of one that AutoBackbone knows"):
        check_parts(config.vision_config)
        model = AutoBackbone.from_config(config.vision_config)
    return _vision_part(model, name, {})


@torch.no_grad()
def _vision_part(model: PreTrainedModel, name: str, part_fields: dict[str, Any]) -> StartPart:
    side = 128
    with reading(f"{name}: cannot encode a {side} x {side} image", "give one that takes any size"):
        maps = model.eval()(torch.zeros(1, 3, side, side)).feature_maps
    found = tuple(side // feature_map.shape[-1] for feature_map in maps)
    if found != STRIDES:
        raise ValueError(f"{name}: gives {len(found)} feature maps of strides {found}; give one with four, of strides {STRIDES}")
    weights = {VISION + key: tensor for key, tensor in model.state_dict().items() if not key.startswith(UNUSED_NORM)}
    return StartPart(name, part_fields, weights, (VISION,))


def _load_backbone(source: str | Path, name: str) -> PreTrainedModel:
    with reading(f"{name}: no backbone with feature maps of strides 4, 8, 16, 32 there", "give Swin, ConvNeXt, or timm/NAME"):
        config = AutoConfig.from_pretrained(source)
        if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
            raise ValueError(f"AutoBackbone does not know {config.model_type}")
        check_parts(config)
        if config.model_type == "timm_backbone":  # its own from_pretrained asks timm and leaves the folder's weights unread
            model = AutoBackbone.from_config(config)
            model.load_state_dict(read_weights(_folder(source)))
            return model
        stages = config.stage_names or []
        if len(stages) < 4:
            raise ValueError(f"it has {len(stages)} stages")
        config.set_output_features_output_indices(out_features=list(stages[-4:]), out_indices=None)
        model, info = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(source, config=config, output_loading_info=True)
    # A classifier has no norms on its feature maps; they start as identities.
    missing = [key for key in sorted(info["missing_keys"]) if "hidden_states_norms" not in key and UNUSED_NORM not in key]
    if missing:
        raise ValueError(f"{name}: {len(missing)} weights are missing, {missing[0]} first; give a complete checkpoint")
    return model


# Projector


def read_projector(source: str | Path) -> StartPart:
    """The projector of stage 1: the released `mm_projector.bin` (any prefix before `mm_projector.`), or that of a PSALM folder.

    The released stage 1 saved parameters only, so the batch norms' running statistics may be absent: they then start as new ones, and
    a warning says so, because such a model must train before it is evaluated.

    Raises:
        ValueError: no projector there.
    """
    name = f"projector {source}"
    if Path(source).is_file():
        weights = {}
        for key, tensor in read_weights_file(source).items():
            _, found, rest = key.partition("mm_projector.")
            weights[convert_original_name(f"model.mm_projector.{rest}") if found else key] = tensor
        part_fields: dict[str, Any] = {"projector_type": "residual_conv", "projector_positions": False}
        conv = weights.get(f"{PROJECTOR}reduce.conv1.weight")
        if conv is not None:
            part_fields["projector_width"] = conv.shape[0]
    else:
        with reading(f"{name}: no projector there", "give mm_projector.bin or the folder of a stage 1"):
            folder = _folder(source)
            config_file = read_json_object(folder / "config.json")
            if config_file.get("model_type") != PsalmConfig.model_type:
                raise ValueError(f"it is a {config_file.get('model_type')} model")
            config = PsalmConfig.from_pretrained(folder)
            weights = {key: tensor for key, tensor in read_weights(folder).items() if key.startswith(PROJECTOR)}
        own = ("projector_type", "projector_width", "projector_stride", "projector_level", "projector_positions")
        part_fields = {field: getattr(config, field) for field in own}
    statistics = r"\.(running_mean|running_var|num_batches_tracked)$"
    if part_fields["projector_type"] != "residual_conv" or any(re.search(statistics, key) for key in weights):
        return StartPart(name, part_fields, weights, (PROJECTOR,))
    logger.warning(f"{name}: no running statistics of its batch norms; train before evaluating this model")
    return StartPart(name, part_fields, weights, (PROJECTOR,), absent=statistics)


__all__ = ["build_starting_point"]
