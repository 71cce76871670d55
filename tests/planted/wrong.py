"""Passes that are wrong at one site, each in another way."""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tests.planted.relu_to_max import ReluToMax, add, initializer

COUNT = itertools.count(1)


@dataclass(frozen=True)
class WrongNumber(ReluToMax):
    """Two percent too large."""

    factor: float = 1.02

    def spoil(self, model, graph, node, value):
        factor = initializer(graph, f"{node.outputs[0].name}.factor", np.array(self.factor, np.float32))
        return add(graph, node, "Mul", value, factor)


@dataclass(frozen=True)
class WrongElsewhere(WrongNumber):
    """Two percent too large wherever the site is not ``at``."""

    def spoils(self, site):
        return site != self.at


@dataclass(frozen=True)
class Slightly(WrongNumber):
    """Wrong by a tenth of what the pass says that it may be."""

    factor: float = 1 + ReluToMax.tolerance / 10


@dataclass(frozen=True)
class Shifted(ReluToMax):
    """Off by 0.02, which a mask does not feel."""

    def spoil(self, model, graph, node, value):
        shift = initializer(graph, f"{node.outputs[0].name}.shift", np.array(0.02, np.float32))
        return add(graph, node, "Add", value, shift)


@dataclass(frozen=True)
class RenamedOutput(ReluToMax):
    """The output of the graph gets another name."""

    def spoil(self, model, graph, node, value):
        value.name = f"{node.outputs[0].name}.renamed"
        return value


@dataclass(frozen=True)
class WrongType(ReluToMax):
    """The value becomes a double."""

    def spoil(self, model, graph, node, value):
        double = add(graph, node, "Cast", value, to=int(ir.DataType.DOUBLE))
        double.type = ir.TensorType(ir.DataType.DOUBLE)
        return double


@dataclass(frozen=True)
class BrokenSubgraph(ReluToMax):
    """A node in the branch reads what belongs to no graph any more."""

    def spoil(self, model, graph, node, value):
        lost = ir.Node("", "Identity", [node.inputs[0]])
        lost.outputs[0].name = "lost"
        return add(graph, node, "Add", value, lost.outputs[0])


@dataclass(frozen=True)
class DroppedInitializer(ReluToMax):
    """An initializer that is still read is taken out of the graph."""

    def spoil(self, model, graph, node, value):
        factor = initializer(graph, f"{node.outputs[0].name}.factor", np.array(1.0, np.float32))
        graph.initializers.pop(factor.name)
        return add(graph, node, "Mul", value, factor)


@dataclass(frozen=True)
class InPlaceEdit(ReluToMax):
    """A weight, ``weight``, is doubled where it lies."""

    weight: str = "w"

    def spoil(self, model, graph, node, value):
        array = model.graph.initializers[self.weight].const_value.numpy()
        array *= 2
        return value


@dataclass(frozen=True)
class SlyInPlaceEdit(InPlaceEdit):
    """The same, with the lock taken off first."""

    def spoil(self, model, graph, node, value):
        array = model.graph.initializers[self.weight].const_value.numpy()
        array.setflags(write=True)
        array *= 2
        return value


@dataclass(frozen=True)
class Nondeterministic(ReluToMax):
    """Each application adds another number, far below any tolerance."""

    def spoil(self, model, graph, node, value):
        noise = initializer(graph, f"{node.outputs[0].name}.noise", np.array(next(COUNT) * 1e-12, np.float32))
        return add(graph, node, "Add", value, noise)


@dataclass(frozen=True)
class Raises(ReluToMax):
    """The pass fails."""

    def spoil(self, model, graph, node, value):
        raise RuntimeError("no such node")


@dataclass(frozen=True)
class Silent(WrongNumber):
    """Wrong at a site that it does not name, and that it changes whatever it is told."""

    def apply(self, model, ctx):
        from mlc.graph_pass import Change, Context

        change = super().apply(model, Context(ctx.capabilities))
        return Change(tuple(site for site in change.sites if site != self.at and ctx.allow(site)))
