"""int8-dynamic of an LSTM, and where its kernel is."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import mlc
from mlc.cli import main
from mlc.emulate import saturation_proof
from mlc.registry import optional_probes_of
from mlc.runtimes.cpu import capabilities, runtime_saturates
from mlc.runtimes.kernels import HEAD
from mlc.types import PassSpec, Target
from passes import _dynamic
from passes.int8_dynamic import WHOLE_BATCH, Int8Dynamic
from tests.dynamic import LSTMS, WITH_LSTM, bytes_of, dynamic, lstm, refusals
from tests.quantizing import VNNI, build, weights

pytestmark = pytest.mark.needs_onnxruntime


@pytest.mark.parametrize("able", [WITH_LSTM, replace(VNNI, kernels=WITH_LSTM.kernels)])
@pytest.mark.parametrize("form", LSTMS)
def test_an_lstm_where_the_target_has_its_kernel(form, able):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=able)
    (node,) = found.nodes("DynamicQuantizeLSTM")
    assert found.change.sites == (("yh",) if form == "its state alone" else ("y",))
    assert node.domain == "com.microsoft"
    assert found.change.notes == (WHOLE_BATCH,)
    assert {value.dtype for value in node.inputs[1:3]} == {ir.DataType.INT8}
    if able.vnni and runtime_saturates():
        pytest.skip("whole 8-bit weights saturate on this CPU; what is written for those that do not is not run here")
    assert found.sqnr(optimize=False) > 28
    assert found.sqnr() > 28


def test_weights_that_several_lstms_read_are_stored_once():
    text = """agraph (float[7,3,5] x) => (float[7,1,3,5] z) {
        y = LSTM<hidden_size = 5>(x, w, w)
        s = Squeeze(y, one)
        z = LSTM<hidden_size = 5>(s, w, w)
    }"""
    found = dynamic(build(text, weights(0, w=(1, 20, 5)) | {"one": np.array([1])}), capabilities=WITH_LSTM)
    assert found.change.sites == ("y", "z")
    assert bytes_of(found.model) == 100 + 20
    assert found.sqnr() > 25


def scales(model):
    """The scales of both weights of an LSTM of codes, each with zero points of the same shape."""
    (node,) = [node for node in model.graph if node.op_type == "DynamicQuantizeLSTM"]
    assert [node.inputs[at].shape for at in (8, 10)] == [node.inputs[at].shape for at in (9, 11)]
    return [node.inputs[at].const_value.numpy() for at in (8, 10)]


@pytest.mark.parametrize("form", ["plain", "both ways"])
def test_a_recurrence_weight_of_columns_that_are_alike_has_one_scale(form):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=WITH_LSTM)
    directions = LSTMS[form].get("directions", 1)
    assert [each.shape for each in scales(found.model)] == [(directions, 20), (directions,)]
    assert found.sqnr() > 28


@pytest.mark.parametrize("form", ["plain", "both ways"])
def test_a_recurrence_weight_with_a_column_that_is_larger_has_a_scale_for_each(form):
    model = lstm(**LSTMS[form])
    weight = model.graph.initializers["r"]
    larger = weight.const_value.numpy().copy()
    larger[-1, 3] *= 30
    weight.const_value = ir.tensor(larger)
    found = dynamic(model, capabilities=WITH_LSTM)
    directions = LSTMS[form].get("directions", 1)
    assert [each.shape for each in scales(found.model)] == [(directions, 20), (directions, 20)]
    (codes,) = [each.const_value.numpy() for name, each in found.model.graph.initializers.items() if name == "r.int8"]
    error = np.abs(codes * scales(found.model)[1][:, np.newaxis] - larger.transpose(0, 2, 1)).max(axis=1)
    assert (error < np.abs(larger).max(axis=2) / 100).all()


def test_an_lstm_stays_float_in_standard_output():
    found = dynamic(lstm())
    assert found.change.sites == ()
    assert [(each.site, each.reason) for each in found.change.refused] == [
        ("y", "ONNX has no integer LSTM, and onnxruntime's own is not for this target or for portable output")
    ]
    assert found.change.notes == ()


@pytest.mark.parametrize("form", ["plain", "both ways"])
def test_no_product_sum_of_an_lstm_saturates(form):
    model = lstm(**LSTMS[form])
    found = dynamic(model, capabilities=WITH_LSTM)
    assert saturation_proof(found.model)[0].startswith("no product sum saturates on: onnxruntime")
    full = dynamic(model, capabilities=replace(VNNI, kernels=WITH_LSTM.kernels))
    assert saturation_proof(full.model)[0].startswith("product sums may saturate on onnxruntime")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"attributes": ", layout = 1", "outputs": "y"},
            "its batch comes first, which the integer kernel does not know",
        ),
        ({"inputs": "x, x, r"}, "its weight is not constant"),
        ({"inputs": "x, w, x"}, "its recurrence weight is not constant"),
    ],
)
def test_an_lstm_that_the_kernel_does_not_know_is_refused(change, reason):
    model = lstm(**change)
    assert refusals(model, WITH_LSTM) == [("y", reason)]


def test_an_lstm_of_long_sums_is_refused(monkeypatch):
    monkeypatch.setattr(_dynamic, "LONGEST_SUM", 5)
    assert refusals(lstm(), WITH_LSTM) == [("y", "sums of 6 products may leave 32 bits")]


PROBES = optional_probes_of([PassSpec("int8-dynamic")])


@pytest.mark.parametrize(
    "target", [Target(), Target(device="native"), Target(options=(("session.disable_prepacking", "1"),))]
)
def test_a_cpu_is_seen_to_have_the_lstm(target):
    assert capabilities(target, {}, PROBES).kernels == ("com.microsoft.DynamicQuantizeLSTM",)


@pytest.mark.parametrize("target", [Target("openvino", "cpu"), Target(provider="nowhere")])
def test_another_runtime_has_no_such_lstm(target):
    assert capabilities(target, {}, PROBES).kernels == ()


def test_it_asks_for_what_it_writes():
    (text,) = Int8Dynamic.may_use_kernels.values()
    onnx.checker.check_model(onnx.parser.parse_model(HEAD.format(domain="com.microsoft", graph=text)))


def test_portable_output_keeps_an_lstm_float(tmp_path, quick, capsys):
    onnx.save(ir.to_proto(lstm()), tmp_path / "lstm.onnx")
    arguments = ["--to", "int8-dynamic", "--portable", "--out", str(tmp_path / "out")]
    assert main(["quantize", str(tmp_path / "lstm.onnx"), *arguments]) == 4
    assert "int8-dynamic" in capsys.readouterr().err


def test_an_lstm_is_quantized_where_it_need_not_be_portable(tmp_path):
    onnx.save(ir.to_proto(lstm()), tmp_path / "lstm.onnx")
    original = mlc.load(tmp_path / "lstm.onnx")
    artifact = mlc.rewrite(mlc.export(original), original, passes=["int8-dynamic"])
    step = artifact.steps[-1]
    assert (step.sites, step.notes) == (("y",), (WHOLE_BATCH,))
    assert step.sqnr["y"] > 28
