"""Drawings: what is drawn stands where the cameras say, carries the values that were given, and fits."""

import math

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from test_figures import assert_nothing_is_cropped, drawn, flat_image

from lib.cameras import FOCAL, Camera, eg3d_look_at, orbit
from lib.drawings import AXIS_COLOURS, PLASTER, POSITION_COLOUR, RAY_COLOURS, Stage, face_colours
from lib.drawings import foundations as drawings
from lib.figures import Picture
from lib.generators.rendering import plane_axes, sample_planes

CAMERA = orbit(0.4, 0.2)


@pytest.fixture
def stage() -> Stage:
    return Stage(Picture(3, 3).add_axes((0, 0, 1, 1)), orbit(0.7, 0.3, radius=6.0))


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=1, radius=0.25)


def quadrants(side: int = 8) -> np.ndarray:
    """A picture whose four quarters are red, green (upper row), blue, white (lower row)."""
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return colours.repeat(side // 2, 0).repeat(side // 2, 1)


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def text_of(axes, words_of_it: str):
    return next(text for text in axes.texts if words_of_it in text.get_text())


# -------------------------------------------------------------------- space on a page
def test_space_is_projected_by_the_camera_of_the_stage(stage):
    points = torch.tensor([[0.1, 0.2, 0.3], [-0.2, 0.0, 0.4], [0.0, 0.5, 0.0]])
    stage.line(points)
    uv, _ = stage.viewer.project(points[None])
    np.testing.assert_allclose(stage.axes.lines[0].get_xydata(), uv[0], rtol=1e-6)
    above, below = stage.axes.transData.transform(stage.project(torch.tensor([[0.0, 0.5, 0], [0, -0.5, 0]])))
    assert above[1] > below[1]  # up in the world is up on the page


def test_an_arrow_ends_at_its_tip_and_its_name_lies_beyond(stage):
    start, end = torch.zeros(3), torch.tensor([0.5, 0.0, 0.0])
    stage.arrow(start, end, "red", "x")
    arrow, label = stage.axes.texts
    tail, head = stage.project(torch.stack([start, end]))
    np.testing.assert_allclose([arrow.xyann, arrow.xy], [tail, head], rtol=1e-6)
    name = np.array(label.get_position())  # in points, y upwards
    along = (head - tail) * [1, -1]
    assert name @ along > 0
    assert stage.axes.dataLim.contains(*head)


def test_the_nearest_triangle_is_drawn_last(stage):
    toward = stage.viewer.position[0].numpy() / 6
    corners = np.array([[0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]])
    vertices = np.concatenate([corners + k * toward for k in (1.0, -1.0, 0.0)])
    colours = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])  # near, far, between
    stage.surface(vertices, np.arange(9).reshape(3, 3), colours)
    (surface,) = stage.axes.collections
    assert surface.get_facecolor()[:, :3].tolist() == colours[[1, 2, 0]].tolist()
    np.testing.assert_allclose(surface.get_paths()[2].vertices[:3], stage.project(vertices[:3]), rtol=1e-6)


def test_a_picture_in_space_is_neither_turned_nor_mirrored(stage):
    stage.picture(quadrants(), CAMERA, 1.25)
    (cells,) = stage.axes.collections
    middles = np.array([path.vertices[:4].mean(axis=0) for path in cells.get_paths()])
    for colour, uv in (((1, 0, 0), (0.25, 0.25)), ((0, 1, 0), (0.75, 0.25)), ((0, 0, 1), (0.25, 0.75))):
        same = (cells.get_facecolor()[:, :3] == colour).all(axis=1)
        world = CAMERA.unproject(torch.tensor([[uv]]), torch.full((1, 1), 1.25))
        np.testing.assert_allclose(middles[same].mean(axis=0), stage.project(world)[0], atol=1e-3)


