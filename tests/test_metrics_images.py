import math

import numpy as np
import pytest
import skimage.metrics
import torch
import torch.nn.functional as F
from skimage import data

from lib import perceptual
from lib.images import resize, to_tensor
from lib.metrics import images as metrics
from lib.perceptual import LPIPS


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A real photo, [1, 3, 192, 192]."""
    return resize(to_tensor(data.astronaut()), 192)


@pytest.fixture(scope="module")
def pairs(photo) -> tuple[torch.Tensor, torch.Tensor]:
    """The photo beside itself: noisy, blurred, shifted, paler; [4, 3, 192, 192] each."""
    changed = [
        photo + 0.2 * noise(*photo.shape),
        resize(resize(photo, 40), 192),
        photo.roll(2, -1),
        0.6 * photo + 0.2,
    ]
    return torch.cat(changed), photo.expand(4, -1, -1, -1)


# ----------------------------------------------------------------------- pixel by pixel


def test_mse_of_the_extremes_is_four_and_psnr_zero():
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert metrics.mse(black, white).item() == 4
    assert metrics.mae(black, white).item() == 2
    assert metrics.mse_01(black, white).item() == metrics.mae_01(black, white).item() == 1
    assert metrics.psnr(black, white).item() == 0


def test_ranges_are_those_that_the_names_say():
    image, target = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    in_01, target_01 = (image.numpy() + 1) / 2, (target.numpy() + 1) / 2
    for i in range(2):
        difference = in_01[i].astype(float) - target_01[i]
        assert metrics.mse_01(image, target)[i].item() == pytest.approx((difference**2).mean(), rel=1e-5)
        assert metrics.mae_01(image, target)[i].item() == pytest.approx(abs(difference).mean(), rel=1e-5)
        assert metrics.mse(image, target)[i].item() == pytest.approx(4 * (difference**2).mean(), rel=1e-5)
        assert metrics.mae(image, target)[i].item() == pytest.approx(2 * abs(difference).mean(), rel=1e-5)


def test_psnr_is_the_mse_in_decibels():
    image = noise(2, 3, 4, 4)
    offset = torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert metrics.mse(image + offset, image).tolist() == pytest.approx([0.04, 0.0004], rel=1e-3)
    assert metrics.psnr(image + offset, image).tolist() == pytest.approx([20.0, 40.0], abs=0.01)


def test_psnr_is_that_of_scikit_image_and_infinite_at_equality():
    image, target = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    for i in range(2):
        expected = skimage.metrics.peak_signal_noise_ratio(target[i].numpy(), image[i].numpy(), data_range=2)
        assert metrics.psnr(image, target)[i].item() == pytest.approx(expected, rel=1e-5)
    assert metrics.psnr(image, image).eq(math.inf).all()


# ----------------------------------------------------------------------- structure


def ssim_map(
    image: np.ndarray, target: np.ndarray, window: int, peak: float
) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast-structure [H', W'] of one channel [H, W], window by window (Wang et al., 2004)."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    size = tuple(side - window + 1 for side in image.shape)
    luminance, contrast = np.empty(size), np.empty(size)
    for row, column in np.ndindex(size):
        x, y = (a[row : row + window, column : column + window] for a in (image, target))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
        covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
        luminance[row, column] = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        contrast[row, column] = (2 * covariance + c2) / (var_x + var_y + c2)
    return luminance, contrast


def as_doubles(image: torch.Tensor) -> np.ndarray:
    return image[0].double().numpy()


def test_ssim_is_the_formula_window_by_window():
    image, target = noise(1, 3, 13, 14), noise(1, 3, 13, 14, seed=1)
    image = 0.5 * image + 0.5 * target
    padded = [
        np.pad((as_doubles(x) + 1) / 2, ((0, 0), (5, 5), (5, 5)), mode="reflect") for x in (image, target)
    ]
    expected = [np.prod(ssim_map(x, y, 11, 1.0), axis=0) for x, y in zip(*padded, strict=True)]
    assert metrics.ssim(image, target).item() == pytest.approx(np.mean(expected), abs=1e-4)


def test_ssim_is_that_of_scikit_image(pairs):
    """Its map over the whole picture; at the border it repeats the last pixel when it reflects."""
    for image, target in zip(*pairs, strict=True):
        _, expected = skimage.metrics.structural_similarity(
            (image.numpy() + 1) / 2,
            (target.numpy() + 1) / 2,
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        assert metrics.ssim(image[None], target[None]).item() == pytest.approx(expected.mean(), abs=2e-3)


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "pose_opt_ms_ssim", "e3dge_ssim"])
def test_similarities_are_one_at_equality_and_fall_with_noise(photo, name):
    similarity = getattr(metrics, name)
    speckle = torch.randn(photo.shape, generator=torch.Generator().manual_seed(2))
    found = [similarity(photo + level * speckle, photo).item() for level in (0.0, 0.05, 0.2, 0.8)]
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.9


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "pose_opt_ms_ssim", "e3dge_ssim", "mse", "mae"])
def test_each_image_of_a_batch_has_its_own_value(pairs, name):
    metric = getattr(metrics, name)
    image, target = pairs
    alone = [metric(image[i : i + 1], target[i : i + 1]).item() for i in range(4)]
    assert metric(image, target).tolist() == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) == 4


def test_ms_ssim_is_the_product_over_scales_of_its_ssims(pairs):
    """Wang et al., 2003, eq. 7, from full-size maps of a library: contrast at four scales, all of SSIM at the last."""
    image, target = ((x[1:2] + 1) / 2 for x in pairs)
    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        x, y = (F.avg_pool2d(a, 2**scale) for a in (image, target))
        if scale < 4:
            luminance, contrast = metrics._ssim_maps(x, y, 11, 1.0)
            expected *= contrast.mean().item() ** weight
        else:
            padded = (F.pad(a, (5, 5, 5, 5), mode="reflect") for a in (x, y))
            luminance, contrast = metrics._ssim_maps(*padded, 11, 1.0)
            expected *= (luminance * contrast).mean().item() ** weight
    found = metrics.ms_ssim(pairs[0][1:2], pairs[1][1:2], size=None)
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_maps_of_the_direct_formula_are_those_window_by_window():
    image, target = noise(1, 3, 13, 14), noise(1, 3, 13, 14, seed=1)
    for window, peak in ((11, 1.0), (5, 2.0)):
        found = metrics._ssim_maps(image, target, window, peak)
        for channel in range(3):
            expected = ssim_map(as_doubles(image)[channel], as_doubles(target)[channel], window, peak)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours[0, channel].numpy() == pytest.approx(theirs, abs=1e-4)


def test_pose_opt_ms_ssim_averages_channels_last_and_stays_inside():
    """A picture whose channels differ: the mean of the channels' values, each of a picture of that channel alone."""
    target = resize(noise(1, 3, 24, 24), 177)
    image = target + torch.tensor([0.05, 0.2, 0.5]).view(1, 3, 1, 1) * noise(1, 3, 177, 177, seed=1)
    channels = [
        metrics.pose_opt_ms_ssim(*(x[:, c : c + 1].expand(-1, 3, -1, -1) for x in (image, target)), size=None)
        for c in range(3)
    ]
    found = metrics.pose_opt_ms_ssim(image, target, size=None)
    assert found.item() == pytest.approx(torch.stack(channels).mean().item(), abs=1e-5)
    assert found.item() != pytest.approx(metrics.ms_ssim(image, target, size=None).item(), abs=1e-4)


