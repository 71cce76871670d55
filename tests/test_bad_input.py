"""Whatever a user gets wrong: one sentence, a hint, the right exit code, and nothing on disk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from mlc.cli import main
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target

SAMPLES = Path(__file__).parents[1] / "sample_models"
LINEAR = f"{SAMPLES / 'linear' / 'model.py'}:model"
INPUT = ["--input", "x=float32[batch=1..8,6]"]
DATA = str(SAMPLES / "linear" / "calibration.npz")
EVALUATION = str(SAMPLES / "linear" / "evaluation.npz")

MODULE = """
import numpy as np
import torch
from torch import nn


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        {forward}


def model():
    return Module(), (torch.ones(2, 6),)


def not_a_module():
    return "a string"


def raises():
    raise RuntimeError("no network here")


def generator():
    yield {{"x": np.zeros((2, 6), np.float32)}}


def batches():
    return [{{"x": np.zeros((2, 6), np.float32), "labels": np.zeros(2, np.int64)}}] * 4


def metric_raises(outputs, answers):
    raise ValueError("no such class")


value = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_module("return self.linear(x)")
    return tmp_path


def write_module(forward):
    Path("user.py").write_text(MODULE.format(forward=forward))


@pytest.fixture
def refused(folder, capsys):
    """Run the command line; return the error's sentence after checking exit code, form, and that nothing was left."""

    def run(arguments, code):
        before = sorted(path.name for path in folder.iterdir())
        exit_code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert exit_code == code, captured.err
        assert "Traceback" not in captured.err
        errors = [line for line in captured.err.splitlines() if line.startswith("mlc: error: ")]
        assert len(errors) == 1, captured.err
        assert captured.out == ""
        after = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
        assert after == [name for name in before if name != "__pycache__"]
        return captured.err

    return run


def compile_linear(*more, source=LINEAR):
    return ["compile", source, *INPUT, "-o", "out", *more]


def quantize_linear(*more, source=LINEAR):
    return ["quantize", source, "--to", "int8", *INPUT, "-o", "out", *more]


USAGE = [
    (["compile"], "no model is given"),
    (compile_linear("--pass", "fold-constant"), "fold-constants"),
    (compile_linear("--pass", "fold-constants:limitt=3"), "limit"),
    (compile_linear("--pass", "int8-static:method=percentil", "--calibrate", DATA), "method"),
    (compile_linear("--pass", "int8-static:percent=200,method=percentile", "--calibrate", DATA), "percent"),
    (compile_linear("--pass", "int8-static", "--pass", "int8-static", "--calibrate", DATA), "twice"),
    (compile_linear("--metric", "top2", "--data", EVALUATION), "top1"),
    (compile_linear("--max-drop", "0.1"), "metric"),
    (compile_linear("--max-drop", "-1", "--metric", "mse", "--data", EVALUATION), "-1"),
    (compile_linear("--max-drop", "0.1", "--metric", "sqnr", "--data", EVALUATION), "sqnr"),
    (compile_linear("--metric", "mse"), "data"),
    (compile_linear("--calibrate", DATA), "calibrat"),
    (compile_linear("--at", "batch=9"), "1..8"),
    (compile_linear("--at", "bach=2"), "batch"),
    (compile_linear("--opset", "two"), "opset"),
    (compile_linear("--no-such-option"), "no-such-option"),
    (["quantize", LINEAR, "--to", "int8-static", *INPUT, "-o", "out"], "data"),
    (["quantize", LINEAR, "--to", "int9", *INPUT, "--calibrate", DATA], "int8"),
    (["compile", LINEAR, "--input", "x=float32[batch,6]"], "batch"),
    (["compile", LINEAR, "--input", "x=float32[batch=8..1,6]"], "8..1"),
    (["compile", LINEAR, "--input", "y=float32[batch=1..8,6]"], "has no input 'y', it has x"),
    (compile_linear("--opset", "99"), "the exporter writes 18 to"),
    (compile_linear("--pass", "int8-static:method=foo"), "int8-static is 'min-max', 'percentile', 'mse' or"),
    (compile_linear("--pass", "int8-static:percent=x"), "the option percent of the pass int8-static is a number"),
    (["compile", LINEAR, "--input", "x=float32[batch=1..8,5]"], "5"),
    (["compile", LINEAR, "--input", "x=float32[batch=1..8]"], "x"),
    (["compile", LINEAR, "--input", "x=int64[batch=1..8,6] in 0..3"], "float32"),
    (["compile", LINEAR, "--input", "x=float33[2,6]"], "float33"),
    (["compile", "--recipe", "none.toml"], "none.toml"),
    (["bench"], "MODEL"),
    (["validate", "model.onnx"], "--against"),
    (["passes", "fold-constant"], "fold-constants"),
    (["compil"], "compile"),
]


