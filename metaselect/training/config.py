"""The rules of `auto`: from the training options as given to the numbers that a training uses."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from metaselect.data.store import Dataset
from metaselect.errors import UsageError
from metaselect.memory import Need, in_mib, predicted
from metaselect.models.build import auto_model
from metaselect.options import ReweightOptions, TrainingOptions, WarmupOptions, key_options
from metaselect.records import Json
from metaselect.training.fine_tuning import FineTuning
from metaselect.training.loop import TrainingConfig

TABLE_BYTES = 40  # of disk for a sample in the tables, besides its probabilities
TRAINED_COPIES = 4  # of the parameters in memory: themselves, gradients, momentum, the best ones
WARMUP_STEPS = 1600  # enough to learn the classes, too few to memorise wrong labels
WARMUP_EPOCHS = (4, 20)
CONFIG_OPTIONS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "augment", "amp")
NOT_OF_SOLVED = (
    "epochs",
    "batch_size",
    "optimiser",
    "lr",
    "momentum",
    "accumulate",
    "schedule",
    "augment",
    "amp",
)
"""Options without an effect on a model that is solved exactly."""
RATES = (0.05, 0.001)  # of SGD, and of Adam and AdamW
FINE_TUNING_RATES = (0.02, 0.003)  # of the head in a warm-up from pre-trained weights
LARGE_POOL, LARGE_BATCH = 10_000, 128
RESUME_COPIES = 3  # parameters and momentum, and the new state beside the old one while it is written
FINE_TUNING_STEPS, FINE_TUNING_EPOCHS = 300, (3, 10)
FINE_TUNING_REWEIGHT_STEPS = 400
REWEIGHT_STEPS = 2500  # on small pools, runs with fewer steps failed with every method


@dataclass(frozen=True)
class Resolved:
    """A model's name and the configuration of its training, with no `auto` left."""

    model: str
    config: TrainingConfig

    def auto(self, options: TrainingOptions) -> tuple[str, ...]:
        """Names of the options that were left to a rule."""
        return tuple(name for name in (*CONFIG_OPTIONS, "model") if getattr(options, name) is None)

    def as_options(self, options: TrainingOptions) -> dict[str, Json]:
        """The options of the stage that its result depends on, with `auto` resolved."""
        resolved = {name: getattr(self.config, name) for name in CONFIG_OPTIONS}
        return {**key_options(options), **resolved, "model": self.model}


def without_effect(options: TrainingOptions, names: tuple[str, ...] = NOT_OF_SOLVED) -> dict[str, str]:
    """Options among ``names`` that were given, as flags, with the sentence that a solved model does not use them."""
    default = type(options)()
    given = [name for name in names if getattr(options, name) != getattr(default, name)]
    flags = [f"--{name.replace('_', '-')}" for name in given]
    return {flag: f"{flag} has no effect on the model linear, which is solved exactly." for flag in flags}


def training_needs(model: nn.Module, pool: Dataset, copies: int, held: int) -> dict[str, Json]:
    """Sizes of a training: the pool's raw samples, the parameters, and its memory and disk.

    Args:
        model: that is trained.
        pool: the data.
        copies: of the parameters on disk, while it trains.
        held: bytes of arrays of all samples.
    """
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    tables = len(pool) * (
        TABLE_BYTES + 3 * 4 * len(pool.classes)
    )  # probabilities, of folds too, and neighbours
    return {
        "samples": len(pool),
        "pool_mib": in_mib(pool.inputs.nbytes),
        "parameters": sum(value.numel() for value in model.parameters()),
        **predicted(Need(held + TRAINED_COPIES * size, pool.inputs.nbytes), copies * size + tables),
    }


