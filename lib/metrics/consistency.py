"""A head measured from several sides: each view against its truth, and the views against one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lib.cameras import Camera
from lib.images import resize
from lib.meshes import SHAPE_RAYS, Head, view_of
from lib.warping import TOLERANCE, angle_between_views, warp

Metric = Callable[[Tensor, Tensor], Tensor]
"""(estimate, truth), each [B, ...], to a value per image [B]."""

EDGE_YAW, EDGE_PITCH = 0.35, 0.25
"""Radians: how far HFGI3D's trajectory of views goes to the sides, and up and down."""


# -------------------------------------------------------------------- against true views
def by_view(
    metric: Metric, estimates: Mapping[str, Tensor], truths: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """A metric for each named view: {name: value [B]}, in the order of the truths.

    Estimates and truths are pictures, depths or normals, whatever the metric compares. A truth that is None is
    not known, and that view is left out; a known view without estimate is an error.
    """
    known = {name: truth for name, truth in truths.items() if truth is not None}
    missing = known.keys() - estimates.keys()
    if missing:
        raise ValueError(
            f"no estimate for the views {', '.join(sorted(missing))}; estimates: {', '.join(estimates) or 'none'}"
        )
    return {name: metric(estimates[name], truth) for name, truth in known.items()}


# -------------------------------------------------------------------- against one another
class Prediction(NamedTuple):
    """A view as other views of the same head predict it."""

    image: Tensor  # [1, 3, R, R] in [-1, 1]
    seen_by: Tensor  # [1, 1, R, R], how many of the other views show the surface of a pixel


def edge_cameras(head: Head, corners: bool = False) -> Camera:
    """The canonical camera and four at the edges of HFGI3D's trajectory (Xie et al., 2023, table 3): [5].

    The text leaves open which four. The extremes of the ellipse are (+-0.35, 0) and (0, +-0.25) in yaw and
    pitch; `corners` takes (+-0.35, +-0.25).
    """
    if corners:
        edges = [(s * EDGE_YAW, t * EDGE_PITCH) for s in (-1, 1) for t in (-1, 1)]
    else:
        edges = [(-EDGE_YAW, 0.0), (EDGE_YAW, 0.0), (0.0, -EDGE_PITCH), (0.0, EDGE_PITCH)]
    yaw, pitch = torch.tensor([(0.0, 0.0), *edges]).T
    return view_of(head, yaw, pitch)


@torch.no_grad()
def predict_view(head: Head, camera: Camera, sources: Camera, tolerance: float = TOLERANCE) -> Prediction:
    """One view of a head out of its pictures from other cameras: each warped by rendered depth, then blended.

    Weights fall with the angle at the surface between the wanted and the source camera, as in unstructured
    lumigraphs (Buehler et al., 2001), and count where the source shows the surface. A pixel that no
    source shows takes the blend of what stands in its place.
    """
    head = head.still()
    pictures = head.render(sources).image.float().cpu()
    side, count = pictures.shape[-1], len(sources)
    depths = _depth(head, sources, side)
    wanted = _depth(head, camera, side).expand(count, -1, -1, -1)
    camera, sources = camera.to("cpu").expand(count), sources.to("cpu")
    warped, seen = warp(pictures, sources, depths, camera, wanted, tolerance)
    weight = blending_weights(angle_between_views(camera, wanted, sources), seen)
    return Prediction((weight * warped).sum(dim=0, keepdim=True), seen.sum(dim=0, keepdim=True))


def blending_weights(angle: Tensor, seen: Tensor, softness: float = 0.01, unseen: float = 1e-6) -> Tensor:
    """Share [S, 1, R, R] of each of S sources in a pixel: 1 / angle where it sees it; they add up to 1.

    softness: radians below which the nearest view does not gain any more. unseen: what a source that does not
    see the surface counts beside one that does.
    """
    weight = seen.to(angle).clamp_min(unseen) / (angle + softness)
    return weight / weight.sum(dim=0, keepdim=True)


def view_consistency(
    head: Head,
    target: Tensor,
    camera: Camera,
    metrics: Mapping[str, Metric],
    sources: Camera | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Tensor]:
    """How well five views of an inversion predict the input picture [1, 3, R, R]: {metric: value [1]}.

    A stand-in for IBRNet in HFGI3D's table 3, not IBRNet: depth says which pixels belong together, and nothing
    is learned, so numbers compare with one another and not with the paper's (21.69 dB). sources: None takes
    `edge_cameras`. The views see what the head has for everybody; what an inversion painted for the input view
    alone (in front of it, or where only it looks) is not in them. Blind to shapes that are wrong and consistent.
    """
    sources = edge_cameras(head) if sources is None else sources
    prediction = predict_view(head, camera, sources, tolerance).image
    return {name: metric(prediction, target) for name, metric in metrics.items()}


def _depth(head: Head, camera: Camera, side: int) -> Tensor:
    """Depth [B, 1, side, side] along the ray from each camera: one ray a pixel, or `SHAPE_RAYS` and enlarged."""
    rays = min(side, max(head.generator.config.neural_resolution, SHAPE_RAYS))
    return resize(head.render(camera, neural_resolution=rays).depth.float().cpu(), side)
