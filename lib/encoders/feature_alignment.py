"""Adaptive feature alignment (GOAE, Yuan et al., 2023, sec. 4.2, eq. 7): what a code left out, brought into its
features.

The residual of a photo is seen from the photo's camera; the generator's features F lie in the canonical frame of its
planes. So each place of F asks, by cross-attention, which tokens of the residual belong to it, and gets from them a
scale gamma and a shift beta: F* = gamma . F + beta.

`AFAConfig.official` is the released network, whose modules have the names of the released code, so that its state dicts
load strictly. It departs from eq. 7: gamma and beta come each from an attention of its own, without Conv_gamma and
Conv_beta, and F* is not F at the start. The paper's form is blocks="shared", projections=True.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.cameras import FOCAL, RADIUS
from lib.encoders.cross_attention import CrossAttention
from lib.encoders.irse import IRSE, IRSEConfig
from lib.generators.stylegan2 import LRELU_GAIN, LRELU_SLOPE
from lib.shapes import FeatureMaps, checked

Residuals = Float[Tensor, "batch 3 side side"]
Tokens = Float[Tensor, "batch tokens width"]

SPAN = RADIUS / FOCAL
"""Side of a picture over that of the planes, at the origin: where tokens of the residual lie in the frame of F."""

OCTAVES = 4.0
"""From the lowest frequency of places, half a period over the planes, to the highest."""

PLACE_GAIN = 3.0
"""Of places, beside contents of variance 1: so much that attention is local from the start, which it would else have to
learn first."""


@dataclass(frozen=True)
class AFAConfig:
    """Sizes and form of the feature alignment. The defaults are those of the released model, 12.1 M parameters."""

    resolution: int = 512  # of the residual
    channels: int = 512  # of F
    body: IRSEConfig = field(default_factory=lambda: IRSEConfig(units=(3, 3, 3), widths=(64, 128, 256)))
    width: int = 512  # of tokens
    heads: int = 4
    hidden: int = 1024  # of the blocks' feed-forward networks
    dropout: float = 0.1
    blocks: Literal["separate", "shared"] = "separate"  # for gamma and for beta; eq. 7 has one for both
    projections: bool = False  # Conv_gamma and Conv_beta of eq. 7, 1 x 1, which start so that F* = F
    places: bool = False  # tokens say where they lie; eq. 7 leaves it to their content
    alignment: Literal["attention", "convolution"] = "attention"  # Table 3's plain CNN aligns nothing
    upright: bool = False  # turns the plain CNN's map over, as rows of a picture go down, of a plane up

    def __post_init__(self) -> None:
        if isinstance(self.body, Mapping):  # as JSON has it
            object.__setattr__(self, "body", IRSEConfig(**self.body))
        if self.body.in_channels != 3:
            raise ValueError(f"a residual has three channels; got a body for {self.body.in_channels}")
        known = {"blocks": ("separate", "shared"), "alignment": ("attention", "convolution")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}")
        if not self.projections and (self.blocks == "shared" or self.width != self.channels):
            raise ValueError(
                "without projections gamma and beta are the tokens of two blocks, as wide as F: expected blocks "
                f"'separate' and a width of {self.channels}; got {self.blocks!r} and {self.width}. Set projections=True"
            )
        if self.places and self.width % 4:
            raise ValueError(f"places need a width that is a multiple of 4; got {self.width}")

    @classmethod
    def official(cls, **changes: Any) -> "AFAConfig":
        """The released model, for EG3D's 32 x 32 features of 512 channels."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def embedded(cls, **changes: Any) -> "AFAConfig":
        """For the 32 x 32 features of `portraits64`: 256 tokens of a residual of 64 pixels.

        Made to learn in few steps: F* = F at the start, tokens say where they lie, and each picture is normalised alone.
        """
        small = cls(
            resolution=64,
            channels=112,
            body=IRSEConfig.embedded(stem=24, units=(2, 2), widths=(32, 64)),
            width=64,
            hidden=128,
            dropout=0.0,
            projections=True,
            places=True,
        )
        return dataclasses.replace(small, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)


