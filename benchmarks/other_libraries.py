"""The meta step by two libraries for differentiable optimisation, each used as its documentation shows.

``higher`` records the virtual step of the real optimiser on a copy of the model and differentiates through it: second
order, exact. Betty's default ("darts") takes central differences instead: two more passes over the training batch, each
with a gradient for the weight net, at theta +- 0.01 v / |v|. They leave out the optimiser's rate and state, and include
the dependence of the weights on the losses there, which Meta-Weight-Net holds fixed. By default the step is taken
first, with the old net's weights; v and the differences are taken at the theta that follows, and BatchNorm's running
statistics change in all four passes. With ``roll_back`` theta and the statistics are restored after that, and the step
is taken again with the new net's weights; v and the differences are the same.

``higher`` is in the extra ``bench``. Betty is not: 0.2.1 declares Python below 3.11, and pip since 24.1 does not read
what 0.1 declares. It works with

    pip install --ignore-requires-python --no-deps betty-ml==0.2.1
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.reweighting.l2rw import rectify_and_normalise


def installed_libraries() -> list[str]:
    """Names of the libraries that are installed; prints the others."""
    installed = []
    for name in ("higher", "betty"):
        if find_spec(name):
            installed.append(name)
        else:
            print(f"{name} is left out: it is not installed")
    return installed


def library_steps(names: list[str]) -> dict[str, Callable[..., Any]]:
    """A training step for each arm of the named libraries, by the arm's name."""
    steps: dict[str, Callable[..., Any]] = {}
    if "higher" in names:
        steps |= {"higher, l2rw": higher_l2rw, "higher, mw-net": higher_mw_net()}
    if "betty" in names:
        steps |= {"betty, mw-net": betty_mw_net(), "betty, mw-net, roll_back": betty_mw_net(roll_back=True)}
    return steps


def weight_net(device: Any) -> Any:
    """Meta-Weight-Net's net and optimiser, with the constants of ours."""
    net = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid()).to(device)
    return net, torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)


def weighted_step(model: Any, optimiser: Any, batch: Any, weights: Any) -> Any:
    """The real step with known weights, by a separate forward pass."""
    loss = (weights * F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return weights


def higher_l2rw(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> Any:
    """Learning to reweight by ``innerloop_ctx``; the virtual step has the optimiser's momentum, unlike the paper's."""
    import higher

    with higher.innerloop_ctx(model, optimiser) as (virtual_model, virtual_optimiser):
        losses = F.cross_entropy(virtual_model(batch.inputs), batch.labels, reduction="none")
        epsilon = torch.zeros_like(losses, requires_grad=True)
        virtual_optimiser.step((epsilon * losses).sum())
        meta_loss = F.cross_entropy(virtual_model(meta_batch.inputs), meta_batch.labels)
        weights = rectify_and_normalise(-torch.autograd.grad(meta_loss, epsilon)[0])
    return weighted_step(model, optimiser, batch, weights)


def higher_mw_net() -> Any:
    """Meta-Weight-Net by ``innerloop_ctx``."""
    import higher

    nets: list[Any] = []

    def step(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> Any:
        if not nets:
            nets.extend(weight_net(batch.labels.device))
        net, net_optimiser = nets
        with higher.innerloop_ctx(model, optimiser) as (virtual_model, virtual_optimiser):
            losses = F.cross_entropy(virtual_model(batch.inputs), batch.labels, reduction="none")
            virtual_optimiser.step((net(losses.detach()[:, None])[:, 0] * losses).mean())
            meta_loss = F.cross_entropy(virtual_model(meta_batch.inputs), meta_batch.labels)
            net_optimiser.zero_grad()
            meta_loss.backward()
            net_optimiser.step()
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        with torch.no_grad():
            weights = net(losses[:, None])[:, 0] / len(losses)
        optimiser.zero_grad()
        (weights * losses).sum().backward()
        optimiser.step()
        return weights

    return step


def betty_mw_net(*, roll_back: bool = False) -> Any:
    """Meta-Weight-Net as two of Betty's problems, each with one batch."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    class Outer(ImplicitProblem):
        def training_step(self, batch: Any) -> Any:
            inputs, labels = batch
            return F.cross_entropy(self.inner(inputs), labels)

    class Inner(ImplicitProblem):
        def training_step(self, batch: Any) -> Any:
            inputs, labels = batch
            losses = F.cross_entropy(self.forward(inputs), labels, reduction="none")
            return (self.outer(losses.detach()[:, None])[:, 0] * losses).mean()

    engines: list[Any] = []

    def step(model: Any, optimiser: Any, batch: Any, meta_batch: Any) -> None:
        if not engines:
            logging.getLogger("betty").disabled = True
            net, net_optimiser = weight_net(batch.labels.device)
            outer = Outer("outer", Config(retain_graph=True), net, net_optimiser, None, [meta_batch])
            inner = Inner("inner", Config(), model, optimiser, None, [batch])
            settings = EngineConfig(roll_back=roll_back)
            above_below = {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}}
            engines.append(Engine([outer, inner], settings, above_below))
        engines[0].train_step()

    return step
