"""The table of an evaluation as the repository keeps it: what figures and the ledger read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib import runs
from lib.evaluation.plans import EvaluationPlan
from lib.evaluation.protocol import read_table, summarise, write_table

Drift = Mapping[str, Mapping[str, float]]
"""By view and name, as `lib.datasets.drift` gives it."""


def record_evaluation(
    table: pd.DataFrame, plan: EvaluationPlan, scale: str, drifts: Iterable[Drift] = ()
) -> Path:
    """Keep the table of a plan, or of what is finished of it, and record its means, with the circumstances.

    drifts: of the `turned` scenes in the table. A table in which a method has no value at all is refused: that is a
    mistake to be mended, not a result. Gives the path of the record.
    """
    _require_values(table)
    inputs = table.groupby("method", sort=False)["scene"].nunique().to_dict()
    extra = {"scale": scale, "plan": plan.described(), "inputs": inputs, "turned_drift": mean_drift(drifts)}
    write_table(table, _table_path(scale))
    return runs.record(f"evaluation-{scale}", nested_means(table), extra=extra)


def _require_values(table: pd.DataFrame) -> None:
    """An error where nothing is there, or a method failed everywhere."""
    if table.empty:
        raise ValueError("nothing is recorded, as nothing is finished")
    for method, rows in table.groupby("method", sort=False):
        if rows["value"].isna().all():
            raise ValueError(
                f"nothing is recorded, as method {method} failed everywhere: {rows['failure'].iloc[0]}"
            )


def recorded_table(scale: str = "full") -> pd.DataFrame:
    """The table that was recorded at a scale: a row for each method, scene, view and metric."""
    return read_table(_table_path(scale))


def _table_path(scale: str) -> Path:
    return finished_folder(scale).with_suffix(".parquet")


def finished_folder(scale: str) -> Path:
    """Where the files of finished inputs lie."""
    return runs.result_path(f"evaluation-{scale}").with_suffix("")


def mean_drift(drifts: Iterable[Drift]) -> dict[str, dict[str, float | None]]:
    """By view, means over `turned` scenes of how far it is from showing what the input shows (`lib.datasets.drift`).

    A floor of every number of these scenes: their views are pictures of a 2D model, and no one head matches all.
    None stands where there is no number.
    """
    found = [{"view": view} | values for one in drifts for view, values in one.items()]
    if not found:
        return {}
    means = pd.DataFrame(found).groupby("view").mean().round(6)
    return {
        view: {name: None if pd.isna(value) else value for name, value in row.items()}
        for view, row in means.to_dict("index").items()
    }


def nested_means(table: pd.DataFrame) -> dict[str, Any]:
    """Means by kind of scenes, method, `input` or `novel` views, and metric: mean, low, high, n, missing.

    None stands where there is no number. With them the mean seconds and the most memory of an inversion.
    """
    means: dict[str, Any] = {}
    for kind, method, is_input, metric, *numbers in summarise(table).itertuples(index=False):
        views = (
            means.setdefault(kind, {}).setdefault(method, {}).setdefault("input" if is_input else "novel", {})
        )
        names = ("mean", "low", "high", "n", "missing")
        values = (None if pd.isna(number) else round(number, 6) for number in numbers)
        views[metric] = dict(zip(names, values, strict=True))
    for (kind, method), part in table.groupby(["scene_kind", "method"], sort=False):
        inversions = part.drop_duplicates("scene")
        if inversions["seconds"].notna().any():
            cost = {
                "seconds": round(inversions["seconds"].mean(), 2),
                "peak_memory_mb": round(inversions["peak_memory_mb"].max(), 1),
            }
            means[kind][method]["cost"] = cost
    return means
