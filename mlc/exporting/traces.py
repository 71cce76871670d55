"""Which frames torch keeps of a call that it traces: those of functions that forward calls too."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import dropwhile
from pathlib import Path
from typing import Any

from torch.fx.experimental.symbolic_shapes import uninteresting_files
from torch.fx.proxy import TracerBase

from mlc.exporting.replaced import replaced

FILTER = "_filter_traceback_frames"


def whole_traces() -> AbstractContextManager[None]:
    """Keep inside the block all frames from the first forward on, where torch keeps those called forward alone."""
    return replaced(TracerBase, FILTER, _whole) if hasattr(TracerBase, FILTER) else nullcontext()


def _whole(_own: Any) -> Callable[..., traceback.StackSummary]:
    ours, torchs = Path(__file__).parents[1], uninteresting_files()

    def kept(_tracer: TracerBase, summary: traceback.StackSummary) -> traceback.StackSummary:
        behind = dropwhile(lambda frame: frame.name != "forward", summary)
        frames = (frame for frame in behind if frame.filename not in torchs)
        return traceback.StackSummary.from_list([each for each in frames if ours not in Path(each.filename).parents])

    return kept
