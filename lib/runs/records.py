"""What a notebook calls: seeds, figures, and the record of a run with its circumstances.

A run id is `<name>-<scale>`; the runner passes it. A notebook opened by hand has a bare `<name>`, and what it
writes is kept apart as `interactive`. Committed figures and records are those of the scale `full`.
"""

import datetime
import hashlib
import io
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from lib.paths import FIGURES, ROOT, RUNS, replacing

__all__ = ["SCALES", "figure_folder", "record", "result_path", "save_figure", "seed_all"]

SCALES = ("quick", "full", "paper")
PUBLISHED = "full"
FIGURE_BYTES = 100_000
VERSIONED = ("torch", "numpy", "scipy", "scikit-image", "mediapipe", "matplotlib", "eg3d-inversion-study")


def seed_all(seed: int) -> "torch.Generator":
    """Seed the global state of Python, NumPy and torch; return a generator for code that takes one."""
    import torch  # here, not above: the runner reads this file and never needs it

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - third-party code draws from this one
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def save_figure(figure, name: str, run_id: str, *, photographic: bool = False) -> Path:
    """Write a matplotlib figure or a PIL picture under this run's name, at most 100 kB; give its path.

    `<name>.png`, or `<name>.jpg` if it is `photographic`: rows of faces take ten times the bytes as PNG.
    What is too large loses colours (PNG) or quality (JPEG) first, then resolution: look at the result.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"a figure is named in lower case, digits and underscores, not {name!r}")
    path = figure_folder(run_id) / (f"{name}.jpg" if photographic else f"{name}.png")
    attempts = _jpegs if photographic else _pngs
    write_bytes(path, _within(FIGURE_BYTES, _picture(figure), attempts, run_id))
    return path


def record(
    run_id: str,
    metrics: Mapping[str, object],
    figures: Iterable[str | os.PathLike] = (),
    extra: Mapping[str, object] | None = None,
) -> Path:
    """Write what a run found, and under which circumstances; the last call of every notebook.

    `metrics` and `extra` hold numbers, text, lists and dicts; tensors and arrays become lists. Figures are
    the paths that `save_figure` returned. The runner adds what a kernel cannot know, as wall time.
    """
    path = result_path(run_id)
    write_json(
        path,
        {
            "run_id": path.stem,
            "recorded_at": now(),
            "metrics": plain(metrics),
            "figures": [_described(Path(figure)) for figure in figures],
            "extra": plain(extra or {}),
            "versions": _versions(),
            "device": _device(),
            "peak_memory_mb": round(_peak_memory() / 1e6),
            "commit": _commit(),
        },
    )
    return path


def result_path(run_id: str) -> Path:
    """Where the record of a run lies."""
    return RUNS / "results" / ("-".join(split_run_id(run_id)) + ".json")


def figure_folder(run_id: str) -> Path:
    """Where the figures of a run lie: those of the published scale directly under the run's name."""
    name, scale = split_run_id(run_id)
    return FIGURES / name if scale == PUBLISHED else FIGURES / name / scale


def split_run_id(run_id: str) -> tuple[str, str]:
    """Name and scale of a run."""
    name, _, scale = run_id.rpartition("-")
    if scale not in SCALES:
        name, scale = run_id, "interactive"
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(
            f"run id {run_id!r}: expected lower case, digits and underscores, then perhaps a scale: {SCALES}"
        )
    return name, scale


# ---- figures ----------------------------------------------------------------------------------------------


def _picture(figure) -> Image.Image:
    """RGB pixels of a matplotlib figure (at its own resolution, margins trimmed) or of a PIL picture."""
    if isinstance(figure, Image.Image):
        return figure.convert("RGB")
    if not hasattr(figure, "savefig"):
        raise TypeError(f"expected a matplotlib figure or a PIL picture, not {type(figure).__name__}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", bbox_inches="tight", facecolor="white")
    return Image.open(buffer).convert("RGB")


def _within(limit: int, picture: Image.Image, attempts: Callable, run_id: str) -> bytes:
    """The best encoding of a picture that fits in `limit` bytes, at full size if possible."""
    for scale in (1.0, 0.85, 0.7, 0.6, 0.5):
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        smaller = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
        for encoded in attempts(smaller, run_id):
            if len(encoded) <= limit:
                return encoded
    raise ValueError(
        f"a figure of {picture.width} x {picture.height} pixels does not fit in {limit} bytes, not even at "
        "half its size: show fewer panels, or make two figures of it"
    )


def _pngs(picture: Image.Image, run_id: str) -> Iterator[bytes]:
    """PNGs with fewer and fewer colours; the run that the figure comes from stands in the file."""
    note = PngImagePlugin.PngInfo()
    note.add_text("run_id", run_id)
    for colours in (None, 256, 128):
        candidate = picture.quantize(colours, dither=Image.Dither.NONE) if colours else picture
        buffer = io.BytesIO()
        candidate.save(buffer, format="png", optimize=True, pnginfo=note)
        yield buffer.getvalue()


def _jpegs(picture: Image.Image, run_id: str) -> Iterator[bytes]:
    """JPEGs of lower and lower quality; the run that the figure comes from stands in the file."""
    for quality in (92, 88, 84, 80, 75):
        buffer = io.BytesIO()
        picture.save(buffer, format="jpeg", quality=quality, optimize=True, comment=run_id)
        yield buffer.getvalue()


def _described(figure: Path) -> dict[str, object]:
    """A figure as a record names it: path in the repository, hash, size."""
    if not figure.is_file():
        raise FileNotFoundError(f"figure {figure} was never written: pass the path that save_figure returned")
    if not figure.resolve().is_relative_to(ROOT):
        raise ValueError(f"figure {figure} lies outside the repository: write it with save_figure")
    data = figure.read_bytes()
    return {"file": in_repository(figure), "sha256": digest(data), "bytes": len(data)}


# ---- circumstances ----------------------------------------------------------------------------------------


def now() -> str:
    """This moment in UTC; such strings sort by time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a run says what it had, and not every checkout is installed
    return installed


def _device() -> dict[str, object]:
    """What computed: processor and cores, and the GPU if any of its memory was used."""
    device = {"cpu": platform.machine(), "cores": os.cpu_count(), "system": platform.system()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        device["gpu"] = torch.cuda.get_device_name()
        device["gpu_peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return device


def _peak_memory() -> int:
    """The most bytes that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count what the parent held when it forked
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) * 1024
    import resource  # POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def _commit() -> dict[str, object]:
    """Commit of the checkout, and whether the code that ran differs from it."""
    head = _git("rev-parse", "--verify", "--quiet", "HEAD")
    changes = _git("status", "--porcelain", "--", "lib", "notebooks", "papermill_runs/runs")
    return {"hash": head, "dirty": head is None or bool(changes)}


def _git(*arguments: str) -> str | None:
    """Output of git in this repository; None without git, repository or commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# ---- files ------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def in_repository(path: Path) -> str:
    """A path as it is written down: relative to the repository, with slashes."""
    return path.resolve().relative_to(ROOT).as_posix()


def plain(value: object) -> object:
    """What JSON can hold: tensors and arrays become numbers and lists, paths become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a record holds finite numbers, not {value}: find out where it comes from")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a record holds numbers, text, lists and dicts, not {type(value).__name__}")


MOST_READ = 200_000
"""Characters that a person may look through; longer JSON has no line breaks, which would be half of it."""


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON in one step."""
    text = json.dumps(content, indent=1)
    write_bytes(path, ((text if len(text) <= MOST_READ else json.dumps(content)) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one, whatever happens."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
