"""FuseRotaryEmbedding: golden graph, numbers of every way to write it, refusals, and what torch exports."""

import numpy as np
import onnx_ir as ir
import pytest

from passes.fold_reshapes import FoldReshapes
from passes.fuse_attention import FuseAttention
from passes.fuse_grouped_query import FuseGroupedQuery
from passes.fuse_rotary_embedding import FuseRotaryEmbedding
from tests.graphs import apply, graph, line, ops, random, same_numbers, text

pytestmark = pytest.mark.needs_onnxruntime

VERSION = '<ir_version: 10, opset_import: ["":23]>\n'
X, Y = "float[batch,3,len,6] x", "float[batch,3,len,6] y"
NUMBERS = """<int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at2 = {2}, int64[1] at3 = {3}, int64[1] at4 = {4},
    int64[1] at6 = {6}, int64[1] end = {9223372036854775807}, int64[1] last = {-1}, int64[2] both = {0,1},
    float factor = {1.5}, int64[3] twice = {1,1,2}, int64[3] thrice = {1,1,3}>"""
ANGLES = "w = Concat<axis = -1>(t, t) c = Cos(w) s = Sin(w)"
HEADS = "cos = Unsqueeze(c, at1) sin = Unsqueeze(s, at1)"
HALVES = "x1 = Slice(x, at0, at3, at3, at1) x2 = Slice(x, at3, end, at3, at1)"
TURNED = "n = Neg(x2) r = Concat<axis = -1>(n, x1)"
SUM = "a = Mul(x, cos) b = Mul(r, sin) y = Add(a, b)"
REPEATED = "w = Tile(t, twice) c = Cos(w) s = Sin(w)"
SCALED = "w = Concat<axis = 2>(t, t) u = Cos(w) c = Mul(u, factor) v = Sin(w) s = Div(v, factor)"
LATER = "o = Cos(t) c = Concat<axis = -1>(o, o) i = Sin(t) s = Concat<axis = -1>(i, i)"
FROM_THE_END = "x1 = Slice(x, at0, at3, last) x2 = Slice(x, at3, end, last)"
PLAIN = "cos = Identity(c) sin = Identity(s)"
FORMS = {
    "as torch writes it": ("float[1,len,3] t", ANGLES, HEADS, HALVES, SUM),
    "angles of each sample": ("float[batch,len,3] t", ANGLES, HEADS, HALVES, SUM),
    "one position for all": ("float[batch,1,3] t", ANGLES, HEADS, HALVES, SUM),
    "scaled": ("float[1,len,3] t", SCALED, HEADS, HALVES, SUM),
    "the other way round": (
        "float[1,len,3] t",
        ANGLES,
        HEADS,
        FROM_THE_END,
        "a = Mul(cos, x) b = Mul(sin, r) y = Add(b, a)",
    ),
    "split": ("float[1,len,3] t", ANGLES, HEADS, "x1, x2 = Split<axis = -1, num_outputs = 2>(x)", SUM),
    "two axes": ("float[len,3] t", ANGLES, PLAIN, HALVES, SUM),
    "four axes": ("float[batch,1,len,3] t", ANGLES, PLAIN, HALVES, SUM),
    "halves repeated": ("float[1,1,3] t", REPEATED, HEADS, HALVES, SUM),
    "halves put together later": ("float[1,len,3] t", LATER, HEADS, HALVES, SUM),
}


def model(angles, *parts, x=X, y=Y):
    halves = " ".join(parts[:-1])
    return graph(f"{VERSION} g ({x}, {angles}) => ({y}) {NUMBERS} {{ {halves} {TURNED} {parts[-1]} }}")


def feeds(sizes, angles):
    known = dict(zip(("batch", "len"), sizes, strict=True))
    axes = angles.removesuffix("] t").split("[")[1].split(",")
    return {
        "x": random(1, sizes[0], 3, sizes[1], 6),
        "t": 9 * random(2, *(known.get(axis) or int(axis) for axis in axes)),
    }


