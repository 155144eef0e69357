"""The report of real runs: what it says, and that it is one whole, safe and accessible page."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from command_line import TEST, TRAIN, metaselect
from data_makers import Picture, encode, write_struct

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style><b>bold</b>",
    "{{ 7 * 7 }}",
    "$x^2$ \\frac",
    "a\u202egnp.exe",
)
VOID = {"meta", "img", "br"}
MOST_BYTES = 5_000_000
FIGURE_IDS = re.compile(r"figure-[a-z_]+-")


def report_of(run: Path, test: str = "test") -> tuple[str, Any]:
    """The page, and the numbers."""
    folder = run / "evaluate" / test
    return (folder / "report.html").read_text(encoding="utf-8"), json.loads(
        (folder / "report.json").read_text()
    )


class Page(HTMLParser):
    """A page that is read strictly: every element is closed by its own tag.

    Attributes:
        elements: (tag, attributes) of each.
        numbers: by the section's id, the value and the text of each ``data`` element.
        text: of everything that is shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: dict[str, list[tuple[str, str]]] = {}
        self.text = ""
        self.section = ""
        self.open: list[str] = []
        self.value: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), (tag, "an attribute twice")
        self.elements.append((tag, found))
        if tag == "section":
            self.section = found["id"] or ""
        if tag == "data":
            self.value = found["value"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> is for SVG alone"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.value is not None:
            self.numbers.setdefault(self.section, []).append((self.value, data))
            self.value = None


def numbers_in(value: Any) -> Iterator[float]:
    """Every number below a JSON value."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check_page(text: str) -> Page:
    """Whether a page is valid, loads and runs nothing, and names its parts for those who do not see them."""
    html5lib.HTMLParser(strict=True).parse(text)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base", "a:href"})
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attrs.get(name)
            if value is not None:
                assert (
                    value.startswith("#") and value[1:] in ids
                    if name == "href"
                    else value.startswith("data:image/")
                )
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attrs.get(name) or "").split()) <= set(ids)
        if tag == "th":
            assert attrs["scope"] in ("row", "col")
        if tag == "img":
            assert "alt" in attrs
        if tag == "svg":
            assert attrs["role"] == "img"
    counts = {tag: sum(one == tag for one, _ in page.elements) for tag in tags}
    assert counts["table"] == counts["caption"]
    assert counts.get("figure", 0) == counts.get("figcaption", 0) == counts.get("svg", 0)
    assert {"main", "header", "footer", "nav", "title", "h1"} <= tags
    assert counts["h1"] == 1
    assert dict(page.elements)["html"] == {"lang": "en"}
    policy = next(attrs["content"] or "" for _, attrs in page.elements if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(text.encode()) < MOST_BYTES
    return page


def check_numbers(page: Page, report: Any) -> None:
    """Whether every number of a section is in the JSON under the section's name, and is shown as it is there."""
    assert {
        "verdict",
        "labels",
        "training",
        "weights",
        "confusion",
        "classes",
        "doubts",
        "samples",
        "map",
    } <= set(report)
    for section, shown in page.numbers.items():
        known = set(numbers_in(report[section] if section else report["provenance"]))
        known |= set(numbers_in(report["labels"])) if section == "samples" else set()
        for value, text in shown:
            number = float(value)
            assert number in known, (section, value)
            figure = float(re.sub(r"[ ,%+]", "", text).replace("−", "-"))
            assert any(abs(scale * number - figure) <= 0.051 for scale in (1, 100)), (section, value, text)


def test_the_page_of_a_finished_run_is_whole(finished_once: Path) -> None:
    text, report = report_of(finished_once / "run")
    page = check_page(text)
    check_numbers(page, report)
    assert len(page.numbers["verdict"]) > 10
    metrics = json.loads((finished_once / "run/evaluate/test/metrics.json").read_text())
    rows = {row["model"]: row for row in report["verdict"]["models"]}
    assert list(rows)[:2] == ["warmup", "uniform"]
    assert rows["auto"]["test_accuracy"] == metrics["reweight"]["auto"]["test_accuracy"]
    assert [name for name, row in rows.items() if row["after"]] == [metrics["take"]["model"]]
    assert str(finished_once) not in text
    pictures = [attrs["src"] for tag, attrs in page.elements if tag == "img"]
    assert 0 < len(pictures) <= 200
    assert all((source or "").startswith("data:image/png;base64,") for source in pictures)


def test_the_numbers_are_those_of_the_files(finished_once: Path) -> None:
    run = finished_once / "run"
    _, report = report_of(run)
    with (run / "annotate/meta_set.csv").open() as stream:
        clean = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    given = {
        row["sample_id"]: row["given_label"]
        for row in pq.read_table(run / "data/samples.parquet").to_pylist()
    }
    wrong = sum(given[sample_id] != label for sample_id, label in clean.items())
    labels = report["labels"]
    assert (labels["bought"], labels["contradicted"]) == (len(clean), wrong)
    assert labels["contradicted_per_bought"] == wrong / len(clean)
    assert labels["rounds"][0] == {
        **{"round": 1, "method": "rbc", "asked": len(clean), "bought": len(clean)},
        **{"control": 0, "contradicted": wrong},
    }
    assert [row["sample_id"] for row in report["samples"]["bought"]] == [
        line.split(",")[0] for line in (run / "select/round-1/selected.csv").read_text().splitlines()[1:]
    ]
    name = report["weights"]["model"]
    table = pq.read_table(run / f"reweight/{name}/weights.parquet").to_pylist()
    ranked = sorted(
        (row for row in table if row["label_issue_rank"]), key=lambda row: row["label_issue_rank"]
    )
    assert sum(report["weights"]["counts"]) == report["weights"]["samples"] == len(ranked)
    assert [row["rank"] for row in report["samples"]["doubted"]] == [
        row["label_issue_rank"] for row in ranked[:80]
    ]
    issues = {
        row["sample_id"]: row for row in pq.read_table(run / f"reweight/{name}/issues.parquet").to_pylist()
    }
    for row in report["samples"]["doubted"]:
        assert row.items() <= issues[row["sample_id"]].items()
    assert all(row["weight"] >= 0.5 for row in report["samples"]["trusted"])
    with (run / "warmup/history.csv").open() as stream:
        assert report["training"][0]["loss"] == [float(row["loss"]) for row in csv.DictReader(stream)]
    metrics = json.loads((run / "evaluate/test/metrics.json").read_text())
    assert report["confusion"]["tables"][0]["counts"] == metrics["warmup"]["confusion"]
    shares = metrics["warmup"]["per_class_accuracy"]
    assert {row["class"]: row["recall_before"] for row in report["classes"]["rows"]} == shares
    commands = {row["stage"]: row["command"] for row in report["provenance"]["stages"]}
    assert commands["select/round-1"] == "metaselect select --budget 20 --run RUN"


def test_the_same_run_gives_the_same_bytes(finished: Path) -> None:
    before = report_of(finished)
    recorded = json.loads((finished / "evaluate/test/stage.json").read_text())["details"]["command"]
    words = recorded.replace("--json", "").split()[1:]
    metaselect(*words[: words.index("--run")], "--force", run=finished)
    assert report_of(finished) == before


def test_checks_name_what_makes_the_figures_meaningless(finished: Path) -> None:
    shutil.rmtree(finished / "reweight/uniform")
    metaselect("evaluate", TRAIN, "--name", "twice", run=finished)
    text, report = report_of(finished, "twice")
    page = check_page(text)
    found = {check["name"]: check for check in report["checks"]}
    assert {name for name, check in found.items() if not check["ok"]} == {"control_arm", "overlap"}
    assert found["overlap"]["finding"].startswith("200 of 1,437 are")
    assert found["control_arm"]["command"] == "metaselect reweight --method uniform --run RUN"
    assert report["verdict"]["next"]["command"] == found["control_arm"]["command"]
    assert page.text.index("2 of 6 checks found something") < page.text.index("Take ")
    metaselect("evaluate", TRAIN, "--name", "once", "--leave-out-overlap", run=finished)
    once = {check["name"]: check["ok"] for check in report_of(finished, "once")[1]["checks"]}
    assert once["overlap"]


def test_a_report_before_anything_was_bought_says_what_to_do(warm: Path) -> None:
    metaselect("evaluate", TEST, run=warm)
    text, report = report_of(warm)
    check_numbers(check_page(text), report)
    assert report["verdict"]["wrong_share"] is None
    assert report["weights"] is None
    assert report["labels"]["bought"] == 0
    assert report["verdict"]["next"]["command"] == "metaselect status --run RUN"


def test_without_images_ids_stay_and_pictures_go(finished: Path) -> None:
    metaselect("evaluate", TEST, "--name", "private", "--no-images", run=finished)
    text, report = report_of(finished, "private")
    page = check_page(text)
    check_numbers(page, report)
    assert "img" not in {tag for tag, _ in page.elements}
    assert "data:image" not in text
    assert report["samples"]["bought"][0]["sample_id"] in page.text
    kept = json.loads((finished / "evaluate/private/stage.json").read_text())
    assert "data/pixels.npy" in kept["inputs"]  # the models take them


def hostile_run(root: Path, kind: str) -> Path:
    """A small finished run whose class names and ids are hostile; of images or of features."""
    draw = np.random.default_rng(4)
    ids = [f"{HOSTILE[number % len(HOSTILE)]} {number}" for number in range(60)]
    labels = [HOSTILE[number // 10] for number in range(60)]
    truth = [HOSTILE[(number // 10 + (number % 4 == 0)) % len(HOSTILE)] for number in range(60)]
    if kind == "images":
        noise = draw.integers(0, 256, (60, 40, 64, 3), dtype=np.uint8)
        samples = [Picture("", label, encode(pixels)) for label, pixels in zip(labels, noise, strict=True)]
        data = write_struct(root / "data.parquet", samples, ids=ids, names=sorted(HOSTILE))
    else:
        data = root / "data.csv"
        with data.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["sample_id", "label", "f0", "f1", "f2"])
            writer.writerows(zip(ids, labels, *draw.normal(size=(3, 60)).tolist(), strict=True))
    with (root / "truth.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample_id", "clean_label"])
        writer.writerows(zip(ids, truth, strict=True))
    columns = ("--feature-columns", "f*") if kind == "features" else ()
    run = root / "run"
    metaselect("ingest", data, *columns, run=run)
    training = ("--model", "linear") if kind == "features" else ("--epochs", 1)
    metaselect("warmup", *training, "--folds", 0 if kind == "images" else 2, run=run)
    metaselect("select", "--budget", 12, "--method", "random", "--control", 0.5, run=run)
    metaselect("annotate", "simulate", root / "truth.csv", run=run)
    metaselect(
        "reweight", "--method", "uniform", *training[2 * (kind == "features") :], "--folds", 0, run=run
    )
    metaselect("evaluate", data, *columns, "--name", "test", run=run)
    return run


@pytest.fixture
def opened(context: Any) -> Any:
    """A page of Chromium that notes what it asks for, and whatever its policy refuses."""
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("request", lambda request: page.said.append(request.url))
    return page


def asked(page: Any) -> list[str]:
    """What the page asked for beside itself, and what was said."""
    return [each for each in page.said if not each.startswith(("file:", "data:"))]


@pytest.mark.parametrize("kind", ["images", "features"])
def test_hostile_names_stay_text(tmp_path: Path, opened: Any, kind: str) -> None:
    run = hostile_run(tmp_path, kind)
    text, report = report_of(run)
    page = check_page(text)
    check_numbers(page, report)
    shown = [name.replace("\u202e", "\\u202e") for name in HOSTILE]
    assert [name for name in shown if name not in page.text] == []
    assert "\u202e" not in text
    assert ("img" in {tag for tag, _ in page.elements}) == (kind == "images")
    assert {row["class"] for row in report["classes"]["rows"]} == set(HOSTILE)  # as they are, for programs
    assert "There are no curves" in page.text  # of one epoch
    opened.goto((run / "evaluate/test/report.html").as_uri())
    assert asked(opened) == []
    assert opened.evaluate("document.scripts.length") == 0
    heads = opened.locator("#classes tbody th").all_inner_texts()
    assert sorted(heads) == sorted(shown)
    assert opened.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_scrolling_sideways(finished_once: Path, opened: Any, scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.goto((finished_once / "run/evaluate/test/report.html").as_uri())
    for width in (320, 390, 1200):
        opened.set_viewport_size({"width": width, "height": 800})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert asked(opened) == []
    found = Axe().run(opened).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
