"""Remove what no output needs, and copies that copy nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from mlc.fusion import forget_subgraphs, is_constant, is_standard, note_constants, opset_of, walk
from mlc.graph_pass import Change, Context, Exactness, Pass, Refusal

INFERENCE_ONLY = 12
"""Before this opset a Dropout has no training input and is a copy."""


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Nodes, initializers and functions that nothing reads go; ``Identity(x)`` and Dropout in inference become x.

    Names of the interface stay: an Identity that gives an output goes only where the value before it can take the
    output's name. Refuses where it cannot: that value is an input, an initializer, an output itself, or belongs to a
    graph outside. A Dropout stays where its mask is read or its training mode may be on.
    """

    name: ClassVar[str] = "eliminate-dead-code"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Remove copies first, then what is dead, in subgraphs before the graphs around them."""
        note_constants(model)
        removal = _Removal(ctx)
        opset = opset_of(model)
        for prefix, graph in list(walk(model)):
            for node in graph:
                if _copies(node, opset):
                    removal.copy(graph, node, prefix)
        for prefix, graph in reversed(list(walk(model))):
            removal.dead(graph, prefix)
        _remove_functions(model)
        return Change(tuple(removal.sites), tuple(removal.refused))


@dataclass
class _Removal:
    """One run: what was removed and what could not be."""

    ctx: Context
    sites: dict[str, None] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    def _may(self, site: str) -> bool:
        allowed = site not in self.sites and self.ctx.allow(site)
        if allowed:
            self.sites[site] = None
        return allowed

    def copy(self, graph: ir.Graph, node: ir.Node, prefix: str) -> None:
        """Let readers of a copy read what it copies; an output's name goes over to it."""
        source, copy = node.inputs[0], node.outputs[0]
        assert source is not None
        at_the_end = copy.is_graph_output()
        reason = _keeps_its_name(graph, source) if at_the_end else ""
        if reason:
            self.refused.append(Refusal(prefix + str(copy.name), reason))
        elif self._may(prefix + str(copy.name)):
            if at_the_end:
                name, copy.name = copy.name, f"{copy.name}.copy"
                source.name, source.shape = name, copy.shape if copy.shape is not None else source.shape
            source.type = source.type if source.type is not None else copy.type
            copy.replace_all_uses_with(source, replace_graph_outputs=True)
            graph.remove([node], safe=True)

    def dead(self, graph: ir.Graph, prefix: str) -> None:
        """Remove nodes from the end, then initializers, that nothing reads."""
        for node in reversed(list(graph)):
            read = any(output.uses() or output.is_graph_output() for output in node.outputs)
            if not read and self._may(prefix + next((output.name for output in node.outputs if output.name), "")):
                forget_subgraphs(node)
                graph.remove([node], safe=True)
        for name, value in list(graph.initializers.items()):
            read = bool(value.uses()) or value.is_graph_input() or value.is_graph_output()
            if not read and self._may(prefix + name):
                graph.initializers.pop(name)


def _copies(node: ir.Node, opset: int) -> bool:
    """Whether a node gives its first input as it is."""
    if not is_standard(node) or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    if opset < INFERENCE_ONLY or len(node.inputs) <= 2 or node.inputs[2] is None:
        return True
    training = node.inputs[2]
    return is_constant(training) and training.const_value is not None and not training.const_value.numpy().any()


def _keeps_its_name(graph: ir.Graph, source: ir.Value) -> str:
    """Return why a value cannot take the name of an output, or nothing."""
    if source.is_graph_input():
        return f"{source.name} is an input, and both names are kept"
    if source.producer() is None:
        return f"{source.name} is an initializer, and an output is given by a node"
    if source.is_graph_output():
        return f"{source.name} is an output too, and both names are kept"
    if source.graph is not graph:
        return f"{source.name} belongs to a graph outside"
    return ""


def _remove_functions(model: ir.Model) -> None:
    """Remove functions that nothing calls; they hold no value of the graph, so they are no sites."""
    while True:
        graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
        called = {node.op_identifier() for graph in graphs for node in graph.all_nodes()}
        unused = [key for key in model.functions if key not in called]
        if not unused:
            return
        for key in unused:
            del model.functions[key]
