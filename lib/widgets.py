"""What moves under sliders, in JupyterLab: a head that turns, and any figure that depends on numbers.

A saved notebook shows no live widget, so each can give a still picture of itself.
"""

import html
import io
import time
from collections.abc import Callable, Iterable, Mapping

import ipywidgets
import numpy as np
import torch
from PIL import Image

from lib.figures import Picture, depth_colours, in_row_order, method_label, signed, to_picture, turning_heads
from lib.generators.eg3d import Rendering
from lib.meshes import view_of


class _Live(ipywidgets.VBox):
    """A picture that follows its controls: `update` draws it, and `status` says what went wrong with that."""

    def follow(self, controls: Iterable[ipywidgets.Widget]) -> None:
        """Draw now, and whenever one of the controls is moved."""
        for control in controls:
            control.observe(self._on_move, names="value")
        self.update()

    def _on_move(self, _change: object) -> None:
        try:
            self.update()
        except Exception as error:
            self.status.value = _told(error)
            raise


class Viewer(_Live):
    """Sliders for yaw and pitch, buttons for the methods, and below them the picture and its depth.

    inversions: name of the method -> its `Inversion`, all of one photo. Their planes are computed once, here,
    so that a move of a slider only renders. `rendered` counts the pictures drawn; `status` tells of the last.
    """

    def __init__(
        self, inversions: Mapping, *, size: int = 288, yaw_limit: float = 0.8, pitch_limit: float = 0.4
    ):
        if not inversions:
            raise ValueError("a viewer needs at least one inversion: Viewer({'pti': inversion})")
        self.inversions = in_row_order(inversions)
        self.rendered = 0
        self._size = size
        self._heads = {name: inversion.still() for name, inversion in self.inversions.items()}
        self.method = ipywidgets.ToggleButtons(
            options=[(method_label(name), name) for name in self.inversions],
            value=list(self.inversions)[-1],
            style={"button_width": "6em"},
        )
        self.yaw = _angle_slider("yaw", yaw_limit, width=2 * size)
        self.pitch = _angle_slider("pitch", pitch_limit, width=2 * size)
        self.picture = ipywidgets.Image(format="png", width=size, height=size).add_class("viewer-picture")
        self.depth = ipywidgets.Image(format="png", width=size, height=size).add_class("viewer-depth")
        self.status = ipywidgets.HTML().add_class("viewer-status")
        super().__init__(
            [self.method, self.yaw, self.pitch, ipywidgets.HBox([self.picture, self.depth]), self.status],
            _dom_classes=("viewer",),
        )
        self.follow((self.method, self.yaw, self.pitch))

    def update(self) -> None:
        """Draw the head of the chosen method as the sliders say."""
        started = time.perf_counter()
        view = self._render(self.method.value, self.yaw.value, self.pitch.value)
        self.picture.value = _png(to_picture(view.image), self._size)
        self.depth.value = _png(depth_colours(view.depth, view.alpha), self._size)
        self.rendered += 1
        milliseconds = 1000 * (time.perf_counter() - started)
        self.status.value = (
            f"{html.escape(method_label(self.method.value))} · yaw {signed(self.yaw.value)} · "
            f"pitch {signed(self.pitch.value)} · {milliseconds:.0f} ms"
        )

    def static(self) -> Picture:
        """The same heads as a figure, for readers of the saved notebook."""
        return turning_heads(self.inversions)

    @torch.inference_mode()
    def _render(self, name: str, yaw: float, pitch: float) -> Rendering:
        head = self._heads[name]
        return head.render(view_of(head, yaw, pitch))


class Explorer(_Live):
    """A figure under sliders: `draw(**values)` gives the figure, each slider one of its arguments.

    sliders: name of the argument -> (start, least, greatest, step); whole numbers make a slider of whole numbers.
    `drawn` counts the figures; `status` says what went wrong with the last, if anything did.
    """

    def __init__(
        self, draw: Callable[..., Picture], sliders: Mapping[str, tuple[float, float, float, float]]
    ):
        if not sliders:
            raise ValueError("an explorer needs at least one slider: name=(start, least, greatest, step)")
        self._draw, self.drawn = draw, 0
        self.sliders = {name: _slider(name, *numbers) for name, numbers in sliders.items()}
        self.picture = ipywidgets.Image(format="png").add_class("explorer-picture")
        self.picture.layout.max_width = "100%"
        self.status = ipywidgets.HTML().add_class("explorer-status")
        super().__init__([*self.sliders.values(), self.picture, self.status], _dom_classes=("explorer",))
        self.follow(self.sliders.values())

    def static(self) -> Picture:
        """The figure as the sliders stand."""
        return self._draw(**{name: slider.value for name, slider in self.sliders.items()})

    def update(self) -> None:
        """Draw the figure anew."""
        self.picture.value = self.static()._repr_png_()
        self.status.value = ""
        self.drawn += 1


def _told(error: Exception) -> str:
    """An error where the eyes are: Jupyter sends what a callback raises to a log that nobody has open."""
    message = html.escape(f"{type(error).__name__}: {error}")
    return f'<span style="color: #c0392b">{message}</span>'


def _slider(name: str, start: float, least: float, greatest: float, step: float) -> ipywidgets.Widget:
    whole = all(isinstance(number, int) for number in (start, least, greatest, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    slider = kind(value=start, min=least, max=greatest, step=step, description=name.replace("_", " "))
    slider.layout.width, slider.style.description_width = "480px", "9em"
    return slider.add_class(f"explorer-{name}")


def _angle_slider(name: str, limit: float, width: int) -> ipywidgets.FloatSlider:
    slider = ipywidgets.FloatSlider(
        value=0.0, min=-limit, max=limit, step=0.02, description=name, readout_format="+.2f"
    )
    slider.layout.width, slider.style.description_width = f"{width}px", "3em"
    return slider.add_class(f"viewer-{name}")


def _png(picture: np.ndarray, size: int) -> bytes:
    """A picture [R, R, 3] as a PNG of this side, enlarged smoothly."""
    encoded = io.BytesIO()
    enlarged = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    enlarged.save(encoded, format="png", compress_level=1)
    return encoded.getvalue()
