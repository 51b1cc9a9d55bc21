"""One protocol for all methods: every scene inverted from its input view, every known view measured."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from lib.datasets import Scene
from lib.evaluation.inversion_cache import (
    ENVIRONMENT_FAILURES,
    InversionFailed,
    asset_digests,
    cached_inversion,
    inversion_key,
    tensor_digest,
)
from lib.evaluation.measures import MEASURES, Comparison, Measure, require_known_measures
from lib.evaluation.methods import Method
from lib.generators import EG3D
from lib.metrics.statistics import FEWEST, mean_interval
from lib.paths import replacing
from lib.runs.verdicts import VIDEO_VIEWS
from lib.versions import code_version

COLUMNS = {
    "method": "str",
    "scene": "str",
    "scene_kind": "str",
    "split": "str",
    "view": "str",
    "yaw": "float64",
    "is_input": "bool",
    "metric": "str",
    "value": "float64",
    "seconds": "float64",
    "peak_memory_mb": "float64",
    "failure": "str",
    "fraction": "float64",
}
"""A table has a row for each method, scene, view and metric. split: test or development; empty for real data.
yaw: radians. seconds, peak_memory_mb: of the inversion. failure: why the value is NaN, empty where it is a number.
fraction: of the paper's steps that the method took; NaN where nobody says."""


@dataclass(frozen=True)
class Trial:
    """One method on one scene; all that its rows depend on, and where they are kept."""

    method: Method
    scene: Scene
    generator: EG3D
    views: tuple[str, ...]
    measures: tuple[Measure, ...]
    folder: Path
    base: str | None
    seed: int
    retry: bool

    def key(self) -> str:
        """SHA-256 of all that the rows depend on: the inversion, the true views, and how these are measured."""
        target = self.scene.input
        parts = {
            "inversion": inversion_key(self.method, self.generator, target.image, target.camera, self.seed),
            "method": self.method.name,
            "scene": scene_digest(self.scene, self.views),
            "code": code_version(_rows),
            "measures": {measure.name: measure_digest(measure) for measure in self.measures},
            "columns": COLUMNS,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def evaluate(
    methods: Sequence[Method],
    scenes: Sequence[Scene],
    generator: EG3D,
    *,
    folder: str | os.PathLike,
    metrics: Collection[str] = tuple(MEASURES),
    views: Collection[str] | None = None,
    base: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    retry: bool = False,
) -> pd.DataFrame:
    """Invert every scene by every method and measure every view: a table of `COLUMNS`.

    folder: keeps the rows of what is finished, so that a run that was killed goes on where it was; the inversions
    themselves are kept in the project's cache. metrics: names in `MEASURES`. views: names of views (None: all
    but the path for video). base: the generator's name, if it has one. jobs: processes. retry: do again what
    failed before. A method that fails on a scene gives rows without value, with the reason, and so does a
    metric; neither stops the others. What the machine lacks (memory, a package, a file) is raised. The same
    arguments give the same values.
    """
    _require_distinct("methods", [method.name for method in methods])
    _require_distinct("scenes", [scene.name for scene in scenes])
    require_known_measures(metrics)
    trials = [
        Trial(
            method=method,
            scene=scene,
            generator=generator,
            views=views_measured(scene, views),
            measures=tuple(MEASURES[name] for name in metrics),
            folder=Path(folder),
            base=base,
            seed=seed,
            retry=retry,
        )
        for scene in scenes
        for method in methods
    ]
    done = tqdm(evaluated(trials, jobs), total=len(trials), desc="evaluate", disable=None)
    parts = {(trial.scene.name, trial.method.name): rows for trial, rows in done}
    return joined([parts[trial.scene.name, trial.method.name] for trial in trials])


def evaluated(trials: Iterable[Trial], jobs: int = 1) -> Iterator[tuple[Trial, pd.DataFrame]]:
    """Each trial with its rows, as it is finished. Trials are begun in their order, and not asked for long before."""
    if jobs < 1:
        raise ValueError(f"jobs is a number of processes, 1 or more; got {jobs}")
    return ((trial, rows_of(trial)) for trial in trials) if jobs == 1 else _in_processes(trials, jobs)


def rows_of(trial: Trial) -> pd.DataFrame:
    """The rows of one method on one scene, out of the folder if they are there."""
    if not trial.measures:  # no rows are left to do, but the inversion, which has a cache of its own
        return _measured(trial)
    path = trial.folder / f"{trial.key()}.parquet"
    if path.is_file():
        known = read_table(path)
        if not (trial.retry and (known["failure"] != "").any()):
            return known
    rows = _measured(trial)
    write_table(rows, path)
    return rows


def _measured(trial: Trial) -> pd.DataFrame:
    measured = [name for name in COLUMNS if name != "fraction"]
    return pd.DataFrame(_rows(trial), columns=measured).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def _rows(trial: Trial) -> Iterator[tuple]:
    """The rows of one trial, in the order of `COLUMNS`, without a fraction of steps, which a plan knows."""
    scene, target = trial.scene, trial.scene.input
    head, failure, seconds, memory = None, "", np.nan, np.nan
    try:
        found = cached_inversion(
            trial.method,
            trial.generator,
            target.image,
            target.camera,
            seed=trial.seed,
            base=trial.base,
            retry=trial.retry,
        )
        head, cost = found.still(), found.extras["cost"]
        seconds, memory = cost["seconds"], cost["peak_memory_mb"]
    except InversionFailed as error:
        failure = str(error)
    names = (trial.method.name, scene.name, *(scene.extras.get(about, "") for about in ("kind", "split")))
    for name in trial.views:
        view = scene.views[name]
        place = (name, view.camera.yaw.item(), name == scene.input_name)
        seen = Comparison(head, scene, name)
        for measure in trial.measures:
            if measure.applies(scene, name):
                value, reason = (np.nan, failure) if head is None else _value(measure, seen)
                yield (*names, *place, measure.name, value, seconds, memory, reason)


def _value(measure: Measure, seen: Comparison) -> tuple[float, str]:
    """A measure's value in a view, and why there is none; infinity, which has no mean, is none."""
    try:
        value = float(measure.of(seen))
    except ENVIRONMENT_FAILURES:
        raise
    except Exception as error:  # one metric in one view; the others have their values all the same
        return np.nan, f"{type(error).__name__}: {error}"
    if np.isinf(value):
        return np.nan, f"{measure.name} is infinite here"
    return value, f"{measure.name} has no value here" if np.isnan(value) else ""


# ----------------------------------------------------------------------- several at a time
def _in_processes(trials: Iterable[Trial], jobs: int) -> Iterator[tuple[Trial, pd.DataFrame]]:
    """Trials in other processes, the cores shared among them: whoever is free takes the next."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    left, running = iter(trials), {}
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (threads,)) as pool:
        try:
            while True:
                for trial in itertools.islice(left, 2 * jobs - len(running)):
                    # Pickled here and not by the pool, which would pass tensors through shared memory that may be small.
                    running[pool.submit(_rows_of_pickled, pickle.dumps(trial))] = trial
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _rows_of_pickled(trial: bytes) -> pd.DataFrame:
    return rows_of(pickle.loads(trial))


# ----------------------------------------------------------------------- tables
def joined(tables: Sequence[pd.DataFrame] | Iterator[pd.DataFrame]) -> pd.DataFrame:
    """One table of several."""
    return pd.concat([pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS), *tables], ignore_index=True)


def write_table(table: pd.DataFrame, path: str | os.PathLike) -> Path:
    """Write a table as Parquet, in one step."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")
    return Path(path)


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """A table from a Parquet file, with the columns that it must have."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table at {path}: `python -m lib.evaluation` makes tables")
    table = pd.read_parquet(path)
    if list(table.columns) != list(COLUMNS):
        raise ValueError(
            f"{path} is no table of an evaluation: expected the columns {', '.join(COLUMNS)}; "
            f"found {', '.join(map(str, table.columns))}"
        )
    return table.astype(COLUMNS)


def summarise(
    table: pd.DataFrame,
    by: Sequence[str] = ("scene_kind", "method", "is_input", "metric"),
    *,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean and bootstrap interval over scenes for each group of rows: `by`, then mean, low, high, n, missing.

    The views of a scene count as one value, their mean. n: scenes that count. missing: scenes without any value.
    Groups of fewer scenes than an interval needs have NaN for its ends.
    """
    unknown = [name for name in by if name not in table.columns]
    if unknown:
        raise ValueError(f"a table has no column {', '.join(unknown)}; it has {', '.join(table.columns)}")
    rows = []
    for group, part in table.groupby(list(by), sort=False):
        per_scene = part.groupby("scene", sort=False)["value"].mean()
        rows.append((*group, *_interval(per_scene.to_numpy(), level, seed)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "missing"])


