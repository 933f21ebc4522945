"""The PSALM model: outputs -> projector -> pooling -> PsalmPreTrainedModel -> PsalmModel -> PsalmForSegmentation.

B rows (a row is one prompt on one image), I images, G image tokens, Q mask queries, K categories, R regions, T tokens, D language
width, C mask width, h, w = H/4, W/4. Source: the paper (arXiv:2403.14598) and the released code, see docs/model.md.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoBackbone, AutoModel, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers import initialization as init
from transformers.generation.candidate_generator import CandidateGenerator, PromptLookupCandidateGenerator
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention
from transformers.models.swin.modeling_swin import SwinBackbone
from transformers.utils import can_return_tuple

from .batch import BatchRows, common_image_prefix, compacted, first_rows, positions, read_rows
from .compatibility import CACHE, CACHE_NAMES, READS_ADAPTERS, given_cache
from .configuration_psalm import PsalmConfig, check_parts, trusting
from .convert_psalm_checkpoint import (
    check_weights,
    load_original_checkpoint,
    locate_checkpoint,
    locate_original_folder,
    naming,
    slices_to_convert,
)
from .losses import Prediction, segmentation_losses
from .mask_decoder import PsalmMaskDecoder, PsalmPixelDecoder, RowLayout
from .prefix import ReadPrefix, cache_behind, layers_of, shared_cache
from .prompts import CATEGORY, CONVERSATION, IGNORED_LABEL, REGION, ROW_KINDS, SENTENCE

# What it can be loaded with; psalm_hf registers these names, and a saved folder lists them.
AUTO_CLASSES = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForUniversalSegmentation")

# Sampling locations and mask logits need more than half precision's 8 to 11 bits at stride 4 of 1024 pixels.
IN_FLOAT32 = ("pixel_decoder", "mask_decoder")


@dataclass
class PsalmImageFeatures(BaseModelOutputWithPooling):
    """Features of I images, before any prompt; compute once, prompt often.

    Args:
        last_hidden_state: (I, positions, channels), a view of the vision tower's last feature map; nothing here reads it.
        pooler_output: the image tokens under the name that they have in transformers; the same tensor, not a copy.
        hidden_states, attentions: of the vision tower, on request.
        image_tokens: (I, G, D), row-major over the token grid.
        mask_features: (I, C, h, w), or None if only the language model needs the image.
        multi_scale: maps of strides 32, 16, 8, each (I, C, ., .), or None.
        prefix: the beginning of the prompts of the last call, up to the end of the image. `forward` keeps it here, outside of training and
            without gradients, and the next prompt that begins alike is read from there on. In the released model 123 MB per image in
            float32. `use_cache=False` keeps and uses nothing. Encode the image again when the weights have changed.
    """

    image_tokens: Tensor | None = None
    mask_features: Tensor | None = None
    multi_scale: tuple[Tensor, Tensor, Tensor] | None = None
    prefix: ReadPrefix | None = None


@dataclass
class PsalmModelOutput(BaseModelOutputWithPast):
    """
    Args:
        last_hidden_state: (B, T, D), after the language model's final norm.
        cache, hidden_states, attentions: of the language model; the cache is called `past_key_values` before transformers 5.24.
        query_embeds: (B, Q, C), projected mask-query states; zero for conversation rows; None if there is no other row.
        condition_embeds: (B, K, C), projected mean state of each condition; zero beyond a row's own number.
        image_features: `PsalmImageFeatures` of the I images; without images None, in training those of a blank one.
        image_index: (B,) int64, the image of each row, -1 for none.
        rows: what Python knows of the rows, with the tensors that their kinds and conditions were read from.
    """

    query_embeds: Tensor | None = None
    condition_embeds: Tensor | None = None
    image_features: PsalmImageFeatures | None = None
    image_index: Tensor | None = None
    rows: BatchRows | None = None


@dataclass
class PsalmSegmentationOutput(CausalLMOutputWithPast):
    """
    Args:
        loss: sum of `losses`, with targets.
        logits: (B, T', V), the language head on the positions asked for (`logits_to_keep`).
        cache, hidden_states, attentions: of the language model; the cache is called `past_key_values` before transformers 5.24.
        losses: every weighted term by name.
        masks_queries_logits: (B, Q, h, w), before the sigmoid; zero for conversation rows.
        class_queries_logits: (B, Q, K_max + 1), present when some row is of the category kind. `background` (no object) is the last
            column of every row; columns K_b .. K_max-1 of a shorter row hold the smallest float.
        referring_queries_logits: (B, Q, 1), present when some row is a sentence.
        region_queries_logits: (B, R_max, Q), present when some row holds regions; rows beyond R_b hold the smallest float.
        num_conditions: (B,) int64: K_b + 1 (`background` included), 1, R_b or 0.
        condition_type: (B,) int64: 0 category, 1 sentence, 2 region, 3 none.
        image_index: (B,) int64, the image of each row, -1 for none.
        auxiliary_outputs: the mask and similarity logits of the earlier depths, on request (`output_auxiliary_logits=True`).
        image_features: on request (`output_image_features=True`).
    """

    losses: dict[str, Tensor] | None = None
    masks_queries_logits: Tensor | None = None
    class_queries_logits: Tensor | None = None
    referring_queries_logits: Tensor | None = None
    region_queries_logits: Tensor | None = None
    num_conditions: Tensor | None = None
    condition_type: Tensor | None = None
    image_index: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    image_features: PsalmImageFeatures | None = None


class PsalmResidualConv(nn.Module):
    """Residual block in front of the projector's linear layer. Its second convolution is applied twice with nothing between:
    the released weights were trained so."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(in_channels, width, kernel_size=1, stride=stride, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.shortcut_norm(self.shortcut(x))
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(self.conv2(x))) + residual)


class PsalmProjector(nn.Module):
    """One feature map of the vision tower -> image tokens of language width."""

    def __init__(self, config: PsalmConfig, in_channels: int):
        super().__init__()
        stride, width = config.projector_stride, config.projector_width
        if config.projector_type == "residual_conv":
            self.reduce = PsalmResidualConv(in_channels, width, stride)
        else:
            self.reduce = nn.AvgPool2d(stride, ceil_mode=True)
            width = in_channels
        self.linear = nn.Linear(width, config.text_config.hidden_size)
        self.positions = None
        if config.projector_positions:
            self.positions = nn.Parameter(torch.zeros(config.image_grid[0] * config.image_grid[1], config.text_config.hidden_size))

    def forward(self, feature_map: Tensor) -> Tensor:
        """(I, channels, ., .) -> (I, G, D), tokens row-major."""
        tokens = self.linear(self.reduce(feature_map).flatten(2).transpose(1, 2))  # (I, G, D)
        return tokens if self.positions is None else tokens + self.positions


def pool_conditions(hidden_states: Tensor, condition_index: Tensor, num_conditions: int) -> Tensor:
    """Mean state of each condition's tokens.

    Args:
        hidden_states: (B, T, D); condition_index: (B, T), 0 = none, c + 1 = condition c.

    Returns:
        (B, num_conditions, D), zero for a condition without tokens. The mean is taken in float32.
    """
    numbers = torch.arange(1, num_conditions + 1, device=condition_index.device)
    member = (condition_index[:, None, :] == numbers[None, :, None]).float()  # (B, K, T)
    member = member / member.sum(-1, keepdim=True).clamp(min=1)
    return torch.bmm(member, hidden_states.float()).to(hidden_states.dtype)


_MIN_ROWS = 16


