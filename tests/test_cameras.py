"""Cameras against closed forms, round trips, and numbers measured on EG3D's own sampler."""

import math

import pytest
import torch

from lib.cameras import FOCAL, Camera, eg3d_look_at, look_at, orbit, pose_from_label, validate


@pytest.fixture
def camera() -> Camera:
    """Three unremarkable cameras, with skew and a principal point off the middle."""
    cameras = orbit(torch.tensor([-0.7, 0.1, 0.5]), torch.tensor([0.2, -0.3, 0.4]), pivot=(0.1, -0.05, 0.2))
    cameras.intrinsics[:, 0, 1] = 0.3
    cameras.intrinsics[:, 0, 2] = 0.45
    cameras.intrinsics[:, 1, 1] = 4.0
    cameras = cameras.to(dtype=torch.float64)
    u, _, v = torch.linalg.svd(
        cameras.rotation
    )  # orthonormal to the last digit, so that round trips are exact
    cameras.world_from_cam[:, :3, :3] = u @ v
    return cameras


def cloud(batch: int, n: int = 20) -> torch.Tensor:
    points = torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.6 * points - 0.3


# -------------------------------------------------------------------- orbit and angles
def test_frontal_camera_is_the_one_of_eg3d():
    frontal = orbit(0.0, 0.0)
    expected = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    expected[2, 3] = 2.7
    torch.testing.assert_close(frontal.world_from_cam[0], expected)
    torch.testing.assert_close(frontal.intrinsics[0].diagonal(), torch.tensor([FOCAL, FOCAL, 1.0]))


def test_orbit_position_and_direction():
    yaw, pitch, pivot = torch.tensor([0.4, -1.2]), torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.2, 0.3])
    cameras = orbit(yaw, pitch, radius=2.0, pivot=pivot)
    outward = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=1)
    torch.testing.assert_close(cameras.position, pivot + 2 * outward)
    torch.testing.assert_close(cameras.rotation[:, :, 2], -outward)  # forward
    assert (cameras.rotation[:, 1, 0].abs() < 1e-6).all()  # no roll: right is level
    assert (cameras.rotation[:, 1, 1] < 0).all()  # down is down
    torch.testing.assert_close(torch.linalg.det(cameras.rotation), torch.ones(2))


def test_signs_of_yaw_and_pitch():
    assert orbit(0.3, 0.0).position[0, 0] > 0
    assert orbit(0.0, 0.3).position[0, 1] > 0


