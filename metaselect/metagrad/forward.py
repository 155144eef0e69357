"""The forward pass of a training step, and the meta gradient with respect to its sample weights.

Every meta re-weighter needs dF_m(theta_hat)/dw_i, the change of the meta loss with the weight of sample i, where
theta_hat is one step of the real optimiser from theta with sample weights w. By the chain rule,

    dF_m/dw_i = -c s_i,      s_i = <grad f_i(theta), v>,      v = grad F_m(theta_hat),

with f_i the loss of training sample i, F_m the mean loss of the meta batch, and c the rate of the virtual step
(``virtual_step.virtual_rate``), as for SGD. Adam's step is not linear in the gradient: there v is multiplied, entry by
entry, with the slope, the derivative of the step by the gradient divided by c. The vector s is the derivative of the
batch's loss *vector* along v: one Jacobian-vector product (``jvp``), no second-order graph, and exact also where
BatchNorm in train mode couples the samples. Where only some parameters take the virtual step (``Forward.restrict_to``),
v and s are of these alone.

Source: Ren et al. 2018 (arXiv:1803.09050) Eq. 6-7, Shu et al. 2019 (arXiv:1902.07379), Wu et al. 2023
(arXiv:2302.04418) Eq. 3 and 6.
Differs: they differentiate through the virtual step; the result is the same.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.metagrad.jvp import JvpSolver
from metaselect.metagrad.jvp_strategies import LossPasses
from metaselect.metagrad.model_passes import ModelPasses
from metaselect.metagrad.virtual_step import (
    SteppedParameter,
    relative_rate,
    step_parameter,
    virtual_rate,
)
from metaselect.models.batch import Batch, frozen_statistics, full_precision
from metaselect.models.parameters import Params
from metaselect.ranks import Division, all_sums, divide

MIN_META_SAMPLES = 8  # with fewer distinct meta samples their batch statistics are too noisy to normalise by


class VirtualParams(NamedTuple):
    """theta_hat: the parameters after one virtual step of the optimiser.

    Attributes:
        params: theta_hat of each parameter that takes the step.
        slopes: for each entry of a parameter, the derivative of its step by its gradient, divided by c; a parameter
            that is missing has slope 1 (SGD, at the rate of the first group).
    """

    params: Params
    slopes: Params


class JointHidden(NamedTuple):
    """Inputs of the last linear layer in one pass over the training and the meta batch, without a graph.

    Attributes:
        hidden: (B, d), at least float32.
        meta_hidden: (m, d), at least float32.
    """

    hidden: torch.Tensor
    meta_hidden: torch.Tensor


class Forward:
    """The forward pass of one training batch, and what a re-weighter computes from it.

    ``losses``, ``logits`` and ``hidden`` come from the one pass that updates BatchNorm's running statistics and whose
    gradient the real step takes. It runs when one of them is first read: a method that needs none of them before v is
    known never holds its graph and that of the meta pass at the same time. Dropout draws the same mask in all passes.
    Parameters that are frozen, or that no output depends on, keep their value.

    Args:
        model: in train mode.
        optimiser: of the real step; ``virtual_step`` uses its state and changes none of it.
        batch: B training samples; of several ranks, the labels of all B, and the inputs of this rank's rows.
        seed: of the dropout masks of this step.
        autocast: run the passes in bfloat16.
        meta_running_statistics: normalise the meta pass with the running statistics of BatchNorm, for a meta set of
            fewer than ``MIN_META_SAMPLES`` distinct samples.
        jvp_solver: computes ``jvp``; one for a whole training, since it checks its strategy once.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        batch: Batch,
        *,
        seed: int = 0,
        autocast: bool = False,
        meta_running_statistics: bool = False,
        jvp_solver: JvpSolver | None = None,
    ) -> None:
        self.model, self.optimiser, self.batch = model, optimiser, batch
        self.seed, self.meta_running_statistics = seed, meta_running_statistics
        self.passes = ModelPasses(model, seed, autocast)
        self.jvp_solver = JvpSolver() if jvp_solver is None else jvp_solver
        self.params: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.stepped_params = self.params
        self.rows = divide(len(batch.labels))
        self._inputs = batch.inputs
        self._kept_gradient: tuple[torch.Tensor, Params] | None = None

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (b, K), and a list with the input (b, d) of the last linear layer, of this rank's rows."""
        return self.passes.with_hidden(self._inputs, self.rows)

    def joint_hidden(self, meta_batch: Batch) -> JointHidden:
        """The hidden features of one train-mode pass over both batches, with joint batch statistics.

        Running statistics do not change.
        """
        count, others, theirs = len(self.batch.inputs), meta_batch.inputs, divide(len(meta_batch.labels))
        if self.rows.is_split and not theirs.is_split:  # fewer than ranks: the first one has all of them
            theirs = Division((theirs.total, *[0] * (len(self.rows.sizes) - 1)))
            others = others[theirs.own]
        with torch.no_grad(), frozen_statistics(self.model):
            _, captured = self.passes.with_hidden(torch.cat([self.batch.inputs, others]), self.rows, theirs)
        hidden = full_precision(captured[0])  # (b + b', d)
        return JointHidden(self.rows.joined(hidden[:count]), theirs.joined(hidden[count:]))

    @cached_property
    def inputs(self) -> torch.Tensor:
        """(B, ...), the inputs of all training samples; of several ranks, exchanged."""
        return divide(len(self.batch.labels)).joined(self.batch.inputs)

    def replace_inputs(self, inputs: torch.Tensor) -> None:
        """Use other inputs (B', ...), such as mixed ones, for the step; a pass that was run already is dropped."""
        self.rows = divide(len(inputs))
        self._inputs, self._kept_gradient = inputs[self.rows.own], None
        for name in ("_pass", "_own_losses", "losses", "logits"):
            self.__dict__.pop(name, None)

    def restrict_to(self, names: Collection[str]) -> None:
        """Let only the parameters ``names`` take the virtual step from here on; v and s are of these alone."""
        self.stepped_params = {name: p for name, p in self.params.items() if name in names}

    @cached_property
    def logits(self) -> torch.Tensor:
        """(B, K), at least float32, with its graph, of this rank's rows."""
        return self.rows.joined(self._pass[0])

    @property
    def hidden(self) -> torch.Tensor:
        """(B, d), the input of the last linear layer, with its graph."""
        return self.rows.joined(self._pass[1][0])

    @cached_property
    def losses(self) -> torch.Tensor:
        """(B,) cross-entropy of each sample with its given label, with its graph."""
        return self.rows.joined(self._own_losses)

    @cached_property
    def _own_losses(self) -> torch.Tensor:
        """(b,) of this rank's rows."""
        return F.cross_entropy(self._pass[0], self.batch.labels[self.rows.own], reduction="none")

    def virtual_step(self, weights: torch.Tensor, *, keep_gradient: bool = False) -> VirtualParams:
        """theta_hat: one step of the real optimiser on ``sum_i weights_i f_i``, as a copy.

        Momentum, Adam's moments and weight decay enter with their current values; none of them changes.

        Args:
            weights: (B,), factors of the loss *sum*, without a graph.
            keep_gradient: keep the gradient (memory of one model) for a ``backward`` with these same weights.
        """
        own = self._gradients(weights, self.stepped_params, retain_graph=True)
        self._kept_gradient = (weights, own) if keep_gradient else None
        gradients = self._summed(own, self.rows)
        stepped = {
            name: step_parameter(self.optimiser, p, gradients[name])
            if name in gradients
            else SteppedParameter(
                p.detach(), None
            )  # no gradient: torch's optimisers skip such a parameter too
            for name, p in self.stepped_params.items()
        }
        slopes = {name: step.slope for name, step in stepped.items() if step.slope is not None}
        return VirtualParams({name: step.value for name, step in stepped.items()}, slopes)

    def _gradients(self, weights: torch.Tensor, params: Params, *, retain_graph: bool) -> Params:
        """The gradient of ``sum_i weights_i f_i``, over this rank's rows, by each of ``params`` that it depends on."""
        loss = (weights[self.rows.own] * self._own_losses).sum()
        gradients = torch.autograd.grad(
            loss, list(params.values()), retain_graph=retain_graph, allow_unused=True
        )
        return {name: value for name, value in zip(params, gradients, strict=True) if value is not None}

    def _summed(self, gradients: Params, rows: Division) -> Params:
        """The sums over the ranks of gradients that each has by its part of ``rows``."""
        if not rows.is_split:
            return gradients
        return dict(zip(gradients, all_sums(list(gradients.values())), strict=True))

    def backward(self, weights: torch.Tensor, share: float = 1.0) -> None:
        """Add ``share`` times the gradient of ``sum_i weights_i f_i`` to ``grad``, over this rank's rows.

        The gradient that ``virtual_step`` kept is used instead of a second backward pass, where it is of the same
        weights and of all parameters.
        """
        if (
            self._kept_gradient is None
            or self._kept_gradient[0] is not weights
            or len(self.stepped_params) < len(self.params)
        ):
            (share * (weights[self.rows.own] * self._own_losses).sum()).backward()
            return
        for name, value in self._kept_gradient[1].items():
            parameter = self.params[name]
            parameter.grad = share * value if parameter.grad is None else parameter.grad + share * value

    @property
    def virtual_rate(self) -> float:
        """The rate c in ``dF_m/dw_i = -c s_i``; see ``virtual_step.virtual_rate``."""
        return virtual_rate(self.optimiser)

    def meta_grad(self, meta_batch: Batch, at: VirtualParams | None = None) -> Params:
        """v: the gradient of the mean cross-entropy of the meta batch, times the slopes of the virtual step.

        Args:
            meta_batch: m samples with bought labels.
            at: theta_hat, where the gradient is taken; None takes it at theta, for a virtual step of plain gradient
                descent at the rates of the optimiser.
        """
        if at is None:
            params = {name: p.detach().requires_grad_() for name, p in self.stepped_params.items()}
        else:
            params = {name: p.requires_grad_() for name, p in at.params.items()}
        constants = {name: p.detach() for name, p in self.params.items() if name not in params}
        rows = divide(len(meta_batch.labels))
        with frozen_statistics(self.model, use_running=self.meta_running_statistics):
            logits = self.passes.logits_at(params | constants, meta_batch.inputs, rows)
        # F_m, or this rank's part of it
        losses = F.cross_entropy(logits, meta_batch.labels[rows.own], reduction="sum")
        gradients = torch.autograd.grad(
            losses / rows.total, list(params.values()), allow_unused=True, materialize_grads=True
        )
        slopes = self._rates() if at is None else at.slopes
        return {
            name: value * slopes[name] if name in slopes else value
            for name, value in self._summed(dict(zip(params, gradients, strict=True)), rows).items()
        }

    def _rates(self) -> dict[str, float]:
        """The relative rate of each parameter whose group is not the optimiser's first one."""
        if len(self.optimiser.param_groups) == 1:
            return {}
        return {name: relative_rate(self.optimiser, p) for name, p in self.stepped_params.items()}

    def jvp(self, v: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """s: (B,), the derivative of each sample's loss along v, at theta.

        Call it before the backward pass: it uses the graph of ``losses`` where the model allows it.
        """
        passes = LossPasses(
            self.stepped_params,
            lambda: self._own_losses,
            lambda params: self.passes.losses_at(params, self.batch, self.rows),
            self.passes.autocast,
        )
        return self.rows.joined(
            self.jvp_solver(
                *(passes, dict(v)),
                lambda: self.passes.in_float64(self.batch, self.rows, self.stepped_params),
            )
        )
