"""The labelling page, made from one template: for a server, or as one file that works alone."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from metaselect.annotation.formats.base import Form
from metaselect.records import Json

# The page loads nothing, and only the template's own script may run.
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src {images}; connect-src {server}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)


def served_page(classes: Sequence[str], *, annotator: str, suggests: bool) -> str:
    """The page that gets samples from its server and sends the answers to it.

    Args:
        classes: K names, in the order of their buttons.
        annotator: name of the annotator; empty: the page asks for it.
        suggests: whether the server has predictions of a model.
    """
    return _render({"classes": list(classes), "annotator": annotator, "suggests": suggests}, served_policy())


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
    return _render(data, _content_security_policy(images="data:", server="'none'"))


def served_policy() -> str:
    """The content security policy of ``served_page``."""
    return _content_security_policy(images="'self'", server="'self'")


def data_uri(kind: str, raw: bytes) -> str:
    """An image as a data URI; ``kind`` is its media type."""
    return f"data:{kind};base64,{b64encode(raw).decode()}"


def _render(data: Mapping[str, Json], policy: str) -> str:
    # In JSON these occur only within strings; escaped, HTML does not interpret them.
    text = json.dumps(data)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return _template().replace("{{policy}}", policy).replace("{{data}}", text)


@cache
def _template() -> str:
    return files("metaselect.annotation.formats").joinpath("page.html").read_text(encoding="utf-8")


def _content_security_policy(*, images: str, server: str) -> str:
    return POLICY.format(script=_tag_hash("script"), style=_tag_hash("style"), images=images, server=server)


def _tag_hash(tag: str) -> str:
    """The hash of the template's script or style, which the policy allows."""
    content = _template().partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
