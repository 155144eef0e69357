"""`metaselect reweight`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import (
    TRAINING,
    AccumulateOption,
    AmpOption,
    AugmentOption,
    BatchSizeOption,
    DeviceOption,
    DryRunOption,
    EpochsOption,
    ForceOption,
    JsonOption,
    LearningRateOption,
    MaxGpuMemoryOption,
    MaxMemoryOption,
    MethodOption,
    ModelOption,
    MomentumOption,
    Optimiser,
    OptimiserOption,
    ProfileOption,
    ProgressOption,
    QuietOption,
    ReweightMethod,
    RunOption,
    Schedule,
    ScheduleOption,
    SeedOption,
    TrustModelOption,
    WeightDecayOption,
    WorkersOption,
)
from metaselect.cli.results import finish, print_dry_run, print_method_options, print_wrong_labels
from metaselect.memory import limited
from metaselect.options import ReweightOptions
from metaselect.registry import PREFERRED, REWEIGHTERS
from metaselect.run.artefacts import ISSUES_LIST
from metaselect.run.layout import Run
from metaselect.text import short

SHOWN_PAIRS = 3  # of a given and a suggested class


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reweight)


def reweight(
    run: RunOption = None,
    method: Annotated[
        ReweightMethod,
        typer.Option(metavar="METHOD", help=f"Training method: {', '.join(REWEIGHTERS)}."),
    ] = ReweightMethod("auto"),
    name: Annotated[
        str | None, typer.Option(help="Name of the result's folder in reweight/.", show_default="the method")
    ] = None,
    option: MethodOption = None,
    profile: ProfileOption = None,
    init: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Initial parameters: warmup (the checkpoint that did best on held-out given labels), scratch, "
            "or the name of another re-weighting of the run.",
            rich_help_panel=TRAINING,
        ),
    ] = "warmup",
    model: ModelOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    meta_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Bought samples in each meta batch; for fsr, samples of its dictionary.",
            show_default="auto: all, at most the batch size; fsr more",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            help="Parts of the bought labels in the comparison with plain training (cross-fitting); 0: none. "
            "All parts together cost as many epochs as the run, and as many of plain training.",
        ),
    ] = 4,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace", help="Keep what each bought label did to each weight, for metaselect explain."
        ),
    ] = False,
    oracle_truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="For the method weighted alone: true labels of training samples (sample_id, clean_label).",
        ),
    ] = None,
    optimiser: OptimiserOption = Optimiser.sgd,
    lr: LearningRateOption = None,
    momentum: MomentumOption = None,
    weight_decay: WeightDecayOption = None,
    accumulate: AccumulateOption = 1,
    schedule: ScheduleOption = Schedule.cosine,
    augment: AugmentOption = None,
    amp: AmpOption = None,
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
    """Train a model, and learn a weight for every sample of the training set.

    Defaults: the method auto; the warm-up's model and best checkpoint; SGD at 0.05; batches of 32, or 128 from 10,000
    samples on; at least 2,500 steps.

    Examples:
        metaselect reweight --run RUN

        metaselect reweight --run RUN --method l2rw --option every=5 --name l2rw-5

        metaselect reweight --method fsr --option help

        metaselect reweight --run RUN --method direct --option step=2 --name two

        metaselect reweight --run RUN --method fsr --profile long-tail

        metaselect reweight --run RUN --method finetune --init l2rw

        metaselect reweight --run RUN --method l2rw --trace
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    if option == ["help"]:
        print_method_options(console, method, REWEIGHTERS[method])
        return
    options = ReweightOptions(
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        accumulate=accumulate,
        schedule=schedule,
        augment=augment,
        amp=amp,
        seed=seed,
        device=device,
        workers=workers,
        force=force,
        dry_run=dry_run,
        method=method,
        name=name,
        init=init,
        meta_batch_size=meta_batch_size,
        option=tuple(option or ()),
        profile=profile,
        folds=folds,
        trace=trace,
        oracle_truth=oracle_truth,
    )
    run_directory = Run.at(run, trust_model=trust_model, model=model)
    from metaselect.stages.freshness import AnnotationView
    from metaselect.stages.reweight.reweight import reweight as run_reweight
    from metaselect.stages.status import buying_step

    with limited(max_memory, console, max_gpu_memory):
        outcome = run_reweight(run_directory, options, console)
    if "needs" in outcome.result:
        print_dry_run(console, outcome)
        return
    result = outcome.result
    right = result["bought_accuracy"]
    count = result["epochs"]
    trained = "solved exactly" if count is None else f"{count} epoch{'' if count == 1 else 's'}"
    learnt = f", {right:.0%} of the bought labels right" if isinstance(right, float) else ""
    console.line(
        f"{run_directory.path('reweight')}/{result['name']}: {result['model']}, {trained}, "
        f"{result['bought']} bought labels{learnt}"
    )
    comparison: Any = result["comparison"]
    if comparison and comparison["verdict"] == "worse":
        console.warn(comparison["sentence"])
    elif comparison:
        console.line(comparison["sentence"])
    print_wrong_labels(console, result["wrong_labels"])
    for line in _issue_lines(
        result["issues"], run_directory.path(ISSUES_LIST.path(name=str(result["name"])))
    ):
        console.line(line)
    step = f"metaselect evaluate TEST {run_directory.model_flags}"
    if not result["bought"] and options.method == PREFERRED:  # which learns from bought labels alone
        step = buying_step(run_directory, AnnotationView.read(run_directory))
    console.note(f"Next: {step}")
    finish(console, outcome)


def _issue_lines(issues: Any, path: Path) -> Iterator[str]:
    """Where the doubted labels are listed, how they are distributed, and how well each ranking does.

    Args:
        issues: as ``--json`` has them, or None.
        path: of the list.
    """
    if not issues:
        return
    pairs = [
        f"{short(pair['given_label'])} to {short(pair['suggested_label'])} ({pair['count']}, {pair['share']:.0%})"
        for pair in issues["pairs"][:SHOWN_PAIRS]
    ]
    others = issues["others_suggested"]
    most = f", above all {', '.join(pairs)}" if pairs else ""
    yield f"{path} lists {issues['listed']} labels; another one is suggested for {others} samples{most}."
    rankings = issues["rankings"]
    judged = [
        f"{name} {each['auc']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
        for name, each in rankings.items()
        if each["auc"] is not None
    ]
    if judged:
        reason = rankings["rank"]["reason"]
        yield (
            f"AUC (95 % interval) on {issues['contradicted']} given labels that bought ones contradict and "
            f"{issues['confirmed']} that they confirm, of samples that a selector chose: {', '.join(judged)}. "
            + (f"Of the rank there is none: {reason}." if reason else "Rank and weight are cross-fitted.")
        )
