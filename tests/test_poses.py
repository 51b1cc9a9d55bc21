"""Poses that are optimised: rotations and their numbers, cameras on a sphere, the loss of the canonical view."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.cameras import Camera, intrinsics_matrix, look_at, orbit
from lib.inversion.poses import (
    FORMS,
    FreePose,
    NetworkPose,
    PoseParameters,
    angles_from_rotation,
    canonical_warping_loss,
    first_two_columns,
    quaternion_from_rotation,
    rotation_from_6d,
    rotation_from_angles,
    rotation_from_quaternion,
)
from tests.egg_scene import HALF_AXES

ALL_FORMS = list(FORMS)
WHOLE_FORMS = ["quaternion", "6d"]  # that can say every rotation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(axis: str, angle: float) -> torch.Tensor:
    """[1, 3, 3] about an axis, counterclockwise as it points at the viewer: from the definition of a rotation."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix[None]


def random_rotations(n: int, seed: int = 0) -> torch.Tensor:
    """[n, 3, 3] uniformly distributed: the Q of a QR of normal numbers, reflections turned round."""
    rotation = torch.linalg.qr(normal(n, 3, 3, seed=seed)).Q
    return rotation * torch.linalg.det(rotation)[:, None, None]


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angle [B] (radians) of the rotation that takes one rotation to the other."""
    return 2 * torch.asin(((a - b).flatten(1).norm(dim=1) / math.sqrt(8)).clamp(max=1))


# -------------------------------------------------------------------- rotations
@pytest.mark.parametrize("form", ALL_FORMS)
def test_any_numbers_make_a_rotation(form):
    rotation = FORMS[form].rotation(3 * normal(50, FORMS[form].size))
    unit = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    assert torch.allclose(rotation @ rotation.transpose(1, 2), unit, atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(("axis", "part"), [("x", 1), ("y", 2), ("z", 3)])
def test_a_quaternion_turns_about_its_axis_by_twice_its_angle(axis, part):
    quaternion = torch.zeros(1, 4, dtype=torch.float64)
    quaternion[0, 0], quaternion[0, part] = 5 * math.cos(0.35), 5 * math.sin(0.35)
    assert torch.allclose(rotation_from_quaternion(quaternion), turn(axis, 0.7))


def test_six_numbers_give_the_first_direction_and_the_plane():
    numbers = torch.tensor(
        [[0.0, 2.0, 0.0, -3.0, 7.0, 0.0]], dtype=torch.float64
    )  # y, then something left of it
    assert torch.allclose(rotation_from_6d(numbers), turn("z", math.pi / 2))


@pytest.mark.parametrize("form", WHOLE_FORMS)
def test_numbers_of_a_rotation_make_it_again(form):
    half_turns = torch.cat([turn("x", math.pi), turn("y", math.pi), turn("z", math.pi)])  # where w is 0
    turns = torch.cat([torch.eye(3, dtype=torch.float64)[None], half_turns, random_rotations(50)])
    assert torch.allclose(FORMS[form].rotation(FORMS[form].numbers(turns)), turns, atol=1e-12)


def test_a_rotation_of_numbers_has_these_numbers():
    quaternions = F.normalize(normal(50, 4), dim=1)
    again = quaternion_from_rotation(rotation_from_quaternion(quaternions))
    assert torch.allclose((again * quaternions).sum(dim=1).abs(), torch.ones(50, dtype=torch.float64))
    assert again.gather(1, again.abs().argmax(dim=1, keepdim=True)).gt(0).all()  # of the two, the stated one
    columns = first_two_columns(random_rotations(50))
    assert torch.allclose(first_two_columns(rotation_from_6d(columns)), columns)
    angles = torch.tensor(
        [[-3.0, -1.5], [0.0, 0.0], [0.4, 1.2], [1.6, -0.3], [3.1, 1.57]], dtype=torch.float64
    )
    assert torch.allclose(angles_from_rotation(rotation_from_angles(*angles.T)), angles)


def test_angles_are_those_of_the_orbit():
    yaw, pitch = torch.tensor([0.0, 0.5, -1.2, 2.8, -0.1]), torch.tensor([0.0, -0.3, 0.9, 0.2, -1.4])
    expected = orbit(yaw, pitch)
    assert torch.allclose(rotation_from_angles(yaw, pitch), expected.rotation, atol=1e-6)
    found = angles_from_rotation(expected.rotation)
    assert torch.allclose(found, torch.stack([yaw, pitch], dim=1), atol=1e-5)


def test_angles_do_not_see_the_roll():
    rolled = rotation_from_angles(*normal(2, 1)) @ turn("z", 0.4)
    assert torch.allclose(angles_from_rotation(rolled), normal(2, 1).T)


@pytest.mark.parametrize("form", ALL_FORMS)
def test_rotations_have_the_gradients_of_finite_differences(form):
    numbers = normal(4, FORMS[form].size).requires_grad_()
    assert torch.autograd.gradcheck(FORMS[form].rotation, numbers)


# -------------------------------------------------------------------- poses
def pivoted() -> Camera:
    """A camera off every convention: it looks past the origin, rolls, stands elsewhere, and has another lens."""
    pose = look_at(torch.tensor([[0.9, -0.4, 2.0]]), torch.tensor([[0.1, 0.0, 0.2]]))
    pose[:, :3, :3] = pose[:, :3, :3] @ turn("z", 0.2).float()
    return Camera(pose, intrinsics_matrix(3.0))


STARTS = {
    "frontal": orbit(0.0, 0.0),
    "turned": orbit(-0.6, 0.25),
    "about EG3D's pivot": Camera(
        look_at(orbit(0.4, -0.2).position, torch.tensor([[0, 0, 0.2]])), intrinsics_matrix(4.0)
    ),
    "off every convention": pivoted(),
}


def picture(side: int = 64) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def poses(start: Camera, form: str) -> list[PoseParameters]:
    return [FreePose(start, form), NetworkPose(picture(), start, form)]


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_poses_begin_at_the_given_camera(start, form):
    for pose in poses(start, form):
        camera = pose.camera()
        assert torch.allclose(camera.world_from_cam, start.world_from_cam, atol=1e-6)
        assert torch.equal(camera.intrinsics, start.intrinsics)


@pytest.mark.parametrize("form", ALL_FORMS)
def test_poses_stay_on_the_sphere_while_they_move(form):
    """Pulled, by both groups, to where nothing on the sphere is."""
    start = STARTS["about EG3D's pivot"]
    for pose in poses(start, form):
        optimiser = torch.optim.Adam(pose.parameter_groups(0.03, 0.05))
        for _ in range(10):
            optimiser.zero_grad()
            (pose.camera().world_from_cam[:, :3] - 4.0).square().sum().backward()
            optimiser.step()
        camera = pose.camera()
        assert angle_between(camera.rotation, start.rotation) > 0.05
        # More than the rotation alone would have moved it: the translation counts.
        by_rotation = camera.rotation @ start.rotation.transpose(1, 2) @ start.position[..., None]
        assert (camera.position - by_rotation[..., 0]).norm() > 0.05
        assert camera.position.norm().item() == pytest.approx(2.7, rel=1e-5)
        unit = camera.rotation @ camera.rotation.transpose(1, 2)
        assert torch.allclose(unit, torch.eye(3)[None], atol=1e-5)
        assert torch.equal(camera.intrinsics, start.intrinsics)


def test_the_translation_moves_the_camera_along_its_own_axes():
    """As the released code has it: -radius R_z - radius R t, brought back to the sphere; R stays."""
    pose = FreePose(orbit(0.3, 0.1))
    with torch.no_grad():
        pose.translation += torch.tensor([[0.1, -0.05, 0.2]])
    camera, rotation = pose.camera(), orbit(0.3, 0.1).rotation[0]
    moved = -2.7 * rotation[:, 2] - 2.7 * rotation @ torch.tensor([0.1, -0.05, 0.2])
    assert torch.allclose(camera.position[0], 2.7 * moved / moved.norm(), atol=1e-6)
    assert torch.allclose(camera.rotation[0], rotation, atol=1e-6)


@pytest.mark.parametrize("form", ALL_FORMS)
def test_cameras_have_the_gradients_of_finite_differences(form):
    pose = FreePose(pivoted().to(dtype=torch.float64), form)
    weights = normal(3, 4)

    def reading(free: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
        parameters = {"free": free, "translation": translation}
        camera = torch.func.functional_call(_CameraOf(pose), {f"pose.{k}": v for k, v in parameters.items()})
        return (camera[:, :3] * weights).sum(dim=(1, 2))

    numbers = 0.2 * normal(1, FORMS[form].size), 0.2 * normal(1, 3, seed=1)
    assert torch.autograd.gradcheck(reading, [x.requires_grad_() for x in numbers])


class _CameraOf(torch.nn.Module):
    def __init__(self, pose: PoseParameters):
        super().__init__()
        self.pose = pose

    def forward(self) -> torch.Tensor:
        return self.pose.camera().world_from_cam


def test_groups_hold_every_parameter_once_at_its_rate():
    for pose in poses(orbit(0.0, 0.0), "6d"):
        rotation, translation = pose.parameter_groups(1e-3, 2e-4)
        assert (rotation["lr"], translation["lr"]) == (1e-3, 2e-4)
        assert translation["params"] == [pose.translation]
        grouped = [*rotation["params"], *translation["params"]]
        assert {id(x) for x in grouped} == {id(x) for x in pose.parameters()}
        assert len(grouped) == len(list(pose.parameters()))


def test_a_pose_goes_on_from_what_was_saved():
    start = orbit(0.2, 0.0)
    for pose, fresh in zip(poses(start, "quaternion"), poses(start, "quaternion"), strict=True):
        with torch.no_grad():
            for parameter in pose.parameters():
                parameter += 0.05
        fresh.load_state_dict(pose.state_dict())
        assert torch.equal(fresh.camera().world_from_cam, pose.camera().world_from_cam)
        assert angle_between(pose.camera().rotation, start.rotation) > 0.02


# -------------------------------------------------------------------- poses are found again
def head_points() -> torch.Tensor:
    return 0.25 * normal(1, 40, 3).float()


def optimise(pose: PoseParameters, truth: Camera, rate: float, translation_rate: float, steps: int) -> Camera:
    """The pose whose projections of known points fall where the true camera's do."""
    points = head_points()
    expected, _ = truth.project(points)
    optimiser = torch.optim.Adam(pose.parameter_groups(rate, translation_rate))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        uv, _ = pose.camera().project(points)
        optimiser.zero_grad()
        (uv - expected).square().mean().backward()
        optimiser.step()
        decay.step()
    return pose.camera().detach()


