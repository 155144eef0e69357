"""evaluate: the accuracy of the warm-up model and of every re-weighted one on a test set, or on bought labels.

With a truth file it also measures how well the weights separate wrong labels from right ones.
"""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from metaselect import ranks
from metaselect.annotation.ledger import Ledger, read_ledger
from metaselect.annotation.quality.noise_estimate import (
    estimate_inputs,
    has_control,
    noise_by_class,
    noise_estimate,
)
from metaselect.annotation.rounds import Round, rounds
from metaselect.data.store import data_inputs, load_pool, require_contents
from metaselect.data_options import EvaluateOptions
from metaselect.errors import DataError, UsageError
from metaselect.options import key_options
from metaselect.records import Json, Outcome, Reporter
from metaselect.run.artefacts import EVALUATE, META_SET, REWEIGHT
from metaselect.run.evaluation_artefacts import METRICS, REPORT
from metaselect.run.files import read_json
from metaselect.run.inputs import inputs_of
from metaselect.run.key import GIVEN, StageKey
from metaselect.run.layout import Run, checked_folder_name
from metaselect.run.stage import Work, dry_run_outcome
from metaselect.stages.evaluate.bought_labels import check_without_test_set, labelled_bought_samples
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples, candidates
from metaselect.stages.evaluate.cost import needs, require_room
from metaselect.stages.evaluate.judging import EvaluationSetup, judge_models
from metaselect.stages.evaluate.test_set import (
    TEST_INPUT,
    labelled_test_set,
    test_name,
    test_signature,
    with_columns_of_run,
)
from metaselect.stages.evaluate.truth import truth_digest
from metaselect.stages.freshness import DAMAGED, DEAD, ORACLE, STALE, AnnotationView, State, state_of
from metaselect.stages.model_choice import ON_BOUGHT_LABELS
from metaselect.stages.report.evaluated import Evaluated
from metaselect.stages.report.report import write_report
from metaselect.stages.report.shown import shown_of
from metaselect.training.device import choose_device
from metaselect.training.pool_predictions import warmup_predictions_input


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
    pool = load_pool(run, workers=options.workers)
    if test is not None:
        options = with_columns_of_run(test, run, pool, options, report)
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
    elif options.truth is not None and run.path(META_SET.path()).is_file():
        files.append(META_SET.path())  # how many labels are right by now
    shown = shown_of(run, models, all_rounds, images=not options.no_images)
    files += shown.files
    troubles = _troubles(run, models, AnnotationView(all_rounds, ledger), report)
    # The warm-up is what all others are compared with, so that it must not be stale; they may be, with a warning.
    inputs_of(run, *models[0].files)
    inputs = inputs_of(run, *files, stale_ok=True)
    if test is not None:
        inputs[TEST_INPUT] = test_signature(test, pool, stage, options, report)
    if options.truth is not None:
        inputs[f"{GIVEN}truth"] = truth_digest(options.truth)
    device = choose_device(options.device, report)
    key = StageKey(key_options(options), inputs, device.type)
    if not stage.is_current(key, report, force=options.force):
        require_room(pool, device)
        noise = _noise(run, all_rounds, ledger)
        setup = EvaluationSetup(run, pool, options, models, troubles, all_rounds, noise, shown, device)
        if options.dry_run:
            return dry_run_outcome(stage, key, needs(test, len(bought.labels) if bought else 0, setup))
        with stage.working(key, report) as work:
            scratch = work.folder / f"scratch-{ranks.rank()}"
            work.unfinished.add(scratch.name)
            ranks.by_first(partial(_remove_scratch, work.folder))  # left by a killed command
            try:
                samples = bought or _test_set(test, setup, work, scratch, report)
                metrics = judge_models(samples, setup, work)
                write_report(Evaluated(setup, name, metrics), inputs, work)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    printed = read_json(run.path(METRICS.path(test=name)), stage.recompute_hint)
    page = str(run.path(REPORT.path(test=name)))
    return Outcome({"run": str(run.root), "test": name, "report": page, **printed})


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


def _troubles(run: Run, models: list[Candidate], view: AnnotationView, report: Reporter) -> dict[str, State]:
    """By name, the stages of models that are stale, damaged or dead; with a warning for each."""
    troubles: dict[str, State] = {}
    for name in (REWEIGHT.name(name=model.name) for model in models if model.table):
        state = state_of(run, name, view)
        if state.state == ORACLE:
            troubles[name] = state
            report.warn(f"{name} is no result: {state.why}.")
        if state.state in (STALE, DAMAGED, DEAD):
            troubles[name] = state
            again = run.stage(name).command()
            report.warn(f"{name} is evaluated as it is, but {state.state}: {state.why}. Run: {again}")
    return troubles


def _remove_scratch(folder: Path) -> None:
    for left in folder.glob("scratch*"):
        shutil.rmtree(left, ignore_errors=True)


def _noise(run: Run, all_rounds: Sequence[Round], ledger: Ledger | None) -> dict[str, Json]:
    estimate = noise_estimate(run, all_rounds, ledger, begun=True)
    if estimate is None:
        return {}
    by_class = noise_by_class(run, all_rounds, ledger)
    return {
        "noise_estimate": estimate._asdict(),
        "noise_by_class": {label: noise._asdict() for label, noise in by_class.items()},
    }


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
