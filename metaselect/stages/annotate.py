"""The `annotate` stage: labels go out to people and come back. Never imports torch."""

import gc
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from metaselect.annotation import ledger
from metaselect.annotation.control import noise_estimate
from metaselect.annotation.csv_format import read_truth
from metaselect.annotation.formats import Answer, Item, load_format
from metaselect.annotation.forms import form_path, write_form
from metaselect.annotation.html_format import HtmlFormat
from metaselect.annotation.page import data_uri
from metaselect.annotation.reconcile import Known, Reconciliation, Spellings, reconcile
from metaselect.annotation.rounds import Round, nothing_selected, one_round, rounds, wanted_rounds
from metaselect.annotation.summary import Progress, import_result, progress, some, troubles
from metaselect.annotation.votes import DONE
from metaselect.data.store import load_ids
from metaselect.errors import ArtefactError, DataError
from metaselect.options import ExportOptions, ImportOptions
from metaselect.records import Json, Outcome, Reporter
from metaselect.run import Run
from metaselect.run.files import read_json
from metaselect.run.layout import META_SET
from metaselect.run.stage import inputs_of

STREAM = "-"
SIMULATED = "simulated"


@dataclass(frozen=True)
class Export:
    """What `annotate export` made.

    Attributes:
        path: the form; None when it goes to stdout or there is nothing to ask.
        text: what the form holds.
        batch_id: of the round.
        round: its number.
        samples: rows of the form.
        images: files written beside it.
    """

    path: Path | None
    text: str
    batch_id: str
    round: int
    samples: int
    images: int

    def as_json(self) -> dict[str, Json]:
        """All but the text, as JSON values."""
        return {
            "file": str(self.path) if self.path is not None else None,
            "batch_id": self.batch_id,
            "round": self.round,
            "samples": self.samples,
            "images": self.images,
        }


def export(run: Run, options: ExportOptions, report: Reporter) -> Export:
    """Write a form for people with the samples of a round that nobody has answered yet.

    Raises:
        ArtefactError: nothing selected; the form exists and holds answers, or others than now without
            ``force``.
        UsageError: no such round, or a place within the run's own folders.
    """
    run.info()
    form = load_format(options.format)
    with run.lock():
        book = ledger.read(run)
        chosen = one_round(run, options.round)
        ids = list(chosen.samples) if options.all else chosen.open_ids(book.verdicts)
        answered = len(chosen.samples) - len(ids)
        if answered:
            report.note(f"Left out {answered} answered samples of round {chosen.number}; --all asks again.")
        path = form_path(run, chosen, form, options.output)
        if path is not None and not ids:
            report.note(f"Every sample of round {chosen.number} is answered; no form was written.")
            return Export(None, "", chosen.batch_id, chosen.number, 0, 0)
        if isinstance(form, HtmlFormat):
            form, images = _with_thumbnails(run, ids), {}
        else:
            images = _write_images(run, ids, path, options, report)
        text = form.write(
            _items(run, chosen, ids, images, show_given=options.show_given), show_given=options.show_given
        )
        if path is not None:
            write_form(path, text, form, force=options.force)
        ledger.add_export(run, book, chosen.number, chosen.batch_id, options.format)
    where = shlex.quote(str(path)) if path is not None and options.format != "html" else "FILE"
    work = "Open it, answer, download" if options.format == "html" else "Fill in clean_label"
    report.note(f"{work}, then: metaselect annotate import {where} {run.flag}")
    return Export(path, text, chosen.batch_id, chosen.number, len(ids), len(images))


def import_file(run: Run, source: str, options: ImportOptions, report: Reporter) -> Outcome:
    """Take the answers of a file (or of stdin, "-") into the votes.

    Raises:
        DataError: the file is missing, not readable, has no known id, or a label or status that does not
            exist; nothing is written then.
        ArtefactError: nothing selected, or the votes were changed by hand.
    """
    run.info()
    name = "stdin" if source == STREAM else source
    form = load_format(options.format)
    with _no_garbage_collection():
        answers = form.read(_content(source), name)  # before the lock: a pipe may come from `annotate export`
        with run.lock():
            return _import(run, answers, form.spellings, options, report, name)


def simulate(run: Run, truth: str, options: ImportOptions, report: Reporter) -> Outcome:
    """Answer the open samples of a round from a truth file, as annotator "simulated".

    Raises:
        DataError: the truth file lacks a sample, or holds a label that is no class.
        ArtefactError: nothing selected, or the votes were changed by hand.
    """
    run.info()
    labels = read_truth(_content(truth), truth)
    with run.lock():
        book = ledger.read(run)
        chosen = one_round(run, options.round)
        ids = chosen.open_ids(book.verdicts)
        lacking = [sample_id for sample_id in ids if not labels.get(sample_id, "").strip()]
        if lacking:
            raise DataError(
                f"{truth} has no clean_label for {len(lacking)} samples of round {chosen.number}: "
                f"{some(lacking)}.",
                "Use the truth file of the data set that was ingested.",
            )
        if not ids:
            report.note(f"Every sample of round {chosen.number} is answered.")
            book = ledger.add_votes(run, book, ())
            noise = noise_estimate(run, book)
            return Outcome(import_result(book, Reconciliation(), [chosen], new_votes=0, noise=noise))
        answers = [
            Answer(row, sample_id, labels[sample_id], SIMULATED, DONE, "", chosen.batch_id)
            for row, sample_id in enumerate(ids, start=1)
        ]
        options = ImportOptions(round=chosen.number)
        # Truth files are written by programs, so that ids and names stand in them as they are.
        return _import(run, answers, lambda text: (text,), options, report, truth)


