"""Where a quantized model loses, and what of it runs on integers: computed from the written file and samples."""

from mlc.explaining.explain import explain
from mlc.explaining.nouns import Between, Explanation, IntegerShare, NodeCost, ProductShare, TensorError

__all__ = ["Between", "Explanation", "IntegerShare", "NodeCost", "ProductShare", "TensorError", "explain"]
