"""A head's surface as a coloured mesh or point cloud, and the files that hold them.

Everything here asks a head only for views and densities, so any inversion of any method can be exported.
Meshes and points are in world units: x right, y up, the face looks along +z.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor

from lib.cameras import Camera
from lib.images import resize
from lib.paths import replacing, require_suffix
from lib.shapes import Images, Points, SingleMaps, checked

OFFICIAL_LEVEL = 10.0
"""Raw density at which EG3D's own scripts cut the surface of their 512 px faces (2 to 20 are usable)."""

OFFICIAL_EXTENT = 0.5 - 30 / 256
"""How far from the middle EG3D's scripts look for the surface, as a share of the cube's side."""

COLOUR_VIEWS = ((0.0, 0.0), (-0.5, 0.0), (0.5, 0.0), (0.0, -0.3), (0.0, 0.3))
"""Yaw and pitch, radians, of the views that colour a mesh: where generators of faces have seen faces."""

SHAPE_RAYS = 128
"""Rays along a side of a view that is taken for its shape, at least: depth needs no super-resolution."""

SHAPE_SAMPLES = 32
"""Samples of either pass on such a ray, at least: with half as many, normals show where they lie."""


class Head(Protocol):
    """What an export needs to know of a head; an `Inversion` is one."""

    generator: Any

    def render(self, camera: Camera, **options: Any) -> Any:
        """`Rendering` of this head from each camera; `options` are those of `EG3D.render`."""

    def density(self, points: Tensor) -> Tensor:
        """Raw densities [1, N] at world points [1, N, 3]."""

    def still(self) -> "Head":
        """The same head with all made that its views and densities share; of a still head, itself."""


def view_of(head: Head, yaw: float | Tensor, pitch: float | Tensor = 0.0) -> Camera:
    """Cameras that see the head from these angles (radians), placed as its generator was trained."""
    return head.generator.camera(yaw, pitch).to("cpu")


@torch.no_grad()
def shape_view(head: Head, camera: Camera) -> Any:
    """`Rendering` for its depth: more rays and samples than a picture needs, and so one camera at a time."""
    config = head.generator.config
    settings = dataclasses.replace(
        config.rendering,
        depth_resolution=max(config.rendering.depth_resolution, SHAPE_SAMPLES),
        depth_resolution_importance=max(config.rendering.depth_resolution_importance, SHAPE_SAMPLES),
    )
    return head.render(camera, neural_resolution=max(config.neural_resolution, SHAPE_RAYS), settings=settings)


@checked
def seen_points(camera: Camera, depth: SingleMaps) -> Points:
    """World points [B, R*R, 3] at this depth along the rays of each pixel, row by row."""
    origins, directions = camera.to(depth.device).rays(depth.shape[-1])
    return origins + directions * depth.flatten(1)[..., None]


# -------------------------------------------------------------------- density
@torch.no_grad()
def density_grid(head: Head, resolution: int = 128, batch: int = 2**18) -> np.ndarray:
    """Raw densities [N, N, N] at the corners of N - 1 cells a side, over the cube that the planes span.

    Index [i, j, k] lies at (x, y, z) = (i, j, k) * side / (N - 1) - side / 2.
    """
    if resolution < 2:
        raise ValueError(f"a density grid needs at least 2 samples a side; got {resolution}")
    head, side = head.still(), head.generator.config.rendering.box_warp
    densities = np.empty(resolution**3, np.float32)
    for start in range(0, len(densities), batch):
        index = torch.arange(start, min(start + batch, len(densities)))
        # Integer division: in EG3D's own script each coordinate carries a fraction of the faster ones.
        i, j, k = index // resolution**2, index // resolution % resolution, index % resolution
        points = torch.stack([i, j, k], dim=-1).float() * (side / (resolution - 1)) - side / 2
        densities[start : start + batch] = head.density(points[None]).reshape(-1).float().cpu().numpy()
    return densities.reshape(resolution, resolution, resolution)


@torch.no_grad()
def surface_level(head: Head, camera: Camera | None = None, opaque: float = 0.9) -> float:
    """Raw density at the surface that is seen: its median over the pixels of a view (default: the front).

    A level set of this density passes through the rendered depth, whatever sharpness the generator learnt.
    opaque: pixels count whose alpha is at least this share of the view's largest.
    """
    head, camera = head.still(), view_of(head, 0.0) if camera is None else camera
    view = head.render(camera)
    points, alpha = seen_points(camera, view.depth), view.alpha.flatten(1).cpu()
    if alpha.max() < 0.5:
        raise ValueError(
            f"no pixel of this view absorbs more than {alpha.max():.0%} of its ray: there is no surface to "
            "measure; choose a level yourself, or a camera that sees the head"
        )
    return head.density(points).reshape(alpha.shape).cpu()[alpha >= opaque * alpha.max()].median().item()


