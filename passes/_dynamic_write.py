"""Writing products of integers whose activations are quantized as they come, with operators of ONNX alone.

They stand as onnxruntime looks for them when it joins them to one operator (MatMulIntegerToFloatFusion,
DynamicQuantizeMatMulFusion): a multiplication of the scales for each product, that of the activation first, and a
constant bias as the second summand.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mlc.formats import (
    WeightLayout,
    bias_of,
    full_scales,
    input_at,
    number,
    product_matrix,
    quantize_weight,
    safe_scales,
)
from mlc.fusion import drop_unused_constant
from passes._qdq import Writer
from passes._stored import StoredWeight

COLUMNS = WeightLayout("MatMul", 1)
"""A matrix with a scale for each column."""


def product_codes(weight: np.ndarray, *, saturates: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 codes of a weight [..., rows, columns] or [rows], and float32 scales [..., columns] or [].

    Where sums of neighbouring products may saturate, the scales are such that they cannot.
    """
    matrix = product_matrix(weight)
    scales = full_scales(matrix, COLUMNS)
    if saturates:
        scales = safe_scales(matrix, scales, COLUMNS)
    codes = quantize_weight(matrix, scales, COLUMNS)
    if weight.ndim == 1:
        return codes.reshape(-1), scales.reshape(())
    stack, (rows, columns) = weight.shape[:-2], weight.shape[-2:]
    return np.moveaxis(codes.reshape(rows, *stack, columns), 0, -2), scales.reshape(*stack, columns)


class DynamicWriter(Writer):
    """Writes products and tables into all graphs of a model; a value is quantized once in each graph that reads it."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model)
        self.activations: dict[tuple[int, str], tuple[ir.Value, ...]] = {}

    def write(self, weight: StoredWeight, *, saturates: bool) -> None:
        """Put codes in the place of a weight, stored once for all that read it; a table alone has nothing to add up."""
        stem = weight.value.name or ""
        codes, scales = product_codes(weight.matrix(), saturates=saturates and bool(weight.products))
        matrix = self.constant(f"{stem}.int8", np.ascontiguousarray(codes.T if weight.tables else codes))
        if weight.tables:
            row_scales = self.constant(f"{stem}.row_scale", scales[:, np.newaxis])
            for node in weight.tables:
                self._write_table(node, matrix, row_scales)
        if weight.tables and weight.products:
            turn = self.node("Transpose", [matrix], f"{stem}.transposed", ir.DataType.INT8, ir.Shape(codes.shape))
            self.graph.insert_before(self.graph[0], turn)
            matrix = turn.outputs[0]
        factors: dict[tuple[float, bool], ir.Value] = {}
        for node in weight.products:
            alpha, rows = number(node, "alpha", 1), scales.ndim > 1 and not _is_vector(node.inputs[0])
            if (alpha, rows) not in factors:
                along = np.expand_dims(scales, -2) if rows else scales
                factors[alpha, rows] = self.constant(f"{stem}.scale", along * np.float32(alpha))
            self._write_product(node, matrix, factors[alpha, rows])
        drop_unused_constant(weight.value)

    def _write_table(self, node: ir.Node, codes: ir.Value, scales: ir.Value) -> None:
        """``Gather(w, i)`` becomes ``Cast(Gather(codes, i)) * Gather(scales, i)``."""
        output, indices = node.outputs[0], node.inputs[1]
        assert indices is not None
        assert node.graph is not None
        shape, stem = output.shape, output.name or ""
        row = self.node("Gather", [codes, indices], f"{stem}.int8", ir.DataType.INT8, shape, axis=0)
        scale = self.node("Gather", [scales, indices], f"{stem}.scale", ir.DataType.FLOAT, None, axis=0)
        cast = self.node("Cast", row.outputs, f"{stem}.float", ir.DataType.FLOAT, shape, to=int(ir.DataType.FLOAT))
        product = self.node("Mul", [*cast.outputs, *scale.outputs], f"{stem}.row", ir.DataType.FLOAT, shape)
        node.graph.insert_before(node, [row, scale, cast, product])
        self.take_over(output, product.outputs[0])

    def _write_product(self, node: ir.Node, matrix: ir.Value, scale: ir.Value) -> None:
        """``x @ w`` becomes ``Cast(MatMulInteger(codes, matrix, zero_point)) * (x_scale * scale)``, plus a bias."""
        output, weight, graph = node.outputs[0], node.inputs[1], node.graph
        assert weight is not None
        assert graph is not None
        _put_bias_last(node)
        codes, x_scale, zero_point = self._quantized(node)
        stem, nodes = output.name or "", list[ir.Node]()

        def add(
            op: str, inputs: list[ir.Value], role: str, like: ir.Value | None, dtype: ir.DataType = ir.DataType.FLOAT,
            **attributes: int | list[int],
        ) -> ir.Value:  # fmt: skip
            shape = None if like is None else like.shape
            nodes.append(self.node(op, inputs, f"{stem}.{role}", dtype, shape, **attributes))
            return nodes[-1].outputs[0]

        if number(node, "transA", 0):
            codes = add("Transpose", [codes], "codes", None, ir.DataType.UINT8, perm=[1, 0])
        sums = add("MatMulInteger", [codes, matrix, zero_point], "int32", output, ir.DataType.INT32)
        cast = add("Cast", [sums], "float", output, to=int(ir.DataType.FLOAT))
        result = add("Mul", [cast, add("Mul", [x_scale, scale], "scale", scale)], "product", output)
        bias, beta = input_at(node, 2), number(node, "beta", 1)
        if bias is not None and beta != 0:
            if beta != 1:
                factor = self.constant(f"{stem}.beta", np.array(beta, np.float32))
                bias = add("Mul", [bias, factor], "bias", bias)
            result = add("Add", [result, bias], "biased", output)
        graph.insert_before(node, nodes)
        self.take_over(output, result)
        turn = weight.producer()
        if turn is not None and turn.op_type == "Transpose" and not (weight.uses() or weight.is_graph_output()):
            self.remove(turn)

    def _quantized(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """Return codes, scale and zero point of a product's input, quantized once, where it comes about."""
        source, graph = node.inputs[0], node.graph
        assert source is not None
        assert isinstance(graph, ir.Graph)
        key = (id(graph), source.name or "")
        if key not in self.activations:
            stem, scalar = source.name or "", ir.Shape([])
            shape = None if source.shape is None else source.shape.copy()
            outputs = [
                ir.Value(name=self.names.free(f"{stem}.{role}"), type=ir.TensorType(dtype), shape=dims)
                for role, dtype, dims in (
                    ("uint8", ir.DataType.UINT8, shape),
                    ("scale", ir.DataType.FLOAT, scalar),
                    ("zero_point", ir.DataType.UINT8, scalar),
                )
            ]
            quantizer = ir.node("DynamicQuantizeLinear", [source], outputs=outputs, name=outputs[0].name)
            self.inside(graph).insert_behind(source, [quantizer])
            self.activations[key] = tuple(outputs)
        return self.activations[key]


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and value.shape.rank() == 1


def _put_bias_last(node: ir.Node) -> None:
    """Let the constant vector that is added to a product be the second summand."""
    bias = bias_of(node) if node.op_type == "MatMul" else None
    if bias is not None and bias.index == 0:
        product = node.outputs[0]
        bias.reader.replace_input_with(0, product)
        bias.reader.replace_input_with(1, bias.value)
