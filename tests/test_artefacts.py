"""The table of artefacts: that the code takes paths and columns from it, and that its columns say what is true."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_run import make_run
from command_line import metaselect as run_command

import metaselect
from metaselect.errors import ArtefactError
from metaselect.run.artefacts import (
    BATCH,
    CHECKPOINT,
    CLUSTERS,
    ENCODED,
    ENCODED_BYTES,
    FEATURES,
    GRADIENTS,
    META_SET,
    PRETRAINED,
    RECORD,
    ROBUST_MODEL,
    ROBUST_MODEL_INFO,
    SAMPLES,
    VOTES,
    WEIGHTS,
)
from metaselect.run.evaluation_artefacts import PREDICTIONS
from metaselect.run.layout import Run
from metaselect.run.schema import PLACEHOLDER, Artefact
from metaselect.run.stage_names import ARTEFACTS, FOLDERS, stage_of
from metaselect.run.tables import (
    format_rows,
    read_parquet,
    read_records,
    read_rows,
    write_parquet,
    write_rows,
)

ROOT = Path(metaselect.__file__).parent
TABLE = (ROOT / "run/artefacts.py", ROOT / "run/evaluation_artefacts.py")
OTHERS = {("annotation/formats/hf.py", "classes.json")}
"""Files with the name of an artefact that are none: of a form."""


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every string; what stands in braces in an f-string is "{}"; docstrings are left out."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(parts)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | inside
        ):
            yield node.lineno, node.value


def pattern_of_artefacts() -> re.Pattern[str]:
    """What a path or the name of an artefact looks like in a string, whatever stands for its placeholders."""
    names = {entry.file.rpartition("/")[2] for entry in ARTEFACTS} - {"<batch_id>.csv"} | {BATCH.file}
    folders = {PLACEHOLDER.split(folder.template)[0] for folder in FOLDERS.values()} | {
        f"{kind}/" for kind in FOLDERS
    }
    files = "|".join(".+".join(map(re.escape, PLACEHOLDER.split(name)[::2])) for name in sorted(names))
    below = "|".join(re.escape(folder) for folder in sorted(folders) if "/" in folder)
    return re.compile(rf"(?<![\w.-])(?:{files})(?!\w|\.\w)|^(?:{below})")


@pytest.mark.parametrize(
    "text",
    ["data/samples.parquet", "weights.parquet", "select/round-{}", "{}/model.json", "epoch-{}.safetensors",
     "gradients-epoch-*.parquet", "warmup/{}", "see RUN/annotate/votes.csv."],
)  # fmt: skip
def test_the_search_finds_paths(text: str) -> None:
    assert pattern_of_artefacts().search(text)


def test_no_path_of_an_artefact_stands_outside_of_the_table() -> None:
    pattern = pattern_of_artefacts()
    places = [
        (path.relative_to(ROOT).as_posix(), line, text)
        for path in sorted(ROOT.rglob("*.py"))
        if path not in TABLE
        for line, text in literals(ast.parse(path.read_text()))
        if pattern.search(text)
    ]
    assert [place for place in places if (place[0], place[2]) not in OTHERS] == []


def test_paths_are_filled_in() -> None:
    assert WEIGHTS.path(name="direct") == "reweight/direct/weights.parquet"
    assert CHECKPOINT.path(epoch=4) == "warmup/checkpoints/epoch-0004.safetensors"
    assert GRADIENTS.within(epoch="*") == "gradients-epoch-*.parquet"
    with pytest.raises(KeyError):
        WEIGHTS.path()
    for entry in ARTEFACTS:
        parts = {name: "1" for name in PLACEHOLDER.findall(entry.template)}
        path = entry.path(**parts)
        assert not PLACEHOLDER.search(path)
        if entry.folder is not None and entry.folder.kind in FOLDERS:
            assert path == f"{stage_of(path)}/{entry.within(**parts)}"
            assert stage_of(path) == entry.folder.name(**parts)


def test_the_readers_of_the_table_are_those_that_depend_on_a_file(finished: Path) -> None:
    run_command("fanout", run=finished)
    run = Run(finished)
    patterns = {
        re.compile(".+".join(map(re.escape, PLACEHOLDER.split(entry.template)[::2]))): entry
        for entry in ARTEFACTS
    }
    seen: dict[str, set[str]] = {entry.template: set() for entry in ARTEFACTS}
    for record in sorted(run.root.glob(f"*/{RECORD}")) + sorted(run.root.glob(f"*/*/{RECORD}")):
        stage = record.parent.relative_to(run.root).as_posix()
        for name in json.loads(record.read_text())["inputs"]:
            for pattern, entry in patterns.items():
                if pattern.fullmatch(name):
                    seen[entry.template].add(stage.split("/")[0])
    declared = {entry.template: set(entry.readers) for entry in ARTEFACTS}
    absent = {(META_SET.template, "select")}
    # In that run round 1 came before answers, and it holds images, decoded.
    absent |= {
        (entry.template, name) for entry in (FEATURES, ENCODED, ENCODED_BYTES) for name in entry.readers
    }
    absent |= {(entry.template, "reweight") for entry in (ROBUST_MODEL, ROBUST_MODEL_INFO)}  # no --init NAME
    absent.add((PRETRAINED.template, "reweight"))  # its model began with random weights
    differing = {
        (template, reader) for template in declared for reader in declared[template] ^ seen[template]
    }
    assert differing == absent


class Vote(NamedTuple):
    """Two columns in the wrong order, and too few."""

    clean_label: str
    sample_id: str


@pytest.mark.parametrize("row", [("s0",), ("s0", "cat", ""), Vote("cat", "s0")])
def test_writing_a_row_of_other_columns_is_a_bug(tmp_path: Path, row: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="sample_id, clean_label"):
        write_rows(tmp_path / "meta_set.csv", META_SET, [("s1", "dog"), row])
    assert list(tmp_path.iterdir()) == []


def columns(**changed: pa.Array | None) -> dict[str, pa.Array]:
    """The columns of ``clusters.parquet``, some of them others, or left out."""
    made = {
        "sample_id": pa.array(["s0"]),
        "cluster": pa.array([0], pa.int32()),
        "similarity": pa.array([0.5], pa.float32()),
        "rank": pa.array([1], pa.int32()),
    }
    return {name: values for name, values in (made | changed).items() if values is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": None}, "it has no column rank"),
        ({"rank": pa.array([1], pa.int64())}, "its column rank is int64, and must be int32"),
        ({"index": pa.array([0])}, "the column index is not one of the table's"),
    ],
)
def test_writing_a_table_of_other_columns_is_a_bug(
    tmp_path: Path, changed: dict[str, pa.Array | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_parquet(tmp_path / "clusters.parquet", CLUSTERS, columns(**changed))
    assert list(tmp_path.iterdir()) == []
    write_parquet(tmp_path / "clusters.parquet", CLUSTERS, columns())
    assert pq.read_table(tmp_path / "clusters.parquet").column_names == list(CLUSTERS.columns)


def test_a_column_for_each_model_may_come_any_number_of_times(tmp_path: Path) -> None:
    names = pa.array(["cat"])
    table = {"sample_id": pa.array(["s0"]), "label": names}
    with pytest.raises(ValueError, match="no column predicted_<model>"):
        write_parquet(tmp_path / "p", PREDICTIONS, table)
    half = pa.array([0.5], pa.float32())
    probs = {f"{column}_{model}": half for column in ("prob", "label_prob") for model in "ab"}
    write_parquet(tmp_path / "p", PREDICTIONS, {**table, "predicted_a": names, "predicted_b": names, **probs})
    with pytest.raises(ValueError, match="predicted_a is float32"):
        write_parquet(tmp_path / "p", PREDICTIONS, {**table, "predicted_a": half})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def refused(run: Run, artefact: Artefact) -> str:
    """What an artefact error says, which must name the file and give a command."""
    parquet = bool(artefact.schema[0].type)
    with pytest.raises(ArtefactError) as caught:
        _ = read_parquet(run, artefact, ["sample_id"]) if parquet else read_records(run, artefact)
    assert str(run.path(artefact.path())) in str(caught.value)
    assert "metaselect" in caught.value.hint
    assert run.flag in caught.value.hint
    return str(caught.value)


def test_reading_a_table_of_other_columns_says_what_is_missing(run: Run) -> None:
    path = run.path(SAMPLES.path())
    assert read_parquet(run, SAMPLES, ["sample_id"], where=("sample_id", "in", ["s1"])).to_pydict() == {
        "sample_id": ["s1"]
    }
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["source", "content_hash"]), path)
    assert "it has no column content_hash; it has " in refused(run, SAMPLES)
    place = table.column_names.index("source")
    pq.write_table(table.set_column(place, "source", pa.array([1] * len(table))), path)
    assert "its column source is int64, and must be string" in refused(run, SAMPLES)
    path.write_bytes(b"PAR1 and no more")
    assert "cannot be read" in refused(run, SAMPLES)


def test_a_run_of_an_earlier_version_with_the_column_index_can_be_read(run: Run) -> None:
    path = run.path(SAMPLES.path())
    table = pq.read_table(path)
    if "index" not in table.column_names:
        pq.write_table(table.add_column(0, "index", pa.array(range(len(table)))), path)
    assert read_parquet(run, SAMPLES, ["sample_id", "given_label"]).num_rows == len(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,label\ns0,cat\n", "has no column clean_label; it has sample_id, label."),
        ("sample_id,clean_label,note\n", "they must be sample_id, clean_label"),
        ("sample_id,clean_label\ns0\n", "a row is not sample_id, clean_label"),
        ("", "a row is not sample_id, clean_label"),
    ],
)
def test_reading_rows_of_other_columns_says_what_is_missing(run: Run, text: str, message: str) -> None:
    path = run.path(META_SET.path())
    path.parent.mkdir()
    path.write_text(text)
    assert message in refused(run, META_SET)
    path.write_text(format_rows(META_SET, [("s0", "cat"), ("s1", "")]))
    assert [row["clean_label"] for row in read_records(run, META_SET)] == ["cat", ""]


def test_a_table_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "votes.csv", VOTES, lambda *cells: cells, "") == ()
