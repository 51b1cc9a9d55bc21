"""The claims of the five papers, as `papermill_runs/claims.yaml` has them: what is claimed, and which tests decide.

A claim is one or more tests: a metric, two methods, the views and scenes, and how the first method is expected to
stand to the second. Every name is one of those at the top of the file. `lib.runs.verdicts` judges.
"""

from __future__ import annotations

import csv
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lib.paths import RUNS

__all__ = [
    "CLAIMS",
    "KINDS",
    "REAL_KINDS",
    "Claim",
    "ClaimError",
    "Ledger",
    "PaperPair",
    "Test",
    "paper_number",
    "read_ledger",
]

CLAIMS = RUNS / "claims.yaml"
PAPER_TABLES = RUNS / "paper_tables"

KINDS = ("samples", "painted", "turned", "heads")
"""Of scenes, the easiest first."""

REAL_KINDS = ("celeba_hq", "ffhq", "mead", "afhq_cats", "now", "folder", "photos")
"""Of scenes too: where a user has the files (`lib.datasets.real_scenes`), and `lib.datasets.photos`. They are of no
split: all are for testing."""

VIEWS = {
    "input": "input view",
    "novel": "novel views",
    "all": "all views",
    "loss": "loss from input to novel views",
}
STRICT = ("lower", "higher")
WITHIN = ("alike", "not_lower", "not_higher")
METHOD_NAME = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)?")


class ClaimError(ValueError):
    """A ledger that cannot be judged as it is; the message says what to change."""


@dataclass(frozen=True)
class PaperPair:
    """Numbers of a paper for one test: two rows of `table`, each with its value in `column`."""

    table: str
    column: str
    left: tuple[str, float]
    right: tuple[str, float] | None = None

    @property
    def difference(self) -> float:
        return self.left[1] - (self.right[1] if self.right else 0.0)

    @property
    def baseline(self) -> float:
        return (self.right or self.left)[1]


@dataclass(frozen=True)
class Test:
    """`left` is expected lower or higher than `factor` times `right` in the mean of `metric`, or alike.

    right: None compares `left` with zero, which only a loss or a trend can do. views: the input; novel, all
    others but the path for video; all, both of these; loss, novel minus input. input_yaw: only images
    whose input has its |yaw| in this range, radians. trend: not the mean, but its slope over the |yaw| of the
    input, per radian. margin: of `alike`, `not_lower`, `not_higher`, a share of the baseline's mean. paper: a pair
    for each setting of the paper that the test pools; of a loss or a trend two, the second to be subtracted.
    """

    metric: str
    left: str
    expect: Literal["lower", "higher", "alike", "not_lower", "not_higher"]
    scenes: tuple[str, ...]
    views: Literal["input", "novel", "all", "loss"]
    right: str | None = None
    factor: float = 1.0
    margin: float = 0.0
    input_yaw: tuple[float, float] | None = None
    trend: bool = False
    paper: tuple[PaperPair, ...] = ()

    __test__ = False  # pytest takes every class of this name for its own

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.left,) if self.right is None else (self.left, self.right)

    @property
    def of_change(self) -> bool:
        """Whether it is about how a metric changes: from view to view, or over yaw."""
        return self.trend or self.views == "loss"

    def expected(self, baseline: float) -> tuple[float, float]:
        """Between which bounds left - factor * right is expected, where the right method's mean is `baseline`."""
        room = self.margin * abs(baseline)
        low = -math.inf if self.expect in ("lower", "not_higher") else -room
        high = math.inf if self.expect in ("higher", "not_lower") else room
        return low + 0.0, high + 0.0

    def paper_change(self) -> float | None:
        """The paper's difference as a share of the paper's baseline; None where it has no numbers."""
        if not self.paper:
            return None
        if self.of_change:
            first, second = self.paper
            return (first.difference - second.difference) / abs(second.baseline)
        changes = [pair.left[1] / (self.factor * pair.baseline) - 1 for pair in self.paper]
        return sum(changes) / len(changes)

    def __str__(self) -> str:
        words = {"alike": "like", "lower": "<", "higher": ">", "not_lower": "not <", "not_higher": "not >"}
        against = (
            "0" if self.right is None else ("" if self.factor == 1 else f"{self.factor:g} ") + self.right
        )
        parts = [
            f"{self.metric}{', slope' if self.trend else ''}: {self.left} {words[self.expect]} {against}"
        ]
        parts += [VIEWS[self.views]]
        parts += ["input at |yaw| {:g} to {:g}".format(*self.input_yaw)] if self.input_yaw else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Claim:
    """What a paper says. Either `tests` decide it, or `not_testable` says why nothing here can.

    where: table, figure or section. views, scenes: of the tests that do not say their own. left_out: what of the
    statement the tests do not cover, and why. numbers: of the paper, where no test carries them.
    """

    id: str
    paper: str
    where: str
    statement: str
    tests: tuple[Test, ...] = ()
    views: str = ""
    scenes: tuple[str, ...] = ()
    not_testable: str = ""
    left_out: str = ""
    numbers: tuple[PaperPair, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method that the tests need, once, in their order."""
        return tuple(dict.fromkeys(name for test in self.tests for name in test.methods))


@dataclass(frozen=True)
class Ledger:
    """All claims, and the names that they may use: of papers, methods, metrics and the papers' tables."""

    papers: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, str]
    metrics: Mapping[str, str]
    tables: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]

    def of_paper(self, paper: str) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if claim.paper == paper)

    def __getitem__(self, claim_id: str) -> Claim:
        return next(claim for claim in self.claims if claim.id == claim_id)


# ---- reading ----------------------------------------------------------------------------------------------


