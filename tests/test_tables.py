"""The papers' tables as printed, and our means beside them: over which scenes, which views, which inputs."""

import numpy as np
import pandas as pd
import pytest

from lib.evaluation.protocol import COLUMNS
from lib.evaluation.tables import (
    FOUND,
    HFGI3D_CONSISTENCY_METRICS,
    HFGI3D_INPUT_METRICS,
    HFGI3D_METHODS,
    HFGI3D_NOVEL_METRICS,
    HFGI3D_PRINTED,
    MEAD_INPUTS,
    SPI_METHODS,
    SPI_METRICS,
    beside_paper,
    by_mead_input,
    paper_table,
    side_by_side,
)
from lib.runs.claims import paper_number, read_ledger

VIEWS = {"yaw+0.0": 0.0, "yaw+0.6": 0.6, "ellipse00": 0.5}


def results(values, *, kind="turned", inputs=None, metric="mse"):
    """A table of `values`: by method and scene, the values in VIEWS. inputs: by scene, the yaw of its input."""
    rows = [
        {"method": method, "scene": scene, "scene_kind": kind, "split": "test", "metric": metric}
        | {"view": view, "yaw": yaw, "is_input": yaw == (inputs or {}).get(scene, 0.0), "value": value}
        | {"seconds": 1.0, "peak_memory_mb": 1.0, "failure": "", "fraction": 1.0}
        for method, by_scene in values.items()
        for scene, of_views in by_scene.items()
        for (view, yaw), value in zip(VIEWS.items(), of_views, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def one(found, method, kind="turned"):
    return found[(found["method"] == method) & (found["scene_kind"] == kind)].iloc[0]


ROWS = {"pti": "PTI", "spi": "SPI"}
MSE = {"mse": "mse"}


# ---- the papers' tables
def test_every_table_of_the_ledger_has_each_of_its_rows_once_and_the_ledgers_numbers():
    ledger = read_ledger()
    for name in ledger.tables:
        assert paper_table(name).index.is_unique, name
    pairs = [pair for claim in ledger.claims for test in claim.tests for pair in test.paper]
    cells = [(pair, *cell) for pair in pairs for cell in (pair.left, pair.right) if cell]
    assert len(cells) > 100
    for pair, row, value in cells:
        assert float(paper_table(pair.table).loc[row, pair.column]) == value
        assert paper_number(ledger, pair.table, row, pair.column) == value


def test_a_table_that_no_paper_has_is_refused():
    with pytest.raises(ValueError, match="spi_t1_celebahq"):
        paper_table("spi_t9")


def test_names_of_spi_are_rows_and_columns_of_its_tables():
    first, second = paper_table("spi_t1_celebahq"), paper_table("spi_t2_mead")
    assert list(SPI_METHODS.values()) == list(first.index)
    assert list(SPI_METRICS.values()) == list(first.columns[1:])
    pooled = [view for _, seen in MEAD_INPUTS.values() for view in seen]
    assert sorted(pooled) == sorted(set(second["input_view"]))


def test_names_of_hfgi3d_are_rows_and_columns_of_its_tables():
    first, third = paper_table("hfgi3d_t1_celebahq"), paper_table("hfgi3d_t3_3d_consistency")
    printed = {row for row in HFGI3D_METHODS.values() if row} | set(HFGI3D_PRINTED.values())
    assert printed == set(first.index) == set(third.index) | {HFGI3D_PRINTED["hfgi"]}
    assert list(HFGI3D_INPUT_METRICS.values()) == list(first.columns[1:])
    assert [*HFGI3D_CONSISTENCY_METRICS.values(), *HFGI3D_NOVEL_METRICS.values()] == list(third.columns[1:])


# ---- ours beside them
def test_means_are_over_scenes_that_all_methods_have_and_the_views_asked_for():
    table = results(
        {
            "pti": {"a": [1.0, 5.0, 99.0], "b": [2.0, 6.0, 99.0], "c": [100.0, 100.0, 99.0]},
            "spi": {"a": [0.5, 2.0, 99.0], "b": [1.5, 3.0, 99.0]},  # c is not finished
        }
    )
    expected = {"input": (1.5, 1.0), "novel": (5.5, 2.5), "all": (3.5, 1.75)}
    for views, means in expected.items():
        found = beside_paper(table, "spi_t1_celebahq", ROWS, MSE, views=views)
        assert tuple(found.columns) == FOUND
        assert (one(found, "pti")["mean"], one(found, "spi")["mean"]) == pytest.approx(means)
        assert found["n"].tolist() == [2, 2] and found["low"].isna().all()
        assert found["paper"].tolist() == [0.0084, 0.0082]


def test_a_view_in_which_one_method_has_no_value_counts_for_none():
    table = results(
        {
            "pti": {"a": [1.0, 9.0, 0.0], "b": [3.0, 5.0, 0.0]},
            "spi": {"a": [1.0, np.nan, 0.0], "b": [2.0, 4.0, 0.0]},
        }
    )
    found = beside_paper(table, "spi_t1_celebahq", ROWS, MSE, views="all")
    assert one(found, "pti")["mean"] == pytest.approx((1.0 + 4.0) / 2)
    assert one(found, "spi")["mean"] == pytest.approx((1.0 + 3.0) / 2)


def test_an_interval_needs_three_scenes_and_holds_the_mean():
    values = {f"s{i}": [float(i), 0.0, 0.0] for i in range(5)}
    found = one(beside_paper(results({"pti": values, "spi": values}), "spi_t1_celebahq", ROWS, MSE), "spi")
    assert found["low"] < found["mean"] == 2.0 < found["high"] and found["n"] == 5


def test_kinds_are_apart_and_what_is_not_there_yet_has_n_0():
    turned = results({"pti": {"a": [1.0] * 3}, "spi": {"a": [2.0] * 3}})
    heads = results({"pti": {"h": [7.0] * 3}}, kind="heads")
    found = beside_paper(pd.concat([turned, heads]), "spi_t1_celebahq", ROWS, MSE)
    assert one(found, "pti")["mean"] == 1.0
    assert one(found, "pti", "heads")["n"] == 0 and np.isnan(one(found, "pti", "heads")["mean"])
    assert one(found, "pti", "heads")["paper"] == 0.0084


def test_rows_that_only_one_side_has_keep_their_numbers():
    table = results({m: {f"s{i}": [0.5] * 3 for i in range(3)} for m in ("pti", "spi")})
    rows, printed_only = {"pti": "PTI", "spi": ()}, {"ide3d": "IDE-3D"}
    found = beside_paper(
        table, "hfgi3d_t1_celebahq", rows, {"mse": "lpips"}, printed_only=printed_only
    ).set_index("method")
    assert list(found.index) == ["pti", "spi", "ide3d"]
    assert found["paper"].tolist() == pytest.approx([0.271, np.nan, 0.273], nan_ok=True)
    assert found["n"].tolist() == [3, 3, 0], "a row of the paper's alone takes no scene from ours"
    assert np.isnan(found.loc["ide3d", "mean"])


def test_inputs_of_table_2_are_told_apart_by_the_size_of_their_yaw():
    inputs = {"a": 0.0, "b": 0.6}
    values = {"a": [1.0, 2.0, 0.0], "b": [4.0, 6.0, 0.0]}
    twice = {scene: [2 * value for value in of_views] for scene, of_views in values.items()}
    found = by_mead_input(results({"pti": twice, "spi": values}, inputs=inputs))
    mse = found[found["metric"] == "mse"].set_index(["input", "method"])
    assert mse.loc[("front", "spi"), "mean"] == 1.5 and mse.loc[("60 degrees", "spi"), "mean"] == 5.0
    assert mse.loc[("front", "pti"), "mean"] == 3.0 and mse.loc[("60 degrees", "pti"), "mean"] == 10.0
    assert mse.loc[("30 degrees", "spi"), "n"] == 0
    assert mse.loc[("60 degrees", "pti"), "paper"] == pytest.approx((0.08255 + 0.07865) / 2)
    assert set(found["metric"]) == {"mse", "lpips", "ms_ssim_dissimilarity", "identity"}


def test_ranges_of_inputs_are_those_of_the_ledger():
    ledger = read_ledger()
    for claim, name in (("spi-07", "front"), ("spi-08", "30 degrees"), ("spi-09", "60 degrees")):
        assert {tuple(test.input_yaw) for test in ledger[claim].tests} == {MEAD_INPUTS[name][0]}


def test_side_by_side_says_mean_interval_and_n_of_each_kind():
    turned = results({m: {f"s{i}": [float(i)] * 3 for i in range(4)} for m in ROWS})
    heads = results({m: {"h": [7.0] * 3} for m in ROWS}, kind="heads")
    found = beside_paper(pd.concat([turned, heads]), "spi_t1_celebahq", ROWS, MSE)
    shown = side_by_side(found).loc[("mse", "all", "spi")]
    assert shown["turned", "ours"].startswith("1.5 [") and shown["turned", "n"] == 4
    assert shown["heads", "ours"] == "7" and shown["heads", "n"] == 1
    assert shown["paper", ""] == "0.0082"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": {"no_such": "PTI"}}, "no method is called no_such"),
        ({"rows": {"pti": "no such row"}}, "SG2W"),
        ({"rows": {}}, "a method and a metric"),
        ({"columns": {"no_such": "mse"}}, "no metric is called no_such"),
        ({"columns": {"mse": "no_such"}}, "no column 'no_such'"),
        ({"views": "behind"}, "input, novel, all"),
    ],
)
def test_names_that_there_are_not_are_refused(change, words):
    table = results({m: {"a": [1.0] * 3} for m in ROWS})
    given = {"rows": ROWS, "columns": MSE} | change
    with pytest.raises(ValueError, match=words):
        beside_paper(table, "spi_t1_celebahq", **given)
