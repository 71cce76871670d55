"""Where nodes and values lie among the branches and bodies of loops of a model, and what they are called there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from mlc.formats import site_of
from mlc.fusion.graph import is_standard, walk


class Places:
    """All graphs of a model, outer ones first, each with the prefix of the sites in it and the node that holds it.

    ``once`` are those that are run once at most: the main graph, and branches that are in no loop.
    """

    def __init__(self, model: ir.Model) -> None:
        self.prefixes = {graph: prefix for prefix, graph in walk(model)}
        self.holders = {
            attribute.as_graph(): node
            for graph in self.prefixes
            for node in graph
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.GRAPH
        }
        self.once = tuple(graph for graph in self.prefixes if not self._repeats(graph))

    def nodes(self) -> Iterator[ir.Node]:
        """Yield the nodes of all graphs, in order."""
        return (node for graph in self.prefixes for node in graph)

    def site(self, node: ir.Node) -> str:
        """Return the site of a node."""
        return f"{self.prefixes[_graph_of(node)]}{site_of(node)}"

    def name(self, value: ir.Value) -> str:
        """Return what a value is called in the whole model: its name, behind the prefix of the graph that it is of."""
        assert value.graph is not None
        return f"{self.prefixes[value.graph]}{value.name}"

    def common(self, nodes: Iterable[ir.Node]) -> ir.Graph:
        """Return the innermost graph in which all of some nodes lie, by themselves or in branches and bodies of it."""
        first, *others = [list(self._around(node)) for node in nodes]
        return next(graph for graph in first if all(graph in around for around in others))

    def first(self, graph: ir.Graph, nodes: Iterable[ir.Node]) -> ir.Node:
        """Return the first node of a graph that is one of some nodes, or holds one."""
        found = {self._within(node, graph) for node in nodes}
        return next(node for node in graph if node in found)

    def _around(self, node: ir.Node) -> Iterator[ir.Graph]:
        """Yield the graph of a node and those around it, outwards."""
        graph = _graph_of(node)
        yield graph
        if graph in self.holders:
            yield from self._around(self.holders[graph])

    def _within(self, node: ir.Node, graph: ir.Graph) -> ir.Node:
        """Return the node of a graph in which a node lies."""
        while node.graph is not graph:
            node = self.holders[_graph_of(node)]
        return node

    def _repeats(self, graph: ir.Graph) -> bool:
        """Whether a graph is the body of a loop, or in one."""
        holder = self.holders.get(graph)
        if holder is None:
            return False
        return holder.op_type != "If" or not is_standard(holder) or self._repeats(_graph_of(holder))


def _graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph
