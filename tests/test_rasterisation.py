"""Pictures of meshes and what hides in them: against a ray at a time, spheres in closed form and Mitsuba's rays."""

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import Delaunay
from torch import Tensor

from lib import rasterisation
from lib.cameras import Camera, orbit, pixel_centres
from lib.meshes import seen_points
from lib.rasterisation import depth_mesh, interpolate, rasterise, visible_vertices

SIDE = 24
PLACES = {"front": (0.0, 0.0), "left": (-0.5, 0.2), "behind": (2.6, -0.3)}
"""Yaw and pitch of cameras."""

SKEWED = torch.tensor([[[3.1, 0.2, 0.46], [0.0, 3.6, 0.55], [0.0, 0.0, 1.0]]])
"""Intrinsics with neither square pixels, nor a right angle between their sides, nor a principal point amid them."""


def tensors(mesh: trimesh.Trimesh, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.array(mesh.vertices), dtype=dtype), torch.tensor(np.array(mesh.faces)).long()


def ball(radius: float = 0.3, subdivisions: int = 2, centre: tuple[float, ...] = (0.0, 0.0, 0.0)):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return tensors(mesh.apply_translation(centre))


def cube() -> tuple[Tensor, Tensor]:
    return tensors(trimesh.creation.box(extents=(0.3, 0.4, 0.35)))


def with_holes() -> tuple[Tensor, Tensor]:
    vertices, faces = ball()
    return vertices, faces[torch.rand(len(faces), generator=torch.Generator().manual_seed(0)) < 0.6]


