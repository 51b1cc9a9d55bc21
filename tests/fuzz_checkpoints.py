"""Mutates valid checkpoints at random and reads each: an error or a good result, never anything else.

    python -m tests.fuzz_checkpoints --mutations 2000

A worker process reads the mutants, under a limit of memory and with an audit of what Python runs and imports; it
is watched from outside for crashes and hangs. What fails is kept as a file, for a look.
"""

import dataclasses
import json
import pickletools
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from lib.generators import EG3D, CheckpointError, SuperResolutionConfig, save_generator
from lib.generators.checkpoints import export_state_dict, read_checkpoint
from lib.generators.discriminators import DualDiscriminator
from lib.generators.storage import load_safetensors
from tests.official_layout import (
    OFFICIAL_TINY,
    TINY_DISCRIMINATOR,
    official_generator,
    write_official_pickle,
    write_torch,
)

MEMORY = 2**30
"""Bytes that reading a mutant of 100 kB may take on top of what the worker has."""

SECONDS = 5.0
"""Of a processor's time; a mutant that takes longer is a failure."""

PATIENCE = 120.0
"""Seconds without a sign of life, after which a worker hangs; the machine may be busy."""

FORBIDDEN = ("os.", "subprocess.", "socket.", "ctypes.", "pickle.", "marshal.", "exec", "compile", "import")
"""Starts of the audit events that show that something was run or imported."""

HOSTILE_NAMES = (
    ("os", "system"),
    ("builtins", "eval"),
    ("torch", "load"),
    ("training.triplane", "X"),
    ("a.b", "c.d"),
)

HOSTILE_VALUES = (b"0", b"1", b"-1", b"[]", b"{}", b"99", b"9e9", b"null", b"NaN")


@dataclass(frozen=True)
class Options:
    """Read mutants of valid checkpoints."""

    mutations: int = 2000
    seed: int = 0
    keep: Path = Path(tempfile.gettempdir()) / "eg3d-study-fuzz"
    """Folder for mutants that fail."""
    worker: int | None = None
    """Used by the command itself: read the mutants from this number on."""


# -------------------------------------------------------------------- mutants
def seeds(folder: Path) -> list[Path]:
    """Small valid files, one of each kind."""
    config = dataclasses.replace(
        OFFICIAL_TINY,
        plane_resolution=8,
        channel_base=32,
        channel_max=4,
        superresolution=SuperResolutionConfig.official("2X", widths=(4, 4), input_resolution=8),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = EG3D(config)
        discriminator = DualDiscriminator(
            dataclasses.replace(TINY_DISCRIMINATOR, resolution=8, channel_max=4)
        )
    tuned = official_generator(generator)
    return [
        write_official_pickle(folder / "official.pkl", generator, discriminator, mark=folder / "mark"),
        write_official_pickle(
            folder / "old.pkl", generator, mark=folder / "mark", protocol=3, old_numpy=True
        ),
        write_torch(tuned, folder / "tuned.pt"),
        write_torch(tuned, folder / "legacy.pt", zipped=False),
        export_state_dict(generator, folder / "exported.pth"),
        save_generator(generator.measure_w(n=10), folder / "own.safetensors", torch.float32),
    ]


def mutant(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(CHANGES)(content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> int:
    """A position, often near the start or the end, where files say how they are built."""
    size = max(len(content), 1)
    near = min(size, 4000)
    return draw.choice((draw.randrange(size), draw.randrange(near), size - 1 - draw.randrange(near)))


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 16))):
        if changed:
            changed[_place(content, draw)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: _place(content, draw)]


def splice(content: bytes, draw: random.Random) -> bytes:
    """Something from one place, once or often, in place of something at another."""
    start, target = _place(content, draw), _place(content, draw)
    piece = content[start : start + draw.choice((1, 8, 100, 3000))] * draw.choice((1, 1, 2, 50))
    return content[:target] + piece + content[target + draw.choice((0, 0, len(piece), 30)) :]


def other_opcode(content: bytes, draw: random.Random) -> bytes:
    """An opcode becomes another one, or its argument one that is out of bounds."""
    try:
        found = [(code, place) for code, _, place in pickletools.genops(content)]
    except Exception:  # a mutant of a mutant may be no pickle any more
        return flip(content, draw)
    code, place = draw.choice(found)
    changed = bytearray(content)
    if draw.random() < 0.5 or code.arg is None:
        changed[place] = ord(draw.choice(pickletools.opcodes).code)
    else:
        for index in range(place + 1, min(place + 1 + draw.choice((1, 4, 8)), len(changed))):
            changed[index] = draw.choice((0, 0xFF, 0x7F))
    return bytes(changed)


