"""Which model to take: by a test set, and by the comparisons that re-weightings end with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import EVALUATE, metaselect

from metaselect.run.files import write_json
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.stages.evaluate.candidates import Candidate, ModelPredictions
from metaselect.stages.evaluate.choice import Judged, against_baseline, choose
from metaselect.stages.model_choice import ModelChoice, choose_by_comparisons, chosen_on_test_set

N = 1000


def judged(name: str, right: int, *, method: str = "", dead: str = "", oracle: bool = False) -> Judged:
    """A model that gets the first ``right`` of the test samples; "warmup" is the warm-up."""
    table = "" if name == "warmup" else "weights.parquet"
    predictions = ModelPredictions(np.zeros(N, np.int64), np.ones(N), None)
    candidate = Candidate(name, f"{name}.safetensors", "", table, "", method or name, dead, oracle)
    return Judged(candidate, predictions, np.arange(N) < right)


def taken(*models: Judged) -> ModelChoice:
    return choose(models)


WARM, UNIFORM = judged("warmup", 800), judged("uniform", 820)


@pytest.mark.parametrize(
    ("models", "name", "words"),
    [
        ([WARM], "warmup", "no method was run"),
        ([WARM, UNIFORM], "uniform", "no method was run"),
        ([judged("warmup", 830), UNIFORM], "warmup", "no method was run"),
        ([WARM, judged("direct", 850)], "direct", "direct is better than the warm-up by 5 points"),
        ([WARM, UNIFORM, judged("direct", 850)], "direct", "direct is better than uniform by 3 points"),
        (
            [WARM, UNIFORM, judged("direct", 822)],
            "uniform",
            "plain training is enough: direct is not clearly",
        ),
        ([WARM, UNIFORM, judged("direct", 700)], "uniform", "plain training is enough: direct is worse"),
        ([judged("warmup", 840), UNIFORM, judged("direct", 841)], "warmup", "plain training is enough"),
        ([WARM, UNIFORM, judged("direct", 900, dead="dead")], "uniform", "no method was run"),
        ([WARM, UNIFORM, judged("weighted", 900, oracle=True)], "uniform", "no method was run"),
        ([WARM, judged("uniform", 900, dead="dead"), judged("direct", 790)], "warmup", "the warm-up"),
        ([WARM, UNIFORM, judged("direct", 900), judged("auto", 900)], "auto", "auto is better"),
        ([WARM, UNIFORM, judged("auto", 880), judged("direct", 900)], "direct", "direct is better"),
        ([WARM, judged("plain", 820, method="uniform"), judged("direct", 821)], "plain", "than plain"),
    ],
)
def test_the_model_to_take_by_a_test_set(models: Sequence[Judged], name: str, words: str) -> None:
    found = taken(*models)
    assert found.model == name
    assert words in found.why
    assert found.path == f"{name}.safetensors"
    assert found.sentence("run").startswith(f"Model to take: {name} (run/{name}.safetensors); ")


def test_every_other_reweighting_is_compared_with_the_baseline() -> None:
    found = against_baseline([WARM, judged("direct", 700), UNIFORM, judged("elr", 830)])
    assert found.keys() == {"direct", "elr"}
    assert found["direct"].difference == pytest.approx(-0.12)
    assert found["direct"].high < 0 < found["elr"].low
    assert against_baseline([WARM, judged("direct", 700)]) == {}


def difference(accuracy: float, error: float = 0.03) -> dict[str, Any]:
    return {"accuracy": {"difference": accuracy, "standard_error": error}}


def run_with(root: Path, **methods: tuple[float, float] | None) -> Run:
    """A run with re-weightings: accuracy above the baseline and above the warm-up; None: no comparison."""
    run = Run(root / "run")
    run.path("warmup").mkdir(parents=True)
    write_json(run.path("warmup/model.json"), {"checkpoints": [2, 5]})
    write_record(run.path("warmup"), StageKey({}, {}), {})
    for name, accuracy in methods.items():
        folder = run.path(f"reweight/{name}")
        folder.mkdir(parents=True)
        comparison: Any = None
        if accuracy is not None:
            baseline = None if name == "uniform" else difference(accuracy[0])
            against = {"against_baseline": baseline, "against_warmup": difference(accuracy[1])}
            comparison = {**against, "sentence": f"{name} is compared."}
        write_record(
            folder, StageKey({"method": name}, {}), {"result": {"comparison": comparison, "dead": ""}}
        )
    return run


ABOVE, NOT = (0.05, 0.05), (0.02, 0.02)


@pytest.mark.parametrize(
    ("methods", "name"),
    [
        ({}, "warmup"),
        ({"uniform": (0.0, 0.1)}, "uniform"),
        ({"uniform": None}, "uniform"),
        ({"direct": ABOVE}, "direct"),
        ({"direct": NOT}, "warmup"),
        ({"direct": (0.0, 0.05)}, "direct"),  # above the warm-up, without a baseline in the run
        ({"direct": (0.0, 0.05), "uniform": ABOVE}, "uniform"),
        ({"direct": ABOVE, "uniform": None}, "direct"),
        ({"direct": ABOVE, "elr": (0.06, 0.06), "uniform": None}, "elr"),
        ({"direct": ABOVE, "auto": ABOVE, "elr": ABOVE}, "auto"),
        ({"direct": None}, "warmup"),
    ],
)
def test_the_model_to_take_by_the_comparisons(
    tmp_path: Path, methods: dict[str, tuple[float, float] | None], name: str
) -> None:
    run = run_with(tmp_path, **methods)
    found = choose_by_comparisons(run, {"warmup", *(f"reweight/{each}" for each in methods)})
    assert found is not None
    assert found.model == name
    files = {"warmup": "warmup/checkpoints/epoch-0005.safetensors"}
    assert found.path == files.get(name, f"reweight/{name}/model.safetensors")


def evaluated(run: Run, **sets: tuple[str, int]) -> None:
    """Finished evaluations: the model that each chose, and the number of its test samples."""
    for name, (model, count) in sets.items():
        folder = run.path(f"evaluate/{name}")
        folder.mkdir(parents=True)
        take: Any = {"model": model, "path": f"{model}.safetensors", "why": "it is better"}
        write_json(folder / "metrics.json", {"take": take, "test_samples": count})
        write_record(folder, StageKey({}, {}), {})


@pytest.mark.parametrize(
    ("sets", "usable", "model", "words"),
    [
        ({}, {"warmup"}, "", ""),
        (
            {"a": ("auto", 9)},
            {"evaluate/a", "reweight/auto"},
            "auto",
            "by the 9 samples of evaluate/a: it is",
        ),
        ({"a": ("warmup", 9)}, {"evaluate/a", "warmup"}, "warmup", "evaluate/a"),
        ({"a": ("auto", 9)}, {"reweight/auto"}, "", ""),  # the evaluation is out of date
        ({"a": ("auto", 9)}, {"evaluate/a"}, "", ""),  # its model is
        (
            {"a": ("auto", 9), "b": ("uniform", 2000), "c": ("auto", 10)},
            {"evaluate/a", "evaluate/b", "evaluate/c", "reweight/auto", "reweight/uniform"},
            "uniform",
            "by the 2,000 samples of evaluate/b",
        ),
    ],
)
def test_the_largest_test_set_chooses(
    tmp_path: Path, sets: dict[str, tuple[str, int]], usable: set[str], model: str, words: str
) -> None:
    run = run_with(tmp_path, auto=ABOVE, uniform=None)
    evaluated(run, **sets)
    found = chosen_on_test_set(run, usable)
    assert (found.model if found else "") == model
    assert words in (found.why if found else "")


def test_status_and_evaluate_name_one_model(finished: Path) -> None:
    shown = metaselect("status", "--json", run=finished).json["take"]
    metrics = json.loads((finished / "evaluate/test/metrics.json").read_text())
    assert shown["model"] == metrics["take"]["model"]
    assert (
        shown["why"]
        == f"by the {metrics['test_samples']:,} samples of evaluate/test: {metrics['take']['why']}"
    )
    shutil.rmtree(finished / "evaluate")
    shown = metaselect("status", "--json", run=finished).json["take"]
    assert shown["why"] == "no method is better than uniform by more than a standard error"


def test_what_is_not_usable_is_not_taken(tmp_path: Path) -> None:
    run = run_with(tmp_path, direct=ABOVE, uniform=None)
    chosen = choose_by_comparisons(run, {"warmup", "reweight/uniform"})
    assert chosen is not None
    assert (chosen.model, chosen.why) == ("uniform", "no other training is up to date and of use")
    chosen = choose_by_comparisons(run, {"warmup", "reweight/uniform", "reweight/direct"})
    assert chosen is not None
    assert (
        chosen.why
        == "+5.0 points to uniform on bought labels that it did not see, where a standard error is 3.0"
    )
    assert choose_by_comparisons(run, set()) is None


def test_a_dead_run_is_shown_as_dead_and_never_taken(finished: Path) -> None:
    path = finished / "reweight/auto/stage.json"
    record = json.loads(path.read_text())
    record["details"]["result"]["dead"] = "The run is dead: made up."
    record["details"]["result"]["comparison"]["against_baseline"] = difference(0.9)
    path.write_text(json.dumps(record))
    shown = metaselect("status", "--json", run=finished).json
    rows = {row["stage"]: (row["state"], row["why"]) for row in shown["stages"]}
    assert rows["reweight/auto"] == ("dead", "The run is dead: made up.")
    assert shown["take"]["model"] == "uniform"
    shown = metaselect(*EVALUATE, "--name", "again", "--json", run=finished)
    assert shown.json["reweight"]["auto"]["dead"] == "The run is dead: made up."
    assert shown.json["take"]["model"] != "auto"
    assert "reweight/auto is evaluated as it is, but dead: The run is dead: made up." in shown.err
