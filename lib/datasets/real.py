"""Real data as scenes, where the user has the files: CelebA-HQ, FFHQ, MEAD, AFHQ cats, NoW, folders of photos.

Nobody published which pictures the papers were tested on. Here a choice depends on the seed and on the ids
alone, not on what else lies in the folder; more of it begins with less of it; and it can be saved as a list and
shared (`RealScenes.save_selection`, `only`).
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from lib.datasets.celeba_hq import celeba_hq
from lib.datasets.folders import afhq_cats, ffhq, photo_folder
from lib.datasets.mead import mead
from lib.datasets.now import now
from lib.datasets.photographed import RealData, SceneError, ViewMaker
from lib.datasets.scenes import Scene
from lib.faces import Detector, HasResolution
from lib.generators import load_generator
from lib.paths import replacing

DATA_SETS: dict[str, Callable[..., RealData]] = {
    "celeba_hq": celeba_hq,
    "ffhq": ffhq,
    "mead": mead,
    "afhq_cats": afhq_cats,
    "now": now,
    "folder": photo_folder,
}


class SkippedWarning(UserWarning):
    """A picture that makes no scene was passed over."""


class RealScenes(Sequence[Scene]):
    """Chosen scenes of a data set, each made when it is asked for.

    `scenes[i]` raises what is wrong with a picture. Iteration does too, or, with on_error="skip", warns and
    goes on. `data` is the data set. `skipped` has what makes no scene and why: at first what the data set lacks,
    then also what was passed over.
    """

    def __init__(self, data: RealData, ids: Sequence[str], on_error: Literal["raise", "skip"] = "raise"):
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is "raise" or "skip"; got {on_error!r}')
        self.data = data
        self.ids = tuple(ids)
        self.on_error = on_error
        self.skipped: dict[str, str] = dict(data.left_out)

    def __len__(self) -> int:
        """How many were chosen, with those that may turn out to make no scene."""
        return len(self.ids)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return RealScenes(self.data, self.ids[index], self.on_error)
        return self._scene(self.ids[index])

    def __iter__(self) -> Iterator[Scene]:
        for scene_id in self.ids:
            try:
                scene = self._scene(scene_id)
            except SceneError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[scene_id] = str(error)
                warnings.warn(f"skipped: {error}", SkippedWarning, stacklevel=2)
            else:
                yield scene

    def _scene(self, scene_id: str) -> Scene:
        try:
            return self.data.scene(scene_id)
        except (ValueError, OSError) as error:
            raise SceneError(f"{self.data.kind} {scene_id}: {error}") from error

    def save_selection(self, path: str | os.PathLike) -> Path:
        """Write the ids as JSON, for `only` of `real_scenes`: the list to publish with results."""
        path = Path(path)
        with replacing(path) as temporary:
            content = {"data": self.data.kind, "ids": self.ids}
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def real_scenes(
    name: str,
    folder: str | os.PathLike,
    n: int | None = None,
    seed: int = 0,
    generator: HasResolution | int | None = None,
    *,
    only: Sequence[str] | str | os.PathLike | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    masks: bool = True,
    detector: Detector | None = None,
    **settings,
) -> RealScenes:
    """Scenes of a data set that lies in `folder`; an error says what was expected there and where to get it.

    name: one of `DATA_SETS`. n: how many, chosen by `seed`; None takes all in their own order. generator: whose
    resolution the views get, or a resolution; None is portraits64. only: ids, or a file of `save_selection`,
    instead of n and seed. masks: whether the parsing network says what is head. detector: of
    faces, to share it. settings: of the data set, such as split of celeba_hq, frames of mead, challenge of now.
    """
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATA_SETS)}")
    if generator is None:
        generator = load_generator("portraits64")
    resolution = generator if isinstance(generator, int) else generator.resolution
    data = DATA_SETS[name](folder, ViewMaker(resolution, masks, detector), **settings)
    if only is None:
        return RealScenes(data, choose(data.ids, n, seed), on_error)
    ids = only if not isinstance(only, str | os.PathLike) else _read_selection(Path(only), data.kind)
    if len(set(ids)) < len(ids):
        raise ValueError(f"of {len(ids)} ids only {len(set(ids))} are different: name each once")
    unknown = [scene_id for scene_id in ids if not data.has(scene_id)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(ids)} ids are not in {folder}, such as {unknown[0]!r}; "
            f"it has {len(data.ids)}, such as {data.ids[0]!r}"
        )
    return RealScenes(data, ids, on_error)


def choose(ids: Sequence[str], n: int | None, seed: int) -> tuple[str, ...]:
    """The n ids whose digests with the seed are smallest; all ids as they are for None."""
    if n is None:
        return tuple(ids)
    if not 1 <= n <= len(ids):
        raise ValueError(f"cannot choose {n} of {len(ids)} scenes")
    return tuple(sorted(ids, key=lambda scene_id: hashlib.sha256(f"{seed}/{scene_id}".encode()).digest())[:n])


def _read_selection(path: Path, kind: str) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data, ids = content["data"], content["ids"]
        if not isinstance(ids, list) or not all(isinstance(scene_id, str) for scene_id in ids):
            raise TypeError("ids are not a list of texts")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is no selection ({error}); expected {{"data": name, "ids": [...]}}'
        ) from None
    if data != kind:
        raise ValueError(f"{path} selects from {data!r}, not from {kind!r}")
    return ids
