"""SPI's ablation (Yin et al., 2023, table 3): its rows under our names, changes from row to row, plans of few steps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lib.evaluation.methods import Method
from lib.evaluation.plans import EvaluationPlan
from lib.metrics.statistics import FEWEST, mean_interval
from lib.runs.verdicts import run_by_all

SPI_ROWS = {
    "spi-latent_no_symmetry": "W+ Inversion",
    "spi-latent": "+ Symmetry Prior",
    "spi-no_warps_no_depth": "+ Joint Optimization",
    "spi-no_warps": "+ Geometry Regularization",
    "spi": "+ Warping Pseudo (SPI)",
}
"""Our method: the row of table 3. Each row keeps what those before it have, and adds what it is named by."""


def shortened(plan: EvaluationPlan, steps: int) -> EvaluationPlan:
    """The same plan with at most so many steps of everything: it shows that all runs, and its numbers mean nothing."""
    if steps < 1:
        raise ValueError(f"a short plan takes 1 step or more of what its methods do; got {steps}")
    methods = {
        name: replace(planned, method=_short(planned.method, steps), fraction=None)
        for name, planned in plan.methods.items()
    }
    return replace(plan, methods=methods)


def _short(method: Method, steps: int) -> Method:
    """A method, and what it starts from, with at most so many steps of each stage; a stage of none stays out.

    An encoder takes no steps and stays as it is.
    """
    if method.networks:
        return method
    named = inspect.signature(method.invert).parameters  # those of codes alone pass on what they are given
    stages = {"steps"} | {name for name in named if name.endswith("_steps")}
    asked = {name: method.settings.get(name, _default(named.get(name))) for name in sorted(stages)}
    counts = {name: steps if count is None else min(steps, count) for name, count in asked.items()}
    start = None if method.start is None else _short(method.start, steps)
    return replace(method, settings=dict(method.settings) | counts, start=start)


def _default(parameter: inspect.Parameter | None) -> int | None:
    """A parameter's own number of steps; None where it has none, or another function knows it."""
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def against_first(table: pd.DataFrame, metric: str, methods: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Each method's mean, and its change against the first one, on the scenes on which all of them were run.

    A row a method: mean; change, low, high as shares of the first one's mean, with the 95 % bootstrap interval
    over scenes; n scenes. A scene is one value, the mean of those views in which every method has one. NaN stands
    where there is no number: no ends of an interval for fewer than three scenes, nothing at all for none.
    """
    rows = run_by_all(methods, table[table["metric"] == metric])
    by_view = rows.pivot(index=["scene", "view"], columns="method", values="value")
    by_scene = by_view.reindex(columns=list(methods)).dropna().groupby(level="scene").mean()
    found = {name: _change(by_scene[name], by_scene[methods[0]], seed) for name in methods}
    return pd.DataFrame(found, index=["mean", "change", "low", "high", "n"]).T.astype({"n": int})


def _change(values: pd.Series, first: pd.Series, seed: int) -> tuple[float, float, float, float, int]:
    """Mean of one value a scene; mean and interval of its difference from the first method's, as shares of that."""
    if values.empty:
        return np.nan, np.nan, np.nan, np.nan, 0
    difference, base = (values - first).to_numpy(), abs(first.mean())
    low = high = np.nan
    if len(values) >= FEWEST:
        interval = mean_interval(difference, seed=seed)
        low, high = interval.low / base, interval.high / base
    return values.mean(), difference.mean() / base, low, high, len(values)
