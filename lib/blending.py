"""Two pictures joined along a mask, and a picture completed from what is known of it.

HFGI3D (Xie et al., 2023), appendix A.1: a pseudo view is the photo where the warp shows it and the generator's
picture elsewhere; the mask is eroded by a pixel, and the seam softened by a Gaussian or by Poisson blending.
Pictures are [B, C, R, R]; masks [B, 1, R, R] are bool or 0 to 1, and say where the photo is known.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.linalg import splu
from scipy.spatial import Delaunay, QhullError
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from lib.shapes import FeatureMaps, SingleMaps, checked

Masks = SingleMaps | Bool[Tensor, "batch 1 height width"]

DEVIATIONS = 2.0
"""Standard deviations at which the Gaussian of a seam ends: the appendix gives its radius only."""


# -------------------------------------------------------------------- masks


@checked
def eroded(mask: Masks, radius: int) -> Masks:
    """A mask less `radius` pixels along its edge: the minimum over squares of 2 radius + 1 pixels.

    HFGI3D appendix A.1 (1 pixel at 512); the released code takes a radius of 25 for the head's outline. What lies
    outside the picture does not erode. bool gives bool. ValueError for a negative radius.
    """
    _require_radius(radius)
    if mask.dtype == torch.bool:
        return eroded(mask.float(), radius) > 0.5
    side = 2 * radius + 1
    columns = F.max_pool2d(-mask, (side, 1), stride=1, padding=(radius, 0))
    return -F.max_pool2d(columns, (1, side), stride=1, padding=(0, radius))


@checked
def softened(mask: Masks, radius: float) -> SingleMaps:
    """A mask whose edge is a ramp inside it: mask * max(0, 2 gaussian(mask) - 1), in floats.

    HFGI3D appendix A.1 (radius 10 at 512). A plain blur is one half at the edge and uses colours from outside
    the mask; this one begins at 0 there. The Gaussian ends at `radius` pixels, `DEVIATIONS` of it: a pixel with
    no edge within that many rows and columns is exactly 1. The picture's border is no edge. A radius below 1
    changes nothing. ValueError for a negative radius.
    """
    _require_radius(radius)
    mask = mask if mask.is_floating_point() else mask.to(torch.get_default_dtype())
    outside = _blurred(1 - mask, radius)  # of the outside, so that far from it the sum is exactly 0
    return mask * (1 - 2 * outside).clamp(min=0)


def _blurred(maps: Tensor, radius: float) -> Tensor:
    reach = int(radius)
    if reach == 0:
        return maps
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    weights = torch.exp(-((DEVIATIONS * offsets / radius) ** 2) / 2)
    weights = weights / weights.sum()
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))


# -------------------------------------------------------------------- two pictures


@checked
def blend(visible: FeatureMaps, occluded: FeatureMaps, mask: Masks) -> FeatureMaps:
    """mask * visible + (1 - mask) * occluded: HFGI3D appendix A.1. Gradients reach both pictures and the mask."""
    mask = mask.to(visible.dtype)
    return mask * visible + (1 - mask) * occluded


@checked
def poisson_blend(visible: FeatureMaps, occluded: FeatureMaps, mask: Masks) -> FeatureMaps:
    """`visible` in the mask; outside it `occluded`, its colours shifted smoothly to meet those of `visible`.

    HFGI3D appendix A.1, by Perez et al. (2003) eq. 7: outside the mask the Laplacian of the result is that of
    `occluded`; beside the mask its neighbours are `visible`; no flux crosses the picture's border. Both have the
    same Laplacian, so what is solved for is their difference, a harmonic function. It lies between the extremes
    of visible - occluded along the edge; the result may leave [-1, 1] by as much. An empty mask gives `occluded`.
    ValueError for a mask that is not 0 and 1. No gradients.
    """
    shift = _completed(visible - occluded, mask, _harmonic, where_nothing_is_known=0.0)
    return visible.detach().where(_certain(mask), occluded.detach() + shift)


def _harmonic(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values [N, C] at the N unknown pixels that have no Laplacian there, out of values [R, R, C] elsewhere.

    One known pixel makes the solution unique: every region of unknown pixels lies beside a known one.
    """
    laplacian = _laplacian(*known.shape)
    unknown = ~known.ravel()
    rows = laplacian[unknown]
    flat = values.reshape(-1, values.shape[-1])
    # Symmetric and positive definite: this ordering and pivots from the diagonal keep the factors sparse.
    factors = splu(
        csc_array(rows[:, unknown]),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return factors.solve(-(rows[:, ~unknown] @ flat[~unknown]))


def _laplacian(height: int, width: int) -> csr_array:
    """Negative Laplacian [P, P] of the P = height * width pixels, without flux through the picture's border.

    Row p applied to values is n f(p) less the sum of f over the n neighbours of p in the picture, 2 to 4.
    """
    pixel = np.arange(height * width).reshape(height, width)
    one = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
    other = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
    pairs = np.concatenate([one, other]), np.concatenate([other, one])
    adjacent = coo_array((np.ones(len(pairs[0])), pairs), shape=(pixel.size, pixel.size)).tocsr()
    return diags_array(adjacent.sum(axis=1)).tocsr() - adjacent


# -------------------------------------------------------------------- one picture


@checked
def interpolated(picture: FeatureMaps, mask: Masks) -> FeatureMaps:
    """A picture whose pixels outside the mask are interpolated linearly from those in it.

    HFGI3D Fig. 5, ablation: the occluded part without the generator. Linear on the Delaunay triangles of the
    known pixels; beyond their hull, and where they lie on one line, the colour of the nearest. No gradients.
    ValueError for a mask that is empty or not 0 and 1.
    """
    return _completed(picture, mask, _piecewise_linear)


def _piecewise_linear(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    places, wanted = np.argwhere(known), np.argwhere(~known)
    nearest = NearestNDInterpolator(places, values[known])(wanted)
    try:
        triangles = Delaunay(places)
    except QhullError:  # fewer than three pixels, or all on one line
        return nearest
    linear = LinearNDInterpolator(triangles, values[known])(wanted)
    return np.where(np.isnan(linear), nearest, linear)


@checked
def inpainted(picture: FeatureMaps, mask: Masks) -> FeatureMaps:
    """A picture whose pixels outside the mask are inpainted in 2D, by the biharmonic equation.

    HFGI3D section 3.2 argues that filling each view by itself is less consistent in 3D than the generator's
    filling: this is the rival. Colours stay in the range of the known ones. No gradients. ValueError for a mask
    that is empty or not 0 and 1.
    """
    return _completed(picture, mask, _biharmonic)


def _biharmonic(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    return inpaint_biharmonic(values, ~known, channel_axis=-1)[~known]


# -------------------------------------------------------------------- what the fillings share


def _completed(
    pictures: Tensor,
    mask: Tensor,
    fill: Callable[[np.ndarray, np.ndarray], np.ndarray],
    where_nothing_is_known: float | None = None,
) -> Tensor:
    """Pictures kept in the mask; their N other pixels are `fill(values [R, R, C], known [R, R])`, [N, C]."""
    known = _certain(mask)[:, 0].cpu().numpy()
    values = pictures.detach().double().permute(0, 2, 3, 1).cpu().numpy().copy()
    for number, (picture, here) in enumerate(zip(values, known, strict=True)):
        if not here.any() and where_nothing_is_known is None:
            raise ValueError(
                f"the mask of picture {number} is empty: there is nothing to fill it from; leave this picture out"
            )
        if not here.all():
            picture[~here] = fill(picture, here) if here.any() else where_nothing_is_known
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous().to(pictures)


def _certain(mask: Tensor) -> Tensor:
    """The mask as bool; ValueError where it is neither 0 nor 1."""
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"expected a mask of 0 and 1; got values from {mask.min():.3g} to {mask.max():.3g}: "
            "threshold it, and soften it only for `blend`"
        )
    return mask.bool()


def _require_radius(radius: float) -> None:
    if not 0 <= radius < math.inf:
        raise ValueError(f"expected a radius of 0 or more pixels; got {radius}")
