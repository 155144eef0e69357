"""`annotate export` and `annotate import`: write a form of a round, and turn the answers in a file into votes."""

import gc
import hashlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from metaselect.annotation.consensus import contradicts
from metaselect.annotation.exports import Export as Exported
from metaselect.annotation.exports import read_exported_samples
from metaselect.annotation.formats.base import FILLED_IN, INSIDE, Answer, require_texts
from metaselect.annotation.formats.detect import AUTO, detect_format, load_format, load_reader
from metaselect.annotation.formats.files import form_path, write_form
from metaselect.annotation.imports import Source, votes_to_record
from metaselect.annotation.ledger import Ledger, add_export, add_repeats, add_votes, open_ledger
from metaselect.annotation.ledger_record import POOL_INPUTS, STAGE
from metaselect.annotation.matching.labels import Spellings
from metaselect.annotation.matching.matcher import ImportScope
from metaselect.annotation.matching.reconcile import reconcile
from metaselect.annotation.quality.noise_estimate import noise_estimate
from metaselect.annotation.repeats import choose_repeats, insert_repeats
from metaselect.annotation.rounds import (
    find_round,
    find_rounds,
    nothing_selected_error,
    rounds,
    rounds_as_exported,
)
from metaselect.annotation.summary import import_result, import_warnings
from metaselect.annotation.votes import utc_now
from metaselect.data.store import load_ids
from metaselect.errors import ArtefactError, DataError
from metaselect.options import ExportOptions, ImportOptions
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import CLASSES, DATA, FORMS, META_SET, VOTES
from metaselect.run.files import read_json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import Run
from metaselect.stages.annotate.form import (
    batches_with_other_classes,
    copy_image_for_repeat,
    exported_repeats,
    make_form,
    recorded_path,
    require_offered,
    require_same_content,
    samples_to_export,
    samples_with_changed_content,
)
from metaselect.stages.annotate.new_classes import add_classes
from metaselect.stages.freshness import AnnotationView
from metaselect.stages.status import next_step, require_memory_for_votes
from metaselect.text import examples

STREAM = "-"


