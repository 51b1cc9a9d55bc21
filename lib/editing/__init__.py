"""Edits of a head: so far of its texture, painted on the photo before it is inverted (HFGI3D, section 4.3)."""

from lib.editing.brush import Brush
from lib.editing.painting import (
    STYLES,
    Stroke,
    brushed,
    difference,
    on_face,
    overlay,
    paint_from_file,
    paint_kept,
    painted_scene,
    stamped,
    stylised,
    together,
)

__all__ = [
    "STYLES",
    "Brush",
    "Stroke",
    "brushed",
    "difference",
    "on_face",
    "overlay",
    "paint_from_file",
    "paint_kept",
    "painted_scene",
    "stamped",
    "stylised",
    "together",
]
