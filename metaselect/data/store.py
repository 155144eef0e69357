"""The pool (or a test set) in memory: numbered samples over memory-mapped arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaselect.data.depth import PixelRange
from metaselect.errors import ArtefactError
from metaselect.memory import droppable
from metaselect.records import Json
from metaselect.run.artefacts import CLASSES, PIXELS, PREPROCESS, SAMPLES, WARMUP, WARMUP_MODEL
from metaselect.run.artefacts import FEATURES as FEATURES_ARRAY
from metaselect.run.files import read_json, write_json
from metaselect.run.inputs import inputs_of
from metaselect.run.layout import IDS_ALONE, IMAGES, Run
from metaselect.run.memo import FileMemo
from metaselect.run.tables import read_parquet

INGEST_AGAIN = "Ingest the data again with --force."


@dataclass(frozen=True)
class Preprocess:
    """How raw samples became the stored arrays, and how they are normalised for a model.

    Attributes:
        task: "images", "features" or "external" (ids and labels alone). Of a pool that has both, "features", to which
            all but ``images`` belongs.
        size: (height, width) in pixels; empty for all but images.
        mode: "L" or "RGB"; empty for all but images.
        mean: per channel, of pixels scaled to [0, 1], or per feature; subtracted from a model's inputs. Empty for
            ids and labels alone.
        std: per channel or feature, in the same units; inputs are divided by it. Never 0.
        pixel_range: the values of images of more than 8 bits that became 0 and 255; None where there are none.
        fit: how images of other proportions were brought to the size: "crop", "pad" or "squash".
        images: the same of the images of a pool that has both; else None.
    """

    task: str
    size: tuple[int, ...]
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: PixelRange | None = None
    fit: str = "crop"
    images: "Preprocess | None" = None

    @property
    def kinds(self) -> dict[str, "Preprocess"]:
        """That of "images" and of "features", of those that the samples have."""
        if self.task == IDS_ALONE:
            return {}
        own = {self.task: replace(self, images=None)}
        return own if self.images is None else {IMAGES: self.images, **own}

    def write(self, path: Path) -> None:
        """Write ``preprocess.json``."""
        write_json(path, self.as_json())

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values."""
        return {
            "task": self.task,
            "size": list(self.size),
            "mode": self.mode,
            "mean": list(self.mean),
            "std": list(self.std),
            "pixel_range": None if self.pixel_range is None else list(self.pixel_range),
            "fit": self.fit,
            **({} if self.images is None else {"images": self.images.as_json()}),
        }

    @classmethod
    def read(cls, path: Path) -> "Preprocess":
        """What ``preprocess.json`` says."""
        return _read_preprocess(path)


def _parse_preprocess(path: Path) -> Preprocess:
    return _preprocess_of(read_json(path, INGEST_AGAIN))


def _preprocess_of(raw: Mapping[str, Any]) -> Preprocess:
    scale = raw.get("pixel_range")  # as fit, not in files from before it was recorded
    return Preprocess(
        raw["task"],
        tuple(raw["size"]),
        raw["mode"],
        tuple(raw["mean"]),
        tuple(raw["std"]),
        None if scale is None else PixelRange(*scale),
        raw.get("fit", "crop"),
        _preprocess_of(raw["images"]) if "images" in raw else None,
    )


_read_preprocess = FileMemo(_parse_preprocess)  # which files a stage reads depends on it


@dataclass(frozen=True)
class Dataset:
    """Numbered samples, ordered by sample_id; a sample's position is its number everywhere in a run.

    Attributes:
        sample_ids: n unique strings, sorted by code point.
        labels: (n,) int64, positions in ``classes``: given labels of a pool, -1 where a sample has none; true ones of
            a test set.
        classes: K names.
        inputs: uint8 (n, C, H, W) or float32 (n, d), memory-mapped; (n, 0) for ids and labels alone.
        preprocess: how the inputs are normalised.
    """

    sample_ids: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    inputs: np.ndarray
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


def array_file(kind: str) -> str:
    """The path, below the run, of the array that holds images or features."""
    return (PIXELS if kind == IMAGES else FEATURES_ARRAY).path()


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
    return (*DATA_FILES, array_file(kind), *([WARMUP_MODEL.path()] if decides else []))


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


def load_pool(run: Run, on: str | None = None) -> Dataset:
    """The pool of a run.

    Args:
        run: the run.
        on: "images" or "features", of which the samples must have those; None: those that ``trained_on`` says.

    Raises:
        ArtefactError: no run, a damaged file, or arrays that do not fit the sample list.
    """
    kind = on or trained_on(run)
    inputs_of(run, *data_inputs(run, kind))
    sample_ids, labels, classes = load_ids(run)
    stored = preprocess_of(run)
    if kind == IDS_ALONE:
        return Dataset(sample_ids, labels, classes, np.empty((len(sample_ids), 0), np.float32), stored)
    inputs = load_array(run, kind, len(sample_ids))
    return Dataset(sample_ids, labels, classes, inputs, stored.kinds[kind])


def load_array(run: Run, kind: str, count: int) -> np.ndarray:
    """The "images" or "features" of ``count`` samples, memory-mapped.

    Raises:
        ArtefactError: the file cannot be read, or holds another number of samples.
    """
    path = run.path(array_file(kind))
    try:
        # Copy on write ("c"): torch warns about read-only arrays, and nothing writes to this one.
        array: np.ndarray = droppable(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.", INGEST_AGAIN) from None
    if len(array) != count:
        raise ArtefactError(
            f"{path} holds {len(array)} samples, {SAMPLES.within()} {count}.",
            INGEST_AGAIN,
        )
    return array
