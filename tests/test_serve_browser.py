"""The page in a real browser: what people do with it, and what happens to it."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, answers, call, csv_rows, make_run, meta_set, votes_of
from chromium import enter, image_run, sample, serving, state
from filelock import FileLock

from metaselect.cli.main import main
from metaselect.run.layout import Run

pytestmark = pytest.mark.slow

IDS = ["s3", "s1", "s4", "s0", "s2", "s5"]
MARKUP = "<img src=x onerror=alert(1)>"
FORMULA = "=cmd|'/C calc'!A0"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return image_run(tmp_path, IDS, ["cat", "dog", "owl"])


def test_a_batch_is_labelled_by_keyboard_alone(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run) as (_, url):
        page.goto(url)
        enter(page, "anna")
        for done, (key, sample_id) in enumerate(zip(["2", "1", "ArrowRight", ".", "-"], IDS, strict=False)):
            assert sample(page, done) == sample_id
            assert len(votes_of(run)) == done if done else not run.path("annotate/votes.csv").exists()
            page.keyboard.press(key)
        sample(page, 5)
        page.keyboard.press("ArrowLeft")
        assert sample(page, 4) == "s2"
        assert "Taken back: bad_sample" in page.inner_text("[role=status]")
        page.keyboard.press("3")
        assert sample(page, 5) == "s5"
        page.keyboard.press("Backspace")
        assert sample(page, 4) == "s2"
        page.keyboard.press("z")  # no key of anything
        page.keyboard.press("Control+1")
        page.keyboard.press("1")
        sample(page, 5)
        page.keyboard.press("Tab")
        page.get_by_role("button", name="owl").focus()
        page.keyboard.press("Enter")
        state(page, "done")
        assert "All 6 samples are answered" in page.inner_text("main")
    assert votes_of(run) == [
        ("s3", "dog", "anna", "done"),
        ("s1", "cat", "anna", "done"),
        ("s4", "", "anna", "skip"),
        ("s0", "", "anna", "unsure"),
        ("s2", "", "anna", "bad_sample"),
        ("s2", "", "anna", "withdrawn"),
        ("s2", "owl", "anna", "done"),
        ("s2", "", "anna", "withdrawn"),
        ("s2", "cat", "anna", "done"),
        ("s5", "owl", "anna", "done"),
    ]
    assert meta_set(run) == {"s1": "cat", "s2": "cat", "s3": "dog", "s5": "owl"}
    run.stage("annotate").check(thorough=True)


def test_a_held_key_answers_once(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        for _ in range(30):
            page.keyboard.down("1")  # from the second on these are repeats
        page.keyboard.up("1")
        sample(page, 1)
        page.wait_for_timeout(500)
        assert len(votes_of(run)) == 1


def test_a_reload_changes_nothing(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run) as (_, url):
        page.goto(url)
        enter(page, "anna")
        for done in range(3):
            sample(page, done)
            page.keyboard.press("1")
        assert sample(page, 3) == "s0"
        page.reload()
        assert sample(page, 3) == "s0"  # and nobody is asked for a name again
        page.keyboard.press("ArrowLeft")
        assert sample(page, 2) == "s4"
        page.reload()
        assert sample(page, 2) == "s4"
        page.keyboard.press("2")
        sample(page, 3)
    assert meta_set(run) == {"s1": "cat", "s3": "cat", "s4": "dog"}


def test_a_killed_server_loses_nothing(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run) as (process, url):
        page.goto(url)
        enter(page, "anna")
        sample(page, 0)
        page.keyboard.press("1")
        assert sample(page, 1) == "s1"
        process.kill()
        process.wait()
        page.keyboard.press("2")
        state(page, "trouble")
        assert "The server does not answer" in page.inner_text("[role=alert]")
        alert, below = page.locator("#trouble").bounding_box(), page.locator("#classes").bounding_box()
        assert alert["y"] + alert["height"] <= below["y"]
        assert page.inner_text("#caption") == "s1"
    assert len(votes_of(run)) == 1
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        assert sample(page, 1) == "s1"
        page.keyboard.press("ArrowLeft")  # what was said before the kill can be taken back
        assert sample(page, 0) == "s3"
        page.keyboard.press("3")
        sample(page, 1)
    assert meta_set(run) == {"s3": "owl"}


def test_two_people_never_have_the_same_sample(run: Run, context: Any, browser: Any) -> None:
    elsewhere = browser.new_context()
    anna, bert = context.new_page(), elsewhere.new_page()
    with serving(run) as (_, url):
        for page, name in ((anna, "anna"), (bert, "bert")):
            page.goto(url)
            enter(page, name)
            state(page, "ready")
        assert (sample(anna, 0), sample(bert, 0)) == ("s3", "s1")
        for number in range(5):
            page = (anna, bert)[number % 2]
            state(page, "ready")
            assert anna.inner_text("#caption") != bert.inner_text("#caption")
            page.keyboard.press("1")
            page.wait_for_selector(f"#bar[value='{number + 1}']")
        state(anna, "waiting")
        assert "on other screens" in anna.inner_text("main")
        bert.close()  # he leaves without an answer, and she gets the sample
        assert sample(anna, 5) == "s5"
        anna.keyboard.press("2")
        state(anna, "done")
    elsewhere.close()
    votes = votes_of(run)
    assert sorted(sample_id for sample_id, *_ in votes) == sorted(IDS)
    assert {annotator for _, _, annotator, _ in votes} == {"anna", "bert"}


def test_two_tabs_of_one_person_share_the_work(run: Run, context: Any) -> None:
    first, second = context.new_page(), context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        first.goto(url)
        assert sample(first, 0) == "s3"
        second.goto(url)
        assert sample(second, 0) == "s1"
        second.keyboard.press("1")
        assert sample(second, 1) == "s4"
        first.keyboard.press("2")
        assert sample(first, 2) == "s0"
    assert meta_set(run) == {"s1": "cat", "s3": "dog"}


def test_other_commands_run_meanwhile_and_the_page_waits_for_long_ones(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        assert (
            call(run, "import", answers(run, "sample_id,clean_label,annotator\ns3,owl,olga\ns1,owl,anna\n"))
            == 0
        )
        page.keyboard.press("1")  # one more vote for what olga answered meanwhile
        assert sample(page, 2) == "s4"
        with FileLock(run.root / ".lock"):
            page.keyboard.press("2")
            page.wait_for_selector("#trouble:has-text('trying again')")
        assert sample(page, 3) == "s0"
    assert votes_of(run)[2:] == [("s3", "cat", "anna", "done"), ("s4", "dog", "anna", "done")]


def test_hostile_names_stay_text(tmp_path: Path, context: Any) -> None:
    run = image_run(tmp_path, [FORMULA, MARKUP, "plain"], [MARKUP, FORMULA, "ok"])
    page = context.new_page()
    with serving(run, "--annotator", MARKUP) as (_, url):
        page.goto(url)
        assert sample(page, 0) == FORMULA
        names = page.locator("#classes button span").all_inner_texts()
        assert names == sorted([MARKUP, FORMULA, "ok"])
        assert page.locator("img").count() == 1
        page.keyboard.press(str(names.index(MARKUP) + 1))
        assert sample(page, 1) == MARKUP
        assert f"Saved: {MARKUP}" in page.inner_text("[role=status]")
        assert page.inner_text("#who") == MARKUP
        page.keyboard.press(str(names.index(FORMULA) + 1))
        sample(page, 2)
        assert page.locator("img").count() == 1
    assert votes_of(run) == [(FORMULA, MARKUP, MARKUP, "done"), (MARKUP, FORMULA, MARKUP, "done")]


def test_a_class_among_many_is_found_by_its_name(tmp_path: Path, context: Any) -> None:
    classes = [f"kind {number:02d}" for number in range(58)] + ["Größe", "a name " * 12 + "without" * 9]
    run = image_run(tmp_path, [f"s{number:02d}" for number in range(60)], classes)
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        for button in page.locator("#classes button").all():
            assert button.evaluate(
                "(one) => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth"
            )
        page.keyboard.press("/")
        page.keyboard.type("57")
        assert page.locator("#found button").all_inner_texts() == ["kind 57"]
        page.keyboard.press("Enter")
        sample(page, 1)
        page.keyboard.type("grosse")  # not how it is written
        page.keyboard.press("Enter")
        assert "No class" in page.inner_text("[role=status]")
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("GRO")
        page.keyboard.press("Enter")
        sample(page, 2)
        page.keyboard.press("Escape")
        page.keyboard.press("3")
        sample(page, 3)
        page.keyboard.press("/")
        page.keyboard.type("kind 1")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        sample(page, 4)
    assert [label for _, label, _, _ in votes_of(run)] == ["kind 57", "Größe", "kind 00", "kind 10"]


def test_digits_are_answered_by_their_own_keys(tmp_path: Path, context: Any) -> None:
    run = image_run(tmp_path, [f"s{number}" for number in range(10)], [str(number) for number in range(10)])
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        for done, key in enumerate("073"):
            sample(page, done)
            page.keyboard.press(key)
        sample(page, 3)
    assert [label for _, label, _, _ in votes_of(run)] == ["0", "7", "3"]


def test_no_class_is_answered_by_the_name_of_another(tmp_path: Path, context: Any) -> None:
    classes = ["-5", "0", "1", "10", "A", "a", "B", "=1+1"]
    run = image_run(tmp_path, [f"s{number}" for number in range(8)], classes)
    form = tmp_path / "page.html"
    assert call(run, "export", "--format", "html", "-o", str(form)) == 0
    page = context.new_page()
    page.goto(form.as_uri())
    enter(page, "anna")
    keys = [one.get_attribute("aria-keyshortcuts") for one in page.locator("#classes button").all()]
    assert keys == ["2", "0", "1", "3", "4", "5", "b", "6"]


def test_a_model_speaks_only_when_it_is_asked(finished: Path, context: Any) -> None:
    run = Run(finished)
    call_select = ["select", "--round", "next", "--budget", "3", "--run", str(finished)]
    assert main(call_select) == 0
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample_id = sample(page, 0)
        assert "suggests" not in page.inner_text("body")
        page.keyboard.press("?")
        page.wait_for_selector("#said:has-text('The model suggests')")
        rows = {row["sample_id"]: row["predicted_label"] for row in weights(run)}
        assert page.inner_text("#said") == f"The model suggests: {rows[sample_id]}"


def weights(run: Run) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(run.path("reweight/auto/weights.parquet")).to_pylist())


def test_features_alone_show_their_id_and_say_so(tmp_path: Path, context: Any) -> None:
    run = make_run(tmp_path / "run")
    add_round(run, 1, ["s3", "s1"])
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        assert sample(page, 0) == "s3"
        assert "There is no image" in page.inner_text("#instead")
        assert "s3" in page.inner_text("#instead")
        assert not page.locator("#hint").is_visible()
        page.keyboard.press("1")
        assert sample(page, 1) == "s1"
    assert meta_set(run) == {"s3": "cat"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_colours(run: Run, context: Any, scheme: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for button in page.locator("#classes button, #others button:visible").all():
            box = button.bounding_box()
            assert box["height"] >= 44
            assert box["y"] + box["height"] <= 740
        image = page.locator("#image")
        assert image.bounding_box()["width"] >= 250
        assert image.evaluate("(image) => getComputedStyle(image).imageRendering") == "pixelated"
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) < 200) is (scheme == "dark")
        page.get_by_role("button", name="dog").click()
        sample(page, 1)
    assert meta_set(run) == {"s3": "dog"}


def test_screen_readers_are_told_what_is_what(run: Run, context: Any) -> None:
    page = context.new_page()
    with serving(run, "--annotator", "anna") as (_, url):
        page.goto(url)
        sample(page, 0)
        assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
        assert page.get_by_role("heading", level=1).inner_text() == "Which class is it?"
        assert page.get_by_role("group", name="Classes").get_by_role("button").count() == 3
        for name in ("cat", "dog", "owl", "Skip", "Unsure", "Unusable", "Undo"):
            button = page.get_by_role("button", name=name, exact=True)
            assert button.get_attribute("aria-keyshortcuts")
        assert page.get_by_role("progressbar", name="Answered").count() == 1
        assert page.get_by_role("img", name="The sample to label, number 1").count() == 1
        page.get_by_text("Help and keys").click()
        page.get_by_label("Single keys answer").uncheck()  # who dictates to the computer wants that
        page.keyboard.press("1")
        page.wait_for_timeout(300)
        assert not run.path("annotate/votes.csv").exists()
        page.get_by_role("button", name="cat").click()
        sample(page, 1)
        assert page.inner_text("[role=status]") == "Saved: cat. Now sample 2 of 6."


def test_the_single_file_gives_the_csv_that_import_takes(tmp_path: Path, context: Any) -> None:
    ids = ["s3", FORMULA, "'quoted", "+1", 'a "b", c', "ü"]
    classes = [MARKUP, FORMULA, "dog"]
    run = image_run(tmp_path, ids, classes)
    form = tmp_path / "page.html"
    assert call(run, "export", "--format", "html", "-o", str(form)) == 0
    page = context.new_page()
    page.goto(form.as_uri())
    enter(page, "anna")
    keys = sorted(classes)
    for done, (sample_id, label) in enumerate(zip(ids, [MARKUP, FORMULA, "dog"], strict=False)):
        assert sample(page, done) == sample_id
        page.keyboard.press(str(keys.index(label) + 1))
    assert sample(page, 3) == "+1"
    page.reload()
    assert sample(page, 3) == "+1"
    page.keyboard.press("ArrowLeft")
    assert sample(page, 2) == "'quoted"
    page.keyboard.press(str(keys.index(MARKUP) + 1))
    sample(page, 3)
    page.keyboard.press(".")
    sample(page, 4)
    page.keyboard.press("-")
    assert sample(page, 5) == "ü"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download answers").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert re.fullmatch(r"b01-[0-9a-f]{8}-answers\.csv", path.name)
    with path.open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row["status"] for row in csv_rows(path)] == ["done", "done", "done", "unsure", "bad_sample", ""]
    assert main(["annotate", "import", str(path), "--run", str(run.root)]) == 0
    assert sorted(votes_of(run)) == sorted([
        ("s3", MARKUP, "anna", "done"),
        (FORMULA, FORMULA, "anna", "done"),
        ("'quoted", MARKUP, "anna", "done"),
        ("+1", "", "anna", "unsure"),
        ('a "b", c', "", "anna", "bad_sample"),
    ])  # fmt: skip
    page.keyboard.press("1")
    state(page, "done")
    assert "download the answers" in page.inner_text("main")


def test_two_tabs_of_the_single_file_do_not_overwrite_each_other(
    run: Run, tmp_path: Path, context: Any
) -> None:
    form = tmp_path / "page.html"
    assert call(run, "export", "--format", "html", "-o", str(form)) == 0
    first, second = context.new_page(), context.new_page()
    first.goto(form.as_uri())
    enter(first, "anna")
    assert sample(first, 0) == "s3"
    second.goto(form.as_uri())
    assert sample(second, 0) == "s3"
    first.keyboard.press("1")
    assert sample(first, 1) == "s1"
    second.keyboard.press("2")
    assert sample(second, 1) == "s1"
    assert "answered in another tab" in second.inner_text("[role=status]")
