"""Exports that were made before are taken again only for the very same model, and compared like fresh ones."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from mlc.artifact import Way, write_model
from mlc.cli import main
from mlc.exporting import cache as cache_module
from mlc.exporting import export
from mlc.exporting.cache import Cache
from mlc.exporting.checked import FROM_CACHE
from mlc.exporting.fingerprint import fingerprint
from mlc.exporting.translation import Translation
from mlc.manifest import digest
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from mlc.sources.torch.module import TorchOriginal
from tests.graphs import graph

SPEC = "x=float32[batch=1..4,6]"

SOURCE = """
import torch
from torch import nn
from parts import scale

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.factor = 2.0

    def forward(self, x):
        return self.linear(x) * self.factor * scale()

def model():
    return Net()
"""


class Net(nn.Module):
    def __init__(self, factor=2.0, settings=None):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 3)
        self.factor = factor
        self.settings = settings or {"power": [1]}

    def forward(self, x):
        return (self.linear(x) * self.factor) ** self.settings["power"][0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.tied = nn.Embedding(7, 5)

    def forward(self, x):
        hidden, _ = self.lstm(x)
        return {"hidden": hidden, "scores": hidden @ self.tied.weight.T}


class Large(nn.Module):
    """Weights of more bytes than a model file holds inside itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 3_000_000))

    def forward(self, x):
        return (x @ self.weight).sum(1)


class Folder:
    """Export into files beside each other, with one cache."""

    def __init__(self, place):
        self.place = place
        self.cache = Cache(place / "cache")
        self.made = 0

    def export(self, module, workspace, spec=SPEC, **asked):
        original = load(module, parse_inputs([spec]))
        kept, _ = references(original, None, 0)
        artifact, checks = export(original, kept, workspace, cache=self.cache, **asked)
        assert all(check.held for check in checks)
        self.made += 1
        folder = self.place / f"model-{self.made}"
        folder.mkdir()
        write_model(artifact.model, folder)
        return FROM_CACHE in artifact.origin.notes, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def exports(tmp_path):
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("build", "spec"),
    [(Net, SPEC), (Recurrent, "x=float32[batch=1..4,3,6]"), (Large, SPEC)],
    ids=["linear", "recurrent", "large"],
)
def test_the_second_export_of_a_model_is_taken_and_has_the_same_bytes(exports, workspace, build, spec):
    taken, first = exports.export(build(), workspace, spec)
    again, second = exports.export(build(), workspace, spec)
    assert (taken, again) == (False, True)
    assert first == second


def test_the_ways_that_were_tried_are_kept_with_an_export(tmp_path):
    cache = Cache(tmp_path)
    ways = (Way("as it is", "it differs"), Way("with zeros"))
    model = graph("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    assert cache.store("key", Translation(model, "a test", ways=ways)) == ""
    found = cache.find("key")
    assert found is not None
    assert found.ways == ways


def other_weights():
    module = Net()
    with torch.no_grad():
        module.linear.weight[0, 0] += 1
    return module


def other_method():
    module = Net()
    module.forward = lambda x: module.linear(x) * 3.0  # type: ignore[method-assign]
    return module


LIMIT = 6.0


def bound():
    return LIMIT


class Holder(nn.Module):
    """Computes with whatever it is given: values, functions, parts."""

    limit = 6.0

    def __init__(self, held=None, parts=None):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 3)
        self.held = held
        for name, part in (parts or {}).items():
            setattr(self, name, part)

    def forward(self, x, top=6.0):
        x = self.linear(x).clamp(max=min(self.limit, bound(), top))
        return self.held(x) if callable(self.held) else x


def clamping(limit):
    return lambda x: x.clamp(max=limit)


def shared(second):
    parts = {"a": nn.ReLU(), "b": nn.ReLU6()}
    return Holder(parts={**parts, "c": parts[second]})


