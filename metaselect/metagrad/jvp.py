"""The product J v of a batch's losses with a direction v, by the first strategy that the model allows.

The strategies of ``jvp_strategies`` are tried in order: through the graph of the step's own forward pass; a second pass
with dual numbers; two passes for central differences; differentiating twice. The first batch decides; a
later batch on which that strategy fails falls back to the next one. A strategy is checked against another one before
its first use, and a message is given if it is not the first.
"""

from collections.abc import Callable, Sequence

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.jvp_rules import NoRule
from metaselect.metagrad.jvp_strategies import REFERENCES, STRATEGIES, LossPasses, Strategy
from metaselect.models.parameters import Params

# Largest difference of a checked product, relative to its largest entry, by the dtype of the check. float32 (on Apple's
# GPUs) is compared with central differences, which are themselves that inexact there.
RELATIVE_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-2}


class JvpSolver:
    """Computes the products of one training, by the first strategy that works.

    Args:
        notify: called with one sentence if that is not the first strategy.
        strategies: in order of preference.
    """

    def __init__(
        self, notify: Callable[[str], None] | None = None, strategies: Sequence[Strategy] = tuple(STRATEGIES)
    ) -> None:
        self.notify, self.strategies = notify, list(strategies)
        self._refusals: list[str] = []
        self._checked: Strategy | None = None

    def __call__(self, passes: LossPasses, v: Params, check_passes: Callable[[], LossPasses]) -> torch.Tensor:
        """s: (B,), the derivative of each loss along v.

        Args:
            passes: of the batch.
            v: one tensor for each parameter.
            check_passes: () -> passes of a few samples of the batch in float64, for ``check``.

        Raises:
            UsageError: no strategy works for this model.
        """
        while self.strategies:
            strategy = self.strategies[0]
            try:
                if strategy is not self._checked:
                    check(strategy, check_passes)
                    self._checked = strategy
                s = strategy(passes, v)
            except (NoRule, RuntimeError) as error:
                if out_of_memory(error):  # a smaller batch is the remedy, not another strategy
                    raise
                self._refuse(error)
            else:
                self._notify()
                return s
        raise UsageError(
            f"No meta gradient can be taken through this model: {'; '.join(self._refusals)}.",
            "Choose another model, or a method without a meta gradient.",
        )

    def _refuse(self, error: Exception) -> None:
        """Drop the first strategy, and keep the reason for the message."""
        name = STRATEGIES[self.strategies.pop(0)]
        self._refusals.append(f"not from {name} ({str(error).splitlines()[0]})")

    def _notify(self) -> None:
        """Give the message once, if strategies were dropped before one worked."""
        if self._refusals and self.notify is not None:
            self.notify(
                f"Meta gradients come from {STRATEGIES[self.strategies[0]]}; {'; '.join(self._refusals)}."
            )
        self._refusals = []


def check(strategy: Strategy, check_passes: Callable[[], LossPasses]) -> None:
    """Compare a strategy of ``REFERENCES`` with another one along a random direction; others pass unchecked.

    Raises:
        NoRule: they differ, or nothing can be compared with.
        RuntimeError: the strategy does not work for this model.
    """
    if strategy not in REFERENCES:
        return
    passes = check_passes()
    generator = torch.Generator().manual_seed(0)
    # Entries in proportion to the parameter's size, so that every layer has a share in the product.
    v = {
        name: torch.randn(p.shape, generator=generator).to(p)
        * p.detach().square().mean().sqrt().clamp(min=0.01)
        for name, p in passes.params.items()
    }
    actual = strategy(passes, v)
    for reference in REFERENCES[strategy]:
        try:
            expected = reference(passes, v)
        except (NoRule, RuntimeError):
            continue
        difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not difference <= RELATIVE_TOLERANCE[actual.dtype]:  # also where it is NaN
            raise NoRule(f"differs by {difference:.0e} from {STRATEGIES[reference]}")
        return
    raise NoRule("nothing could check it")


def out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, by the message: on the CPU the error has no class of its own."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)
