"""Where the traceback of an unexpected error goes: ``log.txt`` in the run, if the command names one."""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path


def log_traceback(given: Sequence[str]) -> Path | None:
    """Append the current traceback to the run's log; returns where, or None without a run directory."""
    root = os.environ.get("METASELECT_RUN", "")
    for position, word in enumerate(given):
        if word == "--run" and position + 1 < len(given):
            root = given[position + 1]
        elif word.startswith("--run="):
            root = word.removeprefix("--run=")
    if not root or not Path(root).is_dir():
        return None
    path = Path(root) / "log.txt"
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"metaselect {' '.join(given)}\n{traceback.format_exc()}\n")
    except OSError:
        return None
    return path
