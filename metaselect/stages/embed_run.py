"""`embed --run`: features of the pictures that a run was made of, beside these in the run."""

from dataclasses import fields, replace
from pathlib import Path

from metaselect.data.originals import recorded_options
from metaselect.data.signature import dataset_signature
from metaselect.data.store import load_ids, preprocess_of
from metaselect.data_options import EmbedOptions, IngestOptions, ReadOptions
from metaselect.errors import DataError, UsageError
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import DATA, EMBEDDED
from metaselect.run.layout import FEATURES, IMAGES, Run
from metaselect.stages.embed import embed
from metaselect.stages.ingest import DATA_INPUT, ingest, same_data

READING = tuple(spec.name for spec in fields(ReadOptions))


def embed_run(run: Run, options: EmbedOptions, report: Reporter) -> Outcome:
    """Encode the run's pictures where they lie, into a file of the run, and ingest both together.

    Args:
        run: of images.
        options: of the encoder; how the data is read, the run says.
        report: notes and progress.

    Raises:
        UsageError: the run has no images, or features of another origin; an option says how to read the data.
        DataError: the pictures are no longer where they were ingested from, or the encoder's weights cannot be had.
        ArtefactError: they are other pictures by now.
    """
    record = run.stage(DATA.name()).require()
    recorded, data = recorded_options(run, record), Path(record.details["root"])
    out = run.path(EMBEDDED.path())
    reading = {name: getattr(recorded, name) for name in READING}
    _check(run, options, recorded, data, out)
    same_data(data, run, IngestOptions(), report)
    pixel_range = preprocess_of(run).kinds[IMAGES].pixel_range
    options = replace(options, **{**reading, "features": None}, pixel_range=pixel_range)
    ids, _, _ = load_ids(run)
    result: dict[str, Json] = dict(embed(data, out, options, report, only=frozenset(ids)).result)
    joined = replace(recorded, features=out)
    if recorded.features != out or dataset_signature(data, joined) != record.key.inputs[DATA_INPUT]:
        ingest(data, run, replace(joined, force=True), report)
    return Outcome({**result, "run": str(run.root)})


def _check(run: Run, options: EmbedOptions, recorded: IngestOptions, data: Path, out: Path) -> None:
    """Check that the run's data can be embedded, and that nothing was said of how to read it."""
    default = EmbedOptions()
    given = [name for name in (*READING, "pixel_range") if getattr(options, name) != getattr(default, name)]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(
            f"{flag} is for DATA; the data of a run is read as it was ingested.", f"Leave {flag} out."
        )
    kinds = preprocess_of(run).kinds
    if IMAGES not in kinds:
        raise UsageError(f"{run.root} has no images, and an encoder needs them.", "Name data with images.")
    if FEATURES in kinds and recorded.features != out:
        raise UsageError(
            f"{run.root} has features already.", "Embed DATA into a file: metaselect embed DATA -o FILE"
        )
    if not data.exists():
        raise DataError(
            f"{data}, which {run.root} was made of, does not exist.",
            "Embed the data where it lies now, and ingest it with --features FILE: metaselect embed DATA -o FILE",
        )
