"""Run a module in evaluation mode and leave it as it was found."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from mlc.errors import SourceError
from mlc.sources.held import Seen, attributes, container, taken_in, within
from mlc.sources.quantized.modules import resting
from mlc.sources.torch.padded_encoder import without_fast_path

OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has: its parts, and its hooks, which forward may add too."""


@contextmanager
def frozen(module: nn.Module, changed: set[str] | None = None) -> Iterator[Snapshot]:
    """Set evaluation mode inside the block; afterwards everything about every submodule is as before.

    That is modes, buffers, attributes, what lists and dicts hold, and parameters that eval() changes. Observers of
    quantization rest meanwhile, and nothing is compiled. Names of buffers, tensors, numbers and containers that the
    block changed are added to ``changed``: state that an export loses. Raises SourceError for parts that eval() leaves
    in training mode.
    """
    noted = set() if changed is None else changed
    before = Snapshot(module)
    try:
        if in_training(module):
            before.spare_parameters()
            _evaluate(module)
            before.evaluated()
        with resting(module), without_fast_path(), _uncompiled():
            yield before
    finally:
        before.restore(noted)


class Snapshot:
    """What a module is like, and how to put it back.

    ``parameters`` hold copies meanwhile; beside each stands what it will hold again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = list(module.named_modules())
        self.modes = [(part, part.training) for _, part in self.parts]
        self.attributes = [(name, part, dict(vars(part))) for name, part in self.parts]
        self.running = {id(part): held for _, part, held in self.attributes}
        seen: Seen = {}
        own = {id(part) for _, part in self.parts}
        things = [
            (_path(name, key), key, one)
            for name, part in self.parts
            for key, value in vars(part).items()
            for one in (_reached(value, seen, own) if key in OWN else within(value, seen))
        ]
        self.containers = [
            (path, key, held, copied(held))
            for path, key, one in things
            for held in (one if container(one) else None, attributes(one))
            if held is not None
        ]
        self.buffers = [
            (_path(name, key), part, key, buffer, Kept(buffer))
            for name, part in self.parts
            for key, buffer in part.named_buffers(recurse=False)
        ]
        self.tensors = [(path, one, Kept(one)) for path, key, one in things if key not in OWN and _is_written(one)]
        self.parameters: list[tuple[nn.Parameter, torch.Tensor]] = []

    def spare_parameters(self) -> None:
        """Let modules that do something of their own on eval(), such as merging weights, do it to copies."""
        for _, part in self.parts:
            kind = type(part)
            if kind.train is nn.Module.train and kind.eval is nn.Module.eval:
                continue
            known = {id(parameter) for parameter, _ in self.parameters}
            for parameter in part.parameters():
                if id(parameter) not in known and type(parameter) is nn.Parameter:
                    self.parameters.append((parameter, parameter.data))
                    parameter.data = parameter.data.clone()

    def evaluated(self) -> None:
        """Remember what setting the mode changed: forward did not."""
        self.running = {id(part): dict(vars(part)) for _, part in self.parts}

    def restore(self, noted: set[str]) -> None:
        """Put everything back; adds the names of what was changed."""
        for parameter, data in self.parameters:
            parameter.data = data
        self._buffers(noted)
        self._tensors(noted)
        for name, part, own in self.attributes:
            noted |= {_path(name, key) for key in _changed(part, self.running[id(part)])}
            _put_back(part, own)
        for path, key, value, kept in self.containers:
            if not _same(value, kept):
                _refill(value, kept)
                if key not in OWN:
                    noted.add(path)
        for part, training in self.modes:
            if part.training is not training:
                part.training = training

    def _buffers(self, noted: set[str]) -> None:
        for path, part, key, buffer, kept in self.buffers:
            if getattr(part, key, None) is not buffer:
                noted.add(path)
                setattr(part, key, buffer)
            if kept.put_back(buffer):
                noted.add(path)

    def _tensors(self, noted: set[str]) -> None:
        noted |= {path for path, tensor, kept in self.tensors if kept.put_back(tensor)}


class Kept:
    """What a tensor held, and where: it may be given another's memory, shape or dtype as well as other numbers."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._data, self._values = tensor.data, tensor.detach().clone()

    def put_back(self, tensor: torch.Tensor) -> bool:
        """Give a tensor its own memory with its own numbers again; whether it had others."""
        own = self._data
        kinds = type(tensor.data) is type(own) and tensor.dtype == own.dtype and tensor.shape == own.shape
        strided = own.layout is torch.strided
        moved = not kinds or (strided and (tensor.data_ptr(), tensor.stride()) != (own.data_ptr(), own.stride()))
        with torch.no_grad():
            if moved:
                tensor.data = own
            if _equal(own, self._values):
                return moved
            own.copy_(self._values)
        return True


