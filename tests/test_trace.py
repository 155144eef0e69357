"""`reweight --trace` and `explain` through the command line: their files, their rules, and what they refuse."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from annotation_run import make_run
from command_line import flip_byte, metaselect, run_process, seen, states
from data_makers import stage_bytes
from safetensors.torch import load_file
from test_json_keys import check
from torch.nn import functional as F

from metaselect.cli.console import Console
from metaselect.cli.explain import _print_labels
from metaselect.models.convnet import ConvNet
from metaselect.models.head import head_of
from metaselect.registry import REWEIGHTERS, TRACED, load
from metaselect.reweighting.base import MethodRun
from metaselect.reweighting.direct import move_weights
from metaselect.reweighting.l2rw import rectify_and_normalise
from metaselect.run.layout import Run
from metaselect.stages.reweight import trace as module
from metaselect.stages.reweight import training
from metaselect.stages.reweight.trace import evenly_spread
from metaselect.training.checkpoint import save_state

EPOCHS = 4
SHORT = ("--epochs", EPOCHS, "--folds", 0)
METHODS = ("l2rw", "direct", "auto")


@pytest.fixture(scope="module")
def traced(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with traces of three methods; read only."""
    run = Path(shutil.copytree(finished_once / "run", tmp_path_factory.mktemp("traced") / "run"))
    shutil.rmtree(run / "evaluate")
    for method in METHODS:
        metaselect("reweight", "--method", method, *SHORT, "--trace", "--force", run=run)
    return run


def products_of(run: Path, name: str, epoch: int) -> np.ndarray:
    """(n, m) float64."""
    table = pq.read_table(run / f"reweight/{name}/trace-epoch-{epoch:04d}.parquet")
    scaled = np.array(table["products"].to_pylist(), np.float64)
    products: np.ndarray = scaled * table["scale"].to_numpy()[:, None]
    return products


def weights_of(run: Path, name: str) -> dict[str, Any]:
    columns: dict[str, Any] = pq.read_table(run / f"reweight/{name}/weights.parquet").to_pydict()
    return {key: np.array(values) for key, values in columns.items()}


def explained(run: Path, name: str, sample_id: str, top: int = 100) -> Any:
    return metaselect("explain", sample_id, "--name", name, "--top", top, "--json", run=run).json["trace"]


def some_samples(run: Path, name: str) -> Iterator[tuple[int, str]]:
    """Place and id of samples that were not bought."""
    table = weights_of(run, name)
    for place in np.flatnonzero(~table["bought"])[::40].tolist():
        yield place, str(table["sample_id"][place])


@pytest.mark.parametrize("method", ["l2rw", "direct", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_trace_changes_no_other_file(traced: Path, tmp_path: Path, method: str) -> None:
    run = Path(shutil.copytree(traced, tmp_path / "run"))
    metaselect("reweight", "--method", method, *SHORT, "--force", run=run)
    with_trace, without = (stage_bytes(root / "reweight" / method) for root in (traced, run))
    extra = set(with_trace) - set(without)
    epochs = [] if method == "auto" else [f"trace-epoch-000{epoch}.parquet" for epoch in range(1, EPOCHS + 1)]
    assert extra == ({"trace.parquet"} if method == "auto" else set(epochs))
    assert {name: with_trace[name] for name in without} == without


def test_products_are_those_of_the_model_by_autograd(traced: Path) -> None:
    folder = traced / "reweight/l2rw"
    model = ConvNet((1, 8, 8), 10)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    described = load_described(folder)
    pixels = torch.from_numpy(np.load(traced / "data/pixels.npy")).float() / 255
    inputs = (pixels - described["mean"][0]) / described["std"][0]
    table, issues = weights_of(traced, "l2rw"), pq.read_table(folder / "issues.parquet").to_pydict()
    names = np.where(table["bought"], np.array(issues["bought_label"]), table["given_label"])
    labels = torch.tensor([int(name) for name in names])
    bought = np.flatnonzero(table["bought"])
    places = [*range(0, len(labels), 29), *bought.tolist()]
    head = [*head_of(model.eval()).parameters()]
    gradients = []
    for place in places:
        loss = F.cross_entropy(model(inputs[[place]]), labels[[place]])
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, head)]))
    rows = torch.stack(gradients).double()
    expected = (rows @ rows[-len(bought) :].T).numpy()
    found = products_of(traced, "l2rw", EPOCHS)[places]
    assert np.abs(expected).max() > 0.1
    scale = np.abs(expected).max(1, keepdims=True)
    assert (np.abs(found - expected) / scale).max() < 1e-3  # of half precision


def load_described(folder: Path) -> Any:
    return json.loads((folder / "model.json").read_text())["preprocess"]


