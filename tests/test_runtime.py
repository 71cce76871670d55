"""Sessions: opened where asked or not at all, run with checked arrays, their nodes counted where they ran."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mlc.errors import DataError, MlcError, SourceError, TargetError
from mlc.runtimes import cpu, operators, plugins, providers
from mlc.runtimes.cpu import capabilities, native
from mlc.runtimes.onnxruntime import open_session, reason
from mlc.runtimes.opening import open_session as open_on
from mlc.runtimes.operators import operator_times, profiled_runs
from mlc.runtimes.profiling import kernel_of, kernels_by_run, placed, profile_run
from mlc.runtimes.session import NodeRun, OperatorTime
from mlc.types import Target
from tests import onnx_models

CPU = "CPUExecutionProvider"
ONES = {"x": np.ones((2, 4), np.float32)}


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


def message(error):
    return f"{error.value.message} | {error.value.hint}"


def test_a_session_runs_by_name(layer):
    with open_session(layer, Target()) as session:
        outputs = session.run(ONES)
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], [[2, 16, 30], [2, 16, 30]])


def test_outputs_are_picked_in_the_order_asked(tmp_path):
    path = onnx_models.write(tmp_path / "two.onnx", onnx_models.TWO_INPUTS)
    inputs = {"right": np.array([[1, 2]]), "left": np.array([[0.5, 0.5]], np.float32)}
    with open_session(path, Target()) as session:
        assert list(session.run(inputs)) == ["sum", "twice"]
        assert list(session.run(inputs, ["twice", "sum"])) == ["twice", "sum"]
        assert session.run(inputs, ["twice"])["twice"].tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "layer.onnx needs the input 'x'"),
        ({"xx": ONES["x"]}, "layer.onnx has no input 'xx' | did you mean x?"),
        ({"x": np.ones((2, 4))}, "the input x of layer.onnx is float32, given float64"),
        ({"x": np.ones(4, np.float32)}, "has 2 axes, given the shape (4,)"),
        ({"x": np.ones((2, 5), np.float32)}, "has size 4 at axis 1, given 5"),
        ({"x": [[1.0] * 4]}, "is a list, not a NumPy array"),
    ],
)
def test_arrays_that_do_not_fit(layer, inputs, said):
    with open_session(layer, Target()) as session, pytest.raises(DataError) as error:
        session.run(inputs)
    assert said in message(error)


def test_an_unknown_output(layer):
    with open_session(layer, Target()) as session, pytest.raises(DataError, match="has no output 'z'"):
        session.run(ONES, ["z"])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(provider="cpuu"), "no execution provider is called 'cpuu' | did you mean cpu?"),
        (Target(provider="teapot"), "this machine has: "),
        (Target(options=(("arena", "1"),)), "the provider cpu has no option 'arena'"),
        (Target(device="3"), "the provider cpu has no device '3'"),
        (Target(options=(("session.disable_prepaking", "1"),)), "knows no session option 'session.disable_prepaking'"),
        (Target(options=(("session.disable_prepack", "1"),)), "knows no session option 'session.disable_prepack'"),
        (Target(runtime="teapot"), "no runtime is called 'teapot' | there are: onnxruntime, openvino"),
    ],
)
def test_targets_that_cannot_be_used(layer, target, said):
    with pytest.raises(TargetError) as error:
        open_on(layer, target)
    assert said in message(error)


def test_a_provider_that_is_missing_lists_what_there_is(layer, monkeypatch):
    monkeypatch.setattr(providers, "built_in", lambda: (CPU,))
    monkeypatch.setattr(providers, "plugins", lambda: ())
    with pytest.raises(TargetError, match="has no provider cuda; it has: cpu"):
        open_session(layer, Target(provider="cuda"))


@pytest.mark.skipif("azure" not in providers.available(), reason="this onnxruntime has no Azure provider")
def test_a_provider_that_runs_nothing_is_refused(layer):
    with pytest.raises(TargetError) as error:
        open_session(layer, Target(provider="azure"))
    assert message(error).startswith("the provider azure runs no node of layer.onnx | providers here: ")


def test_a_plug_in_without_a_device_is_refused(layer, tmp_path, monkeypatch):
    package = tmp_path / "onnxruntime_ep_teapot"
    package.mkdir()
    (package / "__init__.py").write_text("def get_ep_name(): return 'TeapotExecutionProvider'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(providers, "plugins", plugins.plugins.__wrapped__)
    monkeypatch.setattr(plugins, "_register", lambda short: None)
    assert "teapot" in providers.available()
    with pytest.raises(TargetError, match="the provider teapot is installed but offers no device here"):
        open_session(layer, Target(provider="teapot"))


def test_a_plug_in_that_does_not_load_is_named(layer, tmp_path, monkeypatch):
    package = tmp_path / "onnxruntime_ep_kettle"
    package.mkdir()
    (package / "__init__.py").write_text(
        "def get_ep_name(): return 'KettleExecutionProvider'\ndef get_library_path(): return '/no/such/library.so'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(providers, "plugins", plugins.plugins.__wrapped__)
    with pytest.raises(TargetError, match="registering the provider kettle raised"):
        open_session(layer, Target(provider="kettle"))


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider"])
def test_full_names_are_accepted(layer, name):
    with open_session(layer, Target(provider=name)) as session:
        assert session.provider == CPU


@pytest.mark.parametrize(("content", "said"), [(None, "there is no model file"), (b"", "empty"), (b"text", "corrupt")])
def test_files_that_are_no_models(tmp_path, content, said):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=said):
        open_session(path, Target())


def test_a_model_without_its_data(tmp_path):
    path = onnx_models.wide(tmp_path / "wide.onnx", external=True)
    (tmp_path / "wide.onnx.data").unlink()
    with pytest.raises(MlcError, match=r"loading wide\.onnx on cpu raised .*wide\.onnx\.data"):
        open_session(path, Target())


def test_nothing_is_printed(layer, tmp_path, capfd):
    (tmp_path / "bad.onnx").write_bytes(b"text")
    with pytest.raises(SourceError):
        open_session(tmp_path / "bad.onnx", Target())
    with open_session(layer, Target()) as session:
        session.run(ONES)
    assert capfd.readouterr() == ("", "")


def test_optimizations_can_be_switched_off(layer):
    with open_session(layer, Target()) as fused, open_session(layer, Target(), optimize=False) as plain:
        assert sorted(node.op for node in plain.assignment()) == ["Add", "MatMul", "Relu"]
        assert "MatMul" not in [node.op for node in fused.assignment()]
        assert plain.raw.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"
        np.testing.assert_array_equal(plain.run(ONES)["y"], fused.run(ONES)["y"])


def test_threads_and_session_options_reach_the_runtime(layer):
    target = Target(threads=1, options=(("session.set_denormal_as_zero", "1"),))
    with open_session(layer, target, options={"session.force_spinning_stop": "1"}) as session:
        settings = session.raw.get_session_options()
    assert settings.intra_op_num_threads == 1
    assert settings.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert settings.get_session_config_entry("session.force_spinning_stop") == "1"


# placement


INNER = (
    "[ONNXRuntimeError] : 11 : EP_FAIL : /src/ep/interfaces.cc:393 virtual std::unique_ptr<X> A::Create(const B&, C&) "
    "[ONNXRuntimeError] : 11 : EP_FAIL : /src/webgpu.cc:136 A::Initialize(const B&)::<lambda()> "
    "result.status == X::Success was false. No adapter is here\n\n"
)
CUDA_SAYS = (
    "/src/cuda_info.cc:63 static A A::FromProviderOptions(const B&) [ONNXRuntimeError] : 1 : FAIL : utils.h:187 Parse "
    'Failed to parse provider option "device_id": cuda_info.cc:71 operator() '
    "Invalid device ID: 9, must be between 0 and 1.\n"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (INNER, "No adapter is here"),
        ("[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed", "Load model from a.onnx failed"),
        (CUDA_SAYS, 'Failed to parse provider option "device_id": Invalid device ID: 9, must be between 0 and 1.'),
        ("plain words (with some in brackets) stay", "plain words (with some in brackets) stay"),
        ("", "no message"),
    ],
)
def test_the_reason_stands_without_the_runtimes_own_source(text, said):
    assert reason(RuntimeError(text)) == said


def test_the_profile_says_where_the_nodes_ran(layer):
    first, second = (profile_run(layer, ONES, Target(threads=1)) for _ in range(2))
    assert first.placement == second.placement
    placement = first.placement
    assert (placement.provider, placement.copies, placement.fallbacks, placement.device) == (CPU, 0, (), "")
    assert sorted(node.op for node in placement.assigned) == ["Gemm", "Relu"]
    assert [(node.provider, node.op) for node in placement.ran] == [(CPU, "FusedGemm")]
    (operator,) = first.operators
    assert (operator.provider, operator.op, operator.count) == (CPU, "FusedGemm", 1)
    assert operator.microseconds >= 0


def test_a_slow_model_is_profiled_less(monkeypatch):
    assert len(list(profiled_runs())) == operators.RUNS[1]
    monkeypatch.setattr(operators, "SECONDS", -1.0)
    assert len(list(profiled_runs())) == operators.RUNS[0]


def kernel(start, op, name, provider=CPU, duration=10):
    args = {"provider": provider, "op_name": op}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": args}


def run(start, duration=100):
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration}


def test_kernels_are_told_apart_by_run_and_copies_are_counted():
    gpu = "WebGpuExecutionProvider"
    events = [
        kernel(10, "Conv", "conv", gpu, 500), run(0, 600),
        kernel(1010, "MemcpyFromHost", "in", gpu, 2), kernel(1020, "Conv", "conv", gpu, 30),
        kernel(1060, "MemcpyToHost", "out", gpu, 4), kernel(1070, "NonZero", "find", CPU, 8), run(1000),
        kernel(2020, "Conv", "conv", gpu, 50), kernel(2080, "NonZero", "find", CPU, 4), run(2000),
    ]  # fmt: skip
    runs = kernels_by_run(events)
    assert [len(one) for one in runs] == [1, 4, 2]
    assigned = (NodeRun(gpu, "Conv", "conv"), NodeRun(CPU, "NonZero", "find"))
    placement = placed(gpu, assigned, runs[1], "llvmpipe")
    assert placement.copies == 2
    assert placement.fallbacks == (NodeRun(CPU, "NonZero", "find"),)
    assert [node.name for node in placement.ran] == ["in", "conv", "out", "find"]
    conv, find, *copies = operator_times([[kernel_of(event) for event in run] for run in runs[1:]])
    assert conv == OperatorTime(gpu, "Conv", 1, 40.0)
    assert find == OperatorTime(CPU, "NonZero", 1, 6.0)
    assert [one.microseconds for one in copies] == [2.0, 1.0]


# capabilities


def test_any_cpu_has_the_least():
    least = capabilities(Target())
    assert (least.vnni, least.amx, least.arm_dot, least.avx2, least.saturates) == (False, False, False, False, True)


def test_this_cpu_is_probed():
    found = capabilities(Target(device="native"))
    assert found is native("onnxruntime")
    assert found.saturates is not (found.vnni or found.arm_dot)
    assert not (found.vnni and cpu.runtime_saturates())


@pytest.mark.parametrize(
    ("flags", "saturates", "vnni", "arm_dot"),
    [
        ({"avx2", "avx512_vnni"}, False, True, False),
        ({"avx2", "avx_vnni"}, False, True, False),
        ({"avx2", "avx512_vnni"}, True, False, False),
        ({"avx2"}, True, False, False),
        ({"asimd", "asimddp"}, False, False, True),
    ],
)
def test_a_flag_counts_only_where_the_runtime_shows_it(monkeypatch, flags, saturates, vnni, arm_dot):
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    monkeypatch.setattr(cpu, "runtime_saturates", lambda: saturates)
    monkeypatch.setattr(cpu, "_apple_silicon", lambda: False)
    found = native.__wrapped__("onnxruntime")
    assert (found.vnni, found.arm_dot, found.avx2) == (vnni, arm_dot, "avx2" in flags)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_layers_of_no_rows_are_refused_before_they_end_the_process(op, tmp_path):
    gates = {"LSTM": 4, "GRU": 3}[op]
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    agraph (float[s,b,3] x) => (float[s,1,b,2] y) <float[1,{gates * 2},3] w, float[1,{gates * 2},2] r> {{
        y = {op}<hidden_size = 2>(x, w, r)
    }}"""
    model = parser.parse_model(text)
    for name, size in (("w", 3), ("r", 2)):
        array = np.ones((1, gates * 2, size), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    with open_session(tmp_path / "model.onnx", Target()) as session:
        assert session.run({"x": np.zeros((4, 2, 3), np.float32)})["y"].shape == (4, 1, 2, 2)
        if op == "LSTM":
            assert session.run({"x": np.zeros((0, 2, 3), np.float32)})["y"].shape == (0, 1, 2, 2)
        with pytest.raises(TargetError, match=f"model.onnx holds {op}, which ends .* where there is no row"):
            session.run({"x": np.zeros((4, 0, 3), np.float32)})
