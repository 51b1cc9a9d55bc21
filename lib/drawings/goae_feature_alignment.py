"""Drawings about GOAE's adaptive feature alignment (Yuan et al., 2023, sec. 4.2, fig. 5 and 8, table 3): where places of
the features look in the photo, and what that changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor

from lib.datasets.scenes import Scene
from lib.drawings.foundations import axis_names
from lib.drawings.metrics import error_map
from lib.drawings.scenes import LARGEST_ERROR, SHOWN
from lib.encoders.cross_attention import CrossAttention
from lib.encoders.goae import Refined, residual
from lib.figures import CELL, ERROR_COLOURS, Picture, image_grid, to_picture
from lib.generators import EG3D
from lib.images import resize
from lib.inversion.result import StillHead
from lib.meshes import Head
from lib.warping import pixels_in_view, visible

MARK = (255, 255, 255)
DIMMED = 0.45
"""How bright the photo is below a map of attention."""


# -------------------------------------------------------------------- where a place looks
@torch.no_grad()
def attention_weights(block: CrossAttention, query: Tensor, key_value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) of eq. 7, [B, heads, N, M]: how much each of N places asks of each of M tokens."""
    attention = block.multihead_attn
    return attention(query, key_value, key_value, need_weights=True, average_attn_weights=False)[1]


def place_of(points: Tensor, side: int, box_warp: float) -> Tensor:
    """Which place of a map F [B, C, side, side], counted row by row, points [N, 3] fall on, seen from the front: [N].

    F is in the frame of plane (x, y), whose rows go up. A point beside the planes belongs to the nearest place.
    """
    column, row = ((points[:, :2] / box_warp + 0.5) * side).floor().clamp(0, side - 1).long().T
    return row * side + column


def token_positions(side: int) -> Tensor:
    """Where the tokens of a residual lie in its picture, row by row: (u, v) [side^2, 2], v down."""
    centres = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).flatten(0, 1)


def most_asked(weights: Tensor) -> Tensor:
    """Position (u, v) [N, 2] in the photo of the token that each of N places asks most: weights [N, M]."""
    return token_positions(round(weights.shape[1] ** 0.5))[weights.argmax(dim=1).cpu()]


def followed(
    generator: EG3D, head: Head, scene: Scene, weights: Tensor, side: int, rays: int = 64
) -> dict[str, float]:
    """How far places look from where the photo truly shows them, as a share of the picture's side.

    Of the surface that both photo and frontal view see, a point a ray of the frontal view, on the head's mask if the
    photo has one. weights [side^2, M]: of each place of F. attention: of the token that is asked most. front: of where
    the frontal view has the point, where a map that aligns nothing leaves it. points: how many.
    """
    front, photo = generator.frontal_camera().to("cpu"), scene.input
    depth = head.render(front, neural_resolution=rays).depth.cpu()
    own = head.render(photo.camera, neural_resolution=rays).depth.cpu()
    uv, distance = pixels_in_view(front, depth, photo.camera)
    seen = visible(uv, distance, own)[0, 0].flatten()
    if photo.mask is not None:
        at = (uv[0] * photo.mask.shape[-1]).long().clamp(0, photo.mask.shape[-1] - 1)
        seen = seen & photo.mask[0, 0][at[:, 1], at[:, 0]]
    origins, directions = front.rays(rays)
    points = (origins + directions * depth.flatten(1)[..., None])[0][seen]
    places = place_of(points, side, generator.config.rendering.box_warp)
    true = uv[0][seen]
    return {
        "attention": (most_asked(weights[places]) - true).norm(dim=1).mean().item(),
        "front": (token_positions(rays)[seen] - true).norm(dim=1).mean().item(),
        "points": int(seen.sum()),
    }


def attention_pictures(
    image: Tensor, weights: Tensor, marks: Tensor, names: Sequence[str], *, cell: float = CELL
) -> Picture:
    """A column a place: the photo [1, 3, R, R] with a cross where it shows that place, (u, v) of marks [N, 2], and below
    which tokens the place asks, weights [N, M] over the photo.

    Each map has its own scale: from nothing to its greatest weight, which stands below it.
    """
    photo = to_picture(resize(image, SHOWN))
    side = round(weights.shape[1] ** 0.5)
    maps = [_over(photo, one.reshape(side, side).cpu().numpy()) for one in weights]
    rows = [
        [crossed(photo, mark) for mark in marks],
        [crossed(*pair) for pair in zip(maps, marks, strict=True)],
    ]
    greatest = [f"max {one.max():.3f}" for one in weights]
    return image_grid(rows, ["photo", "asked"], names, captions=[[""] * len(names), greatest], cell=cell)


