"""Depth, normals and surfaces: closed forms of planes and balls, and slow honest twins."""

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.optimize import minimize

from lib.cameras import orbit
from lib.faces import canonical_mesh
from lib.meshes import normals_from_depth
from lib.metrics.geometry import (
    NOW_LANDMARKS,
    depth_correlation,
    face_sphere,
    landmarks_in_world,
    mean_depth_error,
    median_depth_error,
    nearest_on_surface,
    normal_error,
    normalised_depth_distance,
    normalised_depth_error,
    pooled,
    refined,
    scan_to_mesh,
    surface_distances,
    surface_error,
    surface_points,
    transformed,
)
from lib.warping import depth_along_ray

NORMALISED = [normalised_depth_error, normalised_depth_distance]
IN_WORLD_UNITS = [mean_depth_error, median_depth_error]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def with_unknown(target: torch.Tensor) -> torch.Tensor:
    target = target.clone()
    target[..., 2, :] = torch.nan
    return target


# -------------------------------------------------------------------- depth
@pytest.mark.parametrize("metric", NORMALISED)
def test_normalised_errors_are_blind_to_offset_and_scale(metric):
    target = with_unknown(random(2, 1, 6, 6))
    assert metric(2.7 + 0.1 * target, target).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_normalised_errors_against_numpy_over_the_known_pixels():
    depth, target = random(3, 1, 6, 6), with_unknown(random(3, 1, 6, 6, seed=1))
    for i in range(3):
        known = ~target[i].isnan()
        a, b = ((x - x.mean()) / x.std() for x in (depth[i][known].numpy(), target[i][known].numpy()))
        assert normalised_depth_error(depth, target)[i].item() == pytest.approx(
            ((a - b) ** 2).mean(), rel=1e-4
        )
        assert normalised_depth_distance(depth, target)[i].item() == pytest.approx(
            abs(a - b).mean(), rel=1e-4
        )


def test_the_normalised_error_is_twice_what_the_correlation_lacks():
    depth, target = random(4, 1, 6, 6), with_unknown(random(4, 1, 6, 6, seed=1))
    expected = 2 * (1 - depth_correlation(depth, target))
    assert torch.allclose(normalised_depth_error(depth, target), expected, atol=1e-5)
    assert normalised_depth_error(-target, target).tolist() == pytest.approx([4] * 4, rel=1e-5)


@pytest.mark.parametrize("metric", NORMALISED)
def test_a_flat_card_has_no_normalised_error(metric):
    assert metric(torch.full((1, 1, 4, 4), 2.0), random(1, 1, 4, 4)).isnan().all()


@pytest.mark.parametrize("metric", IN_WORLD_UNITS)
def test_depth_errors_are_in_world_units(metric):
    target = with_unknown(random(2, 1, 6, 6))
    offset = torch.tensor([0.25, -0.5]).view(2, 1, 1, 1)
    assert metric(target + offset, target).tolist() == pytest.approx([0.25, 0.5], rel=1e-5)


def test_a_rim_moves_the_mean_and_not_the_median():
    target = random(1, 1, 8, 8)
    depth = target + 0.01
    depth[..., 0] += 0.8
    assert median_depth_error(depth, target).item() == pytest.approx(0.01, abs=1e-6)
    assert mean_depth_error(depth, target).item() == pytest.approx(0.11, abs=1e-6)


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two():
    target = torch.zeros(1, 1, 2, 2)
    assert median_depth_error(torch.tensor([[[[1.0, 2.0], [4.0, 9.0]]]]), target).item() == 3.0


@pytest.mark.parametrize("metric", [*NORMALISED, *IN_WORLD_UNITS])
def test_what_is_not_known_does_not_count(metric):
    depth, target = random(2, 1, 6, 6), with_unknown(random(2, 1, 6, 6, seed=1))
    before = metric(depth, target)
    depth[..., 2, :] = 1e4
    assert torch.equal(metric(depth, target), before) and before.isfinite().all()


@pytest.mark.parametrize("metric", [*NORMALISED, *IN_WORLD_UNITS])
def test_nothing_known_is_nan(metric):
    assert metric(random(1, 1, 4, 4), torch.full((1, 1, 4, 4), math.nan)).isnan().all()


@pytest.mark.parametrize("metric", [*NORMALISED, *IN_WORLD_UNITS])
def test_depths_of_two_sizes_are_not_compared(metric):
    with pytest.raises(ValueError, match="resize_depth"):
        metric(random(1, 1, 4, 4), random(1, 1, 8, 8))


