"""Products of few columns, for which dynamic int8 does not pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc.figures import counted
from mlc.formats import MATRIX_PRODUCTS, constant, weight_of
from mlc.fusion import Places

if TYPE_CHECKING:
    import onnx_ir as ir

NARROW = 24
"""Of 16 columns they were 0.7 to 1.1 times as fast as in float, at 1 to 512 rows of 64 to 1,536 numbers."""


def narrow_products(model: ir.Model) -> dict[str, str]:
    """Return the sites of products with so few columns that making codes takes longer than they save, and why.

    Every number that is read becomes a code, whatever the number of columns. Such products are heads of classifiers as
    a rule, where what rounding costs is seen at once.
    """
    places = Places(model)
    found = ((places.site(node), _columns(node)) for node in places.nodes() if node.op_type in MATRIX_PRODUCTS)
    return {
        site: f"it has {counted(columns, 'column')}: making codes of what it reads takes longer than it saves"
        for site, columns in found
        if 0 < columns < NARROW
    }


def _columns(node: ir.Node) -> int:
    """Return how many columns a product's weight has, 0 where that is not known."""
    weight = weight_of(node)
    tensor = None if weight is None else constant(weight.value)
    if weight is None or tensor is None or len(tensor.shape) != 2:  # noqa: PLR2004 - a matrix
        return 0
    return tensor.shape.numpy()[weight.layout.axis]
