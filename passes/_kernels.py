"""What the fusions into operators of onnxruntime's own domain share."""

from __future__ import annotations

import onnx_ir as ir

DOMAIN = "com.microsoft"


def not_float32(value: ir.Value) -> str | None:
    """Return a reason to refuse values of another type than that whose kernel a target is asked for, or None."""
    return None if value.dtype == ir.DataType.FLOAT else "its values are not known to be float32"


def same_shape(x: ir.Value, other: ir.Value) -> bool:
    """Whether two values are known to have one shape, symbols included."""
    if x.shape is None or other.shape is None or len(x.shape) != len(other.shape):
        return False
    pairs = zip(x.shape, other.shape, strict=True)
    return all(one == two and (isinstance(one, int) or one.value is not None) for one, two in pairs)
