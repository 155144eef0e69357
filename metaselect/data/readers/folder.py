"""The reader of image folders, ``DATA/<class>/*``: one folder of images for each class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metaselect.data.classes import order_classes
from metaselect.data.readers.base import Content, SampleEntry, UnusableContent
from metaselect.data.store import IMAGES
from metaselect.errors import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"),
)


class FolderSource:
    """A folder of class folders, as a ``Source``."""

    task = IMAGES
    brings_ids = False

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in class_folders(root):
            if not _is_text(folder.name):
                raise DataError(f"The name of the folder {str(folder)!a} is not UTF-8.", "Rename it.")
        self.declared = order_classes(folder.name for folder in class_folders(root))
        self._ignored = 0
        self._paths = [path for name in self.declared for path in self._images(name)]
        if not self._paths:
            raise DataError(
                f"{root} holds neither Parquet files nor folders of images.",
                "Name a manifest (.csv, .parquet), a folder of .parquet files, or a folder with one folder "
                "of images for each class.",
            )

        ignored = f"{self._ignored} files in {root} are no images and were ignored."
        self.remarks: tuple[str, ...] = (ignored,) if self._ignored else ()

    def _images(self, class_name: str) -> list[str]:
        """Relative paths of the class's images; other files are counted in ``_ignored``."""
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
            else:
                self._ignored += 1
        return paths

    def where(self, position: int, row: int, path: str) -> str:
        """The image's path."""
        return str(self.root / path)

    def entries(self) -> Iterator[SampleEntry]:
        """Every image, with the name of its folder as the label."""
        for path in self._paths:
            problem = "" if _is_text(path) else "the name of its file is not UTF-8"
            yield SampleEntry(0, None, path.split("/", 1)[0], path if not problem else ascii(path), problem)

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """The files' bytes."""
        for position in range(start, len(self._paths)):
            if keep[position]:
                yield position, self._read(self._paths[position])

    def _read(self, path: str) -> bytes | UnusableContent:
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            return UnusableContent(f"the file cannot be read ({error.__class__.__name__})")

    def width(self) -> int:
        """No features here."""
        return 0

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every image."""
        for path in self._paths:
            yield path, self.root / path


def class_folders(root: Path) -> list[Path]:
    """The class folders below ``root``: all but hidden ones and the one that macOS adds to archives."""
    return [
        path
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    ]


def _is_text(name: str) -> bool:
    """Whether a file name is UTF-8; Python gives undecodable bytes as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
