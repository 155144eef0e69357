"""evaluate: the accuracy of the warm-up model and of every re-weighted one on a labelled test set.

With a truth file it also measures how well the weights separate wrong labels from right ones.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from metaselect.annotation.formats.csv import read_truth
from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import (
    NoiseEstimate,
    estimate_inputs,
    has_control,
    noise_estimate,
)
from metaselect.annotation.rounds import rounds
from metaselect.data.signature import dataset_signature
from metaselect.data.store import Dataset, data_inputs, load_pool, require_contents
from metaselect.data.summary import fingerprint
from metaselect.data.test_set import read_test_set
from metaselect.errors import DataError
from metaselect.metrics import classification, clean_label_auc, precision_of_lowest
from metaselect.models.build import build_model
from metaselect.options import EvaluateOptions, key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    CHECKPOINT,
    EVALUATE,
    METRICS,
    PREDICTIONS,
    REWEIGHT,
    ROBUST_MODEL,
    ROBUST_MODEL_INFO,
    SAMPLES,
    TEST_SKIPPED,
    WARMUP,
    WARMUP_MODEL,
    WEIGHTS,
)
from metaselect.run.files import read_json, sha256_file, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import EXTERNAL, GIVEN, StageKey
from metaselect.run.layout import Run, checked_folder_name
from metaselect.run.stage import Stage, Work
from metaselect.run.tables import read_parquet, write_parquet
from metaselect.stages.freshness import DAMAGED, STALE, AnnotationView, state_of
from metaselect.training.batches import Batches
from metaselect.training.device import choose_device
from metaselect.training.predict import predict
from metaselect.training.saved_models import load_weights, warmup_model

TEST_INPUT = f"{EXTERNAL}TEST"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: "warmup" or the name of a re-weighting.
        weights: path of the model's parameters below the run.
        description: path of its ``model.json`` below the run.
        table: path of its ``weights.parquet`` below the run; empty for the warm-up.
    """

    name: str
    weights: str
    description: str
    table: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all its files."""
        return tuple(path for path in (self.weights, self.description, self.table) if path)


def evaluate(test: Path, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    """Evaluate every model of the run on a test set, and the weights if there is a truth file.

    Raises:
        DataError: the test set or the truth file is bad.
        ArtefactError: no model yet, a damaged one, or a run of ids and labels alone.
    """
    with run.lock():
        return _evaluate(test, run, options, report)


def candidates(run: Run) -> list[Candidate]:
    """The warm-up's last epoch and every finished re-weighting."""
    last = warmup_model(run).checkpoints[-1]
    models = [Candidate(WARMUP.kind, CHECKPOINT.path(epoch=last), WARMUP_MODEL.path())]
    for stage in run.stage_names(REWEIGHT.kind):
        name = stage.partition("/")[2]
        models.append(
            Candidate(name, *(file.path(name=name) for file in (ROBUST_MODEL, ROBUST_MODEL_INFO, WEIGHTS)))
        )
    return models


