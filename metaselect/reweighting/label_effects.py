"""What a method with refits says of the bought labels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch


class LabelEffects(NamedTuple):
    """What bought labels did to the weights, by fits without each of them.

    Attributes:
        weights: (n,) with all bought labels, in [0, 1].
        changes: for each bought label, (n,) ``weights`` less what they would be without it.
    """

    weights: torch.Tensor
    changes: Iterator[torch.Tensor]
