"""The report as one HTML file that loads nothing and runs nothing."""

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from metaselect.text import short, visible

# No script, no request; of styles the page's own sheet alone, and pictures that are in it.
POLICY = "default-src 'none'; style-src '{style}'; img-src data:; base-uri 'none'; form-action 'none'"
UNKNOWN = "–"
MOST_ROWS = 12  # of a table of epochs


def render(
    report: Mapping[str, Any],
    figures: Mapping[str, str],
    pictures: Mapping[str, tuple[str, bytes]],
    *,
    tiny: bool = False,
) -> str:
    """The page.

    Args:
        report: what ``report.json`` holds; every number of the page is in it.
        figures: by name, ``svg`` elements.
        pictures: by sample_id, (media type, bytes).
        tiny: they are so small that their pixels should be seen.
    """
    style = _part("page.css")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            figures={name: Markup(svg) for name, svg in figures.items()},
            pictures={
                sample_id: f"data:{kind};base64,{b64encode(raw).decode()}"
                for sample_id, (kind, raw) in pictures.items()
            },
            style=Markup(style),
            tiny=tiny,
            policy=POLICY.format(style=f"sha256-{digest}"),
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "count": count,
        "percent": percent,
        "points": points,
        "decimal": decimal,
        "tenths": tenths,
        "name": name,
        "shade": shade,
        "command": command,
        "roles": roles,
        "thinned": thinned,
    }
    return made


def _part(file: str) -> str:
    return files("metaselect.report").joinpath("templates", file).read_text(encoding="utf-8")


def _number(value: float | None, shown: str) -> Markup:
    """A number, beside it for machines as ``report.json`` has it."""
    return Markup('<data value="{}">{}</data>').format(value, shown)


def count(value: float | None) -> Markup:
    """A number of things: 12,345, or 12.3 for a mean."""
    return Markup(UNKNOWN) if value is None else _number(value, f"{value:,.1f}".removesuffix(".0"))


def percent(value: float | None) -> Markup:
    """A share: 12.3 %."""
    return Markup(UNKNOWN) if value is None else _number(value, f"{100 * value:.1f} %")


def points(value: float | None) -> Markup:
    """A difference of shares, with its sign: +12.3."""
    return Markup(UNKNOWN) if value is None else _number(value, _signed(100 * value))


def decimal(value: float | None) -> Markup:
    """A number that is no share: 0.123."""
    return Markup(UNKNOWN) if value is None else _number(value, f"{value:.3f}")


def tenths(value: float | None) -> Markup:
    """A number that may be larger than 1, with its sign: +12.3."""
    return Markup(UNKNOWN) if value is None else _number(value, _signed(value))


def _signed(value: float) -> str:
    rounded = round(value, 1)
    return f"{rounded:+,.1f}".replace("-", "−") if rounded else "0.0"


def name(text: str | None) -> Markup:
    """A name from data: its direction does not spill over, control characters are escaped, and long ones cut."""
    return Markup(UNKNOWN) if text is None else Markup("<bdi>{}</bdi>").format(short(text))


def command(text: str) -> Markup:
    """A command line or a path."""
    return Markup("<code>{}</code>").format(visible(text))


def roles(model: Mapping[str, Any]) -> str:
    """What a model stands for, in words."""
    words = {
        "before": "before: no bought label",
        "control": "control: plain training",
        "after": "after: the one to take",
    }
    found = [shown for role, shown in words.items() if model[role]]
    return (
        "; ".join(found + ["dead"] * model["dead"] + ["told the true labels"] * model["oracle"])
        or "another method"
    )


def thinned(length: int) -> list[int]:
    """Places of at most ``MOST_ROWS`` of so many rows, evenly spread, with the first and the last."""
    rows = min(length, MOST_ROWS)
    return [round(row * (length - 1) / max(rows - 1, 1)) for row in range(rows)]


def shade(value: float, total: float) -> int:
    """A step from 0 to 5 for the share of a total, for the background of a cell."""
    return 0 if not value or not total else 1 + min(int(5 * value / total), 4)
