"""Fast sample re-weighting: training samples that learn like clean ones stand in for bought labels.

Source: Zhang, Pfister 2021 (FSR, ICCV), Algorithm 1 and Eq. 4-7; defaults from its Table 4 (CIFAR, noise) and, where
the paper is silent (the normalisation, the scale of kept logits, MixUp's factors, averaged weights), from the
authors' code. Every step, a batch from the dictionary says, through one virtual step of the last layer alone, how
much each training sample should weigh; every epoch the dictionary is filled anew by the pusher's scores.
Differs: bought samples, where there are any, are in the dictionary for good and not in the pool; the dictionary is at
most a tenth of what is trained on (``share``: the paper's 2,000 may be more than a small pool holds); the epochs before
weights are used are a share of all (20 of 128), since runs differ in length; schedule and optimiser are the loop's.
The paper and its code disagree in two places, and the code's way is the default in both. The first loss of the
meta-margin is of the plain sample in the paper, of the mixed one in the code: with ``margin=paper`` the dictionary
fills with wrong labels, which have the most to gain from a step that they take part in themselves (so it does without
MixUp, either way). The model's own labels are learnt and made on plain samples in the paper, on mixed ones in the code:
``relabel=paper`` takes the step on twice as many rows, for twice the memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.head import head_of
from metaselect.models.parameters import Params
from metaselect.models.predictions import Predictions
from metaselect.options import not_in_key
from metaselect.random import generator
from metaselect.reweighting.base import (
    PRODUCTS,
    Method,
    MethodRun,
    Start,
    State,
    StepObjective,
    require_option,
    strip_prefix,
)
from metaselect.reweighting.fsr.dictionary import balanced_batch, best_of_each_class, slots
from metaselect.reweighting.fsr.last_layer import (
    Features,
    LookAhead,
    VirtualStep,
    buffers_of,
    layer_of,
    look_ahead,
    relu_weights,
    shifted_weights,
)
from metaselect.reweighting.fsr.pushers import PUSHERS, History, Visit
from metaselect.reweighting.recent_weights import AVERAGED_EPOCHS, RecentWeights
from metaselect.reweighting.soft_targets import (
    mixed,
    mixing_factors,
    pseudo_labels,
    renewed,
    smoothed,
    soft_cross_entropy,
)

WEIGHTS = {"relu": relu_weights, "shift": shifted_weights}
FORMS = ("paper", "released")
SHARES = (
    *("share", "momentum", "virtual_momentum", "deferral"),
    *("pseudo_momentum", "smoothing", "reward_smoothing", "ema"),
)
AT_LEAST_0 = ("pseudo",)
ABOVE_0 = ("dictionary", "meta_ratio", "virtual_rate", "weight_step", "temperature")


@dataclass(frozen=True)
class FSR(Method):
    """Hyper-parameters; those of the profile are the paper's FSR of Table 6, and its FSR-DF with deferral=0.8.

    Attributes:
        dictionary: |R|, samples in the dictionary, equally many of each class.
        share: of the trained samples, at most this many in the dictionary; in [0, 1].
        meta_ratio: q / b: dictionary samples of a step a training sample, unless --meta-batch-size says how many.
        proxies: training samples stand in for clean ones beside bought samples too, not only in classes that have none.
        pusher: "meta-margin", "negative-loss", "max-margin", "area-under-margin" or "forgetting".
        margin: the first loss of the meta-margin: of the plain sample ("paper") or of the mixed one ("released").
        momentum: lambda, of the pusher's scores; in [0, 1].
        virtual_rate: eta, of the virtual step; above 0.
        virtual_momentum: of the virtual step, on the real optimiser's buffers; in [0, 1].
        weight_step: alpha, of the step on the weights; above 0.
        weights: "relu" (0 for samples that do harm) or "shift" (none is 0).
        deferral: share of the epochs in which all weigh alike; in [0, 1], and the last epoch is never one.
        pseudo: p, weight of the term on the model's own labels; 0 leaves it out.
        relabel: the model's own labels are learnt and made on plain samples ("paper") or mixed ones ("released").
        pseudo_momentum: beta of Eq. 7; in [0, 1].
        temperature: of the model's own labels; above 0.
        mixup: mix the samples that the weighted loss is taken on.
        smoothing: of the given labels; in [0, 1].
        reward_smoothing: of the dictionary's labels; in [0, 1].
        ema: judge and save an average of the parameters that keeps this share a step (the code: 0.999); 0: none.
    """

    dictionary: int = 2000
    share: float = 0.1
    meta_ratio: int = not_in_key(2)  # what it comes to, the meta batch's size, does
    proxies: bool = True
    pusher: str = "meta-margin"
    margin: str = "released"
    momentum: float = 0.9
    virtual_rate: float = 0.1
    virtual_momentum: float = 0.9
    weight_step: float = 1.0
    weights: str = "relu"
    deferral: float = 20 / 128
    pseudo: float = 2.0
    relabel: str = "released"
    pseudo_momentum: float = 0.1
    temperature: float = 1.0
    mixup: bool = True
    smoothing: float = 0.0
    reward_smoothing: float = 0.0
    ema: float = 0.0
    profiles: ClassVar[dict[str, dict[str, object]]] = {
        "long-tail": {
            "dictionary": 3000,  # Table 4, CIFAR (Long-Tailed), as the next
            "meta_ratio": 8,  # 800 / 100
            "share": 1.0,  # labels are clean: there is nothing to pick out of a small pool
            "weights": "shift",  # section 5.2, as what follows
            "deferral": 0.0,
            "pseudo": 0.0,
            "mixup": False,
            "smoothing": 0.1,  # in both losses as in the authors' code; the paper: in "the loss for re-weighting"
            "reward_smoothing": 0.1,
        }
    }
    excludes_bought: ClassVar[bool] = True
    trace: ClassVar[str] = PRODUCTS
    weight_kind: ClassVar[str] = "mean of last visits"
    weighs_unseen: ClassVar[bool] = False

    def __post_init__(self) -> None:
        words = {"pusher": PUSHERS, "margin": FORMS, "weights": tuple(WEIGHTS), "relabel": FORMS}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"--option {name}={getattr(self, name)} is not known.", f"One of {', '.join(known)}."
                )
        self._require(SHARES, "from 0 to 1", lambda value: 0 <= value <= 1)
        self._require(AT_LEAST_0, "at least 0 and finite", lambda value: 0 <= value < math.inf)
        self._require(ABOVE_0, "above 0 and finite", lambda value: 0 < value < math.inf)

    def _require(self, names: tuple[str, ...], limits: str, holds: Callable[[float], bool]) -> None:
        for name in names:
            require_option(self, name, limits, holds=holds(getattr(self, name)))

    def meta_batch_size(self, given: int | None, batch_size: int, bought: int) -> int:
        """Samples of the dictionary, ``meta_ratio`` for each one of the training batch."""
        return given or self.meta_ratio * batch_size

    def begin(self, start: Start) -> "FSRRun":
        """A dictionary drawn at random, and empty tables."""
        return FSRRun(self, start)


class FSRRun(MethodRun):
    """The dictionary R, the pusher's scores, the kept logits, recent weights, and averaged parameters."""

    def __init__(self, hyper: FSR, start: Start) -> None:
        self.hyper, self.labels = hyper, start.labels
        self.deferred = min(round(hyper.deferral * start.epochs), start.epochs - 1)
        self.epoch, self.updates = 0, 0
        given, classes, trained, bought = start.labels
        each = slots(hyper.dictionary, hyper.share, classes, len(trained))
        counts = torch.bincount(given[bought], minlength=classes)
        self.wanted = (each - counts).clamp(min=0)
        if not hyper.proxies:
            self.wanted[counts > 0] = 0
        self.dictionary = self._filled(torch.rand(start.n, generator=start.generator), trained)
        self.history = History(start.n, hyper.pusher, hyper.momentum, start.device)
        self.recent = RecentWeights(torch.zeros(AVERAGED_EPOCHS, start.n, device=start.device))
        # (n, K), or nothing where the model's own labels are not used
        self.kept = torch.zeros(start.n if hyper.pseudo else 0, classes, device=start.device)
        self.average: Params = {}

    def _filled(self, scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Eq. 4: the bought samples, and of each class the best others for the places that are left."""
        best = best_of_each_class(scores, self.labels.given, candidates, self.wanted)
        return torch.cat([self.labels.bought, best])

    def meta_ids(self, bought: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """FetchBalancedBatch of Algorithm 1."""
        return balanced_batch(self.dictionary, self.labels.given[self.dictionary], size, generator)

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """One step of Algorithm 1; ``lr`` is the real step's, not the virtual one's."""
        assert meta_batch is not None  # the method's meta batch size is above 0
        if self.hyper.ema and not self.average:
            self.average = {name: value.detach().clone() for name, value in forward.params.items()}
        own = smoothed(forward.batch.labels, self.labels.classes, self.hyper.smoothing)
        look = self._look_ahead(forward, meta_batch, own)
        weights = torch.full_like(look.g, 1 / len(ids))
        if self.weighing:
            weights = WEIGHTS[self.hyper.weights](look.g, self.hyper.weight_step)
        inputs, soft = self._mixed(forward, own)  # soft: (B, K)
        targets = weights[:, None] * soft
        if self.weighing and self.hyper.pseudo:
            second = self.hyper.pseudo / len(ids) * pseudo_labels(self.kept[ids], self.hyper.temperature)
            if self.hyper.mixup and self.hyper.relabel == "paper":
                # 2 B rows: the mixed samples with their labels, the plain ones with the model's own
                inputs = torch.cat([inputs, forward.inputs])
                targets = torch.cat([targets, second])
            else:
                targets = targets + second
        forward.replace_inputs(inputs)
        self._update_tables(forward, look, soft, ids)
        self.recent.record(ids, weights)
        return StepObjective(weights, targets)

    @property
    def weighing(self) -> bool:
        """Whether the epochs of equal weights are over."""
        return self.epoch >= self.deferred

    def _look_ahead(self, forward: Forward, meta_batch: Batch, own: torch.Tensor) -> LookAhead:
        hidden, meta_hidden = forward.joint_hidden(meta_batch)
        linear, hyper = head_of(forward.model), self.hyper
        decay = forward.optimiser.param_groups[0]["weight_decay"]
        return look_ahead(
            layer_of(linear),
            Features(hidden, own),
            Features(meta_hidden, smoothed(meta_batch.labels, self.labels.classes, hyper.reward_smoothing)),
            VirtualStep(hyper.virtual_rate, hyper.virtual_momentum, decay),
            buffers_of(linear, forward.optimiser),
        )

    def _mixed(self, forward: Forward, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and soft labels, each with a random partner's; as they are without MixUp."""
        inputs = forward.inputs
        if not self.hyper.mixup:
            return inputs, own
        draw = generator(forward.seed, "mixup")
        factors = mixing_factors(len(own), draw).to(own.device)
        partners = torch.randperm(len(own), generator=draw).to(own.device)
        return mixed(inputs, factors, partners), mixed(own, factors, partners)

    def _update_tables(
        self, forward: Forward, look: LookAhead, soft: torch.Tensor, ids: torch.Tensor
    ) -> None:
        """Update the scores, and the kept logits by Eq. 7; ``soft`` (B, K) are the labels of the mixed samples."""
        logits = forward.logits[: len(ids)].detach()
        loss = soft_cross_entropy(logits, soft) if self.hyper.margin == "released" else look.loss
        self.history.update(ids, Visit(look.logits, forward.batch.labels, loss, look.loss_ahead))
        if self.hyper.pseudo:
            seen = logits if self.hyper.relabel == "released" else look.logits
            self.kept[ids] = renewed(self.kept[ids], seen, self.hyper.pseudo_momentum).to(self.kept.dtype)

    def after_step(self, params: Params) -> None:
        """Move the average, at first in larger steps, as in the authors' code."""
        share = min(self.hyper.ema, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self.average.items():
            value.lerp_(params[name].detach(), 1 - share)

    def averaged(self) -> Params | None:
        """The average, if there is one."""
        return self.average or None

    def epoch_end(self, epoch: int) -> None:
        """Fill the dictionary anew, with samples that were visited at least once."""
        self.epoch = epoch
        self.recent.epoch_end(epoch)
        visited = self.history.visits.cpu()[self.labels.trained] > 0
        self.dictionary = self._filled(self.history.scores.cpu(), self.labels.trained[visited])

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """The mean over the last 3 epochs of min(1, B w_i)."""
        return self.recent.mean()

    def state_dict(self) -> State:
        """The dictionary, the scores, the kept logits, recent weights and the average."""
        return {
            "dictionary": self.dictionary,
            "kept": self.kept,
            "updates": torch.tensor(self.updates),
            **{f"history.{name}": value for name, value in self.history.state_dict().items()},
            **{f"recent.{name}": value for name, value in self.recent.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """The same; the epoch is that of the recent weights."""
        device = self.kept.device
        self.dictionary, self.kept = state["dictionary"].cpu(), state["kept"].to(device)
        self.updates = int(state["updates"])
        self.history.load_state_dict(strip_prefix(state, "history."))
        self.recent.load_state_dict(strip_prefix(state, "recent."))
        self.epoch = self.recent.epoch
        self.average = {name: value.to(device) for name, value in strip_prefix(state, "average.").items()}
