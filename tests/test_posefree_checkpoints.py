"""Checkpoints of PoF3D: what its files hold comes out as a generator that says its own pose, and nothing else happens.

The files are our own, in the layout that is known of the official ones (tests/official_layout.py).
"""

import dataclasses
import json
import math
import os
import warnings

import pytest
import torch

from lib.generators import (
    EG3D,
    EG3DConfig,
    PoseFreeConfig,
    PoseFreeEG3D,
    SuperResolutionConfig,
    load_generator,
)
from lib.generators.__main__ import main
from lib.generators.checkpoints import (
    CheckpointError,
    CheckpointWarning,
    convert,
    export_state_dict,
    load_discriminator,
    official_state_dict,
    read_checkpoint,
)
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator, PoseAwareDiscriminator
from lib.generators.official import official_init_kwargs, official_rendering_kwargs
from tests.official_layout import (
    OFFICIAL_TINY,
    TINY_DISCRIMINATOR,
    EasyDict,
    official_contents,
    official_generator,
    write_official_pickle,
    write_pickle,
    write_torch,
)

FACES = PoseFreeConfig.like(
    OFFICIAL_TINY,
    neural_resolution=64,
    pose_bound="clamped",
    superresolution=SuperResolutionConfig.official("4X", widths=(8, 4), input_resolution=8, antialias=False),
)
"""The structure of the FFHQ recipe, in a tenth of a second."""

CARS = dataclasses.replace(
    FACES,
    camera_radius=1.7,
    camera_pivot=(0.0, 0.0, 0.0),
    camera_focal=525 / 512,
    pose_mean_h=math.pi,
    pose_limits_h=(0.0, 2 * math.pi),
    pose_limits_v=(0.0, 3.1415926),
    superresolution=SuperResolutionConfig.official("2X", antialias=False),
)
"""That of the ShapeNet recipe, whose super-resolution has the original's widths."""

JUDGE = dataclasses.replace(TINY_DISCRIMINATOR, c_dim=2, pose_branch=True)

LEARNER = "backbone.mapping.affine_layer"


