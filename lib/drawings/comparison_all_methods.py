"""Drawings of all methods of the study at once: heads from the side, orders by several criteria, the best in a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from lib.datasets.scenes import Scene, View
from lib.drawings.comparison import METRICS, VIEWS, metric_label
from lib.drawings.scenes import known_part
from lib.evaluation.measures import in_head_frame
from lib.evaluation.protocol import views_measured
from lib.figures import (
    CELL,
    Picture,
    depth_colours,
    image_grid,
    in_row_order,
    method_colour,
    method_label,
    use_style,
)
from lib.generators import Rendering
from lib.media import depth_limits
from lib.meshes import Head, shape_view
from lib.metrics.statistics import FEWEST, mean_interval

SECONDS = "seconds"


# -------------------------------------------------------------------- heads
def furthest_view(scene: Scene) -> str:
    """The name of the known view that is turned most from the scene's input."""
    return max(
        views_measured(scene),
        key=lambda name: (scene.views[name].camera.yaw - scene.input.camera.yaw).abs().item(),
    )


@torch.no_grad()
def heads_from_the_side(
    columns: Mapping[str, tuple[Scene, Mapping[str, Head]]], *, cell: float = CELL
) -> Picture:
    """Heads of many methods from the view that is turned most from the input, and their depth: two columns a scene.

    columns: by label, a scene and its heads (name: inversion). Rows: the photo, the methods, the truth. A method without
    a head of a scene leaves a gap. Depths of a scene share one scale, that of the truth where it is known.
    """
    methods = list(in_row_order({name: None for _, heads in columns.values() for name in heads}))
    rows: list[list] = [[] for _ in range(len(methods) + 2)]
    for scene, heads in columns.values():
        view = scene.views[furthest_view(scene)]
        cameras = {name: in_head_frame(head, scene, view.camera) for name, head in heads.items()}
        images = {name: head.render(cameras[name]).image[0] for name, head in heads.items()}
        depths, truth = _depths(view, {name: shape_view(head, cameras[name]) for name, head in heads.items()})
        rows[0] += [scene.input.image[0], None]
        for row, name in zip(rows[1:], methods, strict=False):
            row += [images.get(name), depths.get(name)]
        rows[-1] += [known_part(view), truth]
    titles = [title for label in columns for title in (label, "depth")]
    return image_grid(rows, ["photo", *map(method_label, methods), "truth"], titles, cell=cell)


