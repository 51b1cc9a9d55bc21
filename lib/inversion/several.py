"""Several pictures at once: codes in one batch, tuned generators in processes that share the cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.generators import EG3D, PoseFreeEG3D
from lib.inversion.assumptions import AssumptionWarning, check_assumptions
from lib.inversion.objective import checked_camera, latent_of
from lib.inversion.optimisation import Checkpoints, require_steps
from lib.inversion.projection import invert_w, invert_wplus, project_batch
from lib.inversion.result import Inversion

BATCHED = {invert_w: "w", invert_wplus: "wplus"}
"""Methods whose pictures take their steps together, and the space that they search."""

BATCHED_AT_MOST = 16
"""Pictures in a batch: beyond, a batch takes more memory and no less time."""


def invert_several(
    invert: Callable[..., Inversion],
    generator: EG3D,
    targets: Tensor,
    cameras: Camera | Tensor | None = None,
    *,
    jobs: int = 1,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    landmarks: Sequence[Tensor | None] | None = None,
    checkpoints: Checkpoints | None = None,
    **settings: Any,
) -> list[Inversion | Exception]:
    """What `invert` makes of each of the pictures [B, 3, R, R]; where it fails, the error stands in its place.

    cameras: of each picture, also as EG3D's 25 numbers [B, 25]; None for a generator that says its own. masks,
    landmarks: one entry for each picture. `settings` are those of the method, the same for all. Codes (`invert_w`,
    `invert_wplus`) are searched in batches; methods that tune the generator run in `jobs` processes, and in this one
    if it is one. A batch that fails is tried again in halves, so that one bad picture, or too little memory for all,
    does not spoil the others. checkpoints: in folders of its folder, one for each batch or picture.
    """
    require_steps(jobs=jobs)
    count = len(targets)
    if cameras is None and isinstance(generator, PoseFreeEG3D):
        cameras = generator.frontal_camera().expand(count)  # nobody looks at it
    cameras = checked_camera(cameras, generator, pictures=count)
    by_picture = {"masks": masks, "landmarks": landmarks}
    for name, given in by_picture.items():
        if given is not None and len(given) != count:
            raise ValueError(f"{name} has an entry for each of the {count} pictures; got {len(given)}")
    known = [
        {name: given[place] for name, given in by_picture.items() if given is not None}
        for place in range(count)
    ]
    if invert in BATCHED:
        for place, about in enumerate(known):
            _warn(place, targets[place : place + 1], cameras[place], about)
        return _in_batches(BATCHED[invert], generator, targets, cameras, checkpoints, settings)
    calls = [
        {"target": targets[place : place + 1], "camera": cameras[place]} | about | settings
        for place, about in enumerate(known)
    ]
    if checkpoints is not None:
        calls = [call | {"checkpoints": _at(checkpoints, f"{place}")} for place, call in enumerate(calls)]
    if jobs == 1:
        return [_tried(invert, generator, call) for call in calls]
    return list(_in_processes(invert, generator, calls, jobs))


def _at(checkpoints: Checkpoints | None, name: str) -> Checkpoints | None:
    """Checkpoints in a folder of the given one's folder."""
    return checkpoints and replace(checkpoints, folder=Path(checkpoints.folder) / name)


# ----------------------------------------------------------------------- codes, in batches
def _in_batches(
    space: str,
    generator: EG3D,
    targets: Tensor,
    cameras: Camera,
    checkpoints: Checkpoints | None,
    settings: Mapping[str, Any],
) -> list[Inversion | Exception]:
    """What `project_batch` finds; pictures of a batch that fails are tried again, half as many at a time."""
    initial = settings.get("initial")
    initial = None if initial is None else latent_of(initial, generator)

    def found(places: range) -> list[Inversion | Exception]:
        try:
            return project_batch(
                generator,
                targets[places.start : places.stop],
                Camera.cat([cameras[place] for place in places]),
                space=space,
                checkpoints=_at(checkpoints, f"{places.start}-{places.stop - 1}"),
                **{**settings, "initial": initial},
            )
        except Exception as error:  # whatever happens to one picture, the others get their turn
            if len(places) == 1:
                return [error]
        half = len(places) // 2
        return found(places[:half]) + found(places[half:])

    starts = range(0, len(targets), BATCHED_AT_MOST)
    batches = [range(start, min(start + BATCHED_AT_MOST, len(targets))) for start in starts]
    return [result for batch in batches for result in found(batch)]


def _warn(place: int, target: Tensor, camera: Camera, known: Mapping[str, Any]) -> None:
    """Warnings of one picture of a batch, as the method by itself gives them; a bad one will be refused."""
    for doubt in check_assumptions(target, camera, **known) if target.isfinite().all() else ():
        warnings.warn(f"picture {place}: {doubt}", AssumptionWarning, stacklevel=3)


# ----------------------------------------------------------------------- methods that tune, in processes
def _tried(
    invert: Callable[..., Inversion], generator: EG3D, arguments: Mapping[str, Any]
) -> Inversion | Exception:
    try:
        return invert(generator, **arguments)
    except Exception as error:  # whatever happens to one picture, the others get their turn
        return error


def _in_processes(
    invert: Callable[..., Inversion], generator: EG3D, calls: Sequence[Mapping[str, Any]], jobs: int
) -> Iterator[Inversion | Exception]:
    """Results in the order of the calls; the cores are shared among the processes."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(calls)) or 1, spawn, torch.set_num_threads, (threads,)) as pool:
        try:
            # Pickled here and not by the pool, which would pass tensors through shared memory that may be small.
            futures = [pool.submit(_tried_pickled, pickle.dumps((invert, generator, call))) for call in calls]
            for place, future in enumerate(futures):
                yield _received(place, future)
        finally:
            pool.shutdown(cancel_futures=True)


def _received(place: int, future: Future[bytes]) -> Inversion | Exception:
    """A result out of its process, and the warnings that were given there."""
    try:
        found, said = pickle.loads(future.result())
    except Exception as error:  # the process was killed, or what it gave cannot be read
        return error
    for message, category in said:
        warnings.warn(f"picture {place}: {message}", category, stacklevel=2)
    return found


def _tried_pickled(call: bytes) -> bytes:
    """A result and the warnings on the way to it, as another process can read them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        found = _tried(*pickle.loads(call))
    messages = [(str(warning.message), warning.category) for warning in said]
    try:
        return pickle.dumps((found, messages))
    except Exception:  # some errors hold what cannot be sent
        return pickle.dumps((RuntimeError(f"{type(found).__name__}: {found}"), messages))
