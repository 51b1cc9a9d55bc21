"""SPI equation by equation: each of the paper's formulas against its value by hand, then the method as a whole."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.contextual import PARTS_OF_FACE, canonical_landmarks, contextual_loss, part_boxes, regions
from lib.generators import EG3D
from lib.images import resize
from lib.inversion import Checkpoints, Inversion, invert_pti, invert_spi, spi
from lib.inversion.assumptions import AssumptionWarning
from lib.inversion.optimisation import early_sampling
from lib.inversion.projection import noise_maps, w_statistics
from lib.inversion.result import fingerprint
from lib.inversion.spi import (
    RELEASED,
    Refinement,
    Source,
    adjacent_loss,
    depth_cameras,
    depth_loss,
    importance,
    mirror_weight,
    mirrored,
    neighbour_range,
    neighbours,
    on_surface,
    rough_inversion,
    symmetry_loss,
    warped,
)
from lib.losses import noise_regulariser
from lib.warping import depth_along_ray, pixels_in_view, visible
from tests.egg_scene import HALF_AXES, egg_view
from tests.tiny_generator import RandomFeatures, tiny_generator

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

VIEW = orbit(0.45, 0.1)
SIDE = 16
PERCEPTUAL = RandomFeatures()
FEATURES = PERCEPTUAL.target
"""Of the contextual loss: quick, and no asset."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def code(generator) -> Tensor:
    return generator.map(torch.randn(1, 16, generator=rng(1)), VIEW)


@pytest.fixture(scope="module")
def target(generator, code) -> Tensor:
    return generator.synthesize(code, VIEW).image.clamp(-1, 1)


@pytest.fixture(scope="module")
def landmarks() -> Tensor:
    """[468, 2] of a face whose left and right differ: the right half is a tenth larger."""
    points = canonical_landmarks(VIEW)[0]
    middle = points.mean(dim=0)
    return middle + (points - middle) * torch.where(points[:, :1] > middle[0], 1.1, 1.0)


@pytest.fixture(scope="module")
def face() -> Tensor:
    """A mask [1, 1, R, R] that is not symmetric."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 2:14, 1:13] = 1
    return mask


# -------------------------------------------------------------------- eq. 3 and 4
def test_importance_is_a_density():
    """Eq. 3: its integral is 1, so its peak is 1 / (sigma sqrt(2 pi)) and not 1."""
    x = torch.linspace(-3, 3, 6001)
    for sigma, mu in ((0.29, 0.0), (0.4, 0.3)):
        density = importance(x, sigma, mu)
        assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-5)
        assert x[density.argmax()].item() == pytest.approx(mu, abs=1e-3)
        assert torch.trapezoid(density * (x - mu).square(), x).sqrt().item() == pytest.approx(sigma, rel=1e-3)


@pytest.mark.parametrize("yaw", [0.2, 0.3, 0.4, 0.5, 0.7, 1.5])
def test_mirror_weight_of_the_released_code(yaw):
    """(1 - N(yaw; 0, 0.29) / 2.7) / 2 with the normal density of the standard library's exp, from 0.2 rad on."""
    density = math.exp(-(yaw**2) / (2 * 0.29**2)) / (0.29 * math.sqrt(2 * math.pi))
    assert mirror_weight(yaw, "code").item() == pytest.approx((1 - density / 2.7) / 2, abs=1e-6)
    assert mirror_weight(-yaw, "code") == mirror_weight(yaw, "code")


def test_mirror_weight_of_the_released_code_at_its_tabulated_values():
    table = {0.2: 0.299, 0.3: 0.351, 0.4: 0.402, 0.5: 0.442, 0.7: 0.486}
    assert mirror_weight(torch.tensor(list(table)), "code").tolist() == pytest.approx(
        list(table.values()), abs=6e-4
    )
    assert mirror_weight(torch.tensor([0.0, 0.1, 0.199]), "code").tolist() == [0, 0, 0]
    assert mirror_weight(torch.linspace(-2, 2, 99), "code").max() <= 0.5


@pytest.mark.parametrize("k", [0.3, 0.8, 1.0])
def test_mirror_weight_is_cut_where_importance_comes_to_k(k):
    """Eq. 4: E(x) = k at x = sigma sqrt(2 ln(E(0) / k)); below, the face is too frontal."""
    cut = 0.29 * math.sqrt(2 * math.log(1 / (0.29 * math.sqrt(2 * math.pi)) / k))
    assert mirror_weight(cut - 1e-3, k=k) == 0
    assert mirror_weight(cut + 1e-3, k=k).item() == pytest.approx(1 - k, abs=0.01)


@pytest.mark.parametrize("form", ["paper", "code", "constant"])
def test_mirror_weight_is_never_negative_and_grows_with_the_angle(form):
    yaws = torch.linspace(0, 1.6, 200)
    weights = mirror_weight(yaws, form)
    assert weights.min() >= 0 and (weights.diff() >= 0).all()
    assert weights[-1].item() == pytest.approx(0.5 if form == "code" else 1.0, abs=1e-4)
    assert torch.equal(mirror_weight(-yaws, form), weights)


def test_an_unknown_form_of_the_weight_is_refused():
    with pytest.raises(ValueError, match="paper, code or constant; got 'linear'"):
        mirror_weight(0.3, "linear")