def test_shares_are_those_of_the_products(traced: Path) -> None:
    products = np.stack([products_of(traced, "l2rw", epoch) for epoch in range(1, EPOCHS + 1)])
    table = weights_of(traced, "l2rw")
    ids = table["sample_id"][table["bought"]].tolist()
    for place, sample_id in some_samples(traced, "l2rw"):
        trace = explained(traced, "l2rw", sample_id)
        shares = products[:, place] / np.abs(products[:, place]).sum()
        push = shares.sum(0)
        assert trace["epochs"] == [1, 2, 3, 4]
        assert trace["up"] == pytest.approx(push.clip(0).sum(), abs=1e-4)
        assert trace["down"] == pytest.approx(-push.clip(max=0).sum(), abs=1e-4)
        assert len(trace["labels"]) == np.count_nonzero(push)
        for label in trace["labels"]:
            own = ids.index(label["sample_id"])
            assert label["push"] == pytest.approx(push[own], abs=1e-4)
            assert label["by_epoch"] == pytest.approx(shares[:, own].tolist(), abs=1e-4)
            assert label["net_without"] == pytest.approx(push.sum() - push[own], abs=1e-4)
        order = [label["push"] for label in trace["labels"]]
        up = [value for value in order if value > 0]
        assert up == sorted(up, reverse=True)
        assert order[len(up) :] == sorted(order[len(up) :])
        few = explained(traced, "l2rw", sample_id, top=2)["labels"]
        assert few == trace["labels"][:2] + trace["labels"][len(up) : len(up) + 2]


def test_the_weight_without_a_label_follows_the_rule_of_l2rw(traced: Path) -> None:
    table = weights_of(traced, "l2rw")
    ids, pool = table["sample_id"][table["bought"]].tolist(), ~table["bought"]
    last = [torch.from_numpy(products_of(traced, "l2rw", epoch)) for epoch in (2, 3, 4)]

    def weights(kept: list[int]) -> np.ndarray:
        """(n,) the mean over the last 3 epochs of min(1, B w), with the pool as the batch."""
        means = []
        for products in last:
            found = torch.zeros(len(products), dtype=torch.float64)
            u = products[pool][:, kept].sum(1)
            found[pool] = (rectify_and_normalise(u) * len(u)).clamp(max=1)
            means.append(found)
        return torch.stack(means).mean(0).numpy()

    everyone = list(range(len(ids)))
    without = [weights([other for other in everyone if other != place]) for place in everyone]
    for place, sample_id in some_samples(traced, "l2rw"):
        trace = explained(traced, "l2rw", sample_id)
        assert trace["weight"] == pytest.approx(weights(everyone)[place], abs=1e-4)
        for label in trace["labels"]:
            expected = without[ids.index(label["sample_id"])][place]
            assert label["weight_without"] == pytest.approx(expected, abs=1e-4)


def test_the_weight_without_a_label_follows_the_rule_of_direct(traced: Path) -> None:
    table = weights_of(traced, "direct")
    ids = table["sample_id"][table["bought"]].tolist()
    products = [torch.from_numpy(products_of(traced, "direct", epoch)) for epoch in range(1, EPOCHS + 1)]
    rows = (traced / "reweight/direct/history.csv").read_text().splitlines()[1:]
    rates = [float(row.split(",")[1]) for row in rows]

    def weights(kept: list[int]) -> torch.Tensor:
        found = torch.full((len(products[0]),), 0.5, dtype=torch.float64)
        for rate, each in zip(rates, products, strict=True):
            found = move_weights(found, each[:, kept].mean(1), rate / 0.05)
        return found

    everyone = list(range(len(ids)))
    for place, sample_id in some_samples(traced, "direct"):
        trace = explained(traced, "direct", sample_id)
        assert trace["weight"] == pytest.approx(float(weights(everyone)[place]), abs=1e-4)
        for label in trace["labels"]:
            others = [other for other in everyone if ids[other] != label["sample_id"]]
            assert label["weight_without"] == pytest.approx(float(weights(others)[place]), abs=1e-4)


def test_the_weight_without_a_label_is_the_posterior_less_the_change(traced: Path) -> None:
    table = pq.read_table(traced / "reweight/auto/trace.parquet").to_pydict()
    bought = weights_of(traced, "auto")["bought"]
    ids = weights_of(traced, "auto")["sample_id"][bought].tolist()
    changes = np.array(table["changes"])
    assert (changes[bought] == 0).all()
    assert np.abs(changes).max() > 0.01
    for place, sample_id in some_samples(traced, "auto"):
        trace = explained(traced, "auto", sample_id)
        assert (trace["by"], trace["epochs"]) == ("refits", [])
        assert trace["weight"] == pytest.approx(table["weight"][place], abs=1e-6)
        for label in trace["labels"]:
            change = changes[place, ids.index(label["sample_id"])]
            expected = float(np.clip(table["weight"][place] - change, 0, 1))
            assert label["weight_without"] == pytest.approx(expected, abs=1e-6)
            assert np.sign(label["push"]) == np.sign(change)


