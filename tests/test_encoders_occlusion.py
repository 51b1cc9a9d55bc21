"""What a photo sees of a head: masks against brute force, and marks that survive the mix where the photo shows them."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from lib.cameras import Camera, orbit, pixel_centres
from lib.encoders.occlusion import mixed_planes, plane_masks, released_mask, visible_from, visible_points
from lib.generators.rendering import plane_axes, project_to_planes, sample_planes
from lib.warping import depth_along_axis, depth_along_ray
from tests.analytic_head import CENTRE, RADIUS, AnalyticGenerator

BOTH_AXES = pytest.mark.parametrize("axes", ["released", "corrected"])
SIZE = 32


def some_points(n=200, reach=0.7, seed=0):
    """Points in and around the box of side 1."""
    rng = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(1, n, 3, generator=rng) - 1) * reach


def random_planes(batch=1, size=SIZE, seed=0):
    return torch.randn(batch, 3, 4, size, size, generator=torch.Generator().manual_seed(seed))


# ---- eq. 8: the visible surface -----------------------------------------------------------------------------


def test_visible_points_are_those_of_equation_8():
    camera = Camera.cat([orbit(0.4, -0.2), orbit(-0.1, 0.3)])
    depth = 2.5 + 0.3 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = visible_points(depth, camera)
    uv = pixel_centres(8, depth)
    homogeneous = torch.cat([uv, torch.ones(64, 1)], dim=1)
    depth_z = depth_along_axis(camera, depth).flatten(1)
    for k in range(2):
        in_camera = depth_z[k][:, None] * (homogeneous @ torch.linalg.inv(camera.intrinsics[k]).T)
        pose = camera.world_from_cam[k]
        assert torch.allclose(found[k], in_camera @ pose[:3, :3].T + pose[:3, 3], atol=1e-5)


def test_denser_rays_stay_on_the_surface():
    camera = orbit(0.0, 0.0)
    uv = pixel_centres(16, camera.world_from_cam)
    # The plane z = 0.1 + x / 2 before a camera at z = 2.7: depth_z (1 + x' / 2) = 2.6 with x' = (u - 1/2) / focal.
    slope = (uv[:, 0] - 0.5) / camera.intrinsics[0, 0, 0]
    depth = depth_along_ray(camera, (2.6 / (1 + slope / 2)).reshape(1, 1, 16, 16))
    points = visible_points(depth, camera, rays=64)
    assert points.shape == (1, 64 * 64, 3)
    inner = points.reshape(64, 64, 3)[4:-4, 4:-4]  # beyond the last pixel's centre depth is only repeated
    assert (inner[..., 2] - 0.1 - inner[..., 0] / 2).abs().max() < 1e-3


def test_denser_rays_put_nothing_between_two_surfaces():
    camera = orbit(0.0, 0.0)
    depth = torch.full((1, 1, 8, 8), 2.4)
    depth[..., 3:] = 3.0
    near, far = ((reached(depth, camera, tolerance=0.05) - along).abs() < 1e-5 for along in (2.4, 3.0))
    assert (near | far).all()
    assert near[:, :15].all() and far[:, 15:].all()  # the border of the third pixel
    smooth = reached(depth, camera, tolerance=1.0)
    assert ((smooth > 2.5) & (smooth < 2.9)).any()


def reached(depth, camera, tolerance):
    """How far 40 x 40 rays go."""
    points = visible_points(depth, camera, 40, tolerance)
    return (points - camera.position[:, None]).norm(dim=-1).reshape(40, 40)


# ---- eq. 12: binary masks -----------------------------------------------------------------------------------


def slow_masks(points, axes, box_warp, size, footprint):
    """Every point, every plane: the texels whose bilinear weight is more than 0, or the one around the point."""
    masks = torch.zeros(len(points), 3, size, size, dtype=torch.bool)
    for head, of_head in enumerate(points.tolist()):
        for point in of_head:
            for plane in range(3):
                position = []
                for axis in axes[plane, :2].tolist():  # u, then v
                    along = sum(a * p for a, p in zip(axis, point, strict=True))
                    position.append((along / box_warp + 0.5) * size - 0.5)
                if not all(math.isfinite(x) for x in position):
                    continue
                for row in range(size):
                    for column in range(size):
                        away = max(abs(column - position[0]), abs(row - position[1]))
                        if away < (1 if footprint == "lookup" else 0.5):
                            masks[head, plane, row, column] = True
    return masks


@BOTH_AXES
@pytest.mark.parametrize("footprint", ["lookup", "nearest"])
@pytest.mark.parametrize("box_warp", [1.0, 1.6])
def test_masks_are_those_of_a_loop_over_points(axes, footprint, box_warp):
    points = torch.cat([some_points(24), some_points(24, seed=1)])
    points[0, 0] = math.nan
    points[1, 3] = math.inf
    axes = plane_axes(axes)
    found = plane_masks(points, axes, box_warp, 8, footprint)
    assert torch.equal(found, slow_masks(points, axes, box_warp, 8, footprint))
    assert 0.1 < found.float().mean() < 0.9


@BOTH_AXES
def test_masks_mark_the_texels_that_the_generator_reads(axes):
    """Where the lookups of points have a gradient, and nowhere else."""
    axes, points = plane_axes(axes), some_points(60)
    planes = torch.zeros(1, 3, 1, SIZE, SIZE, requires_grad=True)
    sample_planes(planes, points, axes, 1.3).sum().backward()
    assert torch.equal(plane_masks(points, axes, 1.3, SIZE), planes.grad[:, :, 0] > 0)


def test_a_point_on_a_texels_centre_reads_that_texel_alone():
    point = torch.tensor([[[0.125, -0.375, 0.375]]])  # texels of side 1/4: 2, 0 and 3
    masks = plane_masks(point, plane_axes("corrected"), 1.0, 4)
    assert masks.sum(dim=(2, 3)).tolist() == [[1, 1, 1]]
    assert masks[0, 0, 0, 2] and masks[0, 1, 3, 2] and masks[0, 2, 0, 3]  # [v, u] of (x, y), (x, z), (z, y)


def test_points_beside_a_plane_mark_the_other_planes_only():
    before = torch.tensor([[[0.1, 0.2, 0.9]]])  # in front of the box: plane (x, y) goes on there
    assert plane_masks(before, plane_axes("released"), 1.0, 8).any(dim=3).any(dim=2).tolist() == [
        [True, False, False]
    ]
    far = torch.tensor([[[2.0, 2.0, 2.0]]])
    assert not plane_masks(far, plane_axes("released"), 1.0, 8).any()


@BOTH_AXES
def test_the_mirrored_camera_gives_mirrored_masks(axes):
    camera = orbit(0.5, 0.1)
    depth = 2.4 + 0.4 * torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    masks = plane_masks(visible_points(depth, camera), plane_axes(axes), 1.0, SIZE)
    mirrored = plane_masks(visible_points(depth.flip(3), camera.mirror()), plane_axes(axes), 1.0, SIZE)
    xy, xz, last = masks.unbind(dim=1)
    last = last.flip(1) if axes == "released" else last  # (z, x) has x upward, (z, y) has no x
    assert torch.equal(mirrored, torch.stack([xy.flip(2), xz.flip(2), last], dim=1))
    assert not torch.equal(mirrored, masks)


@BOTH_AXES
def test_what_the_photo_sees_is_refined_in_full(axes):
    """Why all four texels of a lookup count: with the nearest alone, seen points read plain texels too."""
    axes, points = plane_axes(axes), some_points(300, reach=0.45)
    refined, plain = random_planes(), random_planes(seed=1)
    shown = {
        footprint: sample_planes(
            mixed_planes(refined, plain, plane_masks(points, axes, 1.0, SIZE, footprint)), points, axes, 1.0
        )
        for footprint in ("lookup", "nearest")
    }
    truth = sample_planes(refined, points, axes, 1.0)
    assert torch.equal(shown["lookup"], truth)
    assert (shown["nearest"] - truth).abs().mean() > 0.05


# ---- a head whose visibility is known -----------------------------------------------------------------------

PHOTO = orbit(0.9, 0.0)
HEAD = AnalyticGenerator(sharpness=20_000.0)  # its light ends 0.01 below the surface
AXES = plane_axes("released")


@functools.cache
def shown(yaw, rays=64):
    """Depth along the rays of a camera at this yaw, no number where the head is not."""
    rendering = HEAD.render(torch.zeros(1), torch.zeros(1), orbit(yaw, 0.0), rays)
    return rendering.depth.where(rendering.alpha > 0.5, math.nan)


def truly_seen(points, camera):
    """Whether nothing of the head lies between points [N, 3] of its surface and a camera: by marching."""
    fractions = torch.linspace(0.5, 0.985, 200)[:, None, None]
    between = camera.position + fractions * (points - camera.position)
    return (HEAD.inside(between) < 0).all(dim=0)


def on_the_ball(n=600, seed=0):
    """Points [N, 3] of the large ball's surface, away from nose and ear."""
    rng = torch.Generator().manual_seed(seed)
    outward = F.normalize(torch.randn(n, 3, generator=rng), dim=1)
    points = torch.tensor(CENTRE) + RADIUS * outward
    return points[HEAD.inside(points) < 1e-4]


