"""Directories that mlc wrote as sources: their ranges, their digests, and what is made of them again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mlc
from mlc.cli import main
from mlc.errors import MlcError, SourceError, UsageError
from mlc.recipe import parse_inputs
from mlc.sources.doors.artifact import overridden
from mlc.sources.load import load
from tests.conftest import measure_quickly

LINEAR = Path(__file__).parents[1] / "sample_models" / "linear"


def refused(error, source, *specs) -> str:
    with pytest.raises(MlcError) as caught:
        load(str(source), parse_inputs(specs))
    assert type(caught.value) is error
    return caught.value.message


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A compiled model in a directory called net.mlc."""
    folder = tmp_path_factory.mktemp("artifact")
    with pytest.MonkeyPatch.context() as patch:
        measure_quickly(patch)
        patch.chdir(folder)
        source, spec = f"{LINEAR / 'model.py'}:model", "x=float32[batch=1..8,6]"
        assert main(["compile", source, "--input", spec, "-o", "net.mlc", "--quiet"]) == 0
    return folder / "net.mlc"


def test_an_artifact_brings_its_ranges(artifact):
    original = load(str(artifact))
    batch = original.signature.inputs[0].dims[0]
    assert (batch.name, batch.low, batch.high) == ("batch", 1, 8)
    (note,) = original.notes
    assert note.startswith(f"taken from {artifact}, which mlc wrote from {LINEAR / 'model.py'}:model (torch.onnx")
    assert original.source == str(artifact)
    other = load(str(artifact), parse_inputs(["x=float32[n=1..3,6]"]))
    assert other.signature.inputs[0].dims[0].name == "n"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("y=float32[3]", "the model has no input 'y', it has x"),
        ("x=float64[n=1..3,6]", "says that x is float64"),
        ("x=float32[n=1..3,5]", "the model fixes axis 1 of x at 6"),
    ],
)
def test_specs_that_do_not_fit_an_artifact(artifact, spec, message):
    assert message in refused(UsageError, artifact, spec)


def test_an_artifact_has_its_own_weights(artifact):
    with pytest.raises(UsageError, match="is no source of a model") as caught:
        load(f"{artifact}@w.safetensors")
    assert caught.value.hint == f"the model in a directory has its own weights: write {artifact}"


def test_an_artifact_that_was_changed_is_not_used(artifact, tmp_path, capsys):
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(["compile", str(copy), "-o", str(tmp_path / "out")]) == 3
    assert f"{copy / 'model.onnx'} is not what was written" in capsys.readouterr().err
    (copy / "model.onnx").unlink()
    assert "model.onnx is missing" in refused(SourceError, copy)
    (copy / "manifest.json").write_text("{}")
    assert "is of another version" in refused(SourceError, copy)


@pytest.mark.usefixtures("quick")
def test_an_artifact_compiles_again_beside_itself_and_replays(artifact, monkeypatch, capsys):
    monkeypatch.chdir(artifact.parent)
    assert main(["compile", "net.mlc", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["directory"] == "net-again.mlc"
    assert {check["sizes"]["batch"] for check in report["checks"]} >= {1, 8}
    assert main(["compile", "--recipe", "net-again.mlc/recipe.toml", "-o", "third", "--quiet"]) == 0
    assert Path("third/model.onnx").read_bytes() == Path("net-again.mlc/model.onnx").read_bytes()
    assert main(["validate", "third", "--against", "net.mlc", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["compile", "net.mlc", "-o", "net.mlc", "--force"]) == 2
    assert "the output net.mlc holds the source itself" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds the source itself"):
        mlc.compile("net.mlc/model.onnx", inputs=["x=float32[batch=1..4,6]"], out="net.mlc", force=True)
    with pytest.raises(UsageError, match=r"what data reads, net\.mlc/d\.npz"):
        mlc.compile("other.onnx", data="net.mlc/d.npz", out="net.mlc", force=True)


@pytest.mark.usefixtures("quick")
def test_a_quantized_artifact_is_not_quantized_again(artifact, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["--to", "int8", "--calibrate", str(LINEAR / "calibration.npz")]
    assert main(["quantize", str(artifact), *asked, "-o", "once", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["quantize", "once", *asked, "-o", "twice"]) == 4
    assert "is quantized already" in capsys.readouterr().err
    assert not Path("twice").exists()


def test_ranges_of_sums_follow_what_is_given():
    written = parse_inputs(["past=float32[p=1..9]", "x=float32[s=1..4]", "mask=float32[t=p+s]"])
    _, _, mask = overridden(written, parse_inputs(["past=float32[p=2..3]"]))
    assert (mask.dims[0].low, mask.dims[0].high) == (3, 7)
