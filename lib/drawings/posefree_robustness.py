"""Drawings of what a wrong camera label does to an inversion: errors over how wrong it was, and the heads themselves.

Methods that are told a wrong camera are named `<method>-<ending>` (`lib.evaluation.methods.CAMERA_ERRORS`); a method
that asks for no camera has one row whatever the label. The unit is the scene, as in `lib.drawings.comparison`.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lib.cameras import Camera
from lib.datasets.scenes import Scene
from lib.drawings.comparison import VIEWS, metric_label
from lib.evaluation.measures import Comparison
from lib.evaluation.methods import CAMERA_ERRORS
from lib.evaluation.protocol import summarise
from lib.figures import Picture, image_grid, in_row_order, method_colour, method_label, signed, use_style
from lib.inversion import Inversion
from lib.runs.verdicts import run_by_all

OWN_CAMERA = "own camera, degrees off"
"""The metric that no table has: the angle between a head's camera and the true one. `own_camera_rows` makes it."""


# -------------------------------------------------------------------- which rows
def told_names(methods: Sequence[str], known: Collection[str] | None = None) -> dict[str, tuple[str, float]]:
    """Names of these methods and of their variants that are told a wrong camera: (method, degrees).

    known: names that count; None: all that there may be.
    """
    errors = {"": 0.0} | {f"-{ending}": math.degrees(error) for ending, error in CAMERA_ERRORS.items()}
    names = {
        method + ending: (method, round(error, 3)) for method in methods for ending, error in errors.items()
    }
    return {name: told for name, told in names.items() if known is None or name in known}


def told_wrongly(methods: Sequence[str], known: Collection[str]) -> list[str]:
    """Those of the methods of which `known` has the right label and a wrong one."""
    return [name for name in methods if name in known and len(told_names([name], known)) > 1]


def by_camera_error(
    table: pd.DataFrame, names: Mapping[str, tuple[str, float]], camera_free: Sequence[str]
) -> pd.DataFrame:
    """Rows of methods with a column `camera_error`, degrees, on the scenes on which all was run.

    names: as of `told_names`; `method` becomes that without its ending. Rows of the methods that ask for no camera
    (`camera_free`) have camera_error 0.
    """
    names = dict(names) | {name: (name, 0.0) for name in camera_free}
    rows = run_by_all(list(names), table)
    if rows.empty:
        raise ValueError(f"no scene of the table has all of {', '.join(names)}")
    told = rows["method"].map(names)
    return rows.assign(method=[method for method, _ in told], camera_error=[error for _, error in told])


# -------------------------------------------------------------------- cameras
def degrees_between(camera: Camera, other: Camera) -> float:
    """The angle between the viewing directions of two cameras."""
    first, second = (one.rotation[0, :, 2].double() for one in (camera, other))
    sine = torch.linalg.cross(first, second).norm()
    return math.degrees(torch.atan2(sine, first @ second).item())


def own_camera_rows(scene: str, degrees: Mapping[str, float]) -> pd.DataFrame:
    """Rows of OWN_CAMERA as `by_camera_error` takes them, of a scene: by name of the method."""
    rows = [(name, scene, True, OWN_CAMERA, value) for name, value in degrees.items()]
    return pd.DataFrame(rows, columns=["method", "scene", "is_input", "metric", "value"])


