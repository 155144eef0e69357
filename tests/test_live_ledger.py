"""The ledger in memory: after anything that this or another command does it equals what a full read gives."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from annotation_run import CLASSES, add_round, answers, call, make_run, meta_set, votes_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metaselect.annotation.consensus import DAWID_SKENE, MAJORITY, Verdict, aggregate_votes, meta_set_text
from metaselect.annotation.imports import Source
from metaselect.annotation.ledger import Ledger, add_repeats, add_votes, open_ledger, read_ledger, undo_import
from metaselect.annotation.ledger_record import is_recorded
from metaselect.annotation.repeats import Repeat
from metaselect.annotation.rounds import find_round
from metaselect.annotation.votes import Vote
from metaselect.errors import ArtefactError, LockedError, UsageError
from metaselect.run.files import write_json
from metaselect.run.layout import Run
from metaselect.web import meta_set_rows
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.live_ledger import LiveLedger
from metaselect.web.meta_set_rows import MetaSetRows
from metaselect.web.submitted_answer import SubmittedAnswer

BATCH = ["s3", "s1", "s2", "s0"]
PAGE = Source("2026-01-01T00:00:00Z", "serve", "", "serve")
FILE = Source("2026-01-01T00:00:00Z", "a.csv", "ab", "csv")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, BATCH)
    return made


def vote(sample_id: str, label: str, annotator: str = "anna", status: str = "", number: int = 1) -> Vote:
    return Vote(sample_id, label, annotator, status or "done", "", number, "2026-01-01T00:00:00Z")


def assert_equals_full_read(live: LiveLedger, run: Run) -> Ledger:
    ledger = read_ledger(run)
    path = run.path("annotate/votes.csv")
    assert (live.count, live.end, live.imports) == (len(ledger.votes), ledger.end, ledger.imports)
    assert live.verdicts == aggregate_votes(ledger.latest, MAJORITY)
    for key, latest in ledger.latest_with_repeats.items():
        assert live.latest(*key) == latest
    if ledger.votes:
        content = live.snapshot()()
        assert b"".join(content.meta_set) == meta_set_text(ledger.verdicts).encode()
        assert content.rounds == sorted({each.round for each in ledger.votes} - {0})
        stamp = content.votes_stamp
        assert stamp is not None
        assert stamp.sha256 == hashlib.sha256(path.read_bytes()[: ledger.end]).hexdigest()
    return ledger


LABELS = st.sampled_from([("done", "cat"), ("done", "dog"), ("skip", ""), ("unsure", ""), ("bad_sample", "")])
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["s0", "s1", "s5", "r1"]), st.sampled_from(["anna", "bert"]), LABELS, st.integers(0, 1)
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(["anna", "bert"]), st.integers(0, 3), LABELS),
        st.tuples(st.just("undo"), st.sampled_from(["anna", "bert"])),
        st.tuples(st.just("import"), ROWS),
        st.tuples(st.just("undo import")),
        st.tuples(st.just("method"), st.sampled_from([MAJORITY, DAWID_SKENE])),
        st.tuples(st.just("repeats"), st.sampled_from(["r1", "r2"])),
        st.tuples(st.just("torn")),
        st.tuples(st.just("unrecorded"), ROWS),
        st.tuples(st.just("read")),
    ),
    max_size=14,
)


FIRST_ANSWER = ("import", [("s0", "anna", ("done", "cat"), 1)])


@settings(max_examples=120)
@given(STEPS)
@example([FIRST_ANSWER, ("repeats", "r1"), ("import", [("r1", "anna", ("done", "dog"), 1)])])
def test_the_ledger_in_memory_equals_a_full_read(
    tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    run = make_run(tmp_path_factory.mktemp("live") / "run")
    add_round(run, 1, BATCH)
    session = LabelingSession(run, find_round(run, 1), CLASSES)
    live = LiveLedger(run)
    path = run.path("annotate/votes.csv")
    count = 0
    for name, *values in steps:
        if name == "answer":
            annotator, key, (status, label) = values
            position = CLASSES.index(label) if label else None
            session.answer(annotator, annotator, SubmittedAnswer(key, status, position))
        elif name == "undo":
            session.undo(values[0], values[0])
        elif name == "import":
            rows = [
                vote(each, label, who, status, number) for each, who, (status, label), number in values[0]
            ]
            add_votes(run, open_ledger(run), rows, FILE)
        elif name == "undo import":
            with suppress(UsageError):  # nothing to undo
                undo_import(run, None, "2026-01-01T00:00:00Z")
        elif name == "method":
            write_json(run.path("annotate/consensus.json"), {"method": values[0]})
            add_votes(run, open_ledger(run), ())
        elif name == "repeats":
            add_repeats(run, open_ledger(run), [Repeat(values[0], "s3", "b01")])
        elif name == "torn" and path.exists():
            path.write_bytes(path.read_bytes() + b"s1,ca")
        elif name == "unrecorded" and path.exists():  # another command was killed before it wrote the record
            ledger = open_ledger(run)
            with path.open("ab") as stream:
                stream.truncate(ledger.end)
                for each, who, (status, label), number in values[0]:
                    stream.write(f"{each},{label},{who},{status},,{number},t\n".encode())
        session.wait_until_recorded()
        live.refresh(for_writing=False)
        ledger = assert_equals_full_read(live, run)
        assert session.missing() == len(session.current_round.unanswered_ids(ledger.verdicts))
        if name in ("answer", "undo") and len(ledger.votes) > count:
            run.stage("annotate").check(thorough=True)
            assert run.path("annotate/meta_set.csv").read_text() == meta_set_text(ledger.verdicts)
        count = len(ledger.votes)
    session.close()


def test_only_the_tail_is_read_when_another_command_appended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_votes(run, open_ledger(run), [vote("s0", "cat"), vote("s1", "dog")], FILE)
    live = LiveLedger(run)
    assert live.refresh(for_writing=False).is_all
    assert live.refresh(for_writing=True) == ((), False)
    add_votes(run, open_ledger(run), [vote("s0", "owl"), vote("s5", "cat", number=0)], PAGE)

    def never(*_: object) -> None:
        raise AssertionError("all votes were read again")

    with monkeypatch.context() as patch:
        patch.setattr("metaselect.web.live_ledger.read_ledger", never)
        patch.setattr("metaselect.web.live_ledger.open_ledger", never)
        new = live.refresh(for_writing=True)
    assert ([each.sample_id for each in new.votes], new.is_all) == (["s0", "s5"], False)
    assert_equals_full_read(live, run)


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"s0,cat", b"s0,dog") + b"s5,cat,anna,done,,1,t\n")


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [rewritten, shortened, Path.unlink])
@pytest.mark.parametrize("for_writing", [False, True])
def test_votes_that_are_no_continuation_are_refused(
    run: Run, damage: Callable[[Path], None], for_writing: bool
) -> None:
    add_votes(run, open_ledger(run), [vote("s0", "cat"), vote("s1", "dog")], FILE)
    live = LiveLedger(run)
    live.refresh(for_writing=False)
    damage(run.path("annotate/votes.csv"))
    with pytest.raises(ArtefactError):
        live.refresh(for_writing=for_writing)


def test_a_bad_row_in_the_tail_is_named_by_its_number_in_the_file(run: Run) -> None:
    add_votes(run, open_ledger(run), [vote("s0", "cat"), vote("s1", "dog")], FILE)
    live = LiveLedger(run)
    live.refresh(for_writing=False)
    path, record = run.path("annotate/votes.csv"), run.path("annotate/stage.json")
    path.write_bytes(path.read_bytes() + b"s2,owl,anna,done,,1,t\ns3,owl\n")
    written = json.loads(record.read_text())
    written["outputs"]["votes.csv"].update(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
    )
    write_json(record, written)
    with pytest.raises(ArtefactError, match=r"Row 5 of .*votes\.csv is damaged: it has 2 cells") as refused:
        live.refresh(for_writing=False)
    assert any(entry.name == "_read_appended" for entry in refused.traceback)


def test_a_rewritten_vote_file_with_a_record_is_read_whole(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `select --discard-round` or a restored copy: longer than before, and another beginning."""
    add_votes(run, open_ledger(run), [vote("s0", "cat")], FILE)
    live = LiveLedger(run)
    live.refresh(for_writing=False)
    for name in ("votes.csv", "imports.csv", "meta_set.csv", "stage.json"):
        run.path(f"annotate/{name}").unlink()
    add_votes(run, open_ledger(run), [vote("s1", "dog"), vote("s2", "owl"), vote("s3", "owl")], FILE)
    assert live.refresh(for_writing=True).is_all
    assert_equals_full_read(live, run)