@pytest.mark.parametrize("pivot", [(0.0, 0.0, 0.0), (0.0, 0.1, 0.2)])
def test_yaw_and_pitch_are_read_back(pivot):
    yaw, pitch = torch.linspace(-3, 3, 7), torch.linspace(-1.4, 1.4, 7)
    cameras = orbit(yaw, pitch, pivot=pivot)
    torch.testing.assert_close(cameras.yaw, yaw)
    torch.testing.assert_close(cameras.pitch, pitch, atol=1e-5, rtol=0)
    for found, expected in zip(pose_from_label(cameras.label()), (yaw, pitch), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_orbit_broadcasts_numbers_and_tensors():
    assert len(orbit(torch.zeros(4), 0.1)) == len(orbit(0.1, torch.zeros(4))) == 4
    assert len(orbit(0.0, 0.0)) == 1


# -------------------------------------------------------------------- EG3D's sampler
@pytest.mark.parametrize(("offset", "elevation"), [(0.2, 0.1277), (0.25, 0.1598), (0.4, 0.2575)])
def test_eg3d_pitch_is_not_an_angle_and_points_down(offset, elevation):
    pitch = eg3d_look_at(math.pi / 2, math.pi / 2 + offset).pitch.item()
    assert pitch == pytest.approx(-elevation, abs=1e-4)


def test_eg3d_look_at_looks_at_the_pivot_from_a_sphere_about_the_origin():
    pivot = torch.tensor([0.0, 0.0, 0.2])
    front, turned = eg3d_look_at(math.pi / 2 + torch.tensor([0.0, 0.4]), math.pi / 2, pivot=pivot)
    assert (front.position[0] - pivot).norm().item() == pytest.approx(2.5, abs=1e-6)
    assert turned.position[0].norm().item() == pytest.approx(2.7, abs=1e-5)
    assert turned.position[0, 0] > 0
    assert turned.yaw.item() == pytest.approx(0.431, abs=5e-4)
    uv, _ = turned.project(pivot.reshape(1, 1, 3))
    torch.testing.assert_close(uv[0, 0], torch.tensor([0.5, 0.5]))


def test_eg3d_look_at_agrees_with_orbit_in_front():
    torch.testing.assert_close(eg3d_look_at(math.pi / 2, math.pi / 2).label(), orbit(0.0, 0.0).label())


# -------------------------------------------------------------------- projection
def test_projection_closed_form():
    point = torch.tensor([[[0.1, 0.2, 0.3]]])
    uv, depth_z = orbit(0.0, 0.0).project(point)
    distance = 2.7 - 0.3
    expected = torch.tensor([0.5 + FOCAL * 0.1 / distance, 0.5 - FOCAL * 0.2 / distance])
    torch.testing.assert_close(uv[0, 0], expected)
    assert depth_z.item() == pytest.approx(distance)


def test_projection_is_the_matrix_product(camera):
    points = cloud(3)
    uv, depth_z = camera.project(points)
    for i in range(3):
        cam_from_world = torch.linalg.inv(camera.world_from_cam[i])
        for j in range(points.shape[1]):
            point_cam = (cam_from_world @ torch.cat([points[i, j], points.new_ones(1)]))[:3]
            pixel = camera.intrinsics[i] @ point_cam
            torch.testing.assert_close(uv[i, j], pixel[:2] / pixel[2])
            torch.testing.assert_close(depth_z[i, j], point_cam[2])


def test_unproject_inverts_project(camera):
    points = cloud(3)
    torch.testing.assert_close(camera.unproject(*camera.project(points)), points)


def test_points_behind_the_camera_have_negative_depth():
    assert orbit(0.0, 0.0).project(torch.tensor([[[0.0, 0.0, 5.0]]]))[1].item() < 0


# -------------------------------------------------------------------- rays
def test_ray_check_values():
    _, directions = orbit(0.0, 0.0).rays(2)
    x, z = 0.0584, -0.9966
    expected = torch.tensor([[-x, x, z], [x, x, z], [-x, -x, z], [x, -x, z]])
    torch.testing.assert_close(directions[0], expected, atol=5e-5, rtol=0)


def test_points_along_rays_project_to_their_pixels(camera):
    resolution = 5
    origins, directions = camera.rays(resolution)
    uv, depth_z = camera.project(origins + 1.7 * directions)
    for row in range(resolution):
        for column in range(resolution):
            expected = torch.tensor([(column + 0.5) / resolution, (row + 0.5) / resolution]).double()
            found = uv[:, row * resolution + column]
            torch.testing.assert_close(found, expected.expand(3, 2))
    cosines = camera.ray_cosines(resolution).flatten(1)
    torch.testing.assert_close(depth_z, 1.7 * cosines)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 25).double())


def test_distance_exceeds_depth_z_as_measured():
    cosines = orbit(0.0, 0.0).ray_cosines(513)[0, 0]  # odd, so that a row lies in the middle
    edge = 0.5 * (1 - 1 / 513) / FOCAL
    assert 1 / cosines[256, 0].item() == pytest.approx(math.sqrt(1 + edge**2), abs=1e-6)
    assert 1 / cosines[0, 0].item() == pytest.approx(math.sqrt(1 + 2 * edge**2), abs=1e-6)
    assert 1 / cosines[256, 0].item() == pytest.approx(1.0069, abs=2e-4)  # what the original gives
    assert 1 / cosines[0, 0].item() == pytest.approx(1.0137, abs=2e-4)


def test_rays_keep_full_precision_under_autocast():
    plain = orbit(0.3, 0.1).rays(8)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(orbit(0.3, 0.1).rays(8)[1], plain, atol=0, rtol=0)


def test_gradients_reach_the_pose():
    pose = orbit(0.2, 0.1).world_from_cam.requires_grad_()
    camera = Camera(pose, orbit(0.2, 0.1).intrinsics)
    camera.rays(4)[1].sum().backward()
    assert pose.grad.isfinite().all()
    assert pose.grad.abs().sum() > 0


