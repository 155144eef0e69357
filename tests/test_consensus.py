"""Dawid-Skene and the choice of the consensus: crowd-kit's answers, closed forms, invariances, the command line."""

import json
from itertools import pairwise, permutations, product
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_run import add_round, add_weights, answers, call, error, make_run, meta_set, result
from command_line import metaselect
from hypothesis import given
from hypothesis import strategies as st

from metaselect.annotation.consensus import DAWID_SKENE, aggregate_votes, latest_votes
from metaselect.annotation.dawid_skene import FLOOR, dawid_skene
from metaselect.annotation.votes import STATUSES, Vote
from metaselect.run.layout import Run

FIXTURE = json.loads((Path(__file__).parent / "fixtures/dawid_skene.json").read_text())


def fit(votes: list[tuple[int, int, int]], **options: float) -> np.ndarray:
    """From (sample, annotator, answer)."""
    return dawid_skene(*np.array(votes, np.int64).T, **options)


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["name"])
def test_probabilities_and_labels_are_crowd_kits(case: Any) -> None:
    for count, expected in case["probabilities"].items():
        found = fit(case["votes"], iterations=int(count), tolerance=-np.inf)
        np.testing.assert_allclose(found, expected, atol=1e-7)
    found = fit(case["votes"], iterations=case["iterations"], tolerance=-np.inf)
    assert found.argmax(1).tolist() == case["labels"]


@pytest.mark.parametrize("case", FIXTURE["cases"][:2], ids=lambda case: case["name"])
def test_by_default_the_labels_are_crowd_kits_where_votes_suffice(case: Any) -> None:
    assert fit(case["votes"]).argmax(1).tolist() == case["labels"]


def plainly(
    votes: list[tuple[int, int, int]], n: int, people: int, width: int, iterations: int
) -> np.ndarray:
    """The equations with loops and products, without logarithms."""
    found = np.zeros((n, width))
    for sample, _, answer in votes:
        found[sample, answer] += 1
    found /= found.sum(1, keepdims=True)
    for _ in range(iterations):
        prior = [max(found[:, true].mean(), FLOOR) for true in range(width)]
        rate = {}
        for person, true in product(range(people), range(width)):
            given_answers = {answer for _, who, answer in votes if who == person}
            count = {
                answer: max(sum(found[s, true] for s, who, a in votes if (who, a) == (person, answer)), FLOOR)
                for answer in given_answers
            }
            rate.update({(person, answer, true): count[answer] / sum(count.values()) for answer in count})
        for sample, true in product(range(n), range(width)):
            found[sample, true] = prior[true]
            for where, who, answer in votes:
                found[sample, true] *= rate[who, answer, true] if where == sample else 1
        found /= found.sum(1, keepdims=True)
    return found


some_votes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=12, unique_by=lambda v: v[:2]
)


@given(votes=some_votes, iterations=st.integers(0, 4))
def test_the_equations_written_plainly_give_the_same(votes: Any, iterations: Any) -> None:
    votes = [*votes, *((sample, 3, sample % 3) for sample in range(4))]  # every sample and answer occurs
    found = fit(votes, iterations=iterations, tolerance=-np.inf)
    np.testing.assert_allclose(found, plainly(votes, 4, 4, 3, iterations), atol=1e-6)


def test_two_perfect_annotators_are_believed_and_their_rates_are_one() -> None:
    votes = [(sample, who, sample % 3) for sample in range(9) for who in (0, 1)]
    np.testing.assert_allclose(fit(votes), np.eye(3)[np.arange(9) % 3], atol=1e-8)


def test_who_is_always_wrong_in_the_same_way_is_understood() -> None:
    """Two good annotators teach that the third turns 0 to 1 and 1 to 2; alone, the third is then read backwards."""
    votes = [(s, who, s % 3 if who < 2 else (s + 1) % 3) for s in range(12) for who in range(3)]
    votes += [(12, 2, 1), (13, 2, 2)]
    assert fit(votes).argmax(1).tolist() == [*(s % 3 for s in range(12)), 0, 1]


def test_the_likelihood_never_falls() -> None:
    votes = FIXTURE["cases"][2]["votes"]

    def likelihood(iterations: int) -> float:
        """Of the votes, at the rates that the step before left; the observed one, by summing over the truth."""
        before = fit(votes, iterations=iterations, tolerance=-np.inf)
        n, width = before.shape
        prior = before.mean(0)
        counts: dict[tuple[int, int], np.ndarray] = {}
        for sample, who, answer in votes:
            counts[who, answer] = counts.get((who, answer), np.zeros(width)) + before[sample]
        totals = {who: sum(counts[key] for key in counts if key[0] == who) for who, _ in counts}
        inside = np.tile(prior, (n, 1))
        for sample, who, answer in votes:
            inside[sample] *= counts[who, answer] / totals[who]
        return sum(log(value) for value in inside.sum(1))

    found = [likelihood(count) for count in range(10)]
    assert all(after >= before - 1e-6 for before, after in pairwise(found))
    assert found[-1] > found[0] + 1


def test_equal_evidence_stays_equal() -> None:
    np.testing.assert_array_equal(fit([(0, 0, 0), (0, 1, 1)]), [[0.5, 0.5]])
    both = [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (2, 0, 0), (2, 1, 0), (3, 0, 1), (3, 1, 1)]
    np.testing.assert_allclose(fit(both)[:2], 0.5, atol=1e-9)


