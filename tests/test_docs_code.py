"""The Python of the documentation runs as it stands, on a run of its own."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs/run-directory.md"


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
