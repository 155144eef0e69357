"""`--option help` and what a wrong --option is told: the fields of every method, from their own documentation."""

import json
from dataclasses import fields

import pytest

from metaselect.cli.main import main
from metaselect.errors import UsageError
from metaselect.registry import FLAG_FIELDS, REWEIGHTERS, SELECTORS, configure, describe, load
from metaselect.reweighting.fsr.pushers import PUSHERS

METHODS = [("select", name, path) for name, path in SELECTORS.items()]
METHODS += [("reweight", name, path) for name, path in REWEIGHTERS.items()]


@pytest.mark.parametrize(("command", "name", "path"), METHODS, ids=lambda value: value)
def test_every_field_is_explained_with_a_default_that_can_be_given(
    command: str, name: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [each.name for each in fields(load(path)) if each.name not in FLAG_FIELDS]
    assert main([command, "--method", name, "--option", "help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if not line.startswith(" ")]
    if not known:
        assert told == [f"{name} has no options."]
        return
    assert [line.partition("=")[0] for line in told] == known
    assert all(lines[lines.index(line) + 1].startswith("    ") for line in told)
    assert configure(path, told) == configure(path, [])  # what is printed is what is taken
    assert main([command, "--method", name, "--option", "help", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["options"]
    assert [f"{each}={found['default']}" for each, found in printed.items()] == told


def test_a_meaning_may_run_over_lines_and_be_inherited() -> None:
    said = {name: meaning for name, _, meaning in describe(REWEIGHTERS["fsr"])}
    assert said["proxies"].endswith("In classes without bought samples they do.")
    assert all(f'"{pusher}"' in said["pusher"] for pusher in PUSHERS)
    assert describe(SELECTORS["rbc-k"]) == describe(SELECTORS["rbc"])
    assert describe(SELECTORS["certain"]) == describe(SELECTORS["uncertain"])


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("every", "--option every has no value. For example every=1"),
        ("often=2", "--option often=2 is not an option of mw-net. Options: hidden=100,"),
        ("every=two", "'two' is not a whole number. The default is 1."),
        ("normalised=1", "'1' is not true or false. The default is false."),
        ("net_lr=fast", "'fast' is not a number. The default is 0.001."),
        ("net_lr=inf", "--option net_lr=inf must be above 0 and finite. The default is 0.001."),
        ("hidden=0", "--option hidden=0 must be at least 1. The default is 100."),
        ("net_weight_decay=-1", "--option net_weight_decay=-1 must be at least 0 and finite."),
    ],
)
def test_a_wrong_option_is_told_what_is_wrong_with_it(pair: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        configure(REWEIGHTERS["mw-net"], [pair])
    assert said in f"{caught.value} {caught.value.hint}"
