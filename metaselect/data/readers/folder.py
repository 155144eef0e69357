"""The reader of image folders, ``DATA/<class>/*``: one folder of images for each class."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from metaselect.data.classes import class_form, order_classes
from metaselect.data.readers.base import Content, SampleEntry
from metaselect.data.readers.paths import ImageFiles
from metaselect.data.readers.splits import TABLES, check_no_splits
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import IMAGES
from metaselect.text import examples

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif"),
)
SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
SHOWN = 5  # suffixes that a message names


class FolderSource:
    """A folder of class folders, as a ``Source``."""

    kinds: tuple[str, ...] = (IMAGES,)
    brings_ids = False

    def __init__(self, root: Path, options: ReadOptions) -> None:
        self.root = root
        self._files = ImageFiles(root, outside=options.allow_outside)
        folders = class_folders(root)
        _check_is_classes(root, [folder for folder in folders if any(folder.iterdir())])
        for folder in folders:
            if not _is_text(folder.name):
                raise DataError(f"The name of the folder {str(folder)!a} is not UTF-8.", "Rename it.")
        self.declared = order_classes(class_form(folder.name) for folder in folders)
        self._ignored: Counter[str] = Counter(
            file.suffix.lower() for file in root.iterdir() if _counts(file) and file.is_file()
        )
        place = {name: number for number, name in enumerate(self.declared)}
        folders.sort(key=lambda folder: (place[class_form(folder.name)], folder.name))
        self._paths = [path for folder in folders for path in self._images(folder.name)]
        if not self._paths:
            raise DataError(
                f"{root} holds neither Parquet files nor folders of images{self._what_is_there()}.",
                "Name a manifest (.csv, .jsonl, .parquet), a folder of .parquet files, or a folder with one folder "
                "of images for each class.",
            )
        self.remarks: tuple[str, ...] = self._remarks()

    def _remarks(self) -> tuple[str, ...]:
        """What was left out, by suffix."""
        found = []
        beside = sum(self._ignored[suffix] for suffix in SUFFIXES)
        if beside:
            found.append(f"{self.root}: images in no class folder were left out: {beside}.")
        others = {suffix: count for suffix, count in self._ignored.items() if suffix not in SUFFIXES}
        if others:
            found.append(f"{self.root}: files that are no readable images were left out: {_shown(others)}.")
        return tuple(found)

    def _what_is_there(self) -> str:
        """The files that were found instead, for an error."""
        return f"; there are files {_shown(self._ignored)}" if self._ignored else ""

    def _images(self, class_name: str) -> list[str]:
        """Relative paths of a class folder's images; other files are counted in ``_ignored``."""
        paths = []
        for path in sorted(self.root.joinpath(class_name).iterdir(), key=lambda path: path.name):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                raise DataError(
                    f"{path} is a folder within the class folder {class_name}.",
                    "Name the folder whose folders are the classes, for example DATA/train.",
                )
            if path.suffix.lower() in SUFFIXES:
                paths.append(f"{class_name}/{path.name}")
            elif _counts(path):
                self._ignored[path.suffix.lower()] += 1
        return paths

    def take(self, kind: str) -> None:
        """Nothing: there are images alone."""

    def where(self, position: int, row: int, path: str) -> str:
        """The image's path."""
        return str(self.root / path)

    def entries(self) -> Iterator[SampleEntry]:
        """Every image, with the name of its folder as the label."""
        for path in self._paths:
            problem = "" if _is_text(path) else "the name of its file is not UTF-8"
            yield SampleEntry(
                0, None, class_form(path.split("/", 1)[0]), path if not problem else ascii(path), problem
            )

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """The files' bytes."""
        for position in range(start, len(self._paths)):
            if keep[position]:
                yield position, self._files.read(self._paths[position])

    def width(self) -> int:
        """No features here."""
        return 0

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every image."""
        yield from self._files.allowed(self._paths)


def class_folders(root: Path) -> list[Path]:
    """The class folders below ``root``: all but hidden ones and the one that macOS adds to archives."""
    return [
        path
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    ]


def _check_is_classes(root: Path, folders: Sequence[Path]) -> None:
    """Check that folders are not splits of a data set, nor the one place of images whose labels are in a table.

    Raises:
        DataError: they are.
    """
    tables = [file for file in sorted(root.iterdir()) if file.suffix.lower() in TABLES and _counts(file)]
    check_no_splits(root, folders, tables)
    if tables and len(folders) < 2:
        raise DataError(
            f"{root} holds no folders of classes, and there is {examples([table.name for table in tables])}.",
            f"Name the table of labels: {tables[0]}",
        )


def _counts(file: Path) -> bool:
    """Whether a file that is not read is worth a word: not what systems put into folders."""
    return not file.name.startswith(".") and file.name not in SYSTEM_FILES


def _shown(counts: Mapping[str, int]) -> str:
    """Counts by suffix, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in ranked[:SHOWN])
    return shown + (", ..." if len(ranked) > SHOWN else "")


def _is_text(name: str) -> bool:
    """Whether a file name is UTF-8; Python gives undecodable bytes as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
