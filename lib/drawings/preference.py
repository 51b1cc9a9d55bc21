"""Drawings of a preference study: what a participant is shown, the rates, and how sure they are."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from lib.figures import CELL, Picture, image_grid, method_colour, method_label, use_style

SIDES = ("A", "B")
"""What the videos at the left and at the right are called."""

PAPER = "#333333"


# -------------------------------------------------------------------- what is shown
def video_frames(path: str | Path, n: int) -> list[np.ndarray]:
    """n frames [R, R, 3] of a video, spread evenly from its first on."""
    frames = imageio_ffmpeg.read_frames(str(path))
    width, height = next(frames)["size"]
    shown = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]
    if not 1 <= n <= len(shown):
        raise ValueError(f"of a video with {len(shown)} frames, 1 to {len(shown)} can be shown; got {n}")
    return [shown[place * len(shown) // n] for place in range(n)]


def as_seen(shown: Sequence[tuple[Tensor, Path, Path]], frames: int = 6, *, cell: float = CELL) -> Picture:
    """Questions (photo [1, 3, R, R], left video, right video): the photo, and frames of both videos, no name anywhere.

    A row a video, A above B, under the number of the question; a column is the same moment of the orbit.
    """
    if not shown:
        raise ValueError("a drawing of questions needs one question or more")
    rows = [
        (first, *video_frames(video, frames))
        for photo, *videos in shown
        for first, video in zip((photo[0], None), videos, strict=True)
    ]
    labels = [f"{number} {side}" for number in range(1, len(shown) + 1) for side in SIDES]
    moments = [f"{place}/{frames}" for place in range(frames)]
    return image_grid(rows, labels, ["photo", *moments], cell=cell)


# -------------------------------------------------------------------- what was found
def preference_rates(
    found: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    paper: Mapping[str, tuple[float, float, float]],
) -> Picture:
    """Rates with intervals, a line a pair: the paper's (label: rate, low, high), then ours out of `preference`.

    Ours: a thin line as if votes were independent, a broad one over people. A pair without a vote says so.
    """
    labels = [f"{name}, paper" for name in paper]
    labels += [f"{method_label(method)} > {method_label(baseline)}, here" for method, baseline in pairs]
    of_pair = {(row.method, row.baseline): row for row in found.itertuples(index=False)}
    with use_style():
        picture = Picture(7.4, 0.8 + 0.36 * len(labels))
        axes = picture.subplots()
        for place, (rate, low, high) in enumerate(paper.values()):
            _line(axes, place, rate, (low, high), PAPER, "D")
        for place, pair in enumerate(pairs, len(paper)):
            _our_line(axes, place, of_pair.get(pair), method_colour(pair[0]))
        axes.axvline(0.5, color="0.6", lw=1.0)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlim=(0, 1.02), ylim=(len(labels) - 0.4, -0.6), xlabel="how often the first is preferred")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        picture.tight_layout()
    return picture


def _our_line(axes: Axes, place: int, row: Any, colour: str) -> None:
    """A pair as it was found here: a row of `preference`, or None."""
    if row is None or not row.votes:
        axes.text(0.02, place, "no answers yet", va="center", color="0.4", style="italic")
        return
    axes.plot(
        [row.people_low, row.people_high],
        [place, place],
        color=colour,
        lw=6,
        alpha=0.35,
        solid_capstyle="butt",
    )
    _line(axes, place, row.rate, (row.low, row.high), colour, "o")


def _line(
    axes: Axes, place: int, rate: float, interval: tuple[float, float], colour: str, marker: str
) -> None:
    axes.plot(interval, [place, place], color=colour, lw=1.4)
    axes.plot(rate, place, marker, color=colour, mfc="white")


def coverages(likeness: Sequence[float], shares: Mapping[str, Sequence[float]], level: float) -> Picture:
    """How often intervals (name: a share for each likeness) hold the true rate, over how alike a person's votes are."""
    styles = dict(zip(shares, ("o-", "s--", "^:"), strict=False))
    with use_style():
        picture = Picture(5.4, 3.2)
        axes = picture.subplots()
        axes.axhline(level, color="0.6", lw=1.0)
        for name, values in shares.items():
            axes.plot(likeness, values, styles[name], label=name)
        lowest = min(chain.from_iterable(shares.values()))
        axes.set(ylim=(min(0.5, lowest - 0.05), 1.02))
        axes.set(
            xlabel="likeness of one person's votes (correlation)", ylabel="intervals that hold the truth"
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="lower left")
        picture.tight_layout()
    return picture
