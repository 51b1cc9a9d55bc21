"""Exports: surfaces of known shape come out where they are, the right way round, in the right colours."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from analytic_head import BUMP_RADIUS, CENTRE, EAR, NOSE, RADIUS, AnalyticGenerator, AnalyticHead

from lib import meshes
from lib.cameras import Camera
from lib.generators import EG3DConfig, RenderingSettings
from lib.meshes import (
    COLOUR_VIEWS,
    density_grid,
    extract_mesh,
    linear_colours,
    normals_from_depth,
    point_cloud,
    save_mesh,
    save_points,
    seen_points,
    shape_view,
    surface_level,
    surface_of,
    view_of,
)

WHOLE = (np.inf, np.inf, np.inf)
"""Extents that cut nothing off."""


@pytest.fixture(scope="module")
def head() -> AnalyticHead:
    return AnalyticHead(AnalyticGenerator(sharpness=2000.0))


@pytest.fixture(scope="module")
def mesh(head) -> trimesh.Trimesh:
    return extract_mesh(head, resolution=64, level=0.0, extents=WHOLE)


# -------------------------------------------------------------------- density
def test_grid_points_are_where_the_index_says():
    class Coordinates(AnalyticHead):
        def density(self, points):
            return points @ points.new_tensor([1.0, 10.0, 100.0])

    grid = density_grid(Coordinates(), resolution=5, batch=7)
    for i, j, k in np.ndindex(5, 5, 5):
        x, y, z = (index / 4 - 0.5 for index in (i, j, k))
        assert grid[i, j, k] == pytest.approx(x + 10 * y + 100 * z, abs=1e-4)


def test_grid_is_the_same_in_any_batches(head):
    assert np.array_equal(density_grid(head, 12, batch=10**6), density_grid(head, 12, batch=100))


def test_grid_needs_two_samples_a_side(head):
    with pytest.raises(ValueError, match="at least 2 samples"):
        density_grid(head, 1)


# -------------------------------------------------------------------- surface
def test_ball_has_its_radius_and_its_place(mesh):
    distance = np.linalg.norm(mesh.vertices - np.array(CENTRE), axis=1)
    away_from_bumps = (
        np.min([np.linalg.norm(mesh.vertices - np.array(p), axis=1) for p in (NOSE, EAR)], axis=0) > 0.1
    )
    assert np.abs(distance[away_from_bumps] - RADIUS).max() < 0.1 / 63  # a tenth of a cell


@pytest.mark.parametrize(("axis", "bump"), [(0, EAR), (2, NOSE)])
def test_bumps_stay_on_their_side(mesh, axis, bump):
    highest = mesh.vertices[mesh.vertices[:, axis].argmax()]
    assert highest[axis] == pytest.approx(bump[axis] + BUMP_RADIUS, abs=0.005)
    assert mesh.vertices[:, axis].min() == pytest.approx(CENTRE[axis] - RADIUS, abs=0.005)


def test_mesh_is_closed_and_its_normals_point_outward(mesh):
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)  # negative were it inside out
    outward = mesh.triangles_center - np.array(CENTRE)
    assert ((mesh.face_normals * outward).sum(axis=1) > 0).mean() > 0.98


def test_what_leaves_the_box_is_cut_and_closed():
    index = np.arange(16)
    densities = np.broadcast_to((index < 8)[:, None, None], (16, 16, 16)).astype(np.float32)
    slab, edge = surface_of(densities, level=0.5, side=2.0, extents=WHOLE), 1 - 2 / 15
    assert slab.is_watertight
    assert np.allclose(slab.bounds, [[-edge] * 3, [7.5 * 2 / 15 - 1, edge, edge]], atol=2e-3)


def test_surface_ends_at_the_last_samples_within_its_extents():
    cut = surface_of(block(32), level=0.0, side=1.0, extents=(0.5, 0.3, 0.2))
    reach = np.array([14.5, 8.5, 5.5]) / 31
    assert np.allclose(cut.bounds, [-reach, reach], atol=1e-3)


@pytest.mark.parametrize("extents", [(0.3, 0.0, 0.3), (0.3, 0.3, 0.01)])
def test_extents_leave_something(extents):
    with pytest.raises(ValueError, match="leave nothing of a cube"):
        surface_of(block(32), level=0.0, side=1.0, extents=extents)


def test_nothing_is_kept_that_the_front_does_not_show(head):
    """A generator goes on above the picture; its mesh does not."""

    class Column(AnalyticHead):
        def density(self, points):
            return 100 * (
                0.1 - points[..., ::2].norm(dim=-1)
            )  # about the y axis, from face to face of the cube

    column = extract_mesh(Column(), 64, level=0.0, coloured=False)
    uv, _ = view_of(head, 0.0).project(torch.tensor([[[0.0, column.bounds[1, 1], 0.0]]]).float())
    assert 0 <= uv[0, 0, 1] < 0.05


def block(n: int) -> np.ndarray:
    """Full but for one sample in the middle."""
    densities = np.ones((n, n, n), np.float32)
    densities[n // 2, n // 2, n // 2] = -1
    return densities


def test_level_outside_the_densities_is_an_error(head):
    with pytest.raises(ValueError, match="no surface at density 1e\\+06"):
        extract_mesh(head, 16, level=1e6)


def test_small_components_are_dropped_on_request():
    index = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    balls = [r - np.linalg.norm(index - c, axis=0) for c, r in ((8, 5), (18, 2))]

    class TwoBalls(AnalyticHead):
        def density(self, points):
            ijk = ((points[0] + 0.5) * 23).round().long()
            return torch.tensor(np.maximum(*balls))[tuple(ijk.T)]

    both, largest = (
        extract_mesh(TwoBalls(), 24, 0.0, largest_component=only, coloured=False) for only in (False, True)
    )
    assert (both.body_count, largest.body_count) == (2, 1)
    assert largest.bounds[1].max() < 14 / 23 - 0.5


def gap_to_rendered_depth(head, mesh, yaw) -> float:
    """Median distance between the vertices that face a camera and the depth that it renders there."""
    camera = view_of(head, yaw)
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    to_camera = camera.position - points
    distance = to_camera.norm(dim=-1)
    uv, _ = camera.project(points[None])
    depth = torch.nn.functional.grid_sample(
        head.render(camera).depth, 2 * uv[:, None] - 1, align_corners=False
    )
    slant = (torch.tensor(mesh.vertex_normals, dtype=torch.float32) * to_camera).sum(dim=-1) / distance
    facing = (slant > 0.8) & (uv[0] > 0.05).all(dim=-1) & (uv[0] < 0.95).all(dim=-1)
    assert facing.sum() > 300
    return (distance - depth[0, 0, 0])[facing].abs().median().item()


def test_measured_level_lies_at_the_rendered_depth():
    """Also from a side other than the one it was measured on; a soft surface cut at zero lies before it."""
    soft, cell = AnalyticHead(AnalyticGenerator(sharpness=600.0)), 1 / 63
    measured, at_zero = (extract_mesh(soft, 64, level, WHOLE, coloured=False) for level in (None, 0.0))
    assert gap_to_rendered_depth(soft, measured, 0.4) < 0.6 * cell
    assert gap_to_rendered_depth(soft, at_zero, 0.4) > 2 * cell


def test_level_of_an_empty_view_is_an_error(head):
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = 2.7  # at the usual place, but looking away
    with pytest.raises(ValueError, match="no surface to measure"):
        surface_level(head, Camera(pose, view_of(head, 0.0).intrinsics))


# -------------------------------------------------------------------- colour
def test_seen_vertices_have_the_colour_of_the_field(head, mesh):
    """The field's colour is 0.5 + position, so every vertex knows the colour that it should have."""
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    front = (mesh.vertex_normals[:, 2] > 0.5) & (mesh.vertices[:, 1] > -0.25)
    assert front.sum() > 500
    error = np.abs(colours - (0.5 + mesh.vertices))[front]
    assert error.mean() < 0.02
    assert np.quantile(error, 0.95) < 0.05  # the rest lies beside the bumps, where one pixel sees two depths


