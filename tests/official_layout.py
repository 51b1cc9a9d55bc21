"""Files in the layout of the original EG3D, written from our own networks: what the readers are tested with.

No official file can be had where the tests run. What is known of the layout: networks are objects of "persistent"
classes, pickled as a call of `torch_utils.persistence._reconstruct_persistent_obj` with the class's whole source
text and the object's attributes; a few classes are pickled by name; tensors are whole torch.save files within
the pickle; gains are numpy numbers. Loading such a file by pickle runs the source text; ours would create the
file `mark`, so that a test can see that nothing did.
"""

import contextlib
import os
import pickle
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.generators import EG3D, EG3DConfig, RenderingSettings, SuperResolutionConfig
from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator
from lib.generators.official import official_init_kwargs, official_rendering_kwargs
from lib.generators.rendering import plane_axes
from lib.paths import replacing

OFFICIAL_TINY = EG3DConfig(
    z_dim=16,
    w_dim=16,
    plane_resolution=16,
    plane_channels=4,
    channel_base=256,
    channel_max=16,
    decoder_hidden=16,
    feature_channels=4,
    neural_resolution=8,
    rendering=RenderingSettings(8, 4),
    superresolution=SuperResolutionConfig.official("8XDC", widths=(8, 4), input_resolution=8),
)
"""The released models' structure, in a tenth of a second."""

TINY_DISCRIMINATOR = DiscriminatorConfig(resolution=32, channel_base=256, channel_max=16, mapping_layers=2)


