"""evaluate: the accuracy of the warm-up model and of every re-weighted one on a labelled test set.

With a truth file it also measures how well the weights separate wrong labels from right ones.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import (
    NoiseEstimate,
    estimate_inputs,
    has_control,
    noise_estimate,
)
from metaselect.annotation.rounds import Round, rounds
from metaselect.data.signature import dataset_signature
from metaselect.data.store import Dataset, data_inputs, load_pool, preprocess_of, require_contents
from metaselect.data.summary import fingerprint, row_hashes
from metaselect.data.test_set import read_test_set
from metaselect.data_options import EvaluateOptions
from metaselect.errors import DataError
from metaselect.metrics import classification
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    EVALUATE,
    METRICS,
    PREDICTIONS,
    REWEIGHT,
    SAMPLES,
    TEST_SKIPPED,
    WARMUP,
)
from metaselect.run.files import read_json, sha256_file, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, GIVEN, StageKey
from metaselect.run.layout import FEATURES, Run, checked_folder_name
from metaselect.run.stage import Stage, Work
from metaselect.run.tables import read_parquet, write_parquet
from metaselect.stages.evaluate.candidates import Candidate, candidates, predict_with
from metaselect.stages.evaluate.choice import Judged, against_baseline, choose
from metaselect.stages.evaluate.label_issues import Truth, read_pool_truth, warmup_scores, weight_scores
from metaselect.stages.freshness import DAMAGED, DEAD, STALE, AnnotationView, state_of
from metaselect.stages.wrong_labels import wrong_labels
from metaselect.training.device import choose_device
from metaselect.training.pool_predictions import warmup_predictions_input

TEST_INPUT = f"{EXTERNAL}TEST"


class EvaluationSetup(NamedTuple):
    """What is evaluated: a run, its models, its rounds with the noise estimate from them, and the options."""

    run: Run
    pool: Dataset
    options: EvaluateOptions
    models: Sequence[Candidate]
    rounds: Sequence[Round]
    noise: NoiseEstimate | None
    device: torch.device


def evaluate(test: Path, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    """Evaluate every model of the run on a test set, and the weights if there is a truth file.

    Raises:
        DataError: the test set or the truth file is bad.
        ArtefactError: no model yet, a damaged one, or a run of ids and labels alone.
    """
    with run.lock():
        return _evaluate(test, run, options, report)


def test_name(test: Path) -> str:
    """A folder name from a path: "data/my test.parquet" -> "my-test"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", test.resolve().stem).strip("-") or "test"


