"""Cameras in EG3D's convention, and the only place where its 25 numbers are taken apart.

World: y up, the face looks along +z, the head is near the origin. Camera axes are OpenCV's: x right,
y down, z forward. Intrinsics are in units of the image size: the image spans [0, 1] x [0, 1], v downward,
with pixel centres at (i + 0.5) / R. Yaw and pitch are angles in radians: positive yaw moves the camera to +x,
positive pitch moves it up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.shapes import (
    ImagePoints,
    Intrinsics,
    Labels,
    PerImage,
    PerPoint,
    Points,
    Poses,
    Positions,
    Rays,
    SingleMaps,
    checked,
)

RADIUS = 2.7
"""Distance from the camera to the origin in EG3D's face models, world units."""

FOCAL = 4.2647
"""Focal length of EG3D's face crops in image widths (2985.29 pixels on a crop of 700)."""


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    world_from_cam: [B, 4, 4] rigid transforms; intrinsics: [B, 3, 3] in units of the image size.
    """

    world_from_cam: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        poses, intrinsics = tuple(self.world_from_cam.shape), tuple(self.intrinsics.shape)
        if poses[1:] != (4, 4) or intrinsics[1:] != (3, 3) or poses[0] != intrinsics[0]:
            raise ValueError(
                "a Camera needs world_from_cam [B, 4, 4] and intrinsics [B, 3, 3] of one B; "
                f"got {poses} and {intrinsics}"
            )

    # ---------------------------------------------------------------- EG3D's 25 numbers
    @classmethod
    def from_label(cls, label: Tensor) -> "Camera":
        """Camera from EG3D's label [B, 25] or [25]: the pose's 16 numbers, the intrinsics' 9, row-major."""
        label = torch.as_tensor(label)
        label = label if label.is_floating_point() else label.float()
        label = label[None] if label.ndim == 1 else label
        if label.ndim != 2 or label.shape[1] != 25:
            raise ValueError(
                "a camera label has 25 numbers (4x4 pose, then 3x3 intrinsics): "
                f"expected [B, 25], got {tuple(label.shape)}"
            )
        _require(label.isfinite().all(dim=1), label, "expected finite numbers, got {found}")
        focal = label[:, [16, 20]]
        _require((focal != 0).all(dim=1), focal, "its focal lengths must not be zero, got {found}")
        return cls(label[:, :16].reshape(-1, 4, 4), label[:, 16:].reshape(-1, 3, 3))

    def label(self) -> Labels:
        """EG3D's label [B, 25] of these cameras."""
        return torch.cat([self.world_from_cam.flatten(1), self.intrinsics.flatten(1)], dim=1)

    # ---------------------------------------------------------------- parts and batches
    @property
    def position(self) -> Tensor:
        """Camera centres in the world [B, 3]."""
        return self.world_from_cam[:, :3, 3]

    @property
    def rotation(self) -> Tensor:
        """Rotations [B, 3, 3]; the columns are the camera's right, down and forward in the world."""
        return self.world_from_cam[:, :3, :3]

    @property
    def yaw(self) -> PerImage:
        """Angle [B] by which the camera went round towards +x: 0 from the front, pi/2 from the side."""
        backward = -self.rotation[:, :, 2]
        return torch.atan2(backward[:, 0], backward[:, 2])

    @property
    def pitch(self) -> PerImage:
        """Elevation [B] of the viewing direction: positive for a camera that looks down from above."""
        return torch.asin((-self.rotation[:, 1, 2]).clamp(-1, 1))

    @property
    def device(self) -> torch.device:
        return self.world_from_cam.device

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Camera":
        return Camera(self.world_from_cam.to(device, dtype), self.intrinsics.to(device, dtype))

    def detach(self) -> "Camera":
        return Camera(self.world_from_cam.detach(), self.intrinsics.detach())

    def expand(self, batch: int) -> "Camera":
        """One camera repeated for a batch; a batch of that size is returned as it is."""
        if len(self) not in (1, batch):
            raise ValueError(f"cannot use {len(self)} cameras for a batch of {batch}: expected 1 or {batch}")
        return Camera(self.world_from_cam.expand(batch, 4, 4), self.intrinsics.expand(batch, 3, 3))

    def __len__(self) -> int:
        return self.world_from_cam.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> "Camera":
        """Some of the cameras; an integer gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # also what ends `for camera in cameras`
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        return Camera(self.world_from_cam[index], self.intrinsics[index])

    @staticmethod
    def cat(cameras: Sequence["Camera"]) -> "Camera":
        """One batch out of several."""
        return Camera(
            torch.cat([camera.world_from_cam for camera in cameras]),
            torch.cat([camera.intrinsics for camera in cameras]),
        )

    def mirror(self) -> "Camera":
        """The cameras that see the mirrored head (x -> -x) as the mirrored picture.

        The pose becomes S M S with S = diag(-1, 1, 1, 1); the principal point changes sides.
        """
        flip = self.world_from_cam.new_tensor([-1.0, 1.0, 1.0, 1.0])
        world_from_cam = flip[:, None] * self.world_from_cam * flip
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 1] = -self.intrinsics[:, 0, 1]
        intrinsics[:, 0, 2] = 1 - self.intrinsics[:, 0, 2]
        return Camera(world_from_cam, intrinsics)

    # ---------------------------------------------------------------- between image and world
    def rays(self, resolution: int) -> tuple[Rays, Rays]:
        """Origins and unit directions [B, R*R, 3] of the rays through the pixel centres, row by row."""
        directions = _rotate(self.rotation, self._rays_cam(resolution))
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return self.position[:, None].expand_as(directions), directions

    def ray_cosines(self, resolution: int) -> SingleMaps:
        """Cosine [B, 1, R, R] of each pixel's ray with the viewing direction: depth_z = depth * cosine."""
        return (1 / self._rays_cam(resolution).norm(dim=-1)).reshape(-1, 1, resolution, resolution)

    def project(self, points_world: Points) -> tuple[ImagePoints, PerPoint]:
        """Image positions (u, v) of points, and their depth along z (not positive behind the camera)."""
        points_cam = _rotate(self.rotation.transpose(1, 2), points_world - self.position[:, None])
        depth_z = points_cam[..., 2]
        homogeneous = _rotate(self.intrinsics, points_cam)
        return homogeneous[..., :2] / homogeneous[..., 2:], depth_z

    def unproject(self, uv: ImagePoints, depth_z: PerPoint) -> Points:
        """World points [B, N, 3] at image positions uv and depth depth_z: the inverse of `project`."""
        points_cam = self._back_project(uv) * depth_z[..., None]
        return _rotate(self.rotation, points_cam) + self.position[:, None]

    def _rays_cam(self, resolution: int) -> Tensor:
        """Rays [B, R*R, 3] through the pixel centres in the camera's frame, of z = 1."""
        return self._back_project(pixel_centres(resolution, self.world_from_cam).expand(len(self), -1, -1))

    def _back_project(self, uv: Tensor) -> Tensor:
        """K^-1 (u, v, 1): points [B, N, 3] in the camera's frame at z = 1."""
        focal_x, skew, centre_x = self.intrinsics[:, None, 0].unbind(-1)
        focal_y, centre_y = self.intrinsics[:, None, 1, 1], self.intrinsics[:, None, 1, 2]
        y = (uv[..., 1] - centre_y) / focal_y
        x = (uv[..., 0] - centre_x - skew * y) / focal_x
        return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _rotate(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Apply [B, 3, 3] to [B, N, 3]; in full precision, as bfloat16 would bend rays by whole pixels."""
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors @ matrices.transpose(1, 2)


def pixel_centres(resolution: int, like: Tensor) -> Tensor:
    """Image positions (u, v) [R*R, 2] of the pixel centres, row by row; type and device of `like`."""
    steps = (torch.arange(resolution, device=like.device, dtype=like.dtype) + 0.5) / resolution
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([u, v], dim=-1).reshape(-1, 2)


def as_camera(camera: Camera | Tensor) -> Camera:
    """A Camera as it is; EG3D's 25 numbers as a Camera."""
    return camera if isinstance(camera, Camera) else Camera.from_label(camera)


# -------------------------------------------------------------------- making cameras
def intrinsics_matrix(focal: float | Tensor, batch: int = 1) -> Intrinsics:
    """[B, 3, 3] with this focal length (in image widths) and the principal point in the middle."""
    focal = torch.as_tensor(focal, dtype=torch.float32).reshape(-1).expand(batch)
    matrices = torch.eye(3, device=focal.device).repeat(batch, 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = focal
    matrices[:, :2, 2] = 0.5
    return matrices


@checked
def look_at(position: Positions, target: Positions) -> Poses:
    """world_from_cam [B, 4, 4] of cameras at `position` that look at `target`, with +y up and no roll."""
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], device=position.device).expand_as(forward)
    right = torch.nn.functional.normalize(torch.cross(forward, up, dim=-1), dim=-1)
    down = torch.cross(forward, right, dim=-1)
    poses = torch.eye(4, device=position.device).repeat(position.shape[0], 1, 1)
    poses[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    poses[:, :3, 3] = position
    return poses


def orbit(
    yaw: float | Tensor,
    pitch: float | Tensor,
    radius: float = RADIUS,
    focal: float = FOCAL,
    pivot: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Camera:
    """Cameras on a sphere about `pivot` that look at it, without roll. Angles are numbers or tensors [B].

    position = pivot + radius (sin yaw cos pitch, sin pitch, cos yaw cos pitch)
    """
    yaw, pitch = _angles(yaw, pitch)
    if not (
        yaw.isfinite().all() and pitch.isfinite().all() and 0 < radius < math.inf and 0 < focal < math.inf
    ):
        raise ValueError(
            f"expected finite angles, and a radius and focal length of more than 0; got yaw {yaw.tolist()}, pitch "
            f"{pitch.tolist()}, radius {radius}, focal length {focal}"
        )
    pivot = torch.as_tensor(pivot, dtype=torch.float32, device=yaw.device)
    outward = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=-1)
    position = pivot + radius * outward
    poses = look_at(position, pivot.expand_as(position))
    return Camera(poses, intrinsics_matrix(focal, len(poses)).to(poses.device))


def carried(camera: Camera, start: Camera, end: Camera) -> Camera:
    """Cameras after the rigid motion of the world that takes `start` to `end`, with their own intrinsics.

    Carries known views of a head into the frame of somebody who says that one of them, `start`, is `end`.
    """
    motion = end.world_from_cam @ torch.linalg.inv(start.world_from_cam)
    return Camera(motion @ camera.world_from_cam, camera.intrinsics.expand(len(camera), 3, 3))


def turned(camera: Camera, yaw: float) -> Camera:
    """Cameras moved about the world's vertical axis by `yaw`, radians; what they looked at on it stays in the middle."""
    sin, cos = math.sin(yaw), math.cos(yaw)
    rotation = torch.eye(4).to(camera.world_from_cam)
    rotation[0, 0] = rotation[2, 2] = cos
    rotation[0, 2], rotation[2, 0] = sin, -sin
    return Camera(rotation @ camera.world_from_cam, camera.intrinsics)


def eg3d_look_at(
    horizontal: float | Tensor,
    vertical: float | Tensor,
    radius: float = RADIUS,
    focal: float = FOCAL,
    pivot: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Camera:
    """Cameras from the arguments of EG3D's look-at sampler; pi/2, pi/2 is the front.

    Its second argument is not an angle: the polar angle is arccos(1 - 2 v / pi), so more of it moves the
    camera down. The radius is measured from the origin, although the camera looks at the pivot.
    """
    horizontal, vertical = _angles(horizontal, vertical)
    polar = torch.arccos(1 - 2 * vertical.clamp(1e-5, math.pi - 1e-5) / math.pi)
    outward = torch.stack(
        [-polar.sin() * horizontal.cos(), polar.cos(), polar.sin() * horizontal.sin()], dim=-1
    )
    pivot = torch.as_tensor(pivot, dtype=torch.float32, device=outward.device).expand_as(outward)
    poses = look_at(radius * outward, pivot)
    return Camera(poses, intrinsics_matrix(focal, len(poses)).to(poses.device))


def _angles(first: float | Tensor, second: float | Tensor) -> tuple[Tensor, Tensor]:
    """Two angles as float tensors of one shape [B]."""
    device = next((a.device for a in (first, second) if isinstance(a, Tensor)), None)
    first, second = (
        torch.as_tensor(a, dtype=torch.float32, device=device).reshape(-1) for a in (first, second)
    )
    return torch.broadcast_tensors(first, second)


def pose_from_label(label: Tensor) -> tuple[PerImage, PerImage]:
    """Yaw and pitch (radians, [B]) from which EG3D's label [B, 25] sees the head."""
    camera = Camera.from_label(label)
    return camera.yaw, camera.pitch


# -------------------------------------------------------------------- judging labels
CAMERAS_JSON = (
    "EG3D's intermediate file cameras.json looks like this: use the corrected dataset.json beside it"
)


def validate(label: Tensor, radius: float | None = RADIUS, focal: float | None = FOCAL) -> Labels:
    """Check camera labels [B, 25] and return them; a ValueError says what is wrong with the first bad one.

    `radius` and `focal` are what the generator was trained with; None skips that check. More than a per cent
    away says that the labels come from elsewhere, most often from EG3D's own intermediate `cameras.json`.
    """
    camera = Camera.from_label(label)
    label = camera.label()
    _require_rigid_pose(camera)
    _require_intrinsics(camera, focal)
    if radius is not None:
        distance = camera.position.norm(dim=1)
        message = f"the camera is {{found}} from the origin, expected {radius}. {CAMERAS_JSON}"
        _require(_close(distance, radius), distance, message)
    return label


def _require(good: Tensor, found: Tensor, message: str) -> None:
    """Raise for the first label that is not good [B]; `message` quotes what was found there, of [B, ...]."""
    if not good.all():
        index = int((~good).int().argmax())
        numbers = ", ".join(f"{value:.6g}" for value in found[index].flatten().tolist())
        raise ValueError(f"camera label {index} of {len(good)}: {message.format(found=numbers)}")


def _close(found: Tensor, expected: float) -> Tensor:
    return (found / expected - 1).abs() <= 0.01


def _require_rigid_pose(camera: Camera) -> None:
    """The 4x4 pose is a rotation and a position, in OpenCV's axes."""
    rows = camera.world_from_cam[:, 3]
    good = (rows - rows.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(dim=1) < 1e-3
    _require(good, rows, "the pose's last row must be 0, 0, 0, 1, got {found}; is the matrix transposed?")
    rotation = camera.rotation
    error = (rotation @ rotation.transpose(1, 2) - torch.eye(3).to(rotation)).abs().amax(dim=(1, 2))
    message = "its rotation R is not orthonormal: R R^T is off the identity by {found}, expected below 0.01"
    _require(error < 1e-2, error, message)
    determinant = torch.linalg.det(rotation)
    message = "its rotation is a reflection (determinant {found}); Camera.mirror() mirrors a label"
    _require(determinant > 0, determinant, message)
    outward = (rotation[:, :, 2] * camera.position).sum(dim=1)
    message = (
        "the camera looks away from the head. Expected OpenCV axes (x right, y down, z forward); "
        "multiply an OpenGL pose (y up, z backward) from the right by diag(1, -1, -1, 1)"
    )
    _require(outward <= 0, outward, message)


def _require_intrinsics(camera: Camera, focal: float | None) -> None:
    """Focal lengths and principal point are in units of the image size, and the expected ones."""
    focal_lengths, centre = camera.intrinsics[:, (0, 1), (0, 1)], camera.intrinsics[:, :2, 2]
    both = torch.cat([focal_lengths, centre], dim=1)
    message = (
        "its focal lengths and principal point ({found}) are in pixels; expected units of the image size "
        f"(focal {FOCAL}, centre 0.5): divide the first two rows by it. {CAMERAS_JSON}"
    )
    _require((focal_lengths.amax(dim=1) < 50) & (centre.amax(dim=1) < 2), both, message)
    _require(focal_lengths.amin(dim=1) > 0, focal_lengths, "focal lengths must be positive, got {found}")
    if focal is not None:
        good = _close(focal_lengths, focal).all(dim=1) & _close(centre, 0.5).all(dim=1)
        message = f"its focal lengths and principal point are {{found}}, expected {focal} twice and 0.5 twice"
        _require(good, both, message)
