"""Cross-fitting: folds of a pool, and a logistic regression's weight decay and predictions by them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from metaselect.models.logistic_regression import LinearParams, fit_logistic_regressions

WEIGHT_DECAYS = tuple(10 ** (1 - step / 2) for step in range(13))  # 10 to 1e-5
PATIENCE = 2  # weight decays in a row without a lower held-out loss, after which smaller ones are not tried
ALL_FOLDS_UP_TO = 20_000  # samples; above, the first fold alone is large enough to choose the weight decay by


class CrossFit(NamedTuple):
    """What cross-validation gave.

    Attributes:
        weight_decay: the chosen one.
        log_probs: (n, K), of each sample by the model that was fitted without its fold.
        loss: mean cross-entropy of ``log_probs`` with the targets.
    """

    weight_decay: float
    log_probs: torch.Tensor
    loss: float


def stratified_folds(labels: torch.Tensor, folds: int, generator: torch.Generator) -> torch.Tensor:
    """(n,) int64 in [0, folds), at random; the folds of a class, and of the pool, differ in size by at most one.

    Samples without a label are dealt in turn, and change nothing for the others.

    Args:
        labels: (n,) int64 on the CPU; -1: none.
        folds: at least 1.
        generator: on the CPU.
    """
    labelled, unlabelled = (labels >= 0).nonzero()[:, 0], (labels < 0).nonzero()[:, 0]
    order = labelled[torch.randperm(len(labelled), generator=generator)]
    by_class = order[torch.sort(labels[order], stable=True).indices]
    fold = torch.empty_like(labels)
    # Dealt in turn over the classes, so that small classes do not all begin with the same fold.
    fold[by_class] = torch.arange(len(labelled)) % folds
    fold[unlabelled] = torch.arange(len(unlabelled)) % folds
    return fold


def cross_fit(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    fold: torch.Tensor,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
) -> CrossFit:
    """Choose a weight decay by the held-out loss of each fold, and predict every sample without its own label.

    Each fit starts from that of the weight decay before it, in the same fold.

    Args:
        inputs: (n, d) float32 or float64.
        targets: (n, K) of the same type and device: soft labels, each row times the weight of its sample.
        fold: (n,) int64, numbers from 0 on; at least two of them.
        weight_decays: from the largest to the smallest; of equal losses, the largest is chosen.
    """
    fold = fold.to(inputs.device)
    count = int(fold.max()) + 1
    tried = range(count if len(fold) <= ALL_FOLDS_UP_TO else 1)
    starts: Sequence[LinearParams | None] = [None] * len(tried)
    log_probs = torch.empty_like(targets)
    best, best_loss, best_log_probs, since = weight_decays[0], math.inf, log_probs, 0
    for weight_decay in weight_decays if len(weight_decays) > 1 else ():
        starts = _fit_without_folds(inputs, targets, fold, tried, weight_decay, starts, log_probs)
        seen = fold < len(tried)
        loss = _mean_loss(log_probs[seen], targets[seen])
        since += 1
        if loss < best_loss:
            best, best_loss, best_log_probs, since = weight_decay, loss, log_probs.clone(), 0
        if since == PATIENCE:
            break
    rest = range(len(tried) if len(weight_decays) > 1 else 0, count)
    _fit_without_folds(inputs, targets, fold, rest, best, [None] * len(rest), best_log_probs)
    return CrossFit(best, best_log_probs, _mean_loss(best_log_probs, targets))


def is_above(values: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether the mean of (m,) values is above that of others of the same samples by more than a standard error.

    A single sample has none, so the answer is no.
    """
    difference = (values - others).double()
    return len(difference) > 1 and float(difference.mean()) > float(difference.std()) / math.sqrt(
        len(difference)
    )


def _fit_without_folds(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    fold: torch.Tensor,
    numbers: Sequence[int],
    weight_decay: float,
    starts: Sequence[LinearParams | None],
    log_probs: torch.Tensor,
) -> list[LinearParams]:
    """For each number, the fit on all samples but those of that fold; their rows of ``log_probs`` are overwritten."""
    problems = (
        (targets * (fold != number)[:, None], start) for number, start in zip(numbers, starts, strict=True)
    )
    fits = list(fit_logistic_regressions(inputs, problems, weight_decay))
    for number, params in zip(numbers, fits, strict=True):
        held_out = fold == number
        log_probs[held_out] = params.log_probs(inputs[held_out])
    return fits


def _mean_loss(log_probs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(-(targets * log_probs).sum() / targets.sum())
