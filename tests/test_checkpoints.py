"""Checkpoints made by others: what official files hold is what comes out, and nothing else ever happens.

The files are our own, in the layout that is known of the official ones (tests/official_layout.py): no official
file can be had where the tests run.
"""

import copy
import dataclasses
import json
import os
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.cameras import orbit
from lib.generators import (
    EG3D,
    EG3DConfig,
    SuperResolutionConfig,
    load_generator,
    read_metadata,
    save_generator,
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
from lib.generators.discriminators import DualDiscriminator
from lib.generators.rendering import plane_axes
from tests.official_layout import (
    OFFICIAL_TINY,
    TINY_DISCRIMINATOR,
    Persistent,
    official_contents,
    official_generator,
    source_that_marks,
    write_official_pickle,
    write_pickle,
    write_torch,
)
from tests.tiny_generator import TINY

CARS = dataclasses.replace(
    OFFICIAL_TINY,
    camera_radius=1.7,
    camera_pivot=(0.0, 0.0, 0.0),
    camera_focal=1.7074,
    conditioning_zero=True,
    neural_resolution=64,
    superresolution=SuperResolutionConfig.official("2X"),
)
"""Another released structure, whose super-resolution has the original's widths."""


def random_network(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = kind(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return random_network(EG3D, OFFICIAL_TINY)


@pytest.fixture(scope="module")
def discriminator() -> DualDiscriminator:
    return random_network(DualDiscriminator, TINY_DISCRIMINATOR)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.pkl"


def assert_same(state: dict[str, torch.Tensor], network: torch.nn.Module) -> None:
    expected = network.state_dict()
    assert list(state) == list(expected)
    for key, value in state.items():
        assert value.dtype == torch.float32
        assert value.equal(expected[key]), key


# -------------------------------------------------------------------- official pickles
@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_official_pickle(generator, discriminator, path, protocol, old_numpy):
    mark = path.with_name("mark")
    write_official_pickle(path, generator, discriminator, mark=mark, protocol=protocol, old_numpy=old_numpy)
    assert (b"numpy._core" in path.read_bytes()) != old_numpy
    modules = set(sys.modules)
    for which in ("G_ema", "G"):
        checkpoint = read_checkpoint(path, which)
        assert checkpoint.config == generator.config
        assert_same(checkpoint.state_dict, generator)
    judge = read_checkpoint(path, "D")
    assert judge.config == discriminator.config
    assert_same(judge.state_dict, discriminator)
    assert not mark.exists()
    assert not [
        name for name in set(sys.modules) - modules if name.startswith(("training", "torch_utils", "dnnlib"))
    ]


def test_the_writer_is_as_dangerous_as_the_original(tmp_path):
    """Its source text does leave a mark when it is run: else the tests above would show nothing."""
    mark = tmp_path / "mark"
    exec(source_that_marks(mark), {})
    assert mark.exists()


def test_loaded_generator_makes_the_same_pictures(generator, path):
    loaded = load_generator(write_official_pickle(path, generator))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    camera = orbit(0.3, 0.1)
    views = [g.synthesize(g.map(z, camera, 0.7), camera) for g in (loaded, generator)]
    assert all(a.equal(b) for a, b in zip(*views, strict=True))
    assert loaded.w_mean.equal(copy.deepcopy(generator).measure_w().w_mean)


def test_loaded_generator_can_be_trained_and_copied(generator, path):
    loaded = copy.deepcopy(load_generator(write_official_pickle(path, generator))).requires_grad_(True)
    loaded.synthesize(loaded.map(torch.ones(1, 16), orbit(0.0, 0.0)), orbit(0.0, 0.0)).image.sum().backward()
    assert loaded.decoder.net[0].weight.grad.any()


def test_loaded_discriminator_gives_the_same_scores(generator, discriminator, path):
    loaded = load_discriminator(write_official_pickle(path, generator, discriminator))
    images = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16)
    label = orbit(0.2, 0.0).label().expand(2, -1)
    assert loaded(*images, label).equal(discriminator(*images, label))


def edited(generator, path, edit, discriminator=None):
    """A pickle in the official layout after `edit` changed its contents."""
    contents = official_contents(generator, discriminator)
    edit(contents, contents["G_ema"].state)
    return write_pickle(contents, path)


TOLERATED = {
    "dataset_label_std": lambda c, g: g["_buffers"].update(dataset_label_std=torch.ones(25)),
    "no gpc_reg_prob": lambda c, g: g["rendering_kwargs"].pop("gpc_reg_prob", None),
    "gpc_reg_prob": lambda c, g: g["rendering_kwargs"].update(gpc_reg_prob=0.8),
    "another version": lambda c, g: setattr(c["G_ema"], "version", 5),
    "another class name": lambda c, g: setattr(c["G_ema"], "class_name", "TriPlaneGeneratorV2"),
    "no other network": lambda c, g: (c.pop("G"), c.pop("training_set_kwargs"), c.pop("augment_pipe")),
    "augmentation": lambda c, g: c.update(augment_pipe=official_generator(EG3D(OFFICIAL_TINY))),
    "cached planes": lambda c, g: g.update(_last_planes=torch.ones(1, 3, 4, 4, 4)),
    "no noise mode": lambda c, g: g["rendering_kwargs"].pop("superresolution_noise_mode"),
    "no density noise": lambda c, g: g["rendering_kwargs"].pop("density_noise"),
    "plain dictionaries": lambda c, g: g.update(rendering_kwargs=dict(g["rendering_kwargs"])),
    "settings of the arguments": lambda c, g: g.pop("rendering_kwargs"),
    "no arguments": lambda c, g: (g.pop("_init_args"), g.pop("_init_kwargs")),
    "nothing that is not persistent": lambda c, g: g.update(_non_persistent_buffers_set={"x"}),
    "double precision": lambda c, g: g["_modules"]["backbone"].state["_modules"]["mapping"].state["_buffers"].update(
        w_avg=g["_modules"]["backbone"].state["_modules"]["mapping"].state["_buffers"]["w_avg"].double()
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", TOLERATED)
def test_known_variants_are_read_alike(generator, path, variant):
    checkpoint = read_checkpoint(edited(generator, path, TOLERATED[variant]))
    assert checkpoint.config == generator.config
    assert_same(checkpoint.state_dict, generator)


def set_clamps(state, limit):
    """Give all layers of a stored module this conv_clamp."""
    for child in state["_modules"].values():
        if "conv_clamp" in child.state:
            child.state.update(conv_clamp=limit)
        if child.state.get("_modules"):
            set_clamps(child.state, limit)


SETTINGS = {
    "neural_rendering_resolution": (lambda g: g.update(neural_rendering_resolution=100), {"neural_resolution": 100}),
    "no neural_rendering_resolution": (
        lambda g: g.pop("neural_rendering_resolution"), {"neural_resolution": 64},
    ),
    "c_scale": (lambda g: g["rendering_kwargs"].update(c_scale=0.5), {"c_scale": 0.5}),
    "no c_scale": (lambda g: g["rendering_kwargs"].pop("c_scale"), {"c_scale": 0.0}),
    "conditioning": (
        lambda g: g["rendering_kwargs"].update(c_gen_conditioning_zero=True), {"conditioning_zero": True},
    ),
    "camera": (
        lambda g: g["rendering_kwargs"].update(avg_camera_radius=3, avg_camera_pivot=[0, 0, -0.06]),
        {"camera_radius": 3.0, "camera_pivot": (0.0, 0.0, -0.06)},
    ),
    "clamp of the backbone": (
        lambda g: set_clamps(g["_modules"]["backbone"].state["_modules"]["synthesis"].state, 256),
        {"conv_clamp": 256.0},
    ),
    "half precision of the backbone": (
        lambda g: g["_modules"]["backbone"].state["_modules"]["synthesis"].state.update(num_fp16_res=4),
        {"num_fp16_res": 4},
    ),
    "camera as arrays of numpy": (
        lambda g: g["rendering_kwargs"].update(
            avg_camera_radius=np.float64(2.5), avg_camera_pivot=np.array([0.0, 0.1, 0.2])
        ),
        {"camera_radius": 2.5, "camera_pivot": (0.0, 0.1, 0.2)},
    ),
    "mapping's multiplier": (
        lambda g: g["_modules"]["backbone"].state["_modules"]["mapping"].state["_modules"]["fc0"].state.update(
            bias_gain=0.1
        ),
        {"mapping_lr_multiplier": 0.1},
    ),
    "decoder's multiplier": (
        lambda g: g["_modules"]["decoder"]._modules["net"]._modules["0"].state.update(bias_gain=0.5),
        {"decoder_lr_multiplier": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_beside_the_weights(generator, path, name):
    edit, changes = SETTINGS[name]
    checkpoint = read_checkpoint(edited(generator, path, lambda c, g: edit(g)))
    assert checkpoint.config == dataclasses.replace(generator.config, **changes)


RENDERING = {
    "bounds by the box": {"ray_start": "auto", "ray_end": "auto"},
    "white": {"white_back": True},
    "disparity": {"disparity_space_sampling": True},
    "noise": {"density_noise": 0.5},
    "coarse only": {"depth_resolution": 96, "depth_resolution_importance": 0},
    "box": {"box_warp": 1.6},
}


@pytest.mark.parametrize("name", RENDERING)
def test_rendering_settings(generator, path, name):
    checkpoint = read_checkpoint(
        edited(generator, path, lambda c, g: g["rendering_kwargs"].update(RENDERING[name]))
    )
    assert checkpoint.config.rendering == dataclasses.replace(OFFICIAL_TINY.rendering, **RENDERING[name])
    assert checkpoint.rendering_kwargs.items() >= RENDERING[name].items()


@pytest.mark.parametrize("module", ["8XDC", "8X", "4X", "2X"])
@pytest.mark.parametrize(
    "changes", [{}, {"noise_mode": "const", "antialias": False}, {"float16": False, "conv_clamp": None}]
)
def test_super_resolution(path, module, changes):
    config = SuperResolutionConfig.official(module, widths=(8, 4), input_resolution=8, **changes)
    generator = EG3D(dataclasses.replace(OFFICIAL_TINY, superresolution=config))
    assert read_checkpoint(write_official_pickle(path, generator)).config.superresolution == config


def test_super_resolution_of_old_models(generator, path):
    """Deepfp32 is 4X without antialiasing."""
    config = SuperResolutionConfig.official("4X", widths=(8, 4), input_resolution=8)

    def edit(contents, state):
        module = state["_modules"]["superresolution"]
        module.class_name = "SuperresolutionHybridDeepfp32"
        del module.state["sr_antialias"]
        del state["rendering_kwargs"]["sr_antialias"]

    network = EG3D(dataclasses.replace(OFFICIAL_TINY, superresolution=config))
    found = read_checkpoint(edited(network, path, edit)).config.superresolution
    assert found == dataclasses.replace(config, antialias=False)


# -------------------------------------------------------------------- planes
def projected(axes: torch.Tensor, point: torch.Tensor) -> list[list[float]]:
    """Where the original sees a point on its planes: the row times each inverse, without the last number."""
    return [(point @ torch.linalg.inv(matrix))[:2].tolist() for matrix in axes]


def with_axes(generator, path, axes: torch.Tensor):
    return edited(generator, path, lambda c, g: vars(g["_modules"]["renderer"]).update(plane_axes=axes))


def test_released_planes():
    """Check value of the released models: (1, 2, 3) lies at (1, 2), (1, 3) and (3, 1)."""
    axes = torch.linalg.inv(plane_axes("released")).mT
    assert projected(axes, torch.tensor([1.0, 2.0, 3.0])) == [[1, 2], [1, 3], [3, 1]]


@pytest.mark.parametrize("name", ["released", "corrected"])
def test_planes_of_known_names(generator, path, name):
    config = dataclasses.replace(generator.config, plane_axes=name)
    assert read_checkpoint(write_official_pickle(path, EG3D(config))).config.plane_axes == name


def test_planes_of_any_axes(generator, path):
    """Neither orthogonal nor of unit length: our directions give the original's coordinates."""
    axes = torch.eye(3) + 0.3 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0))
    loaded = load_generator(with_axes(generator, path, axes))
    point = torch.tensor([0.1, -0.2, 0.3])
    found = [(matrix[:2] @ point).tolist() for matrix in loaded.plane_axes]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(projected(axes, point)))


def test_planes_that_are_none(generator, path):
    for axes in (torch.zeros(3, 3, 3), torch.eye(3), torch.full((3, 3, 3), torch.nan)):
        with pytest.raises(CheckpointError, match=r"planes"):
            read_checkpoint(with_axes(generator, path, axes))


def test_planes_said_by_the_caller(generator, path):
    write_torch({"G_ema": EG3D(CARS).state_dict()}, path)
    with pytest.warns(CheckpointWarning):
        assert load_generator(path, plane_axes="corrected").plane_axes.equal(plane_axes("corrected"))


# -------------------------------------------------------------------- files of torch.save
WRAPPED = {
    "as EG3D-projector": lambda state: {"G_ema": state},
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state},
    "lower case": lambda state: {"g_ema": state},
    "of parallel training": lambda state: {"G_ema": {f"module.{key}": value for key, value in state.items()}},
    "with an optimiser": lambda state: {"G_ema": state, "step": 7, "optimiser": {"state": {0: {"step": 1}}}},
    "with the training's buffer": lambda state: {"G_ema": state | {"dataset_label_std": torch.ones(25)}},
    "half": lambda state: {"G_ema": {key: value.half() for key, value in state.items()}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", WRAPPED)
def test_state_dicts(path, name, zipped):
    """Sizes come from shapes; what shapes do not tell is FFHQ 512's, with a warning."""
    network = random_network(EG3D, CARS)
    network.load_state_dict({key: value.half() for key, value in network.state_dict().items()})
    write_torch(WRAPPED[name](network.state_dict()), path, zipped=zipped)
    with pytest.warns(CheckpointWarning, match="no rendering_kwargs"):
        checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state_dict, network)
    default = EG3DConfig()
    expected = dataclasses.replace(
        CARS,
        rendering=default.rendering,
        conditioning_zero=default.conditioning_zero,
        camera_radius=default.camera_radius,
        camera_pivot=default.camera_pivot,
        camera_focal=default.camera_focal,
    )
    assert checkpoint.config == expected
    assert any("rendering_kwargs" in note for note in checkpoint.notes)


@pytest.mark.parametrize("zipped", [True, False])
def test_tuned_generators_saved_whole(generator, path, zipped):
    for contents in (official_generator(generator), {"G_ema": official_generator(generator)}):
        checkpoint = read_checkpoint(write_torch(contents, path, zipped=zipped))
        assert checkpoint.config == generator.config
        assert_same(checkpoint.state_dict, generator)


def test_channels_are_inferred_where_no_argument_tells(generator, path):
    """The smallest base and limit that give the widths."""
    for base, limit in ((256, 16), (128, 16), (128, 8), (96, 64)):
        config = dataclasses.replace(CARS, channel_base=base, channel_max=limit)
        network = EG3D(config)
        write_torch(network.state_dict(), path)
        with pytest.warns(CheckpointWarning):
            assert_same(load_generator(path).state_dict(), network)


@pytest.mark.parametrize("config", [OFFICIAL_TINY, CARS, TINY], ids=["8XDC", "2X", "own"])
@pytest.mark.parametrize(
    "axes", ["released", "corrected", tuple(map(tuple, torch.eye(3).expand(3, 3, 3).tolist()))]
)
def test_exported_generator_is_read_again(tmp_path, config, axes):
    axes = axes if isinstance(axes, str) else tuple(tuple(tuple(row) for row in matrix) for matrix in axes)
    network = random_network(EG3D, dataclasses.replace(config, plane_axes=axes, c_scale=0.5))
    path = export_state_dict(network, tmp_path / "out" / "network.pth")
    assert [file.name for file in path.parent.iterdir()] == ["network.pth"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = read_checkpoint(path)
    assert checkpoint.config == network.config
    assert_same(checkpoint.state_dict, network)
    assert not checkpoint.notes


def test_exported_file_is_what_tools_of_the_original_expect(generator, tmp_path):
    contents = torch.load(export_state_dict(generator, tmp_path / "network.pth"), weights_only=True)
    assert contents["G_ema"].keys() == generator.state_dict().keys() == official_state_dict(generator).keys()
    assert contents["rendering_kwargs"]["box_warp"] == 1
    assert contents["init_kwargs"]["z_dim"] == 16
    full = export_state_dict(EG3D(CARS), tmp_path / "cars.pth")
    kwargs = torch.load(full, weights_only=True)["rendering_kwargs"]
    assert kwargs["superresolution_module"] == "training.superresolution.SuperresolutionHybrid2X"


# -------------------------------------------------------------------- safetensors
def test_converted_file(generator, path, tmp_path):
    write_official_pickle(
        path, random_network(EG3D, dataclasses.replace(OFFICIAL_TINY, plane_axes="corrected"))
    )
    target = convert(path, tmp_path / "out" / "network.safetensors")
    loaded, direct = load_generator(target), load_generator(path)
    assert loaded.config == direct.config
    assert_same(official_state_dict(loaded), direct)
    assert loaded.w_mean.equal(direct.w_mean)
    metadata = read_metadata(target)
    assert json.loads(metadata["config"])["plane_axes"] == "corrected"
    assert metadata["source"] == "network.pkl"
    assert metadata["source_sha256"] == read_checkpoint(path).source_sha256
    assert "research" in metadata["licence"]
    assert load_file(target).keys() - {"w_mean", "w_std"} == direct.state_dict().keys()


def test_safetensors_of_any_length_of_metadata_are_known(generator, path):
    """Their first bytes are a length, which may look like the start of a pickle or of a zip file."""
    for start in (b"\x80\x02", b"\x80\x04", b"PK"):
        metadata = {"remark": ""}
        save_generator(copy.deepcopy(generator).measure_w(n=10), path, torch.float32, metadata)
        missing = int.from_bytes(start, "little") - int.from_bytes(path.read_bytes()[:8], "little")
        metadata["remark"] = "x" * (missing % 2**16)
        save_generator(copy.deepcopy(generator).measure_w(n=10), path, torch.float32, metadata)
        assert path.read_bytes()[:2] == start
        assert load_generator(path).config == generator.config


def test_kinds_of_files_are_told_by_content(generator, tmp_path):
    official = write_official_pickle(tmp_path / "renamed.safetensors", generator)
    assert load_generator(official).config == generator.config
    converted = convert(official, tmp_path / "a.safetensors").rename(tmp_path / "renamed.pkl")
    assert load_generator(converted).config == generator.config
    with pytest.raises(ValueError, match="says itself"):
        load_generator(converted, plane_axes="corrected")


@pytest.fixture(scope="module")
def own_file(generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "network.safetensors"
    return save_generator(copy.deepcopy(generator).measure_w(n=10), path, torch.float32)


def rewritten(path, source, config=None, **tensors):
    """A copy of a file with another text as its configuration, and other tensors; None leaves one out."""
    metadata = read_metadata(source) | ({} if config is None else {"config": config})
    changed = {key: value for key, value in (load_file(source) | tensors).items() if value is not None}
    save_file(changed, path, metadata=metadata)
    return path


def assert_refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


CONFIGURATIONS = {
    "{nope": "expected JSON as 'config'",
    "[" * 100_000: "expected JSON as 'config'",
    "9" * 5_000: "expected JSON as 'config'",
    "[" * 20 + "]" * 20: "nested without end",
    "{}": "it lacks rendering, superresolution",
    "[]": "settings by name as the configuration; found a list",
    "null": "found None",
}


@pytest.mark.parametrize("index", range(len(CONFIGURATIONS)))
def test_safetensors_whose_metadata_is_no_configuration_are_refused(own_file, path, index):
    config, message = list(CONFIGURATIONS.items())[index]
    assert_refused(rewritten(path, own_file, config), message)


WRONG_SETTINGS = [
    ({"z_dim": "512"}, "a number as z_dim; found '512'"),
    ({"z_dim": True}, "a number as z_dim; found True"),
    ({"z_dim": 2.5}, "from 1 to 4096 as z_dim; found 2.5"),
    ({"z_dim": 10**400}, "a number as z_dim; found 'a huge number'"),
    ({"c_dim": 10}, "camera of 25 numbers; this network takes 10"),
    ({"c_dim": 26}, "from 0 to 25 as c_dim"),
    ({"plane_resolution": 2**20}, "from 1 to 4096 as plane_resolution"),
    ({"plane_resolution": 12}, "power of two"),
    ({"channel_base": 0}, "as channel_base; found 0"),
    ({"channel_base": 8}, "channel_base of plane_resolution, 16, or more"),
    ({"channel_max": 2**50}, "as channel_max"),
    ({"mapping_layers": 10**9}, "from 1 to 64 as mapping_layers"),
    ({"mapping_lr_multiplier": 0}, "above 0 as mapping_lr_multiplier"),
    ({"conv_clamp": -1}, "above 0 as conv_clamp"),
    ({"w_dim": 8}, "does not fit the configuration in its metadata: it has in other shapes 22 entries"),
    ({"camera_radius": -1}, "camera_radius must be more than 0"),
    ({"camera_pivot": [0, 0]}, "3 values as camera_pivot; found 2"),
    ({"camera_pivot": 0}, "a list as camera_pivot; found 0"),
    ({"conditioning_zero": "no"}, "True or False as conditioning_zero; found 'no'"),
    ({"conditioning_zero": 7}, "True or False as conditioning_zero; found 7"),
    ({"c_scale": "a"}, "a number as c_scale"),
    ({"c_scale": float("nan")}, "a number as c_scale"),
    ({"plane_axes": "bogus"}, "plane_axes must be"),
    ({"plane_axes": [[[1, 0, 0]]]}, "plane_axes need 3 finite matrices"),
    ({"plane_axes": 3}, "a list as plane_axes"),
    ({"colour": 3}, "unknown are colour"),
    ({"rendering": {"box_warp": 0}}, "box_warp is the side of a cube"),
    ({"rendering": {"box_warp": -1}}, "box_warp is the side of a cube"),
    ({"rendering": {"box_warp": float("inf")}}, "a number as box_warp"),
    ({"rendering": {"depth_resolution": 10**6}}, "from 1 to 4096 as depth_resolution"),
    ({"rendering": {"depth_resolution_importance": -5}}, "from 0 to 4096 as depth_resolution_importance"),
    ({"rendering": {"ray_start": "far"}}, "a number as ray_start; found 'far'"),
    ({"rendering": {"rays": 3}}, "settings of RenderingSettings as rendering; unknown are rays"),
    ({"rendering": 3}, "settings by name as rendering"),
    ({"superresolution": {"noise_mode": "bogus"}}, "noise_mode must be one of"),
    ({"superresolution": {"noise_mode": 1}}, "a text as noise_mode"),
    ({"superresolution": {"widths": [8, 4, 4]}}, "2 values as widths; found 3"),
    ({"superresolution": {"upsample": [True, "x"]}}, "True or False as upsample"),
]


@pytest.mark.parametrize("index", range(len(WRONG_SETTINGS)))
def test_safetensors_of_impossible_settings_are_refused(own_file, path, index):
    """By their types and ranges, before memory is taken: an endless network needs only a few characters."""
    changes, message = WRONG_SETTINGS[index]
    config = json.loads(read_metadata(own_file)["config"])
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    assert_refused(rewritten(path, own_file, json.dumps(config)), message)


FILTER = "backbone.synthesis.b8.conv0.resample_filter"
WRONG_TENSORS = {
    "not finite": ({"decoder.net.0.bias": torch.full([16], torch.nan)}, "decoder.net.0.bias has values that are not"),
    "whole": ({"decoder.net.0.bias": torch.ones(16, dtype=torch.int64)}, "real numbers as decoder.net.0.bias"),
    "filter": ({FILTER: torch.zeros(4, 4)}, r"is not the filter \[1, 3, 3, 1\]"),
    "shape": ({"decoder.net.0.bias": torch.ones(3)}, r"decoder.net.0.bias \[3\] \(expected \[16\]\)"),
    "missing": ({"decoder.net.0.bias": None}, "lacks 1 entries: decoder.net.0.bias"),
    "unknown": ({"decoder.net.4.bias": torch.ones(3)}, "unknown 1 entries: decoder.net.4.bias"),
    "shape of w_mean": ({"w_mean": torch.ones(3)}, r"w_mean \[3\] \(expected \[16\]\)"),
    "no w_std": ({"w_std": None}, "lacks 1 entries: w_std"),
    "w_std not finite": ({"w_std": torch.tensor(torch.inf)}, "w_std has values that are not finite"),
    "negative w_std": ({"w_std": torch.tensor(-1.0)}, "found w_std -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_safetensors_of_other_tensors_are_refused(own_file, path, name):
    tensors, message = WRONG_TENSORS[name]
    assert_refused(rewritten(path, own_file, **tensors), message)


def test_safetensors_of_older_versions_are_read(generator, own_file, path):
    """Without the settings that were added later, and without the statistics of w, which are measured."""
    config = json.loads(read_metadata(own_file)["config"])
    del config["mapping_lr_multiplier"], config["rendering"]["batch_coupled"]
    loaded = load_generator(rewritten(path, own_file, json.dumps(config), w_mean=None, w_std=None))
    assert loaded.config == generator.config
    assert loaded.w_std > 0


def test_files_are_as_readable_as_any_other(generator, own_file, tmp_path):
    (tmp_path / "other").touch()
    exported = export_state_dict(generator, tmp_path / "network.pth")
    modes = {path.stat().st_mode for path in (own_file, exported, tmp_path / "other")}
    assert len(modes) == 1


def test_names_of_files_tell_their_format(generator, path, tmp_path):
    write_official_pickle(path, generator)
    with pytest.raises(ValueError, match=r"ends in \.safetensors; got 'out\.pkl'"):
        convert(path, tmp_path / "out.pkl")
    with pytest.raises(ValueError, match=r"ends in \.pth or \.pt; got 'out\.safetensors'"):
        export_state_dict(generator, tmp_path / "out.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# -------------------------------------------------------------------- files that are something else
def zip_of_texts(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


OTHER_FILES = {
    "nothing": (b"", "the file is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
    "web page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    "compressed": (b"\x1f\x8b\x08\x00" + bytes(20), "unpack it first"),
    "text": (b"hello", "its first bytes b'hello'"),
    "number": (b"\x80\x04K\x01.", "the file is 1"),
    "end of a download": (b"\x80\x04", "interrupted download"),
    "old StyleGAN": (b"\x80\x04cdnnlib.tflib.network\nNetwork\n.", "TensorFlow era"),
    "no network": (b"\x80\x04}\x8c\x01xK\x01s.", "no network 'G_ema'; it has 'x'"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_named(name, path):
    content, message = OTHER_FILES[name]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)


def test_folders_and_other_archives(tmp_path, path):
    with pytest.raises(CheckpointError, match="this is a folder"):
        read_checkpoint(tmp_path)
    zip_of_texts(path)
    with pytest.raises(CheckpointError, match="zip file of other things"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "absent.pkl")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_interrupted_downloads(generator, path, kind, kept):
    if kind == "pickle":
        write_official_pickle(path, generator)
    else:
        write_torch(official_generator(generator), path, zipped=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"ends in the middle|zip file is broken"):
        read_checkpoint(path)


def without(*starts):
    def edit(state):
        return {key: value for key, value in state.items() if not key.startswith(starts)}

    return edit


OTHER_NETWORKS = {
    "StyleGAN2-ADA": (
        lambda s: {k.removeprefix("backbone."): v for k, v in s.items() if k.startswith("backbone.")},
        "StyleGAN2-ADA or StyleGAN3",
    ),
    "rosinality's StyleGAN2": (
        lambda s: dict.fromkeys(("convs.0.conv.weight", "style.1.weight"), torch.ones(2)), "another project's layout",
    ),
    "tri-grid": (
        lambda s: s | {"backbone.synthesis.b16.torgb.weight": torch.ones(36, 16, 1, 1)}, "depth 3 .PanoHead.",
    ),
    "another decoder": (
        lambda s: s | {"decoder.net.4.weight": torch.ones(4, 4)}, "unknown 1 entries: decoder.net.4.weight",
    ),
    "part": (without("backbone.synthesis.b8.conv1.bias"), "lacks 1 entries: backbone.synthesis.b8.conv1.bias"),
    "no blocks": (without("backbone.synthesis"), "the network has no blocks"),
    "a gap in the blocks": (without("backbone.synthesis.b8."), "blocks of the resolutions"),
    "wrong shape": (
        lambda s: s | {"backbone.synthesis.b8.conv1.bias": torch.ones(7)},
        r"other shapes 1 entries: backbone.synthesis.b8.conv1.bias \[7\] \(expected \[16\]\)",
    ),
    "wrong dimensions": (lambda s: s | {"decoder.net.0.weight": torch.ones(7)}, "expected 2 dimensions"),
    "empty tensor": (lambda s: s | {"decoder.net.0.weight": torch.ones(0, 2**30)}, "which no network has"),
    "no label": (without("backbone.mapping.embed"), "this network knows none"),
    "another label": (lambda s: s | {"backbone.mapping.embed.weight": torch.ones(16, 10)}, "camera of 25 numbers"),
    "not a number": (lambda s: s | {"decoder.net.0.bias": torch.full([16], torch.nan)}, "not finite"),
    "whole numbers": (lambda s: s | {"decoder.net.0.bias": torch.ones(16, dtype=torch.int64)}, "real numbers"),
    "another filter": (
        lambda s: s | {"backbone.synthesis.b8.conv0.resample_filter": torch.full([4, 4], 1 / 16)}, r"\[1, 3, 3, 1\]",
    ),
    "another super-resolution": (
        lambda s: s | {"superresolution.block1.conv1.weight": torch.ones(32, 32, 3, 3)}, "unknown super-resolution",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_NETWORKS)
@pytest.mark.filterwarnings("ignore::lib.generators.checkpoints.CheckpointWarning")
def test_other_networks_are_named(name, path):
    edit, message = OTHER_NETWORKS[name]
    write_torch({"G_ema": edit(EG3D(CARS).state_dict())}, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


UNUSABLE = {
    "clamp_mode": ({"clamp_mode": "relu"}, "expected clamp_mode 'softplus'"),
    "box": ({"box_warp": 0}, "a number above 0 as box_warp"),
    "a text": ({"ray_end": "far"}, "a number as ray_end; found 'far'"),
    "a number for a truth value": ({"white_back": 7}, "True or False as white_back; found 7"),
    "half auto": ({"ray_start": "auto"}, "both 'auto'"),
    "order": ({"ray_start": 4.0}, "ray_start < ray_end"),
    "samples": ({"depth_resolution": 2}, "depth_resolution must be"),
    "half a sample": ({"depth_resolution": 2.5}, "whole number"),
    "endless samples": ({"depth_resolution": 10**9}, "from 0 to 4096"),
    "infinite": ({"c_scale": float("inf")}, "a number as c_scale"),
    "pivot": ({"avg_camera_pivot": [0, 0]}, "three numbers"),
    "noise": ({"superresolution_noise_mode": "loud"}, "superresolution_noise_mode 'loud'"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_settings_that_cannot_be_used(generator, path, name):
    changes, message = UNUSABLE[name]
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(edited(generator, path, lambda c, g: g["rendering_kwargs"].update(changes)))


@pytest.mark.parametrize(
    "layer", ["mapping.fc0", "mapping.embed", "synthesis.b8.conv1", "synthesis.b8.conv1.affine"]
)
def test_layers_that_compute_otherwise_are_refused(generator, path, layer):
    """Another activation, which no shape shows."""

    def edit(contents, state):
        module = state["_modules"]["backbone"]
        for name in layer.split("."):
            module = module.state["_modules"][name]
        module.state.update(activation="relu")

    with pytest.raises(CheckpointError, match=rf"of backbone\.{layer}; it has 'relu'"):
        read_checkpoint(edited(generator, path, edit))


def test_layers_of_different_clamps_are_refused(generator, path):
    def edit(contents, state):
        synthesis = state["_modules"]["backbone"].state["_modules"]["synthesis"]
        synthesis.state["_modules"]["b8"].state["_modules"]["conv1"].state.update(conv_clamp=3.0)

    with pytest.raises(CheckpointError, match=r"one conv_clamp for all of backbone\.synthesis"):
        read_checkpoint(edited(generator, path, edit))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_clamp_to_nothing_is_refused(generator, path, limit):
    with pytest.raises(CheckpointError, match="above 0 as conv_clamp"):
        read_checkpoint(
            edited(generator, path, lambda c, g: set_clamps(g["_modules"]["backbone"].state, limit))
        )


def test_missing_settings_are_named(generator, path):
    with pytest.raises(CheckpointError, match="rendering_kwargs lack box_warp"):
        read_checkpoint(edited(generator, path, lambda c, g: g["rendering_kwargs"].pop("box_warp")))


def test_networks_that_are_not_there(generator, discriminator, path):
    write_official_pickle(path, generator)
    with pytest.raises(CheckpointError, match=r"no network 'D'; it has 'G', 'G_ema'"):
        load_discriminator(path)
    write_pickle(official_contents(generator) | {"D": None}, path)
    with pytest.raises(CheckpointError, match=r"no network 'D'; what it has as 'D' is None: choose"):
        load_discriminator(path)
    with pytest.raises(CheckpointError, match=r"no network 'G_ema'; what it has as 'g_ema' is a dict of 1:"):
        read_checkpoint(write_pickle({"g_ema": {"x": 1}}, path))
    with pytest.raises(ValueError, match="load_discriminator"):
        load_generator(path, which="D")
    contents = official_contents(generator, discriminator)
    with pytest.raises(CheckpointError, match="this is a discriminator"):
        read_checkpoint(write_pickle({"G_ema": contents["D"]}, path))
    with pytest.raises(CheckpointError, match="the generator of an EG3D"):
        read_checkpoint(write_pickle({"D": contents["G"]}, path), "D")


# -------------------------------------------------------------------- hostile files
class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def nested(levels: int, start, wrap):
    for _ in range(levels):
        start = wrap(start)
    return start


def endless_modules(state):
    """Every module twice in the next: 2^40 by path."""
    module = nested(40, state["_modules"]["ray_sampler"], lambda m: twice(m))
    state["_modules"]["ray_sampler"] = module


def twice(module):
    made = type(module)()
    vars(made).update(vars(torch.nn.Module()) | {"_modules": {"a": module, "b": module}})
    return made


def chain(state):
    state["_modules"]["ray_sampler"] = nested(60, state["_modules"]["ray_sampler"], once)


def once(module):
    made = type(module)()
    vars(made).update(vars(torch.nn.Module()) | {"_modules": {"a": module}})
    return made


def share_a_set(state):
    """One set, which may be long, in many modules; to look at it in each could take hours."""
    own = vars(torch.nn.Module()) | {"_non_persistent_buffers_set": {"x"}}
    for name in "ab":
        state["_modules"][name] = Persistent(
            "X", own | {"_buffers": {}, "_parameters": {}, "_modules": {}}, ""
        )


HOSTILE = {
    "call as a network": lambda c, g: c.update(G_ema=Call(os.system, "touch mark")),
    "call as a weight": lambda c, g: g["_parameters"].update(x=Call(os.system, "touch mark")),
    "call as a setting": lambda c, g: g["rendering_kwargs"].update(x=Call(eval, "open('mark', 'w')")),
    "call where nobody looks": lambda c, g: c.update(augment_pipe=Call(exec, "open('mark', 'w')")),
    "call in another network": lambda c, g: c["G"].state.update(x=Call(getattr, "os", "system")),
    "call in a discriminator": lambda c, g: c.update(D=Call(os.mkdir, "mark")),
    "calls as source text": lambda c, g: setattr(c["G_ema"], "source", Call(os.system, "touch mark")),
    "call as a state": lambda c, g: setattr(c["G_ema"], "state", Call(os.system, "touch mark")),
    "call as a class's name": lambda c, g: setattr(c["G_ema"], "class_name", Call(os.system, "touch mark")),
    "a function": lambda c, g: g.update(forward=print),
    "endless settings": lambda c, g: g.update(rendering_kwargs=nested(60, {}, lambda x: {"a": x, "b": x})),
    "endless lists": lambda c, g: g["rendering_kwargs"].update(x=nested(60, [], lambda x: [x, x])),
    "endless tuples": lambda c, g: g["rendering_kwargs"].update(x=nested(60, (), lambda x: (x, x))),
    "endless arguments": lambda c, g: g.update(_init_kwargs=nested(60, {}, lambda x: {"a": x, "b": x})),
    "endless key": lambda c, g: g["rendering_kwargs"].update({nested(20, (), lambda x: (x, x)): 1}),
    "endless modules": lambda c, g: endless_modules(g),
    "deep modules": lambda c, g: chain(g),
    "modules of one state": lambda c, g: g["_modules"].update(
        {name: Persistent("X", vars(g["_modules"]["ray_sampler"]), "") for name in "ab"}
    ),
    "hidden buffers of many modules": lambda c, g: share_a_set(g),
    "endless names of parameters": lambda c, g: g["_parameters"].update({"x" * 10**6: torch.ones(1)}),
    "endless number": lambda c, g: g.update(neural_rendering_resolution=2**2000),
    "endless setting": lambda c, g: g["rendering_kwargs"].update(box_warp=2**2000),
    "endless activation": lambda c, g: (
        g["_modules"]["decoder"]
        ._modules["net"]
        ._modules["0"]
        .state.update(activation=nested(60, (), lambda x: (x, x)))
    ),
    "parameters as a list": lambda c, g: g.update(_parameters=[1, 2]),
    "modules as a set": lambda c, g: g.update(_modules={1, 2}),
    "modules that are none": lambda c, g: g["_modules"].update(x=[1]),
    "parameters that are none": lambda c, g: g.update(_parameters=nested(60, (), lambda x: (x, x))),
    "buffers that are none": lambda c, g: g["_buffers"].update(x=nested(60, (), lambda x: (x, x))),
    "endless class name": lambda c, g: setattr(c["G_ema"], "class_name", nested(60, (), lambda x: (x, x))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused_and_do_nothing(generator, path, monkeypatch, name):
    monkeypatch.chdir(path.parent)
    edited(generator, path, HOSTILE[name])
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert len(str(caught.value)) < 1000
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_texts_that_are_shared_do_not_grow(generator, path):
    text = "x" * 10**5
    many = dict.fromkeys(map(str, range(100)), text)
    checkpoint = read_checkpoint(edited(generator, path, lambda c, g: g["rendering_kwargs"].update(many)))
    assert len(json.dumps(checkpoint.rendering_kwargs)) < 20_000


def test_tensors_that_share_their_numbers_do_not_grow(path):
    """All weights as views of the largest: a small file, that would fill far more memory than it has bytes."""
    state = EG3D(dataclasses.replace(CARS, channel_base=2**14, channel_max=64, w_dim=64)).state_dict()
    numbers = torch.zeros(max(value.numel() for value in state.values()))
    shared = {key: numbers[: value.numel()].view(value.shape) for key, value in state.items()}
    write_torch({"G_ema": shared}, path)
    assert path.stat().st_size < sum(value.nbytes for value in state.values()) / 2
    with pytest.raises(CheckpointError, match="more numbers than the file has"):
        read_checkpoint(path)


MEMORY = """
import resource, sys, warnings
from lib.generators.checkpoints import read_checkpoint
read_checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_checkpoint(sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_below_the_files_size(tmp_path, generator):
    """The limit of 2.5 times the file, with room: only the network that is asked for is read, once."""
    small = write_official_pickle(tmp_path / "small.pkl", generator)
    wide = EG3D(dataclasses.replace(OFFICIAL_TINY, w_dim=512, channel_max=256, channel_base=2**14))
    contents = official_contents(wide)
    contents["G"] = official_generator(copy.deepcopy(wide))
    large = write_pickle(contents, tmp_path / "large.pkl")
    command = [sys.executable, "-c", MEMORY, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path.cwd())
    assert large.stat().st_size > 2e7
    assert int(done.stdout) < 1.2 * large.stat().st_size


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


UNDER_LIMITS = """
import resource, sys
from pathlib import Path
from tests.fuzz_checkpoints import outcome
outcome(Path(sys.argv[1]))  # what is imported at first use is imported now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for path in sys.argv[1:]:
    print(outcome(Path(path)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set as Linux has them")
def test_hostile_checkpoints_take_little_time_and_memory(generator, tmp_path):
    files = [
        edited(generator, tmp_path / f"{index}.pkl", edit) for index, edit in enumerate(HOSTILE.values())
    ]
    text = b"X" + (2**24).to_bytes(4, "little") + b"x" * 2**24 + b"\x940"  # remembered, to be used again
    numbers = b"(" + b"K\x01" * 200_000 + b"t\x940"
    storage = named("torch", "FloatStorage")
    for name, code in {
        "bytes again": text
        + (named("_codecs", "encode") + b"h\x00" + short("latin1") + b"\x86R0") * 5_000
        + b"N",
        "names again": text + (short("training") + b"h\x00\x93" + b"0") * 5_000 + b"N",
        "shapes again": numbers
        + (named("torch._utils", "_rebuild_tensor_v2") + b"(NK\x00h\x00h\x00tR0") * 5_000,
        "keys again": text + (b"(" + short("storage") + storage + b"h\x00NNtQ0") * 5_000,
        "flood": b"}" * 3_000_000,
        "deep": b"]" * 900_000,
        "long": b"X" + (2**31).to_bytes(4, "little"),
        "wide": b"(" + b"N" * 900_000 + b"t" + b"\x94" + b"h\x00" * 9,
    }.items():
        files.append(tmp_path / f"{name}.pkl")
        files[-1].write_bytes(b"\x80\x04" + code + b".")
    command = [sys.executable, "-c", UNDER_LIMITS, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == len(files)
    assert all(outcome.startswith("refused") for outcome in outcomes), outcomes


def test_mutants_are_read_or_refused(tmp_path):
    """A few hundred of those of `python -m tests.fuzz_checkpoints`."""
    command = [sys.executable, "-m", "tests.fuzz_checkpoints", "--mutations", "300", "--seed", "1"]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout


# -------------------------------------------------------------------- command line
def test_command_line(generator, path, tmp_path, capsys):
    write_official_pickle(path, generator)
    assert main(["inspect", str(path)]) == 0
    assert "16" in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "a.safetensors")]) == 0
    assert main(["export", str(tmp_path / "a.safetensors"), str(tmp_path / "a.pth")]) == 0
    assert_same(official_state_dict(load_generator(tmp_path / "a.pth")), generator)


def test_inspection_of_safetensors(generator, path, tmp_path, capsys):
    """By name or by file; what is JSON in the metadata is shown as such."""
    assert main(["inspect", "portraits64"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["rendering"]["box_warp"] == 1
    converted = convert(write_official_pickle(path, generator), tmp_path / "a.safetensors")
    assert main(["inspect", str(converted)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rendering_kwargs"]["clamp_mode"] == "softplus"
    assert shown["config"]["z_dim"] == 16
    assert shown["source"] == path.name


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize("command", ["convert", "export"])
def test_places_that_cannot_be_written_to(generator, path, capsys, command):
    write_official_pickle(path, generator)
    out = {"convert": "/proc/x.safetensors", "export": "/proc/x.pth"}[command]
    assert main([command, str(path), out]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "/proc" in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "convert", "export"])
def test_errors_of_the_command_line_are_one_line(command, path, tmp_path, capsys):
    path.write_text("<html>\nSign in\n</html>")
    name = {"inspect": None, "convert": "out.safetensors", "export": "out.pth"}[command]
    out = [str(tmp_path / name)] if name else []
    assert main([command, str(path), *out]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "web page" in captured.err
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert main([command, str(tmp_path / "absent.pkl"), *out]) == 1


def test_the_module_runs_as_a_command(path):
    path.write_bytes(b"")
    command = [sys.executable, "-W", "error", "-m", "lib.generators", "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: ")
    assert done.stderr.count("\n") == 1
