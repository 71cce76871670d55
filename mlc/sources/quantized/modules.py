"""Modules that quantize: observers at rest while they run, and forms that can be traced in the place of packed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from mlc.errors import SourceError, kind_of
from mlc.sources.quantized.kernels import is_packed, unpacked
from mlc.sources.quantized.nouns import Stored, parameters_of
from mlc.sources.quantized.rows import is_torchao, torchao_weight

EAGER = "torch.ao.nn.quantized"
"""Where torch's own quantized modules are defined."""

FAKES = ("FakeQuantize.forward", "FusedMovingAvgObsFakeQuantize.forward")
"""Those of torch and of torchao, which are alike."""

SHOWN = 3


def fakes(part: nn.Module) -> bool:
    """Whether a module quantizes and dequantizes at once, with an observer in it."""
    buffers = part._buffers  # noqa: SLF001 - asking the module is slow where it has none
    return "fake_quant_enabled" in buffers and "observer_enabled" in buffers


def observes(part: nn.Module) -> bool:
    """Whether a module only looks at what goes through it."""
    return hasattr(type(part), "calculate_qparams") and not fakes(part)


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """Let no observer look at anything inside the block: scales stay what they are."""
    with ExitStack() as stack:
        for part in module.modules():
            if fakes(part):
                stack.enter_context(_without_observer(part))
            elif observes(part):
                stack.enter_context(_instead(part, "forward", lambda value, *_: value))
        yield


@contextmanager
def _without_observer(part: nn.Module) -> Iterator[None]:
    enabled: Any = part.observer_enabled
    kept = enabled.clone()
    enabled.zero_()
    try:
        yield
    finally:
        enabled.copy_(kept)


@contextmanager
def _instead(part: nn.Module, key: str, value: Any) -> Iterator[None]:
    """Put another attribute of its own in the place of one of a module."""
    missing = object()
    kept = vars(part).get(key, missing)
    vars(part)[key] = value
    try:
        yield
    finally:
        if kept is missing:
            del vars(part)[key]
        else:
            vars(part)[key] = kept


def stored_in(module: nn.Module) -> Stored:
    """Return the quantized weights of a module that are no plain tensors, by what holds them."""
    stored = Stored()
    for path, part in module.named_modules():
        for key, value in [*part._parameters.items(), *part._buffers.items(), *vars(part).items()]:  # noqa: SLF001
            if is_packed(value) or is_torchao(value) or (isinstance(value, torch.Tensor) and value.is_quantized):
                stored.add(value, _weight_name(path, key))
    return stored


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter and buffer by name; of those that are no plain tensors the plain ones in them."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield from _plain(name, tensor)
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, torch.ScriptObject) and is_packed(value):
                told = unpacked(value, _weight_name(path, key))
                yield told.weight.name, told.weight.codes
                yield f"{told.weight.name}.scale", torch.as_tensor(told.weight.scale)
                yield f"{told.weight.name}.zero_point", torch.as_tensor(told.weight.zero)
                if told.bias is not None:
                    yield f"{path}.bias" if path else "bias", told.bias


