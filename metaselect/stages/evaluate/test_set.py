"""A test set as the labelled samples that models are judged on."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from metaselect.data.listing import open_source
from metaselect.data.originals import recorded_options
from metaselect.data.signature import dataset_signature
from metaselect.data.store import Dataset
from metaselect.data.summary import fingerprint
from metaselect.data.test_set import read_test_set
from metaselect.data_options import EvaluateOptions
from metaselect.errors import DataError, UsageError
from metaselect.ranks import alone, by_first
from metaselect.records import Reporter
from metaselect.run.artefacts import DATA
from metaselect.run.evaluation_artefacts import TEST_SKIPPED
from metaselect.run.key import EXTERNAL
from metaselect.run.layout import Run
from metaselect.run.stage import Stage, Work
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples, ModelPredictions, predict_with
from metaselect.stages.evaluate.overlap import find_overlap

TEST_INPUT = f"{EXTERNAL}TEST"
COLUMNS = ("id_column", "label_column", "image_column", "feature_columns", "image_suffix")
_CONTENT = "test_content"  # in the details of the record


def test_name(test: Path) -> str:
    """A folder name from a path: "data/my test.parquet" -> "my-test"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", test.resolve().stem).strip("-") or "test"


def with_columns_of_run(
    test: Path, run: Run, pool: Dataset, options: EvaluateOptions, report: Reporter
) -> EvaluateOptions:
    """The options, with the columns that the run's data were read by where the defaults do not fit the test set.

    What the user gave stays.
    """
    recorded, default = recorded_options(run, run.stage(DATA.name()).require()), EvaluateOptions()
    theirs = {
        name: getattr(recorded, name)
        for name in COLUMNS
        if getattr(options, name) == getattr(default, name) != getattr(recorded, name)
    }
    if not theirs or _can_be_read(test, options, pool):
        return options
    like_the_pool = replace(options, **theirs)
    if not _can_be_read(test, like_the_pool, pool):
        return options
    flags = (f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in theirs.items())
    report.note(f"{test} is read as the run's data were: {' '.join(flags)}.")
    return like_the_pool


def _can_be_read(test: Path, options: EvaluateOptions, pool: Dataset) -> bool:
    """Whether there are the columns, and inputs of the pool's kind."""
    try:
        return pool.preprocess.task in open_source(test, options).kinds
    except (DataError, UsageError):
        return False


def test_signature(
    test: Path, pool: Dataset, stage: Stage, options: EvaluateOptions, report: Reporter
) -> str:
    """The test set's signature; the recorded one if only names or times differ from the set that was evaluated."""
    signature = dataset_signature(test, options)
    record = None if options.force else stage.record()
    recorded = signature if record is None else record.key.inputs.get(TEST_INPUT, signature)
    if record is None or recorded == signature:
        return signature
    report.note(f"{test} is not the file that was evaluated, or its time changed; comparing the contents.")
    with alone(), TemporaryDirectory() as scratch:
        samples, hashes = read_test_set(test, options, pool, Path(scratch), report)
    content = _content(samples, hashes, np.arange(len(samples)))
    return recorded if content == record.details.get(_CONTENT) else signature


def labelled_test_set(
    test: Path,
    run: Run,
    pool: Dataset,
    options: EvaluateOptions,
    device: torch.device,
    *,
    work: Work,
    scratch: Path,
    report: Reporter,
) -> LabelledSamples:
    """The samples of a test set.

    Args:
        test: of any form.
        run: whose models are judged.
        pool: of the run.
        options: how to read the test set, and whether it may share samples with the pool.
        device: on which models predict.
        work: takes the lists of bad samples and of those that the pool has too.
        scratch: a folder for arrays, kept while models predict.
        report: notes, warnings and progress.

    Raises:
        DataError: the test set is bad, or no sample of it is left.
    """
    with alone():  # each rank has arrays of its own
        samples, hashes = read_test_set(test, options, pool, scratch, report, workers=options.workers)
    work.details[_CONTENT] = _content(samples, hashes, np.arange(len(samples)))
    skipped = TEST_SKIPPED.within()
    if (scratch / skipped).is_file():
        by_first(lambda: (scratch / skipped).replace(work.folder / skipped))
    overlap = find_overlap(run, pool, samples, hashes, device, report)
    overlap.report(report, left_out=options.leave_out_overlap)
    kept = np.flatnonzero(~overlap.shared if options.leave_out_overlap else np.ones(len(samples), bool))
    if not len(kept):
        raise DataError(
            f"Every sample of {test} is in the pool too, or a near duplicate of one there.",
            "Name another test set.",
        )
    overlap.write(work, samples, pool)

    def predict(candidate: Candidate) -> ModelPredictions:
        found = predict_with(run, candidate, samples, device)
        columns = (found.predicted, found.label_prob, found.confidence)
        return ModelPredictions(*(column.cpu().numpy()[kept] for column in columns))

    return LabelledSamples(
        [samples.sample_ids[place] for place in kept.tolist()],
        samples.labels[kept],
        predict,
        {
            "test_samples": len(kept),
            "judged_on": "test_set",
            "overlap": int((overlap.equal >= 0).sum()),
            "near_overlap": int((overlap.near >= 0).sum()),
            "test_content": _content(samples, hashes, kept),
        },
    )


def _content(samples: Dataset, hashes: list[str], kept: np.ndarray) -> str:
    """Hex digest over ids, labels and contents of the (n'',) ``kept`` samples of a test set."""
    rows = (
        (samples.sample_ids[place], samples.classes[samples.labels[place]], hashes[place])
        for place in kept.tolist()
    )
    return fingerprint(samples.classes, rows)
