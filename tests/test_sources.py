"""Every kind of source gives an Original with a complete signature, or one sentence that says what is wrong."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlc.errors import MlcError, SourceError, UsageError
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from mlc.types import OutputSpec
from tests import models_for_export as models

MODELS = models.__file__
IMAGE = torch.randn(2, 3, 8, 8)


def refused(error, source, example=None, *specs):
    """The message and hint of a load that has to fail."""
    with pytest.raises(error) as caught:
        load(source, parse_inputs(specs), example)
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def test_a_function_without_an_example_takes_its_inputs_from_the_specs():
    original = load(f"{MODELS}:net", parse_inputs(["image=float32[batch=1..8,3,h=8..16,8]"]))
    assert original.source == f"{MODELS}:net"
    assert original.example["image"].shape == (2, 3, 8, 8)
    assert original.signature.outputs == (OutputSpec("output", "float32", ("batch", 5)),)


def test_outputs_follow_the_dims_that_explain_them():
    original = load(models.Cache(), parse_inputs(
        ["past=float32[batch=1..4,past=0..6,8]", "x=float32[batch,seq=1..6,8]", "mask=float32[batch,total=past+seq]"]
    ))  # fmt: skip
    assert [output.dims for output in original.signature.outputs] == [("batch", "seq", 8), ("batch", "total", 8)]


def test_weights_are_the_same_in_every_process_and_part_of_the_digest(tmp_path):
    first, second = load(f"{MODELS}:net_with_example"), load(f"{MODELS}:net_with_example")
    assert first.digest == second.digest
    file = tmp_path / "model.py"
    file.write_text("from torch import nn, ones\ndef make(): return nn.Linear(2, 2), ones(1, 2)\n")
    before = load(f"{file}:make").digest
    file.write_text(file.read_text() + "# a comment\n")
    assert load(f"{file}:make").digest != before


def test_the_digest_of_a_live_module_follows_its_weights():
    module = nn.Linear(3, 2)
    first = load(module, (), torch.ones(1, 3))
    assert first.source == f"python:{first.digest}"
    assert load(module, (), torch.ones(5, 3)).digest == first.digest
    with torch.no_grad():
        module.bias[0] += 1
    assert load(module, (), torch.ones(1, 3)).digest != first.digest


@pytest.mark.parametrize(
    "example",
    [torch.ones(2, 3), (torch.ones(2, 3),), [torch.ones(2, 3)], {"x": torch.ones(2, 3)}, np.ones((2, 3), "f4")],
)
def test_the_forms_of_an_example(example):
    original = load(models.Spectrum(), (), example)
    np.testing.assert_array_equal(original.example["x"], np.ones((2, 3)))


def test_an_optional_input_is_there_when_it_has_a_spec():
    x = torch.ones(2, 3)
    module = models.Nested()
    assert [spec.name for spec in load(module, (), (x, (x, x))).signature.inputs] == ["x", "states.0", "states.1"]
    with_mask = load(module, parse_inputs(["mask=float32[2,3]"]), (x, (x, x)))
    assert [spec.name for spec in with_mask.signature.inputs] == ["x", "states.0", "states.1", "mask"]


def test_run_answers_by_name_and_repeats():
    original = load(models.Detector(), (), torch.ones(2, 3))
    first, second = original.run(original.example), original.run(original.example)
    assert list(first) == ["boxes", "hidden.0", "hidden.1"]
    np.testing.assert_array_equal(first["hidden.1"], np.full((2, 3), 3, np.float32))
    assert all(np.array_equal(first[name], second[name]) for name in first)


# weights


def test_weights_from_safetensors(tmp_path):
    module = models.Net()
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    original = load(f"{MODELS}:net_with_example@{tmp_path}/net.safetensors")
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(original.example["image"])).numpy()
    np.testing.assert_array_equal(original.run(original.example)["output"], expected)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_are_stripped_with_a_note(tmp_path, prefix):
    state = {prefix + key: tensor for key, tensor in models.Net().state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    notes = load(f"{MODELS}:net_with_example@{tmp_path}/net.safetensors").notes
    assert f"the prefix {prefix!r} of the weights' keys was stripped" in notes


def test_weights_that_do_not_fit_name_the_keys(tmp_path):
    state = models.Net().state_dict()
    state["head.weight"] = torch.zeros(7, 4)
    state |= {f"extra.{number}": torch.zeros(1) for number in range(6)}
    del state["head.bias"]
    save_file(state, tmp_path / "net.safetensors")
    message, _ = refused(SourceError, f"{MODELS}:net_with_example@{tmp_path}/net.safetensors")
    assert "1 missing: head.bias" in message
    assert "6 unexpected: extra.0, extra.1, extra.2, extra.3 and 2 more" in message
    assert "1 of the wrong shape: head.weight (is [7, 4], should be [5, 4])" in message


def test_weights_of_another_dtype_are_said(tmp_path):
    save_file({key: tensor.double() for key, tensor in models.Net().state_dict().items()}, tmp_path / "net.safetensors")
    notes = load(f"{MODELS}:net_with_example@{tmp_path}/net.safetensors").notes
    assert "the weights are float64 in net.safetensors, loaded as float32" in notes


def test_a_tied_key_may_be_left_out_and_must_not_differ(tmp_path):
    weight = torch.randn(100, 16)
    path = tmp_path / "tied.safetensors"
    for key in ("head.weight", "embedding.weight"):
        save_file({key: weight}, path)
        original = load(f"{MODELS}:tied@{path}")
        assert torch.equal(original.module.embedding.weight, weight)  # type: ignore[attr-defined]
    save_file({"head.weight": weight, "embedding.weight": weight + 1}, path)
    message, _ = refused(SourceError, f"{MODELS}:tied@{path}")
    assert "different values for embedding.weight and head.weight" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no weights file"),
        (b"", "is empty"),
        (b"\x93NUMPY and more", "is not a readable safetensors file"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "holds no tensors"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is not a readable safetensors file"),
    ],
)
def test_broken_weight_files(tmp_path, content, message):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(SourceError, f"{MODELS}:net_with_example@{path}")[0]


def test_a_cut_off_weights_file(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(models.Net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-10])
    assert "is not a readable safetensors file" in refused(SourceError, f"{MODELS}:net_with_example@{path}")[0]


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "NaN"), (float("inf"), "Inf")])
def test_weights_that_are_no_numbers_are_named(value, name):
    module = models.Net()
    with torch.no_grad():
        module.head.weight[2, 1] = value
    message, _ = refused(SourceError, module, IMAGE)
    assert f"the weight head.weight holds {name} in 1 of 20 elements, first at [2, 1]" in message


def test_weights_on_the_meta_device():
    with torch.device("meta"):
        module = models.Net()
    assert "weights without data" in refused(SourceError, module, IMAGE)[0]


# what the user says


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("imgae=float32[2,3,8,8]", "the model has no input 'imgae', it has image", "did you mean image?"),
        ("image=float64[2,3,8,8]", "the spec says that image is float64, but the example is float32", "dtype"),
        ("image=float32[2,3,64]", "the spec gives image 3 axes, but the example has 4: [2, 3, 8, 8]", "axis"),
        ("image=float32[2,3,8,9]", "the spec fixes axis 3 of image at 9, but the example has 8", "range"),
        ("image=float32[b=3..9,3,8,8]", "the example's image has 2 at axis 0, outside b=3..9", "widen"),
    ],
)
def test_specs_that_contradict_the_example(spec, message, hint):
    said = refused(UsageError, models.Net(), IMAGE, spec)
    assert said[0] == message
    assert hint in said[1]


def test_an_input_without_spec_or_example():
    message, hint = refused(UsageError, models.Pair(), None, "a=float32[3]")
    assert "the input 'b' of Pair has neither an example nor a spec" in message
    assert "--input 'b=float32[...]'" in hint


def test_a_dtype_that_the_model_does_not_take_is_the_modules_own_error():
    message, _ = refused(SourceError, models.Tied(), None, "ids=float32[2,3]")
    assert "the module Tied raised RuntimeError at models_for_export.py" in message


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_inputs_are_refused(dtype):
    assert "no kernels" in refused(SourceError, models.Spectrum(), None, f"x={dtype}[2,8]")[0]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((IMAGE, IMAGE), "does not fit forward(image"),
        ({"imgae": IMAGE, "mask": IMAGE}, "raised"),
        ("text", "the example is a str"),
        (torch.zeros(2, 3, dtype=torch.complex64), "the example of image is complex64"),
        (torch.zeros(2, 3).to_sparse(), "the example of image is sparse float32"),
    ],
)
def test_examples_that_do_not_fit(example, message):
    assert message in refused(SourceError, models.Net(), example)[0]


def test_outputs_that_are_no_tensors_are_left_out_and_said():
    class Mixed(nn.Module):
        def forward(self, x):
            return {"y": x + 1, "rows": x.shape[0], "nothing": None}

    original = load(Mixed(), (), torch.ones(2))
    assert [output.name for output in original.signature.outputs] == ["y"]
    assert "outputs that are no tensors are left out: rows (int)" in original.notes


def test_outputs_of_one_name():
    class Twice(nn.Module):
        def forward(self, x):
            return {"a.b": x, "a": {"b": x}}

    assert "two outputs of Twice are called a.b" in refused(SourceError, Twice(), torch.ones(2))[0]


def test_an_output_without_a_counterpart():
    class Complex(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x)

    assert "the output output of Complex is complex64" in refused(SourceError, Complex(), torch.ones(2))[0]


def test_outputs_that_hang_on_the_sizes():
    class Sometimes(nn.Module):
        def forward(self, x):
            return (x, x) if x.shape[0] == 2 else (x,)

    message, _ = refused(SourceError, Sometimes(), None, "x=float32[n=1..9]")
    assert "returned output.0, but output.0, output.1 before" in message


# what is no source


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("model.py", UsageError, "'model.py' is no source of a model"),
        ("weights.safetensors", UsageError, "'weights.safetensors' is no source of a model"),
        ("model.onnx@w.safetensors", UsageError, "an .onnx file has its own weights"),
        (f"{MODELS}:net@weights.txt", UsageError, "the weights 'weights.txt' are no file of weights"),
        (f"{MODELS}:net@", UsageError, "the weights '' are no file of weights"),
        (f"{MODELS}:Net", SourceError, "has neither an example nor a spec"),
        (f"{MODELS}:Answer", SourceError, "raised TypeError"),
        ("missing.py:net", SourceError, "there is no file missing.py"),
        ("missing.onnx", SourceError, "there is no model file missing.onnx"),
        (3, SourceError, "the model is an int, not a torch.nn.Module"),
    ],
)
def test_what_is_no_source(source, error, message):
    with pytest.raises(MlcError) as caught:
        load(source)
    assert message in caught.value.message
    assert isinstance(caught.value, error) or "neither" in message


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned None, not a module"),
        ("nn.Linear", "returned a type, not a module"),
        ("nn.Linear(1, 1).state_dict()", "not a module"),
        ("(nn.Linear(1, 1), 1, 2)", "returned 3 things"),
        ("1 / 0", "raised ZeroDivisionError at model.py:2 in make"),
    ],
)
def test_functions_that_return_no_module(tmp_path, returned, message):
    (tmp_path / "model.py").write_text(f"from torch import nn\ndef make(): return {returned}\n")
    assert message in refused(SourceError, f"{tmp_path}/model.py:make")[0]


# .onnx files

DYNAMIC = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[batch, 3] x, int64[batch] k) => (float[batch, 3] y, int64[batch] n) <float[3] w = {1.0, 2.0, 3.0}>
{ y = Mul (x, w) n = Add (k, k) }
"""


