"""`scenes`: the ground-truth scenes of the study by name, made on first use and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from lib import paths
from lib.datasets import heads, painted, samples, turned
from lib.datasets.scenes import INPUT_YAWS, Scene
from lib.datasets.storage import load_scene, save_scene
from lib.generators import EG3D, load_generator
from lib.generators.storage import fingerprint
from lib.versions import code_version, file_version

KINDS: dict[str, ModuleType] = {"samples": samples, "painted": painted, "turned": turned, "heads": heads}
"""Each has `make(seed, generator, *, <settings>) -> Scene`. If it reads data files of the repository, `DATA` lists them;
if its scenes are the same for all weights, `shows_generator(settings)` says so."""

SPLITS = ("development", "test")
DEFAULT_GENERATOR = "portraits64"


def scenes(
    name: str,
    n: int,
    seed: int = 0,
    generator: EG3D | None = None,
    split: Literal["development", "test"] = "test",
    first: int = 0,
    **settings: Any,
) -> list[Scene]:
    """`n` ground-truth scenes: the same arguments give the same scenes, bit for bit, and more begin with these.

    name: a kind of KINDS. generator: None is `portraits64`; kinds that do not show its heads take resolution and
    cameras from it. split: methods are tuned on development scenes, tables are made of test scenes; the two share
    none. first: how many to leave out before these. settings: those of the kind's `make`; unless one says otherwise,
    inputs go round INPUT_YAWS.
    """
    settings = _complete(name, settings)
    generator = load_generator(DEFAULT_GENERATOR) if generator is None else generator
    identity = _generator_identity(KINDS[name], generator, settings)
    made = []
    for index in tqdm(range(first, first + n), desc=f"{name} scenes", delay=2):
        seed_of_scene = scene_seed(name, seed, split, index)
        scene = _cached(name, seed_of_scene, generator, identity, _seen_from(settings, index))
        made.append(replace(scene, extras=dict(scene.extras) | {"split": split}))
    return made


def scene_recipe(
    name: str,
    index: int,
    seed: int,
    generator: EG3D,
    split: Literal["development", "test"] = "test",
    **settings: Any,
) -> str:
    """SHA-256 of what the scene `scenes(name, 1, seed, generator, split, first=index, **settings)` is made from.

    Two machines have the same recipe where their renderers do not give the same bits.
    """
    settings = _complete(name, settings)
    identity = _generator_identity(KINDS[name], generator, settings)
    return _key(name, scene_seed(name, seed, split, index), identity, _seen_from(settings, index))


def _seen_from(settings: Mapping[str, Any], index: int) -> dict[str, Any]:
    """All settings, the input's yaw among them: unless it is set, inputs go round INPUT_YAWS."""
    goes_round = (
        {} if settings["input_yaw"] is not None else {"input_yaw": INPUT_YAWS[index % len(INPUT_YAWS)]}
    )
    return {**settings, **goes_round}


def scene_seed(name: str, seed: int, split: str, index: int) -> int:
    """The seed that a scene is made from, below 2^31, which any library takes: odd for test scenes, even for others."""
    if split not in SPLITS:
        raise ValueError(f"a scene is of the split {' or '.join(SPLITS)}, not {split!r}")
    digest = hashlib.sha256(json.dumps([name, seed, split, index]).encode()).digest()
    return (int.from_bytes(digest[:4]) >> 2) * 2 + SPLITS.index(split)


def _complete(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a kind, the given ones and the others at their defaults."""
    known = settings_of(name)
    if unknown := settings.keys() - known.keys():
        raise ValueError(
            f"{name} scenes have no setting {', '.join(sorted(unknown))}; they have {', '.join(known)}"
        )
    return known | settings


def settings_of(name: str) -> dict[str, Any]:
    """Settings and defaults of a kind's `make`. One that takes more than it names is built upon samples."""
    if name not in KINDS:
        raise ValueError(f"there are no scenes of kind {name!r}; there are {', '.join(KINDS)}")
    parameters = inspect.signature(KINDS[name].make).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return settings_of("samples") | own if any(p.kind is p.VAR_KEYWORD for p in parameters) else own


def _generator_identity(kind: ModuleType, generator: EG3D, settings: Mapping[str, Any]) -> str:
    """What a kind's scenes take from a generator: everything, or no more than size and cameras.

    So people and heads that it did not make stay the same when it is trained further.
    """
    shows_generator = getattr(kind, "shows_generator", lambda settings: True)
    if shows_generator(settings):
        return fingerprint(generator.state_dict(), generator.config)
    stand = generator.config.camera_radius, generator.config.camera_focal, generator.config.camera_pivot
    return json.dumps([generator.resolution, stand])


def _cached(name: str, seed: int, generator: EG3D, identity: str, settings: Mapping[str, Any]) -> Scene:
    """A scene out of the cache, made if it is not there or its file is damaged.

    What was just made is read back too, so that a hit and a miss give the same numbers.
    """
    key = _key(name, seed, identity, settings)
    path = paths.CACHE / "scenes" / name / f"{key}.safetensors"
    if path.exists():
        with contextlib.suppress(ValueError):
            return load_scene(path, key)
    save_scene(KINDS[name].make(seed, generator, **settings), path, key)
    return load_scene(path, key)


def _key(name: str, seed: int, identity: str, settings: Mapping[str, Any]) -> str:
    """Of all that a scene depends on; of the code, what makes and stores it: a new recipe makes new scenes."""
    files = [path for path in getattr(KINDS[name], "DATA", ()) if path.exists()]
    data = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    code = file_version(Path(KINDS[name].__file__)), code_version(save_scene, load_scene)
    parts = [name, seed, identity, dict(settings), data, code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_digest).encode()).hexdigest()


def _digest(picture: np.ndarray) -> str:
    """What stands for a picture that is given as a setting."""
    return f"{picture.shape} {hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()}"
