"""Hard inputs out of plain portraits: glasses, hat and hand painted over the face, grey pictures, drawings.

They ask whether a method survives what it was not made for, and says so. What is painted follows the head's pose in
one picture only: for scenes whose other views must agree there are the marks of `lib.datasets.painted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import ConvexHull
from skimage.color import rgb2gray
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from lib.datasets.marks import luminance
from lib.datasets.stencils import Colour, closed, in_colours, polygon, strokes
from lib.faces import canonical_mesh
from lib.images import resize, to_tensor, to_uint8

CHEEKS = (50, 280)
"""Vertices of the canonical face mesh where the skin's colour is taken."""


# -------------------------------------------------------------------- where things are in the picture
@dataclass(frozen=True)
class FaceFrame:
    """How a picture shows points of the canonical face: canvas = matrix @ (x, y, z, 1), from centimetres.

    The canvas is that of stencils, [-1, 1] with y up. Without perspective, which a face's landmarks hardly show.
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, landmarks: Tensor) -> FaceFrame:
        """Least squares fit to landmarks [>=468, 2 or 3]: the vertices' (u, v) in [0, 1] over the picture."""
        vertices, _ = canonical_mesh()
        if landmarks.ndim != 2 or len(landmarks) < len(vertices) or landmarks.shape[1] not in (2, 3):
            raise ValueError(
                f"expected one face's landmarks [{len(vertices)} or more, 2 or 3] as of lib.faces.Portrait; "
                f"got {list(landmarks.shape)}"
            )
        uv = landmarks[: len(vertices), :2].detach().cpu().double().numpy()
        if not np.isfinite(uv).all():
            raise ValueError(
                "the landmarks hold NaN or infinity: no face was found, so nothing can be put on it"
            )
        homogeneous = np.column_stack([vertices, np.ones(len(vertices))])
        canvas = np.column_stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]])
        return cls(np.linalg.lstsq(homogeneous, canvas, rcond=None)[0].T)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Canvas positions [n, 2] of points [n, 3] in centimetres."""
        return points @ self.matrix[:, :3].T + self.matrix[:, 3]

    @property
    def centimetre(self) -> float:
        """Its length on the canvas."""
        return float(np.sqrt(np.linalg.svd(self.matrix[:, :3], compute_uv=False).prod()))

    @property
    def toward_viewer(self) -> np.ndarray:
        """Unit vector [3] of the head's frame that points out of the picture."""
        outward = np.cross(self.matrix[0, :3], self.matrix[1, :3])
        return outward / np.linalg.norm(outward)

    def outline(self, points: np.ndarray) -> Tensor:
        """Stencil of the convex hull of points [n, 3] in centimetres."""
        canvas = self(points)
        return polygon(canvas[ConvexHull(canvas).vertices])

    def lines(self, *lines: np.ndarray, width: float) -> Tensor:
        """Stencil of lines [n, 3] of a width in centimetres."""
        return strokes(*map(self, lines), width=width * self.centimetre)


def painted_over(image: Tensor, *shapes: tuple[Colour, Tensor], opacity: float = 1.0) -> Tensor:
    """The picture [1, 3, R, R] in [-1, 1] under stencils in colours, later ones over earlier ones."""
    paint = resize(in_colours(*shapes, opacity=opacity), tuple(image.shape[-2:])).to(image)
    colour, cover = paint[:, :3], paint[:, 3:]
    return image * (1 - cover) + 2 * colour - cover


# -------------------------------------------------------------------- things before the face
LENS = {"x": 3.3, "y": 2.4, "z": 5.0, "width": 2.55, "height": 2.0}
"""Centre of the person's left lens, and half its sides; centimetres of the canonical face."""

TEMPLE = (7.6, 2.9, -2.0)
"""Where an arm of the glasses reaches the ear."""


def with_glasses(
    image: Tensor, landmarks: Tensor, *, colour: Colour = (0.06, 0.05, 0.06), tint: float = 0.25
) -> Tensor:
    """The portrait [1, 3, R, R] behind glasses; tint: opacity of the lenses, near 1 of sunglasses."""
    frame = FaceFrame.of(landmarks)
    rims = [_rim(side) for side in (-1, 1)]
    bridge = np.array([[-0.8, 2.8, 5.3], [0.0, 3.1, 5.5], [0.8, 2.8, 5.3]])
    arms = [_arm(side) for side in (-1, 1) if side * frame.toward_viewer[0] > -0.1]  # the other is hidden
    glass = torch.stack([frame.outline(rim) for rim in rims]).amax(dim=0)
    image = painted_over(image, ((0.12, 0.13, 0.16), glass), opacity=tint)
    return painted_over(image, (colour, frame.lines(*map(closed, rims), bridge, *arms, width=0.55)))


def _rim(side: int) -> np.ndarray:
    """Outline [n, 3] of a lens: a superellipse, between a round and a square one."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x, y = (np.sign(f) * np.abs(f) ** 0.7 for f in (np.cos(angle), np.sin(angle)))
    x = side * LENS["x"] + LENS["width"] * x
    return np.column_stack([x, LENS["y"] + LENS["height"] * y, LENS["z"] - 0.03 * x**2])


def _arm(side: int) -> np.ndarray:
    hinge = side * (LENS["x"] + LENS["width"]), 2.9, LENS["z"] - 1.0
    return np.array([hinge, (side * TEMPLE[0], *TEMPLE[1:])])


HAT_CENTRE, HAT_RADII = (0.0, 7.0, -3.5), (9.6, 8.5, 11.0)
"""Middle of the ring where the hat sits on the head, and half the crown's breadth, height, length; centimetres."""