def _evaluate(test: Path, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    require_contents(run)
    name = checked_folder_name(test_name(test) if options.name is None else options.name)
    if not test.exists():
        raise DataError(f"{test} does not exist.", "Name a test set of any form that ingest takes.")
    pool = load_pool(run)
    models = candidates(run, pool.preprocess.task, report)
    all_rounds = rounds(run)
    ledger = read_ledger(run) if has_control(all_rounds) else None
    files = [*data_inputs(run), *(path for candidate in models for path in candidate.files)]
    files += [*warmup_predictions_input(run), *estimate_inputs(all_rounds, ledger)]
    stage = run.stage(EVALUATE.name(test=name))
    _warn_of_stale(run, models, AnnotationView(all_rounds, ledger), report)
    # The warm-up is what all others are compared with, so that it must not be stale; they may be, with a warning.
    inputs_of(run, *models[0].files)
    inputs = {
        **inputs_of(run, *files, stale_ok=True),
        TEST_INPUT: _signature(test, pool, stage, options, report),
    }
    if options.truth is not None:
        if not options.truth.is_file():
            raise DataError(f"{options.truth} does not exist.", "Name a CSV with sample_id and clean_label.")
        inputs[f"{GIVEN}truth"] = sha256_file(options.truth)
    device = choose_device(options.device, report)
    key = StageKey(key_options(options), inputs, device.type)
    if not stage.is_current(key, report, force=options.force):
        with stage.working(key, report) as work:
            noise = noise_estimate(run, all_rounds, ledger, begun=True)
            setup = EvaluationSetup(run, pool, options, models, all_rounds, noise, device)
            scratch = work.folder / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed command
            try:
                _evaluate_models(test, setup, work, scratch, report)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    metrics = read_json(run.path(METRICS.path(test=name)), stage.recompute_hint)
    return Outcome({"run": str(run.root), "test": name, **metrics})


def _warn_of_stale(run: Run, models: list[Candidate], view: AnnotationView, report: Reporter) -> None:
    for name in (REWEIGHT.name(name=model.name) for model in models if model.table):
        state = state_of(run, name, view)
        if state.state in (STALE, DAMAGED, DEAD):
            again = run.stage(name).command()
            report.warn(f"{name} is evaluated as it is, but {state.state}: {state.why}. Run: {again}")


def _signature(test: Path, pool: Dataset, stage: Stage, options: EvaluateOptions, report: Reporter) -> str:
    """The test set's signature; the recorded one if only names or times differ from the set that was evaluated."""
    signature = dataset_signature(test, options)
    record = None if options.force else stage.record()
    recorded = signature if record is None else record.key.inputs.get(TEST_INPUT, signature)
    if record is None or recorded == signature:
        return signature
    report.note(f"{test} is not the file that was evaluated, or its time changed; comparing the contents.")
    with TemporaryDirectory() as scratch:
        samples, hashes = read_test_set(test, options, pool, Path(scratch), report)
    return recorded if _content(samples, hashes) == record.details.get("test_content") else signature


def _content(samples: Dataset, hashes: list[str]) -> str:
    """Hex digest over ids, labels and contents of a test set."""
    names = [samples.classes[label] for label in samples.labels.tolist()]
    return fingerprint(samples.classes, zip(samples.sample_ids, names, hashes, strict=True))


def _evaluate_models(test: Path, setup: EvaluationSetup, work: Work, scratch: Path, report: Reporter) -> None:
    pool, options = setup.pool, setup.options
    samples, hashes = read_test_set(test, options, pool, scratch, report)
    work.details["test_content"] = _content(samples, hashes)
    overlap = _overlap(setup, hashes, report)
    kept = np.flatnonzero(~overlap if options.leave_out_overlap else np.ones(len(samples), bool))
    if not len(kept):
        raise DataError(f"Every sample of {test} is in the pool too.", "Name another test set.")
    truth = None if options.truth is None else read_pool_truth(options.truth, pool)
    judged, scores = _judge(setup, samples, kept, truth)
    metrics: dict[str, Json] = {
        "test_samples": len(kept),
        "overlap": int(overlap.sum()),
        "classes": list(pool.classes),
        "warmup": scores.pop(WARMUP.kind),
        "take": choose(judged)._asdict(),
        "reweight": scores,
    }
    if truth is not None:
        metrics["noise"] = truth.noise(pool.labels)
    if setup.noise is not None:
        metrics["noise_estimate"] = setup.noise._asdict()
    columns: dict[str, Any] = {
        "sample_id": pa.array([samples.sample_ids[place] for place in kept.tolist()], pa.string()),
        "label": _names(pool, samples.labels[kept]),
        **{f"predicted_{each.candidate.name}": _names(pool, each.predicted) for each in judged},
    }
    skipped = TEST_SKIPPED.within()
    if (scratch / skipped).is_file():
        (scratch / skipped).replace(work.folder / skipped)
    write_parquet(work.folder / PREDICTIONS.within(), PREDICTIONS, columns)
    write_json(work.folder / METRICS.within(), metrics)


def _judge(
    setup: EvaluationSetup, samples: Dataset, kept: np.ndarray, truth: Truth | None
) -> tuple[list[Judged], dict[str, Json]]:
    """Every model with its predictions of the test set, the warm-up first; and the scores by name."""
    run, pool, k = setup.run, setup.pool, setup.options.k
    labels = samples.labels[kept]
    judged: list[Judged] = []
    scores: dict[str, Any] = {}
    for candidate in setup.models:
        predicted = predict_with(run, candidate, samples, setup.device).predicted.cpu().numpy()[kept]
        judged.append(Judged(candidate, predicted, predicted == labels))
        found = _scores(labels, predicted, pool)
        if candidate.table:
            found |= weight_scores(run, candidate.name, pool, truth, k)
            wrong = wrong_labels(run, candidate.name, setup.rounds) if candidate.cross_fit else None
            found |= {"wrong_labels": wrong and wrong._asdict(), "dead": candidate.dead or None}
            found["against_baseline"] = None
        else:
            names = [other.name for other in setup.models if other.table]
            found |= warmup_scores(run, names, pool, truth, k)
        scores[candidate.name] = found
    for name, difference in against_baseline(judged).items():
        scores[name]["against_baseline"] = difference._asdict()
    return judged, scores


def _scores(labels: np.ndarray, predicted: np.ndarray, pool: Dataset) -> dict[str, Json]:
    result = classification(labels, predicted, len(pool.classes))
    return {
        "test_accuracy": result.accuracy,
        "balanced_accuracy": result.balanced_accuracy,
        "macro_f1": result.macro_f1,
        "per_class_accuracy": dict(zip(pool.classes, result.per_class_accuracy, strict=True)),
        "confusion": list(result.confusion),
    }


def _overlap(setup: EvaluationSetup, hashes: Sequence[str], report: Reporter) -> np.ndarray:
    """(n',) bool: test samples whose content is in the pool too; with a note or warning where there are any."""
    if len(preprocess_of(setup.run).kinds) > 1 and setup.pool.preprocess.task == FEATURES:
        known = set(row_hashes(setup.pool.inputs))  # the recorded hashes are those of the images
    else:
        known = set(read_parquet(setup.run, SAMPLES, ["content_hash"])[0].to_pylist())
    shared = np.array([digest in known for digest in hashes])
    if shared.any():
        count = f"{int(shared.sum())} of {len(hashes)} test samples are in the pool too"
        if setup.options.leave_out_overlap:
            report.note(f"{count}; they are left out.")
        else:
            report.warn(f"{count}: the figures flatter. --leave-out-overlap judges the models on the others.")
    return shared


def _names(pool: Dataset, positions: np.ndarray) -> pa.Array:
    return pa.array(np.array(pool.classes, dtype=object)[positions].tolist(), pa.string())
