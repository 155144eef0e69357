"""The meta gradient of batch after batch, with the two knobs that make it cheaper and coarser.

Differs from the papers where the knobs are turned: v may be some steps old, and the virtual step, v and s may be those
of the top layers alone. Both are exact for what they say; README has what they cost in quality.
"""

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.parameters import Params, parameters_in

SCOPES = ("all", "top", "last")


def require_knobs(every: int, scope: str) -> None:
    """Refuse what ``MetaGradient`` cannot do.

    Raises:
        UsageError: ``every`` below 1, or an unknown scope.
    """
    if every < 1:
        raise UsageError(
            f"--option every={every} must be at least 1.", "The default is 1: v anew in every step."
        )
    if scope not in SCOPES:
        raise UsageError(f"--option scope={scope} is not known.", f"One of {', '.join(SCOPES)}.")


class MetaGradient:
    """s of each batch; v is taken anew in the first step of an epoch and every K steps from there.

    Args:
        every: K, at least 1.
        scope: the parameters that take the virtual step, a name of ``SCOPES``.
    """

    def __init__(self, every: int, scope: str) -> None:
        self.every, self.scope = every, scope
        self.age, self.v = 0, Params()
        self.names: frozenset[str] = frozenset()

    def of(
        self,
        forward: Forward,
        meta_batch: Batch | None,
        weights: torch.Tensor | None = None,
        *,
        keep_gradient: bool = False,
    ) -> torch.Tensor:
        """s: (B,), how fast the meta loss falls with more weight for each sample, in units of ``forward.rate``.

        Args:
            forward: the pass of the batch.
            meta_batch: bought samples, looked at where v is taken anew.
            weights: (B,) of the virtual step, without a graph; None: v is taken at theta itself.
            keep_gradient: the real step will have these weights too.

        Raises:
            UsageError: no parameter of the scope is trained.
        """
        assert meta_batch is not None  # the methods that have a meta gradient have a meta batch
        if self.scope != "all":
            self.names = self.names or parameters_in(forward.model, self.scope)
            if self.names.isdisjoint(forward.params):
                raise UsageError(
                    f"--option scope={self.scope} names parameters that are all frozen.", "Use scope=all."
                )
            forward.restrict_to(self.names)
        if self.age == 0:
            ahead = None if weights is None else forward.virtual_step(weights, keep_gradient=keep_gradient)
            self.v = forward.meta_grad(meta_batch, ahead)
        self.age = (self.age + 1) % self.every
        v, self.v = self.v, self.v if self.age else Params()  # what nobody needs again is not held
        return forward.jvp(v)

    def epoch_end(self) -> None:
        """The next v is taken anew, so that an epoch does not depend on what a killed process knew."""
        self.age = 0
