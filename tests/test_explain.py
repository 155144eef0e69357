"""explain: where a sample stands in a round, against a search over the whole table."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_run import CLASSES, SELECTED, answers, call, make_run
from command_line import environment, metaselect

from metaselect.errors import ArtefactError, UsageError
from metaselect.run.files import write_csv
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.stages.explain import explain as module
from metaselect.stages.explain.explain import explain

DRAWN = (10, 20)
IDS = tuple(f"img-{number:03d}.png" for number in range(60))


def write_round(
    run: Run,
    number: int,
    method: str,
    cluster: np.ndarray,
    similarity: np.ndarray,
    picks: Sequence[int],
    control: Sequence[int] = (),
) -> None:
    """A finished round, as `select` writes it: ``picks`` are positions by rank, behind them the control."""
    folder = run.path(f"select/round-{number}")
    folder.mkdir(parents=True)
    ranks = {int(index): rank for rank, index in enumerate([*picks, *control], start=1)}
    clustered = bool((cluster >= 0).any())
    rows = []
    for index, rank in ranks.items():
        cells: tuple[object, ...] = ("", "", "")
        if clustered and index not in control:
            size = int((cluster == cluster[index]).sum())
            cells = (int(cluster[index]), size, round(size / len(cluster), 6))
        rows.append((IDS[index], rank, *cells, round(float(similarity[index]), 6), int(index in control)))
    write_csv(folder / "selected.csv", SELECTED, rows)
    columns = {
        "sample_id": pa.array(IDS),
        "cluster": pa.array(cluster, pa.int32()),
        "similarity": pa.array(similarity, pa.float32()),
        "rank": pa.array([ranks.get(index) for index in range(len(IDS))], pa.int32()),
    }
    pq.write_table(pa.table(columns), folder / "clusters.parquet", row_group_size=17)
    write_record(folder, StageKey({"method": method}, {}), {})


@pytest.fixture
def clustered(tmp_path: Path) -> Run:
    """7 clusters; similarities with many ties; the control lies outside of all clusters."""
    generator = np.random.default_rng(3)
    run = make_run(tmp_path / "run", IDS)
    cluster = generator.integers(0, 7, len(IDS))
    similarity = (generator.integers(-4, 9, len(IDS)) / 8).astype(np.float32)
    control = (5, 50)
    cluster[list(control)], similarity[list(control)] = -1, 0
    picks = []
    for number in generator.permutation(7):
        members = np.flatnonzero(cluster == number)
        picks.append(int(members[np.argmax(similarity[members])]))
    write_round(run, 1, "rbc", cluster, similarity, picks, control)
    return run


@pytest.fixture
def scored(tmp_path: Path) -> Run:
    """A method without clusters; scores with ties, all below the 0 that stands for the control's."""
    run = make_run(tmp_path / "run", IDS)
    similarity = (np.random.default_rng(4).integers(-9, 0, len(IDS)) / 8).astype(np.float32)
    similarity[list(DRAWN)] = 0
    order = np.lexsort((np.arange(len(IDS)), -similarity))
    picks = [index for index in order.tolist() if index not in DRAWN][:6]
    write_round(run, 1, "certain", np.full(len(IDS), -1), similarity, picks, DRAWN)
    return run


def explained(run: Run, sample_id: str) -> dict[str, Any]:
    """What is said of a sample and of its place in the round, as one mapping."""
    result: Any = explain(run, sample_id).result
    return {**result, **result["selection"]}


def rows_of(run: Run, number: int = 1) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(
        run.path(f"select/round-{number}/clusters.parquet")
    ).to_pylist()
    return table


def ordered(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["sample_id"] for row in sorted(rows, key=lambda row: (-row["similarity"], row["sample_id"]))]


def test_every_sample_stands_where_a_search_over_the_table_finds_it(clustered: Run) -> None:
    rows = rows_of(clustered)
    for index, row in enumerate(rows):
        result = explained(clustered, row["sample_id"])
        assert result["sample_id"] == row["sample_id"]
        assert result["given_label"] == CLASSES[index % 3]
        assert (result["round"], result["method"]) == (1, "rbc")
        assert (result["selected"], result["rank"]) == (row["rank"] is not None, row["rank"])
        assert result["control"] is (index in (5, 50))
        assert (result["score"], result["earlier"], result["answer"]) == (None, [], None)
        assert result["bought"] is False
        if row["cluster"] < 0:
            assert (result["cluster"], result["unjudged"]) == (None, "control")
            continue
        members = [other for other in rows if other["cluster"] == row["cluster"]]
        pivot = min((each for each in members if each["rank"] is not None), key=lambda each: each["rank"])
        assert result["cluster"] == {
            "number": row["cluster"],
            "size": len(members),
            "mass": pytest.approx(len(members) / len(IDS), abs=1e-6),
            "similarity": row["similarity"],
            "place": ordered(members).index(row["sample_id"]) + 1,
            "pivot": {
                "sample_id": pivot["sample_id"],
                "given_label": CLASSES[IDS.index(pivot["sample_id"]) % 3],
                "rank": pivot["rank"],
            },
        }


