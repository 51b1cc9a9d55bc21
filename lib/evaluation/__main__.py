"""Invert scenes whose other views are known, by every method, and measure: `python -m lib.evaluation`.

What is computed at a scale says papermill_runs/evaluation.yaml. The whole of a plan is recorded in
papermill_runs/results: evaluation-SCALE.parquet has a row for each method, scene, view and metric, and
evaluation-SCALE.json the means with their intervals. A part of it, such as

    python -m lib.evaluation --scale full --methods wplus,pti --scenes samples,turned --n 8

is computed and printed, and kept in papermill_runs/out. What was computed before is not computed again, whichever
run it was.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from lib.datasets.catalogue import KINDS, scenes, settings_of
from lib.datasets.scenes import Scene
from lib.evaluation.inversion_cache import ENVIRONMENT_FAILURES
from lib.evaluation.plans import EvaluationPlan, read_plan
from lib.evaluation.protocol import evaluate, summarise, write_table
from lib.evaluation.results import record_evaluation
from lib.generators import EG3D, load_generator
from lib.paths import RUNS


@dataclass(frozen=True)
class Options:
    """What to compute, and how."""

    scale: Literal["quick", "full", "paper"] = "quick"
    """Which plan to take."""
    methods: str = ""
    """Only these, with commas."""
    scenes: str = ""
    """Only these kinds, with commas."""
    metrics: str = ""
    """Only these, with commas."""
    n: int | None = None
    """Scenes of each kind, instead of as many as the plan says."""
    out: Path | None = None
    """The table, a Parquet file (default: papermill_runs/out/evaluation/SCALE/table.parquet)."""
    invert_only: bool = False
    """Compute the inversions and measure nothing yet; the table has no rows then."""
    device: str = "cpu"
    """cpu, cuda, cuda:1 ..."""
    jobs: int = 1
    """Processes."""
    retry: bool = False
    """Do again what failed before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 where it cannot be done, 0 also where single inversions failed."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    try:
        _run(options)
    except (*ENVIRONMENT_FAILURES, RuntimeError, ValueError) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _run(options: Options) -> None:
    """Evaluate, report, and record the whole of a plan."""
    folder = RUNS / "out" / "evaluation" / options.scale
    whole = read_plan(options.scale)
    plan = _part(whole, options)
    generator = load_generator(plan.generator, options.device)
    test_scenes = [
        scene for kind, n in plan.scenes.items() for scene in _still(kind, n, plan.seed, generator)
    ]
    table = _evaluated(plan, test_scenes, generator, folder / "rows", options)
    path = write_table(table, options.out or folder / "table.parquet")
    print(report(table), f"table: {path}", sep="\n")
    if plan == whole:
        print(f"recorded: {record_evaluation(table, plan, options.scale, test_scenes)}")


def _part(plan: EvaluationPlan, options: Options) -> EvaluationPlan:
    """What of a plan the options ask for."""
    part = plan.only(
        methods=_words(options.methods),
        scenes=_words(options.scenes),
        metrics=_words(options.metrics),
        n=options.n,
    )
    return replace(part, metrics=()) if options.invert_only else part


def _evaluated(
    plan: EvaluationPlan, test_scenes: list[Scene], generator: EG3D, folder: Path, options: Options
) -> pd.DataFrame:
    """The table of a plan."""
    return evaluate(
        list(plan.methods.values()),
        test_scenes,
        generator,
        folder=folder,
        metrics=plan.metrics,
        base=plan.generator,
        seed=plan.seed,
        jobs=options.jobs,
        retry=options.retry,
    )


def _still(kind: str, n: int, seed: int, generator: EG3D) -> list[Scene]:
    """Scenes without the path for video, which no table measures."""
    known = settings_of(kind) if kind in KINDS else {}  # `scenes` says which kinds there are
    settings = {"with_ellipse": False} if "with_ellipse" in known else {}
    return scenes(kind, n, seed, generator, **settings)


def _words(text: str) -> tuple[str, ...]:
    """The words of an option like "w,pti"."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def report(table: pd.DataFrame) -> str:
    """Means for people: a line for each kind of scenes, method and part of the views, a column for each metric."""
    if table.empty:
        return "nothing was measured"
    means = summarise(table)
    means["views"] = means["is_input"].map({True: "input", False: "novel"})
    wide = means.pivot(index=["scene_kind", "method", "views"], columns="metric", values="mean")
    lines = [wide[list(dict.fromkeys(means["metric"]))].to_string(float_format="{:.4g}".format, na_rep="-")]
    failed = table.loc[table["failure"] != "", ["method", "scene", "failure"]].drop_duplicates()
    lines += [f"{method} on {scene}: {why}" for method, scene, why in failed.itertuples(index=False)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
