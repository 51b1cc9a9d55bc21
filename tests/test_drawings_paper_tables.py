"""Panels of a paper's table and ours: the numbers of each in their place, and the scenes behind them."""

import numpy as np
import pandas as pd
import pytest

from lib.drawings.paper_tables import paper_and_ours
from lib.evaluation.tables import FOUND
from lib.figures import method_colour


def found(inputs=("all",), kinds=("turned", "heads"), metrics=("mse", "identity")):
    """Means that tell from where they are, and no interval in the second kind."""
    rows = [
        (
            kind,
            name,
            metric,
            method,
            1.0 + j,
            10.0 * k + j,
            *((8.0 * k, 12.0 * k) if k else (np.nan,) * 2),
            3 + k,
        )
        for k, kind in enumerate(kinds)
        for name in inputs
        for metric in metrics
        for j, method in enumerate(("pti", "spi"))
    ]
    return pd.DataFrame(rows, columns=list(FOUND))


def heights(axes, method):
    return [y for line in axes.lines if line.get_color() == method_colour(method) for y in line.get_ydata()]


# ---- tables
@pytest.mark.parametrize("inputs", [("all",), ("front", "30 degrees", "60 degrees")])
def test_each_row_of_panels_has_its_own_numbers(inputs):
    picture = paper_and_ours(found(inputs), "table 1")
    paper, _, turned, _, heads, _ = picture.axes
    assert heights(paper, "spi") == [2.0] * len(inputs)
    assert heights(turned, "spi") == [1.0] * len(inputs) and heights(heads, "pti") == [10.0] * len(inputs)
    assert [axes.get_ylabel() for axes in (paper, turned, heads)] == [
        "table 1",
        "ours,\nturned",
        "ours,\nheads",
    ]
    assert [axes.get_title() for axes in picture.axes[:2]] == ["MSE ↓", "identity ↑"]


def test_scenes_are_counted_below_ours_and_not_below_the_papers():
    picture = paper_and_ours(found(("front", "60 degrees")), "table 2")
    words = [[label.get_text() for label in axes.get_xticklabels()] for axes in picture.axes]
    assert words[0] == ["front", "60°"]
    assert words[2] == ["0\nn 3", "0.6\nn 3"] and words[4] == ["0\nn 4", "0.6\nn 4"]


def test_what_is_not_there_yet_leaves_an_empty_panel():
    missing = found().assign(mean=np.nan, low=np.nan, high=np.nan, n=0)
    picture = paper_and_ours(missing, "table 1")
    assert not np.isfinite(heights(picture.axes[2], "spi")).any()
    assert picture.axes[2].get_xticklabels()[0].get_text() == "n 0"
    picture.canvas.draw()
