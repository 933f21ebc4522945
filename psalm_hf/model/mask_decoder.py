"""Pixel decoder, masked-attention decoder and condition heads: from feature maps and query states to masks and similarities.

Sizes: B rows (prompts), I images, Q queries, C width, h, w = H/4, W/4. Several rows may look at one image: keys, values and
mask products are computed once per image for all its rows.

Source: released `pixel_decoder` and `predictor`; Mask2Former (arXiv:2112.01527).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerSinePositionEmbedding,
)

from .configuration_psalm import PsalmConfig
from .deformable_attention import PsalmDeformableAttention


class PsalmMLP(nn.Sequential):
    """Linear layers of one width with ReLU between them."""

    def __init__(self, dim: int, num_layers: int):
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [nn.Linear(dim, dim), nn.ReLU()] if index < num_layers - 1 else [nn.Linear(dim, dim)]
        super().__init__(*layers)


class PsalmSinePositions(nn.Module):
    """Sine embedding of a map's pixel positions, y before x. It sees no padding: the released model does not either."""

    def __init__(self, dim: int):
        super().__init__()
        self.embedding = Mask2FormerSinePositionEmbedding(num_position_features=dim // 2, normalize=True)

    def forward(self, feature_map: Tensor) -> Tensor:
        """(I, C, h, w) -> (1, h*w, C), computed in float32: half precision cannot hold the angles."""
        shape = torch.Size((1, *feature_map.shape[1:]))
        positions = self.embedding(shape, feature_map.device, torch.float32)  # (1, C, h, w)
        return positions.flatten(2).transpose(1, 2).to(feature_map.dtype)


class PsalmPixelDecoderLayer(GradientCheckpointingLayer, Mask2FormerPixelDecoderEncoderLayer):
    """Mask2Former's layer with a faster attention; without checkpointing six of them keep more memory in training than the language
    model."""

    def __init__(self, config: Mask2FormerConfig):
        super().__init__(config)
        self.self_attn.__class__ = PsalmDeformableAttention  # a module of its own would draw weights again: other ones for a seed


class PsalmPixelDecoder(nn.Module):
    """Multi-scale deformable encoder over strides 32, 16, 8 and one FPN step to stride 4.

    It differs from Mask2Former's in three places that the weights know: the lateral convolution has a bias and a ReLU, so has
    the output convolution, and the feed-forward width of the encoder is its own.
    """

    def __init__(self, config: PsalmConfig, channels: list[int]):
        super().__init__()
        dim = config.hidden_dim
        layer_config = Mask2FormerConfig(
            feature_size=dim,
            hidden_dim=dim,
            num_attention_heads=config.num_heads,
            encoder_feedforward_dim=config.encoder_ffn_dim,
            dropout=0.0,
        )
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, kernel_size=1), nn.GroupNorm(32, dim)) for width in reversed(channels[1:])
        )
        self.positions = PsalmSinePositions(dim)
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        self.layers = nn.ModuleList(PsalmPixelDecoderLayer(layer_config) for _ in range(config.encoder_layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], dim, kernel_size=1), nn.GroupNorm(32, dim), nn.ReLU())
        self.output = nn.Sequential(nn.Conv2d(dim, dim, kernel_size=3, padding=1), nn.GroupNorm(32, dim), nn.ReLU())
        self.mask_projection = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Four maps of strides 4, 8, 16, 32 -> `mask_features` (I, C, h, w) and the maps of strides 32, 16, 8, each (I, C, ., .)."""
        dtype = self.level_embed.dtype
        maps = [project(x.to(dtype)) for project, x in zip(self.input_projections, reversed(feature_maps[1:]), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        sizes = [rows * columns for rows, columns in shapes]
        positions = torch.cat([self.positions(x) + embed for x, embed in zip(maps, self.level_embed, strict=True)], dim=1)
        hidden_states = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)  # (I, S, C), S over all three levels
        reference_points = pixel_centres(shapes, maps[0].device).to(dtype).expand(hidden_states.shape[0], -1, 3, -1)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=None,
                position_embeddings=positions,
                reference_points=reference_points,
                spatial_shapes_list=shapes,
            )[0]
        levels = tuple(x.transpose(1, 2).unflatten(2, shape) for x, shape in zip(hidden_states.split(sizes, dim=1), shapes, strict=True))
        lateral = self.lateral(feature_maps[0].to(dtype))  # (I, C, h, w)
        fused = lateral + F.interpolate(levels[2], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_projection(self.output(fused)), levels


def pixel_centres(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Centres (x, y) in [0, 1] of all pixels of all levels: (1, S, 1, 2), float32."""
    centres = []
    for rows, columns in shapes:
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / rows
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / columns
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1))
    return torch.cat(centres)[None, :, None]