def pool_regions(region_weights: Tensor, image_tokens: Tensor, token_index: Tensor) -> Tensor:
    """Region features: weighted means over the tokens of the image a region was drawn on.

    Args:
        region_weights: (B, R, G), each region's weights sum to 1.
        image_tokens: (J, G, D); token_index: (B, R) int64, which of the J images.

    Returns:
        (B, R, D). Source: released region pooling, whose 256 sampled points are such weights; see docs/prompts.md.
    """
    num_regions = region_weights.shape[1]
    # Libraries for CPUs have other kernels for products of few rows, so that the bits of a region's feature would depend on its batch.
    padded = nn.functional.pad(region_weights, (0, 0, 0, max(0, _MIN_ROWS - num_regions))).to(image_tokens.dtype)
    pooled = torch.einsum("brg,jgd->brjd", padded, image_tokens)[:, :num_regions]
    # Every region over every image, then the right ones: a product with zeros would carry NaN of one image into the others' rows.
    return pooled.take_along_dim(token_index[:, :, None, None], dim=2)[:, :, 0]


class PsalmPreTrainedModel(PreTrainedModel):
    config: PsalmConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PsalmMaskDecoderLayer", "PsalmPixelDecoder", "PsalmProjector"]
    _skip_keys_device_placement = [*CACHE_NAMES, "image_features"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # Modules whose parameters all sit in their children are skipped for code outside the library; some of ours set children.
        super()._initialize_weights(module, False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
            _init_sampling_ring(module)
        elif isinstance(module, PsalmPixelDecoder):
            init.normal_(module.level_embed, std=1.0)
            for project in module.input_projections:
                init.xavier_uniform_(project[0].weight)
        elif isinstance(module, PsalmMaskDecoder):
            for parameter in module.layers.parameters():
                if parameter.dim() > 1:
                    init.xavier_uniform_(parameter)
            for head in (module.mask_head, module.category_head, module.sentence_head, module.region_head):
                _init_default_linear(head)
            init.normal_(module.level_embed.weight)
            if module.decouple_masks:
                init.normal_(module.query_positions.weight)
        elif isinstance(module, PsalmProjector):
            _init_default_linear(module)
            if module.positions is not None:
                init.normal_(module.positions, std=self.config.initializer_range)
        elif isinstance(module, PsalmModel):
            if self.config.decouple_masks:
                init.zeros_(module.mask_queries.weight)
            for projection in (module.query_projection, module.category_projection, module.sentence_projection):
                _init_default_linear(projection)

    def init_parallel_plans(self) -> None:
        """Names the blocks that are called as a whole, which `DistributedConfig(fsdp_size=...)` gathers and frees together, and the
        embedding that a head is tied to: `tp_size` divides both alike. (transformers 5.24 names it too, 5.17 does not.)"""
        super().init_parallel_plans()
        if self._tp_plan and self.config.tie_word_embeddings:
            for owner in (self._tied_weights_keys or {}).values():
                self._tp_plan.setdefault(owner.removesuffix(".weight"), "embedding_rowwise")
        blocks = (name for name, module in self.named_modules() if name and type(module).__name__ in self._no_split_modules)
        self._fsdp_plan = {re.sub(r"\.\d+(?=\.|$)", ".*", name): "free_full_weight" for name in blocks}

    @classmethod
    def maybe_distribute_model(cls, model: nn.Module, distributed_config: Any, *args: Any) -> nn.Module:
        """Divides the model among processes, for `from_pretrained(distributed_config=...)`, before weights are read; ties them first.

        transformers ties after reading, when FSDP2 has already taken the head and the embedding for two weights. It then gathers each from
        a copy of its own where the vocabulary leaves a remainder among the processes, and an optimizer changes one of the copies only.
        """
        if distributed_config is not None and distributed_config.fsdp_size > 1:
            model.tie_weights(recompute_mapping=False)
        return super().maybe_distribute_model(model, distributed_config, *args)

    def gather_sharded_state_dict_for_save(self, model_to_save: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Gathers a divided model without the second copy of tied weights: gathered, one weight of two names has become two tensors."""
        gathered = super().gather_sharded_state_dict_for_save(model_to_save, *args, **kwargs)
        for target, source in model_to_save.all_tied_weights_keys.items():
            if source in gathered and model_to_save.get_parameter(target) is model_to_save.get_parameter(source):
                gathered.pop(target, None)
        return gathered

    def enable_input_require_grads(self) -> None:
        # The inherited version also hooks the vision tower's patch embeddings, whose output is a tuple in Swin; adapters on a frozen
        # language model need the text embeddings only.
        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(_require_grad_of_output)
        self._require_grads_hooks = [self._require_grads_hook]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a folder or Hub repository: our own format, or an original PSALM checkpoint (`model_type: llava_phi`); or "psalm-tiny".

        Takes the keywords of `PreTrainedModel.from_pretrained`. Loading is strict: nothing is initialised silently. Only with
        `trust_remote_code=True` may the configuration name a vision tower that timm looks up on the Hub or in another folder.

        Raises:
            ValueError: a file of weights is damaged, lies outside of the folder or holds more than tensors; keys are missing, unexpected or
                of another shape; the message lists them. `ignore_mismatched_sizes=True` turns this off, and new weights are initialised.
        """
        original, name = None, pretrained_model_name_or_path
        pretrained_model_name_or_path = locate_checkpoint(name)
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            with naming(pretrained_model_name_or_path):
                original = locate_original_folder(pretrained_model_name_or_path, kwargs, ["*.json", "*.bin", "*.safetensors"])
        if original is not None:
            wanted = kwargs.get("dtype", kwargs.get("torch_dtype"))
            wanted = getattr(torch, wanted, None) if isinstance(wanted, str) else wanted  # "auto": as stored
            if not isinstance(wanted, torch.dtype) or kwargs.get("quantization_config"):  # quantised from the stored precision
                wanted = None
            fields, kwargs["state_dict"] = load_original_checkpoint(original, wanted, IN_FLOAT32)
            kwargs["config"] = cls.config_class.from_dict(fields)
            pretrained_model_name_or_path = None
        elif pretrained_model_name_or_path is not None and Path(pretrained_model_name_or_path).is_dir():
            check_weights(Path(pretrained_model_name_or_path, kwargs.get("subfolder", "")))
        wants_info, lenient = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
        with naming(pretrained_model_name_or_path), trusting(bool(kwargs.get("trust_remote_code"))):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        if not lenient:
            _check_loading(info, original or pretrained_model_name_or_path)
        _check_ties(model, original or pretrained_model_name_or_path)
        if original is not None:
            model.name_or_path = model.config.name_or_path = str(original)
        elif str(name) != str(pretrained_model_name_or_path):  # a name that everybody can load, where its folder is of this machine
            model.name_or_path = model.config.name_or_path = str(name)
        return (model, info) if wants_info else model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        # DeepSpeed's ZeRO-3 hands weights on as whole tensors.
        if state_dict is None and not is_deepspeed_zero3_enabled():
            state_dict = slices_to_convert(checkpoint_files or (), load_config.dtype)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """Saves as `PreTrainedModel` does, always in our own key names, so that a saved folder reloads bit for bit."""
        if self._auto_class in AUTO_CLASSES:  # transformers lists this one only
            name = f"{__name__.rpartition('.')[2]}.{PsalmForSegmentation.__name__}"
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | dict.fromkeys(AUTO_CLASSES, name)
        with in_plain_class(self):  # the folder gets the code and the name of the class
            return super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module was made with: FSDP2 gives what it divides a class of its own, a subclass defined in torch."""
    return next(cls for cls in type(module).__mro__ if not cls.__module__.startswith("torch.distributed."))


@contextmanager
def in_plain_class(module: nn.Module) -> Iterator[None]:
    """Makes `type(module)` its `plain_class` inside: code that is saved is looked for there."""
    current, module.__class__ = type(module), plain_class(module)
    try:
        yield
    finally:
        module.__class__ = current


def _require_grad_of_output(module: nn.Module, args: tuple, output: Tensor) -> None:
    output.requires_grad_(True)


def _check_loading(info: dict, source: Any) -> None:
    problems = {name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]}
    if problems:
        if not READS_ADAPTERS and any(".modules_to_save." in key for key in problems.get("missing_keys", ())):
            raise ValueError(
                f"{source}: is an adapter folder, whose fully trained parts transformers {transformers.__version__} does not read; load it "
                "by psalm_hf.training.lora.load_adapter, or install transformers 5.18 or later"
            )
        listing = "\n".join(f"  {name.replace('_', ' ')}: {key}" for name, keys in problems.items() for key in keys)
        raise ValueError(
            f"{source}: weights do not fit the model; expected exactly its own keys and shapes, found\n{listing}\n"
            "Load a complete checkpoint, correct its config.json, or pass ignore_mismatched_sizes=True to initialise the rest"
        )


def _check_ties(model: PreTrainedModel, source: Any) -> None:
    """A folder with two weights where its config ties them is read as it is, with a warning; a model divided as tied would train one."""
    is_divided = getattr(model, "_is_fsdp_managed_module", False)
    if is_divided and (untied := model.get_expanded_tied_weights_keys(all_submodels=True).items() - model.all_tied_weights_keys.items()):
        (target, owner), *_ = untied
        raise ValueError(
            f"{source}: config.json ties {target} to {owner}, but the folder has two different weights; set tie_word_embeddings to false "
            "there if both are meant, or take one of them out"
        )


def _init_default_linear(module: nn.Module) -> None:
    """PyTorch's own defaults for linear layers and convolutions, with which the released model starts its new parts."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            if layer.bias is not None:
                # Not from the shape of the weight: an engine may have divided it among processes.
                fan_in = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels * math.prod(layer.kernel_size)
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(layer.bias, -bound, bound)


def _init_sampling_ring(module: nn.Module) -> None:
    """Deformable attention starts by looking in one direction per head, one pixel further per point (Deformable DETR)."""
    angles = torch.arange(module.n_heads, dtype=torch.float32) * (2 * math.pi / module.n_heads)
    ring = torch.stack((angles.cos(), angles.sin()), dim=-1)
    ring = ring / ring.abs().amax(-1, keepdim=True)  # on a square of radius 1
    distance = torch.arange(1, module.n_points + 1, dtype=torch.float32)
    offsets = ring[:, None, None] * distance[None, None, :, None]  # (heads, 1, points, 2)
    init.copy_(module.sampling_offsets.bias, offsets.expand(-1, module.n_levels, -1, -1).flatten())
    init.zeros_(module.sampling_offsets.weight)
    for layer in (module.attention_weights, module.value_proj, module.output_proj):
        init.zeros_(layer.bias)
    init.zeros_(module.attention_weights.weight)
    init.xavier_uniform_(module.value_proj.weight)
    init.xavier_uniform_(module.output_proj.weight)


class PsalmModel(PsalmPreTrainedModel):
    """Vision tower, projector, pixel decoder, language model, and the read-outs that the mask decoder needs."""

    _keys_to_ignore_on_load_unexpected = [r"^mask_decoder\.", r"^lm_head\."]  # of a checkpoint with heads
    _keep_in_fp32_modules_strict = [IN_FLOAT32[0]]

    def __init__(self, config: PsalmConfig):
        super().__init__(config)
        check_parts(config.vision_config, config.text_config)
        width, dim = config.text_config.hidden_size, config.hidden_dim
        self.vision_tower = AutoBackbone.from_config(config.vision_config)
        if isinstance(self.vision_tower, SwinBackbone):
            # Each stage has its own norm; this last one's output is thrown away, and weights without gradient stop DDP.
            self.vision_tower.swin.layernorm = nn.Identity()
        channels = list(self.vision_tower.channels)
        if len(channels) != 4:
            raise ValueError(f"vision backbone returns {len(channels)} feature maps; configure it for four, of strides 4, 8, 16, 32")
        self.projector = PsalmProjector(config, channels[config.projector_level])
        self.pixel_decoder = PsalmPixelDecoder(config, channels)
        self.language_model = AutoModel.from_config(config.text_config)
        if config.decouple_masks:
            self.mask_queries = nn.Embedding(config.num_queries, width)
        self.query_projection = nn.Linear(width, dim)
        self.category_projection = nn.Linear(width, dim)
        self.sentence_projection = nn.Linear(width, dim)
        self.region_projection = nn.Linear(width, dim)
        self.post_init()

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, masks: bool = True, **kwargs: Any) -> PsalmImageFeatures:
        """Encode images once, to be prompted often.

        Args:
            pixel_values: (I, 3, H, W), normalised and padded by the image processor.
            masks: False skips the pixel decoder; enough for conversation and for region prompts drawn on other images. In training it
                reads a corner of the first image instead, for `PsalmForSegmentation._touch_idle_parts`.
            **kwargs: of the vision tower, such as `output_hidden_states`.
        """
        vision = self.vision_tower(pixel_values.to(self.vision_tower.dtype), return_dict=True, **kwargs)
        feature_maps = vision.feature_maps
        image_tokens = self.projector(feature_maps[self.config.projector_level])  # (I, G, D)
        decoded = None, None
        if masks:
            decoded = self.pixel_decoder(feature_maps)
        elif self.training:
            # 16 cells of stride 4: less leaves the group norm of the last map a single value.
            decoded = self.pixel_decoder([x[:1, :, : 16 >> level, : 16 >> level] for level, x in enumerate(feature_maps)])
        mask_features, multi_scale = decoded
        return PsalmImageFeatures(
            last_hidden_state=feature_maps[-1].flatten(2).transpose(1, 2),
            pooler_output=image_tokens,
            hidden_states=vision.hidden_states if kwargs.get("output_hidden_states") else None,
            attentions=vision.attentions,
            image_tokens=image_tokens,
            mask_features=mask_features,
            multi_scale=multi_scale,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: PsalmImageFeatures | None = None,
        image_index: Tensor | None = None,
        condition_index: Tensor | None = None,
        condition_type: Tensor | None = None,
        region_weights: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_pixel_values: Tensor | None = None,
        region_image_tokens: Tensor | None = None,
        region_features: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        past_key_values: Any = None,
        output_image_features: bool = False,
        rows: BatchRows | None = None,
        **kwargs: Any,
    ) -> PsalmModelOutput:
        """One pass of the language model over prompts whose placeholders are replaced; keywords as in [`PsalmForSegmentation`]."""
        _check_text(input_ids, inputs_embeds)
        cache = given_cache(cache, past_key_values)
        is_continuation = cache is not None and cache.get_seq_length() > 0
        text = inputs_embeds if input_ids is None else input_ids  # (B, T, ...)
        condition_type = None if condition_type is None else condition_type.to(text.device)
        is_padding_mask = attention_mask is not None and attention_mask.dim() == 2  # of four dimensions, it says who sees whom
        num_images, read, leading = 0, None, {}
        if not is_continuation:
            self._check_length(text)
            encoded = pixel_values if image_features is None else image_features.image_tokens
            num_images = 0 if encoded is None else len(encoded)
            image_index = _image_index(text, image_index, num_images)
        # Embeddings of a caller may differ where the tokens do not.
        is_prompt = not is_continuation and inputs_embeds is None and (attention_mask is None or is_padding_mask)
        may_share_prefix = is_prompt and self.may_share_prefix(use_cache, kwargs)
        if rows is None:
            if may_share_prefix and num_images > 0 and use_cache is None and position_ids is None:
                if image_features is not None or output_image_features:
                    leading, read = self._compare_beginnings(input_ids, attention_mask, image_index, image_features, num_images)
            marks = {"condition_type": condition_type, "condition_index": condition_index, "region_image_index": region_image_index}
            marks |= {"attention_mask": attention_mask, "image_index": None if is_continuation else image_index}
            tokens = None if is_continuation else input_ids
            rows = read_rows(len(text), tokens, self.config, may_share_prefix=may_share_prefix, **leading, **marks)
        rows = rows.beside(len(text), condition_type, condition_index, may_share_prefix)
        segments = not is_continuation and len(rows.asking()) > 0
        _check_conditions(condition_type, condition_index, rows, segments)
        _check_placed(input_ids, segments or num_images > 0)
        inputs_embeds = self._embed_text(input_ids, is_continuation) if inputs_embeds is None else inputs_embeds
        if not is_continuation:
            inputs_embeds, image_features = self._insert_images(inputs_embeds, input_ids, pixel_values, image_features, image_index, rows)
        if segments:
            inputs_embeds = self._insert_mask_queries(inputs_embeds, input_ids, rows)
            if region_features is None and region_weights is not None:
                sources = region_image_index, region_pixel_values, region_image_tokens
                region_features = self._region_features(image_features, image_index, region_weights, *sources, rows)
            inputs_embeds = self._insert_regions(inputs_embeds, input_ids, condition_index, region_features, rows)
        if position_ids is None and is_padding_mask and not is_continuation:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)  # 0.. for every row, whichever side is padded
        inputs = inputs_embeds, attention_mask, position_ids
        outputs, begun = self._run_language_model(*inputs, image_index, read, rows, use_cache, **{CACHE: cache}, **kwargs)
        states = outputs.last_hidden_state
        self._keep_prefix(image_features, input_ids, image_index, states, *begun, rows)
        return PsalmModelOutput(
            last_hidden_state=states,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            query_embeds=self._read_queries(states, input_ids, rows) if segments else None,
            condition_embeds=self._read_conditions(states, condition_index, rows) if segments else None,
            image_features=image_features,
            image_index=image_index,
            rows=rows,
            **{CACHE: outputs.get(CACHE) if use_cache else None},
        )

    def _embed_text(self, input_ids: Tensor, is_continuation: bool) -> Tensor:
        # Placeholder ids may lie outside the embedding matrix, so they are looked up as id 0.
        looked_up = input_ids if is_continuation else input_ids.masked_fill(_is_placeholder(input_ids, self.config), 0)
        return self.get_input_embeddings()(looked_up)

    def _check_length(self, text: Tensor) -> None:
        positions = getattr(self.config.text_config, "max_position_embeddings", None)
        if positions is not None and text.shape[1] > positions:
            raise ValueError(
                f"the longest row has {text.shape[1]} tokens but the language model has {positions} positions; shorten the prompt or "
                "split it into several rows (the processor's max_length checks this per row)"
            )

    def may_share_prefix(self, use_cache: bool | None, kwargs: dict[str, Any]) -> bool:
        """True if rows on one image may read their common beginning once.

        Not where several processes train, because every one must call the same modules equally often; not with gradient checkpointing,
        which keeps no cache to continue from; not where the caller asks for the cache, or for states and attentions of whole rows.
        """
        text = self.language_model.config
        is_checkpointing = self.training and any(getattr(x, "gradient_checkpointing", False) for x in self.language_model.modules())
        trains_with_others = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return not (is_checkpointing or trains_with_others or use_cache or kwargs or text.output_hidden_states or text.output_attentions)

    def _compare_beginnings(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        image_index: Tensor,
        image_features: PsalmImageFeatures | None,
        num_images: int,
    ) -> tuple[dict[str, Tensor], ReadPrefix | None]:
        """Compares the beginnings of rows with what images keep of an earlier prompt.

        Returns:
            Numbers for `read_rows`; what the images keep, if it may help.
        """
        prompt, read, leading = (input_ids, attention_mask, image_index), None, {}
        # Kept tensors must hold no gradients, and a compiled graph changes none of its inputs.
        if not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()):
            leading["image_prefix"] = common_image_prefix(*prompt, self.config, num_images)
            read = None if image_features is None else image_features.prefix
            if read is not None and read.may_begin(input_ids, image_features.image_tokens, self._computed_in()):
                leading["is_prefix_read"] = read.begins(*prompt)
        return leading, read

    def _computed_in(self) -> torch.dtype:
        device = self.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.language_model.dtype

    def _run_language_model(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        image_index: Tensor | None,
        read: ReadPrefix | None,
        rows: BatchRows,
        use_cache: bool | None,
        **kwargs: Any,
    ) -> tuple[BaseModelOutputWithPast, tuple[Any, Tensor | None]]:
        """The language model. Where rows share a beginning in two passes: the first `prefix` tokens once per image, then the rest of every
        row behind them.

        Args:
            read: what images keep of an earlier prompt; with `rows.is_prefix_read` all rows begin with it, and it is not read again.

        Returns:
            Outputs; the cache of the first or only pass, and for each row its place in that cache, (B,), None if it has the rows as they
            are. No cache if the first pass had nothing left to read.
        """

        def run(part: Any, mask: Tensor | None, use_cache: bool, **kwargs: Any) -> Any:
            place = None if position_ids is None else position_ids[part]
            return self.language_model(
                inputs_embeds=inputs_embeds[part], attention_mask=mask, position_ids=place, use_cache=use_cache, **kwargs
            )

        if rows.prefix == 0 and not rows.is_prefix_read:
            outputs = run(slice(None), attention_mask, bool(use_cache or rows.image_prefix), **kwargs)
            return outputs, (outputs.get(CACHE), None)

        start, states, begun, group = 0, [], None, None
        read = read if rows.is_prefix_read else None
        if read is not None:
            start = len(read.token_ids)
            states.append(read.states[image_index])
        if rows.prefix > start:
            groups = {row if image < 0 else -1 - image for row, image in enumerate(rows.images)}  # a row without image is its own
            representatives, group = compacted(first_rows(image_index), len(image_index), len(groups))
            grown = None if read is None else read.grown(image_index[representatives])
            beginning = run((representatives, slice(start, rows.prefix)), None, True, **{CACHE: grown})
            start, begun = rows.prefix, beginning[CACHE]
            states.append(beginning.last_hidden_state[group])
        cache = cache_behind(read.layers, image_index) if begun is None else shared_cache(begun, group)
        states.append(run((slice(None), slice(start, None)), attention_mask, True, **{CACHE: cache}).last_hidden_state)
        return BaseModelOutputWithPast(torch.cat(states, dim=1)), (begun, group)

    def _keep_prefix(
        self,
        image_features: PsalmImageFeatures | None,
        input_ids: Tensor | None,
        image_index: Tensor | None,
        states: Tensor,
        cache: Any,
        place: Tensor | None,
        rows: BatchRows,
    ) -> None:
        """Keeps copies of what the language model has read up to the end of the images, if that is new and all rows share it.

        Args:
            states: (B, T, D).
            place: of each row in the cache, (B,); None if it has the rows as they are.
        """
        length = rows.image_prefix
        layers = layers_of(cache) if length > 0 and not rows.is_prefix_read else None
        if layers is None:
            return
        images = torch.arange(len(image_features.image_tokens), device=image_index.device)
        row = (images[:, None] == image_index).int().argmax(dim=1)  # (I,) some row that looks at the image
        place = row if place is None else place[row]
        image_features["prefix"] = ReadPrefix(
            input_ids[0, :length].clone(),
            image_features.image_tokens,
            states[row, :length],
            [tuple(x[place.to(x.device), :, :length] for x in layer) for layer in layers],
            self._computed_in(),
        )

    def _insert_images(
        self,
        inputs_embeds: Tensor,
        input_ids: Tensor | None,
        pixel_values: Tensor | None,
        image_features: PsalmImageFeatures | None,
        image_index: Tensor,
        rows: BatchRows,
    ) -> tuple[Tensor, PsalmImageFeatures | None]:
        """Embeddings with image tokens where they stand in the prompts, and the features of the images, which are encoded if need be."""
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values, masks=len(rows.asking()) > 0, return_dict=True)
        num_images, num_tokens = (0, 0) if image_features is None else image_features.image_tokens.shape[:2]
        if max(rows.images) >= num_images:
            raise ValueError(
                f"image_index names image {max(rows.images)} but {num_images} images were given; indices go from 0, -1 is no image"
            )
        if input_ids is not None:
            expected = [num_tokens if image >= 0 else 0 for image in rows.images]
            _check_placeholders(rows.num_image_tokens, expected, "image tokens", "its image gives")
        if image_features is not None and input_ids is not None:
            is_image = input_ids == self.config.image_token_id  # (B, T)
            with_image = _chosen(image_index >= 0, sum(image >= 0 for image in rows.images))
            tokens = image_features.image_tokens[image_index[with_image]]  # (rows with an image, G, D)
            inputs_embeds = inputs_embeds.masked_scatter(is_image[..., None], tokens.to(inputs_embeds.dtype))
        if image_features is None and self.training:
            image_features = self._blank_features(inputs_embeds)
            inputs_embeds = inputs_embeds + image_features.image_tokens.sum().to(inputs_embeds.dtype) * 0
        return inputs_embeds, image_features

    def _blank_features(self, inputs_embeds: Tensor) -> PsalmImageFeatures:
        """Features of a blank image. A text-only training step uses them at weight 0: a process without an image must call the same
        modules as the others, or sharded engines wait forever. No batch norm may count the blank image.
        """
        in_training = [module for part in (self.vision_tower, self.projector) for module in part.modules() if module.training]
        for module in in_training:
            module.training = False
        blank = inputs_embeds.new_zeros(1, 3, self.config.image_size, self.config.image_size)
        features = self.get_image_features(blank, masks=False, return_dict=True)
        for module in in_training:
            module.training = True
        return features

    def _insert_mask_queries(self, inputs_embeds: Tensor, input_ids: Tensor, rows: BatchRows) -> Tensor:
        is_query = input_ids == self.config.mask_query_token_id  # (B, T)
        num_queries = self.config.num_queries if self.config.decouple_masks else 0
        expected = [0 if kind == CONVERSATION else num_queries for kind in rows.kinds]
        _check_placeholders(rows.num_mask_queries, expected, "mask-query tokens", "the model has")
        if not self.config.decouple_masks:
            return inputs_embeds
        queries = self.mask_queries(torch.arange(num_queries, device=input_ids.device))
        queries = queries.expand(len(rows.asking()), -1, -1).to(inputs_embeds.dtype)  # (rows, Q, D)
        return inputs_embeds.masked_scatter(is_query[..., None], queries)

    def _region_features(
        self,
        image_features: PsalmImageFeatures,
        image_index: Tensor,
        region_weights: Tensor,
        region_image_index: Tensor | None,
        region_pixel_values: Tensor | None,
        region_image_tokens: Tensor | None,
        rows: BatchRows,
    ) -> Tensor:
        """(B, R, D). Own images come first in the pool of token sources, the images that regions were drawn on behind them."""
        if image_features is None:
            raise ValueError("region_weights were given without an image; pass pixel_values or image_features, or region_features instead")
        num_tokens = image_features.image_tokens.shape[1]
        if region_weights.shape[2] != num_tokens:
            raise ValueError(
                f"region_weights are over {region_weights.shape[2]} image tokens but an image has {num_tokens}; take processor and model "
                "from the same checkpoint"
            )
        own = image_index.clamp(min=0)[:, None].expand(-1, region_weights.shape[1])  # (B, R)
        if region_image_index is None:
            return pool_regions(region_weights, image_features.image_tokens, own)
        if region_image_tokens is None:
            if region_pixel_values is None:
                raise ValueError("region_image_index was given without region_pixel_values or region_image_tokens to index into")
            region_image_tokens = self.get_image_features(region_pixel_values, masks=False, return_dict=True).image_tokens
        if rows.last_region_image >= len(region_image_tokens):
            raise ValueError(
                f"region_image_index names image {rows.last_region_image} but {len(region_image_tokens)} region images were given; "
                "indices go from 0, a negative one is the row's own image"
            )
        sources = torch.cat((image_features.image_tokens, region_image_tokens))  # (I + J, G, D)
        elsewhere = region_image_index + len(image_features.image_tokens)
        return pool_regions(region_weights, sources, torch.where(region_image_index >= 0, elsewhere, own))

    def _insert_regions(
        self, inputs_embeds: Tensor, input_ids: Tensor, condition_index: Tensor, region_features: Tensor | None, rows: BatchRows
    ) -> Tensor:
        is_region = input_ids == self.config.region_token_id  # (B, T)
        if region_features is None:
            _check_placeholders(rows.num_regions, [0] * len(input_ids), "region tokens", "region_weights or region_features give")
            return inputs_embeds
        if max(rows.last_region) > region_features.shape[1]:
            raise ValueError(
                f"a prompt names region {max(rows.last_region)} but features of {region_features.shape[1]} regions were given; "
                "give one row of region_weights or region_features for each region token"
            )
        order = (condition_index - 1).clamp(min=0)  # region r of the caller, wherever it stands in the text
        tokens = positions(is_region.flatten(), sum(rows.num_regions))
        features = region_features[tokens // input_ids.shape[1], order.flatten()[tokens]]  # (regions of all rows, D)
        return inputs_embeds.masked_scatter(is_region[..., None], features.to(inputs_embeds.dtype))

    def _read_queries(self, hidden_states: Tensor, input_ids: Tensor, rows: BatchRows) -> Tensor | None:
        """Projected states of the mask queries, (B, Q, C); None without mask tokens."""
        if not self.config.decouple_masks:
            return None
        num_rows = len(rows.asking())
        tokens = positions((input_ids == self.config.mask_query_token_id).flatten(), num_rows * self.config.num_queries)
        states = hidden_states.flatten(0, 1)[tokens].view(num_rows, self.config.num_queries, -1)  # (rows, Q, D)
        return _spread(self.query_projection(states), rows.condition_type != CONVERSATION)

    def _read_conditions(self, hidden_states: Tensor, condition_index: Tensor, rows: BatchRows) -> Tensor:
        """Projected mean states of the conditions, (B, K, C), each row through the projection of its kind."""
        num_conditions = max(rows.num_conditions)
        if num_conditions == 0:
            raise ValueError("condition_index marks no token as part of a condition; build the inputs with PsalmProcessor")
        pooled = pool_conditions(hidden_states, condition_index, num_conditions)  # (B, K, D)
        projections = {CATEGORY: self.category_projection, SENTENCE: self.sentence_projection, REGION: self.region_projection}
        embeds = pooled.new_zeros(*pooled.shape[:2], self.config.hidden_dim)
        for kind, projection in projections.items():
            number = rows.kinds.count(kind)
            if number == len(rows.kinds):
                return projection(pooled)
            if number:
                own = positions(rows.condition_type == kind, number)
                embeds[own] = projection(pooled[own]).to(embeds.dtype)
        return embeds


def _check_text(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    if input_ids is None and inputs_embeds is None:
        raise ValueError("no text: pass input_ids, inputs_embeds, or both")
    if input_ids is not None and inputs_embeds is not None and input_ids.shape != inputs_embeds.shape[:2]:
        raise ValueError(
            f"input_ids are {tuple(input_ids.shape)} but inputs_embeds {tuple(inputs_embeds.shape[:2])}; pass one embedding per token"
        )


def _check_conditions(condition_type: Tensor | None, condition_index: Tensor | None, rows: BatchRows, segments: bool) -> None:
    if condition_index is None and segments:
        raise ValueError("condition_type asks for a segmentation but there is no condition_index; build both with PsalmProcessor")
    if condition_type is None and any(rows.num_conditions):
        raise ValueError("condition_index marks conditions but there is no condition_type to say of which kind; pass both")


def _check_placed(input_ids: Tensor | None, has_placeholders: bool) -> None:
    if input_ids is None and has_placeholders:
        raise ValueError("inputs_embeds alone do not say where image tokens and mask queries stand; pass input_ids with them")


def _image_index(text: Tensor, image_index: Tensor | None, num_images: int) -> Tensor:
    """(B,): as given, or one image for each row of `text`, (B, ...)."""
    if image_index is not None:
        return image_index.to(text.device)
    num_rows = len(text)
    if num_images not in (0, num_rows):
        raise ValueError(f"{num_rows} rows but {num_images} images; pass image_index to say which image each row looks at")
    first = 0 if num_images else -num_rows
    return torch.arange(first, first + num_rows, device=text.device).clamp(min=-1)


def _is_placeholder(input_ids: Tensor, config: PsalmConfig) -> Tensor:
    """(B, T) bool."""
    image, region, query = config.image_token_id, config.region_token_id, config.mask_query_token_id
    return (input_ids == image) | (input_ids == region) | (input_ids == query)


def _check_placeholders(found: list[int], expected: list[int], what: str, source: str) -> None:
    for row, (count, right) in enumerate(zip(found, expected, strict=True)):
        if count != right:
            raise ValueError(
                f"row {row}: the prompt has {count} {what} but {source} {right}; build prompt and images with the PsalmProcessor of this "
                "checkpoint, and do not truncate input_ids"
            )


def _chosen(is_chosen: Tensor, number: int) -> Tensor | slice:
    """Index of the `number` rows for which (B,) `is_chosen`; all of them need no copy."""
    return slice(None) if number == len(is_chosen) else positions(is_chosen, number)


def _spread(some: Tensor, is_own: Tensor) -> Tensor:
    """(rows that are their own, ...) -> (B, ...), zero in the other rows."""
    if len(some) == len(is_own):
        return some
    spread = some.new_zeros(len(is_own), *some.shape[1:])
    spread[positions(is_own, len(some))] = some
    return spread


class PsalmForSegmentation(PsalmPreTrainedModel, GenerationMixin):
    """PSALM: segments what the prompt asks for, and answers questions.

    `forward` keywords are built by [`PsalmProcessor`]; shapes in docs/model.md.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # the name in Phi, see __init__
    # The embeddings are divided by words; a head tied to them can only be divided likewise.
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _keep_in_fp32_modules_strict = [IN_FLOAT32[1]]
    # The loss is already a mean over the batch: the Trainer must not rescale it by the number of label tokens.
    accepts_loss_kwargs = False

    def __init__(self, config: PsalmConfig):
        super().__init__(config)
        self.model = PsalmModel(config)
        self.mask_decoder = PsalmMaskDecoder(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias)
        embeddings = next(name for name, module in self.named_modules() if module is self.get_input_embeddings())
        self._tied_weights_keys = {"lm_head.weight": f"{embeddings}.weight"}
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, masks: bool = True, **kwargs: Any) -> PsalmImageFeatures:
        """Encode (I, 3, H, W) images once; pass the result to `forward` as `image_features`. See `PsalmModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, masks=masks, **kwargs)

    def batch_rows(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: PsalmImageFeatures | None = None,
        image_index: Tensor | None = None,
        condition_index: Tensor | None = None,
        condition_type: Tensor | None = None,
        region_image_index: Tensor | None = None,
        **inputs: Any,
    ) -> BatchRows:
        """Numbers of a batch that Python needs: kinds of the rows, their images, how many placeholders and conditions they have.

        A batch with the same numbers, such as the next frame with the same prompts, can be passed to `forward` with the same `rows`.

        Args:
            inputs: the other keywords of `forward`, which change nothing.
        """
        encoded = pixel_values if image_features is None else image_features.image_tokens
        image_index = _image_index(input_ids, image_index, 0 if encoded is None else len(encoded))
        return read_rows(
            len(input_ids), input_ids, self.config, attention_mask=attention_mask, condition_type=condition_type, image_index=image_index,
            condition_index=condition_index, region_image_index=region_image_index, may_share_prefix=self.model.may_share_prefix(None, {}),
        )  # fmt: skip

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: PsalmImageFeatures | None = None,
        image_index: Tensor | None = None,
        condition_index: Tensor | None = None,
        condition_type: Tensor | None = None,
        region_weights: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_pixel_values: Tensor | None = None,
        region_image_tokens: Tensor | None = None,
        region_features: Tensor | None = None,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        labels: Tensor | None = None,
        original_sizes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor | None = None,
        output_auxiliary_logits: bool = False,
        output_image_features: bool = False,
        rows: BatchRows | None = None,
        **kwargs: Any,
    ) -> PsalmSegmentationOutput:
        """Segment by prompts, with losses where targets are given.

        Args:
            input_ids, attention_mask: (B, T), placeholders expanded; padding on either side. A mask (B, 1, T, T) is taken as it is.
            inputs_embeds: (B, T, D), replaces the embeddings of the text. `input_ids` still say where placeholders stand, whose
                embeddings are not read; conversations without an image may do without `input_ids`.
            pixel_values: (I, 3, H, W), or image_features from `get_image_features`.
            image_index: (B,) which image each row looks at, -1 for none; default 0..B-1.
            condition_index: (B, T), 0 = none, c + 1 = the token belongs to condition c.
            condition_type: (B,) 0 category, 1 sentence, 2 region, 3 none; default none.
            region_weights: (B, R, G), rows sum to 1, padding rows are 0.
            region_image_index: (B, R) index into region_pixel_values (J, 3, H, W) or region_image_tokens (J, G, D); negative: the
                row's own image.
            region_features: (B, R, D), replaces the four above.
            mask_labels, class_labels: B tensors (N, H, W) and (N,).
            labels: (B, T) language targets, -100 ignored; also of rows with mask_labels, whose losses are then added.
            original_sizes: carried by the processor for post-processing, not read.
            cache: of the tokens before these, as `generate` keeps it; `past_key_values` is its older name.
            logits_to_keep: language logits of the last n positions, 0 for all, or of these positions.
            rows: from `batch_rows`; `forward` then reads nothing from the device, and is one graph for `torch.compile` and `torch.export`.

        Raises:
            ValueError: placeholders, images and regions do not fit together; kinds are mixed in a batch with targets; a matching
                cost is not finite.
        """
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, position_ids=position_ids,
            pixel_values=pixel_values, image_features=image_features, image_index=image_index,
            condition_index=condition_index, condition_type=condition_type,
            region_weights=region_weights, region_image_index=region_image_index, region_features=region_features,
            region_pixel_values=region_pixel_values, region_image_tokens=region_image_tokens,
            cache=cache, past_key_values=past_key_values, use_cache=use_cache, output_image_features=output_image_features, rows=rows,
            return_dict=True, **kwargs,
        )  # fmt: skip
        return PsalmSegmentationOutput(
            **self._segment(outputs, mask_labels, class_labels, labels, output_auxiliary_logits),
            logits=self._language_logits(outputs, labels, logits_to_keep),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            num_conditions=outputs.rows.condition_counts,
            condition_type=outputs.rows.condition_type,
            image_index=outputs.image_index,
            image_features=outputs.image_features if output_image_features else None,
            **{CACHE: outputs.get(CACHE)},
        )

    def _segment(
        self,
        outputs: PsalmModelOutput,
        mask_labels: list[Tensor] | None,
        class_labels: list[Tensor] | None,
        labels: Tensor | None,
        output_auxiliary_logits: bool,
    ) -> dict[str, Any]:
        """Fields of the output about masks, and about losses where there are targets."""
        rows, predictions = outputs.rows, []
        fields: dict[str, Any] = {}
        losses: dict[str, Tensor] = {}
        if (mask_labels is not None or labels is not None) and len(set(rows.kinds)) > 1:
            names = [ROW_KINDS[kind] for kind in rows.kinds]
            raise ValueError(f"rows of a batch with targets are of different kinds: {names}; give one kind per batch when training")
        kind = rows.kinds[0]  # with targets that of all
        if outputs.condition_embeds is not None:
            predictions = self._decode(outputs, every_depth=mask_labels is not None or output_auxiliary_logits)
            fields = self._segmentation_fields(predictions[-1], rows)
            if output_auxiliary_logits:
                fields["auxiliary_outputs"] = [self._segmentation_fields(depth, rows) for depth in predictions[:-1]]
            if mask_labels is not None:
                _check_targets(kind, rows.num_conditions, mask_labels, class_labels)
                supervised = predictions if self.config.auxiliary_loss else predictions[-1:]
                depths = [Prediction(depth[1], self._similarity(depth, kind, rows)) for depth in supervised]
                losses = segmentation_losses(depths, kind, mask_labels, class_labels, self.config)
        if labels is not None:
            losses["loss_language"] = self._language_loss(outputs.last_hidden_state, labels)
        if losses:
            fields |= {"loss": sum(losses.values()), "losses": losses}
            if self.training:
                fields["loss"] = fields["loss"] + self._touch_idle_parts(kind, outputs, predictions[-1] if predictions else None, losses)
        return fields

    def _decode(self, outputs: PsalmModelOutput, every_depth: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Mask decoder on the rows that segment: per depth (query states, mask logits, condition embeds) of these rows."""
        features, rows = outputs.image_features, outputs.rows
        if features is None or features.mask_features is None:
            raise ValueError("rows that segment need an image: pass pixel_values, or image_features computed with masks=True")
        images = []
        for row in rows.asking():
            if rows.images[row] < 0:
                raise ValueError(f"row {row}: a row that segments has no image (image_index -1); give it one")
            images.append(rows.images[row])
        asking = _chosen(rows.condition_type != CONVERSATION, len(images))
        index, used = outputs.image_index[asking], sorted(set(images))
        mask_features, multi_scale = features.mask_features, features.multi_scale
        if len(used) < len(mask_features):  # an image that only conversation rows look at needs no masks
            own, index = compacted(index, len(mask_features), len(used))
            mask_features, multi_scale = mask_features[own], tuple(x[own] for x in multi_scale)
        conditions = outputs.condition_embeds[asking]
        if self.config.decouple_masks:
            queries, is_query = outputs.query_embeds[asking], None
        else:
            if any(kind in (SENTENCE, REGION) for kind in rows.kinds):
                raise ValueError("a model with decouple_masks=False has no mask tokens: it segments by categories only")
            # The embeddings of a row's categories are its queries, (rows, K_max, C); its last condition is the background.
            numbers = torch.arange(max(rows.num_conditions[row] for row in rows.asking()) - 1, device=conditions.device)
            queries, is_query = conditions[:, : len(numbers)], numbers < rows.condition_counts[asking][:, None] - 1
        layout = RowLayout(index, len(used), [used.index(image) for image in images])
        predictions = self.mask_decoder(queries, mask_features, multi_scale, layout, is_query, every_depth)
        return [(normed, mask_logits, conditions.to(normed.dtype)) for normed, mask_logits in predictions]

    def _similarity(self, prediction: tuple[Tensor, Tensor, Tensor], kind: int, rows: BatchRows) -> Tensor:
        """Condition logits of the rows of one kind: layouts of `losses.Prediction`."""
        normed, _, conditions = prediction
        is_own = rows.condition_type == kind
        own = [row for row in rows.asking() if rows.kinds[row] == kind]
        if len(own) < len(normed):  # of the rows that were decoded
            among = positions(is_own[positions(rows.condition_type != CONVERSATION, len(normed))], len(own))
            normed, conditions = normed[among], conditions[among]
        conditions = conditions[:, : max(rows.num_conditions[row] for row in own)]
        if kind == SENTENCE:
            return torch.einsum("bqc,bkc->bqk", self.mask_decoder.sentence_head(normed), conditions)  # (b, Q, 1)
        numbers = torch.arange(conditions.shape[1], device=normed.device)
        counts = rows.condition_counts[_chosen(is_own, len(own))][:, None]
        if kind == REGION:
            logits = torch.einsum("bkc,bqc->bkq", conditions, self.mask_decoder.region_head(normed))  # (b, R_max, Q)
            return logits.masked_fill((numbers >= counts)[:, :, None], torch.finfo(logits.dtype).min)
        logits = torch.einsum("bqc,bkc->bqk", self.mask_decoder.category_head(normed), conditions)  # (b, Q, K_max + 1)
        # A row's own `background` sits behind its own categories; move it to the last column.
        source = torch.where(numbers == conditions.shape[1] - 1, counts - 1, numbers)  # (b, K_max + 1)
        padding = (numbers >= counts - 1) & (numbers < conditions.shape[1] - 1)
        logits = logits.gather(2, source[:, None].expand_as(logits))
        return logits.masked_fill(padding[:, None], torch.finfo(logits.dtype).min)  # its dtype may be autocast's

    def _segmentation_fields(self, prediction: tuple[Tensor, Tensor, Tensor], rows: BatchRows) -> dict[str, Any]:
        """The mask and similarity fields of the output, spread over all B rows."""
        names = {CATEGORY: "class_queries_logits", SENTENCE: "referring_queries_logits", REGION: "region_queries_logits"}
        fields = {"masks_queries_logits": _spread(prediction[1], rows.condition_type != CONVERSATION)}
        for kind, name in names.items():
            if kind in rows.kinds:
                fields[name] = _spread(self._similarity(prediction, kind, rows), rows.condition_type == kind)
        return fields

    def _touch_idle_parts(
        self, kind: int, outputs: PsalmModelOutput, prediction: tuple[Tensor, Tensor, Tensor] | None, losses: dict[str, Tensor]
    ) -> Tensor:
        """Zero, computed by every part that a batch of this kind does not need.

        So a training step gives every parameter a gradient, zero where the part is idle: DDP needs no search for unused parameters, and
        an optimizer does the same on all engines (a sharded one has one flat gradient and cannot leave parameters out).

        Args:
            prediction: of the last depth, see `_decode`; None for conversations.
            losses: the terms that there are.
        """
        state = outputs.last_hidden_state[:1, :1]  # (1, 1, D)
        model, decoder, features = self.model, self.mask_decoder, outputs.image_features
        touched = [] if "loss_language" in losses else [self.lm_head(state)]
        trains_masks = "loss_mask" in losses
        if kind == CONVERSATION:
            if features.mask_features is None:  # encoded beforehand, without the pixel decoder: then it cannot be touched
                return state.float().sum() * 0
            first = state.new_zeros(1, dtype=torch.int64)
            queries = model.category_projection(state)
            if self.config.decouple_masks:
                numbers = torch.arange(self.config.num_queries, device=state.device)
                queries = model.query_projection(model.mask_queries(numbers).to(state.dtype))[None]  # (1, Q, C)
            corner = features.mask_features[:1], tuple(x[:1] for x in features.multi_scale)
            normed, masks = decoder(queries, *corner, RowLayout(first, 1, [0]))[-1]
            touched.append(masks)
        else:
            normed, masks, _ = prediction
            touched += [] if trains_masks else [masks]
        heads = {
            CATEGORY: (model.category_projection, decoder.category_head),
            SENTENCE: (model.sentence_projection, decoder.sentence_head),
            REGION: (model.region_projection, decoder.region_head),
        }
        for idle, (projection, head) in heads.items():
            if idle != kind or not trains_masks:
                touched += [projection(state), head(normed[:1, :1])]
        if not self.config.decouple_masks:
            touched.append(model.query_projection(state))
        return sum(x.float().sum() for x in touched) * 0

    def _language_loss(self, hidden_states: Tensor, labels: Tensor) -> Tensor:
        """Next-token cross entropy, mean over labels != -100; the head runs on supervised positions only."""
        supervised = F.pad(labels[:, 1:] != IGNORED_LABEL, (0, 1)).flatten()  # (B * T,), whether the next token is a target
        tokens = positions(supervised, int(supervised.sum()))
        logits = self.lm_head(hidden_states.flatten(0, 1)[tokens]).float()  # (supervised, V)
        if len(logits) == 0:
            return hidden_states.sum() * 0 + logits.sum()
        return F.cross_entropy(logits, labels.flatten()[tokens + 1])

    def _language_logits(self, outputs: PsalmModelOutput, labels: Tensor | None, logits_to_keep: int | Tensor | None) -> Tensor | None:
        if logits_to_keep is None:  # of conversations to go on with, all
            if labels is not None or outputs.rows.asking():
                return None
            logits_to_keep = 0
        states = outputs.last_hidden_state
        if isinstance(logits_to_keep, int):
            return self.lm_head(states[:, -logits_to_keep:] if logits_to_keep else states)
        return self.lm_head(states[:, logits_to_keep])

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool = False, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        condition_type, labels = kwargs.pop("condition_type", None), kwargs.pop("labels", None)
        if is_first_iteration:
            _check_questions(condition_type, labels, kwargs.get("attention_mask"))
        kwargs.pop("condition_index", None)  # of the prompt's length, and without a condition empty
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, inputs_embeds=inputs_embeds, **kwargs
        )
        if "inputs_embeds" in inputs and input_ids.shape[1] > 0:  # the tokens say where images stand
            length = kwargs.get("next_sequence_length")
            inputs["input_ids"] = input_ids if length is None else input_ids[:, -length:]
        cache = given_cache(kwargs.get("cache"), kwargs.get("past_key_values"))
        tokens, pixel_values = inputs["input_ids"], kwargs.get("pixel_values")
        if "pixel_values" not in inputs and pixel_values is not None and tokens.shape[1] > 1 and cache.get_seq_length() == 0:
            # An assistant's first call: transformers counts it as a later iteration, to which it passes no images.
            inputs["pixel_values"] = pixel_values
        return inputs

    def _stand_in_for_placeholders(self, input_ids: Tensor) -> Tensor:
        """The same tokens with padding, or the end of text, where placeholders stand: their ids may lie outside the vocabulary."""
        config = self.config
        stand_in = config.text_config.eos_token_id if config.text_config.pad_token_id is None else config.text_config.pad_token_id
        return input_ids.masked_fill(_is_placeholder(input_ids, config), stand_in)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        return _LogitsProcessorsOfText(super()._get_logits_processor(*args, **kwargs), self._stand_in_for_placeholders)

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> CandidateGenerator:
        if kwargs["generation_config"].assistant_early_exit is not None:
            raise ValueError("assistant_early_exit: the language model here has one exit, its last layer; give an assistant_model")
        assistant = kwargs.get("assistant_model")
        if assistant is not None:
            kwargs["model_kwargs"] = _inputs_of_assistant(assistant, kwargs["model_kwargs"])
        generator = super()._get_candidate_generator(*args, **kwargs)
        if isinstance(generator, PromptLookupCandidateGenerator):
            return _PromptLookupInText(generator, self._stand_in_for_placeholders)
        return generator

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **model_kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeats rows for beams and samples, never images: their index is repeated instead."""
        if expand_size > 1 and model_kwargs.get("image_index") is None and _has_images(model_kwargs):
            model_kwargs["image_index"] = torch.arange(len(input_ids), device=input_ids.device)
        images = {name: model_kwargs.pop(name) for name in ("pixel_values", "image_features") if name in model_kwargs}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)
        return input_ids, model_kwargs | images


def _has_images(model_kwargs: dict[str, Any]) -> bool:
    return model_kwargs.get("pixel_values") is not None or model_kwargs.get("image_features") is not None


class _LogitsProcessorsOfText(LogitsProcessorList):
    """Logits processors that find no placeholders in the prompt, where a repetition penalty, for example, looks tokens up."""

    def __init__(self, processors: LogitsProcessorList, replace_placeholders: Callable[[Tensor], Tensor]):
        super().__init__(processors)
        self.replace_placeholders = replace_placeholders

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return super().__call__(self.replace_placeholders(input_ids), scores, **kwargs)


class _PromptLookupInText(CandidateGenerator):
    """Prompt lookup that never proposes the placeholders which follow words of the prompt."""

    def __init__(self, lookup: PromptLookupCandidateGenerator, replace_placeholders: Callable[[Tensor], Tensor]):
        self.lookup = lookup
        self.replace_placeholders = replace_placeholders

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        found, logits = self.lookup.get_candidates(self.replace_placeholders(input_ids), **kwargs)
        return torch.cat((input_ids, found[:, input_ids.shape[1] :]), dim=1), logits

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        self.lookup.update_candidate_strategy(input_ids, scores, num_matches)


def _inputs_of_assistant(assistant: PreTrainedModel, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a model that proposes the next words: all but the encoded images, which another vision tower has made.

    Raises:
        ValueError: there is an image that the assistant cannot see.
    """
    if assistant.config.model_type == PsalmConfig.model_type:
        if model_kwargs.get("image_features") is not None and model_kwargs.get("pixel_values") is None:
            raise ValueError("assistant_model encodes the image itself; pass pixel_values too, beside image_features")
        return {name: value for name, value in model_kwargs.items() if name != "image_features"}
    if _has_images(model_kwargs):
        raise ValueError(f"assistant_model is a {type(assistant).__name__}, which sees no images; take a PsalmForSegmentation")
    of_rows = ("pixel_values", "image_features", "image_index", "condition_index", "condition_type", "original_sizes")
    return {name: value for name, value in model_kwargs.items() if name not in of_rows}


def _check_questions(condition_type: Tensor | None, labels: Tensor | None, attention_mask: Tensor | None) -> None:
    """Refuses rows that ask for no words."""
    problems = {}  # what is wrong with a row -> (B,) bool
    if condition_type is not None:
        problem = "asks for a segmentation; generate answers conversations only, call the model instead"
        problems[problem] = condition_type != CONVERSATION
    if labels is not None:
        problem = "has labels: its conversation ends with the assistant's message; end it with the user's question"
        problems[problem] = (labels != IGNORED_LABEL).any(dim=1)
    if attention_mask is not None and attention_mask.dim() == 2:
        problem = "is padded on the right, where its answer goes; call the processor with padding_side='left'"
        problems[problem] = attention_mask[:, -1] == 0
    if not problems:
        return
    for problem, of_rows in zip(problems, torch.stack(list(problems.values())).tolist(), strict=True):
        if any(of_rows):
            raise ValueError(f"row {of_rows.index(True)} {problem}")


def _check_targets(kind: int, num_conditions: list[int], mask_labels: list[Tensor], class_labels: list[Tensor] | None) -> None:
    if len(mask_labels) != len(num_conditions):
        raise ValueError(f"{len(num_conditions)} rows but mask_labels for {len(mask_labels)}; give one (N, H, W) tensor per row")
    if kind == CATEGORY and (class_labels is None or len(class_labels) != len(num_conditions)):
        raise ValueError("category rows with mask_labels need class_labels, one (N,) tensor per row")
    labels = torch.cat(list(class_labels)).tolist() if kind == CATEGORY else []
    for row, masks in enumerate(mask_labels):
        if kind == REGION and len(masks) != num_conditions[row]:
            raise ValueError(f"row {row}: {num_conditions[row]} regions but {len(masks)} target masks; give one mask per region")
        if kind == CATEGORY:
            number = len(class_labels[row])
            if number != len(masks):
                raise ValueError(f"row {row}: {len(masks)} target masks but {number} class labels; give one label per mask")
            own, labels = labels[:number], labels[number:]
            if own and not 0 <= min(own) <= max(own) < num_conditions[row] - 1:
                raise ValueError(f"row {row}: class labels {own} outside the {num_conditions[row] - 1} categories of the prompt")


__all__ = ["PsalmForSegmentation", "PsalmImageFeatures", "PsalmModel", "PsalmPreTrainedModel", "PsalmSegmentationOutput"]
