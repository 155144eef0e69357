"""Facts about this process for ``stage.json``: command, memory, and what a result's last bits depend on.

Sums are rounded in another order by other versions of the libraries, other kinds of processors, and other numbers of
threads; so the same command gives the same bytes where ``versions``, ``processor`` and ``threads`` are equal.
"""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from metaselect import __version__
from metaselect.memory import in_mib, recorded_memory
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
    """Command, working folder, memory, threads, versions and processor of this process."""
    memory = recorded_memory()
    torch: Any = sys.modules.get("torch")  # never imported here: that takes a second
    if torch is not None and torch.cuda.is_available():
        memory["cuda_mib"] = in_mib(torch.cuda.max_memory_allocated())
    return {
        "command": recorded_command(),
        "working_folder": os.getcwd(),
        "peak_memory": memory,
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        **_kinds(torch),
    }


def environment_differences(details: Mapping[str, Any]) -> list[str]:
    """What a result's bytes depend on and this process has otherwise, as "torch 2.6.0 (here 2.7.0)".

    Args:
        details: of a ``stage.json``; what it does not have is left out.
    """
    found = []
    for part, own in _kinds(sys.modules.get("torch")).items():
        recorded = details.get(part, {})
        changed = [name for name in own if recorded.get(name) not in (None, own[name])]
        found += [f"{name} {recorded[name]} (here {own[name]})" for name in changed]
    return found


def _kinds(torch: Any) -> dict[str, dict[str, Json]]:
    """Versions and processor, of which equal bytes need equal kinds."""
    versions = {"metaselect": __version__, "python": platform.python_version(), **_library_versions()}
    return {"versions": versions, "processor": _processor(torch)}


def _processor(torch: Any) -> dict[str, Json]:
    """The kind of CPU, and the instructions of it that torch uses (None before torch is imported)."""
    instructions = None if torch is None else torch.backends.cpu.get_cpu_capability()
    return {"machine": platform.machine(), "cpu": _cpu_name(), "instructions": instructions}


def _cpu_name() -> str:
    """The name that the CPU gives itself; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _library_versions() -> dict[str, Json]:
    versions: dict[str, Json] = {}
    for name in ("torch", "torchvision", "numpy", "pyarrow", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
