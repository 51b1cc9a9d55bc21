import math

import pytest
import torch

from lib.losses import l1_loss, l2_loss, masked_depth_loss, noise_regulariser, recentre_noise
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
