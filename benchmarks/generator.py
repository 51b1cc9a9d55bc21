"""The generator against its plain twin (tests/plain_eg3d.py): `python -m benchmarks.generator`.

Every measurement has a process of its own, so that peaks of memory are its own too. The two sides take turns,
and of several repetitions the fastest counts. On a CUDA device half precision and torch.compile join in.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

from lib.cameras import orbit
from lib.generators import EG3D, EG3DConfig, Rendering, load_generator
from tests import plain_eg3d

MIB = 2**20
TASKS = ("forward", "gradient of w", "gradient of weights")
PLAIN, OURS, BF16, COMPILED = "plain", "ours", "ours, bfloat16", "ours, compiled"


@dataclass
class Case:
    """One measurement."""

    model: Literal["portraits64", "ffhq512"] = "portraits64"  # ffhq512: NVIDIA's sizes, random weights
    task: Literal["forward", "gradient of w", "gradient of weights"] = "forward"
    side: Literal["plain", "ours", "ours, bfloat16", "ours, compiled"] = "ours"
    threads: int = 0  # 0: as many as torch takes
    device: str = "cpu"
    repetitions: int = 3


@dataclass(frozen=True)
class Measurement:
    seconds: float  # of the fastest repetition
    peak_mib: float  # memory that the call took on top of the generator
    difference: float  # root mean square of the picture's difference to the first of our float32 pictures


def generator_of(model: str) -> EG3D:
    """A generator whose rays are partly absorbed, as those of a trained one are."""
    if model != "ffhq512":
        return load_generator(model)
    torch.manual_seed(0)
    generator = EG3D(EG3DConfig.ffhq512()).eval().requires_grad_(False)
    density = generator.decoder.net[2]
    density.weight[0] *= 10
    density.bias[0] += 1
    return generator


def picture_of(case: Case, generator: EG3D) -> Callable[[Tensor, Tensor], Rendering]:
    if case.side == PLAIN:
        return lambda w_plus, label: plain_eg3d.synthesised(generator, w_plus, label)
    if case.side == COMPILED:
        generator.backbone.synthesis = torch.compile(generator.backbone.synthesis)
        generator.superresolution = torch.compile(generator.superresolution)
    return generator.synthesize


def run(case: Case) -> Measurement:
    """Measure in this process."""
    if case.threads:
        torch.set_num_threads(case.threads)
    generator = generator_of(case.model).to(case.device)
    generator.requires_grad_(case.task == "gradient of weights")
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(1, generator.z_dim, generator=rng).to(case.device)
    camera = orbit(0.3, 0.1, radius=generator.config.camera_radius).to(case.device)
    w_plus = generator.map(z, camera).detach().clone().requires_grad_(case.task == "gradient of w")
    picture = picture_of(case, generator)
    precision = torch.autocast(case.device, torch.bfloat16, enabled=case.side == BF16)

    def once() -> Rendering:
        with precision, torch.set_grad_enabled(case.task != "forward"):
            view = picture(w_plus, camera.label())
            if case.task != "forward":
                (view.image.float().square().mean() + view.image_raw.float().square().mean()).backward()
        generator.zero_grad(set_to_none=True)
        w_plus.grad = None
        return view

    before = _memory_in_use(case.device)
    image = once().image.detach().float()
    peak = _memory_peak(case.device) - before
    seconds = min(_timed(once, case.device) for _ in range(case.repetitions))
    with torch.no_grad():
        reference = generator.synthesize(w_plus, camera).image
    return Measurement(seconds, peak / MIB, (image - reference).square().mean().sqrt().item())


def _timed(call: Callable, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _memory_in_use(device: str) -> int:
    """Bytes in use now; the peak is counted from here on."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not Path("/proc/self/statm").exists():  # elsewhere the peak since the start has to do
        return _memory_peak(device)
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _memory_peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)


def measured(case: Case) -> Measurement:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.generator", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{case} failed:\n{done.stderr.strip()}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def machine(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"


def compare(model: str, task: str, device: str, threads: int, repetitions: int) -> list[dict]:
    """Rows of the table: one a side, with its ratios to the plain twin."""
    sides = [PLAIN, OURS, BF16] + ([COMPILED] if device == "cuda" else [])
    found = {side: measured(Case(model, task, side, threads, device, repetitions)) for side in sides}
    plain = found[PLAIN]
    return [
        {
            "model": model,
            "task": task,
            "side": side,
            "seconds": m.seconds,
            "images_per_second": 1 / m.seconds,
            "times_as_fast": plain.seconds / m.seconds,
            "peak_mib": m.peak_mib,
            "share_of_memory": m.peak_mib / plain.peak_mib,
            "rms_difference": m.difference,
        }
        for side, m in found.items()
    ]


def main(
    models: tuple[str, ...] = ("portraits64", "ffhq512"),
    tasks: tuple[str, ...] = TASKS,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    threads: int = 0,
    repetitions: int = 3,
    out: Path | None = None,
    case: str = "",
) -> None:
    """Compare the generator with its plain twin and print ratios.

    Args:
        models: portraits64, ffhq512.
        tasks: forward, "gradient of w", "gradient of weights".
        device: cpu or cuda.
        threads: CPU threads; 0 leaves it to torch.
        repetitions: the fastest of so many counts.
        out: also write the rows as JSON.
        case: one measurement as JSON, in this process (what the comparison starts).
    """
    if case:
        print(json.dumps(asdict(run(Case(**json.loads(case))))))
        return
    print(f"{machine(device)}; a picture at a time")
    print(f"{'':12}{'':21}{'':16}{'s':>8}{'images/s':>10}{'faster':>8}{'MiB':>8}{'memory':>8}{'rms':>10}")
    rows = []
    for model in models:
        for task in tasks:
            for row in compare(model, task, device, threads, repetitions):
                rows.append(row)
                print(
                    f"{model:12}{task:21}{row['side']:16}{row['seconds']:8.3f}{row['images_per_second']:10.2f}"
                    f"{row['times_as_fast']:7.2f}x{row['peak_mib']:8.0f}{row['share_of_memory']:8.2f}"
                    f"{row['rms_difference']:10.1e}",
                    flush=True,
                )
    if out is not None:
        out.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
