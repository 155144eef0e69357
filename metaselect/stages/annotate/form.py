"""The content of an exported form, and the checks of what changed since an earlier export."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from metaselect.annotation.exports import ExportedSample, read_exported_samples
from metaselect.annotation.formats.base import (
    GIVEN,
    INSIDE,
    NO_IMAGES,
    NOTES,
    PREDICTIONS,
    Answer,
    ClassNote,
    ExchangeFormat,
    Form,
    Item,
    Prediction,
)
from metaselect.annotation.formats.page import data_uri
from metaselect.annotation.ledger import Ledger
from metaselect.annotation.ledger_record import STAGE
from metaselect.annotation.repeats import Repeat, repeat_content_hash
from metaselect.annotation.rounds import Round
from metaselect.data.store import preprocess_of
from metaselect.errors import ArtefactError, UsageError
from metaselect.options import ExportOptions
from metaselect.records import Reporter
from metaselect.run.artefacts import CLASSES, DATA, SAMPLES
from metaselect.run.files import read_json
from metaselect.run.layout import IMAGES, Run
from metaselect.run.tables import require_parquet
from metaselect.text import examples


def require_offered(run: Run, form: ExchangeFormat, options: ExportOptions) -> None:
    """Refuse options that a format does not support.

    Raises:
        UsageError: it has no place for given labels or predictions, or needs images.
    """
    has_images = IMAGES in preprocess_of(run).kinds
    if NO_IMAGES not in form.capabilities and not (has_images and options.images):
        why = "this run has none" if not has_images else "--no-images leaves them out"
        raise UsageError(f"--format {options.format} needs images, and {why}.", "Use --format csv.")
    for wanted, flag, thing in (
        (options.show_given, "--show-given", GIVEN),
        (options.with_predictions, "--with-predictions", PREDICTIONS),
        (options.class_notes, "--class-notes", NOTES),
    ):
        if wanted and thing not in form.capabilities:
            raise UsageError(
                f"--format {options.format} has no place for {flag}.", "Leave it out, or use another format."
            )


def samples_to_export(run: Run, chosen: Round) -> dict[str, ExportedSample]:
    """Every sample of the round as it is exported, by sample_id, in the order of rank.

    Image names depend on the whole round, so that a form with fewer samples uses the same names.
    """
    from metaselect.data.originals import file_stems  # needs Pillow, which other commands do without

    ids = list(chosen.samples)
    stems, hashes = file_stems(ids), _column(run, "content_hash", ids)
    return {each: ExportedSample(each, stems[each], hashes.get(each, "")) for each in ids}


def class_notes_of(path: Path | None, classes: Sequence[str]) -> tuple[ClassNote, ...]:
    """The notes of a file about classes; none without one.

    Raises:
        DataError: as ``read_class_notes``.
    """
    if path is None:
        return ()
    from metaselect.annotation.formats.class_notes import read_class_notes  # needs Pillow too

    return read_class_notes(path, classes)


def exported_repeats(repeats: Sequence[Repeat], sent: Sequence[ExportedSample]) -> list[ExportedSample]:
    """The blind repeats of exported samples, as forms show them."""
    if not repeats:
        return []
    from metaselect.data.originals import file_stem

    held = {each.sample_id: each.content_hash for each in reversed(sent)}
    return [
        ExportedSample(
            each.repeat_id,
            file_stem(each.repeat_id),
            repeat_content_hash(held[each.sample_id], each.repeat_id),
        )
        for each in repeats
        if each.sample_id in held
    ]


def copy_image_for_repeat(folder: Path, image: str, repeat_id: str) -> str:
    """A copy of a form's image under the name of a repeat, as a path relative to the form; data URIs stay."""
    if image.startswith("data:"):
        return image
    from metaselect.data.originals import file_stem

    copy = f"images/{file_stem(repeat_id)}{Path(image).suffix}"
    shutil.copyfile(folder / image, folder / copy)
    return copy


