"""The cuda provider: real runs on a card, and what is said where its libraries are not there."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mlc.cli import main
from mlc.errors import TargetError
from mlc.grammar.values import parse_target
from mlc.registry import pass_class
from mlc.runtimes import nvidia
from mlc.runtimes.kernels import kernels
from mlc.runtimes.opening import open_session, profile_run
from mlc.types import Target
from tests import onnx_models
from tests.conftest import measure_quickly
from tests.targets import quantized, usable

SAMPLES = Path(__file__).parents[1] / "sample_models"
CNN = f"{SAMPLES / 'fashion_cnn' / 'model.py'}:model@{SAMPLES / 'fashion_cnn' / 'weights.safetensors'}"
GPT = f"{SAMPLES / 'char_gpt' / 'model.py'}:model@{SAMPLES / 'char_gpt' / 'weights.safetensors'}"
IMAGES = ["--input", "image=float32[batch=1..2,1,28,28]", "--target", "cuda"]
TOKENS = ["--input", "tokens=int64[batch=1..2,length=1..128] in 0..95", "--target", "cuda"]
PROVIDER = "CUDAExecutionProvider"
ONES = {"x": np.ones((2, 4), np.float32)}
FUSED = ["fuse-bias-gelu", "fuse-group-norm", "fuse-quick-gelu", "fuse-skip-layer-norm"]


@pytest.fixture(scope="module")
def device():
    """The card that the provider runs on here; the tests are skipped where there is none."""
    return usable("cuda")[1]


def made(command, source, asked, out):
    """Run a command that writes an artifact, measured in short; returns its report."""
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        assert main([command, source, *asked, "-o", str(out)]) == 0
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def compiled(device, tmp_path_factory):
    out = tmp_path_factory.mktemp("cuda") / "out"
    return out, made("compile", CNN, [*IMAGES, "--strict-provider"], out)


def test_the_card_is_named(device):
    assert device.startswith("GPU ")
    assert "driver" in device


def test_the_sample_runs_there_wholly(compiled, device):
    _, report = compiled
    for trial in report["trials"]:
        placement = trial["profile"]["placement"]
        assert (placement["provider"], placement["device"]) == (PROVIDER, device)
        assert {node["provider"] for node in (*placement["assigned"], *placement["ran"])} == {PROVIDER}
        assert placement["fallbacks"] == []
        assert trial["agreement"][0]["largest"] < 1e-4
    assert {check["name"] for check in report["checks"]} == {"export", "written file"}


def test_the_lines_of_the_report_run_without_mlc(compiled):
    out, report = compiled
    code = (
        f"import numpy; image = numpy.ones((2, 1, 28, 28), numpy.float32)\n{report['loading']}\n"
        "print(outputs[0].shape, session.get_providers()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"(2, 10) {PROVIDER}\n", done.stderr
    assert json.loads((out / "session.json").read_text())["options"] == {"use_tf32": "0"}


@pytest.mark.parametrize("made_for", ["fp16", "bf16", "int4-weights", "int8-weights"])
def test_formats_run_there(device, tmp_path, made_for):
    data = ["--calibrate", str(SAMPLES / "char_gpt" / "calibration.npz")] if made_for == "fp16" else []
    report = made("quantize", GPT, [*TOKENS, "--to", made_for, *data], tmp_path / "out")
    shipped = report["trials"][-1]
    assert shipped["candidate"]["name"] == report["shipped"] != "unmodified export"
    products = {"MatMul", "FusedMatMul", "Gemm", "MatMulNBits"}
    ran = [node for node in shipped["profile"]["placement"]["ran"] if node["op"] in products]
    assert {node["provider"] for node in ran} == {PROVIDER}


@pytest.mark.parametrize("name", FUSED)
def test_the_provider_has_the_kernels_of_the_passes_for_gpus(device, name):
    probes = pass_class(name).needs_kernels
    assert kernels(Target(provider="cuda"), probes) == tuple(probes)


def test_nodes_that_fall_back_are_reported(device, tmp_path):
    codes = np.random.default_rng(0).integers(-60, 60, (64, 32)).astype(np.int8)
    x = {"x": np.arange(128, dtype=np.float32).reshape(2, 64)}
    file = quantized(tmp_path / "int8.onnx", codes)
    placement = profile_run(file, x, Target(provider="cuda")).placement
    assert {node.provider for node in placement.fallbacks} <= {"CPUExecutionProvider"}
    with open_session(file, Target(provider="cuda")) as session, open_session(file, Target()) as expected:
        np.testing.assert_allclose(session.run(x)["y"], expected.run(x)["y"], rtol=1e-4)


PRODUCT = '<ir_version: 8, opset_import: ["" : 17]> p (float[512,512] x) => (float[512,512] y) { y = MatMul(x, x) }'


def test_floats_are_computed_in_float32(device, tmp_path):
    x = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    onnx.save(onnx.parser.parse_model(PRODUCT), tmp_path / "p.onnx")
    exact = x.astype(np.float64) @ x
    errors = []
    for target in ("cuda", "cuda,use_tf32=1"):
        with open_session(tmp_path / "p.onnx", parse_target(target)) as session:
            errors.append(np.abs(session.run({"x": x})["y"] - exact).max() / np.abs(exact).max())
    assert errors[0] < 1e-6
    assert errors[0] <= errors[1]


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "cuda:9",
            'Failed to parse provider option "device_id": Invalid device ID: 9, must be between 0 (inclusive) and',
        ),
        ("cuda,arena_extend=kSameAsRequested", "arena_extend"),
        ("cuda,cudnn_conv_algo_search=FAST", "FAST"),
    ],
)
def test_what_the_provider_does_not_have(device, layer, target, said):
    with pytest.raises(TargetError) as error:
        open_session(layer, parse_target(target))
    assert said in error.value.message


def test_nothing_is_printed(device, layer, capfd):
    with open_session(layer, Target(provider="cuda")) as session:
        session.run(ONES)
    assert capfd.readouterr() == ("", "")


# where its libraries are not there


@pytest.fixture
def fresh():
    nvidia.load_libraries.cache_clear()
    yield
    nvidia.load_libraries.cache_clear()


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("libcublasLt.so.13", "onnxruntime-gpu[cuda,cudnn]"),
        ("libcuda.so.1", "its driver"),
        ("libnvinfer.so.10", "TensorRT"),
    ],
)
def test_a_missing_library_is_named(fresh, monkeypatch, tmp_path, missing, hint):
    def load(path, _mode):
        raise OSError(f"{missing}: cannot open shared object file: No such file or directory")

    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(TargetError, match=f"the provider cuda does not load: {missing}") as error:
        nvidia.load_libraries(PROVIDER)
    assert hint in error.value.hint


def test_nothing_is_claimed_of_a_card_that_nobody_can_name(monkeypatch):
    nvidia.device_text.cache_clear()
    monkeypatch.setattr(nvidia, "find_spec", lambda _name: None)
    assert nvidia.device_text(()) == ""
    nvidia.device_text.cache_clear()
