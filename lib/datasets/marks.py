"""Marks on a head, painted in 3D: functions of the world, laid over true views whose depth is known.

A mark says what the rays of a view see of it. Decals and spots lie on the surface that the view's depth describes, so
they stick to it and are hidden with it; solids bring their own depth, which is tested against the view's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.datasets.scenes import Scene, View
from lib.datasets.stencils import Colour

MOST_RAYS = 512
"""Along a side of a view: paint is sharper than the pixels of small pictures, and must not flicker between views."""

LEAST_COVER = 0.1
"""A pixel of which marks cover less than this share does not count as painted."""

SHADES = (0.35, 1.5)
"""How much darker or lighter than where it was placed paint may look, by the light on the skin under it."""

ANGLES = (0.0, 0.3)
"""Cosines of the surface's slant against a decal's axis between which the decal fades in."""


# -------------------------------------------------------------------- what rays see
@dataclass(frozen=True)
class Sight:
    """What N rays of one view meet: origins, directions, normals [N, 3]; distance [N], inf where nothing is known."""

    origins: Tensor
    directions: Tensor
    distance: Tensor
    normals: Tensor
    on_head: Tensor  # [N], 1 on the head, 0 beside it

    @property
    def points(self) -> Tensor:
        """Where the rays meet the surface, [N, 3]."""
        return self.origins + self.directions * self.distance.nan_to_num(posinf=0.0)[:, None]


class Layer(NamedTuple):
    """What a mark adds along N rays; distance and normals only where it is geometry of its own."""

    opacity: Tensor  # [N] in [0, 1]
    colour: Tensor  # [N, 3] in [0, 1]
    distance: Tensor | None = None  # [N]
    normals: Tensor | None = None  # [N, 3]


class Mark(Protocol):
    """Something painted: a function from what rays meet to what they then see.

    brightness: luminance of the bare skin in [0, 1], by which the paint is lit; None where it has its own light.
    """

    brightness: float | None

    def layer(self, sight: Sight) -> Layer: ...


def rays_in_pixel(resolution: int) -> int:
    """Along a side of each pixel of a picture of this resolution: 4 of small pictures, 2 of large ones."""
    return min(max(MOST_RAYS // resolution, 2), 4)


def sight_of(view: View) -> Sight:
    """The rays through points evenly spread over each pixel of a view, row by row."""
    if view.depth is None or view.normals is None or view.mask is None:
        raise ValueError(
            "only a view whose depth, normals and mask are known can be painted in 3D; this one's are not"
        )
    side = view.image.shape[-1] * rays_in_pixel(view.image.shape[-1])
    origins, directions = view.camera.rays(side)
    fine = {"size": (side, side), "mode": "bilinear", "align_corners": False}
    depth = F.interpolate(view.depth, **fine).flatten()
    normals = F.normalize(F.interpolate(view.normals, **fine)[0].flatten(1).T, dim=1)
    on_head = F.interpolate(view.mask.float(), **fine).flatten()
    return Sight(origins[0], directions[0], depth.nan_to_num(nan=torch.inf), normals.nan_to_num(), on_head)


# -------------------------------------------------------------------- kinds of marks
@dataclass(frozen=True)
class Decal:
    """A picture thrown along an axis onto the surface, as by a slide projector with parallel rays.

    axes: rows right, up, outward, unit vectors of the world. picture: [1, 4, H, W], colour and opacity in [0, 1],
    colours multiplied by opacity. size: its side in world units. reach: how far from the centre along the axis the
    surface may lie. brightness: luminance of the bare skin there, in [0, 1].
    """

    centre: Tensor
    axes: Tensor
    picture: Tensor
    size: float
    reach: float
    brightness: float

    def layer(self, sight: Sight) -> Layer:
        right, up, outward = ((sight.points - self.centre) @ self.axes.T).unbind(-1)
        grid = torch.stack([right, -up], dim=-1)[None, None] * (2 / self.size)
        paint = F.grid_sample(self.picture, grid, align_corners=False)[0, :, 0].T
        facing = _smooth_step(sight.normals @ self.axes[2], *ANGLES)
        within = _smooth_step(self.reach - outward.abs(), 0.0, 0.2 * self.reach)
        there = facing * within * sight.on_head * sight.distance.isfinite()
        return Layer(paint[:, 3] * there, paint[:, :3] / paint[:, 3:].clamp_min(1e-6))


@dataclass(frozen=True)
class Spots:
    """Round spots in the skin, moles and freckles: K cylinders about axes `outward` [K, 3] through centres [K, 3].

    radii: [K]. reach: how far from its centre along its axis a spot goes; cylinders, not balls, because the depth of a
    volume differs a little from view to view.
    """

    centres: Tensor
    outward: Tensor
    radii: Tensor
    reach: float
    colour: Colour
    opacity: float
    brightness: float

    def layer(self, sight: Sight) -> Layer:
        middle = self.centres.mean(dim=0)
        extent = (self.centres - middle).norm(dim=1).max() + self.radii.max() + self.reach
        near = (sight.points - middle).norm(dim=1) < extent  # few of the rays: the rest need no distances
        points = sight.points[near]
        along = points @ self.outward.T - (self.centres * self.outward).sum(dim=1)
        across = (torch.cdist(points, self.centres).square() - along.square()).clamp_min(0).sqrt()
        from_axis = (across / self.radii).where(along.abs() < self.reach, torch.inf).amin(dim=1)
        inside = _smooth_step(1 - from_axis, -0.15, 0.15)
        opacity = torch.zeros_like(sight.distance).masked_scatter(near, self.opacity * inside)
        opacity = opacity * sight.on_head * sight.distance.isfinite()
        return Layer(opacity, opacity.new_tensor(self.colour).expand(len(opacity), 3))


@dataclass(frozen=True)
class Ellipsoid:
    """A solid with half axes [3] along x, y and z, lit from above the camera's side of the head."""

    centre: Tensor
    half_axes: Tensor
    colour: Colour

    brightness: float | None = None

    LIGHT: ClassVar = (0.3, 0.6, 0.74)
    AMBIENT: ClassVar = 0.45

    def layer(self, sight: Sight) -> Layer:
        distance = ellipsoid_distance(sight.origins, sight.directions, self.centre, self.half_axes)
        in_front = distance < sight.distance
        distance = distance.where(in_front, sight.distance.new_zeros(()))
        points = sight.origins + sight.directions * distance[:, None]
        normals = F.normalize((points - self.centre) / self.half_axes.square(), dim=1)
        lambert = (normals @ normals.new_tensor(self.LIGHT)).clamp_min(0)
        light = self.AMBIENT + (1 - self.AMBIENT) * lambert + 0.5 * lambert**12
        colour = (light[:, None] * light.new_tensor(self.colour)).clamp_max(1)
        return Layer(in_front.to(light), colour, distance, normals)


