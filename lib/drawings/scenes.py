"""Pictures of ground-truth scenes: contact sheets, one true view carried into another, how much views drift."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from lib.datasets.scenes import YAWS, Scene, View, yaw_name
from lib.figures import ERROR_COLOURS, Picture, depth_colours, image_grid, signed, use_style
from lib.images import resize
from lib.warping import warp

VEILED = 0.75
"""How far what does not count is drawn towards white."""

LARGEST_ERROR = 0.5
"""Mean absolute difference of colours in [-1, 1] at the bright end of error maps, as in `lib.figures.error_maps`."""

KIND_COLOURS = {"samples": "#4c78a8", "painted": "#b279a2", "turned": "#e45756", "heads": "#54a24b"}
"""One colour a kind of scene, in every figure."""

SHOWN = 128
"""Pixels across a small picture: pixels of a view stay squares, and masks sharp."""


SHAPES = ("depth", "normals", "mask")
"""What `shape_pictures` shows, in this order."""


# -------------------------------------------------------------------- contact sheets
def contact_sheet(scenes: Sequence[Scene], labels: Sequence[str] = (), cell: float = 1.0) -> Picture:
    """A row a scene: its input, the five yaws, then depth, normals and mask of the input, where any scene has them.

    labels: a line beside each row, or none.
    """
    views = [
        [known_part(scene.input), *(known_part(scene.views[yaw_name(yaw)]) for yaw in YAWS)]
        for scene in scenes
    ]
    shapes = [shape_pictures(scene.input) for scene in scenes]
    kept = [i for i in range(len(SHAPES)) if any(shape[i] is not None for shape in shapes)]
    rows = [row + [shape[i] for i in kept] for row, shape in zip(views, shapes, strict=True)]
    titles = ["input", *(f"yaw {signed(yaw)}" for yaw in YAWS), *(SHAPES[i] for i in kept)]
    return image_grid(rows, labels, titles, cell=cell)


def shape_pictures(view: View) -> list[Tensor | np.ndarray | None]:
    """Depth, normals (red to +x, green up, blue to where the face looks) and mask of a view; None where it has none."""
    depth = None if view.depth is None else _depth_picture(view.depth[0])
    normals = None if view.normals is None else view.normals[0].nan_to_num(nan=0.9)
    mask = None if view.mask is None else veiled(view.image, view.mask)[0]
    return [depth, normals, mask]


def known_part(view: View) -> Tensor:
    """A view's image [3, R, R], pale where it shows something made up."""
    return view.image[0] if view.known is None else veiled(view.image, view.known)[0]


def veiled(image: Tensor, kept: Tensor) -> Tensor:
    """Images [B, 3, R, R], pale outside of a mask [B, 1, R, R]."""
    return torch.where(kept, image, torch.lerp(image, torch.ones_like(image), VEILED))


def _depth_picture(depth: Tensor) -> np.ndarray | None:
    known = ~depth.isnan()
    if not known.any():
        return None
    return depth_colours(depth.where(known, depth[known].max()), known.float())


# -------------------------------------------------------------------- whether views agree
def carried(scene: Scene, name: str) -> tuple[Tensor, Tensor]:
    """A view warped into the input by true depth [1, 3, R, R], and where both show the head's surface [1, 1, R, R]."""
    view, target = scene.views[name], scene.input
    image, seen = warp(view.image, view.camera, view.depth, target.camera, target.depth.nan_to_num(0.0))
    return image, seen & target.mask & ~target.depth.isnan()


def carried_views(scenes: Mapping[str, Scene], names: Mapping[str, str]) -> Picture:
    """A row a scene (kind: scene): the view of that name, warped into the input, the input, and both errors.

    The errors are those of the warped and of the unwarped view, drawn from 0 to LARGEST_ERROR over what both views see.
    """
    titles = ["view", "warped", "input", "error, warped", "unwarped"]
    rows, captions = [], []
    for kind, scene in scenes.items():
        view, target = scene.views[names[kind]], scene.input
        image, both = carried(scene, names[kind])
        errors = [_error_picture(x - target.image, both) for x in (image, view.image)]
        rows.append([view.image[0], veiled(image, both)[0], target.image[0], *errors])
        means = [(x - target.image)[both.expand_as(x)].square().mean() for x in (image, view.image)]
        captions.append(["", "", "", *(f"MSE {mean:.4f}" for mean in means)])
    return image_grid(rows, list(scenes), titles, captions=captions, cell=1.28)


def _error_picture(difference: Tensor, both: Tensor) -> np.ndarray:
    """Mean absolute difference [1, 3, R, R] over the colours as bytes [R', R', 3]; white where it does not count."""
    share = (difference.abs().mean(dim=1, keepdim=True) / LARGEST_ERROR).clamp(0, 1)
    both, share = resize(both.float(), SHOWN), resize(share, SHOWN)
    colours = colormaps[ERROR_COLOURS](share[0, 0].numpy())[..., :3]
    colours[both[0, 0].numpy() < 0.5] = 1.0
    return np.round(255 * colours).astype(np.uint8)


# -------------------------------------------------------------------- drift
QUANTITIES = {
    "mse": "MSE of colours",
    "colour": "change of mean colour",
    "depth_mm": "difference of depths, mm",
    "landmarks_mm": "landmarks, mm",
    "identity": "identity (cosine)",
}
"""What `lib.datasets.drift` measures, and how figures name it."""


def drift_chart(drifts: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> Picture:
    """For each kind of scene, drift against how far a view is turned from the input: a panel a quantity.

    drifts: kind: for each scene what `lib.datasets.drift` gave. Points are views; lines are means over views of about
    the same turn.
    """
    known = {
        name for scenes in drifts.values() for scene in scenes for view in scene.values() for name in view
    }
    quantities = [name for name in QUANTITIES if name in known]
    with use_style():
        picture = Picture(2.9 * len(quantities), 2.9)
        for axes, name in zip(
            picture.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True
        ):
            for kind, scenes in sorted(drifts.items(), key=lambda item: list(KIND_COLOURS).index(item[0])):
                points = [
                    (view["turn"], view[name]) for scene in scenes for view in scene.values() if name in view
                ]
                if points:
                    _draw_points(axes, np.array(points), kind)
            axes.set(title=QUANTITIES[name], xlabel="turn from the input, rad", xlim=(0, None))
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        picture.axes[0].legend()
        picture.tight_layout()
    return picture


def _draw_points(axes, points: np.ndarray, kind: str) -> None:
    points = points[~np.isnan(points[:, 1])]
    axes.plot(*points.T, ".", color=KIND_COLOURS[kind], alpha=0.35, markeredgewidth=0)
    turns = np.round(points[:, 0] / 0.3) * 0.3
    means = [(turn, points[turns == turn, 1].mean()) for turn in np.unique(turns)]
    axes.plot(*np.array(means).T, color=KIND_COLOURS[kind], label=kind)
