"""Metrics, one function each: images in [-1, 1], a value per image."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lib import assets
from lib.losses import l2_loss
from lib.perceptual import LPIPS


def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error [B] of images [B, 3, H, W] in [-1, 1]: four times that of images in [0, 1]."""
    return l2_loss(image, target)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in decibels; the peak is 2, the range of [-1, 1]."""
    return 10 * torch.log10(4 / mse(image, target))


def make_lpips(net: str = "alex") -> LPIPS:
    """The reported LPIPS: pictures of any size are brought to 256 px (bilinear) first."""
    return LPIPS(net, resolution=256)


def depth_correlation(depth: Tensor, target: Tensor) -> Tensor:
    """Pearson correlation [B] of depths [B, 1, H, W] over the pixels whose target is known (not NaN).

    Blind to offset and scale: it asks whether the shape is right. NaN where fewer than two pixels are known.
    """
    values = []
    for one, true in zip(depth, target, strict=True):
        known = ~true.isnan()
        a, b = one[known] - one[known].mean(), true[known] - true[known].mean()
        values.append((a * b).sum() / (a.norm() * b.norm()))
    return torch.stack(values)


def resize_depth(depth: Tensor, resolution: int) -> Tensor:
    """Depths [B, 1, H, W] averaged down over what is known; NaN where less than half of a pixel is known."""
    known = ~depth.isnan()
    share = F.adaptive_avg_pool2d(known.float(), resolution)
    mean = F.adaptive_avg_pool2d(depth.nan_to_num(0.0), resolution) / share.clamp_min(1e-6)
    return mean.where(share >= 0.5, torch.nan)


@torch.inference_mode()
def inception_features(images: Tensor, batch: int = 32) -> np.ndarray:
    """Inception-v3 features [n, 2048] of images [n, 3, H, W] in [-1, 1], brought to 299 px (bilinear)."""
    # TorchScript from an archive whose hash the manifest pins.
    network = torch.jit.load(str(assets.folder("inception") / "default_1.pt"), map_location="cpu").eval()
    features = []
    for start in tqdm(range(0, len(images), batch), desc="inception features"):
        resized = F.interpolate(
            images[start : start + batch], size=(299, 299), mode="bilinear", align_corners=False
        )
        features.append(network(resized.clamp(-1, 1)).flatten(1))
    return torch.cat(features).numpy()


def frechet_distance(features: np.ndarray, other: np.ndarray) -> float:
    """FID of two sets of features: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Heusel et al., 2017, eq. 6).

    Biased upward for small sets: give the counts with every number.
    """
    mean, other_mean = features.mean(0), other.mean(0)
    covariance, other_covariance = np.cov(features, rowvar=False), np.cov(other, rowvar=False)
    # tr (C C')^(1/2) is the sum of the roots of the eigenvalues of C C', which are real and not negative.
    eigenvalues = scipy.linalg.eigvals(covariance @ other_covariance)
    root_trace = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    return float(
        ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * root_trace
    )
