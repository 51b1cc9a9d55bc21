"""Drawings of a preference study: the right frames beside the right photo, lines where rates are, no answer made up."""

import math

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba

from lib.drawings.preference import PAPER, as_seen, coverages, preference_rates, video_frames
from lib.figures import method_colour
from lib.preference import RATES

GREYS = (20, 70, 120, 170, 220, 250)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Frames of one grey each, and the same backwards."""
    folder = tmp_path_factory.mktemp("videos")
    for name, greys in (("up", GREYS), ("down", GREYS[::-1])):
        writer = imageio_ffmpeg.write_frames(str(folder / f"{name}.mp4"), (32, 32), macro_block_size=2)
        writer.send(None)
        for grey in greys:
            writer.send(np.full((32, 32, 3), grey, np.uint8))
        writer.close()
    return lambda name: folder / f"{name}.mp4"


def greys(frames):
    return [float(np.mean(frame)) for frame in frames]


@pytest.mark.parametrize(("n", "expected"), [(6, GREYS), (3, GREYS[::2]), (2, GREYS[::3]), (1, GREYS[:1])])
def test_frames_are_spread_evenly_from_the_first_on(video, n, expected):
    assert greys(video_frames(video("up"), n)) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("n", [0, 7])
def test_frames_that_there_are_not_are_refused(video, n):
    with pytest.raises(ValueError, match="of a video with 6 frames, 1 to 6 can be shown"):
        video_frames(video("up"), n)


def test_a_question_is_drawn_with_the_left_video_above(video):
    photos = [torch.full((1, 3, 8, 8), value) for value in (-1.0, 1.0)]
    shown = [(photos[0], video("up"), video("down")), (photos[1], video("down"), video("up"))]
    picture = as_seen(shown, frames=2)
    texts = [text.get_text() for text in picture.texts]
    assert texts == ["1 A", "1 B", "2 A", "2 B", "photo", "0/2", "1/2"]
    drawn = greys(axes.images[0].get_array() for axes in picture.axes)
    up, down = list(GREYS[::3]), list(GREYS[::-3])
    assert drawn == pytest.approx([0, *up, *down, 255, *down, *up], abs=4)
    with pytest.raises(ValueError, match="one question or more"):
        as_seen([])


# ---- rates ------------------------------------------------------------------------------------------------
def found(**rates):
    """A row of `preference` with made-up numbers."""
    row = {"method": "hfgi3d", "baseline": "pti"} | dict.fromkeys(RATES, math.nan) | rates
    return pd.DataFrame([row])


PAIRS = [("hfgi3d", "pti"), ("hfgi3d", "spi")]
PAPERS = {"HFGI3D > PTI": (0.9, 0.87, 0.93)}


def lines(axes):
    """(x values, height, colour) of what is drawn."""
    return [
        (list(line.get_xdata()), line.get_ydata()[0], to_rgba(line.get_color())[:3])
        for line in axes.lines
        if line.get_xdata()[0] != 0.5
    ]


def test_rates_stand_on_the_lines_of_their_pairs():
    rates = {"rate": 0.6, "low": 0.4, "high": 0.8, "votes": 9, "people_low": 0.3, "people_high": 0.85}
    (axes,) = preference_rates(found(**rates), PAIRS, PAPERS).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["HFGI3D > PTI, paper", "HFGI3D > PTI, here", "HFGI3D > SPI, here"]
    ours, paper = to_rgba(method_colour("hfgi3d"))[:3], to_rgba(PAPER)[:3]
    assert lines(axes) == [
        ([0.87, 0.93], 0, paper),
        ([0.9], 0, paper),
        ([0.3, 0.85], 1, ours),
        ([0.4, 0.8], 1, ours),
        ([0.6], 1, ours),
    ]
    (words,) = axes.texts
    assert words.get_text() == "no answers yet" and words.get_position()[1] == 2


@pytest.mark.parametrize("table", [found().iloc[:0], found(votes=0)])
def test_without_votes_nothing_is_drawn_but_the_paper(table):
    (axes,) = preference_rates(table, PAIRS, PAPERS).axes
    assert [height for _, height, _ in lines(axes)] == [0, 0]
    assert [text.get_text() for text in axes.texts] == ["no answers yet"] * 2


def test_coverages_are_drawn_whole():
    shares = {"votes": [0.95, 0.3], "people": [0.94, 0.93]}
    (axes,) = coverages([0.0, 0.2], shares, 0.95).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines if line.get_label() in shares}
    assert drawn == shares
    assert axes.get_ylim()[0] < 0.3 and [text.get_text() for text in axes.get_legend().texts] == list(shares)
