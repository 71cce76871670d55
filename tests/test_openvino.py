"""OpenVINO as a runtime of its own: the same session as any other, in float32, with what it cannot do as a sentence."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from mlc.errors import DataError, SourceError, TargetError
from mlc.grammar.values import parse_target
from mlc.measuring import Candidate
from mlc.measuring.trials import refuse_other_placement
from mlc.runtimes.opening import open_session, profile_run
from mlc.runtimes.openvino_settings import PRECISION, reason
from mlc.runtimes.strict import refuse_fallbacks
from mlc.types import Target
from tests import onnx_models
from tests.targets import quantized, usable

CPU = Target("openvino", "cpu")
ONES = {"x": np.ones((2, 4), np.float32)}
HEAD = '<ir_version: 8, opset_import: ["" : 17]> model '
X86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.fixture(scope="module", autouse=True)
def device():
    """What OpenVINO's CPU is here; the tests are skipped where it does not run."""
    return usable("openvino/cpu")[1]


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


def message(error):
    return f"{error.value.message} | {error.value.hint}"


# sessions


def test_a_session_runs_by_name(layer):
    with open_session(layer, CPU) as session, open_session(layer, Target()) as expected:
        assert session.provider == "OpenVINO CPU"
        np.testing.assert_allclose(session.run(ONES)["y"], expected.run(ONES)["y"], rtol=1e-6)


def test_outputs_are_picked_in_the_order_asked(tmp_path):
    path = onnx_models.write(tmp_path / "two.onnx", onnx_models.TWO_INPUTS)
    inputs = {"right": np.array([[1, 2]]), "left": np.array([[0.5, 0.5]], np.float32)}
    with open_session(path, CPU) as session:
        assert list(session.run(inputs)) == ["sum", "twice"]
        assert list(session.run(inputs, ["twice", "sum"])) == ["twice", "sum"]
        assert session.run(inputs, ["twice"])["twice"].tolist() == [[2, 4]]
        assert [list(map(list, array)) for array in session.timed(inputs)()] == [[[1.5, 2.5]], [[2, 4]]]
        with pytest.raises(DataError, match="has no output 'once'"):
            session.run(inputs, ["once"])


@pytest.mark.parametrize(
    ("graph", "inputs", "expected"),
    [
        ("(float x) => (float y) { y = Neg(x) }", {"x": np.array(1, np.float32)}, {"y": -1}),
        ("(bool[n] x) => (bool[n] y) { y = Not(x) }", {"x": np.array([True, False])}, {"y": [False, True]}),
        ("(float16[n] x) => (float16[n] y) { y = Abs(x) }", {"x": np.array([-1], np.float16)}, {"y": [1]}),
        ("(double[n] x) => (double[n] y) { y = Abs(x) }", {"x": np.array([-1.0])}, {"y": [1]}),
        ("(float[n] x) => (int64[1] y) { y = Shape(x) }", {"x": np.ones(3, np.float32)}, {"y": [3]}),
        (
            "(float[n] x, float[2] unused) => (float[n] x, float[n] h, float[n] y) { h = Neg(x) y = Identity(h) }",
            {"x": np.ones(1, np.float32), "unused": np.ones(2, np.float32)},
            {"x": [1], "h": [-1], "y": [-1]},
        ),
    ],
)
def test_kinds_of_values_and_interfaces(tmp_path, graph, inputs, expected):
    path = onnx_models.write(tmp_path / "model.onnx", HEAD + graph)
    with open_session(path, CPU) as session, open_session(path, Target()) as other:
        found = session.run(inputs)
        assert {name: array.tolist() for name, array in found.items()} == expected
        assert [array.dtype for array in found.values()] == [array.dtype for array in other.run(inputs).values()]


def test_outputs_are_the_callers_own(layer):
    with open_session(layer, CPU) as session:
        first = session.run(ONES)["y"]
        kept = first.copy()
        session.run({"x": 5 * ONES["x"]})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "layer.onnx needs the input 'x'"),
        ({"xx": ONES["x"]}, "layer.onnx has no input 'xx' | did you mean x?"),
        ({"x": np.ones((2, 4))}, "the input x of layer.onnx is float32, given float64"),
        ({"x": np.ones((2, 5), np.float32)}, "has size 4 at axis 1, given 5"),
    ],
)
def test_arrays_that_do_not_fit(layer, inputs, said):
    with open_session(layer, CPU) as session, pytest.raises(DataError) as error:
        session.run(inputs)
    assert said in message(error)


@pytest.mark.parametrize(("content", "said"), [(None, "there is no model file"), (b"", "empty"), (b"text", "corrupt")])
def test_files_that_are_no_models(tmp_path, content, said, capfd):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError) as error:
        open_session(path, CPU)
    assert said in message(error)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_it_does_not_have(tmp_path):
    path = onnx_models.write(tmp_path / "det.onnx", HEAD + "(float[2,2] x) => (float y) { y = Det(x) }")
    with pytest.raises(TargetError) as error:
        open_session(path, CPU)
    said = "loading det.onnx on openvino/cpu failed: No conversion rule found for operations: Det-17"
    assert error.value.message == said


