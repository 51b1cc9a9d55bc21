"""Scenes: heads seen from views whose images are known, so that an inversion of one can be measured on the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lib.cameras import Camera
from lib.media import ellipse

YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Radians of the views that every scene has; their names are `yaw_name` of them."""

ELLIPSE = 24
"""Views of the closed path for video, `ellipse00` to `ellipse23`."""

ELLIPSE_YAW, ELLIPSE_PITCH = 0.5, 0.2
"""How far the path goes to either side and up or down, radians."""

INPUT_YAWS = (0.0, 0.3, 0.6, 0.0, -0.3, -0.6)
"""Radians from which inputs are seen unless a setting says otherwise: a third from the front, a third from either
distance to the side, as claims by the input's yaw ask for."""


@dataclass(frozen=True)
class View:
    """One true view. What a scene does not know is None.

    image: [1, 3, R, R] in [-1, 1]. depth: [1, 1, R, R] along the ray, world units, NaN where nothing is
    known. normals: [1, 3, R, R] of the world, unit length, NaN where nothing is known. mask: bool
    [1, 1, R, R], what belongs to the head (hair included) and not to the background. known: bool
    [1, 1, R, R], where the image is true; None: everywhere. Elsewhere it shows something made up, such as
    the reflection beyond the border of a photo, and is not to be measured.
    """

    image: Tensor
    camera: Camera
    depth: Tensor | None = None
    normals: Tensor | None = None
    mask: Tensor | None = None
    known: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """One head. `input_name` is the view that an inversion is given; the other views are for measuring.

    truth: what else is known, by name, such as `w_plus` of samples or the mesh of heads (vertices in world
    units, `millimetres_per_unit`). extras: plain values that JSON can hold: kind, seed, settings.
    """

    name: str
    input_name: str
    views: Mapping[str, View]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input_name not in self.views:
            raise ValueError(
                f"scene {self.name!r} has no view {self.input_name!r}; its views: {', '.join(self.views)}"
            )

    @property
    def input(self) -> View:
        return self.views[self.input_name]


def yaw_name(yaw: float) -> str:
    """Name of a view by its yaw in radians: yaw-0.6, yaw+0.0, yaw+0.45."""
    hundredths = f"{round(yaw, 2) + 0.0:+.2f}"
    return "yaw" + hundredths.removesuffix("0")


class Poses(Protocol):
    """What places cameras: a generator."""

    def camera(self, yaw: Tensor, pitch: Tensor) -> Camera:
        """Cameras that see the head from these angles [B] in radians."""


def scene_cameras(generator: Poses, input_yaw: float, with_ellipse: bool = True) -> dict[str, Camera]:
    """Cameras, one each, of a scene's views by name: the input's, the five yaws, the closed path."""
    angles = {yaw_name(yaw): (yaw, 0.0) for yaw in (input_yaw, *YAWS)}
    if with_ellipse:
        path = torch.stack(ellipse(ELLIPSE, ELLIPSE_YAW, ELLIPSE_PITCH), dim=1).tolist()
        angles |= {f"ellipse{i:02d}": tuple(place) for i, place in enumerate(path)}
    cameras = generator.camera(*torch.tensor(list(angles.values())).T).to("cpu")
    return dict(zip(angles, (cameras[i] for i in range(len(cameras))), strict=True))


def drawn_input_yaw(seed: int) -> float:
    """The yaw (radians) from which the input of a scene of this seed is seen, one of INPUT_YAWS."""
    return float(np.random.default_rng([seed, len(INPUT_YAWS)]).choice(INPUT_YAWS))
