"""A training by fast sample re-weighting: Algorithm 1 step by step, with what it keeps of the pool's samples.

Source and differences: ``method.py``.
"""

from typing import TYPE_CHECKING

import torch

from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.models.head import head_of
from metaselect.models.parameters import Params
from metaselect.models.predictions import Predictions
from metaselect.random import generator
from metaselect.records import Json
from metaselect.reweighting.base import MethodRun, Start, State, StepObjective, strip_prefix
from metaselect.reweighting.fsr.dictionary import balanced_batch, best_of_each_class, slots
from metaselect.reweighting.fsr.last_layer import (
    Features,
    LookAhead,
    VirtualStep,
    buffers_of,
    layer_of,
    logits_of,
    look_ahead,
    relu_weights,
    shifted_weights,
)
from metaselect.reweighting.fsr.proxies import Proxies
from metaselect.reweighting.fsr.pushers import AUTO, History, Visit, pusher_for
from metaselect.reweighting.recent_weights import AVERAGED_EPOCHS, RecentWeights
from metaselect.reweighting.soft_targets import (
    mixed,
    mixing_factors,
    pseudo_labels,
    renewed,
    smoothed,
    soft_cross_entropy,
)

if TYPE_CHECKING:
    from metaselect.reweighting.fsr.method import FSR

WEIGHTS = {"relu": relu_weights, "shift": shifted_weights}


class FSRRun(MethodRun):
    """The dictionary R, the pusher's scores, the kept logits, recent weights, and averaged parameters."""

    def __init__(self, hyper: "FSR", start: Start) -> None:
        self.hyper, self.labels = hyper, start.labels
        self.deferred = min(round(hyper.deferral * start.epochs), start.epochs - 1)
        self.epoch, self.updates = 0, 0
        classes, trained = start.labels.classes, start.labels.trained
        each = slots(hyper.dictionary, hyper.share, classes, len(trained))
        self.proxies = Proxies(hyper.proxies, start.labels, each, start.device)
        self.meta = trained[:0]  # of the last step
        self.dictionary = self._filled(torch.rand(start.n, generator=start.generator), trained)
        self.history = History(start.n, hyper.pusher, hyper.momentum, start.device)
        self.recent = RecentWeights(torch.zeros(AVERAGED_EPOCHS, start.n, device=start.device))
        # (n, K), or nothing where the model's own labels are not used
        self.kept = torch.zeros(start.n if hyper.pseudo else 0, classes, device=start.device)
        self.average: Params = {}

    def _filled(self, scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Eq. 4: the bought samples, and of each class the best others for the places that are left."""
        best = best_of_each_class(scores, self.labels.given, candidates, self.proxies.wanted)
        return torch.cat([self.labels.bought, best])

    def meta_ids(self, bought: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """FetchBalancedBatch of Algorithm 1."""
        self.meta = balanced_batch(self.dictionary, self.labels.given[self.dictionary], size, generator)
        return self.meta

    def step(self, forward: Forward, meta_batch: Batch | None, ids: torch.Tensor, lr: float) -> StepObjective:
        """One step of Algorithm 1; ``lr`` is the real step's, not the virtual one's."""
        assert meta_batch is not None  # the method's meta batch size is above 0
        if self.hyper.ema and not self.average:
            self.average = {name: value.detach().clone() for name, value in forward.params.items()}
        if self.history.pusher == AUTO:
            self.history.pusher = pusher_for(forward.model)
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
        layer = layer_of(linear)
        is_drawn = len(self.meta) > 0  # else the samples of the meta batch are not known
        if self.proxies.open and is_drawn:
            self.proxies.add(logits_of(layer, meta_hidden).softmax(1), meta_batch.labels, self.meta)
        decay = forward.optimiser.param_groups[0]["weight_decay"]
        return look_ahead(
            layer,
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
        if self.proxies.open:
            # The last epoch of equal weights decides (or the first one, without any): it has learnt most of the labels.
            self.proxies.conclude() if epoch >= self.deferred else self.proxies.restart()
        self.dictionary = self._filled(self.history.scores.cpu(), self.labels.trained[visited])

    def pool_weights(self, predictions: Predictions) -> torch.Tensor:
        """The mean over the last 3 epochs of min(1, B w_i)."""
        return self.recent.mean()

    def describe(self) -> dict[str, Json]:
        """The classes, by their numbers, in which nothing stands in for bought samples."""
        return {"classes_without_proxies": list[Json](self.proxies.refused)}

    def sentence(self) -> str:
        """The same in words."""
        count = len(self.proxies.refused)
        if not count:
            return ""
        return (
            f"Bought labels contradict what most given labels say in {count} of {self.labels.classes} classes: there "
            "they alone decide, and no training samples stand in for them (--option proxies)."
        )

    def state_dict(self) -> State:
        """The dictionary, the scores, the kept logits, recent weights and the average."""
        return {
            "dictionary": self.dictionary,
            "kept": self.kept,
            "updates": torch.tensor(self.updates),
            **{f"history.{name}": value for name, value in self.history.state_dict().items()},
            **{f"recent.{name}": value for name, value in self.recent.state_dict().items()},
            **{f"proxies.{name}": value for name, value in self.proxies.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """The same; the epoch is that of the recent weights."""
        device = self.kept.device
        self.dictionary, self.kept = state["dictionary"].cpu(), state["kept"].to(device)
        self.updates = int(state["updates"])
        self.history.load_state_dict(strip_prefix(state, "history."))
        self.recent.load_state_dict(strip_prefix(state, "recent."))
        self.proxies.load_state_dict(strip_prefix(state, "proxies."))
        self.epoch = self.recent.epoch
        self.average = {name: value.to(device) for name, value in strip_prefix(state, "average.").items()}
