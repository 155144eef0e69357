"""Truth files that know some samples only or call some unusable, and test sets that share samples with the pool."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from annotation_run import CLASSES, add_round, answers, call, error, make_run, meta_set, result, votes_of
from command_line import LIMIT, TEST, TRAIN, TRUTH, metaselect, states
from sklearn.metrics import roc_auc_score

from metaselect.annotation.formats.csv import read_truth
from metaselect.errors import DataError
from metaselect.metrics.auc_interval import auc_interval
from metaselect.run.layout import Run


def true_labels() -> dict[str, str]:
    with TRUTH.open() as stream:
        return {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}


def weights(run: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(run / "reweight/auto/weights.parquet").to_pylist()
    return rows


def test_what_rows_of_a_truth_file_say() -> None:
    table = (
        "id,clean_label,status,comment\na, cat ,,x\nb,,,x\nc,,bad_sample,x\nd,dog,Unusable,x\n"
        "e,,skip,x\nf,dog,unsure,x\ng,2.0,done,x\na,cat,DONE,again\n"
    )
    found = read_truth(table.encode(), "t.csv")
    assert found == {"a": "cat", "b": "", "c": "", "d": "", "g": "2"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,,done", "t.csv:2: the status is done but there is no clean_label"),
        ("a,cat,perhaps", "t.csv:2: there is no status 'perhaps'"),
        ("a,cat,\na,,bad_sample", "t.csv:3: a has two labels, 'cat' and 'unusable'"),
        ("a,,\na,dog,", "t.csv:3: a has two labels, 'unusable' and 'dog'"),
        (",cat,", "no sample_id"),
    ],
)
def test_truth_that_contradicts_itself_is_refused(rows: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_truth(f"sample_id,clean_label,status\n{rows}\n".encode(), "t.csv")


def test_rankings_are_judged_on_the_samples_that_the_truth_knows(tmp_path: Path, finished: Path) -> None:
    known, table = true_labels(), weights(finished)
    ids = [str(row["sample_id"]) for row in table]
    unusable, absent = set(ids[3:20]), set(ids[40:100])
    lines = [f"{each},{'' if each in unusable else known[each]}" for each in ids if each not in absent]
    path = tmp_path / "part.csv"
    path.write_text("\n".join(["sample_id,clean_label", *lines, "not-in-the-pool,cow"]))
    done = metaselect("evaluate", TEST, "--truth", path, "--name", "part", "--json", run=finished)
    judged = [row for row in table if row["sample_id"] not in unusable | absent]
    wrong = [known[str(row["sample_id"])] != row["given_label"] for row in judged]
    noise = done.json["noise"]
    matrix = np.array(noise.pop("matrix"))
    assert (matrix.sum(), matrix.trace()) == (len(judged), wrong.count(False))
    assert noise == {
        "measured_rate": np.mean(wrong),
        "samples": LIMIT - 77,
        "unusable": 17,
        "not_in_truth": 60,
    }
    ranked = [place for place, row in enumerate(judged) if row["label_issue_rank"] is not None]
    found, flags = done.json["reweight"]["auto"], [not wrong[place] for place in ranked]
    for key, column in (("rank_auc", "label_issue_rank"), ("weight_auc", "weight")):
        scores = [judged[place][column] for place in ranked]
        assert found[key] == pytest.approx(roc_auc_score(flags, scores))
    wrong_ranked = flags.count(False)
    limits = auc_interval(found["rank_auc"], wrong_ranked, len(flags) - wrong_ranked)
    assert (found["rank_auc_low"], found["rank_auc_high"]) == pytest.approx(limits)
    assert found["k"] == flags.count(False)
    assert done.json["warmup"]["k"] <= sum(wrong)
    said = metaselect("evaluate", TEST, "--truth", path, "--name", "part", run=finished).out
    assert f"of {LIMIT - 77} samples; of the others, 17 are unusable and 60 are not in the truth file" in said


def test_a_truth_of_unusable_samples_alone_judges_nothing(tmp_path: Path, finished: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("sample_id,status\n" + "".join(f"{each},bad_sample\n" for each in true_labels()))
    words = ("evaluate", TEST, "--truth", path, "--name", "none")
    found = metaselect(*words, "--json", run=finished).json
    assert (found["noise"]["measured_rate"], found["noise"]["unusable"]) == (None, LIMIT)
    assert found["warmup"]["rank_auc"] is found["reweight"]["auto"]["weight_auc"] is None
    assert (
        "Measured noise rate: - of 0 samples; of the others, 200 are unusable"
        in metaselect(*words, run=finished).out
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s0", "s1", "s2", "s3", "s4"])
    return made


def test_simulation_answers_what_the_truth_knows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    part = answers(
        run, "sample_id,clean_label,status\ns0,cat,\ns1,,\ns2,dog,bad_sample\ns3,,skip\n", "part.csv"
    )
    got = result(run, capsys, "simulate", part)
    assert (got["matched"], got["unusable"], got["missing"], got["not_in_truth"]) == (1, 2, 2, 2)
    assert [(each[0], each[1], each[3]) for each in votes_of(run)] == [
        ("s0", "cat", "done"),
        ("s1", "", "bad_sample"),
        ("s2", "", "bad_sample"),
    ]
    assert meta_set(run) == {"s0": "cat", "s1": "", "s2": ""}
    assert call(run, "simulate", part) == 0
    told = capsys.readouterr().err
    assert "does not know 2 samples of round 1; they stay open: s3, s4" in told
    assert len(votes_of(run)) == 3
    whole = answers(run, "sample_id,clean_label\n" + "".join(f"s{n},owl\n" for n in range(5)), "whole.csv")
    assert result(run, capsys, "simulate", whole)["not_in_truth"] == 0
    assert meta_set(run) == {"s0": "cat", "s1": "", "s2": "", "s3": "owl", "s4": "owl"}


def test_unusable_samples_are_so_for_every_simulated_person(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = answers(run, "sample_id,clean_label\n" + "".join(f"s{n},\n" for n in range(5)), "truth.csv")
    got = result(run, capsys, "simulate", truth, "--annotators", "3", "--error-rate", "0.9")
    assert got["unusable"] == 15
    assert {each[3] for each in votes_of(run)} == {"bad_sample"}
    assert len(CLASSES) > 1


def test_simulation_with_the_truth_of_other_data_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    other = answers(run, "sample_id,clean_label\nx,cat\n", "other.csv")
    assert "none of the 5 samples of round 1" in error(run, capsys, "simulate", other, code=3)
    assert not run.path("annotate/votes.csv").exists()


@pytest.fixture
def overlapping(tmp_path: Path, finished: Path) -> Path:
    """The test set with 30 training samples among its rows, under other names."""
    pool = pq.read_table(finished / "data/samples.parquet")["sample_id"].to_pylist()[:30]
    test, train = pq.read_table(TEST), pq.read_table(TRAIN)
    shared = train.filter(pa.compute.is_in(train["sample_id"], pa.array(pool))).select(test.column_names)
    place = shared.column_names.index("sample_id")
    shared = shared.set_column(place, "sample_id", pa.array([f"shared-{n}" for n in range(30)]))
    mixed = pa.concat_tables([test.slice(0, 11), shared.cast(test.schema), test.slice(11)])
    path = tmp_path / "mixed.parquet"
    pq.write_table(mixed, path)
    return path


def test_samples_of_the_pool_are_left_out_of_the_test(finished: Path, overlapping: Path) -> None:
    plain = metaselect("evaluate", TEST, "--name", "plain", "--json", run=finished)
    assert plain.json["overlap"] == 0
    flattered = metaselect("evaluate", overlapping, "--name", "all", "--json", run=finished)
    count = plain.json["test_samples"]
    assert "30 of" in flattered.err
    assert "--leave-out-overlap" in flattered.err
    assert (flattered.json["overlap"], flattered.json["test_samples"]) == (30, count + 30)
    done = metaselect(
        "evaluate", overlapping, "--name", "others", "--leave-out-overlap", "--json", run=finished
    )
    assert "they are left out" in done.err
    assert "flatter" not in done.err
    same = ("warmup", "reweight", "take", "test_samples", "classes")
    assert {key: done.json[key] for key in same} == {key: plain.json[key] for key in same}
    assert done.json["overlap"] == 30
    assert done.json["test_content"] == plain.json["test_content"] != flattered.json["test_content"]
    paths = [finished / f"evaluate/{name}/predictions.parquet" for name in ("plain", "others")]
    first, second = (pq.read_table(path).sort_by("sample_id") for path in paths)
    assert first.equals(second)
    changed = metaselect("evaluate", overlapping, "--name", "others", run=finished, code=4)
    assert "leave_out_overlap: true -> false" in changed.err


def test_a_test_set_of_nothing_but_the_pool_is_refused(
    tmp_path: Path, finished: Path, overlapping: Path
) -> None:
    table = pq.read_table(overlapping)
    shared = [str(name).startswith("shared-") for name in table["sample_id"].to_pylist()]
    pq.write_table(table.filter(pa.array(shared)), tmp_path / "shared.parquet")
    words = ("evaluate", tmp_path / "shared.parquet", "--leave-out-overlap")
    assert "Every sample of" in metaselect(*words, run=finished, code=3).err
    assert not (finished / "evaluate/shared").exists()


REFUSED = {
    "a truth without rows": ("sample_id,clean_label\n", None),
    "a truth of other samples": ("sample_id,clean_label\nnobody,1\n", None),
    "a class that there is not": (None, "zebra"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_evaluation_that_is_refused_is_not_an_interrupted_one(
    tmp_path: Path, finished: Path, kind: str
) -> None:
    truth, label = REFUSED[kind]
    words: list[object] = ["evaluate", TEST]
    if truth is not None:
        (tmp_path / "truth.csv").write_text(truth)
        words += ["--truth", tmp_path / "truth.csv"]
    if label is not None:
        table = pq.read_table(TEST)
        place = table.column_names.index("label")
        pq.write_table(
            table.set_column(place, "label", pa.array([label] * len(table))), tmp_path / "t.parquet"
        )
        words[1] = tmp_path / "t.parquet"
    before = states(finished, 0)
    metaselect(*words, "--name", "new", run=finished, code=3)
    assert states(finished, 0) == before
    assert not [path for path in (finished / ".work").rglob("*") if path.is_file()]
