"""Every stage, selector and training method on a device whose tensors cannot be mixed with the CPU's.

The device runs the CPU's kernels, so every artefact but ``stage.json`` has the bytes that the CPU gives.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect, tree
from data_makers import (
    STATEFUL,
    Listener,
    made,
    pictures,
    samples_table,
    truth_options,
    write_images,
    write_rows,
)
from host_device import NAME, is_supported, register, traffic
from torch import nn

from metaselect.annotation.simulation import SimulateOptions
from metaselect.data_options import EvaluateOptions, IngestOptions
from metaselect.errors import UsageError
from metaselect.options import ReweightOptions, SelectOptions, WarmupOptions
from metaselect.random import generator
from metaselect.registry import REWEIGHTERS, SELECTORS
from metaselect.run.layout import Run
from metaselect.stages.annotate.simulate import simulate
from metaselect.stages.evaluate.evaluate import evaluate
from metaselect.stages.reweight.reweight import reweight
from metaselect.stages.select.select import select
from metaselect.stages.warmup.warmup import warmup
from metaselect.training.device import available_devices, choose_device

DEVICES = ("cpu", NAME)
SAMPLES, BUDGET = 48, 12
EPOCHS, BATCH = 3, 8
TRANSFERS_PER_STEP = 0.1  # at most; 0 were measured for every method
QUICK = {"ta-vaal": ("iterations=6", "batch=8", "latent=4")}
Runs = Mapping[str, Run]


@pytest.fixture(scope="module")
def device() -> torch.device:
    if not is_supported():
        pytest.skip("this PyTorch takes no devices written in Python")
    return register()


@pytest.fixture(scope="module")
def warmed(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of grey images after warm-up, on each device."""
    root = tmp_path_factory.mktemp("devices")
    data = write_images(root / "images", pictures(SAMPLES, side=8))
    options = {"model": "convnet", "epochs": 2, "batch_size": BATCH, "checkpoints": 2, "augment": "weak"}
    runs = {}
    for name in DEVICES:
        runs[name] = made(data, root / name)
        warmup(None, runs[name], WarmupOptions(**options, device=name), IngestOptions(), Listener())
    return runs


@pytest.fixture(scope="module")
def answered(warmed: Runs, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs after a round of samples was answered, a third of them with another label than the given one."""
    root = tmp_path_factory.mktemp("answered")
    runs = copies(warmed, root)
    rows = samples_table(runs["cpu"])
    labels = [str(row["given_label"]) for row in rows]
    clean = [labels[(place + 1) % SAMPLES] if place % 3 == 0 else label for place, label in enumerate(labels)]
    ids = [row["sample_id"] for row in rows]
    truth = write_rows(root / "truth.csv", ["sample_id", "clean_label"], list(zip(ids, clean, strict=True)))
    for run in runs.values():
        select(run, SelectOptions(budget=BUDGET, method="random"), Listener())
        simulate(run, str(truth), SimulateOptions(), Listener())
    return runs


def copies(runs: Runs, root: Path) -> dict[str, Run]:
    return {name: Run(Path(shutil.copytree(run.root, root / name))) for name, run in runs.items()}


def artefacts(run: Run, stage: str) -> dict[str, bytes]:
    """The files of a stage that was computed on the run's device, but for what says when and where."""
    assert json.loads(run.path(f"{stage}/stage.json").read_text())["device"] == run.root.name
    return tree(run.path(stage), leave=("stage.json",))


def test_the_device_refuses_tensors_of_the_cpu_and_counts_what_the_host_reads(device: torch.device) -> None:
    here, there = torch.arange(4.0), torch.arange(4.0, device=device)
    with pytest.raises(RuntimeError, match="CPU tensor"):
        here + there
    with pytest.raises(RuntimeError, match="CPU tensor"):
        torch.stack([there, here])
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)
    assert (there + torch.tensor(1.0)).device.type == NAME  # a number of the CPU is no fault
    assert there[here.long()].device.type == NAME
    before = traffic.to_host
    assert there.sum().item() == 6
    assert there.tolist() == [0, 1, 2, 3]
    assert torch.equal(there.cpu(), here)
    assert len(there[there > 1]) == 2
    assert torch.empty(4).copy_(there).device.type == "cpu"
    assert traffic.to_host == before + 5
    there += there * there.mean()
    assert traffic.to_host == before + 5
    assert not torch.equal(there.cpu(), here)


