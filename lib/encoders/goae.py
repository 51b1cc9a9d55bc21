"""GOAE: geometry- and occlusion-aware encoding (Yuan et al., "Make Encoder Great Again in 3D GAN Inversion").

The equations, in the paper's order. Their parts are modules beside this one: the encoder E (`geometry_aware`), the
discriminator of codes (`latent_discriminator`), the canonical background (`background`), feature alignment
(`feature_alignment`), what the photo sees (`occlusion`). Training is in `lib.encoder_training`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.cameras import Camera
from lib.encoders.feature_alignment import FeatureAlignment
from lib.encoders.feature_space import Features, features_at, planes_of
from lib.encoders.latent_discriminator import LatentDiscriminator, judged_codes
from lib.encoders.occlusion import mixed_planes, plane_masks, released_mask, visible_points
from lib.generators import EG3D, Rendering
from lib.images import resize
from lib.losses import generator_loss, l2_loss, r1_loss
from lib.perceptual import Perceptual
from lib.shapes import FeatureMaps, Images, LayerStyles, PerImage, Planes, SingleMaps, checked

Mix = Literal["planes", "released", "none"]
"""Which refined texels are used: the paper's three binary masks, the released code's soft mask of one plane, or all."""

FEATURES_AT = 32
"""Resolution of the block whose features are refined, in the released model and in the embedded one."""

RAYS_A_TEXEL = 2
"""Points of the visible surface along a side of the planes, per texel: fewer would leave holes in the masks."""


# ----------------------------------------------------------------------- eq. 1: the canonical latent space
def inverted(generator: EG3D, encoder: nn.Module, image: Images, stage: int | None = None) -> LayerStyles:
    """w+ = E(I) [B, n_layers, w_dim] (eq. 1); E says offsets from w_avg, the generator's mean w (eq. 11).

    stage: of progressive training; None: all that E has.
    """
    return generator.w_mean + encoder(resize(image, encoder.config.resolution), stage)


# ----------------------------------------------------------------------- eq. 2 to 6, 13, 14: stage 1
def canonical_codes(generator: EG3D, n: int, rng: torch.Generator) -> Float[Tensor, "batch w_dim"]:
    """w_c = mapping(z, p_canonical) [n, w_dim], z ~ N(0, I): members of the canonical latent space (sec. 3.1)."""
    z = torch.randn(n, generator.z_dim, generator=rng, device=rng.device).to(generator.w_mean)
    with torch.no_grad():
        return generator.map(z, generator.frontal_camera())[:, 0]


def canonical_discriminator_loss(
    discriminator: LatentDiscriminator, canonical: Tensor, w_plus: LayerStyles, gamma: float = 10.0
) -> dict[str, Tensor]:
    """L_adv^D = -log D(w_c) - log(1 - D(w_i)) + gamma / 2 |grad D(w_c)|^2 (eq. 2), in its two parts, means.

    canonical: w_c [N, w_dim]. Each row w_i of w_plus is judged alone; E is not taught by this loss.
    """
    real = canonical.detach().requires_grad_(gamma > 0)
    score = discriminator(real)
    rows = discriminator(judged_codes(w_plus.detach()))
    # There are n_layers rows to a code, so each side has a mean of its own.
    losses = {"discriminator": generator_loss(score).mean() + generator_loss(-rows).mean()}
    if gamma > 0:
        losses["r1"] = gamma / 2 * r1_loss(score, [real]).mean()
    return losses


def canonical_loss(discriminator: LatentDiscriminator, w_plus: LayerStyles) -> Tensor:
    """L_adv^E = -log D(w_i) (eq. 3): the mean over all rows of all codes."""
    return generator_loss(discriminator(judged_codes(w_plus))).mean()


@checked
def background_depth_loss(
    depth: SingleMaps, background: Bool[Tensor, "batch 1 height width"], average: float
) -> PerImage:
    """L_BG = |D . M - D_avg . M|_2 (eq. 4), as the mean square over the pixels of the background, world units squared.

    depth: of the inverted head rendered from the front. background: M, true there. average: D_avg. The paper does
    not say whether its norm is a mean: a mean over M does not depend on how much background there is. 0 where none is.
    """
    m = background.to(depth)
    return ((depth - average).square() * m).sum(dim=(1, 2, 3)) / m.sum(dim=(1, 2, 3)).clamp_min(1)


class Reconstruction(NamedTuple):
    """lambda_1 to lambda_3 of eq. 13."""

    l2: float = 1.0
    lpips: float = 0.8
    identity: float = 0.25


WEIGHTS = Reconstruction()


def reconstruction_losses(
    image: Images,
    target: Images,
    perceptual: Perceptual,
    phi: Callable[[Tensor], Tensor] | None = None,
    weights: Reconstruction = WEIGHTS,
) -> dict[str, Tensor]:
    """L_rec = lambda_1 |I' - I|_2 + lambda_2 LPIPS + lambda_3 L_ID (eq. 5, 13), term by term, weighed means.

    phi: faces to embeddings of unit length; None leaves L_ID = 1 - cos out.
    """
    losses = {
        "l2": weights.l2 * l2_loss(image, target).mean(),
        "lpips": weights.lpips * perceptual(image, target).mean(),
    }
    if phi is not None:
        with torch.no_grad():
            known = phi(target)
        losses["identity"] = weights.identity * (1 - (phi(image) * known).sum(dim=1)).mean()
    return losses


def offset_loss(w_plus: LayerStyles) -> PerImage:
    """L_w+ = |(w_1 - w_0, ..., w_n - w_0)|_2 (appendix A): one norm of the stacked differences, a value per code."""
    difference = w_plus[:, 1:] - w_plus[:, :1]
    return (difference.square().sum(dim=(1, 2)) + 1e-12).sqrt()  # a root has no gradient at 0


# ----------------------------------------------------------------------- eq. 7: adaptive feature alignment
def residual(image: Images, rendered: Images) -> Images:
    """Delta I = I - I_w+ (sec. 4.2), of the photo's resolution. The released weights were trained on its negative."""
    return image - rendered


