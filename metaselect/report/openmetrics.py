"""The gate's figures in the text format of OpenMetrics 1.0, which Prometheus reads."""

from collections.abc import Mapping

from metaselect.report.gate import VERDICTS, Condition, GateReport
from metaselect.text import visible

FAMILIES = {
    "value": "What the condition is about, from 0 to 1; a drop from -1 to 1.",
    "low": "Lower limit of its 95 % interval.",
    "high": "Upper limit of its 95 % interval.",
    "limit": "What it was compared with.",
}
"""Fields of a condition that become gauges, with their help."""


def openmetrics(report: GateReport) -> str:
    """A gauge for each figure, and the verdicts as a set of states; figures that are not known are left out."""
    named = {"run": report.run, "test": report.test, "model": report.model}
    lines: list[str] = []
    for field, meaning in FAMILIES.items():
        family = f"metaselect_gate_{field}_ratio"
        lines += [f"# TYPE {family} gauge", f"# UNIT {family} ratio", f"# HELP {family} {meaning}"]
        lines += [
            f"{family}{_labels({**named, 'condition': condition.name})} {value!r}"
            for condition in report.conditions
            if (value := getattr(condition, field)) is not None
        ]
    return "\n".join([*lines, *_verdicts(report, named), "# EOF\n"])


def _verdicts(report: GateReport, named: Mapping[str, str]) -> list[str]:
    family = "metaselect_gate_verdict"
    states = [(condition, verdict) for condition in report.conditions for verdict in VERDICTS]
    return [
        f"# TYPE {family} stateset",
        f"# HELP {family} Whether the condition holds.",
        *(_state(family, condition, verdict, named) for condition, verdict in states),
    ]


def _state(family: str, condition: Condition, verdict: str, named: Mapping[str, str]) -> str:
    labels = _labels({**named, "condition": condition.name, family: verdict})
    return f"{family}{labels} {int(condition.verdict == verdict)}"


def _labels(labels: Mapping[str, str]) -> str:
    r"""The labels in braces; \, the end of a line and the quote are escaped."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return visible(value).replace("\\", "\\\\").replace('"', '\\"')  # no end of a line is left
