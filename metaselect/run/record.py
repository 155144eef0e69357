"""``stage.json``: what a finished stage was made from, and the stamps of what it wrote."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from metaselect.records import Json
from metaselect.run.artefacts import LAYOUT_VERSION, RECORD
from metaselect.run.environment import environment
from metaselect.run.files import Stamp, parse_json, stamp, write_json
from metaselect.run.key import StageKey, key_as_json
from metaselect.run.memo import FileMemo
from metaselect.run.unfinished import UNFINISHED_KEY

KINDS = {"options": dict, "inputs": dict, "device": str, "auto": list, "outputs": dict, "details": dict}
"""Types of what a ``stage.json`` holds."""


@dataclass(frozen=True)
class StageRecord:
    """``stage.json``: the key, the outputs' stamps, and circumstances that bear on nothing."""

    key: StageKey
    outputs: Mapping[str, Stamp]
    details: Mapping[str, Any]


def write_record(
    folder: Path,
    key: StageKey,
    details: Mapping[str, Json],
    *,
    known: Mapping[str, Stamp] | None = None,
    leave: Collection[str] = (),
) -> None:
    """Write ``stage.json`` with the stamps of every file below ``folder``, without temporary ones of killed processes.

    Args:
        folder: of the stage.
        key: what its result follows from.
        details: facts about this run of the stage.
        known: stamps by path below ``folder``, of files that need not be hashed again.
        leave: files and folders below it that are not of the result.
    """
    known = known or {}
    outputs: dict[str, Json] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # Hidden are our own temporary files, and those of safetensors (.tmpAbC123).
        other = path.name in (RECORD, UNFINISHED_KEY) or path.name.startswith(".")
        if path.is_file() and not other and not any(f"{name}/".startswith(f"{each}/") for each in leave):
            outputs[name] = asdict(known[name] if name in known else stamp(path))
    write_json(
        folder / RECORD,
        {
            "layout_version": LAYOUT_VERSION,
            **key_as_json(key),
            "outputs": outputs,
            "details": {**details, **environment()},
        },
    )


def remove_unrecorded(folder: Path) -> None:
    """Remove every file below ``folder`` that its ``stage.json`` does not name, and what folders are empty then."""
    kept = {folder / name for name in (RECORD, *parse_json(folder / RECORD)["outputs"])}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept:
            path.unlink()


raw_record = FileMemo(parse_json)
"""The JSON of a ``stage.json`` or ``key.json``."""


def _read_record(path: Path) -> StageRecord:
    raw = raw_record(path)
    for name, kind in KINDS.items():
        if not isinstance(raw[name], kind):
            raise TypeError(f"{name} is a {type(raw[name]).__name__}")
    if not all(isinstance(value, str) for value in (*raw["inputs"].values(), *raw["auto"])):
        raise TypeError("inputs or auto hold something else than texts")
    key = StageKey(raw["options"], raw["inputs"], raw["device"], tuple(raw["auto"]))
    outputs = {name: _stamp(name, value) for name, value in raw["outputs"].items()}
    return StageRecord(key, outputs, raw["details"])


def _stamp(name: str, value: dict[str, Any]) -> Stamp:
    """The stamp of an output; KeyError for a path that leaves the stage's folder, TypeError for other fields."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise KeyError(name)
    found = Stamp(**value)
    if not isinstance(found.sha256, str) or not all(isinstance(each, int) for each in astuple(found)[1:]):
        raise TypeError(f"the stamp of {name}")
    return found


read_record = FileMemo(_read_record)
"""The record in a file; a command asks for some a hundred times. A damaged one raises ValueError or KeyError."""