def soup(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Triangles in any place and order of corners, some through each other and out of the picture."""
    generator = torch.Generator().manual_seed(seed)
    vertices = 0.5 * torch.randn(count, 1, 3, generator=generator)
    vertices = vertices + 0.25 * torch.randn(count, 3, 3, generator=generator)
    return vertices.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3)


MESHES = {"ball": ball, "cube": cube, "with holes": with_holes, "soup": soup}


# -------------------------------------------------------------------- a slow twin
def meetings(origin: np.ndarray, direction: np.ndarray, triangle: np.ndarray) -> tuple[float, np.ndarray]:
    """Distance of one triangle [3, 3] along one ray and the corners' weights; infinite where they do not meet.

    Moeller & Trumbore (1997): t d = -o + w_a a + w_b b + w_c c, by Cramer's rule as a linear solve.
    """
    a, b, c = triangle
    columns = np.stack([-direction, b - a, c - a], axis=1)
    if abs(np.linalg.det(columns)) < 1e-14:
        return math.inf, np.zeros(3)
    distance, weight_b, weight_c = np.linalg.solve(columns, origin - a)
    weights = np.array([1 - weight_b - weight_c, weight_b, weight_c])
    return (distance, weights) if weights.min() >= 0 and distance > 0 else (math.inf, np.zeros(3))


def by_rays(vertices: Tensor, faces: Tensor, camera: Camera, side: int) -> tuple[np.ndarray, ...]:
    """Face [N], weights [N, 3] and distance [N] of the nearest face on the ray of each pixel, one by one."""
    origins, directions = (rays[0].double().numpy() for rays in camera.rays(side))
    triangles = vertices[faces].double().numpy()
    face, weights, distance = np.full(side**2, -1), np.zeros((side**2, 3)), np.full(side**2, math.inf)
    for pixel in range(side**2):
        for index, triangle in enumerate(triangles):
            found, shares = meetings(origins[pixel], directions[pixel], triangle)
            if found < distance[pixel]:
                face[pixel], weights[pixel], distance[pixel] = index, shares, found
    return face, weights, distance


@pytest.mark.parametrize(("mesh", "place"), [("cube", "left"), ("with holes", "front"), ("soup", "behind")])
def test_each_pixel_sees_what_its_ray_meets_first(mesh, place):
    vertices, faces = MESHES[mesh]()
    camera = Camera(orbit(*PLACES[place]).world_from_cam, SKEWED)
    seen = rasterise(vertices, faces, camera, 12)
    face, weights, distance = by_rays(vertices, faces, camera, 12)
    assert 20 < (face >= 0).sum() < face.size - 3
    assert np.array_equal(seen.face[0].flatten().numpy(), face)
    assert np.array_equal(seen.covered[0, 0].flatten().numpy(), face >= 0)
    assert np.allclose(seen.depth[0, 0].flatten().numpy(), distance, atol=1e-5)
    assert np.allclose(seen.barycentric[0].flatten(0, 1).numpy(), weights, atol=2e-3)


# -------------------------------------------------------------------- pictures
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("place", PLACES)
def test_places_at_the_vertices_become_the_place_that_each_ray_meets(mesh, place):
    """Weights of the picture instead of the world's would bend them: they are not affine across a picture."""
    (vertices, faces), camera = MESHES[mesh](), orbit(*PLACES[place], radius=1.4)
    seen = rasterise(vertices, faces, camera, SIDE)
    places = interpolate(seen, faces, vertices)
    origins, directions = (rays.transpose(1, 2).reshape(1, 3, SIDE, SIDE) for rays in camera.rays(SIDE))
    expected = torch.where(seen.covered, origins + directions * seen.depth.where(seen.covered, 0.0), 0.0)
    assert seen.covered.any()
    assert torch.allclose(places, expected, atol=2e-5)
    assert torch.allclose(seen.barycentric.sum(dim=-1), seen.covered[:, 0].float(), atol=1e-5)


def test_off_the_mesh_there_is_nothing():
    vertices, faces = ball(0.1)
    seen = rasterise(vertices, faces, orbit(0.0, 0.0), SIDE)
    off = ~seen.covered[:, 0]
    assert off.any() and not off.all()
    assert (seen.face[off] == -1).all() and (seen.barycentric[off] == 0).all()
    assert (seen.depth[:, 0][off] == math.inf).all()
    values = torch.full((len(vertices), 2), 7.0)
    pictures = interpolate(seen, faces, values)
    assert pictures.shape == (1, 2, SIDE, SIDE)
    assert torch.allclose(pictures, 7.0 * seen.covered, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_no_ray_slips_between_triangles(seed):
    """A crumpled sheet of slivers over all of the picture, some corners and edges right on pixel centres."""
    generator = torch.Generator().manual_seed(seed)
    camera, side = orbit(0.7, -0.3), 32
    uv = torch.cat([pixel_centres(8, torch.zeros(1)), 1.4 * torch.rand(400, 2, generator=generator) - 0.2])
    uv = torch.cat([uv, torch.tensor([[-0.3, -0.3], [1.3, -0.3], [-0.3, 1.3], [1.3, 1.3]])])
    faces = torch.tensor(Delaunay(uv.numpy()).simplices).long()
    depth_z = 2.4 + 0.6 * torch.rand(1, len(uv), generator=generator)
    seen = rasterise(camera.unproject(uv[None], depth_z)[0], faces, camera, side)
    assert seen.covered.all()


@pytest.mark.parametrize("place", PLACES.values())
def test_a_fine_ball_is_as_deep_as_a_sphere(place):
    vertices, faces = ball(0.3, subdivisions=5)
    camera = orbit(*place)
    depth = rasterise(vertices, faces, camera, 64).depth
    truth = sphere_depth(camera, 64, (0.0, 0.0, 0.0), 0.3)
    both = depth.isfinite() & truth.isfinite()
    assert (depth.isfinite() ^ truth.isfinite()).float().mean() < 0.01
    assert (depth - truth).abs()[both].median() < 1e-4
    assert (depth - truth).abs()[both].max() < 0.02  # at the outline


def sphere_depth(camera: Camera, side: int, centre: tuple[float, ...], radius: float) -> Tensor:
    """Distance [1, 1, R, R] at which rays first meet a sphere; infinite beside it."""
    origins, directions = camera.rays(side)
    towards = torch.tensor(centre) - origins
    along = (towards * directions).sum(dim=-1)
    half_chord = (radius**2 - (towards.square().sum(dim=-1) - along**2)).sqrt()  # NaN beside it
    return (along - half_chord).nan_to_num(math.inf).reshape(1, 1, side, side)


def test_of_faces_equally_near_the_first_shows():
    vertices, faces = cube()
    twice = torch.cat([faces, faces])
    seen = rasterise(vertices, twice, orbit(0.4, 0.3), SIDE)
    assert seen.covered.any() and (seen.face < len(faces)).all()
    turned = rasterise(vertices, twice.flip(0), orbit(0.4, 0.3), SIDE)
    assert (turned.face < len(faces)).all()


@pytest.mark.parametrize("pairs", [1, 97, 2**19])
def test_memory_limits_change_nothing(pairs, monkeypatch):
    (vertices, faces), camera = soup(), orbit(0.3, 0.1)
    expected = rasterise(vertices, faces, camera, 16)
    monkeypatch.setattr(rasterisation, "_PAIRS_AT_ONCE", pairs)
    seen = rasterise(vertices, faces, camera, 16)
    assert torch.equal(seen.face, expected.face) and torch.equal(seen.depth, expected.depth)


def test_a_batch_sees_what_its_cameras_see():
    vertices, faces = soup()
    cameras = Camera.cat([orbit(*place) for place in PLACES.values()])
    seen = rasterise(vertices, faces, cameras, SIDE)
    visible = visible_vertices(vertices, faces, cameras)
    pictures = interpolate(seen, faces, vertices)
    assert seen.face.shape == (3, SIDE, SIDE) and seen.depth.shape == (3, 1, SIDE, SIDE)
    assert not torch.equal(seen.face[0], seen.face[1])
    for index, camera in enumerate(cameras):
        one = rasterise(vertices, faces, camera, SIDE)
        assert torch.equal(one.face[0], seen.face[index]) and torch.equal(one.depth[0], seen.depth[index])
        assert torch.equal(one.barycentric[0], seen.barycentric[index])
        assert torch.equal(interpolate(one, faces, vertices)[0], pictures[index])
        assert torch.equal(visible_vertices(vertices, faces, camera)[0], visible[index])


@pytest.mark.parametrize("z", [2.7, 3.5])  # in the plane of the camera, and behind it
def test_faces_with_a_vertex_that_is_not_before_the_camera_are_left_out(z):
    before = torch.tensor([[-0.3, -0.3, 0.0], [0.3, -0.3, 0.0], [0.0, 0.3, 0.0]])
    across = torch.tensor([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.1, z]])
    vertices, faces = torch.cat([before, across]), torch.arange(6).reshape(2, 3)
    seen = rasterise(vertices, faces, orbit(0.0, 0.0), SIDE)
    assert set(seen.face.unique().tolist()) == {-1, 0}
    assert visible_vertices(vertices, faces, orbit(0.0, 0.0))[0].tolist()[:3] == [True] * 3
    assert not visible_vertices(vertices, faces, orbit(0.0, 0.0))[0, 5]


def test_what_is_behind_the_camera_neither_shows_nor_hides():
    """Straight lines through the camera carry it into the picture, upside down."""
    (near, near_faces), (behind, behind_faces) = ball(0.2), ball(0.2, centre=(0.0, 0.0, 4.0))
    camera = orbit(0.0, 0.0)
    vertices, faces = torch.cat([behind, near]), torch.cat([behind_faces, near_faces + len(behind)])
    seen, alone = rasterise(vertices, faces, camera, SIDE), rasterise(near, near_faces, camera, SIDE)
    assert alone.covered.any() and torch.equal(seen.depth, alone.depth)
    visible = visible_vertices(vertices, faces, camera)[0]
    assert not visible[: len(behind)].any()
    assert torch.equal(visible[len(behind) :], visible_vertices(near, near_faces, camera)[0])


def test_a_mesh_without_faces_shows_nothing():
    vertices, faces = torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.int64)
    seen = rasterise(vertices, faces, orbit(0.0, 0.0), 4)
    assert not seen.covered.any()
    assert (interpolate(seen, faces, vertices) == 0).all()
    assert visible_vertices(vertices, faces, orbit(0.0, 0.0)).all()  # and hides nothing


