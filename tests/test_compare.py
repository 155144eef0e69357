"""`metaselect compare`: rows, groups by seed, paired differences, the figure, and what cannot be compared."""

import csv
import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from command_line import BUDGET, TEST, UNIFORM, flip_byte, metaselect, run_process
from scipy.stats import ttest_rel
from test_json_keys import check

from metaselect.report.comparison import COLUMNS, Row, csv_rows, grouped, repeated_seeds
from metaselect.report.comparison_figure import comparison_svg

HOSTILE = 'a<b>&"c"|\n$x^{2$ \\frac ::error'


def row(
    method: str, seed: int, accuracy: float | None, *, bought: int = 20, selector: str = "k-means"
) -> Row:
    """A row of the group that method, selector and labels make."""
    return Row(
        run=f"run-{seed}",
        test="test",
        model=method,
        role="taken",
        method=method,
        selector=selector,
        bought=bought,
        seed=str(seed),
        accuracy=accuracy,
        low=None if accuracy is None else accuracy - 0.01,
        high=None if accuracy is None else accuracy + 0.01,
        balanced_accuracy=accuracy,
        to_control=None,
        settings=json.dumps([method, bought, selector]),
    )


def random_rows(seed: int) -> list[Row]:
    """Three methods, each on some of six seeds, in any order."""
    chance = random.Random(seed)
    rows = [
        row(method, number, chance.random())
        for method in ("auto", "uniform", "gce")
        for number in chance.sample(range(6), chance.randint(1, 6))
    ]
    chance.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_what_their_definitions_say(seed: int) -> None:
    """Mean and deviation by the statistics module; the interval of the difference by SciPy's paired t-test."""
    rows, groups = grouped(random_rows(seed))
    values = {(each.method, each.seed): each.accuracy or 0.0 for each in rows}
    first = rows[0].method
    for group in groups:
        own = [value for (method, _), value in values.items() if method == group.method]
        assert group.n == len(own)
        assert group.mean == pytest.approx(mean(own))
        assert group.standard_deviation == (pytest.approx(stdev(own)) if len(own) > 1 else None)
        both = [
            (value, values[first, number])
            for (method, number), value in values.items()
            if method == group.method != first and (first, number) in values
        ]
        assert group.pairs == len(both)
        if len(both) < 2:
            assert group.to_first is None
            continue
        assert group.to_first
        test = ttest_rel(*zip(*both, strict=True))
        interval = test.confidence_interval(0.95)
        assert group.to_first.difference == pytest.approx(mean(one - other for one, other in both))
        assert group.to_first[2:] == pytest.approx((interval.low, interval.high))
    assert [each.accuracy for each in rows if each.best] == [max(values.values())]
    assert [each.mean for each in groups if each.best] == [max(each.mean or 0 for each in groups)]


def test_a_group_does_not_depend_on_the_order_of_its_rows() -> None:
    rows = random_rows(3)
    others = [rows[0], *reversed(rows[1:])]
    found = [{each.method: replace(each, number=0) for each in grouped(some)[1]} for some in (rows, others)]
    assert found[0].keys() == found[1].keys()
    for name, group in found[0].items():
        assert group.mean == pytest.approx(found[1][name].mean)
        assert group.to_first == pytest.approx(found[1][name].to_first)


def test_a_seed_counts_once_and_a_model_without_accuracy_never() -> None:
    rows, groups = grouped(
        [row("auto", 1, 0.5), row("auto", 1, 0.9), row("auto", 2, 0.7), row("auto", 3, None)]
    )
    assert [group.n for group in groups] == [2]
    assert groups[0].mean == pytest.approx(0.6)
    assert repeated_seeds(rows) == [(rows[0], rows[1])]
    nothing, groups = grouped([row("auto", 1, None)])
    assert not nothing[0].best
    assert (groups[0].n, groups[0].mean, groups[0].best) == (0, None, False)
    assert "</svg>" in comparison_svg(nothing, groups)


def texts(svg: str) -> list[str]:
    """All texts of the figure."""
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_figure_is_the_same_each_time_and_shows_names_as_they_are() -> None:
    rows, groups = grouped(
        [
            *(row(HOSTILE, seed, 0.5 + seed / 10, bought=bought) for bought in (10, 20) for seed in (1, 2)),
            row("uniform", 1, 0.4, selector=HOSTILE),
        ]
    )
    svg = comparison_svg(rows, groups)
    assert comparison_svg(rows, groups) == svg
    assert "dc:date" not in svg
    shown = 'a<b>&"c"|\\n$x^{2$ \\frac ::error'
    assert {f"{shown} (k-means)", f"uniform ({shown})"} <= set(texts(svg))
    assert {"labels bought", "test accuracy (%)"} <= set(texts(svg))
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert not tags & {"b", "script", "image", "a"}


