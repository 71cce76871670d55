import tomllib

import pytest

from mlc.errors import UsageError
from mlc.grammar.formats import FORMATS
from mlc.graph_pass import Context
from mlc.pipeline.quantizing import quantizing
from mlc.plan import ORDER, Planner, kept_sites, plan_toml, read_plan
from mlc.recipe import merge
from mlc.registry import schedule
from mlc.types import NodePlan, PassSpec, Plan
from passes.int8_static import Int8Static
from passes.int8_weights import Int8Weights
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


def planned(model, capabilities, **how):
    return Planner(**how).plan(model, [Int8Static()], Context(capabilities))


def test_attention_keeps_masks_softmax_and_normalizations_float():
    plan = planned(attention(), ANY_CPU)
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
    (entry,) = planned(build(text, arrays), ANY_CPU).nodes
    assert entry == NodePlan("y", "Add", "float", "it adds a mask, whose range would swallow the rest")


def test_a_mask_behind_a_product_is_no_bias():
    text = "agraph (float[2,8] x) => (float[2,8] y) {\n a = MatMul(x, w)\n y = Add(a, m)\n}"
    arrays = weights(0, w=(8, 8), m=(8,))
    arrays["m"][3] = -1e9
    formats = [entry.format for entry in planned(build(text, arrays), ANY_CPU).nodes]
    assert formats == ["int8-static", "float"]


def test_every_node_is_in_the_plan_in_order_with_a_reason():
    model = attention()
    plan = planned(model, ANY_CPU)
    assert [entry.node for entry in plan.nodes] == [node.outputs[0].name for node in model.graph]
    assert all(entry.reason for entry in plan.nodes)


@pytest.mark.parametrize(
    ("capabilities", "words"), [(ANY_CPU, "weights safe from saturation"), (VNNI, "weights of full 8 bits")]
)
def test_the_reason_says_which_weights(capabilities, words):
    plan = planned(attention(), capabilities)
    assert plan.nodes[0].reason.endswith(words)


def test_the_text_reads_back():
    plan = planned(attention(), ANY_CPU)
    tables = tomllib.loads(plan_toml(plan))["node"]
    assert [NodePlan(table["name"], table["op"], table["format"], table["reason"]) for table in tables] == list(
        plan.nodes
    )


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "tab\t", "line\nbreak", "delete\x7f", "größe", ""])
def test_any_name_can_be_written(name):
    text = plan_toml(Plan((NodePlan(name, "Conv", "float", "because"),)))
    assert tomllib.loads(text)["node"][0]["name"] == name


# What a user says of single nodes


def formats(plan):
    return {entry.node: entry.format for entry in plan.nodes}


@pytest.mark.parametrize("name", ["d", "d*", "?"])
def test_nodes_are_kept_float_by_name_or_pattern(name):
    plan = planned(attention(), ANY_CPU, kept=(name,))
    assert {entry.node for entry in plan.nodes if entry.reason == "kept float: asked for"} >= {"d"}
    assert formats(plan)["d"] == "float"


def test_a_node_is_kept_float_by_its_own_name_too():
    model = attention()
    next(iter(model.graph)).name = "encoder/query"
    plan = planned(model, ANY_CPU, kept=("encoder/*",))
    assert (formats(plan)["q"], formats(plan)["k"]) == ("float", "int8-static")


def test_a_name_that_a_node_has_is_no_pattern():
    model = attention()
    for node in model.graph:
        if node.outputs[0].name in {"h", "hb"}:
            node.outputs[0].name = {"h": "a?", "hb": "ab"}[node.outputs[0].name]
    assert kept_sites(model, ["a?"]) == {"a?"}
    assert kept_sites(model, ["?b"]) == {"qb", "q", "ab", "a?"}, "a bias means its product too"
    with pytest.raises(UsageError, match="no node is called"):
        kept_sites(model, ["a[b]"])
    with pytest.raises(UsageError) as error:
        kept_sites(model, ["QB"])
    assert "did you mean qb" in error.value.hint


INSIDE = """agraph (float[n,8] x, bool c) => (float[n,8] y) {
    y = If(c) <
        then_branch = yes () => (float[n,8] p) { m = MatMul(x, w) a = Add(m, b) p = Relu(a) },
        else_branch = no () => (float[n,8] p) { m = MatMul(x, v) p = Neg(m) }
    >
}"""


