"""``issues.parquet`` and ``issues.csv``: what speaks for and against every given label, and which one to put instead.

There is one ranking, ``label_issue_rank`` of ``weights.parquet``. All else stands beside it, with its AUC on the bought
labels where these are enough, so that a user knows how far to trust it.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from metaselect.annotation.rounds import rounds
from metaselect.records import Json
from metaselect.run.artefacts import ISSUES, ISSUES_LIST, SAMPLES
from metaselect.run.stage import Work
from metaselect.run.tables import read_parquet, write_parquet, write_rows
from metaselect.stages.reweight.cross_fit import CrossFitted
from metaselect.stages.reweight.rankings import judge_rankings
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.stages.reweight.surroundings import Surroundings, read_surroundings, surroundings_round
from metaselect.stages.reweight.training import Trained
from metaselect.stages.reweight.weights_table import final_ranks
from metaselect.stages.wrong_labels import wrong_labels_by
from metaselect.text import spreadsheet_cell
from metaselect.training.pool_predictions import PoolPredictions, pool_predictions
from metaselect.training.predict import class_probs

FEWEST_LISTED = 20  # labels in issues.csv, however few are estimated to be wrong
MOST_PAIRS = 10  # pairs of a given and a suggested class in the result
DIGITS = 4  # of numbers in issues.csv


class Suggested(NamedTuple):
    """What the labels should be.

    Attributes:
        label: (n,) int64; -1 for unusable samples.
        prob: (n,) float32, its probability.
    """

    label: np.ndarray
    prob: np.ndarray


class Evidence(NamedTuple):
    """What speaks for and against the given labels.

    Attributes:
        out_of_fold: (n,) the probability of the given label by models of the warm-up that did not see it; or why there
            is none.
        neighbours: (n,) the share of the nearest other samples that have the given label; or why there is none.
        surroundings: None: no round with bought labels looked for near duplicates.
    """

    out_of_fold: np.ndarray | str
    neighbours: np.ndarray | str
    surroundings: Surroundings | None


def known_predictions(setup: ReweightSetup) -> PoolPredictions | None:
    """The warm-up's predictions, where they are an input of the re-weighting."""
    reads = setup.start is not None or setup.method.needs_evidence
    return pool_predictions(setup.run) if reads else None


def suggest(setup: ReweightSetup, trained: Trained, known: PoolPredictions | None) -> Suggested:
    """The bought label with probability 1, else the most probable class.

    That is by the method's posterior, which takes the given label into account. A method without one has the mean of
    its final model's probabilities, which may have learnt a wrong given label by heart, and of those of the warm-up's
    models that did not see that label, which may have learnt the errors that labels have in common.
    """
    probs = trained.run.pool_posterior(trained.predictions)
    if probs is None:
        probs = class_probs(trained.model, trained.batches)
        if known is not None:
            probs = (probs + known.held_out) / 2
    prob, label = (values.cpu().numpy().copy() for values in probs.max(1))
    meta_set = setup.meta_set
    label[meta_set.bought], prob[meta_set.bought] = meta_set.labels, 1
    label[meta_set.unusable] = -1
    return Suggested(label, prob.astype(np.float32))


def write_issues(
    setup: ReweightSetup,
    known: PoolPredictions | None,
    weights: Mapping[str, pa.Array],
    suggested: Suggested,
    crossed: CrossFitted | None,
    work: Work,
) -> dict[str, Json]:
    """Write both files.

    Args:
        setup: of the re-weighting.
        known: of ``known_predictions``.
        weights: the columns of ``weights.parquet``.
        suggested: what the labels should be.
        crossed: the comparison's predictions; None: there is no comparison.
        work: takes the files.

    Returns:
        What ``stage.json`` and ``--json`` have of them.
    """
    number = surroundings_round(setup)
    labels, classes = setup.pool.labels, setup.pool.classes
    near = None if number is None else read_surroundings(setup.run, number, labels)
    evidence = _evidence(known, near, labels)
    table = _table(setup, weights, suggested, evidence)
    write_parquet(work.folder / ISSUES.within(), ISSUES, table)
    listed = _listed(setup, table, suggested, crossed)
    columns = [table[name].take(pa.array(listed, pa.int64())).to_pylist() for name in ISSUES_LIST.columns]
    rows = [[_cell(value) for value in row] for row in zip(*columns, strict=True)]
    write_rows(work.folder / ISSUES_LIST.within(), ISSUES_LIST, rows)
    right = (labels == setup.labels)[_answered(setup)]
    judged = judge_rankings(_trust(setup, known, evidence, crossed), right)
    return {
        "listed": len(listed),
        "others_suggested": int(_differs(labels, suggested).sum()),
        "near_duplicates_round": number,
        "contradicted": int((~right).sum()),
        "confirmed": int(right.sum()),
        "rankings": {name: each._asdict() for name, each in judged.items()},
        "pairs": [*_pairs(labels, suggested, classes)],
    }


def _answered(setup: ReweightSetup) -> np.ndarray:
    """(m',) int64, bought samples with a given label."""
    bought = setup.meta_set.bought
    answered: np.ndarray = bought[setup.pool.labelled[bought]]
    return answered


def _differs(labels: np.ndarray, suggested: Suggested) -> np.ndarray:
    """(n,) bool, whether another label than the given one is suggested."""
    differs: np.ndarray = (labels >= 0) & (suggested.label >= 0) & (suggested.label != labels)
    return differs


