"""An honest pass, ``Relu(x)`` becomes ``Max(x, 0)``, that the planted ones spoil at one site."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from mlc.fusion import walk
from mlc.graph_pass import Change, Exactness, Pass


@dataclass(frozen=True)
class ReluToMax(Pass):
    """``Relu(x)`` becomes ``Max(x, 0)``, spoiled at the site ``at``."""

    name: ClassVar[str] = "planted"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    at: str = ""

    def apply(self, model, ctx):
        sites = []
        for prefix, graph in walk(model):
            for node in list(graph):
                site = f"{prefix}{node.outputs[0].name}"
                if node.op_type != "Relu" or not ctx.allow(site):
                    continue
                sites.append(site)
                replace(graph, node, self.spoil if self.spoils(site) else None, model)
        return Change(tuple(sites))

    def spoils(self, site):
        """Whether a site is spoiled."""
        return site == self.at

    def spoil(self, model, graph, node, value):
        """Return another value in the place of the right one."""
        return value


def initializer(graph, name, array):
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), const_value=ir.tensor(array))
    value.shape = ir.Shape(array.shape)
    graph.register_initializer(value)
    return value


def add(graph, node, op, *inputs, **attributes):
    """Put a new node before another and return its output."""
    made = ir.Node("", op, inputs, ir.convenience.convert_attributes(attributes))
    made.outputs[0].name = f"{node.outputs[0].name}.{op}"
    made.name = f"{graph.name}.{node.outputs[0].name}.{op}.node"
    graph.insert_before(node, made)
    return made.outputs[0]


def replace(graph, node, spoil, model):
    old = node.outputs[0]
    zero = initializer(graph, f"{old.name}.zero", np.zeros((), np.float32))
    new = add(graph, node, "Max", node.inputs[0], zero)
    if spoil is not None:
        new = spoil(model, graph, node, new)
    name, old.name = old.name, f"{old.name}.old"
    if new.name != f"{name}.renamed":
        new.name = name
    new.type, new.shape = new.type or old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
