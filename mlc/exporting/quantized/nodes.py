"""The nodes of quantizers and dequantizers, in the place of those that a trace left for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.errors import SourceError
from mlc.exporting.quantized.graph import (
    BLOCKS,
    BYTE,
    CODES,
    MATRIX,
    NIBBLE,
    WHOLE,
    all_values,
    attributes_of,
    bare_name,
    check_dtype,
    dtype_of,
    fixed_values,
    is_rows,
    numbered,
    stem_of,
)
from mlc.sources.quantized.nouns import Coded

if TYPE_CHECKING:
    from mlc.types import Array


class Writer:
    """Writes quantizers into the main graph of a model."""

    def __init__(self, model: ir.Model, notes: Sequence[Coded]) -> None:
        self.graph = model.graph
        self.small = model.opset_imports.get("", 0) >= BLOCKS
        self.notes = notes
        self.fixed = fixed_values(model.graph)
        self.names = {value.name for value in all_values(model.graph)}
        self.codes: dict[tuple[str, tuple[int, ...], str], ir.Value] = {}
        self.small_constants: dict[str, ir.Value] = {}
        self.parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self.held: dict[ir.Value, Coded] = {}
        self.quantized: list[Coded] = []

    def write(self, node: ir.Node) -> None:
        """Replace one node that stands for codes or for what they mean."""
        site = node.attributes["site"].as_int()
        noted, output = self.notes[site], node.outputs[0]
        if node.op_type == "Quantize":
            made = self.weight(noted, node.inputs[0]) if output in self.fixed else self.quantizer(node, site)
        elif node.op_type == "Stored":
            made = self.dequantizer(node, self.weight(noted, None), noted)
        else:
            codes = node.inputs[0]
            assert codes is not None
            made = self.dequantizer(node, self.weight(noted, codes) if codes in self.fixed else codes, noted)
        if output in self.fixed:
            self.fixed.add(made)
        name, last = output.name, output.is_graph_output()
        output.replace_all_uses_with(made, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        if last:
            made.name = name

    def weight(self, noted: Coded, source: ir.Value | None) -> ir.Value:
        """Return codes that never change as an initializer; equal ones are stored once."""
        small = NIBBLE.get((noted.grid.low, noted.grid.high)) if self.small else None
        codes = noted.codes if small is None else noted.codes.astype(small)
        if source is not None and source.is_initializer() and source.dtype == ir.DataType.from_numpy(codes.dtype):
            self.held.setdefault(source, noted)
            return source
        key = (str(codes.dtype), codes.shape, hashlib.sha256(np.ascontiguousarray(noted.codes).data).hexdigest())
        if key not in self.codes:
            self.codes[key] = self.constant(f"{noted.stored or stem_of(source)}.{codes.dtype}", codes)
        self.held.setdefault(self.codes[key], noted)
        return self.codes[key]

    def quantizer(self, node: ir.Node, site: int) -> ir.Value:
        """Write QuantizeLinear, and a Clip behind it where the module cuts earlier than the type does."""
        noted, source = self.notes[site], node.inputs[0]
        assert source is not None
        check_dtype(noted, source)
        stem, dtype = source.name or "", ir.DataType.from_numpy(noted.codes.dtype)
        scale, zero = self.scales(node, noted, stem)
        by_rows = is_rows(noted) and noted.codes.ndim != MATRIX
        value = self.reshape(node, source, [-1, noted.codes.shape[-1]]) if by_rows else source
        inputs = [value, scale, zero]
        value = self.node(node, "QuantizeLinear", f"{stem}.quantized", inputs, dtype, **attributes_of(noted))
        value.shape = None if by_rows else source.shape
        if WHOLE[noted.codes.dtype] != (noted.grid.low, noted.grid.high):
            bounds = [self.shared(np.array(bound, noted.codes.dtype)) for bound in (noted.grid.low, noted.grid.high)]
            value = self.node(node, "Clip", f"{stem}.cut", [value, *bounds], dtype)
        codes = self.like(node, value, source) if by_rows else value
        producer = codes.producer()
        assert producer is not None
        producer.name, codes.shape = f"{CODES}{site}", source.shape
        self.parameters[codes] = (scale, zero)
        self.quantized.append(noted)
        return codes

    def dequantizer(self, node: ir.Node, codes: ir.Value, noted: Coded) -> ir.Value:
        """Write DequantizeLinear."""
        wide = noted.codes.dtype == np.int32
        if wide and noted.zero_point.any():
            raise SourceError("codes of 32 bits have a zero point, which ONNX has not", "quantize them symmetrically")
        stem = bare_name(codes)
        scale, zero = self.parameters.get(codes) or self.scales(node, noted, stem, codes)
        self.parameters[codes] = (scale, zero)
        by_rows = is_rows(noted) and noted.codes.ndim != MATRIX
        value = self.reshape(node, codes, [-1, noted.codes.shape[-1]]) if by_rows else codes
        inputs = [value, scale] if wide else [value, scale, zero]
        result = self.node(
            node, "DequantizeLinear", f"{stem}.dequantized", inputs, ir.DataType.FLOAT, **attributes_of(noted)
        )
        result = self.like(node, result, codes) if by_rows else result
        result.shape = node.outputs[0].shape
        return result

    def scales(
        self, node: ir.Node, noted: Coded, stem: str, codes: ir.Value | None = None
    ) -> tuple[ir.Value, ir.Value]:
        """Return scale and zero point: constants where the module's own are, else what the trace computes."""
        dtype = noted.codes.dtype if codes is None or codes.dtype is None else codes.dtype.numpy()
        given = [value for value in node.inputs[1:] if value is not None]
        if all(value in self.fixed for value in given):
            scale = self.constant(f"{stem}.scale", noted.scale)
            return scale, self.constant(f"{stem}.zero_point", noted.zero_point.astype(dtype))
        by_channel = noted.grid.axis is not None and (is_rows(noted) or not noted.grid.group)
        in_blocks = noted.grid.group > 0 and not is_rows(noted)
        values = []
        for value, kind in zip(given, (ir.DataType.FLOAT, ir.DataType.from_numpy(np.dtype(dtype))), strict=True):
            flat = in_blocks or (value.shape is not None and value.shape.rank() == int(by_channel))
            shaped = value if flat else self.reshape(node, value, [-1] if by_channel else [])
            if value.dtype is not kind:
                shaped = self.node(node, "Cast", f"{value.name}.cast", [shaped], kind, to=int(kind))
            values.append(shaped)
        return values[0], values[1]

    def turn(self, node: ir.Node) -> None:
        """Turn the codes of a weight instead of the floats that they mean: a kernel looks for them at its input."""
        source = node.inputs[0]
        dequantize = None if source is None else source.producer()
        if source is None or dequantize is None or "perm" not in node.attributes:
            return
        codes, perm = dequantize.inputs[0] if dequantize.inputs else None, list(node.attributes["perm"].as_ints())
        if codes is None or codes not in self.held:
            return
        alone = len(source.uses()) == 1 and len(codes.uses()) == 1 and not source.is_graph_output()
        noted = self.held[codes]
        if not alone and codes.dtype is not None and codes.dtype.bitwidth < BYTE:
            return
        grid = replace(noted.grid, axis=None if noted.grid.axis is None else perm.index(noted.grid.axis))
        turned = replace(noted, grid=grid, codes=noted.codes.transpose(perm))
        inputs: list[ir.Value | None] = [self.turned(node, codes, perm, alone=alone), *dequantize.inputs[1:]]
        if grid.group:
            inputs[1:] = [value and self.turned(node, value, perm, alone=True) for value in inputs[1:]]
        made = self.node(
            node, "DequantizeLinear", f"{bare_name(codes)}.turned", inputs, ir.DataType.FLOAT, **attributes_of(turned)
        )
        made.shape = node.outputs[0].shape
        output, name, last = node.outputs[0], node.outputs[0].name, node.outputs[0].is_graph_output()
        output.replace_all_uses_with(made, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        if last:
            made.name = name

    def turned(self, node: ir.Node, value: ir.Value, perm: Sequence[int], *, alone: bool) -> ir.Value:
        """Return a constant transposed: stored that way where nobody else reads it."""
        assert value.const_value is not None
        array = value.const_value.numpy().transpose(perm)
        if not alone:
            assert value.dtype is not None
            result = self.node(node, "Transpose", f"{value.name}.transposed", [value], value.dtype, perm=list(perm))
            result.shape = ir.Shape(array.shape)
            return result
        made = self.constant(f"{value.name}.transposed", np.ascontiguousarray(array))
        if value in self.held:
            self.held[made] = self.held.pop(value)
        return made

    def constant(self, name: str, array: Array) -> ir.Value:
        """Add an initializer."""
        tensor = ir.tensor(array, name=self.free(name))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def shared(self, array: Array) -> ir.Value:
        """Return an initializer of a few integers, named by what it holds."""
        name = "_".join([str(array.dtype), *(str(number) for number in array.reshape(-1))])
        if name not in self.small_constants:
            self.small_constants[name] = self.constant(name, array)
        return self.small_constants[name]

    def node(
        self,
        place: ir.Node,
        kind: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        **attributes: int | list[int],
    ) -> ir.Value:
        """Insert a node of one output before another one; returns the output."""
        made = ir.node(kind, inputs, dict(attributes))
        result = made.outputs[0]
        result.name, result.type = self.free(name), ir.TensorType(dtype)
        self.graph.insert_before(place, made)
        return result

    def reshape(self, place: ir.Node, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Insert a Reshape."""
        target = self.shared(np.array(shape, np.int64))
        return self.node(place, "Reshape", f"{value.name}.rows", [value, target], dtype_of(value))

    def like(self, place: ir.Node, value: ir.Value, other: ir.Value) -> ir.Value:
        """Insert what gives a value the shape of another one."""
        shape = self.node(place, "Shape", f"{other.name}.shape", [other], ir.DataType.INT64)
        return self.node(place, "Reshape", f"{value.name}.whole", [value, shape], dtype_of(value))

    def free(self, name: str) -> str:
        """Return a name that no value has."""
        tries = (numbered(name, number) for number in range(len(self.names) + 1))
        found = next(tried for tried in tries if tried not in self.names)
        self.names.add(found)
        return found
