"""What the commands of `metaselect annotate` share: their group, an option and a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console
from metaselect.cli.results import print_noise_estimate
from metaselect.records import Json

LatestRound = Annotated[
    int | None,
    typer.Option("--round", metavar="K", min=1, help="The round.", show_default="the latest"),
]
ClassNotes = Annotated[
    Path | None,
    typer.Option(
        "--class-notes",
        metavar="FILE",
        help="What the page tells about classes: a CSV file of class, note, image.",
        show_default=False,
    ),
]
COUNTS = {
    "matched": "answers with a label",
    "skipped": "answers: skip",
    "unsure": "answers: unsure",
    "unusable": "answers: bad_sample",
    "conflicting": "answered twice and differently, not taken",
    "mismatched": "samples with another one's image or content, not taken",
    "changed": "samples whose content changed since, not taken",
    "other_batch": "rows of another run's batch, not taken",
    "not_selected": "ids of the pool, not selected, not taken",
    "unknown": "ids not in the pool, or images that never went out",
    "repeated": "answers for blind repeats",
    "missing": "selected samples still without an answer",
    "tied": "samples with tied votes",
    "new_votes": "new votes",
    "replaced": "new votes in place of another answer of the same annotator",
    "bought": "labels bought so far",
}
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Labels out to people, and back.")


def print_counts(console: Console, result: Mapping[str, Json]) -> None:
    """Print the reconciliation table of an import: the counts that are not zero, and below it the others' names."""
    rows = [[meaning, str(result[name])] for name, meaning in COUNTS.items() if result[name]]
    console.table(("reconciliation", "count"), rows)
    none = [name for name in COUNTS if not result[name]]
    if none:
        console.line(f"None: {', '.join(none).replace('_', ' ')}.")
    print_noise_estimate(console, result["noise_estimate"])
