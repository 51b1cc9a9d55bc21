"""Inversions kept by what they depend on: never computed twice, whole or not there, failures remembered."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import inspect
import json
import logging
import shutil
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from lib import assets, paths
from lib.cameras import Camera
from lib.encoders.storage import network_digest
from lib.evaluation.methods import Method
from lib.generators import EG3D
from lib.inversion import Checkpoints, Inversion
from lib.inversion.result import fingerprint
from lib.metrics import measured
from lib.versions import code_version

log = logging.getLogger(__name__)

PERCEPTUAL_ASSETS = ("lpips", "alexnet", "vgg16")
"""What the losses of methods read besides the generator: LPIPS."""

ENVIRONMENT_FAILURES = (
    assets.AssetError,
    ImportError,
    MemoryError,
    OSError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # since torch 2.8
    torch.OutOfMemoryError,
)
"""Errors of the machine, not of a method or a metric: they end a run, and are remembered of nobody."""

CHECKPOINT_EVERY = 50
"""Steps of a method that a killed run has to take again, at most."""


class InversionFailed(RuntimeError):
    """A method that gave no inversion of a picture, now or in an earlier run; `record` says how."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record["error"])
        self.record = record

    def __reduce__(self) -> tuple:
        return type(self), (self.record,)


def inversion_key(method: Method, generator: EG3D, target: Tensor, camera: Camera, seed: int) -> str:
    """SHA-256 of all that an inversion depends on: code and settings, all weights, picture, camera, seed.

    Names do not count: a method under another name is the same computation.
    """
    start = inversion_key(method.start, generator, target, camera, seed) if method.start else None
    generator, _ = method.inverted_with(generator, None)
    camera = method.told(camera)
    parts = {
        "code": code_version(method.invert, type(generator)),
        "settings": method.settings,
        "start": start,
        "generator": generator_fingerprint(generator),
        "assets": asset_digests(PERCEPTUAL_ASSETS),
        "target": tensor_digest(target),
        "camera": tensor_digest(camera.label()),
        "seed": seed,
    }
    if method.networks:
        parts["networks"] = {name: network_digest(name) for name in method.networks}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def generator_fingerprint(generator: EG3D) -> str:
    """SHA-256 of a generator: settings, weights and the statistics of w."""
    statistics = {"w_mean": generator.w_mean, "w_std": generator.w_std}
    return fingerprint(generator.state_dict() | statistics, generator.config)


