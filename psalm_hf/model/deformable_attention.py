"""Deformable attention that reads values by a gather: on a CPU a quarter of the time of Mask2Former's, with its weights and its bits."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention

# Queries of one step: the samples of a step stay in the caches of a CPU.
_CHUNK = 512
# Of the backward pass, where every step adds to all values.
_BACKWARD_CHUNK = 4096


class PsalmDeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Mask2Former's module, which reads values by `gather_samples` on a CPU."""

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
        if hidden_states.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler knows only the library's form
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
        (I, Q, heads * d), at least float32. It has a gradient, of the first order.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    # (I, Q, heads, levels * points, 2) and (I, Q, heads, levels * points)
    locations, attention = locations.to(dtype).flatten(3, 4), attention.to(dtype).flatten(3)
    return _Gather.apply(values.to(dtype), locations, attention, shapes)


class _Gather(torch.autograd.Function):
    """`gather_samples`, with a gradient whose every part is a product with the same sparse matrix: a row per query and head, with the four
    weights around each of its locations in the columns of the pixels. The gradient wants them by head, as they stand in these rows."""

    @staticmethod
    def forward(ctx, values: Tensor, locations: Tensor, attention: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(values, locations, attention)
        ctx.shapes = shapes
        maps = _Maps(shapes, values.shape[2], locations.shape[3] // len(shapes))
        tables = maps.tables(values)
        sampled = values.new_empty(*locations.shape[:3], values.shape[3])  # (I, Q, heads, d)
        for part in _parts(*locations.shape[:2], _CHUNK):
            bags, weights, _ = maps.neighbours(locations[part])  # (q, levels * points, heads, 4)
            samples = F.embedding_bag(
                bags.flatten(0, 2), tables[part[0]].flatten(0, 1), per_sample_weights=weights.flatten(0, 2), mode="sum"
            )
            samples = samples.unflatten(0, bags.shape[:3]).mul_(attention[part].flatten(0, 1).transpose(1, 2)[..., None])
            order = _summation_order(samples.shape[1])
            total = samples[:, order[0]]
            for point in order[1:]:
                total += samples[:, point]
            sampled[part] = total.view_as(sampled[part])
        return sampled.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        values, locations, attention = ctx.saved_tensors
        maps = _Maps(ctx.shapes, values.shape[2], locations.shape[3] // len(ctx.shapes), by_head=True)
        tables = maps.tables(values)
        of_tables, of_locations, of_attention = (torch.zeros_like(x) for x in (tables, locations, attention))
        gradient = gradient.unflatten(2, values.shape[2:])  # (I, Q, heads, d)
        for part in _parts(*locations.shape[:2], _BACKWARD_CHUNK):
            table = tables[part[0]].flatten(0, 1)
            bags, weights, shares = maps.neighbours(locations[part])  # (q, heads, 4, levels * points)
            of_sampled = gradient[part].flatten(0, 2).contiguous()  # (q * heads, d)
            values_of_rows = (weights * attention[part].flatten(0, 1)[:, :, None]).flatten().numpy()
            starts = np.arange(0, bags.numel() + 1, bags[0, 0].numel(), dtype=np.int32)
            matrix = csr_matrix((values_of_rows, bags.flatten().numpy(), starts), shape=(len(of_sampled), len(table)))
            of_tables[part[0]] += torch.from_numpy(matrix.T @ of_sampled.numpy()).view_as(of_tables[part[0]])
            products = _products(matrix, of_sampled, table).view(bags.shape)  # of the gradient and each neighbour
            of_attention[part] = (products * weights).sum(2).view_as(attention[part])
            of_locations[part] = maps.slopes(products, shares).view_as(locations[part]) * attention[part][..., None]
        return maps.of_values(of_tables), of_locations, of_attention, None


def _parts(num_images: int, num_queries: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Images and queries of each step: `size` queries of one image, or several whole images. So no sum depends on the other images."""
    images = max(1, size // max(1, num_queries))
    for first in range(0, num_images, images):
        for start in range(0, num_queries, size):
            yield slice(first, first + images), slice(start, start + size)


def _products(matrix: csr_matrix, rows: Tensor, columns: Tensor) -> Tensor:
    """Products of `rows` (n, d) and `columns` (m, d) at the places that a matrix (n, m) holds, in its order."""
    with warnings.catch_warnings():  # torch calls all its sparse tensors of this kind a beta
        warnings.simplefilter("ignore", UserWarning)
        places = torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices), rows.new_zeros(matrix.nnz), size=matrix.shape
        )
    return torch.sparse.sampled_addmm(places, rows, columns.T).values()


class _Maps:
    """Maps of several levels as one table, whose rows are the pixels of every head, and the places in it.

    Args:
        shapes: (rows, columns) of each level; heads; points: locations of a query in each level.
        by_head: the locations of a head lie together, see `neighbours`.
    """

    def __init__(self, shapes: list[tuple[int, int]], heads: int, points: int, by_head: bool = False):
        self.shapes, self.heads, self.by_head = shapes, heads, by_head
        sizes = torch.tensor([(columns, rows) for rows, columns in shapes], dtype=torch.int32)  # (levels, 2)
        areas = (sizes + 2).prod(1, dtype=torch.int32) * heads
        starts = areas.cumsum(0, dtype=torch.int32) - areas
        steps = torch.stack((torch.full_like(areas, heads), (sizes[:, 0] + 2) * heads), dim=1)  # from a column, from a row to the next
        self.are_powers_of_two = all(size & (size - 1) == 0 for shape in shapes for size in shape)
        # Rows of the table of an image; the first of a map, (levels * points, heads); columns and rows of a map, and the distance of two
        # neighbours in the table, (2, 1, levels * points, 1). By head the last two axes change places.
        self.length = heads * sum((rows + 2) * (columns + 2) for rows, columns in shapes)
        self.first = starts.repeat_interleave(points)[:, None] + torch.arange(heads, dtype=torch.int32)
        self.sizes, self.steps = (x.repeat_interleave(points, dim=0).T[:, None, :, None] for x in (sizes, steps))
        if by_head:
            self.first, self.sizes, self.steps = (x.transpose(-1, -2) for x in (self.first, self.sizes, self.steps))

    def tables(self, values: Tensor) -> Tensor:
        """(I, S, heads, d) -> (I, S' * heads, d). With a border of zeros, all that lies outside is read there."""
        parts = values.split([rows * columns for rows, columns in self.shapes], dim=1)
        padded = [F.pad(x.unflatten(1, shape), (0, 0, 0, 0, 1, 1, 1, 1)) for x, shape in zip(parts, self.shapes, strict=True)]
        return torch.cat([x.flatten(1, 2) for x in padded], dim=1).flatten(1, 2)

    def of_values(self, of_tables: Tensor) -> Tensor:
        """The gradient of values, (I, S, heads, d), from that of their tables: without the border."""
        by_pixel = of_tables.unflatten(1, (-1, self.heads))
        parts = by_pixel.split([(rows + 2) * (columns + 2) for rows, columns in self.shapes], dim=1)
        padded = [x.unflatten(1, (rows + 2, columns + 2)) for x, (rows, columns) in zip(parts, self.shapes, strict=True)]
        return torch.cat([x[:, 1:-1, 1:-1].flatten(1, 2) for x in padded], dim=1)

    def neighbours(self, locations: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The four pixels around each location (I, Q, heads, levels * points, 2): upper left, upper right, lower left, lower right.

        Returns:
            Rows of the tables of these images, which lie one behind the other, and weights, both (I * Q, levels * points, heads, 4), or by
            head (I * Q, heads, 4, levels * points); the shares of the pixels before and after, each (2, I * Q, levels * points, heads), or
            (2, I * Q, heads, levels * points), x first.
        """
        starts = torch.arange(len(locations), dtype=torch.int32).repeat_interleave(locations.shape[1])[:, None, None] * self.length
        locations = locations.flatten(0, 1)
        sizes, steps = self.sizes, self.steps
        # These are the steps of `grid_sample`: at a size of 128 half a step of float32 is 1e-5 of a pixel.
        positions = locations.permute((3, 0, 1, 2) if self.by_head else (3, 0, 2, 1)).mul(2).sub_(1).add_(1)
        # The last two steps are rounded once there, as float64 does; products with powers of two are exact anyway.
        positions = positions if self.are_powers_of_two else positions.double()
        positions = positions.mul_(sizes / 2).sub_(0.5).to(locations.dtype)  # pixel centres are whole numbers
        before = positions.floor()
        after_share = positions - before
        before_share = 1 - after_share
        before, low, high = before.int() + 1, torch.zeros_like(sizes), sizes + 1  # the border is 0 and size + 1
        left, top = before.clamp(low, high) * steps
        right, bottom = (before + 1).clamp_(low, high) * steps
        first = starts + self.first
        top, bottom = top + first, bottom + first
        axis = 2 if self.by_head else 3
        bags = torch.stack((top + left, top + right, bottom + left, bottom + right), dim=axis)
        (of_left, of_top), (of_right, of_bottom) = before_share, after_share
        weights = torch.stack((of_left * of_top, of_right * of_top, of_left * of_bottom, of_right * of_bottom), dim=axis)
        return bags, weights, (before_share, after_share)

    def slopes(self, products: Tensor, shares: tuple[Tensor, Tensor]) -> Tensor:
        """How a sample changes with its location, by head: (q, heads, 4, levels * points), a number for each neighbour -> (q, heads,
        levels * points, 2), per unit of the map."""
        (of_left, of_top), (of_right, of_bottom) = shares
        top_left, top_right, bottom_left, bottom_right = products.unbind(2)
        x = (top_right - top_left) * of_top + (bottom_right - bottom_left) * of_bottom
        y = (bottom_left - top_left) * of_left + (bottom_right - top_right) * of_right
        return torch.stack((x * self.sizes[0], y * self.sizes[1]), dim=-1)


def _summation_order(number: int) -> list[int]:
    """Order in which torch adds `number` neighbours in memory: the rest of a division by 8 first. (Up to 15; the sum is right for all.)"""
    whole = number // 8 * 8
    return [*range(whole, number), *range(whole)]
