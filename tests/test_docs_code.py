"""The Python of the documentation runs as it stands, on a run of its own."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import BUDGET, LIMIT, metaselect

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "run-directory.md"


def test_the_documented_program_loads_a_model_without_metaselect(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block asserts itself that its predictions are those of weights.parquet."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "metaselect" not in block
    assert 'run = "demo-run/rbc"' in block
    monkeypatch.chdir(finished.parent)
    found: dict[str, object] = {}
    exec(block.replace('"demo-run/rbc"', '"run"'), found)
    assert len(found["predicted"]) == 200  # type: ignore[arg-type]


def test_the_documented_program_makes_answers_of_class_probabilities(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the most probable classes, and are imported as one more annotator's."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "encoders.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (each for each in blocks if "clip.csv" in each)
    run = finished
    table = pq.read_table(run / "data/samples.parquet")
    classes = json.loads((run / "data/classes.json").read_text())
    ids = table["sample_id"].to_pylist()
    best = [position % len(classes) for position in range(len(ids))]
    probs = [[0.9 if place == top else 0.0 for place in range(len(classes))] for top in best]
    pq.write_table(pa.table({"sample_id": ids, "probs": probs}), tmp_path / "clip.parquet")
    monkeypatch.chdir(tmp_path)
    exec(block.replace('"RUN"', f'"{run}"'), {})
    done = metaselect(
        "annotate", "import", "clip.csv", "--annotator", "clip", "--json", run=run, cwd=tmp_path
    )
    assert done.json["ok"]
    votes = [
        row
        for row in csv.DictReader((run / "annotate/votes.csv").read_text().splitlines())
        if row["annotator"] == "clip"
    ]
    expected = {name: classes[top] for name, top in zip(ids, best, strict=True)}
    assert len(votes) == BUDGET
    assert all(vote["clean_label"] == expected[vote["sample_id"]] for vote in votes)


def test_the_python_page_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks one after another, with the numbers that they promise."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    finished.rename(finished.with_name("my-run"))
    monkeypatch.chdir(finished.parent)
    found: dict[str, Any] = {}
    exec("\n".join(blocks), found)
    assert len(found["doubted"]) == 20
    assert found["wrong"] > 0
    assert not set(found["first"]) & set(found["second"])
    assert len(found["issues"]) == LIMIT
    assert found["model"].score(found["features"], found["truth"]) > 0.9
