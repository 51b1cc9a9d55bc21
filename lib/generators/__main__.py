"""Looking at generators' files, and converting them:

    python -m lib.generators inspect NAME_OR_FILE
    python -m lib.generators convert FILE OUT.safetensors
    python -m lib.generators export NAME_OR_FILE OUT.pth

Nothing in a file is run.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lib.generators.checkpoints import (
    Network,
    convert,
    export_state_dict,
    is_safetensors,
    load_generator,
    read_checkpoint,
    weights_path,
)
from lib.generators.storage import parsed, read_config, read_metadata


def _described(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file, with what is JSON in it as values."""
    texts = read_metadata(path)
    values = {"config": read_config(path).to_dict()}
    if "rendering_kwargs" in texts:
        values["rendering_kwargs"] = parsed(path, "rendering_kwargs", texts["rendering_kwargs"])
    return texts | values


@dataclass(frozen=True)
class Inspect:
    """Say what a generator's file holds."""

    name_or_file: Annotated[str, tyro.conf.Positional]
    which: Network = "G_ema"

    def run(self) -> Iterator[str]:
        path = weights_path(self.name_or_file)
        if is_safetensors(path):
            yield json.dumps(_described(path), indent=2)
            return
        checkpoint = read_checkpoint(path, self.which)
        numbers = sum(value.numel() for value in checkpoint.state_dict.values())
        yield f"{path}: {checkpoint.format}, sha256 {checkpoint.source_sha256}"
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
