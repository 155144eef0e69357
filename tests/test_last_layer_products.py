"""Products of last-layer gradients, against autograd's gradients of single samples."""

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.metagrad import last_layer_products as module
from metaselect.metagrad.last_layer_products import GradientFactors, gradient_factors, last_layer_products

N, BOUGHT, D, K = 11, (2, 7, 9), 5, 4


def scene(*, bias: bool) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A net, inputs (N, 3) and labels (N,), in float64."""
    draw = torch.Generator().manual_seed(4)
    net = nn.Sequential(nn.Linear(3, D), nn.Tanh(), nn.Linear(D, K, bias=bias)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    inputs = torch.randn(N, 3, generator=draw, dtype=torch.float64)
    return net, inputs, torch.randint(K, (N,), generator=draw)


def products(net: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N, 3) by the function."""
    with torch.no_grad():
        hidden = net[:2](inputs)
        factors = gradient_factors(hidden, net(inputs).softmax(1), labels)
    bought = GradientFactors(*(values[list(BOUGHT)] for values in factors))
    return torch.cat([*last_layer_products(factors, bought, bias=net[2].bias is not None)])


def by_autograd(net: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N, 3) inner products of the gradients of single losses by the last layer's parameters."""
    gradients = []
    for place in range(N):
        loss = F.cross_entropy(net(inputs[[place]]), labels[[place]])
        parts = torch.autograd.grad(loss, [*net[2].parameters()])
        gradients.append(torch.cat([part.flatten() for part in parts]))
    rows = torch.stack(gradients)
    return rows @ rows[list(BOUGHT)].T


def test_they_are_inner_products_of_the_gradients_of_single_samples() -> None:
    for bias in (True, False):
        net, inputs, labels = scene(bias=bias)
        expected = by_autograd(net, inputs, labels)
        torch.testing.assert_close(products(net, inputs, labels), expected, rtol=1e-12, atol=1e-12)


def test_they_are_the_fall_of_a_bought_loss_by_a_step_on_a_sample() -> None:
    net, inputs, labels = scene(bias=True)
    expected, rate = products(net, inputs, labels), 1e-6
    for place in (0, 4):
        moved = [parameter.detach().clone() for parameter in net[2].parameters()]
        loss = F.cross_entropy(net(inputs[[place]]), labels[[place]])
        for value, gradient in zip(moved, torch.autograd.grad(loss, [*net[2].parameters()]), strict=True):
            value -= rate * gradient
        with torch.no_grad():
            bought = list(BOUGHT)
            before = F.cross_entropy(net(inputs[bought]), labels[bought], reduction="none")
            logits = F.linear(net[:2](inputs[bought]), *moved)
            after = F.cross_entropy(logits, labels[bought], reduction="none")
        torch.testing.assert_close((before - after) / rate, expected[place], rtol=1e-4, atol=1e-6)


def test_a_permutation_of_samples_permutes_them_and_blocks_change_nothing() -> None:
    net, inputs, labels = scene(bias=True)
    hidden, probs = net[:2](inputs).detach(), net(inputs).detach().softmax(1)
    factors = gradient_factors(hidden, probs, labels)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    mixed = GradientFactors(*(values[order] for values in factors))
    (straight,) = last_layer_products(factors, factors, bias=True)
    (permuted,) = last_layer_products(mixed, mixed, bias=True)
    torch.testing.assert_close(permuted, straight[order][:, order], rtol=1e-12, atol=1e-12)
    whole, module.BLOCK = module.BLOCK, 4
    try:
        parts = [*last_layer_products(factors, factors, bias=True)]
    finally:
        module.BLOCK = whole
    assert [len(part) for part in parts] == [4, 4, 3]
    torch.testing.assert_close(torch.cat(parts), straight, rtol=1e-12, atol=1e-12)


def test_a_sample_without_a_label_has_no_gradient() -> None:
    net, inputs, labels = scene(bias=True)
    labels[3] = -1
    found = products(net, inputs, labels)
    assert torch.equal(found[3], torch.zeros(len(BOUGHT), dtype=found.dtype))
    assert (found[:3] != 0).all()
