"""Pictures that are painted on heads: symbols and words as stencils, stencils in colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

TEXTURE = 256
"""Pixels across the picture of a decal."""

_CANVAS = 4 * TEXTURE
"""Pixels across what is drawn: reduced afterwards, for smooth edges."""


def stencil(draw: Callable[[ImageDraw.ImageDraw], None]) -> Tensor:
    """What is drawn in white on a black canvas, as opacities [TEXTURE, TEXTURE]."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    draw(ImageDraw.Draw(canvas))
    small = canvas.resize((TEXTURE, TEXTURE), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, np.float32) / 255)


def polygon(*outlines: np.ndarray) -> Tensor:
    """Filled outlines [n, 2] in [-1, 1], x right and y up."""
    return stencil(lambda canvas: [canvas.polygon(_on_canvas(o), fill=255) for o in outlines])


def strokes(*lines: np.ndarray, width: float = 0.14) -> Tensor:
    """Lines [n, 2] in [-1, 1], x right and y up, with round ends."""

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        pixels = round(width * _CANVAS / 2)
        for points in map(_on_canvas, lines):
            canvas.line(points, fill=255, width=pixels, joint="curve")
            for x, y in (points[0], points[-1]):
                canvas.circle((x, y), pixels / 2, fill=255)

    return stencil(draw)


def lettering(word: str) -> Tensor:
    """A word as wide as the canvas."""

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        unit = ImageFont.load_default(100).getlength(word) / 100
        font = ImageFont.load_default(0.9 * _CANVAS / unit)
        middle = (_CANVAS / 2, _CANVAS / 2)
        canvas.text(
            middle, word, font=font, anchor="mm", fill=255, stroke_width=0.012 * _CANVAS, stroke_fill=255
        )

    return stencil(draw)


def ellipses(*ellipses: tuple[float, float, float, float]) -> Tensor:
    """Filled ellipses: centre x and y, half axes along x and y."""
    angle = np.linspace(0, 2 * np.pi, 90)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return polygon(*(circle * (a, b) + (x, y) for x, y, a, b in ellipses))


def in_colours(*shapes: tuple[Colour, Tensor], opacity: float = 1.0) -> Tensor:
    """The picture [1, 4, TEXTURE, TEXTURE] of stencils one over the other, colours multiplied by opacity."""
    picture = torch.zeros(4, TEXTURE, TEXTURE)
    for colour, cover in shapes:
        picture = torch.lerp(
            picture, torch.tensor([*colour, opacity])[:, None, None].expand_as(picture), cover
        )
    return torch.cat([picture[:3] * opacity, picture[3:]])[None]


def _on_canvas(points: np.ndarray) -> list[tuple[float, float]]:
    return [((1 + x) / 2 * _CANVAS, (1 - y) / 2 * _CANVAS) for x, y in points]


def star(points: int = 5, inner: float = 0.4, outer: float = 0.95) -> np.ndarray:
    """Outline [2 points, 2] of a star, one point up."""
    angle = np.pi / 2 + np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner, outer)
    return radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.column_stack([x, y + 2.5]) / 18


def closed(outline: np.ndarray) -> np.ndarray:
    """The outline as a line that comes back, a step further for a smooth corner."""
    return np.vstack([outline, outline[:2]])


def spiral(turns: float = 2.25) -> np.ndarray:
    t = np.linspace(0.1, 1, 120)
    angle = 2 * np.pi * turns * t
    return 0.85 * t[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


BOLT = np.array(
    [[0.15, 0.95], [-0.55, -0.1], [-0.05, -0.1], [-0.25, -0.95], [0.55, 0.2], [0.05, 0.2], [0.45, 0.95]]
)

SYMBOLS: tuple[Callable[[], Tensor], ...] = (
    lambda: strokes(closed(star())),
    lambda: polygon(heart()),
    lambda: strokes(spiral()),
    lambda: polygon(BOLT),
)
"""Stencils of tattoos."""
