"""Invert pictures whose other views are known, by every method, and measure: `python -m lib.evaluation`.

What is computed at a scale says papermill_runs/evaluation.yaml: an ordered list of inputs, and methods. Of each
input that is finished the numbers are kept in papermill_runs/results/evaluation-SCALE, which is committed: the same
command goes on after it was stopped, here or on another machine. When the whole of a plan is there, it is recorded:
evaluation-SCALE.parquet has a row for each method, scene, view and metric, and evaluation-SCALE.json the means with
their intervals. A part of a plan, such as

    python -m lib.evaluation --scale full --methods wplus,pti --scenes painted,turned --n 8

is computed and printed, and kept for the whole, unless it has metrics of its own.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from lib.evaluation.inversion_cache import ENVIRONMENT_FAILURES
from lib.evaluation.plans import EvaluationPlan, read_plan
from lib.evaluation.progress import Progress, compute
from lib.evaluation.protocol import summarise, write_table
from lib.evaluation.results import finished_folder, record_evaluation
from lib.generators import load_generator
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
    """Only the first so many inputs of the list, of those of the kinds that are asked for."""
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
    record: bool = False
    """Compute nothing, and record what of the whole plan is finished so far."""


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
    kept = finished_folder(options.scale) if plan.metrics == whole.metrics else folder / "inputs"
    progress = Progress(kept, plan, generator)
    if not options.record:
        compute(progress, folder / "rows", base=plan.generator, jobs=options.jobs, retry=options.retry)
    table = progress.table()
    path = write_table(table, options.out or folder / "table.parquet")
    print(report(table), f"table: {path}", sep="\n")
    if plan == whole:
        print(f"recorded: {record_evaluation(table, plan, options.scale, progress.drifts())}")


def _part(plan: EvaluationPlan, options: Options) -> EvaluationPlan:
    """What of a plan the options ask for."""
    part = plan.only(
        methods=_words(options.methods),
        scenes=_words(options.scenes),
        metrics=_words(options.metrics),
        n=options.n,
    )
    return replace(part, metrics=()) if options.invert_only else part


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
