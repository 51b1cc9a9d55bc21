"""What the shapes, attributes and settings of an official network say of its configuration, and the inverse.

Sizes are inferred from the shapes of the tensors and checked; what shapes do not tell comes from the attributes
of the stored modules, else from the constructor's arguments and `rendering_kwargs` beside the tensors.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, BinaryIO, Literal, get_args, get_origin, get_type_hints

import torch

from lib.generators.discriminators import DiscriminatorConfig
from lib.generators.eg3d import EG3DConfig, PlaneAxesNumbers, SuperResolutionConfig
from lib.generators.pickles import (
    CheckpointError,
    Instance,
    StoredArray,
    StoredTensor,
    describe,
    read_tensor,
)
from lib.generators.posefree import POSE_BOUNDS, Limits, PoseFreeConfig
from lib.generators.rendering import RenderingSettings, plane_axes
from lib.generators.stylegan2 import NOISE_MODES

__all__ = [
    "StoredNetwork",
    "discriminator_config",
    "few",
    "generator_config",
    "official_init_kwargs",
    "official_rendering_kwargs",
    "plain_settings",
    "stated_config",
]

SHAPENET_RADIUS, SHAPENET_FOCAL = 1.7, 1.7074
"""Files do not hold the focal length: the original's scripts use this one for ShapeNet, 4.2647 otherwise."""

SRN_CARS_FOCAL = 525 / 512
"""That of the cameras which drew the cars; PoF3D uses it."""

_POSE_LEARNER = "backbone.mapping.affine_layer"

_SUPERRESOLUTION = {
    "SuperresolutionHybrid8XDC": SuperResolutionConfig.official("8XDC"),
    "SuperresolutionHybrid8X": SuperResolutionConfig.official("8X"),
    "SuperresolutionHybrid4X": SuperResolutionConfig.official("4X"),
    "SuperresolutionHybrid2X": SuperResolutionConfig.official("2X"),
    "SuperresolutionHybridDeepfp32": SuperResolutionConfig.official("4X", antialias=False),
}


# -------------------------------------------------------------------- networks as they are stored
@dataclass
class StoredNetwork:
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
        """A number or a text that a module of the file has; `otherwise` for state dicts."""
        value = self.modules[path].state.get(name, otherwise) if path in self.modules else otherwise
        return _scalar(value)


def _scalar(value: Any) -> Any:
    """The value itself, if it is a number or a text of ordinary size, or a truth value; else a description."""
    if isinstance(value, int):  # bool, too
        return value if abs(value) < 2**63 else describe(value)
    if isinstance(value, str):  # the same long one may stand at many places of a small file
        return value if len(value) <= 1000 else describe(value)
    return value if value is None or isinstance(value, float) else describe(value)


def plain_settings(value: Any) -> Any:
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
        return _scalar(value)

    return plain(value, 0)


def few(names: Sequence[str]) -> str:
    """The first names of many, for a message."""
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
        return "this looks like the generator of an EG3D, which is read by which='G_ema' or 'G'"
    return f"its tensors are {few(list(tensors)) or 'none'}"


# -------------------------------------------------------------------- configuration of a file
def generator_config(
    network: StoredNetwork, file: BinaryIO, axes: str | PlaneAxesNumbers | None
) -> EG3DConfig:
    """The configuration: sizes from shapes, the rest from attributes and settings."""
    _require_known_parts(network)
    _require_known_layers(network, "skip")
    sizes = _generator_sizes(network)
    superresolution = _superresolution_config(network)
    if axes is None:
        axes = _stored_axes(network, file)
    kind, pose = (PoseFreeConfig, _pose_settings(network)) if _says_its_pose(network) else (EG3DConfig, {})
    try:
        return kind(
            **sizes,
            **_backbone_precision(network),
            **_conditioning(network),
            **_camera(network),
            plane_axes=axes,
            **_lr_multipliers(network),
            neural_resolution=_neural_resolution(network, superresolution),
            rendering=_rendering_settings(network),
            superresolution=superresolution,
            **pose,
        )
    except ValueError as error:
        raise CheckpointError(f"its settings cannot be used: {error}") from error


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"expected a number as {name}; found {describe(value)}")
    return float(value)


def _positive(name: str, value: Any) -> float:
    number = _real(name, value)
    if number <= 0:
        raise CheckpointError(f"expected a number above 0 as {name}; found {number:g}")
    return number


