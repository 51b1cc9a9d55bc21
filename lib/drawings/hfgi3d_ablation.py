"""What the ablations of HFGI3D (Xie et al., 2023, figure 5) do to what the photo shows, and to what it hides.

The paper shows pictures. Where the truth is known, each pixel of another view is one that the photo shows or one that
something hides from it, and the two can be measured apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from lib.datasets.scenes import Scene
from lib.drawings.scenes import KIND_COLOURS
from lib.evaluation.measures import Comparison
from lib.evaluation.protocol import views_measured
from lib.figures import Picture, method_colour, method_label, use_style
from lib.images import resize
from lib.inversion.hfgi3d import PseudoViews
from lib.inversion.result import StillHead
from lib.meshes import shape_view
from lib.metrics.statistics import FEWEST, mean_interval
from lib.perceptual import Perceptual
from lib.warping import pixels_in_view, sample_at, warp

NEAR = 0.02
"""World units within which two surfaces are the same, about what a pixel of 64 spans on a slanted cheek."""

FEWEST_PIXELS = 20
"""Of a part of a view, below which its mean says nothing."""


# -------------------------------------------------------------------- what the photo shows of another view
@dataclass(frozen=True)
class Parts:
    """Pixels [1, 1, R, R] of the head in a true view, bool: those whose surface the photo shows, and those it hides."""

    visible: Tensor
    hidden: Tensor


def parts_of_view(scene: Scene, name: str, near: float = NEAR) -> Parts:
    """Visible and hidden pixels of a view, by the scene's true depth.

    Visible: the photo shows a surface within `near` of the pixel's. Hidden: what the photo shows there is nearer to
    it by more than that, or the place lies beyond its border. A pixel whose own depth, or whose place in the photo, is
    unknown is neither, and so is one where the photo looks past: that is the edge of the head, where depths mix.
    """
    view, photo = scene.views[name], scene.input
    if view.depth is None or photo.depth is None:
        raise ValueError(f"visibility needs true depth, and {scene.name} has none in {name} or its input")
    side = view.image.shape[-1]
    uv, distance = pixels_in_view(view.camera, view.depth, photo.camera)
    beyond = ((uv <= 0) | (uv >= 1)).any(dim=-1).reshape(1, 1, side, side)
    shown = sample_at(photo.depth, uv) - distance.reshape(1, 1, side, side)
    of_head = ~view.depth.isnan()
    for known in (view.mask, view.known):
        of_head = of_head if known is None else of_head & known
    truly = torch.ones_like(of_head) if photo.known is None else sample_at(photo.known.float(), uv) > 0.999
    return Parts(
        visible=of_head & ~beyond & truly & (shown.abs() <= near),
        hidden=of_head & (beyond | (truly & (shown < -near))),
    )


def part_errors(image: Tensor, scene: Scene, name: str) -> dict[str, float]:
    """MSE of a picture [1, 3, R, R] of a view, by part; NaN for a part of fewer than FEWEST_PIXELS."""
    squares = (image - scene.views[name].image).square().mean(dim=1, keepdim=True)
    return {part: _mean_within(squares, pixels) for part, pixels in vars(parts_of_view(scene, name)).items()}


def errors_by_part(
    method: str, head: StillHead, scene: Scene, perceptual: Perceptual, views: Sequence[str] = ()
) -> pd.DataFrame:
    """A row for each view that the photo is not, part and metric: method, scene, scene_kind, view, part, metric, value.

    mse, and depth_error (mean, world units): over the pixels of the part. lpips: of the view with its other pixels
    replaced by the true ones, so that they count nothing. views: their names; none: all that are known.
    """
    rows = []
    for name in views_measured(scene, views or None):
        if name == scene.input_name or scene.views[name].depth is None:
            continue
        seen = Comparison(head, scene, name)
        depth = (seen.depth - seen.true_depth).abs()
        for part, pixels in vars(parts_of_view(scene, name)).items():
            patched = seen.image.where(pixels, seen.target)
            values = {
                "mse": _mean_within((seen.image - seen.target).square().mean(dim=1, keepdim=True), pixels),
                "lpips": perceptual(patched, seen.target).item() if _enough(pixels) else np.nan,
                "depth_error": _mean_within(depth, pixels),
            }
            about = (method, scene.name, scene.extras.get("kind", ""), name, part)
            rows += [(*about, metric, value) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["method", "scene", "scene_kind", "view", "part", "metric", "value"])


def _mean_within(values: Tensor, pixels: Tensor) -> float:
    return values[pixels].mean().item() if _enough(pixels) else np.nan


def _enough(pixels: Tensor) -> bool:
    return pixels.sum().item() >= FEWEST_PIXELS


def box_amid(mask: Tensor, extent: float = 0.4) -> Tensor:
    """The square (u0, v0, u1, v1) [1, 4], `extent` of the picture wide, about the middle of a mask [1, 1, R, R]."""
    rows, columns = torch.nonzero(mask[0, 0], as_tuple=True)
    if not len(rows):
        raise ValueError("a mask that marks nothing has no middle: leave that picture out")
    middle = (torch.stack([columns, rows]).float().mean(dim=1) + 0.5) / mask.shape[-1]
    corner = (middle - extent / 2).clamp(0, 1 - extent)
    return torch.cat([corner, corner + extent])[None]


# -------------------------------------------------------------------- do filled views agree
@torch.no_grad()
def disagreement(views: PseudoViews, head: StillHead, apart: int = 1) -> float:
    """MSE between pseudo views, each warped into the one `apart` places on, where both are made up.

    The surface is that of `head`. NaN where no two views share anything made up.
    """
    side, n = views.blended.shape[-1], len(views)
    depth = torch.cat([resize(shape_view(head, camera).depth, side) for camera in views.camera])
    other = [(i + apart) % n for i in range(n)]
    sources = torch.cat([views.blended, views.occluded_mask], dim=1)[other]
    carried, shared = warp(sources, views.camera[other], depth[other], views.camera, depth, tolerance=NEAR)
    made_up = shared & (carried[:, 3:] > 0.999) & (views.occluded_mask > 0.999)
    squares = (carried[:, :3] - views.blended).square().mean(dim=1, keepdim=True)
    return squares[made_up].mean().item() if made_up.any() else np.nan


# -------------------------------------------------------------------- figures
@dataclass(frozen=True)
class Change:
    """How much larger a method's error is than the baseline's: a share for each scene, their mean and its interval.

    low, high: NaN for fewer scenes than an interval needs.
    """

    by_scene: Mapping[str, float]
    mean: float
    low: float
    high: float

    def recorded(self) -> dict[str, float]:
        """What a record takes: finite numbers."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        return {"n": len(self.by_scene)} | {name: x for name, x in numbers.items() if np.isfinite(x)}


