"""What follows from buffers and numbers alone: while a module is traced its values are known, and branches on them too.

torch.export keeps tensors apart from their values. A buffer's value is part of the model that is exported, so that
``if self.scale > 0`` and ``pad(x, (0, self.stride))`` ask nothing of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from mlc.errors import SourceError, foreign

LIMIT = 1024
"""Elements of the largest tensor whose values are followed: nobody branches on more."""

ASKING = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__format__", "item", "tolist", "is_nonzero", "equal", "allclose"}
)
"""Functions that give values to Python."""

MAKING = frozenset({torch.arange, torch.full, torch.ones, torch.tensor, torch.zeros})
"""Functions that make tensors of numbers alone."""

RANDOM = ("rand", "normal", "bernoulli", "dropout", "multinomial", "poisson", "empty")
"""What stands in the names of functions that give something else at each call."""

UNTOLD = "batch_norm"
"""What stands in the names of functions that write into a mean and a variance, which torch does not count."""

READING = frozenset({"__int__", "__index__", "__invert__", "__iter__"})
"""Functions that begin like ``__iadd__``, and write nothing."""


class UnknownError(Exception):
    """A value that depends on an input, or on a size that varies."""


class Known(TorchFunctionMode):
    """Follows the values of a module's buffers through a trace; ``values`` are those of its buffers by name."""

    def __init__(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        # with its value, and how often it was written into; it is held, since ids of what is gone come again
        self._known: dict[int, tuple[Tensor, Tensor, int]] = {}
        with _untraced():  # a copy, since a function that writes is called with it too
            copies = {name: value.detach().clone() for name, value in values.items() if _is_small(value)}
        for name, traced in module.named_buffers(remove_duplicate=False):
            if name in copies:
                self._learn(traced, copies[name])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer what asks for known values; follow all else."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]  # that of an operator ends in its overload
        if _writes(name) or kwargs.get("out") is not None:
            self._forget(_parts((args[:1] or kwargs, kwargs.get("out"))))
        elif UNTOLD in name:
            self._forget(_parts((args, kwargs)))
        elif not any(word in name for word in RANDOM):
            with suppress(UnknownError):
                real = self._values(args), self._values(kwargs)
                if func in MAKING or any(isinstance(part, Tensor) for part in _parts(real)):
                    return self._followed(func, args, kwargs, real)
        return func(*self._with_numbers(func, args), **kwargs)

    def _followed(self, func: Callable[..., Any], args: Any, kwargs: Any, real: tuple[Any, Any]) -> Any:
        """Call a function whose arguments are all known; its result is then known too."""
        try:
            with foreign("a function of known values"), _untraced():
                value = func(*real[0], **real[1])
        except SourceError as failed:
            raise UnknownError from failed  # the trace says what is wrong with the call, if anything is
        if getattr(func, "__name__", "") in ASKING:
            return value
        returned = func(*self._with_numbers(func, args), **kwargs)
        traced, found = list(_parts(returned)), list(_parts(value))
        if len(traced) == len(found):
            for one, other in zip(traced, found, strict=True):
                if isinstance(one, Tensor) and isinstance(other, Tensor) and _has_sizes(one, other.shape):
                    self._learn(one, other)
        return returned

    def _with_numbers(self, func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments with numbers for known tensors where torch would ask for their values: indices, paddings."""
        if func is Tensor.__getitem__ or func is functional.pad:
            return (args[0], self._numbers(args[1]), *args[2:])
        return args

    def _numbers(self, value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(self._numbers(part) for part in value)
        if isinstance(value, slice):
            return slice(*(self._numbers(part) for part in (value.start, value.stop, value.step)))
        found = self._value(value) if isinstance(value, Tensor) else None
        if found is None or found.ndim or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            return value
        return int(found)

    def _values(self, value: Any) -> Any:
        """Return arguments with their values in the place of what is traced. Raises UnknownError."""
        if isinstance(value, Tensor):
            found = self._value(value)
            if found is None:
                raise UnknownError
            return found
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise UnknownError
        if type(value) in (tuple, list):
            return type(value)(self._values(part) for part in value)
        if isinstance(value, dict):
            return {name: self._values(part) for name, part in value.items()}
        if isinstance(value, slice):
            return slice(*(self._values(part) for part in (value.start, value.stop, value.step)))
        return value

    def _value(self, traced: Tensor) -> Tensor | None:
        """Return the value of a tensor that is known, and was not written into since, under whatever name."""
        _, value, version = self._known.get(id(traced), (None, None, 0))
        return value if value is None or traced._version == version else None  # noqa: SLF001

    def _learn(self, traced: Tensor, value: Tensor) -> None:
        if _is_small(value) and not traced.is_inference():  # of which torch does not count the writes
            self._known[id(traced)] = (traced, value, traced._version)  # noqa: SLF001

    def _forget(self, written: Iterable[Any]) -> None:
        """Forget what shares its memory with tensors that are written into: torch counts no writes to ``.data``.

        Where that memory is cannot be told inside of vmap: all is forgotten then.
        """
        places = {_place(one) for one in written if isinstance(one, Tensor)}
        self._known = {key: known for key, known in self._known.items() if not places & {None, _place(known[0])}}


@contextmanager
def _untraced() -> Iterator[None]:
    """Compute with values inside the block, while a trace goes on around it."""
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():  # noqa: SLF001
        yield


def _is_small(value: Tensor) -> bool:
    """Whether the values of a tensor are few, and lie in memory as they are."""
    plain = type(value) in (Tensor, nn.Buffer) and value.layout is torch.strided and value.device.type != "meta"
    return plain and value.numel() <= LIMIT


def _writes(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in ("__setitem__", "__set__") or (name.startswith("__i") and name not in READING)


def _has_sizes(traced: Tensor, sizes: Sequence[int]) -> bool:
    """Whether a tensor has these sizes. One that varies or follows from values has no number to compare."""
    return all(isinstance(size, int) for size in traced.shape) and traced.shape == sizes


def _place(tensor: Tensor) -> int | None:
    """Return the memory that a tensor shares with its views; None for sparse ones, and those of vmap."""
    with suppress(NotImplementedError):
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - a traced one has no address
    return None


def _parts(value: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists and dicts hold."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)
    else:
        yield value
