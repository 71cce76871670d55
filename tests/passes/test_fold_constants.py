"""FoldConstants: golden graph, the same bits, what it leaves alone, each refusal by its reason, what torch exports."""

import numpy as np
import pytest

from mlc.rewriting.differences import same_graph
from passes.fold_constants import FoldConstants
from tests.graphs import answers, apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

X = [{"x": random(1, 2, 3)}, {"x": random(2, 5, 3)}]


def folded(body, head="(float[n,3] x) => (float[n,3] y)", weights=""):
    model = graph(f"g {head} <{weights}> {{ {body} }}" if weights else f"g {head} {{ {body} }}")
    after, change = apply(FoldConstants(), model)
    return model, after, change


def test_golden(golden):
    _, after, change = folded(
        "a = Constant<value_floats = [1.0, 2.0, 3.0]>() b = Exp(w) c = Mul(a, b)"
        "s = Shape(w) d = Add(x, c) y = Reshape(d, t)",
        weights="float[3] w = {0.5,-1,2}, int64[2] t = {-1,3}",
    )
    assert change.sites == ("c",)
    golden("fold_constants.onnxtxt", text(after))


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (op, arguments)
        for op, arguments in {
            "Exp": "w", "Sqrt": "w", "Erf": "w", "Tanh": "w", "Softmax": "w", "Log": "w", "Sigmoid": "w", "Div": "w, v",
            "Pow": "w, v", "MatMul": "q, w", "ReduceMean": "q", "Clip": "w, , v0", "Max": "w, v", "Cos": "w",
        }.items()
    ],
)  # fmt: skip
def test_the_bits_are_those_of_the_runtime(op, arguments, workspace):
    model, after, change = folded(
        f"c = {op}({arguments}) s = Sin(x) y = Add(s, c)",
        weights="float[3] w = {0.3,1.7,2.9}, float[3] v = {-1.1,0.2,3.3}, float v0 = {0.5},"
        "float[3,3] q = {1.1,2.2,3.3,4.4,5.5,6.6,7.7,8.8,9.9}",
    )
    assert change.sites == ("c",)
    assert ops(after) == ["Sin", "Add"]
    for feed in X:
        same_numbers(model, after, feed, workspace)


def test_zeros_of_both_signs_stay_apart(workspace):
    model, after, _ = folded(
        "p = Constant<value_floats = [0.0, 0.0, 0.0]>() m = Neg(p) a = Div(one, p) b = Div(one, m)"
        "c = Add(x, a) d = Add(x, b) e = Sign(c) f = Sign(d) y = Add(e, f)",
        weights="float[3] one = {1,1,1}",
    )
    same_numbers(model, after, X[0], workspace)
    assert np.isneginf(after.graph.initializers["b"].const_value.numpy()).all()


def test_random_operators_stay():
    model, after, change = folded(
        "a = RandomNormalLike(w) b = RandomNormalLike(w) c = RandomUniform<shape = [3]>()"
        "d = Add(a, b) e = Add(d, c) y = Add(x, e)",
        weights="float[3] w = {1,2,3}",
    )
    assert change.sites == ()
    assert same_graph(after.graph, model.graph)


@pytest.mark.parametrize(
    ("made", "length"),
    [
        ("t = MaxPool<ceil_mode = 1, kernel_shape = [1], strides = [3]>(x)", 5),
        ('d = Resize<mode = "nearest">(x, , scales) t = Relu(d)', 10),
    ],
    ids=["pooled", "resized"],
)
def test_a_size_that_onnx_infers_otherwise_than_the_runtime_gives_is_no_constant(made, length, workspace):
    model, after, change = folded(
        f"{made} s = Shape<start = 2, end = 3>(t) y = Expand(t, s)", f"(float[n,1,{length}] x) => (float[n,1,k] y)",
        "float[3] scales = {1, 1, 0.7}",
    )  # fmt: skip
    assert change.sites == ()
    assert "Shape" in ops(after)
    same_numbers(model, after, {"x": random(1, 2, 1, length)}, workspace)


