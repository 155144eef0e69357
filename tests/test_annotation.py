"""Votes, consensus, rounds and the form: oracles and properties, without the command line."""

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from annotation_run import add_round, make_run, meta_set, rows_of, votes_of
from data_makers import Listener
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from metaselect.annotation import ledger
from metaselect.annotation.consensus import Verdict, aggregate_votes, latest_votes, meta_set_text
from metaselect.annotation.rounds import bought_samples, find_round, round_is_closed
from metaselect.annotation.votes import STATUSES, Vote, append_votes, parse_votes, read_votes
from metaselect.errors import ArtefactError
from metaselect.options import ExportOptions, ImportOptions
from metaselect.run.layout import Run
from metaselect.stages.annotate import exchange as annotate
from metaselect.text import escape_formula

DANGEROUS = [
    "=cmd|x",
    "+1",
    "-5",
    "@sum",
    "\tx",
    "\rx",
    "'",
    "'=x",
    "''=x",
    "007",
    "1e5",
    "a,b",
    'q"q',
    "x\ny",
]
# Surrogates have no UTF-8; ids and names of nothing but space do not get through ingest.
names = st.one_of(
    st.sampled_from(DANGEROUS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip),
)
many_names = st.lists(names, min_size=2, max_size=6, unique=True)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def vote(sample_id: str, label: str, annotator: str = "anna", status: str = "done", number: int = 1) -> Vote:
    return Vote(sample_id, label, annotator, status, "", number, "2026-01-01T00:00:00Z")


def filled_in(text: str, answers: dict[str, str], line_end: str = "\n") -> str:
    """The form with ``answers``, by sample_id as the form spells it, as the cells of clean_label."""
    rows = rows_of(text)
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({**row, "clean_label": answers[row["sample_id"]]} for row in rows)
    return out.getvalue()


@quick
@given(ids=many_names, classes=many_names, seed=st.randoms(use_true_random=False))
@example(ids=["=x", "'=x", "''=x"], classes=["-", "'-", "''-"], seed=Random(0))
def test_export_then_answer_then_import_is_the_identity(ids: Any, classes: Any, seed: Random) -> None:
    chosen = {sample_id: seed.choice(classes) for sample_id in ids}
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", ids, classes)
        add_round(run, 1, seed.sample(ids, len(ids)))
        form = Path(folder) / "form.csv"
        annotate.export(run, ExportOptions(output=str(form), images=False), Listener())
        answers = {escape_formula(sample_id): escape_formula(label) for sample_id, label in chosen.items()}
        text = filled_in(form.read_bytes().decode(), answers, seed.choice(["\n", "\r\n"]))
        form.write_bytes(text.encode(seed.choice(["utf-8", "utf-8-sig"])))
        outcome = annotate.import_file(run, str(form), ImportOptions(require_complete=True), Listener())
        assert outcome.unmet == ""
        assert (outcome.result["matched"], outcome.result["new_votes"]) == (len(ids), len(ids))
        assert meta_set(run) == chosen
        assert list(meta_set(run)) == sorted(ids)


