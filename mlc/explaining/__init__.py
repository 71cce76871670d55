"""Where a quantized model loses, and what of it runs on integers: computed from the written file and samples.

The nouns alone are here: what reads reports needs neither graph nor runtime.
"""

from mlc.explaining.nouns import (
    Between,
    Explanation,
    Inside,
    IntegerShare,
    Kept,
    NodeCost,
    NodeTime,
    ProductShare,
    TensorError,
)

__all__ = [
    "Between",
    "Explanation",
    "Inside",
    "IntegerShare",
    "Kept",
    "NodeCost",
    "NodeTime",
    "ProductShare",
    "TensorError",
]
