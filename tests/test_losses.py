import math

import pytest
import torch

from lib.losses import (
    density_loss,
    discriminator_loss,
    generator_loss,
    l1_loss,
    l2_loss,
    masked_depth_loss,
    noise_regulariser,
    r1_loss,
    recentre_noise,
    spread_loss,
    total_variation_loss,
)
from tests.tiny_generator import RandomFeatures


def images(seed: int, batch: int = 2, size: int = 5) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_image_losses_are_means_over_each_image():
    a, b = images(0), images(1)
    for i in range(2):
        difference = a[i].numpy() - b[i].numpy()
        assert l1_loss(a, b)[i].item() == pytest.approx(abs(difference).mean(), rel=1e-5)
        assert l2_loss(a, b)[i].item() == pytest.approx((difference**2).mean(), rel=1e-5)


def test_mse_of_the_extremes_is_four():
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert l2_loss(black, white).item() == 4


def test_depth_loss_counts_known_pixels_only():
    depth = torch.full((2, 1, 2, 2), 2.7, requires_grad=True)
    target = torch.full((2, 1, 2, 2), math.nan)
    target[0, 0, 0, 0], target[0, 0, 1, 1], target[1, 0, 0, 1] = 2.6, 2.7, 2.5
    loss = masked_depth_loss(depth, target)
    loss.backward()
    assert loss.item() == pytest.approx((0.1 + 0.0 + 0.2) / 3, abs=1e-6)
    expected = torch.zeros(2, 1, 2, 2)
    expected[0, 0, 0, 0] = expected[1, 0, 0, 1] = 1 / 3  # too far: less depth would be better
    assert torch.allclose(depth.grad, expected)


def test_depth_loss_of_nothing_known_is_zero():
    depth = torch.ones(1, 1, 3, 3, requires_grad=True)
    loss = masked_depth_loss(depth, torch.full_like(depth, math.nan).detach())
    loss.backward()
    assert loss.item() == 0
    assert depth.grad.eq(0).all()


# ----------------------------------------------------------------------- adversarial
SCORES = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64)


def test_adversarial_losses_are_cross_entropies_of_the_scores():
    for score, loss in zip(SCORES[1:4].tolist(), generator_loss(SCORES)[1:4].tolist(), strict=True):
        assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-score))))
    real, fake = SCORES[1:4], SCORES[1:4].flip(0)
    for r, f, loss in zip(real.tolist(), fake.tolist(), discriminator_loss(real, fake).tolist(), strict=True):
        expected = -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f)))
        assert loss == pytest.approx(expected)


def test_adversarial_losses_pull_where_they_should():
    """The gradient of the generator's does not vanish where the discriminator is sure that it lies."""
    scores = SCORES.clone().requires_grad_()
    (pull,) = torch.autograd.grad(generator_loss(scores).sum(), scores)
    assert pull.tolist() == pytest.approx((torch.sigmoid(SCORES) - 1).tolist())
    assert pull[0] < -0.99
    real, fake = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    up, down = torch.autograd.grad(discriminator_loss(real, fake).sum(), (real, fake))
    assert (up < 0).all()
    assert (down > 0).all()


def test_r1_of_a_quadratic_score():
    """Of sum(a x^2) + sum(b y) the gradients are 2 a x and b."""
    a, b = images(0).double(), images(1, size=3).double()
    x, y = images(2).double().requires_grad_(), images(3, size=3).double().requires_grad_()
    score = (a * x.square()).sum(dim=(1, 2, 3)) + (b * y).sum(dim=(1, 2, 3))
    expected = (2 * a * x).square().sum(dim=(1, 2, 3)) + b.square().sum(dim=(1, 2, 3))
    assert torch.allclose(r1_loss(score, [x, y]), expected)


def test_r1_has_a_gradient_for_what_makes_the_score():
    weight = torch.tensor([1.5, -0.5], dtype=torch.float64, requires_grad=True)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        x = torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64).requires_grad_()
        return r1_loss(torch.tanh(x * weight).sum(dim=1), [x]).sum()

    assert torch.autograd.gradcheck(penalty, weight)


def test_density_loss_is_the_mean_difference_of_the_pairs():
    density = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    loss = density_loss(density, torch.tensor([[3.0, 1.0], [0.0, -1.0]]))
    assert loss.tolist() == [1.5, 0.5]
    loss.sum().backward()
    assert density.grad.tolist() == [[-0.5, 0.5], [0.0, 0.5]]