def test_large_pictures_are_thinned_out(stage):
    stage.picture(np.zeros((400, 400, 3), np.uint8), CAMERA, 1.0)
    assert len(stage.axes.collections[0].get_paths()) <= (drawings.CELLS + 1) ** 2


def test_the_axes_of_a_frustum_are_the_cameras(stage):
    stage.frustum(CAMERA, 1.25, quadrants())
    arrows = {t.arrowprops["color"]: t for t in stage.axes.texts if t.arrow_patch is not None}
    for k, colour in enumerate(AXIS_COLOURS.values()):
        tip = CAMERA.position[0] + 0.32 * CAMERA.rotation[0, :, k]
        np.testing.assert_allclose(arrows[colour].xy, stage.project(tip)[0], rtol=1e-5)
    assert [word for word in words(stage.axes) if word] == ["right", "down", "forward"]


def test_faces_toward_the_light_are_brighter_and_keep_their_colour(ball):
    plain = face_colours(ball)
    top, bottom = ball.face_normals[:, 1].argmax(), ball.face_normals[:, 1].argmin()
    assert (plain[top] > plain[bottom]).all()
    np.testing.assert_allclose(plain[bottom] / plain[bottom, 0], np.array(PLASTER) / PLASTER[0])
    red = ball.copy()
    red.visual.vertex_colors = np.tile([200, 0, 0, 255], (len(ball.vertices), 1))
    assert (face_colours(red)[:, 1:] == 0).all() and (face_colours(red)[:, 0] > 0.3).all()


# -------------------------------------------------------------------- cameras
def test_conventions_are_named_and_nothing_is_cropped(ball):
    picture = drawings.world_and_camera(CAMERA, quadrants(), ball, box=1.2)
    assert_nothing_is_cropped(picture)
    named = words(picture.axes[0])
    assert {"x", "y", "z", "right", "down", "forward", "origin", "camera", "2.7 world units"} <= set(named)
    assert "cube of side 1.2:\nthe planes" in named


def test_every_number_of_a_label_stands_in_its_row_and_column(ball):
    picture = drawings.label_explained(CAMERA, quadrants(), ball)
    assert_nothing_is_cropped(picture)
    written = [text for text in picture.axes[1].texts if text.get_family() == ["monospace"]]
    values = torch.tensor([float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in written])
    pose = values[:16].reshape(4, 4).T  # column by column
    torch.testing.assert_close(pose, CAMERA.world_from_cam[0], atol=6e-5, rtol=0)
    torch.testing.assert_close(values[16:].reshape(3, 3), CAMERA.intrinsics[0], atol=6e-5, rtol=0)
    columns, colours = zip(
        *sorted({(t.get_position()[0], t.get_color()) for t in written[:16:4]}), strict=True
    )
    assert colours == (*AXIS_COLOURS.values(), POSITION_COLOUR)
    assert all(np.diff(columns) > 0.9)


def test_two_depths_are_those_of_the_corner():
    picture = drawings.depth_two_ways(CAMERA, resolution=16, wall=2.0)
    assert_nothing_is_cropped(picture)
    depth = 2.0 * math.sqrt(1 + 2 * (0.5 / FOCAL) ** 2)
    assert {f"depth = {depth:.4f}", "depth_z = 2.0000"} <= set(words(picture.axes[0]))
    shown = np.asarray(picture.axes[1].images[0].get_array())
    np.testing.assert_allclose(shown, 1 / CAMERA.ray_cosines(16)[0, 0])


def test_asked_and_got_shows_curve_and_pictures():
    asked = torch.linspace(-0.5, 0.5, 11)
    got = -asked / 2
    grey, white = flat_image(0.0, 0.0, 0.0), flat_image(1.0, 1.0, 1.0)
    picture = drawings.asked_and_got(asked, got, {-0.2: [grey, white], 0.4: [grey, white]})
    assert_nothing_is_cropped(picture)
    _, curve, dots = picture.axes[0].lines
    np.testing.assert_allclose(curve.get_ydata(), got)
    np.testing.assert_allclose(dots.get_xydata(), [[-0.2, 0.1], [0.4, -0.2]], atol=1e-6)
    titles = [axes.get_title() for axes in picture.axes[1:]]
    assert titles == ["asked −0.20", "asked +0.40", "+0.10", "−0.20"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in picture.axes[1:]] == [128, 128, 255, 255]


