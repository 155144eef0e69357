"""`metaselect annotate export --repeats` and `--conflicts`: what is asked again, unnoticed or of somebody else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from annotation_run import add_round, answers, call, csv_rows, error, make_run, meta_set, result, rows_of
from hypothesis import given
from hypothesis import strategies as st

from metaselect.annotation import ledger
from metaselect.annotation.formats.base import Item
from metaselect.annotation.repeats import choose_repeats, insert_repeats
from metaselect.annotation.rounds import find_round
from metaselect.run.layout import Run

IDS = [f"s{number:03d}" for number in range(60)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(
        tmp_path / "run", [f"s{number:03d}" for number in range(0, 999, 3)] + IDS[1::3] + IDS[2::3]
    )
    add_round(made, 1, IDS[:40])
    return made


def fill(run: Run, labels: dict[str, str], annotator: str = "anna", form: str = "labels.csv") -> str:
    """The form, answered with these labels by the id that it shows, and cat elsewhere."""
    path = run.path(f"export/round-1/{form}")
    lines = [
        f"{row['batch_id']},{row['sample_id']},{labels.get(row['sample_id'], 'cat')},{annotator}"
        for row in csv_rows(path)
    ]
    return answers(run, "\n".join(["batch_id,sample_id,clean_label,annotator", *lines]), f"{annotator}.csv")


def test_a_form_shows_some_samples_twice_and_does_not_say_which(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    got = result(run, capsys, "export", "--repeats", "0.1")
    assert got["samples"] == 44
    rows = csv_rows(run.path("export/round-1/labels.csv"))
    known = {row["repeat_id"]: row["sample_id"] for row in csv_rows(run.path("annotate/repeats.csv"))}
    shown = [row["sample_id"] for row in rows]
    assert len(known) == 4
    assert set(shown) == {*IDS[:40], *known}
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 45)]
    assert len({tuple(row.values())[:1] for row in rows}) == 1  # one batch
    assert {(row["cluster"], row["cluster_size"]) for row in rows} == {
        ("", "")
    }  # of a repeat it would come twice
    for repeat_id, sample_id in known.items():
        assert len(repeat_id) == 4
        assert repeat_id[0] == "s"
        assert repeat_id[1:].isdecimal()
        assert repeat_id not in IDS
        assert shown.index(repeat_id) > shown.index(sample_id) + 1
    before = run.path("export/round-1/labels.csv").read_bytes()
    assert call(run, "export", "--repeats", "0.1") == 0
    assert run.path("export/round-1/labels.csv").read_bytes() == before
    assert len(csv_rows(run.path("annotate/repeats.csv"))) == 4


def test_a_form_does_not_tell_control_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_round(run, 1, ["s3", "s1"])
    add_round(run, 2, ["s2", "s0"], control=["s0"])
    shown = {}
    for number in ("1", "2"):
        assert call(run, "export", "--round", number) == 0
        rows = csv_rows(run.path(f"export/round-{number}/labels.csv"))
        shown[number] = [(row["cluster"], row["cluster_size"]) for row in rows]
    assert shown == {"1": [("0", "2")] * 2, "2": [("", "")] * 2}


def test_answers_for_repeats_count_nowhere_but_for_the_annotator(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export", "--repeats", "0.1") == 0
    known = {row["repeat_id"]: row["sample_id"] for row in csv_rows(run.path("annotate/repeats.csv"))}
    first, *_ = known
    got = result(run, capsys, "import", fill(run, {first: "dog"}), "--require-complete")
    assert (got["matched"], got["repeated"], got["new_votes"]) == (40, 4, 44)
    assert (got["missing"], got["tied"], got["unknown"], got["bought"]) == (0, 0, 0, 40)
    assert meta_set(run) == dict.fromkeys(IDS[:40], "cat")
    status = result(run, capsys, "status")
    skill = status["agreement"]["annotators"]["anna"]
    assert (skill["repeated"], skill["repeated_same"]) == (4, 3)
    assert status["annotators"]["anna"]["done"] == 40
    assert result(run, capsys, "import", fill(run, {first: "dog"}))["new_votes"] == 0
    assert result(run, capsys, "undo")["withdrawn"] == 44
    assert result(run, capsys, "status")["agreement"]["annotators"] == {}
    run.stage("annotate").check(thorough=True)


def test_a_repeat_without_its_form_is_still_known_and_goes_with_its_round(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export", "--repeats", "0.1") == 0
    repeat_id = csv_rows(run.path("annotate/repeats.csv"))[0]["repeat_id"]
    bare = answers(run, f"sample_id,clean_label\n{repeat_id},cat\n")
    assert result(run, capsys, "import", bare)["repeated"] == 1
    assert result(run, capsys, "status")["rounds"][0]["missing"] == 39
    assert ledger.remove_round(run, 1) == 1


def test_a_repeat_counts_until_its_annotator_answers_the_sample_itself(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, "export", "--repeats", "0.1") == 0
    known = {row["repeat_id"]: row["sample_id"] for row in csv_rows(run.path("annotate/repeats.csv"))}
    header = "sample_id,clean_label,annotator\n"
    later = answers(run, header + "".join(f"{each},cat,anna\n" for each in known), "later.csv")
    capsys.readouterr()
    assert call(run, "import", later) == 0
    assert "no answer yet" not in capsys.readouterr().err
    assert meta_set(run) == dict.fromkeys(known.values(), "cat")
    got = result(run, capsys, "import", later)
    assert (got["repeated"], got["new_votes"], got["missing"], got["bought"]) == (4, 0, 36, 4)
    skill = result(run, capsys, "status")["agreement"]["annotators"]["anna"]
    assert (skill["repeated"], skill["repeated_same"]) == (0, 0)  # no first answer to compare with
    first, *others = known.values()
    other = answers(run, f"{header}{first},owl,ben\n", "ben.csv")
    assert result(run, capsys, "import", other)["tied"] == 1  # two people, two answers
    own = answers(run, f"{header}{first},owl,anna\n", "own.csv")
    got = result(run, capsys, "import", own)
    assert (got["tied"], got["new_votes"], got["replaced"]) == (0, 1, 0)
    assert meta_set(run) == dict.fromkeys(others, "cat") | {first: "owl"}
    skill = result(run, capsys, "status")["agreement"]["annotators"]["anna"]
    assert (skill["repeated"], skill["repeated_same"]) == (1, 0)
    assert result(run, capsys, "undo")["withdrawn"] == 1
    assert result(run, capsys, "undo", "--import", "2")["withdrawn"] == 1
    assert meta_set(run) == dict.fromkeys(known.values(), "cat")
    assert call(run, "export", "-o", str(run.root.parent / "open.csv")) == 0
    assert len(csv_rows(run.root.parent / "open.csv")) == 36
    run.stage("annotate").check(thorough=True)


def test_images_of_repeats_are_copies_under_their_own_names(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_originals(
        run: Run, sample_ids: Sequence[str], folder: Path, stems: Mapping[str, str]
    ) -> dict[str, str]:
        folder.mkdir(parents=True)
        for sample_id in sample_ids:
            (folder / f"{stems[sample_id]}.png").write_bytes(sample_id.encode())
        return {sample_id: f"{stems[sample_id]}.png" for sample_id in sample_ids}

    monkeypatch.setattr("metaselect.data.originals.write_originals", write_originals)
    assert call(run, "export", "--repeats", "0.1") == 0
    folder = run.path("export/round-1")
    known = {row["repeat_id"]: row["sample_id"] for row in csv_rows(run.path("annotate/repeats.csv"))}
    for row in csv_rows(folder / "labels.csv"):
        assert row["image"] == f"images/{row['sample_id']}.png"
        shown = (folder / row["image"]).read_bytes().decode()
        assert shown == known.get(row["sample_id"], row["sample_id"])


def item(sample_id: str, rank: int) -> Item:
    return Item(sample_id, "", "", str(rank), "0", "1")


names = st.lists(
    st.text("ab1é '=", min_size=1, max_size=3).filter(str.strip), min_size=2, max_size=12, unique=True
)


@given(pool=names, share=st.floats(0.01, 0.5), data=st.data())
def test_repeats_have_ids_of_their_own_and_stand_behind_their_samples(
    pool: Any, share: Any, data: Any
) -> None:
    ids = data.draw(st.permutations(pool))[: data.draw(st.integers(2, len(pool)))]
    repeats = choose_repeats(ids, share, "b", pool, [])
    assert len(repeats) == min(max(round(share * len(ids)), 1), len(ids) // 2)
    mine = {each.repeat_id.casefold() for each in repeats}
    assert len(mine) == len(repeats)
    assert not mine & {each.casefold() for each in pool}
    assert len({each.sample_id for each in repeats} & set(ids)) == len(repeats)
    woven = insert_repeats(
        [item(each, rank) for rank, each in enumerate(ids, start=1)], repeats, lambda *_: ""
    )
    shown = [each.sample_id for each in woven]
    assert [each for each in shown if each in pool] == list(ids)
    for each in repeats:
        assert shown.index(each.repeat_id) > shown.index(each.sample_id)
    assert choose_repeats(ids, share, "b", pool, repeats) == repeats


def test_a_form_of_one_sample_has_no_repeat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    add_round(run, 1, ["s0"])
    assert result(run, capsys, "export", "--repeats", "0.5")["samples"] == 1
    assert "from 0 to 0.5" in error(run, capsys, "export", "--repeats", "0.6", code=2)


TWO = "sample_id,clean_label,annotator\n" + "".join(
    f"{name},cat,anna\n{name},{'dog' if name in ('s003', 's007') else 'cat'},ben\n" for name in IDS[:20]
)


def test_conflicts_go_out_alone_and_a_third_vote_decides(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert result(run, capsys, "import", answers(run, TWO))["tied"] == 2
    got = result(run, capsys, "export", "--conflicts")
    assert got["samples"] == 2
    rows = csv_rows(run.path("export/round-1/conflicts/labels.csv"))
    assert [row["sample_id"] for row in rows] == ["s003", "s007"]
    batch = find_round(run, 1).batch_id
    assert {row["batch_id"] for row in rows} == {got["batch_id"]}
    assert got["batch_id"].startswith(f"{batch}-")
    form = fill(run, {"s003": "dog"}, "carl", "conflicts/labels.csv")
    done = result(run, capsys, "import", form)
    assert (done["tied"], done["new_votes"], done["bought"]) == (0, 2, 20)
    assert (meta_set(run)["s003"], meta_set(run)["s007"]) == ("dog", "cat")
    assert {vote.round for vote in ledger.read_ledger(run).votes} == {1}


def test_the_batch_of_a_conflict_says_its_round(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its samples may be selected again in a later round."""
    assert call(run, "import", answers(run, TWO)) == 0
    assert call(run, "export", "--conflicts", "--round", "1") == 0
    add_round(run, 2, ["s003", "s007", "s050"])
    assert call(run, "import", fill(run, {}, "carl", "conflicts/labels.csv")) == 0
    assert [vote.round for vote in ledger.read_ledger(run).votes if vote.annotator == "carl"] == [1, 1]


def test_without_a_conflict_there_is_no_form(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(run, "export", "--conflicts") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Round 1 has no tied sample" in captured.err
    assert "exclude each other" in error(run, capsys, "export", "--conflicts", "--all", code=2)


def test_conflicts_go_to_stdout_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(run, "import", answers(run, TWO)) == 0
    capsys.readouterr()
    assert call(run, "export", "--conflicts", "-o", "-") == 0
    captured = capsys.readouterr()
    assert [row["sample_id"] for row in rows_of(captured.out)] == ["s003", "s007"]
    assert "Somebody new decides" in captured.err
    (line,) = [each for each in captured.err.splitlines() if "then: metaselect" in each]
    assert line.endswith(f"metaselect annotate import FILE {run.flag}")
    assert "NAME" not in line