def _whole(name: str, value: Any, lowest: int = 0, highest: int = 4096) -> int:
    number = _real(name, value)
    if number != int(number) or not lowest <= number <= highest:
        raise CheckpointError(
            f"expected a whole number from {lowest} to {highest} as {name}; found {number:g}"
        )
    return int(number)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise CheckpointError(f"expected True or False as {name}; found {describe(value)}")
    return bool(value)


def _clamp_limit(value: Any) -> float | None:
    return None if value is None else _positive("conv_clamp", value)


def _shared_clamp(network: StoredNetwork, part: str, otherwise: Any) -> float | None:
    """The one limit that all layers of a part have; `otherwise` for state dicts."""
    found = {
        _clamp_limit(network.attribute(path, "conv_clamp", None))
        for path in network.modules
        if path.startswith(f"{part}.") and network.attribute(path, "conv_clamp", "none") != "none"
    }
    if len(found) > 1:
        raise CheckpointError(f"expected one conv_clamp for all of {part}; its layers have several")
    return found.pop() if found else _clamp_limit(otherwise)


def _require_known_layers(network: StoredNetwork, architecture: str) -> None:
    """Refuse layers that our networks compute differently; shapes would not tell."""
    for path in network.modules:
        linear = path.startswith("decoder.") or path.rpartition(".")[2] in (
            "affine",
            "affine_layer2",
            "cam_out2",
            "embed",
            "out",
            "skip",
            "torgb",
        )
        known = {"activation": "linear" if linear else "lrelu", "architecture": architecture}
        for name, expected in known.items():
            found = network.attribute(path, name, expected)
            if found != expected:
                raise CheckpointError(f"expected the {name} {expected!r} of {path}; it has {describe(found)}")


# ---- sizes
def _generator_sizes(network: StoredNetwork) -> dict[str, int]:
    """What the shapes of the tensors tell."""
    embedding, c_dim = (0, 0) if _says_its_pose(network) else _conditioning_sizes(network)
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


def _conditioning_sizes(network: StoredNetwork) -> tuple[int, int]:
    """How many numbers the mapping makes of the camera's 25, and these."""
    if (
        "backbone.mapping.fc0.weight" in network.tensors
        and "backbone.mapping.embed.weight" not in network.tensors
    ):
        raise CheckpointError(
            "expected conditioning on a camera; this network knows none (c_dim 0), and has no pose learner either"
        )
    embedding, c_dim = network.shape("backbone.mapping.embed.weight", 2)
    if c_dim != 25:
        raise CheckpointError(f"expected conditioning on a camera of 25 numbers; this network takes {c_dim}")
    return embedding, c_dim


def _require_three_planes(network: StoredNetwork, resolution: int, plane_channels: int) -> None:
    outputs = network.shape(f"backbone.synthesis.b{resolution}.torgb.weight", 4)[0]
    if outputs != 3 * plane_channels:
        depth = outputs / (3 * plane_channels)
        guess = f": tri-grids of depth {depth:g} (PanoHead) are not supported" if depth > 1 else ""
        raise CheckpointError(
            f"expected three planes of {plane_channels} channels, which the decoder reads; the backbone "
            f"gives {outputs} channels{guess}"
        )


def _count(network: StoredNetwork, pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in network.tensors)


def _resolutions(network: StoredNetwork, pattern: str, first: int = 4) -> list[int]:
    """Resolutions of the blocks, ascending: powers of two without a gap."""
    found = sorted(int(match[1]) for key in network.tensors if (match := re.fullmatch(pattern, key)))
    if not found:
        raise CheckpointError(f"the network has no blocks; {_looks_like(network.tensors)}")
    if found != [first << index for index in range(len(found))]:
        raise CheckpointError(
            f"expected blocks of the resolutions {first}, {2 * first}, ...; found {found[:12]}"
        )
    return found


def _channels(network: StoredNetwork, widths: dict[int, int]) -> dict[str, int]:
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
def _backbone_precision(network: StoredNetwork) -> dict[str, Any]:
    """Clamp and half precision of the backbone: of its modules, else by the original's defaults."""
    if network.init is None:
        return {"conv_clamp": None, "num_fp16_res": 0}
    clamp = network.init.get("conv_clamp", 256)
    halves = network.init.get("num_fp16_res", 4)
    return {
        "conv_clamp": _shared_clamp(network, "backbone.synthesis", clamp),
        "num_fp16_res": _whole(
            "num_fp16_res", network.attribute("backbone.synthesis", "num_fp16_res", halves)
        ),
    }


