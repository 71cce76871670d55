"""Providers by name: used where they load, skipped with the reason where not, and a clear sentence where missing."""

from __future__ import annotations

import numpy as np
import pytest

from mlc.cli import main
from mlc.errors import TargetError
from mlc.runtimes import providers
from mlc.runtimes.loading import loading_lines, session_record, variables
from mlc.runtimes.opening import open_session, profile_run
from mlc.runtimes.providers import CPU, Provider, provider_of
from mlc.runtimes.session import NodeRun
from mlc.runtimes.strict import NAMED, refuse, refuse_fallbacks
from mlc.types import Target
from tests import onnx_models
from tests.targets import usable

NAMES = ["coreml", "cuda", "directml", "openvino", "qnn", "tensorrt", "webgpu"]
ONES = {"x": np.ones((2, 4), np.float32)}


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_computes_what_the_cpu_does(layer, name):
    target, _ = usable(name)
    with open_session(layer, target) as session, open_session(layer, Target()) as expected:
        assert session.provider != CPU
        np.testing.assert_allclose(session.run(ONES)["y"], expected.run(ONES)["y"], rtol=1e-2)
    placement = profile_run(layer, ONES, target).placement
    assert placement.provider == session.provider
    assert placement.device
    assert {node.provider for node in placement.assigned} == {session.provider}
    refuse_fallbacks("layer", layer, target)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("coreml", "it is in onnxruntime for macOS"),
        ("cuda", "onnxruntime-gpu"),
        ("directml", "onnxruntime-directml"),
        ("openvino", "pip install 'mlc-toolchain[openvino]'"),
        ("qnn", "onnxruntime-qnn"),
        ("tensorrt", "onnxruntime-gpu"),
        ("webgpu", "pip install 'mlc-toolchain[webgpu]'"),
        ("migraphx", "onnxruntime-ep-migraphx"),
    ],
)
def test_a_provider_that_is_missing_says_where_it_comes_from(layer, monkeypatch, name, hint):
    monkeypatch.setattr(providers, "built_in", lambda: (CPU,))
    monkeypatch.setattr(providers, "plugins", lambda: ())
    with pytest.raises(TargetError) as error:
        open_session(layer, Target(provider=name))
    assert error.value.message == f"this onnxruntime has no provider {name}; it has: cpu"
    assert hint in error.value.hint


def test_a_missing_provider_is_exit_3(layer, monkeypatch, capsys):
    monkeypatch.setattr(providers, "built_in", lambda: (CPU,))
    monkeypatch.setattr(providers, "plugins", lambda: ())
    assert main(["compile", str(layer), "--target", "cuda:0", "-o", str(layer.with_name("out"))]) == 3
    assert "mlc: error: this onnxruntime has no provider cuda; it has: cpu" in capsys.readouterr().err
    assert not layer.with_name("out").exists()


CUDA = Target(
    provider="cuda", device="1", threads=2,
    options=(("arena_extend_strategy", "kSameAsRequested"), ("session.disable_prepacking", "1")),
)  # fmt: skip


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(providers, "built_in", lambda: ("CUDAExecutionProvider", CPU))


def test_options_are_handed_on(with_cuda):
    options = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "device_id": "1"}
    assert provider_of(CUDA) == Provider("CUDAExecutionProvider", options)
    assert session_record(CUDA, {"a": "b"}) == {
        "runtime": "onnxruntime",
        "provider": "cuda",
        "device": "1",
        "threads": 2,
        "options": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "session.disable_prepacking": "1"},
        "session_options": {"a": "b"},
    }


def test_the_lines_that_load_a_model_have_them_too(with_cuda):
    options = '{"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "device_id": "1"}'
    listed = f'("CUDAExecutionProvider", {options})'
    assert loading_lines("out/model.onnx", ["x", "a.b"], CUDA, {}).splitlines() == [
        "import onnxruntime",
        "onnxruntime.preload_dlls()",
        "options = onnxruntime.SessionOptions()",
        'options.add_session_config_entry("session.disable_prepacking", "1")',
        "options.intra_op_num_threads = 2",
        f'session = onnxruntime.InferenceSession("out/model.onnx", options, providers=[{listed}])',
        'outputs = session.run(None, {"x": x, "a.b": a_b})',
    ]


@pytest.mark.parametrize("target", [Target(), Target(threads=1, options=(("session.disable_prepacking", "1"),))])
def test_the_lines_run(layer, target):
    names = dict(ONES)
    exec(loading_lines(layer.as_posix(), ["x"], target, {}), names)  # noqa: S102
    with open_session(layer, target) as session:
        np.testing.assert_array_equal(names["outputs"][0], session.run(ONES)["y"])


# a provider taken at its word


def test_nodes_that_fell_back_are_named():
    nodes = [
        NodeRun("TeapotExecutionProvider", "MatMul", "product"),
        NodeRun(CPU, "NonZero", "find"),
        NodeRun(CPU, "If", ""),
    ]
    with pytest.raises(TargetError) as error:
        refuse("model", Target(provider="teapot"), nodes, nodes[1:])
    expected = f"2 of the 3 nodes of model fall back from teapot to {CPU}: find (NonZero), (unnamed) (If)"
    assert error.value.message == expected
    assert "--strict-provider" in error.value.hint
    refuse("model", Target(provider="teapot"), nodes, [])


def test_of_many_nodes_the_first_are_named():
    nodes = [NodeRun(CPU, "If", f"node{number}") for number in range(NAMED + 3)]
    with pytest.raises(TargetError) as error:
        refuse("model", Target(provider="teapot"), nodes, nodes)
    assert error.value.message.endswith(f"node{NAMED - 1} (If) and 3 more")


@pytest.mark.usefixtures("quick")
def test_on_the_cpu_nothing_falls_back(layer, tmp_path, capsys):
    assert main(["bench", str(layer), "--strict-provider", "--seconds", "0.1"]) == 0
    batch = ["--input", "x=float32[batch=1..4,4]"]
    assert main(["compile", str(layer), *batch, "--strict-provider", "-o", str(tmp_path / "out")]) == 0
    assert "fall back" not in capsys.readouterr().err
    assert "strict_provider = true" in (tmp_path / "out" / "recipe.toml").read_text()


def test_every_input_has_a_variable_of_its_own():
    assert variables(["x", "0", "class", "input.1", "input_1", "é"]) == [
        "x", "input_0", "input_class", "input_1", "input_1_2", "é"
    ]  # fmt: skip
    lines = loading_lines('a"b.onnx', ['say "x"'], Target(), {})
    compile(lines, "lines", "exec")
    assert r'InferenceSession("a\"b.onnx")' in lines
