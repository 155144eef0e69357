"""The transition matrix of label noise, T_kj = P(given label j | true class k), and what follows from it.

Source: the noise model is that of Patrini et al. 2017 (arXiv:1609.03683); estimating T from trusted labels is that of
gold loss correction (Hendrycks et al. 2018, arXiv:1802.05300).
Differs: T is estimated by expectation-maximisation over the pool, with bought labels as known classes and a prior
around symmetric noise of the rate among them (Dawid and Skene 1979, with features in place of several annotators).
"""

import torch
from torch.nn import functional as F

RATES = (0.02, 0.9)  # limits of the rate of wrong labels that a few bought labels may show
STEPS = 5  # of expectation-maximisation; each starts from the T of the fit before
PRIOR_COUNT = 2.0  # pseudo-observations of each class and possible label: 2 K for each row of T
ANSWER_RIGHT = 0.95  # probability that a bought label is right


def wrong_rate(given: torch.Tensor, answers: torch.Tensor) -> float:
    """The rate of wrong given labels among bought samples, (wrong + 1/2) / (m + 1), within ``RATES``.

    Args:
        given: (m,) int64; -1: none, and not counted.
        answers: (m,) int64, bought labels.
    """
    has_given = given >= 0
    wrong = int((given != answers)[has_given].sum())
    return min(max((wrong + 0.5) / (int(has_given.sum()) + 1), RATES[0]), RATES[1])


def symmetric_transition(rate: float, classes: int) -> torch.Tensor:
    """(K, K) T with 1 - rate on the diagonal and the rest spread evenly."""
    eye = torch.eye(classes)
    return (1 - rate) * eye + rate / (classes - 1) * (1 - eye)


def given_likelihood(transition: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """(n, K) T_k,g_i: of each given label under each true class; 1 where a sample has no given label.

    Args:
        transition: (K, K) T.
        given: (n,) int64; -1: none.
    """
    return torch.where((given >= 0)[:, None], transition[:, given.clamp(min=0)].T, 1.0)


def given_counts(given: torch.Tensor, classes: int) -> torch.Tensor:
    """(n, K) float32, 1 at the given label; rows of 0 where a sample has none (-1)."""
    return F.one_hot(given.clamp(min=0), classes).float() * (given >= 0)[:, None]


def posterior(probs: torch.Tensor, transition: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """(n, K) R, the probability of each true class when the given label is known: R_ik ~ P_ik T_k,g_i.

    Args:
        probs: (n, K) P, class probabilities that do not depend on the sample's given label.
        transition: (K, K) T.
        given: (n,) int64; -1: none, which leaves P.
    """
    joint = probs * given_likelihood(transition, given)
    return joint / joint.sum(1, keepdim=True).clamp(min=torch.finfo(joint.dtype).tiny)


def answered(posterior: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """(m, K) posterior of bought samples after their answers, each right with probability ``ANSWER_RIGHT``.

    Args:
        posterior: (m, K) before the answer.
        answers: (m,) int64.
    """
    classes = posterior.shape[1]
    return F.normalize(posterior * symmetric_transition(1 - ANSWER_RIGHT, classes)[:, answers].T, p=1, dim=1)


def estimate_transition(
    probs: torch.Tensor,
    given: torch.Tensor,
    known: torch.Tensor,
    answers: torch.Tensor,
    start: torch.Tensor,
    *,
    steps: int = STEPS,
) -> torch.Tensor:
    """(K, K) T by expectation-maximisation, with P fixed.

    Args:
        probs: (n, K) P.
        given: (n,) int64.
        known: (m,) int64, the samples with a bought label.
        answers: (m,) int64, their labels.
        start: (K, K), T before the first step.
        steps: of expectation-maximisation.
    """
    classes = probs.shape[1]
    prior = _prior_counts(given[known], answers, classes)
    labels = given_counts(given, classes).to(probs.dtype)
    transition = start
    for _ in range(steps):
        responsibility = with_answers(posterior(probs, transition, given), known, answers)
        transition = F.normalize(responsibility.T @ labels + prior, p=1, dim=1)
    return transition


def counted_transition(
    probs: torch.Tensor, given: torch.Tensor, known: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """(K, K) T counted with P as the responsibilities, to start from; arguments as ``estimate_transition``."""
    classes = probs.shape[1]
    prior = _prior_counts(given[known], answers, classes)
    counts = with_answers(probs, known, answers).T @ given_counts(given, classes).to(probs.dtype)
    return F.normalize(counts + prior, p=1, dim=1)


def with_answers(probs: torch.Tensor, known: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """(n, K) with the rows of bought samples as ``answered`` leaves them."""
    replaced = probs.clone()
    replaced[known] = answered(probs[known], answers)
    return replaced


def _prior_counts(given: torch.Tensor, answers: torch.Tensor, classes: int) -> torch.Tensor:
    """(K, K) pseudo-observations of T from the bought samples' given labels and answers, (m,) each."""
    return symmetric_transition(wrong_rate(given, answers), classes) * PRIOR_COUNT * classes
