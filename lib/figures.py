"""Pictures for people: grids of views, depth in colour, error maps, curves; one style, one colour a method.

Every function returns a `Picture`, a matplotlib figure that belongs to no global state and shows itself when
a notebook cell ends in it.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import zoom
from torch import Tensor

from lib.cameras import FOCAL
from lib.media import depth_limits
from lib.meshes import Head, to_bytes, view_of

METHODS = {
    "w": ("W", "#4c78a8"),
    "wplus": ("W+", "#2ca5a0"),
    "pti": ("PTI", "#f58518"),
    "pti-short": ("PTI, a quarter of the steps", "#fbc98a"),
    "pti-long": ("PTI, four times the steps", "#b85f0a"),
    "pose_opt": ("Pose-Opt", "#d37295"),
    "psp": ("pSp", "#86a3c3"),
    "e4e": ("e4e", "#8cd17d"),
    "ide3d": ("IDE-3D", "#79706e"),
    "hfgi": ("HFGI", "#b79a20"),
    "triplanenet": ("TriPlaneNet", "#499894"),
    "spi-latent_no_symmetry": ("SPI, code without mirror", "#c9b8a8"),
    "spi-latent": ("SPI, code alone", "#f0a898"),
    "spi-no_symmetry": ("SPI without symmetry", "#a8a29a"),
    "spi-whole_mirror": ("SPI, whole mirror", "#c97b3d"),
    "spi-no_warps_no_depth": ("SPI without warps and depth", "#d8b0b8"),
    "spi-no_warps": ("SPI without warps", "#c78390"),
    "spi-no_depth": ("SPI without depth", "#b8506a"),
    "spi": ("SPI", "#e45756"),
    "hfgi3d-early": ("HFGI3D, early-stopped code", "#d3e6c8"),
    "hfgi3d-density": ("HFGI3D, density instead", "#b7c95e"),
    "hfgi3d-generated": ("HFGI3D, generated texture", "#8fbfa0"),
    "hfgi3d-interpolated": ("HFGI3D, interpolated", "#a9b89c"),
    "hfgi3d-inpainted": ("HFGI3D, inpainted in 2D", "#7f9c6a"),
    "hfgi3d-released": ("HFGI3D, released code", "#3f7f6b"),
    "hfgi3d-short": ("HFGI3D, a quarter of the steps", "#a8d59d"),
    "hfgi3d": ("HFGI3D", "#54a24b"),
    "hfgi3d-long": ("HFGI3D, four times the steps", "#2b6a26"),
    "posefree-w": ("Pose-free in W", "#e0c8dc"),
    "posefree-mean": ("Pose-free, pose of the mean code", "#cfa8c8"),
    "posefree-one_stage": ("Pose-free, one stage", "#8a7f9c"),
    "posefree-no_identity": ("Pose-free without identity", "#9f8fb0"),
    "posefree-no_multiview": ("Pose-free without other views", "#7d6b91"),
    "posefree-no_geometry": ("Pose-free without depth term", "#c48fb8"),
    "posefree": ("Pose-free", "#b279a2"),
    "goae-wplus_no_discriminator_no_background": ("GOAE's code, neither", "#e6d5c9"),
    "goae-wplus_no_discriminator": ("GOAE's code without discriminator", "#c9ab97"),
    "goae-wplus_no_background": ("GOAE's code without background", "#d6a77a"),
    "goae-wplus": ("GOAE's code", "#c49a6c"),
    "goae-convolution": ("GOAE, convolutions alone", "#7a6a5f"),
    "goae-no_mix": ("GOAE without mix", "#b58a9d"),
    "goae-released_mix": ("GOAE, released mix", "#8f6f83"),
    "goae": ("GOAE", "#9d755d"),
    "wplus-from_goae": ("W+ from GOAE's code", "#69c7c2"),
    "pti-from_goae": ("PTI from GOAE's code", "#f9b46c"),
    "e3dge": ("E3DGE", "#6f4fa3"),
}
"""Name: (label, colour) of every method of the study, in the order of rows in all figures."""

CELL = 1.28
"""Side of a small picture in inches: 128 pixels at `DPI`, twice the side of the smallest generator's."""

