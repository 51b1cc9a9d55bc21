"""Checkpoints of EG3D made by others: official pickles, exported state dicts, tuned generators.

    python -m lib.generators.checkpoints inspect FILE
    python -m lib.generators.checkpoints convert FILE OUT.safetensors
    python -m lib.generators.checkpoints export NAME_OR_FILE OUT.pth

Files are read as data by `lib.generators.pickles`; no code in them is run, and nothing that they name is
imported. Sizes are inferred from the tensors' shapes; what shapes do not tell comes from the settings that lie
beside them, and is the released FFHQ 512 model's where there are none. Only the numbers of the network that is
asked for are read.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import torch
import tyro
from torch import Tensor

from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator
from lib.generators.eg3d import EG3D, EG3DConfig, PlaneAxesNumbers, SuperResolutionConfig
from lib.generators.pickles import (
    CheckpointError,
    Instance,
    StoredArray,
    StoredTensor,
    describe,
    read_contents,
    read_tensor,
)
from lib.generators.rendering import RenderingSettings, plane_axes
from lib.generators.storage import assembled, load_safetensors, save_generator, shapes_of
from lib.generators.stylegan2 import resampling_filter
from lib.paths import WEIGHTS, replacing

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "convert",
    "export_state_dict",
    "load_discriminator",
    "load_generator",
    "official_state_dict",
    "read_checkpoint",
]

Network = Literal["G_ema", "G", "D"]

LICENCE = (
    "as the source file's; of NVIDIA's EG3D weights: NVIDIA Source Code License, "
    "research and evaluation only, not for commercial use"
)

SHAPENET_RADIUS, SHAPENET_FOCAL = 1.7, 1.7074
"""Files do not hold the focal length: the original's scripts use this one for ShapeNet, 4.2647 otherwise."""

_SUPERRESOLUTION = {
    "SuperresolutionHybrid8XDC": SuperResolutionConfig.official("8XDC"),
    "SuperresolutionHybrid8X": SuperResolutionConfig.official("8X"),
    "SuperresolutionHybrid4X": SuperResolutionConfig.official("4X"),
    "SuperresolutionHybrid2X": SuperResolutionConfig.official("2X"),
    "SuperresolutionHybridDeepfp32": SuperResolutionConfig.official("4X", antialias=False),
}


class CheckpointWarning(UserWarning):
    """A file leaves open what a generator needs to know; the message says what was assumed."""


@dataclass(frozen=True)
class Checkpoint:
    """One network of a file."""

    state_dict: dict[str, Tensor]  # official names, float32
    config: EG3DConfig | DiscriminatorConfig
    rendering_kwargs: dict[str, Any]  # as in the file; empty where it has none
    init_kwargs: dict[str, Any]
    format: str
    source_sha256: str
    notes: tuple[str, ...]  # what was unusual, and what was assumed


# -------------------------------------------------------------------- reading
def read_checkpoint(
    path: str | os.PathLike,
    which: Network = "G_ema",
    plane_axes: str | PlaneAxesNumbers | None = None,
) -> Checkpoint:
    """Read one network of a checkpoint: the averaged generator, the generator, or the discriminator.

    `plane_axes` says how the file's planes lie in space where the file does not: state dicts of the LPFF
    models need "corrected". Raises `CheckpointError` for anything that is no such checkpoint.
    """
    path = Path(path)
    if which not in ("G_ema", "G", "D"):
        raise ValueError(f"expected which='G_ema', 'G' or 'D'; got {which!r}")
    _require_file(path)
    with path.open("rb") as file:
        try:
            contents, kind = read_contents(file)
            network = _find(contents, which)
            network.tensors.pop("dataset_label_std", None)  # a buffer of the original's training loop
            _require_ordinary_shapes(network)
            if which == "D":
                config = _discriminator_config(network)
                expected = shapes_of(DualDiscriminator, config)
            else:
                config = _generator_config(network, file, plane_axes)
                expected = shapes_of(EG3D, dataclasses.replace(config, plane_axes="released"))
            state = _read_state(network, expected, file)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if which != "D" and network.rendering is None:
        network.notes.append("no rendering_kwargs: assumed those of the released FFHQ 512 model")
        warnings.warn(
            f"{path} has no rendering_kwargs: camera, ray and conditioning settings of the released FFHQ 512 model "
            "are assumed; if it is another model's, add them to the file as 'rendering_kwargs'",
            CheckpointWarning,
            stacklevel=2,
        )
    return Checkpoint(
        state, config, network.rendering or {}, network.init or {}, kind, digest, tuple(network.notes)
    )


def _require_file(path: Path) -> None:
    """Refuse folders, and devices and pipes, of which there is no end."""
    if not path.exists():
        raise FileNotFoundError(f"no generator file at {path}")
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, this is {'a folder' if path.is_dir() else 'none'}")