PAIRS = """x1 = Slice(x, at0, end, last, at2) x2 = Slice(x, at1, end, last, at2) c = Cos(t) s = Sin(t)
    a = Mul(x1, c) b = Mul(x2, s) d = Sub(a, b) e = Mul(x2, c) f = Mul(x1, s) h = Add(e, f)
    u = Unsqueeze(d, last) v = Unsqueeze(h, last) j = Concat<axis = -1>(u, v)"""


def by_pairs(*parts, given=X, gives=Y):
    numbers = NUMBERS.replace("<", "<int64[4] sizes = {0,0,0,6}, int64[2] parts = {6,2}, ")
    return graph(f"{VERSION} g ({given}, float[len,3] t) => ({gives}) {numbers} {{ {' '.join(parts)} }}")


def test_golden_of_pairs_side_by_side(golden):
    after, change = apply(FuseRotaryEmbedding(), by_pairs(PAIRS, "y = Reshape(j, sizes)"))
    assert change.sites == ("y",)
    golden("fuse_rotary_embedding_pairs.onnxtxt", text(after))


@pytest.mark.parametrize("sizes", [(1, 4), (5, 2)])
def test_a_part_whose_other_part_tells_sizes_alone(sizes, workspace):
    """The Split stays, since what it gives is rotated still."""
    before = by_pairs(
        "x, o = Split<axis = -1>(p, parts) l = Shape<end = 3>(o) k = Shape<start = 3>(x) m = Concat<axis = 0>(l, k)",
        PAIRS, "y = Reshape(j, m)", given="float[batch,3,len,8] p",
    )  # fmt: skip
    after, change = apply(FuseRotaryEmbedding(), before)
    assert (change.sites, ops(after).count("Split")) == (("y",), 1)
    fed = {"p": random(1, sizes[0], 3, sizes[1], 8), "t": 9 * random(2, sizes[1], 3)}
    same_numbers(before, after, fed, workspace, FuseRotaryEmbedding.tolerance)


def test_a_concat_that_tells_the_shape_alone_is_no_place(workspace):
    """It may stand before what is rotated comes about."""
    before = by_pairs("m = Concat<axis = 0>(at0, at0, at0, at6) x = Exp(p)", PAIRS, "y = Reshape(j, m)",
                      given="float[batch,3,len,6] p")  # fmt: skip
    after, change = apply(FuseRotaryEmbedding(), before)
    assert change.sites == ("y",)
    fed = {"p": random(1, 2, 3, 4, 6), "t": 9 * random(2, 4, 3)}
    same_numbers(before, after, fed, workspace, FuseRotaryEmbedding.tolerance)


def test_an_axis_of_heads_behind_the_length_that_nothing_else_has(workspace):
    before = by_pairs(
        "z = Unsqueeze(t, at1)", PAIRS.replace("Cos(t)", "Cos(z)").replace("Sin(t)", "Sin(z)"), "y = Reshape(j, sizes)",
        given="float[batch,len,3,6] x", gives="float[batch,len,3,6] y",
    )  # fmt: skip
    after, change = apply(FuseRotaryEmbedding(), before)
    assert (change.sites, "Sub" in ops(after)) == (("y",), False)
    for batch, length in ((2, 4), (3, 3)):
        fed = {"x": random(1, batch, length, 3, 6), "t": 9 * random(2, length, 3)}
        same_numbers(before, after, fed, workspace, FuseRotaryEmbedding.tolerance)


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0), (2, 3)])
def test_no_sample_or_no_position_before_the_heads_are_moved(sizes, workspace):
    before = by_pairs(
        "z = Unsqueeze(t, at1) x = Exp(p)", PAIRS.replace("Cos(t)", "Cos(z)").replace("Sin(t)", "Sin(z)"),
        "y = Reshape(j, sizes)", given="float[batch,len,3,6] p", gives="float[batch,len,3,6] y",
    )  # fmt: skip
    after, change = apply(FuseRotaryEmbedding(), before)
    assert change.sites == ("y",)
    fed = {"p": random(1, *sizes, 3, 6), "t": 9 * random(2, sizes[1], 3)}
    same_numbers(before, after, fed, workspace, FuseRotaryEmbedding.tolerance)


