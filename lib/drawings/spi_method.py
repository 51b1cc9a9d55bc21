"""SPI (Yin et al., 2023), idea by idea: many shapes of one photo, the mirror as a second view, parts of faces."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from lib.cameras import Camera
from lib.drawings.metrics import SERIES_COLOURS
from lib.drawings.spi_warps import BLANK
from lib.figures import Picture, show_picture, to_picture, use_style
from lib.images import resize
from lib.inversion.spi import importance, mirror_weight, mirrored
from lib.warping import depth_along_axis

POINT_COLOURS = ("#e45756", "#f58518", "#eeca3b", "#54a24b", "#4c78a8", "#b279a2")
"""Of points that stand in several panels, in their order."""

PART_COLOURS = {"left_eye": "#f58518", "right_eye": "#eeca3b", "nose": "#54a24b", "mouth": "#e45756"}
"""Of the parts of the face in eq. 10."""

SAMPLES = 256
"""Points on each ray of a new view, among which the first behind the relief is looked for."""

REACH = 1.0
"""How far before and behind the origin's plane these points go, world units."""

LOOSE = 0.02
"""World units from the relief within which a ray touches it; farther away it came from beside the photo."""


# -------------------------------------------------------------------- why one view is not enough
@torch.no_grad()
def photo_in_relief(photo: Tensor, camera: Camera, depth: Tensor, strength: float, views: Camera) -> Tensor:
    """Views [B, 3, R, R] of a photo [1, 3, R, R] that is painted on its own relief, which is flattened or raised.

    depth: [1, 1, r, r] along the ray. strength: 1 leaves it; 0 prints the photo on a plane through the origin. Every
    point moves along its ray, so that the camera of the photo sees the same whatever the strength. What an edge hides is
    stretched over the gap; beside the photo there is `BLANK`.
    """
    plane = camera.project(torch.zeros(1, 1, 3))[1].item()
    relief = plane + strength * (depth_along_axis(camera, depth) - plane)
    uv, touched = _first_touched(relief, camera, views, photo.shape[-1], plane)
    colours = F.grid_sample(photo, 2 * uv[:, None] - 1, padding_mode="border", align_corners=False)
    colours = colours.reshape(3, len(views), -1).where(touched, BLANK)
    return colours.transpose(0, 1).unflatten(2, photo.shape[-2:])


def _first_touched(
    relief: Tensor, camera: Camera, views: Camera, side: int, plane: float
) -> tuple[Tensor, Tensor]:
    """Where (u, v) [1, B*R*R, 2] rays of views first touch a relief, and which of them [B, R*R] do."""
    origins, directions = (x[:, :, None] for x in views.rays(side))
    distances = plane + REACH * torch.linspace(-1, 1, SAMPLES)[:, None]
    behind = _behind(relief, camera, origins + directions * distances)
    first = (behind > 0).int().argmax(dim=2, keepdim=True).clamp_min(1)
    before, after = (behind.gather(2, index) for index in (first - 1, first))
    share = (before / (before - after)).nan_to_num().clamp(0, 1)  # linear between two samples
    points = origins + directions * torch.lerp(distances[first - 1], distances[first], share[..., None])
    touched = (after > 0) & (_behind(relief, camera, points).abs() < LOOSE)
    return camera.project(points.reshape(1, -1, 3))[0], touched[..., 0]


def _behind(relief: Tensor, camera: Camera, points: Tensor) -> Tensor:
    """How far points [B, P, S, 3] lie behind a relief [1, 1, R, R] along its camera's axis; -1 beside its picture."""
    uv, depth_z = camera.project(points.reshape(1, -1, 3))
    there = F.grid_sample(relief, 2 * uv[:, None] - 1, padding_mode="border", align_corners=False)
    inside = ((uv > 0) & (uv < 1)).all(dim=-1)
    return (depth_z - there[:, 0, 0]).where(inside, -1.0).reshape(points.shape[:3])