def test_all_that_is_inside_of_a_node_is_kept_float_with_it():
    model = build(INSIDE, weights(0, w=(8, 8), b=(8,), v=(8, 8)))
    inside = {
        f"y.{site}" for site in ("then_branch/m", "then_branch/a", "then_branch/p", "else_branch/m", "else_branch/p")
    }
    assert kept_sites(model, ["y"]) == {"y", *inside}
    assert set(formats(planned(model, ANY_CPU, kept=("y",))).values()) == {"float"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("y.else_branch/m", {"else_branch/m"}),
        ("m", {"then_branch/m", "else_branch/m"}),
        ("y.then_branch/a", {"then_branch/a", "then_branch/m"}),
        ("y.else*", {"else_branch/m", "else_branch/p"}),
    ],
)
def test_nodes_of_branches_are_kept_float_by_their_place_or_their_name(name, kept):
    model = build(INSIDE, weights(0, w=(8, 8), b=(8,), v=(8, 8)))
    assert kept_sites(model, [name]) == {f"y.{site}" for site in kept}
    found = formats(planned(model, ANY_CPU, kept=(name,)))
    assert all(found[f"y.{site}"] == "float" for site in kept)
    assert "int8-static" in found.values() or name == "m"


def test_the_neighbours_of_a_node_kept_float_are_chosen_accordingly():
    plan = planned(attention(), ANY_CPU, kept=("h",))
    reasons = {entry.node: entry.reason for entry in plan.nodes}
    assert formats(plan)["hb"] == "float"
    assert reasons["hb"] == "one side is a constant"


def test_a_name_that_means_no_node_is_an_error_with_the_nearest():
    with pytest.raises(UsageError, match="--keep-float: no node is called 'scored'") as caught:
        planned(attention(), ANY_CPU, kept=("q", "scored"))
    assert "did you mean scores" in caught.value.hint


# A plan from a file