PAIRS = {
    "closure": (lambda: Holder(clamping(6.0)), lambda: Holder(clamping(8.0))),
    "partial": (lambda: Holder(functools.partial(torch.clamp, max=6.0)),
                lambda: Holder(functools.partial(torch.clamp, max=8.0))),
    "function of torch": (lambda: Holder(torch.floor), lambda: Holder(torch.trunc)),
    "nesting": (lambda: Holder([[1, 2], 3]), lambda: Holder([[1], 2, 3])),
    "tied parts": (lambda: shared("a"), lambda: shared("b")),
    "dtype of an attribute": (lambda: Holder(torch.ones(2)), lambda: Holder(torch.ones(2, dtype=torch.float64))),
    "signed zero": (lambda: Holder(0.0), lambda: Holder(-0.0)),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_modules_that_differ_in_what_they_hold_have_other_keys(pair):
    one, other = PAIRS[pair]
    assert key_of(one()) == key_of(one()) != key_of(other())


@pytest.mark.parametrize("change", ["global", "class attribute", "default"])
def test_what_a_function_reads_outside_of_itself_is_part_of_the_key(monkeypatch, change):
    before = key_of(Holder())
    if change == "global":
        monkeypatch.setitem(globals(), "LIMIT", 8.0)
    elif change == "class attribute":
        monkeypatch.setattr(Holder, "limit", 8.0)
    else:
        monkeypatch.setattr(Holder.forward, "__defaults__", (8.0,))
    assert key_of(Holder()) != before


def key_of(module):
    original = load(module, parse_inputs([SPEC]))
    assert isinstance(original, TorchOriginal)
    return fingerprint(original, {"batch": 2}, 20)


def test_a_value_that_cannot_be_described_is_said_and_nothing_is_kept(exports, workspace):
    original = load(Holder(threading.Lock()), parse_inputs([SPEC]))
    kept, _ = references(original, None, 0)
    artifact, _ = export(original, kept, workspace, cache=exports.cache)
    assert [note for note in artifact.origin.notes if "not kept in the cache" in note and "lock" in note]
    assert not exports.cache.entries()


def test_an_attribute_of_a_scripted_module_is_part_of_the_key():
    class Scripted(nn.Module):
        def __init__(self, limit):
            super().__init__()
            self.limit = limit

        def forward(self, x):
            return x.clamp(max=self.limit)

    one, again, other = (torch.jit.script(Scripted(limit)) for limit in (6.0, 6.0, 8.0))
    assert key_of(one) == key_of(again) != key_of(other)


@pytest.mark.parametrize(
    ("module", "asked"),
    [
        (other_weights(), {}),
        (Net(3.0), {}),
        (Net(settings={"power": [2]}), {}),
        (other_method(), {}),
        (Net(), {"opset": 21}),
        (Net(), {"spec": "x=float32[batch=1..5,6]"}),
    ],
    ids=["weights", "number", "nested setting", "method", "opset", "range"],
)
def test_whatever_decides_an_export_makes_it_another(exports, workspace, module, asked):
    exports.export(Net(), workspace)
    taken, _ = exports.export(module, workspace, **asked)
    assert not taken
    assert len(exports.cache.entries()) == 2


def only(exports):
    (entry,) = exports.cache.entries()
    return entry.folder


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_a_damaged_entry_is_made_anew(exports, workspace, damage):
    _, first = exports.export(Net(), workspace)
    file = only(exports) / "model.onnx"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    taken, second = exports.export(Net(), workspace)
    assert not taken
    assert first == second
    assert exports.export(Net(), workspace)[0]


def test_an_entry_that_computes_otherwise_is_made_anew(exports, workspace):
    """Its files are what was written, so nothing but the comparison with the original can tell."""
    _, first = exports.export(Net(), workspace)
    place = only(exports)
    model = onnx.load(place / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "linear.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(model, place / "model.onnx")
    told = json.loads((place / "manifest.json").read_text())
    told["files"]["model.onnx"] = digest(place / "model.onnx")
    (place / "manifest.json").write_text(json.dumps(told))
    assert exports.cache.find(place.name) is not None
    taken, second = exports.export(Net(), workspace)
    assert not taken
    assert first == second


def test_a_cache_that_cannot_be_written_is_a_note(exports, workspace):
    exports.cache.folder.write_text("a file")
    original = load(Net(), parse_inputs([SPEC]))
    kept, _ = references(original, None, 0)
    artifact, _ = export(original, kept, workspace, cache=exports.cache)
    assert any("was not kept in the cache" in note for note in artifact.origin.notes)


def test_the_least_used_goes_when_there_is_too_much(exports, workspace, monkeypatch):
    for number, factor in enumerate((1.0, 2.0, 3.0)):
        exports.export(Net(factor), workspace)
        latest = exports.cache.entries()[0]
        os.utime(latest.folder, (number + 1, number + 1))
    sizes = [entry.size for entry in exports.cache.entries()]
    monkeypatch.setattr(cache_module, "LIMIT", sum(sizes) - 1)
    exports.export(Net(4.0), workspace)
    left = exports.cache.entries()
    assert sum(entry.size for entry in left) <= sum(sizes) - 1
    monkeypatch.setattr(cache_module, "LIMIT", 10)
    exports.export(Net(5.0), workspace)
    assert len(exports.cache.entries()) == len(left)


def test_what_a_killed_run_left_is_swept(exports, workspace):
    exports.export(Net(), workspace)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = exports.cache.folder / f".abc.mlc-new-{int(dead.stdout)}"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    exports.export(Net(7.0), workspace)
    assert not left.exists()


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOURCE)
    Path("parts.py").write_text("def scale():\n    return 1.0\n")
    return tmp_path


def compiled(capsys, *more):
    """Return whether a compilation took its export from the cache."""
    line = ["compile", "net.py:model", "--input", SPEC, "-o", "out", "--force", "--json", "--pass", "none", *more]
    assert main(line) == 0
    return FROM_CACHE in json.loads(capsys.readouterr().out)["origin"]["notes"]


@pytest.mark.usefixtures("quick", "written")
def test_the_command_line_takes_it_until_a_file_changes(capsys, own_cache):
    assert not compiled(capsys)
    first = Path("out/model.onnx").read_bytes()
    assert compiled(capsys)
    assert Path("out/model.onnx").read_bytes() == first
    assert not compiled(capsys, "--no-cache")
    Path("parts.py").write_text("def scale():\n    return 1.5\n")
    assert not compiled(capsys)
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.usefixtures("quick", "written")
def test_no_cache_keeps_nothing(capsys, own_cache):
    compiled(capsys, "--no-cache")
    assert list(own_cache.iterdir()) == []


@pytest.mark.usefixtures("written")
def test_another_process_finds_it(own_cache):
    script = """
import sys
from pathlib import Path
from mlc.exporting import export
from mlc.exporting.cache import Cache
from mlc.exporting.checked import FROM_CACHE
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from mlc.workspace import Workspace

source, spec, cache = sys.argv[1:]
original = load(source, parse_inputs([spec]))
with Workspace(".") as workspace:
    artifact, _ = export(original, references(original, None, 0)[0], workspace, cache=Cache(Path(cache)))
print(FROM_CACHE in artifact.origin.notes)
"""
    line = [sys.executable, "-c", script, "net.py:model", SPEC, str(own_cache)]
    root = str(Path(__file__).parents[1])
    notes = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": seed}
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        notes.append(done.stdout.strip())
    assert notes == ["False", "True"]
