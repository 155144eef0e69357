"""Where a form for people goes, and that nobody's work in one is ever lost."""

from pathlib import Path

from metaselect.annotation.formats import ExchangeFormat
from metaselect.annotation.rounds import Round
from metaselect.errors import ArtefactError, UsageError
from metaselect.run import Run
from metaselect.run.files import write_text

EXPORT_FOLDER = "export"


def form_path(run: Run, chosen: Round, form: ExchangeFormat, output: str | None) -> Path | None:
    """The form's file; None for stdout ("-").

    Raises:
        UsageError: a place among the run's own artefacts.
    """
    if output == "-":
        return None
    if output is None:
        return run.path(f"{EXPORT_FOLDER}/round-{chosen.number}/{form.file_name}")
    path = Path(output)
    if path.is_dir():
        path = path / form.file_name
    place = path.resolve()
    own = run.root.resolve()
    if place.is_relative_to(own) and not place.is_relative_to(own / EXPORT_FOLDER):
        raise UsageError(
            f"-o {output} lies among the artefacts of the run.",
            f"Choose a file outside of {run.root}, or below {run.path(EXPORT_FOLDER)}.",
        )
    return path


def write_form(path: Path, text: str, form: ExchangeFormat, *, force: bool) -> None:
    """Write the form whole or not at all, and never over somebody's work.

    Raises:
        ArtefactError: a file is there that holds answers, or, without ``force``, any other than this form.
    """
    content = path.read_bytes() if path.exists() else None
    if content == text.encode():
        return
    if content is not None and form.holds_answers(content):
        raise ArtefactError(
            f"{path} holds answers and is never overwritten.",
            f"Import it first (metaselect annotate import {path}), then name another file with -o.",
        )
    if content is not None and not force:
        raise ArtefactError(
            f"{path} is there already, with other content.",
            "Add --force to replace it (it holds no answers), or name another file with -o.",
        )
    write_text(path, text)
