"""Figures: what is shown is what was given, everything fits, and nothing stays behind."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from analytic_head import AnalyticGenerator, AnalyticHead
from matplotlib.figure import Figure
from PIL import Image

from lib import figures
from lib.figures import depth_colours, error_maps, image_grid, signed, to_picture
from lib.meshes import view_of


@pytest.fixture(scope="module")
def head() -> AnalyticHead:
    return AnalyticHead(AnalyticGenerator(sharpness=2000.0))


def drawn(picture: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture._repr_png_())).convert("RGB"))


def flat_image(*colour: float, side: int = 64) -> torch.Tensor:
    return torch.tensor(colour).reshape(3, 1, 1).expand(3, side, side)


def assert_nothing_is_cropped(picture: Figure) -> None:
    """All that is drawn lies within the figure, and no label lies on a picture."""
    drawn(picture)  # labels of axes find their place only then
    used = picture.get_tightbbox()
    assert min(used.x0, used.y0) >= 0, used
    assert used.x1 <= picture.get_figwidth(), used
    assert used.y1 <= picture.get_figheight(), used
    frames = [axes.get_window_extent() for axes in picture.axes if axes.images]
    for text in picture.texts:
        covers = text.get_text() and any(text.get_window_extent().overlaps(frame) for frame in frames)
        assert not covers, f"{text.get_text()!r} lies on a picture"


# -------------------------------------------------------------------- pixels
def test_ends_and_middle_of_the_range_become_bytes():
    assert to_picture(flat_image(-1.0, 0.0, 1.0))[0, 0].tolist() == [0, 128, 255]
    assert to_picture(flat_image(-2.0, 0.0, 3.0)[None])[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (8, 8)])
def test_other_shapes_are_not_one_image(shape):
    with pytest.raises(ValueError, match="expected one image"):
        to_picture(torch.zeros(shape))


def test_near_is_bright_far_is_dark_and_empty_is_grey():
    depth = torch.tensor([2.4, 2.6, 2.8, 2.4]).repeat_interleave(8).expand(1, 32, 32)  # four walls
    alpha = torch.tensor([1.0, 1.0, 1.0, 0.1]).repeat_interleave(8).expand(1, 32, 32)
    near, middle, far, empty = depth_colours(depth, alpha)[64, 16::32].astype(int)
    assert near.sum() > middle.sum() > far.sum()
    assert empty.tolist() == [242, 242, 242]


def test_relief_is_lit_from_the_upper_left():
    y, x = torch.meshgrid(*[torch.linspace(-0.3, 0.3, 32)] * 2, indexing="ij")
    ball = 2.7 - (0.25 - x**2 - y**2).clamp_min(0.07).sqrt()[None]
    lit = depth_colours(ball, torch.ones_like(ball), limits=(0.0, 5.0)).astype(int).sum(axis=2)
    upper_left, lower_right = lit[44, 44], lit[83, 83]
    assert upper_left > lower_right + 50
    assert abs(lit[44, 83] - lit[83, 44]) < 10  # both beside the light


def test_a_view_of_nothing_is_drawn():
    depth = torch.linspace(2.0, 3.0, 101).reshape(1, 1, 1, 101)
    assert np.isfinite(depth_colours(depth, torch.zeros_like(depth))).all()


def test_one_depth_everywhere_is_drawn():
    flat = torch.full((1, 4, 4), 2.5)
    assert (
        depth_colours(flat, torch.ones_like(flat)) == depth_colours(flat, torch.ones_like(flat))[0, 0]
    ).all()


# -------------------------------------------------------------------- grids
def test_pictures_stand_in_their_row_and_column():
    colours = [[(1, -1, -1), (-1, 1, -1)], [(-1, -1, 1), (1, 1, -1)]]
    grid = image_grid([[flat_image(*c) for c in row] for row in colours], ["a", "b"], ["c", "d"])
    pixels = drawn(grid)
    for i in range(2):
        for j in range(2):
            box = grid.axes[2 * i + j].get_position()
            x = int((box.x0 + box.x1) / 2 * pixels.shape[1])
            y = int((1 - (box.y0 + box.y1) / 2) * pixels.shape[0])
            assert pixels[y, x].tolist() == [255 * (c > 0) for c in colours[i][j]]


def test_small_pictures_are_shown_at_least_at_128_pixels():
    grid = image_grid([[flat_image(0.0, 0.0, 0.0), None]] * 2, ["row"] * 2)
    assert len(grid.axes) == 2  # gaps have none
    for axes in grid.axes:
        box = axes.get_window_extent()
        assert min(box.width, box.height) >= 127.9


def test_labels_and_captions_are_readable():
    rows = [[flat_image(0.0, 0.0, 0.0)] * 2] * 2
    grid = image_grid(
        rows, ["W", "a long name\nin two lines"], ["photo", "yaw −0.60"], captions=[["MSE 0.1234", ""], []]
    )
    assert_nothing_is_cropped(grid)
    assert min(text.get_size() for text in grid.texts) >= 9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"row_labels": ["a", "b"]}, "2 row labels for 1"),
        ({"column_labels": ["a"]}, "1 column labels for 2"),
        ({"captions": [[], []]}, "2 rows of captions for 1"),
    ],
)
def test_labels_must_fit_the_grid(wrong, message):
    with pytest.raises(ValueError, match=message):
        image_grid([[flat_image(0.0, 0.0, 0.0)] * 2], **wrong)


def test_empty_grid_is_an_error():
    with pytest.raises(ValueError, match="at least one picture"):
        image_grid([])


# -------------------------------------------------------------------- methods
def test_rows_keep_the_order_of_the_study():
    assert list(figures.in_row_order({"pti": 1, "w": 2, "wplus": 3})) == ["w", "wplus", "pti"]


def test_every_method_has_its_own_colour():
    colours = [figures.method_colour(name) for name in figures.METHODS]
    assert len(set(colours)) == len(colours)


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match="unknown method 'W\\+'; figures know: w, wplus"):
        figures.in_row_order({"W+": 1})


# -------------------------------------------------------------------- the figures
def test_turning_heads_shows_the_views_that_its_labels_say(head):
    target = flat_image(0.2, 0.2, 0.2)
    picture = figures.turning_heads({"pti": head, "w": head}, target, yaws=[-0.5, 0.5])
    assert [text.get_text() for text in picture.texts] == [
        *("W", "depth", "PTI", "depth"),
        *("photo", "yaw −0.50", "yaw +0.50"),
    ]
    assert len(picture.axes) == 2 * (3 + 2)  # no photo in the rows of depth
    shown = picture.axes[1].images[0].get_array()
    assert np.array_equal(shown, to_picture(head.render(view_of(head, -0.5)).image))
    assert_nothing_is_cropped(picture)


def test_turning_heads_shares_one_scale_of_depth(head):
    class Nearer(AnalyticHead):
        def render(self, camera):
            view = super().render(camera)
            return view._replace(depth=view.depth - 0.1)

    picture = figures.turning_heads({"w": head, "pti": Nearer(head.generator)}, yaws=[0.0])
    far, near = (picture.axes[i].images[0].get_array().astype(int).sum() for i in (1, 3))
    assert near > far  # on scales of their own the two would look alike


def test_samples_show_views_then_depth(head):
    picture = figures.samples_with_depth([head, head], yaws=(-0.3, 0.3), depth_yaws=(0.3,))
    assert [text.get_text() for text in picture.texts] == ["yaw −0.30", "yaw +0.30", "depth +0.30"]
    view = head.render(view_of(head, 0.3))
    assert np.array_equal(picture.axes[4].images[0].get_array(), to_picture(view.image))
    assert np.array_equal(picture.axes[2].images[0].get_array(), depth_colours(view.depth, view.alpha))


def test_error_maps_show_size_and_place_of_the_error():
    target = torch.zeros(1, 3, 64, 64)
    rendered = target.clone()
    rendered[..., :32] = 0.25
    picture = error_maps(target, {"pti": rendered, "w": target.clone()}, limit=0.5)
    assert [text.get_text() for text in picture.texts][-2:] == ["W", "PTI"]
    assert {"MSE 0.0000", "MSE 0.0312"} <= {text.get_text() for text in picture.texts}
    colours = matplotlib.colormaps[figures.ERROR_COLOURS]([0.0, 0.5], bytes=True)[:, :3]
    maps = picture.axes[4].images[0].get_array()
    assert np.array_equal(maps[0, -1], colours[0])
    assert np.array_equal(maps[0, 0], colours[1])
    assert_nothing_is_cropped(picture)


def test_error_maps_need_one_size():
    with pytest.raises(ValueError, match="cannot compare"):
        error_maps(torch.zeros(3, 64, 64), {"w": torch.zeros(3, 32, 32)})


def test_curves_carry_the_values_and_the_methods_colours():
    picture = figures.curves({"pti": {"l2": [0.5, 0.1]}, "w": {"l2": [1.0, 0.2]}}, keys=["l2"])
    w, pti = picture.axes[0].lines
    assert w.get_ydata().tolist() == [1.0, 0.2]
    assert (w.get_color(), pti.get_color()) == (figures.method_colour("w"), figures.method_colour("pti"))
    assert [text.get_text() for text in picture.axes[0].get_legend().get_texts()] == ["W", "PTI"]
    assert_nothing_is_cropped(picture)


def test_curves_name_what_is_missing():
    with pytest.raises(ValueError, match="history of 'w' has no 'lpips'; it has: l2"):
        figures.curves({"w": {"l2": [1.0]}})


def test_angles_are_written_with_their_sign():
    assert [signed(angle) for angle in (-0.6, 0.0, -0.001, 0.25)] == ["−0.60", "0", "0", "+0.25"]


# -------------------------------------------------------------------- no traces
def test_style_and_open_figures_stay_as_they_were(head):
    import matplotlib.pyplot as plt

    before, open_before = dict(matplotlib.rcParams), plt.get_fignums()
    figures.turning_heads({"w": head}, yaws=2)
    figures.curves({"w": {"l2": [1.0, 0.5]}}, keys=["l2"])
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_before
