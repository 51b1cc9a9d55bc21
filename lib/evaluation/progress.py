"""What is finished of a plan: a small text file for each input, which goes with the repository.

A run that stops anywhere goes on where it was, on this machine or another one, and a longer list of inputs continues
a shorter one. Each result stands under a key of all that it follows from, but for the bits of rendered pictures,
which differ between machines: the scene's recipe, code and settings of the method, weights, and how is measured.
What has another key is computed anew and replaced.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from tqdm import tqdm

from lib import paths
from lib.cameras import Camera
from lib.datasets.scenes import Scene
from lib.datasets.turned import drift
from lib.evaluation.inversion_cache import inversion_key
from lib.evaluation.measures import MEASURES
from lib.evaluation.plans import EvaluationPlan, Input
from lib.evaluation.protocol import COLUMNS, Trial, evaluated, joined, measure_digest, rows_of, views_measured
from lib.generators import EG3D
from lib.versions import code_version

NO_PICTURE = torch.zeros(1)
NO_CAMERA = Camera(torch.eye(4)[None], torch.eye(3)[None])
"""Stand for any picture and camera where a key is of the method alone."""

DIGITS = 7
"""Of numbers in the files; single precision has no more."""


@dataclass(frozen=True)
class Progress:
    """What a folder holds of a plan, a file for each input: a line about the scene, then one for a method and view."""

    folder: Path
    plan: EvaluationPlan
    generator: EG3D

    def rows(self, given: Input, name: str) -> pd.DataFrame | None:
        """The rows of a method on an input; None where they are not there, or not as they would be computed now."""
        scene, results = self._read(given)
        lines = [line for line in results if line["method"] == name and line["key"] == self.key(given, name)]
        return _table(scene, lines, self.plan.fractions[name]) if lines else None

    def table(self) -> pd.DataFrame:
        """The rows of all that is finished, in the order of the plan."""
        found = (self.rows(given, name) for given, name in self.plan.pairs())
        return joined([rows for rows in found if rows is not None])

    def missing(self, retry: bool = False) -> list[tuple[Input, str]]:
        """Inputs and names of methods that are left to do, in their order. retry: what failed is left, too."""
        return [(given, name) for given, name in self.plan.pairs() if self._is_missing(given, name, retry)]

    def _is_missing(self, given: Input, name: str, retry: bool) -> bool:
        rows = self.rows(given, name)
        return rows is None or (retry and (rows["failure"] != "").any())

    def drifts(self) -> list[Mapping[str, Mapping[str, float]]]:
        """Of `turned` scenes with results, how far their true views disagree (`lib.datasets.drift`)."""
        return [
            {
                view: {name: np.nan if value is None else value for name, value in of.items()}
                for view, of in by.items()
            }
            for given in self.plan.inputs
            if (by := self._read(given)[0].get("drift"))
        ]

    def add(self, given: Input, scene: Scene, rows: pd.DataFrame) -> None:
        """Put the rows of one method on an input into its file, in place of those that it had of the method."""
        if rows.empty:
            return
        # Several runs may work on the same list, each with a method of its own.
        lock = paths.CACHE / "locks" / f"{self.folder.name}-{given.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            about, results = self._read(given)
            if about.get("recipe") != self._recipes[given]:
                about, results = self._about(given, scene), []  # what was there is of another scene
            by_method = {
                name: list(lines) for name, lines in itertools.groupby(results, itemgetter("method"))
            }
            name = rows["method"].iloc[0]
            by_method[name] = _lines(rows, self.key(given, name), str(self.generator.w_mean.device))
            lines = [about | {"place": given.place}, *itertools.chain.from_iterable(by_method.values())]
            with paths.replacing(self._file(given)) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    # ---- keys
    def key(self, given: Input, name: str) -> str:
        """SHA-256 of what a result follows from."""
        parts = [self._recipes[given], self._computations[name], self._measured]
        return _digest(parts)

    @cached_property
    def _recipes(self) -> dict[Input, str]:
        return {given: given.recipe(self.generator, self.plan.seed) for given in self.plan.inputs}

    @cached_property
    def _computations(self) -> dict[str, list[str]]:
        """By method: its name, and the key of its inversion of no picture in particular."""
        methods = {name: planned.method for name, planned in self.plan.methods.items()}
        seed = self.plan.seed
        return {
            name: [name, inversion_key(method, self.generator, NO_PICTURE, NO_CAMERA, seed)]
            for name, method in methods.items()
        }

    @cached_property
    def _measured(self) -> str:
        measures = {name: measure_digest(MEASURES[name]) for name in self.plan.metrics}
        return _digest([measures, code_version(rows_of), list(COLUMNS)])

    # ---- files
    def _file(self, given: Input) -> Path:
        return self.folder / f"{given.name}.jsonl"

    def _read(self, given: Input) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What the file of an input says of the scene, and of the results; nothing where there is no file."""
        try:
            scene, *results = map(json.loads, self._file(given).read_text().splitlines())
        except FileNotFoundError:
            return {}, []
        except ValueError as error:
            raise ValueError(
                f"{self._file(given)} is damaged ({error}): bring it back, or remove it"
            ) from error
        return scene, results

    def _about(self, given: Input, scene: Scene) -> dict[str, Any]:
        """What a file says of the scene."""
        about = {
            "input": given.name,
            "place": given.place,
            "scene": scene.name,
            "scene_kind": scene.extras.get("kind", ""),
            "split": scene.extras.get("split", ""),
            "recipe": self._recipes[given],
        }
        if scene.extras.get("kind") != "turned":
            return about
        by_view = {
            view: {name: _short(value) for name, value in by.items()} for view, by in drift(scene).items()
        }
        return about | {"drift": by_view}