def test_a_pick_is_the_first_of_its_cluster_and_stands_for_it(clustered: Run) -> None:
    for row in rows_of(clustered):
        if row["rank"] is not None and row["cluster"] >= 0:
            cluster = explained(clustered, row["sample_id"])["cluster"]
            assert cluster["place"] == 1
            assert cluster["pivot"]["sample_id"] == row["sample_id"]


def test_without_clusters_the_score_counts(scored: Run) -> None:
    rows = rows_of(scored)
    order = ordered([row for index, row in enumerate(rows) if index not in DRAWN])
    for index, row in enumerate(rows):
        result = explained(scored, row["sample_id"])
        assert result["cluster"] is None
        if index in DRAWN:
            assert (result["score"], result["unjudged"], result["control"]) == (None, "control", True)
            continue
        place = order.index(row["sample_id"]) + 1
        assert result["score"] == {"value": row["similarity"], "place": place, "pool": len(order)}
        assert result["selected"] is (row["rank"] is not None)
        if place <= 6:
            assert result["rank"] == place


def test_a_cluster_that_lost_its_pick_and_one_with_two(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", IDS)
    cluster = np.arange(len(IDS)) % 3
    cluster[59] = -1
    similarity = np.linspace(0, 1, len(IDS), dtype=np.float32)
    write_round(run, 1, "rbc", cluster, similarity, [57, 58, 0], [59])
    lost = explained(run, IDS[2])["cluster"]
    assert (lost["number"], lost["size"], lost["mass"], lost["pivot"]) == (2, 19, None, None)
    second = explained(run, IDS[0])
    assert (second["rank"], second["cluster"]["place"]) == (3, 20)
    assert second["cluster"]["pivot"]["sample_id"] == IDS[57]


def test_the_latest_round_counts_and_earlier_ones_are_named(clustered: Run) -> None:
    first = {row["sample_id"]: row["rank"] for row in rows_of(clustered)}
    cluster = np.where(np.arange(len(IDS)) % 2 == 0, 0, -1)
    similarity = np.where(cluster < 0, 0, 0.5).astype(np.float32)
    free = next(index for index in range(0, len(IDS), 2) if first[IDS[index]] is None)
    write_round(clustered, 2, "rbc-k", cluster, similarity, [free])
    table = answers(clustered, f"sample_id,clean_label\n{IDS[5]},owl\n{IDS[free]},cat\n")
    assert call(clustered, "import", table) == 0
    old = explained(clustered, IDS[5])
    assert (old["round"], old["method"], old["selected"], old["rank"]) == (2, "rbc-k", False, None)
    assert old["control"] is False
    assert old["earlier"] == [{"round": 1, "rank": 8, "control": True}]
    assert old["answer"] == {"status": "done", "clean_label": "owl", "round": 1}
    assert old["bought"] is True
    assert (old["cluster"], old["score"], old["unjudged"]) == (None, None, "taken")
    new = explained(clustered, IDS[free])
    assert (new["selected"], new["rank"], new["earlier"]) == (True, 1, [])
    assert new["answer"]["clean_label"] == "cat"


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("img-03", "Did you mean 'img-030.png' or 'img-031.png' or 'img-032.png'?"),
        ("IMG-007.PNG", "Did you mean 'img-007.png'?"),
        ("omg-007.png", "'img-007.png'"),
        ("zzz", "There is img-000.png, "),
        ("", "There is img-000.png, "),
    ],
)
def test_an_unknown_id_gets_near_ones(clustered: Run, wanted: str, hint: str) -> None:
    with pytest.raises(UsageError, match="There is no sample") as caught:
        explain(clustered, wanted)
    assert hint in caught.value.hint


