"""``mlc validate --per-layer``: where a model parts from its source, value by value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from mlc.cli import main
from mlc.layer_errors import compare_layers
from mlc.pipeline import validate
from mlc.report import html
from mlc.types import Dim, InputSpec
from mlc.workspace import Workspace
from tests.conftest import measure_quickly
from tests.quantizing import batches, build, quantized, weights

pytestmark = pytest.mark.needs_onnxruntime

INPUT = ["--input", "x=float32[batch=1..8,4]"]
CHAIN = """<ir_version: 8, opset_import: ["" : 17]> chain (float[batch,4] x) => (float[batch,4] y)
{ a = MatMul(x, first) b = Relu(a) c = MatMul(b, second) d = Tanh(c) y = MatMul(d, third) }"""
NAMES = ["a", "b", "c", "d", "y"]


def chain(path, text=CHAIN, **changed):
    """Write three products; ``changed`` are factors of their weights by name."""
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(7)
    for name in ("first", "second", "third"):
        weight = generator.normal(size=(4, 4)) * changed.get(name, 1.0)
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, path)
    return str(path)


def validated(capsys, model, against, *more):
    """The exit code and the report as JSON."""
    code = main(["validate", model, "--against", against, *INPUT, "--per-layer", "--json", *map(str, more)])
    captured = capsys.readouterr()
    return code, json.loads(captured.out)


@pytest.fixture
def source(tmp_path):
    return chain(tmp_path / "source.onnx")


def test_equal_models_part_nowhere(tmp_path, capsys, source):
    code, report = validated(capsys, chain(tmp_path / "model.onnx"), source)
    assert code == 0
    assert [layer["value"] for layer in report["layers"]] == NAMES
    assert all(layer["sqnr"] == "Infinity" and layer["error"] == 0 for layer in report["layers"])
    assert "layer by layer: no value diverges" in report["notes"]
    assert "layer by layer: 5 float values compared over 3 probe rows" in report["notes"]


def test_the_first_value_that_parts_is_named(tmp_path, capsys, source):
    model = chain(tmp_path / "model.onnx", second=1.1)
    code, report = validated(capsys, model, source)
    assert code == 0, "without limits it reports"
    assert [layer["diverges"] for layer in report["layers"]] == [False, False, True, True, True]
    third = report["layers"][2]
    assert (third["value"], third["op"]) == ("c", "MatMul")
    assert third["sqnr"] == pytest.approx(20, abs=0.01)
    (first,) = [note for note in report["notes"] if "first value" in note]
    assert first.startswith("layer by layer: the first value that diverges is c (MatMul), off by 0.")
    assert first.endswith("of its rms, allowed is 1.0e-03")


def test_text_shows_the_worst_and_the_first(tmp_path, capsys, source):
    model = chain(tmp_path / "model.onnx", second=1.1)
    assert main(["validate", model, "--against", source, *INPUT, "--per-layer"]) == 0
    out = capsys.readouterr().out
    block = out.split("worst values\n")[1].split("\n\n")[0].splitlines()
    assert block[0].split() == ["value", "operator", "SQNR", "largest", "error", "/", "rms"]
    assert {line.split()[0] for line in block[1:4]} == {"c", "d", "y"}
    assert "the first value that diverges is c (MatMul)" in out
    assert main(["validate", model, "--against", source, *INPUT]) == 0
    assert "worst values" not in capsys.readouterr().out


def test_data_are_compared_where_they_are_given(tmp_path, capsys, source):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(11, 4)).astype(np.float32))
    _, report = validated(capsys, chain(tmp_path / "model.onnx"), source, "--data", tmp_path / "x.npz")
    assert "layer by layer: 5 float values compared over 11 samples" in report["notes"]


def test_what_has_no_counterpart_is_counted(tmp_path, capsys, source):
    text = CHAIN.replace("d = Tanh(c) y = MatMul(d, third)", "e = Tanh(c) f = Neg(e) d = Neg(f) y = MatMul(d, third)")
    text = text.replace("b = Relu(a) c = MatMul(b, second)", "r = Relu(a) c = MatMul(r, second)")
    _, report = validated(capsys, chain(tmp_path / "model.onnx", text), source)
    assert [layer["value"] for layer in report["layers"]] == ["a", "c", "d", "y"]
    (note,) = [note for note in report["notes"] if "compared over" in note]
    assert note.endswith("; 3 of the model's and 1 of the source's have no counterpart")


def test_values_of_one_name_and_another_shape_are_others(tmp_path, capsys, source):
    text = CHAIN.replace("d = Tanh(c) y = MatMul(d, third)", "e = Tanh(c) d = ReduceSum(e) y = MatMul(e, third)")
    _, report = validated(capsys, chain(tmp_path / "model.onnx", text), source)
    assert "d" not in [layer["value"] for layer in report["layers"]]
    assert any("1 value of one name with other shapes" in note and "(d)" in note for note in report["notes"])


def test_values_inside_branches_are_said(tmp_path, capsys):
    text = """<ir_version: 8, opset_import: ["" : 17]> m (float[batch,4] x) => (float[batch,4] y)
    <float zero = {0}> {
      s = ReduceSum<keepdims = 0>(x) c = Greater(s, zero)
      y = If(c) <then_branch = one () => (float[n,4] t) { t = Neg(x) },
                 else_branch = two () => (float[n,4] e) { e = Abs(x) }>
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    _, report = validated(capsys, str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"))
    assert [layer["value"] for layer in report["layers"]] == ["s", "y"]
    assert "layer by layer: values inside 2 subgraphs of the model are not compared" in report["notes"]


def test_only_the_outputs_in_common(tmp_path, capsys, source):
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[batch,4] x) => (float[batch,4] y) { y = Identity(x) }'
    other = tmp_path / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), other)
    _, report = validated(capsys, str(other), source)
    assert [layer["value"] for layer in report["layers"]] == ["y"]


