"""What the terms of pose-free inversion do (Luo & Ghosh, table 2, figure 7): errors at the border of a head and within.

The paper shows artifacts "near facial boundaries" in pictures. Where the truth is known, a head has a border, and errors
there can be measured apart from those inside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lib.datasets.scenes import Scene
from lib.evaluation.measures import Comparison
from lib.evaluation.protocol import views_measured
from lib.figures import Picture, method_colour, method_label, use_style
from lib.inversion.result import StillHead

BORDER = 0.05
"""How far from its silhouette the border of a head reaches inwards, as a share of the picture's side."""

FEWEST_PIXELS = 20
"""Of a place in a view, below which its mean says nothing."""


# -------------------------------------------------------------------- border and inside
def border_and_inside(mask: Tensor, width: float = BORDER) -> dict[str, Tensor]:
    """Of a head [1, 1, R, R], bool: its pixels within `width` of a side (in rows or columns) of what is not head, and
    the others. Beyond the picture's edge there may be more of the head: that is no border."""
    reach = max(1, round(width * mask.shape[-1]))
    beside = F.max_pool2d((~mask).float(), 2 * reach + 1, stride=1, padding=reach) > 0
    return {"border": mask & beside, "inside": mask & ~beside}


def errors_by_place(
    method: str, head: StillHead, scene: Scene, views: Sequence[str] = (), width: float = BORDER
) -> pd.DataFrame:
    """A row for each view, place and metric: method, scene, view, place, metric, value.

    mse of the picture, and depth_error (mean, world units), over the pixels of the place whose depth is known.
    views: names; none: all whose head and depth are known, the input's among them.
    """
    rows = []
    for name in views_measured(scene, views or None):
        view = scene.views[name]
        if view.depth is None or view.mask is None:
            continue
        seen = Comparison(head, scene, name)
        known = ~seen.true_depth.isnan() & seen.known
        maps = {
            "mse": (seen.image - seen.target).square().mean(dim=1, keepdim=True),
            "depth_error": (seen.depth - seen.true_depth).abs(),
        }
        for place, pixels in border_and_inside(view.mask, width).items():
            about = (method, scene.name, name, place)
            rows += [(*about, metric, _mean_over(values, pixels & known)) for metric, values in maps.items()]
    return pd.DataFrame(rows, columns=["method", "scene", "view", "place", "metric", "value"])


def _mean_over(values: Tensor, pixels: Tensor) -> float:
    return values[pixels].mean().item() if pixels.sum() >= FEWEST_PIXELS else np.nan


# -------------------------------------------------------------------- spread over seeds
@dataclass(frozen=True)
class SeededRun:
    """An inversion with one seed: its reconstruction loss at each step, its LPIPS and yaw (radians) at the end."""

    losses: Sequence[float]
    lpips: float
    yaw: float


def spread(runs: Sequence[SeededRun], quantity: str = "lpips") -> float:
    """Standard deviation over seeds of what came out in the end; a sample's, so it takes two."""
    if len(runs) < 2:
        raise ValueError(f"a spread over seeds takes 2 runs or more; got {len(runs)}")
    return float(np.std([getattr(run, quantity) for run in runs], ddof=1))


def over_seeds(panels: Mapping[str, Mapping[str, Sequence[SeededRun]]], fine_from: float) -> Picture:
    """A row a scene (title: {method: a run a seed}): the loss over the steps, LPIPS and yaw of the end.

    fine_from: the step from which a run in two stages compares at full resolution; before it, its loss is of a smaller
    picture and does not compare.
    """
    methods = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    with use_style():
        picture = Picture(8.4, 2.3 * len(panels) + 0.5)
        grid = picture.subplots(len(panels), 3, squeeze=False, width_ratios=(2.4, 1, 1))
        for (curves, *ends), (title, runs) in zip(grid, panels.items(), strict=True):
            curves.axvline(fine_from, color="0.6", lw=0.9, ls=":")
            for place, (name, of_method) in enumerate(runs.items()):
                for run in of_method:
                    curves.plot(run.losses, color=method_colour(name), lw=1.2)
                for axes, quantity in zip(ends, ("lpips", "yaw"), strict=True):
                    _dots(axes, place, [getattr(run, quantity) for run in of_method], name)
            curves.set(title=title, ylabel="L1 + LPIPS", yscale="log")
            for axes, quantity in zip(ends, ("LPIPS in the end", "yaw found, rad"), strict=True):
                axes.set(title=quantity, xlim=(-0.6, len(runs) - 0.4), xticks=[])
                axes.yaxis.set_major_locator(MaxNLocator(4))
        grid[-1][0].set_xlabel("step")
        entries = [
            Line2D([], [], color=method_colour(name), marker="o", ms=5, label=method_label(name))
            for name in methods
        ]
        picture.tight_layout(rect=(0, 0, 1, 1 - 0.3 / picture.get_figheight()))
        picture.legend(handles=entries, loc="upper center", ncols=len(entries))
    return picture


def _dots(axes: Axes, place: int, values: Sequence[float], method: str) -> None:
    """A dot a seed, and a bar one standard deviation to either side of their mean."""
    colour, mean = method_colour(method), float(np.mean(values))
    axes.plot([place + 0.18] * len(values), values, "o", color=colour, ms=5, alpha=0.8)
    if len(values) > 1:
        deviation = float(np.std(values, ddof=1))
        axes.vlines(place - 0.12, mean - deviation, mean + deviation, color=colour, lw=2.4)
    axes.plot(place - 0.12, mean, "D", color=colour, mec="white", ms=6.5)
