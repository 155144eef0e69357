"""`metaselect warmup`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.datasets.flags import (
    AllowOutsideOption,
    ClassesOption,
    FeatureColumnsOption,
    FeaturesOption,
    Fit,
    FitOption,
    IdColumnOption,
    ImageColumnOption,
    ImageFolderOption,
    ImageSizeOption,
    ImageSuffixOption,
    LabelColumnOption,
    OnBadSample,
    OnBadSampleOption,
    PixelRangeOption,
    SplitOption,
    Store,
    StoreOption,
    numbers_of_range,
)
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
    Kind,
    LearningRateOption,
    MaxGpuMemoryOption,
    MaxMemoryOption,
    ModelOption,
    MomentumOption,
    Optimiser,
    OptimiserOption,
    ProgressOption,
    QuietOption,
    RunOption,
    Schedule,
    ScheduleOption,
    SeedOption,
    WeightDecayOption,
    WorkersOption,
)
from metaselect.cli.results import finish, print_dry_run
from metaselect.data.classes import named_classes
from metaselect.data_options import IngestOptions
from metaselect.memory import limited
from metaselect.options import BODY_RATE, WarmupOptions
from metaselect.run.layout import Run


class FinetunedPart(StrEnum):
    """Values of --finetune."""

    all = "all"
    top = "top"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(warmup)


def warmup(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Data for a new run, in any form that ingest reads.", show_default="the run's data"
        ),
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    on: Annotated[
        Kind | None,
        typer.Option(
            help="What the models of the run take, of samples that have both.",
            show_default="features if any",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    optimiser: OptimiserOption = Optimiser.sgd,
    lr: LearningRateOption = None,
    momentum: MomentumOption = None,
    weight_decay: WeightDecayOption = None,
    accumulate: AccumulateOption = 1,
    schedule: ScheduleOption = Schedule.cosine,
    augment: AugmentOption = None,
    amp: AmpOption = None,
    checkpoints: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of checkpoints to keep, evenly spread over the epochs.",
            rich_help_panel=TRAINING,
        ),
    ] = 5,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors",
            help="Initial parameters.",
            show_default="random",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Start from published weights (default model: efficientnet-lite0), or from those in the file of "
            "--weights.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    finetune: Annotated[
        FinetunedPart,
        typer.Option(
            help="What is trained of a pre-trained model: the last third of its layers, or all of it.",
            rich_help_panel=TRAINING,
        ),
    ] = FinetunedPart.top,
    body_rate: Annotated[
        float,
        typer.Option(
            help="Learning rate of a pre-trained model below its new head, as a multiple of the head's.",
            rich_help_panel=TRAINING,
        ),
    ] = BODY_RATE,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Parts of the pool, each predicted by a further model that is trained on the others; 0: none.",
            show_default="auto: 2; linear 5; large pools 0",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    image_size: ImageSizeOption = None,
    fit: FitOption = Fit.crop,
    pixel_range: PixelRangeOption = None,
    store: StoreOption = Store.auto,
    id_column: IdColumnOption = None,
    label_column: LabelColumnOption = "label",
    image_column: ImageColumnOption = "image",
    feature_columns: FeatureColumnsOption = None,
    features: FeaturesOption = None,
    on_bad_sample: OnBadSampleOption = OnBadSample.stop,
    split: SplitOption = None,
    image_folder: ImageFolderOption = None,
    image_suffix: ImageSuffixOption = "",
    allow_outside: AllowOutsideOption = False,
    classes: ClassesOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    max_memory: MaxMemoryOption = None,
    max_gpu_memory: MaxGpuMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Fit a model to the given labels, and keep checkpoints for selection.

    Defaults: momentum 0.9 at 0.05; batches of 64, or 128 from 10,000 samples on; about 1,600 steps within 4 to 20
    epochs; with --pretrained, 0.02 and 3 to 10 epochs. The model linear, the default from 128 features on, is solved
    exactly instead.

    Examples:
        metaselect warmup train.parquet --run RUN

        metaselect warmup --run RUN --model resnet32 --epochs 30

        metaselect warmup photos --run RUN --pretrained --model timm:resnet50
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = WarmupOptions(
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
        checkpoints=checkpoints,
        weights=weights,
        pretrained=pretrained,
        finetune=finetune,
        body_rate=body_rate,
        folds=folds,
        on=on,
    )
    reading = IngestOptions(
        id_column=id_column,
        label_column=label_column,
        image_column=image_column,
        feature_columns=feature_columns,
        features=features,
        on_bad_sample=on_bad_sample,
        split=split,
        image_folder=image_folder,
        image_suffix=image_suffix,
        allow_outside=allow_outside,
        classes=named_classes(classes),
        image_size=image_size,
        fit=fit,
        pixel_range=numbers_of_range(pixel_range),
        store=store,
    )
    run_directory = Run.at(run)
    from metaselect.stages.freshness import AnnotationView
    from metaselect.stages.status import next_step
    from metaselect.stages.warmup.warmup import warmup as run_warmup

    with limited(max_memory, console, max_gpu_memory):
        outcome = run_warmup(data, run_directory, options, reading, console)
    if "needs" in outcome.result:
        print_dry_run(console, outcome)
        return
    result = outcome.result
    if "weight_decay" in result:
        fitted = f"solved with weight decay {result['weight_decay']:.3g}"
    else:
        fitted = f"{result['epochs']} epoch{'' if result['epochs'] == 1 else 's'}"
    console.line(
        f"{run_directory.path('warmup')}: {result['model']}, {fitted}, "
        f"{result['accuracy_on_given_labels']:.1%} of the given labels learnt "
        f"({result['held_out_accuracy_on_given_labels']:.1%} of those held out)"
    )
    if step := next_step(run_directory, AnnotationView.read(run_directory)):
        console.note(f"Next: {step}")
    finish(console, outcome)
