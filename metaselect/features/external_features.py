"""The features that a selector is given, from a file of the user's (``select --features``)."""

from pathlib import Path

import torch

from metaselect.data.readers.external_features import read_external_features
from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.records import Reporter
from metaselect.selection.base import PoolFeatures, Selector

EXTERNAL_FIELDS = ("probs", "hidden")
"""Fields of ``PoolFeatures`` that a file from outside can supply."""


def require_external_support(method: Selector, name: str) -> None:
    """Refuse a method that looks at more than a file from outside can hold.

    Raises:
        UsageError: naming what that is.
    """
    beyond = [field for field in method.required_features if field not in EXTERNAL_FIELDS]
    if beyond:
        raise UsageError(
            f"{name} looks at {beyond[0]} of the warm-up's model, which --features cannot supply.",
            "Leave out --features, or choose rbc, typiclust, k-center, badge or another method.",
        )


def load_external_features(
    path: Path, pool: Dataset, method: Selector, name: str, device: torch.device, report: Reporter
) -> PoolFeatures:
    """The features of ``--features``, as those of one checkpoint.

    Raises:
        DataError: the file cannot be used.
        UsageError: the method needs probabilities, and the file has none.
    """
    found = read_external_features(path, pool.sample_ids, len(pool.classes))
    if found.ignored:
        report.note(f"{path}: {found.ignored} rows are of samples that are not in the pool.")
    if "probs" in method.required_features and found.probs is None:
        raise UsageError(
            f"{path} has no column probs, which {name} needs.",
            "Add the class probabilities, or choose typiclust, k-center, or rbc with "
            "--option features=representation.",
        )
    return PoolFeatures(
        () if found.probs is None else (torch.from_numpy(found.probs).to(device),),
        (torch.from_numpy(found.features).to(device),),
        torch.from_numpy(pool.labels).to(device),
    )
