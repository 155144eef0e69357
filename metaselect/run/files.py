"""Atomic writes, stamps by which a file is recognised again, and reading of JSON and CSV files."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from metaselect import ranks
from metaselect.errors import ArtefactError, DataError
from metaselect.records import Json
from metaselect.run.memo import FileMemo

Row = TypeVar("Row")


@dataclass(frozen=True)
class Stamp:
    """Hash, size and time of a file as it was written.

    Attributes:
        sha256: hex digest of the bytes.
        size: bytes.
        mtime_ns: modification time, nanoseconds; only used to skip hashing.
    """

    sha256: str
    size: int
    mtime_ns: int


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(path: Path) -> Stamp:
    """The stamp of a file that was just written."""
    status = path.stat()
    return Stamp(sha256_file(path), status.st_size, status.st_mtime_ns)


def matches(path: Path, expected: Stamp, *, thorough: bool = False) -> bool:
    """Whether the file still has the stamped content; it is hashed only if its time differs.

    Args:
        path: the file.
        expected: its stamp.
        thorough: hash it in any case.
    """
    status = path.stat()
    if status.st_size != expected.size:
        return False
    if not thorough and status.st_mtime_ns == expected.mtime_ns:
        return True
    return (sha256_file if thorough else _sha256_of)(path) == expected.sha256


# The files of a copied run have other times than the recorded ones; a command asks for some of them many times.
_sha256_of = FileMemo(sha256_file)


def begins_with(path: Path, expected: Stamp) -> bool:
    """Whether the file still begins with the stamped content, whatever was appended."""
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (expected.size, expected.mtime_ns):
        return True
    if status.st_size < expected.size:
        return False
    return sha256_of_beginning(path, expected.size).hexdigest() == expected.sha256


def sha256_of_beginning(path: Path, size: int) -> "hashlib._Hash":
    """The hash of the file's first ``size`` bytes, to which more can be added."""
    digest = hashlib.sha256()
    left = size
    with path.open("rb") as stream:
        while left and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path in the same folder, flush the file to disk, and rename it to ``path``.

    So a reader sees the old file or the new one, never a part. The temporary file is removed on any error. Of several
    ranks the first one writes, and all go on when the file is there.
    """
    if ranks.is_first():
        _write(path, write)
    ranks.barrier()


def _write(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # in the same folder: a rename within one disk is atomic
    try:
        with naming(path):
            write(temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which an error of the system is one about this file, where it names none: a full disk has none."""
    try:
        yield
    except Exception as error:  # safetensors has an error of its own
        if getattr(error, "filename", None) is None:
            error.filename = str(path)  # type: ignore[attr-defined]
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; line ends stay as they are."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(text.encode())

    write_atomically(path, write)


def write_json(path: Path, value: Json) -> None:
    """Write indented JSON atomically; NaN raises ValueError, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        ValueError: not JSON, not UTF-8, or nested deeper than Python parses.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, remedy: str) -> Any:
    """The parsed file.

    Raises:
        ArtefactError: missing or not JSON; ``remedy`` becomes the hint.
    """
    try:
        return parse_json(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.", remedy) from None
    except ValueError as error:
        raise ArtefactError(f"{path} is damaged: {error}.", remedy) from None


def read_delimiter(stream: TextIO) -> tuple[str, int]:
    """What separates the cells of a CSV file, and the line of its header, where the stream then stands.

    In many languages spreadsheets separate by ; or tab, and some name the separator in a line before the header;
    databases separate by | too.
    """
    first = stream.readline()
    if first.rstrip("\r\n") in ("sep=,", "sep=;", "sep=\t", "sep=|"):
        return first[4], 2
    stream.seek(0)
    return next((mark for mark in ",;\t|" if mark in first), ","), 1


def format_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV text; floats in the shortest form that reads back to the same number."""
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)
    return "".join(lines)


class _Lines(list[str]):
    r"""Takes a csv writer's lines and ends them with \n; it quotes \r only if its line end has one."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically."""
    write_text(path, format_csv(header, rows))


def read_rows(path: Path, header: Sequence[str], make: Callable[..., Row], remedy: str) -> tuple[Row, ...]:
    """A CSV table that a stage wrote: what ``make`` makes of the cells of each row; empty without a file.

    Raises:
        ArtefactError: another header, or a row of which ``make`` raises ValueError; ``remedy`` becomes the hint.
    """
    if not path.is_file():
        return ()
    damaged = ArtefactError(f"{path} is damaged: a row is not {', '.join(header)}.", remedy)
    try:
        text = io.StringIO(path.read_bytes().decode(), newline="")  # a cell may hold a line end
        first, *rows = csv.reader(text, strict=True)
        if first != list(header) or any(len(cells) != len(header) for cells in rows):
            raise damaged
        return tuple(make(*cells) for cells in rows)
    except (ValueError, csv.Error):
        raise damaged from None


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a UTF-8 CSV; a byte order mark, CRLF and other separators are accepted.

    Raises:
        DataError: not UTF-8, no header, or a row with more cells than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter, line = read_delimiter(stream)
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}).", "Save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}.", "Save it as CSV UTF-8.") from None
    if not header:
        raise DataError(f"{path} is empty.", "The first line must name the columns.")
    for number, row in enumerate(rows, start=line + 1):
        if None in row:
            raise DataError(
                f"{path}:{number} has more cells than the header.", "Quote cells that hold commas."
            )
    return header, [{key: value or "" for key, value in row.items()} for row in rows]
