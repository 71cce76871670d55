"""int8-dynamic beside what the runtime's own tool makes, and on ONNX's backend models."""

import pkgutil
from dataclasses import replace

import onnx
import onnx.backend.test.case.node as operators
import onnx_ir as ir
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from mlc.artifact import Artifact, Origin, write_model
from mlc.compare import Reference
from mlc.rewriting import rewrite
from mlc.types import Dim, InputSpec, OutputSpec, PassSpec, Signature
from tests.backend_models import FORMS, NOT_RUN, SAME, Rewritten, cases, judged, with_initializers
from tests.dynamic import WITH_LSTM, dynamic, lstm
from tests.quantizing import VNNI, build, weights

pytestmark = pytest.mark.needs_onnxruntime


def by_the_runtime(model, folder):
    """What onnxruntime.quantization.quantize_dynamic makes of a model: signed bytes, a scale for each channel."""
    onnx.save(ir.to_proto(model), folder / "before.onnx")
    quantize_dynamic(folder / "before.onnx", folder / "after.onnx", per_channel=True, weight_type=QuantType.QInt8)
    return ir.load(folder / "after.onnx")


LAYERS = """agraph (float[n,24] x) => (float[n,5] y) {
    a = MatMul(x, w1)
    b = Add(a, b1)
    r = Relu(b)
    y = Gemm<transB = 1>(r, w2, b2)
}"""


def layers():
    return build(LAYERS, weights(0, w1=(24, 40), b1=(40,), w2=(5, 40), b2=(5,)))


@pytest.mark.parametrize(("model", "loss"), [(layers(), 0.01), (lstm(), 3.0)], ids=["layers", "lstm"])
def test_no_worse_than_the_tool_of_the_runtime_and_the_same_kernels(model, loss, tmp_path):
    """An LSTM loses a little for speed: its recurrence weight has one scale where the columns are alike."""
    ours = dynamic(model, capabilities=replace(VNNI, kernels=WITH_LSTM.kernels))
    theirs = replace(ours, model=by_the_runtime(model, tmp_path))
    assert ours.sqnr() > theirs.sqnr() - loss
    assert ours.fused_ops(tmp_path) == theirs.fused_ops(tmp_path)


def through_int8_dynamic(case, answers, workspace):
    """What the verified line makes of a model of the onnx package's backend tests."""
    inputs = tuple(InputSpec(n, a.dtype.name, tuple(Dim(s, s) for s in a.shape)) for n, a in case.feeds.items())
    outputs = tuple(OutputSpec(name, array.dtype.name, array.shape) for name, array in answers.items())
    before = Artifact({"model": ir.from_proto(case.model)}, Signature(inputs, outputs), Origin(case.name, "", "", 0))
    kept = [Reference({}, case.feeds, answers)]
    done = rewrite(before, [PassSpec("int8-dynamic")], references=kept, workspace=workspace, capabilities=WITH_LSTM)
    (step,) = done.steps
    return Rewritten(write_model(done.model, workspace.folder("after")), 0.1 if step.sites else 0.0, done.steps)


BACKEND = {"gemm": 11, "lstm": 5, "matmul": 7}
"""Modules of the onnx package's backend tests, and the nodes that are quantized where inputs are initializers."""

OTHERS = {module.name for module in pkgutil.iter_modules(operators.__path__)} - BACKEND.keys()


@pytest.mark.parametrize("module", BACKEND)
@pytest.mark.parametrize("form", FORMS)
def test_models_of_the_backend_tests(module, form):
    made = [case for case in cases(OTHERS) if case.name.startswith(f"node/test_{module}_")]
    verdicts = [judged(case if form == FORMS[0] else with_initializers(case), through_int8_dynamic) for case in made]
    assert {each.outcome for each in verdicts if each.outcome != NOT_RUN} == {SAME}
    sites = sum(len(each.steps[0].sites) for each in verdicts if each.steps)
    assert sites == (0 if form == FORMS[0] else BACKEND[module])
