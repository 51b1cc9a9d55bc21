"""Losses, one function each, unweighted: a value per image [B] unless the docstring says otherwise.

The perceptual distance is in `lib.perceptual`.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.shapes import FeatureMaps, PerImage, SingleMaps, checked

__all__ = ["l1_loss", "l2_loss", "masked_depth_loss", "noise_regulariser", "recentre_noise"]

Scalar = Float[Tensor, ""]


@checked
def l1_loss(image: FeatureMaps, target: FeatureMaps) -> PerImage:
    """Mean absolute difference of each image."""
    return (image - target).abs().mean(dim=(1, 2, 3))


@checked
def l2_loss(image: FeatureMaps, target: FeatureMaps) -> PerImage:
    """Mean squared difference of each image: MSE in [-1, 1], four times that in [0, 1]."""
    return (image - target).square().mean(dim=(1, 2, 3))


@checked
def masked_depth_loss(depth: SingleMaps, target: SingleMaps) -> Scalar:
    """Mean absolute difference of depth over all pixels whose target is known, that is, not NaN.

    One number for the batch, so that every known pixel counts alike; 0 where none is known.
    """
    known = ~target.isnan()
    difference = (depth - target.where(known, depth)).abs()  # NaN must not reach the gradient
    return difference.sum() / known.sum().clamp_min(1)


# ----------------------------------------------------------------------- noise maps of StyleGAN2's layers
def noise_regulariser(noises: Iterable[Tensor]) -> Tensor | float:
    """Squared autocorrelation of noise maps [H, W] at all scales down to 8 pixels, summed: a single number.

    Karras et al., 2020, appendix D. White noise has none; an optimiser that hides the picture in the noise
    makes a lot of it.
    """
    total = 0.0
    for noise in noises:
        total = total + neighbour_correlation(noise)
        while noise.shape[-1] > 8:
            noise = F.avg_pool2d(noise[None], 2)[0]
            total = total + neighbour_correlation(noise)
    return total


def neighbour_correlation(noise: Tensor) -> Tensor:
    """mean(n * n shifted by one pixel)^2 of a map [H, W], for both directions; the shift wraps around."""
    return sum((noise * noise.roll(1, dims=dim)).mean().square() for dim in (0, 1))


def recentre_noise(noise: Tensor) -> Tensor:
    """The map with zero mean and unit RMS, so that after each step noise is still noise (ibid.)."""
    centred = noise - noise.mean()
    return centred * centred.square().mean().rsqrt()
