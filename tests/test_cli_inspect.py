"""``mlc inspect``: what is counted is right, what cannot be counted is said, and no digest goes unchecked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlc.cli import main
from mlc.inspecting import inspect_model
from mlc.types import Target
from tests.conftest import measure_quickly
from tests.onnx_models import LAYER, wide, write
from tests.quantizing import build, quantized, weights

pytestmark = pytest.mark.needs_onnxruntime

HEAD = '<ir_version: 8, opset_import: ["" : 17]> model '
CPU = (Target(),)


def facts(path, **at):
    found = inspect_model(path, targets=CPU, at=at).facts
    assert found is not None
    return found


def said(capsys, *arguments):
    """The exit code, what was printed, and what was said of it."""
    code = main(["inspect", *map(str, arguments), "--target", "cpu"])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def saved(path, text, **named):
    """Write a model from its text, with arrays as weights."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {text}')
    for name, array in named.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(model, path)
    return path


ones = np.ones

COUNTED: dict[str, tuple[str, dict[str, np.ndarray], int]] = {
    "Conv": (
        "m (float[n,4,9,9] x) => (float[n,6,a,b] y) { y = Conv<group = 2, strides = [2,2], pads = [1,1,1,1]>(x, w) }",
        {"w": ones((6, 2, 3, 3))}, 3 * 6 * 5 * 5 * 2 * 9,
    ),
    "ConvTranspose": (
        "m (float[n,4,5,5] x) => (float[n,6,a,b] y) { y = ConvTranspose<strides = [2,2]>(x, w) }",
        {"w": ones((4, 6, 3, 3))}, 3 * 4 * 5 * 5 * 6 * 9,
    ),
    "Gemm": (
        "m (float[7,n] x) => (float[n,5] y) { y = Gemm<transA = 1, transB = 1>(x, w, b) }",
        {"w": ones((5, 7)), "b": ones(5)}, 3 * 5 * 7,
    ),
    "MatMul": ("m (float[n,2,7] x) => (float[n,2,5] y) { y = MatMul(x, w) }", {"w": ones((7, 5))}, 3 * 2 * 5 * 7),
    "Einsum": (
        """m (float[n,2,7] x) => (float[n,2,5] y) { y = Einsum<equation = "...ij,jk->...ik">(x, w) }""",
        {"w": ones((7, 5))}, 3 * 2 * 5 * 7,
    ),
    "LSTM": (
        "m (float[n,2,7] x) => (float[n,1,2,5] y) { y, h, c = LSTM<hidden_size = 5>(x, w, r) }",
        {"w": ones((1, 20, 7)), "r": ones((1, 20, 5))}, 3 * 2 * (20 * 7 + 20 * 5),
    ),
    "MultiHeadAttention": (
        """m (float[n,4,8] q, float[n,6,8] k) => (float[n,4,8] y)
        { y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, k) }""",
        {}, 3 * 4 * 6 * (8 + 8),
    ),
    "QAttention": (
        """m (float[n,4,8] x) => (float[n,4,8] y) <float step = {0.1}, uint8 middle = {128}, int8 zero = {0}> {
          q = QuantizeLinear(x, step, middle)
          r = QuantizeLinear(w, step, zero)
          y = com.microsoft.QAttention<num_heads = 2>(q, r, b, step, step, , middle, zero)
        }""",
        {"w": ones((8, 24)), "b": ones(24)}, 3 * 4 * (8 * 24 + 2 * 4 * 8),
    ),
}  # fmt: skip
"""Graphs with an axis n, their weights, and the multiply-adds at n = 3."""


@pytest.mark.parametrize("operator", COUNTED)
def test_multiply_adds_are_exact(tmp_path, operator):
    text, named, expected = COUNTED[operator]
    found = facts(saved(tmp_path / "m.onnx", text, **named), n=3)
    assert found.multiply_adds == expected
    assert found.uncounted == ()
    assert found.parameters == sum(array.size for array in named.values())


