"""Pictures on disk and pictures as tensors.

A photo is uint8 RGB [height, width, 3]; an image is a float tensor [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from lib.paths import replacing

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What a photo may be; JPEG includes the MPO of phones. A closed list: some of Pillow's start programs."""

MAX_PIXELS = 178_000_000
"""Larger pictures are refused: they fill the memory, and such sizes in a small file are an attack."""

BACKDROP = (128, 128, 128)
"""What shows through transparency: mid grey, 0 as an image value, so no loss is pulled to light or dark."""


class PhotoError(ValueError):
    """A file that cannot be used as a photo; the message says why and what to do."""


# -------------------------------------------------------------------- reading photos


def load_photo(path: str | os.PathLike) -> np.ndarray:
    """The photo as a person sees it, uint8 sRGB [height, width, 3].

    Turned upright by its EXIF tag; converted from its colour profile; 16 bits scaled to 8; grey, palette and
    CMYK made RGB; transparency laid over mid grey; of an animation or a multi-page file the first picture.
    """
    path = Path(path)
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            with Image.open(path, formats=FORMATS) as picture:
                _require_size(path, picture.size)
                picture.load()
                return np.array(_to_srgb(ImageOps.exif_transpose(picture)))
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(f"{path} is not a picture that can be read here: {_looks_like(path)}") from None
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{path} is too large: {error}. Scale it down first.") from None
    except Exception as error:  # decoders raise nearly everything on damaged files
        raise PhotoError(
            f"{path} is damaged or cut short ({type(error).__name__}: {error}). Copy or export it again."
        ) from error


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise PhotoError(f"{path} is a folder; expected the path of one photo")
    if not path.exists():
        raise PhotoError(f"there is no file {path} (looked from {Path.cwd()})")
    if not path.is_file():
        raise PhotoError(f"{path} is not an ordinary file; expected the path of one photo")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise PhotoError(f"{path} cannot be opened: {error.strerror}") from None
    if empty:
        raise PhotoError(f"{path} is empty (0 bytes). Copy or export it again.")


def _require_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise PhotoError(
            f"{path} is too large: {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million "
            "are read. Scale it down first."
        )


def _looks_like(path: Path) -> str:
    """What the first bytes of an unreadable file say about it, and what to do."""
    with path.open("rb") as file:
        head = file.read(64)
    readable = f"Expected one of {', '.join(FORMATS)}."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return f"it is HEIC, the format of iPhones. Export it as JPEG or PNG. {readable}"
    if head[4:8] == b"ftyp":
        return f"it is a video. Save one of its frames as PNG. {readable}"
    if head.startswith(b"%PDF") or head.startswith(b"%!PS"):
        return f"it is a PDF or PostScript document. Export the page as PNG. {readable}"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"it is a web page, perhaps saved in place of the picture it shows. {readable}"
    return f"it begins with {head[:16]!r}. {readable}"


def _to_srgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB, in sRGB colours."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, (*BACKDROP, 255))
        picture = Image.alpha_composite(backdrop, picture).convert("RGB")
    if profile and picture.mode in ("RGB", "CMYK"):
        picture = _apply_profile(picture, profile)
    return picture.convert("RGB")


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits (white 65535) or of floats (white 1) as 8 bits; Pillow's own conversion would clip."""
    values = np.asarray(picture, dtype=np.float64)
    white = 1.0 if picture.mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"values of this {picture.mode} picture must lie in 0..{white:g}, found {low:g}..{high:g}"
        )
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def _apply_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours of the embedded profile turned into sRGB; a broken profile is ignored, as viewers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture


# -------------------------------------------------------------------- between photos and tensors


def to_tensor(photo: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 picture [height, width, 3], got {photo.dtype} {list(photo.shape)}"
        )
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))[None].float() / 127.5 - 1


def to_uint8(image: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3]: x 127.5 + 128 cut off, as in EG3D. Inverts to_tensor."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"expected images [B, 3, H, W] in [-1, 1], got {list(image.shape)}")
    levels = (image.detach().float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]: bilinear, antialiased when shrinking; the field of view stays."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(image.shape[-2:]) == size:
        return image
    return torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def save_image(path: str | os.PathLike, image: Tensor | np.ndarray) -> Path:
    """Write a photo [H, W, 3] or one image [1, 3, H, W]; the suffix names the format. Never half a file."""
    path = Path(path)
    if isinstance(image, Tensor):
        if len(image) != 1:
            raise ValueError(f"one file holds one image, got a batch of {len(image)}")
        image = to_uint8(image)[0]
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary)
    return path
