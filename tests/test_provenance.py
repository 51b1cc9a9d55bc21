"""Records of where the generator comes from: a log made small keeps what it says."""

import json

import numpy as np
import pytest

from lib.runs import records
from lib.runs.provenance import compact_log, record_training


def lines(rows: int) -> list[str]:
    """A log whose loss is its step, and whose score begins half-way."""
    log = [{"step": 25 * (i + 1), "seconds": float(i), "loss": 25.0 * (i + 1)} for i in range(rows)]
    for i in range(rows // 2, rows):
        log[i]["score"] = float(i)
    return [json.dumps(row) for row in log]


def test_a_short_log_is_kept_row_by_row():
    log = compact_log(lines(6), max_rows=10)
    assert log["step"] == log["loss"] == [25, 50, 75, 100, 125, 150]
    assert log["score"] == [None, None, None, 3, 4, 5]


def test_a_long_log_becomes_means_of_even_parts_and_ends_where_it_ended():
    log = compact_log(lines(1000), max_rows=20)
    assert len(log["loss"]) == 20
    assert log["step"][-1] == 25_000 and log["seconds"][-1] == 999
    assert np.diff(log["step"]) == pytest.approx(np.full(19, 1250))
    assert log["loss"] == pytest.approx(np.array(log["step"]) - 25 * 49 / 2, rel=1e-3)
    assert log["score"][:10] == [None] * 10 and None not in log["score"][10:]


def test_numbers_keep_five_digits():
    log = compact_log([json.dumps({"step": 25, "seconds": 1.23456789, "loss": 0.000123456789})])
    assert (log["seconds"], log["loss"]) == ([1.2346], [0.00012346])


def test_an_empty_log_says_so():
    with pytest.raises(ValueError, match="log is empty"):
        compact_log([])


def test_a_training_is_recorded_with_its_log_and_the_fids_in_the_order_of_steps(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RUNS", tmp_path)
    (tmp_path / "log.jsonl").write_text("\n".join(lines(4)) + "\n")
    path = record_training(tmp_path, "small", {2000: 41.5, 500: 60.0}, start="smaller")
    assert path == tmp_path / "results" / "training_small-full.json"
    recorded = json.loads(path.read_text())
    assert recorded["metrics"]["log"]["step"] == [25, 50, 75, 100]
    assert list(recorded["metrics"]["fid"].items()) == [("500", 60.0), ("2000", 41.5)]
    assert recorded["extra"] == {"start": "smaller"}