@dataclass
class _Network:
    """A network of a file, before any of its numbers are read."""

    tensors: dict[str, StoredTensor]
    modules: dict[str, Instance] = field(default_factory=dict)  # by path; empty for state dicts
    rendering: dict[str, Any] | None = None
    init: dict[str, Any] | None = None
    beside: dict[str, Any] = field(default_factory=dict)  # what else lies in the file
    notes: list[str] = field(default_factory=list)

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        if key not in self.tensors:
            raise CheckpointError(f"the network has no {key}; {_looks_like(self.tensors)}")
        shape = self.tensors[key].shape
        if len(shape) != dimensions:
            raise CheckpointError(
                f"expected {dimensions} dimensions of {key}; it has the shape {list(shape)}"
            )
        return shape

    def attribute(self, path: str, name: str, otherwise: Any) -> Any:
        """A plain value that a module of the file has; `otherwise` for state dicts."""
        return _plain(self.modules[path].state.get(name, otherwise) if path in self.modules else otherwise)


def _find(contents: Any, which: str) -> _Network:
    """The network of that name, wherever the file has it."""
    if isinstance(contents, Instance):
        return _with_note(_of_modules(contents), f"the file is a single network; it was taken as {which}")
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"expected a dictionary of networks or of tensors; the file is {describe(contents)}"
        )
    if isinstance(contents.get(which), Instance):
        return _of_modules(contents[which])
    found = next(
        (key for key in (which, which.lower(), "state_dict", "model") if _is_state(contents.get(key))), None
    )
    if found is None and not _is_state(contents):
        raise CheckpointError(
            f"the file has no network {which!r}; it has {', '.join(map(describe, list(contents)[:8])) or 'nothing'}: "
            "choose by which='G_ema', 'G' or 'D'"
        )
    network = _of_state(contents if found is None else contents[found], {} if found is None else contents)
    return (
        network
        if found == which
        else _with_note(network, f"the file does not name its network; taken as {which}")
    )


def _with_note(network: _Network, note: str) -> _Network:
    network.notes.append(note)
    return network


def _is_state(value: Any) -> bool:
    """Whether this is a state dict: names of tensors, at least mostly."""
    if not isinstance(value, dict) or not value:
        return False
    return sum(isinstance(item, StoredTensor) for item in value.values()) * 2 > len(value)


def _of_state(state: dict, beside: dict) -> _Network:
    """A network given as a state dict, with what lies beside it in the file."""
    odd = [
        key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, StoredTensor))
    ]
    if odd:
        raise CheckpointError(f"expected names of tensors; {describe(odd[0])} is something else")
    prefixed = all(key.startswith("module.") for key in state)
    network = _Network(
        {key.removeprefix("module.") if prefixed else key: value for key, value in state.items()}
    )
    if prefixed:
        network.notes.append("names start with 'module.', as DistributedDataParallel saves them")
    rendering, init = beside.get("rendering_kwargs"), beside.get("init_kwargs")
    network.init = _plain(init) if isinstance(init, dict) else None
    if not isinstance(rendering, dict) and isinstance(init, dict):
        rendering = init.get("rendering_kwargs")
    network.rendering = _plain(rendering) if isinstance(rendering, dict) else None
    network.beside = beside
    return network


def _of_modules(root: Instance) -> _Network:
    """A network given as modules: walks them as `state_dict()` would, and keeps them for their attributes."""
    network = _Network({})
    waiting, seen = [("", root)], set()
    while waiting:
        path, module = waiting.pop()
        parameters, buffers, children = (
            _group(module, path, name) for name in ("_parameters", "_buffers", "_modules")
        )
        parts = {id(part) for part in (module, module.state, parameters, buffers, children)}
        if seen & parts or path.count(".") > 16 or len(path) > 400:
            raise CheckpointError("the network's modules are nested without end, or occur twice")
        seen |= parts
        network.modules[path] = module
        prefix = f"{path}." if path else ""
        hidden = module.state.get("_non_persistent_buffers_set")
        hidden = {name for name in hidden if isinstance(name, str)} if isinstance(hidden, list) else set()
        for name, value in [*parameters.items(), *buffers.items()]:
            if isinstance(value, StoredTensor):
                if name not in hidden:
                    network.tensors[prefix + name] = value
            elif value is not None:
                raise CheckpointError(f"expected a tensor as {prefix}{name}; found {describe(value)}")
        for name, child in children.items():
            if isinstance(child, Instance):
                waiting.append((prefix + name, child))
            elif child is not None:
                raise CheckpointError(f"expected a module as {prefix}{name}; found {describe(child)}")
    init, rendering = root.state.get("_init_kwargs"), root.state.get("rendering_kwargs")
    network.init = _plain(init) if isinstance(init, dict) else {}
    if not isinstance(rendering, dict):
        rendering = init.get("rendering_kwargs") if isinstance(init, dict) else None
    network.rendering = _plain(rendering) if isinstance(rendering, dict) else None
    return network


