"""Pictures against pictures: images [B, 3, H, W] in [-1, 1], a value per image."""

from __future__ import annotations

import torch
from torch import Tensor

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
