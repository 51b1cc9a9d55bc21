"""Drawings about the canonical space of GOAE (Yuan et al., 2023): heads under several conditioning cameras, their
background, and how much the camera changes."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib.drawings.foundations import axis_names
from lib.drawings.metrics import SERIES_COLOURS
from lib.drawings.scenes import veiled
from lib.encoders.background import background_mask
from lib.figures import CELL, Picture, depth_colours, image_grid, signed, use_style
from lib.generators import EG3D
from lib.media import depth_limits
from lib.metrics.statistics import Interval

PLANE_REACH = 2.5
"""Deviations from the mean of a plane at which its picture is black or white."""


@torch.inference_mode()
def under_conditions(
    generator: EG3D,
    rows: Mapping[str, Tensor],
    reference: str,
    view_yaws: Sequence[float] = (-0.5, 0.0, 0.5),
    *,
    cell: float = CELL,
) -> Picture:
    """Figure 3: a row for each code [1, n_layers, w_dim]: views, their depths, and the mean of each plane's channels.

    reference: the row by which the grey levels of each plane are set. All depths share one scale.
    """
    if reference not in rows:
        raise ValueError(f"the reference is one of the rows {', '.join(rows)}, not {reference!r}")
    planes = {name: generator.planes(w_plus) for name, w_plus in rows.items()}
    yaws = torch.tensor(view_yaws)
    views = {
        name: generator.render(planes[name], w_plus, generator.camera(yaws)) for name, w_plus in rows.items()
    }
    limits = depth_limits(
        *(torch.cat([getattr(v, part) for v in views.values()]) for part in ("depth", "alpha"))
    )
    grid = [
        [
            *views[name].image,
            *(
                depth_colours(*pair, limits)
                for pair in zip(views[name].depth, views[name].alpha, strict=True)
            ),
            *plane_pictures(planes[name], planes[reference]),
        ]
        for name in rows
    ]
    angles = [signed(yaw) for yaw in view_yaws]
    names = ["".join(plane).upper() for plane in axis_names(generator.plane_axes)]
    columns = [*(f"view {a}" for a in angles), *(f"depth {a}" for a in angles), *names]
    return image_grid(grid, list(rows), columns, cell=cell)


def plane_pictures(planes: Tensor, reference: Tensor) -> list[Tensor]:
    """The mean over the channels of each plane of [1, 3, C, H, W] as an image [3, H, W], grey as in `reference`.

    The mean of the reference is mid grey.
    """
    mean, standard = planes[0].mean(dim=1), reference[0].mean(dim=1)
    centre, spread = (of(standard, dim=(1, 2), keepdim=True) for of in (torch.mean, torch.std))
    grey = ((mean - centre) / (PLANE_REACH * spread)).clamp(-1, 1)
    return list(grey[:, None].expand(-1, 3, -1, -1))


@torch.inference_mode()
def backgrounds(generator: EG3D, w_plus: Tensor, *, cell: float = CELL) -> Picture:
    """What the parser takes for the background of heads [n, n_layers, w_dim], seen from the front, a column each.

    Picture, the same pale where M of eq. 4 is 0, depth; below each the mean depth of its background. M has a cell for
    every ray.
    """
    seen = generator.synthesize(w_plus, generator.frontal_camera())
    mask = background_mask(seen.image, seen.depth.shape[-1])
    kept = veiled(seen.image, functional.interpolate(mask.float(), seen.image.shape[-1]) > 0)
    limits = depth_limits(seen.depth, seen.alpha)
    relief = [depth_colours(*maps, limits) for maps in zip(seen.depth, seen.alpha, strict=True)]
    means = [depth[m].mean().item() for depth, m in zip(seen.depth, mask, strict=True)]
    captions = [[""] * len(w_plus), [""] * len(w_plus), [f"{depth:.3f}" for depth in means]]
    labels = ["sample", "background", "depth"]
    return image_grid([list(seen.image), list(kept), relief], labels, captions=captions, cell=cell)


def change_panels(
    panels: Mapping[str, Mapping[str, Sequence[Interval]]], yaws: Sequence[float], scale: Mapping[str, float]
) -> Picture:
    """Changes over the conditioning yaw, one panel a title (title: {name: an interval for each yaw}).

    scale: by title, a factor on what is drawn, such as degrees per radian, where it is not 1. The canonical code, which
    changes nothing, stands at yaw 0.
    """
    if 0.0 in yaws:
        raise ValueError(f"yaw 0 is the canonical code, which is drawn anyway; got yaws {list(yaws)}")
    with use_style():
        drawing = Picture(3.1 * len(panels), 3.2)
        grid = drawing.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for colour, (name, intervals) in zip(cycle(SERIES_COLOURS), lines.items(), strict=False):
                found = [(each.mean, each.low, each.high) for each in intervals]
                points = sorted(
                    [(0.0, 0.0, 0.0, 0.0), *((yaw, *ends) for yaw, ends in zip(yaws, found, strict=True))]
                )
                places, *values = np.array(points).T
                mean, low, high = (scale.get(title, 1.0) * value for value in values)
                style = {"color": colour, "label": name, "marker": "o", "ms": 4, "capsize": 3}
                axes.errorbar(places, mean, (mean - low, high - mean), **style)
            axes.set(title=title, xlabel="conditioning yaw, rad")
        grid[0].legend()
        drawing.tight_layout()
    return drawing
