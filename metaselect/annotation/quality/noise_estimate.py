"""The rate of wrong given labels, estimated from the control samples, which are drawn at random.

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of the American
Statistical Association 22 (158), 209-212: the score interval.
Differs: the draw is without replacement, for which the interval is slightly conservative.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from metaselect.annotation.consensus import Verdict
from metaselect.annotation.ledger import Ledger
from metaselect.annotation.rounds import Round
from metaselect.annotation.votes import BAD_SAMPLE, DONE
from metaselect.run.artefacts import DATA, META_SET, SAMPLES, SELECTED
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet

Z = 1.959963984540054  # standard normal deviate, 95 % two-sided


class NoiseEstimate(NamedTuple):
    """The share of wrong given labels; answered, unusable and unanswered add up to drawn.

    Attributes:
        drawn: control samples.
        answered: those whose consensus is a label; nothing else enters the rate.
        wrong: those of them whose consensus is not the given label.
        unusable: that annotators called unusable.
        unanswered: without an answer, or with as many votes for one answer as for another.
        rate: wrong / answered, in [0, 1]; None, as are the limits, while nothing is answered.
        low: lower limit of the 95 % interval.
        high: upper limit.
    """

    drawn: int
    answered: int
    wrong: int
    unusable: int
    unanswered: int
    rate: float | None
    low: float | None
    high: float | None

    def sentence(self) -> str:
        """The estimate as a sentence."""
        if self.rate is None or self.low is None or self.high is None:
            return (
                "Noise rate of the given labels: not known yet, no clean label for any of "
                f"{self.drawn} control samples."
            )
        lacking = [
            f"{count} {what}"
            for count, what in ((self.unusable, "unusable"), (self.unanswered, "without a label"))
            if count
        ]
        return (
            f"Noise rate of the given labels: {self.rate:.1%} (95% interval {100 * self.low:.1f} to "
            f"{self.high:.1%}), from {self.answered} of {self.drawn} control samples"
            f"{'; ' + ', '.join(lacking) if lacking else ''}."
        )


def noise_estimate(
    run: Run, rounds: Sequence[Round], ledger: Ledger | None, *, begun: bool = False
) -> NoiseEstimate | None:
    """The estimate from every round's control samples; None when no round has any.

    It is unbiased for the whole pool in round 1. Later rounds draw from what was not bought yet, so that the estimate
    leaves out what was bought before. Samples that people cannot judge are left out of the rate: if their
    labels are wrong more often than others', it is too low. Samples that are no longer in the data do not count.

    Args:
        run: whose data holds the given labels.
        rounds: every round of the run.
        ledger: its votes; may be None where ``has_control`` is False.
        begun: leave out rounds of which no control sample is answered, as ``estimate_inputs`` does.

    Raises:
        ArtefactError: the samples are damaged.
    """
    arms = [each for each in rounds if each.control]
    if not arms or ledger is None:
        return None
    verdicts = ledger.verdicts
    arms = _begun(arms, verdicts) if begun else arms
    given = _labels_of_control(run, arms)
    if not given:
        return None
    known = [(verdicts[sample_id], label) for sample_id, label in given.items() if sample_id in verdicts]
    clean = [verdict.clean_label != label for verdict, label in known if verdict.status == DONE]
    unusable = sum(verdict.status == BAD_SAMPLE for verdict, _ in known)
    drawn, answered, wrong = len(given), len(clean), sum(clean)
    low, high = wilson(wrong, answered) if answered else (None, None)
    rate = wrong / answered if answered else None
    return NoiseEstimate(drawn, answered, wrong, unusable, drawn - answered - unusable, rate, low, high)


class ClassNoise(NamedTuple):
    """The share of wrong labels among control samples of one given label, with the limits of its 95 % interval.

    Attributes:
        answered: control samples with this given label and a clean one.
        wrong: those of them whose clean label is another.
        rate: wrong / answered.
        low: lower limit.
        high: upper limit.
    """

    answered: int
    wrong: int
    rate: float
    low: float
    high: float


def noise_by_class(run: Run, rounds: Sequence[Round], ledger: Ledger | None) -> dict[str, ClassNoise]:
    """The noise rate of every given label of which a control sample is answered, by label in alphabetical order.

    Of a label with few of them little is known, as its wide interval says.

    Args:
        run: whose data holds the given labels.
        rounds: every round of the run.
        ledger: its votes; may be None where ``has_control`` is False.

    Raises:
        ArtefactError: the samples are damaged.
    """
    if ledger is None:
        return {}
    found: dict[str, list[bool]] = {}
    for sample_id, label in _labels_of_control(run, rounds).items():
        verdict = ledger.verdicts.get(sample_id)
        if verdict is not None and verdict.status == DONE:
            found.setdefault(label, []).append(verdict.clean_label != label)
    return {
        label: ClassNoise(len(wrong), sum(wrong), sum(wrong) / len(wrong), *wilson(sum(wrong), len(wrong)))
        for label, wrong in sorted(found.items())
    }


def _labels_of_control(run: Run, arms: Sequence[Round]) -> dict[str, str]:
    """The given labels of the control samples that have one and are in the data, by sample_id."""
    drawn = sorted(sample_id for each in arms for sample_id in each.control)
    return {sample_id: label for sample_id, label in given_labels(run, drawn).items() if label}


def has_control(rounds: Sequence[Round]) -> bool:
    """Whether any round has control samples, so that the votes say something of the noise rate."""
    return any(each.control for each in rounds)


def estimate_inputs(rounds: Sequence[Round], ledger: Ledger | None) -> tuple[str, ...]:
    """What ``noise_estimate(begun=True)`` follows from beside the data, below the run; empty where it is None.

    A round that is not answered yet is left out, so that opening it makes nothing stale.

    Args:
        rounds: every round of the run.
        ledger: its votes; may be None where ``has_control`` is False.
    """
    arms = [each for each in rounds if each.control]
    begun = _begun(arms, ledger.verdicts) if arms and ledger is not None else []
    return (META_SET.path(), *(SELECTED.path(number=each.number) for each in begun)) if begun else ()


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of which ``count`` of ``n`` > 0 trials is the estimate."""
    share = count / n
    scale = 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / scale
    # At both ends one limit is the share itself, which rounding must not blur.
    return (centre - half if count else 0.0), (centre + half if count < n else 1.0)


def _begun(arms: list[Round], verdicts: dict[str, Verdict]) -> list[Round]:
    """Rounds whose control samples have a row in the meta set."""
    return [
        each
        for each in arms
        if any(
            sample_id in verdicts and verdicts[sample_id].status in (DONE, BAD_SAMPLE)
            for sample_id in each.control
        )
    ]


def given_labels(run: Run, ids: list[str]) -> dict[str, str]:
    """Class names by sample_id, of those that are in the data; empty where the data has no label.

    Raises:
        ArtefactError: the samples are damaged.
    """
    if not ids:
        return {}
    run.stage(DATA.name()).verified(SAMPLES.path())
    table = read_parquet(run, SAMPLES, ["sample_id", "given_label"], where=("sample_id", "in", ids))
    labels = (label or "" for label in table["given_label"].to_pylist())
    return dict(zip(table["sample_id"].to_pylist(), labels, strict=True))
