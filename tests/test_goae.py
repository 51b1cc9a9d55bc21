"""GOAE's equations, one by one, against closed forms and slow twins."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib.cameras import orbit
from lib.encoders import goae
from lib.encoders.feature_space import features_at, planes_of
from lib.encoders.goae import (
    Reconstruction,
    background_depth_loss,
    canonical_codes,
    canonical_discriminator_loss,
    canonical_loss,
    feature_change_loss,
    inverted,
    mix,
    modulated,
    offset_loss,
    reconstruction_losses,
    refine,
    residual,
)
from lib.encoders.latent_discriminator import LatentDiscriminator, LatentDiscriminatorConfig
from lib.encoders.occlusion import visible_points
from lib.generators import EG3D
from lib.images import resize
from tests.tiny_encoders import (
    AFA,
    LAYERS,
    W_DIM,
    assert_unchanged,
    deep_generator,
    embedding,
    network,
    state_of,
)
from tests.tiny_generator import RandomFeatures

VIEWS = orbit(torch.tensor([0.3, -0.4]), torch.tensor([0.1, 0.0]))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return deep_generator()


@pytest.fixture(scope="module")
def w_plus(generator) -> torch.Tensor:
    return generator.w_mean + 0.3 * random(2, LAYERS, W_DIM)


@pytest.fixture(scope="module")
def photos(generator) -> torch.Tensor:
    """Of other heads."""
    codes = generator.map(random(2, generator.z_dim, seed=3), generator.frontal_camera())
    return generator.synthesize(codes, VIEWS).image


def slope(function, x: torch.Tensor, direction: torch.Tensor, step: float = 1e-4) -> float:
    """Of a function of x along a direction, by differences; x in double precision."""
    return (function(x + step * direction) - function(x - step * direction)).item() / (2 * step)


# ----------------------------------------------------------------------- eq. 1
class Planted(nn.Module):
    """An encoder that says the same whatever it sees, and remembers what that was."""

    def __init__(self, offsets: torch.Tensor, resolution: int = 32):
        super().__init__()
        self.config, self.offsets, self.seen = SimpleNamespace(resolution=resolution), offsets, []

    def forward(self, image, stage):
        self.seen.append((image, stage))
        return self.offsets


def test_codes_are_the_mean_and_what_the_encoder_adds(generator, photos):
    """Eq. 1 and 11: w+ = w_avg + offsets."""
    encoder = Planted(random(2, LAYERS, W_DIM))
    found = inverted(generator, encoder, photos, 2)
    for layer in range(LAYERS):
        assert torch.equal(found[:, layer], encoder.offsets[:, layer] + generator.w_mean)
    ((image, stage),) = encoder.seen
    assert torch.equal(image, resize(photos, 32)) and stage == 2
    inverted(generator, encoder, photos)
    assert encoder.seen[-1][1] is None


# ----------------------------------------------------------------------- eq. 2 and 3
def test_canonical_codes_are_mapped_under_the_frontal_camera(generator):
    found = canonical_codes(generator, 5, torch.Generator().manual_seed(7))
    z = random(5, generator.z_dim, seed=7)
    assert torch.equal(found, generator.map(z, generator.frontal_camera())[:, 0])
    assert not torch.allclose(found, generator.map(z, generator.camera(0.5))[:, 0], atol=1e-3)
    assert torch.equal(found, canonical_codes(generator, 5, torch.Generator().manual_seed(7)))
    assert not torch.equal(found, canonical_codes(generator, 5, torch.Generator().manual_seed(8)))


class Plane(nn.Module):
    """The simplest discriminator: score = a . w + b."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            nn.Parameter(random(W_DIM, seed=4).double()),
            nn.Parameter(torch.tensor(0.3).double()),
        )

    def forward(self, w):
        return w @ self.a + self.b


