"""Output of the commands: notes and progress on stderr, results on stdout."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from io import StringIO
from typing import TextIO

from metaselect.errors import MetaSelectError
from metaselect.records import Advance, Json
from metaselect.text import visible

SCHEMA_VERSION = 1  # of what --json prints

PLAIN_INTERVAL = 30.0  # seconds between two progress lines in a log file
INTERVALS = {"bar": 0.2, "json": 1.0}  # seconds between two updates on a terminal or for a program
WIDTH = 80  # of a terminal that the widest tables must fit


class ProgressMode(StrEnum):
    """Values of --progress."""

    auto = "auto"
    bar = "bar"
    plain = "plain"
    json = "json"
    none = "none"


def colour_wanted(stream: TextIO) -> bool:
    """Whether the stream is a terminal with colour, and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


class Console:
    """The ``Reporter`` of the command line, and the output of results."""

    def __init__(
        self, progress: ProgressMode = ProgressMode.auto, *, as_json: bool = False, quiet: bool = False
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        if quiet:
            progress = ProgressMode.none
        elif progress is ProgressMode.auto:
            progress = ProgressMode.bar if sys.stderr.isatty() else ProgressMode.plain
        self.progress = progress
        self.colour = colour_wanted(sys.stderr)
        self._started = time.monotonic()

    def note(self, message: str) -> None:
        """Print a sentence on stderr, unless --quiet was given."""
        if not self.quiet:
            self._write_line(message)

    def warn(self, message: str) -> None:
        """Print a sentence on stderr as a warning."""
        self._write_line(message, self._coloured("Warning: ", "33"))

    def error(self, error: MetaSelectError) -> None:
        """Print the error and its remedy on stderr; under --json also an object on stdout."""
        self._write_line(str(error), self._coloured("Error: ", "31"))
        if error.hint:
            self._write_line(error.hint, "  ")
        if self.as_json:
            failure: Json = {"code": error.code, "message": str(error), "hint": error.hint or None}
            print_json({"ok": False, "schema_version": SCHEMA_VERSION, "error": failure})

    def result(self, result: Mapping[str, Json], *, ok: bool = True) -> None:
        """Print the JSON object of the result on stdout; nothing without --json."""
        if self.as_json:
            print_json({"ok": ok, "schema_version": SCHEMA_VERSION, **result})

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        width: int | None = None,
    ) -> None:
        """Print a table on stdout; nothing under --json.

        Args:
            header: names of the columns.
            rows: a text for each column.
            title: a line above it.
            width: columns of the terminal that it must fit, without vertical rules; None: the terminal's, else 120.
        """
        if self.as_json:
            return
        from rich.box import HEAVY_HEAD, SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.markup import escape
        from rich.table import Table

        if title:
            self.line(title)  # not by Rich, which would wrap a long path to the table's width
        table = Table(box=HEAVY_HEAD)
        if width is not None:
            table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)
        for position, name in enumerate(header):
            table.add_column(name, justify="left" if position == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(escape(visible(cell)) for cell in row))
        width = width or (None if sys.stdout.isatty() else 120)
        colour = colour_wanted(sys.stdout)
        # Rich draws into a buffer: on a closed pipe it would end the process with exit code 1.
        buffer = StringIO()
        RichConsole(file=buffer, width=width, no_color=not colour, force_terminal=colour).print(table)
        print(buffer.getvalue(), end="")

    def line(self, text: str) -> None:
        """Print one line of the result on stdout; nothing under --json."""
        if not self.as_json:
            print(visible(text))

    @contextmanager
    def track(self, total: int, what: str, unit: str, done: int = 0) -> Iterator[Advance]:
        """Show progress over ``total`` units (0: unknown): a bar on a terminal, a line every 30 s elsewhere."""
        meter = _ProgressMeter(self, total, what, unit, done)
        try:
            yield meter.advance
        finally:
            meter.close()

    def _write_line(self, message: str, label: str = "") -> None:
        write_stderr(f"{label}{visible(message)}\n")

    def _coloured(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def write_stderr(text: str) -> None:
    """Write to stderr; if it is a closed pipe, continue without output instead of losing the work."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_json(value: Mapping[str, Json]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(value, allow_nan=False), flush=True)


class _ProgressMeter:
    """Counts finished units, and shows their number and rate at intervals."""

    def __init__(self, console: Console, total: int, what: str, unit: str, done: int) -> None:
        self.console, self.total, self.what, self.unit = console, total, what, unit
        self.done = self.done_before = done
        self.detail = ""
        self.started = time.monotonic()
        # The first plain line comes after an interval, so short work prints none.
        self.shown = self.started if console.progress is not ProgressMode.bar else 0.0

    def advance(self, count: int, detail: str = "") -> None:
        """Count ``count`` more units; ``detail`` is shown beside the rate."""
        self.done += count
        self.detail = detail or self.detail
        if time.monotonic() - self.shown >= INTERVALS.get(self.console.progress, PLAIN_INTERVAL):
            self.show()

    def show(self) -> None:
        """Write the present state to stderr, in the form of --progress."""
        now = time.monotonic()
        self.shown = now
        rate = (self.done - self.done_before) / max(now - self.started, 1e-9)
        mode = self.console.progress
        if mode is ProgressMode.none:
            return
        if mode is ProgressMode.json:
            state = {"what": self.what, "done": self.done, "total": self.total, "rate": round(rate, 2)}
            write_stderr(json.dumps({**state, "detail": self.detail}) + "\n")
            return
        if self.total:
            left = (self.total - self.done) / rate if rate else float("inf")
            filled = int(20 * self.done / max(self.total, 1))
            bar = f"{'#' * filled}{'.' * (20 - filled)} "
            text = (
                f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:,.0f} {self.unit}/s, "
                f"{_duration(left)} left{', ' + self.detail if self.detail else ''}"
            )
        else:
            bar, text = "", f"{self.what}: {_duration(now - self.started)}, {self.detail}"
        if mode is ProgressMode.bar:
            write_stderr(f"\r\x1b[K{bar}{visible(text)}")  # back to the line's start, and clear it
        else:
            self.console.note(text)

    def close(self) -> None:
        """Remove the bar, or write the final state for a program."""
        if self.console.progress is ProgressMode.bar and self.shown:
            write_stderr("\r\x1b[K")
        elif self.console.progress is ProgressMode.json:
            self.show()  # a program always gets the final state


def _duration(seconds: float) -> str:
    """Seconds as "m:ss" or "h:mm:ss"; "?" if unknown."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
