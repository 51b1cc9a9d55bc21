"""Marks lie where they are put, in every view that sees the place and in no other."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from egg_scene import HALF_AXES, egg_scene, egg_view, on_egg

from lib.cameras import orbit
from lib.datasets.marks import (
    LEAST_COVER,
    SHADES,
    Decal,
    Ellipsoid,
    Spots,
    ellipsoid_distance,
    luminance,
    paint,
    paint_view,
)
from lib.datasets.scenes import Scene, View
from lib.meshes import seen_points
from lib.warping import warp

RED = (1.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def egg() -> Scene:
    return egg_scene()


def spot(x: float, y: float, radius: float = 0.02) -> Spots:
    centre, normal = on_egg(x, y)
    return Spots(centre[None], normal[None], torch.tensor([radius]), 0.03, RED, 1.0, 0.5)


def decal(x: float = 0.0, y: float = 0.0, size: float = 0.2, picture: torch.Tensor | None = None) -> Decal:
    """Upright on the egg; all red where no picture is given."""
    centre, normal = on_egg(x, y)
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), normal), dim=0)
    axes = torch.stack([right, torch.linalg.cross(normal, right), normal])
    picture = (
        torch.tensor([*RED, 1.0])[None, :, None, None].expand(1, 4, 8, 8) if picture is None else picture
    )
    return Decal(centre, axes, picture, size, 0.1, 0.5)


def ball(x: float, y: float, z: float, radius: float = 0.05) -> Ellipsoid:
    return Ellipsoid(torch.tensor([x, y, z]), torch.full((3,), radius), RED)


def position_in(view: View, point: torch.Tensor) -> torch.Tensor:
    """Column and row of a world point [3]."""
    return view.camera.project(point[None, None])[0][0, 0] * view.image.shape[-1]


def centre_of(mask: torch.Tensor) -> torch.Tensor:
    """Mean column and row of a mask [1, 1, R, R]."""
    return mask[0, 0].nonzero().float().mean(dim=0).flip(0) + 0.5


# -------------------------------------------------------------------- on the surface
@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.1, 0.1), (-0.12, -0.08), (0.17, 0.0)])
@pytest.mark.parametrize("make", [spot, lambda x, y: decal(x, y, 0.05)])
def test_mark_is_where_its_place_projects_to_and_nowhere_else(egg, make, x, y):
    centre, normal = on_egg(x, y)
    painted = paint(egg, [make(x, y)]).truth
    seen = 0
    for name, view in egg.views.items():
        mask = painted[f"painted/{name}"]
        facing = float(F.normalize(view.camera.position[0] - centre, dim=0) @ normal)
        if facing < -0.3:
            assert not mask.any()
        elif facing > 0.4:
            assert (centre_of(mask) - position_in(view, centre)).norm() < 0.6
            rows, columns = mask[0, 0].nonzero().T
            away = (torch.stack([columns, rows], dim=1) + 0.5 - position_in(view, centre)).norm(dim=1)
            assert away.max() < 4
            seen += 1
    assert seen >= 2


def test_side_that_faces_away_is_not_painted(egg):
    """A decal from the left that reaches through the egg lies on its near side alone."""
    from_left = dataclasses.replace(decal(0.19, 0.0, size=0.5), reach=1.0)
    view = egg.views["yaw-0.6"]
    _, painted = paint_view(view, [from_left])
    facing = (view.normals * from_left.axes[2][:, None, None]).sum(dim=1, keepdim=True)
    assert facing[view.mask].min() < -0.5
    assert painted.any()
    assert facing[painted].min() > -0.1


def test_decal_ends_at_its_reach():
    """Thrown along z upon the egg, it lies on what is not farther down than its reach."""
    view = egg_view(orbit(0.0, 0.0))
    front = dataclasses.replace(
        decal(size=1.0), axes=torch.eye(3), centre=torch.tensor([0.0, 0.0, HALF_AXES[2]]), reach=0.05
    )
    _, painted = paint_view(view, [front])
    z = seen_points(view.camera, view.depth)[0, :, 2].reshape(view.mask.shape)
    down = (HALF_AXES[2] - z).where(view.mask, torch.inf)
    assert painted[down < 0.03].all()
    assert not painted[down > 0.06].any()


def test_picture_of_a_decal_is_upright_and_not_mirrored(egg):
    picture = torch.zeros(1, 4, 8, 8)
    picture[:, :, :4, 4:] = torch.tensor([*RED, 1.0])[:, None, None]  # the quarter above, to the right
    view = egg.views["yaw+0.0"]
    _, painted = paint_view(view, [decal(size=0.2, picture=picture)])
    column, row = centre_of(painted) - position_in(view, on_egg(0.0, 0.0)[0])
    assert column > 2
    assert row < -2


def test_paint_stays_on_the_head(egg):
    for view in egg.views.values():
        _, painted = paint_view(view, [decal(size=2.0)])
        assert painted[view.mask].float().mean() > 0.3
        assert not (painted & (F.max_pool2d(view.mask.float(), 3, 1, 1) == 0)).any()


@pytest.mark.parametrize("mark", [spot(0.05, 0.03), decal(size=0.12), ball(0.25, 0.0, 0.1)])
def test_paint_covers_as_much_of_a_picture_of_any_resolution(mark):
    views = [egg_view(orbit(0.2, 0.1), side) for side in (32, 64, 256)]  # of 4, 4 and 2 rays along a pixel
    changes = [(paint_view(view, [mark])[0].image - view.image).abs().mean().item() for view in views]
    assert changes == pytest.approx([changes[-1]] * 3, rel=0.06)


@pytest.mark.parametrize(
    ("one", "other"), [("yaw+0.0", "yaw+0.3"), ("yaw-0.3", "yaw+0.3"), ("yaw+0.6", "yaw+0.3")]
)
def test_painted_views_agree_by_true_depth(one, other):
    """As well as those of the egg alone, whose smooth colours lose as little to interpolation as the paint's."""
    scene = egg_scene(64)
    v, u = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    cover = torch.exp(-4 * (u**2 + v**2))
    picture = torch.stack([cover * 0.8, cover * (0.5 + 0.4 * u), cover * (0.5 + 0.4 * v), cover])[None]
    painted = paint(scene, [dataclasses.replace(decal(0.03, 0.0, 0.3, picture), brightness=0.45)])

    def disagreement(some: Scene) -> torch.Tensor:
        source, target = some.views[one], some.views[other]
        warped, visible = warp(source.image, source.camera, source.depth, target.camera, target.depth)
        inner = (
            visible
            & painted.truth[f"painted/{other}"]
            & (F.max_pool2d(1 - target.mask.float(), 5, 1, 2) == 0)
        )
        return (warped - target.image).abs().mean(dim=1, keepdim=True)[inner]

    change = (painted.views[other].image - scene.views[other].image).abs().mean(dim=1, keepdim=True)
    contrast = change[painted.truth[f"painted/{other}"]].mean()
    assert len(disagreement(painted)) > 100
    assert disagreement(painted).mean() < disagreement(scene).mean() + 0.05 * contrast


