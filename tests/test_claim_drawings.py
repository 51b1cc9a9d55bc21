"""Drawings of the ledger: what is drawn is what was found, every claim has its square, and everything fits."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from test_figures import assert_nothing_is_cropped

from lib import drawings
from lib.drawings.claims import EXPECTED, OUTCOME_COLOURS, STATUS_STYLE
from lib.figures import method_label
from lib.runs.claims import PaperPair, Test
from lib.runs.verdicts import Finding

TEST = Test("mse", "spi", "lower", ("samples",), "input", "pti")


def a_finding(low, high, outcome="holds", test=TEST, baseline=2.0):
    return Finding(test, "samples", outcome, "", 24, (low + high) / 2, low, high, baseline)


def colours(axes):
    return [to_hex(line.get_color()) for line in axes.lines]


def texts(picture):
    return [text.get_text() for axes in picture.axes for text in axes.texts]


def shaded(axes):
    """Left and right ends of where findings are expected."""
    return [
        (patch.get_x(), patch.get_x() + patch.get_width())
        for patch in axes.patches
        if isinstance(patch, Rectangle) and to_hex(patch.get_facecolor()) == EXPECTED
    ]


# ---- intervals --------------------------------------------------------------------------------------------


def test_an_interval_is_drawn_in_shares_of_the_baseline_and_in_the_colour_of_its_outcome():
    picture = drawings.intervals_and_expectations(
        {"one": a_finding(-0.5, -0.3), "two": a_finding(0.1, 0.3, "against")}
    )
    (axes,) = picture.axes
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2]
    assert [list(bar.get_xdata()) for bar in bars] == [[-0.25, -0.15], [0.05, 0.15]]
    assert [bar.get_color() for bar in bars] == [OUTCOME_COLOURS["holds"], OUTCOME_COLOURS["against"]]
    assert {"one", "two", "holds", "against"} <= set(texts(picture))
    assert_nothing_is_cropped(picture)


@pytest.mark.parametrize(
    ("expect", "margin", "ends"),
    [
        ("lower", 0.0, (-1.0, 0.0)),
        ("higher", 0.0, (0.0, 1.0)),
        ("alike", 0.1, (-0.1, 0.1)),
        ("not_lower", 0.1, (-0.1, 1.0)),
    ],
)
def test_the_shade_is_where_the_claim_expects_the_mean(expect, margin, ends):
    test = Test("mse", "spi", expect, ("samples",), "input", "pti", margin=margin)
    picture = drawings.forest([("spi-01", a_finding(-0.2, 0.2, "open", test))])
    assert shaded(picture.axes[0]) == [pytest.approx(ends)]


def test_what_lies_beyond_the_axis_is_an_arrow():
    picture = drawings.forest([("spi-01", a_finding(-8.0, -0.4))], limit=1.0)
    (arrow,) = [line for line in picture.axes[0].lines if line.get_marker() == "<"]
    assert arrow.get_xdata()[0] == -1.0
    assert_nothing_is_cropped(picture)


def test_the_forest_has_the_paper_s_change_and_a_row_for_each_finding():
    pair = PaperPair("spi_t1_celebahq", "mse", ("SPI", 0.5), ("PTI", 1.0))
    with_paper = Test("mse", "spi", "lower", ("samples",), "input", "pti", paper=(pair,))
    rows = [("spi-01", a_finding(-0.5, -0.3, test=with_paper)), ("spi-02", a_finding(-0.1, 0.1, "open"))]
    picture = drawings.forest(rows)
    diamonds = [line for line in picture.axes[0].lines if line.get_marker() == "D"]
    assert [list(mark.get_xdata()) for mark in diamonds] == [[-0.5]]
    labels = texts(picture)
    assert [label[:6] for label in labels if label.startswith("spi-")] == ["spi-01", "spi-02"]
    assert labels.count("n 24") == 2
    assert_nothing_is_cropped(picture)


def test_the_forest_says_what_share_of_the_steps_was_taken():
    findings = [a_finding(-0.5, -0.3), replace(a_finding(-0.5, -0.3), fraction=1 / 3)]
    picture = drawings.forest([("spi-01", finding) for finding in findings])
    assert {"n 24", "n 24, steps 0.33"} <= set(texts(picture))
    assert_nothing_is_cropped(picture)


def test_a_forest_without_findings_is_refused():
    with pytest.raises(ValueError, match="at least one finding"):
        drawings.forest([])


# ---- squares ----------------------------------------------------------------------------------------------


def a_verdict(number, status, paper="spi"):
    return SimpleNamespace(claim=SimpleNamespace(id=f"{paper}-{number:02d}", paper=paper), status=status)


def test_every_claim_has_a_square_of_its_status_in_the_row_of_its_paper():
    statuses = [*STATUS_STYLE, "reproduced"]
    verdicts = [a_verdict(i + 1, status) for i, status in enumerate(statuses)]
    verdicts += [a_verdict(i, "inconclusive", "goae") for i in range(1, 24)]
    picture = drawings.ledger_squares(verdicts, {"spi": "SPI", "goae": "GOAE"})
    squares = picture.axes[0].patches[: len(verdicts)]
    rows = sorted({square.get_y() for square in squares})
    assert [sum(square.get_y() == row for square in squares) for row in rows] == [6, 23]
    in_order = [to_hex(square.get_facecolor()) for square in squares[:6]]
    assert in_order == [STATUS_STYLE[status][0] for status in sorted(statuses, key=list(STATUS_STYLE).index)]
    assert {"2 reproduced", "24 inconclusive", "1 not testable here", "SPI", "GOAE", "23"} <= set(
        texts(picture)
    )
    assert_nothing_is_cropped(picture)


def test_the_key_does_not_overlap():
    picture = drawings.ledger_squares([a_verdict(1, "method not there yet")], {"spi": "SPI"})
    picture.canvas.draw()
    words = [text for text in picture.axes[0].texts if text.get_text()[2:] in STATUS_STYLE]
    boxes = sorted((text.get_window_extent() for text in words), key=lambda box: box.x0)
    assert len(boxes) == len(STATUS_STYLE)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


# ---- image by image ---------------------------------------------------------------------------------------


def test_each_image_has_its_line_and_each_method_its_mean():
    picture = drawings.image_by_image(
        {"lpips": {"w": [0.3, 0.5], "pti": [0.1, 0.2]}, "mse": {"w": [1, 2], "pti": [1, 2]}}
    )
    assert [axes.get_title() for axes in picture.axes] == ["lpips", "mse"]
    lines = picture.axes[0].lines
    assert [list(line.get_ydata()) for line in lines[:2]] == [[0.3, 0.1], [0.5, 0.2]]
    means = [line.get_ydata()[0] for line in lines if line.get_linewidth() == 3]
    assert means == pytest.approx([0.4, 0.15])
    assert [label.get_text() for label in picture.axes[0].get_xticklabels()] == ["W", "PTI"]
    assert_nothing_is_cropped(picture)


def test_long_names_of_methods_stand_in_lines_and_apart():
    names = ["hfgi3d-early", "hfgi3d-interpolated", "spi-no_warps_no_depth", "hfgi3d"]
    picture = drawings.image_by_image({"lpips": {name: [0.1, 0.2] for name in names}})
    picture.canvas.draw()
    labels = picture.axes[0].get_xticklabels()
    assert [label.get_text().replace("\n", " ") for label in labels] == [
        method_label(name).replace(",", "") for name in names
    ]
    boxes = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert_nothing_is_cropped(picture)
