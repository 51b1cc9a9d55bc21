"""Pose-free inversion equation by equation, then the method: the camera is found with the code, and from it alone."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.cameras import Camera, orbit
from lib.generators import PoseFreeEG3D, Rendering, RenderingSettings
from lib.identity import align, camera_points
from lib.images import resize
from lib.inversion import Checkpoints, Inversion, invert_posefree, posefree
from lib.inversion.assumptions import AssumptionWarning
from lib.inversion.optimisation import cosine_decay
from lib.inversion.posefree import (
    Weights,
    embedding,
    geometry_loss,
    identity_loss,
    multi_view_loss,
    objective,
    pose_code,
    reconstruction_loss,
    starting_codes,
)
from lib.inversion.result import fingerprint
from lib.losses import depth_variation_loss
from lib.perceptual import Features
from tests.egg_scene import egg_view
from tests.tiny_generator import RandomFeatures, tiny_generator, tiny_posefree

pytestmark = pytest.mark.filterwarnings("ignore::lib.inversion.assumptions.AssumptionWarning")

PERCEPTUAL = RandomFeatures()
SIDE = 16


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def generator() -> PoseFreeEG3D:
    return tiny_posefree()


@pytest.fixture(scope="module")
def code(generator) -> Tensor:
    return generator.map(torch.randn(1, 16, generator=rng(3)))


@pytest.fixture(scope="module")
def target(generator, code) -> Tensor:
    """The head of `code`, seen as it says itself."""
    return generator.synthesize(code, generator.own_camera(code[:, 0])).image.clamp(-1, 1)


@pytest.fixture(scope="module")
def invert(generator, target):
    """The method in a second."""

    def run(camera=None, generator=generator, target=target, **changes) -> Inversion:
        settings = {
            "starts": 1,
            "start_steps": 2,
            "steps": 3,
            "views": 1,
            "identity": "image",
            "statistics_samples": 50,
            "perceptual": PERCEPTUAL,
            "progress": False,
        }
        return invert_posefree(generator, target, camera, **settings | changes)

    return run


class Caught(Exception):
    """What the search would have been given."""


@pytest.fixture
def terms_of(invert, monkeypatch):
    """What the main search minimises, as a function of code and step that draws the same views each time; beside it
    the parameters that the search moves besides the code."""

    def catch(code, terms, *, rngs, groups, **_):
        raise Caught(code, terms, rngs, groups)

    def caught(**settings):
        with monkeypatch.context() as patch, pytest.raises(Caught) as found:
            patch.setattr(posefree, "search", catch)
            invert(**settings)
        _, terms, (views,), groups = found.value.args

        def repeatable(w_plus, step):
            views.manual_seed(1)
            return terms(w_plus, step)

        return repeatable, [p for group in groups for p in group["params"]]

    return caught


def assert_same(found: Inversion, expected: Inversion) -> None:
    """Equal to the bit."""
    assert torch.equal(found.w_plus, expected.w_plus)
    assert torch.equal(found.camera.label(), expected.camera.label())
    assert found.history == expected.history
    assert found.extras == expected.extras


# -------------------------------------------------------------------- eq. 2 and 3
def test_reconstruction_is_l1_and_lpips_each_with_its_weight():
    image, target = torch.rand(2, 3, 3, 8, 8, generator=rng())
    terms = reconstruction_loss(image, target, PERCEPTUAL, alpha=3.0, beta=0.5)
    assert list(terms) == ["l1", "lpips"]
    by_hand = 3 * np.abs(image.numpy() - target.numpy()).reshape(3, -1).mean(axis=1)
    assert terms["l1"].tolist() == pytest.approx(by_hand.tolist(), rel=1e-5)
    assert torch.allclose(terms["lpips"], 0.5 * PERCEPTUAL(image, target))
    assert all(t.abs().max() == 0 for t in reconstruction_loss(image, image, PERCEPTUAL, 1.0, 1.0).values())


def test_identity_is_one_less_the_cosine():
    a, b = F.normalize(torch.randn(2, 5, 7, generator=rng()), dim=-1)
    assert identity_loss(a, a).tolist() == pytest.approx([0] * 5, abs=1e-6)
    assert identity_loss(a, -a).tolist() == pytest.approx([2] * 5, abs=1e-6)
    assert torch.allclose(identity_loss(a, b), 1 - F.cosine_similarity(a, b), atol=1e-6)


def test_faces_are_cut_out_where_the_camera_has_them_for_the_network_of_losses(monkeypatch):
    asked = []

    class Network(torch.nn.Module):
        def forward(self, faces):
            return F.normalize(faces.flatten(1), dim=1)

    monkeypatch.setattr(posefree, "face_network", lambda role: asked.append(role) or Network())
    camera, images = orbit(0.3, 0.1), torch.rand(2, 3, 32, 32, generator=rng())
    embedded = embedding("face", PERCEPTUAL, camera)(images)
    faces = align(images, camera_points(camera).expand(2, 5, 2))
    assert asked == ["optimisation"]
    assert torch.equal(embedded, F.normalize(faces.flatten(1), dim=1))
    elsewhere = embedding("face", PERCEPTUAL, orbit(-0.3, 0.1))(images)
    assert not torch.allclose(embedded, elsewhere, atol=1e-3)


def test_what_is_no_face_is_known_by_the_means_of_its_deepest_features():
    shallow, deep = torch.rand(2, 2, 4, 3, 3, generator=rng())
    perceptual = SimpleNamespace(features=lambda image: Features((shallow, deep)))
    embedded = embedding("image", perceptual, orbit(0.0, 0.0))(torch.zeros(2, 3, 8, 8))
    means = deep.numpy().reshape(2, 4, 9).mean(axis=2)
    assert np.allclose(embedded, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)


# -------------------------------------------------------------------- eq. 4
CAMERA = orbit(0.2, 0.1)
NEAR = orbit(torch.tensor([0.35, 0.1]), torch.tensor([0.05, 0.15]))


def itself(image: Tensor) -> tuple[Tensor]:
    """psi that compares pictures as they are."""
    return (image,)


def seen(image: Tensor, depth: Tensor) -> Rendering:
    return Rendering(image, image, depth, image, torch.ones_like(depth))


def wall_depth(camera: Camera, side: int = SIDE) -> Tensor:
    """Depth along the rays to the plane z = 0.1."""
    origins, directions = camera.rays(side)
    return ((0.1 - origins[..., 2]) / directions[..., 2]).reshape(-1, 1, side, side)


def wall_positions(camera: Camera, into: Camera, side: int = SIDE) -> np.ndarray:
    """Columns and rows [2, R, R] where `into` has what the pixels of `camera` show of that plane, by its homography."""

    def image_from_wall(one: Camera) -> np.ndarray:
        pose, k = (x[0].double().numpy() for x in (one.world_from_cam, one.intrinsics))
        rotation, position = pose[:3, :3].T, pose[:3, 3]
        wall = np.array([[1, 0, -position[0]], [0, 1, -position[1]], [0, 0, 0.1 - position[2]]])
        return k @ rotation @ wall

    steps = (np.arange(side) + 0.5) / side
    u, v = np.meshgrid(steps, steps)
    pixels = np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    x, y, w = image_from_wall(into) @ np.linalg.inv(image_from_wall(camera)) @ pixels
    return np.stack([x / w, y / w]).reshape(2, side, side) * side - 0.5


def seen_again(picture: Tensor, positions: np.ndarray) -> Tensor:
    """Bilinear samples [1, 3, R, R] of a picture [3, R, R] at columns and rows, its border repeated."""
    channels = [
        scipy.ndimage.map_coordinates(channel, positions[::-1], order=1, mode="nearest")
        for channel in picture.double().numpy()
    ]
    return torch.from_numpy(np.stack(channels))[None].float()


def inside(positions: np.ndarray, side: int = SIDE) -> np.ndarray:
    return ((positions > -0.5) & (positions < side - 0.5)).all(axis=0)


def test_a_consistent_surface_has_no_multi_view_loss():
    """A wall of noise: what its homography carries over from the neighbour is just what the reference shows."""
    wall = torch.rand(1, 3, SIDE, SIDE, generator=rng())
    image = seen_again(wall[0], wall_positions(CAMERA, NEAR[0]))
    view, near = seen(image, wall_depth(CAMERA)), seen(wall, wall_depth(NEAR[0]))
    assert multi_view_loss(itself, view, CAMERA, near, NEAR[0]).item() < 1e-4
    as_they_are = multi_view_loss(itself, view, CAMERA, seen(wall, view.depth), CAMERA).item()
    assert as_they_are > 0.1


def test_an_egg_seen_from_beside_is_the_same_egg():
    def rendering(camera: Camera) -> Rendering:
        views = [egg_view(one, 48) for one in camera]
        return seen(
            torch.cat([view.image.nan_to_num() for view in views]),
            torch.cat([view.depth.nan_to_num(3.3) for view in views]),
        )

    view, near = rendering(CAMERA), rendering(NEAR)
    moved = (near.image - view.image).abs().flatten(1).mean(dim=1).sum().item()
    assert multi_view_loss(itself, view, CAMERA, near, NEAR).item() < 0.1 * moved


@pytest.mark.parametrize("depth_side", [SIDE, SIDE // 2])
def test_what_one_view_alone_has_counts_with_its_share_of_the_picture(depth_side):
    """Grey walls, a square of another colour on one of three: from the same camera each pixel counts as it is."""
    view = seen(torch.zeros(1, 3, SIDE, SIDE), wall_depth(CAMERA, depth_side))
    pictures = torch.zeros(3, 3, SIDE, SIDE)
    near = seen(pictures, view.depth.expand(3, -1, -1, -1))
    same = CAMERA.expand(3)
    assert multi_view_loss(itself, view, CAMERA, near, same) == 0
    pictures[1, 0, 4:8, 5:9] = 0.9
    planted = multi_view_loss(itself, view, CAMERA, near, same).item()
    assert planted == pytest.approx(0.9 * 16 / (3 * SIDE * SIDE), rel=1e-4)
    pictures[2, 0, 4:8, 5:9] = -0.9
    assert multi_view_loss(itself, view, CAMERA, near, same).item() == pytest.approx(2 * planted, rel=1e-4)
    assert multi_view_loss(
        lambda image: (image, 2 * image), view, CAMERA, near, same
    ).item() == pytest.approx(6 * planted, rel=1e-4), "all feature maps count"


def test_what_lies_outside_the_neighbours_picture_counts_nothing():
    """Neighbours that look past the middle: of a black wall, white to them, what they have is an error, no more."""
    aside = orbit(NEAR.yaw, NEAR.pitch, pivot=(0.15, -0.1, 0.0))
    near = seen(torch.ones(2, 3, SIDE, SIDE), wall_depth(aside))
    view = seen(torch.zeros(1, 3, SIDE, SIDE), wall_depth(CAMERA))
    shares = [inside(wall_positions(CAMERA, one)).mean() for one in aside]
    assert min(shares) > 0.3 and max(shares) < 0.9
    loss = multi_view_loss(itself, view, CAMERA, near, aside).item()
    assert loss == pytest.approx(sum(shares), rel=1e-4)


def test_what_the_neighbour_does_not_see_counts_nothing():
    """A card before the left half of the neighbour's wall hides what is there, whatever its colour."""
    view = seen(torch.zeros(1, 3, SIDE, SIDE), wall_depth(CAMERA))
    hidden = torch.arange(SIDE) < SIDE // 2
    depth = view.depth - 0.2 * hidden
    for colour in (0.5, 3.0):
        near = seen((colour * hidden).expand(1, 3, SIDE, SIDE), depth)
        assert multi_view_loss(itself, view, CAMERA, near, CAMERA).item() == pytest.approx(0, abs=1e-6)
        counted = multi_view_loss(itself, view, CAMERA, near, CAMERA, tolerance=0.3).item()
        assert counted == pytest.approx(colour / 2, rel=1e-4)


