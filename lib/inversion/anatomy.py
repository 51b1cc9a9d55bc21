"""Where a face is in a photo that comes without masks and landmarks: found in it, or taken from its camera."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lib import parsing
from lib.cameras import Camera, pixel_centres
from lib.contextual import canonical_landmarks
from lib.faces import FaceDetector
from lib.identity import detected_faces

LEAST_FACE = 0.02
"""Share of a picture below which what the parsing network calls a face is none."""


def landmarks_uv(target: Tensor, camera: Camera, landmarks: Tensor | None = None) -> Tensor:
    """MediaPipe's landmarks (u, v) [1, N, 2] of a photo [1, 3, R, R]: the given ones [N, 2 or 3], or detected.

    Where no face is seen, those of the canonical face from the photo's camera.
    """
    if landmarks is not None:
        given = torch.as_tensor(landmarks, dtype=torch.float32)
        if given.ndim != 2 or given.shape[0] < 468 or given.shape[1] not in (2, 3):
            raise ValueError(
                f"expected landmarks [468 or 478, 2 or 3] as lib.faces.Portrait has them; got {tuple(given.shape)}"
            )
        return given[None, :, :2].to(target.device)
    found = detected_landmarks(target)
    return canonical_landmarks(camera) if found is None else found[None]


def detected_landmarks(target: Tensor) -> Tensor | None:
    """The landmarks (u, v) [478, 2] of the face in a photo [1, 3, R, R]; None where none is seen."""
    (face,) = detected_faces(target, FaceDetector())
    return None if face is None else torch.from_numpy(face.landmarks[:, :2] / target.shape[-1]).to(target)


def face_mask(
    target: Tensor,
    camera: Camera,
    masks: Mapping[str, Tensor] | None = None,
    landmarks: Tensor | None = None,
) -> Tensor:
    """Where [1, 1, R, R] a photo shows the face, float: the given mask, or what the parsing network sees.

    Where that sees none, as in many a drawing, the box about the landmarks.
    """
    side = target.shape[-1]
    if masks is not None and "face" in masks:
        mask = masks["face"].to(target)
        if tuple(mask.shape) != (1, 1, side, side):
            raise ValueError(f"expected masks['face'] {(1, 1, side, side)}; got {tuple(mask.shape)}")
        return mask
    mask = parsing.part_masks(parsing.class_probabilities(target), side)["face"].to(target)
    if mask.mean() >= LEAST_FACE:
        return mask
    points = landmarks_uv(target, camera, landmarks)
    centres = pixel_centres(side, like=points)
    inside = ((centres > points.amin(dim=1)) & (centres < points.amax(dim=1))).all(dim=-1)
    return inside.reshape(1, 1, side, side).to(target)
