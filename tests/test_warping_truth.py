"""The geometry that SPI stands on, against truth that is found in other ways: a wrong sign or axis fails here.

Homographies of planes in closed form, path-traced heads under true depth, symmetric fields through the real renderer,
and what is hidden against marched rays.
"""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import FOCAL, RADIUS, Camera, orbit, pixel_centres
from lib.datasets import samples
from lib.datasets.scenes import View, yaw_name
from lib.generators import EG3D, load_generator
from lib.generators.rendering import render_rays
from lib.inversion import spi
from lib.warping import (
    TOLERANCE,
    depth_along_ray,
    pixels_in_view,
    sample_at,
    visible,
    warp,
)
from tests.analytic_head import CENTRE, AnalyticGenerator
from tests.tiny_generator import tiny_generator

TO_BYTES = 127.5
"""Steps of 255 in a step of a colour in [-1, 1]."""


# -------------------------------------------------------------------- planes and their homographies
SIDE = 32

INTRINSICS = torch.tensor([[[3.1, 0.2, 0.46], [0.0, 3.6, 0.55], [0.0, 0.0, 1.0]]])
"""Neither square pixels, nor a right angle between their sides, nor the middle for a principal point."""

NORMALS = {"fronto-parallel": (0.0, 0.0, 1.0), "turned": (0.5, 0.0, 1.0), "tilted": (-0.3, 0.6, 1.0)}
"""In the frame of the camera whose view is made."""

OTHERS = {"right": (0.3, 0.05), "left, above": (-0.35, 0.25)}
"""Yaw and pitch of the camera that sees the same plane."""


@dataclass(frozen=True)
class Plane:
    """Points with n.x = d in the frame of a camera."""

    normal: Tensor  # [3], unit length
    offset: Tensor

    @classmethod
    def before(cls, normal: tuple[float, float, float], depth_z: float) -> "Plane":
        """The plane that the axis of the camera meets at this depth."""
        unit = F.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
        return cls(unit, unit[2] * depth_z)

    def seen_from(self, other_from_camera: Tensor) -> "Plane":
        """The same plane in the frame of another camera: n' = R n, d' = d + n'.t."""
        normal = other_from_camera[:3, :3] @ self.normal
        return Plane(normal, self.offset + normal @ other_from_camera[:3, 3])

    def depth(self, intrinsics: Tensor) -> Tensor:
        """Distance [1, 1, SIDE, SIDE] from the camera along the ray of each pixel."""
        rays = F.normalize(homogeneous_pixels() @ torch.linalg.inv(intrinsics).T, dim=1)
        return (self.offset / (rays @ self.normal)).reshape(1, 1, SIDE, SIDE)


def homogeneous_pixels() -> Tensor:
    pixels = pixel_centres(SIDE, torch.zeros(1, dtype=torch.float64))
    return torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1)


def homography(
    plane: Plane, intrinsics: Tensor, other_from_camera: Tensor, other_intrinsics: Tensor
) -> Tensor:
    """K' (R + t n^T / d) K^-1: from the pixels of a camera to those of another, for points of the plane."""
    rotation, translation = other_from_camera[:3, :3], other_from_camera[:3, 3]
    moved = rotation + torch.outer(translation, plane.normal) / plane.offset
    return other_intrinsics @ moved @ torch.linalg.inv(intrinsics)


