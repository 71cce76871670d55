"""The whole line on OpenVINO: measured by workers, checked where it will run, written with what it needs, silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlc.cli import main
from mlc.compare import EXPORT_TOLERANCE, Reference
from mlc.grammar.values import parse_target
from mlc.manifest import locate
from mlc.measuring import Candidate
from mlc.measuring.latency import bench, latencies_of, measure_load, measure_profile
from mlc.rewriting import check_files
from mlc.runtimes.opening import open_session
from mlc.runtimes.openvino_settings import PRECISION
from mlc.types import Target
from tests import onnx_models
from tests.conftest import measure_quickly
from tests.targets import usable

ROOT = Path(__file__).parents[1]
LINEAR = ROOT / "sample_models" / "linear"
CPU = Target("openvino", "cpu")
ONES = {"x": np.ones((2, 4), np.float32)}
HEAD = '<ir_version: 8, opset_import: ["" : 17]> model '


@pytest.fixture(scope="module", autouse=True)
def device():
    """What OpenVINO's CPU is here; the tests are skipped where it does not run."""
    return usable("openvino/cpu")[1]


@pytest.fixture
def layer(tmp_path):
    return onnx_models.write(tmp_path / "layer.onnx", onnx_models.LAYER)


# workers


@pytest.mark.usefixtures("quick")
def test_workers_measure_it(layer):
    models = [Candidate("layer", layer), Candidate("again", layer)]
    with bench(ONES, parse_target("openvino/cpu,threads=1"), {"batch": 2}, seconds=0.1) as shared:
        seconds, peak = measure_load(models[0], shared)
        latencies, assigned = latencies_of(models, shared, [peak, peak])
        profile = measure_profile(models[0], shared)
    assert seconds > 0
    assert peak > 10e6
    assert all(one.p50 > 0 and one.speedup.value > 0 for one in latencies)
    assert [node.op for node in assigned[0]] == ["FullyConnected (f32)"]
    assert profile.placement.provider == "OpenVINO CPU"


def test_neither_runtime_loads_the_other(layer):
    code = (
        "import sys, mlc.measuring.worker\nfrom pathlib import Path\nfrom mlc.types import Target\n"
        "from mlc.runtimes.opening import profile_run, open_session\nimport numpy\n"
        f"profile_run(Path({str(layer)!r}), {{'x': numpy.ones((2, 4), numpy.float32)}}, Target(sys.argv[1]))\n"
        "print(*sys.modules)"
    )
    for runtime, other in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
        done = subprocess.run(
            [sys.executable, "-c", code, runtime], capture_output=True, text=True, check=True, cwd=ROOT
        )
        names = set(done.stdout.split())
        assert runtime in names
        assert not {other, "torch", "onnx", "onnx_ir", "openvino_telemetry"} & names


# the whole line


def test_the_written_file_is_checked_where_it_will_run(tmp_path):
    """OpenVINO's CPU computes int64 in 32 bits: what overflows there differs there, and only there."""
    path = onnx_models.write(tmp_path / "m.onnx", HEAD + "(int64[n] x) => (int64[n] y) { y = Add(x, x) }")
    references = [Reference({}, {"x": np.array([2**40])}, {"y": np.array([2**41])})]
    for target, held in ((Target(), True), (CPU, False)):
        (check,) = check_files(path, references, EXPORT_TOLERANCE, None, {}, target)
        assert check.held is held


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The linear sample, quantized for OpenVINO's CPU."""
    out = tmp_path_factory.mktemp("openvino") / "out"
    asked = [
        "--input", "x=float32[batch=1..8,6]", "--calibrate", str(LINEAR / "calibration.npz"), "--to", "int8-static",
        "--data", str(LINEAR / "evaluation.npz"), "--metric", "mse", "--target", "openvino/cpu,threads=1",
        "--strict-provider", "-o", str(out),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        assert main(["quantize", f"{LINEAR / 'model.py'}:model", *asked]) == 0
    return out, json.loads((out / "report.json").read_text())


def test_the_baseline_is_the_unmodified_export_on_the_same_runtime(line, device):
    _, report = line
    assert [trial["candidate"]["name"] for trial in report["trials"]] == ["unmodified export", "int8-static"]
    for trial in report["trials"]:
        assert trial["profile"]["placement"]["provider"] == "OpenVINO CPU"
        assert trial["accuracy"]["metric"] == "mse"
        assert trial["latency"]["p50"] > 0
    assert f"ran on {device}" in report["trials"][0]["notes"]
    assert any("OpenVINO" in sentence for sentence in report["saturation"])
    assert report["machine"]["versions"]["openvino"]


def test_session_json_says_runtime_and_options(line):
    out, _ = line
    assert json.loads((out / "session.json").read_text()) == {
        "runtime": "openvino",
        "provider": "cpu",
        "threads": 1,
        "options": {PRECISION: "f32"},
        "session_options": {},
    }
    made_for = locate(out).target
    assert made_for == Target("openvino", "cpu", threads=1, options=((PRECISION, "f32"),))
    with open_session(out / "model.onnx", made_for) as session:
        assert session.provider == "OpenVINO CPU"


def test_the_lines_of_the_report_run_without_mlc(line):
    out, report = line
    assert report["loading"].startswith("import openvino\n")
    names = {"x": np.load(LINEAR / "evaluation.npz")["x"][:3].astype(np.float32)}
    exec(report["loading"], names)  # noqa: S102
    with open_session(out / "model.onnx", parse_target("openvino/cpu,threads=1")) as session:
        np.testing.assert_array_equal(names["outputs"][0], session.run({"x": names["x"]})["output"])


@pytest.mark.usefixtures("quick")
def test_validate_and_bench_take_it(line, capsys):
    out, _ = line
    against = ["--against", f"{LINEAR / 'model.py'}:model", "--data", str(LINEAR / "evaluation.npz")]
    assert main(["validate", str(out), *against, "--target", "openvino/cpu"]) == 0
    capsys.readouterr()
    assert main(["bench", str(out), "--target", "openvino/cpu", "--seconds", "0.1", "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert trial["profile"]["placement"]["provider"] == "OpenVINO CPU"


def test_nothing_is_reported_to_its_makers(tmp_path, layer):
    """Neither an identity is written into the home, nor is what would send it loaded, in any process."""
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    code = "import tests.conftest, pytest; patch = pytest.MonkeyPatch(); tests.conftest.measure_quickly(patch); "
    code += "from mlc.cli import main; import sys; code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    command = [sys.executable, "-c", code, "bench", str(layer), "--target", "openvino/cpu", "--seconds", "0.1"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "openvino_telemetry" not in done.stderr.split()
    assert not (tmp_path / "home" / "intel").exists()
    assert not (tmp_path / "home" / "Intel Corporation").exists()
