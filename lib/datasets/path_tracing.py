"""Pictures and true geometry of a coloured mesh under an environment of light, by Mitsuba 3 (package `mitsuba`).

Jakob et al., "Mitsuba 3 renderer", 2022. Its scalar variant needs neither a GPU nor LLVM. A seed gives the same
picture on any number of threads: samples are seeded by place, and pixels do not share them (box filter).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lib.cameras import Camera

BOUNCES = 2
"""Light is followed from the lamp over this many surfaces: direct light, and what one other surface throws back."""

ROUGHNESS = 0.45
"""Of the shine on skin, where it is asked for."""


@dataclass(frozen=True)
class ColouredMesh:
    """vertices [n, 3] in world units; triangles [m, 3], counter-clockwise from outside; colours [n, 3]: the share
    of red, green and blue light that each vertex throws back, from 0 to 1 (linear, not sRGB)."""

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray


@lru_cache(maxsize=1)
def _mitsuba() -> ModuleType:
    try:
        import mitsuba
    except ImportError as error:
        raise ImportError(
            "parametric heads are rendered by Mitsuba, which is not installed: pip install -e '.[heads]'"
        ) from error
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


class PathTracer:
    """One mesh under one light, ready to be seen by any camera.

    light: [h, 2h, 3] radiance from every direction, linear, as `sky_directions` lays them out; it is also what is
    seen beside the mesh. shine: strength of the gloss from 0 (colours are the same from everywhere) to 1.
    """

    def __init__(self, mesh: ColouredMesh, light: np.ndarray, shine: float = 0.0):
        mitsuba = _mitsuba()
        height, width = light.shape[:2]
        if width != 2 * height:
            raise ValueError(f"light comes as [h, 2h, 3], got {list(light.shape)}")
        self._scene = mitsuba.load_dict(
            {
                "type": "scene",
                "head": _shape(mesh, _surface(shine)),
                "sky": {"type": "envmap", "bitmap": mitsuba.Bitmap(np.ascontiguousarray(light, np.float32))},
            }
        )

    def picture(self, camera: Camera, resolution: int, samples: int = 64, seed: int = 0) -> Tensor:
        """Image [1, 3, R, R] in [-1, 1], sRGB; `samples` rays a pixel, a square number, spread over it evenly."""
        if samples < 1 or round(samples**0.5) ** 2 != samples:
            raise ValueError(f"samples is a square number such as 16, 64 or 256, got {samples}")
        mitsuba = _mitsuba()
        sampler = {"type": "multijitter", "sample_count": samples}
        radiance = np.asarray(
            mitsuba.render(
                self._scene,
                sensor=_sensor(camera, resolution, sampler),
                integrator=mitsuba.load_dict({"type": "path", "max_depth": BOUNCES + 1}),
                seed=seed,
            )
        )
        return _maps(2 * srgb(radiance.clip(0, 1)) - 1)

    def surface(self, camera: Camera, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the rays through the pixels' centres meet: depth along them [1, 1, R, R], unit normals of the world
        [1, 3, R, R] on the camera's side, both NaN off the mesh, and where it is met, bool [1, 1, R, R]."""
        mitsuba = _mitsuba()
        sampler = {"type": "stratified", "sample_count": 1, "jitter": False}
        values = np.asarray(
            mitsuba.render(
                self._scene,
                sensor=_sensor(camera, resolution, sampler),
                integrator=mitsuba.load_dict({"type": "aov", "aovs": "place:position,normal:sh_normal"}),
            )
        )
        places, normals = _maps(values[..., :3]), _maps(values[..., 3:6])
        met = normals.norm(dim=1, keepdim=True) > 0
        # Mitsuba's own depth begins at the near plane.
        depth = (places - camera.position[..., None, None]).norm(dim=1, keepdim=True)
        _, directions = camera.rays(resolution)
        along = directions.transpose(1, 2).reshape(1, 3, resolution, resolution)
        away = (normals * along).sum(1, keepdim=True) > 0
        normals = torch.nn.functional.normalize(normals.where(~away, -normals), dim=1)
        return depth.where(met, torch.nan), normals.where(met, torch.nan), met