class RowLayout:
    """Image of each row, and the moves between a tensor by rows (B, Q, ...) and one by images (I, r*Q, ...).

    r is the largest number of rows of one image; images with fewer have empty slots, which are zero and are read by nobody.

    Args:
        image_index: (B,), values from 0 to `num_images` - 1.
        images: the same as a list, where it is known, or it is read from the device.
    """

    def __init__(self, image_index: Tensor, num_images: int, images: list[int] | None = None):
        images = image_index.tolist() if images is None else images
        same_image = image_index[:, None] == image_index[None, :]
        self.image_index = image_index
        self.slot = same_image.tril(-1).sum(1)  # (B,) how many earlier rows look at the same image
        self.num_images = num_images
        self.num_slots = max(map(images.count, images))
        self.is_identity = images == list(range(num_images))

    def to_images(self, by_row: Tensor) -> Tensor:
        """(B, Q, ...) -> (I, r*Q, ...)."""
        if self.is_identity:
            return by_row
        slots = by_row.new_zeros(self.num_images, self.num_slots, *by_row.shape[1:])
        slots[self.image_index, self.slot] = by_row
        return slots.flatten(1, 2)

    def to_rows(self, by_image: Tensor) -> Tensor:
        """(I, r*Q, ...) -> (B, Q, ...)."""
        if self.is_identity:
            return by_image
        return by_image.unflatten(1, (self.num_slots, -1))[self.image_index, self.slot]