def _conditioning(network: StoredNetwork) -> dict[str, Any]:
    """How the conditioning camera enters. To the original a missing c_scale means 0, and no camera at all."""
    if network.rendering is None:
        return {}
    zero = network.rendering.get("c_gen_conditioning_zero", False)
    return {
        "conditioning_zero": _truth("c_gen_conditioning_zero", zero),
        "c_scale": _real("c_scale", network.rendering.get("c_scale", 0)),
    }


def _rendering_settings(network: StoredNetwork) -> RenderingSettings:
    """How rays are sampled; as the released FFHQ 512 model, where the file has no settings."""
    if network.rendering is None:
        return RenderingSettings()
    kwargs = network.rendering
    missing = {"depth_resolution", "ray_start", "ray_end", "box_warp"} - kwargs.keys()
    if missing:
        raise CheckpointError(f"its rendering_kwargs lack {', '.join(sorted(missing))}")
    if kwargs.get("clamp_mode", "softplus") != "softplus":
        raise CheckpointError(f"expected clamp_mode 'softplus'; found {describe(kwargs['clamp_mode'])}")
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
        box_warp=_positive("box_warp", kwargs["box_warp"]),
        density_noise=_real("density_noise", kwargs.get("density_noise", 0)),
        **{name: _truth(name, kwargs.get(name, False)) for name in flags},
        **bounds,
    )


def _camera(network: StoredNetwork) -> dict[str, Any]:
    """Where the frontal camera stands, and its focal length, which files of the original do not hold."""
    if network.rendering is None:
        return {}
    kwargs = network.rendering
    radius = _real("avg_camera_radius", kwargs.get("avg_camera_radius", EG3DConfig.camera_radius))
    pivot = kwargs.get("avg_camera_pivot", list(EG3DConfig.camera_pivot))
    if not isinstance(pivot, list) or len(pivot) != 3:
        raise CheckpointError(f"expected three numbers as avg_camera_pivot; found {describe(pivot)}")
    focal = kwargs["avg_camera_focal"] if "avg_camera_focal" in kwargs else _usual_focal(network, radius)
    return {
        "camera_radius": radius,
        "camera_pivot": tuple(_real("avg_camera_pivot", value) for value in pivot),
        "camera_focal": _real("avg_camera_focal", focal),
    }


def _usual_focal(network: StoredNetwork, radius: float) -> float:
    """The focal length with which the original's scripts show such a network."""
    pose_free = _says_its_pose(network)
    field_of_view = network.rendering.get("fov_mean") if pose_free else None
    if field_of_view is not None:
        return _focal_of(_positive("fov_mean", field_of_view))
    if radius == SHAPENET_RADIUS:
        return SRN_CARS_FOCAL if pose_free else SHAPENET_FOCAL
    return EG3DConfig.camera_focal


def _focal_of(field_of_view: float) -> float:
    """Focal length for degrees from corner to corner, as PoF3D makes it for pictures without a label."""
    return 1 / (math.tan(math.radians(field_of_view) / 2) * 1.414)


def _mapping_kwargs(network: StoredNetwork) -> dict[str, Any]:
    """The mapping's arguments; none for state dicts without them."""
    kwargs = (network.init or {}).get("mapping_kwargs")
    return kwargs if isinstance(kwargs, dict) else {}


def _lr_multipliers(network: StoredNetwork) -> dict[str, float]:
    """Learning rate multipliers of mapping and decoder, which are part of their equations."""
    mapping = _mapping_kwargs(network).get("lr_multiplier", 0.01)
    decoder = (network.rendering or {}).get("decoder_lr_mul", 1)
    stored = {
        "mapping_lr_multiplier": network.attribute("backbone.mapping.fc0", "bias_gain", mapping),
        "decoder_lr_multiplier": network.attribute("decoder.net.0", "bias_gain", decoder),
    }
    return {name: _positive(name, value) for name, value in stored.items()}


