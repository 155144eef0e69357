"""Bought labels as the labelled samples that models are judged on, where there is no test set.

A bought sample is predicted by models that were trained without it: of the warm-up, those of its folds; of a
re-weighting, those of its comparison. So the accuracies are of models that saw fewer labels, and were trained for fewer
epochs, than the ones that are kept.
"""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

import numpy as np

from metaselect.annotation.meta_set import MetaSet, load_meta_set
from metaselect.annotation.rounds import Round
from metaselect.data.store import Dataset
from metaselect.data_options import EvaluateOptions, ReadOptions
from metaselect.errors import ConditionUnmet, UsageError
from metaselect.run.artefacts import CROSS_FIT, REWEIGHT
from metaselect.run.layout import Run
from metaselect.run.tables import read_records
from metaselect.stages.evaluate.candidates import Candidate, LabelledSamples, ModelPredictions
from metaselect.text import counted
from metaselect.training.pool_predictions import pool_predictions

FEWEST = 10  # labels; of 9 that are all predicted, the 95 % interval still begins at 70 %


def check_without_test_set(options: EvaluateOptions) -> None:
    """Check that no option is given that is about a test set.

    Raises:
        UsageError: one is.
    """
    names = (*(spec.name for spec in fields(ReadOptions)), "name", "leave_out_overlap")
    default = EvaluateOptions()
    for name in names:
        if getattr(options, name) != getattr(default, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for a test set, and none is named.", "Name TEST, or leave it out.")


def labelled_bought_samples(run: Run, pool: Dataset, rounds: Sequence[Round]) -> LabelledSamples:
    """The control samples with a label, which were drawn at random, if they are enough; else all bought ones.

    Args:
        run: whose models are judged.
        pool: of the run.
        rounds: of the run.

    Raises:
        ConditionUnmet: there are too few bought labels.
        ArtefactError: the meta set is damaged.
    """
    meta_set = load_meta_set(run, pool)
    bought = len(meta_set.bought)
    if bought < FEWEST:
        raise ConditionUnmet(
            f"Without a test set, models are judged on bought labels; there "
            f"{'is' if bought == 1 else 'are'} {bought}, and it takes {FEWEST}.",
            "Buy more (metaselect select --round next --control 1 draws them at random), or name TEST.",
        )
    control = {sample_id for each in rounds for sample_id in each.control}
    drawn = np.array([pool.sample_ids[index] in control for index in meta_set.bought.tolist()])
    from_control = int(drawn.sum()) >= FEWEST
    kept = drawn if from_control else np.ones(bought, dtype=bool)
    return LabelledSamples(
        [pool.sample_ids[index] for index in meta_set.bought[kept].tolist()],
        meta_set.labels[kept],
        partial(_held_out_predictions, run, pool, meta_set, kept),
        {"test_samples": int(kept.sum()), "judged_on": "control" if from_control else "bought"},
    )


def _held_out_predictions(
    run: Run, pool: Dataset, meta_set: MetaSet, kept: np.ndarray, candidate: Candidate
) -> ModelPredictions | str:
    """Predictions of the bought samples where (m,) ``kept`` is true; or why there are none."""
    ids, labels = meta_set.bought[kept], meta_set.labels[kept]
    if not candidate.table:
        predictions = pool_predictions(run)
        if predictions is None or predictions.out_of_fold is None:
            return "no model of the warm-up was trained without the bought samples (warmup --folds)"
        probs = predictions.out_of_fold.numpy()[ids]
        return ModelPredictions(probs.argmax(1), probs[np.arange(len(ids)), labels], probs.max(1))
    again = run.stage(REWEIGHT.name(name=candidate.name)).command()
    if not candidate.cross_fit:
        return "no model of it was trained without the bought samples, since it has no comparison (reweight --folds)"
    rows = {
        row["sample_id"]: row
        for row in read_records(run, CROSS_FIT, name=candidate.name)
        if row["clean_label"]
    }
    bought = {
        pool.sample_ids[index]: pool.classes[label]
        for index, label in zip(meta_set.bought.tolist(), meta_set.labels.tolist(), strict=True)
    }
    if bought != {sample_id: row["clean_label"] for sample_id, row in rows.items()}:
        return f"its comparison was made with other bought labels than there are now ({again})"
    place = {name: number for number, name in enumerate(pool.classes)}
    found = [rows[pool.sample_ids[index]] for index in ids.tolist()]
    predicted = np.array([place[row["method_predicted"]] for row in found])
    return ModelPredictions(predicted, np.array([float(row["method_prob"]) for row in found]), None)


def what_is_judged(judged_on: str, samples: int) -> str:
    """What the accuracies are of, in sentences.

    Args:
        judged_on: "control" or "bought".
        samples: how many.
    """
    held_out = (
        "Each was predicted by models that were trained without it, on fewer labels; the models that are kept may be a "
        "little better."
    )
    if judged_on == "control":
        number = counted(samples, "control sample", "control samples")
        return f"From {number}, drawn at random: an estimate for the whole pool. {held_out}"
    return (
        f"On {samples} bought samples, which a selector chose: the pool as a whole may be easier or harder than they "
        f"are; {FEWEST} control samples with an answer would tell (select --control). {held_out}"
    )
