"""What a photo sees of a head, as masks over its planes (GOAE, Yuan et al., 2023, sec. 4.3 and appendix A).

The photo's rays end on the surface that it sees (eq. 8). Refined planes are used where that surface falls on them and
plain planes elsewhere (eq. 9, 12). The surface is projected orthogonally, so a plane cannot tell a visible point from a
hidden one that projects to the same place: nose and back of the head share texels of plane (x, y). A hidden point stays
plain for sure only where all three of its projections do.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lib.cameras import Camera
from lib.generators.rendering import project_to_planes
from lib.shapes import PlaneAxes, Planes, Points, SingleMaps, checked
from lib.warping import TOLERANCE, pixels_in_view, visible

BinaryMasks = Bool[Tensor, "batch 3 size size"]
SoftMasks = Float[Tensor, "batch 3 size size"]
PlaneMasks = Shaped[Tensor, "plane_batch 3 plane_height plane_width"]

Footprint = Literal["lookup", "nearest"]

BLUR_REACH = 4
"""Of the released code's Gaussian, 9 x 9 texels."""

SPLAT_THRESHOLD = 0.35
"""Share of marked texels around one, from which on the released code counts it as seen."""


# ----------------------------------------------------------------------- eq. 8: the visible surface
@checked
def visible_points(
    depth: SingleMaps, camera: Camera, rays: int | None = None, tolerance: float = TOLERANCE
) -> Points:
    """V = {pi D(u, v) K^-1 [u, v, 1]} (GOAE eq. 8): where the rays of a picture end, [B, rays^2, 3].

    depth [B, 1, R, R] is along the ray. rays: along a side, through the centres of so many pixels; None for R. Masks
    need them denser than texels, see `plane_masks`. In between, depth is bilinear on a surface; but where that leaves
    the nearest pixel's depth by more than `tolerance`, world units, one surface hides another, and as nothing is
    between them, the nearest pixel's depth is taken.
    """
    if rays is not None:
        depth = _denser(depth, rays, tolerance)
    origins, directions = camera.rays(depth.shape[-1])
    return origins + directions * depth.flatten(1)[..., None]


def _denser(depth: Tensor, rays: int, tolerance: float) -> Tensor:
    smooth = F.interpolate(depth, size=(rays, rays), mode="bilinear", align_corners=False)
    nearest = F.interpolate(depth, size=(rays, rays), mode="nearest-exact")
    return smooth.where((smooth - nearest).abs() <= tolerance, nearest)


@checked
def visible_from(
    photo_camera: Camera,
    photo_depth: SingleMaps,
    camera: Camera,
    depth: SingleMaps,
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "batch 1 side side"]:
    """Which pixels of another view show what the photo sees too: the occlusion map of GOAE's Fig. 9, [B, 1, R, R].

    By comparing depths, in world units (SPI eq. 8): the truth that masks over planes approximate.
    """
    return visible(*pixels_in_view(camera, depth, photo_camera), photo_depth, tolerance)


# ----------------------------------------------------------------------- eq. 12: masks over planes
@torch.no_grad()
@checked
def plane_masks(
    points: Points, axes: PlaneAxes, box_warp: float, size: int, footprint: Footprint = "lookup"
) -> BinaryMasks:
    """T: for each plane, which of its size^2 texels visible points [B, N, 3] fall on (GOAE appendix A).

    axes, box_warp: the generator's. footprint "lookup" marks all texels that the bilinear lookup of a point reads, so
    that a visible point gets from mixed planes exactly what the refined planes have. "nearest" marks only the texel
    that a point lies in: most visible points then read plain texels too. Neighbouring rays should end at most one
    texel apart (a half for "nearest"), or there are holes between them. Points beside a plane mark nothing there.
    """
    texels = project_to_planes(points * (size / box_warp), axes) + (size - 1) / 2
    if footprint == "nearest":
        return _marked((texels + 0.5).floor(), size)
    first = texels.floor()
    masks = _marked(first, size)
    for step in ((1, 0), (0, 1), (1, 1)):
        step = texels.new_tensor(step)
        read = ((texels > first) | (step == 0)).all(dim=-1, keepdim=True)  # with a weight that is not 0
        masks |= _marked((first + step).where(read, torch.nan), size)
    return masks


def _marked(texels: Tensor, size: int) -> Tensor:
    """Masks [B, 3, size, size] of whole positions (u, v) [B, 3, N, 2]; without what is off the plane or no number."""
    inside = ((texels >= 0) & (texels < size)).all(dim=-1)
    column, row = texels.nan_to_num().unbind(dim=-1)
    index = (row * size + column).where(inside, size * size).long()  # the last place is for what is left out
    marked = torch.zeros(*index.shape[:2], size * size + 1, dtype=torch.bool, device=texels.device)
    return marked.scatter_(2, index, True)[..., :-1].unflatten(2, (size, size))


@torch.no_grad()
@checked
def released_mask(points: Points, size: int, sigma: float = 1.5, box_warp: float = 1.0) -> SoftMasks:
    """T of the released code: soft on plane (x, y), 1 on the others, which are refined everywhere.

    A point marks the one texel that it lies in, and beyond the border the border's; the marks are blurred, cut at
    `SPLAT_THRESHOLD` and blurred again. The code draws sigma, in texels, from [1, 2] at every call; here it is given.
    Its 128 x 128 rays on 256 x 256 texels end about 0.6 texels apart, to which its threshold belongs.
    """
    texels = ((points[..., :2] / box_warp + 0.5) * size).clamp(0, size - 1).floor()
    marks = _marked(texels[:, None], size).to(points.dtype)
    dense = _blurred(marks, sigma) > SPLAT_THRESHOLD
    soft = _blurred(dense.to(points.dtype), sigma)
    return torch.cat([soft, torch.ones_like(soft).expand(-1, 2, -1, -1)], dim=1)


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """Maps [B, 1, S, S] under a Gaussian of 9 x 9 texels; the border mirrors them."""
    steps = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.softmax(-(steps**2) / (2 * sigma**2), dim=0)
    padded = F.pad(maps, (BLUR_REACH,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


@checked
def mixed_planes(refined: Planes, plain: Planes, mask: PlaneMasks) -> Planes:
    """P_mix = P_F* . T + P_w+ . (1 - T) (GOAE eq. 12; eq. 9): planes [B, 3, C, S, S], T [B, 3, S, S], binary or soft."""
    mask = mask[:, :, None].to(refined.dtype)
    return refined * mask + plain * (1 - mask)
