"""``mlc run``: arrays in, a table or a file out; what does not fit is one sentence, and nothing is half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mlc.cli import main
from tests.conftest import measure_quickly
from tests.onnx_models import FIXED_LAYER, IDENTITY, LAYER, TWO_INPUTS, write

pytestmark = pytest.mark.needs_onnxruntime

HEAD = '<ir_version: 8, opset_import: ["" : 17]> model '


def arrays(path, **named):
    np.savez(path, **named)
    return str(path)


def floats(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def said(capsys, *arguments):
    """The exit code, what was printed, and the one error with its hint."""
    code = main(["run", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def refused(capsys, *arguments):
    """The exit code and what was said: one error, nothing printed."""
    code, out, err = said(capsys, *arguments)
    assert out == ""
    assert err.count("mlc: error: ") == 1, err
    return code, err


@pytest.fixture
def layer(tmp_path):
    return write(tmp_path / "layer.onnx", LAYER)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A compiled model with a range, and a range of values."""
    folder = tmp_path_factory.mktemp("artifact")
    text = """(float[batch,2] x, int64[batch] ids) => (float[batch,2] y)
    <float[9,2] table = {0,0,1,1,2,2,3,3,4,4,5,5,6,6,7,7,8,8}> { t = Gather(table, ids) y = Add(x, t) }"""
    source = write(folder / "source.onnx", HEAD + text)
    specs = ["--input", "x=float32[batch=1..4,2] in -5..5", "--input", "ids=int64[batch] in 0..7"]
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        assert main(["compile", str(source), *specs, "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_a_table_of_outputs_is_printed(tmp_path, capsys, layer):
    x = np.ones((2, 4), np.float32)
    x[0, 0] = np.nan
    code, out, _ = said(capsys, layer, "--in", arrays(tmp_path / "x.npz", x=x))
    assert code == 0
    assert out.startswith(f"{layer} ran on CPUExecutionProvider: 1 output\n")
    row = next(line for line in out.splitlines() if line.lstrip().startswith("y "))
    assert row.split() == ["y", "float32[2,3]", "2.000", "16.00", "30.00", "3", "0", *row.split()[7:]]
    assert "note: 1 of 8 values of x in x.npz is NaN or infinite" in out


def test_the_outputs_are_written_as_the_runtime_gives_them(tmp_path, capsys, layer):
    x = floats(3, 4)
    out = tmp_path / "out.npz"
    assert said(capsys, layer, "--in", arrays(tmp_path / "x.npz", x=x), "--out", out)[0] == 0
    (expected,) = onnxruntime.InferenceSession(layer).run(None, {"x": x})
    with np.load(out) as written:
        assert list(written) == ["y"]
        assert np.allclose(written["y"], expected, atol=1e-6)
    first = out.read_bytes()
    assert said(capsys, layer, "--in", tmp_path / "x.npz", "--out", out, "--force")[0] == 0
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer.onnx", "out.npz", "x.npz"]


def test_json_has_every_figure(tmp_path, capsys, layer):
    code, out, _ = said(capsys, layer, "--in", arrays(tmp_path / "x.npz", x=floats(2, 4)), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["provider"], found["fallbacks"], found["notes"]) == ("CPUExecutionProvider", [], [])
    (output,) = found["outputs"]
    assert output["shape"] == [2, 3]
    assert output["low"] <= output["mean"] <= output["high"]
    assert len(output["first"]) == 6


def test_quiet_is_the_first_line(tmp_path, capsys, layer):
    _, out, _ = said(capsys, layer, "--in", arrays(tmp_path / "x.npz", x=floats(2, 4)), "-q")
    assert out == f"{layer} ran on CPUExecutionProvider: 1 output\n"


@pytest.mark.parametrize("kind", [">f4", "F"])
def test_byte_order_and_layout_do_not_matter(tmp_path, capsys, layer, kind):
    x = floats(2, 4)
    stored = np.asfortranarray(x) if kind == "F" else x.astype(kind)
    code = said(capsys, layer, "--in", arrays(tmp_path / "x.npz", x=stored), "-o", tmp_path / "y.npz")[0]
    (expected,) = onnxruntime.InferenceSession(layer).run(None, {"x": x})
    assert code == 0
    assert np.allclose(np.load(tmp_path / "y.npz")["y"], expected, atol=1e-6)


def test_whole_numbers_are_shown_as_they_are(tmp_path, capsys):
    model = write(tmp_path / "ids.onnx", HEAD + "(int64[n] x) => (int64[n] y) { y = Identity(x) }")
    code, out, _ = said(capsys, model, "--in", arrays(tmp_path / "in.npz", x=np.array([3, 30521])))
    assert code == 0
    assert "30,521" in out


def test_one_input_takes_a_plain_array(tmp_path, capsys, layer):
    np.save(tmp_path / "x.npy", floats(2, 4))
    assert said(capsys, layer, "--in", tmp_path / "x.npy")[0] == 0
    two = write(tmp_path / "two.onnx", TWO_INPUTS)
    code, err = refused(capsys, two, "--in", tmp_path / "x.npy")
    assert code == 3
    assert "holds one array without a name" in err
    assert "takes left, right" in err


def test_a_model_without_inputs_needs_no_file(tmp_path, capsys, layer):
    constant = write(tmp_path / "c.onnx", HEAD + "() => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }")
    code, out, _ = said(capsys, constant)
    assert code == 0
    assert "float32[2]" in out
    code, err = refused(capsys, layer)
    assert code == 2
    assert "takes x, and no arrays are given" in err


def test_an_input_with_a_default_may_be_given(tmp_path, capsys):
    text = "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    model = write(tmp_path / "m.onnx", HEAD + text)
    x = np.zeros(2, np.float32)
    for given, expected in (({"x": x}, [1, 2]), ({"x": x, "w": x + 5}, [5, 5])):
        assert (
            said(capsys, model, "--in", arrays(tmp_path / "x.npz", **given), "-o", tmp_path / "y.npz", "--force")[0]
            == 0
        )
        assert np.load(tmp_path / "y.npz")["y"].tolist() == expected


def test_texts_go_in_and_come_out(tmp_path, capsys):
    model = write(tmp_path / "m.onnx", HEAD + "(string[n] x) => (string[n] y) { y = Identity(x) }")
    code, out, _ = said(
        capsys, model, "--in", arrays(tmp_path / "x.npz", x=np.array(["a", "b"])), "-o", tmp_path / "y.npz"
    )
    assert code == 0
    assert "'a', 'b'" in out
    assert np.load(tmp_path / "y.npz")["y"].tolist() == ["a", "b"]


def test_a_sequence_is_shown_and_not_written(tmp_path, capsys):
    model = write(tmp_path / "m.onnx", HEAD + "(float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }")
    given = arrays(tmp_path / "x.npz", x=floats(2))
    assert "sequence[2]" in said(capsys, model, "--in", given)[1]
    code, err = refused(capsys, model, "--in", given, "-o", tmp_path / "y.npz")
    assert code == 3
    assert "an .npz file cannot hold" in err
    assert not (tmp_path / "y.npz").exists()


WRONG_ARRAYS = {
    "no array for the input 'x'": {"X": floats(2, 4)},
    "is not an input of": {"x": floats(2, 4), "y": floats(2)},
    "is float32, x.npz has float64": {"x": np.ones((2, 4))},
    "has the shape (4,)": {"x": floats(4)},
    "has size 4 at axis 1, x.npz has 5": {"x": floats(2, 5)},
}
"""Arrays that the layer cannot take, by what is said of them."""


@pytest.mark.parametrize("sentence", WRONG_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(tmp_path, capsys, layer, sentence):
    code, err = refused(capsys, layer, "--in", arrays(tmp_path / "x.npz", **WRONG_ARRAYS[sentence]))
    assert code == 3
    assert sentence in err
    assert "mlc: hint: " in err


def test_answers_beside_the_inputs_are_left_alone(tmp_path, capsys, layer):
    given = arrays(tmp_path / "x.npz", x=floats(2, 4), labels=np.zeros(2))
    code, out, _ = said(capsys, layer, "--in", given)
    assert code == 0
    assert "note: labels in x.npz is not an input and was left alone" in out


def test_a_near_name_is_offered(tmp_path, capsys):
    two = write(tmp_path / "two.onnx", TWO_INPUTS)
    given = arrays(tmp_path / "x.npz", left=floats(1, 2), right=np.ones((1, 2), np.int64), rigth=floats(1))
    assert "did you mean right?" in refused(capsys, two, "--in", given)[1]


def test_a_fixed_batch_is_said_in_one_sentence(tmp_path, capsys):
    fixed = write(tmp_path / "fixed.onnx", FIXED_LAYER)
    code, err = refused(capsys, fixed, "--in", arrays(tmp_path / "x.npz", x=floats(7, 4)))
    assert code == 3
    assert "takes 4 along axis 0 of x in every run, x.npz has 7" in err
    assert "run the samples 4 at a time" in err


BROKEN = {
    "empty": (b"", "is empty"),
    "cut off": (b"PK\x03\x04" + b"x" * 40, "cannot be read as arrays"),
    "text": (b"hello", "no file of arrays"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(tmp_path, capsys, layer, kind):
    content, sentence = BROKEN[kind]
    (tmp_path / "x.npz").write_bytes(content)
    code, err = refused(capsys, layer, "--in", tmp_path / "x.npz")
    assert code == 3
    assert sentence in err


def test_python_objects_are_not_loaded(tmp_path, capsys, layer):
    np.savez(tmp_path / "x.npz", x=np.array([{}], object))
    assert "it holds Python objects" in refused(capsys, layer, "--in", tmp_path / "x.npz")[1]


def test_files_that_are_not_there(tmp_path, capsys, layer):
    assert "there is no file nowhere.npz" in refused(capsys, layer, "--in", "nowhere.npz")[1]
    code, err = refused(capsys, tmp_path / "nowhere", "--in", "x.npz")
    assert code == 3
    assert "does not exist" in err
    code, err = refused(capsys, tmp_path, "--in", "x.npz")
    assert code == 3
    assert "has no manifest.json" in err


@pytest.mark.parametrize("place", ["there.npz", "in.npz", "folder.npz", "out.txt", "nowhere/out.npz"])
def test_a_place_that_cannot_be_written_is_said_before_the_run(tmp_path, capsys, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    arrays("in.npz", x=floats(1))
    Path("there.npz").write_bytes(b"mine")
    Path("folder.npz").mkdir()
    code, err = refused(capsys, "nowhere.onnx", "--in", "in.npz", "--out", place)
    assert code == 2
    assert "nowhere.onnx" not in err
    assert Path("there.npz").read_bytes() == b"mine"


def test_a_failed_run_leaves_what_was_there(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out.npz").write_bytes(b"mine")
    write(Path("m.onnx"), HEAD + "(int64[n] i) => (float[m] y) <float[2] t = {1, 2}> { y = Gather(t, i) }")
    code, err = refused(capsys, "m.onnx", "--in", arrays("x.npz", i=np.array([7])), "--out", "out.npz", "--force")
    assert code == 3
    assert "out of data bounds" in err
    assert Path("out.npz").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out.npz", "x.npz"]


def test_a_full_disk_leaves_what_was_there(tmp_path, capsys, monkeypatch, layer):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    given = arrays(tmp_path / "x.npz", x=floats(1, 4))
    (tmp_path / "y.npz").write_bytes(b"mine")
    monkeypatch.setattr(os, "fsync", full)
    code, err = refused(capsys, layer, "--in", given, "--out", tmp_path / "y.npz", "--force")
    assert code == 3
    assert "No space left on device" in err
    assert (tmp_path / "y.npz").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_any_name_of_an_output_can_be_written(tmp_path, capsys):
    text = "(float[2] x) => (float[2] file, float y) { file = Neg(x) y = ReduceSum<keepdims = 0>(x) }"
    model = write(tmp_path / "m.onnx", HEAD + text)
    assert said(capsys, model, "--in", arrays(tmp_path / "x.npz", x=floats(2)), "-o", tmp_path / "y.npz")[0] == 0
    with np.load(tmp_path / "y.npz") as written:
        assert {name: array.shape for name, array in written.items()} == {"file": (2,), "y": ()}


def test_symbols_that_disagree_are_named(tmp_path, capsys):
    two = write(tmp_path / "two.onnx", TWO_INPUTS)
    given = arrays(tmp_path / "x.npz", left=floats(1, 2), right=np.ones((3, 2), np.int64))
    assert "note: x.npz has 1 for batch in left and 3 in right" in said(capsys, two, "--in", given)[1]


def test_a_target_that_is_not_there(tmp_path, capsys, layer):
    given = arrays(tmp_path / "x.npz", x=floats(1, 4))
    code, err = refused(capsys, layer, "--in", given, "--target", "cpuu")
    assert code == 3
    assert "cpu" in err
    assert refused(capsys, layer, "--in", given, "--target", "cpu,")[0] == 2


def test_external_data_stays_in_its_folder(tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    model = onnx.parser.parse_model(IDENTITY)
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[2], data_location=1)
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "secret").write_bytes(b"12345678")
    onnx.save(model, tmp_path / "inner" / "m.onnx")
    code, err = refused(capsys, tmp_path / "inner" / "m.onnx", "--in", arrays(tmp_path / "x.npz", x=floats(1, 2)))
    assert code == 3
    assert "outside the model's folder" in err


def test_an_artifact_runs_with_what_it_ships_with(tmp_path, capsys, artifact):
    given = arrays(tmp_path / "x.npz", x=floats(3, 2), ids=np.array([0, 7, 1]))
    code, out, _ = said(capsys, artifact, "--in", given)
    assert code == 0
    assert "note" not in out


def test_what_was_not_verified_is_refused_or_said(tmp_path, capsys, artifact):
    given = arrays(tmp_path / "x.npz", x=floats(5, 2), ids=np.zeros(5, np.int64))
    code, err = refused(capsys, artifact, "--in", given)
    assert code == 3
    assert "has size 5 at axis 0 of x, outside batch=1..4" in err
    assert "nothing was verified there: run at most 4 samples at once" in err
    given = arrays(tmp_path / "x.npz", x=floats(2, 2), ids=np.zeros(3, np.int64))
    assert "has 2 for batch in x and 3 in ids" in refused(capsys, artifact, "--in", given)[1]
    given = arrays(tmp_path / "x.npz", x=floats(1, 2) + 90, ids=np.array([8]))
    _, out, _ = said(capsys, artifact, "--in", given)
    assert "note: 2 of 2 values of x in x.npz lie outside -5..5, where nothing was verified" in out
    assert "note: 1 of 1 value of ids in x.npz lies outside 0..7, where nothing was verified" in out


def test_the_hint_of_a_failed_run_is_what_is_unusual(tmp_path, capsys, artifact):
    given = arrays(tmp_path / "x.npz", x=floats(1, 2), ids=np.array([99]))
    code, err = refused(capsys, artifact, "--in", given)
    assert code == 3
    assert "hint: 1 of 1 value of ids in x.npz lies outside 0..7" in err


def test_a_changed_artifact_is_not_run(tmp_path, capsys, artifact):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "session.json").write_text("{}")
    code, err = refused(capsys, copy, "--in", "x.npz")
    assert code == 3
    assert "session.json is not what was written" in err


def test_it_needs_no_torch(tmp_path, layer):
    arrays(tmp_path / "x.npz", x=floats(1, 4))
    (tmp_path / "poisoned" / "torch").mkdir(parents=True)
    (tmp_path / "poisoned" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    done = subprocess.run(
        [sys.executable, "-m", "mlc", "run", str(layer), "--in", "x.npz"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "poisoned")}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
