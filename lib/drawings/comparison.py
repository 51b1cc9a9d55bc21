"""Drawings of results: the heads that methods make of one input, and what tables of `lib.evaluation` say of all inputs.

Tables have the columns of `lib.evaluation.COLUMNS`. Methods are drawn on common scenes (`on_common_scenes`). The unit is
the scene: views of a scene that fall together count as one value, their mean, and an interval is a bootstrap over scenes
at 95 %. Fewer than three scenes have a mean and no interval.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.drawings.scenes import known_part
from lib.evaluation.measures import in_head_frame
from lib.evaluation.protocol import summarise, views_measured
from lib.figures import (
    CELL,
    Picture,
    depth_colours,
    image_grid,
    in_row_order,
    method_colour,
    method_label,
    signed,
    use_style,
)
from lib.generators import EG3D, Rendering
from lib.media import depth_limits
from lib.meshes import Head, shape_view
from lib.metrics.statistics import FEWEST, mean_interval
from lib.runs.claims import Test
from lib.runs.verdicts import paired_values, run_by_all

VIEWS = {"input": "input view", "novel": "other views"}
"""How figures write which views count, by the ledger's words."""

TURN_STEP = 0.3
"""Radians: views that are turned from their inputs by about the same are drawn together."""

METRICS = {
    "mse": ("MSE", "lower"),
    "mae": ("MAE", "lower"),
    "psnr": ("PSNR, dB", "higher"),
    "ssim": ("SSIM", "higher"),
    "ms_ssim": ("MS-SSIM", "higher"),
    "lpips": ("LPIPS", "lower"),
    "painted_error": ("MSE within the paint", "lower"),
    "identity": ("identity", "higher"),
    "mirrored_identity": ("identity, mirrored", "higher"),
    "pose_error": ("pose error", "lower"),
    "depth_error": ("depth error, normalised", "lower"),
    "depth_correlation": ("depth correlation", "higher"),
    "mean_depth_error": ("mean depth error", "lower"),
    "median_depth_error": ("median depth error", "lower"),
    "normal_error": ("normal error, degrees", "lower"),
    "consistency_psnr": ("PSNR of predicted view, dB", "higher"),
    "consistency_ssim": ("SSIM of predicted view", "higher"),
    "consistency_lpips": ("LPIPS of predicted view", "lower"),
}
"""Name: (how figures write it, which way is better) of the metrics that are drawn; others are written as they are."""


def metric_label(metric: str) -> str:
    """How a metric is written, with an arrow to where it is better."""
    if metric not in METRICS:
        return metric
    label, better = METRICS[metric]
    return f"{label} {'↓' if better == 'lower' else '↑'}"


# -------------------------------------------------------------------- heads
@torch.no_grad()
def scene_heads(
    scene: Scene,
    heads: Mapping[str, Head],
    yaws: Sequence[float] | None = None,
    with_depth: bool = True,
    *,
    cell: float = CELL,
) -> Picture:
    """What methods (name: inversion) make of a scene's input, a row a method, the truth in the last row.

    Columns: the input's view, views from side to side, and with `with_depth` depth from the input and from the side that
    is turned most. yaws: radians; None takes the scene's own views, or those that all scenes have where it has none.
    What is not known of the truth leaves gaps. One column has one scale of depths, that of the truth where it is known.
    """
    if not heads:
        raise ValueError(f"a comparison on {scene.name} needs the head of one method or more")
    heads = in_row_order(heads)
    generator = next(iter(heads.values())).generator
    columns = _views_from_side_to_side(scene, generator, yaws)
    rows = [
        [head.render(_own(head, scene, camera)).image[0] for camera, _ in columns]
        for head in (each.still() for each in heads.values())
    ]
    rows.append([None if true is None else known_part(true) for _, true in columns])
    titles = ["input", *(f"yaw {signed(camera.yaw.item())}" for camera, _ in columns[1:])]
    if with_depth:
        furthest = max(columns, key=lambda column: _turn(column[0], scene.input.camera))
        for camera, true in (columns[0], furthest):
            for row, depth in zip(rows, _depth_column(heads, scene, camera, true), strict=True):
                row.append(depth)
            titles.append(f"depth {signed(camera.yaw.item())}")
    truth = "truth" if any(true is not None for _, true in columns[1:]) else "photo"
    return image_grid(rows, [*map(method_label, heads), truth], titles, cell=cell)


