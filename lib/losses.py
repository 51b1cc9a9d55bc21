"""Losses, one function each, unweighted: a value per image [B] unless the docstring says otherwise.

The perceptual distance is in `lib.perceptual`.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.shapes import FeatureMaps, PerImage, PerPoint, PerSample, SingleMaps, checked

__all__ = [
    "density_loss",
    "depth_variation_loss",
    "discriminator_loss",
    "generator_loss",
    "l1_loss",
    "l2_loss",
    "masked_depth_loss",
    "noise_regulariser",
    "pose_agreement_loss",
    "r1_loss",
    "recentre_noise",
    "spread_loss",
    "total_variation_loss",
]

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


@checked
def spread_loss(depths: PerSample, weights: PerSample) -> PerImage:
    """Root mean square distance of the light along a ray from its mean depth: a mean over the rays [B, R, D].

    A surface has none; fog whose mean depth is right has some. The mean of the distances between all pairs of
    samples, of which the distortion of mip-NeRF 360 is one form (Barron et al., 2022, eq. 15), asks for the same.
    """
    light = weights.sum(dim=-1).clamp_min(1e-6)
    mean = (weights * depths).sum(dim=-1) / light
    variance = (weights * (depths - mean[..., None]).square()).sum(dim=-1) / light
    return (variance + 1e-6).sqrt().mean(dim=-1)  # a root has no gradient at 0


@checked
def total_variation_loss(depth: SingleMaps) -> PerImage:
    """Mean squared difference of depth between neighbours: those side by side, plus those one above the other.

    Pose-Opt's regulariser of depth (Ko et al., 2023), of weight 1 in its released code, which leaves out the last row
    and column. Total variation in name only: that has no squares, and would let an edge be.
    """
    across, down = depth.diff(dim=3), depth.diff(dim=2)
    return across.square().mean(dim=(1, 2, 3)) + down.square().mean(dim=(1, 2, 3))


@checked
def depth_variation_loss(depth: SingleMaps) -> PerImage:
    """Mean absolute difference of depth between neighbours side by side, plus that of neighbours one above the other.

    TV(D), Luo & Ghosh, eq. 5, in its anisotropic form (Rudin et al., 1992), of pixels and not of their sum.
    """
    across, down = depth.diff(dim=3), depth.diff(dim=2)
    return across.abs().mean(dim=(1, 2, 3)) + down.abs().mean(dim=(1, 2, 3))


# ----------------------------------------------------------------------- poses that a generator says itself
@checked
def pose_agreement_loss(pose: Float[Tensor, "batch 2"], taught: Float[Tensor, "batch 2"]) -> PerImage:
    """Mean squared difference of two poses (h, v), radians; `taught` has no gradient.

    PoF3D's pose consistency, where the generator's pose is taught by the discriminator's, and its pose supervision,
    where the discriminator's is taught by the generator's (Shi et al., 2023, sec. 3.3).
    """
    return (pose - taught.detach()).square().mean(dim=1)


# ----------------------------------------------------------------------- adversarial training
@checked
def generator_loss(fake: PerImage) -> PerImage:
    """-log sigmoid(score): the generator wants its pictures, of scores `fake`, to be taken for real.

    The non-saturating form of Goodfellow et al., 2014, sec. 3: unlike log(1 - sigmoid), it has a gradient
    where the discriminator is sure.
    """
    return F.softplus(-fake)


@checked
def discriminator_loss(real: PerImage, fake: PerImage) -> PerImage:
    """-log sigmoid(real) - log(1 - sigmoid(fake)): eq. 1 of Goodfellow et al., 2014, with scores as logits."""
    return F.softplus(-real) + F.softplus(fake)


def r1_loss(score: PerImage, inputs: Sequence[Tensor]) -> PerImage:
    """Squared gradient of each score with respect to its inputs [B, ...], summed over all of them.

    Mescheder et al., 2018, eq. 9, without its gamma / 2. Of EG3D's discriminator the inputs are picture and raw
    picture. Scores of one batch influence each other a little, through the minibatch's deviation; as in all
    StyleGANs, the gradient is that of their sum.
    """
    gradients = torch.autograd.grad(score.sum(), list(inputs), create_graph=True)
    return sum(gradient.square().flatten(1).sum(dim=1) for gradient in gradients)


@checked
def density_loss(density: PerPoint, neighbour: PerPoint) -> PerImage:
    """Mean absolute difference of raw density between points and their neighbours (Chan et al., 2022, suppl.).

    Keeps the volume smooth where no ray looks; the pairs of points are the caller's.
    """
    return (density - neighbour).abs().mean(dim=1)


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
