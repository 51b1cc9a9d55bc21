"""Parametric heads: their truth is what is seen, they stand as photographed heads do, and true views agree."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install -e '.[heads]'")

from lib import faces
from lib.cameras import orbit
from lib.datasets import heads, makehuman
from lib.datasets.path_tracing import ColouredMesh, PathTracer
from lib.images import to_uint8
from lib.meshes import normals_from_depth, seen_points

RESOLUTION = 96


@dataclass(frozen=True)
class Views:
    """A generator, as far as these scenes ask it anything."""

    resolution: int = RESOLUTION

    def camera(self, yaw, pitch):
        return orbit(yaw, pitch)


@pytest.fixture(scope="module")
def scene():
    return heads.make(3, Views(), with_ellipse=False, samples=64)


def on_pixels(picture: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Values [N, C] of a picture [1, C, R, R] at image positions [N, 2], bilinearly."""
    grid = (2 * uv - 1)[None, None]
    return torch.nn.functional.grid_sample(picture, grid, align_corners=False, padding_mode="border")[
        0, :, 0
    ].T


def ray_triangle_distances(origin: np.ndarray, direction: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distances [m] at which a ray meets triangles [m, 3, 3]; inf where it does not (Cramer's rule)."""
    a, edge, other = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = np.cross(direction, other)
        scale = 1 / (edge * normal).sum(1)
        u = ((origin - a) * normal).sum(1) * scale
        across = np.cross(origin - a, edge)
        v = across @ direction * scale
        distance = (other * across).sum(1) * scale
    return np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0), distance, np.inf)


# ---- the truth is what is seen -----------------------------------------------------------------------------
def test_a_scene_has_the_views_that_every_scene_has(scene):
    assert {"yaw-0.6", "yaw-0.3", "yaw+0.0", "yaw+0.3", "yaw+0.6"} <= set(scene.views)
    assert scene.input is scene.views[scene.input_name]
    for view in scene.views.values():
        assert view.image.shape == (1, 3, RESOLUTION, RESOLUTION)
        assert view.image.abs().max() <= 1
        assert torch.equal(view.depth.isfinite(), view.mask)
        assert torch.equal(view.normals.isfinite().all(1, keepdim=True), view.mask)
        assert 0.3 < view.mask.float().mean() < 0.9


def test_depth_is_where_rays_meet_the_mesh(scene):
    """Against every triangle in turn, on some pixels of a turned view."""
    view = scene.views["yaw+0.6"]
    corners = scene.truth["vertices"][scene.truth["faces"].long()].double().numpy()
    origins, directions = (rays[0].double().numpy() for rays in view.camera.rays(RESOLUTION))
    depth = view.depth.flatten().numpy()
    pixels = np.random.default_rng(0).choice(depth.size, 40, replace=False)
    assert np.isfinite(depth[pixels]).sum() > 10
    for pixel in pixels:
        nearest = ray_triangle_distances(origins[pixel], directions[pixel], corners).min()
        assert np.isfinite(depth[pixel]) == np.isfinite(nearest)
        assert not np.isfinite(nearest) or depth[pixel] == pytest.approx(nearest, abs=1e-4)


def test_landmarks_are_seen_where_they_project(scene):
    """From the front nothing hides them, and the surface there is as far away as they are."""
    view, landmarks = scene.views["yaw+0.0"], scene.truth["landmarks"]
    uv = view.camera.project(landmarks[None])[0][0]
    column, row = (uv * RESOLUTION).long().T
    distance = (landmarks - view.camera.position).norm(dim=1)
    assert (view.depth[0, 0, row, column] - distance).abs().max() < 0.02


def test_left_is_left(scene):
    by_name = dict(zip(heads.NOW_LANDMARKS, scene.truth["landmarks"], strict=True))
    assert all(
        (point[0] > 0) == name.startswith("left") for name, point in by_name.items() if "nose" not in name
    )
    assert by_name["left eye, outer corner"][0] > by_name["left eye, inner corner"][0] > 0
    assert by_name["left eye, inner corner"][1] > by_name["nose base"][1] > by_name["left mouth corner"][1]


def test_normals_are_those_of_the_depth(scene):
    view = scene.views["yaw-0.3"]
    assert (view.normals.norm(dim=1)[view.mask[:, 0]] - 1).abs().max() < 1e-5
    _, directions = view.camera.rays(RESOLUTION)
    along = directions.transpose(1, 2).reshape_as(view.normals)
    assert ((view.normals * along).sum(1)[view.mask[:, 0]] <= 0).all()  # on the camera's side
    from_depth = normals_from_depth(view.camera, view.depth)
    cosine = (view.normals * from_depth).sum(1)
    assert cosine[cosine.isfinite()].quantile(0.5) > np.cos(np.radians(5))
    assert cosine[cosine.isfinite()].quantile(0.1) > np.cos(np.radians(40))


