"""The gate's conditions for GitHub Actions: error annotations, and the summary of a step.

Source: "Workflow commands for GitHub Actions"; the escapes are those of actions/toolkit, packages/core/src/command.ts.
"""

from pathlib import Path

from metaselect.report.gate import PASS, GateReport
from metaselect.text import visible

MOST_BYTES = 1 << 20  # of a step's summary; a longer one is not shown at all
WORDS = {"pass": "✅ pass", "fail": "❌ fail", "cannot_tell": "❔ cannot tell"}
PLAIN = " .,%()"


def annotations(report: GateReport) -> list[str]:
    """A workflow command for each condition that does not pass, which the runner turns into an annotation."""
    return [
        f"::error title={_property(f'metaselect gate: {condition.subject}')}::{_data(condition.sentence())}"
        for condition in report.conditions
        if condition.verdict != PASS
    ]


def append_summary(path: Path, report: GateReport) -> bool:
    """Append the conditions to the summary of a step; False where it would become too long, and nothing is written.

    Args:
        path: of the file that ``GITHUB_STEP_SUMMARY`` names.
        report: whose conditions.
    """
    added = step_summary(report).encode()
    present = path.stat().st_size if path.exists() else 0
    if present + len(added) > MOST_BYTES:
        return False
    with path.open("ab") as stream:
        stream.write(added)
    return True


def step_summary(report: GateReport) -> str:
    """The conditions as a table in Markdown."""
    about = [("run", report.run), ("evaluation", report.test), ("model", report.model)]
    rows = [
        [
            WORDS[condition.verdict],
            _markdown(condition.subject),
            _markdown(condition.measured),
            _markdown(condition.bound),
            _markdown(condition.why),
            f"<code>{_markdown(condition.command)}</code>" if condition.command else "",
        ]
        for condition in report.conditions
    ]
    header = ["", "figure", "measured", "must be", "why", "run"]
    return "\n".join(
        [
            "\n### metaselect gate\n",
            ", ".join(f"{name} {_markdown(value)}" for name, value in about if value) + "\n",
            *(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)),
            "",
        ]
    )


def _markdown(text: str) -> str:
    """The text as Markdown that shows it: everything but letters, digits and ``PLAIN`` as a character reference."""
    return "".join(char if char.isalnum() or char in PLAIN else f"&#{ord(char)};" for char in visible(text))


def _data(text: str) -> str:
    """The text as the message of a workflow command; ``visible`` leaves no end of a line, which would be %0A."""
    return visible(text).replace("%", "%25")


def _property(text: str) -> str:
    """The text as a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
