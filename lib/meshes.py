"""What leaves the study as a file of its own: a head's surface as a coloured mesh, and its turn as a video.

Everything here asks a head only for views and densities, so any inversion of any method can be exported.
Meshes are in world units: x right, y up, the face looks along +z.
"""

import math
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import imageio_ffmpeg
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor
from tqdm import tqdm

from lib.cameras import Camera, orbit

OFFICIAL_LEVEL = 10.0
"""Raw density at which EG3D's own scripts cut the surface of their 512 px faces (2 to 20 are usable)."""

OFFICIAL_EXTENT = 0.5 - 30 / 256
"""How far from the middle EG3D's scripts look for the surface, as a share of the cube's side."""

COLOUR_VIEWS = ((0.0, 0.0), (-0.5, 0.0), (0.5, 0.0), (0.0, -0.3), (0.0, 0.3))
"""Yaw and pitch, radians, of the views that colour a mesh: where generators of faces have seen faces."""


class Head(Protocol):
    """What an export needs to know of a head; an `Inversion` is one."""

    generator: Any

    def render(self, camera: Camera) -> Any:
        """`Rendering` of this head from each camera."""

    def density(self, points: Tensor) -> Tensor:
        """Raw densities [1, N] at world points [1, N, 3]."""


def view_of(head: Head, yaw: float | Tensor, pitch: float | Tensor = 0.0) -> Camera:
    """Cameras that see the head from these angles (radians), as far away as its generator was trained."""
    config = head.generator.config
    return orbit(yaw, pitch, radius=config.camera_radius, focal=config.camera_focal)


# -------------------------------------------------------------------- density
@torch.no_grad()
def density_grid(head: Head, resolution: int = 128, batch: int = 2**18) -> np.ndarray:
    """Raw densities [N, N, N] at the corners of N - 1 cells a side, over the cube that the planes span.

    Index [i, j, k] lies at (x, y, z) = (i, j, k) * side / (N - 1) - side / 2.
    """
    if resolution < 2:
        raise ValueError(f"a density grid needs at least 2 samples a side; got {resolution}")
    side = head.generator.config.rendering.box_warp
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
    camera = view_of(head, 0.0) if camera is None else camera
    view = head.render(camera)
    origins, directions = camera.rays(view.depth.shape[-1])
    points = origins + directions * view.depth.flatten(1)[..., None].to(directions)
    alpha = view.alpha.flatten(1).cpu()
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
    level = surface_level(head) if level is None else level
    side = head.generator.config.rendering.box_warp
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
    if not densities[inner].min() < level < densities[inner].max():
        raise ValueError(
            f"no surface at density {level:.4g}: the densities of this head lie between "
            f"{densities[inner].min():.4g} and {densities[inner].max():.4g}"
        )
    # So low that a cut lies at the outermost sample, not half-way to the next.
    closed = np.full_like(densities, level - 1e3 * (densities.max() - level))
    closed[inner] = densities[inner]
    # "ascent" is what turns the triangles outward here, where densities grow inward.
    vertices, faces, _, _ = marching_cubes(closed, level, gradient_direction="ascent")
    return trimesh.Trimesh(vertices * (side / (n - 1)) - side / 2, faces, process=True)


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


def linear_bytes(srgb: np.ndarray) -> np.ndarray:
    """sRGB bytes as linear ones (IEC 61966-2-1), which is what a GLB holds."""
    value = srgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255).astype(np.uint8)


def save_glb(mesh: trimesh.Trimesh, path: str | Path) -> Path:
    """Write a binary glTF. Its material is unlit: the colours of a portrait hold their light already."""
    path = _with_suffix(path, ".glb")
    exported = mesh.copy()
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors)
        exported.visual.vertex_colors = np.concatenate([linear_bytes(colours[:, :3]), colours[:, 3:]], axis=1)
    content = trimesh.exchange.gltf.export_glb(exported.scene(), tree_postprocessor=_make_unlit)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _make_unlit(tree: dict) -> None:
    """Give every primitive of a glTF one material that ignores lamps."""
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    tree["materials"] = [{"name": "portrait", "extensions": {"KHR_materials_unlit": {}}}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


# -------------------------------------------------------------------- video
def ellipse(frames: int, yaw_amplitude: float, pitch_amplitude: float) -> tuple[Tensor, Tensor]:
    """Yaw and pitch [frames] of a camera that goes once around an ellipse; the end joins the start."""
    turn = 2 * math.pi * torch.arange(frames) / frames
    return yaw_amplitude * turn.sin(), pitch_amplitude * turn.cos()


@torch.no_grad()
def save_orbit_video(
    head: Head,
    path: str | Path,
    frames: int = 60,
    fps: int = 30,
    yaw_amplitude: float = 0.5,
    pitch_amplitude: float = 0.2,
    size: int | None = None,
    batch: int = 6,
) -> Path:
    """Write the head on an elliptic orbit as H.264 video that every browser plays and loops without a jump.

    size: side in pixels; None gives the generator's own resolution, at least 256.
    """
    path = _with_suffix(path, ".mp4")
    size = max(head.generator.resolution, 256) if size is None else size
    if size % 2 or size < 16:
        raise ValueError(f"the side of a video must be even and at least 16 pixels; got {size}")
    if frames < 1:
        raise ValueError(f"a video needs at least one frame; got {frames}")
    yaws, pitches = ellipse(frames, yaw_amplitude, pitch_amplitude)
    progress = tqdm(total=frames, desc=path.name, unit="frame", leave=False)
    with replacing(path) as temporary, _encoder(temporary, size, fps) as encoder, progress:
        for angles in zip(yaws.split(batch), pitches.split(batch), strict=True):
            for frame in _frames(head.render(view_of(head, *angles)).image, size):
                encoder.send(frame)
                progress.update()
    return path


def _frames(images: Tensor, size: int) -> Iterator[np.ndarray]:
    """Pictures [B, 3, R, R] in [-1, 1] as contiguous bytes [size, size, 3]."""
    if images.shape[-1] != size:
        images = F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True)
    for image in images.permute(0, 2, 3, 1).float().cpu().numpy():
        yield np.ascontiguousarray(to_bytes(image))


@contextmanager
def _encoder(path: Path, size: int, fps: int) -> Iterator[Generator]:
    """A running ffmpeg that takes frames by `send`."""
    encoder = imageio_ffmpeg.write_frames(
        str(path),
        (size, size),
        fps=fps,
        codec="libx264",
        quality=None,  # the constant rate factor below says it
        macro_block_size=2,  # the default, 16, would rescale
        output_params=["-crf", "18", "-movflags", "+faststart"],
    )
    encoder.send(None)
    try:
        yield encoder
    finally:
        encoder.close()


# -------------------------------------------------------------------- files
@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it takes the place of `path` only if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_suffix(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"expected a file name that ends in {suffix}; got {path.name!r}")
    return path
