"""A generator that says its own pose, and a discriminator that sees one."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.cameras import orbit
from lib.generators import (
    CheckpointError,
    PoseFreeConfig,
    PoseFreeEG3D,
    load_generator,
    read_metadata,
    save_generator,
)
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator, PoseAwareDiscriminator
from lib.generators.posefree import EDGE, POSE_BOUNDS, bounded, limited
from lib.generators.storage import fingerprint
from lib.inversion import Inversion
from lib.inversion.projection import project, w_statistics
from tests.tiny_generator import TINY, RandomFeatures, tiny_generator

CONFIG = PoseFreeConfig.like(TINY, camera_pivot=(0.0, 0.0, 0.2))
VIEWS = orbit(torch.tensor([-0.6, 0.0, 0.5]), torch.tensor([0.2, -0.3, 0.1]))


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(**changes) -> PoseFreeEG3D:
    """Random weights; angles of about a radian."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PoseFreeEG3D(dataclasses.replace(CONFIG, **changes)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> PoseFreeEG3D:
    return made().measure_w(n=500)


@pytest.fixture
def learning(generator) -> PoseFreeEG3D:
    return copy.deepcopy(generator).requires_grad_(True)


# ----------------------------------------------------------------------- the camera never enters
def test_codes_do_not_know_a_camera(generator):
    z = random(0, 3, 16)
    expected = generator.map(z)
    for camera in (VIEWS, orbit(1.0, 0.5), torch.zeros(25), None):
        assert generator.map(z, camera).equal(expected)
        assert generator.map(z, camera, 0.7, 3).equal(generator.map(z, None, 0.7, 3))
    conditioned = tiny_generator()  # so that there is something to see
    assert not conditioned.map(z, VIEWS).equal(conditioned.map(z, orbit(1.0, 0.5)))


def test_statistics_do_not_know_a_camera(generator):
    measured = [copy.deepcopy(generator).measure_w(camera, n=100) for camera in (None, orbit(1.0, 0.5))]
    assert measured[0].w_mean.equal(measured[1].w_mean)
    assert measured[0].w_std == measured[1].w_std
    found = [
        w_statistics(generator, camera, 50, torch.Generator().manual_seed(0)) for camera in (None, VIEWS[:1])
    ]
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_measured_statistics_are_those_of_the_mapping(generator):
    measured = copy.deepcopy(generator).measure_w(n=200, seed=3)
    w = generator.backbone.mapping(random(3, 200, 16), None)
    torch.testing.assert_close(measured.w_mean, w.mean(dim=0))
    torch.testing.assert_close(measured.w_std, (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt())


def test_projection_starts_at_the_same_code_under_any_camera(generator):
    """Methods that hand the target's camera to the mapping find what those find that do not."""
    view = VIEWS[:1]
    target = generator.synthesize(generator.map(random(1, 1, 16)), view).image.clamp(-1, 1)
    settings = {"space": "w", "steps": 3, "perceptual": RandomFeatures(), "progress": False}
    frontal, own = (
        project(generator, target, view, conditioning=conditioning, statistics_samples=50, **settings)
        for conditioning in ("frontal", "target")
    )
    assert frontal.w_plus.equal(own.w_plus)
    assert frontal.history == own.history


def test_a_configuration_with_a_camera_is_refused():
    with pytest.raises(ValueError, match="knows no camera: c_dim must be 0, not 25"):
        dataclasses.replace(CONFIG, c_dim=25)


# ----------------------------------------------------------------------- pose
def test_pose_is_two_layers_of_the_code(generator):
    """By the plain formula: weights and biases times the rate, leaky ReLU times the root of 2."""
    layers = generator.backbone.mapping
    w = random(2, 5, 16)
    rate = CONFIG.pose_lr_multiplier
    hidden = w @ layers.affine_layer1.weight.T * (rate / 4) + layers.affine_layer1.bias * rate
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden) * math.sqrt(2)
    offset = hidden @ layers.affine_layer2.weight.T * (rate / 4) + layers.affine_layer2.bias * rate
    h, v = generator.pose(w).unbind(dim=1)
    torch.testing.assert_close(h, offset[:, 0] + math.pi / 2)
    torch.testing.assert_close(v, math.pi / (1 + torch.exp(-4 / math.pi * offset[:, 1])))
    assert h.std() > 0.3