def test_depth_along_the_ray_is_not_depth_along_the_axis():
    """The plane z = 0 from 2.7: in a corner of the picture the two differ by 2.7 (sqrt(1 + 2 (0.5 / f)^2) - 1)."""
    depth_z = torch.full((1, 1, 64, 64), 2.7)
    along = depth_along_ray(orbit(0.0, 0.0), depth_z)
    corner = 2.7 * (math.sqrt(1 + 2 * (0.5 / 4.2647) ** 2) - 1)
    assert mean_depth_error(along, depth_z).item() > 0.01
    assert (along - depth_z).max().item() == pytest.approx(corner, rel=0.05)


# -------------------------------------------------------------------- normals
def test_tilted_normals_are_off_by_the_tilt():
    angles = torch.tensor([0.0, 0.001, 30.0, 90.0, 180.0]).deg2rad()
    normals = torch.stack([angles.sin(), torch.zeros(5), angles.cos()], dim=1)[:, :, None, None].expand(
        -1, -1, 3, 3
    )
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(5, 3, 3, 3)
    assert normal_error(normals, target).tolist() == pytest.approx([0, 0.001, 30, 90, 180], rel=1e-4)


def test_normals_are_compared_where_the_truth_is_known():
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    normals = target.clone()
    normals[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    assert normal_error(normals, target).item() == pytest.approx(22.5)
    target[0, :, 0, 0] = torch.nan
    assert normal_error(normals, target).item() == pytest.approx(0)


def test_normals_of_a_tilted_plane_from_its_depth():
    """The plane n.x = 0 through the pivot, seen from an orbit: its depth gives back n."""
    camera, tilt = orbit(0.2, 0.1), torch.nn.functional.normalize(torch.tensor([0.3, -0.2, 1.0]), dim=0)
    origins, directions = camera.rays(16)
    depth = (-(origins @ tilt) / (directions @ tilt)).reshape(1, 1, 16, 16)
    error = normal_error(normals_from_depth(camera, depth), tilt.view(1, 3, 1, 1).expand(1, 3, 16, 16))
    assert error.item() < 0.05


# -------------------------------------------------------------------- distance to triangles
def distance_to_segment(p, a, b):
    t = np.clip(np.dot(p - a, b - a) / np.dot(b - a, b - a), 0, 1)
    return np.linalg.norm(p - a - t * (b - a))


def distance_to_triangle(p, a, b, c):
    """The foot on the plane, if it lies inside; otherwise the nearest of the three sides."""
    normal = np.cross(b - a, c - a) / np.linalg.norm(np.cross(b - a, c - a))
    foot = p - np.dot(p - a, normal) * normal
    inside = all(np.dot(np.cross(v - u, foot - u), normal) >= 0 for u, v in ((a, b), (b, c), (c, a)))
    sides = min(distance_to_segment(p, u, v) for u, v in ((a, b), (b, c), (c, a)))
    return abs(np.dot(p - a, normal)) if inside else sides


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_distances_are_those_of_a_search_through_all_triangles(spread):
    """Triangles of very different sizes, points among them and far away."""
    rng = np.random.default_rng(0)
    sizes = np.repeat([0.03, 0.3, 1.5], 12)[:, None, None]
    corners = rng.uniform(-1, 1, (36, 1, 3)) + sizes * rng.standard_normal((36, 3, 3))
    soup = trimesh.Trimesh(corners.reshape(-1, 3), np.arange(108).reshape(-1, 3), process=False)
    points = spread * rng.uniform(-1, 1, (40, 3))
    expected = [min(distance_to_triangle(p, *triangle) for triangle in corners) for p in points]
    np.testing.assert_allclose(surface_distances(points, soup), expected, atol=1e-9)
    np.testing.assert_allclose(surface_distances(points, soup, batch=7), expected, atol=1e-9)
    nearest, distance = nearest_on_surface(points, soup)
    np.testing.assert_allclose(np.linalg.norm(nearest - points, axis=1), distance, atol=1e-12)
    np.testing.assert_allclose(surface_distances(nearest, soup), 0, atol=1e-9)


def test_distances_from_a_box_are_known():
    box = trimesh.creation.box((2, 2, 2))
    points = np.array([[0, 0, 0], [0.2, 0.1, 1.5], [2, 2, 0], [2, 2, 2], [1, 0.3, 0.3]])
    assert surface_distances(points, box) == pytest.approx([1, 0.5, math.sqrt(2), math.sqrt(3), 0])


def test_no_points_have_no_distances_and_no_triangles_are_an_error():
    box = trimesh.creation.box((2, 2, 2))
    assert surface_distances(np.empty((0, 3)), box).shape == (0,)
    with pytest.raises(ValueError, match="without triangles"):
        surface_distances(np.zeros((1, 3)), trimesh.Trimesh([[0, 0, 0]], np.empty((0, 3), int)))


def test_concentric_balls_are_apart_by_the_difference_of_their_radii():
    small, large = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (0.3, 0.35))
    error = surface_error(small, large, n_points=2000)
    assert error == pytest.approx((0.05, 0.05), abs=1e-3)
    assert error.both == pytest.approx((error.accuracy + error.completeness) / 2)