def test_gradients_of_a_picture_are_the_weights_of_the_vertices():
    vertices, faces = ball(subdivisions=1)
    seen = rasterise(vertices, faces, orbit(0.2, 0.1), 8)
    values = torch.rand(len(vertices), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: interpolate(seen, faces, x), values)
    interpolate(seen, faces, values).sum().backward()
    assert values.grad.sum().item() == pytest.approx(2 * seen.covered.sum().item(), rel=1e-5)


# -------------------------------------------------------------------- visibility
def test_a_vertex_is_visible_where_no_face_is_before_it():
    """Each vertex's own ray against each face that does not touch it."""
    vertices, faces = soup(40, seed=3)
    camera, tolerance = orbit(0.3, 0.1, focal=1.5), 1e-4
    uv, _ = camera.project(vertices[None])
    position = camera.position[0].double().numpy()
    expected = []
    for index, vertex in enumerate(vertices.double().numpy()):
        distance = np.linalg.norm(vertex - position)
        nearest = min(
            meetings(position, (vertex - position) / distance, vertices[face].double().numpy())[0]
            for face in faces
            if index not in face
        )
        in_picture = bool(((uv[0, index] > 0) & (uv[0, index] < 1)).all())
        expected.append(in_picture and distance <= nearest + tolerance)
    visible = visible_vertices(vertices, faces, camera, tolerance)[0]
    assert 10 < sum(expected) < int(((uv > 0) & (uv < 1)).all(dim=-1).sum()) - 10
    assert visible.tolist() == expected


