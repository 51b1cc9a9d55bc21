"""Methods that are told a wrong camera, or find one in a generator of their own, are measured in their own frame."""

import dataclasses
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera, carried, intrinsics_matrix, orbit, turned
from lib.datasets import Scene
from lib.encoders import ENCODERS, invert_encoder, networks_of
from lib.evaluation import MEASURES, Comparison, Method, cached_inversion, inversion_key
from lib.evaluation import measures as module
from lib.evaluation.measures import in_head_frame
from lib.evaluation.methods import CAMERA_ERRORS, HYBRIDS, METHODS, POSEFREE, perturbed
from lib.generators import PoseFreeEG3D, Rendering, save_generator
from lib.inversion import invert_posefree
from lib.meshes import normals_from_depth
from lib.metrics import normal_error
from tests.egg_scene import egg_scene, egg_view, on_egg
from tests.tiny_generator import tiny_generator, tiny_posefree
from tests.tiny_scenes import another_guess, guess, tiny_scene

VIEWS = orbit(torch.tensor([-0.6, 0.1, 0.5]), torch.tensor([0.2, -0.3, 0.1]))


def rigid(seed: int = 0, turn: float = 0.3, shift: float = 0.05) -> Tensor:
    """A motion [4, 4] of the world: `turn` radians about some axis, then a shift."""
    axis, move = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, y, z = (turn * axis / axis.norm()).tolist()
    motion = torch.eye(4, dtype=torch.float64)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    motion[:3, :3] = torch.linalg.matrix_exp(cross)
    motion[:3, 3] = shift * move
    return motion.float()


def moved(camera: Camera, motion: Tensor) -> Camera:
    return Camera(motion @ camera.world_from_cam, camera.intrinsics)


# -------------------------------------------------------------------- cameras that are carried along
def test_cameras_are_carried_by_the_motion_that_takes_one_to_another():
    motion, start = rigid(), orbit(0.3, 0.1)
    found = carried(VIEWS, start, moved(start, motion))
    assert torch.allclose(found.world_from_cam, motion @ VIEWS.world_from_cam, atol=1e-5)
    assert torch.allclose(carried(start, start, VIEWS[1]).world_from_cam, VIEWS[1].world_from_cam, atol=1e-5)
    assert torch.allclose(carried(VIEWS, start, start).label(), VIEWS.label(), atol=1e-5)


def test_what_moves_with_carried_cameras_looks_the_same_from_them():
    motion, start = rigid(1), orbit(-0.2, 0.3)
    points = torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(2)) / 5
    there = points @ motion[:3, :3].T + motion[:3, 3]
    for found, expected in zip(
        carried(VIEWS, start, moved(start, motion)).project(there), VIEWS.project(points), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-4)


def test_carried_back_cameras_are_where_they_were():
    start, end = VIEWS[0], orbit(0.9, -0.2, radius=2.5)
    assert torch.allclose(carried(carried(VIEWS, start, end), end, start).label(), VIEWS.label(), atol=1e-5)


def test_carried_cameras_keep_their_own_lenses():
    start, end = (Camera(VIEWS[i].world_from_cam, intrinsics_matrix(f)) for i, f in ((0, 3.0), (1, 5.0)))
    views = Camera(VIEWS.world_from_cam, intrinsics_matrix(torch.tensor([2.0, 4.0, 6.0]), 3))
    assert torch.equal(carried(views, start, end).intrinsics, views.intrinsics)


