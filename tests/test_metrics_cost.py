import time

import numpy as np
import pytest
import torch

from lib.metrics import cost, measured

MEGABYTE = 1 << 20


def test_memory_that_was_given_back_counts_at_its_peak():
    with measured() as found:
        block = np.ones(64 * MEGABYTE // 8)
        time.sleep(20 * cost.SAMPLING_PAUSE)
        del block
    assert 60 * MEGABYTE < found.peak_bytes < 120 * MEGABYTE


def test_memory_that_is_kept_counts_even_if_nothing_was_looked_at_between(monkeypatch):
    monkeypatch.setattr(cost, "SAMPLING_PAUSE", 1000.0)
    with measured() as found:
        block = np.ones(64 * MEGABYTE // 8)
    assert 60 * MEGABYTE < found.peak_bytes < 120 * MEGABYTE
    assert block[0] == 1


def test_memory_that_was_there_before_does_not_count():
    block = np.ones(64 * MEGABYTE // 8)
    with measured() as found:
        total = block.sum()
    assert 0 <= found.peak_bytes < 32 * MEGABYTE
    assert total == block.size


def test_time_is_that_between_beginning_and_end(monkeypatch):
    clock = iter([100.0, 107.5])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    with measured() as found:
        assert np.isnan(found.seconds)
    assert found.seconds == 7.5


def test_what_raises_is_measured_up_to_there():
    with pytest.raises(RuntimeError, match="inversion failed"), measured() as found:
        block = np.ones(64 * MEGABYTE // 8)
        raise RuntimeError(f"inversion failed after {block.sum()}")
    assert found.peak_bytes > 60 * MEGABYTE
    assert not np.isnan(found.seconds)


def test_devices_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="cpu and cuda devices; got mps"), measured("mps"):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_a_cuda_device_counts_at_its_peak():
    kept = torch.ones(16 * MEGABYTE // 4, device="cuda")
    with measured("cuda") as found:
        block = torch.ones(64 * MEGABYTE // 4, device="cuda")
        del block
    assert 64 * MEGABYTE <= found.peak_bytes < 80 * MEGABYTE
    assert kept[0] == 1
