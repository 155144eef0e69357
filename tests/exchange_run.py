"""A run of nine small images with one round selected, and models' predictions beside it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from annotation_run import add_round
from data_makers import Picture, made, pictures, write_struct

from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record

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


def add_weights(run: Run, predicted: Sequence[tuple[str, str, float]], name: str = "direct") -> None:
    """What ``reweight`` leaves, as far as forms need it: (sample_id, label, probability) of each sample."""
    folder = run.path(f"reweight/{name}")
    folder.mkdir(parents=True)
    columns = ("sample_id", "predicted_label", "predicted_prob")
    values = zip(*predicted, strict=True)
    table = pa.table({name: list(each) for name, each in zip(columns, values, strict=True)})
    pq.write_table(table, folder / "weights.parquet")
    write_record(folder, StageKey({}, {}), {})


def add_gradients(run: Run, probs: dict[str, list[float]], epoch: int, number: int = 1) -> None:
    """What a selection leaves of a warm-up checkpoint: the probabilities of each sample."""
    folder = run.path(f"select/round-{number}")
    table = pa.table({"sample_id": list(probs), "probs": list(probs.values())})
    pq.write_table(table, folder / f"gradients-epoch-{epoch:04d}.parquet")
    write_record(folder, StageKey({}, {}), {})
