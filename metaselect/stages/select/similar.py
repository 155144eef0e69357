"""Near duplicates and outliers in a round: the search, what is kept away from the method, and what is said."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from metaselect.data.store import Dataset, Inputs
from metaselect.errors import UsageError
from metaselect.features.near_duplicates import (
    BLOCK,
    LEAST_WIDTH,
    MOST_SAMPLES,
    SimilarSamples,
    similar_samples,
)
from metaselect.memory import block_size
from metaselect.records import Json, Reporter
from metaselect.run.artefacts import CONFLICTS, NEIGHBOURS, SAMPLES
from metaselect.run.layout import Run
from metaselect.run.stage import Work
from metaselect.run.tables import read_parquet, write_parquet, write_rows
from metaselect.selection.base import PoolFeatures
from metaselect.text import counted, spreadsheet_cell


def find_similar(
    pool: Dataset, features: PoolFeatures, *, external: bool, device: torch.device, report: Reporter
) -> SimilarSamples:
    """The near duplicates and outliers of the pool, by what is no result of the given labels.

    That are the features of ``--features``, else the pool's own images or features. The warm-up's last layer would not
    do: it puts samples of one class close together.
    """
    inputs: Inputs = features.hidden[-1].cpu().numpy() if external else pool.inputs
    if inputs.shape[1] == 0:  # ids and labels alone
        return SimilarSamples(torch.arange(len(pool)), None)
    with report.track(0, "near duplicates", "") as advance:
        return similar_samples(inputs, device, lambda text: advance(0, text), block=averaged_block(inputs))


def averaged_block(inputs: Inputs) -> int:
    """Images that are averaged at a time, twice in float32, for the search for near duplicates."""
    return block_size(2 * 4 * math.prod(inputs.shape[1:]), BLOCK)


def hidden_samples(similar: SimilarSamples, taken: torch.Tensor, max_outlier: float | None) -> torch.Tensor:
    """(n,) bool, samples that the method must not see: outliers, and near duplicates of others.

    Of each group of near duplicates without a taken sample the first one that is no outlier stays; of others none does.

    Args:
        similar: of n samples.
        taken: (n,) bool, chosen or labelled already, or drawn for the control; these are not hidden.
        max_outlier: rank above which a sample is not chosen; None for no limit.

    Raises:
        UsageError: there is a limit, and there are no ranks.
    """
    outlying = torch.zeros_like(taken)
    if max_outlier is not None:
        if similar.outlier is None:
            raise UsageError(
                "--max-outlier is not possible: the samples of this pool were not compared, which takes images or "
                f"features of {LEAST_WIDTH} numbers or more, and at most {MOST_SAMPLES['cpu']:,} samples on a CPU.",
                "Leave it out.",
            )
        outlying = similar.outlier > max_outlier
    represented = torch.zeros_like(taken)
    represented[similar.group[taken]] = True
    candidates = (~taken & ~outlying & ~represented[similar.group]).nonzero()[:, 0]
    _, firsts = np.unique(similar.group[candidates].numpy(), return_index=True)
    seen = taken.clone()
    seen[candidates[torch.from_numpy(firsts)]] = True
    return ~seen


def write_similar(
    run: Run, number: int, work: Work, pool: Dataset, similar: SimilarSamples, report: Reporter
) -> dict[str, Json]:
    """Write ``neighbours.parquet`` of a round, and ``conflicts.csv`` if it has rows; say how many samples are alike.

    Returns:
        Numbers for ``stage.json``: groups of near duplicates, samples in them, groups with different given labels.
    """
    names = group_names(pool.sample_ids, similar.group)
    columns = {
        "sample_id": pa.array(pool.sample_ids, pa.string()),
        "duplicate_group": pa.array(names, pa.string()),
        "outlier": pa.nulls(len(pool), pa.float32())
        if similar.outlier is None
        else pa.array(similar.outlier.numpy()),
    }
    write_parquet(work.folder / NEIGHBOURS.within(), NEIGHBOURS, columns)
    groups = {name for name in names if name is not None}
    conflicting = conflicting_groups(names, pool.labels)
    members = [index for index, name in enumerate(names) if name in conflicting]
    counts: dict[str, Json] = {
        "groups": len(groups),
        "samples": sum(name is not None for name in names),
        "conflicts": len(conflicting),
    }
    if groups:
        report.note(
            f"{counts['samples']} samples are near duplicates of others, in "
            f"{counted(len(groups), 'group', 'groups')}; the method chooses at most one of each."
        )
    if conflicting:
        _write_conflicts(run, work, pool, names, members)
        where = counted(len(conflicting), "group of near duplicates has", "groups of near duplicates have")
        report.warn(f"{where} different given labels: {run.path(CONFLICTS.path(number=number))}")
    return counts


def group_names(sample_ids: Sequence[str], group: torch.Tensor) -> list[str | None]:
    """The name of each sample's group of near duplicates, which is its first sample; None where it has none."""
    sizes = torch.bincount(group, minlength=len(group)).tolist()
    return [sample_ids[first] if sizes[first] > 1 else None for first in group.tolist()]


def conflicting_groups(names: Sequence[str | None], labels: np.ndarray) -> set[str]:
    """Groups with two given labels or more: (n,) int64, -1 for none."""
    found: dict[str, set[int]] = {}
    for name, label in zip(names, labels.tolist(), strict=True):
        if name is not None and label >= 0:
            found.setdefault(name, set()).add(label)
    return {name for name, given in found.items() if len(given) > 1}


def _write_conflicts(
    run: Run, work: Work, pool: Dataset, names: Sequence[str | None], members: Sequence[int]
) -> None:
    """Write ``conflicts.csv``: the samples ``members``, by their groups."""
    given = pool.label_names()
    sources = read_parquet(run, SAMPLES, ["source"])["source"].to_pylist()
    rows = [
        [
            spreadsheet_cell(text or "")
            for text in (pool.sample_ids[index], names[index], given[index], sources[index])
        ]
        for index in sorted(members, key=lambda index: (str(names[index]), index))
    ]
    write_rows(work.folder / CONFLICTS.within(), CONFLICTS, rows)