def test_a_real_process_explains_and_every_key_is_documented(traced: Path) -> None:
    before = seen(traced)
    _, sample_id = next(some_samples(traced, "auto"))
    done = run_process("explain", sample_id, "--json", run=traced)
    assert done.json["missing"] == []
    assert done.json["doubt"]["name"] == "auto"
    other = metaselect("explain", sample_id, "--name", "uniform", "--json", run=traced).json
    assert (
        "One of auto, direct, l2rw, mw-net, fsr can: metaselect reweight --trace"
        in other["missing"][0]["hint"]
    )
    assert check("`explain`", done.json) + check("`explain`", other) == []
    with Run(traced).lock():
        lines = metaselect("explain", sample_id, "--name", "l2rw", run=traced).out.splitlines()
    assert max(map(len, lines[lines.index("Answer: none") :])) <= 120
    assert any(line.startswith("bought sample") for line in lines)
    bought = weights_of(traced, "auto")
    own = metaselect("explain", bought["sample_id"][bought["bought"]][0], run=traced).out
    assert "has no trace: its own label was bought." in own
    assert seen(traced) == before


def test_without_the_flag_it_is_another_setting_and_force_removes_it(traced: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(traced, tmp_path / "run"))
    words = ("reweight", "--method", "l2rw", *SHORT)
    assert "l2rw is up to date" in metaselect(*words, "--trace", run=run).err
    assert "trace: true -> null" in metaselect(*words, run=run, code=4).err
    metaselect(*words, "--force", run=run)
    assert list((run / "reweight/l2rw").glob("trace*")) == []
    _, sample_id = next(some_samples(run, "l2rw"))
    missing = metaselect("explain", sample_id, "--name", "l2rw", "--json", run=run).json["missing"]
    assert "--trace --force --run" in missing[0]["hint"]
    assert "trace: null -> true" in metaselect(*words, "--trace", run=run, code=4).err


def test_a_damaged_trace_is_named(traced: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(traced, tmp_path / "run"))
    flip_byte(run / "reweight/l2rw/trace-epoch-0002.parquet")
    _, sample_id = next(some_samples(run, "l2rw"))
    refused = metaselect("explain", sample_id, "--name", "l2rw", run=run, code=4)
    assert "trace-epoch-0002.parquet is damaged" in refused.err
    assert states(run, 1)["reweight/l2rw"][0] == "damaged"


def test_a_killed_training_goes_on_to_the_same_trace(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(traced, tmp_path / "run"))
    shutil.rmtree(run / "reweight/direct")
    words = ("reweight", "--method", "direct", *SHORT, "--trace")

    def killed(state: Any, *more: Any) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt  # after the products were written, before the epoch is on record
        save_state(state, *more)

    with monkeypatch.context() as patched:
        patched.setattr(training, "save_state", killed)
        metaselect(*words, run=run, code=130)
    assert "Going on with epoch 3 of 4." in metaselect(*words, run=run).err
    assert stage_bytes(run / "reweight/direct") == stage_bytes(traced / "reweight/direct")


def test_what_is_refused(traced: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = metaselect("reweight", "--method", "gce", "--trace", run=traced, code=2).err
    assert "auto, direct, l2rw, mw-net, fsr; those of gce do not." in refused
    assert "has none" in metaselect("reweight", "--method", "fsr", "--trace", run=warm, code=4).err
    words = ("reweight", "--method", "l2rw", "--trace", "--name", "other", "--dry-run", "--epochs", 40)
    needs = metaselect(*words, "--json", run=traced).json["needs"]
    assert needs["trace_mib"] == round(10 * 2 * 200 * 20 / 2**20, 1)
    monkeypatch.setattr(module, "MOST_BYTES", 2 * 200 * 20 * 3)
    needs = metaselect(*words, "--json", run=traced).json["needs"]
    assert needs["trace_mib"] == round(3 * 2 * 200 * 20 / 2**20, 1)
    monkeypatch.setattr(module, "MOST_BYTES", 2 * 200 * 20 - 1)
    refused = metaselect(*words, run=traced, code=2).err
    assert "GiB for 200 samples and 20 bought labels; the limit is" in refused


def test_the_methods_with_a_trace_are_those_that_are_named() -> None:
    methods = {name: load(path) for name, path in REWEIGHTERS.items()}
    assert tuple(name for name, method in methods.items() if method.trace) == TRACED
    assert methods["auto"].trace == "refits"
    with pytest.raises(NotImplementedError):
        MethodRun.label_effects(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epochs", "count", "expected"),
    [(4, 10, [1, 2, 3, 4]), (12, 3, [4, 8, 12]), (11, 3, [4, 8, 11]), (57, 1, [57]), (1, 10, [1])],
)
def test_epochs_are_evenly_spread_and_end_with_the_last(epochs: int, count: int, expected: list[int]) -> None:
    assert evenly_spread(epochs, count) == expected


def test_hostile_names_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m=cmd()\u202e"
    run = make_run(tmp_path / "run", [hostile, "b"], classes=(hostile, "owl"))
    lines = metaselect("explain", hostile, run=run.root).out
    unknown = metaselect("explain", "\x1b[2J", run=run.root, code=2).err
    label = {
        **dict.fromkeys(("sample_id", "bought_label", "given_label"), hostile),
        "push": 1.0, "by_epoch": [1.0], "net_without": 0.0, "weight_without": 0.5,
    }  # fmt: skip
    trace = {"epochs": [3], "up": 1.0, "down": 0.0, "bought": 1, "weight": 0.25, "labels": [label]}
    _print_labels(Console(), trace)
    for text in (lines, unknown, capsys.readouterr().out):
        assert "\\x1b" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
