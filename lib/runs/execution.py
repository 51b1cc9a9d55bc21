"""Reading run definitions and executing them.

A run is a YAML file in `papermill_runs/runs`, named by its id:

    id: 00_start_here
    notebook: notebooks/00_start_here.ipynb
    assets: [landmarks]                     # fetched before the kernel starts
    parameters:
      quick: {steps_w: 40}
      full: {steps_w: 1000}
"""

import ast
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nbformat
import yaml
from filelock import FileLock, Timeout

from lib.paths import ROOT, RUNS, WEIGHTS
from lib.runs.records import SCALES, digest, in_repository, now, plain, result_path, write_json

__all__ = [
    "Outcome",
    "Run",
    "RunError",
    "complete_parameters",
    "execute",
    "fingerprint",
    "in_processes",
    "is_done",
    "read_runs",
]

OUT = RUNS / "out"
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}


class RunError(ValueError):
    """A run that cannot be executed as it is defined; the message says what to change."""


@dataclass(frozen=True)
class Run:
    """One notebook, its parameters per scale, and the assets that it needs."""

    id: str
    notebook: Path
    parameters: Mapping[str, Mapping[str, object]]
    assets: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    run_id: str
    notebook: Path
    status: Literal["done", "skipped (done)", "failed"]
    seconds: float = 0.0
    figures: Sequence[str] = ()
    message: str = ""


# ---- definitions ------------------------------------------------------------------------------------------


def read_runs(only: Sequence[str] = ()) -> list[Run]:
    """All runs in the order of their ids, or those asked for."""
    files = {path.stem: path for path in sorted((RUNS / "runs").glob("*.yaml"))}
    unknown = [name for name in only if name not in files]
    if unknown:
        raise RunError(f"no run is called {', '.join(unknown)}; there are: {', '.join(files)}")
    return [read_run(path) for name, path in files.items() if not only or name in only]


def read_run(path: Path) -> Run:
    """A run from its file, complete and without unknown keys."""
    given = yaml.safe_load(path.read_text())
    if not isinstance(given, dict) or not {"id", "notebook", "parameters"} <= given.keys():
        raise RunError(f"{path.name}: expected the keys id, notebook, parameters, and perhaps assets")
    unknown = given.keys() - {"id", "notebook", "parameters", "assets"}
    if unknown:
        raise RunError(f"{path.name}: unknown keys {', '.join(sorted(unknown))}")
    if given["id"] != path.stem:
        raise RunError(f"{path.name}: the id must be the name of the file, {path.stem}, not {given['id']}")
    if not (ROOT / given["notebook"]).is_file():
        raise RunError(f"{path.name}: there is no notebook {given['notebook']}")
    if not isinstance(given["parameters"], dict) or not given["parameters"].keys() <= set(SCALES):
        raise RunError(f"{path.name}: parameters are given per scale, one or more of {', '.join(SCALES)}")
    parameters = {scale: values or {} for scale, values in given["parameters"].items()}
    return Run(given["id"], ROOT / given["notebook"], parameters, tuple(given.get("assets") or ()))


def complete_parameters(notebook: Path, given: Mapping[str, object], run_id: str) -> dict[str, object]:
    """Every parameter of a notebook: the value given for it, checked against its annotation, or its default.

    papermill itself takes unknown parameters and a missing `parameters` cell in silence, and the run would
    then be recorded under values that it never saw.
    """
    import papermill  # half a second, which listing runs need not pay

    known = papermill.inspect_notebook(notebook)
    name = in_repository(notebook)
    if not known:
        raise RunError(f"{name} has no cell tagged `parameters`: tag the cell that holds them")
    if "run_id" not in known:
        raise RunError(f"{name} has no parameter `run_id`, under which it would be recorded")
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise RunError(f"{name} has no parameter {', '.join(unknown)}; it has: {', '.join(known)}")
    if "run_id" in given:
        raise RunError(f"the run_id of {name} is set by the runner: leave it out")
    for parameter, value in given.items():
        _check_type(parameter, value, known[parameter]["inferred_type_name"])
    defaults = {parameter: ast.literal_eval(found["default"]) for parameter, found in known.items()}
    return defaults | dict(given) | {"run_id": run_id}


def _check_type(name: str, value: object, annotation: str) -> None:
    expected = TYPES.get(annotation, object)
    # To Python a bool is an int, but who writes `true` for a number of steps has made a mistake.
    if not isinstance(value, expected) or (isinstance(value, bool) and annotation in ("int", "float")):
        raise RunError(
            f"parameter {name} is {annotation} in the notebook; {value!r} is {type(value).__name__}"
        )


# ---- is it done? ------------------------------------------------------------------------------------------


def inputs(parameters: Mapping[str, object]) -> dict[str, str]:
    """Hashes of the files that parameters name: a path, or weights that ship with the repository."""
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and value}
    candidates = [
        (name, path)
        for name, text in texts.items()
        for path in (ROOT / text, WEIGHTS / f"{text}.safetensors")
    ]
    return {name: digest(path.read_bytes()) for name, path in candidates if path.is_file()}


def fingerprint(notebook: Path, parameters: Mapping[str, object]) -> str:
    """Changes with the code of the notebook, the parameters, the files that they name, and the library."""
    cells = nbformat.read(notebook, as_version=4).cells
    library = sorted(path for pattern in ("*.py", "*.toml") for path in (ROOT / "lib").rglob(pattern))
    parts = {
        "notebook": [cell.source for cell in cells if cell.cell_type == "code"],
        "parameters": plain(parameters),
        "inputs": inputs(parameters),
        "library": {in_repository(path): digest(path.read_bytes()) for path in library},
    }
    return digest(json.dumps(parts, sort_keys=True).encode())


