"""Options that a method's run prefers to the defaults: they never replace what the user gave."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_makers import Listener

from metaselect.options import ReweightOptions
from metaselect.reweighting.auto.method import Auto
from metaselect.reweighting.base import Recipe
from metaselect.run.layout import Run
from metaselect.stages.reweight.setup import ReweightSetup, resolve_setup
from metaselect.stages.reweight.training import preferred_config


def setup_of(run: Path, **options: Any) -> ReweightSetup:
    return resolve_setup(Run(run), ReweightOptions(method="uniform", **options), Listener())


@pytest.mark.parametrize(
    ("options", "momentum", "batch_size", "more_epochs"),
    [
        ({}, 0.9, 64, 2),
        ({"epochs": 5}, 0.9, 32, 1),  # larger batches would be fewer steps
        ({"batch_size": 16}, 0.9, 16, 1),
        ({"batch_size": 128}, 0.9, 128, 1),
        ({"momentum": 0.5}, 0.5, 64, 2),
        ({"momentum": 0.0}, 0.0, 64, 2),
        ({"optimiser": "adam"}, 0.0, 64, 2),
    ],
)
def test_a_recipe_holds_where_nothing_was_given(
    bought: Path, options: dict[str, Any], momentum: float, batch_size: int, more_epochs: int
) -> None:
    setup = setup_of(bought, **options)
    found = preferred_config(setup, Recipe(0.9, 64))
    assert (found.momentum, found.batch_size) == (momentum, batch_size)
    assert found.epochs == more_epochs * setup.resolved.config.epochs
    assert preferred_config(setup, None) == setup.resolved.config


def test_the_record_has_what_auto_found_and_how_it_trained(finished: Path) -> None:
    details = {
        name: json.loads((finished / f"reweight/{name}/stage.json").read_text())["details"]
        for name in ("auto", "uniform")
    }
    assert details["uniform"]["method"] == {}
    assert details["uniform"]["training"] == {"epochs": 2, "batch_size": 32, "momentum": 0.0}
    found = details["auto"]["method"]
    assert sum(found["candidates"].values()) == pytest.approx(1)
    assert (
        found["corrects"] is True
    )  # 60 % of the labels are wrong, and so are many of the 20 that were bought
    assert [sum(row) for row in found["transition"]] == pytest.approx([1] * 10)
    assert details["auto"]["training"] == {"epochs": 8, "batch_size": 32, "momentum": Auto.recipe.momentum}
    assert Auto.recipe.batch_size > 32
