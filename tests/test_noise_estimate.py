"""The control arm: the interval against its definition, the counts against brute force, and what it makes stale."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import comb, sqrt
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from annotation_run import CLASSES, add_round, answers, call, make_run, result
from command_line import EVALUATE, SIMULATE, TEST, TRUTH, UNIFORM, metaselect, states

from metaselect.annotation.ledger import read_ledger
from metaselect.annotation.quality.noise_estimate import (
    NoiseEstimate,
    Z,
    estimate_inputs,
    noise_by_class,
    noise_estimate,
    wilson,
)
from metaselect.annotation.rounds import rounds
from metaselect.cli.main import main
from metaselect.run.files import stamp, write_csv
from metaselect.run.layout import Run

STATUSES = ("", "skip", "unsure", "bad_sample", "done", "done", "done", "done")


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 10, 0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1),
        (19, 50, 0.2586, 0.5185),
        (0, 1, 0, 0.7935),
    ],
)
def test_the_interval_has_the_published_values(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_interval_holds_the_shares_that_a_score_test_does_not_reject(n: int) -> None:
    shares = np.linspace(0, 1, 200_001)
    for count in range(n + 1):
        kept = shares[np.abs(count / n - shares) <= Z * np.sqrt(shares * (1 - shares) / n)]
        low, high = wilson(count, n)
        assert (low, high) == pytest.approx((kept.min(), kept.max()), abs=1e-5)
        assert 0 <= low <= count / n <= high <= 1
        assert wilson(n - count, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """On average over shares exactly, where one share alone can lie a little below."""
    n = 50
    covered = []
    for share in np.linspace(0.02, 0.98, 97):
        chances = [comb(n, count) * share**count * (1 - share) ** (n - count) for count in range(n + 1)]
        inside = [low <= share <= high for low, high in (wilson(count, n) for count in range(n + 1))]
        covered.append(float(np.dot(chances, inside)))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.91


@pytest.mark.parametrize("wrong", [30, 240, 540])
def test_draws_without_replacement_are_covered_too(wrong: int) -> None:
    seed = Random(wrong)
    pool = [number < wrong for number in range(600)]
    draws = 2000
    covered = 0
    for _ in range(draws):
        low, high = wilson(sum(seed.sample(pool, 60)), 60)
        covered += low <= wrong / 600 <= high
    assert covered / draws > 0.93
    assert covered / draws > 0.95 - 3 * sqrt(0.95 * 0.05 / draws)


def given_labels(run: Run) -> dict[str, str]:
    table = pq.read_table(run.path("data/samples.parquet"))
    return dict(zip(table["sample_id"].to_pylist(), table["given_label"].to_pylist(), strict=True))


def by_hand(
    control: Mapping[str, tuple[str, str]], given: Mapping[str, str]
) -> tuple[int, int, int, int, int]:
    """Drawn to unanswered, from (status, label) of every control sample."""
    drawn = answered = wrong = unusable = unanswered = 0
    for sample_id, (status, label) in control.items():
        drawn += 1
        if status == "done":
            answered += 1
            if label != given[sample_id]:
                wrong += 1
        elif status == "bad_sample":
            unusable += 1
        else:
            unanswered += 1
    return drawn, answered, wrong, unusable, unanswered


@pytest.mark.parametrize("seed", range(6))
def test_the_counts_are_those_of_the_control_samples_of_all_rounds(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    run = make_run(tmp_path / "run", [f"s{number:02d}" for number in range(40)])
    ids = chance.sample(sorted(given_labels(run)), 30)
    control: set[str] = set()
    for number, start in enumerate((0, 10, 20), start=1):
        chosen = ids[start : start + 10]
        drawn = set(chance.sample(chosen, 0 if number == 2 else 6))
        add_round(run, number, chosen, drawn)
        control |= drawn
    said = {sample_id: (chance.choice(STATUSES), chance.choice(CLASSES)) for sample_id in ids}
    rows = [
        f"{sample_id},{label if status == 'done' else ''},{status}"
        for sample_id, (status, label) in said.items()
    ]
    assert call(run, "import", answers(run, "\n".join(["sample_id,clean_label,status", *rows]))) == 0
    found = noise_estimate(run, rounds(run), read_ledger(run))
    assert found is not None
    assert found[:5] == by_hand({sample_id: said[sample_id] for sample_id in control}, given_labels(run))
    assert found.rate == found.wrong / found.answered
    assert (found.low, found.high) == wilson(found.wrong, found.answered)
    given = given_labels(run)
    by_class = noise_by_class(run, rounds(run), read_ledger(run))
    expected = {
        label: by_hand({each: said[each] for each in control if given[each] == label}, given)[1:3]
        for label in CLASSES
    }
    assert {label: noise[:2] for label, noise in by_class.items()} == {
        label: counts for label, counts in expected.items() if counts[0]
    }
    assert sum(noise.wrong for noise in by_class.values()) == found.wrong
    for noise in by_class.values():
        assert noise.rate == noise.wrong / noise.answered
        assert (noise.low, noise.high) == wilson(noise.wrong, noise.answered)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Samples s0, s1, ... are given as cat, dog, owl, cat, ...; s0 to s4 are the control."""
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s9", "s0", "s1", "s2", "s3", "s4"], ["s0", "s1", "s2", "s3", "s4"])
    return made


