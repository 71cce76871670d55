"""Keras models, from files, functions and live, on Keras' torch backend: what is exported is what predict computes."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import mlc
from mlc.errors import SourceError, UsageError
from mlc.exporting import export
from mlc.exporting.fingerprint import fingerprint
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.report.text import render
from mlc.sources.keras.backend import only_torch
from mlc.sources.load import load
from mlc.sources.torch.module import TorchOriginal

with only_torch():
    keras = pytest.importorskip("keras", reason="Keras is not installed")

layers = keras.layers
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(5, 12, 12, 1)).astype(np.float32)


def classifier():
    """A small network in the layout channels_last, whose statistics are not the initial ones."""
    model = keras.Sequential([
        keras.Input((12, 12, 1), name="image"),
        layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    ])  # fmt: skip
    for variable in model.layers[1].non_trainable_variables:
        variable.assign(RANDOM.uniform(0.5, 1.5, variable.shape))
    return model


def two_inputs():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    both = layers.Concatenate()([first, second])
    return keras.Model({"first": first, "second": second}, {"sum": layers.Add()([first, second]), "both": both})


class Scaled(keras.Model):  # type: ignore[misc, name-defined]
    """A subclass: nothing but its call says which inputs it has."""

    def __init__(self):
        super().__init__()
        self.dense, self.drop = layers.Dense(3), layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.drop(self.dense(x), training=training)


@keras.saving.register_keras_serializable()
class Noisy(layers.Layer):  # type: ignore[misc, name-defined]
    """Draws in inference too."""

    def __init__(self, **other):
        super().__init__(**other)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal((4,), seed=self.seeds)


def refused(error, source, *specs, example=None, **asked):
    with pytest.raises(error) as caught:
        load(source, parse_inputs(specs), example, **asked)
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def exported(original, workspace):
    kept, _ = references(original, None, 0)
    return export(original, kept, workspace)


def saved(model, path):
    model.save(path)
    return path


@pytest.mark.needs_onnxruntime
@pytest.mark.usefixtures("quick")
def test_a_file_is_compiled_and_gives_what_predict_gives(tmp_path):
    model = classifier()
    path = saved(model, tmp_path / "model.keras")
    report = mlc.compile(path, passes=["none"], out=tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for count in (1, 2, 5):
        (computed,) = session.run(None, {"image": IMAGES[:count]})
        np.testing.assert_allclose(computed, model.predict(IMAGES[:count], verbose=0), atol=1e-5)
    text = render(report)
    assert "Keras on torch, alone: p50" in text
    assert "'image=float32[batch=1..64,12,12,1]' was assumed, since the model leaves its batch open" in text
    assert "training mode" not in text


def test_a_file_loads_the_same_every_time_and_its_bytes_are_its_digest(tmp_path):
    path = saved(classifier(), tmp_path / "model.keras")
    assert load(str(path)).digest == load(str(path)).digest
    other = saved(classifier(), tmp_path / "other.keras")
    assert load(str(path)).digest != load(str(other)).digest


@pytest.mark.needs_onnxruntime
def test_inputs_and_outputs_of_dicts_keep_their_names_and_share_the_batch(workspace):
    original = load(two_inputs(), parse_inputs(["second=float32[n=1..8,4]"]))
    assert [spec.name for spec in original.signature.inputs] == ["first", "second"]
    assert {(spec.name, spec.dims) for spec in original.signature.outputs} == {("sum", ("n", 4)), ("both", ("n", 8))}
    artifact, checks = exported(original, workspace)
    assert len(checks) == 4
    assert [value.name for value in artifact.model.graph.inputs] == ["first", "second"]


@pytest.mark.needs_onnxruntime
def test_weights_have_their_paths_in_keras(workspace):
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3, name="head")], name="net")
    artifact, _ = exported(load(model), workspace)
    assert {"net/head/kernel", "net/head/bias"} <= set(artifact.model.graph.initializers)


def test_a_subclass_is_built_on_its_example():
    original = load(Scaled(), parse_inputs(["x=float32[batch=1..4,4]"]), np.ones((2, 4), np.float32))
    assert [spec.name for spec in original.signature.inputs] == ["x"]
    assert original.signature.outputs[0].dims == ("batch", 3)
    built = load(keras.Sequential([layers.Dense(3)]), (), np.ones((2, 4), np.float32))
    assert built.signature.outputs[0].dims == (2, 3)


def test_state_is_frozen_said_and_left_as_it_was():
    inputs = keras.Input(batch_shape=(2, 3, 4), name="s")
    model = keras.Model(inputs, layers.GRU(3, stateful=True)(inputs))
    before = [np.array(state) for state in model.layers[1].states]
    original = load(model)
    assert "a call changes the state of a layer: frozen as it is" in original.notes
    x = {"s": np.ones((2, 3, 4), np.float32)}
    np.testing.assert_array_equal(original.run(x)["output"], original.run(x)["output"])
    np.testing.assert_array_equal(before, [np.array(state) for state in model.layers[1].states])


def test_the_digest_of_a_live_model_follows_its_configuration():
    def one(activation):
        return keras.Sequential([keras.Input((4,), name="x"), layers.Activation(activation, name="a")], name="m")

    first = load(one("relu"))
    assert first.source == f"python:{first.digest}"
    assert load(one("relu")).digest == first.digest
    assert load(one("tanh")).digest != first.digest


def test_an_export_of_another_configuration_has_another_key():
    """Keras models hold ids of objects, so that the key goes by what Keras itself would write."""

    def key(limit):
        image = keras.Input((4,), name="image")
        keras.utils.set_random_seed(0)
        clipped = layers.ReLU(max_value=limit, name="clipped")(layers.Dense(3, name="dense")(image))
        model = keras.Model(image, clipped, name="network")
        original = load(model, parse_inputs(["image=float32[batch=1..4,4]"]))
        assert isinstance(original, TorchOriginal)
        return fingerprint(original, {"batch": 2}, None)

    assert key(6.0) == key(6.0) != key(8.0)


def test_a_function_gives_the_same_model_every_time(tmp_path):
    file = tmp_path / "model.py"
    file.write_text(
        "import keras\n"
        "def make():\n"
        "    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])\n"
    )
    torch.manual_seed(5)
    first, second = load(f"{file}:make"), load(f"{file}:make")
    assert first.digest == second.digest
    assert [spec.name for spec in second.signature.inputs] == ["input_layer"]
    np.testing.assert_array_equal(first.run(first.example)["output"], second.run(first.example)["output"])
    message, hint = refused(SourceError, f"{file}:make@weights.safetensors")
    assert message.endswith("returned a Sequential, which brings its own weights")
    assert "load them in the function" in hint


def test_code_in_a_file_needs_trust(tmp_path):
    written = tmp_path / "written"
    place = str(written)
    write = lambda x: (__import__("pathlib").Path(place).touch(), x)[1]  # noqa: E731
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Lambda(write)])
    path = saved(model, tmp_path / "model.keras")
    written.unlink(missing_ok=True)
    message, hint = refused(UsageError, str(path))
    assert "holds code that would run" in message
    assert "--trust" in hint
    assert not written.exists()
    load(str(path), trust=True)
    assert written.exists()


def test_a_class_that_the_file_does_not_hold_is_named_and_never_imported(tmp_path):
    path = saved(keras.Sequential([keras.Input((4,)), layers.Dense(2)]), tmp_path / "model.keras")
    (tmp_path / "planted.py").write_text("raise AssertionError('this was imported')\n")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] |= {"module": "planted", "class_name": "Planted", "registered_name": "Custom>Planted"}
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    for trust in (False, True):
        message, hint = refused(SourceError, str(path), trust=trust)
        assert "needs the class Planted, whose code is not in the file" in message
        assert "file.py:function" in hint


def test_files_that_are_no_models(tmp_path):
    saved(classifier(), tmp_path / "model.keras")
    junk = tmp_path / "junk.keras"
    junk.write_bytes(b"junk")
    assert "is no .keras file" in refused(SourceError, str(junk))[0]
    with zipfile.ZipFile(junk, "w") as archive:
        archive.writestr("metadata.json", "{}")
    assert "cannot read" in refused(SourceError, str(junk))[0]
    message, hint = refused(SourceError, str(tmp_path / "modl.keras"))
    assert message.startswith("there is no file")
    assert hint.startswith("did you mean model.keras")
    assert "has its own weights" in refused(UsageError, f"{tmp_path}/model.keras@weights.safetensors")[0]


def test_specs_that_the_model_contradicts():
    model = classifier()
    message, hint = refused(UsageError, model, "image=float32[batch=1..4,1,12,12]")
    assert message == "the model fixes axis 1 of image at 12; the spec says 1"
    assert "image=float32[batch=1..64,12,12,1]" in hint
    assert "the model takes float32" in refused(UsageError, model, "image=int32[batch=1..4,12,12,1] in 0..255")[0]
    assert "3 axes, but the model's has 4" in refused(UsageError, model, "image=float32[batch=1..4,12,12]")[0]
    assert "the model has no input 'x', it has image" in refused(UsageError, model, "x=float32[1]")[0]


def test_an_open_axis_needs_a_range_and_integers_their_values():
    ids = keras.Input((None,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(ids)))
    message, hint = refused(UsageError, model)
    assert message == "the axis 1 of the input ids is open, and nothing says which sizes it has"
    assert "ids=int32[batch=1..64,n1=1..64]" in hint
    assert "nothing says which values" in refused(UsageError, model, "ids=int32[batch=1..4,seq=2..9]")[0]
    assert load(model, parse_inputs(["ids=int32[batch=1..4,seq=2..9] in 0..8"])).signature.outputs[0].dims == (
        "batch",
        4,
    )


def test_what_cannot_be_exported_is_said():
    message, _ = refused(SourceError, keras.Sequential([keras.Input((4,)), Noisy()]))
    assert "draws random numbers in inference" in message
    message, hint = refused(SourceError, keras.Sequential([layers.Dense(3)]))
    assert "nothing says which inputs it takes" in message
    assert "keras.Input" in hint
    broken = classifier()
    broken.layers[0].kernel.assign(np.full((3, 3, 1, 4), np.nan))
    assert "holds NaN" in refused(SourceError, broken)[0]


def test_another_backend_is_said(monkeypatch):
    model = classifier()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    message, hint = refused(SourceError, model)
    assert message == "Keras computes with jax here, and is exported through its torch backend"
    assert "KERAS_BACKEND=torch" in hint


def test_a_version_whose_safe_mode_is_not_safe_reads_no_file(tmp_path, monkeypatch):
    classifier().save(tmp_path / "model.keras")
    monkeypatch.setattr(keras, "__version__", "3.10.0")
    with pytest.raises(SourceError, match=r"keras 3\.10\.0 may run code") as raised:
        load(str(tmp_path / "model.keras"))
    assert raised.value.hint == "pip install 'mlc-toolchain[keras]'"


def test_without_keras_its_extra_is_named(tmp_path, monkeypatch):
    path = saved(classifier(), tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras", None)
    message, hint = refused(SourceError, str(path))
    assert message.startswith("a .keras file needs the package keras")
    assert hint == "pip install 'mlc-toolchain[keras]'"


def test_a_fresh_process_takes_torch_and_leaves_home_and_environment_alone(tmp_path):
    path = saved(classifier(), tmp_path / "model.keras")
    home = tmp_path / "home"
    home.mkdir()
    script = (
        "import os, mlc\n"
        "before = dict(os.environ)\n"
        f"original = mlc.load({str(path)!r})\n"
        "assert dict(os.environ) == before\n"
        "import keras\n"
        "print(keras.config.backend(), original.signature.outputs[0].dims)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "HOME": str(home), "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(mlc.__file__).parents[1],
    )
    assert done.stdout == "torch ('batch', 3)\n"
    assert not (home / ".keras").exists()