@functools.cache
def head_masks():
    return plane_masks(visible_points(shown(0.9), PHOTO, rays=160), AXES, 1.0, SIZE)


def marked(planes, plane, point):
    """Planes with a mark on the texels of one plane that a point reads."""
    own = plane_masks(point[None, None], AXES, 1.0, SIZE)[:, plane, None]
    changed = planes.clone()
    changed[:, plane] += 10 * own
    return changed


def seen_at(planes, point):
    return sample_planes(planes, point[None, None], AXES, 1.0)


def test_seen_points_of_the_head_are_refined():
    points = on_the_ball()
    seen = points[truly_seen(points, PHOTO) & ((points - torch.tensor(CENTRE)) @ PHOTO.position[0] > 0.2)]
    assert len(seen) > 100
    refined, plain = random_planes(), random_planes(seed=1)
    mixed = mixed_planes(refined, plain, head_masks())
    same = sample_planes(mixed, seen[None], AXES, 1.0) == sample_planes(refined, seen[None], AXES, 1.0)
    assert same.all(dim=-1).float().mean() > 0.95


def test_a_mark_that_the_photo_shows_survives_and_a_hidden_one_does_not():
    seen, hidden = (
        torch.tensor(CENTRE) + RADIUS * F.normalize(torch.tensor(to), dim=0)
        for to in ([0.3, 0.5, 0.6], [-0.95, 0.1, 0.0])
    )
    assert truly_seen(seen[None], PHOTO).all() and not truly_seen(hidden[None], PHOTO).any()
    plain = random_planes()
    for plane in range(3):
        refined = marked(plain, plane, seen)
        mixed = mixed_planes(refined, plain, head_masks())
        assert torch.equal(seen_at(mixed, seen), seen_at(refined, seen))
        assert (seen_at(mixed, seen) - seen_at(plain, seen)).min() > 3  # a third of the mark
        assert torch.equal(mixed_planes(marked(plain, plane, hidden), plain, head_masks()), plain)


