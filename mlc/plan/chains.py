"""For which nodes static int8 pays: those that hang on a convolution hand on codes to each other."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from mlc.figures import counted
from mlc.formats import FOLDING, PASSING, constant, data_inputs, int8_nodes, static_choices, weight_of
from mlc.formats.nodes import number
from mlc.fusion import Places

if TYPE_CHECKING:
    import onnx_ir as ir


def convolution_chains(model: ir.Model, without: Collection[str] = ()) -> frozenset[str]:
    """Return the sites of the nodes that static int8 could take and that codes link with a Conv of the same graph.

    Nodes ``without`` which it is to do stay float.
    """
    places = Places(model)
    nodes = list(int8_nodes(static_choices(places.once, lambda node: places.site(node) not in without)))
    chain = {node: {node} for node in nodes}
    for node in nodes:
        for value in data_inputs(node):
            above = value.producer()
            if above in chain and above.graph is node.graph and chain[above] is not chain[node]:
                chain[above] |= chain[node]
                for member in chain[node]:
                    chain[member] = chain[above]
    return frozenset(places.site(node) for node in nodes if any(each.op_type == "Conv" for each in chain[node]))


FEW = 64
"""So many products for each sum are few for an integer convolution that cannot take its channels by fours."""

FOURS = 4

SLOW = "{what}, and reads floats: its integer kernel takes longer than the float one"


def slow_heads(model: ir.Model) -> dict[str, str]:
    """Return the sites of convolutions that static int8 could take and that are faster in float, and why.

    They read floats, so that codes would be made for them alone. onnxruntime's integer convolutions take input channels
    by fours; the first one of a network, of an image's one or three, takes twice the time of the float one where its
    kernel is small, and a depthwise one, which has one channel for each sum, no less than that.
    """
    places = Places(model)
    taken = dict.fromkeys(int8_nodes(static_choices(places.once)))
    slow: dict[ir.Node, str] = {}

    def reads_floats(value: ir.Value | None) -> bool:
        maker = None if value is None else value.producer()
        if maker is None or maker not in taken or maker in slow:
            return True
        return maker.op_type in FOLDING | PASSING and reads_floats(maker.inputs[0])

    for node in taken:
        what = _slow(node) if node.op_type == "Conv" else ""
        if what and reads_floats(node.inputs[0]):
            slow[node] = SLOW.format(what=what)
    return {places.site(node): reason for node, reason in slow.items()}


def _slow(node: ir.Node) -> str:
    """Return what of a convolution is slow in integers, or nothing."""
    weight = weight_of(node)
    tensor = None if weight is None else constant(weight.value)
    if tensor is None:
        return ""
    _, channels, *kernel = tensor.shape.numpy()
    if channels == 1 and number(node, "group", 1) > 1:
        return "it has one channel for each group"
    products = channels * math.prod(kernel)
    return f"it has {counted(channels, 'input channel')}" if channels % FOURS and products < FEW else ""
