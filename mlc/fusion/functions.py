"""A model's own functions, written out where they are called: nothing looks into them otherwise."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def written_out(model: ir.Model) -> ir.Model:
    """Return a clone with the nodes of functions in the place of their calls, as runtimes load it.

    A function whose operators are of another opset than the model's stays what it is.
    """
    clone = model.clone()
    if not clone.functions:
        return clone

    def fits(function: ir.Function) -> bool:
        return all(
            clone.opset_imports.get(name, version) == version for name, version in function.opset_imports.items()
        )

    common.InlinePass(fits)(clone)
    common.RemoveUnusedFunctionsPass()(clone)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(clone)
    common.NameFixPass()(clone)
    return clone
