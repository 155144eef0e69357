"""Predictions of the run's models, read from disk; no model runs here."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from metaselect.annotation.formats.base import Prediction
from metaselect.errors import ArtefactError
from metaselect.registry import BASELINE
from metaselect.run.artefacts import FACTORS, RECORD, REWEIGHT, SELECT, WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.stage_names import stage_of
from metaselect.run.tables import read_parquet


def latest_predictions(
    run: Run, number: int, sample_ids: Sequence[str], classes: Sequence[str]
) -> tuple[str, Mapping[str, Prediction]]:
    """The name of the latest model, such as "warmup-9c2e", and its prediction for each sample.

    That is the model which was re-weighted last (the baseline only where there is no other) or, where there is none,
    the warm-up as the selection saw it.

    Args:
        run: the run.
        number: the round whose samples are exported.
        sample_ids: of the samples.
        classes: K names.

    Raises:
        ArtefactError: there are no predictions, or they are damaged or of other samples.
    """
    wanted = ("sample_id", "in", list(sample_ids))
    reweighted = _latest_reweighting(run)
    path = WEIGHTS.path(name=reweighted.partition("/")[2]) if reweighted else _probabilities_path(run, number)
    if path is None:
        raise ArtefactError(
            f"No model's predictions are on disk for round {number}.",
            f"First run: metaselect reweight {run.flag}",
        )
    stage = reweighted or stage_of(path)
    digest = run.stage(stage).verified(path)
    if reweighted:
        columns = ["sample_id", "predicted_label", "predicted_prob"]
        name = reweighted.partition("/")[2]
        table = read_parquet(run, WEIGHTS, columns, where=wanted, name=name)
        rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
        found = {sample_id: Prediction(label, float(prob)) for sample_id, label, prob in rows}
    else:
        found = _most_probable(
            pq.read_table(run.path(path), columns=["sample_id", "probs"], filters=[wanted]), classes
        )
    lacking = [sample_id for sample_id in sample_ids if sample_id not in found]
    if lacking:
        raise ArtefactError(
            f"{run.path(path)} has no prediction for {len(lacking)} samples, {lacking[0]} for example.",
            "It was made from other data; run its stage again.",
        )
    name = reweighted.partition("/")[2] if reweighted else "warmup"
    return f"{name}-{digest[:4]}", found


def has_predictions(run: Run, number: int) -> bool:
    """Whether ``latest_predictions`` would find a model; reads no table."""
    return bool(_latest_reweighting(run) or _probabilities_path(run, number))


def _latest_reweighting(run: Run) -> str | None:
    names = run.stage_names(REWEIGHT.kind)
    return max(
        names,
        key=lambda name: (not name.endswith(f"/{BASELINE}"), _finished_at(run, name), name),
        default=None,
    )


def _finished_at(run: Run, name: str) -> int:
    return run.path(f"{name}/{RECORD}").stat().st_mtime_ns


def _probabilities_path(run: Run, number: int) -> str | None:
    """The last checkpoint's probabilities that the round, or an earlier one, was chosen from."""
    for each in range(number, 0, -1):  # a round may be chosen by a method that keeps no probabilities
        folder = run.path(SELECT.name(number=each))
        for path in sorted(folder.glob(FACTORS.within(epoch="*")), reverse=True):
            if "probs" in pq.read_schema(path).names:
                return f"{SELECT.name(number=each)}/{path.name}"
    return None


def _most_probable(table: pa.Table, classes: Sequence[str]) -> dict[str, Prediction]:
    found = {}
    for sample_id, probs in zip(table["sample_id"].to_pylist(), table["probs"].to_pylist(), strict=True):
        place = max(range(len(probs)), key=probs.__getitem__)
        found[sample_id] = Prediction(classes[place], float(probs[place]))
    return found
