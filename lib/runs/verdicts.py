"""Verdicts on the papers' claims, by paired bootstrap over images. The rules, which stand before any data does:

* The unit is the image. Methods are compared on the same images and views; the differences of an image's views
  are averaged to one, and of these the mean and its bootstrap interval are taken (`lib.metrics.statistics`). An
  image on which one of the two was never run, as ablations are run on few, does not count; one on which it failed does.
* Each kind of scene is judged by itself: a test on two kinds gives two findings.
* A finding holds if its interval at `LEVEL` lies wholly where the claim expects it. All must hold for
  "reproduced": if each does so by chance in at most 5 % of cases, so do all together.
* A finding is against the claim if its interval lies wholly elsewhere, and one is enough for "not reproduced".
  So that a claim of many tests is not refuted by chance, its k findings share the 5 %: here the level is
  1 - 0.05 / k (Bonferroni).
* All else is "inconclusive": fewer than `MIN_IMAGES` images; more than `MAX_LOST` of them without a value (a method
  that fails where it is hard would look good on the rest); an interval that says neither.
* That two methods are alike, no interval can show exactly: such claims have a margin, in the ledger.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lib.metrics.statistics import FEWEST, Interval, mean_interval
from lib.runs.claims import KINDS, REAL_KINDS, Claim, Ledger, Test

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LEVEL",
    "MAX_LOST",
    "MIN_IMAGES",
    "STATUSES",
    "VIDEO_VIEWS",
    "Finding",
    "Verdict",
    "as_record",
    "as_rows",
    "counts",
    "find",
    "judge",
    "verdict",
]

LEVEL = 0.95
"""Probability with which an interval holds the true mean."""

MIN_IMAGES = 8
"""So many images a finding needs. Intervals are widened for few images as a t-distribution asks for; below this number
a bootstrap knows too little of the tails even so. (Under 20, tables flag an interval as of few images.)"""

MAX_LOST = 0.1
"""Share of the images that may be without a value."""

STATUSES = ("reproduced", "not reproduced", "inconclusive", "method not there yet", "not testable here")

COSTS = ("seconds", "peak_memory_mb")
"""Columns of a table that hold one number for an inversion; metrics have one for each view."""

VIDEO_VIEWS = "ellipse"
"""How the names of views begin that are there to be looked at, and decide nothing."""

FRACTION = "fraction"
"""Column of a table, if it has one, that says what share of its paper's steps a method took."""

COLUMNS = ("method", "scene", "scene_kind", "split", "view", "yaw", "is_input", "metric", "value")


@dataclass(frozen=True)
class Finding:
    """What a test found on one kind of scene.

    estimate, low, high: mean of left - factor * right, or its slope, and its interval at `LEVEL`; None where
    nothing could be estimated. baseline: factor times the mean of the right method, or, where the test has none, the
    mean of the left one. n: images that count. fraction: of the papers' steps that the methods took, the smallest;
    None where nobody says.
    """

    test: Test
    kind: str
    outcome: Literal["holds", "against", "open", "missing"]
    reason: str
    n: int = 0
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    fraction: float | None = None

    @property
    def change(self) -> tuple[float, float, float] | None:
        """Estimate, low and high as shares of the baseline, which compare between metrics and with papers."""
        if self.estimate is None or not self.baseline:
            return None
        return tuple(value / abs(self.baseline) for value in (self.estimate, self.low, self.high))

    def __str__(self) -> str:
        found = "" if self.estimate is None else f" {self.estimate:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"
        reason = f" ({self.reason})" if self.reason else ""
        steps = "" if self.fraction is None else f", {self.fraction:.2g} of the steps"
        return f"{self.test}, {self.kind}:{found}, n = {self.n}{steps}, {self.outcome}{reason}"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and why. `findings`: every test on every kind of scene."""

    claim: Claim
    status: str
    reason: str
    findings: tuple[Finding, ...] = ()

    @property
    def deciding(self) -> Finding | None:
        """On which finding the status rests: the first against, the first open, or of those that hold the weakest."""
        if self.status == "reproduced":
            return min(self.findings, key=_distance_from_border)
        outcome = {"not reproduced": "against", "inconclusive": "open"}.get(self.status)
        return next((finding for finding in self.findings if finding.outcome == outcome), None)

    @property
    def estimate(self) -> float | None:
        return self.deciding and self.deciding.estimate

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.estimate is None else (self.deciding.low, self.deciding.high)

    @property
    def n(self) -> int:
        return self.deciding.n if self.deciding else 0

    @property
    def fraction(self) -> float | None:
        return self.deciding and self.deciding.fraction


def _distance_from_border(finding: Finding) -> float:
    """How far an interval that lies where it is expected stays away from the border, as a share of the baseline."""
    low, high = finding.test.expected(finding.baseline)
    return min(finding.low - low, high - finding.high) / (abs(finding.baseline) or 1.0)


# ---- verdicts ---------------------------------------------------------------------------------------------


def judge(ledger: Ledger, table: pd.DataFrame, seed: int = 0) -> list[Verdict]:
    """A verdict on every claim, in the ledger's order."""
    checked(table)
    return [verdict(claim, table, seed=seed) for claim in ledger.claims]