def compute(
    progress: Progress, folder: Path, *, base: str | None, jobs: int = 1, retry: bool = False
) -> None:
    """Do what is left of a plan, input after input, so that what is finished at any time is how the list begins.

    folder: of rows by the bits of scenes. base: the generator's name, if it has one. jobs, retry: as in `evaluate`.
    """
    plan, generator = progress.plan, progress.generator
    missing = progress.missing(retry)
    inputs: dict[str, Input] = {}

    def trials() -> Iterator[Trial]:
        for given, pairs in itertools.groupby(missing, key=itemgetter(0)):
            scene = given.scene(generator, plan.seed)
            inputs[scene.name] = given
            for _, name in pairs:
                yield Trial(
                    method=plan.methods[name].method,
                    scene=scene,
                    generator=generator,
                    views=views_measured(scene),
                    measures=tuple(MEASURES[metric] for metric in plan.metrics),
                    folder=folder,
                    base=base,
                    seed=plan.seed,
                    retry=retry,
                )

    for trial, rows in tqdm(evaluated(trials(), jobs), total=len(missing), desc="evaluate", disable=None):
        progress.add(inputs[trial.scene.name], trial.scene, rows)


# -------------------------------------------------------------------- lines
def _lines(rows: pd.DataFrame, key: str, device: str) -> list[dict[str, Any]]:
    """The rows of one method on one input as a file has them: a line for a view."""
    return [
        {
            "method": rows["method"].iloc[0],
            "view": view,
            "yaw": _short(of_view["yaw"].iloc[0]),
            "is_input": bool(of_view["is_input"].iloc[0]),
            "seconds": _short(of_view["seconds"].iloc[0]),
            "peak_memory_mb": _short(of_view["peak_memory_mb"].iloc[0]),
            "values": dict(zip(of_view["metric"], map(_short, of_view["value"]), strict=True)),
            "failures": {m: why for m, why in zip(of_view["metric"], of_view["failure"], strict=True) if why},
            "device": device,
            "key": key,
        }
        for view, of_view in rows.groupby("view", sort=False)
    ]


def _table(
    scene: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], fraction: float | None
) -> pd.DataFrame:
    """The rows of lines: the inverse of `_lines`, in the digits of the file."""
    rows = [
        {name: scene[name] for name in ("scene", "scene_kind", "split")}
        | {name: line[name] for name in ("method", "view", "yaw", "is_input", "seconds", "peak_memory_mb")}
        | {
            "metric": metric,
            "value": value,
            "failure": line["failures"].get(metric, ""),
            "fraction": fraction,
        }
        for line in lines
        for metric, value in line["values"].items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _short(value: float) -> float | None:
    """A number in the digits of a file; None for one that is not finite."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
