"""The webgpu provider: a real run on a GPU, or on a software device that is called one; its fallbacks are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlc.cli import main
from mlc.errors import TargetError
from mlc.grammar.values import parse_target
from mlc.measuring.latency import bench, measure_profile
from mlc.measuring.nouns import Candidate, Latency
from mlc.measuring.trials import device_notes
from mlc.runtimes import vulkan
from mlc.runtimes.opening import open_session, profile_run
from mlc.runtimes.plugins import SOFTWARE_ADAPTER
from mlc.runtimes.providers import device_text
from mlc.runtimes.session import SOFTWARE, OperatorTime, Placement, Profile
from mlc.runtimes.strict import refuse_fallbacks
from mlc.types import Interval, Target
from tests import onnx_models
from tests.conftest import measure_quickly
from tests.targets import quantized, usable

SAMPLES = Path(__file__).parents[1] / "sample_models"
CNN = f"{SAMPLES / 'fashion_cnn' / 'model.py'}:model@{SAMPLES / 'fashion_cnn' / 'weights.safetensors'}"
LINEAR = SAMPLES / "linear"
PROVIDER = "WebGpuExecutionProvider"
ONES = {"x": np.ones((2, 4), np.float32)}


@pytest.fixture(scope="module")
def device():
    """The device that the provider runs on here; the tests are skipped where it does not."""
    return usable("webgpu")[1]


@pytest.fixture
def software(device):
    if not device.startswith(SOFTWARE):
        pytest.skip(f"webgpu runs on {device}, not on a software device")
    return device


@pytest.fixture(scope="module")
def compiled(device, tmp_path_factory):
    """The sample network, compiled as it is for the provider, which has to hold strictly."""
    out = tmp_path_factory.mktemp("webgpu") / "out"
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        asked = ["--input", "image=float32[batch=1..2,1,28,28]", "--target", "webgpu", "--strict-provider"]
        assert main(["compile", CNN, *asked, "-o", str(out)]) == 0
    return out, json.loads((out / "report.json").read_text())


def test_the_sample_runs_there_wholly(compiled, device):
    _, report = compiled
    for trial in report["trials"]:
        placement = trial["profile"]["placement"]
        assert (placement["provider"], placement["device"]) == (PROVIDER, device)
        assert {node["provider"] for node in (*placement["assigned"], *placement["ran"])} == {PROVIDER}
        assert (placement["fallbacks"], placement["copies"]) == ([], 0)
        assert [output["output"] for output in trial["agreement"]] == ["output"]
        assert trial["agreement"][0]["largest"] < 1e-3
    assert {check["name"] for check in report["checks"]} == {"export", "written file"}


def test_a_software_device_is_called_one(compiled, software):
    out, report = compiled
    assert "software device, not of a GPU" in report["first_line"]
    assert f"ran on {software}; its speed says nothing of a GPU's" in report["trials"][0]["notes"]
    assert all(software not in note for trial in report["trials"][1:] for note in trial["notes"])
    for page in ("report.md", "report.html"):
        assert software in (out / page).read_text()


def test_the_lines_of_the_report_run_without_mlc(compiled):
    out, report = compiled
    code = (
        f"import numpy; image = numpy.ones((2, 1, 28, 28), numpy.float32)\n{report['loading']}\nprint(outputs[0].shape)"
    )
    clean = {name: value for name, value in os.environ.items() if name != SOFTWARE_ADAPTER}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert done.stdout == "(2, 10)\n", done.stderr
    assert json.loads((out / "session.json").read_text()) == {
        "runtime": "onnxruntime", "provider": "webgpu", "options": {}, "session_options": {},
    }  # fmt: skip


# int8: nodes that fall back


@pytest.fixture
def int8(tmp_path):
    return quantized(tmp_path / "int8.onnx", np.random.default_rng(0).integers(-60, 60, (64, 32)).astype(np.int8))


def test_nodes_that_fall_back_are_reported(device, int8):
    x = {"x": np.arange(128, dtype=np.float32).reshape(2, 64)}
    target = Target(provider="webgpu")
    placement = profile_run(int8, x, target).placement
    assert [(node.name, node.op) for node in placement.fallbacks] == [("quantize", "QuantizeLinear")]
    assert placement.copies > 0
    assert placement.device == device
    with open_session(int8, target) as session, open_session(int8, Target()) as expected:
        np.testing.assert_allclose(session.run(x)["y"], expected.run(x)["y"], rtol=1e-4)
    with pytest.raises(
        TargetError, match=r"1 of the \d+ nodes of m falls back from webgpu .*: quantize \(QuantizeLinear\)"
    ):
        refuse_fallbacks("m", int8, target)


def test_a_strict_bench_refuses_before_it_measures(device, int8, capsys, monkeypatch):
    monkeypatch.setattr("mlc.pipeline.timing.measure", None)
    assert main(["bench", str(int8), "--target", "webgpu", "--strict-provider"]) == 3
    out, error = capsys.readouterr()
    assert out == ""
    assert "falls back from webgpu to CPUExecutionProvider: quantize (QuantizeLinear)" in error


def test_a_strict_validate_refuses_too(device, int8, capsys):
    asked = ["--input", "x=float32[batch=1..2,64]", "--target", "webgpu", "--strict-provider"]
    assert main(["validate", str(int8), "--against", str(int8), *asked]) == 3
    assert "quantize (QuantizeLinear)" in capsys.readouterr().err


def test_a_strict_compile_to_int8_refuses_before_it_measures(device, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlc.pipeline.trials.measure", None)
    asked = [
        "--input", "x=float32[batch=1..8,6]", "--calibrate", str(LINEAR / "calibration.npz"), "--to", "int8-static",
        "--target", "webgpu", "--strict-provider", "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(["quantize", f"{LINEAR / 'model.py'}:model", *asked]) == 3
    assert "nodes of int8-static falls back from webgpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# what may go wrong


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("webgpu:9", "the provider webgpu has no device '9'; it offers: 0"),
        ("webgpu,preferedLayout=NHWC", "the provider webgpu has no option 'preferedLayout'"),
        ("webgpu,prefer=NHWC", "the provider webgpu has no option 'prefer'"),
        ("webgpu,preferredLayout=BADC", "Invalid preferred layout: BADC"),
    ],
)
def test_what_the_provider_does_not_have(device, layer, target, said):
    with pytest.raises(TargetError) as error:
        open_session(layer, parse_target(target))
    assert said in error.value.message


def test_an_option_reaches_the_provider(device, layer):
    with open_session(layer, parse_target("webgpu,forceCpuNodeNames=relu")) as session:
        assert {node.provider for node in session.assignment()} == {PROVIDER, "CPUExecutionProvider"}


def test_nothing_is_printed(device, layer, capfd):
    with open_session(layer, Target(provider="webgpu")) as session:
        session.run(ONES)
    assert capfd.readouterr() == ("", "")


NO_DRIVERS = {"VK_ICD_FILENAMES": "/none", "VK_DRIVER_FILES": "/none"}
NOT_ALLOWED = "offers no device here\nmlc: hint: there is no GPU, and a software device is not allowed"
NO_ADAPTER = "Failed to get a WebGPU adapter: No supported adapters\nmlc: hint: it needs a Vulkan driver"


@pytest.mark.parametrize(("variables", "said"), [({SOFTWARE_ADAPTER: "0"}, NOT_ALLOWED), (NO_DRIVERS, NO_ADAPTER)])
def test_no_device_is_a_sentence(software, layer, variables, said):
    command = [sys.executable, "-m", "mlc", "bench", str(layer), "--target", "webgpu"]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=layer.parent)
    assert done.returncode == 3
    assert said in done.stderr


def test_a_worker_allows_the_software_device_too(device, layer, monkeypatch):
    monkeypatch.delenv(SOFTWARE_ADAPTER, raising=False)
    with bench(ONES, Target(provider="webgpu"), {"batch": 2}) as shared:
        assert measure_profile(Candidate("layer", layer), shared).placement.device == device


# what a device is called


@pytest.mark.parametrize(
    ("provider", "kind", "metadata", "said"),
    [
        (PROVIDER, "CPU", {}, "software device on the CPU (A Maker)"),
        ("OpenVINOExecutionProvider", "CPU", {}, "CPU A Maker"),
        ("CUDAExecutionProvider", "GPU", {"Description": "A Card"}, "GPU A Card"),
    ],
)
def test_a_device_is_named(monkeypatch, provider, kind, metadata, said):
    monkeypatch.setattr(vulkan, "LIBRARY", "libno-such-driver.so")
    monkeypatch.setattr(vulkan, "software_adapter", vulkan.software_adapter.__wrapped__)
    hardware = SimpleNamespace(type=f"OrtHardwareDeviceType.{kind}", metadata=metadata, vendor="A Maker")
    assert device_text(provider, SimpleNamespace(device=hardware)) == said


# what a device that works on behind the call says of time


def noted(device, microseconds):
    latency = Latency({}, 1.0, 1.0, 1.0, Interval(1, 1, 1), Interval(1, 1, 1))
    return device_notes(
        latency, Profile(Placement(PROVIDER, device=device), (OperatorTime(PROVIDER, "Conv", 1, microseconds),))
    )


def test_times_of_handing_work_over_are_called_that():
    (ran,) = noted("GPU A Maker", 900.0)
    assert ran == "ran on GPU A Maker"
    _, handed = noted("GPU A Maker", 100.0)
    assert handed == (
        "the times of its operators, 0.100 ms together, are those of handing work to the device: a run takes 1.00 ms"
    )
    assert len(noted(f"{SOFTWARE} on the CPU (llvmpipe)", 100.0)) == 2
    assert noted("", 1.0) == ()
