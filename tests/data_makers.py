"""Small data sets in every form, and ways to run commands on them."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from metaselect.data.classes import class_metadata
from metaselect.data.listing import Listing, list_samples, open_source
from metaselect.data.readers.base import BadSamples, UnusableContent
from metaselect.data.rewrite import IMAGE_TYPE
from metaselect.data_options import IngestOptions, ReadOptions
from metaselect.errors import DataError
from metaselect.models.predictions import Predictions
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import Labels, Method, Start
from metaselect.reweighting.evidence import Evidence, Space
from metaselect.run.layout import Run
from metaselect.stages.ingest import ingest
from metaselect.training.batches import Batches
from metaselect.training.loop import EpochLog, TrainingConfig, TrainState, start_training, train

CLASSES = ("cat", "dog", "owl")


@dataclass
class Listener:
    """A Reporter that keeps what it hears."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tracked: list[tuple[str, int, int]] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def track(self, total: int, what: str, unit: str, done: int = 0) -> Any:
        del unit
        self.tracked.append((what, done, total))
        yield lambda count, detail="": None


@dataclass(frozen=True)
class Picture:
    """One sample: path, label and encoded bytes."""

    path: str
    label: str
    raw: bytes


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()


METHODS: dict[str, Method] = {name: configure(path, []) for name, path in REWEIGHTERS.items()}
KINDS = (
    *("auto", "direct", "l2rw", "mw-net", "fsr", "elr", "s-model", "glc", "mixup", "resample"),
    *("mentornet", "co-teaching", "clean-only", "uniform"),
)
"""One for each way of training, for tests that take too long with every method."""
META = sorted(name for name, method in METHODS.items() if method.meta_batch_size(None, 8, 8))
"""Those that have a meta batch."""


def start_of(
    labels: torch.Tensor,
    *,
    method: Method | None = None,
    epochs: int = 5,
    lr: float = 0.1,
    bought: torch.Tensor | None = None,
    stream: torch.Generator | None = None,
    evidence: Evidence | None = None,
) -> Start:
    """Of a run on a pool with these labels, (n,) int64; without bought ones, and as if excluding them, by default.

    A quarter of the labels are wrong by the truth.
    """
    bought = torch.empty(0, dtype=torch.int64) if bought is None else bought
    trained = torch.ones(len(labels), dtype=torch.bool)
    trained[bought] = method is not None and not method.excludes_bought
    known = Labels(labels, int(labels.max()) + 1, trained.nonzero()[:, 0], bought)
    evidence = evidence or evidence_of(labels, bought)
    truth = torch.where(torch.arange(len(labels)) % 4 == 3, (labels + 1) % known.classes, labels)
    return Start(known, epochs, lr, stream or torch.Generator(), torch.device("cpu"), evidence, truth)


