"""`metaselect embed`."""

from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import Console, ProgressMode
from metaselect.cli.datasets.flags import (
    AllowOutsideOption,
    IdColumnOption,
    ImageColumnOption,
    ImageFolderOption,
    ImageSuffixOption,
    LabelColumnOption,
    OnBadSample,
    OnBadSampleOption,
    PixelRangeOption,
    SplitOption,
    numbers_of_range,
)
from metaselect.cli.flags import (
    AmpOption,
    DeviceOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    RunOption,
)
from metaselect.cli.results import finish
from metaselect.data_options import DEFAULT_ENCODER, EmbedOptions
from metaselect.errors import UsageError
from metaselect.run.layout import Run

ENCODER = "Encoder"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)


def embed(
    data: Annotated[
        Path | None,
        typer.Argument(help="Images, in any form that ingest reads.", show_default="those of --run"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.parquet",
            help="File to write from DATA, for ingest or warmup.",
            show_default="none: into --run",
        ),
    ] = None,
    run: RunOption = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{DEFAULT_ENCODER} (needs no download), timm:NAME, open_clip:MODEL/WEIGHTS, torchvision:NAME, or "
            "package.module:factory.",
            rich_help_panel=ENCODER,
        ),
    ] = DEFAULT_ENCODER,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the encoder, as safetensors, for a machine without a network.",
            show_default="downloaded the first time",
            rich_help_panel=ENCODER,
        ),
    ] = None,
    zero_shot: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help='Write class probabilities too, by a model of OpenCLIP and the class names: "a photo of a {}."',
            show_default="features alone",
            rich_help_panel=ENCODER,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images that are encoded at a time.",
            show_default="16 on a CPU, else 64",
            rich_help_panel=ENCODER,
        ),
    ] = None,
    device: DeviceOption = "auto",
    amp: AmpOption = None,
    id_column: IdColumnOption = None,
    label_column: LabelColumnOption = "label",
    image_column: ImageColumnOption = "image",
    pixel_range: PixelRangeOption = None,
    on_bad_sample: OnBadSampleOption = OnBadSample.stop,
    split: SplitOption = None,
    image_folder: ImageFolderOption = None,
    image_suffix: ImageSuffixOption = "",
    allow_outside: AllowOutsideOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Write features of images, made by a frozen encoder, to a file that ingest reads, or beside the images of a run.

    A killed command goes on where it was. Needs the packages of the extra `encoders`. Examples:

        metaselect embed --run RUN

        metaselect embed photos -o features.parquet

        metaselect embed train.csv -o features.parquet --encoder timm:resnet50
    """
    console = Console(progress, as_json=as_json, quiet=quiet)
    options = EmbedOptions(
        id_column=id_column,
        label_column=label_column,
        image_column=image_column,
        on_bad_sample=on_bad_sample,
        split=split,
        image_folder=image_folder,
        image_suffix=image_suffix,
        allow_outside=allow_outside,
        encoder=encoder,
        encoder_weights=encoder_weights,
        zero_shot=zero_shot,
        pixel_range=numbers_of_range(pixel_range),
        batch_size=batch_size,
        amp=amp,
        device=device,
        force=force,
    )
    if data is None and out is None:
        run_directory = Run.at(run)
        from metaselect.stages.embed_run import embed_run
        from metaselect.stages.freshness import AnnotationView
        from metaselect.stages.status import next_step

        outcome = embed_run(run_directory, options, console)
        step = next_step(run_directory, AnnotationView.read(run_directory))
    elif data is not None and out is not None:
        from metaselect.stages.embed import embed as run_embed

        outcome = run_embed(data, out, options, console)
        step = f"metaselect warmup {out} --run RUN; for a test set: metaselect evaluate {out} --run RUN"
    else:
        raise UsageError("DATA and -o FILE.parquet belong together.", "Name both, or neither and --run RUN.")
    result = outcome.result
    console.line(
        f"{result['out']}: {result['n']} samples, {result['width']} features each, by {result['encoder']}"
    )
    console.note(f"Next: {step}")
    finish(console, outcome)
