"""JAX functions and modules: named by their parameters, exported by jax2onnx, and compared at every size as all are."""

import logging
import sys

import numpy as np
import onnxruntime
import pytest

import mlc
from mlc.errors import SourceError, UsageError
from mlc.exporting import export
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.report.text import render
from mlc.sources.load import load

jax = pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed")
jnp = jax.numpy

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32))
MODEL = """
import jax.numpy as jnp
from flax import nnx

class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.convolution = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.normalization = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, image):
        print("called")
        hidden = nnx.relu(self.normalization(self.convolution(image)))
        return self.head(self.dropout(hidden.mean(axis=(1, 2))))

def model():
    return Classifier(nnx.Rngs(0)), jnp.ones((2, 8, 8, 1))

def alone():
    return Classifier(nnx.Rngs(0))

def plain():
    return lambda x: x + 1
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def refused(error, source, example=None, *specs):
    with pytest.raises(error) as caught:
        load(source, parse_inputs(specs), example)
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def exported(original, workspace):
    kept, _ = references(original, None, 0)
    return export(original, kept, workspace)


def not_exported(workspace, function, example, *specs):
    with pytest.raises(SourceError) as caught:
        exported(load(function, parse_inputs(specs), example), workspace)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


@pytest.mark.needs_onnxruntime
@pytest.mark.usefixtures("quick")
def test_a_function_in_a_file_is_compiled(file, tmp_path, capsys):
    asked = ["image=float32[batch=1..8,8,8,1]"]
    report = mlc.compile(f"{file}:model", inputs=asked, passes=["none"], out=tmp_path / "out")
    original = load(f"{file}:model", parse_inputs(asked))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for count in (1, 3, 8):
        images = np.random.default_rng(count).normal(size=(count, 8, 8, 1)).astype(np.float32)
        (computed,) = session.run(None, {"image": images})
        np.testing.assert_allclose(computed, original.run({"image": images})["output"], atol=1e-5)
    text = render(report)
    assert "JAX, jitted, alone: p50" in text
    assert "the module was in training mode; exported in inference mode" in text
    assert report.origin.exporter.startswith("jax2onnx ")
    assert capsys.readouterr().out == ""


def test_a_file_gives_the_same_every_time_with_or_without_an_example(file):
    first, second = load(f"{file}:model"), load(f"{file}:model")
    assert first.digest == second.digest
    alone = load(f"{file}:alone", parse_inputs(["image=float32[batch=1..8,8,8,1]"]))
    assert alone.signature.outputs[0].dims == ("batch", 3)
    message, hint = refused(UsageError, f"{file}:alone")
    assert message == "the input 'image' of Classifier has neither an example nor a spec"
    assert "--input 'image=float32[...]'" in hint
    assert "which brings its own weights" in refused(SourceError, f"{file}:model@weights.safetensors")[0]


@pytest.mark.needs_onnxruntime
def test_names_follow_parameters_paths_and_keys(workspace):
    def forward(batch, shift, *, scale=2.0, unused=None):
        return {"moved": batch["ids"] + shift, "pair": (batch["x"] * scale, shift)}

    example = {"batch": {"ids": jnp.arange(3), "x": X}, "shift": jnp.ones(3, jnp.int32)}
    original = load(forward, parse_inputs(["batch.x=float32[rows=1..5,3]"]), example)
    assert [spec.name for spec in original.signature.inputs] == ["batch.ids", "batch.x", "shift"]
    artifact, checks = exported(original, workspace)
    outputs = [(spec.name, spec.dtype, spec.dims) for spec in artifact.signature.outputs]
    assert outputs == [("moved", "int32", (3,)), ("pair.0", "float32", ("rows", 3)), ("pair.1", "int32", (3,))]
    assert len(checks) > 1


@pytest.mark.needs_onnxruntime
def test_what_jax2onnx_cannot_write_in_its_operators_is_written_in_primitives(workspace):
    def numbered(past, x, mask):
        both = jnp.concatenate([past, x], axis=1)
        return jnp.where(mask > 0, both + jnp.arange(both.shape[1], dtype=jnp.float32), 0)

    asked = ["past=float32[batch=1..4,past=1..6]", "x=float32[batch,seq=4..12/4]", "mask=float32[batch,all=past+seq]"]
    artifact, _ = exported(load(numbered, parse_inputs(asked), (X, jnp.ones((2, 4)), jnp.ones((2, 7)))), workspace)
    assert artifact.origin.exporter.endswith("primitive by primitive")
    assert artifact.signature.outputs[0].dims == ("batch", "all")
    assert [str(dim) for dim in artifact.model.graph.outputs[0].shape] == ["batch", "all"]


@pytest.mark.needs_onnxruntime
def test_loops_and_keys_that_nothing_needs(workspace):
    class Recurrent(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self):
            self.cell = nnx.RNN(nnx.GRUCell(3, 2, rngs=nnx.Rngs(0)))

        def __call__(self, x):
            return self.cell(x)

    artifact, _ = exported(load(Recurrent(), parse_inputs(["x=float32[batch=1..3,seq=1..5,3]"])), workspace)
    assert artifact.signature.outputs[0].dims == ("batch", "seq", 2)


@pytest.mark.needs_onnxruntime
def test_nothing_is_left_in_jax(workspace):
    handlers, cumsum = list(logging.getLogger().handlers), jnp.cumsum
    softmax = jax.jit(lambda x: jax.nn.softmax(jnp.ones((3, 3)) @ x.T))
    exported(load(softmax, (), X), workspace)
    assert jnp.cumsum is cumsum
    assert logging.getLogger().handlers == handlers
    np.testing.assert_allclose(softmax(X).sum(axis=1), np.ones(3), rtol=1e-6)
    assert np.array(jnp.cumsum(X, 1)).shape == (2, 3)


def test_a_module_is_left_as_it_was():
    class Counting(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self):
            self.calls = nnx.Variable(jnp.zeros(()))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            self.calls[...] += 1
            return self.dropout(x)

    module = Counting()
    original = load(module, (), X)
    np.testing.assert_array_equal(original.run({"x": np.array(X)})["output"], X)
    assert not module.dropout.deterministic
    assert float(module.calls[...]) == 0
    message, hint = refused(SourceError, module.__call__, X)
    assert "Cannot mutate" in message
    assert "return the module itself" in hint


def test_equinox_infers_and_linen_has_no_weights():
    equinox = pytest.importorskip("equinox", reason="Equinox is not installed")
    linen = pytest.importorskip("flax.linen", reason="Flax is not installed")
    network = equinox.nn.Sequential([equinox.nn.Linear(3, 2, key=jax.random.key(0)), equinox.nn.Dropout(0.5)])
    original = load(network, (), jnp.ones(3))
    assert original.notes == ("the module was in training mode; exported in inference mode",)
    assert not network.layers[1].inference
    message, hint = refused(SourceError, linen.Dense(2), X)
    assert message == "Dense is a module of flax.linen, which has no weights in it"
    assert "module.apply(variables, x)" in hint


def test_what_is_not_jax_is_no_model(file):
    message, hint = refused(SourceError, f"{file}:plain")
    assert message.endswith(":plain returned a function, not a module")
    assert "with JAX arrays in the example" in hint
    message, hint = refused(SourceError, lambda x: x, np.ones(3, np.float32))
    assert message == "the model is a function, not a torch.nn.Module"
    assert "JAX arrays" in hint


def test_the_digest_follows_code_and_weights():
    def scaled(by):
        return jax.jit(lambda x: x * by)

    first = load(scaled(X), (), X)
    assert first.source == f"python:{first.digest}"
    assert load(scaled(X + 0), (), X).digest == first.digest
    assert load(scaled(X + 1), (), X).digest != first.digest
    assert load(jax.jit(lambda x: x + X), (), X).digest != first.digest


def test_64_bits_become_32_and_that_is_said():
    original = load(jax.jit(lambda x: x * 2), (), np.ones((2, 3)))
    assert original.notes == ("the example of x is float64, taken as float32: JAX's x64 mode is off",)
    message, hint = refused(UsageError, jax.jit(lambda x: x * 2), X, "x=float64[2,3]")
    assert message == "the spec says that x is float64, but JAX takes float32: its x64 mode is off"
    assert "jax_enable_x64" in hint


def test_what_jax_cannot_run_is_said():
    def signed(x):
        return x if x.sum() > 0 else -x

    message, hint = refused(SourceError, signed, X)
    assert message.startswith("what signed computes hangs on the values of its inputs at test_source_jax.py:")
    assert "jax.lax.cond" in hint
    assert "at test_source_jax.py" in refused(SourceError, lambda x: jnp.sin(np.asarray(x)), X)[0]
    assert "raised TypeError at test_source_jax.py" in refused(SourceError, lambda x: x @ x, X)[0]
    assert "holds NaN in 1 of 3 elements" in refused(SourceError, lambda x: x * jnp.array([1, jnp.nan, 2]), X)[0]
    assert "returned None, no array" in refused(SourceError, lambda x: None, X)[0]
    assert "output output of <lambda> is bfloat16" in refused(SourceError, lambda x: x.astype(jnp.bfloat16), X)[0]
    assert "does not fit" in refused(SourceError, lambda x: x, (X, X))[0]
    assert refused(UsageError, lambda x: x, X, "y=float32[2,3]")[0] == "the model has no input 'y', it has x"


@pytest.mark.needs_onnxruntime
def test_what_jax2onnx_cannot_write_is_said(workspace):
    def stepped(x):
        return x * 10 if x.shape[0] > 4 else x

    message, hint = not_exported(workspace, stepped, X, "x=float32[batch=1..64,3]")
    assert message.startswith("the model does not compute the same way for all of batch=1..64, because of test_source_")
    assert "narrow the range" in hint
    message, hint = not_exported(workspace, lambda x: abs(jnp.fft.rfft(x)), X, "x=float32[n=1..4,3]")
    assert message == "jax2onnx made the input x of <lambda> a float32 of rank 3, but it is float32 of rank 2"
    assert hint == "write that step with other operations of jax.numpy"
    message, _ = not_exported(workspace, jnp.linalg.inv, jnp.eye(3))
    assert message.startswith("jax2onnx cannot write the model inv")
    message, hint = not_exported(workspace, lambda x: x % 2.0, X, "x=float32[batch=1..4,3]")
    assert message == "jax2onnx cannot write one of the operations of <lambda> at sizes that vary"
    with pytest.raises(UsageError, match="opset 12 cannot be written"):
        export(load(lambda x: x, (), X), (), workspace, 12)


def test_without_jax2onnx_its_extra_is_named(workspace, monkeypatch):
    original = load(lambda x: x, (), X)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(SourceError) as caught:
        exported(original, workspace)
    assert caught.value.message.startswith("JAX functions need the package jax2onnx")
    assert caught.value.hint == "pip install 'mlc-toolchain[jax]'"
