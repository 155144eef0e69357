"""What a warm-up will do: which models it fits, on which samples, with every `auto` option resolved."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import nn

from metaselect.data.store import Dataset
from metaselect.encoders.classifier import load_body
from metaselect.errors import UsageError
from metaselect.models.build import auto_model, build_model
from metaselect.options import WarmupOptions, key_options
from metaselect.random import generator
from metaselect.records import Json, Reporter
from metaselect.stages.warmup.pretrained import PretrainedWeights
from metaselect.training.config import (
    NOT_OF_SOLVED,
    RESUME_COPIES,
    Resolved,
    resolve_warmup,
    training_needs,
    without_effect,
)
from metaselect.training.saved_models import LINEAR, load_weights

HELD_OUT = 0.1  # of the pool
DESCENT_FOLDS = 2  # each costs as much as the training itself
FOLDS_FROM, FOLDS_BELOW = 20, 100_000  # samples; other pools have none by default
LEAST_FOLD = 4  # samples of a fold, so that each has three neighbours
MOST_NUMBERS = 20_000_000  # n x K of out-of-fold probabilities by default
LINEAR_FOLDS = 5  # found more wrong labels of features of an encoder than 2 did; 10 found no more
LINEAR_OR_MLP = "linear or mlp"
SAMPLE_BYTES = 250  # of memory for a sample: its id and label, the tables
PROB_COPIES = 8  # of (n, K) probabilities that are held
SOLVED_COPIES = 3  # of the (n, d) inputs that are held while `linear` is fitted and cross-validated
NOT_OF_LINEAR = (*NOT_OF_SOLVED, "checkpoints", "weights")


@dataclass(frozen=True)
class WarmupPlan:
    """A warm-up with every `auto` option resolved.

    Attributes:
        options: as given.
        pool: the data.
        train_ids: (n',) int64, the samples that gradient descent trains on.
        held_out: int64, the others that have a label.
        device: of the training.
        model: its name, or ``LINEAR_OR_MLP``: the better one by held-out loss.
        descent: the training by gradient descent; None for ``linear``, which has none.
        folds: that networks are trained without; 0: none.
        linear_folds: that ``linear`` is cross-validated by.
        crossed: whether out-of-fold predictions and neighbours are computed.
        pretrained: what gradient descent starts from; None: random weights, or ``options.weights``.
    """

    options: WarmupOptions
    pool: Dataset
    train_ids: torch.Tensor
    held_out: torch.Tensor
    device: torch.device
    model: str
    descent: Resolved | None
    folds: int
    linear_folds: int
    crossed: bool
    pretrained: PretrainedWeights | None = None

    @property
    def solves(self) -> bool:
        """Whether ``linear`` is fitted."""
        return self.model in (LINEAR, LINEAR_OR_MLP)

    def as_options(self) -> dict[str, Json]:
        """The options that the result depends on, with `auto` resolved."""
        if self.descent is not None:
            resolved = self.descent.as_options(self.options)
            return {**resolved, "model": self.model, "folds": self.folds, **self._pretrained_options()}
        given = key_options(self.options)
        kept = {name: value for name, value in given.items() if name not in NOT_OF_LINEAR}
        return {**kept, "model": self.model, "folds": self.linear_folds if self.crossed else 0}

    def _pretrained_options(self) -> dict[str, Json]:
        """What is in the key of a fine-tuning alone; the weights are among the inputs."""
        if self.pretrained is None:
            return {}
        options, package = self.options, self.pretrained.described["package"]
        return {
            "pretrained": {
                "finetune": options.finetune,
                "body_rate": options.body_rate,
                "package": package,
            }
        }

    def initial_model(self, seed: int) -> nn.Module:
        """The network before its first step, on the CPU: newly initialised, pre-trained, or from --weights."""
        assert self.descent is not None
        model = build_model(self.descent.model, self.pool.inputs.shape[1:], len(self.pool.classes), seed=seed)
        if self.pretrained is not None:
            load_body(model, self.pretrained.body)
        elif self.options.weights is not None:
            load_weights(model, self.options.weights)
        return model

    def auto(self) -> tuple[str, ...]:
        """Names of the options that were left to a rule."""
        names = ("model",) if self.descent is None else self.descent.auto(self.options)
        return tuple(name for name in (*names, "folds") if getattr(self.options, name) is None)

    def needs(self) -> dict[str, Json]:
        """Sizes, for --dry-run."""
        name = LINEAR if self.descent is None else self.descent.model
        model: nn.Module = build_model(name, self.pool.inputs.shape[1:], len(self.pool.classes), seed=0)
        kept = 1
        if self.descent is not None:
            # A fold's state is as large as the main one's, and its best model stays beside it.
            kept = RESUME_COPIES * (1 + self.folds)
            kept += len(checkpoint_epochs(self.descent.config.epochs, self.options.checkpoints))
            kept += self.pretrained is not None
        return {**training_needs(model, self.pool, kept, self.held), "fold_models": self.folds}

    @property
    def held(self) -> int:
        """Bytes of arrays of all samples, as measured."""
        n, inputs = len(self.pool), self.pool.inputs
        solved = SOLVED_COPIES * prod(inputs.shape) * inputs.dtype.itemsize if self.solves else 0
        return n * (SAMPLE_BYTES + 4 * PROB_COPIES * len(self.pool.classes)) + solved

    def cost(self) -> str:
        """What the folds cost, or why there are none, as a sentence; empty where neither is worth mentioning."""
        if self.folds:
            return (
                f"Out-of-fold predictions: {self.folds} more models are trained, each with as many steps, so the "
                f"warm-up takes about {self.folds + 1} times as long. --folds 0 leaves them out."
            )
        if self.options.folds is None and not self.crossed:
            return (
                f"Out-of-fold predictions are left out for {len(self.pool):,} samples of "
                f"{len(self.pool.classes):,} classes; --folds {DESCENT_FOLDS} computes them."
            )
        return ""


def plan_warmup(
    pool: Dataset,
    options: WarmupOptions,
    device: torch.device,
    report: Reporter,
    pretrained: PretrainedWeights | None = None,
) -> WarmupPlan:
    """The warm-up of a pool, from pre-trained weights where there are any.

    Raises:
        UsageError: an option that has no effect on the model that was named, or a value that does not fit.
    """
    labelled = torch.from_numpy(np.flatnonzero(pool.labelled))
    train_ids, held_out = (labelled[part] for part in split_held_out(len(labelled), options.seed))
    features = pool.inputs.ndim == 2
    model = options.model or auto_model(pool.inputs.shape[1:])
    if options.model is None and features:
        if options.weights is not None:
            raise UsageError(
                "--weights are of a model, and --model names none.", "Name it: --model mlp, for example."
            )
        model = LINEAR if model == LINEAR else LINEAR_OR_MLP
    if model in (LINEAR, LINEAR_OR_MLP) and options.weight_decay == 0:
        raise UsageError(
            "--weight-decay 0: linear has no solution without, where classes can be separated.",
            "Give a weight decay above 0, leave it out, or choose --model mlp.",
        )
    descent = None
    if model == LINEAR:
        _check_effects(options, report)
    else:
        trained = "mlp" if model == LINEAR_OR_MLP else model
        descent = resolve_warmup(replace(options, model=trained), pool, len(train_ids), device)
    n, given = len(labelled), options.folds
    most = max(n // LEAST_FOLD, 2)
    if given and given > most:
        raise UsageError(f"--folds {given} is too many for {n} samples.", f"Choose at most {most}.")
    if given and options.accumulate > n // 2:
        raise UsageError(
            f"--accumulate {options.accumulate} is more than half of {n} samples.", "Add --folds 0."
        )
    fits = n * len(pool.classes) <= MOST_NUMBERS
    folds = given or 0
    if given is None and FOLDS_FROM <= n < FOLDS_BELOW and fits and options.accumulate <= n // 2:
        folds = DESCENT_FOLDS
    crossed = folds > 0
    if descent is None:  # its folds are cheap, and needed for its weight decay
        folds, crossed = 0, fits if given is None else given > 0
    linear_folds = given or min(LINEAR_FOLDS, most)
    return WarmupPlan(
        *(options, pool, train_ids, held_out, device, model, descent, folds, linear_folds, crossed),
        pretrained=pretrained,
    )


def split_held_out(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted indices to train on, and of the tenth that is held out (at least 1)."""
    order = torch.randperm(n, generator=generator(seed, "held out"))
    count = max(round(HELD_OUT * n), 1)
    return order[count:].sort().values, order[:count].sort().values


def checkpoint_epochs(epochs: int, count: int) -> list[int]:
    """Evenly spread epochs (from 1), the last one among them: (20, 5) -> 4, 8, 12, 16, 20."""
    return sorted({max(round(epochs * part / count), 1) for part in range(1, count + 1)})


def _check_effects(options: WarmupOptions, report: Reporter) -> None:
    """Refuse options that do nothing for ``linear`` where it was named, and note them where a rule chose it."""
    for flag, reason in without_effect(options, NOT_OF_LINEAR).items():
        if options.model == LINEAR:
            raise UsageError(reason, f"Leave out {flag}.")
        report.note(f"{reason} --model mlp is trained by gradient descent.")
