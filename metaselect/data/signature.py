"""A quick answer to "is this the same data as last time": names, sizes and times of its files."""

import hashlib
from pathlib import Path

from metaselect.data.listing import open_source
from metaselect.options import ReadOptions


def dataset_signature(path: Path, options: ReadOptions | None = None) -> str:
    """Hex digest over (relative name, size, modification time) of every file of a data set.

    It says "surely unchanged" cheaply; when it differs, only the contents can tell. It does not depend on
    where the data lies, so data that was moved with its times is still the same.

    Args:
        path: the data set, of any form.
        options: how it is read, which decides what images a manifest names.

    Raises:
        DataError: nothing is there, or nothing that is known.
    """
    lines = []
    for name, file in open_source(path, options or ReadOptions()).files():
        try:
            status = file.stat()
            lines.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n")
        except OSError:
            lines.append(f"{name}\0missing\n")
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
