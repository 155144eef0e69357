"""What becomes of each sample of the pool: its given label is kept, replaced, left out, or left to people. No torch."""

from typing import NamedTuple

KEEP, RELABEL, DROP, REVIEW = DECISIONS = ("keep", "relabel", "drop", "review")


class Thresholds(NamedTuple):
    """The limits of the decisions.

    Attributes:
        keep_above: weight from which on a given label is kept, in [0, 1].
        relabel_above: probability from which on a suggested label replaces a doubted one, in [0, 1].
        drop_below: weight below which a doubted sample without such a suggestion is left out, in [0, 1].
    """

    keep_above: float
    relabel_above: float
    drop_below: float


class Evidence(NamedTuple):
    """What a run knows of a sample's label.

    Attributes:
        given: the given label; None: there is none.
        bought: the label from people; None: there is none.
        unusable: whether people called the sample unusable.
        weight: of the given label, in [0, 1].
        suggested: the most probable label; None: there is none.
        suggested_prob: its probability, in [0, 1]; None with ``suggested``.
        accepted: the label of an accepted offer of `fanout`; None: there is none.
        accepted_prob: its probability, in [0, 1].
    """

    given: str | None
    bought: str | None
    unusable: bool
    weight: float
    suggested: str | None
    suggested_prob: float | None
    accepted: str | None = None
    accepted_prob: float = 0.0


class Decision(NamedTuple):
    """What becomes of a sample.

    Attributes:
        decision: of ``DECISIONS``.
        final: its label from now on; None where it has none, or is left out.
        weight: of the final label in a training, in [0, 1]; 0 for a sample that is left out.
        reason: why, in a few words.
    """

    decision: str
    final: str | None
    weight: float
    reason: str


def decide(sample: Evidence, limits: Thresholds) -> Decision:
    """The decision on one sample; the first rule that holds.

    1. People called it unusable: drop.
    2. It has a bought label: that one, with weight 1; keep or relabel, as it is the given one or not.
    3. An offer of `fanout` was accepted: that label, with its probability as the weight; keep or relabel.
    4. It has a given label of weight ``keep_above`` or more: keep.
    5. Another label is suggested with probability ``relabel_above`` or more: relabel, with that as the weight.
    6. It has a given label of weight below ``drop_below``: drop.
    7. Else: review; until then the given label stands, with its weight.
    """
    if sample.unusable:
        return Decision(DROP, None, 0.0, "people called it unusable")
    if sample.bought is not None:
        return Decision(_compared(sample, sample.bought), sample.bought, 1.0, "bought label")
    if sample.accepted is not None:
        reason = f"accepted offer of probability {sample.accepted_prob:.3f}"
        return Decision(_compared(sample, sample.accepted), sample.accepted, sample.accepted_prob, reason)
    labelled = sample.given is not None
    doubt = f"weight {sample.weight:.3f}" if labelled else "no given label"
    if labelled and sample.weight >= limits.keep_above:
        return Decision(KEEP, sample.given, sample.weight, doubt)
    prob = sample.suggested_prob
    if sample.suggested != sample.given and prob is not None:
        doubt += f", suggestion of probability {prob:.3f}"
        if prob >= limits.relabel_above:
            return Decision(RELABEL, sample.suggested, prob, doubt)
    if labelled and sample.weight < limits.drop_below:
        return Decision(DROP, None, 0.0, doubt)
    return Decision(REVIEW, sample.given, sample.weight if labelled else 0.0, doubt)


def _compared(sample: Evidence, label: str) -> str:
    return KEEP if label == sample.given else RELABEL
