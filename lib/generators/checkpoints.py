"""Checkpoints of EG3D and PoF3D made by others: official pickles, exported state dicts, tuned generators.

Files are read as data by `lib.generators.pickles`; no code in them is run, and nothing that they name is
imported. Sizes are inferred from the tensors' shapes; what shapes do not tell comes from the settings that lie
beside them, and is the released FFHQ 512 model's where there are none. Only the numbers of the network that is
asked for are read.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from lib.generators.discriminators import DiscriminatorConfig, DualDiscriminator, PoseAwareDiscriminator
from lib.generators.eg3d import EG3D, EG3DConfig, PlaneAxesNumbers
from lib.generators.official import (
    StoredNetwork,
    discriminator_config,
    generator_config,
    official_init_kwargs,
    official_rendering_kwargs,
    plain_settings,
)
from lib.generators.pickles import (
    CheckpointError,
    Instance,
    StoredTensor,
    describe,
    read_contents,
    read_tensor,
)
from lib.generators.posefree import PoseFreeConfig
from lib.generators.rendering import plane_axes
from lib.generators.storage import (
    assembled,
    differences,
    load_safetensors,
    network_class,
    save_generator,
    shapes_of,
    usable_weights,
)
from lib.paths import WEIGHTS, replacing, require_suffix

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "convert",
    "export_state_dict",
    "is_safetensors",
    "load_discriminator",
    "load_generator",
    "official_state_dict",
    "read_checkpoint",
    "weights_path",
]

Network = Literal["G_ema", "G", "D"]

LICENCE = (
    "as the source file's; of NVIDIA's EG3D weights: NVIDIA Source Code License, "
    "research and evaluation only, not for commercial use"
)


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
                config = discriminator_config(network)
                expected = shapes_of(_discriminator_class(config), config)
            else:
                config = generator_config(network, file, plane_axes)
                expected = shapes_of(
                    network_class(config), dataclasses.replace(config, plane_axes="released")
                )
            state = _read_state(network, expected, file)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if which != "D" and network.rendering is None:
        model = "PoF3D's FFHQ recipe" if isinstance(config, PoseFreeConfig) else "the released FFHQ 512 model"
        network.notes.append(f"no rendering_kwargs: assumed those of {model}")
        warnings.warn(
            f"{path} has no rendering_kwargs: camera, ray and conditioning settings of {model} "
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


def _find(contents: Any, which: str) -> StoredNetwork:
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
        raise _absent(contents, which)
    network = _of_state(contents if found is None else contents[found], {} if found is None else contents)
    return (
        network
        if found == which
        else _with_note(network, f"the file does not name its network; taken as {which}")
    )


def _absent(contents: dict, which: str) -> CheckpointError:
    """The error for a file without that network, which says what it has instead."""
    name = next((key for key in (which, which.lower()) if key in contents), None)
    if name is not None:
        found = f"what it has as {name!r} is {describe(contents[name])}"
    else:
        found = f"it has {', '.join(map(describe, list(contents)[:8])) or 'nothing'}"
    return CheckpointError(f"the file has no network {which!r}; {found}: choose by which='G_ema', 'G' or 'D'")


def _with_note(network: StoredNetwork, note: str) -> StoredNetwork:
    network.notes.append(note)
    return network


def _is_state(value: Any) -> bool:
    """Whether this is a state dict: names of tensors, at least mostly."""
    if not isinstance(value, dict) or not value:
        return False
    return sum(isinstance(item, StoredTensor) for item in value.values()) * 2 > len(value)


def _of_state(state: dict, beside: dict) -> StoredNetwork:
    """A network given as a state dict, with what lies beside it in the file."""
    odd = [
        key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, StoredTensor))
    ]
    if odd:
        raise CheckpointError(f"expected names of tensors; {describe(odd[0])} is something else")
    prefixed = all(key.startswith("module.") for key in state)
    network = StoredNetwork(
        {key.removeprefix("module.") if prefixed else key: value for key, value in state.items()}
    )
    if prefixed:
        network.notes.append("names start with 'module.', as DistributedDataParallel saves them")
    rendering, init = beside.get("rendering_kwargs"), beside.get("init_kwargs")
    network.init = plain_settings(init) if isinstance(init, dict) else None
    if not isinstance(rendering, dict) and isinstance(init, dict):
        rendering = init.get("rendering_kwargs")
    network.rendering = plain_settings(rendering) if isinstance(rendering, dict) else None
    network.beside = beside
    return network


def _of_modules(root: Instance) -> StoredNetwork:
    """A network given as modules: walks them as `state_dict()` would, and keeps them for their attributes."""
    network = StoredNetwork({})
    waiting, seen = [("", root)], set()
    while waiting:
        path, module = waiting.pop()
        parameters, buffers, children = (
            _group(module, path, name) for name in ("_parameters", "_buffers", "_modules")
        )
        hidden = module.state.get("_non_persistent_buffers_set")
        # Each is walked once: what is shared by many modules costs no more than it takes in the file.
        walked = (module, module.state, parameters, buffers, children, hidden)
        parts = {id(part) for part in walked if part}
        if seen & parts or path.count(".") > 16 or len(path) > 400:
            raise CheckpointError("the network's modules are nested without end, or occur twice")
        seen |= parts
        network.modules[path] = module
        prefix = f"{path}." if path else ""
        network.tensors |= _own_tensors(prefix, parameters | buffers, hidden)
        for name, child in children.items():
            if isinstance(child, Instance):
                waiting.append((prefix + name, child))
            elif child is not None:
                raise CheckpointError(f"expected a module as {prefix}{name}; found {describe(child)}")
    init, rendering = root.state.get("_init_kwargs"), root.state.get("rendering_kwargs")
    network.init = plain_settings(init) if isinstance(init, dict) else {}
    if not isinstance(rendering, dict):
        rendering = init.get("rendering_kwargs") if isinstance(init, dict) else None
    network.rendering = plain_settings(rendering) if isinstance(rendering, dict) else None
    return network


def _own_tensors(prefix: str, tensors: dict[str, Any], hidden: Any) -> dict[str, StoredTensor]:
    """A module's own part of its state dict: all but the buffers that are not persistent."""
    hidden = {name for name in hidden if isinstance(name, str)} if isinstance(hidden, list) else set()
    for name, value in tensors.items():
        if value is not None and not isinstance(value, StoredTensor):
            raise CheckpointError(f"expected a tensor as {prefix}{name}; found {describe(value)}")
    return {
        prefix + name: value for name, value in tensors.items() if value is not None and name not in hidden
    }


