"""One stage's folder: is it current, was it damaged, what made it, and how it comes into being.

A stage works in ``RUN/.work/<stage>`` and is moved to ``RUN/<stage>`` in one rename when it is complete, so a
finished folder is never half written and old results stay until new ones are whole. The work folder of a
killed command stays too; the same command finds its key there and goes on.
"""

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaselect.errors import ArtefactError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    ANNOTATE,
    EVALUATE,
    RECORD,
    REWEIGHT,
    SELECT,
    UNFINISHED_KEY,
    WORK,
    folder_of,
    stage_of,
)
from metaselect.run.environment import recorded_command, repeatable
from metaselect.run.files import Stamp, matches, sync_folder, write_json
from metaselect.run.key import EXTERNAL, GIVEN, StageKey, differences, moved_inputs, plain
from metaselect.run.record import StageRecord, raw_record, read_record, write_record


@dataclass
class Work:
    """An unfinished stage: write everything below ``folder``; ``details`` go to ``stage.json``."""

    folder: Path
    resumed: bool
    details: dict[str, Json] = field(default_factory=dict)


def run_flag(root: Path) -> str:
    """``--run`` as a command in a message gives it, fit to be pasted into a shell."""
    return f"--run {shlex.quote(str(root))}"


class Stage:
    """A stage of a run, done or not.

    Args:
        root: of the run.
        name: the stage's folder below it: "data", "select/round-1", "reweight/<name>", ...
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.folder = root / name
        self.work_folder = root / WORK / name

    @property
    def kind(self) -> str:
        """Its kind: "select" of "select/round-1"."""
        return folder_of(self.name).kind

    @property
    def redo(self) -> str:
        """How to make this stage anew, as a hint."""
        if self.kind == ANNOTATE.kind:  # it only grows; its next import completes what a crash left half done
            return f"Import the last answers again: metaselect {ANNOTATE.command} {run_flag(self.root)}"
        is_round = self.kind == SELECT.kind
        closed = " (a round that was exported or answered: restore it from a copy)" if is_round else ""
        return f"Recompute it: {self.command('--force')}{closed}"

    def command(self, *flags: str) -> str:
        """The command that makes this stage here: with its own options where they are on record."""
        command = f"metaselect {folder_of(self.name).command}"
        for path in (self.folder / RECORD, self.work_folder / UNFINISHED_KEY):
            try:
                recorded = repeatable(raw_record(path)["details"]["command"])
                if recorded.split()[1] == command.split()[1]:
                    command = recorded
                    break
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # not there, or damaged: only the kind is known
        return " ".join([command, *flags, run_flag(self.root)])

    def record(self) -> StageRecord | None:
        """What ``stage.json`` says; None when the stage was never finished.

        Raises:
            ArtefactError: ``stage.json`` cannot be understood.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ArtefactError(f"{path} is damaged: {error}.", self.redo) from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path} is damaged: {error!r}.", self.redo) from None

    def require(self) -> StageRecord:
        """The record of a finished stage.

        Raises:
            ArtefactError: not done yet; the hint is the command that does it.
        """
        record = self.record()
        if record is None:
            raise ArtefactError(
                f"{self.folder} is not there: {self.name} has not been run.",
                f"First run: metaselect {folder_of(self.name).command} {run_flag(self.root)}",
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
            raise ArtefactError(f"{self.folder / RECORD} lists no {name}.", self.redo)
        self._check_output(name, outputs[name], thorough=False)
        return outputs[name].sha256

    def moved(self) -> list[str]:
        """Inputs within the run that are no longer what this stage, if it is done, was made from."""
        record = self.record()
        if record is None:
            return []
        then = {p: digest for p, digest in record.key.inputs.items() if not p.startswith((EXTERNAL, GIVEN))}
        return moved_inputs(then, {path: _hash_now(self.root, path) for path in then})

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
            elsewhere = "--name or --run" if self.kind in (REWEIGHT.kind, EVALUATE.kind) else "--run"
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
            if (folder / UNFINISHED_KEY).is_file():
                report.note(f"An unfinished {self.name} had other options or inputs; starting again.")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            write_json(folder / UNFINISHED_KEY, {**plain(key), "details": {"command": recorded_command()}})
        work = Work(folder, resumed)
        started = time.monotonic()
        yield work
        for leftover in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        work.details["seconds"] = round(time.monotonic() - started, 3)
        write_record(folder, key, work.details)
        self._swap()

    def _same_key(self, key: StageKey) -> bool:
        path = self.work_folder / UNFINISHED_KEY
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
        (self.work_folder / UNFINISHED_KEY).unlink(missing_ok=True)
        shutil.rmtree(retired, ignore_errors=True)  # of a process that died behind the second rename
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            self.folder.rename(retired)
        self.work_folder.rename(self.folder)
        sync_folder(self.folder.parent)
        shutil.rmtree(retired, ignore_errors=True)

    def _settle_interrupted_swap(self) -> None:
        """Finish what a process that died in ``_swap`` had begun: its work is complete."""
        if (self.work_folder / RECORD).is_file():
            self._swap()


def dry_run_outcome(stage: Stage, key: StageKey, needs: dict[str, Json]) -> Outcome:
    """What a stage would do, for --dry-run; nothing was written.

    Args:
        stage: that would run.
        key: its resolved options and inputs.
        needs: sizes, in MiB.
    """
    return Outcome(
        {"run": str(stage.root), "stage": stage.name, "options": dict(key.options), "needs": needs}
    )


def _hash_now(root: Path, path: str) -> str:
    """The recorded hash of an input, or a word where its stage is gone or makes no such file any more."""
    stage = Stage(root, stage_of(path))
    record = stage.record()
    made = record is not None and path.removeprefix(f"{stage.name}/") in record.outputs
    return stage.verified(path) if made else "gone"
