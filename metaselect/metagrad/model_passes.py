"""Passes of a batch through a model: under autocast, with the dropout masks of one step, and of several ranks.

Each rank passes its rows of a batch; BatchNorm and dropout are those of the whole one (``batch_statistics``).
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metaselect.metagrad.batch_statistics import of_whole_batch
from metaselect.metagrad.jvp_strategies import LossPasses
from metaselect.models.batch import Batch, frozen_statistics, full_precision, widest_float
from metaselect.models.head import head_of
from metaselect.models.parameters import Params
from metaselect.random import seeded_globals
from metaselect.ranks import Division, broadcast

CHECKED_SAMPLES = 4  # samples that a strategy of ``jvp`` is checked on, in float64


class ModelPasses(NamedTuple):
    """The passes of one step.

    Attributes:
        model: in train mode.
        seed: of the dropout masks.
        autocast: run the passes in bfloat16.
    """

    model: nn.Module
    seed: int
    autocast: bool

    def with_hidden(self, inputs: torch.Tensor, *rows: Division) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (b, K), and a list with the input (b, d) of the last linear layer.

        Args:
            inputs: (b, ...), this rank's rows of a batch, or of several below each other.
            rows: the division of each of them.
        """
        hidden: list[torch.Tensor] = []
        hook = head_of(self.model).register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        try:
            with self._autocast_and_seed(inputs.device, *rows):
                logits = self.model(inputs)
        finally:
            hook.remove()
        return full_precision(logits), hidden

    def logits_at(self, tensors: Params, inputs: torch.Tensor, rows: Division) -> torch.Tensor:
        """(b, K) logits with ``tensors`` in place of the model's parameters or buffers."""
        with self._autocast_and_seed(inputs.device, rows):
            return full_precision(functional_call(self.model, tensors, (inputs,)))

    def losses_at(self, tensors: Params, batch: Batch, rows: Division) -> torch.Tensor:
        """(b,) losses of this rank's rows, by a pass that leaves running statistics as they are."""
        with frozen_statistics(self.model):
            logits = self.logits_at(tensors, batch.inputs, rows)
        return F.cross_entropy(logits, batch.labels[rows.own], reduction="none")

    def in_float64(self, batch: Batch, rows: Division, names: Collection[str]) -> LossPasses:
        """Passes of ``CHECKED_SAMPLES`` samples in float64, on copies of the model's parameters and buffers.

        Args:
            batch: of the step.
            rows: its division. The samples are the same in each rank, so that all choose the same strategy.
            names: of the parameters that the losses are differentiated by.
        """
        wide = widest_float(batch.inputs.device)

        def copied(value: torch.Tensor) -> torch.Tensor:
            return value.detach().to(wide if value.is_floating_point() else value.dtype, copy=True)

        count = min(CHECKED_SAMPLES, *rows.sizes)
        inputs = copied(broadcast(batch.inputs[:count]))
        checked = Batch(inputs, batch.labels[: len(inputs)])
        every_rank_has_all = Division((len(inputs),))
        tensors = {name: copied(value) for name, value in self.model.named_parameters()}
        tensors |= {name: copied(value) for name, value in self.model.named_buffers()}
        params = {name: tensors.pop(name).requires_grad_() for name in names}
        passes = self._replace(autocast=False)

        def losses_at(values: Params) -> torch.Tensor:
            return passes.losses_at(tensors | values, checked, every_rank_has_all)

        return LossPasses(params, lambda: losses_at(params), losses_at, autocast=False)

    @contextmanager
    def _autocast_and_seed(self, device: torch.device, *rows: Division) -> Iterator[None]:
        """Run the block under autocast, with the global generators at this step's seed, for the dropout masks."""
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
            seeded_globals(self.seed, device),
            of_whole_batch(*rows),
        ):
            yield
