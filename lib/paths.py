"""Where things lie, and how a file takes its place: whole, or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

__all__ = ["CACHE", "FIGURES", "ROOT", "RUNS", "WEIGHTS", "replacing", "require_suffix"]

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

WEIGHTS = ROOT / "lib" / "weights"
"""Generators that ship with the repository, each with its model card."""

RUNS = ROOT / "papermill_runs"
"""Run definitions, results and executed notebooks."""

FIGURES = ROOT / "figures"
"""Committed figures."""


def _cache() -> Path:
    moved = os.environ.get("EG3D_STUDY_CACHE", "").strip()
    if moved:
        return Path(moved).expanduser().resolve()
    return platformdirs.user_cache_path("eg3d-study", appauthor=False)


CACHE = _cache()
"""Fetched assets and generated data, outside the repository; `EG3D_STUDY_CACHE` moves it."""


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name to write a file to; it takes the place of `path` if all goes well, and is gone if not.

    It lies in the same folder, which is made where it is missing, and ends in the same suffix, by which many
    a writer tells the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_suffix(path: str | os.PathLike, *suffixes: str) -> Path:
    """The path, if its name ends in one of these suffixes (".ply"), in whatever case."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"expected a file name that ends in {' or '.join(suffixes)}; got {path.name!r}")
    return path
