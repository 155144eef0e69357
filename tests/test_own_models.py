"""Models of a user's own code: which layer is the head, whose error it is when they fail, and when their code runs."""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import metaselect, run_process
from data_makers import KINDS, write_rows
from torch import nn
from torch.nn import functional as F

from metaselect.errors import UsageError
from metaselect.models.build import build_model
from metaselect.models.head import head_of, mark_head
from metaselect.registry import SELECTORS

N = 48
SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F

class Base(nn.Module):
    """Layers in an order of registration that is not that of their use; ``aux`` is used by nothing."""
    def __init__(self, shape, classes, order="f c", width=8):
        super().__init__()
        d = 1
        for size in shape: d *= size
        parts = {"f": nn.Linear(d, width), "c": nn.Linear(width, classes), "aux": nn.Linear(width, classes)}
        for name in order.split(): setattr(self, name, parts[name])
    def forward(self, x):
        return self.c(F.relu(self.f(x.flatten(1))))

def registered_first(shape, classes): return Base(shape, classes, "c f")
def same_width(shape, classes): return Base(shape, classes, "c f", width=classes)
def aux_unused(shape, classes): return Base(shape, classes, "f c aux")
def frozen_body(shape, classes):
    model = Base(shape, classes)
    model.f.requires_grad_(False)
    return model
def lazy(shape, classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
def wrapped(shape, classes): return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(3, classes)), nn.Identity())

class Positions(nn.Module):
    def __init__(self, classes):
        super().__init__(); self.c = nn.Linear(1, classes)
    def forward(self, x): return self.c(x[..., None]).mean(1)
def head_per_position(shape, classes): return Positions(classes)

class Twice(Base):
    def forward(self, x): return self.c(F.relu(self.f(x)) + self.c(F.relu(self.f(x))).mean(1, keepdim=True))
def head_twice(shape, classes): return Twice(shape, classes)

class Softmax(Base):
    def forward(self, x): return super().forward(x).softmax(1)
def probabilities(shape, classes): return Softmax(shape, classes)

class Pair(Base):
    def forward(self, x): return (super().forward(x), x) if self.training else super().forward(x)
def pair_in_training(shape, classes): return Pair(shape, classes)
def all_frozen(shape, classes): return Base(shape, classes).requires_grad_(False)
def one_argument(shape): return nn.Linear(3, 2)
def no_file(shape, classes): raise FileNotFoundError("weights.pt\\nis missing")
def assertion(shape, classes): assert False
def other_error(shape, classes): return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(3, classes))
def leaves(shape, classes): raise SystemExit(7)

class Later(Base):
    """Fails at its fifth pass."""
    passes = 0
    def forward(self, x):
        Later.passes += 1
        if Later.passes == 5: raise LookupError("a table is missing")
        return super().forward(x)