def onnx_file(folder: Path, text: str = DYNAMIC, edit=None) -> str:
    """Write a model given as text."""
    model = onnx.parser.parse_model(text)
    if edit:
        edit(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


def external(folder: Path, *, data: bytes | None = np.arange(3, dtype=np.float32).tobytes(), **entries: str) -> str:
    """Write a model whose weight ``w`` lies in another file."""

    def edit(model):
        (weight,) = model.graph.initializer
        weight.ClearField("raw_data")
        weight.ClearField("float_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in ({"location": "w.bin", "offset": "0", "length": "12"} | entries).items():
            weight.external_data.add(key=key, value=value)

    if data is not None:
        (folder / "w.bin").write_bytes(data)
    return onnx_file(folder, edit=edit)


def test_an_onnx_file_runs_with_specs_for_its_symbols(tmp_path):
    original = load(onnx_file(tmp_path), parse_inputs(["x=float32[batch=1..8,3]", "k=int64[batch] in 0..9"]))
    assert [spec.name for spec in original.signature.inputs] == ["x", "k"]
    assert [output.dims for output in original.signature.outputs] == [("batch", 3), ("batch",)]
    ran = original.run({"x": np.ones((2, 3), np.float32), "k": np.array([1, 2])})
    np.testing.assert_array_equal(ran["y"], [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(ran["n"], [2, 4])


def test_a_symbol_known_from_one_spec_holds_for_other_inputs(tmp_path):
    text = DYNAMIC.replace("int64[batch] k", "float[batch] k").replace("int64[batch] n", "float[batch] n")
    original = load(onnx_file(tmp_path, text), parse_inputs(["x=float32[batch=1..8,3]"]))
    assert original.signature.inputs[1].dims[0].name == "batch"


def test_the_example_fixes_symbols_without_a_spec(tmp_path):
    original = load(onnx_file(tmp_path), (), {"x": np.ones((4, 3), np.float32), "k": np.arange(4)})
    assert [output.dims for output in original.signature.outputs] == [(4, 3), (4,)]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((), "the axis 0 of the input x is dynamic ('batch'), and nothing says which sizes it has"),
        (("x=float32[batch=1..8,4]",), "the model fixes axis 1 of x at 3; the spec says 4"),
        (("x=float32[batch=1..8,d=1..3]",), "the model fixes axis 1 of x at 3; the spec says d=1..3"),
        (("x=float64[batch=1..8,3]",), "the spec says that x is float64, but the model takes float32"),
        (("x=float32[batch=1..8]",), "the spec gives x 1 axis, but the model's has 2: [batch,3]"),
        (("z=float32[batch=1..8,3]", "x=float32[batch,3]"), "the model has no input 'z', it has x, k"),
        (("x=float32[batch=1..8,3]",), "nothing says which values the integer input 'k' may take"),
    ],
)
def test_specs_that_do_not_fit_an_onnx_file(tmp_path, specs, message):
    assert refused(UsageError, onnx_file(tmp_path), None, *specs)[0] == message


def test_names_with_spaces_are_given_as_the_hint_writes_them(tmp_path):
    def edit(model):
        first = model.graph.input[0]
        model.graph.node[0].input[0] = first.name = "input x"
        first.type.tensor_type.shape.dim[0].dim_param = "2 rows"

    path = onnx_file(tmp_path, edit=edit)
    hint = refused(UsageError, path, None, "k=int64[batch=1..8] in 0..9")[1]
    assert hint == """add --input '"input x"=float32[_2_rows=1..64,3]'"""
    spec = hint.removeprefix("add --input '").removesuffix("'")
    original = load(path, parse_inputs([spec, "k=int64[batch=1..8] in 0..9"]))
    assert [one.name for one in original.signature.inputs] == ["input x", "k"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00" * 64, "is not an ONNX model"),
        (b"PK\x03\x04 this is a zip file", "is not an ONNX model"),
        (b"\x08\x09", "is not an ONNX model"),
    ],
)
def test_files_that_are_no_onnx(tmp_path, content, message):
    (tmp_path / "model.onnx").write_bytes(content)
    assert message in refused(SourceError, f"{tmp_path}/model.onnx")[0]


def test_every_cut_of_an_onnx_file_is_refused(tmp_path):
    path = Path(onnx_file(tmp_path))
    data = path.read_bytes()
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        refused(SourceError, str(path), {"x": np.ones((1, 3), np.float32), "k": np.arange(1)})


def test_a_model_that_the_checker_or_the_runtime_refuses(tmp_path):
    example = {"x": np.ones((1, 3), np.float32), "k": np.arange(1)}
    broken = onnx_file(tmp_path, DYNAMIC.replace("Mul (x, w)", "Mul (x, q)"))
    assert "the ONNX checker refuses" in refused(SourceError, broken, example)[0]
    unknown = onnx_file(tmp_path, DYNAMIC.replace("Mul (x, w)", "Nonesuch (x, w)"))
    assert "the ONNX checker refuses" in refused(SourceError, unknown, example)[0]
    mismatched = onnx_file(tmp_path, DYNAMIC.replace("Add (k, k)", "Add (k, x)"))
    assert "onnxruntime cannot run" in refused(SourceError, mismatched, example)[0]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("seq(float[1,3]) s", "s of m.onnx is no tensor"),
        ("float[1,3] r, float[1,3] r", "the output r of m.onnx is listed twice"),
    ],
)
def test_outputs_of_an_onnx_file_that_mlc_does_not_take(tmp_path, outputs, message):
    text = f"""<ir_version: 10, opset_import: ["":20]> g (float[1,3] x) => ({outputs}) {{
        r = Relu(x) s = SequenceConstruct(x, r)
    }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    assert message in refused(SourceError, str(tmp_path / "m.onnx"), {"x": np.ones((1, 3), np.float32)})[0]


def test_a_sparse_weight_of_an_onnx_file(tmp_path):
    text = """<ir_version: 10, opset_import: ["":20]> g (float[1,3] x) => (float[1,3] y) { y = Add(x, w) }"""
    model = onnx.parser.parse_model(text)
    values = onnx.numpy_helper.from_array(np.array([2.0], np.float32), "w")
    places = onnx.numpy_helper.from_array(np.array([1]))
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [3]))
    onnx.save(model, tmp_path / "m.onnx")
    example = {"x": np.ones((1, 3), np.float32)}
    assert "the weight w of m.onnx is sparse" in refused(SourceError, str(tmp_path / "m.onnx"), example)[0]


def test_an_onnx_weight_that_is_infinite_throughout_is_no_mask(tmp_path):
    graph = "(float[2,3] x) => (float[2,4] y) { t = Transpose(w) y = MatMul(x, t) }"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]> g {graph}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((4, 3), np.inf, np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx")
    assert "the weight w of model.onnx holds Inf in 12 of 12" in refused(SourceError, str(tmp_path / "model.onnx"))[0]


@pytest.mark.parametrize(("value", "fault"), [("nan", "NaN"), ("inf", "Inf")])
def test_an_onnx_weight_that_is_no_number(tmp_path, value, fault):
    def edit(model):
        numbers = np.array([1.0, float(value), 3.0], np.float32)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(numbers, "w"))

    message, _ = refused(SourceError, onnx_file(tmp_path, edit=edit))
    assert f"the weight w of model.onnx holds {fault} in 1 of 3 elements, first at [1]" in message


def test_external_data_beside_the_model_is_read_and_part_of_the_digest(tmp_path):
    example = {"x": np.ones((1, 3), np.float32), "k": np.arange(1)}
    original = load(external(tmp_path), (), example)
    np.testing.assert_array_equal(original.run(original.example)["y"], [[0, 1, 2]])
    (tmp_path / "w.bin").write_bytes(np.ones(3, np.float32).tobytes())
    assert load(f"{tmp_path}/model.onnx", (), example).digest != original.digest


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../w.bin"}, "lies outside the model's folder"),
        ({"location": "a/../../w.bin"}, "lies outside the model's folder"),
        ({"location": "/etc/passwd"}, "lies outside the model's folder"),
        ({"location": ""}, "lies outside the model's folder"),
        ({"location": "gone.bin"}, "needs gone.bin, which is not beside it"),
        ({"offset": "4"}, "w.bin is cut off: the weight w ends at byte 16, the file at 12"),
        ({"length": "4000000000"}, "is 4000000000 bytes, but its shape needs 12"),
        ({"offset": "-4"}, "cut off"),
        ({"offset": "many"}, "has no valid place"),
    ],
)
def test_external_data_that_cannot_be_trusted(tmp_path, entries, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 12)
    assert message in refused(SourceError, external(tmp_path / "sub", **entries))[0]


def test_external_data_behind_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    (tmp_path / "sub" / "w.bin").symlink_to(tmp_path / "secret.bin")
    assert "is a link" in refused(SourceError, external(tmp_path / "sub", data=None))[0]


def test_a_model_without_its_data(tmp_path):
    message, hint = refused(SourceError, external(tmp_path, data=None))
    assert message.endswith("model.onnx needs w.bin, which is not beside it")
    assert "copy both files" in hint
