"""Classes in which training samples stand in for bought ones: those whose given labels the bought labels support.

No source: the paper takes the majority of a given label to be right, as it is where errors go in many directions. A
handful of bought labels is too few to count how often each given label is right. But the network's probabilities for
the bought samples, which it does not train on, say of each of them what most samples like it are labelled.
"""

import torch
from torch.nn import functional as F

from metaselect.reweighting.base import Labels, State

MODES = ("agreeing", "all", "none")


class Proxies:
    """Which classes have proxies, decided by the visits of bought samples in one epoch.

    Attributes:
        decides: bought labels say which classes have proxies.
        open: visits are collected, and all classes have proxies, until ``conclude`` is called.
        supported: (K,) bool.

    Args:
        mode: one of ``MODES``.
        labels: of the pool.
        each: places of each class in the dictionary.
        device: of the training.
    """

    def __init__(self, mode: str, labels: Labels, each: int, device: torch.device) -> None:
        self.counts = torch.bincount(labels.given[labels.bought], minlength=labels.classes)
        self.each, self.is_bought = each, labels.is_bought.to(device)
        self.decides = mode == "agreeing" and bool(self.counts.any())
        self.open = self.decides
        self.supported = torch.full((labels.classes,), mode != "none")
        self.restart()

    def restart(self) -> None:
        """Forget the visits."""
        # Row k sums the probabilities of visits of samples that were bought as class k.
        self.sums = torch.zeros(len(self.counts), len(self.counts), device=self.is_bought.device)

    @property
    def wanted(self) -> torch.Tensor:
        """(K,) int64, proxies of each class; classes without bought samples always have them."""
        left = (self.each - self.counts).clamp(min=0)
        return torch.where(self.supported | (self.counts == 0), left, 0)

    @property
    def refused(self) -> list[int]:
        """Classes whose bought labels contradict the given ones."""
        return (~self.supported & (self.counts > 0)).nonzero()[:, 0].tolist() if self.decides else []

    def add(self, probs: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> None:
        """Add the visits of bought samples in a batch.

        Args:
            probs: (m, K).
            labels: (m,) int64, bought ones of bought samples.
            ids: (m,) int64, pool indices.
        """
        known = self.is_bought[ids.to(self.is_bought.device)]
        rows = F.one_hot(labels, len(self.counts)) * known[:, None]
        self.sums += rows.to(probs.dtype).T @ probs

    def conclude(self) -> None:
        """Decide by the visits, and forget them."""
        self.supported, self.open = supported_classes(self.sums.cpu()), False
        self.restart()

    def state_dict(self) -> State:
        """The decision once there is one; visits are those of one epoch, at whose end a run is saved."""
        return {"supported": self.supported} if self.decides and not self.open else {}

    def load_state_dict(self, state: State) -> None:
        """The same."""
        if state:
            self.supported, self.open = state["supported"].cpu(), False


def supported_classes(sums: torch.Tensor) -> torch.Tensor:
    """(K,) bool: bought samples of the class are called by its name most, and those of no other class more often.

    Args:
        sums: (K, K), row k sums probabilities of bought samples of class k; 0 where there are none.
    """
    means = sums / sums.sum(1, keepdim=True).clamp(min=1e-30)
    return means.diagonal() >= torch.maximum(means.amax(0), means.amax(1))
