"""One stage's folder: is it current, was it damaged, what made it, and how it comes into being.

A stage works in ``RUN/.work/<stage>`` and is moved to ``RUN/<stage>`` in one rename when it is complete, so a
finished folder is never half written and old results stay until new ones are whole. The work folder of a
killed command stays too; the same command finds its key there and goes on.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metaselect.errors import ArtefactError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.environment import environment, recorded_command, repeatable
from metaselect.run.files import Stamp, matches, read_json, stamp, sync_folder, write_json
from metaselect.run.key import EXTERNAL, GIVEN, StageKey, differences, moved_inputs, plain
from metaselect.run.layout import LAYOUT_VERSION, Run

COMMANDS = {"data": "ingest DATA", "annotate": "annotate import FILE", "evaluate": "evaluate TEST"}
"""Commands that make a stage, where they are not called as it is."""


@dataclass(frozen=True)
class StageRecord:
    """``stage.json``: the key, the outputs' stamps, and circumstances that bear on nothing."""

    key: StageKey
    outputs: Mapping[str, Stamp]
    details: Mapping[str, Any]


@dataclass
class Work:
    """An unfinished stage: write everything below ``folder``; ``details`` go to ``stage.json``."""

    folder: Path
    resumed: bool
    details: dict[str, Json] = field(default_factory=dict)


def stage_of(relative: str) -> str:
    """The stage that a path below the run belongs to: "select/round-1/selected.csv" -> "select/round-1"."""
    parts = relative.split("/")
    return "/".join(parts[:2]) if parts[0] in ("select", "reweight", "evaluate") else parts[0]


class Stage:
    """A stage of a run, done or not."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.folder = run.path(name)
        self.work_folder = run.path(f".work/{name}")

    @property
    def redo(self) -> str:
        """How to make this stage anew, as a hint."""
        kind = self.name.split("/")[0]
        if kind == "annotate":  # grows only; its next import mends what a crash left, and refuses the rest
            return f"Import the last answers again: metaselect annotate import FILE {self.run.flag}"
        closed = (
            " (a round that was exported or answered: restore it from a copy)" if kind == "select" else ""
        )
        return f"Recompute it: {self.command('--force')}{closed}"

    def command(self, *flags: str) -> str:
        """The command that makes this stage here: with its own options where they are on record."""
        kind = self.name.split("/")[0]
        command = f"metaselect {COMMANDS.get(kind, kind)}"
        for path in (self.folder / "stage.json", self.work_folder / "key.json"):
            try:
                found = repeatable(json.loads(path.read_text(encoding="utf-8"))["details"]["command"])
                if found.split()[1] == command.split()[1]:
                    command = found
                    break
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # not there, or damaged: only the kind is known
        return " ".join([command, *flags, self.run.flag])

    def record(self) -> StageRecord | None:
        """What ``stage.json`` says; None when the stage was never finished.

        Raises:
            ArtefactError: ``stage.json`` cannot be understood.
        """
        path = self.folder / "stage.json"
        if not path.is_file():
            return None
        raw = read_json(path, self.redo)
        try:
            key = StageKey(raw["options"], raw["inputs"], raw["device"], tuple(raw["auto"]))
            outputs = {name: Stamp(**value) for name, value in raw["outputs"].items()}
            return StageRecord(key, outputs, raw["details"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path} is damaged: {error!r}.", self.redo) from None

    def require(self) -> StageRecord:
        """The record of a finished stage.

        Raises:
            ArtefactError: not done yet; the hint is the command that does it.
        """
        record = self.record()
        if record is None:
            kind = self.name.split("/")[0]
            raise ArtefactError(
                f"{self.folder} is not there: {self.name} has not been run.",
                f"First run: metaselect {COMMANDS.get(kind, kind)} {self.run.flag}",
            )
        return record

    def check(self, *, thorough: bool = False) -> None:
        """Make sure that every output still is what was written.

        Raises:
            ArtefactError: an output is missing or its bytes changed.
        """
        for name, expected in self.require().outputs.items():
            self._check_output(name, expected, thorough=thorough)

    def verified(self, relative: str) -> str:
        """The sha256 of one of this stage's outputs, after making sure that it is undamaged."""
        outputs = self.require().outputs
        name = relative.removeprefix(f"{self.name}/")
        if name not in outputs:
            raise ArtefactError(f"{self.folder / 'stage.json'} knows no {name}.", self.redo)
        self._check_output(name, outputs[name], thorough=False)
        return outputs[name].sha256

    def moved(self) -> list[str]:
        """Inputs within the run that are no longer what this stage, if it is done, was made from."""
        record = self.record()
        if record is None:
            return []
        then = {p: digest for p, digest in record.key.inputs.items() if not p.startswith((EXTERNAL, GIVEN))}
        return moved_inputs(then, {path: _hash_now(self.run, path) for path in then})

    def _check_output(self, name: str, expected: Stamp, *, thorough: bool) -> None:
        path = self.folder / name
        if not path.is_file():
            raise ArtefactError(f"{path} is missing.", self.redo)
        if not matches(path, expected, thorough=thorough):
            raise ArtefactError(
                f"{path} is damaged: its bytes are not those that {self.name} wrote.", self.redo
            )

    def is_current(self, key: StageKey, report: Reporter, *, force: bool) -> bool:
        """Whether the stage was already done with this key.

        Inputs that MetaSelect's own commands moved forward make it False, with a note. ``force`` makes it
        False too.

        Raises:
            ArtefactError: an option or the device changed, outside data changed, or an output is damaged.
        """
        self._settle_interrupted_swap()
        record = None if force else self.record()
        if record is None:
            return False
        self.check()
        moved = moved_inputs(record.key.inputs, key.inputs)
        followed = set(record.key.auto) & set(key.auto) if moved else set()
        changes = differences(record.key, key, ignore=followed)
        if changes:
            elsewhere = "--name or --run" if self.name.startswith(("reweight/", "evaluate/")) else "--run"
            raise ArtefactError(
                f"{self.name} was run with other settings: {'; '.join(changes)}.",
                f"Add --force to recompute it, or use another {elsewhere}. On record: {self.command()}",
            )
        if moved:
            report.note(f"Recomputing {self.name}: {', '.join(moved)} changed since.")
            return False
        report.note(f"{self.name} is up to date.")
        return True

    @contextmanager
    def working(self, key: StageKey, report: Reporter) -> Iterator[Work]:
        """A folder to work in; when the block ends well, it becomes the stage's folder in one rename."""
        folder = self.work_folder
        resumed = self._same_key(key)
        if folder.exists() and not resumed:
            if (folder / "key.json").is_file():
                report.note(f"An unfinished {self.name} had other options or inputs; starting again.")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            write_json(folder / "key.json", {**plain(key), "details": {"command": recorded_command()}})
        work = Work(folder, resumed)
        started = time.monotonic()
        yield work
        for leftover in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        work.details["seconds"] = round(time.monotonic() - started, 3)
        write_record(folder, key, work.details)
        self._swap()

    def _same_key(self, key: StageKey) -> bool:
        path = self.work_folder / "key.json"
        if not path.is_file():
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return False
        wanted: dict[str, Any] = json.loads(json.dumps(plain(key)))
        return all(found.get(name) == value for name, value in wanted.items())

    def _swap(self) -> None:
        retired = self.work_folder.with_name(f"{self.work_folder.name}.old")
        (self.work_folder / "key.json").unlink(missing_ok=True)
        shutil.rmtree(retired, ignore_errors=True)  # of a process that died behind the second rename
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            self.folder.rename(retired)
        self.work_folder.rename(self.folder)
        sync_folder(self.folder.parent)
        shutil.rmtree(retired, ignore_errors=True)

    def _settle_interrupted_swap(self) -> None:
        """Finish what a process that died in ``_swap`` had begun: its work is complete."""
        if (self.work_folder / "stage.json").is_file():
            self._swap()


def dry_run_outcome(stage: Stage, key: StageKey, needs: dict[str, Json]) -> Outcome:
    """What a stage would do, for --dry-run; nothing was written.

    Args:
        stage: that would run.
        key: its resolved options and inputs.
        needs: sizes, in MiB.
    """
    return Outcome(
        {"run": str(stage.run.root), "stage": stage.name, "options": dict(key.options), "needs": needs}
    )


def _hash_now(run: Run, path: str) -> str:
    """The recorded hash of an input, or a word where its stage is gone or makes no such file any more."""
    stage = run.stage(stage_of(path))
    record = stage.record()
    made = record is not None and path.removeprefix(f"{stage.name}/") in record.outputs
    return stage.verified(path) if made else "gone"


def inputs_of(run: Run, *relative: str, stale_ok: bool = False) -> dict[str, str]:
    """Hashes of the run's files that a stage reads.

    Args:
        run: the run.
        relative: paths below it.
        stale_ok: take what a stale stage wrote.

    Raises:
        ArtefactError: one is missing or damaged, or the stage that wrote it is stale itself.
    """
    for name in sorted({stage_of(path) for path in relative}):
        moved = [] if stale_ok else run.stage(name).moved()
        if moved:
            raise ArtefactError(
                f"{name} is stale: {', '.join(moved)} changed since.",
                f"First run: {run.stage(name).command()}",
            )
    return {path: run.stage(stage_of(path)).verified(path) for path in relative}


def write_record(
    folder: Path, key: StageKey, details: Mapping[str, Json], *, known: Mapping[str, Stamp] | None = None
) -> None:
    """Write ``stage.json`` with the stamps of every file below ``folder``.

    Args:
        folder: of the stage.
        key: what its result follows from.
        details: facts about this run of the stage.
        known: stamps by path below ``folder``, of files that need not be hashed again.
    """
    known = known or {}
    outputs: dict[str, Json] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("stage.json", "key.json"):
            name = path.relative_to(folder).as_posix()
            outputs[name] = asdict(known[name] if name in known else stamp(path))
    write_json(
        folder / "stage.json",
        {
            "layout_version": LAYOUT_VERSION,
            **plain(key),
            "outputs": outputs,
            "details": {**details, **environment()},
        },
    )