def fails_later(shape, classes): return Later(shape, classes)
'''


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module ``odd_models``."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "odd_models.py").write_text(SOURCE)
    return folder


@pytest.fixture
def odd(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.delitem(sys.modules, "odd_models", raising=False)


def data_of(folder: Path) -> Path:
    """Three clusters of 3 numbers."""
    draw, true = np.random.default_rng(5), np.arange(N) % 3
    points = np.eye(3)[true] * 2 + draw.normal(size=(N, 3))
    rows = [(f"x{i:02d}", *points[i], "abc"[true[i]]) for i in range(N)]
    return write_rows(folder / "data.csv", ["sample_id", "f0", "f1", "f2", "label"], rows)


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("registered_first", "c"),
        ("same_width", "c"),
        ("aux_unused", "c"),
        ("frozen_body", "c"),
        ("lazy", "1"),
        ("wrapped", "0.1"),
    ],
)
def test_the_head_is_the_layer_whose_output_is_the_logits(name: str, layer: str) -> None:
    model = build_model(f"odd_models:{name}", (3,), 3, seed=0)
    for each in (model, deepcopy(model)):
        head = head_of(each)
        assert head is each.get_submodule(layer)
        caught: list[torch.Tensor] = []
        head.register_forward_pre_hook(lambda _, args, caught=caught: caught.append(args[0]))
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        logits = each.eval()(inputs)
        torch.testing.assert_close(F.linear(caught[0], head.weight, head.bias), logits)


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("head_per_position", r"not the output of an nn.Linear; the last one that is used, c, gives .*\(2, 3, 3\)"),
        ("head_twice", "not the output of an nn.Linear"),
        ("probabilities", "not the output of an nn.Linear"),
        ("pair_in_training", "In training mode the model gives a tuple"),
        ("all_frozen", "its head is frozen"),
        ("one_argument", "the factory failed with TypeError: one_argument"),
        ("no_file", "the factory failed with FileNotFoundError: is missing"),
        ("assertion", "the factory failed with AssertionError"),
        ("leaves", "the factory failed with SystemExit: 7"),
        ("other_error", r"cannot take inputs of shape \(3,\): ValueError: expected 4D input"),
        ("not_there", "cannot be imported: AttributeError"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        build_model(f"odd_models:{name}", (3,), 3, seed=0)
    assert str(refused.value).startswith(f"--model odd_models:{name}")
    assert refused.value.hint


@pytest.mark.usefixtures("odd")
def test_lazy_layers_have_the_same_values_for_the_same_seed() -> None:
    once, again, other = (build_model("odd_models:lazy", (3,), 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(head_of(once).weight, head_of(again).weight)
    assert not torch.equal(head_of(once).weight, head_of(other).weight)


def test_finding_the_head_changes_no_state() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mark_head(model, torch.ones(2, 3))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.fixture(scope="module")
def warm(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose warm-up has an auxiliary head that nothing uses, with bought labels."""
    root = tmp_path_factory.mktemp("own") / "run"
    words = ("warmup", data_of(root.parent), "--feature-columns", "f*", "--model", "odd_models:aux_unused")
    with own_code(code):
        done = metaselect(*words, "--epochs", 3, "--device", "cpu", run=root)
    assert f"Next: metaselect select --budget 50 --trust-model --run {root}" in done.err
    rows = [(f"x{i:02d}", "abc"[i % 3]) for i in range(0, N, 4)]
    answers = write_rows(root.parent / "answers.csv", ["sample_id", "clean_label"], rows)
    metaselect("annotate", "import", answers, "--outside-round", "--annotator", "me", run=root)
    return root


class own_code:
    """A context in which ``odd_models`` can be imported, and was not yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        sys.path.insert(0, self.folder)
        sys.modules.pop("odd_models", None)

    def __exit__(self, *_: object) -> None:
        sys.path.remove(self.folder)
        sys.modules.pop("odd_models", None)


@pytest.mark.parametrize("method", [name for name in SELECTORS if name != "ta-vaal"])
def test_every_selector_works_beside_an_auxiliary_head(code: Path, warm: Path, method: str) -> None:
    words = ("select", "--budget", 4, "--method", method, "--trust-model", "--device", "cpu", "--force")
    with own_code(code):
        done = metaselect(*words, "--json", run=warm)
    assert done.json["selected"] == 4


@pytest.mark.parametrize("method", KINDS)
def test_every_method_trains_beside_an_auxiliary_head(code: Path, warm: Path, method: str) -> None:
    words = ("reweight", "--method", method, "--epochs", 8, "--folds", 0, "--device", "cpu", "--trust-model")
    with own_code(code):
        done = metaselect(*words, "--json", run=warm)
    assert done.json["model"] == "odd_models:aux_unused"


def test_an_error_in_the_model_is_its_authors(code: Path, tmp_path: Path) -> None:
    with own_code(code):
        words = ("warmup", data_of(tmp_path), "--feature-columns", "f*", "--model", "odd_models:fails_later")
        done = metaselect(*words, "--epochs", 2, "--device", "cpu", run=tmp_path / "run", code=2)
    assert "--model odd_models:fails_later failed with LookupError" in done.err
    assert "odd_models.py, line" in done.err
    assert "bug" not in done.err


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "select": lambda _: ("select", "--budget", 4, "--method", "rbc", "--force"),
    "reweight": lambda _: ("reweight", "--method", "uniform", "--epochs", 1, "--name", "mine"),
    "auto from scratch": lambda _: (
        *("reweight", "--init", "scratch", "--model", "mlp", "--epochs", 1, "--name", "mine"),
    ),
    "evaluate": lambda root: ("evaluate", data_of(root.parent), "--feature-columns", "f*", "--name", "mine"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_code_that_only_the_run_names_does_not_run(name: str, warm: Path, tmp_path: Path) -> None:
    """The module would leave a file behind where it is imported."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "odd_models.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{SOURCE}")
    words = (*COMMANDS[name](warm), "--device", "cpu")
    done = run_process(*words, run=warm, code=2, env={"PYTHONPATH": path_of(trap)})
    assert f"{warm} names the model odd_models:aux_unused, which is code" in done.err
    assert "--trust-model" in done.err
    assert not (tmp_path / "ran").exists()


def path_of(folder: Path) -> str:
    """A PYTHONPATH with the folder first."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_a_model_that_the_command_names_may_run(code: Path, warm: Path) -> None:
    with own_code(code):
        words = (
            "reweight",
            "--method",
            "uniform",
            "--epochs",
            1,
            "--folds",
            0,
            "--name",
            "named",
            "--device",
            "cpu",
        )
        metaselect(*words, "--model", "odd_models:aux_unused", run=warm)  # fmt: skip
        other = metaselect(*words, "--model", "odd_models:lazy", "--force", run=warm, code=2)
    assert "cannot start from the warm-up's odd_models:aux_unused" in other.err


def test_verifying_again_runs_no_code_from_the_record_or_the_working_folder(
    code: Path, tmp_path: Path
) -> None:
    root, trap = tmp_path / "run", tmp_path / "trap"
    trap.mkdir()
    with own_code(code):
        words = ("warmup", data_of(tmp_path), "--feature-columns", "f*", "--model", "odd_models:aux_unused")
        metaselect(*words, "--epochs", 1, "--device", "cpu", "--folds", 0, run=root)
    record = root / "warmup/stage.json"
    record.write_text(
        record.read_text().replace(f'"working_folder": "{os.getcwd()}"', f'"working_folder": "{trap}"')
    )
    assert str(trap) in record.read_text()
    for name in ("odd_models", "json", "random", "numpy"):  # what Python and the program import themselves
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    refused = run_process("verify", "--rerun", run=root, code=2, env={"PYTHONPATH": path_of(code)})
    assert "names the model odd_models:aux_unused, which is code" in refused.err
    again = ("verify", "--rerun", "--trust-model", "--json")
    done = run_process(*again, run=root, env={"PYTHONPATH": path_of(code)})
    assert done.json["recomputed"] == ["warmup"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "trap", "data.csv"}
