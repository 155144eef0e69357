"""A run with data and selected rounds, written by hand, for tests of what people do with it."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaselect.cli.main import main
from metaselect.records import Json
from metaselect.run.artefacts import FACTORS, WEIGHTS
from metaselect.run.files import write_csv, write_json
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.run.tables import write_parquet
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.submitted_answer import SubmittedAnswer

CLASSES = ("cat", "dog", "owl")
SELECTED = ("sample_id", "rank", "cluster", "cluster_size", "cluster_mass", "similarity", "control")


def make_run(
    root: Path,
    ids: Sequence[str] = tuple(map("s{}".format, range(10))),
    classes: Sequence[str] = CLASSES,
    task: str = "features",
) -> Run:
    """A run, of features unless the task is another, whose given labels go through the classes in turn."""
    run = Run(root)
    ids = sorted(ids)
    folder = run.path("data")
    folder.mkdir(parents=True)
    table = {
        "index": list(range(len(ids))),
        "sample_id": ids,
        "given_label": [classes[index % len(classes)] for index in range(len(ids))],
        "content_hash": [f"{index:064x}" for index in range(len(ids))],
        "source": ["" for _ in ids],
    }
    pq.write_table(pa.table(table), folder / "samples.parquet")
    write_json(folder / "classes.json", list(classes))
    preprocess: dict[str, Json] = {"task": task, "size": [], "mode": "", "mean": [0.0], "std": [1.0]}
    write_json(folder / "preprocess.json", preprocess)
    run.write_info(task, "0" * 64)
    write_record(folder, StageKey({}, {}), {})
    return run


def add_round(run: Run, number: int, ids: Sequence[str], control: Collection[str] = ()) -> None:
    """A finished round that selected these, the first one with rank 1, those of ``control`` at random."""
    folder = run.path(f"select/round-{number}")
    folder.mkdir(parents=True)
    rows: list[tuple[object, ...]] = [
        (sample_id, rank, "", "", "", 0.5, 1)
        if sample_id in control
        else (sample_id, rank, 0, len(ids), 1.0, 0.5, 0)
        for rank, sample_id in enumerate(ids, start=1)
    ]
    write_csv(folder / "selected.csv", SELECTED, rows)
    write_record(folder, StageKey({}, {}), {})


def add_weights(run: Run, predicted: Sequence[tuple[str, str, float]], name: str = "direct") -> Path:
    """The ``weights.parquet`` of a re-weighting: (sample_id, label, probability) of each sample, the rest made up."""
    folder = run.path(f"reweight/{name}")
    folder.mkdir(parents=True)
    ids, labels, probs = zip(*predicted, strict=True)
    n = len(ids)
    columns = {
        "sample_id": pa.array(ids),
        "given_label": pa.array(labels),
        "weight": pa.array([1.0] * n, pa.float32()),
        "weight_kind": pa.array(["none"] * n),
        "bought": pa.array([False] * n),
        "predicted_label": pa.array(labels),
        "predicted_prob": pa.array(probs, pa.float32()),
        "label_issue_rank": pa.array(range(n), pa.int64()),
    }
    write_parquet(folder / "weights.parquet", WEIGHTS, columns)
    write_record(folder, StageKey({}, {}), {})
    return folder / "weights.parquet"


def add_gradients(run: Run, probs: Mapping[str, Sequence[float]], epoch: int, number: int = 1) -> None:
    """What a selection leaves of a warm-up checkpoint: the probabilities of each sample."""
    folder = run.path(f"select/round-{number}")

    def rows(values: Collection[Sequence[float]]) -> pa.Array:
        return pa.array(values, pa.list_(pa.float32(), len(next(iter(values)))))

    columns = {
        "sample_id": pa.array(probs),
        "probs": rows(probs.values()),
        "hidden": rows([[0.0]] * len(probs)),
    }
    write_parquet(folder / f"gradients-epoch-{epoch:04d}.parquet", FACTORS, columns)
    write_record(folder, StageKey({}, {}), {})


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return rows_of(path.read_bytes().decode())


def votes_of(run: Run) -> list[tuple[str, str, str, str]]:
    """(sample_id, clean_label, annotator, status) of every vote, oldest first."""
    columns = ("sample_id", "clean_label", "annotator", "status")
    return [
        (row[columns[0]], row[columns[1]], row[columns[2]], row[columns[3]])
        for row in csv_rows(run.path("annotate/votes.csv"))
    ]


def meta_set(run: Run) -> dict[str, str]:
    """The consensus, by sample_id."""
    return {row["sample_id"]: row["clean_label"] for row in csv_rows(run.path("annotate/meta_set.csv"))}


def call(run: Run, *words: str) -> int:
    """The exit code of a sub-command of annotate."""
    return main(["annotate", *words, "--run", str(run.root)])


def answers(run: Run, text: str, name: str = "answers.csv") -> str:
    """A file with that text, beside the run."""
    path = run.root.parent / name
    path.write_text(text)
    return str(path)


def result(run: Run, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON object that a sub-command prints."""
    capsys.readouterr()
    assert call(run, *words, "--json") == code
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["schema_version"] == 1
    assert printed["ok"] is (code == 0)
    return printed


def error(run: Run, capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """What a failing sub-command says on stderr; it must print nothing else."""
    capsys.readouterr()
    assert call(run, *words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


class RecordedSession(LabelingSession):
    """Waits for the record of each answer, so that other commands and checks may follow at once."""

    def answer(self, browser: str, annotator: str, answer: SubmittedAnswer) -> dict[str, Json]:
        state = super().answer(browser, annotator, answer)
        self.wait_until_recorded()
        return state

    def undo(self, browser: str, annotator: str) -> dict[str, Json]:
        state = super().undo(browser, annotator)
        self.wait_until_recorded()
        return state
