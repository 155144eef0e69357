"""compare: the models of several runs that were evaluated on the same test samples. No torch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metaselect.errors import ArtefactError, DataError, UsageError
from metaselect.metrics.paired import PairedDifference
from metaselect.records import Reporter
from metaselect.registry import BASELINE
from metaselect.report.comparison import Row
from metaselect.run.artefacts import EVALUATE, REWEIGHT, SELECT, WARMUP
from metaselect.run.evaluation_artefacts import METRICS
from metaselect.run.files import read_json
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.stages.freshness import DAMAGED, DONE, AnnotationView, state_of

NO_CONTENT = "an evaluation without a test set, or by an older version"


class Evaluation(NamedTuple):
    """An evaluation of a run: its name, and its ``metrics.json``."""

    name: str
    metrics: Mapping[str, Any]

    @property
    def content(self) -> str | None:
        """Hash over the samples; None where they are no test set."""
        found: str | None = self.metrics.get("test_content")
        return found


def compare(runs: Sequence[Run], test: str | None, model: str | None, report: Reporter) -> list[Row]:
    """The model to take of every run, and its control.

    Args:
        runs: in the order of the table.
        test: name of an evaluation, in any of the runs; None: there is one test set on which all were evaluated.
        model: take this one in every run; None: the one that the evaluation says to take.
        report: warns of what is stale or dead.

    Raises:
        UsageError: a run twice, a model that a run does not have, or several test sets and no name.
        DataError: the runs were evaluated on different test sets.
        ArtefactError: a run has no evaluation, or something is damaged.
    """
    places = [run.root.resolve() for run in runs]
    for position, place in enumerate(places):
        if place in places[:position]:
            raise UsageError(f"{runs[position].root} is named twice.", "Name each run once.")
    found = _on_one_test_set(runs, test)
    return [row for run, each in zip(runs, found, strict=True) for row in _rows_of(run, each, model, report)]


def _on_one_test_set(runs: Sequence[Run], test: str | None) -> list[Evaluation]:
    """The evaluation of each run, all on the same samples."""
    every = [_evaluations(run) for run in runs]
    shared = set.intersection(*({each.content for each in of_run if each.content} for of_run in every))
    if test is not None:
        named = [each for of_run in every for each in of_run if each.name == test]
        if not named:
            names = sorted({each.name for of_run in every for each in of_run})
            raise ArtefactError(f"No run has an evaluation {test!r}.", f"There are: {', '.join(names)}.")
        shared &= {each.content for each in named}
    if not shared:
        has = "; ".join(
            f"{run.root} has {', '.join(f'{each.name} ({_shown(each)})' for each in of_run)}"
            for run, of_run in zip(runs, every, strict=True)
        )
        raise DataError(
            f"The runs were not evaluated on the same test samples: {has}.",
            f"Evaluate each on one test set: metaselect {EVALUATE.command} {runs[-1].model_flags}",
        )
    found = [[each for each in of_run if each.content in shared] for of_run in every]
    if len(shared) > 1:
        choices = ", ".join(each.name for each in found[0])
        raise UsageError("The runs have several test sets in common.", f"Give --test: {choices}.")
    return [of_run[0] for of_run in found]


def _evaluations(run: Run) -> list[Evaluation]:
    """Every evaluation of a run."""
    run.info()
    stages = run.stage_names(EVALUATE.kind)
    if not stages:
        command = f"metaselect {EVALUATE.command} {run.model_flags}"
        raise ArtefactError(f"{run.root} has no evaluation.", f"First run: {command}")
    found = []
    for stage in stages:
        run.stage(stage).check()
        name = stage.partition("/")[2]
        found.append(
            Evaluation(name, read_json(run.path(METRICS.path(test=name)), run.stage(stage).recompute_hint))
        )
    return found


def _shown(evaluation: Evaluation) -> str:
    return NO_CONTENT if evaluation.content is None else f"samples {evaluation.content[:8]}"


def _rows_of(run: Run, evaluation: Evaluation, model: str | None, report: Reporter) -> list[Row]:
    """The row of the model, and that of its control if it is another one."""
    scores: dict[str, Any] = {WARMUP.kind: evaluation.metrics["warmup"], **evaluation.metrics["reweight"]}
    if model is not None and model not in scores:
        raise UsageError(
            f"{run.root} has no model {model!r} in evaluate/{evaluation.name}.",
            f"It has {', '.join(scores)}.",
        )
    taken = model or (evaluation.metrics["take"] or {}).get("model") or WARMUP.kind
    controls = [
        name
        for name, each in evaluation.metrics["reweight"].items()
        if _method(run, name) == BASELINE and not each.get("dead")
    ]
    control = BASELINE if BASELINE in controls else next(iter(controls), taken)
    view = AnnotationView.read(run)
    rows = []
    for name in dict.fromkeys([taken, control]):
        _warn(run, evaluation, name, view, report)
        roles = [
            ("named" if model else "taken") if name == taken else "",
            "control" if name in controls else "",
        ]
        rows.append(_row(run, evaluation.name, name, ", ".join(filter(None, roles)), scores[name]))
    return rows


def _method(run: Run, name: str) -> str:
    return str(run.stage(REWEIGHT.name(name=name)).require().key.options["method"])


def _warn(run: Run, evaluation: Evaluation, model: str, view: AnnotationView, report: Reporter) -> None:
    """Say what the row of a model follows from that is not up to date."""
    trained = WARMUP.name() if model == WARMUP.kind else REWEIGHT.name(name=model)
    for stage in (trained, EVALUATE.name(test=evaluation.name)):
        state = state_of(run, stage, view)
        if state.state == DAMAGED:
            raise ArtefactError(f"{stage} is damaged: {state.why}", run.stage(stage).recompute_hint)
        if state.state != DONE:
            report.warn(
                f"{run.root}: {stage} is {state.state}: {state.why.rstrip('.')}. Run: {run.stage(stage).command()}"
            )


def _row(run: Run, test: str, model: str, role: str, scores: Mapping[str, Any]) -> Row:
    warmup = run.stage(WARMUP.name()).require()
    stages = {WARMUP.kind: [warmup.key]}
    bought, method = 0, WARMUP.kind
    if model != WARMUP.kind:
        record = run.stage(REWEIGHT.name(name=model)).require()
        bought, method = record.details["result"]["bought"], str(record.key.options["method"])
        rounds = [run.stage(stage).require().key for stage in run.stage_names(SELECT.kind)]
        stages |= {SELECT.kind: rounds, REWEIGHT.kind: [record.key]}
    seeds = [
        "/".join(dict.fromkeys(str(key.options["seed"]) for key in keys)) for keys in stages.values() if keys
    ]
    selectors = dict.fromkeys(str(key.options["method"]) for key in stages.get(SELECT.kind, []))
    against = scores.get("against_baseline")
    return Row(
        run=str(run.root),
        test=test,
        model=model,
        role=role,
        method=method,
        selector=", ".join(selectors),
        bought=bought,
        seed=seeds[0] if len(set(seeds)) == 1 else "/".join(seeds),
        accuracy=scores["test_accuracy"],
        low=scores["test_accuracy_low"],
        high=scores["test_accuracy_high"],
        balanced_accuracy=scores["balanced_accuracy"],
        to_control=PairedDifference(**against) if against else None,
        settings=json.dumps(
            [
                run.info()["fingerprint"],
                bought,
                {kind: list(map(_settings, keys)) for kind, keys in stages.items()},
            ],
            sort_keys=True,
        ),
    )


def _settings(key: StageKey) -> dict[str, Any]:
    """The options that the user chose, but the seed; a rule's choices follow from these and the data."""
    return {name: value for name, value in key.options.items() if name != "seed" and name not in key.auto}
