import dataclasses
import json

import numpy as np
import pytest
import torch

from lib import faces, paths
from lib.cameras import FOCAL, Camera, orbit
from lib.datasets import (
    LatentSpace,
    Plan,
    PoseDirections,
    load_portraits,
    load_unposed_portraits,
    portraits,
)
from lib.generators.teacher import before_activation

# ----------------------------------------------------------------------
# Pose in the style space. Styles with a known covariance and poses that are a known linear function of them.

SIZE = 7


def uncorrelated(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Samples [n, size] whose mean is 0 and whose second moments are the identity, exactly."""
    noise = np.random.default_rng(seed).standard_normal((n, size))
    return np.linalg.qr(noise - noise.mean(0))[0] * np.sqrt(n)


@pytest.fixture(scope="module")
def linear_world() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((SIZE, SIZE))
    mean, gradient, intercept = (
        rng.standard_normal(SIZE),
        rng.standard_normal((2, SIZE)),
        np.array([0.03, -0.11]),
    )
    centred = uncorrelated(400, SIZE) @ mixing.T
    return {
        "styles": mean + centred,
        "poses": intercept + centred @ gradient.T,
        "mean": mean,
        "covariance": mixing @ mixing.T,
        "gradient": gradient,
        "intercept": intercept,
    }


@pytest.fixture(scope="module")
def directions(linear_world) -> PoseDirections:
    return PoseDirections.fit(linear_world["styles"], linear_world["poses"], ridge=1e-12)


def test_pose_is_measured_by_regression_and_moved_along_the_covariance(linear_world, directions):
    covariance = linear_world["gradient"] @ linear_world["covariance"]
    unit = covariance / np.linalg.norm(covariance, axis=1, keepdims=True)
    assert directions.regression == pytest.approx(linear_world["gradient"], abs=1e-8)
    assert directions.directions == pytest.approx(unit, abs=1e-8)
    assert directions.mean == pytest.approx(linear_world["mean"])
    assert directions.pose(linear_world["styles"]) == pytest.approx(linear_world["poses"], abs=1e-8)


def test_ridge_shrinks_the_regression_relative_to_the_mean_variance():
    """Of uncorrelated styles of variance v the ridge solution is v / (v + ridge v) times the gradient."""
    styles = 3 * uncorrelated(200, SIZE)
    gradient = np.arange(2.0 * SIZE).reshape(2, SIZE) - 5
    fitted = PoseDirections.fit(styles, styles @ gradient.T, ridge=0.25)
    assert fitted.regression == pytest.approx(gradient / 1.25)


def test_moved_styles_have_the_pose_that_was_asked_for(linear_world, directions):
    wanted = np.random.default_rng(2).uniform(-1, 1, (len(linear_world["styles"]), 2))
    moved = directions.move(linear_world["styles"], wanted)
    assert (moved - linear_world["mean"]) @ linear_world["gradient"].T + linear_world[
        "intercept"
    ] == pytest.approx(wanted, abs=1e-8)
    assert directions.move(moved[3], wanted[3]) == pytest.approx(moved[3])


def test_moving_keeps_all_that_is_orthogonal_to_the_directions(linear_world, directions):
    step = directions.move(linear_world["styles"], np.array([0.4, 0.1])) - linear_world["styles"]
    across = np.eye(SIZE) - np.linalg.pinv(directions.directions) @ directions.directions
    assert np.abs(step).max() > 0.1
    assert step @ across == pytest.approx(np.zeros_like(step), abs=1e-9)


def test_the_canonical_style_is_the_same_from_every_view_of_a_person(linear_world, directions):
    person = linear_world["styles"][:5]
    code = directions.canonical(person)
    turned = directions.move(person, np.array([0.6, -0.2]))
    assert directions.pose(code) == pytest.approx(
        np.tile([0.0, linear_world["intercept"][1]], (5, 1)), abs=1e-8
    )
    assert directions.canonical(turned) == pytest.approx(code)
    assert np.ptp(code, axis=0).min() > 1e-3  # people stay apart


def test_pose_directions_survive_the_file(directions, tmp_path):
    directions.save(tmp_path / "new" / "directions.npz")
    loaded = PoseDirections.load(tmp_path / "new" / "directions.npz")
    for name, value in vars(directions).items():
        assert np.array_equal(getattr(loaded, name), value), name


# ----------------------------------------------------------------------
# The plan

PLAN = Plan(singles=6, people=4, views=3, held_out_singles=2, held_out_people=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": 1}, "views of at least 2; got 1"),
        ({"singles": 3, "held_out_singles": 2}, "singles of at least 4; got 3"),
        ({"people": 0}, "people of at least 1"),
        ({"held_out_people": -1}, "held_out_people of at least 0"),
        ({"largest_yaw": 0.0}, "largest_yaw > 0"),
        ({"pitch_spread": -0.1}, "pitch_spread >= 0"),
        ({"truncation": 0.0}, "truncation in"),
    ],
)
def test_plans_that_cannot_be_drawn_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Plan(**wrong)


def test_held_out_people_are_seen_at_even_yaws_and_mean_pitch():
    plan = Plan(people=10, held_out_people=3, singles=5002)
    for person in (7, 8, 9):
        poses = plan.target_poses(person, mean_pitch=-0.1)
        assert poses[:, 0] == pytest.approx([-0.6, -0.3, 0.0, 0.3, 0.6])
        assert poses[:, 1] == pytest.approx([-0.1] * 5)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_training_people_are_seen_once_in_each_interval_of_yaw(views):
    plan = Plan(people=303, held_out_people=3, views=views, largest_yaw=0.6)
    poses = np.stack([plan.target_poses(person, mean_pitch=-0.1) for person in range(300)])
    edges = np.linspace(-0.6, 0.6, views + 1)
    assert (poses[..., 0] > edges[:-1]).all()
    assert (poses[..., 0] < edges[1:]).all()
    share = (poses[..., 0] - edges[:-1]) / np.diff(edges)  # anywhere in it
    assert np.histogram(share, 4, (0, 1))[0] == pytest.approx(np.full(4, share.size / 4), rel=0.25)
    assert len(np.unique(poses[..., 0])) == poses[..., 0].size  # each in an own way
    assert (poses[..., 1] + 0.1).std() == pytest.approx(plan.pitch_spread, rel=0.15)


def test_target_poses_depend_on_seed_and_person_alone():
    assert np.array_equal(PLAN.target_poses(1, 0.0), PLAN.target_poses(1, 0.0))
    assert not np.allclose(PLAN.target_poses(1, 0.0), dataclasses.replace(PLAN, seed=1).target_poses(1, 0.0))
    more = dataclasses.replace(PLAN, people=40)
    assert np.array_equal(PLAN.target_poses(1, 0.0), more.target_poses(1, 0.0))


# ----------------------------------------------------------------------
# The student's latent. A known Gaussian, the activation and the truncation play the teacher's mapping.

TRUNCATION = 0.8


def teacher_codes(linear: np.ndarray, mean_style: np.ndarray) -> np.ndarray:
    style = np.sqrt(2) * np.where(linear < 0, 0.2 * linear, linear)
    return mean_style + TRUNCATION * (style - mean_style)


@pytest.fixture(scope="module")
def gaussian_people() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    size = 6
    mean, mixing, mean_style = (
        rng.standard_normal(size),
        rng.standard_normal((size, size)),
        rng.standard_normal(size),
    )
    linear = mean + rng.standard_normal((3000, size)) @ mixing.T
    return {"linear": linear, "codes": teacher_codes(linear, mean_style), "mean_style": mean_style}


def test_activation_is_undone():
    linear = np.linspace(-3, 3, 13)
    assert before_activation(np.sqrt(2) * np.where(linear < 0, 0.2 * linear, linear)) == pytest.approx(linear)


def test_latents_of_people_are_white(gaussian_people):
    space = LatentSpace.fit(gaussian_people["codes"], gaussian_people["mean_style"], TRUNCATION, z_dim=6)
    z = space.z(gaussian_people["codes"])
    assert z.mean(0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert np.cov(z, rowvar=False) == pytest.approx(np.eye(6), abs=1e-9)


def test_latent_axes_are_the_leading_principal_axes_before_activation_and_truncation(gaussian_people):
    space = LatentSpace.fit(gaussian_people["codes"], gaussian_people["mean_style"], TRUNCATION, z_dim=3)
    linear = gaussian_people["linear"]
    variances, axes = np.linalg.eigh(np.cov(linear, rowvar=False))
    assert space.mean == pytest.approx(linear.mean(0))
    assert space.deviation == pytest.approx(np.sqrt(variances[::-1][:3]))
    assert space.basis.shape == (6, 3)
    assert np.abs(axes[:, ::-1][:, :3].T @ space.basis) == pytest.approx(np.eye(3), abs=1e-6)


def test_new_people_are_whitened_with_the_numbers_of_the_fit(gaussian_people):
    space = LatentSpace.fit(gaussian_people["codes"], gaussian_people["mean_style"], TRUNCATION, z_dim=6)
    stranger = np.array([0.3, -1.0, 0.2, 2.0, -0.4, 0.1])
    code = teacher_codes(stranger, gaussian_people["mean_style"])
    rebuilt = space.mean + (space.z(code[None])[0] * space.deviation) @ space.basis.T
    assert rebuilt == pytest.approx(stranger)


# ----------------------------------------------------------------------
# Pictures and depth


def test_area_reduction_against_loops():
    images = np.random.default_rng(4).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    reduced = portraits.area_reduce(images, 2)
    assert reduced.dtype == np.uint8
    for n, row, column, channel in np.ndindex(2, 2, 2, 3):
        block = [int(images[n, 3 * row + a, 3 * column + b, channel]) for a in range(3) for b in range(3)]
        assert reduced[n, row, column, channel] == round(sum(block) / 9)


def test_area_reduction_refuses_a_resolution_that_does_not_divide():
    with pytest.raises(ValueError, match="stored at 6 px; 4 px does not divide"):
        portraits.area_reduce(np.zeros((1, 6, 6, 3), np.uint8), 4)


def test_face_depth_is_stored_along_the_rays_of_the_camera(monkeypatch):
    """A face that is a plane and fills the right half: points at the stored depths lie in it."""

    def plane(landmarks, head_origin_z, resolution):
        depth_z = np.full((resolution, resolution), landmarks[0, 2] - head_origin_z)
        depth_z[:, : resolution // 2] = np.nan
        return depth_z

    monkeypatch.setattr(faces, "face_depth", plane)
    shard = {"landmarks": np.full((2, 478, 3), 3.0), "head_origin_z": np.array([0.5, 0.25])}
    depths = portraits.ray_depths(shard, 8)
    assert depths.dtype == np.float32
    camera = orbit(torch.tensor([0.3, -0.5]), torch.tensor([0.1, 0.2]))
    origins, rays = camera.rays(8)
    points = origins + torch.from_numpy(depths).reshape(2, 64, 1) * rays
    depth_z = camera.project(points)[1].reshape(2, 8, 8)
    assert depth_z[:, :, :4].isnan().all()
    assert depth_z[0, :, 4:].numpy() == pytest.approx(np.full((8, 4), 2.5), abs=1e-5)
    assert depth_z[1, :, 4:].numpy() == pytest.approx(np.full((8, 4), 2.75), abs=1e-5)


def test_pixels_beyond_the_border_are_not_inside():
    """A square twice as large as the picture and centred on it, and one moved right by half of it, turned upright."""
    squares = np.array([[[2.0, 0, -0.5], [0, 2, -0.5]], [[1, 0, 0.5], [0, 1, 0]], [[0, 1, 0], [-1, 0, 1]]])
    inside = portraits.inside_picture(squares.astype(np.float32), 4)
    middle = np.zeros((4, 4), bool)
    middle[1:3, 1:3] = True
    assert np.array_equal(inside[0], middle)
    assert np.array_equal(inside[1], np.tile([True, True, False, False], (4, 1)))
    assert inside[2].all()
    below = portraits.inside_picture(squares.astype(np.float32), 4, below=True)
    assert np.array_equal(below[0], middle | np.array([[False], [False], [False], [True]]) & middle[1])
    assert np.array_equal(below[1:], inside[1:])


# ----------------------------------------------------------------------
# Detection: sound faces become rows, all else is left out


def head_pose(yaw: float = 0.3, pitch: float = -0.1, residual: float = 0.4) -> faces.HeadPose:
    world_from_cam = orbit(yaw, pitch).world_from_cam[0, :3, :3].double().numpy()
    rotation = (world_from_cam * [1, -1, -1]).T  # view axes: x right, y up, z to the viewer
    return faces.HeadPose(rotation, scale=4.0, origin=np.array([128.0, -128.0, -30.0]), residual=residual)


def detect(monkeypatch, pose: faces.HeadPose, found: bool = True) -> dict[str, np.ndarray] | None:
    landmarks = np.random.default_rng(5).uniform(0, 256, (478, 3))
    monkeypatch.setattr(faces, "head_pose", lambda landmarks: pose)
    picture = np.random.default_rng(6).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return portraits.detect_portrait(picture, lambda picture: [faces.DetectedFace(landmarks, {})] * found)


def test_a_sound_face_becomes_a_portrait(monkeypatch):
    portrait = detect(monkeypatch, head_pose(0.3, -0.1))
    camera = Camera.from_label(torch.from_numpy(portrait["label"])[None])
    assert (camera.yaw.item(), camera.pitch.item()) == pytest.approx((0.3, -0.1), abs=1e-5)
    assert portrait["pose"] == pytest.approx([0.3, -0.1, 0.0, 0.4], abs=1e-5)
    assert portrait["image"].shape == (128, 128, 3)
    assert portrait["landmarks"].shape == (478, 3)
    corners = portrait["square"] @ np.array([[0, 0, 1], [1, 1, 1]]).T  # of the crop, in a unit picture
    assert corners.mean(1) == pytest.approx([0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize(
    "pose",
    [
        head_pose(residual=1.1),
        head_pose(yaw=1.1),
        head_pose(yaw=-1.1),
        head_pose(pitch=0.8),
        head_pose(pitch=-0.8),
    ],
    ids=["bad fit", "right", "left", "up", "down"],
)
def test_failed_detections_are_no_portraits(monkeypatch, pose):
    assert detect(monkeypatch, pose) is None


def test_a_picture_without_a_face_is_no_portrait(monkeypatch):
    assert detect(monkeypatch, head_pose(), found=False) is None


def test_shards_hold_every_portrait_once(tmp_path):
    n = 2 * portraits.SHARD_SIZE + 3
    index = np.arange(n)
    shards = portraits._shards(tmp_path, "single", index, 10 * index, 20 * index, 30 * index)
    assert len({shard[0] for shard in shards}) == len(shards) == 3
    for factor, column in zip((1, 10, 20, 30), range(1, 5), strict=True):
        assert np.array_equal(np.concatenate([shard[column] for shard in shards]), factor * index)


def test_a_rejected_portrait_takes_its_whole_row_along(monkeypatch, tmp_path):
    class Teacher:
        def picture(self, style):
            return style

    monkeypatch.setitem(portraits._worker, "teacher", Teacher())
    monkeypatch.setitem(portraits._worker, "detector", None)
    monkeypatch.setattr(
        portraits, "detect_portrait", lambda picture, _: None if picture[0] == 1 else {"image": picture * 100}
    )
    styles = np.arange(4.0)[:, None]
    path = tmp_path / "person-000000.npz"
    drawn = portraits._make_shard((path, styles, styles + 10, np.arange(4) + 20, np.tile(styles + 30, 2)))
    assert drawn == 4
    with np.load(path) as shard:
        assert shard["style"][:, 0].tolist() == [0, 2, 3]
        assert shard["image"][:, 0].tolist() == [0, 200, 300]
        assert shard["code"][:, 0].tolist() == [10, 12, 13]
        assert shard["person"].tolist() == [20, 22, 23]
        assert shard["target"][:, 1].tolist() == [30, 32, 33]


# ----------------------------------------------------------------------
# Files


@pytest.fixture
def cached(monkeypatch, tmp_path, directions) -> dict[str, np.ndarray]:
    """A folder of portraits as sampling leaves it, a few rejected; returns the rows that were written."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(
        faces, "face_depth", lambda landmarks, origin, size: np.full((size, size), float(origin))
    )
    folder = tmp_path / PLAN.name()
    rng = np.random.default_rng(7)
    kind = np.array(["person"] * PLAN.people * PLAN.views + ["single"] * PLAN.singles)
    n = len(kind)
    person = np.concatenate([np.repeat(np.arange(PLAN.people), PLAN.views), np.arange(PLAN.singles)])
    codes = directions.canonical(rng.standard_normal((PLAN.people, SIZE)))
    styles = directions.move(codes[person[kind == "person"]], rng.uniform(-0.5, 0.5, (n - PLAN.singles, 2)))
    singles = rng.standard_normal((PLAN.singles, SIZE))
    rows = {
        "image": np.repeat(rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8), 32, axis=1).repeat(32, axis=2),
        "label": rng.standard_normal((n, 25)).astype(np.float32),
        "pose": rng.standard_normal((n, 4)).astype(np.float32),
        "landmarks": np.zeros((n, 4, 3), np.float32),
        "head_origin_z": rng.uniform(2.5, 2.9, n).astype(np.float32),
        "square": np.tile(np.array([[1, 0, 0.5], [0, 1, 0]], np.float32), (n, 1, 1)),
        "style": np.concatenate([styles, singles]),
        "code": np.concatenate([codes[person[kind == "person"]], singles]),
        "person": person,
        "target": np.where((kind == "single")[:, None], np.nan, rng.standard_normal((n, 2))),
    }
    folder.mkdir()
    written = np.setdiff1d(
        np.arange(n), [4, 14]
    )  # one view of person 1 and one single portrait were rejected
    for name in ("person", "single"):
        for start, shard in enumerate(np.array_split(written[kind[written] == name], 2)):
            columns = {key: column[shard] for key, column in rows.items()}
            np.savez(folder / f"{name}-{start:06d}.npz", **columns)
    directions.save(folder / "pose_directions.npz")
    people = directions.canonical(rng.standard_normal((50, SIZE)))
    latents = LatentSpace.fit(people, np.zeros(SIZE), TRUNCATION, z_dim=4)
    np.savez(folder / "latents.npz", **vars(latents))
    (folder / "plan.json").write_text(json.dumps(vars(PLAN)))
    return {key: column[written] for key, column in rows.items()} | {"single": kind[written] == "single"}


