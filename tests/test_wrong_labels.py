"""The estimated number of wrong labels: by hand, its interval by simulation, and what it is from."""

import csv
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from annotation_run import add_round, make_run

from metaselect.annotation.rounds import rounds
from metaselect.records import Json
from metaselect.run.artefacts import CROSS_FIT
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.stages.wrong_labels import WrongLabels, estimate_rate, wrong_labels


def test_the_rate_by_hand() -> None:
    """Mean of the predictions, moved by the mean of what they are off on bought samples."""
    found = estimate_rate([0.1, 0.3, 0.2], [(True, 0.6), (False, 0.2), (True, 0.9), (False, 0.0)])
    assert found.estimate == pytest.approx(0.2 + 0.3 / 4)
    widened = [0.4, -0.2, 0.1, 0.0, 1.0, -1.0]
    error = sqrt(np.var(widened) / 6 + 0.02 / 2 / 3)
    assert (found.low + found.high) / 2 == pytest.approx(0.2 + 0.3 / 6)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-6)


@pytest.mark.parametrize("others", [[], [0.7]])
def test_without_other_samples_it_is_the_share_among_the_bought(others: list[float]) -> None:
    found = estimate_rate(others, [(True, 0.6), (False, 0.2), (False, 0.9), (False, 0.0)])
    assert found.estimate == pytest.approx(0.25)
    assert found.low < 0.25 < found.high


def test_labels_without_any_surprise_leave_room() -> None:
    """None wrong among twenty: up to 14 % by the rule of three."""
    found = estimate_rate([0.0] * 100, [(False, 0.0)] * 20)
    assert found.estimate == 0
    assert 0.1 < found.high < 0.2


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.9])
@pytest.mark.parametrize("skill", ["good", "none", "upside down"])
@pytest.mark.parametrize("bought", [10, 50])
def test_the_interval_holds_the_share_nearly_always(share: float, skill: str, bought: int) -> None:
    """Of samples drawn at random, however bad the predictions."""
    draw = np.random.default_rng(bought)
    held = []
    for _ in range(600):
        wrong = draw.random(bought + 200) < share
        signal = {"good": wrong, "none": np.full(len(wrong), 0.5), "upside down": ~wrong}[skill]
        predicted = np.clip(signal + draw.normal(0, 0.1, len(wrong)), 0, 1)
        labelled = list(zip(wrong[:bought].tolist(), predicted[:bought].tolist(), strict=True))
        found = estimate_rate(predicted[bought:].tolist(), labelled)
        held.append(found.low <= share <= found.high)
    assert np.mean(held) > 0.92


def compared(root: Path, rows: list[tuple[str, str, float]], not_bought: int | None = 10) -> Run:
    """A run of s0 to s9 (cat, dog, owl in turn) with a re-weighting: (sample_id, clean label, prob) rows."""
    run = make_run(root / "run")
    folder = run.path("reweight/mine")
    folder.mkdir(parents=True)
    with (folder / "cross_fit.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, CROSS_FIT.columns, restval="")
        writer.writeheader()
        for sample_id, clean, prob in rows:
            given = ("cat", "dog", "owl")[int(sample_id[1:]) % 3]
            cells = {"sample_id": sample_id, "given_label": given, "clean_label": clean}
            writer.writerow({**cells, "fold": 1, "method_given_prob": prob, "baseline_given_prob": 0.5})
    comparison: Json = None if not_bought is None else {"not_bought": not_bought}
    write_record(folder, StageKey({}, {}), {"result": {"comparison": comparison, "dead": ""}})
    return run


BOUGHT = [("s0", "cat", 0.9), ("s1", "cat", 0.2), ("s2", "owl", 0.7), ("s3", "dog", 0.4), ("s4", "dog", 1.0)]


def test_the_rows_of_a_comparison(tmp_path: Path) -> None:
    run = compared(tmp_path, [*BOUGHT, ("s5", "", 0.8), ("s6", "", 0.6)], not_bought=100)
    wrong = [False, True, False, True, False]
    labelled = [(each, 1 - prob) for each, (_, _, prob) in zip(wrong, BOUGHT, strict=True)]
    rate = estimate_rate([1 - 0.8, 1 - 0.6], labelled)
    found = wrong_labels(run, "mine", rounds(run))
    assert found is not None
    assert (found.not_bought, found.labels, found.control) == (100, 5, False)
    assert found.estimate == pytest.approx(100 * rate.estimate) == pytest.approx(34)
    assert found.low == pytest.approx(max(0, 100 * rate.low))
    assert found.high == pytest.approx(100 * rate.high)
    assert "about 34 (95 % interval 0 to " in found.sentence()
    assert "5 bought labels, not drawn at random" in found.sentence()


def test_it_is_from_the_control_samples_where_there_are_enough(tmp_path: Path) -> None:
    run = compared(tmp_path, [*BOUGHT, ("s5", "", 0.8), ("s6", "", 0.6)])
    add_round(run, 1, ["s0", "s1", "s2", "s3", "s4"], control=["s0", "s1", "s2", "s3"])
    found = wrong_labels(run, "mine", rounds(run))
    assert found is not None
    assert (found.labels, found.control) == (4, True)
    labelled = [(False, 0.1), (True, 0.8), (False, 0.3), (True, 0.6)]
    assert found.estimate == pytest.approx(10 * estimate_rate([0.2, 0.4], labelled).estimate)
    assert "4 control samples, drawn at random" in found.sentence()


def test_too_few_control_samples_are_not_enough(tmp_path: Path) -> None:
    run = compared(tmp_path, [*BOUGHT, ("s5", "", 0.8), ("s6", "", 0.6)])
    add_round(run, 1, ["s0", "s1", "s2", "s3", "s4"], control=["s0", "s1", "s2"])
    found = wrong_labels(run, "mine", rounds(run))
    assert found is not None
    assert (found.labels, found.control) == (5, False)


def test_the_number_lies_between_none_and_all(tmp_path: Path) -> None:
    wrong = [(f"s{i}", "owl" if i % 3 == 0 else "cat", 0.9) for i in range(8)]
    found = wrong_labels(compared(tmp_path, [*wrong, ("s8", "", 0.1), ("s9", "", 0.2)]), "mine", ())
    assert found is not None
    assert 0 <= found.low <= found.estimate == found.high == 10


def test_without_a_comparison_there_is_no_estimate(tmp_path: Path) -> None:
    assert wrong_labels(compared(tmp_path, [], not_bought=None), "mine", ()) is None


def test_the_sentence() -> None:
    assert WrongLabels(1417, 559.6, 410.2, 700, 20, False).sentence() == (
        "Wrong labels among the 1417 that were not bought: about 560 (95 % interval 410 to 700), "
        "from 20 bought labels, not drawn at random."
    )
