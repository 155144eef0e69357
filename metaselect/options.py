"""One frozen dataclass per command, with its options: ``stage.json`` records them, and they are in the stage's key.

None means `auto`: the stage chooses a value from its data and records it. Fields marked ``not_in_key`` are not in
the key, because they never change a result, or because they name a file or device that is in the key by its content
or kind.
"""

from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from metaselect.errors import UsageError
from metaselect.records import Json
from metaselect.text import ANNOTATOR_RULE, is_annotator_name, quoted

FINETUNE, BODY_RATE = "top", 0.1
"""Defaults of --finetune and --body-rate."""


DEFAULT_BUDGETS, MOST_BUDGETS = (10, 20, 50, 100), 8
"""Of `plan`: the budgets that it compares by default, and the most that it takes."""


def not_in_key(default: Any) -> Any:
    """A field that is not in the stage's key."""
    return field(default=default, metadata={"bears": False})


def key_options(options: Any) -> dict[str, Json]:
    """The fields of an options dataclass that are in the stage's key, as JSON values."""
    values: dict[str, Json] = {}
    for spec in fields(options):
        if spec.metadata.get("bears", True):
            value = getattr(options, spec.name)
            values[spec.name] = list(value) if isinstance(value, tuple) else value
    return values


def require_range(name: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Check that a value is finite and in [low, high]; None is allowed.

    Raises:
        UsageError: naming the flag, the value and the limits.
    """
    if value is not None and not (low <= value <= high and isfinite(value)):
        limits = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UsageError(f"--{name} is {value:g}; it must be {limits}.", f"Choose a value {limits}.")


@dataclass(frozen=True)
class TrainingOptions:
    """What `warmup` and `reweight` share; None is auto.

    Attributes:
        lr: per step, the largest of the schedule.
        optimiser: "sgd", "adam" or "adamw".
        momentum: of SGD, Nesterov's.
        weight_decay: L2 factor; of adamw, decoupled.
        accumulate: batches whose mean gradient makes a step.
        schedule: "cosine", "step" or "constant".
        augment: "none", "weak" or "strong", of images.
        device: "auto" or a device type of PyTorch; the type found is part of the key, this word is not.
        workers: processes that decode encoded images ahead; 0: none, None: by the machine.
    """

    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    optimiser: str = "sgd"
    momentum: float | None = None
    weight_decay: float | None = None
    accumulate: int = 1
    schedule: str = "cosine"
    augment: str | None = None
    amp: bool | None = None
    seed: int = 0
    device: str = not_in_key("auto")
    workers: int | None = not_in_key(None)
    force: bool = not_in_key(False)
    dry_run: bool = not_in_key(False)

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "lr": 1e-8, "weight_decay": 0, "accumulate": 1}
        for name, low in least.items():
            require_range(name.replace("_", "-"), getattr(self, name), low)
        require_range("momentum", self.momentum, 0, 1)
        if self.momentum and self.optimiser != "sgd":
            raise UsageError(
                f"--momentum {self.momentum:g} is SGD's; {self.optimiser} has its own.",
                "Leave out --momentum.",
            )


@dataclass(frozen=True)
class WarmupOptions(TrainingOptions):
    """`warmup`.

    Attributes:
        checkpoints: how many models of the history are kept, evenly spread, the last epoch among them.
        weights: a safetensors file to start from.
        folds: parts of the pool, each predicted by a model that is trained on the others; 0: none.
        on: "images" or "features", what the models of the run take; None: features where the samples have any.
        pretrained: start from the published weights of the model, or from those of ``weights``.
        finetune: the part of a pre-trained model that is trained, "all" or "top".
        body_rate: of a pre-trained model, the learning rate of all but the head, as a multiple of the head's.
    """

    checkpoints: int = 5
    weights: Path | None = not_in_key(None)
    folds: int | None = None
    on: str | None = None
    # In the key of a fine-tuning alone, as ``training.fine_tuning.FineTuning``.
    pretrained: bool = not_in_key(False)
    finetune: str = not_in_key(FINETUNE)
    body_rate: float = not_in_key(BODY_RATE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("checkpoints", self.checkpoints, 1)
        require_range("body-rate", self.body_rate, 1e-4, 1)
        for flag, given in (
            ("finetune", self.finetune != FINETUNE),
            ("body-rate", self.body_rate != BODY_RATE),
        ):
            if given and not self.pretrained:
                raise UsageError(f"--{flag} is of pre-trained models.", "Add --pretrained, or leave it out.")
        if self.pretrained and self.on == "features":
            raise UsageError(
                "--pretrained is of models of images.", "Leave out --on features, or --pretrained."
            )
        if self.folds != 0:
            require_range("folds", self.folds, 2, 100)


@dataclass(frozen=True)
class SelectOptions:
    """`select`.

    Attributes:
        budget: labels to buy in this round.
        method: a name of the registry, or "auto": one of them by a rule.
        option: KEY=VALUE pairs for the method.
        gradient: "label-free" or "full"; a field of the methods that cluster gradients.
        profile: of ``registry.PROFILES``; what it sets is in the method's fields, which are in the key.
        control: part of the budget that is drawn uniformly at random.
        min_per_class: picks of each given class, at least.
        max_outlier: share of the other samples with closer neighbours, above which a sample is not chosen.
        replace_unusable: buy as many more as samples of earlier rounds were unusable.
        features: a Parquet file of features from outside.
        samples: a CSV file that lists the samples to choose, instead of a method.
        round: "next" opens a new round; None is the latest one.
        workers: as that of ``TrainingOptions``.
    """

    budget: int | None = None
    method: str = "auto"
    option: tuple[str, ...] = ()
    gradient: str | None = not_in_key(None)
    profile: str | None = not_in_key(None)
    control: float = 0.0
    min_per_class: int = 0
    max_outlier: float | None = None
    replace_unusable: bool = not_in_key(False)
    features: Path | None = not_in_key(None)
    samples: Path | None = not_in_key(None)
    seed: int = 0
    round: str | None = not_in_key(None)
    device: str = not_in_key("auto")
    workers: int | None = not_in_key(None)
    force: bool = not_in_key(False)
    dry_run: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("control", self.control, 0, 1)
        require_range("min-per-class", self.min_per_class, 0)
        if self.max_outlier is not None:
            require_range("max-outlier", self.max_outlier, 0, 1)


@dataclass(frozen=True)
class PlanOptions:
    """`plan`, which is no stage: it writes nothing.

    Attributes:
        budgets: numbers of further labels; None: those of ``DEFAULT_BUDGETS`` that the pool has room for.
        seed: of the draws.
    """

    budgets: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.budgets is not None and not 0 < len(self.budgets) <= MOST_BUDGETS:
            raise UsageError(
                f"--budgets has {len(self.budgets)} numbers.", f"Give 1 to {MOST_BUDGETS}, such as 10,20,50."
            )
        for budget in self.budgets or ():
            require_range("budgets", budget, 1)


@dataclass(frozen=True)
class ReweightOptions(TrainingOptions):
    """`reweight`.

    Attributes:
        method: a name of the registry.
        name: the folder below ``reweight/``; None: the method.
        init: "warmup" (the checkpoint that warm-up's rule chose), "scratch", or the name of another re-weighting.
        meta_batch_size: None: every bought sample, at most the batch size; for fsr its meta_ratio times that size.
        option: KEY=VALUE pairs for the method.
        profile: of ``registry.PROFILES``; what it sets is in the method's fields, which are in the key.
        folds: of the bought labels, for the comparison by cross-fitting; 0: no comparison.
        trace: keep what each bought label did to the weights; in the key where it is given.
        oracle_truth: a CSV file of true labels, of a method that weighs by these; in the key by its content.
    """

    method: str = "auto"
    name: str | None = not_in_key(None)
    init: str = "warmup"
    meta_batch_size: int | None = None
    option: tuple[str, ...] = ()
    profile: str | None = not_in_key(None)
    folds: int = 4
    trace: bool = not_in_key(False)
    oracle_truth: Path | None = not_in_key(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("meta-batch-size", self.meta_batch_size, 1)
        require_range("folds", self.folds, 0)
        if self.folds == 1:
            raise UsageError("--folds is 1; a fold is predicted by a model of the others.", "Use 0, or 2.")


@dataclass(frozen=True)
class ExportOptions:
    """`annotate export`.

    Attributes:
        output: a file, "-" for stdout, or None for the place below ``RUN/export``.
        round: None is the latest one.
        format: a name of ``annotation.formats``.
        show_given: show annotators the given label too.
        with_predictions: show annotators a model's prediction, where the format has a place for it.
        images: write the images beside the form.
        all: answered samples too.
        conflicts: only the tied samples, as a batch of their own.
        repeats: the share of samples that the form shows twice, in [0, 0.5].
        class_notes: a CSV file of what the form shows about classes on demand, where the format has a place for it.
        force: replace a form that holds no answers.
    """

    output: str | None = not_in_key(None)
    round: int | None = None
    format: str = "csv"
    show_given: bool = False
    with_predictions: bool = False
    images: bool = True
    all: bool = False
    conflicts: bool = False
    repeats: float = 0.0
    class_notes: Path | None = not_in_key(None)
    force: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("repeats", self.repeats, 0, 0.5)
        if self.all and self.conflicts:
            raise UsageError("--all and --conflicts exclude each other.", "Leave one out.")


@dataclass(frozen=True)
class ImportOptions:
    """`annotate import`; round None: all rounds.

    Attributes:
        outside_round: take labels of pool samples that were never selected.
        add_classes: make classes of labels that are none.
        annotator: who answered, where the file does not say.
        require_complete: samples that are still without an answer make the exit code 1.
        format: a name of ``annotation.formats``, or "auto": told from the content.
    """

    round: int | None = None
    outside_round: bool = False
    add_classes: bool = False
    annotator: str = "annotator"
    require_complete: bool = not_in_key(False)
    format: str = "auto"

    def __post_init__(self) -> None:
        if not is_annotator_name(self.annotator):
            raise UsageError(
                f"--annotator {quoted(self.annotator)} is not {ANNOTATOR_RULE}.", "Name the person."
            )