def test_attention_with_shared_heads(tmp_path):
    text = """<ir_version: 11, opset_import: ["" : 23]> m
    (float[n,8,4,16] q, float[n,2,6,16] k, float[n,2,6,24] v) => (float[n,8,4,24] y) { y = Attention(q, k, v) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert facts(tmp_path / "m.onnx", n=3).multiply_adds == 3 * 8 * 4 * 6 * (16 + 24)


def test_shapes_that_follow_from_shapes_are_followed(tmp_path):
    text = """m (float[n,t,8] x) => (float[a,b,c] y)
    <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1}, int64[1] four = {4}> {
      s = Shape(x) t = Slice(s, one, two) half = Div(t, two) n = Slice(s, zero, one)
      target = Concat<axis = 0>(n, half, last) r = Reshape(x, target) y = MatMul(r, w)
    }"""
    found = facts(saved(tmp_path / "m.onnx", text, w=ones((16, 5))), n=3, t=10)
    assert found.multiply_adds == 3 * 5 * 16 * 5


def test_a_shared_weight_counts_once(tmp_path):
    text = "m (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) y = MatMul(h, w) }"
    found = facts(saved(tmp_path / "m.onnx", text, w=ones((4, 4))), n=2)
    assert (found.parameters, found.multiply_adds) == (16, 2 * 2 * 16)
    model = onnx.parser.parse_model(HEAD + "(float[n,4] x) => (float[n,4] y) { h = MatMul(x, v) y = MatMul(h, w) }")
    for name in ("v", "w"):
        tensor = model.graph.initializer.add(name=name, data_type=1, dims=[4, 4], data_location=1)
        tensor.external_data.add(key="location", value="w.data")
    (tmp_path / "w.data").write_bytes(bytes(64))
    onnx.save(model, tmp_path / "shared.onnx")
    found = facts(tmp_path / "shared.onnx")
    assert found.parameters == 16
    assert found.files == {"shared.onnx": (tmp_path / "shared.onnx").stat().st_size, "w.data": 64}


def test_the_sizes_are_said_and_may_be_asked_for(tmp_path, capsys):
    path = write(tmp_path / "m.onnx", LAYER)
    code, out, _ = said(capsys, path)
    assert code == 0
    assert "12 multiply-adds at batch=1" in out.splitlines()[0]
    assert "note: the file leaves batch open, taken as 1 here" in out
    _, out, _ = said(capsys, path, "--at", "batch=5")
    assert "60 multiply-adds at batch=5" in out.splitlines()[0]
    assert "taken as 1" not in out
    code, _, err = said(capsys, path, "--at", "bach=5")
    assert code == 2
    assert "did you mean batch?" in err


def test_what_cannot_be_counted_is_said_and_never_guessed(tmp_path, capsys):
    text = """m (float[n,4] x, bool c) => (float[n,4] y) {
      a = MatMul(x, w)
      b = If(c) <then_branch = inner () => (float[n,4] t) { t = MatMul(a, w) },
                 else_branch = other () => (float[n,4] e) { e = Identity(a) }>
      d = my.company.Magic(b)  f = MatMul(d, w)  y = Add(f, x)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "my.company" : 1]> {text}')
    model.graph.initializer.append(numpy_helper.from_array(ones((4, 4), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    code, out, _ = said(capsys, tmp_path / "m.onnx", "--at", "n=2")
    assert code == 0
    assert "at least 32 multiply-adds" in out.splitlines()[0]
    assert "Magic: what my.company.Magic computes is not known: d" in out
    assert "MatMul: how often its branch or loop runs is not known: t" in out
    assert "MatMul: its shapes are not known at these sizes: f" in out
    assert "does not run this model" in out
    assert "subgraphs" in out


def test_what_a_file_says_of_unknown_operators_is_used(tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my.company" : 1]> m (float[n,4] x) => (float[n,3] y)
        <float[n,4] h> { h = my.company.Magic(x) y = MatMul(h, w) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(ones((4, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    found = facts(tmp_path / "m.onnx", n=5)
    assert found.multiply_adds == 5 * 4 * 3
    assert [each.op for each in found.uncounted] == ["Magic"]


def test_a_product_whose_scale_is_of_unknown_type_hides_only_what_reads_it(tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "my.company" : 1]>
        m (float[n,4] x, uint8[n,4] a, int8[4,4] b) => (float[n,3] y, float[n,3] z)
        { s = my.company.Magic(x) p = com.microsoft.MatMulIntegerToFloat(a, b, s, s)
          z = MatMul(p, w) y = MatMul(x, w) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(ones((4, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    found = facts(tmp_path / "m.onnx", n=5)
    assert found.multiply_adds == 5 * 4 * 3
    assert [each.op for each in found.uncounted] == ["Magic", "MatMulIntegerToFloat", "MatMul"]


def test_impossible_sizes_are_not_counted(tmp_path):
    text = "m (float[n,4,t] x) => (float[n,6,u] y) { y = Conv(x, w) }"
    path = saved(tmp_path / "m.onnx", text, w=ones((6, 4, 3)))
    assert [each.op for each in facts(path).uncounted] == ["Conv"]
    assert facts(path, t=5).multiply_adds == 6 * 3 * 4 * 3


def test_local_functions_are_written_out(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> m (float[n,4] x) => (float[n,4] y)
    { h = local.twice(x) y = local.twice(h) }
    <domain: "local", opset_import: ["" : 17]> twice (a) => (b)
    { t = Transpose(a) c = MatMul(t, a) b = MatMul(a, c) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    found = facts(tmp_path / "m.onnx", n=3)
    assert found.functions == {"local.twice": 3}
    assert found.multiply_adds == 2 * (4 * 4 * 3 + 3 * 4 * 4)
    counts = {(each.op, each.domain): each.nodes for each in found.operators}
    assert counts == {("twice", "local"): 2, ("MatMul", ""): 2, ("Transpose", ""): 1}


def test_an_old_file_without_shapes(tmp_path, capsys):
    weight = numpy_helper.from_array(ones((6, 4, 3, 3), np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["b"]),
        helper.make_node("Upsample", ["b"], ["y"], scales=[1.0, 1.0, 2.0, 2.0]),
    ]
    scale = numpy_helper.from_array(ones(6, np.float32), "s")
    graph = helper.make_graph(
        nodes, "old", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 12, 12])], [scale],
    )  # fmt: skip
    graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [6]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    model.producer_name, model.doc_string = "an old tool", "trained\nlong ago"
    helper.set_model_props(model, {"license": "free"})
    onnx.save(model, tmp_path / "old.onnx")
    code, out, _ = said(capsys, tmp_path / "old.onnx")
    assert code == 0
    assert "opset       ai.onnx 7; IR 3; onnxruntime 1.12 or newer" in out
    assert "an old tool" in out
    assert "free" in out
    found = facts(tmp_path / "old.onnx")
    assert found.multiply_adds == 6 * 6 * 6 * 4 * 9
    assert found.inputs == ("x=float32[n,4,8,8]", "s=float32[6]")
    assert found.parameters == 6 * 4 * 9 + 6


def test_what_is_quantized(tmp_path):
    text = "m (float[2,3,8,8] x) => (float[2,4,4,4] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"
    model = quantized(build(text, weights(0, w=(4, 3, 3, 3), b=(4,), v=(4, 4, 3, 3)))).model
    ir.save(model, tmp_path / "int8.onnx")
    found = facts(tmp_path / "int8.onnx")
    assert [(each.name, each.nodes, each.multiply_adds) for each in found.precisions] == [
        ("int8", 2, found.multiply_adds)
    ]
    assert found.parameters == 4 * 3 * 9 + 4 + 4 * 4 * 9
    stored = {held.dtype: held.elements for held in found.weights}
    assert stored["int8"] >= 4 * 3 * 9 + 4 * 4 * 9


def test_weights_alone_in_few_bits(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> m (float[n,64] x) => (float[n,32] y)
    <float[32] s = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {
      d = DequantizeLinear<axis = 1>(w, s)  a = MatMul(x, d)
      b = com.microsoft.MatMulNBits<K = 64, N = 32, bits = 4, block_size = 32>(x, packed, scales)
      c = Add(a, b)  y = MatMul(c, square)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [64, 32], bytes(1024), raw=True))
    arrays: list[np.ndarray] = [np.zeros((32, 2, 16), np.uint8), ones((32, 2), np.float32), ones((32, 32), np.float32)]
    for name, array in zip(("packed", "scales", "square"), arrays, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "m.onnx")
    found = facts(tmp_path / "m.onnx", n=3)
    computed = {each.name: each.multiply_adds for each in found.precisions}
    assert computed == {"int4 weights, float32": 2 * 3 * 64 * 32, "float32": 3 * 32 * 32}
    assert found.parameters == 2 * 64 * 32 + 32 * 32
    assert {held.dtype: held.bytes for held in found.weights}["int4"] == 1024


def test_json_has_all_of_it(tmp_path, capsys):
    code, out, _ = said(capsys, write(tmp_path / "m.onnx", LAYER), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["facts"]["parameters"] == 15
    assert found["facts"]["opsets"] == {"": 17}
    assert found["shares"] == [
        {"target": "cpu", "provider": "CPUExecutionProvider", "device": "", "nodes": 2, "all_nodes": 2, "others": {},
         "problem": ""}
    ]  # fmt: skip
    assert found["manifest"] is None


def test_quiet_is_the_first_line(tmp_path, capsys):
    _, out, _ = said(capsys, write(tmp_path / "m.onnx", LAYER), "-q")
    assert out.count("\n") == 1
    assert out.startswith(f"{tmp_path / 'm.onnx'}: 15 parameters, 12 multiply-adds")


def test_every_installed_provider_is_asked_and_none_is_believed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlc.inspecting.placing.available", lambda: ("cpu", "cuda"))
    assert main(["inspect", str(write(tmp_path / "m.onnx", LAYER))]) == 0
    out = capsys.readouterr().out
    assert "  cpu: 2 of 2 nodes" in out
    assert "  cuda: does not start: " in out


def test_a_target_by_name_has_to_start(tmp_path, capsys):
    path = write(tmp_path / "m.onnx", LAYER)
    assert main(["inspect", str(path), "--target", "cpuu"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("mlc: error: ") == 1


BROKEN = {
    "empty": b"",
    "text": b"not a model",
    "half": None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_sentence(tmp_path, capsys, kind):
    whole = wide(tmp_path / "m.onnx").read_bytes()
    content = BROKEN[kind]
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    code, out, err = said(capsys, tmp_path / "m.onnx")
    assert (code, out) == (3, "")
    assert err.count("mlc: error: ") == 1


def test_data_that_is_missing_cut_off_or_elsewhere(tmp_path, capsys):
    path = wide(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    assert said(capsys, path)[0] == 0
    data.write_bytes(data.read_bytes()[:-1])
    assert "is cut off" in said(capsys, path)[2]
    data.unlink()
    assert "which is not beside it" in said(capsys, path)[2]
    (tmp_path / "secret").write_bytes(bytes(256 * 256 * 4))
    (tmp_path / "inner").mkdir()
    shutil.copy(path, tmp_path / "inner" / "m.onnx")
    (tmp_path / "inner" / "m.onnx.data").symlink_to(tmp_path / "secret")
    code, _, err = said(capsys, tmp_path / "inner" / "m.onnx")
    assert code == 3
    assert "outside the model's folder" in err


def test_weights_beside_the_file_stay_there(tmp_path):
    """Gigabytes of weights in a sparse file: the process that inspects them stays far below their size."""
    size, layers = 16384, 2
    tensors, nodes = [], []
    for index in range(layers):
        tensor = TensorProto(name=f"w{index}", data_type=1, dims=[size, size], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "big.data"), ("offset", str(index * size * size * 4))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"h{index}", f"w{index}"], [f"h{index + 1}"]))
    ports = [helper.make_tensor_value_info(name, 1, ["n", size]) for name in ("h0", f"h{layers}")]
    graph = helper.make_graph(nodes, "big", ports[:1], ports[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "big.onnx"
    )
    total = layers * size * size * 4
    with (tmp_path / "big.data").open("wb") as file:
        file.truncate(total)
    script = (
        "import sys; from mlc.cli import main; code = main(sys.argv[1:]); from mlc.measuring.worker import peak_memory;"
        "print(peak_memory(), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "inspect", "big.onnx", "--target", "cpu"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{layers * size * size:,} parameters" in done.stdout
    assert "cpu: 2 of 2 nodes" in done.stdout
    assert int(done.stderr.split()[-1]) < total / 4


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    source = write(folder / "source.onnx", LAYER)
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    asked = ["--to", "int8-static", "--input", "x=float32[batch=1..8,4]", "--calibrate", str(folder / "x.npz")]
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        assert main(["quantize", str(source), *asked, "-o", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def artifact(tmp_path, compiled):
    return shutil.copytree(compiled, tmp_path / "out")


def test_an_artifact_has_its_history(capsys, artifact):
    code, out, _ = said(capsys, artifact)
    assert code == 0
    for text in (
        "source.onnx",
        "read from source.onnx",
        "x=float32[batch=1..8,4]",
        "int8-static: ",
        "int8 ",
        "onnxruntime",
        "measured at",
    ):
        assert text in out
    assert "24 multiply-adds at batch=2" in out.splitlines()[0]
    assert "note" not in out
    code, _, err = said(capsys, artifact, "--at", "batch=9")
    assert code == 2
    assert "outside batch=1..8" in err


def test_every_digest_is_checked(capsys, artifact):
    (artifact / "report.md").write_text("better\n")
    (artifact / "recipe.toml").unlink()
    (artifact / "notes.txt").write_text("mine\n")
    code, out, _ = said(capsys, artifact)
    assert code == 1
    assert out.startswith(f"{artifact}: 3 files are not as the manifest says\n")
    assert "notes.txt was not written by mlc" in out
    assert "recipe.toml is missing" in out
    assert "report.md is not what was written" in out
    assert "cpu: " in out, "the rest is described all the same"
    found = json.loads((main(["inspect", str(artifact), "--json", "--target", "cpu"]), capsys.readouterr().out)[1])
    assert [each["file"] for each in found["mismatches"]] == ["notes.txt", "recipe.toml", "report.md"]


def test_one_changed_bit_of_each_file_is_found(capsys, artifact):
    for file in sorted(artifact.iterdir()):
        if file.name == "manifest.json":
            continue
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        code, out, _ = said(capsys, artifact)
        assert code == 1
        assert f"{file.name} is not what was written" in out
        file.write_bytes(content)
    assert said(capsys, artifact)[0] == 0


def test_a_model_that_cannot_be_read_is_a_mismatch(capsys, artifact):
    model = artifact / "model.onnx"
    model.write_bytes(model.read_bytes()[:40])
    code, out, _ = said(capsys, artifact)
    assert code == 1
    assert "model.onnx is not what was written" in out
    assert "the model cannot be read: " in out
    model.unlink()
    code, out, _ = said(capsys, artifact)
    assert code == 1
    assert "model.onnx is missing" in out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', '{"schema": 99}', '{"schema": 1, "files": 3}'])
def test_a_broken_manifest_is_one_sentence(capsys, artifact, content):
    (artifact / "manifest.json").write_text(content)
    code, out, err = said(capsys, artifact)
    assert (code, out) == (3, "")
    assert err.count("mlc: error: ") == 1
    assert "manifest.json" in err


def test_what_is_no_model_is_one_sentence(tmp_path, capsys):
    assert "does not exist" in said(capsys, tmp_path / "nowhere")[2]
    assert "has no manifest.json" in said(capsys, tmp_path)[2]


def test_it_needs_no_torch(tmp_path):
    write(tmp_path / "m.onnx", LAYER)
    (tmp_path / "poisoned" / "torch").mkdir(parents=True)
    (tmp_path / "poisoned" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    done = subprocess.run(
        [sys.executable, "-m", "mlc", "inspect", "m.onnx", "--target", "cpu"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "poisoned")}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "12 multiply-adds" in done.stdout
