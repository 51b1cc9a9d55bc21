"""Volume rendering of tri-planes (Chan et al., 2022): from rays to feature pixels, one function a step.

Depths are Euclidean distances along unit rays. Densities are raw: the shift by -1 and the softplus belong
to the compositing. Without a random generator all samples are deterministic: the jitter of the stratified
samples is 1/2 and the importance samples are the quantiles (k + 1/2) / N; with one, both are drawn from it.
"""

import math
from collections.abc import Callable, Sequence
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
    RaySamples,
    SampleFeatures,
    checked,
)

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [B, N, 3] to raw densities [B, N] and colours [B, N, C]."""

SAMPLES = 2**18
"""Samples that are composited at a time. More need more memory; fewer cost time, since each tile adds its gradient
to that of all planes."""

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
    density_noise: float = 0.0  # deviation of the Gaussian noise on raw densities, where samples are random
    # As in EG3D's code, limits of depth are the batch's, not each image's. (Where no ray of a whole batch meets the
    # box, its "auto" bounds lie behind the camera; ours stay before it even then.)
    batch_coupled: bool = False

    def __post_init__(self) -> None:
        counts = self.depth_resolution, self.depth_resolution_importance
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError(
                f"numbers of samples must be whole and 0 or more; got {counts[0]!r} and {counts[1]!r}"
            )
        if counts[0] < 2 or (counts[1] > 0 and counts[0] < 4):
            raise ValueError(
                f"depth_resolution must be 2 or more (4 with importance samples); got {self.depth_resolution}"
            )
        if (self.ray_start == "auto") != (self.ray_end == "auto"):
            raise ValueError(
                "ray_start and ray_end are either both 'auto' or both numbers; "
                f"got {self.ray_start!r} and {self.ray_end!r}"
            )
        if self.ray_start != "auto" and not 0 <= self.ray_start < self.ray_end < math.inf:
            raise ValueError(f"expected 0 <= ray_start < ray_end; got {self.ray_start} and {self.ray_end}")
        if not 0 < self.box_warp < math.inf:
            raise ValueError(f"box_warp is the side of a cube, more than 0; got {self.box_warp}")
        if not 0 <= self.density_noise < math.inf:
            raise ValueError(f"density_noise is a standard deviation, 0 or more; got {self.density_noise}")


class RenderedRays(NamedTuple):
    features: PointFeatures  # [B, rays, C], in [-1, 1] where the colours are in [0, 1]
    depth: PerRay  # [B, rays], expected distance
    alpha: PerRay  # [B, rays], how much of the ray is absorbed


# -------------------------------------------------------------------- tri-planes
def plane_axes(convention: str | Sequence[Sequence[Sequence[float]]]) -> PlaneAxes:
    """Axes of the three planes [3, 3, 3]: the rows of each matrix are its u, its v and its normal.

    "released": planes (x, y), (x, z) and (z, x), a slip that all released weights were trained with.
    "corrected": planes (x, y), (x, z) and (z, y). Or the 3 x 3 x 3 numbers themselves.
    """
    x, y, z = torch.eye(3)
    known = {"released": [z, x, y], "corrected": [z, y, x]}
    if isinstance(convention, str):
        if convention not in known:
            raise ValueError(
                f"plane_axes must be 'released', 'corrected' or 3 x 3 x 3 numbers; got {convention!r}"
            )
        return torch.stack([torch.stack(axes) for axes in ([x, y, z], [x, z, y], known[convention])])
    try:
        axes = torch.tensor(convention, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"plane_axes need 3 x 3 x 3 numbers: {error}") from error
    if axes.shape != (3, 3, 3) or not axes.isfinite().all():
        raise ValueError(f"plane_axes need 3 finite matrices of 3 x 3; got shape {tuple(axes.shape)}")
    if torch.linalg.cross(axes[:, 0], axes[:, 1]).norm(dim=1).min() < 1e-6:
        raise ValueError("plane_axes need two different directions, u and v, for each plane")
    return axes


@checked
def project_to_planes(points: Points, axes: PlaneAxes) -> PointsOnPlanes:
    """Coordinates (u, v) of points on each plane, in units of the points."""
    with torch.autocast(points.device.type, enabled=False):  # bfloat16 would move points by whole texels
        return torch.einsum("bnd,pkd->bpnk", points, axes[:, :2].to(points.dtype))


@checked
def sample_planes(planes: Planes, points: Points, axes: PlaneAxes, box_warp: float) -> PointFeatures:
    """Mean of the three planes' bilinear features at points [B, N, 3] -> [B, N, C].

    Beside a plane there are zeros. A point outside the box may lie beside some planes only: in front of it, plane
    (x, y) goes on.

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