def test_the_discriminator_of_codes_against_its_closed_form():
    """Eq. 2 with D = sigmoid(score), term by term; each row of w+ is judged alone; |grad D| of a plane is |a|."""
    judge, gamma = Plane(), 7.0
    canonical, w_plus = random(6, W_DIM).double(), random(2, 3, W_DIM, seed=1).double()
    found = canonical_discriminator_loss(judge, canonical, w_plus, gamma)
    real = sum(-math.log(torch.sigmoid(judge(w)).item()) for w in canonical) / 6
    fake = sum(-math.log(1 - torch.sigmoid(judge(w)).item()) for code in w_plus for w in code) / 6
    assert found["discriminator"].item() == pytest.approx(real + fake, rel=1e-9)
    assert found["r1"].item() == pytest.approx(gamma / 2 * judge.a.square().sum().item(), rel=1e-9)
    assert canonical_discriminator_loss(judge, canonical, w_plus, 0.0).keys() == {"discriminator"}


def test_sides_of_different_number_weigh_the_same():
    judge, canonical, w_plus = Plane(), random(6, W_DIM).double(), random(2, 3, W_DIM, seed=1).double()
    once = canonical_discriminator_loss(judge, canonical, w_plus)
    twice = canonical_discriminator_loss(judge, canonical, w_plus.repeat(4, 1, 1))
    for name, value in once.items():
        assert twice[name].item() == pytest.approx(value.item(), rel=1e-9)


def test_the_discriminator_is_taught_and_the_encoder_is_not():
    judge = LatentDiscriminator(LatentDiscriminatorConfig(W_DIM, hidden=16))
    canonical, w_plus = random(6, W_DIM).requires_grad_(), random(2, 3, W_DIM, seed=1).requires_grad_()
    losses = canonical_discriminator_loss(judge, canonical, w_plus)
    sum(losses.values()).backward()
    assert w_plus.grad is None and canonical.grad is None
    assert all(p.grad.abs().max() > 0 for name, p in judge.named_parameters() if "weight" in name)


def test_the_penalty_of_a_curved_discriminator_is_its_squared_slope():
    """R1 of eq. 2 by differences, direction by direction."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = LatentDiscriminator(LatentDiscriminatorConfig(W_DIM, hidden=16)).double()
    canonical = random(3, W_DIM).double()
    found = canonical_discriminator_loss(judge, canonical, random(1, 2, W_DIM).double(), 10.0)["r1"].item()
    squares = [
        slope(lambda w: judge(w[None])[0], w, axis, 1e-6) ** 2
        for w in canonical
        for axis in torch.eye(W_DIM).double()
    ]
    assert found == pytest.approx(10.0 / 2 * sum(squares) / 3, rel=1e-5)


def test_the_encoder_is_asked_for_codes_that_are_taken_for_canonical():
    """Eq. 3: -log D, the mean over rows; down its slope every row's score grows."""
    judge, w_plus = Plane(), random(2, 3, W_DIM).double().requires_grad_()
    loss = canonical_loss(judge, w_plus)
    expected = sum(-math.log(torch.sigmoid(judge(w)).item()) for code in w_plus for w in code) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, w_plus)
    assert (judge(w_plus - gradient) > judge(w_plus)).all()
    direction = random(2, 3, W_DIM, seed=2).double()
    found = slope(lambda w: canonical_loss(judge, w), w_plus.detach(), direction)
    assert (gradient * direction).sum().item() == pytest.approx(found, rel=1e-6)


# ----------------------------------------------------------------------- eq. 4
def test_background_depth_against_a_loop():
    depth, average = 2.7 + 0.1 * random(2, 1, 5, 5), 2.9
    background = random(2, 1, 5, 5, seed=1) > 0
    found = background_depth_loss(depth, background, average)
    for b in range(2):
        squares = [
            (depth[b, 0, i, j].item() - average) ** 2
            for i in range(5)
            for j in range(5)
            if background[b, 0, i, j]
        ]
        assert found[b].item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_background_depth_pulls_the_background_alone_and_towards_the_average():
    depth = (2.7 + 0.1 * random(1, 1, 5, 5)).requires_grad_()
    background = random(1, 1, 5, 5, seed=1) > 0
    background_depth_loss(depth, background, 2.9).sum().backward()
    expected = 2 * (depth - 2.9) / background.sum()
    assert torch.allclose(depth.grad, expected.where(background, 0), atol=1e-6)


def test_no_background_has_no_error():
    depth = torch.full((1, 1, 5, 5), 2.7, requires_grad=True)
    loss = background_depth_loss(depth, torch.zeros(1, 1, 5, 5, dtype=torch.bool), 2.9)
    loss.sum().backward()
    assert loss.item() == 0 and depth.grad.abs().max() == 0


