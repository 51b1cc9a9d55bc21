"""Depth, normals and surfaces against the truth: a value per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
