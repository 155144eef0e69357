"""What `evaluate` prints: against its JSON, in 80 columns, with a sentence for every difference."""

import re
from pathlib import Path
from typing import Any

import pytest
from command_line import EVALUATE, TEST, UNIFORM, metaselect

from metaselect.cli.console import Console
from metaselect.cli.evaluate.tables import print_evaluation

BORDER = re.compile(r"^[┃│┏┡├└┗]")


def tables(out: str) -> list[list[list[str]]]:
    """The cells of every row of every table, the header left out."""
    found: list[list[list[str]]] = []
    for line in out.splitlines():
        if line.startswith("┏"):
            found.append([])
        if line.startswith("│"):
            found[-1].append([cell.strip() for cell in line.strip("│").split("│")])
    return found


def test_the_tables_are_those_of_the_json(finished: Path) -> None:
    metaselect(*UNIFORM, "--name", "fourteen-signs", run=finished)
    result = metaselect(*EVALUATE, "--json", run=finished).json
    said = metaselect(*EVALUATE, run=finished)
    assert max(len(line) for line in said.out.splitlines() if BORDER.match(line)) <= 80
    scores, classes, rankings = tables(said.out)
    models = {"warmup": result["warmup"], **result["reweight"]}
    assert [row[0] for row in scores] == list(models)
    columns = {
        1: ("test_accuracy", "{:.2%}", max),
        3: ("balanced_accuracy", "{:.2%}", max),
        4: ("macro_f1", "{:.3f}", max),
        5: ("log_loss", "{:.3f}", min),
        6: ("calibration_error", "{:.3f}", min),
    }
    for place, (key, form, choose) in columns.items():
        values = [metrics[key] for metrics in models.values()]
        marks = ["*" * (value == choose(values)) for value in values]
        assert [row[place] for row in scores] == [
            mark + form.format(value) for mark, value in zip(marks, values, strict=True)
        ]
    for row, metrics in zip(scores, models.values(), strict=True):
        low, high = (f"{100 * metrics[f'test_accuracy_{end}']:.1f}" for end in ("low", "high"))
        assert row[2] == f"{low}-{high}"
    taken = models[result["take"]["model"]]
    assert [row[0] for row in classes] == [row["label"] for row in taken["worst_classes"]]
    worst = taken["worst_classes"][0]
    assert f"is {worst['label']}: {worst['right']} of {worst['support']} samples right." in said.out
    assert {"warmup", "auto", "warmup: probs", "warmup: neighbours"} <= {row[0] for row in rankings}
    best = max(metrics["rank_auc"] for metrics in models.values())
    assert f"*{best:.4f}" in [row[2] for row in rankings]
    correct = result["correct_labels"]
    assert f"{correct['given']} as given, {correct['right']} with the 20 bought ones in place" in said.out
    assert said.err.rstrip().endswith(f"Next: metaselect select --round next --budget N --run {finished}")


def test_where_there_is_no_baseline_the_warmup_is_what_a_method_is_compared_with(bought: Path) -> None:
    metaselect("reweight", "--method", "gce", "--epochs", 1, run=bought)
    done = metaselect("evaluate", TEST, run=bought)
    assert re.search(r"^gce is .* the warm-up.* points \(95 % interval", done.out, re.MULTILINE)
    assert f"Next: metaselect reweight --method uniform --run {bought}" in done.err
    assert "ranking" not in done.out


def test_without_a_test_set_what_is_not_known_is_a_dash(finished: Path) -> None:
    scores, *_ = tables(metaselect("evaluate", run=finished).out)
    for row in scores:
        assert (row[6] == "-") == (row[0] != "warmup")
        assert float(row[5].strip("*")) > 0


def scored(accuracy: float | None, difference: tuple[float, float, float] | None) -> dict[str, Any]:
    """A re-weighting in the result of the stage; with its difference to the baseline and the limits of that."""
    found = difference and dict(zip(("difference", "low", "high"), difference, strict=True))
    keys = ("test_accuracy_low", "test_accuracy_high", "balanced_accuracy", "macro_f1", "log_loss")
    return {
        **dict.fromkeys(keys, accuracy),
        "test_accuracy": accuracy,
        "against_baseline": found and {"standard_error": 0.01, **found},
        "wrong_labels": None,
    }


def test_wins_losses_and_undecided_differences_are_all_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a result without the keys that earlier evaluations lack, too."""
    models = {
        "wins": scored(0.9, (0.041, 0.032, 0.05)),
        "loses": scored(0.8, (-0.041, -0.05, -0.032)),
        "open": scored(0.9, (0.01, -0.02, 0.04)),
        "absent": scored(None, None),
        "uniform": scored(0.86, None),
    }
    result = {"run": "RUN", "test": "test", "test_samples": 10, "classes": ["a"], "take": None}
    print_evaluation(Console(), {**result, "warmup": scored(0.7, None), "reweight": models})
    out = capsys.readouterr().out
    assert "wins is better than uniform by 4.1 points (95 % interval 3.2 to 5)." in out
    assert "loses is worse than uniform by 4.1 points (95 % interval -5 to -3.2)." in out
    assert "open is not clearly better or worse than uniform, +1 points (95 % interval -2 to 4)." in out
    assert "absent is" not in out
    ((*_, wins, _, opened, absent, _),) = tables(out)
    assert (wins[1], opened[1], absent[1]) == ("*90.00%", "*90.00%", "-")  # equal ones are both the best
    assert "* the best of its column" in out


def test_one_model_is_not_called_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "run": "RUN",
        "test": "test",
        "test_samples": 10,
        "classes": ["a"],
        "take": None,
        "reweight": {},
    }
    print_evaluation(Console(), {**result, "warmup": scored(0.7, None)})
    assert "*" not in capsys.readouterr().out
