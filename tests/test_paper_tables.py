"""The summary of the rows that ``benchmarks/paper_tables.py`` measures."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module; others of the benchmarks can be imported too."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import paper_tables

    yield paper_tables
    for name in ("paper_tables", "cells", "settings", "common"):
        sys.modules.pop(name, None)


def test_the_best_arms_stand_first_beside_the_papers_figures(program: ModuleType) -> None:
    def row(method: str, seed: int, accuracy: float, auc: float | None, **other: Any) -> Any:
        place = ("mnist-60000", "adversarial-60-derangement", 20, "rbc", method, seed)
        values = program.Row(*place, accuracy, 0.5 + 0.01 * seed, 0.6, auc, 1, 20.0 + seed, 0)
        return values._replace(**other)

    rows = [
        *(row("direct", 0, 0.75, 0.9), row("direct", 1, 0.76, 0.8)),
        *(row("glc", 0, 0.9, None), row("glc", 1, 0.8, None, exit_code=1)),
        row("direct", 0, 0.7, 0.8, noise="uniform-60"),
    ]
    assert program.summary(rows).split("\n") == [
        "mnist-60000, adversarial-60-derangement, 20 bought",
        "",
        "| arm | accuracy % (each seed) | mean | spread | weight AUC | classes not bought | s a run, at most | paper |",
        "|---|---|---|---|---|---|---|---|",
        "| warmup | 50.0, 51.0 | 50.5 | 0.7 | - | -, - | - | 51.7 +- 1.5 |",
        "| rbc + glc | 90.0, 80.0 | 85.0 | 7.1 | - | 1, 1 | 21 | - |",
        "| rbc + direct | 75.0, 76.0 | 75.5 | 0.7 | 0.850 | 1, 1 | 21 | 93.0 +- 1.0 |",
        "",
        "Failed: rbc + glc, seed 1.",
        "",
        "mnist-60000, uniform-60, 20 bought",
        "",
        "| arm | accuracy % (each seed) | mean | spread | weight AUC | classes not bought | s a run, at most | paper |",
        "|---|---|---|---|---|---|---|---|",
        "| warmup | 50.0 | 50.0 | - | - | - | - | - |",
        "| rbc + direct | 70.0 | 70.0 | - | 0.800 | 1 | 20 | - |",
    ]
