"""Pictures by name, in a folder or in a zip file, with EG3D's camera labels where a dataset.json lies beside them.

Nothing of a zip file is unpacked under a name that it chose, no member is larger than `MAX_BYTES`, and only
names that the folder or zip file lists are opened: labels and lists from elsewhere cannot point outside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from lib.faces import labels_from_dataset_json
from lib.images import PhotoError, load_photo

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2", ".avif")
)
"""What a picture's name ends in; how it is read is decided by its content."""

LABELS = "dataset.json"

MAX_BYTES = 512 * 2**20
"""Of one member of a zip file. FFHQ's dataset.json, the largest that is known, has a seventh of it."""


class Pictures(ABC):
    """Pictures with names such as "00000/img00000000.png"; `names` is sorted."""

    def __init__(self, where: str | os.PathLike):
        self.where = Path(where)

    @cached_property
    @abstractmethod
    def _all_names(self) -> tuple[str, ...]:
        """Of all files, with forward slashes."""

    @abstractmethod
    def _file(self, name: str) -> Iterator[Path]:
        """Context: a path under which this file can be read as long as the context lasts."""

    def _place(self, name: str) -> str:
        """What to call this file in messages."""
        return str(self.where / name)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the pictures; what hidden folders and those of archive programs hold is left out."""
        return tuple(sorted(name for name in self._all_names if _is_picture(name)))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def picture(self, name: str) -> np.ndarray:
        """The picture, uint8 RGB [height, width, 3]; a PhotoError says what is wrong with it."""
        if name not in self._known:
            raise PhotoError(f"there is no picture {name!r} in {self.where}, which has {len(self.names)}")
        with self._file(name) as path:
            try:
                return load_photo(path)
            except PhotoError as error:
                raise PhotoError(str(error).replace(str(path), self._place(name))) from None

    def labels(self) -> dict[str, Tensor] | None:
        """Picture's name -> camera label [25] of the dataset.json that lies at the top; None where there is none."""
        if LABELS not in self._all_names:
            return None
        with self._file(LABELS) as path:
            try:
                return labels_from_dataset_json(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), self._place(LABELS))) from None


class PictureFolder(Pictures):
    """A folder and its subfolders. Links to folders are not followed."""

    @cached_property
    def _all_names(self) -> tuple[str, ...]:
        return tuple(
            (Path(folder) / file).relative_to(self.where).as_posix()
            for folder, _, files in os.walk(self.where)
            for file in files
        )

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        yield self.where / name


class PictureArchive(Pictures):
    """A zip file, as EG3D's dataset tool writes it."""

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.where)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(
                f"{self.where} cannot be read as a zip file ({error}). Copy it again."
            ) from error

    @cached_property
    def _all_names(self) -> tuple[str, ...]:
        return tuple(member.filename for member in self._archive.infolist() if not member.is_dir())

    def _place(self, name: str) -> str:
        return f"{name} in {self.where}"

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        member = self._archive.getinfo(name)
        if member.file_size > MAX_BYTES:
            raise PhotoError(
                f"{self._place(name)} is too large: {member.file_size / 2**20:.0f} MiB; at most "
                f"{MAX_BYTES / 2**20:.0f} MiB are read"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"member{PurePosixPath(name).suffix}"
            try:
                with self._archive.open(member) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise PhotoError(
                    f"{self._place(name)} cannot be unpacked ({type(error).__name__}: {error}). "
                    "Copy the zip file again, or unpack it and give the folder."
                ) from error
            yield path


def open_pictures(where: str | os.PathLike) -> Pictures:
    """The pictures of a folder or of a zip file."""
    where = Path(where)
    if where.is_dir():
        return PictureFolder(where)
    if not where.exists():
        raise FileNotFoundError(f"there is no folder or zip file {where} (looked from {Path.cwd()})")
    if not zipfile.is_zipfile(where):
        raise ValueError(f"{where} is neither a folder nor a zip file of pictures")
    return PictureArchive(where)


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden
