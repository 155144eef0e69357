"""What a stage's result follows from, and how two such keys differ."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from metaselect.records import Json

EXTERNAL = "external:"
"""Prefix of an input that lies outside the run and must not change; its value is a fingerprint."""
GIVEN = "given:"
"""Prefix of a file outside the run that may come later: the stage is then recomputed; it must not change."""


@dataclass(frozen=True)
class StageKey:
    """What a stage's result follows from; two equal keys give the same bytes on the same machine.

    Attributes:
        options: resolved options that bear on the result.
        inputs: path below the run (or ``external:name``) -> sha256.
        device: a device type of PyTorch, such as "cuda"; empty where it makes no difference.
        auto: names of options that were left to a rule; what it comes to may change with the inputs.
    """

    options: Mapping[str, Json]
    inputs: Mapping[str, str]
    device: str = ""
    auto: tuple[str, ...] = ()


def differences(old: StageKey, new: StageKey, *, ignore: Collection[str] = ()) -> list[str]:
    """What differs in options, device and outside data, one phrase each: "epochs: 10 -> 20"."""
    names = sorted((set(old.options) | set(new.options)) - set(ignore))
    changed = [
        phrase for name in names for phrase in _changes(name, old.options.get(name), new.options.get(name))
    ]
    if old.device != new.device:
        changed.append(f"device: {old.device} -> {new.device}")
    for name in sorted(set(old.inputs) | set(new.inputs)):
        came = name.startswith(GIVEN) and name not in old.inputs
        if name.startswith((EXTERNAL, GIVEN)) and not came and old.inputs.get(name) != new.inputs.get(name):
            gone = name.startswith(GIVEN) and name not in new.inputs
            changed.append(f"{name.partition(':')[2]} {'was given before' if gone else 'is other data'}")
    return changed


def _changes(name: str, old: Json, new: Json) -> list[str]:
    """One phrase for a value that differs; of two mappings, one for each of their values that does."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [phrase for key in keys for phrase in _changes(f"{name} {key}", old.get(key), new.get(key))]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]


def moved_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Inputs within the run whose content is not what it was, and files that were given only now or only then."""
    within = {name for name in {*old, *new} if not name.startswith((EXTERNAL, GIVEN))}
    moved = sorted(name for name in within if old.get(name) != new.get(name))
    return moved + sorted(
        name.removeprefix(GIVEN) for name in new.keys() - old.keys() if name.startswith(GIVEN)
    )


def plain(key: StageKey) -> dict[str, Json]:
    """The key as JSON values, for ``stage.json``."""
    return {
        "options": dict(key.options),
        "auto": list(key.auto),
        "inputs": dict(key.inputs),
        "device": key.device,
    }