def learnable_views(dtype: torch.dtype = torch.float32) -> tuple[Rendering, Camera, Rendering, Camera]:
    """Wall and neighbours of noise whose colours, depths and cameras all ask for gradients."""
    colours = torch.rand(3, 3, SIDE, SIDE, generator=rng(), dtype=dtype)
    cameras = [camera.to(dtype=dtype) for camera in (CAMERA, NEAR)]
    for camera in cameras:
        camera.world_from_cam.requires_grad_()
    view, near = (
        seen(image.clone().requires_grad_(), wall_depth(camera.detach()).requires_grad_())
        for image, camera in zip((colours[:1], colours[1:]), cameras, strict=True)
    )
    return view, cameras[0], near, cameras[1]


def test_gradients_go_to_colours_and_to_depth_and_cameras_on_demand():
    for through_depth in (False, True):
        view, camera, near, near_cameras = learnable_views()
        multi_view_loss(
            itself, view, camera, near, near_cameras, tolerance=0.3, through_depth=through_depth
        ).backward()
        assert view.image.grad.abs().max() > 0 and near.image.grad.abs().max() > 0
        for moving in (view.depth, camera.world_from_cam, near_cameras.world_from_cam):
            assert (moving.grad is not None and moving.grad.abs().max() > 0) == through_depth
        assert near.depth.grad is None, "it says what is hidden, and that is a yes or no"


