"""Who is shown what: every open sample once, every answer on disk, nobody's answer lost or overwritten."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from annotation_run import (
    CLASSES,
    RecordedSession,
    add_gradients,
    add_round,
    add_weights,
    answers,
    call,
    error,
    make_run,
    meta_set,
    result,
    votes_of,
)
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from metaselect.annotation import ledger
from metaselect.annotation.predictions import has_predictions, latest_predictions
from metaselect.annotation.rounds import find_round
from metaselect.errors import ArtefactError, LockedError
from metaselect.run.files import write_csv
from metaselect.run.key import StageKey
from metaselect.run.layout import Run
from metaselect.run.record import write_record
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.leases import LEASE_SECONDS
from metaselect.web.submitted_answer import InvalidRequest, SubmittedAnswer

BATCH = ["s3", "s1", "s2", "s0"]


class Clock:
    """Time that stands still until it is told otherwise."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def session_of(run: Run, number: int | None = None, clock: Clock | None = None) -> LabelingSession:
    return RecordedSession(run, find_round(run, number), CLASSES, clock=clock or Clock())


def shown(state: Mapping[str, object]) -> str | None:
    item = state["item"]
    return str(item["id"]) if isinstance(item, dict) else None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, BATCH)
    return made


@pytest.fixture
def session(run: Run) -> LabelingSession:
    return session_of(run)


def test_samples_come_by_rank_and_each_answer_is_on_disk_before_the_next(
    run: Run, session: LabelingSession
) -> None:
    state = session.next("a")
    given = [
        SubmittedAnswer(0, "done", 1),
        SubmittedAnswer(1, "skip", None),
        SubmittedAnswer(2, "unsure", None),
        SubmittedAnswer(3, "bad_sample", None),
    ]
    for number, (answer, sample_id) in enumerate(zip(given, BATCH, strict=True)):
        assert shown(state) == sample_id
        assert (state["done"], state["total"]) == (number, 4)
        state = session.answer("a", " anna ", answer)
        assert len(votes_of(run)) == number + 1
        run.stage("annotate").check(thorough=True)
    assert state == {"item": None, "said": "", "total": 4, "done": 4, "waiting": 0}
    assert votes_of(run) == [
        ("s3", "dog", "anna", "done"),
        ("s1", "", "anna", "skip"),
        ("s2", "", "anna", "unsure"),
        ("s0", "", "anna", "bad_sample"),
    ]
    assert meta_set(run) == {"s0": "", "s3": "dog"}
    assert session.answers_taken == 4


def test_a_new_session_goes_on_where_the_last_one_was(run: Run, session: LabelingSession) -> None:
    session.next("a")
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    assert shown(session_of(run).next("b")) == "s1"


def test_no_two_screens_have_the_same_sample(session: LabelingSession) -> None:
    assert [shown(session.next(browser)) for browser in "abcd"] == BATCH
    assert [shown(session.next(browser)) for browser in "abcd"] == BATCH  # each keeps its own
    late = session.next("e")
    assert (late["item"], late["waiting"]) == (None, 4)
    session.release("c")
    assert shown(session.next("e")) == "s2"


def test_a_screen_that_was_left_loses_its_sample_but_not_its_answer(run: Run) -> None:
    clock = Clock()
    session = session_of(run, clock=clock)
    session.next("a")
    clock.now = LEASE_SECONDS - 1
    assert shown(session.next("b")) == "s1"
    clock.now = LEASE_SECONDS
    assert shown(session.next("c")) == "s3"
    session.answer("c", "carl", SubmittedAnswer(0, "done", 0))
    session.answer("a", "anna", SubmittedAnswer(0, "done", 1))
    assert votes_of(run) == [("s3", "cat", "carl", "done"), ("s3", "dog", "anna", "done")]


def test_the_same_person_in_two_tabs_cannot_answer_twice(run: Run, session: LabelingSession) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    again = session.answer("a", "anna", SubmittedAnswer(0, "done", 0))  # as when the first reply got lost
    assert "refused" not in again
    other = session.answer("b", "anna", SubmittedAnswer(0, "done", 1))
    assert other["refused"] is True
    assert "not taken" in str(other["said"])
    assert votes_of(run) == [("s3", "cat", "anna", "done")]


