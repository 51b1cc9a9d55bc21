"""Warps: a plane moves by its homography, a true view by true depth becomes the other true view."""

import math

import pytest
import torch

from lib.cameras import Camera, intrinsics_matrix, orbit, pixel_centres
from lib.warping import (
    angle_between_views,
    depth_along_axis,
    depth_along_ray,
    pixels_in_view,
    sample_at,
    visible,
    warp,
)

SIDE = 16


def constant(value: float, side: int = SIDE) -> torch.Tensor:
    return torch.full((1, 1, side, side), value)


# -------------------------------------------------------------------- depth, two ways
def test_a_plane_across_the_axis_has_one_depth_along_it_and_more_along_the_rays():
    camera = orbit(0.3, -0.2)
    depth_z = constant(2.0)
    along = depth_along_ray(camera, depth_z)
    u, v = pixel_centres(SIDE, depth_z).T
    slant = (1 + ((u - 0.5) ** 2 + (v - 0.5) ** 2) / camera.intrinsics[0, 0, 0] ** 2).sqrt()
    assert torch.allclose(along.flatten(), 2 * slant, atol=1e-6)
    assert torch.allclose(depth_along_axis(camera, along), depth_z)


# -------------------------------------------------------------------- where a pixel lies in another view
def homography(camera: Camera, other: Camera, depth_z: float) -> torch.Tensor:
    """K' (R + t n^T / d) K^-1 of the plane n.x = d across the first camera's axis, from its pixels to the other's."""
    other_from_camera = torch.linalg.inv(other.world_from_cam[0]) @ camera.world_from_cam[0]
    normal = torch.tensor([0.0, 0.0, 1.0])
    plane = other_from_camera[:3, :3] + torch.outer(other_from_camera[:3, 3], normal) / depth_z
    return other.intrinsics[0] @ plane @ torch.linalg.inv(camera.intrinsics[0])


@pytest.mark.parametrize("place", [(0.2, 0.1), (-0.35, -0.25)])
def test_a_plane_moves_by_its_homography(place):
    camera, other = orbit(0.1, 0.0), orbit(*place, focal=3.0)
    uv, _ = pixels_in_view(camera, depth_along_ray(camera, constant(2.5)), other)
    pixels = pixel_centres(SIDE, uv)
    moved = torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1) @ homography(camera, other, 2.5).T
    assert torch.allclose(uv[0], moved[:, :2] / moved[:, 2:], atol=1e-5)


def test_distances_are_those_from_the_other_camera():
    camera, other = orbit(0.0, 0.0), orbit(math.pi, 0.0)  # face to face, 5.4 apart
    uv, distance = pixels_in_view(camera, constant(2.0), other)
    origins, directions = camera.rays(SIDE)
    expected = (origins + 2 * directions - other.position).norm(dim=-1)
    assert torch.allclose(distance, expected)
    middle = SIDE * SIDE // 2 + SIDE // 2
    assert distance[0, middle].item() == pytest.approx(3.4, abs=0.01)
    assert uv[0, middle].tolist() == pytest.approx([0.5, 0.5], abs=0.05)


def test_what_lies_behind_a_camera_is_outside_its_picture():
    camera, other = orbit(0.0, 0.0), orbit(math.pi, 0.0)
    uv, distance = pixels_in_view(camera, constant(6.0), other)
    assert not visible(uv, distance, constant(0.6), tolerance=10.0).any()


# -------------------------------------------------------------------- colours and what is seen
def test_a_view_warped_into_itself_is_itself():
    camera = orbit(0.3, 0.1)
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    depth = 2.5 + 0.3 * torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    warped, seen = warp(image, camera, depth, camera, depth, tolerance=1e-3)
    assert torch.allclose(warped, image, atol=1e-4)
    assert seen.all()


def test_a_shifted_camera_shifts_a_plane_by_its_disparity():
    """focal * shift / depth = 4 pixels of 16; the camera goes right, so the picture goes left."""
    camera, depth_z = orbit(0.0, 0.0), 2.0
    moved = camera.world_from_cam.clone()
    moved[:, 0, 3] += 0.25 * depth_z / camera.intrinsics[0, 0, 0]
    right = Camera(moved, camera.intrinsics)
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    depth = depth_along_ray(camera, constant(depth_z))
    warped, seen = warp(image, camera, depth, right, depth)
    assert torch.allclose(warped[..., :-4], image[..., 4:], atol=1e-4)
    assert seen[..., :-4].all() and not seen[..., -4:].any()


def test_values_are_bilinear():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    uv = torch.tensor([[[0.5, 0.5], [0.25, 0.9], [0.125, 0.1], [-3.0, 0.5]]])
    assert sample_at(ramp, uv).flatten().tolist() == pytest.approx([1.5, 0.5, 0.0, 0.0])


def test_seen_is_what_lies_as_deep_as_the_view_says():
    uv = torch.tensor([[[0.5, 0.5]] * 4])
    distance = torch.tensor([[2.0, 2.04, 2.06, 1.94]])
    assert visible(uv, distance, constant(2.0), 0.05).flatten().tolist() == [True, True, False, False]
    assert not visible(uv, distance, constant(math.nan)).any()


