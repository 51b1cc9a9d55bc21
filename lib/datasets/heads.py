"""Scenes of kind `heads`: parametric heads of metric size, path-traced, unlike anything that a generator renders.

MakeHuman's mesh (`lib.datasets.makehuman`) with random identity and expression, coloured by rule or by a portrait
projected onto it, under random light. Surfaces are even (Lambert) unless asked otherwise: what a point looks like
does not depend on the camera, so that true views agree through the true depth.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from skimage import data
from torch import Tensor

from lib import faces, parsing
from lib.cameras import FOCAL, RADIUS, Camera, orbit
from lib.datasets import makehuman
from lib.datasets.path_tracing import ColouredMesh, PathTracer, irradiance, linear, sky_directions
from lib.datasets.scenes import Scene, View, drawn_input_yaw, scene_cameras, yaw_name
from lib.faces import WORLD_PER_CM
from lib.generators import EG3D
from lib.images import resize, to_uint8

CM_PER_DM = 10.0

NOW_LANDMARKS = {
    "right eye, outer corner": 33,
    "right eye, inner corner": 133,
    "left eye, inner corner": 362,
    "left eye, outer corner": 263,
    "nose base": 2,
    "right mouth corner": 61,
    "left mouth corner": 291,
}
"""Of the face mesh, the seven points by which NoW aligns a face with its scan; right is the person's right."""

LOOK_SIZE = 256
"""Pixels of a picture of a head in which its landmarks are found."""

LOOKS, LOOK_SAMPLES = 2, 4
"""How often the average head is looked at and set right, and rays a pixel of such a picture."""

SEEN_SLACK = 0.01
"""World units by which a vertex may lie behind what is seen where it is, and still count as seen."""

PORTRAIT_CONTRAST = 0.2
"""Of the lamp on a head that wears a portrait, which brings light and shade of its own."""


# -------------------------------------------------------------------- a scene
@torch.no_grad()
def make(
    seed: int,
    generator: EG3D,
    *,
    texture: Literal["procedural", "portrait"] = "procedural",
    portrait: Literal["astronaut", "sample"] | np.ndarray = "astronaut",
    input_yaw: float | None = None,
    with_ellipse: bool = True,
    samples: int = 64,
    shine: float = 0.0,
) -> Scene:
    """One head at the generator's resolution, under its cameras.

    texture: colours by rule, or a portrait's face: "astronaut" (scikit-image, public domain), "sample" (a head of
    the generator) or a photo, uint8 [height, width, 3]. input_yaw: radians of the input view;
    None draws one of INPUT_YAWS. samples: rays a pixel, a square number. shine: gloss of the skin, 0 to 1; with
    it, views differ where they see the same point. Masks hold all of the figure: head, neck and shoulders.

    truth: `vertices` [n, 3] in world units and `faces` [m, 3] of everything that is seen; `skin` [n], which
    vertices are bare skin; `landmarks` [7, 3], the points of NOW_LANDMARKS; `millimetres_per_unit`.
    """
    shape_rng, look_rng, light_rng = np.random.default_rng(seed).spawn(3)
    look = Look.drawn(look_rng)
    vertices_dm = grown_hair(random_shape(shape_rng), look)
    if texture == "portrait":
        colours = painted_by_portrait(look, _photo(portrait, seed, generator))
    elif texture == "procedural":
        colours = painted_by_rule(look)
    else:
        raise ValueError(f'texture is "procedural" or "portrait", got {texture!r}')
    world_from_dm, aligned_by = as_photographed(vertices_dm, colours)
    mesh = ColouredMesh(world_from_dm(vertices_dm), makehuman.fine_triangles(), colours)
    light = random_light(light_rng, contrast=1.0 if texture == "procedural" else PORTRAIT_CONTRAST)
    tracer = PathTracer(mesh, light, shine)
    input_yaw = drawn_input_yaw(seed) if input_yaw is None else input_yaw
    views = {
        name: _view(tracer, camera, generator.resolution, samples, seed)
        for name, camera in scene_cameras(generator, input_yaw, with_ellipse).items()
    }
    extras = {
        "kind": "heads",
        "seed": seed,
        "texture": texture,
        "input_yaw": input_yaw,
        "samples": samples,
        "shine": shine,
        "aligned_by": aligned_by,
    }
    if texture == "portrait":
        extras["portrait"] = portrait if isinstance(portrait, str) else "given"
    truth = _truth(mesh, look, millimetres_per_unit=10 * CM_PER_DM / world_from_dm.scale)
    return Scene(f"heads-{seed}", yaw_name(input_yaw), views, truth, extras)


