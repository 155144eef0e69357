"""Every re-weighter, killed at any step and begun anew from its last save, ends in the same bits."""

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from data_makers import KINDS, METHODS, STATEFUL, EveryState, Listener, plan, start_of
from safetensors.torch import load_file
from torch import nn

from metaselect.errors import ConditionUnmet
from metaselect.metagrad.forward import Forward
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import MethodRun, strip_prefix
from metaselect.reweighting.fsr.pushers import PUSHERS
from metaselect.stages.reweight.failure_check import score_on_bought
from metaselect.stages.reweight.training import ReweightRow
from metaselect.training import checkpoint
from metaselect.training.batches import Batches
from metaselect.training.checkpoint import load_state, save_state
from metaselect.training.loop import TrainingConfig, TrainState, final_model, start_training, train
from metaselect.training.predict import predict

TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {"momentum": 0.0, "weight_decay": 0.0},
    "momentum": {"momentum": 0.9, "schedule": "step"},
    "amp": {"amp": True},
    "adam": {"optimiser": "adam", "lr": 0.01},
    "adamw": {"optimiser": "adamw", "lr": 0.01, "accumulate": 2},
}
"""Changes of the plan; the first options of ``KINDS`` are tried under each, all others under "momentum"."""

SMALL = {"fsr": "dictionary=12 share=1"}
"""What makes a method fit a pool of 24."""

KNOBS = ("every=2", "every=3 scope=top", "scope=last")
"""Options of every method that has the field ``every``."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "auto": ("ema=0", "share=0 priors=balanced", "bought=none", "bought=none ema=0.5"),
    "direct": ("step=20",),
    "gce": ("truncation=0.35 initial=0 interval=0.5",),
    "mw-net": (
        "hidden=3 net_lr=0.1",
        "net_optimiser=sgd net_lr=0.1",
        "normalised=true every=2",
        "lagged=true",
        "lagged=true normalised=true scope=top",
        "detached=false",
    ),
    "fsr": (
        *(f"pusher={pusher}" for pusher in PUSHERS),
        "ema=0.9",
        "ema=0.9 bought=none pusher=forgetting",
        "bought=none",
        "relabel=paper",
        "margin=paper",
        "mixup=false",
        "relabel=paper mixup=false deferral=0",
        "weights=shift pseudo=0 proxies=none",
        "virtual_momentum=0 deferral=0.5",
    ),
}
"""More words of single methods; one line is one case. ``bought=none`` is no option: nothing was bought."""

DEMANDING = {"fsr": "ema=0.9 pusher=forgetting"}
"""Options under which all that a method saves bears on what comes out."""

HAS_KNOBS = {name: hasattr(method, "every") for name, method in METHODS.items()}
CASES = [
    # A method with evidence makes all its state before training, in most of the test's time: one is enough for it.
    *(
        (name, "", training)
        for name in KINDS
        for training in TRAININGS
        if training == "momentum" or not METHODS[name].needs_evidence
    ),
    *((name, "", "momentum") for name in REWEIGHTERS if name not in KINDS),
    *((name, words, "momentum") for name in REWEIGHTERS if HAS_KNOBS[name] for words in KNOBS),
    *((name, words, "momentum") for name, several in OPTIONS.items() for words in several),
]
BOUGHT = torch.tensor([0, 1, 3, 4, 6, 7, 9, 12, 15])  # of three classes, the last has none
PLACES = (
    "before the method",
    "behind the method",
    "in the backward pass",
    "before the optimiser",
    "behind the optimiser",
    "at the end of the epoch",
    "while it saves",
)


class Killed(Exception):
    """The process is gone."""


class Kill(NamedTuple):
    """Where a life ends: in which batch of the training, from 0, or at the end of that batch's epoch."""

    step: int
    place: str


