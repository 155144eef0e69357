"""The meta-gradient core: what one more unit of weight on each training sample does to the meta loss.

Every meta re-weighter needs dF_m(theta_hat)/dw_i, where theta_hat is one step of the real optimiser from theta
with sample weights w. Because theta_hat is linear in the weighted gradient,

    dF_m/dw_i = -c s_i,      s_i = <grad f_i(theta), v>,      v = grad F_m(theta_hat),

with f_i the loss of training sample i and c the optimiser's factor (SGD: the rate; Nesterov: times 1 + mu). The
vector s is the derivative of the batch's loss *vector* along v: one forward-mode product, no second-order graph,
and exact also where samples are coupled by BatchNorm in train mode.

Source: Ren et al. 2018 (arXiv:1803.09050) Eq. 6-7, Shu et al. 2019 (arXiv:1902.07379), Wu et al. 2023
(arXiv:2302.04418) Eq. 3 and 6. Differs: they differentiate through the virtual step; the result is the same.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from metaselect.models import last_linear
from metaselect.streams import seeded_globals

Params: TypeAlias = dict[str, torch.Tensor]
"""Parameter name -> tensor of the parameter's shape."""

FEW_DISTINCT = 8  # below this many meta samples their batch statistics say nothing


def _load_forward_rules() -> None:
    """Make the first dual number, at which torch registers rules through an API that it warns about itself."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


_load_forward_rules()


class Batch(NamedTuple):
    """Inputs (B, ...) as the model takes them, and labels (B,) int64."""

    inputs: torch.Tensor
    labels: torch.Tensor


@contextmanager
def frozen_statistics(model: nn.Module, *, use_running: bool = False) -> Iterator[None]:
    """Passes in this block leave BatchNorm's running statistics (and its counter) alone.

    Args:
        model: the model.
        use_running: normalise with the running statistics (eval mode) instead of the batch's.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    saved = [(layer.track_running_stats, layer.training) for layer in layers]
    for layer in layers:
        if use_running:
            layer.eval()
        else:
            layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, (track, training) in zip(layers, saved, strict=True):
            layer.track_running_stats = track
            layer.training = training


def full_precision(logits: torch.Tensor) -> torch.Tensor:
    """The logits in float32 where autocast made them bfloat16: losses are never computed in half precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


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
    its weights are known never holds its graph beside the meta pass. Dropout draws the same mask in all passes.
    Parameters that are frozen, or that no output depends on, stay as they are.

    Args:
        model: in train mode.
        optimiser: the one that will take the step; its state enters ``virtual``.
        batch: B training samples.
        seed: of the dropout masks of this step.
        autocast: run the passes in bfloat16.
        few_distinct: the meta set has fewer than 8 distinct samples, so its pass normalises with running
            statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.SGD,
        batch: Batch,
        *,
        seed: int = 0,
        autocast: bool = False,
        few_distinct: bool = False,
    ) -> None:
        self.model, self.optimiser, self.batch = model, optimiser, batch
        self.seed, self.autocast, self.few_distinct = seed, autocast, few_distinct
        self.params: Params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._inputs = batch.inputs

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._run(self._inputs)

    def _run(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, and what the last linear layer is given."""
        caught: list[torch.Tensor] = []
        hook = last_linear(self.model).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            with self._circumstances():
                logits = self.model(inputs)
        finally:
            hook.remove()
        return full_precision(logits), caught[0]

    def joint(self, meta_batch: Batch) -> Joint:
        """One train-mode pass over both batches, which share their statistics; the running ones stay."""
        count = len(self.batch.inputs)
        with torch.no_grad(), frozen_statistics(self.model):
            _, hidden = self._run(torch.cat([self.batch.inputs, meta_batch.inputs]))
        hidden = full_precision(hidden)
        return Joint(hidden[:count], hidden[count:])

    def step_on(self, inputs: torch.Tensor) -> None:
        """Take the step on other inputs, (B', ...): mixed ones, say; the pass over the batch's own is forgotten."""
        self._inputs = inputs
        for name in ("_pass", "losses"):
            self.__dict__.pop(name, None)

    @property
    def logits(self) -> torch.Tensor:
        """(B, K), at least float32, with its graph."""
        return self._pass[0]

    @property
    def hidden(self) -> torch.Tensor:
        """(B, d), the input of the last linear layer, with its graph."""
        return self._pass[1]

    @cached_property
    def losses(self) -> torch.Tensor:
        """(B,) cross-entropy of each sample with its given label, with its graph."""
        return F.cross_entropy(self.logits, self.batch.labels, reduction="none")

    def virtual(self, weights: torch.Tensor) -> Params:
        """theta_hat: the parameters after one step of the real optimiser on ``sum_i weights_i f_i``.

        Nothing is changed: momentum buffers and weight decay enter through their current values.

        Args:
            weights: (B,), factors of the loss *sum*.
        """
        loss = (weights * self.losses).sum()
        gradients = torch.autograd.grad(
            loss, list(self.params.values()), retain_graph=True, allow_unused=True
        )
        group = self.optimiser.param_groups[0]
        ahead: Params = {}
        with torch.no_grad():
            for (name, value), gradient in zip(self.params.items(), gradients, strict=True):
                if gradient is None:  # unused, which torch's SGD passes over
                    ahead[name] = value.detach()
                    continue
                step = gradient.add(value, alpha=group["weight_decay"])
                if group["momentum"]:
                    buffer = self.optimiser.state.get(value, {}).get("momentum_buffer")
                    moved = step if buffer is None else step.add(buffer, alpha=group["momentum"])
                    step = step.add(moved, alpha=group["momentum"]) if group["nesterov"] else moved
                ahead[name] = value - group["lr"] * step
        return ahead

    @property
    def step_factor(self) -> float:
        """c: theta_hat moves by -c per unit of the weighted gradient (the rate; Nesterov: times 1 + mu)."""
        group = self.optimiser.param_groups[0]
        return float(group["lr"] * (1 + group["momentum"] * group["nesterov"]))

    def meta_grad(self, meta_batch: Batch, params: Params | None = None) -> Params:
        """v: the gradient of the mean cross-entropy of the meta batch.

        Args:
            meta_batch: m samples with bought labels.
            params: where; None is theta itself.
        """
        at = self.params if params is None else {name: p.requires_grad_() for name, p in params.items()}
        with frozen_statistics(self.model, use_running=self.few_distinct), self._circumstances():
            logits = functional_call(self.model, at, (meta_batch.inputs,))
        loss = F.cross_entropy(full_precision(logits), meta_batch.labels)
        gradients = torch.autograd.grad(loss, list(at.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(at, gradients, strict=True))

    def jvp(self, v: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """s: (B,), the derivative of each sample's loss along v, at theta, by dual numbers."""
        with (
            torch.no_grad(),
            forward_ad.dual_level(),
            frozen_statistics(self.model),
            self._circumstances(),
        ):
            duals = {
                name: forward_ad.make_dual(p.detach(), v[name])  # type: ignore[no-untyped-call]
                for name, p in self.params.items()
            }
            logits = functional_call(self.model, duals, (self.batch.inputs,))
            losses = F.cross_entropy(full_precision(logits), self.batch.labels, reduction="none")
            tangent: torch.Tensor | None = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
            # No tangent: no parameter bears on the losses.
            return torch.zeros_like(losses) if tangent is None else tangent

    @contextmanager
    def _circumstances(self) -> Iterator[None]:
        """Autocast, and the seed of this step's masks, since a model may draw from the global generators anywhere."""
        device = self.batch.inputs.device
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
            seeded_globals(self.seed, device),
        ):
            yield
