"""The models of a run that can be evaluated, and their predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from metaselect.data.store import Dataset, array_files
from metaselect.models.predictions import Predictions
from metaselect.records import Json, Reporter
from metaselect.run.artefacts import (
    CHECKPOINT,
    CROSS_FIT,
    REWEIGHT,
    ROBUST_MODEL,
    ROBUST_MODEL_INFO,
    WARMUP,
    WARMUP_MODEL,
    WEIGHTS,
)
from metaselect.run.files import read_json
from metaselect.run.layout import Run
from metaselect.training.batches import Batches
from metaselect.training.predict import predict
from metaselect.training.saved_models import load_weights, recorded_model, warmup_model


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: "warmup" or the name of a re-weighting.
        weights: path of the model's parameters below the run.
        description: path of its ``model.json`` below the run.
        table: path of its ``weights.parquet`` below the run; empty for the warm-up.
        cross_fit: path of its ``cross_fit.csv`` below the run; empty where there is none.
        method: of the re-weighting; empty for the warm-up.
        dead: why its result should not be used; empty where it may be.
        oracle: it was told the true labels.
    """

    name: str
    weights: str
    description: str
    table: str = ""
    cross_fit: str = ""
    method: str = ""
    dead: str = ""
    oracle: bool = False

    @property
    def usable(self) -> bool:
        """Whether it may be the model to take."""
        return not self.dead and not self.oracle

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all its files."""
        return tuple(path for path in (self.weights, self.description, self.table, self.cross_fit) if path)


class ModelPredictions(NamedTuple):
    """A model's predictions of labelled samples.

    Attributes:
        predicted: (m,) int64, the most probable classes.
        label_prob: (m,) the probability of each sample's label.
        confidence: (m,) that of the predicted class; None: not known.
    """

    predicted: np.ndarray
    label_prob: np.ndarray
    confidence: np.ndarray | None


class LabelledSamples(NamedTuple):
    """Samples that models are judged on.

    Attributes:
        sample_ids: m.
        labels: (m,) int64, their classes.
        predict: a candidate's predictions of them; or why there are none, as a part of a sentence.
        facts: about them, for ``metrics.json``.
    """

    sample_ids: list[str]
    labels: np.ndarray
    predict: Callable[[Candidate], ModelPredictions | str]
    facts: dict[str, Json]


def candidates(run: Run, kind: str, report: Reporter) -> list[Candidate]:
    """The warm-up's last epoch and every finished re-weighting.

    Args:
        run: the run.
        kind: what the warm-up takes, "images" or "features"; a re-weighting that takes the other is left out.
        report: warns of that.

    Raises:
        ArtefactError: there was no warm-up, or a record is damaged.
    """
    last = warmup_model(run).checkpoints[-1]
    models = [Candidate(WARMUP.kind, CHECKPOINT.path(epoch=last), WARMUP_MODEL.path())]
    for stage in run.stage_names(REWEIGHT.kind):
        name, record = stage.partition("/")[2], run.stage(stage).require()
        if array_files(run, kind)[0] not in record.key.inputs:
            again = run.stage(stage).command()
            report.warn(f"{stage} does not take {kind}, as the warm-up does, so it is left out. Run: {again}")
            continue
        models.append(
            Candidate(
                name,
                ROBUST_MODEL.path(name=name),
                ROBUST_MODEL_INFO.path(name=name),
                WEIGHTS.path(name=name),
                CROSS_FIT.path(name=name) if CROSS_FIT.within() in record.outputs else "",
                str(record.key.options["method"]),
                record.details["result"]["dead"] or "",
                record.details["result"].get("oracle", False),
            )
        )
    return models


def predict_with(run: Run, candidate: Candidate, samples: Dataset, device: torch.device) -> Predictions:
    """The predictions of a candidate for every sample of a data set.

    Raises:
        ArtefactError: its description is damaged.
        DataError: its parameters are not those of the model.
    """
    described = read_json(run.path(candidate.description), "Run the stage again with --force.")
    shape = samples.inputs.shape[1:]
    model = recorded_model(run, described["architecture"], shape, len(samples.classes))
    load_weights(model, run.path(candidate.weights))
    batches = Batches(
        samples.inputs,
        samples.labels,
        samples.preprocess,
        device=device,
        channels=described["input_channels"],
    )
    return predict(model.to(device), batches, torch.arange(len(samples)))