def test_true_views_agree_through_the_true_depth(scene):
    """One true view, warped into another by the true depth, is that other where both see the same point."""
    here, there = scene.views["yaw+0.3"], scene.views["yaw+0.0"]
    points = seen_points(here.camera, here.depth).reshape(-1, 3)
    points = points[here.mask.flatten()]
    uv = there.camera.project(points[None])[0][0]
    distance = (points - there.camera.position).norm(dim=1)
    visible = (on_pixels(there.depth, uv)[:, 0] - distance).abs() < 0.005
    error = (here.image[0, :, here.mask[0, 0]].T - on_pixels(there.image, uv)).abs()[visible] * 127.5
    assert visible.float().mean() > 0.6
    assert error.median() < 2  # of 255
    moved = on_pixels(there.image, uv + torch.tensor([3 / RESOLUTION, 0]))  # what three pixels would do
    astray = (here.image[0, :, here.mask[0, 0]].T - moved).abs()[visible] * 127.5
    assert astray.mean() > 1.5 * error.mean()


# ---- where and how large -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [1, 2])
def test_a_head_stands_where_an_aligned_photo_has_it(seed):
    """Seen under other light than when it was aligned."""
    rng = np.random.default_rng(seed)
    vertices_dm, colours = heads.random_shape(rng), heads.painted_by_rule(heads.Look.drawn(rng))
    world_from_dm, aligned_by = heads.as_photographed(vertices_dm, colours)
    assert aligned_by == "picture"
    mesh = ColouredMesh(world_from_dm(vertices_dm), makehuman.fine_triangles(), colours)
    picture = PathTracer(mesh, heads.random_light(rng)).picture(orbit(0.0, 0.0), 256, samples=9)
    (found,) = faces.FaceDetector()(to_uint8(picture)[0])
    pose = faces.head_pose(found.landmarks)
    assert abs(pose.yaw) < 0.06 and abs(pose.pitch) < 0.1
    crop = faces.Crop.of(pose)
    assert crop.side == pytest.approx(256, rel=0.05)
    assert np.abs(crop.matrix @ [0.5, 0.5, 1] - 128).max() < 8


def test_lengths_are_those_of_people(scene):
    millimetres = scene.truth["landmarks"] * scene.truth["millimetres_per_unit"]
    right, inner_right, inner_left, left, *_ = millimetres
    assert 70 < (left - right).norm() < 105
    assert 22 < (inner_left - inner_right).norm() < 45
    average = heads._average()[0][heads.landmark_vertices()[[33, 263]]]
    scale = heads.like_average(heads.average_head()).scale
    assert 78 < 100 / scale * np.linalg.norm(average[0] - average[1]) < 100


def test_a_similarity_after_another_does_both():
    rng = np.random.default_rng(0)
    turn, other = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    first = heads.Similarity(0.5, turn, rng.normal(size=3))
    second = heads.Similarity(3.0, other, rng.normal(size=3))
    points = rng.normal(size=(5, 3))
    assert np.allclose(second.after(first)(points), second(first(points)))


# ---- seeds -------------------------------------------------------------------------------------------------
def test_the_same_seed_gives_the_same_scene():
    first, again = (heads.make(5, Views(16), with_ellipse=False, samples=4) for _ in range(2))
    assert first.extras == again.extras
    for name, view in first.views.items():
        for field in ("image", "depth", "normals", "mask"):
            assert torch.equal(
                getattr(view, field).nan_to_num(), getattr(again.views[name], field).nan_to_num()
            )
    assert all(torch.equal(first.truth[name], again.truth[name]) for name in first.truth)


def test_another_seed_gives_another_head():
    one, other = (np.random.default_rng(seed) for seed in (0, 1))
    assert np.abs(heads.random_shape(one) - heads.random_shape(other)).max() > 0.05
    assert np.abs(heads.Look.drawn(one).skin - heads.Look.drawn(other).skin).max() > 0.02
    assert np.abs(heads.random_light(one) - heads.random_light(other)).mean() > 0.05


# ---- colours -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def look():
    return heads.Look.drawn(np.random.default_rng(0))


def test_regions_lie_where_their_landmarks_are():
    rest, shares, marks = heads.rest_positions(), heads.regions(), heads.landmark_vertices()
    assert shares["mouth"][marks[[12, 15]]].min() > 0.8  # middles of the lips
    assert shares["brows"][marks[[105, 334]]].min() > 0.1
    assert shares["face"][marks[[1, 205, 425]]].min() > 0.95
    assert all(shares[part][rest[:, 2] < -2].max() < 0.01 for part in ("mouth", "brows", "face"))
    ears = rest[shares["ears"] > 0.5]
    assert (np.abs(ears[:, 0]) > 4).all() and (ears[:, 0] > 0).any() and (ears[:, 0] < 0).any()