DPI = 100

STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "image.interpolation": "bicubic",
}

EMPTY = "#f2f2f2"
DEPTH_COLOURS = "magma"
ERROR_COLOURS = "inferno"


# -------------------------------------------------------------------- style
@contextmanager
def use_style() -> Iterator[None]:
    """The study's style for whatever is drawn inside; nothing stays changed."""
    with matplotlib.rc_context(STYLE):
        yield


class Picture(Figure):
    """A figure that shows itself at the end of a notebook cell, without pyplot's list of open figures."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white")

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def method_label(name: str) -> str:
    """How a method is written in figures."""
    return _method(name)[0]


def method_colour(name: str) -> str:
    """The one colour of a method, in every figure."""
    return _method(name)[1]


def _method(name: str) -> tuple[str, str]:
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; figures know: {', '.join(METHODS)}")
    return METHODS[name]


def in_row_order(methods: Mapping) -> dict:
    """The same entries, in the order of rows that all figures keep."""
    for name in methods:
        _method(name)
    return {name: methods[name] for name in METHODS if name in methods}


# -------------------------------------------------------------------- from tensors to pictures
def to_picture(image: Tensor) -> np.ndarray:
    """An image [3, R, R] or [1, 3, R, R] in [-1, 1] as bytes [R, R, 3]."""
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected one image [3, R, R] or [1, 3, R, R], got {tuple(image.shape)}")
    return to_bytes(image.detach().float().cpu().permute(1, 2, 0).numpy())


def depth_colours(
    depth: Tensor, alpha: Tensor, limits: tuple[float, float] | None = None, opaque: float = 0.5
) -> np.ndarray:
    """Depth [1, R, R] as bytes [4R, 4R, 3]: the nearest brightest, in relief under a lamp at the upper left.

    Colour alone hides a nose, whose height is small beside the depth of the head. limits: nearest and
    farthest depth of the colours; None takes those of this view. Grey where alpha is at most `opaque`.
    """
    near, far = depth_limits(depth, alpha, opaque) if limits is None else limits
    depth, alpha = (x.detach().float().cpu().reshape(x.shape[-2:]).numpy() for x in (depth, alpha))
    # Splines have continuous curvature; of what is less smooth, a lamp shows the seams between pixels.
    depth = zoom(depth.clip(near, far), 4, order=3, mode="nearest", grid_mode=True)
    alpha = zoom(alpha, 4, order=1, mode="nearest", grid_mode=True)
    nearness = ((far - depth) / (far - near)).clip(0, 1)
    flat = matplotlib.colormaps[DEPTH_COLOURS](0.8 * nearness)[..., :3]  # the lamp needs the brightest fifth
    pixel = np.median(depth) / FOCAL / depth.shape[0]  # in world units, as the heights are
    lit = LightSource(azdeg=315, altdeg=45).shade_rgb(flat, -depth, blend_mode="soft", dx=pixel, dy=pixel)
    lit[alpha <= opaque] = to_rgb(EMPTY)
    return np.round(255 * lit).astype(np.uint8)


# -------------------------------------------------------------------- grids
def image_grid(
    rows: Sequence[Sequence[Tensor | np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    captions: Sequence[Sequence[str]] = (),
    cell: float = CELL,
) -> Picture:
    """Pictures in rows and columns: tensors [3, R, R] in [-1, 1], byte arrays [R, R, 3], or None for a gap.

    captions: for each row a line under each picture, or nothing. cell: side of a picture, inches.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a grid needs at least one picture")
    _check_labels(row_labels, len(rows), "row labels")
    _check_labels(column_labels, columns, "column labels")
    _check_labels(captions, len(rows), "rows of captions")

    # Lengths are inches. Margins follow from the labels: nothing is cropped, and pictures keep their size.
    gap, left, top = 0.04, _width_of(row_labels), 0.30 if column_labels else 0.04
    below = [0.24 if captions and any(captions[i]) else 0.0 for i in range(len(rows))]
    width = left + columns * (cell + gap) + gap
    height = top + sum(cell + gap + space for space in below)
    picture = Picture(width, height)

    def write(x: float, y: float, text: str, **style: object) -> None:
        picture.text(x / width, y / height, text, va="center", **style)

    with use_style():
        y = height - top
        for i, row in enumerate(rows):
            y -= cell
            if row_labels:
                write(left - 0.08, y + cell / 2, row_labels[i], ha="right")
            for j, content in enumerate(row):
                x = left + gap + j * (cell + gap)
                if content is not None:
                    show_picture(
                        picture.add_axes((x / width, y / height, cell / width, cell / height)), content
                    )
                if below[i]:
                    write(x + cell / 2, y - 0.12, captions[i][j], ha="center", size=9)
            y -= gap + below[i]
        for j, label in enumerate(column_labels):
            write(left + gap + j * (cell + gap) + cell / 2, height - 0.16, label, ha="center")
    return picture


