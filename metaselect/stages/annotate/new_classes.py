"""Classes that answers add to a run."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from metaselect.data.classes import check_integers
from metaselect.data.originals import recorded_options
from metaselect.data.store import load_features, preprocess_of
from metaselect.data.summary import fingerprint, joint_hashes
from metaselect.options import key_options
from metaselect.records import Reporter
from metaselect.run.artefacts import CLASSES, DATA, RECORD, SAMPLES
from metaselect.run.files import read_json, write_json
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.text import examples, quoted


def add_classes(run: Run, labels: Iterable[str], report: Reporter) -> None:
    """Make classes of the labels that are none, after the run's others; the caller holds the run's lock.

    The stage ``data/`` becomes that of an ingest with all of them in ``--classes``. What was made from its classes is
    out of date then, but for rounds that people have worked on.

    Raises:
        DataError: a new class is the same integer as another ("01" beside "1").
    """
    stage = run.stage(DATA.name())
    record = stage.require()
    known = read_json(run.path(CLASSES.path()), stage.recompute_hint)
    new = sorted(set(labels) - {"", *known})
    if not new:
        return
    classes = [*known, *new]
    check_integers(classes)
    options = replace(recorded_options(run, record), classes=tuple(classes))
    key = StageKey(key_options(options), record.key.inputs)
    table = read_parquet(run, SAMPLES, ["sample_id", "given_label", "content_hash"])
    ids, labels, hashes = (column.to_pylist() for column in table.itercolumns())
    both = len(preprocess_of(run).kinds) > 1
    joint = joint_hashes(hashes, load_features(run, len(ids)) if both else None)
    digest = fingerprint(classes, zip(ids, labels, joint, strict=True))
    with stage.working(key, report) as work:
        for name in record.outputs:
            if name != CLASSES.within():
                _link(stage.folder / name, work.folder / name)
        write_json(work.folder / CLASSES.within(), classes)
        work.details |= {**record.details, "fingerprint": digest}
    # The command on record stays the one that read the data.
    raw = read_json(stage.folder / RECORD, stage.recompute_hint)
    raw["details"]["command"] = record.details["command"]
    write_json(stage.folder / RECORD, raw)
    run.write_info(record.details["task"], digest)
    report.note(
        f"New classes: {examples([quoted(name) for name in new])}. What was made with the old ones is out of date: "
        f"metaselect status {run.flag}"
    )


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no links; an old one is replaced."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
