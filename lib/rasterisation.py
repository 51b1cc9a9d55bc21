"""Triangle meshes as cameras see them: which face each pixel shows, and which vertices nothing hides.

HFGI3D (Xie et al., 2023) appendix A.1 asks this of the mesh of an early-stopped latent: its visible vertices take
the photo's colours, and other cameras look at them. Meshes are vertices [V, 3] in world units and faces [F, 3] of
indices into them; either side of a face shows. A face with a vertex that is not before the camera is left out.

Work grows with the pairs of a face and a pixel within its bounding box; nothing loops over faces or pixels.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera, pixel_centres
from lib.meshes import seen_points

TOLERANCE = 1 / 512
"""World units by which a vertex may lie behind what is seen and count as seen: HFGI3D's released code has this."""

_PAIRS_AT_ONCE = 2**19
"""Pairs of a face and an image position that are held in memory together."""

_NO_FACE = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Fragments:
    """What each pixel of B square pictures sees of a mesh, at its centre.

    face: [B, R, R], -1 where there is none; barycentric: [B, R, R, 3], weights of the face's vertices in the world
    (not in the picture), 0 where there is none; depth: [B, 1, R, R] along the ray, infinite where there is none.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor

    @property
    def covered(self) -> Tensor:
        """Pixels that show the mesh: bool [B, 1, R, R]."""
        return (self.face >= 0)[:, None]


# -------------------------------------------------------------------- pictures of a mesh
@torch.no_grad()
def rasterise(vertices: Tensor, faces: Tensor, camera: Camera, resolution: int) -> Fragments:
    """The nearest face at each pixel centre of B cameras' pictures; of faces equally near, the first.

    No gradient reaches the vertices; `interpolate` is differentiable in the values that it is given.
    """
    _check_mesh(vertices, faces)
    if resolution < 1:
        raise ValueError(f"a picture needs at least one pixel a side; got resolution {resolution}")
    camera, pixels = camera.to(vertices.device, vertices.dtype), pixel_centres(resolution, vertices)
    views = [_seen_at(_corners(vertices, faces, single), pixels) for single in camera]
    face, barycentric, depth_z = (torch.stack(parts) for parts in zip(*views, strict=True))
    depth_z = depth_z.reshape(-1, 1, resolution, resolution)
    return Fragments(
        face=face.reshape(-1, resolution, resolution),
        barycentric=barycentric.reshape(-1, resolution, resolution, 3),
        depth=depth_z / camera.ray_cosines(resolution),
    )


def interpolate(fragments: Fragments, faces: Tensor, values: Tensor) -> Tensor:
    """Pictures [B, C, R, R] of what varies over the mesh, from its values [V, C] at the vertices; 0 off the mesh."""
    if values.ndim != 2:
        raise ValueError(f"values of a mesh are [V, C], a row for each vertex; got {tuple(values.shape)}")
    covered = fragments.face >= 0
    corners = values[faces[fragments.face[covered]]]
    pictures = values.new_zeros(*covered.shape, values.shape[1])
    pictures[covered] = (corners * fragments.barycentric[covered][..., None].to(values.dtype)).sum(dim=-2)
    return pictures.permute(0, 3, 1, 2)


@torch.no_grad()
def visible_vertices(vertices: Tensor, faces: Tensor, camera: Camera, tolerance: float = TOLERANCE) -> Tensor:
    """Which vertices each of B cameras sees: in the picture, before the camera, no face before them: bool [B, V].

    HFGI3D appendix A.1 compares the vertices with a z-buffer. Pixels would sample it beside the vertices, so that
    slanted surfaces would hide themselves; here it is sampled at the vertices' own image positions instead: what
    a z-buffer of endless resolution says. tolerance: world units along the ray.
    """
    _check_mesh(vertices, faces)
    camera = camera.to(vertices.device, vertices.dtype)
    visible = torch.zeros(len(camera), len(vertices), dtype=torch.bool, device=vertices.device)
    for single, seen in zip(camera, visible, strict=True):
        uv, depth_z = (x[0] for x in single.project(vertices[None]))
        shown = ((uv > 0) & (uv < 1)).all(dim=-1) & (depth_z > 0)
        _, _, surface_z = _seen_at(_corners(vertices, faces, single), uv[shown])
        distance = (vertices[shown] - single.position).norm(dim=-1)
        # Both lie on one ray, so that their distances are as their depths along the axis.
        seen[shown] = distance * (1 - surface_z / depth_z[shown]) <= tolerance
    return visible


def _corners(vertices: Tensor, faces: Tensor, camera: Camera) -> Tensor:
    """(u, v, z) [F, 3, 3] of the faces' corners in one camera's picture; z is not positive behind it."""
    uv, depth_z = camera.project(vertices[None])
    return torch.cat([uv[0], depth_z[0, :, None]], dim=-1)[faces]


# -------------------------------------------------------------------- faces at image positions
def _seen_at(corners: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of the faces at each of N image positions: its index [N], weights [N, 3] and depth along z [N]."""
    face = _nearest_faces(corners, positions)
    found = face >= 0
    barycentric = positions.new_zeros(len(positions), 3)
    depth_z = positions.new_full((len(positions),), math.inf)
    barycentric[found], depth_z[found] = _intersect(corners[face[found]], positions[found])
    return face, barycentric, depth_z


