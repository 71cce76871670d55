"""The ways of Windows and macOS, simulated: paths, folders in use, encodings. None of it has run there."""

from __future__ import annotations

import errno
import io
import ntpath
import os
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import psutil
import pytest

from mlc import artifact, directory, machine
from mlc.cli import output
from mlc.data import open_data
from mlc.data.folders import listed
from mlc.errors import DataError, OutputError, TargetError, UsageError
from mlc.exporting.cache import Cache
from mlc.exporting.translation import Translation
from mlc.grammar.places import is_file, names_function, split_weights
from mlc.grammar.values import parse_target, target_text
from mlc.measuring import jobs
from mlc.recipe import Recipe, files, parse_inputs, read_recipe, recipe_toml
from mlc.recipe.fields import place_of
from mlc.references import load_function, written_so
from mlc.runtimes.onnxruntime import open_session, reason
from mlc.types import Target
from mlc.workspace import Workspace


def as_on(patch, module, platform="win32", **more):
    """Let a module alone believe that it runs on another system."""
    patch.setattr(module, "sys", SimpleNamespace(**{**vars(sys), "platform": platform, **more}))


@pytest.mark.parametrize(
    ("source", "model", "weights"),
    [
        ("m.py:f@w.safetensors", "m.py:f", "w.safetensors"),
        (r"C:\x\m.py:f@D:\w.pt", r"C:\x\m.py:f", r"D:\w.pt"),
        ("jane.doe@corp/m.py:f@w@2.pt", "jane.doe@corp/m.py:f", "w@2.pt"),
        (r"C:\Users\me@corp\m.py:f", r"C:\Users\me@corp\m.py:f", None),
        ("pkg.module:net@w.pt", "pkg.module:net", "w.pt"),
        ("jane@corp/model.onnx", "jane@corp/model.onnx", None),
        ("model.onnx@w.pt", "model.onnx", "w.pt"),
        ("m.py:f@", "m.py:f", ""),
    ],
)
def test_weights_stand_behind_a_function(source, model, weights):
    assert split_weights(source) == (model, weights)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("m.py:f", True), (r"C:\x\m.py:f", True), (r"\\server\share\m.py:f", True), ("package.module:f", True),
        (r"C:\data\eval.npz", False), ("D:/data", False), (r"\\?\C:\data", False), (r"\\server\share\data", False),
    ],
)  # fmt: skip
def test_the_colon_of_a_drive_is_that_of_no_function(text, function):
    assert names_function(text) is function


def test_a_file_of_windows_is_no_module():
    assert is_file(r"code\m")
    assert is_file("M.PY")
    assert not is_file("package.module")
    with pytest.raises(DataError, match=r"there is no file C:\\nowhere\\m\.py"):
        load_function(r"C:\nowhere\m.py:f", DataError)
    with pytest.raises(DataError, match=r"there is no data file C:\\nowhere\\data"):
        open_data(r"C:\nowhere\data", parse_inputs(["x=float32[n=1..4]"]))


class OnDriveC(PureWindowsPath):
    """A path of Windows with a working directory."""

    @classmethod
    def cwd(cls):
        return cls(r"C:\work")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (r"C:\work\m.py:f@C:\work\w.pt", "../m.py:f@../w.pt"),
        (r"D:\m.py:f@D:\w.pt", "D:/m.py:f@D:/w.pt"),
        (r"\\server\share\m.py:f", "//server/share/m.py:f"),
        (r"C:\work\me@corp\model.onnx", "../me@corp/model.onnx"),
        ("package.module:f", "package.module:f"),
    ],
)
def test_paths_in_a_recipe_have_forward_slashes(monkeypatch, given, written):
    monkeypatch.setattr(files, "Path", OnDriveC)
    monkeypatch.setattr(files, "os", SimpleNamespace(path=ntpath))
    folder: Any = OnDriveC(r"C:\work\out")
    move = files.FILES["source"]
    assert move(given, lambda part: files.to_folder(part, folder)) == written
    again = move(written, lambda part: files.from_folder(part, folder))
    assert again == given.replace("\\", "/").replace("C:/work/", "")