BRIM = 1.3
"""Half axes of the brim, in those of the ring; it droops by a centimetre."""


def with_hat(image: Tensor, landmarks: Tensor, *, colour: Colour = (0.16, 0.22, 0.42)) -> Tensor:
    """The portrait [1, 3, R, R] under a hat with a brim that hides hair and forehead."""
    frame = FaceFrame.of(landmarks)
    crown = np.vstack([_ring(np.sqrt(1 - level**2), level * HAT_RADII[1]) for level in np.linspace(0, 1, 12)])
    front = _ring(1.0, 1.0)
    front = front[(front - HAT_CENTRE) @ frame.toward_viewer > 0]
    band = frame.lines(front[np.argsort(frame(front)[:, 0])], width=1.6)
    brim = [(_shaded(colour, 0.7), frame.outline(np.vstack([_ring(1.0), _ring(BRIM, -1.0)])))]
    upper = [(colour, frame.outline(crown)), (_shaded(colour, 0.35), band)]
    seen_from_above = frame.toward_viewer[1] > 0
    return painted_over(image, *(brim + upper if seen_from_above else upper + brim))


def _ring(radius: float, height: float = 0.0) -> np.ndarray:
    """Level ring [n, 3] about the hat's axis, its radius in that of the hat, at a height above where the hat sits."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    across, along = radius * HAT_RADII[0] * np.cos(angle), radius * HAT_RADII[2] * np.sin(angle)
    return np.column_stack([across, np.full_like(angle, height), along]) + HAT_CENTRE


FINGERS = (
    ((1.2, -4.2), (-1.0, 1.4)),
    ((2.9, -3.4), (1.5, 3.0)),
    ((4.6, -3.4), (3.9, 3.2)),
    ((6.1, -4.2), (6.3, 1.8)),
)
"""Roots and tips of a hand before the cheek, centimetres to its side and up from the canonical face's origin."""

THUMB = ((1.6, -8.0), (-2.6, -5.0))
PALM = ((1.2, -4.2), (6.1, -4.2), (7.0, -9.0), (6.2, -18.0), (2.4, -18.0), (1.6, -9.0))
BEFORE_FACE = 8.0
"""Centimetres from the head's origin to the hand, just before the nose."""


def with_hand(image: Tensor, landmarks: Tensor, *, side: int = 1) -> Tensor:
    """The portrait [1, 3, R, R] with a hand, in the colour of the cheeks, before mouth and cheek of one side.

    side: 1 is the person's left, -1 the right.
    """
    if side not in (-1, 1):
        raise ValueError(f"the hand is at side 1, the person's left, or -1; got {side}")
    frame, skin = FaceFrame.of(landmarks), cheek_colour(image, landmarks)
    palm = _on_hand(PALM, side)
    shapes = [
        (_shaded(skin, 0.55), frame.lines(closed(palm), width=0.8)),
        (_shaded(skin, 0.9), frame.outline(palm)),
    ]
    for finger in (THUMB, *FINGERS):
        line = _on_hand(finger, side)
        shapes += [(_shaded(skin, 0.55), frame.lines(line, width=2.3)), (skin, frame.lines(line, width=1.6))]
    return painted_over(image, *shapes)


def _on_hand(points: Sequence[tuple[float, float]], side: int) -> np.ndarray:
    return np.array([(side * x, y, BEFORE_FACE) for x, y in points])


def cheek_colour(image: Tensor, landmarks: Tensor) -> Colour:
    """Median colour in [0, 1] around the cheeks of a picture [1, 3, R, R]."""
    size = image.shape[-1]
    centres = (landmarks[list(CHEEKS), :2].cpu() * size).long().clamp(0, size - 1).tolist()
    reach = max(1, size // 32)
    patches = [
        image[0, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].flatten(1)
        for x, y in centres
    ]
    return tuple(((torch.cat(patches, dim=1).median(dim=1).values + 1) / 2).tolist())


def _shaded(colour: Colour, light: float) -> Colour:
    return tuple(light * value for value in colour)


# -------------------------------------------------------------------- other kinds of pictures
def in_grey(image: Tensor) -> Tensor:
    """Pictures [B, 3, R, R] in [-1, 1] without colour."""
    return 2 * luminance((image + 1) / 2).expand_as(image) - 1


def as_drawing(image: Tensor, *, colours: int = 7, lines: float = 0.06) -> Tensor:
    """The portrait [1, 3, R, R] as a cartoon: few flat colours, dark lines where it is darker than around.

    lines: how much darker, in [0, 1].
    """
    picture = to_uint8(image)[0] / 255
    smooth = denoise_tv_chambolle(picture, weight=0.08, channel_axis=-1)
    flat = Image.fromarray(np.uint8(255 * smooth)).quantize(colours, dither=Image.Dither.NONE).convert("RGB")
    grey = rgb2gray(picture)
    width = len(picture) / 64
    darker = gaussian_filter(grey, 2.0 * width) - gaussian_filter(grey, 0.7 * width)
    inked = np.where(darker[..., None] > lines, 0.1 * np.asarray(flat), flat)
    return to_tensor(np.uint8(inked)).to(image)


def alterations(image: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """All of these hard inputs out of one portrait [1, 3, R, R] and its landmarks [478, 2 or 3], by name."""
    return {
        "glasses": with_glasses(image, landmarks),
        "hat": with_hat(image, landmarks),
        "hand": with_hand(image, landmarks),
        "grey": in_grey(image),
        "drawing": as_drawing(image),
    }