def test_a_size_of_pooling_that_both_tell_alike_is_a_constant():
    _, after, change = folded(
        "t = MaxPool<ceil_mode=1, kernel_shape=[2], strides=[2]>(x) s = Shape<start = 2, end = 3>(t) y = Expand(t, s)",
        "(float[n,1,9] x) => (float[n,1,k] y)",
    )
    assert change.sites == ("s",)
    assert "Shape" not in ops(after)


def test_strings_stay_and_the_rest_is_folded():
    _, after, change = folded(
        "c = Cast<to=8>(w) e = Exp(w) y = Add(x, e)",
        "(float[n,3] x) => (float[n,3] y, string[3] c)",
        "float[3] w = {1,2,3}",
    )
    assert change.sites == ("e",)
    assert ops(after) == ["Cast", "Add"]


def test_a_weight_that_a_caller_may_override_stays(workspace):
    head = "(float[n,3] x, float[3] w) => (float[n,3] y)"
    model, after, change = folded("c = Exp(w) y = Add(x, c)", head, "float[3] w = {1,2,3}")
    assert change.sites == ()
    assert [value.name for value in after.graph.inputs] == ["x", "w"]
    same_numbers(model, after, {**X[0], "w": random(3, 3)}, workspace)


def test_quantization_of_a_weight_stays():
    model, after, change = folded(
        "c = DequantizeLinear(w, s, z) y = Add(x, c)", weights="int8[3] w = {1,2,3}, float s = {0.5}, int8 z = {0}"
    )
    assert change.sites == ()
    assert ops(after) == ops(model)


def test_a_shape_that_is_a_number_is_constant_and_another_is_not():
    _, after, change = folded(
        "s = Shape<start = 1>(x) r = Shape(x) i = Constant<value_ints = [0]>() b = Gather(r, i)"
        "c = Concat<axis = 0>(b, s) y = Reshape(x, c)"
    )
    assert set(change.sites) == {"s", "i"}
    assert ops(after) == ["Shape", "Gather", "Concat", "Reshape"]


def test_the_number_of_elements_is_constant_where_all_sizes_are_numbers(workspace):
    head = "(float[n,3] x, float[2,3] z) => (float[n,3] y, int64 m)"
    model, after, change = folded("k = Size(z) f = Cast<to=1>(k) m = Size(x) y = Mul(x, f)", head=head)
    assert change.sites == ("f",)
    assert ops(after) == ["Size", "Mul"]
    for feed in X:
        same_numbers(model, after, {**feed, "z": np.ones((2, 3), np.float32)}, workspace)


def test_constants_as_outputs_stay_outputs_of_nodes(workspace):
    head = "(float[n,3] x) => (float[n,3] y, float[3] k, float[3] e, float[3] w)"
    model, after, change = folded(
        "k = Constant<value_floats = [1.0, 2.0, 3.0]>() e = Exp(w) y = Add(x, e)", head, "float[3] w = {1,2,3}"
    )
    assert change.sites == ("e",)
    assert [value.name for value in after.graph.outputs] == ["y", "k", "e", "w"]
    assert ops(after) == ["Constant", "Identity", "Add"]
    same_numbers(model, after, X[0], workspace)
    again, change = apply(FoldConstants(), after)
    assert (change.sites, same_graph(again.graph, after.graph)) == ((), True)


def test_a_zero_size_concat_and_an_empty_bound_stay_right(workspace):
    model, after, change = folded(
        "a = Constant<value = float[0] {}>() b = Concat<axis = 0>(a, w) c = Clip(b, , h) y = Add(x, c)",
        weights="float[3] w = {1,2,3}, float h = {2.5}",
    )
    assert change.sites == ("c",)
    same_numbers(model, after, X[0], workspace)


