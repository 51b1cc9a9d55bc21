"""Files of encoder networks: safetensors with the configuration, and for which generator they were trained.

A method may be made of several networks, each in a file of its own: GOAE's refinement needs an encoder, and two
refinements can share one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lib import paths
from lib.encoders.feature_alignment import AFAConfig, FeatureAlignment
from lib.encoders.geometry_aware import GOAEConfig, GOAEEncoder
from lib.encoders.psp import PSPConfig, PSPEncoder
from lib.encoders.triplanenet import TriPlaneNet, TriPlaneNetConfig
from lib.generators import CheckpointError
from lib.generators.official import plain_settings
from lib.generators.storage import differences, shapes_of, usable_weights

FORMAT = "eg3d-study/encoder/1"

KINDS: dict[str, tuple[type[nn.Module], type]] = {
    "psp": (PSPEncoder, PSPConfig),
    "goae": (GOAEEncoder, GOAEConfig),
    "alignment": (FeatureAlignment, AFAConfig),
    "triplanenet": (TriPlaneNet, TriPlaneNetConfig),
}
"""Networks by the kind that their files name, with the configurations that make them."""

SHIPPED = paths.WEIGHTS / "encoders"
TRAINED = paths.CACHE / "training" / "encoders"
"""Where networks lie that ship with the study, and those that were trained here, `<name>/network.safetensors`."""


@dataclass(frozen=True)
class Stored:
    """A network of a file, in evaluation mode, and what the file says of it."""

    network: nn.Module
    kind: str
    facts: dict[str, str]

    @property
    def generator_sha256(self) -> str:
        return self.facts["generator_sha256"]


def network_path(name: str) -> Path:
    """The file of a network by name: the shipped one or, where none ships, the one that was trained here."""
    shipped, trained = SHIPPED / f"{name}.safetensors", TRAINED / name / "network.safetensors"
    for path in (shipped, trained):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no encoder network is called {name!r}: neither {shipped.relative_to(paths.ROOT)} nor a trained one; "
        f"`python -m lib.encoder_training {name}` trains it (ablations do not ship)"
    )


def network_digest(name: str) -> str:
    """SHA-256 of the file of a network; "absent" where it is not here, as ablations do not ship."""
    try:
        return hashlib.sha256(network_path(name).read_bytes()).hexdigest()
    except FileNotFoundError:
        return "absent"


def save_network(
    network: nn.Module,
    kind: str,
    path: str | os.PathLike,
    facts: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write weights, configuration and facts ("generator_sha256" among them) as safetensors; returns the path."""
    tensors = {}
    for key, value in network.state_dict().items():
        tensors[key] = value.detach().cpu().contiguous()
        if value.is_floating_point():
            tensors[key] = tensors[key].to(dtype)
            if not tensors[key].isfinite().all():
                raise ValueError(
                    f"{key} is not finite as {dtype}: save with a wider dtype, or look at the training"
                )
    texts = dict(facts) | {"format": FORMAT, "kind": kind}
    texts["config"] = json.dumps(dataclasses.asdict(network.config))
    with paths.replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=texts))
    return Path(path)


def load_network(path: str | os.PathLike, device: str | torch.device = "cpu") -> Stored:
    """The network of a file of `save_network`. Nothing in a file can execute code.

    Raises `CheckpointError` where the file is of another kind, or does not fit its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of an encoder network at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from error
    if facts.get("format") != FORMAT or facts.get("kind") not in KINDS:
        raise CheckpointError(
            f"{path} is a safetensors file, but not of an encoder: expected format {FORMAT!r} and one of the kinds "
            f"{', '.join(KINDS)} in its metadata, found {facts.get('format')!r} and {facts.get('kind')!r}"
        )
    made, config_class = KINDS[facts["kind"]]
    config = _config(path, facts, config_class)
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    differing = differences(found, shapes_of(made, config))
    if differing:
        raise CheckpointError(f"{path} does not fit the configuration in its metadata: {differing}")
    if "generator_sha256" not in facts:
        raise CheckpointError(f"{path} does not say which generator its network was trained for")
    with torch.random.fork_rng(devices=[]):  # weights that are drawn and thrown away
        network = made(config)
    network.load_state_dict({key: _usable(path, key, value) for key, value in tensors.items()}, strict=True)
    return Stored(network.eval().requires_grad_(False).to(device), facts["kind"], facts)


def _usable(path: Path, key: str, value: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):  # of a batch norm
        return value
    try:
        return usable_weights(key, value)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _config(path: Path, facts: Mapping[str, str], kind: type) -> Any:
    """The configuration in a file's metadata, of plain values of ordinary size."""
    try:
        stated = plain_settings(json.loads(facts["config"]))
        fields = {field.name for field in dataclasses.fields(kind)}
        unknown = stated.keys() - fields
        if unknown:
            raise ValueError(f"unknown settings {', '.join(sorted(unknown))}")
        return kind(**{key: _tuples(value) for key, value in stated.items()})
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the configuration in its metadata cannot be used: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
