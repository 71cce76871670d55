"""Transpositions that onnxruntime's CPU provider joins with a product, which it does not survive in float16."""

from __future__ import annotations

import onnx_ir as ir

from mlc.fusion import is_constant, is_standard

ENDS_PROCESS = "onnxruntime's CPU provider joins it with the product behind it, and in float16 ends the process at load"

LEAST_AXES = 3


def ends_process(node: ir.Node) -> bool:
    """Whether a node takes the first axis to one of the last two places, and a weight multiplies what it gives.

    onnxruntime makes a FusedMatMul with ``transBatchA`` of the two, and while it chooses layouts there is a
    segmentation fault (1.32; neither MatmulTransposeFusion alone does it nor NchwcTransformer).
    """
    perm = node.attributes.get("perm")
    if node.op_type != "Transpose" or not is_standard(node) or perm is None:
        return False
    first, *others = range(len(perm.as_ints()))
    moved = [[*others, first], [*others[:-1], first, *others[-1:]]]
    products = [use.node for use in node.outputs[0].uses() if use.node.op_type == "MatMul" and use.idx == 0]
    multiplied = any(is_constant(product.inputs[1]) for product in products)
    return len(others) + 1 >= LEAST_AXES and list(perm.as_ints()) in moved and multiplied
