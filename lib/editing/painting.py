"""Paint on a photo, before it is inverted; and the same paint in the other true views of a scene.

HFGI3D (Xie et al., 2023), section 4.3 and figure 6b: what a method keeps of a photo can be painted on the photo, a word
on the forehead, a logo on the cheek, another style, and then it turns with the head. Paint is a picture
[1, 4, H, W] of values in [0, 1], as `lib.datasets.stencils.in_colours` makes it: red, green and blue multiplied by
opacity, then opacity. It may be finer than the photo.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lib.cameras import pixel_centres
from lib.datasets.altered import FaceFrame, as_drawing, in_grey
from lib.datasets.marks import Layer, Sight, luminance, paint
from lib.datasets.painted import LANDMARKS
from lib.datasets.scenes import Scene, View
from lib.datasets.stencils import TEXTURE, Colour, in_colours
from lib.faces import canonical_mesh
from lib.images import FORMATS, MAX_PIXELS, PhotoError, load_photo, resize, to_tensor
from lib.warping import sample_at, visible

LEAST_FACING = 0.15
"""Cosine between a place's outward direction and the viewer's, below which a photo does not show the place."""

SAME_SURFACE = 0.02
"""World units (8 mm) by which depths of two views may differ where both see the same skin. Depths of a volume differ
by less, and a cheek behind a nose by more."""


# -------------------------------------------------------------------- paint over a picture
def overlay(image: Tensor, paint: Tensor) -> Tensor:
    """The picture [1, 3, R, R] in [-1, 1] under paint of any size: (1 - a) c + p, of colours in [0, 1]."""
    _require_picture(image)
    fitted = resize(_checked(paint), tuple(image.shape[-2:])).to(image)
    colour, opacity = fitted[:, :3], fitted[:, 3:]
    return image * (1 - opacity) + 2 * colour - opacity


def together(*paints: Tensor) -> Tensor:
    """Several paints as one, each over those before it, at the size of the first: Porter and Duff's `over`."""
    if not paints:
        raise ValueError("expected one paint or more to lay over one another; got none")
    below = _checked(paints[0])
    for above in paints[1:]:
        above = resize(_checked(above), tuple(below.shape[-2:]))
        below = above + below * (1 - above[:, 3:])
    return below


def difference(before: Tensor, after: Tensor, least: float = 0.02) -> Tensor:
    """What an edit of a picture [1, 3, R, R] in [-1, 1] has painted: `after`, opaque where it is another colour.

    least: by how much, in some channel, of 2. `overlay(before, difference(before, after))` is `after` there.
    """
    _require_picture(before)
    if before.shape != after.shape:
        raise ValueError(
            f"an edited picture has the size of the picture before, {list(before.shape)}; got {list(after.shape)}"
        )
    edited = ((after - before).abs().amax(dim=1, keepdim=True) > least).to(after)
    return torch.cat([(after + 1) / 2 * edited, edited], dim=1)


def paint_from_file(path: str | os.PathLike, image: Tensor) -> Tensor:
    """Paint for a picture [1, 3, R, R] out of a file: one with transparency, or else an edited copy of the picture.

    Either covers the whole picture, at any size. An edited copy paints where it differs from the picture by more than
    what resampling and compression change.
    """
    rgba = _rgba(path)
    if rgba is None:
        edited = resize(to_tensor(load_photo(path)), tuple(image.shape[-2:])).to(image)
        return difference(image, edited, least=0.15)
    values = torch.tensor(rgba / 255, dtype=torch.float32).permute(2, 0, 1)[None]
    return torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], dim=1)