@pytest.mark.parametrize(
    ("body", "site"),
    [
        ("c = Expand(w, t) y = Add(x, c)", "c"),
        ("c = ConstantOfShape(t) y = Add(x, c)", "c"),
        ("c = Tile(r, t) y = Add(x, c)", "c"),
        ("c = Pad(w, p) y = Add(x, c)", "c"),
    ],
)
def test_a_result_that_is_too_large_is_refused(body, site):
    weights = "float[1] w = {1}, float[1,1] r = {1}, int64[2] t = {20,30}, int64[2] p = {0,600}"
    model = graph(f"g (float[n,m] x) => (float[n,m] y) <{weights}> {{ {body} }}")
    _, change = apply(FoldConstants(limit=2000), model)
    (refusal,) = change.refused
    assert refusal.site == site
    assert refusal.reason.startswith("the model would grow by 2,")
    assert refusal.reason.endswith("the limit is 2,000")
    after, change = apply(FoldConstants(limit=3000), model)
    assert (change.sites, change.refused) == ((site,), ())
    assert ops(after) == ["Add"]


@pytest.mark.parametrize("rearranged", ["t = Transpose(w)", "i = Identity(w) t = Transpose(i)", "t = Reshape(w, s)"])
@pytest.mark.parametrize("reader", ["y = MatMul(h, w)", "u = Transpose(w) k = Transpose(u) y = MatMul(h, k)"])
def test_a_tied_weight_is_not_copied_however_small(rearranged, reader, workspace):
    weights = "float[4,2] w = {1,2,3,4,5,6,7,8}, int64[2] s = {2,4}"
    model = graph(f"g (float[n,2] x) => (float[n,2] y) <{weights}> {{ {rearranged} h = MatMul(x, t) {reader} }}")
    after, change = apply(FoldConstants(), model)
    assert "w is read elsewhere and would be stored twice" in {refusal.reason for refusal in change.refused}
    matrices = [name for name, value in after.graph.initializers.items() if value.const_value.size == 8]
    assert matrices == ["w"]
    same_numbers(model, after, {"x": random(0, 3, 2)}, workspace)


def test_a_weight_that_is_an_output_too_is_not_copied():
    weights = "float[4,2] w = {1,2,3,4,5,6,7,8}"
    body = "t = Transpose(w) y = MatMul(x, t)"
    model = graph(f"g (float[n,2] x) => (float[n,4] y, float[4,2] w) <{weights}> {{ {body} }}")
    after, _ = apply(FoldConstants(), model)
    assert list(after.graph.initializers) == ["w"]


def test_the_transpose_of_a_weight_of_its_own_is_folded():
    weights = "float[4,2] w = {1,2,3,4,5,6,7,8}"
    model = graph(f"g (float[n,2] x) => (float[n,4] y) <{weights}> {{ t = Transpose(w) y = MatMul(x, t) }}")
    after, change = apply(FoldConstants(limit=0), model)
    assert change.sites == ("t",)
    assert list(after.graph.initializers) == ["t"]


def test_limit_is_not_negative():
    with pytest.raises(ValueError, match="limit is a number of bytes, not -1"):
        FoldConstants(limit=-1)


BRANCHES = """
    o = Neg(x)
    y = If(c) <
        then_branch = t () => (float[n,3] p) <float[3] k = {{1,2,3}}> {{ a = Add(o, k) b = Exp(w) p = Mul(a, b) }},
        else_branch = e () => (float[n,3] q) {{ a = Sub(o, w) q = Relu(a) }}
    >
    z = Neg(y)
"""


@pytest.mark.parametrize("condition", [True, False])
def test_an_if_of_constant_condition_becomes_its_branch(condition, workspace):
    body = BRANCHES.format()
    head = "(float[n,3] x) => (float[n,3] z, float[n,3] y)"
    model, after, change = folded(body, head, f"bool c = {{{int(condition)}}}, float[3] w = {{0.5,1,2}}")
    assert "y" in change.sites
    assert "If" not in ops(after)
    assert len(list(after.graphs())) == 1
    assert "c" not in after.graph.initializers
    for feed in X:
        same_numbers(model, after, feed, workspace)


def test_an_if_that_a_caller_decides_stays_and_its_branches_are_folded(workspace):
    head = "(float[n,3] x, bool c) => (float[n,3] z)"
    model, after, change = folded(BRANCHES.format(), head, "float[3] w = {0.5,1,2}")
    assert change.sites == ("y.then_branch/b",)
    for flag in (True, False):
        same_numbers(model, after, {**X[0], "c": np.array(flag)}, workspace)


