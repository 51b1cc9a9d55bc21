"""pSp (Richardson et al., 2021, "Encoding in Style") and e4e (Tov et al., 2021, "Designing an Encoder for StyleGAN Image
Manipulation"): a pyramid of features of a photo, and one head for each layer of the generator's code.

e4e is the same network; its first head says one code for all layers, the others say what is added to it, layer by
layer as training progresses. Parameters carry the names of the released encoders, so that state dicts in that layout
load strictly into `PSPConfig.official`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.irse import IRSE, IRSEConfig
from lib.generators.stylegan2 import EqualLinear
from lib.shapes import Images, LayerStyles, PerImage, Styles, checked

SLOPE = 0.01
"""Of the leaky ReLUs in the heads."""


@dataclass(frozen=True)
class PSPConfig:
    """Sizes and settings. The defaults are those of pSp for a generator with 14 layers of 512 numbers.

    levels: how many layers of the code the coarse, the mid and the fine features decide, counted from the first.
    progressive: e4e's sum of codes instead of pSp's separate ones.
    heads: "own" gives each layer its own convolutions, as released; "shared" has one convolution for all layers,
    levels and steps, repeated until one pixel is left, and a linear layer of its own for each layer.
    zero_start: the last layers begin at zero, so that the first code is the generator's mean; released networks
    begin at random.
    """

    resolution: int = 256  # side of the photo
    n_layers: int = 14
    w_dim: int = 512
    levels: tuple[int, int, int] = (3, 4, 7)
    progressive: bool = False
    heads: Literal["own", "shared"] = "own"
    zero_start: bool = False
    body: IRSEConfig = field(default_factory=IRSEConfig)  # or a mapping of its values, which JSON gives

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if isinstance(self.body, Mapping):
            object.__setattr__(self, "body", IRSEConfig(**self.body))
        if len(self.levels) != 3 or min(self.levels) < 1 or sum(self.levels) != self.n_layers:
            raise ValueError(
                f"levels are the numbers of coarse, mid and fine layers, {self.n_layers} in all; got {self.levels}"
            )
        if len(self.body.units) != 4 or self.body.in_channels != 3:
            raise ValueError("the pyramid stands on a body of four stages that takes three channels")
        if self.resolution < 32 or self.resolution & (self.resolution - 1):
            raise ValueError(f"the resolution must be a power of two from 32 on; got {self.resolution}")
        if self.heads not in ("own", "shared"):
            raise ValueError(f"heads are own or shared; got {self.heads!r}")
        if self.heads == "own" and self.body.widths[-1] != self.w_dim:
            raise ValueError(
                f"heads of their own keep the pyramid's width: widths[-1] must be w_dim = {self.w_dim}; "
                f"got {self.body.widths[-1]}"
            )

    @classmethod
    def official(cls, **changes: Any) -> PSPConfig:
        """IR-SE50 for photos of 256 pixels, for EG3D's 14 layers."""
        return replace(cls(), **changes)

    @classmethod
    def embedded(cls, **changes: Any) -> PSPConfig:
        """For `portraits64`: photos of 64 pixels, 10 layers of 256 numbers, under 0.45 million parameters."""
        small = cls(
            resolution=64,
            n_layers=10,
            w_dim=256,
            levels=(3, 4, 3),
            heads="shared",
            zero_start=True,
            body=IRSEConfig.embedded(),
        )
        return replace(small, **changes)


def upsample_add(top: Tensor, lateral: Tensor) -> Tensor:
    """One step down the pyramid (Lin et al., 2017): maps above, enlarged to those beside them, plus these.

    top: [B, C, h, w]; lateral: [B, C, H, W]. Corners on corners, as released.
    """
    return F.interpolate(top, size=lateral.shape[-2:], mode="bilinear", align_corners=True) + lateral


