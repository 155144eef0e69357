"""Every model of a run judged on labelled samples: the files of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from metaselect.annotation.meta_set import load_meta_set
from metaselect.annotation.rounds import Round
from metaselect.data.store import Dataset
from metaselect.data_options import EvaluateOptions
from metaselect.errors import ConditionUnmet
from metaselect.records import Json
from metaselect.run.artefacts import REWEIGHT, WARMUP
from metaselect.run.evaluation_artefacts import METRICS, PER_CLASS, PREDICTIONS
from metaselect.run.files import write_json
from metaselect.run.layout import Run
from metaselect.run.stage import Work
from metaselect.run.tables import write_parquet, write_rows
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples
from metaselect.stages.evaluate.choice import Judged, against_baseline, against_warmup, choose
from metaselect.stages.evaluate.label_issues import warmup_scores, weight_scores
from metaselect.stages.evaluate.scores import SCORES, ClassScores, model_scores
from metaselect.stages.evaluate.truth import Truth, bought_until, read_pool_truth
from metaselect.stages.freshness import State
from metaselect.stages.model_choice import choose_by_comparisons
from metaselect.stages.report.shown import Shown
from metaselect.stages.wrong_labels import wrong_labels
from metaselect.text import spreadsheet_cell


class EvaluationSetup(NamedTuple):
    """What is evaluated.

    Attributes:
        run: the run.
        pool: its data.
        options: of the command.
        models: the warm-up first.
        troubles: by the name of a model's stage, why it is stale, damaged or dead; the others are left out.
        rounds: of the run.
        noise: what their control samples say of it, for ``metrics.json``; empty without answered ones.
        shown: what the report shows besides.
        device: on which models predict.
    """

    run: Run
    pool: Dataset
    options: EvaluateOptions
    models: Sequence[Candidate]
    troubles: Mapping[str, State]
    rounds: Sequence[Round]
    noise: dict[str, Json]
    shown: Shown
    device: torch.device

    @property
    def usable(self) -> set[str]:
        """Names of the stages of models that are done, up to date and not dead."""
        stages = {REWEIGHT.name(name=each.name) if each.table else WARMUP.name() for each in self.models}
        return stages - set(self.troubles)


def judge_models(samples: LabelledSamples, setup: EvaluationSetup, work: Work) -> dict[str, Json]:
    """Judge every model on labelled samples, and write the files of the evaluation.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ConditionUnmet: no model can be judged.
        DataError: the truth file is not of this data.
    """
    run, pool, options = setup.run, setup.pool, setup.options
    truth = None
    if options.truth is not None:
        truth = read_pool_truth(options.truth, pool, load_meta_set(run, pool))
    judged, scores, per_class = _judge(setup, samples, truth)
    if not judged:
        raise ConditionUnmet(
            f"No model can be judged on the bought labels: {scores[WARMUP.kind]['not_judged']}.",
            "Run warmup with folds, or reweight with a comparison, or name TEST.",
        )
    on_test_set = samples.facts["judged_on"] == "test_set"
    take = choose(judged) if on_test_set else choose_by_comparisons(run, setup.usable)
    metrics: dict[str, Json] = {
        **samples.facts,
        "classes": list(pool.classes),
        "warmup": scores.pop(WARMUP.kind),
        "take": take and take._asdict(),
        "reweight": scores,
    }
    if truth is not None:
        metrics["noise"] = truth.noise(len(pool.classes))
        metrics["correct_labels"] = truth.correct_labels(bought_until(pool, setup.rounds, truth.bought))
    metrics |= setup.noise
    count = len(samples.sample_ids)
    predictions = {each.candidate.name: each.predictions for each in judged}
    columns = {
        "sample_id": pa.array(samples.sample_ids, pa.string()),
        "label": _names(pool, samples.labels),
        **{f"predicted_{name}": _names(pool, found.predicted) for name, found in predictions.items()},
        **{f"prob_{name}": _probs(found.confidence, count) for name, found in predictions.items()},
        **{f"label_prob_{name}": _probs(found.label_prob, count) for name, found in predictions.items()},
    }
    write_parquet(work.folder / PREDICTIONS.within(), PREDICTIONS, columns)
    rows = [
        (name, spreadsheet_cell(row[0]), *row[1:]) for name, scored in per_class.items() for row in scored
    ]
    write_rows(work.folder / PER_CLASS.within(), PER_CLASS, rows)
    write_json(work.folder / METRICS.within(), metrics)
    return metrics


def _judge(
    setup: EvaluationSetup, samples: LabelledSamples, truth: Truth | None
) -> tuple[list[Judged], dict[str, Any], dict[str, list[ClassScores]]]:
    """Every model with its predictions of the samples, the warm-up first; the scores, and those on classes, by name."""
    run, pool, k = setup.run, setup.pool, setup.options.k
    judged: list[Judged] = []
    scores: dict[str, Any] = {}
    per_class: dict[str, list[ClassScores]] = {}
    for candidate in setup.models:
        predictions = samples.predict(candidate)
        found: dict[str, Any]
        if isinstance(predictions, str):
            found = {**dict.fromkeys(SCORES), "not_judged": predictions}
        else:
            judged.append(Judged(candidate, predictions, predictions.predicted == samples.labels))
            found, rows = model_scores(samples.labels, predictions, pool.classes)
            found["not_judged"], per_class[candidate.name] = None, rows
        if candidate.table:
            found |= weight_scores(run, candidate.name, pool, truth, k)
            wrong = wrong_labels(run, candidate.name, setup.rounds) if candidate.cross_fit else None
            found |= {"wrong_labels": wrong and wrong._asdict(), "dead": candidate.dead or None}
            found["oracle"] = candidate.oracle
            found["against_baseline"] = found["against_warmup"] = None
        else:
            names = [other.name for other in setup.models if other.table]
            found |= warmup_scores(run, names, pool, truth, k)
        scores[candidate.name] = found
    for key, differences in (
        ("against_baseline", against_baseline(judged)),
        ("against_warmup", against_warmup(judged)),
    ):
        for name, difference in differences.items():
            scores[name][key] = difference._asdict()
    return judged, scores, per_class


def _names(pool: Dataset, positions: np.ndarray) -> pa.Array:
    return pa.array(np.array(pool.classes, dtype=object)[positions].tolist(), pa.string())


def _probs(values: np.ndarray | None, m: int) -> pa.Array:
    """A column of (m,) probabilities, of nulls where they are not known."""
    return pa.nulls(m, pa.float32()) if values is None else pa.array(values.astype(np.float32))
