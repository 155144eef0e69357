"""The conditions of `metaselect gate`: a figure, its limit, and whether the condition holds. No torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from metaselect.errors import UsageError
from metaselect.options import require_range
from metaselect.records import Json

PASS, FAIL, CANNOT_TELL = "pass", "fail", "cannot_tell"
VERDICTS = (PASS, FAIL, CANNOT_TELL)
SUBJECTS = {
    "max_noise": "share of wrong labels",
    "min_accuracy": "accuracy",
    "min_balanced_accuracy": "balanced accuracy",
    "min_auc": "ranking of label errors",
    "max_drop": "drop in accuracy",
}
"""What each condition is about. Its name is that of the flag; of those with ``max``, the limit is an upper one."""
ROUNDING = 1e-9  # a drop from 0.95 to 0.94 is a point, and a little more in binary


@dataclass(frozen=True)
class Limits:
    """The limit of each condition; None: the condition is not asked for.

    Attributes:
        max_noise: from 0 to 1, as the next three.
        min_accuracy: of the model.
        min_balanced_accuracy: of the model.
        min_auc: of the model's ranking of label errors.
        max_drop: percentage points of accuracy, against an earlier evaluation.
    """

    max_noise: float | None = None
    min_accuracy: float | None = None
    min_balanced_accuracy: float | None = None
    min_auc: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in SUBJECTS:
            require_range(name.replace("_", "-"), getattr(self, name), 0, 100 if name == "max_drop" else 1)
        if not self.given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in SUBJECTS)
            raise UsageError("No condition was given.", f"Give at least one of {flags}.")

    @property
    def given(self) -> dict[str, float]:
        """The limits that were given, in the unit of their figures, from 0 to 1."""
        found = {name: getattr(self, name) for name in SUBJECTS}
        scale = {"max_drop": 100}
        return {name: limit / scale.get(name, 1) for name, limit in found.items() if limit is not None}


class Figure(NamedTuple):
    """A measured figure, from 0 to 1 (a drop from -1 to 1), with its 95 % interval.

    Attributes:
        value: None where it is not known.
        low: lower limit of the interval; None where there is none.
        high: upper limit.
        unknown: why it is not known, as a part of a sentence.
        command: what makes it known, or better where it is known; empty where no command does.
        narrower: what makes the interval narrower; empty where no command does.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unknown: str = ""
    command: str = ""
    narrower: str = ""


@dataclass(frozen=True)
class Condition:
    """A condition and what became of it.

    Attributes:
        name: of ``SUBJECTS``.
        verdict: of ``VERDICTS``.
        value: the figure, as in ``Figure``, like the next two.
        low: lower limit of its 95 % interval.
        high: upper limit.
        limit: what it was compared with, in the same unit.
        why: why the condition does not hold, as a part of a sentence; empty where it does.
        command: that would mend it; empty where it holds, and where no command does.
    """

    name: str
    verdict: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    why: str
    command: str

    @property
    def subject(self) -> str:
        """What it is about, in words."""
        return SUBJECTS[self.name]

    @property
    def upper(self) -> bool:
        """Whether the limit is an upper one."""
        return self.name.startswith("max")

    @property
    def bound(self) -> str:
        """The limit in words: "at least 90.00%"."""
        return f"at {'most' if self.upper else 'least'} {self._shown(self.limit)}"

    @property
    def measured(self) -> str:
        """The figure with its interval: "91.20% (95 % interval 88.00% to 93.70%)"; "not known" without one."""
        if self.value is None:
            return "not known"
        if self.low is None or self.high is None:
            return f"{self._shown(self.value)} (no interval)"
        return (
            f"{self._shown(self.value)} (95 % interval {self._shown(self.low)} to {self._shown(self.high)})"
        )

    def sentence(self) -> str:
        """All of it but the verdict, on one line."""
        why = f": {self.why}" if self.why else ""
        command = f" Run: {self.command}" if self.command else ""
        return f"{self.subject}: {self.measured}, must be {self.bound}{why}.{command}"

    def _shown(self, share: float) -> str:
        if self.name == "min_auc":
            return f"{share:.4f}"
        return f"{100 * share:.2f} points" if self.name == "max_drop" else f"{share:.2%}"


@dataclass(frozen=True)
class GateReport:
    """What became of every condition.

    Attributes:
        run: the run directory.
        test: name of the evaluation; empty where no condition is about one.
        model: that the conditions are about; empty as ``test``.
        conditions: in the order of ``SUBJECTS``.
    """

    run: str
    test: str
    model: str
    conditions: Sequence[Condition]

    @property
    def unmet(self) -> str:
        """A sentence where not every condition passes; else empty."""
        failed = sum(condition.verdict != PASS for condition in self.conditions)
        return f"{failed} of {len(self.conditions)} conditions: not met." if failed else ""

    def as_json(self) -> dict[str, Json]:
        """What ``--json`` prints."""
        listed: list[Json] = [
            {**asdict(condition), "why": condition.why or None, "command": condition.command or None}
            for condition in self.conditions
        ]
        names: dict[str, Json] = {"test": self.test or None, "model": self.model or None}
        return {"run": self.run, **names, "conditions": listed}


def judge(name: str, figure: Figure, limit: float, *, confident: bool) -> Condition:
    """The condition, judged by the figure.

    Args:
        name: of ``SUBJECTS``.
        figure: which it is about.
        limit: in the figure's unit.
        confident: the whole interval must be on the right side of the limit.
    """
    verdict, why = _verdict(figure, limit, upper=name.startswith("max"), confident=confident)
    command = figure.narrower if verdict == CANNOT_TELL and figure.value is not None else figure.command
    command = "" if verdict == PASS else command
    return Condition(name, verdict, figure.value, figure.low, figure.high, limit, why, command)


def _verdict(figure: Figure, limit: float, *, upper: bool, confident: bool) -> tuple[str, str]:
    """The verdict, and why it is not ``PASS``."""
    sign = 1 if upper else -1
    if figure.value is None:
        return CANNOT_TELL, figure.unknown
    if sign * (figure.value - limit) > ROUNDING:
        return FAIL, f"it is {'above' if upper else 'below'} the limit"
    farthest = figure.high if upper else figure.low
    if not confident:
        return PASS, ""
    if farthest is None:
        return CANNOT_TELL, "it has no interval, and --confident asks for one"
    if sign * (farthest - limit) > ROUNDING:
        return CANNOT_TELL, "the interval reaches across the limit, which more samples would narrow"
    return PASS, ""