def _intersect(corners: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays through N image positions meet the planes of N triangles: weights [N, 3], depth along z [N].

    The weight of a corner in the picture is the area that the position spans with the edge across from it;
    divided by the corner's depth, it is the weight in the world, up to a common factor. Two triangles get the
    areas at their common edge from the same two products, opposite to the last bit: no ray slips between them.
    """
    (xa, xb, xc), (ya, yb, yc) = (
        (corners[:, :, axis] - positions[:, axis, None]).unbind(dim=1) for axis in (0, 1)
    )
    areas = torch.stack([xb * yc - xc * yb, xc * ya - xa * yc, xa * yb - xb * ya], dim=1)
    weights = areas / corners[:, :, 2]
    total = weights.sum(dim=1)
    return weights / total[:, None], areas.sum(dim=1) / total


def _nearest_faces(corners: Tensor, positions: Tensor) -> Tensor:
    """Index [N] of the nearest face [F, 3, 3] at each image position [N, 2]; -1 where there is none.

    Depth and index are packed into one integer, whose minimum is the same in whatever order the pairs come.
    """
    order, faces, starts, counts = _candidates(corners, positions)
    positions = positions[order]
    nearest = torch.full((len(positions),), _NO_FACE, device=positions.device)
    for part in _parts(counts):
        run, step = _runs(counts[part])
        face, index = faces[part][run], starts[part][run] + step
        weights, depth_z = _intersect(corners[face], positions[index])
        inside = (weights >= 0).all(dim=1)  # false for NaN: faces seen edge-on
        bits = depth_z[inside].float().view(torch.int32).long()  # of positive floats, ordered as they are
        nearest.scatter_reduce_(0, index[inside], bits << 32 | face[inside], "amin")
    found = torch.empty_like(nearest)
    found[order] = torch.where(nearest == _NO_FACE, -1, nearest & 0xFFFFFFFF)
    return found


def _candidates(corners: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which image positions lie within the bounding boxes of which faces.

    The picture is cut into horizontal strips, and positions are ordered along them. Returns that order [N], and
    for every strip that a face touches: the face, the place in the order of its first position, and their number.
    """
    strips = max(1, math.isqrt(len(positions)))
    strip_of = (positions[:, 1] * strips).floor()
    keys, order = (strip_of + positions[:, 0].double()).sort(stable=True)

    low, high = (bound(corners[:, :, :2], dim=1) for bound in (torch.amin, torch.amax))
    first = (low[:, 1] * strips).floor().clamp(0, strips)
    last = (high[:, 1] * strips).floor().clamp(-1, strips - 1)
    before_camera = (corners[:, :, 2] > 0).all(dim=1)
    touched = (last - first + 1).clamp(min=0).where(before_camera, 0).long()

    face, step = _runs(touched)
    strip = first[face] + step.double()
    starts = torch.searchsorted(keys, strip + low[face, 0].clamp(0, 1))
    ends = torch.searchsorted(keys, strip + high[face, 0].clamp(0, 1), right=True)
    return order, face, starts, ends - starts


def _runs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each index repeated as often as its count says, and beside it 0, 1, ... along each run."""
    index = torch.repeat_interleave(counts)
    begins = counts.cumsum(0) - counts
    return index, torch.arange(len(index), device=counts.device) - begins[index]


def _parts(counts: Tensor) -> list[slice]:
    """Slices that cut the counts into stretches of about `_PAIRS_AT_ONCE` in sum."""
    sums = counts.cumsum(0)
    total = sums[-1].item() if len(sums) else 0
    marks = torch.arange(0, total, _PAIRS_AT_ONCE, device=counts.device)
    cuts = [*torch.searchsorted(sums, marks).tolist(), len(counts)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts) if a < b]


# -------------------------------------------------------------------- the mesh of a depth map
def depth_mesh(camera: Camera, depth: Tensor, least_slant: float = 0.0) -> tuple[Tensor, Tensor]:
    """The mesh of one camera's depth map [1, 1, R, R] along the rays: vertices [R*R, 3] by pixel, faces [F, 3].

    HFGI3D's released code takes this for its geometry. Each square of four pixels gives two triangles, which
    turn their outer side to the camera. Those that span a jump of depth show little but their edge:
    least_slant: triangles go whose normal has a smaller cosine with the direction to the camera; 0, as
    released, keeps all. Pixels without finite depth have no triangles; their vertices lie at the camera.
    """
    side = depth.shape[-1]
    if len(camera) != 1 or depth.shape != (1, 1, side, side):
        raise ValueError(
            f"a depth mesh is of one camera and its depth [1, 1, R, R]; got {len(camera)} cameras "
            f"and {tuple(depth.shape)}"
        )
    if not 0 <= least_slant < 1:
        raise ValueError(f"least_slant is a cosine from 0 (all triangles) to below 1; got {least_slant}")
    known = depth.isfinite()
    if (depth[known] <= 0).any():
        raise ValueError(
            f"depth must be positive, got {depth[known].min().item():.4g}: mark pixels without it by NaN"
        )
    vertices = seen_points(camera, depth.where(known, 0.0))[0]
    faces = _grid_faces(side, depth.device)
    faces = faces[known.flatten()[faces].all(dim=1)]
    slant = _slant(vertices[faces], camera.position.to(vertices.device))
    return vertices, faces[slant >= least_slant]


def _grid_faces(side: int, device: torch.device) -> Tensor:
    """Two triangles [2 * (side - 1)^2, 3] for each square of four pixels, whose outer side is the camera's."""
    index = torch.arange(side**2, device=device).reshape(side, side)
    top_left, top_right = index[:-1, :-1], index[:-1, 1:]
    bottom_left, bottom_right = index[1:, :-1], index[1:, 1:]
    corners = [top_left, bottom_left, bottom_right, top_left, bottom_right, top_right]
    return torch.stack(corners, dim=-1).reshape(-1, 3)


def _slant(triangles: Tensor, position: Tensor) -> Tensor:
    """Cosine [F] between the triangles' normals and the directions from their middles to a position, unsigned."""
    a, b, c = triangles.unbind(dim=1)
    normals = torch.linalg.cross(b - a, c - a)
    towards = position - triangles.mean(dim=1)
    return (F.normalize(normals, dim=1) * F.normalize(towards, dim=1)).sum(dim=1).abs()


# -------------------------------------------------------------------- input
def _check_mesh(vertices: Tensor, faces: Tensor) -> None:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not vertices.is_floating_point():
        raise ValueError(
            f"expected vertices [V, 3] of floats, got {tuple(vertices.shape)} of {vertices.dtype}: "
            "one mesh, in world units"
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(
            f"expected faces [F, 3] of int64, got {tuple(faces.shape)} of {faces.dtype}: "
            "split polygons into triangles, convert by `.long()`"
        )
    if not vertices.isfinite().all():
        raise ValueError("vertices must be finite: leave out those that are not, with their faces")
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise ValueError(
            f"faces must name vertices 0 to {len(vertices) - 1}, got {faces.min()} to {faces.max()}"
        )
