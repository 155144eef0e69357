"""What people see: notes and progress on stderr, results on stdout, and never the one in the other."""

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

SCHEMA_VERSION = 1  # of what --json prints

PLAIN_SECONDS = 30.0  # between two progress lines where nobody watches a terminal
SECONDS = {"bar": 0.2, "json": 1.0}  # where somebody, or a program, does


class ProgressMode(StrEnum):
    """Values of --progress."""

    auto = "auto"
    bar = "bar"
    plain = "plain"
    json = "json"
    none = "none"


def colour_wanted(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colour and nobody asked for none."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


class Console:
    """The Reporter of the command line."""

    def __init__(self, progress: ProgressMode = ProgressMode.auto, *, as_json: bool = False) -> None:
        self.as_json = as_json
        if progress is ProgressMode.auto:
            progress = ProgressMode.bar if sys.stderr.isatty() else ProgressMode.plain
        self.progress = progress
        self.colour = colour_wanted(sys.stderr)
        self._started = time.monotonic()

    def note(self, message: str) -> None:
        """One sentence on stderr."""
        self._say(message)

    def warn(self, message: str) -> None:
        """One sentence on stderr that stands out."""
        self._say(message, self._paint("Warning: ", "33"))

    def error(self, error: MetaSelectError) -> None:
        """The sentence and the remedy on stderr; under --json also the object on stdout."""
        self._say(str(error), self._paint("Error: ", "31"))
        if error.hint:
            self._say(error.hint, "  ")
        if self.as_json:
            failure: Json = {"code": error.code, "message": str(error), "hint": error.hint}
            print_json({"ok": False, "schema_version": SCHEMA_VERSION, "error": failure})

    def result(self, result: Mapping[str, Json], *, ok: bool = True) -> None:
        """The JSON object on stdout, where --json asked for it."""
        if self.as_json:
            print_json({"ok": ok, "schema_version": SCHEMA_VERSION, **result})

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """A table for people on stdout; nothing under --json."""
        if self.as_json:
            return
        from rich.console import Console as RichConsole
        from rich.markup import escape
        from rich.table import Table

        if title:
            self.line(title)  # Rich would wrap it to the table's width, and it may hold a path
        table = Table()
        for position, name in enumerate(header):
            table.add_column(name, justify="left" if position == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(escape(printable(cell)) for cell in row))
        width, colour = None if sys.stdout.isatty() else 120, colour_wanted(sys.stdout)
        # By way of a text: Rich itself would leave with 1 when the reader has gone.
        drawn = StringIO()
        RichConsole(file=drawn, width=width, no_color=not colour, force_terminal=colour).print(table)
        print(drawn.getvalue(), end="")

    def line(self, text: str) -> None:
        """One line of the result on stdout; nothing under --json."""
        if not self.as_json:
            print(printable(text))

    @contextmanager
    def track(self, total: int, what: str, unit: str, done: int = 0) -> Iterator[Advance]:
        """Progress over ``total`` units (0: nobody knows): a bar on a terminal, a line every 30 s elsewhere."""
        meter = _Meter(self, total, what, unit, done)
        try:
            yield meter.advance
        finally:
            meter.close()

    def _say(self, message: str, label: str = "") -> None:
        write_stderr(f"{label}{printable(message)}\n")

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def printable(text: str) -> str:
    """The text with control characters made visible: names from a data set must not drive a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def write_stderr(text: str) -> None:
    """Write to stderr; when its reader has gone, go on in silence, for the work is worth more than the notes."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_json(value: Mapping[str, Json]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, allow_nan=False), flush=True)


class _Meter:
    """Counts units and says now and then how fast they go."""

    def __init__(self, console: Console, total: int, what: str, unit: str, done: int) -> None:
        self.console, self.total, self.what, self.unit = console, total, what, unit
        self.done = self.skipped = done
        self.detail = ""
        self.started = time.monotonic()
        # The first plain line comes after the interval, so short work stays silent.
        self.shown = self.started if console.progress is not ProgressMode.bar else 0.0

    def advance(self, count: int, detail: str = "") -> None:
        self.done += count
        self.detail = detail or self.detail
        if time.monotonic() - self.shown >= SECONDS.get(self.console.progress, PLAIN_SECONDS):
            self.show()

    def show(self) -> None:
        now = time.monotonic()
        self.shown = now
        rate = (self.done - self.skipped) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        mode = self.console.progress
        if mode is ProgressMode.none:
            return
        if mode is ProgressMode.json:
            state = {"what": self.what, "done": self.done, "total": self.total, "rate": round(rate, 2)}
            write_stderr(json.dumps({**state, "detail": self.detail}) + "\n")
            return
        if not self.total:
            text = f"{self.what}: {_duration(now - self.started)}, {self.detail}"
            if mode is ProgressMode.bar:
                write_stderr(f"\r\x1b[K{printable(text)}")
            else:
                self.console.note(text)
            return
        text = (
            f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:,.0f} {self.unit}/s, "
            f"{_duration(left)} left{', ' + self.detail if self.detail else ''}"
        )
        if mode is ProgressMode.bar:
            filled = int(20 * self.done / max(self.total, 1))
            write_stderr(f"\r\x1b[K{'#' * filled}{'.' * (20 - filled)} {printable(text)}")
        else:
            self.console.note(text)

    def close(self) -> None:
        if self.console.progress is ProgressMode.bar and self.shown:
            write_stderr("\r\x1b[K")
        elif self.console.progress is ProgressMode.json:
            self.show()  # a program hears how far it came, however short the work was


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