class Case:
    """A method with its options on the 24 samples; ``begin`` makes all that a new process makes."""

    def __init__(self, name: str, words: str, training: str, batches: Batches) -> None:
        options = [*SMALL.get(name, "").split(), *words.split()]
        nothing = "bought=none" in options
        self.bought = BOUGHT[:0] if nothing else BOUGHT
        self.method = configure(REWEIGHTERS[name], [word for word in options if word != "bought=none"])
        self.plan: TrainingConfig = plan(**{"batch_size": 5, **TRAININGS[training]})
        self.batches = batches
        labels = batches.labels
        self.known = start_of(
            labels, method=self.method, epochs=self.plan.epochs, lr=self.plan.lr, bought=self.bought
        )
        self.ids = self.known.labels.trained
        together = self.plan.accumulate
        self.steps = math.ceil(len(self.ids) / self.plan.batch_size / together) * together

    def begin(self, seed: int) -> TrainState:
        """Before its first step; all initial values are drawn from ``seed``."""
        torch.manual_seed(seed)
        model = EveryState()
        # A method with evidence fits a model when it begins, and again, with the same seed, when it resumes.
        stream = torch.Generator().manual_seed(0 if self.method.needs_evidence else seed)
        method = self.method.begin(self.known._replace(generator=stream))
        return start_training(model, self.plan, method)

    def live(self, path: Path, seed: int, kill: Kill | None = None) -> dict[str, object]:
        """Train from what is saved to the end, saving every epoch as `reweight` does; returns all that there is."""
        trainee = self.begin(seed)
        rows = [ReweightRow(**row) for row in load_state(trainee, path)]
        with pytest.MonkeyPatch.context() as patch:
            if kill is not None:
                step, epoch = kill.step - trainee.epoch * self.steps, kill.step // self.steps - trainee.epoch
                if kill.place.endswith("the optimiser"):
                    step //= self.plan.accumulate
                arm(trainee, kill.place, step, epoch, patch)
            for log in train(
                trainee,
                self.batches,
                self.plan,
                ids=self.ids,
                bought=self.bought,
                meta_batch_size=self.method.meta_batch_size(8, self.plan.batch_size, len(self.bought)),
                report=Listener(),
                what="reweight",
            ):
                rows.append(
                    ReweightRow(*log, *score_on_bought(final_model(trainee), self.batches, self.bought))
                )
                save_state(trainee, rows, path)
        return everything(trainee, self.batches, rows)


def arm(trainee: TrainState, place: str, step: int, epoch: int, patch: pytest.MonkeyPatch) -> None:
    """Let this life end in its step ``step``, or at the end of its epoch ``epoch``, both from 0."""
    steps, epochs = itertools.count(), itertools.count()
    kind = type(trainee.method)
    act = kind.step

    def die(*_: object) -> None:
        if next(steps) == step:
            raise Killed

    def die_first(run: object, *words: object) -> object:
        die()
        return act(run, *words)

    def die_then(run: object, *words: object) -> object:
        done = act(run, *words)
        die()
        return done

    def end_then_die(run: MethodRun, number: int) -> None:
        end_of_epoch(run, number)
        if next(epochs) == epoch:
            raise Killed

    def tear(tensors: object, file: Path, **rest: Any) -> None:
        save_file(tensors, file, **rest)
        if next(epochs) == epoch:
            file.write_bytes(file.read_bytes()[:-100])
            raise Killed

    engine: list[object] = []

    def die_in_engine(parameter: torch.Tensor) -> None:
        engine.append(parameter)
        die()

    def die_without_engine(forward: Forward, *words: Any) -> None:
        """Some methods have their gradients already, and no backward pass is run."""
        before = len(engine)
        backward(forward, *words)
        if len(engine) == before:
            die()

    if place == "before the method":
        patch.setattr(kind, "step", die_first)
    elif place == "behind the method":
        patch.setattr(kind, "step", die_then)
    elif place == "in the backward pass":
        list(trainee.model.parameters())[2].register_post_accumulate_grad_hook(die_in_engine)
        backward = Forward.backward
        patch.setattr(Forward, "backward", die_without_engine)
    elif place == "before the optimiser":
        trainee.optimiser.register_step_pre_hook(die)
    elif place == "behind the optimiser":
        trainee.optimiser.register_step_post_hook(die)
    elif place == "at the end of the epoch":
        end_of_epoch = kind.epoch_end
        patch.setattr(kind, "epoch_end", end_then_die)
    else:
        save_file = vars(checkpoint)["save_file"]
        patch.setattr(checkpoint, "save_file", tear)


