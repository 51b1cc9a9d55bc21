"""Adaptive augmentation of what a discriminator sees (Karras et al., 2020b, "Training GANs with limited data").

Real and generated pictures are moved, turned, scaled, recoloured and partly covered, each change with a
probability that grows while the discriminator tells real pictures too surely: then it learns them by heart.
Picture and raw picture are channels of one tensor and undergo one change. Pictures are never mirrored, which
would have to change their camera labels too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.shapes import FeatureMaps, checked

REFLECTION = 2
"""PyTorch's number for padding_mode="reflection"."""


@dataclass(frozen=True)
class AugmentationSettings:
    """How far each change goes, where it happens; the values of Karras et al. (2020b), appendix B.

    Theirs has more kinds, and filters before it shrinks. Cutout is theirs too, but off in their default.
    """

    translation: float = 0.125  # standard deviation, in widths of the picture
    rotation: float = np.pi  # up to so many radians to either side, uniform
    scale: float = 0.2  # standard deviation of log2
    brightness: float = 0.2  # standard deviation, added
    contrast: float = 0.5  # standard deviation of log2, about mid grey
    saturation: float = 1.0  # standard deviation of log2
    cutout: float = 0.0  # side of the square that is made grey, in widths of the picture


class Changes(NamedTuple):
    """What is done to each picture of a batch."""

    shift: Tensor  # [B, 2] to the right and down, in widths of the picture
    angle: Tensor  # [B] radians, clockwise as seen
    scale: Tensor  # [B] larger than 1 enlarges
    brightness: Tensor  # [B] added
    contrast: Tensor  # [B] factor on the distance from mid grey
    saturation: Tensor  # [B] factor on the distance from the picture's own grey
    hole: Tensor  # [B, 2] centre of the square that is covered, x and y in [0, 1]
    hole_side: Tensor  # [B] in widths of the picture; 0 for none


def draw_changes(
    rng: np.random.Generator, batch: int, strength: float, settings: AugmentationSettings
) -> Changes:
    """Changes of a batch, each kind with probability `strength` for each picture.

    The same generator state draws the same numbers for any strength: a larger one adds changes.
    """
    s = settings
    happens = rng.random((batch, 7)) < strength
    normal, uniform = rng.standard_normal((batch, 6)), rng.random((batch, 3))
    values = (
        s.translation * normal[:, :2] * happens[:, :1],
        s.rotation * (2 * uniform[:, 0] - 1) * happens[:, 1],
        np.exp2(s.scale * normal[:, 2] * happens[:, 2]),
        s.brightness * normal[:, 3] * happens[:, 3],
        np.exp2(s.contrast * normal[:, 4] * happens[:, 4]),
        np.exp2(s.saturation * normal[:, 5] * happens[:, 5]),
        uniform[:, 1:],
        s.cutout * happens[:, 6],
    )
    return Changes(*(torch.from_numpy(np.asarray(value, np.float32)) for value in values))


@checked
def apply_changes(x: FeatureMaps, changes: Changes) -> FeatureMaps:
    """Pictures [B, 3 n, H, W] changed: every three channels are a picture, and all of a row change alike."""
    changes = Changes(*(value.to(x) for value in changes))
    x = recolour(move(x, changes), changes)
    return x * ~covered(x.shape[-2:], changes)


def move(x: Tensor, changes: Changes) -> Tensor:
    """Turned and scaled about the middle, then shifted; what comes in from outside is the mirrored border."""
    # A pixel at q shows what was at R^-1 (q - shift) / scale, in coordinates from -1 to 1.
    cos, sin = changes.angle.cos() / changes.scale, changes.angle.sin() / changes.scale
    inverse = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=-2)
    offset = -(inverse @ (2 * changes.shift)[..., None])
    grid = F.affine_grid(torch.cat([inverse, offset], dim=-1), list(x.shape), align_corners=False)
    return _Sample.apply(x, grid)


def recolour(x: Tensor, changes: Changes) -> Tensor:
    """Brightness, then contrast about mid grey (0), then saturation."""
    brightness, contrast, saturation = (
        value[:, None, None, None, None]
        for value in (changes.brightness, changes.contrast, changes.saturation)
    )
    pictures = (x.unflatten(1, (-1, 3)) + brightness) * contrast
    grey = pictures.mean(dim=2, keepdim=True)
    return (grey + saturation * (pictures - grey)).flatten(1, 2)


def covered(size: tuple[int, int], changes: Changes) -> Tensor:
    """Where the square lies: [B, 1, H, W] of truth values."""
    distances = []
    for axis, pixels in ((1, size[0]), (0, size[1])):  # y runs along rows
        centres = (torch.arange(pixels, device=changes.hole.device) + 0.5) / pixels
        distances.append((centres - changes.hole[:, axis, None]).abs())
    half = changes.hole_side[:, None] / 2
    return ((distances[0] < half)[:, :, None] & (distances[1] < half)[:, None, :])[:, None]


class _Sample(torch.autograd.Function):
    """grid_sample whose derivative has a derivative, as R1 needs: in the picture, sampling is linear."""

    @staticmethod
    def forward(ctx, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class _Scatter(torch.autograd.Function):
    """The transpose of sampling: pixels are spread over those that they were made of."""

    @staticmethod
    def forward(ctx, y: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = y.new_zeros(shape)  # its size alone matters
        return torch.ops.aten.grid_sampler_2d_backward(y, like, grid, 0, REFLECTION, False, [True, False])[0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(gradient, ctx.saved_tensors[0]), None, None


# ----------------------------------------------------------------------- how much


def adapted_strength(strength: float, sign: float, target: float, images: int, full: int) -> float:
    """The strength after so many images of a mean sign of the real pictures' scores (ibid., sec. 3).

    It goes up where the sign is above the target, down where below, by 1 within `full` images; within [0, 1].
    """
    step = np.sign(sign - target) * images / full
    return float(min(max(strength + step, 0.0), 1.0))


class Strength(nn.Module):
    """The strength of the augmentation and what it is adapted by, as buffers: so that they are saved."""

    def __init__(self, strength: float = 0.0):
        super().__init__()
        self.register_buffer("value", torch.tensor(strength, dtype=torch.float64))
        self.register_buffer("signs", torch.zeros(2, dtype=torch.float64))  # their sum, and how many

    def note(self, sign: Tensor) -> None:
        """Remember the mean sign of a batch of real pictures' scores."""
        self.signs += torch.stack([sign.to(self.signs), torch.ones_like(self.signs[0])])

    def adapt(self, target: float, images: int, full: int) -> None:
        """Adapt to the signs since the last time, of `images` images."""
        total, count = self.signs.tolist()
        self.value.fill_(adapted_strength(self.value.item(), total / count, target, images, full))
        self.signs.zero_()
