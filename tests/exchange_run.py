"""A run of nine small images with one round selected, and models' predictions beside it."""

from collections.abc import Sequence
from pathlib import Path

from annotation_run import add_round
from data_makers import Picture, made, pictures, write_struct

from metaselect.run.layout import Run

CLASSES = ("cat", "dög", '<owl> & "co"')
IDS = tuple(f"s{number}" for number in range(9))
CHOSEN = ("s7", "s0", "s3", "s1", "s8", "s2")


def image_run(
    root: Path,
    ids: Sequence[str] = IDS,
    chosen: Sequence[str] = CHOSEN,
    classes: Sequence[str] = CLASSES,
) -> Run:
    """Images inside Parquet whose path names the class; round 1 is ``chosen``, the first rank first."""
    noise = pictures(len(ids))
    samples = [
        Picture(f"{classes[n % len(classes)]}/a.png", classes[n % len(classes)], each.raw)
        for n, each in enumerate(noise)
    ]
    data = write_struct(root.parent / f"{root.name}.parquet", samples, ids=ids, names=list(classes))
    run = made(data, root)
    add_round(run, 1, chosen)
    return run
