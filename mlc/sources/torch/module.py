"""A torch module as an Original: run by input names, its outputs flattened to names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from mlc.errors import SourceError, foreign, kind_of
from mlc.probes import check_example, probe
from mlc.sources.binding import bind, example_array
from mlc.sources.original import Original
from mlc.sources.outputs import output_specs
from mlc.sources.quantized.modules import check_quantized, stored_in
from mlc.sources.quantized.nouns import Coded, Noting
from mlc.sources.specs import match_specs
from mlc.sources.structure import output_leaves
from mlc.sources.torch.frozen import check_graph_mode, frozen, in_training
from mlc.sources.weights.tensors import check_weights, checksums, digest, listed
from mlc.types import InputSpec, Signature

if TYPE_CHECKING:
    from mlc.types import Arrays

DTYPES = {
    torch.float32: "float32", torch.float64: "float64", torch.bool: "bool", torch.uint8: "uint8",
    torch.int8: "int8", torch.int16: "int16", torch.int32: "int32", torch.int64: "int64",
}  # fmt: skip
"""NumPy's names of the dtypes that inputs and outputs may have."""

HINT = "call the module on its example by itself; --debug shows the whole traceback"


class TorchOriginal(Original):
    """The user's module; ``run`` computes in evaluation mode, without gradients, and leaves it as it was found."""

    exporter: ClassVar[str] = "torch"
    eager: ClassVar[str] = "torch eager"

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[InputSpec] = (),
        example: Any = None,
        *,
        source: str = "",
        code: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.module, unwrapped = _unwrap(module)
        self._check_parts()
        quantized = check_quantized(self.module)
        check_weights(self.module)
        self.digest = self._digest(code)
        self.source = source or f"python:{self.digest}"
        self.binding, tensors = bind(self.module, example, {spec.name for spec in inputs})
        shown = {name: example_array(name, tensor) for name, tensor in _plain(tensors).items()}
        specs = match_specs(self.binding.names, inputs, shown)
        _check_dtypes(specs)
        drawn = probe(specs, check_example(specs, shown), shown, None, 0)
        self.example = {spec.name: shown.get(spec.name, drawn[spec.name]) for spec in specs}
        self.shown = shown
        self.state: set[str] = set()
        self.constants: set[str] = set()
        self.written: set[str] = set()
        self._outputs: tuple[str, ...] = ()
        self.signature = Signature(specs, ())
        weights = checksums(self.module)
        try:
            self.signature = Signature(specs, output_specs(self))
        finally:
            self._check_unchanged(weights)
        self.notes = (*notes, *unwrapped, *_mode(self.module), *quantized, *self.binding.notes, *self._frozen_notes())

    def held(self) -> tuple[object, ...] | None:
        """Return what decides how it computes beside weights and files; None where that is what its parts hold."""
        return None

    def _digest(self, code: Path | None) -> str:
        """Return the sha256 over what the module computes: its weights, and the file that it is written in."""
        return digest(self.module, code)

    def _check_parts(self) -> None:
        """Raise SourceError for parts that cannot be traced as they are."""
        for path, part in self.module.named_modules():
            if isinstance(part, torch.fx.GraphModule):
                check_graph_mode(part.graph)
            if isinstance(part, torch.jit.ScriptModule) and self.exporter == TorchOriginal.exporter:
                raise SourceError(
                    f"{path} is TorchScript inside of a Python module, which torch.export cannot look into",
                    "give the Python module behind it, or the whole as TorchScript: torch.jit.script(module)",
                )

    def _check_unchanged(self, before: Mapping[str, int]) -> None:
        """Raise SourceError where a call changed weights, which no copy was made of to put them back."""
        now = checksums(self.module)
        changed = [name for name in before if now.get(name) != before[name]]
        if changed:
            raise SourceError(
                f"a call of {type(self.module).__name__} changes its weights {listed(changed)}",
                "compute with a changed copy, such as weight.clamp(-1, 1), and not weight.data.clamp_(-1, 1)",
            )

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the module once: arrays by input name to arrays by output name, in the signature's order."""
        what = f"the module {type(self.module).__name__}"
        with (
            torch.inference_mode(mode=False),
            foreign(what, SourceError, HINT),
            redirect_stdout(sys.stderr),
            frozen(self.module, self.state),
            torch.no_grad(),
        ):
            device = device_of(self.module)
            tensors = {name: torch.from_numpy(np.array(array)).to(device) for name, array in inputs.items()}
            fresh = {name: tensor._version for name, tensor in tensors.items()}  # noqa: SLF001 - counts edits in place
            outputs = {
                name: np.array(tensor.detach().cpu().resolve_neg().numpy()) for name, tensor in self.call(tensors)
            }
        self.written |= {name for name, tensor in tensors.items() if tensor._version != fresh[name]}  # noqa: SLF001
        return outputs

    def noted(self, inputs: Arrays) -> tuple[dict[str, np.ndarray], tuple[Coded, ...]]:
        """Run the module once; returns its outputs, and every code that it computed or holds, in order."""
        noting = Noting(stored_in(self.module))
        with noting:
            outputs = self.run(inputs)
        return outputs, tuple(noting.notes)

    def call(self, tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """Call the module with tensors by input name; returns its flattened outputs, named. Sets no mode."""
        return self._flat(self.binding.call(self.module, tensors))

    def _flat(self, returned: Any) -> list[tuple[str, torch.Tensor]]:
        kind = type(self.module).__name__
        flat: list[tuple[str, torch.Tensor]] = []
        for path, leaf in output_leaves(returned):
            if not isinstance(leaf, torch.Tensor):
                self.constants.add(f"{path} ({type(leaf).__name__})")
                continue
            name = f"output.{path}" if path in self.binding.names else path
            if leaf.dtype not in DTYPES or leaf.layout is not torch.strided:
                raise SourceError(
                    f"the output {name} of {kind} is {_dtype(leaf)}, which has no counterpart in the exported model",
                    f"return one of {', '.join(sorted(DTYPES.values()))}",
                )
            flat.append((name, leaf))
        self._check_names(returned, [name for name, _ in flat])
        return flat

    def _check_names(self, returned: Any, names: Sequence[str]) -> None:
        kind = type(self.module).__name__
        if not names:
            what = "an empty container" if isinstance(returned, list | tuple | dict) else kind_of(returned)
            what = "None" if returned is None else what
            raise SourceError(f"{kind} returned {what}, no tensor", "return a tensor, or a tuple or dict of tensors")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"two outputs of {kind} are called {twice[0]}", "give them other keys")
        if self._outputs and tuple(names) != self._outputs:
            raise SourceError(
                f"{kind} returned {listed(names)}, but {listed(self._outputs)} before",
                "which outputs there are must not depend on the inputs",
            )
        self._outputs = tuple(names)

    def _frozen_notes(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if self.state:
            state = listed(sorted(self.state))
            notes += (f"forward changes {state}: frozen as it is; to keep it, take it as input and return it",)
        if self.written:
            written = listed(sorted(self.written))
            notes += (f"forward writes into its input {written}: the exported model leaves what it is given alone",)
        if self.constants:
            notes += (f"outputs that are no tensors are left out: {listed(sorted(self.constants))}",)
        renamed = [name for name in self._outputs if name.removeprefix("output.") in self.binding.names]
        if renamed:
            notes += (f"an output of an input's name is called {listed(renamed)}",)
        return notes


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes: the device of its first parameter or buffer."""
    first = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if first is None else first.device


def _unwrap(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module inside torch.compile and DataParallel, and a note."""
    inner = module
    while True:
        compiled = getattr(inner, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            inner = compiled
        elif isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        else:
            break
    if isinstance(inner, torch.jit.ScriptModule):
        raise SourceError(
            "the model is TorchScript, which torch.export cannot read", "give the Python module behind it"
        )
    note = f"the module inside {type(module).__name__} was taken"
    return inner, () if inner is module else (note,)


def _mode(module: nn.Module) -> tuple[str, ...]:
    return ("the module was in training mode; exported in evaluation mode",) if in_training(module) else ()


def _plain(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
            raise SourceError(
                f"the example of {name} is {_dtype(tensor)}, which the exported model cannot take",
                f"give one of {', '.join(sorted(DTYPES.values()))}",
            )
    return tensors


def _check_dtypes(specs: Sequence[InputSpec]) -> None:
    for spec in specs:
        if spec.dtype not in DTYPES.values():
            raise SourceError(
                f"the input {spec.name} is {spec.dtype}, for which the CPU provider has no kernels",
                f"take one of {', '.join(sorted(DTYPES.values()))}",
            )


def _dtype(tensor: torch.Tensor) -> str:
    sparse = "sparse " if tensor.layout is not torch.strided else ""
    return sparse + str(tensor.dtype).removeprefix("torch.")