def _maps(values: np.ndarray) -> Tensor:
    """[R, R, C] -> [1, C, R, R]."""
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))[None]


def _surface(shine: float) -> dict:
    """How the mesh throws light back: evenly or, with shine, with a gloss over it; the same on both sides."""
    colour = {"type": "mesh_attribute", "name": "vertex_color"}
    if shine:
        bsdf = {"type": "principled", "base_color": colour, "roughness": ROUGHNESS, "specular": shine}
    else:
        bsdf = {"type": "diffuse", "reflectance": colour}
    return {"type": "twosided", "bsdf": bsdf}


def _shape(mesh: ColouredMesh, surface: dict):
    mitsuba = _mitsuba()
    properties = mitsuba.Properties()
    properties["surface"] = mitsuba.load_dict(surface)
    shape = mitsuba.Mesh(
        "head", len(mesh.vertices), len(mesh.triangles), props=properties, has_vertex_normals=True
    )
    parameters = mitsuba.traverse(shape)
    parameters["vertex_positions"] = np.ravel(mesh.vertices).astype(np.float32)
    parameters["faces"] = np.ravel(mesh.triangles).astype(np.uint32)
    parameters.update()  # also makes the normals
    shape.add_attribute("vertex_color", 3, np.ravel(mesh.colours).astype(np.float32))
    return shape


def _sensor(camera: Camera, resolution: int, sampler: dict):
    """Mitsuba's camera has x left and y up; ours is OpenCV's."""
    mitsuba = _mitsuba()
    intrinsics = camera.intrinsics[0].double().numpy()
    focal = intrinsics[0, 0]
    if len(camera) != 1 or not np.allclose(intrinsics, [[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]]):
        raise ValueError(
            "Mitsuba renders one camera with square pixels and its principal point in the middle; got "
            f"{len(camera)} with intrinsics {intrinsics.tolist()}"
        )
    pose = camera.world_from_cam[0].double().numpy() @ np.diag([-1.0, -1.0, 1.0, 1.0])
    film = {"type": "hdrfilm", "width": resolution, "height": resolution, "rfilter": {"type": "box"}}
    return mitsuba.load_dict(
        {
            "type": "perspective",
            "fov": float(np.degrees(2 * np.arctan(0.5 / focal))),
            "fov_axis": "x",
            "to_world": mitsuba.ScalarTransform4f(pose),
            "film": film | {"pixel_format": "rgb"},
            "sampler": sampler,
        }
    )


# -------------------------------------------------------------------- light and colours
def sky_directions(height: int) -> np.ndarray:
    """Unit directions [h, 2h, 3] from which the pixels of an environment shine: the top row from above (+y), the
    middle columns from the front (+z), those at a quarter from +x."""
    polar = np.pi * (np.arange(height) + 0.5) / height
    azimuth = np.pi * (np.arange(2 * height) + 0.5) / height
    polar, azimuth = np.meshgrid(polar, azimuth, indexing="ij")
    return np.stack(
        [np.sin(polar) * np.sin(azimuth), np.cos(polar), -np.sin(polar) * np.cos(azimuth)], axis=-1
    )


def irradiance(light: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """What a white, even surface of that normal [3] shows [3] under a light [h, 2h, 3], where nothing shades it."""
    directions = sky_directions(len(light))
    polar = np.pi * (np.arange(len(light)) + 0.5) / len(light)
    solid_angle = (np.pi / len(light)) ** 2 * np.sin(polar)[:, None]
    return np.einsum("hw,hwc->c", solid_angle * (directions @ normal).clip(min=0), light) / np.pi


def srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB values of linear ones, both from 0 to 1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(min=1e-9) ** (1 / 2.4) - 0.055)


def linear(encoded: np.ndarray) -> np.ndarray:
    """The inverse of `srgb`."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
