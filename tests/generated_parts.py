"""The parts of generated graphs: each reads values of the common shape and gives one more."""

import math

from tests.generated import CODES, WIDTH
from tests.generated_attention import attention, linear, shaped

UNARY = ("Relu", "Neg", "Sin", "Tanh", "Sigmoid", "Identity", "Dropout")
BINARY = ("Add", "Mul", "Sub", "Max")


def unary(to):
    to.give(to.node(f"{to.pick(*UNARY)}({to.value()})"))


def binary(to):
    other = to.value() if to.chance(2) else to.constant()
    to.give(to.either(to.pick(*BINARY), to.value(), other))


def mean(to, x):
    """A mean over the last axis, or now and then over another one."""
    axis = to.near(to.pick(-1, 2), 1)
    return to.node(f"ReduceMean<keepdims = 1>({x}, {to.whole(axis)})")


def root(to, x):
    """``sqrt(mean(x**2) + epsilon)``."""
    if to.chance(2):
        square = to.node(f"Mul({x}, {x})", wide=True)
    else:
        square = to.node(f"Pow({x}, {to.scalar(to.near(2.0, 4.0))})", wide=True)
    return to.node(f"Sqrt({to.either('Add', mean(to, square), to.scalar(1e-5), wide=False)})")


def divided(to, x, by):
    if to.chance(2):
        return to.node(f"Div({x}, {by})", wide=True)
    return to.either("Mul", x, to.node(f"Reciprocal({by})"))


def layer_norm(to):
    x = to.value()
    centred = to.node(f"Sub({x}, {mean(to, x)})", wide=True)
    again = centred if to.chance(2) else to.node(f"Sub({x}, {mean(to, x)})")
    normal = to.node(f"Div({centred}, {root(to, again)})", wide=True)
    scaled = to.either("Mul", normal, to.weight(to.near([WIDTH], [1])))
    to.give(to.either("Add", scaled, to.weight(to.near([WIDTH], [1, 1, WIDTH]))))


def rms_norm(to):
    x = to.value()
    normal = divided(to, x, root(to, x))
    scaled = to.either("Mul", normal, to.weight(to.near([WIDTH], [1])))
    to.give(scaled if not to.chance(8) else to.either("Mul", scaled, to.scalar(0.5)))


def gelu(to):
    """With the error function, factors bracketed in some way."""
    x = to.value()
    if to.chance(2):
        inner = to.node(f"Div({x}, {to.scalar(to.near(math.sqrt(2), 1.4))})", wide=True)
    else:
        inner = to.either("Mul", x, to.scalar(to.near(math.sqrt(0.5), 0.7)))
    gate = to.either("Add", to.node(f"Erf({inner})", wide=True), to.scalar(to.near(1.0, 0.5)))
    half = to.scalar(to.near(0.5, 0.25))
    if to.chance(2):
        to.give(to.either("Mul", to.either("Mul", x, gate), half))
    else:
        to.give(to.either("Mul", to.either("Mul", x, half), gate))


def gelu_tanh(to):
    x = to.value()
    if to.chance(2):
        cube = to.node(f"Pow({x}, {to.scalar(to.near(3.0, 2.0))})", wide=True)
    else:
        cube = to.either("Mul", to.either("Mul", x, x), x)
    total = to.either("Add", x, to.either("Mul", cube, to.scalar(to.near(0.044715, 0.045))))
    inner = to.either("Mul", total, to.scalar(math.sqrt(2 / math.pi)))
    gate = to.either("Add", to.node(f"Tanh({inner})", wide=True), to.scalar(1.0))
    to.give(to.either("Mul", to.either("Mul", x, to.scalar(0.5)), gate))


def linears(to):
    """Two layers with nothing between; of low rank now and then, which is cheaper as it is."""
    between = to.pick(8, 8, 1)
    first = linear(to, to.value(), bias=to.chance(2), columns=between)
    to.give(linear(to, first, bias=to.chance(2), rows=between))


def layer_scale(to):
    total = linear(to, to.value())
    to.give(to.either("Mul", total, to.weight(to.pick([WIDTH], [WIDTH], [WIDTH], [1], [1, 1, WIDTH]))))


def einsum(to):
    """Products with weights, between values, and what is no matrix product."""
    x, other = to.value(), to.value()
    equation, operands = to.pick(
        ("bsk,kj->bsj", (x, to.weight([WIDTH, WIDTH]))),
        ("bsk,jk->bsj", (x, to.weight([WIDTH, WIDTH]))),
        ("bsk,bsk->bsk", (x, other)),
        ("bsk,k->bsk", (x, to.weight([WIDTH]))),
        ("bsk->bsk", (x,)),
        ("b...k,kj->b...j", (x, to.weight([WIDTH, WIDTH]))),
    )
    to.give(to.node(f'Einsum<equation = "{equation}">({", ".join(operands)})'))


def pairs(to):
    """Every pair of positions, as an Evoformer has them, and back by a mean."""
    product = to.node(f'Einsum<equation = "bsk,btk->bst">({to.value()}, {to.value()})')
    to.give(to.node(f'Einsum<equation = "bst,btj->bsj">({to.node(f"Tanh({product})")}, {to.value()})'))


