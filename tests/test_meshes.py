"""Exports: surfaces of known shape come out where they are, the right way round, in the right colours."""

import json
import struct

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from analytic_head import BUMP_RADIUS, CENTRE, EAR, NOSE, RADIUS, AnalyticGenerator, AnalyticHead

from lib import meshes
from lib.cameras import Camera
from lib.meshes import (
    COLOUR_VIEWS,
    density_grid,
    ellipse,
    extract_mesh,
    linear_bytes,
    save_glb,
    save_orbit_video,
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


# -------------------------------------------------------------------- GLB
def glb_tree(path) -> dict:
    content = path.read_bytes()
    magic, version, total, length, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(content), b"JSON")
    return json.loads(content[20 : 20 + length])


def test_glb_keeps_shape_units_and_orientation(mesh, tmp_path):
    path = save_glb(mesh, tmp_path / "new folder" / "head.glb")
    loaded = trimesh.load(path, force="mesh", process=False)
    assert np.allclose(loaded.bounds, mesh.bounds, atol=1e-6)
    assert loaded.volume == pytest.approx(mesh.volume, rel=1e-5)
    assert [p.name for p in path.parent.iterdir()] == ["head.glb"]


def test_glb_is_unlit_and_holds_linear_colours(mesh, tmp_path):
    tree = glb_tree(save_glb(mesh, tmp_path / "head.glb"))
    primitive = tree["meshes"][0]["primitives"][0]
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "KHR_materials_unlit" in tree["materials"][primitive["material"]]["extensions"]
    brightest = tree["accessors"][primitive["attributes"]["COLOR_0"]]["max"]
    expected = linear_bytes(np.asarray(mesh.visual.vertex_colors)[:, :3].max(axis=0))
    assert brightest[:3] == expected.tolist()


def test_linear_bytes_follow_the_standard():
    assert linear_bytes(np.array([0, 5, 128, 188, 255])).tolist() == [0, 0, 55, 128, 255]


def test_other_suffixes_are_refused(mesh, head, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.glb; got 'head\.ply'"):
        save_glb(mesh, tmp_path / "head.ply")
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        save_orbit_video(head, tmp_path / "head.gif")


# -------------------------------------------------------------------- video
def frames_of(path) -> tuple[dict, np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    return facts, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_orbit_is_closed_and_its_steps_are_even():
    yaw, pitch = ellipse(40, 0.5, 0.2)
    steps = torch.hypot((yaw.roll(-1) - yaw) / 0.5, (pitch.roll(-1) - pitch) / 0.2)
    assert torch.allclose(
        steps, steps.mean().expand(40), rtol=1e-4
    )  # also the step from the last to the first
    assert yaw.max().item() == pytest.approx(0.5)
    assert pitch.min().item() == pytest.approx(-0.2)


def test_video_plays_in_browsers_and_shows_the_orbit(head, tmp_path):
    path = save_orbit_video(head, tmp_path / "orbit.mp4", frames=8, fps=25, yaw_amplitude=0.6)
    facts, frames = frames_of(path)
    assert (facts["codec"], facts["fps"], facts["size"]) == ("h264", 25, (256, 256))
    assert facts["pix_fmt"].startswith("yuv420p(")
    assert len(frames) == 8
    view = head.render(view_of(head, 0.6, 0.0)).image  # a quarter of the way round
    expected = meshes.to_bytes(
        torch.nn.functional.interpolate(view, 256, mode="bicubic")[0].permute(1, 2, 0).numpy()
    )
    errors = [np.abs(frame.astype(int) - expected).mean() for frame in frames]
    assert np.argmin(errors) == 2
    assert errors[2] < 3


def test_failed_video_leaves_the_old_one(head, tmp_path):
    path = tmp_path / "orbit.mp4"
    path.write_bytes(b"old")

    class Broken(AnalyticHead):
        def render(self, camera):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        save_orbit_video(Broken(), path, frames=2)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["orbit.mp4"]


@pytest.mark.parametrize(
    ("wrong", "message"), [({"size": 255}, "must be even"), ({"frames": 0}, "at least one frame")]
)
def test_impossible_videos_are_refused(head, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        save_orbit_video(head, tmp_path / "orbit.mp4", **wrong)