@settings(quick, max_examples=8)
@given(seed=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_byte_but_the_time(seed: Random) -> None:
    lines = [
        f"s{number},{seed.choice(['cat', 'dog'])},{who}" for number in range(5) for who in ("anna", "ben")
    ]
    results = []
    for order in (lines, seed.sample(lines, len(lines))):
        with tempfile.TemporaryDirectory() as folder:
            run = make_run(Path(folder))
            add_round(run, 1, [f"s{number}" for number in range(5)])
            table = Path(folder) / "answers.csv"
            table.write_text("\n".join(["sample_id,clean_label,annotator", *order]))
            annotate.import_file(run, str(table), ImportOptions(), Listener())
            results.append((votes_of(run), run.path("annotate/meta_set.csv").read_bytes()))
    assert results[0] == results[1]


@given(
    st.lists(
        st.builds(
            vote,
            st.sampled_from(["a", "b"]),
            st.sampled_from(["cat", "dog"]),
            st.sampled_from(["x", "y", "z", "w"]),
            st.sampled_from(STATUSES),
            st.integers(0, 2),
        ),
        max_size=12,
    )
)
def test_the_consensus_is_what_counting_by_hand_gives(votes: list[Vote]) -> None:
    found = aggregate_votes(latest_votes(votes))
    assert list(found) == sorted({each.sample_id for each in votes})
    for sample_id, verdict in found.items():
        last: dict[str, Vote] = {}
        for each in votes:
            if each.sample_id == sample_id:
                last[each.annotator] = each
        says = Counter(
            each.clean_label if each.status == "done" else each.status
            for each in last.values()
            if each.status in ("done", "bad_sample")
        )
        best = [answer for answer, count in says.items() if count == max(says.values())]
        if not says:
            expected = ("unsure" if any(each.status == "unsure" for each in last.values()) else "skip", "")
        elif len(best) > 1:
            expected = ("tied", "")
        else:
            expected = ("bad_sample", "") if best == ["bad_sample"] else ("done", best[0])
        assert (verdict.status, verdict.clean_label) == expected
        assert verdict.round == max(each.round for each in last.values())


def test_the_meta_set_is_sorted_and_leaves_out_ties_and_open_samples() -> None:
    found = {
        "b": Verdict("done", "cat", 1),
        "a": Verdict("bad_sample", "", 1),
        "c": Verdict("tied", "", 1),
        "d": Verdict("skip", "", 1),
        "=e": Verdict("done", "=dog", 1),
    }
    assert meta_set_text(found) == "sample_id,clean_label\n=e,=dog\na,\nb,cat\n"


awkward_votes = st.lists(
    st.builds(
        Vote,
        names,
        names,
        names,
        st.sampled_from(STATUSES),
        st.sampled_from(["", "two\nlines", 'said "no", twice', "x"]),
        st.integers(0, 12),
        st.just("2026-01-01T00:00:00Z"),
    ),
    min_size=1,
    max_size=5,
)


@quick
@given(votes=awkward_votes, more=awkward_votes, data=st.data())
def test_a_vote_file_cut_anywhere_keeps_its_whole_votes_and_grows_on(
    votes: Any, more: Any, data: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.csv"
        append_votes(path, votes, 0)
        whole = path.read_bytes()
        assert read_votes(path) == (votes, len(whole))
        cut = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:cut])
        kept, end = read_votes(path)
        assert kept == votes[: len(kept)]
        assert len(kept) < len(votes)
        append_votes(path, more, end)
        assert read_votes(path)[0] == kept + more


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"sample_id,label\na,b\n", "Row 1 of .*votes.csv is damaged: .*header"),
        (b"sample_id,label\n", "Row 1 of .*votes.csv is damaged: .*header"),
        (b"%s\na,cat,anna,done,,1\nb,cat,anna,done,,1,t\n", "Row 2 of .*votes.csv .*6 cells"),
        (b"%s\na,cat,anna,perhaps,,1,t\nb,cat,anna,done,,1,t\n", "Row 2 of .*perhaps"),
        (b"%s\na,cat,anna,done,,one,t\nb,cat,anna,done,,1,t\n", "Row 2 of .*one"),
        # The last row, complete: a row within quotes that has a line end is still one row.
        (b'%s\na,cat,anna,done,"x\ny",1,t\nb,cat,anna,done\n', "Row 3 of .*votes.csv .*4 cells"),
        (b"%s\na,cat,anna,done,,1,t\n\n", "Row 3 of .*0 cells"),
        (b"%s\na,cat,anna,done,,1,t\nb,cat,anna,done,,1,t,more\n", "Row 3 of .*8 cells"),
        (b"%s\na,cat,anna,done,,1,t\nb,cat,anna,perhaps,,1,t\n", "Row 3 of .*perhaps"),
        (b'%s\na,cat,anna,done,,1,t\nb,"cat"s,anna,done,,1,t\n', "Row 3 of .*not a row of CSV"),
        # A short row with a torn line behind it.
        (b"%s\na,cat,anna,done\nb,c", "Row 2 of .*4 cells"),
    ],
)
def test_a_vote_file_that_nobody_could_have_written_is_refused(tmp_path: Path, bad: bytes, why: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(bad.replace(b"%s", ",".join(Vote._fields).encode()))
    with pytest.raises(ArtefactError, match=why):
        read_votes(path)


@pytest.mark.parametrize(
    "torn",
    [
        b"b,cat,anna",
        b"b,cat,anna,done,,1,t",
        b"b,cat,anna,perhaps,,1,t",
        b'b,"cat"s',
        b'b,cat,anna,done,"two',
        b'b,cat,anna,done,"two\n',
        b'b,cat,anna,done,"two\nlines',
        b'b,cat,anna,done,"two\nlines"',
        b'b,cat,anna,done,"said ""no""\n',
    ],
)
def test_a_torn_line_is_ignored_and_cut_off_by_the_next_vote(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "votes.csv"
    append_votes(path, [vote("a", "cat")], 0)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    votes, end = read_votes(path)
    assert (votes, end) == ([vote("a", "cat")], len(whole))
    rows = whole.split(b"\n", 1)[1]
    assert parse_votes(rows + torn, "votes.csv", 2) == votes
    append_votes(path, [vote("c", "owl")], end)
    assert read_votes(path)[0] == [vote("a", "cat"), vote("c", "owl")]
    assert torn not in path.read_bytes()


def test_the_last_rows_of_a_vote_file_are_numbered_as_in_the_file() -> None:
    with pytest.raises(ArtefactError, match=r"Row 8 of votes\.csv is damaged: it has 2 cells"):
        parse_votes(b"a,cat,anna,done,,1,t\nb,cat\n", "votes.csv", 7)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1", "s2", "s0"])
    return made


def give(run: Run, lines: Sequence[str], **options: Any) -> dict[str, object]:
    table = run.root.parent / "given.csv"
    table.write_text("\n".join(["sample_id,clean_label,annotator,status", *lines]))
    return dict(annotate.import_file(run, str(table), ImportOptions(**options), Listener()).result)


def test_a_round_is_closed_by_a_form_or_by_a_vote(run: Run) -> None:
    assert not round_is_closed(ledger.read_ledger(run), 1)
    annotate.export(run, ExportOptions(), Listener())
    assert round_is_closed(ledger.read_ledger(run), 1)
    add_round(run, 2, ["s7"])
    assert not round_is_closed(ledger.read_ledger(run), 2)
    give(run, ["s7,cat,,"])
    assert round_is_closed(ledger.read_ledger(run), 2)


def test_what_was_bought_excludes_skips_and_includes_ties(run: Run) -> None:
    assert bought_samples(ledger.read_ledger(run)) == {}
    give(run, ["s0,cat,a,", "s1,,a,skip", "s2,,a,bad_sample", "s3,cat,a,", "s3,dog,b,"])
    assert bought_samples(ledger.read_ledger(run)) == {"s0": "done", "s2": "bad_sample", "s3": "tied"}


def test_a_skipped_sample_that_is_selected_again_is_asked_again(run: Run) -> None:
    give(run, ["s1,,,skip"])
    add_round(run, 2, ["s1", "s5"])
    assert find_round(run, 1).unanswered_ids(ledger.read_ledger(run).verdicts) == ["s3", "s2", "s0"]
    assert find_round(run, None).unanswered_ids(ledger.read_ledger(run).verdicts) == ["s1", "s5"]
    give(run, ["s1,owl,,"])
    assert find_round(run, 2).unanswered_ids(ledger.read_ledger(run).verdicts) == ["s5"]
    assert [each.round for each in ledger.read_ledger(run).votes] == [1, 2]


def test_the_batch_in_the_file_says_which_round_an_answer_belongs_to(run: Run) -> None:
    batch = find_round(run, 1).batch_id
    assert batch.startswith("b01-")
    add_round(run, 2, ["s1"])
    table = run.root.parent / "form.csv"
    table.write_text(f"batch_id,sample_id,clean_label\n{batch},s1,cat\n")
    annotate.import_file(run, str(table), ImportOptions(), Listener())
    assert [each.round for each in ledger.read_ledger(run).votes] == [1]


def test_forgetting_a_round_takes_its_votes_and_forms_and_nothing_else(run: Run) -> None:
    add_round(run, 2, ["s7"])
    annotate.export(run, ExportOptions(round=2), Listener())
    give(run, ["s0,cat,,"])
    before = run.path("annotate/votes.csv").read_bytes()
    give(run, ["s7,dog,,"])
    assert len([*run.path("annotate/batches").iterdir()]) == 1
    assert ledger.remove_round(run, 2) == 1
    assert [*run.path("annotate/batches").iterdir()] == []
    assert run.path("annotate/votes.csv").read_bytes() == before
    assert meta_set(run) == {"s0": "cat"}
    assert not round_is_closed(ledger.read_ledger(run), 2)
    run.stage("annotate").check(thorough=True)
    assert ledger.remove_round(run, 2) == 0
    assert ledger.remove_round(run, 1) == 1
    assert run.stage("annotate").record() is None
    assert bought_samples(ledger.read_ledger(run)) == {}
