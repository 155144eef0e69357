"""`metaselect annotate simulate`, `status`, `consensus` and `undo`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.annotation.consensus import METHODS
from metaselect.annotation.simulation import SimulateOptions
from metaselect.cli.annotate.group import LatestRound, group, print_counts
from metaselect.cli.console import WIDTH, Console
from metaselect.cli.flags import JsonOption, QuietOption, RunOption, SeedOption
from metaselect.cli.results import finish, print_noise_estimate
from metaselect.run.artefacts import IMPORTS
from metaselect.run.layout import Run
from metaselect.text import counted, examples

ConsensusMethod = StrEnum("ConsensusMethod", {name: name for name in METHODS})  # type: ignore[misc]


def register(app: typer.Typer) -> None:
    """Add these commands to `annotate`, which is in the program already."""
    del app
    for command in (simulate, status, consensus, undo):
        group.command(command.__name__)(command)


def simulate(
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="A CSV with sample_id and clean_label.")],
    run: RunOption = None,
    round_number: LatestRound = None,
    error_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Of answers: any other class, all as likely.")
    ] = 0.0,
    confusion: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A CSV: a row per true class, a column per answer, probabilities."),
    ] = None,
    annotators: Annotated[int, typer.Option(help="How many people answer each sample.")] = 1,
    skip_rate: Annotated[float, typer.Option(metavar="RATE", help="Of answers that are skipped.")] = 0.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer a round from a truth file (for experiments), perfectly or as people would.

    The annotator is "simulated", of several "simulated-1" and so on. What one of them says of a sample does not
    depend on the other samples.

        metaselect annotate simulate OUT/truth.csv --run RUN

        metaselect annotate simulate truth.csv --annotators 3 --error-rate 0.1
    """
    from metaselect.stages.annotate import simulate as stage

    console = Console(as_json=as_json, quiet=quiet)
    options = SimulateOptions(
        round=round_number,
        error_rate=error_rate,
        confusion=confusion,
        annotators=annotators,
        skip_rate=skip_rate,
        seed=seed,
    )
    outcome = stage.simulate(Run.at(run), truth, options, console)
    print_counts(console, outcome.result)
    finish(console, outcome)


def status(run: RunOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show how far each round is, who answered how, and what is in conflict; changes nothing.

    "as the consensus": samples that others answered too. "as before": samples that a form showed twice.

        metaselect annotate status --run RUN

        metaselect annotate status --run RUN --json
    """  # fmt: skip
    from metaselect.annotation.summary import RoundProgress
    from metaselect.annotation.votes import STATUSES
    from metaselect.stages.annotate import votes as stage

    console = Console(as_json=as_json, quiet=quiet)
    progress = stage.status(Run.at(run))
    console.table(
        RoundProgress._fields, [[str(value) for value in each] for each in progress.rounds], width=WIDTH
    )
    if progress.annotators:
        people = []
        for name, counts in progress.annotators.items():
            skill = progress.agreement.annotators[name]
            kept = [
                _part_of(skill.same, skill.compared),
                _part_of(skill.repeated_same, skill.repeated),
                skill.worst,
            ]
            people.append([name, *map(str, counts.values()), *kept])
        header = ("annotator", *STATUSES, "as the\nconsensus", "as\nbefore", "most\noften")
        console.table(header, people, width=WIDTH)
    bought = counted(progress.bought, "label", "labels")
    console.line(f"{bought} bought, {counted(progress.unusable, 'sample', 'samples')} unusable.")
    if progress.agreement.alpha is not None:
        console.line(
            f"Krippendorff's alpha {progress.agreement.alpha:.3f} (1: all agree, 0: chance), from "
            f"{progress.agreement.samples} samples with several answers; consensus by {progress.method}."
        )
    if progress.conflict_ids:
        console.line(
            f"Tied: {examples(progress.conflict_ids)}. For somebody else: annotate export --conflicts"
        )
    found = progress.as_json()
    print_noise_estimate(console, found["noise_estimate"])
    console.result(found)


def consensus(
    run: RunOption = None,
    method: Annotated[
        ConsensusMethod | None,
        typer.Option(help="How votes become labels, from now on.", show_default="as it is: majority"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose how the votes of several annotators become one label, and show what that changes.

    majority: the most votes win. dawid-skene: annotators who are often wrong weigh less; for some dozens of answers
    of each and more. Ties have no label in both.

        metaselect annotate consensus --run RUN

        metaselect annotate consensus --method dawid-skene --run RUN
    """
    from metaselect.stages.annotate import votes as stage

    console = Console(as_json=as_json, quiet=quiet)
    outcome = stage.consensus(Run.at(run), method and method.value, console)
    found: Any = outcome.result
    console.line(f"Consensus by {found['method']}: {found['bought']} labels bought, {found['tied']} ties.")
    if found["changed"]:
        console.table(("sample_id", "before", "now"), [list(row.values()) for row in found["changed"]])
    finish(console, outcome)


def undo(
    run: RunOption = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--import",
            metavar="N",
            min=1,
            help=f"A row of {IMPORTS.within()}.",
            show_default="the latest",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take an import back: what was answered before it counts again.

    Nothing is deleted: the earlier answers are written once more, behind the others. Again changes nothing; to go
    further back, name the import.

        metaselect annotate undo --run RUN

        metaselect annotate undo --import 2 --run RUN
    """
    from metaselect.stages.annotate import votes as stage

    console = Console(as_json=as_json, quiet=quiet)
    outcome = stage.undo(Run.at(run), number, console)
    done = outcome.result
    console.line(f"Undid import {done['number']} ({done['file']}): {done['votes']} votes.")
    console.line(
        f"{done['withdrawn']} withdrawn, {done['restored']} replaced by the answer before, "
        f"{done['superseded']} replaced or stated elsewhere too. {done['bought']} labels bought."
    )
    finish(console, outcome)


def _part_of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else ""