def _over(photo: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bytes of a photo, dimmed, under the colours of weights [side, side]."""
    factor = len(photo) // len(weights)
    share = (weights / weights.max()).repeat(factor, axis=0).repeat(factor, axis=1)[..., None]
    colours = 255 * colormaps[ERROR_COLOURS](share[..., 0])[..., :3]
    return np.round((1 - share) * DIMMED * photo + share * colours).astype(np.uint8)


def crossed(photo: np.ndarray, mark: Tensor) -> np.ndarray:
    """Bytes [R, R, 3] with a cross at (u, v)."""
    marked, size = photo.copy(), len(photo)
    column, row = (mark.clamp(0, 1) * size).long().clamp(0, size - 1).tolist()
    reach, width = size // 16, max(1, size // 64)
    marked[max(0, row - reach) : row + reach + 1, max(0, column - width // 2) : column + width] = MARK
    marked[max(0, row - width // 2) : row + width, max(0, column - reach) : column + reach + 1] = MARK
    return marked


# -------------------------------------------------------------------- what changes
def strength(maps: Tensor) -> Tensor:
    """Root mean square over the channels of maps [1, C, h, w]: [1, h, w], rows up, as a head stands."""
    return maps[0].square().mean(dim=0, keepdim=True).sqrt().flip(1)


def change_maps(
    generator: EG3D,
    found: Mapping[str, Refined],
    modulations: Mapping[str, tuple[Tensor, Tensor]],
    *,
    cell: float = CELL,
) -> Picture:
    """A row a network: how far its gamma is from 1, its beta, F* - F, and the planes' difference, root mean squares over
    channels.

    modulations: gamma and beta of each. A column has one scale, from nothing to 99 % of all its values. The rows of
    planes go up; maps are turned over, so that heads stand.
    """
    rows = {}
    for name, each in found.items():
        gamma, beta = modulations[name]
        change = each.refined.values - each.features.values
        planes = (each.refined_planes - each.planes)[0]
        rows[name] = [strength(maps) for maps in (gamma - 1, beta, change, *planes[:, None])]
    limits = [
        max(torch.cat(column).quantile(0.99).item(), 1e-6) for column in zip(*rows.values(), strict=True)
    ]
    drawn = [
        [error_map(values, limit) for values, limit in zip(row, limits, strict=True)] for row in rows.values()
    ]
    names = ["".join(plane).upper() for plane in axis_names(generator.plane_axes)]
    titles = [r"$|\gamma - 1|$", r"$|\beta|$", "$|F^* - F|$", *(f"plane {name}" for name in names)]
    below = [[""] * len(titles)] * (len(drawn) - 1) + [[f"white: {limit:.2g}" for limit in limits]]
    return image_grid(drawn, list(rows), titles, captions=below, cell=cell)


# -------------------------------------------------------------------- figure 8
@torch.no_grad()
def details(scene: Scene, heads: Mapping[str, StillHead], other: str, *, cell: float = CELL) -> Picture:
    """Figure 8: a column a head (title: head): the photo's view, its error, and another known view; the truth first.

    Below each the mean squared error.
    """
    photo, beside = scene.input, scene.views[other]
    columns = [[photo.image, None, beside.image]]
    captions = [["truth", "", "truth"]]
    for head in heads.values():
        seen, aside = (head.render(view.camera).image.clamp(-1, 1) for view in (photo, beside))
        error = residual(photo.image, seen)[0].abs().mean(dim=0, keepdim=True)
        columns.append([seen, error_map(error, LARGEST_ERROR), aside])
        captions.append([f"MSE {_mse(seen, photo.image):.4f}", "", f"MSE {_mse(aside, beside.image):.4f}"])
    rows, below = ([list(line) for line in zip(*part, strict=True)] for part in (columns, captions))
    return image_grid(
        rows, ["photo's view", "error", "another view"], ["", *heads], captions=below, cell=cell
    )


def _mse(image: Tensor, target: Tensor) -> float:
    return (image - target).square().mean().item()


def furthest(scene: Scene) -> str:
    """Name of the known view that is turned most from the photo."""
    yaw = scene.input.camera.yaw.item()
    others = {name: view.camera.yaw.item() for name, view in scene.views.items() if name != scene.input_name}
    return max(others, key=lambda name: abs(others[name] - yaw))