def test_parts_without_a_last_axis_are_none():
    """Their cosines stand one axis further left than those of x."""
    body = """x1 = Gather<axis = -1>(x, zero) x2 = Gather<axis = -1>(x, one) a = Mul(x1, c) b = Mul(x2, s) d = Sub(a, b)
        e = Mul(x2, c) f = Mul(x1, s) h = Add(e, f) u = Unsqueeze(d, last) v = Unsqueeze(h, last)
        j = Concat<axis = -1>(u, v) y = Reshape(j, sizes)"""
    given = "float[2,4,4,2] x, float[4,1] c, float[4,1] s"
    numbers = "<int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, int64[4] sizes = {2,4,4,2}>"
    _, change = apply(
        FuseRotaryEmbedding(), graph(f"{VERSION} g ({given}) => (float[2,4,4,2] y) {numbers} {{ {body} }}")
    )
    assert change.sites == ()


@pytest.mark.parametrize(
    "other", ["Expand(k, three)", "RandomNormal<shape = [2, 3, 4, 3]>()", "Constant<value_float = 2.0>()"]
)
def test_what_is_no_part_of_anything_is_no_site(other):
    body = f"""o = {other} a = Mul(x, c) b = Mul(o, s) d = Sub(a, b) e = Mul(o, c) f = Mul(x, s) h = Add(e, f)
        y = Concat<axis = -1>(d, h)"""
    given = "float[2,3,4,3] x, float k, float[4,3] c, float[4,3] s"
    made = graph(f"{VERSION} g ({given}) => (float[2,3,4,6] y) <int64[4] three = {{2,3,4,3}}> {{ {body} }}")
    if "Expand" not in other:
        made.graph.initializers.pop("three")
    _, change = apply(FuseRotaryEmbedding(), made)
    assert change.sites == ()


def test_what_is_repeated_three_times_has_no_equal_halves():
    _, heads, halves, total = FORMS["halves repeated"][1:]
    _, change = apply(
        FuseRotaryEmbedding(), model("float[1,1,2] t", REPEATED.replace("twice", "thrice"), heads, halves, total)
    )
    assert [refusal.reason for refusal in change.refused] == [
        "the two halves of the cosine are not known to be the same"
    ]


def test_golden(golden):
    after, change = apply(FuseRotaryEmbedding(), model(*FORMS["as torch writes it"]))
    assert change.sites == ("y",)
    golden("fuse_rotary_embedding.onnxtxt", text(after))


