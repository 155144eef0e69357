"""`metaselect plan`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from metaselect.cli.console import WIDTH, Console, ProgressMode
from metaselect.cli.flags import (
    DeviceOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    RunOption,
    SeedOption,
    TrustModelOption,
)
from metaselect.cli.results import finish
from metaselect.errors import UsageError
from metaselect.options import DEFAULT_BUDGETS, PlanOptions
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    run: RunOption = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="B,B,...",
            help="Numbers of further labels to compare.",
            show_default=f"{','.join(map(str, DEFAULT_BUDGETS))}, as far as the pool has room",
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    trust_model: TrustModelOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Predict what further labels would bring, before they are bought; writes nothing.

    Examples:
        metaselect plan --run RUN

        metaselect plan --run RUN --budgets 20,200
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = PlanOptions(budgets=_numbers(budgets), seed=seed, device=device)
    run_directory = Run.at(run, trust_model=trust_model)
    from metaselect.stages.plan.plan import plan as run_plan

    outcome = run_plan(run_directory, options, console)
    _print_plan(console, outcome.result)
    finish(console, outcome)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers of a list with commas.

    Raises:
        UsageError: something else stands there.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--budgets {text} is no list of numbers.", "Write for example --budgets 10,20,50."
        ) from None


def _print_plan(console: Console, result: Mapping[str, Any]) -> None:
    """Print what is assumed, a line for each budget, and the verdict."""
    console.line(
        f"{result['samples']:,} samples with a label, {result['bought']} of them bought. {_assumed(result)}"
    )
    rows = result["budgets"]
    console.table(
        (
            "labels",
            "accuracy %",
            "gain,\npoints",
            "correct labels",
            "gain a\nlabel",
            "clusters\nwithout",
            "samples\nin them",
        ),
        [
            (
                f"{'+' if row['labels'] else ''}{row['labels']}",
                _range(row["accuracy"], 100, ".1f"),
                f"{100 * row['accuracy_gain']['mean']:+.1f}" if row["labels"] else "-",
                _range(row["correct_labels"], 1, ",.0f"),
                f"{row['correct_labels_gain']['mean'] / row['labels']:+.1f}" if row["labels"] else "-",
                str(row["clusters_without_label"]),
                f"{row['samples_without_label']:.0%}",
            )
            for row in rows
        ],
        width=WIDTH,
    )
    errors = ", ".join(
        f"{100 * row['measured_error']['accuracy']:.1f} at {'+' if row['labels'] else ''}{row['labels']}"
        for row in rows
    )
    console.line(
        "Ranges: 90 %, widened by the error of such predictions on digits and MNIST. Points of accuracy by which they "
        f"were off (root mean square): {errors}."
    )
    console.line(
        f"Clusters: {result['clusters']}, by K-means. The labels are chosen as {result['method']} does."
    )
    console.line(result["verdict"])
    console.note(f"Next: {result['next']}")


def _assumed(result: Mapping[str, Any]) -> str:
    """The hypotheses, in sentences."""
    found = result["hypotheses"]
    if len(found) == 2:
        parts = " or ".join(
            f"{each['wrong_share']:.0%} of the given labels are wrong (probability {each['probability']:.0%})"
            for each in found
        )
        return f"Two readings fit them equally well: {parts}."
    share = f"{found[0]['wrong_share']:.0%} of the given labels are wrong"
    if result["bought"]:
        return f"By these, {share}."
    return f"About {share}, if in each group of similar samples the most frequent label is right."


def _range(estimate: Mapping[str, float], scale: float, form: str) -> str:
    mean, low, high = (format(scale * estimate[name], form) for name in ("mean", "low", "high"))
    return f"{mean} ({low}-{high})"
