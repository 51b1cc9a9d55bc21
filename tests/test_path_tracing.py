"""Rendered meshes against closed forms: a sphere under even light, depth along rays, colours, directions of light."""

import numpy as np
import pytest
import torch
import trimesh

pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install -e '.[heads]'")

from lib.cameras import Camera, orbit
from lib.datasets.path_tracing import (
    ColouredMesh,
    PathTracer,
    irradiance,
    linear,
    sky_directions,
    srgb,
)

SKY = np.ones((16, 32, 3))
RADIUS = 0.25
CENTRE = np.array([0.03, -0.02, 0.01])


def sphere(colour=(0.5, 0.25, 0.125)) -> ColouredMesh:
    ball = trimesh.creation.icosphere(5, radius=RADIUS)
    return ColouredMesh(ball.vertices + CENTRE, ball.faces, np.tile(colour, (len(ball.vertices), 1)))


def inner(mask: torch.Tensor) -> torch.Tensor:
    """Pixels [R, R] whose neighbours are met as well."""
    return (-torch.nn.functional.max_pool2d(-mask.float(), 5, stride=1, padding=2) > 0)[0, 0]


def test_a_convex_body_under_even_light_shows_its_own_colour():
    image = PathTracer(sphere(), SKY).picture(orbit(0.4, 0.1), 32, samples=16)[0]
    met = inner(PathTracer(sphere(), SKY).surface(orbit(0.4, 0.1), 32)[2])
    expected = torch.tensor(2 * srgb(np.array([0.5, 0.25, 0.125])) - 1, dtype=torch.float32)
    assert met.sum() > 100
    assert (image[:, met].mean(1) - expected).abs().max() < 5e-3
    assert (image[:, met] - expected[:, None]).abs().max() < 0.1  # noise
    assert (image[:, 0, 0] - 1).abs().max() < 1e-6  # beside it, the light itself


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.6, -0.2), (-0.3, 0.4)])
def test_depth_and_normals_of_a_sphere(yaw, pitch):
    camera = orbit(yaw, pitch)
    depth, normals, met = PathTracer(sphere(), SKY).surface(camera, 33)
    origins, directions = (rays[0].double().numpy() for rays in camera.rays(33))
    along = ((CENTRE - origins) * directions).sum(1)
    within = RADIUS**2 - ((CENTRE - origins) ** 2).sum(1) + along**2
    true_depth = (along - np.sqrt(within.clip(min=0))).reshape(33, 33)
    true_normals = ((origins + directions * true_depth.reshape(-1, 1)) - CENTRE) / RADIUS
    sure = inner(met)
    clear = within.reshape(33, 33) < -0.01
    assert sure.sum() > 100 and clear.sum() > 100
    assert np.abs(depth[0, 0][sure].numpy() - true_depth[sure]).max() < 2e-3
    ours = normals[0].permute(1, 2, 0)[sure].numpy()
    assert (ours * true_normals.reshape(33, 33, 3)[sure]).sum(1).min() > 0.999
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert not met[0, 0][clear].any() and depth[0, 0][clear].isnan().all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_light_comes_from_where_it_was_put(axis):
    light = (sky_directions(32)[..., axis : axis + 1] > 0) * np.ones(3)
    tracer = PathTracer(sphere((1.0, 1.0, 1.0)), light)
    camera = orbit(0.5, 0.3)
    brightness = linear((tracer.picture(camera, 32, samples=64)[0, 0].numpy() + 1) / 2)
    _, normals, met = tracer.surface(camera, 32)
    sure = inner(met).numpy()
    expected = (1 + normals[0, axis].numpy()[sure]) / 2  # a half sky, seen by a white surface
    assert np.abs(brightness[sure] - expected).mean() < 0.03


def test_irradiance_of_an_even_and_of_a_half_sky():
    for normal in ([1.0, 0, 0], [0, -1.0, 0], [0, 0.6, 0.8]):
        assert irradiance(3 * np.ones((64, 128, 3)), np.array(normal)) == pytest.approx([3, 3, 3], rel=1e-3)
    half = (sky_directions(64)[..., 1:2] > 0) * np.ones(3)
    assert irradiance(half, np.array([0.6, 0.8, 0.0])) == pytest.approx([0.9] * 3, rel=1e-2)


def test_srgb_and_linear_are_inverse():
    values = np.linspace(0, 1, 101)
    assert np.allclose(linear(srgb(values)), values)
    assert srgb(np.array(0.214)) == pytest.approx(0.5, abs=1e-3)


def test_the_same_seed_gives_the_same_picture_and_another_another():
    tracer = PathTracer(sphere(), np.random.default_rng(0).uniform(0, 1, (16, 32, 3)))
    first, again, other = (tracer.picture(orbit(0.1, 0.0), 16, samples=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shine_depends_on_the_camera_and_its_absence_does_not():
    """The same point of a lit sphere from two sides."""
    directions = sky_directions(64)
    lamp = np.exp(50 * (directions @ np.array([0.0, 0.0, 1.0]) - 1))[..., None] * np.array([8.0, 8, 8])
    cameras = orbit(0.35, 0.0), orbit(-0.7, 0.0)
    point = torch.tensor(CENTRE + np.array([0, 0, RADIUS]), dtype=torch.float32)[None, None]
    colours = {}
    for shine in (0.0, 1.0):
        tracer = PathTracer(sphere(), lamp, shine)
        seen = []
        for camera in cameras:
            u, v = (camera.project(point)[0][0, 0] * 24).long().tolist()
            seen.append(tracer.picture(camera, 24, samples=256)[0, :, v, u])
        colours[shine] = (seen[0] - seen[1]).abs().max()
    assert colours[0.0] < 0.06 < 2 * colours[0.0] + 0.06 < colours[1.0]


@pytest.mark.parametrize("samples", [0, 32, -4])
def test_uneven_samples_are_refused(samples):
    with pytest.raises(ValueError, match="square number"):
        PathTracer(sphere(), SKY).picture(orbit(0, 0), 8, samples=samples)


def test_light_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[h, 2h, 3\]"):
        PathTracer(sphere(), np.ones((16, 16, 3)))


def test_a_camera_with_a_shifted_centre_is_refused():
    camera = orbit(0.0, 0.0)
    intrinsics = camera.intrinsics.clone()
    intrinsics[:, 0, 2] = 0.6
    with pytest.raises(ValueError, match="principal point in the middle"):
        PathTracer(sphere(), SKY).picture(Camera(camera.world_from_cam, intrinsics), 8, samples=1)
