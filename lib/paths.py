"""Where things lie. Everything that reads or writes a file starts from one of these."""

import os
from pathlib import Path

import platformdirs

__all__ = ["CACHE", "FIGURES", "ROOT", "RUNS", "WEIGHTS"]

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
