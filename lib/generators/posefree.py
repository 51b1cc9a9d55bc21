"""PoF3D (Shi et al., 2023, "Learning 3D-aware Image Synthesis with Unknown Pose Distribution"): EG3D without cameras.

A code says from where its head is seen: two layers, the pose learner, read a camera off w. No camera is asked for, in
training or in inversion. The generator of Luo & Ghosh's pose-free inversion. Modules and parameters carry the names of
the released code.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lib.cameras import Camera, eg3d_look_at
from lib.generators.eg3d import EG3D, EG3DConfig, SuperResolutionConfig
from lib.generators.stylegan2 import EqualLinear, MappingNetwork
from lib.shapes import LayerStyles, Styles, checked

Pose = Float[Tensor, "batch 2"]
"""h and v of each head, radians: the horizontal angle, and pi / 2 (1 - cos of the polar angle); pi / 2, pi / 2 is the
front."""

Limits = tuple[float, float]

POSE_BOUNDS = ("clamped", "smooth")
"""Ways to keep v where a camera exists: see `bounded`."""

EDGE = 1e-5
"""Radians from 0 and pi within which v has no camera: there it looks along the vertical axis."""


@dataclass(frozen=True)
class PoseFreeConfig(EG3DConfig):
    """Sizes and settings. The defaults are those of the released FFHQ recipe, which makes pictures of 256 pixels."""

    c_dim: int = 0
    neural_resolution: int = 64
    superresolution: SuperResolutionConfig = dataclasses.field(
        default_factory=lambda: SuperResolutionConfig.official("4X", antialias=False)
    )
    pose_mean_h: float = math.pi / 2  # what the pose learner's h is added to; pi for cars
    pose_lr_multiplier: float = 0.01
    pose_bound: str = "clamped"  # or "smooth": how v is kept in (0, pi): see `bounded`
    pose_limits_h: Limits | None = None  # h is cut off here: at 0 and 2 pi for cars
    pose_limits_v: Limits | None = None  # and v, before it is bounded

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c_dim != 0:
            raise ValueError(f"a pose-free generator knows no camera: c_dim must be 0, not {self.c_dim}")
        if self.pose_bound not in POSE_BOUNDS:
            raise ValueError(f"pose_bound is {' or '.join(POSE_BOUNDS)}; got {self.pose_bound!r}")
        for name in ("pose_limits_h", "pose_limits_v"):
            limits = getattr(self, name)
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(f"{name} are two angles, the lower one first; got {limits}")

    @classmethod
    def embedded(cls, resolution: int = 64, **changes: Any) -> "PoseFreeConfig":
        """The small generator of this repository: the structure of EG3DConfig.embedded without a camera."""
        return cls.like(EG3DConfig.embedded(resolution), **changes)

    @classmethod
    def like(cls, config: EG3DConfig, **changes: Any) -> "PoseFreeConfig":
        """Sizes of an EG3D, whose camera is left out; v is bounded smoothly, so that it always has a gradient."""
        sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        return cls(**(sizes | {"c_dim": 0, "pose_bound": "smooth"} | changes))


def bounded(v: Tensor, how: str) -> Tensor:
    """v within (EDGE, pi - EDGE), where a camera exists: arccos(1 - 2 v / pi) is no number beyond 0 and pi.

    "clamped" cuts it off there, as the released code does for cars (for faces it hopes for the best), and has no
    gradient beyond. "smooth" is a sigmoid that has the same value and slope at pi / 2.
    """
    if how == "smooth":
        v = math.pi * torch.sigmoid(4 / math.pi * (v - math.pi / 2))
    return v.clamp(EDGE, math.pi - EDGE)


def limited(angle: Tensor, limits: Limits | None) -> Tensor:
    """An angle cut off at its limits, if there are any."""
    return angle if limits is None else angle.clamp(*limits)


class PoseFreeMapping(MappingNetwork):
    """z to w, and w to the pose from which its head is seen."""

    def __init__(self, config: PoseFreeConfig):
        super().__init__(config.z_dim, 0, config.w_dim, config.mapping_layers, config.mapping_lr_multiplier)
        rate = {"lr_multiplier": config.pose_lr_multiplier}
        self.affine_layer1 = EqualLinear(config.w_dim, config.w_dim, activate=True, **rate)
        self.affine_layer2 = EqualLinear(config.w_dim, 2, **rate)

    def pose_offset(self, w: Tensor) -> Tensor:
        """What the pose learner adds to the mean pose [B, 2] for w [B, w_dim]."""
        return self.affine_layer2(self.affine_layer1(w))


class PoseFreeEG3D(EG3D):
    """EG3D whose code says the camera. `map` takes none, and what it is given does not enter."""

    def __init__(self, config: PoseFreeConfig):
        super().__init__(config)
        self.backbone.mapping = PoseFreeMapping(config)

    def map(
        self,
        z: Tensor,
        camera: Camera | Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> LayerStyles:
        """w_plus [B, n_layers, w_dim] of latents z [B, z_dim]. No camera conditions them, whatever is given."""
        return super().map(z, self.frontal_camera(), truncation_psi, truncation_cutoff)

    @checked
    def pose(self, w: Styles) -> Pose:
        """h and v of the view that a code w [B, w_dim] is of: f_pose (Luo & Ghosh, sec. 3.2).

        Of w before truncation and before it is repeated for the layers.
        """
        with torch.autocast(w.device.type, enabled=False):  # bfloat16 knows angles to half a degree
            h, v = self.backbone.mapping.pose_offset(w.to(self.plane_axes)).unbind(dim=1)
        h = limited(h + self.config.pose_mean_h, self.config.pose_limits_h)
        v = limited(v + math.pi / 2, self.config.pose_limits_v)
        return torch.stack([h, bounded(v, self.config.pose_bound)], dim=1)

    @checked
    def camera_at(self, pose: Pose) -> Camera:
        """The cameras of poses: on the sphere about the head, without roll. (Of an inversion it is `head.camera`.)"""
        radius, focal, pivot = (
            getattr(self.config, f"camera_{name}") for name in ("radius", "focal", "pivot")
        )
        return eg3d_look_at(pose[:, 0], pose[:, 1], radius, focal, pivot)

    def own_camera(self, w: Tensor) -> Camera:
        """The camera that a code w [B, w_dim] says."""
        return self.camera_at(self.pose(w))

    def generate(self, z: Tensor, truncation_psi: float = 1.0) -> tuple[LayerStyles, Camera]:
        """w_plus of latents z [B, z_dim], and the cameras of their views, which truncation does not move."""
        return self.map(z, truncation_psi=truncation_psi), self.own_camera(self.map(z)[:, 0])