def _check_labels(labels: Sequence, count: int, what: str) -> None:
    if labels and len(labels) != count:
        raise ValueError(f"{len(labels)} {what} for {count}: {list(labels)}")


def _width_of(labels: Sequence[str]) -> float:
    """Inches that the longest line of these labels needs, at the style's font size."""
    longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
    return 0.085 * longest + 0.14 if longest else 0.0


def show_picture(axes: Axes, content: Tensor | np.ndarray) -> None:
    """A picture and nothing else on these axes: a tensor [3, R, R] in [-1, 1], or bytes [R, R, 3]."""
    axes.imshow(content if isinstance(content, np.ndarray) else to_picture(content))
    axes.set_axis_off()


def signed(angle: float) -> str:
    """An angle as labels write it, with its sign and a true minus."""
    return f"{angle:+.2f}".replace("-", "\N{MINUS SIGN}") if round(angle, 2) else "0"


# -------------------------------------------------------------------- the figures of the study
@torch.no_grad()
def turning_heads(
    inversions: Mapping[str, Head],
    target: Tensor | None = None,
    yaws: int | Sequence[float] = 7,
    *,
    pitch: float = 0.0,
    depth: bool = True,
    cell: float = CELL,
) -> Picture:
    """Each method's head (name: inversion) from several yaws, its depth below it, the photo at the left.

    yaws: radians, or how many to spread evenly over -0.6 to 0.6. All depths share one colour scale.
    """
    angles = torch.linspace(-0.6, 0.6, yaws).tolist() if isinstance(yaws, int) else list(yaws)
    heads = in_row_order(inversions)
    views = [head.render(view_of(head, torch.tensor(angles), pitch)) for head in heads.values()]
    limits = depth_limits(torch.cat([v.depth for v in views]), torch.cat([v.alpha for v in views]))
    photo = [] if target is None else [target]
    rows, labels = [], []
    for name, view in zip(heads, views, strict=True):
        rows.append([*photo, *view.image])
        labels.append(method_label(name))
        if depth:
            rows.append([*(None for _ in photo), *_depth_row(view.depth, view.alpha, limits)])
            labels.append("depth")
    titles = [*("photo" for _ in photo), *(f"yaw {signed(angle)}" for angle in angles)]
    return image_grid(rows, labels, titles, cell=cell)


