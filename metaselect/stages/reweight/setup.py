"""What a re-weighting is made from: the pool, the bought labels, the method, and every option resolved."""

from typing import NamedTuple

import numpy as np
import torch

from metaselect.annotation.meta_set import MetaSet, load_meta_set
from metaselect.data.store import Dataset, load_pool, preprocess_of
from metaselect.errors import ArtefactError, UsageError
from metaselect.models.build import auto_model
from metaselect.options import ReweightOptions
from metaselect.records import Reporter
from metaselect.registry import REWEIGHTERS, configured_method
from metaselect.reweighting.base import Method
from metaselect.reweighting.evidence import Evidence
from metaselect.run.artefacts import WARMUP
from metaselect.run.layout import Run
from metaselect.stages.evaluate.truth import read_pool_truth
from metaselect.stages.freshness import AnnotationView
from metaselect.stages.reweight.other_model import FROM_SCRATCH, other_architecture, other_reweighting
from metaselect.stages.status import buying_step
from metaselect.training.config import Resolved, resolve_reweight, without_effect
from metaselect.training.device import choose_device
from metaselect.training.saved_models import LINEAR, WarmupModel, warmup_model


class ReweightSetup(NamedTuple):
    """The inputs of a re-weighting, with every `auto` option resolved.

    Attributes:
        meta_batch_size: 0: the method has no meta batch.
        start: the warm-up whose model is trained on; None: a model from scratch.
        other: the re-weighting whose model is trained on in place of the warm-up's, which is ``start`` if there was
            one; empty: none.
        options: as given.
        evidence: what models of the given labels say, where the method needs it and something is trained.
        truth: (n,) int64 true classes, -1 where they are not known, where the method needs them.
    """

    pool: Dataset
    meta_set: MetaSet
    method: Method
    resolved: Resolved
    meta_batch_size: int
    start: WarmupModel | None
    device: torch.device
    run: Run
    options: ReweightOptions
    evidence: Evidence | None = None
    truth: np.ndarray | None = None
    other: str = ""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, the given labels with the bought ones in place; -1 where a sample has neither."""
        labels = self.pool.labels.copy()
        labels[self.meta_set.bought] = self.meta_set.labels
        return labels


def resolve_setup(run: Run, options: ReweightOptions, report: Reporter) -> ReweightSetup:
    """The inputs of a re-weighting.

    Raises:
        ArtefactError: no model to start from, or no bought labels for a method that needs them.
        UsageError: options that do not fit together.
        DataError: the file of true labels is bad.
    """
    method: Method = configured_method(REWEIGHTERS, options, report)
    _check_truth(method, options)
    if len(preprocess_of(run).kinds) > 1 and not run.has_warmup:
        raise ArtefactError(
            f"The samples of {run.root} have images and features, and the warm-up decides what models take.",
            f"First run: metaselect {WARMUP.command} {run.flag}",
        )
    pool = load_pool(run, workers=options.workers)
    meta_set = load_meta_set(run, pool)  # empty where nothing was bought
    if method.needs_bought and not len(meta_set.bought):
        raise ArtefactError(
            f"{options.method} learns from bought labels, and {run.root} has none (--method fsr needs none).",
            f"First run: {buying_step(run, AnnotationView.read(run))}",
        )
    if method.needs_evidence and _finished_warmup(run) is None:
        raise ArtefactError(
            f"{options.method} judges labels by the predictions of the warm-up, which has not been run.",
            f"First run: metaselect {WARMUP.command} {run.flag}; or leave it out with --method uniform --init scratch.",
        )
    other = other_reweighting(run, options)
    start = _finished_warmup(run) if other else _start(run, options)
    device = choose_device(options.device, report)
    known = start or _finished_warmup(run)
    model = options.model or (known.architecture if known else auto_model(pool.inputs.shape[1:]))
    if other:
        model = other_architecture(run, other)
        _require_same(options, model, f"{other}'s")
    same = known if known and known.architecture == model else None
    trained = len(trained_ids(pool, meta_set, method))
    if trained < 1:
        raise ArtefactError("Every sample of the pool was bought; there is nothing to weigh.", "Use uniform.")
    resolved = resolve_reweight(
        *(options, pool, trained, model, device),
        weight_decay=same and same.weight_decay,
        fine_tuning=same and same.fine_tuning,
    )
    if model == LINEAR and method.solves_linear:
        for reason in without_effect(options).values():
            report.note(f"{reason} --model mlp --init scratch is trained by gradient descent.")
    size = method.meta_batch_size(options.meta_batch_size, resolved.config.batch_size, len(meta_set.bought))
    if 0 < size < (options.meta_batch_size or 0):
        report.note(
            f"There are {size} bought samples, so a step takes {size}, not {options.meta_batch_size}."
        )
    truth = None
    if options.oracle_truth is not None:
        truth = read_pool_truth(options.oracle_truth, pool, meta_set).labels
    return ReweightSetup(
        pool, meta_set, method, resolved, size, start, device, run, options, truth=truth, other=other
    )


def _check_truth(method: Method, options: ReweightOptions) -> None:
    """Check that true labels are given to a method that weighs by them, and to no other."""
    given = options.oracle_truth
    if method.needs_truth and given is None:
        raise UsageError(
            f"--method {options.method} weighs samples by their true labels, which it is not given.",
            "Add --oracle-truth FILE, a CSV with sample_id and clean_label.",
        )
    if given is not None and not method.needs_truth:
        raise UsageError(
            f"--oracle-truth has no effect on {options.method}, which sees no true labels but bought ones.",
            "Leave it out.",
        )


def _start(run: Run, options: ReweightOptions) -> WarmupModel | None:
    """The warm-up to start from; None for --init scratch."""
    if options.init == FROM_SCRATCH:
        return None
    start = warmup_model(run)
    _require_same(options, start.architecture, "the warm-up's")
    return start


def _require_same(options: ReweightOptions, architecture: str, whose: str) -> None:
    """Check that --model, where it was given, is the architecture of the model that is trained on."""
    if options.model not in (None, architecture):
        raise UsageError(
            f"--model {options.model} cannot start from {whose} {architecture}.",
            "Leave --model out, or add --init scratch.",
        )


def _finished_warmup(run: Run) -> WarmupModel | None:
    """The warm-up's model if there was one."""
    return None if run.stage(WARMUP.name()).record() is None else warmup_model(run)


def trained_ids(pool: Dataset, meta_set: MetaSet, method: Method) -> torch.Tensor:
    """(n',) int64, the samples to train on: those with a label, bought ones unless the method excludes them.

    Unusable ones never are.
    """
    mask = pool.labelled.copy()
    mask[meta_set.bought] = not method.excludes_bought
    mask[meta_set.unusable] = False
    return torch.from_numpy(mask.nonzero()[0])
