"""Drawings of where HFGI3D fails: how little a turned photo shows of the sides, and what the first estimate decides."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.drawings.comparison import METRICS
from lib.figures import Picture, method_colour, method_label, use_style
from lib.runs.verdicts import run_by_all

KIND_MARKS = {"samples": "o", "painted": "s", "turned": "^", "heads": "D"}
"""How scenes of a kind are marked."""


def share_shown(yaws: Sequence[float], shares: np.ndarray, method: str, known_to: float = 0.6) -> Picture:
    """Which share of the head a photo shows in pseudo views, over the photo's yaw: shares [yaws, pseudo views].

    A line through the means in the method's colour, a band from the worst of the views to the best. known_to: radians of
    yaw to which the generator saw faces.
    """
    shares = np.asarray(shares)
    if shares.ndim != 2 or len(shares) != len(yaws):
        raise ValueError(f"expected shares [{len(yaws)} yaws, pseudo views]; got {shares.shape}")
    with use_style():
        picture = Picture(4.6, 3.2)
        axes = picture.subplots()
        axes.fill_between(
            yaws, shares.min(axis=1), shares.max(axis=1), color=method_colour(method), alpha=0.25, lw=0
        )
        axes.plot(yaws, shares.mean(axis=1), "o-", color=method_colour(method), ms=4)
        axes.axvline(known_to, color="0.5", lw=1, ls="--")
        axes.annotate(
            "trained to here",
            (known_to, 0.02),
            color="0.4",
            size=9,
            xytext=(4, 0),
            textcoords="offset points",
        )
        axes.set(
            xlabel="yaw of the photo, rad", ylabel="share of the head\nthat the photo shows", ylim=(0, 1.02)
        )
        picture.tight_layout()
    return picture


def first_against_final(
    table: pd.DataFrame, metric: str, first: str, final: str, cases: Mapping[str, tuple[float, float]]
) -> Picture:
    """An error of the final heads over that of the first estimates; a mark a scene, the mean over its views.

    On the diagonal the fit changed nothing, below it is better. cases: name: (first, final), written beside a star.
    """
    found = of_scenes(table, metric, first, final)
    both = np.concatenate([found.to_numpy().ravel(), np.ravel([*cases.values()])])
    if not len(both):
        raise ValueError(f"no scene of the table has {metric} of {first} and of {final}")
    low, high = 0.8 * both.min(), 1.7 * both.max()  # room for names
    with use_style():
        picture = Picture(4.8, 4.4)
        axes = picture.subplots()
        axes.plot([low, high], [low, high], color="0.7", lw=1, zorder=1)
        for kind, part in found.groupby(level="scene_kind", sort=False):
            axes.plot(
                part[first],
                part[final],
                KIND_MARKS[kind],
                color=method_colour(final),
                mfc="none",
                label=f"{kind}, n {len(part)}",
            )
        for place, (name, (x, y)) in enumerate(cases.items()):
            axes.plot(x, y, "*", color="0.15", ms=9)
            above = place % 2 == 0  # neighbours are written to either side
            axes.annotate(name, (x, y), xytext=(5, 5 if above else -12), textcoords="offset points", size=9)
        label = METRICS[metric][0] if metric in METRICS else metric
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())
        axes.set(xlabel=f"{label}:\n{method_label(first)}", ylabel=f"{label}: {method_label(final)}")
        if len(found):
            axes.legend(loc="upper left")
        picture.tight_layout()
    return picture


def of_scenes(table: pd.DataFrame, metric: str, *methods: str) -> pd.DataFrame:
    """Means over views of the scenes that all methods were run on: a row a (kind, scene), a column a method."""
    rows = run_by_all(methods, table[table["metric"] == metric])
    index = ["scene_kind", "scene"]
    means = rows.pivot_table(index=index, columns="method", values="value", aggfunc="mean", sort=False)
    return means.reindex(columns=list(methods)).dropna()
