"""Co-teaching: two networks, each trained on the samples that the other one finds easy.

Source: Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama 2018 (Co-teaching: Robust Training of Deep Neural Networks with
Extremely Noisy Labels, arXiv:1804.06872), Algorithm 1: of each batch a network picks the share R(T) with the smallest
losses, on which the other one takes its step; R(T) = 1 - tau min(T / T_k, 1) after T epochs, with T_k = 10 and tau the
noise rate. Both begin anew.
Differs: a bought sample is picked always, and R(T) is of the others; the loss is the mean over what is picked (the
authors' code divides it by their number once more); the optimiser and its schedule are those of the command, in the
paper Adam with a first beta that falls; the network that is judged and saved is the first one. Of a pre-trained model
whose body has a rate of its own, the second network has the same body and another head.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.head import head_of
from metaselect.models.parameters import Params
from metaselect.random import derive_seed, seeded_globals
from metaselect.ranks import all_sums
from metaselect.reweighting.base import (
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    require_option,
    strip_prefix,
)


@dataclass(frozen=True)
class CoTeaching(Method):
    """Hyper-parameters.

    Attributes:
        rate: tau, the share of a batch that is left out in the end, such as the rate of wrong labels; in [0, 1).
        ramp: T_k, the epochs over which it grows to that; at least 1.
    """

    rate: float = 0.2
    ramp: int = 10

    def __post_init__(self) -> None:
        require_option(self, "rate", "at least 0 and below 1", holds=0 <= self.rate < 1)
        require_option(self, "ramp", "at least 1", holds=self.ramp >= 1)

    def begin(self, start: Start) -> "CoTeachingRun":
        """Before the second network, which is made at the first step."""
        return CoTeachingRun(self, start.labels.is_bought.to(start.device))


def picked(losses: torch.Tensor, known: torch.Tensor, share: float) -> torch.Tensor:
    """(B,) bool: the known samples, and of the others the share with the smallest losses, at least one sample.

    Args:
        losses: (B,) of one network.
        known: (B,) bool, samples with a bought label.
        share: R(T), in (0, 1]; the number is rounded down.
    """
    # A share that is a fraction in decimals must not lose a sample to rounding.
    count = (share * (~known).sum() + 1e-3).floor().clamp(min=1)
    place = losses.masked_fill(known, torch.inf).argsort(stable=True).argsort()
    return known | (place < count)


class Peer:
    """The second network, a copy of the first with other initial parameters, and its optimiser of the same kind."""

    def __init__(self, forward: Forward) -> None:
        self.model = reinitialised(forward.model, forward.optimiser, derive_seed(forward.seed, "peer"))
        names = {id(parameter): name for name, parameter in forward.model.named_parameters()}
        own = dict(self.model.named_parameters())
        groups = [
            {**group, "params": [own[names[id(parameter)]] for parameter in group["params"]]}
            for group in forward.optimiser.param_groups
        ]
        kind: Any = type(forward.optimiser)  # its first argument is the groups
        self.optimiser: torch.optim.Optimizer = kind(groups)
        self.batches = 0  # whose gradients were added since the last step

    def step(self, rates: list[float]) -> None:
        """A step on the mean gradient of the batches since the last one, at the rate of each group."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        for gradient, total in zip(gradients, all_sums(gradients), strict=True):
            gradient.copy_(total / self.batches)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.batches = 0

    def state_dict(self) -> State:
        """Parameters, buffers, and what the optimiser keeps of each parameter."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for kind, value in self.optimiser.state.get(parameter, {}).items():
                if value is not None:
                    state[f"optimiser.{kind}.{name}"] = value
        return state

    def load_state_dict(self, state: State) -> None:
        """The same."""
        self.model.load_state_dict(strip_prefix(state, "model."))
        own = dict(self.model.named_parameters())
        for place, value in strip_prefix(state, "optimiser.").items():
            kind, _, name = place.partition(".")
            # Adam keeps its count of steps, a number without dimensions, on the CPU.
            kept = value.to(own[name].device) if value.dim() else value
            self.optimiser.state[own[name]][kind] = kept.clone()


def reinitialised(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> nn.Module:
    """A copy of a model whose trained layers have new initial parameters, drawn on the CPU.

    Args:
        model: every layer with parameters must have ``reset_parameters``, as those of torch; others stay equal.
        optimiser: of the model; where it has several groups, the first is the head's, and the rest is pre-trained.
        seed: of the draws.
    """
    peer, device = deepcopy(model).cpu(), next(model.parameters()).device
    layers = [head_of(peer)] if len(optimiser.param_groups) > 1 else list(peer.modules())
    with seeded_globals(seed):
        for layer in layers:
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None and any(p.requires_grad for p in layer.parameters()):
                reset()
    return peer.to(device)


class CoTeachingRun(MethodRun):
    """The second network, and how many epochs are over."""

    def __init__(self, method: CoTeaching, is_bought: torch.Tensor) -> None:
        self.method, self.is_bought, self.epoch = method, is_bought, 0
        self.peer: Peer | None = None
        self.rates: list[float] = []  # of the first network's optimiser
        self.loaded: State = {}  # of the second network, until it is made

    @property
    def starts_anew(self) -> bool:
        """The warm-up has learnt the wrong labels, and networks that know the same pick the same."""
        return True

    @property
    def share(self) -> float:
        """R(T) of this epoch."""
        return 1 - self.method.rate * min(self.epoch / self.method.ramp, 1)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """Equal weights of what the second network picks; its own gradient is of what the first one picks."""
        peer = self._peer_for(forward)
        other = Forward(
            *(peer.model, peer.optimiser, forward.batch),
            seed=derive_seed(forward.seed, "peer"),
            autocast=forward.passes.autocast,
        )
        known = self.is_bought[ids]
        for_peer = picked(forward.losses.detach(), known, self.share)
        own = picked(other.losses.detach(), known, self.share)
        (for_peer / for_peer.sum() * other.losses).sum().backward()
        peer.batches += 1
        self.rates = [group["lr"] for group in forward.optimiser.param_groups]
        return StepObjective(own / own.sum())

    def _peer_for(self, forward: Forward) -> Peer:
        if self.peer is None:
            self.peer = Peer(forward)
            if self.loaded:
                self.peer.load_state_dict(self.loaded)
                self.loaded = {}
        return self.peer

    def after_step(self, params: Params) -> None:
        """The second network's step."""
        assert self.peer is not None  # a step was asked for before
        self.peer.step(self.rates)

    def epoch_end(self, epoch: int) -> None:
        """So many epochs are over."""
        self.epoch = epoch

    def state_dict(self) -> State:
        """The epoch, and all of the second network."""
        state = self.loaded if self.peer is None else self.peer.state_dict()
        return {"epoch": torch.tensor(self.epoch), **{f"peer.{name}": value for name, value in state.items()}}

    def load_state_dict(self, state: State) -> None:
        """The same; the second network takes it when it is made."""
        self.epoch, self.peer, self.loaded = int(state["epoch"]), None, strip_prefix(state, "peer.")