# -------------------------------------------------------------------- strength
@pytest.mark.parametrize("mark", [spot(0.05, 0.0), decal(), ball(0.2, 0.0, 0.1)])
def test_strength_zero_is_the_same_scene(egg, mark):
    same = paint(egg, [mark], strength=0.0)
    for name, view in egg.views.items():
        for part in ("image", "depth", "normals", "mask"):
            assert torch.equal(
                getattr(same.views[name], part).float().nan_to_num(9.0),
                getattr(view, part).float().nan_to_num(9.0),
            )


@pytest.mark.parametrize("mark", [spot(0.05, 0.0), decal(), ball(0.2, 0.0, 0.1)])
def test_change_is_proportional_to_strength_and_lies_in_the_mask(egg, mark):
    whole, part = paint(egg, [mark]), paint(egg, [mark], 0.3)
    for name, view in egg.views.items():
        change = whole.views[name].image - view.image
        mask = whole.truth[f"painted/{name}"]
        assert torch.allclose(part.views[name].image - view.image, 0.3 * change, atol=1e-6)
        assert torch.equal(part.truth[f"painted/{name}"], mask)
        assert change.abs().where(~mask, torch.zeros(())).max() <= 2 * LEAST_COVER
    assert mask.any()


def test_strength_is_an_opacity(egg):
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        paint(egg, [decal()], 1.5)


def test_paint_needs_a_known_shape(egg):
    flat = dataclasses.replace(egg.input, depth=None)
    with pytest.raises(ValueError, match="depth, normals and mask"):
        paint_view(flat, [decal()])


