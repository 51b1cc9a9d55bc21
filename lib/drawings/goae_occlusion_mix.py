"""GOAE's occlusion-aware mix (Yuan et al., 2023, sec. 4.3): masks over planes, which surface reads refined texels, and
what that does to pictures of what the photo does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from lib.cameras import Camera
from lib.datasets import Scene, View
from lib.drawings.foundations import axis_names, principal_colours
from lib.drawings.scenes import VEILED
from lib.encoders.goae import Mix, Refined, mix
from lib.encoders.occlusion import visible_from, visible_points
from lib.evaluation.protocol import views_measured
from lib.figures import EMPTY, Picture, in_row_order, method_colour, method_label, use_style
from lib.generators import EG3D
from lib.generators.rendering import sample_planes
from lib.images import resize
from lib.metrics.statistics import FEWEST, mean_interval

FORMS: dict[str, Mix] = {"goae-no_mix": "none", "goae-released_mix": "released", "goae": "planes"}
"""Which mix each method has."""

REGIONS = {"visible": "#f2b134", "hidden": "#3b5b92", "wall": "#9a9a9a"}
"""What the photo sees of a head, what it does not, and what is behind the head: their colours."""

SHARE_COLOURS = "viridis"
ENLARGED = 4
"""Pixels across for a ray or a texel: they stay squares."""

OPAQUE = 0.5
"""Share of a ray's light, or of its pixels, from which on it counts as head."""


# ----------------------------------------------------------------------- the surface in a view
@dataclass(frozen=True)
class Surface:
    """Where the rays of one view of a head end."""

    points: Tensor  # [1, rays^2, 3], world
    head: Tensor  # bool [1, 1, rays, rays]: they end on the head, not on the wall behind it
    visible: Tensor  # bool [1, 1, rays, rays]: on a place that the photo shows, too

    def region(self, name: str) -> Tensor:
        """bool [1, 1, rays, rays]: one of `REGIONS`; they are apart, and together the whole view."""
        return {"visible": self.head & self.visible, "hidden": self.head & ~self.visible, "wall": ~self.head}[
            name
        ]


@torch.no_grad()
def surface_in_view(generator: EG3D, found: Refined, photo_camera: Camera, view: View) -> Surface:
    """The surface of a code's head in a view. Photo and view are asked for the depth of the same head, G(w+).

    What is head and what the wall behind it, the view's true mask says; where there is none, all that is opaque counts.
    """
    seen = generator.render(found.planes, found.w_plus, view.camera)
    rays = seen.depth.shape[-1]
    head = seen.alpha > OPAQUE if view.mask is None else resize(view.mask.float(), rays) > OPAQUE
    points = visible_points(seen.depth, view.camera)
    return Surface(points, head, visible_from(photo_camera, found.plain.depth, view.camera, seen.depth))


def refined_shares(masks: Tensor, points: Tensor, axes: Tensor, box_warp: float) -> Tensor:
    """Which share of what each plane says at points [1, N, 3] is refined: [1, N, 3], by masks [1, 3, S, S].

    The bilinear lookup of each mask in its own plane.
    """
    apart = torch.diag_embed(masks.to(points).permute(0, 2, 3, 1)).permute(0, 3, 4, 1, 2)
    return 3 * sample_planes(apart, points, axes, box_warp)  # which is a mean over planes


# ----------------------------------------------------------------------- measures of a scene
@torch.no_grad()
def region_shares(
    generator: EG3D, found: Refined, masks: Tensor, scene: Scene
) -> dict[tuple[str, str], float]:
    """{(region, plane): share of the lookups of its surface that is refined} in the views of a scene beside its input.

    Planes by their axes, and "any plane": surface for which at least one is refined. Means over all rays of a region; a
    region without any is left out.
    """
    axes, box_warp = generator.plane_axes, generator.config.rendering.box_warp
    shares = {}
    for view in _other_views(scene):
        surface = surface_in_view(generator, found, scene.input.camera, view)
        read = refined_shares(masks, surface.points, axes, box_warp)[0]
        for region in REGIONS:
            _gather(shares, region, _by_plane(read[surface.region(region).flatten()], axes))
    return _means(shares)


@torch.no_grad()
def region_errors(generator: EG3D, found: Refined, scene: Scene) -> dict[tuple[str, str], float]:
    """{(region, method): MSE against the true views} of a scene beside its input, of G(w+) and of `FORMS`.

    Means over all known pixels of a region; a region without any is left out.
    """
    planes = heads_by_method(generator, found, scene.input.camera)
    errors = {}
    for view in _other_views(scene):
        surface = surface_in_view(generator, found, scene.input.camera, view)
        known = torch.ones_like(view.image[:, :1], dtype=torch.bool) if view.known is None else view.known
        images = {name: generator.render(of, found.w_plus, view.camera).image for name, of in planes.items()}
        squared = {name: _squared_error(image, view.image) for name, image in images.items()}
        for region in REGIONS:
            pixels = (resize(surface.region(region).float(), view.image.shape[-1]) > OPAQUE) & known
            _gather(errors, region, {name: error[pixels] for name, error in squared.items()})
    return _means(errors)


def heads_by_method(generator: EG3D, found: Refined, photo_camera: Camera) -> dict[str, Tensor]:
    """Planes [1, 3, C, S, S] of the code, and refined ones under each mix."""
    mixed = {name: mix(generator, found, photo_camera, form) for name, form in FORMS.items()}
    return {"goae-wplus": found.planes} | mixed