def test_hidden_vertices_take_a_seen_colour_nearby(mesh):
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    back = mesh.vertex_normals[:, 2] < -0.9
    assert back.sum() > 100
    assert (
        colours[back, 2].max() < 0.5 + CENTRE[2] + 0.1
    )  # the blue of the silhouette, not of the nose before it


def test_what_stands_before_a_vertex_does_not_colour_it(head):
    """A wall behind the ball, where the renderer sees empty black space beside it and the ball before it."""
    y, x = np.mgrid[-0.6:0.6:25j, -0.6:0.6:25j]
    corners = np.arange(24 * 25).reshape(24, 25)[:, :-1].reshape(-1, 1)
    faces = np.concatenate([corners + np.array(triangle) for triangle in ((0, 1, 26), (0, 26, 25))])
    wall = trimesh.Trimesh(np.stack([x, y, -0.32 + 0 * x], -1).reshape(-1, 3), faces, process=False)
    assert (wall.face_normals[:, 2] > 0.99).all()
    colours = meshes.vertex_colours(head, wall, tolerance=0.03).reshape(25, 25, 3)
    assert colours[10:14, 11:15].max() < 100  # the ball there is at least 190 in blue


def test_colours_do_not_depend_on_the_order_of_views(head, mesh):
    forward, backward = (
        meshes.vertex_colours(head, mesh, 0.03, views) for views in (COLOUR_VIEWS, COLOUR_VIEWS[::-1])
    )
    assert np.abs(forward.astype(int) - backward).max() <= 1