def shows_generator(settings: Mapping[str, Any]) -> bool:
    """Whether scenes of these settings depend on the generator's weights."""
    return settings["texture"] == "portrait" and _is_named(settings["portrait"], "sample")


def _photo(portrait: str | np.ndarray, seed: int, generator: EG3D) -> np.ndarray:
    if _is_named(portrait, "astronaut"):
        return data.astronaut()
    if _is_named(portrait, "sample"):
        return sampled_portrait(seed, generator)
    if isinstance(portrait, str):
        raise ValueError(
            f'portrait is "astronaut", "sample" or a photo, got {portrait!r}; for a file give images.load_photo of it'
        )
    return portrait


def _is_named(portrait: str | np.ndarray, name: str) -> bool:
    return isinstance(portrait, str) and portrait == name


def _view(tracer: PathTracer, camera: Camera, resolution: int, samples: int, seed: int) -> View:
    depth, normals, mask = tracer.surface(camera, resolution)
    return View(tracer.picture(camera, resolution, samples, seed), camera, depth, normals, mask)


def _truth(mesh: ColouredMesh, look: Look, millimetres_per_unit: float) -> dict[str, Tensor]:
    """What `make` tells of a head's shape."""
    landmarks = mesh.vertices[landmark_vertices()[list(NOW_LANDMARKS.values())]]
    covered = np.maximum(_hair_share(look) * (look.hair > 0), _cloth_area(rest_positions())) > 0.5
    return {
        "vertices": torch.tensor(mesh.vertices, dtype=torch.float32),
        "faces": torch.tensor(mesh.triangles, dtype=torch.int32),
        "skin": torch.tensor(makehuman.part_mask("skin") & ~covered),
        "landmarks": torch.tensor(landmarks, dtype=torch.float32),
        "millimetres_per_unit": torch.tensor(millimetres_per_unit, dtype=torch.float32),
    }


def random_shape(rng: np.random.Generator) -> np.ndarray:
    """Vertices [n, 3] of a person with an expression, in decimetres."""
    return makehuman.refined(
        makehuman.shaped(makehuman.random_identity(rng) | makehuman.random_expression(rng))
    )


# -------------------------------------------------------------------- where a head stands
def nominal_placement(vertices_dm: np.ndarray) -> np.ndarray:
    """A head [n, 3] in world units, its size kept, with its eyes where those of the canonical face mesh are."""
    canonical, _ = faces.canonical_mesh()
    corners = [NOW_LANDMARKS[name] for name in NOW_LANDMARKS if "eye" in name]
    eyes = vertices_dm[makehuman.part_mask("left eye", "right eye")].mean(0)
    return ((vertices_dm - eyes) * CM_PER_DM + canonical[corners].mean(0)) * WORLD_PER_CM


@lru_cache(maxsize=1)
def average_head() -> np.ndarray:
    """The fine mesh [n, 3] of the average head in decimetres."""
    return makehuman.refined(makehuman.shaped(makehuman.AVERAGE))


@lru_cache(maxsize=1)
def _average() -> tuple[np.ndarray, np.ndarray]:
    """The average head [n, 3] in world units, standing as photographed heads do, and its landmarks' vertices [468].

    The landmarks are found in its picture. The mesh of every head is the same, so they hold for all.
    """
    mesh = ColouredMesh(nominal_placement(average_head()), makehuman.fine_triangles(), plain_colours())
    for _ in range(LOOKS):
        landmarks = _seen_landmarks(mesh)
        if landmarks is None:
            raise faces.FaceError(
                "no face is found in the average head; is the landmark model another than the manifest's?"
            )
        marks = _vertices_under(mesh, landmarks)
        mesh = replace(mesh, vertices=_frontal(mesh.vertices, landmarks)(mesh.vertices))
    return mesh.vertices, marks


