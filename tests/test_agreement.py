"""Krippendorff's alpha, confusion matrices and `metaselect annotate status`: published example, brute force."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from annotation_run import add_round, answers, call, make_run, result
from command_line import metaselect, seen
from hypothesis import given
from hypothesis import strategies as st

from metaselect.annotation.consensus import aggregate_votes, latest_votes
from metaselect.annotation.quality.agreement import agreement, alpha
from metaselect.annotation.votes import STATUSES, Vote
from metaselect.run.layout import Run

KRIPPENDORFF = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
"""Krippendorff 2011, section C: four observers, twelve units, missing data."""


def test_alpha_is_that_of_the_published_example() -> None:
    units = zip(*(row.split() for row in KRIPPENDORFF), strict=True)
    found = alpha([[answer for answer in unit if answer != "."] for unit in units])
    assert found is not None
    assert round(found, 3) == 0.743


def test_alpha_by_hand() -> None:
    """Two observers, ten units (section A of the same): four of ten pairs differ in 20 values, 14 zeros and 6 ones."""
    first, second = "0100000000", "1110010010"
    found = alpha(list(zip(first, second, strict=True)))
    assert found == pytest.approx(1 - 19 * 8 / (2 * 14 * 6))
    assert round(found or 0, 3) == 0.095


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=6))
def test_alpha_is_observed_over_expected_disagreement_of_all_pairs(units: list[list[str]]) -> None:
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]
    pairs = list(permutations(values, 2))
    if not any(a != b for a, b in pairs):
        assert alpha(units) is None
        return
    expected = sum(a != b for a, b in pairs) / len(pairs)
    observed = sum(
        sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in pairable
    ) / len(values)
    assert alpha(units) == pytest.approx(1 - observed / expected)


@given(
    st.lists(
        st.builds(
            Vote,
            st.sampled_from("pqr"),
            st.sampled_from(["cat", "dog"]),
            st.sampled_from("xyz"),
            st.sampled_from(STATUSES),
            st.just(""),
            st.just(1),
            st.just("t"),
        ),
        max_size=12,
    )
)
def test_the_confusion_counts_every_answer_beside_others(votes: list[Vote]) -> None:
    latest = latest_votes(votes)
    found = aggregate_votes(latest)
    told = agreement(latest, found)
    expected: Counter[tuple[str, str, str]] = Counter()
    for vote in latest.values():
        others = [each for each in latest.values() if each.sample_id == vote.sample_id and each != vote]
        if vote.status not in ("done", "bad_sample"):
            continue
        if not any(each.status in ("done", "bad_sample") for each in others):
            continue
        verdict = found[vote.sample_id]
        if verdict.status in ("done", "bad_sample"):
            names = [
                each.clean_label if each.status == "done" else "(bad_sample)" for each in (verdict, vote)
            ]
            expected[vote.annotator, names[0], names[1]] += 1
    matrices = {
        (who, row, column): times
        for who, skill in told.annotators.items()
        for row, cells in skill.confusion.items()
        for column, times in cells.items()
    }
    assert matrices == expected
    for who, skill in told.annotators.items():
        assert skill.compared == sum(times for key, times in expected.items() if key[0] == who)
        assert skill.same == sum(n for key, n in expected.items() if key[0] == who and key[1] == key[2])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    lines = ["s0,cat,anna,", "s0,cat,ben,", "s1,cat,anna,", "s1,dog,ben,", "s2,owl,anna,", "s2,owl,ben,",
             "s0,dog,carl,", "s2,,carl,bad_sample"]  # fmt: skip
    table = answers(made, "\n".join(["sample_id,clean_label,annotator,status", *lines]))
    assert call(made, "import", table) == 0
    return made


def test_status_says_how_people_agree_and_what_is_tied(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = seen(run.root)
    got = result(run, capsys, "status")
    assert got["conflict_ids"] == ["s1"]
    assert got["consensus"] == "majority"
    units = [["cat", "cat", "dog"], ["cat", "dog"], ["owl", "owl", "(bad_sample)"]]
    assert got["agreement"]["alpha"] == alpha(units)
    assert got["agreement"]["samples"] == 3
    assert got["agreement"]["annotators"]["carl"] == {
        "compared": 2, "same": 0, "repeated": 0, "repeated_same": 0,
        "confusion": {"cat": {"dog": 1}, "owl": {"(bad_sample)": 1}},
    }  # fmt: skip
    assert got["agreement"]["annotators"]["anna"]["same"] == 2
    assert seen(run.root) == before


def test_people_read_the_same(run: Run) -> None:
    shown = metaselect("annotate", "status", run=run.root, env={"COLUMNS": "200"}).out
    assert "Tied: s1." in shown
    assert "Krippendorff's alpha" in shown
    assert "cat as dog (1)" in shown
    assert "2 of 2" in shown


def test_one_annotator_alone_has_nothing_to_agree_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    add_round(run, 1, ["s0", "s1"])
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\ns1,dog\n")) == 0
    got = result(run, capsys, "status")
    assert (got["agreement"]["alpha"], got["agreement"]["samples"]) == (None, 0)
    assert got["agreement"]["annotators"]["annotator"]["confusion"] == {}
