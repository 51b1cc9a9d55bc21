"""Pose-free inversion (Luo & Ghosh), step by step: losses over the camera, where starts end, what changes on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from lib.drawings.metrics import SERIES_COLOURS
from lib.drawings.prior import line_panels
from lib.figures import Picture, use_style

HEAD_COLOUR = "black"
"""Of the head that was found, beside the starts."""


# -------------------------------------------------------------------- starts
@dataclass(frozen=True)
class Start:
    """One start of `invert_posefree`: yaw (radians, the generator's frame) and loss of eq. 2 at each of its steps."""

    yaws: Sequence[float]
    losses: Sequence[float]


def starts_of(history: Mapping[str, Sequence[float]]) -> list[Start]:
    """The starts in the history of an inversion, in their order; none where it began at a given code."""
    count = sum(name.startswith("start_yaw_") for name in history)
    return [Start(history[f"start_yaw_{i}"], history[f"start_loss_{i}"]) for i in range(count)]


def kept(starts: Sequence[Start]) -> int:
    """Which of the starts the inversion goes on with: the one that ends lowest; one that is no number never does."""
    ends = [start.losses[-1] for start in starts]
    return int(np.argmin(np.nan_to_num(ends, nan=np.inf)))


def valleys(losses: Sequence[float]) -> int:
    """How many local minima a curve has; the ends of its range are none."""
    slopes = np.diff(np.asarray(losses, float))
    return int(np.sum((slopes[:-1] < 0) & (slopes[1:] > 0)))


def bent_down(losses: Sequence[float]) -> float:
    """For which share of its range a curve over even steps is bent down, as no convex one ever is."""
    return float(np.mean(np.diff(np.asarray(losses, float), 2) < 0))


@dataclass(frozen=True)
class Landscape:
    """Losses of one head from cameras at `yaws`, radians; own: the yaw that its code says, and the loss there."""

    yaws: Sequence[float]
    losses: Sequence[float]
    own: tuple[float, float]


def landscape_and_paths(
    heads: Sequence[Landscape], found: Landscape, starts: Sequence[Start], yaw_label: str
) -> Picture:
    """Left, the loss over the camera's yaw for each start's code and for the head that was found; dots: own cameras.

    Right, where each start goes: from a ring to a dot, the kept one with a star. Both panels have the same axes.
    """
    with use_style():
        drawing = Picture(8.2, 3.5)
        still, moving = drawing.subplots(1, 2, sharey=True, sharex=True)
        for i, (colour, head, start) in enumerate(zip(cycle(SERIES_COLOURS), heads, starts, strict=False)):
            _profile(still, head, colour, f"start {i + 1}")
            _path(moving, start, colour, is_kept=i == kept(starts))
        _profile(still, found, HEAD_COLOUR, "found head")
        still.set(title="a head, from all cameras", xlabel=yaw_label, ylabel="loss of eq. 2")
        moving.set(title="the runs of the starts", xlabel=yaw_label)
        handles, labels = still.get_legend_handles_labels()
        drawing.tight_layout(rect=(0, 0, 1, 0.92))
        drawing.legend(handles, labels, loc="upper center", ncols=len(labels), columnspacing=1.2)
    return drawing


def _profile(axes: Axes, head: Landscape, colour: str, label: str) -> None:
    order = np.argsort(head.yaws)
    axes.plot(np.asarray(head.yaws)[order], np.asarray(head.losses)[order], color=colour, label=label, lw=1.4)
    axes.plot(*head.own, "o", color=colour, mec="white", ms=8)


def _path(axes: Axes, start: Start, colour: str, *, is_kept: bool) -> None:
    axes.plot(start.yaws, start.losses, color=colour, lw=1.2)
    axes.plot(start.yaws[0], start.losses[0], "o", mfc="white", mec=colour, ms=7)
    marker, size = ("*", 14) if is_kept else ("o", 7)
    axes.plot(start.yaws[-1], start.losses[-1], marker, color=colour, mec="white", ms=size)


@dataclass(frozen=True)
class Ends:
    """Where the search for one input went, yaws in radians: the true one, then of the generator's own frame the ends of
    its starts, which of them was kept, and the end of the whole search."""

    true: float
    starts: Sequence[float]
    kept: int
    final: float


def ends_over_truth(found: Sequence[Ends]) -> Picture:
    """Yaws where searches end over the true yaw of their input: rings are starts, full the kept ones; a cross the end.

    Inputs from the same side stand beside each other. The dotted line: both frames agree.
    """
    shown = sorted(found, key=lambda one: (round(one.true, 2), one.final))
    rounded = [round(one.true, 2) for one in shown]
    beside = [
        0.035 * (i - rounded.index(yaw) - (rounded.count(yaw) - 1) / 2) for i, yaw in enumerate(rounded)
    ]
    colour = SERIES_COLOURS[0]
    with use_style():
        drawing = Picture(6.2, 3.6)
        axes = drawing.add_axes((0.11, 0.14, 0.54, 0.82))
        ends = np.array([-0.75, 0.75])
        axes.plot(ends, ends, color="0.5", ls=":", lw=1.2, label="frames agree")
        for i, (one, aside) in enumerate(zip(shown, beside, strict=True)):
            at, named = one.true + aside, i == 0
            others = [yaw for k, yaw in enumerate(one.starts) if k != one.kept]
            axes.plot([at, at], [min(one.starts), max(one.starts)], color="0.85", lw=1, zorder=0)
            axes.plot([at] * len(others), others, "o", mfc="white", mec=colour, ms=6, label=named * "a start")
            axes.plot(at, one.starts[one.kept], "o", color=colour, ms=7, label=named * "the kept start")
            axes.plot(at, one.final, "x", color=HEAD_COLOUR, ms=7, mew=1.6, label=named * "end of the search")
        axes.set(xlabel="true yaw of the input (rad)", ylabel="yaw in the generator's frame (rad)")
        handles, labels = axes.get_legend_handles_labels()
        named = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
        drawing.legend(*zip(*named, strict=True), loc="center right")
    return drawing


# -------------------------------------------------------------------- over the steps
def over_steps(
    panels: Mapping[str, Mapping[str, Sequence[float]]], value_labels: Sequence[str], change: float
) -> Picture:
    """Quantities over the steps of a search, a panel a title (title: {name: values}).

    change: the step at which stages change, dotted; none is drawn where that is the first or none at all.
    """
    lines = {
        title: {name: (range(len(values)), values) for name, values in series.items()}
        for title, series in panels.items()
    }
    steps = max(len(values) for series in panels.values() for values in series.values())
    drawing = line_panels(lines, "step", value_labels, markers=False)
    for axes in drawing.axes if 0 < change < steps else ():
        axes.axvline(change, color="0.5", ls=":", lw=1.2)
    return drawing


# -------------------------------------------------------------------- differences
def variation_map(depth: Tensor) -> Tensor:
    """|difference to the right| + |difference below| of each pixel of depth [1, 1, R, R]: what eq. 5 averages.

    [1, R, R], in world units; the last column and the last row have no neighbour there.
    """
    found = depth.new_zeros(depth.shape[1:])
    found[..., :-1] += depth[0].diff(dim=2).abs()
    found[..., :-1, :] += depth[0].diff(dim=1).abs()
    return found