@lru_cache(maxsize=1)
def _detector() -> faces.FaceDetector:
    return faces.FaceDetector(max_faces=1)


def _seen_landmarks(mesh: ColouredMesh) -> np.ndarray | None:
    """Landmarks [468, 3] of a head as `faces` finds them in a picture from the front, in its pixels; or None."""
    picture = PathTracer(mesh, studio_light()).picture(orbit(0.0, 0.0), LOOK_SIZE, LOOK_SAMPLES)
    found = _detector()(to_uint8(picture)[0])
    return found[0].landmarks[:468] if found else None


@dataclass(frozen=True)
class Similarity:
    """Takes points [n, 3] to scale * rotation @ point + translation."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation

    def after(self, first: Similarity) -> Similarity:
        """The similarity that does `first`, and then this."""
        return Similarity(
            self.scale * first.scale, self.rotation @ first.rotation, self(first.translation[None])[0]
        )


def _frontal(vertices: np.ndarray, landmarks: np.ndarray) -> Similarity:
    """Turns, scales and moves a head [n, 3] so that the pose under its landmarks becomes the frontal camera's.

    The pose says nothing of the distance: the eyes' stays.
    """
    pose = faces.head_pose(landmarks)
    world_per_pixel = RADIUS / (FOCAL * LOOK_SIZE)
    scale = WORLD_PER_CM / (pose.scale * world_per_pixel)
    column, minus_row, _ = pose.origin
    origin = np.array([column - LOOK_SIZE / 2, minus_row + LOOK_SIZE / 2, 0]) * world_per_pixel
    upright = Similarity(scale, pose.rotation.T, -scale * pose.rotation.T @ origin)
    eyes = vertices[makehuman.part_mask("left eye", "right eye")]
    nearer = np.array([0, 0, (eyes - upright(eyes))[:, 2].mean()])
    return replace(upright, translation=upright.translation + nearer)


def _vertices_under(mesh: ColouredMesh, landmarks: np.ndarray) -> np.ndarray:
    """Vertices [468] of the skin that a picture from the front shows closest to its landmarks [468, 3]."""
    camera = orbit(0.0, 0.0)
    depth, _, _ = PathTracer(mesh, studio_light()).surface(camera, LOOK_SIZE)
    uv = _project(camera, mesh.vertices)
    column, row = (uv * LOOK_SIZE).astype(int).clip(0, LOOK_SIZE - 1).T
    distance = np.linalg.norm(mesh.vertices - camera.position[0].numpy(), axis=1)
    in_front = np.abs(distance - depth[0, 0].numpy()[row, column]) < SEEN_SLACK
    visible = np.flatnonzero(makehuman.part_mask("skin") & in_front)
    return visible[cKDTree(uv[visible]).query(landmarks[:, :2] / LOOK_SIZE)[1]]


def landmark_vertices() -> np.ndarray:
    """Of each of the face mesh's 468 landmarks, the vertex of the fine mesh that lies there."""
    return _average()[1]


def like_average(vertices_dm: np.ndarray) -> Similarity:
    """From decimetres to where a head [n, 3] stands like the average one, landmarks upon landmarks."""
    average, marks = _average()
    return Similarity(*faces.similarity_fit(vertices_dm[marks], average[marks]))


def as_photographed(vertices_dm: np.ndarray, colours: np.ndarray) -> tuple[Similarity, str]:
    """From decimetres to where a head [n, 3] stands as if its frontal picture were an aligned photo.

    Like the average head, then set right by one look. Returns what it was aligned by in the end: "picture" or,
    where the landmark model sees no face in the picture, "landmarks".
    """
    first = like_average(vertices_dm)
    mesh = ColouredMesh(first(vertices_dm), makehuman.fine_triangles(), colours)
    landmarks = _seen_landmarks(mesh)
    if landmarks is None:
        return first, "landmarks"
    return _frontal(mesh.vertices, landmarks).after(first), "picture"


def rest_positions() -> np.ndarray:
    """Where the vertices [n, 3] of the average head stand, in centimetres: the frame in which colours are laid."""
    return _average()[0] / WORLD_PER_CM


