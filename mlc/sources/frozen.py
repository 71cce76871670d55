"""Run a module in evaluation mode and leave it as it was found."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(module: nn.Module, changed: set[str] | None = None) -> Iterator[None]:
    """Set evaluation mode inside the block; afterwards modes, buffers and attributes of every submodule are as before.

    Names of buffers, tensors and numbers that the block changed are added to ``changed``: state that an export loses.
    """
    noted = set() if changed is None else changed
    attributes = [(name, part, dict(vars(part))) for name, part in module.named_modules()]
    buffers = [
        (_path(name, key), part, key, buffer, buffer.detach().clone())
        for name, part in module.named_modules()
        for key, buffer in part.named_buffers(recurse=False)
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for path, part, key, buffer, kept in buffers:
            if getattr(part, key, None) is not buffer:
                noted.add(path)
                setattr(part, key, buffer)
            if not torch.equal(buffer, kept):
                noted.add(path)
                with torch.no_grad():
                    buffer.copy_(kept)
        for name, part, before in attributes:
            _restore(name, part, before, noted)


def _restore(name: str, part: nn.Module, before: dict[str, object], noted: set[str]) -> None:
    now = vars(part)
    for key in [key for key in now if key not in before]:
        del now[key]
    for key, value in before.items():
        if key in now and now[key] is value:
            continue
        state = isinstance(value, numbers.Number | torch.Tensor) and key != "training"
        if state and not (isinstance(value, numbers.Number) and now.get(key) == value):
            noted.add(_path(name, key))
        now[key] = value


def _path(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key
