"""select's options through the command line: full-layer gradients, the control, the floor, and --explain."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import LIMIT, SIMULATE, TEST, TRUTH, metaselect, seen, tree

from metaselect.options import SelectOptions
from metaselect.registry import SELECTORS, configure
from metaselect.selection.base import Choice, PoolFeatures, choice_without_clusters, no_progress
from metaselect.selection.min_per_class import with_min_per_class
from metaselect.stages.select.choice import choose
from metaselect.stages.select.round_plan import RoundPlan

Z = 1.959964  # of a two-sided 95 % interval


def rows_of(run: Path, number: int = 1) -> list[dict[str, str]]:
    with (run / f"select/round-{number}/selected.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def labels_of(run: Path) -> dict[str, str]:
    """Given labels by sample_id."""
    table = pq.read_table(run / "data/samples.parquet")
    return dict(zip(table["sample_id"].to_pylist(), table["given_label"].to_pylist(), strict=True))


# gbc and --gradient


@pytest.mark.slow
def test_gbc_buys_the_budget_and_gives_the_same_bytes_twice(warm: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(warm, tmp_path / "copied"))
    for run in (warm, copied):
        assert metaselect("select", "--budget", 7, "--method", "gbc", "--json", run=run).json["selected"] == 7
    assert tree(warm, leave=("stage.json", ".lock")) == tree(copied, leave=("stage.json", ".lock"))
    assert [int(row["rank"]) for row in rows_of(warm)] == list(range(1, 8))
    assert len({row["sample_id"] for row in rows_of(warm)}) == 7
    folder = warm / "select/round-1"
    details = json.loads((folder / "stage.json").read_text())["details"]
    for epoch in (3, 6):
        schema = pq.read_schema(folder / f"gradients-epoch-{epoch:04d}.parquet")
        assert schema.names == ["sample_id", "norm", "direction"]
        assert schema.field("norm").type == pa.float32()
        assert schema.field("direction").type.value_type == pa.float16()
        drawn = details[f"epoch-{epoch:04d}"]["sampled_layers"]
        assert sum(layer["draws"] for layer in drawn) == 5
        assert all(layer["layer"] for layer in drawn)
    similarity = pq.read_table(folder / "clusters.parquet")["similarity"]
    refused = metaselect("select", "--budget", 7, "--method", "gbc", "--gradient", "full", run=warm, code=4)
    assert "label-free" in refused.err
    metaselect("select", "--budget", 7, "--method", "gbc", "--gradient", "full", "--force", run=warm)
    assert not pq.read_table(folder / "clusters.parquet")["similarity"].equals(similarity)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--method", "random", "--gradient", "full"),
            "--gradient full has no effect on random.",
        ),
        (("--method", "gbc", "--option", "gradient=full"), "--option gradient=full is not an option of gbc."),
        (("--method", "rbc", "--option", "gradient=full"), "--option gradient=full is not an option of rbc."),
        (("--gradient", "full", "--option", "features=representation"), "does not depend on labels"),
        (("--gradient", "half"), "--gradient"),
        (("--control", "1.5"), "--control is 1.5; it must be from 0 to 1."),
        (("--control", "-0.1"), "--control is -0.1; it must be from 0 to 1."),
        (("--control", "nan"), "--control is nan; it must be from 0 to 1."),
        (("--min-per-class", "-1"), "--min-per-class is -1; it must be at least 0."),
        (("--min-per-class", "3"), "Give --budget 30 or more"),
        (("--min-per-class", "3", "--control", "0.1"), "Give --budget 33 or more"),
        (("--min-per-class", "30"), "Give a lower --min-per-class."),
        (("--min-per-class", "1", "--control", "1"), "Give a lower --min-per-class."),
        (("--replace-unusable",), "--replace-unusable needs an earlier round with answers."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_cannot_be_are_refused(warm: Path, words: tuple[str, ...], said: str) -> None:
    before = seen(warm)
    refused = metaselect("select", "--budget", 20, *words, run=warm, code=2)
    assert said in refused.err
    assert refused.out == ""
    assert seen(warm) == before


# --control


def pool_of(n: int) -> PoolFeatures:
    generator = torch.Generator().manual_seed(4)
    probs = torch.rand(n, 3, generator=generator).softmax(1)
    return PoolFeatures((probs,), (torch.rand(n, 2, generator=generator),), torch.arange(n) % 3)


def drawn(method: Any, taken: torch.Tensor, seed: int, number: int = 1) -> tuple[list[int], set[int]]:
    """The picks by rank, and the control, of a budget of 10 with 4 at random, from 40 samples."""
    options = SelectOptions(budget=10, seed=seed)
    choice, control = choose(
        method,
        pool_of(40),
        RoundPlan(number, taken, torch.arange(len(taken)) + 10, 10, 0, 4),
        options,
        no_progress,
    )
    return choice.ranked.tolist(), control


def test_the_control_is_uniform_and_no_business_of_the_method() -> None:
    taken = torch.tensor([0, 3, 20, 21, 39])
    methods = [configure(SELECTORS[name], ()) for name in ("random", "certain", "k-center")]
    counts = np.zeros(40)
    seeds = 300
    for seed in range(seeds):
        found = [drawn(method, taken, seed) for method in methods]
        ranked, control = found[0]
        assert all(other[1] == control for other in found)
        for picks, _ in found:
            assert sorted(picks[-4:]) == sorted(control)
            assert len(set(picks)) == 10
            assert not set(picks) & set(taken.tolist())
        counts[ranked[-4:]] += 1
    counts = np.delete(counts, taken.numpy())
    expected = seeds * 4 / 35
    # Four without replacement vary less than four on their own: by (35 - 4) / (35 - 1).
    statistic = ((counts - expected) ** 2 / expected).sum() * 34 / 31
    assert 14.06 < statistic < 65.24  # of chi-squared with 34 degrees of freedom 0.1 % lie below, and above
    assert drawn(methods[0], taken, 1)[1] != drawn(methods[0], taken, 1, number=2)[1]


class Spy:
    """Takes the first samples that it sees, and remembers what it saw."""

    required_features = ("probs", "bought_labels")

    def choose(self, features: PoolFeatures, budget: int, bought: torch.Tensor, *_: object) -> Choice:
        self.saw, self.bought = features, bought
        free = [index for index in range(len(features.labels)) if index not in bought.tolist()]
        return choice_without_clusters(torch.tensor(free[:budget]), features.probs[0][:, 0])


def test_the_method_never_sees_the_control() -> None:
    spy, pool, taken = Spy(), pool_of(40), torch.tensor([2, 30])
    ranked, control = drawn(spy, taken, 5)
    seen_here = [index for index in range(40) if index not in control]
    assert torch.equal(spy.saw.probs[0], pool.probs[0][seen_here])
    assert torch.equal(spy.saw.labels, pool.labels[seen_here])
    assert [seen_here[index] for index in spy.bought.tolist()] == taken.tolist()
    assert spy.saw.bought_labels is not None
    assert spy.saw.bought_labels.tolist() == [10, 11]  # of the plan, in the order of ``bought``
    assert ranked[:6] == [index for index in seen_here if index not in (2, 30)][:6]


def interval(wrong: int, n: int) -> list[float]:
    """The shares p with (wrong/n - p)^2 = Z^2 p (1 - p) / n."""
    share = wrong / n
    return sorted(np.roots([1 + Z**2 / n, -2 * share - Z**2 / n, share**2]).real.tolist())


@pytest.mark.slow
def test_the_answered_control_tells_the_noise_rate(warm: Path) -> None:
    metaselect("select", "--budget", 23, "--control", 0.5, run=warm)
    rows = rows_of(warm)
    control = [row for row in rows if row["control"] == "1"]
    assert len(control) == max(round(0.5 * 23), 1)
    assert rows[-len(control) :] == control
    assert all(row["control"] == "0" and row["cluster"] != "" for row in rows[: -len(control)])
    for row in control:
        assert (row["cluster"], row["cluster_size"], row["cluster_mass"], row["similarity"]) == ("",) * 4
    metaselect("annotate", "export", "--no-images", run=warm)
    metaselect(*SIMULATE, run=warm)
    with TRUTH.open(newline="") as stream:
        clean = {row["sample_id"]: row["clean_label"] for row in csv.DictReader(stream)}
    given = labels_of(warm)
    wrong = sum(clean[row["sample_id"]] != given[row["sample_id"]] for row in control)
    n = len(control)
    low, high = interval(wrong, n)
    expected = {"drawn": n, "answered": n, "wrong": wrong, "unusable": 0, "unanswered": 0}
    expected |= {"rate": pytest.approx(wrong / n), "low": pytest.approx(low), "high": pytest.approx(high)}
    assert metaselect("status", "--json", run=warm).json["noise_estimate"] == expected
    assert metaselect("evaluate", TEST, "--json", run=warm).json["noise_estimate"] == expected
    whole = sum(clean[sample_id] != label for sample_id, label in given.items()) / LIMIT
    assert low < whole < high


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "share", "count"), [(4, 1, 4), (20, 0.1, 2), (5, 0.001, 1)])
def test_the_share_is_rounded_and_at_least_one(warm: Path, budget: int, share: float, count: int) -> None:
    metaselect("select", "--budget", budget, "--control", share, "--method", "random", run=warm)
    flags = [row["control"] for row in rows_of(warm)]
    assert flags == ["0"] * (budget - count) + ["1"] * count


# --min-per-class


def unbalanced(seed: int) -> tuple[Choice, torch.Tensor, int, list[int]]:
    """A choice with tied scores that leans to some classes, others are small or empty; labels, floor, what is taken."""
    generator = np.random.default_rng(seed)
    classes, n = int(generator.integers(1, 6)), int(generator.integers(8, 40))
    labels = generator.choice(classes, n, p=generator.dirichlet(np.full(classes, 0.7)))
    labels[-1] = classes - 1
    taken = sorted(generator.choice(n, int(generator.integers(0, n // 3)), replace=False).tolist())
    free = np.setdiff1d(np.arange(n), taken)
    budget = int(generator.integers(1, len(free) + 1))
    leaning = generator.normal(size=n) + 2 * generator.normal(size=classes)[labels]
    ranked = free[np.argsort(leaning[free])][:budget]
    generator.shuffle(ranked)
    scores = torch.from_numpy(generator.integers(-3, 4, n)) / 2
    floor = int(generator.integers(0, budget // classes + 1))
    return choice_without_clusters(torch.from_numpy(ranked), scores), torch.from_numpy(labels), floor, taken


def check_floor(choice: Choice, labels: torch.Tensor, floor: int, taken: list[int]) -> int:
    """Every condition that makes the answer the only one; returns how many picks were exchanged."""
    old, label, score = choice.ranked.tolist(), labels.tolist(), choice.similarity.tolist()
    new = with_min_per_class(choice, labels, floor, torch.tensor(taken, dtype=torch.int64)).tolist()
    assert len(set(new)) == len(new) == len(old)
    assert not set(new) & set(taken)
    kept, removed = [index for index in old if index in new], [index for index in old if index not in new]
    added = new[len(kept) :]
    assert new[: len(kept)] == kept
    for each in range(max(label) + 1):
        free = [i for i in range(len(label)) if label[i] == each and i not in taken]
        had = sum(label[index] == each for index in old)
        missing = max(min(floor, len(free)) - had, 0)
        best = sorted((i for i in free if i not in old), key=lambda i: (-score[i], i))[:missing]
        assert [index for index in added if label[index] == each] == best
        assert sum(label[index] == each for index in new) >= min(floor, len(free))
    stays = [sum(label[index] == each for index in kept) for each in range(max(label) + 1)]
    assert all(stays[label[index]] >= floor for index in removed)
    for index in removed:
        assert not any(label[other] == label[index] for other in kept if old.index(other) > old.index(index))
    # What is kept below a pick that went has no class that could spare it.
    highest = min((old.index(index) for index in removed), default=len(old))
    assert all(stays[label[index]] <= floor for index in old[highest:] if index in kept)
    return len(added)


def test_the_floor_exchanges_the_least_that_does() -> None:
    exchanged = [check_floor(*unbalanced(seed)) for seed in range(1500)]
    assert sum(count == 0 for count in exchanged) > 200
    assert sum(count > 1 for count in exchanged) > 150


@pytest.mark.slow
def test_each_class_has_its_floor_also_beside_a_control(warm: Path) -> None:
    given = labels_of(warm)
    words = ("select", "--budget", 12, "--method", "certain")

    def picked(*more: object) -> list[str]:
        """Given labels of what the method picked."""
        metaselect(*words, *more, "--force", run=warm)
        rows = rows_of(warm)
        assert len({row["sample_id"] for row in rows}) == 12
        return [given[row["sample_id"]] for row in rows if row["control"] == "0"]

    assert len(set(picked())) < 10  # else the floor would have nothing to do
    assert set(picked("--min-per-class", 1)) == set(given.values())
    beside = picked("--min-per-class", 1, "--control", 0.1)
    assert (len(beside), len(set(beside))) == (11, 10)
    said = "Give --budget 11 or more"  # one of eleven is the control
    assert said in metaselect("select", "--budget", 10, "--min-per-class", 1, "--control", 0.1,
                              "--force", run=warm, code=2).err  # fmt: skip
    metaselect("select", "--budget", 11, "--min-per-class", 1, "--control", 0.1, "--force", run=warm)


# explain


def test_explain_says_where_a_sample_stands_and_writes_nothing(finished: Path) -> None:
    before = seen(finished)
    rows = rows_of(finished)
    chosen = {row["sample_id"] for row in rows}
    other = next(sample_id for sample_id in labels_of(finished) if sample_id not in chosen)
    shown = metaselect("explain", rows[0]["sample_id"], "--json", run=finished).json
    selection = shown["selection"]
    assert (shown["ok"], selection["selected"], selection["rank"], selection["round"]) == (True, True, 1, 1)
    assert selection["cluster"]["number"] == int(rows[0]["cluster"])
    assert shown["answer"]["status"] == "done"
    lines = metaselect("explain", other, run=finished).out.splitlines()
    assert lines[0] == f"{other}: given label {labels_of(finished)[other]}"
    assert lines[1] == "Round 1, method rbc: not selected"
    assert "Answer: none" in lines
    unknown = metaselect("explain", other[:-1] + "x", run=finished, code=2)
    assert f"There is no sample '{other[:-1]}x'" in unknown.err
    assert f"'{other[:-1]}" in unknown.err.partition("Did you mean")[2]
    assert seen(finished) == before


def test_explain_before_any_round_names_the_command(warm: Path) -> None:
    first = next(iter(labels_of(warm)))
    said = metaselect("explain", first, run=warm)
    assert "First run: metaselect select --budget 50 --run" in said.out
    assert "Probability of the given label by models that did not see it: " in said.out
