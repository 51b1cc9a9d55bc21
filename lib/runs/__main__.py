"""`python -m lib.runs`: execute the notebooks of the study and say what became of each."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import tyro
import yaml

from lib.paths import ROOT
from lib.runs.execution import (
    Outcome,
    Run,
    RunError,
    complete_parameters,
    execute,
    fingerprint,
    in_processes,
    is_done,
    read_runs,
)
from lib.runs.records import in_repository


def main(
    scale: Literal["quick", "full", "paper"] = "quick",
    only: tuple[str, ...] = (),
    force: bool = False,
    jobs: int = 1,
    overrides: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE")] = (),
    show: Annotated[bool, tyro.conf.arg(name="list")] = False,
) -> int:
    """Execute the notebooks of the study that are not done yet.

    Args:
        scale: which parameters of each run to take.
        only: ids of the runs to execute; without it, all.
        force: execute again what is done.
        jobs: how many notebooks at a time.
        overrides: parameters in place of those of the runs; paths start at the repository.
        show: say what there is and what is done, and execute nothing.
    """
    try:
        replaced = _parsed(overrides)
        runs = [run for run in read_runs(only) if scale in run.parameters]
        if show:
            print(_inventory(runs, scale))
            return 0
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    work = partial(execute, scale=scale, force=force, overrides=replaced)
    outcomes = []
    try:
        for outcome in in_processes(work, runs, jobs) if jobs > 1 else map(work, runs):
            print(outcome.message or f"{outcome.run_id}: {outcome.status}", flush=True)
            outcomes.append(outcome)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what is not done yet", file=sys.stderr)
        return 130
    print("\n" + summary(outcomes))
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _parsed(overrides: Sequence[str]) -> Mapping[str, object]:
    """`steps=3` as {"steps": 3}."""
    pairs = [text.partition("=") for text in overrides]
    broken = [name for name, equals, _ in pairs if not equals or not name.isidentifier()]
    if broken:
        raise RunError(f"--set takes name=value, not {', '.join(broken)}")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> object:
    """A number, flag or list in YAML; else text to the letter, as YAML would misread some paths."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float | list) else text


def summary(outcomes: Iterable[Outcome]) -> str:
    """A table of notebook, time, status and figures, and where to find the rest."""
    rows = [
        (in_repository(outcome.notebook), _clock(outcome.seconds), outcome.status, _gathered(outcome.figures))
        for outcome in sorted(outcomes, key=lambda outcome: outcome.run_id)
    ]
    where = "executed notebooks: papermill_runs/out, results: papermill_runs/results"
    return _table(("notebook", "time", "status", "figures"), rows) + f"\n{where}"


def _inventory(runs: Sequence[Run], scale: str) -> str:
    """A table of the runs of a scale: id, notebook, done or not."""
    rows = []
    for run in runs:
        run_id = f"{run.id}-{scale}"
        expected = fingerprint(run.notebook, complete_parameters(run.notebook, run.parameters[scale], run_id))
        rows.append((run.id, in_repository(run.notebook), "done" if is_done(run_id, expected) else "to do"))
    return _table(("run", "notebook", "status"), rows)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _gathered(figures: Sequence[str]) -> str:
    """Figures by folder: how many, and where."""
    folders = Counter(in_repository((ROOT / figure).parent) for figure in figures)
    return ", ".join(f"{count} in {folder}" for folder, count in folders.items()) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, rule, *rows]
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
