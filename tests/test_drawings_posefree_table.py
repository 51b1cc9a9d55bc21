"""Errors in other units: factors that pictures agree with, and every number of a column in its place."""

import pytest
import torch
from test_figures import assert_nothing_is_cropped

from lib.drawings.posefree_table import READINGS, on_unit_range, one_unit
from lib.figures import method_colour, method_label
from lib.metrics import mse

SIGNED = "[\N{MINUS SIGN}1, 1]"


def test_units_agree_with_pictures_in_either_range():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 16, 16, generator=rng) for _ in range(2))
    printed = mse(2 * a - 1, 2 * b - 1).item()
    assert on_unit_range(printed, SIGNED) == pytest.approx(((a - b).square().mean().item(),))
    assert on_unit_range(0.3, "[0, 1]") == (0.3,)


def test_what_is_not_said_has_both_readings_and_an_absolute_error_none():
    both = {value for unit in ("[0, 1]", SIGNED) for value in on_unit_range(0.4, unit)}
    assert set(on_unit_range(0.4, "not said")) == both
    assert on_unit_range(0.4, "absolute") == ()


def test_an_unknown_unit_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"one of \[0, 1\], .*got 'decibels'"):
        on_unit_range(0.1, "decibels")


def test_every_row_stands_as_printed_and_in_one_unit():
    column = {"posefree": (0.0024, "not said"), "spi": (0.008, SIGNED), "e3dge": (0.1, "absolute")}
    picture = one_unit(column)
    (axes,) = picture.axes
    names = ["spi", "posefree", "e3dge"]  # the order of rows of all figures
    assert [label.get_text() for label in axes.get_yticklabels()] == list(map(method_label, names))
    for place, name in enumerate(names):
        lines = [line for line in axes.lines if set(line.get_ydata()) == {place}]
        hollow = [line.get_xdata()[0] for line in lines if line.get_marker() == "D"]
        filled = [x for line in lines if line.get_color() == method_colour(name) for x in line.get_xdata()]
        assert hollow == [column[name][0]] and filled == list(on_unit_range(*column[name])), name
    words = [text.get_text() for text in axes.texts]
    assert {"not said", SIGNED, "absolute error"} <= set(words)
    assert_nothing_is_cropped(picture)


def test_all_units_fit_beside_the_panel():
    names = ("psp", "e4e", "spi", "posefree")
    assert_nothing_is_cropped(
        one_unit({name: (0.02, unit) for name, unit in zip(names, READINGS, strict=True)})
    )


def test_an_empty_column_is_refused():
    with pytest.raises(ValueError, match="a row at least"):
        one_unit({})
