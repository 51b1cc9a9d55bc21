"""GOAE's released files (Yuan et al., 2023; jiangyzy/GOAE) onto the modules of this package.

Layout, from the public source. A release is two files of `torch.save`, each the state dict of one network:

* encoder_FFHQ.pt: "swin_model.*", the backbone under the names of the public SwinV2 code (patch_embed,
  layers.S.blocks.N, layers.S.downsample, norm); "mapper_base_*", "mapper_query_*", "mapper_<level>_channel" and
  "mapper_<level>_to_<level>_spatial", Sequentials of linear layers and activations, so that the linear layers are 0 and
  2; "cross_att_<level>.{multihead_attn,linear1,linear2}".
* afa_FFHQ.pt: "input_layer", "body.N" (IR-SE units), "output_layer", "cross_att_gamma", "cross_att_beta".

A state dict of both together has these under "encoder." and "afa.". Beside weights, SwinV2 saves tables that follow
from its configuration: they are compared with ours, since a file for other windows would load and be wrong.

What a user of the files needs to know beside the weights is in `ReleasedGOAE`. They belong to EG3D's
ffhqrebalanced512-128.pkl with its released plane axes. Files are read as data, see `lib.generators.pickles`.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor, nn

from lib.encoders.feature_alignment import AFAConfig, FeatureAlignment
from lib.encoders.geometry_aware import GOAEConfig, GOAEEncoder
from lib.encoders.swin import SwinConfig, SwinV2
from lib.generators.pickles import CheckpointError, StoredTensor, describe, read_contents, read_tensor
from lib.generators.storage import differences, shapes_of, usable_weights

__all__ = ["ReleasedGOAE", "read_backbone", "read_goae"]

RESIDUAL_SIGN = -1.0
"""Times the paper's residual I - I_w+: the released alignment was trained on reconstruction minus photo."""

FEATURE_RESOLUTION = 32
"""Of the backbone's block whose features the released alignment changes."""

WRAPPERS = ("state_dict", "model")
"""Under these names, files of `torch.save` may hold a state dict beside other things."""

TABLES = ("relative_coords_table", "relative_position_index", "attn_mask")
"""Last parts of the names of what the public SwinV2 code saves beside weights."""

TABLE_TOLERANCE = 2e-3
"""Tables may be stored in float16; those of other windows differ by a hundredth and more."""

MOST_ENTRIES = 10_000
"""Of a state dict; GOAE's largest has some 600."""


@dataclass(frozen=True)
class ReleasedGOAE:
    """Networks of a release, in evaluation mode, and what their training took for granted."""

    encoder: GOAEEncoder
    alignment: FeatureAlignment | None  # None: the file has the encoder alone
    residual_sign: float = RESIDUAL_SIGN
    feature_resolution: int = FEATURE_RESOLUTION


def read_goae(
    path: str | os.PathLike,
    alignment_path: str | os.PathLike | None = None,
    *,
    encoder_config: GOAEConfig | None = None,
    alignment_config: AFAConfig | None = None,
) -> ReleasedGOAE:
    """The encoder of a released file, and the feature alignment of a second, or of the same where it has both.

    The configurations are the release's by default. Raises `CheckpointError` where a file is no such state dict, and
    says which names it lacks or has beyond those.
    """
    state, file = _opened(path)
    with file:
        parts = _parts(state, path)
        encoder = _network(GOAEEncoder, encoder_config or GOAEConfig.official(), parts["encoder"], file, path)
        if alignment_path is None:
            if "afa" not in parts:
                return ReleasedGOAE(encoder, None)
            return ReleasedGOAE(encoder, _alignment(alignment_config, parts["afa"], file, path))
    state, file = _opened(alignment_path)
    with file:
        return ReleasedGOAE(encoder, _alignment(alignment_config, state, file, alignment_path))


def read_backbone(path: str | os.PathLike, config: SwinConfig | None = None) -> SwinV2:
    """The backbone of a public SwinV2 checkpoint, to train an encoder from; its classifier ("head.*") is left out.

    Of the public models, SwinV2-B of window 12to16 at 256 pixels is the one of GOAE's configuration, the default.
    """
    state, file = _opened(path)
    with file:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
        return _network(SwinV2, config or SwinConfig.official(), state, file, path)


# -------------------------------------------------------------------- files
State = dict[str, StoredTensor]
Network = TypeVar("Network", bound=nn.Module)


