"""How far stored weights are from those of the float model: both are read from the files, nothing is run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.emulate.saturation import MATMUL_INTEGER, stored_array
from mlc.explaining.codes import Grid, Seen, code_range, laid_out
from mlc.explaining.nouns import TensorError
from mlc.formats import PRODUCTS, QUANTIZERS, constant, number
from mlc.formats.nodes import input_at, site_of
from mlc.fusion import walk

if TYPE_CHECKING:
    from mlc.types import Array

NBITS = "MatMulNBits"

HALF_BYTE = 4


@dataclass(frozen=True)
class _Spread:
    """Over what scales are spread: a shape, the axis along which they differ, and how many indexes share one."""

    shape: tuple[int, ...]
    axis: int
    block: int = 0


@dataclass(frozen=True)
class _Stored:
    """The codes of a weight as one node reads them, [rows, columns] for a matrix, and what they mean.

    That is the weight or, where the factor ``alpha`` of a Gemm is in the scales, ``alpha`` times it.
    """

    site: str
    product: ir.Node
    value: ir.Value
    dtype: ir.DataType
    codes: Array
    grid: Grid
    with_alpha: bool = False


def weight_errors(before: ir.Model, after: ir.Model) -> tuple[TensorError, ...]:
    """Return how far each weight of a product is from its codes, with the nodes that read it, in the graph's order.

    It is compared with that of the node of the same site in the float model ``before``, whose rows are multiplied where
    the columns of what is quantized are divided; where there is none, or its weight has another shape, nothing can be
    told.
    """
    names = {value.name for _, graph in walk(before) for node in graph for value in node.outputs}
    twins = {f"{prefix}{site_of(node)}": node for prefix, graph in walk(before) for node in graph}
    found: dict[ir.Value, TensorError] = {}
    readers: dict[ir.Value, list[str]] = {}
    for stored in _stored_weights(after, twins.keys()):
        twin = twins.get(stored.site)
        weight = None if twin is None else input_at(twin, 1)
        expected = None if weight is None or twin is None else stored_array(weight)
        if weight is None or twin is None or expected is None:
            continue
        expected = expected.T if number(twin, "transB", 0) else expected
        if expected.shape != stored.codes.shape:
            continue
        expected = expected * number(twin, "alpha", 1) if stored.with_alpha else expected
        divisors = _divisors(stored.product, names)
        expected = expected if divisors is None else expected / divisors[:, np.newaxis]
        readers.setdefault(stored.value, []).append(stored.site)
        if stored.value not in found:
            seen, turned = Seen(), weight.producer()
            seen.add(np.asarray(expected, np.float32), stored.grid.meant(stored.codes), stored.grid)
            name = weight if turned is None or turned.inputs[0] is None else turned.inputs[0]
            found[stored.value] = seen.told(str(name.name), "weight", stored.dtype, ())
    return tuple(replace(each, readers=tuple(readers[value])) for value, each in found.items())


def _divisors(product: ir.Node, names: Collection[str | None]) -> Array | None:
    """Return what each column of a product's left side is multiplied with before it becomes codes, float32 [columns].

    None where no such factor came with the codes: ``names`` are the values that the float model has.
    """
    value = input_at(product, 0)
    while value is not None and (node := value.producer()) is not None and node.op_type in QUANTIZERS:
        value = input_at(node, 0)
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Mul" or value.name in names:
        return None
    factors = constant(input_at(node, 1))
    return None if factors is None or len(factors.shape) != 1 else factors.numpy()


def _stored_weights(after: ir.Model, known: Collection[str]) -> Iterator[_Stored]:
    for prefix, graph in walk(after):
        for node in graph:
            found = None
            if node.op_type in PRODUCTS:
                found = _dequantized(node)
            elif node.op_type == NBITS:
                found = _in_bytes(node, prefix, known)
            elif node.op_type == MATMUL_INTEGER:
                found = _scaled_behind(node, prefix, known)
            if found is not None:
                yield replace(found, site=f"{prefix}{found.site}")


def _dequantized(node: ir.Node) -> _Stored | None:
    """Return the weight that a DequantizeLinear gives a product."""
    source = input_at(node, 1)
    dequantizer = None if source is None else source.producer()
    if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
        return None
    value, scale, zero = (input_at(dequantizer, index) for index in range(3))
    codes, scales, zeros = stored_array(value), constant(scale), constant(zero)
    if value is None or codes is None or scales is None or value.dtype is None or code_range(value.dtype) is None:
        return None
    axis, block = int(number(dequantizer, "axis", 1)), int(number(dequantizer, "block_size", 0))
    grid = _grid(
        value.dtype, scales.numpy(), None if zeros is None else zeros.numpy(), _Spread(codes.shape, axis, block)
    )
    turned = bool(number(node, "transB", 0))
    return _Stored(
        site_of(node), node, value, value.dtype, codes.T if turned else codes, grid.turned() if turned else grid
    )


def _scaled_behind(node: ir.Node, prefix: str, known: Collection[str]) -> _Stored | None:
    """Return the weight of ``Cast(MatMulInteger(x, w)) * (x_scale * w_scale)``."""
    value = input_at(node, 1)
    codes, zeros = stored_array(value), constant(input_at(node, 3))
    cast = _only_reader(node)
    product = None if cast is None else _only_reader(cast)
    if value is None or value.dtype is None or codes is None or cast is None or product is None:
        return None
    factors = [each.producer() for each in product.inputs if each is not None and each.producer() is not cast]
    scales = [constant(each) for factor in factors if factor is not None for each in factor.inputs]
    scale = next((tensor.numpy() for tensor in scales if tensor is not None), None)
    site = _known_site((product, _only_reader(product)), prefix, known)
    if scale is None or site is None:
        return None
    zero = None if zeros is None else zeros.numpy()
    grid = _grid(value.dtype, scale, zero, _Spread(codes.shape, -1))
    return _Stored(site, node, value, value.dtype, codes, grid, with_alpha=True)


def _in_bytes(node: ir.Node, prefix: str, known: Collection[str]) -> _Stored | None:
    """Return the weight of com.microsoft.MatMulNBits: [columns, blocks, bytes], the lower bits of a byte first.

    Zero points are packed like it, or floats.
    """
    value, scales, packed = (input_at(node, index) for index in (1, 2, 3))
    stored, scale, zero = constant(value), constant(scales), constant(packed)
    bits, block, rows, columns = (int(number(node, name, 0)) for name in ("bits", "block_size", "K", "N"))
    if value is None or stored is None or scale is None or bits not in (HALF_BYTE, 2 * HALF_BYTE):
        return None
    dtype = ir.DataType.UINT4 if bits == HALF_BYTE else ir.DataType.UINT8
    codes = _unpacked(stored.numpy().reshape(columns, -1), bits)[:, :rows].T
    blocks = -(-rows // block)
    zeros = np.full((columns, blocks), 2 ** (bits - 1)) if zero is None else zero.numpy().reshape(columns, -1)
    if zero is not None and not zero.dtype.is_floating_point():
        zeros = _unpacked(zeros, bits)[:, :blocks]
    site = _known_site((node, _only_reader(node)), prefix, known)
    grid = _grid(dtype, scale.numpy().reshape(columns, -1).T, zeros.T, _Spread(codes.shape, 0, block))
    return None if site is None else _Stored(site, node, value, dtype, codes, grid)


def _known_site(ends: Sequence[ir.Node | None], prefix: str, known: Collection[str]) -> str | None:
    """Return the site of a product or, where a bias is added behind it, of that, as the float graph has it.

    ``known`` are the sites of the float graph, of which those beside the product begin with ``prefix``.
    """
    return next((site_of(end) for end in ends if end is not None and f"{prefix}{site_of(end)}" in known), None)


def _unpacked(packed: Array, bits: int) -> Array:
    if bits != HALF_BYTE:
        return packed
    return np.stack([packed & 15, packed >> HALF_BYTE], axis=-1).reshape(len(packed), -1)


def _grid(dtype: ir.DataType, scale: Array, zero_point: Array | None, spread: _Spread) -> Grid:
    least, most = code_range(dtype) or (0, 0)
    zero = np.zeros(1) if zero_point is None else zero_point
    scales, zeros = (laid_out(each, spread.shape, spread.axis, spread.block) for each in (scale, zero))
    return Grid(scales, zeros, least, most)


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [reader for reader, _ in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 else None
