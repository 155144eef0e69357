"""A real browser, headless, for tests of pages; and `annotate serve` as a process of its own."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_run import add_round
from command_line import command, environment
from data_makers import Picture, encode, made, write_struct

from metaselect.run.layout import Run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60_000  # ms; the machine may be busy


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of this machine. In CI, which installs it, a missing one is a failure."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium, which .ci/run installs.")
        pytest.skip("Browser tests need Chromium (Debian and Ubuntu: apt install chromium).")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox of its own.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """One person's browser; whatever a page fails at or asks of another host fails the test."""
    person = browser.new_context(viewport={"width": 1200, "height": 800})
    person.set_default_timeout(PATIENCE)
    troubles: list[str] = []
    person.on("weberror", lambda event: troubles.append(str(event.error)))
    person.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
    person.on("request", lambda request: troubles.append(request.url) if foreign(request.url) else None)
    yield person
    person.close()
    assert troubles == []


def foreign(url: str) -> bool:
    """Whether a request leaves this machine."""
    return not url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:"))


def image_run(root: Path, ids: list[str], classes: list[str], side: int = 8) -> Run:
    """An ingested run of small images, all of them selected in the order of ``ids``."""
    noise = np.random.default_rng(3).integers(0, 256, (len(ids), side, side), dtype=np.uint8)
    labels = [classes[number % len(classes)] for number in range(len(ids))]
    samples = [Picture("", label, encode(pixels)) for label, pixels in zip(labels, noise, strict=True)]
    run = made(write_struct(root / "data.parquet", samples, ids=ids, names=sorted(classes)), root / "run")
    add_round(run, 1, ids)
    return run


@contextmanager
def serving(run: Run, *words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; at the end it is interrupted, so what follows from every answer is on disk."""
    started = subprocess.Popen(
        command("annotate", "serve", *words, run=run.root),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    with started:
        assert started.stdout
        try:
            yield started, started.stdout.readline().strip()
        finally:
            started.send_signal(signal.SIGINT)
            try:
                started.wait(60)
            finally:
                started.kill()  # after a failed assertion too, or the test would wait for ever


def sample(page: Any, done: int) -> str:
    """The id of the sample that is shown when ``done`` are answered and the next can be."""
    page.wait_for_selector(f"body[data-state=ready]:has(#bar[value='{done}'])")
    return str(page.inner_text("#caption"))


def state(page: Any, wanted: str) -> None:
    """Wait until the page is so."""
    page.wait_for_selector(f"body[data-state={wanted}]")


def enter(page: Any, name: str) -> None:
    """Say who answers."""
    page.wait_for_selector("#ask[open]")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
