"""Options of the commands that read or write a data set, as ``options`` has those of the others."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from metaselect.errors import UsageError
from metaselect.options import not_in_key, require_range

DEFAULT_ENCODER = "efficientnet-lite0"
"""The encoder that needs no download."""


AUTO, PIXELS, ENCODED = "auto", "pixels", "encoded"
"""Values of --store."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read a data set, the same for training and test data.

    Attributes:
        id_column: None: ``sample_id``, else ``id``, else ids are hashes.
        label_column: the given label.
        image_column: path relative to the manifest, bytes, or {bytes, path}.
        feature_columns: a glob over numeric columns, or None for the list column ``features``.
        on_bad_sample: "stop" or "skip".
        split: of a folder of Parquet files that are named by split, the one to read.
        image_folder: the folder of the images that a manifest names; None: the manifest's own.
        image_suffix: what a manifest's names of images lack at their end, such as ".jpg".
        features: a Parquet file of sample_id and features, joined with the data.
        allow_outside: read images that are links, or paths, to outside of their folder.
    """

    id_column: str | None = None
    label_column: str = "label"
    image_column: str = "image"
    feature_columns: str | None = None
    on_bad_sample: str = "stop"
    split: str | None = None
    image_folder: Path | None = not_in_key(None)
    image_suffix: str = ""
    features: Path | None = not_in_key(None)
    allow_outside: bool = False


@dataclass(frozen=True)
class IngestOptions(ReadOptions):
    """`ingest`.

    Attributes:
        image_size: pixels, height and width alike; None: the images' own where they agree.
        fit: "crop", "pad" or "squash", how images of other proportions are brought to that size.
        pixel_range: of images of more than 8 bits, the values that become 0 and 255; None: a rule over the pool.
        store: "pixels", "encoded" or "auto", how the run has the images.
        limit: a seeded subset of this many samples.
        classes: all of them, in their order; empty: those of the labels.
        dry_run: say what it takes, and write nothing.
    """

    image_size: int | None = None
    fit: str = "crop"
    pixel_range: tuple[float, float] | None = None
    store: str = AUTO
    limit: int | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0
    force: bool = not_in_key(False)
    dry_run: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("image-size", self.image_size, 4, 4096)
        require_range("limit", self.limit, 1)
        require_pixel_range(self.pixel_range)


@dataclass(frozen=True)
class EmbedOptions(ReadOptions):
    """`embed`.

    Attributes:
        encoder: as ``encoders.load`` names them.
        encoder_weights: a file in place of the encoder's own weights.
        zero_shot: a prompt for class probabilities beside the features.
        pixel_range: as that of `ingest`.
        batch_size: it changes the last digits of the features; None: by the device.
        amp: bfloat16 autocast; None: on CUDA.
    """

    encoder: str = DEFAULT_ENCODER
    encoder_weights: Path | None = not_in_key(None)
    zero_shot: str | None = None
    pixel_range: tuple[float, float] | None = None
    batch_size: int | None = None
    amp: bool | None = None
    device: str = not_in_key("auto")
    force: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("batch-size", self.batch_size, 1)
        require_pixel_range(self.pixel_range)


@dataclass(frozen=True)
class CorruptOptions(ReadOptions):
    """`corrupt`; see ``data.corruption`` for what each kind of noise does."""

    noise: str = "none"
    rate: float = 0.0
    imbalance: float = 1.0
    background: str | None = None
    mapping: str | None = None
    labels: Path | None = not_in_key(None)
    labels_column: str | None = None
    seed: int = 0
    force: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("rate", self.rate, 0, 1)
        require_range("imbalance", self.imbalance, 1)


@dataclass(frozen=True)
class SplitOptions(ReadOptions):
    """`split`.

    Attributes:
        test: the share of the samples that become the test set, between 0 and 1.
        group_column: samples with one value in it stay together; None: there is none.
    """

    test: float = 0.2
    group_column: str | None = None
    seed: int = 0
    force: bool = not_in_key(False)

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise UsageError(f"--test is {self.test:g}; it must be between 0 and 1.", "Such as --test 0.2")


@dataclass(frozen=True)
class EvaluateOptions(ReadOptions):
    """`evaluate`.

    Attributes:
        name: the folder below ``evaluate/``; None: from the test set's file name.
        k: how many of the first samples of a ranking are judged; None: as many as there are wrong labels.
        leave_out_overlap: judge the models without the test samples that are in the pool too, or near duplicates of
            samples there.
        no_images: the report shows none; None: it shows those of the samples.
        workers: processes that decode encoded images ahead; 0: none, None: by the machine.
        dry_run: say what it takes, and write nothing.
    """

    truth: Path | None = not_in_key(None)
    name: str | None = not_in_key(None)
    k: int | None = None
    leave_out_overlap: bool = False
    no_images: bool | None = None
    device: str = not_in_key("auto")
    workers: int | None = not_in_key(None)
    force: bool = not_in_key(False)
    dry_run: bool = not_in_key(False)

    def __post_init__(self) -> None:
        require_range("k", self.k, 1)


def require_pixel_range(pixel_range: tuple[float, float] | None) -> None:
    """Check that a range is finite and not empty; None is allowed.

    Raises:
        UsageError: it is not.
    """
    if pixel_range is not None:
        low, high = pixel_range
        if not (isfinite(low) and isfinite(high) and low < high):
            raise UsageError(
                f"--pixel-range is {low:g},{high:g}; it must be LOW,HIGH with LOW below HIGH.",
                "Give the values that become black and white, such as 0,4095.",
            )


@dataclass(frozen=True)
class CleanedDataOptions:
    """`export`.

    Attributes:
        name: of the re-weighting; None: `auto`, else the only one.
        keep_above: weight from which on a given label is kept.
        relabel_above: probability from which on a suggested label replaces a doubted one.
        drop_below: weight below which a doubted sample without such a suggestion is left out.
        format: of the table, "parquet" or "csv".
        images: a layout of ``stages.export.images``; None: no images.
        link: symbolic links instead of copies.
        force: replace an earlier export.
    """

    name: str | None = None
    keep_above: float = 0.5
    relabel_above: float = 0.9
    drop_below: float = 0.0
    format: str = "parquet"
    images: str | None = None
    link: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        require_range("keep-above", self.keep_above, 0, 1)
        require_range("relabel-above", self.relabel_above, 0, 1)
        require_range("drop-below", self.drop_below, 0, 1)
        if self.drop_below > self.keep_above:
            raise UsageError(
                f"--drop-below {self.drop_below:g} is above --keep-above {self.keep_above:g}.",
                "A label that is kept is not left out: choose a lower --drop-below.",
            )
        if self.link and self.images is None:
            raise UsageError(
                "--link is for images, and there are none without --images.", "Add --images folder."
            )


@dataclass(frozen=True)
class FanoutOptions:
    """`fanout`.

    Attributes:
        name: of the re-weighting; None: `auto`, else the only one.
        accept: probability from which on an offer is accepted; None: none is.
        force: compute again.
    """

    name: str | None = None
    accept: float | None = None
    force: bool = not_in_key(False)

    def __post_init__(self) -> None:
        if self.accept is not None:
            require_range("accept", self.accept, 0, 1)
