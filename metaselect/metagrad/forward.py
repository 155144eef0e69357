"""The meta-gradient core: what one more unit of weight on each training sample does to the meta loss.

Every meta re-weighter needs dF_m(theta_hat)/dw_i, where theta_hat is one step of the real optimiser from theta
with sample weights w. By the chain rule,

    dF_m/dw_i = -c s_i,      s_i = <grad f_i(theta), v>,      v = grad F_m(theta_hat),

with f_i the loss of training sample i and c the optimiser's rate (``optimisers``; Adam's also has a slope for each
parameter, which goes into v). The vector s is the derivative of the batch's loss *vector* along v: one forward-mode
product (``products``), no second-order graph, and exact also where samples are coupled by BatchNorm in train mode.

Where only some parameters take the virtual step (``Forward.restrict_to``), the same holds with v theirs alone.

Source: Ren et al. 2018 (arXiv:1803.09050) Eq. 6-7, Shu et al. 2019 (arXiv:1902.07379), Wu et al. 2023
(arXiv:2302.04418) Eq. 3 and 6. Differs: they differentiate through the virtual step; the result is the same.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.metagrad.jvp import JvpSolver, LossPasses, Params
from metaselect.metagrad.virtual_step import SteppedParameter, step_parameter, virtual_rate
from metaselect.models.batch import Batch, frozen_statistics, full_precision
from metaselect.models.build import last_linear
from metaselect.random import seeded_globals

MIN_META_SAMPLES = 8  # below this many meta samples their batch statistics say nothing
CHECKED_SAMPLES = 4  # samples that the way of the product is checked on


class VirtualParams(NamedTuple):
    """theta_hat, one step of the optimiser ahead.

    Attributes:
        params: of those that take the step.
        slopes: how much each entry follows its gradient, in units of the rate; a parameter that is not there: 1.
    """

    params: Params
    slopes: Params


class JointHidden(NamedTuple):
    """What the last linear layer is given in one pass over the training and the meta batch, without a graph.

    Attributes:
        hidden: (B, d), at least float32.
        meta_hidden: (m, d), the same.
    """

    hidden: torch.Tensor
    meta_hidden: torch.Tensor


class Forward:
    """The forward pass of one training batch, and what a re-weighter may ask of it.

    ``losses``, ``logits`` and ``hidden`` come from the one pass that moves BatchNorm's running statistics and
    that the step is taken from; it is run when first asked for, so that a method that does not need it before
    v is known never holds its graph beside the meta pass. Dropout draws the same mask in all passes.
    Parameters that are frozen, or that no output depends on, stay as they are.

    Args:
        model: in train mode.
        optimiser: the one that will take the step; its state enters ``virtual_step``.
        batch: B training samples.
        seed: of the dropout masks of this step.
        autocast: run the passes in bfloat16.
        meta_running_statistics: the meta set has fewer than 8 distinct samples, so its pass normalises with running
            statistics.
        jvp_solver: the way that ``jvp`` takes; one for a whole training, which is checked once.
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
        self.seed, self.autocast, self.meta_running_statistics = seed, autocast, meta_running_statistics
        self.jvp_solver = JvpSolver() if jvp_solver is None else jvp_solver
        self.params: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.stepped_params = self.params
        self._inputs = batch.inputs
        self._kept_gradient: tuple[torch.Tensor, Params] | None = None

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self._run(self._inputs)

    def _run(self, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, and what the last linear layer is given."""
        caught: list[torch.Tensor] = []
        hook = last_linear(self.model).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            with self._autocast_and_seed():
                logits = self.model(inputs)
        finally:
            hook.remove()
        return full_precision(logits), caught

    def joint_hidden(self, meta_batch: Batch) -> JointHidden:
        """One train-mode pass over both batches, which share their statistics; the running ones stay."""
        count = len(self.batch.inputs)
        with torch.no_grad(), frozen_statistics(self.model):
            _, caught = self._run(torch.cat([self.batch.inputs, meta_batch.inputs]))
        hidden = full_precision(caught[0])
        return JointHidden(hidden[:count], hidden[count:])

    def replace_inputs(self, inputs: torch.Tensor) -> None:
        """Take the step on other inputs, (B', ...): mixed ones, say; the pass over the batch's own is forgotten."""
        self._inputs, self._kept_gradient = inputs, None
        for name in ("_pass", "losses"):
            self.__dict__.pop(name, None)

    def restrict_to(self, names: Collection[str]) -> None:
        """From here on, only these parameters take the virtual step; v and s are theirs alone."""
        self.stepped_params = {name: p for name, p in self.params.items() if name in names}

    @property
    def logits(self) -> torch.Tensor:
        """(B, K), at least float32, with its graph."""
        return self._pass[0]

    @property
    def hidden(self) -> torch.Tensor:
        """(B, d), the input of the last linear layer, with its graph."""
        return self._pass[1][0]

    @cached_property
    def losses(self) -> torch.Tensor:
        """(B,) cross-entropy of each sample with its given label, with its graph."""
        return F.cross_entropy(self.logits, self.batch.labels, reduction="none")

    def virtual_step(self, weights: torch.Tensor, *, keep_gradient: bool = False) -> VirtualParams:
        """One step of the real optimiser on ``sum_i weights_i f_i``.

        Nothing is changed: the optimiser's state and weight decay enter through their current values.

        Args:
            weights: (B,), factors of the loss *sum*, without a graph.
            keep_gradient: hold the gradient, as large as the model, for a ``backward`` with these very weights.
        """
        gradients = self._gradients(weights, self.stepped_params, retain_graph=True)
        self._kept_gradient = (weights, gradients) if keep_gradient else None
        ahead = {
            name: step_parameter(self.optimiser, p, gradients[name])
            if name in gradients
            else SteppedParameter(p.detach(), None)
            for name, p in self.stepped_params.items()  # what is unused stays, as torch's optimisers leave it
        }
        slopes = {name: found.slope for name, found in ahead.items() if found.slope is not None}
        return VirtualParams({name: found.value for name, found in ahead.items()}, slopes)

    def _gradients(self, weights: torch.Tensor, of: Params, *, retain_graph: bool) -> Params:
        """The gradient of ``sum_i weights_i f_i`` in those parameters that it depends on."""
        found = torch.autograd.grad(
            (weights * self.losses).sum(), list(of.values()), retain_graph=retain_graph, allow_unused=True
        )
        return {name: value for name, value in zip(of, found, strict=True) if value is not None}

    def backward(self, weights: torch.Tensor, share: float = 1.0) -> None:
        """Add ``share`` times the gradient of ``sum_i weights_i f_i`` to the parameters' ``grad``.

        No second backward pass is run where ``virtual_step`` kept the gradient of these very weights by all parameters.
        """
        if (
            self._kept_gradient is None
            or self._kept_gradient[0] is not weights
            or len(self.stepped_params) < len(self.params)
        ):
            (share * (weights * self.losses).sum()).backward()  # type: ignore[no-untyped-call]
            return
        for name, value in self._kept_gradient[1].items():
            own = self.params[name]
            own.grad = share * value if own.grad is None else own.grad + share * value

    @property
    def virtual_rate(self) -> float:
        """c, the unit of s: more weight for sample i changes F_m by -c s_i."""
        return virtual_rate(self.optimiser)

    def meta_grad(self, meta_batch: Batch, ahead: VirtualParams | None = None) -> Params:
        """v: the gradient of the mean cross-entropy of the meta batch, times the slopes of the virtual step.

        Args:
            meta_batch: m samples with bought labels.
            ahead: where; None is theta itself.
        """
        if ahead is None:
            at = {name: p.detach().requires_grad_() for name, p in self.stepped_params.items()}
        else:
            at = {name: p.requires_grad_() for name, p in ahead.params.items()}
        still = {name: p.detach() for name, p in self.params.items() if name not in at}
        with (
            frozen_statistics(self.model, use_running=self.meta_running_statistics),
            self._autocast_and_seed(),
        ):
            logits = functional_call(self.model, at | still, (meta_batch.inputs,))
        loss = F.cross_entropy(full_precision(logits), meta_batch.labels)
        found = torch.autograd.grad(loss, list(at.values()), allow_unused=True, materialize_grads=True)
        slopes = {} if ahead is None else ahead.slopes
        return {
            name: value * slopes[name] if name in slopes else value
            for name, value in zip(at, found, strict=True)
        }

    def jvp(self, v: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """s: (B,), the derivative of each sample's loss along v, at theta.

        Taken through the pass of ``losses`` where the model allows it, so ask for it before the backward pass.
        """
        passes = LossPasses(
            self.stepped_params,
            lambda: self.losses,
            lambda params: self._losses_at(params, self.batch),
            self.autocast,
        )
        return self.jvp_solver(passes, dict(v), self._float64_passes)

    def _losses_at(self, tensors: Params, batch: Batch) -> torch.Tensor:
        """(B,) losses with other parameters (or buffers) in place of the model's, by a pass of their own."""
        with frozen_statistics(self.model), self._autocast_and_seed():
            logits = functional_call(self.model, tensors, (batch.inputs,))
        return F.cross_entropy(full_precision(logits), batch.labels, reduction="none")

    def _float64_passes(self) -> LossPasses:
        """Passes of a few samples, on copies of all that the model holds."""
        # Apple's GPUs know no float64.
        wide = torch.float32 if self.batch.inputs.device.type == "mps" else torch.float64

        def copied(value: torch.Tensor) -> torch.Tensor:
            return value.detach().to(wide if value.is_floating_point() else value.dtype, copy=True)

        batch = Batch(copied(self.batch.inputs[:CHECKED_SAMPLES]), self.batch.labels[:CHECKED_SAMPLES])
        held = {name: copied(value) for name, value in self.model.named_parameters()}
        held |= {name: copied(value) for name, value in self.model.named_buffers()}
        params = {name: held.pop(name).requires_grad_() for name in self.stepped_params}
        twin = Forward(self.model, self.optimiser, batch, seed=self.seed)

        def losses_at(at: Params) -> torch.Tensor:
            return twin._losses_at(held | at, batch)

        return LossPasses(params, lambda: losses_at(params), losses_at, autocast=False)

    @contextmanager
    def _autocast_and_seed(self) -> Iterator[None]:
        """Autocast, and the seed of this step's masks, since a model may draw from the global generators anywhere."""
        device = self.batch.inputs.device
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
            seeded_globals(self.seed, device),
        ):
            yield