def read_ledger(path: Path = CLAIMS) -> Ledger:
    """The ledger of a YAML file: every name in it known, every claim complete."""
    ledger = _made(Ledger, yaml.safe_load(path.read_text()), path.name)
    for name in ledger.methods:
        _require(
            METHOD_NAME.fullmatch(name), path.name, f"a method is named base or base-variant, not {name!r}"
        )
    claims = tuple(_claim(given, ledger) for given in ledger.claims)
    for paper, about in ledger.papers.items():
        _check_numbering(paper, about["claims"], [claim.id for claim in claims if claim.paper == paper])
    return replace(ledger, claims=claims)


def _claim(given: Any, ledger: Ledger) -> Claim:
    where = f"claim {given.get('id')}" if isinstance(given, Mapping) else "claims"
    claim = _made(Claim, given, where)
    _require(claim.paper in ledger.papers, where, f"paper is {_any(ledger.papers)}, not {claim.paper!r}")
    _require(
        bool(claim.tests) != bool(claim.not_testable), where, "expected tests or not_testable, and not both"
    )
    common = {key: given[key] for key in ("views", "scenes") if key in given}
    tests = tuple(_test(test, common, ledger, where) for test in claim.tests)
    return replace(claim, tests=tests, numbers=tuple(_pair(pair, ledger, where) for pair in claim.numbers))


def _test(given: Any, common: Mapping[str, Any], ledger: Ledger, where: str) -> Test:
    _require(isinstance(given, Mapping), where, f"a test has keys and values, found {given!r}")
    test = _made(Test, {**common, **given}, where)
    where = f"{where}, {test.metric}"
    for name in test.methods:
        _require(name in ledger.methods, where, f"method {name!r} is not among the methods at the top")
    _require(
        test.metric in ledger.metrics, where, f"metric {test.metric!r} is not among the metrics at the top"
    )
    _require(test.expect in STRICT + WITHIN, where, f"expect is {_any(STRICT + WITHIN)}, not {test.expect!r}")
    _require(test.views in VIEWS, where, f"views is {_any(VIEWS)}, not {test.views!r}")
    known = KINDS + REAL_KINDS
    _require(_are(test.scenes, known), where, f"scenes are a list of {_any(known)}, not {test.scenes!r}")
    _require(
        (test.margin > 0) == (test.expect in WITHIN), where, f"{_any(WITHIN)} need a margin, others have none"
    )
    _require(test.factor > 0, where, f"factor is positive, not {test.factor}")
    _require(test.right or test.of_change, where, "without `right`, only a loss or a trend can be tested")
    test = replace(
        test, scenes=tuple(test.scenes), paper=tuple(_pair(pair, ledger, where) for pair in test.paper)
    )
    _require(not test.paper or len(test.paper) == 2 or not test.of_change, where, "a change needs two pairs")
    _require(
        _as_expected(test), where, f"the paper's numbers say otherwise than `{test.expect}`: {test.paper}"
    )
    return test


def _pair(given: Any, ledger: Ledger, where: str) -> PaperPair:
    pair = _made(PaperPair, given, where)
    _require(pair.table in ledger.tables, where, f"table {pair.table!r} is not among the tables at the top")
    return replace(pair, left=tuple(pair.left), right=pair.right and tuple(pair.right))


def _as_expected(test: Test) -> bool:
    """Whether the paper's own numbers are as the test expects them; if not, one of the two was copied wrongly."""
    change = test.paper_change()
    low, high = test.expected(baseline=1.0)
    return change is None or low < change < high


def _check_numbering(paper: str, count: int, found: Sequence[str]) -> None:
    expected = [f"{paper}-{number:02d}" for number in range(1, count + 1)]
    odd = sorted(set(expected).symmetric_difference(found)) or "another order"
    _require(
        list(found) == expected, paper, f"expected the {count} claims {expected[0]} to {expected[-1]}: {odd}"
    )


def _made(kind: type, given: Any, where: str) -> Any:
    """A dataclass from a mapping that has its keys and no others."""
    _require(isinstance(given, Mapping), where, f"expected keys and values, found {given!r}")
    known = {field.name: field.default is MISSING for field in fields(kind)}
    missing = [name for name, needed in known.items() if needed and name not in given]
    unknown = [str(name) for name in given if name not in known]
    _require(not missing, where, f"missing: {', '.join(missing)}")
    _require(not unknown, where, f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return kind(**given)


def _are(names: Any, known: Iterable[str]) -> bool:
    return isinstance(names, list | tuple) and bool(names) and set(names) <= set(known)


def _require(condition: Any, where: str, message: str) -> None:
    if not condition:
        raise ClaimError(f"{where}: {message}")


def _any(names: Iterable[str]) -> str:
    return " or ".join(names)


# ---- the papers' tables -----------------------------------------------------------------------------------


def paper_number(ledger: Ledger, table: str, row: str, column: str) -> float:
    """A cell of a paper's table. row: its key, or its keys joined by ", " where the table has several."""
    _require(table in ledger.tables, table, f"there are: {', '.join(ledger.tables)}")
    rows = _paper_table(table, tuple(ledger.tables[table]["keys"]))
    _require(row in rows, table, f"no row {row!r}; there are: {'; '.join(rows)}")
    _require(column in rows[row], table, f"no column {column!r}; there are: {', '.join(rows[row])}")
    return float(rows[row][column])


@functools.cache
def _paper_table(table: str, keys: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Rows of a table by their keys, cells as text."""
    with (PAPER_TABLES / f"{table}.csv").open(newline="") as file:
        return {", ".join(row[key] for key in keys): row for row in csv.DictReader(file)}
