"""Put the branch of an If whose condition is constant in its place."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from mlc.fusion import (
    Names,
    array_of,
    drop_unused_constant,
    forget_subgraphs,
    has_subgraphs,
    is_constant,
    is_standard,
)


def inline(graph: ir.Graph, prefix: str, names: Names, may: Callable[[str], bool]) -> str | None:
    """Inline the first such If of a graph that is allowed, and return its site.

    Names inside the branch are not known outside of it, so they get the If's first output as a prefix. So does an If or
    loop that gives a result of the branch: by the name of the result it would be taken for the If that is gone.
    """
    for node in graph:
        if node.op_type != "If" or not is_standard(node):
            continue
        condition = node.inputs[0]
        site = prefix + str(node.outputs[0].name)
        if condition is None or not is_constant(condition) or not may(site):
            continue
        taken = bool(array_of(condition).reshape(-1)[0])
        _inline(graph, node, node.attributes["then_branch" if taken else "else_branch"].as_graph(), names)
        forget_subgraphs(node)
        drop_unused_constant(condition)
        return site
    return None


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph, names: Names) -> None:
    start = str(node.outputs[0].name)
    results = list(branch.outputs)
    branch.outputs.clear()
    for name, value in list(branch.initializers.items()):
        branch.initializers.pop(name)
        value.name = names.free(f"{start}.{name}")
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    own = {output for each in nodes for output in each.outputs}
    for each in nodes:
        each.name = names.free(f"{start}.{each.name or each.op_type}")
        for output in each.outputs:
            if output.name:
                output.name = names.free(f"{start}.{output.name}")
    graph.insert_before(node, nodes)
    for index, (old, new) in enumerate(zip(node.outputs, results, strict=True)):
        if not old.name:
            continue
        if new not in own or new in results[:index] or ((maker := new.producer()) is not None and has_subgraphs(maker)):
            identity = ir.Node("", "Identity", [new], name=names.free(f"{old.name}.Identity"))
            graph.insert_before(node, identity)
            new = identity.outputs[0]  # noqa: PLW2901 - the copy takes the place of what cannot be renamed
        name, old.name = old.name, f"{old.name}.inlined"
        new.name, new.type, new.shape = name, old.type or new.type, old.shape if old.shape is not None else new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([node], safe=True)