def _plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if tensor.is_quantized:
        scale, zero, _ = parameters_of(tensor)
        yield name, tensor.int_repr()
        yield f"{name}.scale", torch.as_tensor(scale)
        yield f"{name}.zero_point", torch.as_tensor(zero)
    elif type(tensor) not in (torch.Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        for inner in tensor.__tensor_flatten__()[0]:
            yield from _plain(f"{name}.{inner}", getattr(tensor, inner))
    else:
        yield name, tensor


def _weight_name(path: str, key: str) -> str:
    """Return what a weight is called: torch hides it in ``_packed_params``, that of a linear layer in one more."""
    parts = [part for part in (*path.split("."), key) if part]
    named = [part for part in parts if not part.startswith("_packed")]
    return ".".join(named if len(named) == len(parts) else [*named, "weight"])


def check_quantized(module: nn.Module) -> tuple[str, ...]:
    """Return notes on the state of what quantizes. Raises SourceError for what cannot be taken over."""
    for path, part in module.named_modules():
        _check_kind(path, part)
        _check_seen(path, part)
        for value in vars(part).values():
            script = isinstance(part, torch.jit.ScriptModule)  # which is itself behind a ScriptObject
            if isinstance(value, torch.ScriptObject) and not script and not is_packed(value):
                raise SourceError(
                    f"the {type(part).__name__} {path} of torch keeps its weights in a form that has none in ONNX here",
                    "give the module before it is quantized, and ask for --to int8",
                )
        for key, tensor in part.named_parameters(recurse=False):
            if is_torchao(tensor):
                torchao_weight(tensor, f"{path}.{key}" if path else key)
    watching = [path for path, part in module.named_modules() if fakes(part) and bool(part.observer_enabled.any())]
    notes: tuple[str, ...] = ()
    if watching:
        notes += (f"the observers of {_shown(watching)} were at rest: scales are what they were when it was given",)
    only = [path for path, part in module.named_modules() if observes(part) and not _inside_fake(module, path)]
    if only:
        notes += (
            f"modules that only observe and quantize nothing: {_shown(only)}; convert the module for their scales",
        )
    return notes


def _inside_fake(module: nn.Module, path: str) -> bool:
    above = path.rpartition(".")[0]
    return fakes(module.get_submodule(above))


def _shown(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{', '.join(paths[:SHOWN])}{more}"


def _check_kind(path: str, part: nn.Module) -> None:
    """Raise SourceError for a module that quantizes in a way of its own."""
    kind = type(part)
    if kind.__module__.startswith("torchao.quantization.qat") and "FakeQuantizer" in kind.__name__:
        raise SourceError(
            f"{path} is prepared for quantization-aware training by torchao: it chooses its scales in every call",
            "convert the module first: quantize_(module, QATConfig(base_config, step='convert'))",
        )
    if fakes(part) and kind.forward.__qualname__ not in FAKES:
        raise SourceError(
            f"{path} is {kind_of(part)}, which quantizes in a way that has no form in ONNX here",
            "convert the module first, or put a FakeQuantize with its scale in its place",
        )


def _check_seen(path: str, part: Any) -> None:
    """Raise SourceError for a module that quantizes with the scale that it was made with: it has seen no data."""
    if not fakes(part) or not bool(part.fake_quant_enabled.any()):
        return
    observer = getattr(part, "activation_post_process", None)
    least, most = getattr(observer, "min_val", None), getattr(observer, "max_val", None)
    if not isinstance(least, torch.Tensor) or not isinstance(most, torch.Tensor):
        return
    untouched = bool((part.scale == 1).all()) and bool((part.zero_point == 0).all())
    if untouched and (least.numel() == 0 or bool(torch.isinf(least).any())):
        raise SourceError(
            f"{path} quantizes and has seen no data: its scale is the 1 that it was made with",
            "run the module on data with its observers enabled, or disable its fake quantization",
        )


@contextmanager
def traceable(module: nn.Module, stored: Stored) -> Iterator[Stored]:
    """Replace what torch.export cannot look into inside the block; gives what then holds the stored weights."""
    held = Stored()
    with ExitStack() as stack:
        stack.enter_context(parametrize.cached())
        for path, part in list(module.named_modules()):
            held.plain += _computed_once(path, part)
            form = _form(part)
            if form is not None:
                stack.enter_context(_instead(part, "forward", form))
            for key, value in list(vars(part).items()):
                if is_packed(value):
                    told = unpacked(value, stored.names[id(value)])
                    held.add(told, told.weight.name)
                    if told.bias is not None:
                        held.plain.append((told.bias, f"{told.weight.name.removesuffix('weight')}bias"))
                    stack.enter_context(_instead(part, key, told))
            stack.enter_context(_dense(part, stored, held))
        yield held


def _computed_once(path: str, part: nn.Module) -> list[tuple[torch.Tensor, str]]:
    """Return the weights that torch computes from others whenever they are asked for; inside its cache only once."""
    if not parametrize.is_parametrized(part):
        return []
    names: Any = part.parametrizations
    return [(getattr(part, name), f"{path}.{name}" if path else name) for name in names]


@contextmanager
def _dense(part: nn.Module, stored: Stored, held: Stored) -> Iterator[None]:
    """Put plain floats in the place of quantized buffers; they stand for the codes and are known by identity."""
    buffers: dict[str, Any] = part._buffers  # noqa: SLF001
    kept = dict(buffers.items())
    if not any(isinstance(tensor, torch.Tensor) and tensor.is_quantized for tensor in kept.values()):
        yield
        return
    with ExitStack() as stack:
        for key, tensor in kept.items():
            if isinstance(tensor, torch.Tensor) and tensor.is_quantized:
                plain = tensor.dequantize()
                held.add(plain, stored.names[id(tensor)])
                del buffers[key]
                stack.enter_context(_instead(part, key, plain))
        try:
            yield
        finally:
            buffers.clear()
            buffers.update(kept)


def _form(part: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the forward of a module that asks its buffers what to do, with the answers given beforehand."""
    if fakes(part):
        return _fake_form(part)
    if type(part).__module__.startswith(EAGER) and type(part).__name__ == "Quantize":
        scale, zero, dtype = float(part.scale), int(part.zero_point), part.dtype
        return lambda value: torch.quantize_per_tensor(value, scale, zero, dtype)
    return None


def _fake_form(part: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    if not bool(part.fake_quant_enabled.any()):
        return lambda value: value
    low, high = part.activation_post_process.quant_min, part.activation_post_process.quant_max
    if part.is_per_channel:
        return lambda value: torch.fake_quantize_per_channel_affine(
            value, part.scale, part.zero_point, part.ch_axis, low, high
        )
    return lambda value: torch.fake_quantize_per_tensor_affine(value, part.scale, part.zero_point, low, high)
