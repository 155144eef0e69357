"""Image paths of a manifest: only files below its folder are read."""

import os
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from metaselect.data.readers.base import UnusableContent

SHOWN = 200  # characters of a path in a message


def clean_path(path: str, root: Path) -> str:
    """A manifest's path as its one relative POSIX name: without "./", doubled slashes, or Windows' backslashes.

    An absolute path below ``root``, the manifest's folder, becomes relative to it; any other one stays, to be refused.
    """
    if "\\" in path and "/" not in path and not PureWindowsPath(path).is_absolute():
        path = path.replace("\\", "/")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        for folder in (Path(os.path.abspath(root)), _resolved(root)):
            if pure.is_relative_to(folder):
                return str(pure.relative_to(folder))
    return str(pure)


def read_below(root: Path, path: str) -> bytes | UnusableContent:
    """The bytes of the file at ``path`` below ``root``, symbolic links followed; or why it cannot be used."""
    if escapes(path):
        return UnusableContent(f"the path {path} leaves the folder of the manifest")
    target = root / path
    try:
        # Folders are resolved once: resolving the whole path of each file takes longer than reading the file.
        parent = _resolved(target.parent)
        real = target.resolve() if target.is_symlink() else parent / target.name
        if not real.is_relative_to(_resolved(root)):
            return UnusableContent(f"the path {path} is a link that leaves the folder of the manifest")
        if is_special(real):
            return UnusableContent(f"{path} is not a regular file")
        return real.read_bytes()
    except FileNotFoundError:
        return UnusableContent(f"the file {path} does not exist")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return UnusableContent(f"the file {short(path)} cannot be read ({reason})")


def is_special(file: Path) -> bool:
    """Whether something stands there that is no regular file: reading a pipe would never end."""
    return not file.is_file() and file.exists()


def short(path: str) -> str:
    """The path for a message: without control characters, and not longer than a few lines."""
    shown = path[:SHOWN] if path.isprintable() else ascii(path[:SHOWN])
    return shown + ("..." if len(path) > SHOWN else "")


def escapes(path: str) -> bool:
    """Whether the path is absolute or has "..", by the rules of POSIX or of Windows."""
    for flavour in (PurePosixPath(path), PureWindowsPath(path)):
        if flavour.is_absolute() or flavour.drive or flavour.root or ".." in flavour.parts:
            return True
    return False


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