def _neural_resolution(network: StoredNetwork, superresolution: SuperResolutionConfig) -> int:
    """Rays along a side: an attribute of the original's module, in no state dict."""
    name = "neural_rendering_resolution"
    if network.modules:
        value = network.attribute("", name, 64)
    elif name in network.beside:
        value = plain_settings(network.beside[name])
    elif _says_its_pose(network):
        value = PoseFreeConfig.neural_resolution
        network.notes.append(f"no {name}: assumed {value}, that of all PoF3D recipes")
    else:
        value = superresolution.input_resolution
        network.notes.append(f"no {name}: assumed {value}, that of the super-resolution's input")
    count = _whole(name, value)
    if count == 0:
        raise CheckpointError(f"expected rays: {name} is 0")
    return count


# ---- pose learner
def _says_its_pose(network: StoredNetwork) -> bool:
    """Whether this is a generator of PoF3D, told by its pose learner."""
    return any(key.startswith(_POSE_LEARNER) for key in network.tensors)


def _require_known_parts(network: StoredNetwork) -> None:
    """Refuse what PoF3D's code can train other than the generator of its paper."""
    kwargs = _mapping_kwargs(network)
    if any(key.startswith("backbone.bg_nerf.") for key in network.tensors):
        raise CheckpointError("expected one volume; PoF3D's separate background (bg_nerf) is not supported")
    if not _says_its_pose(network):
        return
    if f"{_POSE_LEARNER}.weight" in network.tensors:
        raise CheckpointError(
            "expected a pose learner of two layers; this one is linear (PoF3D's linear_pose), which is not supported"
        )
    numbers = network.shape(f"{_POSE_LEARNER}2.weight", 2)[0]
    if numbers != 2:
        raise CheckpointError(
            f"expected a pose of two angles; this pose learner says {numbers} numbers (PoF3D's cam_dim: with 3 it "
            "learns the camera's distance or field of view), which is not supported"
        )
    if network.attribute("backbone.mapping", "uniform_sampling", kwargs.get("uniform_sampling", False)):
        raise CheckpointError(
            "expected a pose learner that is used; this network draws its poses (PoF3D's uniform_sampling)"
        )


def _pose_settings(network: StoredNetwork) -> dict[str, Any]:
    """What PoF3D's generator has beyond EG3D's. `pose_bound` is ours alone."""
    kwargs = network.rendering or {}
    rate = _mapping_kwargs(network).get("lr_multiplier_pose", PoseFreeConfig.pose_lr_multiplier)
    rate = network.attribute(f"{_POSE_LEARNER}1", "bias_gain", rate)
    bound = kwargs.get("pose_bound", PoseFreeConfig.pose_bound)
    if bound not in POSE_BOUNDS:
        raise CheckpointError(f"expected {' or '.join(POSE_BOUNDS)} as pose_bound; found {describe(bound)}")
    return {
        "pose_mean_h": _real("h_mean", kwargs.get("h_mean", PoseFreeConfig.pose_mean_h)),
        "pose_lr_multiplier": _positive("lr_multiplier_pose", rate),
        "pose_bound": bound,
        "pose_limits_h": _limits("clamp_h", kwargs.get("clamp_h")),
        "pose_limits_v": _limits("clamp_v", kwargs.get("clamp_v")),
    }


def _limits(name: str, value: Any) -> Limits | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise CheckpointError(f"expected two numbers as {name}; found {describe(value)}")
    return _real(name, value[0]), _real(name, value[1])


# ---- super-resolution
def _superresolution_config(network: StoredNetwork) -> SuperResolutionConfig:
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
    if noise_mode not in NOISE_MODES:
        raise CheckpointError(f"unknown superresolution_noise_mode {describe(noise_mode)}")
    antialias = (network.rendering or {}).get("sr_antialias", base.antialias)
    antialias = network.attribute("superresolution", "sr_antialias", antialias)
    if _says_its_pose(network) and "superresolution" not in network.beside:
        antialias = False  # PoF3D's modules keep the setting, and resize without
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
    network: StoredNetwork, widths: tuple[int, ...], sizes: tuple[int, ...], own_filter: bool
) -> SuperResolutionConfig:
    """The module's structure: by the name of its class, by the settings, or the only one of these shapes."""
    structure = network.beside.get("superresolution")
    if isinstance(structure, dict):
        return _stated_superresolution(plain_settings(structure))
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