def evidence_of(labels: torch.Tensor, bought: torch.Tensor) -> Evidence:
    """Of a pool in which half of the given labels are the class after the true one, as bought labels show.

    Args:
        labels: (n,) int64, bought labels in place.
        bought: (m,) int64.
    """
    n, classes, draw = len(labels), int(labels.max()) + 1, torch.Generator().manual_seed(5)
    is_bought = torch.zeros(n, dtype=torch.bool)
    is_bought[bought] = True
    moved = (torch.arange(n) // classes % 2 == 0).long()
    given = (labels + moved * is_bought) % classes
    true = (labels - moved * ~is_bought) % classes
    fold = torch.arange(n) // 2 % 2
    spaces = tuple(
        Space(4 * nn.functional.one_hot(true, classes) + torch.randn(n, classes, generator=draw), members)
        for members in ((fold == 0).nonzero()[:, 0], (fold == 1).nonzero()[:, 0])
    )
    mixed = sum(nn.functional.one_hot((true + step) % classes, classes).float() for step in (0, 1))
    probs, fitted = ((2 * mixed + torch.randn(n, classes, generator=draw)).softmax(1) for _ in range(2))
    return Evidence(given, probs, fitted, spaces, improving=True)


STATEFUL = [
    name for name, method in METHODS.items() if method.begin(start_of(torch.arange(24) % 3)).state_dict()
]
"""The methods whose runs save something."""


def predictions_of(losses: torch.Tensor) -> Predictions:
    """Of a model whose losses, (n,), are these; the rest as if every label were the most probable class."""
    n, probs = len(losses), (-losses).exp()
    return Predictions(
        losses, torch.zeros(n, dtype=torch.int64), probs, probs, torch.ones(n, dtype=torch.bool)
    )


class EveryState(nn.Module):
    """Has all that a resumed run must bring back: parameters, running statistics, dropout masks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def plan(**changes: Any) -> TrainingConfig:
    """Of a short training on few samples."""
    defaults: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 8,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "augment": "weak",
        "amp": False,
        "seed": 0,
    }
    return TrainingConfig(**{**defaults, **changes})


def trained(
    method: Method,
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    *,
    bought: torch.Tensor | None = None,
    stream: torch.Generator | None = None,
    evidence: Evidence | None = None,
) -> tuple[TrainState, list[EpochLog]]:
    """A whole training of a model by a method, with meta batches of up to 8 samples."""
    start = start_of(
        batches.labels,
        method=method,
        epochs=config.epochs,
        lr=config.lr,
        bought=bought,
        stream=stream,
        evidence=evidence,
    )
    state = start_training(model, config, method.begin(start))
    epochs = train(
        state,
        batches,
        config,
        ids=start.labels.trained,
        bought=start.labels.bought,
        meta_batch_size=method.meta_batch_size(8, config.batch_size, len(start.labels.bought)),
        report=Listener(),
        what="reweight",
    )
    return state, list(epochs)


def pictures(count: int = 12, classes: Sequence[str] = CLASSES, side: int = 6) -> list[Picture]:
    """Grey noise, each another; labels in turn."""
    noise = np.random.default_rng(7).integers(0, 256, (count, side, side), dtype=np.uint8)
    labels = [classes[number % len(classes)] for number in range(count)]
    return [
        Picture(f"{label}/p{number:03d}.png", label, encode(noise[number]))
        for number, label in enumerate(labels)
    ]


def photographs(count: int, *, deep: bool = False) -> list[Picture]:
    """Pictures of two classes and two sizes, in colour as JPEG and PNG, or grey ones of 16 bits."""
    draw = np.random.default_rng(3)
    samples = []
    for number in range(count):
        label, size = ("cat", "dog")[number % 2], (12, 10) if number % 3 else (9, 14)
        if deep:
            pixels = draw.integers(0, 4096, size).astype(np.uint16)
        else:
            pixels = draw.integers(0, 200, (*size, 3), dtype=np.uint8)
            pixels[..., number % 2] += 50
        kind = "PNG" if deep or number % 4 else "JPEG"
        samples.append(Picture(f"{label}/p{number:02d}.{kind.lower()}", label, encode(pixels, kind)))
    return samples


def write_images(folder: Path, samples: Sequence[Picture]) -> Path:
    for sample in samples:
        path = folder / sample.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.raw)
    return folder


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return path


def write_struct(
    path: Path,
    samples: Sequence[Picture],
    *,
    ids: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    with_path: bool = True,
    group: int = 5,
) -> Path:
    """A Parquet manifest with bytes inside; ``names`` makes a ClassLabel of the label."""
    table: dict[str, Any] = {"sample_id": list(ids)} if ids is not None else {}
    table["image"] = pa.array(
        [{"bytes": sample.raw, "path": sample.path if with_path else None} for sample in samples], IMAGE_TYPE
    )
    labels = [sample.label for sample in samples]
    table["label"] = [names.index(label) for label in labels] if names else labels
    made = pa.table(table)
    if names:
        made = made.replace_schema_metadata(class_metadata("label", names, {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=group)
    return path


def stage_bytes(folder: Path, *, leave: Sequence[str] = ("stage.json",)) -> dict[str, bytes]:
    """File name -> bytes of a stage folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in leave}


def metaselect(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command line."""
    environment = {name: value for name, value in os.environ.items() if name != "METASELECT_RUN"}
    command = [sys.executable, "-m", "metaselect", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def json_of(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def listed(path: Path, policy: str = "stop", **options: Any) -> Listing:
    return list_samples(open_source(path, ReadOptions(**options)), BadSamples(policy))


def refused(path: Path, **options: Any) -> str:
    """The message with which listing and reading the data is refused."""

    def read_all() -> None:
        listing = listed(path, **options)
        for position, content in listing.source.contents(listing.keep):
            if isinstance(content, UnusableContent):
                BadSamples("stop").add(listing.bad(position, content.reason))

    with pytest.raises(DataError) as caught:
        read_all()
    assert caught.value.hint
    return str(caught.value)


def made(data: Path, root: Path, ears: Listener | None = None, **options: Any) -> Run:
    run = Run(root)
    ingest(data, run, IngestOptions(**options), ears or Listener())
    return run


def samples_table(run: Run) -> list[dict[str, object]]:
    return pq.read_table(run.path("data/samples.parquet")).to_pylist()


def truth_options(run: Run, method: str) -> dict[str, Any]:
    """The options of `reweight` that tell a method the truth, if it needs it: every fourth label is wrong."""
    if not METHODS[method].needs_truth:
        return {}
    names = sorted({str(row["given_label"]) for row in samples_table(run) if row["given_label"]})
    rows = []
    for number, row in enumerate(samples_table(run)):
        place = names.index(str(row["given_label"] or names[0]))
        rows.append((row["sample_id"], names[(place + (number % 4 == 3)) % len(names)]))
    path = run.root.parent / f"truth-of-{run.root.name}.csv"
    return {"oracle_truth": write_rows(path, ["sample_id", "clean_label"], rows)}


def ids_of(count: int) -> list[str]:
    return [f"i{number:03d}" for number in range(count)]


def stream_of(raw: bytes) -> io.BytesIO:
    return io.BytesIO(raw)
