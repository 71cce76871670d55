"""What a node takes alone: what is taken out of both graphs to be timed, and where the figures are told."""

import tomllib

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlc import api
from mlc.artifact import Step
from mlc.explaining import NodeCost, NodeTime, node_times
from mlc.explaining.explain import explain
from mlc.graph_pass import Context
from mlc.pipeline.outliers import SEARCHES, Outliers
from mlc.plan import plan_toml, read_plan
from mlc.runtimes import opening
from mlc.types import NodePlan, PassSpec, Plan, Target
from passes.int8_dynamic import Int8Dynamic
from tests.quantizing import ANY_CPU, VNNI, batches, build, quantized, weights
from tests.test_node_costs import OUTLIER, SITES, models, samples  # noqa: F401 - fixtures

pytestmark = pytest.mark.needs_onnxruntime

CHAIN = """agraph (float[n,3,8,8] x) => (float[n,4,8,8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w)
    r = Relu(a)
    y = Conv<pads = [1, 1, 1, 1]>(r, v)
}"""


@pytest.fixture
def timed(monkeypatch, workspace):
    """Times sites of two graphs for one input, and returns the figures and the graphs that were opened, by pairs."""
    opened = []
    real = opening.open_session

    def recording(path, *rest):
        opened.append(onnx.load(path, load_external_data=False).graph)
        return real(path, *rest)

    monkeypatch.setattr(node_times, "open_session", recording)

    def run(before, after, sites, inputs):
        found = node_times.node_times(before, after, sites, inputs, workspace, target=Target(threads=1))
        return found, dict(zip(found, zip(opened[1::2], opened[2::2], strict=True), strict=True))

    return run


def ops(graph):
    return [node.op_type for node in graph.node]


def names(values):
    return [value.name for value in values]


@pytest.fixture(scope="module")
def chain():
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    model = build(CHAIN, weights(0, w=(4, 3, 3, 3), v=(4, 4, 3, 3)))
    return quantized(model, batches({"x": x}), capabilities=VNNI), {"x": x}


def test_a_node_is_taken_with_what_it_quantizes_and_what_its_quantizer_does(timed, chain):
    found, inputs = chain
    times, graphs = timed(found.before, found.model, ["a", "y"], inputs)
    plain, codes = graphs["a"]
    assert (ops(plain), names(plain.input), names(plain.output)) == (["Conv", "Relu"], ["x"], ["r"])
    assert ops(codes) == ["QuantizeLinear", *["DequantizeLinear"] * 2, "Conv", "QuantizeLinear"]
    assert (names(codes.input), names(codes.output)) == (["x"], ["r.quantized"])
    assert set(times) == {"a", "y"}
    assert all(one.plain > 0 and one.quantized > 0 for one in times.values())


def test_a_node_that_reads_codes_of_another_is_given_them(timed, chain):
    found, inputs = chain
    _, graphs = timed(found.before, found.model, ["y"], inputs)
    plain, codes = graphs["y"]
    assert (ops(plain), names(plain.input)) == (["Conv"], ["r"])
    assert names(codes.input) == ["r.quantized"]
    assert codes.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert ops(codes)[:2] == ["DequantizeLinear", "DequantizeLinear"]


def test_a_product_with_scales_of_its_own_reads_floats(timed, models):  # noqa: F811
    before, after = models
    x = np.ones((2, 16), np.float32)
    _, graphs = timed(before, after, [OUTLIER], {"x": x})
    plain, codes = graphs[OUTLIER]
    assert (ops(plain), names(plain.input)) == (["MatMul"], ["z"])
    assert names(codes.input) == ["z"]
    assert "DynamicQuantizeLinear" in ops(codes)


def test_what_one_graph_does_not_have_is_left_out(timed, models):  # noqa: F811
    before, after = models
    found, _ = timed(before, after, ["a0", "nowhere"], {"x": np.ones((2, 16), np.float32)})
    assert set(found) == {"a0"}


def test_the_last_are_left_out_where_time_is_up(timed, models, monkeypatch):  # noqa: F811
    monkeypatch.setattr(node_times, "BUDGET", 0)
    before, after = models
    assert timed(before, after, SITES, {"x": np.ones((2, 16), np.float32)})[0] == {}


def test_what_the_float_graph_quantizes_itself_has_no_float_form(timed, chain):
    found, inputs = chain
    after = found.model.clone()
    assert timed(found.model, after, ["a", "y"], inputs)[0] == {}


