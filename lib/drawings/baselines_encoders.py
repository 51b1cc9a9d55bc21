"""Drawings about pSp, e4e and TriPlaneNet: what each level of the pyramid listens to, what is added to the planes, and
what an encoder's code is worth as the start of an optimisation."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lib.cameras import Camera
from lib.drawings.foundations import axis_names
from lib.encoders.psp import PSPEncoder
from lib.encoders.triplanenet import TriPlaneNet
from lib.figures import CELL, Picture, image_grid, in_row_order, method_colour, method_label, use_style
from lib.generators import EG3D
from lib.images import resize

LEVELS = ("coarse", "mid", "fine")
"""Of pSp's pyramid, in the order of the layers that they decide."""

PLANE_COLOURS = "magma"


# -------------------------------------------------------------------- the pyramid
def layers_of_levels(levels: Sequence[int]) -> dict[str, slice]:
    """The layers of the code that each level decides (`PSPConfig.levels`: how many each)."""
    ends = [0, *np.cumsum(levels).tolist()]
    return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(LEVELS)}


@torch.no_grad()
def moved_by_blur(
    network: PSPEncoder, images: Tensor, widths: Sequence[float]
) -> dict[str, tuple[list[float], list[float]]]:
    """How far the codes of each level move as photos [B, 3, R, R] lose their fine detail: (widths, shares of length).

    widths: deviations of Gaussian blurs, pixels. A share is |w(blurred) - w| / |w|, of offsets from the mean code, over
    all photos and all layers of the level.
    """
    images = resize(images, network.config.resolution)
    sharp = network(images)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in LEVELS}
    for width in widths:
        blurred = gaussian_filter(images.cpu().numpy(), (0, 0, width, width), mode="nearest")
        moved = network(torch.from_numpy(blurred).to(images)) - sharp
        for name, layers in layers_of_levels(network.config.levels).items():
            found[name][0].append(float(width))
            found[name][1].append((moved[:, layers].norm() / sharp[:, layers].norm()).item())
    return found


# -------------------------------------------------------------------- offsets to planes
@torch.no_grad()
def residuals(generator: EG3D, planes: Tensor, w_plus: Tensor, camera: Camera, image: Tensor) -> list[Tensor]:
    """What TriPlaneNet looks at, each [1, 3, R, R]: the picture of a code's planes, what it misses of the photo, and
    what its mirrored view misses of the mirrored photo."""
    seen = generator.render(planes, w_plus, camera).image
    mirrored = generator.render(planes, w_plus, camera.mirror()).image
    return [seen, image - seen, image.flip(-1) - mirrored]


@torch.no_grad()
def without_mirror(network: TriPlaneNet, seen: Sequence[Tensor], planes: Tensor) -> Tensor:
    """The offsets that a network of `residuals` says if the mirrored view misses nothing: [1, 3, C, S, S]."""
    picture, missed, _ = (resize(each, network.config.resolution) for each in seen)
    return network(picture, picture + missed, picture, picture, planes=planes)


def plane_heat(planes: Tensor, limit: float) -> list[np.ndarray]:
    """Each plane of [1, 3, C, S, S] as bytes [S, S, 3]: root mean square over channels, brightest from `limit` on."""
    strength = planes[0].square().mean(dim=1).sqrt().cpu().numpy()
    return [
        np.round(255 * colormaps[PLANE_COLOURS]((each / limit).clip(0, 1))[..., :3]).astype(np.uint8)
        for each in strength
    ]


@torch.no_grad()
def offsets_shown(
    generator: EG3D,
    seen: Sequence[Tensor],
    planes: Tensor,
    refined: Tensor,
    views: Sequence[tuple[Tensor, Camera]],
    w_plus: Tensor,
    *,
    cell: float = CELL,
) -> Picture:
    """TriPlaneNet from its inputs to its heads, two rows.

    First the three that it sees (`residuals`), then the strength of what it adds to each plane. Below, for each view
    (true picture, camera): the code's head, the head with the offsets, and the truth.
    """
    offset = refined - planes
    limit = max(offset[0].square().mean(dim=1).sqrt().max().item(), 1e-6)
    picture, *missed = seen
    names = ["".join(plane).upper() for plane in axis_names(generator.plane_axes)]
    first = [picture[0], *(each[0] for each in missed), *plane_heat(offset, limit)]
    notes = ["code's picture", "it misses", "mirror misses", *(f"added to {name}" for name in names)]
    second, below = [], []
    for (true, camera), place in zip(views, ("input", "side"), strict=True):
        second += [
            generator.render(planes, w_plus, camera).image[0],
            generator.render(refined, w_plus, camera).image[0],
            true[0],
        ]
        below += [f"{place}: code", f"{place}: offsets", f"{place}: truth"]
    return image_grid([first, second], captions=[notes, below], cell=cell)


# -------------------------------------------------------------------- a start for optimisation
def steps_to(values: Sequence[float], level: float) -> int | None:
    """After how many steps a history has first come down to a level; None if it never does."""
    reached = np.flatnonzero(np.asarray(values) <= level)
    return int(reached[0]) + 1 if len(reached) else None


def steps_saved(
    from_mean: Sequence[float], from_code: Sequence[float], before: int = 0
) -> dict[str, float | int | None]:
    """What a start saves at equal quality: the best value of the run from a code, and the steps of both to it.

    before: steps that the other run takes before its history begins. `from_mean` and `saved` are None where that run
    never comes so far.
    """
    level = min(from_code)
    mean, code = steps_to(from_mean, level), steps_to(from_code, level)
    mean = None if mean is None else mean + before
    return {
        "level": level,
        "from_mean": mean,
        "from_code": code,
        "saved": None if mean is None else mean - code,
    }


def starts_compared(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    label: str,
    before: Mapping[str, int] | None = None,
) -> Picture:
    """Histories over steps: a panel a title (title: {method: a history for each input}), a thin line an input, a thick
    one their mean.

    before: by method, the steps that it takes before its history begins.
    """
    with use_style():
        picture = Picture(3.4 * len(panels), 2.8)
        grid = picture.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, methods) in zip(grid, panels.items(), strict=True):
            for name, histories in in_row_order(methods).items():
                first, colour = (before or {}).get(name, 0), method_colour(name)
                for history in histories:
                    axes.plot(_steps(first, history), history, color=colour, lw=0.6, alpha=0.4)
                shortest = min(map(len, histories))
                mean = np.mean([history[:shortest] for history in histories], axis=0)
                axes.plot(_steps(first, mean), mean, color=colour, lw=2, label=method_label(name))
            counts = sorted({len(histories) for histories in methods.values()})
            axes.set(title=f"{title}, n {' and '.join(map(str, counts))}", xlabel="steps", ylabel=label)
            axes.set_yscale("log")
            axes.legend()
        picture.tight_layout()
    return picture


def _steps(first: int, values: Sequence[float]) -> np.ndarray:
    """The step of each entry of a history that begins after `first` steps."""
    return first + np.arange(len(values))
