"""Models in files and directories: what may run code runs only with trust, and every other file is one sentence."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlc.cli import main
from mlc.errors import MlcError, SourceError, UsageError
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from tests import models_for_export as models
from tests.exporting import exported
from tests.pickles import Planted

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


class Writes(nn.Module):
    """Writes a file when TorchScript loads it."""

    def __init__(self, marker: str):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.marker = marker

    def forward(self, x):
        return self.weight * x

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.marker, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.marker = state[1]
        self.training = state[2]
        self.weight = torch.from_file(state[1], shared=True, size=3) + state[0]  # type: ignore[assignment]


Writes.__setstate__.__annotations__["state"] = tuple[torch.Tensor, str, bool]
Writes.__setstate__.__annotations__["return"] = None


def refused(error, source, *specs, trust=False) -> tuple[str, str]:
    with pytest.raises(MlcError) as caught:
        load(str(source), parse_inputs(specs), trust=trust)
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def program() -> torch.export.ExportedProgram:
    dims = ({0: torch.export.Dim("batch", min=1, max=8)},)
    return torch.export.export(nn.Linear(3, 2).eval(), (torch.randn(2, 3),), dynamic_shapes=dims)


def program_file(folder: Path) -> Path:
    torch.export.save(program(), folder / "net.pt2")
    return folder / "net.pt2"


def edited(path: Path, part: str, content: bytes | None) -> Path:
    """Replace one part of an archive, or leave it out."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            new = content if name.endswith(part) else data
            if new is not None:
                archive.writestr(name, new)
    return path


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# trust


def planted_files(folder: Path, marker: Path) -> dict[str, Path]:
    """Every kind of file that runs code when it is loaded; each makes the marker."""
    module = models.Net()
    module.planted = Planted(marker)  # type: ignore[assignment]
    torch.save(module, folder / "module.pt")
    torch.save(module, folder / "older.pth", _use_new_zipfile_serialization=False)
    torch.save({"weights": module.state_dict(), "more": Planted(marker)}, folder / "dict.pt")
    torch.jit.script(Writes(str(marker))).save(folder / "script.pt")
    planted = edited(program_file(folder), "sample_inputs/model.pt", saved(Planted(marker)))
    return {path.stem: path for path in (planted, *folder.glob("*.pt*"))}


@pytest.mark.parametrize("name", ["module", "older", "dict", "script", "net"])
def test_what_runs_code_runs_only_with_trust(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    path = planted_files(tmp_path, marker)[name]
    marker.unlink(missing_ok=True)
    _, hint = refused(UsageError, path)
    assert "--trust" in hint
    for line in (
        ["compile", path.name], ["validate", path.name, "--against", path.name], ["bench", path.name],
        ["inspect", path.name], ["quantize", f"{models.__file__}:net@{path.name}", "--to", "int8"],
        ["compile", f"{models.__file__}:net_with_example@{path.name}"], ["compile", f"{path.name}@{path.name}"],
    ):  # fmt: skip
        assert main(line) != 0
    capsys.readouterr()
    assert not marker.exists()
    with pytest.raises(MlcError):
        load(str(path), parse_inputs(["nothing=float32[3]"]), trust=True)
    assert marker.exists()


def test_what_to_do_is_said_in_one_sentence(tmp_path):
    message, hint = refused(UsageError, program_file(tmp_path))
    assert message.endswith(
        "net.pt2 is a program of torch.export: loading it unpickles parts of it, which can run any code"
    )
    assert hint == "give --trust (trust=True in Python) where you know who made it"
    torch.save(models.Net(), tmp_path / "net.pt")
    message, _ = refused(UsageError, tmp_path / "net.pt")
    assert message.endswith("net.pt is a pickled tests.models_for_export.Net: unpickling it can run any code")
    torch.jit.script(nn.ReLU()).save(tmp_path / "net.pt")
    message, _ = refused(UsageError, tmp_path / "net.pt")
    assert message.endswith("net.pt is a TorchScript archive: loading it runs its code, which can write files")


# programs


def test_a_program_file(workspace, tmp_path):
    original = load(str(program_file(tmp_path)), trust=True)
    assert original.source == str(tmp_path / "net.pt2")
    assert [spec.dims[0].high for spec in original.signature.inputs] == [8]
    assert len(load(str(tmp_path / "net.pt2"), parse_inputs(["input=float32[b=1..4,3]"]), trust=True).example) == 1


def test_a_function_that_returns_a_program(workspace, tmp_path):
    (tmp_path / "make.py").write_text(
        "import torch\ndef net():\n    return torch.export.export(torch.nn.Linear(3, 2), (torch.ones(4, 3),))\n"
    )
    case = exported(workspace, f"{tmp_path}/make.py:net")
    assert case.inputs == ["input"]
    save_file(nn.Linear(3, 2).state_dict(), tmp_path / "w.safetensors")
    message, _ = refused(SourceError, f"{tmp_path}/make.py:net@{tmp_path}/w.safetensors")
    assert "which brings its own weights" in message


def test_a_program_of_an_older_torch_is_told_by_its_parts(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    assert "is a program of torch.export" in refused(UsageError, tmp_path / "net.pt2")[0]


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("models/model.json", b"{", "torch cannot load"),
        ("weights/weight_0", None, "failed locating file data/weights/weight_0"),
        ("archive_version", b"99", "Saved archive version 99"),
    ],
)
def test_programs_that_torch_cannot_load(tmp_path, part, content, message):
    assert message in refused(SourceError, edited(program_file(tmp_path), part, content), trust=True)[0]


