"""Samples: their truth is what they were made from, and their shape is that of a head whose shape is known."""

import pytest
import torch
from analytic_head import BUMP_RADIUS, CENTRE, EAR, NOSE, RADIUS, AnalyticGenerator
from tiny_generator import tiny_generator

from lib.cameras import orbit
from lib.datasets import samples
from lib.faces import WORLD_PER_CM
from lib.generators import RenderingSettings
from lib.meshes import seen_points
from lib.warping import warp

SIDE, SHARPNESS = 64, 4000.0
BALLS = torch.tensor([(*CENTRE, RADIUS), (*NOSE, BUMP_RADIUS), (*EAR, BUMP_RADIUS)])


def true_hits(camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance [R*R] and normal [R*R, 3] of where rays first meet the balls: the quadratic formula, inf beside."""
    origins, directions = (x[0] for x in camera.rays(SIDE))
    towards = BALLS[:, None, :3] - origins
    middle = (towards * directions).sum(-1)
    under_root = middle**2 - (towards**2).sum(-1) + BALLS[:, 3:] ** 2
    distance = torch.where(under_root > 0, middle - under_root.clamp_min(0).sqrt(), torch.inf)
    nearest, ball = distance.min(dim=0)
    points = origins + directions * nearest.nan_to_num(posinf=0)[:, None]
    return nearest, (points - BALLS[ball, :3]) / BALLS[ball, 3:]


def fields(side: int = SIDE) -> AnalyticGenerator:
    """The known head with a field so steep that it has a surface."""
    config = AnalyticGenerator().config
    config = type(config).embedded(side, rendering=RenderingSettings(48, 24))
    return AnalyticGenerator(sharpness=SHARPNESS, config=config)


def analytic_view(yaw: float, pitch: float = 0.0):
    nothing = torch.zeros(1)
    return samples.true_view(fields(), nothing, nothing, orbit(yaw, pitch))


@pytest.mark.parametrize("yaw", [0.0, 0.6, -0.6])
def test_depth_is_where_the_rays_meet_the_surface(yaw):
    view = analytic_view(yaw)
    distance, normals = true_hits(view.camera)
    depth = view.depth.flatten()
    hit = distance.isfinite()
    assert (hit == ~depth.isnan()).float().mean() > 0.97  # they may differ in pixels at the outline
    # Density grows as k s cos(angle) with the way s behind the surface, so light comes from s = sqrt(pi / (2 k cos)).
    cosine = -(view.camera.rays(SIDE)[1][0] * normals).sum(dim=1)
    facing = hit & (cosine > 0.4) & ~depth.isnan()
    expected = distance + (torch.pi / (2 * SHARPNESS * cosine.clamp_min(0.4))).sqrt()
    error = (depth - expected)[facing].abs()
    assert error.median() < 0.002
    assert error.quantile(0.95) < 0.005


@pytest.mark.parametrize("yaw", [0.0, 0.6])
def test_normals_are_those_of_the_surface(yaw):
    view = analytic_view(yaw)
    distance, true = true_hits(view.camera)
    normals = view.normals[0].flatten(1).T
    known = ~normals.isnan().any(dim=1) & distance.isfinite()
    assert known.float().mean() > 0.8 * distance.isfinite().float().mean()
    assert normals[known].norm(dim=1) == pytest.approx(torch.ones(int(known.sum())), abs=1e-4)
    angle = torch.rad2deg(torch.acos((normals * true).sum(dim=1)[known].clamp(-1, 1)))
    assert angle.median() < 6
    assert angle.quantile(0.8) < 15


def test_normals_face_the_camera():
    view = analytic_view(0.6)
    rays = view.camera.rays(SIDE)[1].transpose(1, 2).reshape(view.normals.shape)
    slant = -(rays * view.normals).sum(dim=1)
    assert slant[~slant.isnan()].min() >= samples.LEAST_SLANT


def test_a_jump_in_depth_has_no_normal():
    depth = torch.full((1, 1, SIDE, SIDE), 2.5)
    depth[..., 32:] = 2.9
    normals = samples.surface_normals(orbit(0.0, 0.0), depth)
    unknown = normals.isnan().all(dim=1)[0]
    assert unknown.nonzero()[:, 1].unique().tolist() == [31, 32]


def test_nothing_is_known_where_rays_meet_nothing():
    view = analytic_view(0.0)
    missed = true_hits(view.camera)[0].isinf().reshape(SIDE, SIDE)
    corner = missed[:4, :4]
    assert corner.all()
    assert view.depth[0, 0, :4, :4].isnan().all()
    assert view.normals[0, :, :4, :4].isnan().all()
    assert not view.mask[0, 0, :4, :4].any()


def test_a_true_view_warped_by_true_depth_agrees_with_another():
    """The colour of this head is a function of the place alone, so what both views see has one colour."""
    front, side = analytic_view(0.0), analytic_view(0.5)
    warped, visible = warp(side.image, side.camera, side.depth, front.camera, front.depth, tolerance=0.02)
    inner = visible & ~front.normals.isnan().any(dim=1, keepdim=True)
    assert inner.float().mean() > 0.15
    error = (warped - front.image).abs()[inner.expand_as(warped)]
    assert error.median() < 0.02
    # And the check can fail: the same without warping.
    assert (side.image - front.image).abs()[inner.expand_as(warped)].median() > 0.1


# ---- the head and what is behind it -----------------------------------------------------------------------


def test_the_head_volume_against_single_points():
    camera, depth = orbit(0.4, 0.1), torch.linspace(2.2, 3.2, 81).reshape(1, 1, 9, 9)
    found = samples.in_head(camera, depth).flatten()
    points = seen_points(camera, depth)[0] / WORLD_PER_CM
    for inside, point in zip(found.tolist(), points.tolist(), strict=True):
        shares = [
            (p - c) / r for p, c, r in zip(point, samples.HEAD_CENTRE_CM, samples.HEAD_RADII_CM, strict=True)
        ]
        assert inside == (sum(share**2 for share in shares) < 1)


def test_the_face_is_in_the_head_and_the_wall_behind_is_not():
    from lib.faces import canonical_mesh

    camera = orbit(0.0, 0.0)
    vertices = torch.tensor(canonical_mesh()[0] * WORLD_PER_CM, dtype=torch.float32)
    centre, radii = (torch.tensor(x) * WORLD_PER_CM for x in (samples.HEAD_CENTRE_CM, samples.HEAD_RADII_CM))
    assert (((vertices - centre) / radii).square().sum(dim=1) < 1).float().mean() > 0.97
    behind = torch.full((1, 1, 9, 9), 2.7 + 0.4)
    assert not samples.in_head(camera, behind).any()


def test_the_mask_follows_places_not_views():
    """What one view calls head, another that sees the same place calls head too."""
    front, side = analytic_view(0.0), analytic_view(0.5)
    carried, visible = warp(
        side.mask.float(), side.camera, side.depth, front.camera, front.depth, tolerance=0.02
    )
    disagree = ((carried > 0.5) != front.mask) & visible
    assert disagree.sum() < 0.05 * visible.sum()


# ---- scenes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def scene(generator):
    return samples.make(5, generator, input_yaw=0.15, with_ellipse=False)


def test_the_truth_renders_every_view(generator, scene):
    assert scene.input_name == "yaw+0.15"
    assert len(scene.views) == 6
    for view in scene.views.values():
        again = generator.synthesize(scene.truth["w_plus"], view.camera).image.clamp(-1, 1)
        assert torch.equal(view.image, again)


def test_parts_have_the_shapes_that_views_promise(generator, scene):
    side = generator.resolution
    for view in scene.views.values():
        assert view.image.shape == view.normals.shape == (1, 3, side, side)
        assert view.depth.shape == view.mask.shape == (1, 1, side, side)
        assert view.mask.dtype == torch.bool
        assert view.known is None


def test_a_seed_is_a_head(generator, scene):
    same = samples.make(5, generator, input_yaw=0.15, with_ellipse=False)
    other = samples.make(6, generator, input_yaw=0.15, with_ellipse=False)
    assert torch.equal(scene.input.image, same.input.image)
    assert (scene.truth["w_plus"] - other.truth["w_plus"]).abs().max() > 0.01


def test_the_input_yaw_does_not_change_the_head(generator, scene):
    elsewhere = samples.make(5, generator, with_ellipse=False)
    assert torch.equal(scene.truth["w_plus"], elsewhere.truth["w_plus"])
    assert torch.equal(scene.views["yaw+0.6"].image, elsewhere.views["yaw+0.6"].image)


def test_truncation_draws_the_code_toward_the_mean(generator, scene):
    mean = samples.sampled_code(5, generator, 0.0)
    full, half = (samples.sampled_code(5, generator, psi) for psi in (1.0, 0.5))
    assert half == pytest.approx((mean + full) / 2, abs=1e-5)
    assert torch.equal(scene.truth["w_plus"], samples.sampled_code(5, generator, 0.8))