SAMPLES = st.sampled_from([f"s{number}" for number in range(12)] + ['a"b', "c,d", "\u00fc"])
STATUS = st.sampled_from(["done", "tied", "bad_sample", "skip"])
VERDICTS = st.one_of(st.none(), st.builds(Verdict, STATUS, st.just("cat"), st.just(1)))


@settings(max_examples=200)
@given(st.dictionaries(SAMPLES, VERDICTS, max_size=8), st.lists(st.tuples(SAMPLES, VERDICTS), max_size=30))
def test_rows_in_blocks_are_the_text_of_the_meta_set(start: Any, changes: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_set_rows, "BLOCK", 2)
        verdicts = {each: verdict for each, verdict in start.items() if verdict is not None}
        rows = MetaSetRows(verdicts)
        assert b"".join(rows.parts()) == meta_set_text(verdicts).encode()
        for sample_id, verdict in changes:
            rows.set(sample_id, verdict)
            verdicts.pop(sample_id, None)
            if verdict is not None:
                verdicts[sample_id] = verdict
            assert b"".join(rows.parts()) == meta_set_text(verdicts).encode()


@pytest.fixture
def slow_record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Nothing is recorded until the event is set."""
    from metaselect.annotation.ledger_record import write_derived

    may_go_on = Event()

    def wait(*values: object) -> None:
        assert may_go_on.wait(20)
        write_derived(*values)  # type: ignore[arg-type]

    monkeypatch.setattr("metaselect.web.labeling_session.write_derived", wait)
    yield may_go_on
    may_go_on.set()


def test_answers_do_not_wait_for_the_record_and_the_run_is_locked_until_it_is_written(
    run: Run, slow_record: Event
) -> None:
    session = LabelingSession(run, find_round(run, 1), CLASSES)
    for key in range(3):
        session.answer("a", "anna", SubmittedAnswer(key, "done", key))
        assert len(votes_of(run)) == key + 1
    assert not run.path("annotate/stage.json").exists()
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\n")) == LockedError.exit_code
    slow_record.set()
    session.wait_until_recorded()
    run.stage("annotate").check(thorough=True)
    assert meta_set(run) == {"s1": "dog", "s2": "owl", "s3": "cat"}
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\n")) == 0
    assert session.missing() == 0
    session.close()


def test_a_record_that_could_not_be_written_is_told_and_written_with_the_next_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    session = LabelingSession(run, find_round(run, 1), CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr("metaselect.web.labeling_session.write_derived", full)
        session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
        with pytest.raises(OSError, match="No space"):
            session.wait_until_recorded()
    with run.lock():
        assert votes_of(run) == [("s3", "cat", "anna", "done")]
    session.answer("a", "anna", SubmittedAnswer(1, "done", 0))
    session.close()
    record = run.stage("annotate").require()
    assert is_recorded(run.path("annotate"), record)
    assert meta_set(run) == {"s1": "cat", "s3": "cat"}


def test_several_threads_answer_at_once(run: Run) -> None:
    add_round(run, 2, [f"s{number}" for number in range(10)])
    session = LabelingSession(run, find_round(run, 2), CLASSES)

    def work(name: str) -> None:
        state = session.next(name)
        while isinstance(item := state["item"], dict):
            state = session.answer(name, name, SubmittedAnswer(int(str(item["key"])), "done", 0))

    threads = [Thread(target=work, args=(name,)) for name in ("anna", "bert", "carl")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    session.close()
    assert sorted(sample_id for sample_id, *_ in votes_of(run)) == sorted(session.ids)
    run.stage("annotate").check(thorough=True)
    assert set(meta_set(run)) == set(session.ids)
