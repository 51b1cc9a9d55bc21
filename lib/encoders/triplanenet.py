"""TriPlaneNet (Bhattarai et al., WACV 2024): what a code cannot say of a photo is added to the three planes.

The first branch is pSp (`lib.encoders.psp`): photo to code, code to planes. The second, here, looks at the picture
that these planes give, at what it misses of the photo, and at what its mirrored view misses of the mirrored photo,
and says how to change the planes. Neither generator nor first branch are part of it.

Names of parameters are those of the released version 2, the part `triplanenet_encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lib.cameras import Camera
from lib.encoders.irse import IRSE, IRSEConfig, Norm, normalisation
from lib.generators import EG3D
from lib.images import resize
from lib.shapes import Images, LayerStyles, Planes, checked


@dataclass(frozen=True)
class TriPlaneNetConfig:
    """Sizes and settings. The defaults are those of version 2 as released.

    decoder: channels after each of the four steps up.
    upsampling: "nearest" repeats pixels; "shuffle" makes four pixels of four channels, an option of version 2 and the
    only way of version 1.
    mirrored: sees the residual of the mirrored photo too; version 1 does not.
    sees_planes: the last convolutions see the planes that they change; those of version 1 do not.
    plane_scale: planes are divided by it where the network sees them, and what it says is multiplied by it, so that
    both are about 1 inside: how large features of the generator's planes are.
    zero_start: the last convolution begins at zero, so that the first planes are the code's.
    """

    resolution: int = 256  # side of the pictures and of the planes
    plane_channels: int = 32
    decoder: tuple[int, int, int, int] = (512, 256, 128, 64)
    head: int = 96  # channels of the last convolutions, at the planes' resolution
    upsampling: Literal["nearest", "shuffle"] = "nearest"
    mirrored: bool = True
    sees_planes: bool = True
    plane_scale: float = 1.0
    zero_start: bool = False
    body: IRSEConfig = field(default_factory=lambda: IRSEConfig(in_channels=9))  # or a mapping of its values

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", tuple(self.decoder))
        if isinstance(self.body, Mapping):
            object.__setattr__(self, "body", IRSEConfig(**self.body))
        if len(self.decoder) != 4 or len(self.body.units) != 4 or self.body.units[-1] < 2:
            raise ValueError(
                "four steps up follow a body of four stages, the last of two units or more; "
                f"got {self.decoder} and {self.body.units}"
            )
        if self.body.in_channels != self.in_channels:
            raise ValueError(
                f"the body takes {self.in_channels} channels, 9 with the mirrored photo's residual, else 6; "
                f"got {self.body.in_channels}"
            )
        if self.resolution < 16 or self.resolution & (self.resolution - 1):
            raise ValueError(f"the resolution must be a power of two from 16 on; got {self.resolution}")
        if self.upsampling not in ("nearest", "shuffle"):
            raise ValueError(f"upsampling is nearest or shuffle; got {self.upsampling!r}")
        if self.upsampling == "shuffle" and any(width % 4 for width in self.decoder):
            raise ValueError(f"widths that are shuffled are multiples of 4; got {self.decoder}")
        if self.plane_scale <= 0:
            raise ValueError(f"plane_scale is a positive size; got {self.plane_scale}")

    @classmethod
    def official(cls, **changes: Any) -> TriPlaneNetConfig:
        """Version 2, for EG3D's planes of 3 x 32 x 256 x 256."""
        return replace(cls(), **changes)

    @classmethod
    def official_v1(cls, **changes: Any) -> TriPlaneNetConfig:
        """Version 1: neither the mirrored photo nor the planes are seen."""
        first = cls(
            decoder=(512, 384, 256, 96),
            upsampling="shuffle",
            mirrored=False,
            sees_planes=False,
            body=IRSEConfig(in_channels=6),
        )
        return replace(first, **changes)

    @classmethod
    def embedded(cls, **changes: Any) -> TriPlaneNetConfig:
        """For `portraits64`: planes of 3 x 16 x 64 x 64, under 0.35 million parameters."""
        small = cls(
            resolution=64,
            plane_channels=16,
            decoder=(32, 64, 64, 32),
            head=24,
            upsampling="shuffle",
            plane_scale=20.0,
            zero_start=True,
            body=IRSEConfig.embedded(in_channels=9, units=(1, 1, 1, 2), widths=(16, 24, 40, 48)),
        )
        return replace(small, **changes)

    @property
    def in_channels(self) -> int:
        """Channels that enter: the reconstruction and one or two residuals."""
        return 9 if self.mirrored else 6