def status(run: Run) -> Progress:
    """How far each round is; changes nothing.

    Raises:
        ArtefactError: no run, or the votes were changed by hand.
    """
    run.info()
    book = ledger.read(run)
    return progress(book, rounds(run), noise_estimate(run, book))


def _write_images(
    run: Run, ids: Sequence[str], path: Path | None, options: ExportOptions, report: Reporter
) -> dict[str, str]:
    """Image files beside the form, as names relative to it, by sample_id; empty for features."""
    if not options.images:
        return {}
    if path is None:
        report.note("A form on stdout has no images beside it; -o FILE writes them.")
        return {}
    from metaselect.data.originals import write_originals  # needs Pillow, which other commands do without

    names = write_originals(run, ids, path.parent / "images")
    return {sample_id: f"images/{name}" for sample_id, name in names.items()}


def _with_thumbnails(run: Run, ids: Sequence[str]) -> HtmlFormat:
    """The page with all that it shows inside."""
    from metaselect.data.thumbnails import thumbnails  # needs Pillow, as above

    classes = read_json(run.path("data/classes.json"), "Ingest the data again with --force.")
    small = {sample_id: data_uri(kind, raw) for sample_id, kind, raw in thumbnails(run, ids)}
    return HtmlFormat(classes, small)


def _items(
    run: Run, chosen: Round, ids: Sequence[str], images: Mapping[str, str], *, show_given: bool
) -> list[Item]:
    given: dict[str, str] = {}
    if show_given:
        pool, labels, classes = load_ids(run)
        wanted = set(ids)
        given = {
            sample_id: classes[label]
            for sample_id, label in zip(pool, labels, strict=True)
            if sample_id in wanted
        }
    return [
        Item(
            chosen.batch_id,
            sample_id,
            images.get(sample_id, ""),
            given.get(sample_id, ""),
            *chosen.samples[sample_id][1:],
        )
        for sample_id in ids
    ]


def _import(
    run: Run,
    answers: Sequence[Answer],
    spellings: Spellings,
    options: ImportOptions,
    report: Reporter,
    name: str,
) -> Outcome:
    book = ledger.read(run)
    require_same_pool(run, book)
    chosen = wanted_rounds(run, options.round)
    if not chosen and not options.outside_round:
        raise nothing_selected(run)
    classes = read_json(run.path("data/classes.json"), "Ingest the data again with --force.")

    @cache
    def pool_ids() -> frozenset[str]:
        return frozenset(load_ids(run)[0])

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # the only clock whose time is an artefact's
    found = reconcile(answers, Known(chosen, pool_ids, classes), spellings, options, name=name, time=now)
    new = [vote for vote in found.accepted if not vote.repeats(book.latest.get(vote.key))]
    book = ledger.add_votes(run, book, new)
    result = import_result(book, found, chosen, new_votes=len(new), noise=noise_estimate(run, book))
    for sentence in troubles(found, result, name):
        report.warn(sentence)
    _say_next(run, result, report)
    unmet = f"{result['missing']} selected samples are still without an answer."
    return Outcome(result, unmet if options.require_complete and result["missing"] else "")


def _say_next(run: Run, result: Mapping[str, Json], report: Reporter) -> None:
    if result["missing"]:
        report.note(
            f"{result['missing']} samples are without an answer. "
            f"For a form with only these: metaselect annotate export -o FILE {run.flag}"
        )
    if result["bought"]:
        ids_alone = f"The bought labels are in {run.path(META_SET)}."
        report.note(ids_alone if run.ids_alone else f"Next: metaselect reweight {run.flag}")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million votes are millions of tuples without a cycle: looking for one takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _content(source: str) -> bytes:
    """The bytes of a file, or of stdin for "-".

    Raises:
        DataError: no such file.
    """
    if source == STREAM:
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{source} is not a file.", "Check the path.") from None


def require_same_pool(run: Run, book: ledger.Ledger) -> None:
    """Refuse to go on when other data was ingested and earlier votes no longer fit it."""
    record = run.stage(ledger.STAGE).record()
    if record is None or inputs_of(run, *ledger.POOL_INPUTS).items() <= record.key.inputs.items():
        return
    pool, _, classes = load_ids(run)
    strangers = {vote.sample_id for vote in book.votes} - set(pool)
    names = {vote.clean_label for vote in book.votes} - {"", *classes}
    if strangers or names:
        raise ArtefactError(
            f"{run.path('annotate/votes.csv')} belongs to other data: {some(sorted(strangers | names))} "
            "is not in the pool or no class any more.",
            "Use another --run for the new data, or move the folder annotate away.",
        )
