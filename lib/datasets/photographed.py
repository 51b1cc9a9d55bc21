"""Scenes out of photographs: what all real data sets share.

A photo becomes a view by `ViewMaker`: cropped and posed by its landmarks, or, where it is a crop with a camera
label already, as it is. Nothing of it is truth but the picture: the camera is an estimate, and the depth is the
pseudo-depth of the canonical face mesh under the landmarks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lib import faces, parsing
from lib.cameras import Camera, validate
from lib.datasets.pictures import Pictures
from lib.datasets.portraits import inside_picture
from lib.datasets.scenes import Scene, View
from lib.images import to_tensor

INPUT = "input"
"""Name of the view of a scene that has one photo."""


class MissingData(FileNotFoundError):
    """A data set, or a part of it, is not where it was said to be; the message says what was expected."""


class SceneError(ValueError):
    """A picture of a data set that cannot become a scene; the message names it."""


# -------------------------------------------------------------------- what a data set is
@dataclass(frozen=True)
class About:
    """What to tell who lacks a data set: its layout as a short tree, home page and terms."""

    title: str
    layout: str
    home: str
    terms: str

    def missing(self, what: str) -> MissingData:
        """The error for a part that is not there; `what` says which, and where it was looked for."""
        tree = "\n".join(f"    {line}" for line in self.layout.strip().splitlines())
        return MissingData(
            f"{what}\n{self.title} is expected as\n{tree}\nIt comes from {self.home} ({self.terms})."
        )

    def require_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise self.missing(f"there is no folder {folder} (looked from {Path.cwd()}).")


class RealData(Protocol):
    """A data set in a folder: scenes by id, made when they are asked for."""

    kind: str
    ids: tuple[str, ...]
    left_out: Mapping[str, str]
    """What lies there but makes no scene -> why."""

    def has(self, scene_id: str) -> bool: ...

    def scene(self, scene_id: str) -> Scene: ...


# -------------------------------------------------------------------- views
@dataclass(frozen=True)
class Shot:
    """A view, the landmarks [478, 3] in it as those of `lib.faces.Portrait`, and what there is to doubt about them."""

    view: View
    landmarks: Tensor
    doubts: list[str]


@dataclass(frozen=True)
class ViewMaker:
    """Makes views of `resolution` pixels. Without `masks` the parsing network is not asked what is head.

    detector: one to use instead of its own, which is made when it is needed.
    """

    resolution: int
    masks: bool = True
    detector: faces.Detector | None = None

    @cached_property
    def _detector(self) -> faces.Detector:
        return self.detector or faces.FaceDetector()

    def of_photo(self, photo: np.ndarray, head: np.ndarray | None = None) -> Shot:
        """View of any photo with a face, uint8 [height, width, 3].

        head: bool [height, width] of that photo where it is annotated; None asks the parsing network. Beyond
        the photo's border nothing is known, though the image shows a reflection there.
        """
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", faces.FaceWarning)
            portrait = faces.portrait_from_photo(
                photo, self.resolution, parse=self.masks and head is None, detector=self._detector
            )
        height, width = photo.shape[:2]
        square = portrait.crop.matrix / np.array([[width], [height]])
        known = torch.from_numpy(inside_picture(square[None], self.resolution))[None]
        mask = portrait.masks.get("head") if head is None else self._cut(head, portrait.crop)
        view = View(
            image=portrait.image,
            camera=portrait.camera,
            depth=portrait.face_depth.where(known, torch.nan),
            mask=None if mask is None else mask & known,
            known=known,
        )
        return Shot(view, portrait.landmarks, [str(doubt.message) for doubt in doubts])

    def of_crop(self, photo: np.ndarray, label: Tensor, human: bool = True) -> View:
        """View of a square crop that is aligned already, by its camera label [25]: nothing is posed again."""
        height, width = photo.shape[:2]
        if height != width:
            raise ValueError(
                f"a picture with a camera label is a square crop; this one is {width} x {height}"
            )
        camera = Camera.from_label(validate(label.reshape(1, 25)))
        crop = faces.Crop.about(width / 2, height / 2, width)
        mask = None
        if self.masks and human:
            parts = parsing.class_probabilities(to_tensor(crop.cut(photo, parsing.INPUT_SIZE)))
            mask = parsing.part_masks(parts, self.resolution)["head"]
        return View(to_tensor(crop.cut(photo, self.resolution)), camera, mask=mask)

    def _cut(self, mask: np.ndarray, crop: faces.Crop) -> Tensor:
        """bool [1, 1, R, R]: where at least half of the pixel is in the photo's mask [height, width]."""
        picture = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        return torch.from_numpy(crop.cut(picture, self.resolution)[..., 0] >= 128)[None, None]


# -------------------------------------------------------------------- scenes
def scene_of_shots(
    shots: Mapping[str, Shot], input_name: str, extras: Mapping, truth: Mapping[str, Tensor] | None = None
) -> Scene:
    """A scene of photos that were posed by their landmarks, which `truth` gets: [views, 478, 3]."""
    landmarks = torch.stack([shot.landmarks for shot in shots.values()])
    return Scene(
        name=f"{extras['kind']}/{extras['id']}",
        input_name=input_name,
        views={name: shot.view for name, shot in shots.items()},
        truth={"landmarks": landmarks, **(truth or {})},
        extras={
            **extras,
            "camera": "landmarks",
            "doubts": {name: shot.doubts for name, shot in shots.items() if shot.doubts},
        },
    )


def scene_of_crops(views: Mapping[str, View], input_name: str, extras: Mapping) -> Scene:
    """A scene of crops with camera labels."""
    name = f"{extras['kind']}/{extras['id']}"
    return Scene(name, input_name, views, extras={**extras, "camera": "label"})


@dataclass(frozen=True)
class PhotoSet:
    """Pictures of which each is a scene with one view.

    names: scene's id -> picture's name. labels: by the picture's name; None poses each photo by its landmarks.
    human: whether the parsing network knows what is shown. annotated_head: bool [height, width] of a
    picture's size by the scene's id, or None.
    """

    kind: str
    pictures: Pictures
    names: Mapping[str, str]
    maker: ViewMaker
    labels: Mapping[str, Tensor] | None = None
    human: bool = True
    annotated_head: Callable[[str, tuple[int, int]], np.ndarray | None] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.names)

    def has(self, scene_id: str) -> bool:
        return scene_id in self.names

    def scene(self, scene_id: str) -> Scene:
        picture = self.names[scene_id]
        photo = self.pictures.picture(picture)
        extras = {"kind": self.kind, "id": scene_id, "picture": picture}
        if self.labels is not None:
            view = self.maker.of_crop(photo, self.labels[picture], self.human)
            return scene_of_crops({INPUT: view}, INPUT, extras)
        head = self.annotated_head(scene_id, photo.shape[:2]) if self.annotated_head else None
        extras |= {"annotated_head": head is not None}
        return scene_of_shots({INPUT: self.maker.of_photo(photo, head)}, INPUT, extras)
