"""Drawings of painted heads: what is cut out is the paint, lines stand where the numbers are."""

import dataclasses

import numpy as np
import pytest
import torch

from lib.drawings.texture_editing import Kept, kept_over_yaw, paint_close_up
from lib.figures import method_colour, method_label
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import head, tiny_scene


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


def painted(generator):
    """A scene whose views have a white square of paint; the last shows none."""
    scene = tiny_scene(generator)
    views, truth = {}, {}
    for name, view in scene.views.items():
        where = torch.zeros(1, 1, *view.image.shape[-2:], dtype=torch.bool)
        if name != "ellipse00":
            where[..., 5:9, 5:9] = True
        truth[f"painted/{name}"] = where
        views[name] = dataclasses.replace(view, image=view.image.masked_fill(where, 1.0))
    return dataclasses.replace(scene, views=views, truth=truth)


def test_close_up_has_a_row_a_method_and_a_column_a_view_that_shows_paint(generator):
    scene = painted(generator)
    heads = {"pti": head(generator, 2, scene.input.camera), "wplus": head(generator, 3, scene.input.camera)}
    picture = paint_close_up(scene, heads)
    texts = [text.get_text() for text in picture.texts]
    assert texts == [method_label("wplus"), method_label("pti"), "truth", "input", "yaw +0.30"]
    assert len(picture.axes) == 3 * 2
    shown = [np.asarray(axes.images[0].get_array()) for axes in picture.axes]
    for truth in shown[-2:]:  # the square fills the middle of the cut
        side = len(truth)
        assert truth[side // 2, side // 2].min() > 250
    assert not np.array_equal(shown[0], shown[2])


def kept():
    yaws = [0.6, -0.6, 0.0]
    return Kept(yaws, {"pti": [0.2, -2.0, 0.9], "wplus": [0.1, 0.0, 0.3]}, input_yaw=0.3)


def test_lines_stand_where_the_numbers_are():
    picture = kept_over_yaw({"one head": kept(), "another": kept()}, lowest=-0.5)
    assert [axes.get_title() for axes in picture.axes] == ["one head", "another"]
    axes = picture.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    pti = lines[method_label("pti")]
    assert list(pti.get_xdata()) == [-0.6, 0.0, 0.6]
    assert list(pti.get_ydata()) == [-0.5, 0.9, 0.2]
    assert pti.get_color() == method_colour("pti")
    (off_scale,) = [line for line in axes.lines if line.get_marker() == "v"]
    assert (off_scale.get_xdata()[0], off_scale.get_ydata()[0]) == (-0.6, -0.5)
    (photo,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(photo.get_xdata()) == [0.3, 0.3]


def test_key_names_each_method_once_in_the_order_of_all_figures():
    (legend,) = kept_over_yaw({"a": kept(), "b": kept()}).legends
    assert [text.get_text() for text in legend.get_texts()] == [method_label("wplus"), method_label("pti")]
