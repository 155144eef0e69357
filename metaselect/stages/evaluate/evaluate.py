"""evaluate: the accuracy of the warm-up model and of every re-weighted one on a test set, or on bought labels.

With a truth file it also measures how well the weights separate wrong labels from right ones.
"""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
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
from metaselect.data.store import Dataset, data_inputs, load_pool, require_contents
from metaselect.data_options import EvaluateOptions
from metaselect.errors import ConditionUnmet, DataError, UsageError
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import (
    EVALUATE,
    META_SET,
    METRICS,
    PER_CLASS,
    PREDICTIONS,
    REWEIGHT,
    WARMUP,
)
from metaselect.run.files import read_json, sha256_file, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import GIVEN, StageKey
from metaselect.run.layout import Run, checked_folder_name
from metaselect.run.stage import Work
from metaselect.run.tables import write_parquet, write_rows
from metaselect.stages.evaluate.bought_labels import check_without_test_set, labelled_bought_samples
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples, candidates
from metaselect.stages.evaluate.choice import Judged, against_baseline, choose
from metaselect.stages.evaluate.label_issues import Truth, read_pool_truth, warmup_scores, weight_scores
from metaselect.stages.evaluate.scores import SCORES, ClassScores, model_scores
from metaselect.stages.evaluate.test_set import (
    TEST_INPUT,
    labelled_test_set,
    test_name,
    test_signature,
)
from metaselect.stages.freshness import DAMAGED, DEAD, DONE, STALE, AnnotationView, state_of
from metaselect.stages.model_choice import ON_BOUGHT_LABELS, choose_by_comparisons
from metaselect.stages.wrong_labels import wrong_labels
from metaselect.training.device import choose_device
from metaselect.training.pool_predictions import warmup_predictions_input


class EvaluationSetup(NamedTuple):
    """What is evaluated.

    Attributes:
        run: the run.
        pool: its data.
        options: of the command.
        models: the warm-up first.
        usable: names of the stages of models that are done, up to date and not dead.
        rounds: of the run.
        noise: the estimate from them.
        device: on which models predict.
    """

    run: Run
    pool: Dataset
    options: EvaluateOptions
    models: Sequence[Candidate]
    usable: Collection[str]
    rounds: Sequence[Round]
    noise: NoiseEstimate | None
    device: torch.device


