"""The pool seen from above: the first two principal components of the features of some of its samples.

Source: Pearson 1901, "On lines and planes of closest fit to systems of points in space", Philosophical Magazine 2 (11).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from metaselect.features.extract import last_layer_factors
from metaselect.random import generator
from metaselect.records import Json, SilentReporter
from metaselect.run.artefacts import CHECKPOINT
from metaselect.run.layout import FEATURES
from metaselect.stages.report.evaluated import Evaluated
from metaselect.training.batches import Batches
from metaselect.training.saved_models import load_weights, recorded_model, warmup_model

MOST_SAMPLES = 1000  # besides the marked ones: a forward pass over images takes its time


class PoolMap(NamedTuple):
    """Places in the plane.

    Attributes:
        of: what the components are of, in words.
        explained: the shares of the variance that the two components explain.
        ids: (k,) int64, pool indices of the samples, sorted.
        places: (k, 2) float64.
        marked: by kind, (k,) bool, samples that are marked; no sample has two marks.
    """

    of: str
    explained: tuple[float, float]
    ids: np.ndarray
    places: np.ndarray
    marked: dict[str, np.ndarray]

    def as_json(self, sample_ids: Sequence[str]) -> dict[str, Json]:
        """What ``report.json`` has of it: the marked samples with their places."""
        marks: list[Json] = [
            {"sample_id": sample_ids[self.ids[row]], "mark": kind, "x": round(x, 4), "y": round(y, 4)}
            for kind, rows in self.marked.items()
            for row, (x, y) in zip(np.flatnonzero(rows).tolist(), self.places[rows].tolist(), strict=True)
        ]
        return {"of": self.of, "explained": list(self.explained), "samples": len(self.ids), "marked": marks}


def pool_map(evaluated: Evaluated, marks: Mapping[str, Sequence[int]]) -> PoolMap | None:
    """The map of the marked samples and of others, drawn at random.

    None where there are fewer than three, and where it would run somebody's model code that judged nothing: a command
    that needs no trust in it must not begin to.

    Args:
        evaluated: whose pool it is.
        marks: by kind, pool indices; a sample has the mark of the first kind that names it.
    """
    n = len(evaluated.pool)
    kind_of = {index: kind for kind in reversed(list(marks)) for index in marks[kind]}
    order = torch.randperm(n, generator=generator(0, "map")).numpy()
    others = [index for index in order.tolist() if index not in kind_of]
    ids = np.sort(np.array([*kind_of, *others[:MOST_SAMPLES]], np.int64))
    if len(ids) < 3 or needs_untrusted_code(evaluated):
        return None
    features, of = _features(evaluated, ids)
    places, explained = principal_components(features)
    kinds = np.array([kind_of.get(index, "") for index in ids.tolist()], dtype=object)
    return PoolMap(of, explained, ids, places, {kind: kinds == kind for kind in marks})


def principal_components(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(k, 2) the first two principal components, and the shares of the variance that they explain.

    The largest entry of each direction is positive, so that the same features give the same map.

    Args:
        features: (k, d).
    """
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    total = float((centred**2).sum())
    if not total or centred.shape[1] < 2:  # nothing, or one line, is all there is
        places = np.zeros((len(centred), 2))
        places[:, : centred.shape[1]] = centred[:, :2]
        return places, (1.0 if total else 0.0, 0.0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    places = centred @ (directions * signs[:, None]).T
    return places, (float(sizes[0] ** 2 / total), float(sizes[1] ** 2 / total))


def needs_untrusted_code(evaluated: Evaluated) -> bool:
    """Whether the map would build somebody's model that the evaluation itself did not need."""
    if evaluated.pool.preprocess.task == FEATURES or evaluated.metrics["judged_on"] == "test_set":
        return False
    return not evaluated.run.trusts_model(warmup_model(evaluated.run).architecture)


def _features(evaluated: Evaluated, ids: np.ndarray) -> tuple[np.ndarray, str]:
    """(k, d) of these samples: the pool's features, or what the warm-up's last layer sees of its images."""
    run, pool = evaluated.run, evaluated.pool
    if pool.preprocess.task == FEATURES:
        return np.asarray(pool.inputs[ids]), "the features"
    described = warmup_model(run)
    model = recorded_model(run, described.architecture, pool.inputs.shape[1:], len(pool.classes))
    load_weights(model, run.path(CHECKPOINT.path(epoch=described.checkpoints[-1])))
    batches = Batches(
        pool.inputs, pool.labels, pool.preprocess, device=evaluated.setup.device, channels=described.channels
    )
    factors = last_layer_factors(
        model.to(evaluated.setup.device), batches, SilentReporter(), "", torch.from_numpy(ids)
    )
    return factors.hidden.numpy(), "the input of the warm-up model's last layer"
