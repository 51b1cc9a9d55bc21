"""Drawings about metrics: how numbers of papers hang together, what a network looks at, how sure a mean is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.ticker import NullFormatter
from torch import Tensor

from lib.cameras import Camera
from lib.figures import EMPTY, ERROR_COLOURS, Picture, to_picture, use_style
from lib.generators import Rendering
from lib.metrics.statistics import Interval
from lib.warping import pixels_in_view, sample_at

SERIES_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756")
"""Of series that are no methods, in their order."""


def psnr_of_mse(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Picture:
    """PSNR over MSE as both pixel ranges have it, and pairs (MSE, PSNR) that were printed side by side.

    pairs: for each source, which goes into the legend.
    """
    mse = np.geomspace(0.006, 0.4, 50)
    with use_style():
        drawing = Picture(6.4, 3.8)
        axes = drawing.add_axes((0.11, 0.14, 0.86, 0.82))
        for peak, name in ((2.0, "[\N{MINUS SIGN}1, 1]: 10 lg (4 / MSE)"), (1.0, "[0, 1]: 10 lg (1 / MSE)")):
            axes.plot(
                mse, 10 * np.log10(peak**2 / mse), color="0.35", ls="-" if peak == 2 else "--", label=name
            )
        for colour, (name, found) in zip(cycle(SERIES_COLOURS), pairs.items(), strict=False):
            axes.plot(*zip(*found, strict=True), "o", color=colour, label=name, ms=6, mec="white")
        axes.set(xscale="log", xlabel="MSE as printed", ylabel="PSNR as printed, dB")
        axes.set_xticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower left")
    return drawing


def framed(image: Tensor, rows: slice, columns: slice, size: int) -> np.ndarray:
    """A picture [3, R, R] with a red frame around rows and columns, counted as in a picture of `size` pixels.

    Returns bytes [R, R, 3].
    """
    picture = to_picture(image).copy()
    side = len(picture)
    (top, bottom), (left, right) = (
        (round(s.start * side / size), round(s.stop * side / size)) for s in (rows, columns)
    )
    if not (0 <= top < bottom <= side and 0 <= left < right <= side):
        raise ValueError(f"rows {rows} and columns {columns} lie outside a picture of {size} pixels")
    width = max(1, side // 100)
    inner = picture[top + width : bottom - width, left + width : right - width].copy()
    picture[top:bottom, left:right] = (255, 0, 0)
    picture[top + width : bottom - width, left + width : right - width] = inner
    return picture


def distance_over_samples(
    counts: Sequence[int],
    measured: Mapping[str, Sequence[float]],
    expected: Mapping[str, Sequence[float]],
    truths: Mapping[str, float],
) -> Picture:
    """A distance between two sets, over how many samples either has: dots measured, lines expected.

    Each mapping has one entry a model; truths are what samples without end would give, drawn dotted.
    """
    with use_style():
        drawing = Picture(6.4, 3.6)
        axes = drawing.add_axes((0.1, 0.15, 0.86, 0.8))
        for colour, name in zip(cycle(SERIES_COLOURS), measured, strict=False):
            axes.plot(counts, expected[name], color=colour)
            axes.plot(counts, measured[name], "o", color=colour, label=name, mec="white", ms=7)
            axes.axhline(truths[name], color=colour, ls=":")
        axes.set(
            xscale="log",
            xlabel="samples in either set",
            ylabel="Fr\N{LATIN SMALL LETTER E WITH ACUTE}chet distance",
        )
        axes.set_xticks(counts, [f"{n:,}" for n in counts])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return drawing


def intervals(panels: Mapping[str, Mapping[str, Interval]], labels: Mapping[str, str]) -> Picture:
    """Means with their intervals, one panel a quantity (title: {name: interval}), one row a name.

    labels: for each title, what its axis says. A panel that contains zero shows it.
    """
    with use_style():
        drawing = Picture(4.4 * len(panels), 0.5 * max(map(len, panels.values())) + 1.3)
        for axes, (title, rows) in zip(
            drawing.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for place, (colour, found) in enumerate(zip(cycle(SERIES_COLOURS), rows.values(), strict=False)):
                axes.plot(
                    [found.low, found.high], [-place, -place], color=colour, lw=3, solid_capstyle="round"
                )
                axes.plot(found.mean, -place, "o", color=colour, ms=8, mec="white")
            axes.set_yticks([-place for place in range(len(rows))], list(rows))
            axes.set(title=title, xlabel=labels[title], ylim=(0.6 - len(rows), 0.4))
            if any(found.low < 0 for found in rows.values()):
                axes.axvline(0, color="0.35", lw=1)
        drawing.tight_layout()
    return drawing


def lines_over(
    places: Sequence[float], values: Mapping[str, Sequence[float]], place_label: str, value_label: str
) -> Picture:
    """Values of several series over one quantity that grows by factors."""
    with use_style():
        drawing = Picture(6.4, 3.4)
        axes = drawing.add_axes((0.1, 0.15, 0.86, 0.81))
        for colour, (name, found) in zip(cycle(SERIES_COLOURS), values.items(), strict=False):
            axes.plot(places, found, "o-", color=colour, label=name, mec="white", ms=6)
        axes.set(xscale="log", xlabel=place_label, ylabel=value_label)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="best")
    return drawing


def error_map(errors: Tensor, limit: float) -> np.ndarray:
    """Errors [1, R, R] as bytes [R, R, 3] on a scale from 0 (black) to `limit`; grey where they are NaN."""
    colours = colormaps[ERROR_COLOURS].with_extremes(bad=EMPTY)
    return colours(np.ma.masked_invalid(errors[0].numpy()) / limit, bytes=True)[..., :3]


@dataclass(frozen=True)
class Card:
    """A picture [1, 3, R, R] printed on a plane through the origin, across the axis of its camera.

    As a head it can be rendered from anywhere, and of its own camera the view is perfect: what a metric of the
    input view, or of the agreement of views, cannot tell from a person. generator: whose cameras it is seen by.
    """

    generator: Any
    image: Tensor
    camera: Camera

    def still(self) -> "Card":
        return self

    def render(self, camera: Camera, neural_resolution: int | None = None) -> Rendering:
        """Views from one or many cameras, at the side of its picture unless told otherwise."""
        side = neural_resolution or self.image.shape[-1]
        origins, directions = camera.rays(side)
        forward = self.camera.rotation[0, :, 2]
        depth = (-(origins @ forward) / (directions @ forward)).reshape(-1, 1, side, side)
        uv, _ = pixels_in_view(camera, depth, self.camera)
        colours = sample_at(self.image.expand(len(uv), -1, -1, -1), uv)
        return Rendering(colours, colours, depth, colours, torch.ones_like(depth))
