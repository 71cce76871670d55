"""Where a graph decides: operators that turn a float into an integer, a boolean or a step, and the floats that decide.

A value behind such an operator jumps when its deciding float crosses a threshold, so it is judged on that float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from mlc.compare import Decision, Threshold

COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"})
ROUNDINGS = {"Round": 0.5, "Floor": 0.0, "Ceil": 0.0}
RANKINGS = frozenset({"ArgMax", "ArgMin", "TopK"})
DISCONTINUOUS = (
    COMPARISONS
    | RANKINGS
    | frozenset(ROUNDINGS)
    | frozenset(
        {"Sign", "NonZero", "NonMaxSuppression", "Hardmax", "QuantizeLinear", "DynamicQuantizeLinear", "Unique", "Mod"}
    )
)
"""Operators whose output jumps where a float input crosses a threshold; a Cast from float to integer is one too."""

_NEVER_FLOAT = COMPARISONS | frozenset(
    {"Not", "And", "Or", "Xor", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression", "QuantizeLinear", "Shape", "Size"}
    | {"IsNaN", "IsInf"}
)

_PASS_ON = frozenset({"Identity", "Not", "And", "Or", "Xor", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Cast"})


def decisions(model: ir.Model) -> dict[str, Decision]:
    """Return, for each integer or boolean output that floats decide, which ones and how.

    The values named have to be fetched beside the outputs (``with_outputs``) and handed to ``compare``.
    """
    found = {}
    for output in model.graph.outputs:
        decision = _decision(output)
        if decision is not None and output.name is not None:
            found[output.name] = decision
    return found


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a clone of a model with the values of these names as further outputs; unknown names are left out."""
    clone = model.clone()
    values = {value.name: value for value in graph_values(clone.graph)}
    present = {output.name for output in clone.graph.outputs}
    for name in dict.fromkeys(names):
        if name in values and name not in present:
            clone.graph.outputs.append(values[name])
    return clone


def graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield all values of a graph itself, not of its subgraphs: inputs, initializers, results of nodes."""
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from (output for output in node.outputs if output.name)


def is_discontinuous(node: ir.Node) -> bool:
    """Whether a node's output jumps where a float input crosses a threshold."""
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return False
    if node.op_type == "Cast":
        return _float(node.inputs[0]) and not _float(node.outputs[0]) and not _integral(node.inputs[0])
    return node.op_type in DISCONTINUOUS and any(_float(value) for value in node.inputs)


def deciders(model: ir.Model) -> dict[str, tuple[ir.Node, ...]]:
    """Return, for each output, the discontinuous nodes that it lies behind, in graph order."""
    order = {node: index for index, node in enumerate(model.graph)}
    found = {}
    for output in model.graph.outputs:
        behind = (node for node in cone([output]) if node in order and is_discontinuous(node))
        nodes = sorted(behind, key=order.__getitem__)
        if nodes and output.name is not None:
            found[output.name] = tuple(nodes)
    return found


