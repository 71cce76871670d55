"""The whole line on the linear sample, against the same in NumPy by hand: numbers, integers, figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mlc.cli import main

LINEAR = Path(__file__).parents[1] / "sample_models" / "linear"
sys.path.insert(0, str(LINEAR))
import oracle  # type: ignore[import-not-found]  # noqa: E402

SOURCE = f"{LINEAR / 'model.py'}:model"
X = np.load(LINEAR / "evaluation.npz")["x"]
CALIBRATION = np.load(LINEAR / "calibration.npz")["x"]


X_CODES = oracle.calibrate(CALIBRATION)


def run(path, level="ORT_DISABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def by_hand(scales):
    """The int8 layer in NumPy, dequantized at the end."""
    return oracle.dequantize(oracle.int8_sums(X, X_CODES, scales), X_CODES.scale, scales)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Compile the sample as fp32 and as int8 for both kinds of target; return the folder."""
    with pytest.MonkeyPatch.context() as patch:
        from tests.conftest import measure_quickly

        measure_quickly(patch)
        folder = tmp_path_factory.mktemp("line")
        shared = [SOURCE, "--input", f"x=float32[batch=1..{len(X)},6]", "--data", str(LINEAR / "evaluation.npz")]
        data = str(LINEAR / "calibration.npz")
        int8 = ["quantize", *shared, "--to", "int8-static", "--calibrate", data, "--metric", "mse"]
        assert main(["compile", *shared, "-o", str(folder / "fp32")]) == 0
        assert main([*int8, "-o", str(folder / "safe")]) == 0
        assert main([*int8, "--target", "cpu", "-o", str(folder / "again")]) == 0
    return folder


SAFE = oracle.safe_scale(oracle.WEIGHT)


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def tensors_of(folder):
    model = onnx.load(folder / "model.onnx")
    return [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


def test_the_export_computes_what_numpy_computes(lines):
    np.testing.assert_array_equal(run(lines / "fp32" / "model.onnx"), oracle.layer(X))


def test_the_share_of_the_peak_is_that_of_the_layers_operations(lines):
    for name in ("fp32", "safe"):
        for trial in report_of(lines / name)["trials"]:
            latency = trial["latency"]
            found = latency["arithmetic"]
            assert found["operations"] == 2 * latency["sizes"]["batch"] * oracle.WEIGHT.size
            assert found["share"] == pytest.approx(found["operations"] / (latency["p50"] / 1e3) / found["peak"])
    assert "of this machine's measured float32 peak of 50.0 GFLOP/s" in (lines / "fp32" / "report.md").read_text()


def test_every_integer_is_the_oracles(lines):
    tensors = tensors_of(lines / "safe")
    codes = oracle.quantize_weight(oracle.WEIGHT, SAFE)
    bias = oracle.quantize_bias(oracle.BIAS, X_CODES.scale, SAFE)
    for expected in (codes, bias, SAFE, X_CODES.scale, np.uint8(X_CODES.zero_point)):
        wanted = np.asarray(expected)
        same_kind = [array for array in tensors if array.dtype == wanted.dtype and array.size == wanted.size]
        fits = [array for array in same_kind if wanted.ndim < 2 or array.shape == wanted.shape]
        assert any(np.array_equal(array.reshape(wanted.shape), wanted) for array in fits), wanted


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_int8_outputs_are_the_oracles(lines, level):
    actual = run(lines / "safe" / "model.onnx", level)
    np.testing.assert_allclose(actual, by_hand(SAFE), rtol=0, atol=1e-6)
    step = X_CODES.scale * SAFE
    np.testing.assert_array_equal(np.rint(actual / step), oracle.int8_sums(X, X_CODES, SAFE))


def test_the_report_says_what_the_oracle_says(lines):
    report = report_of(lines / "safe")
    int8, exact = by_hand(SAFE).astype(np.float64), oracle.layer(X).astype(np.float64)
    shipped = next(trial for trial in report["trials"] if trial["candidate"]["name"] == report["shipped"])
    (agreement,) = shipped["agreement"]
    assert agreement["sqnr"] == pytest.approx(10 * np.log10((exact**2).sum() / ((int8 - exact) ** 2).sum()), rel=1e-5)
    assert agreement["top1"] == pytest.approx((int8.argmax(1) == exact.argmax(1)).mean())
    assert shipped["accuracy"]["value"]["value"] == pytest.approx(((int8 - exact) ** 2).mean(), rel=1e-4)
    assert shipped["accuracy"]["samples"] == len(X)
    assert shipped["size_bytes"] == (lines / "safe" / "model.onnx").stat().st_size
    assert report["saturation"] == [
        "no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO (x86 without VNNI)"
    ]


def test_two_runs_write_the_same_bytes(lines):
    assert (lines / "safe" / "model.onnx").read_bytes() == (lines / "again" / "model.onnx").read_bytes()


def test_the_written_recipe_writes_the_same_bytes(lines, quick):
    assert main(["compile", "--recipe", str(lines / "safe" / "recipe.toml"), "-o", str(lines / "replayed")]) == 0
    assert (lines / "safe" / "model.onnx").read_bytes() == (lines / "replayed" / "model.onnx").read_bytes()
