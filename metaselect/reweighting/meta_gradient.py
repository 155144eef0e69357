"""The meta gradient of each batch, with two options that make it cheaper: ``every`` and ``scope``.

Differs from the papers where these are not at their defaults: v may be some steps old, and the virtual step, v and s
may be those of the top layers alone. Each is exact for the step that it describes; what they cost in quality is
measured in docs/reweighting.md.
"""

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.parameters import Params, parameters_in

SCOPES = ("all", "top", "last")


def require_meta_options(every: int, scope: str) -> None:
    """Check the two options of ``MetaGradient``.

    Raises:
        UsageError: ``every`` below 1, or an unknown scope.
    """
    if every < 1:
        raise UsageError(
            f"--option every={every} must be at least 1.", "The default is 1: v is computed in every step."
        )
    if scope not in SCOPES:
        raise UsageError(f"--option scope={scope} is not known.", f"One of {', '.join(SCOPES)}.")


class MetaGradient:
    """The meta gradient s of each batch; v is computed in the first step of an epoch and in every K-th from there.

    Args:
        every: K, at least 1.
        scope: the parameters that take the virtual step, a name of ``SCOPES``.
    """

    def __init__(self, every: int, scope: str) -> None:
        self.every, self.scope = every, scope
        self.age, self.v = 0, Params()  # steps since v was computed; 0: compute it
        self.names: frozenset[str] = frozenset()

    def of(
        self,
        forward: Forward,
        meta_batch: Batch | None,
        weights: torch.Tensor | None = None,
        *,
        keep_gradient: bool = False,
    ) -> torch.Tensor:
        """s: (B,), how fast the meta loss falls with more weight for each sample: -dF_m/dw_i / c.

        c is ``forward.virtual_rate``.

        Args:
            forward: the pass of the batch.
            meta_batch: samples with clean labels, used where v is computed.
            weights: (B,) of the virtual step, without a graph; None: v is the gradient at theta itself.
            keep_gradient: the real step has these weights too.

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
        v, self.v = (
            self.v,
            self.v if self.age else Params(),
        )  # v is as large as the model: release it after its last use
        return forward.jvp(v)

    def epoch_end(self) -> None:
        """Compute v in the next step, so that no epoch depends on a v that is not in the saved state."""
        self.age = 0