def test_the_frame_of_cars_starts_elsewhere(generator):
    w = random(2, 5, 16)
    (h, v), (h_cars, v_cars) = generator.pose(w).T, made(pose_mean_h=math.pi).pose(w).T
    torch.testing.assert_close(h_cars - h, torch.full([5], math.pi / 2))
    assert v.equal(v_cars)


def test_cameras_of_poses_are_those_of_the_paper(generator):
    """origin = r (sin phi cos(pi - h), cos phi, sin phi sin(pi - h)), phi = arccos(1 - 2 v / pi); without roll."""
    pose = torch.stack([random(3, 9) + 1.5, torch.linspace(0.3, 2.8, 9)], dim=1)
    cameras = generator.camera_at(pose)
    for (h, v), camera in zip(pose.tolist(), cameras.world_from_cam, strict=True):
        phi = math.acos(1 - 2 * v / math.pi)
        origin = [
            2.7 * part
            for part in (
                math.sin(phi) * math.cos(math.pi - h),
                math.cos(phi),
                math.sin(phi) * math.sin(math.pi - h),
            )
        ]
        assert camera[:3, 3].tolist() == pytest.approx(origin, abs=1e-5)
        right, _, forward = camera[:3, :3].T
        assert right[1].item() == pytest.approx(0, abs=1e-6)  # level: no roll
        towards = torch.tensor([0.0, 0.0, 0.2]) - camera[:3, 3]
        torch.testing.assert_close(forward, towards / towards.norm())
    assert cameras.intrinsics.allclose(generator.frontal_camera().intrinsics)


def test_more_of_h_and_v_moves_the_camera_as_eg3d_has_it(generator):
    """The front is pi / 2, pi / 2; more v goes down; near the front yaw is h, and pitch 2 / pi of v."""
    front = torch.full([1, 2], math.pi / 2)
    torch.testing.assert_close(
        generator.camera_at(front).world_from_cam, generator.frontal_camera().world_from_cam
    )
    camera = generator.camera_at(torch.tensor([[math.pi / 2 + 0.01, math.pi / 2 - 0.01]]))
    assert camera.yaw.item() == pytest.approx(generator.camera(0.01).yaw.item(), abs=1e-6)
    assert camera.position[0, 1].item() == pytest.approx(2.7 * 0.01 * 2 / math.pi, rel=1e-3)


@pytest.mark.parametrize("bound", POSE_BOUNDS)
@pytest.mark.parametrize("size", [1.0, 1e3, 1e8])
def test_every_code_has_a_camera_with_finite_gradients(bound, size):
    """v is within its range by construction: beyond it the polar angle is no number."""
    generator = made(pose_bound=bound)
    w = (size * random(4, 40, 16)).requires_grad_()
    pose = generator.pose(w)
    v = pose[:, 1]
    assert v.min() >= EDGE and v.max() <= math.pi - EDGE
    if size > 1:
        assert v.min() < 1e-4 and v.max() > math.pi - 1e-4  # the bound was needed
    world_from_cam = generator.camera_at(pose).world_from_cam
    assert world_from_cam.isfinite().all()
    (gradient,) = torch.autograd.grad(world_from_cam.square().sum() + world_from_cam.sum(), w)
    assert gradient.isfinite().all()


def test_the_smooth_bound_touches_the_identity_at_the_front():
    v = torch.tensor(math.pi / 2, dtype=torch.float64, requires_grad=True)
    value = bounded(v, "smooth")
    (slope,) = torch.autograd.grad(value, v)
    assert value.item() == pytest.approx(math.pi / 2, abs=1e-12)
    assert slope.item() == pytest.approx(1, abs=1e-12)
    angles = torch.linspace(-4, 7, 200, dtype=torch.float64)
    smooth = bounded(angles, "smooth")
    assert (smooth.diff() > 0).all()
    torch.testing.assert_close(smooth + bounded(math.pi - angles, "smooth"), torch.full_like(smooth, math.pi))


