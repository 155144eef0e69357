"""The figure of `metaselect compare`: accuracy against bought labels, one line a method, as SVG."""

from collections.abc import Sequence
from io import StringIO

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metaselect.report.comparison import Group, Row
from metaselect.text import visible

LOOKS = tuple(zip("os^Dv*PX", ("-", "--", "-.", ":") * 2, strict=True))
"""Marker and line of each method in turn, so that no two of them differ by colour alone."""


def comparison_svg(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """The figure; the same rows give the same text.

    A point is the mean of a group, with its standard deviation; of a single row, its 95 % interval.
    """
    lines: dict[str, list[Group]] = {}
    for group in groups:
        if group.mean is not None:
            lines.setdefault(_name(group), []).append(group)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rc("text", parse_math=False)  # a $ in a name is a $
        matplotlib.rc("svg", fonttype="none", hashsalt="metaselect")  # texts stay texts; ids are not random
        matplotlib.rc("font", size=9)
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot(xlabel="labels bought", ylabel="test accuracy (%)")
        for number, (name, members) in enumerate(lines.items()):
            points = sorted((group.bought, *_point(group, rows)) for group in members)
            bought, mean, below, above = zip(*points, strict=True)
            marker, line = LOOKS[number % len(LOOKS)]
            axes.errorbar(
                bought, mean, yerr=(below, above), label=name, marker=marker, linestyle=line, capsize=3
            )
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if lines:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "metaselect"})
    return text.getvalue()


def _name(group: Group) -> str:
    return visible(f"{group.method} ({group.selector})" if group.selector else group.method)


def _point(group: Group, rows: Sequence[Row]) -> tuple[float, float, float]:
    """Mean, and the distances to the ends of the bar, in percent."""
    assert group.mean is not None
    if group.standard_deviation is not None:
        return 100 * group.mean, 100 * group.standard_deviation, 100 * group.standard_deviation
    row = next(row for row in rows if row.group == group.number and row.accuracy is not None)
    low, high = (group.mean if limit is None else limit for limit in (row.low, row.high))
    return 100 * group.mean, 100 * (group.mean - low), 100 * (high - group.mean)
