"""Weights behind an @: state dicts of torch.save and sharded safetensors, whole and right, or one sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mlc.errors import SourceError
from mlc.sources.load import load
from tests import models_for_export as models
from tests.pickles import Planted

NET = f"{models.__file__}:net_with_example"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def state():
    torch.manual_seed(1)
    return models.Net().state_dict()


def weights_of(path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The state of the module that was loaded with these weights, and the notes."""
    original = load(f"{NET}@{path}")
    return original.module.state_dict(), original.notes  # type: ignore[attr-defined]


def refused(path) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        load(f"{NET}@{path}")
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# state dicts


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.ckpt"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_state_dict(tmp_path, state, name, archive):
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=archive)
    loaded, _ = weights_of(tmp_path / name)
    assert same(loaded, state)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_the_only_state_dict_of_a_checkpoint_is_taken_and_said(tmp_path, state, key):
    torch.save({"epoch": 3, key: state, "optimizer": {"step": 7, "groups": [1, 2]}}, tmp_path / "net.pt")
    loaded, notes = weights_of(tmp_path / "net.pt")
    assert same(loaded, state)
    assert f"the weights are those under {key!r} in net.pt" in notes


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda state: {"model": state, "state_dict": state}, "holds 2 state dicts: state_dict, model"),
        (lambda state: {"epoch": 1, "best": state}, "is not a state dict: it has epoch, best"),
        (lambda state: {"model": {}, "epoch": 1}, "is not a state dict: it has model, epoch"),
        (lambda state: torch.ones(2), "holds a Tensor, not a state dict"),
        (lambda state: list(state.values()), "holds a list, not a state dict"),
        (lambda state: {}, "holds no tensors"),
    ],
)
def test_what_is_no_state_dict(tmp_path, state, made, message):
    torch.save(made(state), tmp_path / "net.pt")
    assert message in refused(tmp_path / "net.pt")[0]


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_needs_more_than_tensors_is_not_unpickled(tmp_path, state, archive):
    marker = tmp_path / "marker"
    torch.save({"model": state, "extra": Planted(marker)}, tmp_path / "net.pt", _use_new_zipfile_serialization=archive)
    message, hint = refused(tmp_path / "net.pt")
    assert "net.pt holds more than tensors: to read it, tests.pickles.plant would be imported" in message
    assert "torch.save(model.state_dict()" in hint
    assert not marker.exists()
    torch.load(tmp_path / "net.pt", weights_only=False)
    assert marker.exists()


def test_a_pickled_module_is_named_by_its_class(tmp_path):
    torch.save(models.Net(), tmp_path / "net.pt")
    assert "to read it, tests.models_for_export.Net would be imported" in refused(tmp_path / "net.pt")[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_models_in_the_place_of_weights(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "net.pt")
    assert "is a TorchScript archive, not weights" in refused(tmp_path / "net.pt")[0]
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "net.pt2")
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    assert "is a program of torch.export, not weights" in refused(tmp_path / "net.pt")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no weights file"),
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"no pickle at all", "is no file that torch wrote"),
        (pickle.dumps({"a": 1}), "is a pickle, but none of torch's"),
        (b"PK\x03\x04 and no more", "is damaged or cut off"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "net.pt"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(path)[0]


@pytest.mark.parametrize("archive", [True, False])
def test_every_cut_of_a_state_dict_is_refused(tmp_path, state, archive):
    path = tmp_path / "net.pt"
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    data = path.read_bytes()
    for length in range(1, len(data), 211):
        path.write_bytes(data[:length])
        refused(path)


# shards


def sharded(folder: Path, state, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    """Write a state in two shards with an index; returns the path of the index and the map in it."""
    folder.mkdir(exist_ok=True)
    keys = sorted(state)
    parts = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
    for name, part in parts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        save_file({key: state[key] for key in part}, folder / name)
    places = {key: name for name, part in parts.items() for key in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / INDEX, places


def test_shards_are_put_together(tmp_path, state):
    index, _ = sharded(tmp_path / "net", state)
    assert same(weights_of(index)[0], state)
    assert same(weights_of(tmp_path / "net")[0], state)


def test_shards_may_lie_in_a_folder_below(tmp_path, state):
    index, _ = sharded(tmp_path, state, ("parts/a.safetensors", "parts/b.safetensors"))
    assert same(weights_of(index)[0], state)


def test_a_folder_with_one_file(tmp_path, state):
    save_file(state, tmp_path / "model.safetensors")
    assert same(weights_of(tmp_path)[0], state)
    (tmp_path / INDEX).write_text("{}")
    message, hint = refused(tmp_path)
    assert f"holds model.safetensors and {INDEX}" in message
    assert "name one of them" in hint


def test_a_folder_without_weights(tmp_path):
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refused(tmp_path)[0]


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "a/../../w.safetensors", "/etc/w.safetensors", "..\\w.safetensors", "C:w.safetensors"]
)
def test_an_index_names_no_file_outside_its_folder(tmp_path, state, name):
    save_file(state, tmp_path / "w.safetensors")
    index, _ = sharded(tmp_path / "net", state)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    message, _ = refused(index)
    assert f"names {name!r}, which lies outside its folder" in message


def test_an_index_names_no_link_out_of_its_folder(tmp_path, state):
    index, places = sharded(tmp_path / "net", state)
    shard = index.parent / next(iter(places.values()))
    shard.rename(tmp_path / "moved.safetensors")
    shard.symlink_to(tmp_path / "moved.safetensors")
    assert "which lies outside its folder" in refused(index)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "has no weight_map"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "which is no .safetensors file"),
    ],
)
def test_what_is_no_index(tmp_path, text, message):
    (tmp_path / INDEX).write_text(text)
    assert message in refused(tmp_path / INDEX)[0]


def test_shards_and_keys_that_do_not_fit_the_index(tmp_path, state):
    index, places = sharded(tmp_path / "net", state)
    shard = index.parent / places["head.bias"]
    content = {key: tensor for key, tensor in state.items() if places[key] == shard.name}
    save_file({**content, "other": torch.ones(1)}, shard)
    (index.parent / "model-00003-of-00003.safetensors").write_bytes(b"")
    message, _ = refused(index)
    assert f"2 that it does not name: model-00003-of-00003.safetensors, other in {shard.name}" in message
    del content["head.bias"]
    save_file(content, shard)
    assert f"1 missing: head.bias in {shard.name}" in refused(index)[0]
    shard.write_bytes(b"no safetensors")
    assert "is not a readable safetensors file" in refused(index)[0]
    shard.unlink()
    assert f"1 missing: {shard.name}" in refused(index)[0]