def test_the_clamped_bound_is_the_identity_within():
    v = torch.tensor([-1.0, 0.4, 3.0, 4.0], requires_grad=True)
    value = bounded(v, "clamped")
    assert value.tolist() == pytest.approx([EDGE, 0.4, 3.0, math.pi - EDGE])
    (slope,) = torch.autograd.grad(value.sum(), v)
    assert slope.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("bound", POSE_BOUNDS)
def test_limits_cut_off_the_pose(bound):
    limits = {"pose_limits_h": (1.0, 2.0), "pose_limits_v": (1.2, 1.9)}
    w = random(4, 60, 16)
    free, cut = made(pose_bound=bound).pose(w), made(pose_bound=bound, **limits).pose(w)
    assert cut[:, 0].equal(free[:, 0].clamp(1.0, 2.0))
    assert not cut.equal(free)
    assert len(cut[:, 1].unique()) < 60 and cut[:, 1].min() < cut[:, 1].max()
    if bound == "clamped":
        assert cut[:, 1].equal(free[:, 1].clamp(1.2, 1.9))
    assert limited(w, None) is w


@pytest.mark.parametrize("name", ["pose_limits_h", "pose_limits_v"])
def test_limits_have_an_order(name):
    with pytest.raises(ValueError, match=f"{name} are two angles, the lower one first"):
        made(**{name: (2.0, 1.0)})


def test_unknown_bounds_are_refused():
    with pytest.raises(ValueError, match="clamped or smooth; got 'loose'"):
        made(pose_bound="loose")


def test_pose_is_that_of_the_code_before_truncation(generator):
    """As in the released code: truncation changes the head, and not the view."""
    z = random(5, 4, 16)
    with torch.no_grad():
        w = generator.map(z)[:, 0]
        own = copy.deepcopy(generator)
        own.backbone.mapping.w_avg.copy_(random(6, 16))
        w_plus, cameras = own.generate(z, truncation_psi=0.3)
    assert cameras.world_from_cam.equal(generator.own_camera(w).world_from_cam)
    assert not w_plus[:, 0].allclose(w)
    assert not cameras.world_from_cam.allclose(own.own_camera(w_plus[:, 0]).world_from_cam)
    assert w_plus.equal(own.map(z, truncation_psi=0.3))