def test_what_is_asked_on_windows_is_kept_with_forward_slashes(monkeypatch):
    from mlc.recipe import fields

    assert place_of(r"a\b") == r"a\b"
    as_on(monkeypatch, fields)
    assert place_of(r"C:\x\m.py:f@w\w.pt") == "C:/x/m.py:f@w/w.pt"


@pytest.mark.parametrize("path", [r"C:\cache", r"\\server\share", r"C:\my cache"])
def test_a_path_of_windows_may_be_an_option(path):
    target = parse_target(f"openvino/cpu,CACHE_DIR={path}")
    assert dict(target.options) == {"CACHE_DIR": path}
    assert parse_target(target_text(target)) == target
    assert parse_target(f'openvino/cpu,CACHE_DIR="{path[1:]}"').options[0][1] == path[1:].replace("\\\\", "\\")


def test_a_recipe_that_an_editor_on_windows_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_bytes(b'\xef\xbb\xbfsource = "model.onnx"\r\nseed = 3\r\n')
    assert read_recipe(Path("r.toml")) == Recipe("model.onnx", seed=3)
    assert "\r" not in recipe_toml(Recipe("model.onnx"), tmp_path)


def test_hidden_files_of_windows_are_no_data(monkeypatch, tmp_path):
    from mlc.data import folders

    (tmp_path / "desktop.ini").touch()
    (tmp_path / "a.png").touch()

    class Entry:
        def __init__(self, entry):
            self.name, self.is_dir, self.is_file = entry.name, entry.is_dir, entry.is_file

        def stat(self, *, follow_symlinks):
            return SimpleNamespace(st_file_attributes=2 if self.name == "desktop.ini" else 0)

    class Scan(list[Entry]):
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    entries = sorted(tmp_path.iterdir())
    monkeypatch.setattr(
        folders, "os", SimpleNamespace(DirEntry=os.DirEntry, scandir=lambda _: Scan(map(Entry, entries)))
    )
    assert listed(tmp_path).files == ("a.png", "desktop.ini")
    as_on(monkeypatch, folders)
    assert listed(tmp_path).files == ("a.png",)


def refusing(monkeypatch, times):
    """Let the first renames of folders be refused, as Windows does while something in them is open."""
    refused: list[Path] = []
    rename = Path.rename

    def once_more(self, target):
        if len(refused) < times:
            refused.append(self)
            raise PermissionError(errno.EACCES, "Access is denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once_more)
    return refused


@pytest.fixture
def windows(monkeypatch):
    """The module of directories on Windows: no exchange, no descriptors of folders, no waiting."""
    as_on(monkeypatch, directory)
    monkeypatch.setattr(directory, "PATIENCE", (0.0,) * 3)
    opening = {"open": lambda *_: pytest.fail("a folder cannot be opened")}
    monkeypatch.setattr(directory, "os", SimpleNamespace(**{**vars(os), **opening}))


def test_a_directory_is_replaced_where_nothing_can_be_exchanged(tmp_path, windows, monkeypatch):
    refused = refusing(monkeypatch, 2)
    for text in ("old", "new"):
        with directory.replaced(tmp_path / "out", force=True) as staging:
            (staging / directory.MARK).write_text(text, encoding="utf-8")
    assert len(refused) == 2
    assert (tmp_path / "out" / directory.MARK).read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_in_use_stays_as_it_was(tmp_path, windows, monkeypatch):
    with directory.replaced(tmp_path / "out", force=True) as staging:
        (staging / directory.MARK).write_text("old", encoding="utf-8")
    refusing(monkeypatch, 99)
    with (
        pytest.raises(OutputError, match="Access is denied") as caught,
        directory.replaced(tmp_path / "out", force=True),
    ):
        pass
    assert "close what uses its files" in caught.value.hint
    assert not directory.remove(tmp_path / "out")
    assert (tmp_path / "out" / directory.MARK).read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_is_said_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        directory.check_place(Path(tmp_path.anchor), force=True)
    with pytest.raises(UsageError, match="cannot be written: File name too long"):
        directory.check_place(tmp_path / ("x" * 250), force=False)


def matrix(name="w", rows=40):
    """A graph of one product whose weight is large and whose bias is small."""
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,{rows}] x) => (float[1,100] y) {{ y = Gemm(x, w, b) }}'
    )
    for key, shape in (("w", (rows, 100)), ("b", (100,))):
        value = next(each for each in model.graph[0].inputs if each is not None and each.name == key)
        value.const_value = ir.tensor(np.ones(shape, np.float32), name=key)
        model.graph.register_initializer(value)
    return model


