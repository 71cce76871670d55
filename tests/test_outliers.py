"""Layers that cost the most at the outputs get a better format by themselves, and only where outputs lose much."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from mlc import api
from mlc.artifact import Step, write_model
from mlc.compare import sqnr
from mlc.data import Batch
from mlc.errors import PassError, TargetError
from mlc.graph_pass import Context
from mlc.pipeline.outliers import SEARCHES, Outliers
from mlc.rewriting.sensitivity import output_sensitivity
from mlc.types import Capabilities, NodePlan, PassSpec, Plan
from passes.int4_weights import Int4Weights
from passes.int8_dynamic import Int8Dynamic
from tests.quantizing import ANY_CPU, batches, build, run, weights, whole_batches
from tests.targets import usable

WIDTH = 32


class Blocks(nn.Module):
    """Four products behind normalizations; the second one reads two columns a hundred times larger than all others."""

    def __init__(self, outliers):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        norms = [nn.LayerNorm(WIDTH) for _ in range(4)]
        with torch.no_grad():
            if outliers:
                norms[1].weight[:2] = 100.0
                layers[1].weight[:, :2] /= 100.0
        self.layers, self.norms = nn.ModuleList(layers), nn.ModuleList(norms)

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + torch.tanh(layer(norm(x)))
        return x


DATA = [{"x": np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)}]


def rewritten(outliers, **asked):
    original = api.load(Blocks(outliers).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    artifact = api.rewrite(api.export(original), original)
    found = api.rewrite(artifact, original, calibrate=DATA, **{"passes": ["none"], **asked})
    (step,) = (step for step in found.steps if step.exactness == "lossy")
    return step


@pytest.fixture(scope="module")
def by_name():
    """What the pass alone makes of it: everything is quantized."""
    return rewritten(True, passes=["none", "int8-static"])


def test_the_outlier_stays_float_and_the_outputs_gain(by_name):
    step = rewritten(True, to="int8-static")
    assert set(by_name.sites) - set(step.sites) >= {"linear_1"}
    assert {"linear", "linear_2", "linear_3"} <= set(step.sites)
    assert step.sqnr["output"] > by_name.sqnr["output"] + 6


def test_nothing_is_given_up_where_nothing_stands_out():
    step = rewritten(False, to="int8-static")
    assert {"linear", "linear_1", "linear_2", "linear_3"} <= set(step.sites)


@pytest.mark.parametrize("to", ["int8", "int8-dynamic"])
def test_what_one_node_loses_whole_is_an_outlier_too(to, tmp_path):
    """A column that is far larger than the others, of which the product makes next to nothing: no 8 bits hold both."""
    arrays = weights(0, w=(64, 64), v=(64, 32), u=(32, 32))
    arrays["v"][5] *= 1e-6
    scale = np.ones(64, np.float32)
    scale[5] = 2e4
    text = """agraph (float[4,64] x) => (float[4,32] y) {
        h = MatMul(x, w)
        g = Mul(h, s)
        k = MatMul(g, v)
        r = Relu(k)
        y = MatMul(r, u)
    }"""
    before = build(text, {**arrays, "s": scale}, opset=21)
    ir.save(before, tmp_path / "model.onnx")
    original = api.load(str(tmp_path / "model.onnx"))
    found = api.rewrite(api.export(original), original, passes=["none"], to=to)
    x = {"x": np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)}
    path = write_model(found.model, tmp_path)
    given = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["y"], x)[0]
    assert sqnr(run(before, x)["y"], given) > 30
    assert {site for step in found.steps for site in step.sites} == {"h", "y"}


def test_what_outliers_cost_in_4_bits_they_get_in_8():
    original = api.load(Blocks(False).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    artifact = api.rewrite(api.export(original), original)
    alone = api.rewrite(artifact, original, passes=["none", "int4-weights"])
    mixed = api.rewrite(artifact, original, passes=["none"], to="int4-weights")
    steps = {step.spec.name: step for step in mixed.steps if step.exactness == "lossy"}
    assert list(steps) == ["int4-weights", "int8-weights"]
    assert 1 <= len(steps["int8-weights"].sites) < len(steps["int4-weights"].sites)
    assert steps["int8-weights"].sqnr["output"] > alone.steps[-1].sqnr["output"]


@pytest.mark.parametrize(
    ("opset", "formats", "gained"), [(23, ["int8-dynamic", "int8-weights"], 1), (20, ["int8-dynamic"], 6)]
)
def test_outliers_of_the_default_keep_8_bits_where_the_graph_may_hold_blocks(opset, formats, gained):
    """In blocks inputs are rounded too, so that it gains less."""
    original = api.load(Blocks(True).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    exported = api.export(original, opset=opset)
    mixed = api.rewrite(exported, original, passes=["none"], to="int8")
    alone = api.rewrite(exported, original, passes=["none", "int8-dynamic"])
    steps = {step.spec.name: step for step in mixed.steps if step.exactness == "lossy"}
    assert list(steps) == formats
    assert "linear_1" not in steps["int8-dynamic"].sites
    assert "int8-weights" not in steps or "linear_1" in steps["int8-weights"].sites
    assert not any(step.requested for name, step in steps.items() if name == "int8-weights")
    assert mixed.steps[-1].sqnr["output"] > alone.steps[-1].sqnr["output"] + gained


@pytest.mark.parametrize(("opset", "instead"), [(21, "int8-weights"), (20, "float")])
def test_outliers_on_openvino_keep_8_bits_where_the_graph_may_hold_blocks(monkeypatch, opset, instead):
    usable("openvino/cpu")
    monkeypatch.setattr("mlc.plan.formats.multiplies_integers", lambda: True)
    original = api.load(Blocks(True).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    exported = api.export(original, opset=opset)
    found = api.rewrite(exported, original, passes=["none"], to="int8", calibrate=DATA, target="openvino/cpu")
    formats = {site: step.spec.name for step in found.steps if step.exactness == "lossy" for site in step.sites}
    assert formats.get("linear_1", "float") == instead
    assert {formats[site] for site in ("linear", "linear_2", "linear_3")} == {"int8-static"}


class Tied(nn.Module):
    """Ids through one table that is their embedding and the head; layers between them are of their own, or one."""

    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(64, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids):
        x = self.table(ids)
        for place in range(8):
            x = x + torch.tanh(self.layers[place % len(self.layers)](x))
        return self.norm(x) @ self.table.weight.T


@pytest.mark.parametrize("layers", [8, 1])
def test_readers_of_one_weight_get_a_better_format_together(layers):
    original = api.load(Tied(layers).eval(), inputs=["ids=int64[batch=1..4,n=1..8] in 0..63"])
    exported = api.rewrite(api.export(original, opset=23), original)
    found = api.rewrite(exported, original, passes=["none"], to="int4-weights")
    format_of = {site: step.spec.name for step in found.steps for site in step.sites}
    assert format_of["embedding"] == format_of["output"] == "int8-weights"
    between = {format_of[site] for site in format_of.keys() - {"embedding", "output"}}
    assert between == {"int4-weights"}
    assert len(format_of) == 10


def test_a_pass_that_is_named_beside_the_default_is_more_than_a_reserve():
    original = api.load(Blocks(False).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    exported = api.export(original, opset=23)
    found = api.rewrite(exported, original, passes=["none", "int8-weights:block=32"], to="int8")
    (step,) = found.steps
    assert (str(step.spec), step.requested) == ("int8-weights:block=32", True)
    assert step.sites == ("linear", "linear_1", "linear_2", "linear_3")


def test_a_graph_in_which_layers_cannot_be_tried_alone_keeps_its_plan(workspace):
    """Blocks of opset 21 do not stand in a graph of opset 20."""
    text = """agraph (float[n,32] x) => (float[n,32] y) {
        h = MatMul(x, w)
        y = MatMul(h, v)
    }"""
    made = weights(0, w=(32, 32), v=(32, 32))
    before, after = build(text, made), build(text, made, opset=21)
    change = Int4Weights(block=32, form="standard").apply(after, Context(ANY_CPU))
    plan = Plan(tuple(NodePlan(site, "MatMul", "int4-weights", "") for site in change.sites))
    step = Step(PassSpec("int4-weights"), "lossy", True, change.sites, sqnr={"y": 20.0})
    data = batches({"x": np.ones((2, 32), np.float32)})
    looking = Outliers(SEARCHES["int4-weights"], data, workspace)
    with pytest.raises(TargetError):
        output_sensitivity(before, after, [("h",), ("y",)], data, workspace)
    assert looking.amended(before, after, plan, [step]) == plan


def test_a_recurrent_layer_counts_for_its_work_without_its_first_output(workspace):
    """The product reads a large column that its weight hardly uses; beside the LSTM it is little work."""
    text = """agraph (float[7,n,5] x, float[n,8] z) => (float[1,n,6] h, float[n,6] y) {
        , h = LSTM<hidden_size = 6>(x, w, r)
        y = MatMul(z, v)
    }"""
    made = weights(0, w=(1, 24, 5), r=(1, 24, 6), v=(8, 6))
    made["v"][0] /= 1000
    before = build(text, made)
    after = before.clone()
    kernels = ("com.microsoft.DynamicQuantizeLSTM",)
    change = Int8Dynamic().apply(after, Context(Capabilities("any CPU", kernels=kernels)))
    assert change.sites == ("h", "y")
    plan = Plan(tuple(NodePlan(site, op, "int8-dynamic", "") for site, op in (("h", "LSTM"), ("y", "MatMul"))))
    generator = np.random.default_rng(1)
    x, z = (generator.normal(size=shape).astype(np.float32) for shape in ((7, 4, 5), (4, 8)))
    z[:, 0] *= 1000
    looking = Outliers(SEARCHES["int8-dynamic"], [Batch({"x": x, "z": z}, None, 4, 0, np.arange(4))], workspace)
    step = Step(PassSpec("int8-dynamic"), "lossy", True, change.sites, sqnr={"y": 10.0})
    found = looking.amended(before, after, plan, [step])
    assert [entry.format for entry in found.nodes] == ["int8-dynamic", "float"]


def test_an_outlier_in_a_branch_is_found(workspace):
    """The product there reads a large column that its weight hardly uses; beside it the others are most of the work."""
    text = """agraph (float[n,32] x, float[n,8] z, bool c) => (float[n,32] y) {
        p = MatMul(x, w)
        y = If(c) <then_branch = one () => (float[n,32] a) { q = MatMul(z, v) r = MatMul(p, u) a = Add(q, r) },
                   else_branch = two () => (float[n,32] b) { b = Neg(p) }>
    }"""
    made = weights(0, w=(32, 32), u=(32, 32), v=(8, 32))
    made["v"][0] /= 1000
    before = build(text, made)
    after = before.clone()
    change = Int8Dynamic().apply(after, Context(ANY_CPU))
    assert change.sites == ("p", "y.then_branch/q", "y.then_branch/r")
    plan = Plan(tuple(NodePlan(site, "MatMul", "int8-dynamic", "") for site in change.sites))
    generator = np.random.default_rng(1)
    x, z = (generator.normal(size=shape).astype(np.float32) for shape in ((4, 32), (4, 8)))
    z[:, 0] *= 1000
    looking = Outliers(SEARCHES["int8-dynamic"], whole_batches({"x": x, "z": z, "c": np.array(True)}), workspace)
    step = Step(PassSpec("int8-dynamic"), "lossy", True, change.sites, sqnr={"y": 10.0})
    found = looking.amended(before, after, plan, [step])
    assert {entry.node: entry.format for entry in found.nodes}["y.then_branch/q"] == "float"
    assert [entry.format for entry in found.nodes].count("float") == 1


RELUS = """agraph (float[batch,16] x) => (float[batch,16] y) {
    a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) t = Relu(b) c = MatMul(t, w2) u = Relu(c)
    d = MatMul(u, w0) v = Relu(d) y = MatMul(v, w0)
}"""


def test_an_outlier_behind_a_relu_takes_with_it_what_makes_its_codes(tmp_path):
    """One column of b is 300 times larger than all others: the Relu behind it writes codes for the product c."""
    arrays = weights(0, w0=(16, 16), w1=(16, 16), w2=(16, 16))
    arrays["w1"][:, 3] *= 300
    arrays["w2"][3] /= 300
    path = tmp_path / "m.onnx"
    onnx.save(ir.to_proto(build(RELUS, arrays)), path)
    data = [{"x": np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)}]
    original = api.load(str(path), inputs=["x=float32[batch=1..64,16]"])
    with pytest.raises(PassError, match="below its floor"):
        api.rewrite(api.export(original), original, passes=["none", "int8-static"], calibrate=data)
    found = api.rewrite(api.export(original), original, to="int8-static", calibrate=data)
    (step,) = (step for step in found.steps if step.exactness == "lossy")
    assert {"a", "d", "y"} <= set(step.sites)
    assert {"b", "t", "c"}.isdisjoint(step.sites)
    assert step.sqnr["y"] > 25


REPEATED = """<ir_version: 10, opset_import: ["": 20]>
agraph (float[4,64] x) => (float[4,64] y) <int64 three = {3}> {
    h, all = Loop<body = body (int64 i, bool go, float[4,64] s) => (bool on, float[4,64] h, float[4,64] q) {
        on = Identity(go) q = MatMul(s, w) h = Tanh(q) }>(three, , x)
    y = Tanh(h) }"""


def test_what_a_loop_gives_may_be_called_as_what_its_body_gives(tmp_path):
    """The names of both are one word in the file; each node's cost is found all the same."""
    model = onnx.parser.parse_model(REPEATED)
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 64)).astype(np.float32)
    weight[:, 0] *= 300
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "loop.onnx")
    original = api.load(tmp_path / "loop.onnx")
    exported = api.export(original)
    names = [value.name for graph in exported.model.graphs() for node in graph for value in node.outputs if value.name]
    assert len(names) == len(set(names))
    data = [{"x": generator.standard_normal((4, 64)).astype(np.float32)}]
    found = api.rewrite(exported, original, to="int8", calibrate=data)
    session = onnxruntime.InferenceSession(write_model(found.model, tmp_path).as_posix())
    assert sqnr(original.run(data[0])["y"], session.run(None, data[0])[0]) > 10