@pytest.mark.parametrize("place", PLACES.values())
def test_of_a_ball_the_near_side_is_visible(place):
    vertices, faces = ball(0.3, subdivisions=4)
    camera = orbit(*place)
    towards = camera.position - vertices
    slant = torch.cosine_similarity(vertices, towards)  # of the sphere's normal: 0 on its outline
    visible = visible_vertices(vertices, faces, camera)[0]
    on_outline = slant.abs() < 0.06  # neighbouring triangles differ by as much
    assert visible[(slant > 0) & ~on_outline].all()
    assert not visible[(slant < 0) & ~on_outline].any()
    assert on_outline.float().mean() < 0.1


@pytest.mark.parametrize("tilt", [0.0, 1.2, 1.5])
def test_a_slanted_sheet_does_not_hide_itself(tilt):
    """At 1.5 radians a pixel of 512 spans 0.018 along the ray, nine times the tolerance."""
    steps = torch.linspace(-0.25, 0.25, 40)
    x, y = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="xy"))
    vertices = torch.stack([x * math.cos(tilt), y, x * math.sin(tilt)], dim=-1)
    assert visible_vertices(vertices, rasterisation._grid_faces(40, vertices.device), orbit(0.0, 0.0)).all()


def test_what_a_ball_hides_is_its_shadow():
    """A sheet behind a ball: hidden are the vertices whose segment to the camera passes the ball's centre nearer
    than its radius."""
    (ball_vertices, ball_faces), camera = ball(0.1, 4, (0.05, 0.02, 0.3)), orbit(0.2, 0.1)
    steps = torch.linspace(-0.28, 0.28, 60)
    x, y = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="xy"))
    sheet = torch.stack([x, y, torch.zeros_like(x)], dim=-1)
    vertices = torch.cat([sheet, ball_vertices])
    faces = torch.cat([rasterisation._grid_faces(60, sheet.device), ball_faces + len(sheet)])
    towards = torch.nn.functional.normalize(sheet - camera.position, dim=-1)
    passed = torch.linalg.cross(torch.tensor([0.05, 0.02, 0.3]) - camera.position, towards, dim=-1)
    miss = passed.norm(dim=-1)
    visible = visible_vertices(vertices, faces, camera)[0, : len(sheet)]
    clear = (miss - 0.1).abs() > 5e-4  # the ball of triangles is that much thinner
    assert 100 < (miss < 0.1).sum() < len(sheet) - 1000
    assert torch.equal(visible[clear], (miss > 0.1)[clear])


def test_what_is_out_of_the_picture_is_not_visible():
    vertices = torch.tensor(
        [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, -0.5, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 2.7]]
    )
    faces = torch.zeros(0, 3, dtype=torch.int64)
    visible = visible_vertices(vertices, faces, orbit(0.0, 0.0))
    assert visible.tolist() == [[True, False, False, False, False]]


def test_tolerance_is_in_world_units_along_the_ray():
    front = torch.tensor([[-0.2, -0.2, 0.01], [0.2, -0.2, 0.01], [0.0, 0.2, 0.01]])
    vertices, faces = torch.cat([front, torch.zeros(1, 3)]), torch.tensor([[0, 1, 2]])
    for tolerance, seen in ((0.0099, False), (0.0101, True)):
        assert visible_vertices(vertices, faces, orbit(0.0, 0.0), tolerance)[0, 3].item() is seen


