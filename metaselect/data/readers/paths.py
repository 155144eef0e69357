"""The image files that a data set names: only regular files are read, and only those below its folder."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from metaselect.data.readers.base import FileBytes, UnusableContent
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.text import short

WINDOWS = "a path of Windows; write it relative to the table, or to --image-folder"
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # or a share of the network
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:")
SHOWN = 60  # characters of a text that is no path
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]{200,}")


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a data set, by the names that a manifest has for them.

    Attributes:
        root: the folder that names are relative to.
        suffix: what names lack at their end, such as ".jpg"; or empty.
        outside: whether files that do not lie below ``root`` are read too.
        outside_hint: what to do about a file that does not, for messages.
    """

    root: Path
    suffix: str = ""
    outside: bool = False
    outside_hint: str = "--allow-outside reads it"

    @classmethod
    def named_by(cls, manifest_folder: Path, options: ReadOptions) -> "ImageFiles":
        """Those of a manifest in this folder, unless the options say another."""
        return cls(options.image_folder or manifest_folder, options.image_suffix, options.allow_outside)

    def clean(self, name: str) -> str:
        """A manifest's name as its one relative POSIX path: without "./", doubled slashes, or Windows' backslashes.

        An absolute path below ``root`` becomes relative to it; any other one stays.
        """
        if not name or URL.match(name):
            return name
        if "\\" in name and "/" not in name and not PureWindowsPath(name).is_absolute():
            name = name.replace("\\", "/")
        if not name.lower().endswith(self.suffix.lower()):
            name += self.suffix
        pure = PurePosixPath(name)
        if pure.is_absolute():
            for folder in (Path(os.path.abspath(self.root)), _resolved(self.root)):
                if pure.is_relative_to(folder):
                    return str(pure.relative_to(folder))
        return str(pure)

    def read(self, path: str) -> FileBytes | UnusableContent:
        """The bytes of the file at a clean path, symbolic links followed; or why it cannot be used."""
        if (reason := _no_path(path)) is not None:
            return UnusableContent(reason)
        windows = os.name != "nt" and DRIVE.match(path) is not None
        if windows or (not self.outside and escapes(path)):
            way = WINDOWS if windows else self.outside_hint
            return UnusableContent(f"the path {short(path)} leaves the folder {self.root} ({way})")
        target = self.root / path
        try:
            real = target if self.outside else self._inside(target)
            if real is None:
                return UnusableContent(
                    f"the path {short(path)} is a link that leaves the folder {self.root} ({self.outside_hint})"
                )
            if is_special(real):
                return UnusableContent(f"{short(path)} is not a regular file")
            return FileBytes(real.read_bytes())
        except FileNotFoundError:
            return UnusableContent(f"the file {short(path)} does not exist")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return UnusableContent(f"the file {short(path)} cannot be read ({reason})")

    def _inside(self, target: Path) -> Path | None:
        """The file that links lead to; None if it is not below ``root``."""
        # Folders are resolved once: resolving the whole path of each file takes longer than reading the file.
        real = target.resolve() if target.is_symlink() else _resolved(target.parent) / target.name
        return real if real.is_relative_to(_resolved(self.root)) else None

    def allowed(self, paths: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """(path, file) of the clean paths that may be read; a file may be missing."""
        for path in paths:
            if path and (self.outside or not escapes(path)):
                yield path, self.root / path


def _no_path(text: str) -> str | None:
    """Why a text names no file: it is a URL, or the image itself; None where it may name one."""
    if URL.match(text):
        return f"{short(text[:SHOWN])} is a URL; only files are read, so download the image and name its path"
    if BASE64.fullmatch(text):
        return (
            f"{short(text[:SHOWN])}... is a text of {len(text)} characters and no path; images in base64 are not read, "
            "so write them to files, or as bytes to Parquet"
        )
    return None


def is_special(file: Path) -> bool:
    """Whether something stands there that is no regular file: reading a pipe would never end."""
    return not file.is_file() and file.exists()


def require_inside(files: Iterable[Path], root: Path, options: ReadOptions) -> None:
    """Check that no table of a data set is, or lies in, a link to outside of its folder ``root``.

    Raises:
        DataError: one is, and the options do not allow it.
    """
    for file in files:
        if not options.allow_outside and not file.resolve().is_relative_to(_resolved(root)):
            raise DataError(f"{file} is a link that leaves the folder {root}.", "To read it: --allow-outside")


def escapes(path: str) -> bool:
    """Whether the path is absolute or has "..", by the rules of POSIX or of Windows."""
    for flavour in (PurePosixPath(path), PureWindowsPath(path)):
        if flavour.is_absolute() or flavour.drive or flavour.root or ".." in flavour.parts:
            return True
    return False


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
