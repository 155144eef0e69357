"""The page on which people answer, from one template: served by a program, or as one file that needs none."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

from metaselect.annotation.formats.base import Form
from metaselect.records import Json

# Everything is in the page itself: it loads nothing from elsewhere, and nothing in it can be made to run.
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src {images}; connect-src {server}; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)


def served_page(classes: Sequence[str], *, annotator: str, suggests: bool) -> str:
    """The page that asks its server for samples and hands the answers to it.

    Args:
        classes: K names, in the order of their buttons.
        annotator: who answers; empty: the page asks.
        suggests: whether the server has predictions of a model.
    """
    return _render({"classes": list(classes), "annotator": annotator, "suggests": suggests}, served_policy())


def standalone_page(form: Form) -> str:
    """The page as one file: it keeps the answers in the browser and hands them out as the canonical CSV.

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
    # A browser keeps the answers of every page that it opens from disk in one place: this tells them apart.
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
    """An image as it stands inside a page; ``kind`` is its media type."""
    return f"data:{kind};base64,{b64encode(raw).decode()}"


def _render(data: Mapping[str, Json], policy: str) -> str:
    # In JSON these three stand only within strings, and there HTML must not see them.
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
    """The hash by which the policy lets the template's own script or style pass, and no other."""
    content = _template().partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
