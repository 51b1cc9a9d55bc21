"""Drawings of the claims ledger: how an interval becomes a verdict, what became of every claim, ours beside the paper's.

Findings and verdicts (`lib.runs.verdicts`) are known here only by the attributes that are read.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lib.figures import Picture, method_colour, method_label, use_style

STATUS_STYLE = {
    "reproduced": ("#2a9d3a", "white", "\N{CHECK MARK}"),
    "not reproduced": ("#c8382f", "white", "\N{BALLOT X}"),
    "inconclusive": ("#f0b93a", "#222222", "?"),
    "method not there yet": ("#e6e6e6", "#666666", "\N{HORIZONTAL ELLIPSIS}"),
    "not testable here": ("#8d99ae", "white", "\N{EN DASH}"),
}
"""Fill, ink and sign of each status, the last for those who do not see the first."""

OUTCOME_COLOURS = {"holds": "#2a9d3a", "against": "#c8382f", "open": "#b8860b"}
EXPECTED = "#dfeee0"
SIGNS = {
    "lower": "<",
    "higher": ">",
    "alike": "\N{ALMOST EQUAL TO}",
    "not_lower": "not <",
    "not_higher": "not >",
}


# -------------------------------------------------------------------- how an interval becomes a verdict
def intervals_and_expectations(findings: Mapping[str, Any]) -> Picture:
    """One row a finding (name: finding): its interval over where it is expected, shaded, and what follows."""
    with use_style():
        picture = Picture(7.2, 0.42 * len(findings) + 0.9)
        axes = picture.add_axes(
            (0.33, 0.62 / picture.get_figheight(), 0.46, 1 - 0.75 / picture.get_figheight())
        )
        limit = 1.15 * max(abs(value) for finding in findings.values() for value in finding.change)
        for row, (name, finding) in enumerate(findings.items()):
            _interval(axes, row, finding, (-limit, limit))
            axes.annotate(name, (-0.03, row), xycoords=("axes fraction", "data"), ha="right", va="center")
            colour = OUTCOME_COLOURS[finding.outcome]
            axes.annotate(
                finding.outcome,
                (1.04, row),
                xycoords=("axes fraction", "data"),
                va="center",
                color=colour,
                weight="bold",
            )
        _finish(axes, len(findings), (-limit, limit))
    return picture


def _interval(axes: Axes, row: int, finding: Any, limits: tuple[float, float]) -> None:
    """Estimate and interval of a finding as shares of its baseline, over where the claim expects them."""
    estimate, low, high = finding.change
    bounds = finding.test.expected(1.0)
    left, right = np.clip(bounds, *limits)
    axes.add_patch(Rectangle((left, row - 0.42), right - left, 0.84, color=EXPECTED, lw=0, zorder=0))
    colour = OUTCOME_COLOURS[finding.outcome]
    axes.plot(np.clip([low, high], *limits), [row, row], color=colour, lw=2.2, solid_capstyle="butt")
    for end, mark in ((low, "<"), (high, ">")):
        if not limits[0] <= end <= limits[1]:
            axes.plot(np.clip(end, *limits), row, mark, color=colour, ms=5, clip_on=False)
    if limits[0] <= estimate <= limits[1]:
        axes.plot(estimate, row, "o", color=colour, ms=5.5)


def _finish(axes: Axes, rows: int, limits: tuple[float, float]) -> None:
    axes.axvline(0, color="#888888", lw=0.9, zorder=1)
    axes.set(ylim=(rows - 0.4, -0.6), xlim=limits, yticks=[])
    axes.set_xlabel("left minus right, share of the right method's mean")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)


def _percent(share: float) -> str:
    return "0" if round(100 * share) == 0 else f"{100 * share:+.0f} %".replace("-", "\N{MINUS SIGN}")


# -------------------------------------------------------------------- what became of every claim
def ledger_squares(verdicts: Sequence[Any], titles: Mapping[str, str]) -> Picture:
    """A row a paper (name: title), a numbered square a claim, sorted by status: a bar of counts that can be read."""
    papers = {name: _by_status([v for v in verdicts if v.claim.paper == name]) for name in titles}
    side, left, top = 0.34, 1.35, 0.75
    width = max(left + side * max(map(len, papers.values())), 8.4) + 0.15
    height = top + 1.3 * side * len(papers)
    with use_style():
        picture = Picture(width, height)
        axes = picture.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for row, (name, of_paper) in enumerate(papers.items()):
            y = top + 1.3 * side * row
            axes.text(left - 0.12, y + side / 2, titles[name], ha="right", va="center")
            for column, verdict in enumerate(of_paper):
                _square(axes, (left + side * column, y), 0.92 * side, verdict)
        _status_key(axes, verdicts, width)
    return picture


def _by_status(verdicts: Sequence[Any]) -> list[Any]:
    order = list(STATUS_STYLE)
    return sorted(verdicts, key=lambda verdict: (order.index(verdict.status), verdict.claim.id))


def _square(axes: Axes, corner: tuple[float, float], side: float, verdict: Any) -> None:
    fill, ink, sign = STATUS_STYLE[verdict.status]
    axes.add_patch(Rectangle(corner, side, side, color=fill, lw=0))
    x, y = corner
    axes.text(
        x + side / 2, y + 0.33 * side, verdict.claim.id[-2:], ha="center", va="center", color=ink, size=8
    )
    axes.text(x + side / 2, y + 0.72 * side, sign, ha="center", va="center", color=ink, size=7.5)


def _status_key(axes: Axes, verdicts: Sequence[Any], width: float) -> None:
    """Colour, sign and number of claims of each status, above the squares."""
    counts = [sum(verdict.status == status for verdict in verdicts) for status in STATUS_STYLE]
    words = [f"{count} {status}" for count, status in zip(counts, STATUS_STYLE, strict=True)]
    ends = np.cumsum([0.5 + 0.075 * len(label) for label in words])
    gap = (width - 0.15 - ends[-1]) / len(words)
    for index, (label, (fill, ink, sign)) in enumerate(zip(words, STATUS_STYLE.values(), strict=True)):
        x = 0.15 + (ends[index - 1] if index else 0.0) + gap * index
        axes.add_patch(Rectangle((x, 0.18), 0.22, 0.22, color=fill, lw=0))
        axes.text(x + 0.11, 0.29, sign, ha="center", va="center", color=ink, size=8)
        axes.text(x + 0.28, 0.29, label, va="center", size=9)


# -------------------------------------------------------------------- ours beside the paper's
def forest(findings: Sequence[tuple[str, Any]], limit: float = 1.0) -> Picture:
    """A row a finding (claim's id, finding): our change with its interval, the paper's, and where it is expected.

    At the right stand the images that count, and the share of the papers' steps that the methods took at least.
    Changes are shares of the right method's mean, of which at most `limit` to either side is drawn; an arrow stands
    for what lies beyond.
    """
    if not findings:
        raise ValueError("a forest plot needs at least one finding with an estimate")
    with use_style():
        height = 0.27 * len(findings) + 1.1
        picture = Picture(9.0, height)
        axes = picture.add_axes((0.5, 0.6 / height, 0.36, 1 - 0.98 / height))
        for row, (claim_id, finding) in enumerate(findings):
            _interval(axes, row, finding, (-limit, limit))
            paper = finding.test.paper_change()
            if paper is not None and not finding.test.trend:
                axes.plot(
                    np.clip(paper, -limit, limit), row, "D", mfc="none", mec="#333333", ms=6, clip_on=False
                )
            label = f"{claim_id}  {_described(finding)}"
            axes.annotate(
                label, (-0.02, row), xycoords=("axes fraction", "data"), ha="right", va="center", size=8.5
            )
            axes.annotate(
                _basis(finding),
                (1.03, row),
                xycoords=("axes fraction", "data"),
                va="center",
                size=8.5,
                color="#666666",
            )
        _finish(axes, len(findings), (-limit, limit))
        _forest_key(picture)
    return picture


def _described(finding: Any) -> str:
    """Metric, methods, views and scenes of a finding, in a line."""
    test = finding.test
    sign = SIGNS[test.expect]
    methods = f"{test.left} {sign} {test.right or 0}"
    return f"{test.metric}{' slope' if test.trend else ''}: {methods}, {test.views}, {finding.kind}"


def _basis(finding: Any) -> str:
    """What a finding rests on: images, and the share of the papers' steps where it is told."""
    return f"n {finding.n}" + ("" if finding.fraction is None else f", steps {finding.fraction:.2g}")


def _forest_key(picture: Picture) -> None:
    marks = [
        Line2D([], [], color=colour, marker="o", lw=2.2, label=name)
        for name, colour in OUTCOME_COLOURS.items()
    ]
    paper = Line2D([], [], color="#333333", marker="D", mfc="none", lw=0, label="in the paper")
    expected = Rectangle((0, 0), 1, 1, color=EXPECTED, label="where it is claimed")
    picture.legend(
        handles=[*marks, paper, expected], loc="upper right", ncols=5, columnspacing=1.2, handlelength=1.4
    )


# -------------------------------------------------------------------- one claim, image by image
def image_by_image(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """A panel a metric (name: {method: a value per image}): a line an image from method to method, and the means."""
    with use_style():
        most = max(map(len, values.values()))
        picture = Picture(max(3.6, 1.05 * most + 0.5) * len(values), 3.1)
        for axes, (metric, by_method) in zip(
            picture.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True
        ):
            lines = np.array(list(by_method.values()), dtype=float)  # [methods, images]
            axes.plot(lines, color="#bbbbbb", lw=0.9, zorder=1)
            for x, (method, heights) in enumerate(zip(by_method, lines, strict=True)):
                axes.plot(np.full(len(heights), x), heights, ".", color=method_colour(method), ms=5)
                axes.plot([x - 0.22, x + 0.22], [np.nanmean(heights)] * 2, color=method_colour(method), lw=3)
            axes.set(title=metric, xticks=range(len(by_method)), xlim=(-0.5, len(by_method) - 0.5))
            axes.set_xticklabels([_in_lines(method_label(method)) for method in by_method])
            axes.set_ylim(bottom=0)
            axes.grid(axis="x", visible=False)
        picture.tight_layout()
    return picture


def _in_lines(label: str, width: int = 14) -> str:
    """A label that does not reach into the next one's place: broken after a comma, then between words."""
    return "\n".join(line for part in label.split(", ") for line in textwrap.wrap(part, width))
