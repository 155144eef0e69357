"""Folders of Parquet files that are named by split, as on the Hugging Face hub: ``train-*``, ``test-*``."""

import re
from pathlib import Path

from metaselect.data.classes import suggest
from metaselect.errors import DataError

SUFFIXES = (".parquet", ".pq")
HUB_FOLDER = "data"  # of a data set on the hub, beside its README
SPLIT = re.compile(r"(train|training|test|testing|validation|valid|val|dev|eval|unlabeled)(?:[-_.].*)?", re.I)
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
            f"Name one: --split {'train' if 'train' in by_split else min(by_split)}; the others are for evaluate.",
        )
    return files


def split_of(file: Path) -> str:
    """The split that a file's name begins with, in lower case; "no split" where there is none."""
    found = SPLIT.fullmatch(file.stem)
    return found[1].lower() if found else WITHOUT


def _in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(files, key=lambda file: file.name)


def _holds_files(entry: Path) -> bool:
    """Whether an entry is a folder that may be a class: neither hidden nor empty."""
    return entry.is_dir() and not entry.name.startswith(".") and any(entry.iterdir())
