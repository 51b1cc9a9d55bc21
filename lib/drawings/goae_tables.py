"""GOAE's table 1 (Yuan et al., 2023) beside ours: seconds among its columns, and panels for eight methods."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from lib.drawings.comparison import metric_label
from lib.drawings.paper_tables import paper_and_ours
from lib.evaluation.protocol import summarise
from lib.evaluation.tables import FOUND, paper_table
from lib.figures import Picture, in_row_order, method_colour, method_label
from lib.runs.verdicts import run_by_all

SECONDS = "seconds"
"""A column of tables that has one number for an inversion, where metrics have one for each view."""

KEY_LINES = 2
"""Over which the names of so many methods are spread."""


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
    labels = {SECONDS: "seconds ↓, log"}
    titles = {name: labels.get(name, metric_label(name)) for name in shown["metric"].unique()}
    picture = paper_and_ours(shown.replace({"metric": titles}), paper)
    methods = list(in_row_order(dict.fromkeys(shown["method"])))
    for place, axes in enumerate(picture.axes):
        if shown["input"].nunique() == 1:
            axes.set_xlim(-0.1 * len(methods) - 0.05, 0.1 * len(methods) + 0.05)
        if list(titles)[place % len(titles)] == SECONDS and axes.dataLim.y1 > 0:  # there is a number
            axes.set_yscale("log")
    _key_in_lines(picture, methods)
    return picture


def _key_in_lines(picture: Picture, methods: list[str]) -> None:
    """The names of the methods above the panels, on `KEY_LINES` lines in place of one."""
    picture.legends[0].remove()
    picture.tight_layout(rect=(0, 0, 1, 1 - 0.56 / picture.get_figheight()))
    entries = [
        Line2D([], [], color=method_colour(name), marker="o", ms=4.5, label=method_label(name))
        for name in methods
    ]
    picture.legend(handles=entries, loc="upper center", ncols=-(-len(entries) // KEY_LINES))
