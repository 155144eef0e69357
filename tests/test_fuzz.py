"""Every reader on mutated files: a few hundred of the inputs that ``fuzz.py`` makes by the thousand."""

from pathlib import Path
from random import Random

import fuzz
import pytest


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> list[fuzz.Target]:
    return fuzz.targets(tmp_path_factory.mktemp("good"))


def test_every_good_file_is_read(
    known: list[fuzz.Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its mutations would test nothing but the refusal of the first byte."""
    monkeypatch.setattr(fuzz, "mutate", lambda content, chance: content)
    codes = {target.name: fuzz.run_one(target, Random(1), tmp_path / "work") for target in known}
    assert codes == dict.fromkeys(codes, 0)


@pytest.mark.slow
def test_mutated_files_are_read_or_refused(known: list[fuzz.Target], tmp_path: Path) -> None:
    codes, faults = fuzz.fuzz(300, 1, tmp_path, known)
    assert not faults, faults[0]
    ended = [code for counts in codes.values() for code in counts.elements()]
    assert len(ended) == 300
    assert 0.2 < ended.count(0) / 300 < 0.8  # mutations are neither all harmless nor all gross


def test_a_fault_is_found(known: list[fuzz.Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises, and one that writes before it refuses."""

    def broken(*words: object, **more: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("metaselect.stages.annotate.exchange.import_file", broken)
    with pytest.raises(AssertionError, match="exit 70"):
        fuzz.run_one(known[0], Random(1), tmp_path / "work")