def ellipsoid_distance(origins: Tensor, directions: Tensor, centre: Tensor, half_axes: Tensor) -> Tensor:
    """Distance [N] along unit rays [N, 3] at which they enter an ellipsoid; inf where they miss it.

    The smaller root t of |o + t d|^2 = 1 in units of the half axes.
    """
    o, d = (origins - centre) / half_axes, directions / half_axes
    a, b, c = d.square().sum(-1), (o * d).sum(-1), o.square().sum(-1) - 1
    discriminant = b.square() - a * c
    entry = (-b - discriminant.clamp_min(0).sqrt()) / a
    return entry.where((discriminant >= 0) & (entry > 0), torch.inf)


def _smooth_step(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def luminance(image: Tensor) -> Tensor:
    """[B, 1, H, W] of images [B, 3, H, W], both in [0, 1]: Rec. 709's weights on display values."""
    return (image * image.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(dim=1, keepdim=True)


def light_on(mark: Mark, image: Tensor) -> Tensor:
    """Light [B, 1, H, W] on paint: how bright the skin is under it, relative to where it was placed."""
    if mark.brightness is None:
        return torch.ones_like(image[:, :1])
    return (luminance((image + 1) / 2) / mark.brightness).clamp(*SHADES)


# -------------------------------------------------------------------- painting
def paint_view(view: View, marks: Sequence[Mark], strength: float = 1.0) -> tuple[View, Tensor]:
    """The view with the marks on it, one over the other, and where they are: bool [1, 1, R, R].

    With opacity a and paint p, means over the pixel's rays, a colour c in [0, 1] becomes c + strength (p - a c).
    Where paint lies does not depend on the strength.
    """
    bare, painted = view.image, torch.zeros_like(view.mask)
    for mark in marks:
        layer = mark.layer(sight_of(view))
        opacity = _averaged(layer.opacity, view)
        colour = _averaged(layer.opacity[:, None] * layer.colour, view) * light_on(mark, bare)
        change = 2 * torch.minimum(colour, opacity) - opacity - opacity * view.image  # of values in [-1, 1]
        painted = painted | (opacity >= LEAST_COVER)
        view = _with_geometry(replace(view, image=view.image + strength * change), layer, strength)
    return view, painted


def _with_geometry(view: View, layer: Layer, strength: float) -> View:
    """A view whose depth, normals and mask know of a layer that is geometry of its own.

    As the renderer's the depth is the expected one; where none was known, it is the layer's where that is solid.
    """
    if layer.distance is None:
        return view
    cover = _averaged(layer.opacity, view)
    opacity, divisor = strength * cover, cover.clamp_min(1e-6)
    solid = opacity >= 0.5

    def blended(known: Tensor, new: Tensor) -> Tensor:
        mixed = torch.lerp(known, new, opacity).where(~known.isnan(), new.where(solid, torch.nan))
        return mixed.where(opacity > 0, known)

    depth = blended(view.depth, _averaged(layer.opacity * layer.distance, view) / divisor)
    normals = blended(view.normals, _averaged(layer.opacity[:, None] * layer.normals, view) / divisor)
    normals = F.normalize(normals, dim=1).where(opacity > 0, view.normals)
    return replace(view, depth=depth, normals=normals, mask=view.mask | solid)


def _averaged(values: Tensor, view: View) -> Tensor:
    """Means over the rays of each pixel: [N] or [N, C], as of `sight_of`, to [1, C, R, R]."""
    rays = rays_in_pixel(view.image.shape[-1])
    side = view.image.shape[-1] * rays
    return F.avg_pool2d(values.reshape(side * side, -1).T.reshape(1, -1, side, side), rays)


def paint(scene: Scene, marks: Sequence[Mark], strength: float = 1.0) -> Scene:
    """The scene with marks on the head; `truth["painted/<view>"]` says where they are in each view.

    strength: opacity of all marks, from 0 (the same scene) to 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is an opacity between 0 and 1; got {strength}")
    views, truth = {}, dict(scene.truth)
    for name, view in scene.views.items():
        views[name], truth[f"painted/{name}"] = paint_view(view, marks, strength)
    return replace(scene, views=views, truth=truth)