def _group(module: Instance, path: str, name: str) -> dict:
    """A module's parameters, buffers or modules."""
    group = module.state.get(name) if isinstance(module.state, dict) else None
    if not isinstance(group, dict) or not all(isinstance(key, str) and len(key) <= 100 for key in group):
        raise CheckpointError(f"the module {path or 'at the top'} has no {name}; the file is damaged")
    return group


# -------------------------------------------------------------------- numbers
def _read_state(
    network: StoredNetwork, expected: dict[str, tuple[int, ...]], file: BinaryIO
) -> dict[str, Tensor]:
    """The network's tensors in float32, after a look at names, shapes and size."""
    differing = differences({key: tensor.shape for key, tensor in network.tensors.items()}, expected)
    if differing:
        raise CheckpointError(
            f"the network is not of the original's structure, EG3D's or PoF3D's: {differing}"
        )
    claimed = sum(tensor.numel * tensor.dtype.itemsize for tensor in network.tensors.values())
    if claimed > file.seek(0, os.SEEK_END):
        raise CheckpointError("its tensors claim more numbers than the file has; it is damaged or hostile")
    state = {key: usable_weights(key, read_tensor(file, network.tensors[key])) for key in expected}
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in network.tensors.values()} - {"float32"}
    if types:
        network.notes.append(f"weights are stored as {', '.join(sorted(types))}; they were read as float32")
    return state


def _require_ordinary_shapes(network: StoredNetwork) -> None:
    """Refuse empty and endless tensors, before anything is made after their shapes."""
    for key, tensor in network.tensors.items():
        if any(not 1 <= size <= 2**16 for size in tensor.shape):
            raise CheckpointError(f"{describe(key)} has the shape {list(tensor.shape)}, which no network has")


# -------------------------------------------------------------------- loading
def load_generator(
    name_or_path: str | os.PathLike,
    device: str | torch.device = "cpu",
    *,
    which: Literal["G_ema", "G"] = "G_ema",
    plane_axes: str | PlaneAxesNumbers | None = None,
) -> EG3D:
    """A generator by name ("portraits64") or from a file; in evaluation mode, no gradients.

    One that says its own pose (PoF3D's) is a `PoseFreeEG3D`, told by its tensors.

    Files are told apart by content: our safetensors, official EG3D pickles, state dicts and tuned generators
    written by torch.save. `which` of the latter's networks is meant, and how their planes lie (`plane_axes`
    "released" or "corrected") where the file does not say it. Raises `CheckpointError`, a ValueError, for
    files of other kinds.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"no CUDA device was found for device={str(device)!r}; device='cpu' works everywhere"
        )
    path = weights_path(name_or_path)
    if which not in ("G_ema", "G"):
        raise ValueError(
            f"expected which='G_ema' or 'G'; got {which!r} (a discriminator: load_discriminator)"
        )
    if is_safetensors(path):
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
    """The dual discriminator of an official checkpoint, with gradients, to train on: PoF3D's is pose-aware."""
    checkpoint = read_checkpoint(path, "D")
    discriminator = _discriminator_class(checkpoint.config)(checkpoint.config)
    discriminator.load_state_dict(checkpoint.state_dict, strict=True)
    return discriminator.to(device)


def _discriminator_class(config: DiscriminatorConfig) -> type[DualDiscriminator]:
    """The class of a configuration's discriminator."""
    return PoseAwareDiscriminator if config.pose_branch else DualDiscriminator


def is_safetensors(path: Path) -> bool:
    """By content: safetensors start with the length of a JSON text, which starts with a brace."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return True
    other = head.startswith((b"PK", b"\x80", b"version", b"<"))
    return path.suffix == ".safetensors" and not other


def weights_path(name_or_path: str | os.PathLike) -> Path:
    """The file of a generator's name, or that file itself; an error says what there is."""
    path = Path(name_or_path).expanduser()
    shipped = WEIGHTS / f"{path}.safetensors"
    if path.parent == Path() and shipped.is_file():
        return shipped
    if path.exists() or path.suffix or path.parent != Path():
        _require_file(path)
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
    require_suffix(target, ".safetensors")
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
    path = require_suffix(path, ".pth", ".pt")
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
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(contents, file)
    return path
