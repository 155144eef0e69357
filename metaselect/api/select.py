"""``select``: which samples to label, of arrays."""

from operator import index
from typing import Any

import numpy as np
import torch

from metaselect.api.arrays import Bought, Rows, as_value_errors, features_of, labels_of, probs_of
from metaselect.features.external_features import EXTERNAL_FIELDS, external_pool_features
from metaselect.features.near_duplicates import similar_samples
from metaselect.options import SelectOptions
from metaselect.records import SilentReporter
from metaselect.registry import AUTO_SELECTOR, SELECTORS, load
from metaselect.selection.base import Selector, no_progress
from metaselect.stages.select.auto_method import for_frozen_features
from metaselect.stages.select.choice import choose
from metaselect.stages.select.round_plan import RoundPlan
from metaselect.training.device import choose_device


def select(
    features: Any,
    probs: Any = None,
    *,
    labels: Any = None,
    budget: int,
    method: str = AUTO_SELECTOR,
    bought: Bought = None,
    round: int = 1,
    seed: int = 0,
) -> Any:
    """The samples whose labels are worth buying, the most useful first, as `metaselect select --features` chooses them.

    It never chooses two near duplicates, nor one of a sample in ``bought``.

    Args:
        features: (n, d) numbers of any encoder: an array, a tensor or a DataFrame. A DataFrame's index names the
            samples, unless it is the default one.
        probs: (n, K) class probabilities by a model of the given labels, for methods that need them; rows sum to 1.
        labels: n given labels, integers or texts; None or NA: none.
        budget: labels to buy, at least 1.
        method: a name that `metaselect select --help` lists, or "auto": k-means for a first purchase, disagreement
            for a later one.
        bought: a dict or a Series of the samples that were chosen before (positions, or index labels of a DataFrame)
            and of their bought labels; None or NA: no label.
        round: number of the purchase, from 1; each has random numbers of its own.
        seed: of the random numbers.

    Returns:
        (budget,) int64 positions, or index labels of a DataFrame.

    Raises:
        ValueError: an argument that cannot be used.
        TypeError: one that is no array or no integer.
    """
    rows = Rows.of(features, len(features))
    hidden = features_of(rows.take(features, "features"))
    columns = None if probs is None else rows.take(probs, "probs")
    distributions = None if columns is None else probs_of(columns)
    known = rows.places(bought)
    found = labels_of(None if labels is None else rows.take(labels, "labels"), known, len(hidden), columns)
    budget = index(budget)
    if not 1 <= budget <= len(hidden) - len(known):
        raise ValueError(f"budget is {budget}; {len(hidden) - len(known)} samples can be chosen.")
    if method == AUTO_SELECTOR:
        method, _ = for_frozen_features(has_labels=bool((found.answers >= 0).any()))
    selector = _selector(method, has_probs=probs is not None)
    device = choose_device("auto", SilentReporter(), needed=bool(selector.required_features))
    pool = external_pool_features(hidden, distributions, found.given, device)
    plan = RoundPlan(round, torch.from_numpy(found.bought), torch.from_numpy(found.answers), budget, 0, 0)
    with as_value_errors():
        options = SelectOptions(budget=budget, method=method, seed=seed)
        similar = similar_samples(hidden, device)
        choice, _ = choose(selector, pool, plan, options, no_progress, similar)
    return rows.names(np.asarray(choice.ranked))


def _selector(method: str, *, has_probs: bool) -> Selector:
    """The method at its defaults.

    Raises:
        ValueError: there is no such method, or it needs more than there is.
    """
    if method not in SELECTORS:
        raise ValueError(f"method {method!r} is not known. One of: {', '.join((AUTO_SELECTOR, *SELECTORS))}.")
    selector: Selector = load(SELECTORS[method])()
    supplied = {*EXTERNAL_FIELDS, "bought_labels"} - (set() if has_probs else {"probs"})
    if lacking := [name for name in selector.required_features if name not in supplied]:
        other = "Give probs." if lacking == ["probs"] else "Use `metaselect select` on a run with a warm-up."
        raise ValueError(f"{method} needs {lacking[0]}. {other}")
    return selector