def test_an_orbit_about_the_pivot_from_above(ball):
    picture = drawings.orbit_from_above((0.0, 0.4), (0.0, 0.0, 0.2), ball)
    assert_nothing_is_cropped(picture)
    plan, curve = picture.axes
    assert words(plan)[-2:] == ["yaw 0\nturned by 0.000", "yaw 0.4\nturned by 0.431"]
    assert "2.500" in words(curve)
    turned = eg3d_look_at(math.pi / 2 + 0.4, math.pi / 2, pivot=(0.0, 0.0, 0.2)).position[0]
    assert tuple(text_of(plan, "0.431").xy) == pytest.approx(turned[[0, 2]].tolist())
    yaw, distance = curve.lines[0].get_data()
    np.testing.assert_allclose(distance**2, 2.7**2 + 0.2**2 - 2 * 2.7 * 0.2 * np.cos(yaw), rtol=1e-5)


def test_field_of_view_says_both_angles_and_shows_the_difference():
    pictures = {"a": flat_image(0.0, 0.0, 0.0), "b": flat_image(0.25, 0.25, 0.25)}
    picture = drawings.field_of_view(1 / math.sqrt(2), pictures, limit=0.5)
    assert_nothing_is_cropped(picture)
    side, diagonal = 2 * math.degrees(math.atan(math.sqrt(0.5))), 90.0
    assert [word for word in words(picture.axes[0]) if word] == [f"{diagonal:.2f}°", f"{side:.2f}°"]
    halfway = matplotlib.colormaps["inferno"](0.5, bytes=True)[:3]
    difference = next(axes for axes in picture.axes if "difference" in axes.get_title())
    assert difference.images[0].get_array()[5, 5].tolist() == list(halfway)


# -------------------------------------------------------------------- rays
def test_rays_from_above_lie_where_the_row_looks():
    camera = orbit(0.5, 0.0)
    origins, directions = camera.rays(8)
    depths = torch.linspace(2.3, 3.2, 5)
    points = origins[0, :8, None] + depths[:, None] * directions[0, 24:32, None]
    sigma = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    pixels = {"left": (3, 0), "right": (3, 6)}
    picture = drawings.rays_from_above(flat_image(0.0, 0.0, 0.0, side=16), pixels, points, sigma, camera)
    assert_nothing_is_cropped(picture)
    front, plan = picture.axes[:2]
    assert front.lines[1].get_xydata().tolist() == [[0.5, 6.5]]  # pixel (3, 0) of 8, on a picture of 16
    left, right = (line.get_xydata() for line in plan.lines[2:])
    slope = (0.5 / 8 - 0.5) / FOCAL
    np.testing.assert_allclose(left[:, 1], slope * left[:, 0], atol=1e-5)
    assert (right[:, 1] > 0).all()
    tilt = (3.5 / 8 - 0.5) / FOCAL
    np.testing.assert_allclose(left[:, 0] * math.hypot(1, slope, tilt), depths, rtol=1e-5)


def profile(sigma: torch.Tensor) -> dict[str, torch.Tensor]:
    depths = torch.linspace(2.0, 3.0, len(sigma))
    middle = (depths[1:] + depths[:-1]) / 2
    absorbed = ((sigma[1:] + sigma[:-1]) / 2 * depths.diff()).cumsum(0)
    transmittance = torch.exp(-F.pad(absorbed[:-1], (1, 0)))
    weights = transmittance - torch.exp(-absorbed)
    colour = torch.rand(len(sigma), 3, generator=torch.Generator().manual_seed(0))
    return {
        "depths": depths,
        "sigma": sigma,
        "middle": middle,
        "transmittance": transmittance,
        "weights": weights,
        "colour": colour,
        "pixel": torch.tensor([0.2, 0.4, 0.6]),
        "depth": (weights * middle).sum() / weights.sum(),
    }


