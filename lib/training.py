"""The training loop of the embedded generator and the encoders: schedule, average weights, log, exact resume.

The loop owns no data and no losses. A `step_losses(model, step)` draws its batch from the step's number, so
that a resumed run sees exactly the batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, half_life: int) -> None:
    """Exponential moving average of the weights, of a half-life in steps; buffers are copied.

    The half-life starts at one step and grows with them (a twentieth), so that the start is forgotten.
    """
    beta = 0.5 ** (1 / min(half_life, max(1.0, 0.05 * step)))
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - beta)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)


def fit(
    model: nn.Module,
    step_losses: Callable[[nn.Module, int], dict[str, Tensor]],
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    folder: Path,
    *,
    average_half_life: int = 200,
    checkpoint_every: int = 250,
    log_every: int = 25,
    autocast: torch.dtype | None = None,
    on_checkpoint: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Minimise the sum of `step_losses`; returns the average model. Resumes where `folder` has a checkpoint.

    `folder/log.jsonl` gets a row every `log_every` steps: the mean of each loss since the row before.
    """
    average = copy.deepcopy(model).requires_grad_(False)
    base_rates = [group["lr"] for group in optimiser.param_groups]
    device = next(model.parameters()).device.type
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]

    def save(step: int) -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        save_atomically(state | {"step": step, "seconds": seconds + time.monotonic() - begun}, checkpoint)

    folder.mkdir(parents=True, exist_ok=True)
    drop_rows_after(log, first)
    begun, window = time.monotonic(), []
    for step in tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=folder.name):
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * schedule.factor(step)
        with torch.autocast(device, autocast or torch.bfloat16, enabled=autocast is not None):
            losses = step_losses(model, step)
        total = sum(losses.values())
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {total.item()} at step {step}: {_numbers(losses)}")
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        update_average(average, model, step, average_half_life)
        window.append(_numbers(losses))
        if (step + 1) % log_every == 0 or step + 1 == schedule.steps:
            row = {
                "step": step + 1,
                "seconds": seconds + time.monotonic() - begun,
                "rate": schedule.factor(step),
            }
            row |= {name: sum(numbers[name] for numbers in window) / len(window) for name in window[0]}
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            window.clear()
        if (step + 1) % checkpoint_every == 0 or step + 1 == schedule.steps:
            save(step + 1)
            if on_checkpoint is not None:
                on_checkpoint(average, step + 1)
    return average


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in losses.items()}


def drop_rows_after(log: Path, step: int) -> None:
    """Forget what a killed run logged after its last checkpoint: those steps are taken, and logged, again."""
    if not log.exists():
        return
    lines = log.read_text().splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))  # the last row may be torn
    temporary = log.with_name(f".{log.name}.{os.getpid()}")
    temporary.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
    temporary.replace(log)


def save_atomically(state: dict, path: Path) -> None:
    """torch.save under a temporary name, then renamed: a killed run leaves the checkpoint before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    temporary.replace(path)
