"""How far predictions were off where it could be measured: root mean squares, from ``benchmarks/plan.csv``."""

from math import hypot
from typing import NamedTuple


class Errors(NamedTuple):
    """Root mean squares of predicted less reached values, all shares in [0, 1].

    Attributes:
        accuracy: of the test accuracy.
        right: of the share of the pool's labels that are right.
    """

    accuracy: float
    right: float

    def with_start(self, start: "Errors") -> "Errors":
        """Those of the gain since a start, whose errors are taken for independent of these."""
        return Errors(hypot(self.accuracy, start.accuracy), hypot(self.right, start.right))


MEASURED = {
    0: Errors(0.114, 0.063),
    10: Errors(0.266, 0.247),
    20: Errors(0.033, 0.064),
    50: Errors(0.015, 0.010),
    100: Errors(0.018, 0.013),
}
"""By the number of bought labels, of plans that were made after the warm-up, on digits and MNIST."""


def errors_at(labels: int) -> Errors:
    """Those of the largest measured number of bought labels that is not above ``labels`` (at least 0)."""
    return MEASURED[max(number for number in MEASURED if number <= labels)]