@pytest.mark.parametrize("yaw", [0.0, 0.35, -1.2])
def test_turned_cameras_go_round_the_vertical_axis(yaw):
    start = orbit(VIEWS.yaw, VIEWS.pitch, radius=2.4, pivot=(0.0, 0.1, 0.0))
    found = turned(start, yaw)
    expected = orbit(VIEWS.yaw + yaw, VIEWS.pitch, radius=2.4, pivot=(0.0, 0.1, 0.0))
    assert torch.allclose(found.label(), expected.label(), atol=1e-5)
    assert torch.allclose(turned(found, -yaw).label(), start.label(), atol=1e-6)
    axis = torch.tensor([0.0, 0.3, 0.0]).expand(3, 1, 3)
    for a, b in zip(found.project(axis), start.project(axis), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


# -------------------------------------------------------------------- heads in frames of their own
class MovedEgg:
    """The egg of the scene, without fault, but in a frame moved by a rigid motion; notes from where it is looked at."""

    w_plus = torch.zeros(1, 1, 1)
    generator = SimpleNamespace(
        resolution=40, frontal_camera=lambda: orbit(0.0, 0.0), camera=lambda yaw, pitch: orbit(yaw, pitch)
    )

    def __init__(self, motion: Tensor, camera: Camera):
        self.from_scene = torch.linalg.inv(motion)
        self.camera = moved(camera, motion)
        self.asked: list[Camera] = []

    def still(self):
        return self

    def render(self, camera: Camera, neural_resolution: int = 40) -> Rendering:
        self.asked.append(camera)
        views = [egg_view(moved(one, self.from_scene), neural_resolution) for one in camera]
        image, depth, mask = (
            torch.cat([getattr(view, name) for view in views]) for name in ("image", "depth", "mask")
        )
        return Rendering(image, image, depth, image, mask.float())


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The egg's, less the outline, beyond which its depth has no neighbours."""
    whole = egg_scene()
    inner = {
        name: dataclasses.replace(view, mask=F.max_pool2d((~view.mask).float(), 3, 1, 1) == 0)
        for name, view in whole.views.items()
    }
    return dataclasses.replace(whole, views=inner)


@pytest.fixture(autouse=True)
def cheap_shape(monkeypatch):
    """Depth at the size of the picture, as the egg's closed form needs no more rays."""
    monkeypatch.setattr(module, "shape_view", lambda head, camera: head.render(camera))


@pytest.fixture
def standing(scene) -> MovedEgg:
    return MovedEgg(torch.eye(4), scene.input.camera)


@pytest.fixture
def elsewhere(scene) -> MovedEgg:
    return MovedEgg(rigid(), scene.input.camera)


def test_a_head_of_the_scenes_frame_is_asked_from_the_true_cameras_to_the_bit(standing, scene):
    for name, view in scene.views.items():
        seen = Comparison(standing, scene, name)
        assert seen.camera is view.camera and seen.in_head_frame(VIEWS) is VIEWS
        assert torch.equal(seen.image, standing.render(view.camera).image.clamp(-1, 1))
    labels = [camera.label() for camera in standing.asked[::2]]
    expected = [view.camera.label() for view in scene.views.values()]
    assert all(torch.equal(a, b) for a, b in zip(labels, expected, strict=True))


def test_a_head_elsewhere_is_asked_from_cameras_that_are_as_far_from_its_own(elsewhere, scene):
    for name, view in scene.views.items():
        elsewhere.asked.clear()
        seen = Comparison(elsewhere, scene, name)
        assert seen.image.shape == (1, 3, 40, 40) and seen.depth.shape == (1, 1, 40, 40)
        assert len(elsewhere.asked) == 2
        for asked in elsewhere.asked:
            assert torch.allclose(asked.world_from_cam, rigid() @ view.camera.world_from_cam, atol=1e-5)
            assert torch.equal(asked.intrinsics, view.camera.intrinsics)
    own = in_head_frame(elsewhere, scene, scene.input.camera)
    assert torch.allclose(own.label(), elsewhere.camera.label(), atol=1e-5)


PICTURES = ("mse", "mae", "ssim", "ms_ssim_dissimilarity")
SHAPES = ("mean_depth_error", "median_depth_error", "depth_error", "depth_relief", "normal_error")


@pytest.mark.parametrize("name", [*PICTURES, *SHAPES, "warp_error"])
def test_where_a_head_stands_is_no_error(elsewhere, standing, scene, name):
    """All that a table holds is that of the same head in the scene's frame, up to the rounding of rays."""
    for view in ("yaw+0.0", "yaw-0.3"):
        there, here = (MEASURES[name].of(Comparison(head, scene, view)) for head in (elsewhere, standing))
        assert there == pytest.approx(here, rel=0.02, abs=2e-3)


def test_one_that_says_a_wrong_camera_for_its_head_is_measured_beside_the_views(scene):
    """The egg where it is, but its method says that the photo was taken 0.3 further to the side."""
    head = MovedEgg(torch.eye(4), scene.input.camera)
    head.camera = turned(scene.input.camera, 0.3)
    seen = Comparison(head, scene, "yaw-0.3")
    assert seen.camera.yaw.item() == pytest.approx(0.0, abs=1e-5)
    assert torch.allclose(seen.image, scene.views["yaw+0.0"].image, atol=1e-4)
    assert MEASURES["mse"].of(seen) > 1e-4


def test_normals_are_compared_in_the_frame_of_the_truth(elsewhere, scene):
    seen = Comparison(elsewhere, scene, "yaw-0.3")
    assert MEASURES["normal_error"].of(seen) < 3
    in_its_own = normals_from_depth(seen.camera, seen.depth)
    assert normal_error(in_its_own, seen.true_normals).item() > 8


def test_the_mirrored_view_is_that_of_the_heads_own_camera(elsewhere, scene, monkeypatch):
    given = []
    monkeypatch.setattr(module, "_network", lambda: None)
    monkeypatch.setattr(
        module.metrics, "mirrored_identity", lambda *args: given.append(args[1:]) or torch.zeros(1)
    )
    MEASURES["mirrored_identity"].of(Comparison(elsewhere, scene, "yaw+0.0"))
    assert torch.allclose(elsewhere.asked[-1].label(), elsewhere.camera.mirror().label(), atol=1e-5)
    ((_, target, cut_out),) = given
    assert target is scene.input.image and cut_out is scene.input.camera


def test_the_input_is_predicted_where_the_head_has_it(elsewhere, standing, scene, monkeypatch):
    asked = []
    monkeypatch.setattr(module.metrics, "edge_cameras", lambda head: VIEWS)
    monkeypatch.setattr(
        module.metrics,
        "predict_view",
        lambda head, camera, sources: asked.append(camera) or SimpleNamespace(image=scene.input.image),
    )
    for head in (elsewhere, standing):
        assert torch.equal(Comparison(head, scene, "yaw+0.0").predicted, scene.input.image)
    for camera, head in zip(asked, (elsewhere, standing), strict=True):
        assert torch.allclose(camera.label(), head.camera.label(), atol=1e-5)


def test_landmarks_of_a_scan_are_looked_for_where_the_head_has_them(elsewhere, scene, monkeypatch):
    """In a frontal view of the head's own frame, where the moved egg has moved points of the egg's surface."""
    points = torch.stack(
        [on_egg(x, y)[0] for x, y in ((-0.05, 0.05), (0.05, 0.06), (0.0, 0.0), (0.02, -0.1))]
    )
    truth = {
        "millimetres_per_unit": torch.tensor(1.0),
        "vertices": points,
        "skin": torch.ones(len(points), dtype=torch.bool),
        "landmarks": points,
    }
    found = []
    monkeypatch.setattr(module, "extract_mesh", lambda head, coloured: None)
    monkeypatch.setattr(
        module.metrics, "scan_to_mesh", lambda scan, marks, mesh, own: found.append(own) or np.zeros(1)
    )
    MEASURES["scan_to_mesh"].of(Comparison(elsewhere, dataclasses.replace(scene, truth=truth), "yaw+0.0"))
    expected = points @ rigid()[:3, :3].T + rigid()[:3, 3]
    assert (expected - points).norm(dim=1).min() > 0.03
    assert np.abs(found[0] - expected.numpy()).max() < 3e-3


# -------------------------------------------------------------------- methods that are told a wrong camera
@pytest.mark.parametrize(
    ("yaw", "expected"), [(0.5, 0.2), (0.1, -0.2), (-0.5, -0.2), (-0.1, 0.2), (0.0, 0.3)]
)
def test_a_wrong_camera_is_turned_towards_the_front_and_from_there_to_positive_yaw(yaw, expected):
    true = orbit(yaw, -0.2)
    told = Method("wrong", guess, camera_error=0.3).told(true)
    assert torch.allclose(told.label(), orbit(expected, -0.2).label(), atol=1e-5)
    assert Method("right", guess).told(true) is true


def test_errors_are_as_large_as_the_names_say():
    assert {name: math.degrees(error) for name, error in CAMERA_ERRORS.items()} == pytest.approx(
        {"perturbed_5": 5, "perturbed_10": 10, "perturbed": 20}
    )
    methods = perturbed("guess", guess, {"head_seed": 3}, joint="_")
    assert [method.name for method in methods] == [f"guess_{ending}" for ending in CAMERA_ERRORS]
    for method, error in zip(methods, CAMERA_ERRORS.values(), strict=True):
        assert method.camera_error == error and method.settings == {"head_seed": 3}
        assert METHODS[f"wplus-{method.name.removeprefix('guess_')}"].camera_error == error


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture(scope="module")
def view(generator):
    return tiny_scene(generator).views["yaw+0.3"]


def key(method: Method, generator, view, camera: Camera | None = None) -> str:
    return inversion_key(method, generator, view.image, view.camera if camera is None else camera, 0)


def test_an_inversion_is_kept_under_the_camera_that_was_told(generator, view):
    """Whatever is told the same is the same computation; without an error nothing changes."""
    plain, wrong, worse = (Method("any", guess, camera_error=error) for error in (0.0, 0.1, 0.2))
    assert key(plain, generator, view) == key(Method("another name", guess), generator, view)
    assert key(wrong, generator, view) == key(plain, generator, view, wrong.told(view.camera))
    assert len({key(method, generator, view) for method in (plain, wrong, worse)}) == 3


def test_a_method_and_its_start_are_each_told_their_own_camera(generator, view, tmp_path):
    start = Method("start", another_guess)
    wrong = Method("wrong", guess, camera_error=0.1)
    found = cached_inversion(wrong, generator, view.image, view.camera, folder=tmp_path)
    assert torch.equal(found.camera.label(), wrong.told(view.camera).label())
    assert found.camera.yaw.item() == pytest.approx(0.2, abs=1e-5)
    assert found.extras["evaluated"]["camera_error"] == 0.1
    both = dataclasses.replace(wrong, start=start)
    after = cached_inversion(both, generator, view.image, view.camera, folder=tmp_path)
    assert torch.equal(after.camera.label(), view.camera.label()), (
        "that of the start, which is told the truth"
    )
    assert "camera_error" not in after.extras["evaluated"]["start"]


# -------------------------------------------------------------------- methods of another generator
@pytest.fixture
def files(tmp_path) -> list[str]:
    """Two pose-free generators on disk, of other weights."""
    paths = []
    for factor in (1.0, 1.1):
        generator = tiny_posefree()
        generator.decoder.net[0].weight.mul_(factor)
        paths.append(str(save_generator(generator, tmp_path / f"{factor}.safetensors", torch.float32)))
    return paths


def test_an_inversion_depends_on_the_methods_generator_and_not_on_the_evaluations(generator, view, files):
    other = tiny_generator()
    other.decoder.net[0].weight.mul_(1.1)
    plain, one, two = (Method("any", guess, generator=file) for file in (None, *files))
    assert key(plain, generator, view) != key(plain, other, view)
    assert key(one, generator, view) == key(one, other, view)
    assert len({key(method, generator, view) for method in (plain, one, two)}) == 3


def test_a_methods_generator_is_the_one_that_inverts_and_is_kept_by_its_name(
    generator, view, files, tmp_path
):
    method = Method("own", guess, generator=files[1])
    found = cached_inversion(
        method, generator, view.image, view.camera, base="portraits64", folder=tmp_path / "cache"
    )
    assert type(found.generator) is PoseFreeEG3D
    assert torch.equal(found.generator.decoder.net[0].weight, tiny_posefree().decoder.net[0].weight * 1.1)
    assert found.extras["evaluated"]["generator"] == files[1]
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    whole = found.save(tmp_path / "whole.safetensors")
    assert kept.stat().st_size < 0.1 * whole.stat().st_size, "only weights that differ from the named one's"


def test_a_method_without_a_generator_of_its_own_has_the_evaluations(generator):
    assert Method("plain", guess).inverted_with(generator, "its name") == (generator, "its name")


def test_what_is_left_at_its_default_is_not_described():
    assert Method("plain", guess).described().keys() == {"name", "function", "settings"}
    told = Method("both", guess, generator="a file", camera_error=0.2).described()
    assert (told["generator"], told["camera_error"]) == ("a file", 0.2)


def test_pose_free_methods_have_their_generator_and_settings_that_it_knows():
    known = inspect.signature(invert_posefree).parameters
    rows = [method for name, method in METHODS.items() if name.startswith("posefree")]
    assert len(rows) > 5 and POSEFREE in rows
    for method in rows:
        assert method.invert is invert_posefree and method.generator == "portraits64-posefree"
        assert method.settings.keys() <= known.keys()
        changed = [name for name, value in method.settings.items() if value != known[name].default]
        assert changed == list(method.settings), "an ablation that changes nothing is none"


# -------------------------------------------------------------------- methods of encoders
def test_every_encoder_is_a_method_that_is_kept_under_its_networks():
    rows = {name: method for name, method in METHODS.items() if method.invert is invert_encoder}
    assert rows.keys() == ENCODERS.keys()
    for name, method in rows.items():
        assert method.settings == {"encoder": name} and method.networks == networks_of(name)
        assert method.start is None and method.generator is None
    assert not any(method.networks for name, method in METHODS.items() if name not in rows)


def test_hybrids_are_their_methods_from_an_encoders_code():
    for name, invert in HYBRIDS:
        method = METHODS[f"{name}-from_goae"]
        assert method.invert is invert is METHODS[name].invert and method.settings == METHODS[name].settings
        assert method.start == METHODS["goae-wplus"] and not method.networks
