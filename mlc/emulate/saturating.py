"""A quantized model as a processor without VNNI runs it: products of bytes here, everything else by the runtime.

The graph is cut at the products that may saturate. What lies between two cuts runs with the runtime's optimizations
off, so that no kernel of this machine's own adds up bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare import is_float, powers, ratio_db
from mlc.compare.decisions import used_values
from mlc.emulate.saturating_products import Sums, Window
from mlc.emulate.saturation import (
    MATMUL_INTEGER,
    RUNTIMES,
    first_of,
    is_one,
    product_at,
    saturating_nodes,
    stored_codes,
)
from mlc.formats import ORDERS, Order
from mlc.formats.nodes import constant, input_at, number, site_of
from mlc.fusion import infer_shapes, is_constant
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics import valid_rows
from mlc.statistics.taps import tapped
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.data import Batch
    from mlc.statistics import Batches
    from mlc.types import Array, Arrays
    from mlc.workspace import Workspace

MATRIX = 2
"""The rank of the weights of MatMul and Gemm that are multiplied as bytes."""


def saturating_outputs(
    model: ir.Model, order: Order | None, batches: Batches, workspace: Workspace
) -> Iterator[tuple[Batch, dict[str, Array]]]:
    """Yield each batch with the outputs that a processor without VNNI gives, adding up in this order.

    Without an order all sums are exact, as they are on a processor with VNNI. Conv, MatMul and Gemm between
    dequantizers and MatMulInteger are computed here, where 16 bits may not hold a pair; all else stays with the
    runtime. Sums are whole numbers, scaled in float64 and rounded to float32 once. What pads an image takes part as the
    zero point, as in onnxruntime's kernels.
    """
    prepared = model.clone()
    infer_shapes(prepared)
    stages = list(_stages(prepared, order))
    with ExitStack() as opened:
        sessions = [
            opened.enter_context(open_session(tapped(stage.part, stage.outputs, workspace), Target(), optimize=False))
            if stage.outputs
            else None
            for stage in stages
        ]
        for batch in batches:
            values = dict(batch.inputs)
            for stage, session in zip(stages, sessions, strict=True):
                if session is not None:
                    values |= session.run({name: values[name] for name in stage.inputs if name in values})
                values |= {product.output: product.run(values) for product in stage.products}
            yield batch, {str(value.name): _read(value, values) for value in prepared.graph.outputs}


def _read(value: ir.Value | None, values: Arrays) -> Array:
    tensor = constant(value)
    assert value is not None
    return values[str(value.name)] if tensor is None or value.name in values else tensor.numpy()


@dataclass(frozen=True)
class _Product:
    """A node whose product is computed here: codes, scale and zero point of both sides, and the bias."""

    node: ir.Node
    sums: Sums
    activation: Sequence[ir.Value | None]
    weight: Sequence[ir.Value | None]

    @property
    def output(self) -> str:
        return str(self.node.outputs[0].name)

    @property
    def needs(self) -> list[ir.Value]:
        """What has to be known before it runs."""
        read = (*self.activation, *self.weight[1:], input_at(self.node, 2))
        return [value for value in read if value is not None and constant(value) is None]

    def run(self, values: Arrays) -> Array:
        """Return what the node gives: int32 sums, or their float values with the bias."""
        codes, scale, zero = (None if value is None else _read(value, values) for value in self.activation)
        _, weight_scale, weight_zero = (None if value is None else _read(value, values) for value in self.weight)
        assert codes is not None
        zero_point = 0 if zero is None else int(zero.item())
        weight_zeros = np.zeros(1, np.int8) if weight_zero is None else weight_zero
        node = self.node
        if node.op_type == "Conv":
            window = Window.of(node, codes.shape[2:], self.sums.product.codes.shape[2:])
            sums = self.sums.images(codes, window, zero_point, weight_zeros)
        else:
            turned = codes.T if number(node, "transA", 0) else codes
            sums = self.sums.matrix(turned, zero_point, weight_zeros)
        if scale is None or weight_scale is None:
            return sums.astype(np.int32)
        along = (-1,) + (1,) * (codes.ndim - 2) if node.op_type == "Conv" else (-1,)
        real = sums * (np.float64(scale.item()) * weight_scale.astype(np.float64).reshape(along))
        return self._biased(real, values, along).astype(np.float32)

    def _biased(self, real: Array, values: Arrays, along: tuple[int, ...]) -> Array:
        bias = input_at(self.node, 2)
        if self.node.op_type == "Gemm":
            real = real * number(self.node, "alpha", 1)
            return real if bias is None else real + number(self.node, "beta", 1) * _read(bias, values)
        return real if bias is None else real + _read(bias, values).reshape(along)


def _product(node: ir.Node, order: Order | None) -> _Product | None:
    """Return a node as a product to be computed here, or None where the runtime computes it as well."""
    product, stored = product_at(node), stored_codes(node)
    shape = None if stored is None else stored[1].shape
    if product is None or stored is None or (node.op_type != "Conv" and (shape is None or shape.rank() != MATRIX)):
        return None
    if not any(Sums.of(product, each).cut for each in ([order] if order is not None else Order)):
        return None
    if node.op_type == MATMUL_INTEGER:
        zeros = [input_at(node, index) for index in (2, 3)]
        sides: list[Sequence[ir.Value | None]] = [
            (codes, None, zero) for codes, zero in zip(stored, zeros, strict=True)
        ]
    else:
        sides = [_dequantized(node, index) for index in (0, 1)]
    activation, weight = sides
    if not all(value is None or is_one(value) for value in activation[1:]):
        return None
    return _Product(node, Sums.of(product, order), activation, weight)


def _dequantized(node: ir.Node, index: int) -> tuple[ir.Value | None, ir.Value | None, ir.Value | None]:
    source = input_at(node, index)
    dequantizer = None if source is None else source.producer()
    assert dequantizer is not None
    codes, scale, zero = (input_at(dequantizer, place) for place in range(3))
    return codes, scale, zero


@dataclass(frozen=True)
class _Stage:
    """What runs between two cuts, by the names of values, and the products behind it."""

    part: ir.Model
    inputs: Sequence[str]
    outputs: Sequence[str]
    products: Sequence[_Product]


def _stages(model: ir.Model, order: Order | None) -> Iterator[_Stage]:
    """Cut a graph behind every product: the nodes of stage n need the products of the stages before, and no other."""
    depths: dict[ir.Value, int] = {}
    members: defaultdict[int, list[int]] = defaultdict(list)
    products: defaultdict[int, list[_Product]] = defaultdict(list)
    for place, node in enumerate(model.graph):
        depth = max((depths.get(value, 0) for value in used_values(node)), default=0)
        product = _product(node, order)
        if product is None:
            members[depth].append(place)
        else:
            products[depth].append(product)
        depths.update(dict.fromkeys(node.outputs, depth if product is None else depth + 1))
    nodes = list(model.graph)
    asked = {value for each in products.values() for product in each for value in product.needs}
    asked.update(model.graph.outputs)
    for depth in range(max((*members, *products), default=0) + 1):
        inside = [nodes[place] for place in members[depth]]
        own = [value for node in inside for value in node.outputs]
        others = {value for node in nodes if node not in set(inside) for value in used_values(node)}
        read = {value for node in inside for value in used_values(node)} - set(own)
        inputs = [str(value.name) for value in read if not is_constant(value)]
        outputs = [str(value.name) for value in own if value in asked or value in others]
        yield _Stage(_part(model, members[depth], inputs), inputs, outputs, products[depth])


def _part(model: ir.Model, places: Sequence[int], inputs: Sequence[str]) -> ir.Model:
    """Return a model of the nodes at these places that takes the other values it reads as inputs."""
    part, kept, wanted = model.clone(), set(places), set(inputs)
    nodes = list(part.graph)
    dropped = [node for place, node in enumerate(nodes) if place not in kept]
    given = [value for value in part.graph.inputs if value.name in wanted]
    part.graph.outputs.clear()
    part.graph.inputs.clear()
    for node in dropped:
        for value in node.outputs:
            if value.name in wanted:
                new = ir.Value(name=value.name, type=value.type or ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
                value.replace_all_uses_with(new)
                given.append(new)
    part.graph.inputs.extend(given)
    part.graph.remove(dropped)
    for node in dropped:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    return part


def saturation_cost(
    original: Callable[[Arrays], Arrays], model: ir.Model, batches: Batches, workspace: Workspace
) -> tuple[str, ...]:
    """Return what a quantized model loses on a processor without VNNI, a sentence for each runtime on which it does.

    The outputs with and without cut sums are compared with those that ``original`` gives for the same inputs; the
    output that loses most is named. A model of which no product can be cut gives no sentence. Where one can be that is
    not computed here, as in a branch or a recurrent layer, the cost is said to be unknown.
    """
    if not any(saturating_nodes(model, order) for order in ORDERS):
        return ()
    found = []
    prepared = model.clone()
    infer_shapes(prepared)
    for order in ORDERS:
        computed = {node for node in prepared.graph if _product(node, order)}
        beyond = [site_of(node) for node in saturating_nodes(prepared, order) if node not in computed]
        if beyond:
            found.append(f"what the product sums of {first_of(beyond)} cost on {RUNTIMES[order]} is not known")
        if beyond or not computed:
            continue
        ratios = [_ratios(original, model, each, batches, workspace) for each in (order, None)]
        losses = {name: ratios[1][name] - ratio for name, ratio in ratios[0].items() if ratio < ratios[1][name]}
        if losses:
            worst = max(losses, key=losses.__getitem__)
            cut, exact = (each[worst] for each in ratios)
            found.append(f"on {RUNTIMES[order]} the output {worst} is at {cut:.1f} dB instead of {exact:.1f} dB")
    return tuple(found)


def _ratios(
    original: Callable[[Arrays], Arrays], model: ir.Model, order: Order | None, batches: Batches, workspace: Workspace
) -> dict[str, float]:
    """Return the signal to noise ratio of each float output against the original's, in dB."""
    sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for batch, outputs in saturating_outputs(model, order, batches, workspace):
        for name, expected in original(batch.inputs).items():
            if name in outputs and is_float(expected.dtype) and outputs[name].shape == expected.shape:
                sums[name] += powers(valid_rows(expected, batch), valid_rows(outputs[name], batch))
    return {name: ratio_db(*total) for name, total in sums.items()}