@pytest.mark.parametrize(("arguments", "named"), USAGE, ids=[" ".join(a).replace(str(SAMPLES), "") for a, _ in USAGE])
def test_wrong_use(refused, arguments, named):
    assert named in refused(arguments, 2)


@pytest.mark.parametrize(
    ("source", "more", "code", "named"),
    [
        ("nowhere.onnx", (), 3, "there is no model file nowhere.onnx"),
        (LINEAR, ("--at", "bach=2"), 2, "did you mean batch?"),
        (LINEAR, ("--max-drop", "0.1"), 2, "no metric was given"),
        (LINEAR, ("--images", "size=8"), 2, "settings of images were given"),
        (LINEAR, ("--target", "nowhere"), 3, "nowhere"),
        (LINEAR, ("-o", "user.py"), 2, "user.py exists"),
        (LINEAR, (), 2, "fp16 needs data to calibrate on"),
    ],
)
def test_data_that_is_missing_hides_no_other_error(refused, source, more, code, named):
    assert named in refused(["quantize", source, "--to", "fp16", *INPUT, *more], code)


@pytest.mark.parametrize(
    ("source", "code", "named"),
    [
        ("missing.py:model", 3, "missing.py"),
        ("user.py:modell", 3, "model"),
        ("user.py:value", 3, "value"),
        ("user.py:not_a_module", 3, "torch.nn.Module"),
        ("user.py:raises", 3, "no network here"),
        ("no.such.package:model", 3, "no.such"),
        ("missing.onnx", 3, "missing.onnx"),
        ("user.py", 2, ":"),
        (f"{LINEAR}@missing.safetensors", 3, "missing.safetensors"),
        (f"{LINEAR}@weights.zip", 2, "weights.zip"),
    ],
)
def test_a_source_that_cannot_be_used(refused, source, code, named):
    assert named in refused(compile_linear(source=source), code)


@pytest.mark.parametrize("name", ["m.onnx", "w.safetensors", "d.npz", "r.toml", "m.py"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage\xff" * 50], ids=["empty", "corrupt"])
def test_a_file_of_every_kind_that_is_empty_or_corrupt(refused, name, content):
    Path(name).write_bytes(content)
    arguments = {
        "m.onnx": compile_linear(source=name),
        "w.safetensors": compile_linear(source=f"{LINEAR}@{name}"),
        "d.npz": quantize_linear("--calibrate", name),
        "r.toml": ["compile", "--recipe", name],
        "m.py": compile_linear(source=f"{name}:model"),
    }[name]
    assert name in refused(arguments, 2 if name == "r.toml" else 3)


def save_weights(**changes):
    weights = {"linear.weight": np.ones((4, 6), np.float32), "linear.bias": np.ones(4, np.float32)}
    weights = {name: array for name, array in {**weights, **changes}.items() if array is not None}
    save_file(weights, "w.safetensors")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"linear.bias": None}, "linear.bias"),
        ({"extra.weight": np.ones(3, np.float32)}, "extra.weight"),
        ({"linear.weight": np.ones((4, 7), np.float32)}, "linear.weight"),
        ({"linear.bias": np.array([1, np.nan, 1, 1], np.float32)}, "linear.bias"),
        ({"linear.bias": np.array([1, np.inf, 1, 1], np.float32)}, "linear.bias"),
    ],
)
def test_weights_that_do_not_fit(refused, changes, named):
    save_weights(**changes)
    assert named in refused(compile_linear(source="user.py:model@w.safetensors"), 3)


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        ("raise ValueError('seven is not allowed')", "user.py:13"),
        ("return None", "tensor"),
        ("return 'text'", "tensor"),
        ("return self.linear(x) if x.sum() > 0 else x", "user.py:13"),
        ("return self.linear(x) * (10 if x.shape[0] > 4 else 1)", "batch"),
        ("return self.linear(x[:2].reshape(2, 6))", "batch"),
        ("return self.linear(x + torch.rand_like(x))", "disagree"),
    ],
)
def test_a_module_that_cannot_be_exported(refused, forward, named):
    write_module(forward)
    assert named in refused(compile_linear(source="user.py:model"), 3)


