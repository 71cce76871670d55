"""Weights that the user's function loads with strict=False: what it leaves as it was drawn is said, or refused."""

from itertools import cycle

import pytest
import torch
from torch import nn

from mlc.errors import SourceError
from mlc.sources.load import load
from mlc.sources.weights.partial import heard

MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, 3)
        self.tied = self.head

    def forward(self, x):
        return self.head(self.body(x))


def given():
    return torch.load("weights.pt", weights_only=True)


def model():
    net = Net()
    {load}
    return net, torch.ones(2, 6)
"""
KEYS = ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "body.1.running_mean", "body.1.running_var")
HEAD = ("head.weight", "head.bias")


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Write a function that loads weights of renamed keys, and load what it returns."""
    monkeypatch.chdir(tmp_path)

    def run(code, rename=lambda key: key, source="user.py:model"):
        body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
        state = {f"body.{key}": tensor for key, tensor in body.state_dict().items()}
        state |= {f"head.{key}": tensor for key, tensor in nn.Linear(5, 3).state_dict().items()}
        torch.save({rename(key): tensor for key, tensor in state.items() if rename(key)}, "weights.pt")
        (tmp_path / "user.py").write_text(MODULE.format(load=code))
        return load(source)

    return run


PREFIXES = {
    "DataParallel": lambda key: f"module.{key}",
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "both": lambda key: f"module._orig_mod.{key}",
    "Lightning": lambda key: f"model.{key}",
    "another network": lambda key: key.replace("body", "trunk").replace("head", "top"),
}
WAYS = {
    "by keyword": "net.load_state_dict(given(), strict=False)",
    "by position": "net.load_state_dict(given(), False)",
    "into a wrapper": "nn.DataParallel(net).module.load_state_dict(given(), strict=False)",
    "assigned": "net.load_state_dict(given(), strict=False, assign=True)",
}


@pytest.mark.parametrize(("prefix", "way"), zip(PREFIXES, cycle(WAYS), strict=False))
def test_a_load_that_finds_no_key_is_refused(prefix, way, loaded):
    with pytest.raises(SourceError) as caught:
        loaded(WAYS[way], PREFIXES[prefix])
    first = PREFIXES[prefix]("body.0.weight")
    assert "weights of Net as drawn, since no key did fit: " in caught.value.message
    assert f"they are {first}, " in caught.value.message
    assert "the module has body.0.weight, body.0.bias, " in caught.value.message
    assert "file.py:function@weights" in caught.value.hint


def test_mlc_loads_them_itself_as_the_hint_says(loaded):
    original = loaded("pass", PREFIXES["both"], "user.py:model@weights.pt")
    assert "the prefix 'module._orig_mod.' of the weights' keys was stripped" in original.notes
    assert not any("as drawn" in note for note in original.notes)


LEFT = {
    "the head": (WAYS["by keyword"], lambda key: "" if "head" in key else key, "head.weight, head.bias"),
    "what has another name": (WAYS["assigned"], lambda key: key.replace("0.bias", "0.offset"), "body.0.bias"),
    "a part": ("net.body.load_state_dict({'0.bias': torch.ones(5)}, strict=False)", lambda key: key, "body.0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT)
def test_what_a_load_leaves_is_noted(what, loaded):
    code, rename, names = LEFT[what]
    (note,) = [note for note in loaded(code, rename).notes if "as drawn" in note]
    assert note.startswith("load_state_dict with strict=False left ")
    assert f"as drawn: {names}" in note


WHOLE = {
    "everything is there": "net.load_state_dict(given(), strict=False)",
    "strictly": """net.load_state_dict({
        key.replace("head", name): part for name in ("head", "tied") for key, part in given().items()})""",
    "in two pieces": """for name in ("body", "head"):
        net.load_state_dict({key: part for key, part in given().items() if name in key}, strict=False)""",
    "a part of its own afterwards": """bodies = {key: part for key, part in given().items() if "body" in key}
    net.load_state_dict(bodies, False)
    net.head.load_state_dict({key[5:]: part for key, part in given().items() if "head" in key})""",
    "of another module": "Net().load_state_dict({'module.x': torch.ones(1)}, strict=False)",
    "nothing": "pass",
    "into one that says otherwise what its state is": """net.body.state_dict = lambda: {}
    net.body.load_state_dict({key[5:]: part for key, part in given().items() if "body" in key})""",
}


@pytest.mark.parametrize("what", WHOLE)
def test_nothing_is_said_where_nothing_is_left(what, loaded):
    assert not any("as drawn" in note for note in loaded(WHOLE[what]).notes)


def test_a_load_while_the_file_is_imported_is_heard(loaded):
    code = """return made, torch.ones(2, 6)

made = Net()
made.load_state_dict(given(), strict=False)

def other():
    net = None"""
    with pytest.raises(SourceError, match="no key did fit"):
        loaded(code, PREFIXES["DataParallel"])


def test_a_load_of_nothing_is_noted(loaded):
    (note,) = [note for note in loaded("net.load_state_dict({}, strict=False)").notes if "as drawn" in note]
    assert "left 10 weights of Net as drawn: body.0.weight, " in note


def test_what_a_library_replaced_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(nn.Module, "load_state_dict", nn.Module.load_state_dict)
    with heard():
        ours = nn.Module.load_state_dict

        def theirs(*given):
            return ours(*given)

        nn.Module.load_state_dict = theirs  # type: ignore[method-assign]
    assert nn.Module.load_state_dict is theirs


def test_torch_is_left_as_it_was(loaded):
    plain = nn.Module.load_state_dict
    loaded(WAYS["by keyword"])
    with pytest.raises(SourceError):
        loaded("raise ValueError")
    assert nn.Module.load_state_dict is plain