def test_undo_appends_and_asks_again(run: Run, session: LabelingSession) -> None:
    for key in range(3):
        session.answer("a", "anna", SubmittedAnswer(key, "done", key))
    before = run.path("annotate/votes.csv").read_bytes()
    state = session.undo("a", "anna")
    assert shown(state) == "s2"
    assert state["done"] == 2
    assert run.path("annotate/votes.csv").read_bytes().startswith(before)
    assert meta_set(run) == {"s1": "dog", "s3": "cat"}
    assert shown(session_of(run).next("b")) == "s2"  # also for a session that knows nothing of it
    assert shown(session.undo("a", "anna")) == "s1"
    session.answer("a", "anna", SubmittedAnswer(1, "done", 2))
    assert meta_set(run) == {"s1": "owl", "s3": "cat"}
    assert shown(session.undo("a", "anna")) == "s1"
    assert shown(session.undo("a", "anna")) == "s3"
    nothing = session.undo("a", "anna")
    assert "nothing to undo" in str(nothing["said"])
    assert nothing["done"] == 0
    assert "nothing to undo" in str(session.undo("b", "bert")["said"])


def test_an_earlier_answer_is_shown_again_and_stands_until_another_replaces_it(
    run: Run, session: LabelingSession
) -> None:
    for key in range(3):
        session.answer("a", "anna", SubmittedAnswer(key, "done", key))
    listed = session.answered(" anna ")
    assert [(each["key"], each["id"], each["label"]) for each in listed] == [
        (2, "s2", "owl"),
        (1, "s1", "dog"),
        (0, "s3", "cat"),
    ]
    state = session.revisit("a", "anna", 1)
    assert (shown(state), state["done"], state["earlier"]) == ("s1", 3, listed[1])
    assert shown(session.next("a")) == "s0"  # who looks and goes on changes nothing
    assert len(votes_of(run)) == 3
    session.answer("a", "anna", SubmittedAnswer(1, "done", 1, ("done", "dog")))  # the same again
    assert len(votes_of(run)) == 3
    state = session.answer("a", "anna", SubmittedAnswer(1, "unsure", None, ("done", "dog")))
    assert (shown(state), state["done"]) == ("s0", 3)
    assert votes_of(run)[1:] == [
        ("s1", "dog", "anna", "done"),
        ("s2", "owl", "anna", "done"),
        ("s1", "", "anna", "unsure"),
    ]
    assert meta_set(run) == {"s2": "owl", "s3": "cat"}
    assert [(each["id"], each["status"]) for each in session_of(run).answered("anna")] == [
        ("s1", "unsure"),
        ("s2", "done"),
        ("s3", "done"),
    ]
    assert shown(session.undo("a", "anna")) == "s1"  # the changed answer is the last one
    assert [each["id"] for each in session.answered("anna")] == ["s2", "s3"]


def test_a_change_of_what_was_changed_elsewhere_is_refused(run: Run, session: LabelingSession) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    session.answer("b", "anna", SubmittedAnswer(0, "done", 1, ("done", "cat")))
    late = session.answer("a", "anna", SubmittedAnswer(0, "done", 2, ("done", "cat")))
    assert late["refused"] is True
    assert meta_set(run) == {"s3": "dog"}


def test_only_own_answers_of_this_round_are_shown_again(run: Run, session: LabelingSession) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    assert session.answered("bert") == []
    for name, key in (("bert", 0), ("anna", 1)):
        state = session.revisit("b", name, key)
        assert "earlier" not in state
        assert "no answer" in str(state["said"])
    with pytest.raises(InvalidRequest):
        session.revisit("b", "anna", 4)
    add_round(run, 2, ["s3", "s9"])
    second = session_of(run)
    assert second.answered("anna") == []
    assert "earlier" not in second.revisit("a", "anna", 0)