def other_name(content: bytes, draw: random.Random) -> bytes:
    """A name in the file becomes a dangerous one, with its lengths right."""
    module, name = draw.choice(HOSTILE_NAMES)
    target = draw.choice(
        (b"collections", b"torch._utils", b"torch.storage", b"dnnlib.util", b"torch_utils.persistence")
    )
    at = content.find(target, draw.randrange(max(len(content) // 2, 1)))
    if at < 2:
        return flip(content, draw)
    if content[at - 1] == len(target):  # SHORT_BINUNICODE, as protocol 4 writes names
        return content[: at - 1] + bytes([len(module)]) + module.encode() + content[at + len(target) :]
    end = content.find(b"\n", content.find(b"\n", at) + 1)
    return content[:at] + f"{module}\n{name}".encode() + content[end:]


def inserted_opcodes(content: bytes, draw: random.Random) -> bytes:
    """Opcodes in between: calls, references, tuples of tuples."""
    target = _place(content, draw)
    piece = bytes(
        draw.choice(b"R.}](tuQb\x81\x85\x86\x87\x93\x94h0122qN\x88\x8a\x8c\x8e\x90\x91")
        for _ in range(draw.choice((1, 4, 40)))
    )
    return content[:target] + piece * draw.choice((1, 1, 100)) + content[target:]


def other_setting(content: bytes, draw: random.Random) -> bytes:
    """A value in the metadata of safetensors becomes another, as long with its spaces."""
    values = list(re.finditer(rb"\d+\.?\d*|true|false|null", content[: content.find(b"}}")]))
    value = draw.choice(HOSTILE_VALUES)
    places = [found for found in values if len(found[0]) >= len(value)]
    if content[8:9] != b"{" or not places:
        return flip(content, draw)
    found = draw.choice(places)
    return content[: found.start()] + value.ljust(len(found[0])) + content[found.end() :]


CHANGES = (
    flip,
    flip,
    truncate,
    splice,
    other_opcode,
    other_opcode,
    other_name,
    inserted_opcodes,
    other_setting,
)


# -------------------------------------------------------------------- the worker
def work(options: Options) -> None:
    """Read mutant after mutant, and write a line on each."""
    events: list[str] = []
    watching = [False]

    def audit(event: str, arguments: tuple) -> None:
        if watching[0] and event.startswith(FORBIDDEN):
            events.append(f"{event} {str(arguments)[:100]}")

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        files = seeds(Path(name))
        contents = [file.read_bytes() for file in files]
        for file in files:  # what is imported at first use is imported now
            outcome(file)
        outcome(Path(__file__))
        b"x".decode("cp437")  # how zipfile reads names
        sys.addaudithook(audit)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        path = Path(name) / "mutant"
        for index in range(options.worker, options.mutations):
            draw = random.Random(options.seed * 1_000_003 + index)
            content = mutant(contents[index % len(contents)], draw)
            path.write_bytes(content)
            print(json.dumps({"index": index}), flush=True)
            start = time.process_time()
            watching[0] = True
            result = outcome(path)
            watching[0] = False
            if events or (Path(name) / "mark").exists():
                result = f"ran something: {events[:3]}"
            if time.process_time() - start > SECONDS:
                result = "took too long"
            if not result.startswith(("read", "refused")):
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{index}").write_bytes(content)
            print(json.dumps({"index": index, "result": result}), flush=True)
            events.clear()


def outcome(path: Path) -> str:
    """What reading a file comes to: "read", "refused: ...", or the name of an error that must not be."""
    try:
        state = read_state(path)
    except CheckpointError as error:
        reason = re.sub(r"at byte \d+: .*|'.*", "...", str(error).partition(": ")[2])
        return f"refused: {reason[:70]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finite = all(value.isfinite().all() and value.dtype == torch.float32 for value in state.values())
    return "read" if finite else "values that are not finite"


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file of any kind."""
    if path.read_bytes()[8:9] == b"{":
        return load_safetensors(path).state_dict()
    return read_checkpoint(path).state_dict


# -------------------------------------------------------------------- the watch
def watch(options: Options) -> tuple[Counter, dict[int, str]]:
    """Results of all mutants, and the failures among them by number."""
    results: Counter = Counter()
    failures: dict[int, str] = {}
    following = 0
    while following < options.mutations:
        command = [sys.executable, "-m", "tests.fuzz_checkpoints", "--worker", str(following)]
        command += [
            "--mutations",
            str(options.mutations),
            "--seed",
            str(options.seed),
            "--keep",
            str(options.keep),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            following, problem = _follow(worker, following, results, failures)
            worker.kill()
        if problem:
            failures[following] = problem
            following += 1
    return results, failures


def _follow(
    worker: subprocess.Popen, index: int, results: Counter, failures: dict[int, str]
) -> tuple[int, str]:
    """Take a worker's lines until it ends; the number of the mutant that is next, or at fault."""
    while select.select([worker.stdout], [], [], PATIENCE)[0]:
        line = worker.stdout.readline()
        if not line:
            return index, "" if worker.wait() == 0 else f"the worker died with status {worker.returncode}"
        entry = json.loads(line)
        if "result" in entry:
            index = entry["index"] + 1
            results[entry["result"]] += 1
            if not entry["result"].startswith(("read", "refused")):
                failures[entry["index"]] = entry["result"]
    return index, "the worker hangs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 where a mutant was neither read nor refused."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    if options.worker is not None:
        work(options)
        return 0
    results, failures = watch(options)
    for result, count in results.most_common():
        print(f"{count:6d}  {result}")
    total, read = sum(results.values()), results["read"]
    print(f"{total} mutants: {read} read, {total - read - len(failures)} refused, {len(failures)} failures")
    for index, problem in failures.items():
        print(f"mutant {index}: {problem}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