# -------------------------------------------------------------------- mesh
def extract_mesh(
    head: Head,
    resolution: int = 128,
    level: float | None = None,
    extents: tuple[float, float, float] | None = None,
    largest_component: bool = True,
    coloured: bool = True,
) -> trimesh.Trimesh:
    """The level set of a head's raw density as a closed mesh in world units, with vertex colours.

    level: raw density of the surface; None measures it (`surface_level`). EG3D used `OFFICIAL_LEVEL`.
    extents: how far it reaches from the origin along x, y, z; None leaves out what is not seen (`seen_extents`).
    """
    head, side = head.still(), head.generator.config.rendering.box_warp
    level = surface_level(head) if level is None else level
    extents = seen_extents(head) if extents is None else extents
    mesh = surface_of(density_grid(head, resolution), level, side, extents)
    if largest_component:
        mesh = max(mesh.split(only_watertight=False), key=lambda part: part.area)
    if coloured:
        mesh.visual.vertex_colors = vertex_colours(head, mesh, tolerance=2 * side / (resolution - 1))
    return mesh


def seen_extents(head: Head) -> tuple[float, float, float]:
    """How far along x, y, z there is anything to trust: what the frontal picture shows at the head's centre.

    Above and below it the planes go on, but no training picture ever said what is there.
    """
    config = head.generator.config
    depth = OFFICIAL_EXTENT * config.rendering.box_warp
    shown = min(0.5 * config.camera_radius / config.camera_focal, depth)
    return shown, shown, depth


def surface_of(
    densities: np.ndarray, level: float, side: float, extents: tuple[float, float, float]
) -> trimesh.Trimesh:
    """Marching cubes (Lewiner et al., 2003) over a `density_grid` of the cube of this `side`.

    extents: how far the surface may reach from the origin along x, y, z; there it is cut off and closed.
    """
    n = len(densities)
    # At least one sample a face is left out: a closed surface needs something around it.
    borders = [math.ceil(max(1.0, (0.5 - extent / side) * (n - 1) - 1e-6)) for extent in extents]
    if min(extents) <= 0 or 2 * max(borders) >= n - 1:
        raise ValueError(f"extents {extents} leave nothing of a cube of side {side} with {n} samples a side")
    inner = tuple(slice(border, n - border) for border in borders)
    require_surface(densities[inner], level)
    # So low that a cut lies at the outermost sample, not half-way to the next.
    closed = np.full_like(densities, level - 1e3 * (densities.max() - level))
    closed[inner] = densities[inner]
    # "ascent" is what turns the triangles outward here, where densities grow inward.
    vertices, faces, _, _ = marching_cubes(closed, level, gradient_direction="ascent")
    return trimesh.Trimesh(vertices * (side / (n - 1)) - side / 2, faces, process=True)


def require_surface(densities: np.ndarray, level: float) -> None:
    """An error where densities do not pass through a level."""
    if not densities.min() < level < densities.max():
        raise ValueError(
            f"no surface at density {level:.4g}: the densities of this head lie between "
            f"{densities.min():.4g} and {densities.max():.4g}"
        )


@torch.no_grad()
def vertex_colours(
    head: Head,
    mesh: trimesh.Trimesh,
    tolerance: float,
    views: tuple[tuple[float, float], ...] = COLOUR_VIEWS,
) -> np.ndarray:
    """Colours [V, 3] (sRGB bytes): the mean over the views that see a vertex, by squared cosine of its slant.

    A vertex counts as seen up to `tolerance` behind the rendered depth. One that no view sees takes the
    colour of the nearest vertex that is seen.
    """
    head = head.still()
    points = torch.tensor(mesh.vertices, dtype=torch.float32)[None]
    normals = torch.tensor(mesh.vertex_normals, dtype=torch.float32)
    total, weight = torch.zeros(len(mesh.vertices), 3), torch.zeros(len(mesh.vertices), 1)
    for yaw, pitch in views:
        camera = view_of(head, yaw, pitch)
        view = head.render(camera)
        uv, depth_z = camera.project(points)
        to_camera = camera.position - points[0]
        distance = to_camera.norm(dim=-1, keepdim=True)
        slant = (normals * to_camera / distance).sum(dim=-1, keepdim=True).clamp_min(0)
        in_picture = ((uv > 0) & (uv < 1)).all(dim=-1) & (depth_z > 0)
        in_sight = in_picture[0, :, None] & (distance < _at(view.depth, uv) + tolerance)
        share = slant**2 * in_sight
        total, weight = total + share * _at(view.image, uv), weight + share
    seen = weight[:, 0].numpy() > 1e-4
    if not seen.any():
        raise ValueError("no vertex of this mesh is seen from any of the views: is the mesh of another head?")
    colours = (total / weight.clamp_min(1e-4)).numpy()
    nearest = cKDTree(mesh.vertices[seen]).query(mesh.vertices[~seen])[1]
    colours[~seen] = colours[seen][nearest]
    return to_bytes(colours)


