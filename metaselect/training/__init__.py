"""The training loop and what it needs: batches, predictions of the pool, checkpoints, the device."""
