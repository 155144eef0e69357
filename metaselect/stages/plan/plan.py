"""plan: what each number of further labels would bring, from the warm-up and the labels bought so far; reads only."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from metaselect.data.store import require_contents
from metaselect.options import PlanOptions, ReweightOptions
from metaselect.planning.forecast import Draw, Estimate, Row, forecast, worth_buying
from metaselect.planning.hypotheses import Hypothesis, hypotheses
from metaselect.planning.measured import errors_at
from metaselect.planning.purchases import simulate
from metaselect.random import generator
from metaselect.records import Json, Outcome, Reporter
from metaselect.reweighting.auto.label_model import MANY_CLASSES, FitSize
from metaselect.run.artefacts import SELECT
from metaselect.run.layout import Run
from metaselect.stages.plan.sample import Sample, draw_sample, possible_budgets
from metaselect.stages.reweight.setup import ReweightSetup, resolve_setup

SIZE = FitSize(rows=1500, cross_rows=700, folds=2, folds_of_many=2)
DRAWS, DRAWS_OF_MANY = 6, 2  # of true classes, over all hypotheses; a draw of many classes takes long


class Counts(NamedTuple):
    """Numbers of the whole pool.

    Attributes:
        samples: with a given or a bought label.
        bought: of them with a bought one.
    """

    samples: int
    bought: int


def plan(run: Run, options: PlanOptions, report: Reporter) -> Outcome:
    """The forecast of every budget, and which of them is worth it.

    Raises:
        ArtefactError: no run, one of ids and labels alone, or no warm-up.
        UsageError: a budget that the pool has no room for.
    """
    require_contents(run)
    setup = resolve_setup(run, ReweightOptions(seed=options.seed, device=options.device), report)
    budgets = possible_budgets(setup, options)
    sample = draw_sample(run, setup, options, budgets, report)
    stream = generator(options.seed, "plan", "hypotheses")
    known = sample.known
    found = hypotheses(sample.evidence, known.bought, known.answers, SIZE, stream)
    counts = _counts(setup)
    draws = _draws(sample, found, counts, (0, *budgets), options.seed, report)
    rows = forecast(draws, (0, *budgets), counts.bought)
    chosen = worth_buying(rows)
    shown = chosen if chosen.labels else rows[-1]
    return Outcome(
        {
            "run": str(run.root),
            "samples": counts.samples,
            "bought": counts.bought,
            "simulated_on": len(sample.evidence.given),
            "method": sample.method,
            "hypotheses": [
                {"name": each.name, "probability": each.weight, "wrong_share": _wrong_share(each, sample)}
                for each in found
            ],
            "clusters": int((torch.bincount(sample.cluster) > 0).sum()),
            "budgets": [_as_json(row, sample, counts) for row in rows],
            "worth_buying": chosen.labels,
            "verdict": _verdict(chosen, shown, counts),
            "next": _next(run, chosen),
        }
    )


def _counts(setup: ReweightSetup) -> Counts:
    labels = setup.labels
    labels[setup.meta_set.unusable] = -1
    return Counts(int((labels >= 0).sum()), len(setup.meta_set.bought))


def _draws(
    sample: Sample,
    found: Sequence[Hypothesis],
    counts: Counts,
    labels: Sequence[int],
    seed: int,
    report: Reporter,
) -> list[Draw]:
    """Simulated purchases, as many of each hypothesis; right labels are a share of the whole pool."""
    many = sample.evidence.probs.shape[1] > MANY_CLASSES
    each = max((DRAWS_OF_MANY if many else DRAWS) // len(found), 1)
    draws = []
    with report.track(each * len(found), "simulated purchases", "draws") as advance:
        for hypothesis in found:
            for number in range(each):
                stream = generator(seed, "plan", "draw", hypothesis.name, number)
                scores = simulate(sample.evidence, hypothesis, sample.known, labels, SIZE, stream)
                # Of the samples whose label is not bought, as many as there are in the pool.
                known = [(counts.bought + count) / counts.samples for count in labels]
                right = [one + (1 - one) * rest for one, rest in zip(known, scores.right, strict=True)]
                draws.append(Draw(hypothesis.weight / each, scores.accuracy, right))
                advance(1)
    return draws


def _wrong_share(hypothesis: Hypothesis, sample: Sample) -> float:
    """The expected share of given labels that are wrong; bought ones do not count as given."""
    given = sample.evidence.given
    right = hypothesis.classes(given).gather(1, given.clamp(min=0)[:, None])[:, 0]
    right[sample.known.bought] = (sample.known.answers == given[sample.known.bought]).float()
    return 1 - float(right[given >= 0].mean())


def _as_json(row: Row, sample: Sample, counts: Counts) -> dict[str, Json]:
    """A row as ``--json`` prints it; right labels are counted."""
    empty, share = sample.without_label(row.labels)
    errors = errors_at(counts.bought + row.labels)
    return {
        "labels": row.labels,
        "accuracy": _limits(row.accuracy),
        "accuracy_gain": _limits(row.accuracy_gain),
        "correct_labels": _limits(row.right, counts.samples),
        "correct_labels_gain": _limits(row.right_gain, counts.samples),
        "clusters_without_label": empty,
        "samples_without_label": share,
        "measured_error": {"accuracy": errors.accuracy, "correct_labels": errors.right},
    }


def _limits(estimate: Estimate, scale: float = 1.0) -> dict[str, Json]:
    return {name: scale * value for name, value in estimate._asdict().items()}


def _verdict(chosen: Row, shown: Row, counts: Counts) -> str:
    """Whether buying is worth it, in a sentence.

    Args:
        chosen: the number of labels that is worth it, or 0.
        shown: the same, or else the largest budget.
        counts: of the pool.
    """
    gain, right = shown.accuracy_gain, shown.right_gain
    points = f"{100 * gain.mean:+.1f} points of accuracy ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    labels = f"{counts.samples * right.mean:+.0f} correct labels"
    rate = f"{counts.samples * right.mean / shown.labels:.1f} for each one bought"
    more = "more labels" if counts.bought else "labels"
    if not chosen.labels:
        return (
            f"Even {shown.labels} {more} are expected to bring {points} and {labels}: not worth it by itself."
        )
    return f"{shown.labels} {more} are expected to bring {points} and {labels}, {rate}: worth it."


def _next(run: Run, chosen: Row) -> str:
    """The next command: the purchase that is worth it; else training with what there is."""
    if chosen.labels:
        further = "--round next " if run.stage_names(SELECT.kind) else ""
        return f"metaselect select {further}--budget {chosen.labels} {run.model_flags}"
    return f"metaselect reweight {run.model_flags}"
