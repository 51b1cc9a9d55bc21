"""Drawings about GOAE's encoder (Yuan et al., 2023, fig. 7 and 11): what its taps hold, how its code grows stage by
stage, and how far codes lie from the canonical latent space W_c."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from torch import Tensor

from lib.cameras import Camera
from lib.drawings.foundations import principal_colours
from lib.drawings.metrics import error_map
from lib.drawings.scenes import LARGEST_ERROR, SHOWN
from lib.encoders import Encoder, load_encoder
from lib.encoders.geometry_aware import STAGES, GOAEConfig
from lib.figures import CELL, Picture, image_grid, in_row_order, method_colour, method_label, use_style
from lib.generators import EG3D

DISTANCES = {
    "centre": "mean row from the centre of $W_c$",
    "rows": "rows, in deviations of $W_c$",
    "spread": "rows from their mean",
}
"""What `code_distances` measures, and how figures write it."""

CODE_COLOURS = "RdBu_r"
SHOWN_NUMBERS = 40
"""Of each row of a code, in its picture."""


def encoders_here(names: Iterable[str], generator: EG3D) -> dict[str, Encoder]:
    """Those of the encoders whose networks ship or were trained here: ablations do not ship."""
    found = {}
    for name in names:
        try:
            found[name] = load_encoder(name, generator)
        except FileNotFoundError:
            continue
    return found


# -------------------------------------------------------------------- taps
def tap_picture(tokens: Tensor) -> np.ndarray:
    """Tokens [1, side^2, C] of a tap as bytes [R, R, 3]: their first three principal components, a square a token."""
    side = math.isqrt(tokens.shape[1])
    if len(tokens) != 1 or side**2 != tokens.shape[1]:
        raise ValueError(f"expected the tokens [1, side^2, C] of one picture; got {list(tokens.shape)}")
    colours = principal_colours(tokens.mT.unflatten(2, (side, side)))[0]
    return _enlarged(colours, max(1, SHOWN // side), max(1, SHOWN // side))


def _enlarged(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bytes [h, w, 3], each pixel repeated: what is small stays made of squares."""
    return picture.repeat(rows, axis=0).repeat(columns, axis=1)


# -------------------------------------------------------------------- how the code grows
def layers_by_stage(config: GOAEConfig) -> dict[str, range]:
    """Which layers of the code a stage is the first to decide (eq. 11); `base` alone decides the first one."""
    ends = np.cumsum((0, 1, *config.levels)).tolist()
    return {stage: range(*pair) for stage, pair in zip(STAGES, pairwise(ends), strict=True)}


def code_picture(offsets: Tensor, limit: float) -> np.ndarray:
    """A code's offsets from w_avg [n_layers, w_dim] as bytes [R, R, 3]: a row a layer, of its first numbers.

    limit: from which on a number is full red or, if negative, full blue.
    """
    values = offsets[:, :SHOWN_NUMBERS].cpu().numpy()
    colours = colormaps[CODE_COLOURS](0.5 + values / (2 * limit), bytes=True)[..., :3]
    rows, columns = values.shape
    return _enlarged(colours, max(1, 240 // rows), max(1, 240 // columns))


@torch.no_grad()
def growing_code(
    generator: EG3D,
    codes: Mapping[str, Tensor],
    target: Tensor,
    camera: Camera,
    side: Camera,
    *,
    cell: float = CELL,
) -> Picture:
    """A column a code (title: w_plus [1, n_layers, w_dim]): the code, the photo's view, its error, and a side view.

    target [1, 3, R, R] and its camera: the photo, in the first column. Below each its mean squared error.
    """
    offsets = {name: w_plus[0] - generator.w_mean for name, w_plus in codes.items()}
    limit = max(*(values.abs().quantile(0.98).item() for values in offsets.values()), 1e-6)
    columns, captions = [[target, None, None, None]], ["photo"]
    for name, w_plus in codes.items():
        planes = generator.planes(w_plus)
        seen = generator.render(planes, w_plus, camera).image.clamp(-1, 1)
        beside = generator.render(planes, w_plus, side).image.clamp(-1, 1)
        difference = seen - target
        error = error_map(difference[0].abs().mean(dim=0, keepdim=True), LARGEST_ERROR)
        columns.append([seen, code_picture(offsets[name], limit), error, beside])
        captions.append(f"MSE {difference.square().mean():.4f}")
    below = [captions, *([""] * len(captions) for _ in range(3))]
    labels = ["photo's view", "code", "error", "from the side"]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return image_grid(rows, labels, ["", *codes], captions=below, cell=cell)


# -------------------------------------------------------------------- distance from W_c
def code_distances(w_plus: Tensor, canonical: Tensor) -> pd.DataFrame:
    """How far codes [B, n_layers, w_dim] lie from W_c, of which `canonical` [N, w_dim] are members: a row a code.

    centre: distance of the mean of the rows from the mean of W_c, in root mean square distances of its members; 1 is
    a typical member. rows: root mean square Mahalanobis distance of the rows, over sqrt(w_dim); 1 is typical, and what
    W_c hardly varies in counts most. spread: root mean square distance of the rows from their mean, in the unit of
    `centre`; 0 is a code of W.
    """
    n, w_dim = canonical.shape
    if n < 2 * w_dim:
        raise ValueError(
            f"the covariance of {w_dim} numbers needs {2 * w_dim} canonical codes or more; got {n}"
        )
    canonical, w_plus = canonical.double(), w_plus.double()
    mean = canonical.mean(dim=0)
    unit = (canonical - mean).square().sum(dim=1).mean().sqrt()
    factor = torch.linalg.cholesky(torch.cov(canonical.T))
    centres = w_plus.mean(dim=1, keepdim=True)
    whitened = torch.linalg.solve_triangular(factor, (w_plus - mean).mT, upper=False)  # [B, w_dim, n_layers]
    found = {
        "centre": (centres[:, 0] - mean).norm(dim=1) / unit,
        "rows": whitened.square().mean(dim=(1, 2)).sqrt(),
        "spread": (w_plus - centres).square().sum(dim=2).mean(dim=1).sqrt() / unit,
    }
    return pd.DataFrame({name: values.cpu().numpy() for name, values in found.items()})


def distance_strips(found: Mapping[str, pd.DataFrame], canonical: pd.DataFrame) -> Picture:
    """A panel a distance, a row a method (name: of `code_distances`): dots are inputs, a diamond their mean.

    canonical: of members of W_c itself; nine tenths of them lie within the grey band.
    """
    methods = list(in_row_order(found))
    with use_style():
        picture = Picture(2.6 * len(DISTANCES) + 2.2, 0.36 * len(methods) + 0.95)
        panels = picture.subplots(1, len(DISTANCES), sharey=True)
        for axes, (name, label) in zip(panels, DISTANCES.items(), strict=True):
            axes.axvspan(*canonical[name].quantile([0.05, 0.95]), color="0.85", zorder=0)
            for place, method in enumerate(methods):
                values, colour = found[method][name], method_colour(method)
                axes.plot(values, [-place] * len(values), "o", color=colour, ms=4, alpha=0.5, mew=0)
                axes.plot(values.mean(), -place, "D", color=colour, mec="white", ms=7)
            axes.set(xlabel=label, ylim=(0.6 - len(methods), 0.5))
            axes.set_xlim(left=0)
            axes.grid(axis="y", visible=False)
        names = [method_label(method) for method in methods]
        panels[0].set_yticks([-place for place in range(len(methods))], names)
        picture.tight_layout()
    return picture
