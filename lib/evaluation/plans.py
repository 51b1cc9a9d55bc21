"""What an evaluation computes at a scale: `papermill_runs/evaluation.yaml`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from lib.datasets import painted
from lib.datasets.catalogue import KINDS, scene_recipe, scenes, settings_of
from lib.datasets.photos import KIND as PHOTOS
from lib.datasets.photos import photo_name, photos
from lib.datasets.scenes import INPUT_YAWS, Scene
from lib.evaluation.measures import MEASURES, require_known_measures
from lib.evaluation.methods import Method, method_named
from lib.generators import EG3D
from lib.paths import RUNS
from lib.versions import code_version

PLANS = RUNS / "evaluation.yaml"

PAINT = tuple(painted.KINDS)
"""What is painted on the heads of a list goes round, so that a short list has all of it."""


class PlanError(ValueError):
    """A plan that cannot be carried out as it stands; the message says what to change."""


# -------------------------------------------------------------------- inputs
@dataclass(frozen=True)
class Input:
    """One picture to invert, and the views that are known beside it.

    place: in the list, from 0. kind, index: which scene of the test split, or which photo. input_yaw: from where a
    scene is seen, radians; None for photos, which are as they are.
    """

    place: int
    kind: str
    index: int
    input_yaw: float | None = None

    @property
    def name(self) -> str:
        """The same however long the list is: painted-00, photos-07."""
        return f"{self.kind}-{self.index:02d}"

    def scene(self, generator: EG3D, seed: int) -> Scene:
        """The scene, out of the cache if it is there."""
        if self.kind == PHOTOS:
            return photos(1, generator, first=self.index)[0]
        return scenes(self.kind, 1, seed, generator, first=self.index, **self._settings())[0]

    def recipe(self, generator: EG3D, seed: int) -> str:
        """SHA-256 of what the scene is made from: the same on machines that render other bits."""
        if self.kind == PHOTOS:
            return f"{photo_name(self.index)} {generator.resolution} {code_version(photos)}"
        return scene_recipe(self.kind, self.index, seed, generator, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """Of the scene: its yaw, what is painted on it, and no path for video, which no table measures."""
        wanted = {"input_yaw": self.input_yaw, "what": PAINT[self.index % len(PAINT)], "with_ellipse": False}
        return {name: value for name, value in wanted.items() if name in settings_of(self.kind)}


def listed(blocks: Sequence[Mapping[str, Any]]) -> tuple[Input, ...]:
    """The ordered list of inputs: blocks one after the other, in each of which kinds and yaws go round.

    A block is {kinds: [...], n: how many inputs, yaws: [...] of scenes (None: INPUT_YAWS)}.
    """
    counts: Counter[str] = Counter()
    found: list[Input] = []
    for block in blocks:
        kinds, n, yaws = _block(block)
        for position in range(n):
            kind = kinds[position % len(kinds)]
            yaw = None if kind == PHOTOS else yaws[position % len(yaws)]
            found.append(Input(len(found), kind, counts[kind], yaw))
            counts[kind] += 1
    return tuple(found)


def _block(given: Any) -> tuple[Sequence[str], int, Sequence[float]]:
    """Kinds, number and yaws of a block; an error where it is none."""
    known = (*KINDS, PHOTOS)
    if not isinstance(given, Mapping) or not {"kinds", "n"} <= given.keys() <= {"kinds", "n", "yaws"}:
        raise PlanError(f"a block of inputs is {{kinds: [...], n: ..., yaws: [...] if need be}}; got {given}")
    kinds, n, yaws = given["kinds"], given["n"], given.get("yaws", INPUT_YAWS)
    if not isinstance(kinds, list) or not kinds or not set(kinds) <= set(known):
        raise PlanError(f"kinds of inputs are a list of {', '.join(known)}; got {kinds}")
    if not isinstance(n, int) or n < 1 or not len(yaws):
        raise PlanError(f"a block has 1 input or more and some yaw; got n: {n}, yaws: {yaws}")
    return kinds, n, yaws


# -------------------------------------------------------------------- methods
@dataclass(frozen=True)
class PlannedMethod:
    """A method, and what of the list it is run on.

    fraction: of the paper's steps that its settings take; None where nobody says. n: only the first so many inputs of
    the list. kinds: only these.
    """

    method: Method
    fraction: float | None = None
    n: int | None = None
    kinds: tuple[str, ...] = ()

    def takes(self, given: Input) -> bool:
        return (self.n is None or given.place < self.n) and (not self.kinds or given.kind in self.kinds)

    def described(self) -> dict[str, Any]:
        """What a record says of it, in plain values."""
        where = {"fraction": self.fraction, "n": self.n, "kinds": list(self.kinds)}
        return self.method.described() | {name: value for name, value in where.items() if value}


def _planned(name: str, plan: Mapping[str, Mapping[str, Any] | None]) -> PlannedMethod:
    given = plan[name] or {}
    fraction, kinds = given.get("fraction"), given.get("kinds", ())
    if fraction is not None and not (isinstance(fraction, int | float) and fraction > 0):
        raise PlanError(
            f"method {name} takes a fraction of its paper's steps, 1 for all of them; got {fraction!r}"
        )
    if unknown := set(kinds) - {*KINDS, PHOTOS}:
        raise PlanError(f"method {name} is for kinds {', '.join(sorted(unknown))}, which there are not")
    return PlannedMethod(_method(name, plan), fraction, given.get("n"), tuple(kinds))


def _method(name: str, plan: Mapping[str, Mapping[str, Any] | None], under: tuple[str, ...] = ()) -> Method:
    """A method as the plan sets it, and the one it starts from likewise. under: those that start from it."""
    given = plan.get(name, {}) or {}
    known = ("settings", "start", "fraction", "n", "kinds")
    if unknown := given.keys() - set(known):
        raise PlanError(f"method {name} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    if name in under:
        raise PlanError(f"method {name} starts from itself: {' <- '.join((*under, name))}")
    start = given.get("start")
    if start is not None and start not in plan:
        raise PlanError(f"method {name} starts from {start}, which is not among the methods of the plan")
    initial = None if start is None else _method(start, plan, (*under, name))
    return method_named(name, given.get("settings"), initial)


# -------------------------------------------------------------------- plans
@dataclass(frozen=True)
class EvaluationPlan:
    """inputs: in their order, of which a shorter run computes the first. methods, metrics: in the order of tables."""

    generator: str
    inputs: Sequence[Input]
    methods: Mapping[str, PlannedMethod]
    metrics: Sequence[str] = tuple(MEASURES)
    seed: int = 0

    def __post_init__(self) -> None:
        require_known_measures(self.metrics)

    @property
    def fractions(self) -> dict[str, float | None]:
        """Of the papers' steps, by method."""
        return {name: planned.fraction for name, planned in self.methods.items()}

    def pairs(self) -> list[tuple[Input, str]]:
        """Every input with the name of every method that is run on it, in the order of work."""
        return [
            (given, name)
            for given in self.inputs
            for name, method in self.methods.items()
            if method.takes(given)
        ]

    def only(
        self,
        *,
        methods: Sequence[str] = (),
        scenes: Sequence[str] = (),
        metrics: Sequence[str] = (),
        n: int | None = None,
    ) -> Self:
        """A part of the plan: what is named, of all where nothing is; the first n inputs of these kinds."""
        _require_known("method", methods, self.methods)
        _require_known("kind of scenes", scenes, dict.fromkeys(given.kind for given in self.inputs))
        inputs = [given for given in self.inputs if not scenes or given.kind in scenes]
        if n is not None and not 1 <= n <= len(inputs):
            raise PlanError(f"the plan has {len(inputs)} inputs of these kinds; n = {n} are asked for")
        return replace(
            self,
            methods={name: method for name, method in self.methods.items() if name in methods or not methods},
            inputs=tuple(inputs[:n]),
            metrics=tuple(metrics) or self.metrics,
        )

    def described(self) -> dict[str, Any]:
        """What a record says of the plan, in plain values."""
        return {
            "generator": self.generator,
            "inputs": {given.name: given.input_yaw for given in self.inputs},
            "methods": {name: method.described() for name, method in self.methods.items()},
            "metrics": list(self.metrics),
            "seed": self.seed,
        }


def _require_known(what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PlanError(f"the plan has no {what} {', '.join(unknown)}; it has {', '.join(known)}")


def read_plan(scale: str, path: Path = PLANS) -> EvaluationPlan:
    """The plan of a scale."""
    plans = yaml.safe_load(path.read_text())
    if scale not in plans:
        raise PlanError(f"{path.name} has no plan at scale {scale}; it has {', '.join(plans)}")
    given = dict(plans[scale])
    unknown = given.keys() - EvaluationPlan.__dataclass_fields__.keys()
    missing = {"generator", "inputs", "methods"} - given.keys()
    if unknown or missing:
        wrong = [f"unknown key {key}" for key in sorted(unknown)]
        wrong += [f"key {key} is missing" for key in sorted(missing)]
        raise PlanError(f"{path.name}, {scale}: {'; '.join(wrong)}")
    try:
        given["inputs"] = listed(given["inputs"])
        given["methods"] = {name: _planned(name, given["methods"]) for name in given["methods"]}
        return EvaluationPlan(**given)
    except ValueError as error:
        raise PlanError(f"{path.name}, {scale}: {error}") from error
