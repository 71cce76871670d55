import tomllib

import pytest

from mlc.errors import UsageError
from mlc.plan import make_plan, plan_toml
from mlc.types import NodePlan, Plan
from tests.quantizing import ANY_CPU, VNNI, build, weights

ATTENTION = """agraph (float[2,7,16] x, float[2,1,7] mask) => (float[2,7,16] y)
    <float one = {1}, float least = {-3.4028234663852886e38}, float root = {4}> {
    q = MatMul(x, wq)
    qb = Add(q, bq)
    k = MatMul(x, wk)
    kt = Transpose<perm = [0, 2, 1]>(k)
    scores = MatMul(qb, kt)
    scaled = Div(scores, root)
    off = Sub(one, mask)
    far = Mul(off, least)
    masked = Add(scaled, far)
    p = Softmax(masked)
    o = MatMul(p, x)
    n = LayerNormalization(o, g)
    h = MatMul(n, w1)
    hb = Add(h, b1)
    r = Relu(hb)
    d = MatMul(r, w2)
    y = Add(d, n)
}"""
SHAPES = {
    "wq": (16, 16), "bq": (16,), "wk": (16, 16), "g": (16,), "w1": (16, 32), "b1": (32,), "w2": (32, 16),
}  # fmt: skip


def attention():
    return build(ATTENTION, weights(0, **SHAPES))


def test_attention_keeps_masks_softmax_and_normalizations_float():
    plan = make_plan(attention(), "int8-static", ANY_CPU)
    chosen = [entry.node for entry in plan.nodes if entry.format == "int8-static"]
    assert chosen == ["q", "qb", "k", "h", "hb", "r", "d"]
    reasons = {entry.node: entry.reason for entry in plan.nodes}
    assert reasons["masked"] == "it adds a mask before a Softmax"
    assert reasons["p"] == "its small outputs would all become 0"
    assert reasons["n"] == "normalizations lose too much in 8 bits"
    assert reasons["scores"] == "both sides are activations"
    assert reasons["y"] == "n is not computed in int8"


def test_a_constant_mask_is_called_one():
    text = "agraph (float[2,8] x) => (float[2,8] y) {\n y = Add(x, m)\n}"
    arrays = weights(0, m=(8,))
    arrays["m"][3] = -float("inf")
    (entry,) = make_plan(build(text, arrays), "int8-static", ANY_CPU).nodes
    assert entry == NodePlan("y", "Add", "float", "it adds a mask, whose range would swallow the rest")


def test_a_mask_behind_a_product_is_no_bias():
    text = "agraph (float[2,8] x) => (float[2,8] y) {\n a = MatMul(x, w)\n y = Add(a, m)\n}"
    arrays = weights(0, w=(8, 8), m=(8,))
    arrays["m"][3] = -1e9
    formats = [entry.format for entry in make_plan(build(text, arrays), "int8-static", ANY_CPU).nodes]
    assert formats == ["int8-static", "float"]


def test_every_node_is_in_the_plan_in_order_with_a_reason():
    model = attention()
    plan = make_plan(model, "int8-static", ANY_CPU)
    assert [entry.node for entry in plan.nodes] == [node.outputs[0].name for node in model.graph]
    assert all(entry.reason for entry in plan.nodes)


@pytest.mark.parametrize(
    ("capabilities", "words"), [(ANY_CPU, "weights safe from saturation"), (VNNI, "weights of full 8 bits")]
)
def test_the_reason_says_which_weights(capabilities, words):
    plan = make_plan(attention(), "int8-static", capabilities)
    assert plan.nodes[0].reason.endswith(words)


def test_an_unknown_format_is_an_error():
    with pytest.raises(UsageError, match="no format is called 'int3'") as caught:
        make_plan(attention(), "int3", ANY_CPU)
    assert "int8-static" in caught.value.hint


def test_the_text_reads_back():
    plan = make_plan(attention(), "int8-static", ANY_CPU)
    tables = tomllib.loads(plan_toml(plan))["node"]
    assert [NodePlan(table["name"], table["op"], table["format"], table["reason"]) for table in tables] == list(
        plan.nodes
    )


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "tab\t", "line\nbreak", "delete\x7f", "größe", ""])
def test_any_name_can_be_written(name):
    text = plan_toml(Plan((NodePlan(name, "Conv", "float", "because"),)))
    assert tomllib.loads(text)["node"][0]["name"] == name