# -------------------------------------------------------------------- errors
def over_camera_error(rows: pd.DataFrame, panels: Sequence[tuple[str, str]], columns: int = 3) -> Picture:
    """Means with intervals over how wrong the camera was: a panel a (metric, views), a line a method.

    rows: as of `by_camera_error`. A method with one value alone, as it asks for no camera, is a dashed line with its
    interval as a band.
    """
    means = summarise(rows, ("method", "camera_error", "is_input", "metric"))
    errors = sorted(means["camera_error"].unique())
    lines = math.ceil((len(panels) + 1) / columns)  # one place is the legend's
    with use_style():
        picture = Picture(3.1 * columns, 2.75 * lines)
        places = picture.subplots(lines, columns, squeeze=False).flat
        for axes, (metric, views) in zip(places, panels, strict=False):
            part = means[(means["metric"] == metric) & (means["is_input"] == (views == "input"))]
            if part.empty:
                raise ValueError(f"the rows have no {metric} in {VIEWS[views]}")
            _error_lines(axes, part, errors)
            title = OWN_CAMERA if metric == OWN_CAMERA else f"{metric_label(metric)}, {VIEWS[views]}"
            axes.set_title(f"{title}, n {part['n'].max()}", size=9)
            if metric == OWN_CAMERA:
                axes.plot(errors, errors, color="0.6", lw=0.8, ls=":", zorder=1)
        _legend(list(picture.axes)[len(panels) :], means.groupby("method")["camera_error"].nunique())
        picture.tight_layout()
    return picture


def _error_lines(axes: Axes, means: pd.DataFrame, errors: Sequence[float]) -> None:
    """Lines of one panel; methods stand a little aside, so that intervals can be read."""
    methods = list(in_row_order(dict.fromkeys(means["method"])))
    for place, name in enumerate(methods):
        points, colour = means[means["method"] == name].sort_values("camera_error"), method_colour(name)
        if len(points) == 1:
            axes.axhline(points["mean"].item(), color=colour, ls="--")
            if np.isfinite(points["low"].item()):
                axes.axhspan(points["low"].item(), points["high"].item(), color=colour, alpha=0.13, lw=0)
            continue
        at = points["camera_error"] + 0.35 * (place - (len(methods) - 1) / 2)
        axes.plot(at, points["mean"], "o-", color=colour, ms=4)
        axes.vlines(at, points["low"], points["high"], color=colour, lw=1.3)
    axes.set_xticks(errors, [f"{error:g}" for error in errors])
    axes.set_xlabel("label off by, degrees of yaw")
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _legend(free: Sequence[Axes], labels: pd.Series) -> None:
    """The methods' names in the first place that no panel takes; the others stay empty. labels: how many, by method."""
    for axes in free:
        axes.set_axis_off()
    entries = [
        Line2D([], [], color=method_colour(name), marker="o", ms=4, label=method_label(name))
        if labels[name] > 1
        else Line2D([], [], color=method_colour(name), ls="--", label=f"{method_label(name)}, asks for none")
        for name in in_row_order(dict.fromkeys(labels.index))
    ]
    free[0].legend(handles=entries, loc="center")


# -------------------------------------------------------------------- heads
@torch.no_grad()
def told_heads(
    scene: Scene, heads: Mapping[str, Mapping[float, Inversion]], aside: str, *, cell: float = 0.98
) -> Picture:
    """Heads by method and by how wrong its camera was, degrees: all in the input's view, then all in the view `aside`.

    Views are as far from a head's own camera as they truly are from the photo's. The truth stands in the last row.
    """
    heads = in_row_order(heads)
    errors = sorted({error for found in heads.values() for error in found})
    views = (scene.input_name, aside)
    rows = [
        [picture for view in views for picture in _seen(found, errors, scene, view)]
        for found in heads.values()
    ]
    gaps = [None] * (len(errors) - 1)
    rows.append([picture for view in views for picture in (scene.views[view].image[0], *gaps)])
    side = f"yaw {signed(scene.views[aside].camera.yaw.item())}"
    titles = [
        f"{where}, {error:g}°" if error == errors[0] else f"{error:g}°"
        for where in ("photo", side)
        for error in errors
    ]
    return image_grid(rows, [*map(method_label, heads), "truth"], titles, cell=cell)


def _seen(
    found: Mapping[float, Inversion], errors: Sequence[float], scene: Scene, view: str
) -> list[torch.Tensor | None]:
    """The pictures [3, R, R] of a view, one for each error of the camera; None where there is no head."""
    return [
        Comparison(found[error].still(), scene, view).image[0] if error in found else None for error in errors
    ]
