"""``mlc validate`` through the command line: what differs is a verdict with exit code 1, not an error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlc.cli import main

LINEAR = Path(__file__).parents[1] / "sample_models" / "linear"
SOURCE = f"{LINEAR / 'model.py'}:model"
INPUT = ["--input", "x=float32[batch=1..8,6]"]
HEAD = '<ir_version: 8, opset_import: ["" : 17]> model '
SAME = "(float[batch,6] x) => (float[batch,6] output) "


def write(path, interface, body):
    model = onnx.parser.parse_model(f"{HEAD}{interface}{body}")
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def identity(tmp_path):
    return write(tmp_path / "source.onnx", SAME, "{ output = Identity(x) }")


OTHERS = {
    "the inputs are y, the source's x": ("(float[batch,6] y) => (float[batch,6] output)", "{ output = Identity(y) }"),
    "the outputs are z, the source's output": ("(float[batch,6] x) => (float[batch,6] z)", "{ z = Identity(x) }"),
    "the input x is float64": ("(double[batch,6] x) => (float[batch,6] output)", "{ output = Cast<to=1>(x) }"),
    "the output output is float64": ("(float[batch,6] x) => (double[batch,6] output)", "{ output = Cast<to=11>(x) }"),
    "the input x is float32 of rank 3": ("(float[n,6,1] x) => (float[n,6,1] output)", "{ output = Identity(x) }"),
    "the input x is fixed at 2 along axis 0": ("(float[2,6] x) => (float[2,6] output)", "{ output = Identity(x) }"),
    "the output output is fixed at 7 along axis 1, the source's is 6": (
        "(float[batch,6] x) => (float[batch,7] output)",
        "<int64[4] pads = {0, 0, 0, 1}> { output = Pad(x, pads) }",
    ),
    "the inputs are x, s": ("(float[batch,6] x, float[1] s) => (float[batch,6] output)", "{ output = Mul(x, s) }"),
}
"""Models that are not the identity over x, by what is said of them."""


@pytest.mark.parametrize("problem", OTHERS)
def test_another_interface_is_a_verdict(tmp_path, capsys, identity, problem):
    model = write(tmp_path / "model.onnx", *OTHERS[problem])
    assert main(["validate", model, "--against", identity, *INPUT]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(f"Missed: interface: {problem}")
    assert shown.splitlines()[0].endswith(" No values were compared.")


def test_of_a_model_with_another_interface_nothing_is_said_that_nobody_looked_at(tmp_path, capsys, identity):
    model = write(tmp_path / "m.onnx", "(float[batch,6] y) => (float[batch,6] y2)", "{ y2 = Identity(y) }")
    assert main(["validate", model, "--against", identity, *INPUT, "--per-layer", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    first = "Missed: interface: the inputs are y, the source's x (and 1 more difference). No values were compared."
    assert report["first_line"] == first
    assert [verdict["limit"] for verdict in report["verdicts"]] == ["interface"]
    assert report["trials"][0]["size_bytes"] == Path(model).stat().st_size
    assert report["notes"] == ["values were not compared layer by layer, since the interfaces differ"]


def test_values_that_are_not_finite_are_a_verdict(tmp_path, capsys, identity):
    body = "<float zero = {0}> { output = Div(x, zero) }"
    assert main(["validate", write(tmp_path / "m.onnx", SAME, body), "--against", identity, *INPUT]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert "NaN or infinite" in first
    assert "agree" not in first


NAN_AT_8 = """<float eight = {8}> {
    n = Shape<end=1>(x) f = Cast<to=1>(n) d = Sub(eight, f) one = Div(d, d) output = Mul(x, one)
}"""

USELESS = {
    "output has NaN or Inf at other positions than expected, at batch=8": (SAME, NAN_AT_8),
    "output has shape [1, 6], expected [2, 6], at batch=2": (
        "(float[batch,6] x) => (float[n,m] output)",
        "<int64[1] from = {1}, int64[1] to = {99}> { output = Slice(x, from, to) }",
    ),
}
"""Models that are of no use at one of the sizes, by what is said of them."""


@pytest.mark.parametrize("said", USELESS)
def test_what_is_of_no_use_at_one_of_the_sizes_is_a_verdict(tmp_path, capsys, identity, said):
    model = write(tmp_path / "m.onnx", *USELESS[said])
    assert main(["validate", model, "--against", identity, *INPUT, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (values,) = [verdict for verdict in report["verdicts"] if verdict["limit"] == "values"]
    assert values["outcome"] == "missed"
    assert said in values["measured"]
    assert "infinite dB or better" not in report["first_line"]


def test_without_limits_it_reports(tmp_path, capsys, identity):
    model = write(tmp_path / "m.onnx", SAME, "<float two = {2}> { output = Mul(x, two) }")
    assert main(["validate", model, "--against", identity, *INPUT]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "The outputs do not agree with the source's, 0 dB at worst."
    assert main(["validate", identity, "--against", identity, *INPUT]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "The outputs equal the source's."


def test_a_model_in_half_equals_itself(tmp_path, capsys):
    body = "<float16[6,6] w> { h = Cast<to=10>(x) m = MatMul(h, w) output = Cast<to=1>(m) }"
    model = onnx.parser.parse_model(f"{HEAD}{SAME}{body}")
    weight = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "half.onnx")
    half = str(tmp_path / "half.onnx")
    assert main(["validate", half, "--against", half, *INPUT]) == 0
    out = capsys.readouterr().out
    told = re.search(r"agree with the source's at (\d+) dB|equal the source's", out.splitlines()[0])
    assert told is not None
    assert int(told[1] or 999) > 120
    assert "as a GPU computes it" not in out


def test_limits_decide(tmp_path, capsys, identity):
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=x.argmax(1))
    same, wrong = identity, write(tmp_path / "m.onnx", SAME, "{ output = Neg(x) }")
    asked = ["--against", same, *INPUT, "--data", str(tmp_path / "data.npz"), "--metric", "top1", "--max-drop"]
    assert main(["validate", wrong, *asked, "0.5"]) == 1
    assert capsys.readouterr().out.startswith("Missed: max-drop")
    assert main(["validate", same, *asked, "0.05"]) == 0
    assert "The limit is met." in capsys.readouterr().out
    assert main(["validate", same, *asked, "0.001", "--strict"]) == 1
    assert capsys.readouterr().out.startswith("Inconclusive: max-drop")


@pytest.mark.usefixtures("quick")
def test_an_artifact_brings_its_ranges_and_refuses_what_was_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compile", SOURCE, *INPUT, "-o", "out"]) == 0
    capsys.readouterr()
    assert main(["validate", "out", "--against", SOURCE, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {check["sizes"]["batch"] for check in report["checks"]} >= {1, 2, 8}
    Path("other.py").write_text(
        "import torch\n"
        "class Other(torch.nn.Module):\n"
        "    def forward(self, y):\n"
        "        return y * 2\n"
        "def model():\n"
        "    return Other(), (torch.ones(2, 6),)\n"
    )
    assert main(["validate", "out", "--against", "other.py:model"]) == 1
    assert "the inputs are x, the source's y" in capsys.readouterr().out
    content = bytearray(Path("out", "model.onnx").read_bytes())
    content[-1] ^= 1
    Path("out", "model.onnx").write_bytes(content)
    assert main(["validate", "out", "--against", SOURCE]) == 3
    assert "is not what was written" in capsys.readouterr().err
    assert main(["bench", "out", "--seconds", "0.1"]) == 3


@pytest.mark.usefixtures("quick")
def test_weights_in_blocks_are_quantized_and_are_explained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wide.py").write_text(
        "import torch\n"
        "def model():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))\n"
    )
    asked = ["wide.py:model", "--input", "input=float32[batch=1..8,64]"]
    assert main(["quantize", *asked, "--to", "int4-weights", "-o", "out"]) == 0
    assert "MatMulNBits" in {node.op_type for node in onnx.load("out/model.onnx").graph.node}
    capsys.readouterr()
    assert main(["validate", "out", "--against", "wide.py:model", "--per-layer", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["explanation"]["nodes"]
    assert any("drawn at random" in note for note in report["notes"])


def test_a_quantized_model_on_drawn_inputs_is_not_said_to_agree(tmp_path, capsys, identity):
    body = (
        """<float s = {0.0001}, uint8 z = {128}> { q = QuantizeLinear(x, s, z) output = DequantizeLinear(q, s, z) }"""
    )
    model = write(tmp_path / "m.onnx", SAME, body)
    assert main(["validate", model, "--against", identity, *INPUT]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The outputs do not agree with the source's, 0.")
    assert "the inputs were drawn at random, which no calibration has seen: --data compares" in shown