def _reached(value: object, seen: Seen, own: set[int]) -> Iterator[Any]:
    """Yield an attribute that every module has, and what its hooks collect what they see in: another module, maybe."""
    if container(value) is None:
        return
    yield value
    if isinstance(value, dict):
        for one in (one for hook in value.values() if callable(hook) for one in taken_in(hook)):
            other = isinstance(one, nn.Module) and id(one) not in own
            yield from within(vars(one) if other else one, seen)


def _is_written(value: object) -> bool:
    """Whether something is a tensor that a call may write into."""
    return (
        type(value) is torch.Tensor
        and value.layout is torch.strided
        and value.device.type != "meta"
        and not value.is_inference()
    )


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same, NaN for NaN."""
    return tensor.shape == other.shape and bool(((tensor == other) | ((tensor != tensor) & (other != other))).all())  # noqa: PLR0124


def copied(value: Any) -> Any:
    """Return a copy of one of Python's containers, by Python's own methods, whatever a subclass makes of them."""
    kind = container(value)
    if isinstance(value, dict):
        return dict(kind.items(value))
    return set(value) if kind is set else list(value)


def _same(value: Any, kept: Any) -> bool:
    if isinstance(value, dict):
        held = container(value).items(value)
        return len(held) == len(kept) and all(key in kept and kept[key] is part for key, part in held)
    if isinstance(value, set):
        return bool(value == kept)
    return len(value) == len(kept) and all(part is other for part, other in zip(value, kept, strict=True))


def _refill(value: Any, kept: Any) -> None:
    kind = container(value)
    kind.clear(value)
    if isinstance(value, dict):
        for key, one in kept.items():
            kind.__setitem__(value, key, one)
    elif kind is set:
        set.update(value, kept)
    else:
        kind.extend(value, kept)


def _changed(part: nn.Module, running: dict[str, object]) -> Iterator[str]:
    """Yield the attributes that hold another state than when forward was called."""
    now = vars(part)
    for key, value in now.items():
        if value is running.get(key) or key in OWN or key in _derived(part):
            continue
        if isinstance(value, torch.Tensor) if key not in running else _is_state(running[key], value):
            yield key
    yield from (key for key, value in running.items() if key not in now and isinstance(value, torch.Tensor))


def _put_back(part: nn.Module, before: dict[str, object]) -> None:
    now = vars(part)
    for key in [key for key in now if key not in before]:
        del now[key]
    now.update(before)


def _is_state(value: object, now: object) -> bool:
    """Whether an attribute that was replaced holds other numbers, tensors or parts than before."""
    if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor):
        return value.shape != now.shape or not torch.equal(value, now)
    if isinstance(value, numbers.Number) and isinstance(now, numbers.Number):
        return value != now
    if container(value) and type(value) is type(now):
        return not _same(value, now)
    return isinstance(value, numbers.Number | torch.Tensor) or isinstance(now, torch.Tensor)


def _derived(part: nn.Module) -> set[str]:
    """Return the attributes that torch's own hooks compute from parameters before every call."""
    hooks = part._forward_pre_hooks.values()  # noqa: SLF001
    names = {getattr(hook, "name", None) or getattr(hook, "_tensor_name", None) for hook in hooks}
    return {name for name in names if isinstance(name, str)}


def _path(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let what torch.compile was applied to run as it was written."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def in_training(module: nn.Module) -> list[str]:
    """Return the paths of the parts that are in training mode; one that torch.export made has none of its own."""
    made = [f"{path}." if path else "" for path, part in module.named_modules() if _made_by_export(part)]
    return [
        path
        for path, part in module.named_modules()
        if part.training and not any(f"{path}.".startswith(prefix) for prefix in made)
    ]


def _made_by_export(part: nn.Module) -> bool:
    """Whether a module refuses to be set into another mode: what a mode decides is written into its graph."""
    return isinstance(part, torch.fx.GraphModule) and "eval" in vars(part)


def _evaluate(module: nn.Module) -> None:
    """Set evaluation mode. Raises SourceError for parts that stay in training mode and compute otherwise there."""
    try:
        module.eval()
    except NotImplementedError:
        for part in module.modules():
            part.training = False
    for path in in_training(module):
        part = module.get_submodule(path)
        if isinstance(part, _BatchNorm) or (isinstance(part, _DropoutNd) and part.p > 0):
            raise SourceError(
                f"eval() of {type(module).__name__} leaves the {type(part).__name__} {path} in training mode".rstrip(),
                "let eval() reach it, since in training mode it computes otherwise for every batch",
            )


def check_graph_mode(graph: torch.fx.Graph) -> None:
    """Raise SourceError where an operator is written into a graph as it is in training: nothing can change it."""
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
        drops = "dropout" in schema.name and given.get("train") is True
        counts = "batch_norm" in schema.name and given.get("training") is True
        if drops or (counts and given.get("running_mean") is not None):
            raise SourceError(
                f"the program was exported in training mode: {schema.name} stands in it as it is in training",
                "export it again, from model.eval(); for quantization-aware training, call "
                "torchao.quantization.pt2e.move_exported_model_to_eval(model) before it is converted",
            )
