"""Writing weights by blocks: with operators of ONNX alone, or with onnxruntime's product that computes on the codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.formats import BlockCodes, BlockScheme
from mlc.fusion import Places, drop_unused_constant
from mlc.graph_pass import Change, Context
from passes._block_tables import Table, packed_table, write_table
from passes._blocks import block_weights
from passes._kernels import DOMAIN
from passes._qdq import Writer
from passes._stored import StoredWeight, permitted

Form: TypeAlias = Literal["auto", "standard"]

PRODUCT = "MatMulNBits"
KERNEL = f"{DOMAIN}.{PRODUCT}"

TYPES_OF_4_BITS = 10
"""The IR version that brought them."""

NAMED = 3
"""So many weights are named in a note."""

MATRIX_TYPES = {
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
}


def small_product(bits: int) -> str:
    """Return a graph that tells whether a target has the kernel for codes of so many bits."""
    return f"""(float[n,32] x, uint8[4,1,{bits * 4}] codes, float[4,1] scale) => (float[n,4] y) {{
        y = {KERNEL}<K = 32, N = 4, bits = {bits}, block_size = 32>(x, codes, scale)
    }}"""


def joined(ctx: Context, form: Form) -> bool:
    """Whether products on codes are written as one operator: where the target was seen to have it."""
    return form == "auto" and KERNEL in ctx.capabilities.kernels


def write_blocks(
    model: ir.Model,
    ctx: Context,
    name: str,
    scheme: BlockScheme,
    form: Form,
    codes_of: Callable[[StoredWeight, np.ndarray, BlockScheme], BlockCodes],
) -> Change:
    """Put the codes of every weight that can be quantized in its place; ``codes_of`` is given it [rows, columns]."""
    one = joined(ctx, form)
    found = block_weights(model, scheme, permitted(ctx, name), short=one)
    change = Change(found.sites, tuple(found.refused), tuple(_smaller(found.weights, scheme)))
    if found.weights:
        model.ir_version = max(model.ir_version, TYPES_OF_4_BITS)
    if one and any(weight.products for weight in found.weights):
        model.opset_imports.setdefault(DOMAIN, 1)
    writer = Writer(model)
    for weight in found.weights:
        ctx.progress(f"{weight.value.name} as codes of {scheme.bits} bits")
        matrix = weight.matrix()
        codes = codes_of(weight, matrix, scheme.fitted(len(matrix)))
        own = writer.inside(found.places.common(weight.nodes))
        if one:
            write_joined(own, weight, codes, accuracy_level(ctx))
        else:
            write_standard(own, weight, codes, found.places)
    return change


def _smaller(weights: Sequence[StoredWeight], scheme: BlockScheme) -> Iterator[str]:
    """Yield a note for each smaller size of blocks, of weights whose rows are no whole ones of the size asked for."""
    sizes: dict[int, list[str]] = {}
    for weight in weights:
        block = scheme.fitted(len(weight.matrix())).block
        sizes.setdefault(block, []).append(str(weight.value.name))
    for block, names in sizes.items():
        if block < scheme.block:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told = f"{', '.join(names[:NAMED])}{more}"
            yield f"blocks of {block} and not {scheme.block} for {told}: their rows are no whole ones of {scheme.block}"


def accuracy_level(ctx: Context) -> int:
    """Return 4, to round the inputs to 8 bits block by block and add integers, for a CPU, which is far slower without.

    A GPU computes in floats, as 0 says.
    """
    return 4 if ctx.capabilities.cpu else 0


def write_standard(writer: Writer, weight: StoredWeight, codes: BlockCodes, places: Places) -> None:
    """Write ``x @ DequantizeLinear(codes)``, the codes [rows, columns] so that runtimes join the two.

    onnxruntime joins them where one product alone reads the codes, and where no DequantizeLinear feeds the product's
    other side: so a table is made of the same codes without one.
    """
    stem, scheme = weight.value.name or "", codes.scheme
    dtype = MATRIX_TYPES[scheme.bits, scheme.symmetric]
    stored = [
        writer.constant(f"{stem}.{dtype.name.lower()}", codes.codes.astype(dtype.numpy())),
        writer.constant(f"{stem}.scale", codes.scales),
    ]
    if not scheme.symmetric:
        stored.append(writer.constant(f"{stem}.zero_point", codes.zero_points.astype(dtype.numpy())))
    shape = ir.Shape(codes.codes.shape)
    if weight.products:
        node = writer.node(
            "DequantizeLinear", stored, f"{stem}.dequantized", ir.DataType.FLOAT, shape, axis=0, block_size=scheme.block
        )
        writer.graph.insert_before(places.first(writer.graph, weight.products), node)
        for product in weight.products:
            _read(writer, product, node.outputs[0])
    if weight.tables:
        table = _turned(writer, weight, stored, scheme, places.first(writer.graph, weight.tables))
        for node in weight.tables:
            write_table(writer, node, table)


def _read(writer: Writer, product: ir.Node, weight: ir.Value) -> None:
    """Let a product read a weight [rows, columns]."""
    old = product.inputs[1]
    assert old is not None
    product.replace_input_with(1, weight)
    product.attributes.pop("transB", None)
    _drop(writer, old)


def _drop(writer: Writer, weight: ir.Value) -> None:
    """Remove a weight, or the Transpose of one, that nobody reads any more."""
    producer = weight.producer()
    if producer is None or producer.op_type != "Transpose":
        drop_unused_constant(weight)
    elif not weight.uses():
        writer.remove(producer)


def _turned(
    writer: Writer, weight: StoredWeight, stored: Sequence[ir.Value], scheme: BlockScheme, place: ir.Node
) -> Table:
    """Return the table of codes, scales and perhaps zero points that are stored as DequantizeLinear reads them.

    All is made of constants, before ``place``, so a runtime computes it once, when it loads. Gather knows no type of 4
    bits.
    """
    stem = weight.value.name or ""
    wide = ir.DataType.INT8 if scheme.symmetric else ir.DataType.UINT8
    found = []
    nodes: list[ir.Node] = []
    for value, role in zip(stored, ("codes", "scale", "zero_point"), strict=False):
        assert value.dtype is not None
        assert value.shape is not None
        last = value
        if value.dtype.bitwidth < wide.bitwidth:
            nodes.append(writer.node("Cast", [last], f"{stem}.{role}.wide", wide, value.shape, to=int(wide)))
            last = nodes[-1].outputs[0]
        assert last.dtype is not None
        turned = ir.Shape(value.shape[::-1])
        nodes.append(writer.node("Transpose", [last], f"{stem}.{role}.rows", last.dtype, turned, perm=[1, 0]))
        found.append(nodes[-1].outputs[0])
    scale_shape = found[1].shape
    assert scale_shape is not None
    shape = (*scale_shape.numpy(), scheme.block)
    target = writer.constant(f"{stem}.rows.shape", np.array(shape, np.int64))
    nodes.append(writer.node("Reshape", [found[0], target], f"{stem}.blocks", wide, ir.Shape(shape)))
    writer.graph.insert_before(place, nodes)
    return Table(scheme.block, nodes[-1].outputs[0], found[1], found[2] if len(found) > 2 else None)


def write_joined(writer: Writer, weight: StoredWeight, codes: BlockCodes, level: int) -> None:
    """Write com.microsoft.MatMulNBits; a table reads the codes as they are stored for it.

    GatherBlockQuantized would be one operator for a table, and OpenVINO does not know it.
    """
    stem, scheme = weight.value.name or "", codes.scheme
    roles = (f"uint{scheme.bits}", "scale", "zero_point" if weight.products else "")
    stored = [
        writer.constant(f"{stem}.{role}", array)
        for role, array in zip(roles, codes.packed(), strict=True)
        if role and array is not None
    ]
    rows, columns = codes.codes.shape
    for product in weight.products:
        x, output = product.inputs[0], product.outputs[0]
        assert x is not None
        node = writer.node(
            PRODUCT, [x, *stored], f"{output.name}.by_blocks", ir.DataType.FLOAT, output.shape,
            K=rows, N=columns, bits=scheme.bits, block_size=scheme.block, accuracy_level=level,
        )  # fmt: skip
        node.domain = DOMAIN
        _put(writer, product, node)
    if weight.tables:
        table = packed_table(writer, stem, codes, *stored[:2])
        for gather in weight.tables:
            write_table(writer, gather, table)


def _put(writer: Writer, product: ir.Node, node: ir.Node) -> None:
    """Put a node in the place of a product, and an Add behind it in that of a Gemm's bias."""
    weight, bias = (*product.inputs, None)[1:3]
    assert weight is not None
    output, nodes = product.outputs[0], [node]
    if bias is not None:
        total = [node.outputs[0], bias]
        nodes.append(writer.node("Add", total, f"{output.name}.biased", ir.DataType.FLOAT, output.shape))
    assert product.graph is not None
    product.graph.insert_before(product, nodes)
    writer.take_over(output, nodes[-1].outputs[0])
    _drop(writer, weight)
