"""--profile: what it sets, what wins over it, and that it is nothing but a short way to say so."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from command_line import metaselect, seen, tree

from metaselect.errors import UsageError
from metaselect.registry import PROFILES, REWEIGHTERS, SELECTORS, configure, load, profile_values, settings

FULL = ("rbc", "rbc-k", "gbc")
METHODS = {path.partition(":")[2]: path for path in (*SELECTORS.values(), *REWEIGHTERS.values())}
TINY = ("reweight", "--method", "fsr", "--epochs", 2, "--batch-size", 16)
SPELLED_OUT = (
    "dictionary=3000",
    "share=1",
    "weights=shift",
    "deferral=0",
    "pseudo=0",
    "mixup=false",
    "smoothing=0.1",
    "reward_smoothing=0.1",
)
"""fsr's long-tail profile, less the size of its meta batch."""


def words_of(pairs: tuple[str, ...]) -> list[str]:
    return [word for pair in pairs for word in ("--option", pair)]


@pytest.mark.parametrize("name", METHODS)
def test_a_profile_is_values_of_fields_and_nothing_else_changes(name: str) -> None:
    plain = configure(METHODS[name], [])
    assert set(getattr(load(METHODS[name]), "profiles", {})) <= set(PROFILES)
    for profile in PROFILES:
        values = profile_values(METHODS[name], profile)
        defaults = {spec.name: spec.default for spec in fields(plain)}
        assert all(type(value) is type(defaults[key]) for key, value in values.items())
        assert all(value != defaults[key] for key, value in values.items())
        assert configure(METHODS[name], [], profile=profile) == replace(plain, **values)


@pytest.mark.parametrize("name", SELECTORS)
def test_long_tail_is_full_gradients_where_there_are_gradients(name: str) -> None:
    found = configure(SELECTORS[name], [], profile="long-tail")
    assert settings(found).get("gradient") == ("full" if name in FULL else None)
    if name in FULL:
        assert found == configure(SELECTORS[name], [], gradient="full")
        kept = configure(SELECTORS[name], ["starts=2"], profile="long-tail", gradient="label-free")
        assert (kept.gradient, kept.starts) == ("label-free", 2)


def test_an_option_that_a_profile_leaves_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="does not depend on labels") as refused:
        configure(SELECTORS["rbc"], ["features=representation"], profile="long-tail")
    assert "--profile long-tail sets --gradient full" in refused.value.hint


def test_long_tail_of_fsr_is_the_papers() -> None:
    path = REWEIGHTERS["fsr"]
    found = configure(path, [], profile="long-tail")
    assert found == configure(path, [*SPELLED_OUT, "meta_ratio=8"])
    one = configure(path, ["deferral=0.8", "pseudo=1"], profile="long-tail")
    assert one == replace(found, deferral=0.8, pseudo=1.0)


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="--profile short-tail") as refused:
        configure(SELECTORS["rbc"], [], profile="short-tail")
    assert "long-tail" in refused.value.hint


@pytest.mark.parametrize("command", ["select", "reweight"])
def test_the_command_line_lists_them_too(command: str) -> None:
    assert "long-tail" in metaselect(command, "--profile", "short-tail", code=2).err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rbc", "gbc"])
def test_select_is_as_with_full_gradients(warm: Path, tmp_path: Path, method: str) -> None:
    words = ("select", "--budget", 7, "--method", method)
    copied = Path(shutil.copytree(warm, tmp_path / "copied"))
    metaselect(*words, "--profile", "long-tail", run=warm)
    metaselect(*words, "--gradient", "full", run=copied)
    assert tree(warm, leave=("stage.json", ".lock", "log.txt")) == tree(
        copied, leave=("stage.json", ".lock", "log.txt")
    )
    keys = [json.loads((run / "select/round-1/stage.json").read_text()) for run in (warm, copied)]
    assert keys[0]["options"] == keys[1]["options"]
    before = seen(warm / "select")
    assert "up to date" in metaselect(*words, "--gradient", "full", run=warm).err
    assert "up to date" in metaselect(*words, "--profile", "long-tail", run=copied).err
    assert seen(warm / "select") == before
    # The flag wins: this is another choice.
    refused = metaselect(*words, "--profile", "long-tail", "--gradient", "label-free", run=warm, code=4)
    assert "label-free" in refused.err


def test_where_it_changes_nothing_one_line_says_so(warm: Path) -> None:
    words = ("select", "--budget", 7, "--method", "random")
    said = metaselect(*words, "--profile", "long-tail", run=warm).err
    assert said.count("Profile long-tail changes nothing in random.") == 1
    before = seen(warm / "select")
    assert "Profile" not in metaselect(*words, run=warm).err
    assert seen(warm / "select") == before
    uniform = ("reweight", "--method", "uniform", "--dry-run", "--profile", "long-tail")
    assert "Profile long-tail changes nothing in uniform." in metaselect(*uniform, run=warm).err


@pytest.mark.slow
def test_reweight_is_as_with_the_options_spelled_out(warm: Path) -> None:
    profile = ("--profile", "long-tail")
    spelled = (*words_of(SPELLED_OUT), "--meta-batch-size", 8 * 16)
    metaselect(*TINY, *profile, "--name", "short", run=warm)
    metaselect(*TINY, *spelled, "--name", "long", run=warm)
    short, long = (tree(warm / f"reweight/{name}", leave=("stage.json",)) for name in ("short", "long"))
    assert short == long
    before = seen(warm / "reweight")
    ratio = (*words_of(SPELLED_OUT), "--option", "meta_ratio=8")
    for words in (spelled, ratio, (*profile, "--option", "smoothing=0.1")):
        assert "up to date" in metaselect(*TINY, *words, "--name", "short", run=warm).err
    assert seen(warm / "reweight") == before
    refused = metaselect(*TINY, "--name", "short", run=warm, code=4)
    assert "meta_batch_size: 128 -> 32" in refused.err


def test_options_and_flags_win_in_reweight(warm: Path) -> None:
    words = ("--profile", "long-tail", "--meta-batch-size", 40, "--option", "deferral=0.8")
    options = metaselect(*TINY, *words, "--dry-run", "--json", run=warm).json["options"]
    assert options["meta_batch_size"] == 40
    assert (options["option"]["deferral"], options["option"]["weights"]) == (0.8, "shift")
    plain = metaselect(*TINY, "--dry-run", "--json", run=warm).json["options"]
    assert (plain["meta_batch_size"], plain["option"]["weights"]) == (2 * 16, "relu")
    assert "profile" not in {*options, *plain}


def test_the_weight_net_of_long_tails_is_the_published_one() -> None:
    made = configure(REWEIGHTERS["mw-net"], ["net_lr=0.5"], profile="long-tail")
    assert (made.net_optimiser, made.net_lr, made.normalised, made.detached) == ("sgd", 0.5, True, False)
    assert configure(REWEIGHTERS["mw-net"], [], profile="long-tail").net_lr == 1e-5
    with pytest.raises(UsageError, match="lagged") as caught:
        configure(REWEIGHTERS["mw-net"], ["lagged=true"], profile="long-tail")
    assert "long-tail" in str(caught.value.hint)