def _views_from_side_to_side(
    scene: Scene, generator: EG3D, yaws: Sequence[float] | None
) -> list[tuple[Camera, View | None]]:
    """Cameras, one each, with the truth from there if there is one: first the input, then in the order of yaws."""
    known = {name: scene.views[name] for name in views_measured(scene) if name != scene.input_name}
    if yaws is None and known:
        others = [(view.camera, view) for view in known.values()]
    else:
        wanted = {yaw_name(yaw): yaw for yaw in (YAWS if yaws is None else yaws)}
        wanted.pop(scene.input_name, None)  # which stands first
        others = [
            (known[name].camera, known[name])
            if name in known
            else (generator.camera(torch.tensor([yaw]), torch.zeros(1)).to("cpu"), None)
            for name, yaw in wanted.items()
        ]
    others.sort(key=lambda column: column[0].yaw.item())
    return [(scene.input.camera, scene.input), *others]


def _own(head: Head, scene: Scene, camera: Camera) -> Camera:
    """A camera of the scene in the head's frame, on its device."""
    return in_head_frame(head, scene, camera).to(head.w_plus.device)


def _turn(camera: Camera, other: Camera) -> float:
    return (camera.yaw - other.yaw).abs().item()


def _depth_column(
    heads: Mapping[str, Head], scene: Scene, camera: Camera, true: View | None
) -> Iterator[np.ndarray | None]:
    """Depth of each head from a camera, then the true one or None, all on one scale."""
    views = [shape_view(head, _own(head, scene, camera)) for head in heads.values()]
    known = None if true is None else _known_depth(true)
    limits = depth_limits(*(known or _all_depths(views)))
    for view in views:
        yield depth_colours(view.depth[0], view.alpha[0], limits)
    yield None if known is None else depth_colours(*known, limits)


def _known_depth(true: View) -> tuple[Tensor, Tensor] | None:
    """True depth [1, R, R] of the head, and where it is known [1, R, R]; None where it is nowhere."""
    if true.depth is None or true.depth.isnan().all():
        return None
    known = ~true.depth.isnan()
    if true.mask is not None:
        known = known & true.mask
    return true.depth.where(known, true.depth[known].max())[0], known[0].float()


def _all_depths(views: Sequence[Rendering]) -> tuple[Tensor, Tensor]:
    return torch.cat([view.depth for view in views]), torch.cat([view.alpha for view in views])


# -------------------------------------------------------------------- tables
def error_by_yaw(table: pd.DataFrame, metric: str, methods: Sequence[str]) -> Picture:
    """A metric over how far a view is turned from the input, in yaw: a panel a kind of scenes, a line a method.

    Turns are rounded to TURN_STEP. Scenes of a point are those that have such a view, n of them as is written below:
    only inputs from the side have views that are turned by more than what lies between the front and a side.
    """
    rows = with_turn(_of_metric(table, metric, methods))
    means = summarise(rows, ("scene_kind", "method", "turn"))
    kinds = [kind for kind, part in means.groupby("scene_kind", sort=False) if part["turn"].nunique() > 1]
    if not kinds:
        raise ValueError(f"no scene of the table has {metric} in a view that is turned from its input")
    with use_style():
        picture = Picture(max(3.1 * len(kinds), 5.0), 3.6)
        panels = picture.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            of_kind = means[means["scene_kind"] == kind]
            for place, name in enumerate(in_row_order(dict.fromkeys(methods))):
                points = of_kind[of_kind["method"] == name].sort_values("turn")
                aside = 0.018 * (place - (len(methods) - 1) / 2)  # intervals beside each other can be read
                _line_with_intervals(axes, points["turn"] + aside, points, name)
            axes.set(title=kind, xlabel="turn from the input, rad")
            counts = of_kind.groupby("turn")["n"].max()
            axes.set_xticks(counts.index, [f"{turn:.1f}\nn {n}" for turn, n in counts.items()])
        panels[0].set_ylabel(metric_label(metric))
        _method_key(picture, methods)
    return picture