@pytest.mark.parametrize("place", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("normal", NORMALS.values(), ids=NORMALS)
def test_a_plane_warps_by_its_homography(normal, place):
    """Positions to 1e-5 of the picture, and a ramp of colours, which bilinear sampling keeps, with them."""
    camera = Camera(orbit(0.1, -0.1).world_from_cam, INTRINSICS).to(dtype=torch.float64)
    source_camera = orbit(*place, focal=3.0).to(dtype=torch.float64)
    source_from_camera = torch.linalg.inv(source_camera.world_from_cam[0]) @ camera.world_from_cam[0]
    plane = Plane.before(normal, 2.5)
    depth = plane.depth(camera.intrinsics[0])
    source_depth = plane.seen_from(source_from_camera).depth(source_camera.intrinsics[0])
    matrix = homography(plane, camera.intrinsics[0], source_from_camera, source_camera.intrinsics[0])
    expected = homogeneous_pixels() @ matrix.T
    expected = expected[:, :2] / expected[:, 2:]

    uv, _ = pixels_in_view(camera, depth, source_camera)
    assert torch.allclose(uv[0], expected, atol=1e-5)

    ramp = homogeneous_pixels().T.reshape(1, 3, SIDE, SIDE)  # red is u, green is v
    warped, seen = warp(ramp, source_camera, source_depth, camera, depth, tolerance=1e-2)
    inside = ((expected > 0.5 / SIDE) & (expected < 1 - 0.5 / SIDE)).all(dim=1)
    assert torch.allclose(warped[0, :2].flatten(1).T[inside], expected[inside], atol=1e-5)
    assert seen.flatten()[inside].all()
    assert not seen.flatten()[((expected < 0) | (expected > 1)).any(dim=1)].any()
    assert inside.float().mean() > 0.3


# -------------------------------------------------------------------- depth along the ray used as depth along z
@pytest.mark.parametrize(
    ("row", "column", "stated"),
    [(0, 0, 0.037), (0, 50, 0.018), (50, 50, 0.0)],
    ids=["corner", "middle of the top", "centre"],
)
def test_a_distance_along_the_ray_used_as_z_puts_points_too_far_off(row, column, stated):
    """SPI's released code unprojects the ray's length as z: at 2.7, 0.037 too far in the corners, inside its tau."""
    side = 101  # odd: one pixel is the centre
    camera, distance = orbit(0.4, -0.2), torch.full((1, 1, side, side), RADIUS)
    wrong = depth_along_ray(camera, distance)  # of the point whose z is that distance
    origins, directions = camera.rays(side)
    uv, z = camera.project(origins + directions * wrong.flatten(1)[..., None])
    assert torch.allclose(uv[0], pixel_centres(side, uv), atol=1e-5)
    assert torch.allclose(z, torch.tensor(RADIUS), atol=1e-5)
    from_centre = math.hypot(row - 50, column - 50) / side  # in widths of the picture
    expected = RADIUS * (math.sqrt(1 + (from_centre / FOCAL) ** 2) - 1)
    assert (wrong - distance)[0, 0, row, column].item() == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(stated, abs=1e-3)
    assert expected < TOLERANCE


# -------------------------------------------------------------------- path-traced heads
TRACED = (-0.3, 0.0, 0.6)


@dataclass(frozen=True)
class Views:
    """A generator, as far as these scenes ask it anything."""

    resolution: int = 128


@pytest.fixture(scope="module")
def traced():
    """Views of a path-traced head: those of the pairs below."""
    pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install -e '.[heads]'")
    from lib.datasets import heads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "scene_cameras", lambda *_: {yaw_name(yaw): orbit(yaw, 0.0) for yaw in TRACED})
        return heads.make(3, Views(), input_yaw=0.0, samples=64).views


TIGHT = 0.01
"""World units: a tolerance that leaves out what stands close behind an outline, as truth has no error of its own."""


def carried(view: View, into: View) -> tuple[Tensor, Tensor]:
    """A view warped into another by true depth, and where the head is seen by both."""
    warped, seen = warp(view.image, view.camera, view.depth, into.camera, into.depth.nan_to_num(0.0), TIGHT)
    return warped, (seen & into.mask).expand_as(warped)


