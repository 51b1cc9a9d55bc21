"""Volume rendering against physics, slow twins, check values of the original, and finite differences."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from lib.cameras import orbit
from lib.generators.rendering import (
    RenderingSettings,
    box_bounds,
    composite_weights,
    expected_depth,
    importance_depths,
    merged_positions,
    plane_axes,
    project_to_planes,
    render_rays,
    sample_planes,
    sample_weights,
    stratified_depths,
)

NO_IMPORTANCE = RenderingSettings(depth_resolution=24, depth_resolution_importance=0)
TWO_PASSES = RenderingSettings(depth_resolution=12, depth_resolution_importance=8)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def raw_density(sigma: float) -> float:
    """The raw density whose shifted softplus is sigma."""
    return 1 + math.log(math.expm1(sigma))


def constant_field(raw: float, colour: float):
    """A medium of one density and one colour everywhere."""
    return lambda points: (torch.full_like(points[..., 0], raw), torch.full((*points.shape[:2], 3), colour))


def blob_field(centre=(0.0, 0.0, 0.0), size: float = 0.15, height: float = 40.0):
    """A soft ball whose colour is its position; raw density far below zero outside."""

    def field(points):
        squared = (points - torch.tensor(centre).to(points)).square().sum(dim=-1)
        return height * torch.exp(-squared / size**2) - 8, torch.sigmoid(3 * points)

    return field


def ball_field(radius: float = 0.2):
    """A hard ball about the origin, of nothing outside; its colour is its position."""
    return lambda points: (1e5 * (radius - points.norm(dim=-1)), torch.sigmoid(3 * points))


# -------------------------------------------------------------------- compositing
def test_check_values_of_the_original():
    depths = torch.tensor([[[2.3, 2.5, 2.6, 3.0]]])
    density = torch.tensor([[[0.0, 3.0, 20.0, 1.0]]])
    colours = torch.tensor([0.1, 0.5, 0.9, 0.2])
    weights = composite_weights(density, depths)
    torch.testing.assert_close(weights[0, 0], torch.tensor([0.177013, 0.534993, 0.281551]), atol=1e-6, rtol=0)
    per_sample = sample_weights(weights)
    assert 2 * (per_sample * colours).sum().item() - 1 == pytest.approx(0.164904, abs=1e-6)
    alpha = weights.sum(dim=-1)
    depth = expected_depth(depths, per_sample, alpha)
    assert depth.item() == pytest.approx(2.594120, abs=1e-6)


def composited_slowly(density, colours, depths):
    """The mid-point rule, one ray and one interval at a time: colour, depth and absorption."""
    features = torch.zeros(*density.shape[:2], colours.shape[-1], dtype=density.dtype)
    depth, alpha = torch.zeros_like(density[..., 0]), torch.zeros_like(density[..., 0])
    for b in range(density.shape[0]):
        for r in range(density.shape[1]):
            transmitted = 1.0
            for k in range(density.shape[2] - 1):
                middle = (density[b, r, k].item() + density[b, r, k + 1].item()) / 2
                sigma = math.log1p(math.exp(middle - 1))
                absorbed = 1 - math.exp(-sigma * (depths[b, r, k + 1] - depths[b, r, k]).item())
                weight = transmitted * absorbed
                features[b, r] += weight * (colours[b, r, k] + colours[b, r, k + 1]) / 2
                depth[b, r] += weight * (depths[b, r, k] + depths[b, r, k + 1]) / 2
                alpha[b, r] += weight
                transmitted *= 1 - absorbed
            depth[b, r] /= alpha[b, r]
    return features, depth, alpha


def test_rendering_equals_its_slow_twin():
    field, settings = blob_field(), TWO_PASSES
    origins, directions = orbit(torch.tensor([0.0, 0.5]), 0.1).to(dtype=torch.float64).rays(4)
    found = render_rays(field, origins, directions, settings)

    depths = stratified_depths(
        torch.full_like(origins[..., 0], settings.ray_start),
        torch.full_like(origins[..., 0], settings.ray_end),
        12,
    )
    evaluate = lambda t: field(origins[:, :, None] + t[..., None] * directions[:, :, None])  # noqa: E731
    fine = importance_depths(depths, composite_weights(evaluate(depths)[0], depths), 8)
    depths = torch.cat([depths, fine], dim=-1).sort(dim=-1).values
    features, depth, alpha = composited_slowly(*evaluate(depths), depths)
    torch.testing.assert_close(found.features, 2 * features - 1)
    torch.testing.assert_close(found.depth, depth)
    torch.testing.assert_close(found.alpha, alpha)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("settings", [NO_IMPORTANCE, TWO_PASSES])
def test_constant_density_obeys_beer_lambert(sigma, settings):
    origins, directions = orbit(0.0, 0.0).rays(2)
    rays = render_rays(constant_field(raw_density(sigma), 0.75), origins, directions, settings)
    # The deterministic samples span from half a step behind the start to half a step behind the end.
    length = settings.ray_end - settings.ray_start
    alpha = torch.full_like(rays.alpha, 1 - math.exp(-sigma * length))
    torch.testing.assert_close(rays.alpha, alpha, atol=1e-5, rtol=0)
    torch.testing.assert_close(rays.features, 2 * 0.75 * rays.alpha[..., None].expand(-1, -1, 3) - 1)


def test_white_back_fills_what_is_not_absorbed():
    origins, directions = orbit(0.0, 0.0).rays(2)
    field = constant_field(raw_density(0.5), 0.25)
    black = render_rays(field, origins, directions, NO_IMPORTANCE)
    white = render_rays(field, origins, directions, dataclasses.replace(NO_IMPORTANCE, white_back=True))
    torch.testing.assert_close(
        white.features - black.features, 2 * (1 - black.alpha)[..., None].expand(-1, -1, 3)
    )


@pytest.mark.parametrize("raw", [-50.0, -1000.0])
@pytest.mark.parametrize("white_back", [False, True])
def test_empty_rays_are_finite_and_have_finite_gradients(raw, white_back):
    settings = dataclasses.replace(TWO_PASSES, white_back=white_back)
    origins, directions = orbit(0.0, 0.0).rays(3)
    density = torch.full((1, 9 * 20), raw, requires_grad=True)
    colour = torch.rand(1, 9 * 20, 3, requires_grad=True)
    field = lambda points: (density[:, : points.shape[1]], colour[:, : points.shape[1]])  # noqa: E731
    rays = render_rays(field, origins, directions, settings)
    background = 1.0 if white_back else -1.0
    torch.testing.assert_close(rays.features, torch.full_like(rays.features, background))
    torch.testing.assert_close(rays.alpha, torch.zeros_like(rays.alpha))
    # Nothing was hit: the depth is the farthest that was looked at.
    farthest = settings.ray_end + 0.5 * (settings.ray_end - settings.ray_start) / (
        settings.depth_resolution - 1
    )
    torch.testing.assert_close(rays.depth, torch.full_like(rays.depth, farthest))
    (rays.features.sum() + rays.depth.sum() + rays.alpha.sum()).backward()
    assert density.grad.isfinite().all()
    assert colour.grad.isfinite().all()


def test_opaque_medium_is_seen_where_it_begins():
    origins, directions = orbit(0.0, 0.0).rays(2)
    rays = render_rays(constant_field(1000.0, 0.5), origins, directions, NO_IMPORTANCE)
    step = (3.3 - 2.25) / 23
    torch.testing.assert_close(rays.alpha, torch.ones_like(rays.alpha))
    torch.testing.assert_close(
        rays.depth, torch.full_like(rays.depth, 2.25 + step)
    )  # middle of the first interval


def test_depth_and_colour_of_a_ball():
    origins, directions = orbit(0.4, 0.2).rays(9)
    settings = RenderingSettings(depth_resolution=96, depth_resolution_importance=96)
    rays = render_rays(ball_field(radius=0.2), origins, directions, settings)
    assert rays.depth[0, 40].item() == pytest.approx(2.5, abs=0.01)
    surface = origins[0, 40] + rays.depth[0, 40] * directions[0, 40]
    torch.testing.assert_close(rays.features[0, 40], 2 * torch.sigmoid(3 * surface) - 1, atol=0.02, rtol=0)


# -------------------------------------------------------------------- gradients
def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    origins, directions = orbit(0.3, 0.1).to(dtype=torch.float64).rays(2)
    depths = 2.3 + torch.rand(1, 4, 6, generator=generator).double().sort(dim=-1).values
    density = 4 * torch.randn(1, 4, 6, generator=generator).double()

    def composited(density, depths):
        weights = composite_weights(density, depths)
        alpha = weights.sum(dim=-1)
        return weights, expected_depth(depths, sample_weights(weights), alpha)

    assert torch.autograd.gradcheck(composited, (density.requires_grad_(), depths.requires_grad_()))

    settings = RenderingSettings(depth_resolution=6, depth_resolution_importance=0)

    def rendered(centre, size):
        def field(points):
            squared = (points - centre).square().sum(dim=-1)
            return 10 * torch.exp(-squared / size**2), torch.sigmoid(points + centre)

        return tuple(render_rays(field, origins, directions, settings))

    centre = torch.tensor([0.05, -0.02, 0.1], dtype=torch.float64, requires_grad=True)
    size = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rendered, (centre, size))


def test_gradients_of_the_plane_lookup_by_finite_differences(rng):
    planes = torch.randn(2, 3, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(2, 5, 3, generator=rng, dtype=torch.float64) - 0.5).mul(0.9).requires_grad_()
    lookup = lambda planes, points: sample_planes(planes, points, plane_axes("released"), 1.0)  # noqa: E731
    assert torch.autograd.gradcheck(lookup, (planes, points))


def test_sampling_passes_no_gradient_but_both_passes_of_samples_do():
    origins, directions = orbit(0.0, 0.0).rays(2)
    seen = []

    def field(points):
        density = torch.zeros_like(points[..., 0]).requires_grad_()
        seen.append((points, density))
        return density, torch.rand(*points.shape[:2], 3, generator=torch.Generator().manual_seed(0))

    render_rays(field, origins, directions, TWO_PASSES).features.sum().backward()
    assert [density.shape[1] for _, density in seen] == [4 * 12, 4 * 8]
    assert not any(points.requires_grad for points, _ in seen)
    assert all(density.grad.abs().sum() > 0 for _, density in seen)


# -------------------------------------------------------------------- planes
@pytest.mark.parametrize(
    ("convention", "expected"),
    [("released", [[1, 2], [1, 3], [3, 1]]), ("corrected", [[1, 2], [1, 3], [3, 2]])],
)
def test_projection_to_the_planes(convention, expected):
    point = torch.tensor([[[1.0, 2.0, 3.0]]])
    found = project_to_planes(point, plane_axes(convention))
    torch.testing.assert_close(found[0, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_plane_axes_are_orthonormal_and_named():
    axes = plane_axes("corrected")
    torch.testing.assert_close(axes @ axes.transpose(1, 2), torch.eye(3).expand(3, 3, 3))
    with pytest.raises(ValueError, match="'released', 'corrected' or 3 x 3 x 3 numbers; got 'fixed'"):
        plane_axes("fixed")


def test_plane_axes_may_be_numbers():
    axes = plane_axes("corrected")
    assert plane_axes(axes.tolist()).equal(axes)
    with pytest.raises(ValueError, match=r"3 finite matrices of 3 x 3; got shape \(2, 3, 3\)"):
        plane_axes(axes[:2].tolist())


def looked_up_slowly(planes, points, box_warp):
    """Bilinear interpolation of the released planes, a point at a time, with zeros outside."""
    _, _, channels, height, width = planes.shape
    features = torch.zeros(*points.shape[:2], channels)
    for b in range(points.shape[0]):
        for n in range(points.shape[1]):
            x, y, z = (2 * points[b, n] / box_warp).tolist()
            for plane, (u, v) in zip(planes[b], [(x, y), (x, z), (z, x)], strict=True):
                column, row = (u + 1) * width / 2 - 0.5, (v + 1) * height / 2 - 0.5
                for i in (math.floor(row), math.floor(row) + 1):
                    for j in (math.floor(column), math.floor(column) + 1):
                        if 0 <= i < height and 0 <= j < width:
                            share = (1 - abs(row - i)) * (1 - abs(column - j))
                            features[b, n] += share * plane[:, i, j] / 3
    return features


def test_plane_lookup_equals_its_slow_twin(rng):
    planes = torch.randn(2, 3, 4, 5, 6, generator=rng)
    points = 1.8 * (torch.rand(2, 40, 3, generator=rng) - 0.5)  # some of them outside the box
    found = sample_planes(planes, points, plane_axes("released"), 1.6)
    torch.testing.assert_close(found, looked_up_slowly(planes, points, 1.6))


def test_outside_the_box_there_is_nothing(rng):
    points = torch.tensor([[[0.9, 0.9, 0.9], [-0.6, -3.0, 0.7]]])
    found = sample_planes(torch.randn(1, 3, 4, 8, 8, generator=rng), points, plane_axes("released"), 1.0)
    assert found.equal(torch.zeros(1, 2, 4))


def test_planes_of_one_head_serve_many_views(rng):
    planes, points = torch.randn(1, 3, 4, 8, 8, generator=rng), torch.rand(3, 10, 3, generator=rng) - 0.5
    axes = plane_axes("released")
    torch.testing.assert_close(
        sample_planes(planes, points, axes, 1.0),
        sample_planes(planes.expand(3, -1, -1, -1, -1), points, axes, 1.0),
    )
    with pytest.raises(ValueError, match="planes of batch 2"):
        sample_planes(planes.expand(2, -1, -1, -1, -1), points, axes, 1.0)


def test_plane_lookup_keeps_precision_under_autocast(rng):
    planes, points = torch.randn(1, 3, 4, 64, 64, generator=rng), torch.rand(1, 50, 3, generator=rng) - 0.5
    plain = sample_planes(planes, points, plane_axes("released"), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sample_planes(planes, points, plane_axes("released"), 1.0), plain)


# -------------------------------------------------------------------- stratified samples
def test_deterministic_depths_lie_in_the_middle_of_the_steps():
    near, far = torch.full((1, 1), 2.0), torch.full((1, 1), 4.0)
    expected = torch.tensor([2.25, 2.75, 3.25, 3.75, 4.25])
    torch.testing.assert_close(stratified_depths(near, far, 5)[0, 0], expected)


def test_jittered_depths_stay_in_their_steps(rng):
    near, far = torch.full((2, 50), 2.0), torch.full((2, 50), 4.0)
    steps = (stratified_depths(near, far, 5, rng) - 2) / 0.5
    assert (steps.floor() == torch.arange(5)).all()
    assert (steps - steps.floor()).std() > 0.2
    same, other = (stratified_depths(near, far, 5, torch.Generator().manual_seed(s)) for s in (0, 1))
    torch.testing.assert_close((same - 2) / 0.5, steps)
    assert not same.equal(other)


def test_disparity_is_even_in_the_inverse_depth():
    near, far = torch.full((1, 1), 0.5), torch.full((1, 1), 8.0)
    depths = stratified_depths(near, far, 6, disparity=True)
    torch.testing.assert_close(
        (1 / depths).diff(dim=-1), torch.full((1, 1, 5), (1 / 8 - 2) / 5), atol=1e-6, rtol=1e-5
    )


# -------------------------------------------------------------------- importance samples
def importance_depths_slowly(depths, weights, count):
    """The deterministic importance samples of one ray, by hand."""
    edges = [(a + b) / 2 for a, b in itertools.pairwise(depths)]
    raised = [max(weights[max(k - 1, 0)], weights[min(k, len(weights) - 1)]) for k in range(len(weights) + 1)]
    smooth = [(a + b) / 2 + 0.01 for a, b in itertools.pairwise(raised)]
    mass = [m + 1e-5 for m in smooth[1:-1]]
    samples = []
    for k in range(count):
        rest = (k + 0.5) / count * sum(mass)
        i = 0
        while rest > mass[i]:
            rest -= mass[i]
            i += 1
        samples.append(edges[i] + rest / mass[i] * (edges[i + 1] - edges[i]))
    return samples


def test_importance_samples_equal_their_slow_twin(rng):
    depths = (2 + torch.rand(1, 3, 10, generator=rng)).double().sort(dim=-1).values
    weights = composite_weights(5 * torch.randn(1, 3, 10, generator=rng).double(), depths)
    found = importance_depths(depths, weights, 7)
    for ray in range(3):
        expected = importance_depths_slowly(depths[0, ray].tolist(), weights[0, ray].tolist(), 7)
        torch.testing.assert_close(found[0, ray], torch.tensor(expected, dtype=torch.float64))


def test_importance_samples_lie_half_an_interval_near(rng):
    """As measured on the original: all weight on [20, 21] gives samples in 18.5 to 21.5, of mean 20."""
    depths = torch.arange(48.0).expand(1, 1, 48)
    weights = torch.zeros(1, 1, 47)
    weights[..., 20] = 1e6  # drowns the floor under the smoothed weights
    samples = importance_depths(depths, weights, 20_000, rng)
    assert samples.min().item() == pytest.approx(18.5, abs=0.01)
    assert samples.max().item() == pytest.approx(21.5, abs=0.01)
    assert samples.mean().item() == pytest.approx(20.0, abs=0.02)


def test_a_single_ray_can_be_rendered():
    origins, directions = orbit(0.0, 0.0).rays(1)
    assert render_rays(blob_field(), origins, directions, TWO_PASSES).features.shape == (1, 1, 3)


@pytest.mark.parametrize("tie", [False, True])
def test_two_lists_are_merged_as_by_sorting(rng, tie):
    first, second = (torch.rand(2, 5, n, generator=rng).sort(dim=-1).values for n in (7, 4))
    if tie:
        second[..., 1:3] = first[..., 2:4]
    positions = torch.cat(merged_positions(first, second.sort(dim=-1).values), dim=-1)
    both = torch.cat([first, second.sort(dim=-1).values], dim=-1)
    assert positions.sort(dim=-1).values.equal(torch.arange(11).expand(2, 5, 11))
    merged = torch.empty_like(both).scatter(-1, positions, both)
    assert merged.equal(both.sort(dim=-1).values)


@pytest.mark.parametrize("seed", [None, 3])
def test_rays_do_not_depend_on_how_many_are_rendered_at_a_time(monkeypatch, seed):
    origins, directions = orbit(torch.tensor([0.0, 0.6]), 0.1).rays(5)
    render = lambda: render_rays(  # noqa: E731
        blob_field(), origins, directions, TWO_PASSES, seed and torch.Generator().manual_seed(seed)
    )
    whole = render()
    monkeypatch.setattr(
        "lib.generators.rendering.SAMPLES", 7 * 2 * 20
    )  # 7 rays of each picture: 25 is no multiple
    for found, expected in zip(render(), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_density_noise_needs_random_samples(rng):
    origins, directions = orbit(0.0, 0.0).rays(8)
    noisy = dataclasses.replace(TWO_PASSES, density_noise=3.0)
    field = constant_field(raw_density(1.0), 0.5)
    assert render_rays(field, origins, directions, noisy).alpha.equal(
        render_rays(field, origins, directions, TWO_PASSES).alpha
    )
    clean, random = (render_rays(field, origins, directions, s, rng).alpha for s in (TWO_PASSES, noisy))
    assert random.std() > 3 * clean.std()
    with pytest.raises(ValueError, match="density_noise is a standard deviation"):
        RenderingSettings(density_noise=-1.0)


# -------------------------------------------------------------------- bounds
def test_box_bounds_closed_form():
    origins = torch.tensor([[[0.0, 0.0, 2.0], [0.2, 0.1, 2.0], [0.0, 3.0, 2.0], [0.0, 0.0, 2.0]]])
    slanted = torch.tensor([0.0, 0.3, -1.0])
    directions = torch.stack([torch.tensor([0.0, 0.0, -1.0])] * 3 + [F.normalize(slanted, dim=0)])[None]
    near, far = box_bounds(origins, directions, box_warp=1.0)
    length = slanted.norm().item()
    # The slanted ray enters by z = 0.5 and leaves by y = 0.5; the third misses and gets the stand-in bounds.
    expected_near = torch.tensor([[1.5, 1.5, 1.5, 1.5 * length]])
    expected_far = torch.tensor([[2.5, 2.5, 1.5 * length, 0.5 / 0.3 * length]])
    torch.testing.assert_close(near, expected_near)
    torch.testing.assert_close(far, expected_far)


def test_a_picture_beside_the_box_is_empty_and_finite():
    origins, directions = orbit(0.0, 0.0, pivot=(5.0, 0.0, 0.0)).rays(2)
    settings = dataclasses.replace(TWO_PASSES, ray_start="auto", ray_end="auto")
    rays = render_rays(constant_field(-50.0, 0.5), origins, directions, settings)
    assert all(value.isfinite().all() for value in rays)


def test_auto_bounds_see_what_fixed_bounds_see():
    origins, directions = orbit(0.3, 0.2).rays(6)
    fine = RenderingSettings(depth_resolution=96, depth_resolution_importance=96)
    fixed = render_rays(blob_field(), origins, directions, fine)
    automatic = render_rays(
        blob_field(), origins, directions, dataclasses.replace(fine, ray_start="auto", ray_end="auto")
    )
    torch.testing.assert_close(fixed.features, automatic.features, atol=0.02, rtol=0)


# -------------------------------------------------------------------- determinism and independence
def test_without_a_generator_rendering_repeats_itself_and_with_one_it_follows_the_seed():
    origins, directions = orbit(0.0, 0.0).rays(4)
    render = lambda rng: render_rays(blob_field(), origins, directions, TWO_PASSES, rng).features  # noqa: E731
    assert render(None).equal(render(None))
    seeded = [render(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert seeded[0].equal(seeded[1])
    assert not seeded[0].equal(seeded[2])


@pytest.mark.parametrize("bounds", [(2.25, 3.3), ("auto", "auto")])
def test_pictures_do_not_depend_on_their_batch_unless_coupled(bounds):
    cameras = orbit(torch.tensor([0.0, 0.9]), torch.tensor([0.0, 0.7]), focal=2.0)
    settings = dataclasses.replace(TWO_PASSES, ray_start=bounds[0], ray_end=bounds[1])
    coupled = dataclasses.replace(settings, batch_coupled=True)
    # Rays beside the ball are empty: their depth is the limit, which is the batch's if coupled.
    alone, together, tied = (
        render_rays(ball_field(), *camera.rays(6), chosen)
        for camera, chosen in ((cameras[0], settings), (cameras, settings), (cameras, coupled))
    )
    torch.testing.assert_close(together.features[:1], alone.features)
    torch.testing.assert_close(together.depth[:1], alone.depth)
    if bounds == ("auto", "auto"):
        assert not torch.allclose(tied.depth[:1], alone.depth)


# -------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"depth_resolution": 3}, "depth_resolution"),
        ({"ray_start": "auto"}, "both 'auto' or both numbers"),
        ({"ray_start": 3.5}, "ray_start < ray_end"),
    ],
)
def test_impossible_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        RenderingSettings(**wrong)