# -------------------------------------------------------------------- heads
def test_parametric_heads_look_and_hide_as_mitsuba_says():
    """The truth of `heads` scenes: rays that another program traced through a mesh with eyes, ears and shoulders."""
    pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install -e '.[heads]'")
    from lib.datasets import heads, makehuman
    from lib.datasets.path_tracing import ColouredMesh, PathTracer

    placed = heads.nominal_placement(heads.random_shape(np.random.default_rng(0)))
    mesh = ColouredMesh(placed, makehuman.fine_triangles(), np.full_like(placed, 0.5))
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    faces = torch.tensor(np.asarray(mesh.triangles, dtype=np.int64))
    camera, side = orbit(0.5, 0.1), 256
    truth, _, met = PathTracer(mesh, np.ones((2, 4, 3))).surface(camera, side)

    seen = rasterise(vertices, faces, camera, side)
    assert (seen.covered == met).float().mean() > 0.999
    both = seen.covered & met
    assert ((seen.depth - truth).abs()[both] < 1e-4).float().mean() > 0.995

    visible = visible_vertices(vertices, faces, camera)[0]
    uv, depth_z = camera.project(vertices[None])
    inside = ((uv[0] > 1 / side) & (uv[0] < 1 - 1 / side)).all(dim=-1) & (depth_z[0] > 0)
    around = surrounding(truth, uv[0, inside])
    distance = (vertices[inside] - camera.position).norm(dim=-1)
    # What is deeper than all four rays around it is hidden. What is not, and where they meet one smooth surface,
    # is seen. Elsewhere, at outlines, they cannot tell.
    deepest, nearest = around.amax(dim=1), around.amin(dim=1)
    hidden = distance > deepest + 0.01
    free = (distance < deepest + 1e-4) & (deepest - nearest < rasterisation.TOLERANCE)
    assert hidden.sum() > 5000 and free.sum() > 5000
    assert visible[inside][free].float().mean() > 0.999
    assert visible[inside][hidden].float().mean() < 0.001


def surrounding(depth: Tensor, uv: Tensor) -> Tensor:
    """Depth [N, 4] at the four pixel centres around image positions; infinite where there is none."""
    side = depth.shape[-1]
    column, row = (uv * side - 0.5).floor().long().unbind(dim=-1)
    depth = depth[0, 0].nan_to_num(math.inf)
    return torch.stack([depth[row + i, column + j] for i in (0, 1) for j in (0, 1)], dim=-1)


# -------------------------------------------------------------------- depth maps as meshes
def test_a_depth_map_is_seen_again_from_its_own_camera():
    """Pixel centres are its vertices: the rasteriser meets it there, whatever its depth."""
    camera, side = orbit(0.3, -0.2), 33
    depth = 2.4 + 0.6 * torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    vertices, faces = depth_mesh(camera, depth)
    assert vertices.shape == (side**2, 3) and faces.shape == (2 * (side - 1) ** 2, 3)
    seen = rasterise(vertices, faces, camera, side)
    middle = (..., slice(1, -1), slice(1, -1))  # rounding decides whether the border is met
    assert seen.covered[middle].all()
    assert torch.allclose(seen.depth[middle], depth[middle], atol=1e-4)


def test_its_vertices_are_what_the_pixels_see():
    camera, depth = orbit(0.3, -0.2), torch.full((1, 1, 5, 5), 2.5)
    vertices, _ = depth_mesh(camera, depth)
    assert torch.equal(vertices, seen_points(camera, depth)[0])


def test_a_sphere_seen_once_is_the_sphere_from_another_side():
    centre, side = (0.02, -0.01, 0.0), 96
    camera, other = orbit(0.2, 0.1), orbit(-0.1, 0.0)
    truth = sphere_depth(camera, side, centre, 0.3)
    vertices, faces = depth_mesh(camera, truth.where(truth.isfinite(), torch.nan))
    depth = rasterise(vertices, faces, other, side).depth
    expected = sphere_depth(other, side, centre, 0.3)
    error = (depth - expected).abs()[depth.isfinite() & expected.isfinite()]
    assert error.numel() > 0.5 * side**2 and error.median() < 2e-4 and error.quantile(0.99) < 5e-3


def test_its_triangles_turn_their_outer_side_to_the_camera():
    camera = orbit(0.4, 0.2)
    depth = 2.4 + 0.6 * torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    vertices, faces = depth_mesh(camera, depth)
    a, b, c = vertices[faces].unbind(dim=1)
    assert ((torch.linalg.cross(b - a, c - a) * (camera.position - a)).sum(dim=-1) > 0).all()


