"""Drawings of painted heads (HFGI3D, figure 6b): the paint close by in every view, and how much of it is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes

from lib.datasets.scenes import Scene
from lib.drawings.spi_modules import box_about, close_up
from lib.evaluation.measures import in_head_frame
from lib.figures import Picture, image_grid, in_row_order, method_colour, method_label, signed, use_style
from lib.meshes import Head


# -------------------------------------------------------------------- close by
@torch.no_grad()
def paint_close_up(scene: Scene, heads: Mapping[str, Head], *, cell: float = 1.4) -> Picture:
    """The paint of a scene, enlarged: a row a method (name: inversion), the truth last; the input, then its other views.

    Views are cut out about the paint that they truly show; a view that shows none is left out.
    """
    heads = {name: head.still() for name, head in in_row_order(heads).items()}
    views = [name for name in _by_yaw(scene) if scene.truth[f"painted/{name}"].any()]
    boxes = {name: box_about(scene.truth[f"painted/{name}"]) for name in views}
    rows = [
        [
            close_up(head.render(in_head_frame(head, scene, scene.views[name].camera)).image, boxes[name])
            for name in views
        ]
        for head in heads.values()
    ]
    rows.append([close_up(scene.views[name].image, boxes[name]) for name in views])
    titles = [
        "input" if name == scene.input_name else f"yaw {signed(scene.views[name].camera.yaw.item())}"
        for name in views
    ]
    return image_grid(rows, [*map(method_label, heads), "truth"], titles, cell=cell)


def _by_yaw(scene: Scene) -> list[str]:
    """Names of the views, the input first, then from side to side."""
    others = [name for name in scene.views if name != scene.input_name]
    return [scene.input_name, *sorted(others, key=lambda name: scene.views[name].camera.yaw.item())]


# -------------------------------------------------------------------- how much is kept
@dataclass(frozen=True)
class Kept:
    """How much of the paint methods keep in the views of a head, as of `lib.editing.paint_kept`.

    yaws: of the views, radians. shares: by method, one a view. input_yaw: of the photo.
    """

    yaws: Sequence[float]
    shares: Mapping[str, Sequence[float]]
    input_yaw: float


def kept_over_yaw(panels: Mapping[str, Kept], lowest: float = -0.5) -> Picture:
    """A panel a head (title: what is kept), a line a method; dashed, the yaw of the photo.

    lowest: shares below it are drawn at the lower edge, as triangles.
    """
    with use_style():
        picture = Picture(max(3.3 * len(panels), 4.8), 3.4)
        grid = picture.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, kept) in zip(grid, panels.items(), strict=True):
            _kept_lines(axes, kept, lowest)
            axes.set(title=title, xlabel="yaw of the view, rad")
        grid[0].set(ylabel="share of the paint kept", ylim=(lowest - 0.05, 1.05))
        lines = {line.get_label(): line for axes in grid for line in axes.lines if line.get_label()[0] != "_"}
        picture.legend(lines.values(), lines.keys(), loc="upper center", ncols=len(lines))
        picture.tight_layout(rect=(0, 0, 1, 0.92))
    return picture


def _kept_lines(axes: Axes, kept: Kept, lowest: float) -> None:
    axes.axhline(1, color="0.2", lw=1.0)
    axes.axhline(0, color="0.2", lw=1.0, ls=":")
    axes.axvline(kept.input_yaw, color="0.5", lw=1.0, ls="--")
    order = sorted(range(len(kept.yaws)), key=kept.yaws.__getitem__)
    yaws = [kept.yaws[i] for i in order]
    for name, shares in in_row_order(kept.shares).items():
        values = [shares[i] for i in order]
        drawn = [max(value, lowest) for value in values]
        colour = method_colour(name)
        axes.plot(yaws, drawn, "o-", color=colour, mec="white", ms=6.5, label=method_label(name))
        below = [(yaw, lowest) for yaw, value in zip(yaws, values, strict=True) if value < lowest]
        if below:
            axes.plot(*zip(*below, strict=True), "v", color=colour, ms=8)