@pytest.mark.parametrize("sizes", [(1, 4), (5, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, sizes, workspace):
    before = model(*FORMS[form])
    after, change = apply(FuseRotaryEmbedding(), before)
    assert change.sites == ("y",)
    assert "Neg" not in ops(after)
    same_numbers(before, after, feeds(sizes, FORMS[form][0]), workspace, FuseRotaryEmbedding.tolerance)


def test_numbers_of_positions_looked_up_in_a_table(workspace):
    table = np.concatenate([random(7, 9, 3)] * 2, axis=-1)
    before = model("int64[batch,len] t", "c = Gather(cosines, t) s = Gather(cosines, t)", HEADS, HALVES, SUM)
    before.graph.register_initializer(table_of(before, table))
    after, change = apply(FuseRotaryEmbedding(), before)
    assert change.sites == ("y",)
    fed = {"x": random(1, 4, 3, 5, 6), "t": np.arange(20).reshape(4, 5) % 9}
    same_numbers(before, after, fed, workspace, FuseRotaryEmbedding.tolerance)


def test_a_table_of_other_halves_is_refused():
    before = model("int64[batch,len] t", "c = Gather(cosines, t) s = Gather(cosines, t)", HEADS, HALVES, SUM)
    before.graph.register_initializer(table_of(before, random(7, 9, 6)))
    _, change = apply(FuseRotaryEmbedding(), before)
    assert "the two halves of the cosine are not known to be the same" in change.refused[0].reason


def table_of(made, table):
    """The value that the lookups read, with its numbers."""
    value = next(node for node in made.graph if node.op_type == "Gather").inputs[0]
    value.const_value = ir.tensor(table.astype(np.float32))
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(table.shape)
    return value


LIKE_TORCH = FORMS["as torch writes it"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "x1 = Slice(x, at0, at3, at3, at1)",
            "x1 = Slice(x, at0, end, at3, at2)",
            "neither the two halves of the last axis nor",
        ),
        (
            "x2 = Slice(x, at3, end, at3, at1)",
            "x2 = Slice(x, at0, at3, at3, at1)",
            "neither the two halves of the last axis nor",
        ),
        ("w = Concat<axis = -1>(t, t)", "e = Neg(t) w = Concat<axis = -1>(t, e)", "halves of the cosine are not known"),
        (
            "s = Sin(w)",
            "u = Exp(t) e = Concat<axis = -1>(u, t) s = Sin(e)",
            "the two halves of the sine are not known to be the same",
        ),
        ("float[1,len,3] t", "float[other,len,3] t", "the cosine is not known to fit"),
        ("cos = Unsqueeze(c, at1)", "cos = Identity(h)", "the cosine is not the same for all heads"),
        ("cos = Unsqueeze(c, at1)", "cos = Identity(one)", "the axes of the cosine are not known"),
    ],
)
def test_refusals(old, new, reason):
    parts = [part.replace(old, new) for part in LIKE_TORCH]
    given = f"{X}, float[1,3,len,6] h, float one"
    _, change = apply(FuseRotaryEmbedding(), model(*parts, x=given))
    assert change.sites == ()
    assert [reason in refusal.reason for refusal in change.refused] == [True]


@pytest.mark.parametrize(
    ("x", "angles", "reason"),
    [
        ("float[batch,len,6] x", "float[batch,len,3] t", "does not have four axes, the last of an even size"),
        ("float[batch,3,len,wide] x", "float[1,len,3] t", "does not have four axes, the last of an even size"),
        ("double[batch,3,len,6] x", "double[1,len,3] t", "what is rotated is not float32"),
    ],
)
def test_refusals_by_what_is_rotated(x, angles, reason):
    three = "[batch,len,6]" in x
    heads = "cos = Identity(c) sin = Identity(s)" if three else HEADS
    halves = HALVES.replace("at3, at1)", "last)")
    made = model(angles, ANGLES, heads, halves, SUM, x=x, y=x.replace("] x", "] y"))
    _, change = apply(FuseRotaryEmbedding(), made)
    assert change.sites == ()
    assert [reason in refusal.reason for refusal in change.refused] == [True]


@pytest.mark.parametrize(
    ("outputs", "more", "reason"),
    [
        (f"{Y}, float[batch,3,len,6] r", "", "r is a graph output"),
        (f"{Y}, float[batch,3,len,6] z", "z = Exp(a)", "a is used elsewhere"),
    ],
)
def test_refusals_by_use(outputs, more, reason):
    _, change = apply(FuseRotaryEmbedding(), model(*LIKE_TORCH[:-1], f"{SUM} {more}", y=outputs))
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_another_sum_is_no_site():
    body = SUM.replace("Mul(x, cos)", "Mul(x1, cos)")
    _, change = apply(FuseRotaryEmbedding(), model(*LIKE_TORCH[:-1], body, y="float[a,b,c,d] y"))
    assert change == type(change)((), ())


