"""What activations look like: exact extremes, histograms and channel extremes, collected in flat memory."""

from mlc.statistics.collecting import Batches, CollectedStatistics, collect, merge, valid_rows

__all__ = ["Batches", "CollectedStatistics", "collect", "merge", "valid_rows"]