def test_pupils_are_on_the_eyes_axes(look):
    """The eyes of the mesh at rest look along +z."""
    colours, rest = heads.painted_by_rule(look), heads.average_head()
    for side in ("left eye", "right eye"):
        eye = makehuman.part_mask(side)
        darkest = rest[eye][colours[eye].sum(1).argsort()[:20]]
        centre = (rest[eye].min(0) + rest[eye].max(0)) / 2
        radius = np.linalg.norm(rest[eye] - centre, axis=1).mean()
        assert (darkest[:, 2] > centre[2] + 0.9 * radius).all()


def test_hair_grows_on_the_scalp_alone(look):
    rest = heads.rest_positions() * heads.WORLD_PER_CM
    shaved, long = (heads.replace(look, hair=length) for length in (0.0, 2.0))
    assert np.array_equal(heads.grown_hair(rest, shaved), rest)
    grown = heads.grown_hair(rest, long) - rest
    above = heads.above_hairline(long.hairline)
    assert not grown[above < 0].any()
    assert (np.linalg.norm(grown[above > 5], axis=1) > 0.1).mean() > 0.9
    outward = (grown * heads.vertex_normals(rest)).sum(1)
    assert (outward[above > 5] > 0).mean() > 0.99


def test_waves_have_unit_variance():
    points = np.random.default_rng(0).uniform(-50, 50, (20000, 3))
    assert heads._waves(points, 2.0, np.random.default_rng(1)).std() == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """The average head from the front."""
    mesh = ColouredMesh(
        heads.rest_positions() * heads.WORLD_PER_CM, makehuman.fine_triangles(), heads.plain_colours()
    )
    return to_uint8(PathTracer(mesh, heads.studio_light()).picture(orbit(0.0, 0.0), 256, samples=4))[0]


def test_a_portrait_lies_on_the_side_where_it_shows_it(look, photo):
    tinted = photo.copy()
    tinted[:, 128:, 1:] //= 2  # the right of the picture in red
    colours = heads.painted_by_portrait(look, tinted)
    red = colours[:, 0] / colours[:, 1].clip(min=1e-3)
    left, right = red[heads.landmark_vertices()[[425, 205]]]  # the person's cheeks
    assert left > 2 * right


def test_features_of_a_portrait_lie_on_those_of_the_head(look, photo):
    """A dot on a landmark of a photo of other proportions comes to lie on that landmark of the mesh."""
    stretch = (1.2, 0.05, -30, 0, 1.1, -5)
    photo = np.asarray(Image.fromarray(photo).transform((256, 256), Image.Transform.AFFINE, stretch))
    (found,) = faces.FaceDetector()(photo)
    numbers = [4, 205, 425]
    dotted = photo.copy()
    for x, y, _ in found.landmarks[numbers].astype(int):
        dotted[y - 1 : y + 2, x - 1 : x + 2] = (0, 255, 0)
    with_dots, without = (heads.painted_by_portrait(look, picture) for picture in (dotted, photo))
    changed = heads.rest_positions()[np.abs(with_dots - without)[:, 1] > 0.15]
    for mark in heads.landmark_vertices()[numbers]:
        assert np.linalg.norm(changed - heads.rest_positions()[mark], axis=1).min() < 0.6  # centimetres


def test_an_unknown_texture_is_refused():
    with pytest.raises(ValueError, match='"procedural" or "portrait", got \'marble\''):
        heads.make(0, Views(16), texture="marble")


def test_an_unknown_portrait_is_refused():
    with pytest.raises(ValueError, match="got 'me'"):
        heads.make(0, Views(16), texture="portrait", portrait="me")


def test_only_samples_worn_depend_on_the_generator():
    photo = np.zeros((8, 8, 3), np.uint8)
    shown = {
        ("procedural", "sample"): False,
        ("portrait", "astronaut"): False,
        ("portrait", "sample"): True,
    }
    for (texture, portrait), expected in shown.items():
        assert heads.shows_generator({"texture": texture, "portrait": portrait}) is expected
    assert not heads.shows_generator({"texture": "portrait", "portrait": photo})


# ---- light -------------------------------------------------------------------------------------------------
def test_light_exposes_every_face_alike():
    for seed in range(5):
        light = heads.random_light(np.random.default_rng(seed))
        front = light[heads.sky_directions(heads.SKY_HEIGHT)[..., 2] > 0]
        assert (light >= 0).all() and np.isfinite(light).all()
        assert 0.8 < heads.irradiance(light, np.array([0.0, 0.0, 1.0])).mean() < 1.3
        assert front.max() > 2 * np.median(front)


def test_a_portrait_is_lit_more_evenly():
    strong, weak = (heads.random_light(np.random.default_rng(1), contrast) for contrast in (1.0, 0.2))
    assert strong.max() / np.median(strong) > 2 * weak.max() / np.median(weak)


def test_colours_are_shares_of_light(look):
    colours = heads.painted_by_rule(look)
    assert colours.min() >= 0 and colours.max() <= 1
