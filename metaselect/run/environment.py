"""What ``stage.json`` says about the process that made a stage."""

import os
import platform
import resource
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from metaselect import __version__
from metaselect.records import Json

PASSING_FLAGS = {"--debug": 0, "--json": 0, "--force": 0, "--progress": 1, "--run": 1}
"""Flags that hold for one call, or one place, only, and how many words follow each."""


def recorded_command() -> str:
    """The command line of this process."""
    return shlex.join(["metaselect", *sys.argv[1:]])


def repeatable(command: str) -> str:
    """A recorded command without its passing flags.

    Raises:
        ValueError: it is no command line.
    """
    kept, words = [], iter(shlex.split(command))
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag not in PASSING_FLAGS:
            kept.append(word)
        elif not equals:
            for _ in range(PASSING_FLAGS[flag]):
                next(words, None)
    return shlex.join(kept)


def environment() -> dict[str, Json]:
    """Command, memory, threads and versions of this process; nothing follows from them."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory: dict[str, Json] = {"process_mib": round(peak / (1024 if sys.platform == "linux" else 1024**2), 1)}
    torch: Any = sys.modules.get("torch")  # never imported here: it costs a second
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
    found: dict[str, Json] = {}
    for name in ("torch", "torchvision", "numpy", "pyarrow", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
