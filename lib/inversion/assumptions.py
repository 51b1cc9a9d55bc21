"""What inversion takes for granted about a photo, and what to say where a photo breaks it.

All methods trust the camera, and expect a face in colours and poses that the generator learnt; SPI (Yin et al., 2023)
also takes the mirrored photo for a second view. None of this stops a method: it runs, and its result is worse.

The limits lie where plain portraits end. Of 830 portraits of the embedded generator's teacher they report one in ten: 6
per cent are lit from one side, 4 per cent turned further than the generator learnt. Of 60 of its own samples, and of
glasses and hats painted on portraits, they report none more: generators know both. Hair is not compared, and without the
masks of the parsing network a hand before the face goes unseen: it has the colours of one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import parsing
from lib.cameras import Camera
from lib.contextual import canonical_landmarks
from lib.faces import WORLD_PER_CM, canonical_mesh

KNOWN_YAW, KNOWN_PITCH = 0.7, 0.35
"""Radians to either side within which portraits64 saw 96 and 98 per cent of its portraits."""

LEAST_CONTRAST = 0.1
"""Of colours in [0, 1]. Plain portraits have 0.17 or more."""

LEAST_COLOUR = 0.02
"""Of colours in [0, 1]. Plain portraits have 0.029 or more, grey ones 0."""

MOST_FLAT = 0.6
"""Share of the face. Plain portraits have 0.16 or less, grey ones half as bright 0.55, cartoons of few colours 0.69."""

MOST_OFFSET = 0.045
"""Of the picture's side. Cameras that were found by the landmarks leave 0.03 or less, a wrong yaw by 0.4 rad 0.05."""

LEAST_FACE = 0.7
"""Share of the face that the parsing network sees as such: 0.84 or more on 95 per cent of plain portraits."""

LEAST_PART = 0.4
"""Share of nose or mouth: on plain portraits 0.77 or more, behind a hand most often nothing."""

MOST_MIRROR_DIFFERENCE = 0.25
"""Of colours in [0, 1]: a median of 0.10 on plain portraits, and 0.20 at most on samples of portraits64."""

SEEN_TWICE = 0.1
"""Share of the face of which both sides must be seen to be compared."""

LEAST_FACING = 0.35
"""Cosine between surface and direction to the camera from which colours are read: more slanted ones are blurred."""

DARK = 0.2
"""Colours in [0, 1] below which photos are flat too."""

PHOTO_SIDE = 64
"""Pixels across a picture that are searched for flat colours: closer neighbours are alike in photos too."""


class AssumptionWarning(UserWarning):
    """A photo for which the method was not made: it runs, but expect less of its result."""


# -------------------------------------------------------------------- all of them
def check_assumptions(
    target: Tensor,
    camera: Camera,
    *,
    symmetric: bool = False,
    face_found: bool | None = None,
    landmarks: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    known_yaw: float = KNOWN_YAW,
    known_pitch: float = KNOWN_PITCH,
    vertices_world: Tensor | None = None,
) -> list[str]:
    """What a photo [1, 3, R, R] in [-1, 1] under its camera breaks of what a method assumes, in sentences.

    symmetric: whether the method mirrors the photo. face_found: what a detector said; None where none was asked.
    landmarks: [478, 2 or 3]; masks: of the parsing network; both as of `lib.faces.Portrait`, and only what is given is
    checked. known_yaw, known_pitch: radians to either side that the generator learnt. vertices_world: [468, 3], the
    mean face of its heads; None is where that of the embedded generators stands.
    """
    target, camera = _checked(target, camera)
    masks = _checked_masks(masks or {})
    expected_uv = canonical_landmarks(camera, vertices_world)[0]
    uv = expected_uv if landmarks is None else _landmarks_uv(landmarks, len(expected_uv))
    misplaced = camera_doubt(uv, expected_uv)
    doubts = [
        pose_doubt(camera, known_yaw, known_pitch),
        colour_doubt(target),
        drawing_doubt(target, uv),
        detection_doubt(face_found),
        misplaced,
        cover_doubt(camera, uv, masks),
        symmetry_doubt(target, camera, uv) if symmetric and not misplaced else None,
    ]
    return [doubt for doubt in doubts if doubt]


