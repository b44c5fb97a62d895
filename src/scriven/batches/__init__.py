"""Reads batches: corpus + settings + cursor -> batch + next cursor, so that resuming means restoring a small value."""

from scriven.batches.batch import Batch, Cursor
from scriven.batches.readers import check_cursor, epoch_predictions, epoch_reads, next_batch, prefetch

__all__ = ["Batch", "Cursor", "check_cursor", "epoch_predictions", "epoch_reads", "next_batch", "prefetch"]
