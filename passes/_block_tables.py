"""Tables of rows by blocks: what a Gather reads once its rows are codes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mlc.formats import BlockCodes
from passes._qdq import Writer

PACKED = 4
"""Codes of so many bits are two in a byte."""

LOW_CODE = 15
"""The bits of the first of two codes."""


@dataclass(frozen=True)
class Table:
    """Codes [rows, blocks, elements], scales float32 [rows, blocks], and what is taken from the codes, if anything.

    ``zero`` is one number, or integers [rows, blocks]. ``packed`` codes are two in a byte, the first in its lower bits.
    """

    block: int
    codes: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    packed: bool = False


def packed_table(writer: Writer, stem: str, codes: BlockCodes, stored: ir.Value, scale: ir.Value) -> Table:
    """Return the table of codes and scales that are stored as onnxruntime's products read them."""
    scheme = codes.scheme
    zeros = np.array(-scheme.lowest) if scheme.symmetric else codes.zero_points.T
    zero = writer.constant(f"{stem}.rows.zero_point", zeros.astype(np.uint8))
    return Table(scheme.block, stored, scale, zero, packed=scheme.bits == PACKED)


@dataclass
class _Row:
    """The nodes that come in the place of one Gather, named after its output."""

    writer: Writer
    stem: str
    indices: ir.Value
    nodes: list[ir.Node] = field(default_factory=list)

    def add(self, op: str, role: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """Add a node whose output has the dtype of its first input, or that of a Cast."""
        dtype = ir.DataType.FLOAT if op == "Cast" else inputs[0].dtype
        assert dtype is not None
        self.nodes.append(self.writer.node(op, inputs, f"{self.stem}.{role}", dtype, None, **attributes))
        return self.nodes[-1].outputs[0]

    def constant(self, role: str, array: np.ndarray) -> ir.Value:
        return self.writer.constant(f"{self.stem}.{role}", array)

    def taken(self, table: ir.Value, role: str) -> ir.Value:
        """Take the rows that the indices name."""
        return self.add("Gather", role, table, self.indices, axis=0)

    def real(self, value: ir.Value, role: str) -> ir.Value:
        return self.add("Cast", f"{role}.float", value, to=int(ir.DataType.FLOAT))

    def reshaped(self, value: ir.Value, role: str, sizes: list[int]) -> ir.Value:
        """Put sizes in the place of all axes behind those of the indices."""
        assert self.indices.shape is not None
        shape = np.array([0] * self.indices.shape.rank() + sizes, np.int64)
        return self.add("Reshape", role, value, self.constant(f"{role}.shape", shape))

    def unpacked(self, codes: ir.Value, last: ir.Value) -> ir.Value:
        """Return two floats for each byte, in order.

        The upper code is the byte without the lower one over 16, as floats: OpenVINO rounds a shift of bytes.
        """
        lower = self.add("BitwiseAnd", "lower.code", codes, self.constant("lower.bits", np.array(LOW_CODE, np.uint8)))
        low = self.real(lower, "lower")
        rest = self.add("Sub", "rest", self.real(codes, "codes"), low)
        high = self.add("Mul", "upper", rest, self.constant("sixteenth", np.array(1 / 16, np.float32)))
        columns = [self.add("Unsqueeze", f"{role}.column", value, last) for role, value in
                   (("lower", low), ("upper", high))]  # fmt: skip
        return self.add("Concat", "pairs", *columns, axis=-1)


def write_table(writer: Writer, node: ir.Node, table: Table) -> None:
    """``Gather(w, i)`` becomes ``(Gather(codes, i) - Gather(zeros, i)) * Gather(scales, i)``, by block."""
    output, indices = node.outputs[0], node.inputs[1]
    assert indices is not None
    assert node.graph is not None
    assert table.scale.shape is not None
    row, blocks = _Row(writer, output.name or "", indices), int(table.scale.shape.numpy()[1])
    last = row.constant("axes", np.array([-1], np.int64))
    codes = row.taken(table.codes, "codes")
    if table.packed:
        steps = row.reshaped(row.unpacked(codes, last), "unpacked", [blocks, table.block])
    else:
        steps = row.real(codes, "codes")
    if table.zero is not None:
        zero = table.zero
        if zero.shape is not None and zero.shape.rank():
            zero = row.add("Unsqueeze", "zero_point.column", row.taken(zero, "zero_point"), last)
        steps = row.add("Sub", "steps", steps, row.real(zero, "zero_point"))
    scale = row.add("Unsqueeze", "scale.column", row.taken(table.scale, "scale"), last)
    result = row.reshaped(row.add("Mul", "blocks", steps, scale), "row", [blocks * table.block])
    result.shape = None if output.shape is None else output.shape.copy()
    node.graph.insert_before(node, row.nodes)
    writer.take_over(output, result)