def test_a_reason_stands_without_the_runtimes_own_source():
    text = "Exception from src/core.cpp:132:\nCheck 'false' failed at src/x.cpp:1:\nSummary:\n-- No rule\n\n"
    assert reason(RuntimeError(text)) == "No rule"
    assert reason(RuntimeError("")) == "no message"


# targets


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("openvino/teapot", "OpenVINO finds no device TEAPOT here | there is: openvino/cpu"),
        ("openvino/auto", "OpenVINO finds no device AUTO here"),
        ("openvino/cpu:7", "OpenVINO finds no device CPU.7 here"),
        ("openvino/cpu,NUM_STREAM=1", "has no property 'NUM_STREAM' to set | did you mean NUM_STREAMS"),
        ("openvino/cpu,FULL_DEVICE_NAME=x", "has no property 'FULL_DEVICE_NAME' to set"),
        ("openvino/cpu,threads=2,INFERENCE_NUM_THREADS=1", "gives both threads and INFERENCE_NUM_THREADS"),
        (
            "openvino/cpu,NUM_STREAMS=many",
            "loading layer.onnx on openvino/cpu failed: Could not read number of streams",
        ),
    ],
)
def test_targets_that_cannot_be_used(layer, text, said):
    with pytest.raises(TargetError) as error:
        open_session(layer, parse_target(text))
    assert said in message(error)


def test_session_options_of_another_runtime_are_refused(layer):
    with pytest.raises(TargetError, match=r"layer\.onnx ships with the session option 'session\.x', which OpenVINO's"):
        open_session(layer, CPU, {"session.x": "1"})


def compiled_with(layer, text):
    """A property of the compiled model, by its name."""
    with open_session(layer, parse_target(text)) as session:
        return lambda key, compiled=session.compiled: compiled.get_property(key)  # type: ignore[attr-defined]


def test_floats_are_float32_unless_the_target_says_otherwise(layer):
    assert compiled_with(layer, "openvino/cpu")(PRECISION).get_type_name() == "f32"
    asked = parse_target(f"openvino/cpu,{PRECISION}=bf16")
    with open_session(layer, asked) as session:
        assert "floats in bf16" in session.device()


def test_threads_and_properties_reach_the_runtime(layer):
    asked = compiled_with(layer, "openvino/cpu:native,threads=1,NUM_STREAMS=1")
    assert (asked("INFERENCE_NUM_THREADS"), asked("NUM_STREAMS")) == (1, 1)


def test_it_is_missing(layer, monkeypatch):
    from mlc.runtimes import openvino_settings

    monkeypatch.setattr(openvino_settings, "find_spec", lambda name: None)
    monkeypatch.setattr(openvino_settings, "devices", openvino_settings.devices.__wrapped__)
    monkeypatch.setattr(openvino_settings, "core", openvino_settings.core.__wrapped__)
    monkeypatch.setattr(openvino_settings, "openvino", openvino_settings.openvino.__wrapped__)
    with pytest.raises(TargetError) as error:
        open_session(layer, CPU)
    assert message(error) == "the runtime OpenVINO is not installed | pip install 'mlc-toolchain[openvino]'"


# placement


def test_the_profile_says_what_ran_in_which_precision(layer, device):
    profile = profile_run(layer, ONES, CPU)
    placement = profile.placement
    assert (placement.provider, placement.copies, placement.fallbacks) == ("OpenVINO CPU", 0, ())
    assert placement.device == device
    assert [(node.op, node.name) for node in placement.ran] == [("FullyConnected (f32)", "add")]
    assert set(placement.ran) <= set(placement.assigned)
    assert [(operator.op, operator.count) for operator in profile.operators] == [("FullyConnected (f32)", 1)]
    refuse_fallbacks("layer", layer, CPU)


@pytest.fixture
def int8(tmp_path):
    return quantized(tmp_path / "int8.onnx", np.random.default_rng(0).integers(-60, 60, (64, 32)).astype(np.int8))


@pytest.mark.skipif(not X86, reason="which operators have 8-bit kernels is known for x86")
def test_a_quantized_product_runs_in_8_bits(int8):
    x = {"x": np.arange(128, dtype=np.float32).reshape(2, 64)}
    placement = profile_run(int8, x, CPU).placement
    assert "FullyConnected (u8)" in [node.op for node in placement.ran]


def test_layers_made_anew_may_have_other_numbers(int8, layer):
    """Names that OpenVINO makes count up in a process: the second session's differ, and nothing was moved."""
    x = {"x": np.ones((2, 64), np.float32)}
    with open_session(int8, CPU), open_session(layer, CPU), open_session(int8, CPU) as session:
        refuse_other_placement(Candidate("m", int8), session.assignment(), profile_run(int8, x, CPU))
