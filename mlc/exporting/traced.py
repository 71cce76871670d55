"""Whether a module asks if it is traced: what it computes then is not what it computes when it runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from torch import nn

ASKS = re.compile(r"\bis_(compiling|exporting|dynamo_compiling|fx_tracing|tracing|in_onnx_export)\(")


def asks_whether_traced(module: nn.Module) -> str:
    """Return the first line of a forward of the module's own parts that asks, or nothing."""
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        if kind.__module__.startswith("torch."):
            continue
        try:
            lines, start = inspect.getsourcelines(kind.forward)
            file = Path(inspect.getsourcefile(kind) or "").name
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines, start):
            if ASKS.search(line):
                return f"{file}:{number} in forward: `{line.strip()}`"
    return ""
