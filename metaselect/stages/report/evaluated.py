"""What the report is about: an evaluation, and the files of the run that stand beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metaselect.annotation.meta_set import MetaSet
from metaselect.annotation.rounds import Round
from metaselect.data.store import Dataset
from metaselect.registry import BASELINE, PREFERRED
from metaselect.run.artefacts import ISSUES, REWEIGHT, WARMUP, WEIGHTS
from metaselect.run.layout import Run
from metaselect.run.tables import read_parquet
from metaselect.stages.evaluate.candidates import Candidate
from metaselect.stages.evaluate.judging import EvaluationSetup
from metaselect.stages.report.shown import was_made

UNUSABLE = "unusable"  # the kind of weight of such a sample


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and its surroundings.

    Attributes:
        setup: what is evaluated.
        test: the folder below ``evaluate/``.
        metrics: as ``metrics.json`` has them.
    """

    setup: EvaluationSetup
    test: str
    metrics: Mapping[str, Any]

    @property
    def run(self) -> Run:
        """The run."""
        return self.setup.run

    @property
    def pool(self) -> Dataset:
        """Its data."""
        return self.setup.pool

    @property
    def models(self) -> Sequence[Candidate]:
        """The warm-up first."""
        return self.setup.models

    @property
    def rounds(self) -> Sequence[Round]:
        """Those of which a sample has a bought label."""
        return self.setup.shown.rounds

    @property
    def after(self) -> str:
        """Name of the model to take; without a choice, that of the warm-up."""
        take = self.metrics["take"]
        return str(take["model"]) if take else WARMUP.kind

    @property
    def baseline(self) -> Candidate | None:
        """The control arm: the re-weighting by plain training, if it can be used."""
        found = [each for each in self.models if each.method == BASELINE and not each.dead]
        return min(found, key=lambda each: each.name != BASELINE, default=None)

    @property
    def subject(self) -> Candidate | None:
        """The re-weighting whose weights are shown: the one to take, else the preferred one, else the first.

        The baseline is the last: its weights are all 1 and say nothing.
        """

        def order(each: Candidate) -> tuple[bool, bool, bool]:
            return each.method == BASELINE, each.name != self.after, each.method != PREFERRED

        return min((each for each in self.models if each.table and each.usable), key=order, default=None)

    @cached_property
    def weights(self) -> pa.Table:
        """``weights.parquet`` of the subject, which there must be."""
        assert self.subject is not None
        return read_parquet(self.run, WEIGHTS, WEIGHTS.columns, name=self.subject.name)

    @cached_property
    def issues(self) -> pa.Table | None:
        """``issues.parquet`` of the subject; None where there is none."""
        if self.subject is None or not was_made(self.run, self.stage_of(self.subject), ISSUES):
            return None
        return read_parquet(self.run, ISSUES, ISSUES.columns, name=self.subject.name)

    @cached_property
    def meta_set(self) -> MetaSet:
        """The bought labels that the subject has learnt from."""
        if self.issues is None:
            none = np.empty(0, np.int64)
            return MetaSet(none, none, none)
        place = {name: number for number, name in enumerate(self.pool.classes)}
        labels = self.issues["bought_label"]
        bought = np.flatnonzero(np.array(labels.is_valid()))
        unusable = np.flatnonzero(np.array(pc.equal(self.weights["weight_kind"], UNUSABLE)))
        clean = np.array([place[label] for label in labels.drop_null().to_pylist()], np.int64)
        return MetaSet(bought, clean, unusable)

    def scores(self, name: str) -> Mapping[str, Any]:
        """The metrics of a model."""
        found: Mapping[str, Any] = (
            self.metrics["warmup"] if name == WARMUP.kind else self.metrics["reweight"][name]
        )
        return found

    def stage_of(self, model: Candidate) -> str:
        """The name of the stage that trained a model."""
        return REWEIGHT.name(name=model.name) if model.table else WARMUP.name()
