"""The bases of fusions: what a match is replaced with, and the reasons why it is not."""

from mlc.fusion.base import Match, Names, constant, near_miss
from mlc.fusion.evaluate import evaluate
from mlc.fusion.functions import written_out
from mlc.fusion.graph import (
    array_of,
    codes_dtype,
    constant_tensor,
    drop_unused_constant,
    forget_subgraphs,
    has_subgraphs,
    infer_shapes,
    is_constant,
    is_of_sequences,
    is_standard,
    note_constants,
    only_reader,
    opset_of,
    producer,
    quiet,
    subgraphs,
    walk,
)
from mlc.fusion.pattern import Fusion
from mlc.fusion.places import Places
from mlc.fusion.products import Product, product_of, scalar_of
from mlc.fusion.search import Search
from mlc.fusion.sizes import Size, completed, dims_of, may_be_none, sizes_of

__all__ = [
    "Fusion",
    "Match",
    "Names",
    "Places",
    "Product",
    "Search",
    "Size",
    "array_of",
    "codes_dtype",
    "completed",
    "constant",
    "constant_tensor",
    "dims_of",
    "drop_unused_constant",
    "evaluate",
    "forget_subgraphs",
    "has_subgraphs",
    "infer_shapes",
    "is_constant",
    "is_of_sequences",
    "is_standard",
    "may_be_none",
    "near_miss",
    "note_constants",
    "only_reader",
    "opset_of",
    "producer",
    "product_of",
    "quiet",
    "scalar_of",
    "sizes_of",
    "subgraphs",
    "walk",
    "written_out",
]
