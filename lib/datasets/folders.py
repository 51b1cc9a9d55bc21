"""Folders and zip files of photos, and of EG3D's labelled crops: FFHQ and AFHQ cats.

    photos/                         any photos with a face: cropped and posed by their landmarks
        anybody.jpg
    FFHQ_512.zip or a folder        square crops with their cameras: taken as they are
        dataset.json                {"labels": [["00000/img00000000.png", [25 numbers]], ...]}
        00000/img00000000.png

EG3D's tools store each picture beside its mirrored copy; the copies make no scenes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.photographed import About, PhotoSet, ViewMaker
from lib.datasets.pictures import LABELS, Pictures, open_pictures

PHOTOS = About(
    "a folder or zip file of photos",
    """
photos/
    anybody.jpg         JPEG, PNG, WebP, TIFF ...; subfolders are read too
    dataset.json        only where the pictures are aligned crops: {"labels": [["anybody.jpg", [25 numbers]], ...]}
""",
    "your own camera",
    "ask the people who are shown",
)
_CROPS = """
{archive} or the unpacked folder
    dataset.json        {{"labels": [["00000/img00000000.png", [25 numbers]], ...]}}
    00000/
        img00000000.png 512 x 512
        ...
"""
FFHQ = About(
    "FFHQ in EG3D's crops, with EG3D's camera labels",
    _CROPS.format(archive="FFHQ_512.zip"),
    "https://github.com/NVlabs/ffhq-dataset; dataset_preprocessing/ffhq of https://github.com/NVlabs/eg3d makes "
    "the crops and fetches the labels",
    "CC BY-NC-SA 4.0; single photos have their own licences",
)
AFHQ_CATS = About(
    "AFHQv2's cats with EG3D's camera labels",
    _CROPS.format(archive="afhq.zip"),
    "https://github.com/clovaai/stargan-v2; dataset_preprocessing/afhq of https://github.com/NVlabs/eg3d fetches "
    "the labels",
    "CC BY-NC 4.0",
)


def photo_folder(folder: str | os.PathLike, maker: ViewMaker) -> PhotoSet:
    """Photos of people; where a dataset.json lies beside them, aligned crops with these labels."""
    pictures = _pictures(folder, PHOTOS)
    labels = pictures.labels()
    if labels is not None:
        return labelled_crops("folder", pictures, labels, maker)
    return PhotoSet("folder", pictures, {name: name for name in pictures.names}, maker)


def ffhq(folder: str | os.PathLike, maker: ViewMaker) -> PhotoSet:
    """FFHQ as EG3D was trained on it."""
    return _eg3d_crops("ffhq", folder, maker, FFHQ)


def afhq_cats(folder: str | os.PathLike, maker: ViewMaker) -> PhotoSet:
    """AFHQ's cats as EG3D was trained on them; there are no masks of cats."""
    return _eg3d_crops("afhq_cats", folder, maker, AFHQ_CATS, human=False)


def labelled_crops(
    kind: str,
    pictures: Pictures,
    labels: Mapping[str, Tensor],
    maker: ViewMaker,
    human: bool = True,
    names: Mapping[str, str] | None = None,
) -> PhotoSet:
    """Aligned crops with their labels, without mirrored copies. names: scene's id -> picture's name."""
    there, names = set(pictures.names), names or {name: name for name in pictures.names}
    originals = _without_mirrored(labels)
    kept = {scene_id: name for scene_id, name in names.items() if name in originals}
    if not kept:
        raise ValueError(
            f"none of the {len(labels)} labels of {pictures.where / LABELS} is of one of the {len(there)} pictures "
            f"there; a label's name is a path from that folder, such as {next(iter(labels))!r}"
        )
    left_out = dict.fromkeys(originals - there, f"there is no such picture, but a label in {LABELS}")
    left_out |= {name: f"no label in {LABELS}" for name in names.values() if name not in labels}
    return PhotoSet(kind, pictures, kept, maker, labels, human, left_out=left_out)


def _eg3d_crops(
    kind: str, folder: str | os.PathLike, maker: ViewMaker, about: About, human: bool = True
) -> PhotoSet:
    pictures = _pictures(folder, about)
    labels = pictures.labels()
    if labels is None:
        raise about.missing(f"there is no {LABELS} with camera labels at the top of {pictures.where}.")
    return labelled_crops(kind, pictures, labels, maker, human)


def _pictures(folder: str | os.PathLike, about: About) -> Pictures:
    if not Path(folder).exists():
        raise about.missing(f"there is no folder or zip file {folder} (looked from {Path.cwd()}).")
    pictures = open_pictures(folder)
    if not pictures.names:
        raise about.missing(f"there is no picture in {pictures.where}.")
    return pictures


def _without_mirrored(labels: Mapping[str, Tensor]) -> set[str]:
    """Names of the labels that are not of mirrored copies.

    EG3D's mirroring names a copy `<name>_mirror`; the dataset tool then numbers all files in order of name, so
    that a copy follows its original, with the mirrored label to the last digit.
    """
    names = sorted(labels)
    cameras = torch.stack([labels[name] for name in names])
    mirrored = Camera.from_label(cameras).mirror().label()
    says_something = (mirrored != cameras).any(dim=1)  # a label from straight ahead is its own mirrored one
    follows = (cameras[1:] == mirrored[:-1]).all(dim=1) & says_something[1:]
    originals, copy = set(), False
    for name, follows_mirrored in zip(names, [False, *follows.tolist()], strict=True):
        copy = follows_mirrored and not copy  # what follows a copy is no copy of the copy
        if not copy and not PurePosixPath(name).stem.endswith("_mirror"):
            originals.add(name)
    return originals
