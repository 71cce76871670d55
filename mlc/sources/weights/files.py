"""Weights from files into a torch module: every key fits, or a sentence says which do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from mlc.errors import SourceError
from mlc.sources.weights.shards import index_in
from mlc.sources.weights.state import State, read_state
from mlc.sources.weights.tensors import dtype_name, listed

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""


def load_weights(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Load a weights file or folder into a module, strictly; returns notes on what had to be adapted."""
    path = index_in(path) if path.is_dir() else path
    state, notes = read_state(path)
    return (*notes, *load_state(module, state, path))


def load_state(module: nn.Module, state: State, path: Path) -> tuple[str, ...]:
    """Load tensors that were read from a file into a module, strictly; returns notes on what had to be adapted."""
    wanted = module.state_dict()
    state, notes = _strip(dict(state), wanted)
    _complete_tied(state, wanted, path)
    _check_keys(state, wanted, path)
    for key, tensor in state.items():
        if tensor.dtype != wanted[key].dtype:
            names = dtype_name(tensor.dtype), dtype_name(wanted[key].dtype)
            notes += (f"the weights are {names[0]} in {path.name}, loaded as {names[1]}",)
            break
    module.load_state_dict(state, strict=True)
    return notes


def _strip(state: State, wanted: Mapping[str, torch.Tensor]) -> tuple[State, tuple[str, ...]]:
    """Take off prefixes that every key of the file has and not every key of the module."""
    stripped: list[str] = []
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in wanted):
                state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
                stripped.append(prefix)
                again = True
    if not stripped:
        return state, ()
    return state, (f"the prefix {''.join(stripped)!r} of the weights' keys was stripped",)


def _complete_tied(state: State, wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give a missing key the tensor of a present key whose memory it shares; refuse tied keys that differ."""
    groups: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for key, tensor in wanted.items():
        if tensor.numel() and tensor.device.type != "meta":
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(key)
    for keys in groups.values():
        present = [key for key in keys if key in state]
        for key in present[1:]:
            if not torch.equal(state[key], state[present[0]]):
                raise SourceError(
                    f"{path.name} has different values for {present[0]} and {key}, which the module ties together",
                    "untie them in the module, or write the weights again",
                )
        if present:
            state.update(dict.fromkeys(keys, state[present[0]]))


def _check_keys(state: State, wanted: Mapping[str, torch.Tensor], path: Path) -> None:
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    wrong = [
        f"{key} (is {list(state[key].shape)}, should be {list(wanted[key].shape)})"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong))
    facts = [f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds if keys]
    if facts:
        raise SourceError(
            f"{path.name} does not fit the module; " + "; ".join(facts), "give the weights of this very module"
        )