def change_from(rows: pd.DataFrame, method: str, baseline: str, seed: int = 0) -> Change:
    """Of rows of one metric and part (`errors_by_part`): differences by scene, as shares of the baseline's mean."""
    by_view = rows.pivot(index=["scene", "view"], columns="method", values="value")
    by_scene = by_view[[method, baseline]].dropna().groupby(level="scene", sort=False).mean()
    shares = (by_scene[method] - by_scene[baseline]) / by_scene[baseline].mean()
    if len(shares) < FEWEST:
        return Change(shares.to_dict(), shares.mean(), np.nan, np.nan)
    found = mean_interval(shares.to_numpy(), seed=seed)
    return Change(shares.to_dict(), found.mean, found.low, found.high)


def changes_by_part(
    panels: Mapping[str, Mapping[str, Change]], baseline: str, kinds: Mapping[str, str], columns: int = 3
) -> Picture:
    """A panel a quantity (title: {method: change}), a row a method: dots are scenes, bars intervals of their mean.

    baseline: the method that stands at 0. kinds: of the scenes, which colour the dots. columns: panels in a row.
    """
    methods = list(dict.fromkeys(name for changes in panels.values() for name in changes))
    lines = math.ceil(len(panels) / columns)
    shown = [kind for kind in KIND_COLOURS if kind in kinds.values()]
    key = [Line2D([], [], color=KIND_COLOURS[kind], marker="o", lw=0, ms=5, label=kind) for kind in shown]
    with use_style():
        picture = Picture(2.35 * columns + 2.0, lines * (0.42 * len(methods) + 0.95) + 0.4)
        grid = picture.subplots(lines, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, changes) in zip(grid.flat, panels.items(), strict=False):
            for place, name in enumerate(methods):
                _change_row(axes, -place, changes[name], name, kinds)
            axes.axvline(0, color=method_colour(baseline), lw=1.4, zorder=1)
            n = max(len(change.by_scene) for change in changes.values())
            axes.set(title=f"{title}, n {n}", xlabel="%", ylim=(0.6 - len(methods), 0.5))
            axes.grid(axis="y", visible=False)
        grid[0, 0].set_yticks([-place for place in range(len(methods))], list(map(method_label, methods)))
        picture.tight_layout(rect=(0, 0, 1, 1 - 0.3 / picture.get_figheight()))
        picture.legend(handles=key, loc="upper right", ncols=len(key))
    return picture


def _change_row(axes: Axes, place: float, change: Change, method: str, kinds: Mapping[str, str]) -> None:
    for scene, share in change.by_scene.items():
        axes.plot(
            100 * share, place + 0.2, "o", color=KIND_COLOURS.get(kinds[scene], "0.5"), ms=4.5, alpha=0.8
        )
    axes.plot([100 * change.low, 100 * change.high], [place - 0.12] * 2, color=method_colour(method), lw=3)
    axes.plot(100 * change.mean, place - 0.12, "D", color=method_colour(method), mec="white", ms=7)


def bars_by_method(values: Mapping[str, Sequence[float]], labels: Sequence[str], axis: str) -> Picture:
    """Values of methods (name: a value a label), bars beside each other."""
    with use_style():
        picture = Picture(1.5 * len(labels) + 3.2, 2.7)
        axes = picture.add_axes((0.13, 0.14, 0.55, 0.8))
        width = 0.8 / len(values)
        for place, (name, found) in enumerate(values.items()):
            at = np.arange(len(labels)) + width * (place - (len(values) - 1) / 2)
            axes.bar(at, found, width, label=method_label(name), color=method_colour(name))
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylabel(axis)
        axes.grid(axis="x", visible=False)
        picture.legend(*axes.get_legend_handles_labels(), loc="center right")
    return picture