def test_upcoming_are_the_open_samples_that_no_browser_shows(session: LabelingSession) -> None:
    session.next("a")
    assert session.upcoming(2) == [1, 2]
    assert session.upcoming(9) == [1, 2, 3]
    session.next("b")
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))  # and is shown sample 2
    assert session.upcoming(9) == [3]


def test_undo_leaves_other_peoples_answers(run: Run, session: LabelingSession) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    session.answer("b", "bert", SubmittedAnswer(0, "done", 0))
    state = session.undo("a", "anna")
    assert meta_set(run) == {"s3": "cat"}
    assert (shown(state), state["done"]) == ("s3", 1)  # to be answered again, although bert's answer stands
    session.answer("a", "anna", SubmittedAnswer(0, "done", 1))
    assert votes_of(run)[1:] == [
        ("s3", "cat", "bert", "done"),
        ("s3", "", "anna", "withdrawn"),
        ("s3", "dog", "anna", "done"),
    ]


def test_what_was_taken_back_is_open_for_all_commands(
    run: Run, session: LabelingSession, capsys: pytest.CaptureFixture[str]
) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    session.undo("a", "anna")
    found = result(run, capsys, "status")
    assert found["rounds"][0]["missing"] == 4
    assert found["annotators"] == {}
    text = "sample_id,clean_label,status\ns3,,withdrawn\n"
    assert "no status" in error(run, capsys, "import", answers(run, text), code=3)


def test_a_sample_that_was_skipped_in_an_earlier_round_is_asked_again(
    run: Run, session: LabelingSession
) -> None:
    session.answer("a", "anna", SubmittedAnswer(0, "skip", None))
    add_round(run, 2, ["s3", "s9"])
    second = session_of(run)
    assert shown(second.next("a")) == "s3"
    assert "nothing to undo" in str(second.undo("a", "anna")["said"])  # what was said in round 1 stays
    assert shown(second.answer("a", "anna", SubmittedAnswer(0, "skip", None))) == "s9"
    assert shown(second.undo("a", "anna")) == "s3"


def test_other_commands_write_between_answers(run: Run, session: LabelingSession) -> None:
    session.next("a")
    assert call(run, "import", answers(run, "sample_id,clean_label,annotator\ns3,owl,olga\n")) == 0
    assert shown(session.next("a")) == "s1"
    session.answer("a", "anna", SubmittedAnswer(1, "done", 0))
    assert meta_set(run) == {"s1": "cat", "s3": "owl"}


def test_while_another_command_works_nothing_is_taken(run: Run, session: LabelingSession) -> None:
    session.next("a")
    with FileLock(run.root / ".lock"), pytest.raises(LockedError):
        session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    assert not run.path("annotate/votes.csv").exists()
    assert shown(session.next("a")) == "s3"


def test_a_round_that_was_chosen_anew_takes_no_answers_of_the_old(run: Run, session: LabelingSession) -> None:
    folder = run.path("select/round-1")
    write_csv(
        folder / "selected.csv",
        ("sample_id", "rank", "cluster", "cluster_size", "control"),
        [("s9", 1, 0, 1, 0)],
    )
    write_record(folder, StageKey({}, {}), {})
    with pytest.raises(ArtefactError, match="selected again"):
        session.answer("a", "anna", SubmittedAnswer(0, "done", 0))
    assert not run.path("annotate/votes.csv").exists()


@pytest.mark.parametrize(
    ("annotator", "given"),
    [
        ("anna", SubmittedAnswer(4, "done", 0)),
        ("anna", SubmittedAnswer(-1, "done", 0)),
        ("anna", SubmittedAnswer(True, "done", 0)),
        ("anna", SubmittedAnswer("0", "done", 0)),
        ("anna", SubmittedAnswer(None, "done", 0)),
        ("anna", SubmittedAnswer(0, "done", 3)),
        ("anna", SubmittedAnswer(0, "done", -1)),
        ("anna", SubmittedAnswer(0, "done", None)),
        ("anna", SubmittedAnswer(0, "done", "cat")),
        ("anna", SubmittedAnswer(0, "done", False)),
        ("anna", SubmittedAnswer(0, "undone", 0)),
        ("anna", SubmittedAnswer(0, ["done"], 0)),
        (" ", SubmittedAnswer(0, "done", 0)),
        ("a\nb", SubmittedAnswer(0, "done", 0)),
        ("a" * 101, SubmittedAnswer(0, "done", 0)),
    ],
)  # fmt: skip
def test_what_no_page_sends_is_refused(
    run: Run, session: LabelingSession, annotator: str, given: SubmittedAnswer
) -> None:
    with pytest.raises(InvalidRequest):
        session.answer("a", annotator, given)
    assert not run.path("annotate/votes.csv").exists()


