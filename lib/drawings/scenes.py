"""Pictures of ground-truth scenes: contact sheets, one true view carried into another, how much views drift."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.figures import Picture, depth_colours, image_grid, signed

VEILED = 0.75
"""How far what does not belong to the head is drawn towards white."""


def contact_sheet(scenes: Sequence[Scene], cell: float = 1.0) -> Picture:
    """A row a scene: its input, the five yaws, then depth, normals and mask of the input; gaps where unknown."""
    titles = ["input", *(f"yaw {signed(yaw)}" for yaw in YAWS), "depth", "normals", "mask"]
    rows = [
        [
            scene.input.image[0],
            *(known_part(scene.views[yaw_name(yaw)]) for yaw in YAWS),
            *shape_pictures(scene.input),
        ]
        for scene in scenes
    ]
    return image_grid(rows, (), titles, cell=cell)


def shape_pictures(view: View) -> list[Tensor | np.ndarray | None]:
    """Depth, normals and mask of a view as pictures; None for what is not known."""
    depth = None if view.depth is None else _depth_picture(view.depth[0])
    normals = None if view.normals is None else view.normals[0].nan_to_num(nan=0.9)
    mask = None if view.mask is None else _veiled(view.image, view.mask)[0]
    return [depth, normals, mask]


def _depth_picture(depth: Tensor) -> np.ndarray:
    known = ~depth.isnan()
    farthest = depth[known].max() if known.any() else depth.new_zeros(())
    return depth_colours(depth.where(known, farthest), known.float())


def known_part(view: View) -> Tensor:
    """A view's image [3, R, R], pale where it shows something made up."""
    return view.image[0] if view.known is None else _veiled(view.image, view.known)[0]


def _veiled(image: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, image, torch.lerp(image, torch.ones_like(image), VEILED))
