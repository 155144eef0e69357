"""Everything in ``annotate/``: reading it, adding votes, exports and repeats, undoing imports, removing rounds.

Unlike other stages this one is never recomputed; it only grows. ``meta_set.csv`` and ``stage.json`` follow from
``votes.csv``, so that the next command that writes here repairs what a crash left: the recorded bytes must still be the
beginning of the vote file, and what stands behind them was not recorded yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from metaselect.annotation.consensus import (
    MAJORITY,
    Verdict,
    aggregate_votes,
    latest_votes,
    meta_set_text,
    read_consensus_method,
)
from metaselect.annotation.exports import (
    Export,
    ExportedSample,
    read_exports,
    remove_exports,
    write_batch_once,
    write_exports,
)
from metaselect.annotation.imports import Import, Source, next_import, read_imports, write_imports
from metaselect.annotation.ledger_record import (
    CONSENSUS,
    EXPORTS,
    IMPORTS,
    META_SET,
    REPEATS,
    STAGE,
    VOTES,
    DerivedContent,
    check_growing_files,
    check_meta_set,
    is_recorded,
    write_derived,
)
from metaselect.annotation.repeats import Repeat, counting_votes, read_repeats, write_repeats
from metaselect.annotation.undo import (
    UndoResult,
    find_import_to_undo,
    next_undo,
    result_of_undo,
    undo_of,
    votes_that_undo,
    without_round,
)
from metaselect.annotation.votes import Vote, append_votes, read_votes
from metaselect.run import artefacts
from metaselect.run.files import write_text
from metaselect.run.layout import Run
from metaselect.run.tables import format_rows


@dataclass(frozen=True)
class Ledger:
    """The content of ``annotate/``.

    Attributes:
        votes: oldest first.
        end: byte of ``votes.csv`` behind the last whole vote.
        exports: every exported form, oldest first.
        imports: by number, undos too.
        method: how votes become a consensus.
        repeats: samples that forms showed twice.
    """

    votes: tuple[Vote, ...]
    end: int
    exports: tuple[Export, ...]
    imports: tuple[Import, ...] = ()
    method: str = MAJORITY
    repeats: tuple[Repeat, ...] = ()

    @cached_property
    def latest_with_repeats(self) -> dict[tuple[str, str], Vote]:
        """The last vote, by (id that the form showed, annotator); those for blind repeats too."""
        return latest_votes(self.votes)

    @cached_property
    def latest(self) -> dict[tuple[str, str], Vote]:
        """The vote that counts, by (sample_id, annotator)."""
        return counting_votes(self.latest_with_repeats, self.sample_of_repeat)

    @cached_property
    def sample_of_repeat(self) -> Mapping[str, str]:
        """The sample of each blind repeat, by the id of the repeat."""
        return {each.repeat_id: each.sample_id for each in self.repeats}

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By sample_id, in its order."""
        return aggregate_votes(self.latest, self.method)

    @property
    def exported_rounds(self) -> frozenset[int]:
        """Numbers of the rounds that were exported."""
        return frozenset(each.round for each in self.exports)


def read_ledger(run: Run) -> Ledger:
    """The content of the folder; changes nothing.

    Raises:
        ArtefactError: a file was changed by anything but MetaSelect.
    """
    folder = run.path(STAGE)
    record = run.stage(STAGE).record()
    if record is not None:
        check_growing_files(folder, record)
    votes, end = read_votes(folder / VOTES)
    imports = read_imports(folder / IMPORTS)
    exports = read_exports(folder / EXPORTS)
    repeats = read_repeats(folder / REPEATS)
    ledger = Ledger(tuple(votes), end, exports, imports, read_consensus_method(folder / CONSENSUS), repeats)
    if record is not None:
        check_meta_set(folder / META_SET, record, lambda: meta_set_text(ledger.verdicts))
    return ledger


def open_ledger(run: Run) -> Ledger:
    """The content of the folder, for a command that writes: an undo that a crash interrupted is completed first.

    Raises:
        ArtefactError: as ``read_ledger``.
    """
    ledger = read_ledger(run)
    return _append_pending_undo(run, ledger) if _pending_undo(run, ledger) else ledger


def add_votes(run: Run, ledger: Ledger, votes: Iterable[Vote], source: Source | None = None) -> Ledger:
    """Append votes, derive the meta set and record both; without new votes it only repairs what a crash left."""
    added = tuple(votes)
    if added and source is not None:
        # The row comes first: after a crash here the import has no votes, and no vote lacks an import. The same import
        # then takes the row over.
        row = next_import(ledger.imports, source, len(ledger.votes))
        if not (ledger.imports and row.equals_but_for_time(ledger.imports[-1])):
            ledger = _add_import(run, ledger, row)
    ledger = _append(run, ledger, added)
    write_meta_set_and_record(run, ledger)
    return ledger


