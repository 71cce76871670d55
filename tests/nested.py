"""Generated branches and loops inside of each other, as ONNX text: outer values and weights beside their own."""

import random as draws

COPYING = ("Identity", "Dropout", "Tanh", "Neg", "Relu")


def nested(seed, depth=2):
    """A graph float[n,3] x, bool flag -> y whose nodes lie in subgraphs up to ``depth`` deep.

    Sibling branches use the same names; what is outside is read at every depth.
    """
    draw = draws.Random(seed)  # noqa: S311
    weights = "float[3,3] w = {0.5,-0.3,0.6,0.5,0.1,0.4,-0.2,0.25,0.7}, "
    weights += "bool always = {1}, bool never = {0}, int64 trips = {2}"
    return f"""g (float[n,3] x, bool flag) => (float[n,3] y) <{weights}> {{
        o = MatMul(x, w)
        y = {_subgraph(draw, "o", depth)}
    }}"""


def _subgraph(draw, outer, depth):
    """An If or a Loop that gives one value of the common shape."""
    if draw.randrange(3):
        branches = ", ".join(
            f"{name} = {name[:4]} () => (float[n,3] c{depth}) {_weight(draw, depth)} {{ {_lines(draw, outer, depth)} }}"
            for name in ("then_branch", "else_branch")
        )
        return f"If({draw.choice(('flag', 'flag', 'always', 'never'))}) <{branches}>"
    state = f"s{depth}"
    taken = f"int64 i{depth}, bool g{depth}, float[n,3] {state}"
    lines = f"{_lines(draw, state, depth)} h{depth} = Identity(g{depth})"
    body = f"({taken}) => (bool h{depth}, float[n,3] c{depth}) {_weight(draw, depth)} {{ {lines} }}"
    return f"Loop(trips, always, {outer}) <body = body {body}>"


def _weight(draw, depth):
    return f"<float[3] k{depth} = {{{', '.join(str(draw.choice((-1.5, -0.5, 0.25))) for _ in range(3))}}}>"


def _lines(draw, outer, depth):
    """A weight folded, something computed twice or copied, and one more subgraph while there is depth left."""
    read = draw.choice((outer, "o", "x"))
    lines = f"""e{depth} = Exp(k{depth})
        a{depth} = {draw.choice(COPYING)}({outer})
        b{depth} = {draw.choice(COPYING)}({read})
        m{depth} = MatMul(b{depth}, w)
        t{depth} = Mul(a{depth}, e{depth})
        d{depth} = Add(t{depth}, m{depth})"""
    last = _subgraph(draw, f"d{depth}", depth - 1) if depth else f"Sin(d{depth})"
    return f"{lines}\n c{depth} = {last}"