def _depths(view: View, seen: Mapping[str, Rendering]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Pictures of depths on one scale, and that of the true one; None where it is not known."""
    truth = None
    if view.depth is None or view.depth.isnan().all():
        parts = [torch.cat([getattr(one, part) for one in seen.values()]) for part in ("depth", "alpha")]
        limits = depth_limits(*parts)
    else:
        known = ~view.depth.isnan() if view.mask is None else ~view.depth.isnan() & view.mask
        true = view.depth.where(known, view.depth[known].max())[0], known[0].float()
        limits = depth_limits(*true)
        truth = depth_colours(*true, limits)
    return {name: depth_colours(one.depth[0], one.alpha[0], limits) for name, one in seen.items()}, truth


# -------------------------------------------------------------------- numbers
def by_method(
    table: pd.DataFrame, criteria: Sequence[tuple[str, str]], methods: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Means of methods over scenes: columns method, criterion, mean, low, high, n.

    criteria: (metric, views), with views `input` or `novel`; ("seconds", "") is the time of an inversion. A scene is
    one value, the mean of its views. The table holds the scenes that all methods share.
    """
    found = []
    for metric, views in criteria:
        rows = table if metric == SECONDS else table[table["metric"] == metric]
        if views:
            rows = rows[rows["is_input"] == (views == "input")]
        values = rows.groupby(["method", "scene"])[SECONDS if metric == SECONDS else "value"]
        values = values.first() if metric == SECONDS else values.mean()
        for name in methods:
            own = values.get(name, pd.Series(dtype=float)).dropna().to_numpy()
            low = high = np.nan
            if len(own) >= FEWEST:
                interval = mean_interval(own, seed=seed)
                low, high = interval.low, interval.high
            mean = own.mean() if len(own) else np.nan
            found.append((name, criterion(metric, views), mean, low, high, len(own)))
    return pd.DataFrame(found, columns=["method", "criterion", "mean", "low", "high", "n"])


def criterion(metric: str, views: str) -> str:
    """How a metric in some views is written."""
    return "seconds ↓" if metric == SECONDS else f"{metric_label(metric)}, {VIEWS[views]}"


def orders(means: pd.DataFrame) -> Picture:
    """Places of methods by each criterion of `by_method`, the best on top: a column a criterion, a line a method.

    Means of criteria are beside the places; lines that cross are methods whose order depends on what is asked.
    """
    criteria = list(means["criterion"].unique())
    methods = list(in_row_order(dict.fromkeys(means["method"])))
    table = means.pivot(index="method", columns="criterion", values="mean").loc[methods, criteria]
    places = pd.DataFrame({name: _places(table[name], name) for name in criteria})
    with use_style():
        width, height, margin = 1.75 * len(criteria) + 2.6, 0.3 * len(methods) + 0.75, 1.25  # inches
        picture = Picture(width, height)
        axes = picture.add_axes((margin / width, 0.1 / height, 1 - 2 * margin / width, 1 - 0.65 / height))
        for name in methods:
            _line_of_places(axes, name, places.loc[name].to_numpy(), table.loc[name].to_numpy())
        axes.set(xlim=(-0.1, len(criteria) - 0.9), ylim=(len(methods) + 0.4, 0.3))
        axes.set_xticks(range(len(criteria)), [name.replace(", ", ",\n") for name in criteria])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_yticks([])
        axes.grid(False)
        for edge in axes.spines.values():
            edge.set_visible(False)
    return picture


def _line_of_places(axes: Axes, name: str, places: np.ndarray, means: np.ndarray) -> None:
    """A method's line, its means above the dots and its name at both ends."""
    colour, last = method_colour(name), len(places) - 1
    axes.plot(range(len(places)), places, "o-", color=colour, ms=7, mec="white")
    for at, (place, mean) in enumerate(zip(places, means, strict=True)):
        above = {"xytext": (0, 6), "textcoords": "offset points"}
        axes.annotate(f"{mean:.3g}", (at, place), ha="center", size=7.5, **above)
    for at, side in ((-0.12, "right"), (last + 0.12, "left")):
        place = places[0] if side == "right" else places[last]
        axes.text(at, place, method_label(name), ha=side, va="center", color=colour, size=9)


def _places(values: pd.Series, name: str) -> pd.Series:
    """1 for the best. An arrow in the criterion's name says which way that is."""
    return values.rank(ascending="↓" in name, method="first")


# -------------------------------------------------------------------- what to take
def best_within(
    table: pd.DataFrame, metric: str, views: str, budgets: Mapping[str, float], seed: int = 0
) -> pd.DataFrame:
    """The best method of those whose mean inversion takes no longer than a time: a row a budget (label: seconds).

    Columns: method, mean; next, the best of the others within that time; difference of the two in the same scenes with
    its interval; n. `settled` says whether the interval leaves out 0. A lower metric is better, or a higher one as
    `METRICS` has it. The table holds the scenes that all methods share.
    """
    better = METRICS[metric][1]
    rows = table[(table["metric"] == metric) & (table["is_input"] == (views == "input"))]
    values = rows.groupby(["scene", "method"])["value"].mean().unstack("method").dropna()
    seconds = table.groupby(["scene", "method"])[SECONDS].first().unstack("method").loc[values.index].mean()
    found = {}
    for label, budget in budgets.items():
        within = values[[name for name in values if seconds[name] <= budget]].mean()
        ordered = list(within.sort_values(ascending=better == "lower").index)
        found[label] = _against_next(values, ordered, seed)
    return pd.DataFrame(found).T


def _against_next(values: pd.DataFrame, ordered: Sequence[str], seed: int) -> dict[str, object]:
    """The first of some methods against the second, scene by scene."""
    row: dict[str, object] = dict.fromkeys(("method", "next"), "") | {"n": len(values)}
    row |= dict.fromkeys(("mean", "difference", "low", "high"), np.nan) | {"settled": False}
    if ordered:
        row |= {"method": ordered[0], "mean": values[ordered[0]].mean()}
    if len(ordered) > 1:
        difference = (values[ordered[0]] - values[ordered[1]]).to_numpy()
        row |= {"next": ordered[1], "difference": difference.mean()}
        if len(difference) >= FEWEST:
            interval = mean_interval(difference, seed=seed)
            settled = interval.low > 0 or interval.high < 0
            row |= {"low": interval.low, "high": interval.high, "settled": settled}
    return row