class FeatureAlignment(IRSE):
    """gamma and beta of eq. 7, from a residual and features F."""

    def __init__(self, config: AFAConfig):
        super().__init__(config.body)
        self.config = c = config
        self.output_layer = nn.Sequential(
            EqualConv2d(c.body.widths[-1], c.width), ScaledLeakyReLU(), EqualConv2d(c.width, c.width)
        )
        if c.alignment == "attention" and c.width != c.channels:
            self.query_layer = nn.Linear(c.channels, c.width)
        for name in ("gamma", "beta") if c.blocks == "separate" else ("both",):
            self.add_module(f"cross_att_{name}", _block(c))
        if c.projections:
            self.conv_gamma = _constant(c.width, c.channels, 1.0)
            self.conv_beta = _constant(c.width, c.channels, 0.0)

    @checked
    def forward(self, residual: Residuals, features: FeatureMaps) -> tuple[FeatureMaps, FeatureMaps]:
        """Scale gamma and shift beta for features [B, C, h, w], of their shape, and their picture's residual."""
        self._require_sizes(residual, features)
        found = self.output_layer(self.taps(residual)[-1])
        if self.config.alignment == "attention":
            aligned = self._attended(found, features)
        else:
            aligned = self._convolved(found, features)
        gamma, beta = aligned * (2 // len(aligned))
        if self.config.projections:
            gamma, beta = self.conv_gamma(gamma), self.conv_beta(beta)
        return gamma, beta

    def _attended(self, found: Tensor, features: Tensor) -> list[Tensor]:
        """F_align as maps, of each block: places of F are queries, those of the residual keys and values (eq. 7)."""
        size = features.shape[-2:]
        query, key_value = normalised_tokens(features), normalised_tokens(found)
        if self.config.width != self.config.channels:
            query = self.query_layer(query)
        if self.config.places:
            query = query + places(*size, self.config.width).to(query)
            key_value = key_value + places(*found.shape[-2:], self.config.width, picture=True).to(query)
        return [block(query, key_value).transpose(1, 2).unflatten(2, size) for block in self._blocks()]

    def _convolved(self, found: Tensor, features: Tensor) -> list[Tensor]:
        """What Table 3 has in place of F_align: maps as the picture shows them, brought to the size of F."""
        if self.config.upright:
            found = found.flip(2)
        found = F.interpolate(found, size=features.shape[-2:], mode="bilinear", align_corners=False)
        return [block(found) for block in self._blocks()]

    def _blocks(self) -> list[nn.Module]:
        if self.config.blocks == "shared":
            return [self.cross_att_both]
        return [self.cross_att_gamma, self.cross_att_beta]

    def _require_sizes(self, residual: Tensor, features: Tensor) -> None:
        c = self.config
        if residual.shape[-1] != c.resolution or features.shape[1] != c.channels:
            raise ValueError(
                f"expected a residual [B, 3, {c.resolution}, {c.resolution}] and features [B, {c.channels}, h, w]; got "
                f"{list(residual.shape)} and {list(features.shape)}: resize the picture, or take the features of the "
                "block that this network was made for"
            )


# ----------------------------------------------------------------------- tokens
def normalised_tokens(maps: FeatureMaps) -> Tokens:
    """Maps [B, C, h, w] as tokens [B, h w, C] of mean 0 and variance 1, row by row: LayerNorm without parameters."""
    tokens = maps.flatten(2).transpose(1, 2)
    return F.layer_norm(tokens, tokens.shape[-1:])


def places(height: int, width: int, channels: int, picture: bool = False) -> Float[Tensor, "tokens channels"]:
    """Where the tokens of a map lie in the frame of plane (x, y), row by row: sines and cosines of x and of y.

    The rows of a plane go up; with `picture` the map is a picture's, whose rows go down, and which shows `SPAN` of the
    planes. A head that is seen from the front then has equal places in its picture and on its plane.
    """
    x, y = ((torch.arange(count) + 0.5) / count - 0.5 for count in (width, height))
    if picture:
        x, y = SPAN * x, -SPAN * y
    frequencies = math.pi * 2 ** torch.linspace(0, OCTAVES, channels // 4)
    x, y = (_waves(torch.outer(along, frequencies)) for along in (x, y))
    return PLACE_GAIN * torch.cat([x.repeat(height, 1), y.repeat_interleave(width, dim=0)], dim=1)


def _waves(phases: Tensor) -> Tensor:
    return torch.cat([phases.sin(), phases.cos()], dim=1)


# ----------------------------------------------------------------------- layers
def _block(c: AFAConfig) -> nn.Module:
    if c.alignment == "convolution":
        return nn.Sequential(ScaledLeakyReLU(), EqualConv2d(c.width, c.width))
    block = CrossAttention(c.width, c.heads, c.hidden, c.dropout)
    if c.places:
        _ask_for_equals(block)
    return block


@torch.no_grad()
def _ask_for_equals(block: CrossAttention) -> None:
    """Let W_Q start as W_K: a query then finds first the keys that are like it, those of its own place."""
    to_query, to_key, _ = block.multihead_attn.in_proj_weight.chunk(3)
    to_query.copy_(to_key)


def _constant(width: int, channels: int, value: float) -> nn.Conv2d:
    """A 1 x 1 convolution that gives `value` until it has learned anything."""
    layer = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


class EqualConv2d(nn.Module):
    """3 x 3 convolution with equalised learning rate (Karras et al., 2018, sec. 4.1): W_eff = W / sqrt(9 in)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = 1 / math.sqrt(9 * in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, padding=1)


class ScaledLeakyReLU(nn.Module):
    """StyleGAN2's leaky ReLU, with the gain that keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, LRELU_SLOPE) * LRELU_GAIN
