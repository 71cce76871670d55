"""Attention in generated graphs: by head, packed, grouped, rotated, masked, guarded, as exporters write it."""

import math

from tests.generated import WIDTH


def linear(to, x, *, bias=True, rows=WIDTH, columns=WIDTH):
    product = to.node(f"MatMul({x}, {to.weight([rows, columns])})", wide=columns == WIDTH)
    return to.either("Add", product, to.weight([columns]), wide=columns == WIDTH) if bias else product


def attention(to):
    x = to.value()
    if to.chance(3):
        query, key, value = packed(to, x)
    else:
        query = heads(to, linear(to, x, bias=not to.chance(4)))
        grouped = not to.chance(3)
        key, value = (repeated(to, x) if grouped else heads(to, linear(to, x)) for _ in range(2))
    if to.chance(3):
        angles = positions(to, x)
        query, key = rotated(to, query, angles), rotated(to, key, angles)
    weights = to.op("Softmax", masked(to, scores(to, query, to.op("Transpose", key, perm=[0, 1, 3, 2]))), axis=-1)
    if to.chance(2):
        nothing = to.weight([], [to.near(0.0, 1.0)])
        weights = to.op("Where", to.op("IsNaN", weights), nothing, weights)
    mixed = to.op("Transpose", to.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    to.give(linear(to, to.op("Reshape", mixed, shaped(to, x, WIDTH))))


def scores(to, query, turned):
    """With the scale behind the product, or its root before on both sides."""
    if to.chance(2):
        return to.op("Mul", to.op("MatMul", query, turned), to.scalar(math.sqrt(0.5)))
    scale = to.scalar(math.sqrt(math.sqrt(0.5)))
    return to.op("MatMul", to.op("Mul", query, scale), to.op("Mul", turned, scale))


def masked(to, scores):
    """With a mask of the lowest float, which leaves a guard nothing to do, or of -inf, or with none."""
    way = to.draw.randrange(4)
    if way == 0:
        return scores
    low = to.op("Neg", to.op("Reciprocal", to.weight([], [0.0]))) if way == 1 else to.weight([], [-3.4028234e38])
    return to.op("Add", scores, to.op("Where", "mask", to.weight([], [0.0]), low))


def shaped(to, x, *rest):
    """The target of a Reshape that keeps batch and seq: a constant, or put together as exporters do."""
    if to.chance(2):
        return to.whole(0, 0, *rest)
    shape = to.op("Shape", x)
    kept = [to.op("Gather", shape, to.whole(axis)) for axis in (0, 1)]
    return to.op("Concat", *kept, *map(to.whole, rest), axis=0)


def heads(to, x, count=2):
    """[batch, seq, count * 2] to [batch, count, seq, 2]."""
    return to.op("Transpose", to.op("Reshape", x, shaped(to, x, count, 2)), perm=[0, 2, 1, 3])


def packed(to, x):
    """Queries, keys and values by head out of one projection."""
    whole = linear(to, x, columns=12)
    moved = to.op("Transpose", to.op("Reshape", whole, shaped(to, whole, 3, 2, 2)), perm=[2, 0, 3, 1, 4])
    if to.chance(2):
        return [to.op("Gather", moved, to.weight([], [part], "int64"), axis=0) for part in range(3)]
    slices = [to.op("Slice", moved, to.whole(part), to.whole(part + 1), to.whole(0)) for part in range(3)]
    return [to.op("Squeeze", part, to.whole(0)) for part in slices]


def repeated(to, x):
    """One head for both of the queries."""
    one = heads(to, linear(to, x, columns=2), 1)
    more = to.op("Expand", to.op("Unsqueeze", one, to.whole(2)), to.whole(1, 1, 2, 1, 1))
    shape = to.op("Shape", one)
    batch, seq = (to.op("Gather", shape, to.whole(axis)) for axis in (0, 2))
    return to.op("Reshape", more, to.op("Concat", batch, to.whole(2), seq, to.whole(2), axis=0))


def positions(to, x):
    """Angles [batch, 1, seq, 2], the same in both halves."""
    half = to.op("ReduceMean", x, to.whole(-1), keepdims=1)
    return to.op("Unsqueeze", to.op("Concat", half, half, axis=-1), to.whole(1))


def rotated(to, x, angles):
    """A rotary position embedding, half by half of the last axis, or both parts apart."""
    low, high = (to.op("Slice", x, to.whole(at), to.whole(at + 1), to.whole(3)) for at in (0, 1))
    if to.chance(2):
        return rotated_apart(to, low, high, to.op("Slice", angles, to.whole(0), to.whole(1), to.whole(3)))
    turned = to.op("Concat", to.op("Neg", high), to.near(low, high), axis=3)
    return to.op("Add", to.op("Mul", x, to.op("Cos", angles)), to.op("Mul", turned, to.op("Sin", angles)))


def rotated_apart(to, low, high, angles):
    """Joined as halves or as neighbours: of a single pair they are the same."""
    cos, sin = (to.op(name, angles) for name in ("Cos", "Sin"))
    less = to.op("Sub", to.op("Mul", low, cos), to.op("Mul", to.near(high, low), sin))
    more = to.either("Add", to.op("Mul", high, to.near(cos, sin)), to.op("Mul", low, sin))
    if to.chance(2):
        return to.op("Concat", less, more, axis=3)
    stacked = to.op("Concat", to.op("Unsqueeze", less, to.whole(4)), to.op("Unsqueeze", more, to.whole(-1)), axis=4)
    return to.op("Reshape", stacked, to.whole(0, 0, 0, 2))