def test_another_interface_is_not_compared(tmp_path, capsys, source):
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[batch,4] x) => (float[batch,4] z) { z = Identity(x) }'
    other = tmp_path / "other.onnx"
    onnx.save(onnx.parser.parse_model(text), other)
    code, report = validated(capsys, str(other), source)
    assert code == 1
    assert report["layers"] == []
    assert "values were not compared layer by layer, since the interfaces differ" in report["notes"]


def test_the_page_shows_the_layers(tmp_path, source):
    specs = (InputSpec("x", "float32", (Dim(1, 8, name="batch"), Dim(4, 4))),)
    report = validate(Path(chain(tmp_path / "model.onnx", third=1.1)), source, inputs=specs, per_layer=True)
    assert [layer.value for layer in report.layers if layer.diverges] == ["y"]
    page = html.render(report)
    assert "y (MatMul): 20.0 dB" in page
    assert "the first value that diverges is y" in page


TEXT = "m (float[2,3,8,8] x) => (float[2,4,4,4] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"


def test_a_quantized_model_is_compared_behind_its_dequantizers(tmp_path):
    found = quantized(build(TEXT, weights(0, w=(4, 3, 3, 3), b=(4,), v=(4, 4, 3, 3))))
    ir.save(found.before, tmp_path / "before.onnx")
    ir.save(found.model, tmp_path / "after.onnx")
    with Workspace() as workspace:
        layers = compare_layers(
            tmp_path / "before.onnx", tmp_path / "after.onnx", found.data, workspace, floor=35.0
        )  # fmt: skip
    ops = {node.outputs[0].name: node.op_type for node in found.model.graph}
    assert [(layer.value, layer.op) for layer in layers.compared] == [
        ("x.dequantized", "input"), ("a", "Conv"), ("r", "Relu"), ("y", "Conv"),
    ]  # fmt: skip
    assert ops["r"] == ops["x.dequantized"] == "DequantizeLinear"
    assert layers.only_after == layers.only_before == 0
    assert [layer.diverges for layer in layers.compared] == [layer.sqnr < 35.0 for layer in layers.compared]


def test_memory_is_flat_since_values_are_taken_a_part_at_a_time(tmp_path, monkeypatch):
    first, second = (Path(chain(tmp_path / f"{factor}.onnx", second=factor)) for factor in (1.0, 1.1))
    data = batches({"x": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)})
    with Workspace() as workspace:
        whole = compare_layers(first, second, data, workspace)
        monkeypatch.setattr("mlc.statistics.taps.BUDGET", 1)
        assert compare_layers(first, second, data, workspace) == whole
        written = {
            len(onnx.load(path, load_external_data=False).graph.output) for path in workspace.path.glob("tapped*")
        }
    assert written == {1, len(NAMES)}


def test_a_file_that_says_no_dtypes_is_compared(tmp_path, capsys):
    text = """<ir_version: 8, opset_import: ["" : 17]> m (float[batch,4] x) => (float[batch,4] y)
    <int64[1] start = {0}, int64[1] stop = {2}> {
      s = Shape(x) i = Slice(s, start, stop) big = Greater(x, x) h = Cast<to = 11>(x) k = Add(h, h)
      f = Cast<to = 1>(k) r = Reshape(f, i) y = Where(big, x, r)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    code, report = validated(capsys, str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx"))
    assert code == 0
    assert [layer["value"] for layer in report["layers"]] == ["h", "k", "f", "r", "y"]


MODULE = """
import torch


def model():
    torch.manual_seed(0)
    parts = [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)]
    return torch.nn.Sequential(*parts).eval(), (torch.zeros(2, 4),)
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A module and the int8 artifact that was made of it."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "model.py").write_text(MODULE)
    np.savez(folder / "x.npz", input=np.random.default_rng(0).normal(size=(640, 4)).astype(np.float32))
    against = f"{folder / 'model.py'}:model"
    asked = ["--input", "input=float32[batch=1..8,4]", "--calibrate", str(folder / "x.npz")]
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        assert main(["quantize", against, "--to", "int8-static", *asked, "-o", str(folder / "out")]) == 0
    return str(folder / "out"), against, str(folder / "x.npz")


def test_a_module_is_exported_afresh_and_its_values_are_found(capsys, compiled):
    out, against, data = compiled
    assert main(["validate", out, "--against", against, "--per-layer", "--data", data, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (note,) = [note for note in report["notes"] if "compared over" in note]
    assert "64 samples" in note
    assert "of the source's" not in note, "the artifact keeps every name"
    values = [layer["value"] for layer in report["layers"]]
    assert len(values) >= 4
    assert values[0] == "input.dequantized"
    assert values[-1] == "output"
    assert all(layer["sqnr"] > 15 for layer in report["layers"])