def held(value: object, name: str) -> Iterator[tuple[str, object]]:
    """All that an object holds, however deep, whether it is saved or not: (path, bits)."""
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        yield name, (array.dtype, array.shape, array.tobytes())
    elif isinstance(value, torch.Generator):
        yield from held(value.get_state(), name)
    elif isinstance(value, nn.Module | torch.optim.Optimizer):
        yield from held(value.state_dict(), name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from held(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        yield from held(dict(enumerate(value)), name)
    elif hasattr(value, "__dict__"):
        yield from held(vars(value), name)
    else:
        yield name, repr(value)


def everything(trainee: TrainState, batches: Batches, rows: list[ReweightRow]) -> dict[str, object]:
    """Bits by name of all that training changes, and of what comes out of it."""
    names = {parameter: name for name, parameter in trainee.model.named_parameters()}
    states = {names[parameter]: state for parameter, state in trainee.optimiser.state.items()}
    view = predict(final_model(trainee), batches, torch.arange(len(batches)))
    parts: dict[str, object] = {
        "epoch": trainee.epoch,
        "model": trainee.model,
        "optimiser": {"groups": trainee.optimiser.param_groups[0], "state": states},
        "method": trainee.method,
        "saved": trainee.method.state_dict(),
        "judged": final_model(trainee),
        "view": view,
        "weights": trainee.method.pool_weights(view),
        "history": [row._asdict() for row in rows],
    }
    return dict(held(parts, ""))


def different(found: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Names that only one of them has, or that have other bits."""
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name, "-") != expected.get(name, "-")
    )


def still(case: Case, ended: Mapping[str, Any]) -> set[str]:
    """What a run saves and training never moved: of that, no comparison could say that it was restored."""
    kinds = (".model.", ".optimiser.state.", ".saved.")
    saved = {name for name, bits in ended.items() if name.startswith(kinds) and 0 not in bits[1]}
    has_state = any(name.startswith(".saved.") for name in saved)
    assert has_state == bool(case.begin(1).method.state_dict())
    assert has_state or case.method.meta_batch_size(8, 8, 8) == 0
    return saved - set(different(ended, everything(case.begin(1), case.batches, [])))


def drawn_kills(case: Case, name: str) -> list[tuple[Kill, ...]]:
    """Five lives with one kill each, and one with two; each place comes up once."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    steps, total = case.steps, case.steps * case.plan.epochs
    early = int(draw.integers(1, total - 1))
    late = int(draw.integers(early // steps * steps, total))
    alone = [0, steps - 1, steps, int(draw.integers(1, total - 1)), total - 1]
    places = [PLACES[number] for number in draw.permutation(len(PLACES))]
    kills = list(map(Kill, [*alone, early, late], places))
    return [*((kill,) for kill in kills[:-2]), (kills[-2], kills[-1])]


@pytest.mark.parametrize(("name", "words", "training"), CASES, ids=lambda word: word or "defaults")
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    name: str, words: str, training: str, tiny_batches: Batches, tmp_path: Path
) -> None:
    case, path = Case(name, words, training, tiny_batches), tmp_path / "resume.safetensors"
    undisturbed = case.live(path, seed=0)
    assert still(case, undisturbed) == set()
    for kills in drawn_kills(case, f"{name} {words} {training}"):
        path.unlink()
        for seed, kill in enumerate(kills):
            # Before the first save there is nothing to go on from, and the command would draw the same again.
            with pytest.raises(Killed):
                case.live(path, seed if path.exists() else 0, kill)
        resumed = case.live(path, len(kills) if path.exists() else 0)
        assert different(resumed, undisturbed) == [], kills


@pytest.mark.parametrize("name", STATEFUL)
def test_no_state_that_is_restored_wrongly_passes_unseen(
    name: str, tiny_batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test, for each tensor that a method saves."""
    case, path = (
        Case(name, DEMANDING.get(name, ""), "momentum", tiny_batches),
        tmp_path / "resume.safetensors",
    )
    undisturbed = case.live(path, seed=0)
    path.unlink()
    with pytest.raises(Killed):
        case.live(path, 0, Kill(2 * case.steps, "before the method"))
    half = path.read_bytes()
    kind = type(case.begin(1).method)
    load = kind.load_state_dict
    keys = strip_prefix(load_file(path), "method.").keys()
    unseen = []
    for key in keys:

        def forgetful(run: Any, state: dict[str, torch.Tensor], key: str = key) -> None:
            load(run, {**state, key: (state[key] == 0).to(state[key].dtype)})

        path.write_bytes(half)
        monkeypatch.setattr(kind, "load_state_dict", forgetful)
        try:
            changed = different(case.live(path, seed=1), undisturbed)
        except ConditionUnmet:  # the training diverged
            continue
        if not changed:
            unseen.append(key)
    assert keys
    assert unseen == []