@dataclass(frozen=True)
class Export:
    """The result of `annotate export`.

    Attributes:
        path: of the form; None where it goes to stdout or no sample is left to label.
        text: of the form's main file.
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
    """Write a form with the samples of a round that nobody has answered yet.

    Raises:
        ArtefactError: nothing is selected; the form exists and has answers or, without ``force``, other content;
            predictions are wanted and there are none.
        DataError: the format cannot spell a class.
        UsageError: no such round, a place within the run's own folders, or something that the format does not support.
    """
    form = load_format(options.format)
    require_offered(run, form, options)
    with run.lock():
        ledger = open_ledger(run)
        chosen = find_round(run, options.round)
        # Before the round is reduced to its ties: names depend on all of it.
        whole = samples_to_export(run, chosen)
        path = form_path(run, chosen, form, options.output)
        if options.conflicts:
            chosen = chosen.conflicts(ledger.verdicts)
            if options.output is None:
                path = run.path(f"{FORMS.name(number=chosen.number)}/conflicts/{form.file_name}")
        everything = options.all or options.conflicts
        ids = list(chosen.samples) if everything else chosen.unanswered_ids(ledger.verdicts)
        answered = len(chosen.samples) - len(ids)
        if answered:
            report.note(f"Left out {answered} answered samples of round {chosen.number}; --all asks again.")
        if path is not None and not ids:
            why = "has no tied sample" if options.conflicts else "is answered"
            report.note(f"Round {chosen.number} {why}; no form was written.")
            return Export(None, "", chosen.batch_id, chosen.number, 0, 0)
        sent = {each: whole[each] for each in chosen.samples}
        require_same_content(run, ledger, chosen, sent)
        made = make_form(run, chosen, ids, sent, path, form.capabilities, options, report)
        if options.repeats:
            pool = load_ids(run)[0]
            again = choose_repeats(ids, options.repeats, chosen.batch_id, pool, ledger.repeats)
            # Recorded before the form exists: an answer for an unrecorded repeat could not be matched.
            ledger = add_repeats(run, ledger, again)
            image_of = partial(copy_image_for_repeat, path.parent if path else Path())
            made = replace(made, items=insert_repeats(made.items, again, image_of))
        files = form.write(made)
        if path is not None:
            write_form(run, path, files, force=options.force)
        classes = run.stage(DATA.name()).verified(CLASSES.path())
        place, rows = recorded_path(run, path, options), len(made.items)
        record = Exported(utc_now(), chosen.number, chosen.batch_id, options.format, place, rows, classes)
        add_export(run, ledger, record, list(sent.values()))
    back = shlex.quote(str(path)) if path is not None and FILLED_IN in form.capabilities else "FILE"
    names = examples([repr(each) for each in made.classes])
    instructions = form.instructions.format(folder=path.parent if path is not None else "", classes=names)
    report.note(f"{instructions}, then: metaselect annotate import {back} {run.flag}")
    if options.conflicts:
        report.note("Somebody new decides: unless the file names them, add --annotator NAME.")
    images = 0 if INSIDE in form.capabilities else sum(bool(item.image) for item in made.items)
    return Export(path, next(iter(files.values())), chosen.batch_id, chosen.number, rows, images)


def import_file(run: Run, source: str, options: ImportOptions, report: Reporter) -> Outcome:
    """Import the answers of a file, or of stdin for "-".

    Raises:
        DataError: the file is missing, not readable, has no known id, or a label or status that does not
            exist; nothing is written then.
        ArtefactError: nothing selected, or the votes were changed by hand.
    """
    run.info()
    name = "stdin" if source == STREAM else source
    with no_garbage_collection():
        content = read_source(source)  # before the lock: a pipe may come from `annotate export`
        require_memory_for_votes(run, len(content))
        wanted = detect_format(content, name) if options.format == AUTO else options.format
        form = load_reader(wanted)
        answers = form.read(content, name)
        require_texts(answers, name, content)
        origin = source_of(content, name, wanted)
        del content  # frees memory: the answers hold all of it
        with run.lock():
            return import_answers(
                run, open_ledger(run), answers, form.spellings, options, report, name, origin
            )


def import_answers(
    run: Run,
    ledger: Ledger,
    answers: Sequence[Answer],
    spellings: Spellings,
    options: ImportOptions,
    report: Reporter,
    name: str,
    source: Source,
) -> Outcome:
    """Turn answers into votes and report what was done with each; the caller holds the run's lock."""
    require_same_pool(run, ledger)
    chosen = find_rounds(run, options.round)
    if not chosen and not options.outside_round:
        raise nothing_selected_error(run)
    classes = read_json(run.path(CLASSES.path()), "Ingest the data again with --force.")

    @cache  # read only where a file has ids that no round has
    def pool_ids() -> frozenset[str]:
        return frozenset(load_ids(run)[0])

    # Answers may be for samples, for their blind repeats, and for batches of tied samples.
    first = read_exported_samples(run.path(STAGE), ledger.exports)
    sent = first + exported_repeats(ledger.repeats, first)
    asked = rounds_as_exported(chosen, ledger)
    all_rounds = chosen if options.round is None else rounds(run)
    every = asked if options.round is None else rounds_as_exported(all_rounds, ledger)
    batches = {each.batch_id for each in every}
    scope = ImportScope(
        asked,
        pool_ids,
        classes,
        batches,
        sent,
        samples_with_changed_content(run, sent, ledger.sample_of_repeat),
    )
    reconciled = reconcile(answers, scope, spellings, options, name=name, time=source.time)
    if options.add_classes:
        add_classes(run, {vote.clean_label for vote in reconciled.accepted}, report)
    before = ledger.latest_with_repeats
    # Importing a file again changes nothing. Answers of another file that count already are recorded, but not as new.
    record = votes_to_record(ledger.votes, ledger.imports, reconciled.accepted, source.sha256)
    pairs = ((vote, before.get(vote.key)) for vote in reconciled.accepted)
    new = [(vote, earlier) for vote, earlier in pairs if not vote.equals_but_for_time(earlier)]
    replaced = [vote for vote, earlier in new if contradicts(earlier, vote)]
    again = ledger.sample_of_repeat
    accepted = len(reconciled.accepted)
    reconciled.accepted = [vote for vote in reconciled.accepted if vote.sample_id not in again]
    ledger = add_votes(run, ledger, record, source)
    result = import_result(
        ledger, reconciled, chosen, new_votes=len(new), noise=noise_estimate(run, all_rounds, ledger)
    )
    result["repeated"] = accepted - len(reconciled.accepted)
    result["replaced"] = len(replaced)
    result["classes_changed"] = [*batches_with_other_classes(run, ledger, answers)]
    for sentence in import_warnings(reconciled, result, name):
        report.warn(sentence)
    unnamed = any(not answer.annotator for answer in answers) and options.annotator == ImportOptions.annotator
    if unnamed and any(vote.annotator == options.annotator for vote in replaced):
        report.warn(
            f"{name} does not say whose answers they are, and they replace others of which that is not known. "
            f"Were it two people? Then: metaselect annotate undo {run.flag}, and import again with --annotator NAME."
        )
    _note_next_command(run, ledger, result, report)
    unmet = f"{result['missing']} selected samples are still without an answer."
    return Outcome(result, unmet if options.require_complete and result["missing"] else "")


def _note_next_command(run: Run, ledger: Ledger, result: Mapping[str, Json], report: Reporter) -> None:
    if result["missing"]:
        report.note(
            f"Samples without an answer: {result['missing']}. "
            f"For a form with only these: metaselect annotate export -o FILE {run.flag}"
        )
    if result["bought"] and run.ids_alone:
        report.note(f"The bought labels are in {run.path(META_SET.path())}.")
    elif result["bought"] and (step := next_step(run, AnnotationView(rounds(run), ledger))):
        report.note(f"Next: {step}")


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switch the cycle collector off: votes are tuples without cycles, and it would take a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_source(source: str) -> bytes:
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


def source_of(content: bytes, name: str, form: str) -> Source:
    """The source of answers that are imported now."""
    return Source(utc_now(), Path(name).name, hashlib.sha256(content).hexdigest(), form)


def require_same_pool(run: Run, ledger: Ledger) -> None:
    """Refuse to go on where other data was ingested and earlier votes are not for it."""
    record = run.stage(STAGE).record()
    if record is None or inputs_of(run, *POOL_INPUTS).items() <= record.key.inputs.items():
        return
    pool, _, classes = load_ids(run)
    unknown = {vote.sample_id for vote in ledger.votes} - set(pool) - ledger.sample_of_repeat.keys()
    names = {vote.clean_label for vote in ledger.latest_with_repeats.values()} - {"", *classes}
    if unknown or names:
        raise ArtefactError(
            f"{run.path(VOTES.path())} belongs to other data: {examples(sorted(unknown | names))} "
            "is not in the pool or no class any more.",
            "Use another --run for the new data, or move the folder annotate away.",
        )