def verdict(claim: Claim, table: pd.DataFrame, seed: int = 0) -> Verdict:
    """What results on test scenes say of a claim.

    table: as `lib.evaluation.evaluate` gives it, a row per method, scene, view and metric.
    """
    if claim.not_testable:
        return Verdict(claim, "not testable here", claim.not_testable)
    pairs = [(test, kind) for test in claim.tests for kind in test.scenes]
    strict = 1 - (1 - LEVEL) / len(pairs)
    findings = tuple(find(test, kind, table, strict=strict, seed=seed) for test, kind in pairs)
    return Verdict(claim, *_status(claim, findings, set(table["method"])), findings)


def _status(claim: Claim, findings: Sequence[Finding], methods: set[str]) -> tuple[str, str]:
    outcomes = Counter(finding.outcome for finding in findings)
    summary = f"{outcomes['holds']} of {len(findings)} findings as claimed, {outcomes['against']} against"
    first = {finding.outcome: finding for finding in reversed(findings)}
    if "missing" in first:
        absent = ", ".join(name for name in claim.methods if name not in methods)
        partly = f"; so far {summary}" if len(first) > 1 else ""
        return "method not there yet", f"no results of {absent}{partly}"
    if "against" in first:
        return "not reproduced", f"{summary}: {first['against']}"
    if "open" in first:
        return "inconclusive", f"{summary}: {first['open']}"
    return "reproduced", summary


def counts(verdicts: Iterable[Verdict]) -> dict[str, dict[str, int]]:
    """How many claims of each paper have each status."""
    found = Counter((verdict.claim.paper, verdict.status) for verdict in verdicts)
    papers = dict.fromkeys(paper for paper, _ in found)
    return {paper: {status: found[paper, status] for status in STATUSES} for paper in papers}


# ---- findings ---------------------------------------------------------------------------------------------


class Paired(NamedTuple):
    """What two methods gave on the same images [n], NaN where there is no value."""

    difference: np.ndarray  # left - factor * right
    baseline: np.ndarray  # factor * right, or left where a test has no right
    yaw: np.ndarray  # |yaw| of the input, radians


def find(test: Test, kind: str, table: pd.DataFrame, *, strict: float = LEVEL, seed: int = 0) -> Finding:
    """Judge a test on the scenes of one kind. strict: the level at which it may speak against the claim."""
    absent = [name for name in test.methods if name not in set(table["method"])]
    if absent:
        return Finding(test, kind, "missing", f"no results of {', '.join(absent)}")
    rows = run_by_all(test.methods, table[table["scene_kind"] == kind])
    paired = paired_values(test, rows)
    known = ~np.isnan(paired.difference)
    values, yaw = paired.difference[known], paired.yaw[known]
    made = functools.partial(Finding, test, kind, n=len(values), fraction=smallest_fraction(rows))
    if not len(values):
        return made("open", f"{test.metric} was not measured there")
    if len(values) < FEWEST or (test.trend and len(np.unique(yaw)) < 2):
        return made("open", f"{len(values)} images at {len(np.unique(yaw))} yaws give no interval")
    per_image = slope_values(yaw, values) if test.trend else values
    wide, wider = (mean_interval(per_image, level=level, seed=seed) for level in (LEVEL, strict))
    baseline = float(paired.baseline[known].mean())
    outcome, reason = _outcome(wide, wider, test.expected(baseline), lost=int((~known).sum()))
    return made(outcome, reason, estimate=wide.mean, low=wide.low, high=wide.high, baseline=baseline)


def _outcome(
    at_level: Interval, at_strict: Interval, expected: tuple[float, float], lost: int
) -> tuple[str, str]:
    """What an interval says of where the mean is expected, and why if it says nothing. lost: images without a value."""
    low, high = expected
    if at_level.n < MIN_IMAGES:
        return "open", f"{at_level.n} images, {MIN_IMAGES} are needed"
    if lost > MAX_LOST * (at_level.n + lost):
        return "open", f"{lost} of {at_level.n + lost} images have no value of both methods"
    if low < at_level.low and at_level.high < high:
        return "holds", ""
    if at_strict.high < low or high < at_strict.low:
        return "against", ""
    return "open", "the interval says neither"


