"""The page with photographs of all sizes, in a browser: nothing moves, nothing is covered, pictures are zoomed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_run import add_round, call, csv_rows, meta_set, votes_of
from chromium import PATIENCE, enter, sample, serving, state
from data_makers import Picture, encode, made, write_struct

from metaselect.run.layout import Run

pytestmark = pytest.mark.slow

SIZES = ((40, 30), (4000, 3000), (400, 533), (1600, 1200), (30, 40), (640, 480))
SCREENS = {"phone": (390, 844), "desk": (1280, 800)}
FIXED = ("#stage", "#classes", "#others", "#skip", "#undo", "#news", "#zoom", "#classes button:first-child")


def photo_run(root: Path, classes: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> Run:
    """A run of smooth pictures with these (width, height), all of them selected in this order."""
    root.mkdir(exist_ok=True)
    names = [f"kind {number:03d}" for number in range(classes)]
    samples = []
    for number in range(max(classes, len(sizes))):
        width, height = sizes[number] if number < len(sizes) else (8, 8)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
        pixels[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
        pixels[..., 2] = number  # no two are the same
        samples.append(Picture("", names[number % classes], encode(pixels)))
    ids = [f"s{number:03d}" for number in range(len(samples))]
    run = made(write_struct(root / "data.parquet", samples, ids=ids, names=names), root / "run")
    add_round(run, 1, ids[: len(sizes)])
    return run


def until(page: Any, script: str) -> None:
    """Wait until it is true; the page's policy forbids Playwright's own way."""
    for _ in range(PATIENCE // 50):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"It never was so: {script}")


def shown(page: Any, sample_id: str) -> None:
    """Wait until this sample can be answered."""
    page.wait_for_selector(f"body[data-state=ready] #caption:text-is('{sample_id}')")


def boxes(page: Any, *selectors: str) -> dict[str, dict[str, float]]:
    return {each: page.locator(each).bounding_box() for each in selectors}


@pytest.fixture
def page(context: Any) -> Any:
    return context.new_page()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("classes", [3, 10, 23, 100])
def test_nothing_moves_and_nothing_is_covered(tmp_path: Path, page: Any, screen: str, classes: int) -> None:
    width, height = SCREENS[screen]
    page.set_viewport_size({"width": width, "height": height})
    (tmp_path / "notes.csv").write_text("class,note\nkind 001,look twice\n")
    with serving(
        photo_run(tmp_path, classes),
        "--annotator",
        "a person whose name is long",
        "--class-notes",
        tmp_path / "notes.csv",
    ) as (_, url):
        page.goto(url)
        sample(page, 0)
        before = boxes(page, *FIXED)
        page.evaluate("say('a text of several lines, '.repeat(9))")
        assert boxes(page, *FIXED) == before
        page.evaluate("trouble('Something longer than a line is wrong. '.repeat(4))")
        assert boxes(page, *FIXED) == before
        for done in range(1, 4):
            page.keyboard.press("1")
            sample(page, done)
            assert boxes(page, *FIXED) == before
        if classes > 9:
            page.keyboard.press("/")
            for letter in "kind 00":
                page.keyboard.type(letter)
                assert boxes(page, *FIXED) == before
            assert page.locator("#found button").count() == 6
            page.keyboard.press("Escape")
        page.click("#count")
        page.locator("#earlier button").first.click()
        state(page, "ready")
        assert boxes(page, *FIXED) == before
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        last = page.locator("#classes button").last
        last.scroll_into_view_if_needed()
        area, bar, box = (
            one.bounding_box() for one in (page.locator("#classes"), page.locator("#others"), last)
        )
        assert box["y"] + box["height"] <= area["y"] + area["height"] + 0.5 <= bar["y"] + 1
        assert bar["y"] + bar["height"] <= height
        rows = [one.bounding_box()["y"] for one in page.locator("#others button:visible").all()]
        assert all(rows.count(row) > 1 for row in rows)  # no row for one lone button
        for one in page.locator("button:visible, summary:visible").all():
            found = one.bounding_box()
            assert min(found["width"], found["height"]) >= 44, one.inner_text()
            assert one.evaluate("(one) => one.scrollHeight <= one.clientHeight"), one.inner_text()


def transform(page: Any) -> list[float]:
    """Scale and translation of the picture."""
    found = page.evaluate(
        "(({a, e, f}) => [a, e, f])(new DOMMatrix(getComputedStyle(at('image')).transform))"
    )
    return [round(value, 3) for value in found]


def middle(page: Any) -> tuple[float, float]:
    box = page.locator("#stage").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_picture_is_zoomed_and_moved_and_the_next_one_is_whole(tmp_path: Path, page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 800})
    with serving(photo_run(tmp_path, 3, SIZES[1:]), "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        assert page.evaluate("at('image').naturalWidth") == 4000  # the original, not a small copy
        assert transform(page) == [1, 0, 0]
        page.keyboard.press("ArrowUp")
        page.click("#larger")
        assert transform(page) == [2.25, 0, 0]
        assert page.inner_text("#whole") == "225%"
        page.keyboard.press("Shift+ArrowLeft")
        assert transform(page) == [2.25, 60, 0]
        x, y = middle(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 90, y - 20)
        page.mouse.up()
        assert transform(page) == [2.25, -30, -20]
        for _ in range(50):
            page.keyboard.press("Shift+ArrowRight")
        box, stage = (page.locator(each).bounding_box() for each in ("#image", "#stage"))
        assert box["x"] + box["width"] >= stage["x"] + stage["width"]  # its edge comes in, and no more
        page.click("#smaller")
        page.keyboard.press("Escape")
        assert transform(page) == [1, 0, 0]
        page.mouse.move(x + 50, y)
        page.mouse.wheel(0, -400)
        until(page, "!zoom.isWhole()")
        scale, left, top = transform(page)
        assert left == pytest.approx(50 * (1 - scale), abs=0.1)  # what is under the pointer stays there
        assert top == pytest.approx(0, abs=0.1)
        page.mouse.dblclick(x, y)
        assert transform(page) == [1, 0, 0]
        page.mouse.dblclick(x, y)
        fit = page.evaluate("Math.min(at('image').clientWidth / 4000, at('image').clientHeight / 3000)")
        assert transform(page)[0] == pytest.approx(1 / fit, rel=1e-3)  # a pixel for a pixel
        page.keyboard.press("1")
        sample(page, 1)
        assert transform(page) == [1, 0, 0]


def test_two_fingers_zoom_a_tiny_picture_into_its_pixels(tmp_path: Path, browser: Any) -> None:
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    with serving(photo_run(tmp_path, 3), "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        x, y = middle(page)
        touch = phone.new_cdp_session(page)

        def fingers(kind: str, *places: float) -> None:
            points = [{"x": x + place, "y": y, "id": number} for number, place in enumerate(places)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", -20, 20)
        for spread in range(20, 61, 5):
            fingers("touchMove", -spread, spread)
        fingers("touchEnd")
        assert transform(page)[0] == pytest.approx(3, abs=0.1)
        assert page.evaluate("getComputedStyle(at('image')).imageRendering") == "pixelated"
        assert page.evaluate("visualViewport.scale") == 1  # the picture is zoomed, the page is not
    phone.close()


def test_an_earlier_answer_is_changed_from_the_list(tmp_path: Path, page: Any) -> None:
    run = photo_run(tmp_path, 3, SIZES[2:])
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        for done, key in enumerate(["1", "2", "."]):
            sample(page, done)
            page.keyboard.press(key)
        sample(page, 3)
        page.get_by_role("button", name="3 of 4 done. Your answers").click()
        page.wait_for_selector("#answers[open]")
        rows = page.locator("#earlier button")
        assert [each.split("\n")[0] for each in rows.all_inner_texts()] == ["unsure", "kind 001", "kind 000"]
        until(page, "[...document.querySelectorAll('#earlier img')].every((one) => one.naturalWidth)")
        page.keyboard.press("3")  # no answer while the list is open
        rows.nth(2).focus()
        page.keyboard.press("Enter")
        shown(page, "s000")
        assert page.inner_text("#said") == "You answered kind 000. Answer again to change it."
        page.keyboard.press("Escape")  # keeps it
        shown(page, "s003")
        page.click("#count")
        rows.nth(2).click()
        shown(page, "s000")
        page.keyboard.press("3")
        page.wait_for_selector("#said:has-text('Saved: kind 002')")
        shown(page, "s003")
        page.keyboard.press("ArrowLeft")
        shown(page, "s000")
        page.keyboard.press("2")
        shown(page, "s003")
    assert votes_of(run) == [
        ("s000", "kind 000", "anna", "done"),
        ("s001", "kind 001", "anna", "done"),
        ("s002", "", "anna", "unsure"),
        ("s000", "kind 002", "anna", "done"),
        ("s000", "", "anna", "withdrawn"),
        ("s000", "kind 001", "anna", "done"),
    ]
    assert meta_set(run) == {"s000": "kind 001", "s001": "kind 001"}


def test_the_single_file_changes_an_earlier_answer_too(tmp_path: Path, page: Any) -> None:
    run, form = photo_run(tmp_path, 3, SIZES[4:]), tmp_path / "page.html"
    (tmp_path / "notes.csv").write_text("class,note\nkind 001,<i>look</i> twice\n")
    assert (
        call(run, "export", "--format", "html", "--class-notes", str(tmp_path / "notes.csv"), "-o", str(form))
        == 0
    )
    page.goto(form.as_uri())
    page.set_viewport_size({"width": 390, "height": 844})
    enter(page, "a person whose name is long")
    sample(page, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for one in page.locator("header button").all():
        assert one.evaluate("(one) => one.scrollHeight <= one.clientHeight"), one.inner_text()
    page.keyboard.press("1")
    sample(page, 1)
    page.click("#count")
    page.locator("#earlier button").click()
    shown(page, "s000")
    page.keyboard.press("!")
    assert page.inner_text("#described").endswith("<i>look</i> twice")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    shown(page, "s001")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download answers").click()
    download.value.save_as(tmp_path / "answers.csv")
    assert [row["clean_label"] for row in csv_rows(tmp_path / "answers.csv")] == ["kind 001", ""]


def test_a_key_that_does_nothing_says_so(tmp_path: Path, page: Any) -> None:
    with serving(photo_run(tmp_path, 3, SIZES[4:]), "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        for key in ("z", "7", "/"):
            page.keyboard.press(key)
            assert page.inner_text("[role=status]") == f"The key {key} is not a class here."
        for key in ("Control+y", "Shift", "F2", " "):
            page.keyboard.press(key)
            assert page.inner_text("[role=status]") == "The key / is not a class here."


def test_the_next_pictures_are_fetched_once_and_ahead(tmp_path: Path, page: Any) -> None:
    asked: list[str] = []
    page.on(
        "request",
        lambda request: asked.append(request.url.rpartition("/")[2]) if "/image/" in request.url else None,
    )
    with serving(photo_run(tmp_path, 3), "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        assert asked == ["0", "1", "2", "3"]
        for done in range(1, len(SIZES)):
            page.keyboard.press("1")
            sample(page, done)
            assert page.evaluate("at('image').complete && at('image').naturalWidth") == SIZES[done][0]
            assert asked == [str(key) for key in range(min(done + 4, len(SIZES)))]
            assert page.evaluate("ahead.size") == min(3, len(SIZES) - done - 1)
        page.keyboard.press("1")
        state(page, "done")
        assert len(asked) == len(SIZES)


def test_classes_are_explained_beside_the_picture(tmp_path: Path, page: Any) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    (tmp_path / "a.png").write_bytes(encode(np.zeros((30, 40, 3), np.uint8)))
    (tmp_path / "notes.csv").write_text(f"class,note,image\nkind 002,{hostile},a.png\nkind 000,round,\n")
    run = photo_run(tmp_path, 3, SIZES[4:])
    with serving(run, "--annotator", "anna", "--class-notes", tmp_path / "notes.csv") as (_, url):
        page.goto(url)
        sample(page, 0)
        about = page.get_by_role("button", name="About the classes")
        about.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="About the classes")
        assert [each.strip() for each in dialog.locator("h3 span").all_inner_texts()] == [
            "kind 000",
            "kind 002",
        ]
        assert dialog.locator("p").all_inner_texts() == ["round", hostile]
        until(page, "document.querySelector('#described img').naturalWidth === 40")
        assert dialog.get_by_role("img", name="An example of kind 002").count() == 1
        picture, sheet = page.locator("#image").bounding_box(), dialog.bounding_box()
        assert picture["x"] + picture["width"] <= sheet["x"]
        page.keyboard.press("1")  # no answer while it is open
        page.keyboard.press("Escape")
        assert about.evaluate("(one) => one === document.activeElement")
        page.wait_for_timeout(300)
    assert not run.path("annotate/votes.csv").exists()
