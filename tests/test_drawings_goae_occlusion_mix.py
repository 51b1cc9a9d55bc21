"""The mix measured and drawn: what each plane says apart, errors of each region by hand, every number in its place."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.cameras import orbit
from lib.datasets.scenes import Scene, View
from lib.drawings.goae_occlusion_mix import (
    ENLARGED,
    FORMS,
    REGIONS,
    Surface,
    masks_over_planes,
    occlusion_map,
    plane_names,
    refined_shares,
    region_errors,
    region_shares,
    share_map,
    shares_and_changes,
    surface_in_view,
)
from lib.encoders.goae import Refined
from lib.encoders.occlusion import plane_masks, visible_points
from lib.figures import method_colour, method_label
from lib.generators.rendering import plane_axes, sample_planes
from lib.images import resize
from tests.analytic_head import CENTRE, EAR, NOSE, AnalyticGenerator

AXES = plane_axes("released")
SIZE = 16


class PaintedBall(AnalyticGenerator):
    """A ball whose colour, everywhere, is the mean of its planes."""

    plane_axes = AXES

    def render(self, planes, w_plus, camera, **options):
        seen = super().render(planes, w_plus, camera, **options)
        return seen._replace(image=torch.ones_like(seen.image) * planes.mean())


@pytest.fixture(scope="module")
def generator():
    return PaintedBall()


PHOTO, ASIDE = orbit(0.5, 0.0), orbit(-0.6, 0.0)


def refined_ball(generator):
    """Planes of the code are 0, refined ones 1."""
    plain = torch.zeros(1, 3, 2, SIZE, SIZE)
    w_plus = torch.zeros(1, 4, 8)
    return Refined(w_plus, None, None, generator.render(plain, w_plus, PHOTO), plain, plain + 1)


def masks_of(generator, found):
    points = visible_points(found.plain.depth, PHOTO, 2 * SIZE)
    return plane_masks(points, AXES, generator.config.rendering.box_warp, SIZE)


# ---- what planes say
def test_each_plane_says_its_own_share_and_their_mean_is_the_lookup_of_all():
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(1, 3, SIZE, SIZE, generator=rng)
    points = torch.rand(1, 50, 3, generator=rng) - 0.5
    shares = refined_shares(masks, points, AXES, 1.0)
    assert torch.allclose(
        shares.mean(dim=-1, keepdim=True), sample_planes(masks[:, :, None], points, AXES, 1.0), atol=1e-6
    )
    alone = masks * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    of_one = refined_shares(alone, points, AXES, 1.0)
    assert torch.allclose(of_one[..., 1], shares[..., 1], atol=1e-6)
    assert of_one[..., [0, 2]].abs().max() == 0


def test_bool_masks_of_all_texels_refine_everything_within_the_planes():
    points = 0.9 * (torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(1)) - 0.5)
    shares = refined_shares(torch.ones(1, 3, SIZE, SIZE, dtype=torch.bool), points, AXES, 1.0)
    assert torch.allclose(shares, torch.ones_like(shares))


def test_planes_are_named_by_their_axes():
    assert plane_names(AXES) == ["XY", "XZ", "ZX"]


# ---- the surface in a view
def test_a_ball_shows_its_near_side_and_hides_its_far_one(generator):
    picture = torch.zeros(1, 3, generator.resolution, generator.resolution)
    surface = surface_in_view(generator, refined_ball(generator), PHOTO, View(picture, ASIDE))
    points = surface.points.reshape(*surface.head.shape[-2:], 3)
    centre = torch.tensor(CENTRE)
    towards_photo = (points - centre) @ (PHOTO.position[0] - centre) / (PHOTO.position[0] - centre).norm()
    clear = surface.head[0, 0] & (towards_photo.abs() > 0.1)  # not on the border between both sides
    for bump in (NOSE, EAR):  # which throw shadows
        clear &= (points - torch.tensor(bump)).norm(dim=-1) > 0.2
    assert surface.visible[0, 0][clear & (towards_photo > 0)].float().mean() > 0.9
    assert not surface.visible[0, 0][clear & (towards_photo < 0)].any()
    assert (clear & (towards_photo > 0)).sum() > 20 < (clear & (towards_photo < 0)).sum()
    assert torch.equal(surface.region("visible") | surface.region("hidden"), surface.head)
    assert torch.equal(
        sum(surface.region(name).int() for name in REGIONS), torch.ones_like(surface.head).int()
    )


def test_where_the_truth_says_what_is_head_the_wall_behind_it_is_left_out(generator):
    mask = torch.zeros(1, 1, generator.resolution, generator.resolution, dtype=torch.bool)
    mask[..., :20, :] = True
    view = View(mask.float().expand(1, 3, -1, -1), ASIDE, mask=mask)
    head = surface_in_view(generator, refined_ball(generator), PHOTO, view).head
    assert head[..., :10, :].all() and not head[..., 10:, :].any()


# ---- measures
def test_errors_are_of_each_region_alone(generator):
    found = refined_ball(generator)
    masks = masks_of(generator, found)
    side = generator.resolution
    surface = surface_in_view(generator, found, PHOTO, View(torch.zeros(1, 3, side, side), ASIDE))
    bright = resize(surface.region("visible").float(), side).expand(1, 3, -1, -1)
    scene = Scene("ball", "a", {"a": View(bright * 0, PHOTO), "b": View((bright > 0.5).float(), ASIDE)})
    shares, errors = region_shares(generator, found, masks, scene), region_errors(generator, found, scene)
    assert errors["visible", "goae-wplus"] == pytest.approx(1) and errors["visible", "goae-no_mix"] == 0
    for dark in ("hidden", "wall"):
        assert errors[dark, "goae-wplus"] == 0 and errors[dark, "goae-no_mix"] == pytest.approx(1)
    grey = masks.float().mean().item()
    assert errors["visible", "goae"] == pytest.approx((1 - grey) ** 2, rel=1e-4)
    assert errors["hidden", "goae"] == pytest.approx(grey**2, rel=1e-4)
    assert {method for _, method in errors} == {"goae-wplus", *FORMS}
    for region in REGIONS:
        read = refined_shares(masks, surface.points, AXES, 1.0)[0][surface.region(region).flatten()]
        assert shares[region, "XZ"] == pytest.approx(read[:, 1].mean().item(), rel=1e-5)
        assert shares[region, "any plane"] >= max(shares[region, name] for name in plane_names(AXES)) - 1e-6
    of = {region: [shares[region, name] for name in plane_names(AXES)] for region in ("visible", "hidden")}
    assert sum(of["visible"]) > sum(of["hidden"]) + 0.1, of


def test_pixels_that_nobody_knows_do_not_count(generator):
    found = refined_ball(generator)
    side = generator.resolution
    nowhere = torch.zeros(1, 1, side, side, dtype=torch.bool)
    picture = torch.zeros(1, 3, side, side)
    scene = Scene("ball", "a", {"a": View(picture, PHOTO), "b": View(picture, ASIDE, known=nowhere)})
    assert region_errors(generator, found, scene) == {}


# ---- pictures
def small_surface():
    head = torch.tensor([[True, True], [True, False]])[None, None]
    visible = torch.tensor([[True, False], [True, True]])[None, None]
    return Surface(torch.zeros(1, 4, 3), head, visible)


def test_the_occlusion_map_is_white_black_and_grey_beside_the_head():
    small = occlusion_map(small_surface())[::ENLARGED, ::ENLARGED]
    assert small.shape == (2, 2, 3)
    assert (small[0, 0] == 255).all() and (small[0, 1] == 0).all() and (small[1, 0] == 255).all()
    assert small[1, 1].min() > 200 and small[1, 1].max() < 255


def test_shares_get_brighter():
    read = torch.tensor([0.0, 0.5, 1.0, 1.0])[None, :, None].expand(1, 4, 3)
    small = share_map(read, small_surface())[::ENLARGED, ::ENLARGED].astype(float).sum(axis=-1)
    assert small[0, 0] < small[0, 1] < small[1, 0]


def test_plain_texels_are_pale_and_v_points_upwards():
    planes = torch.randn(1, 3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    nothing, everything = torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 3, SIZE, SIZE)
    lower = everything.clone()
    lower[:, :, SIZE // 2 :] = 0  # the first rows of an array are the lower ones of a plane
    pale, full, half = (masks_over_planes(planes, masks)[0] for masks in (nothing, everything, lower))
    middle = len(half) // 2
    assert np.array_equal(half[:middle], pale[:middle]) and np.array_equal(half[middle:], full[middle:])
    assert pale.astype(int).min() >= 180 > full.min()


def scenes_of(n, regions=tuple(REGIONS)):
    rng = np.random.default_rng(0)
    names = ["XY", "XZ", "ZX", "any plane"]
    shares = pd.DataFrame({(region, name): rng.random(n) for region in regions for name in names})
    methods = ["goae-wplus", *FORMS]
    errors = pd.DataFrame({(region, name): rng.random(n) for region in regions for name in methods})
    return shares, errors


def test_every_mean_stands_in_its_region_and_errors_are_differences():
    shares, errors = scenes_of(5)
    picture = shares_and_changes(shares, errors)
    left, right = picture.axes
    for region, colour in REGIONS.items():
        dots = [line.get_ydata()[0] for line in left.lines if line.get_color() == colour]
        assert dots == pytest.approx(shares[region].mean().tolist())
    for name in FORMS:
        dots = [line.get_ydata()[0] for line in right.lines if line.get_color() == method_colour(name)]
        expected = [(errors[region, name] - errors[region, "goae-wplus"]).mean() for region in REGIONS]
        assert dots == pytest.approx(expected)
    assert len(left.collections) == 12 and len(right.collections) == 9  # an interval each
    assert [label.get_text() for label in right.get_xticklabels()] == [f"{name}\nn 5" for name in REGIONS]
    words = [text.get_text() for text in right.get_legend().get_texts()]
    assert set(words) == {method_label(name) for name in FORMS}
    assert_nothing_is_cropped(picture)


def test_one_scene_has_no_interval_and_a_region_that_is_nowhere_no_dot():
    picture = shares_and_changes(*scenes_of(1, ("visible",)))
    left, right = picture.axes
    assert not left.collections and not right.collections
    assert not [line for line in left.lines if line.get_color() == REGIONS["hidden"]]
    assert right.get_xticklabels()[1].get_text() == "hidden\nn 0"
