"""Volume rendering of tri-planes (Chan et al., 2022): from rays to feature pixels, one function a step.

Depths are Euclidean distances along unit rays. Densities are raw: the shift by -1 and the softplus belong
to the compositing. Without a random generator all samples are deterministic: the jitter of the stratified
samples is 1/2 and the importance samples are the quantiles (k + 1/2) / N; with one, both are drawn from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.shapes import (
    PerInterval,
    PerRay,
    PerSample,
    PlaneAxes,
    Planes,
    PointFeatures,
    Points,
    PointsOnPlanes,
    Rays,
    SamplePoints,
    checked,
)

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [B, N, 3] to raw densities [B, N] and colours [B, N, C]."""

EMPTY = 1e-8
"""A ray that absorbs less than this has no depth of its own: float32 cannot tell 1 - exp(-x) from zero."""


@dataclass(frozen=True)
class RenderingSettings:
    """How rays are sampled and composited; the names are those of EG3D's `rendering_kwargs`."""

    depth_resolution: int = 48  # stratified samples a ray
    depth_resolution_importance: int = 48  # further samples, drawn where the first found matter; 0 for none
    ray_start: float | Literal["auto"] = 2.25  # nearest sample; "auto": where the ray enters the box
    ray_end: float | Literal["auto"] = 3.3  # farthest sample; "auto": where it leaves the box
    box_warp: float = 1.0  # side of the cube that the planes span, world units
    white_back: bool = False  # what is not absorbed is white, not black
    disparity_space_sampling: bool = False  # stratify 1 / depth
    batch_coupled: bool = False  # as in EG3D's code, limits of depth are the batch's, not each image's

    def __post_init__(self) -> None:
        if self.depth_resolution < 2 or (self.depth_resolution_importance > 0 and self.depth_resolution < 4):
            raise ValueError(
                f"depth_resolution must be 2 or more (4 with importance samples); got {self.depth_resolution}"
            )
        if (self.ray_start == "auto") != (self.ray_end == "auto"):
            raise ValueError(
                "ray_start and ray_end are either both 'auto' or both numbers; "
                f"got {self.ray_start!r} and {self.ray_end!r}"
            )
        if self.ray_start != "auto" and not 0 <= self.ray_start < self.ray_end:
            raise ValueError(f"expected 0 <= ray_start < ray_end; got {self.ray_start} and {self.ray_end}")


class RenderedRays(NamedTuple):
    features: PointFeatures  # [B, rays, C], in [-1, 1] where the colours are in [0, 1]
    depth: PerRay  # [B, rays], expected distance
    alpha: PerRay  # [B, rays], how much of the ray is absorbed


# -------------------------------------------------------------------- tri-planes
def plane_axes(convention: Literal["released", "corrected"]) -> PlaneAxes:
    """Axes of the three planes [3, 3, 3]: the rows of each matrix are its u, its v and its normal.

    "released": planes (x, y), (x, z) and (z, x), a slip that all released weights were trained with.
    "corrected": planes (x, y), (x, z) and (z, y).
    """
    x, y, z = torch.eye(3)
    third = {"released": [z, x, y], "corrected": [z, y, x]}
    if convention not in third:
        raise ValueError(f"plane_axes must be 'released' or 'corrected'; got {convention!r}")
    return torch.stack([torch.stack(axes) for axes in ([x, y, z], [x, z, y], third[convention])])


@checked
def project_to_planes(points: Points, axes: PlaneAxes) -> PointsOnPlanes:
    """Coordinates (u, v) of points on each plane, in units of the points."""
    with torch.autocast(points.device.type, enabled=False):  # bfloat16 would move points by whole texels
        return torch.einsum("bnd,pkd->bpnk", points, axes[:, :2].to(points.dtype))


