"""Test samples that are in the pool too, or near duplicates of samples there: models may know them by heart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from metaselect.data.store import Dataset, preprocess_of
from metaselect.data.summary import row_hashes
from metaselect.features.near_duplicates import near_duplicates_between
from metaselect.records import Reporter
from metaselect.run.artefacts import SAMPLES
from metaselect.run.evaluation_artefacts import OVERLAP
from metaselect.run.layout import FEATURES, Run
from metaselect.run.stage import Work
from metaselect.run.tables import read_parquet, write_rows
from metaselect.stages.select.similar import averaged_block
from metaselect.text import spreadsheet_cell


class Overlap(NamedTuple):
    """What the test set shares with the pool; both (n',) int64, pool indices, -1: none.

    Attributes:
        equal: a sample with the same content.
        near: of the others, the closest near duplicate.
    """

    equal: np.ndarray
    near: np.ndarray

    @property
    def shared(self) -> np.ndarray:
        """(n',) bool, test samples with either."""
        shared: np.ndarray = (self.equal >= 0) | (self.near >= 0)
        return shared

    def write(self, work: Work, samples: Dataset, pool: Dataset) -> None:
        """Write ``overlap.csv`` where it has rows, in the order of the test samples."""
        given = pool.label_names()
        rows = []
        for place in np.flatnonzero(self.shared).tolist():
            is_equal = self.equal[place] >= 0
            index = int((self.equal if is_equal else self.near)[place])
            own = (samples.sample_ids[place], samples.classes[samples.labels[place]])
            texts = (*own, pool.sample_ids[index], given[index] or "", "equal" if is_equal else "near")
            rows.append([spreadsheet_cell(text) for text in texts])
        if rows:
            write_rows(work.folder / OVERLAP.within(), OVERLAP, rows)

    def report(self, report: Reporter, *, left_out: bool) -> None:
        """Say how many there are: a note where they are left out, else a warning."""
        n = len(self.equal)
        equal, near = int((self.equal >= 0).sum()), int((self.near >= 0).sum())
        counts = [f"{equal} of {n} test samples are in the pool too"] * bool(equal)
        counts += [f"{near} of {n} test samples are near duplicates of pool samples"] * bool(near)
        for count in counts:
            if left_out:
                report.note(f"{count}; they are left out.")
            else:
                report.warn(
                    f"{count}: the figures flatter. --leave-out-overlap judges the models on the others."
                )


def find_overlap(
    run: Run, pool: Dataset, samples: Dataset, hashes: Sequence[str], device: torch.device, report: Reporter
) -> Overlap:
    """What the test set shares with the pool.

    Args:
        run: the run.
        pool: its data.
        samples: of the test set.
        hashes: of their contents.
        device: on which they are compared.
        report: shows progress.
    """
    if len(preprocess_of(run).kinds) > 1 and pool.preprocess.task == FEATURES:
        known = row_hashes(np.asarray(pool.inputs))  # the recorded hashes are those of the images
    else:
        known = read_parquet(run, SAMPLES, ["content_hash"])[0].to_pylist()
    wanted, index = frozenset(hashes), dict[str, int]()
    for place, digest in enumerate(known):
        if digest in wanted:
            index.setdefault(digest, place)  # the first one
    equal = np.array([index.get(digest, -1) for digest in hashes], np.int64)
    with report.track(0, "near duplicates", "") as advance:
        near = near_duplicates_between(
            *(samples.inputs, pool.inputs, device, lambda text: advance(0, text)),
            block=averaged_block(pool.inputs),
        ).numpy()
    return Overlap(equal, np.where(equal >= 0, -1, near))
