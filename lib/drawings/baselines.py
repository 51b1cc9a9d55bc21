"""Drawings of the baselines: searched codes among the samples, what heads are beside the truth, which weights moved."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lib.datasets import Scene
from lib.drawings.metrics import SERIES_COLOURS
from lib.evaluation import MEASURES, Comparison
from lib.figures import Picture, depth_colours, image_grid, signed, use_style
from lib.media import depth_limits
from lib.meshes import Head

Shown = Tensor | np.ndarray
"""A picture [3, R, R] in [-1, 1], or bytes [R, R, 3]."""


# -------------------------------------------------------------------- codes
def codes_among_samples(
    samples: np.ndarray,
    paths: Mapping[str, np.ndarray],
    marks: Mapping[str, np.ndarray],
    labels: Sequence[str],
) -> Picture:
    """Codes in the plane of two directions: samples [n, 2], searches (name: codes [steps, 2]), points (name: [2]).

    The end of a search is a large dot. labels: of the two axes.
    """
    with use_style():
        picture = Picture(6.4, 4.4)
        axes = picture.add_axes((0.1, 0.12, 0.58, 0.84))
        axes.plot(*samples.T, ".", color="0.8", ms=3, label="samples")
        for colour, (name, path) in zip(cycle(SERIES_COLOURS), paths.items(), strict=False):
            axes.plot(*path.T, "-", color=colour, lw=0.9, alpha=0.7)
            axes.plot(*path[-1], "o", color=colour, ms=7, mec="white", label=name)
        for marker, (name, place) in zip(cycle("*P^s"), marks.items(), strict=False):
            axes.plot(*place, marker, color="black", ms=10, mec="white", ls="", label=name)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return picture


# -------------------------------------------------------------------- heads
class Seen(NamedTuple):
    """A head beside the truth in two views: the input's, and one from another side."""

    input: Comparison
    side: Comparison


def seen_from(scene: Scene, heads: Mapping[str, Head], side: str) -> dict[str, Seen]:
    """The heads (label: head) of a scene in its input's view and in the view `side`; what is measured stays known."""
    still = {label: head.still() for label, head in heads.items()}
    return {
        label: Seen(Comparison(head, scene, scene.input_name), Comparison(head, scene, side))
        for label, head in still.items()
    }


def against_truth(heads: Mapping[str, Seen], *, cell: float = 1.2) -> Picture:
    """Heads of one scene (label: head), a column each, the truth last: input's view, side view, depth of the side view.

    Under each stands its error against the truth: MSE, and of depths the mean distance in world units.
    """
    pictures, notes = _panels(heads)
    side = _yaw_of(next(iter(heads.values())).side)
    return image_grid(pictures, ["input", side, "its depth"], [*heads, "truth"], captions=notes, cell=cell)


def targets_against_truth(targets: Mapping[str, Mapping[str, Seen]], *, cell: float = 1.1) -> Picture:
    """A row a scene (label: its heads): each head's input view, then side views, then depths, each time the truth last.

    All scenes have heads of the same labels, in one order.
    """
    first = next(iter(targets.values()))
    if unlike := [label for label, heads in targets.items() if list(heads) != list(first)]:
        found = list(targets[unlike[0]])
        raise ValueError(
            f"heads of {unlike[0]!r} are {found}; columns need the same in all rows: {list(first)}"
        )
    rows, captions = [], []
    for heads in targets.values():
        pictures, notes = _panels(heads)
        rows.append([picture for part in pictures for picture in part])
        captions.append([note for part in notes for note in part])
    truths = ("input", _yaw_of(next(iter(first.values())).side), "its depth")
    titles = [title for truth in truths for title in (*first, truth)]
    return image_grid(rows, list(targets), titles, captions=captions, cell=cell)


def _yaw_of(seen: Comparison) -> str:
    return f"yaw {signed(seen.view.camera.yaw.item())}"


def _panels(heads: Mapping[str, Seen]) -> tuple[list[list[Shown]], list[list[str]]]:
    """Pictures from the input, from the side, and depths from there, the truth last; and a line for each."""
    pictures, notes = [], []
    for views in zip(*heads.values(), strict=True):
        pictures.append([*(one.image[0] for one in views), views[0].target[0]])
        notes.append([*(f"MSE {MEASURES['mse'].of(one):.4f}" for one in views), ""])
    true = views[0].true_depth[0]
    known = (~true.isnan()).float()
    farthest = true.nan_to_num().max()
    depths = [*(one.depth[0].where(known > 0, farthest) for one in views), true.nan_to_num(farthest.item())]
    limits = depth_limits(depths[-1], known)
    pictures.append([depth_colours(depth, known, limits) for depth in depths])
    notes.append([*(f"off by {MEASURES['mean_depth_error'].of(one):.4f}" for one in views), ""])
    return pictures, notes


# -------------------------------------------------------------------- parts
def part_bars(series: Mapping[str, Mapping[str, float]], label: str) -> Picture:
    """A row a part, in it a bar for each series (name: {part: value}); all series have the same parts."""
    parts = list(next(iter(series.values())))
    height = 0.8 / len(series)
    with use_style():
        picture = Picture(6.8, 0.34 * len(parts) + 0.9)
        axes = picture.subplots()
        for i, (colour, (name, values)) in enumerate(
            zip(cycle(SERIES_COLOURS), series.items(), strict=False)
        ):
            at = np.arange(len(parts)) + (i - (len(series) - 1) / 2) * height
            axes.barh(at, [values[part] for part in parts], height=0.9 * height, color=colour, label=name)
        axes.set(xlabel=label, yticks=range(len(parts)), yticklabels=parts, ylim=(len(parts) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        if len(series) > 1:
            axes.legend()
        picture.tight_layout()
    return picture