Step = tuple[str, str, int]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["next", "answer", "undo", "release", "restart"]),
            st.sampled_from(["anna", "bert"]),
            st.integers(0, 2),
        ),
        max_size=25,
    )
)
def test_whatever_people_do_the_votes_say_what_they_said_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """Against a model: a list of (annotator, sample, label), from which undo takes that annotator's last."""
    run = make_run(tmp_path_factory.mktemp("session") / "run")
    add_round(run, 1, BATCH)
    session = session_of(run)
    said: list[tuple[str, str, int]] = []
    screens: dict[str, str | None] = {}
    for verb, name, label in steps:
        if verb == "next":
            screens[name] = shown(session.next(name))
        elif verb == "answer" and screens.get(name):
            sample_id = str(screens[name])
            screens[name] = shown(
                session.answer(name, name, SubmittedAnswer(BATCH.index(sample_id), "done", label))
            )
            said.append((name, sample_id, label))
        elif verb == "undo":
            screens[name] = shown(session.undo(name, name))
            mine = [entry for entry in said if entry[0] == name]
            if mine:
                said.remove(mine[-1])
                assert screens[name] == mine[-1][1]
        elif verb == "release":
            session.release(name)
            screens[name] = None
        elif verb == "restart":
            session, screens = session_of(run), {}
        looked_at = [sample_id for sample_id in screens.values() if sample_id]
        assert len(set(looked_at)) == len(looked_at)
        assert not set(looked_at) & {sample_id for _, sample_id, _ in said}
    expected = {sample_id: CLASSES[label] for _, sample_id, label in said}
    assert {
        key: verdict.clean_label
        for key, verdict in ledger.read_ledger(run).verdicts.items()
        if verdict.status == "done"
    } == expected
    assert session.missing() == len(BATCH) - len(expected)


@pytest.fixture
def weights(run: Run) -> Path:
    """What a model says after re-weighting; "uniform", which came later, says something else."""
    for turn, (name, label) in enumerate((("direct", "owl"), ("uniform", "cat"))):
        folder = add_weights(run, [(each, label, 0.5) for each in BATCH], name).parent
        os.utime(folder / "stage.json", (turn, turn))
    return run.path("reweight/direct/weights.parquet")


def suggested(run: Run, ids: Sequence[str] = BATCH) -> dict[str, str]:
    _, found = latest_predictions(run, 1, ids, CLASSES)
    return {each: prediction.label for each, prediction in found.items()}


def test_there_is_nothing_to_suggest_without_a_model(run: Run) -> None:
    assert not has_predictions(run, 1)
    with pytest.raises(ArtefactError, match="No model's predictions"):
        suggested(run)


def test_suggestions_come_from_the_robust_model(run: Run, weights: Path) -> None:
    assert has_predictions(run, 1)
    assert suggested(run) == dict.fromkeys(BATCH, "owl")
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(ArtefactError, match="damaged"):
        suggested(run)


def test_before_that_they_come_from_the_last_checkpoint(run: Run) -> None:
    for epoch, probs in ((4, [[0.9, 0.1, 0], [0, 0, 1.0]]), (12, [[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]])):
        add_gradients(run, dict(zip(("s1", "s2"), probs, strict=True)), epoch)
    assert has_predictions(run, 1)
    assert suggested(run, ("s1", "s2")) == {"s1": "dog", "s2": "cat"}
