"""EG3D's own exports of a shape: a density volume as .mrc, and its surface as .ply, in voxels.

EG3D's scripts write neither in world units. Their volume is a `density_grid` whose first axis is mirrored and
whose border is emptied: voxel [a, b, c] of N a side is the sample (i, j, k) = (N - 1 - a, b, c). Their mesh
counts in voxels, with its axes the other way round: a vertex is (c, b, a). So seen from world space x is
mirrored and swapped with z, which together is a rotation. The functions here go both ways.

One thing is not copied: the original's samples lie up to one voxel askew, because it divides indices as floats.
"""

import math
from pathlib import Path

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from lib.meshes import OFFICIAL_LEVEL, Head, density_grid, require_surface, save_mesh, surface_level
from lib.paths import replacing, require_suffix

RESOLUTION = 512
"""Samples a side in EG3D's scripts."""

EMPTY = -1000.0
"""Density that EG3D's scripts write into the border."""

MRC_FLOATS = 2
MRC_LITTLE_ENDIAN = b"DD"


# -------------------------------------------------------------------- conventions
def official_volume(densities: np.ndarray) -> np.ndarray:
    """The volume [N, N, N] that EG3D's script makes of a `density_grid`: x mirrored, 30/256 a face emptied."""
    n = len(densities)
    border = int(30 * n / 256)
    inner = (slice(border, n - border),) * 3
    volume = np.full_like(densities, EMPTY)
    volume[inner] = densities[::-1][inner]
    return volume


def densities_of(volume: np.ndarray) -> np.ndarray:
    """The `density_grid` in an official volume; what was emptied stays so."""
    return volume[::-1].copy()


def official_surface(volume: np.ndarray, level: float = OFFICIAL_LEVEL) -> trimesh.Trimesh:
    """The mesh that EG3D's script makes of its volume, in voxels; its triangles look inward, as there."""
    require_surface(volume[volume > EMPTY], level)
    vertices, faces, _, _ = marching_cubes(volume.transpose(2, 1, 0), level)
    return trimesh.Trimesh(vertices, faces, process=False)


def world_from_voxels(vertices: np.ndarray, resolution: int, side: float) -> np.ndarray:
    """World points [V, 3] of an official mesh's vertices (c, b, a); `side` is that of the cube, box_warp."""
    c, b, a = vertices.T
    index = np.stack([resolution - 1 - a, b, c], axis=1)
    return index * (side / (resolution - 1)) - side / 2


def voxels_from_world(points: np.ndarray, resolution: int, side: float) -> np.ndarray:
    """Official vertices (c, b, a) of world points [V, 3]: the inverse of `world_from_voxels`."""
    i, j, k = ((points + side / 2) * ((resolution - 1) / side)).T
    return np.stack([k, j, resolution - 1 - i], axis=1)


def world_mesh(mesh: trimesh.Trimesh, resolution: int = RESOLUTION, side: float = 1.0) -> trimesh.Trimesh:
    """An official mesh in world units, its triangles outward. The file tells neither resolution nor side."""
    if mesh.bounds.min() < 0 or mesh.bounds.max() > resolution - 1:
        raise ValueError(
            f"vertices lie between {mesh.bounds.min():.4g} and {mesh.bounds.max():.4g}, not in the voxels of a "
            f"volume of {resolution} a side: give the resolution it was made with, or is it in world units?"
        )
    return trimesh.Trimesh(
        world_from_voxels(mesh.vertices, resolution, side), mesh.faces[:, ::-1], process=False
    )


# -------------------------------------------------------------------- files
def save_voxels(
    head: Head, path: str | Path, resolution: int = RESOLUTION, level: float | None = OFFICIAL_LEVEL
) -> list[Path]:
    """Write a head's volume to `path` (.mrc) and its surface beside it (.ply), as EG3D's script does.

    level: raw density of the surface; None measures it (`surface_level`).
    """
    path = require_suffix(path, ".mrc")
    head = head.still()
    level = surface_level(head) if level is None else level
    volume = official_volume(density_grid(head, resolution))
    surface = official_surface(volume, level)
    return [save_mrc(volume, path), save_mesh(surface, path.with_suffix(".ply"))]


def save_mrc(volume: np.ndarray, path: str | Path) -> Path:
    """Write a volume of floats as MRC2014 (Cheng et al., 2015), one unit of length a voxel.

    The last axis of the array is the file's x, the first its z, as everywhere in that format.
    """
    path = require_suffix(path, ".mrc")
    volume = np.ascontiguousarray(volume, "<f4")
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"a volume has three axes, none of them empty; got shape {volume.shape}")
    header = np.zeros(256, "<i4")
    floats, text = header.view("<f4"), header.view("S4")
    header[0:3] = header[7:10] = volume.shape[::-1]  # columns, rows, sections; and so many in the cell
    header[3] = MRC_FLOATS
    floats[10:13], floats[13:16] = volume.shape[::-1], 90  # sides and angles of the cell
    header[16:19] = 1, 2, 3  # columns run along x, rows along y, sections along z
    floats[19:22] = volume.min(), volume.max(), volume.mean(dtype=np.float64)
    header[22], header[27] = 1, 20140  # a volume, not a stack of images; version 2014.0
    text[52], text[53] = b"MAP ", MRC_LITTLE_ENDIAN
    floats[54] = volume.std(dtype=np.float64)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        file.write(volume.data)
    return path


def load_mrc(path: str | Path) -> np.ndarray:
    """The volume of an MRC file of floats, as `save_mrc` and EG3D's script write it."""
    path = Path(path)
    with path.open("rb") as file:
        words = np.frombuffer(file.read(1024).ljust(1024, b"\0"), "<i4")
    if words.view("S4")[52:54].tolist() != [b"MAP ", MRC_LITTLE_ENDIAN]:
        raise ValueError(f"{path} is no MRC file of this byte order; expected MRC2014, little-endian")
    (*shape, mode), extended = words[[2, 1, 0, 3]].tolist(), int(words[23])
    if mode != MRC_FLOATS:
        raise ValueError(f"{path} holds values of MRC mode {mode}; expected 2, floats of 32 bits")
    size = path.stat().st_size
    if min(*shape, extended + 1) < 1 or 1024 + extended + 4 * math.prod(shape) != size:
        raise ValueError(
            f"{path} is damaged or cut short: its {size} bytes are not the {shape} voxels that its header says"
        )
    return np.fromfile(path, "<f4", offset=1024 + extended).reshape(shape)