def _project(camera: Camera, vertices: np.ndarray) -> np.ndarray:
    """Image positions [n, 2] of world points."""
    return camera.project(torch.tensor(vertices, dtype=torch.float32)[None])[0][0].numpy()


# -------------------------------------------------------------------- regions of the skin
@lru_cache(maxsize=1)
def regions() -> dict[str, np.ndarray]:
    """Share [n] from 0 to 1 of every vertex in: mouth, brows (as landmarks outline them), face, ears."""
    skin = makehuman.part_mask("skin")
    camera = orbit(0.0, 0.0)
    rest = rest_positions() * WORLD_PER_CM
    uv = _project(camera, rest)
    landmarks_uv = uv[landmark_vertices()]
    outlines = parsing.landmark_masks(landmarks_uv, LOOK_SIZE)
    outlines["face"] = torch.from_numpy(
        np.isfinite(faces.face_depth(np.column_stack([landmarks_uv, np.zeros(468)]), 0.0, LOOK_SIZE))
    )
    facing = skin & (rest[:, 2] > 0)
    shares = {}
    for name, blur in (("mouth", 0.7), ("brows", 1.0), ("face", 8.0)):
        mask = gaussian_filter(outlines[name].squeeze().numpy().astype(float), blur)
        shares[name] = np.where(facing, _sampled(mask, uv), 0.0)
    moved = sum(np.abs(makehuman.target(f"ears/{side}-ear-trans-up")[:, 1]) for side in "lr")
    shares["ears"] = _step(makehuman.refined(moved / moved.max()), 0.3, 0.6) * skin
    return shares


