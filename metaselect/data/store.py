"""The pool (or a test set) in memory: numbered samples over memory-mapped arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from metaselect.data.readers.paths import ImageFiles
from metaselect.data.stored.images import EncodedImages, Remedies
from metaselect.data.stored.preprocess import INGEST_AGAIN, Preprocess
from metaselect.data.target import Target
from metaselect.errors import ArtefactError
from metaselect.memory import droppable
from metaselect.run.artefacts import (
    CLASSES,
    DATA,
    ENCODED,
    ENCODED_BYTES,
    PIXELS,
    PREPROCESS,
    SAMPLES,
    WARMUP,
    WARMUP_MODEL,
)
from metaselect.run.artefacts import FEATURES as FEATURES_ARRAY
from metaselect.run.files import read_json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import IDS_ALONE, IMAGES, Run
from metaselect.run.schema import Artefact
from metaselect.run.tables import read_parquet

Inputs: TypeAlias = np.ndarray | EncodedImages


@dataclass(frozen=True)
class Dataset:
    """Numbered samples, ordered by sample_id; a sample's position is its number everywhere in a run.

    Attributes:
        sample_ids: n unique strings, sorted by code point.
        labels: (n,) int64, positions in ``classes``: given labels of a pool, -1 where a sample has none; true ones of
            a test set.
        classes: K names.
        inputs: uint8 (n, C, H, W) or float32 (n, d), memory-mapped, or images that are decoded when rows of them are
            asked for; (n, 0) for ids and labels alone.
        preprocess: how the inputs are normalised.
    """

    sample_ids: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    inputs: Inputs
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> np.ndarray:
        """(n,) bool, samples with a label."""
        mask: np.ndarray = self.labels >= 0
        return mask

    def label_names(self) -> list[str | None]:
        """The n names of the labels; None where there is none."""
        return [self.classes[label] if label >= 0 else None for label in self.labels.tolist()]


ID_FILES = (SAMPLES.path(), CLASSES.path())
DATA_FILES = (*ID_FILES, PREPROCESS.path())


def stored_array(kind: str, *, encoded: bool) -> Artefact:
    """The array that holds images, decoded or only where they lie, or features."""
    if kind != IMAGES:
        return FEATURES_ARRAY
    return ENCODED if encoded else PIXELS


def array_files(run: Run, kind: str) -> tuple[str, ...]:
    """The paths, below the run, of the arrays that hold images or features."""
    encoded = keeps_encoded(run)
    array = stored_array(kind, encoded=encoded).path()
    beside = kind == IMAGES and encoded and run.path(ENCODED_BYTES.path()).is_file()
    return (array, ENCODED_BYTES.path()) if beside else (array,)


def keeps_encoded(run: Run) -> bool:
    """Whether the images of an ingested run stay encoded."""
    return run.path(ENCODED.path()).is_file()


def preprocess_of(run: Run) -> Preprocess:
    """How the samples of a run are stored.

    Raises:
        ArtefactError: no run, or a damaged file.
    """
    run.info()
    return Preprocess.read(run.path(PREPROCESS.path()))


def trained_on(run: Run) -> str:
    """What the models of a run take: what its warm-up took, and before that features where there are any.

    Returns:
        "images" or "features"; "external" where the run holds ids and labels alone.
    """
    stored = preprocess_of(run)
    if len(stored.kinds) < 2 or not run.has_warmup:
        return stored.task
    run.stage(WARMUP.name()).verified(WARMUP_MODEL.path())
    described = read_json(run.path(WARMUP_MODEL.path()), run.stage(WARMUP.name()).recompute_hint)
    return str(described["preprocess"]["task"])


def data_inputs(run: Run, on: str | None = None) -> tuple[str, ...]:
    """The files of ``data/`` that a stage depends on if it looks at the samples' contents.

    Args:
        run: the run.
        on: "images" or "features"; None: those that ``trained_on`` says.
    """
    kind = on or trained_on(run)
    if kind == IDS_ALONE:
        return DATA_FILES
    decides = on is None and run.has_warmup and len(preprocess_of(run).kinds) > 1
    return (*DATA_FILES, *array_files(run, kind), *([WARMUP_MODEL.path()] if decides else []))


def require_contents(run: Run) -> None:
    """Check that the run holds images or features, so that models can be trained.

    Raises:
        ArtefactError: no run, or one of ids and labels alone.
    """
    if run.ids_alone:
        raise ArtefactError(
            f"{run.root} holds ids and labels alone, so no model can be trained or judged in it.",
            f"Choose samples here with `{run.selecting_command}`, and train in a run with images or features.",
        )


def load_ids(run: Run) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """(sample ids, (n,) int64 given labels or -1, class names) of the pool, without its images or features.

    Raises:
        ArtefactError: no run, or a damaged file.
    """
    run.info()  # first: a folder that is no run is a clearer error than a missing file
    inputs_of(run, *ID_FILES)
    table = read_parquet(run, SAMPLES, ["sample_id", "given_label"])
    classes = tuple(read_json(run.path(CLASSES.path()), INGEST_AGAIN))
    positions: dict[str | None, int] = {name: position for position, name in enumerate(classes)}
    positions[None] = -1
    names = table["given_label"].to_pylist()
    labels = np.fromiter((positions[name] for name in names), dtype=np.int64, count=len(names))
    return table["sample_id"].to_pylist(), labels, classes


def load_pool(run: Run, on: str | None = None, *, workers: int | None = None) -> Dataset:
    """The pool of a run.

    Args:
        run: the run.
        on: "images" or "features", of which the samples must have those; None: those that ``trained_on`` says.
        workers: processes that decode images ahead, where they are encoded; None: by the machine.

    Raises:
        ArtefactError: no run, a damaged file, or arrays that do not fit the sample list.
    """
    kind = on or trained_on(run)
    inputs_of(run, *data_inputs(run, kind))
    sample_ids, labels, classes = load_ids(run)
    stored = preprocess_of(run)
    if kind == IDS_ALONE:
        return Dataset(sample_ids, labels, classes, np.empty((len(sample_ids), 0), np.float32), stored)
    count = len(sample_ids)
    inputs = load_images(run, count, workers) if kind == IMAGES else load_features(run, count)
    return Dataset(sample_ids, labels, classes, inputs, stored.kinds[kind])


def load_images(run: Run, count: int, workers: int | None = None) -> Inputs:
    """The images of ``count`` samples, memory-mapped, or decoded whenever rows of them are asked for.

    Args:
        run: whose samples have images.
        count: samples.
        workers: processes that decode ahead; None: by the machine.

    Raises:
        ArtefactError: a file cannot be read, or holds another number of samples.
    """
    if not keeps_encoded(run):
        return load_array(run, PIXELS, count)
    places = load_array(run, ENCODED, count)
    beside = run.path(ENCODED_BYTES.path()).is_file()
    stored, made = preprocess_of(run).kinds[IMAGES], run.stage(DATA.name())
    record = made.require()
    outside = bool(record.key.options.get("allow_outside"))
    return EncodedImages(
        places,
        load_array(run, ENCODED_BYTES) if beside else np.empty(0, np.uint8),
        read_parquet(run, SAMPLES, ["sample_id", "content_hash", "source"]),
        ImageFiles(Path(str(record.details[IMAGES])), outside=outside),
        Target(stored.size, stored.mode, 0, stored.pixel_range, stored.fit),
        Remedies(
            f"Put it back; where the data set was moved, name its new place in: {made.command()}",
            f"Restore the file, or take the data as it is now: {made.command('--force')}",
            INGEST_AGAIN,
        ),
        workers,
    )


def load_features(run: Run, count: int) -> np.ndarray:
    """The features of ``count`` samples, memory-mapped.

    Raises:
        ArtefactError: the file cannot be read, or holds another number of samples.
    """
    return load_array(run, FEATURES_ARRAY, count)


def load_array(run: Run, artefact: Artefact, count: int | None = None) -> np.ndarray:
    """An array of the run, memory-mapped.

    Args:
        run: the run.
        artefact: its file.
        count: of the samples, which are its rows; None: they are not.

    Raises:
        ArtefactError: the file cannot be read, or holds another number of samples.
    """
    path = run.path(artefact.path())
    try:
        # Copy on write ("c"): torch warns about read-only arrays, and nothing writes to this one.
        array: np.ndarray = droppable(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.", INGEST_AGAIN) from None
    if count is not None and len(array) != count:
        raise ArtefactError(
            f"{path} holds {len(array)} samples, {SAMPLES.within()} {count}.",
            INGEST_AGAIN,
        )
    return array
