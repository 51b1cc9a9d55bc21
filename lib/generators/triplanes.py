"""Looking points up in three planes and decoding them (Chan et al., 2022, sec. 3), on any device.

The planes of a head become one table whose rows are texels, so that a point's three bilinear lookups are one
weighted sum of twelve rows. Neither features nor hidden layers are kept for the backward pass: it computes them
again, tile by tile, which needs less memory and, on a CPU, less time than keeping them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.shapes import PerPoint, PlaneAxes, Planes, PointFeatures, Points, checked

TILE = 16384
"""Points that are decoded at a time: what they need fits the caches of a CPU."""

SCATTER_TILE = 16 * TILE
"""Points whose gradients are sorted into the planes at a time."""

COLOUR_MARGIN = 0.001
"""Colours leave [0, 1] by so much on either side, that a sigmoid may reach 0 and 1 (Barron et al., 2021)."""


# -------------------------------------------------------------------- lookup
class PlaneTable(NamedTuple):
    """Tri-planes [B, 3, C, S, S] with a border of zeros, one texel a row, and how points meet them."""

    rows: Tensor  # [B * stride * stride * 3, C]
    batch: int
    size: int  # texels along a side
    texels_from_point: Tensor  # [3, 6]: world units to texels, u and v of each plane

    @property
    def stride(self) -> int:
        """Texels along a side with the border: two on either side, so that clamped points meet zeros alone."""
        return self.size + 4


@checked
def plane_table(planes: Planes, axes: PlaneAxes, box_warp: float) -> PlaneTable:
    """The table of square planes that span a cube of side `box_warp`, world units."""
    batch, _, channels, height, width = planes.shape
    if height != width:
        raise ValueError(f"expected square planes [B, 3, C, S, S], got {tuple(planes.shape)}")
    texels = planes.permute(0, 3, 4, 1, 2)  # a view, where the network's memory is channels-last
    rows = F.pad(texels, (0, 0, 0, 0, 2, 2, 2, 2)).reshape(-1, channels)
    texels_from_point = axes[:, :2].reshape(6, 3).T.to(planes) * (width / box_warp)
    return PlaneTable(rows, batch, width, texels_from_point.contiguous())


def corners(table: PlaneTable, points: Tensor, heads: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [N, 12] around points [N, 3] on the three planes, weights [N, 12], and positions [N, 3, 2] within a texel.

    The weights make the mean of three bilinear lookups. heads: which head of the table each point [N] belongs
    to; None where there is one. Beside a plane there are rows of zeros; but a point outside the box may lie beside
    some planes only.
    """
    stride = table.stride
    texels = torch.addmm(points.new_tensor((table.size - 1) / 2), points, table.texels_from_point.to(points))
    texels = texels.clamp_(-2, table.size).unflatten(1, (3, 2))
    # An index must be a number; what is none stays so in `within`, and in the weights.
    first = texels.floor().nan_to_num_(nan=-2.0)
    within = texels.sub_(first)
    cell = torch.add(first[..., 0], first[..., 1], alpha=stride).to(torch.int32).mul_(3)
    cell += 6 * (1 + stride) + torch.arange(3, dtype=torch.int32, device=points.device)
    if heads is not None:
        cell += (heads * (len(table.rows) // table.batch)).to(torch.int32)[:, None]
    steps = torch.tensor([0, 3, 3 * stride, 3 * stride + 3], dtype=torch.int32, device=points.device)
    u, v = within[..., 0] / 3, within[..., 1]
    weights = points.new_empty(len(points), 3, 4)
    torch.mul(u, v, out=weights[..., 3])
    torch.sub(v / 3, weights[..., 3], out=weights[..., 2])
    torch.sub(u, weights[..., 3], out=weights[..., 1])
    torch.sub(1 / 3 - u, weights[..., 2], out=weights[..., 0])
    return (cell[..., None] + steps).flatten(1), weights.flatten(1), within


def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of rows[index[n, k]] * weights[n, k]: [N, C]."""
    return F.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")


def add_to_rows_(gradient: Tensor, index: Tensor, weights: Tensor, output_gradient: Tensor) -> None:
    """Add to `gradient` [rows, C] that of `weighted_rows` with respect to the rows.

    Sorted by row it is again a weighted sum of rows: of those of the output's gradient. Adding them one by one
    takes several times as long.
    """
    index = index.flatten()
    order = index.sort(stable=True).indices
    counts = torch.bincount(index, minlength=len(gradient))
    gradient += F.embedding_bag(
        order // weights.shape[1],
        output_gradient,
        counts.cumsum(0) - counts,
        per_sample_weights=weights.flatten()[order],
        mode="sum",
    )


def point_gradient(table: PlaneTable, within: Tensor, to_weights: Tensor) -> Tensor:
    """Gradient at points [N, 3] from that at their twelve weights [N, 12]: the slopes of bilinear weights."""
    u, v = within.unbind(dim=2)
    g00, g10, g01, g11 = to_weights.unflatten(1, (3, 4)).unbind(dim=2)
    to_u = (g10 - g00).lerp(g11 - g01, v)
    to_v = (g01 - g00).lerp(g11 - g10, u)
    to_texels = torch.stack([to_u, to_v], dim=2).flatten(1) / 3
    return to_texels @ table.texels_from_point.T.to(to_texels)


# -------------------------------------------------------------------- decoder
Layer = tuple[Tensor, Tensor]
"""Weight [out, in] and bias [out] of a linear layer."""


@checked
def decode(table: PlaneTable, points: Points, first: Layer, last: Layer) -> tuple[PerPoint, PointFeatures]:
    """Raw densities [B, N] and colours [B, N, C] at world points [B, N, 3].

    The mean of three bilinear features goes through two linear layers with a softplus between them. Output 0 is
    the raw density, the others pass a sigmoid. One head serves any batch. Always in the points' own precision.
    """
    batch, n_points = points.shape[:2]
    if table.rows.shape[1] != first[0].shape[1]:
        raise ValueError(
            f"expected planes of {first[0].shape[1]} channels, as this decoder takes; got {table.rows.shape[1]}"
        )
    if table.batch not in (1, batch):
        raise ValueError(f"planes of batch {table.batch} cannot serve points of batch {batch}")
    heads = None
    if table.batch > 1:
        heads = torch.arange(batch, device=points.device).repeat_interleave(n_points)
    with torch.autocast(points.device.type, enabled=False):
        layers = (x.to(points.dtype) for x in (*first, *last))
        density, colour = _Decode.apply(
            points.flatten(0, 1), table.rows.to(points.dtype), *layers, table, heads
        )
    return density.reshape(batch, n_points), colour.reshape(batch, n_points, colour.shape[-1])


def _without_autocast(function: Callable) -> Callable:
    """A gradient in full precision, also where the backward pass is started under autocast."""

    @functools.wraps(function)
    def wrapped(ctx, *gradients: Tensor):
        with torch.autocast(gradients[0].device.type, enabled=False):
            return function(ctx, *gradients)

    return wrapped


class _Decode(torch.autograd.Function):
    """`decode` of points [N, 3]; all that lies between points and outputs is computed again for the gradient."""

    @staticmethod
    def forward(ctx, points, rows, w1, b1, w2, b2, table, heads):
        density = points.new_empty(len(points))
        colour = points.new_empty(len(points), len(w2) - 1)
        for part in _tiles(len(points), TILE):
            index, weights, _ = corners(table, points[part], _rows_of(heads, part))
            hidden = F.softplus(F.linear(weighted_rows(rows, index, weights), w1, b1))
            output = F.linear(hidden, w2, b2)
            density[part] = output[:, 0]
            torch.sigmoid(output[:, 1:], out=colour[part])
        colour.mul_(1 + 2 * COLOUR_MARGIN).sub_(COLOUR_MARGIN)
        ctx.save_for_backward(points, rows, w1, b1, w2, b2, colour)
        ctx.table, ctx.heads = table, heads
        return density, colour

    @staticmethod
    @once_differentiable
    @_without_autocast
    def backward(ctx, density_gradient, colour_gradient):
        points, rows, w1, b1, w2, b2, colour = ctx.saved_tensors
        to_points, to_rows, *to_layers = (
            torch.zeros_like(x) if wanted else None
            for x, wanted in zip((points, rows, w1, b1, w2, b2), ctx.needs_input_grad, strict=False)
        )
        for block in _tiles(len(points), SCATTER_TILE):
            index, weights, within = corners(ctx.table, points[block], _rows_of(ctx.heads, block))
            to_features = rows.new_empty(len(index), rows.shape[1])
            for part in _tiles(len(index), TILE):
                here = slice(block.start + part.start, block.start + part.start + len(index[part]))
                sigmoid = (colour[here] + COLOUR_MARGIN) / (1 + 2 * COLOUR_MARGIN)
                slope = (1 + 2 * COLOUR_MARGIN) * sigmoid * (1 - sigmoid)
                output = colour.new_empty(len(slope), len(w2))
                output[:, 0] = density_gradient[here]
                torch.mul(colour_gradient[here], slope, out=output[:, 1:])
                features = weighted_rows(rows, index[part], weights[part])
                to_features[part] = _through_layers(features, w1, b1, w2, output, to_layers)
                if to_points is not None:
                    to_weights = (rows[index[part]] * to_features[part][:, None]).sum(dim=2)
                    to_points[here] = point_gradient(ctx.table, within[part], to_weights)
            if to_rows is not None:
                add_to_rows_(to_rows, index, weights, to_features)
        return to_points, to_rows, *to_layers, None, None


def _through_layers(
    features: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, output: Tensor, to_layers: list[Tensor | None]
) -> Tensor:
    """Gradient at the features from that at the output; the gradients of the layers are added to `to_layers`."""
    to_w1, to_b1, to_w2, to_b2 = to_layers
    before = F.linear(features, w1, b1)
    if to_w2 is not None:
        to_w2.addmm_(output.T, F.softplus(before))
    if to_b2 is not None:
        to_b2.add_(output.sum(dim=0))
    to_before = (output @ w2).mul_(before.sigmoid_())
    if to_w1 is not None:
        to_w1.addmm_(to_before.T, features)
    if to_b1 is not None:
        to_b1.add_(to_before.sum(dim=0))
    return to_before @ w1


def _tiles(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _rows_of(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]
