"""A brush for notebooks: paint on a photo by sliders, see it at once, go on with the painted picture."""

from __future__ import annotations

import html
import io

import ipywidgets
from PIL import Image
from PIL.ImageColor import getrgb
from torch import Tensor

from lib.datasets.stencils import Colour, in_colours, lettering
from lib.editing.painting import Stroke, brushed, overlay, stamped, together
from lib.images import to_uint8

SHOWN = 320
"""Pixels across the preview."""

POSITIONS = {"u": (0.5, 0.0, 1.0), "v": (0.4, 0.0, 1.0)}
SHAPES = {"size": (0.08, 0.02, 0.6), "hardness": (0.8, 0.0, 1.0), "opacity": (0.9, 0.1, 1.0)}
"""Start, least and greatest value of the sliders."""


class Brush(ipywidgets.VBox):
    """Sliders for place, size and colour over a photo [1, 3, R, R]; each dab or word is kept by its button.

    The preview shows what is kept and, over it, what would be kept next. Other cells go on with what is kept: `image`
    is the painted photo, `paint` its paint [1, 4, H, W]. A brush that nobody touches leaves the photo as it is.
    Without a browser: set the sliders' values and call `click()` of the buttons.
    """

    def __init__(self, photo: Tensor):
        self.photo = photo.detach().cpu()
        self._kept: list[Tensor] = []
        self.sliders = {name: _slider(name, *span) for name, span in (POSITIONS | SHAPES).items()}
        self.colour = ipywidgets.ColorPicker(value="#d01c3f", description="colour")
        self.word = ipywidgets.Text(placeholder="empty: a round dab", description="word")
        self.buttons = {name: ipywidgets.Button(description=name) for name in ("keep", "undo", "clear")}
        self.preview = ipywidgets.Image(format="png", width=SHOWN, height=SHOWN).add_class("brush-preview")
        self.status = ipywidgets.HTML().add_class("brush-status")
        controls = [*self.sliders.values(), self.colour, self.word, ipywidgets.HBox([*self.buttons.values()])]
        super().__init__(
            [ipywidgets.HBox([self.preview, ipywidgets.VBox(controls)]), self.status], _dom_classes=("brush",)
        )
        for control in (*self.sliders.values(), self.colour, self.word):
            control.observe(lambda _change: self._show(), names="value")
        self.buttons["keep"].on_click(lambda _button: self._keep())
        self.buttons["undo"].on_click(lambda _button: self._drop(1))
        self.buttons["clear"].on_click(lambda _button: self._drop(len(self._kept)))
        self._show()

    @property
    def paint(self) -> Tensor:
        """All that is kept."""
        return together(brushed([]), *self._kept)

    @property
    def image(self) -> Tensor:
        """The photo with all that is kept."""
        return overlay(self.photo, self.paint)

    def next_paint(self) -> Tensor:
        """What the controls describe: the word, upright, or a dab where there is none."""
        value = {name: slider.value for name, slider in self.sliders.items()}
        place = value["u"], value["v"]
        if not self.word.value.strip():
            dab = Stroke([place], value["size"] / 2, self._rgb(), value["hardness"], value["opacity"])
            return brushed([dab])
        picture = in_colours((self._rgb(), lettering(self.word.value.strip())), opacity=value["opacity"])
        return stamped(picture, place, value["size"])

    def _rgb(self) -> Colour:
        return tuple(channel / 255 for channel in getrgb(self.colour.value)[:3])

    def _keep(self) -> None:
        self._kept.append(self.next_paint())
        self._show()

    def _drop(self, count: int) -> None:
        del self._kept[len(self._kept) - count :]
        self._show()

    def _show(self) -> None:
        try:
            paint = together(self.paint, self.next_paint())
        except ValueError as error:  # a colour that is no colour while it is being typed
            self.status.value = html.escape(str(error))
            return
        self.preview.value = _png(overlay(self.photo, paint))
        count = len(self._kept)
        self.status.value = f"{count} kept" if count else "nothing kept yet: the photo is as it was"


def _slider(name: str, start: float, least: float, greatest: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(value=start, min=least, max=greatest, step=0.01, description=name)


def _png(image: Tensor) -> bytes:
    """An image [1, 3, R, R] as a PNG of the preview's size."""
    encoded = io.BytesIO()
    picture = Image.fromarray(to_uint8(image)[0]).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    picture.save(encoded, format="png", compress_level=1)
    return encoded.getvalue()