def resolve_warmup(options: WarmupOptions, pool: Dataset, trained: int, device: torch.device) -> Resolved:
    """Warm-up: momentum 0.9 at 0.05, about 1,600 steps within 4 to 20 epochs; less of both where it fine-tunes.

    Args:
        options: as given.
        pool: the data.
        trained: samples that are trained on (the pool less what is held out).
        device: where.

    Raises:
        UsageError: --accumulate is more than the number of samples.
    """
    model = options.model or auto_model(pool.inputs.shape[1:])
    batch_size = options.batch_size or (LARGE_BATCH if len(pool) >= LARGE_POOL else 64)
    tuned = FineTuning(options.finetune, options.body_rate) if options.pretrained else None
    steps, (low, high), rates = (
        (WARMUP_STEPS, WARMUP_EPOCHS, RATES)
        if tuned is None
        else (FINE_TUNING_STEPS, FINE_TUNING_EPOCHS, FINE_TUNING_RATES)
    )
    epochs = min(max(_epochs(steps, batch_size * options.accumulate, trained), low), high)
    defaults = _Defaults(batch_size, epochs, rates, 0.9, tuned)
    return _resolved(options, pool, trained, device, model, defaults)


def resolve_reweight(
    options: ReweightOptions,
    pool: Dataset,
    trained: int,
    model: str,
    device: torch.device,
    *,
    weight_decay: float | None = None,
    fine_tuning: FineTuning | None = None,
) -> Resolved:
    """Re-weighting: plain SGD at 0.05 (with momentum, l2rw diverged), at least about 2,500 steps; fine-tuning, less.

    Args:
        options: as given.
        pool: the data.
        trained: samples that are trained on.
        model: the value of `auto`, which is the model of the warm-up.
        device: where.
        weight_decay: that the warm-up chose for this model; None: it chose none.
        fine_tuning: of this model in the warm-up, where it was pre-trained.

    Raises:
        UsageError: --accumulate is more than the number of samples.
    """
    batch_size = options.batch_size or (LARGE_BATCH if len(pool) >= LARGE_POOL else 32)
    steps = REWEIGHT_STEPS if fine_tuning is None else FINE_TUNING_REWEIGHT_STEPS
    epochs = _epochs(steps, batch_size * options.accumulate, trained)
    model = options.model or model
    if options.weight_decay is None and weight_decay is not None:
        options = replace(options, weight_decay=weight_decay)
    defaults = _Defaults(batch_size, epochs, RATES, 0.0, fine_tuning)
    return _resolved(options, pool, trained, device, model, defaults)


class _Defaults(NamedTuple):
    """What a stage's rules say where nothing was given."""

    batch_size: int
    epochs: int
    rates: tuple[float, float]  # of SGD, and of Adam and AdamW
    momentum: float
    fine_tuning: FineTuning | None


def _epochs(steps: int, samples: int, trained: int) -> int:
    """Epochs of at least about ``steps`` steps of ``samples``; a pool that is smaller is one step an epoch."""
    return math.ceil(steps * min(samples, trained) / trained)


def _resolved(
    options: TrainingOptions,
    pool: Dataset,
    trained: int,
    device: torch.device,
    model: str,
    defaults: _Defaults,
) -> Resolved:
    """What was given, else these defaults and those that both stages share."""
    if options.accumulate > trained:
        raise UsageError(
            f"--accumulate {options.accumulate} is more than the {trained} samples that are trained on.",
            "Each of the batches needs a sample.",
        )
    shape = pool.inputs.shape[1:]
    # Crops and flips help photographs; they change what a digit or a letter is.
    colour = len(shape) == 3 and shape[0] == 3 and min(shape[1:]) >= 32
    sgd = options.optimiser == "sgd"
    config = TrainingConfig(
        epochs=options.epochs or defaults.epochs,
        batch_size=defaults.batch_size,
        accumulate=options.accumulate,
        optimiser=options.optimiser,
        lr=_given(options.lr, defaults.rates[0 if sgd else 1]),
        momentum=_given(options.momentum, defaults.momentum if sgd else 0.0),  # Adam has its own
        weight_decay=_given(options.weight_decay, 5e-4),
        schedule=options.schedule,
        augment=options.augment or ("weak" if colour else "none"),
        amp=device.type == "cuda" if options.amp is None else options.amp,
        seed=options.seed,
        fine_tuning=defaults.fine_tuning,
    )
    return Resolved(model, config)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
