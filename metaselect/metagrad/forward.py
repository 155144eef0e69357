"""The meta-gradient core: what one more unit of weight on each training sample does to the meta loss.

Every meta re-weighter needs dF_m(theta_hat)/dw_i, where theta_hat is one step of the real optimiser from theta
with sample weights w. By the chain rule,

    dF_m/dw_i = -c s_i,      s_i = <grad f_i(theta), v>,      v = grad F_m(theta_hat),

with f_i the loss of training sample i and c the optimiser's rate (``optimisers``; Adam's also has a slope for each
parameter, which goes into v). The vector s is the derivative of the batch's loss *vector* along v: one forward-mode
product (``products``), no second-order graph, and exact also where samples are coupled by BatchNorm in train mode.

Where only some parameters take the virtual step (``Forward.within``), the same holds with v theirs alone.

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

from metaselect.metagrad.jvp import JvpSolver, Params, Passes
from metaselect.metagrad.virtual_step import Ahead, rate, step_ahead
from metaselect.models.batch import Batch, frozen_statistics, full_precision
from metaselect.models.build import last_linear
from metaselect.random import seeded_globals

FEW_DISTINCT = 8  # below this many meta samples their batch statistics say nothing
FEW_CHECKED = 4  # samples that the way of the product is checked on


class Virtual(NamedTuple):
    """theta_hat, one step of the optimiser ahead.

    Attributes:
        params: of those that take the step.
        slopes: how much each entry follows its gradient, in units of the rate; a parameter that is not there: 1.
    """

    params: Params
    slopes: Params


class Joint(NamedTuple):
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
        optimiser: the one that will take the step; its state enters ``virtual``.
        batch: B training samples.
        seed: of the dropout masks of this step.
        autocast: run the passes in bfloat16.
        few_distinct: the meta set has fewer than 8 distinct samples, so its pass normalises with running
            statistics.
        product: the way that ``jvp`` takes; one for a whole training, which is checked once.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        batch: Batch,
        *,
        seed: int = 0,
        autocast: bool = False,
        few_distinct: bool = False,
        product: JvpSolver | None = None,
    ) -> None:
        self.model, self.optimiser, self.batch = model, optimiser, batch
        self.seed, self.autocast, self.few_distinct = seed, autocast, few_distinct
        self.product = JvpSolver() if product is None else product
        self.params: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.moving = self.params
        self._inputs = batch.inputs
        self._pulled: tuple[torch.Tensor, Params] | None = None

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self._run(self._inputs)

    def _run(self, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, and what the last linear layer is given."""
        caught: list[torch.Tensor] = []
        hook = last_linear(self.model).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            with self._circumstances():
                logits = self.model(inputs)
        finally:
            hook.remove()
        return full_precision(logits), caught

    def joint(self, meta_batch: Batch) -> Joint:
        """One train-mode pass over both batches, which share their statistics; the running ones stay."""
        count = len(self.batch.inputs)
        with torch.no_grad(), frozen_statistics(self.model):
            _, caught = self._run(torch.cat([self.batch.inputs, meta_batch.inputs]))
        hidden = full_precision(caught[0])
        return Joint(hidden[:count], hidden[count:])

    def step_on(self, inputs: torch.Tensor) -> None:
        """Take the step on other inputs, (B', ...): mixed ones, say; the pass over the batch's own is forgotten."""
        self._inputs, self._pulled = inputs, None
        for name in ("_pass", "losses"):
            self.__dict__.pop(name, None)

    def within(self, names: Collection[str]) -> None:
        """From here on, only these parameters take the virtual step; v and s are theirs alone."""
        self.moving = {name: p for name, p in self.params.items() if name in names}

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

    def virtual(self, weights: torch.Tensor, *, keep: bool = False) -> Virtual:
        """One step of the real optimiser on ``sum_i weights_i f_i``.

        Nothing is changed: the optimiser's state and weight decay enter through their current values.

        Args:
            weights: (B,), factors of the loss *sum*, without a graph.
            keep: hold the gradient, as large as the model, for a ``backward`` with these very weights.
        """
        gradients = self._gradients(weights, self.moving, retain_graph=True)
        self._pulled = (weights, gradients) if keep else None
        ahead = {
            name: step_ahead(self.optimiser, p, gradients[name])
            if name in gradients
            else Ahead(p.detach(), None)
            for name, p in self.moving.items()  # what is unused stays, as torch's optimisers leave it
        }
        slopes = {name: found.slope for name, found in ahead.items() if found.slope is not None}
        return Virtual({name: found.value for name, found in ahead.items()}, slopes)

    def _gradients(self, weights: torch.Tensor, of: Params, *, retain_graph: bool) -> Params:
        """The gradient of ``sum_i weights_i f_i`` in those parameters that it depends on."""
        found = torch.autograd.grad(
            (weights * self.losses).sum(), list(of.values()), retain_graph=retain_graph, allow_unused=True
        )
        return {name: value for name, value in zip(of, found, strict=True) if value is not None}

    def backward(self, weights: torch.Tensor, share: float = 1.0) -> None:
        """Add ``share`` times the gradient of ``sum_i weights_i f_i`` to the parameters' ``grad``.

        No second backward pass is run where ``virtual`` kept the gradient of these very weights, by all parameters.
        """
        if self._pulled is None or self._pulled[0] is not weights or len(self.moving) < len(self.params):
            (share * (weights * self.losses).sum()).backward()  # type: ignore[no-untyped-call]
            return
        for name, value in self._pulled[1].items():
            own = self.params[name]
            own.grad = share * value if own.grad is None else own.grad + share * value

    @property
    def rate(self) -> float:
        """c, the unit of s: more weight for sample i changes F_m by -c s_i."""
        return rate(self.optimiser)

    def meta_grad(self, meta_batch: Batch, ahead: Virtual | None = None) -> Params:
        """v: the gradient of the mean cross-entropy of the meta batch, times the slopes of the virtual step.

        Args:
            meta_batch: m samples with bought labels.
            ahead: where; None is theta itself.
        """
        if ahead is None:
            at = {name: p.detach().requires_grad_() for name, p in self.moving.items()}
        else:
            at = {name: p.requires_grad_() for name, p in ahead.params.items()}
        still = {name: p.detach() for name, p in self.params.items() if name not in at}
        with frozen_statistics(self.model, use_running=self.few_distinct), self._circumstances():
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
        passes = Passes(
            self.moving,
            lambda: self.losses,
            lambda params: self._losses_at(params, self.batch),
            self.autocast,
        )
        return self.product(passes, dict(v), self._few_in_float64)

    def _losses_at(self, tensors: Params, batch: Batch) -> torch.Tensor:
        """(B,) losses with other parameters (or buffers) in place of the model's, by a pass of their own."""
        with frozen_statistics(self.model), self._circumstances():
            logits = functional_call(self.model, tensors, (batch.inputs,))
        return F.cross_entropy(full_precision(logits), batch.labels, reduction="none")

    def _few_in_float64(self) -> Passes:
        """Passes of a few samples, on copies of all that the model holds."""
        # Apple's GPUs know no float64.
        wide = torch.float32 if self.batch.inputs.device.type == "mps" else torch.float64

        def copied(value: torch.Tensor) -> torch.Tensor:
            return value.detach().to(wide if value.is_floating_point() else value.dtype, copy=True)

        batch = Batch(copied(self.batch.inputs[:FEW_CHECKED]), self.batch.labels[:FEW_CHECKED])
        held = {name: copied(value) for name, value in self.model.named_parameters()}
        held |= {name: copied(value) for name, value in self.model.named_buffers()}
        params = {name: held.pop(name).requires_grad_() for name in self.moving}
        twin = Forward(self.model, self.optimiser, batch, seed=self.seed)

        def losses_at(at: Params) -> torch.Tensor:
            return twin._losses_at(held | at, batch)

        return Passes(params, lambda: losses_at(params), losses_at, autocast=False)

    @contextmanager
    def _circumstances(self) -> Iterator[None]:
        """Autocast, and the seed of this step's masks, since a model may draw from the global generators anywhere."""
        device = self.batch.inputs.device
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
            seeded_globals(self.seed, device),
        ):
            yield
