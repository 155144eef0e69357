"""Near duplicates and outliers of the pool, as the latest purchase found them."""

from typing import NamedTuple

import numpy as np

from metaselect.annotation.rounds import rounds
from metaselect.run.artefacts import NEIGHBOURS, SELECT
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.stages.select.similar import conflicting_groups


class Surroundings(NamedTuple):
    """What a round's ``neighbours.parquet`` says of the pool.

    Attributes:
        group: n names of groups of near duplicates; None for a sample that has none.
        conflict: (n,) bool, whether samples of its group have different given labels.
        outlier: (n,) float32, the share of the other samples that have closer neighbours; None where samples were not
            compared.
    """

    group: list[str | None]
    conflict: np.ndarray
    outlier: np.ndarray | None


def surroundings_round(setup: ReweightSetup) -> int | None:
    """The latest round with a bought label and a ``neighbours.parquet``; None: there is none.

    A round without answers is no input of a re-weighting, which would have to be repeated when one is opened.
    """
    bought = {setup.pool.sample_ids[index] for index in setup.meta_set.bought.tolist()}
    for each in reversed(rounds(setup.run)):
        made = setup.run.stage(SELECT.name(number=each.number)).require().outputs
        if NEIGHBOURS.within() in made and not bought.isdisjoint(each.samples):
            return each.number
    return None


def read_surroundings(run: Run, number: int, labels: np.ndarray) -> Surroundings:
    """The table of a round.

    Args:
        run: the run.
        number: of the round.
        labels: (n,) int64 given labels; -1: none.
    """
    table = read_parquet(run, NEIGHBOURS, ["duplicate_group", "outlier"], number=number)
    group = table["duplicate_group"].to_pylist()
    conflicting = conflicting_groups(group, labels)
    outlier = table["outlier"]
    return Surroundings(
        group,
        np.array([name in conflicting for name in group], bool),
        None if outlier.null_count else outlier.to_numpy(),
    )