def is_done(run_id: str, expected: str) -> bool:
    """Whether this very run was executed in this checkout, and record, notebook and figures are still there.

    A record alone does not do: those of the published scale come with a fresh clone.
    """
    if not result_path(run_id).exists() or not _executed(run_id).exists() or _partial(run_id).exists():
        return False
    result = json.loads(result_path(run_id).read_text())
    return result.get("fingerprint") == expected and all(
        (ROOT / figure["file"]).exists() and digest((ROOT / figure["file"]).read_bytes()) == figure["sha256"]
        for figure in result["figures"]
    )


def _executed(run_id: str) -> Path:
    return OUT / f"{run_id}.ipynb"


def _partial(run_id: str) -> Path:
    return OUT / f"{run_id}.failed.ipynb"


# ---- execution --------------------------------------------------------------------------------------------


def execute(
    run: Run, scale: str, *, force: bool = False, overrides: Mapping[str, object] | None = None
) -> Outcome:
    """Execute a run unless it is done. What goes wrong in it becomes a message, and the next run goes on."""
    run_id = f"{run.id}-{scale}"
    started = time.monotonic()
    try:
        given = {**run.parameters[scale], **(overrides or {})}
        parameters = complete_parameters(run.notebook, given, run_id)
        with _alone(run_id):
            expected = fingerprint(run.notebook, parameters)
            if not force and is_done(run_id, expected):
                return Outcome(run_id, run.notebook, "skipped (done)", 0.0, _figures(run_id))
            _fetch(run.assets)
            began = now()
            _execute_notebook(run.notebook, run_id, parameters)
            known = {"scale": scale, "parameters": plain(parameters), "inputs": inputs(parameters)}
            known |= {"wall_seconds": round(time.monotonic() - started, 1), "fingerprint": expected}
            _complete_record(run.notebook, run_id, began, known)
    except Exception as error:  # the boundary between one run and the next
        message = _explanation(run_id, run.notebook, error)
        return Outcome(run_id, run.notebook, "failed", time.monotonic() - started, (), message)
    return Outcome(run_id, run.notebook, "done", time.monotonic() - started, _figures(run_id))


def in_processes(work: Callable[[Run], Outcome], runs: Sequence[Run], jobs: int) -> Iterator[Outcome]:
    """Several runs at a time, the cores shared between them; outcomes as they come."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_limit_threads, initargs=(threads,)) as pool:
        yield from (done.result() for done in as_completed([pool.submit(work, run) for run in runs]))


def _limit_threads(threads: str) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", threads)


@contextlib.contextmanager
def _alone(run_id: str) -> Iterator[None]:
    """Two processes never execute the same run at once: the second waits, and then finds it done."""
    OUT.mkdir(parents=True, exist_ok=True)
    lock = FileLock(OUT / f".{run_id}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{run_id} is being executed by another process; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(names: Sequence[str]) -> None:
    """Fetch what the notebook will ask for while there is a terminal to show the progress."""
    if names:
        from lib import assets

        for name in names:
            assets.folder(name)


def _execute_notebook(notebook: Path, run_id: str, parameters: Mapping[str, object]) -> None:
    """Execute into a hidden file, which in one step becomes the executed notebook, or the partial one."""
    import papermill

    running = OUT / f".{run_id}.running.ipynb"
    try:
        papermill.execute_notebook(
            notebook,
            running,
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=ROOT,
            progress_bar={"desc": run_id},
            stderr_file=sys.stderr if sys.stderr.isatty() else None,  # progress bars inside long cells
        )
    except BaseException:  # Ctrl-C too: what was computed so far is worth a look
        if running.exists():
            running.replace(_partial(run_id))
        raise
    running.replace(_executed(run_id))
    _partial(run_id).unlink(missing_ok=True)


def _complete_record(notebook: Path, run_id: str, began: str, known: Mapping[str, object]) -> None:
    """Add to the notebook's own record what only the runner knows."""
    path = result_path(run_id)
    recorded = json.loads(path.read_text()) if path.exists() else {}
    if recorded.get("recorded_at", "") < began:
        raise RunError(f"{in_repository(notebook)} ended without runs.record(run_id, ...)")
    write_json(path, recorded | {"notebook": in_repository(notebook)} | dict(known))


def _explanation(run_id: str, notebook: Path, error: Exception) -> str:
    """One paragraph: what went wrong, in which cell, and where to look."""
    name = in_repository(notebook)
    kind = type(error).__name__  # papermill's own classes would cost its import
    partial = _partial(run_id)
    look = f" The notebook as far as it got: {in_repository(partial)}" if partial.exists() else ""
    if isinstance(error, RunError):
        return f"{run_id}: {error}."
    if kind == "PapermillExecutionError":
        begins = next(line.strip() for line in error.source.splitlines() if line.strip())
        cell = f"cell [{error.exec_count}] of {name}, which begins `{begins}`"
        return f"{run_id}: {cell}: {error.ename}: {error.evalue}.{look}"
    if kind == "DeadKernelError":
        return f"{run_id}: the kernel of {name} died, most often because memory ran out.{look}"
    return f"{run_id}: {kind}: {error}.{look}"


def _figures(run_id: str) -> tuple[str, ...]:
    return tuple(figure["file"] for figure in json.loads(result_path(run_id).read_text())["figures"])
