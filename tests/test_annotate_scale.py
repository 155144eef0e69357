"""A long vote file: the cost of an import grows with the votes, not faster."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["majority", "dawid-skene"])
def test_an_import_grows_with_the_votes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million votes may take 20 s and 1 GiB, so what each 100,000 more take is at most a tenth of both.

    Of the processor's seconds, since those of the clock would judge the machine's other work too; and the least of
    three, since they grow too where another process shares a core's caches.
    """
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from vote_import import measure

    for _ in range(3):
        few, many = measure(20_000, method)["import"], measure(120_000, method)["import"]
        if many[0] - few[0] < 2:
            break
    assert many[0] - few[0] < 2
    assert many[2] - few[2] < 102
    sys.modules.pop("vote_import")
