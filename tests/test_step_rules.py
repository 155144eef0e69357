"""How many steps a training takes by default, also where the pool is smaller than a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metaselect.annotation.meta_set import MetaSet
from metaselect.data.store import Dataset
from metaselect.data.stored.preprocess import Preprocess
from metaselect.options import ReweightOptions, WarmupOptions
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.base import Recipe
from metaselect.run.layout import Run
from metaselect.stages.reweight.setup import ReweightSetup
from metaselect.stages.reweight.training import preferred_config
from metaselect.training.config import REWEIGHT_STEPS, WARMUP_EPOCHS, resolve_reweight, resolve_warmup
from metaselect.training.loop import TrainingConfig

CPU = torch.device("cpu")


def pool_of(n: int) -> Dataset:
    features = np.zeros((n, 3), np.float32)
    preprocess = Preprocess("features", (), "", (0.0,) * 3, (1.0,) * 3)
    return Dataset([f"s{i}" for i in range(n)], np.zeros(n, np.int64), ("a", "b"), features, preprocess)


def steps(config: TrainingConfig, trained: int) -> int:
    return config.epochs * config.batches_in(trained) // config.accumulate


@pytest.mark.parametrize(
    ("n", "trained", "options"),
    [
        (60, 1, {}),
        (60, 2, {}),
        (60, 20, {}),
        (60, 60, {}),
        (60, 5, {"batch_size": 1}),
        (60, 7, {"accumulate": 4}),
        (60, 33, {"batch_size": 16, "accumulate": 3}),
        (1437, 1387, {}),
        (50_000, 49_800, {}),
    ],
)
def test_a_re_weighting_has_about_as_many_steps_for_any_size_of_the_pool(
    n: int, trained: int, options: dict[str, int]
) -> None:
    config = resolve_reweight(ReweightOptions(**options), pool_of(n), trained, "mlp", CPU).config  # type: ignore[arg-type]
    assert REWEIGHT_STEPS <= steps(config, trained) <= 2 * REWEIGHT_STEPS


@pytest.mark.parametrize("trained", [1, 8, 40])
def test_a_warm_up_of_a_tiny_pool_has_the_most_epochs_and_no_more(trained: int) -> None:
    config = resolve_warmup(WarmupOptions(model="mlp"), pool_of(trained + 1), trained, CPU).config
    assert config.epochs == WARMUP_EPOCHS[1]


@pytest.mark.parametrize("bought", [0, 12, 28, 50, 59])
def test_a_recipe_with_larger_batches_makes_as_many_steps(tmp_path: Path, bought: int) -> None:
    pool, options = pool_of(60), ReweightOptions(method="direct")
    meta_set = MetaSet(np.arange(bought), np.zeros(bought, np.int64), np.empty(0, np.int64))
    resolved = resolve_reweight(options, pool, 60 - bought, "mlp", CPU)
    method = configure(REWEIGHTERS["direct"], [])  # trains on what was not bought
    setup = ReweightSetup(pool, meta_set, method, resolved, 0, None, CPU, Run(tmp_path), options)
    found = preferred_config(setup, Recipe(0.9, 64))
    assert found.batch_size == 64
    assert REWEIGHT_STEPS <= steps(found, 60 - bought) <= steps(resolved.config, 60 - bought)
