"""Stencils have the areas of what they show, the right way round."""

import numpy as np
import pytest
import torch

from lib.datasets.stencils import (
    SYMBOLS,
    closed,
    ellipses,
    heart,
    in_colours,
    lettering,
    polygon,
    star,
    strokes,
)


def area(cover: torch.Tensor) -> float:
    """Of what is drawn on a canvas of side 2."""
    return 4 * cover.mean().item()


def enclosed(outline: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = outline.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize(
    "outline", [star(), star(6, 0.55), heart(), np.array([[-0.5, -0.25], [0.5, -0.25], [0.0, 0.75]])]
)
def test_polygon_has_its_area(outline):
    assert area(polygon(outline)) == pytest.approx(enclosed(outline), rel=0.02)


def test_ellipses_have_their_areas():
    assert area(ellipses((-0.5, 0.2, 0.3, 0.1), (0.5, 0.0, 0.2, 0.4))) == pytest.approx(
        0.11 * np.pi, rel=0.02
    )


def test_stroke_has_its_length_times_its_width_and_round_ends():
    line = np.array([[-0.6, 0.1], [0.6, 0.1]])
    assert area(strokes(line, width=0.2)) == pytest.approx(1.2 * 0.2 + np.pi * 0.1**2, rel=0.03)


def test_closed_outline_has_no_gap():
    cover = strokes(closed(np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])), width=0.2)
    side = len(cover)
    quarter = side // 4
    assert cover[[quarter, -quarter], quarter:-quarter].min() > 0.9
    assert cover[quarter:-quarter, [quarter, -quarter]].min() > 0.9


def test_stencils_are_upright_and_not_mirrored():
    cover = polygon(np.array([[0.2, 0.6], [0.8, 0.6], [0.8, 0.9], [0.2, 0.9]]))
    row, column = (x.float().mean() for x in (cover > 0.5).nonzero().T)
    assert row < len(cover) * 0.2
    assert column > len(cover) * 0.7


@pytest.mark.parametrize("word", ["ZEN", "PARIS"])
def test_word_fills_the_width_and_is_centred(word):
    columns, rows = ((lettering(word) > 0.5).any(dim=axis).nonzero() for axis in (0, 1))
    assert columns.max() - columns.min() == pytest.approx(0.9 * 256, rel=0.06)
    assert (columns.max() + columns.min()).item() / 2 == pytest.approx(128, abs=8)
    assert (rows.max() + rows.min()).item() / 2 == pytest.approx(128, abs=16)


def test_words_read_one_way_only():
    cover = lettering("LUCK")
    assert (cover - cover.flip(1)).abs().sum() > 0.5 * cover.sum()


def test_symbols_are_neither_empty_nor_full_nor_alike():
    covers = torch.stack([symbol() for symbol in SYMBOLS])
    assert ((covers.mean(dim=(1, 2)) > 0.05) & (covers.mean(dim=(1, 2)) < 0.6)).all()
    apart = (covers[:, None] - covers[None]).abs().mean(dim=(2, 3))
    assert apart[~torch.eye(len(SYMBOLS), dtype=torch.bool)].min() > 0.03


def test_later_stencils_cover_earlier_ones():
    left, all_over = torch.zeros(256, 256), torch.ones(256, 256)
    left[:, :128] = 0.25
    picture = in_colours(((0.0, 1.0, 0.0), all_over), ((1.0, 0.0, 0.0), left), opacity=0.8)[0]
    assert torch.allclose(picture[:, 0, 0], 0.8 * torch.tensor([0.25, 0.75, 0.0, 1.0]))
    assert torch.allclose(picture[:, 0, -1], 0.8 * torch.tensor([0.0, 1.0, 0.0, 1.0]))