def test_calling_the_runtime_is_no_time_of_a_node(models, workspace, monkeypatch):  # noqa: F811
    before, after = models
    monkeypatch.setattr(node_times, "_milliseconds", lambda run: (run(), 0.25)[1])
    inputs = {"x": np.ones((2, 16), np.float32)}
    found = node_times.node_times(before, after, ["a0"], inputs, workspace, target=Target())
    assert found == {"a0": NodeTime(0.0, 0.0)}


def test_more_work_takes_longer(timed):
    text = """agraph (float[n,512] x) => (float[n,512] y) {
        a = MatMul(x, w)
        s = Slice(x, zero, two, one)
        b = MatMul(s, v)
        m = ReduceMean(b)
        y = Add(a, m)
    }"""
    held = weights(0, w=(512, 512), v=(2, 2))
    held |= {"zero": np.array([0]), "two": np.array([2]), "one": np.array([1])}
    before = build(text, held)
    after = before.clone()
    Int8Dynamic().apply(after, Context(ANY_CPU))
    found, _ = timed(before, after, ["a", "b"], {"x": np.ones((256, 512), np.float32)})
    assert found["a"].plain > found["b"].plain
    assert found["a"].quantized > found["b"].quantized


def test_an_explanation_tells_what_each_node_takes(models, samples, workspace, tmp_path):  # noqa: F811
    before, after = models
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", samples, workspace)
    assert told is not None
    assert {node.node for node in told.nodes if node.time is not None} == set(SITES)


def test_a_model_that_does_not_run_on_the_target_is_explained_without(models, samples, workspace, tmp_path):  # noqa: F811
    before, after = models
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", samples, workspace, target=Target(provider="tensorrt"))
    assert told is not None
    assert not any(node.time for node in told.nodes)
    assert [note for note in told.notes if note.startswith("what each node takes is not known: ")]


def test_of_other_runtimes_it_is_said_that_nothing_is_told(models, samples, workspace, tmp_path):  # noqa: F811
    before, after = models
    ir.save(after, tmp_path / "model.onnx")
    told = explain(before, tmp_path / "model.onnx", samples, workspace, target=Target(runtime="openvino"))
    assert told is not None
    assert not any(node.time for node in told.nodes)
    assert "what each node takes is told for onnxruntime alone, not for openvino" in told.notes


def test_the_plan_says_what_an_outlier_takes(models, samples, workspace):  # noqa: F811
    before, after = models
    plan = Plan(tuple(NodePlan(site, "MatMul", "int8-dynamic", "constant weight") for site in SITES))
    step = Step(PassSpec("int8-dynamic"), "lossy", True, tuple(SITES), sqnr={"y": 20.0})
    amended = Outliers(SEARCHES["int8-dynamic"], samples, workspace).amended(before, after, plan, [step])
    (reason,) = [entry.reason for entry in amended.nodes if entry.node == OUTLIER]
    assert reason.startswith("an outlier: alone it leaves y at ")
    assert reason.endswith(" ms quantized")


def test_remarks_of_a_plan_are_comments(tmp_path):
    name = 'odd"\n[x]'
    plan = Plan((NodePlan(name, "MatMul", "int8-dynamic", "because"), NodePlan("b", "MatMul", "float", "because")))
    text = plan_toml(plan, remarks={name: str(NodeCost(name, "MatMul", 12.25, name, time=NodeTime(0.5, 0.25)))})
    assert text.splitlines()[0].endswith(" at 12.2 dB; 0.500 ms in float, 0.250 ms quantized")
    assert [table["name"] for table in tomllib.loads(text)["node"]] == [name, "b"]
    (tmp_path / "plan.toml").write_text(text)
    assert read_plan(tmp_path / "plan.toml").plan == plan


def test_the_written_plan_says_of_each_converted_node_what_it_costs_and_takes(tmp_path):
    model = build("agraph (float[n,64] x) => (float[n,64] y) { a = MatMul(x, w)\n r = Relu(a)\n y = MatMul(r, v) }",
                  weights(0, w=(64, 64), v=(64, 64)))  # fmt: skip
    ir.save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(32, 64)).astype(np.float32))
    api.compile(
        str(tmp_path / "m.onnx"),
        out=str(tmp_path / "o"),
        to="int8-dynamic",
        inputs=["x=float32[n=1..64,64]"],
        data=str(tmp_path / "d.npz"),
    )
    remarks = [line for line in (tmp_path / "o" / "plan.toml").read_text().splitlines() if line.startswith("#")]
    assert len(remarks) == 2
    assert all(line.startswith("# alone it leaves y at ") and line.endswith(" ms quantized") for line in remarks)