def test_portraits_come_back_row_by_row(cached, directions):
    loaded = load_portraits(PLAN, resolution=4, depth_resolution=2)
    assert len(loaded) == len(cached["person"]) == 16
    assert np.array_equal(loaded.images, cached["image"][:, ::32, ::32])
    assert np.array_equal(loaded.labels, cached["label"])
    assert np.array_equal(loaded.yaw, cached["pose"][:, 0])
    assert np.array_equal(loaded.target_yaw, cached["target"][:, 0], equal_nan=True)
    assert np.isnan(loaded.target_yaw).tolist() == cached["single"].tolist()
    ray_length = np.sqrt(1 + 2 * (0.25 / FOCAL) ** 2)
    assert loaded.face_depth[:, 0, 0] == pytest.approx(cached["head_origin_z"] * ray_length)
    assert np.array_equal(loaded.inside, np.tile([True, True, False, False], (16, 4, 1)))
    latents = LatentSpace.load(paths.CACHE / PLAN.name() / "latents.npz")
    codes = np.where(cached["single"][:, None], directions.canonical(cached["style"]), cached["code"])
    assert loaded.z == pytest.approx(latents.z(codes).astype(np.float32), abs=1e-5)


def test_unposed_portraits_are_the_same_rows_without_what_was_detected(cached):
    loaded, unposed = load_portraits(PLAN, 4, 2), load_unposed_portraits(PLAN, 4)
    assert np.array_equal(unposed.images, loaded.images)
    assert np.array_equal(unposed.inside, loaded.inside)
    assert np.array_equal(unposed.held_out, loaded.held_out)
    assert np.array_equal(unposed.styles, cached["style"])
    assert np.array_equal(unposed.single, cached["single"])
    assert not {"labels", "yaw", "face_depth", "person"} & set(vars(unposed))