def _rgba(path: str | os.PathLike) -> np.ndarray | None:
    """Bytes [H, W, 4] of a picture with transparency; None of one without."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise PhotoError(f"{path} is too large: {width} x {height} pixels. Scale it down first.")
            return np.asarray(picture.convert("RGBA")) if picture.has_transparency_data else None
    except FileNotFoundError:
        raise PhotoError(f"there is no file {path}; expected a picture to paint with") from None
    except UnidentifiedImageError:
        raise PhotoError(
            f"{path} is not a picture that can be read here: use PNG with transparency"
        ) from None


def _checked(paint: Tensor) -> Tensor:
    if paint.ndim != 4 or paint.shape[:2] != (1, 4):
        raise ValueError(
            "paint is a picture [1, 4, H, W], colour multiplied by opacity and opacity, as `in_colours` and "
            f"`paint_from_file` make it; got {list(paint.shape)}"
        )
    return paint


def _require_picture(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"expected one picture [1, 3, R, R] in [-1, 1]; got {list(image.shape)}")


# -------------------------------------------------------------------- paint in its place
def on_face(
    picture: Tensor,
    landmarks: Tensor,
    place: str = "forehead",
    *,
    side: Literal[-1, 1] = 1,
    size_cm: float = 8.0,
    turn: float = 0.0,
    offset_cm: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """A square picture [1, 4, H, W] of paint as it lies on a face: flat against the skin at a place.

    landmarks: [468 or 478, 2 or 3], as of `lib.faces.Portrait`. place: one of `lib.datasets.painted.LANDMARKS`.
    side: 1 is the person's left, -1 the right. size_cm: its side, of the canonical face. turn: counter-clockwise,
    radians. offset_cm: along the skin, to the picture's right and up.
    """
    if place not in LANDMARKS:
        raise ValueError(f"paint lies at one of {', '.join(LANDMARKS)}; got {place!r}")
    if side not in (-1, 1):
        raise ValueError(f"a side is 1, the person's left, or -1; got {side!r}")
    frame, vertex = FaceFrame.of(landmarks), LANDMARKS[place][(side + 1) // 2]
    vertices, outward = canonical_mesh()[0], _outward()[vertex]
    if outward @ frame.toward_viewer < LEAST_FACING:
        raise ValueError(f"the photo does not show the {place} at side {side}: it faces away from the camera")
    right = np.cross([0.0, 1.0, 0.0], outward)
    right /= np.linalg.norm(right)
    skin = np.column_stack([right, np.cross(outward, right)])
    centre = frame((vertices[vertex] + skin @ offset_cm)[None])[0]
    return _laid(picture, centre, frame.matrix[:, :3] @ skin * (size_cm / 2), turn)


def stamped(picture: Tensor, uv: tuple[float, float], size: float, turn: float = 0.0) -> Tensor:
    """A square picture [1, 4, H, W] of paint, upright in the photo, with its middle at (u, v).

    size: its side, as a share of the photo's. turn: counter-clockwise, radians.
    """
    return _laid(picture, np.array([2 * uv[0] - 1, 1 - 2 * uv[1]]), size * np.eye(2), turn)


def _laid(picture: Tensor, centre: np.ndarray, axes: np.ndarray, turn: float) -> Tensor:
    """A picture in the canvas of the photo, [-1, 1] with y up: paint [1, 4, TEXTURE, TEXTURE].

    centre: of the picture, [2]. axes: columns from there to its right and its upper edge, [2, 2], before it is turned.
    """
    cosine, sine = math.cos(turn), math.sin(turn)
    axes = axes @ np.array([[cosine, -sine], [sine, cosine]])
    canvas = (2 * pixel_centres(TEXTURE, picture) - 1) * torch.tensor([1.0, -1.0])
    inverse = torch.tensor(np.linalg.inv(axes), dtype=picture.dtype)
    within = (canvas - torch.tensor(centre, dtype=picture.dtype)) @ inverse.T
    grid = (within * torch.tensor([1.0, -1.0])).reshape(1, TEXTURE, TEXTURE, 2)
    return F.grid_sample(_checked(picture), grid, align_corners=False)


@lru_cache(maxsize=1)
def _outward() -> np.ndarray:
    """Unit normals [468, 3] at the vertices of the canonical face."""
    return trimesh.Trimesh(*canonical_mesh(), process=False).vertex_normals


@dataclass(frozen=True)
class Stroke:
    """A brush drawn over a photo along points (u, v); one point is a dab.

    radius: as a share of the photo's side. hardness: share of the radius up to which the brush covers fully.
    """

    points: Sequence[tuple[float, float]]
    radius: float
    colour: Colour
    hardness: float = 0.8
    opacity: float = 1.0

    def __post_init__(self) -> None:
        if not self.points or not self.radius > 0:
            raise ValueError(
                f"a stroke has a point or more and a positive radius; got {self.points}, {self.radius}"
            )
        if not (0 <= self.hardness <= 1 and 0 <= self.opacity <= 1):
            raise ValueError(
                f"hardness and opacity lie between 0 and 1; got {self.hardness} and {self.opacity}"
            )

    def cover(self) -> Tensor:
        """What it covers, as a stencil [TEXTURE, TEXTURE]: 1 by the line, falling to 0 at the radius."""
        uv, line = pixel_centres(TEXTURE, torch.zeros(())), torch.tensor(self.points, dtype=torch.float32)
        segments = list(pairwise(line)) or [(line[0], line[0])]
        distance = torch.stack([_distance(uv, *ends) for ends in segments]).amin(dim=0)
        pixel = 1 / TEXTURE
        soft = max(self.radius * (1 - self.hardness), pixel)  # no edge is sharper than a pixel
        return ((self.radius + pixel / 2 - distance) / soft).clamp(0, 1).reshape(TEXTURE, TEXTURE)


def _distance(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distances [N] of points [N, 2] from a segment."""
    along = end - start
    share = ((points - start) @ along / along.square().sum().clamp_min(1e-12)).clamp(0, 1)
    return (points - start - share[:, None] * along).norm(dim=1)


