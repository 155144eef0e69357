"""A pool of photographs that stay encoded: the same model whatever the processes, after a kill too, and what it costs.

    python benchmarks/encoded_store.py --images 20000

Photographs of 400 x 300 pixels are made on the fly: a smooth field, grain, and a figure whose form and colour are the
class. One run stores their pixels, the others leave them encoded, decoded by one process, by two, and by two whose
command is killed in its second epoch and started again. Prints seconds, photographs a second and bytes on disk, and
compares the models.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from safetensors import safe_open

from metaselect.data.store import load_images
from metaselect.data.stored.images import EncodedImages
from metaselect.run.layout import Run
from metaselect.training.decoding.ahead import decode_ahead

WIDTH, HEIGHT, QUALITY = 400, 300, 85
FORMS = ("ellipse", "rectangle", "triangle", "cross", "ring")
COLOURS = ((190, 90, 80), (80, 110, 190))
CLASSES = [f"{form}-{number}" for form in FORMS for number in range(len(COLOURS))]
DECODED = 2_000  # photographs in a measurement of decoding alone
CHUNK = 128


def draw_figure(picture: Image.Image, form: str, colour: tuple[int, ...], draw: np.random.Generator) -> None:
    """Draw the figure of a class somewhere on the picture."""
    side = int(draw.integers(110, 180))
    left, top = int(draw.integers(0, WIDTH - side)), int(draw.integers(0, HEIGHT - side))
    box, pen = (left, top, left + side, top + side), ImageDraw.Draw(picture)
    third = side // 3
    if form == "ellipse":
        pen.ellipse(box, colour)
    elif form == "rectangle":
        pen.rectangle(box, colour)
    elif form == "triangle":
        pen.polygon([(left, top + side), (left + side, top + side), (left + side // 2, top)], colour)
    elif form == "cross":
        pen.rectangle((left + third, top, left + 2 * third, top + side), colour)
        pen.rectangle((left, top + third, left + side, top + 2 * third), colour)
    else:
        pen.ellipse(box, outline=colour, width=third // 2)


def make_photograph(number: int, folder: Path, seed: int) -> None:
    """Write one photograph below the folder of its class."""
    draw = np.random.default_rng((seed, number))
    name = CLASSES[number % len(CLASSES)]
    form, shade = name.rsplit("-", 1)
    field = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = field.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    colour = tuple(int(each) for each in np.clip(COLOURS[int(shade)] + draw.normal(0, 15, 3), 0, 255))
    draw_figure(picture, form, colour, draw)
    grain = Image.fromarray(draw.integers(0, 256, (HEIGHT // 2, WIDTH // 2, 3), dtype=np.uint8))
    picture = Image.blend(picture.filter(ImageFilter.GaussianBlur(0.7)), grain.resize((WIDTH, HEIGHT)), 0.12)
    picture.save(folder / name / f"{number:06d}.jpg", quality=QUALITY)


def make_photographs(folder: Path, count: int, seed: int) -> None:
    """Write all photographs, in as many processes as there are cores."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(partial(make_photograph, folder=folder, seed=seed), range(count), chunksize=100):
            pass


def command(*words: object) -> list[str]:
    """The words of a process."""
    return [sys.executable, "-m", "metaselect", *map(str, words)]


def seconds_of(run: Path, stage: str) -> float:
    """How long a finished stage took, by its record."""
    record: dict[str, Any] = json.loads((run / stage / "stage.json").read_text())
    return float(record["details"]["seconds"])


def killed_in_second_epoch(words: Sequence[object], run: Path) -> float:
    """Start the command, and kill it once an epoch is done and another one has begun; the seconds that it ran."""
    started = time.monotonic()
    process = subprocess.Popen(command(*words))
    state = run / ".work/warmup/resume.safetensors"
    while not (state.is_file() and _epoch(state) >= 1):
        if process.poll() is not None:
            raise RuntimeError("it ended before it could be killed")
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return time.monotonic() - started


def _epoch(state: Path) -> int:
    with safe_open(state, "numpy") as file:
        return int(file.metadata()["epoch"])


def model_digest(run: Path) -> str:
    """SHA-256 over the checkpoints and predictions of the warm-up."""
    digest = hashlib.sha256()
    for path in sorted((run / "warmup").rglob("*")):
        if path.suffix in (".safetensors", ".parquet"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def disk(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def decoding_rates(run: Path) -> dict[int, float]:
    """Photographs a second that are decoded and resized, by number of processes; 0: threads of one process."""
    count = len(np.load(run / "data/encoded.npy", mmap_mode="r"))
    rates = {}
    for workers in (0, 1, 2, 4):
        images = load_images(Run(run), count, workers)
        assert isinstance(images, EncodedImages)
        rows = np.random.default_rng(0).permutation(count)[:DECODED]
        chunks = np.array_split(rows, max(len(rows) // CHUNK, 1))
        started = time.monotonic()
        for _ in decode_ahead(images, chunks):
            pass
        rates[workers] = len(rows) / (time.monotonic() - started)
    return rates


def measure(place: Path, options: argparse.Namespace) -> None:
    """Make the photographs and all runs below ``place``, and print what they came to."""
    photographs, n = place / "photographs", options.images
    started = time.monotonic()
    make_photographs(photographs, n, options.seed)
    originals = disk(photographs)
    print(f"{n} photographs made in {time.monotonic() - started:.0f} s; {originals / 1e6:.0f} MB", flush=True)
    ingested = {}
    for store in ("pixels", "encoded"):
        reading = ("ingest", photographs, "--store", store, "--image-size", options.image_size)
        subprocess.run(command(*reading, "--run", place / store), check=True)
        ingested[store] = seconds_of(place / store, "data")
        size = disk(place / store)
        print(f"{store}: ingested in {ingested[store]:.0f} s; the run has {size / 1e6:.1f} MB", flush=True)
    for processes, rate in decoding_rates(place / "encoded").items():
        print(f"decoding alone, --workers {processes}: {rate:.0f} photographs/s", flush=True)
    warmup = (
        "warmup",
        "--model",
        options.model,
        "--epochs",
        options.epochs,
        "--checkpoints",
        1,
        "--folds",
        0,
    )
    seen = n * (options.epochs * 0.9 + 1)  # a tenth is held out, and all are predicted at the end
    digests = {}
    for name, store, workers in (
        ("pixels", "pixels", None),
        ("encoded, 1 worker", "encoded", 1),
        ("encoded, 2 workers", "encoded", 2),
        ("encoded, 2 workers, killed and resumed", "encoded", 2),
    ):
        run = place / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(place / store, run)
        words = [*warmup, *([] if workers is None else ["--workers", workers]), "--run", run]
        before = killed_in_second_epoch(words, run) if "killed" in name else 0.0
        subprocess.run(command(*words), check=True)
        seconds = seconds_of(run, "warmup")
        digests[name] = model_digest(run)
        spent = f"{before:.0f} s, then {seconds:.0f} s" if before else f"{seconds:.0f} s"
        per_second = "" if before else f", {seen / seconds:.0f} photographs/s"
        print(f"{name}: warm-up in {spent}{per_second}; sha256 {digests[name][:16]}", flush=True)
        result = json.loads((run / "warmup/stage.json").read_text())["details"]["result"]
        print(f"    held-out accuracy {result['held_out_accuracy_on_given_labels']:.3f}", flush=True)
    print("all models equal to the byte:", len(set(digests.values())) == 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), parser.parse_args())