def test_a_hidden_point_may_share_a_texel_with_a_seen_one():
    """The known weakness: from the front the back of the head lies behind the face, on plane (x, y) but on no other."""
    camera = orbit(0.0, 0.0)
    back = torch.tensor(CENTRE) + RADIUS * F.normalize(torch.tensor([0.2, 0.3, -0.9]), dim=0)
    assert not truly_seen(back[None], camera).any()
    masks = plane_masks(visible_points(shown(0.0), camera, rays=160), AXES, 1.0, SIZE)
    own = plane_masks(back[None, None], AXES, 1.0, SIZE)
    assert [bool((masks & own)[0, plane].any()) for plane in range(3)] == [True, False, False]


def test_the_occlusion_map_is_the_truth_of_the_head():
    """Fig. 9: of another view's pixels, those whose surface the photo sees."""
    yaw = -0.2
    other, depth = orbit(yaw, 0.0), shown(yaw)
    found = visible_from(PHOTO, shown(0.9), other, depth, tolerance=0.02).flatten()
    on_head = depth.isfinite().flatten()
    truth = truly_seen(visible_points(depth, other)[0], PHOTO)
    assert (found == truth)[on_head].float().mean() > 0.95
    assert 0.2 < truth[on_head].float().mean() < 0.8
    assert not found[~on_head].any()


# ---- the mix ------------------------------------------------------------------------------------------------


