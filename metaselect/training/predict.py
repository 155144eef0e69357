"""The forward pass over the pool or a test set that makes a model's predictions."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from metaselect.errors import ConditionUnmet
from metaselect.models.batch import Batch
from metaselect.models.predictions import Predictions
from metaselect.ranks import divide_chunks
from metaselect.training.batches import Batches
from metaselect.training.blocks import in_blocks

EVALUATION_BATCH, EVALUATION_NUMBERS = 1000, 2**22  # samples, and input values, at most
CPU_BATCH = 256  # samples on a CPU, where more are no quicker, and fewer are easier to divide among ranks


def pool_inputs(batches: Batches) -> torch.Tensor:
    """(n, d) float32 on the device: all samples as a model gets them, flattened, without augmentation."""
    chunks = torch.split(torch.arange(len(batches)), EVALUATION_BATCH)
    return torch.cat([batch.inputs.flatten(1) for _, batch in batches.stream(chunks)])


def class_probs(model: nn.Module, batches: Batches) -> torch.Tensor:
    """(n, K) float32 on the CPU, the softmax of every sample: eval mode, no augmentation, no autocast."""
    chunks, rows = divide_chunks(_chunks(batches, torch.arange(len(batches))))
    return rows.joined(
        torch.cat([log_probs.exp().float().cpu() for log_probs, _ in _log_probs(model, batches, chunks)])
    )


def predict(model: nn.Module, batches: Batches, ids: torch.Tensor) -> Predictions:
    """Run the model over ``ids`` ((n',) int64 on the CPU): eval mode, no augmentation, no autocast.

    Where a sample has no label, what is said of its label is meaningless but finite.

    Raises:
        ConditionUnmet: the model's values are not finite.
    """
    parts: list[Predictions] = []
    chunks, rows = divide_chunks(_chunks(batches, ids))
    for log_probs, labels in _log_probs(model, batches, chunks):
        losses = F.nll_loss(log_probs, labels.clamp(min=0), reduction="none")
        confidence, predicted = log_probs.max(1)
        hits = predicted == labels
        parts.append(Predictions(losses, predicted, confidence.exp(), (-losses).exp(), hits))
    predictions = Predictions(*(rows.joined(torch.cat(column)) for column in zip(*parts, strict=True)))
    if not torch.isfinite(predictions.losses).all():
        raise ConditionUnmet(
            "The training diverged: the model's losses are not finite.", "Use a smaller --lr."
        )
    return predictions


def _log_probs(
    model: nn.Module, batches: Batches, chunks: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """((b, K) logarithms of the softmax, (b,) labels) of one chunk of samples after another."""
    model.eval()

    def compute(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return F.log_softmax(model(batch.inputs), 1), batch.labels

    return (found for _, found in in_blocks(batches, chunks, compute))


def _chunks(batches: Batches, ids: torch.Tensor) -> Sequence[torch.Tensor]:
    """The ids ((n',) int64), as many at a time as are predicted together."""
    most = CPU_BATCH if batches.device.type == "cpu" else EVALUATION_BATCH
    return torch.split(ids, min(max(EVALUATION_NUMBERS // batches.sample_numbers, 8), most))
