"""Writing a graph of two float types: Casts where a value changes sides, one for each value and direction."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mlc.fusion import Names, array_of, drop_unused_constant, is_constant, is_standard
from passes._half import FLOAT16, STORED_FROM, half_constant
from passes._half_choice import Choice
from passes._half_constants import LOWEST, Role, fitted, is_added_mask, is_attention_mask, role_of


class Writer:
    """Changes chosen nodes to float16 in all graphs of a model."""

    def __init__(self, model: ir.Model, site_of: dict[ir.Value, str]) -> None:
        self.model = model
        self.names = Names.of(model)
        self.site_of = site_of
        self.halves: dict[ir.Value, None] = {}
        self.half_reads: set[tuple[ir.Node, int]] = set()
        self.clamped: dict[str, None] = {}
        self._made: dict[tuple[ir.Value, ir.DataType, Role], ir.Value] = {}

    def write(self, found: list[Choice], masks: set[ir.Value]) -> tuple[str, ...]:
        """Change every node that is chosen, and return the names of the masks whose numbers were brought into range.

        ``masks`` are computed values that are clamped on their way.
        """
        chosen = [choice for choice in found if choice.half]
        for choice in chosen:
            self.halves.update(dict.fromkeys(choice.gives()))
        self._read_as_float(chosen)
        for choice in chosen:
            self._change(choice, masks)
        for graph in self.model.graphs():
            for value in dict.fromkeys(graph.outputs):
                if value in self.halves:
                    self._end(graph, value)
        for value in self.halves:
            value.type = ir.TensorType(FLOAT16.dtype)
        return tuple(self.clamped)

    def _read_as_float(self, chosen: list[Choice]) -> None:
        """Let everyone who reads float32 read a Cast of what is float16 now."""
        self.half_reads = {(choice.node, index) for choice in chosen for index, _ in choice.reads()}
        for value in self.halves:
            for use in tuple(value.uses()):
                if (use.node, use.idx) not in self.half_reads:
                    use.node.replace_input_with(use.idx, self._float_of(value))

    def _change(self, choice: Choice, masks: set[ir.Value]) -> None:
        node = choice.node
        for index, value in choice.reads():
            node.replace_input_with(index, self._half_of(value, node, index, masks))
            drop_unused_constant(value)
        if node.op_type == "Cast" and is_standard(node) and choice.positions.outputs:
            node.attributes["to"] = ir.AttrInt64("to", int(FLOAT16.dtype))
        elif node.op_type == "ConstantOfShape" and is_standard(node):
            given = node.attributes.get("value")
            fill = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.astype(np.float16)))

    def _half_of(self, value: ir.Value, node: ir.Node, index: int, masks: set[ir.Value]) -> ir.Value:
        """Return the float16 form of a value for the node that reads it at this place."""
        if value in self.halves:
            return value
        role = Role.PLAIN
        if is_constant(value):
            role = role_of(node, index, array_of(value))
        elif value in masks and (is_attention_mask(node, index) or is_added_mask(node, index)):
            role = Role.MASK
        key = (value, FLOAT16.dtype, role)
        if key not in self._made:
            self._made[key] = self._constant(value, role) if is_constant(value) else self._narrowed(value, role)
        if role is Role.MASK:
            self.clamped[self.site_of.get(value, value.name or "")] = None
        return self._made[key]

    def _constant(self, value: ir.Value, role: Role) -> ir.Value:
        """Return a constant in float16; a large one that others read in float32 is stored once, and cast for this."""
        graph = value.graph
        assert graph is not None
        array = array_of(value)
        large = array.nbytes >= STORED_FROM
        if role is Role.PLAIN and large and any((use.node, use.idx) not in self.half_reads for use in value.uses()):
            return self._cast(value, FLOAT16.dtype, f"{value.name}.float16")
        made = half_constant(self.names.free(f"{value.name}.float16"), fitted(array, role), FLOAT16)
        graph.register_initializer(made)
        return made

    def _narrowed(self, value: ir.Value, role: Role) -> ir.Value:
        """Return a value cast to float16, a mask clamped first; what was widened from float16 is taken as it was."""
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and is_standard(producer):
            source = producer.inputs[0]
            if source is not None and source.dtype == FLOAT16.dtype and source not in self.halves:
                return source
        if role is Role.MASK:
            lowest = self._scalar(value, LOWEST)
            clamp = self._node("Max", [value, lowest], f"{value.name}.clamped", value)
            self._insert_behind(value, clamp)
            value = clamp.outputs[0]
        return self._cast(value, FLOAT16.dtype, f"{value.name}.float16")

    def _scalar(self, value: ir.Value, number: float) -> ir.Value:
        graph = value.graph
        assert graph is not None
        name = self.names.free(f"{value.name}.lowest")
        tensor = ir.tensor(np.array(number, np.float32), name=name)
        made = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(made)
        return made

    def _float_of(self, value: ir.Value) -> ir.Value:
        key = (value, ir.DataType.FLOAT, Role.PLAIN)
        if key not in self._made:
            self._made[key] = self._cast(value, ir.DataType.FLOAT, f"{value.name}.float32")
        return self._made[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType, wanted: str) -> ir.Value:
        cast = self._node("Cast", [value], wanted, value, to=int(dtype))
        cast.outputs[0].type = ir.TensorType(dtype)
        self._insert_behind(value, cast)
        return cast.outputs[0]

    def _node(self, op: str, inputs: list[ir.Value], wanted: str, like: ir.Value, **attributes: int) -> ir.Node:
        """Return a new node with one output of the shape of a value; the node's name is the output's."""
        name = self.names.free(wanted)
        shape = None if like.shape is None else like.shape.copy()
        output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        return ir.node(op, inputs, attributes, outputs=[output], name=name)

    def _insert_behind(self, value: ir.Value, node: ir.Node) -> None:
        producer, graph = value.producer(), value.graph
        assert graph is not None
        if producer is not None:
            graph.insert_after(producer, node)
        else:
            graph.insert_before(graph[0], node)

    def _end(self, graph: ir.Graph, value: ir.Value) -> None:
        """Give an output of a graph back in float32, under its name."""
        wide = self._float_of(value)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = wide
        if value.graph is graph:
            name, value.name = value.name, self.names.free(f"{value.name}.float16")
            wide.name = name
