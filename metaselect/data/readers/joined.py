"""A data set whose features lie in a file of their own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from metaselect.data.readers.base import SKIP, Content, SampleEntry, Source, UnusableContent, paired
from metaselect.data.readers.external_features import read_features
from metaselect.data_options import ReadOptions
from metaselect.errors import DataError
from metaselect.run.layout import FEATURES


class JoinedSource:
    """A ``Source`` of images, or of ids and labels alone, with the features of a file, joined by sample_id."""

    def __init__(self, source: Source, file: Path, options: ReadOptions) -> None:
        if FEATURES in source.kinds:
            raise DataError(
                f"{source.root} has features itself, beside those of --features {file}.",
                "Leave --features out, or the data's own: --feature-columns none.",
            )
        self._source, self._file, self._partial = source, file, options.on_bad_sample == SKIP
        self.root, self.declared, self.remarks = source.root, source.declared, source.remarks
        if not source.kinds:
            self.remarks = ()  # which say that there are no features
        self.brings_ids = source.brings_ids
        self._taken: tuple[str, ...] = (*source.kinds, FEATURES)
        self._features: np.ndarray | None = None  # (m, d), NaN where the file has none
        self._places = np.empty(0, dtype=np.int64)  # the row of each sample, -1 for none

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the data has, and features."""
        return self._taken

    def take(self, kind: str) -> None:
        """Read images alone, or features alone."""
        self._taken = (kind,)

    def join(self, sample_ids: Sequence[str], keep: np.ndarray) -> None:
        """Read the features of the samples whose ``keep``, (N,) bool, is true; the others have none.

        Raises:
            DataError: the file has no features for one of them where the policy is to stop, or cannot be used.
        """
        if FEATURES not in self._taken:
            return
        kept = np.flatnonzero(keep)
        names = [sample_ids[place] for place in kept.tolist()]
        self._features = read_features(self._file, names, partial=self._partial)
        self._places = np.full(len(keep), -1, dtype=np.int64)
        self._places[kept] = np.arange(len(kept))

    def where(self, position: int, row: int, path: str) -> str:
        """The file of the data that holds the sample."""
        return self._source.where(position, row, path)

    def entries(self) -> Iterator[SampleEntry]:
        """Those of the data."""
        return self._source.entries()

    def contents(self, keep: np.ndarray, start: int = 0) -> Iterator[tuple[int, Content]]:
        """What the data has, with the features once they were joined."""
        if self._features is None or FEATURES not in self._taken:
            yield from self._source.contents(keep, start)
        elif self._taken == (FEATURES,):
            wanted = np.flatnonzero(keep).tolist()
            yield from ((position, self._row(position)) for position in wanted if position >= start)
        else:
            for position, content in self._source.contents(keep, start):
                yield position, paired(content, self._row(position))

    def width(self) -> int:
        """Features per sample."""
        return 0 if self._features is None else self._features.shape[1]

    def files(self) -> Iterator[tuple[str, Path]]:
        """The files of the data, and that of the features."""
        yield from self._source.files()
        if FEATURES in self._taken:
            yield "--features", self._file

    def _row(self, position: int) -> Content:
        assert self._features is not None
        row = self._features[self._places[position]]
        return UnusableContent(f"it has no features in {self._file}") if np.isnan(row[0]) else row


def with_features(source: Source, options: ReadOptions) -> Source:
    """The data set, joined with the file of --features where there is one."""
    return source if options.features is None else JoinedSource(source, options.features, options)