def test_along_the_ray_carries_the_values():
    profiles = {"thin": profile(torch.full((9,), 1.0)), "thick": profile(torch.linspace(0, 20, 9))}
    picture = drawings.along_the_ray(profiles, (2.0, 3.0))
    assert_nothing_is_cropped(picture)
    panels = np.array(picture.axes[:8]).reshape(4, 2)
    for column, given in zip(panels.T, profiles.values(), strict=True):
        density, light, share, strip = column
        np.testing.assert_array_equal(density.lines[0].get_ydata(), given["sigma"])
        np.testing.assert_array_equal(light.lines[0].get_ydata(), given["transmittance"])
        area = (share.lines[0].get_ydata() * given["depths"].diff().numpy()).sum()
        assert area == pytest.approx(given["weights"].sum().item())
        assert share.lines[1].get_xdata()[0] == pytest.approx(given["depth"].item())
        np.testing.assert_array_equal(strip.images[0].get_array()[0], given["colour"])
    titles = [f"{name}: depth {given['depth']:.3f}" for name, given in profiles.items()]
    assert [axes.get_title() for axes in panels[0]] == titles


def test_sum_and_integral_shows_steps_and_errors():
    depths = torch.linspace(2, 3, 5)
    errors = {"a": {4: 1e-2, 8: 2.5e-3}, "b": {4: 1e-3, 8: 1e-4}}
    curve = (torch.linspace(2, 3, 50), torch.linspace(0, 4, 50))
    picture = drawings.sum_and_integral(curve, depths, torch.tensor([0.5, 1.5, 2.5, 3.5]), errors)
    assert_nothing_is_cropped(picture)
    steps, fall = picture.axes
    np.testing.assert_array_equal(steps.patches[0].get_data().values, [0.5, 1.5, 2.5, 3.5])
    assert [list(line.get_ydata()) for line in fall.lines[:2]] == [[1e-2, 2.5e-3], [1e-3, 1e-4]]
    np.testing.assert_allclose(fall.lines[2].get_ydata(), [1e-2, 2.5e-3])  # from the largest, a quarter
    assert [tick.get_text() for tick in fall.get_xticklabels()] == ["4", "8"]


def test_importance_is_drawn_from_weights_to_ticks():
    depths, weights = torch.linspace(0, 4, 5), torch.tensor([0.0, 0.5, 0.3, 0.0])
    edges, mass = torch.tensor([0.5, 1.5, 2.5]), torch.tensor([0.75, 0.25])
    fine = torch.tensor([0.833333, 1.5])  # where the sum is 1/4 and 3/4
    density = (torch.linspace(0, 4, 9), torch.linspace(0, 2, 9))
    picture = drawings.importance_drawn((depths, weights), (edges, mass), fine, density)
    assert_nothing_is_cropped(picture)
    found, drawn, looked = picture.axes
    np.testing.assert_array_equal(found.patches[0].get_data().values, weights)
    np.testing.assert_array_equal(drawn.lines[0].get_xydata(), [[0.5, 0], [1.5, 0.75], [2.5, 1]])
    feet = drawn.collections[1].get_segments()
    for (bottom, top), depth in zip(feet, fine, strict=True):
        assert bottom[0] == top[0] == pytest.approx(depth.item())
        assert top[1] == pytest.approx(np.interp(depth, [0.5, 1.5, 2.5], [0, 0.75, 1]), abs=1e-5)
    ticks = {rgb: [segment[0][0] for segment in rows.get_segments()] for rgb, rows in rows_by_colour(looked)}
    assert ticks[to_rgb(RAY_COLOURS[1])] == pytest.approx(depths.tolist())
    assert ticks[to_rgb(RAY_COLOURS[0])] == pytest.approx(fine.tolist())


