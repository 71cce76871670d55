"""``mlc quantize --explain``, and what reports and ``mlc validate`` say of a quantized model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx_ir as ir
import pytest

from mlc.cli import main
from tests.quantizing import VNNI, batches, build, quantized, weights

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[batch,3,8,8] x) => (float[batch,5] y) {
    a = Conv(x, w, b)
    r = Relu(a)
    c = Conv(r, w2)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w3)
}"""
INPUT = ["--input", "x=float32[batch=1..8,3,8,8]"]


@pytest.fixture
def source(tmp_path):
    """A small CNN whose weights are of one sign, so that whole pairs of 8-bit products are large, and its data."""
    made = {name: np.abs(array) + 0.2 for name, array in weights(0, w=(4, 3, 3, 3), w2=(4, 4, 3, 3), w3=(5, 4)).items()}
    ir.save(build(TEXT, {**made, **weights(1, b=(4,))}), tmp_path / "source.onnx")
    generator = np.random.default_rng(2)
    np.savez(tmp_path / "data.npz", x=generator.uniform(0, 1, (40, 3, 8, 8)).astype(np.float32))
    return tmp_path


def explained(source, *more):
    data = str(source / "data.npz")
    return main(["quantize", str(source / "source.onnx"), "--to", "int8-static", *INPUT, "--calibrate", data, *more])


def test_it_is_explained_and_nothing_is_written(source, capsys, monkeypatch):
    monkeypatch.chdir(source)
    assert explained(source, "--explain") == 0
    out = capsys.readouterr().out
    assert out.startswith("Explained: speed and accuracy were not measured, and nothing was written.\n")
    assert "cannot be explained" not in out
    for text in ("quantized tensors, the worst\n", "each node quantized alone, the worst\n", "--keep-float ",
                 "100 % of the multiply-adds run on integers", "no product sum saturates on: "):  # fmt: skip
        assert text in out
    assert sorted(path.name for path in source.iterdir()) == ["data.npz", "source.onnx"]


def test_it_says_everything_as_json_too(source, capsys):
    assert explained(source, "--explain", "--json") == 0
    told = json.loads(capsys.readouterr().out)["explanation"]
    assert {tensor["kind"] for tensor in told["tensors"]} == {"activation", "weight"}
    assert [node["node"] for node in told["nodes"]] == ["a", "c", "p", "f", "y"]
    assert all(isinstance(node["sqnr"], float) or node["sqnr"] == "Infinity" for node in told["nodes"])
    assert told["samples"] == 32  # what is left to judge by of 40


@pytest.mark.parametrize(("option", "value"), [("--out", ["there"]), ("--force", [])])
def test_what_is_to_be_written_is_refused(source, capsys, option, value):
    assert explained(source, "--explain", option, *value) == 2
    error = capsys.readouterr().err
    assert "--explain writes nothing" in error
    assert f"leave out {option}" in error


def test_a_model_of_which_nothing_is_quantized_is_said_to_be(source, capsys):
    assert explained(source, "--explain", "--keep-float", "*") in (0, 4)
    captured = capsys.readouterr()
    assert "quantized tensors" not in captured.out
    assert captured.out.startswith("No node is quantized") or "converted no node" in captured.err


@pytest.fixture
def softmax(tmp_path):
    """A model of which fp16 keeps a node float32, and its data."""
    text = "agraph (float[batch,6] x) => (float[batch,3] y) {\n a = MatMul(x, w)\n s = Softmax(a)\n y = MatMul(s, v)\n}"
    ir.save(build(text, weights(0, w=(6, 40), v=(40, 3))), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **weights(1, x=(20, 6)))
    return tmp_path


WHY = "it takes powers or exponentials, which leave float16  "


def test_float16_is_explained(softmax, capsys):
    arguments = [str(softmax / "m.onnx"), "--input", "x=float32[batch=1..8,6]", "--calibrate", str(softmax / "d.npz")]
    assert main(["quantize", *arguments, "--to", "fp16", "--explain"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Explained: ")
    for text in ("quantized tensors, the worst\n", "-65,504 to 65,504", "each node quantized alone, the worst\n",
                 "the largest magnitude in float16: ", "where float16 ends at 65,504\n", "what stays float32\n",
                 WHY, "Softmax s"):  # fmt: skip
        assert text in out
    assert "multiply-adds run on integers" not in out


def test_a_written_model_in_float16_is_explained_by_the_plan_beside_it(softmax, capsys, quick):
    model, place = str(softmax / "m.onnx"), softmax / "out"
    asked = ["--input", "x=float32[batch=1..8,6]"]
    data = str(softmax / "d.npz")
    assert main(["quantize", model, *asked, "--to", "fp16", "--calibrate", data, "-o", str(place)]) == 0
    page = (place / "report.html").read_text()
    assert "What stays float32" in page
    capsys.readouterr()
    assert main(["validate", str(place), "--against", model, "--data", data, "--per-layer"]) == 0
    out = capsys.readouterr().out
    assert "the largest magnitude in float16: " in out
    assert WHY in out
    alone = shutil.copy(place / "model.onnx", softmax / "alone.onnx")
    assert main(["validate", str(alone), "--against", model, *asked, "--data", data, "--per-layer"]) == 0
    out = capsys.readouterr().out
    assert WHY not in out
    assert "no plan says why" in out


def test_a_written_report_explains(source, capsys, quick):
    assert explained(source, "--out", str(source / "out")) == 0
    content = json.loads((source / "out" / "report.json").read_text())
    assert content["explanation"]["nodes"]
    page = (source / "out" / "report.html").read_text()
    assert '<section id="quantization">' in page
    assert 'class="key k1"></span>quantized' in page
    out = capsys.readouterr().out
    assert "of the multiply-adds run on integers" in out
    assert "quantized tensors" not in out


def test_somebody_elses_int8_file_is_explained_and_its_sums_are_judged(source, capsys):
    before = ir.load(source / "source.onnx")
    data = batches({"x": np.load(source / "data.npz")["x"]})
    ir.save(quantized(before, data, capabilities=VNNI).model, source / "int8.onnx")
    arguments = ["validate", str(source / "int8.onnx"), "--against", str(source / "source.onnx"), *INPUT,
                 "--data", str(source / "data.npz")]  # fmt: skip
    assert main([*arguments, "--per-layer"]) == 0
    out = capsys.readouterr().out
    assert "quantized tensors, the worst\n" in out
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["explanation"] is None
    (said,) = [line for line in report["saturation"] if line.startswith("on onnxruntime (x86 without VNNI) the output")]
    assert "the output y is at " in said
    cut, exact = (float(part.split()[-1]) for part in said.split(" dB")[:2])
    assert cut < exact - 6


def test_a_float_model_has_no_section(source, capsys):
    path = str(source / "source.onnx")
    assert main(["validate", path, "--against", path, *INPUT, "--per-layer"]) == 0
    out = capsys.readouterr().out
    assert "agree" in out or "equal" in out
    assert "quantiz" not in out
