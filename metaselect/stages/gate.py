"""gate: whether the figures of an evaluation, and the noise of the labels, keep within limits. No torch."""

from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import has_control, noise_estimate
from metaselect.annotation.rounds import rounds
from metaselect.errors import ArtefactError, DataError, UsageError
from metaselect.report.gate import Figure, GateReport, Limits, judge
from metaselect.run.artefacts import DATA, EVALUATE, FORMS, REWEIGHT, WARMUP
from metaselect.run.evaluation_artefacts import METRICS
from metaselect.run.files import parse_json, read_json
from metaselect.run.layout import Run
from metaselect.stages.freshness import DAMAGED, DONE, AnnotationView, State, state_of
from metaselect.stages.status import next_step

SCORES = {
    "min_accuracy": "test_accuracy",
    "min_balanced_accuracy": "balanced_accuracy",
    "min_auc": "rank_auc",
}
"""Keys of ``metrics.json`` that conditions are about."""


class Evaluated(NamedTuple):
    """A model in an evaluation.

    Attributes:
        run: the run.
        test: name of the evaluation.
        metrics: its ``metrics.json``.
        model: name of the model.
        outdated: the first stage that the figures follow from and that is not done; None where all are.
        more_labels: the command that goes on towards a better model.
    """

    run: Run
    test: str
    metrics: Mapping[str, Any]
    model: str
    outdated: State | None
    more_labels: str

    @property
    def again(self) -> str:
        """The command of the evaluation."""
        return self.run.stage(EVALUATE.name(test=self.test)).command()


def gate(
    run: Run,
    limits: Limits,
    *,
    test: str | None = None,
    model: str | None = None,
    baseline: Path | None = None,
    confident: bool = False,
) -> GateReport:
    """What becomes of every condition that has a limit.

    Args:
        run: the run.
        limits: of the conditions.
        test: name of the evaluation; None: there is only one.
        model: "warmup" or the name of a re-weighting; None: the one that the evaluation says to take.
        baseline: a ``metrics.json``, for the drop; None where there is no limit for that.
        confident: whole intervals must be on the right side of their limits.

    Raises:
        UsageError: a name is missing or unknown.
        DataError: the baseline is bad.
        ArtefactError: there is no evaluation, or something is damaged.
    """
    run.info()
    given = limits.given
    figures: dict[str, Figure] = {}
    if "max_noise" in given:
        figures["max_noise"] = _noise(run)
    evaluated = None
    if given.keys() - {"max_noise"} or test is not None or model is not None:
        evaluated = _evaluated(run, test, model)
        figures |= {name: _score(evaluated, name) for name in SCORES}
        if baseline is not None:
            figures["max_drop"] = _drop(evaluated, baseline, model)
    return GateReport(
        str(run.root),
        evaluated.test if evaluated else "",
        evaluated.model if evaluated else "",
        [judge(name, figures[name], limit, confident=confident) for name, limit in given.items()],
    )


def _noise(run: Run) -> Figure:
    """The share of wrong labels among the control samples, which needs no evaluation."""
    every = rounds(run)
    estimate = noise_estimate(run, every, read_ledger(run) if has_control(every) else None)
    draw = f"metaselect select --round next --budget 50 --control 0.2 {run.model_flags}"
    if estimate is None:
        return Figure(None, unknown="there are no control samples, drawn at random", command=draw)
    if estimate.rate is None:
        ask = f"metaselect {FORMS.command} {run.flag}"
        return Figure(None, unknown="no control sample has a clean label yet", command=ask)
    correct = (
        f"metaselect export {run.flag} -o DIR"  # the data with its labels corrected, for a run of its own
    )
    return Figure(estimate.rate, estimate.low, estimate.high, command=correct, narrower=draw)


def _evaluated(run: Run, test: str | None, model: str | None) -> Evaluated:
    """The evaluation and the model that the conditions are about."""
    stage = _stage_name(run, test)
    name = stage.partition("/")[2]
    run.stage(stage).check()
    metrics = read_json(run.path(METRICS.path(test=name)), run.stage(stage).recompute_hint)
    models = [WARMUP.kind, *metrics["reweight"]]
    if model is not None and model not in models:
        raise UsageError(f"{stage} has no model {model!r}.", f"Its models: {', '.join(models)}.")
    chosen = model or (metrics["take"] or {}).get("model")
    if chosen is None:
        raise UsageError(f"{stage} names no model to take.", f"Give --model: {', '.join(models)}.")
    trained = WARMUP.name() if chosen == WARMUP.kind else REWEIGHT.name(name=chosen)
    view = AnnotationView.read(run)
    states = [state_of(run, each, view) for each in (DATA.name(), WARMUP.name(), trained, stage)]
    for each in states:
        if each.state == DAMAGED:
            raise ArtefactError(f"{each.stage} is damaged: {each.why}", run.stage(each.stage).recompute_hint)
    outdated = next((each for each in states if each.state != DONE), None)
    further = f"metaselect select --round next --budget 50 {run.model_flags}"
    return Evaluated(run, name, metrics, chosen, outdated, next_step(run, view) or further)


