"""Operations that change nothing are told by their number as it is: onnxscript takes 1e-8 for 0 and 1.000005 for 1.

torch.onnx lets onnxscript take them out. ``x + 1e-8`` keeps a quotient finite, and is no ``x + 0``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnxscript.rewriter._pattern_ir import Constant
from onnxscript.rewriter.rules.common import _no_op

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
    """Let onnxscript take out what changes nothing inside the block, and nothing else."""
    tolerances = [(number._rel_tol, number._abs_tol) for number in NUMBERS]  # noqa: SLF001
    try:
        for number in NUMBERS:
            number._rel_tol = number._abs_tol = 0.0  # noqa: SLF001
        yield
    finally:
        for number, (relative, absolute) in zip(NUMBERS, tolerances, strict=True):
            number._rel_tol, number._abs_tol = relative, absolute  # noqa: SLF001
