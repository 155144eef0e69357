"""Batches of a pool or test set: gathered by index, normalised, augmented, on the device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import numpy as np
import torch

from metaselect.data.store import Inputs
from metaselect.data.stored.images import EncodedImages
from metaselect.data.stored.preprocess import Preprocess
from metaselect.memory import limits
from metaselect.models.batch import Batch
from metaselect.ranks import divide
from metaselect.training.augment import Augment
from metaselect.training.decoding.ahead import decode_ahead

DEVICE_SHARE = 0.5  # of the free GPU memory that the pool's raw samples may take


class Batches:
    """A pool or test set with random access.

    The raw samples stay uint8 (or float32 features), on the device when they take at most half of its free
    memory, else memory-mapped on the host and fetched one batch ahead. Encoded images are decoded ahead.

    Args:
        inputs: uint8 (n, C, H, W) or float32 (n, d).
        labels: (n,) int64.
        preprocess: mean and std.
        device: of the batches.
        channels: channels that the model takes; grey images are repeated.
    """

    def __init__(
        self,
        inputs: Inputs,
        labels: np.ndarray,
        preprocess: Preprocess,
        *,
        device: torch.device,
        channels: int,
    ) -> None:
        self.device = device
        self.encoded = inputs if isinstance(inputs, EncodedImages) else None
        # Of encoded images no row.
        raw = torch.from_numpy(inputs if isinstance(inputs, np.ndarray) else inputs[:0])
        self.resident = device.type != "cpu" and self.encoded is None and _fits(raw, device)
        self.raw = raw.to(device) if self.resident else raw
        self.labels = torch.from_numpy(labels).to(device)
        self.images = raw.dim() == 4
        self.repeat = channels // raw.shape[1] if self.images else 1
        view = (1, -1, 1, 1) if self.images else (1, -1)
        scale = 255.0 if self.images else 1.0
        mean = torch.tensor(preprocess.mean, dtype=torch.float32).view(view)
        std = torch.tensor(preprocess.std, dtype=torch.float32).view(view)
        # One multiply-add: (x / scale - mean) / std.
        self.factor = (1 / (scale * std)).to(device)
        self.offset = (-mean / std).to(device)

    def relabelled(self, labels: np.ndarray) -> "Batches":
        """The same samples with other labels ((n,) int64); the samples are shared, not copied."""
        other = copy(self)
        other.labels = torch.from_numpy(labels).to(self.device)
        return other

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample_numbers(self) -> int:
        """Numbers that a raw sample has: C H W, or d."""
        return self.raw.shape[1:].numel()

    def get(self, ids: torch.Tensor, augment: Augment | None = None, *, divided: bool = False) -> Batch:
        """The samples at ``ids`` ((B,) int64 on the CPU), their images augmented.

        Args:
            ids: pool indices.
            augment: of all B images.
            divided: the inputs are those of this rank's rows alone; the labels are those of all B.
        """
        own = _own(ids, divided)
        if self.encoded is None:
            return self._finish(self._gather(own), ids, augment, divided)
        return self._finish(torch.from_numpy(self.encoded.recalled(own.numpy())), ids, augment, divided)

    def stream(
        self, chunks: Sequence[torch.Tensor], augment: Augment | None = None, *, divided: bool = False
    ) -> Iterator[tuple[torch.Tensor, Batch]]:
        """``(ids, batch)`` for each chunk of ids, as ``get``; what the host does runs ahead of a GPU."""
        parts = [_own(ids, divided) for ids in chunks]
        for ids, raw in zip(chunks, self._raw_ahead(parts), strict=True):
            yield ids, self._finish(raw, ids, augment, divided)

    def _raw_ahead(self, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The raw samples of each part of the ids."""
        if self.encoded is not None:
            decoded = decode_ahead(self.encoded, [ids.numpy() for ids in parts])
            yield from map(torch.from_numpy, decoded)
        elif self.resident or self.device.type == "cpu":
            yield from map(self._gather, parts)
        else:
            with ThreadPoolExecutor(1) as pool:
                ahead = pool.submit(self._gather, parts[0]) if parts else None
                for position in range(len(parts)):
                    assert ahead is not None
                    raw = ahead.result()
                    if position + 1 < len(parts):
                        ahead = pool.submit(self._gather, parts[position + 1])
                    yield raw

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        return self.raw[own.to(self.raw.device)]

    def _finish(self, raw: torch.Tensor, ids: torch.Tensor, augment: Augment | None, divided: bool) -> Batch:
        raw = raw.to(self.device)
        if augment is not None and self.images:
            rows = divide(len(ids)).own if divided else slice(0, len(ids))
            raw = augment(raw, rows, len(ids))
        inputs = torch.addcmul(self.offset, raw.float(), self.factor)
        if self.repeat > 1:
            inputs = inputs.expand(-1, self.repeat, -1, -1)
        return Batch(inputs, self.labels[ids.to(self.device)])


def _own(ids: torch.Tensor, divided: bool) -> torch.Tensor:
    """The ids, or of these the rows of this rank."""
    return ids[divide(len(ids)).own] if divided else ids


def _fits(raw: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    if (limit := limits().gpu) is not None:
        free = min(free, limit - torch.cuda.memory_allocated(device))
    return raw.numel() * raw.element_size() <= DEVICE_SHARE * free
