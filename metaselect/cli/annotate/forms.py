"""`metaselect annotate export` and `import`: forms for people, and their answers."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from metaselect.annotation.formats.detect import AUTO
from metaselect.cli.annotate.group import ClassNotes, LatestRound, group, print_counts
from metaselect.cli.console import Console
from metaselect.cli.flags import JsonOption, MaxMemoryOption, QuietOption, RunOption
from metaselect.cli.results import finish
from metaselect.errors import UsageError
from metaselect.memory import limited
from metaselect.options import ExportOptions, ImportOptions
from metaselect.registry import FORMATS, READ_ONLY
from metaselect.run.layout import Run
from metaselect.text import visible_lines

Format = StrEnum("Format", list(FORMATS))  # type: ignore[misc]  # mypy wants the names spelt out
ReadFormat = StrEnum("ReadFormat", [AUTO, *FORMATS, *READ_ONLY])  # type: ignore[misc]
CSV = Format("csv")
ANY = ReadFormat(AUTO)

RoundOption = Annotated[int | None, typer.Option("--round", metavar="K", min=1, help="Only this round.")]
FormatOption = Annotated[Format, typer.Option("--format", help="For which tool; csv is for spreadsheets.")]
ReadFormatOption = Annotated[
    ReadFormat, typer.Option("--format", help="What FILE is; auto tells it from the content.")
]


def register(app: typer.Typer) -> None:
    """Add `annotate` with its commands `export` and `import` to the program."""
    group.command("export")(export)
    group.command("import")(import_)
    app.add_typer(group, name="annotate")


def export(
    run: RunOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A folder; of csv and html a file, or - for stdout.",
            show_default="below RUN/export/round-K",
        ),
    ] = None,
    round_number: LatestRound = None,
    form: FormatOption = CSV,
    show_given: Annotated[
        bool, typer.Option("--show-given", help="Show the given label too (it sways people).")
    ] = False,
    with_predictions: Annotated[
        bool,
        typer.Option(
            "--with-predictions",
            help="Show what a model says (label-studio, html): that re-weighted last, or the warm-up. Sways people.",
        ),
    ] = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Write images beside the form.")
    ] = True,
    everything: Annotated[bool, typer.Option("--all", help="Answered and skipped samples too.")] = False,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Only samples with tied votes, for somebody else.")
    ] = False,
    repeats: Annotated[
        float, typer.Option(metavar="SHARE", help="Show this share of the samples twice, unnoticed.")
    ] = 0.0,
    class_notes: ClassNotes = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a form, unless it holds answers.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a form with the selected samples, for people to fill in.

    People fill in clean_label (a class name), or status: skip, unsure or bad_sample. Images are named by sample_id, so
    that no name tells the answer.

        metaselect annotate export --run RUN

        metaselect annotate export --run RUN -o for-anna.csv --show-given

        metaselect annotate export --format label-studio --with-predictions

        metaselect annotate export --run RUN --format cvat -o for-cvat

        metaselect annotate export --format html --class-notes notes.csv
    """  # fmt: skip
    from metaselect.stages.annotate import exchange as stage

    if as_json and output == "-":
        raise UsageError("--json and -o - both want stdout.", "Name a file with -o.")
    console = Console(as_json=as_json, quiet=quiet)
    options = ExportOptions(
        output=output,
        round=round_number,
        format=form.value,
        show_given=show_given,
        with_predictions=with_predictions,
        images=images,
        all=everything,
        conflicts=conflicts,
        repeats=repeats,
        class_notes=class_notes,
        force=force,
    )
    made = stage.export(Run.at(run), options, console)
    if output == "-":
        # As a file: UTF-8 and \n everywhere. A terminal would obey the control characters of a name.
        text = visible_lines(made.text) if sys.stdout.isatty() else made.text
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    elif made.path is not None:
        console.line(str(made.path))
    console.result(made.as_json())


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with answers, or - for stdin.")],
    run: RunOption = None,
    round_number: RoundOption = None,
    outside_round: Annotated[
        bool, typer.Option("--outside-round", help="Take labels of samples that were not selected.")
    ] = False,
    add_classes: Annotated[
        bool, typer.Option("--add-classes", help="Make new classes of labels that are none yet.")
    ] = False,
    annotator: Annotated[
        str, typer.Option(help="Who answered, where the file does not say.")
    ] = ImportOptions.annotator,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="Exit 1 while answers are missing.")
    ] = False,
    form: ReadFormatOption = ANY,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take the answers of a filled-in form; again is harmless, in parts is fine.

    Answers find their sample by sample_id, else by the exported image's name, else by the content hash. A later file
    supersedes an earlier answer of the same annotator. FILE is a CSV or an .xlsx workbook, what Label Studio exports as
    JSON, JSON-MIN or CSV, what CVAT exports as CVAT for images 1.1 (zip or XML), what the single page of --format html
    downloads, the metadata.csv of a Hugging Face imagefolder, or an export of doccano, FiftyOne or Argilla.

        metaselect annotate import RUN/export/round-1/labels.csv --run RUN

        metaselect annotate import - --annotator anna --run RUN < answers.csv

        metaselect annotate import project-1-at-2026-11-20.json --run RUN

        metaselect annotate import task_1_cvat_for_images_1.1.zip --run RUN

        metaselect annotate import RUN/export/round-1/hf/train/metadata.csv
    """  # fmt: skip
    from metaselect.stages.annotate import exchange as stage

    console = Console(as_json=as_json, quiet=quiet)
    options = ImportOptions(
        round=round_number,
        outside_round=outside_round,
        add_classes=add_classes,
        annotator=annotator,
        require_complete=require_complete,
        format=form.value,
    )
    with limited(max_memory, console):
        outcome = stage.import_file(Run.at(run), file, options, console)
    print_counts(console, outcome.result)
    finish(console, outcome)
