"""Where the background of canonical heads lies: D_avg of GOAE (Yuan et al., "Make Encoder Great Again", 2023, eq. 4).

Depths are along the ray, in world units, as everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib import parsing
from lib.generators import EG3D


def background_mask(images: Tensor, resolution: int | None = None) -> Tensor:
    """M of eq. 4, bool [B, 1, S, S]: where images [B, 3, R, R] in [-1, 1] show background, says the face parser.

    resolution: S, side of the mask; None: that of the images. A cell is background where that is its likeliest class.
    No gradient flows through a mask.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected square images [B, 3, R, R] in [-1, 1], got {list(images.shape)}")
    side = images.shape[-1] if resolution is None else resolution
    masks = parsing.part_masks(parsing.class_probabilities(images), side)
    return masks["background"].to(images.device)


@torch.inference_mode()
def average_background_depth(generator: EG3D, n: int = 1000, seed: int = 0, batch: int = 50) -> float:
    """D_avg of eq. 4: mean depth over the background pixels of n canonical samples, seen from the front.

    Canonical: the frontal camera conditions the mapping. The paper takes 100,000 samples; every background pixel
    counts the same, whichever sample it belongs to.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"expected at least 1 sample in batches of at least 1; got n = {n}, batch = {batch}")
    front = generator.frontal_camera()
    z = torch.randn(n, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    total, pixels = 0.0, 0
    for some in z.split(batch):
        seen = generator.synthesize(generator.map(some, front), front)
        background = background_mask(seen.image, seen.depth.shape[-1])
        total += seen.depth[background].sum(dtype=torch.float64).item()
        pixels += int(background.sum())
    if not pixels:
        raise ValueError(
            f"the face parser finds no background in {n} samples of this generator: is it one of faces, and trained?"
        )
    return total / pixels