# ----------------------------------------------------------------------- eq. 5 and 13
def test_reconstruction_is_weighed_term_by_term():
    image, target = random(2, 3, 16, 16) / 3, random(2, 3, 16, 16, seed=1) / 3
    perceptual = RandomFeatures()
    found = reconstruction_losses(image, target, perceptual, embedding, Reconstruction(2.0, 3.0, 5.0))
    cosine = [
        torch.dot(a, b).item() for a, b in zip(embedding(image), embedding(target), strict=True)
    ]  # unit length
    assert found["l2"].item() == pytest.approx(2 * ((image - target) ** 2).mean().item(), rel=1e-5)
    assert found["lpips"].item() == pytest.approx(3 * perceptual(image, target).mean().item(), rel=1e-5)
    assert found["identity"].item() == pytest.approx(5 * (1 - sum(cosine) / 2), rel=1e-4)
    assert reconstruction_losses(image, target, perceptual).keys() == {"l2", "lpips"}


def test_reconstruction_has_the_papers_weights_and_leaves_the_photo_alone():
    assert goae.WEIGHTS == (1.0, 0.8, 0.25)
    image, target = (random(1, 3, 16, 16, seed=seed).requires_grad_() for seed in (0, 1))
    known = reconstruction_losses(image, target, RandomFeatures(), embedding)["identity"]
    known.backward()
    assert image.grad.abs().max() > 0 and target.grad is None


# ----------------------------------------------------------------------- appendix A: L_w+
def test_offsets_against_a_loop_and_by_hand():
    w_plus = random(3, 4, W_DIM)
    for code, value in zip(w_plus, offset_loss(w_plus), strict=True):
        squares = sum((code[i] - code[0]).square().sum().item() for i in range(1, 4))
        assert value.item() == pytest.approx(math.sqrt(squares), rel=1e-5)
    planted = torch.ones(1, 4, W_DIM)
    planted[0, 2, :2] += torch.tensor([3.0, 4.0])
    assert offset_loss(planted).item() == pytest.approx(5.0, rel=1e-5)


def test_one_code_for_all_layers_has_no_offset_and_a_finite_slope():
    w_plus = random(1, 1, W_DIM).repeat(2, LAYERS, 1).requires_grad_()
    loss = offset_loss(w_plus)
    loss.sum().backward()
    assert loss.max() < 1e-5 and w_plus.grad.isfinite().all()


# ----------------------------------------------------------------------- eq. 7
def test_the_residual_is_what_the_rendering_lacks():
    photo, rendered = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.2)
    assert torch.allclose(residual(photo, rendered), torch.full((1, 3, 2, 2), 0.3))


def test_features_are_scaled_and_then_shifted():
    features, gamma, beta = (random(2, 3, 4, 4, seed=seed) for seed in range(3))
    found = modulated(features, gamma, beta)
    for index in ((0, 0, 0, 0), (1, 2, 3, 1), (0, 1, 2, 3)):
        expected = gamma[index].item() * features[index].item() + beta[index].item()
        assert found[index].item() == pytest.approx(expected, abs=1e-6)


def test_change_of_features_is_measured_whatever_their_size():
    features = random(2, 3, 4, 4)
    refined = features + torch.tensor([0.5, -2.0])[:, None, None, None]
    assert feature_change_loss(refined, features).tolist() == pytest.approx([0.5, 2.0], rel=1e-5)
    larger, more = (x.repeat(1, 1, 3, 3) for x in (features, refined))
    assert feature_change_loss(more, larger).tolist() == pytest.approx([0.5, 2.0], rel=1e-5)
    same = features.clone().requires_grad_()
    feature_change_loss(same, features).sum().backward()
    assert same.grad.isfinite().all()


class PlantedAlignment(nn.Module):
    """Says a given scale and shift, and remembers what it was shown."""

    def __init__(self, gamma: float, beta: float):
        super().__init__()
        self.config, self.seen = SimpleNamespace(resolution=32), []
        self.gamma, self.beta = nn.Parameter(torch.tensor(gamma)), nn.Parameter(torch.tensor(beta))

    def forward(self, delta, features):
        self.seen.append((delta, features))
        return self.gamma.expand_as(features), self.beta.expand_as(features)


