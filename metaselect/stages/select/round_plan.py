"""What a round is to buy: its number, its budget, and what is no longer for sale."""

from typing import NamedTuple

import torch

from metaselect.annotation.ledger import Ledger
from metaselect.annotation.rounds import bought_samples, round_is_closed
from metaselect.annotation.votes import BAD_SAMPLE
from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.options import SelectOptions
from metaselect.records import Reporter
from metaselect.run.artefacts import SELECT, SELECTED, round_of
from metaselect.run.layout import Run
from metaselect.run.record import StageRecord
from metaselect.run.tables import read_records


class RoundPlan(NamedTuple):
    """What a round is to buy.

    Attributes:
        number: of the round, from 1.
        taken: (m,) int64 sorted indices that must not be chosen: selected before, or bought in any way.
        budget: samples, replacements and control among them.
        replaces: unusable samples of earlier rounds that the budget makes up for.
        control: samples that are drawn at random.
    """

    number: int
    taken: torch.Tensor
    budget: int
    replaces: int
    control: int


def plan_round(
    run: Run,
    options: SelectOptions,
    number: int,
    pool: Dataset,
    ledger: Ledger,
    record: StageRecord | None,
    report: Reporter,
) -> RoundPlan:
    """The purchase that the command means.

    Args:
        run: the run.
        options: of the command.
        number: of the round.
        pool: its samples.
        ledger: its votes.
        record: of the round, if it is there already; its budget stands in for one that is not given.
        report: says when there is nothing to replace.

    Raises:
        UsageError: the budget is not within 1..n, or too small for the floor.
    """
    taken = _taken(run, number, pool, ledger, again=record is not None and round_is_closed(ledger, number))
    replaces = 0
    if options.replace_unusable:
        if number == 1:
            raise UsageError(
                "--replace-unusable goes with a later round.", "Add --round next, after the answers are in."
            )
        replaces = max(_unusable(run, number, ledger) - _replaced(run, number), 0)
        if not replaces and options.budget is None:
            raise UsageError(
                "There is nothing to replace: no answered sample is unusable, or all are replaced already."
            )
        report.note(f"Unusable samples to replace: {replaces}.")
    known = None if record is None else int(str(record.key.options["budget"]))
    asked = options.budget if options.budget is not None else 0 if options.replace_unusable else known
    if asked is None:
        raise UsageError("How many labels can you buy?", "Give --budget, for example --budget 50.")
    budget = asked + replaces
    free = len(pool) - len(taken)
    if not 1 <= budget <= free or options.budget == 0 or asked < 0:
        already = f", {len(taken)} of them already chosen" if len(taken) else ""
        beside = f", and {replaces} unusable ones are to be replaced" if replaces else ""
        raise UsageError(
            f"--budget {asked} is not possible: the pool has {len(pool)} samples{already}{beside}.",
            f"Choose a budget from 1 to {free - replaces}." if free > replaces else "Nothing is left to buy.",
        )
    control = _control(options.control, budget)
    least = options.min_per_class * len(pool.classes)
    if least > budget - control:
        enough = (b for b in range(least, free + 1) if b - _control(options.control, b) >= least)
        wanted = next(enough, None)
        raise UsageError(
            f"--min-per-class {options.min_per_class} needs {least} samples for {len(pool.classes)} classes; "
            f"the budget leaves {budget - control}.",
            "Give a lower floor."
            if wanted is None
            else f"Give --budget {wanted - replaces} or more, or a lower floor.",
        )
    return RoundPlan(number, taken, budget, replaces, control)


def _control(share: float, budget: int) -> int:
    """Samples that are drawn at random; at least one where any are wanted."""
    return max(round(share * budget), 1) if share else 0


def round_number(run: Run, options: SelectOptions, ledger: Ledger) -> int:
    """The round that the command means."""
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
    return latest  # the same command once more


def _taken(run: Run, number: int, pool: Dataset, ledger: Ledger, *, again: bool) -> torch.Tensor:
    """(m,) sorted indices that must not be chosen: selected in earlier rounds, or bought in any way."""
    taken = set(bought_samples(ledger))
    for earlier in range(1, number):
        taken.update(_selected_ids(run, earlier))
    if again:
        # This very round's own answers must not shut out its samples when it is checked again.
        taken.difference_update(_selected_ids(run, number))
    return torch.tensor(
        [index for index, sample_id in enumerate(pool.sample_ids) if sample_id in taken], dtype=torch.int64
    )


def _selected_ids(run: Run, number: int) -> list[str]:
    run.stage(SELECT.name(number=number)).verified(SELECTED.path(number=number))
    return [row["sample_id"] for row in read_records(run, SELECTED, number=number)]


def _unusable(run: Run, number: int, ledger: Ledger) -> int:
    """Samples of rounds before this one that people called unusable; labels from outside of rounds cost nothing."""
    status = bought_samples(ledger)
    earlier = {sample_id for each in range(1, number) for sample_id in _selected_ids(run, each)}
    return sum(status.get(sample_id) == BAD_SAMPLE for sample_id in earlier)


def _replaced(run: Run, number: int) -> int:
    """Unusable samples that rounds before this one made up for."""
    rounds = (run.stage(SELECT.name(number=earlier)).require() for earlier in range(1, number))
    return sum(int(str(record.key.options.get("replaces", 0))) for record in rounds)
