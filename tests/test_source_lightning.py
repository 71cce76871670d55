"""Checkpoints of Lightning: by the class that they were saved from, or by a function that makes the module inside."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mlc.cli import main
from mlc.errors import MlcError, SourceError, UsageError
from mlc.grammar.inputs import parse_inputs
from mlc.sources.load import load
from mlc.sources.silence import silent
from tests.exporting import exported

with silent():
    lightning = pytest.importorskip("lightning", reason="needs the extra lightning")

CODE = """
import pathlib

import lightning
import torch
from torch import nn


def body(hidden, classes=3):
    return nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes))


class Net(lightning.LightningModule):
    def __init__(self, hidden=8, classes=3, extra=None):
        super().__init__()
        self.save_hyperparameters()
        self.model = body(hidden, classes)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(classes))
        self.example_input_array = torch.ones(2, 4)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Planted:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.place),))


class Unsaved(Net):
    def __init__(self, width):
        super().__init__(width)


class Other(Net):
    def __init__(self, hidden=8):
        super().__init__(hidden)
        self.more = nn.Linear(2, 2)


class Lenient(Other):
    @property
    def strict_loading(self):
        return False


class Twins(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.student, self.teacher = body(16), body(16)


def inside():
    return body(16), torch.ones(2, 4)


def smaller():
    return body(8)


def deeper():
    return nn.Sequential(body(16), nn.Linear(3, 3))


def whole():
    return Net(16)


def nothing():
    return "nothing"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the code, and with checkpoints of it that a trainer has saved."""
    place = tmp_path_factory.mktemp("lightning")
    (place / "net.py").write_text(CODE)
    sys.path.insert(0, str(place))
    try:
        with silent():
            import net  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(place))
    save(trained(net.Net(16)), place / "net.ckpt")
    save(net.Net(16, extra=net.Planted(str(place / "planted"))), place / "planted.ckpt")
    (place / "planted").unlink()  # the hyper parameters of a module are copied
    save(net.Twins(), place / "twins.ckpt")
    torch.save(net.Net(16).state_dict(), place / "weights.ckpt")
    (place / "broken.ckpt").write_bytes(b"no checkpoint")
    yield place
    del sys.modules["net"]


def trained(module):
    """Return a module that a trainer has trained a little, and which it is still attached to."""
    torch.manual_seed(0)
    samples = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(0, 3, (8,)))
    with silent():
        trainer = lightning.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(samples, 4))
    return module


def save(module, path: Path) -> None:
    with silent():
        trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        trainer.strategy.connect(module)
        trainer.save_checkpoint(path)


TIED = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))

def make():
    return Tied()
"""

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def answer(original) -> np.ndarray:
    (output,) = original.run({original.signature.inputs[0].name: X}).values()
    return np.asarray(output)


def test_a_class_is_made_from_its_checkpoint(folder, monkeypatch):
    monkeypatch.chdir(folder)
    original = load("net.py:Net@net.ckpt")
    assert original.notes == ("made with the hyper parameters of net.ckpt: hidden=16, classes=3, extra=None",)
    assert original.signature.inputs[0].name == "x"
    np.testing.assert_array_equal(answer(original), answer(load("net.py:inside@net.ckpt")))
    assert answer(load("net.py:Net@net.ckpt", parse_inputs(["x=float32[batch=1..8,4]"]))).shape == (2, 3)


def test_a_function_gets_the_weights_inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load("net.py:inside@net.ckpt").notes[0] == (
        "the weights are those under 'model.' in net.ckpt; 1 other is left out: loss.weight"
    )
    assert load("net.py:whole@net.ckpt").notes[0] == "the weights are those under 'state_dict' in net.ckpt"


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("net.ckpt", "holds weights, and the code of its module", "file.py:Class@net.ckpt"),
        ("net.py:Net@no.ckpt", "there is no file no.ckpt", "check the path"),
        ("net.py:Net@broken.ckpt", "no file that torch wrote", ""),
        ("net.py:Net@weights.ckpt", "has no state_dict", "trainer.save_checkpoint"),
        ("net.py:Nt@net.ckpt", "has no function 'Nt'", "did you mean Net"),
        ("net.py:Unsaved@net.ckpt", "what Unsaved is made of: Unsaved.__init__() missing", "save_hyperparameters"),
        ("net.py:Other@net.ckpt", 'does not fit Other: Missing key(s) in state_dict: "more.weight"', "the class that"),
        ("net.py:smaller@net.ckpt", "7 of the wrong shape: 0.weight (is [16, 4], should be [8, 4])", ""),
        ("net.py:deeper@net.ckpt", "does not fit the module; 11 missing", ""),
        ("net.py:inside@twins.ckpt", "fit the module under 'student.' and 'teacher.'", "the LightningModule itself"),
        ("net.py:nothing@net.ckpt", "returned a str, not a module", "return a torch.nn.Module"),
    ],
)
def test_what_does_not_fit_is_said(folder, monkeypatch, source, message, hint):
    monkeypatch.chdir(folder)
    with pytest.raises(MlcError) as raised:
        load(source)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_weights_that_the_class_may_leave_out_are_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert "strict_loading is off: not in net.ckpt" in load("net.py:Lenient@net.ckpt").notes[-1]


