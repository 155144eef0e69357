"""The product J v of the losses' Jacobian through a forward pass that has already been run for training.

Autograd's graph of the pass is the recording: it knows each operation, what it was computed from, and the tensors
that it needs again, and it refuses to go on where one of them was changed in place since. A backward pass walks it
from the losses to the parameters; ``jvp_through_graph`` walks it the other way, so that one forward pass serves the
product, whose v is known only later, and the weighted backward pass of the step.

Nothing is recorded beside the graph, random masks are those of the pass itself, and running statistics do not move.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from metaselect.metagrad.jvp_rules import RULES, NoRule, Rule, Tangent, by_two_vjps

LEAF = "torch::autograd::AccumulateGrad"  # what autograd calls a parameter's node


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: the tangents of a pass come and go, and fresh pages cost a third of its time.

    It hands memory back above twice the largest block that it has seen freed, of at most 32 MiB. Nothing is written
    to this one, so it costs nothing; other allocators do not mind.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


_keep_freed_memory()


def jvp_through_graph(losses: torch.Tensor, v: Mapping[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """s: (B,), the derivative of ``losses`` along v, without a graph of its own.

    Args:
        losses: (B,), with their graph, which stays as it is.
        v: from parameters (leaves of the graph) to their changes; others do not change.

    Raises:
        NoRule: an operation in the graph has no forward-mode product.
    """
    last: Any = losses.grad_fn
    if last is None:  # no parameter bears on them
        return torch.zeros_like(losses)
    nodes = list(_in_order(last))
    uses = Counter(source for node in nodes for source, _ in node.next_functions)
    changes: dict[Any, tuple[Tangent, ...]] = {}  # of each node's outputs, as long as somebody will ask

    def take(source: Any, output: int) -> Tangent:
        """The change of one output of a node, None for a constant; forgotten after its last use."""
        if source is None:
            return None
        found = changes[source]
        uses[source] -= 1
        if not uses[source]:
            del changes[source]
        return found[output]

    with torch.no_grad():
        for node in nodes:
            if node.name() == LEAF:
                changes[node] = (v.get(node.variable),)
            else:
                changes[node] = _apply(node, [take(*source) for source in node.next_functions])
        s = changes[last][losses.output_nr]
    return torch.zeros_like(losses) if s is None else s


def _apply(node: Any, tangents: list[Tangent]) -> tuple[Tangent, ...]:
    """The changes of a node's outputs, each in the output's dtype and shape; None where no input changes."""
    try:
        outputs = node._input_metadata
        if all(tangent is None for tangent in tangents):
            return (None,) * len(outputs)
        rule: Rule = RULES.get(node.name(), by_two_vjps)
        answer = rule(node, *tangents)
    except (
        AttributeError,
        TypeError,
    ) as error:  # a node that is not torch's own, or of another version of it
        raise NoRule(f"{node.name()}: {error}") from None
    changes = answer if isinstance(answer, tuple) else (answer,)
    return tuple(
        change.to(out.dtype).expand(out.shape) for change, out in zip(changes, outputs, strict=False)
    )


def _in_order(last: Any) -> Iterator[Any]:
    """Every node that ``last`` was computed from, and itself, each after its inputs."""
    seen, ahead = {last}, [(last, iter(last.next_functions))]
    while ahead:
        node, inputs = ahead[-1]
        source = next((s for s, _ in inputs if s is not None and s not in seen), None)
        if source is None:
            yield node
            ahead.pop()
        else:
            seen.add(source)
            ahead.append((source, iter(source.next_functions)))
