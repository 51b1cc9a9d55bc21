"""Where the embedded generator comes from, as records that the notebooks of `prior/` show: portraits and training.

`python -m lib.runs.provenance portraits` describes the sampled portraits, `... training FOLDER` the log of a training.
Both need what a fresh machine does not have, so their results are committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro

from lib.datasets import Plan, PoseDirections
from lib.datasets.portrait_statistics import Studio, describe_portraits, sheet_picture
from lib.datasets.portraits import portraits_folder
from lib.faces import FaceDetector
from lib.generators.teacher import Teacher
from lib.runs.records import record, save_figure

MAX_ROWS = 200
"""Of a log in a record."""


def compact_log(lines: Sequence[str], max_rows: int = MAX_ROWS) -> dict[str, list[float | None]]:
    """A log of `lib.training` as columns of at most so many rows, each the mean of its part, to five digits.

    None where nothing was logged. `step` and `seconds` are those at the end of the part.
    """
    rows = [json.loads(line) for line in lines]
    if not rows:
        raise ValueError("the log is empty: has the training taken its first 25 steps?")
    parts = np.array_split(np.arange(len(rows)), min(max_rows, len(rows)))
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_mean([rows[i].get(name) for i in part]) for part in parts] for name in names}
    ends = [rows[part[-1]] for part in parts]
    return columns | {name: [_rounded(row[name]) for row in ends] for name in ("step", "seconds")}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(float(np.mean(known))) if known else None


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def record_training(
    folder: Path, name: str = "portraits64", fid: Mapping[int, float] | None = None, start: str = ""
) -> Path:
    """Record the log in a folder of `lib.prior`, and FIDs of its weights by step, as training_<name>-full.

    start: the weights that it began with.
    """
    log = compact_log((folder / "log.jsonl").read_text().splitlines())
    fid = {str(step): value for step, value in sorted((fid or {}).items())}
    return record(f"training_{name}-full", {"log": log, "fid": fid}, extra={"start": start})


def record_portraits(plan: Plan, drift_people: int = 60, trial_people: int = 24) -> Path:
    """Describe the portraits of a plan, with sheets of them, as portraits-full."""
    directions = PoseDirections.load(portraits_folder(plan) / "pose_directions.npz")
    studio = Studio(Teacher(threads=1), FaceDetector(max_faces=1), directions)
    numbers, sheets = describe_portraits(plan, studio, drift_people, trial_people)
    saved = [
        save_figure(sheet_picture(sheet), name, "portraits-full", photographic=True)
        for name, sheet in sheets.items()
    ]
    return record("portraits-full", numbers, saved)


def _portraits(drift_people: int = 60, trial_people: int = 24) -> None:
    """Describe the portraits that `python -m lib.datasets` made.

    Args:
        drift_people: how many of those held out are compared with themselves from the side.
        trial_people: how many are drawn for poses beyond the plan.
    """
    print(record_portraits(Plan(), drift_people, trial_people))


def _training(
    folder: tyro.conf.Positional[Path], name: str = "portraits64", fid: tuple[str, ...] = (), start: str = ""
) -> None:
    """Record the log of a training.

    Args:
        folder: of the training, with its log.jsonl.
        name: of the generator that came out.
        fid: FIDs of its weights, as STEP=FID.
        start: the weights that it began with.
    """
    pairs = (item.partition("=") for item in fid)
    print(record_training(folder, name, {int(step): float(value) for step, _, value in pairs}, start))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"portraits": _portraits, "training": _training})
