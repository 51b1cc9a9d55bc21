"""The benchmark of encoders times what it says, and what starts save follows from the rows."""

import json

import pytest
import torch
from project_files import ROOT
from torch import nn

from benchmarks import encoders as benchmark
from benchmarks.encoders import HYBRIDS, OFFICIAL, Official, parameters_of, saved_rows
from lib.encoders import ENCODERS

RESULT = ROOT / "benchmarks" / "results" / "encoders-cpu.json"


def row(method: str, start: str, steps: int, lpips: float, seconds: float = 1.0) -> dict:
    return {
        "method": method,
        "start": start,
        "steps": steps,
        "seconds": seconds,
        "input_lpips": lpips,
        "side_lpips": lpips + 0.1,
    }


ROWS = [
    row("none", "goae-wplus", 0, 0.30, 0.1),
    row("wplus", "mean", 120, 0.20, 12.0),
    row("wplus", "goae-wplus", 12, 0.25, 1.3),
    row("wplus", "goae-wplus", 30, 0.20, 3.0),
    row("wplus", "goae-wplus", 60, 0.15, 6.0),
    row("pti", "mean", 120, 0.10, 20.0),
    row("pti", "goae-wplus", 60, 0.12, 10.0),
]


def test_the_fewest_steps_at_equal_quality_are_found():
    wplus, pti = saved_rows(ROWS)
    assert (wplus["steps_from_mean"], wplus["steps_from_encoder"], wplus["times_as_fast"]) == (120, 30, 4)
    assert wplus["side_lpips_from_mean"] == wplus["side_lpips_from_encoder"] == pytest.approx(0.3)
    assert (pti["steps_from_encoder"], pti["times_as_fast"]) == (None, None), "none came so far"


def test_an_encoder_may_need_no_step_at_all():
    better = [row("none", "goae-wplus", 0, 0.05, 0.1), *ROWS[1:]]
    for found, seconds in zip(saved_rows(better), (12.0, 20.0), strict=True):
        assert (found["steps_from_encoder"], found["times_as_fast"]) == (0, pytest.approx(seconds / 0.1))


def test_official_encoders_are_methods_of_the_same_parts():
    for name, official in OFFICIAL.items():
        assert (ENCODERS[name].refinement is None) == (official.refinement is None)


def test_parameters_are_those_of_all_networks():
    class Generator:
        w_mean = torch.zeros(1)

    def half():
        return nn.Linear(3, 4, bias=False)

    alone, both = (Official(half, refined).made("x", Generator()) for refined in (None, half))
    assert (parameters_of(alone), parameters_of(both)) == (12, 24)
    assert not any(p.requires_grad for p in both.encoder.parameters())


def test_a_pass_is_the_fastest_after_the_first(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 15.0, 20.0, 23.0])  # passes of 1 (not counted), 5 and 3 seconds
    monkeypatch.setattr(benchmark, "now", lambda device: next(times))
    monkeypatch.setattr(benchmark, "load_encoder", lambda name, generator: _Nothing())
    found, _ = benchmark.measure(benchmark.Case("psp", repetitions=2))
    assert found.seconds == 3
    assert next(times, None) is None


class _Nothing:
    encoder, refinement = nn.Linear(1, 1), None

    def encode_batch(self, images, cameras):
        assert images.shape == (1, 3, 64, 64)


def test_what_is_recorded_is_of_one_piece():
    if not RESULT.is_file():
        pytest.skip("not measured yet")
    found = json.loads(RESULT.read_text())
    assert {one["encoder"] for one in found["official"]} == set(OFFICIAL)
    assert {one["method"] for one in found["hybrid"]} == {"none", *HYBRIDS}
    assert found["saved"] == saved_rows(found["hybrid"])
    pti = {one["seconds_a_picture"] / one["steps_of_pti"] for one in found["passes"]}
    assert max(pti) == pytest.approx(min(pti)), "all are held against the same step"
