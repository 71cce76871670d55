"""Weights of a torch module: checked, and named by a digest."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mlc.errors import SourceError
from mlc.sources.quantized.modules import plain_tensors
from mlc.sources.weights.finite import not_finite

SHOWN = 4
"""How many keys a message names before it counts the rest."""

CHUNK = 1 << 24


def listed(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_weights(module: nn.Module) -> None:
    """Raise SourceError for weights that cannot be used: without data, not finite, or of a type the CPU cannot run."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    everything = {**parameters, **buffers}
    lazy = [name for name, tensor in everything.items() if is_lazy(tensor)]
    if lazy:
        raise SourceError(
            f"the weights {listed(lazy)} have no shape yet, since they are of lazy layers",
            "call the module once on an example before it is given",
        )
    inference = [name for name, tensor in everything.items() if tensor.is_inference()]
    if inference:
        raise SourceError(
            f"the weights {listed(inference)} were made under torch.inference_mode, which torch.export cannot take",
            "make or load the module outside of it; torch.no_grad() will do",
        )
    meta = [name for name, tensor in everything.items() if tensor.device.type == "meta"]
    if meta:
        raise SourceError(f"weights without data, on the meta device: {listed(meta)}", "load the weights first")
    sparse = [name for name, tensor in plain_tensors(module) if tensor.layout is not torch.strided]
    if sparse:
        raise SourceError(
            f"weights that are sparse, for which ONNX has no operators: {listed(sparse)}",
            "make them dense: tensor.to_dense()",
        )
    for dtype in (torch.bfloat16, torch.float16):
        half = [name for name, tensor in everything.items() if tensor.dtype == dtype]
        if half:
            raise SourceError(
                f"the weights are {dtype_name(dtype)}, for which the CPU provider has no kernels: {listed(half)}",
                "make them float32: module.float()",
            )
    for name, tensor in plain_tensors(module):
        if not tensor.is_floating_point():
            continue
        fault = not_finite(tensor.detach().cpu().numpy(), may_mask=name in buffers)
        if fault:
            kind = "buffer" if name in buffers else "weight"
            raise SourceError(f"the {kind} {name} holds {fault}", "train or convert the weights again")


def digest(module: nn.Module, code: Path | None) -> str:
    """Return the sha256 over parameters and buffers (name, dtype, shape, bytes) and the bytes of the source file."""
    hashed = hashlib.sha256()
    hash_tensors(hashed, plain_tensors(module))
    hashed.update("\n".join(type(part).__qualname__ for part in module.modules()).encode())
    if code is not None:
        with code.open("rb") as file:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
    return hashed.hexdigest()


def hash_tensors(hashed: hashlib._Hash, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Take tensors into a digest: name, dtype, shape and bytes of each, in the order of their names."""
    for name, tensor in sorted(dict(tensors).items()):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hashed.update(_bytes(tensor))


def checksums(module: nn.Module) -> dict[str, int]:
    """Return the CRC-32 of every parameter by name, to see whether a call changed one."""
    buffers = dict(module.named_buffers())
    tensors = ((name, tensor) for name, tensor in plain_tensors(module) if name not in buffers)
    return {name: zlib.crc32(_bytes(tensor)) for name, tensor in tensors}


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def dtype_name(dtype: torch.dtype) -> str:
    """Return NumPy's name of a dtype, or torch's own where NumPy has none."""
    return str(dtype).removeprefix("torch.")