def _sampled(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values of a picture [h, w] or [h, w, c] at image positions [n, 2], bilinearly."""
    height, width = picture.shape[:2]
    place = (uv[:, ::-1] * [height, width] - 0.5).T
    if picture.ndim == 2:
        return map_coordinates(picture, place, order=1, mode="nearest")
    return np.stack([_sampled(channel, uv) for channel in np.moveaxis(picture, 2, 0)], axis=1)


HAIRLINE = {
    "front": ((0, 9.2), (35, 8.6), (55, 7.0), (68, 2.5), (84, 0.0), (100, 0.0), (125, -4.0), (180, -6.5)),
    "receding": (
        (0, 11.5),
        (25, 10.5),
        (50, 10.5),
        (68, 4.5),
        (84, 0.0),
        (100, 0.0),
        (125, -4.0),
        (180, -6.5),
    ),
}
"""Azimuth about the head's axis in degrees from the front -> height in centimetres where the hair begins."""

HEAD_AXIS_Z_CM = -3.0
"""Of the vertical line about which the hairline goes round."""


def above_hairline(hairline: str) -> np.ndarray:
    """Height in centimetres of every vertex [n] over the hairline; negative on face and neck, and off the skin."""
    x, y, z = rest_positions().T
    azimuth = np.degrees(np.arctan2(np.abs(x), z - HEAD_AXIS_Z_CM))
    above = y - np.interp(azimuth, *zip(*HAIRLINE[hairline], strict=True))
    return np.where(makehuman.part_mask("skin"), above - 20 * regions()["ears"], -100.0)


# -------------------------------------------------------------------- colours by rule
SKIN_TONES = (
    (0.95, 0.80, 0.72),
    (0.89, 0.70, 0.58),
    (0.78, 0.58, 0.45),
    (0.62, 0.44, 0.33),
    (0.46, 0.32, 0.24),
    (0.34, 0.23, 0.18),
)
HAIR_TONES = (
    (0.10, 0.08, 0.07),
    (0.23, 0.15, 0.10),
    (0.40, 0.26, 0.16),
    (0.62, 0.46, 0.28),
    (0.50, 0.22, 0.12),
    (0.62, 0.60, 0.58),
)
IRIS_TONES = (
    (0.28, 0.17, 0.10),
    (0.40, 0.28, 0.14),
    (0.35, 0.42, 0.28),
    (0.35, 0.48, 0.62),
    (0.45, 0.50, 0.53),
)
CLOTH_TONES = (
    (0.15, 0.17, 0.22),
    (0.65, 0.65, 0.62),
    (0.50, 0.16, 0.16),
    (0.18, 0.32, 0.45),
    (0.25, 0.38, 0.27),
)
"""All in sRGB."""

SCLERA, PUPIL, TEETH, TONGUE, LASHES = (
    (0.86, 0.84, 0.82),
    (0.03, 0.03, 0.03),
    (0.86, 0.82, 0.74),
    (0.62, 0.33, 0.32),
    (0.10, 0.08, 0.07),
)

IRIS_ANGLE, PUPIL_ANGLE = 0.47, 0.19
"""Radians from the eye's axis, about its centre."""


@dataclass(frozen=True)
class Look:
    """What a head is coloured with: linear colours [3], and how its hair is worn.

    stubble, flush, mottle: strengths from 0 to 1 of a beard's shadow, red cheeks and uneven skin. hair: the longest
    in centimetres, 0 for none.
    """

    skin: np.ndarray
    lips: np.ndarray
    iris: np.ndarray
    hair_colour: np.ndarray
    cloth: np.ndarray
    hair: float
    hairline: str
    stubble: float
    flush: float
    mottle: float
    seed: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Look:
        skin = _between(SKIN_TONES, rng)
        return cls(
            skin=skin,
            lips=skin * rng.uniform([0.75, 0.42, 0.42], [0.95, 0.6, 0.62]),
            iris=_between(IRIS_TONES, rng),
            hair_colour=_between(HAIR_TONES, rng),
            cloth=_between(CLOTH_TONES, rng),
            hair=float(rng.choice([0.0, 0.6, 1.5, 2.5], p=[0.08, 0.27, 0.4, 0.25])),
            hairline=str(rng.choice(["front", "receding"], p=[0.8, 0.2])),
            stubble=float(rng.choice([0.0, rng.uniform(0.2, 0.8)], p=[0.65, 0.35])),
            flush=rng.uniform(0.1, 0.6),
            mottle=rng.uniform(0.02, 0.08),
            seed=int(rng.integers(2**31)),
        )


def _between(tones: tuple[tuple[float, ...], ...], rng: np.random.Generator) -> np.ndarray:
    """A linear colour [3] somewhere between two neighbours of a scale of sRGB colours."""
    place = rng.uniform(0, len(tones) - 1)
    below = min(int(place), len(tones) - 2)
    return linear(np.array(tones[below]) * (below + 1 - place) + np.array(tones[below + 1]) * (place - below))


def plain_colours() -> np.ndarray:
    """Colours [n, 3] of the parts alone: enough for a landmark model to know a face."""
    colours = np.tile(linear(np.array(SKIN_TONES[1])), (len(makehuman.fine_parts()), 1))
    return _with_parts(colours, iris=linear(np.array(IRIS_TONES[1])))


def _with_parts(colours: np.ndarray, iris: np.ndarray) -> np.ndarray:
    """Colours [n, 3] with those of eyes, teeth, tongue and lashes in their places."""
    colours = colours.copy()
    for name, tone in (("teeth", TEETH), ("tongue", TONGUE), ("lashes", LASHES)):
        colours[makehuman.part_mask(name)] = linear(np.array(tone))
    for side in ("left eye", "right eye"):
        eye = makehuman.part_mask(side)
        colours[eye] = _eye_colours(average_head()[eye], iris)
    return colours


def _eye_colours(vertices: np.ndarray, iris: np.ndarray) -> np.ndarray:
    """Colours [n, 3] of an eyeball that looks along +z: pupil, iris with a darker rim, white."""
    outward = vertices - (vertices.min(0) + vertices.max(0)) / 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    angle = np.arccos(outward[:, 2].clip(-1, 1))[:, None]
    rim = 1 - 0.6 * _step(angle, IRIS_ANGLE - 0.12, IRIS_ANGLE)
    inner = linear(np.array(PUPIL)) + _step(angle, PUPIL_ANGLE - 0.03, PUPIL_ANGLE + 0.03) * iris * rim
    white = _step(angle, IRIS_ANGLE - 0.03, IRIS_ANGLE + 0.03)
    return (1 - white) * inner + white * linear(np.array(SCLERA))


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smoothly between (Hermite)."""
    share = ((value - low) / (high - low)).clip(0, 1)
    return share * share * (3 - 2 * share)


def _waves(points: np.ndarray, wavelength: float, rng: np.random.Generator, n_waves: int = 24) -> np.ndarray:
    """Smooth noise [n] of standard deviation 1 over points [n, 3]: plane waves of about that wavelength."""
    directions = rng.normal(size=(3, n_waves))
    directions *= 2 * np.pi / wavelength * rng.uniform(0.6, 1.6, n_waves) / np.linalg.norm(directions, axis=0)
    return np.sqrt(2 / n_waves) * np.cos(points @ directions + rng.uniform(0, 2 * np.pi, n_waves)).sum(1)


def painted_by_rule(look: Look) -> np.ndarray:
    """Colours [n, 3] of a head: skin with cheeks, lips, brows, stubble, hair and cloth, and the other parts."""
    rng = np.random.default_rng(look.seed)
    rest, shares = rest_positions(), regions()
    colours = look.skin * np.exp(look.mottle * _waves(rest, 3.0, rng))[:, None]
    colours = _mixed(colours, colours * [1.0, 0.72, 0.7], look.flush * _cheeks(rest))
    beard = look.stubble * _beard_area(rest, shares)
    colours = _mixed(colours, 0.5 * colours + 0.3 * look.hair_colour, beard)
    colours = _mixed(colours, look.lips, shares["mouth"])
    colours = _mixed(colours, look.hair_colour, 0.7 * shares["brows"])
    colours = _mixed(colours, look.cloth, _cloth_area(rest))
    colours = _mixed(colours, _strands(look, rest, rng), _hair_share(look))
    return _with_parts(colours.clip(0, 1), look.iris)


def _mixed(colours: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share[:, None].clip(0, 1)
    return (1 - share) * colours + share * other


def _landmark(number: int) -> np.ndarray:
    return rest_positions()[landmark_vertices()[number]]


def _cheeks(rest: np.ndarray) -> np.ndarray:
    """1 in the middle of the cheeks and on the tip of the nose, falling off over 2 cm."""
    spots = [_landmark(205), _landmark(425), _landmark(4)]
    return sum(np.exp(-((rest - spot) ** 2).sum(1) / 2 / 1.6**2) for spot in spots)


def _beard_area(rest: np.ndarray, shares: dict[str, np.ndarray]) -> np.ndarray:
    """Jaw, chin and upper lip."""
    below_nose = _landmark(2)[1] + 0.3 + 0.05 * rest[:, 0] ** 2
    over_neck = _landmark(152)[1] - 1.0
    area = _step(below_nose - rest[:, 1], 0, 1.2) * _step(rest[:, 1], over_neck - 1.5, over_neck)
    return area * _step(rest[:, 2], -2.5, 0.5) * (1 - shares["mouth"])


def _cloth_area(rest: np.ndarray) -> np.ndarray:
    """Shoulders and chest up to a round neckline."""
    aside = np.hypot(rest[:, 0], rest[:, 2] - HEAD_AXIS_Z_CM)
    return _step(aside - 7.5 - 0.5 * (rest[:, 1] + 12.0).clip(min=0), -0.2, 0.2) * (rest[:, 1] < -11.0)


def _hair_share(look: Look) -> np.ndarray:
    """Share [n] of hair in the colour of every vertex; of shaved heads a shadow."""
    edge = 0.6 + 0.25 * _waves(rest_positions(), 2.0, np.random.default_rng(look.seed + 1))
    share = _step(above_hairline(look.hairline), edge - 0.6, edge + 0.6)
    return share * (0.25 if look.hair == 0 else 1.0)


def _strands(look: Look, rest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours [n, 3] of hair, streaked along its fall from the crown."""
    x, y, z = rest.T
    azimuth = np.arctan2(x, z - HEAD_AXIS_Z_CM)
    fall = np.column_stack([9 * np.cos(azimuth), 9 * np.sin(azimuth), 0.15 * y])
    return look.hair_colour * np.exp(0.35 * _waves(fall, 1.2, rng))[:, None]


def grown_hair(vertices: np.ndarray, look: Look) -> np.ndarray:
    """Vertices [n, 3] in decimetres, the scalp moved outward by the hair: wavy, and thinner at its edge."""
    if look.hair == 0:
        return vertices
    rng = np.random.default_rng(look.seed + 2)
    thickness = look.hair * _step(above_hairline(look.hairline), 0.2, 2.0 + look.hair)
    thickness *= 1 + 0.12 * _waves(rest_positions(), 2.5, rng)
    return vertices + thickness[:, None] / CM_PER_DM * vertex_normals(vertices)


def vertex_normals(vertices: np.ndarray) -> np.ndarray:
    """Unit normals [n, 3] of the fine mesh's vertices, weighted by the area of their triangles."""
    triangles = makehuman.fine_triangles()
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    normals = np.zeros_like(vertices)
    for corner in triangles.T:
        np.add.at(normals, corner, np.cross(b - a, c - a))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-12)


