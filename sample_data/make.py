"""Makes the sample data: real handwritten digits with 60 % wrong labels, and the truth beside them.

    python sample_data/make.py --seed 0 -o sample_data

1,797 images of 8 x 8 pixels from scikit-learn; 1,437 to train, 360 to test, the share of each class alike.
The labels are changed by the real command line: ``metaselect corrupt --noise adversarial --rate 0.6``. The
same seed gives the same bytes; other seeds give other splits and other wrong labels. ``--rate 0``
leaves all labels right.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from metaselect.data.classes import class_metadata
from metaselect.data.rewrite import IMAGE_TYPE, OTHERS

TEST_COUNT = 360
SPLIT_STREAM = 17  # keeps the split apart from other uses of the seed


def main() -> None:
    """Write train.parquet, truth.csv and test.parquet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.6, help="share of wrong labels")
    parser.add_argument("-o", "--out", type=Path, default=Path("sample_data"))
    arguments = parser.parse_args()
    images, labels = load_digits(return_X_y=True)  # (1797, 64) float in 0..16, (1797,) int
    test = stratified(labels, TEST_COUNT, np.random.default_rng([arguments.seed, SPLIT_STREAM]))
    train = np.setdiff1d(np.arange(len(labels)), test)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out / "test.parquet", test, images, labels)
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.parquet"
        write(clean, train, images, labels)
        command = ["corrupt", clean, "-o", arguments.out, "--noise", "adversarial", "--rate", arguments.rate]
        command += ["--seed", arguments.seed, "--force"]
        subprocess.run([sys.executable, "-m", "metaselect", *map(str, command)], check=True)


def stratified(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted positions of ``count`` samples, each class with its share (largest remainders first)."""
    sizes = np.bincount(labels)
    shares = sizes * count / len(labels)
    taken = shares.astype(int)
    taken[np.argsort(taken - shares, kind="stable")[: count - taken.sum()]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == number))[:size] for number, size in enumerate(taken)
    ]
    return np.sort(np.concatenate(chosen))


def write(path: Path, positions: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
    """An image manifest with the bytes inside; ids count in scikit-learn's order and tell no class."""
    schema = pa.schema([("sample_id", pa.string()), ("image", IMAGE_TYPE), ("label", pa.int64())])
    others = {name: OTHERS[name] for name in ("sample_id", "image")}
    schema = schema.with_metadata(class_metadata("label", [str(digit) for digit in range(10)], others))
    rows = {
        "sample_id": [f"digit-{position:04d}" for position in positions],
        "image": [{"bytes": png(images[position]), "path": None} for position in positions],
        "label": labels[positions].tolist(),
    }
    pq.write_table(pa.table(rows, schema=schema), path)


def png(pixels: np.ndarray) -> bytes:
    """(64,) float in 0..16 as an 8 x 8 grey PNG, 16 white."""
    grey = np.round(pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
