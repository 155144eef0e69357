"""docs/output.md names every key that --json prints, and no key as always printed that is not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import BUDGET, PIPELINE, TEST, TRAIN, metaselect

PAGE = (Path(__file__).resolve().parents[1] / "docs/output.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \|([^|]*)\|", re.MULTILINE)
EVERY = "Every command"
ALWAYS = {"ok", "schema_version"}
SECTIONS = {
    "export": "`annotate export`",
    "simulate": "`annotate import`, `annotate simulate`",
    "uniform": "`reweight`",
}
"""The heading for an entry of ``PIPELINE`` whose name is not the command's."""


def documented(heading: str) -> dict[str, str]:
    """Key -> when it is there, of one section and the one on every command."""
    (section,) = re.findall(rf"^### {re.escape(heading)}\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = {key: when.strip() for key, when in ROW.findall(section)}
    assert rows
    return rows


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Paths of everything in a JSON value: "stages", "stages[].state"; each list's objects stand for all of them."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from keys(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                for name, innermost in inner.items():
                    yield from keys(innermost, f"{path}[].{name}")


def pattern(key: str) -> re.Pattern[str]:
    """What a documented key matches; ``<...>`` stands for any name."""
    return re.compile("[^.]+?".join(map(re.escape, re.split(r"<[^>]+>", key))))


def check(heading: str, printed: Any) -> list[str]:
    """What is wrong with the section on an object that a command printed."""
    rows = documented(heading) | documented(EVERY)
    paths = set(keys(printed))
    # An object of which all keys are named needs no row of its own.
    parts = {key: re.split(r"(?<=.)\.", key) for key in rows}
    known = [pattern(".".join(names[:end])) for names in parts.values() for end in range(1, len(names) + 1)]
    wrong = [f"not in the page: {path}" for path in paths if not any(each.fullmatch(path) for each in known)]
    for key, when in rows.items():
        if not when and not any(pattern(key).fullmatch(path) for path in paths):
            wrong.append(f"not printed: {key}")
    return [f"{heading}: {each}" for each in wrong]


def test_the_keys_of_the_pipeline(finished_once: Path) -> None:
    said = json.loads((finished_once / "said.json").read_text())
    assert set(said) == set(PIPELINE)
    wrong = [
        each for name, out in said.items() for each in check(SECTIONS.get(name, f"`{name}`"), json.loads(out))
    ]
    assert wrong == []


def test_the_keys_of_offers_and_the_cleaned_data_set(finished: Path, tmp_path: Path) -> None:
    offers = metaselect("fanout", "--json", run=finished)
    cleaned = metaselect("export", "-o", tmp_path / "cleaned", "--json", run=finished)
    assert check("`fanout`", offers.json) + check("`export`", cleaned.json) == []


def test_the_keys_of_the_other_commands(finished: Path, tmp_path: Path) -> None:
    first = (finished / "select/round-1/selected.csv").read_text().splitlines()[1].split(",")[0]
    other = tmp_path / "other.csv"
    other.write_text(f"sample_id,clean_label,annotator\n{first},0,anna\n{first},1,ben\nnobody,1,ben\n")
    commands: list[tuple[str, tuple[object, ...]]] = [
        ("`evaluate`", ("evaluate",)),
        ("`explain`", ("explain", first)),
        ("`verify`", ("verify",)),
        ("`annotate import`, `annotate simulate`", ("annotate", "import", other)),
        ("`annotate status`", ("annotate", "status")),
        ("`annotate consensus`", ("annotate", "consensus", "--method", "dawid-skene")),
        ("`annotate undo`", ("annotate", "undo")),
        ("`select --discard-round`", ("select", "--discard-round", 1)),
        ("`--option help`", ("reweight", "--method", "l2rw", "--option", "help")),
    ]
    wrong = [
        each
        for heading, words in commands
        for each in check(heading, metaselect(*words, "--json", run=finished).json)
    ]
    out = tmp_path / "noisy"
    noisy = metaselect("corrupt", TRAIN, "-o", out, "--noise", "uniform", "--rate", 0.3, "--json")
    words = ("embed", TRAIN, "-o", tmp_path / "features.parquet", "--encoder", "tiny_encoders:tiny", "--json")
    features = metaselect(*words)
    parts = metaselect("split", TRAIN, "-o", tmp_path / "parts", "--json")
    assert check("`split`", parts.json) == []
    assert wrong + check("`corrupt`", noisy.json) + check("`embed`", features.json) == []


@pytest.mark.parametrize(
    "words",
    [
        ("warmup", "--force"),
        ("select", "--budget", BUDGET, "--round", "next", "--control", 0.2),
        ("reweight", "--method", "l2rw"),
        ("ingest", TRAIN),
        ("evaluate", TEST, "--force"),
    ],
    ids=lambda words: words[0],
)
def test_the_keys_of_a_dry_run(words: tuple[object, ...], finished: Path) -> None:
    assert check("`--dry-run`", metaselect(*words, "--dry-run", "--json", run=finished).json) == []


def test_the_keys_of_an_error_and_of_a_control(warm: Path) -> None:
    failed = metaselect("select", "--budget", 0, "--json", run=warm, code=2).json
    assert set(failed) == ALWAYS | {"error"}
    assert {f"error.{key}" for key in failed["error"]} == documented(EVERY).keys() - ALWAYS
    metaselect("select", "--budget", 4, "--control", 0.5, run=warm)
    shown = metaselect("status", "--json", run=warm).json
    assert shown["noise_estimate"]["drawn"] == 2
    assert check("`status`", shown) == []
    rows = [key for key, when in documented("`status`").items() if when == "with a control"]
    assert {f"noise_estimate.{key}" for key in shown["noise_estimate"]} == set(rows)