def _group(module: Instance, path: str, name: str) -> dict:
    """A module's parameters, buffers or modules."""
    group = module.state.get(name) if isinstance(module.state, dict) else None
    if not isinstance(group, dict) or not all(isinstance(key, str) for key in group):
        raise CheckpointError(f"the module {path or 'at the top'} has no {name}; the file is damaged")
    return group


def _plain(value: Any) -> Any:
    """Settings of a file as plain values, as JSON knows them; anything else as a short description."""
    left = [10_000]

    def plain(value: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > 8 or left[0] < 0:
            raise CheckpointError("the file's settings are nested without end")
        if isinstance(value, dict):
            return {str(key)[:100]: plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, StoredArray):
            value = value.values
        if isinstance(value, list | tuple):
            return [plain(item, depth + 1) for item in value]
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, int) and abs(value) < 2**63:
            return value
        return describe(value)

    return plain(value, 0)


# -------------------------------------------------------------------- numbers
def _read_state(network: _Network, expected: dict[str, tuple[int, ...]], file: BinaryIO) -> dict[str, Tensor]:
    """The network's tensors in float32, after a look at names, shapes and size."""
    _compare(network.tensors, expected)
    claimed = sum(tensor.numel * tensor.dtype.itemsize for tensor in network.tensors.values())
    if claimed > file.seek(0, os.SEEK_END):
        raise CheckpointError("its tensors claim more numbers than the file has; it is damaged or hostile")
    state = {key: _read_weights(key, network.tensors[key], file) for key in expected}
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in network.tensors.values()} - {"float32"}
    if types:
        network.notes.append(f"weights are stored as {', '.join(sorted(types))}; they were read as float32")
    return state


def _read_weights(key: str, stored: StoredTensor, file: BinaryIO) -> Tensor:
    if not stored.dtype.is_floating_point:
        raise CheckpointError(f"expected real numbers as {key}; they are stored as {stored.dtype}")
    value = read_tensor(file, stored).float()
    if not value.isfinite().all():
        raise CheckpointError(
            f"{key} has values that are not finite: the training diverged, or the file is damaged"
        )
    if key.endswith("resample_filter") and not value.allclose(resampling_filter(), atol=1e-4):
        raise CheckpointError(
            f"{key} is not the filter [1, 3, 3, 1] that StyleGAN2 resamples with; no other is supported"
        )
    return value


def _require_ordinary_shapes(network: _Network) -> None:
    """Refuse empty and endless tensors, before anything is made after their shapes."""
    for key, tensor in network.tensors.items():
        if any(not 1 <= size <= 2**16 for size in tensor.shape):
            raise CheckpointError(f"{describe(key)} has the shape {list(tensor.shape)}, which no network has")


def _compare(found: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse a network whose names or shapes are not those of its configuration."""
    differences = {
        "lacks": [key for key in expected if key not in found],
        "has unknown": [key for key in found if key not in expected],
        "has in other shapes": [
            f"{key} {list(found[key].shape)} (expected {list(shape)})"
            for key, shape in expected.items()
            if key in found and found[key].shape != shape
        ],
    }
    parts = [f"{verb} {len(keys)} entries: {_few(keys)}" for verb, keys in differences.items() if keys]
    if parts:
        raise CheckpointError(
            f"the network is not an EG3D of the original's structure: it {'; it '.join(parts)}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(name[:120] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _looks_like(tensors: dict[str, StoredTensor]) -> str:
    """What a network without EG3D's names might be."""
    starts = {key.partition(".")[0] for key in tensors}
    if {"synthesis", "mapping"} <= starts:
        return "this is a StyleGAN2-ADA or StyleGAN3 generator, not an EG3D: it has no planes and no renderer"
    if {"convs", "style"} <= starts:
        return "this is a StyleGAN2 generator in another project's layout, not an EG3D"
    if any(key.endswith("fromrgb.weight") for key in tensors):
        return "this is a discriminator: read it by which='D'"
    if "backbone" in starts:
        return "this is a generator all the same: read it by which='G_ema' or 'G'"
    return f"its tensors are {_few(list(tensors)) or 'none'}"


# -------------------------------------------------------------------- configuration
def _generator_config(network: _Network, file: BinaryIO, axes: str | PlaneAxesNumbers | None) -> EG3DConfig:
    """The configuration: sizes from shapes, the rest from attributes and settings."""
    _require_known_layers(network, "skip")
    sizes = _generator_sizes(network)
    superresolution = _superresolution_config(network)
    if axes is None:
        axes = _stored_axes(network, file)
    try:
        return EG3DConfig(
            **sizes,
            **_backbone_precision(network),
            **_conditioning(network),
            **_camera(network),
            plane_axes=axes,
            **_lr_multipliers(network),
            neural_resolution=_neural_resolution(network, superresolution),
            rendering=_rendering_settings(network),
            superresolution=superresolution,
        )
    except ValueError as error:
        raise CheckpointError(f"its settings cannot be used: {error}") from error


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"expected a number as {name}; found {describe(value)}")
    return float(value)


