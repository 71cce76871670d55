"""What was converted inside branches and bodies of loops, where no value is seen while it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from mlc.explaining.nouns import Inside
from mlc.formats.nodes import site_of
from mlc.fusion import walk
from mlc.rewriting.chosen import computed_on_codes
from mlc.types import FLOAT

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.explaining.halves import Halved

CODES = "integers"
"""The format of what is computed on codes, where no plan says which."""


def converted_inside(
    before: ir.Model, after: ir.Model, halves: Mapping[str, Halved], formats: Mapping[str, str]
) -> tuple[Inside, ...]:
    """Return the nodes of branches and bodies that the graph after computes on codes or in 16 bits.

    ``formats`` are those of a plan, by site: a node that it keeps float may read what codes mean all the same.
    """
    return tuple(_converted(before, after, halves, formats))


def _converted(
    before: ir.Model, after: ir.Model, halves: Mapping[str, Halved], formats: Mapping[str, str]
) -> Iterator[Inside]:
    graphs, known = dict(walk(after)), _computed(before)
    for prefix, graph in walk(before):
        if not prefix or prefix not in graphs:
            continue
        makers = {value.name: node for node in graphs[prefix] for value in node.outputs if value.name}
        for node in graph:
            site, twin = f"{prefix}{site_of(node)}", makers.get(site_of(node))
            if site in halves:
                yield Inside(site, node.op_type, formats.get(site, "16 bits"))
            elif twin is not None and formats.get(site) != FLOAT and computed_on_codes(twin, known):
                yield Inside(site, node.op_type, formats.get(site, CODES))


def _computed(model: ir.Model) -> Collection[str]:
    """Return the names of all values that are no constants."""
    return {
        str(value.name)
        for graph in model.graphs()
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs if node.op_type != "Constant"))
    }