def vote(sample_id: str, label: str, annotator: str, status: str = "done", number: int = 1) -> Vote:
    return Vote(sample_id, label, annotator, status, "", number, "t")


votes_of_three = st.lists(
    st.builds(
        vote,
        st.sampled_from("abcd"),
        st.sampled_from(["cat", "dog", "owl"]),
        st.sampled_from(["x", "y", "z"]),
        st.sampled_from(STATUSES),
        st.integers(0, 2),
    ),
    max_size=14,
)


@given(votes=votes_of_three, data=st.data())
def test_order_and_names_bear_on_nothing(votes: Any, data: Any) -> None:
    latest = list(latest_votes(votes).values())
    found = aggregate_votes(latest_votes(latest), DAWID_SKENE)
    assert aggregate_votes(latest_votes(data.draw(st.permutations(latest))), DAWID_SKENE) == found
    people = dict(zip("xyz", data.draw(st.sampled_from(list(permutations("xyz")))), strict=True))
    renamed = [each._replace(annotator=people[each.annotator]) for each in latest]
    assert aggregate_votes(latest_votes(renamed), DAWID_SKENE) == found
    labels = dict(zip(("cat", "dog", "owl"), data.draw(st.permutations(["cat", "dog", "owl"])), strict=True))
    renamed = [each._replace(clean_label=labels[each.clean_label]) for each in latest]
    swapped = aggregate_votes(latest_votes(renamed), DAWID_SKENE)
    assert swapped == {
        name: verdict._replace(clean_label=labels.get(verdict.clean_label, ""))
        for name, verdict in found.items()
    }


@given(votes=votes_of_three)
def test_what_nobody_answered_and_what_all_agree_on_is_as_with_a_majority(votes: Any) -> None:
    latest = latest_votes(votes)
    majority, found = aggregate_votes(latest), aggregate_votes(latest, DAWID_SKENE)
    assert found.keys() == majority.keys()
    for name, verdict in majority.items():
        assert found[name].round == verdict.round
        if verdict.status in ("skip", "unsure"):
            assert found[name] == verdict
    if len({each.annotator for each in latest.values()}) == 1:
        assert found == majority


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Anna and Ben agree; Carl says cat to everything; of s9 there are the answers of Anna and Carl."""
    made = make_run(tmp_path / "run")
    names = [f"s{number}" for number in range(10)]
    add_round(made, 1, names)
    labels = ["cat", "dog", "owl"]
    rows = [f"{name},{labels[at % 3]},{who}" for at, name in enumerate(names) for who in ("anna", "ben")]
    rows += [f"{name},cat,carl" for name in names]
    rows = [row for row in rows if row != "s9,cat,ben"] + ["s9,owl,anna"]
    rows.remove("s9,cat,anna")
    table = answers(made, "\n".join(["sample_id,clean_label,annotator", *rows]))
    assert call(made, "import", table) == 0
    return made


def test_the_choice_is_recorded_and_derives_the_meta_set_anew(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first = meta_set(run)
    assert "s9" not in first
    shown = result(run, capsys, "consensus")
    assert (shown["method"], shown["tied"], shown["changed"]) == ("majority", 1, [])
    assert not run.path("annotate/consensus.json").exists()
    got = result(run, capsys, "consensus", "--method", "dawid-skene")
    assert got["changed"] == [{"sample_id": "s9", "before": "(tied)", "now": "owl"}]
    assert (got["method"], got["tied"], got["bought"]) == ("dawid-skene", 0, 10)
    assert meta_set(run) == first | {"s9": "owl"}
    run.stage("annotate").check(thorough=True)
    assert call(run, "import", answers(run, "sample_id,clean_label\ns0,cat\n"), "--annotator", "dora") == 0
    assert meta_set(run) == first | {"s9": "owl"}
    assert result(run, capsys, "consensus", "--method", "majority")["method"] == "majority"
    assert meta_set(run) == first
    run.stage("annotate").check(thorough=True)


def test_people_read_what_the_choice_changes(run: Run) -> None:
    quiet = metaselect("annotate", "consensus", "--method", "dawid-skene", run=run.root)
    assert "metaselect status" not in quiet.err  # nothing was trained
    metaselect("annotate", "consensus", "--method", "majority", run=run.root)
    add_weights(run, [("s0", "cat", 0.9)])
    done = metaselect("annotate", "consensus", "--method", "dawid-skene", run=run.root)
    assert "Consensus by dawid-skene: 10 labels bought, 0 ties." in done.out
    assert "(tied)" in done.out
    assert "metaselect status" in done.err
    assert "'mean'" in metaselect("annotate", "consensus", "--method", "mean", run=run.root, code=2).err
    again = metaselect("annotate", "consensus", "--method", "dawid-skene", "--json", run=run.root)
    assert again.json["changed"] == []


def test_a_crash_before_the_meta_set_is_mended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("metaselect.stages.annotate.votes.write_meta_set_and_record", die)
        with pytest.raises(Killed):
            call(run, "consensus", "--method", "dawid-skene")
    assert call(run, "status") == 0
    assert call(run, "consensus", "--method", "dawid-skene") == 0
    assert meta_set(run)["s9"] == "owl"
    run.stage("annotate").check(thorough=True)


def test_a_choice_that_names_no_method_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.path("annotate/consensus.json").write_text('{"method": "mean"}')
    assert "names none of majority, dawid-skene" in error(run, capsys, "status", code=4)
