"""Scenes of kind `samples`: heads of the generator itself, so that a perfect inversion exists and is known.

The embedded generators are trained on codes of the teacher's people; a seed here draws a code from N(0, I) that
no training saw.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.scenes import Scene, View, drawn_input_yaw, scene_cameras, yaw_name
from lib.faces import WORLD_PER_CM
from lib.generators import EG3D
from lib.meshes import normals_from_depth, seen_points

SHAPE_SAMPLES = 96
"""On each ray, evenly spaced: to 0.0004 world units what 768 samples give for portraits64, where 48 and 48
importance samples are off by twice as much; those gather where the first ones put the surface too far back."""

OPAQUE = 0.5
"""Rays that absorb less than this have no surface: depth and normals are unknown there."""

LEAST_SLANT = 0.1
"""Cosine between normal and ray, below which the depth lies between two surfaces and has no normal."""

HEAD_CENTRE_CM = (0.0, 2.0, -2.0)
"""Of the skull, from the origin of the head frame, which lies between the ears."""

HEAD_RADII_CM = (9.75, 13.5, 11.75)
"""Half of an adult head's breadth, height and length (15.5, 23, 19.5 cm) and 2 cm of hair."""


@torch.no_grad()
def make(
    seed: int,
    generator: EG3D,
    *,
    input_yaw: float | None = None,
    truncation: float = 0.8,
    with_ellipse: bool = True,
) -> Scene:
    """One held-out head of the generator: the easy end, within reach of every method.

    input_yaw: radians of the input view; None draws one of INPUT_YAWS. truncation: of the code, conditioned
    on the frontal camera. truth: `w_plus` [1, n_layers, w_dim].
    """
    input_yaw = drawn_input_yaw(seed) if input_yaw is None else input_yaw
    w_plus = sampled_code(seed, generator, truncation)
    planes = generator.planes(w_plus)
    views = {
        name: true_view(generator, planes, w_plus, camera)
        for name, camera in scene_cameras(generator, input_yaw, with_ellipse).items()
    }
    extras = {"kind": "samples", "seed": seed, "input_yaw": input_yaw, "truncation": truncation}
    return Scene(f"samples-{seed}", yaw_name(input_yaw), views, {"w_plus": w_plus.cpu()}, extras)


def sampled_code(seed: int, generator: EG3D, truncation: float) -> Tensor:
    """w_plus [1, n_layers, w_dim] of a z drawn from the seed, under the frontal camera."""
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.map(z, generator.frontal_camera(), truncation)


@torch.no_grad()
def true_view(generator: EG3D, planes: Tensor, w_plus: Tensor, camera: Camera) -> View:
    """What a head of the generator shows to a camera: its picture, and its shape on a ray per pixel of it.

    The picture is the generator's own, cut off at -1 and 1 as a photo is. Depth is the expected depth of
    volume rendering, with more samples than a picture needs.
    """
    even = dataclasses.replace(
        generator.config.rendering, depth_resolution=SHAPE_SAMPLES, depth_resolution_importance=0
    )
    image = generator.render(planes, w_plus, camera).image.clamp(-1, 1).cpu()
    shape = generator.render(planes, w_plus, camera, neural_resolution=generator.resolution, settings=even)
    depth, opaque = shape.depth.cpu(), shape.alpha.cpu() > OPAQUE
    return View(
        image,
        camera,
        depth=depth.where(opaque, torch.nan),
        normals=surface_normals(camera, depth).where(opaque, torch.nan),
        mask=opaque & in_head(camera, depth),
    )


def surface_normals(camera: Camera, depth: Tensor) -> Tensor:
    """Unit normals [1, 3, R, R] in the world of the surface that a depth map [1, 1, R, R] along the rays describes.

    NaN where the map is unknown or so steep that it may jump from one surface to another there. The gradient of
    the density would do as well where the surface is sharp; within a soft one it follows every texel of the planes.
    """
    normals = normals_from_depth(camera, depth)
    toward_camera = -camera.rays(depth.shape[-1])[1].transpose(1, 2).reshape(normals.shape)
    slant = (normals * toward_camera).sum(dim=1, keepdim=True)
    return normals.where(slant > LEAST_SLANT, torch.nan)


def in_head(camera: Camera, depth: Tensor) -> Tensor:
    """Where [1, 1, R, R] the surface at a depth [1, 1, R, R] along the rays lies in the volume of a head.

    A generator that learnt from photos keeps the background in the same volume as the head, often as a wall that
    touches the hair, so neither opacity nor a jump in depth tells them apart. The volume does, in the same way for
    all views: an ellipsoid about the skull, in the frame in which heads are aligned. Hair that falls
    on the shoulders is outside.
    """
    centre, radii = (torch.tensor(lengths) * WORLD_PER_CM for lengths in (HEAD_CENTRE_CM, HEAD_RADII_CM))
    points = seen_points(camera, depth)
    return (((points - centre) / radii).square().sum(dim=-1) < 1).reshape(depth.shape)