# -------------------------------------------------------------------- objects as they are pickled
def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("a test unpickled an official file")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """An object of a persistent class: `state` is its attributes, `source` the text beside it."""

    def __init__(self, class_name: str, state: dict, source: str, version: int = 6):
        self.class_name, self.state, self.source, self.version = class_name, state, source, version

    def __reduce__(self) -> tuple:
        meta = {
            "type": "class",
            "version": self.version,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (meta,)


class EasyDict(dict):
    """Pickled as dnnlib.util.EasyDict."""


EasyDict.__module__ = "dnnlib.util"


def _scalar(kind: np.dtype, content: bytes) -> np.generic:
    return np.frombuffer(content, kind)[0]


_scalar.__module__, _scalar.__qualname__ = "numpy.core.multiarray", "scalar"


def _class(module: str, name: str) -> type:
    return type(name, (), {"__module__": module})


RENDERING = "training.volumetric_rendering"
BY_NAME = {
    "decoder": _class("training.triplane", "OSGDecoder"),
    "renderer": _class(f"{RENDERING}.renderer", "ImportanceRenderer"),
    "ray_sampler": _class(f"{RENDERING}.ray_sampler", "RaySampler"),
    "renderer.ray_marcher": _class(f"{RENDERING}.ray_marcher", "MipRayMarcher2"),
}
"""Classes that the original does not make persistent, by the path of their object."""

PERSISTENT = {
    r"b4": "DiscriminatorEpilogue",
    r"b\d+": "DiscriminatorBlock",
    r"b\d+\.(conv\d?|skip|fromrgb)": "Conv2dLayer",
    r"superresolution": "Superresolution",  # a variant's name takes its place
    r"backbone": "Generator",
    r"backbone\.synthesis": "SynthesisNetwork",
    r"(.+\.)?mapping": "MappingNetwork",
    r"backbone\.synthesis\.b\d+|superresolution\.block\d": "SynthesisBlock",
    r".+\.conv\d": "SynthesisLayer",
    r".+\.torgb": "ToRGBLayer",
    r".*(affine|affine_layer\d|embed|fc\d?|out|cam_out\d|net\.[02])": "FullyConnectedLayer",
}
"""Persistent classes, by the path of their object."""


def _attributes(module: nn.Module, path: str) -> dict[str, Any]:
    """What an object of the original has beside parameters, as far as readers could look at it."""
    attributes: dict[str, Any] = {}
    for name in ("conv_clamp", "up", "resolution", "num_layers", "use_fp16"):
        if hasattr(module, name):
            attributes[name] = getattr(module, name)
    linear = re.fullmatch(r"decoder\..*|(.+\.)?(affine|affine_layer2|embed|out|cam_out2|skip)", path)
    if hasattr(module, "weight_gain"):
        attributes["weight_gain"] = np.float64(module.weight_gain)
    if "weight" in module._parameters and not path.endswith("torgb"):
        attributes["activation"] = "linear" if linear else "lrelu"
    if hasattr(module, "bias_gain"):
        attributes["bias_gain"] = module.bias_gain
    return attributes


def _state(module: nn.Module, path: str, source: str) -> dict[str, Any]:
    """`__dict__` of an official object: that of an empty module, its tensors, its children, its attributes."""
    kept = {
        name: value
        for name, value in module._buffers.items()
        if name not in module._non_persistent_buffers_set
    }
    children = {
        name: _official(child, f"{path}.{name}".removeprefix("."), source)
        for name, child in module._modules.items()
        if child is not None
    }
    return {
        **vars(nn.Module()),
        "training": False,
        "_parameters": dict(module._parameters),
        "_buffers": kept,
        "_modules": children,
        **_attributes(module, path),
        "_init_args": (),
        "_init_kwargs": {},
    }


def _official(module: nn.Module, path: str, source: str) -> Any:
    """One of our modules as the original would pickle it."""
    if path in BY_NAME or isinstance(module, nn.Sequential | nn.Softplus):
        made = BY_NAME[path]() if path in BY_NAME else type(module)()
        state = _state(module, path, source)
        vars(made).update({key: value for key, value in state.items() if not key.startswith("_init")})
        return made
    name = next(name for pattern, name in PERSISTENT.items() if re.fullmatch(pattern, path))
    return Persistent(name, _state(module, path, source), source)


def _empty(path: str) -> Any:
    made = BY_NAME[path]()
    vars(made).update(vars(nn.Module()))
    return made


def _superresolution_class(config: SuperResolutionConfig) -> str:
    """The original's class of this structure; its widths are fixed, ours may be smaller."""

    def structure(config: SuperResolutionConfig) -> tuple:
        return config.upsample, config.own_filter, config.resize_larger

    official = {name: SuperResolutionConfig.official(name) for name in ("8XDC", "8X", "4X", "2X")}
    return "SuperresolutionHybrid" + next(
        n for n, known in official.items() if structure(known) == structure(config)
    )


def official_generator(generator: EG3D, source: str = "") -> Persistent:
    """The generator as an object of the original."""
    config = generator.config
    state = _state(generator, "", source)
    renderer = _empty("renderer")
    renderer._modules["ray_marcher"] = _empty("renderer.ray_marcher")
    renderer.plane_axes = torch.linalg.inv(plane_axes(config.plane_axes)).mT.contiguous()
    state["_modules"] |= {"renderer": renderer, "ray_sampler": _empty("ray_sampler")}
    state["_modules"]["backbone"].state["_modules"]["synthesis"].state["num_fp16_res"] = config.num_fp16_res
    superresolution = state["_modules"]["superresolution"]
    superresolution.class_name = _superresolution_class(config.superresolution)
    superresolution.state |= {
        "input_resolution": config.superresolution.input_resolution,
        "sr_antialias": config.superresolution.antialias,
    }
    for block in ("block0", "block1"):
        superresolution.state["_modules"][block].state["use_fp16"] = config.superresolution.float16
    rendering_kwargs = EasyDict(official_rendering_kwargs(config))
    for name in ("avg_camera_focal", "batch_coupled", "pose_bound"):  # the original has no such settings
        rendering_kwargs.pop(name, None)
    rendering_kwargs["superresolution_module"] = f"training.superresolution.{superresolution.class_name}"
    state |= {
        "rendering_kwargs": rendering_kwargs,
        "neural_rendering_resolution": config.neural_resolution,
        "_last_planes": None,
        "_init_kwargs": official_init_kwargs(config) | {"rendering_kwargs": rendering_kwargs},
    }
    return Persistent("TriPlaneGenerator", state, source)


def official_discriminator(discriminator: DualDiscriminator, source: str = "") -> Persistent:
    """The discriminator as an object of the original."""
    config = discriminator.config
    made = Persistent("DualDiscriminator", _state(discriminator, "", source), source)
    blocks = made.state["_modules"]
    deviation = Persistent("MinibatchStdLayer", vars(nn.Module()) | {"group_size": config.group_size}, source)
    blocks["b4"].state["_modules"]["mbstd"] = deviation
    for index, size in enumerate(
        sorted(int(name[1:]) for name in blocks if re.fullmatch(r"b\d+", name))[:0:-1]
    ):
        state = blocks[f"b{size}"].state
        state["use_fp16"] = index < config.num_fp16_res
        state["_modules"]["conv0"].state["conv_clamp"] = config.conv_clamp
    made.state |= {"disc_c_noise": config.label_noise}
    return made


def official_contents(
    generator: EG3D, discriminator: DualDiscriminator | None = None, source: str = ""
) -> dict:
    """What the original's training loop pickles: three networks, the data's settings, the augmentation."""
    networks = {"G": official_generator(generator, source)}
    if discriminator is not None:
        networks["D"] = official_discriminator(discriminator, source)
    return {
        **networks,
        "G_ema": official_generator(generator, source),
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="ffhq.zip"),
        "augment_pipe": None,
    }