class DoubleConv(nn.Module):
    """Two 3x3 convolutions of normalised maps; both PReLUs after the second are in the released network."""

    def __init__(self, in_channels: int, channels: int, norm: Norm):
        super().__init__()
        self.double_conv = nn.Sequential(
            normalisation(norm, in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.PReLU(channels),
            nn.PReLU(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Up(nn.Module):
    """One step up of the U-Net: maps enlarged, beside those of the body at that resolution, convolved."""

    def __init__(self, enlarge: nn.Module, in_channels: int, channels: int, norm: Norm):
        super().__init__()
        self.up = enlarge
        self.conv = DoubleConv(in_channels, channels, norm)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.conv(torch.cat([beside, self.up(x)], dim=1))


class TriPlaneNet(IRSE):
    """The second branch: pictures, and the planes of a code, to offsets of these planes."""

    def __init__(self, config: TriPlaneNetConfig):
        super().__init__(config.body)
        self.config = config
        norm, (first, second, third, last) = config.body.norm, config.body.widths
        planes = 3 * config.plane_channels
        d1, d2, d3, d4 = config.decoder
        self.up1 = Up(nn.Identity(), 2 * last, d1, norm)  # the same resolution twice, as released
        self.up2 = Up(self._enlarge(), third + self._enlarged(d1), d2, norm)
        self.up3 = Up(self._enlarge(), second + self._enlarged(d2), d3, norm)
        self.up4 = Up(self._enlarge(), first + self._enlarged(d3), d4, norm)
        self.up5 = self._enlarge()
        entering = self._enlarged(d4) + (planes if config.sees_planes else 0)
        self.final_head_two = nn.Sequential(
            nn.Conv2d(entering, config.head, 3, padding=1),
            nn.PReLU(config.head),
            nn.Conv2d(config.head, config.head, 3, padding=1),
            nn.PReLU(config.head),
            nn.Conv2d(config.head, planes, 1),
        )
        if config.zero_start:
            nn.init.zeros_(self.final_head_two[-1].weight)
            nn.init.zeros_(self.final_head_two[-1].bias)

    @checked
    def forward(
        self,
        reconstruction: Images,
        target: Images,
        mirrored_reconstruction: Images | None = None,
        mirrored_target: Images | None = None,
        planes: Planes | None = None,
    ) -> Planes:
        """Offsets [B, 3, C, R, R] of the planes; pictures are [B, 3, R, R] in [-1, 1].

        reconstruction: what the planes of the first branch's code show from the photo's camera.
        mirrored_reconstruction, mirrored_target: the same head from the mirrored camera, and the mirrored photo.
        planes: [B, 3, C, R, R], those of the code.
        """
        seen = [reconstruction, target - reconstruction]
        if self.config.mirrored:
            if mirrored_reconstruction is None or mirrored_target is None:
                raise ValueError(
                    "this network sees the mirrored photo: give mirrored_reconstruction and mirrored_target"
                )
            seen.append(mirrored_target - mirrored_reconstruction)
        x = self._decoded(torch.cat(seen, dim=1))
        if self.config.sees_planes:
            x = torch.cat([self._scaled(planes), x], dim=1)
        offsets = self.final_head_two(x) * self.config.plane_scale
        return offsets.unflatten(1, (3, self.config.plane_channels))

    def _decoded(self, pictures: Tensor) -> Tensor:
        """The U-Net without its last convolutions: [B, in_channels, R, R] to maps [B, C', R, R]."""
        side, channels = self.config.resolution, self.config.in_channels
        if tuple(pictures.shape[1:]) != (channels, side, side):
            raise ValueError(
                f"expected pictures [B, 3, {side}, {side}], got sides {list(pictures.shape[2:])}: resize them"
            )
        first, second, third, last = self.stage_ends
        units = (first, second, third, third + 1, last)
        *beside, x = self.taps(pictures, units)
        for up, maps in zip((self.up1, self.up2, self.up3, self.up4), reversed(beside), strict=True):
            x = up(x, maps)
        return self.up5(x)

    def _scaled(self, planes: Tensor | None) -> Tensor:
        """The planes as the last convolutions see them: [B, 3 C, R, R]."""
        c = self.config
        expected = (3, c.plane_channels, c.resolution, c.resolution)
        if planes is None or tuple(planes.shape[1:]) != expected:
            raise ValueError(
                f"this network sees the planes that it changes: expected planes [B, {', '.join(map(str, expected))}], "
                f"got {None if planes is None else list(planes.shape)}"
            )
        return planes.flatten(1, 2) / c.plane_scale

    def _enlarge(self) -> nn.Module:
        return nn.PixelShuffle(2) if self.config.upsampling == "shuffle" else nn.Upsample(scale_factor=2)

    def _enlarged(self, channels: int) -> int:
        """Channels that are left of so many by one step of enlargement."""
        return channels // 4 if self.config.upsampling == "shuffle" else channels


def offset_planes(
    generator: EG3D, network: TriPlaneNet, image: Images, w_plus: LayerStyles, camera: Camera
) -> Planes:
    """Planes [B, 3, C, S, S] of codes, plus what the network adds for photos [B, 3, R, R]; cameras [B].

    The code, its planes and its pictures are constants, as released: gradients reach the network alone.
    """
    with torch.no_grad():
        planes = generator.planes(w_plus)
        pictures = [generator.render(planes, w_plus, camera).image, image]
        if network.config.mirrored:
            mirrored_picture = generator.render(planes, w_plus, camera.mirror()).image
            pictures += [mirrored_picture, image.flip(-1)]
        pictures = [resize(picture, network.config.resolution) for picture in pictures]
    return planes + network(*pictures, planes=planes)