def _opened(path: str | os.PathLike) -> tuple[State, BinaryIO]:
    """The state dict of a file, of which no numbers are read yet, and the file, for its reader to close."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: expected a checkpoint that GOAE's authors released")
    file = path.open("rb")
    try:
        return _state(read_contents(file)[0]), file
    except CheckpointError as error:
        file.close()
        raise CheckpointError(f"{path}: {error}") from None


def _state(contents: Any) -> State:
    """Names and tensors of a file, without the prefix that training on several devices gives them."""
    wrapped = contents if isinstance(contents, dict) else {}
    state = next((wrapped[key] for key in WRAPPERS if isinstance(wrapped.get(key), dict)), contents)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"expected the state dict of a network; the file is {describe(contents)}")
    if len(state) > MOST_ENTRIES:
        raise CheckpointError(f"expected at most {MOST_ENTRIES} entries; the file has {len(state)}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, StoredTensor):
            raise CheckpointError(
                f"expected names of tensors; {describe(key)} is {describe(value)}: save the network's state_dict() alone"
            )
    prefixed = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module."): value for key, value in state.items()} if prefixed else state


def _parts(state: State, path: str | os.PathLike) -> dict[str, State]:
    """The state dicts of a file that has both networks, as "encoder" and "afa"; else all of it as "encoder"."""
    if not any(key.startswith("encoder.") for key in state):
        return {"encoder": state}
    parts: dict[str, State] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part in ("encoder", "afa"):
            parts.setdefault(part, {})[name] = value
        elif part != "decoder":  # the generator, which has a file of its own
            raise CheckpointError(
                f"{path}: expected names in encoder, afa and decoder; found {describe(key)}"
            )
    return parts


# -------------------------------------------------------------------- networks
def _network(
    kind: type[Network], config: Any, state: State, file: BinaryIO, path: str | os.PathLike
) -> Network:
    """A network of this configuration with the numbers of a file, all of them and no others, in evaluation mode."""
    try:
        weights = {key: value for key, value in state.items() if not _is_table(key)}
        _require_names(weights, shapes_of(kind, config))
        with torch.random.fork_rng(devices=[]):  # the weights that it starts with are not kept
            network = kind(config)
        _require_tables(network, state, file)
        expected = network.state_dict()
        read = {key: _usable(key, read_tensor(file, weights[key]), known) for key, known in expected.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path}, read as {kind.__name__}: {error}") from None
    network.load_state_dict(read, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _alignment(
    config: AFAConfig | None, state: State, file: BinaryIO, path: str | os.PathLike
) -> FeatureAlignment:
    return _network(FeatureAlignment, config or AFAConfig.official(), state, file, path)


def _usable(key: str, value: Tensor, known: Tensor) -> Tensor:
    """A tensor of a file as the network has it; batch norms count in whole numbers."""
    if known.is_floating_point():
        return usable_weights(key, value)
    if value.dtype != known.dtype:
        raise CheckpointError(f"expected {known.dtype} as {key}; it is stored as {value.dtype}")
    return value


def _require_names(weights: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a state dict of other names or shapes; of a name that is missing, say which unknown one is nearest."""
    found = {key: value.shape for key, value in weights.items()}
    differing = differences(found, expected)
    if not differing:
        return
    unknown = [key for key in found if key not in expected and len(key) <= 200]
    near = []
    for key in [key for key in expected if key not in found][:3]:
        near += [f"{other} may be its {key}" for other in difflib.get_close_matches(key, unknown, n=1)]
    raise CheckpointError("; ".join([f"the tensors are not this network's: {differing}", *near]))


def _is_table(key: str) -> bool:
    return key.rpartition(".")[2] in TABLES


def _require_tables(network: nn.Module, state: State, file: BinaryIO) -> None:
    """Refuse a SwinV2 that was made for other windows. Files without tables pass."""
    known = {key: value for key, value in network.named_buffers() if _is_table(key)}
    for key in filter(_is_table, state):
        if key not in known:
            raise CheckpointError(
                f"it has the table {describe(key)}, which belongs to no window of this network"
            )
        if not _equal(state[key], known[key], file):
            raise CheckpointError(
                f"{key} is not that of the configuration: the file was made for other windows, or another resolution; "
                "expected the configuration that it was trained with"
            )


def _equal(stored: StoredTensor, known: Tensor, file: BinaryIO) -> bool:
    if stored.shape != tuple(known.shape):
        return False
    return torch.allclose(read_tensor(file, stored).double(), known.double(), atol=TABLE_TOLERANCE)