def warn_of_assumptions(target: Tensor, camera: Camera, *, stacklevel: int = 3, **settings: object) -> None:
    """An AssumptionWarning for each sentence of `check_assumptions`, whose `settings` these are.

    stacklevel: as of `warnings.warn`; 3 is where the function was called that calls this one.
    """
    for doubt in check_assumptions(target, camera, **settings):
        warnings.warn(doubt, AssumptionWarning, stacklevel=stacklevel)


def _checked(target: Tensor, camera: Camera) -> tuple[Tensor, Camera]:
    """One picture and its camera on the CPU."""
    if target.ndim != 4 or target.shape[:2] != (1, 3) or not target.is_floating_point():
        raise ValueError(
            f"expected one photo [1, 3, R, R] of floats in [-1, 1]; got {list(target.shape)} of {target.dtype}: "
            "check those of a batch one by one"
        )
    if len(camera) != 1:
        raise ValueError(f"a photo has one camera; got {len(camera)}")
    return target.detach().float().cpu(), camera.detach().to("cpu", torch.float32)


def _checked_masks(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the masks that are looked at, as floats [1, 1, R, R] on the CPU."""
    known = {part: masks[part] for part in ("face", "nose", "mouth") if part in masks}
    for part, mask in known.items():
        if mask.ndim != 4 or mask.shape[:2] != (1, 1):
            raise ValueError(f"expected masks[{part!r}] [1, 1, R, R]; got {list(mask.shape)}")
    return {part: mask.detach().float().cpu() for part, mask in known.items()}


def _landmarks_uv(landmarks: Tensor, count: int) -> Tensor:
    """(u, v) [count, 2] of the first of some landmarks [N, 2 or 3]."""
    if landmarks.ndim != 2 or len(landmarks) < count or landmarks.shape[1] not in (2, 3):
        raise ValueError(
            f"expected landmarks [{count} or more, 2 or 3] as of lib.faces.Portrait; got {list(landmarks.shape)}"
        )
    if not landmarks.isfinite().all():
        raise ValueError("the landmarks hold NaN or infinity; where no face is found, give face_found=False")
    return landmarks[:count, :2].detach().float().cpu()


# -------------------------------------------------------------------- the camera
def pose_doubt(camera: Camera, known_yaw: float = KNOWN_YAW, known_pitch: float = KNOWN_PITCH) -> str | None:
    """The generator learnt heads from this side."""
    yaw, pitch = (round(angle.item(), 2) + 0.0 for angle in (camera.yaw, camera.pitch))  # no -0.00
    if abs(yaw) <= known_yaw and abs(pitch) <= known_pitch:
        return None
    return (
        f"expected a head within {known_yaw:.2f} rad of yaw and {known_pitch:.2f} of pitch, which the generator learnt; "
        f"found yaw {yaw:+.2f}, pitch {pitch:+.2f}. What this photo hides is a guess: take one more from the front"
    )


def camera_doubt(landmarks_uv: Tensor, expected_uv: Tensor) -> str | None:
    """The face lies in the photo where its camera sees the mean face: landmarks of both [N, 2]."""
    offset = (landmarks_uv - expected_uv).norm(dim=1).mean().item()
    if offset <= MOST_OFFSET:
        return None
    return (
        f"expected the face where the camera sees a head, within {MOST_OFFSET:.1%} of the picture's side; found it "
        f"{offset:.1%} away. Is the camera that of this very crop? lib.faces.portrait_from_photo finds both together"
    )


# -------------------------------------------------------------------- the picture
def colour_doubt(target: Tensor) -> str | None:
    """The photo has colours."""
    along, beside = colour_spread(target)
    if along < LEAST_CONTRAST:
        return (
            f"expected a photo; found nearly a single colour (spread {along:.3f} of 1, portraits have more than "
            f"{LEAST_CONTRAST}). Is it the right file, and scaled to [-1, 1]?"
        )
    if beside < LEAST_COLOUR:
        return (
            f"expected colours; found a grey or tinted picture (spread beside light and dark {beside:.3f} of 1, "
            f"portraits have more than {LEAST_COLOUR}). The generator knows people in colour only: colourize it, or "
            "compare results in grey"
        )
    return None


def colour_spread(image: Tensor) -> tuple[float, float]:
    """Spread of the colours in [0, 1] of a picture [1, 3, R, R] along its main axis, and beside that.

    Root mean squares of distances. The main axis is that from dark to light; grey pictures have nothing beside it,
    sepia ones little.
    """
    colours = (image[0].flatten(1).double() + 1) / 2
    variances = torch.linalg.eigvalsh(torch.cov(colours, correction=0)).clamp_min(0)
    return variances[2].sqrt().item(), variances[:2].sum().sqrt().item()


def drawing_doubt(target: Tensor, landmarks_uv: Tensor) -> str | None:
    """The picture is a photo: its colours change from pixel to pixel."""
    share = flat_share(target, landmarks_uv)
    one_colour = colour_spread(target)[0] < LEAST_CONTRAST  # which is another doubt
    if share <= MOST_FLAT or one_colour:
        return None
    return (
        f"expected a photo; found a drawing, or something painted over the face: {share:.0%} of it are of flat colours "
        f"(photos have less than {MOST_FLAT:.0%}). The generator knows photos only: the result will look like one"
    )


def flat_share(image: Tensor, landmarks_uv: Tensor, step: float = 1.5 / 255) -> float:
    """Share of neighbouring pixels in the box about the face that differ by less than a step of colours in [0, 1].

    image: [1, 3, R, R]; landmarks_uv: [N, 2]. Of large pictures only some pixels are looked at, which smooths nothing,
    and none in the dark. 0 where nothing of the face is left.
    """
    stride = max(1, round(image.shape[-1] / PHOTO_SIDE))
    image = image[..., stride // 2 :: stride, stride // 2 :: stride]
    size = image.shape[-1]
    left, top = (landmarks_uv.amin(dim=0) * size).floor().int().clamp(0, size).tolist()
    right, bottom = (landmarks_uv.amax(dim=0) * size).ceil().int().clamp(0, size).tolist()
    face = (image[0, :, top:bottom, left:right] + 1) / 2
    lit = (face.amax(dim=0, keepdim=True) > DARK).float()
    flat = total = 0.0
    for axis in (1, 2):
        both_lit = lit.diff(dim=axis).eq(0) & lit.narrow(axis, 0, max(lit.shape[axis] - 1, 0)).bool()
        flat += (both_lit & (face.diff(dim=axis).abs().amax(dim=0) < step)).sum().item()
        total += both_lit.sum().item()
    return flat / total if total else 0.0


# -------------------------------------------------------------------- the face
def detection_doubt(face_found: bool | None) -> str | None:
    """There is a face."""
    if face_found is None or face_found:
        return None
    return (
        "expected a face; the detector found none. Parts of the face are then taken from where the camera expects them: "
        "crop closer, or look whether they are hidden"
    )


def cover_doubt(camera: Camera, landmarks_uv: Tensor, masks: Mapping[str, Tensor]) -> str | None:
    """The face is in the picture, and nothing lies before it; of masks [1, 1, R, R] by name what there is."""
    hidden = []
    if "face" in masks and (seen := face_share(camera, landmarks_uv, masks["face"])) < LEAST_FACE:
        hidden.append(f"{1 - seen:.0%} of the face")
    for part in ("nose", "mouth"):
        if part in masks and (seen := part_share(part, landmarks_uv, masks[part])) < LEAST_PART:
            hidden.append(f"{1 - seen:.0%} of the {part}")
    if not hidden:
        return None
    return (
        f"expected an open face; {' and '.join(hidden)} are hidden, outside the picture, or not recognised. What is "
        "hidden is a guess, and what hides it becomes part of the head: take a photo without it"
    )


def face_share(camera: Camera, landmarks_uv: Tensor, mask: Tensor) -> float:
    """Share of the face's surface towards the camera covered by a mask [1, 1, R, R] of floats."""
    surface = face_surface()
    weights = surface.areas * (surface.facing(camera) > 0)
    covered = _colours_at(mask, landmarks_uv, outside="zeros")[:, 0]
    return ((weights * covered).sum() / weights.sum()).item()


def part_share(part: str, landmarks_uv: Tensor, mask: Tensor) -> float:
    """Share of a part, nose or mouth, as landmarks [N, 2] outline it, that a mask [1, 1, R, R] of floats covers."""
    expected = parsing.landmark_masks(landmarks_uv.numpy(), mask.shape[-1])[part]
    return (mask * expected).sum().item() / max(expected.sum().item(), 1)


# -------------------------------------------------------------------- symmetry
def symmetry_doubt(target: Tensor, camera: Camera, landmarks_uv: Tensor) -> str | None:
    """The mirrored photo is a second view of the same head (SPI, section 3.1): both halves look alike."""
    difference, seen = mirror_difference(target, camera, landmarks_uv)
    if seen < SEEN_TWICE or difference <= MOST_MIRROR_DIFFERENCE:
        return None
    return (
        f"expected a face that looks like its mirror image; its halves differ by {difference:.2f} of 1 where both are "
        f"seen (limit {MOST_MIRROR_DIFFERENCE}), by light from one side or by something that one side has. The mirrored "
        "photo is then a wrong second view: compare with the method's symmetry switched off"
    )


def mirror_difference(image: Tensor, camera: Camera, landmarks_uv: Tensor) -> tuple[float, float]:
    """How much the halves of a face differ in a picture [1, 3, R, R], and on which share of the face that is seen.

    Root mean square of colours in [0, 1] over pairs of mirrored points of the face that both face the camera.
    """
    surface = face_surface()
    facing = surface.facing(camera) > LEAST_FACING
    weights = surface.areas * (facing & facing[surface.mirrored])
    seen = (weights.sum() / surface.areas.sum()).item()
    # Landmarks are not exact to a pixel.
    smooth = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    colours = (_colours_at(smooth, landmarks_uv) + 1) / 2
    square = (colours - colours[surface.mirrored]).square().mean(dim=1)
    return ((weights * square).sum() / weights.sum().clamp_min(1e-9)).sqrt().item(), seen


def _colours_at(image: Tensor, uv: Tensor, outside: str = "border") -> Tensor:
    """Values [N, C] of a picture [1, C, R, R] at positions [N, 2], bilinear."""
    grid = 2 * uv[None, None] - 1
    return F.grid_sample(image, grid, padding_mode=outside, align_corners=False)[0, :, 0].T


@dataclass(frozen=True)
class FaceSurface:
    """The canonical face in the world: vertices, outward unit normals [N, 3], areas [N], mirrored partners [N]."""

    vertices: Tensor
    normals: Tensor
    areas: Tensor
    mirrored: Tensor

    def facing(self, camera: Camera) -> Tensor:
        """Cosines [N] between the surface and the direction to a camera."""
        return (self.normals * F.normalize(camera.position - self.vertices, dim=1)).sum(dim=1)


@lru_cache(maxsize=1)
def face_surface() -> FaceSurface:
    """MediaPipe's canonical face as it stands in the embedded generators; read once a process, a constant."""
    vertices, triangles = canonical_mesh()
    vertices = vertices * WORLD_PER_CM
    a, b, c = (vertices[corner] for corner in triangles.T)
    shares = np.repeat(
        np.cross(b - a, c - a) / 6, 3, axis=0
    )  # a third of each triangle to each of its corners
    normals = np.zeros_like(vertices)
    np.add.at(normals, triangles.ravel(), shares)
    areas = np.linalg.norm(normals, axis=1)
    distances = np.linalg.norm((vertices * [-1, 1, 1])[:, None] - vertices[None], axis=2)
    vertices, normals, areas = (
        torch.tensor(array, dtype=torch.float32) for array in (vertices, normals / areas[:, None], areas)
    )
    return FaceSurface(vertices, normals, areas, torch.from_numpy(distances.argmin(axis=1)))
