"""GOAE's table 1 as panels: seconds of the right inversions, and every number in its place."""

import numpy as np
import pandas as pd
import pytest
from test_figures import assert_nothing_is_cropped

from lib.drawings.goae_tables import SECONDS, seconds_beside_paper, table_1
from lib.evaluation.protocol import COLUMNS
from lib.evaluation.tables import FOUND, paper_table
from lib.figures import method_colour, method_label

PAPER = "goae_t1_main"
ROWS = {"pti": "PTI", "goae": "GOAE", "triplanenet": ()}
EIGHT = ("pti", "pose_opt", "psp", "e4e", "ide3d", "triplanenet", "goae-wplus", "goae")


def evaluated(seconds):
    """A table of {(method, scene): seconds}: an input view and another, of two metrics."""
    rows = [
        (method, scene, "turned", "test", view, 0.0, view == "a", metric, 1.0, cost, 0.0, "", np.nan)
        for (method, scene), cost in seconds.items()
        for view in ("a", "b")
        for metric in ("mse", "lpips")
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def found(metrics=("mse", SECONDS), inputs=("all",), n=4):
    rows = [
        (kind, name, metric, method, 0.1 * (j + 1), 10.0 * (j + 1), 9.0 * (j + 1), 11.0 * (j + 1), n)
        for kind in ("turned", "heads")
        for name in inputs
        for metric in metrics
        for j, method in enumerate(EIGHT)
    ]
    return pd.DataFrame(rows, columns=list(FOUND))


# ---- seconds
def test_an_inversion_counts_once_and_scenes_are_those_of_every_row():
    costs = {("pti", scene): 100.0 + k for k, scene in enumerate("abcd")}
    costs |= {("goae", scene): 0.5 for scene in "abc"} | {("triplanenet", scene): 0.25 for scene in "abcd"}
    lines = seconds_beside_paper(evaluated(costs), PAPER, ROWS, "time_s").set_index("method")
    assert lines.at["pti", "mean"] == 101.0 and lines.at["pti", "n"] == 3  # d has no GOAE
    assert lines.at["goae", "mean"] == 0.5 and set(lines["metric"]) == {SECONDS}
    assert lines.at["pti", "low"] < 101.0 < lines.at["pti", "high"]


def test_a_scene_on_which_a_method_failed_does_not_count_for_the_others():
    costs = {("pti", "a"): 1.0, ("pti", "b"): 9.0, ("goae", "a"): 1.0, ("goae", "b"): np.nan}
    costs |= {("triplanenet", scene): 1.0 for scene in "ab"}
    lines = seconds_beside_paper(evaluated(costs), PAPER, ROWS, "time_s").set_index("method")
    assert lines.at["pti", "mean"] == 1.0 and lines.at["pti", "n"] == 1 and np.isnan(lines.at["pti", "low"])


def test_the_papers_seconds_stand_beside_ours_and_for_rows_that_we_lack():
    table = evaluated({(name, "a"): 1.0 for name in ROWS})
    lines = seconds_beside_paper(table, PAPER, ROWS, "time_s", printed_only={"ide3d": "IDE-3D"})
    lines = lines.set_index("method")
    printed = paper_table(PAPER)["time_s"]
    assert lines.at["pti", "paper"] == printed["PTI"] and lines.at["ide3d", "paper"] == printed["IDE-3D"]
    assert np.isnan(lines.at["triplanenet", "paper"])
    assert lines.at["ide3d", "n"] == 0 and np.isnan(lines.at["ide3d", "mean"])
    assert set(lines.reset_index().columns) == set(FOUND)


# ---- panels
def test_numbers_of_every_method_stand_in_every_panel_and_seconds_on_a_log_axis():
    picture = table_1(found(), "the paper")
    mse, seconds = picture.axes[2:4]
    for j, name in enumerate(EIGHT):
        for axes in (mse, seconds):
            (line,) = [line for line in axes.lines if line.get_color() == method_colour(name)]
            assert line.get_ydata() == pytest.approx([10.0 * (j + 1)])
            low, high = axes.get_xlim()
            assert low < line.get_xdata()[0] < high, f"{name} lies beside the panel"
    scales = [axes.get_yscale() for axes in picture.axes]
    assert scales == ["linear", "log"] * 3
    assert_nothing_is_cropped(picture)


def test_names_are_spread_over_lines_and_fit_a_narrow_picture():
    picture = table_1(found(("lpips", "identity", "depth_error"), ("front", "60 degrees")), "the paper")
    (key,) = picture.legends
    assert [text.get_text() for text in key.get_texts()] == [method_label(name) for name in EIGHT]
    assert 1 < key._ncols < len(EIGHT)
    assert_nothing_is_cropped(picture)


def test_kinds_without_any_number_are_left_out_but_for_the_first_look():
    some = found()
    empty = some["scene_kind"] == "heads"
    some.loc[empty, ["mean", "low", "high"]] = np.nan
    some.loc[empty, "n"] = 0
    assert len(table_1(some, "the paper").axes) == 4
    none = found(n=0).assign(mean=np.nan, low=np.nan, high=np.nan)
    picture = table_1(none, "the paper")
    assert len(picture.axes) == 6
    picture.canvas.draw()
