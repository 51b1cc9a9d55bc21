"""Generators: `load_generator` gives one by name or from a file, `save_generator` writes one.

Our own files are safetensors: weights under the official names, the configuration as JSON in the metadata.
Checkpoints of the original and of the tools around it are read as data; nothing in any file is run.
"""

import os
from typing import Literal

import torch

from lib.generators.eg3d import EG3D, EG3DConfig, PlaneAxesNumbers, Rendering, SuperResolutionConfig
from lib.generators.pickles import CheckpointError
from lib.generators.rendering import RenderingSettings
from lib.generators.storage import read_metadata, save_generator

__all__ = [
    "EG3D",
    "CheckpointError",
    "EG3DConfig",
    "Rendering",
    "RenderingSettings",
    "SuperResolutionConfig",
    "load_generator",
    "read_metadata",
    "save_generator",
]


def load_generator(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    *,
    which: Literal["G_ema", "G"] = "G_ema",
    plane_axes: str | PlaneAxesNumbers | None = None,
) -> EG3D:
    """A generator by name ("portraits64") or from a file; in evaluation mode, no gradients.

    Files are told apart by content: our safetensors, official EG3D pickles, state dicts and tuned generators
    written by torch.save. `which` of the latter's networks is meant, and how their planes lie (`plane_axes`
    "released" or "corrected") where the file does not say it. Raises `CheckpointError`, a ValueError, for
    files of other kinds.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"no CUDA device was found for device={str(device)!r}; device='cpu' works everywhere"
        )
    # Imported here, since it is also a command (`python -m lib.generators.checkpoints`), which must not be
    # imported before it starts.
    from lib.generators import checkpoints

    return checkpoints.load_generator(name_or_path, device, which=which, plane_axes=plane_axes)