class StyleHead(nn.Module):
    """map2style of pSp: maps [B, C, S, S] to one code [B, w_dim], by halving them until one pixel is left."""

    def __init__(self, in_channels: int, w_dim: int, side: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(side.bit_length() - 1):
            layers += [nn.Conv2d(w_dim if i else in_channels, w_dim, 3, 2, padding=1), nn.LeakyReLU(SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(w_dim, w_dim)

    def forward(self, x: Tensor) -> Styles:
        return self.linear(self.convs(x).flatten(1))


class SharedHalving(nn.Module):
    """One convolution that halves maps [B, C, S, S] until one pixel is left: [B, C]. It serves maps of any side.

    Begins with weights under which leaky ReLUs keep the size of what they are given (He et al., 2015): after four of
    them PyTorch's own start would leave little.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, a=SLOPE)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        while x.shape[-1] > 1:
            x = F.leaky_relu(self.conv(x), SLOPE)
        return x.flatten(1)


class PSPEncoder(IRSE):
    """Photos to codes, as offsets from the generator's mean code."""

    def __init__(self, config: PSPConfig):
        super().__init__(config.body)
        self.config = config
        _, fine, mid, coarse = config.body.widths
        self.latlayer1 = nn.Conv2d(mid, coarse, 1)
        self.latlayer2 = nn.Conv2d(fine, coarse, 1)
        if config.heads == "shared":
            self.halving = SharedHalving(coarse)
            self.styles = nn.ModuleList(EqualLinear(coarse, config.w_dim) for _ in range(config.n_layers))
        else:
            self.halving = nn.Identity()
            self.styles = nn.ModuleList(
                StyleHead(coarse, config.w_dim, config.resolution // shrinking)
                for count, shrinking in zip(config.levels, (16, 8, 4), strict=True)
                for _ in range(count)
            )
        if config.zero_start:
            self._start_at_zero()

    @checked
    def forward(self, image: Images, stage: int | None = None) -> LayerStyles:
        """Offsets [B, n_layers, w_dim] from w_mean for photos [B, 3, R, R] in [-1, 1].

        stage: of e4e's training: layers 1 to `stage` have offsets of their own, from 0 (one code for all layers)
        to n_layers - 1; None: all. pSp has no stages and gives all of its codes at any.
        """
        side = self.config.resolution
        if tuple(image.shape[1:]) != (3, side, side):
            raise ValueError(f"expected photos [B, 3, {side}, {side}]; got {list(image.shape)}: resize them")
        last = self.config.n_layers - 1
        if stage is not None and stage < 0:
            raise ValueError(f"stages are counted from 0 to {last}; got {stage}")
        codes = self._codes(image, last if stage is None or not self.config.progressive else min(stage, last))
        return summed(codes, self.config.n_layers) if self.config.progressive else torch.stack(codes, dim=1)

    def _codes(self, image: Tensor, last: int) -> list[Styles]:
        """What the heads of layers 0 to `last` say; no other head is evaluated."""
        codes: list[Styles] = []
        for features, layers in zip(self._pyramid(image), self._layers_by_level(), strict=True):
            if layers.start <= last:
                entering = self.halving(features)
                codes += [self.styles[layer](entering) for layer in layers if layer <= last]
        return codes

    def _pyramid(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse, mid and fine features, each with the width of the coarse ones."""
        _, fine, mid, coarse = self.taps(image)
        mid = upsample_add(coarse, self.latlayer1(mid))
        return coarse, mid, upsample_add(mid, self.latlayer2(fine))

    def _layers_by_level(self) -> list[range]:
        coarse, mid, _ = self.config.levels
        return [range(coarse), range(coarse, coarse + mid), range(coarse + mid, self.config.n_layers)]

    def _start_at_zero(self) -> None:
        for head in self.styles:
            linear = head.linear if isinstance(head, StyleHead) else head
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


def summed(codes: list[Styles], n_layers: int) -> LayerStyles:
    """e4e's code: w_0 for every layer, plus offsets of layers 1 to len(codes) - 1 (Tov et al., "progressive training").

    codes: w_0, Delta_1, Delta_2, ...
    """
    base = codes[0][:, None].expand(-1, n_layers, -1)
    offsets = torch.stack([torch.zeros_like(codes[0]), *codes[1:]], dim=1)
    return base + F.pad(offsets, (0, 0, 0, n_layers - len(codes)))


@checked
def offset_loss(w_plus: LayerStyles) -> PerImage:
    """e4e's delta regularisation [B]: the sum over layers i >= 1 of ||Delta_i||_2 (Tov et al., 2021).

    Delta_i = w_i - w_0. Layers that have no offset yet add nothing, and no gradient.
    """
    return (w_plus[:, 1:] - w_plus[:, :1]).norm(dim=2).sum(dim=1)
