"""NoW: photos of people whose heads were scanned; the geometry benchmark of the field.

    now/
        imagepathsvalidation.txt            FaMoS_180424_03335_TA/multiview_neutral/IMG_0100.jpg ...
        NoW_Dataset/final_release_version/
            iphone_pictures/                as the list names them
            detected_face/                  not read: pickles, and faces are found here
        scans/FaMoS_180424_03335_TA/*.obj
        scans_lmks_onlypp/FaMoS_180424_03335_TA/*.pp

iphone_pictures, scans and scans_lmks_onlypp may also lie side by side. Only the validation split has scans; a
mesh for the test split is judged by NoW's own server. A scan's coordinates are millimetres.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import trimesh
from torch import Tensor

from lib.datasets.photographed import INPUT, About, SceneError, ViewMaker, scene_of_shots
from lib.datasets.pictures import PictureFolder
from lib.datasets.scenes import Scene

CHALLENGES = ("multiview_neutral", "multiview_expressions", "multiview_occlusions", "selfie")
LISTS = {"validation": "imagepathsvalidation.txt", "test": "imagepathstest.txt"}
LANDMARKS = 7

NOW = About(
    "NoW",
    """
now/
    imagepathsvalidation.txt
    NoW_Dataset/final_release_version/iphone_pictures/FaMoS_180424_03335_TA/multiview_neutral/IMG_0100.jpg
    scans/FaMoS_180424_03335_TA/*.obj
    scans_lmks_onlypp/FaMoS_180424_03335_TA/*.pp
""",
    "https://now.is.tue.mpg.de, after registration",
    "non-commercial scientific research only",
)

_ID = re.compile(r"(?P<subject>\w[\w-]*)/(?P<challenge>\w+)/\w[\w.-]*")


@dataclass(frozen=True)
class Now:
    """Scenes by ids as in NoW's lists. challenge: one of `CHALLENGES`, or None for all.

    Where `scans` is true, a scene's truth is the subject's scan: scan_vertices [n, 3] and scan_landmarks [7, 3]
    in millimetres, in the scanner's frame, and scan_triangles [m, 3].
    """

    folder: Path
    maker: ViewMaker
    split: Literal["validation", "test"] = "validation"
    challenge: str | None = None
    scans: bool = True
    kind: str = "now"
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        NOW.require_folder(self.folder)
        if self.split not in LISTS:
            raise ValueError(f"unknown split {self.split!r}; known: {', '.join(LISTS)}")
        if self.challenge not in (None, *CHALLENGES):
            raise ValueError(f"unknown challenge {self.challenge!r}; known: {', '.join(CHALLENGES)}")
        if self.split == "test" and self.scans:
            raise ValueError("NoW publishes no scans of its test split: pass scans=False")
        for part in ("iphone_pictures", *(("scans", "scans_lmks_onlypp") if self.scans else ())):
            self._part(part)
        if not self.ids:
            raise NOW.missing(f"no picture of challenge {self.challenge} is in {LISTS[self.split]}.")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(name for name in self._listed if self.challenge in (None, name.split("/")[1]))

    @cached_property
    def _listed(self) -> tuple[str, ...]:
        path = self.folder / LISTS[self.split]
        if not path.is_file():
            raise NOW.missing(f"there is no {path}.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        for number, line in enumerate(lines, 1):
            if line and not _ID.fullmatch(line):
                raise ValueError(
                    f"line {number} of {path} is {line[:80]!r}; expected subject/challenge/picture.jpg"
                )
        return tuple(filter(None, lines))

    @cached_property
    def _pictures(self) -> PictureFolder:
        return PictureFolder(self._part("iphone_pictures"))

    def _part(self, name: str) -> Path:
        """Where this folder of the data set lies."""
        for inside in ("", "NoW_Dataset/final_release_version", "final_release_version", "NoW_Dataset"):
            if (self.folder / inside / name).is_dir():
                return self.folder / inside / name
        raise NOW.missing(f"there is no folder {name} in {self.folder}.")

    def has(self, scene_id: str) -> bool:
        return scene_id in self._listed

    def scene(self, scene_id: str) -> Scene:
        shot = self.maker.of_photo(self._pictures.picture(scene_id))
        subject, challenge, _ = scene_id.split("/")
        extras = {"kind": self.kind, "id": scene_id, "subject": subject, "challenge": challenge}
        return scene_of_shots({INPUT: shot}, INPUT, extras, self._truth(subject) if self.scans else None)

    def _truth(self, subject: str) -> dict[str, Tensor]:
        vertices, triangles = read_scan(self._only_file("scans", subject, ".obj"))
        landmarks = read_picked_points(self._only_file("scans_lmks_onlypp", subject, ".pp"))
        if len(landmarks) != LANDMARKS:
            raise SceneError(f"the scan of {subject} has {len(landmarks)} landmarks; expected {LANDMARKS}")
        return {"scan_vertices": vertices, "scan_triangles": triangles, "scan_landmarks": landmarks}

    def _only_file(self, part: str, subject: str, suffix: str) -> Path:
        files = sorted((self._part(part) / subject).glob(f"*{suffix}"))
        if not files:
            raise NOW.missing(f"there is no {suffix} file in {self._part(part) / subject}.")
        return files[0]


def now(folder: str | os.PathLike, maker: ViewMaker, **settings) -> Now:
    """NoW's photos and scans; settings as of `Now`."""
    return Now(Path(folder), maker, **settings)


# -------------------------------------------------------------------- scans
def read_scan(path: Path) -> tuple[Tensor, Tensor]:
    """Vertices float32 [n, 3] and triangles int64 [m, 3] of a Wavefront OBJ file, as they are in it."""
    try:
        mesh = trimesh.load_mesh(
            path, file_type="obj", process=False, maintain_order=True, skip_materials=True
        )
        vertices, triangles = mesh.vertices, mesh.faces
    except Exception as error:  # parsers raise nearly everything on damaged files
        raise SceneError(f"{path} cannot be read as a scan ({type(error).__name__}: {error})") from error
    if not len(triangles):
        raise SceneError(f"{path} holds no triangles")
    return torch.tensor(vertices, dtype=torch.float32), torch.tensor(triangles, dtype=torch.int64)


def read_picked_points(path: Path) -> Tensor:
    """Points float32 [n, 3] that MeshLab wrote: <point x="1.5" y="-2" z="3" name="0" active="1"/> ..."""
    text = path.read_text(encoding="utf-8", errors="replace")
    points = [
        dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', point)) for point in re.findall(r"<point\b[^>]*>", text)
    ]
    try:
        return torch.tensor([[float(point[axis]) for axis in "xyz"] for point in points]).reshape(-1, 3)
    except (KeyError, ValueError) as error:
        raise SceneError(f"{path}: a point without x, y and z as numbers ({error})") from error