# -------------------------------------------------------------------- colours of a portrait
SLANTS = (0.15, 0.55)
"""Cosines of the skin's slant against a portrait's camera between which it begins to be believed."""

PORTRAIT_SIZE = 512
"""Pixels of the aligned portrait whose colours are taken."""

BEND_SMOOTHING = 3e-3
"""Of the spline that bends a portrait: an open mouth has two lips where a closed one has one line."""


def painted_by_portrait(look: Look, photo: np.ndarray) -> np.ndarray:
    """Colours [n, 3] of a head that wears the face of a photo, uint8 [height, width, 3].

    The portrait is projected from its own camera, bent so that its landmarks fall on the mesh's (thin-plate
    spline). Sides that it does not show are those of the other side, mirrored; ears, hair, neck and what no side
    shows are painted by rule, in the colours of the portrait's skin and hair.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", faces.FaceWarning)  # a small or cut photo does for a skin
        portrait = faces.portrait_from_photo(photo, PORTRAIT_SIZE, parse=False)
    face = makehuman.part_mask("skin") & (regions()["face"] > 0)
    colours, trust = _projected(portrait, face)
    look = _toned(look, colours, trust, portrait)
    by_rule = painted_by_rule(look)
    twin = _mirrored_vertices()
    mirrored, mirrored_trust = colours[twin], trust[twin]
    believed = trust + (1 - trust) * mirrored_trust
    worn = _mixed(mirrored, colours, trust / believed.clip(min=1e-6))
    return _mixed(by_rule, worn, believed * regions()["face"] * _below_fringe())


def _projected(portrait: faces.Portrait, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear colours [n, 3] that a portrait gives the vertices of the face, and how far [n] it shows them."""
    rest = rest_positions() * WORLD_PER_CM
    uv = _project(portrait.camera, rest)
    marks = landmark_vertices()
    unique = np.unique(marks, return_index=True)[1]  # a spline takes each place once
    shift = portrait.landmarks[:468, :2].numpy()[unique] - uv[marks[unique]]
    bend = RBFInterpolator(uv[marks[unique]], shift, kernel="thin_plate_spline", smoothing=BEND_SMOOTHING)
    picture = linear((portrait.image[0].permute(1, 2, 0).numpy() + 1) / 2)
    colours, trust = np.zeros_like(rest), np.zeros(len(rest))
    colours[face] = _sampled(picture, uv[face] + bend(uv[face]))
    toward_camera = portrait.camera.position[0].numpy() - rest
    toward_camera /= np.linalg.norm(toward_camera, axis=1, keepdims=True)
    slant = (vertex_normals(rest) * toward_camera).sum(1)
    trust[face] = _step(slant[face], *SLANTS)
    return colours, trust


