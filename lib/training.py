"""The training loop that all networks share: schedule, average weights, log, exact resume, many processes.

The loop owns no data and no losses. A step is a series of phases, each an update by an optimiser of its own
losses: one phase for a distillation or an encoder, four for a generator with its discriminator. What a phase
draws, it draws from the step's number, so that a resumed run sees exactly the batches, noise and cameras that
an uninterrupted one would have seen; all else that changes lies in the model's parameters and buffers.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.paths import replacing

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Schedule:
    """Steps and learning-rate factor: linear warm-up, constant, then a cosine to zero over the last part."""

    steps: int
    warm_up: int = 100
    decay_fraction: float = 0.4

    def factor(self, step: int) -> float:
        """Factor on every learning rate at a step, 0 to 1."""
        warm = min(1.0, (step + 1) / self.warm_up)
        start = self.steps * (1 - self.decay_fraction)
        progress = max(0.0, (step - start) / max(1.0, self.steps - start))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


# ----------------------------------------------------------------------- processes


class Processes:
    """The processes that train one model together, one a device; without `fabric`, this one alone.

    Every process draws the whole batch and takes its share of it; gradients are averaged. So the pictures that a
    run learns from do not depend on their number; the noise and jitter of its renderings do.
    """

    def __init__(self, device: str | torch.device = "cpu", fabric: Fabric | None = None):
        self.fabric = fabric
        self.device = torch.device(device) if fabric is None else fabric.device
        self.rank = 0 if fabric is None else fabric.global_rank
        self.count = 1 if fabric is None else fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, batch: Any) -> Any:
        """This process's part of a batch: every count-th of its rows.

        Interleaved, because the groups of `minibatch_deviation` are: they stay what they were.
        """
        if len(batch) % self.count:
            raise ValueError(f"a batch of {len(batch)} cannot be shared evenly by {self.count} processes")
        return batch[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes of what each of them has; all must call it."""
        if self.fabric is None:
            return value
        shared = value.detach().to(self.device, copy=True)
        return self.fabric.all_reduce(shared, reduce_op="mean").to(value.device)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their means over the processes, in one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        means = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


ALONE = Processes()


def launch(train: Callable[..., Any], *arguments: Any, device: str, devices: int = 1) -> None:
    """train(*arguments, processes=...) on so many devices of a kind, "cpu" or "cuda", in a process for each.

    More than one process are started afresh: function and arguments must be importable and picklable.
    """
    if devices == 1:
        train(*arguments, processes=Processes(device))
        return
    from lightning_fabric import Fabric  # seconds to import, and several devices are the exception

    # Whole in a partial, because lightning looks for modules within arguments and refuses frozen dataclasses.
    fabric = Fabric(accelerator=device, devices=devices, strategy="ddp_spawn")
    fabric.launch(_join, partial(train, *arguments))


def _join(fabric: Fabric, train: Callable[..., Any]) -> None:
    train(processes=Processes(fabric=fabric))


# ----------------------------------------------------------------------- a step


@dataclass(frozen=True)
class Phase:
    """One update within a step: its optimiser minimises the sum of what `losses(step)` gives.

    Phases may share an optimiser. While a phase runs, parameters of other optimisers have no gradients. Values
    without a gradient are only logged.
    """

    losses: Callable[[int], dict[str, Tensor]]
    optimiser: torch.optim.Optimizer
    every: int = 1  # taken at the steps that it divides
    first: int = 0  # and not before this one

    def due(self, step: int) -> bool:
        return step >= self.first and step % self.every == 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, these parameters get no gradients."""
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


@torch.no_grad()
def mend_gradients(parameters: Iterable[nn.Parameter], limit: float = 1e5) -> None:
    """NaN becomes 0 and infinity the limit, as in EG3D: what float16 may give, one update must not spread."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(nan=0.0, posinf=limit, neginf=-limit)


@torch.no_grad()
def update_average(
    average: nn.Module, model: nn.Module, step: int, half_life: float, ramp: float | None = 0.05
) -> None:
    """Exponential moving average of the weights, of a half-life in steps; buffers are copied.

    The half-life starts at one step and grows with them, `ramp` times as fast, so that the start is forgotten;
    None keeps it as it is, for a start that is good already.
    """
    if ramp is not None:
        half_life = min(half_life, max(1.0, ramp * step))
    beta = 0.5 ** (1 / half_life)
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - beta)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)


# ----------------------------------------------------------------------- the loop


