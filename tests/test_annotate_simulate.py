"""`metaselect annotate simulate`: answers as people would give them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from annotation_run import (
    CLASSES,
    add_round,
    answers,
    call,
    csv_rows,
    error,
    make_run,
    meta_set,
    result,
    votes_of,
)
from command_line import metaselect

from metaselect.annotation.simulation import SimulateOptions, error_rates, simulated_answers
from metaselect.run.layout import Run

IDS = [f"s{number:04d}" for number in range(3000)]
TRUE = {sample_id: CLASSES[at % 3] for at, sample_id in enumerate(IDS)}


def given(**options: Any) -> list[tuple[str, str, str, str]]:
    """(true, label, annotator, status) of the simulated answers."""
    chosen = SimulateOptions(**options)
    found = simulated_answers(TRUE, error_rates(CLASSES, chosen), CLASSES, "b", chosen)
    return [(TRUE[each.sample_id], each.clean_label, each.annotator, each.status) for each in found]


def near(share: float, expected: float, n: int) -> bool:
    """Within 4.5 standard deviations of a binomial share."""
    return abs(share - expected) <= 4.5 * (expected * (1 - expected) / n) ** 0.5


def test_errors_come_at_their_rate_and_go_to_all_other_classes() -> None:
    found = given(error_rate=0.3)
    assert near(sum(true != label for true, label, *_ in found) / 3000, 0.3, 3000)
    wrong = Counter((true, label) for true, label, *_ in found if true != label)
    assert len(wrong) == 6
    assert all(near(count / 1000, 0.15, 1000) for count in wrong.values())
    assert {who for _, _, who, _ in found} == {"simulated"}


def test_answers_follow_the_confusion_file(tmp_path: Path) -> None:
    table = tmp_path / "confusion.csv"
    table.write_text("true,owl,cat,dog\ndog,0.2,0.1,0.7\ncat,0,1,0\nowl,0.5,0.25,0.25\n")
    found = Counter((true, label) for true, label, *_ in given(confusion=table))
    expected = {("dog", "owl"): 0.2, ("dog", "cat"): 0.1, ("dog", "dog"): 0.7, ("cat", "cat"): 1.0,
                ("owl", "owl"): 0.5, ("owl", "cat"): 0.25, ("owl", "dog"): 0.25}  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(near(found[pair] / 1000, share, 1000) for pair, share in expected.items())


def test_annotators_err_and_skip_each_on_their_own() -> None:
    found = given(annotators=3, error_rate=0.2, skip_rate=0.1)
    people = {who: [each for each in found if each[2] == who] for who in {each[2] for each in found}}
    assert sorted(people) == ["simulated-1", "simulated-2", "simulated-3"]
    for theirs in people.values():
        assert near(sum(each[3] == "skip" for each in theirs) / 3000, 0.1, 3000)
        done = [each for each in theirs if each[3] == "done"]
        assert near(sum(true != label for true, label, *_ in done) / len(done), 0.2, len(done))
    first, second = ([each[0] != each[1] for each in people[f"simulated-{n}"]] for n in (1, 2))
    wrong = 0.1 + 0.9 * 0.2  # skipped ones have no label either
    assert near(sum(a and b for a, b in zip(first, second, strict=True)) / 3000, wrong**2, 3000)


def test_an_answer_depends_on_seed_annotator_and_sample_alone() -> None:
    chosen = SimulateOptions(error_rate=0.4, skip_rate=0.1, seed=3)
    rates = error_rates(CLASSES, chosen)
    whole = {each.sample_id: each[2:5] for each in simulated_answers(TRUE, rates, CLASSES, "b", chosen)}
    part = {sample_id: TRUE[sample_id] for sample_id in reversed(IDS[::7])}
    few = {each.sample_id: each[2:5] for each in simulated_answers(part, rates, CLASSES, "b", chosen)}
    assert all(whole[sample_id] == few[sample_id] for sample_id in part)
    other = SimulateOptions(error_rate=0.4, skip_rate=0.1, seed=4)
    assert simulated_answers(TRUE, rates, CLASSES, "b", other) != simulated_answers(
        TRUE, rates, CLASSES, "b", chosen
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", [f"s{number:03d}" for number in range(300)])
    add_round(made, 1, [f"s{number:03d}" for number in range(200)])
    return made


def truth(run: Run) -> str:
    lines = [f"s{number:03d},{CLASSES[number % 3]}" for number in range(300)]
    return answers(run, "\n".join(["sample_id,clean_label", *lines]), "truth.csv")


def test_three_careless_people_through_the_command_line(run: Run) -> None:
    words = ("--annotators", 3, "--error-rate", 0.2, "--skip-rate", 0.1, "--seed", 1, "--json")
    got = metaselect("annotate", "simulate", truth(run), *words, run=run.root).json
    assert got["new_votes"] == 600
    assert got["matched"] + got["skipped"] == 600
    assert 0 < got["tied"] < 60
    right = sum(label == CLASSES[int(name[1:]) % 3] for name, label in meta_set(run).items())
    assert 0.85 < right / len(meta_set(run)) < 1
    assert csv_rows(run.path("annotate/imports.csv"))[0]["format"] == "simulate"
    status = metaselect("annotate", "status", "--json", run=run.root).json
    # Of three with 20 % errors over two wrong classes each, two agree in 0.8^2 + 2 * 0.1^2; chance is 1/3.
    assert status["agreement"]["alpha"] == pytest.approx(1 - (1 - 0.66) / (2 / 3), abs=0.1)


def test_by_default_one_perfect_annotator_answers_everything(run: Run) -> None:
    assert call(run, "simulate", truth(run)) == 0
    assert votes_of(run) == [
        (f"s{number:03d}", CLASSES[number % 3], "simulated", "done") for number in range(200)
    ]


def test_the_same_seed_gives_the_same_votes_and_another_others(run: Run, tmp_path: Path) -> None:
    found = []
    for place, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        other = make_run(tmp_path / place, [f"s{number:03d}" for number in range(300)])
        add_round(other, 1, [f"s{number:03d}" for number in range(200)])
        assert call(other, "simulate", truth(run), "--error-rate", "0.5", "--seed", seed) == 0
        found.append(votes_of(other))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("true,cat,dog\ncat,1,0\n", "'owl'"),
        ("true,cat,dog,owl\ncat,1,0,0\ndog,0,1,0\n", "no row for 'owl'"),
        ("true,cat,dog,owl\ncat,0.5,0.4,0\ndog,0,1,0\nowl,0,0,1\n", ":2"),
        ("true,cat,dog,owl\ncat,1,x,0\ndog,0,1,0\nowl,0,0,1\n", "no number"),
        ("true,cat,dog,owl\ncat,2,-1,0\ndog,0,1,0\nowl,0,0,1\n", ":2"),
        ("true,cat,dog,owl\ncat,1,0,0\ncat,0,1,0\nowl,0,0,1\n", "there twice"),
        ("true,cat,dog,owl\ncow,1,0,0\ncat,0,1,0\nowl,0,0,1\n", "no class"),
    ],
)
def test_a_confusion_file_that_is_no_distribution_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    table = answers(run, text, "confusion.csv")
    assert message in error(run, capsys, "simulate", truth(run), "--confusion", table, code=3)
    assert not run.path("annotate").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--error-rate", "1.5"),
        ("--skip-rate", "-1"),
        ("--annotators", "0"),
        ("--error-rate", "0.1", "--confusion", "x"),
    ],
)
def test_impossible_options_are_refused(
    run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    error(run, capsys, "simulate", truth(run), *words, code=2)


def test_blind_repeats_are_answered_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export", "--repeats", "0.1", "--no-images") == 0
    assert result(run, capsys, "simulate", truth(run), "--error-rate", "0.3")["repeated"] == 20
    skill = result(run, capsys, "status")["agreement"]["annotators"]["simulated"]
    assert skill["repeated"] == 20
    assert skill["repeated_same"] < 20