# -------------------------------------------------------------------- eq. 5
@pytest.mark.parametrize(("lambda_m", "lam_l2"), [(0.7, 0.0), (0.0, 0.0), (0.3, 2.0)])
def test_stage_1_minimises_equation_5(generator, code, target, lambda_m, lam_l2):
    """At its first step, unshaken: LPIPS of the photo plus lambda_m LPIPS of the mirrored photo, mirrored by hand."""
    start = code + 0.2
    found = rough_inversion(
        generator,
        target,
        VIEW,
        lambda_m=lambda_m,
        lam_l2=lam_l2,
        perceptual=PERCEPTUAL,
        initial=start,
        shake=0.0,
        steps=1,
        progress=False,
    ).history
    flipped = torch.from_numpy(target.numpy()[:, :, :, ::-1].copy())
    from_left = orbit(-0.45, 0.1)
    photo, mirror = (generator.synthesize(start, camera).image for camera in (VIEW, from_left))
    lpips = [PERCEPTUAL(photo, target).item(), PERCEPTUAL(mirror, flipped).item()]
    l2 = [(photo - target).square().mean().item(), (mirror - flipped).square().mean().item()]
    expected = lpips[0] + lambda_m * lpips[1] + lam_l2 * (l2[0] + lambda_m * l2[1])
    assert found["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert found["lpips"][0] == pytest.approx(lpips[0], rel=1e-4)
    assert ("mirror_lpips" in found) == (lambda_m > 0)
    if lambda_m:
        assert found["mirror_lpips"][0] == pytest.approx(lpips[1], rel=1e-4)


def test_stage_1_keeps_noise_noise(target):
    """lambda_n L_n(n) of eq. 5: the losses with and without it differ by the regulariser of the first maps."""
    noisy = tiny_generator(noise_strength=0.1)
    losses = [
        rough_inversion(
            noisy,
            target,
            VIEW,
            lambda_m=0.5,
            perceptual=PERCEPTUAL,
            noise="keep",
            lam_noise=lam_noise,
            steps=1,
            progress=False,
        ).history["loss"][0]
        for lam_noise in (0.0, 1e3)
    ]
    draws = rng()
    w_statistics(noisy, None, 600, draws)
    maps = [torch.randn(noise.shape, generator=draws) for noise in noise_maps(noisy)]
    assert losses[1] - losses[0] == pytest.approx(1e3 * noise_regulariser(maps).item(), rel=1e-3)


class DoubleFeatures(RandomFeatures):
    def __init__(self):
        super().__init__()
        self.kernel = self.kernel.double()


def test_gradient_of_equation_5_by_finite_differences(monkeypatch, generator, code, target):
    """Coarse samples only: the finer ones of EG3D follow the density, but no gradient goes through where they lie."""
    exact = copy.deepcopy(generator).double()
    camera = VIEW.to(dtype=torch.float64)
    monkeypatch.setattr(spi, "project", lambda *_, objective, **__: objective)
    objective = rough_inversion(
        exact,
        target.double(),
        camera,
        lambda_m=0.6,
        perceptual=DoubleFeatures(),
        early="coarse",
        early_until=1.0,
        steps=10,
    )
    w = (code + 0.2).double().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(exact, w, 0).total.sum(), w)
    for seed in range(3):
        direction = torch.randn(w.shape, generator=rng(seed), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (objective(exact, w + h * direction, 0).total.item() for h in (1e-7, -1e-7))
        assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / 2e-7, rel=1e-5)


# -------------------------------------------------------------------- eq. 6
def test_depth_loss_is_the_mean_squared_difference_and_vanishes_with_it():
    rough = 2.5 + torch.rand(2, 1, 4, 4, generator=rng())
    assert depth_loss(rough, rough).tolist() == [0, 0]
    assert depth_loss(
        rough + torch.tensor([0.1, -0.3])[:, None, None, None], rough
    ).tolist() == pytest.approx([0.01, 0.09], rel=1e-4)
    same = rough.clone().requires_grad_()
    depth_loss(same, rough).sum().backward()
    assert same.grad.abs().max() == 0


def test_gradient_of_the_depth_loss_by_finite_differences():
    rough, depth = torch.rand(2, 2, 1, 3, 3, generator=rng(), dtype=torch.float64)
    assert torch.autograd.gradcheck(depth_loss, (depth.requires_grad_(), rough))


def test_depth_is_compared_from_the_front_and_both_sides(generator):
    cameras = depth_cameras(generator, 400, rng())
    assert torch.allclose(cameras.position.norm(dim=1), torch.tensor(2.7), atol=1e-5)
    assert cameras.yaw.abs().max() <= 0.7 and cameras.pitch.abs().max() <= 0.2
    assert cameras.yaw.min() < -0.65 and cameras.yaw.max() > 0.65
    assert cameras.pitch.min() < -0.18 and cameras.pitch.max() > 0.18
    assert cameras.yaw.mean().abs() < 0.1 and cameras.pitch.mean().abs() < 0.03


def test_the_released_code_compares_depth_from_one_side(generator):
    """The same draws, from 0 on instead of from the other side on."""
    both, one = (depth_cameras(generator, 50, rng(), form) for form in ("symmetric", "one_sided"))
    assert one.yaw.min() >= 0 and one.yaw.max() > 0.6
    assert torch.allclose(one.yaw, (both.yaw + 0.7) / 2, atol=1e-5)
    assert torch.allclose(one.pitch, both.pitch, atol=1e-6)
    with pytest.raises(ValueError, match="symmetric or one_sided; got 'left'"):
        depth_cameras(generator, 1, rng(), "left")


# -------------------------------------------------------------------- eq. 7 and 8
def any_source(camera: Camera = VIEW, side: int = SIDE) -> Source:
    image = torch.rand(1, 3, side, side, generator=rng()) * 2 - 1
    depth = 2.5 + 0.02 * torch.rand(1, 1, side, side, generator=rng(1))
    return Source(image, camera, depth, (torch.rand(1, 1, side, side, generator=rng(2)) > 0.4).float())


def test_a_source_warped_into_its_own_view_is_itself_and_trusted_within_the_face():
    source = any_source()
    image, mask = warped(source, source.camera, source.depth, tolerance=1e-3)
    assert torch.allclose(image, source.image, atol=1e-4)
    assert torch.allclose(mask, source.face, atol=1e-4)


def test_low_resolution_depth_is_enlarged_first():
    """A plane across the axis: the warp of its 4 x 4 depth is that of its 16 x 16 depth, but for the rays' slant."""
    source = any_source(orbit(0.0, 0.0))
    small, large = (torch.full((1, 1, side, side), 2.5) for side in (4, SIDE))
    views = [warped(source, orbit(0.05, 0.0), depth) for depth in (small, large)]
    assert views[0][0].shape == (1, 3, SIDE, SIDE) and views[0][1].shape == (1, 1, SIDE, SIDE)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*views, strict=True))


