"""Flags that several commands share, with their types and help texts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaselect.cli.console import ProgressMode
from metaselect.memory import parse_size
from metaselect.registry import AUTO_SELECTOR, MODELS, PROFILES, REWEIGHTERS, SELECTORS

TRAINING = "Training"
OUTPUT = "Output"
RESOURCES = "Resources"

SelectMethod = StrEnum("SelectMethod", {name: name for name in (AUTO_SELECTOR, *SELECTORS)})  # type: ignore[misc]
ReweightMethod = StrEnum("ReweightMethod", {name: name for name in REWEIGHTERS})  # type: ignore[misc]
Profile = StrEnum("Profile", {name: name for name in PROFILES})  # type: ignore[misc]


class Optimiser(StrEnum):
    """Values of --optimiser."""

    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class Schedule(StrEnum):
    """Values of --schedule."""

    cosine = "cosine"
    step = "step"
    constant = "constant"


class Kind(StrEnum):
    """What models take, of samples that have both."""

    images = "images"
    features = "features"


class Augment(StrEnum):
    """Values of --augment."""

    none = "none"
    weak = "weak"
    strong = "strong"


RunOption = Annotated[
    Path | None, typer.Option("--run", envvar="METASELECT_RUN", help="The run directory.", metavar="RUN")
]
SeedOption = Annotated[
    int, typer.Option(help="Seed of all random numbers; another one for a repetition.", min=0)
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Compute again, even if the result exists or an option has changed.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check all inputs and print the resolved options, memory, disk and time; write nothing.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto (CUDA where there is a GPU, else CPU), cpu, cuda, mps or another device type of PyTorch.",
        rich_help_panel=TRAINING,
    ),
]
TrustModelOption = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        help="Run the code of a model package.module:factory that only the run's files name.",
        rich_help_panel=TRAINING,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Set an option of the method; can be repeated. `--option help` lists them.",
    ),
]
ProfileOption = Annotated[
    Profile | None,
    typer.Option(
        help="Use the papers' settings for clean but unbalanced labels; --option and other flags override them.",
        show_default="none",
    ),
]
MaxMemoryOption = Annotated[
    int | None,
    typer.Option(
        metavar="SIZE",
        parser=parse_size,
        help="Stay within this much memory, such as 4G, or refuse; changes no result.",
        show_default="no limit",
        rich_help_panel=RESOURCES,
    ),
]
MaxGpuMemoryOption = Annotated[
    int | None,
    typer.Option(
        metavar="SIZE",
        parser=parse_size,
        help="Stay within this much memory of the GPU, such as 20G.",
        show_default="all of it",
        rich_help_panel=RESOURCES,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object on stdout.", rich_help_panel=OUTPUT),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print no notes and no progress on stderr, only warnings and errors.",
        rich_help_panel=OUTPUT,
    ),
]
ProgressOption = Annotated[
    ProgressMode, typer.Option(help="How progress is shown on stderr.", rich_help_panel=OUTPUT)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(MODELS)}, a torchvision model such as resnet18, timm:NAME, or package.module:factory.",
        show_default="auto, by the size of the inputs",
        rich_help_panel=TRAINING,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        help="Passes over the training set.",
        show_default="auto, by the number of samples",
        rich_help_panel=TRAINING,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Samples per batch.", show_default="auto, by the number of samples", rich_help_panel=TRAINING
    ),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(help="Largest learning rate of the schedule.", show_default="auto: 0.05 of sgd, else 0.001",
                 rich_help_panel=TRAINING),
]  # fmt: skip
OptimiserOption = Annotated[
    Optimiser, typer.Option(help="Optimiser; adamw is usual for transformers.", rich_help_panel=TRAINING)
]
AccumulateOption = Annotated[
    int,
    typer.Option(
        help="Batches whose gradients are averaged for one step, where memory holds no larger batch.",
        rich_help_panel=TRAINING,
    ),
]
MomentumOption = Annotated[
    float | None,
    typer.Option(
        help="Nesterov momentum of SGD.",
        show_default="auto: warmup 0.9; reweight 0, sometimes 0.9 for auto",
        rich_help_panel=TRAINING,
    ),
]
WeightDecayOption = Annotated[
    float | None,
    typer.Option(
        help="Weight decay (L2 factor; decoupled with adamw).",
        show_default="auto: 0.0005",
        rich_help_panel=TRAINING,
    ),
]
ScheduleOption = Annotated[
    Schedule,
    typer.Option(
        help="How the learning rate falls; step divides it by 10 at 1/2 and 3/4 of the epochs.",
        rich_help_panel=TRAINING,
    ),
]
AugmentOption = Annotated[
    Augment | None,
    typer.Option(
        help="Random changes of the images: weak is crops and flips, not where a flip changes the class; strong is "
        "RandAugment and Cutout besides.",
        show_default="auto: weak for colour images from 32 px",
        rich_help_panel=TRAINING,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode images which stay encoded; 0: threads of this one. The result is the same.",
        show_default="the cores, at most 8",
        rich_help_panel=TRAINING,
    ),
]
AmpOption = Annotated[
    bool | None,
    typer.Option(
        "--amp/--no-amp",
        help="Compute in bfloat16 by autocast, which is faster on GPUs.",
        show_default="auto: on CUDA",
        rich_help_panel=TRAINING,
    ),
]
