"""The plan of a round: its number, its budget, and the samples that must not be chosen."""

from typing import NamedTuple

import torch

from metaselect.annotation.ledger import Ledger
from metaselect.annotation.rounds import bought_samples, round_is_closed
from metaselect.annotation.votes import BAD_SAMPLE
from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.options import SelectOptions
from metaselect.records import Reporter
from metaselect.run.artefacts import SELECT, SELECTED
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.run.stage_names import round_of
from metaselect.run.tables import read_records


class RoundPlan(NamedTuple):
    """The plan of a round.

    Attributes:
        number: of the round, from 1.
        excluded: (m,) int64, sorted indices that must not be chosen: selected before, or labelled in any way.
        labels: (m,) int64, the bought labels of the excluded samples; -1 where there is none.
        budget: samples to select, including replacements and control.
        replaces: how many of them replace unusable samples of earlier rounds.
        control: how many of them are drawn at random.
    """

    number: int
    excluded: torch.Tensor
    labels: torch.Tensor
    budget: int
    replaces: int
    control: int


def plan_round(
    run: Run,
    options: SelectOptions,
    number: int,
    pool: Dataset,
    *,
    ledger: Ledger,
    record: StageRecord | None,
    report: Reporter,
) -> RoundPlan:
    """The plan for the options of the command.

    Args:
        run: the run.
        options: of the command.
        number: of the round.
        pool: its samples.
        ledger: its votes.
        record: of the round, if it exists already; its budget is the default.
        report: shows how many unusable samples are replaced.

    Raises:
        UsageError: the budget is not within 1 to n minus the excluded samples, or too small for --min-per-class.
    """
    is_closed = record is not None and round_is_closed(ledger, number)
    excluded = _excluded(run, number, pool, ledger, is_closed=is_closed)
    replaces = _replacements(run, options, number, ledger, report) if options.replace_unusable else 0
    requested = options.budget
    if requested is None and options.replace_unusable:
        requested = 0  # replacements alone
    elif requested is None and record is not None:
        requested = int(str(record.key.options["budget"]))
    if requested is None:
        raise UsageError(
            "--budget is missing: how many labels can you buy?", "Give it, for example --budget 50."
        )
    budget = requested + replaces
    free = len(pool) - len(excluded)
    if not 1 <= budget <= free or options.budget == 0 or requested < 0:
        excluded_text = f", {len(excluded)} of them already chosen" if len(excluded) else ""
        replacing = f", and {replaces} unusable ones are to be replaced" if replaces else ""
        raise UsageError(
            f"--budget {requested} is not possible: the pool has {len(pool)} samples{excluded_text}{replacing}.",
            f"Choose a budget from 1 to {free - replaces}." if free > replaces else "Nothing is left to buy.",
        )
    labels = _bought_labels(pool, ledger, excluded)
    plan = RoundPlan(number, excluded, labels, budget, replaces, _control_count(options.control, budget))
    _require_min_per_class(options, plan, classes=len(pool.classes), free=free)
    return plan


def _replacements(run: Run, options: SelectOptions, number: int, ledger: Ledger, report: Reporter) -> int:
    """Number of unusable samples of earlier rounds to replace in this one.

    Raises:
        UsageError: there is no earlier round, or nothing to replace and no other budget.
    """
    if number == 1:
        raise UsageError(
            "--replace-unusable needs an earlier round with answers.",
            "Add --round next, after the answers are imported.",
        )
    replaces = max(_unusable(run, number, ledger) - _replaced(run, number), 0)
    if not replaces and options.budget is None:
        raise UsageError(
            "There is nothing to replace: no answered sample is unusable, or all are replaced already."
        )
    report.note(f"Unusable samples to replace: {replaces}.")
    return replaces


def _require_min_per_class(options: SelectOptions, plan: RoundPlan, *, classes: int, free: int) -> None:
    """Check that the budget without the control suffices for --min-per-class.

    Raises:
        UsageError: it does not; the hint names the smallest budget that does, if there is one.
    """
    minimum = options.min_per_class * classes
    if minimum <= plan.budget - plan.control:
        return
    # The control grows with the budget, so the smallest sufficient budget is searched, not computed.
    sufficient = (b for b in range(minimum, free + 1) if b - _control_count(options.control, b) >= minimum)
    smallest_budget = next(sufficient, None)
    raise UsageError(
        f"--min-per-class {options.min_per_class} needs {minimum} samples for {classes} classes; "
        f"the budget leaves {plan.budget - plan.control}.",
        "Give a lower --min-per-class."
        if smallest_budget is None
        else f"Give --budget {smallest_budget - plan.replaces} or more, or a lower --min-per-class.",
    )


def _control_count(share: float, budget: int) -> int:
    """Number of samples that are drawn at random; at least 1 if ``share`` is above 0."""
    return max(round(share * budget), 1) if share else 0


def round_number(run: Run, options: SelectOptions, ledger: Ledger) -> int:
    """The round that the command works on: the latest, or with ``--round next`` the one after it."""
    done = [round_of(name) for name in run.stage_names(SELECT.kind)]
    latest = max(done, default=0)
    if options.round is None:
        return max(latest, 1)
    if latest == 0:
        return 1
    if round_is_closed(ledger, latest):
        return latest + 1
    if latest == 1:
        raise UsageError(
            "Round 1 is still open: it was neither exported nor answered.",
            f"First: metaselect annotate export {run.flag}",
        )
    return latest  # `--round next` was given before, and its round is still open


def _excluded(run: Run, number: int, pool: Dataset, ledger: Ledger, *, is_closed: bool) -> torch.Tensor:
    """(m,) sorted indices that must not be chosen: selected in earlier rounds, or labelled in any way."""
    excluded = set(bought_samples(ledger))
    for earlier in range(1, number):
        excluded.update(_selected_ids(run, earlier))
    if is_closed:
        # When a closed round is checked again, its own answers must not exclude its samples.
        excluded.difference_update(_selected_ids(run, number))
    return torch.tensor(
        [index for index, sample_id in enumerate(pool.sample_ids) if sample_id in excluded], dtype=torch.int64
    )


def _bought_labels(pool: Dataset, ledger: Ledger, excluded: torch.Tensor) -> torch.Tensor:
    """(m,) int64, the labels that the votes give the excluded samples; -1 where they give none."""
    class_of = {name: position for position, name in enumerate(pool.classes)}
    verdicts = (ledger.verdicts.get(pool.sample_ids[index]) for index in excluded.tolist())
    labels = [class_of.get(verdict.clean_label, -1) if verdict else -1 for verdict in verdicts]
    return torch.tensor(labels, dtype=torch.int64)


def _selected_ids(run: Run, number: int) -> list[str]:
    """The sample_ids that a round selected, by rank."""
    run.stage(SELECT.name(number=number)).verified(SELECTED.path(number=number))
    return [row["sample_id"] for row in read_records(run, SELECTED, number=number)]


def _unusable(run: Run, number: int, ledger: Ledger) -> int:
    """Number of unusable samples in the rounds before this one; samples labelled outside of all rounds do not count."""
    status = bought_samples(ledger)
    earlier = {sample_id for each in range(1, number) for sample_id in _selected_ids(run, each)}
    return sum(status.get(sample_id) == BAD_SAMPLE for sample_id in earlier)


def _replaced(run: Run, number: int) -> int:
    """Number of unusable samples that the rounds before this one have replaced."""
    rounds = (run.stage(SELECT.name(number=earlier)).require() for earlier in range(1, number))
    return sum(int(str(record.key.options.get("replaces", 0))) for record in rounds)
