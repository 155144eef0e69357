"""The benchmark on frozen features: learners on data with a known answer, and its pipeline beside that of table.py."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("frozen_features", "selectors_on_features", "table_summary", "cells", "settings", "common")


@pytest.fixture
def frozen_features(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import frozen_features

    yield frozen_features
    for name in MODULES:
        sys.modules.pop(name, None)


def write_samples(path: Path, ids: list[str], angles: np.ndarray, labels: np.ndarray) -> None:
    """Two features of any length, so that the direction alone tells the classes apart."""
    lengths = np.linspace(1, 100, len(angles))[:, None]
    features = lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"sample_id": ids, "features": list(features), "label": labels}), path)


def other_learners(frozen_features: ModuleType, folder: Path, bought: list[int]) -> list[Any]:
    """On 200 samples in two directions 0.2 wide, the given labels of 0 and of 1 wrong; rows of files are shuffled."""
    rng = np.random.default_rng(0)
    ids, right = [f"{position:03d}" for position in range(200)], np.arange(200) % 2
    angles = right + rng.uniform(-0.1, 0.1, 200)
    given = np.where(np.arange(200) < 2, 1 - right, right)
    for name, labels in (("truth/train.parquet", given), ("right/train.parquet", right)):
        order = rng.permutation(200)
        write_samples(folder / name, [ids[i] for i in order], angles[order], labels[order])
    write_samples(folder / "right/test.parquet", ids, angles, right)
    weights = folder / "run/reweight/auto/weights.parquet"
    weights.parent.mkdir(parents=True)
    pq.write_table(pa.table({"sample_id": ids, "bought": np.isin(np.arange(200), bought)}), weights)
    setting = SimpleNamespace(truth=folder / "truth/truth.csv", test=folder / "right/test.parquet", seed=0)
    learnt: list[Any] = frozen_features.other_learners(
        SimpleNamespace(setting=setting, method="auto"), folder / "run"
    )
    return learnt


def test_the_other_learners_separate_what_can_be_separated(
    frozen_features: ModuleType, tmp_path: Path
) -> None:
    """Both wrong labels are the least probable ones; a 30-NN vote overrules them, and so does what was bought."""
    logistic, neighbours, bought = other_learners(frozen_features, tmp_path, [4, 5])
    assert (logistic, neighbours, bought) == ((1.0, 1.0), (1.0, None), (1.0, None))


def test_the_ranking_leaves_bought_samples_out(frozen_features: ModuleType, tmp_path: Path) -> None:
    """No wrong label is left where both were bought, and their right labels are what the last learner sees."""
    logistic, _, bought = other_learners(frozen_features, tmp_path, [0, 1])
    assert (logistic, bought) == ((1.0, None), (1.0, None))


def test_misses_are_means_below_the_aims_and_the_longest_run(frozen_features: ModuleType) -> None:
    def rows(accuracies: tuple[float, ...], auc: float, seconds: tuple[float, ...]) -> list[Any]:
        place = ("cifar10_dinov2", "human-worst", 50, "auto")
        return [
            frozen_features.Row(*place, "auto", seed, accuracy, auc, taken, taken, 0.4)
            for seed, (accuracy, taken) in enumerate(zip(accuracies, seconds, strict=True))
        ] + [frozen_features.Row(*place, "30-nn", 0, 0.1, None, None, None, 0.4)]

    assert frozen_features.misses(rows((0.945, 0.965), 0.985, (30.0, 10.0))) == []
    assert frozen_features.misses(rows((0.945, 0.963), 0.984, (30.04, 10.0))) == [
        "accuracy 95.4 %, wanted 95.5 %",
        "AUC 0.984, wanted 0.985",
        "a run took up to 30.0 s, wanted 30 s",
    ]
    line = frozen_features.summary(rows((0.945, 0.965), 0.985, (30.0, 10.0))).splitlines()[2]
    assert line == (
        "| cifar10_dinov2 | human-worst | 40.0 | 50 | 2 | 95.5 | 95.5 ± 1.4 | 10.0 | 0.985 ± 0.000 "
        "| 20.0 ± 14.1 | 20.0 ± 14.1 |"
    )
