"""From a picture with a face to the aligned face that recognition networks take."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera
from lib.faces import WORLD_PER_CM, DetectedFace, Detector, canonical_mesh
from lib.images import resize, to_uint8

FACE_SIZE = 112
"""Pixels across the aligned faces that the networks take."""

TEMPLATE = (
    np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
    / FACE_SIZE
)
"""Where eyes, nose and corners of the mouth stand in an aligned face, (u, v): the five points of ArcFace's
training pictures (Deng et al., 2019), in the order of the picture from left to right."""

EYE_CORNERS = ((33, 133), (362, 263))
NOSE_TIP = 4
MOUTH_CORNERS = (61, 291)
"""Landmarks of MediaPipe's face mesh from which the five points are made, in the order of the picture."""

SMALLEST_SHOWN = 256
"""Pixels across the smallest pictures that are shown to the face detector."""

LARGEST_REDUCTION = 16
"""Source pixels per aligned pixel that are averaged at most, per side: pictures to some 2,000 px."""


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the eyes, tip of the nose, corners of the mouth [5, ...] of face-mesh landmarks [>=468, ...]."""
    eyes = [landmarks[list(corners)].mean(0) for corners in EYE_CORNERS]
    return np.stack([*eyes, landmarks[NOSE_TIP], *landmarks[list(MOUTH_CORNERS)]])


def camera_points(camera: Camera, points_world: Tensor | None = None) -> Tensor:
    """The five points (u, v) [B, 5, 2] of a head in the world's frame as cameras see them: nothing is detected.

    So the alignment is differentiable, works at any size, and cannot fail on a bad picture. `points_world` [5, 3]:
    where they stand; without it those of MediaPipe's canonical face, whose frame is that of the embedded
    generators. Other generators stand their heads elsewhere: give the points of their mean face.
    """
    if points_world is None:
        points_world = torch.from_numpy(five_points(canonical_mesh()[0]) * WORLD_PER_CM)
    if tuple(points_world.shape) != (5, 3):
        raise ValueError(f"expected five points of the world, [5, 3]; got {list(points_world.shape)}")
    points_world = points_world.to(camera.world_from_cam)
    return camera.project(points_world.expand(len(camera), 5, 3))[0]


def detected_points(images: Tensor, detector: Detector) -> Tensor:
    """The five points (u, v) [B, 5, 2] of the largest face in images [B, 3, R, R]; NaN where none is seen."""
    points = torch.full((len(images), 5, 2), torch.nan)
    for found, face in zip(points, detected_faces(images, detector), strict=True):
        if face is not None:
            found[:] = torch.from_numpy(five_points(face.landmarks[:, :2]) / images.shape[-1])
    return points.to(images.device)


def detected_faces(images: Tensor, detector: Detector) -> list[DetectedFace | None]:
    """The largest face in each of images [B, 3, R, R], its landmarks in the image's pixels; None where none is seen.

    The detector is shown no less than 256 pixels: it does not look closely at smaller pictures.
    """
    resolution = images.shape[-1]
    shown = to_uint8(resize(images, max(resolution, SMALLEST_SHOWN)))
    scale = resolution / shown.shape[1]
    found = [detector(picture) for picture in shown]
    return [replace(faces[0], landmarks=faces[0].landmarks * scale) if faces else None for faces in found]


def similarity_2d(source: Tensor, target: Tensor) -> Tensor:
    """The similarity transforms [B, 2, 3] that take points [B, N, 2] to others with the least squared error.

    Without reflection. In complex numbers, target = a source + b, whose least squares are
    a = <source, target> / <source, source> of the centred points (Umeyama, 1991, eq. 40-42, in the plane).
    """
    source_mean, target_mean = source.mean(1), target.mean(1)
    s, t = source - source_mean[:, None], target - target_mean[:, None]
    power = s.square().sum((1, 2))
    real = (s * t).sum((1, 2)) / power
    imaginary = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(1) / power
    linear = torch.stack([torch.stack([real, -imaginary], -1), torch.stack([imaginary, real], -1)], dim=1)
    shift = target_mean - (linear @ source_mean[..., None])[..., 0]
    return torch.cat([linear, shift[..., None]], dim=2)


def inverse_affine(transforms: Tensor) -> Tensor:
    """The inverses of affine transforms of the plane [B, 2, 3]."""
    linear = torch.linalg.inv(transforms[..., :2])
    return torch.cat([linear, -linear @ transforms[..., 2:]], dim=2)


def align(images: Tensor, points: Tensor, size: int = FACE_SIZE) -> Tensor:
    """Faces [B, 3, size, size] cut out of images [B, 3, R, R] so that their five points (u, v) lie on the template.

    As ArcFace does: a similarity takes the points to the template, least squares counted in the aligned face.
    Differentiable with respect to images and points. Pixels of larger pictures are averaged, not skipped. What lies
    outside a picture repeats its border; an image whose points are NaN gives a face of NaN.
    """
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if not square or tuple(points.shape) != (len(images), 5, 2):
        raise ValueError(
            f"expected square images [B, 3, R, R] and their five points [B, 5, 2]; got {list(images.shape)} and "
            f"{list(points.shape)}"
        )
    points = points.to(images)
    template = torch.from_numpy(TEMPLATE).to(images).expand_as(points)
    known = ~points.isnan().flatten(1).any(1)
    face_from_picture = similarity_2d(points.where(known[:, None, None], template), template)
    pairs = zip(images, inverse_affine(face_from_picture), strict=True)
    faces = torch.cat([_cut(image, transform, size) for image, transform in pairs])
    return faces.where(known[:, None, None, None], torch.nan)


def _cut(image: Tensor, picture_from_face: Tensor, size: int) -> Tensor:
    """The square [1, 3, size, size] of an image [3, H, W] whose (u, v) a transform [2, 3] takes to the image's."""
    linear, shift = picture_from_face[:, :2], picture_from_face[:, 2]
    # From (u, v) in [0, 1] to the (x, y) in [-1, 1] of grid_sample, x = 2 u - 1, on both sides.
    transform = torch.cat([linear, (2 * shift + linear.sum(1) - 1)[:, None]], dim=1)
    scale = torch.linalg.det(linear.detach()).sqrt().item()
    pixels_per_pixel = math.ceil(scale * image.shape[-1] / size)
    factor = min(max(1, pixels_per_pixel), LARGEST_REDUCTION)
    grid = F.affine_grid(transform[None], [1, 3, factor * size, factor * size], align_corners=False)
    fine = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(fine, factor)
