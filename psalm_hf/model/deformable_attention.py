"""Deformable attention that reads values by a gather: on a CPU a quarter of the time of Mask2Former's, with its weights and its bits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention

# Queries of one step: the samples of a step stay in the caches of a CPU.
_CHUNK = 512


class PsalmDeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Mask2Former's module, which reads values by `gather_samples` on a CPU where no gradient is needed."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: list[tuple[int, int]] | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """hidden_states, position_embeddings (I, S, C); reference_points (I, S, levels, 2) in [0, 1] -> (I, S, C) and the attention
        (I, S, heads, levels, points). S counts the pixels of all maps of `spatial_shapes_list`; no pixel is masked."""
        # With its gradient the gather takes as long as the library's form; a compiler knows only the latter.
        if torch.is_grad_enabled() or hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                position_embeddings=position_embeddings,
                reference_points=reference_points,
                spatial_shapes_list=spatial_shapes_list,
            )
        queries = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        heads, levels, points = self.n_heads, self.n_levels, self.n_points
        values = self.value_proj(encoder_hidden_states).unflatten(2, (heads, -1))  # (I, S, heads, d)
        offsets = self.sampling_offsets(queries).unflatten(2, (heads, levels, points, 2))
        attention = self.attention_weights(queries).unflatten(2, (heads, -1)).softmax(-1).unflatten(3, (levels, points))
        sizes = torch.tensor([[columns, rows] for rows, columns in spatial_shapes_list])  # (levels, 2)
        locations = reference_points[:, :, None, :, None] + offsets / sizes[:, None]
        sampled = gather_samples(values, spatial_shapes_list, locations, attention)
        return self.output_proj(sampled.to(values.dtype)), attention


def gather_samples(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, attention: Tensor) -> Tensor:
    """Weighted sums of values between pixels, interpolated bilinearly; outside of a map they are 0.

    The four pixels around a location are a bag of `embedding_bag`, which reads rows of d values that lie together. `grid_sample`, the
    library's form, reads each value of a row at another end of a map. The gather rounds in the order of `grid_sample` and of the sum behind
    it: attention masks cut mask logits at 0, so that one more rounding sometimes sends a query to another pixel.

    Args:
        values: (I, S, heads, d), the maps one behind the other; shapes: (rows, columns) of each.
        locations: (I, Q, heads, levels, points, 2), (x, y) in units of the map: 0 and 1 are its edges.
        attention: (I, Q, heads, levels, points).

    Returns:
        (I, Q, heads * d), at least float32.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    images, _, heads, width = values.shape
    num_queries, points = locations.shape[1], locations.shape[-2]
    maps = [x.unflatten(1, shape) for x, shape in zip(values.to(dtype).split([r * c for r, c in shapes], dim=1), shapes, strict=True)]
    # With a border of zeros, all that lies outside is read there.
    tables = torch.cat([F.pad(x, (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2) for x in maps], dim=1).flatten(1, 2)  # (I, S' * heads, d)
    sizes = torch.tensor([(columns, rows) for rows, columns in shapes], dtype=torch.int32)  # (levels, 2)
    areas = (sizes + 2).prod(1, dtype=torch.int32) * heads
    first = (areas.cumsum(0, dtype=torch.int32) - areas).repeat_interleave(points)[:, None] + torch.arange(heads, dtype=torch.int32)
    steps = torch.stack((torch.full_like(areas, heads), (sizes[:, 0] + 2) * heads), dim=1)  # from a column, from a row to the next
    sizes, steps = (x.repeat_interleave(points, dim=0).T[:, None, :, None] for x in (sizes, steps))  # (2, 1, levels * points, 1)
    locations, attention = locations.to(dtype).flatten(3, 4), attention.to(dtype).flatten(3)
    sampled = tables.new_empty(images, num_queries, heads, width)
    for image, table in enumerate(tables):
        chunks = (x[image].split(_CHUNK) for x in (locations, attention, sampled))
        for chunk_locations, chunk_attention, chunk_sampled in zip(*chunks, strict=True):
            bags, weights = _neighbours(chunk_locations, sizes, steps, first)  # (q, levels * points, heads, 4)
            samples = F.embedding_bag(bags.flatten(0, 2), table, per_sample_weights=weights.flatten(0, 2), mode="sum")
            samples = samples.unflatten(0, bags.shape[:3]).mul_(chunk_attention.transpose(1, 2)[..., None])
            order = _summation_order(samples.shape[1])
            chunk_sampled.copy_(samples[:, order[0]])
            for point in order[1:]:
                chunk_sampled += samples[:, point]
    return sampled.flatten(2)


def _neighbours(locations: Tensor, sizes: Tensor, steps: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The four pixels around each location as rows of a table, and their weights, both (q, levels * points, heads, 4).

    Args:
        locations: (q, heads, levels * points, 2); sizes, steps: (2, 1, levels * points, 1), columns and rows of a map and the distance of
            two neighbours in the table; first: (levels * points, heads), the first row of a map.
    """
    # These are the steps of `grid_sample`: at a size of 128 half a step of float32 is 1e-5 of a pixel.
    positions = locations.permute(3, 0, 2, 1).mul(2).sub_(1).add_(1)
    # The last two steps are rounded once there, as float64 does; products with powers of two are exact anyway.
    positions = positions.double() if (sizes & (sizes - 1)).any() else positions
    positions = positions.mul_(sizes / 2).sub_(0.5).to(locations.dtype)  # pixel centres are whole numbers
    before = positions.floor()
    after_share = positions - before  # (2, q, levels * points, heads)
    before_share = 1 - after_share
    before, low, high = before.int() + 1, torch.zeros_like(sizes), sizes + 1  # the border is 0 and size + 1
    left, top = before.clamp(low, high) * steps
    right, bottom = (before + 1).clamp_(low, high) * steps
    top, bottom = top + first, bottom + first
    bags = torch.stack((top + left, top + right, bottom + left, bottom + right), dim=-1)
    (of_left, of_top), (of_right, of_bottom) = before_share, after_share
    return bags, torch.stack((of_left * of_top, of_right * of_top, of_left * of_bottom, of_right * of_bottom), dim=-1)


def _summation_order(number: int) -> list[int]:
    """Order in which torch adds `number` neighbours in memory: the rest of a division by 8 first. (Up to 15; the sum is right for all.)"""
    whole = number // 8 * 8
    return [*range(whole, number), *range(whole)]
