"""The log of unexpected errors: ``log.txt`` in the run directory, if the command names one."""

import os
import traceback
from collections.abc import Sequence
from pathlib import Path


def log_traceback(words: Sequence[str]) -> Path | None:
    """Append the current traceback to the run's log; returns its path, or None without a run directory."""
    root = os.environ.get("METASELECT_RUN", "")
    for position, word in enumerate(words):
        if word == "--run" and position + 1 < len(words):
            root = words[position + 1]
        elif word.startswith("--run="):
            root = word.removeprefix("--run=")
    if not root or not Path(root).is_dir():
        return None
    path = Path(root) / "log.txt"
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"metaselect {' '.join(words)}\n{traceback.format_exc()}\n")
    except OSError:
        return None
    return path
