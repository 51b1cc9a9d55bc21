"""Drawing of a column of numbers that other papers printed in other units (Luo & Ghosh, table 1, MSE)."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lib.figures import Picture, in_row_order, method_colour, method_label, use_style

READINGS = {
    "[0, 1]": (1.0,),
    "[\N{MINUS SIGN}1, 1]": (0.25,),
    "not said": (0.25, 1.0),
    "absolute": (),
}
"""Range of colours that a squared error was taken in: its factors, one each reading, to that of colours in [0, 1], where
a difference is half as large. An absolute error has none: no factor makes it a squared one."""


def on_unit_range(printed: float, unit: str) -> tuple[float, ...]:
    """A printed error as a mean squared error of colours in [0, 1]: a value for each reading of its unit."""
    if unit not in READINGS:
        raise ValueError(f"an error is printed in one of {', '.join(READINGS)}; got {unit!r}")
    return tuple(factor * printed for factor in READINGS[unit])


def one_unit(printed: Mapping[str, tuple[float, str]]) -> Picture:
    """A row a method (name: printed number and its unit): as printed, hollow, and on colours in [0, 1], filled.

    Two readings are joined by a line. What has none stands as printed alone.
    """
    if not printed:
        raise ValueError("a column of a table needs a row at least")
    with use_style():
        picture = Picture(6.6, 0.36 * len(printed) + 1.25)
        axes = picture.subplots()
        for place, (name, (number, unit)) in enumerate(in_row_order(printed).items()):
            colour, values = method_colour(name), on_unit_range(number, unit)
            axes.plot(number, place, "D", color="0.35", mfc="none", ms=6, zorder=3)
            axes.plot(values, [place] * len(values), "o-", color=colour, ms=7.5, lw=2.4)
            words = f"{unit} error" if not values else unit
            axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), va="center", size=9)
        axes.annotate("printed in", (1.02, 1.01), xycoords="axes fraction", size=9, color="0.35")
        axes.set_yticks(range(len(printed)), [method_label(name) for name in in_row_order(printed)])
        axes.set(xscale="log", xlabel="mean squared error", ylim=(len(printed) - 0.4, -0.6))
        _few_ticks(axes)
        axes.grid(axis="y", visible=False)
        hollow = Line2D([], [], color="0.35", marker="D", mfc="none", lw=0, ms=6, label="as printed")
        filled = Line2D([], [], color="0.35", marker="o", lw=0, ms=7.5, label="of colours in [0, 1]")
        picture.tight_layout(rect=(0, 0, 0.86, 1 - 0.3 / picture.get_figheight()))
        picture.legend(handles=[hollow, filled], loc="upper center", ncols=2)
    return picture


def _few_ticks(axes: Axes) -> None:
    """1, 2, 5 of each power of ten, as plain numbers."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
