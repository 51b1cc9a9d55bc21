"""Drawings of the baselines: codes and bars stand where their numbers say, every head in its column beside the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_drawings_metrics import points_of
from test_figures import assert_nothing_is_cropped

from lib.datasets import Scene, View
from lib.drawings import against_truth, codes_among_samples, part_bars, seen_from, targets_against_truth
from lib.figures import to_picture
from lib.inversion import Inversion
from tests.tiny_generator import tiny_generator

SIDE = "yaw+0.0"


# -------------------------------------------------------------------- codes and bars
def test_searches_end_where_they_end_and_marks_stand_where_they_are():
    rng = np.random.default_rng(0)
    paths = {"W": np.array([[0.0, 0.0], [0.4, 0.1], [0.5, 0.2]]), "W+": np.array([[0.0, 0.0], [-0.3, 0.6]])}
    marks = {"the truth": np.array([0.8, -0.4])}
    picture = codes_among_samples(rng.standard_normal((50, 2)), paths, marks, ("one", "two"))
    (axes,) = picture.axes
    assert points_of(axes, "W").tolist() == [[0.5, 0.2]]
    assert points_of(axes, "W+").tolist() == [[-0.3, 0.6]]
    assert points_of(axes, "the truth").tolist() == [[0.8, -0.4]]
    assert any(np.array_equal(line.get_xydata(), paths["W"]) for line in axes.lines), "the whole way is drawn"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("one", "two")
    assert_nothing_is_cropped(picture)


def test_every_part_has_a_bar_of_each_series():
    series = {"before": {"planes": 0.1, "decoder": 0.3}, "after": {"planes": 0.2, "decoder": 0.4}}
    picture = part_bars(series, "how far")
    (axes,) = picture.axes
    lengths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert lengths == [[0.1, 0.3], [0.2, 0.4]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["planes", "decoder"]
    rows = [bar.get_y() + bar.get_height() / 2 for bars in axes.containers for bar in bars]
    assert [round(row) for row in rows] == [0, 1, 0, 1], "a part's bars stand at its name"
    assert len(set(rows)) == 4
    assert_nothing_is_cropped(picture)


def test_one_series_needs_no_legend():
    assert part_bars({"": {"a": 1.0, "b": 2.0}}, "x").axes[0].get_legend() is None


# -------------------------------------------------------------------- heads
@pytest.fixture(scope="module")
def heads() -> dict[str, Inversion]:
    """Two heads of a small generator, the first of which is the scene's."""
    generator, rng = tiny_generator(), torch.Generator().manual_seed(0)
    z = torch.randn(2, 16, generator=rng)
    camera = generator.camera(0.3)
    codes = generator.map(z, generator.frontal_camera())
    return {name: Inversion(code[None], generator, camera) for name, code in zip("ab", codes, strict=True)}


@pytest.fixture(scope="module")
def scene(heads) -> Scene:
    """Head a from two sides, its depth known on the left half."""
    head, views = heads["a"], {}
    for name, yaw in (("yaw+0.3", 0.3), (SIDE, 0.0)):
        camera = head.generator.camera(yaw)
        image = head.render(camera).image.clamp(-1, 1)
        depth = torch.full((1, 1, *image.shape[2:]), 2.7).index_fill(
            3, torch.arange(image.shape[-1] // 2), 2.5
        )
        depth[..., image.shape[-1] // 2 :] = torch.nan
        depth[..., 0] = 2.6
        views[name] = View(image, camera, depth=depth)
    return Scene("egg", "yaw+0.3", views)


def shown(axes) -> np.ndarray:
    return axes.images[0].get_array()


def test_heads_stand_in_columns_and_the_truth_last(scene, heads):
    picture = against_truth(seen_from(scene, heads, SIDE))
    assert len(picture.axes) == 3 * 3
    for row, name in enumerate((scene.input_name, SIDE)):
        view = scene.views[name]
        expected = [
            *(head.render(view.camera).image[0].clamp(-1, 1) for head in heads.values()),
            view.image[0],
        ]
        for axes, image in zip(picture.axes[3 * row :], expected, strict=False):
            assert np.abs(shown(axes).astype(int) - to_picture(image)).max() <= 1
    texts = [text.get_text() for text in picture.texts]
    assert {"a", "b", "truth", "input", "yaw 0", "its depth"} <= set(texts)
    errors = [float(text.split()[1]) for text in texts if text.startswith("MSE")]
    assert len(errors) == 4
    assert errors[0] == errors[2] == 0 < min(errors[1], errors[3]), "the scene is head a"
    assert sum(text.startswith("off by") for text in texts) == 2
    assert_nothing_is_cropped(picture)


def test_depth_is_drawn_where_the_truth_is_known(scene, heads):
    picture = against_truth(seen_from(scene, heads, SIDE))
    first, _, truth = (shown(axes).astype(int) for axes in picture.axes[6:])
    width = truth.shape[1]
    grey = truth[0, -1]
    for relief in (first, truth):
        assert (relief[:, 3 * width // 4 :] == grey).all(), "nothing is known on the right"
        assert (relief[:, : width // 4] != grey).any()


def test_targets_stand_in_rows_with_the_same_columns(scene, heads):
    swapped = dict(zip(heads, reversed(heads.values()), strict=True))
    scenes = {"one": scene, "two": replace(scene, name="other")}
    rows = zip(scenes.items(), (heads, swapped), strict=True)
    picture = targets_against_truth({label: seen_from(one, shown, SIDE) for (label, one), shown in rows})
    assert len(picture.axes) == 2 * 9
    first, second = picture.axes[:9], picture.axes[9:]
    for part in (0, 3, 6):
        assert np.array_equal(shown(first[part]), shown(second[part + 1])), "each row has its own heads"
        assert np.array_equal(shown(first[part + 2]), shown(second[part + 2])), "the truth is the same"
    texts = [text.get_text() for text in picture.texts]
    assert [text for text in texts if text in scenes] == ["one", "two"]
    assert_nothing_is_cropped(picture)


def test_a_column_has_one_name(scene, heads):
    targets = {
        "one": seen_from(scene, heads, SIDE),
        "two": seen_from(scene, dict(reversed(heads.items())), SIDE),
    }
    with pytest.raises(ValueError, match=r"heads of 'two' are \['b', 'a'\].*\['a', 'b'\]"):
        targets_against_truth(targets)
