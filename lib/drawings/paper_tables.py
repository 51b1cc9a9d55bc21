"""Drawings of a paper's table with ours below it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lib.figures import Picture, in_row_order, method_colour, method_label, use_style

TITLES = {
    "mse": "MSE ↓",
    "lpips": "LPIPS ↓",
    "ms_ssim_dissimilarity": "1 \N{MINUS SIGN} MS-SSIM ↓",
    "identity": "identity ↑",
    "pose_error": "pose error ↓",
    "depth_error": "depth error ↓",
}
"""How the columns of the papers' tables are written, with an arrow to where they are better."""

INPUTS = {
    "all": ("", ""),
    "front": ("front", "0"),
    "30 degrees": ("30°", "0.3"),
    "60 degrees": ("60°", "0.6"),
}
"""How the paper's inputs are written, and about which |yaw| in radians stands for them here."""


def paper_and_ours(found: pd.DataFrame, paper: str) -> Picture:
    """A paper's table in its first row of panels, ours below it, a row a kind of scenes; a panel a metric.

    found: of `lib.evaluation.beside_paper` or `by_mead_input`, for several inputs over which lines lead. paper: what
    its row is called. Scales are each panel's own, as data differ: compare who is better, and how clearly. Bars are
    95 % intervals over scenes; the number of scenes stands below.
    """
    kinds, metrics = list(found["scene_kind"].unique()), list(found["metric"].unique())
    printed = found[found["scene_kind"] == kinds[0]].assign(
        mean=lambda rows: rows["paper"], low=np.nan, high=np.nan
    )
    sources = {paper: printed} | {f"ours,\n{kind}": found[found["scene_kind"] == kind] for kind in kinds}
    with use_style():
        picture = Picture(1.75 * len(metrics) + 0.9, 1.75 * len(sources) + 0.5)
        panels = picture.subplots(len(sources), len(metrics), squeeze=False)
        for row, (name, rows) in zip(panels, sources.items(), strict=True):
            for axes, metric in zip(row, metrics, strict=True):
                _panel(axes, rows[rows["metric"] == metric], counted=name != paper)
            row[0].set_ylabel(name)
        if found["input"].nunique() > 1:
            picture.supxlabel("where the input is seen from; here its |yaw|, rad", size=10)
        for axes, metric in zip(panels[0], metrics, strict=True):
            axes.set_title(TITLES.get(metric, metric))
        methods = in_row_order(dict.fromkeys(found["method"]))
        entries = [
            Line2D([], [], color=method_colour(m), marker="o", ms=4.5, label=method_label(m)) for m in methods
        ]
        picture.tight_layout(rect=(0, 0, 1, 1 - 0.34 / picture.get_figheight()))
        picture.legend(handles=entries, loc="upper center", ncols=len(entries))
    return picture


def _panel(axes: Axes, rows: pd.DataFrame, counted: bool) -> None:
    """One metric of one source: a point a method for each input. counted: write the scenes below."""
    inputs, methods = list(rows["input"].unique()), in_row_order(dict.fromkeys(rows["method"]))
    for place, name in enumerate(methods):
        points = rows[rows["method"] == name]
        aside = (0.12 if len(inputs) > 1 else 0.2) * (place - (len(methods) - 1) / 2)
        at = np.arange(len(inputs)) + aside
        known = points["mean"].notna().to_numpy()  # a line leads over inputs that are not there yet
        axes.plot(at[known], points["mean"][known], "o-", color=method_colour(name), ms=4.5)
        axes.vlines(at, points["low"], points["high"], color=method_colour(name), lw=1.4)
    counts = rows.groupby("input", sort=False)["n"].max()
    words = [INPUTS[name][counted] for name in inputs]
    below = [f"{word}\nn {n}".strip() for word, n in zip(words, counts, strict=True)] if counted else words
    axes.set_xticks(range(len(inputs)), below)
    axes.set_xlim(-0.45, len(inputs) - 0.55)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if rows["mean"].isna().all():
        axes.set_yticks([])
