"""Where data comes from: files, folders, the user's functions and any re-iterable, as a stream of checked batches."""

from mlc.data.opening import open_data
from mlc.data.stream import Batch, Data, batch_size, filled_size, split

__all__ = ["Batch", "Data", "batch_size", "filled_size", "open_data", "split"]
