"""A program of torch.export as an Original: run as it was exported, its own dims are the ranges of its inputs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlc.dims import legal, named, shapes, smallest
from mlc.errors import SourceError
from mlc.probes import probe
from mlc.sources.binding import bind, example_array
from mlc.sources.torch.module import TorchOriginal
from mlc.sources.torch.program_dims import Taken, axes_of, bounds, check_sizes, specs_of
from mlc.sources.weights.tensors import dtype_name, hash_tensors
from mlc.types import InputSpec


class ProgramOriginal(TorchOriginal):
    """A program; ``run`` calls it as it was exported. Nothing can set another mode in it.

    Inputs without a spec have the dims that the program says they have, and its own example inputs, cut or repeated to
    the sizes that are asked for, are the example. Raises UsageError for specs that contradict the program.
    """

    exporter: ClassVar[str] = "program"

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        inputs: Sequence[InputSpec] = (),
        example: Any = None,
        *,
        source: str = "",
        code: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.program = program
        module = callable_module(program)
        self.taken = taken_by(program, module)
        ranges = bounds(program)
        specs = specs_of(self.taken, ranges, inputs)
        check_sizes(self.taken, ranges, specs)
        shown = _shown(program, module, self.taken, specs) if example is None else _completed(program, module, example)
        super().__init__(module, specs, shown, source=source, code=code, notes=notes)

    def held(self) -> tuple[object, ...]:
        """Return nothing: the digest has all that decides how it computes."""
        return ()

    def _digest(self, code: Path | None) -> str:
        return _with_graphs(super()._digest(code), self.program)


def callable_module(program: torch.export.ExportedProgram) -> nn.Module:
    """Return the program as a module whose forward has the parameters, by position or keyword, that were exported."""
    module: nn.Module = program.module()
    for name in ("train", "eval"):  # torch's own refuse: what a mode decides is written into the graph
        vars(module).pop(name, None)
    module.eval()
    call = module.forward
    args, kwargs = _arguments(program, _user_inputs(program))
    names = [*inspect.signature(call).parameters][: len(args)]
    signature = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
    )

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return call(*bound.args, **bound.kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    module.forward = forward
    type(module).__name__ = "ExportedProgram"  # the class is this module's alone
    return module


def _arguments(program: torch.export.ExportedProgram, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with these leaves."""
    spec = program.call_spec.in_spec
    assert spec is not None
    args, kwargs = pytree.tree_unflatten(list(leaves), spec)
    return args, kwargs


def _by_parameter(program: torch.export.ExportedProgram, module: nn.Module, leaves: Sequence[Any]) -> dict[str, Any]:
    args, kwargs = _arguments(program, leaves)
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _user_inputs(program: torch.export.ExportedProgram) -> list[Any]:
    return [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def taken_by(program: torch.export.ExportedProgram, module: nn.Module) -> tuple[Taken, ...]:
    """Return every tensor that a program takes, in the order of its graph. Raises SourceError for what is no tensor."""
    leaves: list[Any] = []
    for arg in _user_inputs(program):
        if not isinstance(arg, ConstantArgument | TensorArgument):
            raise SourceError(f"the program takes {arg.name}, which is no tensor", "export it with that fixed")
        leaves.append(arg.value if isinstance(arg, ConstantArgument) else torch.empty(0))
    _, tensors = bind(module, _by_parameter(program, module, leaves), ())
    names = {id(tensor): name for name, tensor in tensors.items()}
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return tuple(
        Taken(names[id(leaf)], dtype_name(values[arg.name].dtype), axes_of(values[arg.name].shape))
        for leaf, arg in zip(leaves, _user_inputs(program), strict=True)
        if isinstance(arg, TensorArgument)
    )


def _shown(
    program: torch.export.ExportedProgram, module: nn.Module, taken: Sequence[Taken], specs: Sequence[InputSpec]
) -> Any:
    """Return the program's own example inputs by parameter, at legal sizes; without any, what is fixed in it."""
    if program.example_inputs is None:
        return _fixed(program, module) or None
    leaves, _ = pytree.tree_flatten(program.example_inputs)
    places = [index for index, arg in enumerate(_user_inputs(program)) if isinstance(arg, TensorArgument)]
    arrays = {one.name: example_array(one.name, leaves[place]) for one, place in zip(taken, places, strict=True)}
    fitted = _fitted(specs, arrays)
    for one, place in zip(taken, places, strict=True):
        leaves[place] = torch.from_numpy(fitted[one.name])
    return _by_parameter(program, module, leaves)


def _fixed(program: torch.export.ExportedProgram, module: nn.Module) -> dict[str, Any]:
    """Return the arguments that are fixed in the program, by parameter."""
    arguments = _by_parameter(program, module, _user_inputs(program))
    return {name: arg.value for name, arg in arguments.items() if isinstance(arg, ConstantArgument)}


def _completed(program: torch.export.ExportedProgram, module: nn.Module, example: Any) -> Any:
    """Return an example by name with what is fixed in the program, where it leaves that out."""
    return {**_fixed(program, module), **example} if isinstance(example, Mapping) else example


def _fitted(specs: Sequence[InputSpec], arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return the arrays, cut or repeated along the axes whose sizes are not what is asked for."""
    sizes = {name: smallest(dim, above=1) for name, dim in named(specs).items()}
    for spec in specs:
        for dim, size in zip(spec.dims, arrays[spec.name].shape, strict=True):
            if dim.name in sizes and legal(dim, size):
                sizes[dim.name] = size
    wanted = shapes(specs, sizes)
    if all(array.shape == wanted[name] for name, array in arrays.items()):
        return arrays
    return probe(specs, sizes, arrays, None, 0)


def _with_graphs(weights: str, program: torch.export.ExportedProgram) -> str:
    """Return the sha256 over the digest of the weights, the graphs, their constants and the ranges."""
    hashed = hashlib.sha256(f"{weights} {program.range_constraints} {program.call_spec}".encode())
    for name, part in program.graph_module.named_modules():
        if isinstance(part, torch.fx.GraphModule):
            hashed.update(f"{name}\n{part.code}".encode())
    constants = program.constants.items()
    hash_tensors(hashed, ((name, value) for name, value in constants if isinstance(value, torch.Tensor)))
    return hashed.hexdigest()