@pytest.mark.parametrize("corner", [(-0.01, 0.5), (1.01, 0.5), (0.5, -0.01), (0.5, 1.01)])
def test_nothing_outside_the_picture_is_seen(corner):
    uv = torch.tensor([[corner]])
    assert not visible(uv, torch.tensor([[2.0]]), constant(2.0), 10.0).any()


# -------------------------------------------------------------------- true views
BALLS = (((0.0, 0.0, 0.0), 0.3), ((0.05, 0.1, 0.4), 0.08))
"""Centres and radii: a head, and a small ball before it that hides a part of it."""


def hit(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Distance [N] at which rays first meet a ball, in closed form; NaN where they meet none."""
    distances = []
    for centre, radius in BALLS:
        towards = torch.tensor(centre) - origins
        along = (towards * directions).sum(dim=-1)
        half_chord = (radius**2 - (towards.square().sum(dim=-1) - along**2)).sqrt()  # NaN beside the ball
        distances.append((along - half_chord).where(along > half_chord, torch.nan))
    return torch.stack(distances).nan_to_num(torch.inf).amin(dim=0).nan_to_num(torch.nan, posinf=torch.nan)


def true_view(camera: Camera, side: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and depth of the balls, whose colour is the place: [1, 3, R, R], [1, 1, R, R]."""
    origins, directions = (x[0] for x in camera.rays(side))
    depth = hit(origins, directions)
    points = origins + directions * depth[:, None]
    return points.T.reshape(1, 3, side, side), depth.reshape(1, 1, side, side)


def test_a_true_view_warped_by_true_depth_is_the_other_true_view():
    cameras = [orbit(-0.3, 0.1), orbit(0.35, -0.1)]
    (source, source_depth), (view, depth) = (true_view(camera) for camera in cameras)
    warped, seen = warp(source.nan_to_num(0.0), cameras[0], source_depth, cameras[1], depth, tolerance=0.02)
    error = (warped - view).abs().amax(dim=1, keepdim=True)[seen]
    assert 0.1 < seen.float().mean() < depth.isfinite().float().mean() - 0.05
    assert error.max() < 0.02 and error.median() < 1e-3
    swapped, _ = warp(source.nan_to_num(0.0), cameras[1], source_depth, cameras[0], depth)
    assert (swapped - view).abs().amax(dim=1, keepdim=True)[seen].median() > 0.03


def test_seen_is_what_nothing_stands_before():
    """Against a ray from each surface point to the source camera, away from outlines."""
    cameras = [orbit(-0.3, 0.1), orbit(0.35, -0.1)]
    (_, source_depth), (view, depth) = (true_view(camera) for camera in cameras)
    uv, distance = pixels_in_view(cameras[1], depth, cameras[0])
    seen = visible(uv, distance, source_depth, tolerance=0.02)[0, 0].flatten()
    points = view[0].flatten(1).T
    towards = torch.nn.functional.normalize(cameras[0].position - points, dim=-1)
    free = hit(points + 1e-4 * towards, towards).isnan()
    on_head, on_small = (
        ((points - torch.tensor(centre)).norm(dim=-1) - radius).abs() < 1e-4 for centre, radius in BALLS
    )
    slant = (points / 0.3 * towards).sum(dim=-1)
    hidden_by_the_small_one = on_head & ~free & (slant > 0.3)
    assert hidden_by_the_small_one.sum() > 50 and (on_head & free).sum() > 500 and on_small.sum() > 50
    clear = on_head & (slant.abs() > 0.3)
    assert (seen == free)[clear].float().mean() > 0.95  # the rest lies along outlines
    assert not seen[on_head & (slant < -0.2)].any()


def test_batches_are_not_guessed():
    camera, depth = orbit(0.0, 0.0), constant(2.0)
    with pytest.raises(ValueError, match=r"got \[2, 1, 1, 1, 1\]"):
        warp(torch.zeros(2, 3, 8, 8), camera, depth, camera, depth)


# -------------------------------------------------------------------- angles
def test_angles_at_the_pivot_are_those_between_the_cameras():
    """A surface through the origin, which all cameras of an orbit look at: the middle pixel of an odd side."""
    camera, depth = orbit(0.1, 0.0), torch.full((1, 1, 15, 15), 2.7)
    for yaw, pitch, expected in [
        (0.1, 0.0, 0.0),
        (0.4, 0.0, 0.3),
        (0.1, -0.25, 0.25),
        (0.1 + math.pi, 0, math.pi),
    ]:
        angle = angle_between_views(camera, depth, orbit(yaw, pitch))
        assert angle[0, 0, 7, 7].item() == pytest.approx(expected, abs=2e-6)


def test_intrinsics_do_not_change_angles_at_a_point():
    narrow = Camera(orbit(0.2, 0.1).world_from_cam, intrinsics_matrix(8.0))
    depth = torch.full((1, 1, 15, 15), 2.7)
    a, b = (angle_between_views(c, depth, orbit(0.0, 0.0))[0, 0, 7, 7] for c in (narrow, orbit(0.2, 0.1)))
    assert a.item() == pytest.approx(b.item(), abs=1e-5)
