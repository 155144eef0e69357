"""`metaselect evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.datasets.flags import (
    AllowOutsideOption,
    FeatureColumnsOption,
    FeaturesOption,
    IdColumnOption,
    ImageColumnOption,
    ImageFolderOption,
    ImageSuffixOption,
    LabelColumnOption,
    OnBadSample,
    OnBadSampleOption,
    SplitOption,
)
from metaselect.cli.evaluate.tables import print_evaluation
from metaselect.cli.flags import (
    DeviceOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    MaxGpuMemoryOption,
    MaxMemoryOption,
    ProgressOption,
    QuietOption,
    RunOption,
    TrustModelOption,
    WorkersOption,
)
from metaselect.cli.results import finish, print_dry_run
from metaselect.data_options import EvaluateOptions
from metaselect.memory import limited
from metaselect.registry import BASELINE
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    test: Annotated[
        Path | None,
        typer.Argument(
            help="A labelled test set, in any form that ingest reads; without one, models are judged on bought labels.",
            show_default=False,
        ),
    ] = None,
    run: RunOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="True labels of training samples (sample_id, clean_label), to evaluate the weights.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the result's folder in evaluate/.", show_default="from TEST")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of first samples of the ranking among which wrong labels are counted.",
            show_default="the number of wrong labels",
        ),
    ] = None,
    leave_out_overlap: Annotated[
        bool,
        typer.Option(
            "--leave-out-overlap",
            help="Leave out test samples that are in the training set too, or near duplicates of ones there.",
        ),
    ] = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="Show no images in the report.")] = False,
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
    """Compare every model on a labelled test set, or on the bought labels.

    Examples:
        metaselect evaluate test.parquet --run RUN

        metaselect evaluate --run RUN

        metaselect evaluate test.parquet --run RUN --truth truth.csv --json
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = EvaluateOptions(
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
        truth=truth,
        name=name,
        k=k,
        leave_out_overlap=leave_out_overlap,
        no_images=no_images or None,
        device=device,
        workers=workers,
        force=force,
        dry_run=dry_run,
    )
    run_directory = Run.at(run, trust_model=trust_model)
    from metaselect.stages.evaluate.evaluate import evaluate as run_evaluate

    with limited(max_memory, console, max_gpu_memory):
        outcome = run_evaluate(test, run_directory, options, console)
    if "needs" in outcome.result:
        print_dry_run(console, outcome)
        return
    print_evaluation(console, outcome.result)
    console.line(f"Report: {outcome.result['report']}")
    console.note(f"Next: {_next(run_directory, outcome.result)}")
    finish(console, outcome)


def _next(run: Run, result: Mapping[str, Any]) -> str:
    """The command that brings the run forward: what `status` names, else the missing baseline, else another round."""
    from metaselect.stages.freshness import AnnotationView
    from metaselect.stages.status import next_step

    models = result["reweight"]
    if step := next_step(run, AnnotationView.read(run)):
        return step
    if BASELINE not in models and not any(metrics["against_baseline"] for metrics in models.values()):
        return f"metaselect reweight --method {BASELINE} {run.model_flags}"
    return f"metaselect select --round next --budget N {run.flag}"
