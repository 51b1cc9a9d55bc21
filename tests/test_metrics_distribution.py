import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from lib import assets
from lib.metrics import FID, fid, frechet_distance, inception_features


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


@pytest.mark.parametrize("n", [300, 40])
def test_frechet_distance_is_that_of_torchmetrics(n):
    """With more pictures than features, and with fewer, where the covariances are singular."""
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((64, 64))
    a, b = rng.standard_normal((n, 64)) @ mixing, 1.5 * rng.standard_normal((n + 10, 64)) @ mixing + 1
    moments = [torch.from_numpy(m) for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*moments).item(), rel=1e-5)


def test_frechet_distance_of_fewer_pictures_than_features():
    """Singular covariances, as those of 2048 features of some hundred pictures."""
    features = np.random.default_rng(4).standard_normal((5, 12))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 2) == pytest.approx(12 * 4, abs=1e-5)


def test_fewer_pictures_of_the_same_kind_are_farther_away():
    """The bias for which counts stand beside every distance."""
    rng = np.random.default_rng(6)
    distances = [frechet_distance(*rng.standard_normal((2, n, 32))) for n in (40, 160, 640)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 4 * distances[-1]


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((1, 3), (5, 3)), ((5,), (5,))])
def test_sets_without_a_covariance_of_one_size_are_refused(shapes):
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(*(np.zeros(shape) for shape in shapes))


@pytest.fixture
def mean_colour(monkeypatch, tmp_path):
    """In place of the Inception network: features are the mean colour of what was shown."""

    class MeanColour(torch.nn.Module):
        def forward(self, images):
            assert images.shape[1:] == (3, 299, 299)
            return images.mean(dim=(2, 3), keepdim=True)

    monkeypatch.setattr(assets, "folder", lambda name: tmp_path)
    monkeypatch.setattr(torch.jit, "load", lambda path, map_location: MeanColour())


def test_inception_sees_every_picture_once_at_its_own_size(mean_colour):
    colours = torch.tensor(
        [[-1.0, 0.0, 1.0], [0.5, 1.5, -3.0], [0.2, 0.3, 0.4], [0.0, 0.1, 0.0], [1.0, 1.0, 1.0]]
    )
    features = inception_features(colours[:, :, None, None].expand(-1, -1, 4, 4), batch=2)
    assert features == pytest.approx(colours.clamp(-1, 1).numpy(), abs=1e-5)


def test_fid_says_of_how_many_pictures_it_is(mean_colour):
    colours = torch.rand(7, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    distance = fid(colours.expand(-1, -1, 4, 4), colours[:5].expand(-1, -1, 4, 4) - 0.5)
    expected = frechet_distance(colours[:, :, 0, 0].numpy(), colours[:5, :, 0, 0].numpy() - 0.5)
    assert (distance.count, distance.other_count) == (7, 5)
    assert distance.value == pytest.approx(expected, abs=1e-4)
    assert str(FID(62.837, 1000, 5000)) == "62.84 (1,000 against 5,000 pictures)"
