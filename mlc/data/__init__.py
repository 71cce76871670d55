"""Where data comes from: .npz files, the user's functions and any re-iterable, as a stream of checked batches."""

from mlc.data.stream import Batch, Data, batch_size, filled_size, open_data, split

__all__ = ["Batch", "Data", "batch_size", "filled_size", "open_data", "split"]
