"""Drawings of results: the heads that methods make of one input, and what tables of `lib.evaluation` say of all inputs.

Tables have the columns of `lib.evaluation.COLUMNS`. Everywhere the unit is the scene: the views of a scene that fall
together count as one value, their mean, and an interval is a bootstrap over scenes at 95 %. Fewer than three scenes
have a mean and no interval.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from torch import Tensor

from lib.cameras import Camera
from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.drawings.scenes import known_part
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
    "consistency_lpips": ("LPIPS of predicted view", "lower"),
}
"""Name: (how figures write it, which way is better) of the metrics that are drawn most; others are written as they are."""


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
        [head.render(camera.to(head.w_plus.device)).image[0] for camera, _ in columns]
        for head in (each.still() for each in heads.values())
    ]
    rows.append([None if true is None else known_part(true) for _, true in columns])
    titles = ["input", *(f"yaw {signed(camera.yaw.item())}" for camera, _ in columns[1:])]
    if with_depth:
        furthest = max(columns, key=lambda column: _turn(column[0], scene.input.camera))
        for camera, true in (columns[0], furthest):
            for row, depth in zip(rows, _depth_column(heads, camera, true), strict=True):
                row.append(depth)
            titles.append(f"depth {signed(camera.yaw.item())}")
    truth = "truth" if any(true is not None for _, true in columns[1:]) else "photo"
    return image_grid(rows, [*map(method_label, heads), truth], titles, cell=cell)


def _views_from_side_to_side(
    scene: Scene, generator: EG3D, yaws: Sequence[float] | None
) -> list[tuple[Camera, View | None]]:
    """Cameras, one each, with the truth from there if there is one: the input's, then the others in the order of yaws."""
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


def _turn(camera: Camera, other: Camera) -> float:
    return (camera.yaw - other.yaw).abs().item()


def _depth_column(heads: Mapping[str, Head], camera: Camera, true: View | None) -> Iterator[np.ndarray | None]:
    """Depth of each head from a camera, then the true one or None, all on one scale."""
    views = [shape_view(head, camera.to(head.w_plus.device)) for head in heads.values()]
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

    Turns are rounded to TURN_STEP. The scenes of a point are those that have such a view, and n of each is written below:
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

    All scenes of the table count. paper_seconds: by method, what papers report of their own machines, drawn as marks at
    the lower edge; no quality belongs to them here.
    """
    rows = _of_metric(table, metric, methods)
    seconds = rows.groupby("method")["seconds"].mean()
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
            axes.set_title(f"{'input view' if is_input else 'other views'}, n {points['n'].max()}")
            for name, reported in (paper_seconds or {}).items():
                axes.plot(
                    reported, 0.02, "D", transform=axes.get_xaxis_transform(), color=method_colour(name), mfc="white"
                )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        paper = [Line2D([], [], color="0.35", marker="D", mfc="white", lw=0, label="papers' seconds, on GPUs")]
        _method_key(picture, methods, paper if paper_seconds else [])
    return picture


def means_by_kind(table: pd.DataFrame, metrics: Sequence[str], methods: Sequence[str], *, novel: bool) -> Picture:
    """Means with intervals: a panel a metric, a group of points a kind of scenes, a point a method.

    novel: of the views beside the input, in place of the input's.
    """
    rows = _of_metrics(table[table["is_input"] != novel], metrics, methods)
    means = summarise(rows, ("scene_kind", "method", "metric"))
    kinds = list(means["scene_kind"].unique())
    with use_style():
        picture = Picture(3.0 * len(metrics) + 0.4, 3.4)
        for axes, metric in zip(picture.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            of_metric = means[means["metric"] == metric]
            for place, name in enumerate(in_row_order(dict.fromkeys(methods))):
                points = of_metric[of_metric["method"] == name]
                aside = 0.13 * (place - (len(methods) - 1) / 2)
                at = points["scene_kind"].map(kinds.index) + aside
                _line_with_intervals(axes, at, points, name, joined=False)
            axes.set_title(metric_label(metric))
            counts = of_metric.groupby("scene_kind")["n"].max().reindex(kinds, fill_value=0)
            axes.set_xticks(range(len(kinds)), [f"{kind}\nn {n}" for kind, n in counts.items()])
            axes.set_xlim(-0.6, len(kinds) - 0.4)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        _method_key(picture, methods)
    return picture


def _of_metric(table: pd.DataFrame, metric: str, methods: Sequence[str]) -> pd.DataFrame:
    return _of_metrics(table, [metric], methods)


def _of_metrics(table: pd.DataFrame, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """The rows of metrics and methods; an error for one that has none."""
    for column, wanted in (("metric", metrics), ("method", methods)):
        found = list(table[column].unique())
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"the table has no {column} {', '.join(missing)}; it has {', '.join(found)}")
    return table[table["metric"].isin(metrics) & table["method"].isin(methods)]


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
    columns = min(len(entries), max(2, int(picture.get_figwidth() / 1.3)))
    lines = -(-len(entries) // columns)
    picture.tight_layout(rect=(0, 0, 1, 1 - (0.06 + 0.22 * lines) / picture.get_figheight()))
    picture.legend(handles=entries, loc="upper center", ncols=columns, columnspacing=1.2, handlelength=1.4)
