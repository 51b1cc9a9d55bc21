"""What becomes of a head while a generator is fitted to its photo: HFGI3D's figures 2, 7 and 9 (Xie et al., 2023).

A run (step: head) is one fit, seen after so many of its steps. Its errors are a table: a row for each method, scene,
step, view and metric.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from filelock import FileLock
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lib import paths
from lib.cameras import Camera
from lib.datasets import Scene
from lib.drawings.comparison import VIEWS, metric_label
from lib.drawings.scenes import known_part
from lib.evaluation import MEASURES, Comparison, EvaluationPlan, Measure, Method, inversion_key
from lib.evaluation.inversion_cache import (
    CHECKPOINT_EVERY,
    cached_inversion,
    generator_fingerprint,
    tensor_digest,
)
from lib.evaluation.measures import NEIGHBOURS
from lib.evaluation.planned import finished, planned_inversion
from lib.evaluation.plans import Input
from lib.evaluation.protocol import measure_digest, scene_digest
from lib.figures import (
    Picture,
    depth_colours,
    image_grid,
    in_row_order,
    method_colour,
    method_label,
    signed,
    use_style,
)
from lib.generators import EG3D
from lib.inversion import Checkpoints, Inversion
from lib.inversion.optimisation import State
from lib.media import depth_limits
from lib.metrics.statistics import FEWEST, mean_interval
from lib.runs.verdicts import VIDEO_VIEWS, run_by_all

Run = Mapping[int, Inversion]
"""A fit: heads after so many steps, those of step 0 being where it begins."""

COLUMNS = ("method", "scene", "scene_kind", "step", "view", "is_input", "metric", "value")
"""Of a table of errors over steps."""

SCENE_STYLES = ("-", "--", ":", "-.")
"""Of the lines of several scenes, in their order."""


# -------------------------------------------------------------------- heads over steps
def halvings(steps: int, least: int) -> list[int]:
    """0, and those of steps, steps / 2, steps / 4, ... that are `least` or more, rounded; ascending."""
    if not 1 <= least <= steps:
        raise ValueError(
            f"steps are halved down to 1 or more, and not below themselves; got {least} for {steps}"
        )
    return [
        0,
        *sorted(round(steps / 2**k) for k in range(steps.bit_length()) if round(steps / 2**k) >= least),
    ]


def run_of(
    method: Method,
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    kept: Sequence[int],
    *,
    seed: int = 0,
    base: str | None = None,
    folder: Path | None = None,
) -> dict[int, Inversion]:
    """The heads that the last stage of a method passes through after `kept` steps; it is run for the most of them.

    PTI and HFGI3D take the same steps however many are to follow, so that these are the beginnings of longer runs.
    Kept in the project's cache, or in `folder`, under all that they depend on, of which the number of steps is no part;
    base: see `cached_inversion`.
    """
    if not kept or min(kept) < 0 or max(kept) < 1:
        raise ValueError(f"kept are numbers of steps, from 0 up, one of them at least 1; got {list(kept)}")
    endless, method = (
        replace(method, settings=dict(method.settings) | {"steps": steps}) for steps in (None, max(kept))
    )
    folder = paths.CACHE / "runs" if folder is None else folder
    folder = folder / inversion_key(endless, generator, target, camera, seed)
    files = {step: folder / f"{step:05d}.safetensors" for step in sorted(set(kept))}
    if not all(file.is_file() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not all(file.is_file() for file in files.values()):
                _carry_out(method, generator, target, camera, files, seed, base)
    return {step: Inversion.load(file, generator.w_mean.device) for step, file in files.items()}


def _carry_out(
    method: Method,
    generator: EG3D,
    target: Tensor,
    camera: Camera,
    files: Mapping[int, Path],
    seed: int,
    base: str | None,
) -> None:
    """Run a method and write the heads on its way; a killed run goes on from its last checkpoint."""
    last = max(files)
    initial, unfinished = {}, files[last].parent / f"unfinished-{last}"
    if method.start is not None:
        initial = {"initial": cached_inversion(method.start, generator, target, camera, seed=seed, base=base)}

    def keep(step: int, state: State) -> None:
        if step in files:
            Inversion(state.w_plus, state.generator, camera).save(files[step], base)

    found = method.invert(
        generator,
        target,
        camera,
        seed=seed,
        progress=False,
        callback=keep,
        checkpoints=Checkpoints(unfinished, CHECKPOINT_EVERY),
        **initial,
        **method.settings,
    )
    if found.extras.get("steps_taken", last) < last:
        raise RuntimeError(
            f"{method.name} stopped after {found.extras['steps_taken']} of {last} steps: keep fewer"
        )
    found.save(files[last], base)
    shutil.rmtree(unfinished, ignore_errors=True)


def with_settings(plan: EvaluationPlan, name: str, **settings: Any) -> EvaluationPlan:
    """The same plan with some settings of one of its methods replaced."""
    planned = plan.methods[name]
    method = replace(planned.method, settings=dict(planned.method.settings) | settings)
    return replace(plan, methods=dict(plan.methods) | {name: replace(planned, method=method)})


def planned_run(
    plan: EvaluationPlan,
    given: Input,
    name: str,
    kept: Sequence[int],
    generator: EG3D,
    scene: Scene,
    lengths: Sequence[str] = (),
) -> dict[int, Inversion]:
    """A run of a method of the plan on an input: its heads after `kept` steps, then where the plan's own runs ended.

    lengths: methods of the plan that are the same fit with other numbers of steps. They are taken where the evaluation
    has computed them, and never computed here.
    """
    target = scene.input
    heads = run_of(
        plan.methods[name].method,
        generator,
        target.image,
        target.camera,
        kept,
        seed=plan.seed,
        base=plan.generator,
    )
    done = finished(plan, given, generator, scene) if lengths else ()
    for length in (each for each in lengths if each in done):
        steps = plan.methods[length].method.settings["steps"]
        heads.setdefault(steps, planned_inversion(plan, given, length, generator, scene))
    return dict(sorted(heads.items()))


# -------------------------------------------------------------------- fine detail
def detail(image: Tensor) -> np.ndarray:
    """What of an image [1, 3, R, R] is finer than a Gaussian of R / 64 pixels: [3, R, R]."""
    pixels = image[0].detach().float().cpu().numpy()
    width = pixels.shape[-1] / 64
    return pixels - gaussian_filter(pixels, sigma=(0, width, width), mode="nearest")


def detail_share(seen: Comparison) -> float:
    """Energy of the head's fine detail as a share of the truth's: below 1 blurred, above 1 noisy."""
    found, true = _details(seen)
    return float(np.square(found).mean() / np.square(true).mean())


def detail_error(seen: Comparison) -> float:
    """Energy of what is wrong in fine detail, as a share of the truth's: 1 for none at all, more for noise."""
    found, true = _details(seen)
    return float(np.square(found - true).mean() / np.square(true).mean())


