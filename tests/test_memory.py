"""--max-memory and --max-gpu-memory: what fits has the same bytes, what does not is refused, a peak is told."""

import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import SELECT, TEST, TRAIN, metaselect, run_process, tree
from torch import nn

from metaselect import memory
from metaselect.cli import main as program
from metaselect.data.readers.columnar import READ_ROWS, read_batches
from metaselect.data.stored.preprocess import Preprocess
from metaselect.data.summary import statistics
from metaselect.errors import ResourceError, UsageError
from metaselect.features.extract import gradient_features, last_layer_factors
from metaselect.features.near_duplicates import near_duplicates_between, similar_samples
from metaselect.memory import (
    CHOSEN_BY,
    FREED,
    MIB,
    Need,
    droppable,
    limited,
    limits,
    parse_size,
    require_memory,
    resident,
)
from metaselect.models.predictions import Predictions
from metaselect.records import SilentReporter
from metaselect.selection.gbc import GBC
from metaselect.training import batches as batches_module
from metaselect.training.batches import Batches
from metaselect.training.device import choose_device
from metaselect.training.predict import EVALUATION_BATCH, predict

CPU = torch.device("cpu")


class Notes(SilentReporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def settled(root: Path) -> dict[str, bytes]:
    """Every file of a run that is the same each time."""
    return tree(root, leave=(".lock", "stage.json", "run.json"))


def peak_memory(stage: Path) -> Any:
    return json.loads((stage / "stage.json").read_text())["details"]["peak_memory"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 20,000 samples with 2,000 numbers each: 153 MiB as an array."""
    draw = np.random.default_rng(0)
    columns = [
        ("sample_id", pa.string()),
        ("features", pa.list_(pa.float32(), 2000)),
        ("label", pa.int64()),
    ]
    path = tmp_path_factory.mktemp("wide") / "pool.parquet"
    with pq.ParquetWriter(path, pa.schema(columns), compression="none") as writer:
        for start in range(0, 20_000, 1000):
            values = pa.array(draw.standard_normal(1000 * 2000, dtype=np.float32))
            lists = pa.FixedSizeListArray.from_arrays(values, 2000)
            ids = pa.array([f"s{number:05d}" for number in range(start, start + 1000)])
            labels = pa.array(np.arange(1000) % 2)
            writer.write_table(pa.table([ids, lists, labels], schema=pa.schema(columns)))
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 2**32),
        ("512M", 2**29),
        ("1.5GiB", 3 * 2**29),
        ("2 gb", 2**31),
        ("700k", 700 * 1024),
        ("4096", 4096),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4X", "", "0", "-1G", "4P", "much", "0.1"])
def test_what_is_no_size_is_a_usage_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no size of memory"):
        parse_size(text)
    refused = metaselect("status", f"--max-memory={text}", run=tmp_path, code=2)
    assert "Write it as 4G, 512M or 1.5GiB." in refused.err


def test_pages_of_a_mapped_array_are_dropped_and_their_bytes_are_kept(tmp_path: Path) -> None:
    with limited(2**40, SilentReporter()):
        array = droppable(
            np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(64, MIB))
        )
        array[:] = np.arange(64, dtype=np.uint8)[:, None]
        before = resident().mapped
        limits().drop_pages()
        assert resident().mapped < before - 48 * MIB
        assert (array[:, 5] == np.arange(64)).all()
        del array
        limits().drop_pages()  # of nothing
    assert limits().memory is None


def test_a_peak_above_the_limit_is_told_and_recorded() -> None:
    report = Notes()
    with limited(MIB, report):
        assert memory.recorded_memory()["limit_mib"] == 1
    assert re.fullmatch(r"The command took .* of memory, more than --max-memory 1 MiB\.", report.warnings[0])
    assert memory.recorded_memory().keys() == {"process_mib"}
    with limited(2**40, report):
        pass
    assert len(report.warnings) == 1


def test_what_does_not_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    require_memory(Need(2**50), "All", "None.")  # without a limit nothing is refused
    with limited(2**40, SilentReporter()):
        require_memory(Need(2**30), "This", "None.")
        with pytest.raises(
            ResourceError, match=r"That needs about 2\d{3}.* GiB of memory, and --max-memory is 1024.0 GiB"
        ):
            require_memory(Need(2**41), "That", "None.")
    refused = metaselect("ingest", TRAIN, "--max-memory", "30M", run=tmp_path / "run", code=5)
    assert "An ingest of 1,437 samples needs about" in refused.err
    assert "--limit" in refused.err
    assert settled(tmp_path / "run") == {}


@pytest.mark.parametrize(
    "words",
    [
        (*SELECT, "--round", "next"),
        ("evaluate", TEST, "--force"),
        ("reweight", "--method", "uniform", "--name", "other"),
        ("warmup", "--force"),
        ("status",),
        ("annotate", "import", "ANSWERS"),
        ("export", "-o", "OUT"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_a_limit_that_is_too_small(
    words: tuple[object, ...], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "answers.csv").write_text("sample_id,clean_label\n")
    places = {"ANSWERS": tmp_path / "answers.csv", "OUT": tmp_path / "out"}
    before = settled(finished)
    refused = metaselect(
        *(places.get(str(word), word) for word in words), "--max-memory", "20M", run=finished, code=5
    )
    assert re.search(r"needs about .* of memory, and --max-memory is 20 MiB\.", refused.err)
    assert re.search(r"--max-memory \d+M is enough\.", refused.err)
    assert settled(finished) == before


def test_an_ingest_within_a_limit_has_the_same_bytes(wide: Path, tmp_path: Path) -> None:
    needs = run_process("ingest", wide, "--dry-run", "--json", run=tmp_path / "free").json["needs"]
    limit = math.ceil(needs["least_memory_mib"])
    run_process("ingest", wide, run=tmp_path / "free")
    done = run_process("ingest", wide, "--max-memory", f"{limit}M", run=tmp_path / "held")
    assert "Warning" not in done.err
    assert peak_memory(tmp_path / "free/data")["process_mib"] > limit + 50  # the array is mapped
    held = peak_memory(tmp_path / "held/data")
    assert held["process_mib"] <= held["limit_mib"] == limit
    assert held["allocated_mib"] < held["process_mib"]
    assert settled(tmp_path / "free") == settled(tmp_path / "held")
    metaselect("ingest", wide, run=tmp_path / "held")  # the limit is no option that the result depends on


def test_a_round_within_a_limit_has_the_same_bytes(warm: Path, tmp_path: Path) -> None:
    """And --dry-run says which limit is accepted, without writing anything."""
    before = settled(warm)
    needs = metaselect(*SELECT, "--method", "rbc", "--dry-run", "--json", run=warm).json["needs"]
    assert settled(warm) == before
    assert needs["least_memory_mib"] <= needs["memory_mib"]
    done = run_process(*SELECT, "--method", "rbc", "--max-memory", "2G", run=warm)
    assert "Warning" not in done.err
    held = settled(warm / "select")
    metaselect(*SELECT, "--method", "rbc", "--force", run=warm)
    assert settled(warm / "select") == held


def test_blocks_follow_the_limit_and_change_no_bit(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 3, 20, 24), dtype=np.uint8)
    images[7] = images[3]
    wide = draw.standard_normal((2500, 130), dtype=np.float32)
    features = draw.standard_normal((40, 30), dtype=np.float32)
    pq.write_table(pa.table({"x": [draw.bytes(5000) for _ in range(600)]}), tmp_path / "t.parquet")
    free = [len(batch) for batch in read_batches(tmp_path / "t.parquet", ["x"])]
    with limited(MIB, SilentReporter()):  # a block is at most 64 KiB
        small = [statistics(inputs) for inputs in (images, features, wide)]
        held = [len(batch) for batch in read_batches(tmp_path / "t.parquet", ["x"])]
    assert small == [statistics(inputs) for inputs in (images, features, wide)]
    assert max(held) < max(free) == READ_ROWS
    assert sum(held) == sum(free) == 600
    for inputs in (images, features):
        whole = similar_samples(inputs, CPU)
        between = near_duplicates_between(inputs[:10], inputs, CPU)
        for block in (1, 7):
            part = similar_samples(inputs, CPU, block=block)
            assert part.group.tolist() == whole.group.tolist()
            assert part.outlier is not None
            assert whole.outlier is not None
            assert part.outlier.numpy().tobytes() == whole.outlier.numpy().tobytes()
            assert near_duplicates_between(inputs[:10], inputs, CPU, block=block).tolist() == between.tolist()


class Narrow(nn.Module):
    """A classifier on a GPU that holds ``room`` samples at most."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.largest = room, 0
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.largest = max(self.largest, len(inputs))
        logits: torch.Tensor = self.head(torch.tanh(self.hidden(inputs)))
        return logits


@pytest.fixture
def pool() -> Batches:
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((700, 6), dtype=np.float32)
    ones, zeros = (1.0,) * 6, (0.0,) * 6
    labels = draw.integers(0, 3, 700)
    return Batches(inputs, labels, Preprocess("features", (), "", zeros, ones), device=CPU, channels=6)


@pytest.fixture
def narrow() -> Narrow:
    torch.manual_seed(0)
    return Narrow(60)


def test_a_full_gpu_halves_the_block_of_a_prediction_and_says_so_once(pool: Batches, narrow: Narrow) -> None:
    report, ids = Notes(), torch.randperm(700)
    with limited(None, report):
        found = predict(narrow, pool, ids)
    assert narrow.largest == 32  # 256, 128, 64, 32
    (note,) = report.notes
    assert note == "The GPU's memory ran out with blocks of 256 samples; going on with 32 at a time."
    narrow.room = EVALUATION_BATCH
    whole: Predictions = predict(narrow, pool, ids)
    assert found.predicted.tolist() == whole.predicted.tolist()
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_full_gpu_halves_the_block_of_features(pool: Batches, narrow: Narrow) -> None:
    with limited(None, Notes()):
        found = last_layer_factors(narrow, pool, SilentReporter(), "features")
    narrow.room = 1000
    for one, other in zip(found, last_layer_factors(narrow, pool, SilentReporter(), "features"), strict=True):
        torch.testing.assert_close(one, other)


def test_a_full_gpu_halves_the_block_of_gradients(pool: Batches, narrow: Narrow) -> None:
    """The layers are drawn by the energies of a smaller sample, which fits."""

    def gradients(room: int) -> Any:
        narrow.room = room
        method = GBC(sample=50, width=16)
        drawn = torch.Generator().manual_seed(0)
        return gradient_features(narrow, pool, method, drawn, report=SilentReporter(), what="")[0]  # type: ignore[arg-type]

    with limited(None, Notes()):
        found = gradients(60)
    for one, other in zip(found, gradients(1000), strict=True):
        torch.testing.assert_close(one, other)


def test_one_sample_that_does_not_fit_is_an_error_with_a_remedy(pool: Batches, narrow: Narrow) -> None:
    narrow.room = 0
    with limited(None, Notes()), pytest.raises(torch.OutOfMemoryError) as caught:
        predict(narrow, pool, torch.arange(5))
    told = program._system_error(caught.value)
    assert isinstance(told, ResourceError)
    assert str(told) == "Out of memory on the GPU."
    assert "--batch-size" in told.hint


def test_the_gpu_limit_is_torchs_and_that_of_the_resident_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *device: 4 * 2**30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    raw = torch.empty(9 * 2**30, dtype=torch.uint8, device="meta")
    cuda = torch.device("cuda")
    assert choose_device("auto", Notes()).type == "cuda"
    assert batches_module._fits(raw, cuda)
    with limited(None, Notes(), 20 * 2**30):
        choose_device("auto", Notes())
        assert not batches_module._fits(raw, cuda)  # more than half of the 16 GiB that are left
    assert shares == [0.25]
    with limited(None, Notes(), 2**50):
        choose_device("auto", Notes())
    assert shares == [0.25, 1.0]


def test_the_gpu_limit_has_no_effect_on_a_cpu(warm: Path) -> None:
    done = metaselect(
        *SELECT, "--method", "rbc", "--device", "cpu", "--max-gpu-memory", "20G", "--dry-run", run=warm
    )
    assert "--max-gpu-memory has no effect on the device cpu." in done.err


@pytest.mark.parametrize(
    "words",
    [("ingest", TRAIN), ("evaluate", TEST, "--force"), ("evaluate", "--force")],
    ids=lambda words: "-".join(map(str, words[:1] + words[2:])),
)
def test_a_dry_run_writes_nothing(words: tuple[object, ...], finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "new" if words[0] == "ingest" else finished
    before = tree(run)
    needs = metaselect(*words, "--dry-run", "--json", run=run).json["needs"]
    assert tree(run) == before
    assert run.exists() == (words[0] == "evaluate")
    assert needs["samples"] == (1437 if words[0] == "ingest" else needs["samples"])
    assert 0 < needs["least_memory_mib"] <= needs["memory_mib"]
    assert needs["disk_mib"] >= 0
    assert 0 <= needs["seconds"] < 60


PASSES = """
import resource, sys, torch
from metaselect.memory import keep_freed
if int(sys.argv[1]):
    keep_freed(int(sys.argv[1]))
def passes():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [torch.zeros(2**20 * 5) + 1 for _ in range(4)]  # 20 MiB each, freed at once
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes()
print(passes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_freed_memory_is_kept_for_the_next_pass_unless_the_user_chose_otherwise() -> None:
    def faults(size: int, **environment: str) -> int:
        chosen = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
        words = [sys.executable, "-c", PASSES, str(size)]
        found = subprocess.run(
            words, env={**chosen, **environment}, capture_output=True, text=True, check=True
        )
        return int(found.stdout)

    pages = 20 * 4 * 20 * MIB // resource.getpagesize()  # that the passes write to
    assert faults(0) > pages / 10
    assert faults(FREED) < pages / 20
    assert faults(FREED, MALLOC_TRIM_THRESHOLD_="131072") > pages / 10