def test_refined_features_are_those_of_equation_7(generator, photos, w_plus):
    alignment = PlantedAlignment(1.5, -0.2)
    found = refine(generator, alignment, photos, w_plus, VIEWS)
    features = features_at(generator, w_plus, 32)
    view = generator.synthesize(w_plus, VIEWS)
    assert torch.equal(found.features.values, features.values)
    assert torch.allclose(found.refined.values, 1.5 * features.values - 0.2, atol=1e-6)
    assert torch.equal(found.refined.added, features.added)
    assert torch.equal(found.planes, generator.planes(w_plus))
    assert torch.equal(found.refined_planes, planes_of(generator, found.refined, w_plus))
    assert torch.equal(found.plain.image, view.image) and torch.equal(found.plain.depth, view.depth)
    ((delta, shown),) = alignment.seen
    assert torch.allclose(delta, resize(photos - view.image, 32), atol=1e-6)
    assert torch.equal(shown, features.values)


def test_a_scale_of_one_and_no_shift_change_nothing(generator, photos, w_plus):
    found = refine(generator, PlantedAlignment(1.0, 0.0), photos, w_plus, VIEWS)
    assert torch.allclose(found.refined_planes, generator.planes(w_plus), atol=1e-5)


def test_released_weights_see_the_negative(generator, photos, w_plus):
    straight, negative = PlantedAlignment(1.0, 0.0), PlantedAlignment(1.0, 0.0)
    refine(generator, straight, photos, w_plus, VIEWS)
    refine(generator, negative, photos, w_plus, VIEWS, sign=-1.0)
    assert torch.allclose(straight.seen[0][0], -negative.seen[0][0], atol=1e-6)


def test_another_level_can_be_refined(generator, photos, w_plus):
    found = refine(generator, PlantedAlignment(2.0, 0.0), photos, w_plus, VIEWS, resolution=8)
    assert found.refined.values.shape[-1] == 8
    assert torch.allclose(found.refined.values, 2 * features_at(generator, w_plus, 8).values, atol=1e-5)


def test_gradients_of_refining_reach_the_alignment_alone(generator, photos, w_plus):
    before = state_of(generator)
    alignment = network("alignment", AFA)
    code, image = w_plus.clone().requires_grad_(), photos.clone().requires_grad_()
    found = refine(generator, alignment, image, code, VIEWS)
    generator.render(found.refined_planes, w_plus, VIEWS).image.square().sum().backward()
    moved = {
        name for name, p in alignment.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert {"conv_gamma.weight", "conv_beta.weight", "query_layer.weight", "input_layer.0.weight"} <= moved
    assert (
        code.grad is None
        and image.grad is None
        and not found.plain.image.requires_grad
        and not found.planes.requires_grad
    )
    assert all(p.grad is None for p in generator.parameters())
    assert_unchanged(generator, before)


# ----------------------------------------------------------------------- eq. 8, 9, 12
@pytest.fixture(scope="module")
def found(generator, photos, w_plus) -> goae.Refined:
    return refine(generator, network("alignment", AFA).requires_grad_(False), photos, w_plus, VIEWS)


def test_without_a_mix_all_is_refined(generator, found):
    assert mix(generator, found, VIEWS, "none") is found.refined_planes


def test_every_texel_of_a_mix_is_refined_or_plain(generator, found):
    mixed = mix(generator, found, VIEWS)
    refined, plain = (
        (mixed == planes).all(dim=2) for planes in (found.refined_planes, found.planes)
    )  # [B, 3, S, S]
    assert (refined ^ plain).all()
    assert (refined.flatten(2).any(dim=2) & plain.flatten(2).any(dim=2)).all()


def test_what_the_photo_sees_is_refined_and_what_it_cannot_see_is_plain(generator, found):
    """By the fields themselves: at the surface that V of eq. 8 is, and behind it where nothing visible projects to."""
    mixed = mix(generator, found, VIEWS)
    seen = visible_points(found.plain.depth, VIEWS, goae.RAYS_A_TEXEL * mixed.shape[-1])
    at_surface = generator.sample(mixed, seen)
    for value, expected in zip(at_surface, generator.sample(found.refined_planes, seen), strict=True):
        assert torch.allclose(value, expected, atol=1e-4)
    plain = (mixed == found.planes).all(dim=2)
    size, box = mixed.shape[-1], generator.config.rendering.box_warp
    grid = torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(0)) * 0.9 - 0.45
    hidden = torch.stack([projects_to(plain[b], grid[0], generator, size, box) for b in range(2)])
    assert (hidden.sum(dim=1) > 20).all()
    for b in range(2):
        points = grid[:, hidden[b]]
        expected = generator.sample(found.planes[b : b + 1], points)
        for value, same in zip(generator.sample(mixed[b : b + 1], points), expected, strict=True):
            assert torch.allclose(value, same, atol=1e-4)