def test_people_are_held_out_whole(cached):
    loaded = load_portraits(PLAN, resolution=4, depth_resolution=2)
    single = cached["single"]
    assert set(loaded.person[loaded.held_out & ~single]) == {3}
    assert set(cached["person"][loaded.held_out & single]) == {4, 5}
    assert not set(loaded.person[loaded.held_out]) & set(loaded.person[~loaded.held_out])


def test_every_person_has_one_index_and_one_latent(cached):
    loaded = load_portraits(PLAN, resolution=4, depth_resolution=2)
    single = cached["single"]
    assert not set(loaded.person[single]) & set(loaded.person[~single])
    assert len(set(loaded.person[single])) == single.sum()
    latents = {person: loaded.z[loaded.person == person] for person in loaded.person}
    for z in latents.values():
        assert np.allclose(z, z[0])
    assert len(np.unique([z[0].round(4) for z in latents.values()], axis=0)) == len(latents) == 9


def test_rows_of_portraits_are_chosen_together(cached):
    loaded = load_portraits(PLAN, resolution=4, depth_resolution=2)
    chosen = loaded[loaded.held_out]
    assert len(chosen) == loaded.held_out.sum()
    for name, column in vars(chosen).items():
        assert np.array_equal(column, getattr(loaded, name)[loaded.held_out], equal_nan=True), name


def test_portraits_that_were_never_sampled_say_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m lib\.datasets"):
        load_portraits(PLAN)


def test_a_sampling_that_was_interrupted_is_not_loaded(cached):
    (paths.CACHE / PLAN.name() / "plan.json").unlink()
    with pytest.raises(FileNotFoundError, match="no complete portraits"):
        load_portraits(PLAN)
