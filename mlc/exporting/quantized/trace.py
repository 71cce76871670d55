"""Tracing a module that quantizes: each of its codes becomes a node that is written out afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mlc.errors import SourceError
from mlc.sources.quantized.nouns import KEEPING, Call, Coded, Grid, Mode, Number, Stored, Weight, tensors_in

DOMAIN = "mlc"
"""Of the nodes that stand for codes until they are written out: Quantize, Dequantize and Stored."""


class Taking(Mode):
    """Traces with floats in the place of codes; ``notes`` are what a run of the module noted at the same calls."""

    def __init__(self, stored: Stored, notes: Sequence[Coded]) -> None:
        super().__init__(stored)
        self.notes = notes
        self.coded: dict[int, torch.Tensor] = {}

    def on_grid(self, call: Call) -> bool:  # noqa: D102
        return any(id(part) in self.coded for part in tensors_in(call.args))

    def generic(self, call: Call) -> Any:  # noqa: D102
        if call.name == "dequantize":
            return call.args[0].detach()
        result = call.real()
        if call.name in KEEPING:
            for part in tensors_in([result]):
                if part.is_floating_point():
                    self._keep(part)
            return result
        noted = self.site < len(self.notes) and self.notes[self.site].name == call.name
        return self._pair(result, call.name, 1.0, 0, keep=True) if noted else result

    def fake(self, value: Callable[[], torch.Tensor], scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: ARG002, D102
        keep = call.name.startswith(("quantize_", "quantized::"))
        return self._pair(value(), call.name, scale, zero, keep=keep)

    def encode(self, value: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: ARG002, D102
        site, noted = self._next(call.name)
        return self._node("Quantize", [value, scale, zero], site, noted.grid.dtype, value.shape)

    def decode(self, codes: torch.Tensor, scale: Number, zero: Number, grid: Grid, call: Call) -> Any:  # noqa: ARG002, D102
        site, _ = self._next(call.name)
        return self._node("Dequantize", [codes, scale, zero], site, torch.float32, codes.shape)

    def weight(self, weight: Callable[[], Weight]) -> Any:  # noqa: ARG002, D102
        site, noted = self._next("weight")
        return self._node("Stored", [], site, torch.float32, noted.codes.shape)

    def either(self, real: Callable[[], Any], form: Callable[[], Any]) -> Any:  # noqa: ARG002, D102
        return form()

    def _pair(self, value: torch.Tensor, name: str, scale: Number, zero: Number, *, keep: bool) -> torch.Tensor:
        """Quantize and dequantize again; ``keep`` says that the float stands for codes."""
        site, noted = self._next(name)
        codes = self._node("Quantize", [value, scale, zero], site, noted.grid.dtype, value.shape)
        result: torch.Tensor = self._node("Dequantize", [codes, scale, zero], site, torch.float32, value.shape)
        if keep:
            self._keep(result)
        return result

    def _keep(self, tensor: torch.Tensor) -> None:
        self.coded[id(tensor)] = tensor

    def _next(self, name: str) -> tuple[int, Coded]:
        site = self.site
        if site >= len(self.notes) or _plain(self.notes[site].name) != _plain(name):
            raise SourceError(
                f"the module quantized in another order when it was traced: {name} came unexpectedly",
                "let forward call the same layers in the same order for every input",
            )
        self.site += 1
        return site, self.notes[site]

    def _node(self, kind: str, inputs: Sequence[Any], site: int, dtype: torch.dtype, shape: Sequence[Any]) -> Any:
        tensors = [part if isinstance(part, torch.Tensor) else torch.tensor(part) for part in inputs]
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{kind}", tensors, {"site": site}, dtype=dtype, shape=shape, version=1
        )


def _plain(name: str) -> str:
    """Fake quantization is noted and traced by different functions of the same meaning."""
    return "fake_quantize" if name.startswith("fake_quantize") else name
