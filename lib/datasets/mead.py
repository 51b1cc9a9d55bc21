"""MEAD: people filmed from several sides at once, the papers' only real test of novel views.

    MEAD/
        M003/video/front/neutral/level_1/001.mp4
                   left_30/ left_60/ right_30/ right_60/ (top/ and down/ are not read)
        W009/ ...

A scene is one person at one moment, in the views L60, L30, F, R30 and R60. Their names are the places of the
cameras; where a camera stood to the head is estimated in its picture, as the heads move. A view in which no face
is found, as happens at 60 degrees, is left out and recorded. The views differ in exposure, which bounds every
colour error from below.

For a generator that wants EG3D's own crops and cameras: `save_frames` writes the frames under names that EG3D's
script for photos in the wild keeps; what it makes of them, crops with a dataset.json, is read with `crops`.

Which people and frames the papers used is published nowhere: SPI takes the first frame of each view's video of
10 people, GOAE five random frames of each of 43.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from torch import Tensor

from lib.datasets.photographed import About, SceneError, ViewMaker, scene_of_crops, scene_of_shots
from lib.datasets.pictures import LABELS, Pictures, open_pictures
from lib.datasets.scenes import Scene
from lib.faces import FaceError
from lib.images import MAX_PIXELS, save_image

VIEWS = {"L60": "left_60", "L30": "left_30", "F": "front", "R30": "right_30", "R60": "right_60"}
"""View of a scene -> MEAD's folder."""

MEAD = About(
    "MEAD",
    """
MEAD/
    M003/video/             what M003/video.tar unpacks to
        front/neutral/level_1/001.mp4
        left_30/  left_60/  right_30/  right_60/
    W009/video/ ...
""",
    "https://wywu.github.io/projects/MEAD/MEAD.html",
    "its own terms of use: research only",
)

_PERSON = re.compile(r"[MW]\d{3}")
_ID = re.compile(r"(?P<person>[MW]\d{3})/(?P<clip>\w+/\w+/\w+)@(?P<moment>0\.\d{3})")

INPUT_PARAMS = ["-f", "mov", "-protocol_whitelist", "file"]
"""ffmpeg takes the file as MP4 whatever is in it: playlists and the like could make it read other files."""


@dataclass(frozen=True)
class Mead:
    """Scenes by ids such as M003/neutral/level_1/001@0.000: person, clip, and the moment in parts of its length.

    frames: 0 takes the first frame of a person's first clip of `emotion` and `level` (SPI); more than 0
    that many random frames of all clips of a person, by `frame_seed` (GOAE). input_view: the view that an
    inversion is given. crops: a folder or zip file of aligned crops with their dataset.json, named by `frame_name`,
    that are taken instead of the videos' frames.
    """

    folder: Path
    maker: ViewMaker
    emotion: str = "neutral"
    level: str = "level_1"
    frames: int = 0
    frame_seed: int = 0
    input_view: str = "F"
    crops: str | os.PathLike | None = None
    kind: str = "mead"

    def __post_init__(self) -> None:
        MEAD.require_folder(self.folder)
        if not 0 <= self.frames <= 1000:
            raise ValueError(
                f"frames is 0 (the first) or a number of random ones up to 1000; got {self.frames}"
            )
        if self.input_view not in VIEWS:
            raise ValueError(f"unknown input_view {self.input_view!r}; known: {', '.join(VIEWS)}")
        if not self._people:
            raise MEAD.missing(f"there is no person's folder (M003) in {self.folder}.")
        if not self.ids:
            reasons = "; ".join(f"{person}: {why}" for person, why in self.left_out.items())
            raise MEAD.missing(f"nobody in {self.folder} has videos from all five views ({reasons}).")

    # ---------------------------------------------------------------- what is there
    @cached_property
    def _people(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.folder.iterdir() if _PERSON.fullmatch(path.name)))

    @cached_property
    def _clips(self) -> Mapping[str, tuple[str, ...]]:
        """Person -> clips (neutral/level_1/001) that all five views have; only of these emotion and level matter."""
        pattern = "*/*/*.mp4" if self.frames else f"{self.emotion}/{self.level}/*.mp4"
        return {person: self._common_clips(person, pattern) for person in self._people}

    def _common_clips(self, person: str, pattern: str) -> tuple[str, ...]:
        views = [self.folder / person / "video" / view for view in VIEWS.values()]
        clips = [
            {path.relative_to(view).with_suffix("").as_posix() for path in view.glob(pattern)}
            for view in views
        ]
        return tuple(sorted(set.intersection(*clips)))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(itertools.chain.from_iterable(map(self._ids_of, self._people)))

    def _ids_of(self, person: str) -> list[str]:
        clips = self._clips[person]
        if not clips:
            return []
        if not self.frames:
            return [f"{person}/{clips[0]}@0.000"]
        name = f"{self.frame_seed}/{person}".encode()
        rng = np.random.default_rng(list(hashlib.sha256(name).digest()))
        moments = rng.choice(1000, size=self.frames, replace=False) / 1000
        return [f"{person}/{clips[rng.integers(len(clips))]}@{moment:.3f}" for moment in moments]

    @property
    def left_out(self) -> dict[str, str]:
        """People who lack a clip that all five views have."""
        what = "any clip" if self.frames else f"a clip of {self.emotion}/{self.level}"
        return {
            person: f"lacks {what} in at least one of the five views"
            for person in self._people
            if not self._clips[person]
        }

    def has(self, scene_id: str) -> bool:
        """Whether there is such a person and clip, at whatever moment."""
        parts = _ID.fullmatch(scene_id)
        return parts is not None and all(path.is_file() for path in self._videos(parts).values())

    def _videos(self, parts: re.Match) -> dict[str, Path]:
        """View -> its video."""
        person = self.folder / parts["person"] / "video"
        return {name: person / view / f"{parts['clip']}.mp4" for name, view in VIEWS.items()}

    # ---------------------------------------------------------------- scenes
    def pictures(self, scene_id: str) -> tuple[int, dict[str, np.ndarray]]:
        """The number of the scene's frame and that frame of each view, uint8 RGB [height, width, 3].

        The videos were taken at once; the shortest one says what a part of their length is.
        """
        parts = _ID.fullmatch(scene_id)
        videos, moment = self._videos(parts), float(parts["moment"])
        frame = int(moment * min(map(count_frames, videos.values()))) if moment else 0
        return frame, {name: read_frame(video, frame) for name, video in videos.items()}

    def scene(self, scene_id: str) -> Scene:
        if self.crops is not None:
            return self._scene_of_crops(scene_id)
        frame, pictures = self.pictures(scene_id)
        shots, left_out = {}, {}
        for name, picture in pictures.items():
            try:
                shots[name] = self.maker.of_photo(picture)
            except FaceError as error:
                left_out[name] = str(error)
        self._require_input(left_out)
        extras = {"kind": self.kind, "id": scene_id, "frame": frame, "views_left_out": left_out}
        return scene_of_shots(shots, self.input_view, extras)

    def _scene_of_crops(self, scene_id: str) -> Scene:
        pictures, labels = self._crops
        names = {view: frame_name(scene_id, view) for view in VIEWS}
        left_out = {
            view: f"there is no {name} in {pictures.where}, or no label of it"
            for view, name in names.items()
            if name not in labels or name not in pictures.names
        }
        self._require_input(left_out)
        views = {
            view: self.maker.of_crop(pictures.picture(name), labels[name])
            for view, name in names.items()
            if view not in left_out
        }
        extras = {"kind": self.kind, "id": scene_id, "views_left_out": left_out}
        return scene_of_crops(views, self.input_view, extras)

    @cached_property
    def _crops(self) -> tuple[Pictures, dict[str, Tensor]]:
        pictures = open_pictures(self.crops)
        labels = pictures.labels()
        if labels is None:
            raise SceneError(f"there is no {LABELS} with camera labels at the top of {pictures.where}")
        return pictures, labels

    def _require_input(self, left_out: Mapping[str, str]) -> None:
        if self.input_view in left_out:
            raise SceneError(f"view {self.input_view}: {left_out[self.input_view]}")