def step(side: int = 16, jump: float = 0.5) -> Tensor:
    """Depth of two sheets, the right half that much deeper."""
    depth = torch.full((1, 1, side, side), 2.5)
    depth[..., side // 2 :] += jump
    return depth


def test_triangles_across_a_jump_of_depth_go_by_their_slant():
    camera, side = orbit(0.0, 0.0), 16
    vertices, every = depth_mesh(camera, step(side))
    _, kept = depth_mesh(camera, step(side), least_slant=0.2)
    across = vertices[every][..., 2].amax(dim=1) - vertices[every][..., 2].amin(dim=1) > 0.3
    assert across.sum() == 2 * (side - 1)
    assert torch.equal(kept, every[~across])


def test_least_slant_is_a_cosine():
    """A sheet turned by 60 degrees, whose triangles stand at about half."""
    camera, side = orbit(0.0, 0.0, focal=60.0), 8  # nearly parallel rays
    _, directions = camera.rays(side)
    normal = torch.tensor([math.sin(math.pi / 3), 0.0, math.cos(math.pi / 3)])
    depth = -(camera.position @ normal) / (directions @ normal)
    for least, remain in ((0.45, 2 * (side - 1) ** 2), (0.55, 0)):
        _, faces = depth_mesh(camera, depth.reshape(1, 1, side, side), least)
        assert len(faces) == remain


def test_slant_is_against_each_triangles_own_ray():
    """A sphere around a wide camera is met at right angles everywhere, though it turns away from the axis."""
    _, faces = depth_mesh(orbit(0.2, 0.1, focal=0.5), torch.full((1, 1, 32, 32), 2.0), least_slant=0.99)
    assert len(faces) == 2 * 31**2


def test_pixels_without_depth_have_no_triangles():
    depth = torch.full((1, 1, 6, 6), 2.5)
    depth[0, 0, 2, 3] = torch.nan
    depth[0, 0, 5, 5] = math.inf
    vertices, faces = depth_mesh(orbit(0.1, 0.0), depth)
    assert vertices.isfinite().all()
    assert not torch.isin(torch.tensor([2 * 6 + 3, 35]), faces).any()
    assert len(faces) == 2 * 25 - 6 - 2


# -------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(1, 3).long(), r"vertices \[V, 3\]"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3).long(), "one mesh"),
        (torch.zeros(4, 3).long(), torch.zeros(1, 3).long(), "of floats"),
        (torch.zeros(4, 3), torch.zeros(1, 4).long(), "polygons into triangles"),
        (torch.zeros(4, 3), torch.zeros(1, 3).int(), "int32"),
        (torch.zeros(4, 3), torch.tensor([[0, 1, 4]]), "0 to 3, got 0 to 4"),
        (torch.zeros(4, 3), torch.tensor([[-1, 1, 2]]), "got -1 to 2"),
        (torch.full((4, 3), math.nan), torch.tensor([[0, 1, 2]]), "finite"),
    ],
)
def test_what_is_no_mesh_is_refused(vertices, faces, message):
    with pytest.raises(ValueError, match=message):
        rasterise(vertices, faces, orbit(0.0, 0.0), 4)
    with pytest.raises(ValueError, match=message):
        visible_vertices(vertices, faces, orbit(0.0, 0.0))


def test_pictures_need_pixels_and_values_of_the_mesh():
    vertices, faces = cube()
    with pytest.raises(ValueError, match="resolution 0"):
        rasterise(vertices, faces, orbit(0.0, 0.0), 0)
    with pytest.raises(ValueError, match=r"\[V, C\].*\(8,\)"):
        interpolate(rasterise(vertices, faces, orbit(0.0, 0.0), 4), faces, vertices[:, 0])


@pytest.mark.parametrize(
    ("depth", "least_slant", "message"),
    [
        (torch.ones(2, 1, 4, 4), 0.0, r"got 1 cameras and \(2, 1, 4, 4\)"),
        (torch.ones(1, 1, 4, 5), 0.0, r"\[1, 1, R, R\]"),
        (torch.ones(4, 4), 0.0, r"\[1, 1, R, R\]"),
        (torch.zeros(1, 1, 4, 4), 0.0, "positive"),
        (torch.ones(1, 1, 4, 4), 1.0, "cosine"),
        (torch.ones(1, 1, 4, 4), -0.1, "cosine"),
    ],
)
def test_depth_maps_are_checked(depth, least_slant, message):
    with pytest.raises(ValueError, match=message):
        depth_mesh(orbit(0.0, 0.0), depth, least_slant)
