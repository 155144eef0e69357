"""`metaselect select`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import (
    DeviceOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxGpuMemoryOption,
    MaxMemoryOption,
    MethodOption,
    ProfileOption,
    ProgressOption,
    QuietOption,
    RunOption,
    SeedOption,
    SelectMethod,
    TrustModelOption,
    WorkersOption,
)
from metaselect.cli.results import finish, print_dry_run, print_method_options
from metaselect.errors import UsageError
from metaselect.memory import limited
from metaselect.options import SelectOptions
from metaselect.registry import AUTO_SELECTOR, SELECTORS
from metaselect.run.artefacts import SELECTED
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(select)


def select(
    run: RunOption = None,
    budget: Annotated[int | None, typer.Option(help="Number of labels to buy in this round.")] = None,
    method: Annotated[
        SelectMethod,
        typer.Option(
            metavar="METHOD", help=f"{', '.join(SELECTORS)}; or auto, which chooses one by the data."
        ),
    ] = SelectMethod(AUTO_SELECTOR),
    option: MethodOption = None,
    profile: ProfileOption = None,
    gradient: Annotated[
        Literal["label-free", "full"] | None,
        typer.Option(
            help="Gradient that rbc, rbc-k and gbc cluster; full is for labels that are clean but unbalanced.",
            show_default="label-free",
        ),
    ] = None,
    control: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the budget to draw at random, to estimate the noise rate.",
            show_default="none",
        ),
    ] = 0.0,
    min_per_class: Annotated[
        int,
        typer.Option(
            help="Least number of samples of each given class, where some are rare.", show_default="none"
        ),
    ] = 0,
    max_outlier: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Choose none of the samples that are farther from their neighbours than this share of the pool.",
            show_default="no limit",
        ),
    ] = None,
    replace_unusable: Annotated[
        bool,
        typer.Option("--replace-unusable", help="Buy one more label for each unusable sample."),
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet file of sample_id, features and optionally probs, from any encoder; needs no warm-up.",
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Choose the first samples of a list with the column sample_id, instead of a method.",
        ),
    ] = None,
    round_: Annotated[
        Literal["next"] | None,
        typer.Option("--round", help="Open a new round.", show_default="the latest, or the first"),
    ] = None,
    discard_round: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Move the latest round and its answers to discarded/, and do nothing else.",
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    trust_model: TrustModelOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    max_memory: MaxMemoryOption = None,
    max_gpu_memory: MaxGpuMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Choose the samples whose labels to buy.

    Examples:
        metaselect select --run RUN --budget 50

        metaselect select --run RUN --budget 50 --method gbc --control 0.1

        metaselect select --run RUN --budget 50 --profile long-tail

        metaselect select --run RUN --budget 50 --features clip.parquet

        metaselect select --run RUN --budget 10 --round next --replace-unusable

        metaselect select --run RUN --budget 20 --round next --samples doubted.csv
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    if option == ["help"]:
        if method == AUTO_SELECTOR:
            raise UsageError(
                "--option help explains the options of one method.", "Name it: --method rbc --option help"
            )
        print_method_options(console, method, SELECTORS[method])
        return
    options = SelectOptions(
        budget=budget,
        method=method,
        option=tuple(option or ()),
        profile=profile,
        gradient=gradient,
        control=control,
        min_per_class=min_per_class,
        max_outlier=max_outlier,
        replace_unusable=replace_unusable,
        features=features,
        samples=samples,
        round=round_,
        seed=seed,
        device=device,
        workers=workers,
        force=force,
        dry_run=dry_run,
    )
    run_directory = Run.at(run, trust_model=trust_model)
    if discard_round is not None:
        from metaselect.stages.select.discard import discard_round as run_discard

        finish(console, run_discard(run_directory, discard_round, console))
        return
    from metaselect.stages.select.select import select as run_select

    with limited(max_memory, console, max_gpu_memory):
        outcome = run_select(run_directory, options, console)
    if "needs" in outcome.result:
        print_dry_run(console, outcome)
        return
    result = outcome.result
    by_method = "" if result["control"] == result["selected"] else f"chosen by {result['method']}"
    if samples is not None:
        by_method = f"from {samples}"
    at_random = f"{result['control']} of them drawn at random" if result["control"] else ""
    total = f" ({result['total']} with earlier ones)" if result["total"] != result["selected"] else ""
    console.line(
        f"{run_directory.path(str(result['folder'])) / SELECTED.within()}: {result['selected']} samples "
        f"{', '.join(filter(None, [by_method, at_random]))}{total}"
    )
    if not result["closed"]:
        console.note(f"Next: metaselect annotate export {run_directory.flag}")
    finish(console, outcome)