def egg_source(camera: Camera, side: int = 64) -> Source:
    """The egg, whose colour is the place on it and so has a left and a right, before a wall of no face."""
    view = egg_view(camera, side)
    return Source(view.image.nan_to_num(), camera, view.depth.nan_to_num(3.3), view.mask.float())


def test_the_warp_of_a_true_view_is_the_other_true_view_where_it_is_trusted():
    source, view = egg_source(orbit(0.4, 0.1)), egg_view(orbit(0.25, 0.0), 64)
    image, mask = warped(source, view.camera, view.depth.nan_to_num(3.3))
    trusted = mask[0, 0] > 0.99
    assert trusted.sum() > 0.6 * view.mask.sum()
    assert (image - view.image).abs().amax(dim=1)[0][trusted].median() < 2e-3


def test_the_warp_of_a_mirrored_view_has_the_mirrored_colours():
    """The geometry is symmetric, the colours are not: red is x, so in the mirrored picture it is -x."""
    source, view = egg_source(orbit(0.4, 0.1)), egg_view(orbit(-0.3, 0.05), 64)
    image, mask = warped(source.mirrored(), view.camera, view.depth.nan_to_num(3.3))
    x, y, z = (view.image[0] + 0.1).unbind(0)  # egg_view's colours are places, less 0.1
    expected = torch.stack([-x, y, z]) - 0.1
    trusted = mask[0, 0] > 0.99
    assert trusted.sum() > 0.6 * view.mask.sum()
    assert (image[0] - expected).abs().amax(dim=0)[trusted].median() < 2e-3
    assert (image[0] - view.image[0]).abs().amax(dim=0)[trusted].median() > 0.05, "mirrored, not the photo"


def test_a_mirrored_source_shows_the_mirrored_points():
    source = any_source()
    mirror = source.mirrored()
    assert mirror.camera.yaw.item() == pytest.approx(-0.45, abs=1e-6)
    assert mirror.camera.pitch.item() == pytest.approx(0.1, abs=1e-6)

    def points(seen: Source) -> Tensor:
        origins, directions = seen.camera.rays(SIDE)
        return (origins + directions * seen.depth.flatten(1)[..., None]).unflatten(1, (SIDE, SIDE))

    assert torch.allclose(points(mirror), points(source).flip(2) * torch.tensor([-1.0, 1, 1]), atol=1e-5)
    assert torch.equal(mirror.image[..., 0], source.image[..., -1])
    assert torch.equal(mirror.face[..., 3, 2], source.face[..., 3, -3])


def test_mirroring_twice_is_the_identity():
    source = any_source()
    again = source.mirrored().mirrored()
    for name in ("image", "depth", "face"):
        assert torch.equal(getattr(again, name), getattr(source, name))
    assert torch.allclose(again.camera.label(), source.camera.label(), atol=1e-6)
    assert torch.equal(mirrored(mirrored(source.image)), source.image)


def test_nothing_outside_the_face_or_hidden_is_trusted():
    """M_t is eq. 8, a yes or no, times the face mask warped along; here with one half of the picture a face."""
    source = any_source()
    half = torch.zeros(1, 1, SIDE, SIDE)
    half[..., : SIDE // 2] = 1
    source = replace(source, depth=torch.full_like(source.depth, 2.55), face=half)
    view, depth = orbit(0.55, 0.05), torch.full((1, 1, SIDE, SIDE), 2.55)
    _, mask = warped(source, view, depth, tolerance=0.02)
    uv, distance = pixels_in_view(view, depth, source.camera)
    u = uv[0, :, 0].reshape(SIDE, SIDE)
    seen = visible(uv, distance, source.depth, 0.02)[0, 0]
    assert (mask[0, 0][u > 0.5 + 0.5 / SIDE] == 0).all()
    inside = (u < 0.5 - 0.5 / SIDE) & seen
    assert inside.sum() > 30 and torch.allclose(mask[0, 0][inside], torch.ones(int(inside.sum())))
    assert (~seen).any() and (mask[0, 0][~seen] == 0).all()
    assert warped(replace(source, face=torch.zeros_like(half)), view, depth, tolerance=9.0)[1].max() == 0


def test_what_differs_in_depth_by_the_tolerance_is_not_trusted():
    source = any_source()
    source = replace(source, face=torch.ones_like(source.face))
    for difference in (0.04, -0.04):
        moved = source.depth + difference
        assert warped(source, source.camera, moved, tolerance=0.05)[1].min() > 0.99
        assert warped(source, source.camera, moved, tolerance=0.03)[1].max() == 0


def test_several_views_are_warped_each_by_itself():
    source, views = any_source(), orbit(torch.tensor([0.3, 0.45, 0.6]), torch.tensor([0.0, 0.1, 0.2]))
    depth = 2.5 + 0.02 * torch.rand(3, 1, SIDE, SIDE, generator=rng(5))
    together = warped(source, views, depth)
    for place in range(3):
        alone = warped(source, views[place], depth[place : place + 1])
        assert all(torch.allclose(a[place : place + 1], b) for a, b in zip(together, alone, strict=True))


def test_taking_depth_along_the_ray_for_depth_along_the_axis_is_the_released_codes_error():
    """Then all of a pixel's points lie too far by its ray's slant: by 0.037 in the corners at 2.7."""
    u, v = torch.meshgrid((torch.arange(SIDE) + 0.5) / SIDE, (torch.arange(SIDE) + 0.5) / SIDE, indexing="xy")
    focal = VIEW.intrinsics[0, 0, 0]
    slant = (1 + ((u - 0.5) ** 2 + (v - 0.5) ** 2) / focal**2).sqrt()
    source = any_source()
    view, depth = orbit(0.3, 0.0), source.depth.flip(-2)
    released = warped(source, view, depth, warp_depth="ray_as_axis")
    by_hand = warped(replace(source, depth=source.depth * slant), view, depth * slant)
    right = warped(source, view, depth)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(released, by_hand, strict=True))
    assert (released[0] - right[0]).abs().max() > 0.01
    plane = depth_along_ray(orbit(0.0, 0.0), torch.full((1, 1, 999, 999), 2.7))
    assert (plane.max() - 2.7).item() == pytest.approx(0.037, abs=1e-3)


