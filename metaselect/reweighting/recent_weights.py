"""The mean weight of each sample over the last epochs, for methods that compute new weights for every batch."""

import torch

from metaselect.reweighting.base import State

AVERAGED_EPOCHS = 3


class RecentWeights:
    """min(1, B w_i) at the visits of the last 3 epochs; ``used`` (3, n), row ``epoch mod 3``, starts at 0."""

    def __init__(self, used: torch.Tensor) -> None:
        self.used = used
        self.epoch = 0

    def record(self, ids: torch.Tensor, weights: torch.Tensor) -> None:
        """Record a step: (B,) int64 ids on the device, (B,) weights."""
        # B w_i is 1 where all weigh alike, whatever the batch size.
        row = (weights * len(weights)).clamp(max=1).to(self.used.dtype)
        self.used[self.epoch % AVERAGED_EPOCHS, ids] = row

    def epoch_end(self, epoch: int) -> None:
        """Later steps are recorded in the row of the next epoch."""
        self.epoch = epoch

    def mean(self) -> torch.Tensor:
        """(n,) in [0, 1]; 0 for samples that were never visited."""
        # Of a run with fewer epochs, only the rows that were written.
        return self.used[: max(min(self.epoch, AVERAGED_EPOCHS), 1)].mean(0)

    def state_dict(self) -> State:
        """The table and the epoch."""
        return {"used": self.used, "epoch": torch.tensor(self.epoch)}

    def load_state_dict(self, state: State) -> None:
        """The table and the epoch."""
        self.used = state["used"].to(self.used.device)
        self.epoch = int(state["epoch"])
