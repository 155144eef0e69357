"""Predictions and representations of the pool by models of the given labels, for methods that model label noise."""

from typing import NamedTuple

import torch


class Space(NamedTuple):
    """Representations of the pool by a model that was trained without the labels of ``members``.

    Attributes:
        hidden: (n, d) float32, for example the inputs of the model's last layer.
        members: (n',) int64.
    """

    hidden: torch.Tensor
    members: torch.Tensor


class Evidence(NamedTuple):
    """What is known of the pool's labels besides the bought ones; all on the CPU.

    Attributes:
        given: (n,) int64, the labels as the data came, also of bought samples; -1: none.
        probs: (n, K) probabilities of the given label by models that did not see it, where there are such models.
        fitted: (n, K) probabilities by the warm-up's model, which saw most of the labels.
        spaces: whose members together are the pool.
        improving: the held-out loss of the warm-up, which trained with momentum, was lowest at its end.
    """

    given: torch.Tensor
    probs: torch.Tensor
    fitted: torch.Tensor
    spaces: tuple[Space, ...]
    improving: bool