# -------------------------------------------------------------------- neighbouring views
def test_neighbours_are_turned_about_the_worlds_origin():
    """R' = R_y(yaw) R_x(pitch) R, and the position likewise: so the distance stays, and the head stays in the middle."""
    start = orbit(0.3, -0.2)
    turned = neighbours(start, 5, rng(), 0.2, 0.1)
    draws = torch.rand(2, 5, generator=rng()) * 2 - 1
    for place, (yaw, pitch) in enumerate(zip(0.2 * draws[0].double(), 0.1 * draws[1].double(), strict=True)):
        about_y = torch.tensor(
            [[yaw.cos(), 0, yaw.sin()], [0, 1, 0], [-yaw.sin(), 0, yaw.cos()]], dtype=torch.float64
        )
        about_x = torch.tensor(
            [[1, 0, 0], [0, pitch.cos(), pitch.sin()], [0, -pitch.sin(), pitch.cos()]], dtype=torch.float64
        )
        turn = (about_y @ about_x).float()
        assert torch.allclose(turned.rotation[place], turn @ start.rotation[0], atol=1e-6)
        assert torch.allclose(turned.position[place], turn @ start.position[0], atol=1e-5)
    assert torch.allclose(turned.position.norm(dim=1), start.position.norm(dim=1), atol=1e-5)
    assert torch.equal(turned.intrinsics, start.intrinsics.expand(5, 3, 3))
    uv, _ = turned.project(torch.zeros(5, 1, 3))
    assert torch.allclose(uv, torch.full((5, 1, 2), 0.5), atol=1e-5)


def test_neighbours_of_the_front_go_to_both_sides_and_up_and_down_as_far_as_told():
    """From the front the angles are yaw and pitch: positive yaw is at +x, positive pitch above."""
    turned = neighbours(orbit(0.0, 0.0), 400, rng(), 0.2, 0.1)
    draws = torch.rand(2, 400, generator=rng()) * 2 - 1
    assert torch.allclose(turned.yaw, 0.2 * draws[0], atol=1e-5)
    assert torch.allclose(turned.pitch, 0.1 * draws[1], atol=1e-5)
    assert torch.equal(turned.position[:, 0] > 0, draws[0] > 0)
    assert torch.equal(turned.position[:, 1] > 0, draws[1] > 0)
    for angle, limit in ((turned.yaw, 0.2), (turned.pitch, 0.1)):
        assert -limit <= angle.min() < -0.95 * limit and 0.95 * limit < angle.max() <= limit


def test_neighbours_within_no_range_are_the_view_itself():
    assert torch.allclose(neighbours(VIEW, 3, rng(), 0.0, 0.0).label(), VIEW.label().expand(3, 25), atol=1e-6)


def test_the_forms_of_the_neighbours_range():
    yaws = torch.linspace(0, 1.4, 30).tolist()
    assert {neighbour_range(yaw, "fixed") for yaw in yaws} == {0.2}
    assert {neighbour_range(yaw, "none") for yaw in yaws} == {0.0}
    narrowing = [neighbour_range(yaw, "narrowing") for yaw in yaws]
    assert narrowing == sorted(narrowing, reverse=True)
    assert [neighbour_range(yaw, "narrowing") for yaw in (0.0, 0.7)] == pytest.approx(
        [0.384, 0.083], abs=6e-4
    )
    assert neighbour_range(-0.5, "narrowing") == neighbour_range(0.5, "narrowing")
    widening = [neighbour_range(yaw, "lambda_m", fixed=0.3) for yaw in yaws]
    assert widening == pytest.approx([0.3 * mirror_weight(yaw).item() for yaw in yaws])
    assert widening[0] == 0 and max(widening) <= 0.3
    with pytest.raises(ValueError, match="fixed, narrowing, lambda_m or none; got 'wide'"):
        neighbour_range(0.3, "wide")


# -------------------------------------------------------------------- eq. 9 and 10
def pictures(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=rng(seed)) * 2 - 1


def test_adjacent_views_are_compared_under_the_mask(face):
    rendered, source = pictures(0), pictures(1)
    loss = adjacent_loss(rendered, source, face, PERCEPTUAL)
    assert torch.allclose(loss, PERCEPTUAL(rendered * face, source * face))
    elsewhere = rendered + (1 - face) * pictures(2)
    assert torch.equal(adjacent_loss(elsewhere, source, face, PERCEPTUAL), loss)
    assert not torch.allclose(adjacent_loss(rendered + 0.1 * face, source, face, PERCEPTUAL), loss)
    assert adjacent_loss(rendered, source, torch.zeros_like(face), PERCEPTUAL).tolist() == [0, 0]


def slow_symmetry(rendered: Tensor, warp: Tensor, mask: Tensor, boxes, parts, size: int) -> Tensor:
    """The sum of eq. 10, part by part, of pictures enlarged to 256 pixels."""
    rendered, warp = (resize(mask * x, 256) for x in (rendered, warp))
    total = torch.zeros(len(rendered))
    for part in parts:
        total = total + contextual_loss(
            FEATURES(regions(rendered, boxes[part], size)), FEATURES(regions(warp, boxes[part], size))
        )
    return total


def test_parts_of_the_face_are_compared_under_the_mask(face, landmarks):
    rendered, warp, boxes = pictures(0), pictures(1), part_boxes(landmarks[None])
    for parts in (("nose",), tuple(PARTS_OF_FACE)):
        loss = symmetry_loss(FEATURES, rendered, warp, face, boxes, parts, size=8, scale=0.3)
        assert torch.allclose(loss, 0.3 * slow_symmetry(rendered, warp, face, boxes, parts, 8), rtol=1e-4)
    elsewhere = rendered + (1 - face) * pictures(2)
    assert torch.equal(symmetry_loss(FEATURES, elsewhere, warp, face, boxes, parts, 8, 0.3), loss)
    same = symmetry_loss(FEATURES, warp, warp, torch.ones_like(face), boxes, parts, 8, 0.3)
    assert same.max() < 0.2 * loss.min()


