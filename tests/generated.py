"""Random small graphs for hypothesis: rows of three floats, constants, branches, and what files in the wild hold."""

from hypothesis import strategies as st

from tests.graphs import graph

UNARY = ("Relu", "Neg", "Sin", "Tanh", "Identity", "Dropout", "Sigmoid")
BINARY = ("Add", "Mul", "Sub", "Max")
SHAPES = {"row": "[3]", "square": "[3,3]", "one": ""}


class Drawn:
    """A graph as it grows: lines of ONNX text, and the values that later lines may read."""

    def __init__(self, draw):
        self.draw = draw
        self.count = 0
        self.lines = []
        self.rows = ["x"]
        self.constants: dict[str, list[str]] = {kind: [] for kind in SHAPES}
        self.weights = []
        self.overridable = []

    def name(self, start):
        self.count += 1
        return f"{start}{self.count}"

    def pick(self, values):
        return self.draw(st.sampled_from(values))

    def number(self):
        return self.draw(st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.5]))

    def weight(self, kind, values=None):
        name = self.name("w")
        size = {"row": 3, "square": 9, "one": 1}[kind]
        numbers = values or [self.number() for _ in range(size)]
        self.weights.append(f"float{SHAPES[kind]} {name} = {{{','.join(map(str, numbers))}}}")
        self.constants[kind].append(name)
        if self.draw(st.integers(0, 7)) == 0:
            self.overridable.append(f"float{SHAPES[kind]} {name}")
        return name

    def constant(self, kind):
        """A constant of some kind: a known one, a new weight, a Constant node, or computed from constants."""
        way = self.draw(st.integers(0, 3))
        known = self.constants[kind]
        if way == 0 and known:
            return self.pick(known)
        if way == 1 and kind == "row":
            name = self.name("k")
            numbers = ", ".join(str(self.number()) for _ in range(3))
            self.lines.append(f"{name} = Constant<value_floats = [{numbers}]>()")
            known.append(name)
            return name
        if way == 2 and known:
            name = self.name("f")
            self.lines.append(f"{name} = {self.pick(UNARY)}({self.pick(known)})")
            known.append(name)
            return name
        return self.weight(kind)

    def row(self):
        return self.pick(self.rows[-4:])

    def add(self, line, name):
        self.lines.append(f"{name} = {line}")
        self.rows.append(name)


def unary(to):
    to.add(f"{to.pick(UNARY)}({to.row()})", to.name("u"))


def binary(to):
    other = to.row() if to.draw(st.booleans()) else to.constant(to.pick(["row", "one"]))
    pair = to.draw(st.permutations([to.row(), other]))
    to.add(f"{to.pick(BINARY)}({', '.join(pair)})", to.name("b"))


def linear(to):
    """What FoldLayerScale looks for, mostly."""
    product, total = to.name("m"), to.name("s")
    to.add(f"MatMul({to.row()}, {to.constant('square')})", product)
    to.add(f"Add({', '.join(to.draw(st.permutations([product, to.constant('row')])))})", total)
    to.add(f"Mul({', '.join(to.draw(st.permutations([total, to.constant('row')])))})", to.name("l"))


def einsum(to):
    equation = to.pick(["nk,kj->nj", "nk,jk->nj", "nk,kj->nj"])
    to.add(f'Einsum<equation = "{equation}">({to.row()}, {to.constant("square")})', to.name("e"))


def convolution(to):
    """What FoldBatchNorm looks for: rows as images of one channel, and back."""
    image, conv, normal, name = (to.name(start) for start in ("i", "c", "n", "v"))
    axes, kernel = to.name("a"), to.name("w")
    to.weights += [f"int64[2] {axes} = {{1,3}}", f"float[1,1,1,1] {kernel} = {{{to.number()}}}"]
    statistics = []
    for numbers in ([to.number()], [to.number()], [to.number()], [0.5]):
        statistics.append(to.name("w"))
        to.weights.append(f"float[1] {statistics[-1]} = {{{numbers[0]}}}")
    to.lines += [
        f"{image} = Unsqueeze({to.row()}, {axes})",
        f"{conv} = Conv({image}, {kernel})",
        f"{normal} = BatchNormalization({conv}, {', '.join(statistics)})",
    ]
    to.add(f"Squeeze({normal}, {axes})", name)


def shape(to):
    name = to.name("z")
    to.lines.append(f"{name} = Shape<start = {to.draw(st.integers(0, 1))}>({to.row()})")
    if to.draw(st.booleans()):
        copy = to.name("z")
        to.lines.append(f"{copy} = Cast<to = 1>({name})")
        total = to.name("z")
        to.lines.append(f"{total} = ReduceSum<keepdims = 0>({copy})")
        to.add(f"Add({to.row()}, {total})", to.name("b"))


def branch(to):
    """An If whose branches use the same names, read values outside, and hold weights of their own."""
    known = to.draw(st.booleans())
    condition = "flag"
    if known:
        condition = to.name("q")
        to.weights.append(f"bool {condition} = {{{to.draw(st.integers(0, 1))}}}")
    outer, fixed = to.row(), to.constant("row")
    inner = f"p{to.count}"
    first = to.pick(
        [f"a_{inner} = Exp({fixed}) {inner} = Add({outer}, a_{inner})", f"{inner} = Identity({outer})",
         f"a_{inner} = Neg({outer}) b_{inner} = Identity(a_{inner}) {inner} = Mul(b_{inner}, k_{inner})"]
    )  # fmt: skip
    second = to.pick(
        [f"a_{inner} = Relu({outer}) {inner} = Add(a_{inner}, a_{inner})", f"{inner} = Sub({outer}, {fixed})"]
    )
    weights = f"<float[3] k_{inner} = {{1,2,{to.number()}}}>"
    to.add(
        f"If({condition}) <then_branch = t () => (float[n,3] {inner}) {weights} {{ {first} }}, "
        f"else_branch = e () => (float[n,3] {inner}) {{ {second} }}>",
        to.name("y"),
    )


def loop(to):
    name, body = to.name("y"), to.name("i")
    trips, go = to.name("w"), to.name("w")
    to.weights += [f"int64 {trips} = {{2}}", f"bool {go} = {{1}}"]
    fixed = to.constant("row")
    to.add(
        f"Loop({trips}, {go}, {to.row()}) <body = b (int64 n_{body}, bool g_{body}, float[n,3] s_{body}) => "
        f"(bool h_{body}, float[n,3] o_{body}) {{ c_{body} = Tanh({fixed}) d_{body} = Mul(s_{body}, c_{body}) "
        f"o_{body} = Sin(d_{body}) h_{body} = Identity(g_{body}) }}>",
        name,
    )


PARTS = (unary, unary, binary, binary, linear, einsum, convolution, shape, branch, loop)


@st.composite
def graphs(draw):
    """A model with the inputs x (float [n, 3]) and flag (bool), some weights overridable, and one to three outputs."""
    to = Drawn(draw)
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=7)):
        part(to)
    outputs = draw(st.lists(st.sampled_from(to.rows), min_size=1, max_size=3, unique=True))
    rest = [name for name in to.constants["row"] if draw(st.integers(0, 9)) == 0][:1]
    declared = ", ".join([*(f"float[n,3] {name}" for name in outputs), *(f"float[3] {name}" for name in rest)])
    inputs = ", ".join(["float[n,3] x", "bool flag", *dict.fromkeys(to.overridable)])
    weights = f"<{', '.join(to.weights)}>" if to.weights else ""
    return graph(f"g ({inputs}) => ({declared}) {weights} {{\n" + "\n".join(to.lines) + "\n}")