def rows_by_colour(axes):
    return [(tuple(c.get_color()[0][:3]), c) for c in axes.collections if isinstance(c, LineCollection)]


def test_off_by_one_marks_where_weight_and_samples_are():
    depths, weights = torch.arange(9.0), torch.zeros(8)
    weights[4] = 1.0
    errors = {"a": torch.full((6, 6), 0.01), "b": torch.full((6, 6), -0.01)}
    picture = drawings.off_by_one(depths, weights, torch.tensor([3.9, 4.0, 4.1]), errors, limit=0.01)
    assert_nothing_is_cropped(picture)
    assert words(picture.axes[0]) == ["4.0", "4.5"]
    assert picture.axes[3].get_ylabel() == "depth error, mm"
    red, blue = (picture.axes[k].images[0].get_array()[2, 2].astype(int) for k in (1, 2))
    assert red[0] > red[2] and blue[2] > blue[0]


def test_samples_enough_keeps_rows_and_values():
    errors = {"even": {8: 0.1, 16: 0.05}, "two passes": {8: 0.2, 16: 0.01}}
    rows = [{"8 even": flat_image(0.0, 0.0, 0.0)}, {"4 + 4": flat_image(1.0, 1.0, 1.0)}]
    picture = drawings.samples_enough(errors, rows)
    assert_nothing_is_cropped(picture)
    curve, above, below = picture.axes
    assert [list(line.get_ydata()) for line in curve.lines] == [[0.1, 0.05], [0.2, 0.01]]
    assert above.get_position().y0 > below.get_position().y0
    assert (above.get_title(), below.get_title()) == ("8 even", "4 + 4")


# -------------------------------------------------------------------- no traces
def test_style_stays_as_it_was(ball):
    before = dict(matplotlib.rcParams)
    drawings.world_and_camera(Camera.cat([CAMERA]), quadrants(), ball)
    drawings.depth_two_ways(CAMERA, resolution=4)
    assert dict(matplotlib.rcParams) == before


def test_edges_of_a_cube():
    edges = drawings._cube(2.0)
    assert len(edges) == 12
    assert all((a - b).norm() == 2.0 for a, b in edges)


def test_polygons_leave_no_seams(stage):
    stage.picture(quadrants(), CAMERA, 1.0)
    (cells,) = stage.axes.collections
    assert isinstance(cells, PolyCollection)
    assert (cells.get_edgecolor() == cells.get_facecolor()).all() and cells.get_linewidth()[0] > 0


# -------------------------------------------------------------------- tri-planes
def test_names_of_the_planes():
    assert drawings.axis_names(plane_axes("released")) == [("x", "y"), ("x", "z"), ("z", "x")]
    assert drawings.axis_names(plane_axes("corrected")) == [("x", "y"), ("x", "z"), ("z", "y")]
    with pytest.raises(ValueError, match="have names"):
        drawings.axis_names(-plane_axes("released"))


def test_one_feature_has_one_colour_on_all_planes():
    basis = torch.eye(6)
    labels = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    planes = torch.stack([basis[labels], basis[labels.flip(0)], basis[labels.flip(1)]]).permute(0, 3, 1, 2)
    planes = planes * torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0]).reshape(6, 1, 1)
    colours = drawings.principal_colours(planes)
    assert colours.shape == (3, 8, 8, 3)
    assert (colours[0] == colours[1, ::-1]).all()
    assert (colours[0] == colours[2, :, ::-1]).all()
    assert len({tuple(c) for c in colours.reshape(-1, 3)}) == 4


