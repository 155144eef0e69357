"""`export`: the cleaned data set of a run, outside of it. No torch."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metaselect import __version__
from metaselect.data.store import preprocess_of
from metaselect.data_options import CleanedDataOptions
from metaselect.errors import ArtefactError, UsageError
from metaselect.memory import MIB, Need, require_memory
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import CLASSES, FANOUT, ISSUES, REWEIGHT, SAMPLES, WEIGHTS
from metaselect.run.evaluation_artefacts import OFFERS
from metaselect.run.files import naming, parse_json, read_json, write_csv, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import IMAGES, Run
from metaselect.run.tables import read_parquet, require_parquet
from metaselect.stages.export.croissant import croissant
from metaselect.stages.export.decisions import (
    DECISIONS,
    DROP,
    Decision,
    Evidence,
    Thresholds,
    decide,
)
from metaselect.stages.export.reweighting_choice import reweighting_with_issues
from metaselect.text import escape_formula

EXPORT = "export.json"
"""In every exported folder: thresholds, counts, and the hashes of what it was made from."""
COLUMNS = {
    "sample_id": ("string", "as in the run"),
    "given_label": ("string", "as the data came; empty where there is none"),
    "bought_label": ("string", "from people; empty where there is none"),
    "suggested_label": ("string", "the most probable label"),
    "suggested_prob": ("number", "its probability"),
    "final_label": ("string", "the label from now on; empty for samples that are left out or have none"),
    "weight": ("number", "of the final label in a training, from 0 to 1"),
    "decision": ("string", f"one of {', '.join(DECISIONS)}"),
    "reason": ("string", "why"),
}
DIFF = (
    "sample_id",
    "decision",
    "given_label",
    "final_label",
    "suggested_label",
    "suggested_prob",
    "weight",
    "reason",
)
SAMPLE_BYTES, BUFFERS = (
    900,
    96 * MIB,
)  # of memory for a sample, and for all tables, as measured: all rows are held
Row = tuple[str, Evidence, Decision]


def export(run: Run, out: Path, options: CleanedDataOptions, report: Reporter) -> Outcome:
    """Write the cleaned data set to the folder ``out``, which has all samples of the pool.

    Raises:
        UsageError: ``out`` holds something else or is within the run; no re-weighting, or several to choose from;
            images of a run that has none.
        ArtefactError: the re-weighting is stale, damaged, or of a version without ``issues.parquet``.
    """
    _check_place(run, out, force=options.force)
    with run.lock():
        name = reweighting_with_issues(run, options.name)
        if options.images is not None and IMAGES not in preprocess_of(run).kinds:
            raise UsageError("--images is not possible: the run has no images.", "Leave it out.")
        files = [SAMPLES.path(), CLASSES.path(), WEIGHTS.path(name=name), ISSUES.path(name=name)]
        offers = offers_fit(run, name)
        if offers:
            files.append(OFFERS.path())
        inputs = inputs_of(run, *files)
        n = pq.read_metadata(require_parquet(run, SAMPLES)).num_rows
        require_memory(
            Need(n * SAMPLE_BYTES + BUFFERS), f"An export of {n:,} samples", "Fewer samples take less."
        )
        limits = Thresholds(options.keep_above, options.relabel_above, options.drop_below)
        rows = [
            (sample_id, each, decide(each, limits)) for sample_id, each in evidence(run, name, offers=offers)
        ]
        counts = Counter(decision.decision for _, _, decision in rows)
        record: dict[str, Json] = {
            "version": __version__,
            "reweighting": name,
            "classes": read_json(run.path(CLASSES.path()), "Ingest the data again with --force."),
            "thresholds": dict(limits._asdict()),
            "samples": len(rows),
            "decisions": {each: counts[each] for each in DECISIONS},
            "accepted_offers": sum(sample.accepted is not None for _, sample, _ in rows),
            "changed": sum(_is_changed(sample, decision) for _, sample, decision in rows),
        }
        with naming(out), _replacing(out) as folder:  # Arrow's error of a full disk has no file
            _write(run, folder, rows, {**record, "inputs": dict(inputs)}, options, report)
    return Outcome({"run": str(run.root), "out": str(out), **record})


def evidence(run: Run, name: str, *, offers: bool) -> Iterator[tuple[str, Evidence]]:
    """(sample_id, what the re-weighting ``name`` knows of its label) of every sample of the pool, in order.

    Args:
        run: the run.
        name: of the re-weighting.
        offers: there are offers of `fanout` that go with it.
    """
    weights = read_parquet(run, WEIGHTS, ["sample_id", "given_label", "weight", "weight_kind"], name=name)
    issues = read_parquet(
        run, ISSUES, ["sample_id", "bought_label", "suggested_label", "suggested_prob"], name=name
    )
    if weights["sample_id"] != issues["sample_id"]:
        raise ArtefactError(
            f"The tables of reweight/{name} are not of the same samples.",
            f"Run: {run.stage(REWEIGHT.name(name=name)).command()} --force",
        )
    accepted: dict[str, tuple[str, float]] = {}
    if offers:
        table = read_parquet(run, OFFERS, ["sample_id", "label", "risk"], where=("accepted", "==", True))
        accepted = {row["sample_id"]: (row["label"], 1 - row["risk"]) for row in table.to_pylist()}
    columns = (
        *(weights["sample_id"], weights["given_label"], issues["bought_label"], weights["weight_kind"]),
        *(weights["weight"], issues["suggested_label"], issues["suggested_prob"]),
    )
    for sample_id, given, bought, kind, weight, suggested, prob in zip(
        *(column.to_pylist() for column in columns), strict=True
    ):
        offer = accepted.get(sample_id, (None, 0.0))
        yield sample_id, Evidence(given, bought, kind == "unusable", weight, suggested, prob, *offer)


def offers_fit(run: Run, name: str) -> bool:
    """Whether there are offers of `fanout`, checked with the re-weighting ``name``."""
    record = run.stage(FANOUT.name()).record()
    return record is not None and record.key.options["name"] == name


def _check_place(run: Run, out: Path, *, force: bool) -> None:
    """Check that a data set can be written to ``out`` without harm.

    Raises:
        UsageError: it cannot.
    """
    place, root = out.resolve(), run.root.resolve()
    if place.is_relative_to(root) or root.is_relative_to(place):
        raise UsageError(f"-o {out} is within the run, or around it.", "Name another folder.")
    if not out.exists():
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageError(f"-o {out} is no folder.", "Name a folder, new or empty.")
    if not any(out.iterdir()):
        return
    try:
        is_export = "decisions" in parse_json(out / EXPORT)
    except (OSError, ValueError, TypeError):
        is_export = False
    if not is_export:
        raise UsageError(f"-o {out} holds something else.", "Name a folder, new or empty.")
    if not force:
        raise UsageError(f"-o {out} holds an earlier export.", "Add --force to replace it.")


def _is_changed(sample: Evidence, decision: Decision) -> bool:
    return decision.decision == DROP or decision.final != sample.given


def _write(
    run: Run,
    folder: Path,
    rows: Sequence[Row],
    record: dict[str, Json],
    options: CleanedDataOptions,
    report: Reporter,
) -> None:
    """Write all files of the data set; ``export.json`` last."""
    table = folder / f"labels.{options.format}"
    _write_table(table, rows)
    changed = [_diff_cells(*row) for row in rows if _is_changed(row[1], row[2])]
    write_csv(folder / "diff.csv", DIFF, changed)
    globs: list[str] = []
    if options.images is not None:
        from metaselect.stages.export.images import LabelledImage, write_images  # needs Pillow

        labels = {
            sample_id: LabelledImage(each.final, each.weight, each.decision)
            for sample_id, _, each in rows
            if each.final is not None
        }
        globs = write_images(run, labels, folder, options.images, link=options.link, report=report)
    write_json(folder / "croissant.json", croissant(table, COLUMNS, globs))
    write_json(folder / EXPORT, record)


def _cells(sample_id: str, sample: Evidence, decision: Decision) -> dict[str, str | float | None]:
    """The cells of a row by the names of ``COLUMNS``."""
    return {
        "sample_id": sample_id,
        "given_label": sample.given,
        "bought_label": sample.bought,
        "suggested_label": sample.suggested,
        "suggested_prob": None if sample.suggested_prob is None else round(sample.suggested_prob, 6),
        "final_label": decision.final,
        "weight": round(decision.weight, 6),
        "decision": decision.decision,
        "reason": decision.reason,
    }


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    if path.suffix == ".csv":
        write_csv(path, tuple(COLUMNS), (_csv_cells(_cells(*row), tuple(COLUMNS)) for row in rows))
        return
    cells = [_cells(*row) for row in rows]
    kinds = {"string": pa.string(), "number": pa.float64()}
    columns = {
        name: pa.array([each[name] for each in cells], kinds[kind]) for name, (kind, _) in COLUMNS.items()
    }
    pq.write_table(pa.table(columns), path)


def _csv_cells(cells: dict[str, str | float | None], names: Sequence[str]) -> tuple[object, ...]:
    """The cells of a CSV row; texts that a spreadsheet would take for a formula get an apostrophe."""
    values = (cells[name] for name in names)
    return tuple(
        "" if each is None else escape_formula(each) if isinstance(each, str) else each for each in values
    )


def _diff_cells(sample_id: str, sample: Evidence, decision: Decision) -> tuple[object, ...]:
    return _csv_cells(_cells(sample_id, sample, decision), DIFF)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place at the end, so that there is never a part of a data set."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work, old = (out.with_name(f".{out.name}.{end}") for end in ("partial", "old"))
    for left in (work, old):  # by a killed command
        shutil.rmtree(left, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        if out.exists():
            out.rename(old)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
