"""The table of an evaluation as the repository keeps it: what figures and the ledger read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lib import runs
from lib.evaluation.plans import EvaluationPlan
from lib.evaluation.protocol import read_table, summarise, write_table


def record_evaluation(table: pd.DataFrame, plan: EvaluationPlan, scale: str) -> Path:
    """Keep the table of a plan and record its means, with the circumstances; the path of the record."""
    run_id = f"evaluation-{scale}"
    write_table(table, _table_path(scale))
    return runs.record(run_id, nested_means(table), extra={"scale": scale, "plan": plan.described()})


def recorded_table(scale: str = "full") -> pd.DataFrame:
    """The table that was recorded at a scale: a row for each method, scene, view and metric."""
    return read_table(_table_path(scale))


def _table_path(scale: str) -> Path:
    return runs.result_path(f"evaluation-{scale}").with_suffix(".parquet")


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
