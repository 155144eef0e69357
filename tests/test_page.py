"""The page as text: nothing in it runs but its own script, and its colours can be read."""

import io
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from annotation_run import add_round, call, error, make_run, result
from data_makers import Picture, encode, made, write_struct
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metaselect.annotation.formats.base import Form, Item, Prediction
from metaselect.annotation.formats.page import data_uri, served_page, standalone_page
from metaselect.data.thumbnails import LONGEST_SIDE, thumbnails
from metaselect.run.layout import Run

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--",
    "{{policy}}",
    "\u2028'\"&amp;",
)


class Reader(HTMLParser):
    """Every tag with its attributes, and the text of every script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inside.append((self.tags[-1][0], data))

    def data(self) -> dict[str, object]:
        (text,) = (text for tag, text in self.inside if tag == "script" and text.startswith("{"))
        return dict(json.loads(text))

    def policy(self) -> str:
        (found,) = (attrs["content"] for tag, attrs in self.tags if attrs.get("http-equiv"))
        return found or ""


def item(sample_id: str, given_label: str = "") -> Item:
    return Item(sample_id, "", given_label, "1", "", "")


def page_of(items: Sequence[Item], classes: Sequence[str]) -> str:
    return standalone_page(Form("b01-7f3a", items, classes))


PLAIN = Reader(served_page(("cat",), annotator="", suggests=False))


@given(st.lists(st.text() | st.sampled_from(HOSTILE), min_size=1, unique=True), st.text())
def test_no_name_adds_a_tag_and_all_come_through(names: list[str], annotator: str) -> None:
    served = Reader(served_page(names, annotator=annotator, suggests=True))
    assert served.tags == PLAIN.tags
    assert served.data() == {"classes": names, "annotator": annotator, "suggests": True}
    first, *others = (item(name, name) for name in names)
    first = first._replace(image="data:,", prediction=Prediction(names[-1], 0.5))
    static = Reader(page_of([first, *others], names))
    assert [tag for tag, _ in static.tags] == [tag for tag, _ in PLAIN.tags]
    shown = static.data()["items"]
    assert isinstance(shown, list)
    assert [(entry["id"], entry["given"]) for entry in shown] == [(name, name) for name in names]
    assert shown[0]["image"] == "data:,"
    assert shown[0]["suggestion"] == names[-1]


@pytest.mark.parametrize(
    "text", [page_of([item("a")], ["cat"]), served_page(["cat"], annotator="", suggests=False)]
)
def test_the_policy_lets_the_pages_own_script_and_style_run_and_nothing_else(text: str) -> None:
    reader = Reader(text)
    policy = reader.policy()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (own,) = (inside for name, inside in reader.inside if name == tag and not inside.startswith("{"))
        digest = b64encode(sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert re.findall(r"(?:https?:)?//[a-z]", text) == []  # no other host
    assert not any(name.startswith("on") or name == "style" for _, attrs in reader.tags for name in attrs)
    assert not any("src" in attrs or "href" in attrs for _, attrs in reader.tags)


def test_pages_with_other_samples_keep_their_answers_apart() -> None:
    forms = [
        Reader(page_of([item(name) for name in ids], ["cat"])).data()["form"] for ids in ("ab", "a", "ab")
    ]
    assert forms[0] == forms[2] != forms[1]


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance of #rrggbb."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [("text", "back", 4.5), ("text", "card", 4.5), ("text", "key", 4.5), ("text", "stage", 4.5), ("soft", "back", 4.5),
     ("soft", "card", 4.5), ("trouble", "back", 4.5), ("on-strong", "strong", 4.5), ("line", "card", 3),
     ("line", "back", 3), ("strong", "back", 3), ("strong", "card", 3)],
)  # fmt: skip
def test_colours_have_the_contrast_of_wcag_aa(scheme: int, front: str, back: str, least: float) -> None:
    (style,) = (text for tag, text in PLAIN.inside if tag == "style")
    colours = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", style.split("@media (prefers-color-scheme: dark)")[scheme])
    )
    high, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= least


def test_thumbnails_are_small_and_hold_pixels_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (600, 1200, 3), dtype=np.uint8)
    secret = Image.Exif()
    secret[0x010E] = "a dog"
    samples = [
        Picture("", "cat", encode(noise[:8, :6, 0])),
        Picture("", "dog", encode(noise, "JPEG", exif=secret)),
        Picture("", "cat", encode(noise[:90, :70])),
    ]
    run = made(
        write_struct(tmp_path / "d.parquet", samples, ids=["a", "b", "c"]), tmp_path / "r", image_size=6
    )
    found = {sample_id: (kind, raw) for sample_id, kind, raw in thumbnails(run, ["c", "a", "b"])}
    assert {name: kind for name, (kind, _) in found.items()} == {
        "a": "image/png",
        "b": "image/jpeg",
        "c": "image/png",
    }
    opened = {name: Image.open(io.BytesIO(raw)) for name, (_, raw) in found.items()}
    np.testing.assert_array_equal(np.asarray(opened["a"]), noise[:8, :6, 0])
    np.testing.assert_array_equal(np.asarray(opened["c"]), noise[:90, :70])
    assert opened["b"].size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert b"a dog" in samples[1].raw
    assert b"a dog" not in found["b"][1]
    assert data_uri(*found["a"]).partition(",")[0] == "data:image/png;base64"
    assert b64decode(data_uri(*found["a"]).partition(",")[2]) == found["a"][1]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2"])
    return made


def test_the_command_line_makes_one_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path("export/round-1/labels.html")
    got = result(run, capsys, "export", "--format", "html")
    assert got["file"] == str(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["labels.html"]
    found = Reader(path.read_text()).data()
    assert [entry["id"] for entry in found["items"]] == ["s3", "s1", "s2"]  # type: ignore[attr-defined]
    assert "given" not in str(found).replace("'given': ''", "")
    first = path.read_bytes()
    assert call(run, "export", "--format", "html") == 0
    assert path.read_bytes() == first
    assert "--force" in error(run, capsys, "export", "--format", "html", "--show-given", code=4)
    assert call(run, "export", "--format", "html", "--show-given", "--force") == 0
    assert Reader(path.read_text()).data()["items"][0]["given"] == "cat"  # type: ignore[index]


def test_the_page_itself_is_no_answer(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export", "--format", "html") == 0
    path = str(run.path("export/round-1/labels.html"))
    message = error(run, capsys, "import", path, "--format", "html", code=3)
    assert "Download answers" in message
    assert "Download answers" in error(run, capsys, "import", path, code=3)  # told from the content