# ----------------------------------------------------------------------- noise
def slow_noise_regulariser(noise: list[list[float]]) -> float:
    """The same with loops: pixel by pixel, scale by scale."""
    total, size = 0.0, len(noise)
    while True:
        right = sum(noise[i][j] * noise[i][j - 1] for i in range(size) for j in range(size)) / size**2
        below = sum(noise[i][j] * noise[i - 1][j] for i in range(size) for j in range(size)) / size**2
        total += right**2 + below**2
        if size <= 8:
            return total
        size //= 2
        noise = [
            [sum(noise[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 4 for j in range(size)]
            for i in range(size)
        ]


@pytest.mark.parametrize("size", [4, 8, 32])
def test_noise_regulariser_equals_loops(size):
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(size)).double()
    noise = noise + torch.linspace(-1, 1, size)  # a slope: something to punish at every scale
    assert noise_regulariser([noise]).item() == pytest.approx(
        slow_noise_regulariser(noise.tolist()), rel=1e-9
    )


def test_noise_regulariser_adds_maps_and_knows_structure_from_noise():
    white = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    stripes = torch.ones(64, 64)
    stripes[:, 32:] = -1
    assert noise_regulariser([stripes]) > 100 * noise_regulariser([white])
    separate = noise_regulariser([stripes]) + noise_regulariser([white])
    assert torch.allclose(noise_regulariser([stripes, white]), separate)
    assert noise_regulariser([]) == 0


def test_recentred_noise_has_zero_mean_and_unit_rms():
    noise = recentre_noise(torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) * 3 + 5)
    assert noise.mean().item() == pytest.approx(0, abs=1e-6)
    assert noise.square().mean().item() == pytest.approx(1, rel=1e-5)


def test_the_stand_in_for_lpips_is_a_distance():
    features, a, b = RandomFeatures(), images(0), images(1)
    assert features(a, a).eq(0).all()
    assert (features(a, b) > 0).all()
    assert torch.equal(features(a, b), features(a, features.target(b)))


# ----------------------------------------------------------------------- spread of light along rays


def test_light_in_one_place_has_no_spread_and_in_two_half_their_distance():
    depths = torch.tensor([2.0, 2.1, 2.5]).expand(1, 2, 3)
    weights = torch.tensor([[[0.0, 0.7, 0.0], [0.3, 0.0, 0.3]]])
    assert spread_loss(depths, weights).item() == pytest.approx((0 + 0.25) / 2, abs=1e-3)


def test_spread_does_not_depend_on_how_much_light_there_is_nor_on_where():
    rng = torch.Generator().manual_seed(0)
    depths = torch.rand(2, 5, 8, generator=rng).sort(dim=-1).values
    weights = torch.rand(2, 5, 8, generator=rng)
    assert torch.allclose(spread_loss(depths, weights), spread_loss(depths + 3, 0.2 * weights), atol=1e-5)
    assert torch.allclose(2 * spread_loss(depths, weights), spread_loss(2 * depths, weights), atol=1e-4)


def test_spread_of_a_ray_without_light_has_finite_gradients():
    weights = torch.zeros(1, 2, 4, requires_grad=True)
    spread_loss(torch.linspace(2, 3, 4).expand(1, 2, 4), weights).sum().backward()
    assert weights.grad.isfinite().all()


# ----------------------------------------------------------------------- depth from pixel to pixel


def test_total_variation_equals_loops_image_by_image():
    depth = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for image, loss in zip(depth[:, 0].tolist(), total_variation_loss(depth).tolist(), strict=True):
        across = [(image[i][j + 1] - image[i][j]) ** 2 for i in range(4) for j in range(5)]
        down = [(image[i + 1][j] - image[i][j]) ** 2 for i in range(3) for j in range(6)]
        assert loss == pytest.approx(sum(across) / len(across) + sum(down) / len(down))


def test_total_variation_of_a_slope_is_its_squared_steepness_wherever_it_lies():
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    slopes = torch.stack([0.3 * rows - 0.1 * columns + 2.7, 0 * rows + 3])[:, None].requires_grad_()
    loss = total_variation_loss(slopes)
    assert loss.tolist() == pytest.approx([0.3**2 + 0.1**2, 0.0], abs=1e-6)
    loss.sum().backward()
    assert (
        slopes.grad[0, 0, 0, 0] < 0 < slopes.grad[0, 0, 4, 0]
    )  # flatter: the near edge farther, the far one nearer
    assert slopes.grad[0].sum().item() == pytest.approx(0, abs=1e-6)
