"""Turned people, with a stand-in for the teacher: yaws are corrected, what is made up is marked, drift is measured."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib import faces, parsing
from lib.cameras import FOCAL, RADIUS, orbit
from lib.datasets import PoseDirections, Scene, View, drift, turned
from lib.datasets.portraits import CROP_RESOLUTION
from lib.datasets.scenes import YAWS, yaw_name
from lib.datasets.turned import MILLIMETRES, secant_step
from lib.faces import WORLD_PER_CM, canonical_mesh
from lib.images import to_tensor

SIZE = 4
DIRECTIONS = PoseDirections(
    mean=np.zeros(SIZE),
    directions=np.eye(2, SIZE),
    regression=np.eye(2, SIZE),
    intercept=np.array([0.0, 0.1]),
)
GENERATOR = SimpleNamespace(resolution=32)


# ---- a teacher whose pictures say how far the head is turned ----------------------------------------------


@dataclass
class StandIn:
    """Paints a style's yaw into the picture; the detector sees `seen` of it, or nothing."""

    seen: object
    pictures: int = 0

    def styles(self, z, truncation):
        return truncation * z[:, :SIZE]

    def picture(self, style):
        self.pictures += 1
        picture = np.full((64, 64, 3), 99, np.uint8)
        picture[0, 0] = round(100 * (style[0] + 1))
        return picture

    def portrait(self, picture, detector):
        yaw = self.seen(picture[0, 0, 0] / 100 - 1, self.pictures)
        if yaw is None:
            return None
        landmarks = np.column_stack([_head_on(yaw), np.zeros((478, 1))])[:, :3].astype(np.float32)
        return {
            "image": np.zeros((CROP_RESOLUTION, CROP_RESOLUTION, 3), np.uint8),
            "label": orbit(yaw, 0.1).label()[0].numpy(),
            "pose": np.array([yaw, 0.1, 0.0, 0.4], np.float32),
            "landmarks": landmarks,
            "head_origin_z": np.float32(0.25),
            "square": np.array(
                [[1.0, 0.0, -0.25], [0.0, 1.0, 0.0]], np.float32
            ),  # a quarter beside the picture
        }


def _head_on(yaw):
    """Landmarks (u, v) [478, 3] of the canonical mesh as the camera of this yaw sees them, z away from it."""
    vertices = canonical_mesh()[0] * WORLD_PER_CM
    uv, depth_z = orbit(yaw, 0.1).project(torch.tensor(vertices, dtype=torch.float32)[None])
    z = (depth_z[0] - RADIUS) * FOCAL / RADIUS
    return np.vstack([torch.column_stack([uv[0], z]).numpy(), np.zeros((10, 3))])


@pytest.fixture
def stand_in(monkeypatch):
    """Makes a stand-in with this way of seeing yaws and gives it."""

    def start(seen) -> StandIn:
        painter = StandIn(seen)
        monkeypatch.setattr(turned, "_models", lambda: (painter, None, DIRECTIONS))
        monkeypatch.setattr(turned, "detect_portrait", painter.portrait)
        return painter

    head = torch.zeros(1, len(parsing.CLASSES), 32, 32)
    head[:, parsing.CLASSES.index("hair"), :24] = 1.0
    head[:, parsing.CLASSES.index("background"), 24:] = 1.0
    monkeypatch.setattr(parsing, "class_probabilities", lambda image: head)
    return start


def test_views_are_detected_near_the_wanted_yaws_after_one_step(stand_in):
    """A person who turns by too little, and not about the middle: a line, which one secant step solves."""
    stand_in(lambda yaw, _: 0.8 * yaw + 0.06)
    scene = turned.make(3, GENERATOR)
    assert list(scene.views) == [yaw_name(yaw) for yaw in YAWS]
    assert scene.extras["detected_yaws"] == pytest.approx(YAWS, abs=0.006)  # pictures hold hundredths
    assert scene.extras["asked_yaws"] == pytest.approx([(yaw - 0.06) / 0.8 for yaw in YAWS], abs=0.01)
    for view, yaw in zip(scene.views.values(), scene.extras["detected_yaws"], strict=True):
        assert view.camera.yaw.item() == pytest.approx(
            yaw, abs=1e-5
        )  # the detected camera, not the wanted one


def test_a_person_who_is_not_found_is_replaced(stand_in):
    painter = stand_in(lambda yaw, pictures: yaw if pictures > 2 * len(YAWS) else None)
    scene = turned.make(3, GENERATOR)
    assert scene.extras["attempt"] == 2
    assert painter.pictures == 2 * len(YAWS) + 2 * len(YAWS)  # an unseen person costs one round