def _toned(look: Look, colours: np.ndarray, trust: np.ndarray, portrait: faces.Portrait) -> Look:
    """The look with the portrait's skin, as at the edge of what is worn of it, and its hair, as at its top."""
    rest, worn = rest_positions(), regions()["face"] * _below_fringe()
    edge = (worn > 0.2) & (worn < 0.8) & (trust > 0.5) & (rest[:, 1] < 2)
    top = (above_hairline("front") > 2) & (rest[:, 2] > -5) & (rest[:, 1] < 12)
    picture = linear((portrait.image[0].permute(1, 2, 0).numpy() + 1) / 2)
    hair = np.median(_sampled(picture, _project(portrait.camera, rest[top] * WORLD_PER_CM)), axis=0)
    return replace(look, skin=np.median(colours[edge], axis=0), hair_colour=hair, flush=0.0)


def _below_fringe() -> np.ndarray:
    """1 up to the brows and between the temples, 0 from 1 cm further on: a portrait's hair may hang over its face."""
    x, y, _ = rest_positions().T
    right_brow, left_brow, temple = _landmark(105), _landmark(334), np.abs(_landmark(46)[0])
    low = 1 - _step(y, max(right_brow[1], left_brow[1]), max(right_brow[1], left_brow[1]) + 1.3)
    beside = _step(np.abs(x), temple - 0.5, temple + 1.2) * _step(y, -1.0, 1.0)
    return low * (1 - beside)


