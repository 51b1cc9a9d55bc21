"""What the modules of SPI (Yin et al., 2023) do: table 3 row by row, and the places of figures 9 and 11."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from lib.cameras import Camera
from lib.contextual import regions
from lib.figures import Picture, method_colour, method_label, use_style
from lib.meshes import seen_points

PAPER, TRUTH = "#333333", "#000000"

CLOSE_UP = 96
"""Pixels across an enlarged part."""


# -------------------------------------------------------------------- table 3, row by row
@dataclass(frozen=True)
class Changes:
    """Of one metric on some inputs: by method in the order of rows, ours and the paper's change against the first.

    ours: (change, low, high), shares; NaN where there is none. n: scenes behind them.
    """

    ours: Mapping[str, tuple[float, float, float]]
    paper: Sequence[float]
    n: int


def row_by_row(panels: Mapping[str, Mapping[str, Changes]], rows: Sequence[str]) -> Picture:
    """A row of panels for some inputs (title: {metric: changes}): each method against the first, beside the paper.

    rows: what each row of the paper's table adds, under the panels.
    """
    columns = max(map(len, panels.values()))
    with use_style():
        picture = Picture(2.75 * columns + 0.5, 2.15 * len(panels) + 1.15)
        grid = picture.subplots(len(panels), columns, squeeze=False, sharex=True)
        for line, (title, metrics) in zip(grid, panels.items(), strict=True):
            line[0].set_ylabel(title)
            for axes, (metric, changes) in zip(line, metrics.items(), strict=True):
                _changes(axes, metric, changes)
        for axes in grid[-1]:
            axes.set_xticks(range(len(rows)), rows, rotation=40, ha="right", rotation_mode="anchor")
        picture.legend(handles=_key(), loc="upper right", ncols=2)
        picture.tight_layout(rect=(0, 0, 1, 0.955))
    return picture


def _changes(axes: Axes, metric: str, changes: Changes) -> None:
    """One panel: the paper's line, our points with what is known of their intervals."""
    axes.axhline(0, color="#888888", lw=0.9)
    axes.plot(range(len(changes.paper)), changes.paper, "D--", color=PAPER, mfc="none", lw=1.0, ms=5)
    for place, (method, (change, low, high)) in enumerate(changes.ours.items()):
        colour = method_colour(method)
        axes.plot([place, place], [low, high], color=colour, lw=2.4, solid_capstyle="butt")
        axes.plot(place, change, "o", color=colour, mec="white", ms=7.5)
    axes.set_title(f"{metric}, n = {changes.n}")
    axes.set_xlim(-0.5, len(changes.paper) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
    axes.grid(axis="x", visible=False)


def _percent(share: float) -> str:
    return "0" if abs(share) < 1e-9 else f"{100 * share:+.3g} %".replace("-", "\N{MINUS SIGN}")


def _key() -> list[Line2D]:
    ours = Line2D([], [], color="#888888", marker="o", mec="white", ms=7.5, lw=2.4, label="here, 95 %")
    paper = Line2D([], [], color=PAPER, marker="D", mfc="none", ls="--", lw=1.0, ms=5, label="in the paper")
    return [ours, paper]


# -------------------------------------------------------------------- close by
def box_about(mask: Tensor, least: float = 0.25, room: float = 0.04) -> Tensor:
    """The square (u0, v0, u1, v1) [1, 4] about what a mask [1, 1, R, R] marks, with `room` around it; in the picture.

    least, room: shares of the picture's side.
    """
    rows, columns = torch.nonzero(mask[0, 0] > 0, as_tuple=True)
    if not len(rows):
        raise ValueError("a mask that marks nothing has no box: leave that picture out")
    side = mask.shape[-1]
    ends = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float() / side
    extent = (ends[2:] - ends[:2]).max().add(2 * room).clamp(least, 1.0)
    corner = ((ends[:2] + ends[2:] - extent) / 2).clamp(min=0.0)
    corner = torch.minimum(corner, 1 - extent)
    return torch.cat([corner, corner + extent])[None]


def close_up(image: Tensor, box: Tensor) -> Tensor:
    """What a picture [1, 3, R, R] shows within a box (u0, v0, u1, v1) [1, 4], enlarged: [3, CLOSE_UP, CLOSE_UP]."""
    return regions(image, box, CLOSE_UP)[0]


# -------------------------------------------------------------------- the line through nose and jaw
def middle_profile(camera: Camera, depth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """z and y [R] in world units of the surface that a frontal view of depth [1, 1, R, R] has down its middle.

    NaN where the depth is.
    """
    side = depth.shape[-1]
    points = seen_points(camera, depth).reshape(side, side, 3)
    z, y = points[:, side // 2 - 1 : side // 2 + 1].mean(dim=1)[:, [2, 1]].T.cpu().numpy()
    return z, y


def profiles(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    truths: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Picture:
    """Profiles (z, y), a panel a head (title: {method: line}), with the true ones (title: line) in black.

    The face looks to the right; z, along which methods differ, is drawn twice as large as y. The last method's line is
    whole, those before it are broken.
    """
    if not panels:
        raise ValueError("profiles need at least one head")
    with use_style():
        picture = Picture(2.5 * len(panels) + 2.1, 4.2)
        grid = picture.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            axes.plot(*truths[title], color=TRUTH, lw=2.6, alpha=0.8, label="truth")
            for style, (method, line) in zip(_broken(len(lines)), lines.items(), strict=True):
                axes.plot(*line, ls=style, color=method_colour(method), label=method_label(method))
            axes.set(title=title, xlabel="z", aspect=0.5)
            axes.xaxis.set_major_locator(MaxNLocator(2))
        grid[0].set_ylabel("y")
        picture.legend(*grid[0].get_legend_handles_labels(), loc="center right")
        picture.tight_layout(rect=(0, 0, 1 - 2.1 / picture.get_figwidth(), 1))
    return picture


def _broken(count: int) -> list[str]:
    """Styles of so many lines, the last one whole: colours of one method's variants are near each other."""
    return [(":", "--")[i % 2] for i in range(count - 1)] + ["-"]