def second_view(
    photo: Tensor, camera: Camera, uv: Tensor, counterparts: Tensor, points: Tensor, shown: Sequence[int]
) -> Picture:
    """How the mirrored photo tells depth: points of the photo, their lines in the mirrored one, and both from above.

    uv: [N, 2], where the photo shows points. counterparts: [N, 2], where the mirrored photo shows the same points of a
    symmetric face. points: [N, 3] in the world, where both rays cross. shown: numbers of those that are followed.
    """
    with use_style():
        drawing = Picture(9.6, 3.3)
        left, right = (drawing.add_axes((x, 0.05, 0.296, 0.861)) for x in (0.005, 0.308))
        plan = drawing.add_axes((0.685, 0.15, 0.305, 0.761))
        for axes, image, title in ((left, photo, "photo"), (right, mirrored(photo), "mirrored photo")):
            show_picture(axes, image[0])
            axes.set(title=title, autoscale_on=False)
        plan.plot(*points[:, [0, 2]].T.numpy(), ".", color="0.7", ms=2)
        side = photo.shape[-1]
        for number, colour in zip(shown, POINT_COLOURS, strict=False):
            left.plot(*(uv[number] * side - 0.5), "o", color=colour, mec="white", ms=6)
            ray = _ray(camera, uv[number])
            line = camera.mirror().project(ray[None])[0][0]
            right.plot(*(line * side - 0.5).T, color=colour, lw=1.4)
            right.plot(*(counterparts[number] * side - 0.5), "o", color=colour, mec="white", ms=6)
            for seen in (ray, _ray(camera.mirror(), counterparts[number])):
                plan.plot(*seen[:, [0, 2]].T, color=colour, lw=1.2, ls="-" if seen is ray else ":")
            plan.plot(*points[number, [0, 2]], "o", color=colour, mec="white", ms=6)
        _from_above(plan, points)
    return drawing


def _ray(camera: Camera, uv: Tensor, reach: float = 0.45) -> Tensor:
    """Points [50, 3] on the ray at image position uv [2], about as far away as the origin."""
    middle = camera.project(torch.zeros(1, 1, 3))[1].item()
    depth_z = torch.linspace(middle - reach, middle + reach, 50)[None]
    return camera.unproject(uv.expand(1, 50, 2), depth_z)[0]


def _from_above(axes: Axes, points: Tensor) -> None:
    """Room about points, seen from above: the photographer stands at the top."""
    x, z = points[:, 0], points[:, 2]
    x0, z0 = x.median().item(), z.median().item()
    reach = 1.3 * max((x - x0).abs().max().item(), (z - z0).abs().max().item())
    axes.set(title="both rays, from above", xlabel="x", ylabel="z", aspect="equal")
    axes.set(xlim=(x0 - reach, x0 + reach), ylim=(z0 - reach, z0 + reach))


# -------------------------------------------------------------------- eq. 3 and 4
def trust_over_yaw(yaw: float, k: float = 1.0, furthest: float = 0.8) -> Picture:
    """E (eq. 3) with its cut k, and lambda_m (eq. 4) as it is printed, cut at k, and as the released code has it.

    A line and dots stand at `yaw` (radians).
    """
    yaws = torch.linspace(0, furthest, 401)
    curves = {
        f"paper, k = {k:g}": mirror_weight(yaws, "paper", k),
        "released code": mirror_weight(yaws, "code"),
        "constant": mirror_weight(yaws, "constant"),
    }
    with use_style():
        drawing = Picture(8.4, 2.9)
        density, weight = (drawing.add_axes((x, 0.17, 0.4, 0.72)) for x in (0.08, 0.585))
        density.plot(yaws, importance(yaws), color="0.3", label="E")
        density.axhline(k, color=SERIES_COLOURS[0], ls=":", label=f"k = {k:g}")
        density.set(title="E, how much a view shows", xlabel="|yaw| (rad)")
        for (name, values), colour, style in zip(
            curves.items(), SERIES_COLOURS, ("-", "-", ":"), strict=False
        ):
            weight.plot(yaws, values, style, color=colour, label=name)
            weight.plot(abs(yaw), np.interp(abs(yaw), yaws, values), "o", color=colour, mec="white")
        weight.set(title="$\\lambda_m$, how much the mirror counts", xlabel="|yaw| (rad)", ylim=(-0.15, 1.1))
        for axes in (density, weight):
            axes.axvline(abs(yaw), color="0.75", lw=1)
            axes.legend(loc="upper right" if axes is density else "lower right")
    return drawing


# -------------------------------------------------------------------- eq. 10
def with_boxes(image: Tensor, boxes: Mapping[str, Tensor], side: int = 256) -> np.ndarray:
    """An image [1, 3, R, R] with frames at boxes (u0, v0, u1, v1) [1, 4] of parts of the face: bytes [side, side, 3]."""
    picture = to_picture(resize(image, side)).copy()
    for name, box in boxes.items():
        colour = [int(PART_COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)]
        left, top, right, bottom = (box[0] * side).round().long().clamp(0, side - 1).tolist()
        frame = np.zeros(picture.shape[:2], dtype=bool)
        frame[top : bottom + 1, left : right + 1] = True
        frame[top + 4 : bottom - 3, left + 4 : right - 3] = False
        picture[frame] = colour
    return picture
