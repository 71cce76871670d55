"""Evaluating one node on constants, as the runtime would compute it in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.errors import MlcError, PassError, foreign

if TYPE_CHECKING:
    import numpy as np

    from mlc.types import Array

FEEDABLE = frozenset(
    {
        ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL,
        ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
        ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
    }
)  # fmt: skip
"""Element types that a session takes as NumPy arrays."""

COMPUTED = frozenset(f"tensor({dtype.name.lower()})" for dtype in (*FEEDABLE, ir.DataType.STRING))
"""Types of outputs that a session gives as what they are: 8-bit floats come out as integers."""


def evaluate(node: ir.Node, model: ir.Model, tensors: Sequence[ir.TensorProtocol | None]) -> list[Array] | None:
    """Return the outputs of a node (unnamed ones left out) on these inputs, or None where the runtime cannot tell.

    The arrays are fed, never serialized; the runtime's optimizations are off, so the kernel is the graph's own.
    """
    if any(tensor is not None and tensor.dtype not in FEEDABLE for tensor in tensors):
        return None
    fed: dict[int, ir.Value] = {}
    feeds: dict[str, np.ndarray] = {}
    inputs: list[ir.Value | None] = []
    for tensor in tensors:
        if tensor is None:
            inputs.append(None)
            continue
        if id(tensor) not in fed:
            name = f"input_{len(fed)}"
            fed[id(tensor)] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy())
            )
            feeds[name] = tensor.numpy()
        inputs.append(fed[id(tensor)])
    twin = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
    for index, (output, original) in enumerate(zip(twin.outputs, node.outputs, strict=True)):
        output.name = f"output_{index}" if original.name else ""
    outputs = [output for output in twin.outputs if output.name]
    imports = {"": model.opset_imports.get("", 1), **model.opset_imports}
    graph = ir.Graph(list(fed.values()), outputs, nodes=[twin], opset_imports=imports, name="constant")
    return _run(ir.Model(graph, ir_version=model.ir_version), feeds)


def _run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[Array] | None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    try:
        with foreign("evaluating a constant", PassError):
            proto = ir.to_proto(model).SerializeToString()
            session = onnxruntime.InferenceSession(proto, settings, providers=["CPUExecutionProvider"])
            if any(output.type not in COMPUTED for output in session.get_outputs()):
                return None
            results = session.run(None, feeds)
    except MlcError:
        return None
    return list(results)