def _stage_name(run: Run, test: str | None) -> str:
    """The stage of the evaluation that is meant.

    Raises:
        ArtefactError: there is none.
        UsageError: there are several, and no name.
    """
    stages = run.stage_names(EVALUATE.kind)
    names = [stage.partition("/")[2] for stage in stages]
    if test is not None and test not in names:
        found = f"Evaluations: {', '.join(names)}" if names else "There is none"
        command = f"metaselect {EVALUATE.command} --name NAME {run.model_flags}"
        raise ArtefactError(f"{run.root} has no evaluation {test!r}.", f"{found}. Make it: {command}")
    if not names:
        command = f"metaselect {EVALUATE.command} {run.model_flags}"
        raise ArtefactError(f"{run.root} has no evaluation.", f"First run: {command}")
    if test is None and len(names) > 1:
        raise UsageError(f"{run.root} has {len(names)} evaluations.", f"Give --test: {', '.join(names)}.")
    return EVALUATE.name(test=test or names[0])


def _score(evaluated: Evaluated, name: str) -> Figure:
    """The figure of a condition of ``SCORES``."""
    outdated = _outdated(evaluated)
    if outdated:
        return outdated
    scores, key = _scores(evaluated.metrics, evaluated.model), SCORES[name]
    if scores.get(key) is not None:
        low, high = scores.get(f"{key}_low"), scores.get(f"{key}_high")
        # A bootstrap of samples that are all right, or all wrong, has no width, and says nothing.
        if low == high:
            low = high = None
        return Figure(scores[key], low, high, command=evaluated.more_labels)
    if name != "min_auc":
        return Figure(None, unknown=scores.get("not_judged") or "the evaluation has no such figure")
    if "noise" in evaluated.metrics:
        return Figure(None, unknown="all ranks are equal, or the truth has labels of one kind alone")
    command = evaluated.run.stage(EVALUATE.name(test=evaluated.test)).command("--truth", "TRUTH.csv")
    return Figure(None, unknown="the evaluation had no --truth", command=command)


def _outdated(evaluated: Evaluated) -> Figure | None:
    """The figure that is not known, where the evaluation or what it is about is not up to date."""
    if evaluated.outdated is None:
        return None
    stage, state, why = evaluated.outdated
    command = evaluated.run.stage(stage).command()
    return Figure(None, unknown=f"{stage} is {state}{f': {why}' if why else ''}", command=command)


def _scores(metrics: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = metrics["warmup"] if model == WARMUP.kind else metrics["reweight"][model]
    return found


def _drop(evaluated: Evaluated, path: Path, model: str | None) -> Figure:
    """The baseline's accuracy less this one's.

    Raises:
        DataError: the baseline is no ``metrics.json``, or has no accuracy of the model.
    """
    try:
        baseline = parse_json(path)
        name = model or baseline["take"]["model"]
        scores = _scores(baseline, name)
        before = [_share(scores[f"test_accuracy{end}"]) for end in ("", "_low", "_high")]
        content = baseline.get("test_content")
    except OSError as error:
        raise DataError(
            f"--baseline {path}: {error.strerror}.", "Name the metrics of an evaluation."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else f"{error}"
        what = f"{path} has no accuracy of {model or 'the model to take'}: {reason}."
        raise DataError(what, "Name the metrics of an evaluation in which the model was judged.") from None
    outdated = _outdated(evaluated)
    if outdated:
        return outdated
    now = _scores(evaluated.metrics, evaluated.model)
    if now["test_accuracy"] is None:
        return Figure(None, unknown=now.get("not_judged") or "the evaluation has no accuracy")
    if content is None and evaluated.metrics.get("test_content") is None:
        return Figure(
            None,
            unknown="without a test set each evaluation is on the labels bought by then",
        )
    if content is None or content != evaluated.metrics.get("test_content"):
        return Figure(None, unknown="the baseline was not measured on the same test samples")
    after = [now[f"test_accuracy{end}"] for end in ("", "_low", "_high")]
    return drop_between(before, after)._replace(command=evaluated.more_labels)


def drop_between(before: Sequence[float], after: Sequence[float]) -> Figure:
    """The first share less the second.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (8), 873-890: method 10, from the two score intervals.
    Differs: here both are of the same samples, whose pairs ``metrics.json`` does not have; so the interval is wide.

    Args:
        before: the first share and the limits of its interval.
        after: of the second.
    """
    drop = before[0] - after[0]
    low = drop - hypot(before[0] - before[1], after[2] - after[0])
    high = drop + hypot(before[2] - before[0], after[0] - after[1])
    return Figure(drop, low, high)


def _share(value: object) -> float:
    """The value of a foreign file, if it is a number from 0 to 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return float(value)