def random_network(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = kind(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> PoseFreeEG3D:
    return random_network(PoseFreeEG3D, FACES)


@pytest.fixture(scope="module")
def discriminator() -> PoseAwareDiscriminator:
    return random_network(PoseAwareDiscriminator, JUDGE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.pkl"


def assert_same(state, network):
    expected = network.state_dict()
    assert list(state) == list(expected)
    for key, value in state.items():
        assert value.dtype == torch.float32
        assert value.equal(expected[key]), key


def mapping_of(state):
    """The stored mapping network, with what PoF3D's has as attributes."""
    return state["_modules"]["backbone"].state["_modules"]["mapping"]


def edited(generator, path, edit, discriminator=None):
    """A pickle in the official layout after `edit` changed its contents."""
    contents = official_contents(generator, discriminator)
    edit(contents, contents["G_ema"].state)
    return write_pickle(contents, path)


# -------------------------------------------------------------------- what is in the files
def test_names_and_shapes_are_those_of_the_released_code():
    """EG3D's, less the embedding of the camera, more the two layers of the pose learner; at the official size."""
    with torch.device("meta"):
        pose_free, conditioned = (
            {key: tuple(value.shape) for key, value in kind(config).state_dict().items()}
            for kind, config in (
                (PoseFreeEG3D, PoseFreeConfig()),
                (EG3D, EG3DConfig(superresolution=SuperResolutionConfig.official("4X"))),
            )
        )
    learner = {
        f"{LEARNER}1.weight": (512, 512),
        f"{LEARNER}1.bias": (512,),
        f"{LEARNER}2.weight": (2, 512),
        f"{LEARNER}2.bias": (2,),
    }
    assert {key: pose_free[key] for key in learner} == learner
    assert sum(math.prod(shape) for shape in learner.values()) == 512 * 512 + 512 + 2 * 512 + 2  # 0.26 M
    assert pose_free.keys() - learner.keys() == conditioned.keys() - {
        "backbone.mapping.embed.weight",
        "backbone.mapping.embed.bias",
    }
    first = "backbone.mapping.fc0.weight"
    assert (pose_free.pop(first), conditioned.pop(first)) == ((512, 512), (512, 1024))
    assert all(pose_free[key] == conditioned[key] for key in pose_free.keys() - learner.keys())


def test_names_and_shapes_of_the_pose_branch():
    """EG3D's dual discriminator at the official size, told two numbers, with two layers more."""
    with torch.device("meta"):
        judge = PoseAwareDiscriminator(DiscriminatorConfig(resolution=256, c_dim=2, pose_branch=True))
        plain = DualDiscriminator(DiscriminatorConfig(resolution=256, c_dim=0))
        dual = DualDiscriminator(DiscriminatorConfig(resolution=256))
    shapes, plain, dual = (
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for network in (judge, plain, dual)
    )
    branch = {
        "b4.cam_out1.weight": (4096, 8192),
        "b4.cam_out1.bias": (4096,),
        "b4.cam_out2.weight": (2, 4096),
        "b4.cam_out2.bias": (2,),
    }
    assert {key: shapes[key] for key in branch} == branch
    assert shapes["mapping.embed.weight"] == (512, 2)
    assert shapes.keys() - branch.keys() == dual.keys()
    assert plain.keys() == {key for key in dual if not key.startswith("mapping.")}
    assert plain["b4.out.weight"] == (1, 512)


# -------------------------------------------------------------------- official pickles
def test_official_pickle(generator, discriminator, path):
    mark = path.with_name("mark")
    write_official_pickle(path, generator, discriminator, mark=mark)
    for which in ("G_ema", "G"):
        checkpoint = read_checkpoint(path, which)
        assert checkpoint.config == generator.config
        assert_same(checkpoint.state_dict, generator)
        assert not checkpoint.notes
    judge = read_checkpoint(path, "D")
    assert judge.config == discriminator.config
    assert_same(judge.state_dict, discriminator)
    assert not mark.exists()


def test_loaded_generator_says_the_same_poses_and_makes_the_same_pictures(generator, path):
    loaded = load_generator(write_official_pickle(path, generator))
    assert type(loaded) is PoseFreeEG3D
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    (w_plus, camera), (expected, own) = loaded.generate(z, 0.7), generator.generate(z, 0.7)
    assert w_plus.equal(expected)
    assert camera.world_from_cam.equal(own.world_from_cam)
    assert loaded.synthesize(w_plus[:1], camera[:1], neural_resolution=4).image.equal(
        generator.synthesize(expected[:1], own[:1], neural_resolution=4).image
    )
    assert loaded.w_std > 0


def test_loaded_discriminator_gives_the_same_judgement(generator, discriminator, path):
    loaded = load_discriminator(write_official_pickle(path, generator, discriminator))
    assert type(loaded) is PoseAwareDiscriminator
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16)
    for found, expected in zip(loaded(*images), discriminator(*images), strict=True):
        assert found.equal(expected)


def test_plain_discriminators_are_read(generator, path):
    """That of the paper's ablation sees pictures alone."""
    plain = random_network(
        DualDiscriminator, dataclasses.replace(TINY_DISCRIMINATOR, c_dim=0, mapping_layers=0)
    )
    loaded = load_discriminator(write_official_pickle(path, generator, plain))
    assert loaded.config == plain.config
    assert_same({key: value.detach() for key, value in loaded.state_dict().items()}, plain)


def test_both_kinds_are_told_by_their_tensors(generator, path):
    """The class's name, the settings and the label's size are alike in both."""
    conditioned = random_network(EG3D, OFFICIAL_TINY)
    contents = official_contents(conditioned) | {"G": official_generator(generator)}
    write_pickle(contents, path)
    assert type(load_generator(path, which="G")) is PoseFreeEG3D
    assert type(load_generator(path)) is EG3D


def test_generators_of_cars(path):
    """Their frame starts elsewhere, angles are cut off, and the camera is another."""
    cars = random_network(PoseFreeEG3D, CARS)
    loaded = load_generator(write_official_pickle(path, cars))
    assert loaded.config == CARS
    w = 1e4 * torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    h, v = loaded.pose(w).unbind(dim=1)
    assert h.min() == 0 and h.max() == torch.tensor(2 * math.pi)
    assert v.min() > 0 and v.max() < math.pi


def set_attribute(name, value, layer):
    return lambda c, g: mapping_of(g).state["_modules"][layer].state.update({name: value})


SETTINGS = {
    "h_mean": (lambda c, g: g["rendering_kwargs"].update(h_mean=1.0), {"pose_mean_h": 1.0}),
    "no h_mean": (lambda c, g: g["rendering_kwargs"].pop("h_mean"), {}),
    "clamp_h": (
        lambda c, g: g["rendering_kwargs"].update(clamp_h=(0.5, 2.5)),
        {"pose_limits_h": (0.5, 2.5)},
    ),
    "clamp_v": (lambda c, g: g["rendering_kwargs"].update(clamp_v=[1, 2]), {"pose_limits_v": (1.0, 2.0)}),
    "pose learner's multiplier": (set_attribute("bias_gain", 0.1, "affine_layer1"), {"pose_lr_multiplier": 0.1}),
    "mapping's multiplier": (set_attribute("bias_gain", 0.1, "fc0"), {"mapping_lr_multiplier": 0.1}),
    "field of view of another camera": (
        lambda c, g: g["rendering_kwargs"].update(fov_mean=20.0),
        {"camera_focal": 1 / (1.414 * math.tan(math.radians(10)))},
    ),
    "no field of view": (lambda c, g: g["rendering_kwargs"].update(fov_mean=None), {}),
    "rays": (lambda c, g: g.update(neural_rendering_resolution=32), {"neural_resolution": 32}),
    "conditioning that nobody uses": (
        lambda c, g: g["rendering_kwargs"].update(c_gen_conditioning_zero=True), {"conditioning_zero": True},
    ),
    "the setting that PoF3D's super-resolution does not look at": (
        lambda c, g: g["_modules"]["superresolution"].state.update(sr_antialias=True), {},
    ),
    "weights and switches of its training": (
        lambda c, g: g["rendering_kwargs"].update(
            dis_cam_weight=2.0, pose_gd_weight=1.0, flip_type="flip_both", learn_fov=False, gpc_reg_prob=0
        ),
        {},
    ),
    "what a mapping without these options has": (
        lambda c, g: mapping_of(g).state.update(linear_pose=False, cam_dim=2, uniform_sampling=False), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_beside_the_weights(generator, path, name):
    edit, changes = SETTINGS[name]
    checkpoint = read_checkpoint(edited(generator, path, edit))
    assert checkpoint.config == dataclasses.replace(FACES, **changes)
    assert_same(checkpoint.state_dict, generator)


# -------------------------------------------------------------------- state dicts
def test_bare_state_dicts(path):
    """Sizes come from shapes; the rest is that of the FFHQ recipe, which is said."""
    network = random_network(PoseFreeEG3D, CARS)
    write_torch(network.state_dict(), path)
    with pytest.warns(CheckpointWarning, match="settings of PoF3D's FFHQ recipe"):
        checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state_dict, network)
    default = PoseFreeConfig()
    usual = ("rendering", "camera_radius", "camera_pivot", "camera_focal", "neural_resolution")
    usual += ("pose_mean_h", "pose_limits_h", "pose_limits_v", "pose_bound", "pose_lr_multiplier")
    expected = dataclasses.replace(CARS, **{name: getattr(default, name) for name in usual})
    assert checkpoint.config == expected
    assert any("assumed 64, that of all PoF3D recipes" in note for note in checkpoint.notes)


def beside(config, **changes):
    """What PoF3D's tools could write beside a state dict."""
    rendering = EasyDict(official_rendering_kwargs(config)) | changes
    for ours in ("avg_camera_focal", "pose_bound"):
        rendering.pop(ours)
    return {
        "rendering_kwargs": rendering,
        "init_kwargs": official_init_kwargs(config) | {"rendering_kwargs": 0},
    }


@pytest.mark.parametrize(("wrong", "axes"), [(True, "released"), (False, "corrected")])
def test_planes_of_state_dicts_are_said_by_pof3d_in_its_own_word(path, wrong, axes):
    network = random_network(PoseFreeEG3D, CARS)
    settings = beside(dataclasses.replace(CARS, pose_lr_multiplier=0.1), wrong=wrong)
    write_torch({"G_ema": network.state_dict()} | settings, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == dataclasses.replace(CARS, plane_axes=axes, pose_lr_multiplier=0.1)
    assert not any("plane_axes" in note for note in checkpoint.notes)


# -------------------------------------------------------------------- writing
SMOOTH = PoseFreeConfig.like(FACES, pose_bound="smooth", pose_mean_h=1.0, pose_lr_multiplier=0.1)
ANY_AXES = tuple(tuple(tuple(row) for row in matrix) for matrix in torch.eye(3).expand(3, 3, 3).tolist())


@pytest.mark.parametrize(
    "config",
    [FACES, CARS, SMOOTH, *(dataclasses.replace(FACES, plane_axes=axes) for axes in ("corrected", ANY_AXES))],
    ids=["faces", "cars", "smooth", "corrected", "any axes"],
)  # fmt: skip
def test_exported_generator_is_read_again(tmp_path, config):
    network = random_network(PoseFreeEG3D, config)
    path = export_state_dict(network, tmp_path / "network.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = read_checkpoint(path)
    assert checkpoint.config == config
    assert_same(checkpoint.state_dict, network)
    assert not checkpoint.notes


def test_exported_file_is_what_pof3ds_tools_expect(tmp_path):
    """Its constructors ask for these by name; `wrong` is not optional."""
    contents = torch.load(export_state_dict(PoseFreeEG3D(CARS), tmp_path / "cars.pth"), weights_only=True)
    kwargs, init = contents["rendering_kwargs"], contents["init_kwargs"]
    assert kwargs["superresolution_module"] == "training.superresolution.SuperresolutionHybrid2X"
    assert kwargs["wrong"] is True
    assert kwargs["h_mean"] == math.pi
    assert kwargs["clamp_h"] == [0, 2 * math.pi]
    assert kwargs["clamp_v"] == [0, 3.1415926]
    assert init["mapping_kwargs"] == {"num_layers": 2, "lr_multiplier": 0.01, "lr_multiplier_pose": 0.01}
    assert init["c_dim"] == 25
    faces = official_rendering_kwargs(dataclasses.replace(FACES, plane_axes="corrected"))
    assert faces["wrong"] is False
    assert "clamp_h" not in faces and "clamp_v" not in faces


def test_the_settings_of_an_eg3d_are_as_before():
    """Nothing of PoF3D enters its files."""
    assert not {"wrong", "h_mean", "pose_bound"} & official_rendering_kwargs(OFFICIAL_TINY).keys()
    assert "lr_multiplier_pose" not in official_init_kwargs(OFFICIAL_TINY)["mapping_kwargs"]


def test_command_line(generator, discriminator, path, tmp_path, capsys):
    write_official_pickle(path, generator, discriminator)
    assert main(["inspect", str(path)]) == 0
    assert '"pose_mean_h"' in capsys.readouterr().out
    assert main(["inspect", str(path), "--which", "D"]) == 0
    assert '"pose_branch": true' in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "a.safetensors")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["pose_bound"] == "clamped"
    assert main(["export", str(tmp_path / "a.safetensors"), str(tmp_path / "a.pth")]) == 0
    assert_same(official_state_dict(load_generator(tmp_path / "a.pth")), generator)


def test_converted_file_keeps_the_settings(path, tmp_path):
    write_official_pickle(path, random_network(PoseFreeEG3D, CARS))
    assert load_generator(convert(path, tmp_path / "cars.safetensors")).config == CARS


# -------------------------------------------------------------------- what is refused
def other(changes, *absent):
    """A state dict with these entries more, or others, and without those."""
    return lambda s: {key: value for key, value in (s | changes).items() if key not in absent}


LINEAR = other(
    {f"{LEARNER}.weight": torch.ones(2, 16), f"{LEARNER}.bias": torch.ones(2)},
    *(f"{LEARNER}{index}.{name}" for index in (1, 2) for name in ("weight", "bias")),
)

OTHER_NETWORKS = {
    "linear pose": (LINEAR, "two layers; this one is linear .PoF3D's linear_pose."),
    "learned distance": (
        other({f"{LEARNER}2.weight": torch.ones(3, 16), f"{LEARNER}2.bias": torch.ones(3)}), "says 3 numbers .*cam_dim",
    ),
    "background": (other({"backbone.bg_nerf.fc_in.weight": torch.ones(16, 16, 1, 1)}), "separate background .bg_nerf."),
    "a missing layer": (other({}, f"{LEARNER}2.weight"), "the network has no backbone.mapping.affine_layer2.weight"),
    "a missing bias": (other({}, f"{LEARNER}1.bias"), "lacks 1 entries: backbone.mapping.affine_layer1.bias"),
    "a renamed layer": (
        lambda s: {key.replace("affine_layer1", "affine_layer0"): value for key, value in s.items()},
        "lacks 2 entries: backbone.mapping.affine_layer1.*unknown 2 entries: backbone.mapping.affine_layer0",
    ),
    "a wider layer": (
        other({f"{LEARNER}1.weight": torch.ones(16, 17)}),
        r"affine_layer1.weight \[16, 17\] \(expected \[16, 16\]\)",
    ),
    "a camera, too": (
        other({"backbone.mapping.embed.weight": torch.ones(16, 25)}), "unknown 1 entries: backbone.mapping.embed.weight",
    ),
    "no pose": (
        other({}, *(f"{LEARNER}{index}.{name}" for index in (1, 2) for name in ("weight", "bias"))),
        "this network knows none .c_dim 0., and has no pose learner",
    ),
    "not a number": (
        other({f"{LEARNER}2.bias": torch.full([2], torch.nan)}), "affine_layer2.bias has values that are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_NETWORKS)
@pytest.mark.filterwarnings("ignore::lib.generators.checkpoints.CheckpointWarning")
def test_other_networks_are_named(name, path):
    edit, message = OTHER_NETWORKS[name]
    write_torch({"G_ema": edit(PoseFreeEG3D(CARS).state_dict())}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")


UNUSABLE = {
    "mean": ({"h_mean": "front"}, "a number as h_mean; found 'front'"),
    "one limit": ({"clamp_h": [1]}, "two numbers as clamp_h"),
    "limit of text": ({"clamp_h": [0, "x"]}, "a number as clamp_h; found 'x'"),
    "order of limits": ({"clamp_v": [2, 1]}, "pose_limits_v are two angles, the lower one first"),
    "bound": ({"pose_bound": "x" * 900}, "clamped or smooth as pose_bound"),
    "no field of view": ({"fov_mean": 0}, "above 0 as fov_mean"),
    "a number for a truth value": ({"fov_mean": True}, "a number as fov_mean; found True"),
    "all around": ({"fov_mean": 200}, "camera_focal must be more than 0"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_settings_that_cannot_be_used(generator, path, name):
    changes, message = UNUSABLE[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(edited(generator, path, lambda c, g: g["rendering_kwargs"].update(changes)))
    assert len(str(caught.value)) < 1000


def test_poses_that_are_drawn_are_refused(generator, path):
    with pytest.raises(CheckpointError, match=r"draws its poses .*uniform_sampling"):
        read_checkpoint(
            edited(generator, path, lambda c, g: mapping_of(g).state.update(uniform_sampling=True))
        )


@pytest.mark.parametrize(("layer", "activation"), [("affine_layer1", "linear"), ("affine_layer2", "lrelu")])
def test_pose_learners_that_compute_otherwise_are_refused(generator, path, layer, activation):
    """Another activation, which no shape shows."""
    edit = set_attribute("activation", activation, layer)
    with pytest.raises(CheckpointError, match=rf"of backbone\.mapping\.{layer}; it has '{activation}'"):
        read_checkpoint(edited(generator, path, edit))


BRANCH = ("b4.cam_out1.weight", "b4.cam_out1.bias", "b4.cam_out2.weight", "b4.cam_out2.bias")
OTHER_JUDGES = {
    "linear": (other({"b4.cam_out.weight": torch.ones(2, 256)}, *BRANCH), "linear .PoF3D's dis_linear_pose."),
    "not told": (
        lambda s: {key: value for key, value in s.items() if not key.startswith("mapping.")}, "this one takes 0 numbers",
    ),
    "told a camera": (other({"mapping.embed.weight": torch.ones(16, 25)}), "this one takes 25 numbers"),
    "half a branch": (other({}, "b4.cam_out1.weight"), "lacks 1 entries: b4.cam_out1.weight"),
    "three numbers": (other({"b4.cam_out2.weight": torch.ones(3, 128)}), r"cam_out2.weight \[3, 128\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_JUDGES)
def test_other_discriminators_are_named(discriminator, path, name):
    edit, message = OTHER_JUDGES[name]
    with pytest.raises(CheckpointError, match=message):
        load_discriminator(write_torch({"D": edit(discriminator.state_dict())}, path))


# -------------------------------------------------------------------- hostile files
class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


HOSTILE = {
    "call as a layer of the pose learner": lambda c, g: (
        mapping_of(g).state["_modules"].update(affine_layer1=Call(os.system, "touch mark"))
    ),
    "call as a weight": lambda c, g: mapping_of(g).state["_parameters"].update(x=Call(os.mkdir, "mark")),
    "call as an option": lambda c, g: mapping_of(g).state.update(cam_dim=Call(os.system, "touch mark")),
    "call as limits": lambda c, g: g["rendering_kwargs"].update(clamp_h=Call(eval, "open('mark', 'w')")),
    "call as the mean": lambda c, g: g["rendering_kwargs"].update(h_mean=Call(exec, "open('mark', 'w')")),
    "endless mean": lambda c, g: g["rendering_kwargs"].update(h_mean=2**2000),
    "endless limits": lambda c, g: g["rendering_kwargs"].update(clamp_h=[0.0] * 9_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused_and_do_nothing(generator, path, monkeypatch, name):
    monkeypatch.chdir(path.parent)
    edited(generator, path, HOSTILE[name])
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert len(str(caught.value)) < 1000
    assert [file.name for file in path.parent.iterdir()] == [path.name]
