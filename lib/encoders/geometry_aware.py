"""GOAE's encoder E (Yuan et al., 2023, sec. 3.2 and appendix): a photo into the canonical latent space.

A SwinV2 backbone; its last stage says w0, one code for all layers, and asks for the differences of the coarse, mid and
fine layers, which are found in the features of its earlier stages by cross-attention (eq. 11). Modules carry the names
of the released code, so that its state dicts load strictly.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.encoders.cross_attention import CrossAttention
from lib.encoders.swin import SwinConfig, SwinV2
from lib.shapes import Images, LayerStyles, checked

__all__ = ["STAGES", "GOAEConfig", "GOAEEncoder", "assembled_offsets"]

STAGES = ("base", "coarse", "mid", "fine")
"""What an encoder learns one after another (progressive training): w0, then the differences of three groups of
layers."""

LEVELS = STAGES[1:]


@dataclass(frozen=True)
class GOAEConfig(SwinConfig):
    """Sizes of the encoder: those of its backbone, and those of what follows. The defaults are the release's."""

    n_layers: int = 14
    w_dim: int = 512
    levels: tuple[int, int, int] = (3, 3, 7)  # layers that coarse, mid and fine decide, after the first
    attention_dim: int = 512  # channels of queries and keys; a last linear layer where codes have others
    attention_heads: int = 4
    attention_hidden: int = 1024
    dropout: float = 0.1
    lift_hidden: tuple[int, int] | None = (
        None  # of the layers from coarse to mid and mid to fine tokens; None: twice
    )
    offset_gain: float = (
        1.0  # on the last linear layers' weights at start: below 1, training starts near the mean code
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.dims) != 4:
            raise ValueError(
                f"the encoder takes features of four stages; got {len(self.dims)} dims: {self.dims}"
            )
        if len(self.levels) != len(LEVELS) or 1 + sum(self.levels) != self.n_layers:
            raise ValueError(
                f"the first layer and those of coarse, mid and fine must make n_layers={self.n_layers}; got levels "
                f"{self.levels}"
            )

    @classmethod
    def embedded(cls, **changes: Any) -> "GOAEConfig":
        """For the small generators of this repository: the same structure, smaller in every width."""
        small = cls(
            resolution=64,
            patch=2,
            dims=(24, 48, 72, 96),
            depths=(2, 2, 4, 2),
            heads=(1, 2, 3, 4),
            window=8,
            pretrained_windows=(0, 0, 0, 0),
            mlp_ratio=2.0,
            bias_hidden=32,
            drop_path=0.0,
            norm_start=1.0,
            weight_std=None,
            n_layers=10,
            w_dim=256,
            levels=(2, 2, 5),
            attention_dim=64,
            attention_hidden=128,
            dropout=0.0,
            lift_hidden=(32, 32),
            offset_gain=0.1,
        )
        return dataclasses.replace(small, **changes)


# -------------------------------------------------------------------- layers
def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, leaky ReLU, linear; the first keeps the width."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.LeakyReLU(), nn.Linear(inputs, outputs))


