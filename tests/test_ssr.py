"""Sample selection and relabelling: votes by hand, and what a small run selects."""

import pytest
import torch
from data_makers import METHODS, start_of
from torch import nn

from metaselect.errors import UsageError
from metaselect.metagrad.forward import Forward
from metaselect.models.batch import Batch
from metaselect.registry import REWEIGHTERS, configure
from metaselect.reweighting.weighting.ssr import SSRRun, consistency, relabelled, voters


def test_votes_count_in_inverse_proportion_to_the_frequency_of_their_class() -> None:
    """Of labels 0, 0, 0, 1: a share of 0.6 for 0 is balanced to 0.2, and 0.4 for 1 to 0.4; no label is 2."""
    votes = torch.tensor([[0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.75, 0.25, 0.0], [0.6, 0.4, 0.0]])
    found = consistency(votes, torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == pytest.approx([0.5, 1, 1, 1])


def test_only_a_prediction_above_the_threshold_changes_a_label() -> None:
    confidence = torch.tensor([0.9, 0.75, 0.8])
    found = relabelled(torch.tensor([0, 0, 0]), confidence, torch.tensor([1, 2, 1]), 0.75)
    assert found.tolist() == [1, 0, 1]


def test_voters_of_small_pools_are_at_most_half_of_a_mean_class() -> None:
    assert voters(200, 50_000, 100) == 200
    assert voters(200, 60, 3) == 10
    assert voters(200, 3, 10) == 1


def run_on_clusters(*options: str, scale: float = 0.0) -> SSRRun:
    """After an epoch in two batches on two clusters of 8, in which the samples 0 and 1, and 8, have the other label.

    Sample 1 is bought. The features are the inputs, and the logits these times ``scale``.
    """
    labels = torch.tensor([1, 1] + [0] * 6 + [0] + [1] * 7)
    inputs = torch.eye(2)[torch.arange(16) // 8] + 0.01 * torch.arange(16)[:, None] / 16
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(scale * torch.eye(2))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    method = configure(REWEIGHTERS["ssr"], options)
    run: SSRRun = method.begin(start_of(labels, method=method, bought=torch.tensor([1])))
    for ids in torch.arange(16).split(8):
        step = run.step(Forward(model, optimiser, Batch(inputs[ids], labels[ids])), None, ids, 0.1)
        assert float(step.weights.sum()) == pytest.approx(1)
    run.epoch_end(1)
    return run


def test_samples_whose_neighbours_disagree_are_not_selected() -> None:
    run = run_on_clusters()
    assert run.targets.tolist() == [-1, 1] + [0] * 6 + [-1] + [1] * 7
    # 6 samples of class 0 and 8 of class 1: each class has the same sum of weights.
    assert run.shares.tolist() == pytest.approx([0, 1 / 8] + [1 / 6] * 6 + [0] + [1 / 8] * 7)


def test_samples_take_the_label_of_a_sure_prediction_but_for_bought_ones() -> None:
    run = run_on_clusters(scale=10.0)
    assert run.targets.tolist() == [0, 1] + [0] * 6 + [1] * 8
    run = run_on_clusters("theta_r=1", scale=10.0)
    assert run.targets.tolist() == [-1, 1] + [0] * 6 + [-1] + [1] * 7


def test_with_a_low_threshold_any_vote_is_enough() -> None:
    """The sample 0 has that of the bought sample 1, its nearest one; sample 8 has none."""
    run = run_on_clusters("theta_s=0.01")
    assert run.targets.tolist() == [1, 1] + [0] * 6 + [-1] + [1] * 7


def test_an_epoch_with_less_than_two_visits_changes_nothing() -> None:
    run = METHODS["ssr"].begin(start_of(torch.arange(6) % 3))
    assert isinstance(run, SSRRun)
    before = run.targets.clone()
    run.epoch_end(1)
    assert torch.equal(run.targets, before)


@pytest.mark.parametrize("pair", ["theta_s=0", "theta_s=1.1", "theta_r=0", "theta_r=nan", "neighbours=0"])
def test_options_outside_their_range_are_refused(pair: str) -> None:
    with pytest.raises(UsageError, match=f"--option {pair.split('=')[0]}="):
        configure(REWEIGHTERS["ssr"], [pair])