@pytest.mark.parametrize("name", ["Rotary", "RotaryByPairs", "RotaryBeforeHeads"])
def test_what_torch_exports(name, workspace):
    torch = pytest.importorskip("torch")
    from tests import attention

    model = attention.exported(getattr(attention, name)(), torch.rand(3, 5, 8), opset=20)
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": random(2, 2, 7, 8)}]
    passes = [FuseRotaryEmbedding(), FuseAttention(), FuseGroupedQuery(), FoldReshapes()]
    after, (step, *_) = line(model, passes, feeds, workspace, requested={"fuse-rotary-embedding"})
    assert (len(step.sites), step.left_out) == (2, ())
    assert "Transpose" not in ops(after)


def half(x):
    return x[..., :2], x[..., 2:]


def joined(torch, x, cos, sin):
    first, second = half(x)
    cos, sin = cos[..., :2], sin[..., :2]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def paired(torch, x, cos, sin):
    first, second, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :2], sin[..., :2]
    return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)


def complex_numbers(torch, x, cos, sin):
    turn = torch.complex(cos[..., :2], sin[..., :2])
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2)) * turn).flatten(-2)


def apart(torch, x, cos, sin):
    first, second = x.reshape(*x.shape[:-1], 2, 2).unbind(-1)
    cos, sin = cos[..., :2], sin[..., :2]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


def by_neighbours(torch, x, cos, sin):
    cos, sin = (torch.stack((each[..., :2], each[..., :2]), dim=-1).flatten(-2) for each in (cos, sin))
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin


def repeated(torch, x, cos, sin):
    cos, sin = (torch.repeat_interleave(each[..., :2] * 1.5, 2, dim=-1) for each in (cos, sin))
    return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape(x.shape) * sin


def part_of_a_head(torch, x, cos, sin):
    turned = x[..., :2]
    cos, sin = (each[..., :1].repeat_interleave(2, -1) for each in (cos, sin))
    turned = turned * cos + torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2) * sin
    return torch.cat((turned, x[..., 2:]), dim=-1)


def by_head(torch, x, cos, sin):
    """With the heads behind the length."""
    return paired(torch, x.transpose(1, 2), cos.transpose(1, 2), sin.transpose(1, 2)).transpose(1, 2)


def halves_by_head(torch, x, cos, sin):
    x, cos, sin = x.transpose(1, 2), cos.transpose(1, 2), sin.transpose(1, 2)
    return (x * cos + turned(torch, x) * sin).transpose(1, 2)


WAYS = (joined, paired, complex_numbers, apart, by_neighbours, repeated, part_of_a_head, by_head, halves_by_head)


@pytest.mark.parametrize("rotate", WAYS, ids=lambda way: way.__name__)
def test_ways_to_rotate(rotate, workspace):
    torch = pytest.importorskip("torch")
    from tests import attention

    class Rotated(attention.Rotary):
        def rotate(self, x, cos, sin):
            return rotate(torch, x, cos, sin)

    model = attention.exported(Rotated(), torch.rand(3, 5, 8))
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": 1e4 * random(2, 2, 7, 8)}, {"x0": 1e-6 * random(2, 1, 9, 8)}]
    after, (step,) = line(model, [FuseRotaryEmbedding()], feeds, workspace, requested={"fuse-rotary-embedding"})
    assert (len(step.sites), step.refused, step.left_out) == (2, (), ())
    assert not {"Neg", "Sub"} & set(ops(after))


def by_quarters(torch, x, cos, sin):
    parts = (torch.cat((-part[..., 1:], part[..., :1]), dim=-1) for part in half(x))
    return x * cos + torch.cat(tuple(parts), dim=-1) * sin


def turned(torch, x):
    first, second = half(x)
    return torch.cat((-second, first), dim=-1)


def other_angles(torch, x, cos, sin):
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin


def put_apart(torch, x, cos, sin):
    """Pairs that lie side by side before, and half a head apart behind."""
    first, second, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :2], sin[..., :2]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def the_other_way(torch, x, cos, sin):
    first, second = half(x)
    cos, sin = cos[..., :2], sin[..., :2]
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


