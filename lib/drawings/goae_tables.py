"""GOAE's table 1 (Yuan et al., 2023) beside ours: seconds among its columns, and panels for eight methods."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.drawings.comparison import metric_label
from lib.drawings.paper_tables import TITLES, paper_and_ours
from lib.evaluation.protocol import summarise
from lib.evaluation.tables import FOUND, paper_table
from lib.figures import Picture, in_row_order, method_colour, method_label, use_style
from lib.runs.verdicts import run_by_all

SECONDS = "seconds"
"""A column of tables that has one number for an inversion, where metrics have one for each view."""


def seconds_beside_paper(
    table: pd.DataFrame,
    paper: str,
    rows: Mapping[str, str],
    column: str,
    *,
    printed_only: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What `lib.evaluation.tables.beside_paper` gives for metrics, for the seconds of an inversion.

    rows: our method: the paper's row, "" where it has none. printed_only: likewise, of methods that are not ours.
    Means are over the scenes on which every row was run and none failed.
    """
    once = run_by_all(list(rows), table[table["is_input"]]).drop_duplicates(["method", "scene"])
    once = once.assign(value=once[SECONDS], metric=SECONDS)
    once = once[once.groupby("scene")["value"].transform(lambda values: values.notna().all())]
    printed, all_rows = paper_table(paper), {**rows, **(printed_only or {})}
    expected = pd.MultiIndex.from_product(
        [table["scene_kind"].unique(), [SECONDS], all_rows], names=["scene_kind", "metric", "method"]
    )
    found = (
        summarise(once, expected.names, seed=seed).set_index(expected.names).reindex(expected).reset_index()
    )
    numbers = [
        float(printed.at[row, column]) if row else np.nan for row in map(all_rows.get, found["method"])
    ]
    counts = found["n"].fillna(0).astype(int)
    return found.assign(input="all", paper=numbers, n=counts)[list(FOUND)]


def table_1(found: pd.DataFrame, paper: str) -> Picture:
    """`paper_and_ours` of more methods than it has room for; seconds on a log axis.

    Kinds of scenes without any number of ours are left out, unless none has one.
    """
    known = found.loc[found["n"] > 0, "scene_kind"].unique()
    shown = found[found["scene_kind"].isin(known)] if len(known) else found
    labels = TITLES | {SECONDS: "seconds ↓, log"}
    titles = {name: labels.get(name, metric_label(name)) for name in shown["metric"].unique()}
    picture = paper_and_ours(shown.replace({"metric": titles}), paper)
    methods = list(in_row_order(dict.fromkeys(shown["method"])))
    inputs = shown["input"].nunique()
    half = 0.1 * len(methods) if inputs == 1 else 0.5  # of what stands about a tick
    for place, axes in enumerate(picture.axes):
        axes.set_xlim(-half - 0.05, inputs - 1 + half + 0.05)
        if list(titles)[place % len(titles)] == SECONDS and axes.dataLim.y1 > 0:  # there is a number
            _make_logarithmic(axes)
    _key_in_lines(picture, methods)
    return picture


def _make_logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _key_in_lines(picture: Picture, methods: list[str]) -> None:
    """The names of the methods above the panels, on as many lines as they need in place of one."""
    picture.legends[0].remove()
    entries = [
        Line2D([], [], color=method_colour(name), marker="o", ms=4.5, label=method_label(name))
        for name in methods
    ]
    widest = 0.65 + 0.075 * max(len(entry.get_label()) for entry in entries)  # inches
    lines = math.ceil(len(entries) * widest / picture.get_figwidth())
    with use_style():
        picture.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.22 * lines) / picture.get_figheight()))
        picture.legend(handles=entries, loc="upper center", ncols=math.ceil(len(entries) / lines))
