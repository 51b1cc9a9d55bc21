"""Our own files of generators: safetensors, with the official names, and the configuration in the metadata."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.generators.eg3d import EG3D, EG3DConfig
from lib.generators.rendering import plane_axes
from lib.paths import replacing

FORMAT = "eg3d-study/eg3d/1"
STATISTICS = {"w_mean", "w_std"}
"""Entries of a file that are not among the official names of the state dict."""


MAX_SIZE, MAX_LAYERS = 2**20, 64
"""Of a configuration that a file may ask for."""


def load_safetensors(path: str | os.PathLike) -> EG3D:
    """The generator in a file of `save_generator`, with its statistics of w."""
    config = _config(path)
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        expected = shapes_of(EG3D, dataclasses.replace(config, plane_axes="released"))
        wrong = [
            key for key in expected.keys() | found.keys() - STATISTICS if found.get(key) != expected.get(key)
        ]
        if wrong:
            raise ValueError(
                f"{path} does not fit the configuration in its metadata: see {', '.join(sorted(wrong)[:3])}"
            )
        # Copies: tensors of an opened file lie in the file.
        tensors = {key: file.get_tensor(key).to(torch.float32, copy=True) for key in found}
    statistics = {key: tensors.pop(key) for key in found.keys() & STATISTICS}
    generator = assembled(config, tensors)
    if statistics:
        generator.set_w_statistics(**statistics)
    else:
        generator.measure_w()
    return generator


def _config(path: str | os.PathLike) -> EG3DConfig:
    """The configuration in a file's metadata, if one can make a network of it."""
    config = EG3DConfig.from_dict(json.loads(read_metadata(path)["config"]))
    parts = (config, config.rendering, config.superresolution)
    values = [value for part in parts for value in vars(part).values()]
    sizes = [size for value in values for size in (value if isinstance(value, tuple) else (value,))]
    if any(isinstance(size, int) and size > MAX_SIZE for size in sizes) or config.mapping_layers > MAX_LAYERS:
        raise ValueError(
            f"{path} asks for a network of endless size in its metadata; it is damaged or hostile"
        )
    return config


def shapes_of(kind: type[nn.Module], config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's state dict; it is not made for that."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in kind(config).state_dict().items()}


def assembled(config: EG3DConfig, state: dict[str, Tensor]) -> EG3D:
    """A generator around given tensors, which it takes over: neither random numbers nor copies are made."""
    with torch.device("meta"):
        generator = EG3D(dataclasses.replace(config, plane_axes="released"))
    generator.config = config
    generator.load_state_dict(state, strict=True, assign=True)
    # What no state dict holds, as the constructor makes it.
    generator.register_buffer("plane_axes", plane_axes(config.plane_axes), persistent=False)
    generator.register_buffer("_w_mean", torch.full([config.w_dim], torch.nan), persistent=False)
    generator.register_buffer("_w_std", torch.full([], torch.nan), persistent=False)
    return generator


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
        save_file(tensors, temporary, metadata=texts)
    return Path(path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text entries of a generator's file: "format", "config" (JSON), and what its maker added."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); expected one written by save_generator"
        ) from error
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, but not of a generator: expected format {FORMAT!r} in its "
            f"metadata, found {metadata.get('format')!r}"
        )
    return metadata