def undo_import(run: Run, number: int | None, time: str) -> tuple[Ledger, UndoResult, bool]:
    """Undo an import by more votes: what counted before it counts again; nothing is deleted.

    Called again, also after a crash at any moment, it changes nothing more.

    Args:
        run: locked.
        number: of the import; None is the latest one.
        time: of the votes that this appends.

    Returns:
        The ledger, the effect, and whether an earlier call had undone the import.

    Raises:
        UsageError: there is no such import.
        ArtefactError: as ``read_ledger``.
    """
    ledger = open_ledger(run)
    row = find_import_to_undo(ledger.imports, number, len(ledger.votes))
    earlier = undo_of(ledger.imports, row.number)
    undo = earlier or next_undo(ledger.imports, row.number, time, len(ledger.votes))
    if earlier is None:
        ledger = _append_pending_undo(run, _add_import(run, ledger, undo))
    write_meta_set_and_record(run, ledger)
    return ledger, result_of_undo(ledger.votes, ledger.imports, undo), earlier is not None


def add_repeats(run: Run, ledger: Ledger, repeats: Iterable[Repeat]) -> Ledger:
    """Record the blind repeats of a form; called before the form is written."""
    new = [each for each in repeats if each not in ledger.repeats]
    if not new:
        return ledger
    ledger = replace(ledger, repeats=(*ledger.repeats, *new))
    write_repeats(run.path(f"{STAGE}/{REPEATS}"), ledger.repeats)
    return ledger


def add_export(run: Run, ledger: Ledger, export: Export, samples: Sequence[ExportedSample]) -> None:
    """Record an exported form; ``samples`` is its whole batch, listed at the first export."""
    folder = run.path(STAGE)
    write_batch_once(folder, export.batch_id, samples)
    if not any(export.equals_but_for_time(earlier) for earlier in ledger.exports):
        ledger = replace(ledger, exports=(*ledger.exports, export))
        write_exports(folder / EXPORTS, ledger.exports)
    write_meta_set_and_record(run, ledger)


def remove_round(run: Run, number: int) -> int:
    """Remove a round's votes and exports, for `select --discard-round`; returns how many votes were removed.

    The caller holds the run's lock. After a crash, the same call completes the removal.
    """
    ledger = read_ledger(run)
    folder = run.path(STAGE)
    if not any(vote.round == number for vote in ledger.votes) and number not in ledger.exported_rounds:
        return 0
    kept, imports = without_round(ledger.votes, ledger.imports, number)
    # Without the record the files are taken as they are, so a crash below leaves nothing that looks damaged.
    for name in (artefacts.RECORD, META_SET):
        (folder / name).unlink(missing_ok=True)
    (folder / IMPORTS).unlink(missing_ok=True)  # its positions must never stand beside other votes
    remove_exports(folder, ledger.exports, number)
    if kept:  # votes of other rounds, or of none
        write_text(folder / VOTES, format_rows(artefacts.VOTES, kept))
        write_imports(folder / IMPORTS, imports)
        write_meta_set_and_record(run, read_ledger(run))
    else:
        (folder / VOTES).unlink(missing_ok=True)
    return sum(vote.round == number for vote in ledger.votes)


def _add_import(run: Run, ledger: Ledger, row: Import) -> Ledger:
    imports = (*ledger.imports, row)
    write_imports(run.path(f"{STAGE}/{IMPORTS}"), imports)
    return replace(ledger, imports=imports)


def _append_pending_undo(run: Run, ledger: Ledger) -> Ledger:
    """Append the votes that the undo in the last row of the imports still lacks."""
    return _append(run, ledger, votes_that_undo(ledger.votes, ledger.imports))


def _append(run: Run, ledger: Ledger, votes: Iterable[Vote]) -> Ledger:
    added = tuple(votes)
    if not added:
        return ledger
    path = run.path(f"{STAGE}/{VOTES}")
    append_votes(path, added, ledger.end)  # flushed to disk
    return replace(ledger, votes=(*ledger.votes, *added), end=path.stat().st_size)


def write_meta_set_and_record(run: Run, ledger: Ledger) -> None:
    """Make ``meta_set.csv`` and ``stage.json`` follow from the votes; writes only what differs."""
    if not ledger.votes:
        return
    path = run.path(f"{STAGE}/{VOTES}")
    if path.stat().st_size > ledger.end:
        append_votes(path, (), ledger.end)  # a torn line must not be recorded
    rounds = sorted({vote.round for vote in ledger.votes} - {0})
    text = meta_set_text(ledger.verdicts)
    write_derived(run, DerivedContent(len(ledger.votes), rounds, [text.encode()]))


def _pending_undo(run: Run, ledger: Ledger) -> int:
    """Number of the import whose undo a crash interrupted; 0 where there is none."""
    last = ledger.imports[-1].undoes if ledger.imports else 0
    if not last:
        return 0
    record = run.stage(STAGE).record()
    return 0 if record is not None and is_recorded(run.path(STAGE), record) else last