class PsalmAttention(nn.Module):
    """Multi-head attention on projected inputs through torch's fused kernel."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """query (N, Tq, C), key and value (N, Tk, C), `allowed` bool broadcastable to (N, heads, Tq, Tk) -> (N, Tq, C)."""
        heads = [self._split(x) for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))]
        attended = F.scaled_dot_product_attention(*heads, attn_mask=allowed)  # (N, heads, Tq, C/heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class PsalmMaskDecoderLayer(GradientCheckpointingLayer):
    """Masked cross-attention, self-attention, feed-forward; each adds its residual and normalises after."""

    def __init__(self, config: PsalmConfig):
        super().__init__()
        dim = config.hidden_dim
        self.cross_attention = PsalmAttention(dim, config.num_heads)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.self_attention = PsalmAttention(dim, config.num_heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        source: Tensor,
        source_positions: Tensor,
        allowed: Tensor,
        key_allowed: Tensor | None,
        layout: RowLayout,
    ) -> Tensor:
        """queries, query_positions (B, Q, C); source (I, S, C); allowed (I, 1, r*Q, S); key_allowed (B, 1, 1, Q) -> (B, Q, C)."""
        positioned = layout.to_images(queries + query_positions)
        attended = layout.to_rows(self.cross_attention(positioned, source + source_positions, source, allowed))
        queries = self.cross_attention_norm(queries + attended)
        positioned = queries + query_positions
        queries = self.self_attention_norm(queries + self.self_attention(positioned, positioned, queries, key_allowed))
        return self.ffn_norm(queries + self.fc2(F.relu(self.fc1(queries))))


class PsalmMaskDecoder(nn.Module):
    """Masked-attention decoder: refines the language model's query states, predicting masks before its first layer and after each.

    Unlike Mask2Former, the content of the queries comes from the prompt, and classes are compared by dot product with the
    embeddings of the prompt's conditions instead of a fixed classifier.
    """

    def __init__(self, config: PsalmConfig):
        super().__init__()
        dim = config.hidden_dim
        self.positions = PsalmSinePositions(dim)
        self.level_embed = nn.Embedding(3, dim)
        if config.decouple_masks:
            self.query_positions = nn.Embedding(config.num_queries, dim)
        self.layers = nn.ModuleList(PsalmMaskDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_head = PsalmMLP(dim, num_layers=3)
        self.category_head = PsalmMLP(dim, num_layers=2)
        self.sentence_head = PsalmMLP(dim, num_layers=2)
        self.region_head = PsalmMLP(dim, num_layers=2)
        self.decouple_masks = config.decouple_masks

    def forward(
        self,
        queries: Tensor,
        mask_features: Tensor,
        multi_scale: tuple[Tensor, Tensor, Tensor],
        layout: RowLayout,
        is_query: Tensor | None = None,
        every_depth: bool = True,
    ) -> list[tuple[Tensor, Tensor]]:
        """Predictions of every depth, first to last, or of the last alone.

        Args:
            queries: (B, Q, C), projected query states.
            mask_features: (I, C, h, w); multi_scale: maps of strides 32, 16, 8, each (I, C, ., .).
            is_query: (B, Q) bool, False on padding of rows with fewer queries (`decouple_masks=False`).
            every_depth: False = only the last depth. The others then say where queries look next from mask features that were resized
                once, not from masks that are: the same, since both are linear, but for rounding.

        Returns:
            `decoder_layers + 1` pairs, or one: normalised query states (B, Q, C), mask logits (B, Q, h, w).
        """
        dtype = self.norm.weight.dtype
        queries, mask_features = queries.to(dtype), mask_features.to(dtype)
        # Embeddings are called, not read: sharded engines gather a module's weights when it is called.
        levels = self.level_embed(torch.arange(3, device=queries.device))
        sources = [x.to(dtype).flatten(2).transpose(1, 2) + embed for x, embed in zip(multi_scale, levels, strict=True)]
        positions = [self.positions(x.to(dtype)) for x in multi_scale]
        query_positions = torch.zeros_like(queries)
        if self.decouple_masks:
            query_positions = self.query_positions(torch.arange(queries.shape[1], device=queries.device)).expand_as(queries)
        key_allowed = None if is_query is None else is_query[:, None, None, :]

        sizes = [x.shape[-2:] for x in multi_scale]
        resized = None if every_depth else [F.interpolate(mask_features, size=size, mode="bilinear", align_corners=False) for size in sizes]
        predictions = []
        for index, layer in enumerate(self.layers):
            level = index % 3
            prediction = self._predict(queries, resized[level] if resized else mask_features, layout)
            allowed = attention_allowed(prediction[1], sizes[level], layout)
            queries = layer(queries, query_positions, sources[level], positions[level], allowed, key_allowed, layout)
            if every_depth:
                predictions.append(prediction)
        return [*predictions, self._predict(queries, mask_features, layout)]

    def _predict(self, queries: Tensor, mask_features: Tensor, layout: RowLayout) -> tuple[Tensor, Tensor]:
        normed = self.norm(queries)
        mask_embeds = layout.to_images(self.mask_head(normed))  # (I, r*Q, C)
        mask_logits = layout.to_rows(torch.einsum("iqc,ichw->iqhw", mask_embeds, mask_features))  # (B, Q, h, w)
        return normed, mask_logits


@torch.no_grad()
def attention_allowed(mask_logits: Tensor, size: tuple[int, int], layout: RowLayout) -> Tensor:
    """Pixels at which a query may look next: its own mask, or all if that is empty at this size. (I, 1, r*Q, S) bool.

    The test is on the sigmoid, as released: tiny negative logits round to 0.5 and stay inside.
    """
    resized = F.interpolate(mask_logits.float(), size=size, mode="bilinear", align_corners=False)
    allowed = layout.to_images((resized.sigmoid() >= 0.5).flatten(2))  # (I, r*Q, S)
    return (allowed | ~allowed.any(dim=-1, keepdim=True))[:, None]
