import math

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import peak_signal_noise_ratio

from lib import assets
from lib.metrics import (
    depth_correlation,
    frechet_distance,
    inception_features,
    mse,
    psnr,
    resize_depth,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ----------------------------------------------------------------------- colour


def test_mse_of_the_extremes_is_four_and_psnr_zero():
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert mse(black, white).item() == 4
    assert psnr(black, white).item() == 0


def test_psnr_is_the_mse_in_decibels():
    image = random(2, 3, 4, 4)
    offset = torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert mse(image + offset, image).tolist() == pytest.approx([0.04, 0.0004], rel=1e-3)
    assert psnr(image + offset, image).tolist() == pytest.approx([20.0, 40.0], abs=0.01)


def test_psnr_is_that_of_scikit_image():
    image, target = random(2, 3, 8, 8), random(2, 3, 8, 8, seed=1)
    for i in range(2):
        expected = peak_signal_noise_ratio(target[i].numpy(), image[i].numpy(), data_range=2)
        assert psnr(image, target)[i].item() == pytest.approx(expected, rel=1e-5)


# ----------------------------------------------------------------------- depth


def test_correlation_is_blind_to_offset_and_scale_but_not_to_sign():
    target = random(3, 1, 5, 5)
    depth = torch.stack([3 * target[0] + 2, 5 - 0.1 * target[1], target[2]])
    assert depth_correlation(depth, target).tolist() == pytest.approx([1, -1, 1], abs=1e-5)


def test_correlation_against_numpy_over_the_known_pixels():
    depth, target = random(2, 1, 6, 6), random(2, 1, 6, 6, seed=1)
    target[0, 0, :3] = torch.nan
    target[1, 0, 4, 1] = torch.nan
    for i in range(2):
        known = ~target[i].isnan()
        expected = np.corrcoef(depth[i][known].numpy(), target[i][known].numpy())[0, 1]
        assert depth_correlation(depth, target)[i].item() == pytest.approx(expected, abs=1e-5)


def test_correlation_ignores_what_is_rendered_off_the_face():
    depth, target = random(1, 1, 6, 6), random(1, 1, 6, 6, seed=1)
    target[0, 0, 2] = torch.nan
    before = depth_correlation(depth, target)
    depth[0, 0, 2] = 1e4
    assert torch.equal(depth_correlation(depth, target), before)


@pytest.mark.parametrize("known", [0, 1])
def test_correlation_of_fewer_than_two_pixels_is_nan(known):
    target = torch.full((1, 1, 3, 3), math.nan)
    target.view(-1)[:known] = 1.0
    assert depth_correlation(random(1, 1, 3, 3), target).isnan().all()


def paraboloid(x_curvature: float, y_curvature: float, size: int = 7) -> torch.Tensor:
    """x_curvature x^2 + y_curvature y^2 + a tilt, in pixels."""
    x = torch.arange(float(size))
    return (x_curvature * x**2 + y_curvature * x[:, None] ** 2 + 0.3 * x - 0.7 * x[:, None])[None, None]


def test_resized_depth_is_the_mean_of_what_is_known():
    depth = random(2, 1, 6, 6)
    depth[random(2, 1, 6, 6, seed=1) > 0.1] = torch.nan
    resized = resize_depth(depth, 3)
    assert resized.shape == (2, 1, 3, 3)
    unknown = 0
    for n, row, column in np.ndindex(2, 3, 3):
        block = [depth[n, 0, 2 * row + a, 2 * column + b].item() for a in range(2) for b in range(2)]
        known = [value for value in block if not math.isnan(value)]
        found = resized[n, 0, row, column].item()
        if len(known) >= 2:
            assert found == pytest.approx(sum(known) / len(known), abs=1e-5)
        else:
            unknown += 1
            assert math.isnan(found)
    assert 0 < unknown < 18


# ----------------------------------------------------------------------- FID


def gaussian(mean: np.ndarray, covariance: np.ndarray, n: int = 50, seed: int = 0) -> np.ndarray:
    """Samples [n, d] whose mean and (n - 1) covariance are these, exactly."""
    noise = np.random.default_rng(seed).standard_normal((n, len(mean)))
    white = np.linalg.qr(noise - noise.mean(0))[0] * np.sqrt(n - 1)
    return mean + white @ np.linalg.cholesky(covariance).T


def covariance(seed: int, size: int = 4) -> np.ndarray:
    mixing = np.random.default_rng(seed).standard_normal((size, size))
    return mixing @ mixing.T + 0.1 * np.eye(size)


def test_frechet_distance_of_equal_sets_is_zero():
    features = gaussian(np.arange(4.0), covariance(1))
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_axis_aligned_gaussians():
    """Their roots commute: |m - m'|^2 + sum of (deviation - deviation')^2."""
    a = gaussian(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]))
    b = gaussian(np.array([1.0, 1.0, 0.0]), np.diag([4.0, 4.0, 0.25]), seed=1)
    assert frechet_distance(a, b) == pytest.approx((1 + 4) + (1 + 0 + 6.25))
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_against_the_matrix_square_root():
    a = gaussian(np.zeros(4), covariance(2))
    b = gaussian(np.full(4, 0.5), covariance(3), seed=1)
    root = scipy.linalg.sqrtm(covariance(2) @ covariance(3)).real
    expected = 4 * 0.25 + np.trace(covariance(2) + covariance(3) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_fewer_pictures_than_features():
    """Singular covariances, as those of 2048 features of some hundred pictures."""
    features = np.random.default_rng(4).standard_normal((5, 12))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 2) == pytest.approx(12 * 4, abs=1e-5)


def test_inception_sees_every_picture_once_at_its_own_size(monkeypatch, tmp_path):
    class MeanColour(torch.nn.Module):
        """Stands for the network: features are what was shown."""

        def forward(self, images):
            assert images.shape[1:] == (3, 299, 299)
            return images.mean(dim=(2, 3), keepdim=True)

    monkeypatch.setattr(assets, "folder", lambda name: tmp_path)
    monkeypatch.setattr(torch.jit, "load", lambda path, map_location: MeanColour())
    colours = torch.tensor(
        [[-1.0, 0.0, 1.0], [0.5, 1.5, -3.0], [0.2, 0.3, 0.4], [0.0, 0.1, 0.0], [1.0, 1.0, 1.0]]
    )
    features = inception_features(colours[:, :, None, None].expand(-1, -1, 4, 4), batch=2)
    assert features == pytest.approx(colours.clamp(-1, 1).numpy(), abs=1e-5)