def assert_found(found: Camera, truth: Camera, start: Camera) -> None:
    before, after = (math.degrees(angle_between(c.rotation, truth.rotation)) for c in (start, found))
    assert before > 9
    assert after < 0.2
    assert (found.position - truth.position).norm() < 0.02 < (start.position - truth.position).norm()


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("kind", ["free", "network"])
def test_a_pose_is_found_again_from_ten_degrees_away(kind, form):
    start, truth = orbit(0.3, 0.1), orbit(0.3 + math.radians(9), 0.1 - math.radians(5))
    if kind == "free":
        found = optimise(FreePose(start, form), truth, 0.02, 0.0, 200)
    else:
        found = optimise(NetworkPose(picture(), start, form), truth, 1e-3, 0.0, 100)
    assert_found(found, truth, start)


@pytest.mark.parametrize("form", WHOLE_FORMS)
def test_a_camera_that_rolls_and_looks_aside_is_found_by_rotation_and_translation(form):
    start = orbit(0.2, 0.0)
    pose = look_at(orbit(0.35, 0.05).position, torch.tensor([[0.0, 0.0, 0.2]]))
    pose[:, :3, :3] = pose[:, :3, :3] @ turn("z", math.radians(8)).float()
    truth = Camera(pose, start.intrinsics)
    assert_found(optimise(FreePose(start, form), truth, 0.02, 0.02, 400), truth, start)


