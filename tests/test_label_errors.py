"""The benchmark of wrong labels: its figures on cases that can be counted by hand."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("label_errors", "table_summary", "cells", "settings", "common")


@pytest.fixture
def label_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import label_errors

    yield label_errors
    for name in MODULES:
        sys.modules.pop(name, None)


def test_scores_are_of_the_out_of_fold_probabilities(
    label_errors: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The given labels are counted in the order of classes.json, and rows sum to 1 in float64."""
    asked = []

    def get_label_quality_scores(labels: np.ndarray, probs: np.ndarray, *, method: str) -> np.ndarray:
        asked.append((method, probs.sum(1).tolist()))
        own: np.ndarray = probs[np.arange(len(labels)), labels]
        return own

    def find_label_issues(
        labels: np.ndarray, probs: np.ndarray, *, return_indices_ranked_by: str, n_jobs: int
    ) -> np.ndarray:
        assert (return_indices_ranked_by, n_jobs) == ("self_confidence", 1)
        return np.array([1])

    functions = label_errors.Peer(get_label_quality_scores, find_label_issues)
    monkeypatch.setattr(label_errors, "peer", lambda: functions)
    (tmp_path / "warmup").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.json").write_text(json.dumps(["cat", "ant"]))
    probs = [[0.25, 0.75], [0.5, 0.5000001]]
    table: dict[str, Any] = {"sample_id": ["a", "b"], "probs": [[1.0, 0.0]] * 2}
    table["out_of_fold"] = pa.array(probs, pa.list_(pa.float32()))
    pq.write_table(pa.table(table), tmp_path / "warmup/predictions.parquet")
    found = label_errors.cleanlab_scores(tmp_path, ["a", "b"], ["ant", "cat"])
    assert found.pop("find-label-issues").tolist() == [1, 0]
    assert {name: score.tolist() for name, score in found.items()} == {
        name: pytest.approx([0.75, 0.5], abs=1e-6) for name in ("self-confidence", "normalized-margin")
    }
    assert asked == [(name, [1.0, 1.0]) for name in ("self_confidence", "normalized_margin")]
    with pytest.raises(SystemExit, match="not of the same samples"):
        label_errors.cleanlab_scores(tmp_path, ["b", "a"], ["ant", "cat"])


def test_the_summary_compares_with_the_better_score(label_errors: ModuleType) -> None:
    """Seeds of auto: .9 and .8. Of the two scores normalised margin is the better one, by its mean .75."""
    scores = {"self-confidence": (0.5, 0.8), "normalized-margin": (0.85, 0.65), "auto": (0.9, 0.8)}
    rows = [
        label_errors.Row("digits", "uniform-40", 20, "rbc", method, seed, auc, 0.5, 0.5, 40, 100, None)
        for method, aucs in scores.items()
        for seed, auc in enumerate(aucs)
    ]
    line = label_errors.summary(rows, "auc").splitlines()[2]
    wanted = ("0.650 ± 0.212", "0.750 ± 0.141", "0.850 ± 0.071 (+0.100 ± 0.071)")
    assert line == f"| digits | uniform-40 | 40.0 | 20 | rbc | 2 | {' | '.join(wanted)} |"
    assert len(label_errors.summary(rows, "precision_at_500").splitlines()) == 2  # the header alone