def frame_name(scene_id: str, view: str) -> str:
    """M003-neutral-level_1-001-613-L60.png: of a frame in a flat folder, without further dots."""
    person_and_clip, moment = scene_id.split("@0.")
    return f"{person_and_clip.replace('/', '-')}-{moment}-{view}.png"


def save_frames(data: Mead, scene_ids: Iterable[str], folder: str | os.PathLike) -> list[Path]:
    """Write the frames of all views of these scenes into one folder, by `frame_name`."""
    return [
        save_image(Path(folder) / frame_name(scene_id, view), picture)
        for scene_id in scene_ids
        for view, picture in data.pictures(scene_id)[1].items()
    ]


def mead(folder: str | os.PathLike, maker: ViewMaker, **settings) -> Mead:
    """MEAD's people; settings as of `Mead`."""
    return Mead(Path(folder), maker, **settings)


def from_each_view(scene: Scene) -> list[Scene]:
    """The scene once with each of its views as the input, as SPI and GOAE score MEAD."""
    return [replace(scene, name=f"{scene.name}-from-{name}", input_name=name) for name in scene.views]


# -------------------------------------------------------------------- videos
def count_frames(video: Path) -> int:
    with closing(_frames(video)) as frames:
        return sum(1 for _ in frames)


def read_frame(video: Path, index: int) -> np.ndarray:
    """Frame of a video by its number from 0, uint8 RGB [height, width, 3]."""
    with closing(_frames(video)) as frames:
        frame = next(itertools.islice(frames, index, None), None)
    if frame is None:
        raise SceneError(f"{video} has no frame {index}")
    return frame


def _frames(video: Path) -> Generator[np.ndarray]:
    if not video.is_file():
        raise MEAD.missing(f"there is no video {video}.")
    frames = imageio_ffmpeg.read_frames(str(video.resolve()), input_params=INPUT_PARAMS)
    with closing(frames):
        try:
            width, height = next(frames)["size"]
            if width * height > MAX_PIXELS:
                raise SceneError(f"{video} is too large: {width} x {height} pixels")
            for frame in frames:
                yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
        except (OSError, RuntimeError, KeyError) as error:
            says = str(error).strip().splitlines()[-1]
            raise SceneError(f"{video} cannot be read as an MP4 video ({says}). Copy it again.") from error
