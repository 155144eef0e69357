"""`metaselect evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.flags import (
    BadSample,
    DeviceOption,
    FeatureColumns,
    ForceOption,
    IdColumn,
    ImageColumn,
    JsonOption,
    LabelColumn,
    OnBad,
    ProgressOption,
    RunOption,
)
from metaselect.cli.results import finish, show_noise
from metaselect.options import EvaluateOptions
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    test: Annotated[Path, typer.Argument(help="A labelled test set, of any form that ingest takes.")],
    run: RunOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="sample_id and clean_label of the pool: judges the weights."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below evaluate/.", show_default="from TEST")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many of the lowest weights to judge.", show_default="as many as are wrong"
        ),
    ] = None,
    id_column: IdColumn = None,
    label_column: LabelColumn = "label",
    image_column: ImageColumn = "image",
    feature_columns: FeatureColumns = None,
    on_bad_sample: BadSample = OnBad.stop,
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Prove what the labels were worth.

    Examples:
        metaselect evaluate test.parquet --run RUN

        metaselect evaluate test.parquet --run RUN --truth truth.csv --json
    """
    console = Console(progress, as_json=as_json)
    options = EvaluateOptions(
        id_column=id_column,
        label_column=label_column,
        image_column=image_column,
        feature_columns=feature_columns,
        on_bad_sample=on_bad_sample,
        truth=truth,
        name=name,
        k=k,
        device=device,
        force=force,
    )
    place = Run.at(run)
    from metaselect.stages.evaluate import evaluate as run_evaluate

    outcome = run_evaluate(test, place, options, console)
    _table(console, outcome.result)
    finish(console, outcome)


def _table(console: Console, result: Mapping[str, Any]) -> None:
    rows = [("warmup", result["warmup"]), *result["reweight"].items()]
    console.table(
        ("model", "test accuracy", "macro F1", "weight AUC", "wrong among lowest k"),
        [
            (
                name,
                f"{found['test_accuracy']:.2%}",
                f"{found['macro_f1']:.4f}",
                _number(found.get("weight_auc"), "{:.4f}"),
                _number(found.get("precision_of_lowest_k"), "{:.1%}"),
            )
            for name, found in rows
        ],
        title=f"{result['test']}: {result['test_samples']} samples",
    )
    if "noise" in result:
        console.line(f"Measured noise rate: {result['noise']['measured_rate']:.2%}")
    show_noise(console, result.get("noise_estimate"))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
