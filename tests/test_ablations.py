"""Rows of SPI's table 3 under our names, what a change is a share of, and that short plans are short everywhere."""

import csv

import numpy as np
import pandas as pd
import pytest

from lib.evaluation import METHODS, read_plan
from lib.evaluation.ablations import SPI_ROWS, against_first, shortened
from lib.paths import RUNS


def test_rows_are_the_papers_in_its_order_and_methods_of_the_study():
    with (RUNS / "paper_tables" / "spi_t3_mead_ablation.csv").open(newline="") as file:
        printed = dict.fromkeys(row["setting"] for row in csv.DictReader(file))
    assert list(SPI_ROWS.values()) == list(printed)
    assert set(SPI_ROWS) <= set(METHODS)


# ---- short plans
def test_a_short_plan_is_short_in_every_stage_of_every_method():
    plan = read_plan("full")
    short = shortened(plan, 2)
    assert list(short.methods) == list(plan.methods) and short.inputs == plan.inputs
    for name, planned in short.methods.items():
        method = planned.method
        while method is not None:
            counts = {key: value for key, value in method.settings.items() if key.split("_")[-1] == "steps"}
            assert bool(counts) != bool(method.networks), name  # an encoder has no steps
            assert all(value <= 2 for value in counts.values()), (name, counts)
            method = method.start
        assert planned.fraction is None and planned.n == plan.methods[name].n


def test_a_stage_that_is_left_out_stays_out():
    latent = shortened(read_plan("full"), 5).methods["spi-latent"].method
    assert latent.settings["steps"] == 0 and latent.settings["latent_steps"] == 5
    assert (
        latent.settings["latent_settings"]
        == read_plan("full").methods["spi-latent"].method.settings["latent_settings"]
    )


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="1 step or more"):
        shortened(read_plan("quick"), 0)


# ---- changes
def table(values: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """By method and scene, the values of its views."""
    rows = [
        {"method": method, "scene": scene, "view": f"view{i}", "metric": "mse", "value": value}
        for method, by_scene in values.items()
        for scene, of_views in by_scene.items()
        for i, value in enumerate(of_views)
    ]
    return pd.DataFrame([*rows, {**rows[0], "metric": "other", "value": 1e6}])


def test_changes_are_shares_of_the_first_methods_mean():
    first = {"a": [1.0, 3.0], "b": [4.0, 4.0], "c": [6.0, 6.0]}  # scenes count 2, 4, 6
    second = {"a": [1.0, 1.0], "b": [3.0, 3.0], "c": [5.0, 5.0]}  # 1 less each
    found = against_first(table({"w": first, "spi": second}), "mse", ["w", "spi"])
    assert found["mean"].tolist() == [4.0, 3.0] and found["n"].tolist() == [3, 3]
    assert found.loc["spi", ["change", "low", "high"]].tolist() == pytest.approx([-0.25] * 3)
    assert found.loc["w", ["change", "low", "high"]].tolist() == [0.0] * 3


def test_an_interval_is_over_scenes_and_holds_the_change():
    rng = np.random.default_rng(0)
    first = {f"s{i}": [1.0] * 5 for i in range(12)}
    second = {name: [1.0 + rng.normal(-0.2, 0.1)] * 5 for name in first}
    change, low, high = against_first(table({"w": first, "spi": second}), "mse", ["w", "spi"]).loc[
        "spi", ["change", "low", "high"]
    ]
    deviation = np.std([values[0] for values in second.values()], ddof=1) / np.sqrt(12)
    assert low < change < high
    assert high - low == pytest.approx(2 * 2.2 * deviation, rel=0.25)  # t of 11 degrees of freedom: 2.2


def test_only_scenes_and_views_of_all_methods_count():
    first = {"a": [1.0, 9.0], "b": [3.0, 3.0], "alone": [100.0, 100.0]}
    second = {"a": [2.0, np.nan], "b": [2.0, 2.0]}
    found = against_first(table({"w": first, "spi": second}), "mse", ["w", "spi"])
    assert found["mean"].tolist() == [2.0, 2.0] and found.loc["spi", "change"] == 0.0
    assert found["n"].tolist() == [2, 2] and np.isnan(found.loc["spi", "low"])


def test_a_method_that_was_never_run_leaves_nothing_to_compare():
    found = against_first(table({"w": {"a": [1.0]}}), "mse", ["w", "spi"])
    assert found["n"].tolist() == [0, 0] and found["mean"].isna().all()
