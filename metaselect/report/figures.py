"""The figures of the report: training curves, the weights, and the pool seen from above."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from metaselect.report.svg import INK, LINE, PAPER, SERIES, drawing, inline_svg

LINES = ("solid", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 1)))
"""With the colours, so that no line is told from another by its colour alone."""


class Marks(NamedTuple):
    """Points of one kind.

    Attributes:
        name: in the legend.
        points: (k, 2).
        marker: matplotlib's word for the shape.
        size: its area, in square points.
        filled: else it is an outline.
    """

    name: str
    points: np.ndarray
    marker: str
    size: float
    filled: bool = False


def curves(
    name: str,
    lines: Mapping[str, tuple[Sequence[int], Sequence[float | None]]],
    *,
    what: str,
    percent: bool,
    description: str,
) -> str:
    """A line for each model over its epochs.

    Args:
        name: of the figure, for its ids.
        lines: by model, epochs and the value of each, None where there is none.
        what: the vertical axis.
        percent: the values are shares.
        description: what is to be seen, in words.
    """
    with drawing() as figure:
        axes = figure.add_subplot()
        for number, (model, (epochs, values)) in enumerate(lines.items()):
            if all(value is None for value in values):
                continue  # the others keep their colours
            axes.plot(
                epochs,
                np.array(values, np.float64),
                color=SERIES[number % len(SERIES)],
                linestyle=LINES[number % len(LINES)],
                linewidth=2,
                marker="o" if len(values) == 1 else None,
                label=model,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
        axes.legend()
        return inline_svg(figure, name, what[0].upper() + what[1:], description)


def histogram(
    name: str, counts: Sequence[int], edges: Sequence[float], *, title: str, description: str
) -> str:
    """Bars over the weights, from 0 to 1."""
    with drawing() as figure:
        axes = figure.add_subplot()
        axes.bar(
            edges[:-1], counts, np.diff(edges), align="edge", color=SERIES[0], edgecolor=PAPER, linewidth=1
        )
        axes.set_xlabel("weight: how far the given label is trusted")
        axes.set_ylabel("samples")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        return inline_svg(figure, name, title, description)


def scatter(
    name: str, background: np.ndarray, marks: Sequence[Marks], *, title: str, description: str
) -> str:
    """Samples in the plane, with some of them marked.

    Args:
        name: of the figure, for its ids.
        background: (n', 2), small dots.
        marks: drawn above them.
        title: what it shows.
        description: what is to be seen.
    """
    with drawing() as figure:
        figure.set_size_inches(5.8, 4.6)
        axes = figure.add_subplot()
        axes.scatter(background[:, 0], background[:, 1], s=6, color=LINE, linewidths=0, label="other samples")
        for number, each in enumerate(marks):
            colour = SERIES[number % len(SERIES)]
            axes.scatter(
                each.points[:, 0],
                each.points[:, 1],
                s=each.size,
                marker=each.marker,
                facecolors=colour if each.filled else "none",
                edgecolors=INK if each.filled else colour,
                linewidths=0.8 if each.filled else 1.6,
                label=f"{each.name} ({len(each.points)})",
            )
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second principal component")
        figure.legend(loc="outside upper center", ncols=2, handletextpad=0.4, columnspacing=1.2)
        return inline_svg(figure, name, title, description)