def save_data(name="d.npz", **changes):
    arrays = {"x": np.ones((10, 6), np.float32), "targets": np.ones((10, 4), np.float32)}
    np.savez(name, **{key: array for key, array in {**arrays, **changes}.items() if array is not None})


def spoiled(value):
    array = np.ones((10, 6), np.float32)
    array[7, 3] = value
    return array


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x": None, "X": np.ones((10, 6), np.float32)}, "x"),
        ({"x": np.ones((10, 6), np.float64)}, "float64"),
        ({"x": np.ones((10, 5), np.float32)}, "5"),
        ({"x": np.ones((10, 6, 1), np.float32)}, "x"),
        ({"x": np.ones((0, 6), np.float32), "targets": np.ones((0, 4), np.float32)}, "no samples"),
        ({"targets": np.ones((9, 4), np.float32)}, "9"),
        ({"x": spoiled(np.nan)}, "sample 7"),
        ({"x": spoiled(np.inf)}, "sample 7"),
        ({"x": np.array([{}] * 10, dtype=object)}, "x"),
    ],
)
def test_data_that_cannot_be_used(refused, changes, named):
    save_data(**changes)
    assert named in refused(quantize_linear("--calibrate", DATA, "--data", "d.npz", "--metric", "mse"), 3)


@pytest.mark.parametrize(
    ("data", "metric", "code", "named"),
    [
        ("missing.npz", "mse", 3, "missing.npz"),
        ("user.py:generator", "mse", 3, "generator"),
        ("user.py:no_function", "mse", 3, "no_function"),
        (DATA, "mse", 3, "targets"),
        ("user.py:batches", "user.py:metric_raises", 3, "no such class"),
        ("user.py:batches", "user.py:no_metric", 2, "no_metric"),
    ],
)
def test_data_and_metrics_from_code(refused, data, metric, code, named):
    assert named in refused(compile_linear("--data", data, "--metric", metric), code)


@pytest.mark.parametrize("target", ["cpuu", "cuda", "openvino/npu", "cpu,threads=0", "cpu:gpu"])
def test_a_target_that_is_not_there(refused, target):
    import onnxruntime

    if target == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the provider")
    sentence = refused(compile_linear("--target", target), 2 if "threads" in target else 3)
    assert target.split(",", maxsplit=1)[0].split(":", maxsplit=1)[0].split("/")[0] in sentence


def test_an_output_that_exists(refused):
    Path("out").mkdir()
    Path("out", "notes.txt").write_text("mine")
    assert "--force" in refused(compile_linear(), 2)
    assert "not an artifact" in refused(compile_linear("--force"), 2)
    assert Path("out", "notes.txt").read_text() == "mine"


def test_external_data_that_is_missing_or_outside(refused):
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (float[2,6] x) => (float[2,4] y) {y = MatMul(x, w)}'
    )
    weight = onnx.numpy_helper.from_array(np.ones((6, 4), np.float32), "w")
    model.graph.initializer.append(weight)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    shutil.move("m.onnx.data", "aside.bin")
    assert "m.onnx.data" in refused(["compile", "m.onnx", "-o", "out"], 3)
    content = Path("m.onnx").read_bytes().replace(b"m.onnx.data", b"../../e.bin")
    Path("m.onnx").write_bytes(content)
    assert re.search("outside|folder", refused(["compile", "m.onnx", "-o", "out"], 3))


def test_shapes_that_lie_in_external_data(refused):
    """What onnxruntime does not read is said with what to do, and that helps."""
    text = '<ir_version: 9, opset_import: ["": 20]> g (float[2,6] x) => (float[3,4] y) {y = Reshape(x, shape)}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 4]), "shape"))
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert "with small tensors inside: onnx.save(onnx.load(" in refused(["compile", "m.onnx", "-o", "out"], 3)
    onnx.save(onnx.load("m.onnx"), "other.onnx", save_as_external_data=True)
    with open_session(Path("other.onnx"), Target()) as session:
        assert session.run({"x": np.ones((2, 6), np.float32)})["y"].shape == (3, 4)