def _interval(values: np.ndarray, level: float, seed: int) -> tuple[float, float, float, int, int]:
    """Mean, ends of its interval, values that count and those that are NaN."""
    known = values[~np.isnan(values)]
    counts = len(known), len(values) - len(known)
    if len(known) < FEWEST:
        return (known.mean() if len(known) else np.nan, np.nan, np.nan, *counts)
    found = mean_interval(known, level=level, seed=seed)
    return (found.mean, found.low, found.high, *counts)


# ----------------------------------------------------------------------- parts
def measure_digest(measure: Measure) -> str:
    """SHA-256 of a measure: its code, where it applies, and the networks that it asks."""
    parts = {
        "code": code_version(measure.of),
        "applies": [measure.needs, measure.truth, measure.whole_head],
        "assets": asset_digests(measure.assets),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scene_digest(scene: Scene, views: Collection[str]) -> str:
    """SHA-256 of a scene: names, all that is known of these views, and the other truth."""
    parts: dict[str, object] = {"name": scene.name}
    parts |= {about: scene.extras.get(about, "") for about in ("kind", "split")}
    parts["input"] = scene.input_name
    for name in views:
        view = scene.views[name]
        known = {"camera": view.camera.label()} | {
            field: value for field, value in vars(view).items() if isinstance(value, Tensor)
        }
        parts[f"view {name}"] = {field: tensor_digest(value) for field, value in known.items()}
    parts["truth"] = {name: tensor_digest(value) for name, value in scene.truth.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def views_measured(scene: Scene, views: Collection[str] | None = None) -> tuple[str, ...]:
    """Names of the views of a scene that are measured, the input's among them; None: all but the path for video."""
    if views is None:
        return tuple(name for name in scene.views if not name.startswith(VIDEO_VIEWS))
    missing = [name for name in views if name not in scene.views]
    if missing:
        raise ValueError(
            f"scene {scene.name!r} has no view {', '.join(missing)}; its views: {', '.join(scene.views)}"
        )
    return tuple(dict.fromkeys((scene.input_name, *views)))


def _require_distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} are told apart by name, and several are called {', '.join(twice)}")