# ----------------------------------------------------------------------- gradients
def touched(generator: PoseFreeEG3D) -> set[str]:
    """The layers that have a gradient other than 0."""
    names = {
        name.rpartition(".")[0]
        for name, parameter in generator.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    return {name.removeprefix("backbone.mapping.") for name in names}


LEARNER = {"affine_layer1", "affine_layer2"}


def test_pose_teaches_the_pose_learner_alone_where_the_code_is_cut_off(learning):
    """What PoF3D's pose consistency relies on."""
    w = learning.map(random(7, 2, 16))[:, 0]
    learning.pose(w.detach()).sum().backward()
    assert touched(learning) == LEARNER


def test_pose_teaches_the_mapping_too_where_the_code_is_not_cut_off(learning):
    learning.pose(learning.map(random(7, 2, 16))[:, 0]).sum().backward()
    assert touched(learning) == LEARNER | {"fc0", "fc1"}


def test_the_picture_teaches_the_pose_learner_through_the_camera(learning):
    """Inversion by the code alone moves the camera by this."""
    z = random(7, 1, 16)
    w_plus, camera = learning.generate(z)
    learning.synthesize(w_plus.detach(), camera).image.square().sum().backward()
    assert touched(learning) >= LEARNER


def test_gradient_of_the_pose_is_that_of_finite_differences():
    """For one code at a time, at both bounds."""
    for bound in POSE_BOUNDS:
        layers = made(pose_bound=bound).double()
        w = 0.3 * random(8, 2, 16, dtype=torch.float64)
        assert torch.autograd.gradcheck(layers.pose, w.requires_grad_())


def test_poses_keep_their_precision_under_autocast(generator):
    """bfloat16 knows angles to half a degree."""
    w = random(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        pose = generator.pose(w)
    assert pose.equal(generator.pose(w))


# ----------------------------------------------------------------------- files
@pytest.mark.parametrize(
    "changes", [{}, {"pose_bound": "clamped", "pose_mean_h": 3.0, "pose_limits_h": (0.0, 6.0)}]
)
def test_own_files_keep_everything(tmp_path, changes):
    generator = made(**changes).measure_w(n=50)
    loaded = load_generator(save_generator(generator, tmp_path / "a.safetensors", torch.float32))
    assert type(loaded) is PoseFreeEG3D
    assert loaded.config == generator.config
    assert fingerprint(loaded.state_dict()) == fingerprint(generator.state_dict())
    assert loaded.w_mean.equal(generator.w_mean)
    z = random(0, 2, 16)
    (w_plus, cameras), (expected, own) = loaded.generate(z), generator.generate(z)
    assert w_plus.equal(expected)
    assert cameras.world_from_cam.equal(own.world_from_cam)


def rewritten(source, path, **changes):
    """A copy of a file with other settings; None leaves one out."""
    metadata = read_metadata(source)
    config = json.loads(metadata["config"]) | changes
    metadata["config"] = json.dumps({key: value for key, value in config.items() if value is not None})
    save_file(load_file(source), path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def own_file(generator, tmp_path_factory):
    return save_generator(generator, tmp_path_factory.mktemp("own") / "network.safetensors", torch.float32)


def test_settings_that_came_later_may_be_missing(generator, own_file, tmp_path):
    path = rewritten(own_file, tmp_path / "old", pose_limits_h=None, pose_limits_v=None)
    assert load_generator(path).config == generator.config


WRONG = [
    ({"c_dim": 25}, "c_dim must be 0, not 25"),
    ({"pose_bound": "loose"}, "pose_bound is clamped or smooth; got 'loose'"),
    ({"pose_bound": 1}, "a text as pose_bound"),
    ({"pose_mean_h": "front"}, "a number as pose_mean_h"),
    ({"pose_lr_multiplier": 0}, "above 0 as pose_lr_multiplier"),
    ({"pose_limits_h": [0]}, "2 values as pose_limits_h; found 1"),
    ({"pose_limits_h": 1}, "a list as pose_limits_h"),
    ({"pose_limits_v": [2, 1]}, "pose_limits_v are two angles"),
    ({"w_dim": 8}, "does not fit the configuration"),
    ({"pose_bound": None}, "unknown are pose_mean_h"),
]


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_own_files_of_impossible_settings_are_refused(own_file, tmp_path, index):
    changes, message = WRONG[index]
    path = rewritten(own_file, tmp_path / "network.safetensors", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("based", [True, False])
def test_inversions_are_kept_with_the_generator_they_belong_to(generator, own_file, tmp_path, based):
    """Whole, or as what differs from a file: here the pose learner was tuned."""
    tuned = copy.deepcopy(generator)
    tuned.backbone.mapping.affine_layer2.bias += 20
    w_plus = generator.map(random(9, 1, 16))
    camera = tuned.own_camera(w_plus[:, 0])
    inversion = Inversion(w_plus, tuned, camera, {"l1": [1.0, 0.5]}, {"method": "posefree"})
    path = inversion.save(tmp_path / "a.safetensors", base=str(own_file) if based else None)
    weights = [key for key in load_file(path) if key.startswith("generator.")]
    assert weights == ["generator.backbone.mapping.affine_layer2.bias"] or not based
    loaded = Inversion.load(path)
    assert type(loaded.generator) is PoseFreeEG3D
    assert loaded.generator.config == generator.config
    assert loaded.w_plus.equal(w_plus)
    assert loaded.history == inversion.history
    assert loaded.extras == inversion.extras
    own = loaded.generator.own_camera(loaded.w_plus[:, 0])
    assert own.world_from_cam.equal(camera.world_from_cam)
    torch.testing.assert_close(loaded.camera.world_from_cam, camera.world_from_cam)
    assert not own.world_from_cam.allclose(generator.own_camera(w_plus[:, 0]).world_from_cam)
    assert loaded.render().image.allclose(inversion.render().image, atol=1e-5)


# ----------------------------------------------------------------------- discriminator
JUDGE = DiscriminatorConfig.embedded(
    8, channel_base=64, channel_max=6, mapping_layers=2, group_size=2, c_dim=2, pose_branch=True
)
PICTURES = random(10, 4, 3, 8, 8), random(11, 4, 3, 4, 4)


def judge(kind: type[DualDiscriminator] = PoseAwareDiscriminator, **changes) -> DualDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(dataclasses.replace(JUDGE, **changes))


def gradients(network: torch.nn.Module) -> set[str]:
    return {
        name.rpartition(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


BRANCH = {"b4.cam_out1", "b4.cam_out2"}


def test_score_is_conditioned_on_the_own_prediction_without_a_gradient():
    discriminator = judge()
    score, pose = discriminator(*PICTURES)
    assert score.shape == (4,) and pose.shape == (4, 2)
    assert score.equal(discriminator(*PICTURES, pose.detach()).score)
    score.sum().backward()
    assert not BRANCH & gradients(discriminator)
    assert {"mapping.embed", "b4.out", "b8.conv0"} <= gradients(discriminator)
    connected = discriminator(*PICTURES, discriminator(*PICTURES).pose).score
    connected.sum().backward()  # there is something to cut off
    assert gradients(discriminator) >= BRANCH


def test_seen_pose_teaches_the_branch_and_what_is_below_it():
    discriminator = judge()
    discriminator(*PICTURES).pose.sum().backward()
    assert BRANCH | {"b8.conv0", "b4.conv"} <= gradients(discriminator)
    assert not {"mapping.embed", "b4.out", "b4.fc"} & gradients(discriminator)


def test_score_under_a_given_pose_is_the_projection_of_the_mapped_pose():
    """As in a dual discriminator without the branch, which adds an output and changes nothing else."""
    discriminator, dual = judge(), judge(DualDiscriminator, pose_branch=False)
    dual.load_state_dict(
        {key: value for key, value in discriminator.state_dict().items() if "cam_out" not in key}
    )
    pose = random(12, 4, 2)
    judgement = discriminator(*PICTURES, pose)
    with torch.no_grad():
        vector, mapped = dual.b4(dual.features(*PICTURES)), dual.mapping(None, pose)
    expected = [float(a @ b) / math.sqrt(len(a)) for a, b in zip(vector, mapped, strict=True)]
    assert judgement.score.tolist() == pytest.approx(expected, abs=1e-6)
    assert not judgement.score.allclose(discriminator(*PICTURES, pose + 1).score)
    assert judgement.pose.equal(discriminator(*PICTURES).pose)


def test_a_discriminator_of_no_label_sees_pictures_alone():
    """The plain dual discriminator of the ablation: the score is the last layer's one number."""
    plain = judge(DualDiscriminator, c_dim=0, pose_branch=False)
    assert plain.mapping is None
    score = plain(*PICTURES, None)
    assert score.equal(plain.b4(plain.features(*PICTURES))[:, 0])
    assert not plain(-PICTURES[0], PICTURES[1], None).allclose(score)
    score.sum().backward()
    assert {"b4.out", "b4.fc", "b8.conv0"} <= gradients(plain)


@pytest.mark.parametrize("changes", [{"c_dim": 25}, {"c_dim": 0}, {"pose_branch": False}])
def test_a_pose_aware_discriminator_is_told_two_angles(changes):
    with pytest.raises(ValueError, match="has pose_branch=True and c_dim=2"):
        judge(**changes)


def test_a_label_has_no_negative_size():
    with pytest.raises(ValueError, match="0 for none; got -1"):
        dataclasses.replace(JUDGE, c_dim=-1)
