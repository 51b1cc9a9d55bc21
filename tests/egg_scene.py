"""A scene whose geometry has closed forms: an egg about where the canonical face lies, before nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.datasets.scenes import YAWS, Scene, View, yaw_name

HALF_AXES = torch.tensor([0.20, 0.28, 0.19])


def egg_distance(camera: Camera, side: int) -> Tensor:
    """Distance [R*R] along the pixels' rays to the egg, NaN beside it: from the rays' points nearest its centre."""
    origins, directions = (x[0].double() / HALF_AXES for x in camera.rays(side))
    speed = directions.norm(dim=1, keepdim=True)
    to_nearest = -(origins * directions / speed).sum(dim=1)
    nearest = (origins + directions / speed * to_nearest[:, None]).norm(dim=1)
    inside = (1 - nearest.square()).sqrt()  # NaN for rays that pass by
    return ((to_nearest - inside) / speed[:, 0]).float()


def egg_view(camera: Camera, side: int = 40) -> View:
    """The egg, coloured smoothly by where its surface lies, unlit."""
    distance = egg_distance(camera, side)
    origins, directions = (x[0] for x in camera.rays(side))
    points = origins + directions * distance[:, None]
    as_maps = lambda values: values.T.reshape(1, -1, side, side)  # noqa: E731
    return View(
        as_maps(points.nan_to_num() - 0.1),
        camera,
        depth=as_maps(distance[:, None]),
        normals=as_maps(F.normalize(points / HALF_AXES.square(), dim=1)),
        mask=as_maps(distance[:, None]).isfinite(),
    )


def egg_scene(side: int = 40) -> Scene:
    views = {yaw_name(yaw): egg_view(orbit(yaw, 0.0), side) for yaw in YAWS}
    return Scene("egg", "yaw+0.0", views, extras={"kind": "egg"})


def on_egg(x: float, y: float) -> Tensor:
    """The point [3] of the egg's front at this x and y, and its unit normal [3]."""
    z = HALF_AXES[2] * (1 - (x / HALF_AXES[0]) ** 2 - (y / HALF_AXES[1]) ** 2).sqrt()
    point = torch.stack([torch.tensor(x), torch.tensor(y), z])
    return point, F.normalize(point / HALF_AXES.square(), dim=0)
