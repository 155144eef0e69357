"""Pool samples without a label: read, selected, bought, listed everywhere, and trained on by nothing before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import metaselect, states, tree
from data_makers import write_rows
from safetensors.torch import load_file

from metaselect.data.classes import class_metadata
from metaselect.models.cross_fit import stratified_folds
from metaselect.models.neighbours import neighbour_votes
from metaselect.reweighting.auto.transition import (
    counted_transition,
    given_likelihood,
    posterior,
    symmetric_transition,
    wrong_rate,
)

LABELLED, K = 60, 3
CLEAN = np.arange(LABELLED) % K
GIVEN = np.where(np.arange(LABELLED) % 5 == 0, (CLEAN + 1) % K, CLEAN)  # 20 % wrong
# Whole numbers, so that means and deviations of the pool with every row twice are exactly the same.
ROWS = np.random.default_rng(3).integers(-4, 5, (LABELLED, 6)) + 6 * np.eye(K, 6, dtype=int)[CLEAN]


def write_pool(path: Path, labels: list[str | None], *, prefix: str = "a", shift: int = 0) -> Path:
    """A pool whose sample i has row i of ``ROWS``, after the last from the start plus ``shift``; ids keep the order.

    With a shift no two samples are equal.
    """
    n = len(labels)
    columns = {
        "sample_id": [f"{prefix if i < LABELLED else 'z'}{i:04d}" for i in range(n)],
        "features": pa.array(
            [(ROWS[i % LABELLED] + shift * (i // LABELLED)).astype(float).tolist() for i in range(n)]
        ),
        "label": pa.array(labels, pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def names(labels: np.ndarray) -> list[str | None]:
    return [f"k{label}" for label in labels]


@pytest.fixture
def twice(tmp_path: Path) -> tuple[Path, Path]:
    """A pool, and the same with every sample once more without a label."""
    plain = write_pool(tmp_path / "plain.parquet", names(GIVEN))
    return plain, write_pool(tmp_path / "twice.parquet", [*names(GIVEN), *[None] * LABELLED])


def truth_of(data: Path) -> Path:
    ids = pq.read_table(data)["sample_id"].to_pylist()
    rows = [(name, f"k{CLEAN[i % LABELLED]}") for i, name in enumerate(ids)]
    return write_rows(data.with_suffix(".truth.csv"), ["sample_id", "clean_label"], rows)


# Reading


@pytest.mark.parametrize("blank", ["", "nan", "NULL", " "])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_samples_without_a_label_are_kept(tmp_path: Path, form: str, blank: str) -> None:
    rows = [(f"i{n}", n, blank if n % 4 == 3 else "ab"[n % 2]) for n in range(8)]
    data = write_rows(tmp_path / "d.csv", ["id", "x0", "label"], rows)
    if form == "jsonl":
        data = tmp_path / "d.jsonl"
        data.write_text(
            "".join(json.dumps(dict(zip(("id", "x0", "label"), row, strict=True))) + "\n" for row in rows)
        )
    if form == "parquet":
        data = tmp_path / "d.parquet"
        pq.write_table(pa.table(dict(zip(("id", "x0", "label"), zip(*rows, strict=True), strict=True))), data)
    done = metaselect("ingest", data, "--feature-columns", "x*", "--json", run=tmp_path / "run")
    assert (done.json["n"], done.json["unlabelled"], done.json["classes"]) == (8, 2, ["a", "b"])
    assert "2 of 8 samples have no label" in done.err
    given = pq.read_table(tmp_path / "run/data/samples.parquet")["given_label"].to_pylist()
    assert given == [None if n % 4 == 3 else "ab"[n % 2] for n in range(8)]
    assert "is up to date" in metaselect("ingest", data, "--feature-columns", "x*", run=tmp_path / "run").err
    # What is judged must have labels.
    refused = metaselect("corrupt", data, "-o", tmp_path / "o", "--feature-columns", "x*", "--noise", "uniform",
                         "--rate", 0.1, code=3)  # fmt: skip
    assert "row 5, id i3: it" in refused.err or "row 4, id i3: it" in refused.err


def test_minus_one_is_no_label(tmp_path: Path) -> None:
    """Beside 0 to K-1 in a table, and beside the declared classes of a Hugging Face data set."""
    data = write_rows(tmp_path / "d.csv", ["id", "x0", "label"], [(f"i{n}", n, n % 3 - 1) for n in range(9)])
    done = metaselect("ingest", data, "--feature-columns", "x*", "--json", run=tmp_path / "run")
    assert (done.json["unlabelled"], done.json["classes"]) == (3, ["0", "1"])
    table = pa.table({"id": list("pqrs"), "features": [[1.0]] * 4, "label": [0, 1, -1, 1]})
    pq.write_table(
        table.replace_schema_metadata(class_metadata("label", ["u", "v"], {})), tmp_path / "h.parquet"
    )
    done = metaselect("ingest", tmp_path / "h.parquet", "--json", run=tmp_path / "hub")
    assert (done.json["unlabelled"], done.json["classes"]) == (1, ["u", "v"])


def test_a_pool_without_any_label_is_refused(tmp_path: Path) -> None:
    data = write_pool(tmp_path / "d.parquet", [None] * 6)
    assert (
        "has no label; there must be at least 2 classes"
        in metaselect("ingest", data, run=tmp_path / "r", code=3).err
    )


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    data = write_pool(tmp_path / "d.parquet", [None if n % 7 == 2 else f"k{n % 3}" for n in range(30)])
    table = pq.read_table(data)
    shuffled = tmp_path / "s.parquet"
    pq.write_table(table.take(np.random.default_rng(1).permutation(30)), shuffled)
    found = []
    for path, name in ((data, "a"), (shuffled, "b")):
        metaselect("ingest", path, run=tmp_path / name)
        found.append({key: raw for key, raw in tree(tmp_path / name / "data").items() if key != "stage.json"})
    assert found[0] == found[1]


# Training


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_samples_without_a_label_change_no_warmup(
    twice: tuple[Path, Path], tmp_path: Path, model: str
) -> None:
    """The models, and what they say of the others, are those of the pool without them."""
    runs = []
    for number, data in enumerate(twice):
        runs.append(tmp_path / f"run-{number}")
        metaselect("warmup", data, "--model", model, run=runs[-1])
    plain, more = runs
    checkpoints = sorted(path.name for path in (plain / "warmup/checkpoints").iterdir())
    for name in checkpoints:
        ours, theirs = (load_file(run / "warmup/checkpoints" / name) for run in (more, plain))
        for key, value in theirs.items():
            torch.testing.assert_close(
                ours[key], value, rtol=1e-3 if model == "linear" else 0, atol=1e-4 if model == "linear" else 0
            )
    tables = [pq.read_table(run / "warmup/predictions.parquet") for run in (more, plain)]
    for column in ("probs", "out_of_fold", "neighbours"):
        ours_all, theirs_all = (np.array(table[column].to_pylist()) for table in tables)
        np.testing.assert_allclose(ours_all[:LABELLED], theirs_all, atol=2e-3)
        # A copy without a label has no label that a fold could hide: it is predicted, too.
        np.testing.assert_allclose(ours_all[LABELLED:].sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("method", ["uniform", "direct", "l2rw", "mw-net", "fsr", "gce", "elr", "auto"])
def test_every_method_trains_on_samples_with_a_label_alone(tmp_path: Path, method: str) -> None:
    data = write_pool(tmp_path / "both.parquet", [*names(GIVEN), *[None] * LABELLED], shift=1)
    run = tmp_path / "run"
    metaselect("warmup", data, "--model", "mlp", "--epochs", 2, run=run)
    metaselect("select", "--method", "random", "--budget", 24, run=run)
    metaselect("annotate", "simulate", truth_of(data), run=run)
    done = metaselect("reweight", "--method", method, "--epochs", 2, "--folds", 2, "--json", run=run)
    table = pq.read_table(run / f"reweight/{method}/weights.parquet").to_pylist()
    bought = {row["sample_id"] for row in table if row["bought"]}
    assert len(bought) == 24
    assert {row["given_label"] for row in table if row["sample_id"] in bought} >= {None, "k0"}
    for row in table:
        none = row["given_label"] is None
        assert none == row["sample_id"].startswith("z")
        if row["sample_id"] in bought:
            assert (row["weight"], row["weight_kind"], row["label_issue_rank"]) == (1, "bought", None)
        elif none:
            assert (row["weight"], row["weight_kind"], row["label_issue_rank"]) == (0, "unlabelled", None)
        else:
            assert 0 <= row["weight"] <= 1
            assert row["label_issue_rank"] >= 1
    left = sum(row["given_label"] is not None and not row["bought"] for row in table)
    assert done.json["comparison"]["not_bought"] == left
    assert done.json["wrong_labels"]["not_bought"] == left


def test_a_bought_label_is_trained_on_whether_there_was_a_given_one_or_not(tmp_path: Path) -> None:
    """`uniform` from scratch sees bought labels in place of given ones, and so the same labels in both pools."""
    rest = list(range(30, LABELLED))
    models = []
    for number, hidden in enumerate(("k1", None)):  # the given labels of the samples that are bought
        labels = [name if i in rest else hidden for i, name in enumerate(names(GIVEN))]
        data = write_pool(tmp_path / f"{number}.parquet", labels)
        run = tmp_path / f"run-{number}"
        metaselect("ingest", data, run=run)
        metaselect("select", "--method", "random", "--budget", LABELLED, run=run)
        rows = [(f"a{i:04d}", f"k{CLEAN[i]}") for i in range(30)]
        answers = write_rows(tmp_path / f"{number}.csv", ["sample_id", "clean_label"], rows)
        metaselect("annotate", "import", answers, run=run)
        metaselect("reweight", "--method", "uniform", "--init", "scratch", "--model", "mlp", "--epochs", 3,
                   "--folds", 0, run=run)  # fmt: skip
        models.append((run / "reweight/uniform/model.safetensors").read_bytes())
    assert models[0] == models[1]


# Selection, and what people see


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *(
            (name, ())
            for name in ("rbc", "gbc", "badge", "k-center", "k-means", "typiclust", "craig", "uncertain")
        ),
        *((name, ()) for name in ("low-self-confidence", "certain", "disagreement", "auto")),
        ("rbc", ("--gradient", "full")),
        ("gbc", ("--gradient", "full")),
        ("k-means", ("--min-per-class", 3)),
    ],
)
def test_every_selector_can_choose_them(
    warm_both: Path, tmp_path: Path, method: str, more: tuple[object, ...]
) -> None:
    import shutil

    run = Path(shutil.copytree(warm_both, tmp_path / "run"))
    first: Any = ("select", "--method", "random", "--budget", 6)
    if method == "disagreement":
        metaselect(*first, run=run)
        metaselect("annotate", "simulate", truth_of(warm_both.parent / "both.parquet"), run=run)
        more = (*more, "--round", "next")
    done = metaselect("select", "--method", method, "--budget", 80, *more, "--json", run=run)
    assert done.json["selected"] == 80
    number = 2 if method == "disagreement" else 1
    chosen = (run / f"select/round-{number}/selected.csv").read_text()
    assert ",z" in chosen.replace("\n", ",")  # 80 of 120, of which 60 have a label


@pytest.fixture(scope="module")
def warm_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    data = write_pool(folder / "both.parquet", [*names(GIVEN), *[None] * LABELLED], shift=1)
    metaselect("warmup", data, "--model", "mlp", "--epochs", 2, run=folder / "run")
    return folder / "run"


def test_they_stand_in_forms_explanations_and_evaluations(warm_both: Path, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(warm_both, tmp_path / "run"))
    data = warm_both.parent / "both.parquet"
    metaselect("select", "--method", "random", "--budget", 40, "--control", 0.5, run=run)
    metaselect("annotate", "export", "--show-given", "-o", tmp_path / "form.csv", run=run)
    shown = (tmp_path / "form.csv").read_text()
    assert "None" not in shown
    chosen = [
        line.split(",")[0] for line in (run / "select/round-1/selected.csv").read_text().splitlines()[1:]
    ]
    blank = next(name for name in chosen if name.startswith("z"))
    explained = metaselect("explain", blank, "--json", run=run)
    assert explained.json["given_label"] is None
    assert f"{blank}: no given label" in metaselect("explain", blank, run=run).out
    simulated = metaselect("annotate", "simulate", truth_of(data), "--json", run=run)
    assert simulated.json["bought"] == 40
    # Whether a label is wrong can be asked only where there is one.
    drawn = [line.split(",") for line in (run / "select/round-1/selected.csv").read_text().splitlines()[1:]]
    control = [cells[0] for cells in drawn if cells[-1] == "1"]
    assert simulated.json["noise_estimate"]["answered"] == sum(name.startswith("a") for name in control)
    metaselect("reweight", "--method", "uniform", "--epochs", 1, "--folds", 0, run=run)
    test = write_pool(tmp_path / "test.parquet", names(CLEAN), prefix="t")
    judged = metaselect("evaluate", test, "--truth", truth_of(data), "--json", run=run)
    assert judged.json["noise"]["samples"] == LABELLED
    assert judged.json["noise"]["measured_rate"] == pytest.approx((CLEAN != GIVEN).mean())
    assert states(run, 0)["evaluate/test"][0] == "done"
    # A test set is judged whole: there, a missing label is a bad sample.
    gap = write_pool(tmp_path / "gap.parquet", [None, *names(CLEAN)[1:]], prefix="t")
    assert "row 1, id t0000: it has no label" in metaselect("evaluate", gap, run=run, code=3).err


# Arithmetic


def test_a_missing_label_says_nothing_of_the_class() -> None:
    draw = torch.Generator().manual_seed(0)
    probs = torch.rand(50, K, generator=draw).softmax(1)
    transition = torch.rand(K, K, generator=draw).softmax(1)
    given = torch.randint(-1, K, (50,), generator=draw)
    likelihood = given_likelihood(transition, given)
    for i in range(50):
        for k in range(K):
            assert likelihood[i, k] == (1 if given[i] < 0 else transition[k, given[i]])
    found = posterior(probs, transition, given)
    torch.testing.assert_close(found[given < 0], probs[given < 0])
    torch.testing.assert_close(found[given >= 0], posterior(probs[given >= 0], transition, given[given >= 0]))


def test_t_is_counted_on_samples_with_a_label_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    probs = torch.rand(40, K, generator=draw).softmax(1)
    given = torch.randint(0, K, (40,), generator=draw)
    known, answers = torch.arange(0, 40, 4), torch.randint(0, K, (10,), generator=draw)
    missing = given.clone()
    missing[known[3:6]] = -1
    kept = torch.ones(40, dtype=torch.bool)
    kept[known[3:6]] = False
    place = kept.cumsum(0) - 1
    stays = torch.ones(10, dtype=torch.bool)
    stays[3:6] = False
    expected = counted_transition(probs[kept], given[kept], place[known[stays]], answers[stays])
    torch.testing.assert_close(counted_transition(probs, missing, known, answers), expected)
    assert wrong_rate(missing[known], answers) == wrong_rate(given[known[stays]], answers[stays])
    assert torch.equal(symmetric_transition(0.2, K).sum(1), torch.ones(K))


def test_folds_and_votes_of_the_others_stay() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 1, 0, 0, 1])
    more = torch.cat([labels, torch.full((5,), -1)])
    made = [stratified_folds(each, 3, torch.Generator().manual_seed(5)) for each in (labels, more)]
    assert torch.equal(made[1][:10], made[0])
    assert sorted(made[1][10:].tolist()) == [0, 0, 1, 1, 2]
    rows = torch.randn(15, 4, generator=torch.Generator().manual_seed(2))
    votes = [
        neighbour_votes(rows[: len(each)], each, K, 3, torch.Generator().manual_seed(0))
        for each in (labels, more)
    ]
    torch.testing.assert_close(votes[1][:10], votes[0])
    similarity = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows[:10]).T
    for row in range(10, 15):
        nearest = labels[similarity[row].topk(3).indices]
        torch.testing.assert_close(votes[1][row], torch.bincount(nearest, minlength=K) / 3)