def quantiles(like: PerSample, count: int, rng: torch.Generator | None = None) -> Tensor:
    """`count` numbers in [0, 1) for every ray of `like` [B, R, D]: drawn, or (k + 1/2) / count."""
    shape = (*like.shape[:-1], count)
    if rng is not None:
        return _uniform(shape, like, rng)
    return ((torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count).expand(shape)


def importance_depths(
    depths: PerSample, weights: PerInterval, count: int, rng: torch.Generator | None = None
) -> PerSample:
    """`count` further depths a ray, where the weights of the first samples lie."""
    return depths_at(quantiles(depths, count, rng), depths, weights)


@torch.no_grad()
@checked
def depths_at(u: RaySamples, depths: PerSample, weights: PerInterval) -> RaySamples:
    """The inverse of the weights' cumulative distribution at u: depths [B, R, E], ascending where u is.

    depths [B, R, D] and their compositing weights [B, R, D-1]. As in EG3D's code the bins lie between the
    mid-points of the depths, but are filled with the weights of the intervals between the depths
    themselves: the samples lie half an interval nearer than the weights say, and the farthest bin is never
    drawn.
    """
    edges = (depths[..., 1:] + depths[..., :-1]) / 2
    mass = _smoothed(weights)[..., 1:-1] + 1e-5
    cdf = F.pad((mass / mass.sum(dim=-1, keepdim=True)).cumsum(dim=-1), (1, 0))
    above = torch.searchsorted(cdf, u.contiguous(), right=True)
    below, above = (above - 1).clamp_min(0), above.clamp_max(cdf.shape[-1] - 1)
    cdf_below, edge_below = cdf.gather(-1, below), edges.gather(-1, below)
    width = cdf.gather(-1, above) - cdf_below
    fraction = (u - cdf_below) / width.where(width >= 1e-5, torch.ones_like(width))
    return edge_below + fraction * (edges.gather(-1, above) - edge_below)


@torch.no_grad()
@checked
def merged_positions(first: PerSample, second: RaySamples) -> tuple[Tensor, Tensor]:
    """Where the samples of two ascending lists [B, R, D] and [B, R, E] stand in the one list of both."""
    first, second = first.contiguous(), second.contiguous()
    steps = torch.arange(max(first.shape[-1], second.shape[-1]), device=first.device)
    positions_of_first = torch.searchsorted(second, first) + steps[: first.shape[-1]]
    positions_of_second = torch.searchsorted(first, second, right=True) + steps[: second.shape[-1]]
    return positions_of_first, positions_of_second


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


@checked
def expected_depth(depths: PerSample, per_sample: PerSample, alpha: PerRay) -> PerRay:
    """Mean depth under the weights of the samples; infinite where the ray absorbs nothing."""
    depth = (per_sample * depths).sum(dim=-1) / alpha.clamp_min(EMPTY)
    return depth.where(alpha > EMPTY, torch.inf)


@checked
def within_samples(depth: PerRay, nearest: PerRay, farthest: PerRay, batch_coupled: bool = False) -> PerRay:
    """Depths between the nearest and the farthest sample of their image, or, batch-coupled, of the batch."""
    dims = (0, 1) if batch_coupled else (1,)
    nearest, farthest = nearest.amin(dim=dims, keepdim=True), farthest.amax(dim=dims, keepdim=True)
    return torch.minimum(torch.maximum(depth, nearest), farthest)


@checked
def composite(colours: SampleFeatures, per_sample: PerSample) -> PointFeatures:
    """Sum [B, R, C] over the samples of colours [B, R, D, C] times weights [B, R, D]."""
    with torch.autocast(per_sample.device.type, enabled=False):
        return (per_sample[:, :, None] @ colours.to(per_sample.dtype))[:, :, 0]


# -------------------------------------------------------------------- rendering
def render_rays(
    field: Field,
    origins: Rays,
    directions: Rays,
    settings: RenderingSettings,
    rng: torch.Generator | None = None,
) -> RenderedRays:
    """Render rays (origins and unit directions [B, R, 3]) through a field, in two passes as EG3D does.

    With `rng` the same numbers are drawn in the same order as EG3D draws them; density noise, too, is added only
    then.
    """
    if 0 in origins.shape:
        raise ValueError(f"expected rays [B, R, 3] of one camera or more; got {list(origins.shape)}")
    near, far = ray_bounds(origins, directions, settings)
    noise = settings.density_noise if rng is not None else 0.0
    depths = stratified_depths(near, far, settings.depth_resolution, rng, settings.disparity_space_sampling)
    added = _normal(depths, noise, rng)
    u = quantiles(depths, settings.depth_resolution_importance, rng)
    added_to_fine = _normal(u, noise, rng)
    if rng is not None:  # ascending, so that they can be merged with the first samples
        u, order = u.sort(dim=-1)
        added_to_fine = added_to_fine.expand_as(u).gather(-1, order)
    at_a_time = max(1, SAMPLES // (len(depths) * (depths.shape[-1] + u.shape[-1])))
    parts = (x.split(at_a_time, dim=1) for x in (origins, directions, depths, u, added, added_to_fine))
    tiles = [_render_tile(field, *part) for part in zip(*parts, strict=True)]
    colour, depth, alpha, nearest, farthest = (torch.cat(parts, dim=1) for parts in zip(*tiles, strict=True))
    if settings.white_back:
        colour = colour + (1 - alpha)[..., None]
    depth = within_samples(depth, nearest, farthest, settings.batch_coupled)
    return RenderedRays(2 * colour - 1, depth, alpha)


def _normal(like: Tensor, deviation: float, rng: torch.Generator | None) -> Tensor:
    """Gaussian noise of the shape [B, R, D] of `like`; without any, a zero for each ray."""
    if deviation == 0:
        return like.new_zeros(()).expand(*like.shape[:2], 1)
    noise = torch.randn(like.shape, generator=rng, device=rng.device, dtype=like.dtype)
    return deviation * noise.to(like.device)


def _render_tile(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    u: Tensor,
    noise: Tensor,
    noise_of_fine: Tensor,
) -> tuple[Tensor, ...]:
    """Colour, depth, alpha, nearest and farthest sample of some rays: first samples, then those at quantiles u."""
    density, colour = _evaluate(field, origins, directions, depths)
    density = density + noise
    if u.shape[-1] == 0:
        weights = composite_weights(density, depths)
        per_sample = sample_weights(weights)
        composited = composite(colour, per_sample)
    else:
        fine = depths_at(u, depths, composite_weights(density.detach(), depths))
        fine_density, fine_colour = _evaluate(field, origins, directions, fine)
        positions = merged_positions(depths, fine)
        depths = _merged(positions, depths, fine)
        weights = composite_weights(_merged(positions, density, fine_density + noise_of_fine), depths)
        per_sample = sample_weights(weights)
        # Sending each sample its weight is far cheaper than sorting all samples' colours.
        composited = sum(
            composite(part, per_sample.gather(-1, position))
            for part, position in zip((colour, fine_colour), positions, strict=True)
        )
    alpha = weights.sum(dim=-1)
    return composited, expected_depth(depths, per_sample, alpha), alpha, depths[..., 0], depths[..., -1]


def _merged(positions: tuple[Tensor, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """The values of two lists in the order of `merged_positions`."""
    both = torch.cat([first, second], dim=-1)
    return torch.empty_like(both).scatter(-1, torch.cat(positions, dim=-1), both)


def _evaluate(field: Field, origins: Tensor, directions: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """The field at depths [B, R, D] along rays: densities [B, R, D], colours [B, R, D, C]."""
    points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
    density, colour = field(points.flatten(1, 2))
    return density.to(depths.dtype).reshape(depths.shape), colour.reshape(*depths.shape, -1)
