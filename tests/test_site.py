"""The documentation as a site: it builds without a warning, its links lead somewhere, and no network is needed."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import environment
from tools import require

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "sample_data/README.md")
"""Markdown outside of docs/, whose links Sphinx does not check."""
EXAMPLES = {
    "metaselect/annotation/formats/plain_text.py",
    "metaselect/cli/labels.py",
    "metaselect/reweighting/trimmed.py",
    "metaselect/selection/rarest.py",
    "metaselect/stages/labels.py",
}
"""Files that extending.md makes up."""
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
"""Tags by which a browser loads something by itself, and the attribute that says what."""


class References(HTMLParser):
    """Everything that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if value and LOADED.get(tag) == name]


def anchors(text: str) -> set[str]:
    """Of the headings of a Markdown page, as MyST and the usual viewers make them."""
    headings = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as HTML, built by the command of ``make docs``."""
    for module in ("sphinx", "myst_parser", "furo"):
        require(module)
    folder = tmp_path_factory.mktemp("site")
    words = (
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        folder / "doctrees",
        ROOT / "docs",
        folder / "html",
    )
    ended = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder / "html"


def test_no_page_needs_a_network(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        references = References()
        references.feed(page.read_text(encoding="utf-8"))
        assert any(reference.endswith(".css") or ".css?" in reference for reference in references.found)
        outside = [each for each in references.found if re.match(r"(https?:)?//", each)]
        assert outside == [], page.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"')]*", text) == [], sheet.name


def test_a_browser_reads_and_searches_the_pages_on_the_disk(site: Path, context: Any) -> None:
    """``context`` fails where a page asks another host for something, or a script of it fails."""
    page = context.new_page()
    for path in sorted((ROOT / "docs").glob("*.md")):
        page.goto((site / f"{path.stem}.html").as_uri())
        assert page.inner_text("h1")
    page.goto(f"{(site / 'search.html').as_uri()}?q=typiclust")
    page.wait_for_selector("#search-results li a[href^='selection.html']")


def test_named_files_exist_and_hold_what_is_said_of_them() -> None:
    """ "`name` in `file`" in a page: the file has the name; the examples of extending.md are in no file."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / page for page in PAGES)]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    paths = set(re.findall(r"`((?:metaselect|tests|benchmarks|docs|sample_data)/[\w./-]*)`", text))
    assert paths > EXAMPLES
    paths -= EXAMPLES
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    named = re.findall(r"`(\w+)`\s+in\s+`(metaselect/[\w./]+\.py)`", text)
    assert len(named) >= 8
    missing = [
        (name, path) for name, path in named if not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_outside_of_the_site_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if link.startswith("https://"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_the_command_reference_is_up_to_date() -> None:
    """In a process of its own, since what a command's help says must not depend on what a test imported."""
    program = (
        "import sys; sys.path.insert(0, 'docs'); import make_commands; print(make_commands.page(), end='')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=True,
    )
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert page == ended.stdout, "Run: python docs/make_commands.py"