def _evidence(known: PoolPredictions | None, near: Surroundings | None, labels: np.ndarray) -> Evidence:
    if known is None:
        missing = "the re-weighting does not read the warm-up"
        return Evidence(missing, missing, near)

    def of_given(probs: torch.Tensor | None) -> np.ndarray | str:
        if probs is None:
            return "the warm-up has no folds"
        values: np.ndarray = probs.numpy()[np.arange(len(labels)), labels]
        return values

    return Evidence(of_given(known.out_of_fold), of_given(known.neighbours), near)


def _table(
    setup: ReweightSetup, weights: Mapping[str, pa.Array], suggested: Suggested, evidence: Evidence
) -> dict[str, pa.Array]:
    """The columns of ``issues.parquet``."""
    pool, near, n = setup.pool, evidence.surroundings, len(setup.pool)
    names = np.array([*pool.classes, None], dtype=object)  # -1 is the last
    bought = np.full(n, -1)
    bought[setup.meta_set.bought] = setup.meta_set.labels

    def numbers(values: np.ndarray | str | None, absent: np.ndarray) -> pa.Array:
        if values is None or isinstance(values, str):
            return pa.nulls(n, pa.float32())
        return pa.array(values.astype(np.float32), mask=absent)

    return {
        "sample_id": weights["sample_id"],
        "rank": weights["label_issue_rank"],
        "given_label": weights["given_label"],
        "suggested_label": pa.array(names[suggested.label].tolist(), pa.string()),
        "suggested_prob": numbers(suggested.prob, suggested.label < 0),
        "bought_label": pa.array(names[bought].tolist(), pa.string()),
        "weight": weights["weight"],
        "out_of_fold": numbers(evidence.out_of_fold, ~pool.labelled),
        "neighbours": numbers(evidence.neighbours, ~pool.labelled),
        "outlier": numbers(near and near.outlier, np.zeros(n, bool)),
        "duplicate_group": pa.array(near.group if near else [None] * n, pa.string()),
        "conflict": pa.array(near.conflict) if near else pa.nulls(n, pa.bool_()),
        "source": read_parquet(setup.run, SAMPLES, ["source"])["source"].combine_chunks(),
    }


def _listed(
    setup: ReweightSetup, table: Mapping[str, pa.Array], suggested: Suggested, crossed: CrossFitted | None
) -> list[int]:
    """Pool indices of the rows of ``issues.csv``.

    Labels that bought ones contradict come first; then, by rank, as many as are estimated to be wrong among those that
    were not bought. Without an estimate, as many as there are others for which another label is suggested.
    """
    labels, differs = setup.pool.labels, _differs(setup.pool.labels, suggested)
    is_bought = np.zeros(len(labels), bool)
    is_bought[setup.meta_set.bought] = True
    ranks = np.array(table["rank"].fill_null(0))
    ranked = np.flatnonzero(ranks)
    by_rank = ranked[np.argsort(ranks[ranked], kind="stable")]
    count = int((differs & ~is_bought).sum())
    if crossed is not None:
        rows = (row._asdict() for row in crossed.rows)
        count = ceil(wrong_labels_by(rows, len(ranked), rounds(setup.run)).estimate)
    found = np.flatnonzero(differs & is_bought)
    return [*found.tolist(), *by_rank[: max(count, FEWEST_LISTED)].tolist()]


def _cell(value: object) -> object:
    """A cell for people: no formula of a spreadsheet, no control character, no long number."""
    if isinstance(value, str):
        return spreadsheet_cell(value)
    if isinstance(value, bool):
        return int(value)
    return "" if value is None else round(value, DIGITS) if isinstance(value, float) else value


def _trust(
    setup: ReweightSetup, known: PoolPredictions | None, evidence: Evidence, crossed: CrossFitted | None
) -> dict[str, np.ndarray | str]:
    """By ranking, (m',) values of the bought samples, higher for labels that are trusted more; or why there are none.

    The weight of a bought sample is 1, and the final model learnt its bought label. So weight and rank are those of the
    comparison's models, which were trained without it.
    """
    answered, near = _answered(setup), evidence.surroundings
    weight: np.ndarray | str = "there is no comparison by folds"
    rank: np.ndarray | str = weight
    if not setup.method.weighs_unseen:
        weight = rank = "the method has no weights for samples that it was not trained on"
    elif crossed is not None:
        place = {row.sample_id: number for number, row in enumerate(crossed.rows)}
        places = [place[setup.pool.sample_ids[index]] for index in answered.tolist()]
        weight = np.array(crossed.weights)[places]
        prob = np.array([crossed.rows[number].method_given_prob for number in places], np.float64)
        held_out = None if setup.start is None else known and known.label_probs(setup.pool.labels)[answered]
        rank = final_ranks(weight, prob, held_out)
    outlier: np.ndarray | str = "the samples were not compared in a round with bought labels"
    if near is not None and near.outlier is not None:
        outlier = -near.outlier[answered]
    others = {
        name: values if isinstance(values, str) else values[answered]
        for name, values in (("out_of_fold", evidence.out_of_fold), ("neighbours", evidence.neighbours))
    }
    return {"rank": rank, "weight": weight, **others, "outlier": outlier}


def _pairs(labels: np.ndarray, suggested: Suggested, classes: Sequence[str]) -> Iterator[Json]:
    """The most frequent pairs of a given class and the one that is suggested instead."""
    differs, sizes = _differs(labels, suggested), np.bincount(labels[labels >= 0], minlength=len(classes))
    codes, counts = np.unique(labels[differs] * len(classes) + suggested.label[differs], return_counts=True)
    for place in np.argsort(-counts, kind="stable")[:MOST_PAIRS].tolist():
        given, other = divmod(int(codes[place]), len(classes))
        count = int(counts[place])
        yield {
            "given_label": classes[given],
            "suggested_label": classes[other],
            "count": count,
            "share": count / int(sizes[given]),
        }