def _whole(name: str, value: Any) -> int:
    number = _real(name, value)
    if number != int(number) or not 0 <= number <= 4096:
        raise CheckpointError(f"expected a whole number from 0 to 4096 as {name}; found {number:g}")
    return int(number)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | int):
        raise CheckpointError(f"expected True or False as {name}; found {describe(value)}")
    return bool(value)


def _clamp_limit(value: Any) -> float | None:
    return None if value is None else _real("conv_clamp", value)


def _require_known_layers(network: _Network, architecture: str) -> None:
    """Refuse layers that our networks compute differently; shapes would not tell."""
    known = {"activation": ("linear", "lrelu"), "architecture": (architecture,)}
    for path in network.modules:
        for name, values in known.items():
            value = network.attribute(path, name, values[0])
            if value not in values:
                raise CheckpointError(
                    f"expected {name} {' or '.join(values)} of {path}; it has {describe(value)}"
                )


# ---- sizes
def _generator_sizes(network: _Network) -> dict[str, int]:
    """What the shapes of the tensors tell."""
    embedding, c_dim = network.shape("backbone.mapping.embed.weight", 2)
    if c_dim != 25:
        raise CheckpointError(f"expected conditioning on a camera of 25 numbers; this network takes {c_dim}")
    resolutions = _resolutions(network, r"backbone\.synthesis\.b(\d{1,4})\.conv1\.weight")
    widths = {size: network.shape(f"backbone.synthesis.b{size}.conv1.weight", 4)[0] for size in resolutions}
    layers = _count(network, r"backbone\.mapping\.fc(\d{1,3})\.weight")
    hidden, plane_channels = network.shape("decoder.net.0.weight", 2)
    _require_three_planes(network, resolutions[-1], plane_channels)
    return {
        "z_dim": network.shape("backbone.mapping.fc0.weight", 2)[1] - embedding,
        "c_dim": c_dim,
        "w_dim": network.shape(f"backbone.mapping.fc{layers - 1}.weight", 2)[0],
        "mapping_layers": layers,
        "plane_resolution": resolutions[-1],
        "plane_channels": plane_channels,
        "decoder_hidden": hidden,
        "feature_channels": network.shape("decoder.net.2.weight", 2)[0] - 1,
        **_channels(network, widths),
    }


def _require_three_planes(network: _Network, resolution: int, plane_channels: int) -> None:
    outputs = network.shape(f"backbone.synthesis.b{resolution}.torgb.weight", 4)[0]
    if outputs != 3 * plane_channels:
        depth = outputs / (3 * plane_channels)
        guess = f": tri-grids of depth {depth:g} (PanoHead) are not supported" if depth > 1 else ""
        raise CheckpointError(
            f"expected three planes of {plane_channels} channels, which the decoder reads; the backbone "
            f"gives {outputs} channels{guess}"
        )


def _count(network: _Network, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in network.tensors)


def _resolutions(network: _Network, pattern: str, first: int = 4) -> list[int]:
    """Resolutions of the blocks, ascending: powers of two without a gap."""
    found = sorted(int(match[1]) for key in network.tensors if (match := re.fullmatch(pattern, key)))
    if not found:
        raise CheckpointError(f"the network has no blocks; {_looks_like(network.tensors)}")
    if found != [first << index for index in range(len(found))]:
        raise CheckpointError(
            f"expected blocks of the resolutions {first}, {2 * first}, ...; found {found[:12]}"
        )
    return found


