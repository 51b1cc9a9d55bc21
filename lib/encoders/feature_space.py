"""The generator's feature maps F (GOAE, sec. 3.2): taken out at one resolution, put back changed.

A skip generator has two things at each resolution: features, from which the next block goes on, and the picture (here:
the planes) that all blocks so far add up to. Only the features are refined; what was added before stays.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lib.generators import EG3D
from lib.shapes import FeatureMaps, LayerStyles, Planes


class Features(NamedTuple):
    """Where the backbone stands behind one of its blocks."""

    resolution: int  # of that block
    values: FeatureMaps  # [B, C, resolution, resolution], F of eq. 7
    added: Tensor  # [B, 3 * plane channels, resolution, resolution], the planes' sum up to here


def features_at(generator: EG3D, w_plus: LayerStyles, resolution: int) -> Features:
    """F of codes [B, n_layers, w_dim] behind the block of this resolution."""
    backbone = generator.backbone.synthesis
    if resolution not in backbone.block_resolutions[:-1]:
        raise ValueError(
            "features are refined before the last block of the backbone: at "
            f"{', '.join(map(str, backbone.block_resolutions[:-1]))}; got {resolution}"
        )
    x = added = None
    first = 0
    for block, size in zip(backbone.blocks, backbone.block_resolutions, strict=True):
        x, added = block(x, added, w_plus[:, first : first + block.n_convs + 1])
        if size == resolution:
            return Features(size, x, added)
        first += block.n_convs
    raise AssertionError("unreachable: the resolution is one of the blocks'")


def planes_of(generator: EG3D, features: Features, w_plus: LayerStyles) -> Planes:
    """G(F): tri-planes [B, 3, C, S, S] of features, through the blocks that follow, styled by w_plus."""
    backbone = generator.backbone.synthesis
    x, added = features.values, features.added
    first = 0
    for block, size in zip(backbone.blocks, backbone.block_resolutions, strict=True):
        if size > features.resolution:
            x, added = block(x, added, w_plus[:, first : first + block.n_convs + 1])
        first += block.n_convs
    return added.unflatten(1, (3, generator.config.plane_channels))