def test_there_is_no_estimate_without_a_control(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert noise_estimate(run, rounds(run), read_ledger(run)) is None
    add_round(run, 1, ["s0", "s1"])
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,dog\n")) == 0
    assert noise_estimate(run, rounds(run), read_ledger(run)) is None
    assert estimate_inputs(rounds(run), read_ledger(run)) == ()


def test_without_answers_there_is_no_rate(run: Run) -> None:
    assert noise_estimate(run, rounds(run), read_ledger(run)) == NoiseEstimate(
        5, 0, 0, 0, 5, None, None, None
    )
    assert noise_estimate(run, rounds(run), read_ledger(run), begun=True) is None
    assert estimate_inputs(rounds(run), read_ledger(run)) == ()


def test_disputes_skips_and_unusable_samples_are_left_out_of_the_rate(run: Run) -> None:
    table = "sample_id,clean_label,annotator,status\ns9,dog,anna,\ns0,cat,anna,\ns1,cat,anna,\ns2,owl,anna,\n" \
            "s2,dog,ben,\ns3,,anna,skip\ns4,,anna,bad_sample\n"  # fmt: skip
    assert call(run, "import", answers(run, table)) == 0
    low, high = wilson(1, 2)
    assert noise_estimate(run, rounds(run), read_ledger(run)) == NoiseEstimate(5, 2, 1, 1, 2, 0.5, low, high)
    assert call(run, "import", answers(run, "sample_id,clean_label\ns2,owl\n"), "--annotator", "carl") == 0
    found = noise_estimate(run, rounds(run), read_ledger(run))
    assert found is not None
    assert (found.answered, found.wrong, found.unanswered) == (3, 1, 1)


def test_only_rounds_whose_control_came_back_are_inputs(run: Run) -> None:
    add_round(run, 2, ["s5", "s6", "s7"], ["s5", "s6"])
    assert call(run, "import", answers(run, "sample_id,clean_label\ns9,cat\ns7,cat\n")) == 0
    assert estimate_inputs(rounds(run), read_ledger(run)) == ()
    assert call(run, "import", answers(run, "sample_id,clean_label\ns5,owl\n")) == 0
    assert estimate_inputs(rounds(run), read_ledger(run)) == (
        "annotate/meta_set.csv",
        "select/round-2/selected.csv",
    )
    every, begun = (
        noise_estimate(run, rounds(run), read_ledger(run)),
        noise_estimate(run, rounds(run), read_ledger(run), begun=True),
    )
    assert every is not None
    assert begun is not None
    assert (every.drawn, begun.drawn) == (7, 2)
    assert every.rate == begun.rate == 0
    assert call(run, "import", answers(run, "sample_id,clean_label,status\ns0,,bad_sample\n")) == 0
    assert len(estimate_inputs(rounds(run), read_ledger(run))) == 3


def test_samples_that_are_no_longer_in_the_data_do_not_count(run: Run, tmp_path: Path) -> None:
    smaller = make_run(tmp_path / "smaller", ["s0", "s1", "s9"])
    (run.path("select")).rename(smaller.path("select"))
    found = noise_estimate(smaller, rounds(smaller), read_ledger(smaller))
    assert found is not None
    assert found.drawn == 2


def test_people_read_one_sentence(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = "Noise rate of the given labels: not known yet, no clean label for any of 5 control samples."
    assert call(run, "status") == 0
    assert unknown in capsys.readouterr().out
    table = answers(run, "sample_id,clean_label,status\ns0,dog,\ns1,dog,\ns2,owl,\ns3,,bad_sample\n")
    known = (
        "Noise rate of the given labels: 33.3% (95% interval 6.1 to 79.2%), from 3 of 5 control samples; "
        "1 unusable, 1 without a label."
    )
    for words in (("import", table), ("status",)):
        capsys.readouterr()
        assert call(run, *words) == 0
        assert known in capsys.readouterr().out
    capsys.readouterr()
    main(["status", "--run", str(run.root)])
    assert known in capsys.readouterr().out
    whole = NoiseEstimate(50, 50, 19, 0, 0, 0.38, *wilson(19, 50))
    assert whole.sentence() == (
        "Noise rate of the given labels: 38.0% (95% interval 25.9 to 51.8%), from 50 of 50 control samples."
    )


def test_programs_read_every_number(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    table = answers(run, "sample_id,clean_label\ns0,dog\ns1,dog\ns9,cat\n")
    low, high = wilson(1, 2)
    expected = {"drawn": 5, "answered": 2, "wrong": 1, "unusable": 0, "unanswered": 3, "rate": 0.5}
    expected |= {"low": low, "high": high}
    for words in (("import", table), ("status",), ("simulate", truth(run))):
        assert result(run, capsys, *words)["noise_estimate"] is not None
    assert call(run, "import", table) == 0
    capsys.readouterr()
    main(["status", "--json", "--run", str(run.root)])
    shown = json.loads(capsys.readouterr().out)["noise_estimate"]
    assert shown == {**expected, "answered": 5, "unanswered": 0, "rate": 0.2} | dict(
        zip(("low", "high"), wilson(1, 5), strict=True)
    )


def truth(run: Run) -> str:
    lines = [f"{sample_id},{label}" for sample_id, label in given_labels(run).items()]
    return answers(run, "\n".join(["sample_id,clean_label", *lines]), "truth.csv")


def test_the_form_does_not_say_who_is_of_the_control(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "export", "-o", "-") == 0
    assert "control" not in capsys.readouterr().out


def test_damage_is_told_by_the_line_of_its_stage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path("select/round-1/selected.csv")
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    assert main(["status", "--json", "--run", str(run.root)]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["noise_estimate"] is None
    assert {row["stage"]: row["state"] for row in shown["stages"]}["select/round-1"] == "damaged"


def into_control(run: Path, number: int, count: int) -> dict[str, str]:
    """Make the last picks of a round its control, as if it had been selected so; returns its given labels."""
    folder = run / f"select/round-{number}"
    with (folder / "selected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[-count:]:
        row.update(cluster="", cluster_size="", cluster_mass="", control="1")
    write_csv(folder / "selected.csv", list(rows[0]), [list(row.values()) for row in rows])
    record = json.loads((folder / "stage.json").read_text())
    record["outputs"]["selected.csv"] = asdict(stamp(folder / "selected.csv"))
    (folder / "stage.json").write_text(json.dumps(record))
    given = given_labels(Run(run))
    return {row["sample_id"]: given[row["sample_id"]] for row in rows[-count:]}


def wrong_ones(drawn: Mapping[str, str]) -> int:
    with TRUTH.open(newline="") as stream:
        clean = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    return sum(clean[sample_id] != label for sample_id, label in drawn.items())


@pytest.mark.slow
def test_an_evaluation_follows_the_control_and_closed_rounds_stay(bought: Path) -> None:
    metaselect(*UNIFORM, run=bought)
    metaselect(*EVALUATE, run=bought)
    metaselect("select", "--round", "next", "--budget", 12, "--method", "random", run=bought)
    drawn = into_control(bought, 2, 8)
    metaselect("annotate", "export", "--no-images", run=bought)
    assert states(bought, 0)["evaluate/test"] == ("done", "")  # nothing came back that would change it
    assert "up to date" in metaselect(*EVALUATE, run=bought).err
    metaselect(*SIMULATE, run=bought)
    found = states(bought, 1)
    new = "annotate/meta_set.csv, select/round-2/selected.csv"
    assert found["evaluate/test"] == ("stale", f"{new} changed since")
    assert found["select/round-1"][0] == found["select/round-2"][0] == "done"
    metaselect(*UNIFORM, run=bought)
    done = metaselect(*EVALUATE, run=bought)
    assert "Recomputing evaluate/test" in done.err
    assert "Noise rate of the given labels: " in done.out
    metrics = json.loads((bought / "evaluate/test/metrics.json").read_text())
    wrong = wrong_ones(drawn)
    low, high = wilson(wrong, 8)
    assert metrics["noise_estimate"] == {
        "drawn": 8, "answered": 8, "wrong": wrong, "unusable": 0, "unanswered": 0,
        "rate": wrong / 8, "low": low, "high": high,
    }  # fmt: skip
    by_class = metrics["noise_by_class"]
    assert by_class.keys() == set(drawn.values())
    assert sum(noise["answered"] for noise in by_class.values()) == 8
    for label, noise in by_class.items():
        same = {each: given for each, given in drawn.items() if given == label}
        assert (noise["answered"], noise["wrong"]) == (len(same), wrong_ones(same))
    again = metaselect(*EVALUATE, "--json", run=bought)
    assert "up to date" in again.err
    assert again.json["noise_estimate"] == metrics["noise_estimate"]
    assert {state for state, _ in states(bought, 0).values()} == {"done"}
    metaselect("verify", "--rerun", run=bought)
    metaselect("select", "--discard-round", 2, run=bought)
    assert "select/round-2/selected.csv" in states(bought, 1)["evaluate/test"][1]


@pytest.mark.slow
def test_an_evaluation_without_a_control_has_no_estimate(warm: Path) -> None:
    done = metaselect("evaluate", TEST, "--json", run=warm)
    assert "noise_estimate" not in done.json
    assert metaselect("status", "--json", run=warm).json["noise_estimate"] is None
