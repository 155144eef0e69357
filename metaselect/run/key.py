"""The key of a stage: everything that its result depends on, and how two keys differ."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from metaselect.records import Json

EXTERNAL = "external:"
"""Prefix of an input outside the run, such as the data set; it must not change. Its value is a fingerprint."""
GIVEN = "given:"
"""Prefix of an optional file outside the run: given later, the stage is recomputed; once given, it must not change."""


@dataclass(frozen=True)
class StageKey:
    """Everything that a stage's result depends on; equal keys give equal bytes on the same machine.

    Attributes:
        options: the options that change the result, with every default resolved.
        inputs: path below the run (or ``external:name``) -> sha256.
        device: a device type of PyTorch, such as "cuda"; empty where it makes no difference.
        auto: names of the options that a rule decided; their values may change with the inputs.
    """

    options: Mapping[str, Json]
    inputs: Mapping[str, str]
    device: str = ""
    auto: tuple[str, ...] = ()


def differences(old: StageKey, new: StageKey, *, ignore: Collection[str] = ()) -> list[str]:
    """The differences in options, device and outside data, one phrase each: "epochs: 10 -> 20".

    Args:
        old: the recorded key.
        new: the key of this command.
        ignore: names of options that may differ.
    """
    names = sorted((set(old.options) | set(new.options)) - set(ignore))
    changed = [
        phrase for name in names for phrase in _changes(name, old.options.get(name), new.options.get(name))
    ]
    if old.device != new.device:
        changed.append(f"device: {old.device} -> {new.device}")
    for name in sorted(set(old.inputs) | set(new.inputs)):
        added = name.startswith(GIVEN) and name not in old.inputs  # makes the stage stale, and is no conflict
        if name.startswith((EXTERNAL, GIVEN)) and not added and old.inputs.get(name) != new.inputs.get(name):
            removed = name.startswith(GIVEN) and name not in new.inputs
            changed.append(f"{name.partition(':')[2]} {'was given before' if removed else 'is other data'}")
    return changed


def _changes(name: str, old: Json, new: Json) -> list[str]:
    """A phrase for a value that differs; for two mappings, one for each differing value in them."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [phrase for key in keys for phrase in _changes(f"{name} {key}", old.get(key), new.get(key))]
    return [] if old == new else [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]


def differing_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Inputs within the run whose hash differs, and optional files that were given since."""
    within = {name for name in {*old, *new} if not name.startswith((EXTERNAL, GIVEN))}
    moved = sorted(name for name in within if old.get(name) != new.get(name))
    return moved + sorted(
        name.removeprefix(GIVEN) for name in new.keys() - old.keys() if name.startswith(GIVEN)
    )


def key_as_json(key: StageKey) -> dict[str, Json]:
    """The key as JSON values, for ``stage.json``."""
    return {
        "options": dict(key.options),
        "auto": list(key.auto),
        "inputs": dict(key.inputs),
        "device": key.device,
    }