def brushed(strokes: Sequence[Stroke]) -> Tensor:
    """Strokes as paint [1, 4, TEXTURE, TEXTURE], later ones over earlier ones."""
    blank = torch.zeros(1, 4, TEXTURE, TEXTURE)
    return together(blank, *(in_colours((s.colour, s.cover()), opacity=s.opacity) for s in strokes))


# -------------------------------------------------------------------- another style
SEPIA_SHADOW, SEPIA_LIGHT = (0.13, 0.07, 0.03), (1.0, 0.93, 0.78)
"""Colours of black and of white in an old print."""


def sepia(image: Tensor) -> Tensor:
    """Pictures [B, 3, R, R] in [-1, 1] as old prints: from brown to cream by luminance."""
    light = luminance((image + 1) / 2)
    shadow, lit = (image.new_tensor(colour)[:, None, None] for colour in (SEPIA_SHADOW, SEPIA_LIGHT))
    return 2 * torch.lerp(shadow, lit, light) - 1


def pencil(image: Tensor) -> Tensor:
    """The picture [1, 3, R, R] in pencil: paper wherever it is as light as around, strokes where it is darker."""
    grey = luminance((image + 1) / 2)[0, 0].double().cpu().numpy()
    around = gaussian_filter(grey, image.shape[-1] / 24)
    drawn = torch.tensor(np.clip(grey / np.maximum(around, 1e-3), 0, 1) ** 2)
    return (2 * drawn - 1).to(image).expand_as(image)


STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "grey": in_grey,
    "sepia": sepia,
    "pencil": pencil,
    "drawing": as_drawing,
}
"""Of a whole photo, by name."""


def stylised(image: Tensor, style: str) -> Tensor:
    """The picture [1, 3, R, R] in [-1, 1] in one of STYLES: the second texture edit of HFGI3D's figure 6b."""
    _require_picture(image)
    if style not in STYLES:
        raise ValueError(f"there is no style {style!r}; there are {', '.join(STYLES)}")
    return STYLES[style](image)


# -------------------------------------------------------------------- the same paint in other true views
@dataclass(frozen=True)
class Slide:
    """Paint that lies on the head where a photo shows it: a mark of `lib.datasets.marks`.

    It is thrown onto the surface from where the photo's camera stands, as by a slide projector, and stays there. What
    the photo does not see gets no paint. view: the photo, its depth known.
    """

    paint: Tensor
    view: View
    brightness: float | None = None  # it was painted on the lit photo: its colours have their light

    def layer(self, sight: Sight) -> Layer:
        camera = self.view.camera
        points = sight.points[None]
        uv = camera.project(points)[0]
        distance = (points - camera.position[:, None]).norm(dim=-1)
        seen = visible(uv, distance, self.view.depth, SAME_SURFACE).flatten() & sight.distance.isfinite()
        there = sample_at(self.paint, uv)[0].flatten(1).T
        return Layer(there[:, 3] * seen * sight.on_head, there[:, :3] / there[:, 3:].clamp_min(1e-6))


def painted_scene(scene: Scene, paint_on_input: Tensor) -> Scene:
    """The scene as it would be if its head had been painted like its input; paint beside the head is left out.

    Every view gets what it sees of the paint, by its true depth, so that an inversion of the painted input can be
    measured from the side. truth: that of the scene, and `painted/<view>`, where in each view paint is, bool
    [1, 1, R, R].
    """
    found = paint(scene, [Slide(_checked(paint_on_input), scene.input)])
    if not found.truth[f"painted/{scene.input_name}"].any():
        raise ValueError(f"none of the paint lies on the head of scene {scene.name!r}: place it on the face")
    return replace(found, name=f"{scene.name}-repainted")


def paint_kept(image: Tensor, painted: Tensor, bare: Tensor, where: Tensor) -> float:
    """How much of the paint a picture [1, 3, R, R] shows within `where` (bool [1, 1, R, R]): 1 all of it, 0 none.

    1 - |image - painted|^2 / |bare - painted|^2. At 0 it is as far from the painted truth as the head without paint is;
    below, further: something else is wrong there too. NaN where there is no paint.
    """
    inside = where.expand_as(painted)
    error, lost = ((picture - painted)[inside].square().sum().item() for picture in (image, bare))
    return 1 - error / lost if lost else math.nan
