"""Scenes with what no sample of a generator has, painted on the head in 3D so that all views agree.

This is the out-of-distribution and asymmetry test of SPI, HFGI3D and the pose-free paper, which show tattoos, lettering
and trinkets of single photos; here the other views are known too. Marks lie on one side of the face, or differ from
side to side, so that the mirrored picture is a wrong one; the input shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from lib import faces
from lib.datasets import samples
from lib.datasets.marks import Decal, Ellipsoid, Mark, Spots, luminance, paint
from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.datasets.stencils import (
    SYMBOLS,
    TEXTURE,
    Colour,
    ellipses,
    in_colours,
    lettering,
    polygon,
    star,
    strokes,
)
from lib.images import resize, to_uint8
from lib.meshes import seen_points

CM = faces.WORLD_PER_CM

DETECTED_SIDE = 256
"""Pixels across the pictures in which landmarks are looked for, at least; smaller ones are enlarged."""

"""Files, beside this one, that decide what a scene looks like."""

BOTH_SIDES_SHOW = 0.1
"""Radians of yaw within which a view shows both cheeks and ears alike."""

FARTHEST_SNAP = 4.0
"""Centimetres: a surface farther than this from where the face should be is another one."""

LANDMARKS = {
    "forehead": (151, 151),
    "brow": (104, 333),
    "cheek": (50, 280),
    "lower cheek": (207, 427),
    "eye": (159, 386),
    "ear": (93, 323),
    "hairline": (109, 338),
}
"""Vertices of the canonical face mesh at -x (the person's right) and at +x."""


# -------------------------------------------------------------------- where things are on the head
@dataclass(frozen=True)
class Place:
    """A point [3] of the head's surface, its outward direction [3], the luminance of the skin around it."""

    centre: Tensor
    outward: Tensor
    brightness: float

    def axes(self, turn: float = 0.0) -> Tensor:
        """Rows right, up, outward [3, 3]; right is level, or turned from there to up (radians)."""
        level = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), self.outward), dim=0)
        up = torch.linalg.cross(self.outward, level)
        cosine, sine = math.cos(turn), math.sin(turn)
        return torch.stack([cosine * level + sine * up, cosine * up - sine * level, self.outward])


@lru_cache(maxsize=1)
def _canonical_face() -> trimesh.Trimesh:
    """The canonical face mesh in world units."""
    vertices, triangles = faces.canonical_mesh()
    return trimesh.Trimesh(vertices * CM, triangles, process=False)