def _channels(network: _Network, widths: dict[int, int]) -> dict[str, int]:
    """channel_base and channel_max: the file's where they give these widths, else the smallest that do."""
    init = network.init or {}
    base, limit = init.get("channel_base", 32768), init.get("channel_max", 512)
    stated = isinstance(base, int) and isinstance(limit, int)
    if stated and all(min(base // size, limit) == width for size, width in widths.items()):
        return {"channel_base": base, "channel_max": limit}
    return {
        "channel_base": max(size * width for size, width in widths.items()),
        "channel_max": max(widths.values()),
    }


# ---- settings
def _backbone_precision(network: _Network) -> dict[str, Any]:
    """Clamp and half precision of the backbone: of its modules, else by the original's defaults."""
    if network.init is None:
        return {"conv_clamp": None, "num_fp16_res": 0}
    clamp = network.init.get("conv_clamp", 256)
    halves = network.init.get("num_fp16_res", 4)
    return {
        "conv_clamp": _clamp_limit(network.attribute("backbone.synthesis.b4.conv1", "conv_clamp", clamp)),
        "num_fp16_res": _whole(
            "num_fp16_res", network.attribute("backbone.synthesis", "num_fp16_res", halves)
        ),
    }


def _conditioning(network: _Network) -> dict[str, Any]:
    """How the conditioning camera enters. To the original a missing c_scale means 0, and no camera at all."""
    if network.rendering is None:
        return {}
    zero = network.rendering.get("c_gen_conditioning_zero", False)
    return {
        "conditioning_zero": _truth("c_gen_conditioning_zero", zero),
        "c_scale": _real("c_scale", network.rendering.get("c_scale", 0)),
    }


def _rendering_settings(network: _Network) -> RenderingSettings:
    """How rays are sampled; as the released FFHQ 512 model, where the file has no settings."""
    if network.rendering is None:
        return RenderingSettings()
    kwargs = network.rendering
    missing = {"depth_resolution", "ray_start", "ray_end", "box_warp"} - kwargs.keys()
    if missing:
        raise CheckpointError(f"its rendering_kwargs lack {', '.join(sorted(missing))}")
    if kwargs.get("clamp_mode", "softplus") != "softplus":
        raise CheckpointError(f"expected clamp_mode 'softplus'; found {describe(kwargs['clamp_mode'])}")
    if not _real("box_warp", kwargs["box_warp"]) > 0:
        raise CheckpointError(f"expected a positive box_warp; found {kwargs['box_warp']}")
    bounds = {
        name: "auto" if kwargs[name] == "auto" else _real(name, kwargs[name])
        for name in ("ray_start", "ray_end")
    }
    flags = ("white_back", "disparity_space_sampling", "batch_coupled")
    return RenderingSettings(
        depth_resolution=_whole("depth_resolution", kwargs["depth_resolution"]),
        depth_resolution_importance=_whole(
            "depth_resolution_importance", kwargs.get("depth_resolution_importance", 0)
        ),
        box_warp=_real("box_warp", kwargs["box_warp"]),
        density_noise=_real("density_noise", kwargs.get("density_noise", 0)),
        **{name: _truth(name, kwargs.get(name, False)) for name in flags},
        **bounds,
    )


def _camera(network: _Network) -> dict[str, Any]:
    """Where the frontal camera stands, and its focal length, which files of the original do not hold."""
    if network.rendering is None:
        return {}
    kwargs = network.rendering
    radius = _real("avg_camera_radius", kwargs.get("avg_camera_radius", EG3DConfig.camera_radius))
    pivot = kwargs.get("avg_camera_pivot", list(EG3DConfig.camera_pivot))
    if not isinstance(pivot, list) or len(pivot) != 3:
        raise CheckpointError(f"expected three numbers as avg_camera_pivot; found {describe(pivot)}")
    focal = SHAPENET_FOCAL if radius == SHAPENET_RADIUS else EG3DConfig.camera_focal
    return {
        "camera_radius": radius,
        "camera_pivot": tuple(_real("avg_camera_pivot", value) for value in pivot),
        "camera_focal": _real("avg_camera_focal", kwargs.get("avg_camera_focal", focal)),
    }


def _lr_multipliers(network: _Network) -> dict[str, float]:
    """Learning rate multipliers of mapping and decoder, which are part of their equations."""
    kwargs = (network.init or {}).get("mapping_kwargs")
    mapping = kwargs.get("lr_multiplier", 0.01) if isinstance(kwargs, dict) else 0.01
    decoder = (network.rendering or {}).get("decoder_lr_mul", 1)
    stored = {
        "mapping_lr_multiplier": network.attribute("backbone.mapping.fc0", "bias_gain", mapping),
        "decoder_lr_multiplier": network.attribute("decoder.net.0", "bias_gain", decoder),
    }
    return {name: _real(name, value) for name, value in stored.items()}


def _neural_resolution(network: _Network, superresolution: SuperResolutionConfig) -> int:
    """Rays along a side: an attribute of the original's module, in no state dict."""
    name = "neural_rendering_resolution"
    if network.modules:
        value = network.attribute("", name, 64)
    elif name in network.beside:
        value = _plain(network.beside[name])
    else:
        value = superresolution.input_resolution
        network.notes.append(f"no {name}: assumed {value}, that of the super-resolution's input")
    count = _whole(name, value)
    if count == 0:
        raise CheckpointError(f"expected rays: {name} is 0")
    return count


# ---- super-resolution
def _superresolution_config(network: _Network) -> SuperResolutionConfig:
    """Which super-resolution it is, what its shapes say, and how it computes."""
    blocks = [f"superresolution.block{index}.conv1" for index in (0, 1)]
    widths = tuple(network.shape(f"{block}.weight", 4)[0] for block in blocks)
    sizes = tuple(network.shape(f"{block}.noise_const", 2)[0] for block in blocks)
    own_filter = "superresolution.resample_filter" in network.tensors
    base = _superresolution_module(network, widths, sizes, own_filter)
    entry = sizes[0] // 2 if base.upsample[0] else sizes[0]
    stated = network.attribute("superresolution", "input_resolution", entry)
    if stated != entry:
        raise CheckpointError(
            f"its super-resolution takes {describe(stated)} pixels, but its noise is for {entry}"
        )
    noise_mode = (network.rendering or {}).get("superresolution_noise_mode", "none")
    if noise_mode not in ("none", "const", "random"):
        raise CheckpointError(f"unknown superresolution_noise_mode {describe(noise_mode)}")
    antialias = (network.rendering or {}).get("sr_antialias", base.antialias)
    antialias = network.attribute("superresolution", "sr_antialias", antialias)
    return dataclasses.replace(
        base,
        input_resolution=entry,
        widths=widths,
        own_filter=own_filter,
        noise_mode=noise_mode,
        antialias=_truth("sr_antialias", antialias),
        **_superresolution_precision(network, base),
    )


def _superresolution_module(
    network: _Network, widths: tuple[int, ...], sizes: tuple[int, ...], own_filter: bool
) -> SuperResolutionConfig:
    """The module's structure: by the name of its class, by the settings, or the only one of these shapes."""
    structure = network.beside.get("superresolution")
    if isinstance(structure, dict):
        return _stated_superresolution(_plain(structure))
    name = str((network.rendering or {}).get("superresolution_module", ""))
    if "superresolution" in network.modules:
        name = network.modules["superresolution"].kind
    name = name.rpartition(".")[2]
    if name in _SUPERRESOLUTION:
        return _SUPERRESOLUTION[name]
    alike = [
        known
        for known in map(SuperResolutionConfig.official, ("8XDC", "8X", "4X", "2X"))
        if (known.widths, known.output_resolution, known.own_filter) == (widths, sizes[1], own_filter)
    ]
    if name or len(alike) != 1:
        raise CheckpointError(
            f"unknown super-resolution {name[:100] or f'of widths {widths} at {sizes} pixels'}: expected one of "
            f"{', '.join(_SUPERRESOLUTION)}, named as 'superresolution_module' in rendering_kwargs"
        )
    return alike[0]


def _stated_superresolution(values: dict[str, Any]) -> SuperResolutionConfig:
    """The structure that `export_state_dict` writes, for modules that the original does not have."""
    upsample = values.get("upsample")
    if not isinstance(upsample, list) or len(upsample) != 2:
        raise CheckpointError(f"expected two truth values as upsample; found {describe(upsample)}")
    return SuperResolutionConfig(
        upsample=tuple(_truth("upsample", value) for value in upsample),
        resize_larger=_truth("resize_larger", values.get("resize_larger", True)),
        conv_clamp=_clamp_limit(values.get("conv_clamp")),
        float16=_truth("float16", values.get("float16", False)),
        aliased=_truth("aliased", values.get("aliased", False)),
    )


def _superresolution_precision(network: _Network, base: SuperResolutionConfig) -> dict[str, Any]:
    """Half precision, and the clamp that comes with it: of its modules, else of the constructor's arguments."""
    if "superresolution" in network.beside or network.init is None:
        return {"float16": base.float16, "conv_clamp": base.conv_clamp}
    half = bool(_whole("sr_num_fp16_res", network.init.get("sr_num_fp16_res", 0)))
    clamp = base.conv_clamp if half else None
    return {
        "float16": _truth("use_fp16", network.attribute("superresolution.block0", "use_fp16", half)),
        "conv_clamp": _clamp_limit(network.attribute("superresolution.block0.conv0", "conv_clamp", clamp)),
    }


# ---- planes
def _stored_axes(network: _Network, file: BinaryIO) -> str | PlaneAxesNumbers:
    """The planes' axes that a renderer of the file has; those of the released models where it has none.

    The original multiplies points, as rows, by the inverse of each matrix; the first two columns of the
    inverse are the directions of u and v. Ours are the rows of each matrix: the inverse's transpose.
    """
    holder = network.modules["renderer"].state if "renderer" in network.modules else network.beside
    stored = holder.get("plane_axes")
    if stored is None:
        network.notes.append("no plane_axes: assumed those of the released models")
        return "released"
    if (
        not isinstance(stored, StoredTensor)
        or stored.shape != (3, 3, 3)
        or not stored.dtype.is_floating_point
    ):
        raise CheckpointError(
            f"expected three planes, each with three axes; plane_axes are {describe(stored)}"
        )
    matrices = read_tensor(file, stored).double()
    if not matrices.isfinite().all() or torch.linalg.det(matrices).abs().min() < 1e-6:
        raise CheckpointError("its planes' axes do not span space")
    axes = torch.linalg.inv(matrices).mT
    for name in ("released", "corrected"):
        if axes.allclose(plane_axes(name).double(), atol=1e-6):
            return name
    return tuple(tuple(tuple(row) for row in matrix) for matrix in axes.tolist())


# ---- discriminator
def _discriminator_config(network: _Network) -> DiscriminatorConfig:
    """The configuration of a dual discriminator, from shapes, attributes and settings."""
    _require_known_layers(network, "resnet")
    init = network.init or {}
    resolutions = _resolutions(network, r"b(\d{1,4})\.conv0\.weight", first=8)
    widths = {size: network.shape(f"b{size}.conv0.weight", 4)[0] for size in resolutions}
    widths[4] = network.shape("b4.conv.weight", 4)[0]
    stated = _whole("num_fp16_res", init.get("num_fp16_res", 4))
    halves = sum(bool(network.attribute(f"b{size}", "use_fp16", False)) for size in resolutions)
    halves = stated if not network.modules or halves == min(stated, len(resolutions)) else halves
    clamp = network.attribute(f"b{resolutions[-1]}.conv0", "conv_clamp", init.get("conv_clamp", 256))
    try:
        return DiscriminatorConfig(
            resolution=resolutions[-1],
            c_dim=network.shape("mapping.embed.weight", 2)[1],
            **_channels(network, widths),
            num_fp16_res=halves,
            conv_clamp=_clamp_limit(clamp),
            mapping_layers=_count(network, r"mapping\.fc(\d{1,3})\.weight"),
            group_size=_whole("mbstd_group_size", network.attribute("b4.mbstd", "group_size", 4)),
            label_noise=_real("disc_c_noise", network.attribute("", "disc_c_noise", 0)),
        )
    except ValueError as error:
        raise CheckpointError(f"its settings cannot be used: {error}") from error


# -------------------------------------------------------------------- loading
def load_generator(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    *,
    which: Literal["G_ema", "G"] = "G_ema",
    plane_axes: str | PlaneAxesNumbers | None = None,
) -> EG3D:
    """A generator by name ("portraits64") or from a file; see `lib.generators.load_generator`."""
    path = _weights_path(name_or_path)
    _require_file(path)
    if which not in ("G_ema", "G"):
        raise ValueError(
            f"expected which='G_ema' or 'G'; got {which!r} (a discriminator: load_discriminator)"
        )
    if _is_safetensors(path):
        if plane_axes is not None or which != "G_ema":
            raise ValueError(
                f"{path} is a safetensors file and says itself what it holds: leave out which and plane_axes"
            )
        generator = load_safetensors(path)
    else:
        checkpoint = read_checkpoint(path, which, plane_axes)
        generator = assembled(checkpoint.config, checkpoint.state_dict).measure_w()
    return generator.eval().requires_grad_(False).to(device)


def load_discriminator(path: str | os.PathLike, device: str | torch.device = "cpu") -> DualDiscriminator:
    """The dual discriminator of an official checkpoint, with gradients, to train on."""
    checkpoint = read_checkpoint(path, "D")
    discriminator = DualDiscriminator(checkpoint.config)
    discriminator.load_state_dict(checkpoint.state_dict, strict=True)
    return discriminator.to(device)


def _is_safetensors(path: Path) -> bool:
    """By content: safetensors start with the length of a JSON text, which starts with a brace."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head.startswith(b"version"):
        return False
    return head[8:9] == b"{" or path.suffix == ".safetensors"


def _weights_path(name_or_path: str | os.PathLike) -> Path:
    """The file that is meant, or an error that says what there is."""
    path = Path(name_or_path).expanduser()
    shipped = WEIGHTS / f"{path}.safetensors"
    if path.parent == Path() and shipped.is_file():
        return shipped
    if path.exists() or path.suffix or path.parent != Path():
        return path
    known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))) or "none"
    raise FileNotFoundError(
        f"unknown generator {str(name_or_path)!r}: expected a shipped one ({known}) or the path of a file"
    )


# -------------------------------------------------------------------- writing
def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    which: Literal["G_ema", "G"] = "G_ema",
    plane_axes: str | PlaneAxesNumbers | None = None,
) -> Path:
    """Write a generator of a checkpoint as safetensors in float32, with where it comes from in the metadata."""
    checkpoint = read_checkpoint(source, which, plane_axes)
    generator = assembled(checkpoint.config, checkpoint.state_dict).measure_w()
    texts = {
        "source": Path(source).name,
        "source_sha256": checkpoint.source_sha256,
        "source_network": which,
        "licence": LICENCE,
        "rendering_kwargs": json.dumps(checkpoint.rendering_kwargs),
        "notes": "\n".join(checkpoint.notes),
    }
    return save_generator(generator, target, torch.float32, texts)


def official_state_dict(generator: EG3D) -> dict[str, Tensor]:
    """The weights under the official names, on the CPU."""
    return {key: value.detach().cpu() for key, value in generator.state_dict().items()}


def export_state_dict(generator: EG3D, path: str | os.PathLike) -> Path:
    """Write a .pth as EG3D's tools read it: {"G_ema": state dict, "rendering_kwargs", "init_kwargs"}.

    Beside these it holds what the original keeps in modules: the neural rendering resolution, the planes' axes
    in its convention, and the structure of the super-resolution.
    """
    config = generator.config
    contents = {
        "G_ema": official_state_dict(generator),
        "rendering_kwargs": official_rendering_kwargs(config),
        "init_args": (),
        "init_kwargs": official_init_kwargs(config),
        "neural_rendering_resolution": config.neural_resolution,
        "plane_axes": torch.linalg.inv(plane_axes(config.plane_axes)).mT.contiguous(),
        "superresolution": dataclasses.asdict(config.superresolution),
    }
    with replacing(path) as temporary:
        torch.save(contents, temporary)
    return Path(path)


def official_rendering_kwargs(config: EG3DConfig) -> dict[str, Any]:
    """The settings under the original's names."""
    settings, superresolution = config.rendering, config.superresolution
    kwargs = {
        **{item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)},
        "clamp_mode": "softplus",
        "image_resolution": config.resolution,
        "superresolution_noise_mode": superresolution.noise_mode,
        "sr_antialias": superresolution.antialias,
        "c_gen_conditioning_zero": config.conditioning_zero,
        "c_scale": config.c_scale,
        "decoder_lr_mul": config.decoder_lr_multiplier,
        "avg_camera_radius": config.camera_radius,
        "avg_camera_pivot": list(config.camera_pivot),
        "avg_camera_focal": config.camera_focal,
    }
    module = _official_module(superresolution)
    return (
        kwargs
        if module is None
        else kwargs | {"superresolution_module": f"training.superresolution.{module}"}
    )


def _official_module(config: SuperResolutionConfig) -> str | None:
    """Name of the original's class of this structure, if it has one."""

    def structure(config: SuperResolutionConfig) -> tuple:
        return (
            config.widths,
            config.upsample,
            config.input_resolution,
            config.own_filter,
            config.resize_larger,
        )

    return next(
        (name for name, known in _SUPERRESOLUTION.items() if structure(known) == structure(config)), None
    )


def official_init_kwargs(config: EG3DConfig) -> dict[str, Any]:
    """Arguments of the original's constructor."""
    widths = {"channel_base": config.channel_base, "channel_max": config.channel_max}
    return {
        "z_dim": config.z_dim,
        "c_dim": config.c_dim,
        "w_dim": config.w_dim,
        "img_resolution": config.resolution,
        "img_channels": 3,
        "mapping_kwargs": {
            "num_layers": config.mapping_layers,
            "lr_multiplier": config.mapping_lr_multiplier,
        },
        **widths,
        "num_fp16_res": config.num_fp16_res,
        "conv_clamp": config.conv_clamp,
        "fused_modconv_default": "inference_only",
        "sr_num_fp16_res": 4 if config.superresolution.float16 else 0,
        "sr_kwargs": {**widths, "fused_modconv_default": "inference_only"},
        "rendering_kwargs": official_rendering_kwargs(config),
    }


# -------------------------------------------------------------------- command line
@dataclass(frozen=True)
class Inspect:
    """Say what a checkpoint holds."""

    file: Annotated[Path, tyro.conf.Positional]
    which: Network = "G_ema"

    def run(self) -> Iterator[str]:
        checkpoint = read_checkpoint(self.file, self.which)
        numbers = sum(value.numel() for value in checkpoint.state_dict.values())
        yield f"{self.file}: {checkpoint.format}, sha256 {checkpoint.source_sha256}"
        yield f"{self.which}: {len(checkpoint.state_dict)} tensors, {numbers:,} numbers"
        yield json.dumps(checkpoint.config.to_dict(), indent=2)
        yield "rendering_kwargs: " + json.dumps(checkpoint.rendering_kwargs, indent=2)
        yield from (f"note: {note}" for note in checkpoint.notes)


@dataclass(frozen=True)
class Convert:
    """Write a generator of a checkpoint as safetensors."""

    file: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    which: Literal["G_ema", "G"] = "G_ema"
    plane_axes: Literal["released", "corrected"] | None = None
    """How the planes lie, where the file does not say it."""

    def run(self) -> Iterator[str]:
        yield f"written: {convert(self.file, self.out, self.which, self.plane_axes)}"


@dataclass(frozen=True)
class Export:
    """Write a generator as a .pth with official names, as EG3D's tools read it."""

    name_or_file: Annotated[str, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]

    def run(self) -> Iterator[str]:
        yield f"written: {export_state_dict(load_generator(self.name_or_file), self.out)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 where something cannot be read or written."""
    subcommands: dict[str, Callable] = {"inspect": Inspect, "convert": Convert, "export": Export}
    command = tyro.extras.subcommand_cli_from_dict(subcommands, args=arguments, description=__doc__)
    try:
        for line in command.run():
            print(line)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
