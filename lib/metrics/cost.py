"""What a computation costs: wall time and peak memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

SAMPLING_PAUSE = 0.005
"""Seconds between two looks at the memory of the process."""


@dataclass
class Cost:
    """Wall time and memory of what `measured` encloses; NaN and 0 until it is over."""

    seconds: float = float("nan")
    peak_bytes: int = 0
    """The most memory held beyond what was held before."""


@contextmanager
def measured(device: str | torch.device = "cpu") -> Iterator[Cost]:
    """Measure what runs inside, which may raise: then its cost up to there is measured.

        with measured(generator.device) as cost:
            inversion = invert_pti(...)
        cost.seconds, cost.peak_bytes

    On a CUDA device the time includes all work that was started, and memory is what tensors of this process held
    there. On the CPU, memory is the growth of the whole process, looked at every 5 ms: shorter peaks may be missed,
    and memory that an earlier call left to the allocator is used again without being counted. So measure in a fresh
    process, after a first call has loaded what is loaded once.
    """
    device, cost = torch.device(device), Cost()
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"cost is measured on cpu and cuda devices; got {device}")
    memory = _CudaMemory(device) if device.type == "cuda" else _ProcessMemory()
    with memory:
        started = time.perf_counter()
        try:
            yield cost
        finally:
            memory.wait()
            cost.seconds = time.perf_counter() - started
            cost.peak_bytes = memory.peak_bytes()


class _CudaMemory:
    """Bytes of tensors on a CUDA device, at their peak, beyond those at the start."""

    def __init__(self, device: torch.device):
        self._device = device

    def __enter__(self) -> _CudaMemory:
        self.wait()
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before

    def wait(self) -> None:
        """Until all work that was started is done."""
        torch.cuda.synchronize(self._device)


class _ProcessMemory:
    """Resident bytes of this process, at their peak, beyond those at the start; a thread looks at them."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _ProcessMemory:
        self._before = self._peak = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def peak_bytes(self) -> int:
        self._look()
        return self._peak - self._before

    def wait(self) -> None:
        """Nothing to wait for: work on the CPU is done when the call returns."""

    def _look(self) -> None:
        self._peak = max(self._peak, self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING_PAUSE):
            self._look()
