"""A camera that is optimised along with the picture: rotations out of free numbers, poses on a sphere, a warping loss.

The parts of Pose-Opt (Ko et al., 2023, "3D GAN Inversion with Pose Optimization"). A rotation is that of
`Camera.rotation`: its columns are the camera's right, down and forward in the world.
"""

import abc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.cameras import Camera
from lib.images import resize
from lib.shapes import FeatureMaps, PerImage, checked
from lib.warping import pixels_in_view, sample_at

Form = Literal["quaternion", "6d", "angles"]

Rotations = Float[Tensor, "batch 3 3"]
Quaternions = Float[Tensor, "batch 4"]
TwoColumns = Float[Tensor, "batch 6"]
YawAndPitch = Float[Tensor, "batch 2"]
DepthMaps = Float[Tensor, "batch 1 rows columns"]  # of another size than the features


# -------------------------------------------------------------------- rotations and the numbers that make them
@checked
def rotation_from_quaternion(quaternion: Quaternions) -> Rotations:
    """Rotation of a quaternion (w, x, y, z) of any length but 0; q and -q are the same rotation."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return _matrices(rows)


@checked
def quaternion_from_rotation(rotation: Rotations) -> Quaternions:
    """The unit quaternion (w, x, y, z) of a rotation whose largest part is positive.

    Out of the products 4 q_i q_j, all of which are linear in the rotation: the row of the largest part is sound even
    where w is 0, as it is for the frontal camera (half a turn about x).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    products = _matrices(
        [
            [1 + xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz],
        ]
    )
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    return F.normalize(products.take_along_dim(largest[:, None, None], dim=1)[:, 0], dim=-1)


@checked
def rotation_from_6d(columns: TwoColumns) -> Rotations:
    """Rotation of the plane and first direction of two vectors (Zhou et al., 2019, eq. 15): Gram-Schmidt.

    The vectors, first three numbers and last three, may have any length; they must not be parallel.
    """
    first, second = columns.unflatten(-1, (2, 3)).unbind(-2)
    first = F.normalize(first, dim=-1)
    second = F.normalize(second - (first * second).sum(dim=-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


@checked
def first_two_columns(rotation: Rotations) -> TwoColumns:
    """The six numbers of a rotation: its first column, then its second (ibid., eq. 14)."""
    return rotation[:, :, :2].transpose(1, 2).flatten(1)


@checked
def rotation_from_angles(yaw: PerImage, pitch: PerImage) -> Rotations:
    """Rotation of a camera of `lib.cameras.orbit`: it goes round by these angles, looks back and does not roll."""
    zero = torch.zeros_like(yaw)
    right = [yaw.cos(), zero, -yaw.sin()]
    down = [yaw.sin() * pitch.sin(), -pitch.cos(), yaw.cos() * pitch.sin()]
    forward = [-yaw.sin() * pitch.cos(), -pitch.sin(), -yaw.cos() * pitch.cos()]
    return _matrices([right, down, forward]).transpose(1, 2)


@checked
def angles_from_rotation(rotation: Rotations) -> YawAndPitch:
    """Yaw and pitch (radians) of the viewing direction; the camera's roll is not in them."""
    x, y, z = (-rotation[:, :, 2]).unbind(-1)
    return torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], dim=-1)


def _matrices(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Matrices [B, rows, columns] of their entries, each [B]."""
    return torch.stack([torch.stack(list(row), dim=-1) for row in rows], dim=-2)


@dataclass(frozen=True)
class RotationForm:
    """Numbers that stand for a rotation: how many, how to read them, and those of a given rotation."""

    size: int
    rotation: Callable[[Tensor], Tensor]
    numbers: Callable[[Tensor], Tensor]


FORMS: dict[Form, RotationForm] = {
    "quaternion": RotationForm(4, rotation_from_quaternion, quaternion_from_rotation),
    "6d": RotationForm(6, rotation_from_6d, first_two_columns),
    "angles": RotationForm(2, lambda angles: rotation_from_angles(*angles.unbind(-1)), angles_from_rotation),
}


# -------------------------------------------------------------------- poses that an optimiser moves
class PoseParameters(torch.nn.Module, abc.ABC):
    """Cameras [B] that begin at `start` and stay at its distance from the origin, with its intrinsics.

    Rotation: R = R_form(n + offset) C, with n the numbers of the start's rotation in this form, and C what the form
    cannot say of it: the roll, for two angles; otherwise nothing. Position: radius * normalised(R (c - t)), with c the
    direction from the origin to the start, in the start's own axes. A camera that looks at the origin has c = -z, as
    all have in the released code; others, such as those about EG3D's pivot, begin where they are. t, three free
    numbers in units of the radius, moves the camera aside while it looks where R says.

    What makes the offset is the subclass's.
    """

    def __init__(self, start: Camera, form: Form = "quaternion") -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"a rotation has the form {', '.join(FORMS)}; got {form!r}")
        start = start.detach()
        self.form = FORMS[form]
        numbers = self.form.numbers(start.rotation)
        remainder = self.form.rotation(numbers).transpose(1, 2) @ start.rotation
        towards_start = start.rotation.transpose(1, 2) @ F.normalize(start.position, dim=-1)[..., None]
        # Made anew from `start` whenever a run goes on, and so no part of what is saved.
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("remainder", remainder, persistent=False)
        self.register_buffer("towards_start", towards_start[..., 0], persistent=False)
        self.register_buffer("radius", start.position.norm(dim=-1, keepdim=True), persistent=False)
        self.register_buffer("intrinsics", start.intrinsics.clone(), persistent=False)
        self.translation = torch.nn.Parameter(torch.zeros_like(start.position))

    @abc.abstractmethod
    def offset(self) -> Tensor:
        """What is added to the numbers of the start's rotation: [B, form.size]."""

    def camera(self) -> Camera:
        """The cameras as they are now, differentiable in the parameters."""
        # In full precision: bfloat16 would turn the camera by up to half a degree.
        with torch.autocast(self.numbers.device.type, enabled=False):
            rotation = self.form.rotation(self.numbers + self.offset()) @ self.remainder
            outward = rotation @ (self.towards_start - self.translation)[..., None]
        position = self.radius[..., None] * F.normalize(outward, dim=1)
        bottom = position.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(position), 1, 4)
        return Camera(torch.cat([torch.cat([rotation, position], dim=2), bottom], dim=1), self.intrinsics)

    def parameter_groups(self, learning_rate: float, translation_rate: float) -> list[dict[str, Any]]:
        """Groups for an optimiser: what makes the rotation, and the translation.

        The released code's rates, 6e-7 (quaternion) and 6e-6 for its network and 2e-4 for the translation, start from
        a pose that is nearly right. From the front, Adam wants about 1e-2 for a `FreePose` and 1e-3 for a
        `NetworkPose` to go round by 20 degrees in 30 steps.
        """
        rotation = [value for name, value in self.named_parameters() if name != "translation"]
        return [
            {"params": rotation, "lr": learning_rate, "name": "rotation"},
            {"params": [self.translation], "lr": translation_rate, "name": "translation"},
        ]


