"""Figures 3 and 4 of SPI: every warp is shown in its place, the box holds the views that are used, masks are masks."""

import numpy as np
import pytest
import torch

from lib.drawings.spi_warps import (
    BLANK,
    STEPS,
    MaskSteps,
    Turned,
    authentic_mask_steps,
    masked,
    warped_over_yaw,
)
from lib.figures import to_picture
from tests.egg_scene import egg_scene

TURNS = (-0.6, -0.3, 0.0, 0.3, 0.6)
SIDE = 8


def greys(count: int) -> torch.Tensor:
    """Pictures [count, 3, SIDE, SIDE], each of another grey."""
    return torch.linspace(-0.9, 0.9, count).reshape(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)


@pytest.fixture(scope="module")
def rows() -> dict[str, Turned]:
    return {
        "front": Turned(greys(1), greys(5), used=0.3, captions=[f"{i}" for i in range(5)]),
        "side": Turned(greys(1), greys(5).flip(0), used=0.1, captions=[f"{i}" for i in range(5, 10)]),
    }


def shown(axes) -> np.ndarray:
    return axes.images[0].get_array()


# -------------------------------------------------------------------- figure 3
def test_each_warp_stands_under_its_turn(rows):
    picture = warped_over_yaw(rows, TURNS)
    assert len(picture.axes) == 2 * (1 + len(TURNS))
    for i, row in enumerate(rows.values()):
        for axes, image in zip(picture.axes[6 * i :], [row.photo[0], *row.warped], strict=False):
            assert np.array_equal(shown(axes), to_picture(image))
    texts = [text.get_text() for text in picture.texts]
    assert {"photo", "+0.60", "0", "front", "side", *map(str, range(10))} <= set(texts)


def test_the_box_holds_the_views_that_are_used(rows):
    picture = warped_over_yaw(rows, TURNS)
    for i, (frame, columns) in enumerate(zip(picture.artists, [(2, 4), (3, 3)], strict=True)):
        first, last = (picture.axes[6 * i + column].get_position() for column in columns)
        found = [*frame.get_xy(), frame.get_width(), frame.get_height()]
        assert found == pytest.approx([first.x0, first.y0, last.x1 - first.x0, first.height])


def test_without_a_used_view_there_is_no_box(rows):
    unused = Turned(greys(1), greys(2), used=0.1)
    boxes = len(warped_over_yaw(rows, TURNS).artists) - len(
        warped_over_yaw({"a": unused}, (0.3, 0.6)).artists
    )
    assert boxes == 2


@pytest.mark.parametrize(
    ("turns", "count", "captions", "message"),
    [
        ((0.3, 0.0), 2, (), "grow from left to right"),
        ((0.0, 0.3, 0.6), 2, (), "3 turns need as many warps"),
        ((0.0, 0.3), 2, ("one",), "has 2 and 1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(turns, count, captions, message):
    with pytest.raises(ValueError, match=message):
        warped_over_yaw({"a": Turned(greys(1), greys(count), 0.3, captions)}, turns)


# -------------------------------------------------------------------- figure 4
@pytest.fixture(scope="module")
def steps() -> MaskSteps:
    view = egg_scene().views["yaw+0.3"]
    visible = torch.arange(40).expand(1, 1, 40, 40) > 10
    face = (torch.arange(40).expand(1, 1, 40, 40) < 30) * 0.5
    return MaskSteps(view.image, view.depth.nan_to_num(3.0), visible, face, view.image.flip(-1))


def test_every_step_is_shown(steps):
    picture = authentic_mask_steps({"one": steps, "other": steps})
    assert len(picture.axes) == 2 * len(STEPS)
    assert {"one", "other", *STEPS} <= {text.get_text() for text in picture.texts}
    by_name = dict(zip(STEPS, picture.axes, strict=False))
    assert np.array_equal(shown(by_name["photo"]), to_picture(steps.photo))
    assert np.array_equal(shown(by_name["warped"]), to_picture(steps.warped))
    assert np.array_equal(np.unique(shown(by_name["visible"])), [0, 255])
    both = shown(by_name["both"])
    assert both[:, 15:25].mean() == pytest.approx(127.5, abs=1)
    assert not both[:, :11].any() and not both[:, 30:].any()


def test_what_is_not_trusted_does_not_show():
    image = torch.full((1, 3, 2, 2), -0.5)
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])
    found = masked(image, mask)
    assert found[0, 0].tolist() == [
        [-0.5, pytest.approx(BLANK)],
        [pytest.approx((BLANK - 0.5) / 2), pytest.approx(BLANK)],
    ]
