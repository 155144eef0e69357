"""One stage of a run: whether its folder is up to date or damaged, which command made it, and how it is written.

A stage is written in ``RUN/.work/<stage>`` and moved to ``RUN/<stage>`` in one rename when it is complete. So a
finished folder is never half written, and old results stay until the new ones are complete. The work folder of an
interrupted command stays too: the same command finds its key there and resumes.
"""

import errno
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaselect import ranks
from metaselect.errors import ArtefactError, MetaSelectError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import ANNOTATE, EVALUATE, RECORD, REWEIGHT, SELECT, SKIPPED
from metaselect.run.environment import recorded_command, repeatable
from metaselect.run.files import Stamp, matches, naming, parse_json, sync_folder, write_json
from metaselect.run.key import EXTERNAL, GIVEN, StageKey, differences, differing_inputs, key_as_json
from metaselect.run.record import StageRecord, raw_record, read_record, remove_unrecorded, write_record
from metaselect.run.stage_names import folder_of, stage_of
from metaselect.run.unfinished import UNFINISHED_KEY, WORK


@dataclass
class Work:
    """A stage that is being written.

    Attributes:
        folder: where its files go.
        resumed: whether an interrupted command with the same key has left files there.
        details: facts for ``stage.json`` that the result does not depend on.
        unfinished: files and folders in it that an interrupted command goes on from; they are removed when all is done.
    """

    folder: Path
    resumed: bool
    details: dict[str, Json] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)


def run_flag(root: Path) -> str:
    """The flag ``--run`` for commands in messages, quoted for a shell."""
    return f"--run {shlex.quote(str(root))}"


