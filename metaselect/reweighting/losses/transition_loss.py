"""The cross-entropy of a given label by a model of true labels and a transition matrix: -log (T^T p)_y.

Source: Patrini, Rozza, Menon, Nock, Qu 2017 (arXiv:1609.03683), Eq. 7, the forward correction of cross-entropy.
"""

import torch
from torch.nn import functional as F


def transition_losses(
    logits: torch.Tensor, labels: torch.Tensor, transition: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """(B,) losses -log sum_k p_k T_ky; of samples whose labels are known to be true, cross-entropy.

    Args:
        logits: (B, K), of true classes.
        labels: (B,) int64, given ones.
        transition: (K, K), T: probabilities of given labels (columns) by true classes (rows).
        known: (B,) bool, whose labels are true.
    """
    log_probs = F.log_softmax(logits, 1)
    # In logarithms: a probability of 0 has no gradient that is a number.
    floor = torch.finfo(transition.dtype).tiny
    behind = -(log_probs + transition.T[labels].clamp(min=floor).log()).logsumexp(1)
    return torch.where(known, F.nll_loss(log_probs, labels, reduction="none"), behind)