def _details(seen: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Fine detail of head and truth [3, N] at the pixels of the true head that are known."""
    where = seen.known if seen.view.mask is None else seen.known & seen.view.mask
    where = where[0, 0].numpy()
    return detail(seen.image)[:, where], detail(seen.target)[:, where]


ALL_MEASURES: Mapping[str, Measure] = MEASURES | {
    "detail_share": Measure("detail_share", detail_share),
    "detail_error": Measure("detail_error", detail_error),
}
"""Those of the evaluation's tables, and those of fine detail, which this comparison adds."""

LABELS = {"detail_share": "fine detail, share of the truth's", "detail_error": "error of fine detail ↓"}


def label_of(metric: str) -> str:
    """How a metric is written, with an arrow to where it is better if there is one such way."""
    return LABELS.get(metric) or metric_label(metric)


# -------------------------------------------------------------------- errors over steps
def side_view(scene: Scene, within: float = NEIGHBOURS) -> str:
    """The view, by name, that is turned furthest from the input, but not by more than so many radians of yaw."""
    yaw = scene.input.camera.yaw
    turns = {name: round((view.camera.yaw - yaw).abs().item(), 2) for name, view in scene.views.items()}
    near = {name: turn for name, turn in turns.items() if turn <= within and not name.startswith(VIDEO_VIEWS)}
    return max(near, key=near.get)


def errors_over_steps(
    runs: Mapping[str, Run], scene: Scene, asked: Mapping[str, Sequence[str]], *, folder: Path | None = None
) -> pd.DataFrame:
    """A table of `COLUMNS` for the runs (method: run) of one scene. asked: for each metric, names of views.

    folder: where numbers are kept by what they depend on (None: in the project's cache).
    """
    folder = paths.CACHE / "runs" / "errors" if folder is None else folder
    kind = scene.extras.get("kind", "")
    rows = [
        (name, scene.name, kind, step, view, view == scene.input_name, metric, value)
        for name, run in runs.items()
        for step, head in run.items()
        for metric, views in asked.items()
        for view, value in _errors(head, scene, metric, views, folder).items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _errors(
    head: Inversion, scene: Scene, metric: str, views: Sequence[str], folder: Path
) -> dict[str, float]:
    """Values of a metric by view, out of the folder if they are there."""
    measure = ALL_MEASURES[metric]
    parts = {
        "head": [generator_fingerprint(head.generator), tensor_digest(head.w_plus)],
        "scene": scene_digest(scene, views),
        "measure": measure_digest(measure),
    }
    file = folder / f"{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}.json"
    if not file.is_file():
        still = head.still()
        found = {view: float(measure.of(Comparison(still, scene, view))) for view in views}
        with paths.replacing(file) as temporary:
            temporary.write_text(json.dumps(found))
    return json.loads(file.read_text())


def means_over_steps(table: pd.DataFrame, metric: str, views: Literal["input", "novel"]) -> pd.DataFrame:
    """One value for each method, scene and step: the mean over the input's view, or over all others that were asked."""
    of_metric = table[(table["metric"] == metric) & (table["is_input"] == (views == "input"))]
    if of_metric.empty:
        raise ValueError(
            f"the table has no {metric} in the {VIEWS[views]}; it has {', '.join(table['metric'].unique())}"
        )
    return of_metric.groupby(["method", "scene", "step"], sort=False)["value"].mean().reset_index()


# -------------------------------------------------------------------- pictures over steps
def heads_over_steps(
    runs: Mapping[str, Run],
    scene: Scene,
    side: str,
    steps: Sequence[int] = (),
    *,
    with_depth: bool = False,
    cell: float = 1.2,
) -> Picture:
    """Figures 2 and 9: the input's view and the view `side` of each method (name: run), a column a step, the truth last.

    steps: those that are shown; empty: all that any run has; a run that does not have one leaves a gap. Under pictures
    of the input stands their PSNR, under those from the side their LPIPS. with_depth: a third row, depth from the side.
    """
    steps = list(steps) or sorted({step for run in runs.values() for step in run})
    rows, labels, captions = [], [], []
    for name, run in in_row_order(runs).items():
        heads = [run[step].still() if step in run else None for step in steps]
        for view, metric, form in ((scene.input_name, "psnr", "{:.1f} dB"), (side, "lpips", "LPIPS {:.3f}")):
            seen = [head and Comparison(head, scene, view) for head in heads]
            rows.append([*(each and each.image[0] for each in seen), known_part(scene.views[view])])
            captions.append([*(form.format(MEASURES[metric].of(each)) if each else "" for each in seen), ""])
        labels += [method_label(name).replace(", ", ",\n") + "\ninput", _yaw_of(scene, side)]
        if with_depth:
            rows.append(_depths(heads, scene, side))
            captions.append([])
            labels.append("its depth")
    titles = [*(f"step {step}" for step in steps), "truth"]
    return image_grid(rows, labels, titles, captions=captions, cell=cell)


def _yaw_of(scene: Scene, view: str) -> str:
    return f"yaw {signed(scene.views[view].camera.yaw.item())}"


def _depths(heads: Sequence, scene: Scene, view: str) -> list[np.ndarray | None]:
    """Depth of heads from a view, where the true one is known, and that one last: one scale, the truth's."""
    seen = [head and Comparison(head, scene, view) for head in heads]
    true = next(filter(None, seen)).true_depth[0]
    known = (~true.isnan()).float()
    farthest = true.nan_to_num().max()
    limits = depth_limits(true.nan_to_num(farthest.item()), known)
    depths = [each and each.depth[0].where(known > 0, farthest) for each in seen]
    return [
        depth if depth is None else depth_colours(depth, known, limits)
        for depth in (*depths, true.nan_to_num(farthest.item()))
    ]


def details_shown(
    heads: Mapping[str, Inversion], scene: Scene, side: str, *, gain: float = 3.0, cell: float = 2.0
) -> Picture:
    """Heads (name: inversion) from a side and the truth, and below them their fine detail on mid-grey, times `gain`."""
    seen = {name: Comparison(head.still(), scene, side) for name, head in in_row_order(heads).items()}
    images = [*(each.image for each in seen.values()), scene.views[side].image]
    fine = [
        np.round((gain * detail(image).transpose(1, 2, 0) + 1).clip(0, 2) * 127.5).astype(np.uint8)
        for image in images
    ]
    notes = [f"{detail_share(each):.2f} of the truth's" for each in seen.values()]
    return image_grid(
        [[image[0] for image in images], fine],
        [_yaw_of(scene, side), f"fine detail\n× {gain:g}"],
        [*map(method_label, seen), "truth"],
        captions=[[], [*notes, ""]],
        cell=cell,
    )


def density_changes(changes: Mapping[str, Tensor], surface: Tensor, level: float, half: float) -> Picture:
    """Changes of raw density in the plane through nose and chin (name: [R, R], row 0 at the bottom), on one scale.

    surface: the density [R, R] that was there before, of which a line marks where it is `level`. half: half the side of
    the plane, world units; the face looks to the right.
    """
    changes = {name: change.detach().float().cpu().numpy() for name, change in in_row_order(changes).items()}
    limit = max(float(np.quantile(np.abs(change), 0.99)) for change in changes.values())
    extent = (-half, half, -half, half)
    with use_style():
        picture = Picture(2.6 * len(changes) + 1.3, 3.1)
        panels = picture.subplots(1, len(changes), sharey=True, squeeze=False)[0]
        for axes, (name, change) in zip(panels, changes.items(), strict=True):
            shown = axes.imshow(change, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.contour(surface.cpu().numpy(), [level], extent=extent, colors="black", linewidths=1.0)
            axes.set(title=method_label(name).replace(", ", ",\n"), xlabel="z", xticks=[-half, 0, half])
            axes.grid(False)
        panels[0].set(ylabel="y", yticks=[-half, 0, half])
        picture.tight_layout(rect=(0, 0, 1 - 1.1 / picture.get_figwidth(), 1))
        box = panels[-1].get_position()
        bar = picture.add_axes(
            (box.x1 + 0.2 / picture.get_figwidth(), box.y0, 0.12 / picture.get_figwidth(), box.height)
        )
        picture.colorbar(shown, cax=bar, label="change of raw density")
    return picture


# -------------------------------------------------------------------- curves
def curves_over_steps(
    table: pd.DataFrame,
    panels: Sequence[tuple[str, Literal["input", "novel"]]],
    *,
    level: Mapping[str, float] | None = None,
    relative: Collection[str] = (),
) -> Picture:
    """Metrics over steps: a panel a (metric, views), a colour a method, a style of line a scene.

    Steps grow by factors, and 0 stands where the axis begins. level: of some metrics, a value that is drawn across.
    relative: metrics that are drawn as shares of what they are at the first step, as scenes differ more than methods.
    """
    scenes = list(table["scene"].unique())
    methods = list(in_row_order(dict.fromkeys(table["method"])))
    with use_style():
        picture = Picture(3.0 * len(panels) + 0.4, 3.6)
        for axes, (metric, views) in zip(
            picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for (method, scene), line in means_over_steps(table, metric, views).groupby(["method", "scene"]):
                style = SCENE_STYLES[scenes.index(scene) % len(SCENE_STYLES)]
                line = line.sort_values("step")
                unit = line["value"].iloc[0] if metric in relative else 1.0
                axes.plot(
                    line["step"], line["value"] / unit, "o", ls=style, color=method_colour(method), ms=3.5
                )
            if metric in (level or {}):
                axes.axhline(level[metric], color="0.35", lw=1.0)
            share = ", share of the first's" if metric in relative else ""
            axes.set_title(f"{label_of(metric)}\n{VIEWS[views]}{share}")
            _steps_below(axes, table["step"])
        _key(picture, methods, scenes)
    return picture


def _steps_below(axes: Axes, steps: pd.Series) -> None:
    """The axis of steps: by factors from the first step on, with 0 before it."""
    shown = sorted(steps.unique())
    first = next(step for step in shown if step > 0)
    axes.set_xscale("symlog", linthresh=first, linscale=0.5)
    axes.set(xlabel="step", xlim=(-0.3 * first, 1.3 * shown[-1]))
    ticks = [shown[0], *shown[-1:0:-2]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelrotation=45)


def trade_off(
    table: pd.DataFrame,
    across: tuple[str, Literal["input", "novel"]],
    up: tuple[str, Literal["input", "novel"]],
    noted: Collection[int] = (),
) -> Picture:
    """The way of each method in the plane of two metrics, each with its views: a panel a scene, a dot a kept step.

    The last step has the largest dot; beside those of `noted` steps stands their number.
    """
    ends = [
        means_over_steps(table, *each).rename(columns={"value": name})
        for each, name in ((across, "x"), (up, "y"))
    ]
    points = ends[0].merge(ends[1], on=["method", "scene", "step"]).sort_values("step")
    scenes, methods = list(table["scene"].unique()), list(in_row_order(dict.fromkeys(points["method"])))
    with use_style():
        picture = Picture(max(3.3 * len(scenes) + 0.3, 4.6), 3.9)
        panels = picture.subplots(1, len(scenes), squeeze=False)[0]
        for axes, scene in zip(panels, scenes, strict=True):
            for method in methods:
                way = points[(points["method"] == method) & (points["scene"] == scene)]
                axes.plot(way["x"], way["y"], "o-", color=method_colour(method), ms=3.5)
                axes.plot(
                    way["x"].iloc[-1:],
                    way["y"].iloc[-1:],
                    "o",
                    color=method_colour(method),
                    ms=8,
                    mec="white",
                )
                for point in way[way["step"].isin(noted)].itertuples():
                    axes.annotate(
                        str(point.step),
                        (point.x, point.y),
                        xytext=(3, 4),
                        textcoords="offset points",
                        size=8,
                        color=method_colour(method),
                    )
            axes.set(title=scene, xlabel=_with_views(*across))
            axes.margins(0.12)
        panels[0].set_ylabel(_with_views(*up))
        _key(picture, methods)
    return picture


def _with_views(metric: str, views: str) -> str:
    return f"{label_of(metric)}, {VIEWS[views]}"


def changes_with_length(
    table: pd.DataFrame,
    panels: Sequence[tuple[str, Literal["input", "novel"]]],
    families: Mapping[str, Mapping[float, str]],
    seed: int = 0,
) -> Picture:
    """What more steps change: a panel a (metric, views), a line a family (name of the method: {share of steps: method}).

    table: of `lib.evaluation`. Dots are means over scenes of the change against the family's shortest fit, in the same
    scene, with 95 % intervals over scenes. Only scenes on which all of these methods were run count; n is in the title.
    """
    rows = run_by_all([name for family in families.values() for name in family.values()], table)
    if rows.empty:
        raise ValueError("no scene of the table has all lengths of all methods yet")
    with use_style():
        picture = Picture(3.0 * len(panels) + 0.4, 3.7)
        for axes, (metric, views) in zip(
            picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            shown = rows[(rows["metric"] == metric) & (rows["is_input"] == (views == "input"))]
            by_scene = shown.groupby(["scene", "method"])["value"].mean().unstack().dropna()
            for place, (name, family) in enumerate(families.items()):
                changes = by_scene[list(family.values())].sub(by_scene[next(iter(family.values()))], axis=0)
                _line_of_changes(axes, np.log2(list(family)) + 0.07 * place, changes.to_numpy(), name, seed)
            axes.axhline(0, color="0.55", lw=1.0)
            axes.set_title(f"{label_of(metric)}\n{VIEWS[views]}, n {len(by_scene)}")
            lengths = sorted({length for family in families.values() for length in family})
            axes.set_xticks(np.log2(lengths), [f"× {length:g}" for length in lengths])
            axes.set_xlabel("steps, of the plan's")
        picture.axes[0].set_ylabel(f"change from × {min(lengths):g}")
        _key(picture, list(families))
    return picture


def _line_of_changes(axes: Axes, at: np.ndarray, changes: np.ndarray, name: str, seed: int) -> None:
    """Means of changes [scenes, lengths] with intervals where there are scenes enough for one."""
    axes.plot(at, changes.mean(axis=0), "o-", color=method_colour(name), ms=5)
    for x, values in zip(at, changes.T, strict=True):
        if len(values) >= FEWEST and np.ptp(values) > 0:
            found = mean_interval(values, seed=seed)
            axes.vlines(x, found.low, found.high, color=method_colour(name), lw=1.6)


def _key(picture: Picture, methods: Sequence[str], scenes: Sequence[str] = ()) -> None:
    """Names of methods, and of scenes where lines are told apart by them, above the panels."""
    entries = [
        Line2D([], [], color=method_colour(name), marker="o", ms=4.5, label=method_label(name))
        for name in methods
    ]
    if len(scenes) > 1:
        entries += [
            Line2D([], [], color="0.35", ls=style, label=scene)
            for scene, style in zip(scenes, SCENE_STYLES, strict=False)
        ]
    picture.tight_layout(rect=(0, 0, 1, 1 - 0.3 / picture.get_figheight()))
    picture.legend(handles=entries, loc="upper center", ncols=len(entries), columnspacing=1.2)
