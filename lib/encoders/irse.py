"""IR-SE: the residual network with squeeze and excitation of ArcFace (Deng et al., 2019), the body of the convolutional
encoders: pSp, e4e, TriPlaneNet, and the CNN of GOAE's feature alignment.

Modules and parameters carry the names of the released pSp and e4e (input_layer, body.N.res_layer, ...), so that
state dicts in that layout load strictly.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]

GROUP = 8
"""Channels of a group under norm="group"."""


@dataclass(frozen=True)
class IRSEConfig:
    """Sizes of a body. The defaults are those of IR-SE50, as pSp uses it.

    A stage is `units[s]` units of `widths[s]` channels, the first of which halves the resolution.
    norm: "group" normalises each picture alone, for batches too small for statistics over pictures; the released
    networks have "batch".
    """

    in_channels: int = 3
    stem: int = 64  # channels of the first convolution, at the picture's resolution
    units: tuple[int, ...] = (3, 4, 14, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    reduction: int = 16  # squeeze: from C to C / reduction channels
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))  # JSON gives lists
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.units) != len(self.widths) or not self.units or min(self.units) < 1:
            raise ValueError(
                f"units and widths say, stage by stage, how many units (1 or more) of how many channels there are; "
                f"got {self.units} and {self.widths}"
            )
        if min(self.widths) < self.reduction:
            raise ValueError(
                f"no stage may have fewer channels than the reduction {self.reduction}; got {self.widths}"
            )

    @classmethod
    def official(cls, **changes: Any) -> IRSEConfig:
        """IR-SE50: 24 units."""
        return replace(cls(), **changes)

    @classmethod
    def embedded(cls, **changes: Any) -> IRSEConfig:
        """The same structure for pictures of 64 pixels: few units, narrow, normalised picture by picture."""
        small = cls(stem=16, units=(1, 2, 1, 1), widths=(24, 48, 64, 64), reduction=4, norm="group")
        return replace(small, **changes)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Index of the last unit of each stage: 2, 6, 20, 23 for IR-SE50."""
        return tuple(count - 1 for count in accumulate(self.units))


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Normalisation of feature maps, over the batch or over groups of GROUP channels of one picture."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm != "group" or channels % GROUP:
        raise ValueError(
            f"norm is batch, or group for a multiple of {GROUP} channels; got {norm!r} for {channels} channels"
        )
    return nn.GroupNorm(channels // GROUP, channels)


class SqueezeExcitation(nn.Module):
    """Feature maps [B, C, H, W], each channel times a gate in (0, 1) that the means of all channels open (Hu et al.,
    2018)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        return x * gate


class IRSEUnit(nn.Module):
    """Improved residual unit: norm, 3x3, PReLU, 3x3 with the stride, norm, squeeze and excitation; plus the shortcut.

    The shortcut takes every stride-th pixel where the width stays, else it is a 1x1 convolution and a norm.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, norm: Norm = "batch", reduction: int = 16
    ):
        super().__init__()
        self.res_layer = nn.Sequential(
            normalisation(norm, in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            normalisation(norm, channels),
            SqueezeExcitation(channels, reduction),
        )
        if in_channels == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), normalisation(norm, channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRSE(nn.Module):
    """Stem and units. A network with this body inherits it, so that the names of its parameters stay flat."""

    def __init__(self, config: IRSEConfig):
        super().__init__()
        self.stage_ends = config.stage_ends
        self.input_layer = nn.Sequential(
            nn.Conv2d(config.in_channels, config.stem, 3, padding=1, bias=False),
            normalisation(config.norm, config.stem),
            nn.PReLU(config.stem),
        )
        units, width = [], config.stem
        for count, channels in zip(config.units, config.widths, strict=True):
            for i in range(count):
                stride = 2 if i == 0 else 1
                units.append(IRSEUnit(width, channels, stride, config.norm, config.reduction))
                width = channels
        self.body = nn.Sequential(*units)

    def taps(self, image: Tensor, after: Collection[int] | None = None) -> list[Tensor]:
        """Feature maps after the units of these indices, in the order of the units; None: after each stage.

        image: [B, in_channels, R, R]. Stage s gives maps [B, widths[s], R / 2^(s+1), R / 2^(s+1)].
        """
        wanted = self.stage_ends if after is None else after
        x, found = self.input_layer(image), []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in wanted:
                found.append(x)
        return found
