"""Generators: `load_generator` gives one by name or from a file, `save_generator` writes one.

Our own files are safetensors: weights under the official names, the configuration as JSON in the metadata.
Checkpoints of the original and of the tools around it are read as data; nothing in any file is run.
"""

from lib.generators.checkpoints import load_generator
from lib.generators.eg3d import EG3D, EG3DConfig, Rendering, SuperResolutionConfig
from lib.generators.pickles import CheckpointError
from lib.generators.posefree import PoseFreeConfig, PoseFreeEG3D
from lib.generators.rendering import RenderingSettings
from lib.generators.storage import read_metadata, save_generator

__all__ = [
    "EG3D",
    "CheckpointError",
    "EG3DConfig",
    "PoseFreeConfig",
    "PoseFreeEG3D",
    "Rendering",
    "RenderingSettings",
    "SuperResolutionConfig",
    "load_generator",
    "read_metadata",
    "save_generator",
]