def activated(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, a leaky ReLU after each."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.LeakyReLU())))


def across_tokens(layers: nn.Module, x: Tensor) -> Tensor:
    """Layers that act on the token axis, [B, N, C] to [B, M, C]: each channel is a vector of its tokens."""
    return layers(x.mT).mT


@checked
def assembled_offsets(
    w0: Float[Tensor, "batch w_dim"], differences: list[Tensor], n_layers: int
) -> LayerStyles:
    """w0 for all layers, plus [0; coarse; mid; fine] (eq. 11 without w_avg): [B, n_layers, w_dim].

    differences: [B, layers, w_dim] of the first levels; the layers of the others keep w0. (The printed w_{3~6} would
    overlap the coarse layers; the release has 4 to 6.)
    """
    w_plus = w0[:, None].repeat(1, n_layers, 1)
    first = 1
    for difference in differences:
        w_plus[:, first : first + difference.shape[1]] += difference
        first += difference.shape[1]
    return w_plus


# -------------------------------------------------------------------- encoder
class GOAEEncoder(nn.Module):
    """E: pictures [B, 3, R, R] in [-1, 1] to offsets [B, n_layers, w_dim] from w_avg, which the caller adds."""

    def __init__(self, config: GOAEConfig):
        super().__init__()
        self.config = config
        self.swin_model = SwinV2(config)
        fine, mid, coarse, last = (side**2 for side in config.sides)  # tokens
        dims, dim = config.dims, config.attention_dim

        self.mapper_base_spatial = mlp(last, 1)
        self.mapper_base_channel = mlp(dims[3], config.w_dim)

        for level, count in zip(LEVELS, config.levels, strict=True):
            self.add_module(f"mapper_query_spatial_{level}", mlp(last, count))
            self.add_module(f"mapper_query_channel_{level}", mlp(dims[3], dim))

        self.mapper_coarse_channel = activated(dims[2], dim)
        self.mapper_mid_channel = activated(dims[1], dim)
        self.mapper_fine_channel = activated(dims[0], dims[1], dim)
        hidden = config.lift_hidden or (2 * coarse, 2 * mid)
        self.mapper_coarse_to_mid_spatial = activated(coarse, hidden[0], mid)
        self.mapper_mid_to_fine_spatial = activated(mid, hidden[1], fine)

        for level in LEVELS:
            attention = CrossAttention(dim, config.attention_heads, config.attention_hidden, config.dropout)
            self.add_module(f"cross_att_{level}", attention)
        own_width = dim == config.w_dim
        self.outputs = nn.ModuleDict(
            {} if own_width else {level: nn.Linear(dim, config.w_dim) for level in LEVELS}
        )
        with torch.no_grad():
            for layer in (self.mapper_base_channel[-1], *self.outputs.values()):
                layer.weight *= config.offset_gain
                layer.bias *= config.offset_gain

    def forward(self, image: Images, stage: int | None = None) -> LayerStyles:
        """Offsets as far as a stage, an index of `STAGES`, decides them; None: all. Later ones are not computed."""
        if stage is not None and not 0 <= stage < len(STAGES):
            raise ValueError(f"expected a stage from 0 to {len(STAGES) - 1} {STAGES}, or None; got {stage}")
        levels = LEVELS[: len(LEVELS) if stage is None else stage]
        features = self.swin_model(image)
        query = features.inputs[3]
        differences = [
            self.difference(level, query, keys)
            for level, keys in zip(levels, self.pyramid(features.inputs, len(levels)), strict=True)
        ]
        return assembled_offsets(self.base(features.output), differences, self.config.n_layers)

    def base(self, tokens: Tensor) -> Tensor:
        """w0 [B, w_dim] of the backbone's output [B, N, C]: weighed tokens plus the greatest of each channel."""
        return self.mapper_base_channel(self._gathered(self.mapper_base_spatial, tokens))[:, 0]

    def difference(self, level: str, query: Tensor, keys: Tensor) -> Tensor:
        """w_i - w_0 [B, layers, w_dim] of a level's layers: queries of the last stage's input ask the level's keys."""
        queries = self.get_submodule(f"mapper_query_channel_{level}")(
            self._gathered(self.get_submodule(f"mapper_query_spatial_{level}"), query)
        )
        found = self.get_submodule(f"cross_att_{level}")(queries, keys)
        return self.outputs[level](found) if self.outputs else found

    def pyramid(self, inputs: tuple[Tensor, ...], levels: int) -> list[Tensor]:
        """Keys [B, N, attention_dim] of the first levels, from coarse on: each is lifted and added to the next."""
        fine, mid, coarse, _ = inputs
        keys = []
        if levels > 0:
            keys.append(self.mapper_coarse_channel(coarse))
        if levels > 1:
            lifted = across_tokens(self.mapper_coarse_to_mid_spatial, keys[-1])
            keys.append(self.mapper_mid_channel(mid) + lifted)
        if levels > 2:
            lifted = across_tokens(self.mapper_mid_to_fine_spatial, keys[-1])
            keys.append(self.mapper_fine_channel(fine) + lifted)
        return keys

    @staticmethod
    def _gathered(layers: nn.Module, tokens: Tensor) -> Tensor:
        """[B, M, C] of tokens [B, N, C]: sums that the layers weigh, plus each channel's greatest value."""
        return across_tokens(layers, tokens) + tokens.amax(dim=1, keepdim=True)