def test_warmup(warmed: Runs) -> None:
    assert traffic.operators > 1000
    assert artefacts(warmed[NAME], "warmup") == artefacts(warmed["cpu"], "warmup")


@pytest.mark.parametrize("folds", [None, 0])
def test_warmup_of_a_model_that_is_solved(warmed: Runs, tmp_path: Path, folds: int | None) -> None:
    found = {}
    for name, run in copies(warmed, tmp_path).items():
        options = WarmupOptions(model="linear", folds=folds, device=name, force=True)
        before = traffic.operators
        warmup(None, run, options, IngestOptions(), Listener())
        assert (traffic.operators > before) == (name == NAME)
        found[name] = artefacts(run, "warmup")
    assert found[NAME] == found["cpu"]


@pytest.mark.parametrize("method", SELECTORS)
def test_selectors(method: str, warmed: Runs, tmp_path: Path) -> None:
    chosen = {}
    for name, run in copies(warmed, tmp_path).items():
        options = SelectOptions(budget=BUDGET, method=method, device=name, option=QUICK.get(method, ()))
        before = traffic.operators
        select(run, options, Listener())
        folder = run.path("select/round-1")
        chosen[name] = {path: content for path, content in tree(folder).items() if path.endswith(".csv")}
        assert chosen[name]
        for path in sorted(folder.glob("*.parquet")):  # whose recipe says on which device it was made
            chosen[name][path.name] = table_bytes(path)
        assert (traffic.operators > before) == (name == NAME and method != "random")
    assert chosen[NAME] == chosen["cpu"]


def table_bytes(path: Path) -> bytes:
    """The values of a Parquet file without its metadata."""
    table = pq.read_table(path).replace_schema_metadata(None)
    return repr(table.to_pydict()).encode()


@pytest.mark.parametrize("method", REWEIGHTERS)
def test_training_methods(method: str, answered: Runs, tmp_path: Path) -> None:
    runs = copies(answered, tmp_path)
    for name, run in runs.items():
        reweight(run, options_for(method, name, folds=2, **truth_options(run, method)), Listener())
    stage = f"reweight/{method}"
    assert artefacts(runs[NAME], stage) == artefacts(runs["cpu"], stage)


class Interrupting(Listener):
    """A Reporter that interrupts the training of `reweight` after so many samples."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    @contextmanager
    def track(self, total: int, what: str, unit: str, done: int = 0) -> Iterator[Any]:
        def advance(count: int, detail: str = "") -> None:
            self.left -= count if what.startswith("reweight ") else 0
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("method", STATEFUL)
def test_an_interrupted_training_goes_on_with_its_state_on_the_device(
    method: str, answered: Runs, tmp_path: Path
) -> None:
    runs = copies(answered, tmp_path)
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        reweight(runs[NAME], options_for(method, NAME), Interrupting(2 * SAMPLES - 1))
    reweight(runs[NAME], options_for(method, NAME), listener)
    assert any(note.startswith("Going on with epoch ") for note in listener.notes)
    reweight(runs["cpu"], options_for(method, "cpu"), Listener())
    stage = f"reweight/{method}"
    assert artefacts(runs[NAME], stage) == artefacts(runs["cpu"], stage)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mlp", "optimiser": "adam"},
        {"model": "convnet", "optimiser": "adamw", "accumulate": 2},
        {"model": f"{__name__}:dropout_net", "momentum": 0.9, "weight_decay": 0.01},
        {"model": "resnet32"},
    ],
    ids=("adam", "adamw", "dropout", "resnet32"),
)
def test_models_and_optimisers(changes: dict[str, Any], answered: Runs, tmp_path: Path) -> None:
    runs = copies(answered, tmp_path)
    for name, run in runs.items():
        trusting = Run.at(run.root, model=changes["model"])
        reweight(trusting, options_for("direct", name, init="scratch", epochs=1, **changes), Listener())
    assert artefacts(runs[NAME], "reweight/direct") == artefacts(runs["cpu"], "reweight/direct")


def dropout_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model that draws masks and keeps running statistics."""
    width = math.prod(shape)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(width, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, classes)
    )


