"""The papers' tables, and our numbers beside them: same rows, same columns, on the scenes that every row has."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from lib.evaluation.measures import require_known_measures
from lib.evaluation.methods import METHODS
from lib.evaluation.protocol import summarise
from lib.runs.claims import PAPER_TABLES, Ledger, read_ledger
from lib.runs.verdicts import VIDEO_VIEWS, run_by_all

SPI_METHODS = {"w": "SG2", "wplus": "SG2W+", "pti": "PTI", "spi": "SPI"}
"""Our method: the row of SPI's table 1 (Yin et al., 2023)."""

SPI_METRICS = {
    "mse": "mse",
    "lpips": "lpips",
    "ms_ssim_dissimilarity": "ms_ssim_dissim",
    "identity": "id",
    "pose_error": "pose",
    "depth_error": "depth",
}
"""Our metric: the column of SPI's tables 1 and 2; the last two stand in table 1 alone."""

HFGI3D_METHODS = {"wplus": (), "pti": "PTI", "spi": (), "hfgi3d": "HFGI3D"}
"""Our method: the row of HFGI3D's tables 1 and 3 (Xie et al., 2023), which lack two of ours."""

HFGI3D_PRINTED = {"ide3d": "IDE-3D", "hfgi": "HFGI"}
"""Their other rows, of methods that this study does not have; the second stands in table 1 alone."""

HFGI3D_INPUT_METRICS = {
    "psnr": "psnr",
    "ms_ssim": "ms_ssim",
    "lpips": "lpips",
    "consistency_psnr": "ibrnet_psnr",
}
"""Our metric: the column of HFGI3D's table 1."""

HFGI3D_CONSISTENCY_METRICS = {
    "consistency_psnr": "ibrnet_psnr",
    "consistency_ssim": "ibrnet_ssim",
    "consistency_lpips": "ibrnet_lpips",
}
"""Of its table 3, of the input view as other views predict it."""

HFGI3D_NOVEL_METRICS = {"pose_error": "pose_l2", "identity": "id_novel_view"}
"""Of its table 3, of novel views."""

MEAD_INPUTS = {
    "front": ((0.0, 0.15), ("F",)),
    "30 degrees": ((0.15, 0.45), ("L30", "R30")),
    "60 degrees": ((0.45, 0.75), ("L60", "R60")),
}
"""Inputs of SPI's table 2: which |yaw| in radians stands for them here, as in the ledger of claims, and which views of
MEAD they are. Both sides are pooled."""

FOUND = ("scene_kind", "input", "metric", "method", "paper", "mean", "low", "high", "n")
"""Columns of a table beside a paper's. input: what the inputs are, such as `front`; "all" where none are told apart.
paper: the paper's number. mean, low, high: ours with its 95 % interval over scenes. n: the scenes."""


def paper_table(name: str) -> pd.DataFrame:
    """A table of a paper, as it is printed: a line a row, indexed as the ledger of claims names rows ("F, PTI").

    A column in which a cell is no number holds text.
    """
    keys = _ledger().tables
    if name not in keys:
        raise ValueError(f"no paper has the table {name!r}; there are: {', '.join(keys)}")
    table = pd.read_csv(PAPER_TABLES / f"{name}.csv")
    return table.set_index(table[keys[name]["keys"]].agg(", ".join, axis=1).rename("row"))


@functools.cache
def _ledger() -> Ledger:
    return read_ledger()


def beside_paper(
    table: pd.DataFrame,
    paper: str,
    rows: Mapping[str, str | Sequence[str]],
    columns: Mapping[str, str],
    *,
    printed_only: Mapping[str, str] = MappingProxyType({}),
    views: str = "input",
    input_yaw: tuple[float, float] | None = None,
    name: str = "all",
    seed: int = 0,
) -> pd.DataFrame:
    """Our means for the rows (our method: the paper's) and columns (our metric: the paper's) of a paper's table.

    table: of `evaluate`; each of its kinds of scenes gives lines of their own. rows: where several rows of the paper are
    named for a method, their mean stands for it; none give NaN. printed_only: rows likewise of methods that are no rows
    of ours, which have the paper's numbers alone. views: input; novel, all others; all, both. input_yaw:
    only scenes whose input has its |yaw| in this range. name: of such inputs, in the column `input`.

    All methods are averaged over the same: scenes on which every one was run, views in which every one has a value.
    Where there are none yet, n is 0 and the mean NaN. The columns are `FOUND`.
    """
    _require_names(rows, columns)
    same = _with_all_values(_chosen(table, list(rows), list(columns), views, input_yaw), list(rows))
    printed, all_rows = paper_table(paper), {**rows, **printed_only}
    expected = pd.MultiIndex.from_product(
        [table["scene_kind"].unique(), columns, all_rows], names=["scene_kind", "metric", "method"]
    )
    means = summarise(same, expected.names, seed=seed).set_index(expected.names)
    found = means.reindex(expected).reset_index()
    cells = zip(found["method"], found["metric"], strict=True)
    numbers = [_number(printed, all_rows[method], columns[metric]) for method, metric in cells]
    counts = found["n"].fillna(0).astype(int)
    return found.assign(input=name, paper=numbers, n=counts)[list(FOUND)]