# -------------------------------------------------------------------- files
@contextlib.contextmanager
def official_modules(old_numpy: bool = False) -> Iterator[None]:
    """The original's modules, as far as pickle looks them up by name; gone again afterwards."""
    members: dict[str, list] = {
        **{package: [] for package in ("torch_utils", "dnnlib", "training", RENDERING)},
        "torch_utils.persistence": [_reconstruct_persistent_obj],
        "dnnlib.util": [EasyDict],
    }
    for kind in BY_NAME.values():
        members.setdefault(kind.__module__, []).append(kind)
    if old_numpy:
        members["numpy.core.multiarray"] = [_scalar]
    before = {name: sys.modules.get(name) for name in members}
    try:
        for name, things in members.items():
            sys.modules[name] = types.ModuleType(name)
            for thing in things:
                setattr(sys.modules[name], thing.__qualname__, thing)
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_pickle(
    contents: Any, path: str | os.PathLike, *, protocol: int = 4, old_numpy: bool = False
) -> Path:
    """Pickle as the original does; `old_numpy` names numpy's functions as before version 2."""
    with official_modules(old_numpy), replacing(path) as temporary, temporary.open("wb") as file:
        pickler = pickle.Pickler(file, protocol)
        if old_numpy:
            pickler.dispatch_table = {np.float64: lambda value: (_scalar, (value.dtype, value.tobytes()))}
        pickler.dump(contents)
    return Path(path)


def write_torch(contents: Any, path: str | os.PathLike, *, zipped: bool = True) -> Path:
    """Save by torch.save, as tools around the original do: a state dict, or a whole tuned generator."""
    with official_modules(), replacing(path) as temporary:
        torch.save(contents, temporary, _use_new_zipfile_serialization=zipped)
    return Path(path)


def source_that_marks(mark: str | os.PathLike) -> str:
    """A source text which, when it is run, creates the file `mark`."""
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n\n\nclass TriPlaneGenerator:\n    pass\n"


def write_official_pickle(
    path: str | os.PathLike,
    generator: EG3D,
    discriminator: DualDiscriminator | None = None,
    *,
    mark: str | os.PathLike = "source-was-run",
    protocol: int = 4,
    old_numpy: bool = False,
) -> Path:
    """A pickle in the official layout, whose source texts would create the file `mark` if they were run."""
    contents = official_contents(generator, discriminator, source_that_marks(mark))
    return write_pickle(contents, path, protocol=protocol, old_numpy=old_numpy)
