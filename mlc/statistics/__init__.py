"""What activations look like: exact extremes, histograms and extremes by axis, collected in flat memory, and kept."""

from mlc.statistics.collected import CollectedStatistics, merge
from mlc.statistics.collecting import Batches, collect, sample_digests, valid_rows
from mlc.statistics.fingerprints import fingerprints
from mlc.statistics.store import Store

__all__ = [
    "Batches", "CollectedStatistics", "Store", "collect", "fingerprints", "merge", "sample_digests", "valid_rows",
]  # fmt: skip
