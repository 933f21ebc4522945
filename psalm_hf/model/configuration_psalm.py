"""PsalmConfig: every size, option and loss weight of a PSALM model. Data with defaults; it builds nothing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from .compatibility import CACHE_NAMES
from .convert_psalm_checkpoint import ORIGINAL_MODEL_TYPE, locate_checkpoint, naming, original_config_fields, read_shapes

SWIN_BASE = {
    "model_type": "swin",
    "image_size": 1024,
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
    "window_size": 12,
    "drop_path_rate": 0.3,
}
PHI_1_5 = {
    "model_type": "phi",
    "vocab_size": 50297,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "pad_token_id": 50295,
}


@strict
class PsalmConfig(PreTrainedConfig):
    r"""Sizes and options of a [`PsalmForSegmentation`]. The defaults are the released model (Swin-B, Phi-1.5, 1024 x 1024).

    Args:
        vision_config: configuration (or dict with `model_type`) of a backbone with four feature maps of strides 4, 8, 16, 32:
            `SwinConfig`, or anything `AutoBackbone` accepts, `TimmBackboneConfig` included.
        text_config: configuration (or dict with `model_type`) of a decoder-only language model that `AutoModel` knows.
        image_size: side in pixels of the square, padded network input.
        image_token_id, region_token_id, mask_query_token_id: placeholder ids; they may lie outside the embedding matrix. `None`
            puts them behind the vocabulary, in this order.
        projector_type: `"residual_conv"`, the released block (a residual block whose second convolution is applied twice, then a
            linear layer), or `"linear"` (average pooling to the stride, then a linear layer).
        projector_width: channels inside the residual block.
        projector_stride: stride of the image tokens on the feature map that is read.
        projector_level: which feature map the projector reads, 0 (stride 4) to 3 (stride 32).
        projector_positions: adds a learned position to the image tokens (small images, where the language model sees few tokens).
        lm_head_bias: the released language head has none.
        decouple_masks: `False` is the paper's non-decoupled ablation: no mask tokens, category embeddings are the mask queries.
        num_queries: mask tokens of a prompt, Q.
        hidden_dim: width C of queries, pixel decoder and mask features.
        num_heads: attention heads of pixel decoder and mask decoder.
        encoder_layers, encoder_ffn_dim: deformable encoder of the pixel decoder.
        decoder_layers, decoder_ffn_dim: masked-attention decoder; it predicts once before its first layer and after each.
        auxiliary_loss: also supervises the predictions before the last one.
        class_weight, referring_weight, region_weight, mask_weight, dice_weight: weights of the loss terms and of the matching cost.
        score_cost: weight of the score in the matching cost of sentence and region rows. Released: 0, masks alone decide there, so of
            several queries on the target any one may be called right and the others wrong.
        no_object_weight: weight of `background` in the class cross entropy.
        domain: the images that the weights were trained on, in words such as "drawn shapes"; None = not stated. Training adds to it.
        train_num_points, oversample_ratio, importance_sample_ratio: point sampling of the mask losses (PointRend).

    Source: released configuration files, see `docs/checkpoints.md`; paper section 3 and Tables 15, 16.
    """

    model_type = "psalm"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    # What the Trainer must not gather over processes: big, ragged, or cached on purpose.
    keys_to_ignore_at_inference = [
        "losses", "auxiliary_outputs", "image_features", "hidden_states", "attentions", *CACHE_NAMES,
        "num_conditions", "condition_type", "image_index",
    ]  # fmt: skip

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_size: int = 1024
    image_token_id: int | None = None
    region_token_id: int | None = None
    mask_query_token_id: int | None = None
    projector_type: Literal["residual_conv", "linear"] = "residual_conv"
    projector_width: int = 2048
    projector_stride: int = 2
    projector_level: int = 3
    projector_positions: bool = False
    lm_head_bias: bool = False
    decouple_masks: bool = True
    num_queries: int = 100
    hidden_dim: int = 256
    num_heads: int = 8
    encoder_layers: int = 6
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 9
    decoder_ffn_dim: int = 2048
    auxiliary_loss: bool = True
    class_weight: float = 2.0
    referring_weight: float = 2.0
    region_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    score_cost: float = 0.0
    no_object_weight: float = 0.1
    domain: str | None = None
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any):
        self.vision_config = _sub_config(self.vision_config, SWIN_BASE)
        if len(getattr(self.vision_config, "stage_names", None) or []) >= 4:
            # transformers' backbones return only their last map unless told; timm's are told by `out_indices`
            self.vision_config.set_output_features_output_indices(out_features=self.vision_config.stage_names[-4:], out_indices=None)
        self.text_config = _sub_config(self.text_config, PHI_1_5)
        vocab_size = self.text_config.vocab_size
        self.image_token_id = vocab_size if self.image_token_id is None else self.image_token_id
        self.region_token_id = vocab_size + 1 if self.region_token_id is None else self.region_token_id
        self.mask_query_token_id = vocab_size + 2 if self.mask_query_token_id is None else self.mask_query_token_id
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(self.text_config, name, None))
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        sizes = (
            "image_size", "projector_width", "projector_stride", "num_queries", "hidden_dim", "num_heads", "encoder_ffn_dim",
            "decoder_ffn_dim", "train_num_points",
        )  # fmt: skip
        for name in sizes:
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.hidden_dim % 32 or self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim is {self.hidden_dim}; give a multiple of 32 (GroupNorm) that num_heads={self.num_heads} divides")
        if not 0 <= self.projector_level <= 3:
            raise ValueError(
                f"projector_level is {self.projector_level}; choose one of the four feature maps 0 (stride 4) to 3 (stride 32)"
            )
        if self.image_size % 32:
            raise ValueError(f"image_size is {self.image_size}; give a multiple of 32, the stride of the last feature map")
        ids = (self.image_token_id, self.region_token_id, self.mask_query_token_id)
        if len(set(ids)) != 3:
            raise ValueError(f"image, region and mask-query placeholders share a token id {ids}; give three different ids")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Reads a config as `PreTrainedConfig` does; also that of an original PSALM folder, and of "psalm-tiny", which ships."""
        source = locate_checkpoint(pretrained_model_name_or_path)
        with naming(source):
            found = super().from_pretrained(source, **({"name_or_path": str(source)} | kwargs))
        if "name_or_path" not in kwargs:  # it was for `from_dict`; a configuration alone does not remember where it comes from
            (found[0] if isinstance(found, tuple) else found).name_or_path = ""
        return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Reads fields that people write: a value of the wrong type or range is a ValueError of one line."""
        if config_dict.get("model_type") == ORIGINAL_MODEL_TYPE:
            folder = kwargs.get("name_or_path")
            shapes = read_shapes(folder) if folder and Path(folder).is_dir() else None
            config_dict = original_config_fields(config_dict, shapes)
        if config_dict.get("model_type", cls.model_type) not in (PsalmConfig.model_type, cls.model_type):
            raise ValueError(
                f"{kwargs.get('name_or_path', 'config')}: is a model of type {config_dict['model_type']!r}, expected 'psalm' or an "
                f"original {ORIGINAL_MODEL_TYPE!r} folder; to start from a language model and a vision tower see the docs page Checkpoints"
            )
        try:
            found = super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:  # is no ValueError, and has several lines
            raise ValueError(f"PsalmConfig: {' '.join(str(error).split())}; see the docs page The model for its fields") from error
        # `kwargs` are set on the finished configuration; with `return_unused_kwargs` it comes in a pair.
        (found[0] if isinstance(found, tuple) else found)._check()
        return found

    @property
    def image_grid(self) -> tuple[int, int]:
        """(rows, columns) of the image tokens of one image; G is their product."""
        side = -(-self.image_size // (4 * 2**self.projector_level * self.projector_stride))
        return side, side


def _sub_config(value: dict | PreTrainedConfig | None, default: dict) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(default if value is None else value)
    for name, text in _texts(fields, str(fields.get("model_type"))):
        if name.endswith(("attn_implementation", "experts_implementation")) and "/" in text:
            # transformers would download this repository and run its kernels
            raise ValueError(f"{name}: {text!r:.200} is code on the Hub; leave it out, and give it to from_pretrained if you trust it")
    return AutoConfig.for_model(fields.pop("model_type", default["model_type"]), **fields)


_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:", "local_dir:")  # how names begin that timm looks up on the Hub or in a folder
_IS_TRUSTED: ContextVar[bool] = ContextVar("is_trusted", default=False)


@contextmanager
def trusting(is_trusted: bool) -> Iterator[None]:
    """Inside, `check_parts` lets everything pass if `is_trusted`."""
    before = _IS_TRUSTED.set(is_trusted or _IS_TRUSTED.get())
    try:
        yield
    finally:
        _IS_TRUSTED.reset(before)


def check_parts(*configs: PreTrainedConfig) -> None:
    """Refuses configurations of a vision tower or language model that would be built from something that is not in them.

    Raises:
        ValueError: a name for which timm reads the Hub or another folder.
    """
    for config in configs:
        for name, text in _texts(config.to_dict(), config.model_type):
            if "".join(text.split()).lower().startswith(_ELSEWHERE) and not _IS_TRUSTED.get():
                raise ValueError(
                    f"{name}: {text!r:.200} is not in the checkpoint but read from elsewhere; name a model that timm itself knows, or, if "
                    f"you trust that place too, load with PsalmForSegmentation.from_pretrained(..., trust_remote_code=True)"
                )


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """All texts of the fields of a configuration, with their places."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{name}.{key}")
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner, name)


class OriginalPsalmConfig(PsalmConfig):
    """Configuration that `AutoConfig` finds for an original folder's `model_type`; reading one gives a plain `PsalmConfig`."""

    model_type = ORIGINAL_MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        return PsalmConfig.from_dict(config_dict, **kwargs)


__all__ = ["OriginalPsalmConfig", "PsalmConfig"]