def run_by_all(methods: Sequence[str], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of these methods on the images on which every one of them was run; a method that failed was."""
    rows = rows[rows["method"].isin(methods)]
    return rows[rows.groupby("scene")["method"].transform("nunique") == len(set(methods))]


def smallest_fraction(rows: pd.DataFrame) -> float | None:
    """Of the papers' steps, among the methods of `rows`; None where that of a method is not told."""
    if FRACTION not in rows or rows.empty:
        return None
    told = rows.groupby("method")[FRACTION].min()
    return None if told.isna().any() else float(told.min())


def paired_values(test: Test, rows: pd.DataFrame) -> Paired:
    """What the methods of a test gave on each image of `rows`. An image counts if each of its views has a value."""
    yaw = rows[rows["is_input"]].groupby("scene")["yaw"].first().abs()
    if test.input_yaw is not None:
        yaw = yaw[yaw.between(*test.input_yaw)]
    values = _costs(test.metric, rows) if test.metric in COSTS else _by_view(test.metric, rows)
    values = values.reindex(columns=list(test.methods))
    left = values[test.left]
    right = left * 0.0 if test.right is None else test.factor * values[test.right]
    difference = _over_views(left - right, test.views).reindex(yaw.index)
    level = "input" if test.views == "loss" else test.views
    baseline = _over_views(left if test.right is None else right, level).reindex(yaw.index)
    return Paired(*(part.to_numpy(dtype=float) for part in (difference, baseline, yaw)))


def _by_view(metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Values of a metric: a row per scene and view, a column per method. The path for video does not count."""
    counts = rows["is_input"] | ~rows["view"].str.startswith(VIDEO_VIEWS)
    return rows[(rows["metric"] == metric) & counts].pivot(
        index=["scene", "view", "is_input"], columns="method", values="value"
    )


def _costs(column: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Values of a cost, which an inversion has once, as if its input view had them."""
    return rows[rows["is_input"]].pivot_table(
        index=["scene", "view", "is_input"], columns="method", values=column, aggfunc="first"
    )


def _over_views(values: pd.Series, views: str) -> pd.Series:
    """One value per scene: the mean of some of its views, NaN if one of them has none."""
    if views == "loss":
        return _over_views(values, "novel") - _over_views(values, "input")
    is_input = values.index.get_level_values("is_input")
    chosen = {"input": is_input, "novel": ~is_input, "all": is_input | ~is_input}[views]
    return values[chosen].groupby("scene").agg(lambda seen: seen.mean(skipna=False))


def slope_values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One value [n] per image whose mean is the slope of y over x, so that slopes have intervals as means do.

    They are the pseudo-values of the jackknife (Tukey, 1958): n times the least-squares slope, minus n - 1
    times that without the image. Their mean is the slope up to a bias of order 1 / n.
    """
    n, from_mean = len(x), x - x.mean()
    spread = (from_mean**2).sum()
    slope = (from_mean * y).sum() / spread
    residual = y - y.mean() - slope * from_mean
    leverage = 1 / n + from_mean**2 / spread
    return slope + (n - 1) * from_mean * residual / (spread * (1 - leverage))


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """A table that can be judged: all columns, known kinds of scenes, no row twice, no split but the test split.

    Real data (`REAL_KINDS`) has none: there it is empty.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(f"a table of results has no column {', '.join(missing)}; it has: {', '.join(table)}")
    known = KINDS + REAL_KINDS
    unknown = sorted(set(table["scene_kind"]) - set(known))
    if unknown:
        raise ValueError(f"scenes of kind {', '.join(unknown)}; the ledger knows {', '.join(known)}")
    expected = np.where(table["scene_kind"].isin(KINDS), "test", "")
    others = sorted(set(table.loc[table["split"] != expected, "split"]))
    if others:
        raise ValueError(
            "verdicts come from test scenes only (real data has the split ''): leave out the rows of split "
            + ", ".join(map(repr, others))
        )
    twice = table.duplicated(["method", "scene_kind", "scene", "view", "metric"])
    if twice.any():
        row = table[twice].iloc[0]
        raise ValueError(
            f"{twice.sum()} rows are there twice, such as {row['metric']} of {row['method']} in view {row['view']} "
            f"of {row['scene']}: give each result once"
        )
    return table


# ---- writing down -----------------------------------------------------------------------------------------


def as_rows(verdicts: Iterable[Verdict]) -> list[dict[str, object]]:
    """Verdicts as rows of a table. Beside each stands what it rests on, of the finding that decides.

    n: images. steps: share of the papers' steps. change, low, high: as shares of the right method's mean. None where
    there is no such number.
    """
    return [
        {
            "id": verdict.claim.id,
            "where": verdict.claim.where,
            "claim": verdict.claim.statement,
            "status": verdict.status,
            "n": verdict.n if verdict.deciding else None,
            "steps": verdict.fraction,
            **dict(zip(("change", "low", "high"), _change(verdict), strict=True)),
            "why": verdict.reason,
        }
        for verdict in verdicts
    ]


def _change(verdict: Verdict) -> tuple[float | None, ...]:
    return (verdict.deciding and verdict.deciding.change) or (None, None, None)


def as_record(verdicts: Iterable[Verdict]) -> dict[str, Mapping[str, object]]:
    """Verdicts by claim in plain values, for the record of a run."""
    return {verdict.claim.id: _recorded(verdict) for verdict in verdicts}


def _recorded(verdict: Verdict) -> dict[str, object]:
    known = {"status": verdict.status, "reason": verdict.reason}
    found = [
        {
            "test": str(finding.test),
            "scenes": finding.kind,
            "outcome": finding.outcome,
            "reason": finding.reason,
            "n": finding.n,
            "fraction": finding.fraction,
            "estimate": finding.estimate,
            "interval": None if finding.estimate is None else [finding.low, finding.high],
            "paper_change": finding.test.paper_change(),
        }
        for finding in verdict.findings
        if finding.outcome != "missing"
    ]
    return known | ({"findings": found} if found else {})
