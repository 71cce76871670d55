"""Which values of a graph become codes, where their quantizers stand, and which of them share scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mlc.formats import FOLDING, PASSING, Choice, clamps_product, data_inputs, int8_nodes, product_of


@dataclass
class Coded:
    """A value that is quantized: ``native`` where an int8 node computes it, so that everyone reads it dequantized.

    ``range_of`` is the value whose range gives scale and zero point: its own, or that of the value with which it shares
    them. ``adopts`` is the output of the Concat whose parameters it takes where they fit.
    """

    value: ir.Value
    native: bool
    range_of: ir.Value
    adopts: ir.Value | None = None


def coded_values(choices: tuple[Choice, ...]) -> dict[ir.Value, Coded]:
    """Return the values to quantize, in the order in which they are computed."""
    nodes = list(int8_nodes(choices))
    chosen = set(nodes)
    found: dict[ir.Value, Coded] = {}
    for node in nodes:
        if node.op_type not in FOLDING:
            for value in data_inputs(node):
                producer = value.producer()
                native = producer in chosen and producer.op_type != "Gather"
                found.setdefault(value, Coded(value, native, value))
        output = node.outputs[0]
        if _written_as_codes(node, chosen):
            found.setdefault(output, Coded(output, native=True, range_of=output))
    _share(nodes, found)
    return found


def possible_values(choices: tuple[Choice, ...]) -> list[ir.Value]:
    """Return all values that are quantized if any part of the int8 nodes is kept float instead, in order."""
    found: dict[ir.Value, None] = {}
    for node in int8_nodes(choices):
        output = node.outputs[0]
        found.update(dict.fromkeys(data_inputs(node)))
        product = node.op_type in {"Gemm", "MatMul", "Gather"} or product_of(node) is not None
        if not product or any(use.op_type in FOLDING for use, _ in output.uses()):
            found[output] = None
    return list(found)


def _written_as_codes(node: ir.Node, chosen: set[ir.Node]) -> bool:
    """Whether a node's output is quantized even if no int8 node reads it.

    A lone Relu or Clip behind it takes over.
    A matrix product, with its bias, may stay float at the end of an int8 part, but not before a Relu or Clip that stays
    float: the runtime looks through it for a quantizer. A table always stays float.
    """
    if node.op_type == "Gather":
        return False
    output = node.outputs[0]
    folds = [use for use, _ in output.uses() if use in chosen and use.op_type in FOLDING]
    if folds and len(output.uses()) == 1 and not output.is_graph_output():
        return False
    if node.op_type in {"Gemm", "MatMul"} or product_of(node) in chosen:
        return bool(folds) or any(clamps_product(use) for use, _ in output.uses())
    return True


def _share(nodes: list[ir.Node], found: dict[ir.Value, Coded]) -> None:
    """Let a node that only moves elements keep their scale, and the inputs of a Concat take its scale."""
    for node in nodes:
        output = node.outputs[0]
        if node.op_type in PASSING:
            _share_across(node, found)
        elif node.op_type == "Concat" and output in found:
            for value in data_inputs(node):
                if len(value.uses()) == 1 and not value.is_graph_output():
                    found[value].adopts = output
    shared = [coded.range_of for coded in found.values() if coded.range_of is not coded.value]
    for coded in found.values():
        if coded.range_of is not coded.value or coded.value in shared:
            coded.adopts = None


def _share_across(node: ir.Node, found: dict[ir.Value, Coded]) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    if output in found:
        found[output].range_of = found[source].range_of
        return
    folded = next(use for use, _ in output.uses()).outputs[0]
    if folded in found and len(source.uses()) == 1 and not source.is_graph_output():
        _replace_range(found, found[source].range_of, folded)


def _replace_range(found: dict[ir.Value, Coded], old: ir.Value, new: ir.Value) -> None:
    """Give a group the range behind the Relu or Clip at its end: clipping first and moving then is the same."""
    members = [coded for coded in found.values() if coded.range_of is old]
    private = all(len(coded.value.uses()) == 1 and not coded.value.is_graph_output() for coded in members)
    if private:
        for coded in members:
            coded.range_of = new
