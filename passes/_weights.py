"""Weights and biases as integers: each weight once, however many nodes share it, each bias for its consumer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mlc.formats import (
    Bias,
    Weight,
    WeightLayout,
    bias_codes,
    bias_of,
    bias_safe_scales,
    constant,
    full_scales,
    quantize_weight,
    safe_scales,
    site_of,
    weight_of,
)
from mlc.fusion import Places, drop_unused_constant
from passes._correct_bias import mean_shift
from passes._qdq import Shared, Writer

ROWS = WeightLayout("Gather", 0)
"""A table with a scale for each row."""


@dataclass
class Stored:
    """A weight in the file and all that read it: products, each with its input's scale and its bias, and tables.

    Each product reads it in its own ``layout``: convolutions of different groups may share one.
    """

    weight: Weight
    users: list[ir.Node] = field(default_factory=list)
    layouts: list[WeightLayout] = field(default_factory=list)
    x_scales: list[np.float32] = field(default_factory=list)
    biases: list[Bias | None] = field(default_factory=list)
    means: list[np.ndarray | None] = field(default_factory=list)
    tables: list[ir.Node] = field(default_factory=list)


def stored_weights(
    nodes: list[ir.Node],
    parameters: Mapping[ir.Graph, Mapping[ir.Value, Shared]],
    means: Mapping[ir.Node, np.ndarray],
) -> list[Stored]:
    """Return every weight with all that read it, in order of first use; one read along two axes counts as two.

    ``parameters`` are those of the values in each graph, ``means`` those of the inputs of the nodes whose biases are to
    be corrected.
    """
    found: dict[tuple[ir.Value, int], Stored] = {}
    chosen = set(nodes)
    for node in nodes:
        weight, source = weight_of(node), node.inputs[0]
        if weight is None or source is None:
            continue
        assert isinstance(node.graph, ir.Graph)
        stored = found.setdefault((weight.value, weight.layout.axis), Stored(weight))
        bias = bias_of(node)
        stored.users.append(node)
        stored.layouts.append(weight.layout)
        stored.x_scales.append(parameters[node.graph][source].affine.scale)
        stored.biases.append(bias if bias is not None and bias.reader in chosen else None)
        stored.means.append(means.get(node))
    for node in nodes:
        table = node.inputs[0]
        if node.op_type == "Gather" and table is not None:
            found.setdefault((table, 0), Stored(Weight(table, ROWS))).tables.append(node)
    return list(found.values())


def write_weights(writer: Writer, weights: list[Stored], places: Places, *, saturates: bool) -> None:
    """Replace the weight and the bias of each node by integers and a DequantizeLinear.

    The integers lie in the innermost graph around all that read them.
    """
    replaced: list[ir.Value] = []
    for stored in weights:
        codes, scales = weight_codes(stored, saturates=saturates)
        own = writer.inside(places.common([*stored.users, *stored.tables]))
        constants = _write_codes(own, stored, codes, scales)
        _write_weight(writer, stored, constants)
        users = zip(stored.layouts, stored.biases, stored.x_scales, stored.means, strict=True)
        for layout, bias, x_scale, mean in users:
            if bias is not None:
                shift = 0 if mean is None else mean_shift(_error(stored, codes, scales), layout, mean)
                _write_bias(writer, bias_vector(bias, len(scales)) - shift, bias, x_scale, scales)
                replaced.append(bias.value)
        for table in stored.tables:
            _write_table(writer, table, constants)
        replaced.append(stored.weight.value)
    for value in dict.fromkeys(replaced):
        drop_unused_constant(value)


def weight_codes(stored: Stored, *, saturates: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 codes and float32 scales [channels] of a weight that serves all of its users."""
    tensor = constant(stored.weight.value)
    assert tensor is not None
    weight = tensor.numpy()
    scales = full_scales(weight, stored.weight.layout)
    for node, x_scale, bias in zip(stored.users, stored.x_scales, stored.biases, strict=True):
        used = weight_of(node)
        assert used is not None
        if saturates:
            scales = safe_scales(weight, scales, used.layout)
        addend = None if bias is None else bias_vector(bias, len(scales))
        scales = bias_safe_scales(scales, addend, x_scale, weight.size // len(scales))
    return quantize_weight(weight, scales, stored.weight.layout), scales


def bias_vector(bias: Bias, channels: int) -> np.ndarray:
    """Return a bias as float32 [channels]."""
    tensor = constant(bias.value)
    assert tensor is not None
    return np.broadcast_to(tensor.numpy().reshape(-1), (channels,))


def _write_codes(writer: Writer, stored: Stored, codes: np.ndarray, scales: np.ndarray) -> tuple[ir.Value, ...]:
    """Write codes and scales and, where a DequantizeLinear is to read them, zero points."""
    stem = stored.weight.value.name or ""
    constants = writer.constant(f"{stem}.int8", codes), writer.constant(f"{stem}.scale", scales)
    zeros = [writer.constant(f"{stem}.zero_point", np.zeros(len(scales), np.int8))] if stored.users else []
    return (*constants, *zeros)


def _write_weight(writer: Writer, stored: Stored, constants: tuple[ir.Value, ...]) -> None:
    """Dequantize a weight once in each graph for all of its users there; once more for those that read it transposed.

    A runtime joins a dequantizer with products of its own graph alone.
    """
    groups = defaultdict[tuple[ir.Graph, bool], list[ir.Node]](list)
    for user in stored.users:
        assert isinstance(user.graph, ir.Graph)
        groups[user.graph, _reads_transposed(user)].append(user)
    for (graph, transposed), users in groups.items():
        inputs, axis = list(constants), stored.weight.layout.axis
        stem = f"{stored.weight.value.name}.transposed" if transposed else stored.weight.value.name
        shape = inputs[0].shape
        assert shape is not None
        if transposed:
            shape, axis = ir.Shape(reversed(shape)), 1
            turn = writer.node("Transpose", inputs[:1], f"{stem}.int8", ir.DataType.INT8, shape, perm=[1, 0])
            inputs[0] = turn.outputs[0]
            graph.insert_before(users[0], turn)
        node = writer.node("DequantizeLinear", inputs, f"{stem}.dequantized", ir.DataType.FLOAT, shape, axis=axis)
        graph.insert_before(users[0], node)
        for user in users:
            old = user.inputs[1]
            user.replace_input_with(1, node.outputs[0])
            if transposed and old is not None and not old.uses():
                writer.remove(old.producer())


def _reads_transposed(node: ir.Node) -> bool:
    weight = weight_of(node)
    return weight is not None and weight.transposed


def _error(stored: Stored, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the weight that the codes mean less the weight."""
    tensor = constant(stored.weight.value)
    assert tensor is not None
    error: np.ndarray = codes * stored.weight.layout.per_channel(scales, codes.ndim) - tensor.numpy()
    return error


def _write_bias(writer: Writer, vector: np.ndarray, bias: Bias, x_scale: np.float32, scales: np.ndarray) -> None:
    stem = f"{site_of(bias.reader)}.bias"
    codes = bias_codes(vector, x_scale, scales)
    inputs = [
        writer.constant(f"{stem}.int32", codes),
        writer.constant(f"{stem}.scale", x_scale * scales),
        writer.constant(f"{stem}.zero_point", np.zeros(len(scales), np.int32)),
    ]
    name = f"{stem}.dequantized"
    dequantize = writer.node("DequantizeLinear", inputs, name, ir.DataType.FLOAT, ir.Shape(codes.shape), axis=0)
    assert bias.reader.graph is not None
    bias.reader.graph.insert_before(bias.reader, dequantize)
    bias.reader.replace_input_with(bias.index, dequantize.outputs[0])


def _write_table(writer: Writer, node: ir.Node, constants: tuple[ir.Value, ...]) -> None:
    """``Gather(w, i)`` becomes ``Cast(Gather(codes, i)) * Unsqueeze(Gather(scales, i), -1)``."""
    output, indices = node.outputs[0], node.inputs[1]
    assert indices is not None
    assert node.graph is not None
    shape, stem = output.shape, output.name or ""
    codes = writer.node("Gather", [constants[0], indices], f"{stem}.int8", ir.DataType.INT8, shape, axis=0)
    scales = writer.node("Gather", [constants[1], indices], f"{stem}.scales", ir.DataType.FLOAT, indices.shape, axis=0)
    last = writer.constant(f"{stem}.axes", np.array([-1], np.int64))
    column = writer.node("Unsqueeze", [scales.outputs[0], last], f"{stem}.scale", ir.DataType.FLOAT, None)
    cast = writer.node("Cast", codes.outputs, f"{stem}.codes", ir.DataType.FLOAT, shape, to=int(ir.DataType.FLOAT))
    product = writer.node("Mul", [cast.outputs[0], column.outputs[0]], f"{stem}.table", ir.DataType.FLOAT, shape)
    node.graph.insert_before(node, [codes, scales, column, cast, product])
    writer.take_over(output, product.outputs[0])