def test_nothing_is_converted(refused):
    write_module("return torch.softmax(x, -1)")
    sentence = refused(quantize_linear("--calibrate", DATA, source="user.py:model"), 4)
    assert "the passes int8-static and int8-dynamic have no node to convert" in sentence


def test_prefixes_of_wrappers_are_stripped_and_said(folder, capsys, quick):
    weights = load_file(SAMPLES / "fashion_cnn" / "weights.safetensors")
    save_file({f"_orig_mod.module.{name}": array for name, array in weights.items()}, "wrapped.safetensors")
    source = f"{SAMPLES / 'fashion_cnn' / 'model.py'}:model@wrapped.safetensors"
    assert main(["compile", source, "--input", "image=float32[batch=1..4,1,28,28]", "-o", "out"]) == 0
    assert "_orig_mod" in capsys.readouterr().out


def test_calibration_data_without_answers_are_refused_before_anything_is_done(refused, monkeypatch):
    monkeypatch.setattr("mlc.pipeline.line.export", None)
    sentence = refused(quantize_linear("--calibrate", DATA, "--metric", "top1"), 3)
    assert "the metric top1 needs answers, and calibration.npz has none" in sentence
    assert "--data with labels or targets" in sentence


def test_data_without_a_function(refused):
    sentence = refused(quantize_linear("--calibrate", "user.py"), 3)
    assert "add the function: user.py:NAME; there is: batches, generator" in sentence


def test_hints_say_what_to_write(refused, monkeypatch):
    Path("r.toml").write_text('source = "m.onnx"\nseed = = 3\n')
    assert "correct line 2: seed = = 3" in refused(["compile", "--recipe", "r.toml"], 2)
    Path("made").mkdir()
    Path("made", "recipe.toml").write_text("")
    assert "did you mean made/recipe.toml?" in refused(["compile", "--recipe", "made"], 2)
    save_weights()
    assert "w.safetensors is not an ONNX model\n" in refused(["bench", "w.safetensors"], 3)
    assert "write file.py:function@w.safetensors" in refused(["compile", "w.safetensors"], 2)
    write_module("return self.linear(x)")
    Path("bare.py").write_text("import torch\n\n\ndef model():\n    return torch.nn.Linear(6, 4)\n")
    said = refused(["compile", "bare.py:model", "--input", "input=float32[batch=1..8,5]"], 3)
    assert "--input 'input=float32[batch=1..8,5]'" in said


def test_a_range_of_values_without_an_example(refused):
    Path("table.py").write_text("import torch\n\n\ndef model():\n    return torch.nn.Embedding(10, 4)\n")
    said = refused(["compile", "table.py:model", "--input", "input=int64[batch=1..8] in 0..2000"], 3)
    assert "the model does not hold for input = 2000 (the high end of its range in 0..2000)" in said


def test_a_single_number_and_a_module_of_any_arguments(refused):
    Path("odd.py").write_text(
        "import torch\n\n\nclass Any(torch.nn.Module):\n    def forward(self, *args):\n        return args[0]\n\n\n"
        "class Scaled(torch.nn.Module):\n    def forward(self, x, t):\n        return x * t\n\n\n"
        "def scaled():\n    return Scaled(), (torch.ones(2, 6), torch.tensor(2.0))\n"
    )
    assert "nothing says which inputs forward(*args) of Any takes" in refused(["compile", "odd.py:Any"], 3)
    np.savez("scaled.npz", x=np.ones((8, 6), np.float32), t=np.float32(2))
    said = refused(["quantize", "odd.py:scaled", "--to", "int8", *INPUT, "--calibrate", "scaled.npz"], 3)
    assert "the input t is a single number" in said


def test_artifacts_are_timed_at_the_sizes_they_were_measured_at_and_can_be_the_source(folder, capsys, quick):
    assert main(compile_linear("--at", "batch=7")) == 0
    capsys.readouterr()
    assert main(["bench", "out", "--seconds", "0.1"]) == 0
    assert "batch=7" in capsys.readouterr().out
    assert main(["bench", "out", "--seconds", "0.1", "--at", "batch=3"]) == 0
    assert "batch=3" in capsys.readouterr().out
    assert main(["validate", "out/model.onnx", "--against", "out"]) == 0