@lru_cache(maxsize=1)
def _mirrored_vertices() -> np.ndarray:
    """Of every vertex [n] the one on the other side of the face."""
    rest = average_head()
    return cKDTree(rest).query(rest * [-1, 1, 1])[1]


def sampled_portrait(seed: int, generator: EG3D) -> np.ndarray:
    """A head of the generator from the front, uint8 [256, 256, 3]: a face for another head to wear."""
    camera = generator.frontal_camera()
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed)).to(camera.device)
    with torch.no_grad():
        image = generator.synthesize(generator.map(z, camera, truncation_psi=0.7), camera).image
    return to_uint8(resize(image.cpu(), max(256, generator.resolution)))[0]


# -------------------------------------------------------------------- light
SKY_HEIGHT = 256
"""Pixels of an environment of light from the zenith to the nadir: 0.7 degrees each."""


def studio_light() -> np.ndarray:
    """Even light [h, 2h, 3], a little stronger from above and in front, before grey."""
    directions = sky_directions(SKY_HEIGHT)
    return np.repeat((0.45 + 0.15 * directions[..., 1:2] + 0.2 * directions[..., 2:3]), 3, axis=2)


def random_light(rng: np.random.Generator, contrast: float = 1.0) -> np.ndarray:
    """Light [h, 2h, 3] of a large lamp somewhere in front and above, over a dim room that is the background.

    contrast: how much stronger the lamp is than the rest: 0 for no lamp. A white face would show 0.9 to 1.2.
    """
    directions = sky_directions(SKY_HEIGHT)
    yaw, height = rng.uniform(-0.9, 0.9), rng.uniform(0.2, 0.9)
    lamp = np.array([np.sin(yaw) * np.cos(height), np.sin(height), np.cos(yaw) * np.cos(height)])
    glow = np.exp((directions @ lamp - 1) / rng.uniform(0.05, 0.15))[..., None]
    warmth = 1 + rng.uniform(-0.1, 0.1) * np.array([1.0, 0.0, -1.0])
    fill = 1 + 0.4 * directions[..., 1:2] + 0.3 * directions[..., 2:3]
    light = fill + contrast * rng.uniform(5, 12) * glow * warmth
    light *= rng.uniform(0.9, 1.2) / irradiance(light, np.array([0.0, 0.0, 1.0])).mean()
    behind = _step(-directions[..., 2:3], -0.1, 0.3)
    return (1 - behind) * light + behind * _room(directions, rng)


def _room(directions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is seen behind the head, out of focus: two colours, and patches of others."""
    top, bottom = _muted(rng, 2)
    room = bottom + (top - bottom) * _step(directions[..., 1:2], -0.25, 0.25)
    for _ in range(rng.integers(4, 12)):
        centre = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.2), -1.0])
        centre /= np.linalg.norm(centre)
        radius = rng.uniform(0.04, 0.15)
        patch = _step(directions @ centre, np.cos(1.4 * radius), np.cos(0.6 * radius))[..., None]
        room += 0.7 * patch * (_muted(rng, 1) - room)
    return room


def _muted(rng: np.random.Generator, count: int) -> np.ndarray:
    """Linear colours [count, 3], more grey than colourful."""
    return linear((rng.uniform(0.15, 0.85, (count, 1)) + rng.uniform(-0.12, 0.12, (count, 3))).clip(0, 1))
