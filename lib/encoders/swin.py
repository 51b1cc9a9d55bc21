"""Swin Transformer V2 (Liu et al., 2022), which gives the input of every stage beside its output.

GOAE calls its backbone "Swin"; its released configuration is this one, of Base size. Modules and parameters carry the
names of the public SwinV2 code, so that its state dicts load strictly, but for the tables that follow from the
configuration: these are buffers of the same names here, and not saved.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib.shapes import Images, checked

__all__ = ["SwinConfig", "SwinFeatures", "SwinV2"]

Tokens = Float[Tensor, "batch tokens channels"]
Windows = Float[Tensor, "windows tokens channels"]

FIRST_SCALE, HIGHEST_SCALE = 10.0, 100.0
"""Of the cosine attention's logits: where it starts, and its limit (SwinV2 sec. 3.2: temperature 0.01 at least)."""

HIGHEST_BIAS = 16.0
"""Relative position biases lie between 0 and this."""

COORDINATE_RANGE = 8.0
"""Relative coordinates span -8 to 8 before the logarithm, as wide as the window of the pretraining."""

ELSEWHERE = -100.0
"""Added to the logits of two tokens that only the cyclic shift brought into one window."""


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a SwinV2. The defaults are SwinV2-B with window 16, at 256 pixels, as GOAE's release sets it."""

    resolution: int = 256  # of the picture, in pixels
    patch: int = 4  # pixels along a side of a token of the first stage
    dims: tuple[int, ...] = (128, 256, 512, 1024)  # channels, one per stage; each stage halves the side
    depths: tuple[int, ...] = (2, 2, 18, 2)  # blocks
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 16  # tokens along a side of a window; a smaller stage is one window
    pretrained_windows: tuple[int, ...] = (
        12,
        12,
        12,
        6,
    )  # what relative coordinates are measured in; 0: the window
    mlp_ratio: float = 4.0
    bias_hidden: int = 512  # channels of the network that makes relative position biases
    drop_path: float = 0.2  # how often the last block is left out in training; the first never is
    norm_start: float = (
        0.0  # weight of the norms that end a block's branches: at 0 every block starts as the identity
    )
    weight_std: float | None = (
        0.02  # of linear layers at start; None: 1 / sqrt(inputs), to train from scratch
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON knows lists alone
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        per_stage = ("dims", "depths", "heads", "pretrained_windows")
        if len({len(getattr(self, name)) for name in per_stage}) != 1 or not self.dims:
            counts = ", ".join(f"{name}: {len(getattr(self, name))}" for name in per_stage)
            raise ValueError(f"expected one number per stage, as many of each; got {counts}")
        smallest = self.patch * 2 ** len(self.dims)
        if self.resolution % smallest:
            raise ValueError(
                f"{len(self.dims)} stages of patches of {self.patch} pixels need a resolution that is a multiple of "
                f"{smallest}; got {self.resolution}"
            )
        for stage, side in enumerate(self.sides):
            if side % min(side, self.window):
                raise ValueError(
                    f"stage {stage} has {side} x {side} tokens, which windows of {self.window} do not tile: choose a "
                    "window that divides them"
                )
            if self.dims[stage] % self.heads[stage]:
                raise ValueError(
                    f"stage {stage}: {self.heads[stage]} heads cannot share {self.dims[stage]} channels evenly"
                )

    @classmethod
    def official(cls, **changes: Any) -> Self:
        """As GOAE's released files have it."""
        return dataclasses.replace(cls(), **changes)

    @property
    def sides(self) -> tuple[int, ...]:
        """Tokens along a side of each stage."""
        return tuple(self.resolution // self.patch // 2**stage for stage in range(len(self.dims)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)


class SwinFeatures(NamedTuple):
    """Tokens, row by row: what goes into each stage, and what the last one gives, normalised."""

    inputs: tuple[Tensor, ...]  # [B, side^2, dim] of each stage
    output: Tensor  # as the last stage's input


# -------------------------------------------------------------------- tables
def log_spaced_offsets(window: int, pretrained: int) -> Float[Tensor, "offsets offsets 2"]:
    """Row and column distances [2w - 1, 2w - 1, 2] of tokens of a window, log-spaced (SwinV2 eq. 4).

    sign(d) log2(1 + |d|) / 3, where d spans -8 to 8 at the ends of the pretraining's window: a larger one goes beyond.
    """
    distance = torch.arange(1 - window, window, dtype=torch.float32)
    distance = distance * COORDINATE_RANGE / max((pretrained or window) - 1, 1)
    spaced = distance.sign() * (1 + distance.abs()).log2() / math.log2(COORDINATE_RANGE)
    return torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), dim=-1)