def by_mead_input(
    table: pd.DataFrame, methods: Sequence[str] = ("pti", "spi"), *, seed: int = 0
) -> pd.DataFrame:
    """SPI's table 2: means over all views of a scene, the input's among them, for each of `MEAD_INPUTS`."""
    columns = {ours: theirs for ours, theirs in SPI_METRICS.items() if theirs in paper_table("spi_t2_mead")}
    parts = []
    for name, (input_yaw, seen) in MEAD_INPUTS.items():
        rows = {method: [f"{view}, {SPI_METHODS[method]}" for view in seen] for method in methods}
        of_input = {"views": "all", "input_yaw": input_yaw, "name": name, "seed": seed}
        parts.append(beside_paper(table, "spi_t2_mead", rows, columns, **of_input))
    return pd.concat(parts, ignore_index=True)


def side_by_side(found: pd.DataFrame) -> pd.DataFrame:
    """The same for reading: a line for metric, input and method, the paper's number, then for each kind ours and n."""
    lines = found.set_index(["metric", "input", "method"])
    first = lines[lines["scene_kind"] == found["scene_kind"].iloc[0]]
    parts = {("paper", ""): first["paper"].map("{:.4g}".format).replace("nan", "")}
    for kind, part in lines.groupby("scene_kind", sort=False):
        parts[kind, "ours"] = part.apply(_in_words, axis=1)
        parts[kind, "n"] = part["n"]
    return pd.DataFrame(parts)


def _in_words(line: pd.Series) -> str:
    """A mean with its interval, if there are enough scenes for one."""
    mean, low, high = line[["mean", "low", "high"]]
    words = f"{mean:.4g}" + ("" if pd.isna(low) else f" [{low:.4g}, {high:.4g}]")
    return "" if pd.isna(mean) else words


# -------------------------------------------------------------------- parts
def _chosen(
    table: pd.DataFrame,
    methods: Sequence[str],
    metrics: Sequence[str],
    views: str,
    input_yaw: tuple[float, float] | None,
) -> pd.DataFrame:
    """The rows of these methods, metrics, views and inputs; the path for video does not count."""
    counts = table["is_input"] | ~table["view"].str.startswith(VIDEO_VIEWS)
    shown = {"input": table["is_input"], "novel": ~table["is_input"], "all": True}
    if views not in shown:
        raise ValueError(f"views are {', '.join(shown)}; got {views!r}")
    rows = table[counts & shown[views] & table["metric"].isin(metrics) & table["method"].isin(methods)]
    if input_yaw is None:
        return rows
    yaw = table[table["is_input"]].groupby("scene")["yaw"].first().abs()
    return rows[rows["scene"].isin(yaw.index[yaw.between(*input_yaw)])]


def _with_all_values(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of scenes on which all of these methods were run, where all of them have a value."""
    rows = run_by_all(methods, rows)
    lacking = rows["value"].isna().groupby([rows["scene"], rows["view"], rows["metric"]]).transform("any")
    return rows[~lacking.astype(bool)]


def _number(printed: pd.DataFrame, rows: str | Sequence[str], column: str) -> float:
    """The mean of the named rows of a paper's table in a column."""
    rows = [rows] if isinstance(rows, str) else list(rows)
    if unknown := [row for row in rows if row not in printed.index]:
        raise ValueError(f"the paper's table has no row {unknown[0]!r}; it has: {'; '.join(printed.index)}")
    if column not in printed:
        raise ValueError(f"the paper's table has no column {column!r}; it has: {', '.join(printed)}")
    return float(printed.loc[rows, column].astype(float).mean())


def _require_names(methods: Mapping, metrics: Mapping) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"no method is called {', '.join(unknown)}; there are: {', '.join(METHODS)}")
    require_known_measures(metrics)
    if not methods or not metrics:
        raise ValueError("a table has a method and a metric at least, such as pti and mse")