def cone(values: Iterable[ir.Value | None]) -> set[ir.Node]:
    """Return all nodes that these values come from, through subgraphs too."""
    seen: set[ir.Node] = set()
    stack = [value.producer() for value in values if value is not None]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [source.producer() for source in used_values(node)]
    return seen


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, what its subgraphs read included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from captured(attribute.as_graph())


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Return the values that a subgraph takes from the graphs around it, each once."""
    own = set(graph_values(graph))
    for nested in graph.subgraphs():
        own |= set(graph_values(nested))
    uses = [value for node in graph.all_nodes() for value in node.inputs if value is not None]
    uses += list(graph.outputs) + [value for nested in graph.subgraphs() for value in nested.outputs]
    return [value for value in dict.fromkeys(uses) if value not in own]


def _float(value: ir.Value | None) -> bool:
    """Whether a value is a float, by its dtype, else by the operator that gives it."""
    if value is None or value.dtype is not None:
        return value is not None and value.dtype is not None and value.dtype.is_floating_point()
    node = value.producer()
    if node is None:
        return True
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int()).is_floating_point()
    if node.op_type == "TopK":
        return value.index() == 0
    return node.op_type not in _NEVER_FLOAT and (node.op_type != "Identity" or _float(node.inputs[0]))


def _integral(value: ir.Value | None) -> bool:
    """Whether a float holds whole numbers since an operator before it rounded."""
    node = None if value is None else value.producer()
    return node is not None and (node.op_type in ROUNDINGS or node.op_type == "Sign")


def _decision(output: ir.Value) -> Decision | None:
    value = _source(output)
    node = value.producer()
    if node is None or output.name is None or (output.dtype is not None and output.dtype.is_floating_point()):
        return None
    if node.op_type in RANKINGS:
        return _ranking(output.name, node) if node.op_type != "TopK" or value.index() == 1 else None
    listed = _listed_mask(node)
    if listed is not None:
        mask, axis = listed
        thresholds = (Threshold(str(mask.name), 0.0),) if _float(mask) else _thresholds(mask)
        return Decision(output.name, "positions", thresholds, axis=axis) if thresholds else None
    thresholds = _thresholds(value)
    return Decision(output.name, "elementwise", thresholds) if thresholds else None


def _source(value: ir.Value) -> ir.Value:
    """Walk back over copies and casts that decide nothing."""
    node = value.producer()
    while node is not None and node.op_type in ("Identity", "Cast") and not is_discontinuous(node):
        source = node.inputs[0]
        if source is None:
            break
        value, node = source, source.producer()
    return value


def _listed_mask(node: ir.Node) -> tuple[ir.Value, int] | None:
    """Return the mask whose positions a node lists, and the axis along which they run."""
    inner = node.inputs[0].producer() if node.op_type == "Transpose" and node.inputs[0] is not None else node
    if inner is None or inner.op_type != "NonZero" or inner.inputs[0] is None:
        return None
    return inner.inputs[0], 1 if inner is node else 0


def _ranking(name: str, node: ir.Node) -> Decision | None:
    ranked = node.inputs[0]
    if ranked is None or ranked.name is None or not _float(ranked):
        return None
    default = -1 if node.op_type == "TopK" else 0
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else default
    keepdims = node.op_type == "TopK" or "keepdims" not in node.attributes or bool(node.attributes["keepdims"].as_int())
    return Decision(name, "index", ranked=ranked.name, axis=axis, keepdims=keepdims)


def _thresholds(value: ir.Value) -> tuple[Threshold, ...] | None:
    """Return the thresholds behind an integer or boolean value, or None where something else decides too."""
    node = value.producer()
    if node is None:
        return ()
    if is_discontinuous(node):
        return _thresholds_of(node)
    if node.op_type not in _PASS_ON:
        return None
    data = node.inputs[:1] if node.op_type in ("Squeeze", "Unsqueeze", "Reshape") else node.inputs
    parts = [_thresholds(source) for source in data if source is not None]
    if any(part is None for part in parts):
        return None
    return tuple(threshold for part in parts for threshold in part or ())


def _thresholds_of(node: ir.Node) -> tuple[Threshold, ...] | None:
    left, right = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if left is None or left.name is None:
        return None
    found = None
    if node.op_type in COMPARISONS and right is not None:
        found = Threshold(left.name, _number_or_name(right))
    elif node.op_type == "Sign" or (node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.BOOL):
        found = Threshold(left.name, 0.0)
    elif node.op_type == "Cast":
        found = Threshold(left.name)
    elif node.op_type in ROUNDINGS:
        found = Threshold(left.name, offset=ROUNDINGS[node.op_type])
    elif node.op_type == "QuantizeLinear" and right is not None:
        found = Threshold(left.name, step=_number_or_name(right), offset=0.5)
    return None if found is None else (found,)


def _number_or_name(value: ir.Value) -> str | float:
    tensor = value.const_value
    if tensor is not None and tensor.size == 1:
        return float(np.asarray(tensor.numpy()).reshape(-1)[0])
    return str(value.name)
