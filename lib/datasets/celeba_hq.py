"""CelebA-HQ: photos aligned as FFHQ's are, with the head masks of CelebAMask-HQ where they are there.

    CelebAMask-HQ/
        CelebA-HQ-img/                  0.jpg ... 29999.jpg, of any size; or the pictures lie in the folder itself
            dataset.json                only where they are EG3D's crops, with EG3D's camera labels
        CelebA-HQ-to-CelebA-mapping.txt what tells the test split
        CelebAMask-HQ-mask-anno/        may be missing: the parsing network stands in
            0/00000_skin.png ...        of pictures 0 to 1999, 512 x 512
            ...
            14/29999_hair.png

The papers test on the 2,824 pictures of the test split, or on 1,500 of them that nobody has named.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from lib.datasets.folders import labelled_crops
from lib.datasets.photographed import About, PhotoSet, ViewMaker
from lib.datasets.pictures import PictureFolder
from lib.images import load_photo
from lib.parsing import PARTS

MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
ANNOTATIONS, PER_FOLDER = "CelebAMask-HQ-mask-anno", 2000

CELEBA_HQ = About(
    "CelebA-HQ, as CelebAMask-HQ has it,",
    f"""
CelebAMask-HQ/
    CelebA-HQ-img/
        0.jpg ... 29999.jpg     or these pictures lie in the folder itself
    {MAPPING}
    {ANNOTATIONS}/
        0/00000_skin.png ...    masks; may be missing
""",
    "https://github.com/switchablenorms/CelebAMask-HQ",
    "non-commercial research only",
)

Split = Literal["train", "validation", "test", "all"]

FIRST_OF = {"train": 0, "validation": 162_771, "test": 182_638}
"""CelebA's partition, by the column orig_idx of the mapping as CelebAMask-HQ's own script compares it.

It leaves 24,183, 2,993 and 2,824 pictures. orig_idx counts from 0 and CelebA's files from 1, so that the
picture at each border is on the other side than in CelebA; the papers' 2,824 are these.
"""

_ANNOTATED = {
    **{name: name for name in ("skin", "nose", "mouth", "hair", "hat")},
    **{"left_brow": "l_brow", "right_brow": "r_brow", "left_eye": "l_eye", "right_eye": "r_eye"},
    **{"left_ear": "l_ear", "right_ear": "r_ear", "upper_lip": "u_lip", "lower_lip": "l_lip"},
    **{"glasses": "eye_g", "earring": "ear_r"},
}
"""Class of the parsing network -> how the annotation's file names call it."""


def celeba_hq(folder: str | os.PathLike, maker: ViewMaker, split: Split = "test") -> PhotoSet:
    """Pictures of a split by their number; "all" needs no mapping."""
    folder = Path(folder)
    CELEBA_HQ.require_folder(folder)
    pictures = PictureFolder(folder / "CelebA-HQ-img" if (folder / "CelebA-HQ-img").is_dir() else folder)
    names = _by_number(pictures)
    if not names:
        raise CELEBA_HQ.missing(f"there is no picture named by its number (0.jpg) in {pictures.where}.")
    if split != "all":
        wanted = _numbers_of(folder, split)
        names = {number: name for number, name in names.items() if number in wanted}
        if not names:
            raise CELEBA_HQ.missing(f"none of the {len(wanted)} pictures of split {split!r} is in {folder}.")
    ids = {str(number): name for number, name in names.items()}
    labels = pictures.labels()
    if labels is not None:
        return labelled_crops("celeba_hq", pictures, labels, maker, names=ids)
    annotations = folder / ANNOTATIONS
    annotated = partial(annotated_head, annotations) if annotations.is_dir() else None
    return PhotoSet("celeba_hq", pictures, ids, maker, annotated_head=annotated)


def annotated_head(annotations: Path, number: str, size: tuple[int, int]) -> np.ndarray | None:
    """What CelebAMask-HQ calls head: bool of a picture's size (height, width); None where it has no mask of it."""
    stem = annotations / str(int(number) // PER_FOLDER) / f"{int(number):05d}"
    files = [Path(f"{stem}_{_ANNOTATED[name]}.png") for name in PARTS["head"]]
    masks = [load_photo(file)[..., 0] for file in files if file.exists()]
    if not masks:
        return None
    head = Image.fromarray(np.maximum.reduce(masks))
    return np.asarray(head.resize(size[::-1], Image.Resampling.BILINEAR)) >= 128


def _by_number(pictures: PictureFolder) -> dict[int, str]:
    """Pictures whose name is a number, in its order."""
    numbered = {int(stem): name for name in pictures.names if (stem := PurePosixPath(name).stem).isdecimal()}
    return dict(sorted(numbered.items()))


def _numbers_of(folder: Path, split: Split) -> set[int]:
    if split not in FIRST_OF:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(FIRST_OF)}, all")
    mapping = folder / MAPPING
    if not mapping.is_file():
        raise CELEBA_HQ.missing(
            f'there is no {mapping}, which tells the test split; split="all" takes all pictures.'
        )
    return {number for number, original in _read_mapping(mapping) if _split_of(original) == split}


def _split_of(original: int) -> str:
    return next(name for name, first in reversed(FIRST_OF.items()) if original >= first)


def _read_mapping(path: Path) -> list[tuple[int, int]]:
    """Pairs (number in CelebA-HQ, orig_idx)."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    if header.split() != ["idx", "orig_idx", "orig_file"]:
        raise ValueError(f"{path} begins with {header[:60]!r}; expected the columns idx, orig_idx, orig_file")
    rows = [re.fullmatch(r"\s*(\d+)\s+(\d+)\s+\S+\s*", line) for line in lines if line.strip()]
    if None in rows:
        raise ValueError(f"line {rows.index(None) + 2} of {path} is not a number, a number and a file name")
    return [(int(row[1]), int(row[2])) for row in rows]
