"""One view carried into another: where its pixels lie there, which colour they have, and whether they are seen.

Depth is the distance along the ray, as the renderer gives it. The papers print these equations with depth along
the camera's axis; `depth_along_axis` and `depth_along_ray` convert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera
from lib.shapes import FeatureMaps, ImagePoints, PerPoint, SingleMaps, checked

TOLERANCE = 0.05
"""World units by which depths may differ where a point counts as seen: SPI's released code has this tau."""

_OUTSIDE = -1.0
"""Image position of what lies behind a camera; the picture spans 0 to 1."""


@checked
def depth_along_axis(camera: Camera, depth: SingleMaps) -> SingleMaps:
    """Depth [B, 1, R, R] along the camera's axis (z) out of depth along the ray."""
    return depth * camera.ray_cosines(depth.shape[-1])


@checked
def depth_along_ray(camera: Camera, depth_z: SingleMaps) -> SingleMaps:
    """Depth [B, 1, R, R] along the ray out of depth along the camera's axis: inverts `depth_along_axis`."""
    return depth_z / camera.ray_cosines(depth_z.shape[-1])


@checked
def pixels_in_view(camera: Camera, depth: SingleMaps, other: Camera) -> tuple[ImagePoints, PerPoint]:
    """Where another camera sees the surface of a view: positions uv [B, R*R, 2] and distances [B, R*R] there.

    SPI (Yin et al., 2023) eq. 7: unproject by the view's own depth, project into the other camera. The distance
    is along the ray of the other camera, to be compared with its depth. What lies behind it is put outside.
    """
    origins, directions = camera.rays(depth.shape[-1])
    points = origins + directions * depth.flatten(1)[..., None]
    uv, depth_z = other.project(points)
    distance = (points - other.position[:, None]).norm(dim=-1)
    return uv.where(depth_z[..., None] > 0, _OUTSIDE), distance


@checked
def sample_at(maps: FeatureMaps, uv: ImagePoints) -> Tensor:
    """Values [B, C, R, R] of maps [B, C, H, W] at image positions uv [B, R*R, 2]; bilinear, border repeated.

    SPI eq. 7: the warped picture is I_source at the positions of the target's pixels.
    """
    side = round(uv.shape[1] ** 0.5)
    grid = (2 * uv - 1).unflatten(1, (side, side))
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


@checked
def visible(uv: ImagePoints, distance: PerPoint, depth: SingleMaps, tolerance: float = TOLERANCE) -> Tensor:
    """Which points at positions uv and distances [B, R*R] a view of this depth shows: bool [B, 1, R, R].

    SPI eq. 8, |D - D_source(uv)| < tau, within the picture. D is the distance of the point from the source
    camera: the printed D_t, from the target's, would compare depths of two cameras. NaN depth shows nothing.
    """
    in_picture = ((uv > 0) & (uv < 1)).all(dim=-1)
    seen = sample_at(depth, uv)
    distance, in_picture = (x.reshape(seen.shape) for x in (distance, in_picture))
    return in_picture & ((distance - seen).abs() < tolerance)


def warp(
    source: Tensor,
    source_camera: Camera,
    source_depth: Tensor,
    camera: Camera,
    depth: Tensor,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Source pictures as another camera would show them, and where the source shows that surface at all.

    source: [B, C, H, W]; source_depth and depth (of the view that is made): [B, 1, R, R], of any resolution.
    Returns pictures [B, C, R, R] and bool [B, 1, R, R]; where that is False, the colour is of something else.
    """
    if len({len(x) for x in (source, source_camera, source_depth, camera, depth)}) != 1:
        counts = [len(x) for x in (source, source_camera, source_depth, camera, depth)]
        raise ValueError(
            "a warp takes as many source pictures, their cameras and depths as cameras and depths to warp "
            f"into; got {counts}: repeat the single ones by `expand`"
        )
    uv, distance = pixels_in_view(camera, depth, source_camera)
    return sample_at(source, uv), visible(uv, distance, source_depth, tolerance)


def angle_between_views(camera: Camera, depth: Tensor, other: Camera) -> Tensor:
    """Angle [B, 1, R, R] (radians) at the surface of a view, between the directions to it and to another camera."""
    origins, directions = camera.rays(depth.shape[-1])
    to_other = other.position[:, None] - (origins + directions * depth.flatten(1)[..., None])
    across = torch.linalg.cross(directions, to_other, dim=-1).norm(dim=-1)
    return torch.atan2(across, -(directions * to_other).sum(dim=-1)).reshape(depth.shape)