def test_the_mix_takes_each_plane_where_its_mask_says():
    refined, plain = random_planes(2), random_planes(2, seed=1)
    everywhere = torch.ones(2, 3, SIZE, SIZE, dtype=torch.bool)
    assert torch.equal(mixed_planes(refined, plain, everywhere), refined)
    assert torch.equal(mixed_planes(refined, plain, ~everywhere), plain)
    half = everywhere.clone()
    half[0, 1, :, : SIZE // 2] = False
    mixed = mixed_planes(refined, plain, half)
    assert torch.equal(mixed[0, 1, :, :, : SIZE // 2], plain[0, 1, :, :, : SIZE // 2])
    assert torch.equal(mixed[0, 1, :, :, SIZE // 2 :], refined[0, 1, :, :, SIZE // 2 :])
    assert torch.equal(mixed[:, ::2], refined[:, ::2]) and torch.equal(mixed[1], refined[1])
    soft = mixed_planes(refined, plain, torch.full((2, 3, SIZE, SIZE), 0.25))
    assert torch.allclose(soft, refined / 4 + 3 * plain / 4)


def test_gradients_reach_refined_planes_only_where_they_are_used():
    refined, plain = random_planes().requires_grad_(), random_planes(seed=1)
    mask = plane_masks(some_points(40), AXES, 1.0, SIZE)
    mixed_planes(refined, plain, mask).sum().backward()
    assert torch.equal(refined.grad[:, :, 0].bool(), mask)


def test_masks_carry_no_gradient():
    depth = torch.full((1, 1, 8, 8), 2.5, requires_grad=True)
    assert not released_mask(visible_points(depth, orbit(0.0, 0.0)), 16).requires_grad


@pytest.mark.parametrize("wrong", [(2, 1, 2, SIZE), (1, 1, 1, 16), (2, 2, 1, SIZE)])
def test_planes_and_masks_of_other_sizes_are_refused(wrong):
    refined, plain, masks, size = wrong
    with pytest.raises(TypeCheckError):
        mixed_planes(random_planes(refined), random_planes(plain), torch.ones(masks, 3, size, size))


# ---- the released mask --------------------------------------------------------------------------------------


def slow_blur(maps, sigma):
    """9 x 9 Gaussian by its definition, the border mirrored about its texels' centres."""
    size = maps.shape[-1]

    def mirrored(i):
        return -i if i < 0 else 2 * (size - 1) - i if i >= size else i

    around = range(-4, 5)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * sigma**2)) for i in around for j in around}
    total = sum(weights.values())
    maps = maps.tolist()
    result = [[0.0] * size for _ in range(size)]
    for row in range(size):
        for column in range(size):
            for (i, j), weight in weights.items():
                result[row][column] += weight / total * maps[mirrored(row + i)][mirrored(column + j)]
    return torch.tensor(result)


@pytest.mark.parametrize(("sigma", "box_warp"), [(1.5, 1.0), (1.0, 1.6)])
def test_the_released_mask_written_out(sigma, box_warp):
    points = some_points(130, reach=0.6)
    marks = torch.zeros(16, 16)
    for x, y, _ in points[0].tolist():
        column, row = (int(min(max((p / box_warp + 0.5) * 16, 0), 15)) for p in (x, y))
        marks[row, column] = 1
    expected = slow_blur((slow_blur(marks, sigma) > 0.35).float(), sigma)
    found = released_mask(points, 16, sigma, box_warp)
    assert torch.allclose(found[0, 0], expected, atol=1e-5)
    assert 0.1 < expected.mean() < 0.9
    assert (found[:, 1:] == 1).all()  # the other planes are refined everywhere


def test_the_released_mask_is_the_same_at_every_call():
    points = some_points()
    assert torch.equal(released_mask(points, 32), released_mask(points, 32))


def test_the_released_mask_leaves_hidden_depths_to_the_other_planes():
    """Its plane (x, y) cannot tell near from far: points moved along z give the same mask."""
    points = some_points(400)
    moved = points + torch.tensor([0.0, 0.0, 0.3])
    assert torch.equal(released_mask(points, SIZE), released_mask(moved, SIZE))
    assert project_to_planes(points, AXES)[:, 0].equal(
        points[..., :2]
    )  # plane (x, y), by the generator's axes