def _superresolution_precision(network: StoredNetwork, base: SuperResolutionConfig) -> dict[str, Any]:
    """Half precision, and the clamp that comes with it: of its modules, else of the constructor's arguments."""
    if "superresolution" in network.beside or network.init is None:
        return {"float16": base.float16, "conv_clamp": base.conv_clamp}
    half = bool(_whole("sr_num_fp16_res", network.init.get("sr_num_fp16_res", 0)))
    clamp = base.conv_clamp if half else None
    return {
        "float16": _truth("use_fp16", network.attribute("superresolution.block0", "use_fp16", half)),
        "conv_clamp": _shared_clamp(network, "superresolution", clamp),
    }


# ---- planes
def _stored_axes(network: StoredNetwork, file: BinaryIO) -> str | PlaneAxesNumbers:
    """The planes' axes that a renderer of the file has; those of the released models where it has none.

    The original multiplies points, as rows, by the inverse of each matrix; the first two columns of the
    inverse are the directions of u and v. Ours are the rows of each matrix: the inverse's transpose.
    """
    holder = network.modules["renderer"].state if "renderer" in network.modules else network.beside
    stored = holder.get("plane_axes")
    if stored is None and "wrong" in (network.rendering or {}):  # PoF3D's name for the released planes
        return "released" if _truth("wrong", network.rendering["wrong"]) else "corrected"
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
def discriminator_config(network: StoredNetwork) -> DiscriminatorConfig:
    """The configuration of a dual discriminator, with a pose branch or without, from shapes, attributes and settings."""
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
            **_judged_by(network),
            **_channels(network, widths),
            num_fp16_res=halves,
            conv_clamp=_clamp_limit(clamp),
            mapping_layers=_count(network, r"mapping\.fc(\d{1,3})\.weight"),
            group_size=_whole("mbstd_group_size", network.attribute("b4.mbstd", "group_size", 4)),
            label_noise=_real("disc_c_noise", network.attribute("", "disc_c_noise", 0)),
        )
    except ValueError as error:
        raise CheckpointError(f"its settings cannot be used: {error}") from error


def _judged_by(network: StoredNetwork) -> dict[str, Any]:
    """How many numbers a discriminator is told with a picture, and whether it says the picture's pose."""
    told = any(key.startswith("mapping.") for key in network.tensors)
    c_dim = network.shape("mapping.embed.weight", 2)[1] if told else 0
    pose_branch = any(key.startswith("b4.cam_out") for key in network.tensors)
    if "b4.cam_out.weight" in network.tensors:
        raise CheckpointError(
            "expected a pose branch of two layers; this one is linear (PoF3D's dis_linear_pose), which is not supported"
        )
    if pose_branch and c_dim != 2:
        raise CheckpointError(
            f"expected a discriminator with a pose branch to be told the two angles of a pose; this one takes {c_dim} "
            "numbers"
        )
    return {"c_dim": c_dim, "pose_branch": pose_branch}


# -------------------------------------------------------------------- configuration of our own files
_RANGES = {
    "c_dim": (0, 25),
    "mapping_layers": (1, 64),
    "channel_base": (1, 2**20),
    "num_fp16_res": (0, 64),
    "depth_resolution_importance": (0, 4096),
}
"""Of whole numbers; all others count something that there is one of at least, and 4096 at most."""

_POSITIVE = {"conv_clamp", "mapping_lr_multiplier", "decoder_lr_multiplier", "pose_lr_multiplier"}


def stated_config(values: Any) -> EG3DConfig:
    """The inverse of `EG3DConfig.to_dict` for values of unknown origin: type and range of each are checked."""
    kind = PoseFreeConfig if isinstance(values, dict) and "pose_bound" in values else EG3DConfig
    config = _stated("the configuration", kind, values)
    if config.channel_base < config.plane_resolution:
        raise CheckpointError(
            f"expected a channel_base of plane_resolution, {config.plane_resolution}, or more: a channel at each "
            f"resolution; found {config.channel_base}"
        )
    if kind is EG3DConfig and config.c_dim != 25:
        raise CheckpointError(
            f"expected conditioning on a camera of 25 numbers; this network takes {config.c_dim}"
        )
    plane_axes(config.plane_axes)  # for its checks
    return config


