"""The data sets and kinds of label noise of the programs that share ``cells.py``, and the runs that they work on.

Digits, breast_cancer and wine are scikit-learn's, split anew for each seed. The others are files below ``--data-dir``:

    mnist/{train,test}.parquet           images and labels
    cifar10/{train,test}.parquet         the same, beside human_labels.csv: id, worst, random1, aggregate (CIFAR-10N)
    cifar10_dinov2/{train,test}.parquet  features of a frozen encoder, label, worst, random1, aggregate

Of MNIST and CIFAR-10 a random subset of the training images is taken, another one for each seed, unless all of them are
asked for; a long tail is cut from all of them. Test sets are whole.

CIFAR-10N: Wei, Zhu, Cheng, Liu, Niu, Liu 2022 (arXiv:2110.12088). The asymmetric noise of digits is that of Patrini,
Rozza, Menon, Nock, Qu 2017 (arXiv:1609.03683), section 5; so is CIFAR-10's.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import MAKE, in_process, write_subset
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split

from metaselect.data.classes import class_metadata
from metaselect.data.corruption import CIFAR10_PAIRS
from metaselect.run.artefacts import META_SET, RECORD
from metaselect.run.files import write_csv

NOISES: dict[str, tuple[str, ...]] = {
    "none": (),
    "uniform-10": ("--noise", "uniform", "--rate", "0.1"),
    "uniform-20": ("--noise", "uniform", "--rate", "0.2"),
    "uniform-40": ("--noise", "uniform", "--rate", "0.4"),
    "uniform-60": ("--noise", "uniform", "--rate", "0.6"),
    "uniform-80": ("--noise", "uniform", "--rate", "0.8"),
    "flip2-40": ("--noise", "flip2", "--rate", "0.4"),
    "background-40": ("--noise", "background", "--rate", "0.4"),
    "asymmetric-20": ("--noise", "asymmetric", "--rate", "0.2"),
    "asymmetric-40": ("--noise", "asymmetric", "--rate", "0.4"),
    "adversarial-40-shift": ("--noise", "adversarial", "--rate", "0.4"),
    "adversarial-60-shift": ("--noise", "adversarial", "--rate", "0.6"),
    "adversarial-60-derangement": ("--noise", "adversarial", "--rate", "0.6", "--map", "random"),
    "adversarial-80-derangement": ("--noise", "adversarial", "--rate", "0.8", "--map", "random"),
    "human-worst": ("--noise", "human", "--labels-column", "worst"),
    "human-random1": ("--noise", "human", "--labels-column", "random1"),
    "human-aggregate": ("--noise", "human", "--labels-column", "aggregate"),
    "longtail-100": ("--imbalance", "100"),
    "longtail-200": ("--imbalance", "200"),
    "longtail-100-uniform-20": ("--imbalance", "100", "--noise", "uniform", "--rate", "0.2"),
}
"""Options of `corrupt` by the name of the noise. What depends on the data is added by ``noise_options``."""
CLEAN = ("none", "longtail-100", "longtail-200")
"""Settings without a wrong label."""
NOT_IN_TABLE = (
    *("uniform-20", "uniform-60", "uniform-80", "asymmetric-20", "longtail-200"),
    *("adversarial-40-shift", "adversarial-80-derangement", "human-aggregate"),
)
"""Kinds that ``frozen_features.py`` and ``paper_tables.py`` alone run."""

DIGITS = tuple("0123456789")
PATRINI_PAIRS = {"2": "7", "3": "8", "5": "6", "6": "5", "7": "1"}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEST_SHARE = 0.2  # of scikit-learn's tables of features
NO_PEOPLE = dict.fromkeys(
    ("human-worst", "human-random1", "human-aggregate"),
    "Labels of people are known for CIFAR-10's images alone.",
)
NO_TAIL = dict.fromkeys(
    ("longtail-100", "longtail-200", "longtail-100-uniform-20"),
    "A class has fewer than 100 samples, so none can be 100 times smaller.",
)
TWO_CLASSES = {
    "flip2-40": "It needs three classes.",
    "adversarial-60-derangement": "Two classes have one derangement, the shift.",
}


@dataclass(frozen=True)
class Source:
    """Where the data come from.

    Attributes:
        folder: --data-dir, or None where no file is needed.
        images: training images of MNIST and CIFAR-10.
        full: --full, the papers' training on CIFAR-10.
    """

    folder: Path | None
    images: int
    full: bool = False

    def file(self, name: str) -> Path:
        """A file below the folder."""
        if self.folder is None or not (self.folder / name).is_file():
            raise SystemExit(f"There is no {name} in --data-dir {self.folder}. See --help for the files.")
        return self.folder / name


Writer = Callable[[Source, int, Path], None]
"""(source, seed, folder): writes train.parquet and test.parquet, all labels right, and human_labels.csv where known."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the table.

    Attributes:
        classes: K names, in the order of their numbers.
        write: its files for one seed.
        pairs: class that the samples of a class change to under asymmetric noise; the other classes stay right.
        pool: samples of the pool, without a long tail; None: ``Source.images``.
        folder: below --data-dir, of the training images that a long tail is cut from; "": there are no more of them.
        warmup: options of `warmup`.
        full: options of every training with --full.
        left_out: kinds of noise that are not run, each with the reason.
    """

    classes: tuple[str, ...]
    write: Writer
    pairs: Mapping[str, str]
    pool: int | None = None
    folder: str = ""
    warmup: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def _write_digits(source: Source, seed: int, folder: Path) -> None:
    command = [sys.executable, str(MAKE), "--seed", str(seed), "--rate", "0", "-o", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _write_images(name: str) -> Writer:
    def write(source: Source, seed: int, folder: Path) -> None:
        rng = np.random.default_rng(seed)
        train = source.file(f"{name}/train.parquet")
        if source.images == pq.ParquetFile(train).metadata.num_rows:
            shutil.copyfile(train, folder / "train.parquet")  # all of them, in the order of the file
        else:
            write_subset(train, folder / "train.parquet", source.images, rng)
        shutil.copyfile(source.file(f"{name}/test.parquet"), folder / "test.parquet")
        if name == "cifar10":
            shutil.copyfile(source.file(f"{name}/human_labels.csv"), folder / "human_labels.csv")

    return write


def _write_dinov2(source: Source, seed: int, folder: Path) -> None:
    rows = pq.read_table(source.file("cifar10_dinov2/train.parquet"))
    pq.write_table(rows.select(["sample_id", "features", "label"]), folder / "train.parquet")
    shutil.copyfile(source.file("cifar10_dinov2/test.parquet"), folder / "test.parquet")
    header = ("sample_id", "worst", "random1", "aggregate")
    columns = (rows[name].to_pylist() for name in header)
    write_csv(folder / "human_labels.csv", header, zip(*columns, strict=True))


def _write_table(load: Callable[..., tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...]) -> Writer:
    def write(source: Source, seed: int, folder: Path) -> None:
        features, labels = load(return_X_y=True)
        parts = train_test_split(
            np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed
        )
        for name, positions in zip(("train", "test"), map(np.sort, parts), strict=True):
            columns = {
                "sample_id": pa.array([f"row-{position:04d}" for position in positions]),
                "features": pa.array(list(features[positions].astype(np.float32))),
                "label": pa.array(labels[positions].astype(np.int64)),
            }
            table = pa.table(columns).replace_schema_metadata(class_metadata("label", classes, {}))
            pq.write_table(table, folder / f"{name}.parquet")

    return write


REN_TRAINING = (
    *("--model", "resnet32", "--batch-size", "100", "--epochs", "160", "--lr", "0.1", "--momentum", "0.9"),
    *("--weight-decay", "2e-4", "--schedule", "step"),
)
"""Ren et al. 2018 (arXiv:1803.09050), section 4.3: 80,000 steps, the rate divided by 10 at 40,000 and 60,000."""
WINE, BREAST_CANCER = ("class_0", "class_1", "class_2"), ("malignant", "benign")

DATA: dict[str, DataSet] = {
    "digits": DataSet(DIGITS, _write_digits, PATRINI_PAIRS, pool=1437, left_out=NO_PEOPLE),
    "mnist": DataSet(DIGITS, _write_images("mnist"), PATRINI_PAIRS, folder="mnist", left_out=NO_PEOPLE),
    "cifar10": DataSet(
        CIFAR10,
        _write_images("cifar10"),
        CIFAR10_PAIRS,
        folder="cifar10",
        warmup=("--model", "lenet"),
        full=REN_TRAINING,
    ),
    "cifar10_dinov2": DataSet(
        DIGITS,
        _write_dinov2,
        {str(CIFAR10.index(old)): str(CIFAR10.index(new)) for old, new in CIFAR10_PAIRS.items()},
        pool=1000,
    ),
    "breast_cancer": DataSet(
        BREAST_CANCER,
        _write_table(load_breast_cancer, BREAST_CANCER),
        {"malignant": "benign"},
        pool=455,
        left_out={**NO_PEOPLE, **NO_TAIL, **TWO_CLASSES},
    ),
    "wine": DataSet(
        WINE,
        _write_table(load_wine, WINE),
        {"class_0": "class_1", "class_2": "class_1"},
        pool=142,
        left_out={**NO_PEOPLE, **NO_TAIL},
    ),
}


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written whole by ``write`` unless it is there.

    Another process may write it at the same time; the first one that ends wins.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        write(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


@dataclass(frozen=True)
class Setting:
    """One draw of one kind of noise on one data set, with its files below ``work``.

    Attributes:
        data: a name of ``DATA``.
        noise: a name of ``NOISES``.
        seed: of the split, of the noise and of every stage.
        source: where the data come from.
        work: folder for all settings.
    """

    data: str
    noise: str
    seed: int
    source: Source
    work: Path

    @property
    def title(self) -> str:
        """The name of the data set, with the number of images where that can be chosen, and -full where that counts."""
        if DATA[self.data].pool:
            return self.data
        return f"{self.data}-{self.source.images}{'-full' if self.full_training else ''}"

    @property
    def folder(self) -> Path:
        """Holds everything of the setting but the data with right labels, which other kinds of noise share."""
        return self.work / self.title / f"seed-{self.seed}" / self.noise

    @property
    def truth(self) -> Path:
        """The file with the true labels."""
        return self.folder / "data" / "truth.csv"

    @property
    def test(self) -> Path:
        """The test set."""
        return self.folder.parent / "right-labels" / "test.parquet"

    def warmed(self) -> Path:
        """The run after `warmup`, made if it is missing."""
        data, run = DATA[self.data], self.folder / "warmup"
        right = once(self.test.parent, lambda folder: data.write(self.source, self.seed, folder))
        if not (run / "warmup" / RECORD).is_file():
            whole = data.folder and "--imbalance" in NOISES[self.noise]
            clean = self.source.file(f"{data.folder}/train.parquet") if whole else right / "train.parquet"
            options = noise_options(self.noise, data, self.seed, right)
            seed = ("--seed", self.seed)
            in_process("corrupt", clean, "-o", self.truth.parent, "--force", *options, *seed)
            limit = () if data.pool else ("--limit", self.source.images)
            in_process("ingest", self.truth.parent / "train.parquet", "--run", run, *limit, *seed)
            in_process("warmup", "--run", run, *(self.full_training or data.warmup), *seed)
        return run

    @property
    def full_training(self) -> tuple[str, ...]:
        """Options of every training; empty without --full."""
        return DATA[self.data].full if self.source.full else ()

    def bought(self, selector: str, budget: int) -> Path:
        """A run of its own with the labels that a selector has bought, made if it is missing.

        Its data and its warm-up are those of ``warmed``, by hard links: stages replace their files and never change
        them in place.
        """
        run = self.folder / f"{selector}-{budget}"
        if not run.is_dir():
            warmed = self.warmed()
            once(run, lambda made: _link_files(warmed, made))
        if not (run / META_SET.path()).is_file():
            choice = ("--method", selector, "--budget", budget, "--seed", self.seed)
            in_process("select", "--run", run, *choice)
            in_process("annotate", "simulate", self.truth, "--run", run)
        return run


def _link_files(source: Path, copy: Path) -> None:
    ignored = shutil.ignore_patterns(".*")  # the lock and unfinished stages
    shutil.copytree(source, copy, ignore=ignored, copy_function=os.link, dirs_exist_ok=True)


def noise_options(noise: str, data: DataSet, seed: int, folder: Path) -> tuple[str | Path, ...]:
    """Options of `corrupt`, with those that depend on the data: each seed has another class as background."""
    options: tuple[str | Path, ...] = NOISES[noise]
    if "background" in options:
        options = (*options, "--background", data.classes[seed % len(data.classes)])
    if "human" in options:
        options = (*options, "--labels", folder / "human_labels.csv")
    if "asymmetric" in options:
        pairs = folder / "pairs.csv"
        if not pairs.is_file():
            write_csv(pairs, ("from", "to"), sorted(data.pairs.items()))
        options = (*options, "--map", pairs)
    return options


def left_out(names: list[str], noises: list[str]) -> list[str]:
    """A sentence for each reason for which a data set is not run with some kinds of noise."""
    sentences = []
    for name in names:
        reasons = DATA[name].left_out
        for reason in dict.fromkeys(reasons[noise] for noise in noises if noise in reasons):
            kinds = [noise for noise in noises if reasons.get(noise) == reason]
            sentences.append(f"{name} with {' and '.join(kinds)}. {reason}")
    return sentences