def test_near_ids_are_found_in_a_large_pool(clustered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPARED_IDS", 10)
    for index in (0, 3, 31, 59):
        with pytest.raises(UsageError) as caught:
            explain(clustered, IDS[index].replace(".png", ".pnk"))
        assert f"Did you mean {IDS[index]!r}" in caught.value.hint


def test_a_run_without_a_round_names_the_command(tmp_path: Path) -> None:
    result: Any = explain(make_run(tmp_path / "run"), "s0").result
    assert (result["selection"], result["doubt"], result["trace"]) == (None, None, None)
    assert [row["part"] for row in result["missing"]] == ["selection", "doubt", "trace"]
    assert all("metaselect warmup" in row["hint"] for row in result["missing"])  # what all would ask for
    with pytest.raises(ArtefactError, match="There is no run"):
        explain(Run(tmp_path / "none"), "s0")


def test_damage_and_other_data_are_named(clustered: Run, tmp_path: Path) -> None:
    larger = make_run(tmp_path / "larger", [*IDS, "new"])
    clustered.path("select").rename(larger.path("select"))
    with pytest.raises(ArtefactError, match="it has no sample new"):
        explain(larger, "new")
    path = larger.path("select/round-1/clusters.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"clusters\.parquet is damaged"):
        explain(larger, IDS[0])


def shown(run: Run, sample_id: str) -> list[str]:
    said = metaselect("explain", sample_id, run=run.root)
    assert said.err == ""
    *lines, doubt, trace = said.out.splitlines()
    assert all("has no re-weighting. First run: metaselect warmup" in line for line in (doubt, trace))
    return lines


def test_people_read_lines(clustered: Run) -> None:
    rows = rows_of(clustered)
    pivot = next(row for row in rows if row["rank"] == 1)
    other = next(row for row in rows if row["cluster"] == pivot["cluster"] and row["rank"] is None)
    lines = shown(clustered, other["sample_id"])
    label = CLASSES[IDS.index(other["sample_id"]) % 3]
    assert lines[:2] == [f"{other['sample_id']}: given label {label}", "Round 1, method rbc: not selected"]
    assert lines[2].startswith(f"Cluster {pivot['cluster']}: ")
    assert lines[2].endswith("% of the pool's mass")
    assert f"Similarity {other['similarity']:.6f}: place " in lines[3]
    assert lines[4].startswith(f"{pivot['sample_id']} (given label ")
    assert lines[4].endswith(", rank 1) represents this cluster.")
    assert lines[5:] == ["Answer: none"]
    assert "It represents this cluster itself." in shown(clustered, pivot["sample_id"])
    drawn = shown(clustered, IDS[5])
    assert drawn[1] == "Round 1, method rbc: rank 8, drawn at random for the control"
    assert drawn[2] == "The method gave it no score: it was drawn for the control before the method ran."
    table = answers(clustered, f"sample_id,clean_label,status\n{IDS[5]},owl,\n{IDS[50]},,bad_sample\n")
    assert call(clustered, "import", table) == 0
    assert shown(clustered, IDS[5])[-1] == "Answer: label owl (round 1)"
    assert shown(clustered, IDS[50])[-1] == "Answer: unusable (round 1)"


def test_people_read_scores_and_why_there_is_no_cluster(scored: Run) -> None:
    best = next(row for row in rows_of(scored) if row["rank"] == 1)
    lines = shown(scored, best["sample_id"])
    assert lines[1:3] == [
        "Round 1, method certain: rank 1",
        f"Score {best['similarity']:g}: place 1 of 58, the highest first",
    ]
    others = [row["sample_id"] for row in rows_of(scored) if row["rank"] is None]
    cluster = np.where(np.isin(IDS, others[:3]), 0, -1)
    write_round(scored, 2, "rbc", cluster, np.zeros(len(IDS), np.float32), [IDS.index(others[0])])
    lines = shown(scored, best["sample_id"])
    assert lines[2] == "The method gave it no score: it was selected or labelled before."
    assert lines[3] == "Selected in round 1: rank 1"
    near = "The method gave it no score: it is in the half of the pool that is closer to selected or labelled samples."
    assert shown(scored, others[3])[2] == near
    assert shown(scored, others[1])[2].startswith("Cluster 0: 3 samples")


def test_where_all_was_drawn_at_random_nothing_is_judged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", IDS)
    write_round(run, 1, "rbc", np.full(len(IDS), -1), np.zeros(len(IDS), np.float32), [], [4, 9])
    assert shown(run, IDS[9])[1] == "Round 1, method rbc: rank 2, drawn at random for the control"
    lines = shown(run, IDS[0])
    assert lines[2] == "The method gave it no score: the whole budget was drawn at random."
    result = explained(run, IDS[0])
    assert (result["score"], result["cluster"], result["unjudged"]) == (None, None, "all_random")


def test_programs_read_one_object_and_torch_is_not_imported(clustered: Run) -> None:
    program = (
        "import sys; from metaselect.cli.main import main;"
        "assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    )
    words = ["explain", IDS[0], "--json", "--run", str(clustered.root)]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, env=environment()
    )
    printed = json.loads(done.stdout)
    assert (printed["ok"], printed["schema_version"], printed["sample_id"]) == (True, 1, IDS[0])
    assert printed["selection"]["cluster"]["pivot"]["rank"] >= 1