def test_half_a_ball_is_accurate_and_not_complete():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    half = ball.submesh([np.flatnonzero(ball.triangles_center[:, 2] > 0)], append=True)
    error = surface_error(half, ball, n_points=2000)
    assert error.accuracy == pytest.approx(0, abs=1e-6)
    assert error.completeness > 0.2
    front = surface_error(half, ball, n_points=2000, region=lambda points: points[:, 2] > 0.05)
    assert front.completeness == pytest.approx(0, abs=1e-6)


def test_surface_errors_repeat_with_their_seed():
    small, large = (trimesh.creation.icosphere(subdivisions=2, radius=r) for r in (0.3, 0.35))
    first, again, other = (surface_error(small, large, 200, seed=s) for s in (0, 0, 1))
    assert first == again != other


def test_a_region_without_surface_is_an_error():
    with pytest.raises(ValueError, match="none of 10 points"):
        surface_points(trimesh.creation.icosphere(), 10, region=lambda points: points[:, 0] > 5)


# -------------------------------------------------------------------- NoW
TURN = trimesh.transformations.euler_matrix(0.4, -0.7, 0.2)[:3, :3]


@pytest.fixture(scope="module")
def face() -> tuple[trimesh.Trimesh, np.ndarray]:
    """MediaPipe's mean face in millimetres, and NoW's landmarks on it."""
    vertices, triangles = canonical_mesh()
    return trimesh.Trimesh(10 * vertices, triangles, process=False), 10 * vertices[list(NOW_LANDMARKS)]


def test_the_landmarks_are_where_their_names_say(face):
    right_outer, right_inner, left_inner, left_outer, nose, mouth_right, mouth_left = face[1]
    assert right_outer[0] < right_inner[0] < 0 < left_inner[0] < left_outer[0]
    assert mouth_right[0] < 0 < mouth_left[0] and nose[0] == 0
    assert mouth_right[1] < nose[1] < right_inner[1] and nose[2] > right_inner[2]
    np.testing.assert_allclose(right_outer * [-1, 1, 1], left_outer, atol=1e-3)


def test_the_face_is_a_sphere_about_the_nose():
    landmarks = np.array([[-4, 3, 0], [-2, 3, 0], [2, 3, 0], [4, 3, 0], [0, -2, 0], [-2, -4, 0], [2, -4, 0]])
    centre, radius = face_sphere(landmarks)
    assert centre.tolist() == pytest.approx([0, -0.5, 0])
    assert radius == pytest.approx(0.7 * (8 + 5))


def test_a_scan_of_the_mesh_itself_is_no_distance_away_in_any_frame(face):
    mesh, landmarks = face
    moved = transformed(mesh, (0.01, TURN, np.array([0.3, -2.0, 1.0])))
    moved_landmarks = 0.01 * landmarks @ TURN.T + [0.3, -2.0, 1.0]
    scan = surface_points(mesh, 500)
    for refinements in (0, 5):
        distances = scan_to_mesh(scan, landmarks, moved, moved_landmarks, refinements)
        assert distances.max() < 1e-6 and len(distances) < 500


def test_only_points_about_the_face_count(face):
    mesh, landmarks = face
    scan = surface_points(mesh, 400)
    centre, radius = face_sphere(landmarks)
    inside = np.linalg.norm(scan - centre, axis=1) <= radius
    far = centre + (radius + 0.1) * np.array([[0.0, 0, 1], [1, 0, 0]])
    assert 0 < inside.sum() < 400
    assert len(scan_to_mesh(np.concatenate([scan, far]), landmarks, mesh, landmarks, 0)) == inside.sum()
    with pytest.raises(ValueError, match="no point of the scan"):
        scan_to_mesh(scan + 1e4, landmarks, mesh, landmarks)