def projects_to(plain, points, generator, size: int, box: float) -> torch.Tensor:
    """Which points read plain texels on all three planes; a slow loop over the four corners of each lookup."""
    kept = torch.ones(len(points), dtype=torch.bool)
    for plane in range(3):
        axes = torch.linalg.inv(generator.plane_axes[plane])
        u, v = ((points @ axes)[:, :2] * size / box + (size - 1) / 2).unbind(1)
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = (
                    (u.floor().long() + dx).clamp(0, size - 1),
                    (v.floor().long() + dy).clamp(0, size - 1),
                )
                kept &= plain[plane, row, column]
    return kept


def test_the_mask_is_that_of_the_codes_own_head(generator, found):
    """Other refined features give other planes, and the same mask."""
    other = found._replace(refined_planes=found.refined_planes + 1)
    where = [(mix(generator, some, VIEWS) == found.planes).all(dim=2) for some in (found, other)]
    assert torch.equal(*where)


def test_another_camera_sees_other_texels(generator, found):
    seen = [(mix(generator, found, views) == found.planes) for views in (VIEWS, VIEWS.mirror())]
    assert not torch.equal(*seen)


def test_the_released_mix_is_soft_on_one_plane_and_by_the_refined_depth(generator, photos, w_plus):
    """Its threshold needs as many rays as the released code has: half as many along a side as texels."""
    rays = copy.deepcopy(generator)
    rays.config = dataclasses.replace(generator.config, neural_resolution=32)
    found = refine(rays, network("alignment", AFA).requires_grad_(False), photos[:1], w_plus[:1], VIEWS[0])
    mixed = mix(rays, found, VIEWS[0], "released")
    assert torch.equal(mixed[:, 1:], found.refined_planes[:, 1:])
    mask = share_of_refined(mixed, found)
    assert mask.min() < 1e-3 and mask.max() > 0.999
    assert ((mask > 0.1) & (mask < 0.9)).float().mean() > 0.01
    assert torch.equal(mixed, mix(rays, found, VIEWS[0], "released")), "nothing is drawn"
    assert not torch.allclose(
        mask, share_of_refined(mix(rays, found, VIEWS[0], "released", 1.0), found), atol=0.1
    )
    other = found._replace(refined_planes=0.5 * found.planes)
    assert not torch.allclose(mask, share_of_refined(mix(rays, other, VIEWS[0], "released"), other), atol=0.1)
    plain = found._replace(plain=found.plain._replace(depth=found.plain.depth + 0.3))
    assert torch.equal(mixed, mix(rays, plain, VIEWS[0], "released"))


def share_of_refined(mixed, found) -> torch.Tensor:
    """T [B, S, S] of plane (x, y), from what a mix is made of."""
    return ((mixed - found.planes)[:, 0] / (found.refined_planes - found.planes)[:, 0]).median(dim=1).values


@pytest.mark.parametrize("form", ["planes", "released"])
def test_gradients_of_a_mix_reach_the_refined_planes_where_they_are_used(generator, found, form):
    planes = found.refined_planes.clone().requires_grad_()
    mixed = mix(generator, found._replace(refined_planes=planes), VIEWS, form)
    mixed.sum().backward()
    used = (mixed != found.planes).all(dim=2)
    assert torch.equal((planes.grad != 0).all(dim=2), used)


def test_heads_of_a_batch_are_mixed_alone(generator, photos, w_plus, found):
    alignment = network("alignment", AFA)
    one = refine(generator, alignment, photos[1:], w_plus[1:], VIEWS[1])
    mixed = mix(generator, one, VIEWS[1])
    assert torch.allclose(mixed, mix(generator, found, VIEWS)[1:], atol=1e-4)