@dataclass(frozen=True)
class Face:
    """Where a scene's face lies: world = scale rotation canonical + translation; and views that see it.

    input_yaw: radians from which an inversion sees it.
    """

    views: Sequence[View]
    input_yaw: float
    scale: float
    rotation: Tensor
    translation: Tensor

    @classmethod
    def of(cls, scene: Scene) -> Face:
        """By the landmarks of the frontal view."""
        views = [scene.views[yaw_name(yaw)] for yaw in YAWS]
        yaw = scene.input.camera.yaw.item()
        return cls(views, yaw, *world_from_face(scene.views[yaw_name(0.0)]))

    def seen_side(self, rng: np.random.Generator) -> int:
        """The side, -1 or 1, that the input shows, on which marks lie; either where it shows both.

        Of what the input does not show nothing can be kept.
        """
        either = int(rng.choice((-1, 1)))
        return either if abs(self.input_yaw) < BOTH_SIDES_SHOW else int(np.sign(self.input_yaw))

    def to_world(self, points: Tensor) -> Tensor:
        """World points [K, 3] of points of the canonical face in world units."""
        return self.scale * points @ self.rotation.T + self.translation

    def snapped(self, points: Tensor, outward: Tensor) -> Tensor:
        """Points [K, 3] moved to the surface along the rays of the view that best sees what faces outward [K, 3].

        A point that no view has a surface near to stays.
        """
        best, snapped = torch.full((len(points),), -torch.inf), points
        for view in self.views:
            ray = F.normalize(points - view.camera.position, dim=1)
            depth = _depth_at(view, view.camera.project(points[None])[0])
            found = view.camera.position + ray * depth[:, None]
            near = (found - points).norm(dim=1) < FARTHEST_SNAP * CM * self.scale  # False where depth is NaN
            facing = -(ray * outward).sum(dim=1)
            better = near & (facing > best)
            best, snapped = facing.where(better, best), found.where(better[:, None], snapped)
        return snapped

    def place(self, landmark: str, side: int, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Place:
        """A landmark at side -1 (the person's right) or 1, moved by an offset and put on the surface.

        offset: centimetres of the canonical face to that side, up, to the front.
        """
        vertex, mesh = LANDMARKS[landmark][(side + 1) // 2], _canonical_face()
        moved = mesh.vertices[vertex] + CM * np.array([side * offset[0], *offset[1:]])
        outward = self.rotation @ _float(mesh.vertex_normals[vertex])
        centre = self.snapped(self.to_world(_float(moved)[None]), outward[None])[0]
        return Place(centre, outward, self.brightness(centre, outward))

    def brightness(self, centre: Tensor, outward: Tensor, radius_cm: float = 1.0) -> float:
        """Median luminance around a point of the surface, in the view that best sees it."""
        view = max(self.views, key=lambda view: float((view.camera.position[0] - centre) @ outward))
        distance = (seen_points(view.camera, view.depth)[0] - centre).norm(dim=1).nan_to_num(torch.inf)
        near = distance <= max(radius_cm * CM * self.scale, float(distance.min()))
        return max(float(luminance((view.image + 1) / 2).flatten()[near].median()), 0.05)


def world_from_face(view: View) -> tuple[float, Tensor, Tensor]:
    """Scale, rotation [3, 3] and translation [3] from the canonical face to the world, by a view's landmarks.

    Landmarks found in the picture are lifted to the view's depth. Where no face is found, it is taken to lie as in
    the embedded generators, which stand all heads as the canonical face: unturned, at scale 1.
    """
    unmoved = 1.0, torch.eye(3), torch.zeros(3)
    picture = to_uint8(resize(view.image, max(view.image.shape[-1], DETECTED_SIDE)))[0]
    found = faces.FaceDetector(max_faces=1)(picture)
    if not found:
        return unmoved
    mesh = _canonical_face()
    uv = _float(found[0].landmarks[: len(mesh.vertices), :2] / len(picture))[None]
    depth = _depth_at(view, uv)
    rays = F.normalize(view.camera.unproject(uv, torch.ones(1, uv.shape[1]))[0] - view.camera.position, dim=1)
    lifted = view.camera.position + rays * depth[:, None]
    # At the face's edge the depth is that of what lies behind.
    used = (depth.isfinite() & (_float(mesh.vertex_normals)[:, 2] > 0.5)).numpy()
    if used.sum() < 100:
        return unmoved
    scale, *moved = faces.similarity_fit(mesh.vertices[used], lifted.double().numpy()[used])
    return scale, *map(_float, moved)


def _depth_at(view: View, uv: Tensor) -> Tensor:
    """Depth [N] of a view at image positions [1, N, 2], bilinear; NaN where it is not known."""
    return F.grid_sample(view.depth, 2 * uv[:, None] - 1, align_corners=False)[0, 0, 0]


def _float(values: np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


# -------------------------------------------------------------------- kinds
INKS = ((0.05, 0.12, 0.24), (0.10, 0.08, 0.12), (0.06, 0.20, 0.14))
PAINTS = ((0.85, 0.10, 0.12), (0.10, 0.25, 0.75), (0.95, 0.80, 0.10), (0.10, 0.55, 0.25), (0.95, 0.95, 0.95))
DYES = ((0.80, 0.15, 0.60), (0.10, 0.65, 0.75), (0.95, 0.93, 0.80), (0.20, 0.70, 0.25))
STONES = ((0.85, 0.08, 0.15), (0.05, 0.55, 0.35), (0.10, 0.30, 0.85), (0.95, 0.95, 0.98))
GOLD = (0.95, 0.78, 0.30)
MOLE, FRECKLE = (0.20, 0.10, 0.07), (0.48, 0.26, 0.15)
WORDS = ("3D-GAN", "HELLO", "PARIS", "NOVA", "R2D2", "ZEN", "1984", "LUCK")


def _pick(rng: np.random.Generator, choices: Sequence) -> Any:
    return choices[rng.integers(len(choices))]


def _decal(
    face: Face, place: Place, picture: Tensor, size_cm: float, turn: float = 0.0, reach_cm: float = 2.5
) -> Decal:
    """A picture on the skin at a place; lengths in centimetres of the canonical face."""
    unit = CM * face.scale
    return Decal(place.centre, place.axes(turn), picture, size_cm * unit, reach_cm * unit, place.brightness)


def _on_cheeks(face: Face, rng: np.random.Generator, sides: np.ndarray) -> tuple[Tensor, Tensor]:
    """Points [K, 3] of the surface, drawn over the cheeks at sides [K] of -1 or 1, and their outward directions.

    Evenly in the frontal view between nose and ear, below the eyes and above the mouth.
    """
    x_cm, y_cm = sides * rng.uniform(1.6, 6.0, len(sides)), rng.uniform(-3.2, 0.8, len(sides))
    mesh = _canonical_face()
    nearest = cKDTree(mesh.vertices[:, :2]).query(CM * np.column_stack([x_cm, y_cm]))[1]
    points = np.column_stack([CM * x_cm, CM * y_cm, mesh.vertices[nearest, 2]])
    outward = _float(mesh.vertex_normals[nearest]) @ face.rotation.T
    return face.snapped(face.to_world(_float(points)), outward), outward


def _spots(
    face: Face,
    rng: np.random.Generator,
    sides: np.ndarray,
    radii_cm: tuple[float, float],
    colour: Colour,
    opacity: float,
) -> Spots:
    """Spots on the cheeks at sides [K], with radii drawn between two."""
    centres, outward = _on_cheeks(face, rng, sides)
    unit = CM * face.scale
    radii = _float(rng.uniform(*radii_cm, len(sides))) * unit
    return Spots(centres, outward, radii, unit, colour, opacity, face.brightness(centres[0], outward[0]))


def moles(face: Face, rng: np.random.Generator) -> list[Mark]:
    """Four on one side, one on the other."""
    return [_spots(face, rng, face.seen_side(rng) * np.array([1, 1, 1, 1, -1]), (0.32, 0.55), MOLE, 0.95)]


def freckles(face: Face, rng: np.random.Generator) -> list[Mark]:
    """About three quarters of them on one side."""
    sides = face.seen_side(rng) * np.where(rng.random(80) < 0.75, 1, -1)
    return [_spots(face, rng, sides, (0.14, 0.26), FRECKLE, 0.8)]


def tattoo(face: Face, rng: np.random.Generator) -> list[Mark]:
    """A symbol in dark ink on a cheek or over a brow."""
    symbol = _pick(rng, SYMBOLS)()
    where, size_cm = _pick(rng, (("cheek", 4.5), ("lower cheek", 4.0), ("brow", 3.6)))
    picture = in_colours((_pick(rng, INKS), symbol), opacity=0.9)
    return [
        _decal(face, face.place(where, face.seen_side(rng)), picture, size_cm, turn=rng.uniform(-0.3, 0.3))
    ]


def word(face: Face, rng: np.random.Generator) -> list[Mark]:
    """A word in dark ink across the forehead or on a cheek."""
    where, size_cm = _pick(rng, (("forehead", 8.5), ("cheek", 6.0)))
    picture = in_colours((_pick(rng, INKS), lettering(_pick(rng, WORDS))), opacity=0.9)
    return [_decal(face, face.place(where, face.seen_side(rng)), picture, size_cm)]


def earring(face: Face, rng: np.random.Generator) -> list[Mark]:
    """A golden stud and a stone that hangs from it, at one ear."""
    place, unit = face.place("ear", face.seen_side(rng), offset=(0.8, -1.8, -0.5)), CM * face.scale
    stud = place.centre + 0.3 * unit * place.outward
    drop = stud - torch.tensor([0.0, 1.5 * unit, 0.0])
    return [
        Ellipsoid(drop, unit * torch.tensor([0.6, 1.2, 0.6]), _pick(rng, STONES)),
        Ellipsoid(stud, unit * torch.tensor([0.4, 0.4, 0.4]), GOLD),
    ]


def streak(face: Face, rng: np.random.Generator) -> list[Mark]:
    """Dyed strands of hair, in two tones, that fan out from the hairline on one side."""
    side, count = face.seen_side(rng), 12
    place, in_hair = (face.place("hairline", side, (0.8, up, back)) for up, back in ((0.3, 0.0), (2.3, -1.0)))
    root, rise = rng.uniform(-0.10, 0.10, count), np.linspace(0, 1, 12)[:, None]
    lowest, drift = rng.uniform(-0.06, 0.12, count), 1.5 * root + rng.normal(0, 0.06, count)
    x, y = root + rise**2 * drift, lowest + rise * (1 - lowest)
    strands = list(np.stack([x, y], axis=-1).transpose(1, 0, 2))
    dye = _pick(rng, DYES)
    darker = tuple(0.6 * value for value in dye)
    picture = in_colours(
        (darker, strokes(*strands, width=0.08)), (dye, strokes(*strands[::2], width=0.05)), opacity=0.9
    )
    lit_as_hair = replace(place, brightness=in_hair.brightness)
    return [_decal(face, lit_as_hair, picture, size_cm=14.0, reach_cm=6.0)]


def face_paint(face: Face, rng: np.random.Generator) -> list[Mark]:
    """Three bars on a cheek, a star about an eye, or a face in two colours."""
    first, second, third = (PAINTS[i] for i in rng.permutation(len(PAINTS))[:3])
    side = face.seen_side(rng)
    design = _pick(rng, ("bars", "star", "halves"))
    if design == "bars":
        bars = [
            polygon(np.array([[-0.9, y], [0.9, y], [0.9, y + 0.4], [-0.9, y + 0.4]]))
            for y in (-0.8, -0.2, 0.4)
        ]
        picture = in_colours(*zip((first, second, third), bars, strict=True), opacity=0.85)
        return [_decal(face, face.place("cheek", side), picture, 5.0, turn=-0.35 * side)]
    if design == "star":
        hole = 1 - ellipses((0.0, 0.0, 0.36, 0.2))
        picture = in_colours((first, polygon(star(6, 0.55)) * hole), opacity=0.85)
        return [_decal(face, face.place("eye", side), picture, 9.0)]
    return [_two_colours(face, first, second)]


def _two_colours(face: Face, right: Colour, left: Colour) -> Decal:
    """The whole face painted, each half in its colour, but for eyes and lips; in centimetres about its middle."""
    side_cm, middle = 20.0, (0.0, -0.8, 5.0)

    def in_picture(*ellipses_cm: tuple[float, float, float, float]) -> Tensor:
        scaled = np.array(ellipses_cm) - (0.0, middle[1], 0.0, 0.0)
        return ellipses(*(scaled * 2 / side_cm))

    free = in_picture((-3.1, 2.6, 1.8, 0.9), (3.1, 2.6, 1.8, 0.9), (0.0, -4.4, 2.6, 1.3))
    oval = in_picture((0.0, -1.2, 6.4, 7.8)) * (1 - free)
    half = (torch.arange(TEXTURE) < TEXTURE // 2).float()
    picture = in_colours((right, oval * half), (left, oval * (1 - half)), opacity=0.8)
    centre = face.to_world(CM * torch.tensor([middle]))[0]
    brightness = face.place("cheek", 1).brightness
    unit = CM * face.scale
    return Decal(centre, face.rotation.T, picture, side_cm * unit, 7.0 * unit, brightness)


KINDS: dict[str, Callable[[Face, np.random.Generator], list[Mark]]] = {
    "moles": moles,
    "freckles": freckles,
    "tattoo": tattoo,
    "lettering": word,
    "earring": earring,
    "streak": streak,
    "face_paint": face_paint,
}
"""What is painted, by name."""


def drawn_kind(seed: int) -> str:
    """What the scene of a seed has painted on it, unless a setting says otherwise."""
    return _pick(np.random.default_rng([seed, 0]), tuple(KINDS))


def make(
    seed: int, generator: Any, *, what: str | None = None, strength: float = 1.0, **settings: Any
) -> Scene:
    """A scene of `samples` of this seed with something painted on it.

    what: one of KINDS; None draws one. strength: its opacity from 0 to 1; at 0 the views are those of the sample.
    settings: of `samples.make`. truth: that of the sample, and `painted/<view>`, where in each view marks are
    (bool [1, 1, R, R], the same at every strength).
    """
    what = drawn_kind(seed) if what is None else what
    if what not in KINDS:
        raise ValueError(f"unknown kind of paint {what!r}; known: {', '.join(KINDS)}")
    sample = samples.make(seed, generator, **settings)
    marks = KINDS[what](Face.of(sample), np.random.default_rng([seed, 1]))
    extras = {**sample.extras, "kind": "painted", "what": what, "strength": strength}
    return replace(paint(sample, marks, strength), name=f"painted-{seed}-{what}-{strength:g}", extras=extras)