def test_weights_beside_a_model_are_read_or_held_and_let_go(tmp_path, monkeypatch):
    from mlc import workspace as rooms

    monkeypatch.setattr(artifact, "EXTERNAL_FROM", 0)
    model = ir.load(artifact.write_model(matrix(), tmp_path))
    as_on(monkeypatch, rooms)
    with Workspace(tmp_path) as workspace:
        with open_session(workspace.save(model), Target(), optimize=False) as session:
            assert session.run({"x": np.ones((1, 40), np.float32)})["y"][0, 0] == 41
        held: Any = model.graph.initializers["w"].const_value
        assert isinstance(model.graph.initializers["b"].const_value, ir.Tensor)
        held.numpy()
        assert held.raw is not None
    assert held.raw is None
    assert not workspace.path.exists()


def test_an_export_in_use_stays_whole_in_the_cache(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    for key in ("a", "b"):
        assert cache.store(key, Translation(matrix(), "torch", ())) == ""
    refusing(monkeypatch, 1)
    assert cache.clear() == 1
    (left,) = cache.entries()
    assert cache.find(left.folder.name) is not None


def test_the_machine_of_another_system(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0, 2, 3]))
    assert machine.cores() == 3
    monkeypatch.setattr(psutil, "Process", SimpleNamespace)
    assert machine.cores() == os.cpu_count()
    monkeypatch.setattr(machine, "Path", lambda place: tmp_path / "none" / place.strip("/"))
    assert machine.memory_bytes() == psutil.virtual_memory().total
    assert (machine.reset_peak(), machine.process_bytes(machine.PEAK)) == (0, 0)


def test_a_file_or_a_pipe_of_windows_gets_utf8(monkeypatch):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    for platform, expected in (("linux", "cp1252"), ("win32", "utf-8")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        as_on(monkeypatch, output, platform, stdout=stream)
        output.forgiving()
        assert (stream.encoding, stream.errors) == (expected, "backslashreplace")


def test_a_reader_that_has_gone_away_is_known_on_windows(monkeypatch):
    gone = OSError(errno.EINVAL, "Invalid argument")
    assert not output.reader_gone(gone)
    assert output.reader_gone(BrokenPipeError())
    as_on(monkeypatch, output)
    assert output.reader_gone(gone)
    assert not output.reader_gone(OSError(errno.ENOSPC, "No space left on device"))


def test_a_worker_that_dies_in_another_encoding(monkeypatch, tmp_path):
    code = r"import os, sys; os.write(2, b'Zugriff \xfcber Grenze\n'); os._exit(3)"
    (tmp_path / "dying.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(jobs, "WORKER", "dying")
    with pytest.raises(TargetError, match=r"died with exit code 3: Zugriff .ber Grenze"):
        jobs.run_job({"models": []})
    assert jobs._exit_code(0xC0000005) == "0xc0000005"


def test_the_source_of_a_runtime_built_on_windows_is_no_reason():
    told = r"[ONNXRuntimeError] : 1 : FAIL : D:\a\_work\1\s\core\session.cc:12 onnxruntime::Init(int) no such thing"
    assert reason(RuntimeError(told)) == "no such thing"


def test_a_folder_of_another_case_is_another_module(tmp_path):
    (tmp_path / "Passes").mkdir()
    assert written_so(tmp_path, "Passes")
    assert not written_so(tmp_path, "passes")
