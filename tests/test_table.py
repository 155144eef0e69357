"""The benchmark's table: a second call runs nothing, and its summary says what the rows say."""

import csv
import subprocess
import sys
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_line import environment, metaselect

from metaselect.errors import ArtefactError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def table_summary(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module; others of the benchmarks can be imported too."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import table_summary

    yield table_summary
    for name in ("table_summary", "cells", "settings", "common"):
        sys.modules.pop(name, None)


def row(table_summary: ModuleType, method: str, seed: int, accuracy: float, **other: Any) -> Any:
    values = {
        **{"data": "digits", "noise": "uniform-40", "budget": 20, "selector": "rbc"},
        **{"method": method, "seed": seed, "accuracy": accuracy, "balanced_accuracy": accuracy - 0.1},
        **{"warmup_accuracy": 0.5, "noise_rate": 0.4, "weight_auc": None, "rank_auc": 0.75, "seconds": 2.0},
        **{"exit_code": 0, "verdict": "", "take": "uniform", "pool": 1437, "test_samples": 1000},
    }
    return table_summary.Row(**{**values, **other})


def cell(table_summary: ModuleType, **accuracies: tuple[float, ...]) -> list[Any]:
    return [
        row(table_summary, method, seed, accuracy)
        for method, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]


def table(tmp_path: Path, *words: object) -> str:
    command = [sys.executable, BENCHMARKS / "table.py", "--table", tmp_path / "table.csv", *words]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_second_call_runs_nothing(tmp_path: Path) -> None:
    choice = (
        "--data",
        "wine",
        "--noise",
        "uniform-40",
        "flip2-40",
        "--methods",
        "uniform",
        "--only",
        "uniform-40",
    )
    words = [*choice, "--budgets", 20, 200, "--seeds", 3, "--work", tmp_path / "work"]
    assert table(tmp_path, *words).startswith("1 cells, 0 of them in")
    written = (tmp_path / "table.csv").read_bytes()
    with (tmp_path / "table.csv").open(newline="") as stream:
        (found,) = csv.DictReader(stream)
    assert (found["data"], found["noise"], found["budget"], found["seed"]) == (
        "wine",
        "uniform-40",
        "20",
        "3",
    )
    assert float(found["noise_rate"]) == pytest.approx(round(0.4 * 142) / 142, abs=1e-6)
    assert found["take"] in ("warmup", "uniform")
    assert (found["pool"], found["test_samples"]) == ("142", "36")
    assert float(found["accuracy"]) * 36 == pytest.approx(round(float(found["accuracy"]) * 36), abs=1e-3)
    # The runs of a purchase share the warm-up's files by hard links, which no stage may have changed.
    assert metaselect("verify", run=tmp_path / "work/wine/seed-3/uniform-40/warmup").code == 0
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    assert table(tmp_path, *words).startswith("1 cells, 1 of them in")
    assert (tmp_path / "table.csv").read_bytes() == written
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_again_trains_the_chosen_cells_alone(tmp_path: Path) -> None:
    choice = ("--noise", "none", "--budgets", 20, "--selectors", "random", "--methods", "uniform")
    words = ("--data", "wine", *choice, "--work", tmp_path)
    table(tmp_path, *words, "--seeds", 0, 1)
    model = "reweight/uniform/model.safetensors"
    runs = [tmp_path / f"wine/seed-{seed}/none/random-20" for seed in (0, 1)]
    before = [(run / model).stat().st_mtime_ns for run in runs]
    contents = (runs[1] / model).read_bytes()
    written = (tmp_path / "table.csv").read_text()
    table(tmp_path, *words, "--seeds", 1, "--again")
    after = [(run / model).stat().st_mtime_ns for run in runs]
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert (runs[1] / model).read_bytes() == contents
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[:2] == written.splitlines()[:2]


def test_mean_spread_and_paired_difference(table_summary: ModuleType) -> None:
    rows = cell(table_summary, uniform=(0.80, 0.90, 0.85), direct=(0.86, 0.90, 0.88))
    assert table_summary.spread([0.80, 0.90, 0.85]) == pytest.approx((0.85, 0.05))
    methods = table_summary.by_method(rows)
    gain = table_summary.difference(methods["direct"], methods["uniform"], "accuracy")
    assert gain == pytest.approx((0.03, 0.03))  # of .06, 0 and .03
    line = table_summary.summary(rows, "accuracy", "uniform").splitlines()[2]
    assert line == (
        "| digits | uniform-40 | 40.0 | 20 | rbc | 3 | 50.0 ± 0.0 | 85.0 ± 5.0 | 88.0 ± 2.0 (+3.0 ± 3.0) |"
    )


def test_a_difference_is_over_the_seeds_of_both(table_summary: ModuleType) -> None:
    rows = cell(table_summary, uniform=(0.80, 0.90), direct=(0.86, 0.90, 0.10))
    methods = table_summary.by_method(rows)
    gain = table_summary.difference(methods["direct"], methods["uniform"], "accuracy")
    assert gain == pytest.approx((0.03, 0.06 / sqrt(2)))
    one = table_summary.difference({0: methods["direct"][0]}, methods["uniform"], "accuracy")
    assert one.mean == pytest.approx(0.06)
    assert one.deviation is None
    assert table_summary.difference({7: rows[0]}, methods["uniform"], "accuracy") is None


@pytest.mark.parametrize(("test_samples", "allowed"), [(499, 0.01), (500, 0.005)])
def test_a_method_below_the_control_is_named(
    table_summary: ModuleType, test_samples: int, allowed: float
) -> None:
    for lost, named in ((allowed - 1e-4, False), (allowed + 1e-4, True)):
        rows = cell(table_summary, uniform=(0.8, 0.9), direct=(0.8 - lost, 0.9 - lost))
        rows = [each._replace(test_samples=test_samples) for each in rows]
        found = table_summary.complaints(rows, "uniform")
        assert found == ([f"direct is {100 * lost:.1f} points below uniform"] if named else [])


def test_auto_below_the_best_other_method_is_named(table_summary: ModuleType) -> None:
    """Means .84 and .90; standard deviations .02 and .06, of which the root of the mean square is .0447."""
    low = {"auto": (0.82, 0.84, 0.86), "uniform": (0.5, 0.5, 0.5)}
    found = table_summary.complaints(cell(table_summary, **low, direct=(0.84, 0.90, 0.96)), "uniform")
    assert found == ["auto is 6.0 points below direct; one standard deviation is 4.5"]
    assert not table_summary.complaints(cell(table_summary, **low, direct=(0.82, 0.88, 0.94)), "uniform")


def test_auto_should_gain_by_more_than_the_spread_where_a_fifth_is_wrong(table_summary: ModuleType) -> None:
    rows = cell(table_summary, uniform=(0.80, 0.82), auto=(0.81, 0.86))  # gains .01 and .04: .025 ± .021
    assert not table_summary.complaints(rows, "uniform")
    rows = cell(table_summary, uniform=(0.80, 0.82), auto=(0.80, 0.86))  # gains 0 and .04: .02 ± .028
    sentence = "auto is not above uniform by more than the spread of the difference"
    assert table_summary.complaints(rows, "uniform") == [sentence]
    few_wrong = [each._replace(noise_rate=0.19) for each in rows]
    assert not table_summary.complaints(few_wrong, "uniform")


def test_failed_trainings_and_missing_values_are_shown(table_summary: ModuleType) -> None:
    rows = cell(table_summary, uniform=(0.8,), direct=(0.9,))
    rows[1] = rows[1]._replace(exit_code=1, weight_auc=0.625)
    text = table_summary.summary(rows, "weight_auc", "uniform").splitlines()
    assert text[2].endswith("| - | - | 0.625 |")
    assert text[-1] == "- digits, uniform-40, 20 by rbc: the training failed: direct, seed 0."


def test_rows_come_back_from_the_csv_as_they_were(table_summary: ModuleType, tmp_path: Path) -> None:
    """Sorted by data, noise and the rest of the cell's name; the last row of a cell stands."""
    import cells

    rows = [row(table_summary, "direct", seed, 0.875, weight_auc=0.5) for seed in (2, 1)]
    rows += [row(table_summary, "uniform", 0, 0.25, noise="none"), rows[0]._replace(accuracy=0.5)]
    path = tmp_path / "table.csv"
    assert cells.read_table(table_summary.Row, path) == []
    cells.write_table(table_summary.Row, rows, path)
    assert cells.read_table(table_summary.Row, path) == [rows[2], rows[1], rows[3]]
    path.write_text(path.read_text().replace(",20,", ",x,"))
    with pytest.raises(ArtefactError, match="damaged"):
        cells.read_table(table_summary.Row, path)