def with_turn(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `turn`: radians of yaw between view and input, rounded to TURN_STEP."""
    inputs = table[table["is_input"]].groupby("scene")["yaw"].first()
    turn = (table["yaw"] - table["scene"].map(inputs)).abs()
    return table.assign(turn=(turn / TURN_STEP).round() * TURN_STEP)


def quality_against_time(
    table: pd.DataFrame,
    metric: str,
    methods: Sequence[str],
    paper_seconds: Mapping[str, float] | None = None,
) -> Picture:
    """A metric over the seconds that an inversion takes: in the input's view, and in the other views beside it.

    All scenes count on which all methods were run. paper_seconds: by method, what papers report of their own machines,
    drawn as marks at the lower edge; no quality belongs to them here.
    """
    rows = run_by_all(methods, _of_metric(table, metric, methods))  # here, kinds are not apart
    seconds = rows.drop_duplicates(["method", "scene"]).groupby("method")["seconds"].mean()
    means = summarise(rows, ("is_input", "method"))
    with use_style():
        picture = Picture(7.6, 3.6)
        panels = picture.subplots(1, 2, sharex=True)
        for axes, is_input in zip(panels, (True, False), strict=True):
            points = means[means["is_input"] == is_input].set_index("method")
            for name in in_row_order(dict.fromkeys(points.index)):
                at = points.loc[[name]]
                _line_with_intervals(axes, seconds[[name]], at, name)
            axes.set(xscale="log", xlabel="seconds an inversion", ylabel=metric_label(metric))
            axes.set_title(f"{VIEWS['input' if is_input else 'novel']}, n {points['n'].max()}")
            for name, reported in (paper_seconds or {}).items():
                axes.plot(
                    reported,
                    0.02,
                    "D",
                    transform=axes.get_xaxis_transform(),
                    color=method_colour(name),
                    mfc="white",
                )
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        paper = [
            Line2D([], [], color="0.35", marker="D", mfc="white", lw=0, label="papers' seconds, on GPUs")
        ]
        _method_key(picture, methods, paper if paper_seconds else [])
    return picture


def means_by_kind(table: pd.DataFrame, panels: Sequence[tuple[str, str]], methods: Sequence[str]) -> Picture:
    """Means with intervals: a panel a (metric, views), a group of points a kind of scenes, a point a method.

    views: `input`, or `novel` for all others. A panel has the kinds that know the metric in such views.
    """
    rows = _of_metrics(table, [metric for metric, _ in panels], methods)
    means = summarise(rows, ("scene_kind", "method", "is_input", "metric"))
    with use_style():
        picture = Picture(3.0 * len(panels) + 0.4, 3.5)
        for axes, (metric, views) in zip(
            picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            shown = means[(means["metric"] == metric) & (means["is_input"] == (views == "input"))]
            kinds = list(shown["scene_kind"].unique())
            for place, name in enumerate(in_row_order(dict.fromkeys(methods))):
                points = shown[shown["method"] == name]
                aside = 0.13 * (place - (len(methods) - 1) / 2)
                at = points["scene_kind"].map(kinds.index) + aside
                _line_with_intervals(axes, at, points, name, joined=False)
            axes.set_title(f"{metric_label(metric)}, {VIEWS[views]}")
            counts = shown.groupby("scene_kind")["n"].max()[kinds]
            axes.set_xticks(range(len(kinds)), [f"{kind}\nn {n}" for kind, n in counts.items()])
            axes.set_xlim(-0.6, len(kinds) - 0.4)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        _method_key(picture, methods)
    return picture


def on_common_scenes(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of methods on the scenes that all of them were run on.

    A method that was run on no scene of a kind is not asked for there: photos may have fewer methods than scenes.
    """
    parts = [
        run_by_all([name for name in methods if name in set(part["method"])], part)
        for _, part in table.groupby("scene_kind", sort=False)
    ]
    return pd.concat([table.iloc[:0], *parts])


def values_by_input(table: pd.DataFrame, metric: str, methods: Sequence[str]) -> Picture:
    """A metric of methods in the other views, over |yaw| of the input: a panel a kind of scenes.

    A dot is a scene: the mean over its views beside the input. Where three scenes or more have about the same input, a
    bar is the interval of their mean. The methods stand on the same scenes.
    """
    return _by_input(table, metric, list(in_row_order(dict.fromkeys(methods))), baseline=None)


def gains_by_input(table: pd.DataFrame, metric: str, baseline: str, methods: Sequence[str]) -> Picture:
    """What methods change against a baseline in the other views, over |yaw| of the input: a panel a kind of scenes.

    As `values_by_input`, of method minus baseline, so that what makes a scene hard for both cancels. Each pair stands
    on all scenes that both were run on.
    """
    others = [name for name in in_row_order(dict.fromkeys(methods)) if name != baseline]
    return _by_input(table, metric, others, baseline)


def _by_input(table: pd.DataFrame, metric: str, methods: Sequence[str], baseline: str | None) -> Picture:
    """Values, or differences from the baseline, over |yaw| of the input."""
    drawn = [*methods] if baseline is None else [baseline, *methods]
    kinds = list(_of_metric(table[~table["is_input"]], metric, drawn)["scene_kind"].unique())
    label = metric_label(metric)
    with use_style():
        picture = Picture(max(3.1 * len(kinds), 5.0), 3.7)
        panels = picture.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            of_kind = table[table["scene_kind"] == kind]
            for place, name in enumerate(methods):
                test = Test(metric, name, "alike", (kind,), "novel", baseline)
                together = methods if baseline is None else test.methods
                paired = paired_values(test, run_by_all(together, of_kind))
                known = ~np.isnan(paired.difference)
                aside = 0.03 * (place - (len(methods) - 1) / 2)
                _dots_with_intervals(axes, paired.yaw[known], paired.difference[known], aside, name)
            if baseline is not None:
                axes.axhline(0, color=method_colour(baseline), lw=1.2, zorder=1)
            axes.set(title=kind, xlabel="|yaw| of the input, rad", xlim=(-0.12, 0.78), xticks=(0, 0.3, 0.6))
        panels[0].set_ylabel(label if baseline is None else f"{label}, minus {method_label(baseline)}'s")
        _method_key(picture, drawn)
    return picture


def _dots_with_intervals(
    axes: Axes, yaws: np.ndarray, differences: np.ndarray, aside: float, method: str
) -> None:
    """A dot a scene, and a bar with the mean over those whose yaws round to the same."""
    colour, rounded = method_colour(method), (yaws / TURN_STEP).round() * TURN_STEP
    axes.plot(rounded + aside, differences, ".", color=colour, alpha=0.5, ms=8, markeredgewidth=0)
    for yaw in np.unique(rounded):
        values = differences[rounded == yaw]
        if len(values) >= FEWEST:
            found = mean_interval(values)
            beside = yaw + aside + 0.009  # so that the dots stay in sight
            axes.vlines(beside, found.low, found.high, color=colour, lw=1.6)
            axes.plot(beside, found.mean, "o", color=colour, ms=4.5)


def _of_metric(table: pd.DataFrame, metric: str, methods: Sequence[str]) -> pd.DataFrame:
    return _of_metrics(table, [metric], methods)


def _of_metrics(table: pd.DataFrame, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """The rows of metrics and methods on common scenes; an error where there are none."""
    for column, wanted in (("metric", metrics), ("method", methods)):
        found = list(table[column].unique())
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"the table has no {column} {', '.join(missing)}; it has {', '.join(found)}")
    rows = on_common_scenes(table[table["metric"].isin(metrics)], methods)
    if rows.empty:
        raise ValueError(f"no scene of the table has {', '.join(metrics)} of all of {', '.join(methods)}")
    return rows


def _line_with_intervals(
    axes: Axes, at: pd.Series, points: pd.DataFrame, method: str, *, joined: bool = True
) -> None:
    """Means of a method, joined by a line, with bars over their intervals where they have one."""
    colour = method_colour(method)
    axes.plot(at, points["mean"], "o-" if joined else "o", color=colour, ms=4.5)
    axes.vlines(at, points["low"], points["high"], color=colour, lw=1.4)


def _method_key(picture: Picture, methods: Sequence[str], more: Sequence[Line2D] = ()) -> None:
    """Names of the methods above the panels, which keep clear of them."""
    entries = [
        Line2D([], [], color=method_colour(name), marker="o", ms=4.5, label=method_label(name))
        for name in in_row_order(dict.fromkeys(methods))
    ] + list(more)
    widest = 0.6 + 0.075 * max(len(entry.get_label()) for entry in entries)  # inches
    lines = math.ceil(len(entries) * widest / picture.get_figwidth())
    columns = math.ceil(len(entries) / lines)
    picture.tight_layout(rect=(0, 0, 1, 1 - (0.06 + 0.22 * lines) / picture.get_figheight()))
    picture.legend(handles=entries, loc="upper center", ncols=columns, columnspacing=1.2, handlelength=1.4)