def test_a_person_who_does_not_turn_is_replaced(stand_in):
    limit = 0.6 - turned.FAR_FROM_WANTED - 0.05
    stand_in(lambda yaw, pictures: yaw if pictures > 2 * len(YAWS) else float(np.clip(yaw, -limit, limit)))
    assert turned.make(3, GENERATOR).extras["attempt"] == 1


def test_a_teacher_without_people_is_an_error(stand_in):
    stand_in(lambda yaw, _: None)
    with pytest.raises(RuntimeError, match="none of 20 people of seed 3 was found"):
        turned.make(3, GENERATOR)


def test_an_input_that_is_not_among_the_yaws_is_refused(stand_in):
    with pytest.raises(ValueError, match=r"got 0\.1 as the input's yaw"):
        turned.make(3, GENERATOR, input_yaw=0.1)


def test_the_same_seed_is_the_same_person(stand_in):
    codes = []
    painter = stand_in(lambda yaw, _: yaw)
    painter.styles = lambda z, truncation: codes.append(z) or truncation * z[:, :SIZE]
    for seed in (3, 3, 4):
        turned.make(seed, GENERATOR)
    assert np.array_equal(codes[0], codes[1])
    assert not np.allclose(codes[0], codes[2])


def test_what_lies_beyond_the_picture_is_not_known(stand_in):
    """The crop's left quarter is a reflection."""
    stand_in(lambda yaw, _: yaw)
    view = turned.make(3, GENERATOR).input
    columns = torch.arange(32) >= 8
    assert torch.equal(view.known, columns.expand(1, 1, 32, 32))
    assert not (view.mask & ~view.known).any()
    assert torch.equal(view.mask[0, 0, :, 8:], (torch.arange(32) < 24)[:, None].expand(32, 24))
    assert view.depth[~view.known].isnan().all()
    assert (~view.depth.isnan()).sum() > 50
    assert view.normals is None
    assert view.image.shape == (1, 3, 32, 32)


def test_the_depth_of_the_face_is_along_the_rays(stand_in, monkeypatch):
    monkeypatch.setattr(faces, "face_depth", lambda landmarks, origin, side: np.full((side, side), 2.5))
    stand_in(lambda yaw, _: yaw)
    view = turned.make(3, GENERATOR, input_yaw=0.3).input
    depth_z = (view.depth * view.camera.ray_cosines(32))[view.known]
    assert depth_z == pytest.approx(torch.full_like(depth_z, 2.5), abs=1e-5)


# ---- the secant step --------------------------------------------------------------------------------------


def test_secant_step_inverts_a_line_beyond_its_ends_too():
    asked = np.array([-0.6, -0.3, 0.0, 0.3, 0.6])
    found = secant_step([-0.9, -0.1, 0.25, 0.8], asked, 0.7 * asked - 0.05)
    assert found == pytest.approx([(yaw + 0.05) / 0.7 for yaw in (-0.9, -0.1, 0.25, 0.8)])


def test_secant_step_keeps_what_is_right_already():
    asked = np.array([-0.6, 0.0, 0.6])
    assert secant_step(asked, asked, asked) == pytest.approx(asked)


def test_secant_step_brings_a_curve_nearer():
    def curve(yaw):
        return np.tanh(1.3 * yaw) * 0.75

    asked = np.array(YAWS)
    corrected = curve(np.array(secant_step(YAWS, asked, curve(asked))))
    assert np.abs(corrected - YAWS).max() < 0.5 * np.abs(curve(asked) - YAWS).max()


def test_detections_that_coincide_lead_nowhere_far():
    (found,) = secant_step([0.3], np.array([0.0, 0.6]), np.array([0.1, 0.1]))
    assert abs(found) < 1


# ---- the shipped directions -------------------------------------------------------------------------------


def test_pose_directions_survive_the_shipped_file(monkeypatch, tmp_path):
    """Transposed arrays too, which lie in memory the other way round."""
    rng = np.random.default_rng(0)
    kept = PoseDirections(
        rng.standard_normal(512),
        rng.standard_normal((2, 512)),
        rng.standard_normal((512, 2)).T,
        rng.standard_normal(2),
    )
    monkeypatch.setattr(turned.paths, "CACHE", tmp_path)
    kept.save(tmp_path / turned.Plan().name() / "pose_directions.npz")
    path = turned.save_pose_directions(path=tmp_path / "directions.safetensors")
    assert path.stat().st_size < 20_000
    loaded = turned.load_pose_directions(path)
    for name, value in vars(kept).items():
        assert getattr(loaded, name) == pytest.approx(value, abs=1e-6), name
    assert {str(value.dtype) for value in load_file(path).values()} == {"torch.float32"}


def test_missing_directions_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_pose_directions"):
        turned.load_pose_directions(tmp_path / "none.safetensors")


