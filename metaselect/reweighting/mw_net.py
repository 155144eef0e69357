"""Meta-Weight-Net: a small net from a sample's loss to its weight, trained by the meta gradient.

Source: Shu, Xie, Yi, Zhao, Zhou, Xu, Meng 2019 (arXiv:1902.07379); constants (100 hidden units, Adam 1e-3, weight decay
1e-4, loss detached, weights not normalised) are those of the authors' stable implementation for label noise.
Differs: the virtual step is the real optimiser's (theirs: plain gradient); with the default of no momentum and no
weight decay they are the same.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from metaselect.errors import UsageError
from metaselect.gradients import Batch, Forward
from metaselect.reweighting import Start, State, StepWeights, below
from metaselect.streams import seeded_globals


@dataclass(frozen=True)
class MetaWeightNet:
    """Hyper-parameters.

    Attributes:
        hidden: units of the weight net's one hidden layer.
        net_lr: Adam's rate for the weight net.
        net_weight_decay: its L2 factor.
    """

    hidden: int = 100
    net_lr: float = 1e-3
    net_weight_decay: float = 1e-4
    meta: ClassVar[bool] = True
    joint_batch: ClassVar[bool] = False
    weight_kind: ClassVar[str] = "weight net"

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.net_lr < math.inf or not 0 <= self.net_weight_decay < math.inf:
            raise UsageError(
                f"--option hidden={self.hidden}, net_lr={self.net_lr:g} or "
                f"net_weight_decay={self.net_weight_decay:g} is out of range.",
                "hidden is at least 1, net_lr above 0, net_weight_decay at least 0; all are finite.",
            )

    def begin(self, start: Start) -> "MetaWeightNetRun":
        """A freshly drawn weight net and its optimiser."""
        seed = int(torch.randint(2**62, (), generator=start.generator))
        with seeded_globals(seed):
            net = nn.Sequential(nn.Linear(1, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1), nn.Sigmoid())
        net.to(start.device)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.net_lr, weight_decay=self.net_weight_decay)
        return MetaWeightNetRun(net, optimiser)


class MetaWeightNetRun:
    """V(loss; Phi) and Phi's optimiser."""

    def __init__(self, net: nn.Module, optimiser: torch.optim.Adam) -> None:
        self.net, self.optimiser = net, optimiser

    def step(self, forward: Forward, meta_batch: Batch, ids: torch.Tensor, lr: float) -> StepWeights:
        """One step on Phi along dF_m/dPhi = -c sum_i s_i dw_i/dPhi, then weights from the new Phi."""
        del ids, lr
        losses = forward.losses.detach()[:, None]
        weights = self.net(losses)[:, 0] / len(losses)
        ahead = forward.virtual(weights.detach())
        s = forward.jvp(forward.meta_grad(meta_batch, ahead))
        self.optimiser.zero_grad()
        # A linear surrogate whose gradient in Phi is the meta gradient.
        (-forward.step_factor * (s.detach() * weights).sum()).backward()
        self.optimiser.step()
        with torch.no_grad():
            return StepWeights(self.net(losses)[:, 0] / len(losses))

    def epoch_end(self, epoch: int) -> None:
        """Nothing to do."""

    def pool_weights(self, losses: torch.Tensor) -> torch.Tensor:
        """V at the final model's losses."""
        with torch.no_grad():
            weights: torch.Tensor = self.net(losses[:, None])[:, 0]
        return weights

    def state_dict(self) -> State:
        """Phi and Adam's moments and step counts."""
        state = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for position, parameter in enumerate(self.net.parameters()):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                state[f"adam.{position}.{name}"] = value
        return state

    def load_state_dict(self, state: State) -> None:
        """Phi and Adam's moments and step counts."""
        self.net.load_state_dict(below(state, "net."))
        for position, parameter in enumerate(self.net.parameters()):
            self.optimiser.state[parameter] = {
                name: value.to(parameter.device) if value.dim() else value
                for name, value in below(state, f"adam.{position}.").items()
            }