def test_landmarks_lie_on_the_surface_and_their_boxes_follow_the_mirrored_ones():
    """On the egg, whose surface is known; from the mirrored camera they stand where the mirrored photo has them."""
    source = egg_source(orbit(0.3, 0.1), side=128)
    spread = torch.rand(1, 468, 2, generator=rng()) * torch.tensor([0.2, 0.3]) + torch.tensor([0.42, 0.33])
    points = on_surface(source, spread)
    assert torch.allclose((points / HALF_AXES).norm(dim=-1), torch.ones(1, 468), atol=5e-3)
    assert torch.allclose(source.camera.project(points)[0], spread, atol=1e-4)
    mirrored_points = refinement(None, source, spread).mirrored_landmarks
    in_mirror = source.camera.mirror().project(mirrored_points)[0]
    assert torch.allclose(in_mirror, torch.stack([1 - spread[..., 0], spread[..., 1]], dim=-1), atol=1e-4)
    assert torch.equal(mirrored_points, points * torch.tensor([-1.0, 1, 1]))


# -------------------------------------------------------------------- eq. 11 and 12
def refinement(rough, source: Source, landmarks_uv: Tensor, seed: int = 0, **changes) -> Refinement:
    settings = {
        "perceptual": PERCEPTUAL,
        "features": FEATURES,
        "rng": rng(seed),
        "lam_adj": 0.1,
        "lam_sym": 0.05,
        "lam_depth": 1.0,
        "symmetry": "parts",
        "parts": tuple(PARTS_OF_FACE),
        "part_size": 8,
        "contextual_scale": 0.1,
        "neighbour_range": 0.2,
        "depth_views": "symmetric",
        "warp_depth": "ray",
        "authentic_mask": True,
        "tolerance": 0.05,
        "interval": 1,
        "views": 1,
    }
    return Refinement(rough, source, landmarks_uv, **settings | changes)


@pytest.fixture(scope="module")
def rough(generator, code):
    """The head of stage 1, near the photo."""
    return Inversion(code + 0.1, generator, VIEW).still()


@pytest.fixture(scope="module")
def source(rough, target, face) -> Source:
    depth = F.interpolate(rough.render(VIEW).depth, (SIDE, SIDE), mode="bilinear")
    return Source(target, VIEW, depth, face)


@pytest.fixture(scope="module")
def tuned(generator) -> EG3D:
    """A generator on its way: all weights moved a little."""
    moved = copy.deepcopy(generator)
    draws = rng(7)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.03 * weight.std(correction=0) * torch.randn(weight.shape, generator=draws))
    return moved


def terms_by_hand(loss: Refinement, tuned: EG3D, views: dict[str, Camera]) -> dict[str, Tensor]:
    """Eq. 6 and 9-11 of views one by one, each a mean over its views."""
    w = loss.rough.w_plus

    def view(generator: EG3D, camera: Camera):
        return generator.synthesize(w, camera)

    photo = view(tuned, VIEW).image
    terms = {
        "l2": (photo - loss.source.image).square().mean(),
        "lpips": PERCEPTUAL(photo, loss.source.image)[0],
    }
    values: dict[str, list[Tensor]] = {}
    for name, source in (("adjacent", loss.source), ("symmetry", loss.source.mirrored())):
        for camera in views.get(name, []):
            if name == "symmetry" and loss.symmetry == "whole":
                continue
            rough_depth = view(loss.rough.generator, camera).depth
            warp, mask = warped(
                source, camera, rough_depth, tolerance=loss.tolerance, warp_depth=loss.warp_depth
            )
            mask = mask if loss.authentic_mask else torch.ones_like(mask)
            image = view(tuned, camera).image
            if name == "adjacent":
                value = PERCEPTUAL(image * mask, warp * mask)[0]
            else:
                boxes = part_boxes(camera.project(loss.mirrored_landmarks)[0])
                value = (
                    loss.contextual_scale
                    * slow_symmetry(image, warp, mask, boxes, loss.parts, loss.part_size)[0]
                )
            values.setdefault(name, []).append(value)
    for camera in views.get("depth", []):
        difference = view(tuned, camera).depth - view(loss.rough.generator, camera).depth
        values.setdefault("depth", []).append(difference.square().mean())
    return terms | {name: torch.stack(found).mean() for name, found in values.items()}


