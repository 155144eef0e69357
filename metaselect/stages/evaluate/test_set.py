"""A test set as the labelled samples that models are judged on."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from metaselect.data.signature import dataset_signature
from metaselect.data.store import Dataset, preprocess_of
from metaselect.data.summary import fingerprint, row_hashes
from metaselect.data.test_set import read_test_set
from metaselect.data_options import EvaluateOptions
from metaselect.errors import DataError
from metaselect.records import Reporter
from metaselect.run.artefacts import SAMPLES
from metaselect.run.evaluation_artefacts import TEST_SKIPPED
from metaselect.run.key import EXTERNAL
from metaselect.run.layout import FEATURES, Run
from metaselect.run.stage import Stage, Work
from metaselect.run.tables import read_parquet
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples, ModelPredictions, predict_with

TEST_INPUT = f"{EXTERNAL}TEST"
_CONTENT = "test_content"  # in the details of the record


def test_name(test: Path) -> str:
    """A folder name from a path: "data/my test.parquet" -> "my-test"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", test.resolve().stem).strip("-") or "test"


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
    with TemporaryDirectory() as scratch:
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
        work: takes the list of bad samples.
        scratch: a folder for arrays, kept while models predict.
        report: notes, warnings and progress.

    Raises:
        DataError: the test set is bad, or no sample of it is left.
    """
    samples, hashes = read_test_set(test, options, pool, scratch, report)
    work.details[_CONTENT] = _content(samples, hashes, np.arange(len(samples)))
    skipped = TEST_SKIPPED.within()
    if (scratch / skipped).is_file():
        (scratch / skipped).replace(work.folder / skipped)
    overlap = _overlap(run, pool, options, hashes, report)
    kept = np.flatnonzero(~overlap if options.leave_out_overlap else np.ones(len(samples), bool))
    if not len(kept):
        raise DataError(f"Every sample of {test} is in the pool too.", "Name another test set.")

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
            "overlap": int(overlap.sum()),
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


def _overlap(
    run: Run, pool: Dataset, options: EvaluateOptions, hashes: Sequence[str], report: Reporter
) -> np.ndarray:
    """(n',) bool: test samples whose content is in the pool too; with a note or warning where there are any."""
    if len(preprocess_of(run).kinds) > 1 and pool.preprocess.task == FEATURES:
        known = set(row_hashes(pool.inputs))  # the recorded hashes are those of the images
    else:
        known = set(read_parquet(run, SAMPLES, ["content_hash"])[0].to_pylist())
    shared = np.array([digest in known for digest in hashes])
    if shared.any():
        count = f"{int(shared.sum())} of {len(hashes)} test samples are in the pool too"
        if options.leave_out_overlap:
            report.note(f"{count}; they are left out.")
        else:
            report.warn(f"{count}: the figures flatter. --leave-out-overlap judges the models on the others.")
    return shared
