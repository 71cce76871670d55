"""What ``mlc doctor`` finds: versions, providers, the CPU, and everyone who claims our names."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import metadata
from types import ModuleType

import pytest

from mlc import doctor
from mlc.cli import main
from mlc.types import Capabilities

SOUND = doctor.Diagnosis(
    python="3.11.2 at /usr/bin/python3",
    location="/site-packages/mlc",
    versions={"torch": "2.13.0", "rich": "not installed"},
    providers={"cpu": "ok", "cuda": "no device"},
    cpu=Capabilities("this CPU (A Maker)", avx2=True),
    passes={"fold-constants": "ok"},
    cache={"in": "/caches/mlc", "kept": "2 exports, 1.5 MB"},
    clashes=(),
    notes=(),
)


def test_a_sound_installation():
    text = doctor.render(SOUND)
    assert "no name clashes" in text
    assert "torch  2.13.0" in text.replace("   ", "  ")
    assert "cuda  no device" in text
    assert "has   avx2" in text
    assert "may saturate at 16 bits" in text
    assert "passes that cannot be loaded" not in text
    assert "kept  2 exports, 1.5 MB" in text


def test_the_exports_that_are_kept_can_be_cleared(capsys, own_cache):
    place = own_cache / ("0" * 64)
    place.mkdir()
    (place / "manifest.json").write_text("{}")
    assert "1 export" in doctor._cache()["kept"]
    assert main(["doctor", "--clear-cache"]) == 0
    assert "1 export removed" in capsys.readouterr().out
    assert list(own_cache.iterdir()) == []


def test_clearing_the_cache_has_no_json_and_one_voice(capsys):
    assert main(["doctor", "--clear-cache", "--json"]) == 2
    assert main(["doctor", "--clear-cache", "--quiet", "--verbose"]) == 2
    assert capsys.readouterr().out == ""


def test_it_runs_where_nothing_is_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert "torch" in doctor._required()


def test_what_is_wrong_is_marked():
    diagnosis = dataclasses.replace(
        SOUND, passes={"p": "loading p raised ImportError"}, clashes=("mlcflow is here",), notes=("another mlc",)
    )
    text = doctor.render(diagnosis)
    assert "clash: mlcflow is here" in text
    assert "note: another mlc" in text
    assert "p  loading p raised ImportError" in text
    assert "no name clashes" not in text


def test_json_holds_everything():
    found = json.loads(doctor.render_json(SOUND))
    assert set(found) == {field.name for field in dataclasses.fields(doctor.Diagnosis)}
    assert found["cpu"]["avx2"] is True


@pytest.fixture
def mlcflow(monkeypatch, tmp_path):
    """Install another distribution that has our package and our command; one file of it is there."""
    information = tmp_path / "site" / "mlcflow-1.3.8.dist-info"
    information.mkdir(parents=True)
    (tmp_path / "site" / "mlc").mkdir()
    (tmp_path / "site" / "mlc" / "__init__.py").touch()  # importlib_metadata, where it is imported, skips missing ones
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mlcflow\nVersion: 1.3.8\n")
    (information / "RECORD").write_text("mlc/__init__.py,,\nmlc/main.py,,\n")
    (information / "entry_points.txt").write_text("[console_scripts]\nmlc = mlc.main:main\n")
    monkeypatch.syspath_prepend(str(information.parent))
    monkeypatch.chdir(tmp_path)


def test_another_distribution_with_our_names(mlcflow):
    package, command = doctor.clashes()
    assert "mlcflow brings a top-level package 'mlc' too" in package
    assert "mlcflow brings a command 'mlc' too" in command
    assert "mlc-toolchain" in command


def test_an_import_error_names_the_other_distribution(mlcflow, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlc.pipeline", ModuleType("mlc.pipeline"))
    assert main(["compile", "model.onnx"]) == 70
    error = capsys.readouterr().err
    assert "ImportError" in error
    assert "mlc: error: the distribution mlcflow" in error


@pytest.mark.parametrize("shadow", ["passes/__init__.py", "mlc/__init__.py", "passes.py", "mlc.py"])
def test_a_shadow_in_the_working_directory(monkeypatch, tmp_path, shadow):
    path = tmp_path / shadow
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.chdir(tmp_path)
    (clash,) = doctor.clashes()
    assert "shadows" in clash
    assert "python -m mlc" in clash


def test_a_folder_without_init_shadows_nothing(monkeypatch, tmp_path):
    (tmp_path / "passes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert doctor.clashes() == ()


def test_two_builds_of_the_runtime_are_a_clash(monkeypatch):
    there = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(doctor, "installed", there.get)
    assert any("onnxruntime and onnxruntime-gpu are installed together" in clash for clash in doctor.clashes())
    del there["onnxruntime"]
    assert not any("installed together" in clash for clash in doctor.clashes())


def test_our_own_folder_is_no_shadow(monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(Path(doctor.__file__).parents[1])
    assert doctor.clashes() == ()


def test_a_clash_is_exit_1(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "diagnose", lambda _progress: SOUND)
    assert main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "diagnose", lambda _progress: dataclasses.replace(SOUND, clashes=("x",)))
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.split("no name clashes\n")[1])["clashes"] == ["x"]


@pytest.mark.needs_onnxruntime
def test_this_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    diagnosis = doctor.diagnose()
    (runtime,) = metadata.packages_distributions()["onnxruntime"]
    assert diagnosis.versions[runtime] == metadata.version(runtime)
    assert "not installed" not in diagnosis.versions.values()
    assert diagnosis.versions["mlc-toolchain"] == metadata.version("mlc-toolchain")
    assert diagnosis.providers["cpu"] == "ok"
    assert diagnosis.cpu is not None
    assert diagnosis.cpu.description.startswith("this CPU")
    assert set(diagnosis.passes.values()) == {"ok"}