# -------------------------------------------------------------------- labels, batches, mirror
def test_label_round_trip(camera):
    torch.testing.assert_close(Camera.from_label(camera.label()).label(), camera.label())
    assert len(Camera.from_label(camera.label()[0])) == 1


def test_mirrored_label_negates_five_numbers():
    label = orbit(0.4, 0.2).label()
    signs = torch.ones(25)
    signs[[1, 2, 3, 4, 8]] = -1
    torch.testing.assert_close(Camera.from_label(label).mirror().label(), label * signs)


def test_mirror_sees_the_mirrored_head_mirrored(camera):
    points = cloud(3)
    uv, depth_z = camera.project(points)
    mirrored_uv, mirrored_depth_z = camera.mirror().project(points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(mirrored_uv, torch.stack([1 - uv[..., 0], uv[..., 1]], dim=-1))
    torch.testing.assert_close(mirrored_depth_z, depth_z)
    torch.testing.assert_close(camera.mirror().yaw, -camera.yaw)
    torch.testing.assert_close(camera.mirror().mirror().label(), camera.label())


def test_batches(camera):
    assert [len(one) for one in camera] == [1, 1, 1]
    torch.testing.assert_close(Camera.cat(list(camera)).label(), camera.label())
    torch.testing.assert_close(camera[-1].label(), camera.label()[2:])
    torch.testing.assert_close(camera[:2].label(), camera.label()[:2])
    assert len(camera[0].expand(5)) == 5
    with pytest.raises(ValueError, match="3 cameras for a batch of 2"):
        camera.expand(2)
    with pytest.raises(IndexError):
        camera[3]


@pytest.mark.parametrize("shape", [(24,), (2, 16), (2, 1, 25)])
def test_label_of_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="25"):
        Camera.from_label(torch.zeros(shape))


def test_camera_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="world_from_cam"):
        Camera(torch.zeros(2, 3, 4), torch.zeros(2, 3, 3))


def test_shapes_are_checked():
    with pytest.raises(Exception, match="look_at"):
        look_at(torch.zeros(2, 3), torch.zeros(3, 3))


# -------------------------------------------------------------------- validation
def edited(index: int, value: float) -> torch.Tensor:
    """Five good labels, the fourth with one number replaced."""
    label = orbit(torch.linspace(-0.5, 0.5, 5), 0.1).label()
    label[3, index] = value
    return label


def test_good_labels_pass():
    label = orbit(torch.linspace(-1, 1, 5), 0.1).label()
    assert validate(label).equal(label)
    assert validate(label[0]).shape == (1, 25)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (edited(5, math.nan), "finite"),
        (edited(12, 1.0), "last row"),
        (edited(0, 0.5), "orthonormal"),
        (edited(16, 4.9), "expected 4.2647"),
        (edited(18, 0.6), "expected 4.2647"),
        (edited(16, 2985.29), "pixels.*dataset.json"),
        (edited(11, 2.0), "from the origin, expected 2.7.*dataset.json"),
    ],
)
def test_bad_labels_are_named(label, words):
    with pytest.raises(ValueError, match=f"camera label 3 of 5: .*{words}"):
        validate(label)


def test_opengl_axes_and_reflections_are_recognised():
    camera = orbit(0.2, 0.1)
    opengl = Camera(camera.world_from_cam * torch.tensor([1.0, -1.0, -1.0, 1.0]), camera.intrinsics)
    with pytest.raises(ValueError, match="OpenGL"):
        validate(opengl.label())
    reflected = Camera(camera.world_from_cam * torch.tensor([-1.0, 1.0, 1.0, 1.0]), camera.intrinsics)
    with pytest.raises(ValueError, match="reflection"):
        validate(reflected.label())


def test_other_radius_and_focal_can_be_allowed():
    label = orbit(0.2, 0.1, radius=1.3, focal=1.7).label()
    assert validate(label, radius=1.3, focal=1.7).equal(validate(label, radius=None, focal=None))
    with pytest.raises(ValueError, match=r"expected 4\.2647"):
        validate(label)