def options_for(method: str, device: str, **changes: Any) -> ReweightOptions:
    """Without the comparison by folds, unless ``changes`` say so."""
    values = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.02, "augment": "weak", "trace": method == "l2rw"}
    return ReweightOptions(method=method, device=device, **{**values, "folds": 0, **changes})


@pytest.mark.parametrize("method", REWEIGHTERS)
def test_a_step_reads_nothing_from_the_device(method: str, answered: Runs, tmp_path: Path) -> None:
    """Two trainings of as many epochs, whose numbers of steps differ: what an epoch reads does not count."""
    run = copies(answered, tmp_path)[NAME]
    counts, steps = [], []
    for batch_size in (BATCH, BATCH // 2):
        before = traffic.to_host
        reweight(
            run,
            options_for(method, NAME, batch_size=batch_size, force=True, **truth_options(run, method)),
            Listener(),
        )
        counts.append(traffic.to_host - before)
        steps.append(EPOCHS * (SAMPLES - BUDGET) // batch_size)
    assert counts[0] > 0
    assert (counts[1] - counts[0]) / (steps[1] - steps[0]) <= TRANSFERS_PER_STEP


def test_evaluate(answered: Runs, tmp_path: Path) -> None:
    runs = copies(answered, tmp_path)
    test = write_images(tmp_path / "test", pictures(15, side=9))
    for name, run in runs.items():
        reweight(run, options_for("uniform", name), Listener())
        evaluate(test, run, EvaluateOptions(device=name), Listener())
    found = [artefacts(runs[name], "evaluate/test") for name in DEVICES]
    for made_there in found:
        for report in ("report.html", "report.json"):  # they name the device
            assert made_there.pop(report)
    assert found[0] == found[1]


def test_the_command_line_takes_the_device_by_its_name(warmed: Runs, tmp_path: Path) -> None:
    run = copies(warmed, tmp_path)[NAME]
    words = (
        "warmup",
        "--model",
        "convnet",
        "--epochs",
        1,
        "--checkpoints",
        1,
        "--device",
        NAME,
        "--force",
        "--json",
    )
    assert metaselect(*words, run=run.root).json["ok"] is True
    assert json.loads(run.path("warmup/stage.json").read_text())["device"] == NAME


@pytest.mark.parametrize("name", ["nonsense", "meta", "cpu:0", "CPU", ""])
def test_a_device_that_pytorch_does_not_have_is_refused(device: torch.device, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_device(name, Listener())
    assert f"--device {name}" in str(caught.value)
    assert caught.value.hint.startswith("Use --device auto or cpu")
    assert NAME in caught.value.hint
    with pytest.raises(UsageError):
        choose_device(name, Listener(), needed=False)


def test_what_a_value_of_device_means(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    assert choose_device(NAME, listener) == device
    assert choose_device("cpu", listener) == torch.device("cpu")
    assert choose_device("cuda", listener, needed=False) == torch.device("cpu")
    assert choose_device("auto", listener, needed=False) == torch.device("cpu")
    assert listener.notes == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", listener) == torch.device("cpu")
    assert listener.notes == ["No GPU found: running on the CPU."]
    with pytest.raises(UsageError):
        choose_device("cuda", listener)
    assert "cuda" not in available_devices()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", listener) == choose_device("cuda", listener) == torch.device("cuda")
    assert available_devices()[:2] == ["cpu", "cuda"]
    assert NAME in available_devices()


def test_a_device_without_generators_draws_on_the_cpu(device: torch.device) -> None:
    made_for_device = generator(3, "augment", 1, device=device)
    assert made_for_device.device == torch.device("cpu")
    assert torch.equal(
        torch.rand(4, generator=made_for_device), torch.rand(4, generator=generator(3, "augment", 1))
    )