def _stated(name: str, kind: Any, value: Any) -> Any:
    """A value as a field of this type has it."""
    if dataclasses.is_dataclass(kind):
        return _stated_settings(name, kind, value)
    if get_origin(kind) is tuple:
        return _stated_tuple(name, get_args(kind), value)
    if kind is bool:
        return _truth(name, value)
    if kind is int:
        return _whole(name, value, *_RANGES.get(name, (1, 4096)))
    if kind is float:
        return _positive(name, value) if name in _POSITIVE else _real(name, value)
    if kind is str:
        return _text(name, value)
    return _stated_choice(name, get_args(kind), value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise CheckpointError(f"expected a text as {name}; found {describe(value)}")
    return value


def _stated_settings(name: str, kind: type, values: Any) -> Any:
    """A dataclass of settings. Those that were added after a file was written may be missing."""
    if not isinstance(values, dict):
        raise CheckpointError(f"expected settings by name as {name}; found {describe(values)}")
    kinds = get_type_hints(kind)
    unknown = [key for key in values if key not in kinds]
    missing = [key for key in kinds if dataclasses.is_dataclass(kinds[key]) and key not in values]
    if unknown or missing:
        raise CheckpointError(
            f"expected the settings of {kind.__name__} as {name}; "
            + (f"unknown are {few(unknown)}" if unknown else f"it lacks {few(missing)}")
        )
    return kind(**{key: _stated(key, kinds[key], value) for key, value in values.items()})


def _stated_tuple(name: str, kinds: tuple, values: Any) -> tuple:
    """JSON knows lists alone."""
    if not isinstance(values, list | tuple):
        raise CheckpointError(f"expected a list as {name}; found {describe(values)}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise CheckpointError(f"expected {len(kinds)} values as {name}; found {len(values)}")
    return tuple(_stated(name, kind, value) for kind, value in zip(kinds, values, strict=True))


def _stated_choice(name: str, kinds: tuple, value: Any) -> Any:
    """One of several types: None, a text or a certain text, or what else there is."""
    if value is None and NoneType in kinds:
        return None
    texts = [text for kind in kinds if get_origin(kind) is Literal for text in get_args(kind)]
    if isinstance(value, str) and (str in kinds or value in texts):
        return value
    (other,) = (kind for kind in kinds if kind not in (NoneType, str) and get_origin(kind) is not Literal)
    return _stated(name, other, value)


# -------------------------------------------------------------------- the original's arguments
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
        **(_official_pose_settings(config) if isinstance(config, PoseFreeConfig) else {}),
    }
    module = _official_module(superresolution)
    return (
        kwargs
        if module is None
        else kwargs | {"superresolution_module": f"training.superresolution.{module}"}
    )


def _official_pose_settings(config: PoseFreeConfig) -> dict[str, Any]:
    """What PoF3D's code wants to know; it knows no smooth bound, and does without one."""
    limits = {"clamp_h": config.pose_limits_h, "clamp_v": config.pose_limits_v}
    return {
        "h_mean": config.pose_mean_h,
        "wrong": config.plane_axes != "corrected",
        "pose_bound": config.pose_bound,
        **{name: list(pair) for name, pair in limits.items() if pair is not None},
    }


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
    """Arguments of the original's constructor. PoF3D's are told a label's size, of which they use nothing."""
    pose_free = isinstance(config, PoseFreeConfig)
    widths = {"channel_base": config.channel_base, "channel_max": config.channel_max}
    return {
        "z_dim": config.z_dim,
        "c_dim": EG3DConfig.c_dim if pose_free else config.c_dim,
        "w_dim": config.w_dim,
        "img_resolution": config.resolution,
        "img_channels": 3,
        "mapping_kwargs": {
            "num_layers": config.mapping_layers,
            "lr_multiplier": config.mapping_lr_multiplier,
            **({"lr_multiplier_pose": config.pose_lr_multiplier} if pose_free else {}),
        },
        **widths,
        "num_fp16_res": config.num_fp16_res,
        "conv_clamp": config.conv_clamp,
        "fused_modconv_default": "inference_only",
        "sr_num_fp16_res": 4 if config.superresolution.float16 else 0,
        "sr_kwargs": {**widths, "fused_modconv_default": "inference_only"},
        "rendering_kwargs": official_rendering_kwargs(config),
    }
