"""Real data sets of a few pictures in their official layouts."""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image
from skimage import data
from torch import Tensor

from lib.cameras import orbit
from lib.datasets.celeba_hq import ANNOTATIONS, MAPPING, PER_FOLDER
from lib.datasets.mead import VIEWS


def portrait_photo() -> np.ndarray:
    """A photo of one face, uint8 [288, 288, 3]."""
    return np.ascontiguousarray(data.astronaut()[:288, 80:368])


def faceless_photo(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def save_picture(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


# -------------------------------------------------------------------- EG3D's crops
def crop_labels(n: int) -> list[Tensor]:
    """Labels [25] of different cameras."""
    return list(orbit(0.1 + 0.05 * np.arange(n), 0.02 * np.arange(n)).label())


def write_dataset_json(path: Path, labels: Mapping[str, Iterable[float]]) -> None:
    rows = [[name, [float(number) for number in label]] for name, label in labels.items()]
    path.write_text(json.dumps({"labels": rows}))


def make_crops(folder: Path, pictures: Mapping[str, np.ndarray], labels: Mapping[str, Tensor]) -> Path:
    for name, picture in pictures.items():
        save_picture(folder / name, picture)
    write_dataset_json(folder / "dataset.json", labels)
    return folder


def zipped(folder: Path) -> Path:
    """All files of a folder as a zip file beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


# -------------------------------------------------------------------- CelebA-HQ
def make_celeba_hq(folder: Path, originals: Mapping[int, int], picture: np.ndarray) -> Path:
    """The picture under each number; originals: number -> orig_idx."""
    lines = [f"{'idx':<12}{'orig_idx':<12}orig_file"]
    for number, original in originals.items():
        save_picture(folder / "CelebA-HQ-img" / f"{number}.jpg", picture)
        lines.append(f"{number:<12}{original:<12}{original + 1:06d}.jpg")
    (folder / MAPPING).write_text("\n".join(lines) + "\n")
    return folder


def annotate(folder: Path, number: int, masks: Mapping[str, np.ndarray]) -> None:
    """Masks bool [512, 512] of a picture, by CelebAMask-HQ's names."""
    for name, mask in masks.items():
        picture = np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)
        place = folder / ANNOTATIONS / str(number // PER_FOLDER)
        save_picture(place / f"{number:05d}_{name}.png", picture)


# -------------------------------------------------------------------- MEAD
def write_video(path: Path, frames: Sequence[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    quick = ["-preset", "ultrafast", "-threads", "1"]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=30, macro_block_size=2, output_params=quick
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


def make_mead(
    folder: Path,
    person: str,
    views: Mapping[str, Sequence[np.ndarray]],
    clips: Sequence[str] = ("neutral/level_1/001",),
) -> Path:
    """Each view's frames as each of the clips; views: L60 ... R60."""
    for view, frames in views.items():
        for clip in clips:
            write_video(folder / person / "video" / VIEWS[view] / f"{clip}.mp4", frames)
    return folder


# -------------------------------------------------------------------- NoW
def make_now(
    folder: Path,
    names: Sequence[str],
    picture: np.ndarray,
    pictures_in: str = "NoW_Dataset/final_release_version",
) -> Path:
    """The picture under each name (subject/challenge/picture.jpg), and each subject's scan: `tetrahedron`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "imagepathsvalidation.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        save_picture(folder / pictures_in / "iphone_pictures" / name, picture)
        subject = name.split("/")[0]
        write_scan(folder / "scans" / subject / "natural_head_rotation.000001.obj")
        write_points(folder / "scans_lmks_onlypp" / subject / "natural_head_rotation.000001_picked_points.pp")
    return folder


TETRAHEDRON = np.array([[0.0, 0, 0], [100, 0, 0], [0, 120, 0], [0, 0, 140]])
SIDES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def write_scan(path: Path) -> None:
    """A scan of four vertices and of one more that no triangle uses, as scanners leave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices = [f"v {x:g} {y:g} {z:g}" for x, y, z in [*TETRAHEDRON, (7, 8, 9)]]
    triangles = [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in SIDES]
    path.write_text("\n".join(["mtllib ../../../missing.mtl", *vertices, *triangles, ""]))


def picked_points() -> np.ndarray:
    return np.arange(21.0).reshape(7, 3) - 3.5


def write_points(path: Path) -> None:
    """MeshLab's file, whose attributes stand in any order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points = [
        f' <point x="{x}" name="{i}" active="1" z="{z}" y="{y}"/>'
        for i, (x, y, z) in enumerate(picked_points())
    ]
    header = ["<!DOCTYPE PickedPoints>", "<PickedPoints>", " <DocumentData>", '  <User name="x"/>']
    path.write_text("\n".join([*header, " </DocumentData>", *points, "</PickedPoints>", ""]))
