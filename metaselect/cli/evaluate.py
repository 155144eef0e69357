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
from metaselect.cli.flags import (
    DeviceOption,
    ForceOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    RunOption,
    TrustModelOption,
)
from metaselect.cli.results import finish, print_model_choice, print_noise_estimate, print_wrong_labels
from metaselect.data_options import EvaluateOptions
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
        typer.Option("--leave-out-overlap", help="Leave out test samples that are in the training set too."),
    ] = False,
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
    trust_model: TrustModelOption = False,
    force: ForceOption = False,
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
        device=device,
        force=force,
    )
    run_directory = Run.at(run, trust_model=trust_model)
    from metaselect.stages.evaluate.evaluate import evaluate as run_evaluate

    outcome = run_evaluate(test, run_directory, options, console)
    _print_table(console, outcome.result)
    finish(console, outcome)


def _print_table(console: Console, result: Mapping[str, Any]) -> None:
    """Print a row for the warm-up and for each re-weighting run, and the noise of the labels."""
    rows = [("warmup", result["warmup"]), *result["reweight"].items()]
    on_test_set = result.get("judged_on", "test_set") == "test_set"
    console.table(
        (
            *("model", "accuracy", "95 % interval", "balanced", "macro F1"),
            *("weight AUC", "rank AUC", "wrong in first k"),
        ),
        [
            (
                name,
                _format_number(metrics["test_accuracy"], "{:.2%}"),
                _interval(metrics),
                _format_number(metrics["balanced_accuracy"], "{:.2%}"),
                _format_number(metrics["macro_f1"], "{:.4f}"),
                _format_number(metrics.get("weight_auc"), "{:.4f}"),
                _format_number(metrics["rank_auc"], "{:.4f}"),
                _format_number(metrics.get("precision_at_k"), "{:.1%}"),
            )
            for name, metrics in rows
        ],
        title=f"{result['test']}: {result['test_samples']} samples",
    )
    if not on_test_set:
        from metaselect.stages.evaluate.bought_labels import what_is_judged

        console.line(what_is_judged(result["judged_on"], result["test_samples"]))
    for name, metrics in rows:
        if metrics.get("not_judged"):
            console.line(f"{name} is not judged: {metrics['not_judged']}.")
    if "noise" in result:
        console.line(_noise(result["noise"]))
    print_noise_estimate(console, result.get("noise_estimate"))
    for name, metrics in result["reweight"].items():
        if metrics["wrong_labels"]:
            console.line(f"{name}:")
            print_wrong_labels(console, metrics["wrong_labels"])
        _warn_of_worse(console, name, metrics)
    print_model_choice(console, result)


def _noise(noise: Mapping[str, Any]) -> str:
    """The sentence on the labels that a truth file calls wrong, and on the samples that it says nothing of."""
    others = [f"{noise['unusable']} are unusable"] * bool(noise["unusable"])
    others += [f"{noise['not_in_truth']} are not in the truth file"] * bool(noise["not_in_truth"])
    left_out = f"; of the others, {' and '.join(others)}" if others else ""
    rate = _format_number(noise["measured_rate"], "{:.2%}")
    return f"Measured noise rate: {rate} of {noise['samples']} samples{left_out}"


def _warn_of_worse(console: Console, name: str, metrics: Mapping[str, Any]) -> None:
    """Name a re-weighting that is worse than the baseline."""
    if metrics["against_baseline"] and metrics["against_baseline"]["high"] < 0:
        from metaselect.metrics.paired import PairedDifference
        from metaselect.stages.reweight.comparison import difference_phrase

        difference = PairedDifference(**metrics["against_baseline"])
        console.warn(f"{name} is {difference_phrase(difference, BASELINE)}.")


def _interval(metrics: Mapping[str, Any]) -> str:
    """The limits of the accuracy in percent; "-" where there are none."""
    low, high = (metrics.get(f"test_accuracy_{end}") for end in ("low", "high"))
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _format_number(value: float | None, form: str) -> str:
    """The number in a format such as "{:.1%}", "-" for None."""
    return "-" if value is None else form.format(value)