class Stage:
    """A stage of a run, finished or not.

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
    def recompute_hint(self) -> str:
        """The remedy for a damaged stage, as the hint of an error."""
        if (
            self.kind == ANNOTATE.kind
        ):  # never recomputed; the next import completes what a crash left half done
            return f"Import the last answers again: metaselect {ANNOTATE.command} {run_flag(self.root)}"
        is_round = self.kind == SELECT.kind
        closed = " (a round that was exported or answered: restore it from a copy)" if is_round else ""
        return f"Recompute it: {self.command('--force')}{closed}"

    def command(self, *flags: str) -> str:
        """The command line that makes this stage, with the recorded options where there is a record."""
        command = f"metaselect {folder_of(self.name).command}"
        # A stage that was never finished is resumed by the command that began it.
        for path in (self.folder / RECORD, self.work_folder / UNFINISHED_KEY):
            try:
                recorded = repeatable(raw_record(path)["details"]["command"])
                if recorded.split()[1] == command.split()[1]:
                    command = recorded
                    break
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # no record, or a damaged one: the command without options
        return " ".join([command, *flags, run_flag(self.root)])

    def record(self) -> StageRecord | None:
        """The contents of ``stage.json``; None if the stage was never finished.

        Raises:
            ArtefactError: ``stage.json`` is damaged.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except ValueError as error:
            raise ArtefactError(f"{path} is damaged: {error}.", self.recompute_hint) from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path} is damaged: {error!r}.", self.recompute_hint) from None

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
        """Check that every output still has the bytes that were written.

        Args:
            thorough: hash every file; else only those whose size or time differs from the record.

        Raises:
            ArtefactError: an output is missing or its bytes changed.
        """
        for name, expected in self.require().outputs.items():
            self._check_output(name, expected, thorough=thorough)

    def verified(self, relative: str) -> str:
        """The recorded sha256 of an output (a path below the run), which is checked first.

        Raises:
            ArtefactError: the stage is not finished, or the file is missing, damaged or not an output.
        """
        outputs = self.require().outputs
        name = relative.removeprefix(f"{self.name}/")
        if name not in outputs:
            raise ArtefactError(f"{self.folder / RECORD} lists no {name}.", self.recompute_hint)
        self._check_output(name, outputs[name], thorough=False)
        return outputs[name].sha256

    def changed_inputs(self) -> list[str]:
        """Inputs within the run that differ from those that this stage was made from; none if it is unfinished."""
        record = self.record()
        if record is None:
            return []
        recorded = {
            p: digest for p, digest in record.key.inputs.items() if not p.startswith((EXTERNAL, GIVEN))
        }
        return differing_inputs(recorded, {path: _hash_now(self.root, path) for path in recorded})

    def _check_output(self, name: str, expected: Stamp, *, thorough: bool) -> None:
        path = self.folder / name
        if not path.is_file():
            raise ArtefactError(f"{path} is missing.", self.recompute_hint)
        if not matches(path, expected, thorough=thorough):
            raise ArtefactError(
                f"{path} is damaged: its bytes are not those that {self.name} wrote.", self.recompute_hint
            )

    def is_current(self, key: StageKey, report: Reporter, *, force: bool) -> bool:
        """Whether the stage was finished with this key already.

        It first completes a replacement of the folder that a crash interrupted. It gives a note where the stage is up
        to date, and where inputs within the run changed since; then, and always with ``force``, it returns False.

        Raises:
            ArtefactError: an option or the device changed, outside data changed, or an output is damaged.
        """
        ranks.by_first(self._complete_interrupted_replacement)
        record = None if force else self.record()
        if record is None:
            return False
        self.check()
        changed = differing_inputs(record.key.inputs, key.inputs)
        # With other inputs a rule may decide otherwise, which is no change of what the user asked for.
        automatic = set(record.key.auto) & set(key.auto) if changed else set()
        conflicts = differences(record.key, key, ignore=automatic)
        if conflicts:
            elsewhere = "--name or --run" if self.kind in (REWEIGHT.kind, EVALUATE.kind) else "--run"
            raise ArtefactError(
                f"{self.name} was run with other settings: {'; '.join(conflicts)}.",
                f"Add --force to recompute it, or use another {elsewhere}. On record: {self.command()}",
            )
        if changed:
            report.note(f"Recomputing {self.name}: {', '.join(changed)} changed since.")
            return False
        report.note(f"{self.name} is up to date.")
        return True

    @contextmanager
    def working(self, key: StageKey, report: Reporter) -> Iterator[Work]:
        """A context with a folder to write to, which becomes the stage's folder when the block ends without an error.

        Args:
            key: what the result depends on; files of an interrupted command are kept if its key is the same.
            report: takes the notes.
        """
        if self.folder.exists() and not self.folder.is_dir():  # not after hours of work
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.folder))
        work = Work(self.work_folder, self._same_key(key))
        ranks.by_first(lambda: self._open(key, report, resumed=work.resumed))
        started = time.monotonic()
        with naming(work.folder):
            try:
                yield work
            except MetaSelectError:  # refused: the same command would be too, and has nothing to go on with
                if ranks.is_first() and _files(work.folder) == {UNFINISHED_KEY}:
                    shutil.rmtree(work.folder)
                raise
        work.details["seconds"] = round(time.monotonic() - started, 3)
        if ranks.size() > 1:
            work.details["processes"] = ranks.size()
        ranks.by_first(lambda: self._close(key, work))

    def _open(self, key: StageKey, report: Reporter, *, resumed: bool) -> None:
        """Make the work folder, without the files of a command with another key."""
        folder = self.work_folder
        if folder.exists() and not resumed:
            if _files(folder) - {UNFINISHED_KEY, SKIPPED.within()}:  # else no work is lost
                report.note(f"An unfinished {self.name} had other options or inputs; starting again.")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            write_json(
                folder / UNFINISHED_KEY, {**key_as_json(key), "details": {"command": recorded_command()}}
            )

    def _close(self, key: StageKey, work: Work) -> None:
        """Move the complete work folder to the stage's place."""
        write_record(work.folder, key, work.details, leave=work.unfinished)
        self._replace_folder()

    def _same_key(self, key: StageKey) -> bool:
        path = self.work_folder / UNFINISHED_KEY
        if not path.is_file():
            return False
        try:
            unfinished = parse_json(path)
        except ValueError:
            return False
        # Through JSON, so that tuples compare equal to the lists that were read.
        wanted: dict[str, Any] = json.loads(json.dumps(key_as_json(key)))
        return isinstance(unfinished, dict) and wanted.items() <= unfinished.items()

    def _replace_folder(self) -> None:
        """Move the work folder to the stage's place, by renames that survive a crash between any two of them."""
        retired = self.work_folder.with_name(f"{self.work_folder.name}.old")
        # Not before all is recorded: until then the same command goes on from what is removed here.
        remove_unrecorded(self.work_folder)
        shutil.rmtree(retired, ignore_errors=True)  # left by a crash after the second rename
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            self.folder.rename(retired)  # not deleted until the new one is in place
        self.work_folder.rename(self.folder)
        sync_folder(self.folder.parent)
        shutil.rmtree(retired, ignore_errors=True)

    def _complete_interrupted_replacement(self) -> None:
        """Repeat ``_replace_folder`` if a crash came before its last rename: the work folder has a record then."""
        if (self.work_folder / RECORD).is_file():
            self._replace_folder()


def dry_run_outcome(stage: Stage, key: StageKey, needs: dict[str, Json]) -> Outcome:
    """The outcome of --dry-run: what the stage would do; nothing was written.

    Args:
        stage: the stage that would run.
        key: its resolved options and inputs.
        needs: sizes, in MiB.
    """
    return Outcome(
        {"run": str(stage.root), "stage": stage.name, "options": dict(key.options), "needs": needs}
    )


def _files(folder: Path) -> set[str]:
    """Names of the files in a folder and below."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


def _hash_now(root: Path, path: str) -> str:
    """The recorded hash of an input; "gone" if its stage is not there or no longer makes the file."""
    stage = Stage(root, stage_of(path))
    record = stage.record()
    made = record is not None and path.removeprefix(f"{stage.name}/") in record.outputs
    return stage.verified(path) if made else "gone"