def written(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


def test_a_plan_that_was_written_is_read_back_and_decides(tmp_path):
    model = attention()
    text = plan_toml(planned(model, ANY_CPU)).replace('name = "d"\nop = "MatMul"\nformat = "int8-static"',
                                                      'name = "d"\nformat = "float"')  # fmt: skip
    plan = planned(model, ANY_CPU, given=read_plan(written(tmp_path, text)).plan)
    assert formats(plan) == {**formats(planned(model, ANY_CPU)), "d": "float"}


def test_nodes_that_a_file_does_not_name_stay_float(tmp_path):
    given = read_plan(written(tmp_path, '[[node]]\nname = "k"\nformat = "int8-static"\n')).plan
    plan = planned(attention(), ANY_CPU, given=given)
    assert [node for node, kind in formats(plan).items() if kind != "float"] == ["k"]


def test_options_of_formats_stand_before_the_nodes_and_are_read_back(tmp_path):
    plan = planned(attention(), ANY_CPU)
    mse = PassSpec("int8-static", (("method", "mse"), ("correct_bias", True)))
    text = plan_toml(plan, [mse, PassSpec("int4-weights", (("block", 64),))])
    assert text.startswith('[options]\nint8-static = "method=mse,correct_bias=true"\n\n[[node]]\n')
    given = read_plan(written(tmp_path, text))
    assert given.passes == (mse,)
    assert "options" not in plan_toml(plan, [PassSpec("int8-static")])
    asked = merge(None, {"source": "model.onnx", "plan": str(tmp_path / "plan.toml")})
    assert quantizing(asked).passes == (mse,)
    named = merge(None, {"source": "model.onnx", "plan": str(tmp_path / "plan.toml"), "passes": ["int8-static"]})
    assert quantizing(named).passes == (PassSpec("int8-static"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node = ", "is no TOML"),
        ("", "names no node"),
        ("x = 1", "there is no key 'x' in a plan"),
        ("node = [1]", "node 1 is not a table"),
        ('[[node]]\nname = "k"', "node 1 has no format"),
        ('[[node]]\nformat = "float"', "node 1 has no name"),
        ('[[node]]\nname = "k"\nformat = "int3"', "no format is called 'int3'"),
        ('[[node]]\nname = "k"\nformat = "int8"', "no format is called 'int8'"),
        ('[[node]]\nname = "k"\nformat = 8', "format is a text, not 8"),
        ('[[node]]\nname = "k"\nformat = "float"\nformats = "float"', "has no key 'formats'"),
        ('[[node]]\nname = "k"\nformat = "float"\n' * 2, "the node k is named twice"),
        ('options = 1\n[[node]]\nname = "k"\nformat = "float"', "has a text for each format"),
        ('[options]\nint8-static = true\n[[node]]\nname = "k"\nformat = "int8-static"', "has a text for each format"),
        (
            '[options]\nint8-statik = "method=mse"\n[[node]]\nname = "k"\nformat = "int8-static"',
            "names int8-statik, which no node has",
        ),
        ('[options]\nfloat = "a=1"\n[[node]]\nname = "k"\nformat = "float"', "names float, which no node has"),
        (
            '[options]\nint8-static = "method"\n[[node]]\nname = "k"\nformat = "int8-static"',
            r"plan.toml: \[options\]: .* ends where = and the value",
        ),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_plan(written(tmp_path, text))


def test_an_option_that_a_format_has_not_is_refused_with_the_place(tmp_path):
    text = '[options]\nint8-static = "methd=mse"\n[[node]]\nname = "k"\nformat = "int8-static"'
    asked = merge(None, {"source": "model.onnx", "plan": str(written(tmp_path, text))})
    with pytest.raises(UsageError, match=r"plan.toml: \[options\]: the pass int8-static has no option 'methd'"):
        quantizing(asked)


FORMATS_IN_ORDER = ["int8-static", "int8-dynamic", "int4-weights", "int8-weights", "fp16"]


def test_every_format_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(FORMATS[1:])


def test_passes_run_in_the_order_of_formats_whatever_is_named_first(tmp_path):
    """Where int8-dynamic ran first, int8-static would read its ranges from a graph that is quantized already."""
    nodes = "".join(f'[[node]]\nname = "n{place}"\nformat = "{name}"\n' for place, name in enumerate(FORMATS_IN_ORDER))
    backwards = "[[node]]".join(["", *reversed(nodes.split("[[node]]")[1:])])
    for text in (nodes, backwards):
        asked = merge(None, {"source": "model.onnx", "plan": str(written(tmp_path, text))})
        assert [spec.name for spec in quantizing(asked).passes] == FORMATS_IN_ORDER
    dynamic = PassSpec("int8-dynamic", (("smallest_table", 1024),))
    asked = merge(None, {"source": "model.onnx", "to": "int8", "passes": ["smooth-quant", str(dynamic)]})
    found = quantizing(asked).passes
    assert [spec.name for spec in found] == ["smooth-quant", "int8-static", "int8-dynamic"]
    assert found[-1] == dynamic
    for form, beside in (("int8-static", "fp16"), ("fp16", "int8-static")):
        found = quantizing(merge(None, {"source": "model.onnx", "to": form, "passes": [beside]})).passes
        assert [spec.name for spec in found] == ["int8-static", "fp16"]


def test_a_plan_may_give_the_format_of_its_weights_to_what_has_none(tmp_path):
    text = '[[node]]\nname = "d"\nformat = "int8-weights"\n[[node]]\nname = "r"\nformat = "int8-weights"\n'
    given = read_plan(written(tmp_path, text)).plan
    plan = Planner(given=given).plan(attention(), [Int8Weights()], Context(ANY_CPU))
    assert {entry.node for entry in plan.nodes if entry.format == "int8-weights"} == {"d", "r"}


def test_a_pass_that_is_given_twice_beside_its_format_is_refused():
    asked = merge(None, {"source": "model.onnx", "to": "int8", "passes": ["int8-static", "int8-static:method=mse"]})
    with pytest.raises(UsageError, match="int8-static is asked for twice"):
        schedule(quantizing(asked).all)


def test_a_plan_for_another_model_is_refused(tmp_path):
    for text, message in (
        ('[[node]]\nname = "kk"\nformat = "float"', "'kk', which is no node of the model"),
        ('[[node]]\nname = "k"\nop = "Conv"\nformat = "float"', "calls k Conv, in the model it is MatMul"),
    ):
        with pytest.raises(UsageError, match=message):
            planned(attention(), ANY_CPU, given=read_plan(written(tmp_path, text)).plan)
