"""Which nodes hang on a convolution: they hand on codes to each other, so that static int8 pays for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc.formats import data_inputs, int8_nodes, site_of, static_choices

if TYPE_CHECKING:
    import onnx_ir as ir


def convolution_chains(model: ir.Model) -> frozenset[str]:
    """Return the sites of the nodes that static int8 could take and that codes link with a Conv."""
    nodes = list(int8_nodes(static_choices(model)))
    chain = {node: {node} for node in nodes}
    for node in nodes:
        for value in data_inputs(node):
            above = value.producer()
            if above in chain and chain[above] is not chain[node]:
                chain[above] |= chain[node]
                for member in chain[node]:
                    chain[member] = chain[above]
    return frozenset(site_of(node) for node in nodes if any(each.op_type == "Conv" for each in chain[node]))