def test_points_are_marked_where_they_project():
    camera, axes = orbit(0.3, 0.1), plane_axes("released")
    points = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([-0.2, 0.0, 0.1])}
    planes = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = drawings.planes_of_head(planes, axes, points, flat_image(0.0, 0.0, 0.0), camera)
    assert_nothing_is_cropped(picture)
    dots = [[line.get_xydata()[0].tolist() for line in panel.lines] for panel in picture.axes]
    uv, _ = camera.project(torch.stack(list(points.values()))[None])
    assert dots[0] == [pytest.approx(place) for place in uv[0].tolist()]
    assert dots[1][0] == pytest.approx([0.1, 0.2])
    assert dots[2][0] == pytest.approx([0.1, 0.3])
    assert dots[3][0] == pytest.approx([0.3, 0.1])


@pytest.mark.parametrize("point", [(0.1, -0.2, 0.25), (-0.07, 0.11, 0.0)])
def test_areas_of_the_lookup_are_its_weights(point):
    texels = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).mul(50).round()
    picture = drawings.lookup_drawing(plane_axes("corrected"), point, texels)
    assert_nothing_is_cropped(picture)
    grid = picture.axes[1]
    areas = {rgb(area): area.get_width() * area.get_height() for area in grid.patches}
    values = {rgb(t.get_bbox_patch()): float(t.get_text()) for t in grid.texts if t.get_bbox_patch()}
    mixed = sum(abs(area) * values[colour] for colour, area in areas.items())
    planes = torch.stack([texels, 0 * texels, 0 * texels])[None, :, None]
    looked_up = sample_planes(planes, torch.tensor([[point]]), plane_axes("corrected"), 1.0)
    assert mixed == pytest.approx(3 * looked_up.item(), abs=1e-3)  # the mean of the three planes


def rgb(patch):
    return tuple(patch.get_facecolor()[:3])


def test_planes_of_every_convention_fit_in_the_drawing():
    conventions = {name: plane_axes(name) for name in ("released", "corrected")}
    picture = drawings.plane_drawings(conventions, (0.1, 0.2, 0.3))
    assert_nothing_is_cropped(picture)
    named = [[word for word in words(room) if word] for room in picture.axes]
    assert named[2] == ["u = z", "v = x"]
    assert named[5] == ["u = z", "v = y"]
    point, foot = (line.get_xydata()[0] for line in picture.axes[1].lines[-2:])
    assert point[0] == pytest.approx(foot[0], abs=2e-3)  # below it, as the floor is plane 1
    assert foot[1] > point[1]


def test_slices_stand_upright_and_share_zero():
    rows = torch.tensor([-1.0, 0.0, 2.0]).repeat_interleave(4)[:, None].expand(12, 12)
    picture = drawings.slices({"a": rows, "b": rows}, (-1, 1, -1, 1), ("z", "y"), ["="], level=1.0)
    assert_nothing_is_cropped(picture)
    pixels = drawn(picture).astype(int)
    box = picture.axes[0].get_position()
    x = int((box.x0 + box.x1) / 2 * pixels.shape[1])
    bottom, middle, top = (
        pixels[int((1 - box.y0 - share * box.height) * pixels.shape[0]), x] for share in (0.1, 0.5, 0.9)
    )
    assert bottom[2] > bottom[0] + 50  # blue below zero
    assert top[0] > top[2] + 50  # red above
    assert abs(middle[0] - middle[2]) < 10
    assert len(picture.axes[1].collections) == 1  # the line at the level


# -------------------------------------------------------------------- a stack machine
def test_stacks_grow_upwards_and_the_call_is_red():
    picture = drawings.stack_drawing(
        [("PUSH", ["a"]), ("PUSH", ["a", "b"]), ("CALL", ["c"])], alarming="CALL"
    )
    assert_nothing_is_cropped(picture)
    places = {text.get_text(): text.get_position() for text in picture.axes[0].texts}
    assert places["b"][1] > places["a"][1]
    assert places["c"][0] > places["b"][0]
    boxes = picture.axes[0].patches
    assert [rgb(box) == rgb(boxes[0]) for box in boxes] == [True, True, True, False]
