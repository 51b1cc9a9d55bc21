"""HFGI3D (Xie et al., 2023), step by step: what the photo's camera sees of a mesh, where pseudo views are, theta."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import cycle, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from lib.cameras import Camera
from lib.drawings.metrics import SERIES_COLOURS
from lib.figures import EMPTY, Picture, method_colour, use_style
from lib.inversion.hfgi3d import PseudoViews, Surface
from lib.meshes import to_bytes
from lib.rasterisation import interpolate, rasterise

SEEN_COLOUR, HIDDEN_COLOUR = "#cfc7ba", "#5b7fb5"
"""Of a surface where the photo's camera sees it, and where it does not."""

LAMP = (-0.4, -0.5, -0.8)
"""Where the light comes from, in axes of the camera: over its left shoulder."""

AMBIENT = 0.35
"""Share of the light that has no direction: the relief of what turns from the lamp can still be made out."""


# -------------------------------------------------------------------- what the photo's camera sees
@torch.no_grad()
def surface_pictures(surface: Surface, cameras: Camera, side: int = 256) -> list[np.ndarray]:
    """A surface as some cameras see it, bytes [side, side, 3]: plaster where p_0 sees it, blue where it does not."""
    fragments = rasterise(surface.vertices, surface.faces, cameras, side)
    normals = vertex_normals(surface.vertices, surface.faces)
    facing = F.normalize(interpolate(fragments, surface.faces, normals), dim=1)
    seen = interpolate(fragments, surface.faces, surface.seen[:, None].to(normals)) > 0.999
    plaster, hidden, empty = (
        torch.tensor(to_rgb(colour))[None, :, None, None] for colour in (SEEN_COLOUR, HIDDEN_COLOUR, EMPTY)
    )
    lit = torch.where(seen, plaster, hidden) * _light(facing, cameras)
    colours = torch.where(fragments.covered, lit, empty)
    return [to_bytes(2 * picture.permute(1, 2, 0).numpy() - 1) for picture in colours]


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [V, 3] of vertices: the mean over their faces, by area. Either side of a face may be the outer."""
    a, b, c = vertices[faces].unbind(dim=1)
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add_(0, faces.flatten(), across.repeat_interleave(3, dim=0))
    return F.normalize(total, dim=1)


def _light(normals: Tensor, cameras: Camera) -> Tensor:
    """How bright [B, 1, R, R] surfaces with these normals [B, 3, R, R] are under a lamp beside each camera."""
    lamp = cameras.rotation @ F.normalize(torch.tensor(LAMP), dim=0)
    lambert = torch.einsum("bchw,bc->bhw", normals, lamp)[:, None].abs()
    return AMBIENT + (1 - AMBIENT) * lambert


# -------------------------------------------------------------------- from where
def camera_places(auxiliary: Camera, photo: Camera, known: Camera) -> Picture:
    """Yaw and pitch of the auxiliary cameras p_i, of the photo's p_0, and of the views whose truth is known."""
    with use_style():
        drawing = Picture(5.6, 2.9)
        axes = drawing.add_axes((0.12, 0.19, 0.53, 0.76))
        for cameras, label, style in (
            (auxiliary, "$p_i$, pseudo views", {"marker": "o", "color": method_colour("hfgi3d"), "ms": 5}),
            (known, "truth is known", {"marker": "s", "color": "0.3", "mfc": "none", "ms": 9}),
            (photo, "$p_0$, the photo", {"marker": "*", "color": SERIES_COLOURS[3], "ms": 13}),
        ):
            axes.plot(cameras.yaw.cpu(), cameras.pitch.cpu(), lw=0, label=label, **style)
        axes.set(xlabel="yaw (rad)", ylabel="pitch (rad)", aspect="equal")
        axes.margins(0.12)
        drawing.legend(*axes.get_legend_handles_labels(), loc="center right")
    return drawing


def some_views(views: PseudoViews, which: slice) -> PseudoViews:
    """Some of the pseudo views, with all their parts."""
    return PseudoViews(**{part.name: getattr(views, part.name)[which] for part in fields(views)})


# -------------------------------------------------------------------- how far a warp is to be trusted
def errors_over_slant(
    edges: Sequence[float], series: Mapping[str, Sequence[float]], shares: Sequence[float]
) -> Picture:
    """Errors of several series by the cosine between surface and direction to p_0, in bins with these edges.

    shares: how much of the surface lies in each bin; written below.
    """
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    with use_style():
        drawing = Picture(6.2, 3.1)
        axes = drawing.add_axes((0.11, 0.25, 0.86, 0.71))
        for colour, (name, errors) in zip(cycle(SERIES_COLOURS), series.items(), strict=False):
            axes.plot(middles, errors, "o-", color=colour, label=f"${name}$", mec="white", ms=7)
        bins = [
            f"{low:g} to {high:g}\n{share:.0%}"
            for (low, high), share in zip(pairwise(edges), shares, strict=True)
        ]
        axes.set_xticks(middles, bins)
        axes.set(xlabel="cosine of the slant, and share of the visible pixels", ylabel="MSE to the truth")
        axes.set_ylim(bottom=0)
        axes.legend()
    return drawing


# -------------------------------------------------------------------- theta
def errors_over_theta(
    thetas: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]], chosen: float | None
) -> Picture:
    """Errors of z_o over theta, against those of z_e: a panel a part of the views (title: {scene: errors}).

    errors: one a theta, then that of z_e. An infinite theta leaves nothing out. A line stands at the chosen one.
    """
    words = ["∞" if np.isinf(theta) else f"{theta:g}" for theta in thetas]
    with use_style():
        drawing = Picture(4.1 * len(panels) + 0.2, 3.2)
        grid = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, scenes) in zip(grid, panels.items(), strict=True):
            for colour, (name, (*errors, of_z_e)) in zip(cycle(SERIES_COLOURS), scenes.items(), strict=False):
                change = 100 * (np.asarray(errors) / of_z_e - 1)
                axes.plot(range(len(thetas)), change, "o-", color=colour, label=name, mec="white", ms=7)
            _theta_axis(axes, thetas, words, chosen)
            axes.set_title(title)
        grid[0].set_ylabel("MSE of $O_i$ against $z_e$'s, %")
        grid[0].legend()
        drawing.tight_layout()
    return drawing


def _theta_axis(axes: Axes, thetas: Sequence[float], words: Sequence[str], chosen: float | None) -> None:
    axes.axhline(0, color="0.5", lw=0.9)
    if chosen in thetas:
        axes.axvline(list(thetas).index(chosen), color="0.35", ls=":", lw=1.2)
    axes.set_xticks(range(len(thetas)), words)
    axes.set_xlabel("θ: colours further off are left out")
