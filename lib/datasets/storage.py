"""Scenes on disk: one safetensors file each, whose views are read when they are looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.scenes import Scene, View
from lib.paths import replacing

FORMAT = "eg3d-study/scene/1"

COMPACT = {"image": torch.float16, "normals": torch.float16}
"""Kept in half precision, to a sixteenth of one of 255 levels. Depth is not: 2.7 would be rounded to 0.002."""


class StoredViews(Mapping[str, View]):
    """The views in a file of `save_scene`. A set of scenes takes no more memory than the views in use."""

    def __init__(self, path: Path, names: list[str]):
        self._path, self._names = path, names

    def __getitem__(self, name: str) -> View:
        if name not in self._names:
            raise KeyError(f"no view {name!r}; there are {', '.join(self._names)}")
        with safe_open(self._path, framework="pt") as file:
            prefix = f"views/{name}/"
            parts = {
                key.removeprefix(prefix): _wide(file.get_tensor(key))
                for key in file.keys()  # noqa: SIM118 (no mapping)
                if key.startswith(prefix)
            }
        return View(camera=Camera.from_label(parts.pop("label")), **parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _wide(value: Tensor) -> Tensor:
    """A tensor that does not lie in the file, in single precision if it was stored in half."""
    return value.float() if value.dtype == torch.float16 else value.clone()


def save_scene(scene: Scene, path: Path, key: str) -> None:
    """Write a scene; `key` says what it was made from."""
    tensors = {f"truth/{name}": value for name, value in scene.truth.items()}
    for name, view in scene.views.items():
        parts = {"label": view.camera.label()} | {
            part: value for part, value in vars(view).items() if part != "camera" and value is not None
        }
        tensors |= {
            f"views/{name}/{part}": value.to(COMPACT.get(part, value.dtype)) for part, value in parts.items()
        }
    content = {
        "key": key,
        "name": scene.name,
        "input_name": scene.input_name,
        "views": list(scene.views),
        "extras": dict(scene.extras),
    }
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, {"format": FORMAT, "scene": json.dumps(content)}))


def load_scene(path: Path, key: str) -> Scene:
    """The scene in a file of `save_scene`; ValueError where it is no such file, cut short, or of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            truth = {
                name.removeprefix("truth/"): file.get_tensor(name).clone()
                for name in file.keys()  # noqa: SIM118
                if name.startswith("truth/")
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    if texts.get("format") != FORMAT:
        raise ValueError(f"{path} holds no scene: expected {FORMAT!r}, found {texts.get('format')!r}")
    content = json.loads(texts["scene"])
    if content["key"] != key:
        raise ValueError(f"{path} holds the scene of key {content['key']}, expected {key}")
    views = StoredViews(path, content["views"])
    return Scene(content["name"], content["input_name"], views, truth, content["extras"])