NEAR = {
    "the parts are not rotated to first * cos - second * sin and second * cos + first * sin": the_other_way,
    "the two neighbours of the cosine are not known to be the same": other_angles,
    "what is negated and exchanged are neither the two halves of the last axis nor its neighbours": put_apart,
    "the product with the sine is subtracted, and not added": lambda t, x, cos, sin: x * cos - turned(t, x) * sin,
    "there is another factor beside the cosine or the sine": lambda t, x, cos, sin: x * cos + turned(t, x) * sin * 0.5,
    "the first half is negated, and not the second": lambda t, x, cos, sin: (
        x * cos + t.cat((half(x)[1], -half(x)[0]), dim=-1) * sin
    ),
    "no half of what is exchanged is negated": lambda t, x, cos, sin: (
        x * cos + x.roll(2, -1) * (sin * t.tensor([-1.0, -1, 1, 1]))
    ),
    "the parts of a head are rotated each by itself": by_quarters,
    "another type is computed in on the way": lambda t, x, cos, sin: x * cos + (turned(t, x.double()) * sin).float(),
}


@pytest.mark.parametrize(("reason", "rotate"), NEAR.items())
def test_what_is_nearly_a_rotation_says_what_is_another(reason, rotate):
    torch = pytest.importorskip("torch")
    from tests import attention

    class Near(attention.Rotary):
        def rotate(self, x, cos, sin):
            return rotate(torch, x, cos, sin)

    _, change = apply(FuseRotaryEmbedding(), attention.exported(Near(), torch.rand(3, 5, 8)))
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason, reason])


def sums(torch):
    w, u = torch.rand(4), torch.rand(4)
    return {
        "cosine and sine of the values": lambda x: x * x.cos() + x.flip(-1) * x.sin(),
        "a product of complex numbers": lambda x: torch.cat(
            (x[..., :4] * w - x[..., 4:] * u, x[..., :4] * u + x[..., 4:] * w), dim=-1
        ),
        "points of a plane": lambda x: torch.stack(
            (x[..., 0] * x[..., 2].cos() - x[..., 1] * x[..., 2].sin(),
             x[..., 0] * x[..., 2].sin() + x[..., 1] * x[..., 2].cos()), dim=-1
        ),
        "a mean with what is shifted": lambda x: x * 0.5 + torch.cat((0 * x[:, :1], x[:, :-1]), dim=1) * torch.rand(8),
    }  # fmt: skip


@pytest.mark.parametrize("name", sums(pytest.importorskip("torch")))
def test_sums_of_products_that_are_no_rotation_are_no_sites(name):
    import torch

    from tests.attention import exported

    class Sum(torch.nn.Module):
        def forward(self, x):
            return sums(torch)[name](x)

    torch.manual_seed(0)
    _, change = apply(FuseRotaryEmbedding(), exported(Sum(), torch.rand(3, 5, 8)))
    assert change == type(change)((), ())


def test_powers_and_copies_of_copies_are_looked_at_once():
    """Of each there are as many ways back as two to the power of their number."""
    squares = " ".join(f"s{place + 1} = Mul(s{place}, s{place})" for place in range(40))
    copies = " ".join(f"c{place + 1} = Concat<axis = 0>(c{place}, c{place})" for place in range(40))
    body = f"s0 = Identity(x) {squares} c0 = Neg(x) {copies} n = Identity(c40) m = Mul(n, x) y = Add(s40, m)"
    _, change = apply(FuseRotaryEmbedding(), graph(f"{VERSION} g (float[a,b] x) => (float[c,d] y) {{ {body} }}"))
    assert change == type(change)((), ())


