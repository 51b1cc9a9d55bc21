"""A generator and a perceptual distance for tests of seconds: random weights, the real classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.generators import EG3D, EG3DConfig, RenderingSettings, SuperResolutionConfig

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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = EG3D(TINY).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.startswith("superresolution") and "torgb.weight" in name:
            parameter.mul_(0.3)
        if name.endswith("noise_strength"):
            parameter.fill_(noise_strength)
    density = generator.decoder.net[2]
    density.weight[0] *= 60
    density.bias[0] += 5
    generator.measure_w(n=500)
    return generator


class RandomFeatures:
    """A perceptual distance: squared difference of random convolutions."""

    def __init__(self):
        self.kernel = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 5

    def target(self, image: Tensor) -> Tensor:
        return F.relu(F.conv2d(image, self.kernel))

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        other = self.target(other) if other.shape[1] == 3 else other
        return (self.target(image) - other).square().mean(dim=(1, 2, 3))