def pair_offsets(window: int) -> Int[Tensor, "tokens tokens"]:
    """For tokens i and j of a window, the entry of the flattened `log_spaced_offsets` that has i - j."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = (x.flatten()[:, None] - x.flatten() + window - 1 for x in (row, column))
    return row * (2 * window - 1) + column


def neighbour_mask(side: int, window: int, shift: int) -> Float[Tensor, "windows tokens tokens"]:
    """0 for pairs of a shifted window's tokens that are neighbours in the picture, `ELSEWHERE` for the others."""
    position = torch.arange(side)
    part = (position >= side - window).int() + (position >= side - shift).int()
    regions = windows_of((3 * part[:, None] + part)[None, :, :, None], window)[..., 0]
    return torch.where(regions[:, None] == regions[:, :, None], 0.0, ELSEWHERE)


# -------------------------------------------------------------------- windows
def windows_of(x: Tensor, window: int) -> Tensor:
    """[B, side, side, C] in windows, row by row: [B * windows, window^2, C]."""
    tiled = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return tiled.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def joined(windows: Tensor, side: int) -> Tensor:
    """Windows [B * windows, window^2, C] put together: [B, side, side, C]. Inverts `windows_of`."""
    window = math.isqrt(windows.shape[1])
    count = side // window
    tiled = windows.unflatten(0, (-1, count, count)).unflatten(3, (window, window))
    return tiled.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class WindowAttention(nn.Module):
    """Scaled cosine attention among the tokens of a window, with continuous relative positions (SwinV2 eq. 2-4)."""

    def __init__(self, dim: int, heads: int, window: int, pretrained: int, bias_hidden: int):
        super().__init__()
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(FIRST_SCALE)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, bias_hidden), nn.ReLU(), nn.Linear(bias_hidden, heads, bias=False)
        )
        self.register_buffer(
            "relative_coords_table", log_spaced_offsets(window, pretrained)[None], persistent=False
        )
        self.register_buffer("relative_position_index", pair_offsets(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))  # a bias of the keys would cancel in the softmax
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Float[Tensor, "heads tokens tokens"]:
        """B_ij, 0 to 16, by the offset i - j of two tokens (SwinV2 eq. 3)."""
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, 2)
        return HIGHEST_BIAS * F.embedding(self.relative_position_index, table).sigmoid().permute(2, 0, 1)

    @checked
    def forward(self, x: Windows, mask: Tensor | None = None) -> Windows:
        """x: [B * windows, N, C]; mask [windows, N, N] is added to the logits of each picture's windows."""
        biases = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = (
            F.linear(x, self.qkv.weight, biases).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        scale = self.logit_scale.clamp(max=math.log(HIGHEST_SCALE)).exp()
        logits = scale * (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT) + self.position_bias()
        if mask is not None:
            logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        return self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


# -------------------------------------------------------------------- blocks
class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, zero for some samples; the others scaled to keep the mean."""

    def __init__(self, probability: float):
        super().__init__()
        self.keep = 1 - probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep == 1:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) < self.keep
        return x * (kept / self.keep).to(x)


class Mlp(nn.Module):
    """Two linear layers with GELU between, token by token."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Attention in windows, then an MLP; each residual branch ends in its norm (SwinV2 sec. 3.2).

    Every second block shifts its windows by half their side, where a stage has several.
    """

    def __init__(self, config: SwinConfig, stage: int, shifted: bool, drop_path: float):
        super().__init__()
        dim, self.side = config.dims[stage], config.sides[stage]
        self.window = min(config.window, self.side)
        self.shift = config.window // 2 if shifted and self.side > config.window else 0
        pretrained = config.pretrained_windows[stage]
        self.attn = WindowAttention(dim, config.heads[stage], self.window, pretrained, config.bias_hidden)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        mask = neighbour_mask(self.side, self.window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def attended(self, x: Tensor) -> Tensor:
        """Attention within windows, which are cut after rolling by the shift: [B, side^2, C]."""
        rolled = x.unflatten(1, (self.side, self.side)).roll((-self.shift, -self.shift), dims=(1, 2))
        attended = joined(self.attn(windows_of(rolled, self.window), self.attn_mask), self.side)
        return attended.roll((self.shift, self.shift), dims=(1, 2)).flatten(1, 2)

    def forward(self, x: Tokens) -> Tokens:
        x = x + self.drop_path(self.norm1(self.attended(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    """2 x 2 tokens become one, [B, side^2, C] to [B, side^2 / 4, C']: a linear layer, then its norm."""

    def __init__(self, dim: int, merged: int, side: int):
        super().__init__()
        self.side = side
        self.reduction = nn.Linear(4 * dim, merged, bias=False)
        self.norm = nn.LayerNorm(merged)

    def forward(self, x: Tokens) -> Tokens:
        # [B, row, row in 2, column, column in 2, C]; the released weights count the rows within the 2 x 2 first.
        parts = x.unflatten(1, (self.side // 2, 2, self.side // 2, 2))
        return self.norm(self.reduction(parts.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)))


class PatchEmbedding(nn.Module):
    """A picture's patches as normalised tokens [B, side^2, C], row by row."""

    def __init__(self, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Images) -> Tokens:
        return self.norm(self.proj(image).flatten(2).mT)


class Stage(nn.Module):
    """The blocks at one resolution, and the merging that leads to the next."""

    def __init__(self, config: SwinConfig, stage: int):
        super().__init__()
        first, depth = sum(config.depths[:stage]), config.depths[stage]
        dropped = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        self.blocks = nn.ModuleList(
            SwinBlock(config, stage, shifted=index % 2 == 1, drop_path=dropped[first + index])
            for index in range(depth)
        )
        widths = config.dims[stage : stage + 2]
        self.downsample = PatchMerging(*widths, config.sides[stage]) if len(widths) == 2 else None

    def forward(self, x: Tokens) -> Tokens:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class SwinV2(nn.Module):
    """The backbone: a picture to `SwinFeatures`. It has no absolute position embedding."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.dims[0], config.patch)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(len(config.dims)))
        self.norm = nn.LayerNorm(config.dims[-1])
        self.apply(self._start)

    def _start(self, module: nn.Module) -> None:
        """Weights before training; convolution and norms of tokens keep torch's."""
        if isinstance(module, nn.Linear):
            std = self.config.weight_std
            std = module.in_features**-0.5 if std is None else std
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, SwinBlock):
            for norm in (module.norm1, module.norm2):
                nn.init.constant_(norm.weight, self.config.norm_start)

    @checked
    def forward(self, image: Images) -> SwinFeatures:
        if image.shape[2:] != (self.config.resolution,) * 2:
            raise ValueError(
                f"expected pictures of {self.config.resolution} x {self.config.resolution} pixels; got "
                f"{image.shape[2]} x {image.shape[3]}: resize them first"
            )
        x, inputs = self.patch_embed(image), []
        for stage in self.layers:
            inputs.append(x)
            x = stage(x)
        return SwinFeatures(tuple(inputs), self.norm(x))