def test_name(test: Path) -> str:
    """A folder name from a path: "data/my test.parquet" -> "my-test"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", test.resolve().stem).strip("-") or "test"


def _evaluate(test: Path, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    require_contents(run)
    name = checked_folder_name(test_name(test) if options.name is None else options.name)
    if not test.exists():
        raise DataError(f"{test} does not exist.", "Name a test set of any form that ingest takes.")
    pool = load_pool(run)
    models = candidates(run)
    all_rounds = rounds(run)
    ledger = read_ledger(run) if has_control(all_rounds) else None
    files = [*data_inputs(run), *(path for candidate in models for path in candidate.files)]
    files += estimate_inputs(all_rounds, ledger)
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
            _evaluate_models(test, run, pool, options, models, noise, device, work, report)
    metrics = read_json(run.path(METRICS.path(test=name)), stage.recompute_hint)
    return Outcome({"run": str(run.root), "test": name, **metrics})


def _warn_of_stale(run: Run, models: list[Candidate], view: AnnotationView, report: Reporter) -> None:
    for name in (REWEIGHT.name(name=model.name) for model in models if model.table):
        state = state_of(run, name, view)
        if state.state in (STALE, DAMAGED):
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


def _evaluate_models(
    test: Path,
    run: Run,
    pool: Dataset,
    options: EvaluateOptions,
    models: list[Candidate],
    noise: NoiseEstimate | None,
    device: torch.device,
    work: Work,
    report: Reporter,
) -> None:
    scratch = work.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted command
    samples, hashes = read_test_set(test, options, pool, scratch, report)
    work.details["test_content"] = _content(samples, hashes)
    _warn_of_pool_images(run, hashes, report)
    columns: dict[str, Any] = {
        "sample_id": pa.array(samples.sample_ids, pa.string()),
        "label": _names(pool, samples.labels),
    }
    metrics: dict[str, Json] = {"test_samples": len(samples), "classes": list(pool.classes)}
    reweighted: dict[str, Json] = {}
    truth = None if options.truth is None else _true_labels(options.truth, pool)
    for candidate in models:
        predicted = _predict(run, candidate, samples, device)
        columns[f"predicted_{candidate.name}"] = _names(pool, predicted)
        scores = _scores(samples.labels, predicted, pool)
        if candidate.table:
            scores |= _weight_scores(run, candidate, pool, truth, options.k)
            reweighted[candidate.name] = scores
        else:
            metrics["warmup"] = scores
    metrics["reweight"] = reweighted
    if truth is not None:
        metrics["noise"] = {"measured_rate": float((truth != pool.labels).mean()), "samples": len(pool)}
    if noise is not None:
        metrics["noise_estimate"] = noise._asdict()
    del samples  # it maps an array of the scratch folder, which is deleted below
    skipped = TEST_SKIPPED.within()
    if (scratch / skipped).is_file():
        (scratch / skipped).replace(work.folder / skipped)
    shutil.rmtree(scratch)
    write_parquet(work.folder / PREDICTIONS.within(), PREDICTIONS, columns)
    write_json(work.folder / METRICS.within(), metrics)


def _predict(run: Run, candidate: Candidate, samples: Dataset, device: torch.device) -> np.ndarray:
    """(n,) int64: the classes that a model predicts for the test set."""
    described = read_json(run.path(candidate.description), "Run the stage again with --force.")
    shape = samples.inputs.shape[1:]
    model = build_model(described["architecture"], shape, len(samples.classes), seed=0)
    load_weights(model, run.path(candidate.weights))
    batches = Batches(
        samples.inputs,
        samples.labels,
        samples.preprocess,
        device=device,
        channels=described["input_channels"],
    )
    predictions = predict(model.to(device), batches, torch.arange(len(samples)))
    return predictions.predicted.cpu().numpy()


def _scores(labels: np.ndarray, predicted: np.ndarray, pool: Dataset) -> dict[str, Json]:
    result = classification(labels, predicted, len(pool.classes))
    return {
        "test_accuracy": result.accuracy,
        "macro_f1": result.macro_f1,
        "per_class_accuracy": dict(zip(pool.classes, result.per_class_accuracy, strict=True)),
        "confusion": [list(row) for row in result.confusion],
    }


def _weight_scores(
    run: Run, candidate: Candidate, pool: Dataset, truth: np.ndarray | None, k: int | None
) -> dict[str, Json]:
    """How well the weights separate wrong labels from right ones; bought and unusable samples are left out."""
    if truth is None:
        return {"weight_auc": None}
    table = read_parquet(run, WEIGHTS, ["weight", "weight_kind", "bought"], name=candidate.name)
    # Bought and unusable samples got their weight from people and not from the method.
    learnt = ~table["bought"].to_numpy() & (np.array(table["weight_kind"].to_pylist()) != "unusable")
    weights = table["weight"].to_numpy()[learnt].astype(np.float64)
    clean = (pool.labels == truth)[learnt]
    count = min(int((~clean).sum()) if k is None else k, len(clean))
    return {
        "weight_auc": clean_label_auc(weights, clean),
        "lowest_k": count,
        # Equal weights name no sample as the one with the lowest weight.
        "precision_of_lowest_k": precision_of_lowest(weights, clean, count) if np.ptp(weights) else None,
    }


def _true_labels(path: Path, pool: Dataset) -> np.ndarray:
    """(n,) int64 true classes of the pool.

    Raises:
        DataError: a sample is not in the truth file, or its label is no class.
    """
    truth: Mapping[str, str] = read_truth(path.read_bytes(), str(path))
    missing = [sample_id for sample_id in pool.sample_ids if sample_id not in truth]
    if missing:
        raise DataError(
            f"{path} has no clean_label for {len(missing)} of {len(pool)} samples, e.g. {missing[0]}.",
            "Use the truth file of the data set that was ingested.",
        )
    position = {name: index for index, name in enumerate(pool.classes)}
    strange = sorted({truth[sample_id] for sample_id in pool.sample_ids} - set(position))
    if strange:
        raise DataError(
            f"{path} holds the label {strange[0]!r}, which is no class of the run.",
            f"The classes are {', '.join(pool.classes[:20])}.",
        )
    return np.array([position[truth[sample_id]] for sample_id in pool.sample_ids], np.int64)


def _warn_of_pool_images(run: Run, hashes: list[str], report: Reporter) -> None:
    known = set(read_parquet(run, SAMPLES, ["content_hash"])[0].to_pylist())
    shared = sum(digest in known for digest in hashes)
    if shared:
        report.warn(f"{shared} of {len(hashes)} test samples are in the pool too: the figures flatter.")


def _names(pool: Dataset, positions: np.ndarray) -> pa.Array:
    return pa.array(np.array(pool.classes, dtype=object)[positions].tolist(), pa.string())
