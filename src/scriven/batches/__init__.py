"""Corpus + settings + cursor -> Batch + next cursor: pure, so that resuming is restoring a small value."""

from scriven.batches.batch import Batch, Cursor
from scriven.batches.readers import epoch_predictions, epoch_reads, known_cursor, next_batch, prefetched

__all__ = ["Batch", "Cursor", "epoch_predictions", "epoch_reads", "known_cursor", "next_batch", "prefetched"]
