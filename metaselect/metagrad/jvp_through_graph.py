"""The product J v of the losses' Jacobian through a forward pass that has already been run for training.

Autograd's graph of the pass records each operation, its inputs, and the tensors that its backward formula needs;
autograd raises an error where one of these was changed in place since. A backward pass goes through the graph from the
losses to the parameters. ``jvp_through_graph`` goes from the parameters to the losses (forward mode), so that one
forward pass serves the product, whose v is known only later, and the weighted backward pass of the step.

Nothing is recorded beside the graph, random masks are those of the pass itself, and running statistics do not change.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from metaselect.metagrad.jvp_rules import RULES, NoRule, Rule, Tangent, by_two_vjps

LEAF_NODE = "torch::autograd::AccumulateGrad"  # name of a parameter's node in autograd


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse, since the tangents of a pass are allocated and freed all the time.

    Without it fresh pages cost a third of the pass's time. glibc returns memory to the system above twice the size of
    the largest block that it has seen freed, up to 32 MiB, so freeing one block of nearly that size is enough. Nothing
    is written to the block, so it costs nothing; other allocators ignore it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # just below 32 MiB, freed at once


_keep_freed_memory()


def jvp_through_graph(losses: torch.Tensor, v: Mapping[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """s: (B,), the derivative of ``losses`` along v, without a graph of its own.

    Args:
        losses: (B,), with their graph, which is not freed.
        v: tangents of parameters (leaves of the graph); other leaves are constants.

    Raises:
        NoRule: an operation in the graph has no forward-mode product.
    """
    last: Any = losses.grad_fn
    if last is None:  # the losses depend on no parameter
        return torch.zeros_like(losses)
    nodes = list(_topological_order(last))
    uses = Counter(source for node in nodes for source, _ in node.next_functions)
    tangents: dict[Any, tuple[Tangent, ...]] = {}  # of each node's outputs, until their last use

    def tangent_of(source: Any, output: int) -> Tangent:
        """The tangent of one output of a node, None for a constant; freed after its last use."""
        if source is None:
            return None
        outputs = tangents[source]
        uses[source] -= 1
        if not uses[source]:
            del tangents[source]
        return outputs[output]

    with torch.no_grad():
        for node in nodes:
            if node.name() == LEAF_NODE:
                tangents[node] = (v.get(node.variable),)
            else:
                tangents[node] = _apply(node, [tangent_of(*source) for source in node.next_functions])
        s = tangents[last][losses.output_nr]
    return torch.zeros_like(losses) if s is None else s


def _apply(node: Any, tangents: list[Tangent]) -> tuple[Tangent, ...]:
    """Tangents of a node's outputs, each in the output's dtype and shape; None where all inputs are constants."""
    try:
        outputs = node._input_metadata
        if all(tangent is None for tangent in tangents):
            return (None,) * len(outputs)
        rule: Rule = RULES.get(node.name(), by_two_vjps)
        result = rule(node, *tangents)
    except (AttributeError, TypeError) as error:
        # A node that is not torch's own, or of a version of torch whose nodes have other attributes.
        raise NoRule(f"{node.name()}: {error}") from None
    output_tangents = result if isinstance(result, tuple) else (result,)
    return tuple(
        tangent.to(out.dtype).expand(out.shape)
        for tangent, out in zip(output_tangents, outputs, strict=False)
    )


def _topological_order(last: Any) -> Iterator[Any]:
    """Every node that ``last`` was computed from, then ``last`` itself; each node comes after its inputs."""
    # Depth first with a stack of its own: graphs of deep models exceed Python's limit of recursion.
    visited, stack = {last}, [(last, iter(last.next_functions))]
    while stack:
        node, inputs = stack[-1]
        source = next((s for s, _ in inputs if s is not None and s not in visited), None)
        if source is None:
            yield node
            stack.pop()
        else:
            visited.add(source)
            stack.append((source, iter(source.next_functions)))