def asset_digests(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file of assets by name, from the manifest: what is fetched is verified against it."""
    known = _manifest()
    return {f"{name}/{member.name}": member.sha256 for name in names for member in known[name].files}


@functools.cache
def _manifest() -> dict[str, assets.Asset]:
    return assets.manifest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor: type, shape and values."""
    array = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def cached_inversion(
    method: Method,
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    *,
    seed: int = 0,
    base: str | None = None,
    retry: bool = False,
    folder: Path | None = None,
) -> Inversion:
    """The inversion of a picture [1, 3, R, R] by a method, computed only where the cache does not have it.

    generator, camera: the evaluation's and the true one; a method may have a generator of its own, or be told another
    camera. base: the name of the generator, if it has one; files then hold only weights that differ. retry: compute
    what failed before. folder: of the cache (None: in the project's). In `extras["cost"]` are seconds and
    peak memory, those of the start included. Raises `InversionFailed`, also for failures of earlier runs;
    ENVIRONMENT_FAILURES are raised as they are, and the next run tries again.

    A killed run leaves nothing behind that looks complete; the next one goes on from its last checkpoint, where
    the method takes `checkpoints`. Two processes that want the same inversion at the
    same time compute it once: the second waits for the first.
    """
    folder = paths.CACHE / "inversions" if folder is None else Path(folder)
    key = inversion_key(method, generator, target, camera, seed)
    known = _loaded(folder, key, generator)
    if known is not None:
        return known
    context = {"seed": seed, "base": base, "retry": retry, "folder": folder}
    start = cached_inversion(method.start, generator, target, camera, **context) if method.start else None
    generator, base = method.inverted_with(generator, base)
    camera = method.told(camera)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{key}.lock"):
        known = _loaded(folder, key, generator)
        if known is not None:
            return known
        failure = folder / f"{key}.failure.json"
        if failure.is_file() and not retry:
            raise InversionFailed(json.loads(failure.read_text()))
        try:
            found = _computed(method, generator, target, camera, seed, start, folder / key)
        except ENVIRONMENT_FAILURES:
            raise
        except Exception as error:  # whatever one method does with one picture, others get their turn
            shutil.rmtree(folder / key, ignore_errors=True)
            record = _failure(method, seed, error)
            _write_json(failure, record)
            raise InversionFailed(record) from error
        found.save(_file(folder, key), base)
        shutil.rmtree(folder / key, ignore_errors=True)
        failure.unlink(missing_ok=True)
    return Inversion.load(_file(folder, key), generator.w_mean.device)


def _computed(
    method: Method,
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    seed: int,
    start: Inversion | None,
    unfinished: Path,
) -> Inversion:
    """One call of a method, with its cost noted; it goes on from what a killed one left in the folder `unfinished`.

    Where that cannot be gone on from, it is removed, and the call begins anew.
    """
    initial = {} if start is None else {"initial": start}
    resumed = unfinished.is_dir()
    try:
        resuming, seconds_before = {}, 0.0
        if _takes_checkpoints(method.invert):
            resuming = {"checkpoints": Checkpoints(unfinished, CHECKPOINT_EVERY)}
            seconds_before = _seconds_before(unfinished)
        with measured(generator.w_mean.device) as cost:
            found = method.invert(
                generator, target, camera, seed=seed, progress=False, **resuming, **initial, **method.settings
            )
    except ENVIRONMENT_FAILURES:
        raise
    except Exception as error:
        if not resumed:
            raise
        log.warning("%s cannot be gone on from, and is begun anew: %s", unfinished, error)
        shutil.rmtree(unfinished)
        return _computed(method, generator, target, camera, seed, start, unfinished)
    if not torch.isfinite(found.w_plus).all():
        raise FloatingPointError("the latent code that was found holds NaN or infinity")
    spent = {"seconds": seconds_before + cost.seconds, "peak_memory_mb": cost.peak_bytes / 1e6}
    if start is not None:
        spent["seconds"] += start.extras["cost"]["seconds"]
        spent["peak_memory_mb"] = max(spent["peak_memory_mb"], start.extras["cost"]["peak_memory_mb"])
    about = {"evaluated": method.described(), "cost": spent}
    return dataclasses.replace(found, extras=found.extras | about)


def _takes_checkpoints(invert: Callable[..., Inversion]) -> bool:
    """Whether a method can be called with `checkpoints`, by name or among its further settings."""
    parameters = inspect.signature(invert).parameters.values()
    return any(p.name == "checkpoints" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _seconds_before(unfinished: Path) -> float:
    """Seconds that killed calls took up to the checkpoint from which this one goes on.

    The file `begun` is written at the beginning of each call: in it, the seconds of those before; its time, the
    beginning. The time of the last checkpoint is how far the call came.
    """
    begun, seconds = unfinished / "begun", 0.0
    if begun.is_file():
        saved = max((path.stat().st_mtime for path in unfinished.glob("[!.]*.pt")), default=0.0)
        seconds = float(begun.read_text()) + max(0.0, saved - begun.stat().st_mtime)
    with paths.replacing(begun) as temporary:
        temporary.write_text(repr(seconds))
    return seconds


# ----------------------------------------------------------------------- files
def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _loaded(folder: Path, key: str, generator: EG3D) -> Inversion | None:
    """The inversion in the cache; None where there is none that can be read."""
    path = _file(folder, key)
    try:
        return Inversion.load(path, generator.w_mean.device)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        log.warning("%s is not what was kept there, and is made again: %s", path, error)
        return None


def _failure(method: Method, seed: int, error: Exception) -> dict[str, Any]:
    """What is remembered of a failure."""
    return {
        "error": f"{type(error).__name__}: {error}",
        "method": method.described(),
        "seed": seed,
        "failed_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with paths.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