def convolution(to):
    """Channels first, a convolution and a batch normalization, and back."""
    x = to.node(f"Transpose<perm = [0, 2, 1]>({to.value()})")
    if to.chance(3):  # a scale and a shift before it
        x = to.node(f"Mul({x}, {to.weight([1, WIDTH, 1])})")
        x = to.node(f"Add({x}, {to.weight([1, WIDTH, 1])})") if to.chance(2) else x
    kernel = to.pick(1, 3)
    pads = f"pads = [{kernel // 2}, {kernel // 2}]"
    bias = f", {to.weight([WIDTH])}" if to.chance(2) else ""
    if to.chance(3):
        made = to.node(f"ConvTranspose<{pads}>({x}, {to.weight([WIDTH, WIDTH, kernel])}{bias})")
    else:
        group = to.pick(1, 2, WIDTH)
        weight = to.weight([WIDTH, WIDTH // group, kernel])
        made = to.node(f"Conv<{pads}, group = {group}>({x}, {weight}{bias})")
    variance = to.weight([WIDTH], [0.5, 1.0, 2.0, 0.25])
    statistics = ", ".join([to.weight([WIDTH]), to.weight([WIDTH]), to.weight([WIDTH]), variance])
    normal = to.node(f"BatchNormalization({made}, {statistics})")
    to.give(to.node(f"Transpose<perm = [0, 2, 1]>({normal})"))


def group_norm(to):
    """As one operator where the opset has it by channel, else as an instance normalization of the groups."""
    x = to.op("Transpose", to.value(), perm=[0, 2, 1])
    if to.opset >= 21:
        made = to.op("GroupNormalization", x, to.weight([WIDTH]), to.weight([WIDTH]), num_groups=2)
    else:
        grouped = to.op("Reshape", x, to.whole(0, 2, -1))
        normal = to.op("InstanceNormalization", grouped, to.weight([2], [1.0, 1.0]), to.weight([2], [0.0, 0.0]))
        made = to.op("Reshape", normal, to.op("Shape", x))
    to.give(to.op("Transpose", made, perm=[0, 2, 1]))


def transposes(to):
    """Two that may undo each other, the value between them read twice now and then."""
    first, second = to.pick(([0, 2, 1], [0, 2, 1]), ([1, 2, 0], [2, 0, 1]), ([2, 0, 1], [1, 2, 0]))
    between = to.node(f"Transpose<perm = {first}>({to.value()})")
    if to.chance(4):
        between = to.node(f"Tanh({between})")
    after = to.node(f"Transpose<perm = {second}>({between})")
    if to.chance(5):
        after = to.node(f"Add({after}, {to.node(f'Transpose<perm = {second}>({between})')})")
    to.give(after)


def sequence(to):
    """Halves that are taken out of a sequence and change places."""
    axis, size = to.pick(2, -1), to.weight([], [WIDTH // 2], "int64")
    parts = to.node(f"SplitToSequence<axis = {axis}>({to.value()}, {size})")
    places = [to.weight([], [place], "int64") for place in to.pick((0, 1), (0, -1), (-2, 1))]
    first, second = (to.node(f"SequenceAt({parts}, {place})") for place in places)
    to.give(to.node(f"Concat<axis = 2>({to.node(f'Neg({second})')}, {to.near(first, second)})"))


def casts(to):
    """To another dtype and back, and to its own."""
    kind = to.pick("float", "double", "double", "float16")
    there = to.node(f"Cast<to = {CODES[kind]}>({to.value()})")
    if to.chance(4):
        there = to.node(f"Neg({there})")
    to.give(to.node(f"Cast<to = 1>({there})"))


def other_kind(to):
    """Another part in double or in float16, between two casts."""
    kind = to.pick("double", "double", "float16")
    parts = (layer_norm, rms_norm, gelu_tanh, layer_scale, transposes) if kind == "double" else (unary, binary)
    x = to.node(f"Cast<to = {CODES[kind]}>({to.value()})")
    values, to.values, to.kind = to.values, [x], kind
    to.pick(*parts)(to)
    last, to.values, to.kind = to.values[-1], values, "float"
    to.give(to.node(f"Cast<to = 1>({last})"))


def twice(to):
    """The same computed twice, from weights that are equal or one."""
    x, numbers = to.value(), [0.5, -0.0, 0.0, 2.0]
    first = to.weight([WIDTH], numbers)
    second = first if to.chance(2) else to.weight([WIDTH], to.near(numbers, [0.5, 0.0, 0.0, 2.0]))
    sides = [to.node(f"Sin({to.node(f'Mul({x}, {weight})')})", wide=True) for weight in (first, second)]
    to.give(to.either("Add", *sides))


def constants(to):
    """A chain of constants that ends at the values, in the ways that files hold them."""
    made = to.pick(
        f"Expand({to.weight([1])}, {to.whole(WIDTH)})",
        f"Concat<axis = 0>({to.weight([1])}, {to.weight([3])})",
        f"MatMul({to.weight([WIDTH])}, {to.weight([WIDTH, WIDTH])})",
        "Constant<value = float[4] {1.0, -2.0, 0.5, 0.0}>()",
        f"Reshape({to.weight([2, 2])}, {to.whole(-1)})",
    )
    to.give(to.either(to.pick("Add", "Mul"), to.value(), to.node(made)))


def sizes(to):
    """Numbers that follow from the shape."""
    shape = to.node(f"Shape<start = {to.draw.randrange(3)}>({to.value()})")
    total = to.node(f"ReduceProd<keepdims = 0>({shape})")
    size = to.node(f"Cast<to = 1>({total})")
    if to.chance(2):
        size = to.node(f"Cast<to = 1>({to.node(f'Cast<to = {to.pick(6, 7)}>({size})')})")
    to.give(to.either("Add", to.value(), to.node(f"Div({to.scalar(1.0)}, {size})")))


def empty(to):
    """A piece without elements is put beside the values."""
    x = to.value()
    none = to.node(f"Slice({x}, {to.whole(0)}, {to.whole(0)}, {to.whole(1)})")
    to.give(to.node(f"Concat<axis = 1>({x}, {none})"))


def reciprocal(to):
    below = to.either("Add", to.node(f"Exp({to.value()})"), to.scalar(1.0))
    if to.chance(6):
        below = to.weight([WIDTH], [1.0, 2.0, 4.0, 0.5])
    to.give(divided(to, to.value(), below))


def recurrent(to):
    """A recurrent layer along the batch, its states zeros of any size as exporters write them, or now and then not."""
    x, kind = to.value(), to.pick("LSTM", "GRU", "RNN")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * WIDTH
    columns = to.node(f"Slice({to.node(f'Shape({x})')}, {to.whole(1)}, {to.whole(2)})")
    sizes = to.node(f"Concat<axis = 0>({to.whole(1)}, {columns}, {to.whole(WIDTH)})")
    state = to.node(f"Expand({to.weight([], [to.near(0.0, 0.5)])}, {sizes})")
    states = ", ".join([state] * (2 if kind == "LSTM" else 1))
    weights = ", ".join(to.weight([1, gates, WIDTH]) for _ in range(2))
    made = to.node(f"{kind}<hidden_size = {WIDTH}>({x}, {weights}, , , {states})")
    if to.chance(2):
        to.give(to.node(f"Squeeze({made}, {to.whole(1)})"))
    else:
        turned = to.node(f"Transpose<perm = [0, 2, 1, 3]>({made})")
        to.give(to.node(f"Reshape({turned}, {shaped(to, x, WIDTH)})"))


def branch(to):
    """An If whose branches use the same names, read values outside, and hold weights of their own."""
    condition = "flag" if to.chance(2) else to.weight([], [to.draw.randrange(2)], "bool")
    outer, fixed = to.value(), to.weight([WIDTH])
    inner = to.name("p")
    first = to.pick(
        f"a_{inner} = Exp({fixed}) {inner} = Add({outer}, a_{inner})",
        f"{inner} = Identity({outer})",
        f"a_{inner} = Neg({outer}) b_{inner} = Identity(a_{inner}) {inner} = Mul(b_{inner}, k_{inner})",
        f"a_{inner} = Transpose<perm = [0, 2, 1]>({outer}) {inner} = Transpose<perm = [0, 2, 1]>(a_{inner})",
    )
    second = to.pick(
        f"a_{inner} = Relu({outer}) b_{inner} = Relu({outer}) {inner} = Add(a_{inner}, b_{inner})",
        f"{inner} = Sub({outer}, {fixed})",
        f"a_{inner} = Exp({outer}) b_{inner} = Reciprocal(a_{inner}) {inner} = Mul({outer}, b_{inner})",
    )
    weights = f"<float[4] k_{inner} = {{1, 2, 0.5, -1}}>"
    to.give(
        to.node(
            f"If({condition}) <then_branch = t () => (float[batch,seq,4] {inner}) {weights} {{ {first} }}, "
            f"else_branch = e () => (float[batch,seq,4] {inner}) {{ {second} }}>"
        )
    )


def loop(to):
    body, fixed = to.name("i"), to.constant()
    trips, go = to.weight([], [2], "int64"), to.weight([], [1], "bool")
    to.give(
        to.node(
            f"Loop({trips}, {go}, {to.value()}) "
            f"<body = b (int64 n_{body}, bool g_{body}, float[batch,seq,4] s_{body}) => "
            f"(bool h_{body}, float[batch,seq,4] o_{body}) {{ c_{body} = Tanh({fixed}) "
            f"d_{body} = Mul(s_{body}, c_{body}) o_{body} = Sin(d_{body}) h_{body} = Identity(g_{body}) }}>"
        )
    )


PARTS = (
    unary, unary, unary, binary, binary, layer_norm, rms_norm, gelu, gelu_tanh, layer_scale, linears, attention,
    attention, einsum, pairs, convolution, group_norm, transposes, casts, other_kind, twice, constants, sizes,
    empty, reciprocal, recurrent, branch, loop, sequence,
)  # fmt: skip