def test_gradient_through_depth_by_finite_differences():
    view, camera, near, near_cameras = learnable_views(torch.float64)

    def loss(depth: Tensor, image: Tensor) -> Tensor:
        there = view._replace(depth=depth, image=image)
        return multi_view_loss(itself, there, camera, near, near_cameras, tolerance=9.0, through_depth=True)

    at = (view.depth, view.image)
    gradients = torch.autograd.grad(loss(*at), at)
    for place in range(2):
        directions = [torch.zeros_like(x) for x in at]
        directions[place] = torch.randn(at[place].shape, generator=rng(1), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (
                loss(*(x + h * d for x, d in zip(at, directions, strict=True))).item() for h in (1e-7, -1e-7)
            )
        expected = (gradients[place] * directions[place]).sum().item()
        assert (ahead - behind) / 2e-7 == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------- eq. 5
def slow_variation(depth: np.ndarray) -> float:
    """Of a map [H, W], pair by pair."""
    rows, columns = depth.shape
    across = [abs(depth[y, x + 1] - depth[y, x]) for y in range(rows) for x in range(columns - 1)]
    down = [abs(depth[y + 1, x] - depth[y, x]) for y in range(rows - 1) for x in range(columns)]
    return sum(across) / len(across) + sum(down) / len(down)


def test_variation_is_the_mean_step_between_neighbours():
    depth = torch.rand(2, 1, 5, 5, generator=rng())
    expected = [slow_variation(one[0].numpy()) for one in depth]
    assert depth_variation_loss(depth).tolist() == pytest.approx(expected, rel=1e-5)
    picture = torch.zeros(2, 3, 10, 10)
    assert geometry_loss(seen(picture, depth)).tolist() == pytest.approx(expected, rel=1e-5)


def test_variation_of_a_constant_a_ramp_and_an_edge():
    """Of a ramp its slopes; an edge counts with its height, and not with the square of it."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    assert depth_variation_loss(torch.full((1, 1, 6, 6), 2.7)).item() == 0
    ramp = 2.7 + 0.3 * x - 0.2 * y
    assert depth_variation_loss(ramp[None, None]).item() == pytest.approx(0.5, rel=1e-5)
    edges = torch.stack([height * (x > 2) for height in (0.1, 0.2)])[:, None]
    assert depth_variation_loss(edges).tolist() == pytest.approx([0.1 / 5, 0.2 / 5], rel=1e-5)


def test_gradient_of_the_variation_by_finite_differences():
    depth = torch.rand(1, 1, 4, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(depth_variation_loss, depth)


# -------------------------------------------------------------------- eq. 6 and the curriculum
def test_identity_gives_way_to_shape():
    full = Weights(rec=3.0, identity=0.2, mv=0.5, geo=0.7)
    assert full.at(0.0) == Weights(3.0, 0.2, 0.0, 0.0)
    assert full.at(1.0) == Weights(3.0, 0.0, 0.5, 0.7)
    assert dataclasses.astuple(full.at(0.25)) == pytest.approx((3.0, 0.15, 0.125, 0.175))


def test_without_a_curriculum_each_weight_is_its_mean():
    full = Weights(rec=3.0, identity=0.2, mv=0.5, geo=0.7)
    mean = np.mean([dataclasses.astuple(full.at(t)) for t in np.linspace(0, 1, 101)], axis=0)
    for t in (0.0, 0.3, 1.0):
        assert dataclasses.astuple(full.at(t, curriculum=False)) == pytest.approx(mean.tolist())


def test_the_objective_is_the_weighted_sum_of_the_terms_that_there_are():
    losses = {"l1": 1.0, "lpips": 10.0, "identity": 100.0, "mv": 1000.0, "geo": 10_000.0}
    losses = {name: torch.tensor([value]) for name, value in losses.items()}
    weights = Weights(rec=2.0, identity=3.0, mv=5.0, geo=7.0)
    assert objective(losses, weights).item() == 75_322
    for name, part in (("identity", 300), ("mv", 5000), ("geo", 70_000)):
        fewer = {key: value for key, value in losses.items() if key != name}
        assert objective(fewer, weights).item() == 75_322 - part


def test_the_weights_of_the_steps_are_those_of_the_curriculum(invert):
    weights = {"lam_rec": 1.0, "lam_id": 0.4, "lam_mv": 0.8, "lam_geo": 2.0}
    for curriculum in (True, False):
        history = invert(curriculum=curriculum, **weights).history
        for step in range(3):
            now = Weights(*weights.values()).at((step + 0.5) / 3, curriculum)
            terms = {name: torch.tensor([column[step]]) for name, column in history.items()}
            assert objective(terms, now).item() == pytest.approx(history["loss"][step], rel=1e-5)


def test_rates_fall_as_half_a_cosine(invert):
    assert [cosine_decay(t) for t in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.5 + math.sqrt(1 / 8), 0.5, 0])
    rates = invert(learning_rate=0.02, steps=4).history["learning_rate"]
    assert rates == pytest.approx([0.02 * (0.5 + 0.5 * math.cos(math.pi * t / 4)) for t in range(4)])


# -------------------------------------------------------------------- the gradient of the whole
class DoubleFeatures(RandomFeatures):
    def __init__(self):
        super().__init__()
        self.kernel = self.kernel.double()

    def target(self, image):
        return super().target(image.double())


def double_generator() -> PoseFreeEG3D:
    """In double precision, but for the angles of its cameras. Coarse samples only: no gradient goes through where finer
    ones lie."""
    exact = tiny_posefree(rendering=RenderingSettings(8, 0)).double()
    exact.camera_at = lambda pose: PoseFreeEG3D.camera_at(exact, pose).to(dtype=torch.float64)
    return exact


@pytest.mark.parametrize("step", [1, 3], ids=["coarse", "fine"])
@pytest.mark.parametrize("pose_from", ["mean", "separate"])
def test_gradient_of_equation_6_by_finite_differences(terms_of, code, pose_from, step):
    terms, others = terms_of(
        generator=double_generator(),
        perceptual=DoubleFeatures(),
        pose_from=pose_from,
        initial=code + 0.1,
        through_depth=True,
        tolerance=9.0,
    )
    assert len(others) == (pose_from == "separate")
    leaves = [(code + 0.1).double().requires_grad_(), *others]
    found = terms(leaves[0], step)
    assert set(found.losses) >= {"l1", "lpips", "identity", "mv", "geo"}
    gradients = torch.autograd.grad(found.total.sum(), leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        direction = gradient / gradient.norm()
        values = []
        with torch.no_grad():
            for h in (1e-4, -2e-4):
                leaf += h * direction
                values.append(terms(leaves[0], step).total.item())
            leaf += 1e-4 * direction
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(gradient.norm().item(), rel=0.02)


def test_the_gradient_goes_through_the_pose_to_the_code_that_says_it(terms_of, generator, code, target):
    """Of a separate code, w_plus has the gradient of a picture from a fixed camera; else that through its pose, too."""
    only_pictures = {"identity": "none", "lam_mv": 0.0, "lam_geo": 0.0, "coarse_share": 0.0, "initial": code}
    separate, (own,) = terms_of(pose_from="separate", **only_pictures)
    mean, none = terms_of(pose_from="mean", **only_pictures)
    assert not none and torch.allclose(own, code[:, 0])
    with torch.no_grad():
        own += 0.3
    w = (code + 0.3).requires_grad_()
    camera = generator.own_camera(own.detach())
    image = generator.synthesize(w, camera).image
    picture = (image - target).abs().mean() + PERCEPTUAL(image, target).sum()
    (expected,) = torch.autograd.grad(picture, w)
    direct, through_pose = torch.autograd.grad(separate(w, 3).total.sum(), [w, own])
    whole = torch.autograd.grad(mean(w, 3).total.sum(), w)[0]
    assert torch.allclose(direct, expected, atol=1e-6)
    assert through_pose.norm() > 0.05 * direct.norm()
    assert torch.allclose(whole, expected + through_pose[:, None] / generator.n_layers, atol=1e-6)


def test_generator_and_pose_learner_stay_as_they_are(invert, generator):
    before = fingerprint(generator.state_dict())
    found = invert(pose_from="separate")
    assert found.generator is generator
    assert fingerprint(generator.state_dict()) == before
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())
    assert not found.w_plus.requires_grad and not found.camera.world_from_cam.requires_grad


# -------------------------------------------------------------------- the camera never enters
@pytest.mark.parametrize(
    "camera",
    [orbit(0.4, -0.1), orbit(0.0, 0.0).label(), torch.full((3,), math.nan), "from the left"],
    ids=["a camera", "a label", "NaN", "words"],
)
def test_the_camera_that_is_given_does_not_enter(invert, camera):
    known = {"masks": {"face": torch.zeros(1, 1, SIDE, SIDE)}, "landmarks": torch.full((478, 3), 0.5)}
    with pytest.warns(AssumptionWarning):  # all that they are for
        found = invert(camera, starts=2, **known)
    assert_same(found, invert(starts=2))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, "separate"), ({"pose_from": "mean"}, "mean"), ({"space": "w"}, "mean")],
    ids=str,
)
def test_the_camera_of_the_result_is_what_its_code_says(invert, generator, settings, kept):
    """In W there is one code, and so none apart for the pose."""
    found = invert(**settings)
    pose = torch.tensor([found.extras["pose"]])
    assert torch.allclose(generator.camera_at(pose).label(), found.camera.label(), atol=1e-6)
    assert found.extras["pose_from"] == kept
    of_the_mean = generator.pose(found.w_plus.mean(dim=1))
    assert torch.allclose(of_the_mean, pose, atol=1e-6) == (kept == "mean")
    for name, angle in (("yaw", found.camera.yaw), ("pitch", found.camera.pitch)):
        assert found.history[name][0] != found.history[name][1]
        assert found.history[name][-1] == pytest.approx(angle.item(), abs=0.03)


def test_the_pose_is_that_of_the_mean_or_of_a_code_of_its_own():
    w_plus = torch.randn(2, 5, 4, generator=rng()).requires_grad_()
    own = torch.randn(1, 4, generator=rng(1)).requires_grad_()
    assert torch.allclose(pose_code(w_plus, "mean", None), sum(w_plus.unbind(1)) / 5, atol=1e-6)
    assert torch.equal(pose_code(w_plus, "separate", own), torch.cat([own, own]))


# -------------------------------------------------------------------- where to start
@pytest.mark.parametrize(("n", "samples"), [(1, 40), (3, 40), (4, 4)])
def test_starts_are_the_mean_codes_of_those_who_look_one_way(generator, n, samples):
    codes = starting_codes(generator, n, samples, rng(5))
    w = generator.map(torch.randn(samples, 16, generator=rng(5)))[:, 0]
    yaws = [generator.own_camera(one[None]).yaw.item() for one in w]
    order = sorted(range(samples), key=yaws.__getitem__)
    parts = np.array_split(order, n)
    assert codes.shape == (n, 1, 16)
    for one, part in zip(codes[:, 0], parts, strict=True):
        assert torch.allclose(one, sum(w[k] for k in part) / len(part), atol=1e-5)


def test_starts_need_samples(generator):
    with pytest.raises(ValueError, match="5 starts need as many samples of codes or more; got 4"):
        starting_codes(generator, 5, 4, rng())


@pytest.mark.parametrize("place", [0, 2])
def test_of_several_starts_the_best_is_gone_on_from(invert, generator, code, monkeypatch, place):
    """One start is nearly the code itself, the others are other heads; wherever it stands, it is kept."""
    others = generator.map(torch.randn(2, 16, generator=rng(9)))[:, :1]
    codes = torch.cat([others[:place], code[:, :1] + 0.05, others[place:]])
    monkeypatch.setattr(posefree, "starting_codes", lambda *_: codes)
    history = invert(starts=3, start_steps=3, steps=1).history
    last = [history[f"start_loss_{k}"][-1] for k in range(3)]
    assert last.index(min(last)) == place
    yaws = [history[f"start_yaw_{k}"][-1] for k in range(3)]
    assert history["yaw"][0] == pytest.approx(yaws[place], abs=0.02)
    assert all(abs(yaws[k] - yaws[place]) > 0.05 for k in range(3) if k != place)
    assert all(len(history[f"start_{name}_{k}"]) == 3 for name in ("loss", "yaw") for k in range(3))


def test_each_start_takes_the_steps_that_it_takes_by_itself(invert, monkeypatch):
    together = invert(starts=2, start_steps=3, steps=1).history
    both = posefree.starting_codes
    for k in range(2):
        one_twice = lambda *args, k=k: both(*args)[[k, k]]  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr(posefree, "starting_codes", one_twice)
            alone = invert(starts=2, start_steps=3, steps=1).history
        assert alone["start_loss_0"] == pytest.approx(together[f"start_loss_{k}"], rel=1e-4)
        assert alone["start_loss_1"] == pytest.approx(together[f"start_loss_{k}"], rel=1e-4)


def test_a_given_code_is_where_it_starts(invert, generator, code):
    codes = []
    found = invert(initial=code + 0.2, callback=lambda _, state: codes.append(state.w_plus))
    assert torch.equal(codes[0], code + 0.2)
    assert not any(name.startswith("start_") for name in found.history)
    yaw = generator.own_camera((code + 0.2).mean(dim=1)).yaw.item()
    assert found.history["yaw"][0] == pytest.approx(yaw, abs=1e-6)
    assert_same(invert(initial=Inversion(code, generator, orbit(0.0, 0.0))), invert(initial=code))


# -------------------------------------------------------------------- two resolutions, two spaces
def unseen_detail(side: int, into: int) -> Tensor:
    """A pattern [1, 3, side, side] of which nothing is left at a side of `into` pixels."""
    rows = resize(torch.eye(side)[None, None].expand(1, 1, side, side), (into, side))[0, 0].double()
    nothing = torch.linalg.svd(rows).Vh[into:]
    pattern = nothing.T @ torch.randn(len(nothing), side, generator=rng(), dtype=torch.float64)
    return pattern.float().expand(1, 3, side, side)


def test_the_first_steps_do_not_see_fine_detail(terms_of, code, target):
    """Half of the resolution: what is gone there changes neither losses nor gradients; later it does."""
    detail = 0.1 * unseen_detail(SIDE, SIDE // 2)
    assert detail.abs().max() > 0.1 and resize(detail, SIDE // 2).abs().max() < 1e-6
    soft = 0.5 * target
    plain, detailed = (terms_of(target=picture)[0] for picture in (soft, soft + detail))
    w = (code + 0.2).requires_grad_()
    for step, same in enumerate([True, True, False]):
        totals = [terms(w, step).total.sum() for terms in (plain, detailed)]
        (expected,), (found,) = (torch.autograd.grad(total, w) for total in totals)
        assert (totals[0].item() == pytest.approx(totals[1].item(), rel=1e-4)) == same
        assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item()) == same


@pytest.mark.parametrize(("share", "expected"), [(0.0, [16] * 4), (0.3, [8, 8, 16, 16]), (1.0, [8] * 4)])
def test_a_share_of_the_steps_is_coarse(invert, share, expected):
    sides = []

    class Noting(RandomFeatures):
        def __call__(self, image, other):
            assert image.shape == other.shape
            sides.append(image.shape[-1])
            return super().__call__(image, other)

    invert(steps=4, coarse_share=share, perceptual=Noting())
    assert sides == expected


def test_the_look_for_a_start_is_coarse(invert):
    sides = set()

    class Noting(RandomFeatures):
        def __call__(self, image, other):
            sides.add((len(image), image.shape[-1]))
            return super().__call__(image, other)

    invert(starts=3, coarse_share=0.0, perceptual=Noting())
    assert sides == {(3, 8), (1, 16)}


def test_w_has_one_code_for_all_layers_and_w_plus_one_for_each(invert, code):
    start = code + 0.3 * torch.randn(code.shape, generator=rng(6))
    for settings in ({"shake": 0.1}, {"initial": start}):
        same = invert(space="w", steps=2, **settings).w_plus
        assert torch.equal(same, same[:, :1].expand_as(same))
        other = invert(space="wplus", steps=2, **settings).w_plus
        assert not torch.allclose(other, other[:, :1].expand_as(other), atol=1e-4)


# -------------------------------------------------------------------- neighbouring views
@pytest.mark.parametrize("views", [1, 3])
def test_neighbours_are_the_same_head_from_beside_the_pose(invert, generator, monkeypatch, views):
    given, codes = [], []

    def noting(psi, view, camera, near, near_cameras, tolerance, through_depth):
        given.append((view, camera.detach(), near, near_cameras.detach(), tolerance, through_depth))
        return multi_view_loss(psi, view, camera, near, near_cameras, tolerance, through_depth)

    monkeypatch.setattr(posefree, "multi_view_loss", noting)
    note = lambda _, state: codes.append(state.w_plus)  # noqa: E731
    invert(views=views, pose_from="mean", offsets=(0.3, 0.05), tolerance=0.07, callback=note)
    moved = []
    for (view, camera, near, near_cameras, *how), w_plus in zip(given, codes, strict=True):
        assert how == [0.07, False] and len(near_cameras) == len(near.image) == views
        pose = generator.pose(w_plus.mean(dim=1))
        assert torch.allclose(camera.label(), generator.camera_at(pose).label(), atol=1e-5)
        for one, seen_from in ((view, camera), (near, near_cameras)):
            shown = generator.synthesize(w_plus.expand(len(seen_from), -1, -1), seen_from)
            assert torch.allclose(one.image, shown.image, atol=1e-4)
        moved.append(near_cameras.yaw - camera.yaw)
        assert (near_cameras.pitch - camera.pitch).abs().max() < 0.06
    moved = torch.cat(moved)
    assert moved.abs().max() < 0.301 and len(moved.unique()) == len(moved)


# -------------------------------------------------------------------- what is found
def test_a_known_head_is_found_with_its_pose(invert, generator, code):
    camera, start = generator.own_camera(code[:, 0]), code + 0.25 * torch.randn(1, 1, 16, generator=rng(4))

    def degrees_off(other: Camera) -> float:
        one, other = (F.normalize(c.position[0], dim=0) for c in (camera, other))
        return math.degrees(torch.arccos((one * other).sum()).item())

    found = invert(initial=start, space="w", steps=40, learning_rate=0.02, lam_geo=0.0)
    before = degrees_off(generator.own_camera(start[:, 0]))
    assert degrees_off(found.camera) < 0.4 * before
    assert found.history["l1"][-1] < 0.4 * found.history["l1"][0]


# -------------------------------------------------------------------- seeds, checkpoints, files
def test_one_seed_gives_one_result_and_another_another(invert, code):
    given = {"initial": code + 0.2}
    assert_same(invert(starts=2), invert(starts=2))
    assert_same(invert(seed=3, **given), invert(seed=3, **given))
    assert not torch.equal(invert(**given).w_plus, invert(seed=3, **given).w_plus), "other neighbours"
    without_chance = given | {"views": 0}
    assert torch.equal(invert(**without_chance).w_plus, invert(seed=3, **without_chance).w_plus)
    assert not torch.equal(invert().w_plus, invert(seed=3).w_plus)


class Killed(Exception):
    """As if the process had ended."""


class Mortal(RandomFeatures):
    """Ends the process at its next distance after so many."""

    def __init__(self, lives: int):
        super().__init__()
        self.lives = lives

    def __call__(self, image, other):
        if self.lives == 0:
            raise Killed
        self.lives -= 1
        return super().__call__(image, other)


@pytest.mark.parametrize(
    "settings", [{"shake": 0.05, "pose_from": "mean"}, {"pose_from": "separate"}], ids=str
)
def test_killed_anywhere_it_goes_on_and_ends_the_same(invert, tmp_path, settings):
    """After the first step of the look for a start, after its end, and after the first of the search."""
    settings = {"starts": 2} | settings
    expected = invert(**settings)
    for lives in (1, 2, 3):
        checkpoints = Checkpoints(tmp_path / str(lives), every=1)
        with pytest.raises(Killed):
            invert(perceptual=Mortal(lives), checkpoints=checkpoints, **settings)
        assert_same(invert(perceptual=Mortal(5 - lives), checkpoints=checkpoints, **settings), expected)
        assert_same(invert(perceptual=Mortal(0), checkpoints=checkpoints, **settings), expected)


@pytest.mark.parametrize("change", [{"lam_mv": 0.4}, {"seed": 1}, {"offsets": (0.1, 0.1)}], ids=str)
def test_checkpoints_of_other_settings_are_refused(invert, tmp_path, change):
    checkpoints = Checkpoints(tmp_path)
    invert(checkpoints=checkpoints)
    with pytest.raises(ValueError, match="is of another run"):
        invert(checkpoints=checkpoints, **change)


def test_a_result_is_read_as_it_was_written(invert, tmp_path):
    found = invert(pose_from="separate")
    again = Inversion.load(found.save(tmp_path / "head.safetensors"))
    assert_same(again, found)
    assert type(again.generator) is PoseFreeEG3D
    assert fingerprint(again.generator.state_dict()) == fingerprint(found.generator.state_dict())
    assert torch.equal(again.render().image, found.render().image)
    assert found.extras["method"] == "posefree" and found.extras["steps"] == 3


# -------------------------------------------------------------------- terms that are left out, and errors
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"identity": "none"}, "identity"),
        ({"lam_id": 0.0}, "identity"),
        ({"lam_mv": 0.0}, "mv"),
        ({"views": 0}, "mv"),
        ({"lam_geo": 0.0}, "geo"),
    ],
    ids=str,
)
def test_a_term_of_no_weight_is_left_out(invert, settings, name):
    there, left_out = (invert(**given).history for given in ({}, settings))
    assert set(there) - set(left_out) == {name}


def test_a_generator_that_says_no_camera_is_refused(invert, target):
    with pytest.raises(ValueError, match=r"says its own camera, such as .*portraits64-posefree.*; got EG3D"):
        invert(generator=tiny_generator())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": "z"}, "space is one of w, wplus; got 'z'"),
        ({"pose_from": "first"}, "pose_from is one of mean, separate; got 'first'"),
        ({"identity": "clip"}, "identity is one of face, image, none; got 'clip'"),
        ({"coarse_share": 1.5}, "coarse_share is a share of the steps, from 0 to 1; got 1.5"),
        ({"steps": 0}, "steps must be 1 or more; got 0"),
        ({"start_steps": 0}, "start_steps must be 1 or more; got 0"),
        ({"starts": 0}, "starts must be 1 or more; got 0"),
        ({"views": -1}, "views counts the neighbours of a step, 0 for none; got -1"),
        ({"starts": 2, "statistics_samples": 1}, "2 starts need as many samples of codes or more; got 1"),
        ({"target": torch.zeros(1, 3, 8, 8)}, r"shape \(1, 3, 16, 16\)"),
        ({"target": torch.full((1, 3, 16, 16), 200.0)}, r"must be in \[-1, 1\]"),
        ({"initial": torch.zeros(3)}, r"expected a latent \[16\]"),
    ],
    ids=str,
)
def test_bad_settings_are_named(invert, settings, message):
    with pytest.raises(ValueError, match=message):
        invert(**settings)


def test_an_inversion_is_gone_on_from_at_its_own_camera(invert, generator):
    first = invert(steps=6, learning_rate=0.2)
    again = invert(initial=first, steps=1, learning_rate=1e-9)
    assert torch.allclose(again.camera.label(), first.camera.label(), atol=1e-5)
    assert torch.allclose(again.w_plus, first.w_plus, atol=1e-5)
    from_code_alone = invert(initial=first.w_plus, steps=1, learning_rate=1e-9)
    mean = generator.own_camera(first.w_plus.mean(dim=1))
    assert torch.allclose(from_code_alone.camera.label(), mean.label(), atol=1e-5)
    assert not torch.allclose(mean.label(), first.camera.label(), atol=1e-3), (
        "the test should tell them apart"
    )


def test_the_code_that_says_the_camera_is_kept(invert, generator):
    found = invert()
    said = generator.own_camera(torch.tensor([found.extras["pose_code"]]))
    assert torch.allclose(said.label(), found.camera.label(), atol=1e-5)
    assert "pose_code" not in invert(space="w").extras
    assert "pose_code" not in invert(pose_from="mean").extras
