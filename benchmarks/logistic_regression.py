"""The learnt weights in another learner, scikit-learn's LogisticRegression, against none.

make demo && python benchmarks/logistic_regression.py
"""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).parent.parent


def accuracies(run: Path, test: Path) -> tuple[float, float]:
    """Test accuracy on given labels, without and with the weights of ``run/reweight/direct``."""
    weights = pq.read_table(run / "reweight/direct/weights.parquet")
    pixels = np.load(run / "data/pixels.npy").reshape(len(weights), -1) / 255
    rows = pq.read_table(test)
    images = [Image.open(io.BytesIO(cell["bytes"])) for cell in rows["image"].to_pylist()]
    test_pixels = np.stack([np.asarray(image).ravel() for image in images]) / 255
    labels = weights["given_label"].to_pylist()
    truth = [str(label) for label in rows["label"].to_pylist()]
    plain, weighted = (
        LogisticRegression(max_iter=2000).fit(pixels, labels, sample_weight=weight).score(test_pixels, truth)
        for weight in (None, weights["weight"].to_numpy())
    )
    return plain, weighted


if __name__ == "__main__":
    plain, weighted = accuracies(ROOT / "demo-run/rbc", ROOT / "sample_data/test.parquet")
    print(f"test accuracy without weights {plain:.1%}, with weights {weighted:.1%}")