def evaluate(test: Path | None, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    """Evaluate every model of the run on a test set, and the weights if there is a truth file.

    Args:
        test: None: on the bought labels.
        run: the run.
        options: how to read the test set, and what to judge.
        report: notes, warnings and progress.

    Raises:
        UsageError: options that do not fit together.
        ConditionUnmet: no test set, and too few bought labels or no model that was trained without them.
        DataError: the test set or the truth file is bad.
        ArtefactError: no model yet, a damaged one, or a run of ids and labels alone.
    """
    with run.lock():
        return _evaluate(test, run, options, report)


def _evaluate(test: Path | None, run: Run, options: EvaluateOptions, report: Reporter) -> Outcome:
    require_contents(run)
    name = _name(test, options)
    pool = load_pool(run)
    models = candidates(run, pool.preprocess.task, report)
    all_rounds = rounds(run)
    ledger = read_ledger(run) if has_control(all_rounds) else None
    files = [*data_inputs(run), *(path for candidate in models for path in candidate.files)]
    files += [*warmup_predictions_input(run), *estimate_inputs(all_rounds, ledger)]
    stage = run.stage(EVALUATE.name(test=name))
    bought = None
    if test is None:
        bought = labelled_bought_samples(run, pool, all_rounds)
        files.append(META_SET.path())
    usable = _usable(run, models, AnnotationView(all_rounds, ledger), report)
    # The warm-up is what all others are compared with, so that it must not be stale; they may be, with a warning.
    inputs_of(run, *models[0].files)
    inputs = inputs_of(run, *files, stale_ok=True)
    if test is not None:
        inputs[TEST_INPUT] = test_signature(test, pool, stage, options, report)
    if options.truth is not None:
        if not options.truth.is_file():
            raise DataError(f"{options.truth} does not exist.", "Name a CSV with sample_id and clean_label.")
        inputs[f"{GIVEN}truth"] = sha256_file(options.truth)
    device = choose_device(options.device, report)
    key = StageKey(key_options(options), inputs, device.type)
    if not stage.is_current(key, report, force=options.force):
        with stage.working(key, report) as work:
            noise = noise_estimate(run, all_rounds, ledger, begun=True)
            setup = EvaluationSetup(run, pool, options, models, usable, all_rounds, noise, device)
            scratch = work.folder / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed command
            try:
                samples = bought or _test_set(test, setup, work, scratch, report)
                _evaluate_models(samples, setup, work)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    metrics = read_json(run.path(METRICS.path(test=name)), stage.recompute_hint)
    return Outcome({"run": str(run.root), "test": name, **metrics})


def _name(test: Path | None, options: EvaluateOptions) -> str:
    """The name of the folder below ``evaluate/``.

    Raises:
        UsageError: the options do not fit.
        DataError: the test set does not exist.
    """
    if test is None:
        check_without_test_set(options)
        return ON_BOUGHT_LABELS
    if not test.exists():
        raise DataError(f"{test} does not exist.", "Name a test set of any form that ingest takes.")
    name = checked_folder_name(test_name(test) if options.name is None else options.name)
    if name == ON_BOUGHT_LABELS:
        raise UsageError(f"--name {name} is the evaluation without a test set.", "Choose another name.")
    return name


def _usable(run: Run, models: list[Candidate], view: AnnotationView, report: Reporter) -> frozenset[str]:
    """Names of the stages of models that are done, up to date and not dead; with a warning for the others."""
    usable = {WARMUP.name()}
    for name in (REWEIGHT.name(name=model.name) for model in models if model.table):
        state = state_of(run, name, view)
        if state.state == DONE:
            usable.add(name)
        elif state.state in (STALE, DAMAGED, DEAD):
            again = run.stage(name).command()
            report.warn(f"{name} is evaluated as it is, but {state.state}: {state.why}. Run: {again}")
    return frozenset(usable)


def _test_set(
    test: Path | None, setup: EvaluationSetup, work: Work, scratch: Path, report: Reporter
) -> LabelledSamples:
    assert test is not None  # else the samples are bought ones
    return labelled_test_set(
        test,
        setup.run,
        setup.pool,
        setup.options,
        setup.device,
        work=work,
        scratch=scratch,
        report=report,
    )


def _evaluate_models(samples: LabelledSamples, setup: EvaluationSetup, work: Work) -> None:
    run, pool, options = setup.run, setup.pool, setup.options
    truth = None if options.truth is None else read_pool_truth(options.truth, pool)
    judged, scores, per_class = _judge(setup, samples, truth)
    if not judged:
        raise ConditionUnmet(
            f"No model can be judged on the bought labels: {scores[WARMUP.kind]['not_judged']}.",
            "Run warmup with folds, or reweight with a comparison, or name TEST.",
        )
    on_test_set = samples.facts["judged_on"] == "test_set"
    take = choose(judged) if on_test_set else choose_by_comparisons(run, setup.usable)
    metrics: dict[str, Json] = {
        **samples.facts,
        "classes": list(pool.classes),
        "warmup": scores.pop(WARMUP.kind),
        "take": take and take._asdict(),
        "reweight": scores,
    }
    if truth is not None:
        metrics["noise"] = truth.noise(pool.labels)
    if setup.noise is not None:
        metrics["noise_estimate"] = setup.noise._asdict()
    columns: dict[str, Any] = {
        "sample_id": pa.array(samples.sample_ids, pa.string()),
        "label": _names(pool, samples.labels),
        **{f"predicted_{each.candidate.name}": _names(pool, each.predictions.predicted) for each in judged},
        **{
            f"prob_{each.candidate.name}": _probs(each.predictions.confidence, len(samples.labels))
            for each in judged
        },
        **{
            f"label_prob_{each.candidate.name}": _probs(each.predictions.label_prob, len(samples.labels))
            for each in judged
        },
    }
    write_parquet(work.folder / PREDICTIONS.within(), PREDICTIONS, columns)
    rows = [(name, *row) for name, scored in per_class.items() for row in scored]
    write_rows(work.folder / PER_CLASS.within(), PER_CLASS, rows)
    write_json(work.folder / METRICS.within(), metrics)


def _judge(
    setup: EvaluationSetup, samples: LabelledSamples, truth: Truth | None
) -> tuple[list[Judged], dict[str, Any], dict[str, list[ClassScores]]]:
    """Every model with its predictions of the samples, the warm-up first; the scores, and those on classes, by name."""
    run, pool, k = setup.run, setup.pool, setup.options.k
    judged: list[Judged] = []
    scores: dict[str, Any] = {}
    per_class: dict[str, list[ClassScores]] = {}
    for candidate in setup.models:
        predictions = samples.predict(candidate)
        found: dict[str, Any]
        if isinstance(predictions, str):
            found = {**dict.fromkeys(SCORES), "not_judged": predictions}
        else:
            judged.append(Judged(candidate, predictions, predictions.predicted == samples.labels))
            found, rows = model_scores(samples.labels, predictions, pool.classes)
            found["not_judged"], per_class[candidate.name] = None, rows
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
    return judged, scores, per_class


def _names(pool: Dataset, positions: np.ndarray) -> pa.Array:
    return pa.array(np.array(pool.classes, dtype=object)[positions].tolist(), pa.string())


def _probs(values: np.ndarray | None, m: int) -> pa.Array:
    """A column of (m,) probabilities, of nulls where they are not known."""
    return pa.nulls(m, pa.float32()) if values is None else pa.array(values.astype(np.float32))
