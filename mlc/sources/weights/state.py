"""The tensors of a weights file by key: safetensors, whole or in shards, or a state dict of torch.save."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mlc.errors import SourceError, first_line, foreign
from mlc.sources.contents import Kind, look, printable
from mlc.sources.weights.shards import INDEX, shards

State: TypeAlias = dict[str, torch.Tensor]

INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep a state dict."""

REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")
"""How torch names what it would have had to import."""

TENSORS_ALONE = "save its tensors alone: torch.save(model.state_dict(), 'weights.pt')"

KEYS_SHOWN = 8


def read_state(path: Path) -> tuple[State, tuple[str, ...]]:
    """Return the tensors of a file by key, and notes on where they were found. No code of a file is run.

    Raises SourceError for what is missing, damaged or no state dict.
    """
    if not path.is_file():
        raise SourceError(f"there is no weights file {path}", "check the path after the @")
    if path.stat().st_size == 0:
        raise SourceError(f"the weights file {path} is empty", "write it again")
    if path.name.endswith(INDEX):
        return {key: tensor for shard in shards(path) for key, tensor in _safetensors(shard).items()}, ()
    state, notes = (_safetensors(path), ()) if path.suffix == ".safetensors" else _pickled(path)
    if not state:
        raise SourceError(f"{path} holds no tensors", "write it again, with safetensors.torch.save_file")
    return state, notes


def _safetensors(path: Path) -> State:
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError) as bad:
        raise SourceError(f"{path} is not a readable safetensors file: {first_line(bad)}", "write it again") from bad
    return state


def _pickled(path: Path) -> tuple[State, tuple[str, ...]]:
    contents = look(path)
    if contents.kind in {Kind.PROGRAM, Kind.COMPILED, Kind.TORCHSCRIPT}:
        raise SourceError(f"{path} is {contents}, not weights", TENSORS_ALONE)
    try:
        with foreign("torch.load"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=contents.archive)
    except SourceError as refused:
        raise _refusal(path, refused.__cause__ or refused) from refused.__cause__
    return state_of(found, path)


def _refusal(path: Path, refused: BaseException) -> SourceError:
    """Return why torch would not load a file without running code, or could not."""
    name = REFUSED.search(str(refused))
    if name:
        wanted = printable(name[1])
        return SourceError(
            f"{path} holds more than tensors: to read it, {wanted} would be imported, which can run any code",
            TENSORS_ALONE,
        )
    _, _, reason = str(refused).rpartition("WeightsUnpickler error: ")
    return SourceError(f"{path} cannot be read as weights: {first_line(ValueError(reason))}", TENSORS_ALONE)


def state_of(found: Any, path: Path) -> tuple[State, tuple[str, ...]]:
    """Return the state dict that was found, or the only one that a checkpoint holds."""
    if not isinstance(found, Mapping):
        raise SourceError(f"{path} holds a {type(found).__name__}, not a state dict", TENSORS_ALONE)
    if _are_tensors(found):
        return dict(found), ()
    inside = [key for key in INSIDE if isinstance(found.get(key), Mapping) and found[key] and _are_tensors(found[key])]
    if len(inside) == 1:
        return dict(found[inside[0]]), (f"the weights are those under {inside[0]!r} in {path.name}",)
    if inside:
        raise SourceError(f"{path} holds {len(inside)} state dicts: {', '.join(inside)}", "save the one that is meant")
    keys = ", ".join(printable(str(key)) for key in list(found)[:KEYS_SHOWN])
    raise SourceError(f"{path} is not a state dict: it has {keys}", TENSORS_ALONE)


def _are_tensors(found: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items())
