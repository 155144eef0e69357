"""The protocol of training methods: hyper-parameters (``Method``) that begin a run (``MethodRun``).

The training loop, its checkpoints and the stage `reweight` call what stands here and nothing else, so that a new method
is one file in this package:

1. A frozen dataclass that inherits from ``Method``. Its fields are the paper's hyper-parameters with the paper's
   defaults, checked in ``__post_init__``. `--option NAME=VALUE` sets them, and `--option help` prints what
   ``Attributes:`` in the docstring says of each. It sets ``weight_kind``, ``excludes_bought``, ``needs_bought`` or
   ``judged``, and overrides ``meta_batch_size``, where the defaults do not fit.
2. A class that inherits from ``MethodRun``, which ``begin`` makes from what ``Start`` says of the training. It has at
   least ``step``. All that it changes in a training is in ``state_dict``, or a resumed training is another one.
3. The formulas of the paper, as functions on tensors above the two classes, each with the number of its equation.

What a method overrides:

* another loss, with or without state per sample (elr, gce): ``step``, with ``StepObjective.losses``;
* soft labels, MixUp, labels of its own (fsr): ``step``, with ``StepObjective.targets`` and ``forward.step_on``;
* weights by a rank, a threshold or a schedule: ``step``, with weights that may be 0;
* a meta gradient (l2rw, direct, mw-net): ``step``, with ``meta_gradient.MetaGradient`` of the meta batch;
* a meta batch of samples that are not bought (fsr): ``meta_ids``;
* training samples in another number or mixture, such as class-balanced or bought ones alone: ``order``;
* parameters of its own, such as a weight net, a transition matrix or a second network: the run holds them with their
  optimiser, and moves them in ``step``, or in ``after_step`` where the loss of the step has a gradient in them;
* several phases: it counts epochs in ``epoch_end``; ``step`` may put back the parameters of ``forward.model`` and the
  state of ``forward.optimiser`` in place, before it asks for losses or logits;
* an average of the parameters: ``after_step`` and ``averaged``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.logistic_regression import LinearParams
from metaselect.models.parameters import Params
from metaselect.models.predictions import Predictions
from metaselect.records import Json
from metaselect.reweighting.evidence import Evidence
from metaselect.reweighting.label_effects import LabelEffects
from metaselect.reweighting.linear_problem import LinearProblem

State: TypeAlias = dict[str, torch.Tensor]
"""Name -> tensor of all that a run saves."""
PRODUCTS, REFITS = "products", "refits"
"""How `--trace` follows what bought labels do to the weights: by products of gradients, or by fits without a label."""


class StepObjective(NamedTuple):
    """What the real step minimises: ``sum_i weights_i f_i``.

    Attributes:
        weights: (B,) without a graph, factors of the training samples; 1/B each in plain training.
        targets: (B', K) soft labels times their factors, one row for each input that the step is taken on; the step
            then minimises ``-sum_ik targets_ik log p_ik``, and ``weights`` are only recorded.
        losses: (B,) with their graph, f; None: the cross-entropy with the given labels.
    """

    weights: torch.Tensor
    targets: torch.Tensor | None = None
    losses: torch.Tensor | None = None


class Labels(NamedTuple):
    """The pool's labels, and the samples of each set; all on the CPU, indices sorted.

    Attributes:
        given: (n,) int64, bought labels in place; -1: none, of samples that are not trained on.
        classes: K.
        trained: (n',) int64, the samples that are trained on.
        bought: (m,) int64.
    """

    given: torch.Tensor
    classes: int
    trained: torch.Tensor
    bought: torch.Tensor

    @property
    def counts(self) -> torch.Tensor:
        """(K,) float32, the samples of each class among those that are trained on."""
        return torch.bincount(self.given[self.trained], minlength=self.classes).float()

    @property
    def is_bought(self) -> torch.Tensor:
        """(n,) bool."""
        return torch.zeros(len(self.given), dtype=torch.bool).index_fill(0, self.bought, True)


class Start(NamedTuple):
    """What a method may know when its run begins.

    Attributes:
        labels: of the pool of n samples.
        epochs: of the run.
        lr: peak learning rate of the schedule.
        generator: for initial values.
        device: of the training.
        evidence: what other models say of the labels; None unless the method needs it.
        truth: (n,) int64 true classes, -1 where they are not known; None unless the method needs it.
    """

    labels: Labels
    epochs: int
    lr: float
    generator: torch.Generator
    device: torch.device
    evidence: Evidence | None = None
    truth: torch.Tensor | None = None

    @property
    def n(self) -> int:
        """Samples of the pool."""
        return len(self.labels.given)


class Recipe(NamedTuple):
    """Training options that a run prefers to the defaults, where the user gave none.

    Attributes:
        momentum: of SGD.
        batch_size: at least, where --epochs was not given either; there are more epochs then, and as many steps.
        lr_ramp: as in a training's configuration.
    """

    momentum: float
    batch_size: int
    lr_ramp: float = 0.0


class MethodRun(ABC):
    """The state of one training run, and its weights for each batch."""

    @abstractmethod
    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """The objective of the next step.

        Args:
            forward: the pass of the training batch, which runs when it is first asked for something.
            meta_batch: the samples that ``meta_ids`` chose; None where the meta batch size is 0.
            ids: (B,) int64 on the device, pool indices of the training batch.
            lr: of this step.
        """

    def after_step(self, params: Params) -> None:  # noqa: B027, nothing by default
        """Called after each step of the optimiser, with the model's parameters."""

    def epoch_end(self, epoch: int) -> None:  # noqa: B027, nothing by default
        """Called at the end of epoch ``epoch`` (from 1), before the state is saved."""

    def order(self, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(n'',) int64 pool indices on the CPU in the order of the next epoch; by default each of ``ids`` once.

        Args:
            ids: (n',) int64 on the CPU, the samples that are trained on.
            generator: of this epoch's order.
        """
        return ids[torch.randperm(len(ids), generator=generator)]

    def meta_ids(self, bought: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """(size,) int64 pool indices on the CPU, the next meta batch; by default bought samples, each at most once.

        Args:
            bought: (m,) int64 on the CPU, the samples with bought labels.
            size: the meta batch size, above 0.
            generator: of this epoch's meta batches.
        """
        return bought[torch.randperm(len(bought), generator=generator)[:size]]

    @property
    def recipe(self) -> Recipe | None:
        """Training options of this run in place of the defaults; None: the defaults."""
        return None

    def set_epochs(self, epochs: int) -> None:  # noqa: B027, nothing by default
        """Called before the first step with the number of epochs, which the recipe may have changed."""

    @property
    def starts_anew(self) -> bool:
        """Whether the model must be newly initialised, although the run was to start from the warm-up."""
        return False

    def solve(self, problem: LinearProblem) -> LinearParams | None:
        """Parameters of the model ``linear``, found exactly; None: it is trained by steps as any other model."""
        return None

    def describe(self) -> dict[str, Json]:
        """What the run found before its first step, for ``stage.json``."""
        return {}

    def sentence(self) -> str:
        """The same in words, for people; empty where there is nothing to say."""
        return ""

    def averaged(self) -> Params | None:
        """Parameters that the model is judged and saved with; None: those of the last step."""
        return None

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """(n,) weights in [0, 1] at the end; by default the final model's probability of the given label.

        Args:
            predictions: the final model's, for the whole pool with its given labels.
        """
        return predictions.label_prob

    def pool_posterior(self, predictions: Predictions) -> torch.Tensor | None:
        """(n, K) probabilities of the true class at the end, with what the given label says; None: it has none.

        Args:
            predictions: as those of ``pool_weights``.
        """
        return None

    def label_effects(self) -> LabelEffects:
        """What each bought label did to the weights, of a method whose ``trace`` is ``REFITS``."""
        raise NotImplementedError

    def state_dict(self) -> State:
        """Every tensor that a resumed run needs."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027, nothing by default
        """Continue from a saved state."""


class Method(ABC):
    """Hyper-parameters of a training method, and what it needs of the data.

    Attributes:
        weight_kind: what its weights are, for the column ``weight_kind`` of ``weights.parquet``.
        excludes_bought: bought samples are not trained on; else they are, with their bought labels.
        needs_bought: it cannot train without bought labels.
        judged: the model is compared with the one that the run started from, and a failed run is reported.
        needs_evidence: it uses ``Start.evidence``.
        needs_truth: it uses ``Start.truth``, so that its model is a bound and no result.
        weighs_unseen: its weights say something of samples too that it did not train on.
        solves_linear: its run has ``solve``, so that the model ``linear`` takes no epochs.
        recipe: that its run may prefer; None: always the defaults.
        trace: ``PRODUCTS``, where weights follow a meta gradient; ``REFITS``, of a run that has ``label_effects``;
            empty: bought labels do nothing to its weights that `--trace` could follow.
    """

    weight_kind: ClassVar[str] = "label probability"
    excludes_bought: ClassVar[bool] = False
    needs_bought: ClassVar[bool] = False
    judged: ClassVar[bool] = True
    needs_evidence: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = False
    weighs_unseen: ClassVar[bool] = True
    solves_linear: ClassVar[bool] = False
    recipe: ClassVar[Recipe | None] = None
    trace: ClassVar[str] = ""

    def meta_batch_size(self, given: int | None, batch_size: int, bought: int) -> int:
        """Samples of a meta batch; 0: the method has none.

        Args:
            given: the value of --meta-batch-size, if there is one.
            batch_size: of the training.
            bought: m, the number of bought samples.
        """
        return 0

    @abstractmethod
    def begin(self, start: Start) -> MethodRun:
        """A run before its first step."""


def equal_weights(ids: torch.Tensor) -> torch.Tensor:
    """(B,) weights of plain training, 1/B each, on the device of ``ids`` (B,)."""
    return torch.full((len(ids),), 1 / len(ids), device=ids.device)


def normalised(weights: torch.Tensor) -> torch.Tensor:
    """Weights (B,) of at least 0 over their sum; all 0 where they are."""
    return weights / weights.sum().clamp(min=1e-30)


def strip_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    """The part of a state whose names begin with ``prefix``, with that removed from the names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def require_option(method: Any, name: str, limits: str, *, holds: bool) -> None:
    """Refuse the value of a method's numeric field unless it ``holds`` its limits.

    Raises:
        UsageError: naming the option, the value, the limits and the default.
    """
    if not holds:
        raise UsageError(
            f"--option {name}={getattr(method, name):g} must be {limits}.",
            f"The default is {type(method).__dataclass_fields__[name].default:g}.",
        )
