"""Wrong command lines and bad data: the exit code, one sentence with a remedy, and nothing else."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import (
    BUDGET,
    DATA,
    LIMIT,
    REWEIGHT,
    SELECT,
    TEST,
    TRAIN,
    TRUTH,
    WARMUP,
    Done,
    metaselect,
    seen,
)

INGEST = ("ingest", TRAIN, "--limit", LIMIT)


def refusal(done: Done, *words: str) -> str:
    """The sentence of a refused command: it holds ``words``, a hint follows, and stdout is empty."""
    assert done.out == ""
    lines = done.err.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, done.err
    assert lines[-2] == errors[0], done.err
    assert lines[-1].startswith("  "), done.err  # the remedy
    for word in words:
        assert word in f"{lines[-2]}\n{lines[-1]}"
    return errors[0]


def as_json(done: Done, code: str) -> dict[str, Any]:
    """The error object that a refused command prints under --json."""
    assert set(done.json) == {"ok", "schema_version", "error"}
    assert done.json["ok"] is False
    assert done.json["schema_version"] == 1
    error: dict[str, Any] = done.json["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    return error


def changed(path: Path, out: Path, column: str, row: int, value: object, count: int = 30) -> Path:
    """The first rows of a Parquet manifest with one cell changed; ``row`` counts from 1."""
    table = pq.read_table(path).slice(0, count)
    cells = table[column].to_pylist()
    cells[row - 1] = value
    place = table.schema.get_field_index(column)
    kind = table.schema.field(column).type if not isinstance(value, str) else pa.string()
    pq.write_table(table.set_column(place, column, pa.array(cells, kind)), out)
    return out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("warmupp",), "'warmup'"),
        (("select", "--bugdet", 3), "--budget"),
        (("reweight", "--method", "drect"), "'direct', 'l2rw', 'mw-net', 'fsr', 'gce', 'elr', "),
        (("select", "--budget", "many"), "--budget"),
        (("warmup", "--epochs", 0), "--epochs is 0; it must be at least 1"),
        (("warmup", "--lr", "nan"), "--lr is nan"),
        (("warmup", "--lr", "inf"), "--lr is inf"),
        (("warmup", "--momentum", 2), "--momentum is 2; it must be from 0 to 1"),
        (("ingest",), "'data'"),
        (("evaluate", TEST, "--k", 0), "--k"),
        (("annotate", "lose"), "lose"),
        (("corrupt", TRAIN, "-o", "out", "--noise", "uniform"), "--rate"),
    ],
    ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_is_refused(words: tuple[object, ...], said: str, tmp_path: Path) -> None:
    refusal(metaselect(*words, code=2, cwd=tmp_path), said)
    done = metaselect(*words, "--json", code=2, cwd=tmp_path)
    assert said in f"{as_json(done, 'usage')['message']}"
    assert list(tmp_path.iterdir()) == []


def test_no_command_is_a_usage_error_with_the_help() -> None:
    done = metaselect(code=2)
    assert "Usage: metaselect" in done.out
    assert "The command is missing." in done.err


@pytest.mark.parametrize(
    "words", [("status",), ("select", "--budget", "3"), ("annotate", "export")], ids=" ".join
)
def test_no_run_names_both_ways_to_give_one(words: tuple[str, ...]) -> None:
    refusal(metaselect(*words, code=2), "--run", "METASELECT_RUN")


def test_a_file_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.touch()
    refusal(metaselect("status", run=path, code=2), str(path), "is a file")


def test_the_environment_stands_in_for_the_flag(finished: Path) -> None:
    result = metaselect("status", "--json", env={"METASELECT_RUN": str(finished)}).json
    assert result["run"] == str(finished)
    elsewhere = metaselect("status", run=finished, env={"METASELECT_RUN": "/nowhere"})
    assert str(finished) in elsewhere.out


@pytest.mark.slow
def test_a_missing_file_is_named(tmp_path: Path, finished: Path) -> None:
    nothing = tmp_path / "nothing.parquet"
    refusal(metaselect("ingest", nothing, run=tmp_path / "new", code=3), str(nothing))
    done = metaselect("ingest", nothing, "--json", run=tmp_path / "new", code=3)
    assert str(nothing) in as_json(done, "data")["message"]
    refusal(metaselect("annotate", "import", nothing, run=finished, code=3), str(nothing))
    refusal(metaselect("evaluate", nothing, run=finished, code=3), str(nothing))
    refusal(metaselect("evaluate", TEST, "--truth", nothing, run=finished, code=3), str(nothing))


def test_an_unreadable_image_is_named_with_its_row(tmp_path: Path) -> None:
    cell = {"bytes": b"no image", "path": "x.png"}
    path = changed(TRAIN, tmp_path / "bad.parquet", "image", 7, cell)
    wanted = pq.read_table(path)["sample_id"][6].as_py()
    run = tmp_path / "run"
    refusal(metaselect("ingest", path, run=run, code=3), str(path), "row 7", wanted, "--on-bad-sample skip")
    assert not (run / "data").exists()
    result = metaselect("ingest", path, "--on-bad-sample", "skip", "--json", run=run).json
    assert (result["n"], result["skipped"]) == (29, 1)
    with (run / "data/skipped.csv").open(newline="") as stream:
        assert [row["sample_id"] for row in csv.DictReader(stream)] == [wanted]


def test_a_duplicate_id_is_named_with_its_row(tmp_path: Path) -> None:
    twice = pq.read_table(TRAIN)["sample_id"][0].as_py()
    path = changed(TRAIN, tmp_path / "twice.parquet", "sample_id", 9, twice)
    refusal(metaselect("ingest", path, run=tmp_path / "run", code=3), str(path), "row 9", twice)


def test_a_test_label_outside_the_classes_is_named_with_its_row(tmp_path: Path, warm: Path) -> None:
    table = pq.read_table(TEST).slice(0, 30)
    cells = [str(label) for label in table["label"].to_pylist()]
    cells[4] = "eleven"
    place = table.schema.get_field_index("label")
    path = tmp_path / "exam.parquet"
    pq.write_table(table.set_column(place, "label", pa.array(cells)).replace_schema_metadata(None), path)
    before = seen(warm)
    refusal(metaselect("evaluate", path, run=warm, code=3), str(path), "row 5", "eleven")
    shutil.rmtree(warm / ".work")
    assert seen(warm) == before


@pytest.mark.parametrize("budget", [0, LIMIT + 1, -3])
def test_a_budget_outside_the_pool_is_refused(warm: Path, budget: int) -> None:
    done = metaselect("select", "--budget", budget, run=warm, code=2)
    refusal(done, f"--budget {budget}", f"the pool has {LIMIT} samples", f"from 1 to {LIMIT}")


def test_the_whole_pool_is_a_budget(warm: Path) -> None:
    result = metaselect("select", "--budget", LIMIT, "--method", "random", "--json", run=warm).json
    assert result["selected"] == LIMIT


@pytest.mark.parametrize(
    ("method", "option", "said"),
    [
        ("direct", "speed=3", "Options: step=1.0"),
        ("direct", "step", "has no value"),
        ("direct", "step=fast", "'fast' is not a number"),
        ("direct", "step=-1", "above 0"),
        ("direct", "step=nan", "above 0"),
        ("auto", "step=1", "Options: share=0.5, ema=0.99, priors=auto"),
        ("auto", "share=1.5", "from 0 to 1"),
        ("auto", "ema=1", "at least 0 and below 1"),
        ("auto", "priors=odd", "One of auto, given, balanced"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused(
    finished: Path, method: str, option: str, said: str
) -> None:
    words = (*REWEIGHT, "--method", method, "--option", option)
    refusal(metaselect(*words, run=finished, code=2), "--option", said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("lenet", "needs images of at least 16 pixels, not 8x8"),
        ("lenot", "is not known"),
        ("resnet19", "no model resnet19"),
        ("no.such.module:factory", "cannot be imported"),
    ],
)
def test_a_model_that_is_not_there_or_does_not_fit_is_refused(warm: Path, model: str, said: str) -> None:
    shutil.rmtree(warm / "warmup")
    refusal(metaselect("warmup", "--model", model, run=warm, code=2), f"{model}", said)
    assert not (warm / "warmup").exists()


@pytest.mark.slow
def test_weights_of_another_model_are_refused(warm: Path) -> None:
    weights = warm / "warmup/checkpoints/epoch-0006.safetensors"
    words = ("warmup", "--model", "mlp", "--weights", weights, "--force")
    refusal(metaselect(*words, run=warm, code=3), str(weights), "--model")
    missing = metaselect("warmup", "--weights", warm / "none.safetensors", "--force", run=warm, code=2)
    refusal(missing, "none.safetensors")
    other = metaselect("warmup", "--weights", TRUTH, "--force", run=warm, code=3)
    refusal(other, str(TRUTH))
    metaselect("verify", run=warm)


@pytest.mark.parametrize("name", ["a/b", ".hidden", ""])
def test_a_name_that_is_no_folder_is_refused(finished: Path, name: str) -> None:
    before = seen(finished)
    refusal(metaselect("evaluate", TEST, "--name", name, run=finished, code=2), "--name", repr(name))
    assert seen(finished) == before


def test_a_device_that_is_not_there_is_refused(warm: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refusal(metaselect(*WARMUP, "--device", "cuda", "--force", run=warm, code=2), "--device auto")


@pytest.mark.slow
def test_the_truth_of_other_data_is_refused(tmp_path: Path, finished: Path) -> None:
    lines = TRUTH.read_text().splitlines()
    path = tmp_path / "other.csv"
    path.write_text("\n".join([lines[0], f"x{lines[1]}"]) + "\n")
    refusal(metaselect("evaluate", TEST, "--truth", path, run=finished, code=4), "truth is other data")
    fresh = metaselect("evaluate", TEST, "--truth", path, "--name", "fresh", run=finished, code=3)
    refusal(fresh, str(path), f"none of the {LIMIT} samples", "truth file of the data set")
    shutil.rmtree(finished / "annotate")
    refusal(
        metaselect("annotate", "simulate", path, run=finished, code=3),
        str(path),
        f"none of the {BUDGET} samples",
    )


def test_a_model_that_cannot_start_from_the_warm_up_is_refused(finished: Path) -> None:
    refusal(metaselect("reweight", "--model", "mlp", run=finished, code=2), "convnet", "--init scratch")


def test_a_class_that_drives_the_terminal_is_shown_and_does_not(tmp_path: Path) -> None:
    table = pq.read_table(TRAIN).slice(0, 30)
    evil = "\x1b]0;pwned\x07\x1b[2J\nError: all is lost"
    labels = [str(label) for label in table["label"].to_pylist()]
    place = table.schema.get_field_index("label")
    named = [f"{label}{evil}" for label in labels]
    pool = table.set_column(place, "label", pa.array(named)).replace_schema_metadata(None)
    pq.write_table(pool, tmp_path / "evil.parquet")
    run = tmp_path / "run"
    metaselect("ingest", tmp_path / "evil.parquet", run=run)
    (tmp_path / "odd.csv").write_text("sample_id,clean_label\nx,y\n")
    shown = metaselect("ingest", tmp_path / "evil.parquet", "--label-column", f"l{evil}", run=run, code=4)
    assert "\x1b" not in shown.err
    assert "\x07" not in shown.err
    ids = pool["sample_id"].to_pylist()
    ids[3] = ids[2] = f"id{evil}"
    pq.write_table(pool.set_column(0, "sample_id", pa.array(ids)), tmp_path / "twice.parquet")
    shown = metaselect("ingest", tmp_path / "twice.parquet", run=tmp_path / "other", code=3)
    sentence = refusal(shown, "\\x1b]0;pwned\\x07\\x1b[2J\\nError: all is lost")
    assert sentence.isprintable()
    done = metaselect("ingest", tmp_path / "evil.parquet", "--json", run=run)
    assert done.json["classes"][0].endswith(evil)  # programs get the name as it is


def test_progress_for_programs_is_json_lines(warm: Path) -> None:
    done = metaselect(*WARMUP, "--force", "--progress", "json", "--json", run=warm)
    assert done.json["ok"]
    shown = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert shown
    assert all(set(line) == {"what", "done", "total", "rate", "detail"} for line in shown)
    last = {line["what"]: line for line in shown}  # the last line of each piece of work
    assert list(last) == [
        "warmup",
        "warmup predictions",
        "warmup without fold 1 of 2",
        "warmup without fold 2 of 2",
    ]
    assert last["warmup"]["done"] == last["warmup"]["total"] == 6 * 180  # a tenth is held out


def test_colour_is_only_for_terminals(finished: Path) -> None:
    for words in (("status",), ("status", "--json"), ("--help",)):
        run = None if words == ("--help",) else finished
        done = metaselect(*words, run=run, env={"TERM": "xterm-256color"})
        assert "\x1b" not in done.out + done.err


def test_the_sample_data_is_whole() -> None:
    assert {path.name for path in (TRAIN, TEST, TRUTH)} <= {path.name for path in DATA.iterdir()}
    assert SELECT[-1] == BUDGET