def test_ms_ssim_and_its_dissimilarity_are_opposites(pairs):
    total = metrics.ms_ssim(*pairs) + metrics.ms_ssim_dissimilarity(*pairs)
    assert total.tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("name", ["ms_ssim", "pose_opt_ms_ssim"])
def test_five_scales_need_their_size(name):
    metric = getattr(metrics, name)
    small, other = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1)
    enlarged = [F.interpolate(x, size=(256, 256), mode="bilinear") for x in (small, other)]
    assert metric(small, other).item() == pytest.approx(metric(*enlarged, size=None).item())
    assert metric(noise(1, 3, 176, 176), noise(1, 3, 176, 176), size=None).item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"at least 176 pixels; got \[175, 190\]"):
        metric(noise(1, 3, 175, 190), noise(1, 3, 175, 190), size=None)


def test_e3dge_ssim_is_the_formula_on_the_wrong_range():
    image, target = noise(1, 3, 9, 10), noise(1, 3, 9, 10, seed=1)
    image = 0.7 * image + 0.3 * target
    padded = [np.pad(as_doubles(x), ((0, 0), (2, 2), (2, 2)), mode="reflect") for x in (image, target)]
    ssim = np.mean([np.prod(ssim_map(x, y, 5, 1.0), axis=0) for x, y in zip(*padded, strict=True)])
    assert metrics.e3dge_ssim(image, target).item() == pytest.approx((1 + ssim) / 2, abs=1e-4)


def test_pictures_of_unequal_or_too_small_size_are_refused():
    with pytest.raises(ValueError, match="one shape and at least 11 pixels"):
        metrics.ssim(noise(1, 3, 10, 20), noise(1, 3, 10, 20))
    with pytest.raises(ValueError, match="of one shape"):
        metrics.ssim(noise(2, 3, 20, 20), noise(1, 3, 20, 20))
    with pytest.raises(ValueError, match="at least 5 pixels"):
        metrics.e3dge_ssim(noise(1, 3, 4, 4), noise(1, 3, 4, 4))


# ----------------------------------------------------------------------- LPIPS


class Recorder(LPIPS):
    """Stands for LPIPS: keeps what it was made for and what it was shown."""

    made: list = []  # noqa: RUF012 -- emptied by the fixture

    def __init__(self, net, resolution):
        torch.nn.Module.__init__(self)
        self.net, self.resolution = net, resolution
        Recorder.made.append(self)

    def forward(self, image, other):
        self.shown = image, other
        return (image - other).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(metrics, "LPIPS", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder


def test_lpips_is_that_of_its_net_at_its_size(recorder):
    metrics.make_lpips()
    metrics.make_lpips("vgg", size=None)
    assert [(made.net, made.resolution) for made in recorder.made] == [("alex", 256), ("vgg", None)]


@pytest.mark.parametrize(("resolution", "seen"), [(64, 64), (256, 256), (300, 256), (512, 256)])
def test_lpips_of_spi_shrinks_but_never_enlarges(recorder, resolution, seen):
    image, target = noise(1, 3, resolution, resolution), noise(1, 3, resolution, resolution, seed=1)
    metrics.make_spi_lpips()(image, target)
    (lpips,) = recorder.made
    assert (lpips.net, lpips.resolution) == ("vgg", None)
    for shown, given in zip(lpips.shown, (image, target), strict=True):
        assert torch.equal(shown, F.interpolate(given, size=(seen, seen), mode="bilinear"))


def test_lpips_of_pose_opt_sees_half_the_contrast(recorder):
    image, target = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1)
    metrics.make_pose_opt_lpips()(image, target)
    (lpips,) = recorder.made
    assert (lpips.net, lpips.resolution) == ("alex", None)
    assert torch.equal(lpips.shown[0], image / 2 + 0.5)
    assert torch.equal(lpips.shown[1], target / 2 + 0.5)


def test_lpips_is_made_of_the_trunks_that_there_are():
    assert set(metrics.Net.__args__) == set(perceptual.TRUNK_ASSET)