def test_the_settings_of_the_user_do_not_change_the_figure(tmp_path: Path, finished: Path) -> None:
    """In processes of their own; a comparison without a figure does not import matplotlib."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 7\naxes.facecolor: red\nsvg.fonttype: path\n")
    for name, folder in (("a.svg", tmp_path), ("b.svg", finished)):
        run_process("compare", finished, "--figure", tmp_path / name, cwd=folder)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    code = "import sys; from metaselect.cli.main import main; main(sys.argv[1:]); "
    code += "assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, "compare", str(finished)], check=True, capture_output=True)


def test_cells_of_the_csv_are_no_formulas() -> None:
    rows, _ = grouped([replace(row("auto", 1, 0.5), run="=cmd()", selector="@x")])
    (cells,) = csv_rows(rows)
    named = dict(zip(COLUMNS, cells, strict=True))
    assert (named["run"], named["selector"]) == ("'=cmd()", "'@x")
    assert named["accuracy"] == 0.5
    assert named["to_control"] == ""


@pytest.fixture
def second(finished: Path, tmp_path: Path) -> Path:
    """The finished run with another seed of the re-weightings, evaluated on the same samples in another file."""
    run = Path(shutil.copytree(finished, tmp_path / "second"))
    shutil.rmtree(run / "evaluate")
    shutil.rmtree(run / "reweight/auto")
    metaselect(*UNIFORM, "--seed", 1, "--force", run=run)
    pq.write_table(pq.read_table(TEST).slice(0), tmp_path / "renamed.parquet")
    metaselect("evaluate", tmp_path / "renamed.parquet", run=run)
    return run


def test_the_rows_are_the_figures_of_the_evaluations(finished: Path, second: Path, tmp_path: Path) -> None:
    words = ("compare", finished, second, "--csv", tmp_path / "rows.csv")
    said = metaselect(*words, "--json").json
    assert check("`compare`", said) == []
    metrics = {
        str(run): json.loads((run / f"evaluate/{name}/metrics.json").read_text())
        for run, name in ((finished, "test"), (second, "renamed"))
    }
    for run, found in metrics.items():
        rows = [each for each in said["rows"] if each["run"] == run]
        assert rows[0]["model"] == found["take"]["model"]
        assert "taken" in rows[0]["role"]
        assert [each["model"] for each in rows if "control" in each["role"]] == ["uniform"]
        for each in rows:
            scores = found["warmup"] if each["model"] == "warmup" else found["reweight"][each["model"]]
            assert each["accuracy"] == scores["test_accuracy"]
            assert each["balanced_accuracy"] == scores["balanced_accuracy"]
            assert each["to_control"] == scores.get("against_baseline")
            assert each["bought"] == (0 if each["model"] == "warmup" else BUDGET)
    controls = {each["run"]: each for each in said["rows"] if "control" in each["role"]}
    first, other = controls[str(finished)], controls[str(second)]
    assert first["group"] == other["group"]
    assert (first["seed"], other["seed"]) == ("0", "0/0/1")
    (group,) = (each for each in said["groups"] if each["number"] == first["group"])
    assert group["n"] == 2
    with (tmp_path / "rows.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [float(each["accuracy"]) for each in written] == [each["accuracy"] for each in said["rows"]]
    named = metaselect("compare", finished, "--model", "auto", "--json").json["rows"]
    assert [(each["model"], each["role"]) for each in named] == [("auto", "named"), ("uniform", "control")]
    assert named[0]["to_control"]["difference"] == pytest.approx(named[0]["accuracy"] - named[1]["accuracy"])


def test_the_table_fits_80_columns_and_marks_the_best_by_a_star(finished: Path, second: Path) -> None:
    odd = finished.rename(finished.parent / "a [b]<c>|\n$x$ ::error and a name that is rather long")
    shown = metaselect("compare", odd, second, env={"COLUMNS": "200"}).out
    assert max(map(len, shown.splitlines())) <= 80
    table = shown.split("Runs that differ")[0].splitlines()
    rows = [line for line in table if re.search(r"\b(auto|uniform|warmup)\b", line)]
    accuracies = [float(match[1]) for line in rows if (match := re.search(r" (\d+\.\d)", line))]
    stars = [line.startswith("*") for line in rows]
    assert any(stars)
    assert [value == max(accuracies) for value in accuracies] == stars
    assert "".join(shown.split()).count("a[b]<c>|") >= 1
    assert not any(line.startswith("::") for line in shown.splitlines())


def test_what_cannot_be_compared(finished: Path, second: Path, tmp_path: Path) -> None:
    def refused(code: int, *words: object) -> str:
        return metaselect("compare", *words, code=code).err

    assert "does not end with .svg" in refused(2, finished, "--figure", tmp_path / "x.png")
    assert "is a folder" in refused(2, finished, "--csv", tmp_path)
    assert "named twice" in refused(2, finished, finished.parent / "." / finished.name)
    assert "no model 'x'" in refused(2, finished, second, "--model", "x")
    assert "an evaluation 'x'" in refused(4, finished, "--test", "x")
    assert "no run" in refused(4, tmp_path / "nowhere")


def test_other_samples_are_refused(finished: Path, second: Path, tmp_path: Path) -> None:
    shutil.rmtree(second / "evaluate")
    said = metaselect("compare", finished, second, code=4).err
    assert "has no evaluation" in said
    pq.write_table(pq.read_table(TEST).slice(1), tmp_path / "fewer.parquet")
    metaselect("evaluate", tmp_path / "fewer.parquet", run=second)
    assert "not evaluated on the same test samples" in metaselect("compare", finished, second, code=3).err
    metaselect("evaluate", TEST, "--name", "same", run=second)
    assert metaselect("compare", finished, second, "--json").json["rows"][-1]["test"] == "same"
    metaselect("evaluate", tmp_path / "fewer.parquet", run=finished)
    assert "--test: fewer, test" in metaselect("compare", finished, second, code=2).err
    tests = metaselect("compare", finished, second, "--test", "same", "--json").json["rows"]
    assert {each["test"] for each in tests} == {"test", "same"}
    metaselect("evaluate", run=finished)  # on bought labels, which is no common test set
    metaselect("compare", finished, second, "--test", "bought.labels", code=3)
    flip_byte(second / "evaluate/same/metrics.json")
    assert "damaged" in metaselect("compare", finished, second, code=4).err


def test_a_copy_is_no_repetition(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    done = metaselect("compare", finished, copy, "--json")
    assert "it is no repetition" in done.err
    assert {group["n"] for group in done.json["groups"]} == {1}
