"""Which nodes hang on a convolution: they hand on codes to each other, so that static int8 pays for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc.formats import data_inputs, int8_nodes, static_choices
from mlc.fusion import Places

if TYPE_CHECKING:
    import onnx_ir as ir


def convolution_chains(model: ir.Model) -> frozenset[str]:
    """Return the sites of the nodes that static int8 could take and that codes link with a Conv of the same graph."""
    places = Places(model)
    nodes = list(int8_nodes(static_choices(places.once)))
    chain = {node: {node} for node in nodes}
    for node in nodes:
        for value in data_inputs(node):
            above = value.producer()
            if above in chain and above.graph is node.graph and chain[above] is not chain[node]:
                chain[above] |= chain[node]
                for member in chain[node]:
                    chain[member] = chain[above]
    return frozenset(places.site(node) for node in nodes if any(each.op_type == "Conv" for each in chain[node]))
