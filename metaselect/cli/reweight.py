"""`metaselect reweight`."""

from typing import Annotated

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import (
    TRAINING,
    AccumulateOption,
    AmpOption,
    AugmentOption,
    BatchOption,
    DecayOption,
    DeviceOption,
    DryRunOption,
    EpochsOption,
    ForceOption,
    Init,
    JsonOption,
    MethodOption,
    ModelOption,
    MomentumOption,
    Optimiser,
    OptimiserOption,
    ProfileOption,
    ProgressOption,
    RateOption,
    ReweightMethod,
    RunOption,
    Schedule,
    ScheduleOption,
    SeedOption,
)
from metaselect.cli.results import finish, show_options, show_plan
from metaselect.options import ReweightOptions
from metaselect.registry import REWEIGHTERS
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reweight)


def reweight(
    run: RunOption = None,
    method: Annotated[ReweightMethod, typer.Option(help="How to train.")] = ReweightMethod("direct"),
    name: Annotated[
        str | None, typer.Option(help="Folder below reweight/.", show_default="the method")
    ] = None,
    option: MethodOption = None,
    profile: ProfileOption = None,
    init: Annotated[
        Init,
        typer.Option(
            help="warmup: from the checkpoint that did best on held-out given labels.",
            rich_help_panel=TRAINING,
        ),
    ] = Init.warmup,
    model: ModelOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    meta_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Bought samples a step; of fsr, samples of its dictionary.",
            show_default="auto (all, at most the batch size; fsr: 2 times that, long-tail 8)",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    optimiser: OptimiserOption = Optimiser.sgd,
    lr: RateOption = None,
    momentum: MomentumOption = None,
    weight_decay: DecayOption = None,
    accumulate: AccumulateOption = 1,
    schedule: ScheduleOption = Schedule.cosine,
    augment: AugmentOption = None,
    amp: AmpOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Learn a weight for every sample, together with a robust model.

    Auto: the warm-up's model and best checkpoint; plain SGD at 0.05; batches of 32, or 128 from 10,000 samples
    on; at least 2,500 steps.

    Examples:
        metaselect reweight --run RUN

        metaselect reweight --run RUN --method l2rw --option every=5 --name l2rw-5

        metaselect reweight --method fsr --option help

        metaselect reweight --run RUN --method direct --option step=2 --name direct-2

        metaselect reweight --run RUN --method fsr --profile long-tail
    """
    console = Console(progress, as_json=as_json)
    if option == ["help"]:
        show_options(console, method, REWEIGHTERS[method])
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
        force=force,
        dry_run=dry_run,
        method=method,
        name=name,
        init=init,
        meta_batch_size=meta_batch_size,
        option=tuple(option or ()),
        profile=profile,
    )
    place = Run.at(run)
    from metaselect.stages.reweight.reweight import reweight as run_reweight

    outcome = run_reweight(place, options, console)
    if "needs" in outcome.result:
        show_plan(console, outcome)
        return
    result = outcome.result
    right = result["bought_accuracy"]
    learnt = f", {right:.0%} of the bought labels right" if isinstance(right, float) else ""
    console.line(
        f"{place.path('reweight')}/{result['name']}: {result['model']}, {result['epochs']} epochs, "
        f"{result['bought']} bought labels{learnt}"
    )
    console.note(f"Next: metaselect evaluate TEST {place.flag}")
    finish(console, outcome)