@checked
def modulated(features: FeatureMaps, gamma: FeatureMaps, beta: FeatureMaps) -> FeatureMaps:
    """F* = gamma . F + beta (eq. 7, last line)."""
    return gamma * features + beta


def feature_change_loss(refined: FeatureMaps, features: FeatureMaps) -> PerImage:
    """|Delta F|_2 = |F* - F|_2 (appendix A), as the root of the mean square: it must not grow with the map's size."""
    return ((refined - features).square().mean(dim=(1, 2, 3)) + 1e-12).sqrt()


class Refined(NamedTuple):
    """What stage 2 makes of a code and its photo."""

    w_plus: LayerStyles
    features: Features  # F
    refined: Features  # F*
    plain: Rendering  # I_w+ and its depth, from the input's camera
    planes: Planes  # G(w+)
    refined_planes: Planes  # G(F*)


def refine(
    generator: EG3D,
    alignment: FeatureAlignment,
    image: Images,
    w_plus: LayerStyles,
    camera: Camera,
    resolution: int = FEATURES_AT,
    sign: float = 1.0,
) -> Refined:
    """F* of a code and a photo (sec. 4.2); gradients reach the alignment alone. resolution: of F.

    sign: -1 for released weights, see `residual`.
    """
    w_plus = w_plus.detach()
    with torch.no_grad():
        features = features_at(generator, w_plus, resolution)
        planes = planes_of(generator, features, w_plus)
        plain = generator.render(planes, w_plus, camera)
        delta = sign * residual(image, plain.image)
    gamma, beta = alignment(resize(delta, alignment.config.resolution), features.values)
    refined = features._replace(values=modulated(features.values, gamma, beta))
    return Refined(w_plus, features, refined, plain, planes, planes_of(generator, refined, w_plus))


# ----------------------------------------------------------------------- eq. 8, 9, 12: occlusion-aware mix
def mix(generator: EG3D, found: Refined, camera: Camera, form: Mix = "planes", sigma: float = 1.5) -> Planes:
    """tri-plane_mix = tri-plane_F* . T + tri-plane_w+ . (1 - T) (eq. 9, 12).

    T: where the photo's rays end, V of eq. 8, by the depth of the head that w+ gives: the paper says whose photo, not
    whose depth, and this one does not depend on what it decides. form "released" takes that of F*, as the code does.
    """
    if form == "none":
        return found.refined_planes
    with torch.no_grad():
        size, box = found.planes.shape[-1], generator.config.rendering.box_warp
        if form == "released":
            depth = generator.render(found.refined_planes, found.w_plus, camera).depth
            mask = released_mask(visible_points(depth, camera), size, sigma, box)
        else:
            points = visible_points(found.plain.depth, camera, RAYS_A_TEXEL * size)
            mask = plane_masks(points, generator.plane_axes, box, size)
    return mixed_planes(found.refined_planes, found.planes, mask.to(found.planes))