SWITCHES = {
    "all": ({}, {"adjacent", "symmetry", "depth"}),
    "four views": ({"views": 4}, {"adjacent", "symmetry", "depth"}),
    "every third step": ({"interval": 3, "views": 2}, {"adjacent", "symmetry", "depth"}),
    "weights": ({"lam_adj": 2.0, "lam_sym": 3.0, "lam_depth": 50.0}, {"adjacent", "symmetry", "depth"}),
    "no adjacent": ({"lam_adj": 0.0}, {"symmetry", "depth"}),
    "no symmetry": ({"lam_sym": 0.0}, {"adjacent", "depth"}),
    "symmetry none": ({"symmetry": "none"}, {"adjacent", "depth"}),
    "no depth": ({"lam_depth": 0.0}, {"adjacent", "symmetry"}),
    "no mask": ({"authentic_mask": False}, {"adjacent", "symmetry", "depth"}),
    "narrow": ({"neighbour_range": 0.0}, {"adjacent", "symmetry", "depth"}),
    "as released": (
        {"parts": RELEASED["parts"], "warp_depth": "ray_as_axis", "depth_views": "one_sided"},
        {"adjacent", "symmetry", "depth"},
    ),
    "literal scale": ({"contextual_scale": 1.0}, {"adjacent", "symmetry", "depth"}),
    "strict": ({"tolerance": 0.005}, {"adjacent", "symmetry", "depth"}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_objective_is_the_weighted_sum_of_its_terms(rough, source, landmarks, tuned, switch):
    """Eq. 12 at one step, and of each switch exactly its effect: the terms are computed again, view by view."""
    changes, auxiliary = SWITCHES[switch]
    with torch.no_grad():
        loss = refinement(rough, source, landmarks[None], seed=3, **changes)
        found = loss(tuned, 0)
        views = refinement(rough, source, landmarks[None], seed=3, **changes).cameras()
        expected = terms_by_hand(loss, tuned, views)
    assert set(found.losses) == {"l2", "lpips"} | auxiliary == set(expected)
    for name, value in expected.items():
        assert found.losses[name].item() == pytest.approx(value.item(), rel=2e-3), name
        assert value.item() > 1e-6, f"{name} must weigh something here"
    assert all(len(views[name]) == loss.views for name in auxiliary)
    lam = {"adjacent": 0.1, "symmetry": 0.05, "depth": 1.0}
    lam |= {name: changes.get(f"lam_{name[:3]}", lam[name]) for name in ("adjacent", "symmetry")}
    lam["depth"] = changes.get("lam_depth", lam["depth"])
    total = expected["l2"] + expected["lpips"]
    total = total + changes.get("interval", 1) * sum(lam[name] * expected[name] for name in auxiliary)
    assert found.total.item() == pytest.approx(total.item(), rel=1e-3)
    assert torch.allclose(found.image, tuned.synthesize(rough.w_plus, VIEW).image, atol=1e-5)


def test_without_the_authentic_mask_all_of_the_warp_counts(rough, source, landmarks, tuned):
    """The terms, and only they, change; the switch is not without effect."""
    found = {
        mask: refinement(rough, source, landmarks[None], seed=3, authentic_mask=mask)(tuned, 0).losses
        for mask in (True, False)
    }
    for name in ("adjacent", "symmetry"):
        assert abs(found[True][name].item() - found[False][name].item()) > 1e-2 * found[True][name].item()
    for name in ("l2", "lpips", "depth"):
        assert torch.equal(found[True][name], found[False][name])


def test_the_whole_mirrored_photo_is_fitted_like_the_photo(rough, source, landmarks, tuned):
    """Figure 9: L2 + LPIPS at pi_m in place of eq. 10."""
    settings = {"symmetry": "whole", "lam_adj": 0.0, "lam_depth": 0.0, "interval": 2}
    with torch.no_grad():
        found = refinement(rough, source, landmarks[None], **settings)(tuned, 4)
        photo, mirror = (tuned.synthesize(rough.w_plus, camera).image for camera in (VIEW, VIEW.mirror()))

        def fit(image: Tensor, picture: Tensor) -> float:
            return ((image - picture).square().mean() + PERCEPTUAL(image, picture)[0]).item()

    expected = fit(photo, source.image) + 2 * fit(mirror, source.image.flip(-1))
    assert found.total.item() == pytest.approx(expected, rel=1e-4)


def test_between_intervals_only_the_photo_counts(rough, source, landmarks, tuned):
    loss = refinement(rough, source, landmarks[None], interval=3)
    for step, full in enumerate([True, False, False, True]):
        found = loss(tuned, step)
        assert set(found.losses) == {"l2", "lpips"} | ({"adjacent", "symmetry", "depth"} if full else set())
        if not full:
            assert found.total.item() == pytest.approx((found.losses["l2"] + found.losses["lpips"]).item())


def test_views_are_drawn_anew_at_every_step_about_the_photo_and_about_its_mirror(rough, source, landmarks):
    loss = refinement(rough, source, landmarks[None], views=50)
    first, second = loss.cameras(), loss.cameras()
    for name, centre in (("adjacent", 0.45), ("symmetry", -0.45)):
        assert not torch.equal(first[name].label(), second[name].label())
        yaw = first[name].yaw
        assert (yaw - centre).abs().max() < 0.23
        assert yaw.min() < centre - 0.1 and yaw.max() > centre + 0.1
        pitch = first[name].pitch
        assert (pitch - 0.1).abs().max() < 0.12
    assert torch.equal(first["original"].label(), VIEW.label())


def test_only_the_tuned_generator_gets_gradients(rough, source, landmarks, tuned):
    moving = copy.deepcopy(tuned).requires_grad_(True)
    refinement(rough, source, landmarks[None])(moving, 0).total.sum().backward()
    assert not any(weight.grad is not None for weight in rough.generator.parameters())
    moved = {name for name, weight in moving.named_parameters() if weight.grad is not None}
    assert any(name.startswith("backbone.synthesis") for name in moved)
    assert any(name.startswith("superresolution") for name in moved)
    assert not any(name.startswith("backbone.mapping") for name in moved), "the code is given, not mapped"


def test_gradient_of_equation_12_by_finite_differences(rough, source, landmarks, tuned):
    """Along random directions of all weights at once. Coarse samples only, for the reason given at eq. 5."""
    exact, perceptual = copy.deepcopy(tuned).double().requires_grad_(True), DoubleFeatures()
    camera = VIEW.to(dtype=torch.float64)
    base = Inversion(
        rough.w_plus.double(), copy.deepcopy(rough.generator).double().requires_grad_(False), camera
    )
    precise = Source(source.image.double(), camera, source.depth.double(), source.face.double())
    loss = refinement(
        base.still(), precise, landmarks[None].double(), perceptual=perceptual, features=perceptual.target
    )
    views = refinement(rough, source, landmarks[None]).cameras()
    loss.cameras = lambda: {name: view.to(dtype=torch.float64) for name, view in views.items()}
    loss.lam |= {"adjacent": 1.0, "symmetry": 1.0}
    sampling = early_sampling(exact, "coarse", 1.0, 0.0)

    weights = list(exact.parameters())
    gradients = torch.autograd.grad(loss(exact, 0, **sampling).total.sum(), weights, allow_unused=True)
    for seed in range(2):
        draws = rng(seed)
        direction = [torch.randn(weight.shape, generator=draws, dtype=torch.float64) for weight in weights]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
        values = []
        with torch.no_grad():
            for step in (1e-7, -2e-7):  # ahead, then behind
                for weight, d in zip(weights, direction, strict=True):
                    weight.add_(step * d)
                values.append(loss(exact, 0, **sampling).total.item())
        assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-4)


# -------------------------------------------------------------------- the method
@pytest.fixture(scope="module")
def invert(generator, target, landmarks, face):
    """SPI in a second."""

    def run(picture: Tensor = target, camera: Camera = VIEW, model: EG3D = generator, **changes) -> Inversion:
        settings = {
            "masks": {"face": face},
            "landmarks": landmarks,
            "latent_steps": 3,
            "steps": 3,
            "part_size": 8,
            "perceptual": PERCEPTUAL,
            "features": FEATURES,
            "progress": False,
        }
        return invert_spi(model, picture, camera, **settings | changes)

    return run


def test_history_has_the_terms_of_both_stages(invert):
    found = invert()
    stage_1 = {"latent_lpips", "latent_mirror_lpips", "latent_loss"}
    stage_2 = {"loss", "l2", "lpips", "adjacent", "symmetry", "depth"}
    assert stage_1 | stage_2 <= set(found.history)
    assert all(len(values) == 3 for values in found.history.values())
    assert all(math.isfinite(value) for values in found.history.values() for value in values)
    assert found.extras["steps_taken"] == 3
    assert found.extras["lambda_m"] == pytest.approx(mirror_weight(0.45).item())
    assert not any(p.requires_grad or p.grad is not None for p in found.generator.parameters())


def test_stage_2_begins_where_stage_1_ends(invert, generator, target):
    """steps=0 is stage 1 alone, its code that of the whole method; depth has not moved at the first step."""
    stage_1, whole = invert(steps=0), invert()
    assert stage_1.generator is generator and not any(name == "loss" for name in stage_1.history)
    assert torch.equal(stage_1.w_plus, whole.w_plus)
    photo = stage_1.render().image
    assert whole.history["lpips"][0] == pytest.approx(PERCEPTUAL(photo, target).item(), rel=1e-4)
    assert whole.history["depth"][0] < 1e-9 < whole.history["depth"][-1]
    rough = rough_inversion(
        generator,
        target,
        VIEW,
        lambda_m=mirror_weight(VIEW.yaw.item()).item(),
        perceptual=PERCEPTUAL,
        steps=3,
        progress=False,
    )
    assert torch.equal(rough.w_plus, stage_1.w_plus)


def test_the_same_seed_gives_the_same_result_and_leaves_all_else_alone(invert, generator):
    before, state = fingerprint(generator.state_dict()), torch.get_rng_state()
    first, again, other = (invert(seed=seed) for seed in (3, 3, 4))
    assert first.history == again.history != other.history
    assert torch.equal(first.w_plus, again.w_plus)
    assert fingerprint(first.generator.state_dict()) == fingerprint(again.generator.state_dict())
    assert fingerprint(generator.state_dict()) == before != fingerprint(first.generator.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


METHOD_SWITCHES = [
    ({"mirror_form": "none"}, {"latent_mirror_lpips", "latent_mirror_l2"}),
    ({"lam_adj": 0.0}, {"adjacent"}),
    ({"lam_sym": 0.0}, {"symmetry"}),
    ({"symmetry": "none"}, {"symmetry"}),
    ({"symmetry": "whole"}, {"symmetry"}),
    ({"lam_depth": 0.0}, {"depth"}),
    ({"gate_symmetry": True}, set()),
    ({"mirror_form": "none", "gate_symmetry": True}, {"latent_mirror_lpips", "latent_mirror_l2", "symmetry"}),
    ({"neighbour_form": "none"}, set()),
    ({"initial": "code"}, "latent"),
]


@pytest.mark.parametrize(("changes", "gone"), METHOD_SWITCHES)
def test_a_switch_takes_out_its_term_and_no_other(invert, code, changes, gone):
    complete = set(invert().history)
    changes = {name: code if value == "code" else value for name, value in changes.items()}
    gone = {name for name in complete if name.startswith("latent_")} if gone == "latent" else gone
    assert complete - set(invert(**changes).history) == gone


def test_a_frontal_face_has_no_second_view(invert, generator, code):
    """lambda_m is 0: the mirrored photo is left out of stage 1, and of stage 2 as well where that is asked for."""
    front = generator.camera(0.05, 0.0)
    picture = generator.synthesize(code, front).image.clamp(-1, 1)
    plain, gated = (invert(picture, front, gate_symmetry=gate) for gate in (False, True))
    assert plain.extras["lambda_m"] == gated.extras["lambda_m"] == 0
    assert "latent_mirror_lpips" not in plain.history
    assert "symmetry" in plain.history and "symmetry" not in gated.history


def test_initial_stands_for_stage_1(invert, code, generator):
    for initial in (code, Inversion(code, generator, VIEW)):
        found = invert(initial=initial)
        assert torch.equal(found.w_plus, code)
        assert found.history["lpips"][0] < 1e-3


def test_the_settings_of_the_released_code_run(invert):
    """Auxiliary terms at every fourth step; stopped before the step at which LPIPS has come to its threshold."""
    settings = dict(RELEASED) | {"steps": 6}
    found = invert(**settings | {"lpips_threshold": 0.0})
    assert [len(found.history[name]) for name in ("l2", "adjacent", "symmetry", "depth")] == [6, 2, 2, 2]
    assert found.extras["lambda_m"] == pytest.approx(mirror_weight(0.45, "code").item())
    stopped = invert(**settings | {"lpips_threshold": found.history["lpips"][0]})
    assert stopped.extras["steps_taken"] == 0 and len(stopped.history["lpips"]) == 1


def test_a_killed_run_goes_on_and_ends_the_same(invert, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, state):
        if step == 2 and "adjacent" in state.losses:
            raise Killed

    straight = invert(steps=4)
    with pytest.raises(Killed):
        invert(steps=4, checkpoints=Checkpoints(tmp_path, every=1), callback=kill)
    resumed = invert(steps=4, checkpoints=Checkpoints(tmp_path, every=1), callback=lambda *_: None)
    assert resumed.history == straight.history
    assert fingerprint(resumed.generator.state_dict()) == fingerprint(straight.generator.state_dict())


def test_callback_sees_every_step_of_stage_2(invert, target):
    seen = []
    found = invert(callback=lambda step, state: seen.append((step, state)))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [state.losses["adjacent"] for _, state in seen] == found.history["adjacent"]
    assert seen[0][1].image.shape == target.shape and not seen[0][1].image.requires_grad


@pytest.mark.parametrize("early", ["half_rays", "coarse"])
def test_early_steps_may_be_cheaper(invert, early):
    found = invert(early=early, early_until=0.5)
    assert found.history["loss"] != invert().history["loss"]
    assert found.history["depth"][0] < 1e-9, "both depths are of the same sampling"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks": torch.zeros(68, 2)}, r"landmarks \[468.*got [\[(]68, 2"),
        ({"masks": {"face": torch.ones(1, 1, 8, 8)}}, r"\(1, 1, 16, 16\); got \(1, 1, 8, 8\)"),
        ({"symmetry": "half"}, "parts, whole or none; got 'half'"),
        ({"mirror_form": "linear"}, "got 'linear'"),
        ({"neighbour_form": "wide"}, "got 'wide'"),
        ({"parts": ("ear",)}, r"some of the parts.*got \['ear'\]"),
        ({"depth_views": "left"}, "got 'left'"),
        ({"views": 0}, "views must be 1 or more; got 0"),
        ({"interval": 0}, "interval must be 1 or more; got 0"),
        ({"latent_steps": 0}, "latent_steps must be 1 or more; got 0"),
        ({"steps": -1}, "must be 1 or more; got -1"),
    ],
)
def test_bad_settings_are_refused(invert, changes, message):
    with pytest.raises(ValueError, match=message):
        invert(**changes)


def test_bad_pictures_and_cameras_are_refused(invert, target):
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\)"):
        invert(target[..., :8, :8])
    with pytest.raises(ValueError, match="one camera; got 2"):
        invert(camera=Camera.cat([VIEW, VIEW]))


def test_it_warns_of_what_the_generator_does_not_know(invert, generator, code):
    camera = generator.camera(0.9, 0.0)
    picture = generator.synthesize(code, camera).image.clamp(-1, 1)
    with pytest.warns(AssumptionWarning, match=r"yaw \+0\.90"):
        invert(picture, camera, steps=1, latent_steps=1)


def test_it_warns_of_halves_that_differ_which_pti_does_not_mind(invert, generator):
    front = generator.camera(0.0, 0.0)
    noise = 0.2 * torch.randn(1, 3, SIDE, SIDE, generator=rng())
    picture = (torch.linspace(-1.4, 1.4, SIDE) + noise).clamp(-1, 1)  # dark on one side, light on the other
    where = {"landmarks": canonical_landmarks(front)[0], "perceptual": PERCEPTUAL, "progress": False}

    def warned(method, **counts) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", AssumptionWarning)
            method(picture, front, **where, **counts)
        return [str(one.message) for one in found if issubclass(one.category, AssumptionWarning)]

    assert any("mirror image" in text for text in warned(invert, latent_steps=1, steps=1))
    pti = warned(lambda *a, **k: invert_pti(generator, *a, **k), pivot_steps=1, steps=1)
    assert not any("mirror image" in text for text in pti)


# -------------------------------------------------------------------- what it is for
class SymmetricHeads(EG3D):
    """Heads whose left is their right, and otherwise those of the tiny generator."""

    def planes(self, *arguments, **options) -> Tensor:
        """Planes (x, y) and (x, z) have x along their columns, (z, x) along their rows."""
        planes = super().planes(*arguments, **options)
        swapped = torch.cat([planes[:, :2].flip(-1), planes[:, 2:].flip(-2)], dim=1)
        return (planes + swapped) / 2


def even_generator() -> EG3D:
    """The tiny generator, whose super-resolution treats left and right alike."""
    generator = tiny_generator()
    with torch.no_grad():
        for name, weight in generator.superresolution.named_parameters():
            if name.endswith("weight") and weight.ndim == 4:
                weight.copy_((weight + weight.flip(-1)) / 2)
    return generator


def test_the_unseen_side_of_a_turned_face_is_better_than_without_the_prior():
    """A symmetric head, which the generator makes but does not prefer, seen from 29 degrees: SPI against PTI."""
    generator = even_generator()
    truth = copy.deepcopy(generator)
    truth.__class__ = SymmetricHeads
    head = Inversion(truth.map(torch.randn(1, 16, generator=rng()), orbit(0.0, 0.0)), truth, VIEW)
    seen, unseen = orbit(0.5, 0.0), orbit(torch.tensor([-0.3, -0.5]), 0.0)
    target = head.render(seen).image.clamp(-1, 1)
    both = {"perceptual": PERCEPTUAL, "learning_rate": 3e-3, "steps": 15, "progress": False}
    quick = {"learning_rate": 0.03}
    pti = invert_pti(
        generator, target, seen, pivot_space="wplus", pivot_steps=60, pivot_settings=quick, **both
    )
    ours = invert_spi(
        generator,
        target,
        seen,
        masks={"face": torch.ones(1, 1, SIDE, SIDE)},
        landmarks=canonical_landmarks(seen)[0],
        latent_steps=60,
        latent_settings=quick,
        features=FEATURES,
        part_size=8,
        **both,
    )
    expected = head.render(unseen)
    from_the_other_side = head.render(unseen.mirror()).image.flip(-1)
    assert torch.allclose(from_the_other_side, expected.image, atol=1e-4), "or else the head is not symmetric"

    def errors(found: Inversion) -> tuple[float, float, float]:
        views = found.render(unseen)
        return (
            PERCEPTUAL(views.image, expected.image).mean().item(),
            (views.image - expected.image).square().mean().item(),
            (views.depth - expected.depth).abs().mean().item(),
        )

    for with_prior, without, least in zip(errors(ours), errors(pti), (0.85, 0.85, 0.95), strict=True):
        assert with_prior < least * without
