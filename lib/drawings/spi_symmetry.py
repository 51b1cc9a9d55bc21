"""What the mirrored photo is worth: how wide faces are from all sides, and identity by the yaw of the photo.

Figures 8 and 6 of Yin et al., "3D GAN Inversion with Facial Symmetry Prior", CVPR 2023.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.scenes import Scene, View
from lib.drawings.comparison import TURN_STEP, metric_label
from lib.evaluation.protocol import summarise, views_measured
from lib.figures import METHODS, Picture, method_colour, method_label, use_style
from lib.meshes import seen_points
from lib.parsing import class_probabilities, part_masks
from lib.runs.verdicts import run_by_all

TRUTH = "truth"
"""The name of the true head among methods."""

WIDTH_PIXELS = 256
"""Side at which widths are counted: the parsing network sees more than the pictures have pixels."""

Line = tuple[Sequence[float], Sequence[float]]
"""Places and values of a curve."""


# -------------------------------------------------------------------- how wide a face is
def face_widths(images: Tensor) -> Tensor:
    """How wide the faces in pictures [B, 3, R, R] are, [B], by what the parsing network calls face."""
    return middle_widths(part_masks(class_probabilities(images), WIDTH_PIXELS)["face"])


def middle_widths(masks: Tensor) -> Tensor:
    """Mean width [B] of what masks [B, 1, R, R] mark, in the middle half of its rows; shares of the picture's side.

    Brow to mouth of a face: hair and collar, which cover the rest, would count otherwise. NaN where nothing is marked.
    """
    return torch.stack([_middle_width(mask[0] > 0) for mask in masks])


def _middle_width(mask: Tensor) -> Tensor:
    rows = torch.nonzero(mask.any(dim=1))[:, 0]
    if not len(rows):
        return torch.tensor(torch.nan)
    first, count = rows[0].item(), (rows[-1] - rows[0]).item() + 1
    middle = mask[first + count // 4 : first + count - count // 4]
    return middle.float().mean()


def width_over_yaw(panels: Mapping[str, Mapping[str, Line]]) -> Picture:
    """Width of the face over the yaw (radians) of the view: a panel a head (title: {method or truth: curve})."""
    return _panels_of_lines(panels, "yaw of the view, rad", "width of the face, share of the picture", "o")


# -------------------------------------------------------------------- a section through it
def horizontal_section(camera: Camera, depth: Tensor, height: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """x and z [R] in world units of the surface that a frontal view of depth [1, 1, R, R] has at y = `height`.

    NaN where the depth is.
    """
    side = depth.shape[-1]
    points = seen_points(camera, depth).reshape(side, side, 3)
    rows = (points[..., 1] - height).abs().nan_to_num(torch.inf).argmin(dim=0)
    x, _, z = points[rows, torch.arange(side)].T.cpu().numpy()
    return x, z


def sections(panels: Mapping[str, Mapping[str, Line]]) -> Picture:
    """Sections (x, z) from above, the face looking down: a panel a head (title: {method or truth: line}).

    Both axes have one scale: a stretched face looks stretched.
    """
    picture = _panels_of_lines(panels, "x", "z", "")
    for axes in picture.axes:
        axes.set_aspect("equal")
        axes.invert_yaxis()
    return picture


def _panels_of_lines(
    panels: Mapping[str, Mapping[str, Line]], x_label: str, y_label: str, marker: str
) -> Picture:
    """A panel a title, a line a name, the names above all panels."""
    if not panels:
        raise ValueError("a drawing of heads needs one head or more")
    with use_style():
        picture = Picture(max(3.1 * len(panels), 6.2), 3.6)
        grid = picture.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for name in _in_order(lines):
                axes.plot(*lines[name], marker=marker, ms=4.5, **_style(name))
            axes.set(title=title, xlabel=x_label)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        grid[0].set_ylabel(y_label)
        _key_above(picture, grid)
    return picture


# -------------------------------------------------------------------- identity by the input's yaw
def view_from_mirror(scene: Scene) -> View | None:
    """The true view of a scene that is nearest to the mirrored camera of its input; None where no other is known."""
    views = [scene.views[name] for name in views_measured(scene)]
    yaw = scene.input.camera.yaw.item()
    return min(views, key=lambda view: abs(view.camera.yaw.item() + yaw)) if len(views) > 1 else None


def by_input_yaw(
    table: pd.DataFrame,
    metric: str,
    methods: Sequence[str],
    truth: Mapping[str, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Means of a metric in the input's view over |yaw| of the input, on scenes on which all these methods were run.

    truth: by scene, what the true head would get; it is then one of the methods. |yaw| is rounded to TURN_STEP. A row
    for each scene_kind, method and input_yaw: mean, low, high, n, missing as `summarise` gives them.
    """
    rows = run_by_all(methods, table[(table["metric"] == metric) & table["is_input"]])
    if rows.empty:
        raise ValueError(f"no scene of the table has {metric} of all of {', '.join(methods)}")
    if truth:
        first = rows.drop_duplicates("scene")
        known = first[first["scene"].isin(truth)]
        rows = pd.concat([rows, known.assign(method=TRUTH, value=known["scene"].map(truth))])
    rounded = (rows["yaw"].abs() / TURN_STEP).round() * TURN_STEP
    return summarise(rows.assign(input_yaw=rounded), ("scene_kind", "method", "input_yaw"), seed=seed)


def over_input_yaw(means: pd.DataFrame, metric: str) -> Picture:
    """Means of `by_input_yaw` with their intervals: a panel a kind of scenes, a line a method, the truth in black."""
    kinds = list(means["scene_kind"].unique())
    with use_style():
        picture = Picture(max(3.1 * len(kinds), 6.2), 3.7)
        grid = picture.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, kind in zip(grid, kinds, strict=True):
            _lines_with_intervals(axes, means[means["scene_kind"] == kind])
            axes.set(title=kind, xlabel="|yaw| of the input, rad")
        grid[0].set_ylabel(metric_label(metric))
        _key_above(picture, grid)
    return picture


def _lines_with_intervals(axes: Axes, means: pd.DataFrame) -> None:
    names = _in_order(dict.fromkeys(means["method"]))
    for place, name in enumerate(names):
        points = means[means["method"] == name].sort_values("input_yaw")
        at = points["input_yaw"] + 0.012 * (
            place - (len(names) - 1) / 2
        )  # intervals beside each other can be read
        axes.plot(at, points["mean"], marker="o", ms=4.5, **_style(name))
        axes.vlines(at, points["low"], points["high"], color=_style(name)["color"], lw=1.4)
    counts = means.groupby("input_yaw")["n"].max()
    axes.set_xticks(counts.index, [f"{yaw:.1f}\nn {n}" for yaw, n in counts.items()])


# -------------------------------------------------------------------- parts
def _in_order(names: Mapping) -> list[str]:
    """Methods in the order of rows that all figures keep, the truth last, so that it is drawn on top."""
    return [name for name in (*METHODS, TRUTH) if name in names]


def _style(name: str) -> dict[str, str]:
    if name == TRUTH:
        return {"color": "black", "ls": "--", "label": TRUTH}
    return {"color": method_colour(name), "label": method_label(name)}


def _key_above(picture: Picture, grid: Sequence[Axes]) -> None:
    """The names of all lines above the panels, which keep clear of them."""
    named = {
        label: line for axes in grid for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    picture.tight_layout(rect=(0, 0, 1, 1 - 0.32 / picture.get_figheight()))
    picture.legend(named.values(), named.keys(), loc="upper center", ncols=len(named), columnspacing=1.2)
