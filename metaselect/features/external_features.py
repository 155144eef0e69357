"""The features that a selector is given, from the user's file (``select --features``)."""

from pathlib import Path

import numpy as np
import torch

from metaselect.data.readers.external_features import read_external_features
from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.records import Reporter
from metaselect.selection.base import PoolFeatures, Selector

EXTERNAL_FIELDS = ("probs", "hidden")
"""Fields of ``PoolFeatures`` that a file can supply."""


def require_external_support(method: Selector, name: str) -> None:
    """Check that a file can supply all features that the method requires.

    Raises:
        UsageError: naming the first feature that it cannot.
    """
    known = (*EXTERNAL_FIELDS, "bought_labels")  # which the run has
    missing = [field for field in method.required_features if field not in known]
    if missing:
        raise UsageError(
            f"{name} needs {missing[0]} of the warm-up's model, which --features cannot supply.",
            "Leave out --features, or choose k-means, rbc, k-center, badge or another method.",
        )


def load_external_features(
    path: Path, pool: Dataset, method: Selector, name: str, *, device: torch.device, report: Reporter
) -> PoolFeatures:
    """The features of ``--features``, as those of one checkpoint.

    Raises:
        DataError: the file cannot be used.
        UsageError: the method needs probabilities, and the file has none.
    """
    external = read_external_features(path, pool.sample_ids, len(pool.classes))
    if external.ignored:
        report.note(f"{path}: {external.ignored} rows of samples that are not in the pool are ignored.")
    if "probs" in method.required_features and external.probs is None:
        raise UsageError(
            f"{path} has no column probs, which {name} needs.",
            "Add the class probabilities, or choose k-means, k-center, or rbc with "
            "--option features=representation.",
        )
    return external_pool_features(external.features, external.probs, pool.labels, device)


def external_pool_features(
    hidden: np.ndarray, probs: np.ndarray | None, labels: np.ndarray, device: torch.device
) -> PoolFeatures:
    """Features from outside as those of one checkpoint; a sample without a label counts as one of its likeliest class.

    Args:
        hidden: (n, d) float32.
        probs: (n, K) float32.
        labels: (n,) int64, -1 where there is none.
        device: of the result.
    """
    if probs is not None:
        labels = np.where(labels >= 0, labels, probs.argmax(1))
    return PoolFeatures(
        () if probs is None else (torch.from_numpy(probs).to(device),),
        (torch.from_numpy(hidden).to(device),),
        torch.from_numpy(labels).to(device),
    )
