"""The labelling page, made from the files of one folder: for a server, or as one file that works alone."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from metaselect.annotation.formats.base import ClassNote, Form
from metaselect.records import Json

SCRIPTS = ("places.js", "picture.js", "classes.js", "answers.js", "page.js")
"""In the order in which they run, as one script."""
# The page loads nothing, and only the template's own script may run.
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src {images}; connect-src {server}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)


def served_page(
    classes: Sequence[str], *, annotator: str, suggests: bool, notes: Sequence[ClassNote] = ()
) -> str:
    """The page that gets samples from its server and sends the answers to it.

    Args:
        classes: K names, in the order of their buttons.
        annotator: name of the annotator; empty: the page asks for it.
        suggests: whether the server has predictions of a model.
        notes: about classes; the server has the picture of each by its position among them.
    """
    data: dict[str, Json] = {"classes": list(classes), "annotator": annotator, "suggests": suggests}
    pictures = [f"class-image/{number}" if note.picture else "" for number, note in enumerate(notes)]
    return _render(data | _notes_data(notes, pictures), served_policy())


def standalone_page(form: Form) -> str:
    """The page as one file: it stores the answers in the browser and downloads them as a CSV form.

    Args:
        form: with data URIs as images; samples without one show their id. Predictions show only on demand.
    """
    asked: list[Json] = [
        {
            "batch": form.batch_id,
            "id": item.sample_id,
            "image": item.image,
            "given": item.given_label,
            "suggestion": item.prediction and item.prediction.label,
        }
        for item in form.items
    ]
    # A browser has one storage for all pages that it opens from disk; this key separates their answers.
    ids = json.dumps([[form.batch_id, item.sample_id] for item in form.items])
    data: dict[str, Json] = {
        "classes": list(form.classes),
        "annotator": "",
        "suggests": any(item.prediction for item in form.items),
        "batch": form.batch_id,
        "form": sha256(ids.encode()).hexdigest()[:16],
        "items": asked,
    }
    pictures = [data_uri(*note.picture) if note.picture else "" for note in form.class_notes]
    data |= _notes_data(form.class_notes, pictures)
    return _render(data, _content_security_policy(images="data:", server="'none'"))


def served_policy() -> str:
    """The content security policy of ``served_page``."""
    return _content_security_policy(images="'self'", server="'self'")


def data_uri(kind: str, raw: bytes) -> str:
    """An image as a data URI; ``kind`` is its media type."""
    return f"data:{kind};base64,{b64encode(raw).decode()}"


def _notes_data(notes: Sequence[ClassNote], pictures: Sequence[str]) -> dict[str, Json]:
    """The notes for the page's script; nothing where there are none."""
    shown: list[Json] = [
        {"label": note.label, "note": note.note, "image": picture}
        for note, picture in zip(notes, pictures, strict=True)
    ]
    return {"notes": shown} if shown else {}


def _render(data: Mapping[str, Json], policy: str) -> str:
    # In JSON these occur only within strings; escaped, HTML does not interpret them.
    text = json.dumps(data)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return _template().replace("{{policy}}", policy).replace("{{data}}", text)


@cache
def _template() -> str:
    folder = files("metaselect.annotation.formats").joinpath("labelling_page")
    html, style, *scripts = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *SCRIPTS)
    )
    return html.replace("{{style}}", style).replace("{{script}}", "\n".join(scripts))


def _content_security_policy(*, images: str, server: str) -> str:
    return POLICY.format(script=_tag_hash("script"), style=_tag_hash("style"), images=images, server=server)


def _tag_hash(tag: str) -> str:
    """The hash of the template's script or style, which the policy allows."""
    content = _template().partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
