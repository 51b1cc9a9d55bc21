"""What an evaluation computes at a scale: `papermill_runs/evaluation.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from lib.evaluation.measures import MEASURES, require_known_measures
from lib.evaluation.methods import Method, method_named
from lib.paths import RUNS

PLANS = RUNS / "evaluation.yaml"

Value = TypeVar("Value")


class PlanError(ValueError):
    """A plan that cannot be carried out as it stands; the message says what to change."""


@dataclass(frozen=True)
class EvaluationPlan:
    """scenes: how many test scenes of each kind. methods, metrics: by name, in the order of tables."""

    generator: str
    scenes: Mapping[str, int]
    methods: Mapping[str, Method]
    metrics: Sequence[str] = tuple(MEASURES)
    seed: int = 0

    def __post_init__(self) -> None:
        require_known_measures(self.metrics)

    def only(
        self,
        *,
        methods: Sequence[str] = (),
        scenes: Sequence[str] = (),
        metrics: Sequence[str] = (),
        n: int | None = None,
    ) -> Self:
        """A part of the plan: what is named, of all where nothing is; n scenes of each kind."""
        kinds = _chosen("kind of scenes", self.scenes, scenes)
        return replace(
            self,
            methods=_chosen("method", self.methods, methods),
            scenes=kinds if n is None else dict.fromkeys(kinds, n),
            metrics=tuple(metrics) or self.metrics,
        )

    def described(self) -> dict[str, Any]:
        """What a record says of the plan, in plain values."""
        methods = {name: method.described() for name, method in self.methods.items()}
        return {
            "generator": self.generator,
            "scenes": dict(self.scenes),
            "methods": methods,
            "metrics": list(self.metrics),
            "seed": self.seed,
        }


def _chosen(what: str, known: Mapping[str, Value], names: Sequence[str]) -> dict[str, Value]:
    """Entries by name, in the order that they have there."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PlanError(f"the plan has no {what} {', '.join(unknown)}; it has {', '.join(known)}")
    return {name: value for name, value in known.items() if name in names or not names}


def read_plan(scale: str, path: Path = PLANS) -> EvaluationPlan:
    """The plan of a scale."""
    plans = yaml.safe_load(path.read_text())
    if scale not in plans:
        raise PlanError(f"{path.name} has no plan at scale {scale}; it has {', '.join(plans)}")
    given = dict(plans[scale])
    unknown = given.keys() - EvaluationPlan.__dataclass_fields__.keys()
    missing = {"generator", "scenes", "methods"} - given.keys()
    if unknown or missing:
        wrong = [f"unknown key {key}" for key in sorted(unknown)]
        wrong += [f"key {key} is missing" for key in sorted(missing)]
        raise PlanError(f"{path.name}, {scale}: {'; '.join(wrong)}")
    try:
        given["methods"] = {name: _method(name, given["methods"]) for name in given["methods"]}
        return EvaluationPlan(**given)
    except ValueError as error:
        raise PlanError(f"{path.name}, {scale}: {error}") from error


def _method(name: str, plan: Mapping[str, Mapping[str, Any] | None], under: tuple[str, ...] = ()) -> Method:
    """A method as the plan sets it, and the one it starts from likewise. under: those that start from it."""
    given = plan.get(name, {}) or {}
    unknown = given.keys() - {"settings", "start"}
    if unknown:
        raise PlanError(f"method {name} has no {', '.join(sorted(unknown))}; it has settings and start")
    if name in under:
        raise PlanError(f"method {name} starts from itself: {' <- '.join((*under, name))}")
    start = given.get("start")
    if start is not None and start not in plan:
        raise PlanError(f"method {name} starts from {start}, which is not among the methods of the plan")
    initial = None if start is None else _method(start, plan, (*under, name))
    return method_named(name, given.get("settings"), initial)
