"""Parquet files and folders that are named by split, as on the Hugging Face hub: ``train-*``, ``test-*``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from metaselect.data.classes import suggest
from metaselect.errors import DataError
from metaselect.text import examples

SUFFIXES = (".parquet", ".pq")
TABLES = (".csv", ".tsv", ".jsonl")
HUB_FOLDER = "data"  # of a data set on the hub, beside its README
TRAIN = ("train", "training")
TEST = (
    "test",
    "testing",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
    "evaluation",
)  # evaluate's, the first best
SPLIT = re.compile(rf"({'|'.join((*TRAIN, *TEST, 'unlabeled'))})(?:[-_. 0-9].*)?", re.I)
WITHOUT = "no split"


def parquet_files(folder: Path, split: str | None) -> list[Path]:
    """The Parquet files of a folder, or of its folder ``data``, in the order of their names; of one split only.

    Args:
        folder: may hold none.
        split: --split; None: the files must be of one split.

    Raises:
        DataError: there are files of several splits, or none of this one.
    """
    files = _in(folder)
    if not files and not any(_holds_files(entry) for entry in folder.iterdir() if entry.name != HUB_FOLDER):
        files = _in(folder / HUB_FOLDER)
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file), []).append(file)
    if split is not None:
        if not files:
            place = folder / split
            raise DataError(
                f"{folder} holds no Parquet files, which --split is for.",
                f"Name {place}, and leave --split out." if place.is_dir() else "Leave --split out.",
            )
        if split not in by_split:
            raise DataError(
                f"{folder} holds no Parquet file of the split {split}: {suggest(split, sorted(by_split))}",
                "Leave --split out where files are not named by split.",
            )
        return by_split[split]
    if len(by_split) > 1:
        counts = ", ".join(f"{name} ({len(found)})" for name, found in sorted(by_split.items()))
        raise DataError(
            f"{folder} holds Parquet files of several splits: {counts}.",
            f"Name one: {_by_use({name: f'--split {name}' for name in by_split})}.",
        )
    return files


def split_of(file: Path) -> str:
    """The split that a file's name begins with, in lower case; "no split" where there is none."""
    return _split(file.stem)


def check_no_splits(root: Path, folders: Sequence[Path], tables: Sequence[Path]) -> None:
    """Check that the folders of images below ``root`` are not the splits of a data set, since these are no classes.

    Args:
        root: the data set.
        folders: those that hold something.
        tables: files beside them that may name labels.

    Raises:
        DataError: every folder is named as a split.
    """
    if not folders or any(_split(folder.name) == WITHOUT for folder in folders):
        return
    labelled = [folder for folder in folders if any(map(_names_labels, folder.iterdir()))] or tables
    ways = {_split(path.stem): str(path) for path in reversed(labelled)}
    raise DataError(
        f"The folders of {root} are named as splits of a data set, not as classes: "
        f"{examples([folder.name for folder in folders])}.",
        (f"Name one: {_by_use(ways)}. If they are classes, name" if ways else "Name")
        + " a table (.csv) of the images with their labels.",
    )


def _names_labels(entry: Path) -> bool:
    """Whether something in a folder can say what classes its images have: a folder or a table."""
    return entry.suffix.lower() in (*SUFFIXES, *TABLES) or entry.is_dir()


def _split(name: str) -> str:
    found = SPLIT.fullmatch(name)
    return found[1].lower() if found else WITHOUT


def _by_use(ways: Mapping[str, str]) -> str:
    """What to name for training and what for ``evaluate``, from the ways to name each split."""
    train = next((name for name in TRAIN if name in ways), min(ways))
    test = next((name for name in TEST if name in ways and name != train), None)
    return f"{ways[train]} to train on" + (f", {ways[test]} for evaluate" if test else "")


def _in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(files, key=lambda file: file.name)


def _holds_files(entry: Path) -> bool:
    """Whether an entry is a folder that may be a class: neither hidden nor empty."""
    return entry.is_dir() and not entry.name.startswith(".") and any(entry.iterdir())
