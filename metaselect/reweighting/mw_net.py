"""Meta-Weight-Net: a small net from a sample's loss to its weight, trained by the meta gradient.

Source: Shu, Xie, Yi, Zhao, Zhou, Xu, Meng 2019 (arXiv:1902.07379). The defaults (100 hidden units, Adam 1e-3, weight
decay 1e-4, loss detached, weights not normalised) are those of the authors' stable implementation for label noise;
their two others are options: weights that sum to 1 (``normalised``), and, for long tails, a virtual step that also
moves through the net's input (``detached=False``). ``lagged`` takes the real step for the virtual one, with the net one
step behind, and so saves a backward pass.
Differs: the virtual step is the real optimiser's, with its momentum and weight decay (theirs: plain gradient). The two
are the same for SGD with --momentum 0 and --weight-decay 0; the default weight decay is 5e-4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.predictions import Predictions
from metaselect.random import seeded_globals
from metaselect.reweighting.base import (
    PRODUCTS,
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    require_option,
    strip_prefix,
)
from metaselect.reweighting.meta_gradient import MetaGradient, require_meta_options

NET_OPTIMISERS = ("adam", "sgd")


@dataclass(frozen=True)
class MetaWeightNet(Method):
    """Hyper-parameters.

    Attributes:
        hidden: units of the weight net's one hidden layer.
        net_optimiser: "adam", or "sgd" with Nesterov momentum 0.9.
        net_lr: its rate for the weight net.
        net_weight_decay: its L2 factor.
        normalised: the weights of a batch sum to 1 (else: to the sum of the net's outputs over B).
        detached: the virtual step takes the net's outputs for constants.
        lagged: the real step is the virtual one; the weights are the net's before its step.
        every: the meta gradient is computed once in so many steps.
        scope: "all", or the parameters that take the virtual step: "top" or "last".
    """

    hidden: int = 100
    net_optimiser: str = "adam"
    net_lr: float = 1e-3
    net_weight_decay: float = 1e-4
    normalised: bool = False
    detached: bool = True
    lagged: bool = False
    every: int = 1
    scope: str = "all"
    profiles: ClassVar[dict[str, dict[str, object]]] = {
        "long-tail": {  # the authors' implementation for class imbalance
            "net_optimiser": "sgd",
            "net_lr": 1e-5,
            "net_weight_decay": 5e-4,
            "normalised": True,
            "detached": False,
        }
    }
    excludes_bought: ClassVar[bool] = True
    trace: ClassVar[str] = PRODUCTS
    needs_bought: ClassVar[bool] = True
    weight_kind: ClassVar[str] = "weight net"

    def __post_init__(self) -> None:
        for name, holds, limits in (
            ("hidden", self.hidden >= 1, "at least 1"),
            ("net_lr", 0 < self.net_lr < math.inf, "above 0 and finite"),
            ("net_weight_decay", 0 <= self.net_weight_decay < math.inf, "at least 0 and finite"),
        ):
            require_option(self, name, limits, holds=holds)
        if self.net_optimiser not in NET_OPTIMISERS:
            raise UsageError(
                f"--option net_optimiser={self.net_optimiser} is not known.",
                f"One of {', '.join(NET_OPTIMISERS)}.",
            )
        if self.lagged and not self.detached:
            raise UsageError(
                "--option lagged=true takes the real step for the virtual one, which detached=false rules out.",
                "Leave out one of the two; --profile long-tail sets detached=false.",
            )
        require_meta_options(self.every, self.scope)

    def meta_batch_size(self, given: int | None, batch_size: int, bought: int) -> int:
        """All bought samples, at most a batch."""
        return min(given or batch_size, bought)

    def begin(self, start: Start) -> "MetaWeightNetRun":
        """A freshly drawn weight net and its optimiser."""
        # torch.nn draws initial values from the global generators alone.
        seed = int(torch.randint(2**62, (), generator=start.generator))
        with seeded_globals(seed):
            net = nn.Sequential(nn.Linear(1, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1), nn.Sigmoid())
        net.to(start.device)
        return MetaWeightNetRun(self, net)


class MetaWeightNetRun(MethodRun):
    """V(loss; Phi) and Phi's optimiser."""

    def __init__(self, hyper: MetaWeightNet, net: nn.Module) -> None:
        self.hyper, self.net = hyper, net
        parameters, lr, decay = net.parameters(), hyper.net_lr, hyper.net_weight_decay
        self.optimiser: torch.optim.Optimizer
        if hyper.net_optimiser == "adam":
            self.optimiser = torch.optim.Adam(parameters, lr, weight_decay=decay)
        else:
            self.optimiser = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=decay, nesterov=True)
        self.meta_gradient = MetaGradient(hyper.every, hyper.scope)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """One step on Phi along dF_m/dPhi = -c sum_i s_i dw_i/dPhi, then weights from the new Phi."""
        losses = forward.losses.detach()  # (B,)
        virtual = self._virtual_weights(losses)
        at = virtual.detach()
        s = self.meta_gradient.of(forward, meta_batch, at, keep_gradient=self.hyper.lagged)
        self.optimiser.zero_grad()
        # A linear surrogate whose gradient in Phi is the meta gradient.
        (-forward.virtual_rate * (s.detach() * virtual).sum()).backward()
        self.optimiser.step()
        if self.hyper.lagged:
            return StepObjective(at)
        with torch.no_grad():
            return StepObjective(self._weights(losses))

    def _weights(self, losses: torch.Tensor) -> torch.Tensor:
        """w: (B,), factors of the loss sum."""
        outputs: torch.Tensor = self.net(losses[:, None])[:, 0]
        if not self.hyper.normalised:
            return outputs / len(outputs)
        total = outputs.sum()
        return outputs / torch.where(total == 0, torch.ones_like(total), total)

    def _virtual_weights(self, losses: torch.Tensor) -> torch.Tensor:
        """(B,) factors of the samples' gradients in the virtual one: w, or d/df_i of sum_j w_j(f) f_j."""
        if self.hyper.detached:
            return self._weights(losses)
        # Without detaching, f_i also moves through its own weight: V(f_i) + f_i V'(f_i).
        losses.requires_grad_()
        weighted = (self._weights(losses) * losses).sum()
        return torch.autograd.grad(weighted, losses, create_graph=True)[0]

    def epoch_end(self, epoch: int) -> None:
        """The next epoch begins with a new v."""
        self.meta_gradient.epoch_end()

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """V at the final model's losses."""
        with torch.no_grad():
            weights: torch.Tensor = self.net(predictions.losses[:, None])[:, 0]
        return weights

    def state_dict(self) -> State:
        """Phi and its optimiser's tensors."""
        state = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for position, parameter in enumerate(self.net.parameters()):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                state[f"optimiser.{position}.{name}"] = value
        return state

    def load_state_dict(self, state: State) -> None:
        """Phi and its optimiser's tensors."""
        self.net.load_state_dict(strip_prefix(state, "net."))
        for position, parameter in enumerate(self.net.parameters()):
            self.optimiser.state[parameter] = {
                name: value.to(parameter.device) if value.dim() else value
                for name, value in strip_prefix(state, f"optimiser.{position}.").items()
            }
