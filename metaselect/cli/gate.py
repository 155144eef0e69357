"""`metaselect gate`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console, write_stderr
from metaselect.cli.flags import OUTPUT, JsonOption, QuietOption, RunOption
from metaselect.cli.results import finish, require_file_names
from metaselect.errors import UsageError
from metaselect.records import Outcome
from metaselect.report.gate import GateReport, Limits
from metaselect.run.files import write_text
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gate)


def gate(
    run: RunOption = None,
    max_noise: Annotated[
        float | None,
        typer.Option(help="Largest share of wrong labels, from 0 to 1, as the control samples estimate it."),
    ] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Lowest accuracy, from 0 to 1.")] = None,
    min_balanced_accuracy: Annotated[
        float | None, typer.Option(help="Lowest balanced accuracy, from 0 to 1.")
    ] = None,
    min_auc: Annotated[
        float | None,
        typer.Option(help="Lowest AUC of the ranking of label errors, from 0 to 1; needs evaluate --truth."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="Largest drop in accuracy against --baseline, in percentage points."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The metrics of an earlier evaluation, a JSON file, for --max-drop."
        ),
    ] = None,
    confident: Annotated[
        bool,
        typer.Option(
            "--confident", help="Ask that the whole 95 % interval is on the right side of the limit."
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model that the conditions are about: warmup or the name of a re-weighting.",
            show_default="the one that evaluate says to take",
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The evaluation, a folder of evaluate/.", show_default="the only one"
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE.xml", help="Write the conditions as JUnit XML.", rich_help_panel=OUTPUT),
    ] = None,
    openmetrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.prom", help="Write the figures in OpenMetrics text.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare figures with limits, for scripts; exits 1 unless every condition passes.

    Examples:
        metaselect gate --run RUN --min-accuracy 0.9 --max-noise 0.2

        metaselect gate --run RUN --baseline old.json --max-drop 1 --junit gate.xml
    """
    console = Console(as_json=as_json, quiet=quiet)
    require_file_names(junit, openmetrics)
    if (baseline is None) != (max_drop is None):
        raise UsageError("--baseline and --max-drop belong together.", "Give both, or neither.")
    limits = Limits(max_noise, min_accuracy, min_balanced_accuracy, min_auc, max_drop)
    run_directory = Run.at(run)
    from metaselect.stages.gate import gate as run_gate

    report = run_gate(run_directory, limits, test=test, model=model, baseline=baseline, confident=confident)
    for condition in report.conditions:
        console.line(f"{condition.verdict.replace('_', ' '):12} {condition.sentence()}")
    if junit is not None:
        from metaselect.report.junit import junit as as_junit

        write_text(junit, as_junit(report))
    if openmetrics is not None:
        from metaselect.report.openmetrics import openmetrics as as_openmetrics

        write_text(openmetrics, as_openmetrics(report))
    _tell_github(console, report)
    finish(console, Outcome(report.as_json(), report.unmet))


def _tell_github(console: Console, report: GateReport) -> None:
    """Give GitHub Actions its annotations and its summary, where its environment variables ask for them."""
    from metaselect.report.github import annotations, append_summary

    if os.environ.get("GITHUB_ACTIONS") == "true":
        write_stderr("".join(f"{line}\n" for line in annotations(report)))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    try:
        if not append_summary(Path(summary), report):
            console.note(
                f"{summary} would become longer than GitHub shows; the conditions are left out there."
            )
    except OSError as error:  # no reason to lose the verdict
        console.warn(f"{summary}: {error.strerror}; the conditions are left out there.")
