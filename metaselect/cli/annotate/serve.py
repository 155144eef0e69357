"""`metaselect annotate serve`: label on a local page."""

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from metaselect.cli.annotate.group import ClassNotes, LatestRound, group
from metaselect.cli.console import Console
from metaselect.cli.flags import JsonOption, QuietOption, RunOption
from metaselect.records import Json
from metaselect.run.layout import Run


def register(app: typer.Typer) -> None:
    """Add `annotate serve` to the group of `annotate`."""
    del app
    group.command("serve")(serve)


def serve(
    run: RunOption = None,
    round_number: LatestRound = None,
    port: Annotated[
        int, typer.Option(help="On 127.0.0.1.", min=0, max=65535, show_default="0, any free one")
    ] = 0,
    annotator: Annotated[
        str, typer.Option(metavar="NAME", help="Who answers.", show_default="the page asks")
    ] = "",
    class_notes: ClassNotes = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label a round on a local page, with the mouse or the keyboard alone; Ctrl-C ends it.

    Open the address that it prints; it holds a secret, and only this machine can reach it. Every answer is on
    disk before the next sample shows, and a later call goes on at the first open one. From elsewhere, forward the
    port: ssh -L 8765:127.0.0.1:8765 HOST. Needs Starlette and uvicorn (the extra `web`).

        metaselect annotate serve --run RUN --annotator anna

        metaselect annotate serve --run RUN --round 1 --port 8765

        metaselect annotate serve --run RUN --class-notes notes.csv
    """  # fmt: skip
    from metaselect.stages.annotate import serve as stage

    console = Console(as_json=as_json, quiet=quiet)

    def ready(found: Mapping[str, Json]) -> None:
        console.line(str(found["url"]))
        console.result(found)
        sys.stdout.flush()  # whoever started this reads the address while it runs

    stage.serve(
        Run.at(run),
        console,
        ready,
        round_number=round_number,
        port=port,
        annotator=annotator.strip(),
        class_notes=class_notes,
    )
