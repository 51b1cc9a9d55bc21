"""Sets of pictures against sets of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lib import assets


@dataclass(frozen=True)
class FID:
    """A Frechet distance and what it depends on besides the pictures: how many there were on either side."""

    value: float
    count: int
    other_count: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.count:,} against {self.other_count:,} pictures)"


def fid(images: Tensor, other: Tensor) -> FID:
    """Frechet inception distance of two sets of images [n, 3, H, W] in [-1, 1] (Heusel et al., 2017).

    Sets of different counts cannot be compared: fewer pictures give a higher distance. For many comparisons with one
    set, keep its `inception_features` and use `frechet_distance`.
    """
    distance = frechet_distance(inception_features(images), inception_features(other))
    return FID(distance, len(images), len(other))


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
        resized = resized.clamp(-1, 1).contiguous(memory_format=torch.channels_last)  # half as long on a CPU
        features.append(network(resized).flatten(1))
    return torch.cat(features).numpy()


def frechet_distance(features: np.ndarray, other: np.ndarray) -> float:
    """FID of two sets of features: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Heusel et al., 2017, eq. 6).

    Biased upward for small sets: give the counts with every number (`fid` does).
    """
    for one in (features, other):
        if one.ndim != 2 or len(one) < 2 or one.shape[1] != features.shape[1]:
            raise ValueError(
                "expected two sets of features, [n, d] and [m, d] with at least two rows each; got "
                f"{list(features.shape)} and {list(other.shape)}"
            )
    mean, other_mean = features.mean(0), other.mean(0)
    covariance, other_covariance = np.cov(features, rowvar=False), np.cov(other, rowvar=False)
    # tr (C C')^(1/2) is the sum of the roots of the eigenvalues of C C', which are real and not negative.
    eigenvalues = scipy.linalg.eigvals(covariance @ other_covariance)
    root_trace = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    return float(
        ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * root_trace
    )
