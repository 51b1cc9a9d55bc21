"""Drawings about a generator whose codes say their own camera: what it shows, and whether what it says is true."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from lib.cameras import Camera
from lib.drawings.metrics import SERIES_COLOURS
from lib.figures import CELL, Picture, depth_colours, image_grid, use_style
from lib.generators import PoseFreeEG3D
from lib.media import depth_limits

Angles = Sequence[Sequence[float]]
"""Rows of learned yaw and pitch, then detected yaw and pitch, degrees."""


def degrees(angle: float) -> str:
    """An angle in radians as whole degrees with their sign."""
    return f"{np.degrees(angle):+.0f}°".replace("-", "\N{MINUS SIGN}")


@torch.no_grad()
def samples_in_own_pose(
    generator: PoseFreeEG3D, w_plus: Tensor, camera: Camera, *, cell: float = CELL
) -> Picture:
    """Heads [n, n_layers, w_dim], a column each: from the cameras that their codes say, from the front, and in depth.

    Above each its own yaw and pitch. Depths are from the front, all on one scale.
    """
    own = [generator.synthesize(w, camera[i]).image[0] for i, w in enumerate(w_plus.split(1))]
    front = [generator.synthesize(w, generator.frontal_camera()) for w in w_plus.split(1)]
    depths, alphas = (torch.cat([getattr(view, name) for view in front]) for name in ("depth", "alpha"))
    limits = depth_limits(depths, alphas)
    relief = [depth_colours(depth, alpha, limits) for depth, alpha in zip(depths, alphas, strict=True)]
    titles = [
        f"{degrees(yaw)}, {degrees(pitch)}" for yaw, pitch in zip(camera.yaw, camera.pitch, strict=True)
    ]
    rows = [own, [view.image[0] for view in front], relief]
    return image_grid(rows, ["own pose", "front", "depth"], titles, cell=cell)


def learned_against_detected(heads: Mapping[str, Angles]) -> Picture:
    """Poses that codes say over those that landmarks find, by name of the heads: yaw to the left, pitch to the right."""
    points = {name: np.asarray(angles, float) for name, angles in heads.items()}
    for name, rows in points.items():
        if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
            raise ValueError(
                f"{name}: expected rows of learned yaw and pitch, then detected; got {list(rows.shape)}"
            )
    with use_style():
        drawing = Picture(8.4, 4.0)
        panels = drawing.subplots(1, 2)
        for i, (axes, angle) in enumerate(zip(panels, ("yaw", "pitch"), strict=True)):
            for colour, (name, rows) in zip(cycle(SERIES_COLOURS), points.items(), strict=False):
                axes.plot(rows[:, 2 + i], rows[:, i], "o", color=colour, label=name, ms=3.5, alpha=0.5, mew=0)
            every = np.concatenate([rows[:, [i, 2 + i]].ravel() for rows in points.values()])
            limits = (every.min() - 2, every.max() + 2)
            axes.plot(limits, limits, color="0.35", ls="--", lw=1)
            axes.set(
                xlim=limits,
                ylim=limits,
                aspect="equal",
                title=angle,
                xlabel="detected, degrees",
                ylabel="learned, degrees",
            )
        panels[0].legend(loc="upper left", markerscale=1.6)
        drawing.tight_layout()
    return drawing