class FreePose(PoseParameters):
    """Poses whose offsets are themselves the parameters; any number of cameras."""

    def __init__(self, start: Camera, form: Form = "quaternion") -> None:
        super().__init__(start, form)
        self.free = torch.nn.Parameter(torch.zeros_like(self.numbers))

    def offset(self) -> Tensor:
        return self.free


class NetworkPose(PoseParameters):
    """A pose whose offset is what a network makes of the one picture, the network's weights being the parameters.

    The released code tunes a ResNet-34 that was trained to tell the poses of its generator's samples, and whose tanh
    is the whole quaternion. Here the network is small, knows nothing, and its tanh is an offset of less than 1 in each
    number: its last layer is zero, so that the pose begins at `start`. seed: of the other layers.
    """

    def __init__(self, target: Tensor, start: Camera, form: Form = "quaternion", seed: int = 0) -> None:
        super().__init__(start, form)
        if target.ndim != 4 or tuple(target.shape[:2]) != (1, 3) or len(start) != 1:
            raise ValueError(
                "a network makes the pose of one picture: expected a target [1, 3, H, W] and one starting camera, got "
                f"{tuple(target.shape)} and {len(start)}; for several pictures make several poses"
            )
        network = pose_network(self.form.size, torch.Generator().manual_seed(seed))
        self.network = network.to(self.numbers)
        self.register_buffer("target", resize(target.detach().to(self.numbers), 64), persistent=False)

    def offset(self) -> Tensor:
        return self.network(self.target).tanh()


def pose_network(outputs: int, rng: torch.Generator) -> torch.nn.Sequential:
    """About 47,000 weights that make [B, outputs] of pictures [B, 3, 64, 64]; the outputs begin at zero."""
    widths = (3, 16, 32, 48, 64)
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(widths):
        # `skip_init`, as the ordinary constructor would draw from the global generator.
        layer = torch.nn.utils.skip_init(torch.nn.Conv2d, before, after, 3, stride=2, padding=1)
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
        torch.nn.init.zeros_(layer.bias)
        layers += [layer, torch.nn.ReLU()]
    head = torch.nn.utils.skip_init(torch.nn.Linear, widths[-1], outputs)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)


# -------------------------------------------------------------------- the loss that looks at the canonical view
@checked
def canonical_warping_loss(
    target_features: FeatureMaps,
    canonical_features: FeatureMaps,
    camera: Camera,
    depth: DepthMaps,
    canonical_camera: Camera,
) -> PerImage:
    """L1 between features of the target and those of the canonical view, carried into the camera by its depth.

    target_features, canonical_features: [B, C, h, w] of the target and of what the generator shows from
    `canonical_camera`, both pictures of one size (the released code takes the target at 512 pixels and the canonical
    view at 256, so that the same layer sees two scales). It uses conv3_3 of VGG16, before the ReLU. camera, depth
    [B, 1, R, R]: the current view and its distances along the rays, of any resolution.

    Each foreground point, nearer than the mean depth, is looked up in the canonical view. The background counts as 0
    in a mean over all positions, as in that code. Gradients go to camera and depth (and through depth to the code of
    the head, unless that was detached; there, too), none to the canonical features. With VGG's features its minimum
    lies a few degrees nearer to the canonical view than the true camera: they change as a face turns. It finds the
    way from afar; the picture's own losses find the place.
    """
    foreground = (depth < depth.mean(dim=(1, 2, 3), keepdim=True)).to(depth)
    uv, _ = pixels_in_view(camera, depth, canonical_camera)
    size = target_features.shape[-2:]
    positions = F.interpolate(_as_maps(uv, depth), size, mode="bilinear").flatten(2).transpose(1, 2)
    weights = F.interpolate(foreground, size, mode="bilinear")
    carried = sample_at(canonical_features.detach(), positions)
    return ((target_features - carried).abs() * weights).mean(dim=(1, 2, 3))


def _as_maps(uv: Tensor, like: Tensor) -> Tensor:
    """Positions [B, R*R, 2] as two maps [B, 2, R, R]."""
    return uv.transpose(1, 2).unflatten(2, like.shape[-2:])