def test_an_operator_that_is_not_registered(tmp_path):
    path = program_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        graph = archive.read("net/models/model.json").replace(b"ops.aten.linear.default", b"ops.mine.linear.default")
    message, hint = refused(SourceError, edited(path, "models/model.json", graph), trust=True)
    assert "calls the operator mine.linear, which is not registered here" in message
    assert "import the operator's package" in hint


def test_archives_that_hold_no_program(tmp_path):
    path = tmp_path / "net.pt2"
    for part, message in (
        ("net/models/other.json", "holds the programs other, and none called model"),
        ("net/data/aotinductor/model/model.so", "is a package that torch compiled for one machine"),
        ("readme.txt", "is an archive, but none of torch's"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(part, "")
        assert message in refused(SourceError, path, trust=True)[0]
    torch.save(models.Net(), path)
    assert "is a pickled tests.models_for_export.Net, not a program" in refused(SourceError, path, trust=True)[0]


# pickled modules and TorchScript


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_module(tmp_path, archive):
    module = models.Net()
    torch.save(module, tmp_path / "net.pt", _use_new_zipfile_serialization=archive)
    original = load(f"{tmp_path}/net.pt", parse_inputs(["image=float32[n=1..4,3,8,8]"]), trust=True)
    image = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = module.eval()(image).numpy()
    np.testing.assert_array_equal(original.run({"image": image.numpy()})["output"], expected)


def test_the_only_module_of_a_checkpoint_is_taken_and_said(tmp_path):
    torch.save({"epoch": 3, "model": models.Spectrum()}, tmp_path / "net.pt")
    original = load(f"{tmp_path}/net.pt", parse_inputs(["x=float32[2,8]"]), trust=True)
    assert "the module is the one under 'model' in net.pt" in original.notes
    torch.save({"first": nn.ReLU(), "second": nn.ReLU()}, tmp_path / "net.pt")
    assert "holds 2 modules: first, second" in refused(SourceError, tmp_path / "net.pt", trust=True)[0]


def test_a_class_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "lost_models.py").write_text(
        "from torch import nn\nclass Lost(nn.Module):\n    def forward(self, x):\n        return x + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "home")
    import lost_models  # type: ignore[import-not-found]

    torch.save(lost_models.Lost(), tmp_path / "net.pt")
    monkeypatch.undo()
    sys.modules.pop("lost_models")
    message, hint = refused(SourceError, tmp_path / "net.pt", "x=float32[3]", trust=True)
    assert message.endswith("net.pt (lost_models.Lost) needs the module 'lost_models', which cannot be imported")
    assert "run from the folder that has it" in hint
    monkeypatch.chdir(tmp_path / "home")
    assert load(f"{tmp_path}/net.pt", parse_inputs(["x=float32[3]"]), trust=True).signature.inputs[0].name == "x"
    sys.modules.pop("lost_models")
    (tmp_path / "home" / "lost_models.py").write_text("")
    assert "needs what its modules no longer have" in refused(SourceError, tmp_path / "net.pt", trust=True)[0]
    sys.modules.pop("lost_models")


def test_a_class_of_a_script_that_was_run(tmp_path, monkeypatch):
    kind = type("Own", (nn.Module,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Own", kind, raising=False)
    torch.save(kind(), tmp_path / "net.pt")
    monkeypatch.undo()
    message, _ = refused(SourceError, tmp_path / "net.pt", trust=True)
    assert "the class of" in message
    assert "(__main__.Own) was defined in a script that was run" in message


def test_a_torchscript_file(workspace, tmp_path):
    torch.jit.script(models.Spectrum()).save(tmp_path / "net.pt")
    original = load(f"{tmp_path}/net.pt", parse_inputs(["x=float32[n=1..4,8]"]), trust=True)
    assert original.exporter == "torchscript"
    (tmp_path / "net.pt").rename(tmp_path / "net.pt2")
    assert "is a TorchScript archive, not a program" in refused(SourceError, tmp_path / "net.pt2", trust=True)[0]


def test_a_function_that_returns_torchscript_takes_weights(tmp_path):
    (tmp_path / "make.py").write_text(
        "import torch\ndef net():\n    return torch.jit.script(torch.nn.Linear(3, 2)), torch.ones(2, 3)\n"
    )
    state = nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "w.pt")
    original = load(f"{tmp_path}/make.py:net@{tmp_path}/w.pt")
    x = np.ones((2, 3), np.float32)
    expected = x @ state["weight"].numpy().T + state["bias"].numpy()
    np.testing.assert_allclose(original.run({"input": x})["output"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (models.Net().state_dict(), UsageError, "holds a dict, as weights and checkpoints do, not a module by itself"),
        (torch.ones(2), SourceError, "holds a tensor, not a module"),
        ([torch.ones(2)], SourceError, "holds a list or another plain value, not a module"),
        (3, SourceError, "holds a list or another plain value, not a module"),
    ],
)
def test_files_of_torch_that_hold_no_module(tmp_path, value, error, message):
    torch.save(value, tmp_path / "net.pt")
    said, hint = refused(error, tmp_path / "net.pt")
    assert message in said
    assert "file.py:function" in hint


def test_weights_alone_stay_weights_with_trust(tmp_path):
    torch.save(models.Net().state_dict(), tmp_path / "net.pt")
    message, hint = refused(SourceError, tmp_path / "net.pt", trust=True)
    assert message.endswith("net.pt holds no module, only weights")
    assert hint == f"write file.py:function@{tmp_path / 'net.pt'}"
    torch.save(Path("/"), tmp_path / "net.pt")
    assert "holds a PosixPath, not a module" in refused(SourceError, tmp_path / "net.pt", trust=True)[0].replace(
        "WindowsPath", "PosixPath"
    )


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.pt2"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"PK\x03\x04", "is damaged or cut off"),
        (b"\x80\x02", "is damaged or cut off"),
        (b"a text", "is no file that torch wrote"),
        ("folder", "is a directory"),
    ],
)
def test_files_that_are_none_of_torchs(tmp_path, name, content, message):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in refused(SourceError, tmp_path / name, trust=True)[0]


@pytest.mark.parametrize("kind", ["program", "module", "script"])
def test_every_cut_of_a_file_is_refused(tmp_path, kind):
    path = tmp_path / ("net.pt2" if kind == "program" else "net.pt")
    if kind == "program":
        torch.export.save(program(), path)
    elif kind == "module":
        torch.save(models.Net(), path)
    else:
        torch.jit.script(nn.ReLU()).save(path)
    data = path.read_bytes()
    for length in range(1, len(data), 499):
        path.write_bytes(data[:length])
        refused(SourceError, path, trust=True)


def test_names_in_a_file_say_nothing_to_the_terminal(tmp_path):
    torch.save(3, tmp_path / "net.pt")
    edited(tmp_path / "net.pt", "data.pkl", b"\x80\x02c\x1b[31mred\n\x1b[2J\n.")
    message, _ = refused(UsageError, tmp_path / "net.pt")
    assert "is a pickled [31mred.[2J: unpickling" in message


def test_an_archive_that_asks_for_a_password(tmp_path):
    torch.save(3, tmp_path / "net.pt")
    content = bytearray((tmp_path / "net.pt").read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(start, place + 1)) >= 0:
            content[place + offset] |= 1
    (tmp_path / "net.pt").write_bytes(content)
    assert "is damaged or cut off" in refused(SourceError, tmp_path / "net.pt")[0]


@pytest.mark.parametrize("source", ["a" * 5000, "a" * 5000 + ".pt", "m.py:f@" + "a" * 5000 + ".pt"])
def test_names_that_no_file_can_have(source):
    assert "cannot be a name" in refused(UsageError, source)[0]


@pytest.mark.parametrize("name", ["net.pt2", "net.pt"])
def test_weights_for_a_file_that_has_its_own(name):
    assert "has its own weights" in refused(UsageError, f"{name}@w.safetensors")[0]