def _other_views(scene: Scene) -> list[View]:
    return [scene.views[name] for name in views_measured(scene) if name != scene.input_name]


def _squared_error(image: Tensor, truth: Tensor) -> Tensor:
    return (image.clamp(-1, 1) - truth).square().mean(dim=1, keepdim=True)


def _by_plane(read: Tensor, axes: Tensor) -> dict[str, Tensor]:
    names = plane_names(axes)
    return dict(zip(names, read.T, strict=True)) | {"any plane": (read > 0).any(dim=1).float()}


def _gather(found: dict, region: str, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        found.setdefault((region, name), []).append(value)


def _means(found: Mapping[tuple[str, str], Sequence[Tensor]]) -> dict[tuple[str, str], float]:
    joined = {key: torch.cat(list(values)) for key, values in found.items()}
    return {key: values.mean().item() for key, values in joined.items() if len(values)}


def plane_names(axes: Tensor) -> list[str]:
    """XY, XZ, ZX for the axes of EG3D's released generators."""
    return ["".join(names).upper() for names in axis_names(axes)]


# ----------------------------------------------------------------------- pictures
def masks_over_planes(planes: Tensor, masks: Tensor) -> list[np.ndarray]:
    """Planes [1, 3, C, S, S] in principal colours, pale where masks [1, 3, S, S] say plain: bytes, v upwards."""
    colours = torch.from_numpy(principal_colours(planes[0])).float() / 255
    plain = 1 - masks[0].float().cpu()[..., None]
    pale = torch.lerp(colours, torch.ones_like(colours), VEILED * plain)
    return [_enlarged(picture) for picture in (255 * pale).round().byte().flip(1).numpy()]


def occlusion_map(surface: Surface) -> np.ndarray:
    """Fig. 9's last column: white what the photo sees, black what it does not, grey beside the head; bytes."""
    seen, head = (part[0, 0].cpu().numpy() for part in (surface.visible, surface.head))
    colours = np.where(seen[..., None], 1.0, np.zeros(3))
    return _over_grey(colours, head)


def share_map(read: Tensor, surface: Surface) -> np.ndarray:
    """The mean over planes of `refined_shares` in a view, from 0 (dark) to 1 (bright), grey beside the head; bytes."""
    head = surface.head[0, 0].cpu().numpy()
    return _over_grey(
        colormaps[SHARE_COLOURS](read.mean(dim=-1).cpu().numpy().reshape(head.shape))[..., :3], head
    )


def _over_grey(colours: np.ndarray, kept: np.ndarray) -> np.ndarray:
    shown = np.where(kept[..., None], colours, to_rgb(EMPTY))
    return _enlarged(np.round(255 * shown).astype(np.uint8))


def _enlarged(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def shares_and_changes(shares: pd.DataFrame, errors: pd.DataFrame, baseline: str = "goae-wplus") -> Picture:
    """Which share of each region's lookups is refined, and the error of each mix less that of the baseline.

    shares, errors: a row a scene, columns (region, plane) and (region, method), of `region_shares`
    and `region_errors`. Bars are 95 %
    intervals over scenes, from three on; n is their number.
    """
    with use_style():
        picture = Picture(7.8, 3.3)
        left, right = picture.subplots(1, 2, width_ratios=(1.1, 1))
        planes = list(dict.fromkeys(shares.columns.get_level_values(1)))
        for place, (region, colour) in enumerate(REGIONS.items()):
            for at, plane in enumerate(planes):
                label = region if at == 0 else None
                _mean_with_interval(left, at + 0.2 * (place - 1), shares.get((region, plane)), colour, label)
        left.set(ylim=(0, 1.05), ylabel="refined share of lookups")
        left.set_xticks(range(len(planes)), planes)
        left.legend(loc="lower left", ncols=3, bbox_to_anchor=(0, 1.0), columnspacing=1.2)
        methods = in_row_order(dict.fromkeys(errors.columns.get_level_values(1)))
        methods = [name for name in methods if name != baseline]
        for place, name in enumerate(methods):
            for at, region in enumerate(REGIONS):
                change = _change(errors, region, name, baseline)
                label = method_label(name) if at == 0 else None
                _mean_with_interval(right, at + 0.2 * (place - 1), change, method_colour(name), label)
        right.axhline(0, color=method_colour(baseline), lw=1.2, zorder=1)
        right.set(ylabel=f"MSE, minus that of {method_label(baseline)}", xlim=(-0.5, len(REGIONS) - 0.5))
        right.set_xticks(
            range(len(REGIONS)), [f"{region}\nn {_count(errors, region, baseline)}" for region in REGIONS]
        )
        right.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
        picture.tight_layout()
    return picture


def _change(errors: pd.DataFrame, region: str, method: str, baseline: str) -> pd.Series | None:
    if (region, method) not in errors:
        return None
    return errors[region, method] - errors[region, baseline]


def _count(errors: pd.DataFrame, region: str, method: str) -> int:
    return int(errors[region, method].notna().sum()) if (region, method) in errors else 0


def _mean_with_interval(
    axes: Axes, at: float, values: pd.Series | None, colour: str, label: str | None
) -> None:
    known = [] if values is None else values.dropna().to_numpy()
    if not len(known):
        return
    axes.plot(at, known.mean(), "o", color=colour, ms=5, label=label)
    if len(known) >= FEWEST:
        found = mean_interval(known)
        axes.vlines(at, found.low, found.high, color=colour, lw=1.6)
