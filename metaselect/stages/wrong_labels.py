"""The number of wrong labels among those that were not bought, estimated from the bought ones. No torch.

Source: Angelopoulos, Bates, Fannjiang, Jordan, Zrnic 2023, "Prediction-powered inference", Science 382, 669-674
(arXiv:2301.09633), the mean: the difference estimator of survey sampling. Zrnic, Candès 2024, arXiv:2309.16598:
cross-fitted predictions.
Differs: the predictions of samples without a bought label come from samples that were kept out of the same trainings.
Those of a model that was trained on their given labels would be higher than those of the bought samples, which no model
of theirs was trained on. For the interval, a difference of 1 and one of -1 are added, as Agresti and Min (2005) do for
paired proportions: few samples without any surprise do not show that there is none.
"""

from collections.abc import Collection, Iterable, Mapping
from math import sqrt
from typing import Any, NamedTuple

from metaselect.annotation.quality.noise_estimate import Z
from metaselect.annotation.rounds import Round
from metaselect.run.artefacts import CROSS_FIT, REWEIGHT
from metaselect.run.layout import Run
from metaselect.run.tables import read_records

FEWEST_CONTROL = 4  # with fewer, all bought labels are used, although they were not drawn at random


class WrongLabels(NamedTuple):
    """The estimate.

    Attributes:
        not_bought: samples that it is about: those with a given label that no bought one replaces.
        estimate: how many of their labels are wrong.
        low: lower limit of the 95 % interval.
        high: upper limit.
        labels: bought labels that it is from.
        control: whether these are control samples, drawn at random; else a selector chose them, and the estimate is
            off where it prefers wrong labels or right ones.
    """

    not_bought: int
    estimate: float
    low: float
    high: float
    labels: int
    control: bool

    def sentence(self) -> str:
        """The estimate as a sentence."""
        source = "control samples, drawn at random" if self.control else "bought labels, not drawn at random"
        return (
            f"Wrong labels among the {self.not_bought} that were not bought: about {self.estimate:.0f} (95 % interval "
            f"{self.low:.0f} to {self.high:.0f}), from {self.labels} {source}."
        )


def wrong_labels(run: Run, name: str, rounds: Iterable[Round]) -> WrongLabels | None:
    """The estimate with the predictions of a re-weighting; None where it has no comparison.

    Args:
        run: the run.
        name: of the re-weighting, which is finished.
        rounds: of the run; their control samples are what the estimate is from, if enough were bought.

    Raises:
        ArtefactError: ``cross_fit.csv`` is damaged.
    """
    comparison = run.stage(REWEIGHT.name(name=name)).require().details["result"].get("comparison")
    if comparison is None:
        return None
    return wrong_labels_by(read_records(run, CROSS_FIT, name=name), comparison["not_bought"], rounds)


def wrong_labels_by(
    rows: Iterable[Mapping[str, Any]], not_bought: int, rounds: Iterable[Round]
) -> WrongLabels:
    """The estimate.

    Args:
        rows: of ``cross_fit.csv``, by column.
        not_bought: samples that it is about.
        rounds: of the run.
    """
    control = {sample_id for each in rounds for sample_id in each.control}
    others: list[float] = []
    bought: list[tuple[bool, float]] = []
    drawn: list[tuple[bool, float]] = []
    for row in rows:
        if not row["given_label"]:
            continue
        predicted = 1 - float(row["method_given_prob"])
        if not row["clean_label"]:
            others.append(predicted)
            continue
        found = (row["clean_label"] != row["given_label"], predicted)
        bought.append(found)
        if row["sample_id"] in control:
            drawn.append(found)
    from_control = len(drawn) >= FEWEST_CONTROL
    labelled = drawn if from_control else bought
    rate = estimate_rate(others, labelled)
    shares = (rate.low, rate.estimate, rate.high)
    low, middle, high = (min(max(share, 0.0), 1.0) * not_bought for share in shares)
    return WrongLabels(not_bought, middle, low, high, len(labelled), from_control)


class Rate(NamedTuple):
    """An estimated share with the limits of its 95 % interval; each may lie outside of [0, 1]."""

    estimate: float
    low: float
    high: float


def estimate_rate(others: Collection[float], labelled: Collection[tuple[bool, float]]) -> Rate:
    """The share of wrong labels.

    Args:
        others: predicted probabilities that the label is wrong, of samples whose label was not bought; where there are
            fewer than two, no prediction is used.
        labelled: (whether the label is wrong, the probability predicted in the same way) of samples at random.
    """
    if len(others) < 2:
        others, labelled = [0.5, 0.5], [(wrong, 0.5) for wrong, _ in labelled]
    differences = [wrong - predicted for wrong, predicted in labelled]
    mean, squares = _moments(others)
    shift, _ = _moments(differences)
    centre, surprises = _moments([*differences, 1.0, -1.0])
    error = sqrt(squares / (len(others) - 1) / len(others) + surprises / (len(differences) + 2) ** 2)
    return Rate(mean + shift, mean + centre - Z * error, mean + centre + Z * error)


def _moments(values: Collection[float]) -> tuple[float, float]:
    """The mean, and the sum of squared deviations from it."""
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values)
