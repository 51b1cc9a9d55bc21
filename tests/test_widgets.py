"""The viewer shows the head from where the sliders say, the explorer the figure of their numbers."""

import io

import numpy as np
import pytest
import torch
from analytic_head import AnalyticGenerator, AnalyticHead
from PIL import Image

from lib.figures import Picture
from lib.meshes import view_of
from lib.widgets import Explorer, Viewer


class CountingHead(AnalyticHead):
    """Counts how often it is made still, and how often it is rendered without that."""

    calls: list[str] = []  # noqa: RUF012 - one head in this file

    def still(self):
        self.calls.append("still")
        return AnalyticHead(self.generator)

    def render(self, camera, **options):
        self.calls.append("render")
        return super().render(camera, **options)


@pytest.fixture
def head() -> AnalyticHead:
    return AnalyticHead(AnalyticGenerator(sharpness=2000.0))


@pytest.fixture
def viewer(head) -> Viewer:
    return Viewer({"pti": AnalyticHead(AnalyticGenerator(sharpness=300.0)), "w": head})


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def test_a_move_shows_the_head_from_there(viewer, head):
    viewer.method.value = "w"
    viewer.yaw.value, viewer.pitch.value = 0.4, -0.2
    image = head.render(view_of(head, viewer.yaw.value, viewer.pitch.value)).image
    enlarged = torch.nn.functional.interpolate(image, 288, mode="bicubic")[0].permute(1, 2, 0)
    expected = ((enlarged + 1) * 127.5).clamp(0, 255).numpy()
    assert np.abs(pixels(viewer.picture.value) - expected).mean() < 1


def test_every_control_changes_picture_and_depth(viewer):
    for control, value in ((viewer.yaw, 0.3), (viewer.pitch, 0.2), (viewer.method, "w")):
        before, count = (viewer.picture.value, viewer.depth.value), viewer.rendered
        control.value = value
        assert viewer.rendered == count + 1
        assert (viewer.picture.value, viewer.depth.value) != before
        assert viewer.depth.value != before[1]


def test_the_status_tells_of_the_last_view(viewer):
    viewer.yaw.value = -0.3
    assert viewer.status.value.startswith("PTI · yaw −0.30 · pitch 0 · ")
    assert viewer.status.value.endswith(" ms")


def test_planes_are_computed_once():
    CountingHead.calls.clear()
    viewer = Viewer({"w": CountingHead()})
    for yaw in (0.1, 0.2, 0.3):
        viewer.yaw.value = yaw
    assert viewer.rendered == 4
    assert CountingHead.calls == ["still"]


def test_the_same_place_gives_the_same_picture(viewer):
    first = viewer.picture.value
    viewer.yaw.value = 0.5
    viewer.yaw.value = 0.0
    assert viewer.picture.value == first


def test_an_error_is_shown_where_the_user_looks(viewer, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("lost <device>")

    monkeypatch.setattr(AnalyticGenerator, "render", fail)
    with pytest.raises(RuntimeError, match="lost"):
        viewer.yaw.value = 0.3
    assert "RuntimeError: lost &lt;device&gt;" in viewer.status.value
    monkeypatch.undo()
    viewer.yaw.value = 0.2  # and the viewer lives on
    assert viewer.status.value.startswith("PTI")


def test_methods_are_in_the_order_of_all_figures(viewer):
    assert viewer.method.options == (("W", "w"), ("PTI", "pti"))
    assert viewer.method.value == "pti"


def test_the_still_picture_shows_all_methods(viewer):
    labels = [text.get_text() for text in viewer.static().texts]
    assert labels[:4] == ["W", "depth", "PTI", "depth"]


def test_nothing_to_view_is_an_error():
    with pytest.raises(ValueError, match="at least one inversion"):
        Viewer({})


# -------------------------------------------------------------------- any figure under sliders
def filled(width: int, height: float) -> Picture:
    """A figure of which this part is black."""
    if width == 7:
        raise ValueError("seven <is> not drawn")
    picture = Picture(1.0, 1.0)
    picture.add_axes((0, 0, width / 10, height)).set(xticks=[], yticks=[], facecolor="black")
    return picture


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(filled, {"width": (5, 1, 10, 1), "height": (0.5, 0.0, 1.0, 0.05)})


def dark_share(png: bytes) -> float:
    return float((pixels(png)[..., :3].sum(axis=2) < 3 * 128).mean())


def test_explorer_draws_what_its_sliders_say(explorer):
    assert dark_share(explorer.picture.value) == pytest.approx(0.25, abs=0.02)
    explorer.sliders["width"].value = 10
    explorer.sliders["height"].value = 0.8
    assert dark_share(explorer.picture.value) == pytest.approx(0.8, abs=0.02)
    assert explorer.drawn == 3
    assert dark_share(explorer.static()._repr_png_()) == dark_share(explorer.picture.value)


def test_explorer_keeps_whole_numbers_whole(explorer):
    values = {name: slider.value for name, slider in explorer.sliders.items()}
    assert {name: type(value) for name, value in values.items()} == {"width": int, "height": float}


def test_explorer_shows_an_error_and_lives_on(explorer):
    with pytest.raises(ValueError, match="seven"):
        explorer.sliders["width"].value = 7
    assert "ValueError: seven &lt;is&gt; not drawn" in explorer.status.value
    explorer.sliders["width"].value = 8
    assert explorer.status.value == ""


def test_explorer_without_sliders_is_an_error():
    with pytest.raises(ValueError, match="at least one slider"):
        Explorer(filled, {})
