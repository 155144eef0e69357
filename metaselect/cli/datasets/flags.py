"""Flags of the commands that read a data set, with their types and help texts."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from metaselect.errors import UsageError

INPUT = "Input"


class Fit(StrEnum):
    """Values of --fit."""

    crop = "crop"
    pad = "pad"
    squash = "squash"


class Store(StrEnum):
    """Values of --store."""

    auto = "auto"
    pixels = "pixels"
    encoded = "encoded"


class OnBadSample(StrEnum):
    """Values of --on-bad-sample."""

    stop = "stop"
    skip = "skip"


IdColumnOption = Annotated[
    str | None,
    typer.Option(help="Column with unique ids.", show_default="sample_id, else id", rich_help_panel=INPUT),
]
LabelColumnOption = Annotated[str, typer.Option(help="Column with labels.", rich_help_panel=INPUT)]
ImageColumnOption = Annotated[
    str,
    typer.Option(help="Column with image paths or bytes; none: no images.", rich_help_panel=INPUT),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="Which files of a folder whose Parquet files are named by split, such as train or test.",
        show_default="there is one split",
        rich_help_panel=INPUT,
    ),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Parquet file of sample_id and features, joined with the data's own images or labels.",
        rich_help_panel=INPUT,
    ),
]
ImageFolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the images that a table names.",
        show_default="the table's own",
        rich_help_panel=INPUT,
    ),
]
ImageSuffixOption = Annotated[
    str,
    typer.Option(
        metavar=".jpg",
        help="What the names of images in a table lack at their end.",
        show_default="none",
        rich_help_panel=INPUT,
    ),
]
AllowOutsideOption = Annotated[
    bool,
    typer.Option(
        "--allow-outside",
        help="Read files of DATA that are links or paths to outside of its folder.",
        rich_help_panel=INPUT,
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C|FILE",
        help="All classes in their order, where no sample has some of them; a file has one name a line.",
        show_default="those of the labels",
        rich_help_panel=INPUT,
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Height and width in pixels.",
        show_default="the images' own, else the median, at most 224",
        rich_help_panel=INPUT,
    ),
]
FitOption = Annotated[
    Fit,
    typer.Option(
        help="How an image of other proportions is brought to the size: cut, padded with black, or distorted.",
        rich_help_panel=INPUT,
    ),
]
PixelRangeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Of images with more than 8 bits a pixel, the values that become black and white, such as 0,4095.",
        show_default="by the largest value of all images",
        rich_help_panel=INPUT,
    ),
]
StoreOption = Annotated[
    Store,
    typer.Option(
        help="Store images as decoded pixels, or leave them encoded; auto: encoded above 20 GB, or 8 times the "
        "originals.",
        rich_help_panel=INPUT,
    ),
]
FeatureColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Numeric columns to use as features, as a glob such as 'x*'; none: without features.",
        show_default="the list column `features`",
        rich_help_panel=INPUT,
    ),
]
OnBadSampleOption = Annotated[
    OnBadSample,
    typer.Option(
        help="What to do with an unreadable sample; skip leaves it out and lists it.", rich_help_panel=INPUT
    ),
]


def numbers_of_range(text: str | None) -> tuple[float, float] | None:
    """(low, high) of "LOW,HIGH".

    Raises:
        UsageError: it is not two numbers.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--pixel-range is {text}; it must be two numbers LOW,HIGH.", "Such as --pixel-range 0,4095."
        ) from None
    return low, high
