"""Drawings about the embedded generator: panels of lines and counts, and what two ways to move a style do."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.patches import Ellipse
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lib.drawings.metrics import SERIES_COLOURS
from lib.figures import Picture, use_style

Line = tuple[Sequence[float], Sequence[float | None]]
"""Places and values of a series; None where nothing is known."""


def line_panels(
    panels: Mapping[str, Mapping[str, Line]],
    place_label: str,
    value_labels: Sequence[str] = (),
    *,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    log: bool = False,
    markers: bool = True,
) -> Picture:
    """Series over one quantity, one panel a title (title: {name: (places, values)}), each with its own scale.

    value_labels: what each panel's values are. levels: for some titles, named values that go across, dotted.
    """
    with use_style():
        drawing = Picture(max(4.6, 3.5 * len(panels)), 3.1)
        grid = drawing.subplots(1, len(panels), squeeze=False)[0]
        for i, (axes, (title, series)) in enumerate(zip(grid, panels.items(), strict=True)):
            for colour, (name, (places, values)) in zip(cycle(SERIES_COLOURS), series.items(), strict=False):
                known = np.array([np.nan if value is None else value for value in values], float)
                style = {"marker": "o", "ms": 5, "mec": "white"} if markers else {}
                axes.plot(places, known, color=colour, label=name, **style)
            for name, level in (levels or {}).get(title, {}).items():
                axes.axhline(level, color="0.35", ls=":", label=name)
            axes.set(title=title, xlabel=place_label, yscale="log" if log else "linear")
            if value_labels:
                axes.set_ylabel(value_labels[i])
            if all(float(place).is_integer() for places, _ in series.values() for place in places):
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if any(axes.get_legend_handles_labels()[1]):
                axes.legend(frameon=True, framealpha=0.8, edgecolor="none")
        drawing.tight_layout()
    return drawing


def count_panels(panels: Mapping[str, Mapping[str, Sequence[float]]], labels: Sequence[str]) -> Picture:
    """How many lie where: for each title the `edges` [n + 1] of bins, and by name the counts [n] in them.

    labels: what the places of each panel are.
    """
    with use_style():
        drawing = Picture(3.5 * len(panels), 2.9)
        grid = drawing.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, columns), label in zip(grid, panels.items(), labels, strict=True):
            named = {name: counts for name, counts in columns.items() if name != "edges"}
            for colour, (name, counts) in zip(cycle(SERIES_COLOURS), named.items(), strict=False):
                axes.stairs(counts, columns["edges"], color=colour, fill=True, alpha=0.25)
                axes.stairs(counts, columns["edges"], color=colour, label=name, lw=1.6)
            axes.set(title=title, xlabel=label)
            axes.legend()
        drawing.tight_layout()
    return drawing


def two_moves(styles: np.ndarray, start: np.ndarray, ends: Mapping[str, np.ndarray]) -> Picture:
    """Styles [n, 2] as a cloud with its one and two deviations, and where moves from a start [2] lead (name: [2])."""
    with use_style():
        drawing = Picture(5.2, 4.0)
        axes = drawing.add_axes((0.11, 0.13, 0.86, 0.84))
        axes.plot(*styles.T, ".", color="0.75", ms=3)
        values, vectors = np.linalg.eigh(np.cov(styles, rowvar=False))
        angle = np.degrees(np.arctan2(*vectors[::-1, 1]))
        for deviations in (1, 2, 3):
            width, height = 2 * deviations * np.sqrt(values[::-1])
            axes.add_patch(
                Ellipse(styles.mean(0), width, height, angle=angle, fill=False, color="0.5", lw=0.9)
            )
        for colour, (name, end) in zip(cycle(SERIES_COLOURS), ends.items(), strict=False):
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, start, arrowprops=arrow)
            axes.plot(*end, "o", color=colour, label=name)
        axes.set(xlabel="style, axis 0", ylabel="style, axis 1", aspect="equal")
        axes.legend(loc="upper left")
    return drawing


def densities_over_normal(
    edges: Sequence[float], densities: Mapping[str, Sequence[float]], deviation: Sequence[float]
) -> Picture:
    """Densities over bins, by name a panel each, with N(0, 1) across them, and the deviation along each axis of z."""
    places = np.linspace(edges[0], edges[-1], 200)
    normal = np.exp(-(places**2) / 2) / np.sqrt(2 * np.pi)
    with use_style():
        drawing = Picture(3.3 * (len(densities) + 1), 2.9)
        *panels, last = drawing.subplots(1, len(densities) + 1)
        for axes, (name, density) in zip(panels, densities.items(), strict=True):
            axes.stairs(density, edges, fill=True, color=SERIES_COLOURS[0], alpha=0.4)
            axes.plot(places, normal, color="0.2", lw=1.2, label="N(0, 1)")
            axes.set(title=name, xlabel="in deviations")
            axes.legend()
        last.plot(np.arange(1, len(deviation) + 1), deviation, color=SERIES_COLOURS[0])
        last.set(title="deviations along the axes", xlabel="axis of z", yscale="log")
        last.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        last.yaxis.set_major_formatter("{x:g}")
        last.yaxis.set_minor_formatter(NullFormatter())
        drawing.tight_layout()
    return drawing