@pytest.mark.parametrize("look_up", ["slice", "index"])
def test_rows_of_tables_are_cosines_and_sines(look_up, workspace):
    """As models keep them: so many rows as there may be positions."""
    torch = pytest.importorskip("torch")
    from tests import attention

    angles = torch.outer(torch.arange(64.0), torch.tensor([1.0, 0.1])).repeat(1, 2)

    class Tables(attention.Rotary):
        def rotate(self, x, cos, sin):
            rows = torch.arange(x.shape[2])
            taken = [
                table[: x.shape[2]] if look_up == "slice" else table[rows] for table in (angles.cos(), angles.sin())
            ]
            return x * taken[0] + turned(torch, x) * taken[1]

    model = attention.exported(Tables(), torch.rand(3, 5, 8))
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": 1e4 * random(2, 2, 7, 8)}, {"x0": 1e-6 * random(2, 1, 9, 8)}]
    _, (step,) = line(model, [FuseRotaryEmbedding()], feeds, workspace, requested={"fuse-rotary-embedding"})
    assert (len(step.sites), step.refused, step.left_out) == (2, (), ())


def test_angles_that_are_repeated_on_the_way(workspace):
    """As tutorials write them: repeated for both halves in forward, not joined."""
    torch = pytest.importorskip("torch")
    from tests import attention

    class Repeated(attention.Rotary):
        def rotate(self, x, cos, sin):
            angles = torch.outer(torch.arange(x.shape[2]), torch.tensor([1.0, 0.1])).repeat(1, 2)
            return x * angles.cos() + turned(torch, x) * angles.sin()

    model = attention.exported(Repeated(), torch.rand(3, 5, 8))
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": 1e4 * random(2, 2, 7, 8)}]
    _, (step,) = line(model, [FuseRotaryEmbedding()], feeds, workspace, requested={"fuse-rotary-embedding"})
    assert (len(step.sites), step.refused, step.left_out) == (2, (), ())


@pytest.mark.parametrize(("name", "sizes"), [
    ("Cohere", {"intermediate_size": 20, "num_key_value_heads": 2}), ("GPTJ", {"rotary_dim": 2}),
    ("RoFormer", {"intermediate_size": 20}),
])  # fmt: skip
def test_transformers_that_rotate_neighbours(name, sizes, workspace):
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch")
    from tests.attention import exported, transformer

    model = exported(transformer(name, **sizes), torch.randint(0, 50, (3, 6)), opset=20)
    feeds = [{"x0": np.arange(np.prod(shape)).reshape(shape) % 50} for shape in [(3, 6), (2, 9)]]
    passes = [FuseRotaryEmbedding(), FuseAttention(), FuseGroupedQuery(), FoldReshapes()]
    after, (step, *_) = line(model, passes, feeds, workspace, requested={"fuse-rotary-embedding"})
    assert (len(step.sites), step.left_out, step.dropped) == (4, (), "")
    assert "Transpose" not in ops(after)


@pytest.mark.parametrize("opset", [20, 23])
def test_what_transformers_exports(opset, workspace):
    """Llama: with the three passes nothing is transposed any more.

    At opset 23 torch.onnx writes RotaryEmbedding itself, for one sample alone.
    """
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch")
    from tests.attention import exported, transformer

    llama = transformer("Llama", intermediate_size=20, num_key_value_heads=2)
    free = opset == 20
    model = exported(llama, torch.randint(0, 50, (3 if free else 1, 6)), opset=opset, free=(free and "batch", "length"))
    shapes = [(3, 6), (2, 9)] if free else [(1, 6), (1, 9)]
    feeds = [{"x0": np.arange(np.prod(shape)).reshape(shape) % 50} for shape in shapes]
    passes = [FuseRotaryEmbedding(), FuseAttention(), FuseGroupedQuery()]
    after, steps = line(model, passes, feeds, workspace, requested={"fuse-attention"})
    assert [len(step.sites) for step in steps] == [4 if free else 0, 2, 2]
    assert [(step.refused, step.left_out, step.dropped) for step in steps] == [((), (), "")] * 3
    assert "Transpose" not in ops(after)
    assert all(node.attributes["kv_num_heads"].as_int() == 2 for node in after.graph if node.op_type == "Attention")
