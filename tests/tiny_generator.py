"""Generators and a perceptual distance for tests of seconds: random weights, the real classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.generators import (
    EG3D,
    EG3DConfig,
    PoseFreeConfig,
    PoseFreeEG3D,
    RenderingSettings,
    SuperResolutionConfig,
)
from lib.perceptual import Features, unit_length

TINY = EG3DConfig(
    z_dim=16,
    w_dim=16,
    plane_resolution=16,
    plane_channels=4,
    channel_base=256,
    channel_max=16,
    decoder_hidden=16,
    feature_channels=4,
    neural_resolution=8,
    camera_pivot=(0.0, 0.0, 0.0),
    rendering=RenderingSettings(8, 4),
    superresolution=SuperResolutionConfig(8, widths=(8, 8), upsample=(False, True)),
)


def tiny_generator(noise_strength: float = 0.0) -> EG3D:
    """16-pixel pictures of something solid, inside [-1, 1], that depend on the latent code."""
    generator = _random(EG3D, TINY)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(noise_strength)
    return _solid(generator).measure_w(n=500)


def tiny_posefree(**changes) -> PoseFreeEG3D:
    """The same of a generator that says its own camera: yaws of some 20 degrees, pitches of some 10."""
    generator = _random(PoseFreeEG3D, PoseFreeConfig.like(TINY, **changes))
    generator.backbone.mapping.affine_layer2.weight.mul_(0.3)
    return _solid(generator).measure_w(n=500)


def _random(kind: type[EG3D], config: EG3DConfig) -> EG3D:
    """A frozen generator of the same random weights in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval().requires_grad_(False)


def _solid(generator: EG3D) -> EG3D:
    """Make of a generator's fog a body, and of its wild colours moderate ones."""
    for name, parameter in generator.named_parameters():
        if name.startswith("superresolution") and "torgb.weight" in name:
            parameter.mul_(0.3)
    density = generator.decoder.net[2]
    density.weight[0] *= 60
    density.bias[0] += 5
    return generator


class RandomFeatures:
    """A perceptual distance: squared difference of random convolutions."""

    def __init__(self):
        self.kernel = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 5

    def target(self, image: Tensor) -> Tensor:
        return F.relu(F.conv2d(image, self.kernel))

    def features(self, image: Tensor) -> Features:
        return Features((unit_length(self.target(image)),))

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        other = self.target(other) if other.shape[1] == 3 else other
        return (self.target(image) - other).square().mean(dim=(1, 2, 3))