def test_a_checkpoint_that_would_run_code_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for made in ("Net", "inside"):
        with pytest.raises(UsageError, match="would be imported, which can run any code") as raised:
            load(f"net.py:{made}@planted.ckpt")
        assert "--trust" in raised.value.hint
    assert not (folder / "planted").exists()
    assert load("net.py:Net@planted.ckpt", trust=True).signature.outputs
    assert (folder / "planted").exists()


@pytest.mark.parametrize("key", ["hyper_parameters", "module_arguments"])
def test_a_checkpoint_that_names_code_to_call_is_refused(folder, tmp_path, monkeypatch, key):
    """A text alone is read without importing anything; what Lightning then makes of it is not."""
    monkeypatch.chdir(folder)
    checkpoint = torch.load("net.ckpt", weights_only=True)
    checkpoint[key] = {**checkpoint["hyper_parameters"], "_instantiator": "os.system"}
    torch.save(checkpoint, tmp_path / "names.ckpt")
    with pytest.raises(UsageError, match=r"says that os\.system should be imported") as raised:
        load(f"net.py:Net@{tmp_path / 'names.ckpt'}")
    assert "--trust" in raised.value.hint


def test_trust_reaches_the_weights_of_a_function(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    checkpoint = torch.load("net.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] = Path("somewhere")
    torch.save(checkpoint, tmp_path / "path.ckpt")
    assert load(f"net.py:whole@{tmp_path / 'path.ckpt'}", trust=True).notes
    with pytest.raises(UsageError, match="can run any code"):
        load(f"net.py:whole@{tmp_path / 'path.ckpt'}")


def test_tied_weights_that_differ_are_refused_under_a_prefix_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tied.py").write_text(TIED)
    state = {"net.head.weight": torch.ones(5, 4), "net.embed.weight": torch.zeros(5, 4)}
    torch.save({"state_dict": state}, "tied.ckpt")
    with pytest.raises(SourceError, match=r"different values for embed\.weight and head\.weight"):
        load("tied.py:make@tied.ckpt")


def test_a_module_that_a_trainer_holds(folder, workspace, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    from net import Net

    module = trained(Net(8))
    trainer = module.trainer
    found = exported(workspace, module, torch.ones(2, 4), "x=float32[batch=1..8,4]")
    assert found.inputs == ["x"]
    assert found.outputs == ["output"]
    assert module.trainer is trainer


def test_the_command_line_compiles_a_checkpoint(folder, tmp_path, monkeypatch, quick, capsys):
    monkeypatch.chdir(folder)
    given = ["--input", "x=float32[batch=1..8,4]", "-o", str(tmp_path / "out")]
    assert main(["compile", "net.py:Net@net.ckpt", *given]) == 0
    assert "made with the hyper parameters of net.ckpt" in capsys.readouterr().out


def test_without_lightning_a_sentence_names_the_extra(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(SourceError, match="lightning") as raised:
        load("net.py:Net@net.ckpt")
    assert raised.value.hint == "pip install 'mlc-toolchain[lightning]'"