def test_a_branch_that_gives_an_outer_value_or_one_value_twice(workspace):
    body = """o = Neg(x)
        y, z = If(c) <then_branch = t () => (float[n,3] p, float[n,3] q) { p = Identity(o) q = Identity(p) },
                      else_branch = e () => (float[n,3] p, float[n,3] q) { p = Exp(o) q = Neg(p) }>"""
    head = "(float[n,3] x) => (float[n,3] y, float[n,3] z, float[n,3] o)"
    for flag in (0, 1):
        model, after, _ = folded(body, head, f"bool c = {{{flag}}}")
        same_numbers(model, after, X[0], workspace)


def test_an_if_that_a_caller_decides_at_the_end_of_a_branch_is_verified(workspace):
    inner = """y1 = If(c) <then_branch = t1 () => (float[n,3] p) { a = Exp(w) p = Add(o, a) },
                           else_branch = e1 () => (float[n,3] q) { q = Sub(o, w) }>"""
    model = graph(f"""g (float[n,3] x, bool c) => (float[n,3] y) <bool always = {{1}}, float[3] w = {{0.5,1,2}}> {{
        o = Neg(x)
        y = If(always) <then_branch = t () => (float[n,3] y1) {{ {inner} }},
                        else_branch = e () => (float[n,3] z) {{ z = Relu(o) }}>
    }}""")
    feeds = [{**feed, "c": np.array(flag)} for feed, flag in zip(X, (True, False), strict=True)]
    after, (step,) = line(model, [FoldConstants()], feeds, workspace)
    assert (step.sites, step.left_out) == (("y.then_branch/y1.then_branch/a", "y"), ())
    assert ops(after).count("If") == 1
    for flag in (True, False):
        same_numbers(model, after, {**X[0], "c": np.array(flag)}, workspace)


def test_a_loop_is_verified_and_its_body_folded(workspace):
    body = """y = Loop(trips, go, x) <body = b (int64 i, bool go_in, float[n,3] s) => (bool go_out, float[n,3] s_out)
        { e = Exp(w) s_out = Add(s, e) go_out = Identity(go_in) }>"""
    weights = "int64 trips = {3}, bool go = {1}, float[3] w = {0.5,1,2}"
    model = graph(f"g (float[n,3] x) => (float[n,3] y) <{weights}> {{ {body} }}")
    after, (step,) = line(model, [FoldConstants()], X, workspace)
    assert (step.sites, step.left_out) == (("y.body/e",), ())
    same_numbers(model, after, X[0], workspace)


def test_forbidden_sites_stay():
    model = graph(
        """g (float[n,3] x) => (float[n,3] y) <float[3] w = {1,2,3}>
        { a = Exp(w) b = Neg(a) c = Add(x, a) y = Add(c, b) }"""
    )
    after, change = apply(FoldConstants(), model, lambda site: site != "b")
    assert change.sites == ("a",)
    assert ops(after) == ["Neg", "Add", "Add"]


def test_a_node_of_which_one_output_is_forbidden_stays():
    head = "(float[n,3] x) => (float[n,3] y, float[n,3] z)"
    body = "e = Exp(w) a, b = Split<num_outputs = 2, axis = 0>(e) y = Add(x, a) z = Add(x, b)"
    model = graph(f"g {head} <float[2,3] w = {{1,2,3,4,5,6}}> {{ {body} }}")
    after, change = apply(FoldConstants(), model, lambda site: site != "b")
    assert change.sites == ("e",)
    assert "Split" in ops(after)


def test_what_torch_exports_without_optimization(workspace):
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    model = torch_model(network, (torch.rand(2, 3, 4, 4),))
    feeds = [{"x0": random(1, 2, 3, 4, 4)}, {"x0": random(2, 3, 3, 4, 4)}]
    after, (step,) = line(model, [FoldConstants()], feeds, workspace)
    assert len(step.sites) == 3
    assert not {"Expand", "CastLike", "Constant"} & set(ops(after))
    assert answers(after, feeds[0], workspace)
