"""Weights of a torch module: loaded from safetensors, checked, and named by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mlc.errors import SourceError
from mlc.sources.finite import not_finite

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

SHOWN = 4
"""How many keys a message names before it counts the rest."""

State = dict[str, torch.Tensor]


def load_weights(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Load a safetensors file into a module, strictly; returns notes on what had to be adapted."""
    state = _read(path)
    wanted = module.state_dict()
    state, notes = _strip(state, wanted)
    _complete_tied(state, wanted, path)
    _check_keys(state, wanted, path)
    for key, tensor in state.items():
        if tensor.dtype != wanted[key].dtype:
            notes += (f"the weights are {_name(tensor.dtype)} in {path.name}, loaded as {_name(wanted[key].dtype)}",)
            break
    module.load_state_dict(state, strict=True)
    return notes


def _read(path: Path) -> State:
    if not path.is_file():
        raise SourceError(f"there is no weights file {path}", "check the path after the @")
    if path.stat().st_size == 0:
        raise SourceError(f"the weights file {path} is empty", "write it again, with safetensors.torch.save_file")
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError) as bad:
        reason = str(bad).splitlines()[0][:200]
        raise SourceError(f"{path} is not a readable safetensors file: {reason}", "write it again") from bad
    if not state:
        raise SourceError(f"{path} holds no tensors", "write it again, with safetensors.torch.save_file")
    return state


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


def listed(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_weights(module: nn.Module) -> None:
    """Raise SourceError for weights that cannot be used: without data, not finite, or of a type the CPU cannot run."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    everything = {**parameters, **buffers}
    meta = [name for name, tensor in everything.items() if tensor.device.type == "meta"]
    if meta:
        raise SourceError(f"weights without data, on the meta device: {listed(meta)}", "load the weights first")
    for dtype in (torch.bfloat16, torch.float16):
        half = [name for name, tensor in everything.items() if tensor.dtype == dtype]
        if half:
            raise SourceError(
                f"the module's weights are {_name(dtype)}, for which the CPU provider has no kernels: {listed(half)}",
                "return module.float()",
            )
    for name, tensor in everything.items():
        if not tensor.is_floating_point() or tensor.is_quantized:
            continue
        fault = not_finite(tensor.detach().cpu().numpy(), may_mask=name in buffers)
        if fault:
            kind = "buffer" if name in buffers else "weight"
            raise SourceError(f"the {kind} {name} holds {fault}", "train or convert the weights again")


def digest(module: nn.Module, code: Path | None) -> str:
    """Return the sha256 over parameters and buffers (name, dtype, shape, bytes) and the bytes of the source file."""
    hashed = hashlib.sha256()
    for name, tensor in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel() and not flat.is_quantized:
            hashed.update(flat.view(torch.uint8).numpy().data)
    hashed.update("\n".join(type(part).__qualname__ for part in module.modules()).encode())
    if code is not None:
        hashed.update(code.read_bytes())
    return hashed.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