# ---- drift ------------------------------------------------------------------------------------------------


def wall(yaw: float, colour, distance: float = 0.0, side: int = 24) -> View:
    """The plane z = 0, of one colour, moved away from the camera by a distance along the rays."""
    camera = orbit(yaw, 0.0)
    origins, directions = camera.rays(side)
    depth = (-origins[..., 2] / directions[..., 2]).reshape(1, 1, side, side)
    image = torch.tensor(colour).reshape(1, 3, 1, 1).expand(1, 3, side, side)
    return View(image, camera, depth + distance, mask=torch.ones(1, 1, side, side, dtype=torch.bool))


def walls(other: View) -> Scene:
    return Scene("wall", "yaw+0.0", {"yaw+0.0": wall(0.0, (0.0, 0.0, 0.0)), "yaw+0.3": other})


def test_views_of_one_thing_do_not_drift():
    found = drift(walls(wall(0.3, (0.0, 0.0, 0.0))))
    assert found.keys() == {"yaw+0.3"}
    assert found["yaw+0.3"] == pytest.approx(
        {"turn": 0.3, "mse": 0.0, "colour": 0.0, "depth_mm": 0.0}, abs=0.05
    )


def test_a_change_of_colour_is_measured():
    found = drift(walls(wall(0.3, (0.2, -0.1, 0.4))))["yaw+0.3"]
    assert found["mse"] == pytest.approx((0.04 + 0.01 + 0.16) / 3, abs=1e-5)
    assert found["colour"] == pytest.approx(((0.04 + 0.01 + 0.16) / 3) ** 0.5, abs=1e-5)


def test_disagreeing_depths_are_measured_in_millimetres():
    found = drift(walls(wall(0.3, (0.0, 0.0, 0.0), distance=0.01)))["yaw+0.3"]
    assert MILLIMETRES == 400
    assert found["depth_mm"] == pytest.approx(4.0, abs=0.2)


def test_views_without_common_pixels_have_no_number():
    other = wall(0.3, (0.0, 0.0, 0.0))
    unknown = replace(other, depth=torch.full_like(other.depth, torch.nan))
    found = drift(walls(unknown))["yaw+0.3"]
    assert np.isnan([found[name] for name in ("mse", "colour", "depth_mm")]).all()


def test_only_the_head_counts():
    """Half of the other view is background of another colour."""
    other = wall(0.3, (0.0, 0.0, 0.0))
    image, mask = other.image.clone(), other.mask.clone()
    image[..., :12], mask[..., :12] = 1.0, False
    assert drift(walls(replace(other, image=image)))["yaw+0.3"]["mse"] > 0.3
    assert drift(walls(replace(other, image=image, mask=mask)))["yaw+0.3"]["mse"] < 0.02


def test_what_another_surface_hides_does_not_count():
    other = wall(0.3, (0.5, 0.5, 0.5))
    nearer = other.depth.clone()
    nearer[..., :12] -= 0.3
    image = other.image.clone()
    image[..., :12] = -1.0
    found = drift(walls(replace(other, image=image, depth=nearer)))["yaw+0.3"]
    assert found["mse"] == pytest.approx(0.25, abs=0.03)


def test_identity_is_asked_of_the_input_and_each_view():
    scene = walls(wall(0.3, (0.2, 0.0, 0.0)))
    found = drift(scene, lambda one, other: float(other.image.mean() - one.image.mean()))
    assert found["yaw+0.3"]["identity"] == pytest.approx(0.2 / 3, abs=1e-6)


def test_a_moved_face_is_the_same_and_a_changed_one_is_not():
    face, other = _head_on(0.0), _head_on(0.0)
    turn = orbit(0.3, 0.0).rotation[0].double().numpy()
    other[:] = 1.7 * face @ turn.T + [0.2, 0.1, 0.0]
    views = {"yaw+0.0": wall(0.0, (0.0, 0.0, 0.0)), "yaw+0.3": wall(0.3, (0.0, 0.0, 0.0))}

    def change(landmarks):
        truth = {"view_landmarks": torch.tensor(np.stack([face, landmarks]))}
        return drift(Scene("wall", "yaw+0.0", views, truth))["yaw+0.3"]["landmarks_mm"]

    assert change(other) < 1e-3
    opened = face.copy()
    opened[:100, 1] += 0.02
    assert change(opened) > 0.5


def test_pictures_are_the_teachers(stand_in):
    """The crop of the view is cut from the picture at the generator's resolution."""
    stand_in(lambda yaw, _: yaw)
    image = turned.make(3, GENERATOR).input.image
    assert torch.equal(image[..., 16, 16], to_tensor(np.full((1, 1, 3), 99, np.uint8))[..., 0, 0])
