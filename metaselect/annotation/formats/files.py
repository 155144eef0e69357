"""The place of an exported form, and writing it without overwriting answers."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from metaselect.annotation.formats.base import STDOUT, ExchangeFormat
from metaselect.annotation.formats.detect import holds_answers
from metaselect.annotation.rounds import Round
from metaselect.errors import ArtefactError, UsageError
from metaselect.run.artefacts import FORMS
from metaselect.run.files import write_text
from metaselect.run.layout import Run


def form_path(run: Run, chosen: Round, form: ExchangeFormat, output: str | None) -> Path | None:
    """The form's main file; None for stdout ("-").

    Raises:
        UsageError: a place among the run's own artefacts, a file where a folder is needed, or stdout for a
            form that is more than one file.
    """
    if output == "-":
        if STDOUT not in form.capabilities:
            raise UsageError("This form is a folder and does not go to stdout.", "Name a folder with -o.")
        return None
    if output is None:
        return run.path(f"{FORMS.name(number=chosen.number)}/{form.file_name}")
    path = Path(output)
    first, _, inside = form.file_name.partition("/")
    if inside:
        if path.is_file():
            raise UsageError(f"-o {output} is a file, and this form is a folder.", "Name a folder with -o.")
        path = path / inside
    elif path.is_dir():
        path = path / first
    place = path.resolve()
    own = run.root.resolve()
    if place.is_relative_to(own) and not place.is_relative_to(own / FORMS.kind):
        raise UsageError(
            f"-o {output} lies among the artefacts of the run.",
            f"Choose a file outside of {run.root}, or below {run.path(FORMS.kind)}.",
        )
    return path


def write_form(run: Run, path: Path, files: Mapping[str, str], *, force: bool) -> None:
    """Write a form's files, the first one to ``path``, the others beside it; never over a form with answers.

    Raises:
        ArtefactError: a file there has answers or, without ``force``, any other content.
    """
    (main, *_) = files
    texts = {path if name == main else path.with_name(name): text for name, text in files.items()}
    stale = {place: text for place, text in texts.items() if not _has_text(place, text)}
    for place in stale:
        if not place.exists():
            continue
        if place == path and holds_answers(place.read_bytes()):
            raise ArtefactError(
                f"{place} holds answers, or is not a form of this program, and is never overwritten.",
                "Name another file with -o. To import it: "
                f"metaselect annotate import {shlex.quote(str(place))} {run.flag}",
            )
        if not force:
            raise ArtefactError(
                f"{place} is there already, with other content.",
                "Add --force to replace it (it holds no answers), or name another file with -o.",
            )
    for place, text in stale.items():
        write_text(place, text)


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
