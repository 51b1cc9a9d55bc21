"""Scenes: heads seen from views whose images are known, so that an inversion of one can be measured on the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lib.cameras import Camera

YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Radians of the views that every scene has; their names are `yaw_name` of them."""

ELLIPSE = 24
"""Views of the closed path for video, `ellipse00` to `ellipse23`."""


@dataclass(frozen=True)
class View:
    """One true view. What a scene does not know is None.

    image: [1, 3, R, R] in [-1, 1]. depth: [1, 1, R, R] along the ray, world units, NaN where nothing is
    known. normals: [1, 3, R, R] of the world, unit length, NaN where nothing is known. mask: bool
    [1, 1, R, R], what belongs to the head (hair included) and not to the background.
    """

    image: Tensor
    camera: Camera
    depth: Tensor | None = None
    normals: Tensor | None = None
    mask: Tensor | None = None


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
    """Name of a view by its yaw in radians: yaw-0.6, yaw+0.0."""
    return f"yaw{yaw + 0.0:+.1f}"