def samples_with_changed_content(
    run: Run, sent: Sequence[ExportedSample], sample_of_repeat: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Samples, and repeats of them, whose content differs from when they were first exported."""
    first = {each.sample_id: each.content_hash for each in reversed(sent)}
    now = _column(run, "content_hash", first) if first else {}
    changed = {each for each, digest in first.items() if now.get(each, digest) != digest}
    again = {each for each, sample_id in (sample_of_repeat or {}).items() if sample_id in changed}
    return frozenset(changed | again)


def require_same_content(run: Run, ledger: Ledger, chosen: Round, sent: Mapping[str, ExportedSample]) -> None:
    """Refuse to export a sample again whose content changed: its answers could be about either content.

    Raises:
        ArtefactError: the content of one of ``sent`` changed.
    """
    changed = sorted(
        samples_with_changed_content(run, read_exported_samples(run.path(STAGE), ledger.exports))
        & sent.keys()
    )
    if changed:
        raise ArtefactError(
            f"Round {chosen.number} went out with other content of {len(changed)} samples: {examples(changed)}.",
            f"Put the round aside: metaselect select --discard-round {chosen.number} {run.flag}",
        )


def batches_with_other_classes(run: Run, ledger: Ledger, answers: Sequence[Answer]) -> list[str]:
    """Batches of a file that were exported with other classes; of all batches where the file names none."""
    now = run.stage(DATA.name()).verified(CLASSES.path())
    named = {answer.batch_id.strip() for answer in answers} - {""}
    last = {each.batch_id: each.classes_sha256 for each in ledger.exports}
    return sorted(each for each in (named or last) if last.get(each, now) != now)


def make_form(
    run: Run,
    chosen: Round,
    ids: Sequence[str],
    sent: Mapping[str, ExportedSample],
    path: Path | None,
    capabilities: Collection[str],
    options: ExportOptions,
    report: Reporter,
) -> Form:
    """The form with these samples of the round; writes their images beside ``path``, or puts them into the form.

    Raises:
        ArtefactError: predictions are wanted and there are none, or the data is damaged.
        DataError: the class notes cannot be used.
    """
    run.stage(DATA.name()).verified(CLASSES.path())
    classes = read_json(run.path(CLASSES.path()), "Ingest the data again with --force.")
    given = _column(run, "given_label", ids) if options.show_given else {}
    given = {sample_id: label or "" for sample_id, label in given.items()}
    model = ""
    predictions: Mapping[str, Prediction] = {}
    if options.with_predictions:
        from metaselect.annotation.predictions import latest_predictions

        model, predictions = latest_predictions(run, chosen.number, ids, classes)
    images: Mapping[str, str] = {}
    sizes: Mapping[str, tuple[int, int]] = {}
    if options.images and INSIDE in capabilities:
        images = _small_images(run, ids)
    elif options.images:
        images, sizes = _write_images(run, ids, sent, path, report)
    # A cluster that occurs twice would show a blind repeat, an empty one a control sample.
    blind = bool(options.repeats or chosen.control)
    shown = {
        each: row._replace(cluster="", cluster_size="") if blind else row
        for each, row in chosen.samples.items()
    }
    items = [
        Item(
            *(each, images.get(each, ""), given.get(each, ""), *shown[each][1:]),
            content_hash=sent[each].content_hash,
            size=sizes.get(each, (0, 0)),
            prediction=predictions.get(each),
        )
        for each in ids
    ]
    notes = class_notes_of(options.class_notes, classes)
    return Form(chosen.batch_id, items, classes, options.show_given, model, notes)


def recorded_path(run: Run, path: Path | None, options: ExportOptions) -> str:
    """The form's path as ``exports.csv`` records it: below the run, or as given to the command."""
    if options.output is not None:
        return Path(options.output).as_posix()
    return path.relative_to(run.root).as_posix() if path is not None else ""


def _small_images(run: Run, ids: Sequence[str]) -> dict[str, str]:
    """Thumbnails as data URIs by sample_id."""
    from metaselect.data.thumbnails import thumbnails  # needs Pillow, as strip_prefix

    return {each: data_uri(kind, raw) for each, kind, raw in thumbnails(run, ids)}


def _write_images(
    run: Run,
    ids: Sequence[str],
    sent: Mapping[str, ExportedSample],
    path: Path | None,
    report: Reporter,
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Names relative to the form and (width, height) of the image files beside it, by sample_id."""
    if path is None:
        report.note("A form on stdout has no images beside it; -o FILE writes them.")
        return {}, {}
    from metaselect.data.images import Shape, probe
    from metaselect.data.originals import write_originals

    folder = path.parent / "images"
    names = write_originals(run, ids, folder, {each: sent[each].name for each in ids})
    shapes = {each: probe((folder / name).read_bytes()) for each, name in names.items()}
    sizes = {each: shape.size for each, shape in shapes.items() if isinstance(shape, Shape)}
    return {each: f"images/{name}" for each, name in names.items()}, sizes


def _column(run: Run, name: str, ids: Collection[str]) -> dict[str, str]:
    """A column of ``data/samples.parquet`` by sample_id, of those ids that are in it."""
    run.stage(DATA.name()).verified(SAMPLES.path())
    wanted = frozenset(ids)
    found: dict[str, str] = {}
    # Filtered here: pyarrow's own filters import pandas, which takes longer than the whole export.
    with pq.ParquetFile(require_parquet(run, SAMPLES)) as file:
        for batch in file.iter_batches(columns=["sample_id", name]):
            columns = batch.to_pydict()
            found |= {
                each: value
                for each, value in zip(columns["sample_id"], columns[name], strict=True)
                if each in wanted
            }
    return found