# -------------------------------------------------------------------- light
@pytest.mark.parametrize("light", [0.4, 0.8, 1.2])
def test_paint_is_as_bright_as_the_skin_under_it(egg, light):
    grey = dataclasses.replace(
        egg.input, image=torch.full_like(egg.input.image, light - 1)
    )  # 0.5 * light in [0, 1]
    picture = torch.tensor([0.4, 0.6, 0.2, 1.0])[None, :, None, None].expand(1, 4, 8, 8)
    view, _ = paint_view(grey, [decal(picture=picture)])
    at = tuple(position_in(view, on_egg(0.0, 0.0)[0]).int().flip(0))
    expected = light * torch.tensor([0.4, 0.6, 0.2])
    assert torch.allclose((view.image[0, :, *at] + 1) / 2, expected, atol=1e-5)


def test_shadows_on_paint_are_bounded(egg):
    dark = dataclasses.replace(egg.input, image=torch.full_like(egg.input.image, -1.0))
    view, _ = paint_view(dark, [decal()])
    assert ((view.image + 1) / 2).max() == pytest.approx(SHADES[0])


def test_luminance_of_primaries_adds_up_to_white():
    primaries = torch.eye(3)[:, :, None, None]
    assert luminance(primaries).sum().item() == pytest.approx(1)
    assert luminance(primaries).flatten().argsort().tolist() == [2, 0, 1]  # blue is darkest, green brightest


# -------------------------------------------------------------------- solids
def test_entry_into_an_ellipsoid_lies_on_it_and_on_the_ray():
    rng = torch.Generator().manual_seed(0)
    centre, half_axes = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.0, 0.25])
    origins = 4 * F.normalize(torch.randn(500, 3, generator=rng), dim=1)
    directions = F.normalize(centre - origins + 0.5 * torch.randn(500, 3, generator=rng), dim=1)
    distance = ellipsoid_distance(origins, directions, centre, half_axes)
    # A slow twin: the first of many small steps that is inside.
    steps = torch.arange(0, 8, 0.002)
    walk = origins[:, None] + directions[:, None] * steps[:, None]
    inside = ((walk - centre) / half_axes).square().sum(-1) < 1
    first = steps[inside.int().argmax(dim=1)].where(inside.any(dim=1), torch.inf)
    both = distance.isfinite() & first.isfinite()
    assert 50 < both.sum() < 450
    assert (distance.isfinite() == first.isfinite()).float().mean() > 0.99
    assert (first - distance)[both].min() > -1e-4
    assert (first - distance)[both].max() < 0.0021


def test_ellipsoid_behind_the_camera_or_around_it_is_not_entered():
    origins, directions = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert (
        ellipsoid_distance(origins, directions, torch.tensor([0.0, 0.0, -3.0]), torch.ones(3)).isinf().all()
    )
    assert ellipsoid_distance(origins, directions, torch.zeros(3), torch.ones(3)).isinf().all()


def test_solid_hides_what_is_behind_it_and_is_hidden_by_what_is_before_it(egg):
    for name, view in egg.views.items():
        _, behind = paint_view(view, [ball(0.0, 0.0, -0.1)])
        assert not behind.any(), name
        _, beside = paint_view(view, [ball(0.2, 0.0, -0.12, radius=0.03)])
        assert beside.any() == (view.camera.yaw.item() > -0.1), name


def test_solid_has_depth_normals_and_mask(egg):
    centre, radius = torch.tensor([0.3, 0.1, 0.1]), 0.06  # beside the egg, where no depth was known
    view, painted = paint_view(egg.views["yaw+0.0"], [ball(*centre.tolist(), radius)])
    column, row = position_in(view, centre).int()
    towards = view.camera.position[0] - centre
    assert egg.views["yaw+0.0"].depth[0, 0, row, column].isnan()
    assert view.depth[0, 0, row, column].item() == pytest.approx(towards.norm().item() - radius, abs=2e-3)
    assert view.normals[0, :, row, column] @ F.normalize(towards, dim=0) > 0.97
    assert view.mask[0, 0, row, column]
    assert painted[0, 0, row, column]
    unit = view.normals.norm(dim=1)[view.normals.isfinite().all(dim=1)]
    assert torch.allclose(unit, torch.ones_like(unit), atol=1e-4)


def test_solid_too_faint_to_hide_leaves_the_unknown_unknown(egg):
    faint, _ = paint_view(egg.views["yaw+0.0"], [ball(0.3, 0.1, 0.1)], strength=0.4)
    assert torch.equal(faint.depth.isnan(), egg.views["yaw+0.0"].depth.isnan())
    assert torch.equal(faint.mask, egg.views["yaw+0.0"].mask)
