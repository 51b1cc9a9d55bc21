"""Our own files of generators: safetensors, with the official names, and the configuration in the metadata."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lib.generators.eg3d import EG3D, EG3DConfig
from lib.generators.official import few, plain_settings, stated_config
from lib.generators.pickles import CheckpointError
from lib.generators.posefree import PoseFreeConfig, PoseFreeEG3D
from lib.generators.rendering import plane_axes
from lib.generators.stylegan2 import resampling_filter
from lib.paths import replacing

FORMAT = "eg3d-study/eg3d/1"
STATISTICS = {"w_mean", "w_std"}
"""Entries of a file that are not among the official names of the state dict."""


def load_safetensors(path: str | os.PathLike) -> EG3D:
    """The generator in a file of `save_generator`, with its statistics of w.

    Raises `CheckpointError` where its configuration makes no generator, or its tensors are not those of it.
    """
    config = read_config(path)
    try:
        tensors = _read_tensors(path, config)
    except (SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    statistics = {key: tensors.pop(key) for key in STATISTICS & tensors.keys()}
    generator = assembled(config, tensors)
    if statistics:
        generator.set_w_statistics(**statistics)
    else:
        generator.measure_w()
    return generator


def read_config(path: str | os.PathLike) -> EG3DConfig:
    """The configuration in a file's metadata, if one can make a network of it."""
    values = parsed(path, "config", read_metadata(path)["config"])
    try:
        return stated_config(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: the configuration in its metadata cannot be used: {error}") from error


def parsed(path: str | os.PathLike, name: str, text: str) -> Any:
    """A JSON entry of a file's metadata, as plain values of ordinary size and depth."""
    try:
        return plain_settings(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON as {name!r} in its metadata; {error}") from error


def _read_tensors(path: str | os.PathLike, config: EG3DConfig) -> dict[str, Tensor]:
    """All tensors of a file in float32, after a look at names and shapes."""
    expected = shapes_of(network_class(config), dataclasses.replace(config, plane_axes="released"))
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        if STATISTICS & found.keys():
            expected |= {"w_mean": (config.w_dim,), "w_std": ()}
        differing = differences(found, expected)
        if differing:
            raise CheckpointError(f"it does not fit the configuration in its metadata: {differing}")
        # Copies: tensors of an opened file lie in the file.
        tensors = {key: usable_weights(key, file.get_tensor(key).clone()) for key in expected}
    if tensors.get("w_std", torch.zeros([])) < 0:
        raise CheckpointError(f"expected a spread of w of 0 or more; found w_std {tensors['w_std'].item():g}")
    return tensors


def differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """How names and shapes of tensors differ from those of a network; an empty text if they do not."""
    kinds = {
        "lacks": [key for key in expected if key not in found],
        "has unknown": [key for key in found if key not in expected],
        "has in other shapes": [
            f"{key} {list(found[key])} (expected {list(shape)})"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ],
    }
    return "; ".join(f"it {verb} {len(keys)} entries: {few(keys)}" for verb, keys in kinds.items() if keys)


def usable_weights(key: str, value: Tensor) -> Tensor:
    """A tensor of a file in float32, if it can be a network's."""
    if not value.is_floating_point():
        raise CheckpointError(f"expected real numbers as {key}; they are stored as {value.dtype}")
    value = value.float()
    if not value.isfinite().all():
        raise CheckpointError(
            f"{key} has values that are not finite: the training diverged, or the file is damaged"
        )
    if key.endswith("resample_filter") and not value.allclose(resampling_filter(), atol=1e-4):
        raise CheckpointError(
            f"{key} is not the filter [1, 3, 3, 1] that StyleGAN2 resamples with; no other is supported"
        )
    return value


def network_class(config: EG3DConfig) -> type[EG3D]:
    """The class of a configuration's generator."""
    return PoseFreeEG3D if isinstance(config, PoseFreeConfig) else EG3D


def shapes_of(kind: type[nn.Module], config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's state dict; it is not made for that."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in kind(config).state_dict().items()}


def assembled(config: EG3DConfig, state: dict[str, Tensor]) -> EG3D:
    """A generator around given tensors, which it takes over: neither random numbers nor copies are made."""
    with torch.device("meta"):
        generator = network_class(config)(dataclasses.replace(config, plane_axes="released"))
    generator.config = config
    generator.load_state_dict(state, strict=True, assign=True)
    # What no state dict holds, as the constructor makes it.
    generator.register_buffer("plane_axes", plane_axes(config.plane_axes), persistent=False)
    generator.register_buffer("_w_mean", torch.full([config.w_dim], torch.nan), persistent=False)
    generator.register_buffer("_w_std", torch.full([], torch.nan), persistent=False)
    return generator


def fingerprint(weights: dict[str, Tensor], config: EG3DConfig | None = None) -> str:
    """SHA-256 of the names and values of a state dict, and of a generator's settings if they are given."""
    digest = hashlib.sha256()
    if config is not None:
        digest.update(json.dumps(config.to_dict(), sort_keys=True).encode())
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_generator(
    generator: EG3D,
    path: str | os.PathLike,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights, configuration, statistics of w, and what `metadata` adds as text. Returns the path."""
    tensors = {
        key: value.detach().to("cpu", dtype).contiguous() for key, value in generator.state_dict().items()
    }
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{key} is not finite as {dtype}: save with a wider dtype, or look at the training"
            )
    tensors |= {
        "w_mean": generator.w_mean.detach().float().cpu(),
        "w_std": generator.w_std.detach().float().cpu(),
    }
    texts = dict(metadata or {}) | {"format": FORMAT, "config": json.dumps(generator.config.to_dict())}
    with replacing(path) as temporary:
        # Not save_file: what that writes is for its owner alone.
        temporary.write_bytes(save(tensors, metadata=texts))
    return Path(path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text entries of a generator's file: "format", "config" (JSON), and what its maker added."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); expected one written by save_generator"
        ) from error
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not of a generator: expected format {FORMAT!r} in its "
            f"metadata, found {metadata.get('format')!r}"
        )
    return metadata