@torch.no_grad()
def samples_with_depth(
    heads: Sequence[Head],
    yaws: Sequence[float] = (-0.5, -0.25, 0.0, 0.25, 0.5),
    depth_yaws: Sequence[float] = (0.0, 0.5),
    *,
    cell: float = CELL,
) -> Picture:
    """One row a head: its views, then depth from some yaws, each head on its own colour scale."""
    rows = []
    for head in heads:
        view = head.render(view_of(head, torch.tensor([*yaws, *depth_yaws])))
        depth, alpha = view.depth[len(yaws) :], view.alpha[len(yaws) :]
        rows.append([*view.image[: len(yaws)], *_depth_row(depth, alpha, depth_limits(depth, alpha))])
    titles = [f"yaw {signed(angle)}" for angle in yaws] + [f"depth {signed(angle)}" for angle in depth_yaws]
    return image_grid(rows, (), titles, cell=cell)


def _depth_row(depths: Tensor, alphas: Tensor, limits: tuple[float, float]) -> list[np.ndarray]:
    return [depth_colours(depth, alpha, limits) for depth, alpha in zip(depths, alphas, strict=True)]


@torch.no_grad()
def error_maps(
    target: Tensor,
    renderings: Mapping[str, Tensor],
    *,
    captions: Mapping[str, str] | None = None,
    limit: float = 0.5,
    cell: float = 1.6,
) -> Picture:
    """The photo, each method's picture of it (name: image in [-1, 1]), and below each its absolute error.

    The error is the mean over the three colours, drawn on one scale from 0 to `limit`. captions: a line for
    each method; None writes its mean squared error.
    """
    renderings = in_row_order(renderings)
    errors = {name: _difference(image, target) for name, image in renderings.items()}
    if captions is None:
        captions = {name: f"MSE {error.square().mean():.4f}" for name, error in errors.items()}
    scale = ScalarMappable(Normalize(0, limit), ERROR_COLOURS)
    maps = [scale.to_rgba(error.abs().mean(dim=0).numpy(), bytes=True)[..., :3] for error in errors.values()]
    picture = image_grid(
        [[target, *renderings.values()], [None, *maps]],
        ["", "error"],
        ["photo", *map(method_label, renderings)],
        captions=[[], ["", *(captions[name] for name in renderings)]],
        cell=cell,
    )
    _add_scale_below_photo(picture, scale, n_methods=len(renderings))
    return picture


def _difference(image: Tensor, target: Tensor) -> Tensor:
    image, target = (x.detach().float().cpu() for x in (image, target))
    if image.shape[-3:] != target.shape[-3:]:
        raise ValueError(f"cannot compare {tuple(image.shape)} with the photo's {tuple(target.shape)}")
    return image.reshape(image.shape[-3:]) - target.reshape(target.shape[-3:])


def _add_scale_below_photo(picture: Picture, scale: ScalarMappable, n_methods: int) -> None:
    """Draw the scale of the errors in the gap that the grid leaves under the photo."""
    photo, first_map = (picture.axes[i].get_position() for i in (0, n_methods + 1))
    x, y = photo.x0 + 0.45 * photo.width, first_map.y0 + 0.06 * first_map.height
    with use_style():
        bar = picture.add_axes((x, y, 0.1 * photo.width, 0.88 * first_map.height))
        picture.colorbar(scale, cax=bar, ticklocation="left", label="mean |error|")
        bar.yaxis.set_major_locator(MaxNLocator(5))


def curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    keys: Sequence[str] = ("l2", "lpips"),
    *,
    log: bool = True,
) -> Picture:
    """How the losses fell: one panel a key of the histories (name: history, with a list for each key)."""
    histories = in_row_order(histories)
    with use_style():
        picture = Picture(4.2 * len(keys), 3.0)
        for axes, key in zip(picture.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            for name, history in histories.items():
                if key not in history:
                    raise ValueError(f"the history of {name!r} has no {key!r}; it has: {', '.join(history)}")
                axes.plot(history[key], color=method_colour(name), label=method_label(name))
            axes.set(title=key, xlabel="step", yscale="log" if log else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        picture.axes[0].legend()
        picture.tight_layout()
    return picture
