"""Facts about this process for ``stage.json``: command, memory, threads, versions. No result depends on them."""

import os
import platform
import resource
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from metaselect import __version__
from metaselect.records import Json

TRANSIENT_FLAGS = {
    "--debug": 0,
    "--json": 0,
    "--quiet": 0,
    "-q": 0,
    "--force": 0,
    "--progress": 1,
    "--run": 1,
}
"""Flags that a repeated command leaves out, and how many words follow each."""


def recorded_command() -> str:
    """The command line of this process."""
    return shlex.join(["metaselect", *sys.argv[1:]])


def repeatable(command: str) -> str:
    """A recorded command without its transient flags, to be run again.

    Raises:
        ValueError: it cannot be split into words.
    """
    kept, words = [], iter(shlex.split(command))
    for word in words:
        flag, equals, _ = word.partition("=")  # --run=RUN has no word after it
        if flag not in TRANSIENT_FLAGS:
            kept.append(word)
        elif not equals:
            for _ in range(TRANSIENT_FLAGS[flag]):
                next(words, None)
    return shlex.join(kept)


def environment() -> dict[str, Json]:
    """Command, working folder, memory, threads and versions of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    memory: dict[str, Json] = {"process_mib": round(peak / (1024 if sys.platform == "linux" else 1024**2), 1)}
    torch: Any = sys.modules.get("torch")  # never imported here: that takes a second
    if torch is not None and torch.cuda.is_available():
        memory["cuda_mib"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return {
        "command": recorded_command(),
        "working_folder": os.getcwd(),
        "peak_memory": memory,
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        "versions": {"metaselect": __version__, "python": platform.python_version(), **_library_versions()},
    }


def _library_versions() -> dict[str, Json]:
    versions: dict[str, Json] = {}
    for name in ("torch", "torchvision", "numpy", "pyarrow", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