def test_mesh_out_of_sight_is_an_error(head):
    far = trimesh.creation.icosphere(1).apply_scale(0.1).apply_translation([5.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="no vertex of this mesh is seen"):
        meshes.vertex_colours(head, far, 0.03)


# -------------------------------------------------------------------- points and normals
def test_seen_points_are_in_their_pixels_at_their_depth(head):
    cameras = view_of(head, torch.tensor([0.3, -0.4]), torch.tensor([0.1, -0.2]))
    depth = 2 + torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    points = seen_points(cameras, depth)
    uv, depth_z = cameras.project(points)
    assert torch.allclose(uv[1].reshape(7, 7, 2)[2, 5], torch.tensor([5.5 / 7, 2.5 / 7]), atol=1e-5)
    assert torch.allclose(depth_z, (depth * cameras.ray_cosines(7)).flatten(1), atol=1e-5)
    assert torch.allclose((points - cameras.position[:, None]).norm(dim=-1), depth.flatten(1), atol=1e-5)


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.5, 0.2, 0.8), (-0.3, -0.6, 0.7)])
@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.4, 0.3)])
def test_normals_of_a_plane_are_its_own_up_to_the_border(head, normal, yaw, pitch):
    camera = view_of(head, yaw, pitch)
    normal = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    origins, directions = camera.rays(9)
    depth = ((torch.tensor([0.02, 0.01, 0.1]) - origins) @ normal) / (directions @ normal)
    found = normals_from_depth(camera, depth.reshape(1, 1, 9, 9))
    assert torch.allclose(found, normal[:, None, None].expand(3, 9, 9), atol=2e-4)


def test_normals_of_a_ball_point_away_from_its_centre(head):
    camera, centre, radius = view_of(head, -0.3, 0.2), torch.tensor([0.05, -0.02, 0.0]), 0.5
    origins, directions = camera.rays(64)
    towards = ((centre - origins) * directions).sum(dim=-1)
    depth = towards - (radius**2 - (centre - origins).square().sum(dim=-1) + towards**2).sqrt()
    found = normals_from_depth(camera, depth.reshape(1, 1, 64, 64))[0]
    expected = (origins + directions * depth[..., None] - centre)[0] / radius
    inner = (slice(None), slice(1, -1), slice(1, -1))
    assert (found - expected.T.reshape(3, 64, 64))[inner].abs().max() < 4e-3  # of second order in the pixel


@pytest.mark.parametrize("samples", [48, 192])
def test_points_lie_on_the_surface_in_its_colours(samples):
    """As well as the renderer knows it: its depth is sharp to about one interval of the coarse pass."""
    settings = RenderingSettings(samples, samples)
    generator = AnalyticGenerator(1e6, EG3DConfig.embedded(rendering=settings))
    cloud = point_cloud(AnalyticHead(generator), views=((0.0, 0.0), (0.5, 0.0)), extents=WHOLE)
    points, colours = np.asarray(cloud.vertices), np.asarray(cloud.colors)[:, :3] / 255
    off = generator.inside(torch.tensor(points)).abs().numpy()
    interval = (settings.ray_end - settings.ray_start) / (samples - 1)
    assert len(points) > 10_000
    assert np.median(off) < 0.6 * interval and np.quantile(off, 0.9) < 1.5 * interval
    error = np.abs(colours - (0.5 + points)).max(axis=1)
    assert np.quantile(error, 0.9) < 1.5 * interval + 0.01


def test_points_keep_the_ear_on_its_side(head):
    points = np.asarray(point_cloud(head, extents=WHOLE).vertices)
    assert points[:, 0].max() == pytest.approx(EAR[0] + BUMP_RADIUS, abs=0.05)  # seen aslant only
    assert points[:, 0].min() == pytest.approx(CENTRE[0] - RADIUS, abs=0.05)
    assert points[:, 2].max() == pytest.approx(NOSE[2] + BUMP_RADIUS, abs=0.03)
    assert points[:, 2].min() > -0.2  # nobody saw the back


def test_more_views_see_more_of_the_head(head):
    """From the front alone nothing is seen of the side of the ear."""
    front, sides = (np.asarray(point_cloud(head, views).vertices) for views in (((0.0, 0.0),), COLOUR_VIEWS))
    assert sides[:, 2].min() < front[:, 2].min() - 0.05
    assert len(sides) > 3 * len(front)


def test_points_stay_within_their_extents(head):
    points = np.asarray(point_cloud(head, extents=(0.2, 0.1, 0.15)).vertices)
    assert np.allclose(np.abs(points).max(axis=0), [0.2, 0.1, 0.15], atol=0.01)
    assert (np.abs(points) <= [0.2, 0.1, 0.15]).all()


