"""Weights that a caller of an .onnx file could override: kept so, unless they are to be frozen."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import mlc
from mlc.pipeline.freezing import NONE
from tests.conftest import measure_quickly

pytestmark = pytest.mark.needs_onnxruntime

OVERRIDABLE = """<ir_version: 8, opset_import: ["":13]> g (float[1,3,8,8] x, float[4,3,3,3] w, float[4] s, float[4] t)
    => (float[1,4,6,6] y) { c = Conv(x, w) y = BatchNormalization(c, s, t, t, s) }"""
X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def compiled(tmp_path, monkeypatch, text=OVERRIDABLE, **asked):
    measure_quickly(monkeypatch)
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(1)
    for name, shape in (("w", (4, 3, 3, 3)), ("s", (4,)), ("t", (4,))):
        array = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "m.onnx")
    report = mlc.compile(tmp_path / "m.onnx", example={"x": X}, out=tmp_path / "out", **asked)
    return report, onnx.load(tmp_path / "out/model.onnx")


def answers(path: Path, **more):
    return onnxruntime.InferenceSession(path).run(None, {"x": X, **more})[0]


def test_a_caller_may_override_them_still(tmp_path, monkeypatch):
    _, written = compiled(tmp_path, monkeypatch)
    assert [value.name for value in written.graph.input] == ["x", "w", "s", "t"]
    two = {"w": np.full((4, 3, 3, 3), 2, np.float32)}
    np.testing.assert_allclose(
        answers(tmp_path / "out/model.onnx", **two), answers(tmp_path / "m.onnx", **two), rtol=1e-4, atol=1e-4
    )


def test_frozen_they_are_constants_and_fold(tmp_path, monkeypatch):
    report, written = compiled(tmp_path, monkeypatch, freeze=True)
    assert [value.name for value in written.graph.input] == ["x"]
    assert "frozen, which a caller could override before: w, s, t" in report.origin.notes
    np.testing.assert_allclose(answers(tmp_path / "out/model.onnx"), answers(tmp_path / "m.onnx"), rtol=1e-4, atol=1e-4)
    assert "freeze = true" in (tmp_path / "out/recipe.toml").read_text().splitlines()


def test_where_there_is_nothing_to_freeze_it_is_said(tmp_path, monkeypatch):
    text = OVERRIDABLE.replace(", float[4,3,3,3] w, float[4] s, float[4] t", "")
    report, _ = compiled(tmp_path, monkeypatch, text, freeze=True)
    assert NONE in report.origin.notes
