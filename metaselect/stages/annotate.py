"""The `annotate` stage: labels go out to people and come back. Never imports torch."""

import gc
import hashlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from metaselect.annotation import ledger
from metaselect.annotation.control import noise_estimate
from metaselect.annotation.formats import Answer, Item, load_format
from metaselect.annotation.forms import EXPORT_FOLDER, form_path, write_form
from metaselect.annotation.imports import Source
from metaselect.annotation.reconcile import Known, Spellings, reconcile
from metaselect.annotation.repeats import choose_repeats, weave
from metaselect.annotation.rounds import Round, as_asked, nothing_selected, one_round, wanted_rounds
from metaselect.annotation.summary import import_result, some, troubles
from metaselect.data.store import load_ids
from metaselect.errors import ArtefactError, DataError
from metaselect.options import ExportOptions, ImportOptions
from metaselect.records import Json, Outcome, Reporter
from metaselect.run import Run
from metaselect.run.files import read_json
from metaselect.run.layout import META_SET
from metaselect.run.stage import inputs_of

STREAM = "-"


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
        book = ledger.open_book(run)
        chosen = one_round(run, options.round)
        path = form_path(run, chosen, form, options.output)
        if options.conflicts:
            chosen = chosen.conflicts(book.verdicts)
            if options.output is None:
                path = run.path(f"{EXPORT_FOLDER}/round-{chosen.number}/conflicts/{form.file_name}")
        everything = options.all or options.conflicts
        ids = list(chosen.samples) if everything else chosen.open_ids(book.verdicts)
        answered = len(chosen.samples) - len(ids)
        if answered:
            report.note(f"Left out {answered} answered samples of round {chosen.number}; --all asks again.")
        if path is not None and not ids:
            why = (
                "No sample of round {} is tied"
                if options.conflicts
                else "Every sample of round {} is answered"
            )
            report.note(f"{why.format(chosen.number)}; no form was written.")
            return Export(None, "", chosen.batch_id, chosen.number, 0, 0)
        images = _write_images(run, ids, path, options, report)
        items = _items(run, chosen, ids, images, show_given=options.show_given)
        if options.repeats:
            pool = load_ids(run)[0]
            again = choose_repeats(ids, options.repeats, chosen.batch_id, pool, book.repeats)
            book = ledger.add_repeats(run, book, again)
            items = weave(items, again, partial(_image_again, path.parent if path else Path()))
        text = form.write(items, show_given=options.show_given)
        if path is not None:
            write_form(path, text, form, force=options.force)
        ledger.add_export(run, book, chosen.number, chosen.batch_id, options.format)
    where = shlex.quote(str(path)) if path is not None else "FILE"
    whose = " --annotator NAME, of somebody new" if options.conflicts else ""
    report.note(f"Fill in clean_label, then: metaselect annotate import {where} {run.flag}{whose}")
    return Export(path, text, chosen.batch_id, chosen.number, len(items), len(images))


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
    with no_garbage_collection():
        content = content_of(source)  # before the lock: a pipe may come from `annotate export`
        answers = form.read(content, name)
        origin = origin_of(content, name, options.format)
        with run.lock():
            return take_answers(run, answers, form.spellings, options, report, name, origin)


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


def _image_again(folder: Path, image: str, repeat_id: str) -> str:
    """A copy of a form's image under the name of a repeat; its path relative to the form."""
    from metaselect.data.originals import file_stem

    copy = f"images/{file_stem(repeat_id)}{Path(image).suffix}"
    shutil.copyfile(folder / image, folder / copy)
    return copy


def take_answers(
    run: Run,
    answers: Sequence[Answer],
    spellings: Spellings,
    options: ImportOptions,
    report: Reporter,
    name: str,
    origin: Source,
) -> Outcome:
    """Make votes of answers, and say what became of them; the caller holds the run's lock."""
    book = ledger.open_book(run)
    _require_same_pool(run, book)
    chosen = wanted_rounds(run, options.round)
    if not chosen and not options.outside_round:
        raise nothing_selected(run)
    classes = read_json(run.path("data/classes.json"), "Ingest the data again with --force.")

    @cache
    def pool_ids() -> frozenset[str]:
        return frozenset(load_ids(run)[0])

    known = Known(as_asked(chosen, book), pool_ids, classes)
    found = reconcile(answers, known, spellings, options, name=name, time=origin.time)
    new = [vote for vote in found.accepted if not vote.repeats(book.current.get(vote.key))]
    again = book.stands_for
    repeated = [vote for vote in found.accepted if vote.sample_id in again]
    found.accepted = [vote for vote in found.accepted if vote.sample_id not in again]
    book = ledger.add_votes(run, book, new, origin)
    result = import_result(book, found, chosen, new_votes=len(new), noise=noise_estimate(run, book))
    result["repeated"] = len(repeated)
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
def no_garbage_collection() -> Iterator[None]:
    """A million votes are millions of tuples without a cycle: looking for one takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def content_of(source: str) -> bytes:
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


def origin_of(content: bytes, name: str, form: str) -> Source:
    """Where answers come from, now."""
    return Source(now(), Path(name).name, hashlib.sha256(content).hexdigest(), form)


def now() -> str:
    """ISO 8601, UTC: the only clock whose time is an artefact's."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _require_same_pool(run: Run, book: ledger.Ledger) -> None:
    """Refuse to go on when other data was ingested and earlier votes no longer fit it."""
    record = run.stage(ledger.STAGE).record()
    if record is None or inputs_of(run, *ledger.POOL_INPUTS).items() <= record.key.inputs.items():
        return
    pool, _, classes = load_ids(run)
    strangers = {vote.sample_id for vote in book.votes} - set(pool) - book.stands_for.keys()
    names = {vote.clean_label for vote in book.votes} - {"", *classes}
    if strangers or names:
        raise ArtefactError(
            f"{run.path('annotate/votes.csv')} belongs to other data: {some(sorted(strangers | names))} "
            "is not in the pool or no class any more.",
            "Use another --run for the new data, or move the folder annotate away.",
        )
