import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage import data

from lib import faces, metrics
from lib.cameras import Camera, orbit
from lib.faces import DetectedFace, FaceDetector, HeadPose
from lib.images import to_tensor


def head_pose(yaw: float, pitch: float, roll: float) -> HeadPose:
    """A head that is seen from yaw and pitch, in a picture that is turned by roll."""
    upright = metrics.camera_rotations(orbit(yaw, pitch))[0].double().numpy()
    cosine, sine = np.cos(roll), np.sin(roll)
    turned = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) @ upright
    return HeadPose(turned, scale=1.0, origin=np.zeros(3), residual=0.0)


POSES = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.3, 0.0), (-0.4, -0.2, 0.1), (0.7, 0.25, -0.3)]


class Posed:
    """A detector that sees the canonical face as posed, in one picture after the other; None: sees none."""

    def __init__(self, poses: list[HeadPose | None], noise_cm: float = 0.0):
        self.poses, self.noise_cm = iter(poses), noise_cm

    def __call__(self, picture: np.ndarray) -> list[DetectedFace]:
        pose = next(self.poses)
        if pose is None:
            return []
        vertices = faces.canonical_mesh()[0]
        vertices = vertices + self.noise_cm * np.random.default_rng(0).standard_normal(vertices.shape)
        return [DetectedFace(5 * (vertices @ pose.rotation.T) * [1, -1, -1] + [128, 128, 0], {})]


PICTURE = torch.zeros(1, 3, 64, 64)

# ----------------------------------------------------------------------- conventions


@pytest.mark.parametrize("angles", POSES)
def test_angles_are_those_of_the_head_pose(angles):
    pose = head_pose(*angles)
    found = metrics.head_angles(torch.from_numpy(pose.rotation)[None])[0]
    assert found.tolist() == pytest.approx([pose.yaw, pose.pitch, pose.roll], abs=1e-6)
    assert found.tolist() == pytest.approx(angles, abs=1e-6)


@pytest.mark.parametrize("angles", POSES)
def test_a_camera_of_a_pose_has_its_rotation(angles):
    pose = head_pose(*angles)
    found = metrics.camera_rotations(faces.camera_of(pose))[0]
    assert found.numpy() == pytest.approx(pose.upright_rotation, abs=1e-6)


def test_the_angle_between_rotations_is_that_of_scipy():
    rng = np.random.default_rng(0)
    sizes = np.array([0.0, 1e-6, 1e-3, 0.5, 3.0, math.pi])
    axes = rng.standard_normal((6, 3))
    between = Rotation.from_rotvec(axes / np.linalg.norm(axes, axis=1, keepdims=True) * sizes[:, None])
    first = Rotation.random(6, rng=rng)
    found = metrics.rotation_angle(
        torch.from_numpy((between * first).as_matrix()), torch.from_numpy(first.as_matrix())
    )
    assert found.tolist() == pytest.approx(sizes, abs=1e-7)


# ----------------------------------------------------------------------- errors of pictures


@pytest.mark.parametrize("angles", POSES)
def test_a_head_that_stands_as_its_camera_says_has_no_error(angles):
    yaw, pitch, _ = angles
    pose, camera = head_pose(yaw, pitch, 0.0), orbit(yaw, pitch)
    for error in (metrics.pose_error, metrics.pose_l2_error, metrics.pose_mse):
        assert error(PICTURE, camera, Posed([pose])).item() == pytest.approx(0, abs=1e-5)


def test_errors_are_the_differences_of_the_angles():
    """Seen from yaw 0.3, pitch -0.1, rolled by 0.2; wanted from the front."""
    pose, camera = head_pose(0.3, -0.1, 0.2), orbit(0.0, 0.0)
    differences = np.array([0.3, -0.1, 0.2])
    assert metrics.pose_l2_error(PICTURE, camera, Posed([pose])).item() == pytest.approx(
        np.linalg.norm(differences), abs=1e-5
    )
    assert metrics.pose_mse(PICTURE, camera, Posed([pose])).item() == pytest.approx(
        (differences**2).mean(), abs=1e-5
    )
    expected = Rotation.from_matrix(pose.rotation).magnitude()
    assert metrics.pose_error(PICTURE, camera, Posed([pose])).item() == pytest.approx(expected, abs=1e-5)


def test_turning_head_and_camera_the_same_way_is_no_error_but_opposite_ways_is():
    pose = head_pose(0.4, 0.0, 0.0)
    assert metrics.pose_error(PICTURE, orbit(0.4, 0.0), Posed([pose])).item() < 1e-4
    assert metrics.pose_error(PICTURE, orbit(-0.4, 0.0), Posed([pose])).item() == pytest.approx(0.8, abs=1e-4)


def test_roll_is_counted_the_short_way_round():
    pose, camera = head_pose(0.0, 0.0, 3.0), orbit(0.0, 0.0)
    turned = torch.eye(4)[None].clone()
    turned[0, :3, :3] = torch.from_numpy(Rotation.from_euler("z", 3.0).as_matrix())
    camera = Camera(camera.world_from_cam @ turned, camera.intrinsics)
    roll = metrics.head_angles(metrics.camera_rotations(camera))[0, 2].item()
    expected = min(abs(3.0 - roll), 2 * math.pi - abs(3.0 - roll))
    assert metrics.pose_l2_error(PICTURE, camera, Posed([pose])).item() == pytest.approx(expected, abs=1e-4)
    assert abs(3.0 - roll) > math.pi


def test_failures_are_nan_and_the_others_have_their_values():
    poses = [head_pose(0.3, 0.0, 0.0), None, head_pose(0.1, 0.0, 0.0)]
    found = metrics.pose_error(PICTURE.expand(3, -1, -1, -1), orbit(0.1, 0.0), Posed(poses))
    assert found.isnan().tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == pytest.approx([0.2, 0.0], abs=1e-4)


def test_what_the_face_mesh_does_not_fit_is_no_face():
    pose, camera = head_pose(0.1, 0.0, 0.0), orbit(0.1, 0.0)
    assert metrics.pose_error(PICTURE, camera, Posed([pose], noise_cm=0.1)).item() < 0.05
    assert metrics.pose_error(PICTURE, camera, Posed([pose], noise_cm=2.0)).isnan().all()


# ----------------------------------------------------------------------- a real photo


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(max_faces=1)


@pytest.mark.parametrize("resolution", [64, 128])
def test_a_real_portrait_stands_where_its_camera_says(detector, resolution):
    portrait = faces.portrait_from_photo(data.astronaut(), resolution, parse=False)
    assert metrics.pose_error(portrait.image, portrait.camera, detector).item() < 0.06
    flipped = portrait.image.flip(-1)
    assert metrics.pose_error(flipped, portrait.camera.mirror(), detector).item() < 0.06
    away = orbit(portrait.camera.yaw + 0.4, portrait.camera.pitch)
    assert metrics.pose_error(portrait.image, away, detector).item() == pytest.approx(0.4, abs=0.08)


def test_no_face_is_found_on_a_wall(detector):
    wall = to_tensor(np.full((128, 128, 3), 180, np.uint8))
    assert metrics.pose_mse(wall, orbit(0.0, 0.0), detector).isnan().all()
