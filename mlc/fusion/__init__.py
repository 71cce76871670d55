"""The base of pattern fusions: pattern, check and rewrite over the onnxscript rewriter become a pass."""

from mlc.fusion.base import (
    Fusion,
    Names,
    array_of,
    constant,
    constant_tensor,
    drop_unused_constant,
    evaluate,
    forget_subgraphs,
    infer_shapes,
    is_constant,
    note_constants,
    quiet,
    walk,
)

__all__ = [
    "Fusion",
    "Names",
    "array_of",
    "constant",
    "constant_tensor",
    "drop_unused_constant",
    "evaluate",
    "forget_subgraphs",
    "infer_shapes",
    "is_constant",
    "note_constants",
    "quiet",
    "walk",
]
