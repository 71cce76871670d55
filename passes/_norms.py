"""What the normalizations over the last axis share: means of squares, and the square root under the fraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc.fusion import array_of, is_constant, producer, scalar_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass
class Root:
    """``sqrt(mean(square) + epsilon)``: the value that is squared, epsilon, and the nodes.

    ``outside`` says that epsilon is added to the root instead.
    """

    squared: ir.Value
    epsilon: float
    nodes: list[ir.Node]
    last: bool
    outside: bool = False


MEAN = "ReduceMean"

NOT_LAST = "the mean is not over the last axis"

OUTSIDE = "epsilon is added to the root, and not to what it is of"


def root_of(value: ir.Value | None) -> Root | None:
    """Return the root of a mean of squares that a value is, or None. ``last`` is whether the mean is over axis -1."""
    root = producer(value, "Sqrt")
    total = producer(value if root is None else root.inputs[0], "Add")
    for one, other in (total.inputs, total.inputs[::-1]) if total is not None else ():
        inner = root or producer(other, "Sqrt")
        epsilon, mean = scalar_of(one), producer(other if root is not None or inner is None else inner.inputs[0], MEAN)
        square = squared_in(mean.inputs[0]) if mean else None
        if epsilon is not None and total and inner and mean and square is not None:
            return Root(square[0], epsilon, [square[1], mean, total, inner], over_last(mean), outside=root is None)
    return None


def squared_in(value: ir.Value | None) -> tuple[ir.Value, ir.Node] | None:
    """Return what is squared, as a power or a product, and the node."""
    power, product = producer(value, "Pow"), producer(value, "Mul")
    if power is not None and scalar_of(power.inputs[1]) == 2.0 and power.inputs[0] is not None:
        return power.inputs[0], power
    if product is not None and product.inputs[0] is product.inputs[1] and product.inputs[0] is not None:
        return product.inputs[0], product
    return None


def over_last(mean: ir.Node) -> bool:
    """Whether a ReduceMean is over the last axis alone, and keeps it."""
    axes = mean.attributes.get("axes")
    if axes is not None:
        over = list(axes.as_ints())
    else:
        given = mean.inputs[1] if len(mean.inputs) > 1 else None
        over = array_of(given).reshape(-1).tolist() if given is not None and is_constant(given) else []
    keeps = mean.attributes.get("keepdims")
    shape = mean.inputs[0].shape if mean.inputs[0] is not None else None
    last = -1 if shape is None else len(shape) - 1
    return over in ([-1], [last]) and (keeps is None or keeps.as_int() == 1)


def fits_last(weight: ir.Value | None, x: ir.Value) -> bool:
    """Whether a weight has one element for each of the last axis of x."""
    if weight is None or weight.shape is None or x.shape is None or not len(x.shape):
        return False
    size = x.shape[-1]
    return len(weight.shape) == 1 and isinstance(size, int) and weight.shape[0] == size