def error(picture: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Absolute differences of the colours of some pixels, of 255."""
    return TO_BYTES * (picture - truth).abs()[where]


PAIRS = [("yaw+0.0", "yaw+0.6"), ("yaw+0.6", "yaw+0.0"), ("yaw-0.3", "yaw+0.6")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_true_view_of_a_head_warped_by_true_depth_is_the_other_true_view(traced, source, target):
    """Median under 2 of 255 at 128 pixels. Skin is even, so that colours are the same from everywhere.

    What remains is the noise of 64 rays a pixel (it halves with 256) and the resampling of fine texture.
    """
    view, into = traced[source], traced[target]
    warped, both = carried(view, into)
    found, unwarped = error(warped, into.image, both), error(view.image, into.image, both)
    assert both.float().mean() > 0.5 * into.mask.float().mean()
    assert found.median() < 2
    assert found.median() < unwarped.median() / 8


def test_nothing_fits_better_than_where_eq_7_puts_the_pixels(traced):
    """Half a pixel to any side is worse, as a slip between pixel corners and centres would be."""
    view, into = traced["yaw+0.0"], traced["yaw+0.6"]
    uv, distance = pixels_in_view(into.camera, into.depth.nan_to_num(0.0), view.camera)
    both = (visible(uv, distance, view.depth, TIGHT) & into.mask).expand_as(into.image)
    shifts = torch.tensor([(u, v) for u in (-0.5, 0.0, 0.5) for v in (-0.5, 0.0, 0.5)])
    errors = [error(sample_at(view.image, uv + shift / 128), into.image, both).median() for shift in shifts]
    assert shifts[int(torch.stack(errors).argmin())].tolist() == [0.0, 0.0]


def test_the_distance_along_the_ray_used_as_z_spoils_the_warp(traced):
    """As in SPI's released code: half of the error again, and the authentic mask does not tell."""
    view, into = traced["yaw+0.0"], traced["yaw+0.6"]
    warped, both = carried(view, into)
    source = spi.Source(view.image, view.camera, view.depth, view.mask.float())
    spoilt, trusted = spi.warped(source, into.camera, into.depth.nan_to_num(0.0), warp_depth="ray_as_axis")
    assert trusted[both[:, :1]].mean() > 0.9
    assert error(spoilt, into.image, both).median() > 1.3 * error(warped, into.image, both).median()


# -------------------------------------------------------------------- heads of the generator itself
RAYS = 64
"""Rays across a picture of the generator's raw colours."""


class SharperHead:
    """A head of the shipped generator, each of its densities (after the softplus) times `sharpness`."""

    def __init__(self, generator: EG3D, seed: int, sharpness: float):
        self.generator, self.sharpness = generator, sharpness
        self.planes = generator.planes(samples.sampled_code(seed, generator, 0.8))

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density, colours = self.generator.sample(self.planes, points)
        sigma = (self.sharpness * F.softplus(density - 1)).clamp_min(1e-6)
        return sigma + torch.log(-torch.expm1(-sigma)) + 1, colours[..., :3]  # softplus, undone

    @torch.no_grad()
    def view(self, yaw: float) -> View:
        camera = self.generator.camera(yaw, 0.0)
        even = dataclasses.replace(
            self.generator.config.rendering, depth_resolution=256, depth_resolution_importance=0
        )
        rays = render_rays(self.field, *camera.rays(RAYS), even)
        image, depth = (x.reshape(1, RAYS, RAYS, -1).permute(0, 3, 1, 2) for x in (rays.features, rays.depth))
        return View(image, camera, depth, mask=samples.in_head(camera, depth))


def test_raw_pictures_of_the_generator_agree_as_far_as_its_surfaces_are_sharp():
    """Their colours are the same from everywhere, but a ray mixes what lies within a soft surface.

    So a warp explains most of what differs between two views, not all; the sharper the densities, the more.
    """
    generator, errors = load_generator("portraits64"), {}
    for sharpness in (1.0, 64.0):
        head = SharperHead(generator, 0, sharpness)
        view, into = head.view(0.0), head.view(0.4)
        warped, both = carried(view, into)
        errors[sharpness] = [error(x, into.image, both).median().item() for x in (warped, view.image)]
        found, unwarped = errors[sharpness]
        print(f"densities times {sharpness:g}: median error {found:.1f} of 255, unwarped {unwarped:.1f}")
        assert both.float().mean() > 0.3
    assert errors[1.0][0] < errors[1.0][1] / 2
    assert errors[64.0][0] < 0.7 * errors[1.0][0]


# -------------------------------------------------------------------- mirrors
def skewed(yaw: float, pitch: float) -> Camera:
    """A camera with roll, and with intrinsics that no symmetry hides."""
    camera = Camera(
        orbit(yaw, pitch).world_from_cam, torch.tensor([[[4.2, 0.1, 0.47], [0, 4.4, 0.52], [0, 0, 1.0]]])
    )
    roll = torch.eye(4)
    roll[:2, :2] = torch.tensor([[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]])
    return Camera(camera.world_from_cam @ roll, camera.intrinsics)


MIRROR = torch.tensor([-1.0, 1.0, 1.0])


class MirrorableField:
    """The random field of a generator; `symmetric`: the mean of it and of its mirror image."""

    def __init__(self, symmetric: bool):
        self.generator, self.symmetric = tiny_generator(), symmetric
        z = torch.randn(1, self.generator.z_dim, generator=torch.Generator().manual_seed(0))
        self.planes = self.generator.planes(self.generator.map(z, self.generator.frontal_camera()))

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density, colours = self.generator.sample(self.planes, points)
        if not self.symmetric:
            return density, colours
        mirrored_density, mirrored_colours = self.generator.sample(self.planes, points * MIRROR)
        return (density + mirrored_density) / 2, (colours + mirrored_colours) / 2

    @torch.no_grad()
    def maps(self, camera: Camera) -> Tensor:
        """Colours, depth and alpha [1, C + 2, R, R]."""
        rays = render_rays(self.field, *camera.rays(24), self.generator.config.rendering)
        both = torch.cat([rays.features, rays.depth[..., None], rays.alpha[..., None]], dim=-1)
        return both.reshape(1, 24, 24, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("camera", [orbit(0.35, 0.2), skewed(-0.5, 0.15)], ids=["orbit", "skewed"])
def test_a_symmetric_field_rendered_from_the_mirrored_camera_is_the_mirrored_picture(camera):
    symmetric = MirrorableField(symmetric=True)
    here, there = symmetric.maps(camera), symmetric.maps(camera.mirror())
    assert torch.allclose(there, here.flip(-1), atol=1e-4)
    assert (there - here).abs()[:, :-2].mean() > 1e-2  # flipping is needed
    lopsided = MirrorableField(symmetric=False)
    assert (lopsided.maps(camera.mirror()) - lopsided.maps(camera).flip(-1)).abs()[:, :-2].mean() > 1e-2


def test_mirrored_views_warp_as_the_mirror_of_the_warp():
    """SPI's second source is the flipped photo with its flipped depth, under the mirrored camera."""
    source_camera, camera = skewed(-0.3, 0.1), skewed(0.1, -0.1)
    rng = torch.Generator().manual_seed(0)
    image, face = torch.rand(1, 3, SIDE, SIDE, generator=rng), torch.ones(1, 1, SIDE, SIDE)
    source_depth, depth = (2.6 + 0.1 * torch.rand(1, 1, SIDE, SIDE, generator=rng) for _ in range(2))
    source = spi.Source(image, source_camera, source_depth, face)
    warped, mask = spi.warped(source, camera, depth)
    mirrored, mirrored_mask = spi.warped(source.mirrored(), camera.mirror(), depth.flip(-1))
    assert torch.allclose(mirrored, warped.flip(-1), atol=1e-4)
    assert torch.allclose(mirrored_mask, mask.flip(-1), atol=1e-4)
    assert 0.1 < mask.mean() < 0.9
    assert (warped - image).abs().mean() > 0.1


# -------------------------------------------------------------------- the authentic mask, by marching rays
FACE_Z = CENTRE[2] + 0.18
"""The face of the ball with a nose and an ear is what lies before this plane."""


def first_hit(origins: Tensor, directions: Tensor, steps: int = 150) -> Tensor:
    """Distance [N] at which rays first meet the analytic head, NaN where they pass by.

    Each step goes as far as nothing can be: to the nearest point of the surface in any direction.
    """
    inside, distance = AnalyticGenerator().inside, torch.zeros(len(origins), dtype=origins.dtype)
    for _ in range(steps):
        distance = (distance - inside(origins + distance[:, None] * directions)).clamp_max(10.0)
    return distance.where(inside(origins + distance[:, None] * directions).abs() < 1e-5, torch.nan)


def marched_view(camera: Camera, side: int) -> tuple[Tensor, Tensor]:
    """Depth [1, 1, R, R], NaN beside the head, and the points [R*R, 3] that are seen."""
    origins, directions = (x[0].double() for x in camera.rays(side))
    distance = first_hit(origins, directions)
    return distance.float().reshape(1, 1, side, side), origins + distance[:, None] * directions


def near_jumps(maps: Tensor, jump: float) -> Tensor:
    """1 within two pixels of where a map [1, 1, R, R] changes by more than `jump`, or begins to be unknown; else 0."""
    filled = maps.nan_to_num(10.0)
    range_of_neighbours = F.max_pool2d(filled, 3, 1, 1) + F.max_pool2d(-filled, 3, 1, 1)
    return F.max_pool2d((range_of_neighbours > jump).float(), 3, 1, 1)


@pytest.mark.parametrize(("source_yaw", "yaw"), [(-0.4, 0.4), (0.5, 0.0)])
def test_the_authentic_mask_is_what_rays_to_the_source_camera_say(source_yaw, yaw):
    """Eq. 8, and its product with the warped face mask, against a ray from the source camera to each point.

    They differ only where the source's outlines, or the border of its face, lie within two pixels: there, bilinear
    depth and masks are of neither side. And what lies behind an edge by less than tau counts as seen.
    """
    source_camera, camera = orbit(source_yaw, 0.1), orbit(yaw, -0.1)
    source_depth, source_points = marched_view(source_camera, 256)
    depth, points = marched_view(camera, 96)
    on_head = ~points.isnan().any(dim=1)

    uv, distance = pixels_in_view(camera, depth, source_camera)
    seen = visible(uv, distance, source_depth).flatten()
    face = (source_points[:, 2] > FACE_Z).float().reshape_as(source_depth)
    _, mask = spi.warped(
        spi.Source(torch.zeros(1, 3, 96, 96), source_camera, source_depth, face), camera, depth
    )
    authentic = mask.flatten() > 0.5

    origin = source_camera.position.double()
    rays, lengths = F.normalize(points - origin, dim=1), (points - origin).norm(dim=1)
    behind = lengths - first_hit(origin.expand_as(rays), rays)
    truly_seen = (behind < 1e-4) & ((uv > 0) & (uv < 1)).all(dim=-1)[0]
    truly_authentic = truly_seen & (points[:, 2] > FACE_Z)

    by_outline, by_face_border = (
        sample_at(near_jumps(maps, jump), uv).flatten() > 0
        for maps, jump in ((source_depth, TOLERANCE), (face, 0.5))
    )
    decided = on_head & ~by_outline & ((behind < 1e-4) | (behind > TOLERANCE))
    assert torch.equal(seen[decided], truly_seen[decided])
    decided &= ~by_face_border
    assert torch.equal(authentic[decided], truly_authentic[decided])
    assert (authentic != truly_authentic)[on_head].float().mean() < 0.05
    assert decided.sum() > 0.6 * on_head.sum()
    hidden_face = ~truly_seen & (points[:, 2] > FACE_Z)
    kinds = truly_authentic, truly_seen & ~truly_authentic, hidden_face
    assert all((kind & decided).sum() > 50 for kind in kinds)