@checked
def sample_planes(planes: Planes, points: Points, axes: PlaneAxes, box_warp: float) -> PointFeatures:
    """Mean of the three planes' bilinear features at points [B, N, 3] -> [B, N, C]; zero outside the box.

    Planes of batch 1 serve points of any batch.
    """
    batch, n_points = points.shape[:2]
    if planes.shape[0] not in (1, batch):
        raise ValueError(f"planes of batch {planes.shape[0]} cannot serve points of batch {batch}")
    grid = project_to_planes(points * (2 / box_warp), axes)
    if planes.shape[0] == 1:  # fold the batch into the points instead of copying the planes
        grid = grid.transpose(0, 1).reshape(3, 1, batch * n_points, 2)
    else:
        grid = grid.reshape(batch * 3, 1, n_points, 2)
    features = F.grid_sample(
        planes.flatten(0, 1).to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    features = features.reshape(planes.shape[0], 3, planes.shape[2], -1).mean(dim=1)
    return features.transpose(1, 2).reshape(batch, n_points, planes.shape[2])


# -------------------------------------------------------------------- where to sample
@checked
def box_bounds(
    origins: Rays, directions: Rays, box_warp: float, batch_coupled: bool = False
) -> tuple[PerRay, PerRay]:
    """Where rays enter and leave the cube of side box_warp.

    Rays that miss it get EG3D's stand-in bounds: from the nearest to the farthest entry of the rays that hit.
    """
    with torch.no_grad():
        inverse = 1 / directions
        slabs = torch.stack([(side * box_warp / 2 - origins) * inverse for side in (-1, 1)])
        near, far = slabs.amin(dim=0).amax(dim=-1), slabs.amax(dim=0).amin(dim=-1)
        hit = far > near
        dims = (0, 1) if batch_coupled else (1,)
        some = hit.any() if batch_coupled else hit.any(dim=1, keepdim=True)
        first = near.where(hit, near.new_tensor(torch.inf)).amin(dim=dims, keepdim=True)
        last = near.where(hit, near.new_tensor(-torch.inf)).amax(dim=dims, keepdim=True)
        # A picture that misses the box altogether still needs finite samples; any outside the box will do.
        first = first.where(some, torch.zeros_like(first))
        last = last.where(some, torch.full_like(last, box_warp))
        return near.where(hit, first), far.where(hit, last)


def ray_bounds(origins: Tensor, directions: Tensor, settings: RenderingSettings) -> tuple[Tensor, Tensor]:
    """Nearest and farthest sample [B, rays] of each ray."""
    if settings.ray_start == "auto":
        return box_bounds(origins, directions, settings.box_warp, settings.batch_coupled)
    near = torch.full_like(origins[..., 0], settings.ray_start)
    return near, torch.full_like(near, settings.ray_end)


def _uniform(shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng, device=rng.device, dtype=like.dtype).to(like.device)


def stratified_depths(
    near: PerRay, far: PerRay, count: int, rng: torch.Generator | None = None, disparity: bool = False
) -> PerSample:
    """`count` depths a ray: an even grid from near to far, every sample moved by u in [0, 1) of a step.

    So the last sample lies beyond `far`. With `disparity` the grid is even in 1 / depth.
    """
    steps = torch.arange(count, device=near.device, dtype=near.dtype).expand(*near.shape, count)
    jitter = 0.5 if rng is None else _uniform(steps.shape, near, rng)
    fraction = (steps + jitter) / (count - 1)
    near, far = near[..., None], far[..., None]
    if disparity:
        return 1 / ((1 - fraction) / near + fraction / far)
    return near + fraction * (far - near)


def _smoothed(weights: Tensor) -> Tensor:
    """Maximum, then mean of neighbouring weights, and a floor so that no interval is never looked at."""
    flat = weights.flatten(0, -2)[:, None]
    flat = F.avg_pool1d(F.max_pool1d(flat, 2, stride=1, padding=1), 2, stride=1) + 0.01
    return flat[:, 0].reshape(weights.shape)


@torch.no_grad()
def importance_depths(
    depths: PerSample, weights: PerInterval, count: int, rng: torch.Generator | None = None
) -> PerSample:
    """`count` further depths a ray, drawn by the inverse of the weights' cumulative distribution.

    depths [B, R, D] and their compositing weights [B, R, D-1]. As in EG3D's code the bins lie between the
    mid-points of the depths, but are filled with the weights of the intervals between the depths
    themselves: the samples lie half an interval nearer than the weights say, and the farthest bin is never
    drawn.
    """
    edges = (depths[..., 1:] + depths[..., :-1]) / 2
    mass = _smoothed(weights)[..., 1:-1] + 1e-5
    cdf = F.pad((mass / mass.sum(dim=-1, keepdim=True)).cumsum(dim=-1), (1, 0))
    shape = (*depths.shape[:-1], count)
    if rng is None:
        steps = torch.arange(count, device=depths.device, dtype=depths.dtype)
        u = ((steps + 0.5) / count).expand(shape).contiguous()
    else:
        u = _uniform(shape, depths, rng)
    above = torch.searchsorted(cdf, u, right=True)
    below, above = (above - 1).clamp_min(0), above.clamp_max(cdf.shape[-1] - 1)
    cdf_below, edge_below = cdf.gather(-1, below), edges.gather(-1, below)
    width = cdf.gather(-1, above) - cdf_below
    fraction = (u - cdf_below) / width.where(width >= 1e-5, torch.ones_like(width))
    return edge_below + fraction * (edges.gather(-1, above) - edge_below)


# -------------------------------------------------------------------- compositing
@checked
def composite_weights(density: PerSample, depths: PerSample) -> Tensor:
    """Share of the ray's light [B, R, D-1] that each interval between neighbouring samples gives (Max, 1995).

    The mid-point rule on raw densities: sigma_k = softplus((density_k + density_k+1) / 2 - 1),
    weight_k = T_k (1 - exp(-sigma_k delta_k)) with T_k = exp(-sum_{j<k} sigma_j delta_j).
    """
    sigma = F.softplus((density[..., 1:] + density[..., :-1]) / 2 - 1)
    absorption = sigma * (depths[..., 1:] - depths[..., :-1])
    before = F.pad(absorption.cumsum(dim=-1)[..., :-1], (1, 0))
    return (1 - torch.exp(-absorption)) * torch.exp(-before)


@checked
def sample_weights(weights: PerInterval) -> Tensor:
    """Weights of the samples [B, R, D]: each interval gives half of its weight to either end."""
    return (F.pad(weights, (1, 0)) + F.pad(weights, (0, 1))) / 2


def expected_depth(depths: Tensor, per_sample: Tensor, alpha: Tensor, batch_coupled: bool) -> Tensor:
    """Mean depth [B, R] under the weights, within the sampled depths; the farthest where a ray is empty."""
    dims = tuple(range(depths.ndim)) if batch_coupled else tuple(range(1, depths.ndim))
    nearest, farthest = (limit(depths, dim=dims, keepdim=True)[..., 0] for limit in (torch.amin, torch.amax))
    depth = (per_sample * depths).sum(dim=-1) / alpha.clamp_min(EMPTY)
    depth = depth.where(alpha > EMPTY, farthest)
    return torch.minimum(torch.maximum(depth, nearest), farthest)


def _along(origins: Tensor, directions: Tensor, depths: Tensor) -> SamplePoints:
    return origins[:, :, None] + depths[..., None] * directions[:, :, None]


def _evaluate(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """The field at points [B, R, D, 3]: densities [B, R, D], colours [B, R, D, C]."""
    density, colour = field(points.flatten(1, 2))
    return density.to(points.dtype).reshape(points.shape[:3]), colour.reshape(*points.shape[:3], -1)


def render_rays(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    settings: RenderingSettings,
    rng: torch.Generator | None = None,
) -> RenderedRays:
    """Render rays (origins and unit directions [B, R, 3]) through a field, in two passes as EG3D does."""
    near, far = ray_bounds(origins, directions, settings)
    depths = stratified_depths(near, far, settings.depth_resolution, rng, settings.disparity_space_sampling)
    density, colour = _evaluate(field, _along(origins, directions, depths))
    colours, order = [colour], None
    if settings.depth_resolution_importance > 0:
        coarse_weights = composite_weights(density.detach(), depths)
        fine = importance_depths(depths, coarse_weights, settings.depth_resolution_importance, rng)
        fine_density, fine_colour = _evaluate(field, _along(origins, directions, fine))
        colours.append(fine_colour)
        depths, order = torch.cat([depths, fine], dim=-1).sort(dim=-1)
        density = torch.cat([density, fine_density], dim=-1).gather(-1, order)
    weights = composite_weights(density, depths)
    alpha = weights.sum(dim=-1)
    per_sample = sample_weights(weights)
    depth = expected_depth(depths, per_sample, alpha, settings.batch_coupled)
    if order is not None:  # un-sorting one weight a sample is far cheaper than sorting all its colours
        per_sample = torch.zeros_like(per_sample).scatter(-1, order, per_sample)
    rendered = composite(colours, per_sample)
    if settings.white_back:
        rendered = rendered + (1 - alpha)[..., None]
    return RenderedRays(2 * rendered - 1, depth, alpha)


def composite(colours: list[Tensor], per_sample: Tensor) -> PointFeatures:
    """Weighted sum [B, R, C] of colours, given in parts [B, R, D_i, C], with weights [B, R, sum of D_i]."""
    parts = per_sample.split([colour.shape[2] for colour in colours], dim=-1)
    with torch.autocast(per_sample.device.type, enabled=False):
        return sum(
            (part[:, :, None] @ colour.to(part.dtype))[:, :, 0]
            for part, colour in zip(parts, colours, strict=True)
        )
