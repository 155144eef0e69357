"""Whether a data set is surely the same as before: a hash of the names, sizes and times of its files."""

import hashlib
from pathlib import Path

from metaselect.data.listing import open_source
from metaselect.data_options import ReadOptions


def dataset_signature(path: Path, options: ReadOptions | None = None) -> str:
    """Hex digest over (relative name, size, modification time) of every file of a data set.

    Equal signatures mean unchanged data; when they differ, the contents must be compared. The place of the data does
    not count, so a copy that kept the times has the same signature.

    Args:
        path: the data set, of any form.
        options: how it is read, which decides what images a manifest names.

    Raises:
        DataError: there is no data set of a known form.
    """
    lines = []
    for name, file in open_source(path, options or ReadOptions()).files():
        try:
            status = file.stat()
            lines.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n")
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            lines.append(f"{name}\0missing\n")  # a missing image is a bad sample, not an error here
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