def test_distances_are_in_the_units_of_the_scan_whatever_those_of_the_mesh(face):
    """A dent of 4 mm in a plane-like patch: its points are 4 mm away, at the scale of the scan."""
    mesh, landmarks = face
    scan = surface_points(mesh, 600)
    off = scan + np.array([0, 0, 4.0])
    near = scan_to_mesh(off, landmarks, mesh, landmarks, 0)
    small = transformed(mesh, (1e-3, np.eye(3), np.zeros(3)))
    assert np.allclose(scan_to_mesh(off, landmarks, small, 1e-3 * landmarks, 0), near)
    centimetres = scan_to_mesh(off / 10, landmarks / 10, mesh, landmarks, 0)
    assert np.allclose(10 * centimetres, near)
    assert 1.5 < np.median(near) <= near.max() <= 4.0 + 1e-9


def test_refinement_undoes_wrong_landmarks(face):
    mesh, landmarks = face
    scan = surface_points(mesh, 400)
    wrong = landmarks + np.array([3.0, -2.0, 2.0]) + np.random.default_rng(0).normal(0, 1.5, (7, 3))
    by_landmarks = scan_to_mesh(scan, landmarks, mesh, wrong, refinements=0)
    by_scan = scan_to_mesh(scan, landmarks, mesh, wrong, refinements=30)
    assert np.sqrt((by_landmarks**2).mean()) > 1.0
    assert np.sqrt((by_scan**2).mean()) < 0.35 * np.sqrt((by_landmarks**2).mean())


def test_refinement_never_makes_the_squares_larger(face):
    mesh, _ = face
    moved = transformed(
        mesh, (1.05, trimesh.transformations.euler_matrix(0.1, 0.1, 0)[:3, :3], np.array([4.0, 2, -3]))
    )
    scan = surface_points(mesh, 300)
    errors = [(surface_distances(scan, refined(moved, scan, steps)) ** 2).mean() for steps in range(0, 8)]
    assert (np.diff(errors) < 1e-12).all() and errors[-1] < 0.5 * errors[0]


def test_refinement_reaches_the_minimum_that_a_plain_optimiser_finds():
    """A patch of a bowl against a bowl of another shape, over scale, rotation and translation."""
    x, y = np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 13))
    corners = np.arange(169).reshape(13, 13)
    squares = np.stack(
        [corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=-1
    ).reshape(-1, 4)
    triangles = np.concatenate([squares[:, [0, 1, 2]], squares[:, [0, 2, 3]]])
    bowl = trimesh.Trimesh(np.stack([x, y, 0.5 * x**2 + 0.2 * y**2 + 0.1 * x], -1).reshape(-1, 3), triangles)
    u, v = (0.6 * t[::3, ::3].ravel() for t in (x, y))
    scan = np.stack([u, v, 0.6 * u**2 + 0.3 * v**2 + 0.05 * v + 0.1], axis=-1)

    def squares_of(parameters):
        turn = trimesh.transformations.euler_matrix(*parameters[1:4])[:3, :3]
        moved = transformed(bowl, (np.exp(parameters[0]), turn, parameters[4:]))
        return (surface_distances(scan, moved) ** 2).mean()

    best = minimize(squares_of, np.zeros(7), method="Powell", options={"maxfev": 700, "xtol": 1e-4})
    ours = (surface_distances(scan, refined(bowl, scan, 500, tolerance=1e-7)) ** 2).mean()
    assert ours < 1.3 * best.fun + 1e-7
    assert ours < 0.1 * squares_of(np.zeros(7))


def test_other_landmarks_are_refused(face):
    mesh, landmarks = face
    with pytest.raises(ValueError, match=r"mesh_landmarks: expected NoW's 7 landmarks .* got \(6, 3\)"):
        scan_to_mesh(np.zeros((5, 3)), landmarks, mesh, landmarks[:6])


def test_numbers_of_several_scans_are_over_all_points_together():
    """Two scans of different size: not the mean of their means."""
    assert pooled([np.zeros(3), np.array([4.0])]) == {
        "median": 0.0,
        "mean": 1.0,
        "std": pytest.approx(math.sqrt(3)),
    }


def test_landmarks_of_a_view_lie_on_its_surface():
    camera = orbit(0.3, -0.1)
    origins, directions = camera.rays(65)
    along = -(origins * directions).sum(dim=-1)
    depth = (along - (0.3**2 - (2.7**2 - along**2)).clamp_min(0).sqrt()).reshape(1, 1, 65, 65)
    uv = torch.tensor([[0.5, 0.5], [0.62, 0.45], [0.4, 0.6]])
    points = torch.tensor(landmarks_in_world(camera, depth, uv))
    assert points.norm(dim=1).tolist() == pytest.approx([0.3] * 3, abs=1e-3)
    assert torch.allclose(camera.project(points[None])[0][0], uv, atol=1e-5)
