"""Generators: `load_generator` gives one by name or from a file, `save_generator` writes one.

Files are safetensors: weights under the official names, the configuration as JSON in the metadata. Nothing
in them is code.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.generators.eg3d import EG3D, EG3DConfig, Rendering, SuperResolutionConfig
from lib.generators.rendering import RenderingSettings
from lib.paths import WEIGHTS

__all__ = [
    "EG3D",
    "EG3DConfig",
    "Rendering",
    "RenderingSettings",
    "SuperResolutionConfig",
    "load_generator",
    "read_metadata",
    "save_generator",
]

FORMAT = "eg3d-study/eg3d/1"
STATISTICS = ("w_mean", "w_std")
"""Entries of a file that are not among the official names of the state dict."""


def load_generator(name_or_path: str | os.PathLike, device: str | torch.device = "cpu") -> EG3D:
    """A generator by name ("portraits64") or from a safetensors file; in evaluation mode, no gradients."""
    path = _weights_path(name_or_path)
    config = EG3DConfig.from_dict(json.loads(read_metadata(path)["config"]))
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    statistics = {key: tensors.pop(key) for key in STATISTICS if key in tensors}
    generator = EG3D(config)
    generator.load_state_dict(tensors, strict=True)
    if statistics:
        generator.set_w_statistics(**statistics)
    else:
        generator.measure_w()
    return generator.eval().requires_grad_(False).to(device)


def save_generator(
    generator: EG3D,
    path: str | os.PathLike,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights, configuration, statistics of w, and what `metadata` adds as text. Returns the path."""
    path = Path(path)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder) / path.name
        save_file(tensors, temporary, metadata=texts)
        temporary.replace(path)
    return path


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


def _weights_path(name_or_path: str | os.PathLike) -> Path:
    """The file that is meant, or an error that says what there is."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".pkl":
        raise ValueError(f"{path}: official EG3D pickles are not supported yet; expected a .safetensors file")
    if path.suffix == ".safetensors" or path.parent != Path():
        if not path.is_file():
            raise FileNotFoundError(f"no generator file at {path}")
        return path
    shipped = WEIGHTS / f"{path}.safetensors"
    if not shipped.is_file():
        known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(
            f"unknown generator {str(name_or_path)!r}: expected a shipped one ({known}) "
            "or the path of a .safetensors file"
        )
    return shipped