def _at(maps: Tensor, uv: Tensor) -> Tensor:
    """Values [N, C] of maps [1, C, R, R] at image positions uv [1, N, 2], bilinear."""
    grid = 2 * uv[:, None] - 1
    return F.grid_sample(maps.float().cpu(), grid, padding_mode="border", align_corners=False)[0, :, 0].T


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] as bytes, rounded to the nearest."""
    return np.clip((values + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


# -------------------------------------------------------------------- points
@torch.no_grad()
def point_cloud(
    head: Head,
    views: tuple[tuple[float, float], ...] = COLOUR_VIEWS,
    extents: tuple[float, float, float] | None = None,
    opaque: float = 0.9,
    least_slant: float = 0.2,
) -> trimesh.PointCloud:
    """What the pixels of some views (yaw and pitch, radians) see, as coloured points in world units.

    extents: how far points may lie from the origin along x, y, z; None as for `extract_mesh`. Pixels count
    whose alpha is at least the share `opaque` of the view's largest, as for `surface_level`, and whose surface
    turns towards the camera by a cosine above `least_slant`: at an edge the expected depth lies between two
    surfaces, on none.
    """
    head = head.still()
    limits = torch.tensor(seen_extents(head) if extents is None else extents)
    points, colours = [], []
    for yaw, pitch in views:
        camera = view_of(head, yaw, pitch)
        view = shape_view(head, camera)
        depth = view.depth.float().cpu()
        position = seen_points(camera, depth)[0]
        ray = camera.rays(depth.shape[-1])[1][0]
        slant = -(normals_from_depth(camera, depth)[0].flatten(1).T * ray).sum(dim=-1)
        alpha = view.alpha.flatten().cpu()
        kept = (alpha >= opaque * alpha.max().clamp_min(0.5)) & (slant > least_slant)
        kept &= (position.abs() <= limits).all(dim=-1)
        points.append(position[kept])
        colours.append(resize(view.image.float().cpu(), depth.shape[-1])[0].flatten(1).T[kept])
    if not sum(map(len, points)):
        raise ValueError(
            f"no pixel of {len(views)} views sees a surface within {limits.tolist()} of the origin: choose "
            "other views or larger extents"
        )
    return trimesh.PointCloud(torch.cat(points).numpy(), colors=to_bytes(torch.cat(colours).numpy()))


@checked
def normals_from_depth(camera: Camera, depth: SingleMaps) -> Images:
    """Unit normals [B, 3, R, R] in the world, towards the camera, of the surface that a depth map describes.

    n = (dP/dv x dP/du) / |...| of the unprojected points P, by central differences (one-sided at the border).
    """
    side = depth.shape[-1]
    points = seen_points(camera, depth).transpose(1, 2).reshape(-1, 3, side, side)
    along_v, along_u = torch.gradient(points, dim=(2, 3))
    return F.normalize(torch.linalg.cross(along_v, along_u, dim=1), dim=1)


# -------------------------------------------------------------------- files
def save_mesh(mesh: trimesh.Trimesh, path: str | Path) -> Path:
    """Write a mesh with its vertex colours, in its own units; the suffix says how: .glb, .ply or .obj.

    PLY (binary) and OBJ (colours behind the positions, as MeshLab has them) hold sRGB. glTF wants linear
    colours, and its material is unlit: the colours of a portrait hold their light already.
    """
    writers = {".glb": _glb, ".ply": _ply, ".obj": _obj}
    path = require_suffix(path, *writers)
    content = writers[path.suffix.lower()](mesh)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def save_points(points: trimesh.PointCloud, path: str | Path) -> Path:
    """Write coloured points (sRGB) as a binary PLY."""
    path = require_suffix(path, ".ply")
    with replacing(path) as temporary:
        temporary.write_bytes(trimesh.exchange.ply.export_ply(points))
    return path


def _ply(mesh: trimesh.Trimesh) -> bytes:
    return trimesh.exchange.ply.export_ply(mesh, vertex_normal=False)


def _obj(mesh: trimesh.Trimesh) -> bytes:
    return trimesh.exchange.obj.export_obj(mesh, include_normals=False, header=None).encode()


def _glb(mesh: trimesh.Trimesh) -> bytes:
    exported = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors)
        exported.vertex_attributes[_COLOURS] = np.concatenate(
            [linear_colours(colours[:, :3]), colours[:, 3:] * np.uint16(257)], axis=1
        )
    return trimesh.exchange.gltf.export_glb(exported.scene(), tree_postprocessor=_make_unlit)


_COLOURS = "_COLOURS"
"""An attribute of our own until it takes the place of trimesh's colours, which have 8 bits."""


def linear_colours(srgb: np.ndarray) -> np.ndarray:
    """sRGB bytes as linear numbers of 16 bits (IEC 61966-2-1), which is what a GLB holds.

    With 8 bits the 64 darkest values would become 14, and dark hair bands.
    """
    value = srgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 65535).astype(np.uint16)


def _make_unlit(tree: dict) -> None:
    """Give every primitive of a glTF its colours, and one material that ignores lamps."""
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    tree["materials"] = [{"name": "portrait", "extensions": {"KHR_materials_unlit": {}}}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
            if _COLOURS in primitive["attributes"]:
                index = primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop(_COLOURS)
                tree["accessors"][index]["normalized"] = True
