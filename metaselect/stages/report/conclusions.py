"""The verdict of the report, and what would make its figures meaningless."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from metaselect.records import Json
from metaselect.registry import BASELINE
from metaselect.run.artefacts import WARMUP
from metaselect.stages.freshness import DAMAGED, DEAD, ORACLE
from metaselect.stages.report.commands import RUN_FLAG, shown_command
from metaselect.stages.report.evaluated import Evaluated
from metaselect.text import counted, examples

BUY_FIRST = f"metaselect select --budget 50 --control 0.2 {RUN_FLAG}"
BUYING = f"metaselect select --round next --budget {{budget}} --control 0.2 {RUN_FLAG}"
DEFAULT_BUDGET = 50


SHOWN = tuple(
    f"{score}{end}"
    for score in ("test_accuracy", "balanced_accuracy", "log_loss", "calibration_error")
    for end in ("", "_low", "_high")
)
"""Scores of a model."""


class Check(NamedTuple):
    """One thing that would make the figures meaningless.

    Attributes:
        name: for programs.
        about: what is checked.
        ok: whether all is well.
        finding: what was found, as a sentence.
        command: that mends it; None where all is well, or no command does.
    """

    name: str
    about: str
    ok: bool
    finding: str
    command: str | None = None


def verdict(evaluated: Evaluated, checks: list[Check]) -> dict[str, Json]:
    """Share of wrong labels, every model from before to after, and the next command."""
    take = evaluated.metrics["take"]
    baseline = evaluated.baseline
    against = "against_warmup" if baseline is None else "against_baseline"
    models: list[Json] = []
    for each in sorted(evaluated.models, key=lambda each: (bool(each.table), each != baseline)):
        scores = evaluated.scores(each.name)
        models.append(
            {
                "model": each.name,
                "before": not each.table,
                "control": each == baseline,
                "after": take is not None and each.name == evaluated.after,
                **{key: scores[key] for key in SHOWN},
                "difference": scores.get(against),
                "not_judged": scores["not_judged"],
                "dead": bool(each.dead),
                "oracle": each.oracle,
            }
        )
    noise = evaluated.metrics.get("noise")
    why, command = _next(evaluated, checks)
    return {
        "wrong_share": _wrong_share(evaluated),
        "measured_wrong_share": noise and noise["measured_rate"],
        "samples": evaluated.metrics["test_samples"],
        "judged_on": evaluated.metrics["judged_on"],
        "compared_with": WARMUP.kind if baseline is None else baseline.name,
        "models": models,
        "take": take,
        "next": {"why": why, "command": command},
    }


def _wrong_share(evaluated: Evaluated) -> Json:
    """The estimated share of wrong labels; None where nothing was bought that it could be from.

    From control samples where there are any: with a model's predictions, which make the interval narrower, or without.
    """
    subject = evaluated.subject
    estimate = subject and evaluated.scores(subject.name)["wrong_labels"]
    noise: Any = evaluated.metrics.get("noise_estimate")
    if noise and noise["rate"] is not None and not (estimate and estimate["control"]):
        limits = {"estimate": noise["rate"], "low": noise["low"], "high": noise["high"]}
        return {**limits, "labels": noise["answered"], "control": True, "of": len(evaluated.pool)}
    if not estimate or not estimate["not_bought"]:
        return None
    shares = {key: estimate[key] / estimate["not_bought"] for key in ("estimate", "low", "high")}
    of = {"labels": estimate["labels"], "control": estimate["control"], "of": estimate["not_bought"]}
    return {**shares, **of}


def _next(evaluated: Evaluated, checks: list[Check]) -> tuple[str, str | None]:
    """What to do next, and with which command."""
    if len(evaluated.models) == 1:
        return (
            "No model has learnt from bought labels yet. This says what to do:",
            f"metaselect status {RUN_FLAG}",
        )
    for check in checks:
        if not check.ok and check.command:
            return check.finding, check.command
    if _wrong_share(evaluated) is None:
        return (
            "How many labels are wrong is not known: no bought sample was drawn at random.",
            BUYING.format(budget=_budget(evaluated)),
        )
    return "Where more labels can be paid for: a next round.", BUYING.format(budget=_budget(evaluated))


def _budget(evaluated: Evaluated) -> int:
    """The size of the last round."""
    return len(evaluated.rounds[-1].samples) if evaluated.rounds else DEFAULT_BUDGET


def checks(evaluated: Evaluated) -> list[Check]:
    """Every check, in the order of their weight."""
    return [
        _stale(evaluated),
        _dead(evaluated),
        _control_arm(evaluated),
        *_judged_on(evaluated),
        _classes_without_label(evaluated),
    ]


def _stale(evaluated: Evaluated) -> Check:
    about = "Every model follows from today's data and labels"
    stale = [state for state in evaluated.setup.troubles.values() if state.state not in (DEAD, ORACLE)]
    if not stale:
        return Check("stale", about, True, "Nothing changed since they were trained.")
    found = " ".join(f"{each.stage} is {each.state}: {each.why}." for each in stale)
    again = evaluated.run.stage(stale[0].stage).command(*["--force"] * (stale[0].state == DAMAGED))
    return Check("stale", about, False, found, shown_command(evaluated.run, again))


def _dead(evaluated: Evaluated) -> Check:
    dead = [each for each in evaluated.models if each.dead]
    about = "No training is dead"
    if not dead:
        return Check("dead", about, True, "All of them learnt something.")
    found = " ".join(f"{each.name}: {each.dead}" for each in dead)
    return Check("dead", about, False, found)


def _control_arm(evaluated: Evaluated) -> Check:
    about = "There is a control arm: plain training with the bought labels in place"
    baseline = evaluated.baseline
    if baseline is not None:
        return Check("control_arm", about, True, f"It is {baseline.name}.")
    return Check(
        "control_arm",
        about,
        False,
        f"No {BASELINE} was trained: a gain may be due to the bought labels alone.",
        f"metaselect reweight --method {BASELINE} {RUN_FLAG}",
    )


def _judged_on(evaluated: Evaluated) -> Iterator[Check]:
    """What is said of the samples that the models are judged on."""
    metrics = evaluated.metrics
    about = "No test sample, or near duplicate of one, is in the pool"
    if metrics["judged_on"] != "test_set":
        about = "The models are judged on samples that were drawn at random"
        drawn = metrics["judged_on"] == "control"
        found = "They are control samples." if drawn else "They are bought samples, which a selector chose."
        yield Check("drawn_at_random", about, drawn, found)
    elif metrics["overlap"] + metrics["near_overlap"] == 0:
        yield Check("overlap", about, True, "None is.")
    elif evaluated.setup.options.leave_out_overlap:
        count = f"{metrics['overlap']:,} that are, and {metrics['near_overlap']:,} near duplicates of pool samples,"
        yield Check("overlap", about, True, f"{count} are left out.")
    else:
        found = (
            f"{metrics['overlap']:,} of {metrics['test_samples']:,} are, and {metrics['near_overlap']:,} more are "
            "near duplicates of pool samples: the accuracies flatter."
        )
        again = f"metaselect evaluate TEST --leave-out-overlap --force {RUN_FLAG}"
        yield Check("overlap", about, False, found, again)
    about = "Every class is among the samples that the models are judged on"
    judged = next(each for each in evaluated.models if evaluated.scores(each.name)["per_class_accuracy"])
    shares = evaluated.scores(judged.name)["per_class_accuracy"]
    absent = [name for name, share in shares.items() if share is None]
    found = f"Nothing is said of {examples(absent)}." if absent else "All are."
    yield Check("judged_classes", about, not absent, found)


def _classes_without_label(evaluated: Evaluated) -> Check:
    about = "Every class has a bought label"
    classes, m = evaluated.pool.classes, len(evaluated.meta_set.bought)
    if not m:
        return Check("bought_classes", about, False, "No model has learnt from any.", BUY_FIRST)
    counts = np.bincount(evaluated.meta_set.labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if not absent:
        return Check("bought_classes", about, True, f"{counted(m, 'label was', 'labels were')} bought.")
    found = f"{len(absent)} of {len(classes)} have none: {examples(absent)}."
    more = f"metaselect select --round next --budget {len(absent)} --min-per-class 1 {RUN_FLAG}"
    return Check("bought_classes", about, False, found, more)
