"""Random small graphs by seed, put together from what passes look for, as exporters and other tools write it.

Every part reads values of float32 [batch, seq, 4] and gives one more; what stands inside a part is offered to later
parts too, and may be an output of the graph.
"""

import random as draws

import numpy as np

from mlc.fusion import infer_shapes
from mlc.types import Dim
from tests.graphs import graph

WIDTH = 4
SIZES = (Dim(1, 64, name="batch"), Dim(1, 64, name="seq"))
CODES = {"float": 1, "double": 11, "float16": 10}


class Drawn:
    """A graph as it grows: lines of ONNX text, its weights, and the values that later parts may read."""

    def __init__(self, seed):
        self.draw = draws.Random(seed)  # noqa: S311
        self.opset = self.pick(18, 20, 21, 23, 23, 23)
        self.count = 0
        self.kind = "float"
        self.lines = []
        self.values = ["x"]
        self.weights = []
        self.overridable = []

    def chance(self, one_in):
        return self.draw.randrange(one_in) == 0

    def pick(self, *choices):
        return self.draw.choice(choices)

    def name(self, start="v"):
        self.count += 1
        return f"{start}{self.count}"

    def value(self):
        """One of the last values of the common shape: sharing comes by itself."""
        return self.pick(*self.values[-3:])

    def node(self, text, *, wide=False):
        """Add a node; a ``wide`` one has the common shape, so that something else may read it too."""
        name = self.name()
        self.lines.append(f"{name} = {text}")
        if wide and self.kind == "float" and self.chance(12):
            self.values.insert(-1, name)
        return name

    def op(self, operator, *inputs, **attributes):
        """Add a node of its inputs and whole attributes."""
        given = ", ".join(f"{name} = {value}" for name, value in attributes.items())
        return self.node(f"{operator}<{given}>({', '.join(inputs)})" if given else f"{operator}({', '.join(inputs)})")

    def give(self, name):
        self.values.append(name)

    def near(self, number, other):
        """A number as a pass knows it, or now and then one that only looks like it."""
        return other if self.chance(10) else number

    def weight(self, dims, numbers=None, kind=None):
        """An initializer, one in thirty also an input that a caller may override."""
        name, kind = self.name("w"), kind or self.kind
        size = int(np.prod(dims, dtype=int))
        drawn = [round(self.draw.uniform(-1.5, 1.5), 2) for _ in range(size)] if numbers is None else numbers
        if kind == "float16":  # the text of ONNX has no numbers of it
            return self.node(f"Cast<to = {CODES[kind]}>({self.weight(dims, drawn, 'float')})")
        typed = f"{kind}[{','.join(map(str, dims))}]" if len(dims) else kind
        self.weights.append(f"{typed} {name} = {{{','.join(map(repr, drawn))}}}")
        if kind == "float" and size and self.chance(30):
            self.overridable.append(f"{typed} {name}")
        return name

    def whole(self, *numbers):
        """A vector of int64: an initializer or a Constant node."""
        if self.chance(3):
            return self.node(f"Constant<value_ints = [{', '.join(map(str, numbers))}]>()")
        return self.weight([len(numbers)], numbers, "int64")

    def scalar(self, number):
        """A number in one of the ways that files hold it."""
        way = self.draw.randrange(4)
        if way == 0 and self.kind == "float":
            return self.node(f"Constant<value_float = {number!r}>()")
        if way == 1:
            return self.weight([1], [number])
        if way == 2 and self.kind == "float":
            return self.node(f"Constant<value_floats = [{number!r}]>()")
        return self.weight([], [number])

    def constant(self):
        """Something constant that broadcasts to the common shape, computed from others now and then."""
        made = self.weight(self.pick([WIDTH], [WIDTH], [1, 1, WIDTH], [1], []))
        return self.node(f"{self.pick('Exp', 'Neg', 'Identity')}({made})") if self.chance(4) else made

    def either(self, operator, first, second, *, wide=True):
        """A commutative operator with its operands in any order."""
        pair = [first, second]
        self.draw.shuffle(pair)
        return self.node(f"{operator}({', '.join(pair)})", wide=wide)


def generated(seed):
    """A model with the inputs x, flag and mask, some weights overridable, and one to three outputs."""
    from tests.generated_parts import PARTS

    to = Drawn(seed)
    for part in to.draw.choices(PARTS, k=to.draw.randint(1, 3)):
        part(to)
    inputs = ", ".join(["float[batch,seq,4] x", "bool flag", "bool[seq,seq] mask", *to.overridable])
    weights = f"<{', '.join(to.weights)}>" if to.weights else ""
    header = f'<ir_version: {to.pick(8, 10)}, opset_import: ["": {to.opset}]>\n'
    last = to.values[-1]
    body = "\n".join(to.lines)
    model = graph(f"{header}g ({inputs}) => (float[batch,seq,4] {last}) {weights} {{\n{body}\n}}")
    _choose_outputs(to, model)
    _name_nodes(to, model)
    return model


def _choose_outputs(to, model):
    """Let some values inside be outputs too."""
    infer_shapes(model)
    inside = [
        value
        for node in model.graph
        for value in node.outputs
        if value.shape is not None and value.dtype is not None and not value.is_graph_output()
    ]
    for value in to.draw.sample(inside, min(len(inside), to.pick(0, 0, 1, 2))):
        model.graph.outputs.append(value)


def _name_nodes(to, model):
    """Nodes have no names, names that those of a subgraph have too, or names of their own."""
    way = to.draw.randrange(3)
    for place, each in enumerate(model.graphs()):
        for number, node in enumerate(each):
            node.name = (None, f"node_{number}", f"node_{place}_{number}")[way]


def fed(seed, batch, seq):
    """Inputs of one size: no row of the mask is wholly false."""
    rng = np.random.default_rng([seed, batch, seq])
    mask = (rng.random((seq, seq)) < 0.6) | np.eye(seq, dtype=bool)
    x = rng.standard_normal((batch, seq, WIDTH)).astype(np.float32)
    return {"x": x, "flag": np.array(bool(rng.integers(2))), "mask": mask}
