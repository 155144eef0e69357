"""`select --samples`: the samples of a list that somebody made, in its order."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from metaselect.data.store import Dataset
from metaselect.errors import DataError, UsageError
from metaselect.options import SelectOptions
from metaselect.records import Reporter
from metaselect.registry import AUTO_SELECTOR
from metaselect.run.files import read_csv
from metaselect.selection.base import (
    Choice,
    PoolFeatures,
    ProgressCallback,
    choice_without_clusters,
    lowest_unbought,
    no_progress,
)
from metaselect.stages.select.round_plan import RoundPlan
from metaselect.text import counted, examples, unescape_formula

LISTED = "listed"
"""The name of the method, in place of one of the registry."""


@dataclass(frozen=True)
class Listed:
    """The selector that takes the first samples of a list; it has no hyper-parameters, and needs no model."""

    checkpoints: ClassVar[str] = "last"
    required_features: ClassVar[tuple[str, ...]] = ()

    def choose(
        self,
        features: PoolFeatures,
        budget: int,
        bought: torch.Tensor,
        generator: torch.Generator,
        progress: ProgressCallback = no_progress,
    ) -> Choice:
        """The ``budget`` samples of the highest scores."""
        del generator, progress
        assert features.scores is not None
        return choice_without_clusters(lowest_unbought(-features.scores, budget, bought), features.scores)


def check_listed(options: SelectOptions) -> None:
    """Check that no option is given that is about another choice than the list.

    Raises:
        UsageError: one is.
    """
    others = {
        "method": options.method != AUTO_SELECTOR,
        "option": bool(options.option),
        "gradient": options.gradient is not None,
        "profile": options.profile is not None,
        "control": bool(options.control),
        "min-per-class": bool(options.min_per_class),
        "max-outlier": options.max_outlier is not None,
    }
    for name, is_given in others.items():
        if is_given:
            raise UsageError(f"--samples is a choice of its own, without --{name}.", "Leave one of them out.")


def listed_scores(path: Path, pool: Dataset, plan: RoundPlan, report: Reporter) -> torch.Tensor:
    """(n,) float32: 1 for the first sample of the list, less for each after it, 0 for those that it does not name.

    Args:
        path: a CSV file with a column sample_id.
        pool: whose samples they are; others are left out with a warning.
        plan: of the round.
        report: takes the warning.

    Raises:
        DataError: no such file, or column.
        UsageError: fewer samples of the list can be bought than the budget wants.
    """
    header, rows = read_csv(path)
    if "sample_id" not in header:
        raise DataError(f"{path} has no column sample_id.", "Name the column of the samples sample_id.")
    place = {sample_id: index for index, sample_id in enumerate(pool.sample_ids)}
    # Lists for people have an apostrophe before what a spreadsheet would take for a formula.
    ids = (
        row["sample_id"] if row["sample_id"] in place else unescape_formula(row["sample_id"]) for row in rows
    )
    named = list(dict.fromkeys(ids))
    unknown = [sample_id for sample_id in named if sample_id not in place]
    if unknown:
        count = counted(len(unknown), "sample", "samples")
        report.warn(f"{path}: {count} that the pool does not have, left out: {examples(unknown)}.")
    listed = [place[sample_id] for sample_id in named if sample_id in place]
    taken = set(plan.excluded.tolist())
    free = sum(index not in taken for index in listed)
    if free < plan.budget:
        raise UsageError(
            f"{path} names {counted(free, 'sample', 'samples')} that were not chosen before, and the budget wants "
            f"{plan.budget}.",
            f"Choose a budget up to {free}, or a longer list." if free else "Make another list.",
        )
    scores = torch.zeros(len(pool))
    scores[torch.tensor(listed, dtype=torch.int64)] = torch.linspace(1, 0, len(listed) + 1)[:-1]
    return scores