def test_points_keep_away_from_edges(head):
    """From the front, the ball turns away from the camera towards its rim, which lies further back."""
    front = ((0.0, 0.0),)
    lowest = [
        np.asarray(point_cloud(head, front, WHOLE, least_slant=s).vertices)[:, 2].min() for s in (0.2, 0.9)
    ]
    assert lowest[0] < CENTRE[2] + 0.5 * RADIUS < CENTRE[2] + 0.75 * RADIUS < lowest[1]


def test_points_of_nothing_are_an_error(head):
    with pytest.raises(ValueError, match="no pixel of 1 views sees a surface"):
        point_cloud(head, views=((0.0, 0.0),), extents=(0.01, 0.01, 0.01))


def test_shape_is_taken_with_more_rays_than_a_small_picture(head):
    camera = view_of(head, 0.2)
    assert shape_view(head, camera).depth.shape[-1] == 128 > head.render(camera).depth.shape[-1]


# -------------------------------------------------------------------- files
def glb_tree(path) -> dict:
    content = path.read_bytes()
    magic, version, total, length, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(content), b"JSON")
    return json.loads(content[20 : 20 + length])


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj", ".PLY"])
def test_files_keep_shape_units_and_orientation(mesh, tmp_path, suffix):
    path = save_mesh(mesh, tmp_path / "new folder" / f"head{suffix}")
    loaded = trimesh.load(path, force="mesh", process=False)
    assert np.allclose(loaded.vertices, mesh.vertices, atol=1e-6)
    assert np.array_equal(loaded.faces, mesh.faces)
    assert loaded.volume == pytest.approx(mesh.volume, rel=1e-5)
    assert [p.name for p in path.parent.iterdir()] == [f"head{suffix}"]


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_ply_and_obj_hold_the_colours_as_they_are(mesh, tmp_path, suffix):
    loaded = trimesh.load(save_mesh(mesh, tmp_path / f"head{suffix}"), process=False)
    assert np.array_equal(loaded.visual.vertex_colors, mesh.visual.vertex_colors)


def test_glb_is_unlit_and_holds_linear_colours(mesh, tmp_path):
    tree = glb_tree(save_mesh(mesh, tmp_path / "head.glb"))
    primitive = tree["meshes"][0]["primitives"][0]
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "KHR_materials_unlit" in tree["materials"][primitive["material"]]["extensions"]
    accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert primitive["attributes"].keys() == {"POSITION", "COLOR_0"}
    assert (accessor["componentType"], accessor["type"], accessor["normalized"]) == (5123, "VEC4", True)
    view = tree["bufferViews"][accessor["bufferView"]]
    binary = (tmp_path / "head.glb").read_bytes()[-tree["buffers"][0]["byteLength"] :]
    found = np.frombuffer(binary, "<u2", 4 * accessor["count"], view["byteOffset"]).reshape(-1, 4)
    colours = np.asarray(mesh.visual.vertex_colors)
    assert np.array_equal(found[:, :3], linear_colours(colours[:, :3])) and (found[:, 3] == 65535).all()


def test_glb_keeps_all_256_values_of_a_colour():
    assert len(np.unique(linear_colours(np.arange(256)))) == 256


def test_a_mesh_without_colours_has_none_in_its_glb(mesh, tmp_path):
    bare = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    primitive = glb_tree(save_mesh(bare, tmp_path / "bare.glb"))["meshes"][0]["primitives"][0]
    assert primitive["attributes"].keys() == {"POSITION"}


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_files_do_not_depend_on_what_was_asked_of_the_mesh_before(mesh, tmp_path, suffix):
    first = save_mesh(mesh.copy(), tmp_path / f"first{suffix}").read_bytes()
    asked = mesh.copy()
    assert asked.vertex_normals.shape == asked.vertices.shape  # which trimesh would write, once it knows them
    assert save_mesh(asked, tmp_path / f"second{suffix}").read_bytes() == first


def test_points_come_back_from_their_file(head, tmp_path):
    cloud = point_cloud(head, views=((0.1, 0.0),))
    loaded = trimesh.load(save_points(cloud, tmp_path / "points.ply"))
    assert np.allclose(loaded.vertices, cloud.vertices, atol=1e-6)
    assert np.array_equal(loaded.colors, cloud.colors)


def test_linear_colours_follow_the_standard():
    # to 1/255: 0, 0.387, 55.04, 128.24, 255
    assert linear_colours(np.array([0, 5, 128, 188, 255])).tolist() == [0, 99, 14146, 32957, 65535]


def test_other_suffixes_are_refused(mesh, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.glb or \.ply or \.obj; got 'head\.stl'"):
        save_mesh(mesh, tmp_path / "head.stl")
    with pytest.raises(ValueError, match=r"ends in \.ply; got 'points\.xyz'"):
        save_points(trimesh.PointCloud([[0, 0, 0]]), tmp_path / "points.xyz")