def fit(
    model: nn.Module,
    phases: Sequence[Phase],
    schedule: Schedule,
    folder: Path,
    *,
    averaged: nn.Module | None = None,
    average_half_life: float = 200,
    average_ramp: float | None = 0.05,
    checkpoint_every: int = 250,
    log_every: int = 25,
    autocast: torch.dtype | None = None,
    mend: bool = False,
    on_checkpoint: Callable[[nn.Module, int], None] | None = None,
    processes: Processes = ALONE,
) -> nn.Module:
    """Take the phases' updates, step by step; returns the average model. Resumes where `folder` has a checkpoint.

    `model` holds everything that training changes, optimisers apart; `averaged` is the part of it, by default
    all, of which an average is kept. `folder/log.jsonl` gets a row every `log_every` steps: the means of all
    values since the row before. `mend` lets float16 overflow in gradients pass, see `mend_gradients`.
    """
    averaged = model if averaged is None else averaged
    average = copy.deepcopy(averaged).requires_grad_(False)
    optimisers = list({id(phase.optimiser): phase.optimiser for phase in phases}.values())
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    run = Run(folder, model, average, optimisers, processes)
    first = run.resume()
    progress = range(first, schedule.steps)
    if processes.first:
        progress = tqdm(progress, initial=first, total=schedule.steps, desc=folder.name)
    for step in progress:
        for optimiser, base in zip(optimisers, rates, strict=True):
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = rate * schedule.factor(step)
        for phase in phases:
            if phase.due(step):
                run.note(update(phase, phases, step, autocast, mend, processes))
        update_average(average, averaged, step, average_half_life, average_ramp)
        last = step + 1 == schedule.steps
        if (step + 1) % log_every == 0 or last:
            run.log(step + 1, rate=schedule.factor(step))
        if (step + 1) % checkpoint_every == 0 or last:
            run.save(step + 1)
            if on_checkpoint is not None and processes.first:
                on_checkpoint(average, step + 1)
    return average


def update(
    phase: Phase,
    phases: Sequence[Phase],
    step: int,
    autocast: torch.dtype | None,
    mend: bool,
    processes: Processes,
) -> dict[str, float]:
    """Take one phase's update; returns its values."""
    others = [p for other in phases if other.optimiser is not phase.optimiser for p in other.parameters]
    device = phase.parameters[0].device.type
    with frozen(others):
        with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
            losses = phase.losses(step)
        total = sum(losses.values())
        numbers = {name: float(value.detach()) for name, value in losses.items()}
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {total.item()} at step {step}: {numbers}")
        phase.optimiser.zero_grad(set_to_none=True)
        total.backward()
    processes.average_gradients(phase.parameters)
    if mend:
        mend_gradients(phase.parameters)
    phase.optimiser.step()
    return numbers


class Run:
    """What a run leaves in its folder: the checkpoint, from which it goes on, and the log."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        average: nn.Module,
        optimisers: Sequence[torch.optim.Optimizer],
        processes: Processes,
    ):
        self.checkpoint, self.log_file = folder / "checkpoint.pt", folder / "log.jsonl"
        self.model, self.average, self.optimisers = model, average, optimisers
        self.processes = processes
        self.seconds_before, self.begun = 0.0, time.monotonic()
        self.window: dict[str, list[float]] = {}

    def resume(self) -> int:
        """Load the checkpoint, where there is one; returns the number of steps that are done."""
        step = 0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if len(state.get("optimisers", ())) != len(self.optimisers):
                raise ValueError(
                    f"{self.checkpoint} is of a run with other optimisers than these {len(self.optimisers)}: "
                    "move its folder away, or name another one"
                )
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            step, self.seconds_before, self.window = state["step"], state["seconds"], state["window"]
        if self.processes.first:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            drop_rows_after(self.log_file, step)
        return step

    def save(self, step: int) -> None:
        if self.processes.first:
            state = {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            }
            state |= {"step": step, "seconds": self.seconds, "window": self.window}
            save_whole(state, self.checkpoint)

    @property
    def seconds(self) -> float:
        """Spent in all of this run's sessions up to now."""
        return self.seconds_before + time.monotonic() - self.begun

    def note(self, numbers: dict[str, float]) -> None:
        """Remember values for the next row of the log."""
        for name, number in numbers.items():
            self.window.setdefault(name, []).append(number)

    def log(self, step: int, **columns: float) -> None:
        """Write a row with the means of what was noted since the last, over all processes."""
        means = [sum(numbers) / len(numbers) for numbers in self.window.values()]
        means = self.processes.mean(torch.tensor(means, dtype=torch.float64)).tolist()
        if self.processes.first:
            row = {"step": step, "seconds": self.seconds} | columns
            with self.log_file.open("a") as file:
                file.write(json.dumps(row | dict(zip(self.window, means, strict=True))) + "\n")
        self.window.clear()


def drop_rows_after(log: Path, step: int) -> None:
    """Forget what a killed run logged after its last checkpoint: those steps are taken, and logged, again."""
    if not log.exists():
        return
    lines = log.read_text().splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))  # the last row may be torn
    with replacing(log) as temporary:
        temporary.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))


def save_whole(state: dict, path: Path) -> None:
    """torch.save under a temporary name, then renamed: a killed run leaves the checkpoint before."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
