"""Fast sample re-weighting: training samples that learn like clean ones stand in for bought labels.

Source: Zhang, Pfister 2021 (FSR, ICCV), Algorithm 1 and Eq. 4-7; defaults from its Table 4 (CIFAR, noise) and, where
the paper is silent (the normalisation, the scale of kept logits, MixUp's factors, averaged weights), from the
authors' code. Every step, a batch from the dictionary says, through one virtual step of the last layer alone, how
much each training sample should weigh; every epoch the dictionary is filled anew by the pusher's scores.
Differs: bought samples, where there are any, are in the dictionary for good and not in the pool; no others stand in
for them in classes whose given labels they contradict (``proxies``, ``proxies.py``); the meta-margin does not choose
these where the model is linear (``pushers.py``); the dictionary is at most a tenth of what is trained on (``share``:
the paper's 2,000 may be more than a small pool holds); the epochs before weights are used are a share of all (20 of
128), since runs differ in length; schedule and optimiser are the loop's.
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

from metaselect.errors import UsageError
from metaselect.options import not_in_key
from metaselect.reweighting.base import PRODUCTS, Method, Start, require_option
from metaselect.reweighting.fsr.proxies import MODES
from metaselect.reweighting.fsr.pushers import AUTO, PUSHERS
from metaselect.reweighting.fsr.run import WEIGHTS, FSRRun

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
        proxies: classes with bought samples in which training samples stand in for clean ones too: those whose given
            labels the bought ones support ("agreeing"), "all" or "none". In classes without bought samples they do.
        pusher: "meta-margin", "negative-loss", "max-margin", "area-under-margin" or "forgetting"; "auto" is the first,
            and for a model that is one linear layer the second.
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
    proxies: str = "agreeing"
    pusher: str = AUTO
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
        words = {
            "pusher": (AUTO, *PUSHERS),
            "margin": FORMS,
            "weights": tuple(WEIGHTS),
            "relabel": FORMS,
            "proxies": MODES,
        }
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
