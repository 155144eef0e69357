"""`annotate serve`: serves the labelling page of a round until it is interrupted."""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from metaselect.annotation.exports import Export, ExportedSample
from metaselect.annotation.ledger import add_export, open_ledger
from metaselect.annotation.predictions import has_predictions, latest_predictions
from metaselect.annotation.rounds import find_round
from metaselect.annotation.votes import utc_now
from metaselect.errors import UsageError
from metaselect.records import Json, Reporter
from metaselect.run.artefacts import CLASSES, DATA, FORMS
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.stages.annotate.exchange import require_same_pool
from metaselect.stages.annotate.form import class_notes_of, require_same_content, samples_to_export
from metaselect.web import INSTALL
from metaselect.web.labeling_session import FORMAT, LabelingSession
from metaselect.web.submitted_answer import InvalidRequest, valid_annotator


def serve(
    run: Run,
    report: Reporter,
    ready: Callable[[Mapping[str, Json]], None],
    *,
    round_number: int | None = None,
    port: int = 0,
    annotator: str = "",
    class_notes: Path | None = None,
) -> None:
    """Show a round's samples on a local page and write every answer to the votes, until it is interrupted.

    The run is locked while it starts and while an answer is written and recorded, not in between.

    Args:
        run: with a round.
        report: for the numbers of samples at start and end.
        ready: called once with the address (``url``), ``round``, ``batch_id``, ``samples`` and how many of
            them are ``missing``, as soon as requests are answered.
        round_number: None is the latest one.
        port: on the loopback address; 0 is any free one.
        annotator: name of the annotator; empty: the page asks for it.
        class_notes: a CSV file of what the page shows about the classes on demand.

    Raises:
        DataError: the class notes are not as ``read_class_notes`` wants them.
        UsageError: Starlette or uvicorn is not installed, no such round, or the port is taken.
        ArtefactError: nothing selected, another command is working, or the votes were changed by hand.
    """
    try:
        from metaselect.web import server
    except ImportError as error:
        raise UsageError(
            f"annotate serve needs {error.name}, which is not installed.",
            f"In MetaSelect's folder: {INSTALL}",
        ) from None
    try:
        annotator = valid_annotator(annotator) if annotator else ""
    except InvalidRequest as error:
        raise UsageError(f"--annotator: {error}", "Leave it out, and the page asks.") from None
    with run.lock():
        ledger = open_ledger(run)
        require_same_pool(run, ledger)
        chosen = find_round(run, round_number)
        sent = samples_to_export(run, chosen)
        require_same_content(run, ledger, chosen, sent)
        classes = read_json(run.path(CLASSES.path()), "Ingest the data again with --force.")
        notes = class_notes_of(class_notes, classes)
        session = LabelingSession(run, chosen, classes)
        listener = server.bind(port)
        images = _images(run, session, sent)
        digest = run.stage(DATA.name()).verified(CLASSES.path())
        export = Export(utc_now(), chosen.number, chosen.batch_id, FORMAT, "", len(session.ids), digest)
        add_export(run, ledger, export, list(sent.values()))
    suggest = partial(_labels, run, session) if has_predictions(run, chosen.number) else None
    made = server.Server(session, images, annotator=annotator, suggest=suggest, notes=notes)
    token = secrets.token_urlsafe(32)
    host, port = listener.getsockname()
    missing = session.missing()
    listener.listen()  # requests that come before the server runs wait
    ready(
        {
            "url": f"http://{host}:{port}/{token}/",
            "round": chosen.number,
            "batch_id": chosen.batch_id,
            "samples": len(session.ids),
            "missing": missing,
        }
    )
    report.note(
        f"Samples without an answer: {missing} of {len(session.ids)}. Ctrl-C ends it; nothing is lost."
    )
    try:
        server.serve(made.app(token, port), listener)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how users end it
    finally:
        session.close()
        missing = session.missing()
        report.note(f"Answers given: {session.answers_taken}. Samples without an answer: {missing}.")


def _labels(run: Run, session: LabelingSession) -> dict[str, str]:
    """The predictions of the latest model, by sample_id."""
    _, found = latest_predictions(run, session.current_round.number, session.ids, session.classes)
    return {each: prediction.label for each, prediction in found.items()}


def _images(run: Run, session: LabelingSession, sent: Mapping[str, ExportedSample]) -> dict[str, Path]:
    """The image files by sample_id, where `annotate export` writes them too; empty for features."""
    from metaselect.data.originals import write_originals  # needs Pillow, which other commands do without

    folder = run.path(f"{FORMS.name(number=session.current_round.number)}/images")
    names = write_originals(run, session.ids, folder, {each: row.name for each, row in sent.items()})
    return {each: folder / name for each, name in names.items()}
