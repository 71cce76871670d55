"""Numbers of Python are what they are: torch.onnx rounds them to float32 in double precision too.

And operations that change nothing are told by their number: onnxscript, which takes them out, takes 1e-8 for 0 and
1.000005 for 1. ``x + 1e-8`` keeps a quotient finite, and is no ``x + 0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter._pattern_ir import Constant
from onnxscript.rewriter.rules.common import _no_op
from torch.onnx._internal.exporter import _building

from mlc.exporting.replaced import replaced

NUMBERS = tuple(
    value
    for rule in _no_op.rules
    for node in rule._target_pattern  # noqa: SLF001 - there is no public way to ask for a rule's pattern
    for value in node.inputs
    if isinstance(value, Constant)
)
"""The 0 of ``x + 0`` and the 1 of ``x * 1`` in the rules, each with its tolerances."""


@contextmanager
def exact_numbers() -> Iterator[None]:
    """Write numbers inside the block in double precision, which a Cast narrows, and keep what they change."""
    tolerances = [(number._rel_tol, number._abs_tol) for number in NUMBERS]  # noqa: SLF001
    try:
        for number in NUMBERS:
            number._rel_tol = number._abs_tol = 0.0  # noqa: SLF001
        with replaced(_building, "_determine_input_dtype", _in_double):
            yield
    finally:
        for number, (relative, absolute) in zip(NUMBERS, tolerances, strict=True):
            number._rel_tol, number._abs_tol = relative, absolute  # noqa: SLF001


def _in_double(own: Callable[..., Any]) -> Callable[..., Any]:
    def dtype_of(parameter: Any, argument: Any, binding: Any) -> Any:
        cast = isinstance(argument, float) and parameter.name == "input" and parameter.type_constraint.name == "T1"
        return ir.DataType.DOUBLE if cast else own(parameter, argument, binding)

    return dtype_of
