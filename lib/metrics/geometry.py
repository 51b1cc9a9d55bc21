"""Depth, normals and surfaces against the truth: a value per image, or a distance per point.

Depths are along the ray in world units. A metric compares like with like: depth along the camera's axis may
be compared with such depth too (`lib.warping.depth_along_axis`), but not with depth along the ray.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from lib.cameras import Camera
from lib.faces import similarity_fit
from lib.warping import depth_along_axis

Region = Callable[[np.ndarray], np.ndarray]
"""Which of the points [N, 3] count: bool [N]."""


# -------------------------------------------------------------------- depth
def depth_correlation(depth: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation [B] of depths [B, 1, H, W] over the pixels whose target is known (not NaN).

    Blind to offset and scale: it asks whether the shape is right. NaN where fewer than two pixels are known.
    """
    return torch.stack([(a * b).mean() for a, b in _standardised(depth, target)])


def normalised_depth_error(depth: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference [B] of depths [B, 1, H, W], each of zero mean and unit variance where known.

    EG3D (Chan et al., 2022) and SPI's column "Depth"; known is the face. It is 2 (1 - r) of the correlation r, and
    as blind to scale: SPI's .0476 is r = .976. A depth without any shape has no unit variance: NaN.
    """
    return torch.stack([(a - b).square().mean() for a, b in _standardised(depth, target)])


def normalised_depth_distance(depth: Tensor, target: Tensor) -> Tensor:
    """Mean distance [B] of depths [B, 1, H, W], each of zero mean and unit variance where the target is known.

    GOAE's "Geo. Err.", whose "mean L2" of one number a pixel is read as the mean of its absolute difference. If
    squares were meant, it is `normalised_depth_error`. On which region is not said: the known pixels decide.
    """
    return torch.stack([(a - b).abs().mean() for a, b in _standardised(depth, target)])


def mean_depth_error(depth: Tensor, target: Tensor) -> Tensor:
    """Mean |depth - target| [B] of depths [B, 1, H, W] in world units, over the known pixels."""
    return torch.stack([(a - b).abs().mean() for a, b in _known(depth, target)])


def median_depth_error(depth: Tensor, target: Tensor) -> Tensor:
    """Median |depth - target| [B] of depths [B, 1, H, W] in world units, over the known pixels.

    A rim of pixels at the outline, where head and background are mixed up, does not move it.
    """
    return torch.stack([_median((a - b).abs()) for a, b in _known(depth, target)])


def _median(values: Tensor) -> Tensor:
    """The middle of values [K], the mean of the middle two if K is even; NaN of none."""
    return values.quantile(0.5) if len(values) else values.mean()


def _known(depth: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each image its depths and those of the target [K], at the K pixels whose target is not NaN."""
    if depth.shape != target.shape:
        raise ValueError(
            f"depths {list(depth.shape)} and their truth {list(target.shape)} must be of one size: "
            "bring the finer one down with resize_depth"
        )
    return [(one[~true.isnan()], true[~true.isnan()]) for one, true in zip(depth, target, strict=True)]


def _standardised(depth: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The known depths [K] of each image and its target, both with zero mean and unit variance."""
    centred = [tuple(x - x.mean() for x in pair) for pair in _known(depth, target)]
    return [tuple(x / x.square().mean().sqrt() for x in pair) for pair in centred]


def resize_depth(depth: Tensor, resolution: int) -> Tensor:
    """Depths [B, 1, H, W] averaged down over what is known; NaN where less than half of a pixel is known."""
    known = ~depth.isnan()
    share = F.adaptive_avg_pool2d(known.float(), resolution)
    mean = F.adaptive_avg_pool2d(depth.nan_to_num(0.0), resolution) / share.clamp_min(1e-6)
    return mean.where(share >= 0.5, torch.nan)


# -------------------------------------------------------------------- normals
def normal_error(normals: Tensor, target: Tensor) -> Tensor:
    """Mean angle [B] in degrees between normals [B, 3, H, W], over the pixels whose target is known.

    Normals of an estimate come from its depth (`lib.meshes.normals_from_depth`), in the world as the target's.
    """
    across = torch.linalg.cross(normals, target, dim=1).norm(dim=1)
    angle = torch.atan2(across, (normals * target).sum(dim=1))  # arccos knows small angles badly
    known = ~target.isnan().any(dim=1)
    return torch.stack([one[where].mean() for one, where in zip(angle.rad2deg(), known, strict=True)])


# -------------------------------------------------------------------- surfaces
def surface_distances(points: np.ndarray, mesh: trimesh.Trimesh, batch: int = 4096) -> np.ndarray:
    """Distance [N] of points [N, 3] from the nearest point of a mesh's triangles, exactly; units of the input."""
    if not len(mesh.faces):
        raise ValueError("a mesh without triangles has no surface to measure the distance from")
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    found = [nearest_on_surface(points[i : i + batch], mesh)[1] for i in range(0, len(points), batch)]
    return np.concatenate([np.empty(0), *found])


def nearest_on_surface(points: np.ndarray, mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """The point of a mesh [N, 3] nearest to each point [N, 3], and its distance [N].

    A triangle within distance d of a point has its centroid within d + r, where r is the distance of its farthest
    corner from its centroid; d is at most the distance of the nearest corner of all.
    """
    triangles = np.asarray(mesh.triangles)
    centroids = triangles.mean(axis=1)
    reach = np.linalg.norm(triangles - centroids[:, None], axis=2).max(axis=1)
    bound = cKDTree(triangles.reshape(-1, 3)).query(points)[0] * (1 + 1e-9)
    found = cKDTree(centroids).query_ball_point(points, bound + reach.max(), return_sorted=False)
    owner = np.repeat(np.arange(len(points)), [len(candidates) for candidates in found])
    candidate = np.fromiter(itertools.chain.from_iterable(found), int, len(owner))
    near = np.linalg.norm(centroids[candidate] - points[owner], axis=1) <= bound[owner] + reach[candidate]
    owner, candidate = owner[near], candidate[near]
    closest = trimesh.triangles.closest_point(triangles[candidate], points[owner])
    distance = np.linalg.norm(closest - points[owner], axis=1)
    order = np.lexsort((distance, owner))
    best = order[np.unique(owner, return_index=True)[1]]  # the first of each owner
    return closest[best], distance[best]


class SurfaceError(NamedTuple):
    """Mean distances between two surfaces, in their units."""

    accuracy: float  # from the estimate to the truth: is what it shows there?
    completeness: float  # from the truth to the estimate: is what is there shown?

    @property
    def both(self) -> float:
        """Mean of the two: a chamfer distance."""
        return (self.accuracy + self.completeness) / 2


def surface_error(
    mesh: trimesh.Trimesh,
    target: trimesh.Trimesh,
    n_points: int = 10_000,
    region: Region | None = None,
    seed: int = 0,
) -> SurfaceError:
    """Point-to-surface distances both ways between a mesh and the true one, over random points of each.

    Of an inversion, `lib.meshes.extract_mesh` gives the mesh; both are in world units and stay where they are.
    region: which points count, such as the face; the back of a head was in no picture.
    """
    sampled = [surface_points(surface, n_points, region, seed) for surface in (mesh, target)]
    return SurfaceError(
        surface_distances(sampled[0], target).mean().item(), surface_distances(sampled[1], mesh).mean().item()
    )


def surface_points(
    mesh: trimesh.Trimesh, n_points: int, region: Region | None = None, seed: int = 0
) -> np.ndarray:
    """Points spread evenly over the area of a mesh, those of the region: at most n_points [<=n, 3]."""
    points = np.asarray(trimesh.sample.sample_surface(mesh, n_points, seed=seed)[0])
    points = points if region is None else points[region(points)]
    if not len(points):
        raise ValueError(f"none of {n_points} points of a surface lies in the region that is to be measured")
    return points


# -------------------------------------------------------------------- scans, as NoW measures them
NOW_LANDMARKS = (33, 133, 362, 263, 2, 61, 291)
"""NoW's 7 landmarks, in its order, among MediaPipe's 478: right eye (outer, inner), left eye (inner, outer),
bottom of the nose, corners of the mouth (right, left)."""


def face_sphere(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [3] and radius of the sphere whose inside NoW calls the face, from a scan's 7 landmarks [7, 3].

    The centre lies 0.3 of the way from the bottom of the nose to the middle between the inner corners of the
    eyes; the radius is 0.7 times the sum of that way and the distance between the outer corners.
    """
    bottom, bridge = landmarks[4], (landmarks[1] + landmarks[2]) / 2
    eyes, nose = np.linalg.norm(landmarks[0] - landmarks[3]), np.linalg.norm(bridge - bottom)
    return bottom + 0.3 * (bridge - bottom), float(0.7 * (eyes + nose))


def scan_to_mesh(
    scan: np.ndarray,
    scan_landmarks: np.ndarray,
    mesh: trimesh.Trimesh,
    mesh_landmarks: np.ndarray,
    refinements: int = 30,
) -> np.ndarray:
    """Distance [M] of each point of a scan's face from a mesh, in the units of the scan: millimetres in NoW.

    The NoW benchmark (Sanyal et al., 2019), non-metrical. scan: points [N, 3], of which those in
    `face_sphere` count. The mesh, of any scale and place, is aligned by its landmarks [7, 3] and then, as the
    official tool does beyond the paper's text, by the scan itself (`refined`); `refinements=0` leaves that out.
    What differs from the tool: no mirror image is accepted as an alignment, and another optimiser of the same
    objective. Numbers over many scans: `pooled`.
    """
    for name, landmarks in (("scan_landmarks", scan_landmarks), ("mesh_landmarks", mesh_landmarks)):
        if np.shape(landmarks) != (7, 3):
            raise ValueError(
                f"{name}: expected NoW's 7 landmarks [7, 3] (NOW_LANDMARKS says which), got {np.shape(landmarks)}"
            )
    centre, radius = face_sphere(scan_landmarks)
    face = scan[np.linalg.norm(scan - centre, axis=1) <= radius]
    if not len(face):
        raise ValueError(
            "no point of the scan lies about its landmarks: are both in the same units and frame?"
        )
    aligned = transformed(mesh, similarity_fit(mesh_landmarks, scan_landmarks))
    return surface_distances(face, refined(aligned, face, refinements))


def transformed(mesh: trimesh.Trimesh, similarity: tuple[float, np.ndarray, np.ndarray]) -> trimesh.Trimesh:
    """The mesh with vertices s R v + t."""
    scale, rotation, translation = similarity
    vertices = scale * np.asarray(mesh.vertices) @ rotation.T + translation
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def refined(
    mesh: trimesh.Trimesh, scan: np.ndarray, steps: int, n_points: int = 2000, tolerance: float = 1e-4
) -> trimesh.Trimesh:
    """The mesh moved, turned and scaled so that squared distances of scan points from it get smaller.

    Iterated closest points (Besl and McKay, 1992) with scale: no step makes the sum of squares larger. It ends
    after `steps`, or when the root mean square falls by less than `tolerance` of itself. n_points: of the scan
    that are asked, evenly chosen.
    """
    asked = scan[np.linspace(0, len(scan) - 1, min(n_points, len(scan))).round().astype(int)]
    before = np.inf
    for _ in range(steps):
        nearest, distance = nearest_on_surface(asked, mesh)
        error = np.sqrt((distance**2).mean())
        if error >= before * (1 - tolerance):
            break
        before, mesh = error, transformed(mesh, similarity_fit(nearest, asked))
    return mesh


def pooled(distances: Iterable[np.ndarray]) -> dict[str, float]:
    """Median, mean and standard deviation over all points of all scans together, as NoW reports them."""
    together = np.concatenate(list(distances))
    return {
        "median": np.median(together).item(),
        "mean": together.mean().item(),
        "std": together.std().item(),
    }


def landmarks_in_world(camera: Camera, depth: Tensor, uv: Tensor) -> np.ndarray:
    """World points [N, 3] of landmarks at image positions uv [N, 2] of one view, on its depth [1, 1, R, R].

    So a head without named vertices gets the landmarks that `scan_to_mesh` wants. Depth is along the ray.
    """
    grid = 2 * uv.to(depth)[None, None] - 1
    found = F.grid_sample(depth_along_axis(camera, depth), grid, padding_mode="border", align_corners=False)
    return camera.unproject(uv.to(depth)[None], found.flatten(1))[0].numpy()