def test_two_angles_keep_the_roll_they_began_with():
    start = pivoted()
    pose = FreePose(start, "angles")
    with torch.no_grad():
        pose.free += torch.tensor([[0.2, -0.1]])
    moved = pose.camera()
    assert torch.allclose(moved.yaw - start.yaw, torch.tensor([0.2]), atol=1e-5)
    assert torch.allclose(moved.pitch - start.pitch, torch.tensor([-0.1]), atol=1e-5)
    unrolled = [rotation_from_angles(c.yaw, c.pitch).transpose(1, 2) @ c.rotation for c in (start, moved)]
    assert torch.allclose(*unrolled, atol=1e-5)


def test_several_poses_move_apart():
    start = orbit(torch.tensor([0.0, 0.4, -0.3]), 0.1)
    pose = FreePose(start)
    pose.camera().position[1].sum().backward()
    moved = pose.free.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, False]


# -------------------------------------------------------------------- the network
def test_a_seed_makes_one_network_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (NetworkPose(picture(), orbit(0, 0), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [torch.cat([x.flatten() for x in pose.network.parameters()]) for pose in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 40_000 < len(weights[0]) < 60_000


def test_the_network_looks_at_the_picture_and_all_its_layers_learn():
    poses = [NetworkPose(x, orbit(0, 0)) for x in (picture(), -picture(128))]  # any size of picture
    with torch.no_grad():
        for pose in poses:
            pose.network[-1].weight += 0.05
    offsets = [pose.offset() for pose in poses]
    assert not torch.allclose(*offsets, atol=1e-3)
    offsets[0].sum().backward()
    assert all(parameter.grad.any() for parameter in poses[0].network.parameters())


def test_the_networks_offset_is_bounded():
    pose = NetworkPose(picture(), orbit(0, 0))
    with torch.no_grad():
        pose.network[-1].bias.copy_(torch.tensor([100.0, -100.0, 0.0, 1.0]))
    assert pose.offset().flatten().tolist() == pytest.approx([1.0, -1.0, 0.0, math.tanh(1.0)])


def test_what_a_pose_cannot_take_is_refused():
    with pytest.raises(ValueError, match="quaternion, 6d, angles; got 'euler'"):
        FreePose(orbit(0, 0), "euler")
    with pytest.raises(ValueError, match=r"one picture.*\(2, 3, 64, 64\) and 1"):
        NetworkPose(picture().expand(2, -1, -1, -1), orbit(0, 0))
    with pytest.raises(ValueError, match="make several poses"):
        NetworkPose(picture(), orbit(torch.tensor([0.0, 0.1]), 0.0))


# -------------------------------------------------------------------- the loss of the canonical view
SIDE, FAR = 32, 3.2


def egg(camera: Camera, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [1, 4, R, R] and depth [1, 1, R, R] of the egg before a far ball, differentiable in the camera.

    The features are smooth functions of the place on the surface, as a perfect extractor's would be.
    """
    half_axes = HALF_AXES.to(camera.position)
    origins, directions = (x[0] / half_axes for x in camera.rays(side))
    speed = directions.norm(dim=1)
    to_nearest = -(origins * directions).sum(dim=1) / speed.square()
    nearest = origins + directions * to_nearest[:, None]
    left = 1 - nearest.square().sum(dim=1)
    met = left > 0
    depth = (to_nearest - left.where(met, 1.0).sqrt() / speed).where(met, FAR)
    points = nearest + (depth - to_nearest)[:, None] * directions
    features = torch.cat([points, (4 * points[:, :1]).sin()], dim=1) * met[:, None]
    return features.T.reshape(1, 4, side, side), depth.reshape(1, 1, side, side)


FRONTAL = orbit(0.0, 0.0).to(dtype=torch.float64)
PITCH = torch.tensor([0.1], dtype=torch.float64)


def camera_at(yaw: torch.Tensor) -> Camera:
    rotation = rotation_from_angles(yaw, PITCH)
    pose = torch.cat([rotation, -2.7 * rotation[:, :, 2:]], dim=2)
    bottom = pose.new_tensor([[[0.0, 0.0, 0.0, 1.0]]])
    return Camera(torch.cat([pose, bottom], dim=1), FRONTAL.intrinsics)


def loss_at(yaw: torch.Tensor, truth: float = 0.3) -> torch.Tensor:
    """Of a camera at this yaw, where the target was seen from another."""
    target, _ = egg(camera_at(torch.tensor([truth], dtype=torch.float64)))
    camera = camera_at(yaw)
    _, depth = egg(camera)
    return canonical_warping_loss(target, egg(FRONTAL)[0], camera, depth, FRONTAL)


def yaws(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]


@pytest.mark.parametrize("truth", [0.3, -0.45])
def test_the_warping_loss_is_least_at_the_true_camera(truth):
    offsets = [-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3]
    losses = [loss_at(yaw, truth).item() for yaw in yaws(*(truth + offset for offset in offsets))]
    assert min(losses) == losses[4]
    assert losses[:5] == sorted(losses[:5], reverse=True) and losses[4:] == sorted(losses[4:])
    assert losses[4] < 0.5 * min(losses[2], losses[6])  # the rest is what the canonical view does not show


def test_the_warping_loss_pulls_the_camera_towards_the_true_one():
    for yaw in yaws(0.2, 0.4):
        loss_at(yaw).sum().backward()
        assert (yaw.grad * (yaw - 0.3)).item() > 0


def test_the_warping_loss_has_the_gradient_of_finite_differences():
    (yaw,) = yaws(0.2)
    loss_at(yaw).sum().backward()
    step = 1e-7
    with torch.no_grad():
        slope = (loss_at(yaw + step) - loss_at(yaw - step)) / (2 * step)
    assert yaw.grad.item() == pytest.approx(slope.item(), rel=1e-4)


def test_the_warping_loss_of_the_canonical_view_itself_is_zero():
    features, depth = egg(FRONTAL)
    loss = canonical_warping_loss(features, features, FRONTAL, depth, FRONTAL)
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_the_warping_loss_counts_the_foreground_in_a_mean_over_all():
    """The target is one everywhere, the canonical view zero: left is how much is foreground, image by image."""
    _, depth = egg(FRONTAL)
    depth = torch.cat([depth, depth])
    depth[1, :, : SIDE // 2] = FAR
    ones, zeros = torch.ones(2, 4, SIDE, SIDE).double(), torch.zeros(2, 4, SIDE, SIDE).double()
    loss = canonical_warping_loss(ones, zeros, FRONTAL.expand(2), depth, FRONTAL.expand(2))
    part = (egg(FRONTAL)[1] < FAR).double().mean()
    assert loss.tolist() == pytest.approx([part.item(), part.item() / 2], rel=0.05)
    alone = canonical_warping_loss(ones[:1], zeros[:1], FRONTAL, depth[:1], FRONTAL)
    assert torch.equal(alone, loss[:1])


def slow_warping_loss(target, canonical, camera, depth, canonical_camera):
    """The same by loops, for features of half the depth's side: [C, h, w] twice, and depth [2h, 2w]."""
    channels, side, _ = target.shape
    origins, directions = (x[0] for x in camera.rays(2 * side))
    points = origins + directions * depth.reshape(-1, 1)
    pose, intrinsics = canonical_camera.world_from_cam[0], canonical_camera.intrinsics[0]
    seen = (points - pose[:3, 3]) @ pose[:3, :3] @ intrinsics.T
    uv = (seen[:, :2] / seen[:, 2:]).reshape(2 * side, 2 * side, 2)
    near = depth < depth.mean()
    total = 0.0
    for i in range(side):
        for j in range(side):
            four = [(2 * i + a, 2 * j + b) for a in (0, 1) for b in (0, 1)]
            u, v = (sum(uv[place] for place in four) / 4 * side - 0.5).tolist()
            weight = sum(float(near[place]) for place in four) / 4
            for channel in range(channels):
                carried = 0.0
                for row, part in ((math.floor(v), 1 - v % 1), (math.floor(v) + 1, v % 1)):
                    for column, share in ((math.floor(u), 1 - u % 1), (math.floor(u) + 1, u % 1)):
                        row, column = min(max(row, 0), side - 1), min(max(column, 0), side - 1)
                        carried += part * share * canonical[channel, row, column].item()
                total += weight * abs(target[channel, i, j].item() - carried)
    return total / (channels * side * side)


def test_the_warping_loss_equals_loops_and_takes_coarser_features():
    side = 8
    target, canonical = normal(1, 2, side, side), normal(1, 2, side, side, seed=1)
    camera, canonical_camera = pivoted().to(dtype=torch.float64), orbit(-0.2, 0.1).to(dtype=torch.float64)
    depth = 2.5 + 0.2 * normal(1, 1, 2 * side, 2 * side, seed=2)
    loss = canonical_warping_loss(target, canonical, camera, depth, canonical_camera)
    expected = slow_warping_loss(target[0], canonical[0], camera, depth[0, 0], canonical_camera)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_the_warping_loss_teaches_camera_and_depth_and_not_the_canonical_view():
    (yaw,) = yaws(0.2)
    camera = camera_at(yaw)
    depth = egg(camera)[1].detach().requires_grad_()
    canonical = egg(FRONTAL)[0].requires_grad_()
    canonical_warping_loss(
        egg(camera_at(yaws(0.3)[0]))[0].detach(), canonical, camera, depth, FRONTAL
    ).backward()
    assert yaw.grad.abs() > 0
    assert depth.grad.abs().max() > 0
    assert canonical.grad is None


def test_features_of_two_sizes_are_refused():
    features, depth = egg(FRONTAL)
    with pytest.raises(Exception, match="canonical_features"):
        canonical_warping_loss(features, features[..., ::2, ::2], FRONTAL, depth, FRONTAL)
