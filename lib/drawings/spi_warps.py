"""Warps of SPI (Yin et al., 2023): how far a photo can be turned (figure 3), what of a warp is trusted (figure 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from lib.figures import Picture, depth_colours, image_grid, signed, to_picture

USED_COLOUR = "#d62728"
"""Of the box about the views that are used."""

BLANK = 0.9
"""What stands, as an image value, where a masked picture shows nothing: brighter than hair, greyer than teeth."""


# -------------------------------------------------------------------- figure 3
@dataclass(frozen=True)
class Turned:
    """A photo [1, 3, R, R] and its warps [n, 3, R, R] into views that are turned further and further.

    used: radians from the photo's own view up to which warps supervise. captions: a line for each warp, or none.
    """

    photo: Tensor
    warped: Tensor
    used: float
    captions: Sequence[str] = ()


def warped_over_yaw(rows: Mapping[str, Turned], turns: Sequence[float], cell: float = 1.0) -> Picture:
    """SPI's figure 3: a row a photo (label: warps), first as it is, then in views turned by `turns` (radians of yaw).

    A red box holds the views that are used.
    """
    _require_warps(rows, turns)
    captions = [["", *row.captions] if row.captions else [] for row in rows.values()]
    picture = image_grid(
        [[row.photo[0], *row.warped] for row in rows.values()],
        list(rows),
        ["photo", *map(signed, turns)],
        captions=captions if any(captions) else (),
        cell=cell,
    )
    per_row = 1 + len(turns)
    for i, row in enumerate(rows.values()):
        used = [j for j, turn in enumerate(turns) if abs(turn) <= row.used + 1e-6]
        if used:
            cells = picture.axes[i * per_row + 1 : (i + 1) * per_row]
            _box(picture, cells[used[0]], cells[used[-1]])
    return picture


def _require_warps(rows: Mapping[str, Turned], turns: Sequence[float]) -> None:
    if list(turns) != sorted(turns):
        raise ValueError(
            f"views are drawn by their turn, which must grow from left to right; got {list(turns)}"
        )
    for label, row in rows.items():
        if len(row.warped) != len(turns) or len(row.captions) not in (0, len(turns)):
            raise ValueError(
                f"{len(turns)} turns need as many warps, and captions for each or none; {label!r} has "
                f"{len(row.warped)} and {len(row.captions)}"
            )


def _box(picture: Picture, first, last) -> None:
    """A frame about the pictures from one to another of the same row."""
    first, last = first.get_position(), last.get_position()
    frame = Rectangle(
        (first.x0, first.y0),
        last.x1 - first.x0,
        first.height,
        transform=picture.transFigure,
        fill=False,
        edgecolor=USED_COLOUR,
        linewidth=2.0,
        zorder=10,
    )
    picture.add_artist(frame)


# -------------------------------------------------------------------- figure 4
@dataclass(frozen=True)
class MaskSteps:
    """How a warp comes to be trusted: a photo [1, 3, R, R] warped into a view [1, 3, R, R] of depth [1, 1, r, r].

    visible: [1, 1, R, R], where the photo shows the view's surface (SPI eq. 8). face: [1, 1, R, R] from 0 to 1, the
    face mask of the photo, warped along.
    """

    photo: Tensor
    depth: Tensor
    visible: Tensor
    face: Tensor
    warped: Tensor

    @property
    def authentic(self) -> Tensor:
        """M_t, the product of both masks."""
        return self.visible * self.face


STEPS = ("photo", "depth of view", "warped", "visible", "face, warped", "both", "trusted")
"""The columns of `authentic_mask_steps`."""


def authentic_mask_steps(rows: Mapping[str, MaskSteps], cell: float = 1.28) -> Picture:
    """SPI's figure 4, a row a warp (label: its steps): from the photo over both masks to what supervises."""
    pictures = [
        [
            row.photo[0],
            depth_colours(row.depth[0], torch.ones_like(row.depth[0])),
            row.warped[0],
            *(mask_picture(mask) for mask in (row.visible, row.face, row.authentic)),
            masked(row.warped, row.authentic)[0],
        ]
        for row in rows.values()
    ]
    return image_grid(pictures, list(rows), STEPS, cell=cell)


def mask_picture(mask: Tensor) -> np.ndarray:
    """A mask [1, 1, R, R], bool or from 0 to 1, in white on black."""
    return to_picture(2 * mask.float().expand(-1, 3, -1, -1) - 1)


def masked(image: Tensor, mask: Tensor) -> Tensor:
    """Images [B, 3, R, R] as far as a mask [B, 1, R, R] from 0 to 1 lets them show; else `BLANK`."""
    return BLANK + mask * (image - BLANK)
