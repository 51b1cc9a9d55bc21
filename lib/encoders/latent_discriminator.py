"""The discriminator that keeps an encoder's codes where a generator's own codes lie.

e4e (Tov et al., 2021, sec. 4.1) judges codes of W by it; GOAE (Yuan et al., 2023, eq. 2-3) those of W_c, codes mapped
under the canonical camera. GOAE does not describe the network: this is e4e's, a plain MLP.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn

from lib.shapes import LayerStyles, PerImage, Styles, checked

SLOPE = 0.2
"""Of the leaky ReLUs, as in e4e."""


@dataclass(frozen=True)
class LatentDiscriminatorConfig:
    """Sizes of a latent discriminator. The defaults are e4e's, 0.79 M parameters."""

    w_dim: int = 512
    hidden: int = 512
    layers: int = 4  # linear layers; the last gives the score

    def __post_init__(self) -> None:
        for name, least in (("w_dim", 1), ("hidden", 1), ("layers", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more; got {getattr(self, name)}")

    @classmethod
    def official(cls, **changes: Any) -> "LatentDiscriminatorConfig":
        """For the codes of a released generator."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def embedded(cls, **changes: Any) -> "LatentDiscriminatorConfig":
        """For the small generators of this repository."""
        return dataclasses.replace(cls(w_dim=256, hidden=128), **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)


class LatentDiscriminator(nn.Module):
    """D_Wc: scores of codes, high for the generator's own."""

    def __init__(self, config: LatentDiscriminatorConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width = config.w_dim
        for _ in range(config.layers - 1):
            layers += [nn.Linear(width, config.hidden), nn.LeakyReLU(SLOPE)]
            width = config.hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    @checked
    def forward(self, w: Styles) -> PerImage:
        """Scores [N] of codes [N, w_dim], before any sigmoid."""
        return self.mlp(w)[:, 0]


@checked
def judged_codes(w_plus: LayerStyles) -> Styles:
    """The codes w_i [B * L, w_dim] of w_plus [B, L, w_dim], each to be judged by itself (GOAE, eq. 2)."""
    return w_plus.flatten(0, 1)
