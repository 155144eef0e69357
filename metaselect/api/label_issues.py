"""``find_label_issues``: the labels to doubt, of arrays."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from metaselect.api.arrays import Bought, Labels, Rows, features_of, labels_of, probs_of
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.summary import statistics
from metaselect.random import generator
from metaselect.reweighting.auto.label_model import fit_label_model
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.run.layout import FEATURES
from metaselect.stages.reweight.weights_table import label_issue_ranks
from metaselect.training.batches import Batches
from metaselect.training.predict import pool_inputs

LEAST_PROB = 1e-6  # a probability below counts as this in logarithms


def find_label_issues(
    labels: Any, probs: Any, features: Any = None, *, bought: Bought = None
) -> pd.DataFrame:
    """The probability that each given label is right, the likeliest label, and a ranking of the labels to doubt.

    With bought labels it is the model of the labels of `metaselect reweight --method auto`, which learns from them how
    given labels go wrong, and with ``features`` its weights on a run of the model ``linear``. Without ``features`` the
    logarithms of ``probs`` stand for them: a linear model of these is matrix scaling (Guo et al. 2017,
    arXiv:1706.04599), which corrects probabilities that are too sure, or that name another class throughout.

    Where no bought label can be left out and predicted, and so nothing is known of wrong labels, the probability is
    that in ``probs``, known as self-confidence (Northcutt, Jiang, Chuang 2021, arXiv:1911.00068). The ranking is that
    of `metaselect reweight --method uniform` then.

    Args:
        labels: n given labels, integers or texts; None or NA: none. The index of a Series names the samples, unless it
            is the default one; if there is none, that of a DataFrame of ``probs`` does.
        probs: (n, K) class probabilities, of each sample by a model that did not see its label (out of fold); rows sum
            to 1. Columns are the classes: those of a DataFrame by name, those of an array integers from 0 on, or
            texts in their order.
        features: (n, d) numbers of any encoder, one row a sample.
        bought: a dict or a Series of samples (positions, or index labels) and their bought labels; None or NA: the
            sample is unusable.

    Returns:
        One row for each sample, in the order of the arguments: ``given_label``, ``suggested_label`` (the bought label
        if there is one), ``suggested_prob``, ``weight``, and ``rank``, which is 1 for the label to doubt first. The
        weight is the probability that the given label is right; that of bought samples is 1. Samples that are bought,
        unusable or without a given label have no rank.

    Raises:
        ValueError: an argument that cannot be used.
    """
    rows = Rows.of(labels if isinstance(labels, pd.Series) else probs, len(labels))
    columns = rows.take(probs, "probs")
    distributions = torch.from_numpy(probs_of(columns))
    found = labels_of(rows.take(labels, "labels"), rows.places(bought), len(rows.order), columns)
    if not (found.given >= 0).any():
        raise ValueError("No sample has a given label.")
    if features is None:
        inputs = distributions.clamp(min=LEAST_PROB).log()
    else:
        inputs = _normalised(features_of(rows.take(features, "features")))
    known = _class_probs(found, distributions, inputs)
    table = _table(found, distributions.numpy(), known)
    table.index = pd.RangeIndex(len(table)) if rows.index is None else rows.index[rows.order]
    return table.iloc[np.argsort(rows.order)]


def _normalised(features: np.ndarray) -> torch.Tensor:
    """(n, d) the features as a model of a run gets them."""
    preprocess = Preprocess(FEATURES, (), "", *statistics(features))
    labels, device = np.zeros(len(features), np.int64), torch.device("cpu")
    return pool_inputs(Batches(features, labels, preprocess, device=device, channels=features.shape[1]))


def _class_probs(found: Labels, probs: torch.Tensor, inputs: torch.Tensor) -> np.ndarray:
    """(n, K) the probability of each class, before a sample's bought label is looked at."""
    given = torch.from_numpy(found.given)
    evidence = Evidence(given, probs, probs, (Space(inputs, torch.arange(len(given))),), improving=False)
    usable = given >= 0
    usable[found.bought] = torch.from_numpy(found.answers >= 0)
    answered = found.answers >= 0
    bought, answers = (torch.from_numpy(values[answered]) for values in (found.bought, found.answers))
    draw = generator(0, "reweight", "method")
    model = fit_label_model(evidence, bought, answers, usable.nonzero()[:, 0], draw)
    # Without a comparison of candidates the model takes nearly every label to be right, and ranks worse than ``probs``.
    return (model.posterior if model.log_likelihood else probs).numpy()


def _table(found: Labels, probs: np.ndarray, known: np.ndarray) -> pd.DataFrame:
    everything = np.arange(len(known))
    suggested, confidence = known.argmax(1), known.max(1)
    labelled, is_bought = found.given >= 0, np.zeros(len(known), bool)
    is_bought[found.bought] = True
    weight = np.where(labelled, known[everything, found.given], 0)
    weight[found.bought] = found.answers >= 0
    ranked = labelled & ~is_bought
    ranks = np.zeros(len(known), np.int64)
    ranks[ranked] = label_issue_ranks(weight[ranked], probs[everything, found.given][ranked])
    answered = found.answers >= 0
    suggested[found.bought[answered]] = found.answers[answered]
    confidence[found.bought[answered]] = 1
    suggested[found.bought[~answered]] = -1
    return pd.DataFrame(
        {
            "given_label": _named(found, found.given),
            "suggested_label": _named(found, suggested),
            "suggested_prob": np.where(suggested < 0, np.nan, confidence).astype(np.float32),
            "weight": weight.astype(np.float32),
            "rank": pd.arrays.IntegerArray(ranks, ~ranked),
        }
    )


def _named(found: Labels, numbers: np.ndarray) -> Any:
    kind = "Int64" if isinstance(found.classes[0], int) else "string"
    return pd.array(
        [None if number < 0 else found.classes[number] for number in numbers.tolist()], dtype=kind
    )
